"""What templates see: the user, permissions, CSRF tokens, URLs of our pages."""

from typing import Any

from markupsafe import Markup
from starlette.requests import HTTPConnection

from .auth import Auth, get_auth
from .core.templating import ASSET_HASHES
from .core.translation import current_language
from .security.csrf_tokens import FIELD
from .users.models import AnonymousUser, User

ASSET_ROUTES = {"auth.css": "auth_style", "auth.js": "auth_script"}  # files, and the names of their routes


def auth_context(request: HTTPConnection) -> dict[str, Any]:
    """What templates need: `Jinja2Templates("templates", context_processors=[auth_context])`.

    `user`, `perms.app.codename`, `csrf_token` and `csrf_input`, and `auth_url("login")` for the paths of our pages;
    `auth_link("register")` is the same, or None where there is no such page.
    """
    return template_context(get_auth(request), request)


def template_context(auth: Auth, request: HTTPConnection) -> dict[str, Any]:
    """Returns what `auth_context` returns, where the Auth is known."""
    language = current_language()
    # On a path that is excluded from sessions, an error page still has a header that asks who is there.
    user = request.scope.get("user") or AnonymousUser()
    return {
        "request": request,
        "user": user,
        "perms": Perms(user),
        "csrf_token": LazyToken(request, as_input=False),
        "csrf_input": LazyToken(request, as_input=True),
        "auth_url": lambda name, **params: auth.url_for(request, name, **params),
        "auth_link": lambda name: auth.find_url(request, name),
        "auth_style": _asset_url(auth, request, "auth.css"),
        "auth_script": _asset_url(auth, request, "auth.js"),
        "home": auth.login_redirect_url,
        "login_fields": auth.login_fields,
        "language": language.tag,
        "direction": language.direction,
        "site_name": auth.site_name,
    }


class Perms:
    """`perms.polls.add_vote`, `perms.polls` and `"polls.add_vote" in perms`, as in Django's templates."""

    def __init__(self, user: User | AnonymousUser, app_label: str = "") -> None:
        self._user = user
        self._app_label = app_label

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._user.has_perm(f"{self._app_label}.{name}") if self._app_label else Perms(self._user, name)

    def __contains__(self, name: str) -> bool:
        return self._user.has_perm(name) if "." in name else self._user.has_module_perms(name)

    def __bool__(self) -> bool:
        return bool(self._app_label) and self._user.has_module_perms(self._app_label)

    def __iter__(self) -> Any:
        raise TypeError("perms cannot be listed. Ask perms.app.codename, or user.get_all_permissions().")


def csrf_token(conn: HTTPConnection) -> str:
    """Returns a token for a form of this browser, a different text each time."""
    return get_auth(conn).csrf_tokens.token(conn)


def csrf_input(conn: HTTPConnection) -> Markup:
    """The hidden field for a form."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, csrf_token(conn))


class LazyToken:
    """In a template: made when it is written into the page, so that a page without a form sets no cookie."""

    def __init__(self, conn: HTTPConnection, *, as_input: bool) -> None:
        self.conn = conn
        self.as_input = as_input

    def __html__(self) -> str:
        return str(csrf_input(self.conn) if self.as_input else csrf_token(self.conn))

    __str__ = __html__


def _asset_url(auth: Auth, conn: HTTPConnection, name: str) -> str | None:
    """Returns the URL of "auth.css" or "auth.js", which changes with its content; None where our pages are not mounted."""
    url = auth.find_url(conn, ASSET_ROUTES[name])
    return f"{url}?v={ASSET_HASHES[name]}" if url else None
