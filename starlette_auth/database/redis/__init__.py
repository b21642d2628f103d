"""Redis or Valkey: one client per event loop."""

import asyncio
import codecs
import contextlib
import hashlib
import importlib
from collections.abc import Coroutine, Sequence
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

from ...core.concurrency import PerLoop, keep_cancelled
from ...core.exceptions import ImproperlyConfigured, Unavailable
from ...core.text import one_line
from .kept import MAX_KEPT, ConnectionLost, KeptConnections
from .servers import RedisServers, parse_servers

R = TypeVar("R")
URL_FORMS = (
    "redis://user:password@host:6379/0, rediss://… for TLS, unix:///path, redis+sentinel://host:26379,host:26379/service "
    "or redis+cluster://host:6379,host:6379"
)
FAILOVER_TIMEOUT = 2.0  # seconds after which the client looks for the server that replaces a silent one


class RedisClient(Protocol):
    """The common methods of `redis.asyncio.Redis` and `RedisCluster`. The package redis is an extra."""

    def get_encoder(self) -> Any: ...

    async def aclose(self) -> None: ...


class LoopConnections(NamedTuple):
    """The connections of one event loop. `free` counts those of the client's pool that may be used beside the kept ones."""

    client: Any
    free: asyncio.Semaphore
    kept: KeptConnections | None


class RedisClients:
    """Keeps one Redis client with a connection pool per event loop. The next command replaces a lost connection.

    `url` names a single Redis, Sentinels or the nodes of a Redis Cluster, or is a client of `redis.asyncio`. A given
    client belongs to the application, which closes it, and to one event loop.

    `timeout` limits the time to connect, and the time to wait for each reply, in seconds. `retries` is the number of
    further attempts after a connection error; together they take at most half a second. After
    `timeout`, a command to a single Redis is not repeated: visitors would wait several times as long, and Redis may
    still execute the first attempt. Given clients have their own settings; each of their commands ends after `timeout`
    and one second.
    """

    def __init__(
        self, url: str | RedisClient, *, timeout: float = 5.0, retries: int = 2, max_connections: int = 50
    ) -> None:
        try:
            self._library: Any = importlib.import_module("redis.asyncio")
            self._errors: Any = importlib.import_module("redis.exceptions")
            retry: Any = importlib.import_module("redis.asyncio.retry")
            backoff: Any = importlib.import_module("redis.backoff")
        except ModuleNotFoundError as error:
            raise ImproperlyConfigured(
                "Redis needs the package redis. Run `pip install starlette-contrib-auth[redis]`."
            ) from error
        self._url = url
        self._given: Any = None if isinstance(url, str) else url
        self._servers = self._servers_of(url)
        self.is_cluster = self._servers.kind == "cluster"
        self._is_single = self._given is None and not self._servers.kind
        errors: tuple[Any, ...] = (self._errors.ConnectionError, OSError)
        if not self._is_single:
            errors += (self._errors.TimeoutError,)  # another server may have replaced the silent one
        reply_timeout = timeout if self._is_single else min(timeout, FAILOVER_TIMEOUT)
        self._options = {
            "decode_responses": True,
            "socket_timeout": reply_timeout,
            "socket_connect_timeout": reply_timeout,
            "retry": retry.Retry(backoff.ExponentialBackoff(cap=0.2, base=0.02), retries, errors),
            "retry_on_error": list(errors),  # without it, redis-py before 6 does not repeat a command
            "max_connections": max_connections,
        }
        self._timeout = timeout
        self._hashes: dict[str, str] = {}
        self._max_connections = max_connections
        self._is_decoded = self._given is None or self._given.get_encoder().decode_responses
        self._loop: asyncio.AbstractEventLoop | None = None  # of a given client
        self._clients: PerLoop[LoopConnections] = PerLoop(self._make_client)
        # A client of several servers closes connections that other requests use, which then raise AttributeError or
        # another exception. A credential provider of the application may raise anything.
        redis_errors = (self._errors.RedisError, self._errors.RedisClusterException, OSError)
        self._failures = redis_errors if self._is_single else (Exception,)
        if self._given is None:
            self._check_options()

    def _servers_of(self, url: object) -> "RedisServers":
        """Returns the servers of a URL or client. Raises ImproperlyConfigured for anything else."""
        if isinstance(url, str):
            try:
                return parse_servers(url, importlib.import_module("redis.asyncio.connection").parse_url)
            except ValueError:
                # Neither the message nor its cause contains the URL, because it may contain a password.
                raise ImproperlyConfigured(f"This is not a Redis URL. Use {URL_FORMS}.") from None
        if not isinstance(url, self._library.Redis | self._library.RedisCluster):
            raise ImproperlyConfigured(
                f"{type(url).__module__}.{type(url).__name__} is no Redis client of redis.asyncio. Pass a URL, or a "
                "client such as redis.asyncio.Redis(…)."
            )
        encoding = url.get_encoder().encoding
        if codecs.lookup(encoding).name != "utf-8":
            raise ImproperlyConfigured(
                f'This Redis client has the encoding {encoding}, which not every text has. Pass encoding="utf-8" to it.'
            )
        return RedisServers("cluster" if isinstance(url, self._library.RedisCluster) else "")

    def _check_options(self) -> None:
        """Raises ImproperlyConfigured if the URL has an option that redis-py does not know."""
        try:
            pool = getattr(self._client_of_url(), "connection_pool", None)  # a cluster has checked its options
            if pool is not None:
                pool.connection_class(**pool.connection_kwargs)
        except TypeError as error:
            raise ImproperlyConfigured(
                f"The Redis URL has an option that redis-py does not know: {one_line(error)}. Remove it from the URL."
            ) from None

    @property
    def client(self) -> Any:
        return self._clients.get().client

    def _make_client(self) -> LoopConnections:
        client = self._client_of_url() if self._given is None else self._given_client()
        size = min(self._max_connections, _pool_size(client))
        kept = min(MAX_KEPT, size // 2) if self._is_single else 0
        return LoopConnections(
            client,
            asyncio.Semaphore(size - kept),
            KeptConnections(client.connection_pool, kept, self._errors.ConnectionError) if kept else None,
        )

    def _client_of_url(self) -> Any:
        if self._is_single:
            return self._library.Redis.from_pool(self._library.ConnectionPool.from_url(self._url, **self._options))
        servers = self._servers
        options = {**self._options, **servers.options}
        if self.is_cluster:
            cluster: Any = importlib.import_module("redis.asyncio.cluster")
            options.pop("db", None)
            return cluster.RedisCluster(startup_nodes=[cluster.ClusterNode(*node) for node in servers.nodes], **options)
        shared = {name: value for name, value in self._options.items() if name.startswith("socket") or name == "retry"}
        sentinel = self._library.Sentinel(servers.nodes, sentinel_kwargs={**shared, **servers.sentinel_options})
        return sentinel.master_for(servers.service, **options)

    def _given_client(self) -> Any:
        loop = asyncio.get_running_loop()
        if self._loop not in (None, loop):
            raise ImproperlyConfigured(
                "This Redis client is used in a second event loop, but its connections belong to the first one. Pass a "
                "URL instead, from which a client is made for each event loop."
            )
        self._loop = loop
        return self._given

    async def run(self, *command: Any) -> Any:
        """Returns the reply of Redis to a command. Raises Unavailable if there is none, or if it is an error."""
        connections = self._clients.get()
        if connections.kept is not None and connections.kept.has_free():
            try:
                return await keep_cancelled(connections.kept.run(*command))
            except ConnectionLost:
                pass
            except self._failures as error:
                await self._raise(connections, error)
        return await self.execute(connections.client.execute_command(*command))

    async def execute(self, command: Coroutine[Any, Any, R]) -> R:
        """Returns the reply of Redis to a command of the client. Raises Unavailable like `run`."""
        try:
            connections = self._clients.get()
            free_connections = connections.free
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
            if self._is_single:
                return await keep_cancelled(command)
            async with asyncio.timeout(self._timeout + 1):
                reply = await keep_cancelled(command)
            return reply if self._is_decoded else _decoded(reply)
        except self._failures as error:
            await self._raise(connections, error)
        finally:
            free_connections.release()

    async def _raise(self, connections: LoopConnections, error: Exception) -> NoReturn:
        if isinstance(error, self._errors.NoScriptError):
            raise error  # the script can be sent instead of its hash
        await self._drop_useless(connections, error)
        raise Unavailable(self._reason(error)) from error

    async def _drop_useless(self, connections: LoopConnections, error: Exception) -> None:
        """Closes the connections that cannot be used again after this error."""
        if self.is_cluster:
            # The client knows no reachable node. A new client starts with the nodes of the URL.
            is_lost = self._given is None and isinstance(error, self._errors.RedisClusterException)
            if is_lost and connections.client is self.client:
                await self.close()
            return
        # Redis before version 7 wraps the error of a command in that of its script.
        if isinstance(error, self._errors.ReadOnlyError) or "READONLY" in str(error):
            # The server became a replica. Its name may lead to another server now.
            with contextlib.suppress(Exception):
                if connections.kept is not None:
                    await connections.kept.close_free()
                await connections.client.connection_pool.disconnect(inuse_connections=False)

    def _reason(self, error: Exception) -> str:
        text = one_line(error) or type(error).__name__
        is_refusal = isinstance(error, (self._errors.AuthenticationError, self._errors.NoPermissionError))
        if is_refusal or "unauthenticated" in text:
            return f"Redis refuses the credentials or a command: {text}. Check the user, the password and the ACL."
        is_elsewhere = isinstance(error, (self._errors.MovedError, self._errors.ClusterCrossSlotError))
        is_elsewhere = is_elsewhere or text.startswith(("MOVED", "CROSSSLOT")) or "in a cluster node" in text
        if is_elsewhere and not self.is_cluster:
            return f"This Redis is a node of a cluster: {text}. Use redis+cluster://host:6379 or a RedisCluster client."
        return f"Redis does not answer: {text}. Check that it is running."

    async def run_script(self, script: str, keys: Sequence[str], *arguments: Any) -> Any:
        """Returns the result of a Lua script, which Redis runs atomically."""
        digest = self._hashes.get(script)
        if digest is None:
            digest = self._hashes[script] = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        try:
            return await self.run("EVALSHA", digest, len(keys), *keys, *arguments)
        except self._errors.NoScriptError:
            return await self.run("EVAL", script, len(keys), *keys, *arguments)

    async def close(self) -> None:
        """Closes the connections of the running event loop. A given client stays open."""
        connections = self._clients.pop()
        client = connections and connections.client
        if client is None or client is self._given:
            self._loop = None
            return
        await client.aclose()
        if not (self._is_single or self.is_cluster):
            for sentinel in client.connection_pool.sentinel_manager.sentinels:
                await sentinel.aclose()


def _pool_size(client: Any) -> int:
    """Returns how many connections a client may open."""
    pool = getattr(client, "connection_pool", None)  # a cluster has one for each node
    return int(pool.max_connections if pool is not None else client.get_connection_kwargs()["max_connections"])


def _decoded(reply: Any) -> Any:
    """Returns a reply with text instead of bytes."""
    if isinstance(reply, bytes):
        return reply.decode()
    if isinstance(reply, list):
        return [_decoded(item) for item in reply]
    return reply
