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


async def keep_cancelled(work: Awaitable[T]) -> T:
    """Returns the result of `work`. Raises CancelledError if the task was cancelled meanwhile and `work` ended anyway.

    `asyncio.wait_for`, which redis-py uses, swallows a cancellation in Python 3.11 if the result, or an exception, comes at
    the same time.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task is not None else 0
    try:
        result = await work
    except Exception as error:
        if task is not None and task.cancelling() > cancellations:
            raise asyncio.CancelledError from error
        raise
    if task is not None and task.cancelling() > cancellations:
        raise asyncio.CancelledError
    return result


class WouldWait(BaseException):
    """A coroutine waits for something, but its result is needed at once. No `except Exception` hides it."""


def run_now(function: Callable[..., Coroutine[Any, Any, T]], *args: Any) -> T:
    """Returns the result of a coroutine function, called from a function that is not async.

    In a worker thread of AnyIO, as that of a sync endpoint, the event loop runs it, and it may wait. Elsewhere WouldWait
    is raised if it waits.
    """
    return run_without_waiting(function(*args)) if is_in_loop() else _run_from_thread(function, *args)


def is_in_loop() -> bool:
    """Returns whether the caller runs in an event loop, which must not be blocked."""
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
    try:
        return run_without_waiting(function(*args))  # in a script, or a thread that is not AnyIO's
    except RuntimeError as error:
        if "no running event loop" not in str(error):
            raise
        raise WouldWait from error


def run_without_waiting(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that does not wait. If it waits, raises WouldWait.

    A coroutine that waits is completed by the event loop later, and its result is dropped: cancelled in the middle of a
    query, it could leave a connection unusable.
    """
    context, steps = contextvars.copy_context(), coroutine.__await__()  # it may be completed in another task
    try:
        for _ in range(MAX_CHECKPOINTS):
            waits_for = context.run(next, steps)
            if waits_for is not None:  # None: it only lets other tasks run, as `asyncio.sleep(0)`
                break
    except StopIteration as result:
        value: T = result.value
        return value
    if is_in_loop():
        task = asyncio.get_running_loop().create_task(_complete(steps, waits_for), context=context)
        _unfinished.add(task)
        task.add_done_callback(_forget)
    else:
        with contextlib.suppress(RuntimeError):  # it waits again
            steps.close()
    raise WouldWait


class _Started:
    """A coroutine whose first steps have been run by hand."""

    def __init__(self, steps: Generator[Any, Any, Any], waits_for: Any) -> None:
        self.steps = steps
        self.waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, None]:
        yield self.waits_for
        yield from self.steps


async def _complete(steps: Generator[Any, Any, Any], waits_for: Any) -> None:
    await _Started(steps, waits_for)


def _forget(task: asyncio.Task[None]) -> None:
    _unfinished.discard(task)
    if not task.cancelled():
        task.exception()  # marks it as retrieved: the event loop logs exceptions that were not


_unfinished: set[asyncio.Task[None]] = set()  # an event loop keeps only weak references to its tasks
