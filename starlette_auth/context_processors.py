"""Template variables: the user, permissions, CSRF tokens, URLs of the account pages."""

import functools
from typing import Any

from markupsafe import Markup
from starlette.requests import HTTPConnection
from starlette.types import Scope

from .auth import Auth, get_auth
from .core.templating import ASSET_HASHES
from .core.translation import current_language
from .http.urls import find_url_path, url_path_for
from .security.csrf_tokens import FIELD
from .users.models import AnonymousUser, User

ASSETS = {"auth_style": "auth.css", "auth_script": "auth.js"}  # files, by the names of their routes


def auth_context(request: HTTPConnection) -> dict[str, Any]:
    """Returns the variables for templates: `Jinja2Templates("templates", context_processors=[auth_context])`.

    They are `user`, `perms.app.codename`, `csrf_token`, `csrf_input` and more. `auth_url("login")` is the path of an
    account page. `auth_link("register")` is such a path too, or None if this site has no such page.
    """
    return template_context(get_auth(request), request)


def template_context(auth: Auth, request: HTTPConnection) -> dict[str, Any]:
    """Returns what `auth_context` returns, for callers that have the `Auth` already."""
    language = current_language()
    # A path that is excluded from sessions has no user, but its error pages show a header with the user's name.
    user = request.scope.get("user") or AnonymousUser()
    return {
        "request": request,
        "user": user,
        "account_name": auth.model_backend.login_name(user) if isinstance(user, User) else "",
        "perms": Perms(user),
        "csrf_token": LazyToken(request, as_input=False),
        "csrf_input": LazyToken(request, as_input=True),
        "auth_url": functools.partial(url_path_for, request.scope),
        "auth_link": functools.partial(auth.find_url, request),
        **_asset_urls(request.scope),
        "home": auth.login_redirect_url,
        "login_fields": auth.login_fields,
        "language": language.tag,
        "direction": language.direction,
        "site_name": auth.site_name,
    }


class Perms:
    """Checks permissions in templates: `perms.polls.add_vote`, `perms.polls`, `"polls.add_vote" in perms` (Django)."""

    def __init__(self, user: User | AnonymousUser, app_label: str = "") -> None:
        self._user = user
        self._app_label = app_label

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._user.has_perm(f"{self._app_label}.{name}") if self._app_label else Perms(self._user, name)

    def __contains__(self, name: str) -> bool:
        if self._app_label:
            raise TypeError(f"perms.{self._app_label} contains no names. Write perms.{self._app_label}.codename.")
        return self._user.has_perm(name) if "." in name else self._user.has_module_perms(name)

    def __bool__(self) -> bool:
        return bool(self._app_label) and self._user.has_module_perms(self._app_label)

    def __repr__(self) -> str:
        """Returns the permissions of the application, or whose permissions `perms` answers for."""
        if not self._app_label:
            return f"{type(self).__name__}(<{type(self._user).__name__}: {self._user}>)"
        names = sorted(self._user.get_all_permissions())
        return str([name for name in names if name.startswith(f"{self._app_label}.")])

    def __iter__(self) -> Any:
        raise TypeError("perms cannot be listed. Use perms.app.codename or user.get_all_permissions().")


def csrf_token(conn: HTTPConnection) -> str:
    """Returns a CSRF token for a form of this browser, a different text each time."""
    return get_auth(conn).csrf_tokens.token(conn)


def csrf_input(conn: HTTPConnection) -> Markup:
    """Returns the hidden form field that holds the CSRF token."""
    return Markup('<input type="hidden" name="{}" value="{}">').format(FIELD, csrf_token(conn))


class LazyToken:
    """Makes a CSRF token only when a template writes it, so that a page without a form sets no cookie."""

    def __init__(self, conn: HTTPConnection, *, as_input: bool) -> None:
        self.conn = conn
        self.as_input = as_input

    def __html__(self) -> str:
        return str(csrf_input(self.conn) if self.as_input else csrf_token(self.conn))

    __str__ = __html__


def _asset_urls(scope: Scope) -> dict[str, str | None]:
    """Returns the URLs of the style sheet and the script, which change with their content; None without our pages."""
    paths = {route: (find_url_path(scope, route), file) for route, file in ASSETS.items()}
    return {route: f"{path}?v={ASSET_HASHES[file]}" if path else None for route, (path, file) in paths.items()}
