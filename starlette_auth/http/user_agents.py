"""Which browser and system does a User-Agent header name?"""

from collections.abc import Sequence

# The first that is found decides: most browsers claim to be Safari, and many to be Chrome.
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
    """ "Firefox on Windows", for people to read; empty for what is not known: the sender may have written anything."""
    browser, system = _first(BROWSERS, user_agent[:500]), _first(SYSTEMS, user_agent[:500])
    return f"{browser} on {system}" if browser and system else browser or system


def _first(table: Sequence[tuple[tuple[str, ...], str]], text: str) -> str:
    return next((name for marks, name in table if any(mark in text for mark in marks)), "")
