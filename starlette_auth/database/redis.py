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
    """The connections of an event loop belong to it. One that died is made anew, with the next command.

    `timeout` is how long a connection may take, and each answer, in seconds. `retries` are the further tries of a
    command that found no server, or lost it on the way, and take half a second together.
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
        except ValueError as error:
            # Not repeated: it may hold a password.
            raise ImproperlyConfigured(
                "This is no URL of Redis. Write redis://user:password@host:6379/0, rediss://… or unix:///path."
            ) from error
        self._url = url
        lost = (self._errors.ConnectionError, self._errors.TimeoutError, OSError)
        self._options = {
            "decode_responses": True,
            "socket_timeout": timeout,
            "socket_connect_timeout": timeout,
            "retry": retry.Retry(backoff.ExponentialBackoff(cap=0.2, base=0.02), retries, lost),
            "max_connections": max_connections,
        }
        self._timeout = timeout
        self._scripts: dict[str, Any] = {}
        self._most = max_connections
        self._clients: PerLoop[tuple[Any, asyncio.Semaphore]] = PerLoop(self._make_client)

    @property
    def client(self) -> Any:
        return self._clients.get()[0]

    def _make_client(self) -> tuple[Any, asyncio.Semaphore]:
        """Returns a client, and the semaphore of its free connections."""
        pool = self._library.ConnectionPool.from_url(self._url, **self._options)
        return self._library.Redis.from_pool(pool), asyncio.Semaphore(self._most)

    async def execute(self, command: Coroutine[Any, Any, R]) -> R:
        """What Redis says to a command. Unavailable when it says nothing, or cannot do it."""
        _, free = self._clients.get()
        try:
            if free.locked():  # the pool's own way of waiting takes a tenth of a command, also when nobody waits
                async with asyncio.timeout(self._timeout):
                    await free.acquire()
            else:
                await free.acquire()
        except BaseException as error:
            command.close()  # nobody will wait for it
            if isinstance(error, TimeoutError):
                raise Unavailable("All connections to Redis are busy. Look whether it answers.") from error
            raise
        try:
            return await command
        except (self._errors.RedisError, OSError) as error:
            raise Unavailable(f"Redis does not answer: {one_line(error)}. Look whether it runs.") from error
        finally:
            free.release()

    async def run_script(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        """Returns the result of a Lua script, which Redis runs in one step, between two other commands."""
        registered = self._scripts.get(script)
        if registered is None:
            registered = self._scripts[script] = self.client.register_script(script)
        return await self.execute(registered(keys, arguments, client=self.client))

    async def close(self) -> None:
        client, _ = self._clients.pop() or (None, None)
        if client is not None:
            await client.aclose()
