"""The tables of one installation, native or of a Django project."""

from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..core.exceptions import ImproperlyConfigured
from .columns import UTCDateTime
from .table_definitions import (
    content_type_table,
    django_session_table,
    django_user_table,
    group_permissions_table,
    group_table,
    permission_table,
    session_table,
    throttle_table,
    token_table,
    user_columns,
    user_groups_table,
    user_permissions_table,
    user_table,
)


class TableNames(NamedTuple):
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
        self._build(TableNames())
        self.session = session_table(self.metadata, self.user_key.type)
        #: Those that belong to a Django project: never altered, and made only where there is none of them.
        self.django_tables: tuple[sa.Table, ...] = ()

    def _build(self, names: TableNames) -> None:
        self.user_key = next(iter(self.user.primary_key.columns))
        columns = self.user.columns
        self.username: sa.Column[Any] = columns[names.username]
        self.email: sa.Column[Any] | None = columns.get(names.email)
        #: The columns that hold what a `User` calls so.
        self.fields: dict[str, sa.Column[Any]] = {column.name: column for column in columns}
        self.fields |= {"id": self.user_key, "username": self.username}
        if self.email is not None:
            self.fields["email"] = self.email
        self.content_type = content_type_table(self.metadata, names.content_type, names.content_type_unique)
        self.permission = permission_table(self.metadata, self.content_type)
        self.group = group_table(self.metadata)
        self.group_permissions = group_permissions_table(self.metadata, self.group, self.permission)
        user = (names.user_column, self.user_key)
        self.user_groups = user_groups_table(self.metadata, names.user_groups, user, self.group)
        self.user_permissions = user_permissions_table(self.metadata, names.user_permissions, user, self.permission)
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
            TableNames(
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
                column.type = UTCDateTime(zone)
        tables.django_tables = tuple(tables)[:8]
        return tables

    def __iter__(self) -> Iterator[sa.Table]:
        """In an order in which they can be created: what is referred to comes first."""
        yield from (self.content_type, self.permission, self.group, self.group_permissions, self.user)
        yield from (self.user_groups, self.user_permissions, self.session)
        yield from (self.token, self.throttle, *self.features)

    def columns_referencing_user(self) -> list[sa.Column[Any]]:
        """The columns that name a user, the session's included: what must go before a user does.

        The last table comes first, as it may refer to one before it. Users who refer to users are not among them.
        """
        others = [table for table in self if table is not self.user]
        columns = [column for table in reversed(others) for column in table.columns if column.references(self.user_key)]
        return [*columns, *(column for column in self.session.columns if column.name == "user_id")]
