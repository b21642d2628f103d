"""Transactions and savepoints on the connections of a `Database`."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast

from databases import Database

from ...core.concurrency import PerLoop, keep_cancelled, run_to_completion
from ...core.exceptions import ImproperlyConfigured
from ..errors import Failure, breaks_connection, is_read_only, translate_errors
from .connections import Connections, SQLiteConnections
from .drivers import RawConnection, Transaction
from .transaction_state import TransactionState

logger = logging.getLogger("starlette_auth")
R = TypeVar("R")
Connection = Any  # of `databases`


class DatabasesTransactions(TransactionState):
    """Runs transactions on the connection that the task holds, or on another one."""

    database: Database
    _connections: PerLoop[Connections]
    _keeps_sqlite: bool

    def __init__(self) -> None:
        super().__init__()
        self._failures: dict[asyncio.Task[Any] | None, Failure] = {}

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """Runs the block in a transaction, or in a savepoint inside a transaction of this task.

        If a statement fails and its error is caught inside the block, the later statements and the commit raise
        ImproperlyConfigured. Therefore catch the error outside of a nested `atomic()`.

        `Database.transaction()` never returns its connection to the pool if COMMIT fails or the task is cancelled at
        the wrong moment. This method always returns it.
        """
        self._require_connected()
        async with self._committing():
            with self._recording_failure():  # not while the callbacks run, which may open transactions
                async with self._transaction():
                    yield

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
            self._require_no_failure()
            transaction = self.driver.transaction(connection.raw_connection)
            if starts_transaction:
                stack.enter_context(savepoints_only(connection))
            try:
                with translate_errors():
                    await self._run_uncancelled(connection, transaction.start)
                yield
                self._require_no_failure()
                with translate_errors():
                    await self._run_uncancelled(connection, transaction.commit)
            except BaseException:
                await self._rollback(connection, transaction)
                self.allow_cleanup()
                raise

    async def _discard_useless(self, connection: RawConnection, error: BaseException) -> None:
        """Discards a connection if the error shows that it cannot be used again.

        If the server only reads, another server may have replaced it; then all connections to it are discarded.
        """
        if not breaks_connection(error):
            return
        with contextlib.suppress(Exception):  # it is closed, or has been returned to its pool
            self.driver.terminate(connection.raw_connection)
        self._connections.get().discard(connection, with_others=is_read_only(error))
        if is_read_only(error):
            with contextlib.suppress(Exception):
                await self.driver.expire_connections(self.database._backend)

    def _failure(self) -> Failure | None:
        return self._failures.get(asyncio.current_task()) if self._failures else None

    @contextlib.contextmanager
    def _recording_failure(self) -> Iterator[None]:
        task = asyncio.current_task()
        if task in self._failures:
            yield
            return
        self._failures[task] = Failure()
        try:
            yield
        finally:
            del self._failures[task]

    def _note_failure_on(self, connection: Connection, error: BaseException) -> None:
        depth = len(connection._transaction_stack)
        # The application may end its own transaction inside `atomic()`.
        self._note_failure(connection.raw_connection, error, lambda: len(connection._transaction_stack) < depth)

    def _holds_connection(self) -> bool:
        return self._current_connection() is not None

    def _is_inside_transaction(self) -> bool:
        connection = self._current_connection()
        return self.is_in_transaction or (
            connection is not None and self.driver.in_transaction(connection.raw_connection)
        )

    def _current_connection(self) -> Connection:
        """Returns the connection that this task holds by `atomic()` or `database`, or None."""
        database, task = self.database, asyncio.current_task()
        connection = database._global_connection or (database._connection_map.get(task) if task else None)
        return connection if connection is not None and connection._connection_counter else None

    @contextlib.asynccontextmanager
    async def _pool_connection(self) -> AsyncIterator[Connection]:
        """Acquires a connection of the pool, and returns it even if the task is cancelled.

        It is never a kept connection: the application may run `SET ROLE` on it, for example, and only the pool resets it.
        """
        self.database._connection = None
        connection = self.database.connection()
        try:
            await keep_cancelled(connection.__aenter__())
        except asyncio.CancelledError:
            await run_to_completion(self._return_to_pool(connection))
            raise
        try:
            yield connection
        finally:
            await self._return_to_pool(connection)

    async def _return_to_pool(self, connection: Connection) -> None:
        try:
            connection._connection_counter = 1
            await connection.__aexit__()
        except Exception as error:  # the driver has closed the connection, or it was not taken
            logger.debug("A connection could not be returned to the pool: %s", type(error).__name__)
        finally:
            # If __aexit__ was cancelled, this connection would fail the task's next query with an AssertionError.
            self.database._connection = None

    @contextlib.asynccontextmanager
    async def _writer_connection(self) -> AsyncIterator[Connection]:
        """Provides the kept SQLite connection for writing, also to the task's direct use of `database`."""
        writer: Any = cast(SQLiteConnections, self._connections.get()).writer
        connection: Connection = await writer.open()
        self.database._connection = connection
        try:
            yield connection
        finally:
            self.database._connection = None
            connection._connection_counter = 1
            if writer.is_useless or self.driver.in_transaction(connection.raw_connection):
                await run_to_completion(writer.close())

    async def _run_uncancelled(self, connection: Connection, operation: Callable[[], Awaitable[None]]) -> None:
        """Completes BEGIN, COMMIT or ROLLBACK even if the task is cancelled. The driver then knows its state."""

        async def run_locked() -> None:
            async with connection._query_lock:
                await operation()

        try:
            await run_to_completion(run_locked())
        except Exception as error:
            await self._discard_useless(connection, error)
            raise

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
def savepoints_only(connection: Connection) -> Iterator[None]:
    """Makes each `database.transaction()` inside `atomic()` a savepoint. MySQL would commit the outer one."""
    marker: Any = object()
    stack = connection._transaction_stack
    stack.append(marker)
    try:
        yield
    finally:
        del stack[stack.index(marker) :]
