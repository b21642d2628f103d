"""Which rows of `auth_user_groups`, `auth_user_user_permissions` and `auth_session` belong to a custom user table?

An earlier version used these tables for the users of every user table. Now they are those of `auth_user` alone.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from ...core.exceptions import ImproperlyConfigured
from ..gateway import Gateway
from ..introspection import all_columns, column_types, default_schema, foreign_keys_of, primary_key
from ..table_definitions import USER_COLUMNS
from ..tables import Tables

logger = logging.getLogger("starlette_auth")
SHOWN = 5  # users named in a message
SESSIONS = "auth_session"
STANDARD = set(USER_COLUMNS) - {"id"}


class Move(NamedTuple):
    """Statements that move the rows of one table, executed in order, and what the log says of the first one."""

    statements: list[sa.ClauseElement]
    summary: str


class SharedTable:
    """A table that the users of several user tables shared, and conditions on its rows.

    `is_own`: the user table has a user of the number in the row. `is_foreign`: one of the other user tables has one.
    """

    def __init__(self, name: str, tables: Tables, others: Mapping[str, str], *columns: str) -> None:
        key = tables.user_key.type
        self.table = sa.table(name, sa.column("user_id", key), *(sa.column(column, sa.Integer) for column in columns))
        user_id = self.table.c.user_id
        self.is_own = sa.exists().where(tables.user_key == user_id)
        keys = [sa.table(other, sa.column(column, key)).c[column] for other, column in others.items()]
        self.is_foreign = sa.or_(sa.false(), *(sa.exists().where(column == user_id) for column in keys))

    async def problems(self, gateway: Gateway, user_tables: Sequence[str]) -> list[str]:
        """Returns a sentence on the rows that several user tables may own, and one on those that none owns."""
        problems, name = [], self.table.name
        if users := await self._users(gateway, sa.and_(self.is_own, self.is_foreign)):
            problems.append(f"The rows of {name} for the users {users} may belong to {' or '.join(user_tables)}.")
        if users := await self._users(gateway, sa.and_(~self.is_own, ~self.is_foreign)):
            problems.append(
                f"The rows of {name} for the users {users} belong to no user in {' or '.join(user_tables)}."
            )
        return problems

    async def _users(self, gateway: Gateway, condition: sa.ColumnElement[bool]) -> str:
        """Returns the numbers of some users in the rows that meet the condition; "" if there are none."""
        user_id = self.table.c.user_id
        query = sa.select(user_id).where(condition).distinct().order_by(user_id).limit(SHOWN + 1)
        numbers = [str(row["user_id"]) for row in await gateway.fetch_all(query)]
        return ", ".join([*numbers[:SHOWN], *(["…"] if len(numbers) > SHOWN else [])])

    def deletion(self, user: sa.Table) -> Move:
        delete = sa.delete(self.table).where(self.is_own, ~self.is_foreign)
        return Move([delete], f"Deleted %d sessions of {user.fullname} from {self.table.name}.")

    def move_to(self, target: sa.Table, column: str) -> Move:
        old = self.table
        is_moved = sa.exists().where(target.c.user_id == old.c.user_id, target.c[column] == old.c[column])
        rows = sa.select(old.c.user_id, old.c[column]).where(self.is_own, ~is_moved).distinct()
        insert = sa.insert(target).from_select(["user_id", column], rows)
        return Move([insert, sa.delete(old).where(self.is_own)], f"Moved %d rows of {old.name} to {target.name}.")


async def plan_moves(gateway: Gateway, tables: Tables, created: Collection[str]) -> list[Move]:
    """Returns how the rows of a custom user table get into its own tables, some of which are about to be created.

    Sessions are not moved but deleted: their users log in again. Raises ImproperlyConfigured if it is not clear to which
    user table a grant belongs. Nothing is planned once the tables exist: a grant that was revoked would come back.
    """
    links = {
        "auth_user_groups": (tables.user_groups, "group_id"),
        "auth_user_user_permissions": (tables.user_permissions, "permission_id"),
    }
    own_names = {tables.session.fullname, *(target.fullname for target, _ in links.values())}
    was_shared = tables.has_default_names and tables.namespace and not tables.django_tables
    if not was_shared or own_names.isdisjoint(created):
        return []
    existing = await all_columns(gateway)
    moves, problems = [], []
    has_users = bool(await column_types(gateway, tables.user.name, tables.user.schema))
    for name in (*links, SESSIONS) if has_users else ():
        others = await _other_user_tables(gateway, tables, existing, name)
        if others is None:
            continue
        if name == SESSIONS:
            moves.append(SharedTable(name, tables, others).deletion(tables.user))
            continue
        target, column = links[name]
        shared = SharedTable(name, tables, others, column)
        problems += await shared.problems(gateway, [tables.user.fullname, *others])
        moves.append(shared.move_to(target, column))
    if problems:
        raise ImproperlyConfigured(
            f"{' '.join(problems)} Each user table has separate tables now. Note and delete these rows, run migrate "
            f"again, and grant these rights anew. If no row of {' and '.join(links)} belongs to {tables.user.fullname}, run "
            "`starlette-auth migrate --leave-grants` instead."
        )
    return moves


async def run_moves(gateway: Gateway, moves: Collection[Move]) -> None:
    for move in moves:
        counts = [await gateway.execute(statement) for statement in move.statements]
        if counts[0]:
            logger.warning(move.summary, counts[0])


async def check_links(gateway: Gateway, tables: Tables) -> None:
    """Raises ImproperlyConfigured if a link table is not that of the user table: grants would fail, or be another's."""
    links = [] if tables.django_tables else [tables.user_groups, tables.user_permissions]
    user, schema = tables.user, await default_schema(gateway, tables.user.schema)
    for link in links:
        columns, column = await column_types(gateway, link.name, link.schema), link.c.user_id.name
        if columns and column not in columns:
            raise ImproperlyConfigured(
                f"The table {link.name} has no column {column}, so it is a table of your application. The name is needed "
                f"for what links the users of {user.fullname}. Rename your table, or the user table."
            )
        referred = (await foreign_keys_of(gateway, link)).get(column, (schema, user.name))
        if (referred[0], referred[1].lower()) != (schema, user.name.lower()):
            target = ".".join(filter(None, referred))
            raise ImproperlyConfigured(
                f"The table {link.name} refers to {target} and not to {user.fullname}, because an earlier version "
                f"shared it. Run migrate for the Auth with the user table {target}, then `DROP TABLE {link.name}` if the "
                "table is empty, and run migrate again."
            )


async def _other_user_tables(
    gateway: Gateway, tables: Tables, existing: Mapping[str, set[str]], shared: str
) -> dict[str, str] | None:
    """Returns further user tables whose users the rows of a shared table may mean, each with its primary key.

    Returns None if there is no such table, or if its rows cannot mean users of `tables.user`: keys of another type.
    """
    if "user_id" not in existing.get(shared, ()):
        return None
    kind = _kind(await column_types(gateway, shared), "user_id")
    schema = await default_schema(gateway, tables.user.schema)
    if _kind(await column_types(gateway, tables.user.name, schema), tables.user_key.name) != kind:
        return None
    others = {}
    for name, columns in existing.items():
        if columns >= STANDARD and (schema is not None or name.lower() != tables.user.name.lower()):
            key = await primary_key(gateway, name)  # a view has none
            if key is not None and _kind(await column_types(gateway, name), key) == kind:
                others[name] = key
    return others


def _kind(types: Mapping[str, Any], column: str) -> str:
    """Returns the type of a column; one name for all types of integers."""
    return "integer" if "int" in types[column] else str(types[column])
