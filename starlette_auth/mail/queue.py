"""A queue that sends mail after the response."""

import asyncio
import functools
import logging
import random
import re
import traceback
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from email.message import EmailMessage
from typing import Any

from ..core.concurrency import PerLoop
from ..core.exceptions import ImproperlyConfigured, Unavailable
from .mailers import Mailer
from .messages import CONTROL

logger = logging.getLogger("starlette_auth")
LONGEST_SENDING = 60.0
ADDRESS = re.compile(r"""[^\s<>()\[\],;:"']+@[^\s<>()\[\],;:"']+""")
chance = random.SystemRandom()


class MailQueue:
    """Composes and sends mail in background tasks, after the response. Failures are logged, not raised.

    An attacker measures response times, which would show whether a mail is sent and so whether an account exists.
    Therefore no response waits for a mail, and each task starts after a random delay of up to `longest_delay` seconds:
    without the delay, composing a mail would slow down the attacker's next request.

    Up to `workers` mails are composed and sent at once. While `max_pending` mails are queued or being sent, further ones
    are dropped and logged.
    """

    def __init__(
        self, mailer: Mailer | None, *, longest_delay: float = 0.25, workers: int = 8, max_pending: int = 1000
    ) -> None:
        self.mailer = mailer
        self.longest_delay = longest_delay
        self.workers = workers
        self.max_pending = max_pending
        self._queues: PerLoop[_LoopQueue] = PerLoop(lambda: _LoopQueue(self.workers))

    def enqueue(self, make: Callable[[], Awaitable[EmailMessage | None]], *, user: Any = None) -> None:
        """Calls `make` in a background task and sends the message that it returns.

        If sending fails, the log names the key of `user`, the recipient; `make` may call `note_recipient` instead.
        `make` runs in the caller's language. If it returns None, no message is sent. Without a mailer, it is not
        called.
        """
        if self.mailer is None:
            return
        queue = self._queue()
        job = _Job(user)
        if len(queue.tasks) >= self.max_pending:
            logger.error("A mail was dropped: %d are waiting to be sent.%s", len(queue.tasks), job)
            return
        task = asyncio.create_task(self._deliver(queue, self.mailer, make, job))
        queue.tasks.add(task)
        task.add_done_callback(functools.partial(queue.finished, job))

    async def send(self, message: EmailMessage) -> None:
        """Sends a message without the queue. Raises Unavailable if that fails."""
        if self.mailer is None:
            raise ImproperlyConfigured('There is no mailer. Pass Auth(mailer=SMTPMailer("smtp.example")).')
        try:
            async with asyncio.timeout(LONGEST_SENDING):
                await self.mailer.send(message)
        except Exception as error:
            # Without the cause, which may quote the message. The link in the message grants access to an account.
            raise Unavailable(f"The mail could not be sent: {_error_text(error)}. Check the mail server.") from None

    async def drain(self, timeout: float = 10) -> None:  # noqa: ASYNC109 (only late mails are cancelled)
        """Sends all queued mails of this event loop without delay.

        Mails that are not sent after `timeout` seconds are cancelled and logged.
        """
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
        self, queue: "_LoopQueue", mailer: Mailer, make: Callable[[], Awaitable[EmailMessage | None]], job: "_Job"
    ) -> None:
        _job.set(job)
        with suppress(TimeoutError):
            await asyncio.wait_for(queue.flush.wait(), chance.uniform(0, self.longest_delay))
        async with queue.worker_slots:
            try:
                message = await make()
            except Exception as error:
                # logger.exception() would let log collectors record local variables, such as links with tokens.
                stack = "".join(traceback.format_tb(error.__traceback__))
                logger.error("A mail could not be composed: %s%s\n%s", _error_text(error), job, stack)
                return
            if message is None:
                return
            try:
                async with asyncio.timeout(LONGEST_SENDING):  # A hanging mailer must not block the queue.
                    await mailer.send(message)
            except Exception as error:
                logger.error("A mail could not be sent: %s%s", _error_text(error), job)


class _LoopQueue:
    """The pending mails of one event loop."""

    def __init__(self, workers: int) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.flush = asyncio.Event()
        self.worker_slots = asyncio.Semaphore(workers)

    def finished(self, job: "_Job", task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if task.cancelled():
            logger.error("A mail was cancelled before it was sent.%s", job)


class _Job:
    """Represents a mail in the queue. `str()` returns the recipient's key, for the log, without the address."""

    def __init__(self, user: Any) -> None:
        self.user = user

    def __str__(self) -> str:
        return "" if self.user is None else f" (To the user with the key {self.user.id})"


_job: ContextVar[_Job | None] = ContextVar("mail_job", default=None)


def note_recipient(user: Any) -> None:
    """Names the user for whom the current background task composes a mail, for the log."""
    job = _job.get()
    if job is not None:
        job.user = user


def _error_text(error: Exception) -> str:
    """Returns the error as one line, with URLs and addresses removed.

    Mail servers quote rejected messages, and links in those messages grant access to an account.
    """
    text = ADDRESS.sub("[address]", re.sub(r"\w+://\S+", "[link]", str(error)[:500]))
    return f"{type(error).__name__}: {CONTROL.sub(' ', text)}"
