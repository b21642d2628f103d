"""Creating the tables, and completing those that are there."""

from collections.abc import Iterator

import sqlalchemy as sa
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

    ImproperlyConfigured when a table lacks a column that cannot be added to the rows that are there.
    """
    async with gateway.atomic():
        if gateway.dialect in TAKE_LOCK:
            await gateway.fetch_all(sa.text(TAKE_LOCK[gateway.dialect]).columns(sa.column("taken")))
        try:
            return [name async for name in _complete(gateway, tables)]
        finally:
            if gateway.dialect in RELEASE_LOCK:
                await gateway.fetch_all(sa.text(RELEASE_LOCK[gateway.dialect]).columns(sa.column("released")))


async def _complete(gateway: Gateway, tables: Tables):  # type: ignore[no-untyped-def]
    columns = sa.text(EXISTING[gateway.dialect]).columns(sa.column("table_name"), sa.column("column_name"))
    existing: dict[str, set[str]] = {}
    for row in await gateway.fetch_all(columns):
        existing.setdefault(row["table_name"], set()).add(row["column_name"])
    indexes = sa.text(INDEXES[gateway.dialect]).columns(sa.column("index_name"))
    indexed = {row["index_name"] for row in await gateway.fetch_all(indexes)}
    for table in tables:
        if table.name not in existing:
            await gateway.execute(CreateTable(table))
            yield table.name
        else:
            for column in _missing(table, existing[table.name]):
                await gateway.execute(sa.text(_add(gateway, table, column)))
                yield f"{table.name}.{column.name}"
        for index in sorted(_indexes(table, gateway.dialect), key=lambda one: str(one.name)):
            if index.name not in indexed:
                await gateway.execute(CreateIndex(index))
                yield index.name


def _missing(table: sa.Table, present: set[str]) -> Iterator[sa.Column[object]]:
    for column in table.columns:
        if column.name in present:
            continue
        if not column.nullable and column.server_default is None:
            raise ImproperlyConfigured(
                f"The table {table.name} has no column {column.name}, and there is no value for the rows that are in it. "
                "Add the column yourself, or give it nullable=True or a server_default."
            )
        yield column


def _add(gateway: Gateway, table: sa.Table, column: sa.Column[object]) -> str:
    dialect = DIALECTS[gateway.dialect]
    # The same words as in CREATE TABLE, of a table that has this column only.
    words = dialect.ddl_compiler(dialect, CreateTable(table)).get_column_specification(column)
    return f"ALTER TABLE {dialect.identifier_preparer.format_table(table)} ADD COLUMN {words}".replace(":", "\\:")


def _indexes(table: sa.Table, dialect: str) -> Iterator[sa.Index]:
    return (index for index in table.indexes if dialect in index.info.get("only", (dialect,)))
