"""Creation of missing tables, columns and indexes, and comparison of the tables with those of Django."""

import asyncio
import sqlite3
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from sqlalchemy.schema import CreateTable, DropTable

from starlette_auth import Gateway, ImproperlyConfigured, Tables, gateway_of, migrate
from starlette_auth.database.migrations import migrations_table
from starlette_auth.database.statements import Statement

from ..conftest import BACKENDS

DJANGO = """
import sys
import django
from django.conf import settings
from django.core.management import call_command

settings.configure(
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": sys.argv[1]}},
    INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    USE_TZ=True,
)
django.setup()
call_command("migrate", verbosity=0)
"""
MIGRATE = """
import asyncio, sys
from databases import Database
from starlette_auth import Tables, gateway_of, migrate

async def main():
    async with Database(sys.argv[1]) as database:
        gateway = gateway_of(database)
        print(len(await migrate(gateway, Tables())))
        await gateway.close()

asyncio.run(main())
"""
TYPES = {"datetime": "timestamp"}


class Extended(Tables):
    """Adds a table with the given columns, like that of a feature."""

    def __init__(self, *columns: sa.Column[Any], index: bool = False) -> None:
        super().__init__()
        extra = sa.Table("extra", self.metadata, sa.Column("id", sa.Integer, primary_key=True), *columns)
        if index:
            sa.Index("extra_note", extra.c.note)
        self.features.append(extra)


@pytest.fixture
async def gateway(database: Database) -> AsyncIterator[Gateway]:
    gateway = gateway_of(database)
    yield gateway
    await gateway.close()


async def run(*arguments: str) -> str:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", *arguments, stdout=asyncio.subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode()


async def query(gateway: Gateway, sql: str, *columns: str) -> list[tuple[Any, ...]]:
    rows = await gateway.fetch_all(sa.text(sql).columns(*(sa.column(name) for name in columns)))
    return [tuple(row.values()) for row in rows]


async def table_names(gateway: Gateway) -> set[str]:
    queries = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        "postgresql": "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'",
        "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
    }
    return {name for (name,) in await query(gateway, queries[gateway.dialect], "name")}


async def test_migrate_creates_all_tables_and_a_second_call_creates_none(gateway: Gateway) -> None:
    tables = Tables()
    created = await migrate(gateway, tables)
    assert {table.name for table in tables} <= set(created)
    assert await table_names(gateway) == {table.name for table in tables}
    assert await migrate(gateway, tables) == []


async def test_of_five_concurrent_tasks_one_creates_the_tables(database_url: str) -> None:
    async def run_migrate() -> list[str]:
        async with Database(database_url) as database:
            created = await migrate(gateway_of(database), Tables())
            await gateway_of(database).close()
            return created

    created = await asyncio.gather(*(run_migrate() for _ in range(5)))
    assert sorted(bool(names) for names in created) == [False] * 4 + [True]


async def test_of_three_concurrent_processes_one_creates_the_tables(database_url: str) -> None:
    created = await asyncio.gather(*(run(MIGRATE, database_url) for _ in range(3)))
    counts = sorted(int(count) for count in created)
    assert counts[:2] == [0, 0]
    assert counts[2] > 8


async def test_a_missing_table_is_added(gateway: Gateway) -> None:
    await migrate(gateway, Tables())
    assert await migrate(gateway, Extended()) == ["extra"]
    assert "extra" in await table_names(gateway)


async def test_a_missing_index_is_added(gateway: Gateway) -> None:
    await migrate(gateway, Extended(sa.Column("note", sa.String(20))))
    indexed = Extended(sa.Column("note", sa.String(20)), index=True)
    assert await migrate(gateway, indexed) == ["extra_note"]
    assert await migrate(gateway, indexed) == []


async def test_a_missing_column_is_added_if_it_is_nullable_or_has_a_server_default(gateway: Gateway) -> None:
    await migrate(gateway, Extended())
    await gateway.execute(sa.text("INSERT INTO extra (id) VALUES (1)"))
    special = "50% of a:b, it's %(x)s"
    extended = Extended(
        sa.Column("note", sa.String(20)),
        sa.Column("count", sa.Integer, nullable=False, server_default="7"),
        sa.Column("odd", sa.String(40), nullable=False, server_default=special),
    )
    assert await migrate(gateway, extended) == ["extra.note", "extra.count", "extra.odd"]
    assert await migrate(gateway, extended) == []
    (extra,) = extended.features
    assert await gateway.fetch_one(Statement(sa.select(extra))) == {"id": 1, "note": None, "count": 7, "odd": special}


async def test_a_server_default_of_a_new_table_keeps_special_characters(gateway: Gateway) -> None:
    special = "50% of a:b, it's %(x)s"
    extended = Extended(sa.Column("odd", sa.String(40), nullable=False, server_default=special))
    await migrate(gateway, extended)
    await gateway.execute(sa.text("INSERT INTO extra (id) VALUES (1)"))
    assert await gateway.fetch_one(sa.select(extended.features[0])) == {"id": 1, "odd": special}


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (lambda: sa.Column("note", sa.String(20), nullable=False), "no value for the rows .* nullable=True"),
        (lambda: sa.Column("note", sa.String(20), unique=True), "constraint .* Add the column yourself"),
        (
            lambda: sa.Column("note", sa.Integer, sa.ForeignKey("auth_group.id")),
            "constraint .* Add the column yourself",
        ),
    ],
    ids=["without a value", "unique", "foreign key"],
)
async def test_a_column_that_cannot_be_added_raises_an_error_and_nothing_is_changed(
    gateway: Gateway, column: Any, reason: str
) -> None:
    (extra,) = Extended().features
    await gateway.execute(CreateTable(extra))
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=f"extra has no column note.* {reason}"):
            await migrate(gateway, Extended(column()))
        assert await table_names(gateway) == {"extra"}
    assert "auth_user" in await migrate(gateway, Extended())


async def test_a_cancelled_migration_releases_the_lock(database_url: str) -> None:
    async with Database(database_url) as database:
        gateway = gateway_of(database)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.004):
                await migrate(gateway, Tables())
        async with Database(database_url) as second_database, asyncio.timeout(5):
            await migrate(gateway_of(second_database), Tables())
            assert await table_names(gateway_of(second_database)) >= {table.name for table in Tables()}
            await gateway_of(second_database).close()
        await gateway.close()


async def test_a_failed_migration_releases_the_lock(database_url: str) -> None:
    invalid_tables = Extended(sa.Column("note", sa.String(20), server_default=sa.text("no such default")))
    async with Database(database_url) as database, Database(database_url) as second_database:
        with pytest.raises(Exception, match=r"(?i)syntax|no such|such"):
            await migrate(gateway_of(database), invalid_tables)
        async with asyncio.timeout(5):
            assert "extra" in await migrate(gateway_of(second_database), Extended())
        for connected_database in (database, second_database):
            await gateway_of(connected_database).close()


# Comparison with the tables of Django


def sqlite_schema(path: Path, tables: Iterable[str]) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    with closing(sqlite3.connect(path)) as connection:

        def pragma(function: str, name: str) -> list[Any]:
            return connection.execute(f"SELECT * FROM pragma_{function}(?)", (name,)).fetchall()

        for table in tables:
            columns = {
                name: (TYPES.get(kind.lower(), kind.lower()), bool(required), default, bool(key))
                for _, name, kind, required, default, key in pragma("table_info", table)
            }
            indexes = {
                # SQLite names the indexes of constraints by number, in the order of the constraints.
                (name if origin == "c" else origin, bool(unique), tuple(row[2] for row in pragma("index_info", name)))
                for _, name, unique, origin, _ in pragma("index_list", table)
            }
            keys = {tuple(row[2:7]) for row in pragma("foreign_key_list", table)}
            (sql,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            sql = sql.upper()
            options = ("AUTOINCREMENT" in sql, sql.count("DEFERRABLE INITIALLY DEFERRED"))
            schema[table] = {"columns": columns, "indexes": indexes, "keys": keys, "options": options}
    return schema


async def test_on_sqlite_the_tables_equal_those_of_django(tmp_path: Path) -> None:
    tables = Tables.django()
    await run(DJANGO, str(tmp_path / "django.sqlite3"))
    async with Database(f"sqlite:///{tmp_path}/package.sqlite3") as database:
        await migrate(gateway_of(database), tables)
        await gateway_of(database).close()
    names = [table.name for table in tables if table not in (tables.token, tables.throttle)]
    created, expected = (sqlite_schema(tmp_path / f"{file}.sqlite3", names) for file in ("package", "django"))
    assert len(names) == 8
    for name in names:
        assert created[name] == expected[name]


async def postgresql_schema(gateway: Gateway) -> dict[str, Any]:
    columns = await query(
        gateway,
        "SELECT table_name::text, column_name::text, data_type::text, character_maximum_length::int, "
        "is_nullable::text, column_default::text, is_identity::text, identity_generation::text "
        "FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2",
        *"abcdefgh",
    )
    indexes = await query(
        gateway, "SELECT indexname::text, indexdef::text FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1", *"ab"
    )
    constraints = await query(
        gateway,
        "SELECT conname::text, conrelid::regclass::text, contype::text, condeferrable, condeferred, "
        "pg_get_constraintdef(oid) FROM pg_constraint WHERE connamespace = 'public'::regnamespace ORDER BY 1, 2",
        *"abcdef",
    )
    return {"columns": columns, "indexes": indexes, "constraints": constraints}


@pytest.mark.parametrize("database_url", [url for url in BACKENDS if url.startswith("postgres")], indirect=True)
async def test_on_postgresql_the_tables_equal_those_of_django(gateway: Gateway) -> None:
    tables = Tables.django()
    await migrate(gateway, tables)
    for table in (tables.token, tables.throttle, migrations_table()):
        await gateway.execute(DropTable(table))
    created = await postgresql_schema(gateway)
    async with gateway.database.connection() as connection:
        await connection.raw_connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        # The pg_dump of a database that Django 5.2 created.
        sql = (Path(__file__).parent.parent / "django" / "data" / "django-postgresql.sql").read_text()
        await connection.raw_connection.execute(sql)
    expected = await postgresql_schema(gateway)
    assert len(expected["columns"]) > 30
    for kind, definitions in expected.items():
        assert created[kind] == definitions


async def test_a_django_database_lacks_only_the_tables_of_this_package(tmp_path: Path) -> None:
    await run(DJANGO, str(tmp_path / "django.sqlite3"))
    async with Database(f"sqlite:///{tmp_path}/django.sqlite3") as database:
        missing = await migrate(gateway_of(database), Tables.django())
        assert {name for name in missing if not name.startswith(("auth_token", "auth_throttle"))} == set()
        await gateway_of(database).close()


async def test_native_tables_are_not_created_in_a_django_database(database: Database) -> None:
    gateway = gateway_of(database)
    await gateway.execute(CreateTable(migrations_table()))
    with pytest.raises(ImproperlyConfigured, match="--django"):
        await migrate(gateway, Tables())
    await gateway.close()
