"""What a request says about its user: `request.user` and `request.auth`."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from starlette.authentication import AuthCredentials
from starlette.types import Scope

from ..sessions.records import USER_ID
from ..users.models import AnonymousUser, User
from .login_methods import LoginMethod, is_phishing_resistant, level_of, methods_in


class Credentials(AuthCredentials):
    """Holds the scopes of a user, and by what the user logged in. It is the value of `request.auth`."""

    def __init__(self, user: User | AnonymousUser, session: Mapping[str, Any] | None = None) -> None:
        self._user, self._session = user, session

    @cached_property
    def scopes(self) -> "Scopes":  # type: ignore[override]
        return Scopes(self._user, self)

    @property
    def methods(self) -> tuple[LoginMethod, ...]:
        """The methods of the login, oldest first, such as `("password", 1795781171)`.

        None for a user whom something else than the session identified, such as an API token.
        """
        session = self._session
        if session is None or not self._user.is_authenticated or session.get(USER_ID) != self._user.identity:
            return ()
        return methods_in(session)

    @property
    def level(self) -> int:
        """2 after a login with a second factor or a passkey, 1 after another login, 0 without a login."""
        return level_of(self.methods)


class Scopes(list[str]):
    """Lists the scopes for Starlette's `@requires`: "authenticated", "staff", "superuser", and all permissions.

    "level2" and "phishing_resistant" are those of a login with a second factor, and with a passkey or a security key.
    """

    def __init__(self, user: User | AnonymousUser, credentials: Credentials | None = None) -> None:
        self.user = user
        if user.is_authenticated:
            self.append("authenticated")
        if user.is_active and user.is_staff:
            self.append("staff")
        if user.is_active and user.is_superuser:
            self.append("superuser")
        if credentials is not None and credentials.level >= 2:
            self.append("level2")
        if credentials is not None and is_phishing_resistant(credentials.methods):
            self.append("phishing_resistant")

    def __contains__(self, scope: object) -> bool:
        # Permissions are looked up on demand: a list for each request would be slower.
        return super().__contains__(scope) or (isinstance(scope, str) and "." in scope and self.user.has_perm(scope))

    def __iter__(self) -> Iterator[str]:
        yield from super().__iter__()
        yield from sorted(self.user.get_all_permissions())


def set_user(scope: Scope, user: User | AnonymousUser) -> None:
    """Sets `request.user` and `request.auth`."""
    session = scope["session"] if user.is_authenticated and "session" in scope else None
    scope["user"], scope["auth"] = user, Credentials(user, session)
