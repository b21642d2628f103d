"""Column types, columns, constraints and indexes like those that Django creates."""

import functools
import hashlib
import string
import uuid
from collections.abc import Sequence
from datetime import UTC, tzinfo
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles


class UTCDateTime(sa.DateTime):
    """A column for aware datetimes with microseconds.

    `zone` is the time zone of the stored values on databases that store no time zone.
    """

    def __init__(self, zone: tzinfo = UTC) -> None:
        super().__init__(timezone=True)
        self.zone = zone


class Bool(sa.Boolean):
    """Represents a column for True and False. On SQLite it is spelled `bool`, as in Django."""


class LongText(sa.Text):
    """A column for text of any length. MySQL limits TEXT to 64 KiB, so it is LONGTEXT there."""


@compiles(UTCDateTime, "mysql", "mariadb")
def _mysql_datetime(kind: UTCDateTime, compiler: Any, **options: Any) -> str:
    return "DATETIME(6)"


@compiles(Bool, "sqlite")
def _sqlite_bool(kind: Bool, compiler: Any, **options: Any) -> str:
    return "bool"


@compiles(LongText, "mysql", "mariadb")
def _mysql_text(kind: LongText, compiler: Any, **options: Any) -> str:
    return "LONGTEXT"


def key_column(*, big: bool = False) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite") if big else sa.Integer()
    return sa.Column("id", kind, sa.Identity(), primary_key=True)


def unique_together(name: str, *columns: str) -> Sequence[Any]:
    """Returns a unique index for SQLite and a unique constraint for other databases, as Django does."""
    return (
        sa.Index(name, *columns, unique=True, info={"only": ("sqlite",)}),
        *(sa.UniqueConstraint(*columns, name=name).ddl_if(dialect=dialect) for dialect in ("postgresql", "mysql")),
    )


def foreign_key(name: str, index: str, column: str, target: sa.Column[Any]) -> Sequence[Any]:
    """Returns a foreign key without cascade, and its index, as Django does.

    The key is deferred on SQLite and PostgreSQL. MySQL creates the index automatically.
    """
    return (
        sa.ForeignKeyConstraint([column], [target], deferrable=True, initially="DEFERRED").ddl_if(dialect="sqlite"),
        sa.ForeignKeyConstraint([column], [target], name=name, deferrable=True, initially="DEFERRED").ddl_if(
            dialect="postgresql"
        ),
        sa.ForeignKeyConstraint([column], [target], name=name).ddl_if(dialect="mysql"),
        sa.Index(index, column, info={"only": ("sqlite", "postgresql")}),
    )


def like_index(name: str, column: str) -> sa.Index:
    """Returns the second index that PostgreSQL needs to search by prefix."""
    return sa.Index(name, column, postgresql_ops={column: "varchar_pattern_ops"}, info={"only": ("postgresql",)})


def add_lookup_index(column: sa.Column[Any]) -> None:
    """Adds an index for look-ups that ignore case to the table of a column, unless the table has it.

    It is on lower(column). MariaDB has no such indexes: there it is on the column, whose collation ignores case.
    """
    table = column.table
    name = derived_name(table.name, f"_{column.name}_lower")
    if any(index.name == name for index in table.indexes):
        return
    # `migrate` reads `info`, and an application's own `metadata.create_all()` reads `ddl_if`.
    lowered = sa.Index(name, sa.func.lower(column), info={"only": ("sqlite", "postgresql")})
    lowered.ddl_if(dialect=("sqlite", "postgresql"))  # type: ignore[arg-type]  # several are allowed
    if column.unique or column.index:
        return
    length = getattr(column.type, "length", None)
    # MariaDB indexes only the beginning of a column of type TEXT, and at most 768 characters (3072 bytes).
    options: dict[str, Any] = {} if length and length <= 768 else {"mysql_length": {column.name: 191}}
    plain = sa.Index(derived_name(table.name, f"_{column.name}_plain"), column, info={"only": ("mysql",)}, **options)
    plain.ddl_if(dialect=("mysql", "mariadb"))  # type: ignore[arg-type]


def ascii_lowered(column: sa.ColumnElement[Any], dialect: str) -> sa.ColumnElement[Any]:
    """Returns the SQL for `core.text.ascii_lower`: the letters A to Z in lower case, and no others."""
    if dialect == "postgresql":
        return sa.func.lower(sa.collate(column, "C"))
    if dialect == "mysql":
        # LOWER() also changes other letters, and comparisons depend on the collation. Bytes are compared exactly.
        binary: sa.ColumnElement[Any] = sa.cast(column, sa.LargeBinary)
        return functools.reduce(_replace_letter, string.ascii_uppercase, binary)
    return sa.func.lower(column)  # SQLite knows only ASCII letters


def _replace_letter(text: sa.ColumnElement[Any], letter: str) -> sa.ColumnElement[Any]:
    upper: sa.ColumnElement[str] = sa.literal_column(f"'{letter}'")
    lower: sa.ColumnElement[str] = sa.literal_column(f"'{letter.lower()}'")
    return sa.func.replace(text, upper, lower, type_=sa.LargeBinary)


def unique_index_name(column: sa.Column[Any]) -> str:
    return derived_name(column.table.name, f"_{column.name}_unique")


def add_unique_index(column: sa.Column[Any]) -> None:
    """Adds an index to the table of a column, unless the table has it: no two rows have one text, ignoring case.

    Empty texts are exempt. MariaDB has no such indexes: there `migrate` adds a generated column.
    """
    name = unique_index_name(column)
    if any(index.name == name for index in column.table.indexes):
        return
    for dialect in ("sqlite", "postgresql"):
        where: dict[str, Any] = {f"{dialect}_where": column != sa.literal_column("''")}
        index = sa.Index(name, ascii_lowered(column, dialect), unique=True, info={"only": (dialect,)}, **where)
        index.ddl_if(dialect=dialect)


def derived_name(table: str, end: str) -> str:
    """Returns the table's name and `end`. If that is too long for PostgreSQL (63 bytes), a hash shortens the first.

    PostgreSQL cuts a longer name without an error, so two tables could get one name.
    """
    if len(f"{table}{end}".encode()) <= 63:
        return f"{table}{end}"
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    beginning = table.encode()[: 63 - len(f"_{digest}{end}".encode())].decode(errors="ignore")
    return f"{beginning}_{digest}{end}"


def parse_key(kind: type[Any], key: Any) -> Any:
    """Returns a key of the type `kind` from its text, or None if the text is not such a key."""
    if isinstance(key, kind) and not isinstance(key, bool):
        return key
    if not isinstance(key, str) or len(key) >= 64 or not key.isascii() or key != key.strip():
        return None
    try:
        return kind(key)
    except ValueError:
        return None


def column_defaults(table: sa.Table, when: Literal["default", "onupdate"]) -> dict[str, Any]:
    """Returns the Python values of `Column(default=…)` or `Column(onupdate=…)`, by column name.

    SQLAlchemy only compiles statements here and does not execute them, so it does not apply these values.
    """
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
