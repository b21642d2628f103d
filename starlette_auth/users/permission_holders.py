"""Which users the database grants a permission to, and which permissions it knows."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..database.tables import Tables


def holds_permission(
    tables: Tables, permission_ids: Sequence[int], *, is_active: bool | None, include_superusers: bool
) -> sa.ColumnElement[bool]:
    """Returns the condition for users with one of the permissions, themselves or through a group.

    The keys of the holders are one derived table, so that the database starts with the holders. With conditions joined by
    OR, PostgreSQL looks for the groups of each user: more than 7 seconds for a million users.
    """

    def granted(links: sa.Table) -> sa.ColumnElement[bool]:
        return sa.or_(sa.false(), *(links.c.permission_id == key for key in permission_ids))

    t = tables
    direct = sa.select(t.user_permissions.c.user_id).where(granted(t.user_permissions))
    through_groups = (
        sa.select(t.user_groups.c.user_id)
        .join(t.group_permissions, t.group_permissions.c.group_id == t.user_groups.c.group_id)
        .where(granted(t.group_permissions))
    )
    holders: list[sa.Select[Any]] = [direct, through_groups]
    if include_superusers:
        holders.append(sa.select(t.user_key).where(t.user.c.is_superuser == sa.true()))
    keys = sa.union(*holders).subquery("holders")
    having: sa.ColumnElement[bool] = t.user_key.in_(sa.select(keys.c[0]))
    if is_active is not None and "is_active" in t.fields:
        having &= t.fields["is_active"] == sa.literal(is_active)
    return having


def is_member(tables: Tables, groups: Sequence[str]) -> sa.ColumnElement[bool]:
    """Returns the condition for users in one of the groups of these names."""
    t = tables
    named = sa.or_(sa.false(), *(t.group.c.name == name for name in groups))
    members = sa.select(t.user_groups.c.user_id).join(t.group, t.group.c.id == t.user_groups.c.group_id).where(named)
    return t.user_key.in_(members)


def permission_names(tables: Tables) -> sa.Select[tuple[str, str]]:
    """Returns the query for the application labels and codenames of all permissions."""
    permission, content_type = tables.permission, tables.content_type
    query = sa.select(content_type.c.app_label, permission.c.codename)
    return query.join(permission, permission.c.content_type_id == content_type.c.id)
