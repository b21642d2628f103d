"""A session that Django may have written, or will read."""

import hashlib
import secrets
import string
from datetime import UTC, datetime, tzinfo
from typing import Any

from .base import AUTH_TIME, EXPIRY, Record, SessionBase, check_keys, encode, user_in


def new_django_key() -> str:
    """32 letters and digits, 165 bits: Django's form, for Django's column."""
    return "".join(secrets.choice(string.ascii_lowercase + string.digits) for _ in range(32))


class DjangoSession(SessionBase):
    """One that may hold what Django stored there."""

    new_key = staticmethod(new_django_key)
    #: What was read, signature and all.
    text = ""

    def __init__(self, *data: Any, zone: tzinfo | None = None, **options: Any) -> None:
        """`zone` is the project's TIME_ZONE where it says USE_TZ=False: then moments are stored without one."""
        super().__init__(*data, **options)
        self.zone = zone

    def encode(self) -> str:
        check_keys(self)
        return encode(self)

    def as_text(self, end: datetime) -> str:
        return super().as_text(end) if self.zone is None else end.astimezone(self.zone).replace(tzinfo=None).isoformat()

    def as_moment(self, text: str) -> datetime:
        stored = datetime.fromisoformat(text)
        return stored if stored.tzinfo is not None else stored.replace(tzinfo=self.zone or UTC)


def django_record(session_key: str, data: dict[str, Any], expires: int, now: int, max_age: int) -> Record:
    """As far as Django knows: when a session was last changed, unless it ends at a time of its own; of ours, the login."""
    changed = now if EXPIRY in data else min(now, expires - max_age)
    begun = data.get(AUTH_TIME)
    return Record(
        data=encode(data),
        public_id=hashlib.sha256(session_key.encode()).hexdigest()[:32],
        user_id=user_in(data),
        created=begun if isinstance(begun, int) else changed,
        last_seen=changed,
        expires=expires,
    )


def is_django_key(cookie: str) -> bool:
    """Whether a cookie has the form of a key of Django's, or of another engine's."""
    return 8 <= len(cookie) <= 40 and cookie.isascii() and cookie.isalnum()
