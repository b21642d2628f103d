"""Servers that are killed under load, restarted or hang; and several processes that share sessions."""

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

from starlette_auth import CachedStore, DatabaseStore, RedisStore, Unavailable, get_auth
from starlette_auth.middlewares.session_websocket import WebSocketSessionResponder
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, REDIS_URL, client_of, connected, installed, needs_redis
from ..features.test_active_sessions import closed, socket_app, still_open
from ..sessions.test_sessions import Socket
from ..support.apps import make_app
from ..support.server import Server, Start, environment, free_port
from ..support.servers import needs_postgres_server, needs_redis_server, postgres_server, redis_server
from .test_example_app import browser, send
from .test_example_app import log_in as fill_in_login

SAME_SITE = {"sec-fetch-site": "same-origin"}


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    """Of users. It is sessions that are in trouble here, and it is the same to them."""
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3") as database:
        yield database


class Writers:
    """Several that store one number after the other in one session, each under a name of its own."""

    def __init__(self, url: str, cookies: dict[str, str], number: int = 4) -> None:
        self.url = url
        self.cookies = cookies
        self.acknowledged = {f"w{n}": 0 for n in range(number)}
        self.latest = dict(self.acknowledged)
        self.refused: list[int] = []
        self.done = threading.Event()
        self.threads = [threading.Thread(target=self.write, args=[name]) for name in self.acknowledged]

    def write(self, name: str) -> None:
        with httpx.Client(base_url=self.url, cookies=self.cookies, headers=SAME_SITE, timeout=10) as client:
            for value in itertools.count(1):
                if self.done.is_set():
                    return
                self.latest[name] = value
                try:
                    answer = client.post("/api/session", json={name: value})
                except httpx.TransportError:
                    time.sleep(0.02)
                    continue
                if answer.status_code == 200:
                    self.acknowledged[name] = value
                else:
                    self.refused.append(answer.status_code)
                    time.sleep(0.02)

    def __enter__(self) -> "Writers":
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.done.set()
        for thread in self.threads:
            thread.join()

    def until(self, number: int) -> None:
        """All have stored so many more."""
        before = dict(self.acknowledged)
        for _ in range(1000):
            if all(self.acknowledged[name] >= before[name] + number for name in before):
                return
            time.sleep(0.02)
        raise AssertionError(f"{self.acknowledged}, {self.refused[-5:]}")

    def check(self, stored: dict[str, Any]) -> None:
        """What was said yes to is there; of what was under way nobody knows."""
        for name, value in self.acknowledged.items():
            assert value > 0
            assert value <= stored[name] <= self.latest[name]


def kept_in(url: str, cookies: dict[str, str]) -> dict[str, Any]:
    answer = httpx.get(f"{url}/api/me", cookies=cookies).json()
    assert answer["username"] == "admin"
    return dict(answer["session"])


def seconds_until_back(url: str, cookies: dict[str, str]) -> float:
    begun = time.monotonic()
    while time.monotonic() - begun < 20:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{url}/me", cookies=cookies).status_code == 200:
                return time.monotonic() - begun
        time.sleep(0.02)
    raise AssertionError("It did not come back.")


def admins_cookies(server: Server) -> dict[str, str]:
    with browser(server) as admin:
        fill_in_login(admin, "admin", server.password)
        return dict(admin.cookies)


def all_at_once(url: str, cookies: dict[str, str]) -> list[int]:
    """Sixty requests together, more than there are connections: none of those may be lost."""
    with ThreadPoolExecutor(60) as pool:
        return list(pool.map(lambda _: httpx.get(f"{url}/me", cookies=cookies, timeout=30).status_code, range(60)))


# Killed under load


@pytest.fixture(params=["sqlite", "postgresql", "redis"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dict[str, str]]:
    """Where the application keeps things, durably: servers that nobody else uses, with their usual settings."""
    if request.param == "sqlite":
        yield {}
    elif request.param == "redis":
        with redis_server(tmp_path) as redis:
            yield {"SESSION_STORE": "redis", "REDIS_URL": redis.url}
    else:
        with postgres_server() as postgres:
            yield {"DATABASE_URL": postgres.url}


@needs_redis_server
@needs_postgres_server
def test_an_application_that_is_killed_loses_nothing_that_it_said_yes_to(
    start: Start, settings: dict[str, str]
) -> None:
    server = start(**settings)
    cookies = admins_cookies(server)
    with Writers(server.url, cookies) as writers:
        writers.until(10)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait(20)
    again = start(**settings)
    writers.check(kept_in(again.url, cookies))
    assert set(all_at_once(again.url, cookies)) == {200}


@needs_postgres_server
def test_postgresql_is_restarted_under_load(start: Start) -> None:
    with postgres_server() as postgres:
        server = start(DATABASE_URL=postgres.url)
        cookies = admins_cookies(server)
        with Writers(server.url, cookies) as writers:
            writers.until(10)
            postgres.crash()
            away = httpx.get(f"{server.url}/me", cookies=cookies, timeout=30)
            assert (away.status_code, away.headers["retry-after"]) == (503, "3")
            assert "try again in a few seconds" in away.text
            assert httpx.get(f"{server.url}/healthz").status_code == 200
            postgres.start()
            assert seconds_until_back(server.url, cookies) < 5
            writers.until(10)
        writers.check(kept_in(server.url, cookies))
        _, _, fault = server.output.partition("Traceback")
        assert set(writers.refused) <= {503}, f"nobody is told anything else, as of {fault[:6000]}"
        assert set(all_at_once(server.url, cookies)) == {200}
        assert "Exception in ASGI application" not in server.output


@needs_redis_server
def test_redis_is_restarted_under_load(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        server = start(SESSION_STORE="redis", REDIS_URL=redis.url)
        cookies = admins_cookies(server)
        with Writers(server.url, cookies) as writers:
            writers.until(10)
            redis.kill()
            away = httpx.get(f"{server.url}/me", cookies=cookies, timeout=30)
            assert away.status_code == 503
            redis.start()
            assert seconds_until_back(server.url, cookies) < 5
            writers.until(10)
        writers.check(kept_in(server.url, cookies))
        assert set(writers.refused) <= {503}
        assert set(all_at_once(server.url, cookies)) == {200}
        assert "Exception in ASGI application" not in server.output


@needs_redis_server
def test_a_redis_that_keeps_nothing_logs_everybody_out_and_goes_on(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path, durable=False) as redis:
        server = start(SESSION_STORE="redis", REDIS_URL=redis.url)
        cookies = admins_cookies(server)
        redis.kill()
        redis.start()
        assert httpx.get(f"{server.url}/api/me", cookies=cookies).json()["is_authenticated"] is False
        assert kept_in(server.url, admins_cookies(server)) == {}


# A cache that is away costs speed


@needs_redis_server
def test_without_its_cache_the_application_goes_on(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        server = start(SESSION_STORE="cached", REDIS_URL=redis.url)
        cookies = admins_cookies(server)
        with Writers(server.url, cookies) as writers:
            writers.until(10)
            redis.kill()
            writers.until(10)
            others = admins_cookies(server)
            assert kept_in(server.url, others) == {}
            with browser(server) as admin:
                admin.cookies.update(others)
                assert send(admin, "/me", "/accounts/logout").status_code == 303
            redis.start()
            writers.until(10)
        writers.check(kept_in(server.url, cookies))
        assert writers.refused == []
        assert httpx.get(f"{server.url}/api/me", cookies=others).json()["is_authenticated"] is False


@needs_redis_server
def test_a_cache_that_hangs_makes_one_request_wait_and_not_for_long(start: Start, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        server = start(SESSION_STORE="cached", REDIS_URL=redis.url)
        cookies = admins_cookies(server)
        redis.freeze()
        try:
            begun = time.monotonic()
            for _ in range(20):
                assert kept_in(server.url, cookies) == {}
            assert time.monotonic() - begun < 5
        finally:
            redis.thaw()


async def test_what_was_ended_while_the_cache_was_away_is_not_served_by_it_later(
    tmp_path: Path, database: Database
) -> None:
    """Two processes: this one cannot reach Redis, the other one never noticed."""
    with redis_server(tmp_path) as redis:
        clock = FrozenClock()

        def cached(users: Any) -> CachedStore:
            return CachedStore(DatabaseStore(database, users=users, clock=clock), redis.url, clock=clock)

        async with (
            installed(database, sessions=cached, clock=clock) as here,
            installed(database, sessions=cached, clock=clock) as there,
            client_of(make_app(here)) as client,
            client_of(make_app(there)) as other,
        ):
            ann = await here.users.create_user("ann", password=PASSWORD)
            for end in ("logout", "revoke", "password", "flush"):
                client.cookies.clear()
                await log_in(client, await here.users.get(ann.id) or ann, here)
                await client.get("/remember?a=1")
                other.cookies.update(client.cookies)
                assert (await other.get("/whoami")).json()["username"] == "ann", "it knows it from the cache"
                redis.freeze()
                if end == "revoke":
                    await here.user_sessions.revoke_all(ann)
                elif end == "password":
                    await here.users.set_password(ann, f"another good password for {end}")
                else:
                    path = {"logout": "/accounts/logout", "flush": "/flush"}[end]
                    await client.request("GET" if end == "flush" else "POST", path)
                redis.thaw()
                assert (await other.get("/whoami")).json() == {"username": "", "session": {}, "scopes": []}, end
                clock.tick(61)


async def test_what_was_stored_while_the_cache_was_away_is_seen_by_who_can_reach_it(
    tmp_path: Path, database: Database
) -> None:
    with redis_server(tmp_path) as redis:
        clock = FrozenClock()

        def cached(users: Any) -> CachedStore:
            return CachedStore(DatabaseStore(database, users=users, clock=clock), redis.url, clock=clock)

        async with (
            installed(database, sessions=cached, clock=clock) as here,
            installed(database, sessions=cached, clock=clock) as there,
            client_of(make_app(here)) as client,
            client_of(make_app(there)) as other,
        ):
            await log_in(client, await here.users.create_user("ann", password=PASSWORD), here)
            other.cookies.update(client.cookies)
            await other.get("/whoami")
            redis.freeze()
            await client.get("/remember?a=1")
            redis.thaw()
            assert (await other.get("/whoami")).json()["session"] == {"a": "1"}
            # Of an anonymous visitor nobody asks the database each time: within a minute it is right, too.
            for browser_of in (client, other):
                browser_of.cookies.clear()
            clock.tick(61)
            await client.get("/remember?cart=1")
            other.cookies.update(client.cookies)
            assert (await other.get("/whoami")).json()["session"] == {"cart": "1"}
            redis.freeze()
            await client.get("/remember?cart=2")
            redis.thaw()
            async with asyncio.timeout(70):
                while (await other.get("/whoami")).json()["session"] != {"cart": "2"}:
                    await expire(there.sessions)


async def expire(store: Any) -> None:
    """Lets the time of Redis pass: it has a clock of its own, which no test can set."""
    async for name in store.redis.client.scan_iter("*"):
        await store.redis.client.pexpire(name, 1)
    await asyncio.sleep(0.01)


async def test_an_open_socket_survives_an_outage_and_ends_with_its_session_after_it(
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
                    assert await closed(socket, within=3) == 1008


async def test_while_redis_is_away_sockets_and_programs_are_told_so(tmp_path: Path, database: Database) -> None:
    with redis_server(tmp_path) as redis:
        async with installed(database, sessions=RedisStore(redis.url)) as auth:
            app = socket_app(auth)
            async with client_of(app) as client:
                await log_in(client, await auth.users.create_user("ann", password=PASSWORD), auth)
                redis.kill()
                answer = await client.get("/whoami", headers={"accept": "application/json"})
                assert (answer.status_code, list(answer.json())) == (503, ["detail"])
                assert "set-cookie" not in answer.headers
                async with Socket(app, "/mirror", client) as socket:
                    assert (socket.answer["type"], socket.answer["code"]) == ("websocket.close", 1013)
                # Without a cookie nobody asks Redis, until there is something to store.
                client.cookies.clear()
                assert (await client.get("/")).status_code == 200
                assert (await client.get("/remember?a=1")).status_code == 503
                redis.start()
                assert (await client.get("/remember?a=1")).status_code == 200


async def test_a_redis_that_goes_away_after_the_answer_spoils_nothing(
    tmp_path: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_server(tmp_path) as redis:
        clock = FrozenClock()

        async def kill(request: Request) -> Response:
            await asyncio.to_thread(redis.kill)
            return PlainTextResponse("killed")

        async def kill_later(request: Request) -> Response:
            async def body() -> AsyncIterator[bytes]:
                yield b"begun"
                await asyncio.to_thread(redis.kill)
                await get_auth(request).sessions.list_sessions("1")

            return StreamingResponse(body())

        async with installed(database, sessions=RedisStore(redis.url, clock=clock), clock=clock) as auth:
            app = make_app(auth, Route("/kill", kill), Route("/kill-later", kill_later))
            async with client_of(app) as client:
                await log_in(client, await auth.users.create_user("ann", password=PASSWORD), auth)
                clock.tick(100)
                assert (await client.get("/kill")).text == "killed"
                assert "was not noted" in caplog.text
                redis.start()
                with pytest.raises(Unavailable):  # the answer has begun, and nobody can take it back
                    await client.get("/kill-later")


async def test_cancelled_requests_leave_the_connections_of_redis_whole(tmp_path: Path, database: Database) -> None:
    """400 requests are given up at any moment; no answer ever reaches another one than who asked."""
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
                    for answer in await asyncio.gather(*(client.get("/whoami") for _ in range(60))):
                        assert answer.json()["session"]["me"] == str(n)
            pool = auth.sessions.redis.client.connection_pool  # type: ignore[attr-defined]
            assert len(pool._in_use_connections) == 0


# Several processes


@needs_redis
@pytest.mark.parametrize("store", ["database", "redis", "cached"])
def test_four_workers_share_sessions(tmp_path: Path, store: str) -> None:
    port = free_port()
    variables = {"SESSION_STORE": store, "REDIS_URL": REDIS_URL, "PORT": str(port)}
    server = Server(tmp_path, port, environment(**variables), module="tests.support.workers").wait()
    try:
        cookies = admins_cookies(server)
        workers: set[str] = set()

        def store_one(n: int) -> None:
            answer = httpx.post(
                f"{server.url}/api/session", json={f"key{n}": n}, cookies=cookies, headers=SAME_SITE, timeout=30
            )
            assert answer.status_code == 200, answer.text
            workers.add(answer.headers["x-worker"])

        with ThreadPoolExecutor(40) as pool:
            list(pool.map(store_one, range(200)))
        assert len(workers) > 1, "one worker did it all alone"
        assert str(server.process.pid) not in workers
        assert kept_in(server.url, cookies) == {f"key{n}": n for n in range(200)}
        with browser(server) as admin:
            admin.cookies.update(cookies)
            assert send(admin, "/me", "/accounts/logout").status_code == 303
        for _ in range(20):
            assert httpx.get(f"{server.url}/api/me", cookies=cookies).json()["is_authenticated"] is False
    finally:
        server.stop()


@needs_redis
@pytest.mark.parametrize("store", ["database", "redis", "cached"])
def test_machines_behind_a_balancer_share_sessions(start: Start, store: str, database_url: str) -> None:
    key = "the same secret key on each of the machines"
    variables = {"SESSION_STORE": store, "REDIS_URL": REDIS_URL, "DATABASE_URL": database_url, "SECRET_KEY": key}
    first, second = start(**variables), start(**variables)
    cookies = admins_cookies(first)
    assert kept_in(second.url, cookies) == {}
    for n, url in enumerate([first.url, second.url] * 3):
        answer = httpx.post(f"{url}/api/session", json={f"key{n}": n}, cookies=cookies, headers=SAME_SITE)
        assert answer.status_code == 200
    assert kept_in(first.url, cookies) == kept_in(second.url, cookies) == {f"key{n}": n for n in range(6)}
    with browser(second) as admin:
        admin.cookies.update(cookies)
        assert send(admin, "/me", "/accounts/logout").status_code == 303
    for url in (first.url, second.url):
        assert httpx.get(f"{url}/api/me", cookies=cookies).json()["is_authenticated"] is False
