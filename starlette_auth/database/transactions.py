"""Transactions and savepoints of tasks, and callbacks that run after the commit."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeVar, cast

from databases import Database

from ..core.concurrency import PerLoop, run_to_completion
from ..core.exceptions import ImproperlyConfigured, Unavailable
from ..core.text import one_line
from .connections import Connections, RawConnection, SQLiteConnections
from .drivers import Driver, Transaction
from .errors import ABORTED, breaks_connection, is_deadlock, is_read_only, is_unavailable, repeat, translate_errors

logger = logging.getLogger("starlette_auth")
R = TypeVar("R")
Connection = Any  # of `databases`


class CommitHooks:
    """Tracks which tasks are inside `atomic()`, and which callbacks run after the commit."""

    def __init__(self) -> None:
        self._callbacks: dict[asyncio.Task[Any] | None, list[Callable[[], Awaitable[None] | None]]] = {}

    @property
    def is_in_transaction(self) -> bool:
        return asyncio.current_task() in self._callbacks

    def on_commit(self, callback: Callable[[], None]) -> None:
        """Calls `callback` after this task's transaction has been committed, or immediately outside of one.

        After a rollback the callback is not called. Only transactions of `atomic()` count: the callback does not wait
        for a transaction that the application has opened around `atomic()`.
        """
        callbacks = self._callbacks.get(asyncio.current_task())
        if callbacks is None:
            callback()
        else:
            callbacks.append(callback)

    async def after_commit(self, callback: Callable[[], Awaitable[None]]) -> None:
        """Awaits `callback` after the commit, under the conditions of `on_commit`."""
        callbacks = self._callbacks.get(asyncio.current_task())
        if callbacks is None:
            await callback()
        else:
            callbacks.append(callback)

    @contextlib.asynccontextmanager
    async def _committing(self) -> AsyncIterator[None]:
        task = asyncio.current_task()
        if task in self._callbacks:
            callbacks = self._callbacks[task]
            count_before = len(callbacks)
            try:
                yield
            except BaseException:
                del callbacks[count_before:]
                raise
            return
        self._callbacks[task] = []
        try:
            yield
        except BaseException:
            del self._callbacks[task]
            raise
        failures = []
        for callback in self._callbacks.pop(task):
            try:
                awaitable = callback()
                if awaitable is not None:
                    await awaitable
            except Exception as error:  # the change is committed, so the further callbacks must run, too
                failures.append(error)
        if failures:
            raise failures[0]


class Transactions(CommitHooks):
    """Runs transactions on the connection that the task holds, or on another one."""

    database: Database
    driver: Driver
    dialect: str
    _connections: PerLoop[Connections]
    _keeps_sqlite: bool

    def __init__(self) -> None:
        super().__init__()
        self._lost: set[asyncio.Task[Any] | None] = set()  # tasks whose transaction the database has rolled back
        #: Tasks with a failed statement in their transaction: the number of transactions that `databases` had open.
        self._aborted: dict[asyncio.Task[Any] | None, int] = {}

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """Runs the block in a transaction, or in a savepoint inside a transaction of this task.

        If a statement fails and its error is caught inside the block, the later statements and the commit raise
        ImproperlyConfigured. Therefore catch the error outside of a nested `atomic()`.

        `Database.transaction()` never returns its connection to the pool if COMMIT fails or the task is cancelled at
        the wrong moment. This method always returns it.
        """
        self._require_connected()
        is_outermost = not self.is_in_transaction
        try:
            async with self._committing(), self._transaction():
                yield
        finally:
            if is_outermost:
                self._lost.discard(asyncio.current_task())
                self._aborted.pop(asyncio.current_task(), None)

    async def run_in_transaction(self, work: Callable[[], Awaitable[R]]) -> R:
        """Runs `work` in a transaction and returns its result. Repeats it after a deadlock, up to 20 times.

        Inside `atomic()` or a transaction of the application, `work` is part of that transaction and is not repeated:
        the database has rolled back the earlier statements, too. Raises Unavailable after the last repetition.
        """
        if self._is_inside_transaction():
            async with self.atomic():
                return await work()
        is_committed = False

        def note_commit() -> None:
            nonlocal is_committed
            is_committed = True

        async def attempt() -> R:
            try:
                async with self.atomic():
                    self.on_commit(note_commit)
                    return await work()
            except Exception as error:
                if is_committed and is_deadlock(error):  # in a callback: the transaction itself must not be repeated
                    raise Unavailable(one_line(error)) from error
                raise

        try:
            return await attempt()
        except Exception as error:
            if not is_deadlock(error):
                raise
        return await repeat(attempt)

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
            self._require_transaction(connection)
            transaction = self.driver.transaction(connection.raw_connection)
            if starts_transaction:
                stack.enter_context(savepoints_only(connection))
            try:
                with translate_errors():
                    await self._run_uncancelled(connection, transaction.start)
                yield
                self._require_transaction(connection)
                with translate_errors():
                    await self._run_uncancelled(connection, transaction.commit)
            except BaseException:
                await self._rollback(connection, transaction)
                self._aborted.pop(asyncio.current_task(), None)
                raise

    async def _discard_useless(self, connection: RawConnection, error: Exception) -> None:
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

    def _note_failure(self, connection: Connection, error: Exception) -> None:
        """Makes the later statements and the commit of the transaction or savepoint fail.

        The application may catch the error inside `atomic()`. PostgreSQL then refuses further statements; the other
        databases would commit them, even one by one if the database has rolled the transaction back.
        """
        if not self.is_in_transaction:
            return
        self._aborted[asyncio.current_task()] = len(connection._transaction_stack)
        if not is_unavailable(error):
            return
        with contextlib.suppress(Exception):  # the connection is closed
            # After an error the drivers for MySQL still report the state before it.
            if self.driver.in_transaction(connection.raw_connection) and not (
                self.dialect == "mysql" and is_deadlock(error)
            ):
                return
        self._lost.add(asyncio.current_task())

    def allow_cleanup(self) -> None:
        """Lets this task run statements in its failed transaction, which is going to be rolled back."""
        self._aborted.pop(asyncio.current_task(), None)

    def _require_transaction(self, connection: Connection) -> None:
        """Raises ImproperlyConfigured if an earlier statement of this task's transaction or savepoint has failed.

        Raises Unavailable if the database has rolled the transaction back.
        """
        if not (self._aborted or self._lost):
            return
        task = asyncio.current_task()
        if task in self._lost:
            raise Unavailable(
                "The database has rolled back this transaction after an error in it. Let that error leave atomic()."
            )
        depth = self._aborted.get(task)
        if depth is None:
            return
        if len(connection._transaction_stack) < depth:  # the application has ended its own transaction
            del self._aborted[task]
            return
        raise ImproperlyConfigured(ABORTED)

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
        await connection.__aenter__()
        try:
            yield connection
        finally:
            try:
                connection._connection_counter = 1
                await connection.__aexit__()
            except Exception as error:  # the driver has closed the connection; the transaction itself was successful
                logger.debug("A connection could not be returned to the pool: %s", type(error).__name__)
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
