"""Reading and changing users, groups and permissions."""

import difflib
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import GenericFunction

from .events import Events, PasswordChanged, UserCreated, UserDeleted
from .exceptions import AlreadyExists, DoesNotExist, IntegrityError, UnstorableValue
from .gateway import Gateway
from .hashers import Passwords
from .models import ContentType, Group, Permission, User
from .statements import Row, Statement
from .tables import Tables

U = TypeVar("U", bound=User)
MODEL_PERMISSIONS = ("add", "change", "delete", "view")


class json_list(GenericFunction[Any]):  # noqa: N801  it stands for an SQL function
    """The values of a group of rows as one JSON list, so that a user and all permissions come in one row."""

    inherit_cache = True


@compiles(json_list, "sqlite")
def _sqlite_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    return f"json_group_array({compiler.process(element.clauses, **options)})"


@compiles(json_list, "postgresql")
def _postgresql_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    return f"CAST(json_agg({compiler.process(element.clauses, **options)}) AS TEXT)"


@compiles(json_list, "mysql")
def _mysql_list(element: json_list, compiler: SQLCompiler, **options: Any) -> str:
    # Not GROUP_CONCAT: MySQL cuts it off after 1,024 bytes, and permissions would be lost in silence.
    return f"JSON_ARRAYAGG({compiler.process(element.clauses, **options)})"


class Users(Generic[U]):
    """The users of one installation, and the groups and permissions that they have."""

    def __init__(
        self,
        gateway: Gateway,
        *,
        tables: Tables,
        passwords: Passwords,
        events: Events,
        user_class: type[U],
    ) -> None:
        self.gateway = gateway
        self.tables = tables
        self.passwords = passwords
        self.events = events
        self.user_class = user_class
        fields = set(user_class.__dataclass_fields__)
        self._columns = [column for column in tables.user.columns if column.name in fields]
        user, selected = tables.user, sa.select(*self.columns()).select_from(tables.user)
        self._by_id = Statement(selected.where(tables.user_key == sa.bindparam("id")))
        self._by_username = Statement(selected.where(user.c.username == sa.bindparam("username")))
        self._by_email = Statement(
            selected.where(sa.func.lower(user.c.email) == sa.bindparam("email")).order_by(tables.user_key)
        )
        self._log_in = Statement(
            sa.update(user).values(last_login=sa.bindparam("now")).where(tables.user_key == sa.bindparam("key"))
        )

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
            *(column.label(f"user_{column.name}") for column in self._columns),
            sa.case((t.user.c.is_superuser == sa.true(), everything), else_=in_person).label("direct_permissions"),
            through_groups.label("group_permissions"),
        ]

    def from_row(self, row: Row) -> U:
        user = self.user_class(**{column.name: row[f"user_{column.name}"] for column in self._columns})
        user.permission_rows = (row["direct_permissions"], row["group_permissions"])
        return user

    async def get(self, id: Any) -> U | None:
        """The user with this primary key, which may come as text, or None."""
        return await self._one(self._by_id, id=self.parse_id(id))

    async def get_by_username(self, username: str) -> U | None:
        """The user with exactly this name, or None."""
        user = await self._one(self._by_username, username=username)
        # Collations of MariaDB hold "ann", "ANN" and "ann " for the same.
        return user if user is not None and user.username == username else None

    async def get_by_email(self, email: str) -> U | None:
        """The one user with this address, in whatever case it is written; None when there is none, or several."""
        try:
            rows = await self.gateway.fetch_all(self._by_email, email=email.lower())
        except UnstorableValue:
            return None
        users = [user for user in map(self.from_row, rows) if user.email.lower() == email.lower()]
        return users[0] if len(users) == 1 and email else None

    async def with_perm(self, perm: str, *, is_active: bool | None = True, include_superusers: bool = True) -> list[U]:
        """The users who have a permission, as Django's `with_perm`. `is_active=None` asks for both."""
        t, permission = self.tables, (await self.get_permission(perm)).id
        in_person = sa.select(t.user_permissions.c.user_id).where(t.user_permissions.c.permission_id == permission)
        through_groups = (
            sa.select(t.user_groups.c.user_id)
            .join(t.group_permissions, t.group_permissions.c.group_id == t.user_groups.c.group_id)
            .where(t.group_permissions.c.permission_id == permission)
        )
        having = t.user_key.in_(in_person) | t.user_key.in_(through_groups)
        if include_superusers:
            having |= t.user.c.is_superuser == sa.true()
        if is_active is not None:
            having &= t.user.c.is_active == sa.literal(is_active)
        query = sa.select(*self.columns()).select_from(t.user).where(having).order_by(t.user_key)
        return [self.from_row(row) for row in await self.gateway.fetch_all(query)]

    async def count(self) -> int:
        row = await self.gateway.fetch_one(sa.select(sa.func.count().label("users")).select_from(self.tables.user))
        return int(row["users"]) if row else 0

    def parse_id(self, id: Any) -> Any:
        """A primary key from its text; None for what cannot be one."""
        kind = self.tables.user_key.type.python_type
        if isinstance(id, kind):
            return id
        try:
            return kind(id) if isinstance(id, str) and len(id) < 64 else None
        except ValueError:
            return None

    # Changing users

    async def create_user(self, username: str, email: str = "", password: str | None = None, **fields: Any) -> U:
        """A new user; without a password one that cannot log in by password.

        The name is brought to Unicode's form NFKC and the domain of the address to lower case. Raises AlreadyExists
        when the name is taken, ValueError for a value that does not fit.
        """
        if not username:
            raise ValueError("A user needs a username. Pass one that is not empty.")
        self._check_fields(fields)
        defaults = {"is_active": True, "is_staff": False, "is_superuser": False, "last_login": None}
        values: dict[str, Any] = {
            "first_name": "",
            "last_name": "",
            **defaults,
            "date_joined": datetime.now(UTC),
            **_defaults_of(self.tables.user),
            **fields,
            "username": normalize_username(username),
            "email": normalize_email(email),
            "password": await self.passwords.hash(password),
        }
        known = {name: value for name, value in values.items() if name in self.tables.user.columns}
        try:
            async with self.gateway.atomic():
                key = await self.gateway.insert(self.tables.user, **known)
                user: U = await self.get(key)  # type: ignore[assignment]
                await self.events.emit(UserCreated(user=user))
        except IntegrityError as error:
            if await self.gateway.fetch_one(self._by_username, username=known["username"]):
                raise AlreadyExists(
                    f"There is a user called {known['username']!r} already. Choose another name."
                ) from error
            raise
        return user

    async def create_superuser(self, username: str, email: str = "", password: str | None = None, **fields: Any) -> U:
        """A new user who may do everything."""
        return await self.create_user(username, email, password, **{"is_staff": True, "is_superuser": True, **fields})

    async def update(self, user: User, **fields: Any) -> None:
        """Writes some fields of one user, to the database and to `user`. DoesNotExist when the row is gone."""
        self._check_fields(fields)
        if "username" in fields:
            fields["username"] = normalize_username(fields["username"])
        if not fields:
            return
        new: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in fields}
        query = sa.update(self.tables.user).values(new).where(self.tables.user_key == sa.bindparam("key"))
        try:
            async with self.gateway.atomic():
                values = {f"new_{name}": value for name, value in fields.items()}
                if not await self.gateway.execute(query, key=user.id, **values):
                    raise DoesNotExist(f"The user {user.username!r} is not in the database any more. Fetch it again.")
        except IntegrityError as error:
            raise AlreadyExists("Another user has one of these values already. Choose others.") from error
        for name, value in fields.items():
            setattr(user, name, value)

    async def log_in(self, user: User) -> None:
        """Notes the time of a login."""
        now = datetime.now(UTC)
        await self.gateway.execute(self._log_in, key=user.id, now=now)
        user.last_login = now

    async def set_password(self, user: User, raw: str | None) -> None:
        """A new password, or None for none at all. Ends all sessions that were begun with the old one."""
        encoded = await self.passwords.hash(raw)
        async with self.gateway.atomic():
            await self.update(user, password=encoded)
            await self.events.emit(PasswordChanged(user=user))

    async def check_password(self, user: User, raw: str) -> bool:
        """Whether this is the user's password. A hash weaker than we make today is replaced by a new one."""
        verification = await self.passwords.check(user.password, raw)
        if verification.must_update:
            old, new = user.password, await self.passwords.hash(raw)
            query = sa.update(self.tables.user).values(password=sa.bindparam("new"))
            # Only where the old one still stands: a password that was changed meanwhile must stay changed.
            query = query.where(
                self.tables.user_key == sa.bindparam("key"),
                self.tables.user.c.password == sa.bindparam("old"),
            )
            if await self.gateway.execute(query, key=user.id, new=new, old=old):
                user.password = new
        return verification.matches

    async def delete(self, user: User) -> None:
        """Deletes a user and all that hangs on it. IntegrityError when a table that we do not know refers to it."""
        async with self.gateway.atomic():
            await self.events.emit(UserDeleted(user=user))
            for column in self.tables.referring_to_user():
                await self.gateway.execute(sa.delete(column.table).where(column == sa.bindparam("key")), key=user.id)
            query = sa.delete(self.tables.user).where(self.tables.user_key == sa.bindparam("key"))
            await self.gateway.execute(query, key=user.id)

    # Groups and permissions

    async def create_group(self, name: str) -> Group:
        if not name:
            raise ValueError("A group needs a name. Pass one that is not empty.")
        try:
            return Group(id=await self._insert(self.tables.group, name=name), name=name)
        except IntegrityError as error:
            raise AlreadyExists(f"There is a group called {name!r} already. Use get_group().") from error

    async def get_group(self, name: str) -> Group:
        """DoesNotExist, with the names that come near, when there is none."""
        rows = await self.gateway.fetch_all(sa.select(self.tables.group.c.id, self.tables.group.c.name))
        groups = {row["name"]: Group(**row) for row in rows}
        if name not in groups:
            raise DoesNotExist(f"There is no group {name!r}.{near(name, groups)} Or create_group({name!r}).")
        return groups[name]

    async def get_groups(self, user: User) -> list[Group]:
        """The groups of a user, by name."""
        t = self.tables
        query = (
            sa.select(t.group.c.id, t.group.c.name)
            .join(t.user_groups, t.user_groups.c.group_id == t.group.c.id)
            .where(t.user_groups.c.user_id == sa.bindparam("key", type_=t.user_key.type))
            .order_by(t.group.c.name)
        )
        return [Group(**row) for row in await self.gateway.fetch_all(query, key=user.id)]

    async def create_permission(self, perm: str, name: str = "", *, model: str = "") -> Permission:
        """`"polls.add_vote"` makes a permission of the model `vote`; the same again gives the one that is there.

        `model` says what the permission is about where its name does not, as in `"polls.close"`.
        """
        app_label, _, codename = perm.partition(".")
        if not app_label or not codename:
            raise ValueError(f"{perm!r} is no permission. Write it as app.codename, as in 'polls.add_vote'.")
        found = (await self._permissions()).get(perm)
        if found is not None:
            return found
        verb, _, noun = codename.partition("_")
        model = model or (noun if verb in MODEL_PERMISSIONS and noun else app_label)
        async with self.gateway.atomic():
            content_type = await self._get_or_create_content_type(app_label, model)
            values = {"codename": codename, "name": name or codename.replace("_", " ").capitalize()}
            try:
                key = await self._insert(self.tables.permission, content_type_id=content_type.id, **values)
            except IntegrityError:
                return await self.get_permission(perm)
        return Permission(id=key, content_type=content_type, **values)

    async def create_model_permissions(self, app_label: str, model: str) -> list[Permission]:
        """Django's four: add, change, delete and view."""
        return [
            await self.create_permission(f"{app_label}.{verb}_{model}", f"Can {verb} {model}", model=model)
            for verb in MODEL_PERMISSIONS
        ]

    async def get_permission(self, perm: str) -> Permission:
        """DoesNotExist, with the names that come near, when there is none."""
        permissions = await self._permissions()
        if perm not in permissions:
            raise DoesNotExist(
                f"There is no permission {perm!r}.{near(perm, permissions)} Or create_permission({perm!r})."
            )
        return permissions[perm]

    async def add_to_group(self, user: User, group: Group | str) -> None:
        """Twice is as good as once."""
        await self._link(self.tables.user_groups, user_id=user.id, group_id=(await self._group(group)).id)

    async def remove_from_group(self, user: User, group: Group | str) -> None:
        await self._unlink(self.tables.user_groups, user_id=user.id, group_id=(await self._group(group)).id)

    async def grant(self, holder: User | Group, perm: str) -> None:
        """Gives a permission to a user or a group; it counts from their next request on."""
        table, values = self._holding(holder)
        await self._link(table, **values, permission_id=(await self.get_permission(perm)).id)

    async def revoke(self, holder: User | Group, perm: str) -> None:
        """Takes a permission back; what somebody has in another way stays."""
        table, values = self._holding(holder)
        await self._unlink(table, **values, permission_id=(await self.get_permission(perm)).id)

    # Behind the scenes

    async def _one(self, statement: Statement, **values: Any) -> U | None:
        if None in values.values():
            return None
        try:
            row = await self.gateway.fetch_one(statement, **values)
        except UnstorableValue:
            return None
        return self.from_row(row) if row else None

    def _check_fields(self, fields: Mapping[str, Any]) -> None:
        for name in fields:
            if name not in self.tables.user.columns:
                raise TypeError(f"A user has no field {name!r}.{near(name, self.tables.user.columns.keys())}")

    def _holding(self, holder: User | Group) -> tuple[sa.Table, dict[str, Any]]:
        if isinstance(holder, Group):
            return self.tables.group_permissions, {"group_id": holder.id}
        return self.tables.user_permissions, {"user_id": holder.id}

    async def _group(self, group: Group | str) -> Group:
        return await self.get_group(group) if isinstance(group, str) else group

    async def _permissions(self) -> dict[str, Permission]:
        permission, content_type = self.tables.permission, self.tables.content_type
        query = (
            sa.select(
                permission.c.id,
                permission.c.codename,
                permission.c.name,
                content_type.c.id.label("content_type_id"),
                content_type.c.app_label,
                content_type.c.model,
            )
            .join(content_type, content_type.c.id == permission.c.content_type_id)
            .order_by(permission.c.id.desc())
        )
        found = {}
        for row in await self.gateway.fetch_all(query):
            about = ContentType(id=row["content_type_id"], app_label=row["app_label"], model=row["model"])
            one = Permission(id=row["id"], codename=row["codename"], name=row["name"], content_type=about)
            found[str(one)] = one
        return found

    async def _get_or_create_content_type(self, app_label: str, model: str) -> ContentType:
        table = self.tables.content_type
        query = sa.select(table.c.id).where(table.c.app_label == app_label, table.c.model == model)
        row = await self.gateway.fetch_one(query)
        key = row["id"] if row else await self._insert(table, app_label=app_label, model=model)
        return ContentType(id=key, app_label=app_label, model=model)

    async def _insert(self, table: sa.Table, **values: Any) -> Any:
        async with self.gateway.atomic():
            return await self.gateway.insert(table, **values)

    async def _link(self, table: sa.Table, **values: Any) -> None:
        row = await self.gateway.fetch_one(sa.select(table.c.id).where(*_equal(table, values)))
        if row is not None:
            return
        try:
            await self._insert(table, **values)
        except IntegrityError:
            if not await self.gateway.fetch_one(sa.select(table.c.id).where(*_equal(table, values))):
                raise

    async def _unlink(self, table: sa.Table, **values: Any) -> None:
        await self.gateway.execute(sa.delete(table).where(*_equal(table, values)))


def normalize_username(username: str) -> str:
    """Unicode's form NFKC, as Django does, so that ａｎｎ and ann are one name."""
    return unicodedata.normalize("NFKC", username)


def normalize_email(email: str) -> str:
    """The domain in lower case, as Django does; the part before it is the mail server's business."""
    name, at, domain = email.strip().rpartition("@")
    return f"{name}{at}{domain.lower()}"


def near(name: str, names: Any) -> str:
    """What somebody may have meant, as the rest of a message."""
    close: Sequence[str] = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def _permission_list(tables: Tables) -> sa.Select[Any]:
    permission, content_type = tables.permission, tables.content_type
    name = content_type.c.app_label + sa.literal_column("'.'", sa.String) + permission.c.codename
    return sa.select(json_list(name)).select_from(
        permission.join(content_type, content_type.c.id == permission.c.content_type_id)
    )


def _defaults_of(table: sa.Table) -> dict[str, Any]:
    """`databases` ignores `Column(default=…)`, so we ask the columns."""
    values: dict[str, Any] = {}
    for column in table.columns:
        default: Any = column.default
        if default is not None and default.is_scalar:
            values[column.name] = default.arg
        elif default is not None and default.is_callable:
            values[column.name] = default.arg(None)
        elif column.primary_key and column.type.python_type is uuid.UUID:
            values[column.name] = uuid.uuid4()
    return values


def _equal(table: sa.Table, values: Mapping[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items()]
