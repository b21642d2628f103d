"""`Auth(connections=…)`: kept PostgreSQL connections pass the tests of the gateway, and are returned to the pool."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import Database
from starlette.routing import Route

from starlette_auth import Auth, Gateway, ImproperlyConfigured, gateway_of, lifespan
from starlette_auth.testing import log_in

from ..conftest import BACKENDS, SECRET_KEY, client_of, empty_database, with_store
from ..support.apps import make_app
from ..whole.test_hot_path import create_voter, request_vote, vote
from .test_gateway import (  # noqa: F401  these tests run again here, with other fixtures
    COUNT,
    ITEMS,
    allow_asyncpg_to_read_files,
    create_tables,
    kill_connections,
    test_a_child_task_does_not_share_the_transaction,
    test_a_connection_lost_inside_a_transaction_is_replaced,
    test_a_transaction_of_the_application_inside_atomic_is_a_savepoint,
    test_a_transaction_that_the_application_never_ends_leaks_no_connection,
    test_after_a_server_restart_each_lost_connection_fails_at_most_one_query,
    test_an_error_in_an_inner_atomic_rolls_only_its_savepoint_back,
    test_an_exception_rolls_the_transaction_back,
    test_atomic_commits,
    test_atomic_is_a_savepoint_inside_a_transaction_of_the_application,
    test_atomic_uses_the_connection_that_the_application_holds,
    test_cancelled_queries_leak_no_connection,
    test_committing_after_a_swallowed_error_raises_an_error,
    test_direct_queries_of_the_application_are_part_of_atomic,
    test_failed_commits_leak_no_connection,
    test_fifty_concurrent_read_and_write_transactions_lose_no_update,
    test_four_hundred_cancelled_transactions_leak_no_connection,
    test_only_one_of_many_concurrent_tasks_claims_a_row,
)

POSTGRESQL = [url for url in BACKENDS if url.startswith("postgres")]
pytestmark = pytest.mark.skipif(not POSTGRESQL, reason="needs PostgreSQL; add a URL to TEST_DATABASE_URLS")


@pytest.fixture(params=POSTGRESQL, ids=["postgresql"][: len(POSTGRESQL)])
async def database_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with empty_database(request.param, Path()) as url:
        yield url


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    """Yields a gateway with a pool of five connections, two of which are kept."""
    if not database_url.startswith("postgres"):
        pytest.skip("only PostgreSQL connections are kept")
    async with Database(database_url, min_size=1, max_size=5) as database:
        gateway = gateway_of(database)
        gateway.keep_connections(2)
        await create_tables(gateway)
        yield gateway
        await gateway.close()


@pytest.fixture
def small_pool(gateway: Gateway) -> Gateway:
    return gateway


def count_acquired(gateway: Gateway) -> int:
    """Returns the number of connections that are not in the pool."""
    pool = gateway.database._backend._pool
    return int(pool.get_size() - pool.get_idle_size())


async def test_two_connections_are_kept_and_further_ones_return_to_the_pool(gateway: Gateway) -> None:
    await asyncio.gather(*(gateway.fetch_one(COUNT) for _ in range(50)))
    assert count_acquired(gateway) == 2
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="a")
    async with gateway.single_connection():
        await gateway.fetch_one(COUNT)
    assert count_acquired(gateway) == 2
    await gateway.close()
    assert count_acquired(gateway) == 0


async def test_settings_of_the_application_do_not_stay_on_kept_connections(gateway: Gateway) -> None:
    read = sa.select(sa.func.current_setting("application_name").label("name"))
    for _ in range(5):
        async with gateway.atomic():
            await gateway.database.execute("SET application_name = 'tenant'")
    names = await asyncio.gather(*(gateway.fetch_one(read) for _ in range(10)))
    assert names == [{"name": ""}] * 10
    async with gateway.atomic():
        assert await gateway.database.fetch_val("SELECT current_setting('application_name')") == ""


async def test_lost_kept_connections_are_replaced_without_an_error(gateway: Gateway) -> None:
    await asyncio.gather(*(gateway.fetch_one(COUNT) for _ in range(10)))
    await kill_connections(gateway.database)
    await asyncio.sleep(0.2)  # until the driver has noticed the closed connections
    assert await asyncio.gather(*(gateway.fetch_one(COUNT) for _ in range(6))) == [{"n": 0}] * 6
    assert count_acquired(gateway) == 2


async def test_an_authenticated_request_does_not_use_the_pool(tmp_path: Path) -> None:
    async with with_store(POSTGRESQL[0], tmp_path, connections=1) as auth:
        app, cookies = await create_voter(auth)
        pool = auth.database._backend._pool
        statements: list[str] = []
        async with auth.database.connection() as connection:
            connection.raw_connection.add_query_logger(lambda query: statements.append(query.query))
        statements.clear()
        size_before = pool.get_size()
        for _ in range(20):
            assert await request_vote(app, cookies) == 200
        assert statements == []  # no statement used a connection of the pool
        assert pool.get_size() == size_before


async def test_the_lifespan_closes_kept_connections_and_ends(database_url: str) -> None:
    auth = Auth(Database(database_url, min_size=1, max_size=3), secret_key=SECRET_KEY, connections=2)
    app = make_app(auth, Route("/vote", vote))
    async with asyncio.timeout(10):
        async with lifespan(auth, create_tables=True)(app), client_of(app) as client:
            await log_in(client, await auth.users.create_user("ann"), auth)
            assert (await client.get("/vote")).status_code == 403
    assert not auth.database.is_connected


@pytest.mark.parametrize(("url", "number"), [("postgresql://localhost/x", -1), ("mysql+asyncmy://localhost/x", 2)])
def test_invalid_values_of_connections_are_refused(url: str, number: int) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Leave it out|0 or greater"):
        Auth(Database(url), secret_key=SECRET_KEY, connections=number)
