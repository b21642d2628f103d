"""Callbacks that run after a transaction has been committed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


class CommitHooks:
    """Tracks which tasks are inside `atomic()`, and the callbacks to run after the commit."""

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
        for callback in self._callbacks.pop(task):
            awaitable = callback()
            if awaitable is not None:
                await awaitable
