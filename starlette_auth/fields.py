"""What goes into the fields of a user: keys, names, addresses, and what columns say for themselves."""

import unicodedata
import uuid
from collections.abc import Callable
from typing import Any, Literal

import sqlalchemy as sa

MAX_NAME_LENGTH = 512


def parse_key(kind: type[Any], key: Any) -> Any:
    """A key of this kind from its text; None for what cannot be one."""
    if isinstance(key, kind) and not isinstance(key, bool):
        return key
    if not isinstance(key, str) or len(key) >= 64 or not key.isascii() or key != key.strip():
        return None
    try:
        return kind(key)
    except ValueError:
        return None


def normalize_username(username: str) -> str:
    """Unicode's form NFKC, as Django does, so that ａｎｎ and ann are one name."""
    # It takes time that grows with the square of the length: what fits into no column is left as it is.
    return unicodedata.normalize("NFKC", username) if len(username) <= MAX_NAME_LENGTH else username


def normalize_email(email: str) -> str:
    """The domain in lower case, as Django does; the part before it is the mail server's business."""
    name, at, domain = email.strip().rpartition("@")
    return f"{name}@{domain.lower()}" if at else domain


def ascii_lower(text: str) -> str:
    """Not str.lower(): to that, the sign of Kelvin is a k, and another's address would be this one."""
    return "".join(mark.lower() if mark.isascii() else mark for mark in text)


FORMS: dict[str, Callable[[str], str]] = {"username": normalize_username, "email": normalize_email}


def values_of(table: sa.Table, when: Literal["default", "onupdate"]) -> dict[str, Any]:
    """What `Column(default=…)` and `Column(onupdate=…)` say in Python: nobody else asks the columns here."""
    values: dict[str, Any] = {}
    for column in table.columns:
        value: Any = getattr(column, when)
        if value is not None and value.is_scalar:
            values[column.name] = value.arg
        elif value is not None and value.is_callable:
            values[column.name] = value.arg(None)
        elif when == "default" and column.primary_key and column.type.python_type is uuid.UUID:
            values[column.name] = uuid.uuid4()
    return values
