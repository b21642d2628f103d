"""Which session does a connection have?"""

import logging
from collections.abc import Sequence
from functools import cached_property

from starlette.types import Receive, Scope, Send

from ...backends.bearer import SESSION_TOKEN, session_token
from ...core.clock import Clock
from ...core.signing import hash_key
from ...http.cookies import MAX_VALUES, Cookie
from ...sessions.base import APP, CLIENT, SessionBase
from ...sessions.detached import DetachedSession
from ...sessions.store import SessionStore
from ..open_connection import OpenConnection
from ..refusals import Handler

logger = logging.getLogger("starlette_auth")
MAX_ENDED, NAME_LENGTH = 5, 32  # the number and length of names of ended sessions in a browser


class SessionLoader(OpenConnection):
    """Loads the session of a connection: that of its cookie, or of the key in its header Authorization."""

    had_key = False
    is_detached = False  # the request has a token, and no session
    is_in_header = False  # the key is in the header Authorization, and not in a cookie
    offers_header = False  # the application may begin a session whose key is in a header
    sent_key: str | None = None  # the key in the header Authorization of the request
    ended_keys: list[str | None]  # the first keys of sessions that the application has ended
    rivals: Sequence[SessionBase] = ()  # the sessions of a request that brought several

    def __init__(
        self,
        store: SessionStore,
        cookie: Cookie,
        clock: Clock,
        answer: Handler | None,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        self.store = store
        self.answer = answer
        self.cookie = cookie
        self.scope = scope
        self.receive_on = receive
        self.send_on = send
        self.clock = clock
        self.values = cookie.values(scope)
        self.value = self.values[0] if self.values else None
        self.ended_keys = []

    def use_header(self, key: str) -> None:
        """Takes the session of a key in the header Authorization. The cookie of the request is not read."""
        self.values, self.value, self.sent_key, self.is_in_header = [key], key, key, True

    def move_to_header(self) -> None:
        """Replaces the session by a new one, whose key the client gets in a header. That of the cookie stays stored."""
        session = self.session
        session.start_new()
        session.keep_stored()
        session.clear()
        session.modified = False
        session.is_in_header = self.is_in_header = True
        self.values, self.value, self.had_key, self.rivals = [], None, False, ()

    def key_header(self, key: str) -> tuple[bytes, bytes] | None:
        """Returns the response header that gives the client the key of its session; None if it has the key."""
        if not self.is_in_header:
            return self.cookie.header(self.scope, key, self.session.get_cookie_age())
        return (SESSION_TOKEN, session_token(key).encode()) if key != self.sent_key else None

    def detach(self) -> None:
        """Gives the connection an empty session that is not saved: its token counts, and its cookie does not."""
        self.values, self.value, self.is_detached = [], None, True

    def new_session(self) -> SessionBase:
        return DetachedSession(clock=self.clock) if self.is_detached else self.store.new_session(self.clock)

    async def load(self) -> SessionBase:
        """Returns the session of a request with cookies; a new one if no cookie is valid."""
        self.generation = self.store.open_websockets.generation
        if len(self.values) > 1:
            return await self.load_one_of_several()
        value, store = self.values[0], self.store
        session = self.require_sender(await store.load(value)) if store.is_server_side else await self.look_up(value)
        self.had_key = session.session_key is not None
        return session

    async def load_one_of_several(self) -> SessionBase:
        """Returns the only session that the cookies of a request open; a new one for several.

        A cookie that another application set for the parent domain opens no session here and is ignored. An attacker on
        a subdomain sets the cookie of the attacker's own session, which the visitor would use from then on; therefore
        cookies of two sessions, or more than three cookies, count as none.
        """
        live: dict[str, tuple[SessionBase, str]] = {}
        for value in self.values if len(self.values) <= MAX_VALUES else ():
            session = await self.look_up(value)
            key = session.session_key
            # A store that keeps sessions in cookies may find an older copy of the same session.
            if key is not None and (key not in live or session.last_seen >= live[key][0].last_seen):
                live[key] = session, value
        if len(live) == 1:
            self.had_key = True
            [(session, self.value)] = live.values()
            return session
        self.value, self.rivals = None, tuple(rival for rival, _ in live.values())
        if self.rivals or len(self.values) > MAX_VALUES:
            self.warn_about_cookies()
        return self.store.new_session(self.clock)

    async def look_up(self, value: str) -> SessionBase:
        """Returns the session of a key or cookie; a new one if it is invalid or ended in this browser."""
        if self.store.is_server_side:
            return self.require_sender(await self.store.load(value))
        session = await self.store.load_used(value, self.cookie.for_use.values(self.scope)[:MAX_VALUES])
        if self.ended_names and session.session_key is not None and name_of(session.first_key) in self.ended_names:
            return self.store.new_session(self.clock)
        return session

    def require_sender(self, session: SessionBase) -> SessionBase:
        """Returns the session if its key was sent in the right place; otherwise a new one.

        The key of a cookie opens no session in a header, and the other way round. An attacker could otherwise plant the
        key of an app in a browser, or use the key of a cookie where no CSRF token is asked for.
        """
        is_of_app = session.get(CLIENT) == APP
        return session if is_of_app is self.is_in_header else self.store.new_session(self.clock)

    @cached_property
    def ended_names(self) -> list[str]:
        """The names of sessions that ended in this browser, for stores that cannot end them."""
        texts = self.cookie.for_ended.values(self.scope)
        return [name for text in texts for name in text.split(".") if len(name) == NAME_LENGTH][:MAX_ENDED]

    def warn_about_cookies(self) -> None:
        name = self.cookie.name
        if self.rivals:
            logger.warning(
                "A request brought the cookies of %d sessions, named %r, so it counts as anonymous. A new login ends these "
                "sessions. A page of another host may have set one of the cookies. If an application on the parent domain "
                "uses the same name, pass Cookie(name=…) to one of the two.",
                len(self.rivals),
                name,
            )
        else:
            logger.warning(
                "A request brought more than %d cookies named %r, so it counts as anonymous. Pages of other hosts have set "
                "them. Delete the cookies of this site and its parent domain in the browser.",
                MAX_VALUES,
                name,
            )


def name_of(first_key: str | None) -> str:
    """Returns the name of a session in the cookie of ended sessions: the start of the hash of its first key."""
    return hash_key(str(first_key))[:NAME_LENGTH]
