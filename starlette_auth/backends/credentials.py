"""Which user do these credentials belong to? Asks the backends in order."""

from typing import Any

from starlette.requests import HTTPConnection

from ..core.awaiting import must_be_awaited
from ..core.events import Events, LoginFailed, clean_credentials
from ..core.exceptions import PermissionDenied
from ..http.scope import CLAIMED_USER, SCOPE_KEY, handle_refusals
from ..users.models import User
from .base import AuthenticationBackend


class ChecksCredentials:
    """Provides the method `authenticate` of `Auth`."""

    backends: list[AuthenticationBackend]
    events: Events

    @must_be_awaited
    async def authenticate(self, request: HTTPConnection | None = None, **credentials: Any) -> User | None:
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
                    return user
        except PermissionDenied:
            pass  # no further backend may be asked
        async with self.events.transaction(LoginFailed):
            claimed = request.scope.pop(CLAIMED_USER, None)
            credentials = clean_credentials(credentials)
            await self.events.emit(LoginFailed(credentials=credentials, request=request, user=claimed))
        return None
