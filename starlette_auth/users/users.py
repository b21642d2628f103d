"""Creates, changes and deletes users."""

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import sqlalchemy as sa
from starlette.requests import HTTPConnection

from ..core.arguments import require_clock, require_instance, require_methods
from ..core.clock import Clock, utc_now
from ..core.events import Events, UserCreated, UserDeactivated, UserDeleted
from ..core.exceptions import DoesNotExist, ImproperlyConfigured, IntegrityError
from ..core.text import ascii_lower, is_email_address, normalize_email, normalize_username, require_text
from ..database.columns import column_defaults
from ..database.gateway import Gateway
from ..database.introspection import foreign_keys_to
from ..database.tables import Tables
from ..passwords.password_changes import PasswordValidator, password_changed
from ..passwords.passwords import Passwords
from .models import Permission, U, User, require_connection, require_stored, require_user
from .passwords import UserPasswords
from .permission_holders import holds_permission
from .permissions import GroupsAndPermissions, require_name, suggest
from .queries import Question, UserQueries
from .unique import UniqueNames
from .usernames import require_username

ADMIN_LOG = "django_admin_log"
FORMS: dict[str, Callable[[str], str]] = {"username": normalize_username, "email": normalize_email}


SendReset = Callable[[User, HTTPConnection | None, Any], Awaitable[None]]


class Outbox(Protocol):
    """Sends mail. `prepare` returns a function that queues one."""

    def prepare(self, user: User, subject: str, message: str, from_email: str | None) -> Callable[[], None]: ...


class Users(UserQueries[U], UserPasswords, GroupsAndPermissions):
    """Reads, creates, changes and deletes the users of a site, with their groups and permissions."""

    outbox: Outbox | None = None  # set by `Auth`
    send_reset: SendReset | None = None  # set by `Auth`
    address_is_typed = False  # whether the login form accepts only addresses; set by `ModelBackend`

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
        require_methods(gateway, ["fetch_one", "atomic"], "gateway", "Pass auth.gateway, or gateway_of(database).")
        require_instance(tables, Tables, "tables", "Pass auth.tables.")
        require_instance(passwords, Passwords, "passwords", "Pass auth.passwords.")
        require_instance(events, Events, "events", "Pass auth.events.")
        require_clock(clock)
        GroupsAndPermissions.__init__(self, gateway, tables)
        UserQueries.__init__(self, gateway, tables, user_class)
        UserPasswords.__init__(self, gateway, tables=tables, passwords=passwords, events=events, clock=clock)
        self._unique = UniqueNames(
            gateway,
            tables,
            keys_by_username=self._keys_by_username,
            keys_by_email=self._keys_by_email,
            clock=clock,
        )

    def attach(self, *, validators: Sequence[PasswordValidator], outbox: Outbox, send_reset: SendReset) -> None:
        """Sets parts that `Auth` builds later: the password validators, and what sends mail."""
        self.password_validators, self.outbox, self.send_reset = validators, outbox, send_reset

    async def email_user(self, user: User, subject: str, message: str, from_email: str | None = None) -> None:
        """Queues a plain-text mail to a user, as Django's `user.email_user`.

        The mail is sent after the commit. The sender is `Auth(from_email=…)` by default. A mail to a user without an
        address is logged and not sent. Raises ImproperlyConfigured without a mailer, ValueError for a line break in a
        header or an invalid address, TypeError for other types, and NotImplementedError for a visitor.
        """
        require_user(user)
        for name, text in (
            ("subject", subject),
            ("message", message),
            ("from_email", "" if from_email is None else from_email),
        ):
            require_text(text, name)
        if self.outbox is None:
            raise ImproperlyConfigured("These Users belong to no Auth. Call auth.users.email_user(…).")
        self.gateway.on_commit(self.outbox.prepare(user, subject, message, from_email))

    async def with_perm(
        self,
        perm: str | Permission,
        *,
        is_active: bool | None = True,
        include_superusers: bool = True,
        backend: str | None = None,
        obj: object = None,
    ) -> list[U]:
        """Returns the users who have a permission, as Django's `with_perm`, ordered by primary key.

        `is_active=None` includes active and inactive users. Permissions that backends grant or deny count. `backend` is
        the path of one backend; then only its permissions count. With `obj` only permissions from backends for that
        object count: the database stores none for objects, rules (`Auth.rule`) are not asked, and superusers are not
        included.

        Raises ValueError for a name without `app.` and for an unknown backend, TypeError for other types, and
        DoesNotExist for an unknown permission, unless a backend may grant it.
        """
        source, keys = self.backend_permissions, list[int]()
        asks_database = obj is None
        if source is not None:
            source.update()
            asks_database = source.asks_database(backend) and asks_database
        name = perm.user_perm_str if isinstance(perm, Permission) else perm
        try:
            require_name(name, may_have_dots=source is not None and source.may_grant)
            keys = [perm.id] if isinstance(perm, Permission) else [row.id for row in await self._get_permissions(name)]
        except DoesNotExist:
            if source is None or not source.may_grant:
                raise
        users: list[U] = []
        if asks_database:
            condition = holds_permission(self.tables, keys, is_active=is_active, include_superusers=include_superusers)
            query = sa.select(*self.columns()).select_from(self.tables.user).where(condition)
            rows = await self.gateway.fetch_all(query.order_by(self.tables.user_key))
            users = [self.from_row(row) for row in rows]
        if source is None or not source.are_asked:
            return users
        question = Question(name, is_active, backend, obj)
        return await source.find_users(question, users, lambda: self.all_users(is_active=is_active))

    async def create_user(
        self,
        username: str,
        email: str | None = None,
        password: str | None = None,
        *,
        encoded_password: str = "",
        normalize: bool = True,
        **fields: Any,
    ) -> U:
        """Creates a user. A user without `password` and `encoded_password` cannot log in with a password.

        The username is normalized to NFKC, and the domain of the email address to lower case, as in Django.
        `normalize=False` keeps a username that another system chose, unless it is an email address.

        Raises AlreadyExists if the username is taken, or the address where users log in with it, TypeError for an
        unknown field or for a name, address or password that is not text, and ValueError for an invalid value
        (UnstorableValue if it does not fit its column).
        """
        has_email = "email" in self.tables.fields
        email = "" if email is None else email  # as in Django
        self._check_fields({**fields, "username": username, **({"email": email} if has_email else {})})
        self._check_fields({"password": encoded_password} if encoded_password else {})
        defaults = {"is_active": True, "is_staff": False, "is_superuser": False, "last_login": None}
        values: dict[str, Any] = {
            "first_name": "",
            "last_name": "",
            **defaults,
            "date_joined": utc_now(self._clock),
            **column_defaults(self.tables.user, "default"),
            **self._normalized({**fields, "username": username, "email": email}, username=normalize),
            "password": encoded_password or await self.passwords.hash(password),
        }
        columns = self._by_column(values)
        plain_username = self.tables.user.columns.get("username")
        if plain_username is not None and plain_username is not self.tables.username:
            # USERNAME_FIELD is another column. The column `username` needs a value, but is not used for logins.
            columns.setdefault("username", values["username"][:150])
        async with self._unique.report(values["username"], values["email"]):
            return await self.gateway.run_in_transaction(lambda: self._create(columns, values["email"], password))

    async def _create(self, columns: Mapping[str, Any], email: str | None, password: str | None) -> U:
        await self._unique.claim(email)
        key = await self.gateway.insert(self.tables.user, **columns)
        await self._unique.hold(email, key)
        user: U = await self.get(key)  # type: ignore[assignment]
        await self.events.emit(UserCreated(user=user))
        await password_changed(password, user, self.password_validators)
        return user

    async def create_superuser(
        self, username: str, email: str | None = None, password: str | None = None, **fields: Any
    ) -> U:
        """Creates a user with `is_staff` and `is_superuser`, who has all permissions. Otherwise as `create_user`.

        Raises ValueError if one of the two is passed and not True, as Django.
        """
        fields = {"is_staff": True, "is_superuser": True, **fields}
        for name in ("is_staff", "is_superuser"):
            if fields[name] is not True:
                raise ValueError(f"Superuser must have {name}=True. Leave {name} out, or use create_user().")
        return await self.create_user(username, email, password, **fields)

    async def update(self, user: User, **fields: Any) -> None:
        """Writes some fields of one user to the database and to `user`.

        Raises DoesNotExist if the user was deleted, AlreadyExists if the username is taken, or the address where users
        log in with it, TypeError for an unknown field or for a name or address that is not text, ValueError for an
        invalid value (UnstorableValue if it does not fit its column), and NotImplementedError for a visitor.

        Where users log in with their address only, a username that is the old address changes with `email`.
        """
        require_stored(user)
        self._check_fields(fields)
        if not fields:
            return
        if self.address_is_typed and fields.get("email") and "username" not in fields:
            fields |= await username_at(self, user, fields["email"])
        fields = self._normalized(fields)

        async def write() -> None:
            await self._unique.claim(fields.get("email"), user.id)
            await self._require_update(user, **fields)
            if fields.get("is_active") is False:
                await self.events.emit(UserDeactivated(user=user))

        async with self._unique.report(fields.get("username"), fields.get("email"), user.id):
            await self.gateway.run_in_transaction(write)

    async def send_password_reset(self, user: User, *, request: HTTPConnection | None = None, app: Any = None) -> None:
        """Mails a user the link to choose a new password. A new user may have none yet.

        The link leads to the page `password_reset_confirm` of the application of `request`, or else of `app`, which is
        by default the application that `lifespan(auth)` started. The mail is sent at once. Raises Unavailable if the
        mail server does not take it, ValueError for an inactive user or one without an address, and
        ImproperlyConfigured without a mailer, a base URL or that page.
        """
        require_stored(user)
        require_connection(request)
        if not user.is_active or not user.email:
            raise ValueError(
                f"{user.username!r} is inactive or has no e-mail address. Set is_active and email with update() first."
            )
        if self.send_reset is None:
            raise ImproperlyConfigured("These Users belong to no Auth, which sends mail. Use auth.users.")
        await self.send_reset(user, request, app)

    async def delete(self, user: User) -> None:
        """Deletes a user and all rows that refer to it. ON DELETE SET NULL sets a column to NULL instead.

        Raises IntegrityError if rows of a table that this package does not know refer to the user, DoesNotExist if the
        user was deleted already, and NotImplementedError for a visitor.
        """
        require_stored(user)
        async with self.gateway.atomic():
            await self._require_row(user)
            await self.events.emit(UserDeleted(user=user))
            known_columns = self.tables.columns_referencing_user()
            for column in [*await self._admin_log_columns(user, known_columns), *known_columns]:
                refers_to_user = column == sa.bindparam("key")
                query: sa.Delete | sa.Update = sa.delete(column.table).where(refers_to_user)
                if any((key.ondelete or "").upper() == "SET NULL" for key in column.foreign_keys):
                    query = sa.update(column.table).values({column.name: sa.null()}).where(refers_to_user)
                await self.gateway.execute(query, key=user.id)
            delete_user = sa.delete(self.tables.user).where(self.tables.user_key == sa.bindparam("key"))
            if not await self.gateway.execute(delete_user, key=user.id):
                raise self._deleted(user)  # by another request, since the transaction began

    async def _admin_log_columns(self, user: User, known: Sequence[sa.Column[Any]]) -> list[sa.Column[Any]]:
        """Returns the columns of Django's admin log that refer to users. Its rows are deleted with the user.

        Raises IntegrityError if rows of another unknown table in a Django database refer to the user: Django's models
        decide what happens to such rows, and this package does not know them.
        """
        if not self.tables.django_tables:
            return []
        users, log_columns = self.tables.user, []
        schemas = {(column.table.name, column.name): column.table.schema for column in known}
        for key in await foreign_keys_to(self.gateway, users.name, users.schema):
            column: sa.Column[Any] = sa.Column(key.column, self.tables.user_key.type)
            table = sa.Table(key.table, sa.MetaData(), column, schema=key.schema)
            if key.table == ADMIN_LOG:
                log_columns.append(column)
            elif key[:2] not in schemas or key.schema not in (None, schemas[key[:2]]):
                query = sa.select(column).where(column == sa.bindparam("key")).select_from(table).limit(1)
                if await self.gateway.fetch_one(query, key=user.id) is not None:
                    raise IntegrityError(
                        f"Rows of {table.fullname} refer to {user.username!r}. Delete them first, or deactivate the "
                        "account with update(user, is_active=False)."
                    )
        return log_columns

    def _check_fields(self, fields: Mapping[str, Any]) -> None:
        for name in fields:
            if name not in self.tables.fields:
                raise TypeError(f"A user has no field {name!r}.{suggest(name, self.tables.fields)}")
            if name == "username" or (name == "email" and fields[name] is not None):
                require_text(fields[name], name)
        encoded = fields.get("password", "!")
        if not (isinstance(encoded, str) and self.passwords.is_encoded(encoded)):
            raise ValueError("A password is stored as a hash only. Use set_password(user, raw).")

    def _normalized(self, fields: Mapping[str, Any], *, username: bool = True) -> dict[str, Any]:
        forms = FORMS if username else {"email": normalize_email}
        fields = {
            name: forms[name](value) if name in forms and isinstance(value, str) else value
            for name, value in fields.items()
        }
        if self.tables.username is self.tables.email and ("username" in fields or "email" in fields):
            names = {normalize_email(name) for name in (fields.get("username"), fields.get("email")) if name}
            if len(names) > 1:
                raise ValueError("The username is the email address on this site. Pass only one of the two.")
            fields |= dict.fromkeys(("username", "email"), next(iter(names), ""))
        if self.address_is_typed and fields.get("email") and not is_email_address(fields["email"]):
            raise ValueError(f"{fields['email']!r} is no address with which a user can log in. Use ann@example.org.")
        if "username" in fields and (username or not fields["username"]):
            require_username(fields["username"])
        return fields


async def username_at(users: Users[Any], user: User, email: str) -> dict[str, str]:
    """Returns the new username of a user who gets the address `email`, for `update`; {} if it does not change.

    It changes if it is the old address: the next owner of the old address could otherwise not register with it. It does
    not if another user has the new name, or if its column is too short for it.
    """
    username, length = normalize_username(email), getattr(users.tables.username.type, "length", None)
    is_address = ascii_lower(user.username) == ascii_lower(normalize_username(user.email or ""))
    if not is_address or (length is not None and len(username) > length) or await users.has_username(username):
        return {}
    return {"username": username}
