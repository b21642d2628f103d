"""SQL databases that are locked, full, read-only, overloaded, killed or stopped: 503 and `Retry-After`, then service."""

# ruff: noqa: PT012 - the end of a block often raises the expected exception

import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import asyncpg
import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import ImproperlyConfigured, Unavailable
from starlette_auth.database.adapters.databases_gateway import DatabasesGateway

from ..conftest import BACKENDS, connected
from ..database.test_gateway import kill_connections
from ..support.matrix import needs_postgresql
from ..support.servers import MariaDBServer, PostgresServer, mariadb_server, postgres_server
from ..support.sites import NEITHER, READ, WRITE, Site, all_statuses, site_on

needs_mysql = pytest.mark.skipif(
    not any(url.startswith("mysql") for url in BACKENDS), reason="needs MySQL; name one in TEST_DATABASE_URLS"
)


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
    gateway = sqlite_site.auth.gateway
    assert isinstance(gateway, DatabasesGateway)
    write_lock = gateway._connections.get().write_lock
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


# Servers of their own


@needs_postgresql
@pytest.mark.parametrize("connections", [0, 2])
async def test_a_postgresql_server_that_is_stopped_full_or_read_only(connections: int) -> None:
    with postgres_server() as server:
        async with site_on(server.url, connections=connections, command_timeout=2, timeout=2, min_size=0) as site:
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
            for _ in range(2):
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
