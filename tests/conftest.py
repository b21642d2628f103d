"""Fixtures and settings of all tests, and helpers that many of them use."""

import asyncio
import faulthandler
import re
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from blockbuster import BlockBuster, blockbuster_ctx
from playwright.sync_api import Browser
from starlette.types import ASGIApp
from xdist.scheduler import LoadFileScheduling

from starlette_auth import Auth, Passwords, User

from .support.browser import Seen, Visitor, launched, look_at
from .support.databases import (
    OUR_TABLES,
    SECRET_KEY,
    connected,
    database_with_tables,
    drop_databases,
    empty_database,
    flush_at_commit,
    installed,
    name_of,
    redis_prefix,
    store_maker,
    weak_passwords,
    with_store,
)
from .support.matrix import ALL, BACKENDS, FEW, REDIS_URL, needs_redis, summary
from .support.server import Inbox, Server, Start, environment, free_port

__all__ = [
    "BACKENDS",
    "DJANGO",
    "ON_MANY_REDIS",
    "ON_SERVER",
    "OUR_TABLES",
    "PASSWORD",
    "REDIS_URL",
    "SECRET_KEY",
    "any_database",
    "connected",
    "database_with_tables",
    "empty_database",
    "installed",
    "name_of",
    "needs_redis",
    "redis_prefix",
    "store_maker",
    "weak_passwords",
    "with_store",
    "with_tables",
]

PASSWORD = "correct horse battery staple"
ON_SERVER = ["memory", *BACKENDS, *(["redis", "cached"] if REDIS_URL else [])]  # stores that can revoke a session
# RedisStore on several servers.
ON_MANY_REDIS = ["redis cluster", "redis sentinel"] if REDIS_URL else []
# Stores of a Django project, which keep fewer details of a session.
DJANGO = [f"django {server}" for server in dict.fromkeys((BACKENDS[0], BACKENDS[-1]))]
TIME_LIMIT = 600  # seconds for each of: the fixtures of a test, its function, and the end of its fixtures
with_tables = pytest.mark.with_tables
any_database = pytest.mark.any_database


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in the background job of a shell; tests send this signal
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Fails a test that hangs. (The limit of pytest-timeout does not hold for the second attempt of --reruns.)"""

    def stop(number: int, frame: object) -> None:
        faulthandler.dump_traceback()
        pytest.fail(f"{item.nodeid} took more than {TIME_LIMIT} seconds.")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(TIME_LIMIT)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """Runs the tests of one file in one process, and all browser tests in one process."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "browser" if "/test_browser" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves out the other databases where the marker `any_database` says that one is enough, and more for FEW.

    On the servers two cases of each test are run, unless ALL: on SQLite each case is.
    """
    items[:] = [item for item in items if not (item.get_closest_marker("any_database") and _server_of(item))]
    if FEW:
        items[:] = some_cases([item for item in items if not item.get_closest_marker("long")], 2)
    elif not ALL:
        items[:] = some_cases(items, 2, lambda item: _server_of(item) or item.nodeid)


def some_cases(
    items: list[pytest.Item], number: int, server_of: Callable[[pytest.Item], str] | None = None
) -> list[pytest.Item]:
    """Returns the tests with at most `number` cases of each on each server, from the first to the last one."""
    cases: dict[tuple[str, str], list[pytest.Item]] = {}
    for item in items:
        cases.setdefault((item.nodeid.partition("[")[0], (server_of or _server_of)(item)), []).append(item)
    steps = [index / max(1, number - 1) for index in range(number)]
    kept = {group[round(step * (len(group) - 1))] for group in cases.values() for step in steps}
    return [item for item in items if item in kept]


def _server_of(item: pytest.Item) -> str:
    """Returns the URL of the server on which a test has its database; "" for SQLite."""
    server = item.callspec.params.get("database_url", "sqlite") if hasattr(item, "callspec") else "sqlite"
    return "" if server == "sqlite" else str(server)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(summary())


def pytest_sessionstart() -> None:
    asyncio.run(flush_at_commit(0))


def pytest_sessionfinish(session: pytest.Session) -> None:
    async def finish() -> None:
        if not hasattr(session.config, "workerinput"):
            await flush_at_commit(1)
        await drop_databases()

    asyncio.run(finish())


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fails a test in which our code blocks the event loop."""
    with blockbuster_ctx("starlette_auth") as detector:
        for function in detector.functions.values():
            # asyncpg reads a password file and certificates when it opens a connection.
            function.can_block_in("asyncpg/connect_utils.py", {"_parse_connect_arguments"})
            # redis-py reads its own version when it opens a connection.
            function.can_block_in("redis/utils.py", {"get_lib_version"})
            # coverage takes a lock when code runs in a thread for the first time.
            function.can_block_in("coverage/collector.py", {"lock_data"})
        yield detector


@pytest.fixture
def fast_passwords() -> Passwords:
    return weak_passwords()


@pytest.fixture(params=BACKENDS, ids=name_of)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A new database on each server: an empty one, unless the test is marked with `with_tables`."""
    make = database_with_tables if request.node.get_closest_marker("with_tables") else empty_database
    async with make(str(request.param), tmp_path) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Any]:
    """A connected Database; in tests/engines an AsyncEngine."""
    async with connected(database_url) as database:
        yield database


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    """An Auth on a database with all tables."""
    async with installed(database) as auth:
        yield auth


@pytest.fixture
async def ann(auth: Auth) -> User:
    """A user without permissions."""
    user: User = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    return user


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts the example application in a process, with settings from keyword arguments."""
    servers: list[Server] = []

    def start(**variables: str) -> Server:
        port = free_port()
        servers.append(Server(tmp_path, port, environment(PORT=str(port), **variables)))
        return servers[-1].wait()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """A browser. Its driver runs an event loop until the last test of the module."""
    yield from launched()


@pytest.fixture(scope="module", params=[False, True], ids=["without JavaScript", "with JavaScript"])
def javascript(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def server(javascript: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The example application. With JavaScript, it logs as much as it can and sends its mail to an SMTP server."""
    folder, port = tmp_path_factory.mktemp("server"), free_port()
    if not javascript:
        server = Server(folder, port, environment(PORT=str(port)))
        yield server.wait()
        server.stop()
        return
    inbox = Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=free_port())
    controller.start()
    variables = environment(PORT=str(port), MAIL=f"smtp+plain://127.0.0.1:{controller.port}")
    server = Server(folder, port, variables, module="tests.support.loud", inbox=inbox)
    yield server.wait()
    server.stop()
    controller.stop()


@pytest.fixture(scope="session")
def looked_at() -> set[tuple[str, ...]]:
    """The shapes of the pages that were checked already."""
    return set()


@pytest.fixture
def visit(
    chromium: Browser, server: Server, javascript: bool, looked_at: set[tuple[str, ...]]
) -> Iterator[Callable[..., Visitor]]:
    """Opens the example application in new browser profiles, and checks afterwards what each of them saw and sent."""
    visitors: list[Visitor] = []

    def open_profile(locale: str = "en-US") -> Visitor:
        visitors.append(Visitor(chromium, server, javascript=javascript, locale=locale))
        return visitors[-1]

    yield open_profile
    new: dict[tuple[str, ...], Seen] = {}
    for visitor in visitors:
        assert visitor.leaks() == []
        assert visitor.strangers() == []
        assert visitor.unguarded() == []
        assert visitor.complaints == []
        new |= {seen.shape: seen for seen in visitor.pages if seen.shape not in looked_at}
        visitor.context.close()
    if not javascript:  # the checks of a page need JavaScript, and open it themselves
        assert look_at(chromium, new.values()) == []
        looked_at.update(new)


def client_of(app: ASGIApp, *, base_url: str = "http://testserver", **options: Any) -> httpx.AsyncClient:
    """Returns a client with a cookie jar that calls the application in the same event loop."""
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 5000))
    headers = httpx.Headers({"Accept": "text/html"})  # as an old browser does
    headers.update(options.pop("headers", {}))
    return httpx.AsyncClient(transport=transport, base_url=base_url, headers=headers, **options)


def token_in(page: str) -> str:
    """Returns the CSRF token in a form."""
    match = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert match, "no token in the page"
    return match[1]


async def post_login(
    client: httpx.AsyncClient, username: str = "ann", password: str = PASSWORD, **fields: str
) -> httpx.Response:
    """Opens the login page and sends its form."""
    page = await client.get("/accounts/login")
    token = token_in(page.text)
    data = {"username": username, "password": password, "csrfmiddlewaretoken": token, **fields}
    return await client.post("/accounts/login", data=data)


async def all_of(*coroutines: Any) -> list[Any]:
    return await asyncio.gather(*coroutines)


def count_statements(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list to which each further SQL statement is added."""
    statements: list[str] = []
    driver = type(auth.gateway.driver)
    for name in ("fetch", "execute", "insert"):
        original = getattr(driver, name)

        async def counting(self: Any, raw: Any, sql: str, arguments: Any, original: Any = original) -> Any:
            statements.append(sql)
            return await original(self, raw, sql, arguments)

        monkeypatch.setattr(driver, name, counting)
    return statements
