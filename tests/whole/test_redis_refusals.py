"""Each way in which Redis says that it cannot serve at the moment, and what visitors get."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from databases import Database
from redis.asyncio import Redis

from starlette_auth import CachedStore, DatabaseStore, RedisStore, Unavailable
from starlette_auth.database.redis import RedisClients
from starlette_auth.testing import log_in

from ..conftest import PASSWORD, client_of, connected, installed, needs_redis, post_login
from ..support.apps import make_app
from ..support.redis_servers import Cluster, Node, stopping, wait_until

pytestmark = needs_redis


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3") as database:
        yield database


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    node = Node(tmp_path, "--enable-debug-command", "yes")
    yield node
    node.kill()


def client_of_node(node: Node) -> Any:
    return redis.Redis(port=node.port, decode_responses=True, single_connection_client=True)


@contextlib.contextmanager
def configured(node: Node, **values: object) -> Iterator[None]:
    """Changes the configuration of a server for a time, on one connection: it may be the only one that is allowed."""
    with client_of_node(node) as client:
        before = {name: client.config_get(name.replace("_", "-"))[name.replace("_", "-")] for name in values}
        for name, value in values.items():
            client.config_set(name.replace("_", "-"), value)
        yield
        for name, value in before.items():
            client.config_set(name.replace("_", "-"), value)


@contextlib.contextmanager
def read_only(node: Node) -> Iterator[None]:
    node.run("REPLICAOF", "127.0.0.1", 1)
    yield
    node.run("REPLICAOF", "NO", "ONE")


@contextlib.contextmanager
def without_primary(node: Node) -> Iterator[None]:
    with configured(node, replica_serve_stale_data="no"), read_only(node):
        yield


@contextlib.contextmanager
def busy(node: Node) -> Iterator[None]:
    with configured(node, busy_reply_threshold=50):

        def run() -> None:
            with contextlib.suppress(redis.RedisError):
                node.run("EVAL", "while true do end", 0)

        thread = threading.Thread(target=run)
        thread.start()
        wait_until(lambda: is_busy(node))
        yield
        node.run("SCRIPT KILL")
        thread.join()


def is_busy(node: Node) -> bool:
    try:
        node.run("PING")
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


@contextlib.contextmanager
def loading(node: Node) -> Iterator[None]:
    """Reads a large file at start, slowly."""
    node.run("DEBUG", "POPULATE", 4_000)
    node.run("SAVE")
    node.kill()
    node.command += ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"]
    node.start()
    yield
    node.run("CONFIG", "SET", "key-load-delay", "0")
    wait_until(lambda: node.run("DBSIZE"))


@contextlib.contextmanager
def down(node: Node) -> Iterator[None]:
    node.kill()
    yield
    node.start()


OUTAGES = {
    "out of memory": lambda node: configured(node, maxmemory=1),
    "too few replicas": lambda node: configured(node, min_replicas_to_write=1),
    "too many clients": lambda node: configured(node, maxclients=1),
    "read only": read_only,
    "without primary": without_primary,
    "busy": busy,
    "loading": loading,
    "down": down,
}
#: What a session can be read in.
READABLE = ("out of memory", "too few replicas", "read only")


@pytest.mark.flaky(reruns=3)
@pytest.mark.parametrize("outage", OUTAGES)
async def test_a_redis_that_cannot_serve_is_a_503_and_service_comes_back(
    outage: str, node: Node, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with installed(database, sessions=RedisStore(f"redis://127.0.0.1:{node.port}")) as auth:
        app = make_app(auth)
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(app) as client, client_of(app) as visitor:
            await log_in(client, ann, auth)
            if outage == "too many clients":
                await auth.sessions.close()
            failing = OUTAGES[outage](node)
            await asyncio.to_thread(failing.__enter__)
            response = await visitor.get("/remember?a=1")
            assert (response.status_code, response.headers.get("retry-after")) == (503, "3")
            assert "try again in a few seconds" in response.text
            assert (await visitor.get("/")).status_code == 200
            assert (await client.get("/whoami")).status_code == (200 if outage in READABLE else 503)
            await asyncio.to_thread(failing.__exit__, None, None, None)
            async with asyncio.timeout(5):
                while (await visitor.get("/remember?a=1")).status_code != 200:
                    await asyncio.sleep(0.05)
            assert (await post_login(visitor)).status_code == 303
            # This server keeps nothing on a disk.
            assert (await client.get("/whoami")).json()["username"] == ("" if outage == "down" else "ann")
    assert "Redis does not answer" in caplog.text
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("refusal", ["password", "no password", "user", "command"])
async def test_refused_credentials_are_a_503_that_the_log_explains(
    refusal: str, node: Node, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    node.run("ACL", "SETUSER", "shop", "on", ">right", "~*", "+@all", "-evalsha")
    node.run("CONFIG", "SET", "requirepass", "right")
    credentials = {"password": ":wrong@", "no password": "", "user": "ann:right@", "command": "shop:right@"}[refusal]
    url = f"redis://{credentials}127.0.0.1:{node.port}"
    for sessions in (
        RedisStore(url),
        lambda users: CachedStore(DatabaseStore(database, users=users), url),
    ):
        async with installed(database, sessions=sessions) as auth, client_of(make_app(auth)) as client:
            response = await client.get("/remember?a=1")
            assert response.status_code == (503 if isinstance(sessions, RedisStore) else 200)
    assert caplog.text.count("Redis refuses the credentials or a command") == 2
    assert "Check the user, the password and the ACL" in caplog.text
    assert "right" not in caplog.text
    assert "wrong" not in caplog.text.replace("wrong number", "")


async def test_a_connection_to_a_server_that_became_a_replica_is_dropped(node: Node) -> None:
    """Behind a name that now leads to the new primary, an open connection would stay with the old one for ever."""
    for make in (lambda url: url, Redis.from_url):
        given = make(f"redis://127.0.0.1:{node.port}")
        clients = RedisClients(given)
        await clients.execute(clients.client.set("a", "1"))
        with read_only(node):
            connected_before = node.info("total_connections_received")
            with pytest.raises(Unavailable, match="read only replica"):
                await clients.run_script("return redis.call('SET', KEYS[1], '2')", ["a"])
        await clients.execute(clients.client.set("a", "3"))
        # Two are those of this test.
        assert node.info("total_connections_received") - connected_before >= 3
        await clients.close()
        if not isinstance(given, str):
            await given.aclose()


@pytest.mark.flaky(reruns=3)
@pytest.mark.parametrize("number", [1, 3])
async def test_a_cluster_without_nodes_is_a_503_until_they_are_back(
    number: int, tmp_path: Path, database: Database
) -> None:
    with stopping(await asyncio.to_thread(Cluster, tmp_path)) as cluster:
        async with installed(database, sessions=RedisStore(cluster.url)) as auth:
            app = make_app(auth)
            ann = await auth.users.create_user("ann", password=PASSWORD)
            async with client_of(app) as client, client_of(app) as visitor:
                await log_in(client, ann, auth)
                for node in cluster.nodes[:number]:
                    node.kill()
                if number == 1:
                    await asyncio.to_thread(wait_until, lambda: not cluster.sees_all(cluster.nodes[1]))
                for _ in range(5):
                    assert (await visitor.get("/remember?a=1")).status_code == 503
                response = await visitor.get("/remember?a=1")
                assert (response.status_code, response.headers.get("retry-after")) == (503, "3")
                for node in cluster.nodes[:number]:
                    node.start()
                await asyncio.to_thread(wait_until, lambda: all(cluster.sees_all(node) for node in cluster.nodes))
                async with asyncio.timeout(5):
                    while (await post_login(visitor)).status_code != 303:
                        await asyncio.sleep(0.05)
