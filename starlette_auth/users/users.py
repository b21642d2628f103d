"""Creates, changes and deletes users."""

import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from starlette.requests import HTTPConnection

from ..core.awaiting import must_be_awaited
from ..core.clock import Clock, utc_now
from ..core.events import Events, PasswordChanged, UserCreated, UserDeactivated, UserDeleted
from ..core.exceptions import DoesNotExist, HashingBusy, ImproperlyConfigured, IntegrityError
from ..core.text import normalize_email, normalize_username, require_text
from ..database.columns import column_defaults
from ..database.gateway import Gateway
from ..database.introspection import foreign_keys_to
from ..database.statements import Statement
from ..database.tables import Tables
from ..passwords.passwords import Passwords, is_usable
from .models import User
from .permission_holders import holds_permission
from .permissions import GroupsAndPermissions, suggest
from .queries import U, UserQueries
from .unique import UniqueNames

ADMIN_LOG = "django_admin_log"
FORMS: dict[str, Callable[[str], str]] = {"username": normalize_username, "email": normalize_email}


class Users(UserQueries[U], GroupsAndPermissions):
    """Reads, creates, changes and deletes the users of a site, with their groups and permissions."""

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
        GroupsAndPermissions.__init__(self, gateway, tables)
        UserQueries.__init__(self, gateway, tables, user_class)
        self._clock = clock
        self._unique = UniqueNames(gateway, tables, keys_by_email=self._keys_by_email, clock=clock)
        self.passwords = passwords
        self.events = events
        #: Sends a reset mail, given the user, a request and an application; set by `Auth`.
        self.send_reset: Callable[[User, HTTPConnection | None, Any], Awaitable[None]] | None = None
        self._updates: dict[tuple[object, ...], Statement] = {}

    async def with_perm(self, perm: str, *, is_active: bool | None = True, include_superusers: bool = True) -> list[U]:
        """Returns the users who have a permission, as Django's `with_perm`, ordered by primary key.

        `is_active=None` includes active and inactive users. Permissions that backends grant or deny count. Raises
        DoesNotExist for an unknown permission, unless a backend may grant it.
        """
        source, keys = self.backend_permissions, list[int]()
        if source is not None:
            source.update()
        try:
            keys = [permission.id for permission in await self._get_permissions(perm)]
        except DoesNotExist:
            if source is None or not source.may_grant:
                raise
        condition = holds_permission(self.tables, keys, is_active=is_active, include_superusers=include_superusers)
        query = sa.select(*self.columns()).select_from(self.tables.user).where(condition).order_by(self.tables.user_key)
        users = [self.from_row(row) for row in await self.gateway.fetch_all(query)]
        if source is None or not source.are_asked:
            return users
        return await source.find_users(perm, users, lambda: self.all_users(is_active=is_active), is_active)

    async def create_user(
        self,
        username: str,
        email: str = "",
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
            return await self.gateway.run_in_transaction(lambda: self._create(columns, values["email"]))

    async def _create(self, columns: Mapping[str, Any], email: str | None) -> U:
        await self._unique.claim(email)
        key = await self.gateway.insert(self.tables.user, **columns)
        await self._unique.hold(email, key)
        user: U = await self.get(key)  # type: ignore[assignment]
        await self.events.emit(UserCreated(user=user))
        return user

    async def create_superuser(self, username: str, email: str = "", password: str | None = None, **fields: Any) -> U:
        """Creates a user with `is_staff` and `is_superuser`, who has all permissions. Otherwise as `create_user`."""
        return await self.create_user(username, email, password, **{"is_staff": True, "is_superuser": True, **fields})

    async def update(self, user: User, **fields: Any) -> None:
        """Writes some fields of one user to the database and to `user`.

        Raises DoesNotExist if the user was deleted, AlreadyExists if the username is taken, or the address where users
        log in with it, TypeError for an unknown field or for a name or address that is not text, and ValueError for an
        invalid value (UnstorableValue if it does not fit its column).
        """
        self._check_fields(fields)
        if not fields:
            return
        fields = self._normalized(fields)

        async def write() -> None:
            await self._unique.claim(fields.get("email"), user.id)
            if not await self._update_row(user, **fields):
                raise DoesNotExist(f"The user {user.username!r} is not in the database any more. Fetch it again.")
            if fields.get("is_active") is False:
                await self.events.emit(UserDeactivated(user=user))

        async with self._unique.report(fields.get("username"), fields.get("email"), user.id):
            await self.gateway.run_in_transaction(write)

    async def record_login(self, user: User) -> None:
        """Writes the current time to `last_login`."""
        await self._update_row(user, last_login=utc_now(self._clock))

    async def set_password(self, user: User, raw: str | None, *, request: HTTPConnection | None = None) -> None:
        """Sets a new password; None makes it unusable. Ends all sessions that were started with the old password.

        `request` is the request that changes the password. The notice to the user describes it.
        Raises TypeError for other types, ValueError above 1,024 characters, HashingBusy if the queue is full, and
        DoesNotExist if the user was deleted.
        """
        encoded = await self.passwords.hash(raw)
        async with self._restore_password_on_error(user), self.gateway.atomic():
            await self.update(user, password=encoded)
            await self.events.emit(PasswordChanged(user=user, request=request))

    async def replace_password(
        self, user: User, encoded: str, *, request: HTTPConnection | None = None, by_reset: bool = False
    ) -> bool:
        """Sets a new password hash, unless the password has changed since `user` was read.

        Returns whether it was set. Ends all sessions that were started with the old password.
        """
        async with self._restore_password_on_error(user), self.gateway.atomic():
            if not await self._update_row(user, if_unchanged=True, password=encoded):
                return False
            await self.events.emit(PasswordChanged(user=user, request=request, by_reset=by_reset))
        return True

    async def send_password_reset(self, user: User, *, request: HTTPConnection | None = None, app: Any = None) -> None:
        """Mails a user the link with which they choose a new password; also to a new user, who has none yet.

        The link leads to the page `password_reset_confirm` of the application of `request`, or else of `app`, which is
        by default the application that `lifespan(auth)` started. The mail is sent at once. Raises Unavailable if the
        mail server does not take it, ValueError for an inactive user or one without an address, and
        ImproperlyConfigured without a mailer, a base URL or that page.
        """
        if not user.is_active or not user.email:
            raise ValueError(
                f"{user.username!r} is inactive or has no e-mail address. Set is_active and email with update() first."
            )
        if self.send_reset is None:
            raise ImproperlyConfigured("These Users belong to no Auth, which sends mail. Use auth.users.")
        await self.send_reset(user, request, app)

    @must_be_awaited
    async def check_password(self, user: User, raw: str) -> bool:
        """Returns whether this is the user's password. If so, a weak hash is replaced by a new one."""
        verification = await self.passwords.check(user.password, raw)
        if not verification.must_update:
            return verification.matches
        try:
            encoded = await self.passwords.hash(raw)
        except HashingBusy:
            return True  # a later login will replace the hash
        # Only if the old hash is still stored: a concurrent change of the password must not be overwritten.
        if await self._update_row(user, if_unchanged=True, password=encoded):
            return True
        # A concurrent login has replaced the hash, or the password was changed and `raw` is the old one.
        fresh = await self.get(user.id)
        if fresh is None or fresh.password == user.password:
            return False
        user.password = fresh.password
        return await self.check_password(user, raw)

    @staticmethod
    def has_usable_password(user: User) -> bool:
        """Returns whether the user has a password at all. Users who log in elsewhere may have none."""
        return is_usable(user.password)

    async def delete(self, user: User) -> None:
        """Deletes a user and all rows that refer to it. A column with ON DELETE SET NULL is set to NULL instead.

        Raises IntegrityError if rows of a table that this package does not know refer to the user.
        """
        async with self.gateway.atomic():
            await self.events.emit(UserDeleted(user=user))
            known_columns = self.tables.columns_referencing_user()
            for column in [*await self._admin_log_columns(user, known_columns), *known_columns]:
                refers_to_user = column == sa.bindparam("key")
                query: sa.Delete | sa.Update = sa.delete(column.table).where(refers_to_user)
                if any((key.ondelete or "").upper() == "SET NULL" for key in column.foreign_keys):
                    query = sa.update(column.table).values({column.name: sa.null()}).where(refers_to_user)
                await self.gateway.execute(query, key=user.id)
            delete_user = sa.delete(self.tables.user).where(self.tables.user_key == sa.bindparam("key"))
            await self.gateway.execute(delete_user, key=user.id)

    async def _admin_log_columns(self, user: User, known: Sequence[sa.Column[Any]]) -> list[sa.Column[Any]]:
        """Returns the columns of Django's admin log that refer to users. Its rows are deleted with the user.

        Raises IntegrityError if rows of another unknown table in a Django database refer to the user: Django's models
        decide what happens to such rows, and this package does not know them.
        """
        if not self.tables.django_tables:
            return []
        log_columns, known_names = [], {(column.table.name, column.name) for column in known}
        for table_name, name in await foreign_keys_to(self.gateway, self.tables.user.name):
            column: sa.Column[Any] = sa.Column(name, self.tables.user_key.type)
            table = sa.Table(table_name, sa.MetaData(), column)
            if table_name == ADMIN_LOG:
                log_columns.append(column)
            elif (table_name, name) not in known_names:
                query = sa.select(column).where(column == sa.bindparam("key")).select_from(table).limit(1)
                if await self.gateway.fetch_one(query, key=user.id) is not None:
                    raise IntegrityError(
                        f"Rows of {table_name} refer to {user.username!r}. Delete them first, or deactivate the "
                        "account with update(user, is_active=False)."
                    )
        return log_columns

    async def _update_row(self, user: User, *, if_unchanged: bool = False, **fields: Any) -> bool:
        """Writes fields to the database and then to `user`. Returns whether the row was updated.

        With `if_unchanged` the row is updated only if it has the password hash of `user`.
        """
        fields = {**column_defaults(self.tables.user, "onupdate"), **fields}
        columns = self._by_column(fields)
        values = {f"new_{name}": value for name, value in columns.items()}
        if if_unchanged:
            values["old_password"] = user.password
        shape = (if_unchanged, *columns)
        if shape not in self._updates:
            self._updates[shape] = self._update_statement(columns, if_unchanged=if_unchanged)
        if not await self.gateway.execute(self._updates[shape], key_of_user=user.id, **values):
            return False
        for name, value in fields.items():
            setattr(user, name, value)
        if user.backend_answers is not None:
            user.backend_answers.forget()
        return True

    def _update_statement(self, columns: Iterable[str], *, if_unchanged: bool) -> Statement:
        # A column could have the same name as a bind parameter. The prefixes keep them apart.
        new: dict[str, Any] = {name: sa.bindparam(f"new_{name}") for name in columns}
        query = sa.update(self.tables.user).values(new).where(self.tables.user_key == sa.bindparam("key_of_user"))
        if if_unchanged:
            query = query.where(self.tables.user.c.password == sa.bindparam("old_password"))
        return Statement(query)

    @contextlib.asynccontextmanager
    async def _restore_password_on_error(self, user: User) -> AsyncIterator[None]:
        """Resets `user.password` if the block raises: the transaction was rolled back."""
        previous_password = user.password
        try:
            yield
        except BaseException:
            user.password = previous_password
            raise

    def _check_fields(self, fields: Mapping[str, Any]) -> None:
        for name in fields:
            if name not in self.tables.fields:
                raise TypeError(f"A user has no field {name!r}.{suggest(name, self.tables.fields)}")
            if name == "username" or (name == "email" and fields[name] is not None):
                require_text(fields[name], name)
        if fields.get("username", "…") == "":
            raise ValueError("A user needs a username. Pass one that is not empty.")
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
        return fields

    def _by_column(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values by column name. Fields without a column, such as some defaults, are left out."""
        columns = self.tables.fields
        return {columns[name].name: value for name, value in fields.items() if name in columns}
