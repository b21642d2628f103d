"""SQL statements, rendered once for each database."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from .values import bind_processor, result_processor

Row = dict[str, Any]
DIALECTS = {
    "sqlite": ("sqlite", "named"),
    # Not PostgreSQL's in general, which is that of another driver in each version of SQLAlchemy: in 2.0 of one that leaves
    # the type of a parameter to the server, and that takes milliseconds beside a small number for a small number.
    "postgresql": ("postgresql.asyncpg", "numeric_dollar"),
    "mysql": ("mysql", "pyformat"),
}


@functools.cache
def get_dialect(name: str) -> sa.Dialect:
    """Imported when the first statement is written in it: each takes longer than all of this package."""
    module, paramstyle = DIALECTS[name]
    dialect: sa.Dialect = registry.load(module)(paramstyle=paramstyle)
    return dialect


class Statement:
    """A statement as it is meant, in SQLAlchemy's terms. Values are given by name at each call.

    `lasting=False`: a change that a power cut may take back, as a count, and for which nobody waits until the disk has
    it, where the database lets us choose.
    """

    def __init__(self, expression: sa.ClauseElement, *, durable: bool = True) -> None:
        self.expression = expression
        self.durable = durable
        self.by_dialect: dict[str, PreparedStatement] = {}  # by dialect

    def prepared(self, dialect: str) -> "PreparedStatement":
        if dialect not in self.by_dialect:
            self.by_dialect[dialect] = PreparedStatement(self.expression, get_dialect(dialect), durable=self.durable)
        return self.by_dialect[dialect]

    @functools.cached_property
    def select_matching(self) -> "Statement":
        """Of an UPDATE: a query with one row for each that it would hit.

        FOR UPDATE reads the newest state, where the snapshot of a transaction may show an older one.
        """
        update = cast(sa.Update, self.expression)
        query: sa.Select[Any] = sa.select(sa.literal_column("1").label("hit")).select_from(update.table)
        if update.whereclause is not None:
            query = query.where(update.whereclause)
        return Statement(query.with_for_update())


class PreparedStatement:
    """A statement as one driver wants it: its text, and what to do with each value on the way in and out."""

    def __init__(self, expression: sa.ClauseElement, dialect: sa.Dialect, *, durable: bool = True) -> None:
        self.durable = durable
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
        self.incoming = [(name, bind_processor(types[name], dialect)) for name in names]
        self.fixed = {name: given[name] for name, _ in self.incoming if name not in required}
        columns: Sequence[Any] = getattr(expression, "selected_columns", ())
        self.columns = [column.key for column in columns]
        outgoing = [(index, result_processor(column.type, dialect)) for index, column in enumerate(columns)]
        self.outgoing = [(index, convert) for index, convert in outgoing if convert is not None]

    def bind(self, values: Mapping[str, Any]) -> Any:
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
