"""The tables of one installation, native or shared with a Django project."""

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, tzinfo
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.schema import SchemaItem

from ..core.arguments import require_bool, require_instance, require_text
from ..core.exceptions import ImproperlyConfigured
from .columns import LoginHash, UTCDateTime, add_lookup_index, add_unique_index, derived_name, finish_table
from .statements import DIALECTS
from .table_definitions import (
    DEFAULT_USER_TABLE,
    TableFactory,
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
    """The names of tables, columns and constraints that depend on the user table, or differ in a Django project."""

    content_type: str = "auth_content_type"
    content_type_unique: str = "auth_content_type_app_label_model_uniq"
    user_groups: str = "auth_user_groups"
    user_permissions: str = "auth_user_user_permissions"
    user_column: str = "user_id"
    session: str = "auth_session"
    token: str = "auth_token"  # noqa: S105  a name
    username: str = "username"
    email: str = "email"


def own_names(user: sa.Table, schema: str | None = None) -> TableNames:
    """Returns the names of the tables that belong to a custom user table alone, for tables in a schema.

    Two user tables in one database would otherwise share rows: number 1 of one would have the rights, sessions and
    links of number 1 of the other. The names are Django's: those of its default user table, or those that it gives to
    the tables of a custom user model.
    """
    if user.name == DEFAULT_USER_TABLE:
        return TableNames()
    base = user.name if user.schema == schema else user.fullname.replace(".", "_")
    return TableNames(
        user_groups=derived_name(base, "_groups"),
        user_permissions=derived_name(base, "_user_permissions"),
        user_column=_link_column(user.name),
        session=derived_name(base, "_auth_session"),
        token=derived_name(base, "_auth_token"),
    )


def _link_column(table: str) -> str:
    """Returns the name of the column that refers to a user: as in Django, the name of the model and `_id`."""
    model = table.rpartition("_")[2].lower()
    return derived_name(model, "_id") if model not in ("", "group", "permission") else "user_id"


class Tables:
    """Holds all tables of one installation.

    `user` may be a custom table with at least the columns of `user_columns()`. Its name and further columns are free.
    Its primary key is an integer or a UUID. Each user table has separate tables for the groups and permissions of its
    users, their sessions and their mailed links. For `shop_customer` these are `shop_customer_groups`,
    `shop_customer_user_permissions`, `shop_customer_auth_session` and `shop_customer_auth_token`. Groups and permissions
    themselves are the same for all.

    All tables are made in `metadata`, such as `Base.metadata` of the application. Foreign keys of the application may then
    refer to `auth_user.id`, and Alembic sees all tables in one place. `schema` is the schema of all tables but a custom
    user table, and `prefix` precedes the names that begin with `auth_`.

    With `username_case_sensitive=False` a username is found, and is taken, whatever the case of its letters A to Z.
    """

    def __init__(
        self,
        *,
        user: sa.Table | None = None,
        metadata: sa.MetaData | None = None,
        schema: str | None = None,
        prefix: str = "",
        username_case_sensitive: bool = True,
    ) -> None:
        _check_arguments(user, metadata, schema, prefix)
        require_bool(username_case_sensitive, "username_case_sensitive")
        factory = TableFactory(metadata, schema=schema, prefix=prefix)
        self.user = user if user is not None else user_table(factory)
        missing = {column.name for column in user_columns()} - {"id"} - set(self.user.columns.keys())
        if missing:
            raise ImproperlyConfigured(f"The user table has no column {min(missing)}. Define it with *user_columns().")
        names = TableNames() if user is None else own_names(user, factory.schema)
        self._build(factory, names, factory if user is None else factory.without_prefix())
        for column in (self.username, self.user.c.email):
            add_lookup_index(column)
        self.username_case_sensitive = username_case_sensitive
        if not username_case_sensitive:
            add_unique_index(self.username)
        self.session = self.native_session
        #: The tables of a Django project. They are never altered, and are created only if none of them exists.
        self.django_tables: tuple[sa.Table, ...] = ()

    def _build(self, shared: TableFactory, names: TableNames, own: TableFactory) -> None:
        """Makes the tables: those of all users with `shared`, and those of this user table alone with `own`."""
        self.metadata, self._factory = shared.metadata, shared
        self.user_key = next(iter(self.user.primary_key.columns))
        #: The text that keeps the users of a table apart in signatures and counters, which know only numbers.
        self.namespace = "" if self.user.name == DEFAULT_USER_TABLE and own.is_default else self.user.fullname
        columns = self.user.columns
        self.username: sa.Column[Any] = columns[names.username]
        self.email: sa.Column[Any] | None = columns.get(names.email)
        #: The columns by the names of the attributes of `User`.
        self.fields: dict[str, sa.Column[Any]] = {
            column.name: column for column in columns if not isinstance(column.computed, LoginHash)
        }
        self.fields |= {"id": self.user_key, "username": self.username}
        if self.email is not None:
            self.fields["email"] = self.email
        self.content_type = content_type_table(shared, names.content_type, names.content_type_unique)
        self.permission = permission_table(shared, self.content_type)
        self.group = group_table(shared)
        self.group_permissions = group_permissions_table(shared, self.group, self.permission)
        user = (names.user_column, self.user_key)
        self.user_groups = user_groups_table(own, names.user_groups, user, self.group)
        self.user_permissions = user_permissions_table(own, names.user_permissions, user, self.permission)
        self.token = token_table(own, names.token)
        self.throttle = throttle_table(shared)
        self._native_session, self._own = (own, names.session), own
        self.features: list[sa.Table] = []
        #: Whether no two users may have one email address, ignoring case: users log in with it.
        self.unique_email = self.username is self.email
        self.username_case_sensitive = True

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
        """Returns the tables of a Django project, which are not altered.

        `user` is the table of AUTH_USER_MODEL. Its name is enough if it has the columns of Django's AbstractUser, where
        `username_field` (USERNAME_FIELD) takes the place of the username. Otherwise pass the `sa.Table`. Its primary
        key is an integer or a UUID.

        `model` is the name of the user model in lower case. Django names a column of the tables of user groups and user
        permissions after it. The default is the part after the last _ of the table name.

        `session` is the session table. `time_zone` is the project's TIME_ZONE if it has USE_TZ=False.
        """
        tables = cls.__new__(cls)
        factory, zone = TableFactory(), time_zone or UTC
        tables.user = django_user_table(factory, user, username_field) if isinstance(user, str) else user
        for name in ("password", "is_superuser", username_field):
            if name not in tables.user.columns:
                raise ImproperlyConfigured(
                    f"The table {tables.user.name} has no column {name}. Pass one with Django's columns of a user, "
                    "or USERNAME_FIELD as username_field."
                )
        user_column = f"{model or tables.user.name.rpartition('_')[2]}_id"
        own = own_names(tables.user)
        names = TableNames(
            "django_content_type",
            "django_content_type_app_label_model_76bd3d3b_uniq",
            f"{tables.user.name}_groups",
            f"{tables.user.name}_user_permissions",
            user_column,
            own.session,
            own.token,
            username_field,
            email_field,
        )
        tables._build(factory, names, factory)
        tables.session = django_session_table(factory, session, zone) if isinstance(session, str) else session
        for column in (*tables.user.columns, *tables.session.columns):
            if isinstance(column.type, sa.DateTime):
                column.type = UTCDateTime(zone)
        tables.django_tables = tuple(tables)[:8]
        return tables

    @property
    def native_session(self) -> sa.Table:
        """The table of the native sessions of these users. A Django project has another one, `session`."""
        factory, name = self._native_session
        return session_table(factory, self.user_key.type, name)

    def finish(self, dialect: str) -> None:
        """Gives the tables the constraints and indexes for one database: "sqlite", "postgresql", "mysql" or "mariadb".

        `Auth` and `migrate` call this. Call it before `metadata.create_all()` if no Auth has the tables yet.
        """
        dialect = "mysql" if dialect == "mariadb" else dialect
        if dialect not in DIALECTS:
            raise ImproperlyConfigured(f"There is no database {dialect!r}. Pass one of: {', '.join(DIALECTS)}.")
        for table in self:
            finish_table(table, dialect)

    @property
    def has_default_names(self) -> bool:
        """Whether the tables of groups and permissions have Django's names, in the default schema."""
        return self._factory.is_default

    def make(self, name: str, *items: SchemaItem, **options: Any) -> sa.Table:
        """Returns a table for a feature, in the metadata and schema of these tables and with their prefix.

        The arguments are those of `sa.Table` without the metadata. The names of indexes and unique constraints get the
        prefix, too. If another Auth made this table in the metadata, it is returned.
        """
        return self._factory.make(name, *items, **options)

    def make_own(self, name: str, *items: SchemaItem, **options: Any) -> sa.Table:
        """Returns a table for a feature that belongs to the users of this user table alone.

        It is what `make` returns, but for a custom user table `member` the table `auth_things` is `member_auth_things`.
        """
        return self._own.make(self.own_name(name), *items, **options)

    def own_name(self, name: str) -> str:
        """Returns the name of the table that `make_own` makes, without the prefix. Use it for names of constraints."""
        base = self.token.name.removeprefix(self._own.prefix).removesuffix("auth_token")
        return derived_name(base, name) if base else name

    def foreign_to_alembic(self, name: str | None, type_: str, parent_names: Mapping[str, str | None]) -> bool:
        """Returns whether Alembic may compare a table: not if it is one of these, which `migrate` creates.

        Pass it as `include_name` in env.py. In a Django project's database, all tables of Django itself are left out.
        """
        if type_ != "table" or name is None:
            return True
        schema = parent_names.get("schema_name")
        if self.django_tables and schema is None and name.startswith("django_"):
            return False
        return (schema, name) not in {(table.schema, table.name) for table in self}

    def __iter__(self) -> Iterator[sa.Table]:
        """Yields the tables in an order in which they can be created: referenced tables come first."""
        yield from (self.content_type, self.permission, self.group, self.group_permissions, self.user)
        yield from (self.user_groups, self.user_permissions, self.session)
        yield from (self.token, self.throttle, *self.features)

    def require_unique_email(self) -> None:
        """Makes the email address unique, ignoring the case of ASCII letters: users log in with it.

        `migrate` creates an index for that, but not in a Django project's tables.
        """
        self.unique_email = self.email is not None
        if self.email is not None and not self.django_tables:
            add_unique_index(self.email)

    @property
    def caseless_columns(self) -> list[sa.Column[Any]]:
        """The columns whose texts are unique, ignoring the case of ASCII letters."""
        columns = [] if self.username_case_sensitive else [self.username]
        return [*columns, self.email] if self.unique_email and self.email is not None else columns

    def columns_referencing_user(self) -> list[sa.Column[Any]]:
        """Returns the columns that refer to a user, including that of the sessions.

        Their rows must be deleted before the user. The last table comes first, because it may refer to an earlier one.
        References inside the user table are not included.
        """
        other_tables = [table for table in self if table is not self.user]
        columns = [
            column for table in reversed(other_tables) for column in table.columns if column.references(self.user_key)
        ]
        return [*columns, *(column for column in self.session.columns if column.name == "user_id")]


def _check_arguments(user: Any, metadata: Any, schema: Any, prefix: Any) -> None:
    if user is not None:
        require_instance(user, sa.Table, "user", "Pass user=sa.Table(…, *user_columns()).")
    if metadata is not None:
        require_instance(metadata, sa.MetaData, "metadata", "Pass metadata=Base.metadata.")
    if schema is not None:
        require_text(schema, "schema", 'Pass the name of a schema, as in schema="auth".', may_be_empty=False)
    fix = 'Pass letters, digits and _, as in prefix="crm_".'
    require_text(prefix, "prefix", fix)
    if not re.fullmatch(r"([A-Za-z_][A-Za-z0-9_]{0,29})?", prefix):
        raise ImproperlyConfigured(f"prefix={prefix!r} is not the beginning of a table name. {fix}")
