"""Redirects browsers from http://127.0.0.1 to http://localhost: passkeys belong to a name, and an address can have none."""

from urllib.parse import urlsplit

from starlette.datastructures import URL, Headers
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from starlette_auth.http.urls import requested_url

NAME = "localhost"
ADDRESSES = ("127.0.0.1", "::1")


class LocalhostMiddleware:
    """Redirects GET and HEAD requests for an address of this machine to the name localhost, if it is that of `base_url`.

    A browser keeps cookies and passkeys of the two apart. `exclude` names paths that load balancers ask for by address.
    """

    def __init__(self, app: ASGIApp, *, base_url: str, exclude: tuple[str, ...] = ()) -> None:
        self.app, self.exclude = app, exclude
        self.is_local = urlsplit(base_url).hostname == NAME

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and scope["path"] not in self.exclude
        url = self._local_url(scope) if self.is_local and is_page else None
        await (RedirectResponse(url) if url else self.app)(scope, receive, send)

    @staticmethod
    def _local_url(scope: Scope) -> str | None:
        try:
            host = URL(f"http://{Headers(scope=scope).get('host', '')}")
            if host.hostname not in ADDRESSES:
                return None
            name = NAME if host.port is None else f"{NAME}:{host.port}"
        except ValueError:  # "[::", or a port that is no number
            return None
        return f"{scope['scheme']}://{name}{requested_url(scope)}"
