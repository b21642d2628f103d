"""Helpers for asyncio: work that runs to its end, and values per event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class PerLoop(Generic[T]):
    """Holds one value per event loop, created on first use. Values of closed loops are dropped.

    Connections and locks belong to the event loop that created them, and a test client runs its own loop.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[asyncio.AbstractEventLoop, T] = {}

    def get(self) -> T:
        """Returns the value of the running loop. Raises RuntimeError if no loop is running."""
        loop = asyncio.get_running_loop()
        value = self._values.get(loop)
        if value is None:
            self._values = {key: item for key, item in self._values.items() if not key.is_closed()}
            value = self._values[loop] = self._make()
        return value

    def pop(self) -> T | None:
        """Removes and returns the value of the running loop; None if it has none."""
        return self._values.pop(asyncio.get_running_loop(), None)


async def run_to_completion(work: Awaitable[None]) -> None:
    """Waits until `work` is done, even if the task is cancelled meanwhile.

    Raises the CancelledError afterwards.
    """
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
