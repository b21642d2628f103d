"""Helpers for asyncio: work that runs to its end, and values per event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """One value for each event loop, made when it is first asked for. Values of closed loops are dropped.

    Connections and locks belong to the loop in which they were made, and a test client runs a loop of its own.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """Returns the value of the running loop. RuntimeError outside of one."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            self._values = {other: kept for other, kept in self._values.items() if not other.is_closed()}
            value = self._values[loop] = self._make()
        return value

    def pop(self) -> T | None:
        """Removes the value of the running loop, and returns it."""
        return self._values.pop(asyncio.get_running_loop(), None)


async def run_to_completion(work: Awaitable[None]) -> None:
    """Waits until `work` is done, however often the task is cancelled meanwhile. Raises the cancellation afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
