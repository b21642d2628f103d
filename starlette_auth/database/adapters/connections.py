"""Connections for statements outside of a transaction: kept open for one event loop, or taken from a pool."""

import abc
import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from .drivers import RawConnection
from .sqlite import PRAGMAS, RELAXED_PRAGMAS, WriteLock

MAX_WAITING = 2  # tasks that wait for a kept connection, for each such connection that runs a statement


class Kept(Protocol):
    """A connection that stays open for one event loop. `raw_connection` is None while it is closed."""

    raw_connection: Any
    is_useless: bool  # it must be closed after its transaction

    async def opened(self) -> "Kept":
        """Opens this connection if necessary, and returns it."""
        ...

    def is_lost(self) -> bool:
        """Returns whether the driver knows that the connection was closed."""
        ...

    def drop(self) -> asyncio.Task[None] | None:
        """Begins to close the connection, and returns the task that does. The next statement opens a new one."""
        ...

    async def close(self) -> None: ...


class Connections(abc.ABC):
    """Provides connections for statements outside of a transaction. There is one object per event loop."""

    def __init__(self) -> None:
        self.write_lock = WriteLock()

    @abc.abstractmethod
    async def acquire(self, *, write: bool, durable: bool, for_transaction: bool = False) -> RawConnection:
        """Returns an open connection for one statement, or for a transaction.

        `durable=False` allows the database to lose the change in a power cut.
        """

    @abc.abstractmethod
    async def release(self, connection: RawConnection, *, write: bool) -> None:
        """Releases a connection that `acquire` returned."""

    def discard(self, connection: RawConnection, *, with_others: bool) -> None:  # noqa: B027  pools do it themselves
        """Prevents further use of a kept connection; with `with_others`, of all kept connections.

        The caller still has to release the connection.
        """

    async def open_first(self) -> None:  # noqa: B027  a pool has none
        """Opens the first kept connections, before the application may have taken all connections of the pool."""

    async def close(self) -> None:  # noqa: B027  the pool is closed elsewhere
        """Closes the kept connections, or returns them to the pool."""


class Pool(Connections):
    """Takes each connection from a pool."""

    def has_room(self) -> bool:
        """Returns whether the pool has a connection, as far as is known, so that `acquire` does not wait."""
        return True


class KeptConnections(Connections):
    """Keeps up to `limit()` connections out of the pool, which saves one round trip or more per statement."""

    def __init__(self, pool: Pool, make: Callable[[], Kept], limit: Callable[[], int]) -> None:
        super().__init__()
        self._pool = pool
        self._make = make
        self._limit = limit
        self._all: list[Kept] = []
        self._idle: list[Kept] = []
        self._in_transaction: list[Kept] = []
        self._waiting: deque[asyncio.Future[Kept]] = deque()

    async def acquire(self, *, write: bool, durable: bool, for_transaction: bool = False) -> RawConnection:
        kept = self._take()
        if kept is None:
            # The application may hold all connections of the pool, each in a task that waits for this package.
            if not self._may_wait() and (not self._all or self._pool.has_room()):
                return await self._pool.acquire(write=write, durable=durable)
            kept = await self._wait()
        if for_transaction:
            self._in_transaction.append(kept)
        if kept.raw_connection is not None:
            return kept
        try:
            return await kept.opened()
        except BaseException:
            self._put_back(kept)
            raise

    async def open_first(self) -> None:
        if not self._all and self._limit() > 0:
            self._put_back(self._new())
        if self._all:
            await self._all[0].opened()

    async def release(self, connection: RawConnection, *, write: bool) -> None:
        kept = self._find(connection)
        if kept is not None:
            self._put_back(kept)
        else:
            await self._pool.release(connection, write=write)

    def discard(self, connection: RawConnection, *, with_others: bool) -> None:
        kept = self._find(connection)
        if kept is None:
            self._pool.discard(connection, with_others=False)
        for lost in [*(self._idle if with_others else ()), *([kept] if kept is not None else ())]:
            lost.drop()

    async def close(self) -> None:
        for kept in self._all:
            await kept.close()

    def _take(self) -> Kept | None:
        """Returns a kept connection that is not in use, or None if all are in use."""
        if self._idle:
            kept = self._idle.pop()
            if kept.is_lost():
                kept.drop()
            return kept
        return None if len(self._all) >= self._limit() else self._new()

    def _new(self) -> Kept:
        self._all.append(self._make())
        return self._all[-1]

    def _may_wait(self) -> bool:
        """Returns whether a kept connection is soon free: it runs a statement, for which few others wait.

        A connection from the pool would cost more time than the statement.
        """
        return len(self._waiting) < MAX_WAITING * (len(self._all) - len(self._in_transaction))

    def _find(self, connection: RawConnection) -> Kept | None:
        return next((kept for kept in self._all if kept is connection), None)

    async def _wait(self) -> Kept:
        future: asyncio.Future[Kept] = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled():
                self._put_back(future.result())
            raise

    def _put_back(self, kept: Kept) -> None:
        if kept in self._in_transaction:
            self._in_transaction.remove(kept)
        while self._waiting:
            future = self._waiting.popleft()
            if not future.done():
                future.set_result(kept)
                return
        self._idle.append(kept)


class SQLiteConnections(Connections):
    """Keeps three connections to a SQLite file: opening one takes as long as ten queries.

    One connection reads, one writes, and one writes changes that a power cut may undo. Writes hold the write lock.
    `make` makes a connection with these PRAGMA statements.
    """

    def __init__(self, make: Callable[[tuple[str, ...]], Kept]) -> None:
        super().__init__()
        self.reader, self.writer, self.relaxed_writer = make(PRAGMAS), make(PRAGMAS), make(RELAXED_PRAGMAS)

    async def acquire(self, *, write: bool, durable: bool, for_transaction: bool = False) -> RawConnection:
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
        for kept in (self.reader, self.writer, self.relaxed_writer):
            if kept is connection:
                kept.drop()
                return
        if connection.raw_connection is self.writer.raw_connection:
            self.writer.is_useless = True  # its transaction must be rolled back first

    async def open_first(self) -> None:
        for kept in (self.reader, self.writer, self.relaxed_writer):
            if kept.raw_connection is None:
                await kept.opened()

    async def close(self) -> None:
        await self.reader.close()
        async with self.write_lock:
            await self.writer.close()
            await self.relaxed_writer.close()
