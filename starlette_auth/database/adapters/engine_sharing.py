"""Transactions that this package and the application share, with an engine."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

from ...core.arguments import describe
from ...core.concurrency import PerLoop, run_to_completion
from ...core.exceptions import ImproperlyConfigured
from ..errors import Failure, translate_errors
from .connections import Connections
from .engine import Engine, Session
from .engine_checkouts import check_out
from .engine_transactions import JoinedTransaction, OpenedTransaction, OwnTransaction, TaskTransaction
from .transaction_state import TransactionState

INFO_KEY = "starlette_auth"  # of the joined transaction, in `AsyncSession.info`


class SharedTransactions(TransactionState):
    """Knows the transaction of each task, and lets tasks share one with the application."""

    database: Engine
    _connections: PerLoop[Connections]

    def __init__(self) -> None:
        super().__init__()
        self._current: dict[asyncio.Task[Any] | None, TaskTransaction] = {}
        self._suspended: dict[asyncio.Task[Any] | None, TaskTransaction] = {}  # by `apart()`

    def _failure(self) -> Failure | None:
        current = self._current.get(asyncio.current_task()) if self._current else None
        return None if current is None else current.failure

    @contextlib.asynccontextmanager
    async def joined(self, session: Session) -> AsyncIterator[None]:
        """Runs the statements of this task in the transaction of the session, which the application ends.

        Statements that must outlive a rollback are left out: see `apart()`.
        """
        if not hasattr(session, "sync_session"):
            raise ImproperlyConfigured(f"session is {describe(session)}. Pass an AsyncSession of SQLAlchemy.")
        task, connections = asyncio.current_task(), self._connections.get()
        self._require_no_transaction()
        with contextlib.suppress(Exception):  # the database cannot be reached, which the first statement reports
            await connections.open_first()
        info = session.sync_session.info
        transaction = info.get(INFO_KEY)
        if transaction is None:  # listeners of a session cannot be removed while it calls them, so there is one set
            transaction = info[INFO_KEY] = JoinedTransaction(
                self.driver,
                connections.write_lock,
                engine=self.database,
                session=session,
                apart=self.apart,
            )
        self._current[task], self._callbacks[task] = transaction, transaction.callbacks
        try:
            yield
        finally:
            del self._current[task], self._callbacks[task]

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[Any]:
        """Yields an AsyncConnection in a transaction, of which the statements of this task are a part.

        It is committed at the end of the block, and rolled back after an exception.
        """
        task, write_lock = asyncio.current_task(), self._connections.get().write_lock
        self._require_no_transaction()
        await self._require_free_file()
        async with write_lock if self.dialect == "sqlite" else contextlib.nullcontext():
            with translate_errors():
                checkout = await check_out(self.database, autocommit=False)
            async with self._committing():
                shared = OpenedTransaction(self.driver, write_lock, checkout.connection, self._callbacks[task])
                self._current[task] = shared
                try:
                    with translate_errors():
                        await shared.begin(write=True)
                    yield checkout.connection
                    with translate_errors():
                        await shared.commit()
                except BaseException:
                    with contextlib.suppress(Exception):  # the connection is lost
                        await run_to_completion(checkout.connection.rollback())
                    raise
                finally:
                    del self._current[task]
                    await run_to_completion(checkout.check_in())

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        task = asyncio.current_task()
        current = self._current.get(task) if self._current else None
        if current is None or isinstance(current, OwnTransaction):
            yield
            return
        callbacks, outer = self._callbacks.pop(task), self._suspended.get(task)
        self._suspended[task] = self._current.pop(task)
        try:
            yield
        finally:
            self._current[task], self._callbacks[task] = self._suspended.pop(task), callbacks
            if outer is not None:  # a listener of events, which runs apart, has joined another session
                self._suspended[task] = outer

    async def can_run_apart(self) -> bool:
        current = self._current.get(asyncio.current_task()) if self._current else None
        if self.dialect != "sqlite" or current is None or isinstance(current, OwnTransaction):
            return True
        return not await current.is_writing()

    def _require_no_transaction(self) -> None:
        if asyncio.current_task() in self._current:
            raise ImproperlyConfigured(
                "This task is in a transaction already. Use its session or connection, and leave the inner call out."
            )

    async def _require_free_file(self) -> None:
        """Raises ImproperlyConfigured if this task would wait for its own transaction, to which SQLite's file belongs."""
        suspended = self._suspended.get(asyncio.current_task()) if self._suspended else None
        if suspended is not None and self.dialect == "sqlite" and await suspended.is_writing():
            raise ImproperlyConfigured(
                "SQLite has one writer, and the session that `auth.joined` has joined is writing. What is saved now must "
                'outlive its rollback. Commit it before: with FastAPI, write Depends(get_session, scope="function").'
            )
