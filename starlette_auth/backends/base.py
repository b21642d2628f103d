"""The interface of an authentication backend."""

import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection

from ..core.exceptions import PermissionDenied
from ..users.models import AnonymousUser, User


class AuthenticationBackend:
    """One way of telling who somebody is. Override what you need; the rest says "not mine"."""

    #: The name under which a session stores which backend logged its user in; by default module and class. In the
    #: sessions of a Django project, one of AUTHENTICATION_BACKENDS. Set it, and the class can be moved later.
    path = "starlette_auth.AuthenticationBackend"
    #: Whether browsers send the credentials by themselves (a proxy's header, HTTP Basic, a client certificate): say
    #: True then, and requests from other sites are refused even where none of our cookies comes along.
    ambient = False
    #: Whether whom this backend identifies is logged in to the session.
    persists_login = False
    #: Whether it has an `identify` of its own, and is to be asked.
    identifies = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "path" not in vars(cls):
            cls.path = f"{cls.__module__}.{cls.__qualname__}"
        cls.identifies = cls.identify is not AuthenticationBackend.identify

    async def identify(self, conn: HTTPConnection) -> User | None:
        """Who is making this request? None: not somebody that this backend knows."""
        return None

    async def authenticate(self, conn: HTTPConnection, **credentials: Any) -> User | None:
        """Whose credentials are these? None: nobody's. PermissionDenied: nobody's, and no other backend is asked.

        A signature that names what it takes is only called with that.
        """
        return None

    async def has_perm(self, user: User, perm: str, obj: object = None) -> bool:
        """Whether an active user has a permission, on one object where one is given. PermissionDenied ends the search."""
        return False

    def accepts(self, credentials: Mapping[str, Any]) -> bool:
        """Whether `authenticate` has a name for each of them."""
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
    """Asks the backends in order. False for an inactive or anonymous user, True for a superuser."""
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
