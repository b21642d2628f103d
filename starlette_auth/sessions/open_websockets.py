"""Open WebSockets and streamed responses, and the notification that their session may have ended."""

import asyncio
import contextlib
import random
from collections.abc import Iterable, Iterator

from .base import SessionBase

ENDED = "Your session has ended."  # the reason with which a connection is closed


class SessionWatch:
    """Waits for notifications about the session and the user of one open WebSocket or streamed response."""

    is_session_deleted = False

    def __init__(self, session: SessionBase, user_id: str | None = None) -> None:
        self.session = session
        self.user_id = user_id
        self._loop = asyncio.get_running_loop()
        self._notified = asyncio.Event()

    def notify(self) -> None:
        """Wakes `wait()`. Can be called from any thread and any event loop."""
        with contextlib.suppress(RuntimeError):  # its event loop is closed, and so is the connection
            self._loop.call_soon_threadsafe(self._notified.set)

    async def wait(self, seconds: float) -> None:
        """Waits for `notify()`, or for a random 70 to 100 % of `seconds`.

        The random part prevents connections that were opened at the same time from checking their sessions all at once.
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
    """The open WebSockets and streamed responses of this process whose sessions are in one store.

    A notified connection checks its session itself. `generation` counts the notifications.
    """

    def __init__(self) -> None:
        self.generation = 0
        self._open: set[SessionWatch] = set()

    @contextlib.contextmanager
    def watching(self, session: SessionBase, *, since: int, user_id: str | None = None) -> Iterator[SessionWatch]:
        """Registers a session while a WebSocket or streamed response of it is open.

        `since` is the value of `generation` before the session was loaded. If it has changed since, the watch is
        notified at once, because that notification may have been about this session. `user_id` is the user of the
        connection, who may not be logged in to the session: a token may identify the user.
        """
        watch = SessionWatch(session, user_id)
        self._open.add(watch)
        if self.generation != since:
            watch.notify()
        try:
            yield watch
        finally:
            self._open.discard(watch)

    def session_deleted(self, session_key: str) -> None:
        watches = [watch for watch in list(self._open) if watch.session.session_key == session_key]
        for watch in watches:
            watch.is_session_deleted = True
        self._notify(watches)

    def user_changed(self, user_id: str) -> None:
        self._notify([watch for watch in list(self._open) if user_id in (watch.session.user_id, watch.user_id)])

    def everybody_changed(self) -> None:
        self._notify(list(self._open))

    def _notify(self, watches: Iterable[SessionWatch]) -> None:
        self.generation += 1
        for watch in watches:
            watch.notify()
