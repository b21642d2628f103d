"""Creating groups and permissions, granting and revoking them."""

import difflib
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from ..core.exceptions import AlreadyExists, DoesNotExist, IntegrityError
from ..database.gateway import Gateway
from ..database.tables import Tables
from .models import ContentType, Group, Permission, User

MODEL_PERMISSIONS = ("add", "change", "delete", "view")


class GroupsAndPermissions:
    """The part of `Users` that knows who may do what."""

    def __init__(self, gateway: Gateway, tables: Tables) -> None:
        self.gateway = gateway
        self.tables = tables

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
            raise DoesNotExist(f"There is no group {name!r}.{suggest(name, groups)} If not, create_group({name!r}).")
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
        if not app_label or not codename or "." in codename:
            raise ValueError(f"{perm!r} is no permission. Write it as app.codename, as in 'polls.add_vote'.")
        found = (await self._permissions()).get(perm)
        if found is not None:
            return found[0]
        verb, _, noun = codename.partition("_")
        about = {"app_label": app_label, "model": model or (noun if verb in MODEL_PERMISSIONS and noun else app_label)}
        name = name or codename.replace("_", " ").capitalize()
        async with self.gateway.atomic():
            content_type = await self._get_or_create(self.tables.content_type, about)
            unique = {"content_type_id": content_type, "codename": codename}
            key = await self._get_or_create(self.tables.permission, unique, name=name)
        return Permission(id=key, codename=codename, name=name, content_type=ContentType(id=content_type, **about))

    async def create_model_permissions(self, app_label: str, model: str) -> list[Permission]:
        """Django's four: add, change, delete and view."""
        return [
            await self.create_permission(f"{app_label}.{verb}_{model}", f"Can {verb} {model}", model=model)
            for verb in MODEL_PERMISSIONS
        ]

    async def get_permission(self, perm: str) -> Permission:
        """DoesNotExist, with the names that come near, when there is none."""
        return (await self._get_permissions(perm))[0]

    async def add_to_group(self, user: User, group: Group | str) -> None:
        """Twice is as good as once."""
        group_id = (await self._group(group)).id
        await self._get_or_create(self.tables.user_groups, {"user_id": user.id, "group_id": group_id})

    async def remove_from_group(self, user: User, group: Group | str) -> None:
        await self._remove(self.tables.user_groups, {"user_id": user.id, "group_id": (await self._group(group)).id})

    async def grant(self, holder: User | Group, perm: str) -> None:
        """Gives a permission to a user or a group; it counts from their next request on."""
        table, values = self._grant_table(holder)
        await self._get_or_create(table, {**values, "permission_id": (await self.get_permission(perm)).id})

    async def revoke(self, holder: User | Group, perm: str) -> None:
        """Takes a permission back; what somebody has in another way stays."""
        table, values = self._grant_table(holder)
        # Django lets two models of one application have a permission of the same name: neither may be left.
        for permission in await self._get_permissions(perm):
            await self._remove(table, {**values, "permission_id": permission.id})

    def _grant_table(self, holder: User | Group) -> tuple[sa.Table, dict[str, Any]]:
        if isinstance(holder, Group):
            return self.tables.group_permissions, {"group_id": holder.id}
        return self.tables.user_permissions, {"user_id": holder.id}

    async def _group(self, group: Group | str) -> Group:
        return await self.get_group(group) if isinstance(group, str) else group

    async def _get_permissions(self, perm: str) -> list[Permission]:
        permissions = await self._permissions()
        if perm not in permissions:
            otherwise = f"If not, create_permission({perm!r})." if "." in perm else "It is written app.codename."
            raise DoesNotExist(f"There is no permission {perm!r}.{suggest(perm, permissions)} {otherwise}")
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
        found: dict[str, list[Permission]] = {}
        for row in await self.gateway.fetch_all(query):
            about = ContentType(id=row["content_type_id"], app_label=row["app_label"], model=row["model"])
            one = Permission(id=row["id"], codename=row["codename"], name=row["name"], content_type=about)
            found.setdefault(str(one), []).append(one)
        return found

    async def _get_or_create(self, table: sa.Table, unique: dict[str, Any], **others: Any) -> Any:
        """The key of the row with these unique values, whoever makes it."""
        query = sa.select(*table.columns).where(*_equal(table, unique))
        row = await self.gateway.fetch_one(query)
        if row is None:
            try:
                return await self._insert(table, **unique, **others)
            except IntegrityError:
                # Somebody was faster. A plain SELECT of MySQL would show how things were when the transaction began.
                row = await self.gateway.fetch_one(query.with_for_update(read=True))
                if row is None:
                    raise
        # Collations of MariaDB hold "polls" and "Polls" for the same.
        other = [row[name] for name, value in unique.items() if row[name] != value]
        if other:
            raise AlreadyExists(f"This database takes {other[0]!r}, which is there, for the same. Use that.")
        return row["id"]

    async def _insert(self, table: sa.Table, **values: Any) -> Any:
        async with self.gateway.atomic():
            return await self.gateway.insert(table, **values)

    async def _remove(self, table: sa.Table, values: dict[str, Any]) -> None:
        await self.gateway.execute(sa.delete(table).where(*_equal(table, values)))


def suggest(name: str, names: Iterable[str]) -> str:
    """What somebody may have meant, as the rest of a message."""
    close = difflib.get_close_matches(name, list(names), n=3, cutoff=0.5)
    return f" Did you mean {' or '.join(repr(match) for match in close)}?" if close else ""


def _equal(table: sa.Table, values: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items()]
