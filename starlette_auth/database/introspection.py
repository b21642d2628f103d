"""Queries for the tables, columns, indexes and foreign keys of a database.

A table is looked up in the schema of its `sa.Table`, because another program may have a table of that name in another
schema. Without a schema it is the table that a statement without a schema means: on PostgreSQL the first one on the
search_path, on MySQL that of the connection's database, on SQLite that of `main`, where CREATE TABLE creates it.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import sqlalchemy as sa

from .gateway import Gateway
from .statements import Row

# `{here}` is the condition on the schema of the table `c`, and on SQLite `{main}` the name of the schema.
COLUMNS = {
    "sqlite": "SELECT m.name AS table_name, p.name AS column_name "
    "FROM {main}.sqlite_master m JOIN pragma_table_info(m.name, '{main}') p WHERE m.type = 'table'",
    "postgresql": "SELECT c.relname::text AS table_name, a.attname::text AS column_name "
    "FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid "
    "WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND a.attnum > 0 AND NOT a.attisdropped AND {here}",
    "mysql": "SELECT c.table_name AS table_name, c.column_name AS column_name "
    "FROM information_schema.columns c WHERE {here}",
}
INDEXES = {
    "sqlite": "SELECT tbl_name AS table_name, name AS index_name FROM {main}.sqlite_master WHERE type = 'index'",
    "postgresql": "SELECT c.relname::text AS table_name, i.relname::text AS index_name FROM pg_index x "
    "JOIN pg_class c ON c.oid = x.indrelid JOIN pg_class i ON i.oid = x.indexrelid WHERE {here}",
    "mysql": "SELECT DISTINCT c.table_name AS table_name, c.index_name AS index_name "
    "FROM information_schema.statistics c WHERE {here}",
}
#: The columns that refer to a table. `schema_name` is that of their table; NULL if it can be left out.
REFERENCES = {
    "sqlite": 'SELECT m.name AS table_name, f."from" AS column_name, :schema AS schema_name '
    "FROM {main}.sqlite_master m JOIN pragma_foreign_key_list(m.name, '{main}') f "
    "WHERE m.type = 'table' AND lower(f.\"table\") = lower(:name)",
    "postgresql": "SELECT t.relname::text AS table_name, a.attname::text AS column_name, "
    "(SELECT nspname::text FROM pg_namespace WHERE oid = t.relnamespace AND NOT pg_table_is_visible(t.oid)) "
    "AS schema_name "
    "FROM pg_constraint k JOIN pg_class c ON c.oid = k.confrelid JOIN pg_class t ON t.oid = k.conrelid "
    "JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1] "
    "WHERE k.contype = 'f' AND c.relname = :name AND {here}",
    "mysql": "SELECT c.table_name AS table_name, c.column_name AS column_name, "
    "NULLIF(c.table_schema, DATABASE()) AS schema_name FROM information_schema.key_column_usage c "
    "WHERE c.referenced_table_schema = {schema} AND c.referenced_table_name = :name",
}
#: The tables to which the foreign keys of a table refer, and the primary key of a table.
TARGETS = {
    "sqlite": 'SELECT "from" AS column_name, "table" AS table_name, :schema AS schema_name '
    "FROM pragma_foreign_key_list(:name, '{main}')",
    "postgresql": "SELECT a.attname::text AS column_name, r.relname::text AS table_name, "
    "(SELECT nspname::text FROM pg_namespace WHERE oid = r.relnamespace AND NOT pg_table_is_visible(r.oid)) "
    "AS schema_name "
    "FROM pg_constraint k JOIN pg_class r ON r.oid = k.confrelid JOIN pg_class c ON c.oid = k.conrelid "
    "JOIN pg_attribute a ON a.attrelid = k.conrelid AND a.attnum = k.conkey[1] "
    "WHERE k.contype = 'f' AND c.relname = :name AND {here}",
    "mysql": "SELECT c.column_name AS column_name, c.referenced_table_name AS table_name, "
    "NULLIF(c.referenced_table_schema, DATABASE()) AS schema_name FROM information_schema.key_column_usage c "
    "WHERE {here} AND c.table_name = :name AND c.referenced_table_name IS NOT NULL",
}
PRIMARY_KEYS = {
    "sqlite": "SELECT name AS column_name FROM pragma_table_info(:name, '{main}') WHERE pk = 1",
    "postgresql": "SELECT a.attname::text AS column_name FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid "
    "JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0] "
    "WHERE i.indisprimary AND c.relname = :name AND {here}",
    "mysql": "SELECT c.column_name AS column_name FROM information_schema.key_column_usage c "
    "WHERE {here} AND c.table_name = :name AND c.constraint_name = 'PRIMARY' AND c.ordinal_position = 1",
}
TYPES = {
    "sqlite": "SELECT name AS column_name, type AS type_name FROM pragma_table_info(:name, '{main}') ORDER BY cid",
    "postgresql": "SELECT a.attname::text AS column_name, format_type(a.atttypid, a.atttypmod)::text AS type_name "
    "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
    "WHERE c.relname = :name AND a.attnum > 0 AND NOT a.attisdropped AND {here} ORDER BY a.attnum",
    "mysql": "SELECT c.column_name AS column_name, c.column_type AS type_name FROM information_schema.columns c "
    "WHERE {here} AND c.table_name = :name ORDER BY c.ordinal_position",
}
#: What each index of a table begins with: its definition, or on MySQL the name of its first column.
DEFINITIONS = {
    "sqlite": "SELECT sql AS definition FROM {main}.sqlite_master "
    "WHERE type = 'index' AND tbl_name = :name AND sql IS NOT NULL",
    "postgresql": "SELECT pg_get_indexdef(x.indexrelid)::text AS definition FROM pg_index x "
    "JOIN pg_class c ON c.oid = x.indrelid WHERE c.relname = :name AND {here}",
    "mysql": "SELECT c.column_name AS definition FROM information_schema.statistics c "
    "WHERE {here} AND c.table_name = :name AND c.seq_in_index = 1",
}
HERE = {
    "postgresql": "c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = {schema})",
    "mysql": "c.table_schema = {schema}",
}
DEFAULT_HERE = {
    "postgresql": "pg_table_is_visible(c.oid) AND "
    "c.relnamespace IN (SELECT oid FROM pg_namespace WHERE nspname = ANY (current_schemas(false)))",
    "mysql": "c.table_schema = DATABASE()",
}


class ForeignKey(NamedTuple):
    """A column and its table. `schema` is None if a statement may leave it out."""

    table: str
    column: str
    schema: str | None


class Catalog:
    """Tells which tables, columns and indexes exist, each in the schema of its table."""

    def __init__(self, *, ignores_case: bool) -> None:
        self._ignores_case = ignores_case
        self._columns: dict[str | None, dict[str, set[str]]] = {}
        self._indexes: dict[str | None, dict[str, set[str]]] = {}

    async def read(self, gateway: Gateway, schema: str | None) -> None:
        columns, indexes = await all_columns(gateway, schema), await all_indexes(gateway, schema)
        for names, found in ((self._columns, columns), (self._indexes, indexes)):
            names[schema] = {self._fold(table): set(map(self._fold, items)) for table, items in found.items()}

    def has_table(self, table: sa.Table) -> bool:
        return self._fold(table.name) in self._columns[table.schema]

    def has_column(self, column: sa.Column[Any], name: str = "") -> bool:
        """Returns whether the table of a column has it, or another one called `name`."""
        return self._has(self._columns, column.table, name or column.name)

    def has_index(self, table: sa.Table, name: str) -> bool:
        return self._has(self._indexes, table, name)

    def _has(self, names: dict[str | None, dict[str, set[str]]], table: sa.FromClause, name: str) -> bool:
        assert isinstance(table, sa.Table)  # noqa: S101  a column of a table
        return self._fold(name) in names[table.schema].get(self._fold(table.name), ())

    def _fold(self, name: str) -> str:
        return name.lower() if self._ignores_case else name


async def read_catalog(gateway: Gateway, tables: Iterable[sa.Table]) -> Catalog:
    """Returns the tables, columns and indexes in the default schema and in the schemas of the tables."""
    catalog = Catalog(ignores_case=gateway.dialect == "sqlite")
    for schema in {None, *(table.schema for table in tables)}:
        await catalog.read(gateway, schema)
    return catalog


async def all_columns(gateway: Gateway, schema: str | None = None) -> dict[str, set[str]]:
    """Returns the names of all tables of a schema, with the names of their columns."""
    columns: dict[str, set[str]] = {}
    for row in await _fetch(gateway, COLUMNS, "table_name", "column_name", schema=schema):
        columns.setdefault(row["table_name"], set()).add(row["column_name"])
    return columns


async def all_indexes(gateway: Gateway, schema: str | None = None) -> dict[str, set[str]]:
    """Returns the names of the indexes of a schema, by the names of their tables."""
    indexes: dict[str, set[str]] = {}
    for row in await _fetch(gateway, INDEXES, "table_name", "index_name", schema=schema):
        indexes.setdefault(row["table_name"], set()).add(row["index_name"])
    return indexes


async def index_names(gateway: Gateway, schema: str | None = None) -> set[str]:
    return set().union(*(await all_indexes(gateway, schema)).values())


async def foreign_keys_to(gateway: Gateway, table: str, schema: str | None = None) -> list[ForeignKey]:
    """Returns the columns whose foreign keys refer to a table."""
    names = ("table_name", "column_name", "schema_name")
    rows = await _fetch(gateway, REFERENCES, *names, schema=schema, name=table)
    return [ForeignKey(*(row[name] for name in names)) for row in rows]


async def foreign_keys_of(gateway: Gateway, table: sa.Table) -> dict[str, tuple[str | None, str]]:
    """Returns the foreign keys of a table, with the schemas and names of the tables they refer to."""
    names = ("column_name", "table_name", "schema_name")
    rows = await _fetch(gateway, TARGETS, *names, schema=table.schema, name=table.name)
    return {row["column_name"]: (row["schema_name"], row["table_name"]) for row in rows}


async def primary_key(gateway: Gateway, table: str, schema: str | None = None) -> str | None:
    """Returns the first column of the primary key of a table, or None."""
    rows = await _fetch(gateway, PRIMARY_KEYS, "column_name", schema=schema, name=table)
    return rows[0]["column_name"] if rows else None


async def column_types(gateway: Gateway, table: str, schema: str | None = None) -> dict[str, str]:
    """Returns the columns of a table in order, with their types as the database names them, in lower case."""
    rows = await _fetch(gateway, TYPES, "column_name", "type_name", schema=schema, name=table)
    return {row["column_name"]: row["type_name"].lower() for row in rows}


async def index_definitions(gateway: Gateway, table: str, schema: str | None = None) -> list[str]:
    """Returns what each index of a table begins with, in lower case: on MySQL the name of its first column."""
    rows = await _fetch(gateway, DEFINITIONS, "definition", schema=schema, name=table)
    return [row["definition"].lower() for row in rows]


async def default_schema(gateway: Gateway, schema: str | None) -> str | None:
    """Returns the schema, or None if a statement may leave it out."""
    if schema is None or (gateway.dialect == "sqlite" and schema.lower() == "main"):
        return None
    if gateway.dialect == "sqlite":
        return schema
    sql = {
        "postgresql": "SELECT (:schema = ANY (current_schemas(false)))::int AS is_default",
        "mysql": "SELECT (:schema = DATABASE()) AS is_default",
    }[gateway.dialect]
    query = sa.text(sql).bindparams(sa.bindparam("schema", type_=sa.String)).columns(sa.column("is_default"))
    row = await gateway.fetch_one(query, schema=schema)
    return None if row is not None and row["is_default"] else schema


async def _fetch(
    gateway: Gateway, queries: dict[str, str], *names: str, schema: str | None, name: str | None = None
) -> list[Row]:
    """Runs the query for this database, about one table or all tables of a schema."""
    dialect = gateway.dialect
    here = (HERE if schema is not None else DEFAULT_HERE).get(dialect, "")
    is_of_default = dialect == "mysql" and schema is None
    sql = queries[dialect].replace("{here}", here).replace("{schema}", "DATABASE()" if is_of_default else ":schema")
    main = (schema or "main").replace('"', '""').replace("'", "''")
    sql = sql.replace("'{main}'", f"'{main}'").replace("{main}", f'"{main}"')
    values = {"schema": schema, "name": name}
    used = {key: value for key, value in values.items() if f":{key}" in sql}
    text = sa.text(sql).bindparams(*(sa.bindparam(key, type_=sa.String) for key in used))
    columns: list[Any] = [sa.column(column) for column in names]
    return await gateway.fetch_all(text.columns(*columns), **used)
