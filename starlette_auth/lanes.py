"""What one event loop keeps for one database: open connections, and whose turn it is to write to SQLite."""

import asyncio
import contextlib
from collections.abc import Awaitable, Sequence
from contextvars import Context
from pathlib import Path
from typing import Any

from databases import Database

from .exceptions import ImproperlyConfigured, StarletteAuthError

PRAGMAS = ("PRAGMA foreign_keys = ON", "PRAGMA journal_mode = WAL")


class Lane:
    """For SQLite a connection for reading, one for writing and one for what need not last, and a lock for the writers.

    For PostgreSQL a few, where that is asked for.
    """

    def __init__(self, database: Database) -> None:
        self.reader = KeptConnection(database, PRAGMAS)
        self.writer = KeptConnection(database, PRAGMAS)
        self.jotter = KeptConnection(database, (*PRAGMAS, "PRAGMA synchronous = NORMAL"))
        self.turn = Turn()
        self._database = database
        self._all: list[KeptConnection] = []
        self._idle: list[KeptConnection] = []

    def take(self, most: int) -> "KeptConnection | None":
        """One of so many that nobody works with; None when all are busy. `give_back` it."""
        if self._idle:
            kept = self._idle.pop()
            if kept.raw is not None and _is_lost(kept.raw):
                kept.drop()
            return kept
        if len(self._all) >= most:
            return None
        self._all.append(KeptConnection(self._database))
        return self._all[-1]

    def give_back(self, kept: "KeptConnection") -> None:
        self._idle.append(kept)

    async def close(self) -> None:
        for kept in (self.reader, *self._all):
            await kept.close()
        async with self.turn:
            await self.writer.close()
            await self.jotter.close()


class KeptConnection:
    """A connection of `databases` that stays open in a task of its own, until it is given back or its loop ends."""

    def __init__(self, database: Database, pragmas: Sequence[str] = ()) -> None:
        self._database = database
        self._pragmas = pragmas
        self._opening: asyncio.Future[Any] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._enough = asyncio.Event()
        self.raw: Any = None  # the driver's own connection, while it is open

    async def open(self) -> Any:
        if self._opening is None or (self._keeper and self._keeper.done()):
            loop = asyncio.get_running_loop()
            self._opening, self._enough = loop.create_future(), asyncio.Event()
            # In no context: that of the request which happens to be first would be kept too.
            self._keeper = loop.create_task(self._keep(self._opening, self._enough), context=Context())
        if self._opening.done():
            return self._opening.result()
        return await asyncio.shield(self._opening)

    async def close(self) -> None:
        keeper = self.drop()
        if keeper is not None:
            await asyncio.wait([keeper])

    def drop(self) -> asyncio.Task[None] | None:
        """Gives it back as soon as its task comes to it; the next time, another one is opened."""
        keeper, self._opening, self._keeper, self.raw = self._keeper, None, None, None
        self._enough.set()
        return keeper

    async def _keep(self, opened: asyncio.Future[Any], enough: asyncio.Event) -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                if self._pragmas:
                    await self._require_folder()
                connection = await stack.enter_async_context(self._database.connection())
                for pragma in self._pragmas:
                    with contextlib.suppress(Exception):  # a file that others use, or that is read-only, stays as it is
                        await connection.raw_connection.execute_fetchall(pragma)
            except Exception as error:
                opened.set_exception(error)
                opened.exception()  # those who asked may have been cancelled
                return
            opened.set_result(connection)
            self.raw = connection.raw_connection
            try:
                await enough.wait()
            finally:
                if self._opening is opened:  # nobody has opened another one since
                    self.raw = None

    async def _require_folder(self) -> None:
        """SQLite would only say that it is unable to open the file, and not which."""
        folder = Path(self._database.url.database).parent
        if not await asyncio.to_thread(folder.is_dir):
            raise ImproperlyConfigured(
                f"There is no folder {folder} for the database. Create it, or name another file."
            )


def _is_lost(raw: Any) -> bool:
    try:
        return bool(raw.is_closed())
    except Exception:  # the pool has taken it back already
        return True


class StillBusy(StarletteAuthError, TimeoutError):
    """A task waited too long for its turn to write."""


class Turn:
    """A lock that its own task may take again."""

    patience = 30.0  # seconds

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._depth = 0
        self._waiting = 0

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if self._owner is not None and self._owner is task:
            self._depth += 1
            return
        if self._waiting or self._lock.locked():
            await self._wait()
        else:
            await self._lock.acquire()
        self._owner, self._depth = task, 1

    async def _wait(self) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout(self.patience):
                await self._lock.acquire()
        except TimeoutError:
            raise StillBusy(
                f"The transaction of another task has not ended for {self.patience:g} seconds. "
                "A task inside atomic() must not wait for a task that writes: write in the same task."
            ) from None
        finally:
            self._waiting -= 1

    async def __aexit__(self, *exc: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            self._lock.release()


async def uninterrupted(work: Awaitable[None]) -> None:
    """Sees it through, however often the task is cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
