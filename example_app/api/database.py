"""The database: one engine, for the shop and for starlette_auth."""

from sqlalchemy import event
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase

from . import settings

engine = create_async_engine(settings.DATABASE_URL)
Session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """The base class of all models."""


if engine.dialect.name == "sqlite":

    @event.listens_for(engine.sync_engine, "connect")
    def check_foreign_keys(connection: DBAPIConnection, record: object) -> None:
        """Lets a new connection check foreign keys, which SQLite does not do by default."""
        connection.cursor().execute("PRAGMA foreign_keys = ON")
