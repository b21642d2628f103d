"""Copying the users of a Django project into another database."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from ..core.text import ascii_lower
from ..database.columns import column_defaults, unique_index_name
from ..database.gateway import Gateway
from ..database.introspection import all_columns, index_names
from ..database.statements import Row, Statement, get_dialect
from ..database.tables import Tables
from .survey import UserModel, in_batches

BATCH = 500  # users copied in one transaction
EMPTY = {"first_name": "", "last_name": "", "email": "", "is_active": True, "is_staff": False, "is_superuser": False}
Progress = Callable[[int, int], None]


class UserImport:
    """Copies groups, permissions and users, with primary keys and password hashes, from `source` to `target`.

    Existing rows of the target are not changed. Each batch of 500 users is one transaction, so an interrupted import
    can be run again and continues with the users that are missing. Sessions are not copied: users must log in again.
    `old` and `new` are the tables of the source and the target. `ignore` names columns of the source's user table that
    may be lost.
    """

    def __init__(
        self,
        source: Gateway,
        target: Gateway,
        *,
        old: Tables,
        new: Tables,
        model: UserModel,
        ignore: Sequence[str] = (),
    ) -> None:
        self.source = source
        self.target = target
        self.old = old
        self.new = new
        self.model = model
        self.ignore = ignore
        fields = [name for name in old.fields if name in new.fields and name not in ("id", "username", "email")]
        #: Maps each column name of the target's user table to the column of the source's.
        self.columns = {new.fields[name].name: old.fields[name] for name in ("id", "username", *fields)}
        if old.email is not None and new.email is not None:
            self.columns[new.email.name] = old.email
        self.copied = self.present = 0

    async def find_losses(self) -> list[str]:
        """Returns the reasons why copying would lose data, one sentence each. Changes nothing."""
        losses = []
        if self.old.user_key.type.python_type is not self.new.user_key.type.python_type:
            losses.append(
                f"The users' primary key has another type ({self.model.types[self.model.key]}). Name the target with "
                "--app, and give the user table in its Tables a primary key of that type."
            )
            return losses
        copied = {column.name for column in self.columns.values()}
        for name in self.model.types:
            number = await self._count_values(name) if name not in copied and name not in self.ignore else 0
            if number:
                losses.append(
                    f"{number} users have a value in the column {name}, which the target lacks. Name the target "
                    f"with --app and add the column to its user table, or pass --ignore {name} to lose the values."
                )
        defaults = self._defaults()
        for column in self.new.user.columns:
            is_given = column.name in self.columns or column.name in defaults
            if not is_given and not column.nullable and column.server_default is None:
                losses.append(f"The target's column {column.name} needs a value. Give it a default in the user table.")
        return [*losses, *await self._conflicts()]

    async def run(self, progress: Progress) -> None:
        """Copies what the target does not have yet.

        Calls `progress` after each batch, with the number of users done and the number of users in the source.
        """
        async with self.target.atomic():
            permissions = await self._permissions()
            groups = await self._groups(permissions)
        links = {"groups": await self._links(self.old.user_groups, "group_id", groups)}
        links["permissions"] = await self._links(self.old.user_permissions, "permission_id", permissions)
        known = set(await self._names_in_target())
        batch: list[Row] = []
        async for row in in_batches(self.source, self._users()):
            batch.append(row)
            if len(batch) == BATCH:
                await self._copy(batch, known, links)
                batch = []
                progress(self.copied + self.present, self.model.rows)
        await self._copy(batch, known, links)
        if self.target.dialect == "postgresql" and self.new.user_key.type.python_type is int:
            await self._set_sequence()

    async def _copy(self, batch: Sequence[Row], known: set[Any], links: dict[str, dict[Any, list[int]]]) -> None:
        key = self.new.user_key.name
        async with self.target.atomic():
            for row in batch:
                user = {name: row[column.name] for name, column in self.columns.items()}
                if user[key] in known:
                    self.present += 1
                    continue
                await self.target.insert(self.new.user, **self._defaults(), **user)
                for group in links["groups"].get(user[key], []):
                    await self.target.insert(self.new.user_groups, user_id=user[key], group_id=group)
                for permission in links["permissions"].get(user[key], []):
                    await self.target.insert(self.new.user_permissions, user_id=user[key], permission_id=permission)
                self.copied += 1

    def _defaults(self) -> dict[str, Any]:
        """Returns values for columns that only the target has, computed anew for each user."""
        defaults = {**EMPTY, "date_joined": datetime.now(UTC), **column_defaults(self.new.user, "default")}
        return {
            name: value
            for name, value in defaults.items()
            if name in self.new.user.columns and name not in self.columns
        }

    async def _permissions(self) -> dict[int, int]:
        """Creates the missing permissions. Returns the target's keys by the source's keys."""
        content_types: dict[tuple[str, str], int] = {}
        for row in await self.target.fetch_all(_named(self.new.content_type, "id", "app_label", "model")):
            content_types[row["app_label"], row["model"]] = row["id"]
        existing: dict[tuple[int, str], int] = {}
        for row in await self.target.fetch_all(_named(self.new.permission, "id", "content_type_id", "codename")):
            existing[row["content_type_id"], row["codename"]] = row["id"]
        content_type_keys: dict[int, int] = {}
        for row in await self.source.fetch_all(_named(self.old.content_type, "id", "app_label", "model")):
            model = {"app_label": row["app_label"], "model": row["model"]}
            name = (row["app_label"], row["model"])
            if name not in content_types:
                content_types[name] = await self.target.insert(self.new.content_type, **model)
            content_type_keys[row["id"]] = content_types[name]
        keys: dict[int, int] = {}
        columns = ("id", "content_type_id", "codename", "name")
        for row in await self.source.fetch_all(_named(self.old.permission, *columns)):
            values = {"content_type_id": content_type_keys[row["content_type_id"]], "codename": row["codename"]}
            unique = (values["content_type_id"], row["codename"])
            if unique not in existing:
                existing[unique] = await self.target.insert(self.new.permission, name=row["name"], **values)
            keys[row["id"]] = existing[unique]
        return keys

    async def _groups(self, permissions: dict[int, int]) -> dict[int, int]:
        rows = await self.target.fetch_all(_named(self.new.group, "id", "name"))
        existing = {row["name"]: row["id"] for row in rows}
        granted = await self._links(self.old.group_permissions, "permission_id", permissions, "group_id")
        keys = {}
        for row in await self.source.fetch_all(_named(self.old.group, "id", "name")):
            if row["name"] not in existing:
                existing[row["name"]] = await self.target.insert(self.new.group, name=row["name"])
                for permission in granted.get(row["id"], []):
                    values = {"group_id": existing[row["name"]], "permission_id": permission}
                    await self.target.insert(self.new.group_permissions, **values)
            keys[row["id"]] = existing[row["name"]]
        return keys

    async def _links(
        self, table: sa.Table, column: str, keys: dict[int, int], of: str = "user_id"
    ) -> dict[Any, list[int]]:
        links: dict[Any, list[int]] = {}
        for row in await self.source.fetch_all(_named(table, of, column)):
            links.setdefault(row[of], []).append(keys[row[column]])
        return links

    async def _conflicts(self) -> list[str]:
        target_names = await self._names_in_target()
        target_keys = {name: key for key, name in target_names.items()}
        email_owners = await self._email_owners()
        conflicts: list[str] = []
        limits = {
            column.name: getattr(self.new.user.c[new_name].type, "length", None)
            for new_name, column in self.columns.items()
        }
        async for row in in_batches(self.source, self._users()):
            key, name = row[self.old.user_key.name], row[self.old.username.name]
            for column, limit in limits.items():
                if limit is not None and isinstance(row[column], str) and len(row[column]) > limit:
                    conflicts.append(f"The {column} of {name!r} is longer than the {limit} characters of the target.")
            if target_names.get(key, name) != name:
                conflicts.append(
                    f"The key {key} belongs to {name!r} in the source, {target_names[key]!r} in the target."
                )
            elif target_keys.get(name, key) != key:
                conflicts.append(f"{name!r} has the key {key} in the source, {target_keys[name]} in the target.")
            if email_owners is not None and self.old.email is not None and key not in target_names:
                email = row[self.old.email.name]
                owner = email_owners.setdefault(ascii_lower(email), key) if email else key
                if owner != key:
                    conflicts.append(
                        f"{name!r} has the email address of the user with the key {owner}, and users of the target log "
                        "in with their addresses. Change one of the two."
                    )
        if len(conflicts) > 10:
            conflicts[10:] = [f"{len(conflicts) - 10} more such conflicts. Import into an empty database."]
        return conflicts

    async def _names_in_target(self) -> dict[Any, str]:
        key, name = self.new.user_key, self.new.username
        if self.new.user.name not in await all_columns(self.target, self.new.user.schema):
            return {}
        rows = await self.target.fetch_all(sa.select(key.label("key"), name.label("name")))
        return {row["key"]: row["name"] for row in rows}

    async def _email_owners(self) -> dict[str, Any] | None:
        """Returns the key of each address in the target, in lower case. Returns None if addresses need not be unique."""
        email = self.new.email
        if email is None:
            return None
        # The index tells it if the target is named by its URL, without the application.
        if not (
            self.new.unique_email or unique_index_name(email) in await index_names(self.target, self.new.user.schema)
        ):
            return None
        if self.new.user.name not in await all_columns(self.target, self.new.user.schema):
            return {}
        rows = await self.target.fetch_all(sa.select(self.new.user_key.label("key"), email.label("email")))
        return {ascii_lower(row["email"]): row["key"] for row in rows if row["email"]}

    async def _count_values(self, name: str) -> int:
        """Returns how many users of the source have a non-empty value in this column."""
        column = sa.column(name, sa.String)
        query = sa.select(sa.func.count().label("users")).select_from(self.old.user).where(column.is_not(None))
        if any(word in self.model.types[name] for word in ("char", "text")):
            query = query.where(column != sa.literal(""))
        row = await self.source.fetch_one(query)
        return int(row["users"]) if row else 0

    def _users(self) -> sa.Table:
        """Returns the source's user table, with only the columns to read."""
        columns = dict.fromkeys([self.old.user_key, *self.columns.values()])
        copies = [sa.Column(column.name, column.type) for column in columns]
        return sa.Table(self.old.user.name, sa.MetaData(), *copies, schema=self.old.user.schema)

    async def _set_sequence(self) -> None:
        table, key = get_dialect("postgresql").identifier_preparer.format_table(self.new.user), self.new.user_key.name
        newest = sa.select(sa.func.max(self.new.user_key)).scalar_subquery()
        sequence = sa.func.pg_get_serial_sequence(sa.literal(table), sa.literal(key))
        await self.target.fetch_all(Statement(sa.select(sa.func.setval(sequence, newest).label("newest"))))


def _named(table: sa.Table, *names: str) -> sa.Select[Any]:
    return sa.select(*(table.c[name].label(name) for name in names))
