"""Queries for the tables, columns, indexes and foreign keys of a database."""

from typing import Any

import sqlalchemy as sa

from .gateway import Gateway

COLUMNS = {
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
REFERENCES = {
    "sqlite": 'SELECT m.name AS table_name, f."from" AS column_name FROM sqlite_master m '
    "JOIN pragma_foreign_key_list(m.name) f WHERE m.type = 'table' AND lower(f.\"table\") = lower(:name)",
    "postgresql": "SELECT t.relname::text AS table_name, a.attname::text AS column_name FROM pg_constraint c "
    "JOIN pg_class r ON r.oid = c.confrelid JOIN pg_class t ON t.oid = c.conrelid "
    "JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1] "
    "WHERE c.contype = 'f' AND r.relname = :name AND pg_table_is_visible(r.oid)",
    "mysql": "SELECT table_name AS table_name, column_name AS column_name FROM information_schema.key_column_usage "
    "WHERE referenced_table_schema = DATABASE() AND referenced_table_name = :name",
}
#: The tables to which the foreign keys of a table refer, and the primary key of a table.
TARGETS = {
    "sqlite": 'SELECT "from" AS column_name, "table" AS table_name FROM pragma_foreign_key_list(:name)',
    "postgresql": "SELECT a.attname::text AS column_name, r.relname::text AS table_name FROM pg_constraint c "
    "JOIN pg_class r ON r.oid = c.confrelid JOIN pg_class t ON t.oid = c.conrelid "
    "JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1] "
    "WHERE c.contype = 'f' AND t.relname = :name AND pg_table_is_visible(t.oid)",
    "mysql": "SELECT column_name AS column_name, referenced_table_name AS table_name "
    "FROM information_schema.key_column_usage "
    "WHERE table_schema = DATABASE() AND table_name = :name AND referenced_table_name IS NOT NULL",
}
PRIMARY_KEYS = {
    "sqlite": "SELECT name AS column_name FROM pragma_table_info(:name) WHERE pk = 1",
    "postgresql": "SELECT a.attname::text AS column_name FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid "
    "JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0] "
    "WHERE i.indisprimary AND t.relname = :name AND pg_table_is_visible(t.oid)",
    "mysql": "SELECT column_name AS column_name FROM information_schema.key_column_usage "
    "WHERE table_schema = DATABASE() AND table_name = :name AND constraint_name = 'PRIMARY' AND ordinal_position = 1",
}
TYPES = {
    "sqlite": "SELECT name AS column_name, type AS type_name FROM pragma_table_info(:name) ORDER BY cid",
    "postgresql": "SELECT a.attname::text AS column_name, format_type(a.atttypid, a.atttypmod)::text AS type_name "
    "FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid "
    "WHERE c.relname = :name AND pg_table_is_visible(c.oid) AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
    "mysql": "SELECT column_name AS column_name, column_type AS type_name FROM information_schema.columns "
    "WHERE table_schema = DATABASE() AND table_name = :name ORDER BY ordinal_position",
}
#: What each index of a table begins with: its definition, or on MySQL the name of its first column.
DEFINITIONS = {
    "sqlite": "SELECT sql AS definition FROM sqlite_master WHERE type = 'index' AND tbl_name = :name AND sql IS NOT NULL",
    "postgresql": "SELECT indexdef::text AS definition FROM pg_indexes "
    "WHERE tablename = :name AND schemaname = ANY (current_schemas(false))",
    "mysql": "SELECT column_name AS definition FROM information_schema.statistics "
    "WHERE table_schema = DATABASE() AND table_name = :name AND seq_in_index = 1",
}


async def all_columns(gateway: Gateway) -> dict[str, set[str]]:
    """Returns the names of all tables, each with the names of its columns."""
    columns: dict[str, set[str]] = {}
    for row in await gateway.fetch_all(_query(COLUMNS[gateway.dialect], "table_name", "column_name")):
        columns.setdefault(row["table_name"], set()).add(row["column_name"])
    return columns


async def index_names(gateway: Gateway) -> set[str]:
    rows = await gateway.fetch_all(_query(INDEXES[gateway.dialect], "index_name"))
    return {row["index_name"] for row in rows}


async def foreign_keys_to(gateway: Gateway, table: str) -> list[tuple[str, str]]:
    """Returns the (table, column) pairs whose foreign keys refer to a table."""
    query = _query(REFERENCES[gateway.dialect], "table_name", "column_name")
    return [(row["table_name"], row["column_name"]) for row in await gateway.fetch_all(query, name=table)]


async def foreign_keys_of(gateway: Gateway, table: str) -> dict[str, str]:
    """Returns the columns of a table that refer to another table, with the names of these tables."""
    query = _query(TARGETS[gateway.dialect], "column_name", "table_name")
    return {row["column_name"]: row["table_name"] for row in await gateway.fetch_all(query, name=table)}


async def primary_key(gateway: Gateway, table: str) -> str | None:
    """Returns the first column of the primary key of a table, or None."""
    row = await gateway.fetch_one(_query(PRIMARY_KEYS[gateway.dialect], "column_name"), name=table)
    return row["column_name"] if row else None


def _query(sql: str, *names: str) -> sa.ClauseElement:
    text = sa.text(sql)
    if ":name" in sql:
        text = text.bindparams(sa.bindparam("name", type_=sa.String))
    columns: list[Any] = [sa.column(name) for name in names]
    return text.columns(*columns)


async def column_types(gateway: Gateway, table: str) -> dict[str, str]:
    """Returns the columns of a table in order, with their types as the database names them, in lower case."""
    query = _query(TYPES[gateway.dialect], "column_name", "type_name")
    return {row["column_name"]: row["type_name"].lower() for row in await gateway.fetch_all(query, name=table)}


async def index_definitions(gateway: Gateway, table: str) -> list[str]:
    """Returns what each index of a table begins with, in lower case: on MySQL the name of its first column."""
    rows = await gateway.fetch_all(_query(DEFINITIONS[gateway.dialect], "definition"), name=table)
    return [row["definition"].lower() for row in rows]
