"""How each driver runs statements and transactions on its own connections."""

import importlib
import itertools
from collections.abc import Awaitable
from typing import Any, Protocol

from ..core.exceptions import ImproperlyConfigured


class Driver(Protocol):
    """One way of asking. `raw` is the driver's own connection; rows come as tuples."""

    dialect: str

    def fetch(self, raw: Any, sql: str, arguments: Any) -> Awaitable[list[Any]]: ...

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        """How many rows were hit; on MySQL an UPDATE counts those that it changed."""
        ...

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        """The key that the database chose."""
        ...

    def in_transaction(self, raw: Any) -> bool: ...

    def transaction(self, raw: Any) -> "Transaction":
        """One that was not begun yet; a savepoint when there is a transaction already."""
        ...


class Transaction(Protocol):
    async def start(self) -> None: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class SQLiteDriver:
    dialect = "sqlite"

    def __init__(self) -> None:
        sqlite = importlib.import_module("sqlite3")  # by name: who has another database does without
        if sqlite.sqlite_version_info < (3, 35):
            raise ImproperlyConfigured(
                f"SQLite {sqlite.sqlite_version} knows no RETURNING. Use a Python with SQLite 3.35 or newer."
            )

    def fetch(self, raw: Any, sql: str, arguments: Any) -> Awaitable[list[Any]]:
        # One hop to the connection's thread, where execute, fetchall and close would make three.
        rows: Awaitable[list[Any]] = raw.execute_fetchall(sql, arguments)
        return rows

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        return len(await raw.execute_fetchall(sql, arguments))  # what changes rows says RETURNING at its end

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        rows = await raw.execute_fetchall(sql, arguments)
        return rows[0][0]

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.in_transaction)

    def transaction(self, raw: Any) -> Transaction:
        # Not BEGIN: a transaction that reads first and writes later finds the database locked, and may not wait.
        return SQLTransaction(self, raw, "BEGIN IMMEDIATE")


class AsyncpgDriver:
    dialect = "postgresql"

    def fetch(self, raw: Any, sql: str, arguments: Any) -> Awaitable[list[Any]]:
        rows: Awaitable[list[Any]] = raw.fetch(sql, *arguments)
        return rows

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        status = (await raw.execute(sql, *arguments)).rsplit(" ", 1)[-1]
        return int(status) if status.isdigit() else 0

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        return await raw.fetchval(sql, *arguments)

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.is_in_transaction())

    def transaction(self, raw: Any) -> Transaction:
        return AsyncpgTransaction(raw)


class MySQLDriver:
    """asyncmy and aiomysql."""

    dialect = "mysql"

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

    def transaction(self, raw: Any) -> Transaction:
        return SQLTransaction(self, raw, "START TRANSACTION")


class SQLTransaction:
    """Plain words, for the drivers that have nothing better."""

    def __init__(self, driver: Driver, raw: Any, begin: str) -> None:
        self._driver = driver
        self._raw = raw
        self._begin, self._commit, self._rollback = begin, "COMMIT", ["ROLLBACK"]
        if driver.in_transaction(raw):
            # Each its own name: MySQL forgets a savepoint when another one is called like it.
            name = f"starlette_auth_{next(_numbers)}"
            self._begin, self._commit = f"SAVEPOINT {name}", f"RELEASE SAVEPOINT {name}"
            self._rollback = [f"ROLLBACK TO SAVEPOINT {name}", self._commit]

    async def start(self) -> None:
        await self._driver.execute(self._raw, self._begin, {})

    async def commit(self) -> None:
        await self._driver.execute(self._raw, self._commit, {})

    async def rollback(self) -> None:
        for word in self._rollback:
            await self._driver.execute(self._raw, word, {})


class AsyncpgTransaction:
    """asyncpg's own: it refuses a transaction of the application inside one that it did not begin."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._transaction = raw.transaction()

    async def start(self) -> None:
        await self._transaction.start()

    async def commit(self) -> None:
        # After an error that somebody swallowed PostgreSQL rolls back at COMMIT and says nothing; to this it says so.
        await self._raw.execute("SELECT 1")
        await self._transaction.commit()

    async def rollback(self) -> None:
        await self._transaction.rollback()


_numbers = itertools.count()
