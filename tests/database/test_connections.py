"""`Auth(connections=…)`: PostgreSQL's connections that stay with us obey the gateway's tests too, and give themselves back."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from databases import Database
from starlette.routing import Route

from starlette_auth import Auth, Gateway, ImproperlyConfigured, lifespan
from starlette_auth.testing import log_in

from ..conftest import BACKENDS, SECRET_KEY, client_of, empty_database, with_store
from ..support.apps import make_app
from ..whole.test_hot_path import ask, vote, voter_of
from .test_gateway import (  # noqa: F401  they are run here once more, on other fixtures
    COUNT,
    ITEMS,
    create_tables,
    kill_connections,
    password_file,
    test_a_child_task_does_not_share_the_transaction,
    test_a_commit_that_fails_leaves_the_pool_whole,
    test_a_connection_that_dies_within_a_transaction_is_replaced,
    test_a_transaction_that_an_error_has_spoilt_does_not_pretend_to_commit,
    test_a_transaction_that_the_application_never_ends_costs_no_connection,
    test_after_the_server_was_gone_a_dead_connection_costs_one_query_at_most,
    test_an_exception_undoes_everything,
    test_an_inner_atomic_is_undone_alone,
    test_atomic_commits,
    test_atomic_joins_the_transaction_of_the_application,
    test_atomic_uses_the_connection_that_the_application_holds,
    test_cancelled_queries_leak_nothing,
    test_fifty_who_read_and_write_lose_nothing,
    test_four_hundred_cancellations_leak_nothing,
    test_of_many_who_claim_a_row_one_gets_it,
    test_the_application_may_open_a_transaction_inside_atomic,
    test_what_the_task_asks_of_the_database_itself_belongs_to_the_transaction,
)

POSTGRESQL = [url for url in BACKENDS if url.startswith("postgres")]
pytestmark = pytest.mark.skipif(not POSTGRESQL, reason="needs PostgreSQL; name one in TEST_DATABASE_URLS")


@pytest.fixture(params=POSTGRESQL, ids=["postgresql"][: len(POSTGRESQL)])
async def database_url(request: pytest.FixtureRequest) -> AsyncIterator[str]:
    async with empty_database(request.param, Path()) as url:
        yield url


@pytest.fixture
async def gateway(database_url: str) -> AsyncIterator[Gateway]:
    """With a pool of five connections, two of which are kept."""
    if not database_url.startswith("postgres"):
        pytest.skip("only PostgreSQL's are kept")
    async with Database(database_url, min_size=1, max_size=5) as database:
        gateway = Gateway.of(database)
        gateway.keep_connections(2)
        await create_tables(gateway)
        yield gateway
        await gateway.close()


@pytest.fixture
def small(gateway: Gateway) -> Gateway:
    return gateway


def lent(gateway: Gateway) -> int:
    """How many connections are not in the pool."""
    pool = gateway.database._backend._pool
    return int(pool.get_size() - pool.get_idle_size())


async def test_two_are_kept_and_more_are_borrowed(gateway: Gateway) -> None:
    await asyncio.gather(*(gateway.fetch_one(COUNT) for _ in range(50)))
    assert lent(gateway) == 2
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="a")
    async with gateway.single_connection():
        await gateway.fetch_one(COUNT)
    assert lent(gateway) == 2
    await gateway.close()
    assert lent(gateway) == 0


async def test_what_the_application_sets_inside_a_transaction_is_not_kept(gateway: Gateway) -> None:
    read = sa.select(sa.func.current_setting("application_name").label("name"))
    for _ in range(5):
        async with gateway.atomic():
            await gateway.database.execute("SET application_name = 'of one tenant'")
    names = await asyncio.gather(*(gateway.fetch_one(read) for _ in range(10)))
    assert names == [{"name": ""}] * 10
    async with gateway.atomic():
        assert await gateway.database.fetch_val("SELECT current_setting('application_name')") == ""


async def test_dead_ones_are_replaced_without_an_error(gateway: Gateway) -> None:
    await asyncio.gather(*(gateway.fetch_one(COUNT) for _ in range(10)))
    await kill_connections(gateway.database)
    await asyncio.sleep(0.2)  # until the driver has heard of it
    assert await asyncio.gather(*(gateway.fetch_one(COUNT) for _ in range(6))) == [{"n": 0}] * 6
    assert lent(gateway) == 2


async def test_an_authenticated_request_costs_one_question_and_nothing_else(tmp_path: Path) -> None:
    async with with_store(POSTGRESQL[0], tmp_path, connections=1) as auth:
        app, cookies = await voter_of(auth)
        pool = auth.database._backend._pool
        statements: list[str] = []
        async with auth.database.connection() as watching:
            watching.raw_connection.add_query_logger(lambda query: statements.append(query.query))
        statements.clear()
        before = pool.get_size()
        for _ in range(20):
            assert await ask(app, cookies) == 200
        assert statements == []  # none of them went through the pool
        assert pool.get_size() == before


async def test_the_lifespan_gives_them_back_and_ends(database_url: str) -> None:
    auth = Auth(Database(database_url, min_size=1, max_size=3), secret_key=SECRET_KEY, connections=2)
    app = make_app(auth, Route("/vote", vote))
    async with asyncio.timeout(10):
        async with lifespan(auth, create_tables=True)(app), client_of(app) as client:
            await log_in(client, await auth.users.create_user("ann"), auth)
            assert (await client.get("/vote")).status_code == 403
    assert not auth.database.is_connected


@pytest.mark.parametrize(("url", "number"), [("postgresql://localhost/x", -1), ("mysql+asyncmy://localhost/x", 2)])
def test_what_makes_no_sense_is_refused(url: str, number: int) -> None:
    with pytest.raises(ImproperlyConfigured, match="Leave it out"):
        Auth(Database(url), secret_key=SECRET_KEY, connections=number)
