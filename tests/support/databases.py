"""Databases, session stores and Auth objects for the tests."""

import asyncio
import contextlib
import os
import secrets
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from databases import Database
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

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
    migrate,
)
from starlette_auth.core.clock import Clock
from starlette_auth.database.adapters.databases_gateway import DatabasesGateway
from starlette_auth.database.gateway import Gateway
from starlette_auth.database.gateways import gateway_of
from starlette_auth.database.introspection import all_columns, index_names
from starlette_auth.passwords.passwords import default_hashers

from .matrix import BACKENDS, ENGINES, IN_CI, REDIS_URL
from .redis_servers import Cluster, Sentinels, shared_cluster, shared_sentinels

SECRET_KEY = "a secret key that is for tests only, and long enough"
EMPTY: dict[str, list[str]] = defaultdict(list)  # names of empty databases that can be used again, by server
READY: dict[str, list[str]] = defaultdict(list)  # names of databases that hold our tables and no row, by server
SHAPE: dict[str, tuple[object, object]] = {}  # the columns and indexes of a database with our tables, by server
MANY_REDIS: dict[str, Callable[[], Cluster | Sentinels]] = {
    "redis cluster": shared_cluster,
    "redis sentinel": shared_sentinels,
}
WITH_TABLES: set[str] = set()  # the places of the databases that `database_with_tables` yields at the moment
TABLE_OPTIONS = {"tables", "features", "django", "reset_tokens"}  # arguments of Auth that may ask for other tables
FILES: list[bytes] = []  # a SQLite file with our tables, after it was made once
OUR_TABLES = [table.name for table in reversed(list(Tables()))]
DISCONNECT_OTHERS = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name AND pid <> pg_backend_pid()"
)


def weak_passwords() -> Passwords:
    """Returns the real algorithm with its lowest cost: 500 logins per second instead of 5."""
    weak = Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    return Passwords([weak, *default_hashers()[1:]])


def name_of(server: str) -> str:
    """Returns the name of a server in test ids. "django postgresql://…" is a Django project on that server."""
    if server.startswith("engine+"):
        return server.split(":")[0]
    return server.split(":")[0].split("+")[0]


def plain(server: str) -> str:
    """Returns the URL for `databases` of a server that is one of ENGINES."""
    if not server.startswith("engine+"):
        return server
    dialect, colon, rest = server.removeprefix("engine+").partition(":")
    name = dialect.split("+")[0]
    return f"{'mysql+asyncmy' if name == 'mysql' else name}{colon}{rest}"


def engine_url(server: str, url: str) -> str:
    """Returns the URL of a database for `connected`: for an engine if the server is one of ENGINES."""
    return f"{server.partition(':')[0]}{url[url.index(':') :]}" if server.startswith("engine+") else url


def url_of(database: Database | AsyncEngine) -> str:
    """Returns the URL for `databases` of a Database or an engine."""
    if isinstance(database, Database):
        return str(database.url)
    return plain(f"engine+{database.url.render_as_string(hide_password=False)}")


@contextlib.asynccontextmanager
async def empty_database(server: str, folder: Path) -> AsyncIterator[str]:
    """Yields the URL of an empty database on one of BACKENDS or ENGINES."""
    asked, server = server, plain(server)
    if server == "sqlite":
        yield engine_url(asked, f"sqlite+aiosqlite:///{folder}/test.sqlite3")
        return
    name = EMPTY[server].pop() if EMPTY[server] else await _new_database(server)
    try:
        yield engine_url(asked, f"{server}/{name}")
    finally:
        if server.startswith("postgres"):
            await _empty_postgresql(server, name)
            EMPTY[server].append(name)
        else:
            await _drop(server, name)


@contextlib.asynccontextmanager
async def database_with_tables(server: str, folder: Path) -> AsyncIterator[str]:
    """Yields the URL of a database that holds our tables and no row.

    Deleting all rows takes a tenth of the time of creating the tables, so databases are used again.
    """
    asked, server = server, plain(server)
    if server == "sqlite":
        file = folder / "test.sqlite3"
        file.write_bytes(await _file_with_tables())
        with _marked(f"sqlite+aiosqlite:///{file}") as url:
            yield engine_url(asked, url)
        return
    if not READY[server]:
        READY[server].append(await _new_database(server))
        await _create_tables(f"{server}/{READY[server][-1]}")
    name = READY[server].pop()
    try:
        with _marked(f"{server}/{name}") as url:
            yield engine_url(asked, url)
    finally:
        if await _delete_rows(server, name):
            READY[server].append(name)
        else:
            await _drop(server, name)


@contextlib.contextmanager
def _marked(url: str) -> Iterator[str]:
    """Lets `installed` know that the database holds our tables."""
    place = url.partition(":")[2]
    WITH_TABLES.add(place)
    try:
        yield url
    finally:
        WITH_TABLES.discard(place)


async def drop_databases() -> None:
    """Drops the databases that this process made."""
    for server in {*EMPTY, *READY}:
        for name in EMPTY[server] + READY[server]:
            await _drop(server, name)


async def flush_at_commit(flushes: int) -> None:
    """Sets whether MySQL waits for the disk at COMMIT. In CI it need not: a new database takes a third of the time."""
    for server in BACKENDS if IN_CI else []:
        if server.startswith("mysql"):
            await _run_on_server(server, f"SET GLOBAL innodb_flush_log_at_trx_commit = {flushes}")


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
    """Deletes all rows. Returns False if the database holds more or fewer tables than ours."""
    async with Database(f"{server}/{name}", min_size=1, max_size=1) as database:
        if server.startswith("postgres"):
            await database.fetch_all(DISCONNECT_OTHERS, {"name": name})
        if await _shape_of(DatabasesGateway(database)) != SHAPE[server]:
            return False
        async with database.connection() as connection:
            raw: Any = connection.raw_connection
            statements = [f"DELETE FROM {table}" for table in OUR_TABLES]
            if server.startswith("postgres"):
                await raw.execute(";".join(statements))
                return True
            async with raw.cursor() as cursor:
                for statement in statements:
                    await cursor.execute(statement)
    return True


async def _new_database(server: str) -> str:
    name = f"starlette_auth_{os.getpid()}_{secrets.token_hex(4)}"
    await _run_on_server(server, f"CREATE DATABASE {name}")
    if server.startswith("postgres"):
        # No test depends on what a crash of this server would lose.
        await _run_on_server(server, f"ALTER DATABASE {name} SET synchronous_commit = off")
    return name


async def _drop(server: str, name: str) -> None:
    force = " WITH (FORCE)" if server.startswith("postgres") else ""
    await _run_on_server(server, f"DROP DATABASE {name}{force}")


async def _empty_postgresql(server: str, name: str) -> None:
    """Empties a database, which takes PostgreSQL a tenth of the 0.5 seconds that a new one takes."""
    async with Database(f"{server}/{name}", min_size=1, max_size=1) as database:
        await database.fetch_all(DISCONNECT_OTHERS, {"name": name})
        await database.execute("DROP SCHEMA public CASCADE")
        await database.execute("CREATE SCHEMA public")


async def _run_on_server(server: str, statement: str) -> None:
    maintenance = "postgres" if server.startswith("postgres") else "mysql"
    async with Database(f"{server}/{maintenance}", min_size=1, max_size=1) as database:
        await database.execute(statement)


def sync_url(url: str) -> str:
    """Returns the URL for an engine of SQLAlchemy that is not async."""
    scheme, _, rest = url.partition("://")
    drivers = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg", "mysql": "mysql+pymysql"}
    return f"{drivers[scheme.partition('+')[0]]}://{rest}"


@contextlib.asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """Yields a Database, or an AsyncEngine for a URL that begins with "engine+"."""
    if url.startswith("engine+"):
        async with with_engine(url) as engine:
            yield engine
        return
    options: dict[str, Any] = {} if url.startswith("sqlite") else {"min_size": 1, "max_size": 10}
    async with Database(url, **options) as database:
        yield database


@contextlib.asynccontextmanager
async def with_engine(url: str, **options: Any) -> AsyncIterator[AsyncEngine]:
    # The first versions of SQLAlchemy 2.0 have another default for SQLite.
    options = {"poolclass": AsyncAdaptedQueuePool, "pool_size": 5, "max_overflow": 5, **options}
    engine = create_async_engine(url.removeprefix("engine+"), **options)
    try:
        yield engine
    finally:
        await gateway_of(engine).close()
        await engine.dispose()


@contextlib.asynccontextmanager
async def redis_prefix() -> AsyncIterator[str]:
    """Yields a prefix for the Redis keys of one test, and deletes these keys afterwards."""
    prefix = f"starlette_auth_test_{os.getpid()}_{secrets.token_hex(4)}:"
    yield prefix
    async with Redis.from_url(REDIS_URL) as client:
        names = [name async for name in client.scan_iter(f"{prefix}*", count=1000)]
        if names:
            await client.delete(*names)


@contextlib.asynccontextmanager
async def store_maker(kind: str, database: Any, clock: Clock) -> AsyncIterator[Callable[[Any], SessionStore]]:
    """Yields a function for `Auth(sessions=…)` that makes a store of this kind."""
    async with contextlib.AsyncExitStack() as stack:
        is_shared = kind in ("redis", "cached")
        prefix = await stack.enter_async_context(redis_prefix()) if is_shared else f"{secrets.token_hex(4)}:"
        url = (await asyncio.to_thread(MANY_REDIS[kind])).url if kind in MANY_REDIS else REDIS_URL
        makers: dict[str, Callable[[Any], SessionStore]] = {
            "memory": lambda users: MemoryStore(clock=clock),
            "cookie": lambda users: CookieStore(SECRET_KEY, clock=clock),
            "redis": lambda users: RedisStore(REDIS_URL, prefix=prefix, clock=clock),
            **dict.fromkeys(MANY_REDIS, lambda users: RedisStore(url, prefix=prefix, clock=clock)),
            "cached": lambda users: CachedStore(
                DatabaseStore(database, users=users, clock=clock), REDIS_URL, prefix=prefix, clock=clock
            ),
        }
        yield makers.get(kind, lambda users: DatabaseStore(database, users=users, clock=clock))


@contextlib.asynccontextmanager
async def with_store(kind: str, folder: Path, clock: Clock = time.time, **options: Any) -> AsyncIterator[Auth]:
    """Yields an Auth on a new database, with sessions of this kind."""
    server = kind if kind in [*BACKENDS, *ENGINES] else "sqlite"
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


class AuthOnEngine(Auth):
    """An Auth with an AsyncEngine, and a `Database` for what tests ask the database directly."""

    observer: Database

    @property
    def database(self) -> Database:
        return self.observer


@contextlib.asynccontextmanager
async def installed(database: Any, **options: Any) -> AsyncIterator[Auth[Any]]:
    """Yields an Auth whose tables exist."""
    options = {"secret_key": SECRET_KEY, "passwords": weak_passwords(), **options}
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(database, Database):
            auth = Auth(database, **options)
        else:
            auth = AuthOnEngine(database, **options)
            auth.observer = await stack.enter_async_context(connected(url_of(database)))
        if "tables" in options and await all_columns(auth.gateway):
            for name in OUR_TABLES:
                await auth.database.execute(f"DROP TABLE {name}")
        if url_of(database).partition(":")[2] not in WITH_TABLES or TABLE_OPTIONS & options.keys():
            await migrate(auth.gateway, auth.tables)
        try:
            yield auth
        finally:
            await auth.close()
