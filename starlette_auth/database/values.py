"""Conversion of bind parameters and result values."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any

import sqlalchemy as sa

from ..core.exceptions import UnstorableValue
from ..core.text import has_lone_surrogate

Convert = Callable[[Any], Any]


def bind_processor(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert:
    impl = kind.dialect_impl(dialect)
    if isinstance(impl, sa.DateTime):
        aware = dialect.name == "postgresql" and impl.timezone
        return _datetime_bind_processor(sqlite_text=dialect.name == "sqlite", aware=aware, zone=_zone_of(kind))
    check: Convert | None = None
    if isinstance(impl, sa.String):
        check = _text_check(impl.length)
    elif isinstance(impl, sa.Integer):
        wide = isinstance(impl, sa.BigInteger) or dialect.name == "sqlite"
        check = _integer_check(2**63 if wide else 2**31)
    process = _dump_json if isinstance(impl, sa.JSON) else impl.bind_processor(dialect)
    if check is None or process is None:
        return check or process or _unchanged
    return _chain(check, process)


def result_processor(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert | None:
    impl = kind.dialect_impl(dialect)
    if isinstance(impl, sa.JSON):
        return _load_json
    if isinstance(impl, (sa.Numeric, sa.Float)) and dialect.name == "postgresql":
        return None  # asyncpg returns the right type; the processor of SQLAlchemy needs a driver's type code
    process: Convert | None = impl.result_processor(dialect, None)
    if isinstance(impl, sa.DateTime):
        return _datetime_result_processor(process or _unchanged, _zone_of(kind))
    return process


def _zone_of(kind: sa.types.TypeEngine[Any]) -> tzinfo:
    """Returns the time zone of values stored without one: UTC, except in Django projects with USE_TZ=False."""
    zone: tzinfo = getattr(kind, "zone", UTC)
    return zone


def _datetime_bind_processor(*, sqlite_text: bool, aware: bool, zone: tzinfo) -> Convert:
    """Returns a conversion of aware datetimes to the values that the driver stores.

    aiosqlite would drop the UTC offset without converting the time, and asyncpg needs an aware datetime.
    """

    def convert(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, datetime):
            raise UnstorableValue(f"A datetime column cannot store {type(value).__name__}. Pass a datetime.")
        if value.tzinfo is None:
            raise UnstorableValue(f"{value!r} has no time zone. Use datetime.now(UTC).")
        value = value.astimezone(UTC if aware else zone)
        if sqlite_text:
            return value.replace(tzinfo=None).isoformat(" ", "microseconds")
        return value if aware else value.replace(tzinfo=None)

    return convert


def _datetime_result_processor(process: Convert, zone: tzinfo) -> Convert:
    def convert(value: Any) -> datetime | None:
        if value is None:
            return None
        time: datetime = process(value)
        if time.tzinfo is None:
            time = time.replace(tzinfo=zone)
        return time if time.tzinfo is UTC else time.astimezone(UTC)

    return convert


def _dump_json(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _load_json(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _text_check(length: int | None) -> Convert:
    """Returns a check for text, which gives the same errors on all databases.

    PostgreSQL rejects NUL, drivers reject lone surrogates, and SQLite ignores the length limit.
    """

    def check(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, str):
            raise UnstorableValue(f"A text column cannot store {type(value).__name__}. Pass a str.")
        if has_lone_surrogate(value):
            raise UnstorableValue("A lone surrogate cannot be stored. Remove it.")
        if "\x00" in value:
            raise UnstorableValue("The character NUL cannot be stored. Remove it.")
        if length is not None and len(value) > length:
            raise UnstorableValue(f"{len(value)} characters do not fit into {length}. Shorten the value.")
        return value

    return check


def _integer_check(limit: int) -> Convert:
    def check(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, int):
            raise UnstorableValue(f"An integer column cannot store {type(value).__name__}. Pass an int.")
        if not -limit <= value < limit:
            raise UnstorableValue("The number is too large for its column. Pass a smaller one.")
        return value

    return check


def _chain(first: Convert, second: Convert) -> Convert:
    return lambda value: second(first(value))


def _unchanged(value: Any) -> Any:
    return value
