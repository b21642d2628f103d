"""Which gateway belongs to a database?"""

from contextlib import AbstractAsyncContextManager
from typing import Any

import sqlalchemy as sa
from databases import Database

from ..core.arguments import require_instance
from ..core.exceptions import ImproperlyConfigured
from .adapters.databases_gateway import DatabasesGateway
from .adapters.engine import Engine, Session
from .adapters.engine_gateway import EngineGateway
from .gateway import Gateway

#: What `Auth` takes as a database. `Engine` stands for SQLAlchemy's AsyncEngine.
AnyDatabase = Database | Engine
FIX = "Pass Database(url), from the package `databases`, or an engine of SQLAlchemy: create_async_engine(url)."


def gateway_of(database: AnyDatabase) -> Gateway:
    """Returns the gateway of a database: one object per database, because the write lock must be shared."""
    require_database(database)
    make: Any = DatabasesGateway if isinstance(database, Database) else EngineGateway
    kept_in = vars(database if isinstance(database, Database) else database.sync_engine)
    gateway: Gateway | None = kept_in.get("_starlette_auth")
    if gateway is None:
        gateway = kept_in["_starlette_auth"] = make(database)
    return gateway


def require_database(database: object) -> None:
    """Raises ImproperlyConfigured unless this is a Database or an AsyncEngine."""
    if not isinstance(getattr(database, "sync_engine", None), sa.Engine):
        require_instance(database, Database, "database", FIX)


class DatabaseAccess:
    """Gives an `Auth` its database, and transactions that it shares with the application."""

    gateway: Gateway

    @property
    def database(self) -> Database:
        """The `Database` of this Auth. Raises ImproperlyConfigured if it has an AsyncEngine."""
        database = self.gateway.database
        if not isinstance(database, Database):
            raise ImproperlyConfigured(
                "This Auth has an AsyncEngine. Use your own AsyncSession with it, or auth.transaction()."
            )
        return database

    def joined(self, session: Session) -> AbstractAsyncContextManager[None]:
        """Runs what this task asks this package in the transaction of an AsyncSession, until the block ends.

        `async with Session() as session, auth.joined(session):` creates a user and the rows that refer to it together:
        `session.commit()` commits both, and a rollback undoes both. Listeners of events that wait for the commit run
        after it. Saved sessions, counted login attempts and their events are never part of the transaction, because
        they must outlive a rollback. A child task is not joined.
        """
        return self._engine_gateway("joined()").joined(session)

    def transaction(self) -> AbstractAsyncContextManager[Any]:
        """Opens a transaction for this package and the application, and yields its AsyncConnection.

        The application uses the connection itself, or in an `AsyncSession(bind=connection)`. The transaction is committed
        at the end of the block, and rolled back after an exception.
        """
        return self._engine_gateway("transaction()").transaction()

    def _engine_gateway(self, method: str) -> EngineGateway:
        if not isinstance(self.gateway, EngineGateway):
            raise ImproperlyConfigured(
                f"auth.{method} needs an Auth with an AsyncEngine, as in Auth(create_async_engine(url), …). With a "
                "Database, use auth.gateway.atomic()."
            )
        return self.gateway
