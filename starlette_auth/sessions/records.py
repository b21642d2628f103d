"""Session records: what a store keeps of a session, and its data as JSON."""

import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

USER_ID = "_auth_user_id"
EMPTY = "{}"
IMMUTABLE_TYPES = frozenset((str, int, float, bool, type(None)))
#: Anything that a neighbour, Django for one, may have stored; we store no NaN, which is not JSON (RFC 8259 §6).
encode_value = json.JSONEncoder(separators=(",", ":")).encode
_encode_strictly = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode
#: Seconds for which a session that was emptied can still be written to by requests that are under way.
GRACE = 60


class SessionRecord(NamedTuple):
    """What a store keeps of a session, under a hash of its key. Times are seconds since 1970, UTC.

    `public_id` names the session to its owner, and opens nothing. `created` is the moment of the login; `version`
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
    """What a request did to a session: the values that it set, and the names that it removed."""

    values: dict[str, Any]
    removed: list[str]

    def applied_to(self, data: dict[str, Any]) -> dict[str, Any]:
        """What others did to other names stays."""
        kept = {name: value for name, value in data.items() if name not in self.removed}
        return {**kept, **self.values}


def encode(data: Mapping[str, Any], encode: Callable[[Any], str] = encode_value) -> str:
    try:
        return encode(data)
    except (TypeError, ValueError) as error:
        culprit = next((key for key, value in data.items() if not _is_json(value, encode)), "?")
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


def user_in(data: Mapping[str, Any]) -> str | None:
    user_id = data.get(USER_ID)
    return user_id if isinstance(user_id, str) else None


def check_keys(data: Any) -> None:
    """JSON would turn the keys of dicts into text behind the application's back."""
    if isinstance(data, dict):
        for key, value in data.items():
            if not isinstance(key, str):
                raise TypeError(f"{key!r} is a key in request.session, and not text. Use str({key!r}).")
            if type(value) not in IMMUTABLE_TYPES:
                check_keys(value)
    elif isinstance(data, (list, tuple)):
        for value in data:
            check_keys(value)


def _is_json(value: Any, encode: Callable[[Any], str]) -> bool:
    try:
        encode(value)
    except (TypeError, ValueError):
        return False
    return True


def new_public_id() -> str:
    """What a session is called in front of its owner: 32 hexadecimal digits, those of later ones being greater.

    As long as the clocks of all machines agree: of sessions that begin on several, the order is theirs.
    """
    return f"{time.time_ns():016x}{secrets.token_hex(8)}"


def first_record(
    data: str, user_id: str | None, *, max_age: int, now: float, address: str = "", user_agent: str = ""
) -> SessionRecord:
    """Returns the record of a session that is stored for the first time."""
    return SessionRecord(
        data=data,
        public_id=new_public_id(),
        user_id=user_id,
        created=int(now),
        last_seen=int(now),
        expires=int(now) + time_to_keep(data, max_age),
        address=_fitting(address, 45),
        user_agent=_fitting(user_agent, 255),
    )


def next_record(stored: SessionRecord, data: str, user_id: str | None, *, max_age: int, now: int) -> SessionRecord:
    """Returns the record that follows `stored`, with new data. Nothing is kept about anonymous visitors."""
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
    """Returns the record of a session that was used now, and not changed."""
    return stored._replace(last_seen=now, expires=now + max_age, address=_fitting(address, 45) or stored.address)


def time_to_keep(data: str, max_age: int) -> int:
    """For how many seconds: one that was emptied goes soon, though not under the hands of a request that fills it."""
    return max_age if data != EMPTY else min(max_age, GRACE)


def _fitting(text: str, length: int) -> str:
    """What a client says of itself, without what a terminal or a column would choke on."""
    return (text if text.isprintable() else "".join(filter(str.isprintable, text)))[:length]
