"""The sessions of a user: begins, lists, ends and limits them."""

import functools
from collections.abc import Sequence
from typing import Literal

from starlette.requests import HTTPConnection

from ..core.arguments import describe, require_instance, require_integer
from ..core.events import (
    Events,
    EverybodyLoggedOut,
    PasswordChanged,
    SessionEnded,
    SessionsEnded,
    UserDeactivated,
    UserDeleted,
    UserLoggedIn,
)
from ..core.exceptions import ImproperlyConfigured, PermissionDenied, TooManySessions
from ..core.text import require_text
from ..security.known_devices import KnownDevices
from ..security.tokens import Tokens
from ..sessions.base import SessionBase
from ..sessions.store import SessionStore
from ..users.models import AnonymousUser, User, require_connection, require_stored
from .login_methods import LoginMethod, level_of
from .request_user import set_user
from .session import SessionBackend, require_session, session_of

WhenFull = Literal["drop_oldest", "reject"]
AnyEnd = PasswordChanged | UserDeleted | UserDeactivated | SessionEnded | SessionsEnded


class UserSessions:
    """Begins, lists and ends the sessions of a user, as `auth.user_sessions`.

    `max_sessions` is the number of sessions that one user may have at the same time. A further login ends the oldest
    session or, with `when_full="reject"`, is refused with TooManySessions (status 403). Raises ImproperlyConfigured
    for wrong values, and for `max_sessions` with a store that cannot look sessions up by user.
    """

    def __init__(
        self,
        store: SessionStore,
        backend: SessionBackend,
        *,
        devices: KnownDevices,
        tokens: Tokens,
        events: Events,
        max_sessions: int | None = None,
        when_full: WhenFull = "drop_oldest",
    ) -> None:
        require_instance(store, SessionStore, "store", "Pass auth.sessions.")
        require_instance(backend, SessionBackend, "backend", "Pass auth.session_backend.")
        require_instance(devices, KnownDevices, "devices", "Pass auth.devices.")
        require_instance(tokens, Tokens, "tokens", "Pass auth.tokens.")
        require_instance(events, Events, "events", "Pass auth.events.")
        if when_full not in ("drop_oldest", "reject"):
            raise ImproperlyConfigured(f'when_full={when_full!r} is not known. Use "drop_oldest" or "reject".')
        if max_sessions is not None:
            require_integer(max_sessions, "max_sessions")
        if max_sessions is not None and not store.supports_user_lookup:
            raise ImproperlyConfigured(
                "max_sessions needs a store that can list the sessions of a user. "
                "Use DatabaseStore, RedisStore or CachedStore."
            )
        self.store = store
        self.backend = backend
        self.devices = devices
        self.tokens = tokens
        self.gateway = tokens.gateway
        self.events = events
        self.max_sessions = max_sessions
        self.drop_oldest = when_full == "drop_oldest"

    def subscribe(self) -> None:
        """Subscribes to the events that end sessions: of passwords, users and sessions."""
        self.events.on(PasswordChanged)(self._password_changed)
        self.events.on(UserDeleted)(self._user_deleted)
        self.events.on(UserDeactivated)(self._user_deactivated)
        self.events.on(PasswordChanged)(self._close_websockets)
        self.events.on(UserDeleted)(self._close_websockets)
        self.events.on(UserDeactivated)(self._close_websockets)
        self.events.on(SessionEnded)(self._close_websockets)
        self.events.on(SessionsEnded)(self._close_websockets)
        self.events.on(PasswordChanged)(self._revoke_devices)
        self.events.on(UserDeactivated)(self._revoke_devices)
        self.events.on(SessionsEnded)(self._revoke_devices)

    async def begin(
        self,
        conn: HTTPConnection,
        user: User,
        backend: str,
        *,
        remember: bool = False,
        methods: Sequence[LoginMethod] = (),
        may_refuse: bool = True,
    ) -> None:
        """Logs the user in to the session of this request, under a new session key.

        `backend` is the path of the backend that identified the user. Raises ImproperlyConfigured if it is unknown, and
        TooManySessions if the limit is reached and no login may end another session, unless `may_refuse` is False.
        """
        if not isinstance(user, User):
            raise TypeError("login() takes a User. authenticate() returned None or was not awaited. Check its result.")
        if not user.is_active:
            raise PermissionDenied(f"{user.username!r} is not active. Set is_active before login().")
        session = require_session(conn)
        self.backend.check_backend(backend)
        if may_refuse:
            await self.check_limit(user, session)
        new_device = user.last_login is not None and not await self.devices.known(conn, user)
        proofs = methods or (LoginMethod(self.backend.method_of(backend), 0),)
        event = UserLoggedIn(
            user=user,
            request=conn,
            backend=backend,
            new_device=new_device,
            methods=tuple(method.name for method in proofs),
            level=level_of(proofs),
        )
        async with self.events.transaction(UserLoggedIn):
            await self.backend.users.record_login(user)
            await self.events.emit(event)
        self.backend.bind(session, user, backend, is_remembered=remember, methods=methods)
        session.after_save = functools.partial(self.enforce_limit, user, may_refuse=may_refuse)
        await self.devices.remember(conn, user)
        if self.backend.users.backend_permissions is not None:
            await self.backend.users.backend_permissions.load(conn, user)
        set_user(conn.scope, user)

    async def list(self, user: User) -> list[SessionBase]:
        """Returns the valid sessions of a user, most recently used first. See `session.record` for the details.

        The list is empty for a visitor. Raises ImproperlyConfigured if the store cannot list sessions, as CookieStore.
        """
        if isinstance(user, AnonymousUser):
            return []
        require_stored(user)
        # The user is loaded after the sessions. With an older password, newer sessions would not be valid.
        sessions = await self.store.list_sessions(user.identity)
        current_user = await self.backend.users.get(user.id)
        if current_user is None:
            return []
        return [session for session in sessions if self.backend.is_valid(session, current_user)]

    async def revoke(self, user: User, public_id: str, *, request: HTTPConnection | None = None) -> bool:
        """Ends one session of a user; returns whether it existed. `request` is passed to the event SessionEnded."""
        require_stored(user)
        require_connection(request)
        require_text(public_id, "public id of a session")
        async with self.gateway.atomic():
            has_ended = await self.store.revoke(user.identity, public_id)
            if has_ended:
                await self.events.emit(SessionEnded(user=user, public_id=public_id, request=request))
        return has_ended

    async def revoke_all(
        self, user: User, *, keep: SessionBase | None = None, request: HTTPConnection | None = None
    ) -> int:
        """Ends all sessions of a user except `keep`; returns their number. Emits SessionsEnded if there were any.

        All browsers become unknown devices, except that of `request` if its session is kept.
        """
        require_stored(user)
        require_connection(request)
        if keep is not None and not isinstance(keep, SessionBase):
            raise TypeError(f"`keep` is a session, and got {describe(keep)}. Pass keep=request.session.")
        known = (
            request if request is not None and keep is not None and await self.devices.known(request, user) else None
        )
        async with self.gateway.atomic():
            number = await self.store.revoke_all(user.identity, keep=keep.public_id if keep is not None else "")
            if number:
                await self.events.emit(SessionsEnded(user=user, request=request))
            else:
                await self.devices.revoke_all(user)
        if known is not None:
            await self.devices.remember(known, user)
        return number

    async def revoke_others(self, request: HTTPConnection, user: User) -> int:
        """Ends the sessions of a user except that of this request; returns their number. CookieStore cannot: 0.

        A change of the user's factors needs it: the other sessions were begun without them.
        """
        if not self.store.supports_user_lookup:
            return 0
        session = session_of(request)
        keep = session if session is not None and SessionBackend.belongs_to(session, user) else None
        return await self.revoke_all(user, keep=keep, request=request)

    async def revoke_everybody(self, *, request: HTTPConnection | None = None) -> int:
        """Ends the sessions of all users and visitors; returns their number. Emits EverybodyLoggedOut.

        Open WebSockets and streamed responses end, too: within a second in this process, within a minute in others.
        Raises ImproperlyConfigured if the sessions are in cookies, which only a new secret key ends.
        """
        require_connection(request)
        number = await self.store.revoke_everybody()
        self.store.open_websockets.everybody_changed()
        async with self.events.transaction(EverybodyLoggedOut):
            await self.events.emit(EverybodyLoggedOut(number=number, request=request))
        return number

    async def check_limit(self, user: User, here: SessionBase | None = None) -> None:
        """Raises TooManySessions if a login of the user would be refused.

        `here` is the current session, which the login would replace; it does not count.
        """
        if self.max_sessions is not None and not self.drop_oldest:
            other_sessions = [
                session for session in await self.list(user) if here is None or session.public_id != here.public_id
            ]
            if len(other_sessions) >= self.max_sessions:
                raise TooManySessions(len(other_sessions))

    async def enforce_limit(self, user: User, session: SessionBase, *, may_refuse: bool = True) -> None:
        """Enforces `max_sessions` after a new session was saved, so that it holds for concurrent logins too.

        Ends the oldest sessions. With `when_full="reject"` and `may_refuse`, raises TooManySessions instead.
        """
        if self.max_sessions is None:
            return
        if may_refuse and not self.drop_oldest:
            if not await self.gateway.run_in_transaction(lambda: self._has_room(user, session)):
                raise TooManySessions(self.max_sessions)
            return
        sessions = await self.list(user)
        surplus = len(sessions) - self.max_sessions
        # Ordered by public id, the same order for every request: two concurrent logins must not end each other.
        oldest_first = sorted(sessions, key=lambda session: session.public_id)
        for oldest in oldest_first[: max(0, surplus)]:
            await self.revoke(user, oldest.public_id)

    async def _has_room(self, user: User, session: SessionBase) -> bool:
        """Returns whether the session may stay; otherwise deletes it.

        A lock serialises the concurrent logins of a user, so that exactly `max_sessions` of them succeed.
        """
        await self.tokens.lock(f"room {user.id}")
        if len(await self.list(user)) <= (self.max_sessions or 0):
            return True
        await self.store.delete(session.next_key)
        return False

    async def _password_changed(self, event: PasswordChanged) -> None:
        """Deletes the other sessions of the user. They are not valid any more, because the password has changed.

        An event without a request does not tell which session to keep; nothing is deleted then.
        """
        if event.request is not None and self.store.supports_user_lookup:
            session = session_of(event.request)
            is_own = session is not None and session.user_id == event.user.identity
            keep = session.public_id if session is not None and is_own else ""
            await self.store.revoke_all(event.user.identity, keep=keep)

    async def _user_deleted(self, event: UserDeleted) -> None:
        """Deletes the sessions of a deleted user, unless the foreign key of the package's session table does it."""
        if self.store.supports_user_lookup and self.store.table is not self.backend.users.tables.session:
            await self.store.revoke_all(event.user.identity)

    async def _user_deactivated(self, event: UserDeactivated) -> None:
        if self.store.supports_user_lookup:
            await self.store.revoke_all(event.user.identity)

    async def _revoke_devices(self, event: PasswordChanged | UserDeactivated | SessionsEnded) -> None:
        """Makes the user's browsers unknown devices, because an attacker may have copied the cookie of one.

        The browser in which the password was changed stays known. An attacker may keep the counter of unknown browsers
        full, which would lock the owner out. A reset proves that the visitor reads the owner's mail; therefore the
        browser of a reset becomes a known device, with an empty counter.
        """
        request = event.request if isinstance(event, PasswordChanged) else None
        await self.devices.revoke_all(event.user, keep=request)
        if request is not None and isinstance(event, PasswordChanged) and event.by_reset:
            await self.devices.remember(request, event.user)

    async def _close_websockets(self, event: AnyEnd) -> None:
        self.gateway.on_commit(lambda: self.store.open_websockets.user_changed(event.user.identity))
