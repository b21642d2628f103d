"""Sets and checks the passwords of users, and writes the fields of one user."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from starlette.requests import HTTPConnection

from ..core.awaiting import must_be_awaited
from ..core.clock import Clock, utc_now
from ..core.events import Events, PasswordChanged
from ..core.exceptions import DoesNotExist, HashingBusy
from ..core.text import require_text
from ..database.columns import column_defaults
from ..database.gateway import Gateway
from ..database.statements import Statement
from ..database.tables import Tables
from ..passwords.password_changes import PasswordValidator, password_changed
from ..passwords.passwords import Passwords
from .models import AnonymousUser, User, require_connection, require_stored, require_user


class UserPasswords:
    """Provides the methods of `Users` for passwords."""

    get: Callable[[Any], Awaitable[Any]]

    password_validators: Sequence[PasswordValidator] = ()  # set by `Auth`; their `password_changed` is called

    def __init__(
        self,
        gateway: Gateway,
        *,
        tables: Tables,
        passwords: Passwords,
        events: Events,
        clock: Clock,
    ) -> None:
        self.gateway = gateway
        self.tables = tables
        self._clock = clock
        self.passwords = passwords
        self.events = events
        self._updates: dict[tuple[object, ...], Statement] = {}

    async def record_login(self, user: User) -> None:
        """Writes the current time to `last_login`, if the user table of a Django project has this column.

        Raises DoesNotExist if the user was deleted.
        """
        require_stored(user)
        if "last_login" in self.tables.user.columns:
            await self._require_update(user, last_login=utc_now(self._clock))

    async def set_password(self, user: User, raw: str | None, *, request: HTTPConnection | None = None) -> None:
        """Sets a new password; None makes it unusable. Ends all sessions of the old password.

        `request` is the request that changes the password. The notice to the user describes it.
        Raises TypeError for other types, ValueError above 1,024 characters, HashingBusy if the queue is full,
        DoesNotExist if the user was deleted, and NotImplementedError for a visitor.
        """
        require_stored(user)
        require_connection(request)
        encoded = await self.passwords.hash(raw)

        async def change() -> None:
            await self._require_update(user, password=encoded)
            await self.events.emit(PasswordChanged(user=user, request=request))
            await password_changed(raw, user, self.password_validators)

        async with self._restore_password_on_error(user):
            await self.gateway.run_in_transaction(change)

    async def replace_password(
        self,
        user: User,
        encoded: str,
        *,
        raw: str | None = None,
        request: HTTPConnection | None = None,
        by_reset: bool = False,
    ) -> bool:
        """Sets a new password hash, unless the password has changed since `user` was read.

        `raw` is the password of the hash, for validators. Returns whether the hash was set. Ends all sessions that were
        started with the old password. Raises ValueError if `encoded` is no hash, and TypeError for other types.
        """
        require_stored(user)
        require_connection(request)
        require_text(encoded, "encoded password")
        require_text("" if raw is None else raw, "password")
        if not self.passwords.is_encoded(encoded):
            raise ValueError("A password is stored as a hash only. Pass what passwords.hash() returned as `encoded`.")
        previous_password = user.password

        async def replace() -> bool:
            user.password = previous_password  # also in a transaction that is repeated
            if not await self._update_row(user, if_unchanged=True, password=encoded):
                return False
            await self.events.emit(PasswordChanged(user=user, request=request, by_reset=by_reset))
            await password_changed(raw, user, self.password_validators)
            return True

        async with self._restore_password_on_error(user):
            return await self.gateway.run_in_transaction(replace)

    @must_be_awaited
    async def check_password(self, user: User | None, raw: str | None) -> bool:
        """Returns whether this is the user's password. If so, replaces a weak hash.

        Without a user or a password it returns False after computing one hash. Raises NotImplementedError for a
        visitor.
        """
        if user is None or raw is None:
            await self.passwords.check(None, "")
            return False
        require_user(user)
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
    def has_usable_password(user: User | AnonymousUser | None) -> bool:
        """Returns whether the user has a password. Users who log in elsewhere may have none."""
        return isinstance(user, User) and user.has_usable_password()

    async def _require_update(self, user: User, **fields: Any) -> None:
        if not await self._update_row(user, **fields):
            raise self._deleted(user)

    @staticmethod
    def _deleted(user: User) -> DoesNotExist:
        return DoesNotExist(f"The user {user.username!r} is not in the database any more. Fetch it again.")

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

    def _by_column(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """Returns the values by column name. Fields without a column, such as some defaults, are left out."""
        columns = self.tables.fields
        return {columns[name].name: value for name, value in fields.items() if name in columns}
