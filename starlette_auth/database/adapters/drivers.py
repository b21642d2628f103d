"""How each driver runs statements and transactions on its own connections."""

import asyncio
import contextlib
import importlib
import itertools
from collections.abc import Awaitable
from typing import Any, Protocol

from ...core.concurrency import run_to_completion
from ...core.exceptions import ImproperlyConfigured

#: What an upsert on MySQL passes to LAST_INSERT_ID() for a row that it leaves as it is. No key of a row is as large.
UNCHANGED = 2**62 + 0x5A17
SETTLE_SECONDS = 10.0


class RawConnection(Protocol):
    """An object that holds a connection of the database driver."""

    @property
    def raw_connection(self) -> Any: ...


class Driver(Protocol):
    """Runs statements on connections of one database driver. `raw` is such a connection; rows are tuples."""

    dialect: str

    def fetch(self, raw: Any, sql: str, arguments: Any) -> Awaitable[list[Any]]: ...

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        """Returns the number of matched rows. On MySQL, an UPDATE counts only the rows that it changed."""
        ...

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        """Returns the key that the database generated."""
        ...

    def in_transaction(self, raw: Any) -> bool: ...

    def transaction(self, raw: Any) -> "Transaction":
        """Returns a transaction that has not started yet. Inside a transaction it is a savepoint."""
        ...

    def is_closed(self, raw: Any) -> bool:
        """Returns whether the driver knows that the connection was closed."""
        ...

    def terminate(self, raw: Any) -> None:
        """Closes a connection without a message to the server. Its pool does not use it again."""
        ...

    async def expire_connections(self, backend: Any) -> None:
        """Replaces all connections in the pool of a `DatabaseBackend`, each when it is returned."""
        ...


class Transaction(Protocol):
    async def start(self) -> None: ...

    async def commit(self) -> None: ...

    async def rollback(self) -> None: ...


class SQLiteDriver:
    dialect = "sqlite"

    def __init__(self) -> None:
        sqlite = importlib.import_module("sqlite3")  # not needed for other databases
        if sqlite.sqlite_version_info < (3, 35):
            raise ImproperlyConfigured(
                f"SQLite {sqlite.sqlite_version} does not support RETURNING. Use a Python with SQLite 3.35 or newer."
            )

    def fetch(self, raw: Any, sql: str, arguments: Any) -> Awaitable[list[Any]]:
        # One call in the connection's thread. execute, fetchall and close would be three calls.
        rows: Awaitable[list[Any]] = raw.execute_fetchall(sql, arguments)
        return rows

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        return len(await raw.execute_fetchall(sql, arguments))  # UPDATE and DELETE end with RETURNING

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        rows = await raw.execute_fetchall(sql, arguments)
        return rows[0][0]

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.in_transaction)

    def transaction(self, raw: Any) -> Transaction:
        # After a plain BEGIN, a transaction that reads first and writes later can fail with "database is locked".
        return SQLTransaction(self, raw, "BEGIN IMMEDIATE")

    def is_closed(self, raw: Any) -> bool:
        return False

    def terminate(self, raw: Any) -> None:
        """Does nothing: `databases` has no pool of SQLite connections."""

    async def expire_connections(self, backend: Any) -> None:
        """Does nothing: `databases` has no pool of SQLite connections."""


class AsyncpgDriver:
    dialect = "postgresql"

    async def fetch(self, raw: Any, sql: str, arguments: Any) -> list[Any]:
        try:
            rows: list[Any] = await raw.fetch(sql, *arguments)
        except asyncio.CancelledError:
            await run_to_completion(self._settle(raw))
            raise
        return rows

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        try:
            status = (await raw.execute(sql, *arguments)).rsplit(" ", 1)[-1]
        except asyncio.CancelledError:
            await run_to_completion(self._settle(raw))
            raise
        return int(status) if status.isdigit() else 0

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        try:
            return await raw.fetchval(sql, *arguments)
        except asyncio.CancelledError:
            await run_to_completion(self._settle(raw))
            raise

    async def _settle(self, raw: Any) -> None:
        """Waits until the server has ended a cancelled statement.

        In asyncpg before 0.32, if a second statement is cancelled while it waits for that, all later statements of the
        connection raise CancelledError, in whatever task.
        """
        with contextlib.suppress(Exception):  # the connection is lost, or its transaction is aborted
            await raw.execute("SELECT 1", timeout=SETTLE_SECONDS)

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.is_in_transaction())

    def transaction(self, raw: Any) -> Transaction:
        return AsyncpgTransaction(raw)

    def is_closed(self, raw: Any) -> bool:
        return bool(raw.is_closed())

    def terminate(self, raw: Any) -> None:
        raw.terminate()

    async def expire_connections(self, backend: Any) -> None:
        await backend._pool.expire_connections()


class MySQLDriver:
    """Supports asyncmy and aiomysql."""

    dialect = "mysql"

    async def fetch(self, raw: Any, sql: str, arguments: Any) -> list[Any]:
        async with raw.cursor() as cursor:
            await cursor.execute(sql, arguments)
            return list(await cursor.fetchall())

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        async with raw.cursor() as cursor:
            await cursor.execute(sql, arguments)
            # With CLIENT_FOUND_ROWS, which SQLAlchemy sets, an upsert also counts a row that it leaves as it is.
            return 0 if cursor.lastrowid == UNCHANGED else int(cursor.rowcount)

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        async with raw.cursor() as cursor:
            await cursor.execute(sql, arguments)
            return cursor.lastrowid

    def in_transaction(self, raw: Any) -> bool:
        return bool(raw.get_transaction_status())

    def transaction(self, raw: Any) -> Transaction:
        return SQLTransaction(self, raw, "START TRANSACTION")

    def is_closed(self, raw: Any) -> bool:
        # asyncmy has `connected`, aiomysql has `closed` and a stream, which ends when the server closes the connection.
        connected, reader = getattr(raw, "connected", None), getattr(raw, "_reader", None)
        if isinstance(connected, bool):
            return not connected
        return bool(getattr(raw, "closed", False)) or (reader is not None and bool(reader.at_eof()))

    def terminate(self, raw: Any) -> None:
        raw.close()

    async def expire_connections(self, backend: Any) -> None:
        await backend._pool.clear()


class PsycopgDriver:
    """Supports psycopg 3, for engines of SQLAlchemy. Its raw cursor takes PostgreSQL's own placeholders, as asyncpg."""

    dialect = "postgresql"

    def __init__(self) -> None:
        self._cursor: Any = importlib.import_module("psycopg").AsyncRawCursor  # not needed for other databases

    async def fetch(self, raw: Any, sql: str, arguments: Any) -> list[Any]:
        async with self._cursor(raw) as cursor:
            await cursor.execute(sql, arguments or None)
            return list(await cursor.fetchall())

    async def execute(self, raw: Any, sql: str, arguments: Any) -> int:
        async with self._cursor(raw) as cursor:
            await cursor.execute(sql, arguments or None)
            return max(0, int(cursor.rowcount))

    async def insert(self, raw: Any, sql: str, arguments: Any) -> Any:
        async with self._cursor(raw) as cursor:
            await cursor.execute(sql, arguments or None)
            row = await cursor.fetchone() if cursor.description else None
            return row[0] if row else None

    def in_transaction(self, raw: Any) -> bool:
        return int(raw.info.transaction_status) not in (0, 4)  # idle, unknown

    def transaction(self, raw: Any) -> "Transaction":
        return PsycopgTransaction(self, raw, "BEGIN")

    def is_closed(self, raw: Any) -> bool:
        return bool(raw.closed)

    def terminate(self, raw: Any) -> None:
        raw.pgconn.finish()

    async def expire_connections(self, backend: Any) -> None:
        """Does nothing: `databases` does not support psycopg."""


class SQLTransaction:
    """A transaction or savepoint by SQL statements, for drivers without transaction objects."""

    def __init__(self, driver: Driver, raw: Any, begin: str) -> None:
        self._driver = driver
        self._raw = raw
        self._begin, self._commit, self._rollback = begin, "COMMIT", ["ROLLBACK"]
        if driver.in_transaction(raw):
            # Names are unique, because MySQL deletes a savepoint when another one gets the same name.
            name = f"starlette_auth_{next(_savepoint_numbers)}"
            self._begin, self._commit = f"SAVEPOINT {name}", f"RELEASE SAVEPOINT {name}"
            self._rollback = [f"ROLLBACK TO SAVEPOINT {name}", self._commit]

    async def start(self) -> None:
        await self._driver.execute(self._raw, self._begin, {})

    async def commit(self) -> None:
        await self._driver.execute(self._raw, self._commit, {})

    async def rollback(self) -> None:
        for statement in self._rollback:
            await self._driver.execute(self._raw, statement, {})


class PsycopgTransaction(SQLTransaction):
    async def commit(self) -> None:
        await self._driver.execute(self._raw, "SELECT 1", ())  # fails after an error, as in AsyncpgTransaction
        await super().commit()


class AsyncpgTransaction:
    """A transaction or savepoint of asyncpg.

    asyncpg refuses to open a transaction inside one that was started by an SQL statement. The application may open one
    inside `atomic()`, so both must be transactions of asyncpg.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._transaction = raw.transaction()

    async def start(self) -> None:
        await self._transaction.start()

    async def commit(self) -> None:
        # If an error was suppressed earlier, PostgreSQL answers COMMIT with a silent rollback. This statement fails then.
        await self._raw.execute("SELECT 1")
        await self._transaction.commit()

    async def rollback(self) -> None:
        await self._transaction.rollback()


_savepoint_numbers = itertools.count()
