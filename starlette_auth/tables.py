"""The tables: Django's columns, types, constraints and index names."""

from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

import sqlalchemy as sa

from .columns import LongText, Moment, key_column, like_index, reference, unique_together
from .exceptions import ImproperlyConfigured


class Names(NamedTuple):
    """What is called otherwise in a Django project."""

    content_type: str = "auth_content_type"
    content_type_unique: str = "auth_content_type_app_label_model_uniq"
    user_groups: str = "auth_user_groups"
    user_permissions: str = "auth_user_user_permissions"
    user_column: str = "user_id"
    username: str = "username"
    email: str = "email"


class Tables:
    """All tables of one installation.

    `user` may be a table of your own, with any further columns, another name, and an integer or UUID primary key;
    it has at least the columns of `user_columns()`.
    """

    def __init__(self, *, user: sa.Table | None = None) -> None:
        self.metadata = sa.MetaData()
        self.user = user if user is not None else user_table(self.metadata)
        lacking = {column.name for column in user_columns()} - {"id"} - set(self.user.columns.keys())
        if lacking:
            raise ImproperlyConfigured(f"The user table has no column {min(lacking)}. Begin it with *user_columns().")
        self._build(Names())
        self.session = session_table(self.metadata, self.user_key.type)
        #: Those that belong to a Django project: never altered, and made only where there is none of them.
        self.of_django: tuple[sa.Table, ...] = ()

    def _build(self, names: Names) -> None:
        self.user_key = next(iter(self.user.primary_key.columns))
        columns = self.user.columns
        self.username: sa.Column[Any] = columns[names.username]
        self.email: sa.Column[Any] | None = columns.get(names.email)
        #: The columns that hold what a `User` calls so.
        self.fields: dict[str, sa.Column[Any]] = {column.name: column for column in columns}
        self.fields |= {"id": self.user_key, "username": self.username}
        if self.email is not None:
            self.fields["email"] = self.email
        self.content_type = sa.Table(
            names.content_type,
            self.metadata,
            key_column(),
            sa.Column("app_label", sa.String(100), nullable=False),
            sa.Column("model", sa.String(100), nullable=False),
            *unique_together(names.content_type_unique, "app_label", "model"),
            sqlite_autoincrement=True,
        )
        self.permission = sa.Table(
            "auth_permission",
            self.metadata,
            key_column(),
            sa.Column("content_type_id", sa.Integer, nullable=False),
            sa.Column("codename", sa.String(100), nullable=False),
            sa.Column("name", sa.String(255), nullable=False),
            *unique_together("auth_permission_content_type_id_codename_01ab375a_uniq", "content_type_id", "codename"),
            *reference(
                "auth_permission_content_type_id_2f476e4b_fk_django_co",
                "auth_permission_content_type_id_2f476e4b",
                "content_type_id",
                self.content_type.c.id,
            ),
            sqlite_autoincrement=True,
        )
        self.group = sa.Table(
            "auth_group",
            self.metadata,
            key_column(),
            sa.Column("name", sa.String(150), nullable=False, unique=True),
            like_index("auth_group_name_a6ea08ec_like", "name"),
            sqlite_autoincrement=True,
        )
        self.group_permissions = _link(
            self.metadata,
            "auth_group_permissions",
            "auth_group_permissions_group_id_permission_id_0cd325b0_uniq",
            (
                "group_id",
                self.group.c.id,
                "auth_group_permissions_group_id_b120cbf9_fk_auth_group_id",
                "auth_group_permissions_group_id_b120cbf9",
            ),
            (
                "permission_id",
                self.permission.c.id,
                "auth_group_permissio_permission_id_84c5c92e_fk_auth_perm",
                "auth_group_permissions_permission_id_84c5c92e",
            ),
        )
        self.user_groups = _link(
            self.metadata,
            names.user_groups,
            "auth_user_groups_user_id_group_id_94350c0c_uniq",
            (
                names.user_column,
                self.user_key,
                "auth_user_groups_user_id_6a12ed8b_fk_auth_user_id",
                "auth_user_groups_user_id_6a12ed8b",
            ),
            (
                "group_id",
                self.group.c.id,
                "auth_user_groups_group_id_97559544_fk_auth_group_id",
                "auth_user_groups_group_id_97559544",
            ),
        )
        self.user_permissions = _link(
            self.metadata,
            names.user_permissions,
            "auth_user_user_permissions_user_id_permission_id_14a6b632_uniq",
            (
                names.user_column,
                self.user_key,
                "auth_user_user_permissions_user_id_a95ead1b_fk_auth_user_id",
                "auth_user_user_permissions_user_id_a95ead1b",
            ),
            (
                "permission_id",
                self.permission.c.id,
                "auth_user_user_permi_permission_id_1fbb5f2c_fk_auth_perm",
                "auth_user_user_permissions_permission_id_1fbb5f2c",
            ),
        )
        self.token = token_table(self.metadata)
        self.throttle = throttle_table(self.metadata)
        self.features: list[sa.Table] = []

    @classmethod
    def django(
        cls,
        user: str | sa.Table = "auth_user",
        *,
        model: str = "",
        username_field: str = "username",
        email_field: str = "email",
        session: str | sa.Table = "django_session",
        time_zone: tzinfo | None = None,
    ) -> "Tables":
        """The tables of a Django project, which stay as they are.

        `user` is the table of its AUTH_USER_MODEL: its name, where the columns are those of Django's AbstractUser (with
        `username_field`, USERNAME_FIELD, in place of the username), or all of it. `model` is the model's name in lower
        case, by which Django calls a column of the link tables; without it, what stands behind the last _ of the
        table's name. `session` is the table of sessions, if it is another. `time_zone` is the project's TIME_ZONE where
        it says USE_TZ=False. The key may be an integer or a UUID; the tables of groups and permissions belong to it.
        """
        tables = cls.__new__(cls)
        tables.metadata = sa.MetaData()
        zone = time_zone or UTC
        tables.user = django_user_table(tables.metadata, user, username_field, zone) if isinstance(user, str) else user
        for name in ("password", "last_login", "is_superuser", username_field):
            if name not in tables.user.columns:
                raise ImproperlyConfigured(
                    f"The table {tables.user.name} has no column {name}. Pass one with Django's columns of a user, "
                    "or USERNAME_FIELD as username_field."
                )
        user_column = f"{model or tables.user.name.rpartition('_')[2]}_id"
        tables._build(
            Names(
                "django_content_type",
                "django_content_type_app_label_model_76bd3d3b_uniq",
                f"{tables.user.name}_groups",
                f"{tables.user.name}_user_permissions",
                user_column,
                username_field,
                email_field,
            )
        )
        tables.session = django_session_table(tables.metadata, session, zone) if isinstance(session, str) else session
        for column in (*tables.user.columns, *tables.session.columns):
            if isinstance(column.type, sa.DateTime):
                column.type = Moment(zone)
        tables.of_django = tuple(tables)[:8]
        return tables

    def __iter__(self) -> Iterator[sa.Table]:
        """In an order in which they can be created: what is referred to comes first."""
        yield from (self.content_type, self.permission, self.group, self.group_permissions, self.user)
        yield from (self.user_groups, self.user_permissions, self.session)
        yield from (self.token, self.throttle, *self.features)

    def referring_to_user(self) -> list[sa.Column[Any]]:
        """The columns that name a user, the session's included: what must go before a user does.

        The last table comes first, as it may refer to one before it. Users who refer to users are not among them.
        """
        others = [table for table in self if table is not self.user]
        columns = [column for table in reversed(others) for column in table.columns if column.references(self.user_key)]
        return [*columns, *(column for column in self.session.columns if column.name == "user_id")]


def user_columns(key: sa.Column[Any] | None = None) -> list[sa.Column[Any]]:
    """Django's columns of a user, to begin a table of your own with. `key` is its primary key."""
    return [
        key if key is not None else key_column(),
        sa.Column("password", sa.String(128), nullable=False),
        sa.Column("last_login", Moment(), nullable=True),
        sa.Column("is_superuser", sa.Boolean, nullable=False),
        sa.Column("username", sa.String(150), nullable=False, unique=True),
        sa.Column("first_name", sa.String(150), nullable=False),
        sa.Column("last_name", sa.String(150), nullable=False),
        sa.Column("email", sa.String(254), nullable=False),
        sa.Column("is_staff", sa.Boolean, nullable=False),
        sa.Column("is_active", sa.Boolean, nullable=False),
        sa.Column("date_joined", Moment(), nullable=False),
    ]


def user_table(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "auth_user",
        metadata,
        *user_columns(),
        like_index("auth_user_username_6821ab7c_like", "username"),
        sqlite_autoincrement=True,
    )


def django_user_table(metadata: sa.MetaData, name: str, username_field: str, zone: tzinfo) -> sa.Table:
    """With the columns of AbstractUser. Where the address is the name, there is none besides."""
    columns = [column for column in user_columns() if column.name not in ("username", username_field)]
    columns.append(sa.Column(username_field, sa.String(254), nullable=False, unique=True))
    if name == "auth_user" and username_field == "username":
        return user_table(metadata)
    return sa.Table(name, metadata, *columns)


def session_table(metadata: sa.MetaData, user_key: sa.types.TypeEngine[Any]) -> sa.Table:
    """Our own sessions. The key itself is never stored, only its SHA-256; times are UTC seconds since 1970."""
    return sa.Table(
        "auth_session",
        metadata,
        sa.Column("key_hash", sa.String(64), primary_key=True),
        sa.Column("public_id", sa.String(32), nullable=False, unique=True),
        sa.Column("user_id", user_key, nullable=True),
        sa.Column("data", LongText(), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("address", sa.String(45), nullable=False),
        sa.Column("user_agent", sa.String(255), nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False, server_default="0"),
        sa.Index("auth_session_user_id", "user_id"),
        sa.Index("auth_session_expires", "expires"),
    )


def token_table(metadata: sa.MetaData) -> sa.Table:
    """Tokens that were sent by mail, as hashes (SHA-256, in hexadecimal digits); times are UTC seconds since 1970."""
    return sa.Table(
        "auth_token",
        metadata,
        sa.Column("token_hash", sa.String(64), primary_key=True),
        sa.Column("purpose", sa.String(32), nullable=False),
        sa.Column("subject", sa.String(64), nullable=False),
        sa.Column("binding", sa.String(64), nullable=False),
        sa.Column("data", LongText(), nullable=False),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Index("auth_token_subject", "subject"),
        sa.Index("auth_token_expires", "expires"),
    )


def throttle_table(metadata: sa.MetaData) -> sa.Table:
    """Who tried how often, under a hash of what is counted; times are UTC milliseconds since 1970."""
    return sa.Table(
        "auth_throttle",
        metadata,
        sa.Column("key_hash", sa.String(64), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.Index("auth_throttle_until", "until"),
    )


def django_session_table(metadata: sa.MetaData, name: str = "django_session", zone: tzinfo = UTC) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column("session_key", sa.String(40), primary_key=True),
        sa.Column("session_data", LongText(), nullable=False),
        sa.Column("expire_date", Moment(zone), nullable=False),
        sa.Index("django_session_expire_date_a5c62663", "expire_date"),
        like_index("django_session_session_key_c0390e0f_like", "session_key"),
    )


def _link(
    metadata: sa.MetaData,
    name: str,
    unique: str,
    left: tuple[str, sa.Column[Any], str, str],
    right: tuple[str, sa.Column[Any], str, str],
) -> sa.Table:
    """A table between two others. Each side: its column, what it refers to, its constraint's and its index's name."""
    left_key = "group_id" if left[0] == "group_id" else "user_id"
    return sa.Table(
        name,
        metadata,
        key_column(big=True),
        # However the column is called, here it is `user_id`.
        sa.Column(left[0], left[1].type, nullable=False, key=left_key),
        sa.Column(right[0], right[1].type, nullable=False),
        *unique_together(unique, left_key, right[0]),
        *reference(left[2], left[3], left_key, left[1]),
        *reference(right[2], right[3], right[0], right[1]),
        sqlite_autoincrement=True,
    )
