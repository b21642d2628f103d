"""Paths: which one a request asks for, and to which a visitor may be sent."""

from collections.abc import Collection, Iterable, Sequence
from urllib.parse import quote, urlsplit, urlunsplit

from starlette.types import Scope

from .exceptions import ImproperlyConfigured
from .text import has_surrogate

MAX_URL_LENGTH = 2048
SAFE = "/:@!$&'()*+,;=-._~%"


def safe_url(url: str | None, *, default: str, allowed_hosts: Collection[str] = (), require_https: bool = False) -> str:
    """`url`, quoted anew, when it is a path of this site or an address on one of `allowed_hosts`; else `default`.

    Browsers read `\\` as `/`, drop tabs and line ends, and take `//host` for another site: anything doubtful is refused.
    """
    if not url or len(url) > MAX_URL_LENGTH:
        return default
    if "\\" in url or has_surrogate(url) or any(mark <= " " or mark == "\x7f" for mark in url):
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


def route_path(scope: Scope) -> str:
    """The path as the application's routes see it: without the root_path below which a server mounts it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root) else path


def path_prefixes(exclude: Sequence[str]) -> tuple[str, ...]:
    """What a middleware is told to leave out, looked through: one mistake here would leave out everything."""
    if isinstance(exclude, str) or not all(prefix.startswith("/") and len(prefix) > 1 for prefix in exclude):
        raise ImproperlyConfigured('exclude is a list of paths, each with a slash in front. Pass exclude=("/static",).')
    return tuple(exclude)


def is_below(scope: Scope, prefixes: Iterable[str]) -> bool:
    """Whether the request asks for one of `prefixes`, or something under it: /static covers /static/a.css, not /statics."""
    path = route_path(scope)
    return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)
