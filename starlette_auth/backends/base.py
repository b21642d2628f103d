"""The interface of an authentication backend."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection

from ..core.exceptions import PermissionDenied
from ..users.models import AnonymousUser, User


class AuthenticationBackend:
    """Base class of the authentication backends. Override the methods that your backend supports.

    The default methods identify no user, accept no credentials and grant no permission.
    """

    #: The name of the backend that a session stores at login; by default module and class name. In the sessions of a
    #: Django project it is an entry of AUTHENTICATION_BACKENDS. Set it, so that the class can be moved later.
    path = "starlette_auth.AuthenticationBackend"
    #: Whether a browser or proxy adds the credentials to every request (ambient authority), as with a proxy's header,
    #: HTTP Basic or a client certificate. An attacker's site can then make the browser send an authenticated request,
    #: which would act as the user. Therefore, with True, cross-site requests are refused even without a cookie.
    ambient = False
    #: Whether a user that `identify` returns is logged in to the session.
    persists_login = False
    #: Whether the class overrides `identify`; set automatically.
    identifies = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "path" not in vars(cls):
            cls.path = f"{cls.__module__}.{cls.__qualname__}"
        cls.identifies = cls.identify is not AuthenticationBackend.identify

    async def identify(self, conn: HTTPConnection) -> User | None:
        """Returns the user who makes this request; None if this backend does not identify one.

        An inactive user counts as None.
        """
        return None

    async def identify_again(self, conn: HTTPConnection, user: User) -> User | None:
        """Returns the user as of now of an open WebSocket or streamed response; None closes it.

        It is asked at least once a minute, and calls `identify` by default. Override it if `identify` accepts a
        credential only once, or counts something.
        """
        return await self.identify(conn)

    async def authenticate(self, conn: HTTPConnection, **credentials: Any) -> User | None:
        """Returns the user to whom the credentials belong; None if they are not valid for this backend.

        An inactive user counts as None. Raise PermissionDenied to refuse the credentials without trying further
        backends. An override can name the credentials that it accepts as parameters; it is then called only with
        credentials that fit its signature.
        """
        return None

    async def has_perm(self, user: User, perm: str, obj: object = None) -> bool:
        """Returns whether an active user has a permission, for one object if `obj` is given.

        Raise PermissionDenied to refuse it without asking further backends.
        """
        return False

    def accepts(self, credentials: Mapping[str, Any]) -> bool:
        """Returns whether the signature of `authenticate` accepts these credentials."""
        try:
            self._signature.bind(None, **credentials)
        except TypeError:
            return False
        return True

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.authenticate)


async def has_perm(
    backends: Sequence[AuthenticationBackend], user: User | AnonymousUser, perm: str, obj: object = None
) -> bool:
    """Returns whether any backend grants the permission, asking them in order.

    Returns False for an inactive or anonymous user, and True for a superuser.
    """
    if not user.is_active or not isinstance(user, User):
        return False
    if user.is_superuser:
        return True
    try:
        for backend in backends:
            if await backend.has_perm(user, perm, obj):
                return True
    except PermissionDenied:
        return False
    return False
