"""Open WebSockets, and how they learn that their session may have ended."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterator

from .base import SessionBase


class SessionWatch:
    """What one open WebSocket waits for."""

    def __init__(self, session: SessionBase) -> None:
        self.session = session
        self._loop = asyncio.get_running_loop()
        self._notified = asyncio.Event()

    def notify(self) -> None:
        """From whichever thread, and event loop, the session was ended in."""
        with contextlib.suppress(RuntimeError):  # its loop is closed, and the socket with it
            self._loop.call_soon_threadsafe(self._notified.set)

    async def wait(self, seconds: float) -> None:
        """Until it is woken, or for nearly that long: those that were opened together do not all ask together."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._notified.wait(), seconds * random.uniform(0.7, 1))  # noqa: S311  no secret
        self._notified.clear()


class OpenWebSockets:
    """The open WebSockets of this process whose sessions one store keeps. Each looks after itself, once it is woken."""

    def __init__(self) -> None:
        self.generation = 0
        self._open: set[SessionWatch] = set()

    @contextlib.contextmanager
    def watching(self, session: SessionBase, *, since: int) -> Iterator[SessionWatch]:
        """`since`: the number of calls before the session was loaded. What was called since then counts, too."""
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

    def _notify(self, concerns: Callable[[SessionBase], bool]) -> None:
        self.generation += 1
        for watch in [watch for watch in list(self._open) if concerns(watch.session)]:
            watch.notify()
