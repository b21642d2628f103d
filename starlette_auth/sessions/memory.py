"""Sessions in the memory of one process, for tests and small tools."""

import time
from collections.abc import Iterable

from ..core.arguments import require_clock
from ..core.clock import Clock
from ..core.signing import hash_key, is_key
from .base import SessionBase
from .expiry import TOUCH_EVERY
from .records import SessionRecord, decode, next_record, touched_record
from .store import Progress, SessionStore, cookie_value, first_record, interrupted

SWEEP = 1000  # number of sessions at which expired ones are deleted for the first time; then whenever it has doubled


class MemoryStore(SessionStore):
    """Keeps sessions in the memory of this process. A restart deletes them, and other processes cannot use them."""

    supports_user_lookup = True

    def __init__(self, *, clock: Clock = time.time) -> None:
        require_clock(clock)
        self._clock = clock
        self._records: dict[str, SessionRecord] = {}
        self._sweep_at = SWEEP

    async def load(self, cookie: str) -> SessionBase:
        record = self._get_live(cookie) if is_key(cookie) else None
        if record is None:
            return SessionBase(clock=self._clock)
        return SessionBase(decode(record.data), session_key=cookie, record=record, clock=self._clock)

    async def save(self, session: SessionBase, max_age: int) -> str:
        saved, key, stored_key = session.encode(), session.next_key, session.stored_key
        if stored_key is None:
            self._sweep()
            record = first_record(session, saved, max_age=max_age, now=self._now())
        else:
            stored = self._get_live(stored_key)
            if stored is None:
                raise interrupted()
            del self._records[hash_key(stored_key)]
            data, user_id = session.merge_into(stored.data, saved)
            record = next_record(stored, data, user_id, max_age=max_age, now=self._now())
        self._records[hash_key(key)] = record
        session.mark_saved(key, record, saved)
        return cookie_value(key, record.data)

    async def delete(self, session_key: str) -> None:
        self._records.pop(hash_key(session_key), None)

    async def touch(self, session: SessionBase, max_age: int) -> None:
        key = session.session_key or ""
        record = self._get_live(key)
        if record is not None and self._now() - record.last_seen >= TOUCH_EVERY:
            self._records[hash_key(key)] = touched_record(record, session.address, max_age=max_age, now=self._now())

    async def clear_expired(self, progress: Progress | None = None) -> int:
        return self._clear()

    async def list_sessions(self, user_id: str) -> list[SessionBase]:
        records = [record for _, record in self._records_of(user_id)]
        sessions = [SessionBase(decode(record.data), record=record, clock=self._clock) for record in records]
        return sorted(sessions, key=lambda session: session.last_seen, reverse=True)

    async def revoke(self, user_id: str, public_id: str) -> bool:
        return self._delete_keys(key for key, record in self._records_of(user_id) if record.public_id == public_id) == 1

    async def revoke_all(self, user_id: str, *, keep: str = "") -> int:
        return self._delete_keys(key for key, record in self._records_of(user_id) if record.public_id != keep)

    async def revoke_everybody(self) -> int:
        return self._delete_keys(self._records)

    def _records_of(self, user_id: str) -> list[tuple[str, SessionRecord]]:
        now = self._now()
        return [
            (key, record) for key, record in self._records.items() if record.user_id == user_id and record.expires > now
        ]

    def _get_live(self, session_key: str) -> SessionRecord | None:
        record = self._records.get(hash_key(session_key))
        return record if record is not None and record.expires > self._now() else None

    def _delete_keys(self, keys: Iterable[str]) -> int:
        keys_to_delete = list(keys)
        for key in keys_to_delete:
            del self._records[key]
        return len(keys_to_delete)

    def _clear(self) -> int:
        return self._delete_keys(key for key, record in self._records.items() if record.expires <= self._now())

    def _now(self) -> int:
        return int(self._clock())

    def _sweep(self) -> None:
        """Deletes expired sessions when the number of sessions has doubled: no `clearsessions` runs in this process."""
        if len(self._records) >= self._sweep_at:
            self._clear()
            self._sweep_at = max(SWEEP, 2 * len(self._records))
