"""Tests that look-ups which ignore case use an index, on each database."""

import functools
import re
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import Auth, Gateway, Tables, gateway_of, migrate, user_columns
from starlette_auth.database.introspection import index_names
from starlette_auth.database.statements import get_dialect

from ..conftest import BACKENDS, installed

USERS = 3000
EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN", "postgresql": "EXPLAIN", "mysql": "EXPLAIN"}

#: How SQLite, PostgreSQL and MariaDB say that they read the whole table, or a whole index.
SCAN = re.compile(r"\bSCAN |Seq Scan|^\d+ \S+ \S+ (ALL|index) ", re.MULTILINE)


def member_tables(key: str = "integer", email: Any = None, name: str = "members") -> Tables:
    """Returns tables with a custom user table."""
    columns = [column for column in user_columns() if column.name not in ("id", "email")]
    keys: dict[str, Any] = {"integer": sa.Integer, "uuid": sa.Uuid}
    key_column = sa.Column("id", keys[key], primary_key=True, default=uuid.uuid4 if key == "uuid" else None)
    email = email if email is not None else sa.Column("email", sa.String(254), nullable=False)
    return Tables(user=sa.Table(name, sa.MetaData(), key_column, *columns, email))


TABLES: dict[str, Callable[[], Tables]] = {
    "auth_user": Tables,
    "custom table": member_tables,
    "UUID": lambda: member_tables("uuid"),
    "unique address": lambda: member_tables(email=sa.Column("email", sa.String(254), nullable=False, unique=True)),
    "indexed address": lambda: member_tables(email=sa.Column("email", sa.String(254), nullable=False, index=True)),
    "TEXT": lambda: member_tables(email=sa.Column("email", sa.Text, nullable=False)),
    "long VARCHAR": lambda: member_tables(email=sa.Column("email", sa.String(1000), nullable=False)),
    "long name": lambda: member_tables(name="members_of_a_society_with_quite_a_long_name_and_number"),
}


@pytest.fixture
async def gateway(database: Database) -> AsyncIterator[Gateway]:
    gateway = gateway_of(database)
    yield gateway
    await gateway.close()


async def fill(auth: Auth) -> None:
    """Adds users until reading the whole table is more expensive than using an index."""
    user = await auth.users.create_user("ann", "Ann@Example.org")
    (row,) = await auth.database.fetch_all(sa.select(auth.tables.user))
    values = dict(row._mapping)
    rows = []
    for number in range(USERS):
        key = uuid.uuid4() if isinstance(user.id, uuid.UUID) else user.id + 1 + number
        rows.append({**values, "id": key, "username": f"user{number}", "email": f"user{number}@example.org"})
    for start in range(0, USERS, 300):
        await auth.database.execute(sa.insert(auth.tables.user).values(rows[start : start + 300]))
    await auth.database.execute(f"ANALYZE {'TABLE ' if auth.gateway.dialect == 'mysql' else ''}{auth.tables.user.name}")


async def plan_of(auth: Auth, monkeypatch: pytest.MonkeyPatch, question: Any) -> str:
    """Returns the plans that the database makes for the queries of users that `question` runs."""
    plans: list[str] = []
    fetch = type(auth.gateway.driver).fetch

    async def explaining(self: Any, raw: Any, sql: str, arguments: Any) -> Any:
        if f"FROM {auth.tables.user.name}" in sql.replace("\n", " "):
            rows = await fetch(self, raw, f"{EXPLAIN[auth.gateway.dialect]} {sql}", arguments)
            plans.extend(" ".join(map(str, tuple(row))) for row in rows)
        return await fetch(self, raw, sql, arguments)

    with monkeypatch.context() as patch:
        patch.setattr(type(auth.gateway.driver), "fetch", explaining)
        await question()
    name = auth.tables.user.name
    return "\n".join(plan for plan in plans if name in plan)


@pytest.fixture(params=TABLES)
async def crowded(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Auth]:
    """An Auth with many users."""
    async with installed(database, tables=TABLES[request.param]()) as auth:
        await fill(auth)
        yield auth


async def test_a_look_up_by_address_uses_an_index(crowded: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = await plan_of(crowded, monkeypatch, lambda: crowded.users.get_by_email("ANN@example.ORG"))
    assert "email" in plan
    assert not SCAN.search(plan)


async def test_a_look_up_of_a_username_uses_an_index(crowded: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = await plan_of(crowded, monkeypatch, lambda: crowded.users.has_username("ANN"))
    assert "username" in plan
    assert not SCAN.search(plan)


async def test_an_address_is_found_in_any_case(crowded: Auth) -> None:
    for email in ("Ann@Example.org", "ann@example.org", "ANN@EXAMPLE.ORG"):
        user = await crowded.users.get_by_email(email)
        assert user is not None
        assert user.username == "ann"
    for email in ("ann@example.org ", "änn@example.org", "ann@example.com", "%@example.org", "user1_@example.org"):
        assert await crowded.users.get_by_email(email) is None
    assert await crowded.users.has_username("ANN")
    assert not await crowded.users.has_username("anna")


@pytest.mark.parametrize("make", TABLES.values(), ids=list(TABLES))
async def test_migrate_adds_the_index_to_an_existing_table(gateway: Gateway, make: Any) -> None:
    await migrate(gateway, make())
    added = {name for name in await index_names(gateway) if name.endswith(("_lower", "_plain"))}
    table = make().user.name
    for name in added:
        await gateway.execute(sa.text(f"DROP INDEX {name}" + (f" ON {table}" if gateway.dialect == "mysql" else "")))
    assert set(await migrate(gateway, make())) == added
    assert len(added) <= 2
    assert await migrate(gateway, make()) == []


async def test_a_table_of_a_django_project_gets_no_index(gateway: Gateway) -> None:
    created = await migrate(gateway, Tables.django())
    assert not [name for name in created if name.endswith(("_lower", "_plain"))]
    assert await migrate(gateway, Tables.django()) == []


async def test_two_tables_objects_can_share_a_user_table() -> None:
    table = member_tables().user
    number = len(table.indexes)
    Tables(user=table)
    assert len(table.indexes) == number


@pytest.mark.parametrize("name", ["sqlite", "postgresql", "mysql"])
def test_create_all_makes_only_the_indexes_that_a_database_has(name: str) -> None:
    statements: list[str] = []
    dialect = get_dialect(name)
    engine = sa.create_mock_engine(f"{name}://", lambda sql, *_: statements.append(str(sql.compile(dialect=dialect))))
    tables = member_tables()
    tables.finish(name)
    tables.user.metadata.create_all(engine, checkfirst=False)
    indexes = [statement for statement in statements if "INDEX" in statement]
    assert bool([index for index in indexes if "lower(" in index]) == (name != "mysql")
    assert bool([index for index in indexes if "_plain" in index]) == (name == "mysql")


@pytest.mark.parametrize("database_url", [url for url in BACKENDS if url.startswith("mysql")], indirect=True)
async def test_on_mariadb_an_address_is_found_in_any_case_if_the_collation_distinguishes_case(
    database: Database,
) -> None:
    async with installed(database) as auth:
        await database.execute("ALTER TABLE auth_user MODIFY email VARCHAR(254) COLLATE utf8mb4_bin NOT NULL")
        ann = await auth.users.create_user("ann", "Ann@Example.org")
        assert await auth.users.get_by_email("ann@example.ORG") == ann


async def test_the_holders_of_a_permission_are_found_without_reading_all_users(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database starts with the holders, and takes each by primary key. It asks no user for groups."""
    async with installed(database) as auth:
        await fill(auth)
        users, t = auth.users, auth.tables
        await users.create_model_permissions("polls", "vote")
        editors = await users.create_group("editors")
        await users.grant(editors, "polls.add_vote")
        rows = await database.fetch_all(sa.select(t.user.c.id))
        links = [{"user_id": row["id"], "group_id": editors.id} for row in rows]
        for start in range(10, USERS, 300):
            others = await users.create_group(f"group {start}")
            values = [{**link, "group_id": others.id} for link in links[start : start + 300]]
            await database.execute(sa.insert(t.user_groups).values(values))
        await database.execute(sa.insert(t.user_groups).values(links[:10]))
        for table in (t.user_groups, t.group_permissions, t.user_permissions):
            await database.execute(f"ANALYZE {'TABLE ' if auth.gateway.dialect == 'mysql' else ''}{table.name}")

        async def ask(*, include_superusers: bool) -> None:
            assert len(await users.with_perm("polls.add_vote", include_superusers=include_superusers)) == 10

        for include_superusers, scans in ((False, 0), (True, 1)):  # superusers have no index
            plan = await plan_of(auth, monkeypatch, functools.partial(ask, include_superusers=include_superusers))
            lines = [line for line in plan.splitlines() if SCAN.search(line) and reads_users(line, t.user.name)]
            assert len(lines) == scans, plan


def reads_users(line: str, name: str) -> bool:
    """Returns whether a line of a plan reads the table of users itself, and not that of their groups."""
    return re.search(rf"\b{name}(_\d+)?\b(?!_)", line) is not None
