"""Which errors of a database are temporary failures, as the servers themselves send them."""

# ruff: noqa: PT012 - the end of a block often raises the expected exception

import asyncio
import contextlib

import pytest
import sqlalchemy as sa

from starlette_auth import ImproperlyConfigured, Unavailable

from ..conftest import BACKENDS
from ..support.sites import WRITE, Site, all_statuses, site_on
from .test_gateway import kill_connections

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
async def test_after_a_deadlock_in_a_savepoint_the_outer_transaction_commits_nothing(database_url: str) -> None:
    """MySQL rolls back the whole transaction, and would commit each later statement for itself."""
    async with site_on(database_url) as site:
        gateway, group = site.auth.gateway, site.auth.tables.group
        if gateway.dialect != "mysql":
            pytest.skip("The other databases keep the outer transaction, and roll back to the savepoint.")
        await raise_at_each_write(site, 1213)
        with pytest.raises(Unavailable, match="rolled back this transaction"):
            async with gateway.atomic():
                with contextlib.suppress(Unavailable):
                    async with gateway.atomic():
                        await gateway.execute(sa.update(site.auth.tables.session).values(address="x"))
                await gateway.insert(group, name="c")
        assert await gateway.fetch_all(sa.select(group.c.name)) == []


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
        with pytest.raises((Unavailable, ImproperlyConfigured)):
            async with auth.gateway.atomic():
                with contextlib.suppress(Unavailable):  # the application hides it; what follows must not be committed
                    await auth.gateway.execute(sa.update(auth.tables.session).values(address="x"))
                await auth.gateway.insert(group, name="c")
        await raise_at_each_write(site, None)
        assert await auth.gateway.fetch_all(sa.select(group.c.name)) == []
