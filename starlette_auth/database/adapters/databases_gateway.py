"""The gateway to a `Database` of the package `databases`."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, TypeVar

from databases import Database
from databases.core import Connection
from databases.interfaces import ConnectionBackend

from ...core.concurrency import PerLoop
from ...core.exceptions import ImproperlyConfigured
from ..errors import translate, translate_errors
from ..statements import PreparedStatement, get_dialect
from ..urls import connect, find_driver
from .connections import Connections, KeptConnections, SQLiteConnections
from .databases_connections import KeptConnection, PoolConnections, acquire
from .databases_transactions import DatabasesTransactions
from .drivers import RawConnection
from .queries import Operation, Queries

R = TypeVar("R")


class DatabasesGateway(DatabasesTransactions, Queries):
    """Runs statements and transactions on the task's connection, or on one acquired per statement."""

    def __init__(self, database: Database) -> None:
        super().__init__()
        self.database = database
        self.driver = find_driver(database)
        self.dialect = self.driver.dialect
        get_dialect(self.dialect)  # imported at start, so that the first request does not wait for it
        in_memory = self.dialect == "sqlite" and database.url.database in ("", ":memory:")
        if in_memory and not database._force_rollback:
            raise ImproperlyConfigured(
                "`databases` opens a new, empty in-memory SQLite database for each query. Use a file instead."
            )
        is_plain_file = not in_memory and not database.url.options
        # Opening a SQLite connection takes as long as ten queries, so connections to a plain file are kept open.
        self._keeps_sqlite = self.dialect == "sqlite" and is_plain_file and not database._force_rollback
        self.connections = 0  # the number of PostgreSQL connections to keep open
        self._connections: PerLoop[Connections] = PerLoop(self._make_connections)
        self._single_connections: dict[asyncio.Task[Any] | None, ConnectionBackend] = {}

    @property
    def url(self) -> str:
        return str(self.database.url)

    @property
    def first_schema(self) -> str:
        settings = self.database._backend._options.get("server_settings") or {}
        return str(settings.get("search_path") or "public").split(",")[0].strip().strip('"')

    @property
    def is_connected(self) -> bool:
        return self.database.is_connected

    async def connect(self) -> None:
        await connect(self.database)

    async def disconnect(self) -> None:
        await self.database.disconnect()

    def keep_connections(self, connections: int | None) -> None:
        connections = connections or 0
        if connections < 0 or (connections and self.dialect == "mysql"):
            raise ImproperlyConfigured("connections must not be negative, and MySQL does not support it. Leave it out.")
        if self.dialect == "postgresql":
            if connections and not self.connections:
                self._connections = PerLoop(self._make_connections)
            self.connections = max(self.connections, connections)

    @contextlib.asynccontextmanager
    async def single_connection(self) -> AsyncIterator[None]:
        """Runs all queries of the block on one connection. A transaction inside the block uses a separate one."""
        task = asyncio.current_task()
        if (
            self._keeps_sqlite
            or self.connections
            or task in self._single_connections
            or self._current_connection() is not None
        ):
            yield
            return
        self._require_connected()
        connection = self.database._backend.connection()
        with translate_errors():
            await acquire(connection)
        self._single_connections[task] = connection
        try:
            yield
        finally:
            del self._single_connections[task]
            await self._connections.get().release(connection, write=False)

    async def close(self) -> None:
        """Closes the kept connections of this event loop. Call it before the database disconnects."""
        await self._connections.get().close()

    def apart(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    async def can_run_apart(self) -> bool:
        return True

    def _make_connections(self) -> Connections:
        if self._keeps_sqlite:
            return SQLiteConnections(lambda pragmas: KeptConnection(self.database, pragmas))
        pool = PoolConnections(self.database)
        if not self.connections:
            return pool
        return KeptConnections(pool, lambda: KeptConnection(self.database), lambda: self.connections)

    async def _run(
        self, operation: Operation[R], prepared: PreparedStatement, values: dict[str, Any], *, write: bool = False
    ) -> R:
        arguments = prepared.bind(values)
        self._require_connected()
        try:
            current = self._current_connection()
            if current is not None:
                return await self._run_on(current, operation, prepared.sql, arguments, write=write)
            single = self._single_connections.get(asyncio.current_task()) if self._single_connections else None
            if single is not None:
                return await self._run_on_single(single, operation, prepared.sql, arguments)
            connections = self._connections.get()
            connection = await connections.acquire(write=write, durable=prepared.durable)
            try:
                return await operation(connection.raw_connection, prepared.sql, arguments)
            except Exception as error:
                await self._discard_useless(connection, error)
                raise
            finally:
                await connections.release(connection, write=write)
        except Exception as error:
            translate(error)

    async def _run_on(
        self,
        connection: Connection,
        operation: Operation[R],
        sql: str,
        arguments: Any,
        *,
        write: bool,
    ) -> R:
        """Runs a statement on the connection that the task already holds."""
        # With force_rollback all tasks share one connection. A write must not become part of another task's savepoint.
        is_shared = write and connection is self.database._global_connection
        write_lock = self._connections.get().write_lock if is_shared else contextlib.nullcontext()
        self._require_no_failure()
        async with write_lock, connection._query_lock:
            try:
                return await operation(connection.raw_connection, sql, arguments)
            except BaseException as error:
                await self._discard_useless(connection, error)
                self._note_failure_on(connection, error)
                raise

    async def _run_on_single(self, connection: RawConnection, operation: Operation[R], sql: str, arguments: Any) -> R:
        try:
            return await operation(connection.raw_connection, sql, arguments)
        except Exception as error:
            await self._discard_useless(connection, error)
            raise
