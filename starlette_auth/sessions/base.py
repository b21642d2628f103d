"""A session in memory, and what a store of sessions must do."""

import hashlib
import json
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from ..statements import Row

Clock = Callable[[], float]
EXPIRY = "_session_expiry"  # Django's name
KEY_LENGTH = 43  # characters of base64 that hold 256 bits


class SessionBase(dict[str, Any]):
    """A dict of what JSON can hold, and the wishes of the application about its key. No method waits.

    A store fills it in, the application changes it, the middleware saves it when the response starts.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | Iterable[tuple[str, Any]] = (),
        *,
        session_key: str | None = None,
        saved: str = "{}",
        user_row: Row | None = None,
        clock: Clock = time.time,
    ) -> None:
        """`saved` is the JSON that the store holds; `user_row` is what it found about the user on the way."""
        super().__init__(data)
        self._saved = saved
        self._clock = clock
        self._touched = False
        self.session_key = session_key
        self.discarded_key: str | None = None
        self.is_successor = False
        self.user_row = user_row
        self.user_id: Any = None
        self.accessed = False
        self.max_age = 14 * 24 * 60 * 60
        self.address = ""
        self.user_agent = ""

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {len(self)} keys>"

    def mark_accessed(self) -> None:
        """Starlette calls this whenever `request.session` is looked at."""
        self.accessed = True

    @property
    def modified(self) -> bool:
        """Whether there is anything to save. Compared with what was loaded, so changes deep inside count."""
        if self._touched or not self:
            return self._touched or self._saved != "{}"
        return encode(self) != self._saved

    @modified.setter
    def modified(self, value: bool) -> None:
        self._touched = value

    def is_empty(self) -> bool:
        """Whether there is nothing in it, and nothing stored under its key."""
        return not self and self.session_key is None

    def cycle_key(self) -> None:
        """Asks for a new key, and keeps the data. The old key is dead when the response starts.

        Like any change it is refused when the session was ended meanwhile: SessionInterrupted.
        """
        self.is_successor = self.is_successor or self.session_key is not None
        self._discard_key()
        self._touched = True

    def flush(self) -> None:
        """Asks for an end: the data goes now, what is stored goes when the response starts, even if that fails."""
        self.begin_anew()
        self.clear()
        self._saved, self._touched = "{}", False
        self.user_row = self.user_id = None

    def begin_anew(self) -> None:
        """Asks for a new key that owes nothing to the old one: somebody has just proved who they are."""
        self._discard_key()
        self._touched, self.is_successor = True, False

    @property
    def predecessor(self) -> str | None:
        """The key under which a store must still hold this session, or refuse to save it."""
        return self.session_key or (self.discarded_key if self.is_successor else None)

    def _discard_key(self) -> None:
        if self.session_key is not None:
            self.discarded_key, self.session_key = self.session_key, None

    def set_expiry(self, value: int | timedelta | datetime | None) -> None:
        """Seconds from each change on, a duration or a moment; 0: when the browser closes; None: the default again."""
        if value is None:
            self.pop(EXPIRY, None)
            return
        if isinstance(value, timedelta):
            value = self._now() + value
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise ValueError("The moment has no time zone. Use datetime.now(UTC) + timedelta(…).")
            self[EXPIRY] = value.astimezone(UTC).isoformat()
            return
        self[EXPIRY] = value

    def get_expiry_age(self) -> int:
        """Seconds that are left."""
        expiry = self.get(EXPIRY)
        if isinstance(expiry, str):
            return max(0, int((datetime.fromisoformat(expiry) - self._now()).total_seconds()))
        return expiry or self.max_age

    def get_expiry_date(self) -> datetime:
        return self._now() + timedelta(seconds=self.get_expiry_age())

    def get_expire_at_browser_close(self) -> bool:
        return self.get(EXPIRY) == 0

    def encode(self) -> str:
        """The data as stores keep it: JSON in ASCII. TypeError, with the fix, for what JSON cannot hold."""
        check_keys(self)
        return encode(self)

    def mark_saved(self, session_key: str | None, saved: str) -> None:
        """Called by stores: what is held in memory is now what they hold."""
        if self.is_successor:
            self.discarded_key = None  # the store has put the new key in its place
        self.session_key, self._saved = session_key, saved
        self._touched = self.is_successor = False

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


class SessionStore(Protocol):
    """Turns a cookie into a session and a session into a cookie."""

    async def load(self, cookie: str) -> SessionBase:
        """The session of this cookie; for an unknown or expired one a new and empty one, so no key can be adopted."""
        ...

    async def save(self, session: SessionBase, max_age: int) -> str:
        """Keeps the session for `max_age` seconds; gives the cookie's value.

        Raises SessionInterrupted when it was loaded from a key that is gone: nobody is logged back in by a slow request.
        """
        ...

    async def delete(self, session_key: str) -> None:
        """Forgets a session. Fine when it is not there."""
        ...

    async def clear_expired(self) -> int:
        """Deletes what nobody can load any more; gives the number."""
        ...


_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False, check_circular=True)


def encode(data: Mapping[str, Any]) -> str:
    try:
        return _encoder.encode(data)
    except (TypeError, ValueError) as error:
        culprit = next((key for key, value in data.items() if not _is_json(value)), "?")
        raise TypeError(
            f"request.session[{culprit!r}] is no JSON: {error}. Store text, numbers, lists and dicts; "
            "for a moment, its isoformat()."
        ) from error


def decode(text: str) -> dict[str, Any]:
    """What `encode` made. ValueError for anything but a JSON object."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("A stored session is no JSON object.")
    return data


def check_keys(data: Any) -> None:
    """JSON would turn the keys of dicts into text behind the application's back."""
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                raise TypeError(f"{key!r} is a key in request.session, and not text. Use str({key!r}).")
            check_keys(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            check_keys(value)


def new_key() -> str:
    return secrets.token_urlsafe(32)


def is_key(cookie: str) -> bool:
    """Whether a cookie has the form of a key; anything else is not worth a question to the database."""
    return len(cookie) == KEY_LENGTH and cookie.isascii() and cookie.replace("-", "a").replace("_", "a").isalnum()


def hash_key(session_key: str) -> str:
    """What is stored in place of the key: whoever reads the database cannot log in with it."""
    return hashlib.sha256(session_key.encode()).hexdigest()


def _is_json(value: Any) -> bool:
    try:
        _encoder.encode(value)
    except (TypeError, ValueError):
        return False
    return True
