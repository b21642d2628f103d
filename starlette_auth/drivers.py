"""How asyncpg, aiosqlite and the MySQL drivers are asked, on their own connections."""

from typing import Any, Protocol


class Driver(Protocol):
    """One way of asking. `raw` is the driver's own connection; rows come as tuples."""

    dialect: str
    begin: str

    async def fetch(self, raw: Any, sql: str, arguments: Any) -> list[Any]: ...

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        """How many rows were hit; on MySQL an UPDATE counts those that it changed."""
        ...

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        """The key that the database chose."""
        ...

    def in_transaction(self, raw: Any) -> bool: ...


class Aiosqlite:
    dialect = "sqlite"
    # Not BEGIN: a transaction that reads first and writes later finds the database locked, and may not wait.
    begin = "BEGIN IMMEDIATE"

    async def fetch(self, raw: Any, sql: str, arguments: Any) -> list[Any]:
        # One hop to the connection's thread, where execute, fetchall and close would make three.
        return list(await raw.execute_fetchall(sql, arguments))

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        async with raw.execute(sql, arguments) as cursor:
            return int(cursor.rowcount)

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        async with raw.execute(sql, arguments) as cursor:
            return cursor.lastrowid

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.in_transaction)


class Asyncpg:
    dialect = "postgresql"
    begin = "BEGIN"

    async def fetch(self, raw: Any, sql: str, arguments: Any) -> list[Any]:
        return list(await raw.fetch(sql, *arguments))

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        status = (await raw.execute(sql, *arguments)).rsplit(" ", 1)[-1]
        return int(status) if status.isdigit() else 0

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        return await raw.fetchval(sql, *arguments)

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.is_in_transaction())


class Mysql:
    """asyncmy and aiomysql."""

    dialect = "mysql"
    begin = "START TRANSACTION"

    async def fetch(self, raw: Any, sql: str, arguments: Any) -> list[Any]:
        async with raw.cursor() as cursor:
            await cursor.execute(sql, arguments)
            return list(await cursor.fetchall())

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        async with raw.cursor() as cursor:
            await cursor.execute(sql, arguments)
            return int(cursor.rowcount)

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        async with raw.cursor() as cursor:
            await cursor.execute(sql, arguments)
            return cursor.lastrowid

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.get_transaction_status())


def is_integrity_error(error: Exception) -> bool:
    """Whether a driver reports a broken constraint: class 23 of SQLSTATE, or the name that PEP 249 gives it."""
    return str(getattr(error, "sqlstate", "")).startswith("23") or type(error).__name__ == "IntegrityError"
