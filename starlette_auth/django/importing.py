"""Copying the users of a Django project into a database of ours."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from ..database.columns import column_defaults
from ..database.gateway import Gateway
from ..database.introspection import all_columns
from ..database.statements import Row, Statement
from ..database.tables import Tables
from .survey import UserModel, in_batches

BATCH = 500  # users that are copied in one transaction
EMPTY = {"first_name": "", "last_name": "", "email": "", "is_active": True, "is_staff": False, "is_superuser": False}
Progress = Callable[[int, int], None]


class UserImport:
    """Groups, permissions and users, with their keys, their hashes and what they may. What is there already stays.

    A batch of users is copied as a whole or not at all: an import that was interrupted goes on where it was. Sessions
    are not copied, so people log in once more. `ignore` are columns of the users that may be left behind.
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
        #: What users are called in the source, by what they are called in the target.
        self.columns = {new.fields[name].name: old.fields[name] for name in ("id", "username", *fields)}
        if old.email is not None and new.email is not None:
            self.columns[new.email.name] = old.email
        self.copied = self.present = 0

    async def find_losses(self) -> list[str]:
        """Why nothing can be copied without loss, a sentence each. Nothing has been changed then."""
        found = []
        if self.old.user_key.type.python_type is not self.new.user_key.type.python_type:
            found.append(
                f"The users have keys of another kind ({self.model.types[self.model.key]}). Name the target by --app, "
                "with a user table in Tables whose key is like theirs."
            )
            return found
        kept = {column.name for column in self.columns.values()}
        for name in self.model.types:
            number = await self._filled(name) if name not in kept and name not in self.ignore else 0
            if number:
                found.append(
                    f"{number} users have something in the column {name}, for which there is no place. Name the target by "
                    f"--app, with the column in its user table, or leave it behind: --ignore {name}."
                )
        defaults = self._defaults()
        for column in self.new.user.columns:
            is_given = column.name in self.columns or column.name in defaults
            if not is_given and not column.nullable and column.server_default is None:
                found.append(f"The column {column.name} there needs a value. Give it a default in the user table.")
        return [*found, *await self._conflicts()]

    async def run(self, progress: Progress) -> None:
        """Copies what is not there yet. `progress` is told how many users are done, and how many there are."""
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
        """For columns of ours that a user of theirs does not have; for each user anew."""
        given = {**EMPTY, "date_joined": datetime.now(UTC), **column_defaults(self.new.user, "default")}
        return {
            name: value for name, value in given.items() if name in self.new.user.columns and name not in self.columns
        }

    async def _permissions(self) -> dict[int, int]:
        """Makes those that are missing; gives the new keys by the old ones."""
        models: dict[tuple[str, str], int] = {}
        for row in await self.target.fetch_all(_named(self.new.content_type, "id", "app_label", "model")):
            models[row["app_label"], row["model"]] = row["id"]
        there: dict[tuple[int, str], int] = {}
        for row in await self.target.fetch_all(_named(self.new.permission, "id", "content_type_id", "codename")):
            there[row["content_type_id"], row["codename"]] = row["id"]
        about: dict[int, int] = {}
        for row in await self.source.fetch_all(_named(self.old.content_type, "id", "app_label", "model")):
            model = {"app_label": row["app_label"], "model": row["model"]}
            name = (row["app_label"], row["model"])
            if name not in models:
                models[name] = await self.target.insert(self.new.content_type, **model)
            about[row["id"]] = models[name]
        keys: dict[int, int] = {}
        columns = ("id", "content_type_id", "codename", "name")
        for row in await self.source.fetch_all(_named(self.old.permission, *columns)):
            values = {"content_type_id": about[row["content_type_id"]], "codename": row["codename"]}
            unique = (values["content_type_id"], row["codename"])
            if unique not in there:
                there[unique] = await self.target.insert(self.new.permission, name=row["name"], **values)
            keys[row["id"]] = there[unique]
        return keys

    async def _groups(self, permissions: dict[int, int]) -> dict[int, int]:
        there = {row["name"]: row["id"] for row in await self.target.fetch_all(_named(self.new.group, "id", "name"))}
        granted = await self._links(self.old.group_permissions, "permission_id", permissions, "group_id")
        keys = {}
        for row in await self.source.fetch_all(_named(self.old.group, "id", "name")):
            if row["name"] not in there:
                there[row["name"]] = await self.target.insert(self.new.group, name=row["name"])
                for permission in granted.get(row["id"], []):
                    values = {"group_id": there[row["name"]], "permission_id": permission}
                    await self.target.insert(self.new.group_permissions, **values)
            keys[row["id"]] = there[row["name"]]
        return keys

    async def _links(
        self, table: sa.Table, column: str, keys: dict[int, int], of: str = "user_id"
    ) -> dict[Any, list[int]]:
        found: dict[Any, list[int]] = {}
        for row in await self.source.fetch_all(_named(table, of, column)):
            found.setdefault(row[of], []).append(keys[row[column]])
        return found

    async def _conflicts(self) -> list[str]:
        there = await self._names_in_target()
        names = {name: key for key, name in there.items()}
        found: list[str] = []
        limits = {
            column.name: getattr(self.new.user.c[ours].type, "length", None) for ours, column in self.columns.items()
        }
        async for row in in_batches(self.source, self._users()):
            key, name = row[self.old.user_key.name], row[self.old.username.name]
            for column, limit in limits.items():
                if limit is not None and isinstance(row[column], str) and len(row[column]) > limit:
                    found.append(f"The {column} of {name!r} is longer than the {limit} characters there.")
            if there.get(key, name) != name:
                found.append(f"The key {key} belongs to {there[key]!r} there, and to {name!r} here.")
            elif names.get(name, key) != key:
                found.append(f"{name!r} has the key {names[name]} there, and {key} here.")
        if len(found) > 10:
            found[10:] = [f"And {len(found) - 10} more like these. Import into an empty database."]
        return found

    async def _names_in_target(self) -> dict[Any, str]:
        key, name = self.new.user_key, self.new.username
        if self.new.user.name not in await all_columns(self.target):
            return {}
        rows = await self.target.fetch_all(sa.select(key.label("key"), name.label("name")))
        return {row["key"]: row["name"] for row in rows}

    async def _filled(self, column: str) -> int:
        there = sa.column(column, sa.String)
        query = sa.select(sa.func.count().label("users")).select_from(self.old.user).where(there.is_not(None))
        if any(word in self.model.types[column] for word in ("char", "text")):
            query = query.where(there != sa.literal(""))
        row = await self.source.fetch_one(query)
        return int(row["users"]) if row else 0

    def _users(self) -> sa.Table:
        """The source's users, with the columns that are read."""
        columns = dict.fromkeys([self.old.user_key, *self.columns.values()])
        return sa.Table(self.old.user.name, sa.MetaData(), *(sa.Column(column.name, column.type) for column in columns))

    async def _set_sequence(self) -> None:
        table, key = self.new.user.name, self.new.user_key.name
        newest = sa.select(sa.func.max(self.new.user_key)).scalar_subquery()
        where = sa.func.pg_get_serial_sequence(sa.literal(f'"{table}"'), sa.literal(key))
        await self.target.fetch_all(Statement(sa.select(sa.func.setval(where, newest).label("newest"))))


def _named(table: sa.Table, *names: str) -> sa.Select[Any]:
    return sa.select(*(table.c[name].label(name) for name in names))
