"""Keys of the ASGI scope that this package sets, and the path of a request."""

from collections.abc import Iterable, Sequence

from starlette.types import Scope

from ..core.arguments import as_texts
from ..core.exceptions import ImproperlyConfigured, Refused

SCOPE_KEY = "starlette_auth"
SCOPE_APP = "starlette_auth.app"
NEW_CSRF_SECRET = "starlette_auth.csrf"  # noqa: S105  a key of the scope
IDENTIFIED_BY = "starlette_auth.backend"
IDENTIFIED_USER = "starlette_auth.user"  # as IDENTIFIED_BY found it, if that is not the backend of the session
UNFINISHED_USER = "starlette_auth.unfinished"  # of a session whose login lacks a proof; `user` is anonymous then
NEW_DEVICE = "starlette_auth.device"
GUARDS = "starlette_auth.guards"  # the tests that the request has passed, for `revalidate`
GUARDED_OBJECTS = "starlette_auth.objects"  # what `requires(…, obj=load)` has loaded, by the id of `load`
IS_LOGGED = "starlette_auth.logged"  # the security log has a line about the refusal of this request
CLAIMED_USER = "starlette_auth.claimed"  # the user whose name was entered at a login
IS_STALE = "starlette_auth.stale"  # whether the CSRF token of the form is too old; the page then shows the form again
IS_REFUSED = "starlette_auth.refused"  # whether a response to the refused request is made
ANSWER = "starlette_auth.answer"  # the exception handler of Refused
FOR_PROGRAMS = "starlette_auth.for_programs"  # whether the route takes and returns JSON only
IS_CHECK = "starlette_auth.check"  # whether this is the check of a connection that is open already


def handle_refusals(scope: Scope) -> None:
    """Adds the handler of Refused to the running application, unless it has one.

    Each application, also a mounted one, has handlers, and would answer with the usual text or JSON of an HTTPException.
    Without an application, as in a bare Router, AuthenticationMiddleware answers.
    """
    handlers, _ = scope.get("starlette.exception_handlers", ({}, {}))
    if ANSWER in scope:
        handlers.setdefault(Refused, scope[ANSWER])


def route_path(scope: Scope) -> str:
    """Returns the path as the application's routes see it: without the root_path."""
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    # A proxy may have removed the root_path from the path already. Then "/app" is the root_path, but "/apple" a page.
    return path[len(root) :] if root and (path == root or path.startswith(root + "/")) else path


def full_path(scope: Scope) -> str:
    """Returns the decoded path that the browser requested, with a prefix that a proxy removed."""
    path, root = str(scope["path"]), str(scope.get("app_root_path", scope.get("root_path", "")))
    return path if path == root or path.startswith(root + "/") else root + path


def parse_prefixes(exclude: Sequence[str]) -> tuple[str, ...]:
    """Validates the setting `exclude` of a middleware and returns it as a tuple.

    A wrong prefix, such as "/" or "", would exclude every path. It raises ImproperlyConfigured.
    """
    prefixes = as_texts(exclude, "exclude", fix := 'Pass paths that start with a slash, as in exclude=("/static",).')
    if not all(prefix.startswith("/") and len(prefix) > 1 for prefix in prefixes):
        raise ImproperlyConfigured(f"exclude contains a text that is not a path. {fix}")
    return tuple(prefixes)


def is_below(scope: Scope, prefixes: Iterable[str]) -> bool:
    """Tells whether the requested path equals one of `prefixes` or is below it.

    "/static" covers /static/a.css, but not /statics.
    """
    path = route_path(scope)
    return any(path == prefix or path.startswith(prefix.rstrip("/") + "/") for prefix in prefixes)
