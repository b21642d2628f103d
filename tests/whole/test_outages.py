"""Servers that are killed under load, restarted or frozen, and processes that share sessions."""

import asyncio
import contextlib
import itertools
import signal
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from starlette_auth import Auth, CachedStore, DatabaseStore, RedisStore, Unavailable, get_auth
from starlette_auth.middlewares.session.websocket import WebSocketSessionResponder
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, REDIS_URL, client_of, connected, installed, needs_redis
from ..features.test_active_sessions import closed, socket_app, still_open
from ..sessions.test_sessions import Socket
from ..support.apps import make_app
from ..support.matrix import needs_postgresql
from ..support.second_factor import log_in_admin
from ..support.server import Server, Start, environment, free_port
from ..support.servers import postgres_server, redis_server
from .test_example_app import browser, send

pytestmark = pytest.mark.long

SAME_SITE = {"sec-fetch-site": "same-origin"}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Yields a database of users. It stays available in these tests: only the session stores fail."""
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3") as database:
        yield database


class Writers:
    """Runs threads that store increasing numbers in one session, each under a separate key."""

    def __init__(self, url: str, cookies: dict[str, str], number: int = 4) -> None:
        self.url = url
        self.cookies = cookies
        self.acknowledged = {f"w{n}": 0 for n in range(number)}
        self.latest = dict(self.acknowledged)
        self.error_statuses: list[int] = []
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.write, args=[name]) for name in self.acknowledged]

    def write(self, name: str) -> None:
        with httpx.Client(base_url=self.url, cookies=self.cookies, headers=SAME_SITE, timeout=10) as client:
            for value in itertools.count(1):
                if self.done.is_set():
                    return
                self.latest[name] = value
                try:
                    response = client.post("/api/session", json={name: value})
                except httpx.TransportError:
                    time.sleep(0.02)
                    continue
                if response.status_code == 200:
                    self.acknowledged[name] = value
                else:
                    self.error_statuses.append(response.status_code)
                    time.sleep(0.02)

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()

    def wait_for_writes(self, number: int) -> None:
        """Waits until each thread has stored `number` more values."""
        counts_before = dict(self.acknowledged)
        for _ in range(1000):
            if all(self.acknowledged[name] >= counts_before[name] + number for name in counts_before):
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.acknowledged}, {self.error_statuses[-5:]}")

    def check(self, stored: dict[str, Any]) -> None:
        """Checks that all acknowledged values are stored. Unacknowledged later values may be stored as well."""
        for name, value in self.acknowledged.items():
            assert value > 0
            assert value <= stored[name] <= self.latest[name]


def get_session(url: str, cookies: dict[str, str]) -> dict[str, Any]:
    visitor = httpx.get(f"{url}/api/me", cookies=cookies).json()
    assert visitor["username"] == "admin"
    return dict(visitor["session"])


def wait_until_available(url: str, cookies: dict[str, str]) -> float:
    started_at = time.monotonic()
    while time.monotonic() - started_at < 20:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/me", cookies=cookies).status_code == 200:
                return time.monotonic() - started_at
        time.sleep(0.02)
    raise AssertionError("The application was not available again within 20 seconds.")


def cookies_of_admin(server: Server) -> dict[str, str]:
    with browser(server) as admin:
        log_in_admin(admin, server)
        return dict(admin.cookies)


def send_concurrent_requests(url: str, cookies: dict[str, str]) -> list[int]:
    """Sends 60 concurrent requests, more than there are connections, and returns the statuses of the responses."""
    with ThreadPoolExecutor(60) as pool:
        return list(pool.map(lambda _: httpx.get(f"{url}/me", cookies=cookies, timeout=30).status_code, range(60)))


# Killed under load


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Yields settings for durable storage, on a separate server with default settings."""
    if request.param == "sqlite":
        yield {}
    elif request.param == "redis":
        with redis_server(tmp_path) as redis:
            yield {"SESSION_STORE": "redis", "REDIS_URL": redis.url}
    else:
        with postgres_server() as postgres:
            yield {"DATABASE_URL": postgres.url}


@needs_redis
@needs_postgresql
def test_a_killed_application_loses_no_acknowledged_write(start: Start, settings: dict[str, str]) -> None:
    server = start(**settings)
    cookies = cookies_of_admin(server)
    with Writers(server.url, cookies) as writers:
        writers.wait_for_writes(10)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(20)
    restarted_server = start(**settings)
    writers.check(get_session(restarted_server.url, cookies))
    assert set(send_concurrent_requests(restarted_server.url, cookies)) == {200}


@needs_postgresql
def test_during_a_postgresql_restart_requests_get_503_and_no_write_is_lost(start: Start) -> None:
    with postgres_server() as postgres:
        server = start(DATABASE_URL=postgres.url)
        cookies = cookies_of_admin(server)
        with Writers(server.url, cookies) as writers:
            writers.wait_for_writes(10)
            postgres.crash()
            response = httpx.get(f"{server.url}/me", cookies=cookies, timeout=30)
            assert (response.status_code, response.headers["retry-after"]) == (503, "3")
            assert "try again in a few seconds" in response.text
            assert httpx.get(f"{server.url}/healthz").status_code == 200
            postgres.start()
            assert wait_until_available(server.url, cookies) < 5
            writers.wait_for_writes(10)
        writers.check(get_session(server.url, cookies))
        _, _, traceback = server.output.partition("Traceback")
        assert set(writers.error_statuses) <= {503}, f"another status than 503; the server log has {traceback[:6000]}"
        assert set(send_concurrent_requests(server.url, cookies)) == {200}
        assert "Exception in ASGI application" not in server.output


@needs_redis
def test_during_a_redis_restart_requests_get_503_and_no_write_is_lost(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        server = start(SESSION_STORE="redis", REDIS_URL=redis.url)
        cookies = cookies_of_admin(server)
        with Writers(server.url, cookies) as writers:
            writers.wait_for_writes(10)
            redis.kill()
            response = httpx.get(f"{server.url}/me", cookies=cookies, timeout=30)
            assert response.status_code == 503
            redis.start()
            assert wait_until_available(server.url, cookies) < 5
            writers.wait_for_writes(10)
        writers.check(get_session(server.url, cookies))
        assert set(writers.error_statuses) <= {503}
        assert set(send_concurrent_requests(server.url, cookies)) == {200}
        assert "Exception in ASGI application" not in server.output


@needs_redis
def test_after_redis_loses_its_data_all_users_are_logged_out_and_can_log_in_again(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path, durable=False) as redis:
        server = start(SESSION_STORE="redis", REDIS_URL=redis.url)
        cookies = cookies_of_admin(server)
        redis.kill()
        redis.start()
        assert httpx.get(f"{server.url}/api/me", cookies=cookies).json()["is_authenticated"] is False
        assert get_session(server.url, cookies_of_admin(server)) == {}


# An unavailable cache


@needs_redis
def test_the_application_works_without_its_cache(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        server = start(SESSION_STORE="cached", REDIS_URL=redis.url)
        cookies = cookies_of_admin(server)
        with Writers(server.url, cookies) as writers:
            writers.wait_for_writes(10)
            redis.kill()
            writers.wait_for_writes(10)
            second_cookies = cookies_of_admin(server)
            assert get_session(server.url, second_cookies) == {}
            with browser(server) as admin:
                admin.cookies.update(second_cookies)
                assert send(admin, "/me", "/accounts/logout").status_code == 303
            redis.start()
            writers.wait_for_writes(10)
        writers.check(get_session(server.url, cookies))
        assert writers.error_statuses == []
        assert httpx.get(f"{server.url}/api/me", cookies=second_cookies).json()["is_authenticated"] is False


@needs_redis
def test_a_frozen_cache_delays_only_one_request_for_a_short_time(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        server = start(SESSION_STORE="cached", REDIS_URL=redis.url)
        cookies = cookies_of_admin(server)
        redis.freeze()
        try:
            started_at = time.monotonic()
            for _ in range(20):
                assert get_session(server.url, cookies) == {}
            assert time.monotonic() - started_at < 5
        finally:
            redis.thaw()


@contextlib.asynccontextmanager
async def two_cached(
    database: Database, redis_url: str, clock: FrozenClock
) -> AsyncIterator[tuple[tuple[Auth, httpx.AsyncClient], tuple[Auth, httpx.AsyncClient]]]:
    """Yields the `Auth` and a client of each of two processes with the same cache."""

    def cached(users: Any) -> CachedStore:
        return CachedStore(DatabaseStore(database, users=users, clock=clock), redis_url, clock=clock)

    async with (
        installed(database, sessions=cached, clock=clock) as first,
        installed(database, sessions=cached, clock=clock) as second,
        client_of(make_app(first)) as client,
        client_of(make_app(second)) as second_client,
    ):
        yield (first, client), (second, second_client)


async def test_a_session_that_ended_during_a_cache_outage_is_not_served_from_the_cache_later(
    tmp_path: Path, database: Database
) -> None:
    """Two processes share the cache: `first` cannot reach Redis during the outage, `second` is idle."""
    with redis_server(tmp_path) as redis:
        clock = FrozenClock()
        async with two_cached(database, redis.url, clock) as ((first, client), (_, second_client)):
            ann = await first.users.create_user("ann", password=PASSWORD)
            for end in ("logout", "revoke", "password", "flush"):
                client.cookies.clear()
                await log_in(client, await first.users.get(ann.id) or ann, first)
                await client.get("/remember?a=1")
                second_client.cookies.update(client.cookies)
                assert (await second_client.get("/whoami")).json()["username"] == "ann", "served from the cache"
                redis.freeze()
                if end == "revoke":
                    await first.user_sessions.revoke_all(ann)
                elif end == "password":
                    await first.users.set_password(ann, f"another good password for {end}")
                else:
                    path = {"logout": "/accounts/logout", "flush": "/flush"}[end]
                    await client.request("GET" if end == "flush" else "POST", path)
                redis.thaw()
                assert (await second_client.get("/whoami")).json() == {"username": "", "session": {}, "scopes": []}, end
                clock.tick(61)


async def test_a_change_during_a_cache_outage_is_seen_by_processes_that_reach_the_cache(
    tmp_path: Path, database: Database
) -> None:
    with redis_server(tmp_path) as redis:
        clock = FrozenClock()
        async with two_cached(database, redis.url, clock) as ((first, client), (second, second_client)):
            await log_in(client, await first.users.create_user("ann", password=PASSWORD), first)
            second_client.cookies.update(client.cookies)
            await second_client.get("/whoami")
            redis.freeze()
            await client.get("/remember?a=1")
            redis.thaw()
            assert (await second_client.get("/whoami")).json()["session"] == {"a": "1"}
            # Sessions of anonymous visitors are checked against the database at least once a minute.
            for http_client in (client, second_client):
                http_client.cookies.clear()
            clock.tick(61)
            await client.get("/remember?cart=1")
            second_client.cookies.update(client.cookies)
            assert (await second_client.get("/whoami")).json()["session"] == {"cart": "1"}
            redis.freeze()
            await client.get("/remember?cart=2")
            redis.thaw()
            async with asyncio.timeout(70):
                while (await second_client.get("/whoami")).json()["session"] != {"cart": "2"}:
                    await expire(second.sessions)


async def expire(store: Any) -> None:
    """Makes all keys expire in Redis, whose clock cannot be set by a test."""
    async for name in store.redis.client.scan_iter("*"):
        await store.redis.client.pexpire(name, 1)
    await asyncio.sleep(0.01)


async def test_an_open_websocket_survives_an_outage_and_closes_when_its_session_ends_later(
    tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(WebSocketSessionResponder, "check_interval", 0.1)
    with redis_server(tmp_path) as redis:
        async with installed(database, sessions=RedisStore(redis.url)) as auth:
            app = socket_app(auth)
            async with client_of(app) as client:
                ann = await auth.users.create_user("ann", password=PASSWORD)
                await log_in(client, ann, auth)
                async with Socket(app, "/mirror", client) as socket:
                    redis.kill()
                    async with asyncio.timeout(20):
                        while "cannot be looked up" not in caplog.text:
                            await asyncio.sleep(0.05)
                    assert await still_open(socket)
                    redis.start()
                    assert await still_open(socket)
                    await auth.user_sessions.revoke_all(ann)
                    assert await closed(socket) == 1008


async def test_without_redis_json_clients_get_503_and_websockets_get_1013(tmp_path: Path, database: Database) -> None:
    with redis_server(tmp_path) as redis:
        async with installed(database, sessions=RedisStore(redis.url)) as auth:
            app = socket_app(auth)
            async with client_of(app) as client:
                await log_in(client, await auth.users.create_user("ann", password=PASSWORD), auth)
                redis.kill()
                response = await client.get("/whoami", headers={"accept": "application/json"})
                assert (response.status_code, response.json()["code"]) == (503, "unavailable")
                assert "set-cookie" not in response.headers
                async with Socket(app, "/mirror", client) as socket:
                    assert (socket.answer["type"], socket.answer["code"]) == ("websocket.close", 1013)
                # Without a session cookie, Redis is needed only to store a session.
                client.cookies.clear()
                assert (await client.get("/")).status_code == 200
                assert (await client.get("/remember?a=1")).status_code == 503
                redis.start()
                assert (await client.get("/remember?a=1")).status_code == 200


async def test_an_outage_after_the_response_has_started_is_logged_or_raised(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server(tmp_path) as redis:
        clock = FrozenClock()

        async def kill(request: Request) -> Response:
            await asyncio.to_thread(redis.kill)
            return PlainTextResponse("killed")

        async def kill_later(request: Request) -> Response:
            async def body() -> AsyncIterator[bytes]:
                yield b"started"
                await asyncio.to_thread(redis.kill)
                await get_auth(request).sessions.list_sessions("1")

            return StreamingResponse(body())

        async with installed(database, sessions=RedisStore(redis.url, clock=clock), clock=clock) as auth:
            app = make_app(auth, Route("/kill", kill), Route("/kill-later", kill_later))
            async with client_of(app) as client:
                await log_in(client, await auth.users.create_user("ann", password=PASSWORD), auth)
                clock.tick(100)
                assert (await client.get("/kill")).text == "killed"
                assert "could not be recorded" in caplog.text
                redis.start()
                with pytest.raises(Unavailable):  # the response has started and cannot be replaced
                    await client.get("/kill-later")


async def test_cancelled_requests_do_not_mix_up_redis_replies(tmp_path: Path, database: Database) -> None:
    """400 requests are cancelled at any moment. Each later command must get its own reply."""
    with redis_server(tmp_path) as redis:
        async with installed(database, sessions=RedisStore(redis.url)) as auth:
            app = make_app(auth)
            async with contextlib.AsyncExitStack() as stack:
                clients = [await stack.enter_async_context(client_of(app)) for _ in range(4)]
                for n, client in enumerate(clients):
                    await client.get(f"/remember?me={n}")
                tasks = [
                    asyncio.create_task(clients[n % 4].get(f"/remember?n{n}=1" if n % 3 else "/whoami"))
                    for n in range(400)
                ]
                for n, task in enumerate(tasks):
                    asyncio.get_running_loop().call_later(n * 0.0007, task.cancel)
                await asyncio.wait(tasks)
                for n, client in enumerate(clients):
                    for response in await asyncio.gather(*(client.get("/whoami") for _ in range(60))):
                        assert response.json()["session"]["me"] == str(n)
            connections = auth.sessions.redis._clients.get()  # type: ignore[attr-defined]
            assert set(connections.client.connection_pool._in_use_connections) == set(connections.kept._free)


# Several processes


@needs_redis
@pytest.mark.parametrize("store", ["database", "redis", "cached"])
def test_four_workers_share_sessions(tmp_path: Path, store: str) -> None:
    port = free_port()
    variables = {"SESSION_STORE": store, "REDIS_URL": REDIS_URL, "PORT": str(port)}
    server = Server(tmp_path, port, environment(**variables), module="tests.support.workers").wait()
    try:
        cookies = cookies_of_admin(server)
        workers: set[str] = set()

        def store_number(n: int) -> None:
            response = httpx.post(
                f"{server.url}/api/session", json={f"key{n}": n}, cookies=cookies, headers=SAME_SITE, timeout=30
            )
            assert response.status_code == 200, response.text
            workers.add(response.headers["x-worker"])

        with ThreadPoolExecutor(40) as pool:
            list(pool.map(store_number, range(200)))
        assert len(workers) > 1, "a single worker handled all requests"
        assert str(server.process.pid) not in workers
        assert get_session(server.url, cookies) == {f"key{n}": n for n in range(200)}
        with browser(server) as admin:
            admin.cookies.update(cookies)
            assert send(admin, "/me", "/accounts/logout").status_code == 303
        for _ in range(20):
            assert httpx.get(f"{server.url}/api/me", cookies=cookies).json()["is_authenticated"] is False
    finally:
        server.stop()


@needs_redis
@pytest.mark.parametrize("store", ["database", "redis", "cached"])
def test_servers_behind_a_load_balancer_share_sessions(start: Start, store: str, database_url: str) -> None:
    key = "the same secret key on each of the servers"
    variables = {"SESSION_STORE": store, "REDIS_URL": REDIS_URL, "DATABASE_URL": database_url, "SECRET_KEY": key}
    first, second = start(**variables), start(**variables)
    cookies = cookies_of_admin(first)
    assert get_session(second.url, cookies) == {}
    for n, url in enumerate([first.url, second.url] * 3):
        response = httpx.post(f"{url}/api/session", json={f"key{n}": n}, cookies=cookies, headers=SAME_SITE)
        assert response.status_code == 200
    assert get_session(first.url, cookies) == get_session(second.url, cookies) == {f"key{n}": n for n in range(6)}
    with browser(second) as admin:
        admin.cookies.update(cookies)
        assert send(admin, "/me", "/accounts/logout").status_code == 303
    for url in (first.url, second.url):
        assert httpx.get(f"{url}/api/me", cookies=cookies).json()["is_authenticated"] is False
