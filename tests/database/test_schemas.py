"""User tables in a schema of their own, and tables of other programs with our names in other schemas."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from sqlalchemy.schema import CreateTable

from starlette_auth import (
    AlreadyExists,
    Auth,
    DatabaseStore,
    DjangoProject,
    ImproperlyConfigured,
    IntegrityError,
    Tables,
    gateway_of,
    migrate,
    user_columns,
)
from starlette_auth.database.table_definitions import session_table
from starlette_auth.testing import FrozenClock

from ..conftest import PASSWORD, SECRET_KEY, client_of, post_login, weak_passwords
from ..support.apps import make_app
from ..support.matrix import needs_postgresql


class Attaching(sqlite3.Connection):
    """A connection to a SQLite file that also has the file `crm.sqlite3` beside it, as the schema `crm`."""

    def __init__(self, database: str, **options: Any) -> None:
        super().__init__(database, **options)
        self.execute("ATTACH DATABASE ? AS crm", [str(Path(database).with_name("crm.sqlite3"))])


class Place:
    """A database with a second schema in it."""

    def __init__(self, database: Database, schema: str) -> None:
        self.database = database
        self.gateway = gateway_of(database)
        self.schema = schema

    def tables(self, name: str = "customer", schema: str | None = None) -> Tables:
        """Returns the tables for users in the second schema."""
        table = sa.Table(name, sa.MetaData(), *user_columns(), schema=schema or self.schema)
        return Tables(user=table)

    async def add_table_of_another_program(self, name: str, schema: str | None = None) -> None:
        table = sa.Table(name, sa.MetaData(), sa.Column("number", sa.Integer, primary_key=True), schema=schema)
        await self.gateway.execute(CreateTable(table))


@pytest.fixture
async def place(database_url: str) -> AsyncIterator[Place]:
    schema, options = "crm", dict[str, Any]()
    if database_url.startswith("sqlite"):
        options = {"factory": Attaching}
    elif database_url.startswith("mysql"):
        schema = f"{database_url.rpartition('/')[2]}_crm"
    async with Database(database_url, **options) as database:
        if not database_url.startswith("sqlite"):
            await database.execute(f"CREATE SCHEMA {schema}")
        try:
            yield Place(database, schema)
        finally:
            await gateway_of(database).close()
            if not database_url.startswith("sqlite"):
                cascade = " CASCADE" if database_url.startswith("postgres") else ""
                async with database.connection():
                    if not cascade:
                        await database.execute("SET foreign_key_checks = 0")
                    await database.execute(f"DROP SCHEMA {schema}{cascade}")
                    if not cascade:
                        await database.execute("SET foreign_key_checks = 1")


async def test_a_user_table_in_a_schema_is_created_once_and_completed_later(place: Place) -> None:
    created = await migrate(place.gateway, place.tables())
    assert f"{place.schema}.customer" in created
    assert await migrate(place.gateway, place.tables()) == []
    unique = place.tables()
    unique.require_unique_email()
    assert len(await migrate(place.gateway, unique)) == 1
    assert await migrate(place.gateway, unique) == []
    more = place.tables()
    more.user.append_column(sa.Column("note", sa.String(20), nullable=True))
    assert await migrate(place.gateway, more) == [f"{place.schema}.customer.note"]


async def test_a_table_of_another_program_elsewhere_has_nothing_to_do_with_a_user_table_in_a_schema(
    place: Place,
) -> None:
    await place.add_table_of_another_program("customer")
    tables = place.tables()
    await migrate(place.gateway, tables)
    assert await place.gateway.fetch_all(sa.select(tables.user)) == []
    assert await migrate(place.gateway, place.tables()) == []


async def test_tables_of_another_program_in_a_schema_have_nothing_to_do_with_ours(place: Place) -> None:
    for table in Tables():
        await place.add_table_of_another_program(table.name, place.schema)
    created = await migrate(place.gateway, Tables())
    assert {table.name for table in Tables()} <= set(created)
    assert await migrate(place.gateway, Tables()) == []


async def test_two_user_tables_of_one_name_in_two_schemas_share_nothing(place: Place) -> None:
    default, other = Tables(user=sa.Table("customer", sa.MetaData(), *user_columns())), place.tables()
    for tables in (default, other):
        await migrate(place.gateway, tables)
    for tables in (default, other):
        assert await migrate(place.gateway, tables) == []
    for name in ("user_groups", "user_permissions", "session", "token"):
        assert getattr(default, name).fullname != getattr(other, name).fullname
    auths = [Auth(place.database, secret_key=SECRET_KEY, tables=tables) for tables in (default, other)]
    first, _ = [await auth.users.create_user("ann") for auth in auths]
    await auths[0].users.delete(first)
    assert [await auth.users.count() for auth in auths] == [0, 1]
    for auth in auths:
        await auth.close()


async def test_a_user_table_with_the_default_name_in_a_schema_is_not_that_of_the_default_schema(place: Place) -> None:
    await migrate(place.gateway, place.tables("auth_user"))
    assert await migrate(place.gateway, place.tables("auth_user")) == []
    if place.gateway.dialect != "sqlite":  # where no foreign key can refer to another schema
        with pytest.raises(ImproperlyConfigured, match=rf"refers to {place.schema}.auth_user and not to auth_user"):
            await migrate(place.gateway, Tables())


async def test_the_account_pages_work_for_users_in_a_schema(place: Place) -> None:
    tables, clock = place.tables(), FrozenClock()
    table = session_table(sa.MetaData(schema=place.schema), sa.Integer(), "web_session")
    await place.gateway.execute(CreateTable(table))
    auth = Auth(
        place.database,
        secret_key=SECRET_KEY,
        tables=tables,
        clock=clock,
        passwords=weak_passwords(),
        sessions=lambda users: DatabaseStore(place.database, users=users, table=table, clock=clock),
    )
    await migrate(place.gateway, auth.tables)
    ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    with pytest.raises(AlreadyExists):
        await auth.users.create_user("ann")
    async with client_of(make_app(auth)) as client:
        assert (await post_login(client)).status_code == 303
        assert (await client.get("/whoami")).json()["username"] == "ann"
        assert (await client.get("/remember?a=1")).status_code == 200
        assert len(await auth.user_sessions.list(ann)) == 1
        clock.tick(10**8)
        assert await auth.clear_expired() == 1
        await post_login(client)
        await auth.users.delete(ann)
        assert (await client.get("/whoami")).json()["username"] == ""
    await auth.close()


async def test_a_schema_that_is_missing_is_named_with_the_fix(place: Place) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"(?i)nowhere.*Create it"):
        await migrate(place.gateway, place.tables(schema="nowhere"))


async def test_link_tables_that_refer_to_the_table_of_the_same_name_in_another_schema_are_refused(place: Place) -> None:
    if place.gateway.dialect == "sqlite":
        pytest.skip("SQLite has no foreign keys to other schemas")
    tables, elsewhere = place.tables(), Tables(user=sa.Table("customer", sa.MetaData(), *user_columns()))
    await migrate(place.gateway, elsewhere)
    column: sa.Column[Any] = sa.Column("customer_id", sa.ForeignKey(elsewhere.user.c.id), primary_key=True)
    sa.Table(tables.user_groups.name, elsewhere.user.metadata, column)
    await place.gateway.execute(CreateTable(elsewhere.user.metadata.tables[tables.user_groups.name]))
    with pytest.raises(ImproperlyConfigured, match=r"refers to customer and not to \w+\.customer"):
        await migrate(place.gateway, tables)


@needs_postgresql
async def test_without_a_schema_a_table_is_that_which_the_search_path_finds(place: Place) -> None:
    if place.gateway.dialect != "postgresql":
        pytest.skip("only PostgreSQL has a search_path")
    for table in Tables():
        await place.add_table_of_another_program(table.name)
    options: dict[str, Any] = {"min_size": 1, "max_size": 2, "server_settings": {"search_path": "crm"}}
    async with Database(str(place.database.url), **options) as database:
        gateway = gateway_of(database)
        assert len(await migrate(gateway, Tables())) > 8
    options["server_settings"] = {"search_path": "crm, public"}
    async with Database(str(place.database.url), **options) as database:
        gateway = gateway_of(database)
        assert await migrate(gateway, Tables()) == []
        assert await gateway.fetch_all(sa.select(Tables().user)) == []
    options["server_settings"] = {"search_path": "nothing, crm"}
    async with Database(str(place.database.url), **options) as database:
        assert await migrate(gateway_of(database), Tables()) == []


async def test_a_django_project_is_looked_up_in_its_own_schema(place: Place) -> None:
    """Another program's tables with Django's names are elsewhere."""
    await place.add_table_of_another_program("django_migrations", place.schema)
    await place.add_table_of_another_program("django_content_type", place.schema)
    auth = Auth(place.database, secret_key=SECRET_KEY, django=DjangoProject())
    assert "auth_user" in await migrate(place.gateway, auth.tables)
    ann = await auth.users.create_user("ann")
    if place.gateway.dialect != "sqlite":  # where no foreign key can refer to another schema
        url, orders = place.database.url, f"{place.schema}.orders"
        users = f"{url.database if url.dialect == 'mysql' else 'public'}.auth_user"
        await place.database.execute(
            f"CREATE TABLE {orders} (user_id INTEGER PRIMARY KEY, FOREIGN KEY (user_id) REFERENCES {users} (id))"
        )
        await place.database.execute(f"INSERT INTO {orders} VALUES ({ann.id})")
        with pytest.raises(IntegrityError, match=rf"Rows of {place.schema}\.orders refer to 'ann'"):
            await auth.users.delete(ann)
        await place.database.execute(f"DELETE FROM {orders}")
    await auth.users.delete(ann)
    assert await migrate(place.gateway, auth.tables) == []
    await auth.close()
