"""Reads users from the database."""

import operator
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Generic, NamedTuple, Protocol

import sqlalchemy as sa
from starlette.requests import HTTPConnection

from ..core.arguments import describe
from ..core.exceptions import ImproperlyConfigured, UnstorableValue
from ..core.text import ascii_lower, normalize_username
from ..database.columns import parse_key
from ..database.gateway import Gateway
from ..database.statements import Row, Statement, json_list
from ..database.tables import Tables
from .models import U, User
from .usernames import parse_validator

COLLATION = Statement(
    sa.text(
        "SELECT collation_name AS collation FROM information_schema.columns "
        "WHERE table_schema = COALESCE(:table_schema, DATABASE()) AND table_name = :table_name AND column_name = :column_name"
    )
    .bindparams(*(sa.bindparam(name, type_=sa.String) for name in ("table_schema", "table_name", "column_name")))
    .columns(sa.column("collation", sa.String))
)


class Question(NamedTuple):
    """Holds a question to `with_perm`: the permission, the path of a backend, and an object."""

    perm: str
    is_active: bool | None
    backend: str | None
    obj: object


class PermissionSource(Protocol):
    """What backends say about permissions, for users that are read from the database."""

    owner: Any
    known: Sequence[Any]  # the backends of `owner` for which the next two are true
    are_asked: bool

    @property
    def may_grant(self) -> bool: ...

    def update(self) -> None: ...

    def bind(self, user: User) -> None: ...

    async def load(self, conn: HTTPConnection | None, user: User) -> None: ...

    def asks_database(self, backend: str | None) -> bool: ...

    async def find_users(
        self, question: Question, stored: Sequence[Any], all_users: Callable[[], AsyncIterator[Any]]
    ) -> list[Any]: ...


class UserQueries(Generic[U]):
    """Reads users by primary key, username or email address. Each user is read with all permissions in one query."""

    backend_permissions: PermissionSource | None = None  # set by `Auth`
    reads_groups = False  # whether the names of a user's groups are read with the user; set by `read_groups`

    def __init__(self, gateway: Gateway, tables: Tables, user_class: type[U]) -> None:
        if not (isinstance(user_class, type) and issubclass(user_class, User)):
            raise ImproperlyConfigured(
                f"user_class is {describe(user_class)}. Pass a subclass of User, as in user_class=Member."
            )
        if "__dataclass_fields__" not in vars(user_class):
            raise ImproperlyConfigured(f"Put @dataclass(kw_only=True, eq=False) above class {user_class.__name__}.")
        if user_class.password is not User.password:
            raise ImproperlyConfigured(
                f"Remove `password` from class {user_class.__name__}: User has it, and a second one would appear in "
                "responses that contain a user."
            )
        self.gateway = gateway
        self.tables = tables
        self.user_class = user_class
        self.username_validator = parse_validator(user_class.username_validator)
        fields = set(user_class.__dataclass_fields__)
        self._columns = {name: column for name, column in tables.fields.items() if name in fields}
        self._fields_of = operator.itemgetter(*(f"user_{name}" for name in self._columns))
        self._build_statements()

    def read_groups(self) -> None:
        """Makes each statement that reads a user read the names of the user's groups as well. `Roles` need them."""
        self.reads_groups = True
        self._build_statements()

    def _build_statements(self) -> None:
        gateway, tables = self.gateway, self.tables
        selected, column = sa.select(*self.columns()).select_from(tables.user), tables.username
        self._by_id = Statement(selected.where(tables.user_key == sa.bindparam("id")))
        self._by_username = Statement(selected.where(column == sa.bindparam("username")))
        same_name = sa.select(tables.user_key.label("key")).limit(1)
        self._like_username = CaseInsensitiveQuery(gateway, column, same_name)
        self._by_any_case = CaseInsensitiveQuery(gateway, column, selected.order_by(tables.user_key))
        # Locking reads: MySQL's plain SELECT would read the snapshot of the transaction's start.
        names = sa.select(tables.user_key.label("key")).with_for_update(read=True)
        self._locked_name = Statement(names.where(column == sa.bindparam("username")))
        self._locked_names = CaseInsensitiveQuery(gateway, column, names)
        if tables.email is not None:
            self._by_email = CaseInsensitiveQuery(gateway, tables.email, selected.order_by(tables.user_key))
            emails = sa.select(tables.user_key.label("key"), tables.email.label("email"))
            self._emails = CaseInsensitiveQuery(gateway, tables.email, emails)
            self._locked_emails = CaseInsensitiveQuery(gateway, tables.email, emails.with_for_update(read=True))

    def columns(self) -> list[Any]:
        """Returns the columns that `from_row` needs. Use them in a SELECT with the user table in its FROM clause."""
        t = self.tables
        all_permissions = _permission_list(t).scalar_subquery()
        direct = (
            _permission_list(t)
            .join(t.user_permissions, t.user_permissions.c.permission_id == t.permission.c.id)
            .where(t.user_permissions.c.user_id == t.user_key)
            .correlate(t.user)
            .scalar_subquery()
        )
        through_groups = (
            _permission_list(t)
            .join(t.group_permissions, t.group_permissions.c.permission_id == t.permission.c.id)
            .join(t.user_groups, t.user_groups.c.group_id == t.group_permissions.c.group_id)
            .where(t.user_groups.c.user_id == t.user_key)
            .correlate(t.user)
            .scalar_subquery()
        )
        return [
            *(column.label(f"user_{name}") for name, column in self._columns.items()),
            sa.case((t.user.c.is_superuser == sa.true(), all_permissions), else_=direct).label("direct_permissions"),
            through_groups.label("group_permissions"),
            *([_group_list(t).label("group_names")] if self.reads_groups else []),
        ]

    def from_row(self, row: Row) -> U:
        """Returns the user of a row that was selected with `columns()`."""
        user = self.user_class(**dict(zip(self._columns, self._fields_of(row), strict=True)))
        user.permission_json = (row["direct_permissions"], row["group_permissions"])
        if self.reads_groups:
            user.group_json = row["group_names"]
        source = self.backend_permissions
        if source is not None and (source.are_asked or source.known != source.owner.backends):
            source.bind(user)
        return user

    def get_row(self, id: Any) -> Awaitable[Row | None]:
        """Returns the row of the user with this primary key, for `from_row`, or None."""
        return self._fetch_row(self._by_id, id=self.parse_id(id))

    async def get(self, id: Any) -> U | None:
        """Returns the user with this primary key, which may be given as text, or None."""
        row = await self.get_row(id)
        return self.from_row(row) if row else None

    async def get_by_username(self, username: str) -> U | None:
        """Returns the user with this username, or None. Only `username_case_sensitive=False` ignores case."""
        if not isinstance(username, str):
            return None
        if not self.tables.username_case_sensitive:
            return await self._get_by_any_case(username)
        user = await self._fetch_user(self._by_username, username=username)
        # MariaDB's collations treat "ann", "ANN" and "ann " as equal.
        return user if user is not None and user.username == username else None

    async def _get_by_any_case(self, username: str) -> U | None:
        try:
            rows = await self._by_any_case.fetch_all(username)
        except UnstorableValue:
            return None
        users = [user for user in map(self.from_row, rows) if ascii_lower(user.username) == ascii_lower(username)]
        # Before `migrate` has made the index, several users may have one name. The user with this spelling is returned.
        return next((user for user in users if user.username == username), users[0] if len(users) == 1 else None)

    async def get_by_email(self, email: str) -> U | None:
        """Returns the user with this email address, ignoring case. Returns None if no user or several users have it."""
        users = await self.list_by_email(email)
        return users[0] if len(users) == 1 else None

    async def list_by_email(self, email: str) -> list[U]:
        """Returns all users with this email address, ignoring the case of ASCII letters."""
        if not email or self.tables.email is None:
            return []
        try:
            rows = await self._by_email.fetch_all(email)
        except UnstorableValue:
            return []
        return [user for user in map(self.from_row, rows) if ascii_lower(user.email) == ascii_lower(email)]

    async def _keys_by_email(self, email: str, *, lock: bool = False) -> list[Any]:
        """Returns the primary keys of all users with this email address, ignoring the case of ASCII letters.

        With `lock` the rows are locked for reading, so that MySQL reads the latest ones, and not the snapshot of the
        transaction's start.
        """
        rows = await (self._locked_emails if lock else self._emails).fetch_all(email)
        return [row["key"] for row in rows if ascii_lower(row["email"]) == ascii_lower(email)]

    async def _keys_by_username(self, username: str) -> list[Any]:
        """Returns the keys of all users whose name the database treats as equal. Locks their rows."""
        if self.tables.username_case_sensitive:
            return [row["key"] for row in await self.gateway.fetch_all(self._locked_name, username=username)]
        return [row["key"] for row in await self._locked_names.fetch_all(username)]

    async def has_username(self, username: str) -> bool:
        """Returns whether a user has this username, ignoring case (on SQLite: of ASCII letters)."""
        if not isinstance(username, str):
            return False
        try:
            return bool(await self._like_username.fetch_all(normalize_username(username)))
        except UnstorableValue:
            return False

    async def all_users(self, *, is_active: bool | None = None, batch: int = 500) -> AsyncIterator[U]:
        """Yields all users in the order of their keys, or the active or inactive ones, in batches of one query each."""
        key, query = self.tables.user_key, sa.select(*self.columns()).select_from(self.tables.user)
        if is_active is not None and "is_active" in self.tables.fields:
            query = query.where(self.tables.fields["is_active"] == sa.literal(is_active))
        query, last = query.order_by(key).limit(batch), None
        while True:
            rows = await self.gateway.fetch_all(
                query if last is None else query.where(key > sa.literal(last, key.type))
            )
            for row in rows:
                yield self.from_row(row)
            if len(rows) < batch:
                return
            last = rows[-1]["user_id"]

    async def count(self) -> int:
        """Returns the number of users."""
        row = await self.gateway.fetch_one(sa.select(sa.func.count().label("users")).select_from(self.tables.user))
        return int(row["users"]) if row else 0

    def parse_id(self, id: Any) -> Any:
        """Returns a primary key in the column's Python type; None for an invalid `id`."""
        return parse_key(self.tables.user_key.type.python_type, id)

    async def _fetch_user(self, statement: Statement, **values: Any) -> U | None:
        row = await self._fetch_row(statement, **values)
        return self.from_row(row) if row else None

    async def _fetch_row(self, statement: Statement, **values: Any) -> Row | None:
        if None in values.values():
            return None
        try:
            return await self.gateway.fetch_one(statement, **values)
        except UnstorableValue:
            return None


def _permission_list(tables: Tables) -> sa.Select[Any]:
    permission, content_type = tables.permission, tables.content_type
    name = content_type.c.app_label + sa.literal_column("'.'", sa.String) + permission.c.codename
    return sa.select(json_list(name)).select_from(
        permission.join(content_type, content_type.c.id == permission.c.content_type_id)
    )


def _group_list(tables: Tables) -> sa.ScalarSelect[Any]:
    group, user_groups = tables.group, tables.user_groups
    names = sa.select(json_list(group.c.name)).select_from(
        group.join(user_groups, user_groups.c.group_id == group.c.id)
    )
    return names.where(user_groups.c.user_id == tables.user_key).correlate(tables.user).scalar_subquery()


class CaseInsensitiveQuery:
    """Adds a condition to a query: a column equals the parameter `text`, ignoring case. It uses the lookup index.

    The database lowers both sides, so that they agree: SQLite's lower() knows only ASCII letters, Python's all.
    MariaDB has no index on an expression. There the column is compared by its collation, which usually ignores case. It
    may also ignore accents and trailing spaces, so the caller compares the rows again.
    """

    def __init__(self, gateway: Gateway, column: sa.Column[str], query: sa.Select[tuple[object, ...]]) -> None:
        self.gateway = gateway
        self.column = column
        text = sa.bindparam("text", type_=sa.String)
        self._by_lower = Statement(query.where(sa.func.lower(column) == sa.func.lower(text)))
        self._by_collation = Statement(query.where(column == text))
        self._statement: Statement | None = None

    async def fetch_all(self, text: str) -> list[Row]:
        return await self.gateway.fetch_all(await self.statement(), text=text)

    async def statement(self) -> Statement:
        """Returns the statement for this database. MySQL and MariaDB are asked once for the collation."""
        if self._statement is None:
            collation = ""
            if self.gateway.dialect == "mysql":
                table = self.column.table
                names = {"table_schema": table.schema, "table_name": table.name, "column_name": self.column.name}
                row = await self.gateway.fetch_one(COLLATION, **names)
                collation = str(row["collation"] or "") if row else ""
            self._statement = self._by_collation if collation.endswith("_ci") else self._by_lower
        return self._statement
