"""The tables, their names, and their order."""

import uuid
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import ImproperlyConfigured, Tables, gateway_of, migrate, user_columns


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


def names_of(tables: Tables, dialect: str) -> set[str]:
    """Returns the names of all tables, constraints and indexes."""
    tables.finish(dialect)
    items = [item for table in tables for item in (table, *table.indexes, *table.constraints)]
    names = {str(item.name) for item in items if isinstance(item, sa.Table | sa.Index | sa.Constraint)}
    return names - {"None"}


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql", "mysql"])
def test_a_prefix_precedes_the_names_of_tables_constraints_and_indexes(dialect: str) -> None:
    prefix = "the_customers_of_the_crm_site_"
    plain, prefixed = names_of(Tables(), dialect), names_of(Tables(prefix=prefix), dialect)
    assert len(plain) == len(prefixed)
    assert all(name.startswith(prefix) and len(name) <= 63 for name in prefixed)
    assert {name for name in prefixed if len(name) < 55} <= {f"{prefix}{name}" for name in plain}
    short = names_of(Tables(prefix="x_"), dialect)
    assert {name for name in short if len(name) < 63} <= {f"x_{name}" for name in plain}


def test_a_table_of_a_feature_gets_the_schema_and_the_prefix() -> None:
    tables = Tables(schema="crm", prefix="x_")
    columns = [sa.Column(name, sa.String(20)) for name in ("kind", "name")]
    indexes = [
        sa.Index("audit_kind", "kind"),
        sa.Index(None, "name"),
        sa.UniqueConstraint("kind", "name", name="audit_u"),
    ]
    table = tables.make("audit", *columns, *indexes)
    assert table.fullname == "crm.x_audit"
    assert {index.name for index in table.indexes} == {"x_audit_kind", "ix_crm_x_audit_name"}
    names = {item.name for item in table.constraints if isinstance(item, sa.UniqueConstraint)}
    assert names == {"x_audit_u"}
    assert tables.make("audit") is table


def test_tables_can_be_given_to_several_databases_one_after_the_other() -> None:
    tables = Tables()
    for dialect in ("sqlite", "mysql", "postgresql", "sqlite", "postgresql", "postgresql", "mysql"):
        assert names_of(tables, dialect) == names_of(Tables(), dialect)


def test_tables_are_not_given_to_an_unknown_database() -> None:
    assert names_of(Tables(), "mariadb") == names_of(Tables(), "mysql")
    for name in ("oracle", "", None):
        with pytest.raises(ImproperlyConfigured, match="Pass one of: sqlite, postgresql, mysql"):
            Tables().finish(name)  # type: ignore[arg-type]


def test_one_table_with_unique_names_is_not_for_mysql_and_another_database() -> None:
    tables = Tables(username_case_sensitive=False)
    tables.finish("mysql")
    assert "username_login_hash" not in tables.fields
    assert "username_login_hash" not in Tables(user=tables.user).fields
    with pytest.raises(ImproperlyConfigured, match=r"separate sa\.Table"):
        tables.finish("sqlite")


def test_the_metadata_of_the_application_holds_all_tables() -> None:
    metadata = sa.MetaData()
    order = sa.Table("order", metadata, sa.Column("user_id", sa.ForeignKey("auth_user.id"), primary_key=True))
    tables, again = Tables(metadata=metadata), Tables(metadata=metadata)
    assert set(tables) == set(again) == set(metadata.tables.values()) - {order}
    assert order.c.user_id.references(tables.user.c.id)
    assert [table.name for table in metadata.sorted_tables].index("auth_user") >= 0
    staff = sa.Table("staff", metadata, *user_columns())
    others = Tables(metadata=metadata, user=staff)
    assert others.group is tables.group
    assert {others.user_groups.name, others.session.name} == {"staff_groups", "staff_auth_session"}
    scheme = Tables(metadata=metadata, schema="crm", prefix="x_")
    assert scheme.user.fullname == "crm.x_auth_user"


def test_a_table_of_the_application_is_not_taken_for_one_of_this_package() -> None:
    metadata = sa.MetaData()
    sa.Table("auth_group", metadata, sa.Column("id", sa.Integer, primary_key=True))
    with pytest.raises(ImproperlyConfigured, match=r"has a table auth_group already.*prefix="):
        Tables(metadata=metadata)
    assert Tables(metadata=metadata, prefix="site_").group.name == "site_auth_group"


@pytest.mark.parametrize(
    "options",
    [
        {"metadata": "x"},
        {"metadata": sa.Table("x", sa.MetaData())},
        {"schema": ""},
        {"schema": 3},
        {"prefix": None},
        {"prefix": "a-b"},
        {"prefix": "1a"},
        {"prefix": "ä_"},
        {"prefix": "a\n"},
        {"prefix": "a" * 31},
    ],
    ids=repr,
)
def test_wrong_arguments_are_refused_with_the_fix(options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Pass "):
        Tables(**options)
