"""Connections that stay open for one event loop, and the lock that serialises SQLite writes."""

import abc
import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from contextvars import Context, ContextVar, Token
from pathlib import Path
from typing import Any, Protocol, cast

from databases import Database
from databases.interfaces import ConnectionBackend

from ..core.exceptions import ImproperlyConfigured, StarletteAuthError, Unavailable

logger = logging.getLogger("starlette_auth")

# The task that holds a write lock. The variable is also set in tasks that the holder starts during its transaction.
_transaction_of: ContextVar[asyncio.Task[Any] | None] = ContextVar("transaction_of", default=None)
PRAGMAS = ("PRAGMA foreign_keys = ON", "PRAGMA journal_mode = WAL")


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
                    await self._require_folder()
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

    async def _require_folder(self) -> None:
        """Raises MissingFolder if the folder is missing. The error of SQLite does not name the file."""
        folder = Path(self._database.url.database).parent
        if not await asyncio.to_thread(folder.is_dir):
            raise MissingFolder(
                f"The folder {folder} of the database file does not exist. Create it, or use another path."
            )


class MissingFolder(ImproperlyConfigured, Unavailable):
    """The folder of the SQLite file is missing: a wrong path, or a disk that is not mounted."""


class WriteLockTimeout(StarletteAuthError, TimeoutError):
    """A task waited too long for a write lock that the task which started it holds.

    This is a mistake of the application: the holder waits for a task that waits for the lock.
    """


class WriteLock:
    """A reentrant lock for tasks: the task that holds it may acquire it again."""

    timeout = 30.0  # seconds

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._depth = 0
        self._waiting = 0
        self._tokens: list[Token[asyncio.Task[Any] | None]] = []

    async def acquire(self) -> None:
        task = asyncio.current_task()
        if self._owner is not None and self._owner is task:
            self._depth += 1
            return
        if self._waiting or self._lock.locked():
            await self._wait()
        else:
            await self._lock.acquire()
        self._owner, self._depth = task, 1

    def release(self) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            self._lock.release()

    async def __aenter__(self) -> None:
        await self.acquire()
        self._tokens.append(_transaction_of.set(self._owner))

    async def __aexit__(self, *exc: object) -> None:
        with contextlib.suppress(ValueError):  # the block was left in another context, as by a fixture
            _transaction_of.reset(self._tokens.pop())
        self.release()

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self.timeout):
                await self._lock.acquire()
        except TimeoutError:
            problem = f"The write lock has been held by another task for {self.timeout:g} seconds."
            if self._owner is not None and _transaction_of.get() is self._owner:
                raise WriteLockTimeout(
                    f"{problem} That task started this one and must not wait for it inside atomic(). Write in that task."
                ) from None
            raise Unavailable(
                f"{problem} Check that no other process locks the database, and that no task waits inside atomic()."
            ) from None
        finally:
            self._waiting -= 1
