"""fastapi-users with its database strategy, and a question for the permission, which it has none of, on top."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from typing import Any

import sqlalchemy as sa
from fastapi import Depends, FastAPI, HTTPException
from fastapi_users import BaseUserManager, FastAPIUsers, UUIDIDMixin
from fastapi_users.authentication import AuthenticationBackend, CookieTransport
from fastapi_users.authentication.strategy.db import DatabaseStrategy
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from fastapi_users.password import PasswordHelper
from fastapi_users_db_sqlalchemy.access_token import (
    SQLAlchemyAccessTokenDatabase,
    SQLAlchemyBaseAccessTokenTableUUID,
)
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.types import ASGIApp

from ..settings import CHEAP, GREETING, PASSWORD, PERMISSION, SECRET_KEY, Settings, email_of, may_vote, name_of, vote_of
from .floors import LASTS

helper = PasswordHelper(PasswordHash((Argon2Hasher(**CHEAP),)))


class Base(DeclarativeBase):
    pass


class User(SQLAlchemyBaseUserTableUUID, Base):
    username: Mapped[str] = mapped_column(sa.String(150), unique=True)


class AccessToken(SQLAlchemyBaseAccessTokenTableUUID, Base):
    pass


members = sa.Table(
    "member",
    Base.metadata,
    sa.Column("user_id", sa.ForeignKey("user.id"), primary_key=True),
    sa.Column("group_id", sa.Integer, primary_key=True),
)
grants = sa.Table(
    "grant",
    Base.metadata,
    sa.Column("group_id", sa.Integer, primary_key=True),
    sa.Column("permission", sa.String(100), primary_key=True),
)


class UserManager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    reset_password_token_secret = verification_token_secret = SECRET_KEY


def engine_of(settings: Settings) -> AsyncEngine:
    url = settings.database.replace("postgresql://", "postgresql+asyncpg://")
    options: dict[str, Any] = {} if settings.is_sqlite else {"pool_size": settings.pool, "max_overflow": 0}
    return create_async_engine(url, **options)


def make(settings: Settings) -> ASGIApp:
    engine = engine_of(settings)
    session_of = async_sessionmaker(engine, expire_on_commit=False)

    async def database() -> AsyncIterator[AsyncSession]:
        async with session_of() as session:
            yield session

    async def manager(session: AsyncSession = Depends(database)) -> AsyncIterator[UserManager]:
        yield UserManager(SQLAlchemyUserDatabase(session, User), helper)

    def strategy(session: AsyncSession = Depends(database)) -> Any:
        return DatabaseStrategy(SQLAlchemyAccessTokenDatabase(session, AccessToken), lifetime_seconds=LASTS)

    transport = CookieTransport(cookie_name="session", cookie_max_age=LASTS, cookie_secure=False)
    backend = AuthenticationBackend(name="database", transport=transport, get_strategy=strategy)
    users = FastAPIUsers[User, uuid.UUID](manager, [backend])
    app = FastAPI(openapi_url=None)

    @app.get("/public")
    async def public() -> dict[str, str]:
        return GREETING

    @app.get("/vote")
    async def vote(
        user: User = Depends(users.current_user(active=True)), session: AsyncSession = Depends(database)
    ) -> dict[str, Any]:
        if await session.scalar(permitted, {"user_id": user.id}) is None:
            raise HTTPException(403, "You may not.")
        return vote_of(user.username, user.email)

    app.include_router(users.get_auth_router(backend))
    return app


permitted: sa.Select[Any] = (
    sa.select(sa.literal_column("1"))
    .select_from(members.join(grants, grants.c.group_id == members.c.group_id))
    .where(members.c.user_id == sa.bindparam("user_id"), grants.c.permission == PERMISSION)
    .limit(1)
)


def prepare(settings: Settings) -> None:
    asyncio.run(_prepare(settings))


async def _prepare(settings: Settings) -> None:
    engine, hashed = engine_of(settings), helper.hash(PASSWORD)
    flags = {"hashed_password": hashed, "is_active": True, "is_superuser": False, "is_verified": True}
    users = [
        {"id": uuid.uuid4(), "username": name_of(n), "email": email_of(n), **flags}
        for n in range(1, settings.users + 1)
    ]
    voters = [{"user_id": user["id"], "group_id": 1} for n, user in enumerate(users, 1) if may_vote(n)]
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
        await connection.execute(sa.insert(User), users)
        await connection.execute(sa.insert(members), voters)
        await connection.execute(sa.insert(grants), [{"group_id": 1, "permission": PERMISSION}])
    await engine.dispose()
