"""Open WebSockets, and the notification that their session may have ended."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator

from .base import SessionBase


class SessionWatch:
    """Waits for notifications about the session of one open WebSocket."""

    def __init__(self, session: SessionBase) -> None:
        self.session = session
        self._loop = asyncio.get_running_loop()
        self._notified = asyncio.Event()

    def notify(self) -> None:
        """Wakes `wait()`. Can be called from any thread and any event loop."""
        with contextlib.suppress(RuntimeError):  # its event loop is closed, and so is the WebSocket
            self._loop.call_soon_threadsafe(self._notified.set)

    async def wait(self, seconds: float) -> None:
        """Waits for `notify()`, or for a random 70 to 100 % of `seconds`.

        The random part prevents WebSockets that were opened at the same time from checking their sessions all at once.
        """
        # A timer instead of `asyncio.wait_for()`, which leaves a reference cycle when it is cancelled (Python 3.11).
        delay = seconds * random.uniform(0.7, 1)  # noqa: S311  not a secret
        timer = self._loop.call_later(delay, self._notified.set)
        try:
            await self._notified.wait()
        finally:
            timer.cancel()
        self._notified.clear()


class OpenWebSockets:
    """The open WebSockets of this process whose sessions are in one store.

    A notified WebSocket checks its session itself. `generation` counts the notifications.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._open: set[SessionWatch] = set()

    @contextlib.contextmanager
    def watching(self, session: SessionBase, *, since: int) -> Iterator[SessionWatch]:
        """Registers a session while its WebSocket is open.

        `since` is the value of `generation` before the session was loaded. If it has changed since, the watch is
        notified at once, because that notification may have been about this session.
        """
        watch = SessionWatch(session)
        self._open.add(watch)
        if self.generation != since:
            watch.notify()
        try:
            yield watch
        finally:
            self._open.discard(watch)

    def session_deleted(self, session_key: str) -> None:
        self._notify(lambda session: session.session_key == session_key)

    def user_changed(self, user_id: str) -> None:
        self._notify(lambda session: session.user_id == user_id)

    def _notify(self, is_affected: Callable[[SessionBase], bool]) -> None:
        self.generation += 1
        for watch in [watch for watch in list(self._open) if is_affected(watch.session)]:
            watch.notify()
