"""What `migrate` does with grants and sessions in the tables that an earlier version shared between all user tables."""

import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from sqlalchemy.schema import CreateTable

from starlette_auth import Auth, Gateway, ImproperlyConfigured, Tables, gateway_of, migrate, user_columns
from starlette_auth.database.columns import finish_table
from starlette_auth.database.introspection import all_columns
from starlette_auth.database.table_definitions import (
    TableFactory,
    session_table,
    user_groups_table,
    user_permissions_table,
)

from ..conftest import SECRET_KEY

COLUMNS = {"last_login": None, "first_name": "", "last_name": "", "email": "", "is_staff": False, "is_active": True}
DATE = datetime(2026, 1, 1, tzinfo=UTC)


def tables(name: str, key: Any = sa.Integer) -> Tables:
    return Tables(user=sa.Table(name, sa.MetaData(), *user_columns(sa.Column("nr", key, primary_key=True))))


class OldSite:
    """A database as an earlier version left it: the link tables refer to the user table of the first Auth."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway

    async def create(self, first: Tables, *further: Tables, foreign_keys: bool = True) -> None:
        factory, key = TableFactory(), first.user_key
        group, permission = first.group, first.permission
        links = [
            user_groups_table(factory, "auth_user_groups", ("user_id", key), group),
            user_permissions_table(factory, "auth_user_user_permissions", ("user_id", key), permission),
        ]
        if not foreign_keys:
            links = [
                sa.Table(
                    link.name, sa.MetaData(), *(sa.Column(c.name, c.type, primary_key=c.primary_key) for c in link.c)
                )
                for link in links
            ]
        shared = [first.content_type, permission, group, first.group_permissions, first.throttle]
        sessions = session_table(factory, key.type)
        for table in [*shared, first.user, *(other.user for other in further), *links, sessions]:
            finish_table(table, self.gateway.dialect)
            await self.gateway.execute(CreateTable(table))
        await self.gateway.insert(first.group, name="editors")
        content_type = await self.gateway.insert(first.content_type, app_label="polls", model="vote")
        values = {"content_type_id": content_type, "codename": "add_vote", "name": "x"}
        await self.gateway.insert(permission, **values)
        self.links, self.sessions = links, sessions

    async def add_users(self, tables: Tables, *keys: Any) -> None:
        for key in keys:
            values = {
                "password": "!",
                "is_superuser": False,
                "username": f"user{key}",
                "nr": key,
                "date_joined": DATE,
                **COLUMNS,
            }
            await self.gateway.insert(tables.user, **values)

    async def grant(self, *keys: Any) -> None:
        for key in keys:
            await self.gateway.insert(self.links[0], user_id=key, group_id=1)
            await self.gateway.insert(self.links[1], user_id=key, permission_id=1)
            values = {
                "data": "{}",
                "created": 1,
                "last_seen": 1,
                "expires": 9_999_999_999,
                "address": "",
                "user_agent": "",
            }
            await self.gateway.insert(
                self.sessions, key_hash=f"hash {key}", public_id=f"id {key}"[:32], user_id=key, version=0, **values
            )

    async def rows(self, table: sa.Table) -> list[Any]:
        return sorted(row["user_id"] for row in await self.gateway.fetch_all(sa.select(table.c.user_id)))

    async def old_rows(self) -> list[list[Any]]:
        return [await self.rows(table) for table in (*self.links, self.sessions)]

    async def new_rows(self, tables: Tables) -> list[list[Any]]:
        return [await self.rows(table) for table in (tables.user_groups, tables.user_permissions, tables.session)]


@pytest.fixture
async def site(database: Database) -> AsyncIterator[OldSite]:
    gateway = gateway_of(database)
    yield OldSite(gateway)
    await gateway.close()


async def test_grants_of_the_only_user_table_are_moved_and_its_sessions_end(site: OldSite) -> None:
    member = tables("member")
    await site.create(member)
    await site.add_users(member, 1, 2, 3)
    await site.grant(1, 2)
    created = await migrate(site.gateway, member)
    assert {"member_groups", "member_user_permissions", "member_auth_session", "member_auth_token"} <= set(created)
    assert await site.new_rows(member) == [[1, 2], [1, 2], []]
    assert await site.old_rows() == [[], [], []]
    auth = Auth(site.gateway.database, secret_key=SECRET_KEY, tables=member)
    user = await auth.users.get(1)
    assert user is not None
    assert user.get_all_permissions() == {"polls.add_vote"}
    assert [group.name for group in await auth.users.get_groups(user)] == ["editors"]
    await auth.users.revoke(user, "polls.add_vote")
    assert await migrate(site.gateway, member) == []
    assert await site.new_rows(member) == [[1, 2], [2], []]
    await auth.users.delete(user)  # no row of the old tables refers to it


async def test_grants_that_two_user_tables_may_own_are_refused_and_change_nothing(site: OldSite) -> None:
    customer, staff = tables("customer"), tables("staff")
    await site.create(customer, staff)
    await site.add_users(customer, 1, 2, 3, 4, 5, 6, 7, 8)
    await site.add_users(staff, 1, 2, 3, 4, 5, 6, 9)
    await site.grant(1, 2, 3, 4, 5, 6, 7)
    before = await all_columns(site.gateway)
    for user_tables, order in ((customer, "customer or staff"), (staff, "staff or customer")):
        with pytest.raises(
            ImproperlyConfigured,
            match=rf"rows of auth_user_groups for the users 1, 2, 3, 4, 5, … may belong to {order}\..*--leave-grants",
        ):
            await migrate(site.gateway, user_tables)
    assert await all_columns(site.gateway) == before
    for link in site.links:
        await site.gateway.execute(sa.delete(link).where(link.c.user_id < 7))
    await migrate(site.gateway, staff)
    assert await site.new_rows(staff) == [[], [], []]
    await migrate(site.gateway, customer)
    assert await site.new_rows(customer) == [[7], [7], []]
    # Sessions of numbers that both have stay where nobody finds them, until they expire.
    assert await site.old_rows() == [[], [], [1, 2, 3, 4, 5, 6]]


async def test_grants_of_nobody_are_refused(site: OldSite) -> None:
    member = tables("member")
    await site.create(member, foreign_keys=False)
    await site.add_users(member, 1)
    await site.grant(1, 4)
    with pytest.raises(ImproperlyConfigured, match=r"auth_user_groups for the users 4 belong to no user in member"):
        await migrate(site.gateway, member)
    assert "member_groups" not in await all_columns(site.gateway)


async def test_grants_can_be_left(site: OldSite) -> None:
    customer, staff = tables("customer"), tables("staff")
    await site.create(customer, staff)
    for user_tables in (customer, staff):
        await site.add_users(user_tables, 1)
    await site.grant(1)
    await migrate(site.gateway, staff, leave_grants=True)
    assert await site.new_rows(staff) == [[], [], []]
    assert await migrate(site.gateway, staff) == []
    assert await site.old_rows() == [[1], [1], [1]]


async def test_user_tables_with_other_keys_and_views_own_nothing(site: OldSite) -> None:
    customer, staff = tables("customer"), tables("staff", sa.Uuid)
    await site.create(customer, staff)
    await site.add_users(customer, 1)
    await site.grant(1)
    await site.gateway.database.execute("CREATE VIEW active_customer AS SELECT * FROM customer")
    await migrate(site.gateway, staff)
    await migrate(site.gateway, customer)
    assert [await site.new_rows(customer), await site.new_rows(staff)] == [[[1], [1], []], [[], [], []]]


async def test_uuids_are_moved_too(site: OldSite) -> None:
    staff, other = tables("staff", sa.Uuid), tables("other", sa.Uuid)
    await site.create(staff, other)
    keys = [uuid.UUID(int=number) for number in (1, 2)]
    await site.add_users(staff, *keys)
    await site.add_users(other, keys[1])
    await site.grant(keys[0])
    await migrate(site.gateway, staff)
    assert await site.new_rows(staff) == [[keys[0]], [keys[0]], []]


async def test_rows_of_the_default_user_table_stay(database: Database) -> None:
    """A site gets a second kind of users."""
    auth = Auth(database, secret_key=SECRET_KEY)
    await migrate(auth.gateway, auth.tables)
    ann = await auth.users.create_user("ann")
    await auth.users.create_permission("polls.add_vote")
    await auth.users.grant(ann, "polls.add_vote")
    shop = Auth(database, secret_key=SECRET_KEY, tables=tables("shop_customer"))
    assert "shop_customer_groups" in await migrate(shop.gateway, shop.tables)
    fresh = await auth.users.get(ann.id)
    assert fresh is not None
    assert fresh.get_all_permissions() == {"polls.add_vote"}
    assert await migrate(auth.gateway, auth.tables) == []
    await auth.close()


async def test_a_link_table_of_another_user_table_is_not_used(site: OldSite) -> None:
    member = tables("member")
    await site.create(member)
    with pytest.raises(
        ImproperlyConfigured, match=r"auth_user_groups refers to member and not to auth_user.*DROP TABLE"
    ):
        await migrate(site.gateway, Tables())
    await migrate(site.gateway, member)
    for link in site.links:
        await site.gateway.database.execute(f"DROP TABLE {link.name}")
    assert "auth_user" in await migrate(site.gateway, Tables())


async def test_a_table_of_the_application_with_the_name_of_a_link_table_is_refused(database: Database) -> None:
    await database.execute("CREATE TABLE member_groups (id integer PRIMARY KEY, title varchar(20))")
    with pytest.raises(ImproperlyConfigured, match=r"member_groups has no column member_id.*Rename"):
        await migrate(gateway_of(database), tables("member"))
    await gateway_of(database).close()


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("shop_customer", "customer_id"),
        ("Person", "person_id"),
        ("x_group", "user_id"),
        ("people_", "user_id"),
        ("u" * 63, ""),
    ],
)
async def test_own_tables_have_djangos_names_and_fit_every_database(site: OldSite, name: str, column: str) -> None:
    user_tables, sibling = tables(name), tables(f"{name[:-1]}z")
    assert await migrate(site.gateway, user_tables)
    assert await migrate(site.gateway, sibling)
    assert await migrate(site.gateway, user_tables) == []
    assert len({table.name for table in (*user_tables, *sibling)}) == 15
    if column:
        assert user_tables.user_groups.name == f"{name}_groups"
        assert user_tables.user_permissions.name == f"{name}_user_permissions"
        assert [link.c.user_id.name for link in (user_tables.user_groups, user_tables.user_permissions)] == [column] * 2
