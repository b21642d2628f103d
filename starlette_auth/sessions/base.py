"""The session in memory: a dict, and what the application asked of its key."""

import operator
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from ..core.clock import TWO_WEEKS, Clock, utc_now
from ..core.signing import new_key
from ..database.statements import Row
from .limits import SessionLimit
from .records import (
    EMPTY,
    IMMUTABLE_TYPES,
    Changes,
    SessionRecord,
    _encode_strictly,
    check_keys,
    decode,
    encode,
    encode_value,
    user_in,
)

EXPIRY = "_session_expiry"  # Django's names
AUTH_TIME = "_auth_time"  # ours
TOUCH_EVERY = 60  # seconds between two notes that a session is in use
#: Asked once a login has been saved, and may refuse it.
Admission = Callable[["SessionBase"], Awaitable[None]]


class SessionBase(dict[str, Any]):
    """A dict of what JSON can hold, and the wishes of the application about its key. No method waits.

    A store fills it in, the application changes it, the middleware saves it when the response starts.
    """

    new_key = staticmethod(new_key)

    # Most visits leave these as they are, and every one makes a session: they cost nothing until they are set.
    record: SessionRecord | None = None
    key_to_delete: str | None = None
    accessed = False
    max_age = TWO_WEEKS
    expire_at_browser_close = False
    limit: SessionLimit | None = None
    after_save: Admission | None = None
    #: Adds to the headers of the response what others have to say in them.
    edit_headers: Callable[[list[tuple[bytes, bytes]]], None] | None = None
    address = ""
    user_agent = ""
    _saved = EMPTY
    _loaded: dict[str, Any] | None = None
    _touched = False
    _next_key: str | None = None
    _cycled_key: str | None = None
    _resigned: str | None = None

    def __init__(
        self,
        data: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        session_key: str | None = None,
        record: SessionRecord | None = None,
        user_row: Row | None = None,
        clock: Clock = time.time,
    ) -> None:
        """`record` is what the store holds, `user_row` what it found about the user on the way."""
        super().__init__(data)
        self._clock = clock
        self.session_key = session_key
        self.user_row = user_row
        if record is not None:
            self.record, self._saved = record, record.data
            self._loaded = data if type(data) is dict else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} keys>"

    def mark_accessed(self) -> None:
        """Starlette calls this whenever `request.session` is looked at."""
        self.accessed = True

    @property
    def user_id(self) -> str | None:
        """Whose session it is, as text; None for an anonymous visitor's."""
        return user_in(self)

    @property
    def public_id(self) -> str:
        """The name of a stored session in lists, which opens nothing; "" before it is stored."""
        return self.record.public_id if self.record is not None else ""

    @property
    def modified(self) -> bool:
        """Whether there is anything to save. Compared with what was loaded, so changes deep inside count."""
        return self._touched or not (self._is_as_loaded() or (encode(self) if self else EMPTY) == self._saved)

    @modified.setter
    def modified(self, value: bool) -> None:
        self._touched = value

    def _is_as_loaded(self) -> bool:
        """Whether each value is the very one that was loaded, and of a kind that nothing can be changed in."""
        before, values = self._loaded, self.values()
        return (
            before is not None
            and len(before) == len(self)
            and IMMUTABLE_TYPES.issuperset(map(type, values))
            and all(map(operator.is_, before, self))
            and all(map(operator.is_, before.values(), values))
        )

    def changes(self) -> Changes:
        """What is other than when it was loaded."""
        before = decode(self._saved)
        values = {
            name: value
            for name, value in self.items()
            if name not in before or encode_value(value) != encode_value(before[name])
        }
        return Changes(values, [name for name in before if name not in self])

    def merge_into(self, stored: str, saved: str) -> tuple[str, str | None]:
        """Returns the data to store and its user id: the changes of this session applied to the data `stored`.

        `saved` is this session's own data, which is the result if no other request changed the record meanwhile.
        """
        if stored == self._saved:
            return saved, self.user_id
        merged = self.changes().applied_to(decode(stored))
        return encode(merged), user_in(merged)

    def is_empty(self) -> bool:
        """Whether there is nothing in it, and nothing stored under its key."""
        return not self and self.session_key is None

    def cycle_key(self) -> None:
        """Asks for a new key, and keeps the data. The old key is dead when the response starts.

        Like any change it is refused when the session was ended meanwhile: SessionInterrupted.
        """
        self._cycled_key = self.session_key or self._cycled_key
        self._discard_key()
        self._touched, self._resigned = True, None

    def cycle_key_for(self, name: str, value: Any) -> None:
        """Sets an entry under a new key, on nobody's wish: another request may have been faster with the same."""
        self.cycle_key()
        self[name], self._resigned = value, name

    @property
    def is_only_resigned(self) -> bool:
        """Whether nothing else happened to it, so that it does not matter when it cannot be saved."""
        if self._resigned is None:
            return False
        values, removed = self.changes()
        return not removed and values.keys() <= {self._resigned}

    def flush(self) -> None:
        """Asks for an end: the data goes now, what is stored goes when the response starts, even if that fails."""
        self.start_new()
        self.clear()
        self._touched = False
        self.limit = self.after_save = None

    def start_new(self) -> None:
        """Asks for a new key that owes nothing to the old one: somebody has just proved who they are."""
        self._discard_key()
        self._touched, self._cycled_key, self._resigned = True, None, None
        self._saved, self._loaded, self.record, self.user_row = EMPTY, None, None, None

    @property
    def stored_key(self) -> str | None:
        """The key under which a store must still hold this session, or refuse to save it."""
        return self.session_key or self._cycled_key

    @property
    def next_key(self) -> str:
        """The key that it has once it is saved: what a page says of it now can be true then."""
        if self.session_key is not None:
            return self.session_key
        self._next_key = self._next_key or self.new_key()
        return self._next_key

    def _discard_key(self) -> None:
        self._next_key = None
        if self.session_key is not None:
            self.key_to_delete, self.session_key = self.session_key, None

    @property
    def created(self) -> int:
        """When it began, which is the moment of the login."""
        return self.record.created if self.record is not None else int(self._clock())

    @property
    def last_seen(self) -> int:
        """When it was last used, to within a minute."""
        return self.record.last_seen if self.record is not None else int(self._clock())

    @property
    def needs_touch(self) -> bool:
        """Whether it is to be noted that its user is here: once a minute."""
        record = self.record
        return record is not None and int(self._clock()) - record.last_seen >= TOUCH_EVERY and self.user_id is not None

    @property
    def is_expired(self) -> bool:
        """Whether its user has to log in again: it is older than its limit allows, or was idle for too long."""
        limit, record = self.limit, self.record
        if limit is None or record is None:
            return False
        now = int(self._clock())
        return now >= record.created + limit.absolute or now >= record.last_seen + limit.idle

    def set_expiry(self, value: int | timedelta | datetime | None) -> None:
        """Seconds from each change on, a duration or a moment; 0: when the browser closes; None: the default again.

        Of somebody who is logged in it can only shorten what `Auth(session_limits=…)` allows.
        """
        if value is None:
            self.pop(EXPIRY, None)
            return
        if isinstance(value, timedelta):
            value = utc_now(self._clock) + value
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise ValueError("The moment has no time zone. Use datetime.now(UTC) + timedelta(…).")
            self[EXPIRY] = self.format_expiry(value)
            return
        self[EXPIRY] = value

    def get_expiry_age(self) -> int:
        """Seconds that are left, if nobody comes."""
        if self.limit is None:
            return self._wished_age()
        allowed = max(0, min(self.limit.idle, self._until_limit()))
        return min(self._wished_age(), allowed) if self.get(EXPIRY) else allowed

    def get_cookie_age(self) -> int | None:
        """How long the browser keeps the cookie, in seconds; None until it closes.

        Of a login that is remembered, to its very end: who comes back often enough is not forgotten before.
        """
        if self.get_expire_at_browser_close():
            return None
        if self.limit is None or EXPIRY in self:
            return self.get_expiry_age()
        return max(0, self._until_limit())

    def get_expiry_date(self) -> datetime:
        return utc_now(self._clock) + timedelta(seconds=self.get_expiry_age())

    def get_expire_at_browser_close(self) -> bool:
        if self.limit is not None and not self.limit.persistent:
            return True
        return self[EXPIRY] == 0 if EXPIRY in self else self.expire_at_browser_close

    def encode(self) -> str:
        """The data as stores keep it: JSON in ASCII. TypeError, with the fix, for what JSON cannot hold."""
        check_keys(self)
        return encode(self, _encode_strictly)

    def mark_saved(self, session_key: str, record: SessionRecord, saved: str) -> None:
        """Called by stores: `saved` is what this session held when they kept it, `record` what they hold now."""
        if self._cycled_key is not None:
            self.key_to_delete = None  # the store has put the new key in its place
        self.session_key, self.record, self._saved, self._loaded = session_key, record, saved, None
        self._touched, self._cycled_key, self._next_key, self._resigned = False, None, None, None

    def _wished_age(self) -> int:
        expiry = self.get(EXPIRY)
        if isinstance(expiry, str):
            return max(0, int((self.parse_expiry(expiry) - utc_now(self._clock)).total_seconds()))
        return expiry or self.max_age

    def format_expiry(self, end: datetime) -> str:
        """How `set_expiry` stores a moment."""
        return end.astimezone(UTC).isoformat()

    def parse_expiry(self, text: str) -> datetime:
        """The moment in such a text."""
        return datetime.fromisoformat(text)

    def _until_limit(self) -> int:
        assert self.limit is not None  # noqa: S101  who asks has looked
        return self.created + self.limit.absolute - int(self._clock())
