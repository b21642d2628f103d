"""Which browser and system does a User-Agent header name?"""

from collections.abc import Sequence

# The first match counts. Most browsers also contain the token of Safari, and many that of Chrome.
BROWSERS = (
    (("Edg/", "EdgA/", "EdgiOS/"), "Edge"),
    (("OPR/", "OPT/", "Opera"), "Opera"),
    (("Firefox/", "FxiOS/"), "Firefox"),
    (("Chrome/", "CriOS/"), "Chrome"),
    (("Safari/",), "Safari"),
)
SYSTEMS = (
    (("Windows",), "Windows"),
    (("Android",), "Android"),
    (("iPhone",), "iPhone"),
    (("iPad",), "iPad"),
    (("Macintosh", "Mac OS X"), "macOS"),
    (("Linux", "X11"), "Linux"),
)


def describe_user_agent(user_agent: str) -> str:
    """Returns a readable description, such as "Firefox on Windows"; empty if nothing is recognised.

    Only names from these tables are returned, because an attacker can send any text in the header.
    """
    browser, system = _first(BROWSERS, user_agent[:500]), _first(SYSTEMS, user_agent[:500])
    return f"{browser} on {system}" if browser and system else browser or system


def _first(table: Sequence[tuple[tuple[str, ...], str]], text: str) -> str:
    return next((name for tokens, name in table if any(token in text for token in tokens)), "")
