"""What templates are told."""

from typing import Any

from starlette.requests import HTTPConnection

from .auth import get_auth
from .csrf_tokens import LazyToken
from .models import AnonymousUser, User
from .translation import current_language


def auth_context(request: HTTPConnection) -> dict[str, Any]:
    """What templates need: `Jinja2Templates("templates", context_processors=[auth_context])`.

    `user`, `perms.app.codename`, `csrf_token` and `csrf_input`, and `auth_url("login")` for the paths of our pages;
    `auth_link("register")` is the same, or None where there is no such page.
    """
    auth = get_auth(request)
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
        "auth_link": lambda name: auth.link_for(request, name),
        "auth_style": auth.asset_url(request, "auth.css"),
        "auth_script": auth.asset_url(request, "auth.js"),
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
