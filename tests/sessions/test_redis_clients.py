"""RedisStore and CachedStore with Sentinels, a Redis Cluster, or a client of the application's own."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import redis.asyncio
from redis.asyncio import BlockingConnectionPool, ConnectionPool, Redis, RedisCluster, Sentinel
from redis.asyncio.cluster import ClusterNode
from redis.credentials import CredentialProvider, UsernamePasswordCredentialProvider

from starlette_auth import (
    Auth,
    CachedStore,
    DatabaseStore,
    ImproperlyConfigured,
    RedisStore,
    SessionInterrupted,
    Unavailable,
)
from starlette_auth.core.signing import hash_key
from starlette_auth.database.redis import RedisClients
from starlette_auth.testing import log_in

from ..conftest import PASSWORD, REDIS_URL, client_of, database_with_tables, installed, needs_redis, redis_prefix
from ..conftest import connected as connected_database
from ..support.apps import make_app
from ..support.redis_servers import SERVICE, Node, shared_cluster, shared_sentinels
from .test_stores import public_id_of, save_login, save_new

Made = Redis | RedisCluster


def single(**options: Any) -> Made:
    return Redis.from_url(REDIS_URL, **options)


def cluster(**options: Any) -> Made:
    nodes = [ClusterNode("127.0.0.1", node.port) for node in shared_cluster().nodes]
    return RedisCluster(startup_nodes=nodes, **options)


def behind_sentinels(**options: Any) -> Made:
    nodes = [("127.0.0.1", node.port) for node in shared_sentinels().sentinels]
    primary: Redis = Sentinel(nodes).master_for(SERVICE, **options)  # type: ignore[no-untyped-call]
    return primary


def blocking(**options: Any) -> Made:
    return Redis.from_pool(BlockingConnectionPool.from_url(REDIS_URL, max_connections=2, timeout=5, **options))


def small(**options: Any) -> Made:
    return Redis.from_pool(ConnectionPool.from_url(REDIS_URL, max_connections=2, **options))


@contextlib.asynccontextmanager
async def closing(client: Made) -> AsyncIterator[Made]:
    try:
        yield client
    finally:
        await client.aclose()
        with contextlib.suppress(AttributeError):
            for sentinel in client.connection_pool.sentinel_manager.sentinels:  # type: ignore[union-attr]
                await sentinel.aclose()


@needs_redis
@pytest.mark.parametrize("decode_responses", [False, True], ids=["bytes", "text"])
@pytest.mark.parametrize("make", [single, cluster, behind_sentinels, blocking, small], ids=lambda make: make.__name__)
async def test_a_store_uses_a_client_of_the_application_and_leaves_it_open(
    make: Callable[..., Made], decode_responses: bool, tmp_path: Path
) -> None:
    url, folder = f"sqlite+aiosqlite:///{tmp_path}/test.sqlite3", tmp_path
    async with (
        redis_prefix() as prefix,
        closing(await asyncio.to_thread(make, decode_responses=decode_responses)) as client,
        database_with_tables("sqlite", folder),
        connected_database(url) as database,
    ):
        for sessions in (
            RedisStore(client, prefix=prefix),
            lambda users: CachedStore(DatabaseStore(database, users=users), client, prefix=f"{prefix}cached:"),
        ):
            async with installed(database, sessions=sessions) as auth:
                await check_store(auth)
            assert await client.get(f"{prefix}nothing") is None


async def check_store(auth: Auth) -> None:
    store, app = auth.sessions, make_app(auth)
    ann = await auth.users.create_user("ann", password=PASSWORD)
    logins = [await save_login(store, ann.identity, "é☃", number=number) for number in range(20)]
    loaded = await asyncio.gather(*(store.load(str(login.session_key)) for login in logins))
    assert [session["number"] for session in loaded] == list(range(20))
    assert loaded[0].record is not None
    assert loaded[0].record.user_agent == "é☃"
    loaded[0].cycle_key()
    loaded[0]["a"] = 1
    assert (await store.load(await store.save(loaded[0], 60)))["a"] == 1
    assert len(await store.list_sessions(ann.identity)) == 20
    assert await store.revoke_all(ann.identity, keep=public_id_of(logins[3])) == 19
    async with client_of(app) as client:
        await log_in(client, ann, auth)
        assert (await client.get("/whoami")).json()["username"] == "ann"
        await auth.user_sessions.revoke_all(ann)
        assert (await client.get("/whoami")).json()["username"] == ""
    await auth.users.delete(ann)


@needs_redis
async def test_a_client_is_refused_in_a_second_event_loop() -> None:
    async with closing(single()) as client, redis_prefix() as prefix:
        store = RedisStore(client, prefix=prefix)
        cookie = await save_new(store, a=1)

        def use_elsewhere() -> None:
            asyncio.run(store.load(cookie))

        with pytest.raises(ImproperlyConfigured, match="Pass a URL instead"):
            await asyncio.to_thread(use_elsewhere)
        assert await store.load(cookie) == {"a": 1}
        await store.close()
        await client.aclose()
        await asyncio.to_thread(lambda: asyncio.run(load_and_close(store, cookie, client)))


async def load_and_close(store: RedisStore, cookie: str, client: Made) -> None:
    assert await store.load(cookie) == {"a": 1}
    await store.close()
    await client.aclose()


@pytest.mark.parametrize(
    "client", [redis.Redis(), redis.Redis(single_connection_client=False).connection_pool, None, b"redis://x", object()]
)
def test_what_is_no_asyncio_client_is_refused(client: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Pass a URL, or a client such as redis.asyncio.Redis"):
        RedisStore(client)


def test_a_client_with_another_encoding_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match='encoding="utf-8"'):
        RedisStore(Redis(encoding="latin-1"))
    RedisStore(Redis(encoding="UTF8"))


class Broken(CredentialProvider):
    """A credential provider whose service is out of order."""

    def get_credentials(self) -> Any:
        raise LookupError("the token service does not answer")


@needs_redis
async def test_credentials_come_from_a_provider_and_its_failure_is_unavailable(tmp_path: Path) -> None:
    node = Node(tmp_path, "--requirepass", "right")
    try:
        for provider, expected in (
            (UsernamePasswordCredentialProvider(password="right"), ""),
            (UsernamePasswordCredentialProvider(password="wrong"), "refuses the credentials"),
            (Broken(), "the token service does not answer"),
        ):
            async with closing(Redis(port=node.port, credential_provider=provider)) as client:
                with pytest.raises(Unavailable, match=expected) if expected else contextlib.nullcontext():
                    await save_new(RedisStore(client), a=1)
    finally:
        node.kill()


@needs_redis
async def test_a_command_of_a_client_without_timeouts_has_an_end(tmp_path: Path) -> None:
    node = Node(tmp_path)
    try:
        async with closing(Redis(port=node.port, socket_timeout=None)) as client:
            clients = RedisClients(client, timeout=0.1)
            assert await clients.execute(clients.client.get("a")) is None
            node.freeze()
            with pytest.raises(Unavailable, match="TimeoutError"):
                await clients.execute(clients.client.get("a"))
    finally:
        node.kill()


# URLs


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://:s3cret@127.0.0.1:26379",
        "redis+sentinel://:s3cret@/service",
        "redis+sentinel://:s3cret@host,/service",
        "redis+sentinel://:s3cret@host:port/service",
        "redis+sentinel://:s3cret@host/service/name",
        "redis+cluster://:s3cret@host/1",
        "redis+cluster://:s3cret@[host",
        "redis+other://:s3cret@host",
        "http+cluster://:s3cret@host",
        "unix+sentinel:///s3cret/service",
    ],
)
def test_an_invalid_url_of_several_servers_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Use .*redis\+sentinel://host") as error:
        RedisStore(url)
    assert "s3cret" not in str(error.value)
    assert error.value.__cause__ is None


@pytest.mark.parametrize("server", ["redis://h", "rediss://h", "redis+sentinel://h/s", "redis+cluster://h"])
def test_an_unknown_option_in_a_url_is_refused_and_its_value_not_shown(server: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"socket_timout.*Remove it from the URL") as error:
        RedisStore(f"{server}?socket_timout=s3cret")
    assert "s3cret" not in str(error.value)
    RedisStore(f"{server}?socket_timeout=1&max_connections=7")


async def test_a_url_of_sentinels_names_credentials_database_and_tls() -> None:
    url = "rediss+sentinel://us%40er:p%3Aw@a:1,[::1]:2,c/my%20service/3?sentinel_password=s&ssl_cert_reqs=none"
    clients = RedisClients(url)
    pool = clients.client.connection_pool
    sentinels = [sentinel.connection_pool for sentinel in pool.sentinel_manager.sentinels]
    assert pool.service_name == "my service"
    for name, value in {"username": "us@er", "password": "p:w", "db": 3}.items():
        assert pool.connection_kwargs[name] == value
    addresses = [(each.connection_kwargs["host"], each.connection_kwargs["port"]) for each in sentinels]
    assert addresses == [("a", 1), ("::1", 2), ("c", 26379)]
    assert [each.connection_kwargs.get("password") for each in sentinels] == ["s"] * 3
    assert [each.connection_kwargs.get("username") for each in sentinels] == [None] * 3
    for each in (pool, *sentinels):
        connection = each.connection_class(**each.connection_kwargs)
        assert connection.ssl_context.cert_reqs == ssl.CERT_NONE
    await clients.close()


async def test_a_url_of_a_cluster_names_credentials_and_tls() -> None:
    clients = RedisClients("rediss+cluster://user:pass@a:1,b/0?ssl_check_hostname=false")
    options = clients.client.get_connection_kwargs()
    assert (options["username"], options["password"], options["ssl_check_hostname"]) == ("user", "pass", False)
    assert list(clients.client.nodes_manager.startup_nodes) == ["a:1", "b:6379"]
    await clients.close()


@needs_redis
async def test_servers_that_are_down_are_passed_over() -> None:
    servers = await asyncio.to_thread(lambda: (shared_cluster(), shared_sentinels()))
    for url in (server.url.replace("127.0.0.1", "127.0.0.1:1,127.0.0.1", 1) for server in servers):
        store = RedisStore(url)
        assert await store.load(await save_new(store, a=1)) == {"a": 1}
        await store.close()


@needs_redis
async def test_a_node_of_a_cluster_asks_for_the_url_of_a_cluster() -> None:
    node = (await asyncio.to_thread(shared_cluster)).nodes[0]
    store = RedisStore(f"redis://127.0.0.1:{node.port}")
    errors = set()
    for _ in range(8):  # some sessions belong to this node
        errors |= {await error_of(save_new(store, a=1)), await error_of(save_login(store, "1"))}
    errors.discard("")
    assert errors
    assert all("Use redis+cluster://" in error for error in errors)
    await store.close()


async def error_of(work: Awaitable[object]) -> str:
    try:
        await work
    except Unavailable as error:
        return str(error)
    return ""


def test_a_prefix_that_would_separate_a_user_from_their_sessions_is_refused() -> None:
    for prefix in ("a{", "a{}", "}{a"):
        with pytest.raises(ImproperlyConfigured, match="without braces"):
            RedisStore("redis+cluster://127.0.0.1", prefix=prefix)
        RedisStore("redis://127.0.0.1", prefix=prefix)
    RedisStore("redis+cluster://127.0.0.1", prefix="{site}:")


# A cluster


@needs_redis
async def test_sessions_are_spread_over_the_nodes_of_a_cluster() -> None:
    servers = await asyncio.to_thread(shared_cluster)
    store = RedisStore(servers.url, prefix="spread:")
    cookies = [await save_new(store, a=1) for _ in range(60)]
    users = [await save_login(store, str(number)) for number in range(60)]
    names = [store._name(key) for key in (*cookies, *(str(user.session_key) for user in users))]
    numbers = [sum(int(bool(exists(node, name))) for name in names) for node in servers.nodes]
    assert sum(numbers) == 120
    assert min(numbers) > 10
    assert all(hash_key(key) in name for key, name in zip(cookies, names, strict=False))
    await store.close()


def exists(node: Node, name: str) -> Any:
    with contextlib.suppress(redis.RedisError):
        return node.run("EXISTS", name)
    return 0


@needs_redis
async def test_a_session_that_moves_to_its_user_keeps_changes_and_ends_under_its_old_key() -> None:
    store = RedisStore((await asyncio.to_thread(shared_cluster)).url, prefix="moved:")
    old_key = await save_new(store, a=1)
    slow, moved, other = [await store.load(old_key) for _ in range(3)]
    other["b"] = 2
    await store.save(other, 60)
    public_id = public_id_of(moved)
    moved["_auth_user_id"] = "7"
    expected = moved.next_key
    assert expected != old_key
    key = await store.save(moved, 60)
    assert key == expected
    loaded = await store.load(key)
    assert loaded == {"a": 1, "b": 2, "_auth_user_id": "7"}
    assert [public_id_of(session) for session in await store.list_sessions("7")] == [public_id]
    assert (await store.load(old_key)).is_empty()
    slow["c"] = 3
    with pytest.raises(SessionInterrupted):
        await store.save(slow, 60)
    assert await store.revoke_all("7") == 1
    await store.close()
