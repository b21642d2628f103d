"""Sessions in a Redis whose primary is replaced while requests are served: Sentinel and Redis Cluster."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import Database

from starlette_auth import RedisStore
from starlette_auth.testing import log_in

from ..conftest import PASSWORD, client_of, connected, installed, needs_redis, post_login
from ..support.apps import make_app
from ..support.redis_servers import Cluster, Node, Sentinels, stopping, wait_until

pytestmark = needs_redis


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3") as database:
        yield database


class Visitors:
    """Visitors who store something in new sessions, one after the other, until they are told to stop."""

    def __init__(self, app: Any, number: int = 4) -> None:
        self.app = app
        self.number = number
        self.stored: dict[str, str] = {}  # what is stored, by session key
        self.statuses: set[int] = set()
        self.is_done = False

    async def visit(self, name: str) -> None:
        async with client_of(self.app) as client:
            while not self.is_done:
                client.cookies.clear()
                value = f"{name}{len(self.stored)}"
                response = await client.get(f"/remember?a={value}")
                self.statuses.add(response.status_code)
                if response.status_code == 200:
                    self.stored[client.cookies["session"]] = value
                await asyncio.sleep(0.01)

    @contextlib.asynccontextmanager
    async def visiting(self) -> AsyncIterator[None]:
        async with asyncio.TaskGroup() as tasks:
            for number in range(self.number):
                tasks.create_task(self.visit(f"visitor{number} "))
            try:
                yield
            finally:
                self.is_done = True

    async def wait_for(self, number: int) -> None:
        """Waits until `number` further sessions are stored."""
        enough = len(self.stored) + number
        async with asyncio.timeout(30):
            while len(self.stored) < enough:
                await asyncio.sleep(0.02)


async def in_thread(condition: Callable[[], object]) -> float:
    return await asyncio.to_thread(wait_until, condition)


async def seconds_until_login(app: Any) -> float:
    started_at = time.monotonic()
    async with client_of(app) as client:
        while time.monotonic() - started_at < 30:
            with contextlib.suppress(AssertionError):  # the page is refused, too
                if (await post_login(client)).status_code == 303:
                    return time.monotonic() - started_at
            await asyncio.sleep(0.05)
    raise AssertionError("Nobody could log in within 30 seconds.")


@pytest.fixture(params=["sentinel", "cluster"])
def servers(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Sentinels | Cluster]:
    if request.param == "sentinel":
        with stopping(Sentinels(tmp_path, number=3)) as sentinels:
            yield sentinels
    else:
        with stopping(Cluster(tmp_path, replicas=1)) as cluster:
            yield cluster


def nodes_of(servers: Sentinels | Cluster) -> tuple[Node, Node]:
    """Returns the primary that a test stops, and its replica."""
    if isinstance(servers, Sentinels):
        return servers.primary, servers.replica
    return servers.nodes[0], servers.nodes[3]


def is_new_primary(servers: Sentinels | Cluster, replica: Node) -> bool:
    if isinstance(servers, Sentinels):
        answers = [node.run("SENTINEL GET-MASTER-ADDR-BY-NAME", "sessions") for node in servers.sentinels[1:]]
        return all(int(port) == replica.port for _, port in answers) and bool(replica.info("role") == "master")
    return bool(replica.info("role") == "master" and replica.run("CLUSTER INFO")["cluster_state"] == "ok")


# redis-py forgets to close a connection of a cluster that one request opens while another one closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.flaky(reruns=3)
@pytest.mark.parametrize("end", ["kill", "freeze"])
async def test_a_failover_loses_no_replicated_session_and_logins_go_on(
    servers: Sentinels | Cluster, end: str, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    primary, replica = nodes_of(servers)
    async with installed(database, sessions=RedisStore(servers.url)) as auth:
        app = make_app(auth)
        ann = await auth.users.create_user("ann", password=PASSWORD)
        visitors = Visitors(app)
        async with client_of(app) as client:
            await log_in(client, ann, auth)
            async with visitors.visiting():
                await visitors.wait_for(100)
                replicated = dict(visitors.stored)
                await in_thread(lambda: primary.run("WAIT", 1, 10_000) == 1)
                getattr(primary, end)()
                if isinstance(servers, Sentinels):
                    servers.sentinels[0].kill()  # it was on the same machine
                outage = await in_thread(lambda: is_new_primary(servers, replica))
                recovery = await seconds_until_login(app)
                await visitors.wait_for(100)
            assert recovery < 5, f"the new primary was there after {outage:.1f} s"
            assert visitors.statuses <= {200, 503}
            assert (await client.get("/whoami")).json()["username"] == "ann"
        lost = [key for key, value in visitors.stored.items() if await auth.sessions.load(key) != {"a": value}]
        assert not set(lost) & set(replicated)
        assert await auth.user_sessions.revoke_all(ann) == 2
        assert "Traceback" not in caplog.text
    gc.collect()
