"""The interface of a session store."""

import abc
import functools
import time
from collections.abc import Callable, Sequence
from typing import ClassVar

import sqlalchemy as sa

from ..core.clock import Clock
from ..core.exceptions import ImproperlyConfigured, SessionInterrupted
from ..database.tables import Tables
from ..database.urls import database_location
from .base import SessionBase
from .open_websockets import OpenWebSockets
from .records import EMPTY, SessionRecord, new_public_id, printable, time_to_keep

Progress = Callable[[int], None]


class SessionStore(abc.ABC):
    """Loads and saves sessions. A store must implement `load`, `save` and `delete`; the rest is optional."""

    #: The table of the sessions; None if the store has no table.
    table: sa.Table | None = None
    #: Whether sessions are on the server. False: each session is in its cookie and cannot be listed or revoked.
    is_server_side: ClassVar[bool] = True
    #: Whether the store finds the sessions of a user without reading all sessions. If so, they end when the user is
    #: deleted or deactivated or gets a new password.
    supports_user_lookup: ClassVar[bool] = False
    _owner = ""  # the database and the table of the users

    @functools.cached_property
    def open_websockets(self) -> OpenWebSockets:
        """Returns the WebSockets that are open in this process."""
        return OpenWebSockets()

    @abc.abstractmethod
    async def load(self, cookie: str) -> SessionBase:
        """Returns the session of a cookie; a new, empty session if the cookie is unknown or expired.

        The new session gets a new key. An attacker could otherwise plant a key in the browser (session fixation).
        """

    async def load_used(self, cookie: str, notes: Sequence[str]) -> SessionBase:
        """Returns the session of a cookie. `notes` of its last use are from `note_use()`.

        For stores with `is_server_side=False`; others record the last use with `touch()`.
        """
        return await self.load(cookie)

    def key_in(self, cookie: str) -> str:
        """Returns the session key in a cookie, or "" if the cookie is invalid.

        The session may have ended: a form may still contain its CSRF token. Stores on the server cannot check the key
        of an ended session, and return the cookie unchanged.
        """
        return cookie

    def note_use(self, session: SessionBase, cookie: str) -> str:
        """Returns a note that the session of a cookie is in use now; "" if none is needed."""
        return ""

    @abc.abstractmethod
    async def save(self, session: SessionBase, max_age: int) -> str:
        """Stores the session for `max_age` seconds; returns the value of the cookie, or "" for an empty session.

        The changes of this request (`session.changes()`) are applied to the stored data in one atomic step: concurrent
        requests that change different entries all keep their changes.

        Raises SessionInterrupted if the key from which the session was loaded no longer exists. A slow request could
        otherwise log a user in again who has just logged out.
        """

    @abc.abstractmethod
    async def delete(self, session_key: str) -> None:
        """Deletes a session; does nothing if it does not exist."""

    def new_session(self, clock: Clock = time.time) -> SessionBase:
        """Returns a new, empty session for a request without a session cookie."""
        return SessionBase(clock=clock)

    def attach(self, database_url: str, tables: Tables) -> None:
        """Tells the store whose sessions it keeps: those of the users in these tables. `Auth` calls this.

        Raises ImproperlyConfigured if it keeps those of other users: it finds the sessions of a user by a number, which
        another user may have too.
        """
        owner = f"{database_location(database_url)} {tables.user.fullname}"
        if self.is_server_side and self._owner not in ("", owner):
            kind = type(self).__name__
            raise ImproperlyConfigured(
                f"This {kind} keeps the sessions of another database or user table. Make a {kind} for each Auth."
            )
        self._owner = owner

    async def touch(self, session: SessionBase, max_age: int) -> None:  # noqa: B027  optional
        """Updates `last_seen` and the address of an existing session and keeps it for `max_age` more seconds."""

    async def clear_expired(self, progress: Progress | None = None) -> int:
        """Deletes expired sessions; returns their number. `progress` is called with the number so far."""
        return 0

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        """Returns the sessions of a user without their keys, most recently used first."""
        raise self._not_supported()

    async def revoke(self, user_id: str, public_id: str) -> bool:
        """Ends one session of a user; returns whether it existed."""
        raise self._not_supported()

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        """Ends all sessions of a user except the one with the public id `keep`; returns their number."""
        raise self._not_supported()

    async def revoke_everybody(self) -> int:
        """Deletes all sessions, also those of anonymous visitors; returns their number."""
        if not self.is_server_side:
            raise ImproperlyConfigured(
                f"{type(self).__name__} keeps no session on the server that could be deleted. To end all sessions, start "
                "the application with a new secret key, and leave out the old ones."
            )
        raise self._not_supported()

    def _not_supported(self) -> ImproperlyConfigured:
        return ImproperlyConfigured(
            f"{type(self).__name__} cannot list or end the sessions of a user. "
            "Use DatabaseStore, RedisStore or CachedStore."
        )

    async def close(self) -> None:  # noqa: B027
        """Closes the connections of this event loop."""


def first_record(session: SessionBase, data: str, *, max_age: int, now: int) -> SessionRecord:
    """Returns the record of a session that is stored for the first time."""
    return SessionRecord(
        data=data,
        public_id=new_public_id(),
        user_id=session.user_id,
        created=now,
        last_seen=now,
        expires=now + time_to_keep(data, max_age),
        address=printable(session.address, 45),
        user_agent=printable(session.user_agent, 255),
    )


def cookie_value(session_key: str, data: str) -> str:
    """Returns the cookie value that `save` must return: the key, or "" if there is no data."""
    return session_key if data != EMPTY else ""


def interrupted() -> SessionInterrupted:
    return SessionInterrupted("The session was ended while this request was in progress.")
