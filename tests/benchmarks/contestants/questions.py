"""What is asked of a database by hand, on the driver itself, by the floors and by peers that know no users."""

import contextlib
import re
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

import aiosqlite
import asyncpg

from ..settings import PERMISSION, Settings

Row = Mapping[str, Any]
APP, CODENAME = PERMISSION.split(".")
USER = "u.id, u.username, u.email, u.password, u.is_active"
MAY_VOTE = f"""EXISTS (
    SELECT 1 FROM auth_user_groups ug JOIN auth_group_permissions gp ON gp.group_id = ug.group_id
    JOIN auth_permission p ON p.id = gp.permission_id JOIN auth_content_type t ON t.id = p.content_type_id
    WHERE ug.user_id = u.id AND t.app_label = '{APP}' AND p.codename = '{CODENAME}') AS may_vote"""
#: Session, user and permission: all that one request needs.
VISIT = f"""SELECT s.data, {USER}, {MAY_VOTE} FROM auth_session s JOIN auth_user u ON u.id = s.user_id
    WHERE s.key_hash = $1 AND s.expires > $2"""
VISIT_WITHOUT_PERMISSION = VISIT.replace(f", {MAY_VOTE}", "")
USER_BY_ID = f"SELECT {USER}, {MAY_VOTE} FROM auth_user u WHERE u.id = $1"
USER_BY_NAME = f"SELECT {USER} FROM auth_user u WHERE u.username = $1"
NOTE_LOGIN = "UPDATE auth_user SET last_login = CURRENT_TIMESTAMP WHERE id = $1"
BEGIN_SESSION = """INSERT INTO auth_session
    (key_hash, public_id, user_id, data, created, last_seen, expires, address, user_agent, version)
    VALUES ($1, $2, $3, $4, $5, $5, $6, '', '', 0)"""
CHANGE_SESSION = "UPDATE auth_session SET data = $1, last_seen = $2, version = version + 1 WHERE key_hash = $3"


class Questions(Protocol):
    async def row(self, sql: str, *values: Any) -> Row | None: ...

    async def write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        """One after the other, on one connection. Each counts as soon as it is done."""
        ...


class OnPostgreSQL:
    """A pool of asyncpg's, as it comes; or without the reset of each connection that is given back."""

    def __init__(self, pool: Any) -> None:
        self.pool = pool

    async def row(self, sql: str, *values: Any) -> Row | None:
        found: Row | None = await self.pool.fetchrow(sql, *values)
        return found

    async def write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        async with self.pool.acquire() as connection:
            for sql, values in statements:
                await connection.execute(sql, *values)


class OnSQLite:
    """One connection that stays open, in the same mode as this package's, and one hop to its thread for a question."""

    def __init__(self, connection: aiosqlite.Connection) -> None:
        self.connection = connection

    async def row(self, sql: str, *values: Any) -> Row | None:
        found: Any = await self.connection.execute_fetchall(*_numbered(sql, values))
        return found[0] if found else None

    async def write(self, *statements: tuple[str, tuple[Any, ...]]) -> None:
        for sql, values in statements:
            await self.connection.execute_fetchall(*_numbered(sql, values))


_TEXTS: dict[str, tuple[str, list[int]]] = {}


def _numbered(sql: str, values: tuple[Any, ...]) -> tuple[str, list[Any]]:
    """SQLite's driver knows no $1: a question mark for each, written once for each statement."""
    if sql not in _TEXTS:
        order = [int(number) - 1 for number in re.findall(r"\$(\d+)", sql)]
        _TEXTS[sql] = (re.sub(r"\$\d+", "?", sql), order)
    text, order = _TEXTS[sql]
    return text, [values[index] for index in order]


@contextlib.asynccontextmanager
async def asking(settings: Settings) -> AsyncIterator[Questions]:
    if settings.is_sqlite:
        async with aiosqlite.connect(settings.file, isolation_level=None) as connection:
            connection.row_factory = aiosqlite.Row
            for pragma in ("foreign_keys = ON", "journal_mode = WAL"):
                await connection.execute_fetchall(f"PRAGMA {pragma}")
            yield OnSQLite(connection)
        return
    pool = asyncpg.create_pool(settings.database, min_size=1, max_size=settings.pool)
    async with pool:
        yield OnPostgreSQL(pool)
