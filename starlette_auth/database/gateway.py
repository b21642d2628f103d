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
    """One database. Statements run on the connection that the task already holds, else on one of their own."""

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
        get_dialect(self.dialect)  # imported here, and not while the first request waits
        in_memory = self.dialect == "sqlite" and database.url.database in ("", ":memory:")
        if in_memory and not database._force_rollback:
            raise ImproperlyConfigured(
                "A SQLite database in memory is empty again for each query of `databases`. Name a file instead."
            )
        is_plain_file = not in_memory and not database.url.options
        # Opening a SQLite connection costs as much as ten queries, so those of a lane stay open.
        self._keeps = self.dialect == "sqlite" and is_plain_file and not database._force_rollback
        self.connections = 0  # so many, PostgreSQL's stay open too
        self._connections: PerLoop[Connections] = PerLoop(self._make_connections)
        self._borrowed: dict[asyncio.Task[Any] | None, ConnectionBackend] = {}
        self._inserts: dict[tuple[sa.Table, tuple[str, ...]], Statement] = {}

    @classmethod
    def of(cls, database: Database) -> "Gateway":
        """The same gateway for the same database: the writers of one SQLite file must wait for each other."""
        gateway: Gateway | None = vars(database).get("_starlette_auth")
        if gateway is None:
            gateway = vars(database)["_starlette_auth"] = cls(database)
        return gateway

    def keep_connections(self, connections: int) -> None:
        """Keeps up to `connections` PostgreSQL connections open. Of several calls the largest number counts.

        SQLite connections are always kept.
        """
        if connections < 0 or (connections and self.dialect == "mysql"):
            raise ImproperlyConfigured("connections is for PostgreSQL, and not negative. Leave it out.")
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
        """How many rows were hit. 0 means on every database: no row matched."""
        statement = query if isinstance(query, Statement) else Statement(query)
        hit = await self._write(self.driver.execute, self._prepared(statement), values)
        if hit or self.dialect != "mysql" or not isinstance(statement.expression, sa.Update):
            return hit
        # MySQL counts the rows that changed; one that held these values already was hit all the same.
        return len(await self._write(self.driver.fetch, self._prepared(statement.select_matching), values))

    async def insert(self, table: sa.Table, **values: Any) -> Any:
        """The key of the new row: the one given, or the one that the database chose."""
        key = next(iter(table.primary_key.columns))
        shape = (table, tuple(values))
        if shape not in self._inserts:
            expression = sa.insert(table).values({name: sa.bindparam(name) for name in values}).inline()
            chosen = key.name not in values and self.dialect != "mysql"
            self._inserts[shape] = Statement(expression.returning(key) if chosen else expression)
        chosen_key = await self._write(self.driver.insert, self._prepared(self._inserts[shape]), values)
        return values.get(key.name, chosen_key)

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """All or nothing. Inside another transaction of this task, a savepoint of it.

        `Database.transaction()` loses its connection for good when COMMIT fails or the task is cancelled at the
        wrong moment; this one gives it back whatever happens.
        """
        self._require_connected()
        async with self._committing(), self._transaction():
            yield

    async def run_in_transaction(self, work: Callable[[], Awaitable[R]]) -> R:
        """What `work` gives, in a transaction; anew when the database ended it for another's sake (a deadlock).

        Inside a transaction it is part of that, and is not tried again.
        """
        while True:
            begins = not self.is_in_transaction
            try:
                async with self.atomic():
                    return await work()
            except Exception as error:
                if not (begins and is_deadlock(error)):
                    raise
                await asyncio.sleep(random.uniform(0.001, 0.05))  # noqa: S311  no secret

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            held = self._current_connection()
            begins = held is None or not self.driver.in_transaction(held.raw_connection)
            # On SQLite a task in a transaction already must not wait its turn: the one before may be waiting for it.
            if self.database._global_connection is not None or (begins and self.dialect == "sqlite"):
                await stack.enter_async_context(self._connections.get().write_lock)
            if held is None:
                with translate_errors():
                    held = await stack.enter_async_context(
                        self._writer_connection() if self._keeps else self._pool_connection()
                    )
            transaction = self.driver.transaction(held.raw_connection)
            if begins:
                stack.enter_context(_savepoints_only(held))
            try:
                with translate_errors():
                    await self._run_uncancelled(held, transaction.start)
                yield
                with translate_errors():
                    await self._run_uncancelled(held, transaction.commit)
            except BaseException:
                await self._rollback(held, transaction)
                raise

    @contextlib.asynccontextmanager
    async def single_connection(self) -> AsyncIterator[None]:
        """Several questions on one connection of the pool. A transaction in between has one of its own."""
        task = asyncio.current_task()
        if self._keeps or self.connections or task in self._borrowed or self._current_connection() is not None:
            yield
            return
        self._require_connected()
        lent = self.database._backend.connection()
        with translate_errors():
            await lent.acquire()
        self._borrowed[task] = lent
        try:
            yield
        finally:
            del self._borrowed[task]
            with translate_errors():
                await lent.release()

    async def close(self) -> None:
        """Gives back the connections that this event loop keeps. Call it before the database disconnects."""
        await self._connections.get().close()

    def _make_connections(self) -> Connections:
        if self._keeps:
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
        """Once more when the database gave it up for another's sake: it did nothing, and another got through for it."""
        while True:
            is_part = self._current_connection() is not None
            try:
                return await self._run(operation, prepared, values, write=True)
            except Exception as error:
                if is_part or not is_deadlock(error):
                    raise
                await asyncio.sleep(random.uniform(0.001, 0.02))  # noqa: S311  no secret

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
            held = self._current_connection()
            if held is not None:
                return await self._run_on(held, operation, prepared.sql, arguments, write=write)
            shared = self._borrowed.get(asyncio.current_task()) if self._borrowed else None
            if shared is not None:
                return await operation(shared.raw_connection, prepared.sql, arguments)
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
        held: Connection,
        operation: Callable[[Any, str, Any], Awaitable[R]],
        sql: str,
        arguments: Any,
        *,
        write: bool,
    ) -> R:
        """Runs a statement on the connection that the task already has."""
        # Under force_rollback all tasks share one connection. No write may fall into the savepoint of another task.
        is_shared = write and held is self.database._global_connection
        async with self._connections.get().write_lock if is_shared else contextlib.nullcontext(), held._query_lock:
            return await operation(held.raw_connection, sql, arguments)

    def _current_connection(self) -> Connection | None:
        """The connection that this task holds, through us or through the application's own `database`."""
        database, task = self.database, asyncio.current_task()
        connection = database._global_connection or (database._connection_map.get(task) if task else None)
        return connection if connection is not None and connection._connection_counter else None

    @contextlib.asynccontextmanager
    async def _pool_connection(self) -> AsyncIterator[Connection]:
        """A connection of the pool. It goes back even when the application's own use of it was cut short.

        Never one that is kept: what the application says on it, `SET ROLE` for one, only the pool takes back.
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
                # Cancelled in the middle of this, it would answer the task's next question with an assertion.
                self.database._connection = None

    @contextlib.asynccontextmanager
    async def _writer_connection(self) -> AsyncIterator[Connection]:
        """The kept SQLite connection for writing. The task's own use of `database` goes there too meanwhile."""
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

    async def _run_uncancelled(self, connection: Connection, word: Callable[[], Awaitable[None]]) -> None:
        """Never cancelled half-way: a driver would not know then whether there is a transaction."""

        async def say() -> None:
            async with connection._query_lock:
                await word()

        await run_to_completion(say())

    async def _rollback(self, connection: Connection, transaction: Transaction) -> None:
        try:
            await self._run_uncancelled(connection, transaction.rollback)
        except Exception as error:
            # There is nothing to undo, or the connection is dead; what matters is the error that led here.
            logger.debug("ROLLBACK: %s", type(error).__name__)

    def _require_connected(self) -> None:
        if not self.database.is_connected:
            raise ImproperlyConfigured(
                "The database is not connected. Pass lifespan=lifespan(auth) to your app (a test says "
                "`with TestClient(app) as client`), or await database.connect()."
            )


@contextlib.contextmanager
def _savepoints_only(connection: Connection) -> Iterator[None]:
    """Makes each `database.transaction()` on this connection a savepoint; on MySQL it would commit ours otherwise."""
    ours: Any = object()
    stack = connection._transaction_stack
    stack.append(ours)
    try:
        yield
    finally:
        del stack[stack.index(ours) :]
