"""Creates groups and permissions, and grants and revokes them."""

import difflib
import functools
from collections.abc import Callable, Iterable
from typing import Any

import sqlalchemy as sa

from ..core.exceptions import AlreadyExists, DoesNotExist, IntegrityError
from ..core.text import require_text
from ..database.gateway import Gateway
from ..database.tables import Tables
from .models import AnonymousUser, ContentType, Group, Permission, User, require_stored

MODEL_PERMISSIONS = ("add", "change", "delete", "view")


class GroupsAndPermissions:
    """Provides the methods of `Users` for groups and permissions."""

    def __init__(self, gateway: Gateway, tables: Tables) -> None:
        self.gateway = gateway
        self.tables = tables
        self.role_names: set[str] = set()  # of `Roles`: groups of these names are created when they get a member
        self.permission_listeners: list[Callable[[str], None]] = []  # called with the name of each created permission

    async def create_group(self, name: str) -> Group:
        """Creates a group. Raises AlreadyExists if the name is taken, ValueError if it is empty."""
        require_text(name, "name of a group")
        if not name:
            raise ValueError("A group needs a name. Pass one that is not empty.")
        try:
            return Group(id=await self._insert(self.tables.group, name=name), name=name)
        except IntegrityError as error:
            raise AlreadyExists(f"There is a group called {name!r} already. Use get_group().") from error

    async def get_group(self, name: str) -> Group:
        """Returns the group with exactly this name. Raises DoesNotExist, which suggests similar names.

        Raises TypeError for a name that is not text.
        """
        require_text(name, "name of a group")
        rows = await self.gateway.fetch_all(sa.select(self.tables.group.c.id, self.tables.group.c.name))
        groups = {row["name"]: Group(**row) for row in rows}
        if name not in groups:
            raise DoesNotExist(
                f"There is no group {name!r}.{suggest(name, groups)} Create it with create_group({name!r})."
            )
        return groups[name]

    async def get_groups(self, user: User | AnonymousUser) -> list[Group]:
        """Returns the groups of a user, ordered by name; none for a visitor."""
        if isinstance(user, AnonymousUser):
            return []
        require_stored(user)
        t = self.tables
        query = (
            sa.select(t.group.c.id, t.group.c.name)
            .join(t.user_groups, t.user_groups.c.group_id == t.group.c.id)
            .where(t.user_groups.c.user_id == sa.bindparam("key", type_=t.user_key.type))
            .order_by(t.group.c.name)
        )
        return [Group(**row) for row in await self.gateway.fetch_all(query, key=user.id)]

    async def create_permission(self, perm: str, name: str = "", *, model: str = "") -> Permission:
        """Creates the permission `app_label.codename`, or returns the existing one.

        Codenames of Django's four actions (add, change, delete, view) contain the model: `"polls.add_vote"` is about
        the model `vote`. For other codenames, as in `"polls.close"`, pass `model`. The default is the application
        label. `name` is the description.

        Raises ValueError if `perm` is malformed or has a wildcard (UnstorableValue if it does not fit its columns), and
        AlreadyExists if the database treats an existing name as equal.
        """
        require_name(perm)
        require_text(name, "description of a permission")
        require_text(model, "model")
        app_label, _, codename = perm.partition(".")
        existing = (await self._permissions()).get(perm)
        if existing is not None:
            self._notify(perm)
            return existing[0]
        verb, _, noun = codename.partition("_")
        model_fields = {
            "app_label": app_label,
            "model": model or (noun if verb in MODEL_PERMISSIONS and noun else app_label),
        }
        name = name or codename.replace("_", " ").capitalize()
        async with self.gateway.atomic():
            content_type = await self._get_or_create(self.tables.content_type, model_fields)
            unique = {"content_type_id": content_type, "codename": codename}
            key = await self._get_or_create(self.tables.permission, unique, name=name)
        self._notify(perm)
        return Permission(
            id=key, codename=codename, name=name, content_type=ContentType(id=content_type, **model_fields)
        )

    async def create_model_permissions(self, app_label: str, model: str) -> list[Permission]:
        """Creates Django's four permissions of a model: add, change, delete and view."""
        require_text(app_label, "app_label")
        require_text(model, "model")
        if not model:
            raise ValueError("The permissions need the name of a model. Pass one that is not empty, as in 'vote'.")
        return [
            await self.create_permission(f"{app_label}.{verb}_{model}", f"Can {verb} {model}", model=model)
            for verb in MODEL_PERMISSIONS
        ]

    async def get_permission(self, perm: str) -> Permission:
        """Returns the permission `app_label.codename`. Raises DoesNotExist, which suggests similar names.

        Raises TypeError for a name that is not text.
        """
        return (await self._get_permissions(perm))[0]

    async def add_to_group(self, user: User, group: Group | str) -> None:
        """Adds a user to a group. Has no effect if the user is a member already.

        A group with the name of a role (`Roles`) is created if it does not exist. Raises DoesNotExist for another
        unknown group, or if the user was deleted.
        """
        require_stored(user)
        async with self.gateway.atomic():
            await self._require_row(user)
            if isinstance(group, str) and group in self.role_names:
                group_id = await self._get_or_create(self.tables.group, {"name": group})
            else:
                group_id = (await self._group(group)).id
            await self._get_or_create(self.tables.user_groups, {"user_id": user.id, "group_id": group_id})

    async def remove_from_group(self, user: User, group: Group | str) -> None:
        """Removes a user from a group. Raises DoesNotExist for an unknown group name."""
        require_stored(user)
        await self._remove(self.tables.user_groups, {"user_id": user.id, "group_id": (await self._group(group)).id})

    async def grant(self, holder: User | Group, perm: str | Permission) -> None:
        """Grants a permission to a user or a group. It takes effect at the next request.

        Raises DoesNotExist for an unknown permission, or if the user or group was deleted, and ValueError for a
        wildcard.
        """
        table, values = self._grant_table(holder)
        require_no_wildcard(perm.user_perm_str if isinstance(perm, Permission) else perm)
        async with self.gateway.atomic():
            permission = (await self._get_permissions(perm))[0]
            for stored in (holder, permission):
                await self._require_row(stored)
            await self._get_or_create(table, {**values, "permission_id": permission.id})

    async def revoke(self, holder: User | Group, perm: str | Permission) -> None:
        """Revokes a permission from a user or a group. It takes effect at the next request.

        A user who also has the permission through a group keeps it. Raises DoesNotExist for an unknown permission.
        """
        table, values = self._grant_table(holder)
        # In Django two models of one application can have permissions of the same name. All of them are revoked.
        for permission in await self._get_permissions(perm):
            await self._remove(table, {**values, "permission_id": permission.id})

    def _notify(self, perm: str) -> None:
        for listener in self.permission_listeners:
            self.gateway.on_commit(functools.partial(listener, perm))

    def _grant_table(self, holder: User | Group) -> tuple[sa.Table, dict[str, Any]]:
        if isinstance(holder, Group):
            return self.tables.group_permissions, {"group_id": holder.id}
        require_stored(holder)
        return self.tables.user_permissions, {"user_id": holder.id}

    async def _group(self, group: Group | str) -> Group:
        return group if isinstance(group, Group) else await self.get_group(group)

    async def _require_row(self, stored: User | Group | Permission) -> None:
        """Raises DoesNotExist if a user, group or permission was deleted."""
        t = self.tables
        key = t.user_key if isinstance(stored, User) else (t.group if isinstance(stored, Group) else t.permission).c.id
        query = sa.select(key.label("key")).where(key == sa.bindparam("key", type_=key.type))
        if await self.gateway.fetch_one(query, key=stored.id) is None:
            kind = type(stored).__name__.lower() if isinstance(stored, Group | Permission) else "user"
            raise DoesNotExist(f"The {kind} {str(stored)!r} is not in the database any more. Fetch it again.")

    async def _get_permissions(self, perm: str | Permission) -> list[Permission]:
        if isinstance(perm, Permission):
            return [perm]
        require_text(perm, "name of a permission")
        permissions = await self._permissions()
        if perm not in permissions:
            fix = f"Create it with create_permission({perm!r})." if "." in perm else "Write it as app.codename."
            raise DoesNotExist(f"There is no permission {perm!r}.{suggest(perm, permissions)} {fix}")
        return permissions[perm]

    async def _permissions(self) -> dict[str, list[Permission]]:
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
            .order_by(permission.c.id)
        )
        permissions: dict[str, list[Permission]] = {}
        for row in await self.gateway.fetch_all(query):
            model = ContentType(id=row["content_type_id"], app_label=row["app_label"], model=row["model"])
            match = Permission(id=row["id"], codename=row["codename"], name=row["name"], content_type=model)
            permissions.setdefault(match.user_perm_str, []).append(match)
        return permissions

    async def _get_or_create(self, table: sa.Table, unique: dict[str, Any], **defaults: Any) -> Any:
        """Returns the primary key of the row with the values `unique`. Inserts a missing row, with `defaults`."""
        query = sa.select(*table.columns).where(*_equal(table, unique))
        row = await self.gateway.fetch_one(query)
        if row is None:
            try:
                return await self._insert(table, **unique, **defaults)
            except IntegrityError:
                # Another connection has inserted the row. MySQL's plain SELECT reads the snapshot of the transaction's
                # start and would miss it. A locking read sees the newest committed row.
                row = await self.gateway.fetch_one(query.with_for_update(read=True))
                if row is None:
                    raise
        # MariaDB's collations treat "polls" and "Polls" as equal.
        for name, value in unique.items():
            if row[name] != value:
                raise AlreadyExists(
                    f"{row[name]!r} exists, and {value!r} is equal to it in this database. Use that name."
                )
        return row["id"]

    async def _insert(self, table: sa.Table, **values: Any) -> Any:
        async with self.gateway.atomic():
            return await self.gateway.insert(table, **values)

    async def _remove(self, table: sa.Table, values: dict[str, Any]) -> None:
        await self.gateway.execute(sa.delete(table).where(*_equal(table, values)))


def require_name(perm: object, *, may_have_dots: bool = False) -> None:
    """Raises ValueError unless a text has the form `app.codename`, and TypeError for other types.

    Django does so, too. Names that only backends know may contain further dots.
    """
    if not isinstance(perm, str):
        raise TypeError(f"A permission is a text or a Permission, and this is {perm!r}. Pass 'polls.add_vote'.")
    require_no_wildcard(perm)
    app_label, _, codename = perm.partition(".")
    if not app_label or not codename or ("." in codename and not may_have_dots):
        raise ValueError(f"{perm!r} is not a permission. Write it as app.codename, as in 'polls.add_vote'.")


def require_no_wildcard(perm: object) -> None:
    """Raises ValueError for a name with a wildcard, such as "polls.*", which Django would not honour either."""
    if isinstance(perm, str) and "*" in perm:
        raise ValueError(
            f"{perm!r} has a wildcard, and a permission of the database is one permission. Grant each permission by its "
            "name, or write the wildcard into Roles({…}), whose groups have all permissions that it matches."
        )


def suggest(name: str, names: Iterable[str]) -> str:
    """Returns a sentence with similar names for an error message; "" if there are none."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def _equal(table: sa.Table, values: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items()]
