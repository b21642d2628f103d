"""Connections to a single Redis that are kept for the next command."""

from typing import Any

MAX_KEPT = 8


class ConnectionLost(Exception):
    """A kept connection was closed, for example because Redis was restarted. The command may be repeated."""


class KeptConnections:
    """Takes connections of a pool and does not return them, which halves the time that the client takes for a command.

    `pool` is that of a client of redis.asyncio, `number` the number of connections that may be kept. `lost` is the
    exception of redis-py for a closed connection.
    """

    def __init__(self, pool: Any, number: int, lost: type[Exception]) -> None:
        self._pool, self._lost = pool, lost
        self._free: list[Any] = []
        self._unopened = number

    def has_free(self) -> bool:
        return bool(self._free) or self._unopened > 0

    async def run(self, *command: Any) -> Any:
        """Returns the reply to a command. Raises exceptions of redis-py, and ConnectionLost.

        `has_free()` must be true.
        """
        connection = self._free.pop() if self._free else await self._open()
        try:
            await connection.send_command(*command)
            return await connection.read_response()
        except self._lost as error:
            raise ConnectionLost from error
        finally:
            # redis-py closes a connection whose reply was not read to its end, for example after a cancellation.
            if connection.is_connected:
                self._free.append(connection)
            else:
                await self._give_back(connection)

    async def close_free(self) -> None:
        """Closes the connections that run no command."""
        while self._free:
            connection = self._free.pop()
            try:
                await connection.disconnect()
            finally:
                await self._give_back(connection)

    async def _give_back(self, connection: Any) -> None:
        """Returns a closed connection to the pool. Until then, the pool may have no place for another one."""
        try:
            await self._pool.release(connection)
        finally:
            self._unopened += 1

    async def _open(self) -> Any:
        self._unopened -= 1
        try:
            return await self._pool.get_connection()
        except BaseException:
            self._unopened += 1
            raise
