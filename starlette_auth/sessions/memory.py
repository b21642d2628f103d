"""Sessions in the memory of one process, for tests and small tools."""

import time
from typing import NamedTuple

from ..exceptions import SessionInterrupted
from .base import Clock, SessionBase, decode, hash_key, is_key, new_key


class Kept(NamedTuple):
    """What is kept of a session."""

    data: str
    expires: float


class MemoryStore:
    """A restart forgets everything, and another process knows nothing of it."""

    def __init__(self, *, clock: Clock = time.time) -> None:
        self._clock = clock
        self._kept: dict[str, Kept] = {}

    async def load(self, cookie: str) -> SessionBase:
        kept = self._kept.get(hash_key(cookie)) if is_key(cookie) else None
        if kept is None or kept.expires <= self._clock():
            return SessionBase(clock=self._clock)
        return SessionBase(decode(kept.data), session_key=cookie, saved=kept.data, clock=self._clock)

    async def save(self, session: SessionBase, max_age: int) -> str:
        data = session.encode()
        key, before = session.session_key or new_key(), session.predecessor
        if before is not None and self._kept.pop(hash_key(before), None) is None:
            raise SessionInterrupted("The session was ended while this request was under way.")
        self._kept[hash_key(key)] = Kept(data, self._clock() + max_age)
        session.mark_saved(key, data)
        return key

    async def delete(self, session_key: str) -> None:
        self._kept.pop(hash_key(session_key), None)

    async def clear_expired(self) -> int:
        old = [key for key, kept in self._kept.items() if kept.expires <= self._clock()]
        for key in old:
            del self._kept[key]
        return len(old)
