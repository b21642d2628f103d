"""Column types, columns, constraints and indexes like those that Django creates."""

import functools
import hashlib
import importlib
import string
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from datetime import UTC, tzinfo
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from ..core.exceptions import ImproperlyConfigured

#: The key under which the `info` of a metadata has the variants of its tables. Alembic writes that of a table to scripts.
VARIANTS = "starlette_auth"
IDENTITIES = "starlette_auth.identities"


class UTCDateTime(sa.DateTime):
    """A column of a Django project for aware datetimes with microseconds.

    `zone` is the time zone of the stored values on databases that store no time zone.
    """

    def __init__(self, zone: tzinfo = UTC) -> None:
        super().__init__(timezone=True)
        self.zone = zone


@compiles(UTCDateTime, "mysql", "mariadb")
def _mysql_datetime(kind: UTCDateTime, compiler: Any, **options: Any) -> str:
    return "DATETIME(6)"


def date_time() -> sa.DateTime:
    """Returns a type for aware datetimes with microseconds. Its parts are SQLAlchemy's, so Alembic can write it."""
    return sa.DateTime(timezone=True).with_variant(_mysql().DATETIME(fsp=6), "mysql", "mariadb")


def long_text() -> sa.Text:
    """Returns a type for text of any length. MySQL limits TEXT to 64 KiB, so it is LONGTEXT there."""
    return sa.Text().with_variant(_mysql().LONGTEXT(), "mysql", "mariadb")


def _mysql() -> Any:
    """Returns SQLAlchemy's dialect. An application that defines no table does not import it."""
    return importlib.import_module("sqlalchemy.dialects.mysql")


def key_column(*, big: bool = False) -> sa.Column[Any]:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite") if big else sa.Integer()
    return sa.Column("id", kind, sa.Identity(), primary_key=True)


class Variant(ABC):
    """A part of a table that differs between databases. `finish` gives the table the form for one of them.

    `ddl_if` would do so only in CREATE statements. Alembic compares all constraints and indexes of a table with those of
    the database.
    """

    table: sa.Table

    def __init__(self, name: str) -> None:
        self.name = name
        self._dialect = ""
        self._items: Sequence[sa.Index | sa.UniqueConstraint] = ()

    def attach(self, table: sa.Table, rename: Callable[[str], str] = str) -> None:
        """Adds the variant to a table, unless the table has it. `rename` returns the names of constraints and indexes."""
        self.table, self.name = table, rename(self.name)
        variants = variants_of(table)
        names = {variant.name for variant in variants} | {index.name for index in table.indexes}
        if self.name not in names:
            variants.append(self)

    def finish(self, dialect: str) -> None:
        if dialect == self._dialect:
            return
        for item in self._items:
            self.table.indexes.discard(item)
            self.table.constraints.discard(item)
        self._dialect, self._items = dialect, self.make(dialect)

    @abstractmethod
    def make(self, dialect: str) -> Sequence[sa.Index | sa.UniqueConstraint]:
        """Adds the indexes or constraints for one database to the table, and returns them."""


def variants_of(table: sa.Table) -> list[Variant]:
    by_table: dict[str, list[Variant]] = table.metadata.info.setdefault(VARIANTS, {})
    return by_table.setdefault(table.key, [])


def finish_table(table: sa.Table, dialect: str) -> None:
    """Gives a table the constraints, indexes and identity columns for one database."""
    identities = table.metadata.info.setdefault(IDENTITIES, {})
    for column in table.columns:
        # SQLite and MySQL have no identity columns, and Alembic would report that they are missing.
        if identity := identities.setdefault((table.key, column.key), column.identity):
            column.identity = column.server_default = identity if dialect == "postgresql" else None
    for variant in variants_of(table):
        variant.finish(dialect)


class UniqueTogether(Variant):
    """A unique index on SQLite and a unique constraint on other databases, as Django creates them."""

    def __init__(self, name: str, *columns: str) -> None:
        super().__init__(name)
        self._columns = columns

    def attach(self, table: sa.Table, rename: Callable[[str], str] = str) -> None:
        super().attach(table, rename)
        self._constraint = sa.UniqueConstraint(*self._columns, name=self.name)

    def make(self, dialect: str) -> Sequence[sa.Index | sa.UniqueConstraint]:
        if dialect == "sqlite":
            return [sa.Index(self.name, *(self.table.c[column] for column in self._columns), unique=True)]
        self.table.append_constraint(self._constraint)
        return [self._constraint]


class ForeignKey(Variant):
    """A foreign key, by default without cascade, and its index, as Django creates them.

    The key is deferred on SQLite, where it has no name, and on PostgreSQL. MySQL creates the index automatically.
    Without `index`, the primary key or a unique constraint must begin with the column. `on_delete="CASCADE"` lets a
    Django project that does not know the table delete the rows to which it refers.
    """

    def __init__(
        self, name: str, index: str | None, column: str, target: sa.Column[Any], *, on_delete: str | None = None
    ) -> None:
        super().__init__(index or name)
        self._has_index, self._key_name, self._column = index is not None, name, column
        self._target, self._on_delete = target, on_delete

    def attach(self, table: sa.Table, rename: Callable[[str], str] = str) -> None:
        super().attach(table, rename)
        self._key_name = rename(self._key_name)
        self._key = sa.ForeignKeyConstraint([self._column], [self._target], ondelete=self._on_delete)
        table.append_constraint(self._key)

    def make(self, dialect: str) -> Sequence[sa.Index | sa.UniqueConstraint]:
        self._key.name = None if dialect == "sqlite" else self._key_name
        self._key.deferrable = None if dialect == "mysql" else True
        self._key.initially = None if dialect == "mysql" else "DEFERRED"
        return [sa.Index(self.name, self.table.c[self._column])] if self._has_index and dialect != "mysql" else []


class LikeIndex(Variant):
    """The second index that PostgreSQL needs to search by prefix."""

    def __init__(self, name: str, column: str) -> None:
        super().__init__(name)
        self._column = column

    def make(self, dialect: str) -> Sequence[sa.Index]:
        if dialect != "postgresql":
            return []
        column = self.table.c[self._column]
        return [sa.Index(self.name, column, postgresql_ops={column.key: "varchar_pattern_ops"})]


class LookupIndex(Variant):
    """An index for look-ups that ignore case.

    It is on lower(column). MariaDB has no such indexes: there it is on the column, whose collation ignores case.
    """

    def __init__(self, column: sa.Column[Any]) -> None:
        super().__init__(derived_name(column.table.name, f"_{column.name}_lower"))
        self._column = column

    def make(self, dialect: str) -> Sequence[sa.Index]:
        column = self._column
        if dialect != "mysql":
            return [sa.Index(self.name, sa.func.lower(column))]
        if column.unique or column.index:
            return []
        length = getattr(column.type, "length", None)
        # MariaDB indexes only the beginning of a column of type TEXT, and at most 768 characters (3072 bytes).
        is_short = length is not None and length <= 768
        options: dict[str, Any] = (
            {} if is_short else {f"{name}_length": {column.name: 191} for name in ("mysql", "mariadb")}
        )
        return [sa.Index(derived_name(column.table.name, f"_{column.name}_plain"), column, **options)]


class LoginHash(sa.Computed):
    """The hash of a name or an address in lower case, or NULL if it is empty.

    The column is invisible where `migrate` creates it, so that SELECT * and an INSERT without column names do not include
    it. The expression is spelled as MariaDB returns it, because Alembic compares the two.
    """

    def __init__(self, column: str) -> None:
        text = "cast(`" + column.replace("`", "``") + "` as char charset binary)"
        for letter in string.ascii_uppercase:
            text = f"replace({text},'{letter}','{letter.lower()}')"
        super().__init__(sa.literal_column(f"unhex(sha2(nullif({text},''),256))"), persisted=False)


@compiles(LoginHash)
def _compile_login_hash(computed: LoginHash, compiler: Any, **options: Any) -> str:
    return f"{compiler.visit_computed_column(computed, **options)} INVISIBLE"


class UniqueIndex(Variant):
    """An index by which no two rows have one text, ignoring case. Empty texts are exempt.

    MySQL and MariaDB have no such indexes. There the table gets a generated column and an index on it.
    """

    def __init__(self, column: sa.Column[Any]) -> None:
        super().__init__(unique_index_name(column))
        self._column = column

    def make(self, dialect: str) -> Sequence[sa.Index]:
        table, hash_name = self.table, f"{self._column.name}_login_hash"
        if dialect == "mysql":
            if hash_name not in table.c:
                table.append_column(sa.Column(hash_name, sa.BINARY(32), LoginHash(self._column.name), nullable=True))
            return [sa.Index(self.name, table.c[hash_name], unique=True)]
        if hash_name in table.c:
            raise ImproperlyConfigured(
                f"The table {table.fullname} was made ready for MySQL and cannot be used with {dialect}, too. Make a "
                "separate sa.Table and a separate Tables for each database."
            )
        where: dict[str, Any] = {f"{dialect}_where": self._column != sa.literal_column("''")}
        return [sa.Index(self.name, ascii_lowered(self._column, dialect), unique=True, **where)]


def add_lookup_index(column: sa.Column[Any]) -> None:
    LookupIndex(column).attach(column.table)


def add_unique_index(column: sa.Column[Any]) -> None:
    UniqueIndex(column).attach(column.table)


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


def derived_name(table: str, end: str) -> str:
    """Returns the table's name and `end`. If that is too long for PostgreSQL (63 bytes), a hash shortens the first.

    PostgreSQL cuts a longer name without an error, so two tables could get one name.
    """
    if len(f"{table}{end}".encode()) <= 63:
        return f"{table}{end}"
    digest = hashlib.sha256(table.encode()).hexdigest()[:8]
    beginning = table.encode()[: 63 - len(f"_{digest}{end}".encode())].decode(errors="ignore")
    return f"{beginning}_{digest}{end}"


def prefixed_name(prefix: str, name: str) -> str:
    """Returns `prefix` and `name`. If that is too long for PostgreSQL (63 bytes), a hash replaces the end."""
    full_name = f"{prefix}{name}"
    digest = hashlib.sha256(full_name.encode()).hexdigest()[:8]
    return full_name if len(full_name) <= 63 else f"{full_name[:54]}_{digest}"


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
