"""The tables, their names, and their order."""

import uuid

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import Tables, gateway_of, migrate, user_columns


def test_the_tables_have_djangos_names() -> None:
    assert [table.name for table in Tables()] == [
        "auth_content_type",
        "auth_permission",
        "auth_group",
        "auth_group_permissions",
        "auth_user",
        "auth_user_groups",
        "auth_user_user_permissions",
        "auth_session",
        "auth_token",
        "auth_throttle",
    ]


def test_a_django_database_has_its_own_content_types_and_sessions() -> None:
    names = [table.name for table in Tables.django()]
    assert names[0] == "django_content_type"
    assert "django_session" in names
    assert "auth_session" not in Tables.django().metadata.tables


def test_referenced_tables_come_first() -> None:
    for tables in (Tables(), Tables.django()):
        created: set[sa.Table] = set()
        for table in tables:
            referenced = {key.column.table for key in table.foreign_keys}
            assert referenced <= created | {table}, table.name
            created.add(table)


def test_user_columns_are_those_of_django() -> None:
    assert {column.name for column in user_columns()} == {
        *("id", "password", "last_login", "is_superuser", "username", "first_name", "last_name", "email"),
        *("is_staff", "is_active", "date_joined"),
    }
    key = sa.Column("uuid", sa.Uuid(), primary_key=True)
    assert user_columns(key)[0] is key


@pytest.mark.parametrize("kind", [sa.Integer(), sa.BigInteger(), sa.Uuid()])
def test_columns_that_refer_to_a_user_have_the_type_of_its_key(kind: sa.types.TypeEngine[int | uuid.UUID]) -> None:
    user = sa.Table("person", sa.MetaData(), *user_columns(sa.Column("key", kind, primary_key=True)))
    tables = Tables(user=user)
    assert tables.user_key is user.c.key
    for column in tables.columns_referencing_user():
        assert type(column.type) is type(kind)


def test_columns_referencing_user_start_with_the_last_table() -> None:
    tables = Tables()
    metadata = sa.MetaData()
    device = sa.Table("device", metadata, sa.Column("owner", sa.ForeignKey(tables.user_key)))
    code = sa.Table("code", metadata, sa.Column("owner", sa.ForeignKey(tables.user_key)))
    tables.features += [device, code]
    assert [f"{column.table.name}.{column.name}" for column in tables.columns_referencing_user()] == [
        "code.owner",
        "device.owner",
        "auth_user_user_permissions.user_id",
        "auth_user_groups.user_id",
        "auth_session.user_id",
    ]


def test_columns_referencing_user_exclude_the_user_table() -> None:
    key = sa.Column("id", sa.Integer, primary_key=True)
    user = sa.Table("person", sa.MetaData(), *user_columns(key), sa.Column("boss", sa.ForeignKey("person.id")))
    assert all(column.table is not user for column in Tables(user=user).columns_referencing_user())


async def test_the_tables_of_a_django_database_can_be_created_and_used(database: Database) -> None:
    gateway, tables = gateway_of(database), Tables.django()
    assert "django_session" in await migrate(gateway, tables)
    assert await migrate(gateway, tables) == []
    key = await gateway.insert(tables.content_type, app_label="polls", model="vote")
    assert key == 1
    await gateway.close()
