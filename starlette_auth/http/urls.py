"""Which URLs may a redirect lead to, and what are the URLs of the pages?"""

import inspect
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from starlette.requests import HTTPConnection
from starlette.responses import RedirectResponse
from starlette.types import Scope

from ..core.arguments import as_texts, require_text
from ..core.exceptions import ImproperlyConfigured
from ..core.text import domain_to_ascii, has_lone_surrogate
from .endpoints import find_endpoint, find_route_path, routes_of
from .scope import FOR_PROGRAMS, SCOPE_APP, full_path

MAX_URL_LENGTH = 2048
JSON_SUFFIX = "_json"  # of the names of routes for programs
RESET_ROUTES = ("password_reset", "password_reset_json")
HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s/?#@\\:*\[\]]+)(:[0-9]{1,5})?")
ORIGIN = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://{HOST.pattern}/?")
PLAIN = r"[^\x00-\x20\x7f\ud800-\udfff]"  # a character other than blanks, control characters and surrogates
PAGE = re.compile(rf"(?!//|[a-zA-Z][\w+.-]*:){PLAIN}+|https?://{HOST.pattern}(?:[/?#]{PLAIN}*)?")
BASE_URL = re.compile(r"https?://[^\s/?#@\\]+/?")
DEFAULT_PORTS = {"http": 80, "https": 443}
SAFE_DECODED = "/:@!$&'()*+,;=-._~"
SAFE = f"{SAFE_DECODED}%"  # for text that is already quoted


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


def requested_path(scope: Scope) -> str:
    """Returns `requested_url` without the query string."""
    return requested_url({**scope, "query_string": b""})


def requested_url(scope: Scope) -> str:
    """Returns the quoted path and query string of a request, with one slash at the start.

    An attacker's page posts a form to "//evil.example/x" on this site. A page with the saved form would send it to
    evil.example, because browsers read such a path as a host; therefore the second slash is quoted. The quoted path
    leads to the endpoint of the original path.
    """
    query = scope.get("query_string", b"").decode("latin-1")
    path = _with_one_slash(quote(full_path(scope)))
    return (path if path.startswith("/") else f"/{path}") + (f"?{query}" if query else "")


def _with_one_slash(path: str) -> str:
    return f"/%2F{path[2:]}" if path.startswith("//") else path


def is_absolute(url: str) -> bool:
    """Returns whether a setting is an absolute URL, not the name of a route or a path."""
    return url.startswith(("https://", "http://"))


def parse_page(page: str, name: str) -> str:
    """Validates a setting that is the name of a route, a path or a URL, and returns it.

    Raises ImproperlyConfigured for a URL without a host and for a path that begins with two slashes.
    """
    fix = f'Pass the name of a route, a path or a URL, as in {name}="/login".'
    require_text(page, name, fix, may_be_empty=False)
    if not PAGE.fullmatch(page):
        raise ImproperlyConfigured(f"{name} is not the name of a route, a path or a URL. {fix}")
    return page


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
            # An attacker controls a page of one subdomain, which could send forms to this site; therefore each origin
            # is named.
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
    """Returns the path of the named route, with the prefixes of mounts and of a proxy in front.

    A `name` that starts with a slash is a path of the application; it gets the root_path, too. An absolute URL is
    returned unchanged. The route is looked up behind AuthenticationMiddleware, then in the outermost application, so
    that links between pages also work inside a mounted application.
    """
    if is_absolute(name):
        return name
    frames = list(_frames(scope))
    # An application that is mounted at "/{tenant:path}" has a root_path from the request, such as "//evil.example".
    if name.startswith("/"):
        return _with_one_slash(f"{quote(frames[0][1], SAFE_DECODED)}{name}")
    for app, root_path in frames:
        path = find_route_path(app, {**scope, "root_path": root_path}, name, params)
        if path is not None:
            return _with_one_slash(quote(root_path + path, SAFE_DECODED))
    raise ImproperlyConfigured(
        f'There is no route with the name {name!r}. Add Mount("/accounts", routes=routes(auth)) to your app, '
        'or pass the path of your own page, as in Auth(login_url="/login").'
    )


def _frames(scope: Scope) -> Iterator[tuple[Any, str]]:
    """Yields the applications whose routes may have a name, and the root_path of each."""
    inner, root_path = scope.get(SCOPE_APP, (None, scope.get("root_path", "")))
    outermost = scope.get("router", scope.get("app"))  # Starlette's names
    outermost_path = scope.get("app_root_path", scope.get("root_path", ""))
    if inner is not None:
        yield inner, root_path
    if inner is None or routes_of(inner) is not routes_of(outermost):
        yield outermost, outermost_path
    innermost = scope.get("app")
    if not any(routes_of(innermost) is routes_of(app) for app in (inner, outermost)):
        yield innermost, _root_of(innermost, scope)


def _root_of(app: Any, scope: Scope) -> str:
    """Returns the root_path of the application that a request is in.

    A middleware that is a function may hide the application from the search.
    """
    parts = str(scope.get("root_path", "")).split("/")
    for end in range(1, len(parts) + 1):
        root_path = "/".join(parts[:end])
        if find_endpoint(app, {**scope, "root_path": root_path}) is scope.get("endpoint"):
            return root_path
    return "/".join(parts)


def endpoint_of(scope: Scope, url: str) -> Any:
    """Returns the endpoint of a page of this site, or None. `url` is from `url_path_for`."""
    request = {**scope, "type": "http", "method": "GET", "path": unquote(urlsplit(url).path), "path_params": {}}
    for app, root_path in _frames(scope):
        endpoint = find_endpoint(app, {**request, "root_path": root_path})
        if endpoint is not None:
            return endpoint
    return None


def accepts_get(scope: Scope) -> bool:
    """Returns whether the routes have a page for a GET of the requested path."""
    request = {**scope, "type": "http", "method": "GET", "path": full_path(scope)}
    for app, root_path in _frames(scope):
        endpoint = find_endpoint(app, {**request, "root_path": root_path}, any_method=False)
        if endpoint is not None:
            return not inspect.isclass(endpoint) or hasattr(endpoint, "get")
    return False


def connection_to(app: Any) -> HTTPConnection:
    """Returns a connection without a request, for making links to the pages of `app`."""
    if app is None:
        raise ImproperlyConfigured(
            "The link needs the application that has the account pages. Pass request=request, app=app, or "
            "lifespan=lifespan(auth) to your app."
        )
    scope = {"type": "http", "method": "GET", "path": "/", "root_path": "", "query_string": b"", "headers": []}
    return HTTPConnection({**scope, "app": app})


def find_url_path(scope: Scope, name: str, **params: Any) -> str | None:
    """Returns the path of the route with this name, or None if the application has no such route."""
    try:
        return url_path_for(scope, name, **params)
    except ImproperlyConfigured:
        return None


def brings_json_only(scope: Scope) -> bool:
    """Returns whether the account pages take and return JSON only, as `routes(auth, pages=False)` brings them."""
    return find_url_path(scope, f"login{JSON_SUFFIX}") is not None


def next_path(scope: Scope, name: str, **params: Any) -> str:
    """Returns the path of the page that follows an account page; "" for a program whose site has no such page."""
    try:
        return url_path_for(scope, name, **params)
    except ImproperlyConfigured:
        if FOR_PROGRAMS in scope:
            return ""
        raise


def with_query(url: str, field: str, value: str | None) -> str:
    """Returns a URL whose parameter `field` has this value. None and "" leave the URL as it is."""
    if not value:
        return url
    parts = urlsplit(url)
    pairs = [pair for pair in parse_qsl(parts.query, keep_blank_values=True) if pair[0] != field]
    return urlunsplit(parts._replace(query=urlencode([*pairs, (field, value)])))


def redirect(conn: HTTPConnection, name: str, **params: Any) -> RedirectResponse:
    """Returns a redirect (303) to the page of the named route."""
    return RedirectResponse(next_path(conn.scope, name, **params), status_code=303)
