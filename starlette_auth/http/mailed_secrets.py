"""Is there a mailed secret in the path of a request? Keeping it out of logs."""

import re

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HIDDEN = "..."
# The links of this package's pages, below any mount. A secret has at least 39 characters; a line break in a mail may
# have cut some off.
SECRET = re.compile(
    r"(/reset/+[^/]+/+|/(?:register|email_change|email_undo)/+confirm/+)(.{20,})", re.IGNORECASE | re.DOTALL
)


def has_mailed_secret(scope: Scope) -> bool:
    """Returns whether the path contains the secret of a mailed link."""
    path = scope["path"].lower()
    # Substring tests first, because they are faster than the pattern: this runs for each request.
    return ("/confirm/" in path or "/reset/" in path) and SECRET.search(path) is not None


def mask_path(path: str) -> str:
    """Returns a path without the secret of a mailed link."""
    return SECRET.sub(rf"\1{HIDDEN}", path)


def set_logged_path(scope: Scope, path: str) -> None:
    """Replaces the path, which servers log when the response starts."""
    scope["path"], scope["raw_path"] = path, path.encode("utf-8", "replace")


async def call_without_secret(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Calls the application, and removes the secret of a mailed link from the path when the response starts.

    The page of a link removes its secret itself. A middleware or the router may answer before the page, with 403, 503
    or a redirect, and the secret would stand in the access log.
    """

    def mask() -> None:
        set_logged_path(scope, mask_path(scope["path"]))

    async def send_masked(message: Message) -> None:
        if message["type"] == "http.response.start":
            mask()
        await send(message)

    try:
        await app(scope, receive, send_masked)
    except BaseException:
        mask()  # a middleware in front of this one will answer
        raise
