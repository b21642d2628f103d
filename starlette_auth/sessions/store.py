"""What a store of sessions must do."""

import abc
import functools
import time
from collections.abc import Callable
from typing import ClassVar

import sqlalchemy as sa

from ..clock import Clock
from ..exceptions import ImproperlyConfigured, SessionInterrupted
from .base import NOTHING, Record, SessionBase, encode, user_in
from .keys import new_public_id
from .sockets import Sockets

#: Seconds for which a session that was emptied can still be written to by requests that are under way.
GRACE = 60
Progress = Callable[[int], None]


class SessionStore(abc.ABC):
    """Turns a cookie into a session and a session into a cookie. Of the rest, a store has what it can."""

    #: The table in which they are kept, where they are.
    table: sa.Table | None = None
    #: False: sessions travel in their cookies, and none can be listed, or ended before its time.
    on_server: ClassVar[bool] = True
    #: Whether it finds a user's sessions without looking at everybody's. They end then with the account, the password …
    knows_users: ClassVar[bool] = False

    @functools.cached_property
    def sockets(self) -> Sockets:
        """The WebSockets that are open in this process."""
        return Sockets()

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

    def begin(self, clock: Clock = time.time) -> SessionBase:
        """What a visitor gets who has no session yet."""
        return SessionBase(clock=clock)

    async def touch(self, session: SessionBase, max_age: int) -> None:  # noqa: B027  there may be nothing to do
        """Notes that the session was used now, and from where, and keeps it for `max_age` seconds if it is there."""

    async def clear_expired(self, progress: Progress | None = None) -> int:
        """Deletes what nobody can load any more; gives the number, and tells `progress` so far each time."""
        return 0

    async def sessions_of(self, user_id: str) -> list[SessionBase]:
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


def first_record(session: SessionBase, max_age: int, now: float) -> Record:
    """What is kept of a session that was not kept before."""
    data = session.encode()
    return Record(
        data=data,
        public_id=new_public_id(),
        user_id=session.user_id,
        created=int(now),
        last_seen=int(now),
        expires=int(now) + time_to_keep(data, max_age),
        address=_fitting(session.address, 45),
        user_agent=_fitting(session.user_agent, 255),
    )


def next_record(stored: Record, session: SessionBase, saved: str, max_age: int, now: int) -> Record:
    """What is kept when the changes of a session, which is `saved` by itself, have been applied to what is stored."""
    merged = session.merged_into(stored.data)
    data, user_id = saved if merged is session else encode(merged), user_in(merged)
    return stored._replace(
        data=data,
        user_id=user_id,
        last_seen=now,
        expires=now + time_to_keep(data, max_age),
        address=stored.address if user_id is not None else "",
        user_agent=stored.user_agent if user_id is not None else "",
        version=stored.version + 1,
    )


def touched_record(stored: Record, session: SessionBase, max_age: int, now: int) -> Record:
    address = _fitting(session.address, 45) or stored.address
    return stored._replace(last_seen=now, expires=now + max_age, address=address)


def time_to_keep(data: str, max_age: int) -> int:
    """For how many seconds: one that was emptied goes soon, though not under the hands of a request that fills it."""
    return max_age if data != NOTHING else min(max_age, GRACE)


def cookie_of(session_key: str, data: str) -> str:
    """What `save` gives."""
    return session_key if data != NOTHING else ""


def interrupted() -> SessionInterrupted:
    return SessionInterrupted("The session was ended while this request was under way.")


def _fitting(text: str, length: int) -> str:
    """What a client says of itself, without what a terminal or a column would choke on."""
    return (text if text.isprintable() else "".join(filter(str.isprintable, text)))[:length]
