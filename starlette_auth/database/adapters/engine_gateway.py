"""The gateway to an application's own `AsyncEngine` of SQLAlchemy."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from sqlalchemy.pool import SingletonThreadPool, StaticPool

from ...core.concurrency import PerLoop, run_to_completion
from ...core.exceptions import ImproperlyConfigured
from ..errors import breaks_connection, is_read_only, translate, translate_errors
from ..statements import PreparedStatement, get_dialect
from .connections import Connections, KeptConnections, SQLiteConnections
from .drivers import AsyncpgDriver, Driver, MySQLDriver, PsycopgDriver, RawConnection, SQLiteDriver, Transaction
from .engine import Engine
from .engine_connections import EngineConnection, EnginePool, pool_size
from .engine_sharing import SharedTransactions
from .engine_transactions import OwnTransaction, TaskTransaction
from .queries import Operation, Queries

R = TypeVar("R")
DRIVERS: dict[str, type[Driver]] = {
    "aiosqlite": SQLiteDriver,
    "asyncpg": AsyncpgDriver,
    "psycopg": PsycopgDriver,
    "psycopg_async": PsycopgDriver,
    "asyncmy": MySQLDriver,
    "aiomysql": MySQLDriver,
}
DEFAULT_CONNECTIONS = 2


class EngineGateway(SharedTransactions, Queries):
    """Runs prepared statements on connections of the engine, past SQLAlchemy's execution of statements.

    A connection that is taken from the pool for one statement would cost more time than the statement. Therefore some
    are kept.
    """

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self.database = engine
        self.driver = _find_driver(engine)
        self.dialect = self.driver.dialect
        get_dialect(self.dialect)  # imported at start, so that the first request does not wait for it
        self.connections: int | None = None  # the number of connections to keep; None: the default
        self._connections: PerLoop[Connections] = PerLoop(self._make_connections)

    @property
    def url(self) -> str:
        return self.database.url.render_as_string(hide_password=False)

    @property
    def first_schema(self) -> str:
        return "public"  # the options of the connections are not known; Tables(schema=…) names another schema

    @property
    def is_connected(self) -> bool:
        return True

    async def connect(self) -> None:
        """Does nothing: the engine connects when a connection is needed."""

    async def disconnect(self) -> None:
        await self.database.dispose()

    async def close(self) -> None:
        await self._connections.get().close()

    def keep_connections(self, connections: int | None) -> None:
        if connections is not None and connections < 0:
            raise ImproperlyConfigured("connections must not be negative. Leave it out.")
        if connections is not None:
            self.connections = max(self.connections or 0, connections)

    @contextlib.asynccontextmanager
    async def single_connection(self) -> AsyncIterator[None]:
        yield  # a kept connection costs nothing, so that nothing is saved

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """Runs the block in a transaction, or in a savepoint inside a transaction of this task."""
        async with self._committing(), self._transaction():
            yield

    def _make_connections(self) -> Connections:
        if self.dialect == "sqlite":
            return SQLiteConnections(lambda pragmas: EngineConnection(self.database, self.driver, pragmas))
        return KeptConnections(
            EnginePool(self.database), lambda: EngineConnection(self.database, self.driver), self._number_to_keep
        )

    def _number_to_keep(self) -> int:
        """Returns how many connections are kept. At least one connection of the pool is for the application."""
        number = DEFAULT_CONNECTIONS if self.connections is None else self.connections
        size = pool_size(self.database)
        return number if size is None else min(number, size - 1)

    def _holds_connection(self) -> bool:
        return asyncio.current_task() in self._current

    def _is_inside_transaction(self) -> bool:
        return asyncio.current_task() in self._current

    async def _run(
        self, operation: Operation[R], prepared: PreparedStatement, values: dict[str, Any], *, write: bool = False
    ) -> R:
        arguments = prepared.bind(values)
        try:
            current = self._current.get(asyncio.current_task()) if self._current else None
            if current is not None:
                return await self._run_in(current, operation, prepared.sql, arguments, write=write)
            try:
                return await self._run_alone(operation, prepared, arguments, write=write)
            except Exception as error:
                # The connection was lost while it was kept. A write may have been executed before.
                if write or not breaks_connection(error):
                    raise
            return await self._run_alone(operation, prepared, arguments, write=write)
        except Exception as error:
            translate(error)

    async def _run_alone(
        self, operation: Operation[R], prepared: PreparedStatement, arguments: Any, *, write: bool
    ) -> R:
        if write:
            await self._require_free_file()
        connections = self._connections.get()
        connection = await connections.acquire(write=write, durable=prepared.durable)
        try:
            return await operation(connection.raw_connection, prepared.sql, arguments)
        except BaseException as error:
            if self._is_useless_after(error):
                await self._discard(connection, error)
            raise
        finally:
            await connections.release(connection, write=write)

    async def _run_in(
        self, current: TaskTransaction, operation: Operation[R], sql: str, arguments: Any, *, write: bool
    ) -> R:
        """Runs a statement in the transaction of this task."""
        current.failure.require_none()
        try:
            return await operation(await current.begin(write=write), sql, arguments)
        except BaseException as error:
            if self._is_useless_after(error):
                await self._abandon(current)
            elif current.raw_connection is not None:
                self._note_failure(current.raw_connection, error, current.undoing_savepoint())
            raise

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            self._require_no_failure()
            current = self._current.get(asyncio.current_task())
            if current is None:
                current = await stack.enter_async_context(self._own_transaction())
            transaction: Transaction | None = None
            try:
                with translate_errors():
                    transaction = self.driver.transaction(await current.begin(write=True))
                    await run_to_completion(transaction.start())
                yield
                self._require_no_failure()
                with translate_errors():
                    await run_to_completion(transaction.commit())
            except BaseException as error:
                if transaction is not None:
                    with contextlib.suppress(Exception):  # there was no transaction, or the connection is lost
                        await run_to_completion(transaction.rollback())
                self.allow_cleanup()
                if breaks_connection(error.__cause__ or error):
                    await self._abandon(current)
                raise

    @contextlib.asynccontextmanager
    async def _own_transaction(self) -> AsyncIterator[TaskTransaction]:
        """Acquires a connection for a transaction of this task."""
        task, connections = asyncio.current_task(), self._connections.get()
        await self._require_free_file()
        async with connections.write_lock if self.dialect == "sqlite" else contextlib.nullcontext():
            with translate_errors():
                connection = await connections.acquire(write=True, durable=True, for_transaction=True)
            current = self._current[task] = OwnTransaction(connection)
            try:
                yield current
            finally:
                del self._current[task]
                if current.is_useless or not self._is_idle(connection.raw_connection):
                    await self._discard(connection)
                await connections.release(connection, write=True)

    def _is_idle(self, raw: Any) -> bool:
        """Returns whether a connection is open and outside of a transaction."""
        try:
            return not (self.driver.is_closed(raw) or self.driver.in_transaction(raw))
        except Exception:  # asyncpg has forgotten a closed connection
            return False

    async def _abandon(self, current: TaskTransaction) -> None:
        """Makes the rest of a transaction fail whose connection is lost."""
        current.failure.note_lost()
        with contextlib.suppress(Exception):  # it is closed
            self.driver.terminate(current.raw_connection)
        await run_to_completion(current.invalidate())

    def _is_useless_after(self, error: BaseException) -> bool:
        """Returns whether a connection cannot be used after an error in a statement."""
        # The answer to a cancelled statement is still under way, and the drivers for MySQL do not wait for it.
        return breaks_connection(error) or (self.dialect == "mysql" and isinstance(error, asyncio.CancelledError))

    async def _discard(self, connection: RawConnection, error: BaseException | None = None) -> None:
        with contextlib.suppress(Exception):  # it is closed
            self.driver.terminate(connection.raw_connection)
        is_replaced = error is not None and is_read_only(error)  # another server may have replaced this one
        self._connections.get().discard(connection, with_others=is_replaced)
        if is_replaced:
            with contextlib.suppress(Exception):
                await self.database.dispose()


def _find_driver(engine: Engine) -> Driver:
    """Returns the driver of an engine. Raises ImproperlyConfigured if it or its pool is not supported."""
    name = engine.dialect.driver
    if name not in DRIVERS:
        raise ImproperlyConfigured(
            f"An engine with the driver {name} is not supported. Use create_async_engine() with one of "
            f"{', '.join(sorted(DRIVERS.keys() - {'psycopg_async'}))}."
        )
    file = engine.url.database or ":memory:"
    in_memory = name == "aiosqlite" and (":memory:" in file or engine.url.query.get("mode") == "memory")
    if in_memory or isinstance(engine.sync_engine.pool, StaticPool | SingletonThreadPool):
        raise ImproperlyConfigured(
            "All tasks would share one connection of this engine, or each connection would have its own in-memory SQLite "
            "database. Use a file instead, and another pool than StaticPool."
        )
    if None in (engine.sync_engine.get_execution_options().get("schema_translate_map") or ()):
        raise ImproperlyConfigured(
            "The schema_translate_map of this engine does not apply to the statements of this package. Pass an engine "
            "without it, and name the schema with Tables(schema=…)."
        )
    return DRIVERS[name]()
