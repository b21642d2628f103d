"""May a connection that is open already stay open? Identifies its user again and asks its guards again."""

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from starlette.exceptions import HTTPException, WebSocketException
from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..auth import Auth
from ..backends.request_user import set_user
from ..core.exceptions import PermissionDenied, Refused
from ..http.endpoints import required_scopes
from ..http.scope import IDENTIFIED_BY, IDENTIFIED_USER, IS_CHECK
from ..sessions.base import SessionBase
from ..sessions.open_websockets import ENDED
from ..users.models import AnonymousUser, User

Test = Callable[[HTTPConnection], Any]
REFUSED = "You may not do this any more."


async def revalidate(
    auth: Auth, scope: Scope, session: SessionBase, stored: SessionBase | None, tests: Iterable[Test]
) -> str | None:
    """Returns why a WebSocket or a streamed response must be closed; None if it may stay open.

    Sets `request.user` to the user as of now. `session` is the session of the connection, `stored` the same session as
    it is stored now, or None if the application has ended it in this connection. `tests` are those of the guards that
    the connection passed when it was opened.
    """
    session_user = backend_user = None
    if stored is not None and session.user_id is not None:
        session_user = await auth.session_backend.get_user(stored)
        if session_user is None or session_user.identity != session.user_id:
            return ENDED
    if scope.get("session") is not session:
        return None  # a mounted application has its own sessions and users, and checks them
    mark = {IS_CHECK: True, "session": session if stored is None else stored}
    if IDENTIFIED_USER in scope and scope["user"].is_authenticated:
        identified = scope[IDENTIFIED_USER]
        backend_user = await scope[IDENTIFIED_BY].identify_again(HTTPConnection({**scope, **mark}), identified)
        if backend_user is None or not backend_user.is_active or backend_user != identified:
            return ENDED
    user: Any = scope.get("user")
    # The backend comes first: the rights of a token may be fewer than those of its user. The application may have set
    # another user, or have logged out.
    current: Any = next((fresh for fresh in (backend_user, session_user) if fresh is not None and fresh == user), None)
    if isinstance(user, AnonymousUser) or (current is None and isinstance(user, User) and stored is None):
        current = AnonymousUser()
    if stored is not None and isinstance(current, User) and not await auth.session_backend.is_finished(stored, current):
        return ENDED  # the user needs a second factor by now, for example as a new member of the staff
    if current is not None:
        # Waits for what backends grant and deny, so that the user's own methods know it.
        await auth.backend_permissions.load(HTTPConnection({**scope, **mark}), current)
        set_user(scope, current)
    return None if await _passes(HTTPConnection({**scope, **mark}), tests) else REFUSED


async def _passes(conn: HTTPConnection, tests: Iterable[Test]) -> bool:
    """Returns whether the guards, and Starlette's `@requires`, would let the connection in now."""
    try:
        for test in tests:
            passed: Any = test(conn)
            if inspect.isawaitable(passed):
                passed = await passed
            if not passed:
                return False
    except HTTPException as error:
        if error.status_code >= 500:
            raise  # an outage is no refusal
        return False
    except (PermissionDenied, WebSocketException, Refused):
        return False
    return all(scope in conn.auth.scopes for scope in required_scopes(conn.scope))
