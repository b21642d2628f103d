"""Session records: what a store keeps of a session, with its data as JSON."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

USER_ID = "_auth_user_id"
EMPTY = "{}"
IMMUTABLE_TYPES = frozenset((str, int, float, bool, type(None)))
#: Accepts NaN, which another framework such as Django may have stored in a shared session. This package stores no NaN,
#: because it is not JSON (RFC 8259 §6).
encode_value = json.JSONEncoder(separators=(",", ":")).encode
_encode_strictly = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
#: Seconds for which requests in progress can still write to a session that was emptied.
GRACE = 60


class SessionRecord(NamedTuple):
    """What a store keeps of a session, under a hash of its key. Times are seconds since 1970, UTC.

    `public_id` identifies the session in lists and is not a credential. `created` is the time of the login. `version`
    counts the changes of `data`.
    """

    data: str
    public_id: str
    user_id: str | None
    created: int
    last_seen: int
    expires: int
    address: str = ""
    user_agent: str = ""
    version: int = 0


class Changes(NamedTuple):
    """The changes that a request made to a session: the values it set and the names it removed."""

    values: dict[str, Any]
    removed: list[str]

    def applied_to(self, data: dict[str, Any]) -> dict[str, Any]:
        """Returns `data` with these changes. All other entries stay as they are."""
        kept = {name: value for name, value in data.items() if name not in self.removed}
        return {**kept, **self.values}


def encode(data: Mapping[str, Any], encode: Callable[[Any], str] = encode_value) -> str:
    try:
        return encode(data)
    except (TypeError, ValueError) as error:
        invalid_key = next((key for key, value in data.items() if not is_json(value, encode)), "?")
        raise TypeError(
            f"request.session[{invalid_key!r}] cannot be stored as JSON: {error}. Store text, numbers, lists and dicts. "
            "For a datetime, store its isoformat()."
        ) from error


def decode(text: str) -> dict[str, Any]:
    """Returns the dict in a JSON text. Raises ValueError for anything but a JSON object."""
    try:
        data = json.loads(text)
    except RecursionError as error:
        raise ValueError("The stored session is nested too deeply.") from error
    if not isinstance(data, dict):
        raise ValueError("The stored session is not a JSON object.")
    return data


def user_in(data: Mapping[str, Any]) -> str | None:
    user_id = data.get(USER_ID)
    return user_id if isinstance(user_id, str) else None


def encode_data(data: Any) -> str:
    """Returns data that the application changed as JSON. Raises TypeError for what JSON cannot represent."""
    check_keys(data)
    return encode(data, _encode_strictly)


def check_keys(data: Any) -> None:
    """Raises TypeError for a dict key that is not text, at any depth. JSON would silently turn it into text."""
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                raise TypeError(f"The key {key!r} in request.session is not text. Use str({key!r}).")
            if type(value) not in IMMUTABLE_TYPES:
                check_keys(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            check_keys(value)


def is_json(value: Any, encode: Callable[[Any], str] = encode_value) -> bool:
    try:
        encode(value)
    except (TypeError, ValueError):
        return False
    return True


def new_public_id() -> str:
    """Returns the public id of a new session: 32 hexadecimal digits. A later session has a greater id.

    The id begins with the time. Between sessions that were created on several machines, the order depends on how well
    their clocks agree.
    """
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def next_record(stored: SessionRecord, data: str, user_id: str | None, *, max_age: int, now: int) -> SessionRecord:
    """Returns the record that replaces `stored`, with new data. Without a user, it has no address and no user agent."""
    return stored._replace(
        data=data,
        user_id=user_id,
        last_seen=now,
        expires=now + time_to_keep(data, max_age),
        address=stored.address if user_id is not None else "",
        user_agent=stored.user_agent if user_id is not None else "",
        version=stored.version + 1,
    )


def touched_record(stored: SessionRecord, address: str, *, max_age: int, now: int) -> SessionRecord:
    """Returns the record of a session that is in use now and was not changed."""
    return stored._replace(last_seen=now, expires=now + max_age, address=printable(address, 45) or stored.address)


def time_to_keep(data: str, max_age: int) -> int:
    """Returns for how many seconds a record is kept: an empty session for at most 60 seconds.

    It is not deleted at once, because a request in progress may still store something in it.
    """
    return max_age if data != EMPTY else min(max_age, GRACE)


def printable(text: str, length: int) -> str:
    """Returns a text from the client without unprintable characters, cut to `length` characters.

    An attacker could otherwise send control sequences to the terminal of an administrator, or a value too long for the
    column.
    """
    return (text if text.isprintable() else "".join(filter(str.isprintable, text)))[:length]
