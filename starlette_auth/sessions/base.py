"""The session object: a dict of data that records what should happen to its session key."""

import operator
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Never, overload

from ..core.clock import Clock
from ..core.signing import new_key
from ..database.statements import Row
from .expiry import MISSING, ExpiringSession
from .records import (
    EMPTY,
    IMMUTABLE_TYPES,
    Changes,
    SessionRecord,
    decode,
    encode,
    encode_data,
    encode_value,
    is_json,
    user_in,
)

AUTH_TIME = "_auth_time"  # of this package
CLIENT, APP = "_auth_client", "app"  # an entry of the sessions that a header opens, and not a cookie
TEST_COOKIE_NAME, TEST_COOKIE_VALUE = "testcookie", "worked"  # as in Django
#: Called after the session of a new login was saved. Raises TooManySessions to refuse the login.
Admission = Callable[["SessionBase"], Awaitable[None]]


class SessionBase(ExpiringSession):
    """A dict of JSON values that records requested changes of its session key.

    A store loads it, the application changes it, and the middleware saves it when the response starts. Only `save()`
    does any I/O: `cycle_key()` and `flush()` record what the middleware must do.
    """

    new_key = staticmethod(new_key)

    # Class attributes, because every request creates a session and most requests change none of these.
    accessed = False
    #: Whether the application called `flush()`.
    is_flushed = False
    #: Stores the session; set by SessionMiddleware for the time of a request.
    save_now: Callable[[], Awaitable[None]] | None = None
    #: Whether the client keeps the key and sends it in the header Authorization. No cookie is set then.
    is_in_header = False
    #: Begins a session whose key is sent in a header; set by SessionMiddleware if an Auth has `BearerSessions`.
    move_to_header: Callable[[], None] | None = None
    after_save: Admission | None = None
    #: Edits the headers of the response, given its status; set by other middleware.
    edit_headers: Callable[[list[tuple[bytes, bytes]], int], None] | None = None
    #: Says why an open connection must be closed; set by AuthenticationMiddleware.
    revalidate: Callable[..., Awaitable[str | None]] | None = None
    address = ""
    user_agent = ""
    _saved = EMPTY
    #: The data when the application set `modified` to False.
    _ignored: str | None = None
    _loaded: dict[str, Any] | None = None
    _touched = False
    _key_to_delete: str | None = None
    _next_key: str | None = None
    _first_key: str | None = None
    #: The first key of the session that `flush()` has ended.
    ended_key: str | None = None
    _cycled_key: str | None = None
    _resigned: str | None = None

    def __init__(
        self,
        data: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        session_key: str | None = None,
        first_key: str | None = None,
        record: SessionRecord | None = None,
        user_row: Row | None = None,
        clock: Clock = time.time,
    ) -> None:
        """`record` is the stored session record, `user_row` the user's row if the store loaded it as well."""
        super().__init__(data)
        self._clock = clock
        self._session_key, self._first_key = session_key, first_key
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
        if self._touched:
            return True
        if not self and self._saved == EMPTY:
            return False  # a new session, as of most visitors
        if self._is_as_loaded():
            return False
        data = encode(self) if self else EMPTY
        return data not in (self._saved, self._ignored)

    @modified.setter
    def modified(self, value: bool) -> None:
        """With False, what changed up to now is not a reason to save the session, as in Django."""
        self._touched, self._ignored = value, None
        if not value and self.modified:
            self._ignored = encode(self)

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

    def changes(self, since: str | None = None) -> Changes:
        """Returns the entries set and removed since the last load or save, or since `since`."""
        saved = decode(self._saved if since is None else since)
        values = {
            name: value
            for name, value in self.items()
            if name not in saved or encode_value(value) != encode_value(saved[name])
        }
        return Changes(values, [name for name in saved if name not in self])

    def unsaved_names(self) -> list[str] | None:
        """Returns the names of the entries that changed since the last save; None if none changed.

        They include entries that are not JSON.
        """
        try:
            if not self.modified:
                return None
            values, removed = self.changes(self._ignored)
            return [*values, *removed]
        except (TypeError, ValueError):
            invalid = [name for name, value in self.items() if not is_json(value)]
            return invalid or list(self)

    def merge_into(self, stored: str, saved: str) -> tuple[str, str | None]:
        """Returns the data to store and its user id: the changes of this session applied to the data `stored`.

        `saved` is this session's own data, which is the result if no other request changed the record meanwhile.
        """
        if stored == self._saved:
            return saved, self.user_id
        merged = self.changes().applied_to(decode(stored))
        return encode(merged), user_in(merged)

    @overload
    def pop(self, key: str, /) -> Any: ...

    @overload
    def pop(self, key: str, default: Any) -> Any: ...

    def pop(self, key: str, default: Any = MISSING) -> Any:
        """Removes and returns an entry. Raises KeyError if it is missing and there is no `default`."""
        return super().pop(key) if default is MISSING else super().pop(key, default)

    async def save(self) -> None:
        """Stores the session at once, instead of when the response starts.

        For changes after the response began: in a streamed body, a background task, or after a FastAPI `yield`. Raises
        RuntimeError if the browser would then need another cookie, and outside a request; SessionInterrupted if the
        session was ended in the meantime.
        """
        if self.save_now is None:
            raise RuntimeError(
                "request.session.save() needs SessionMiddleware, and works until its request ends. Call it in an endpoint, "
                "a background task or a streamed body; elsewhere, await auth.sessions.save(session, max_age)."
            )
        await self.save_now()

    def set_test_cookie(self) -> None:
        """Stores an entry that tells a later request that the browser accepts cookies, as in Django."""
        self[TEST_COOKIE_NAME] = TEST_COOKIE_VALUE

    def test_cookie_worked(self) -> bool:
        """Returns whether the browser sent the cookie of the session in which `set_test_cookie()` was called."""
        return self.get(TEST_COOKIE_NAME) == TEST_COOKIE_VALUE

    def delete_test_cookie(self) -> None:
        """Removes the entry of `set_test_cookie()`. Raises KeyError if there is none."""
        del self[TEST_COOKIE_NAME]

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
        self.ended_key = self.first_key or self.ended_key
        self.start_new()
        self.clear()
        self._touched, self.is_flushed, self._first_key = False, True, None
        self.limit = self.after_save = None

    def start_new(self) -> None:
        """Requests a new key and detaches the session from its stored record. The data stays.

        Called at login. An attacker who planted a session key in the browser would otherwise share the login
        (session fixation). If the user was logged in already, the first key stays, so that a logout in a concurrent
        request also ends this session.
        """
        self._first_key = self.first_key if self.user_id is not None else None
        self._discard_key()
        self._touched, self._cycled_key, self._resigned = True, None, None
        self._saved, self._loaded, self.record, self.user_row = EMPTY, None, None, None
        self._ignored = None

    @property
    def stored_key(self) -> str | None:
        """Returns the key that must still exist in the store when this session is saved; None for a new session."""
        return self.session_key or self._cycled_key

    @property
    def first_key(self) -> str | None:
        """Returns the key that a stored session had before any `cycle_key()`; None for a new session.

        Stores that keep sessions in cookies identify a session by it, because `cycle_key()` changes the session key.
        Other stores keep only the latest key.
        """
        return self._first_key or self.stored_key

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

    def encode(self) -> str:
        """Returns the data as ASCII JSON, as stores keep it. Raises TypeError for what JSON cannot represent."""
        return encode_data(self)

    def mark_saved(self, session_key: str, record: SessionRecord, saved: str) -> None:
        """Notes that a store saved the session.

        `saved` is this session's own data, `record` is the record that is stored now: it may also contain the changes
        of other requests.
        """
        self._first_key = self.first_key or session_key
        if self._cycled_key is not None:
            self._key_to_delete = None  # the store has replaced the old key with the new one
        self._session_key, self.record, self._saved, self._loaded = session_key, record, saved, None
        self._touched, self._cycled_key, self._next_key, self._resigned = False, None, None, None
        self._ignored = None
