"""Which user do these credentials, or this request, belong to?"""

from typing import Any, Generic, cast

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection

from ..core.arguments import describe
from ..core.awaiting import must_be_awaited
from ..core.events import Events, LoginFailed, clean_credentials
from ..core.exceptions import ImproperlyConfigured, PermissionDenied
from ..http.scope import CLAIMED_USER, SCOPE_KEY, handle_refusals
from ..users.models import U_co, User
from .base import AuthenticationBackend


class ChecksCredentials(Generic[U_co]):
    """Provides the methods of `Auth` that return the user of a request, in the class `user_class`."""

    backends: list[AuthenticationBackend]
    events: Events

    @must_be_awaited
    async def authenticate(self, request: HTTPConnection | None = None, **credentials: Any) -> U_co | None:
        """Returns the user who has these credentials, or None. Does not log the user in.

        The backends are asked in order, and the first that returns an active user decides. A backend that raises
        PermissionDenied ends the search. Raises Throttled after too many attempts, also without a request, as in a
        script: backends and listeners then get a request that has no client and no headers.
        """
        if request is None:
            scope = {"type": "http", "scheme": "https", "method": "GET", "path": "/", "headers": [], SCOPE_KEY: self}
            request = HTTPConnection(scope)
        handle_refusals(request.scope)
        try:
            for backend in self.backends:
                user = await backend.authenticate(request, **credentials) if backend.accepts(credentials) else None
                if user is not None and user.is_active:
                    user.backend = backend.path
                    return cast(U_co, user)
        except PermissionDenied:
            pass  # no further backend may be asked
        async with self.events.transaction(LoginFailed):
            claimed = request.scope.pop(CLAIMED_USER, None)
            credentials = clean_credentials(credentials)
            await self.events.emit(LoginFailed(credentials=credentials, request=request, user=claimed))
        return None

    def user(self, request: HTTPConnection) -> U_co:
        """Returns the logged-in user of a request. Raises HTTPException (401) if there is none.

        It is `request.user` with the type that `Auth(user_class=…)` names.
        """
        user = self.maybe_user(request)
        if user is not None:
            return user
        if request.scope["type"] == "websocket":
            raise WebSocketException(1008, "Log in first.")
        raise HTTPException(401, "Log in first, then send this request again.")

    def maybe_user(self, request: HTTPConnection) -> U_co | None:
        """Returns the logged-in user of a request, or None."""
        if not isinstance(request, HTTPConnection):
            raise TypeError(f"`request` must be a request, and this is {describe(request)}. Pass the request.")
        if request.scope.get(SCOPE_KEY) is not self:
            raise ImproperlyConfigured(
                "This request did not pass the AuthenticationMiddleware of this Auth. Pass middleware=middleware(auth) to your "
                "app, or call the methods of get_auth(request)."
            )
        return cast(U_co, request.user) if isinstance(request.user, User) else None
