"""SQL statements, rendered once for each database, and the values that go in and come out."""

import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from .exceptions import UnstorableValue
from .text import has_surrogate

Row = dict[str, Any]
Convert = Callable[[Any], Any]

DIALECTS = {
    "sqlite": ("sqlite", "named"),
    # Not PostgreSQL's in general, which is that of another driver in each version of SQLAlchemy: in 2.0 of one that leaves
    # the type of a parameter to the server, and that takes milliseconds beside a small number for a small number.
    "postgresql": ("postgresql.asyncpg", "numeric_dollar"),
    "mysql": ("mysql", "pyformat"),
}


@functools.cache
def dialect_of(name: str) -> sa.Dialect:
    """Imported when the first statement is written in it: each takes longer than all of this package."""
    module, paramstyle = DIALECTS[name]
    dialect: sa.Dialect = registry.load(module)(paramstyle=paramstyle)
    return dialect


class Statement:
    """A statement as it is meant, in SQLAlchemy's terms. Values are given by name at each call.

    `lasting=False`: a change that a power cut may take back, as a count, and for which nobody waits until the disk has
    it, where the database lets us choose.
    """

    def __init__(self, expression: sa.ClauseElement, *, lasting: bool = True) -> None:
        self.expression = expression
        self.lasting = lasting
        self.ready: dict[str, Prepared] = {}  # by dialect

    def prepared(self, dialect: str) -> "Prepared":
        if dialect not in self.ready:
            self.ready[dialect] = Prepared(self.expression, dialect_of(dialect), lasting=self.lasting)
        return self.ready[dialect]

    @functools.cached_property
    def matching(self) -> "Statement":
        """Of an UPDATE: a query with one row for each that it would hit.

        FOR UPDATE reads the newest state, where the snapshot of a transaction may show an older one.
        """
        update = cast(sa.Update, self.expression)
        query: sa.Select[Any] = sa.select(sa.literal_column("1").label("hit")).select_from(update.table)
        if update.whereclause is not None:
            query = query.where(update.whereclause)
        return Statement(query.with_for_update())


class Prepared:
    """A statement as one driver wants it: its text, and what to do with each value on the way in and out."""

    def __init__(self, expression: sa.ClauseElement, dialect: sa.Dialect, *, lasting: bool = True) -> None:
        self.lasting = lasting
        if isinstance(expression, sa.UpdateBase) and dialect.name == "sqlite" and not expression.exported_columns:
            # So that what was hit is counted in one hop to the connection's thread: its rows come with the answer.
            expression = expression.returning(sa.literal_column("1"))
        compiled = expression.compile(dialect=dialect)
        self.sql = str(compiled)
        types: dict[str, Any] = {}
        given: Mapping[str, Any] = {}
        required: set[str] = set()
        if isinstance(compiled, sa.sql.compiler.SQLCompiler):
            types = {name: bind.type for name, bind in compiled.binds.items()}
            given = compiled.params
            required = {name for name, bind in compiled.binds.items() if bind.required}
        order = getattr(compiled, "positiontup", None)
        self.positional = dialect.name == "postgresql"
        names: Iterable[str] = order if self.positional and order is not None else given
        self.incoming = [(name, _incoming(types[name], dialect)) for name in names]
        self.fixed = {name: given[name] for name, _ in self.incoming if name not in required}
        columns: Sequence[Any] = getattr(expression, "selected_columns", ())
        self.columns = [column.key for column in columns]
        outgoing = [(index, _outgoing(column.type, dialect)) for index, column in enumerate(columns)]
        self.outgoing = [(index, convert) for index, convert in outgoing if convert is not None]

    def arguments(self, values: Mapping[str, Any]) -> Any:
        """What the driver is given: a list for PostgreSQL, a dict elsewhere. UnstorableValue for what cannot be stored."""
        if self.fixed:
            values = {**self.fixed, **values}
        try:
            if self.positional:
                return [convert(values[name]) for name, convert in self.incoming]
            return {name: convert(values[name]) for name, convert in self.incoming}
        except KeyError:
            missing = [name for name, _ in self.incoming if name not in values]
            raise TypeError(f"The statement needs a value for {', '.join(missing)}. Pass it by that name.") from None

    def row(self, raw: Iterable[Any]) -> Row:
        cells = list(raw)
        for index, convert in self.outgoing:
            cells[index] = convert(cells[index])
        return dict(zip(self.columns, cells, strict=True))


def _incoming(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert:
    real = kind.dialect_impl(dialect)
    if isinstance(real, sa.DateTime):
        aware = dialect.name == "postgresql" and real.timezone
        return _moment_in(sqlite_text=dialect.name == "sqlite", aware=aware, zone=_zone_of(kind))
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


def _outgoing(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert | None:
    real = kind.dialect_impl(dialect)
    if isinstance(real, sa.JSON):
        return _json_out
    if isinstance(real, (sa.Numeric, sa.Float)) and dialect.name == "postgresql":
        return None  # asyncpg gives what it should be, and SQLAlchemy asks for the column's number to know
    process: Convert | None = real.result_processor(dialect, None)
    if isinstance(real, sa.DateTime):
        return _moment_out(process or _unchanged, _zone_of(kind))
    return process


def _zone_of(kind: sa.types.TypeEngine[Any]) -> tzinfo:
    """In which a database keeps the time that does not know of zones: UTC, but for old Django projects."""
    zone: tzinfo = getattr(kind, "zone", UTC)
    return zone


def _moment_in(*, sqlite_text: bool, aware: bool, zone: tzinfo) -> Convert:
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


def _moment_out(process: Convert, zone: tzinfo) -> Convert:
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
        if has_surrogate(value):
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


class json_list(GenericFunction[Any]):  # noqa: N801  it stands for an SQL function
    """The values of a group of rows as one JSON list, so that a user and all permissions come in one row."""

    inherit_cache = True


@compiles(json_list, "sqlite")
def _sqlite_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_array({compiler.process(element.clauses, **options)})"


@compiles(json_list, "postgresql")
def _postgresql_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(json_agg({compiler.process(element.clauses, **options)}) AS TEXT)"


@compiles(json_list, "mysql")
def _mysql_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    # Not GROUP_CONCAT: MySQL cuts it off after 1,024 bytes, and permissions would be lost in silence.
    return f"JSON_ARRAYAGG({compiler.process(element.clauses, **options)})"
