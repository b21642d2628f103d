"""What is particular to engines: their pools and drivers, lost connections, the lifespan, the command line."""

import asyncio
import contextlib
import gc
import os
import sys
import weakref
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, async_sessionmaker, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, NullPool, QueuePool, StaticPool
from starlette.testclient import TestClient

from starlette_auth import Auth, DatabaseStore, ImproperlyConfigured, Unavailable, gateway_of, lifespan
from starlette_auth.database.errors import translate
from starlette_auth.testing import log_in

from ..conftest import SECRET_KEY, client_of, with_tables
from ..database.test_gateway import kill_connections
from ..support.apps import make_app
from ..support.databases import installed, weak_passwords, with_engine

pytestmark = with_tables
ONE: sa.Select[Any] = sa.select(sa.literal_column("1").label("one"))

APP = """
from sqlalchemy.ext.asyncio import create_async_engine
from starlette_auth import Auth

auth = Auth(create_async_engine({url!r}), secret_key="a secret key that is for tests only, and long enough")
"""


async def statuses(client: Any, number: int) -> list[int]:
    responses = await asyncio.gather(*(client.get("/remember?a=1") for _ in range(number)))
    return [response.status_code for response in responses]


async def test_after_all_connections_were_killed_few_answers_fail(database: AsyncEngine) -> None:
    """At most two answers for each kept connection fail; reads are asked again."""
    async with installed(database) as auth:
        if auth.gateway.dialect == "sqlite":
            pytest.skip("has no server")
        async with client_of(make_app(auth)) as client:
            await log_in(client, await auth.users.create_user("ann"), auth)
            assert set(await statuses(client, 10)) == {200}
            for _ in range(3):
                await kill_connections(database)
                failed = 0
                while (await client.get("/remember?a=2")).status_code != 200:
                    failed += 1
                    assert failed <= 4
                assert set(await statuses(client, 10)) == {200}


async def test_connections_are_kept_and_given_back(database: AsyncEngine) -> None:
    async with installed(database) as auth:
        await asyncio.gather(*(auth.gateway.fetch_one(ONE) for _ in range(30)))
        await auth.users.create_user("ann")
        # Those to a SQLite file are separate from the pool.
        assert checked_out(database) == (0 if auth.gateway.dialect == "sqlite" else 2)
    assert checked_out(database) == 0


async def test_requests_that_hold_all_connections_of_the_pool_can_still_save(database_url: str) -> None:
    async with (
        with_engine(database_url, pool_size=3, max_overflow=0, pool_timeout=5) as engine,
        installed(engine) as auth,
    ):
        sessions = async_sessionmaker(engine)

        async def request(number: int) -> str:
            async with sessions() as session, auth.joined(session):
                await session.execute(sa.text("SELECT 1"))
                await asyncio.sleep(0.01)
                web = await auth.sessions.load("")
                web["n"] = number
                return await auth.sessions.save(web, max_age=60)

        async with asyncio.timeout(20):
            cookies = await asyncio.gather(*(request(number) for number in range(20)))
        assert [await auth.sessions.load(cookie) for cookie in cookies] == [{"n": number} for number in range(20)]


async def test_a_pool_without_kept_connections_works(database_url: str) -> None:
    engine = create_async_engine(database_url.removeprefix("engine+"), poolclass=NullPool)
    async with installed(engine, connections=0) as auth:
        ann = await auth.users.create_user("ann")
        await asyncio.gather(*(auth.users.update(ann, first_name=str(number)) for number in range(5)))
        stored = await auth.users.get_by_username("ann")
        assert stored is not None
        assert stored.first_name in list("01234")
    await engine.dispose()


async def test_the_lifespan_leaves_the_engine_to_the_application(database: AsyncEngine) -> None:
    async with installed(database) as auth:
        app = make_app(auth)
        async with lifespan(auth, create_tables=True)(app), client_of(app) as client:
            await log_in(client, await auth.users.create_user("ann"), auth)
            assert (await client.get("/remember?a=1")).status_code == 200
        assert checked_out(database) == 0
        async with database.connect() as connection:
            assert await connection.scalar(sa.text("SELECT 1")) == 1


async def test_the_command_line_takes_an_application_with_an_engine(database_url: str, tmp_path: Path) -> None:
    if not database_url.startswith(("engine+sqlite", "engine+postgresql+asyncpg")):
        pytest.skip("two databases are enough: each command takes seconds to start")
    (tmp_path / "site_on_engine.py").write_text(APP.format(url=database_url.removeprefix("engine+")))
    command = [sys.executable, "-m", "starlette_auth", "--app", "site_on_engine:auth"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{os.getcwd()}"}
    for arguments, expected in (
        (["migrate"], "All tables are up to date"),
        (["clearsessions"], "0"),
    ):
        process = await asyncio.create_subprocess_exec(
            *command,
            *arguments,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        assert expected in output.decode()
        assert "Traceback" not in output.decode()


async def test_an_unreachable_server_is_unavailable() -> None:
    for url in (
        "postgresql+asyncpg://u@127.0.0.1:1/x",
        "postgresql+psycopg://u@127.0.0.1:1/x",
        "mysql+asyncmy://u@127.0.0.1:1/x",
    ):
        engine = create_async_engine(url)
        for call in (gateway_of(engine).fetch_one(ONE), gateway_of(engine).atomic().__aenter__()):
            with pytest.raises(Unavailable, match="Check that it is running"):
                await call
        await engine.dispose()


async def test_a_missing_database_and_a_refused_user_are_named(database_url: str) -> None:
    url = sa.make_url(database_url.removeprefix("engine+"))
    if url.get_backend_name() == "sqlite":
        pytest.skip("has no server")
    for other, fix in (
        (url.set(database="missing"), "Create the database first"),
        (url.set(username="missing", password="wrong"), "Check the user"),
    ):
        engine = create_async_engine(other)
        with pytest.raises(ImproperlyConfigured, match=fix):
            await gateway_of(engine).fetch_one(ONE)
        await engine.dispose()


async def test_an_exhausted_pool_is_unavailable(database_url: str) -> None:
    async with with_engine(database_url, pool_size=1, max_overflow=0, pool_timeout=0.1) as engine:
        gateway = gateway_of(engine)
        await gateway.fetch_one(ONE)  # on SQLite, the connection that is kept from now on does not count in the pool
        async with engine.connect():
            if gateway.dialect == "sqlite":
                assert await gateway.fetch_one(ONE) == {"one": 1}
                return
            with pytest.raises(Unavailable, match="Give it a larger pool"):
                await gateway.fetch_one(ONE)
        assert await gateway.fetch_one(ONE) == {"one": 1}


async def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/later/test.sqlite3")
    with pytest.raises(ImproperlyConfigured, match=r"The folder .* does not exist"):
        await gateway_of(engine).fetch_one(ONE)
    (tmp_path / "later").mkdir()
    assert await gateway_of(engine).fetch_one(ONE) == {"one": 1}
    await gateway_of(engine).close()
    await engine.dispose()


async def test_a_sqlite_file_may_be_named_by_a_uri(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///file:{tmp_path}/test.sqlite3?uri=true&mode=rwc")
    assert await gateway_of(engine).fetch_one(ONE) == {"one": 1}
    await gateway_of(engine).close()
    await engine.dispose()


async def test_sqlite_connections_have_their_own_settings(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.sqlite3")
    gateway = gateway_of(engine)

    async def pragma(name: str) -> Any:
        row = await gateway.fetch_one(sa.text(f"PRAGMA {name}").columns(sa.column("value")))
        return row and row["value"]

    for context in (contextlib.nullcontext(), gateway.atomic()):
        async with context:
            assert [await pragma(name) for name in ("foreign_keys", "journal_mode")] == [1, "wal"]
    async with engine.connect() as connection:
        assert await connection.scalar(sa.text("PRAGMA foreign_keys")) == 0  # a matter of the application
    await gateway.close()
    await engine.dispose()


@pytest.mark.parametrize(
    "url", ["sqlite+aiosqlite://", "sqlite+aiosqlite:///:memory:", "sqlite+aiosqlite:///file:x?mode=memory&uri=true"]
)
async def test_an_in_memory_database_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="Use a file instead"):
        Auth(create_async_engine(url, poolclass=NullPool), secret_key=SECRET_KEY)


async def test_a_pool_of_one_shared_connection_is_refused(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.sqlite3", poolclass=StaticPool)
    with pytest.raises(ImproperlyConfigured, match="another pool than StaticPool"):
        Auth(engine, secret_key=SECRET_KEY)


async def test_an_engine_that_translates_the_schema_is_refused(database: AsyncEngine) -> None:
    engine = database.execution_options(schema_translate_map={None: "tenant"})
    with pytest.raises(ImproperlyConfigured, match=r"name the schema with Tables\(schema=…\)"):
        Auth(engine, secret_key=SECRET_KEY)
    Auth(database.execution_options(schema_translate_map={"own": "tenant"}), secret_key=SECRET_KEY)


async def test_an_engine_that_was_disposed_gets_new_connections(database: AsyncEngine) -> None:
    """Those of the old pool are closed, although it is not there any more."""
    gateway: Any = gateway_of(database)
    if gateway.dialect == "sqlite":
        pytest.skip("its kept connections do not belong to the pool")

    async def connection() -> Any:
        await gateway.fetch_one(ONE)
        return gateway._connections.get()._all[0].raw_connection

    for end in (connection, gateway.close):
        old = await connection()
        await database.dispose()
        assert await end() is not old
        async with asyncio.timeout(5):
            while not gateway.driver.is_closed(old):
                await asyncio.sleep(0.01)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="sqlite3 has the argument from Python 3.12 on")
async def test_an_engine_that_never_commits_is_refused(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/test.sqlite3"
    engine = create_async_engine(url, connect_args={"autocommit": False})
    with pytest.raises(ImproperlyConfigured, match="Leave autocommit=False out"):
        await gateway_of(engine).fetch_one(ONE)
    await engine.dispose()


@pytest.mark.parametrize("database", [sa.create_engine("sqlite://"), "sqlite:///x", None, 7], ids=str)
def test_anything_else_is_refused_with_the_fix(database: Any) -> None:
    for call in (lambda: Auth(database, secret_key=SECRET_KEY), lambda: DatabaseStore(database)):
        with pytest.raises(ImproperlyConfigured, match=r"create_async_engine\(url\)"):
            call()


async def test_each_engine_has_one_gateway_that_does_not_keep_it_alive(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.sqlite3")
    assert gateway_of(engine) is gateway_of(engine)
    reference = weakref.ref(engine.sync_engine)
    del engine
    gc.collect()
    assert reference() is None


async def test_a_kept_connection_does_not_keep_the_context_of_the_first_request(database: AsyncEngine) -> None:
    if database.dialect.driver == "asyncpg":
        pytest.skip("asyncpg itself keeps it, in the timer of a cached statement")

    class Request:
        pass

    current: ContextVar[Request | None] = ContextVar("current", default=None)

    async def request() -> weakref.ref[Request]:
        current.set(request := Request())
        await gateway_of(database).fetch_one(ONE)
        return weakref.ref(request)

    reference = await asyncio.create_task(request())
    await gateway_of(database).fetch_one(ONE)
    gc.collect()
    assert reference() is None


def test_an_application_may_be_tested_in_several_event_loops(database_url: str) -> None:
    """The kept connections of the first event loop are closed with it, and do not come out of the pool again."""
    engine = create_async_engine(database_url.removeprefix("engine+"), poolclass=AsyncAdaptedQueuePool)
    auth = Auth(engine, secret_key=SECRET_KEY, passwords=weak_passwords())
    app = make_app(auth, lifespan=lifespan(auth))
    for _ in range(3):
        with TestClient(app) as client:
            assert client.get("/remember?a=1").status_code == 200
    asyncio.run(engine.dispose())


def test_a_connection_of_another_event_loop_is_named() -> None:
    error = RuntimeError("Task <Task pending> got Future <Future pending> attached to a different loop")
    with pytest.raises(ImproperlyConfigured, match="poolclass=NullPool"):
        translate(error)


def test_each_event_loop_opens_its_own_connections(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/test.sqlite3", poolclass=NullPool)

    async def run(name: str) -> int:
        async with installed(engine, passwords=weak_passwords()) as auth:
            await auth.users.create_user(name)
            return await auth.users.count()

    assert [asyncio.run(run(name)) for name in ("ann", "bob")] == [1, 2]


def checked_out(engine: AsyncEngine) -> int:
    pool = engine.sync_engine.pool
    assert isinstance(pool, QueuePool)
    return pool.checkedout()
