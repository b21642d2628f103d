"""The session object: a dict of data that records what should happen to its session key."""

import operator
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Never

from ..core.clock import TWO_WEEKS, Clock, utc_now
from ..core.signing import new_key
from ..database.statements import Row
from .limits import SessionLimit
from .records import EMPTY, IMMUTABLE_TYPES, Changes, SessionRecord, decode, encode, encode_data, encode_value, user_in

EXPIRY = "_session_expiry"  # as in Django
AUTH_TIME = "_auth_time"  # of this package
TOUCH_EVERY = 60  # seconds between two updates of `last_seen`
#: Called after the session of a new login was saved. Raises TooManySessions to refuse the login.
Admission = Callable[["SessionBase"], Awaitable[None]]


class SessionBase(dict[str, Any]):
    """A dict of JSON values that records requested changes of its session key.

    A store loads it, the application changes it, and the middleware saves it when the response starts. No method does
    any I/O: `cycle_key()` and `flush()` record what the middleware must do.
    """

    new_key = staticmethod(new_key)

    # Class attributes, because every request creates a session and most requests change none of these.
    record: SessionRecord | None = None
    accessed = False
    max_age = TWO_WEEKS
    expire_at_browser_close = False
    limit: SessionLimit | None = None
    after_save: Admission | None = None
    #: Edits the headers of the response, given its status; set by other middleware.
    edit_headers: Callable[[list[tuple[bytes, bytes]], int], None] | None = None
    #: Says why an open connection must be closed; set by AuthenticationMiddleware.
    revalidate: Callable[..., Awaitable[str | None]] | None = None
    address = ""
    user_agent = ""
    _saved = EMPTY
    _loaded: dict[str, Any] | None = None
    _touched = False
    _key_to_delete: str | None = None
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
        """`record` is the stored session record, `user_row` the user's row if the store loaded it as well."""
        super().__init__(data)
        self._clock = clock
        self._session_key = session_key
        self.user_row = user_row
        if record is not None:
            self.record, self._saved = record, record.data
            self._loaded = data if type(data) is dict else None

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} keys>"

    def mark_accessed(self) -> None:
        """Notes that the application used `request.session`. Starlette calls this."""
        self.accessed = True

    @property
    def session_key(self) -> str | None:
        """Returns the key of a stored session; None before it is stored."""
        return self._session_key

    @session_key.setter
    def session_key(self, key: Never) -> None:
        # An application sets a key that an attacker sent, which would write to another visitor's session and hand out
        # its cookie. Therefore the key is read-only, as in Django.
        raise AttributeError("session_key is read-only. For a new key, call request.session.cycle_key().")

    @property
    def key_to_delete(self) -> str | None:
        """Returns the key of the stored session that the middleware must delete, if any."""
        return self._key_to_delete

    def keep_stored(self) -> None:
        """Notes that the session under `key_to_delete` is deleted already, or must stay."""
        self._key_to_delete = None

    @property
    def user_id(self) -> str | None:
        """Returns the id of the logged-in user as text; None for an anonymous visitor."""
        return user_in(self)

    @property
    def public_id(self) -> str:
        """Returns the public id of a stored session; "" before it is stored.

        Lists of sessions show the public id. It is not a credential: no request is authenticated by it.
        """
        return self.record.public_id if self.record is not None else ""

    @property
    def modified(self) -> bool:
        """Returns whether there is anything to save.

        The data is compared with the loaded data, so changes inside nested lists and dicts count.
        """
        return self._touched or not (self._is_as_loaded() or (encode(self) if self else EMPTY) == self._saved)

    @modified.setter
    def modified(self, value: bool) -> None:
        self._touched = value

    def _is_as_loaded(self) -> bool:
        """Returns whether all keys and values are the loaded objects and of immutable types."""
        loaded, values = self._loaded, self.values()
        return (
            loaded is not None
            and len(loaded) == len(self)
            and IMMUTABLE_TYPES.issuperset(map(type, values))
            and all(map(operator.is_, loaded, self))
            and all(map(operator.is_, loaded.values(), values))
        )

    def changes(self) -> Changes:
        """Returns the entries that were set and removed since the session was loaded or saved."""
        saved = decode(self._saved)
        values = {
            name: value
            for name, value in self.items()
            if name not in saved or encode_value(value) != encode_value(saved[name])
        }
        return Changes(values, [name for name in saved if name not in self])

    def merge_into(self, stored: str, saved: str) -> tuple[str, str | None]:
        """Returns the data to store and its user id: the changes of this session applied to the data `stored`.

        `saved` is this session's own data, which is the result if no other request changed the record meanwhile.
        """
        if stored == self._saved:
            return saved, self.user_id
        merged = self.changes().applied_to(decode(stored))
        return encode(merged), user_in(merged)

    def is_empty(self) -> bool:
        """Returns whether the session holds no data and has no session key."""
        return not self and self.session_key is None

    def cycle_key(self) -> None:
        """Requests a new session key and keeps the data. The old key stops working when the response starts.

        Saving raises SessionInterrupted if the session was ended in the meantime, as it does for any other change.
        """
        self._cycled_key = self.session_key or self._cycled_key
        self._discard_key()
        self._touched, self._resigned = True, None

    def cycle_key_for(self, name: str, value: Any) -> None:
        """Sets an entry and requests a new key, on behalf of the package and not of the application.

        The middleware ignores a failure to save it, because a concurrent request may already have done so.
        """
        self.cycle_key()
        self[name], self._resigned = value, name

    @property
    def is_only_resigned(self) -> bool:
        """Returns whether `cycle_key_for()` made the only change, so that a failure to save it can be ignored."""
        if self._resigned is None:
            return False
        values, removed = self.changes()
        return not removed and values.keys() <= {self._resigned}

    def flush(self) -> None:
        """Ends the session: clears the data now and deletes the stored session when the response starts.

        The stored session is deleted even if the request fails.
        """
        self.start_new()
        self.clear()
        self._touched = False
        self.limit = self.after_save = None

    def start_new(self) -> None:
        """Requests a new key and detaches the session from its stored record. The data stays.

        Called at login. An attacker who planted a session key in the browser would otherwise share the login
        (session fixation).
        """
        self._discard_key()
        self._touched, self._cycled_key, self._resigned = True, None, None
        self._saved, self._loaded, self.record, self.user_row = EMPTY, None, None, None

    @property
    def stored_key(self) -> str | None:
        """Returns the key that must still exist in the store when this session is saved; None for a new session."""
        return self.session_key or self._cycled_key

    @property
    def next_key(self) -> str:
        """Returns the key that the session will have once it is saved.

        A page can use it before that, for example in a CSRF token that must be valid after the response.
        """
        if self.session_key is not None:
            return self.session_key
        self._next_key = self._next_key or self.new_key()
        return self._next_key

    def _discard_key(self) -> None:
        self._next_key = None
        if self.session_key is not None:
            self._key_to_delete, self._session_key = self.session_key, None

    @property
    def created(self) -> int:
        """Returns when the session was created, in seconds since 1970. For a login this is the time of the login."""
        return self.record.created if self.record is not None else int(self._clock())

    @property
    def last_seen(self) -> int:
        """Returns when the session was last used, in seconds since 1970, accurate to a minute."""
        return self.record.last_seen if self.record is not None else int(self._clock())

    @property
    def needs_touch(self) -> bool:
        """Returns whether `last_seen` of a logged-in session is at least 60 seconds old and must be updated."""
        record = self.record
        return record is not None and int(self._clock()) - record.last_seen >= TOUCH_EVERY and self.user_id is not None

    @property
    def is_expired(self) -> bool:
        """Returns whether the absolute timeout or the idle timeout of the login has passed."""
        limit, record = self.limit, self.record
        if limit is None or record is None:
            return False
        now = int(self._clock())
        return now >= record.created + limit.absolute or now >= record.last_seen + limit.idle

    def set_expiry(self, value: int | timedelta | datetime | None) -> None:
        """Sets when the session expires, as Django's method of this name.

        An int is a number of seconds after each change, 0 means when the browser closes, a timedelta or a datetime
        with a time zone is a fixed time, and None restores the default. For a logged-in user this can only shorten
        what `Auth(session_limits=…)` allows. Raises ValueError for a datetime without a time zone.
        """
        if value is None:
            self.pop(EXPIRY, None)
            return
        if isinstance(value, timedelta):
            value = utc_now(self._clock) + value
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise ValueError("The datetime has no time zone. Use datetime.now(UTC) + timedelta(…).")
            self[EXPIRY] = self.format_expiry(value)
            return
        self[EXPIRY] = value

    def get_expiry_age(self) -> int:
        """Returns the seconds until the session expires, if no further request arrives."""
        if self.limit is None:
            return self._requested_age()
        allowed = max(0, min(self.limit.idle, self._until_limit()))
        return min(self._requested_age(), allowed) if self.get(EXPIRY) else allowed

    def get_cookie_age(self) -> int | None:
        """Returns how many seconds the browser keeps the cookie; None means until the browser closes.

        The cookie of a remembered login lasts until the absolute timeout. The store checks the idle timeout, which
        each request extends (sliding expiry) without setting the cookie again.
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
        """Returns the data as ASCII JSON, as stores keep it. Raises TypeError for what JSON cannot represent."""
        return encode_data(self)

    def mark_saved(self, session_key: str, record: SessionRecord, saved: str) -> None:
        """Notes that a store saved the session.

        `saved` is this session's own data, `record` is the record that is stored now: it may also contain the changes
        of other requests.
        """
        if self._cycled_key is not None:
            self._key_to_delete = None  # the store has replaced the old key with the new one
        self._session_key, self.record, self._saved, self._loaded = session_key, record, saved, None
        self._touched, self._cycled_key, self._next_key, self._resigned = False, None, None, None

    def _requested_age(self) -> int:
        expiry = self.get(EXPIRY)
        if isinstance(expiry, str):
            return max(0, int((self.parse_expiry(expiry) - utc_now(self._clock)).total_seconds()))
        return expiry or self.max_age

    def format_expiry(self, end: datetime) -> str:
        """Returns the text that `set_expiry` stores for a datetime."""
        return end.astimezone(UTC).isoformat()

    def parse_expiry(self, text: str) -> datetime:
        """Returns the datetime that such a text represents."""
        return datetime.fromisoformat(text)

    def _until_limit(self) -> int:
        assert self.limit is not None  # noqa: S101  callers have checked it
        return self.created + self.limit.absolute - int(self._clock())
