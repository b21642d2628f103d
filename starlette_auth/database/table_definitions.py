"""Definitions of the tables, one function per table, with Django's columns and names."""

from datetime import UTC, tzinfo
from typing import Any

import sqlalchemy as sa
from sqlalchemy.schema import SchemaItem

from ..core.arguments import require_instance
from ..core.exceptions import ImproperlyConfigured
from .columns import (
    VARIANTS,
    ForeignKey,
    LikeIndex,
    UniqueTogether,
    UTCDateTime,
    Variant,
    date_time,
    derived_name,
    key_column,
    long_text,
    prefixed_name,
    variants_of,
)

DEFAULT_USER_TABLE = "auth_user"  # Django's
#: The names of the columns of Django's user model.
USER_COLUMNS = (
    *("id", "password", "last_login", "is_superuser", "username", "first_name", "last_name", "email"),
    *("is_staff", "is_active", "date_joined"),
)


class TableFactory:
    """Makes tables in one metadata and schema. `prefix` precedes the names of tables, constraints and indexes."""

    def __init__(self, metadata: sa.MetaData | None = None, *, schema: str | None = None, prefix: str = "") -> None:
        self.metadata = metadata if metadata is not None else sa.MetaData()
        self.schema = schema if schema is not None else self.metadata.schema
        self.prefix = prefix

    @property
    def is_default(self) -> bool:
        """Whether the tables have the default names and schema."""
        return not self.schema and not self.prefix

    def without_prefix(self) -> "TableFactory":
        return TableFactory(self.metadata, schema=self.schema)

    def name(self, name: str) -> str:
        """Returns a name with the prefix."""
        return prefixed_name(self.prefix, name) if self.prefix else name

    def make(self, name: str, *items: SchemaItem | Variant, **options: Any) -> sa.Table:
        """Returns a new table, or the table that another installation made in this metadata.

        Raises ImproperlyConfigured if the metadata has a table of the application with this name.
        """
        full_name = self.name(name)
        table = self.metadata.tables.get(f"{self.schema}.{full_name}" if self.schema else full_name)
        if table is not None and table.key in self.metadata.info.get(VARIANTS, ()):
            return table
        if table is not None:
            raise ImproperlyConfigured(
                f"The metadata has a table {table.fullname} already, and it is not one of this package. If it is your "
                'user table, pass Tables(user=…). Otherwise rename it, or pass Tables(metadata=…, prefix="site_").'
            )
        for item in items:
            if isinstance(item, sa.Index | sa.UniqueConstraint) and item.name:
                item.name = sa.sql.quoted_name(self.name(str(item.name)), None)
        schema_items = [item for item in items if isinstance(item, SchemaItem)]
        table = sa.Table(full_name, self.metadata, *schema_items, schema=self.schema, **options)
        variants_of(table).clear()
        for item in items:
            if isinstance(item, Variant):
                item.attach(table, self.name)
        return table


def user_columns(key: sa.Column[Any] | None = None) -> list[sa.Column[Any]]:
    """Returns the columns of Django's user model, for a custom user table. `key` is its primary key."""
    if key is not None:
        fix = 'Pass a column of SQLAlchemy, as in Column("id", Uuid(), primary_key=True).'
        require_instance(key, sa.Column, "key", fix)
    return [
        key if key is not None else key_column(),
        sa.Column("password", sa.String(128), nullable=False),
        sa.Column("last_login", date_time(), nullable=True),
        sa.Column("is_superuser", sa.Boolean, nullable=False),
        sa.Column("username", sa.String(150), nullable=False, unique=True),
        sa.Column("first_name", sa.String(150), nullable=False),
        sa.Column("last_name", sa.String(150), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("is_staff", sa.Boolean, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("date_joined", date_time(), nullable=False),
    ]


def user_table(factory: TableFactory) -> sa.Table:
    return factory.make(
        DEFAULT_USER_TABLE,
        *user_columns(),
        LikeIndex("auth_user_username_6821ab7c_like", "username"),
        sqlite_autoincrement=True,
    )


def django_user_table(factory: TableFactory, name: str, username_field: str) -> sa.Table:
    """Returns the table of a user model with the columns of Django's AbstractUser.

    `username_field` takes the place of the username column. If it is "email", there is only one email column.
    """
    columns = [column for column in user_columns() if column.name not in ("username", username_field)]
    columns.append(sa.Column(username_field, sa.String(254), nullable=False, unique=True))
    if name == DEFAULT_USER_TABLE and username_field == "username":
        return user_table(factory)
    return factory.make(name, *columns)


def content_type_table(factory: TableFactory, name: str, unique: str) -> sa.Table:
    return factory.make(
        name,
        key_column(),
        sa.Column("app_label", sa.String(100), nullable=False),
        sa.Column("model", sa.String(100), nullable=False),
        UniqueTogether(unique, "app_label", "model"),
        sqlite_autoincrement=True,
    )


def permission_table(factory: TableFactory, content_type: sa.Table) -> sa.Table:
    return factory.make(
        "auth_permission",
        key_column(),
        sa.Column("content_type_id", sa.Integer, nullable=False),
        sa.Column("codename", sa.String(100), nullable=False),
        sa.Column("name", sa.String(255), nullable=False),
        UniqueTogether("auth_permission_content_type_id_codename_01ab375a_uniq", "content_type_id", "codename"),
        ForeignKey(
            "auth_permission_content_type_id_2f476e4b_fk_django_co",
            "auth_permission_content_type_id_2f476e4b",
            "content_type_id",
            content_type.c.id,
        ),
        sqlite_autoincrement=True,
    )


def group_table(factory: TableFactory) -> sa.Table:
    return factory.make(
        "auth_group",
        key_column(),
        sa.Column("name", sa.String(150), nullable=False, unique=True),
        LikeIndex("auth_group_name_a6ea08ec_like", "name"),
        sqlite_autoincrement=True,
    )


def group_permissions_table(factory: TableFactory, group: sa.Table, permission: sa.Table) -> sa.Table:
    return association_table(
        factory,
        "auth_group_permissions",
        (
            "group_id",
            group.c.id,
            "auth_group_permissions_group_id_b120cbf9_fk_auth_group_id",
            "auth_group_permissions_group_id_b120cbf9",
        ),
        (
            "permission_id",
            permission.c.id,
            "auth_group_permissio_permission_id_84c5c92e_fk_auth_perm",
            "auth_group_permissions_permission_id_84c5c92e",
        ),
        "auth_group_permissions_group_id_permission_id_0cd325b0_uniq",
    )


def user_groups_table(factory: TableFactory, name: str, user: tuple[str, sa.Column[Any]], group: sa.Table) -> sa.Table:
    """Returns the table. `user` is the name of the column that refers to a user, and the key of the user table."""
    if name != "auth_user_groups":
        return link_table(factory, name, user, ("group_id", group.c.id))
    return association_table(
        factory,
        name,
        (*user, "auth_user_groups_user_id_6a12ed8b_fk_auth_user_id", "auth_user_groups_user_id_6a12ed8b"),
        (
            "group_id",
            group.c.id,
            "auth_user_groups_group_id_97559544_fk_auth_group_id",
            "auth_user_groups_group_id_97559544",
        ),
        "auth_user_groups_user_id_group_id_94350c0c_uniq",
    )


def user_permissions_table(
    factory: TableFactory, name: str, user: tuple[str, sa.Column[Any]], permission: sa.Table
) -> sa.Table:
    """Returns the table. `user` is the name of the column that refers to a user, and the key of the user table."""
    if name != "auth_user_user_permissions":
        return link_table(factory, name, user, ("permission_id", permission.c.id))
    return association_table(
        factory,
        name,
        (
            *user,
            "auth_user_user_permissions_user_id_a95ead1b_fk_auth_user_id",
            "auth_user_user_permissions_user_id_a95ead1b",
        ),
        (
            "permission_id",
            permission.c.id,
            "auth_user_user_permi_permission_id_1fbb5f2c_fk_auth_perm",
            "auth_user_user_permissions_permission_id_1fbb5f2c",
        ),
        "auth_user_user_permissions_user_id_permission_id_14a6b632_uniq",
    )


def link_table(
    factory: TableFactory, name: str, user: tuple[str, sa.Column[Any]], other: tuple[str, sa.Column[Any]]
) -> sa.Table:
    """Returns the table that links a custom user table to groups or permissions.

    Its constraints and indexes are named after it, because their names must be unique in the database.
    """
    left = (*user, derived_name(name, "_user_id_fk"), derived_name(name, "_user_id"))
    right = (*other, derived_name(name, f"_{other[0]}_fk"), derived_name(name, f"_{other[0]}"))
    return association_table(factory, name, left, right, derived_name(name, "_uniq"))


def session_table(factory: TableFactory, user_key: sa.types.TypeEngine[Any], name: str = "auth_session") -> sa.Table:
    """Returns the table of the native sessions, which stores the SHA-256 hash of each session key.

    Times are seconds since 1970 (UTC).
    """
    return factory.make(
        name,
        sa.Column("key_hash", sa.String(64), primary_key=True),
        sa.Column("public_id", sa.String(32), nullable=False, unique=True),
        sa.Column("user_id", user_key, nullable=True),
        sa.Column("data", long_text(), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("address", sa.String(45), nullable=False),
        sa.Column("user_agent", sa.String(255), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Index(derived_name(name, "_user_id"), "user_id"),
        sa.Index(derived_name(name, "_expires"), "expires"),
    )


def token_table(factory: TableFactory, name: str = "auth_token") -> sa.Table:
    """Returns the table of the tokens that were sent by mail, stored as SHA-256 hashes (hexadecimal).

    Times are seconds since 1970 (UTC).
    """
    return factory.make(
        name,
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("binding", sa.String(64), nullable=False),
        sa.Column("data", long_text(), nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Index(derived_name(name, "_subject"), "subject"),
        sa.Index(derived_name(name, "_expires"), "expires"),
    )


def throttle_table(factory: TableFactory) -> sa.Table:
    """Returns the table of the rate limits. Its key is a hash of the name, address or token that is limited.

    Times are milliseconds since 1970 (UTC).
    """
    return factory.make(
        "auth_throttle",
        sa.Column("key_hash", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Index("auth_throttle_until", "until"),
    )


def django_session_table(factory: TableFactory, name: str = "django_session", zone: tzinfo = UTC) -> sa.Table:
    return factory.make(
        name,
        sa.Column("session_key", sa.String(40), primary_key=True),
        sa.Column("session_data", long_text(), nullable=False),
        sa.Column("expire_date", UTCDateTime(zone), nullable=False),
        sa.Index("django_session_expire_date_a5c62663", "expire_date"),
        LikeIndex("django_session_session_key_c0390e0f_like", "session_key"),
    )


def association_table(
    factory: TableFactory,
    name: str,
    left: tuple[str, sa.Column[Any], str, str],
    right: tuple[str, sa.Column[Any], str, str],
    unique: str,
) -> sa.Table:
    """Returns a table that links two others. `unique` is the name of its unique constraint.

    `left` and `right` are each a column name, the key it refers to, the name of the constraint, and that of the index.
    """
    left_key = "group_id" if left[0] == "group_id" else "user_id"
    return factory.make(
        name,
        key_column(big=True),
        # The column is named after the user model, as in Django. In Python, its key is always `user_id`.
        sa.Column(left[0], left[1].type, nullable=False, key=left_key),
        sa.Column(right[0], right[1].type, nullable=False),
        UniqueTogether(unique, left_key, right[0]),
        ForeignKey(left[2], left[3], left_key, left[1]),
        ForeignKey(right[2], right[3], right[0], right[1]),
        sqlite_autoincrement=True,
    )
