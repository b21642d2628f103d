"""A queue that sends mail after the response."""

import asyncio
import logging
import random
import re
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from email.message import EmailMessage

from ..core.concurrency import PerLoop
from ..core.exceptions import ImproperlyConfigured
from .mailers import Mailer
from .messages import CONTROL

logger = logging.getLogger("starlette_auth")
LONGEST_SENDING = 60.0
chance = random.SystemRandom()


class MailQueue:
    """Makes mails and sends them, a moment after they were asked for; failures are logged and never shown.

    Nobody waits for a mail, so the time of a response does not tell whether one is sent. Each begins after a random
    time up to `longest_delay`, so that the work for an account that exists does not slow down the very next request
    either. `workers` are under way at once; what is posted while `room` are there already is dropped.
    """

    def __init__(
        self, mailer: Mailer | None, *, longest_delay: float = 0.25, workers: int = 8, max_pending: int = 1000
    ) -> None:
        self.mailer = mailer
        self.longest_delay = longest_delay
        self.workers = workers
        self.max_pending = max_pending
        self._queues: PerLoop[_LoopQueue] = PerLoop(lambda: _LoopQueue(self.workers))

    def enqueue(self, make: Callable[[], Awaitable[EmailMessage | None]]) -> None:
        """Has `make` called soon, in the caller's language, and what it gives sent; None is not sent."""
        if self.mailer is None:
            return
        queue = self._queue()
        if len(queue.tasks) >= self.max_pending:
            logger.error("A mail was dropped: %d are waiting to be sent.", len(queue.tasks))
            return
        task = asyncio.create_task(self._deliver(queue, self.mailer, make))
        queue.tasks.add(task)
        task.add_done_callback(queue.finished)

    async def drain(self, timeout: float = 10) -> None:  # noqa: ASYNC109 (late mails are given up, the caller is not)
        """Sends all that this event loop has to send, now. What takes longer than `timeout` is given up."""
        queue = self._queue()
        clock = asyncio.get_running_loop().time
        deadline = clock() + timeout
        queue.flush.set()
        try:
            while queue.tasks and (left := deadline - clock()) > 0:
                await asyncio.wait(queue.tasks, timeout=left)
        finally:
            queue.flush.clear()
        late = set(queue.tasks)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=1)

    def _queue(self) -> "_LoopQueue":
        try:
            return self._queues.get()
        except RuntimeError:
            raise ImproperlyConfigured("Mail needs a running event loop. Call this from a coroutine.") from None

    async def _deliver(
        self, queue: "_LoopQueue", mailer: Mailer, make: Callable[[], Awaitable[EmailMessage | None]]
    ) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(queue.flush.wait(), chance.uniform(0, self.longest_delay))
        async with queue.free:
            try:
                message = await make()
            except Exception as error:
                # Not logger.exception(): what collects logs would add the values of variables, links among them.
                places = "".join(traceback.format_tb(error.__traceback__))
                logger.error("A mail could not be made: %s\n%s", _error_text(error), places)
                return
            if message is None:
                return
            try:
                async with asyncio.timeout(LONGEST_SENDING):  # A mailer that hangs must not stop the others for good.
                    await mailer.send(message)
            except Exception as error:
                logger.error("A mail could not be sent: %s", _error_text(error))


class _LoopQueue:
    """What one event loop has to send."""

    def __init__(self, workers: int) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.flush = asyncio.Event()
        self.free = asyncio.Semaphore(workers)

    def finished(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if task.cancelled():
            logger.error("A mail was given up before it was sent.")


def _error_text(error: Exception) -> str:
    """On one line, and without links: servers quote those that they refuse, and ours let people in."""
    said = re.sub(r"\w+://\S+", "[link]", str(error)[:500])
    return f"{type(error).__name__}: {CONTROL.sub(' ', said)}"
