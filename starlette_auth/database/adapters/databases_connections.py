"""Connections of `databases` that stay open for one event loop."""

import abc
import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from contextvars import Context
from typing import Any, Protocol, cast

from databases import Database
from databases.interfaces import ConnectionBackend

from .sqlite import PRAGMAS, WriteLock, require_folder

logger = logging.getLogger("starlette_auth")


class Connections(abc.ABC):
    """Provides connections for statements outside of a transaction. There is one object per event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.write_lock = WriteLock()

    @abc.abstractmethod
    async def acquire(self, *, write: bool, durable: bool) -> "RawConnection":
        """Returns an open connection for one statement.

        `durable=False` allows the database to lose the change in a power cut.
        """

    @abc.abstractmethod
    async def release(self, connection: "RawConnection", *, write: bool) -> None:
        """Releases a connection that `acquire` returned."""

    def discard(self, connection: "RawConnection", *, with_others: bool) -> None:  # noqa: B027  pools do it themselves
        """Prevents further use of a kept connection; with `with_others`, of all kept connections.

        The caller still has to release the connection.
        """

    async def close(self) -> None:  # noqa: B027  the pool is closed by `databases`
        """Closes the kept connections, or returns them to the pool."""


class RawConnection(Protocol):
    """An object that holds a connection of the database driver."""

    @property
    def raw_connection(self) -> Any: ...


class PoolConnections(Connections):
    """Uses the pool of `databases` directly.

    The per-task bookkeeping of `databases` would take a quarter of the time of a statement.
    """

    async def acquire(self, *, write: bool, durable: bool) -> RawConnection:
        connection: ConnectionBackend = self._database._backend.connection()
        await connection.acquire()
        return connection

    async def release(self, connection: RawConnection, *, write: bool) -> None:
        try:
            await cast(ConnectionBackend, connection).release()
        except Exception as error:  # the driver has closed the connection; the statement itself was successful
            logger.debug("A connection could not be returned to the pool: %s", type(error).__name__)


class KeptPostgreSQLConnections(PoolConnections):
    """Keeps up to `limit()` connections out of the pool, which saves one round trip per statement."""

    def __init__(self, database: Database, limit: Callable[[], int]) -> None:
        super().__init__(database)
        self._limit = limit
        self._all: list[KeptConnection] = []
        self._idle: list[KeptConnection] = []

    async def acquire(self, *, write: bool, durable: bool) -> RawConnection:
        kept = self._take()
        if kept is None:
            return await super().acquire(write=write, durable=durable)
        if kept.raw_connection is not None:
            return kept
        try:
            return await kept.opened()
        except BaseException:
            self._idle.append(kept)
            raise

    async def release(self, connection: RawConnection, *, write: bool) -> None:
        if isinstance(connection, KeptConnection):
            self._idle.append(connection)
        else:
            await super().release(connection, write=write)

    def discard(self, connection: RawConnection, *, with_others: bool) -> None:
        for kept in [*self._idle, connection] if with_others else [connection]:
            if isinstance(kept, KeptConnection):
                kept.drop()

    async def close(self) -> None:
        for kept in self._all:
            await kept.close()

    def _take(self) -> "KeptConnection | None":
        """Returns a kept connection that is not in use, or None if all are in use."""
        if self._idle:
            kept = self._idle.pop()
            if kept.is_lost():
                kept.drop()
            return kept
        if len(self._all) >= self._limit():
            return None
        self._all.append(KeptConnection(self._database))
        return self._all[-1]


class SQLiteConnections(Connections):
    """Keeps three connections to a SQLite file: opening one takes as long as ten queries.

    One connection reads, one writes, and one writes changes that a power cut may undo. Writes hold the write lock.
    """

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.reader = KeptConnection(database, PRAGMAS)
        self.writer = KeptConnection(database, PRAGMAS)
        self.relaxed_writer = KeptConnection(database, (*PRAGMAS, "PRAGMA synchronous = NORMAL"))

    async def acquire(self, *, write: bool, durable: bool) -> RawConnection:
        if not write:
            return self.reader if self.reader.raw_connection is not None else await self.reader.opened()
        await self.write_lock.acquire()
        try:
            return await (self.writer if durable else self.relaxed_writer).opened()
        except BaseException:
            self.write_lock.release()
            raise

    async def release(self, connection: RawConnection, *, write: bool) -> None:
        if write:
            self.write_lock.release()

    def discard(self, connection: RawConnection, *, with_others: bool) -> None:
        if isinstance(connection, KeptConnection):
            connection.drop()
        elif connection.raw_connection is self.writer.raw_connection:
            self.writer.is_useless = True  # its transaction must be rolled back first

    async def close(self) -> None:
        await self.reader.close()
        async with self.write_lock:
            await self.writer.close()
            await self.relaxed_writer.close()


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
