"""Callbacks that run after a transaction has been committed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any


class CommitHooks:
    """The part of `Gateway` that knows which tasks are in a transaction of `atomic()`, and what is to be done after it."""

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Task[Any] | None, list[Callable[[], Awaitable[None] | None]]] = {}

    @property
    def is_in_transaction(self) -> bool:
        return asyncio.current_task() in self._waiting

    def on_commit(self, act: Callable[[], None]) -> None:
        """Does it once the transaction of this task has been committed, never when it fails; at once outside of one.

        A transaction is one of `atomic()`; where the application has one of its own around it, ours is what counts.
        """
        waiting = self._waiting.get(asyncio.current_task())
        if waiting is None:
            act()
        else:
            waiting.append(act)

    async def after_commit(self, act: Callable[[], Awaitable[None]]) -> None:
        """The same for what has to be awaited."""
        waiting = self._waiting.get(asyncio.current_task())
        if waiting is None:
            await act()
        else:
            waiting.append(act)

    @contextlib.asynccontextmanager
    async def _committing(self) -> AsyncIterator[None]:
        task = asyncio.current_task()
        if task in self._waiting:
            waiting = self._waiting[task]
            before = len(waiting)
            try:
                yield
            except BaseException:
                del waiting[before:]
                raise
            return
        self._waiting[task] = []
        try:
            yield
        except BaseException:
            del self._waiting[task]
            raise
        for act in self._waiting.pop(task):
            to_wait_for = act()
            if to_wait_for is not None:
                await to_wait_for
