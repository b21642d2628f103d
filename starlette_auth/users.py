"""Reading and changing users."""

import contextlib
import operator
import time
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping, Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from starlette.requests import HTTPConnection

from .catalog import references_to
from .clock import Clock, moment
from .events import Events, PasswordChanged, UserCreated, UserDeactivated, UserDeleted
from .exceptions import AlreadyExists, DoesNotExist, HashingBusy, IntegrityError, UnstorableValue
from .fields import FORMS, ascii_lower, normalize_email, normalize_username, parse_key, values_of
from .gateway import Gateway
from .models import User
from .passwords import Passwords
from .permissions import Grants, near
from .statements import Row, Statement, json_list
from .tables import Tables

U = TypeVar("U", bound=User)
ADMIN_LOG = "django_admin_log"


class Users(Grants, Generic[U]):
    """The users of one installation, and the groups and permissions that they have."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        tables: Tables,
        passwords: Passwords,
        events: Events,
        user_class: type[U],
        clock: Clock = time.time,
    ) -> None:
        super().__init__(gateway, tables)
        self._clock = clock
        self.passwords = passwords
        self.events = events
        self.user_class = user_class
        fields = set(user_class.__dataclass_fields__)
        self._columns = {name: column for name, column in tables.fields.items() if name in fields}
        self._updates: dict[tuple[object, ...], Statement] = {}
        self._fields_of = operator.itemgetter(*(f"user_{name}" for name in self._columns))
        selected, column = sa.select(*self.columns()).select_from(tables.user), tables.username
        self._by_id = Statement(selected.where(tables.user_key == sa.bindparam("id")))
        self._by_username = Statement(selected.where(column == sa.bindparam("username")))
        name = sa.func.lower(sa.bindparam("username", type_=column.type))
        taken = sa.select(tables.user_key.label("key")).where(sa.func.lower(column) == name).limit(1)
        self._like_username = Statement(taken)
        # Both sides by the database: SQLite brings only ASCII to lower case, Python all letters.
        email = sa.func.lower(sa.bindparam("email", type_=sa.String))
        self._by_email = Statement(selected.where(sa.func.lower(tables.email) == email).order_by(tables.user_key))

    # Reading

    def columns(self) -> list[Any]:
        """What a SELECT that has the user table in its FROM asks for, to make a user of each row with `from_row`."""
        t = self.tables
        everything = _permission_list(t).scalar_subquery()
        in_person = (
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
            sa.case((t.user.c.is_superuser == sa.true(), everything), else_=in_person).label("direct_permissions"),
            through_groups.label("group_permissions"),
        ]

    def from_row(self, row: Row) -> U:
        user = self.user_class(**dict(zip(self._columns, self._fields_of(row), strict=True)))
        user.permission_rows = (row["direct_permissions"], row["group_permissions"])
        return user

    def row_of(self, id: Any) -> Awaitable[Row | None]:
        """What `from_row` makes the user with this primary key of, or None."""
        return self._row(self._by_id, id=self.parse_id(id))

    async def get(self, id: Any) -> U | None:
        """The user with this primary key, which may come as text, or None."""
        row = await self.row_of(id)
        return self.from_row(row) if row else None

    async def get_by_username(self, username: str) -> U | None:
        """The user with exactly this name, or None."""
        user = await self._one(self._by_username, username=username)
        # Collations of MariaDB hold "ann", "ANN" and "ann " for the same.
        return user if user is not None and user.username == username else None

    async def get_by_email(self, email: str) -> U | None:
        """The one user with this address, in whatever case it is written; None when there is none, or several."""
        users = await self.all_by_email(email)
        return users[0] if len(users) == 1 else None

    async def all_by_email(self, email: str) -> list[U]:
        """All users with this address, in whatever case it is written."""
        if not email or self.tables.email is None:
            return []
        try:
            rows = await self.gateway.fetch_all(self._by_email, email=email)
        except UnstorableValue:
            return []
        return [user for user in map(self.from_row, rows) if ascii_lower(user.email) == ascii_lower(email)]

    async def has_username(self, username: str) -> bool:
        """Whether somebody has this name, in whatever case it is written (on SQLite: the case of ASCII letters)."""
        try:
            return await self.gateway.fetch_one(self._like_username, username=normalize_username(username)) is not None
        except UnstorableValue:
            return False

    async def with_perm(self, perm: str, *, is_active: bool | None = True, include_superusers: bool = True) -> list[U]:
        """The users who have a permission, as Django's `with_perm`. `is_active=None` asks for both."""
        t, keys = self.tables, [permission.id for permission in await self._called(perm)]

        def granted(links: sa.Table) -> sa.ColumnElement[bool]:
            return sa.or_(*(links.c.permission_id == key for key in keys))

        in_person = sa.select(t.user_permissions.c.user_id).where(granted(t.user_permissions))
        through_groups = (
            sa.select(t.user_groups.c.user_id)
            .join(t.group_permissions, t.group_permissions.c.group_id == t.user_groups.c.group_id)
            .where(granted(t.group_permissions))
        )
        having = t.user_key.in_(in_person) | t.user_key.in_(through_groups)
        if include_superusers:
            having |= t.user.c.is_superuser == sa.true()
        if is_active is not None and "is_active" in t.fields:
            having &= t.fields["is_active"] == sa.literal(is_active)
        query = sa.select(*self.columns()).select_from(t.user).where(having).order_by(t.user_key)
        return [self.from_row(row) for row in await self.gateway.fetch_all(query)]

    async def count(self) -> int:
        row = await self.gateway.fetch_one(sa.select(sa.func.count().label("users")).select_from(self.tables.user))
        return int(row["users"]) if row else 0

    def parse_id(self, id: Any) -> Any:
        """A primary key from its text; None for what cannot be one."""
        return parse_key(self.tables.user_key.type.python_type, id)

    # Changing users

    async def create_user(
        self,
        username: str,
        email: str = "",
        password: str | None = None,
        *,
        encoded_password: str = "",
        **fields: Any,
    ) -> U:
        """A new user; without a password, or the hash of one, one that cannot log in by password.

        The name is brought to Unicode's form NFKC and the domain of the address to lower case. Raises AlreadyExists
        when the name is taken, ValueError for a value that does not fit.
        """
        self._check_fields({**fields, "username": username})
        self._check_fields({"password": encoded_password} if encoded_password else {})
        defaults = {"is_active": True, "is_staff": False, "is_superuser": False, "last_login": None}
        values: dict[str, Any] = {
            "first_name": "",
            "last_name": "",
            **defaults,
            "date_joined": moment(self._clock),
            **values_of(self.tables.user, "default"),
            **self._normalized({**fields, "username": username, "email": email}),
            "password": encoded_password or await self.passwords.hash(password),
        }
        async with self._unique_name(values["username"]), self.gateway.atomic():
            columns = self._by_column(values)
            spare = self.tables.user.columns.get("username")
            if spare is not None and spare is not self.tables.username:
                # USERNAME_FIELD is another: a name that has to be there, and that nobody logs in with.
                columns.setdefault("username", values["username"][:150])
            key = await self.gateway.insert(self.tables.user, **columns)
            user: U = await self.get(key)  # type: ignore[assignment]
            await self.events.emit(UserCreated(user=user))
        return user

    async def create_superuser(self, username: str, email: str = "", password: str | None = None, **fields: Any) -> U:
        """A new user who may do everything."""
        return await self.create_user(username, email, password, **{"is_staff": True, "is_superuser": True, **fields})

    async def update(self, user: User, **fields: Any) -> None:
        """Writes some fields of one user, to the database and to `user`. DoesNotExist when the row is gone."""
        self._check_fields(fields)
        if not fields:
            return
        fields = self._normalized(fields)
        async with self._unique_name(fields.get("username"), of=user), self.gateway.atomic():
            if not await self._write(user, **fields):
                raise DoesNotExist(f"The user {user.username!r} is not in the database any more. Fetch it again.")
            if fields.get("is_active") is False:
                await self.events.emit(UserDeactivated(user=user))

    async def log_in(self, user: User) -> None:
        """Notes the time of a login."""
        await self._write(user, last_login=moment(self._clock))

    async def set_password(self, user: User, raw: str | None, *, request: HTTPConnection | None = None) -> None:
        """A new password, or None for none at all. Ends all sessions that were begun with the old one.

        `request` says who asked for it, in the notice that the user gets.
        """
        new = await self.passwords.hash(raw)
        async with self._password_kept(user), self.gateway.atomic():
            await self.update(user, password=new)
            await self.events.emit(PasswordChanged(user=user, request=request))

    async def replace_password(
        self, user: User, encoded: str, *, request: HTTPConnection | None = None, by_reset: bool = False
    ) -> bool:
        """The same with a hash, unless the password was changed since `user` was read: False then."""
        async with self._password_kept(user), self.gateway.atomic():
            if not await self._write(user, if_unchanged=True, password=encoded):
                return False
            await self.events.emit(PasswordChanged(user=user, request=request, by_reset=by_reset))
        return True

    async def check_password(self, user: User, raw: str) -> bool:
        """Whether this is the user's password. A hash weaker than we make today is replaced by a new one."""
        verification = await self.passwords.check(user.password, raw)
        if not verification.must_update:
            return verification.matches
        try:
            new = await self.passwords.hash(raw)
        except HashingBusy:
            return True  # another login will replace it
        # Only where the old one still stands: a password that was changed meanwhile must stay changed.
        if await self._write(user, if_unchanged=True, password=new):
            return True
        # Another login was faster with the same, or the password was changed and this is the old one.
        fresh = await self.get(user.id)
        if fresh is None or fresh.password == user.password:
            return False
        user.password = fresh.password
        return await self.check_password(user, raw)

    async def delete(self, user: User) -> None:
        """Deletes a user and all that hangs on it. IntegrityError when a table that we do not know refers to it."""
        async with self.gateway.atomic():
            await self.events.emit(UserDeleted(user=user))
            ours = self.tables.referring_to_user()
            for column in [*await self._further_references(user, ours), *ours]:
                theirs = column == sa.bindparam("key")
                query: sa.Delete | sa.Update = sa.delete(column.table).where(theirs)
                if any((key.ondelete or "").upper() == "SET NULL" for key in column.foreign_keys):
                    query = sa.update(column.table).values({column.name: sa.null()}).where(theirs)
                await self.gateway.execute(query, key=user.id)
            gone = sa.delete(self.tables.user).where(self.tables.user_key == sa.bindparam("key"))
            await self.gateway.execute(gone, key=user.id)

    # Behind the scenes

    async def _further_references(self, user: User, known: Sequence[sa.Column[Any]]) -> list[sa.Column[Any]]:
        """In a Django database, where Django would follow them, what else has rows of this user: the admin's log may go."""
        if not self.tables.of_django:
            return []
        may_go, ours = [], {(column.table.name, column.name) for column in known}
        for table, name in await references_to(self.gateway, self.tables.user.name):
            column: sa.Column[Any] = sa.Column(name, self.tables.user_key.type)
            named = sa.Table(table, sa.MetaData(), column)
            if table == ADMIN_LOG:
                may_go.append(column)
            elif (table, name) not in ours:
                theirs = sa.select(column).where(column == sa.bindparam("key")).select_from(named).limit(1)
                if await self.gateway.fetch_one(theirs, key=user.id) is not None:
                    raise IntegrityError(
                        f"Rows of {table} refer to {user.username!r}. Delete them first, or switch the account off: "
                        "update(user, is_active=False)."
                    )
        return may_go

    async def _one(self, statement: Statement, **values: Any) -> U | None:
        row = await self._row(statement, **values)
        return self.from_row(row) if row else None

    async def _row(self, statement: Statement, **values: Any) -> Row | None:
        if None in values.values():
            return None
        try:
            return await self.gateway.fetch_one(statement, **values)
        except UnstorableValue:
            return None

    async def _write(self, user: User, *, if_unchanged: bool = False, **fields: Any) -> bool:
        """Writes fields to the database and then to `user`, unless there is no such row, or no such password in it."""
        fields = {**values_of(self.tables.user, "onupdate"), **fields}
        columns = self._by_column(fields)
        values = {f"new_{name}": value for name, value in columns.items()}
        if if_unchanged:
            values["old_password"] = user.password
        shape = (if_unchanged, *columns)
        if shape not in self._updates:
            self._updates[shape] = self._update(columns, if_unchanged=if_unchanged)
        if not await self.gateway.execute(self._updates[shape], key_of_user=user.id, **values):
            return False
        for name, value in fields.items():
            setattr(user, name, value)
        return True

    def _update(self, columns: Iterable[str], *, if_unchanged: bool) -> Statement:
        # A column may be called like a parameter: these names are ours.
        new: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in columns}
        query = sa.update(self.tables.user).values(new).where(self.tables.user_key == sa.bindparam("key_of_user"))
        if if_unchanged:
            query = query.where(self.tables.user.c.password == sa.bindparam("old_password"))
        return Statement(query)

    @contextlib.asynccontextmanager
    async def _password_kept(self, user: User) -> AsyncIterator[None]:
        """What did not reach the database does not stay on `user`."""
        before = user.password
        try:
            yield
        except BaseException:
            user.password = before
            raise

    @contextlib.asynccontextmanager
    async def _unique_name(self, username: str | None, of: User | None = None) -> AsyncIterator[None]:
        """Says what is wrong where the database says only that something is."""
        try:
            yield
        except IntegrityError as error:
            key, name = self.tables.user_key.label("key"), self.tables.username
            # The newest state: a plain SELECT of MySQL would show how things were when the transaction began.
            query = sa.select(key).where(name == sa.bindparam("username")).with_for_update(read=True)
            holder = await self.gateway.fetch_one(query, username=username)
            if holder is None or (of is not None and holder["key"] == of.id):
                raise
            raise AlreadyExists(f"There is a user called {username!r} already. Choose another name.") from error

    def _check_fields(self, fields: Mapping[str, Any]) -> None:
        for name in fields:
            if name not in self.tables.fields:
                raise TypeError(f"A user has no field {name!r}.{near(name, self.tables.fields)}")
        if fields.get("username", "…") == "":
            raise ValueError("A user needs a username. Pass one that is not empty.")
        if "password" in fields and not self.passwords.is_encoded(str(fields["password"])):
            raise ValueError("A password is stored as a hash only. Use set_password(user, raw).")

    def _normalized(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        fields = {
            name: FORMS[name](value) if name in FORMS and isinstance(value, str) else value
            for name, value in fields.items()
        }
        if self.tables.username is self.tables.email and ("username" in fields or "email" in fields):
            names = {normalize_email(name) for name in (fields.get("username"), fields.get("email")) if name}
            if len(names) > 1:
                raise ValueError("Here the address is the name of a user. Pass one of the two.")
            fields |= dict.fromkeys(("username", "email"), next(iter(names), ""))
        return fields

    def _by_column(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """As the columns are called; what no column takes, as a default of ours may be, is left out."""
        columns = self.tables.fields
        return {columns[name].name: value for name, value in fields.items() if name in columns}


def _permission_list(tables: Tables) -> sa.Select[Any]:
    permission, content_type = tables.permission, tables.content_type
    name = content_type.c.app_label + sa.literal_column("'.'", sa.String) + permission.c.codename
    return sa.select(json_list(name)).select_from(
        permission.join(content_type, content_type.c.id == permission.c.content_type_id)
    )
