"""Connections of `databases` that stay open for one event loop."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextvars import Context
from typing import Any, cast

from databases import Database
from databases.interfaces import ConnectionBackend

from ...core.concurrency import keep_cancelled, run_to_completion
from .connections import Pool
from .drivers import RawConnection
from .sqlite import require_folder

logger = logging.getLogger("starlette_auth")


async def acquire(connection: ConnectionBackend) -> None:
    """Takes a connection from the pool, and returns it at once if the task was cancelled meanwhile."""
    try:
        await keep_cancelled(connection.acquire())
    except asyncio.CancelledError:
        with contextlib.suppress(AssertionError):  # it was not taken
            await run_to_completion(connection.release())
        raise


class PoolConnections(Pool):
    """Uses the pool of `databases` directly.

    The per-task bookkeeping of `databases` would take a quarter of the time of a statement.
    """

    def __init__(self, database: Database) -> None:
        super().__init__()
        self._database = database

    async def acquire(self, *, write: bool, durable: bool, for_transaction: bool = False) -> RawConnection:
        connection: ConnectionBackend = self._database._backend.connection()
        await acquire(connection)
        return connection

    async def release(self, connection: RawConnection, *, write: bool) -> None:
        try:
            await cast(ConnectionBackend, connection).release()
        except Exception as error:  # the driver has closed the connection; the statement itself was successful
            logger.debug("A connection could not be returned to the pool: %s", type(error).__name__)


class KeptConnection:
    """Keeps one connection of `databases` open in a background task.

    The connection stays open until it is closed or the event loop ends.
    """

    def __init__(self, database: Database, pragmas: Sequence[str] = ()) -> None:
        self._database = database
        self._pragmas = pragmas
        self._opening: asyncio.Future[Any] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()
        self.raw_connection: Any = None  # the connection of the database driver while it is open
        self.is_useless = False  # the connection must be closed after its transaction

    async def opened(self) -> "KeptConnection":
        """Opens this connection if necessary, and returns it."""
        if self.raw_connection is None:
            await self.open()
        return self

    async def open(self) -> Any:
        """Opens the connection if necessary, and returns the `Connection` of `databases`."""
        if self._opening is None or (self._keeper and self._keeper.done()):
            loop = asyncio.get_running_loop()
            self._opening, self._closing = loop.create_future(), asyncio.Event()
            # An empty context: otherwise the task would keep the context of the first request alive.
            self._keeper = loop.create_task(self._run(self._opening, self._closing), context=Context())
        if self._opening.done():
            return self._opening.result()
        return await asyncio.shield(self._opening)

    async def close(self) -> None:
        keeper = self.drop()
        if keeper is not None:
            await asyncio.wait([keeper])

    def is_lost(self) -> bool:
        """Returns whether the driver knows that the connection was closed."""
        try:
            return self.raw_connection is not None and bool(self.raw_connection.is_closed())
        except Exception:  # asyncpg has returned the connection to its pool already
            return True

    def drop(self) -> asyncio.Task[None] | None:
        """Tells the background task to close the connection, and returns the task.

        The next statement opens a new connection.
        """
        keeper, self._opening, self._keeper, self.raw_connection = self._keeper, None, None, None
        self.is_useless = False
        self._closing.set()
        return keeper

    async def _run(self, opening: asyncio.Future[Any], closing: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                if self._pragmas:
                    await require_folder(self._database.url.database)
                connection = await stack.enter_async_context(self._database.connection())
                for pragma in self._pragmas:
                    with contextlib.suppress(Exception):  # the file is in use elsewhere, or read-only
                        await connection.raw_connection.execute_fetchall(pragma)
            except Exception as error:
                opening.set_exception(error)
                opening.exception()  # marks it as retrieved: all waiting tasks may have been cancelled
                return
            opening.set_result(connection)
            self.raw_connection = connection.raw_connection
            try:
                await closing.wait()
            finally:
                if self._opening is opening:  # no newer connection was opened
                    self.raw_connection = None
