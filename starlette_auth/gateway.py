"""Everything that is said to the database, and the only module that calls `databases`."""

import asyncio
import contextlib
import logging
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, TypeVar

import sqlalchemy as sa
from databases import Database
from databases.core import Connection

from .drivers import Aiosqlite, Asyncpg, Driver, Mysql, is_integrity_error
from .exceptions import ImproperlyConfigured, IntegrityError
from .statements import Prepared, Row, Statement

logger = logging.getLogger("starlette_auth")

DRIVERS: dict[str, type[Driver]] = {
    "sqlite": Aiosqlite,
    "sqlite+aiosqlite": Aiosqlite,
    "postgres": Asyncpg,
    "postgresql": Asyncpg,
    "postgresql+asyncpg": Asyncpg,
    "mysql": Mysql,
    "mysql+aiomysql": Mysql,
    "mysql+asyncmy": Mysql,
}
R = TypeVar("R")
Query = Statement | sa.ClauseElement


class Gateway:
    """One database. Statements run on the connection that the task already holds, else on one of their own."""

    _gateways: ClassVar["weakref.WeakKeyDictionary[Database, Gateway]"] = weakref.WeakKeyDictionary()

    def __init__(self, database: Database) -> None:
        driver = DRIVERS.get(database.url.scheme)
        if driver is None:
            raise ImproperlyConfigured(
                f"{database.url.scheme}:// is not supported. Use one of {', '.join(f'{name}://' for name in DRIVERS)}."
            )
        self.database = database
        self.driver = driver()
        self.dialect = self.driver.dialect
        in_memory = self.dialect == "sqlite" and database.url.database in ("", ":memory:")
        if in_memory and not database._force_rollback:
            raise ImproperlyConfigured(
                "A SQLite database in memory is empty again for each query of `databases`. Name a file instead."
            )
        is_plain_file = not in_memory and not database.url.options
        # Opening a SQLite connection costs as much as ten queries, so these two stay open.
        self._keeps = self.dialect == "sqlite" and is_plain_file and not database._force_rollback
        self._reader = KeptConnection(database, _PRAGMAS)
        self._writer = KeptConnection(database, _PRAGMAS)
        self._turn = Turn()
        self._inserts: dict[tuple[sa.Table, tuple[str, ...]], Statement] = {}

    @classmethod
    def of(cls, database: Database) -> "Gateway":
        """The same gateway for the same database: the writers of one SQLite file must wait for each other."""
        gateway = cls._gateways.get(database)
        if gateway is None:
            gateway = cls._gateways[database] = cls(database)
        return gateway

    async def fetch_one(self, query: Query, **values: Any) -> Row | None:
        prepared = self._prepared(query)
        rows = await self._run(self.driver.fetch, prepared, values)
        return prepared.row(rows[0]) if rows else None

    async def fetch_all(self, query: Query, **values: Any) -> list[Row]:
        prepared = self._prepared(query)
        return [prepared.row(row) for row in await self._run(self.driver.fetch, prepared, values)]

    async def execute(self, query: Query, **values: Any) -> int:
        """How many rows were hit. 0 means on every database: no row matched."""
        prepared = self._prepared(query)
        hit = await self._run(self.driver.execute, prepared, values, write=True)
        expression = query.expression if isinstance(query, Statement) else query
        if hit or self.dialect != "mysql" or not isinstance(expression, sa.Update):
            return hit
        # MySQL counts the rows that changed; one that held these values already was hit all the same.
        # FOR UPDATE reads the newest state, where the snapshot of a transaction may show an older one.
        same: sa.Select[Any] = sa.select(sa.literal_column("1").label("hit")).select_from(expression.table)
        if expression.whereclause is not None:
            same = same.where(expression.whereclause)
        return len(await self._run(self.driver.fetch, self._prepared(same.with_for_update()), values, write=True))

    async def insert(self, table: sa.Table, **values: Any) -> Any:
        """The key of the new row: the one given, or the one that the database chose."""
        key = next(iter(table.primary_key.columns))
        shape = (table, tuple(values))
        if shape not in self._inserts:
            expression = sa.insert(table).values({name: sa.bindparam(name) for name in values}).inline()
            chosen = key.name not in values and self.dialect == "postgresql"
            self._inserts[shape] = Statement(expression.returning(key) if chosen else expression)
        chosen_key = await self._run(self.driver.insert, self._prepared(self._inserts[shape]), values, write=True)
        return values.get(key.name, chosen_key)

    @contextlib.asynccontextmanager
    async def atomic(self) -> AsyncIterator[None]:
        """All or nothing. Inside another transaction of this task, a savepoint of it.

        `Database.transaction()` loses its connection for good when COMMIT fails or the task is cancelled at the
        wrong moment; this one gives it back whatever happens.
        """
        async with contextlib.AsyncExitStack() as stack:
            held = self._held()
            if self.dialect == "sqlite" or self.database._global_connection is not None:
                await stack.enter_async_context(self._turn)
            if held is None:
                held = await stack.enter_async_context(self._borrowed())
            begin, commit, rollback = self.driver.begin, ["COMMIT"], ["ROLLBACK"]
            if self.driver.in_transaction(held.raw_connection):
                begin, commit = "SAVEPOINT starlette_auth", ["RELEASE SAVEPOINT starlette_auth"]
                rollback = ["ROLLBACK TO SAVEPOINT starlette_auth", *commit]
            try:
                await self._say(held, begin)
                yield
                for word in commit:
                    await self._say(held, word)
            except BaseException:
                await uninterrupted(self._undo(held, rollback))
                raise

    async def close(self) -> None:
        """Gives back the connections that are kept. Call it before the database disconnects."""
        await self._reader.close()
        await self._writer.close()

    def _prepared(self, query: Query) -> Prepared:
        statement = query if isinstance(query, Statement) else Statement(query)
        return statement.prepared(self.dialect)

    async def _run(
        self,
        ask: Callable[[Any, str, Any], Awaitable[R]],
        prepared: Prepared,
        values: dict[str, Any],
        *,
        write: bool = False,
    ) -> R:
        arguments = prepared.arguments(values)
        try:
            held = self._held()
            if held is not None:
                # The lock of `databases` itself: under force_rollback all tasks share one connection.
                async with held._query_lock:
                    return await ask(held.raw_connection, prepared.sql, arguments)
            if self._keeps and not write:
                connection = await self._reader.open()
                return await ask(connection.raw_connection, prepared.sql, arguments)
            if self._keeps:
                async with self._turn:
                    connection = await self._writer.open()
                    return await ask(connection.raw_connection, prepared.sql, arguments)
            self._require_connected()
            async with self.database.connection() as connection:
                return await ask(connection.raw_connection, prepared.sql, arguments)
        except Exception as error:
            if is_integrity_error(error):
                raise IntegrityError(str(error)) from error
            raise

    def _held(self) -> Connection | None:
        """The connection that this task holds, through us or through the application's own `database`."""
        connection = self.database._global_connection or self.database._connection
        return connection if connection is not None and connection._connection_counter else None

    @contextlib.asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Connection]:
        if not self._keeps:
            self._require_connected()
            async with self.database.connection() as connection:
                yield connection
            return
        connection = await self._writer.open()
        # What the task asks of `database` itself meanwhile, in a listener say, belongs to the transaction too.
        self.database._connection = connection
        try:
            yield connection
        finally:
            self.database._connection = None
            if self.driver.in_transaction(connection.raw_connection):
                await uninterrupted(self._writer.close())

    async def _say(self, connection: Connection, word: str) -> None:
        async with connection._query_lock:
            await self.driver.execute(connection.raw_connection, word, self._nothing)

    async def _undo(self, connection: Connection, words: list[str]) -> None:
        for word in words:
            try:
                await self._say(connection, word)
            except Exception as error:
                logger.debug("%s: %s", word, type(error).__name__)

    @property
    def _nothing(self) -> Any:
        return [] if self.dialect == "postgresql" else {}

    def _require_connected(self) -> None:
        if not self.database.is_connected:
            raise ImproperlyConfigured(
                "The database is not connected. Pass lifespan=lifespan(auth) to your app, or await database.connect()."
            )


_PRAGMAS = ("PRAGMA foreign_keys = ON", "PRAGMA journal_mode = WAL")


class KeptConnection:
    """A connection that stays open in a task of its own, until it is given back or its event loop ends."""

    def __init__(self, database: Database, greeting: tuple[str, ...]) -> None:
        self._database = database
        self._greeting = greeting
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opening: asyncio.Future[Connection] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._enough = asyncio.Event()

    async def open(self) -> Connection:
        loop = asyncio.get_running_loop()
        # What an earlier loop kept (a test client makes one after the other) ended with it.
        if self._opening is None or self._loop is not loop or (self._keeper and self._keeper.done()):
            self._loop = loop
            self._opening = loop.create_future()
            self._enough = asyncio.Event()
            self._keeper = loop.create_task(self._keep(self._opening, self._enough))
        if self._opening.done():
            return self._opening.result()
        return await asyncio.shield(self._opening)

    async def close(self) -> None:
        keeper, self._opening, self._keeper = self._keeper, None, None
        if keeper is not None and self._loop is asyncio.get_running_loop():
            self._enough.set()
            await asyncio.wait([keeper])

    async def _keep(self, opened: asyncio.Future[Connection], enough: asyncio.Event) -> None:
        try:
            async with self._database.connection() as connection:
                for pragma in self._greeting:
                    with contextlib.suppress(Exception):  # a file that others use, or that is read-only, stays as it is
                        await connection.raw_connection.execute_fetchall(pragma)
                opened.set_result(connection)
                await enough.wait()
        except Exception as error:
            opened.set_exception(error)
            self._opening = None


class Turn:
    """A lock that its own task may take again."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = asyncio.Lock()
        self._owner: asyncio.Task[Any] | None = None
        self._depth = 0

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        if self._owner is not None and self._owner is task:
            self._depth += 1
            return
        if self._loop is not asyncio.get_running_loop():
            self._loop, self._lock = asyncio.get_running_loop(), asyncio.Lock()
        await self._lock.acquire()
        self._owner, self._depth = task, 1

    async def __aexit__(self, *exc: object) -> None:
        self._depth -= 1
        if self._depth == 0:
            self._owner = None
            self._lock.release()


async def uninterrupted(work: Awaitable[None]) -> None:
    """Sees it through, however often the task is cancelled meanwhile; the cancellation is raised afterwards."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
