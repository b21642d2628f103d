"""Redis or Valkey: one client per event loop."""

import asyncio
import importlib
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from ..core.concurrency import PerLoop
from ..core.exceptions import ImproperlyConfigured, Unavailable
from ..core.text import one_line

R = TypeVar("R")


class RedisClients:
    """Keeps one Redis client with a connection pool per event loop. The next command replaces a lost connection.

    `timeout` limits the time to connect, and the time to wait for each reply, in seconds. `retries` is the number of
    further attempts after a connection error; together they take at most half a second.
    """

    def __init__(self, url: str, *, timeout: float = 5.0, retries: int = 2, max_connections: int = 50) -> None:
        try:
            self._library: Any = importlib.import_module("redis.asyncio")
            retry: Any = importlib.import_module("redis.asyncio.retry")
            backoff: Any = importlib.import_module("redis.backoff")
            self._errors: Any = importlib.import_module("redis.exceptions")
            importlib.import_module("redis.asyncio.connection").parse_url(url)
        except ModuleNotFoundError as error:
            raise ImproperlyConfigured(
                "Redis needs the package redis. Run `pip install starlette-contrib-auth[redis]`."
            ) from error
        except ValueError:
            # Neither the message nor its cause contains the URL, because it may contain a password.
            raise ImproperlyConfigured(
                "This is not a Redis URL. Use redis://user:password@host:6379/0, rediss://… or unix:///path."
            ) from None
        self._url = url
        connection_errors = (self._errors.ConnectionError, self._errors.TimeoutError, OSError)
        self._options = {
            "decode_responses": True,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": retry.Retry(backoff.ExponentialBackoff(cap=0.2, base=0.02), retries, connection_errors),
            "max_connections": max_connections,
        }
        self._timeout = timeout
        self._scripts: dict[str, Any] = {}
        self._max_connections = max_connections
        self._clients: PerLoop[tuple[Any, asyncio.Semaphore]] = PerLoop(self._make_client)

    @property
    def client(self) -> Any:
        return self._clients.get()[0]

    def _make_client(self) -> tuple[Any, asyncio.Semaphore]:
        """Returns a client, and the semaphore of its free connections."""
        pool = self._library.ConnectionPool.from_url(self._url, **self._options)
        return self._library.Redis.from_pool(pool), asyncio.Semaphore(self._max_connections)

    async def execute(self, command: Coroutine[Any, Any, R]) -> R:
        """Returns the reply of Redis to a command. Raises Unavailable if there is none, or if it is an error."""
        _, free_connections = self._clients.get()
        try:
            # The blocking pool of redis-py would add a tenth to the time of each command.
            if free_connections.locked():
                async with asyncio.timeout(self._timeout):
                    await free_connections.acquire()
            else:
                await free_connections.acquire()
        except BaseException as error:
            command.close()  # it will not be awaited
            if isinstance(error, TimeoutError):
                raise Unavailable("All connections to Redis are busy. Check that it responds.") from error
            raise
        try:
            return await command
        except (self._errors.RedisError, OSError) as error:
            raise Unavailable(f"Redis does not answer: {one_line(error)}. Check that it is running.") from error
        finally:
            free_connections.release()

    async def run_script(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        """Returns the result of a Lua script, which Redis runs atomically."""
        registered = self._scripts.get(script)
        if registered is None:
            registered = self._scripts[script] = self.client.register_script(script)
        return await self.execute(registered(keys, arguments, client=self.client))

    async def close(self) -> None:
        client, _ = self._clients.pop() or (None, None)
        if client is not None:
            await client.aclose()
