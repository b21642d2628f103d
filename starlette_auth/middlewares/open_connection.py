"""Checks the login of a WebSocket or a streamed response again and again while it is open."""

import asyncio
import logging
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.types import Scope

from ..core.clock import Clock
from ..core.exceptions import StarletteAuthError
from ..core.text import one_line
from ..http.scope import GUARDS
from ..sessions.base import SessionBase
from ..sessions.open_websockets import ENDED, SessionWatch
from ..sessions.store import SessionStore

logger = logging.getLogger("starlette_auth")


async def run_logged(work: Callable[[], Awaitable[object]], problem: str) -> None:
    """Runs `work` after the response. Only logs a failure, with the sentence `problem`.

    The response was sent; the server would close the connection if the failure reached it. Only a cancellation of the
    task itself is passed on, as asyncio requires.
    """
    try:
        await work()
    except (Exception, asyncio.CancelledError) as error:
        stack = ""
        if not isinstance(error, StarletteAuthError):
            # logger.exception() would let log collectors record local variables, such as session keys.
            stack = "\n" + "".join(traceback.format_tb(error.__traceback__))
        logger.error("%s %s: %s%s", problem, type(error).__name__, one_line(error), stack)
        if is_cancelled(error):
            raise


def is_cancelled(error: BaseException) -> bool:
    """Returns whether the current task was cancelled. A faulty store may also raise CancelledError."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class OpenConnection:
    """Closes a connection whose session ends, whose user is not valid any more, or whose guard would refuse it.

    A connection may be open for hours. Without this, it would outlive a logout, and keep rights that were withdrawn.
    """

    check_interval = 45.0  # seconds between two checks, at most

    store: SessionStore
    clock: Clock
    scope: Scope
    session: SessionBase
    value: str | None  # of the cookie
    generation = -1  # of the notifications, before the session was loaded; -1 makes the first check an immediate one
    is_in_use = False  # the browser has sent something since the last check
    is_ended = False
    has_session = False
    login_id: str | None = None  # of the user who was logged in to the session
    watcher: asyncio.Task[None] | None = None
    tests: Sequence[Any] = ()

    def start_watching(self) -> None:
        self.has_session, self.login_id = self.session.session_key is not None, self.session.user_id
        self.tests = tuple(self.scope.get(GUARDS, ()))
        self.watcher = asyncio.create_task(self.watch())

    def stop_watching(self) -> None:
        # The cancelled task refers to this object through its traceback, so this object drops the task.
        watcher, self.watcher = self.watcher, None
        if watcher is not None:
            watcher.cancel()

    @property
    def has_ended_it(self) -> bool:
        """Returns whether the application has ended the login in this connection, as by a logout."""
        session = self.session
        return self.has_session and (session.session_key is None or session.user_id != self.login_id)

    async def watch(self) -> None:
        """Waits until the connection must be closed, and closes it."""
        user_id = getattr(self.scope.get("user"), "identity", None) or None
        websockets, reason = self.store.open_websockets, None
        with websockets.watching(self.session, since=self.generation, user_id=user_id) as watch:
            while reason is None:
                await watch.wait(self.check_interval)
                had_ended_it = self.has_ended_it
                try:
                    reason = await self.check(None if had_ended_it else watch)
                except (Exception, asyncio.CancelledError) as error:
                    if is_cancelled(error):
                        raise
                    # Any error must not end the checks: without them the connection would stay open for good.
                    logger.warning("The session of an open connection cannot be looked up: %s", one_line(error))
                if self.has_ended_it and not had_ended_it:
                    reason = None  # the application ended it during the check
        await self.end(reason)

    async def check(self, watch: SessionWatch | None) -> str | None:
        """Returns why the connection must be closed; None if it may stay open.

        Without a `watch`, the application itself has ended the session.
        """
        stored = await self.load_again(watch) if watch is not None else None
        if stored is None and watch is not None:
            return ENDED
        self.scope.get(GUARDS, set()).intersection_update(self.tests)  # the number of those passed since has no limit
        if self.session.revalidate is not None:
            reason = await self.session.revalidate(self.scope, self.session, stored, self.tests)
            if reason is not None:
                return reason
        if stored is not None and self.has_session and self.is_in_use:
            self.is_in_use = False
            if stored.needs_touch:
                await self.touch(stored)
        return None

    async def load_again(self, watch: SessionWatch) -> SessionBase | None:
        """Returns the session as it is stored now; None if it has ended."""
        if not self.has_session:
            return self.session  # such as that of a client with a token, which is not stored
        if watch.is_session_deleted and not self.store.is_server_side:
            return None  # no store knows it, but the logout was in this process
        stored = await self.look_up(self.value or "")
        stored.max_age = self.session.max_age
        return stored if stored.session_key is not None else None

    async def look_up(self, value: str) -> SessionBase:
        """Returns the session of a cookie as it is stored now."""
        raise NotImplementedError

    async def touch(self, session: SessionBase) -> None:
        """Records the last use of the session."""
        raise NotImplementedError

    async def end(self, reason: str) -> None:
        """Closes the connection."""
        raise NotImplementedError
