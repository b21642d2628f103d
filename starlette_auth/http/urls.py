"""Which URLs may a redirect lead to, and what are the URLs of the pages?"""

import re
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.routing import NoMatchFound
from starlette.types import Scope

from ..core.arguments import as_texts, require_text
from ..core.exceptions import ImproperlyConfigured
from ..core.text import domain_to_ascii, has_lone_surrogate
from .cookies import Cookie
from .scope import SCOPE_APP

MAX_URL_LENGTH = 2048
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#@\\:*\[\]]+)(:[0-9]{1,5})?")
ORIGIN = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://{HOST.pattern}/?")
BASE_URL = re.compile(r"https?://[^\s/?#@\\]+/?")
DEFAULT_PORTS = {"http": 80, "https": 443}
SAFE = "/:@!$&'()*+,;=-._~%"


def safe_url(url: str | None, *, default: str, allowed_hosts: Collection[str] = (), require_https: bool = False) -> str:
    """Returns `url`, quoted, if it leads to this site or to one of `allowed_hosts`; otherwise `default`.

    An attacker could send a victim a link to the login page that redirects to another site afterwards (open redirect).
    Browsers read `\\` as `/`, drop tabs and line breaks, and resolve `//host` to another site. Therefore such URLs are
    rejected, and so are URLs that are not plain.
    """
    if not url or len(url) > MAX_URL_LENGTH:
        return default
    if "\\" in url or has_lone_surrogate(url) or any(character <= " " or character == "\x7f" for character in url):
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


class RedirectTargets:
    """Decides where a login or a logout may redirect to: this site, or one of `allowed_hosts`.

    An attacker could send a victim a link to our login page that leads to the attacker's site afterwards. Therefore
    every URL from a request passes here. `default` is the name of a route, or a path.
    """

    def __init__(self, *, allowed_hosts: Sequence[str], default: str, cookie: Cookie) -> None:
        self.allowed_hosts = parse_hosts(allowed_hosts)
        self.default = default
        self.cookie = cookie

    def choose(self, scope: Scope, url: str | None, default: str = "") -> str:
        """Returns `url` if it is allowed, or else the URL of `default`: the name of a route, or a path."""
        fallback = url_path_for(scope, default or self.default)
        secure = self.cookie.is_secure(scope)
        return safe_url(url, default=fallback, allowed_hosts=self.allowed_hosts, require_https=secure)


def requested_url(scope: Scope) -> str:
    """Returns the path and query string of a request, quoted, with one slash at the start.

    An attacker posts a form to "//evil.example/x" on this site. A page would send that form again to another site,
    because browsers read this path as a host. Therefore the second slash is quoted; the path stays the same one.
    """
    query = scope.get("query_string", b"").decode("latin-1")
    path = _with_one_slash(quote(scope["path"]))
    return (path if path.startswith("/") else f"/{path}") + (f"?{query}" if query else "")


def _with_one_slash(path: str) -> str:
    return f"/%2F{path[2:]}" if path.startswith("//") else path


def parse_hosts(hosts: Sequence[str]) -> tuple[str, ...]:
    """Validates the setting `next_hosts` and returns it as a tuple."""
    names = as_texts(hosts, "next_hosts", fix := 'Pass hosts, with the port if it is another, as in ["shop.example"].')
    for name in names:
        # A wildcard counts only in the header Content-Security-Policy, which allows the redirect after a form.
        if not HOST.fullmatch(name.removeprefix("*.")):
            raise ImproperlyConfigured(f"next_hosts contains {name!r}, which is not a host. {fix}")
    return tuple(names)


def parse_origins(origins: Sequence[str]) -> frozenset[str]:
    """Validates the setting `trusted_origins` and returns it as browsers write origins."""
    names = as_texts(origins, "trusted_origins", fix := 'Name each origin, as in ["https://shop.example"].')
    for name in names:
        if "*" in name:
            # Every page of a subdomain, also one that an attacker controls, could otherwise send forms to this site.
            raise ImproperlyConfigured(f"trusted_origins contains {name!r}, but wildcards are not supported. {fix}")
        if not ORIGIN.fullmatch(name):
            raise ImproperlyConfigured(
                f"trusted_origins contains {name!r}, which is not an origin: a scheme and a host, without a path. {fix}"
            )
    return frozenset(normalize_origin(name) for name in names)


def parse_base_url(base_url: str) -> str:
    """Validates the setting `base_url` and returns it without a slash at the end."""
    require_text(base_url, "base_url", 'Pass base_url="https://shop.example".')
    try:
        parts = urlsplit(base_url)
        host, port, rest = parts.hostname or "", parts.port, parts.path.strip("/") + parts.query + parts.fragment
    except ValueError:
        host, port, rest = "", None, ""
    address = f"[{host}]" if ":" in host else host
    if not host or rest or not BASE_URL.fullmatch(base_url) or parts.scheme not in ("http", "https"):
        raise ImproperlyConfigured(
            'base_url is not a scheme and host. Pass base_url="https://shop.example", without a path, user or password.'
        )
    return f"{parts.scheme}://{address}" + (f":{port}" if port else "")


def normalize_origin(url: str) -> str:
    """Returns the origin of a URL as browsers write it (RFC 6454 §6.2); text that is not a URL in lower case.

    The domain is in ASCII and in lower case, and the default port of http and https is left out.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return url.lower()
    if not host:
        return url.lower()
    address = f"[{host}]" if ":" in host else domain_to_ascii(host)
    return f"{parts.scheme}://{address}" + (f":{port}" if port and port != DEFAULT_PORTS.get(parts.scheme) else "")


def url_path_for(scope: Scope, name: str, **params: Any) -> str:
    """Returns the path of the named route, with the application's root_path in front.

    A `name` that starts with a slash is a path of the application; it gets the root_path, too. Routes are looked up in
    the outermost application, so links between pages also work inside a mounted application.
    """
    app, root_path = scope.get(SCOPE_APP, (scope.get("app"), scope.get("root_path", "")))
    # An application that is mounted at "/{tenant:path}" has a root_path from the request, such as "//evil.example".
    root_path = quote(root_path, SAFE)
    if name.startswith("/"):
        return _with_one_slash(f"{root_path}{name}")
    try:
        return _with_one_slash(f"{root_path}{app.url_path_for(name, **params)}")
    except (NoMatchFound, AttributeError) as error:
        raise ImproperlyConfigured(
            f'There is no route with the name {name!r}. Add Mount("/accounts", routes=routes(auth)) to your app, '
            'or pass the path of your own page, as in Auth(login_url="/login").'
        ) from error


def connection_to(app: Any) -> HTTPConnection:
    """Returns a connection without a request, for which links to the pages of `app` can be made."""
    if app is None:
        raise ImproperlyConfigured(
            "The link needs the application that has the account pages. Pass request=request, app=app, or "
            "lifespan=lifespan(auth) to your app."
        )
    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "query_string": b"", "headers": []}
    return HTTPConnection({**scope, "app": app})


def find_url_path(scope: Scope, name: str) -> str | None:
    """Returns the path of the route with this name, or None if the application has no such route."""
    try:
        return url_path_for(scope, name)
    except ImproperlyConfigured:
        return None


def redirect(conn: HTTPConnection, name: str, **params: Any) -> RedirectResponse:
    """Returns a redirect (303) to the page of the named route."""
    return RedirectResponse(url_path_for(conn.scope, name, **params), status_code=303)
