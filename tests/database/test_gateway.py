"""The gateway on real databases, including the known problems of `databases` that it avoids."""

# ruff: noqa: PT012 - the end of a block often raises the expected exception

import asyncio
import contextlib
import gc
import json
import random
import sqlite3
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from contextvars import Context, ContextVar
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiosqlite
import asyncmy.errors
import asyncpg
import pytest
import sqlalchemy as sa
from blockbuster import BlockBuster
from databases import Database
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.schema import CreateTable

from starlette_auth import Auth, Gateway, ImproperlyConfigured, IntegrityError, Unavailable, UnstorableValue, gateway_of
from starlette_auth.core.concurrency import run_to_completion
from starlette_auth.database.adapters.connections import SQLiteConnections
from starlette_auth.database.adapters.databases_gateway import DatabasesGateway
from starlette_auth.database.adapters.sqlite import WriteLock, WriteLockTimeout
from starlette_auth.database.columns import UTCDateTime, long_text
from starlette_auth.database.errors import is_unavailable
from starlette_auth.database.statements import PreparedStatement, Statement

from ..conftest import BACKENDS, any_database
from ..support.databases import url_of, with_engine

METADATA = sa.MetaData()
ITEMS = sa.Table(
    "items",
    METADATA,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.String(20), nullable=False, unique=True),
    sa.Column("amount", sa.Integer),
    sa.Column("big", sa.BigInteger),
    sa.Column("note", long_text()),
    sa.Column("flag", sa.Boolean),
    sa.Column("token", sa.Uuid),
    sa.Column("at", UTCDateTime()),
    sqlite_autoincrement=True,
)
PARTS = sa.Table(
    "parts",
    METADATA,
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id"), nullable=False),
)
LATE_PARTS = sa.Table(
    "late_parts",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("item_id", sa.Integer, sa.ForeignKey("items.id", deferrable=True, initially="DEFERRED"), nullable=False),
)
BY_NAME = Statement(sa.select(ITEMS).where(ITEMS.c.name == sa.bindparam("name")))
SET_AMOUNT = Statement(
    sa.update(ITEMS).where(ITEMS.c.name == sa.bindparam("item")).values(amount=sa.bindparam("amount"))
)
DELETE = Statement(sa.delete(ITEMS).where(ITEMS.c.name == sa.bindparam("name")))
COUNT = Statement(sa.select(sa.func.count().label("n")).select_from(ITEMS))
ONE = Statement(sa.select(sa.literal_column("1").label("one")))

# Arguments: the URL of a SQLite file, and how often to add one to the item "sum".
ADDER = """
import asyncio, sys
from databases import Database
from tests.database.test_gateway import add_one
from starlette_auth import gateway_of

async def main():
    async with Database(sys.argv[1]) as database:
        gateway = gateway_of(database)
        for _ in range(int(sys.argv[2])):
            await add_one(gateway)
        await gateway.close()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def allow_asyncpg_to_read_files(blockbuster: BlockBuster) -> None:
    """Allows asyncpg to read files in the home directory when it opens a connection."""
    for function in blockbuster.functions.values():
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")


async def create_tables(gateway: Gateway) -> None:
    for table in (ITEMS, PARTS):
        await gateway.execute(CreateTable(table))
    if gateway.dialect != "mysql":
        await gateway.execute(CreateTable(LATE_PARTS))


@pytest.fixture
async def gateway(database: Database) -> AsyncIterator[Gateway]:
    gateway = gateway_of(database)
    await create_tables(gateway)
    yield gateway
    await gateway.close()


@pytest.fixture
async def small_pool(database_url: str) -> AsyncIterator[Gateway]:
    """Yields a gateway whose pool has three connections."""
    options: dict[str, Any] = {} if is_sqlite(database_url) else {"min_size": 1, "max_size": 3}
    is_engine = database_url.startswith("engine+")
    async with (
        with_engine(database_url, pool_size=3, max_overflow=0, pool_timeout=5)
        if is_engine
        else Database(database_url, **options)
    ) as database:
        gateway = gateway_of(database)
        await create_tables(gateway)
        yield gateway
        await gateway.close()


@pytest.fixture
async def sqlite_url(tmp_path: Path) -> str:
    """Returns the URL of a SQLite file with the tables and the item "sum"."""
    url = f"sqlite:///{tmp_path}/shared.sqlite3"
    async with Database(url) as database:
        gateway = gateway_of(database)
        await create_tables(gateway)
        await gateway.insert(ITEMS, name="sum", amount=0)
        await gateway.close()
    return url


@pytest.fixture
def opened_connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Returns a list that grows by one for each opened SQLite connection."""
    connections: list[Any] = []
    connect = aiosqlite.connect

    def counting_connect(*args: Any, **options: Any) -> aiosqlite.Connection:
        connections.append(args)
        return connect(*args, **options)

    monkeypatch.setattr(aiosqlite, "connect", counting_connect)
    return connections


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def only_on(*dialects: str) -> pytest.MarkDecorator:
    """Limits a test to the given databases."""
    return pytest.mark.parametrize(
        "database_url", [url for url in BACKENDS if url.startswith(dialects)], indirect=True, ids=lambda url: url[:6]
    )


async def item_names(gateway: Gateway) -> list[str]:
    return [row["name"] for row in await gateway.fetch_all(sa.select(ITEMS.c.name).order_by(ITEMS.c.name))]


async def get_amount(gateway: Gateway, name: str) -> int:
    row = await gateway.fetch_one(BY_NAME, name=name)
    assert row is not None
    return int(row["amount"])


async def add_one(gateway: Gateway) -> None:
    lock = gateway.dialect != "sqlite"
    query = sa.select(ITEMS.c.amount).where(ITEMS.c.name == "sum")
    async with gateway.atomic():
        row = await gateway.fetch_one(query.with_for_update() if lock else query)
        assert row is not None
        await asyncio.sleep(0)
        await gateway.execute(SET_AMOUNT, item="sum", amount=row["amount"] + 1)


async def count_open_transactions(gateway: Gateway) -> int:
    """Returns the number of open transactions in this database, seen from another connection."""
    if gateway.dialect == "sqlite":
        file = str(sa.make_url(gateway.url).database)
        with contextlib.closing(sqlite3.connect(file, timeout=0)) as connection:
            try:
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                return 1
            return 0
    query = (
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'"
        if gateway.dialect == "postgresql"
        else "SELECT count(*) FROM information_schema.innodb_trx t JOIN information_schema.processlist p "
        "ON p.id = t.trx_mysql_thread_id WHERE p.db = DATABASE() AND p.id <> CONNECTION_ID()"
    )
    async with Database(url_of(gateway.database), min_size=1, max_size=1) as observer:
        return int(await observer.fetch_val(query))


async def assert_no_connection_leaked(gateway: Gateway) -> None:
    """Checks that no transaction is open, and that all three connections can be used at the same time."""
    assert await count_open_transactions(gateway) == 0
    await gateway.close()  # returns kept connections to the pool
    all_connected = asyncio.Barrier(3)

    async def hold() -> None:
        database = gateway.database
        async with database.connection() if isinstance(database, Database) else database.connect():
            await all_connected.wait()
            if isinstance(database, Database):  # on this connection; an engine has no connection left for it
                assert await gateway.fetch_one(ONE) == {"one": 1}

    async with asyncio.timeout(5):
        await asyncio.gather(hold(), hold(), hold())
        async with gateway.atomic():
            assert await gateway.fetch_one(ONE) == {"one": 1}


async def kill_connections(database: Database | AsyncEngine) -> None:
    """Closes all other connections on the server, as a restart would."""
    async with Database(url_of(database), min_size=1, max_size=1) as connection:
        if connection.url.dialect == "postgresql":
            await connection.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return
        query = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        for row in await connection.fetch_all(query):
            await connection.execute(f"KILL CONNECTION {row[0]}")


# Queries


async def test_a_row_is_read_as_it_was_stored(gateway: Gateway) -> None:
    values: dict[str, Any] = {
        "name": "first",
        "amount": -(2**31),
        "big": 2**63 - 1,
        "note": 'it\'s 100% "quoted" :name %(name)s %s \\ ; -- ñ 日本 😀\n\t$1 ?',
        "flag": True,
        "token": uuid4(),
        "at": datetime(2024, 2, 29, 23, 59, 59, 123456, tzinfo=UTC),
    }
    key = await gateway.insert(ITEMS, **values)
    row = await gateway.fetch_one(BY_NAME, name="first")
    assert row == {"id": key, **values}
    assert type(row["flag"]) is bool
    assert isinstance(row["token"], UUID)
    assert row["at"].tzinfo is UTC


async def test_null_is_read_as_none(gateway: Gateway) -> None:
    nulls = dict.fromkeys(["amount", "big", "note", "flag", "token", "at"])
    await gateway.insert(ITEMS, name="empty", **nulls)
    row = await gateway.fetch_one(BY_NAME, name="empty")
    assert row == {"id": 1, "name": "empty", **nulls}


async def test_false_zero_and_empty_text_are_not_null(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="", flag=False, amount=0, note="")
    row = await gateway.fetch_one(BY_NAME, name="")
    assert row is not None
    assert (row["flag"], row["amount"], row["note"]) == (False, 0, "")


async def test_without_a_row_fetch_one_returns_none_and_fetch_all_an_empty_list(gateway: Gateway) -> None:
    assert await gateway.fetch_one(BY_NAME, name="absent") is None
    assert await gateway.fetch_all(BY_NAME, name="absent") == []


async def test_fetch_all_keeps_the_order_of_the_query(gateway: Gateway) -> None:
    for name in ("b", "a", "c"):
        await gateway.insert(ITEMS, name=name)
    assert await item_names(gateway) == ["a", "b", "c"]


async def test_sql_may_contain_percent_signs_and_colons(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="100%")
    query = sa.select(ITEMS.c.name, sa.literal_column("'%:x'").label("odd")).where(ITEMS.c.name.like("1%"))
    assert await gateway.fetch_all(query) == [{"name": "100%", "odd": "%:x"}]


async def test_insert_returns_the_generated_key(gateway: Gateway) -> None:
    keys = [await gateway.insert(ITEMS, name=name) for name in ("a", "b")]
    rows = await gateway.fetch_all(sa.select(ITEMS.c.id).order_by(ITEMS.c.name))
    assert keys == [row["id"] for row in rows]


async def test_insert_returns_a_given_key(gateway: Gateway) -> None:
    assert await gateway.insert(ITEMS, id=77, name="a") == 77
    key = uuid4()
    assert await gateway.insert(PARTS, id=key, item_id=77) == key
    assert await gateway.fetch_one(sa.select(PARTS)) == {"id": key, "item_id": 77}


async def test_a_missing_bind_parameter_raises_an_error(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="a", amount=5)
    with pytest.raises(TypeError, match="amount"):
        await gateway.execute(SET_AMOUNT, item="a", amonut=6)
    assert await get_amount(gateway, "a") == 5


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside atomic"])
async def test_execute_returns_the_number_of_matched_rows(gateway: Gateway, inside: bool) -> None:
    for name in ("a", "b", "c"):
        await gateway.insert(ITEMS, name=name, amount=1)
    async with gateway.atomic() if inside else contextlib.nullcontext():
        assert await gateway.execute(SET_AMOUNT, item="a", amount=2) == 1
        assert await gateway.execute(SET_AMOUNT, item="absent", amount=2) == 0
        assert await gateway.execute(sa.update(ITEMS).values(amount=9)) == 3
        assert await gateway.execute(DELETE, name="absent") == 0
        assert await gateway.execute(DELETE, name="a") == 1
        assert await gateway.execute(sa.delete(ITEMS)) == 2


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside atomic"])
async def test_execute_counts_matched_rows_that_an_update_does_not_change(gateway: Gateway, inside: bool) -> None:
    await gateway.insert(ITEMS, name="a", amount=1)
    await gateway.insert(ITEMS, name="b", amount=1)
    async with gateway.atomic() if inside else contextlib.nullcontext():
        assert await gateway.execute(SET_AMOUNT, item="a", amount=1) == 1
        assert await gateway.execute(sa.update(ITEMS).values(amount=1)) == 2


async def test_only_one_of_many_concurrent_tasks_claims_a_row(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="a", amount=0)
    claim = Statement(
        sa.update(ITEMS).where(ITEMS.c.name == sa.bindparam("item"), ITEMS.c.amount == 0).values(amount=1)
    )
    row_counts = await asyncio.gather(*(gateway.execute(claim, item="a") for _ in range(20)))
    assert sum(row_counts) == 1


async def test_a_statement_is_compiled_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    prepare = PreparedStatement.__init__

    def counting_prepare(self: PreparedStatement, *args: Any, **options: Any) -> None:
        compiled.append(args)
        prepare(self, *args, **options)

    monkeypatch.setattr(PreparedStatement, "__init__", counting_prepare)
    query = Statement(sa.select(ITEMS).where(ITEMS.c.name == sa.bindparam("name")))
    update = Statement(sa.update(ITEMS).where(ITEMS.c.name == sa.bindparam("item")).values(amount=sa.bindparam("n")))
    await gateway.insert(ITEMS, name="a", amount=1)
    for _ in range(3):
        await gateway.fetch_one(query, name="a")
        await gateway.fetch_all(query, name="b")
        await gateway.execute(update, item="a", n=1)
    count_before = len(compiled)
    for number in range(10):
        await gateway.fetch_one(query, name="a")
        await gateway.execute(update, item="a", n=1)
        await gateway.insert(ITEMS, name=f"n{number}", amount=1)
    assert 3 <= count_before <= 4  # MySQL needs one more, to count matched rows that an UPDATE did not change
    assert len(compiled) == count_before


# Unstorable values


@pytest.mark.parametrize(
    "values",
    [
        {"name": "nul\x00"},
        {"note": "\x00"},
        {"name": "half \ud800"},
        {"note": "\udfff half"},
        {"name": "x" * 21},
        {"name": 5},
        {"amount": 2**63},
        {"amount": -(2**63) - 1},
        {"amount": "5"},
        {"big": 2**63},
        {"big": -(2**63) - 1},
        {"at": datetime(2024, 1, 1)},
        {"at": "2024-01-01"},
    ],
    ids=ascii,
)
async def test_an_unstorable_value_is_refused_before_the_database_gets_it(
    gateway: Gateway, values: dict[str, Any]
) -> None:
    with pytest.raises(UnstorableValue, match=r"\.$"):
        await gateway.insert(ITEMS, **{"name": "a", **values})
    ((name, value),) = values.items()
    with pytest.raises(UnstorableValue):
        await gateway.fetch_one(sa.select(ITEMS).where(ITEMS.c[name] == sa.bindparam("value")), value=value)
    assert await gateway.fetch_one(COUNT) == {"n": 0}


async def test_values_at_the_limits_are_stored(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="😀" * 20, amount=2**31 - 1, big=-(2**63), note="x" * 100_000)
    row = await gateway.fetch_one(BY_NAME, name="😀" * 20)
    assert row is not None
    assert (row["amount"], row["big"], len(row["note"])) == (2**31 - 1, -(2**63), 100_000)


async def test_a_datetime_with_another_utc_offset_is_read_as_the_same_time(gateway: Gateway) -> None:
    kathmandu = datetime(2024, 1, 1, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    await gateway.insert(ITEMS, name="a", at=kathmandu)
    row = await gateway.fetch_one(BY_NAME, name="a")
    assert row is not None
    assert row["at"] == kathmandu
    assert row["at"].utcoffset() == timedelta(0)
    earlier_than = sa.select(ITEMS.c.name).where(ITEMS.c.at < sa.bindparam("now"))
    assert await gateway.fetch_one(earlier_than, now=kathmandu) is None
    assert await gateway.fetch_one(earlier_than, now=kathmandu + timedelta(microseconds=1)) == {"name": "a"}


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside atomic"])
async def test_a_violated_constraint_raises_integrity_error_on_every_database(gateway: Gateway, inside: bool) -> None:
    await gateway.insert(ITEMS, name="a")
    for table, values in (
        (ITEMS, {"name": "a"}),  # violates UNIQUE
        (ITEMS, {"name": None}),  # violates NOT NULL
        (PARTS, {"id": uuid4(), "item_id": 99}),  # violates the foreign key
    ):
        with pytest.raises(IntegrityError):
            async with gateway.atomic() if inside else contextlib.nullcontext():
                await gateway.insert(table, **values)
    assert await item_names(gateway) == ["a"]


async def test_other_errors_are_not_integrity_errors(gateway: Gateway) -> None:
    with pytest.raises(Exception, match="no_such_table") as error:
        await gateway.fetch_all(sa.text("SELECT a FROM no_such_table").columns(sa.column("a")))
    assert not isinstance(error.value, IntegrityError)
    assert await gateway.fetch_one(ONE) == {"one": 1}


# Transactions


async def test_atomic_commits(gateway: Gateway) -> None:
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="a")
        assert await item_names(gateway) == ["a"]
    assert await item_names(gateway) == ["a"]
    assert await count_open_transactions(gateway) == 0


async def test_an_exception_rolls_the_transaction_back(gateway: Gateway) -> None:
    with pytest.raises(LookupError):
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="a")
            raise LookupError
    assert await item_names(gateway) == []
    assert await count_open_transactions(gateway) == 0


async def test_an_error_in_an_inner_atomic_rolls_only_its_savepoint_back(gateway: Gateway) -> None:
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="outer")
        with pytest.raises(IntegrityError):
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="inner")
                await gateway.insert(ITEMS, name="outer")
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="second")
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="third")
    assert await item_names(gateway) == ["outer", "second", "third"]


async def test_an_error_in_the_outer_atomic_rolls_the_inner_one_back(gateway: Gateway) -> None:
    with pytest.raises(LookupError):
        async with gateway.atomic():
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="inner")
            raise LookupError
    assert await item_names(gateway) == []


async def test_committing_after_a_swallowed_error_raises_an_error(gateway: Gateway) -> None:
    """PostgreSQL answers COMMIT with a silent rollback in this case. The other databases would commit."""
    await gateway.insert(ITEMS, name="a")
    with pytest.raises(ImproperlyConfigured, match=r"is a savepoint, and catch the error outside of that block\.$"):
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="b")
            with contextlib.suppress(IntegrityError):
                await gateway.insert(ITEMS, name="a")
    assert await item_names(gateway) == ["a"]
    assert await count_open_transactions(gateway) == 0


async def test_statements_after_a_swallowed_error_say_that_a_savepoint_is_needed(gateway: Gateway) -> None:
    async def ask() -> object:
        return await gateway.fetch_one(ONE)

    async def write() -> object:
        return await gateway.insert(ITEMS, name="c")

    async def begin() -> None:
        async with gateway.atomic():
            pass

    await gateway.insert(ITEMS, name="a")
    for go_on in (ask, write, begin):
        with pytest.raises(LookupError):
            async with gateway.atomic():
                with contextlib.suppress(IntegrityError):
                    await gateway.insert(ITEMS, name="a")
                for _ in range(2):
                    with pytest.raises(ImproperlyConfigured, match="Put the statement that may fail into its own"):
                        await go_on()
                raise LookupError
        assert await gateway.fetch_one(ONE) == {"one": 1}
    assert await item_names(gateway) == ["a"]


@pytest.mark.parametrize("by", ["atomic", "database.transaction"])
async def test_after_an_error_in_a_savepoint_the_transaction_goes_on(gateway: Gateway, by: str) -> None:
    await gateway.insert(ITEMS, name="a")
    async with gateway.atomic():
        with pytest.raises(IntegrityError):
            async with gateway.atomic() if by == "atomic" else gateway.database.transaction():
                await gateway.insert(ITEMS, name="a")
        await gateway.insert(ITEMS, name="b")
    assert await item_names(gateway) == ["a", "b"]


async def test_an_error_of_the_application_in_its_own_transaction_is_explained(gateway: Gateway) -> None:
    if gateway.dialect != "postgresql":
        return  # the other databases go on, and the package does not see what the application sends to `database`
    await gateway.insert(ITEMS, name="a")
    with pytest.raises(ImproperlyConfigured, match="savepoint"):
        async with gateway.database.transaction():
            with contextlib.suppress(Exception):
                await gateway.database.execute("INSERT INTO items (name) VALUES ('a')")
            await gateway.insert(ITEMS, name="b")


async def test_atomic_is_a_savepoint_inside_a_transaction_of_the_application(gateway: Gateway) -> None:
    with pytest.raises(LookupError):
        async with gateway.database.transaction():
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="a")
            assert await gateway.execute(SET_AMOUNT, item="a", amount=5) == 1
            raise LookupError
    assert await item_names(gateway) == []
    async with gateway.database.transaction():
        await gateway.database.execute("INSERT INTO items (name) VALUES ('application')")
        with pytest.raises(LookupError):
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="a")
                raise LookupError
        await gateway.insert(ITEMS, name="gateway")
    assert await item_names(gateway) == ["application", "gateway"]


async def test_a_transaction_of_the_application_inside_atomic_is_a_savepoint(gateway: Gateway) -> None:
    """For example, an event listener of a login may open one without knowing that it runs inside `atomic()`."""
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="gateway")
        async with gateway.database.transaction():
            await gateway.database.execute("INSERT INTO items (name) VALUES ('kept')")
        with pytest.raises(LookupError):
            async with gateway.database.transaction():
                await gateway.database.execute("INSERT INTO items (name) VALUES ('undone')")
                raise LookupError
        async with gateway.atomic(), gateway.database.transaction(), gateway.atomic():
            await gateway.insert(ITEMS, name="deep")
    assert await item_names(gateway) == ["deep", "gateway", "kept"]
    with pytest.raises(LookupError):
        async with gateway.atomic():
            async with gateway.database.transaction():
                await gateway.database.execute("INSERT INTO items (name) VALUES ('lost')")
            raise LookupError
    assert await item_names(gateway) == ["deep", "gateway", "kept"]
    assert await count_open_transactions(gateway) == 0


async def test_atomic_uses_the_connection_that_the_application_holds(gateway: Gateway) -> None:
    async with gateway.database.connection() as connection:
        raw = connection.raw_connection
        async with gateway.atomic():
            assert gateway.driver.in_transaction(raw)
            await gateway.insert(ITEMS, name="a")
        assert not gateway.driver.in_transaction(raw)
        assert await item_names(gateway) == ["a"]


async def test_direct_queries_of_the_application_are_part_of_atomic(gateway: Gateway) -> None:
    with pytest.raises(LookupError):
        async with gateway.atomic():
            await gateway.database.execute("INSERT INTO items (name) VALUES ('application')")
            raise LookupError
    assert await item_names(gateway) == []


async def test_a_child_task_does_not_share_the_transaction(gateway: Gateway) -> None:
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="a")
        assert await asyncio.create_task(item_names(gateway)) == []
        assert await item_names(gateway) == ["a"]
    assert await asyncio.create_task(item_names(gateway)) == ["a"]


async def test_fifty_concurrent_read_and_write_transactions_lose_no_update(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="sum", amount=0)
    await asyncio.gather(*(add_one(gateway) for _ in range(50)))
    assert await get_amount(gateway, "sum") == 50


async def test_fifty_concurrent_writers_wait_for_the_write_lock(gateway: Gateway) -> None:
    async def write(number: int) -> None:
        async with gateway.atomic():
            await gateway.insert(ITEMS, name=f"in {number}")
        await gateway.insert(ITEMS, name=f"out {number}")

    await asyncio.gather(*(write(number) for number in range(50)))
    assert await gateway.fetch_one(COUNT) == {"n": 100}


async def test_atomic_inside_an_application_transaction_does_not_wait_for_the_write_lock(gateway: Gateway) -> None:
    """On SQLite the writer waits for this transaction, so waiting for the writer would be a deadlock."""
    await gateway.insert(ITEMS, name="a")
    async with asyncio.timeout(3):
        async with gateway.database.transaction():
            await gateway.database.execute("UPDATE items SET amount = 1 WHERE name = 'a'")
            writer = asyncio.create_task(gateway.execute(SET_AMOUNT, item="a", amount=2))
            await asyncio.sleep(0.05)
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="b")
        assert await writer == 1
    assert await get_amount(gateway, "a") == 2


@only_on("sqlite")
async def test_a_task_that_waits_for_a_writing_child_task_gets_a_timeout(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WriteLock, "timeout", 0.05)
    with pytest.raises(TimeoutError, match="another task"):
        async with gateway.atomic():
            await asyncio.create_task(gateway.insert(ITEMS, name="a"))
    await gateway.insert(ITEMS, name="a")
    assert await item_names(gateway) == ["a"]


# Cancellations and failures


async def test_four_hundred_cancelled_transactions_leak_no_connection(small_pool: Gateway) -> None:
    generator = random.Random(2)
    semaphore = asyncio.Semaphore(6)
    outcomes = {"done": 0, "cancelled": 0}
    max_timeout = 0.012  # seconds; adjusted so that about half of the tasks are cancelled, on any machine

    async def insert_pair(number: int) -> None:
        async with small_pool.atomic():
            await small_pool.insert(ITEMS, name=f"{number} left")
            await small_pool.insert(ITEMS, name=f"{number} right")

    async def insert_with_timeout(number: int) -> None:
        nonlocal max_timeout
        async with semaphore:
            timeout = generator.uniform(0, max_timeout)
            try:
                if number % 2:
                    task = asyncio.create_task(insert_pair(number))
                    asyncio.get_running_loop().call_later(timeout, task.cancel)
                    await task
                else:
                    async with asyncio.timeout(timeout):
                        await insert_pair(number)
            except (TimeoutError, asyncio.CancelledError):
                outcomes["cancelled"] += 1
                max_timeout *= 1.1
                # The cancelled task can still run queries.
                assert await small_pool.fetch_one(ONE) == {"one": 1}
            else:
                outcomes["done"] += 1
                max_timeout /= 1.1

    await asyncio.gather(*(insert_with_timeout(number) for number in range(400)))
    assert min(outcomes.values()) >= 50
    await assert_no_connection_leaked(small_pool)
    stored = [name.split() for name in await item_names(small_pool)]
    assert {number for number, side in stored if side == "left"} == {n for n, side in stored if side == "right"}


async def test_cancelled_queries_leak_no_connection(small_pool: Gateway) -> None:
    generator = random.Random(3)

    async def query() -> None:
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(generator.uniform(0, 0.003)):
                    await small_pool.fetch_one(COUNT)
                    await small_pool.execute(SET_AMOUNT, item="absent", amount=1)
            # The task can still query the database directly.
            if isinstance(small_pool.database, Database):
                assert await small_pool.database.fetch_val("SELECT 1") == 1

    await asyncio.gather(*(query() for _ in range(5)))
    await assert_no_connection_leaked(small_pool)


async def test_failed_commits_leak_no_connection(small_pool: Gateway) -> None:
    for number in range(5):
        if small_pool.dialect == "mysql":
            with pytest.raises(Exception, match=r"Lost connection|gone away|closed"):
                async with small_pool.atomic():
                    await small_pool.insert(ITEMS, name=f"n{number}")
                    await kill_connections(small_pool.database)
        else:
            with pytest.raises(IntegrityError):
                async with small_pool.atomic():
                    await small_pool.insert(ITEMS, name=f"n{number}")
                    await small_pool.insert(LATE_PARTS, id=number, item_id=999)
    assert await item_names(small_pool) == []
    await assert_no_connection_leaked(small_pool)


async def test_a_transaction_that_the_application_never_ends_leaks_no_connection(small_pool: Gateway) -> None:
    for number in range(5):
        async with small_pool.atomic():
            await small_pool.insert(ITEMS, name=f"n{number}")
            await small_pool.database.transaction()
    assert await item_names(small_pool) == ["n0", "n1", "n2", "n3", "n4"]
    await assert_no_connection_leaked(small_pool)


@only_on("postgresql", "mysql")
async def test_after_a_server_restart_each_lost_connection_fails_at_most_one_query(small_pool: Gateway) -> None:
    await small_pool.insert(ITEMS, name="a", amount=1)
    await assert_no_connection_leaked(small_pool)  # opens three connections
    await kill_connections(small_pool.database)
    for _ in range(4):
        with contextlib.suppress(Exception):
            await small_pool.fetch_one(COUNT)
            break
    else:
        pytest.fail("All queries failed.")
    assert await get_amount(small_pool, "a") == 1
    await assert_no_connection_leaked(small_pool)


@only_on("postgresql", "mysql")
async def test_a_connection_lost_inside_a_transaction_is_replaced(small_pool: Gateway) -> None:
    with pytest.raises(Exception, match=r"Lost connection|terminat|closed|gone away|released|in progress"):
        async with small_pool.atomic():
            await small_pool.insert(ITEMS, name="a")
            await kill_connections(small_pool.database)
            await small_pool.insert(ITEMS, name="b")
    # Another connection of the pool was lost too. A kept one may fail one query before asyncpg has noticed.
    with contextlib.suppress(Exception):
        await item_names(small_pool)
    assert await item_names(small_pool) == []
    await assert_no_connection_leaked(small_pool)


async def test_run_to_completion_finishes_before_it_raises_the_cancellation() -> None:
    done: list[str] = []
    may_finish = asyncio.Event()

    async def work() -> None:
        await may_finish.wait()
        done.append("work")

    task = asyncio.create_task(run_to_completion(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    may_finish.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work"]


# force_rollback


@pytest.fixture
async def rollback_gateway(database_url: str) -> AsyncIterator[Gateway]:
    """Yields a gateway whose database rolls everything back at the end."""
    options: dict[str, Any] = {} if is_sqlite(database_url) else {"min_size": 1, "max_size": 3}
    async with Database(database_url, **options) as database:
        await create_tables(gateway_of(database))
        await gateway_of(database).close()
    async with Database(database_url, force_rollback=True, **options) as database:
        yield gateway_of(database)
    async with Database(database_url, **options) as database:
        assert await item_names(gateway_of(database)) == []
        await gateway_of(database).close()


async def test_with_force_rollback_five_tasks_share_one_connection(rollback_gateway: Gateway) -> None:
    await rollback_gateway.insert(ITEMS, name="a", amount=1)
    rows = await asyncio.gather(*(rollback_gateway.fetch_one(BY_NAME, name="a") for _ in range(5)))
    assert [row and row["amount"] for row in rows] == [1] * 5
    await asyncio.gather(*(rollback_gateway.insert(ITEMS, name=str(number)) for number in range(5)))
    assert await item_names(rollback_gateway) == ["0", "1", "2", "3", "4", "a"]


async def test_with_force_rollback_atomic_is_a_savepoint(rollback_gateway: Gateway) -> None:
    await rollback_gateway.insert(ITEMS, name="sum", amount=0)
    with pytest.raises(IntegrityError):
        async with rollback_gateway.atomic():
            await rollback_gateway.insert(ITEMS, name="b")
            async with rollback_gateway.atomic():
                await rollback_gateway.insert(ITEMS, name="sum")
    await asyncio.gather(*(add_one(rollback_gateway) for _ in range(10)))
    assert await get_amount(rollback_gateway, "sum") == 10
    assert await item_names(rollback_gateway) == ["sum"]


async def test_with_force_rollback_a_savepoint_does_not_roll_back_writes_of_other_tasks(
    rollback_gateway: Gateway,
) -> None:
    inside = asyncio.Event()

    async def fail() -> None:
        async with rollback_gateway.atomic():
            inside.set()
            for _ in range(20):
                await rollback_gateway.fetch_one(ONE)
            raise LookupError

    failing = asyncio.create_task(fail())
    await inside.wait()
    await rollback_gateway.insert(ITEMS, name="other")
    with pytest.raises(LookupError):
        await failing
    assert await item_names(rollback_gateway) == ["other"]


# SQLite


async def test_sqlite_connections_use_foreign_keys_wal_and_a_busy_timeout(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        gateway = gateway_of(database)

        async def pragma(name: str) -> Any:
            row = await gateway.fetch_one(sa.text(f"PRAGMA {name}").columns(sa.column("value")))
            return row and row["value"]

        for context in (contextlib.nullcontext(), gateway.atomic()):
            async with context:
                assert await pragma("foreign_keys") == 1
                assert await pragma("journal_mode") == "wal"
                assert await pragma("busy_timeout") >= 5000
        await gateway.close()


async def test_sqlite_uses_one_connection_for_reading_and_one_for_writing(
    sqlite_url: str, opened_connections: list[Any]
) -> None:
    async with Database(sqlite_url) as database:
        gateway = gateway_of(database)
        await asyncio.gather(*(gateway.fetch_one(COUNT) for _ in range(100)))
        assert len(opened_connections) == 1
        await asyncio.gather(*(gateway.insert(ITEMS, name=str(number)) for number in range(20)))
        await add_one(gateway)
        assert len(opened_connections) == 2
        await gateway.close()
        assert await gateway.fetch_one(COUNT) == {"n": 21}
        assert len(opened_connections) == 3
        await gateway.close()


async def test_only_durable_statements_wait_for_the_disk(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        gateway = gateway_of(database)
        not_durable = Statement(sa.update(ITEMS).values(amount=sa.bindparam("amount")), durable=False)
        assert await gateway.execute(not_durable, amount=5) == 1
        await gateway.execute(SET_AMOUNT, item="sum", amount=await get_amount(gateway, "sum") + 1)
        assert await get_amount(gateway, "sum") == 6
        assert isinstance(gateway, DatabasesGateway)
        connections = gateway._connections.get()
        assert isinstance(connections, SQLiteConnections)
        writers = (connections.relaxed_writer, connections.writer)
        levels = [await writer.raw_connection.execute_fetchall("PRAGMA synchronous") for writer in writers]
        assert levels == [[(1,)], [(2,)]]  # NORMAL, FULL
        await gateway.close()


async def test_close_waits_for_the_transaction_and_closes_the_file(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        gateway = gateway_of(database)
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="a")
            closing = asyncio.create_task(gateway.close())
            await asyncio.sleep(0.01)
            await gateway.insert(ITEMS, name="b")
        await closing
        await gateway.close()  # may be called twice
    assert not Path(f"{database.url.database}-wal").exists()
    with contextlib.closing(sqlite3.connect(database.url.database)) as connection:
        assert connection.execute("SELECT name FROM items ORDER BY name").fetchall() == [("a",), ("b",), ("sum",)]


def test_each_event_loop_opens_its_own_sqlite_connections(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.sqlite3")

    async def first() -> None:
        await database.connect()
        await create_tables(gateway_of(database))
        await insert_and_list("a")

    async def insert_and_list(name: str) -> list[str]:
        gateway = gateway_of(database)
        await gateway.insert(ITEMS, name=name)
        return await item_names(gateway)

    async def last() -> list[str]:
        item_list = await insert_and_list("c")
        await gateway_of(database).close()
        await database.disconnect()
        return item_list

    async def leave_a_transaction_open() -> None:
        started = asyncio.Event()

        async def never_ends() -> None:
            async with gateway_of(database).atomic():
                await insert_and_list("b")
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(never_ends())
        await started.wait()
        assert not task.done()  # asyncio.run() cancels it

    asyncio.run(first())
    asyncio.run(leave_a_transaction_open())
    assert asyncio.run(last()) == ["a", "c"]


def test_close_works_in_another_event_loop_than_the_one_that_connected(sqlite_url: str) -> None:
    database = Database(sqlite_url)

    async def read() -> None:
        await database.connect()
        assert await item_names(gateway_of(database)) == ["sum"]

    async def close() -> None:
        await gateway_of(database).close()
        assert await item_names(gateway_of(database)) == ["sum"]
        await gateway_of(database).close()

    asyncio.run(read())
    asyncio.run(close())


async def test_two_gateways_on_one_sqlite_file_lose_no_update(sqlite_url: str) -> None:
    async with Database(sqlite_url) as first, Database(sqlite_url) as second:
        gateways = gateway_of(first), gateway_of(second)
        assert gateways[0] is not gateways[1]
        await asyncio.gather(*(add_one(gateways[number % 2]) for number in range(50)))
        assert await get_amount(gateways[0], "sum") == 50
        for gateway in gateways:
            await gateway.close()


async def test_two_processes_on_one_sqlite_file_lose_no_update(sqlite_url: str) -> None:
    async def process() -> int:
        command = (sys.executable, "-c", ADDER, sqlite_url, "50")
        return await (await asyncio.create_subprocess_exec(*command)).wait()

    assert list(await asyncio.gather(process(), process())) == [0, 0]
    async with Database(sqlite_url) as database:
        assert await get_amount(gateway_of(database), "sum") == 100
        await gateway_of(database).close()


async def test_opening_a_sqlite_file_is_retried_after_an_error(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    async with Database(f"sqlite:///{folder}/test.sqlite3") as database:
        gateway = gateway_of(database)
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured, match=r"The folder .* does not exist"):
                await asyncio.gather(gateway.fetch_one(ONE), gateway.fetch_one(ONE))
            with pytest.raises(ImproperlyConfigured, match=r"The folder .* does not exist"):
                async with gateway.atomic():
                    raise AssertionError("not reached")
        folder.mkdir()
        assert await gateway.fetch_one(ONE) == {"one": 1}
        async with gateway.atomic():
            assert await gateway.fetch_one(ONE) == {"one": 1}
        await gateway.close()


async def test_a_read_only_sqlite_file_can_be_read(sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    async with Database(f"{sqlite_url}?mode=ro".replace("///", "///file:"), uri=True) as database:
        assert await item_names(gateway_of(database)) == ["sum"]


async def test_connections_to_a_shared_in_memory_database_are_not_kept(opened_connections: list[Any]) -> None:
    async with Database("sqlite:///file:shared_in_tests?mode=memory&cache=shared", uri=True) as database:
        gateway = gateway_of(database)
        await create_tables(gateway)
        count_before = len(opened_connections)
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="a")
            assert await item_names(gateway) == ["a"]
        assert await item_names(gateway) == ["a"]
        assert len(opened_connections) == count_before + 2
        memory = vars(database._backend)["_pool"]._memref
    memory.close()


async def test_a_kept_connection_does_not_keep_the_context_of_the_first_request(sqlite_url: str) -> None:
    class Request:
        pass

    current: ContextVar[Request | None] = ContextVar("current", default=None)

    async with Database(sqlite_url) as database:
        gateway = gateway_of(database)

        async def request() -> weakref.ref[Request]:
            current.set(request := Request())
            await gateway.fetch_one(ONE)
            return weakref.ref(request)

        reference = await asyncio.create_task(request())
        await gateway.fetch_one(ONE)
        gc.collect()
        assert reference() is None
        await gateway.close()


async def test_a_write_connection_that_cannot_end_its_transaction_is_replaced(sqlite_url: str) -> None:
    def deny_transactions(action: int, *_: Any) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK

    async with Database(sqlite_url) as database:
        gateway = gateway_of(database)
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="a")
                async with database.connection() as connection:
                    await connection.raw_connection.set_authorizer(deny_transactions)
        await gateway.insert(ITEMS, name="b")
        await add_one(gateway)
        assert await item_names(gateway) == ["b", "sum"]
        await gateway.close()


# Configuration, errors and deadlocks


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"])
def test_an_in_memory_database_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="Use a file instead"):
        gateway_of(Database(url))


async def test_an_in_memory_database_works_with_force_rollback() -> None:
    async with Database("sqlite:///:memory:", force_rollback=True) as database:
        gateway = gateway_of(database)
        await create_tables(gateway)
        await gateway.insert(ITEMS, name="a")
        assert await item_names(gateway) == ["a"]


def test_an_unsupported_driver_is_refused_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver need not be installed: `databases` accepts any driver name after "sqlite+".
    with pytest.raises(ImproperlyConfigured, match=r"sqlite\+other:// is not supported. Use one of .*asyncpg://"):
        gateway_of(Database("sqlite+other:///x"))
    aiopg = {**Database.SUPPORTED_BACKENDS, "postgresql+aiopg": Database.SUPPORTED_BACKENDS["postgresql"]}
    monkeypatch.setattr(Database, "SUPPORTED_BACKENDS", aiopg)
    with pytest.raises(ImproperlyConfigured, match=r"postgresql\+aiopg:// is not supported"):
        gateway_of(Database("postgresql+aiopg://localhost/x"))


def test_an_old_sqlite_version_is_refused_with_its_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ImproperlyConfigured, match=r"SQLite 3.* Use a Python with SQLite 3.35 or newer"):
        DatabasesGateway(Database("sqlite:///any.sqlite3"))


async def test_without_a_connected_database_the_error_names_the_fix(database_url: str) -> None:
    gateway = gateway_of(Database(database_url))
    calls: list[Callable[[], Any]] = [
        lambda: gateway.fetch_one(ONE),
        lambda: gateway.execute(sa.delete(ITEMS)),
        lambda: gateway.insert(ITEMS, name="a"),
        lambda: gateway.atomic().__aenter__(),
    ]
    for call in calls:
        with pytest.raises(ImproperlyConfigured, match=r"lifespan=lifespan\(auth\)"):
            await call()
    await gateway.close()


def test_each_database_has_one_gateway(tmp_path: Path) -> None:
    database, second_database = (Database(f"sqlite:///{tmp_path}/test.sqlite3") for _ in range(2))
    gateway = gateway_of(database)
    assert gateway_of(database) is gateway
    assert gateway_of(second_database) is not gateway


def test_the_gateway_does_not_keep_an_unused_database_alive(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.sqlite3")
    gateway_of(database)
    reference = weakref.ref(database)
    del database
    gc.collect()
    assert reference() is None


async def test_debug_logs_contain_no_stored_values(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        await gateway.insert(ITEMS, name="only here")
        with contextlib.suppress(IntegrityError):
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="only here")
    logged = json.dumps([record.getMessage() for record in caplog.records if record.name != "aiosqlite"])
    assert "only here" not in logged


async def test_a_transaction_is_repeated_after_a_deadlock(auth: Auth) -> None:
    """Two transactions lock each other's rows. The database aborts one of them, which then runs again."""
    for name in ("a", "b"):
        await auth.gateway.insert(auth.tables.group, name=name)
    both_hold_a_lock = asyncio.Barrier(2)
    tries = 0

    async def rename(first: str, second: str) -> str:
        nonlocal tries
        has_waited = False

        async def work() -> str:
            nonlocal tries, has_waited
            tries += 1
            group = auth.tables.group
            for name in (first, second):
                query = sa.update(group).where(group.c.name == name).values(name=name)
                await auth.gateway.execute(query)
                # On SQLite, the write lock prevents the deadlock.
                if not has_waited and auth.gateway.dialect != "sqlite":
                    has_waited = True
                    await both_hold_a_lock.wait()
            return first

        return await auth.gateway.run_in_transaction(work)

    results = await asyncio.gather(rename("a", "b"), rename("b", "a"))
    assert list(results) == ["a", "b"]
    assert tries == (2 if auth.gateway.dialect == "sqlite" else 3)


async def test_run_in_transaction_is_not_repeated_inside_atomic(auth: Auth) -> None:
    class Deadlock(Exception):
        sqlstate = "40P01"

    async def work() -> None:
        raise Deadlock

    with pytest.raises(Deadlock):
        async with auth.gateway.atomic():
            await auth.gateway.run_in_transaction(work)


@any_database
async def test_after_a_commit_each_callback_runs_and_the_transaction_is_not_repeated(auth: Auth) -> None:
    """The first callback fails with a deadlock, as a callback with a separate transaction would."""
    runs: list[str] = []

    def fail() -> None:
        raise DriverError(1213, "Deadlock found")

    async def work() -> None:
        runs.append("work")
        auth.gateway.on_commit(fail)
        auth.gateway.on_commit(lambda: runs.append("callback"))
        await auth.gateway.insert(auth.tables.group, name="a")

    with pytest.raises(Unavailable, match="Deadlock found"):
        await auth.gateway.run_in_transaction(work)
    assert runs == ["work", "callback"]
    assert await auth.gateway.fetch_all(sa.select(auth.tables.group.c.name)) == [{"name": "a"}]


class DriverError(Exception):
    """An exception with the attributes of driver errors."""

    def __init__(self, *args: Any, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        self.sqlstate = sqlstate


InterfaceError = type("InterfaceError", (Exception,), {})


def sqlite_error(code: int) -> sqlite3.Error:
    error = sqlite3.OperationalError(f"code {code}")
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError("refused"), True),
        (ConnectionResetError("reset"), True),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed"), True),
        (WriteLockTimeout("a task inside atomic() waits for another"), False),
        (TimeoutError(), True),
        (InterfaceError(0, "Not connected"), True),
        (DriverError("shutting down", sqlstate="57P01"), True),
        (DriverError("starting up", sqlstate="57P03"), True),
        (DriverError("connection does not exist", sqlstate="08003"), True),
        (DriverError("too many clients", sqlstate="53300"), True),
        (DriverError("unique", sqlstate="23505"), False),
        (DriverError(2013, "Lost connection to server during query"), True),
        (DriverError(1205, "Lock wait timeout exceeded"), True),
        (DriverError(1064, "You have an error in your SQL syntax"), False),
        (InterfaceError("connection is closed"), True),
        (InterfaceError("connection has been released back to the pool"), True),
        (InterfaceError("the server expects 1 argument"), False),
        (asyncmy.errors.InternalError("Packet sequence number wrong - got 1 expected 2"), True),
        (asyncmy.errors.InterfaceError(0, ""), True),
        (asyncmy.errors.OperationalError(3, 'Error writing file (Errcode: 28 "No space left on device")'), True),
        (asyncmy.errors.OperationalError(1153, "Got a packet bigger than 'max_allowed_packet' bytes"), False),
        (asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress"), True),
        (asyncpg.DataError("invalid input for query argument $1: 'closed'"), False),
        (RuntimeError("unable to perform operation on <TCPTransport closed=True>; the handler is closed"), True),
        (RuntimeError("Event loop is closed"), False),
        (sqlite_error(sqlite3.SQLITE_IOERR_SHMSIZE), True),
        (sqlite_error(sqlite3.SQLITE_CORRUPT), False),
        (sqlite_error(sqlite3.SQLITE_NOTADB), False),
        (ValueError("connection"), False),
    ],
    ids=str,
)
def test_is_unavailable_tells_an_outage_from_other_errors(error: Exception, expected: bool) -> None:
    assert is_unavailable(error) is expected


async def test_a_single_statement_is_repeated_after_a_deadlock(auth: Auth) -> None:
    """The statement and a transaction wait for each other's rows. On SQLite they run one after the other."""
    first, second = [await auth.users.create_user(f"user{n}") for n in range(2)]
    table = auth.tables.user
    both = sa.update(table).values(last_name="updated").where((table.c.id == first.id) | (table.c.id == second.id))
    async with auth.gateway.atomic():
        for n in range(50):  # MySQL aborts the transaction that has changed fewer rows
            await auth.gateway.insert(auth.tables.group, name=f"group{n}")
        await auth.users.update(second, first_name="a")
        statement = asyncio.create_task(auth.gateway.execute(both), context=Context())
        await asyncio.sleep(0.2)
        await auth.users.update(first, first_name="b")
    assert await statement == 2
    for user in (first, second):
        stored_user = await auth.users.get(user.id)
        assert stored_user is not None
        assert (stored_user.first_name, stored_user.last_name) == (user.first_name, "updated")
