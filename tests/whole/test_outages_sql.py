"""SQL databases that are locked, full, read-only, overloaded, killed or stopped: 503 and `Retry-After`, then service."""

# ruff: noqa: PT012 - the end of a block often raises the expected exception

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import Auth, ImproperlyConfigured, Unavailable
from starlette_auth.testing import log_in

from ..conftest import BACKENDS, client_of, connected, installed
from ..database.test_gateway import kill_connections
from ..support.apps import make_app
from ..support.matrix import needs_postgresql
from ..support.servers import MariaDBServer, PostgresServer, mariadb_server, postgres_server

WRITE, READ, NEITHER = "/remember?a=1", "/whoami", "/"
needs_mysql = pytest.mark.skipif(
    not any(url.startswith("mysql") for url in BACKENDS), reason="needs MySQL; name one in TEST_DATABASE_URLS"
)


class Site:
    """An application in which ann is logged in, and its database."""

    def __init__(self, auth: Auth, client: httpx.AsyncClient) -> None:
        self.auth = auth
        self.client = client
        self.number = 0

    async def statuses(self, *paths: str) -> list[int]:
        return [(await self.client.get(path)).status_code for path in paths]

    async def refuses(self, path: str = WRITE) -> None:
        """Checks that a request is refused as it should be. Another page, which needs no database, is still there."""
        response = await self.client.get(path)
        assert (response.status_code, response.headers.get("retry-after")) == (503, "3")
        assert "try again in a few seconds" in response.text
        assert "set-cookie" not in response.headers
        async with client_of(make_app(self.auth)) as visitor:
            assert (await visitor.get(NEITHER)).status_code == 200

    async def serves(self) -> None:
        """Checks that the site serves again within 5 seconds, without an error in between."""
        started_at = time.monotonic()
        self.number += 1
        while (await self.client.get(f"/remember?n={self.number}")).status_code != 200:
            assert time.monotonic() - started_at < 5
            await asyncio.sleep(0.05)
        response = await self.client.get(READ)
        assert response.json()["username"] == "ann"
        assert response.json()["session"]["n"] == str(self.number)
        assert set(await all_statuses(self.client, 30)) == {200}


async def all_statuses(client: httpx.AsyncClient, number: int, path: str = READ) -> list[int]:
    responses = await asyncio.gather(*(client.get(path) for _ in range(number)))
    return [response.status_code for response in responses]


@contextlib.asynccontextmanager
async def site_on(url: str, *, connections: int = 0, **options: Any) -> AsyncIterator[Site]:
    if not url.startswith("sqlite"):
        options = {"min_size": 1, "max_size": 5, **options}
    async with (
        Database(url, **options) as database,
        installed(database, connections=connections) as auth,
        client_of(make_app(auth)) as client,
    ):
        await log_in(client, await auth.users.create_user("ann"), auth)
        yield Site(auth, client)


# SQLite


@pytest.fixture
async def sqlite_site(tmp_path: Path) -> AsyncIterator[Site]:
    async with site_on(f"sqlite+aiosqlite:///{tmp_path}/site.sqlite3", timeout=0.3) as site:
        yield site


@contextlib.contextmanager
def locked(site: Site, *pragmas: str) -> Iterator[None]:
    """Locks the SQLite file, as a backup in another process does."""
    file = site.auth.database.url.database
    with contextlib.closing(sqlite3.connect(file, isolation_level=None, timeout=5)) as connection:
        for pragma in pragmas:
            connection.execute(pragma)
        connection.execute("BEGIN EXCLUSIVE")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


async def test_a_locked_sqlite_file_is_unavailable_for_those_who_write(sqlite_site: Site) -> None:
    with locked(sqlite_site):
        await sqlite_site.refuses()
        assert await sqlite_site.statuses(READ, NEITHER) == [200, 200]
        with pytest.raises(Unavailable, match="locked"):
            async with sqlite_site.auth.gateway.atomic():
                pass
        assert await all_statuses(sqlite_site.client, 5, WRITE) == [503] * 5
    await sqlite_site.serves()


async def test_a_sqlite_file_that_cannot_even_be_read_is_unavailable(sqlite_site: Site) -> None:
    """Without a write-ahead log, a lock excludes readers, too."""
    await sqlite_site.auth.gateway.close()
    with locked(sqlite_site, "PRAGMA journal_mode = DELETE"):
        await sqlite_site.refuses(READ)
        await sqlite_site.refuses(WRITE)
    await sqlite_site.serves()


async def test_a_write_that_waits_behind_others_for_a_locked_sqlite_file_is_unavailable(
    sqlite_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write waits 0.3 seconds for the file, one after the other, and the last ones wait too long for their turn."""
    write_lock = sqlite_site.auth.gateway._connections.get().write_lock
    monkeypatch.setattr(write_lock, "timeout", 0.8)
    with locked(sqlite_site):
        assert await all_statuses(sqlite_site.client, 10, WRITE) == [503] * 10
    await sqlite_site.serves()


async def test_a_full_sqlite_file_is_unavailable_for_those_who_write(sqlite_site: Site) -> None:
    gateway, database = sqlite_site.auth.gateway, sqlite_site.auth.database

    async def limit_pages(number: int) -> None:
        async with gateway.atomic():  # on the connection that writes
            await database.execute(f"PRAGMA max_page_count = {number}")

    await limit_pages(1)  # at least as many as there are
    await sqlite_site.refuses(f"/remember?long={'x' * 50_000}")
    assert await sqlite_site.statuses(READ) == [200]
    await limit_pages(100_000)
    await sqlite_site.serves()


async def test_a_sqlite_connection_that_only_reads_is_replaced(sqlite_site: Site) -> None:
    async with sqlite_site.auth.gateway.atomic():
        await sqlite_site.auth.database.execute("PRAGMA query_only = ON")
    await sqlite_site.refuses()
    await sqlite_site.serves()


async def test_a_sqlite_file_whose_folder_is_away_is_unavailable_and_the_log_names_the_folder(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    async with site_on(f"sqlite+aiosqlite:///{folder}/site.sqlite3") as site:
        await site.auth.gateway.close()
        folder.rename(tmp_path / "elsewhere")
        await site.refuses(READ)
        assert f"The folder {folder} of the database file does not exist. Create it" in caplog.text
        with pytest.raises(ImproperlyConfigured, match="does not exist"):
            await site.auth.users.get(1)
        (tmp_path / "elsewhere").rename(folder)
        await site.serves()


# What the servers answer


POSTGRESQL_STATES = (
    *("08006", "25006", "25P03", "40001", "40P01", "53100", "53200", "53300", "55000", "55006", "55P03", "57014"),
    *("57P01", "57P03", "58000", "58030"),
)
MYSQL_CODES = (
    *(1020, 1021, 1030, 1040, 1041, 1047, 1053, 1079, 1114, 1135, 1158, 1161, 1180, 1184, 1203, 1205, 1213, 1226, 1290),
    *(1317, 1792, 1836, 1927, 1969, 3024, 4031),
)


async def raise_at_each_write(site: Site, code: str | int | None) -> None:
    """Makes the database itself answer with an error to each change of a session; with none, if `code` is None."""
    database, table = site.auth.database, site.auth.tables.session.name
    if site.auth.gateway.dialect == "mysql":
        await database.execute("DROP TRIGGER IF EXISTS refuse")
        signal = f"SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = {code}, MESSAGE_TEXT = 'as ordered'"
        trigger = f"CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW {signal}"
        await database.execute(trigger if code else "DO 0")
        return
    await database.execute(f"DROP TRIGGER IF EXISTS refuse ON {table}")
    body = f"BEGIN RAISE EXCEPTION 'as ordered' USING ERRCODE = '{code}'; END"
    await database.execute(
        f"CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ {body if code else 'BEGIN END'} $$"
    )
    if code:
        await database.execute(f"CREATE TRIGGER refuse BEFORE UPDATE ON {table} FOR EACH ROW EXECUTE FUNCTION refuse()")


@pytest.mark.parametrize("database_url", BACKENDS[1:], indirect=True, ids=lambda url: url[:5])
@pytest.mark.with_tables
async def test_each_temporary_error_of_a_server_is_answered_with_503(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among them a deadlock and a serialization failure each time, after which the write is repeated for a while."""
    monkeypatch.setattr("starlette_auth.database.errors.MAX_SECONDS", 0.3)
    async with site_on(database_url) as site:
        for code in MYSQL_CODES if site.auth.gateway.dialect == "mysql" else POSTGRESQL_STATES:
            await raise_at_each_write(site, code)
            response = await site.client.get(WRITE.replace("1", str(code)))
            assert (code, response.status_code) == (code, 503)
            await raise_at_each_write(site, None)
            assert (code, *await site.statuses(WRITE.replace("1", str(code)))) == (code, 200)


@pytest.mark.parametrize("database_url", BACKENDS[1:], indirect=True, ids=lambda url: url[:5])
@pytest.mark.with_tables
async def test_an_error_that_is_not_temporary_is_raised(database_url: str) -> None:
    async with site_on(database_url) as site:
        await raise_at_each_write(site, 1062 + 1 if site.auth.gateway.dialect == "mysql" else "22012")
        with pytest.raises(Exception, match="as ordered"):
            await site.client.get(WRITE)
        await raise_at_each_write(site, None)


@pytest.mark.parametrize("connections", [0, 2])
@pytest.mark.parametrize("database_url", BACKENDS[1:], indirect=True, ids=lambda url: url[:5])
@pytest.mark.with_tables
async def test_after_all_connections_were_killed_the_site_serves_again(database_url: str, connections: int) -> None:
    if connections and not database_url.startswith("postgres"):
        pytest.skip("only PostgreSQL connections are kept")
    async with site_on(database_url, connections=connections) as site:
        assert set(await all_statuses(site.client, 20)) == {200}
        for _ in range(3):
            under_way = asyncio.gather(*(site.client.get(f"/remember?a={n}") for n in range(30)))
            await asyncio.sleep(0.01)
            await kill_connections(site.auth.database)
            assert {response.status_code for response in await under_way} <= {200, 400, 503}
            await site.serves()


@pytest.mark.parametrize("database_url", BACKENDS[1:], indirect=True, ids=lambda url: url[:5])
@pytest.mark.with_tables
async def test_inside_a_transaction_of_the_application_a_deadlock_is_not_repeated_but_raised(database_url: str) -> None:
    """The database has rolled back the statements of the application, too, and only the application can repeat those."""
    async with site_on(database_url) as site:
        auth, group, tries = site.auth, site.auth.tables.group, 0
        await raise_at_each_write(site, 1213 if auth.gateway.dialect == "mysql" else "40P01")

        async def work() -> None:
            nonlocal tries
            tries += 1
            await auth.gateway.insert(group, name="b")
            await auth.gateway.execute(sa.update(auth.tables.session).values(address="x"))

        for begin in (auth.database.transaction, auth.gateway.atomic):
            with pytest.raises(Unavailable, match="as ordered"):
                async with begin():
                    await auth.gateway.insert(group, name="a")
                    await auth.gateway.run_in_transaction(work)
        assert tries == 2
        with pytest.raises((Unavailable, asyncpg.InFailedSQLTransactionError)):
            async with auth.gateway.atomic():
                with contextlib.suppress(Unavailable):  # the application hides it; what follows must not be committed
                    await auth.gateway.execute(sa.update(auth.tables.session).values(address="x"))
                await auth.gateway.insert(group, name="c")
        await raise_at_each_write(site, None)
        assert await auth.gateway.fetch_all(sa.select(group.c.name)) == []


# Servers of their own


@needs_postgresql
@pytest.mark.parametrize("connections", [0, 2])
async def test_a_postgresql_server_that_is_stopped_full_or_read_only(connections: int) -> None:
    with postgres_server() as server:
        async with site_on(server.url, connections=connections, command_timeout=2, min_size=0) as site:
            assert set(await all_statuses(site.client, 20)) == {200}
            server.crash()
            await site.refuses(READ)
            await site.refuses(WRITE)
            server.start("default_transaction_read_only=on")  # as a standby
            await all_statuses(site.client, 20)  # the killed connections are replaced
            assert await site.statuses(READ) == [200]
            await site.refuses(WRITE)
            await change_setting(server, "default_transaction_read_only", "off")
            await site.serves()
            await check_timeouts(site, server)
            await check_connections(site, server)
            server.freeze()
            await site.refuses(READ)
            server.thaw()
            await site.serves()


async def change_setting(server: PostgresServer, name: str, value: str) -> None:
    """Changes a setting for the connections that are opened from now on: the driver does not ask for it again."""
    async with Database(server.url, min_size=1, max_size=1) as admin, admin.connection():
        await admin.execute("SET default_transaction_read_only = off")
        await admin.execute(f"ALTER DATABASE postgres SET {name} = {value}")


async def check_timeouts(site: Site, server: PostgresServer) -> None:
    """Another client holds the row of the session for longer than the server lets a statement or a lock wait."""
    update = sa.update(site.auth.tables.session).values(address="x")
    for name in ("statement_timeout", "lock_timeout"):
        await change_setting(server, name, "200")
        await kill_connections(site.auth.database)
        await site.serves()
        async with connected(server.url) as other, other.transaction():
            await other.execute(update)
            await site.refuses(WRITE)
            assert await site.statuses(READ) == [200]
        await change_setting(server, name, "0")
        await kill_connections(site.auth.database)
        await site.serves()


async def check_connections(site: Site, server: PostgresServer) -> None:
    """Other clients use up all connections of the server."""
    async with Database(server.url, min_size=1, max_size=1) as admin, contextlib.AsyncExitStack() as stack:
        await admin.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
        )
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                others = await asyncpg.connect(server.url)
                stack.push_async_callback(others.close)
        await all_statuses(site.client, 5)  # the killed connections are found
        await site.refuses(READ)
    await site.serves()


@needs_mysql
async def test_a_mariadb_server_that_is_stopped_full_or_read_only() -> None:
    with mariadb_server() as server:
        async with connected(server.url) as admin:
            await admin.execute("CREATE DATABASE site")
            await admin.execute("CREATE USER web@'127.0.0.1' IDENTIFIED BY 'secret'")
            await admin.execute("GRANT ALL ON site.* TO web@'127.0.0.1'")
        url = server.url.replace("root@", "web:secret@").replace("/mysql", "/site")
        async with site_on(url) as site:
            assert set(await all_statuses(site.client, 20)) == {200}
            server.crash()
            await site.refuses(READ)
            await site.refuses(WRITE)
            server.start("--read-only", "--max-connections=10")
            assert set(await all_statuses(site.client, 20)) <= {200, 503}  # the killed connections are replaced
            assert await site.statuses(READ) == [200]
            await site.refuses(WRITE)
            async with connected(server.url) as admin:
                await admin.execute("SET GLOBAL read_only = off")
            await site.serves()
            await check_mariadb_limits(site, server)


async def check_mariadb_limits(site: Site, server: MariaDBServer) -> None:
    """Another client holds the row of the session; then others use up all connections of the server."""
    for name, short, usual in (("innodb_lock_wait_timeout", 1, 50), ("max_statement_time", 0.3, 0)):
        async with connected(server.url) as admin:
            await admin.execute(f"SET GLOBAL {name} = {short}")
            await kill_connections(site.auth.database)
            await site.serves()
            async with admin.transaction():
                await admin.execute("UPDATE site.auth_session SET address = 'x'")
                await site.refuses(WRITE)
                assert await site.statuses(READ) == [200]
            await admin.execute(f"SET GLOBAL {name} = {usual}")
    await kill_connections(site.auth.database)
    async with contextlib.AsyncExitStack() as stack:
        with pytest.raises(Exception, match="Too many connections"):
            for _ in range(12):
                await stack.enter_async_context(Database(server.url, min_size=1, max_size=1))
        await all_statuses(site.client, 5)
        await site.refuses(READ)
    await site.serves()
