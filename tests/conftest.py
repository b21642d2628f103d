"""Databases, applications and clients for all tests."""

import asyncio
import contextlib
import os
import re
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiosmtpd.controller import Controller
from blockbuster import BlockBuster, blockbuster_ctx
from coverage import Coverage
from databases import Database
from playwright.sync_api import Browser
from redis.asyncio import Redis
from starlette.types import ASGIApp
from xdist.scheduler import LoadFileScheduling

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    CachedStore,
    CookieStore,
    DatabaseStore,
    DjangoProject,
    MemoryStore,
    Passwords,
    RedisStore,
    SessionStore,
    Tables,
    User,
    migrate,
)
from starlette_auth.core.clock import Clock
from starlette_auth.database.gateway import Gateway
from starlette_auth.database.introspection import all_columns, index_names
from starlette_auth.passwords.hashers import default_hashers

from .support.browser import Seen, Visitor, launched, look_at
from .support.server import IN_CI, Inbox, Server, Start, environment, free_port

SECRET_KEY = "a secret key that is for tests only, and long enough"
PASSWORD = "correct horse battery staple"
# With CI=true a server that is missing fails the tests; otherwise only servers that are named are tried.
SERVERS = os.environ.get(
    "TEST_DATABASE_URLS",
    "postgresql://postgres@127.0.0.1:5432,mysql+asyncmy://root@127.0.0.1:3306" if IN_CI else "",
)
SPARE: dict[str, list[str]] = defaultdict(list)  # empty databases that a test has left, by server
READY: dict[str, list[str]] = defaultdict(list)  # the same with our tables in them
SHAPE: dict[str, tuple[object, object]] = {}  # the columns and indexes of those
FILES: list[bytes] = []  # a SQLite file with our tables, once it was made
OUR_TABLES = [table.name for table in reversed(list(Tables()))]
DISCONNECT_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
)
BACKENDS = ["sqlite", *(url.strip() for url in SERVERS.split(",") if url.strip())]
REDIS_URL = os.environ.get("TEST_REDIS_URL", "redis://127.0.0.1:6379" if IN_CI else "")
ON_SERVER = ["memory", *BACKENDS, *(["redis", "cached"] if REDIS_URL else [])]  # stores that can call a session back
# Stores of a Django project, in which not all is known.
DJANGO = [f"django {server}" for server in dict.fromkeys((BACKENDS[0], BACKENDS[-1]))]
with_tables = pytest.mark.with_tables
needs_redis = pytest.mark.skipif(not REDIS_URL, reason="needs Redis; name one in TEST_REDIS_URL")


def pytest_configure(config: pytest.Config) -> None:
    measuring = config.pluginmanager.getplugin("_cov")
    if IN_CI and measuring is not None:
        measuring.options.cov_fail_under = 99  # a few lines are for races, which not every run has


class ByFile(LoadFileScheduling):  # type: ignore[misc]
    """The tests of a file go to one process, and those that look at pages all to the same."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "browser" if "/test_browser" in file else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried = ", ".join([*map(name_of, BACKENDS), *(["redis"] if REDIS_URL else [])])
    left_out = [
        name for name, is_tried in (("DATABASE_URLS", len(BACKENDS) > 1), ("REDIS_URL", REDIS_URL)) if not is_tried
    ]
    missing = "".join(f"; name others in TEST_{name} (see README) to test them too" for name in left_out)
    terminalreporter.write_line(f"databases: {tried}{missing}")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """Which lines run is not measured where it was on SQLite: to measure takes as long as half of the test."""
    coverage = Coverage.current() if item.get_closest_marker("with_tables") else None
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    is_elsewhere = any(value in (*BACKENDS[1:], "redis", "cached") for value in values)
    if coverage is None or not is_elsewhere:
        return (yield)
    coverage.stop()
    try:
        return (yield)
    finally:
        coverage.start()


@pytest.fixture(autouse=True)
def blockbuster() -> Iterator[BlockBuster]:
    """Fails a test in which our code blocks the event loop."""
    with blockbuster_ctx("starlette_auth") as detector:
        # asyncpg looks for a password file and for certificates when it opens a connection.
        for function in detector.functions.values():
            function.can_block_in("asyncpg/connect_utils.py", {"_parse_connect_arguments"})
            # redis looks up its own version then.
            function.can_block_in("redis/utils.py", {"get_lib_version"})
            # It locks its data when a thread comes by code for the first time.
            function.can_block_in("coverage/collector.py", {"lock_data"})
        yield detector


def weak_passwords() -> Passwords:
    """The real algorithm with the smallest cost: 500 logins a second instead of 5."""
    weak = Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return Passwords([weak, *default_hashers()[1:]])


@pytest.fixture
def fast_passwords() -> Passwords:
    return weak_passwords()


@contextlib.asynccontextmanager
async def empty_database(server: str, folder: Path) -> AsyncIterator[str]:
    """The URL of a new database on one of BACKENDS; dropped afterwards."""
    if server == "sqlite":
        yield f"sqlite+aiosqlite:///{folder}/test.sqlite3"
        return
    name = SPARE[server].pop() if SPARE[server] else await _new_database(server)
    try:
        yield f"{server}/{name}"
    finally:
        if server.startswith("postgres"):
            await _empty_postgresql(server, name)
            SPARE[server].append(name)
        else:
            await _drop(server, name)


@contextlib.asynccontextmanager
async def database_with_tables(server: str, folder: Path) -> AsyncIterator[str]:
    """The same, with our tables in it, and no row: to delete rows takes a server a tenth of the time of new tables."""
    if server == "sqlite":
        file = folder / "test.sqlite3"
        file.write_bytes(await _file_with_tables())
        yield f"sqlite+aiosqlite:///{file}"
        return
    if not READY[server]:
        READY[server].append(await _new_database(server))
        await _create_tables(f"{server}/{READY[server][-1]}")
    name = READY[server].pop()
    try:
        yield f"{server}/{name}"
    finally:
        if await _delete_rows(server, name):
            READY[server].append(name)
        else:
            await _drop(server, name)


async def _create_tables(url: str) -> None:
    async with connected(url) as database, installed(database) as auth:
        SHAPE[url.rpartition("/")[0]] = await _shape_of(auth.gateway)


async def _file_with_tables() -> bytes:
    if not FILES:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "tables.sqlite3"
            await _create_tables(f"sqlite+aiosqlite:///{file}")
            FILES.append(file.read_bytes())
    return FILES[0]


async def _shape_of(gateway: Gateway) -> tuple[object, object]:
    return await all_columns(gateway), await index_names(gateway)


async def _delete_rows(server: str, name: str) -> bool:
    """False when there is more in it than our tables, or less."""
    async with Database(f"{server}/{name}", min_size=1, max_size=1) as database:
        if server.startswith("postgres"):
            await database.fetch_all(DISCONNECT_OTHERS, {"name": name})
        if await _shape_of(Gateway(database)) != SHAPE[server]:
            return False
        async with database.connection():
            for table in OUR_TABLES:
                await database.execute(f"DELETE FROM {table}")
    return True


async def _new_database(server: str) -> str:
    name = f"starlette_auth_{os.getpid()}_{secrets.token_hex(4)}"
    await _on_server(server, f"CREATE DATABASE {name}")
    if server.startswith("postgres"):
        # What a crash of the server would lose, no test asks for.
        await _on_server(server, f"ALTER DATABASE {name} SET synchronous_commit = off")
    return name


async def _drop(server: str, name: str) -> None:
    force = " WITH (FORCE)" if server.startswith("postgres") else ""
    await _on_server(server, f"DROP DATABASE {name}{force}")


async def _empty_postgresql(server: str, name: str) -> None:
    """A new one takes PostgreSQL half a second; to empty one, a tenth of that."""
    async with Database(f"{server}/{name}", min_size=1, max_size=1) as database:
        await database.fetch_all(DISCONNECT_OTHERS, {"name": name})
        await database.execute("DROP SCHEMA public CASCADE")
        await database.execute("CREATE SCHEMA public")


def pytest_sessionstart() -> None:
    """A server that was made for the tests need not survive a loss of power: a third of the time of each new database."""
    asyncio.run(_hurry(0))


async def _hurry(flushes: int) -> None:
    for server in BACKENDS if IN_CI else []:
        if server.startswith("mysql"):
            await _on_server(server, f"SET GLOBAL innodb_flush_log_at_trx_commit = {flushes}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    async def drop() -> None:
        if not hasattr(session.config, "workerinput"):
            await _hurry(1)
        for server in {*SPARE, *READY}:
            for name in SPARE[server] + READY[server]:
                await _drop(server, name)

    asyncio.run(drop())


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Database]:
    options: dict[str, Any] = {} if url.startswith("sqlite") else {"min_size": 1, "max_size": 10}
    async with Database(url, **options) as database:
        yield database


@contextlib.asynccontextmanager
async def redis_prefix() -> AsyncIterator[str]:
    """What the names of one test in Redis begin with; they are gone afterwards."""
    prefix = f"starlette_auth_test_{os.getpid()}_{secrets.token_hex(4)}:"
    yield prefix
    async with Redis.from_url(REDIS_URL) as client:
        names = [name async for name in client.scan_iter(f"{prefix}*", count=1000)]
        if names:
            await client.delete(*names)


@contextlib.asynccontextmanager
async def store_maker(kind: str, database: Database, clock: Clock) -> AsyncIterator[Callable[[Any], SessionStore]]:
    """Makes the store of this kind for `Auth(sessions=…)`, from its users."""
    async with contextlib.AsyncExitStack() as stack:
        prefix = await stack.enter_async_context(redis_prefix()) if kind in ("redis", "cached") else ""
        makers: dict[str, Callable[[Any], SessionStore]] = {
            "memory": lambda users: MemoryStore(clock=clock),
            "cookie": lambda users: CookieStore(SECRET_KEY, clock=clock),
            "redis": lambda users: RedisStore(REDIS_URL, prefix=prefix, clock=clock),
            "cached": lambda users: CachedStore(
                DatabaseStore(database, users=users, clock=clock), REDIS_URL, prefix=prefix, clock=clock
            ),
        }
        yield makers.get(kind, lambda users: DatabaseStore(database, users=users, clock=clock))


@contextlib.asynccontextmanager
async def with_store(kind: str, folder: Path, clock: Clock = time.time, **options: Any) -> AsyncIterator[Auth]:
    """An Auth with sessions of this kind, on a database of its own."""
    server = kind if kind in BACKENDS else "sqlite"
    if kind.startswith("django"):
        _, _, server = kind.partition(" ")
        engine = "signed_cookies" if server == "cookie" else "db"
        server = "sqlite" if server == "cookie" else server
        project = DjangoProject(session_engine=engine)
        async with (
            empty_database(server, folder) as url,
            connected(url) as database,
            installed(database, django=project, clock=clock, **options) as auth,
        ):
            yield auth
        return
    async with (
        database_with_tables(server, folder) as url,
        connected(url) as database,
        store_maker(kind, database, clock) as sessions,
        installed(database, sessions=sessions, clock=clock, **options) as auth,
    ):
        yield auth


@contextlib.asynccontextmanager
async def installed(database: Database, **options: Any) -> AsyncIterator[Auth]:
    """An Auth whose tables are there."""
    auth = Auth(database, **{"secret_key": SECRET_KEY, "passwords": weak_passwords(), **options})
    if "tables" in options and await all_columns(auth.gateway):
        for name in OUR_TABLES:
            await database.execute(f"DROP TABLE {name}")
    await migrate(auth.gateway, auth.tables)
    try:
        yield auth
    finally:
        await auth.close()


def name_of(server: str) -> str:
    """In names of tests; "django postgresql://…" is a Django project on that server."""
    return server.split(":")[0].split("+")[0]


@pytest.fixture(params=BACKENDS, ids=name_of)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """A database of its own for each test, on each server: an empty one, unless the test says `with_tables`."""
    make = database_with_tables if request.node.get_closest_marker("with_tables") else empty_database
    async with make(str(request.param), tmp_path) as url:
        yield url


async def _on_server(server: str, statement: str) -> None:
    maintenance = "postgres" if server.startswith("postgres") else "mysql"
    async with Database(f"{server}/{maintenance}", min_size=1, max_size=1) as database:
        await database.execute(statement)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A connected database without tables."""
    async with connected(database_url) as database:
        yield database


@pytest.fixture
async def auth(database: Database) -> AsyncIterator[Auth]:
    """An Auth on a database with all tables."""
    async with installed(database) as auth:
        yield auth


@pytest.fixture
async def ann(auth: Auth) -> User:
    """A user who may do nothing in particular."""
    user: User = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    return user


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
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
    """Its driver runs an event loop, for as long as there are tests in the module."""
    yield from launched()


@pytest.fixture(scope="module", params=[False, True], ids=["without JavaScript", "with JavaScript"])
def javascript(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module")
def server(javascript: bool, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With JavaScript, one that logs all that it can, and sends its mails, so that none of them is in the log."""
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
    """The shapes of the pages of which no more is to be seen."""
    return set()


@pytest.fixture
def visit(
    chromium: Browser, server: Server, javascript: bool, looked_at: set[tuple[str, ...]]
) -> Iterator[Callable[..., Visitor]]:
    """Lets people visit the example application, and checks afterwards what each browser saw, sent and was told."""
    visitors: list[Visitor] = []

    def sit_down(locale: str = "en-US") -> Visitor:
        visitors.append(Visitor(chromium, server, javascript=javascript, locale=locale))
        return visitors[-1]

    yield sit_down
    new: dict[tuple[str, ...], Seen] = {}
    for visitor in visitors:
        assert visitor.leaks() == []
        assert visitor.strangers() == []
        assert visitor.unguarded() == []
        assert visitor.complaints == []
        new |= {seen.shape: seen for seen in visitor.pages if seen.shape not in looked_at}
        visitor.context.close()
    if not javascript:  # to be looked at, they are opened with it
        assert look_at(chromium, new.values()) == []
        looked_at.update(new)


def client_of(app: ASGIApp, *, base_url: str = "http://testserver", **options: Any) -> httpx.AsyncClient:
    """A browser, with a cookie jar, that talks to the application in the same event loop."""
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 5000))
    return httpx.AsyncClient(transport=transport, base_url=base_url, **options)


def token_in(page: str) -> str:
    """The CSRF token in a page's form."""
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found, "no token in the page"
    return found[1]


async def post_login(
    client: httpx.AsyncClient, username: str = "ann", password: str = PASSWORD, **fields: str
) -> httpx.Response:
    """Fills in the login form, as a visitor does."""
    page = await client.get("/accounts/login")
    token = token_in(page.text)
    data = {"username": username, "password": password, "csrfmiddlewaretoken": token, **fields}
    return await client.post("/accounts/login", data=data)


async def all_of(*coroutines: Any) -> list[Any]:
    return await asyncio.gather(*coroutines)


def count_statements(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is said to the database from now on."""
    said: list[str] = []
    driver = type(auth.gateway.driver)
    for name in ("fetch", "execute", "insert"):
        original = getattr(driver, name)

        async def counting(self: Any, raw: Any, sql: str, arguments: Any, original: Any = original) -> Any:
            said.append(sql)
            return await original(self, raw, sql, arguments)

        monkeypatch.setattr(driver, name, counting)
    return said
