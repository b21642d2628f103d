"""Listing and ending the sessions of a user."""

from typing import Literal

from starlette.requests import HTTPConnection

from ..core.events import Events, PasswordChanged, SessionEnded, SessionsEnded, UserDeactivated, UserDeleted
from ..core.exceptions import ImproperlyConfigured, TooManySessions
from ..security.tokens import Tokens
from ..sessions.base import SessionBase
from ..sessions.store import SessionStore
from ..users.models import User
from .session import SessionBackend, session_of

WhenFull = Literal["drop_oldest", "reject"]
AnyEnd = PasswordChanged | UserDeleted | UserDeactivated | SessionEnded | SessionsEnded


class UserSessions:
    """The same for pages, for code and for the command line: `auth.logins`.

    `max_sessions` is how many one user may have at a time. When there are so many, a new login ends the oldest, or,
    with `when_full="reject"`, is refused: TooManySessions, which answers 403.
    """

    def __init__(
        self,
        store: SessionStore,
        backend: SessionBackend,
        *,
        tokens: Tokens,
        events: Events,
        max_sessions: int | None = None,
        when_full: WhenFull = "drop_oldest",
    ) -> None:
        if when_full not in ("drop_oldest", "reject"):
            raise ImproperlyConfigured(f'when_full={when_full!r} is not known. Use "drop_oldest" or "reject".')
        if max_sessions is not None and (max_sessions < 1 or not store.supports_user_lookup):
            raise ImproperlyConfigured(
                "max_sessions begins at 1, and needs sessions on the server. Use DatabaseStore, RedisStore or CachedStore."
            )
        self.store = store
        self.backend = backend
        self.tokens = tokens
        self.gateway = tokens.gateway
        self.events = events
        self.max_sessions = max_sessions
        self.drop_oldest = when_full == "drop_oldest"

    def subscribe(self) -> None:
        """Ends sessions with what they rest upon."""
        self.events.on(PasswordChanged)(self._password_changed)
        self.events.on(UserDeleted)(self._user_deleted)
        self.events.on(UserDeactivated)(self._user_deactivated)
        self.events.on(PasswordChanged)(self._close_websockets)
        self.events.on(UserDeleted)(self._close_websockets)
        self.events.on(UserDeactivated)(self._close_websockets)
        self.events.on(SessionEnded)(self._close_websockets)
        self.events.on(SessionsEnded)(self._close_websockets)

    async def list(self, user: User) -> list[SessionBase]:
        """The sessions in which a user is logged in, that which was used last first; see their `record`.

        ImproperlyConfigured when they are kept in cookies: nobody knows those.
        """
        # Not with the user as it was before them: to an older password, newer sessions would seem to have ended.
        sessions = await self.store.list_sessions(user.identity)
        fresh = await self.backend.users.get(user.id)
        return [session for session in sessions if fresh is not None and self.backend.is_valid(session, fresh)]

    async def revoke(self, user: User, public_id: str, *, request: HTTPConnection | None = None) -> bool:
        """Ends one of a user's sessions; gives whether it was there. `request` says who wanted that."""
        async with self.gateway.atomic():
            was_there = await self.store.revoke(user.identity, public_id)
            if was_there:
                await self.events.emit(SessionEnded(user=user, public_id=public_id, request=request))
        return was_there

    async def revoke_all(
        self, user: User, *, keep: SessionBase | None = None, request: HTTPConnection | None = None
    ) -> int:
        """Ends a user's sessions, all but `keep`, and tells the user; gives the number."""
        async with self.gateway.atomic():
            number = await self.store.revoke_all(user.identity, keep=keep.public_id if keep is not None else "")
            if number:
                await self.events.emit(SessionsEnded(user=user, request=request))
        return number

    async def check_limit(self, user: User, here: SessionBase | None = None) -> None:
        """TooManySessions when a login of the user would be refused. The session from `here` would make room for it."""
        if self.max_sessions is not None and not self.drop_oldest:
            others = [
                session for session in await self.list(user) if here is None or session.public_id != here.public_id
            ]
            if len(others) >= self.max_sessions:
                raise TooManySessions(len(others))

    async def enforce_limit(self, user: User, session: SessionBase, *, may_refuse: bool = True) -> None:
        """Once a new session has been saved: of logins at the same time, too, no more remain than may be."""
        if self.max_sessions is None:
            return
        if may_refuse and not self.drop_oldest:
            if not await self.gateway.run_in_transaction(lambda: self._has_room(user, session)):
                raise TooManySessions(self.max_sessions)
            return
        sessions = await self.list(user)
        surplus = len(sessions) - self.max_sessions
        # By their names, on whose order all agree: two that begin in the same moment must not end each other.
        oldest_first = sorted(sessions, key=lambda session: session.public_id)
        for one in oldest_first[: max(0, surplus)]:
            await self.revoke(user, one.public_id)

    async def _has_room(self, user: User, session: SessionBase) -> bool:
        """Whether the session may stay. Asked one login at a time: of many at once, as many stay as may."""
        await self.tokens.lock(f"room {user.id}")
        if len(await self.list(user)) <= (self.max_sessions or 0):
            return True
        await self.store.delete(session.next_key)
        return False

    async def _password_changed(self, event: PasswordChanged) -> None:
        """What the old password began is void already; with a request, it is known what can go at once, too."""
        if event.request is not None and self.store.supports_user_lookup:
            session = session_of(event.request)
            is_theirs = session is not None and session.user_id == event.user.identity
            await self.store.revoke_all(
                event.user.identity, keep=session.public_id if session is not None and is_theirs else ""
            )

    async def _user_deleted(self, event: UserDeleted) -> None:
        """Rows of our own table go with the user's; what is kept elsewhere has to be told."""
        if self.store.supports_user_lookup and self.store.table is not self.backend.users.tables.session:
            await self.store.revoke_all(event.user.identity)

    async def _user_deactivated(self, event: UserDeactivated) -> None:
        if self.store.supports_user_lookup:
            await self.store.revoke_all(event.user.identity)

    async def _close_websockets(self, event: AnyEnd) -> None:
        self.gateway.on_commit(lambda: self.store.open_websockets.user_changed(event.user.identity))
