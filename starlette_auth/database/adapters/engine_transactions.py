"""The transaction in which the statements of a task run, with an engine."""

import abc
import contextlib
import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.util import await_only

from ...core.concurrency import run_to_completion
from ...core.exceptions import ImproperlyConfigured
from .drivers import Driver, RawConnection
from .engine import Engine, Session
from .sqlite import WriteLock

logger = logging.getLogger("starlette_auth")


class TaskTransaction(abc.ABC):
    """Holds the connection of a task, and tells how its transaction begins."""

    raw_connection: Any = None  # the connection of the driver, if it has been taken
    is_useless = False  # the connection cannot be used after the transaction

    @abc.abstractmethod
    async def begin(self, *, write: bool) -> Any:
        """Returns the connection of the driver, in a transaction if the database needs one for the next statement."""

    async def is_writing(self) -> bool:
        """Returns whether the transaction holds the lock of a SQLite file."""
        return True

    async def invalidate(self) -> None:
        """Notes that the connection cannot be used again."""
        self.is_useless = True

    def end_of_savepoint(self) -> Callable[[], bool]:
        """Returns a function that tells whether the application has ended its innermost savepoint of now."""
        return lambda: False


class OwnTransaction(TaskTransaction):
    """A transaction of `atomic()`, on a connection in autocommit. The gateway begins and ends it."""

    def __init__(self, connection: RawConnection) -> None:
        self.raw_connection = connection.raw_connection

    async def begin(self, *, write: bool) -> Any:
        return self.raw_connection


class SharedTransaction(TaskTransaction):
    """A transaction of SQLAlchemy on a connection of the engine, which the application uses as well."""

    def __init__(self, driver: Driver, write_lock: WriteLock, connection: Any = None) -> None:
        self._driver = driver
        self._write_lock = write_lock
        self._connection = connection

    async def is_writing(self) -> bool:
        return self._is_in_transaction()

    async def begin(self, *, write: bool) -> Any:
        """Returns the connection of the driver. On SQLite and MySQL the first write begins the transaction.

        SQLAlchemy begins it with its own first statement, and on SQLite in such a way that a later write fails if
        another one came between. A task that only reads does not lock the file.
        """
        if self.raw_connection is None:
            await self._take()
        if self._is_in_transaction():
            return self.raw_connection
        if self._driver.dialect == "postgresql":
            await self._connection.exec_driver_sql("SELECT 1")
            if not self._is_in_transaction():
                raise ImproperlyConfigured(
                    "This connection is in autocommit mode, so nothing could be rolled back. Use it without "
                    'isolation_level="AUTOCOMMIT".'
                )
        elif write:
            is_sqlite = self._driver.dialect == "sqlite"
            begin = "BEGIN IMMEDIATE" if is_sqlite else "START TRANSACTION"
            # One task of this process waits for SQLite's lock, and the others for that task.
            async with self._write_lock if is_sqlite else contextlib.nullcontext():
                await run_to_completion(self._execute(begin))
        return self.raw_connection

    async def invalidate(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(Exception):  # it is closed already
                await self._connection.invalidate()

    def end_of_savepoint(self) -> Callable[[], bool]:
        savepoint = self._innermost()
        return lambda: savepoint is not None and not savepoint.is_active

    def _innermost(self) -> Any:
        return self._connection.get_nested_transaction()

    async def _take(self) -> None:
        self._connection = await self._connect()
        self.raw_connection = (await self._connection.get_raw_connection()).driver_connection

    async def _connect(self) -> Any:
        return self._connection

    def _is_in_transaction(self) -> bool:
        try:
            return self.raw_connection is not None and self._driver.in_transaction(self.raw_connection)
        except Exception:  # asyncpg has forgotten a closed connection
            return False

    async def _execute(self, sql: str) -> None:
        await self._driver.execute(self.raw_connection, sql, {})


class JoinedTransaction(SharedTransaction):
    """The transaction of an AsyncSession. Its connection is taken when the first statement comes."""

    def __init__(
        self,
        driver: Driver,
        write_lock: WriteLock,
        *,
        engine: Engine,
        session: Session,
        apart: Callable[[], AbstractContextManager[None]],
        require_transaction: Callable[[], None],
    ) -> None:
        super().__init__(driver, write_lock)
        self.callbacks: list[Callable[[], Awaitable[None] | None]] = []
        self.on_end: Callable[[], None] = lambda: None
        self._apart = apart
        self._require_transaction = require_transaction
        self._is_committed = False  # while the callbacks run, when the session refuses every use
        self._engine = engine
        self._session = session
        self._callbacks_before: dict[Any, int] = {}  # by savepoint
        for name, listener in (
            ("after_transaction_create", self._note_savepoint),
            ("before_commit", self._before_commit),
            ("after_commit", self._committed),
            ("after_soft_rollback", self._rolled_back),
            ("after_transaction_end", self._ended),
        ):
            event.listen(session.sync_session, name, listener)

    async def is_writing(self) -> bool:
        # The application may have written in this session, and this package may not have used its connection yet.
        if self.raw_connection is None and not self._is_committed and self._session.sync_session.in_transaction():
            await self._take()
        return await super().is_writing()

    async def _connect(self) -> Any:
        try:
            bind = self._session.sync_session.get_bind()
        except sa.exc.UnboundExecutionError:  # each table has its own engine
            return await self._session.connection(bind_arguments={"bind": self._engine.sync_engine})
        if bind.engine.pool is not self._engine.sync_engine.pool:
            raise ImproperlyConfigured(
                "This session belongs to another engine than this Auth. Pass the same engine to both."
            )
        return await self._session.connection()

    def _innermost(self) -> Any:
        return self._session.sync_session.get_nested_transaction()

    def _before_commit(self, session: Any) -> None:
        self._require_transaction()  # PostgreSQL would roll back and report success

    def _note_savepoint(self, session: Any, transaction: Any) -> None:
        if transaction.nested:
            self._callbacks_before[transaction] = len(self.callbacks)
            self.raw_connection = None  # SQLAlchemy creates the savepoint when its connection is asked for

    def _committed(self, session: Any) -> None:
        """Runs the callbacks. An exception in one is logged, because it could not undo the commit."""
        if session.in_nested_transaction():
            return
        callbacks = self.callbacks[:]
        self._forget()
        self._is_committed = True
        with self._apart():
            for callback in callbacks:
                try:
                    awaitable = callback()
                    if awaitable is not None:
                        await_only(awaitable)
                except Exception:
                    logger.exception("A listener failed after the commit of a session.")

    def _rolled_back(self, session: Any, transaction: Any) -> None:
        if transaction.nested:
            del self.callbacks[self._callbacks_before.pop(transaction, 0) :]

    def _ended(self, session: Any, transaction: Any) -> None:
        if transaction.parent is None:
            self._forget()

    def _forget(self) -> None:
        self._connection, self.raw_connection, self._is_committed = None, None, False
        self._callbacks_before.clear()
        self.callbacks.clear()
        self.on_end()
