"""Helpers for asyncio: work that runs to its end or at once, and values per event loop."""

import asyncio
import contextlib
import contextvars
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, TypeVar

from anyio import from_thread

T = TypeVar("T")
MAX_CHECKPOINTS = 100


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


class WouldWait(Exception):
    """A coroutine waits for something, but its result is needed at once."""


def run_now(function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Returns the result of a coroutine function, called from a function that is not async.

    In a worker thread of AnyIO, as that of a sync endpoint, the event loop runs it. Elsewhere it must not wait: it
    raises WouldWait then, and is cancelled.
    """
    return run_without_waiting(function(*args)) if _is_in_loop() else _run_from_thread(function, *args)


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run_from_thread(function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    has_started = False

    async def run() -> T:
        nonlocal has_started
        has_started = True
        return await function(*args)

    try:
        return from_thread.run(run)
    except RuntimeError:
        if has_started:
            raise
    return run_without_waiting(function(*args))  # a script, or a thread that is not AnyIO's


def run_without_waiting(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that does not wait. Otherwise raises WouldWait, and cancels it."""
    # A context of its own: if the coroutine is cancelled, its clean-up may continue in another task.
    context, steps = contextvars.copy_context(), coroutine.__await__()
    try:
        for _ in range(MAX_CHECKPOINTS):
            if context.run(next, steps) is not None:  # None: it only lets other tasks run, as `asyncio.sleep(0)`
                break
    except StopIteration as result:
        value: T = result.value
        return value
    _cancel(steps, context)
    raise WouldWait


def _cancel(steps: Generator[Any, Any, Any], context: contextvars.Context) -> None:
    """Cancels a coroutine that was run by hand. A clean-up that waits, such as closing a connection, is completed."""
    try:
        waits_for = context.run(steps.throw, asyncio.CancelledError())
    except BaseException:  # usually the CancelledError
        return
    if not _is_in_loop():
        with contextlib.suppress(RuntimeError):  # it waits again
            steps.close()
        return
    task = asyncio.get_running_loop().create_task(_Rest(steps, waits_for).run(), context=context)
    _cleanups.add(task)
    task.add_done_callback(_cleanups.discard)


class _Rest:
    """The rest of a coroutine whose first steps were run by hand."""

    def __init__(self, steps: Generator[Any, Any, Any], waits_for: Any) -> None:
        self.steps = steps
        self.waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        yield self.waits_for
        yield from self.steps

    async def run(self) -> None:
        await self


_cleanups: set[asyncio.Task[None]] = set()  # an event loop keeps only weak references to its tasks
