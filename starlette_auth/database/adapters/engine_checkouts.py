"""Connections that are checked out of the pool of an `AsyncEngine`."""

import asyncio
import contextlib
import logging
from typing import Any

import sqlalchemy as sa

from ...core.concurrency import keep_cancelled, run_to_completion
from ...core.exceptions import StarletteAuthError
from ..errors import connection_error
from .engine import Engine

logger = logging.getLogger("starlette_auth")


class Checkout:
    """A connection that is checked out of the pool, and the connection of the driver in it."""

    def __init__(self, engine: Engine, connection: Any, raw: Any, *, is_detached: bool = False) -> None:
        self.connection = connection
        self.raw_connection = raw
        self._engine = engine
        self._pool = engine.sync_engine.pool
        self._is_detached = is_detached

    def has_pool(self) -> bool:
        """Returns whether the pool of the connection is still that of the engine.

        `dispose()` gives the engine another pool. The old one does not close the connections that return to it.
        """
        return self._is_detached or self._engine.sync_engine.pool is self._pool

    async def check_in(self) -> None:
        """Returns the connection to its pool, or closes it if the pool does not want it."""
        if not self.has_pool():
            await self.close()
            return
        try:
            await self.connection.close()
        except Exception as error:  # the driver has closed the connection; the statement itself was successful
            logger.debug("A connection could not be returned to the pool: %s", type(error).__name__)
        await self._close_detached()

    async def close(self) -> None:
        """Closes the connection. In the pool, it would be of no use to another event loop."""
        with contextlib.suppress(Exception):  # it is closed already
            if not self._is_detached:
                await self.connection.run_sync(_detach)
                self._is_detached = True
            await self.connection.close()
        await self._close_detached()

    async def _close_detached(self) -> None:
        if self._is_detached:
            with contextlib.suppress(Exception):  # it is closed already; SQLAlchemy 2.0.11 leaves it open
                await self.raw_connection.close()

    async def invalidate(self) -> None:
        """Closes the connection, so that the pool opens another one in its place."""
        with contextlib.suppress(Exception):  # it is closed already
            await self.connection.invalidate()
        await self.check_in()


async def check_out(engine: Engine, *, autocommit: bool = True, is_detached: bool = False) -> Checkout:
    """Takes a connection from the pool. Raises Unavailable if the database cannot be reached or the pool is exhausted."""
    connection = engine.connect()
    try:
        await keep_cancelled(connection.start())
    except asyncio.CancelledError:
        with contextlib.suppress(sa.exc.InvalidRequestError):  # it was not taken
            await run_to_completion(connection.close())
        raise
    except StarletteAuthError:
        raise
    except Exception as error:
        raise connection_error(error) from error
    try:
        if autocommit:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
        raw = (await connection.get_raw_connection()).driver_connection
        if is_detached:
            await connection.run_sync(_detach)
    except BaseException:
        await run_to_completion(connection.close())
        raise
    return Checkout(engine, connection, raw, is_detached=is_detached)


def _detach(connection: sa.Connection) -> None:
    connection.detach()
