"""The interface of an authentication backend."""

import functools
import inspect
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..users.models import AnonymousUser, User
from .ways import Way


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
    #: The scheme of the header Authorization from which `identify` reads a token, such as "Bearer" (RFC 9110 §11.1). A
    #: request with this scheme has no session, unless `session_key` finds its key: its cookie is not read, and it opens no
    #: account page.
    scheme = ""
    #: Whether a user that `identify` returns is logged in to the session.
    persists_login = False
    #: For how many seconds the session of a user keeps what `load_permissions` returned. With 0 it is loaded anew for
    #: each request. The session must be on the server; visitors and users without a session have their permissions
    #: loaded each time. A permission that is withdrawn elsewhere counts for that long.
    cache_permissions = 0
    #: Whether the class overrides `identify`, and whether it overrides `session_key`; set automatically.
    identifies = reads_sessions = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "path" not in vars(cls):
            cls.path = f"{cls.__module__}.{cls.__qualname__}"
        cls.identifies = cls.identify is not AuthenticationBackend.identify
        cls.reads_sessions = cls.session_key is not AuthenticationBackend.session_key

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

    def session_key(self, scope: Scope) -> str | None:
        """Returns the session key that a request sends in the header Authorization; None if there is none.

        It opens the session in place of a cookie. `scheme` must be set.
        """
        return None

    async def authenticate(self, conn: HTTPConnection, **credentials: Any) -> User | None:
        """Returns the user to whom the credentials belong; None if they are not valid for this backend.

        An inactive user counts as None. Raise PermissionDenied to refuse the credentials without trying further
        backends. An override can name the credentials that it accepts as parameters; it is then called only with
        credentials that fit its signature.
        """
        return None

    def permissions(self, user: User | AnonymousUser) -> Iterable[str]:
        """Returns permissions that the user has beside those in the database, as in `["polls.add_vote"]`.

        This and the following methods are also called for visitors (AnonymousUser) and inactive users, as in Django.
        An override decides what these may do, for example by `user.is_active`. This method is called at the first
        question about a user object. What takes time or waits belongs into `load_permissions`.
        """
        return ()

    async def load_permissions(self, conn: HTTPConnection | None, user: User | AnonymousUser) -> Iterable[str]:
        """Returns what `permissions` returns, for a backend that has to wait for it, such as a directory (LDAP).

        It is awaited once per request, when the user is identified, unless `cache_permissions` is set. Outside a
        request `conn` is None: the method is then awaited at the first `await auth.has_perm(…)` for a user object.
        """
        return ()

    def denies(self, user: User | AnonymousUser) -> Collection[str]:
        """Returns permissions that the user must not have, whatever grants them. Superusers keep them.

        It is called after `load_permissions` of the same backend, which may keep on `user` what it has loaded.
        """
        return ()

    async def has_perm(self, user: User | AnonymousUser, perm: str, obj: object = None) -> bool:
        """Returns whether this backend grants a permission, for one object if `obj` is given.

        Raise PermissionDenied to deny it, whatever grants it. `user.has_perm()`, templates and scopes ask without an
        object and cannot wait. Therefore begin an override that waits with `if obj is None: return False`, and
        contribute what does not depend on the object by the methods above.
        """
        return False

    def has_module_perms(self, user: User | AnonymousUser, app_label: str) -> bool:
        """Returns whether this backend grants any permission of an application.

        Override it only together with `has_perm`: the permissions of the other methods are known without it.
        """
        return False

    def describe(self) -> Sequence[Way]:
        """Returns the ways to log in that this backend adds, for `auth.describe()`."""
        return ()

    async def with_perm(self, perm: str) -> Iterable[User]:
        """Returns the users to whom this backend grants a permission, for `Users.with_perm`.

        Without an override, all users are read and asked about, which is slow for a large table. An override with a
        second parameter `obj` is also called for permissions on an object.
        """
        return ()

    def accepts(self, credentials: Mapping[str, Any]) -> bool:
        """Returns whether the signature of `authenticate` accepts these credentials."""
        return _fits(self._signature, None, **credentials)

    def lists_holders(self, *arguments: Any) -> bool:
        """Returns whether the signature of `with_perm` accepts these arguments: a permission, and perhaps an object."""
        return _fits(inspect.signature(self.with_perm), *arguments)

    @functools.cached_property
    def _signature(self) -> inspect.Signature:
        return inspect.signature(self.authenticate)


def token_schemes(backends: Iterable[AuthenticationBackend]) -> frozenset[str]:
    """Returns the schemes of the header Authorization from which the backends read tokens, in lower case."""
    return frozenset(backend.scheme.lower() for backend in backends if backend.scheme)


def has_token(schemes: frozenset[str], scope: Scope) -> bool:
    """Returns whether a request has a header Authorization with one of these schemes."""
    values = [value for name, value in scope["headers"] if name == b"authorization"]
    return any(value.decode("latin-1").strip().partition(" ")[0].lower() in schemes for value in values)


def session_key(readers: Sequence[AuthenticationBackend], scope: Scope) -> str | None:
    """Returns the session key that one of these backends finds in the header Authorization of a request."""
    keys = (backend.session_key(scope) for backend in readers)
    return next((key for key in keys if key is not None), None)


def _fits(signature: inspect.Signature, *args: Any, **credentials: Any) -> bool:
    try:
        signature.bind(*args, **credentials)
    except TypeError:
        return False
    return True


async def has_stored_perm(
    backend: AuthenticationBackend, user: User | AnonymousUser, perm: str, obj: object = None
) -> bool:
    """Returns whether the database grants a permission. It is the `has_perm` of ModelBackend.

    It is never called for `user.has_perm()`, because the permissions of the database count with any backends.
    """
    return obj is None and user.has_stored_perm(perm)
