"""Which tasks are in a transaction, what runs after its commit, and whether a statement of it has failed."""

import abc
import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from ..errors import Failure, is_deadlock, is_unavailable
from .drivers import Driver

Callback = Callable[[], Awaitable[None] | None]


class TransactionState(abc.ABC):
    """Tracks which tasks are in a transaction, which callbacks wait for its commit, and which transactions failed."""

    dialect: str
    driver: Driver

    def __init__(self) -> None:
        self._callbacks: dict[asyncio.Task[Any] | None, list[Callback]] = {}

    @abc.abstractmethod
    def _failure(self) -> Failure | None:
        """Returns the record of this task's transaction; None outside of one."""

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

    def allow_cleanup(self) -> None:
        """Lets this task run statements in its failed transaction, which is going to be rolled back."""
        failure = self._failure()
        if failure is not None:
            failure.forgive()

    def _note_failure(self, raw: Any, error: BaseException, is_over: Callable[[], bool]) -> None:
        """Makes the later statements and the commit of the transaction or savepoint fail.

        The application may catch the error inside `atomic()`. PostgreSQL then refuses further statements; the other
        databases would commit them, even one by one if the database has rolled the transaction back. A cancelled
        statement counts as well: PostgreSQL undoes it, and the other databases may complete it.
        """
        failure = self._failure()
        if failure is None:
            return
        failure.note(is_over)
        if not is_unavailable(error):
            return
        with contextlib.suppress(Exception):  # the connection is closed
            # After an error the drivers for MySQL still report the state before it.
            if self.driver.in_transaction(raw) and not (self.dialect == "mysql" and is_deadlock(error)):
                return
        failure.note_lost()

    def _require_no_failure(self) -> None:
        failure = self._failure()
        if failure is not None:
            failure.require_none()
