"""The gateway on real databases: what it promises, and the traps of `databases` that it keeps others out of."""

# ruff: noqa: PT012 - what is raised here is often raised by the end of a block

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
import pytest
import sqlalchemy as sa
from blockbuster import BlockBuster
from databases import Database
from sqlalchemy.schema import CreateTable

from starlette_auth import Auth, Gateway, ImproperlyConfigured, IntegrityError, UnstorableValue
from starlette_auth.core.concurrency import run_to_completion
from starlette_auth.database.columns import LongText, UTCDateTime
from starlette_auth.database.connections import SQLiteConnections, WriteLock, WriteLockTimeout
from starlette_auth.database.errors import is_unavailable
from starlette_auth.database.statements import PreparedStatement, Statement

from ..conftest import BACKENDS

METADATA = sa.MetaData()
ITEMS = sa.Table(
    "items",
    METADATA,
    sa.Column("id", sa.Integer, sa.Identity(), primary_key=True),
    sa.Column("name", sa.String(20), nullable=False, unique=True),
    sa.Column("amount", sa.Integer),
    sa.Column("big", sa.BigInteger),
    sa.Column("note", LongText()),
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

# Takes the URL of an SQLite file and how often it adds one to the item "sum".
ADDER = """
import asyncio, sys
from databases import Database
from tests.database.test_gateway import add_one
from starlette_auth import Gateway

async def main():
    async with Database(sys.argv[1]) as database:
        gateway = Gateway.of(database)
        for _ in range(int(sys.argv[2])):
            await add_one(gateway)
        await gateway.close()

asyncio.run(main())
"""


@pytest.fixture(autouse=True)
def password_file(blockbuster: BlockBuster) -> None:
    """asyncpg looks for files in the home directory whenever it opens a connection; that is not ours to change."""
    for function in blockbuster.functions.values():
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")


async def create_tables(gateway: Gateway) -> None:
    for table in (ITEMS, PARTS):
        await gateway.execute(CreateTable(table))
    if gateway.dialect != "mysql":
        await gateway.execute(CreateTable(LATE_PARTS))


@pytest.fixture
async def gateway(database: Database) -> AsyncIterator[Gateway]:
    gateway = Gateway.of(database)
    await create_tables(gateway)
    yield gateway
    await gateway.close()


@pytest.fixture
async def small(database_url: str) -> AsyncIterator[Gateway]:
    """With a pool of three connections."""
    options: dict[str, Any] = {} if is_sqlite(database_url) else {"min_size": 1, "max_size": 3}
    async with Database(database_url, **options) as database:
        gateway = Gateway.of(database)
        await create_tables(gateway)
        yield gateway
        await gateway.close()


@pytest.fixture
async def sqlite_url(tmp_path: Path) -> str:
    """A file with the tables and the item "sum"."""
    url = f"sqlite:///{tmp_path}/shared.sqlite3"
    async with Database(url) as database:
        gateway = Gateway.of(database)
        await create_tables(gateway)
        await gateway.insert(ITEMS, name="sum", amount=0)
        await gateway.close()
    return url


@pytest.fixture
def connects(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Grows by one whenever a connection to SQLite is opened."""
    opened: list[Any] = []
    connect = aiosqlite.connect

    def counted(*args: Any, **options: Any) -> aiosqlite.Connection:
        opened.append(args)
        return connect(*args, **options)

    monkeypatch.setattr(aiosqlite, "connect", counted)
    return opened


def is_sqlite(url: str) -> bool:
    return url.startswith("sqlite")


def only_on(*dialects: str) -> pytest.MarkDecorator:
    """For a test that has nothing to say about the other databases."""
    return pytest.mark.parametrize(
        "database_url", [one for one in BACKENDS if one.startswith(dialects)], indirect=True, ids=lambda one: one[:6]
    )


async def names(gateway: Gateway) -> list[str]:
    return [row["name"] for row in await gateway.fetch_all(sa.select(ITEMS.c.name).order_by(ITEMS.c.name))]


async def amount_of(gateway: Gateway, name: str) -> int:
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


async def open_transactions(gateway: Gateway) -> int:
    """How many the server knows of in this database, as seen from outside."""
    if gateway.dialect == "sqlite":
        with contextlib.closing(sqlite3.connect(gateway.database.url.database, timeout=0)) as connection:
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
    async with Database(str(gateway.database.url), min_size=1, max_size=1) as other:
        return int(await other.fetch_val(query))


async def assert_whole(gateway: Gateway) -> None:
    """Nothing is left open, and all three connections can be held at once."""
    assert await open_transactions(gateway) == 0
    together = asyncio.Barrier(3)

    async def hold() -> None:
        async with gateway.database.connection():
            await together.wait()
            assert await gateway.fetch_one(ONE) == {"one": 1}

    async with asyncio.timeout(5):
        await asyncio.gather(hold(), hold(), hold())
        async with gateway.atomic():
            assert await gateway.fetch_one(ONE) == {"one": 1}


async def kill_connections(database: Database) -> None:
    """As if the server had been restarted."""
    async with Database(str(database.url), min_size=1, max_size=1) as killer:
        if database.url.dialect == "postgresql":
            await killer.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            return
        query = "SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()"
        for row in await killer.fetch_all(query):
            await killer.execute(f"KILL CONNECTION {row[0]}")


# Queries


async def test_a_row_comes_back_as_it_was_stored(gateway: Gateway) -> None:
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


async def test_absent_values_stay_absent(gateway: Gateway) -> None:
    nothing = dict.fromkeys(["amount", "big", "note", "flag", "token", "at"])
    await gateway.insert(ITEMS, name="empty", **nothing)
    row = await gateway.fetch_one(BY_NAME, name="empty")
    assert row == {"id": 1, "name": "empty", **nothing}


async def test_false_and_the_empty_text_are_not_absent(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="", flag=False, amount=0, note="")
    row = await gateway.fetch_one(BY_NAME, name="")
    assert row is not None
    assert (row["flag"], row["amount"], row["note"]) == (False, 0, "")


async def test_no_row_is_none_and_an_empty_list(gateway: Gateway) -> None:
    assert await gateway.fetch_one(BY_NAME, name="nobody") is None
    assert await gateway.fetch_all(BY_NAME, name="nobody") == []


async def test_all_rows_come_in_order(gateway: Gateway) -> None:
    for name in ("b", "a", "c"):
        await gateway.insert(ITEMS, name=name)
    assert await names(gateway) == ["a", "b", "c"]


async def test_text_with_percent_and_colon_signs_inside_the_sql(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="100%")
    query = sa.select(ITEMS.c.name, sa.literal_column("'%:x'").label("odd")).where(ITEMS.c.name.like("1%"))
    assert await gateway.fetch_all(query) == [{"name": "100%", "odd": "%:x"}]


async def test_the_database_chooses_the_key(gateway: Gateway) -> None:
    keys = [await gateway.insert(ITEMS, name=name) for name in ("a", "b")]
    rows = await gateway.fetch_all(sa.select(ITEMS.c.id).order_by(ITEMS.c.name))
    assert keys == [row["id"] for row in rows]


async def test_a_key_may_be_given(gateway: Gateway) -> None:
    assert await gateway.insert(ITEMS, id=77, name="a") == 77
    key = uuid4()
    assert await gateway.insert(PARTS, id=key, item_id=77) == key
    assert await gateway.fetch_one(sa.select(PARTS)) == {"id": key, "item_id": 77}


async def test_a_value_that_was_forgotten_is_not_taken_for_null(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="a", amount=5)
    with pytest.raises(TypeError, match="amount"):
        await gateway.execute(SET_AMOUNT, item="a", amonut=6)
    assert await amount_of(gateway, "a") == 5


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside atomic"])
async def test_how_many_rows_were_hit(gateway: Gateway, inside: bool) -> None:
    for name in ("a", "b", "c"):
        await gateway.insert(ITEMS, name=name, amount=1)
    async with gateway.atomic() if inside else contextlib.nullcontext():
        assert await gateway.execute(SET_AMOUNT, item="a", amount=2) == 1
        assert await gateway.execute(SET_AMOUNT, item="nobody", amount=2) == 0
        assert await gateway.execute(sa.update(ITEMS).values(amount=9)) == 3
        assert await gateway.execute(DELETE, name="nobody") == 0
        assert await gateway.execute(DELETE, name="a") == 1
        assert await gateway.execute(sa.delete(ITEMS)) == 2


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside atomic"])
async def test_an_update_that_changes_nothing_hit_its_row_all_the_same(gateway: Gateway, inside: bool) -> None:
    await gateway.insert(ITEMS, name="a", amount=1)
    await gateway.insert(ITEMS, name="b", amount=1)
    async with gateway.atomic() if inside else contextlib.nullcontext():
        assert await gateway.execute(SET_AMOUNT, item="a", amount=1) == 1
        assert await gateway.execute(sa.update(ITEMS).values(amount=1)) == 2


async def test_of_many_who_claim_a_row_one_gets_it(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="a", amount=0)
    claim = Statement(
        sa.update(ITEMS).where(ITEMS.c.name == sa.bindparam("item"), ITEMS.c.amount == 0).values(amount=1)
    )
    hits = await asyncio.gather(*(gateway.execute(claim, item="a") for _ in range(20)))
    assert sum(hits) == 1


async def test_a_statement_is_compiled_once(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []
    prepare = PreparedStatement.__init__

    def counted(self: PreparedStatement, *args: Any, **options: Any) -> None:
        compiled.append(args)
        prepare(self, *args, **options)

    monkeypatch.setattr(PreparedStatement, "__init__", counted)
    query = Statement(sa.select(ITEMS).where(ITEMS.c.name == sa.bindparam("name")))
    update = Statement(sa.update(ITEMS).where(ITEMS.c.name == sa.bindparam("item")).values(amount=sa.bindparam("n")))
    await gateway.insert(ITEMS, name="a", amount=1)
    for _ in range(3):
        await gateway.fetch_one(query, name="a")
        await gateway.fetch_all(query, name="b")
        await gateway.execute(update, item="a", n=1)
    before = len(compiled)
    for number in range(10):
        await gateway.fetch_one(query, name="a")
        await gateway.execute(update, item="a", n=1)
        await gateway.insert(ITEMS, name=f"n{number}", amount=1)
    assert 3 <= before <= 4  # MySQL has one more, to see whether an UPDATE that changed nothing hit something
    assert len(compiled) == before


# What cannot be stored


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
async def test_what_no_database_can_hold_is_refused_before_it_is_asked(
    gateway: Gateway, values: dict[str, Any]
) -> None:
    with pytest.raises(UnstorableValue, match=r"\.$"):
        await gateway.insert(ITEMS, **{"name": "a", **values})
    ((name, value),) = values.items()
    with pytest.raises(UnstorableValue):
        await gateway.fetch_one(sa.select(ITEMS).where(ITEMS.c[name] == sa.bindparam("value")), value=value)
    assert await gateway.fetch_one(COUNT) == {"n": 0}


async def test_what_just_fits_is_stored(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="😀" * 20, amount=2**31 - 1, big=-(2**63), note="x" * 100_000)
    row = await gateway.fetch_one(BY_NAME, name="😀" * 20)
    assert row is not None
    assert (row["amount"], row["big"], len(row["note"])) == (2**31 - 1, -(2**63), 100_000)


async def test_a_moment_of_another_zone_comes_back_as_the_same_moment(gateway: Gateway) -> None:
    kathmandu = datetime(2024, 1, 1, 3, 4, 5, 678901, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    await gateway.insert(ITEMS, name="a", at=kathmandu)
    row = await gateway.fetch_one(BY_NAME, name="a")
    assert row is not None
    assert row["at"] == kathmandu
    assert row["at"].utcoffset() == timedelta(0)
    later = sa.select(ITEMS.c.name).where(ITEMS.c.at < sa.bindparam("now"))
    assert await gateway.fetch_one(later, now=kathmandu) is None
    assert await gateway.fetch_one(later, now=kathmandu + timedelta(microseconds=1)) == {"name": "a"}


@pytest.mark.parametrize("inside", [False, True], ids=["outside", "inside atomic"])
async def test_a_broken_constraint_is_the_same_error_everywhere(gateway: Gateway, inside: bool) -> None:
    await gateway.insert(ITEMS, name="a")
    for table, values in (
        (ITEMS, {"name": "a"}),  # there already
        (ITEMS, {"name": None}),  # NOT NULL
        (PARTS, {"id": uuid4(), "item_id": 99}),  # refers to nothing
    ):
        with pytest.raises(IntegrityError):
            async with gateway.atomic() if inside else contextlib.nullcontext():
                await gateway.insert(table, **values)
    assert await names(gateway) == ["a"]


async def test_other_errors_stay_what_they_are(gateway: Gateway) -> None:
    with pytest.raises(Exception, match="no_such_table") as caught:
        await gateway.fetch_all(sa.text("SELECT a FROM no_such_table").columns(sa.column("a")))
    assert not isinstance(caught.value, IntegrityError)
    assert await gateway.fetch_one(ONE) == {"one": 1}


# Transactions


async def test_atomic_commits(gateway: Gateway) -> None:
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="a")
        assert await names(gateway) == ["a"]
    assert await names(gateway) == ["a"]
    assert await open_transactions(gateway) == 0


async def test_an_exception_undoes_everything(gateway: Gateway) -> None:
    with pytest.raises(LookupError):
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="a")
            raise LookupError
    assert await names(gateway) == []
    assert await open_transactions(gateway) == 0


async def test_an_inner_atomic_is_undone_alone(gateway: Gateway) -> None:
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
    assert await names(gateway) == ["outer", "second", "third"]


async def test_the_outer_atomic_undoes_the_inner(gateway: Gateway) -> None:
    with pytest.raises(LookupError):
        async with gateway.atomic():
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="inner")
            raise LookupError
    assert await names(gateway) == []


@only_on("postgresql")
async def test_a_transaction_that_an_error_has_spoilt_does_not_pretend_to_commit(gateway: Gateway) -> None:
    """PostgreSQL answers COMMIT with ROLLBACK then, and says nothing."""
    await gateway.insert(ITEMS, name="a")
    with pytest.raises(Exception, match="aborted"):
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="b")
            with contextlib.suppress(IntegrityError):
                await gateway.insert(ITEMS, name="a")
    assert await names(gateway) == ["a"]


async def test_atomic_joins_the_transaction_of_the_application(gateway: Gateway) -> None:
    with pytest.raises(LookupError):
        async with gateway.database.transaction():
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="a")
            assert await gateway.execute(SET_AMOUNT, item="a", amount=5) == 1
            raise LookupError
    assert await names(gateway) == []
    async with gateway.database.transaction():
        await gateway.database.execute("INSERT INTO items (name) VALUES ('theirs')")
        with pytest.raises(LookupError):
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="a")
                raise LookupError
        await gateway.insert(ITEMS, name="ours")
    assert await names(gateway) == ["ours", "theirs"]


async def test_the_application_may_open_a_transaction_inside_atomic(gateway: Gateway) -> None:
    """A listener of a login does so without knowing; it is a savepoint then."""
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="ours")
        async with gateway.database.transaction():
            await gateway.database.execute("INSERT INTO items (name) VALUES ('kept')")
        with pytest.raises(LookupError):
            async with gateway.database.transaction():
                await gateway.database.execute("INSERT INTO items (name) VALUES ('undone')")
                raise LookupError
        async with gateway.atomic(), gateway.database.transaction(), gateway.atomic():
            await gateway.insert(ITEMS, name="deep")
    assert await names(gateway) == ["deep", "kept", "ours"]
    with pytest.raises(LookupError):
        async with gateway.atomic():
            async with gateway.database.transaction():
                await gateway.database.execute("INSERT INTO items (name) VALUES ('lost')")
            raise LookupError
    assert await names(gateway) == ["deep", "kept", "ours"]
    assert await open_transactions(gateway) == 0


async def test_atomic_uses_the_connection_that_the_application_holds(gateway: Gateway) -> None:
    async with gateway.database.connection() as connection:
        raw = connection.raw_connection
        async with gateway.atomic():
            assert gateway.driver.in_transaction(raw)
            await gateway.insert(ITEMS, name="a")
        assert not gateway.driver.in_transaction(raw)
        assert await names(gateway) == ["a"]


async def test_what_the_task_asks_of_the_database_itself_belongs_to_the_transaction(gateway: Gateway) -> None:
    with pytest.raises(LookupError):
        async with gateway.atomic():
            await gateway.database.execute("INSERT INTO items (name) VALUES ('theirs')")
            raise LookupError
    assert await names(gateway) == []


async def test_a_child_task_does_not_share_the_transaction(gateway: Gateway) -> None:
    async with gateway.atomic():
        await gateway.insert(ITEMS, name="a")
        assert await asyncio.create_task(names(gateway)) == []
        assert await names(gateway) == ["a"]
    assert await asyncio.create_task(names(gateway)) == ["a"]


async def test_fifty_who_read_and_write_lose_nothing(gateway: Gateway) -> None:
    await gateway.insert(ITEMS, name="sum", amount=0)
    await asyncio.gather(*(add_one(gateway) for _ in range(50)))
    assert await amount_of(gateway, "sum") == 50


async def test_fifty_writers_at_once_wait_for_each_other(gateway: Gateway) -> None:
    async def write(number: int) -> None:
        async with gateway.atomic():
            await gateway.insert(ITEMS, name=f"in {number}")
        await gateway.insert(ITEMS, name=f"out {number}")

    await asyncio.gather(*(write(number) for number in range(50)))
    assert await gateway.fetch_one(COUNT) == {"n": 100}


async def test_an_application_in_a_transaction_is_not_kept_waiting_for_writers(gateway: Gateway) -> None:
    """It holds what the writer waits for: on SQLite, to wait for that writer in turn would be for ever."""
    await gateway.insert(ITEMS, name="a")
    async with asyncio.timeout(3):
        async with gateway.database.transaction():
            await gateway.database.execute("UPDATE items SET amount = 1 WHERE name = 'a'")
            writer = asyncio.create_task(gateway.execute(SET_AMOUNT, item="a", amount=2))
            await asyncio.sleep(0.05)
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="b")
        assert await writer == 1
    assert await amount_of(gateway, "a") == 2


@only_on("sqlite")
async def test_a_task_that_waits_for_its_own_child_gets_an_error_at_last(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WriteLock, "timeout", 0.05)
    with pytest.raises(TimeoutError, match="another task"):
        async with gateway.atomic():
            await asyncio.create_task(gateway.insert(ITEMS, name="a"))
    await gateway.insert(ITEMS, name="a")
    assert await names(gateway) == ["a"]


# What goes wrong


async def test_four_hundred_cancellations_leak_nothing(small: Gateway) -> None:
    chance = random.Random(2)
    gate = asyncio.Semaphore(6)
    outcomes = {"done": 0, "cancelled": 0}
    longest = 0.012  # so that about half of them are done, on any machine

    async def pair(number: int) -> None:
        async with small.atomic():
            await small.insert(ITEMS, name=f"{number} left")
            await small.insert(ITEMS, name=f"{number} right")

    async def interrupted(number: int) -> None:
        nonlocal longest
        async with gate:
            patience = chance.uniform(0, longest)
            try:
                if number % 2:
                    task = asyncio.create_task(pair(number))
                    asyncio.get_running_loop().call_later(patience, task.cancel)
                    await task
                else:
                    async with asyncio.timeout(patience):
                        await pair(number)
            except (TimeoutError, asyncio.CancelledError):
                outcomes["cancelled"] += 1
                longest *= 1.1
                # A task that goes on afterwards can go on asking.
                assert await small.fetch_one(ONE) == {"one": 1}
            else:
                outcomes["done"] += 1
                longest /= 1.1

    await asyncio.gather(*(interrupted(number) for number in range(400)))
    assert min(outcomes.values()) >= 50
    await assert_whole(small)
    stored = [name.split() for name in await names(small)]
    assert {number for number, side in stored if side == "left"} == {n for n, side in stored if side == "right"}


async def test_cancelled_queries_leak_nothing(small: Gateway) -> None:
    chance = random.Random(3)

    async def ask() -> None:
        for _ in range(20):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0, 0.003)):
                    await small.fetch_one(COUNT)
                    await small.execute(SET_AMOUNT, item="nobody", amount=1)
            assert await small.database.fetch_val("SELECT 1") == 1  # the application may go on in this task too

    await asyncio.gather(*(ask() for _ in range(5)))
    await assert_whole(small)


async def test_a_commit_that_fails_leaves_the_pool_whole(small: Gateway) -> None:
    for number in range(5):
        if small.dialect == "mysql":
            with pytest.raises(Exception, match=r"Lost connection|gone away|closed"):
                async with small.atomic():
                    await small.insert(ITEMS, name=f"n{number}")
                    await kill_connections(small.database)
        else:
            with pytest.raises(IntegrityError):
                async with small.atomic():
                    await small.insert(ITEMS, name=f"n{number}")
                    await small.insert(LATE_PARTS, id=number, item_id=999)
    assert await names(small) == []
    await assert_whole(small)


async def test_a_transaction_that_the_application_never_ends_costs_no_connection(small: Gateway) -> None:
    for number in range(5):
        async with small.atomic():
            await small.insert(ITEMS, name=f"n{number}")
            await small.database.transaction()
    assert await names(small) == ["n0", "n1", "n2", "n3", "n4"]
    await assert_whole(small)


@only_on("postgresql", "mysql")
async def test_after_the_server_was_gone_a_dead_connection_costs_one_query_at_most(small: Gateway) -> None:
    await small.insert(ITEMS, name="a", amount=1)
    await assert_whole(small)  # three connections are open now
    await kill_connections(small.database)
    for _ in range(4):
        with contextlib.suppress(Exception):
            await small.fetch_one(COUNT)
            break
    else:
        pytest.fail("no query works any more")
    assert await amount_of(small, "a") == 1
    await assert_whole(small)


@only_on("postgresql", "mysql")
async def test_a_connection_that_dies_within_a_transaction_is_replaced(small: Gateway) -> None:
    with pytest.raises(Exception, match=r"Lost connection|terminat|closed|gone away|released|in progress"):
        async with small.atomic():
            await small.insert(ITEMS, name="a")
            await kill_connections(small.database)
            await small.insert(ITEMS, name="b")
    assert await names(small) == []
    await assert_whole(small)


async def test_what_must_not_be_interrupted_is_finished_first() -> None:
    done: list[str] = []
    let_go = asyncio.Event()

    async def work() -> None:
        await let_go.wait()
        done.append("work")

    task = asyncio.create_task(run_to_completion(work()))
    for _ in range(3):
        await asyncio.sleep(0)
        task.cancel()
    await asyncio.sleep(0)
    let_go.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["work"]


# Under force_rollback


@pytest.fixture
async def rolled_back(database_url: str) -> AsyncIterator[Gateway]:
    """Its database forgets everything at the end."""
    options: dict[str, Any] = {} if is_sqlite(database_url) else {"min_size": 1, "max_size": 3}
    async with Database(database_url, **options) as database:
        await create_tables(Gateway.of(database))
        await Gateway.of(database).close()
    async with Database(database_url, force_rollback=True, **options) as database:
        yield Gateway.of(database)
    async with Database(database_url, **options) as database:
        assert await names(Gateway.of(database)) == []
        await Gateway.of(database).close()


async def test_five_at_once_share_the_connection_that_rolls_back(rolled_back: Gateway) -> None:
    await rolled_back.insert(ITEMS, name="a", amount=1)
    rows = await asyncio.gather(*(rolled_back.fetch_one(BY_NAME, name="a") for _ in range(5)))
    assert [row and row["amount"] for row in rows] == [1] * 5
    await asyncio.gather(*(rolled_back.insert(ITEMS, name=str(number)) for number in range(5)))
    assert await names(rolled_back) == ["0", "1", "2", "3", "4", "a"]


async def test_atomic_is_a_savepoint_of_the_connection_that_rolls_back(rolled_back: Gateway) -> None:
    await rolled_back.insert(ITEMS, name="sum", amount=0)
    with pytest.raises(IntegrityError):
        async with rolled_back.atomic():
            await rolled_back.insert(ITEMS, name="b")
            async with rolled_back.atomic():
                await rolled_back.insert(ITEMS, name="sum")
    await asyncio.gather(*(add_one(rolled_back) for _ in range(10)))
    assert await amount_of(rolled_back, "sum") == 10
    assert await names(rolled_back) == ["sum"]


async def test_what_another_task_writes_is_not_undone_with_a_savepoint(rolled_back: Gateway) -> None:
    inside = asyncio.Event()

    async def fail() -> None:
        async with rolled_back.atomic():
            inside.set()
            for _ in range(20):
                await rolled_back.fetch_one(ONE)
            raise LookupError

    failing = asyncio.create_task(fail())
    await inside.wait()
    await rolled_back.insert(ITEMS, name="other")
    with pytest.raises(LookupError):
        await failing
    assert await names(rolled_back) == ["other"]


# SQLite


async def test_sqlite_minds_foreign_keys_writes_ahead_and_waits_for_locks(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        gateway = Gateway.of(database)

        async def pragma(name: str) -> Any:
            row = await gateway.fetch_one(sa.text(f"PRAGMA {name}").columns(sa.column("value")))
            return row and row["value"]

        for held in (contextlib.nullcontext(), gateway.atomic()):
            async with held:
                assert await pragma("foreign_keys") == 1
                assert await pragma("journal_mode") == "wal"
                assert await pragma("busy_timeout") >= 5000
        await gateway.close()


async def test_sqlite_is_opened_once_for_reading_and_once_for_writing(sqlite_url: str, connects: list[Any]) -> None:
    async with Database(sqlite_url) as database:
        gateway = Gateway.of(database)
        await asyncio.gather(*(gateway.fetch_one(COUNT) for _ in range(100)))
        assert len(connects) == 1
        await asyncio.gather(*(gateway.insert(ITEMS, name=str(number)) for number in range(20)))
        await add_one(gateway)
        assert len(connects) == 2
        await gateway.close()
        assert await gateway.fetch_one(COUNT) == {"n": 21}
        assert len(connects) == 3
        await gateway.close()


async def test_only_what_must_last_waits_for_the_disk(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        gateway = Gateway.of(database)
        jotted = Statement(sa.update(ITEMS).values(amount=sa.bindparam("amount")), durable=False)
        assert await gateway.execute(jotted, amount=5) == 1
        await gateway.execute(SET_AMOUNT, item="sum", amount=await amount_of(gateway, "sum") + 1)
        assert await amount_of(gateway, "sum") == 6
        kept = gateway._connections.get()
        assert isinstance(kept, SQLiteConnections)
        writers = (kept.relaxed_writer, kept.writer)
        levels = [await writer.raw_connection.execute_fetchall("PRAGMA synchronous") for writer in writers]
        assert levels == [[(1,)], [(2,)]]  # NORMAL, FULL
        await gateway.close()


async def test_closing_waits_for_a_transaction_and_leaves_no_file_open(sqlite_url: str) -> None:
    async with Database(sqlite_url) as database:
        gateway = Gateway.of(database)
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="a")
            closing = asyncio.create_task(gateway.close())
            await asyncio.sleep(0.01)
            await gateway.insert(ITEMS, name="b")
        await closing
        await gateway.close()  # once more is harmless
    assert not Path(f"{database.url.database}-wal").exists()
    with contextlib.closing(sqlite3.connect(database.url.database)) as connection:
        assert connection.execute("SELECT name FROM items ORDER BY name").fetchall() == [("a",), ("b",), ("sum",)]


def test_sqlite_is_opened_anew_for_each_event_loop(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.sqlite3")

    async def first() -> None:
        await database.connect()
        await create_tables(Gateway.of(database))
        await gateway_writes("a")

    async def gateway_writes(name: str) -> list[str]:
        gateway = Gateway.of(database)
        await gateway.insert(ITEMS, name=name)
        return await names(gateway)

    async def last() -> list[str]:
        found = await gateway_writes("c")
        await Gateway.of(database).close()
        await database.disconnect()
        return found

    async def interrupted_in_a_transaction() -> None:
        started = asyncio.Event()

        async def never_ends() -> None:
            async with Gateway.of(database).atomic():
                await gateway_writes("b")
                started.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(never_ends())
        await started.wait()
        assert not task.done()  # asyncio.run() cancels it

    asyncio.run(first())
    asyncio.run(interrupted_in_a_transaction())
    assert asyncio.run(last()) == ["a", "c"]


def test_closing_in_another_loop_than_the_one_that_opened_is_harmless(sqlite_url: str) -> None:
    database = Database(sqlite_url)

    async def read() -> None:
        await database.connect()
        assert await names(Gateway.of(database)) == ["sum"]

    async def close() -> None:
        await Gateway.of(database).close()
        assert await names(Gateway.of(database)) == ["sum"]
        await Gateway.of(database).close()

    asyncio.run(read())
    asyncio.run(close())


async def test_two_gateways_on_one_file_lose_nothing(sqlite_url: str) -> None:
    async with Database(sqlite_url) as one, Database(sqlite_url) as two:
        gateways = Gateway.of(one), Gateway.of(two)
        assert gateways[0] is not gateways[1]
        await asyncio.gather(*(add_one(gateways[number % 2]) for number in range(50)))
        assert await amount_of(gateways[0], "sum") == 50
        for gateway in gateways:
            await gateway.close()


async def test_two_processes_on_one_file_lose_nothing(sqlite_url: str) -> None:
    async def process() -> int:
        command = (sys.executable, "-c", ADDER, sqlite_url, "50")
        return await (await asyncio.create_subprocess_exec(*command)).wait()

    assert list(await asyncio.gather(process(), process())) == [0, 0]
    async with Database(sqlite_url) as database:
        assert await amount_of(Gateway.of(database), "sum") == 100
        await Gateway.of(database).close()


async def test_a_file_that_cannot_be_opened_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "later"
    async with Database(f"sqlite:///{folder}/test.sqlite3") as database:
        gateway = Gateway.of(database)
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured, match="There is no folder"):
                await asyncio.gather(gateway.fetch_one(ONE), gateway.fetch_one(ONE))
            with pytest.raises(ImproperlyConfigured, match="There is no folder"):
                async with gateway.atomic():
                    raise AssertionError("not reached")
        folder.mkdir()
        assert await gateway.fetch_one(ONE) == {"one": 1}
        async with gateway.atomic():
            assert await gateway.fetch_one(ONE) == {"one": 1}
        await gateway.close()


async def test_a_file_that_may_only_be_read_can_be_read(sqlite_url: str) -> None:
    path = sqlite_url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
    async with Database(f"{sqlite_url}?mode=ro".replace("///", "///file:"), uri=True) as database:
        assert await names(Gateway.of(database)) == ["sum"]


async def test_a_shared_database_in_memory_is_not_kept_open(connects: list[Any]) -> None:
    async with Database("sqlite:///file:shared_in_tests?mode=memory&cache=shared", uri=True) as database:
        gateway = Gateway.of(database)
        await create_tables(gateway)
        opened = len(connects)
        async with gateway.atomic():
            await gateway.insert(ITEMS, name="a")
            assert await names(gateway) == ["a"]
        assert await names(gateway) == ["a"]
        assert len(connects) == opened + 2
        memory = vars(database._backend)["_pool"]._memref
    memory.close()


async def test_a_kept_connection_does_not_keep_the_request_that_opened_it(sqlite_url: str) -> None:
    class Request:
        pass

    current: ContextVar[Request | None] = ContextVar("current", default=None)

    async with Database(sqlite_url) as database:
        gateway = Gateway.of(database)

        async def request() -> weakref.ref[Request]:
            current.set(request := Request())
            await gateway.fetch_one(ONE)
            return weakref.ref(request)

        reference = await asyncio.create_task(request())
        await gateway.fetch_one(ONE)
        gc.collect()
        assert reference() is None
        await gateway.close()


async def test_a_writer_that_cannot_end_its_transaction_is_replaced(sqlite_url: str) -> None:
    def deny_transactions(action: int, *_: Any) -> int:
        return sqlite3.SQLITE_DENY if action == sqlite3.SQLITE_TRANSACTION else sqlite3.SQLITE_OK

    async with Database(sqlite_url) as database:
        gateway = Gateway.of(database)
        with pytest.raises(sqlite3.DatabaseError, match="not authorized"):
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="a")
                async with database.connection() as connection:
                    await connection.raw_connection.set_authorizer(deny_transactions)
        await gateway.insert(ITEMS, name="b")
        await add_one(gateway)
        assert await names(gateway) == ["b", "sum"]
        await gateway.close()


# How it is put together


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite+aiosqlite:///:memory:"])
def test_a_database_in_memory_is_refused(url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="Name a file instead"):
        Gateway.of(Database(url))


async def test_a_database_in_memory_that_rolls_back_is_one_connection_and_works() -> None:
    async with Database("sqlite:///:memory:", force_rollback=True) as database:
        gateway = Gateway.of(database)
        await create_tables(gateway)
        await gateway.insert(ITEMS, name="a")
        assert await names(gateway) == ["a"]


def test_a_driver_that_is_not_supported_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    # Its driver need not be installed for this: `databases` takes the one that it knows for sqlite+anything.
    with pytest.raises(ImproperlyConfigured, match=r"sqlite\+other:// is not supported. Use one of .*asyncpg://"):
        Gateway.of(Database("sqlite+other:///x"))
    aiopg = {**Database.SUPPORTED_BACKENDS, "postgresql+aiopg": Database.SUPPORTED_BACKENDS["postgresql"]}
    monkeypatch.setattr(Database, "SUPPORTED_BACKENDS", aiopg)
    with pytest.raises(ImproperlyConfigured, match=r"postgresql\+aiopg:// is not supported"):
        Gateway.of(Database("postgresql+aiopg://localhost/x"))


def test_a_sqlite_that_is_too_old_is_refused_by_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(ImproperlyConfigured, match=r"SQLite 3.* Use a Python with SQLite 3.35 or newer"):
        Gateway(Database("sqlite:///any.sqlite3"))


async def test_a_database_that_is_not_connected_is_refused_with_the_fix(database_url: str) -> None:
    gateway = Gateway.of(Database(database_url))
    asks: list[Callable[[], Any]] = [
        lambda: gateway.fetch_one(ONE),
        lambda: gateway.execute(sa.delete(ITEMS)),
        lambda: gateway.insert(ITEMS, name="a"),
        lambda: gateway.atomic().__aenter__(),
    ]
    for ask in asks:
        with pytest.raises(ImproperlyConfigured, match=r"lifespan=lifespan\(auth\)"):
            await ask()
    await gateway.close()


def test_one_database_has_one_gateway(tmp_path: Path) -> None:
    database, other = (Database(f"sqlite:///{tmp_path}/test.sqlite3") for _ in range(2))
    gateway = Gateway.of(database)
    assert Gateway.of(database) is gateway
    assert Gateway.of(other) is not gateway


def test_a_database_that_nobody_uses_any_more_is_forgotten(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/test.sqlite3")
    Gateway.of(database)
    reference = weakref.ref(database)
    del database
    gc.collect()
    assert reference() is None


async def test_a_log_at_debug_does_not_hold_what_was_stored(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("DEBUG"):
        await gateway.insert(ITEMS, name="only here")
        with contextlib.suppress(IntegrityError):
            async with gateway.atomic():
                await gateway.insert(ITEMS, name="only here")
    logged = json.dumps([record.getMessage() for record in caplog.records if record.name != "aiosqlite"])
    assert "only here" not in logged


async def test_what_a_deadlock_ended_is_done_again(auth: Auth) -> None:
    """Two transactions that want each other's rows: one of them is given up, and comes second."""
    for name in ("a", "b"):
        await auth.gateway.insert(auth.tables.group, name=name)
    both_hold_one = asyncio.Barrier(2)
    tries = 0

    async def rename(first: str, second: str) -> str:
        nonlocal tries
        met = False

        async def work() -> str:
            nonlocal tries, met
            tries += 1
            group = auth.tables.group
            for name in (first, second):
                query = sa.update(group).where(group.c.name == name).values(name=name)
                await auth.gateway.execute(query)
                if not met and auth.gateway.dialect != "sqlite":  # where writers stand in line
                    met = True
                    await both_hold_one.wait()
            return first

        return await auth.gateway.run_in_transaction(work)

    done = await asyncio.gather(rename("a", "b"), rename("b", "a"))
    assert list(done) == ["a", "b"]
    assert tries == (2 if auth.gateway.dialect == "sqlite" else 3)


async def test_inside_a_transaction_nothing_is_done_again(auth: Auth) -> None:
    class Deadlock(Exception):
        sqlstate = "40P01"

    async def work() -> None:
        raise Deadlock

    with pytest.raises(Deadlock):
        async with auth.gateway.atomic():
            await auth.gateway.run_in_transaction(work)


class Refused(Exception):
    """What a driver raises, as far as it matters here."""

    def __init__(self, *args: Any, sqlstate: str | None = None) -> None:
        super().__init__(*args)
        self.sqlstate = sqlstate


InterfaceError = type("InterfaceError", (Exception,), {})


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ConnectionRefusedError("refused"), True),
        (ConnectionResetError("reset"), True),
        (OSError("Multiple exceptions: [Errno 111] Connect call failed"), True),
        (WriteLockTimeout("a task inside atomic() waits for another"), False),
        (TimeoutError(), True),
        (InterfaceError(0, "Not connected"), True),
        (Refused("shutting down", sqlstate="57P01"), True),
        (Refused("starting up", sqlstate="57P03"), True),
        (Refused("connection does not exist", sqlstate="08003"), True),
        (Refused("too many clients", sqlstate="53300"), True),
        (Refused("unique", sqlstate="23505"), False),
        (Refused(2013, "Lost connection to server during query"), True),
        (Refused(1205, "Lock wait timeout exceeded"), False),
        (InterfaceError("connection is closed"), True),
        (InterfaceError("connection has been released back to the pool"), True),
        (InterfaceError("the server expects 1 argument"), False),
        (ValueError("connection"), False),
    ],
    ids=str,
)
def test_a_server_that_is_away_is_told_from_a_mistake(error: Exception, expected: bool) -> None:
    assert is_unavailable(error) is expected


async def test_a_statement_that_was_given_up_for_another_is_said_again(auth: Auth) -> None:
    """It waits for a transaction that comes to wait for it. On SQLite one comes after the other."""
    first, second = [await auth.users.create_user(f"user{n}") for n in range(2)]
    table = auth.tables.user
    both = sa.update(table).values(last_name="said").where((table.c.id == first.id) | (table.c.id == second.id))
    async with auth.gateway.atomic():
        for n in range(50):  # the one that has done more is let through
            await auth.gateway.insert(auth.tables.group, name=f"group{n}")
        await auth.users.update(second, first_name="a")
        statement = asyncio.create_task(auth.gateway.execute(both), context=Context())
        await asyncio.sleep(0.2)
        await auth.users.update(first, first_name="b")
    assert await statement == 2
    for user in (first, second):
        fresh = await auth.users.get(user.id)
        assert fresh is not None
        assert (fresh.first_name, fresh.last_name) == (user.first_name, "said")
