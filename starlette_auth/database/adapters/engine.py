"""What this package needs of SQLAlchemy's asyncio classes. Their import would take as long as that of this package."""

from typing import Any, Protocol

import sqlalchemy as sa


class Engine(Protocol):
    """An `AsyncEngine` of SQLAlchemy."""

    @property
    def sync_engine(self) -> sa.Engine: ...

    @property
    def dialect(self) -> sa.Dialect: ...

    @property
    def url(self) -> sa.URL: ...

    def connect(self) -> Any: ...

    async def dispose(self, close: bool = True) -> None: ...


class Session(Protocol):
    """An `AsyncSession` of SQLAlchemy."""

    @property
    def sync_session(self) -> Any: ...

    async def connection(self, *, bind_arguments: Any = ...) -> Any: ...
