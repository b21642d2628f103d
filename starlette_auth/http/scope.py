"""The keys that we store in an ASGI scope, and the path that a scope asks for."""

from collections.abc import Iterable, Sequence

from starlette.types import Scope

from ..core.exceptions import ImproperlyConfigured

SCOPE_KEY = "starlette_auth"
SCOPE_APP = "starlette_auth.app"
NEW_CSRF_SECRET = "starlette_auth.csrf"  # noqa: S105  a key of the scope
IDENTIFIED_BY = "starlette_auth.backend"
NEW_DEVICE = "starlette_auth.device"


def route_path(scope: Scope) -> str:
    """The path as the application's routes see it: without the root_path below which a server mounts it."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    return path[len(root) :] if root and path.startswith(root) else path


def parse_prefixes(exclude: Sequence[str]) -> tuple[str, ...]:
    """What a middleware is told to leave out, looked through: one mistake here would leave out everything."""
    if isinstance(exclude, str) or not all(prefix.startswith("/") and len(prefix) > 1 for prefix in exclude):
        raise ImproperlyConfigured('exclude is a list of paths, each with a slash in front. Pass exclude=("/static",).')
    return tuple(exclude)


def is_below(scope: Scope, prefixes: Iterable[str]) -> bool:
    """Whether the request asks for one of `prefixes`, or something under it: /static covers /static/a.css, not /statics."""
    path = route_path(scope)
    return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)
