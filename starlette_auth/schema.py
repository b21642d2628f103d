"""Creating the tables, and completing those that are there."""

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.schema import CreateIndex, CreateTable

from .exceptions import ImproperlyConfigured
from .gateway import Gateway
from .statements import DIALECTS
from .tables import Tables

LOCK = "starlette_auth.migrate"
EXISTING = {
    "sqlite": "SELECT m.name AS table_name, p.name AS column_name "
    "FROM sqlite_master m JOIN pragma_table_info(m.name) p WHERE m.type = 'table'",
    "postgresql": "SELECT table_name::text AS table_name, column_name::text AS column_name "
    "FROM information_schema.columns WHERE table_schema = ANY (current_schemas(false))",
    "mysql": "SELECT table_name AS table_name, column_name AS column_name "
    "FROM information_schema.columns WHERE table_schema = DATABASE()",
}
INDEXES = {
    "sqlite": "SELECT name AS index_name FROM sqlite_master WHERE type = 'index'",
    "postgresql": "SELECT indexname::text AS index_name FROM pg_indexes WHERE schemaname = ANY (current_schemas(false))",
    "mysql": "SELECT DISTINCT index_name AS index_name FROM information_schema.statistics WHERE table_schema = DATABASE()",
}
# Several processes may start at once; one of them migrates, the others find it done. SQLite's transactions do that alone.
TAKE_LOCK = {
    "postgresql": f"SELECT pg_advisory_xact_lock(hashtext('{LOCK}'))::text AS taken",
    "mysql": f"SELECT GET_LOCK('{LOCK}', 60) AS taken",
}
RELEASE_LOCK = {"mysql": f"SELECT RELEASE_LOCK('{LOCK}') AS released"}


async def migrate(gateway: Gateway, tables: Tables) -> list[str]:
    """Creates what is missing, and nothing else; gives the names. Safe to repeat, also at the same time.

    ImproperlyConfigured when a table lacks a column that cannot be added to the rows that are there; nothing is
    changed then.
    """
    async with gateway.atomic(), _alone(gateway):
        missing = await _missing(gateway, tables)
        for _, change in missing:
            await gateway.execute(change)
        return [name for name, _ in missing]


@contextlib.asynccontextmanager
async def _alone(gateway: Gateway) -> AsyncIterator[None]:
    if gateway.dialect in TAKE_LOCK:
        await gateway.fetch_all(sa.text(TAKE_LOCK[gateway.dialect]).columns(sa.column("taken")))
    try:
        yield
    finally:
        if gateway.dialect in RELEASE_LOCK:
            with contextlib.suppress(Exception):  # a connection that died has let go by itself
                await gateway.fetch_all(sa.text(RELEASE_LOCK[gateway.dialect]).columns(sa.column("released")))


async def _missing(gateway: Gateway, tables: Tables) -> list[tuple[str, sa.ExecutableDDLElement]]:
    """Names of what is missing, each with what creates it. All is found first: MySQL cannot undo a CREATE TABLE."""
    columns = sa.text(EXISTING[gateway.dialect]).columns(sa.column("table_name"), sa.column("column_name"))
    existing: dict[str, set[str]] = {}
    for row in await gateway.fetch_all(columns):
        existing.setdefault(row["table_name"], set()).add(row["column_name"])
    indexes = sa.text(INDEXES[gateway.dialect]).columns(sa.column("index_name"))
    indexed = {row["index_name"] for row in await gateway.fetch_all(indexes)}
    missing: list[tuple[str, sa.ExecutableDDLElement]] = []
    for table in tables:
        if table.name not in existing:
            missing.append((table.name, CreateTable(table)))
        else:
            absent = [column for column in table.columns if column.name not in existing[table.name]]
            missing.extend((f"{table.name}.{column.name}", _add(gateway, table, column)) for column in absent)
        absent_indexes = [index for index in _indexes(table, gateway.dialect) if index.name not in indexed]
        missing.extend((str(index.name), CreateIndex(index)) for index in sorted(absent_indexes, key=_name))
    return missing


def _add(gateway: Gateway, table: sa.Table, column: sa.Column[Any]) -> sa.ExecutableDDLElement:
    if not column.nullable and column.server_default is None:
        raise ImproperlyConfigured(
            f"The table {table.name} has no column {column.name}, and there is no value for the rows that are in it. "
            "Add the column yourself, or give it nullable=True or a server_default."
        )
    if column.unique or column.foreign_keys:
        raise ImproperlyConfigured(
            f"The table {table.name} has no column {column.name}, and its constraint cannot be added on every database. "
            "Add the column yourself, with the constraint."
        )
    dialect = DIALECTS[gateway.dialect]
    # The same words as in CREATE TABLE, of a table that has this column only.
    words = dialect.ddl_compiler(dialect, CreateTable(table)).get_column_specification(column)
    return _Words(f"ALTER TABLE {dialect.identifier_preparer.format_table(table)} ADD COLUMN {words}")


class _Words(sa.ExecutableDDLElement):
    """SQL that is ready: sa.text() and sa.DDL() would read colons and percent signs in it as their own."""

    def __init__(self, sql: str) -> None:
        self.sql = sql


@compiles(_Words)
def _as_they_are(words: _Words, compiler: object, **options: object) -> str:
    return words.sql


def _indexes(table: sa.Table, dialect: str) -> Iterator[sa.Index]:
    return (index for index in table.indexes if dialect in index.info.get("only", (dialect,)))


def _name(index: sa.Index) -> str:
    return str(index.name)
