"""The gateway to one database: every statement and transaction passes here."""

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from databases import Database
from databases.core import Connection
from databases.interfaces import ConnectionBackend

from ..core.concurrency import PerLoop, run_to_completion
from ..core.exceptions import ImproperlyConfigured
from .commit_hooks import CommitHooks
from .connections import Connections, KeptPostgreSQLConnections, PoolConnections, SQLiteConnections
from .drivers import AsyncpgDriver, Driver, MySQLDriver, SQLiteDriver, Transaction
from .errors import is_deadlock, translate, translate_errors
from .statements import PreparedStatement, Row, Statement, get_dialect

logger = logging.getLogger("starlette_auth")
DRIVERS: dict[str, type[Driver]] = {
    "sqlite": SQLiteDriver,
    "sqlite+aiosqlite": SQLiteDriver,
    "postgres": AsyncpgDriver,
    "postgresql": AsyncpgDriver,
    "postgresql+asyncpg": AsyncpgDriver,
    "mysql": MySQLDriver,
    "mysql+aiomysql": MySQLDriver,
    "mysql+asyncmy": MySQLDriver,
}
R = TypeVar("R")
Query = Statement | sa.ClauseElement


class Gateway(CommitHooks):
    """Runs statements and transactions on one database, on the task's connection or on one acquired per statement."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        driver = DRIVERS.get(database.url.scheme)
        if driver is None:
            raise ImproperlyConfigured(
                f"{database.url.scheme}:// is not supported. Use one of {', '.join(f'{name}://' for name in DRIVERS)}."
            )
        self.database = database
        self.driver = driver()
        self.dialect = self.driver.dialect
        get_dialect(self.dialect)  # imported at start, so that the first request does not wait for it
        in_memory = self.dialect == "sqlite" and database.url.database in ("", ":memory:")
        if in_memory and not database._force_rollback:
            raise ImproperlyConfigured(
                "`databases` opens a new, empty in-memory SQLite database for each query. Use a file instead."
            )
        is_plain_file = not in_memory and not database.url.options
        # Opening a SQLite connection takes as long as ten queries, so connections to a plain file are kept open.
        self._keeps_sqlite = self.dialect == "sqlite" and is_plain_file and not database._force_rollback
        self.connections = 0  # the number of PostgreSQL connections to keep open
        self._connections: PerLoop[Connections] = PerLoop(self._make_connections)
        self._borrowed: dict[asyncio.Task[Any] | None, ConnectionBackend] = {}
        self._inserts: dict[tuple[sa.Table, tuple[str, ...]], Statement] = {}

    @classmethod
    def of(cls, database: Database) -> "Gateway":
        """Returns the gateway of a database: one object per database, because the write lock must be shared."""
        gateway: Gateway | None = vars(database).get("_starlette_auth")
        if gateway is None:
            gateway = vars(database)["_starlette_auth"] = cls(database)
        return gateway

    def keep_connections(self, connections: int) -> None:
        """Keeps up to `connections` PostgreSQL connections open. Of several calls the largest number counts.

        SQLite connections are always kept.
        """
        if connections < 0 or (connections and self.dialect == "mysql"):
            raise ImproperlyConfigured("connections must not be negative, and MySQL does not support it. Leave it out.")
        if self.dialect == "postgresql":
            if connections and not self.connections:
                self._connections = PerLoop(self._make_connections)
            self.connections = max(self.connections, connections)

    async def fetch_one(self, query: Query, **values: Any) -> Row | None:
        prepared = self._prepared(query)
        rows = await self._run(self.driver.fetch, prepared, values)
        return prepared.row(rows[0]) if rows else None

    async def fetch_all(self, query: Query, **values: Any) -> list[Row]:
        prepared = self._prepared(query)
        return [prepared.row(row) for row in await self._run(self.driver.fetch, prepared, values)]

    async def execute(self, query: Query, **values: Any) -> int:
        """Returns the number of matched rows. On every database, 0 means that no row matched."""
        statement = query if isinstance(query, Statement) else Statement(query)
        row_count = await self._write(self.driver.execute, self._prepared(statement), values)
        if row_count or self.dialect != "mysql" or not isinstance(statement.expression, sa.Update):
            return row_count
        # MySQL counts only changed rows. A row that already contained these values matched as well.
        return len(await self._write(self.driver.fetch, self._prepared(statement.select_matching), values))

    async def insert(self, table: sa.Table, **values: Any) -> Any:
        """Inserts a row and returns its primary key, as given in `values` or as generated by the database."""
        key = next(iter(table.primary_key.columns))
        columns = (table, tuple(values))
        if columns not in self._inserts:
            expression = sa.insert(table).values({name: sa.bindparam(name) for name in values}).inline()
            returns_key = key.name not in values and self.dialect != "mysql"
            self._inserts[columns] = Statement(expression.returning(key) if returns_key else expression)
        generated_key = await self._write(self.driver.insert, self._prepared(self._inserts[columns]), values)
        return values.get(key.name, generated_key)

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """Runs the block in a transaction, or in a savepoint if this task is in a transaction already.

        `Database.transaction()` never returns its connection to the pool if COMMIT fails or the task is cancelled at
        the wrong moment. This method always returns it.
        """
        self._require_connected()
        async with self._committing(), self._transaction():
            yield

    async def run_in_transaction(self, work: Callable[[], Awaitable[R]]) -> R:
        """Returns the result of `work`, which runs in a transaction. Repeats it after a deadlock.

        Inside `atomic()`, `work` is part of the outer transaction and is not repeated.
        """
        while True:
            starts_transaction = not self.is_in_transaction
            try:
                async with self.atomic():
                    return await work()
            except Exception as error:
                if not (starts_transaction and is_deadlock(error)):
                    raise
                await asyncio.sleep(random.uniform(0.001, 0.05))  # noqa: S311  not a secret

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            connection = self._current_connection()
            starts_transaction = connection is None or not self.driver.in_transaction(connection.raw_connection)
            # On SQLite, a task in a transaction must not wait for the write lock: its holder may wait for this task.
            if self.database._global_connection is not None or (starts_transaction and self.dialect == "sqlite"):
                await stack.enter_async_context(self._connections.get().write_lock)
            if connection is None:
                with translate_errors():
                    connection = await stack.enter_async_context(
                        self._writer_connection() if self._keeps_sqlite else self._pool_connection()
                    )
            transaction = self.driver.transaction(connection.raw_connection)
            if starts_transaction:
                stack.enter_context(_savepoints_only(connection))
            try:
                with translate_errors():
                    await self._run_uncancelled(connection, transaction.start)
                yield
                with translate_errors():
                    await self._run_uncancelled(connection, transaction.commit)
            except BaseException:
                await self._rollback(connection, transaction)
                raise

    @contextlib.asynccontextmanager
    async def single_connection(self) -> AsyncIterator[None]:
        """Runs all queries of the block on one connection. A transaction inside the block uses a separate one."""
        task = asyncio.current_task()
        if self._keeps_sqlite or self.connections or task in self._borrowed or self._current_connection() is not None:
            yield
            return
        self._require_connected()
        connection = self.database._backend.connection()
        with translate_errors():
            await connection.acquire()
        self._borrowed[task] = connection
        try:
            yield
        finally:
            del self._borrowed[task]
            with translate_errors():
                await connection.release()

    async def close(self) -> None:
        """Closes the kept connections of this event loop. Call it before the database disconnects."""
        await self._connections.get().close()

    def _make_connections(self) -> Connections:
        if self._keeps_sqlite:
            return SQLiteConnections(self.database)
        if self.connections:
            return KeptPostgreSQLConnections(self.database, lambda: self.connections)
        return PoolConnections(self.database)

    def _prepared(self, query: Query) -> PreparedStatement:
        statement = query if isinstance(query, Statement) else Statement(query)
        return statement.by_dialect.get(self.dialect) or statement.prepared(self.dialect)

    async def _write(
        self, operation: Callable[[Any, str, Any], Awaitable[R]], prepared: PreparedStatement, values: dict[str, Any]
    ) -> R:
        """Retries a write that the database aborted as a deadlock victim; an aborted statement has changed nothing."""
        while True:
            has_connection = self._current_connection() is not None
            try:
                return await self._run(operation, prepared, values, write=True)
            except Exception as error:
                if has_connection or not is_deadlock(error):
                    raise
                await asyncio.sleep(random.uniform(0.001, 0.02))  # noqa: S311  not a secret

    async def _run(
        self,
        operation: Callable[[Any, str, Any], Awaitable[R]],
        prepared: PreparedStatement,
        values: dict[str, Any],
        *,
        write: bool = False,
    ) -> R:
        arguments = prepared.bind(values)
        self._require_connected()
        try:
            current = self._current_connection()
            if current is not None:
                return await self._run_on(current, operation, prepared.sql, arguments, write=write)
            borrowed = self._borrowed.get(asyncio.current_task()) if self._borrowed else None
            if borrowed is not None:
                return await operation(borrowed.raw_connection, prepared.sql, arguments)
            connections = self._connections.get()
            connection = await connections.acquire(write=write, durable=prepared.durable)
            try:
                return await operation(connection.raw_connection, prepared.sql, arguments)
            finally:
                await connections.release(connection, write=write)
        except Exception as error:
            translate(error)

    async def _run_on(
        self,
        connection: Connection,
        operation: Callable[[Any, str, Any], Awaitable[R]],
        sql: str,
        arguments: Any,
        *,
        write: bool,
    ) -> R:
        """Runs a statement on the connection that the task already holds."""
        # With force_rollback all tasks share one connection. A write must not become part of another task's savepoint.
        is_shared = write and connection is self.database._global_connection
        write_lock = self._connections.get().write_lock if is_shared else contextlib.nullcontext()
        async with write_lock, connection._query_lock:
            return await operation(connection.raw_connection, sql, arguments)

    def _current_connection(self) -> Connection | None:
        """Returns the connection that this task holds through `atomic()` or the application's use of `database`."""
        database, task = self.database, asyncio.current_task()
        connection = database._global_connection or (database._connection_map.get(task) if task else None)
        return connection if connection is not None and connection._connection_counter else None

    @contextlib.asynccontextmanager
    async def _pool_connection(self) -> AsyncIterator[Connection]:
        """Acquires a connection of the pool, and always returns it, even if the task is cancelled.

        It is never a kept connection: the application may run `SET ROLE` on it, for example, and only the pool resets it.
        """
        self.database._connection = None
        connection = self.database.connection()
        await connection.__aenter__()
        try:
            yield connection
        finally:
            try:
                connection._connection_counter = 1
                await connection.__aexit__()
            finally:
                # If __aexit__ was cancelled, this connection would fail the task's next query with an AssertionError.
                self.database._connection = None

    @contextlib.asynccontextmanager
    async def _writer_connection(self) -> AsyncIterator[Connection]:
        """Provides the kept SQLite connection for writing, also to the task's direct use of `database`."""
        writer = cast(SQLiteConnections, self._connections.get()).writer
        connection: Connection = await writer.open()
        self.database._connection = connection
        try:
            yield connection
        finally:
            self.database._connection = None
            connection._connection_counter = 1
            if self.driver.in_transaction(connection.raw_connection):
                await run_to_completion(writer.close())

    async def _run_uncancelled(self, connection: Connection, operation: Callable[[], Awaitable[None]]) -> None:
        """Completes BEGIN, COMMIT or ROLLBACK even if the task is cancelled, so that the driver knows its state."""

        async def run_locked() -> None:
            async with connection._query_lock:
                await operation()

        await run_to_completion(run_locked())

    async def _rollback(self, connection: Connection, transaction: Transaction) -> None:
        try:
            await self._run_uncancelled(connection, transaction.rollback)
        except Exception as error:
            # There was no transaction, or the connection is lost. The caller raises the original error.
            logger.debug("ROLLBACK failed: %s", type(error).__name__)

    def _require_connected(self) -> None:
        if not self.database.is_connected:
            raise ImproperlyConfigured(
                "The database is not connected. Pass lifespan=lifespan(auth) to your app (in tests, use "
                "`with TestClient(app) as client`), or await database.connect()."
            )


@contextlib.contextmanager
def _savepoints_only(connection: Connection) -> Iterator[None]:
    """Makes each `database.transaction()` inside `atomic()` a savepoint: on MySQL it would commit the outer one."""
    marker: Any = object()
    stack = connection._transaction_stack
    stack.append(marker)
    try:
        yield
    finally:
        del stack[stack.index(marker) :]
