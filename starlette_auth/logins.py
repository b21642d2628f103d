"""Where users are logged in, and how that ends."""

from starlette.requests import HTTPConnection

from .backends import SessionBackend, session_of
from .events import Events, PasswordChanged, SessionEnded, SessionsEnded, UserDeactivated, UserDeleted
from .exceptions import ImproperlyConfigured, TooManySessions
from .models import User
from .sessions.base import SessionBase
from .sessions.store import SessionStore
from .tokens import Tokens

AnyEnd = PasswordChanged | UserDeleted | UserDeactivated | SessionEnded | SessionsEnded


class Logins:
    """The same for pages, for code and for the command line: `auth.logins`.

    `max_sessions` is how many one user may have at a time. When there are so many, a new login ends the oldest, or,
    with `drop_oldest=False`, is refused: TooManySessions, which answers 403.
    """

    def __init__(
        self,
        store: SessionStore,
        backend: SessionBackend,
        *,
        tokens: Tokens,
        events: Events,
        max_sessions: int | None = None,
        drop_oldest: bool = True,
    ) -> None:
        if max_sessions is not None and (max_sessions < 1 or not store.knows_users):
            raise ImproperlyConfigured(
                "max_sessions begins at 1, and needs sessions on the server. Use DatabaseStore, RedisStore or CachedStore."
            )
        self.store = store
        self.backend = backend
        self.tokens = tokens
        self.gateway = tokens.gateway
        self.events = events
        self.max_sessions = max_sessions
        self.drop_oldest = drop_oldest

    def attach(self) -> None:
        """Ends sessions with what they rest upon."""
        self.events.on(PasswordChanged)(self._password_changed)
        self.events.on(UserDeleted)(self._user_deleted)
        self.events.on(UserDeactivated)(self._user_deactivated)
        self.events.on(PasswordChanged)(self._close_sockets)
        self.events.on(UserDeleted)(self._close_sockets)
        self.events.on(UserDeactivated)(self._close_sockets)
        self.events.on(SessionEnded)(self._close_sockets)
        self.events.on(SessionsEnded)(self._close_sockets)

    async def of(self, user: User) -> list[SessionBase]:
        """The sessions in which a user is logged in, that which was used last first; see their `record`.

        ImproperlyConfigured when they are kept in cookies: nobody knows those.
        """
        # Not with the user as it was before them: to an older password, newer sessions would seem to have ended.
        sessions = await self.store.sessions_of(user.identity)
        fresh = await self.backend.users.get(user.id)
        return [session for session in sessions if fresh is not None and self.backend.lets_in(session, fresh)]

    async def end(self, user: User, public_id: str, *, request: HTTPConnection | None = None) -> bool:
        """Ends one of a user's sessions; gives whether it was there. `request` says who wanted that."""
        async with self.gateway.atomic():
            was_there = await self.store.revoke(user.identity, public_id)
            if was_there:
                await self.events.emit(SessionEnded(user=user, public_id=public_id, request=request))
        return was_there

    async def end_all(
        self, user: User, *, keep: SessionBase | None = None, request: HTTPConnection | None = None
    ) -> int:
        """Ends a user's sessions, all but `keep`, and tells the user; gives the number."""
        async with self.gateway.atomic():
            number = await self.store.revoke_all(user.identity, keep=_name_of(keep))
            if number:
                await self.events.emit(SessionsEnded(user=user, request=request))
        return number

    async def require_room(self, user: User, here: SessionBase | None = None) -> None:
        """TooManySessions when a login of the user would be refused. The session from `here` would make room for it."""
        if self.max_sessions is not None and not self.drop_oldest:
            others = [session for session in await self.of(user) if _name_of(session) != _name_of(here)]
            if len(others) >= self.max_sessions:
                raise TooManySessions(len(others))

    async def make_room(self, user: User, session: SessionBase, *, may_refuse: bool = True) -> None:
        """Once a new session has been saved: of logins at the same time, too, no more remain than may be."""
        if self.max_sessions is None:
            return
        if may_refuse and not self.drop_oldest:
            if not await self.gateway.in_transaction(lambda: self._has_room(user, session)):
                raise TooManySessions(self.max_sessions)
            return
        sessions = await self.of(user)
        surplus = len(sessions) - self.max_sessions
        # By their names, on whose order all agree: two that begin in the same moment must not end each other.
        oldest_first = sorted(sessions, key=_name_of)
        for one in oldest_first[: max(0, surplus)]:
            await self.end(user, _name_of(one))

    async def _has_room(self, user: User, session: SessionBase) -> bool:
        """Whether the session may stay. Asked one login at a time: of many at once, as many stay as may."""
        await self.tokens.claim(f"room {user.id}")
        if len(await self.of(user)) <= (self.max_sessions or 0):
            return True
        await self.store.delete(session.key_to_be)
        return False

    async def _password_changed(self, event: PasswordChanged) -> None:
        """What the old password began is void already; with a request, it is known what can go at once, too."""
        if event.request is not None and self.store.knows_users:
            session = session_of(event.request)
            is_theirs = session is not None and session.user_id == event.user.identity
            await self.store.revoke_all(event.user.identity, keep=_name_of(session) if is_theirs else "")

    async def _user_deleted(self, event: UserDeleted) -> None:
        """Rows of our own table go with the user's; what is kept elsewhere has to be told."""
        if self.store.knows_users and self.store.table is not self.backend.users.tables.session:
            await self.store.revoke_all(event.user.identity)

    async def _user_deactivated(self, event: UserDeactivated) -> None:
        if self.store.knows_users:
            await self.store.revoke_all(event.user.identity)

    async def _close_sockets(self, event: AnyEnd) -> None:
        self.gateway.on_commit(lambda: self.store.sockets.user_changed(event.user.identity))


def _name_of(session: SessionBase | None) -> str:
    return session.record.public_id if session is not None and session.record is not None else ""
