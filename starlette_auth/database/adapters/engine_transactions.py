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
from ..errors import Failure, translate_errors
from .drivers import Driver, RawConnection
from .engine import Engine, Session
from .sqlite import WriteLock

logger = logging.getLogger("starlette_auth")
Callback = Callable[[], Awaitable[None] | None]


class TaskTransaction(abc.ABC):
    """Holds the connection of a task, and tells how its transaction begins."""

    raw_connection: Any = None  # the connection of the driver, if it has been taken
    is_useless = False  # the connection cannot be used after the transaction

    def __init__(self) -> None:
        self.failure = Failure()

    @abc.abstractmethod
    async def begin(self, *, write: bool) -> Any:
        """Returns the connection of the driver, in a transaction if the database needs one for the next statement."""

    async def is_writing(self) -> bool:
        """Returns whether the transaction holds the lock of a SQLite file."""
        return True

    async def invalidate(self) -> None:
        """Notes that the connection cannot be used again."""
        self.is_useless = True

    def undoing_savepoint(self) -> Callable[[], bool]:
        """Returns a function that tells whether the application has rolled back its innermost savepoint of now."""
        return lambda: False


class OwnTransaction(TaskTransaction):
    """A transaction of `atomic()`, on a connection in autocommit. The gateway begins and ends it."""

    def __init__(self, connection: RawConnection) -> None:
        super().__init__()
        self.raw_connection = connection.raw_connection

    async def begin(self, *, write: bool) -> Any:
        return self.raw_connection


class Savepoint:
    """A savepoint of the application in a shared transaction."""

    def __init__(self, key: Any, callbacks_before: int) -> None:
        self.key = key
        self.callbacks_before = callbacks_before
        self.is_undone = False


class SharedTransaction(TaskTransaction):
    """A transaction of SQLAlchemy on a connection of the engine, which the application uses as well.

    The application may end it, or begin and end savepoints in it. Events of SQLAlchemy tell of that.
    """

    def __init__(self, driver: Driver, write_lock: WriteLock, callbacks: list[Callback]) -> None:
        super().__init__()
        self.callbacks = callbacks
        self._driver = driver
        self._write_lock = write_lock
        self._connection: Any = None
        self._savepoints: list[Savepoint] = []
        self._has_written = False  # since the transaction began

    async def is_writing(self) -> bool:
        return self._is_in_transaction()

    async def begin(self, *, write: bool) -> Any:
        """Returns the connection of the driver. On SQLite and MySQL the first write begins the transaction.

        SQLAlchemy begins it with its own first statement, and on SQLite in such a way that a later write fails if
        another one came between. A task that only reads does not lock the file.
        """
        if self.raw_connection is None:
            await self._take()
        self._has_written |= write
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

    def undoing_savepoint(self) -> Callable[[], bool]:
        savepoint = self._savepoints[-1] if self._savepoints else None
        return lambda: savepoint is not None and savepoint.is_undone

    def _begin_savepoint(self, key: object) -> None:
        self._savepoints.append(Savepoint(key, len(self.callbacks)))

    def _undo_savepoint(self, key: object) -> None:
        """Forgets what came after a savepoint that was rolled back."""
        position = self._position_of(key)
        if position is None:  # it began before the session was joined
            self.failure.forgive()
        undone = self._savepoints[position:]
        for savepoint in undone:
            savepoint.is_undone = True
        del self.callbacks[0 if position is None else undone[0].callbacks_before :]
        del self._savepoints[position:]

    def _position_of(self, key: object) -> int | None:
        return next((number for number, savepoint in enumerate(self._savepoints) if savepoint.key == key), None)

    async def _require_success(self) -> None:
        """Raises ImproperlyConfigured if a statement has failed, of this package or of the application."""
        self.failure.require_none()
        # If an error was suppressed, PostgreSQL answers COMMIT with a silent rollback. This statement fails then.
        if self._has_written and self._driver.dialect == "postgresql" and self._is_in_transaction():
            with translate_errors():
                await self._execute("SELECT 1")

    def _forget(self) -> None:
        """Prepares for the next transaction, because this one has ended."""
        self._connection, self.raw_connection, self._has_written = None, None, False
        self._savepoints.clear()
        self.callbacks.clear()
        self.failure = Failure()

    async def _take(self) -> None:
        self._connection = await self._connect()
        self.raw_connection = (await self._connection.get_raw_connection()).driver_connection

    @abc.abstractmethod
    async def _connect(self) -> Any:
        """Returns the AsyncConnection of the transaction."""

    def _is_in_transaction(self) -> bool:
        try:
            return self.raw_connection is not None and self._driver.in_transaction(self.raw_connection)
        except Exception:  # asyncpg has forgotten a closed connection
            return False

    async def _execute(self, sql: str) -> None:
        await self._driver.execute(self.raw_connection, sql, ())


class OpenedTransaction(SharedTransaction):
    """The transaction of `auth.transaction()`. The application may roll it back, and must not commit it."""

    def __init__(self, driver: Driver, write_lock: WriteLock, connection: Any, callbacks: list[Callback]) -> None:
        super().__init__(driver, write_lock, callbacks)
        self._opened = connection
        self._may_commit = False
        for name, listener in (
            ("savepoint", lambda _, name: self._begin_savepoint(object())),
            ("rollback_savepoint", lambda _, name, context: self._undo_savepoint(self._savepoints[-1].key)),
            ("release_savepoint", self._before_release),
            ("rollback", lambda _: self._forget()),
            ("commit", self._before_commit),
        ):
            event.listen(connection.sync_connection, name, listener)

    async def commit(self) -> None:
        if self.raw_connection is not None:
            await self._require_success()
        self._may_commit = True
        await run_to_completion(self._opened.commit())

    async def _connect(self) -> Any:
        if not self._opened.in_transaction():
            await self._opened.begin()
        return self._opened

    def _before_release(self, connection: Any, name: str, context: Any) -> None:
        self.failure.require_none()
        self._savepoints.pop()

    def _before_commit(self, connection: Any) -> None:
        if not self._may_commit:
            raise ImproperlyConfigured(
                "auth.transaction() commits at the end of its block. Leave the other commit out."
            )


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
    ) -> None:
        super().__init__(driver, write_lock, [])
        self._apart = apart
        self._is_committed = False  # while the callbacks run, when the session refuses every use
        self._engine = engine
        self._session = session
        self._has_new_savepoint = False
        for name, listener in (
            ("after_transaction_create", self._note_savepoint),
            ("before_commit", self._before_commit),
            ("after_commit", self._committed),
            ("after_soft_rollback", self._rolled_back),
            ("after_transaction_end", self._ended),
        ):
            event.listen(session.sync_session, name, listener)

    async def begin(self, *, write: bool) -> Any:
        if self._has_new_savepoint and self.raw_connection is not None:
            await self._take()  # SQLAlchemy creates the savepoint when its connection is asked for
        self._has_new_savepoint = False
        return await super().begin(write=write)

    async def is_writing(self) -> bool:
        # The application may have written in this session, and this package may not have used its connection yet.
        session = self._session.sync_session
        if self.raw_connection is None and not self._is_committed and session.in_transaction() and session.is_active:
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

    def _before_commit(self, session: Any) -> None:
        if session.in_nested_transaction():
            self.failure.require_none()
        else:
            await_only(self._require_success())

    def _note_savepoint(self, session: Any, transaction: Any) -> None:
        if transaction.nested:
            self._drop_released_savepoints()
            self._begin_savepoint(transaction)
            self._has_new_savepoint = True

    def undoing_savepoint(self) -> Callable[[], bool]:
        self._drop_released_savepoints()
        return super().undoing_savepoint()

    def _drop_released_savepoints(self) -> None:
        # The event for the end of a savepoint comes before that for its rollback, and does not tell of it.
        while self._savepoints and not self._savepoints[-1].key.is_active:
            self._savepoints.pop()

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
            self._undo_savepoint(transaction)
        else:  # the session refuses further statements until the application has called rollback()
            self._forget()

    def _ended(self, session: Any, transaction: Any) -> None:
        if transaction.parent is None:
            self._forget()

    def _forget(self) -> None:
        super()._forget()
        self._is_committed, self._has_new_savepoint = False, False
