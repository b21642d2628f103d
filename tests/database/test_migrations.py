"""Creating and completing the tables, and whether they are Django's."""

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

from starlette_auth import Gateway, ImproperlyConfigured, Tables, migrate
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
from starlette_auth import Gateway, Tables, migrate

async def main():
    async with Database(sys.argv[1]) as database:
        gateway = Gateway.of(database)
        print(len(await migrate(gateway, Tables())))
        await gateway.close()

asyncio.run(main())
"""
TYPES = {"bool": "boolean", "datetime": "timestamp"}


class Extended(Tables):
    """With a table of a feature, of which a test decides the columns."""

    def __init__(self, *columns: sa.Column[Any], index: bool = False) -> None:
        super().__init__()
        extra = sa.Table("extra", self.metadata, sa.Column("id", sa.Integer, primary_key=True), *columns)
        if index:
            sa.Index("extra_note", extra.c.note)
        self.features.append(extra)


@pytest.fixture
async def gateway(database: Database) -> AsyncIterator[Gateway]:
    gateway = Gateway.of(database)
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


async def tables_in(gateway: Gateway) -> set[str]:
    inspect = {
        "sqlite": "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'",
        "postgresql": "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'",
        "mysql": "SELECT table_name FROM information_schema.tables WHERE table_schema = DATABASE()",
    }
    return {name for (name,) in await query(gateway, inspect[gateway.dialect], "name")}


async def test_everything_is_created_once(gateway: Gateway) -> None:
    tables = Tables()
    created = await migrate(gateway, tables)
    assert {table.name for table in tables} <= set(created)
    assert await tables_in(gateway) == {table.name for table in tables}
    assert await migrate(gateway, tables) == []


async def test_five_at_once_create_everything_once(database_url: str) -> None:
    async def one() -> list[str]:
        async with Database(database_url) as database:
            created = await migrate(Gateway.of(database), Tables())
            await Gateway.of(database).close()
            return created

    created = await asyncio.gather(*(one() for _ in range(5)))
    assert sorted(bool(names) for names in created) == [False] * 4 + [True]


async def test_three_processes_at_once_create_everything_once(database_url: str) -> None:
    created = await asyncio.gather(*(run(MIGRATE, database_url) for _ in range(3)))
    counts = sorted(int(count) for count in created)
    assert counts[:2] == [0, 0]
    assert counts[2] > 8


async def test_a_missing_table_is_added(gateway: Gateway) -> None:
    await migrate(gateway, Tables())
    assert await migrate(gateway, Extended()) == ["extra"]
    assert "extra" in await tables_in(gateway)


async def test_a_missing_index_is_added(gateway: Gateway) -> None:
    await migrate(gateway, Extended(sa.Column("note", sa.String(20))))
    indexed = Extended(sa.Column("note", sa.String(20)), index=True)
    assert await migrate(gateway, indexed) == ["extra_note"]
    assert await migrate(gateway, indexed) == []


async def test_a_missing_column_is_added_if_the_rows_that_are_there_can_have_it(gateway: Gateway) -> None:
    await migrate(gateway, Extended())
    await gateway.execute(sa.text("INSERT INTO extra (id) VALUES (1)"))
    odd = "50% of a:b, it's %(x)s"
    extended = Extended(
        sa.Column("note", sa.String(20)),
        sa.Column("count", sa.Integer, nullable=False, server_default="7"),
        sa.Column("odd", sa.String(40), nullable=False, server_default=odd),
    )
    assert await migrate(gateway, extended) == ["extra.note", "extra.count", "extra.odd"]
    assert await migrate(gateway, extended) == []
    (extra,) = extended.features
    assert await gateway.fetch_one(Statement(sa.select(extra))) == {"id": 1, "note": None, "count": 7, "odd": odd}


async def test_a_default_means_the_same_in_a_new_table_as_in_a_new_column(gateway: Gateway) -> None:
    odd = "50% of a:b, it's %(x)s"
    extended = Extended(sa.Column("odd", sa.String(40), nullable=False, server_default=odd))
    await migrate(gateway, extended)
    await gateway.execute(sa.text("INSERT INTO extra (id) VALUES (1)"))
    assert await gateway.fetch_one(sa.select(extended.features[0])) == {"id": 1, "odd": odd}


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
    ids=["without a value", "unique", "reference"],
)
async def test_a_column_that_cannot_be_added_is_refused_and_nothing_is_changed(
    gateway: Gateway, column: Any, reason: str
) -> None:
    (extra,) = Extended().features
    await gateway.execute(CreateTable(extra))
    for _ in range(2):
        with pytest.raises(ImproperlyConfigured, match=f"extra has no column note.* {reason}"):
            await migrate(gateway, Extended(column()))
        assert await tables_in(gateway) == {"extra"}
    assert "auth_user" in await migrate(gateway, Extended())


async def test_who_is_cut_short_does_not_keep_others_from_migrating(database_url: str) -> None:
    async with Database(database_url) as database:
        gateway = Gateway.of(database)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.004):
                await migrate(gateway, Tables())
        async with Database(database_url) as other, asyncio.timeout(5):
            await migrate(Gateway.of(other), Tables())
            assert await tables_in(Gateway.of(other)) >= {table.name for table in Tables()}
            await Gateway.of(other).close()
        await gateway.close()


async def test_after_an_error_others_can_migrate_at_once(database_url: str) -> None:
    wrong = Extended(sa.Column("note", sa.String(20), server_default=sa.text("no such default")))
    async with Database(database_url) as database, Database(database_url) as other:
        with pytest.raises(Exception, match=r"(?i)syntax|no such|such"):
            await migrate(Gateway.of(database), wrong)
        async with asyncio.timeout(5):
            assert "extra" in await migrate(Gateway.of(other), Extended())
        for one in (database, other):
            await Gateway.of(one).close()


# Are they Django's?


def sqlite_shape(path: Path, tables: Iterable[str]) -> dict[str, Any]:
    shape: dict[str, Any] = {}
    with closing(sqlite3.connect(path)) as connection:

        def pragma(what: str, name: str) -> list[Any]:
            return connection.execute(f"SELECT * FROM pragma_{what}(?)", (name,)).fetchall()

        for table in tables:
            columns = {
                name: (TYPES.get(kind.lower(), kind.lower()), bool(required), default, bool(key))
                for _, name, kind, required, default, key in pragma("table_info", table)
            }
            indexes = {
                # SQLite names those of constraints by number, in the order of the constraints.
                (name if origin == "c" else origin, bool(unique), tuple(row[2] for row in pragma("index_info", name)))
                for _, name, unique, origin, _ in pragma("index_list", table)
            }
            keys = {tuple(row[2:7]) for row in pragma("foreign_key_list", table)}
            (words,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
            words = words.upper()
            traits = ("AUTOINCREMENT" in words, words.count("DEFERRABLE INITIALLY DEFERRED"))
            shape[table] = {"columns": columns, "indexes": indexes, "keys": keys, "traits": traits}
    return shape


async def test_on_sqlite_the_tables_are_those_that_django_makes(tmp_path: Path) -> None:
    tables = Tables.django()
    await run(DJANGO, str(tmp_path / "django.sqlite3"))
    async with Database(f"sqlite:///{tmp_path}/ours.sqlite3") as database:
        await migrate(Gateway.of(database), tables)
        await Gateway.of(database).close()
    names = [table.name for table in tables if table not in (tables.token, tables.throttle)]
    ours, theirs = (sqlite_shape(tmp_path / f"{who}.sqlite3", names) for who in ("ours", "django"))
    assert len(names) == 8
    for name in names:
        assert ours[name] == theirs[name]


async def postgresql_shape(gateway: Gateway) -> dict[str, Any]:
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


@pytest.mark.parametrize("database_url", [one for one in BACKENDS if one.startswith("postgres")], indirect=True)
async def test_on_postgresql_the_tables_are_those_that_django_makes(gateway: Gateway) -> None:
    tables = Tables.django()
    await migrate(gateway, tables)
    for table in (tables.token, tables.throttle, migrations_table()):
        await gateway.execute(DropTable(table))
    ours = await postgresql_shape(gateway)
    async with gateway.database.connection() as connection:
        await connection.raw_connection.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        # What Django 5.2 made, as pg_dump wrote it down.
        sql = (Path(__file__).parent.parent / "django" / "data" / "django-postgresql.sql").read_text()
        await connection.raw_connection.execute(sql)
    theirs = await postgresql_shape(gateway)
    assert len(theirs["columns"]) > 30
    for what, shape in theirs.items():
        assert ours[what] == shape


async def test_nothing_is_missing_in_a_database_of_django(tmp_path: Path) -> None:
    await run(DJANGO, str(tmp_path / "django.sqlite3"))
    async with Database(f"sqlite:///{tmp_path}/django.sqlite3") as database:
        missing = await migrate(Gateway.of(database), Tables.django())
        assert {name for name in missing if not name.startswith(("auth_token", "auth_throttle"))} == set()
        await Gateway.of(database).close()


async def test_a_django_projects_database_is_not_taken_for_ours(database: Database) -> None:
    gateway = Gateway.of(database)
    await gateway.execute(CreateTable(migrations_table()))
    with pytest.raises(ImproperlyConfigured, match="--django"):
        await migrate(gateway, Tables())
    await gateway.close()
