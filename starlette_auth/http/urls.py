"""Which URLs may a visitor be redirected to, and where are our pages?"""

from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.routing import NoMatchFound
from starlette.types import Scope

from ..core.exceptions import ImproperlyConfigured
from ..core.text import has_lone_surrogate
from .scope import SCOPE_APP

MAX_URL_LENGTH = 2048
SAFE = "/:@!$&'()*+,;=-._~%"


def safe_url(url: str | None, *, default: str, allowed_hosts: Collection[str] = (), require_https: bool = False) -> str:
    """`url`, quoted anew, when it is a path of this site or an address on one of `allowed_hosts`; else `default`.

    Browsers read `\\` as `/`, drop tabs and line ends, and take `//host` for another site: anything doubtful is refused.
    """
    if not url or len(url) > MAX_URL_LENGTH:
        return default
    if "\\" in url or has_lone_surrogate(url) or any(mark <= " " or mark == "\x7f" for mark in url):
        return default
    try:
        parts = urlsplit(url)
        host, has_user = parts.netloc.lower(), "@" in parts.netloc
    except ValueError:
        return default
    if host or parts.scheme:
        schemes = ("https",) if require_https else ("http", "https")
        if parts.scheme not in schemes or has_user or host not in {allowed.lower() for allowed in allowed_hosts}:
            return default
    elif url.startswith("//") or not url.startswith("/"):
        return default
    path, query, fragment = (
        quote(parts.path, SAFE),
        quote(parts.query, SAFE + "?"),
        quote(parts.fragment, SAFE + "?"),
    )
    return urlunsplit((parts.scheme, host, path, query, fragment))


def requested_url(scope: Scope) -> str:
    """Returns the path and query that a request asks for, quoted."""
    query = scope.get("query_string", b"").decode("latin-1")
    return quote(scope["path"]) + (f"?{query}" if query else "")


def parse_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Returns the setting `next_hosts`, checked."""
    if isinstance(hosts, str) or not all(hosts):
        raise ImproperlyConfigured('next_hosts is a list of hosts. Pass next_hosts=["shop.example"].')
    return tuple(hosts)


def parse_origins(origins: Sequence[str]) -> frozenset[str]:
    """Returns the setting `trusted_origins`, checked and in lower case."""
    if isinstance(origins, str) or not all("://" in origin for origin in origins):
        raise ImproperlyConfigured('trusted_origins is a list. Pass trusted_origins=["https://shop.example"].')
    return frozenset(origin.rstrip("/").lower() for origin in origins)


def url_path_for(scope: Scope, name: str, **params: Any) -> str:
    """Returns the path of the route with this name, or of a path of the application, behind its root_path.

    The outermost application is asked, so that the pages of a mounted application find each other too.
    """
    app, root_path = scope.get(SCOPE_APP, (scope.get("app"), scope.get("root_path", "")))
    if name.startswith("/"):
        return f"{root_path}{name}"
    try:
        return f"{root_path}{app.url_path_for(name, **params)}"
    except (NoMatchFound, AttributeError) as error:
        raise ImproperlyConfigured(
            f'No route is called {name!r}. Add Mount("/accounts", routes=routes(auth)) to your app, '
            'or pass the path of your own page, as in Auth(login_url="/login").'
        ) from error


def redirect(conn: HTTPConnection, name: str, **params: Any) -> RedirectResponse:
    """Returns a redirect to the page whose route has this name."""
    return RedirectResponse(url_path_for(conn.scope, name, **params), status_code=303)
