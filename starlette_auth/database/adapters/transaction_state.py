"""Which tasks are in a transaction, what runs after its commit, and whether the database has rolled it back."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ...core.exceptions import Unavailable
from ..errors import is_deadlock, is_unavailable
from .drivers import Driver

Callback = Callable[[], Awaitable[None] | None]


class TransactionState:
    """Tracks which tasks are in a transaction, which callbacks wait for its commit, and which transactions are lost."""

    dialect: str
    driver: Driver

    def __init__(self) -> None:
        self._callbacks: dict[asyncio.Task[Any] | None, list[Callback]] = {}
        self._lost: set[asyncio.Task[Any] | None] = set()  # tasks whose transaction the database has rolled back

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

    def _note_lost_transaction(self, raw: Any, error: Exception) -> None:
        """Makes the rest of the transaction fail if the database has rolled it back.

        The next statements would otherwise be committed one by one if the application catches the error.
        """
        if not (self.is_in_transaction and is_unavailable(error)):
            return
        with contextlib.suppress(Exception):  # the connection is closed
            # After an error the drivers for MySQL still report the state before it.
            if self.driver.in_transaction(raw) and not (self.dialect == "mysql" and is_deadlock(error)):
                return
        self._lost.add(asyncio.current_task())

    def _require_transaction(self) -> None:
        if self._lost and asyncio.current_task() in self._lost:
            raise Unavailable(
                "The database has rolled back this transaction after an error in it. Let that error leave atomic(), or "
                "roll the session back."
            )
