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
    CookieStore,
    DatabaseStore,
    DjangoProject,
    ImproperlyConfigured,
    IntegrityError,
    Tables,
    gateway_of,
    migrate,
    user_columns,
)
from starlette_auth.database.introspection import all_columns, index_names
from starlette_auth.database.table_definitions import TableFactory, session_table
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
    assert (await migrate(place.gateway, unique))[-1] == "customer_email_unique"
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
    table = session_table(TableFactory(schema=place.schema), sa.Integer(), "web_session")
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


NAMESPACES = ["schema", "prefix", "both", "custom user"]


def namespaced(place: Place, kind: str) -> Tables:
    """Returns tables that are apart from those with the default names."""
    if kind == "custom user":
        user = sa.Table("member", sa.MetaData(), *user_columns(), schema=place.schema)
        return Tables(user=user, schema=place.schema, prefix="crm_")
    return Tables(schema=None if kind == "prefix" else place.schema, prefix="" if kind == "schema" else "crm_")


async def names_in(place: Place, schema: str | None) -> set[str]:
    names = {*await all_columns(place.gateway, schema), *await index_names(place.gateway, schema)}
    return {name for name in names if not name.startswith(("sqlite_", "PRIMARY")) and name not in MYSQL_NAMES}


#: MySQL names the indexes of unnamed constraints after their columns. Such a name belongs to its table.
MYSQL_NAMES = {"username", "name", "public_id"}


@pytest.mark.parametrize("kind", NAMESPACES)
async def test_all_tables_are_created_in_the_schema_and_with_the_prefix(place: Place, kind: str) -> None:
    before = await names_in(place, None)
    created = await migrate(place.gateway, namespaced(place, kind))
    assert await migrate(place.gateway, namespaced(place, kind)) == []
    assert {table.fullname for table in namespaced(place, kind)} <= set(created)
    elsewhere = await names_in(place, None) - before
    if kind == "prefix":
        assert {name for name in elsewhere if not name.startswith("crm_")} == set()
    else:
        assert elsewhere == set()
        beginnings = {"schema": ("auth_",), "both": ("crm_",), "custom user": ("crm_", "member_")}[kind]
        assert {name for name in await names_in(place, place.schema) if not name.startswith(beginnings)} <= {"member"}


@pytest.mark.parametrize("kind", NAMESPACES)
async def test_two_installations_in_one_database_share_nothing(place: Place, kind: str) -> None:
    auths = [
        Auth(place.database, secret_key=SECRET_KEY, passwords=weak_passwords(), tables=tables, clock=FrozenClock())
        for tables in (Tables(), namespaced(place, kind))
    ]
    for auth in auths:
        await migrate(place.gateway, auth.tables)
        assert await migrate(place.gateway, auth.tables) == []
    first, second = auths
    assert not {table.fullname for table in first.tables} & {table.fullname for table in second.tables}
    ann = await first.users.create_user("ann", "ann@example.org", PASSWORD)
    assert await second.users.count() == 0
    mal = await second.users.create_user("ann", "mal@example.org", PASSWORD)
    assert mal.id == ann.id
    group = await first.users.create_group("editors")
    await first.users.add_to_group(ann, group)
    await first.users.create_permission("shop.add_order")
    await first.users.grant(group, "shop.add_order")
    loaded = [await auth.users.get(ann.id) for auth in auths]
    assert [user.has_perm("shop.add_order") for user in loaded if user is not None] == [True, False]
    async with client_of(make_app(first)) as client, client_of(make_app(second)) as other:
        for place_of_login in (client, other):
            assert (await post_login(place_of_login)).status_code == 303
            assert (await place_of_login.get("/whoami")).json()["username"] == "ann"
        client.cookies, other.cookies = other.cookies, client.cookies
        for place_of_login in (client, other):
            assert (await place_of_login.get("/whoami")).json()["username"] == ""
    assert [len(await auth.user_sessions.list(ann)) for auth in auths] == [1, 1]
    await first.users.delete(ann)
    assert [await auth.users.count() for auth in auths] == [0, 1]
    for auth in auths:
        await auth.close()


@pytest.mark.parametrize("kind", NAMESPACES)
@pytest.mark.parametrize("store", ["cookie", "database"])
async def test_a_store_without_users_belongs_to_the_tables(place: Place, kind: str, store: str) -> None:
    tables = [Tables(), namespaced(place, kind)]
    stores = [CookieStore(SECRET_KEY) if store == "cookie" else DatabaseStore(place.database) for _ in tables]
    auths = [
        Auth(place.database, secret_key=SECRET_KEY, passwords=weak_passwords(), tables=own, sessions=sessions)
        for own, sessions in zip(tables, stores, strict=True)
    ]
    for auth in auths:
        await migrate(place.gateway, auth.tables)
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    async with client_of(make_app(auths[0])) as client, client_of(make_app(auths[1])) as other:
        for visitor in (client, other):
            await post_login(visitor)
            assert (await visitor.get("/whoami")).json()["username"] == "ann"
        other.cookies = client.cookies
        assert (await other.get("/whoami")).json()["username"] == ""
    for auth in auths:
        await auth.close()


async def test_an_installation_with_a_prefix_may_stand_in_the_database_of_a_django_project(place: Place) -> None:
    project = Tables.django()
    await migrate(place.gateway, project)
    for kind in ("schema", "prefix"):
        await migrate(place.gateway, namespaced(place, kind))
        assert await migrate(place.gateway, namespaced(place, kind)) == []
    assert await migrate(place.gateway, project) == []


async def test_names_are_unique_in_a_schema(place: Place) -> None:
    tables = Tables(schema=place.schema, prefix="crm_", username_case_sensitive=False)
    auth = Auth(place.database, secret_key=SECRET_KEY, tables=tables, login_fields=("username", "email"))
    await migrate(place.gateway, tables)
    assert await migrate(place.gateway, tables) == []
    await auth.users.create_user("ann", "ann@example.org")
    for name, email in (("ANN", ""), ("bob", "ANN@example.org")):
        with pytest.raises(AlreadyExists):
            await auth.users.create_user(name, email)
    await auth.close()


async def test_an_address_is_found_in_any_case_whatever_the_collation_of_a_table_of_that_name_elsewhere(
    place: Place,
) -> None:
    tables = Tables(schema=place.schema)
    auths = [Auth(place.database, secret_key=SECRET_KEY, tables=own) for own in (Tables(), tables)]
    for auth in auths:
        await migrate(place.gateway, auth.tables)
    if place.gateway.dialect == "mysql":
        table = f"{place.schema}.auth_user"
        await place.database.execute(f"ALTER TABLE {table} MODIFY email VARCHAR(254) COLLATE utf8mb4_bin NOT NULL")
    for auth in auths:
        ann = await auth.users.create_user("ann", "Ann@Example.org")
        assert await auth.users.get_by_email("ann@example.ORG") == ann
        await auth.close()


async def test_tables_with_a_prefix_take_no_grants_of_other_users(place: Place) -> None:
    """An earlier version shared link tables between user tables, but had no prefix."""
    first, second = Tables(), Tables(prefix="crm_")
    await migrate(place.gateway, first)
    auths = [Auth(place.database, secret_key=SECRET_KEY, tables=tables) for tables in (first, second)]
    ann = await auths[0].users.create_user("ann")
    await auths[0].users.create_group("editors")
    await auths[0].users.add_to_group(ann, "editors")
    for table in list(second)[:5]:  # a migration that was interrupted
        await place.gateway.execute(CreateTable(table))
    row = await place.gateway.fetch_one(sa.select(first.user))
    assert row is not None
    await place.gateway.insert(second.user, **row)  # another user with the number of ann
    await migrate(place.gateway, second)
    assert await place.gateway.fetch_all(sa.select(second.user_groups)) == []
    assert len(await place.gateway.fetch_all(sa.select(first.user_groups))) == 1
    for auth in auths:
        await auth.close()
