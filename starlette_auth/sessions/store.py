"""The interface of a session store."""

import abc
import functools
import time
from collections.abc import Callable
from typing import ClassVar

import sqlalchemy as sa

from ..core.clock import Clock
from ..core.exceptions import ImproperlyConfigured, SessionInterrupted
from .base import SessionBase
from .open_websockets import OpenWebSockets
from .records import EMPTY

Progress = Callable[[int], None]


class SessionStore(abc.ABC):
    """Turns a cookie into a session and a session into a cookie. Of the rest, a store has what it can."""

    #: The table in which they are kept, where they are.
    table: sa.Table | None = None
    #: False: sessions travel in their cookies, and none can be listed, or ended before its time.
    is_server_side: ClassVar[bool] = True
    #: Whether it finds a user's sessions without looking at everybody's. They end then with the account, the password …
    supports_user_lookup: ClassVar[bool] = False

    @functools.cached_property
    def open_websockets(self) -> OpenWebSockets:
        """The WebSockets that are open in this process."""
        return OpenWebSockets()

    @abc.abstractmethod
    async def load(self, cookie: str) -> SessionBase:
        """The session of this cookie; for an unknown or expired one a new and empty one, so no key can be adopted."""

    @abc.abstractmethod
    async def save(self, session: SessionBase, max_age: int) -> str:
        """Keeps the session for `max_age` seconds; gives the cookie's value, or "" when nothing is left in it.

        What this request changed (`session.changes()`) is applied to what is stored now, in one atomic step: requests
        that change different keys at once all keep their changes.

        Raises SessionInterrupted when it was loaded from a key that is gone: nobody is logged back in by a slow request.
        """

    @abc.abstractmethod
    async def delete(self, session_key: str) -> None:
        """Forgets a session. Fine when it is not there."""

    def new_session(self, clock: Clock = time.time) -> SessionBase:
        """What a visitor gets who has no session yet."""
        return SessionBase(clock=clock)

    async def touch(self, session: SessionBase, max_age: int) -> None:  # noqa: B027  there may be nothing to do
        """Notes that the session was used now, and from where, and keeps it for `max_age` seconds if it is there."""

    async def clear_expired(self, progress: Progress | None = None) -> int:
        """Deletes what nobody can load any more; gives the number, and tells `progress` so far each time."""
        return 0

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        """A user's sessions, without their keys, the one that was used last first."""
        raise self._cannot()

    async def revoke(self, user_id: str, public_id: str) -> bool:
        """Ends one of a user's sessions; gives whether it was there."""
        raise self._cannot()

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        """Ends all of a user's sessions, but for the one whose public id is `keep`; gives the number."""
        raise self._cannot()

    def _cannot(self) -> ImproperlyConfigured:
        return ImproperlyConfigured(
            f"{type(self).__name__} cannot tell where somebody is logged in, nor end it. "
            "Use DatabaseStore, RedisStore or CachedStore."
        )

    async def close(self) -> None:  # noqa: B027
        """Gives back the connections of this event loop."""


def cookie_value(session_key: str, data: str) -> str:
    """What `save` gives."""
    return session_key if data != EMPTY else ""


def interrupted() -> SessionInterrupted:
    return SessionInterrupted("The session was ended while this request was under way.")
