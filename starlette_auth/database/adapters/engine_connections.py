"""Connections of an `AsyncEngine`: in autocommit, taken from its pool for a statement or kept open."""

import asyncio
import contextlib
import logging
from collections.abc import Sequence
from contextvars import Context
from typing import Any

from sqlalchemy.pool import QueuePool

from ...core.concurrency import run_to_completion
from ...core.exceptions import ImproperlyConfigured
from .connections import Pool
from .drivers import Driver, RawConnection
from .engine import Engine
from .engine_checkouts import Checkout, check_out
from .sqlite import require_folder

logger = logging.getLogger("starlette_auth")


class EnginePool(Pool):
    """Takes each connection from the pool of the engine."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self._useless: set[RawConnection] = set()

    def has_room(self) -> bool:
        room = pool_size(self._engine)
        return room is None or checked_out(self._engine) < room

    async def acquire(self, *, write: bool, durable: bool, for_transaction: bool = False) -> RawConnection:
        return await check_out(self._engine)

    async def release(self, connection: RawConnection, *, write: bool) -> None:
        assert isinstance(connection, Checkout)  # noqa: S101  acquire() returned it
        is_useless = connection in self._useless
        self._useless.discard(connection)
        await run_to_completion(connection.invalidate() if is_useless else connection.check_in())

    def discard(self, connection: RawConnection, *, with_others: bool) -> None:
        self._useless.add(connection)


class EngineConnection:
    """Keeps one connection of the engine open until it is closed.

    A connection to a SQLite file is detached from the pool: its PRAGMA statements are for this package alone, and it uses
    no connection of a server. The connections to servers still count in the pool.
    """

    def __init__(self, engine: Engine, driver: Driver, pragmas: Sequence[str] = ()) -> None:
        self._engine = engine
        self._driver = driver
        self._pragmas = pragmas
        self._checkout: Checkout | None = None
        self._opening: asyncio.Task[None] | None = None
        self.raw_connection: Any = None
        self.is_useless = False

    async def opened(self) -> "EngineConnection":
        while self.raw_connection is None:
            if self._opening is None:
                # An empty context: otherwise the connection would keep the context of the first request alive.
                self._opening = asyncio.get_running_loop().create_task(self._open(), context=Context())
                self._opening.add_done_callback(self._note_opened)
            await asyncio.shield(self._opening)
        return self

    def is_lost(self) -> bool:
        if self._checkout is not None and not self._checkout.has_pool():
            return True
        try:
            return self.raw_connection is not None and self._driver.is_closed(self.raw_connection)
        except Exception:  # the driver has forgotten the connection
            return True

    def drop(self) -> asyncio.Task[None] | None:
        checkout, self._checkout, self.raw_connection, self.is_useless = self._checkout, None, None, False
        if checkout is None:
            return None
        # A detached connection has no pool that would replace it.
        work = checkout.check_in() if self._pragmas else checkout.invalidate()
        task = asyncio.get_running_loop().create_task(work, context=Context())
        _closing.add(task)
        task.add_done_callback(_closing.discard)
        return task

    async def close(self) -> None:
        if self._opening is not None:
            await asyncio.wait([self._opening])
        checkout, self._checkout, self.raw_connection = self._checkout, None, None
        if checkout is not None:
            await run_to_completion(checkout.close())

    async def _open(self) -> None:
        file = self._engine.url.database or ""
        if self._pragmas and not file.startswith("file:"):  # which begins a URI
            await require_folder(file)
        checkout = await check_out(self._engine, is_detached=bool(self._pragmas))
        if self._driver.in_transaction(checkout.raw_connection):
            await checkout.check_in()
            raise ImproperlyConfigured(
                "A new connection of the engine is in a transaction already, so that nothing would be committed. Leave "
                "autocommit=False out of its connect_args."
            )
        for pragma in self._pragmas:
            with contextlib.suppress(Exception):  # the file is in use elsewhere, or read-only
                await checkout.raw_connection.execute_fetchall(pragma)
        self._checkout, self.raw_connection = checkout, checkout.raw_connection

    def _note_opened(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # marks it as retrieved: all waiting tasks may have been cancelled


def pool_size(engine: Engine) -> int | None:
    """Returns how many connections the pool of an engine may have open; None if their number is not limited."""
    pool: Any = engine.sync_engine.pool
    if not isinstance(pool, QueuePool):
        return None
    size, overflow = pool.size(), int(getattr(pool, "_max_overflow", -1))
    return None if size == 0 or overflow < 0 else size + overflow


def checked_out(engine: Engine) -> int:
    """Returns how many connections of the pool are in use."""
    pool = engine.sync_engine.pool
    return pool.checkedout() if isinstance(pool, QueuePool) else 0


_closing: set[asyncio.Task[None]] = set()  # an event loop keeps only weak references to its tasks
