"""Conversion of values on their way into and out of a database."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import Any

import sqlalchemy as sa

from ..core.exceptions import UnstorableValue
from ..core.text import has_lone_surrogate

Convert = Callable[[Any], Any]


def bind_processor(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert:
    real = kind.dialect_impl(dialect)
    if isinstance(real, sa.DateTime):
        aware = dialect.name == "postgresql" and real.timezone
        return _datetime_bind_processor(sqlite_text=dialect.name == "sqlite", aware=aware, zone=_zone_of(kind))
    check: Convert | None = None
    if isinstance(real, sa.String):
        check = _text_check(real.length)
    elif isinstance(real, sa.Integer):
        wide = isinstance(real, sa.BigInteger) or dialect.name == "sqlite"
        check = _integer_check(2**63 if wide else 2**31)
    process = _json_in if isinstance(real, sa.JSON) else real.bind_processor(dialect)
    if check is None or process is None:
        return check or process or _unchanged
    return _both(check, process)


def result_processor(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert | None:
    real = kind.dialect_impl(dialect)
    if isinstance(real, sa.JSON):
        return _json_out
    if isinstance(real, (sa.Numeric, sa.Float)) and dialect.name == "postgresql":
        return None  # asyncpg gives what it should be, and SQLAlchemy asks for the column's number to know
    process: Convert | None = real.result_processor(dialect, None)
    if isinstance(real, sa.DateTime):
        return _datetime_result_processor(process or _unchanged, _zone_of(kind))
    return process


def _zone_of(kind: sa.types.TypeEngine[Any]) -> tzinfo:
    """In which a database keeps the time that does not know of zones: UTC, but for old Django projects."""
    zone: tzinfo = getattr(kind, "zone", UTC)
    return zone


def _datetime_bind_processor(*, sqlite_text: bool, aware: bool, zone: tzinfo) -> Convert:
    """Drivers drop an offset without converting (aiosqlite), or demand one (asyncpg): all is converted before they see it."""

    def convert(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, datetime):
            raise UnstorableValue(f"A column of times was given {type(value).__name__}. Pass a datetime.")
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
        moment: datetime = process(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        return moment if moment.tzinfo is UTC else moment.astimezone(UTC)

    return convert


def _json_in(value: Any) -> str | None:
    return None if value is None else json.dumps(value)


def _json_out(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _text_check(length: int | None) -> Convert:
    """PostgreSQL refuses NUL, drivers refuse half a surrogate pair, SQLite stores too much: the same answer from all."""

    def check(value: Any) -> Any:
        if value is None:
            return None
        if not isinstance(value, str):
            raise UnstorableValue(f"A column of text was given {type(value).__name__}. Pass a str.")
        if has_lone_surrogate(value):
            raise UnstorableValue("Half of a surrogate pair cannot be stored. Remove it.")
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
            raise UnstorableValue(f"A column of integers was given {type(value).__name__}. Pass an int.")
        if not -limit <= value < limit:
            raise UnstorableValue("The number is too large for its column. Pass a smaller one.")
        return value

    return check


def _both(first: Convert, second: Convert) -> Convert:
    return lambda value: second(first(value))


def _unchanged(value: Any) -> Any:
    return value
