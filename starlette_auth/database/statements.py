"""SQL statements, compiled once for each dialect."""

import functools
import importlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from .adapters.drivers import UNCHANGED
from .values import Convert, bind_processor, result_processor

Row = dict[str, Any]
DIALECTS = {
    "sqlite": ("sqlite", "named"),
    # asyncpg by name, because the default driver for "postgresql" depends on the version of SQLAlchemy. The default of 2.0
    # leaves the types of bind parameters to the server. The server infers INTEGER for milliseconds next to a small number.
    "postgresql": ("postgresql.asyncpg", "numeric_dollar"),
    "mysql": ("mysql", "pyformat"),
}


@functools.cache
def get_dialect(name: str) -> sa.Dialect:
    """Returns a dialect of SQLAlchemy. Its import takes longer than all of this package, so it is done on first use."""
    module, paramstyle = DIALECTS[name]
    dialect: sa.Dialect = registry.load(module)(paramstyle=paramstyle)
    if name == "sqlite":  # Django's name of the type
        dialect.type_compiler_instance.visit_boolean = lambda kind, **options: "bool"  # type: ignore[attr-defined]
    return dialect


class Statement:
    """A statement of SQLAlchemy, prepared once for each dialect. Its bind parameters are passed by name at each call.

    `durable=False` is for changes that a power cut may undo, such as a counter. SQLite does not wait for the disk then.
    """

    def __init__(self, expression: sa.ClauseElement, *, durable: bool = True) -> None:
        self.expression = expression
        self.durable = durable
        self.by_dialect: dict[str, PreparedStatement] = {}

    def prepared(self, dialect: str) -> "PreparedStatement":
        if dialect not in self.by_dialect:
            self.by_dialect[dialect] = PreparedStatement(self.expression, get_dialect(dialect), durable=self.durable)
        return self.by_dialect[dialect]

    @functools.cached_property
    def select_matching(self) -> "Statement":
        """Returns a query with one row for each row that this UPDATE matches.

        FOR UPDATE reads the latest committed rows. The snapshot of a transaction may contain older ones.
        """
        update = cast(sa.Update, self.expression)
        query: sa.Select[Any] = sa.select(sa.literal_column("1").label("hit")).select_from(update.table)
        if update.whereclause is not None:
            query = query.where(update.whereclause)
        return Statement(query.with_for_update())


Query = Statement | sa.ClauseElement


def insert_into(table: sa.Table, dialect: str) -> Any:
    """Returns SQLAlchemy's INSERT for one dialect, which may update an existing row. Other dialects are not imported."""
    return importlib.import_module(f"sqlalchemy.dialects.{dialect}").insert(table)


def unchanged(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Returns the value of a column, in an upsert of MySQL that leaves the row as it is. The row does not count then."""
    return sa.func.if_(sa.func.last_insert_id(sa.literal_column(str(UNCHANGED))), column, column, type_=column.type)


class PreparedStatement:
    """A statement for one driver: its SQL, and the conversions of its bind parameters and result columns."""

    def __init__(self, expression: sa.ClauseElement, dialect: sa.Dialect, *, durable: bool = True) -> None:
        self.durable = durable
        if isinstance(expression, sa.UpdateBase) and dialect.name == "sqlite" and not expression.exported_columns:
            # RETURNING lets the driver count the matched rows with one call in the connection's thread.
            expression = expression.returning(sa.literal_column("1"))
        compiled = expression.compile(dialect=dialect)
        self.sql = str(compiled)
        types: dict[str, Any] = {}
        defaults: Mapping[str, Any] = {}
        required: set[str] = set()
        if isinstance(compiled, sa.sql.compiler.SQLCompiler):
            types = {name: bind.type for name, bind in compiled.binds.items()}
            defaults = compiled.params
            required = {name for name, bind in compiled.binds.items() if bind.required}
        order = getattr(compiled, "positiontup", None)
        self.positional = dialect.name == "postgresql"
        names: Iterable[str] = order if self.positional and order is not None else defaults
        self.incoming = [(name, bind_processor(types[name], dialect)) for name in names]
        self.fixed = {name: defaults[name] for name, _ in self.incoming if name not in required}
        columns: Sequence[Any] = getattr(expression, "selected_columns", ())
        self.columns = [column.key for column in columns]
        outgoing = [(index, result_processor(column.type, dialect)) for index, column in enumerate(columns)]
        self.outgoing = [(index, convert) for index, convert in outgoing if convert is not None]

    def bind(self, values: Mapping[str, Any]) -> Any:
        """Returns the arguments for the driver: a list for PostgreSQL, a dict for other databases.

        Raises UnstorableValue for a value that cannot be stored, and TypeError for a missing value.
        """
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


class ConditionQuery(Statement):
    """A query over tables of the application, with the values in it. It is prepared and run once.

    Values are converted by SQLAlchemy alone, as on the application's own connection: its columns have types that those of
    this package have not, such as enumerations.
    """

    def prepared(self, dialect: str) -> "PreparedStatement":
        return _PreparedCondition(self.expression, get_dialect(dialect))


class _PreparedCondition(PreparedStatement):
    def __init__(self, expression: sa.ClauseElement, dialect: sa.Dialect) -> None:
        compiled = cast(SQLCompiler, expression.compile(dialect=dialect))
        expanded = compiled.construct_expanded_state()  # one bind parameter for each value of an IN
        types = {name: bind.type for name, bind in compiled.binds.items()}
        self.fixed = dict(expanded.parameters)
        # Some characters of a name are escaped in the SQL, and for some versions of SQLAlchemy in the parameters.
        for name, escaped in compiled.escaped_bind_names.items():
            types[escaped] = types[name]
            for one, other in ((name, escaped), (escaped, name)):
                if one in expanded.parameters:
                    self.fixed.setdefault(other, expanded.parameters[one])
        types |= {name: types[key] for key, names in expanded.parameter_expansion.items() for name in names}
        self.durable, self.sql = True, expanded.statement
        self.positional = dialect.name == "postgresql"
        names: Iterable[str] = (expanded.positiontup or ()) if self.positional else self.fixed
        self.incoming = [(name, _own_bind_processor(types[name], dialect)) for name in names]
        self.columns = [column.key for column in getattr(expression, "selected_columns", ())]
        self.outgoing = []


def _own_bind_processor(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect) -> Convert:
    process: Convert | None = kind.dialect_impl(dialect).bind_processor(dialect)
    return process or (lambda value: value)


class json_list(GenericFunction[Any]):  # noqa: N801  the name of the SQL function
    """Aggregates the values of a group into a JSON list, so that one row holds a user with all permissions."""

    inherit_cache = True


@compiles(json_list, "sqlite")
def _sqlite_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_array({compiler.process(element.clauses, **options)})"


@compiles(json_list, "postgresql")
def _postgresql_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(json_agg({compiler.process(element.clauses, **options)}) AS TEXT)"


@compiles(json_list, "mysql")
def _mysql_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    # MySQL truncates the result of GROUP_CONCAT after 1,024 bytes, so permissions would be lost silently.
    return f"JSON_ARRAYAGG({compiler.process(element.clauses, **options)})"
