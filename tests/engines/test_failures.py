"""Failed and cancelled statements, and savepoints, in transactions that the application shares."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from starlette_auth import Auth, ImproperlyConfigured, IntegrityError, UserCreated

from ..conftest import with_tables
from ..support.databases import installed

# ruff: noqa: PT012 - the end of a block often raises the expected exception

pytestmark = with_tables
ABORTED = "Put the statement that may fail into its own"
SLOW = {"postgresql": "SELECT pg_sleep(5)", "mysql": "SELECT SLEEP(0.5)"}


class Base(DeclarativeBase):
    pass


class Row(Base):
    """A table that does not exist, so that each flush fails."""

    __tablename__ = "missing"
    name: Mapped[str | None] = mapped_column(sa.String(30), primary_key=True)


@pytest.fixture(params=["joined", "transaction", "atomic"])
def shared(request: pytest.FixtureRequest, auth: Auth, database: AsyncEngine) -> Any:
    """A context manager that opens a transaction and commits it at the end of the block."""

    @contextlib.asynccontextmanager
    async def joined() -> AsyncIterator[Any]:
        async with AsyncSession(database) as session, auth.joined(session):
            yield session
            await session.commit()

    return {"joined": joined, "transaction": auth.transaction, "atomic": auth.gateway.atomic}[request.param]


@pytest.fixture
def created(auth: Auth) -> list[str]:
    """The names of which listeners hear after the commit."""
    names: list[str] = []
    auth.events.on(UserCreated, after_commit=True)(lambda event: names.append(event.user.username))
    return names


async def usernames(auth: Auth) -> list[str]:
    return [row[0] for row in await auth.database.fetch_all("SELECT username FROM auth_user ORDER BY username")]


async def violate_a_constraint(auth: Auth) -> None:
    for _ in range(2):
        await auth.gateway.insert(auth.tables.group, name="editors")


async def cancel_a_statement(auth: Auth) -> None:
    """Cancels a statement that is under way."""
    query = sa.text(SLOW.get(auth.gateway.dialect, "SELECT count(*) FROM auth_user")).columns(sa.column("x"))
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.05 if auth.gateway.dialect in SLOW else 0, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await auth.gateway.fetch_one(query)
    task.uncancel()


@pytest.mark.parametrize("fail", [violate_a_constraint, cancel_a_statement])
async def test_nothing_is_committed_after_a_swallowed_failure(
    auth: Auth, shared: Any, created: list[str], fail: Callable[[Auth], Awaitable[None]]
) -> None:
    """PostgreSQL rolls back at COMMIT without an error; the other databases would commit a part."""
    with pytest.raises(Exception, match=f"{ABORTED}|has rolled back"):
        async with shared():
            await auth.users.create_user("ann")
            with contextlib.suppress(IntegrityError):
                await fail(auth)
    assert await usernames(auth) == []
    assert created == []
    await auth.users.create_user("bob")
    assert created == ["bob"]


async def test_a_failed_statement_of_the_application_does_not_announce_a_commit(
    auth: Auth, database: AsyncEngine, created: list[str]
) -> None:
    """PostgreSQL rolls the user back at COMMIT, without an error; the other databases commit the user."""
    failing = sa.text("SELECT missing FROM auth_user")

    async def in_session() -> None:
        async with AsyncSession(database) as session, auth.joined(session):
            await auth.users.create_user("ann")
            with contextlib.suppress(sa.exc.DBAPIError):
                await session.execute(failing)
            await session.commit()

    async def on_connection() -> None:
        async with auth.transaction() as connection:
            await auth.users.create_user("bob")
            with contextlib.suppress(sa.exc.DBAPIError):
                await connection.execute(failing)

    for work in (in_session, on_connection):
        with (
            pytest.raises(ImproperlyConfigured, match=ABORTED)
            if auth.gateway.dialect == "postgresql"
            else contextlib.nullcontext()
        ):
            await work()
    assert await usernames(auth) == created


async def test_a_failure_still_counts_after_the_block_of_joined(auth: Auth, database: AsyncEngine) -> None:
    async with AsyncSession(database) as session:
        for _ in range(2):
            async with auth.joined(session):
                with contextlib.suppress(IntegrityError, ImproperlyConfigured):
                    await violate_a_constraint(auth)
        with pytest.raises(ImproperlyConfigured, match=ABORTED):
            await session.commit()
        await session.rollback()
        async with auth.joined(session):
            await auth.users.create_user("bob")
        await session.commit()
    assert await usernames(auth) == ["bob"]


async def test_a_failure_counts_only_for_its_own_transaction(auth: Auth, database: AsyncEngine) -> None:
    async with AsyncSession(database) as other, AsyncSession(database) as session:
        async with auth.joined(other):
            await auth.users.get_by_username("ann")
        async with auth.joined(session):
            if auth.gateway.dialect != "sqlite":  # which has one writer
                with contextlib.suppress(IntegrityError):
                    await violate_a_constraint(auth)
            await other.commit()
            with auth.gateway.apart():
                async with auth.gateway.atomic():
                    await auth.users.create_user("apart")
            if auth.gateway.dialect != "sqlite":
                with pytest.raises(ImproperlyConfigured, match=ABORTED):
                    await session.commit()
            await session.rollback()
    assert await usernames(auth) == ["apart"]


async def test_a_request_with_a_failed_statement_can_still_save_its_session(auth: Auth, database: AsyncEngine) -> None:
    """On SQLite, the flush that failed has ended the transaction in the session already."""
    async with AsyncSession(database) as session, auth.joined(session):
        if auth.gateway.dialect != "sqlite":
            with contextlib.suppress(IntegrityError):
                await violate_a_constraint(auth)
        session.add(Row(name="x"))
        with contextlib.suppress(sa.exc.DBAPIError):
            await session.flush()
        web = await auth.sessions.load("")
        web["a"] = 1
        cookie = await auth.sessions.save(web, max_age=60)
    assert await auth.sessions.load(cookie) == {"a": 1}


async def test_a_savepoint_of_the_connection_takes_its_listeners_along(auth: Auth, created: list[str]) -> None:
    async with auth.transaction() as connection:
        await auth.users.create_user("ann")
        with contextlib.suppress(LookupError):
            async with connection.begin_nested():
                await auth.users.create_user("lost")
                async with connection.begin_nested():
                    await auth.users.create_user("lost too")
                raise LookupError
        async with connection.begin_nested():
            await auth.users.create_user("bob")
        assert created == []
    assert created == await usernames(auth) == ["ann", "bob"]


async def test_a_savepoint_is_not_released_after_a_swallowed_failure(auth: Auth, created: list[str]) -> None:
    with pytest.raises((ImproperlyConfigured, sa.exc.SQLAlchemyError)):
        async with auth.transaction() as connection:
            with contextlib.suppress(ImproperlyConfigured):
                async with connection.begin_nested():
                    await auth.users.create_user("ann")
                    with contextlib.suppress(IntegrityError):
                        await violate_a_constraint(auth)
            await auth.users.create_user("bob")
    assert await usernames(auth) == created == []


async def test_the_application_may_roll_a_transaction_back_and_go_on(auth: Auth, created: list[str]) -> None:
    async with auth.transaction() as connection:
        await auth.users.create_user("lost")
        with contextlib.suppress(IntegrityError):
            await violate_a_constraint(auth)
        await connection.rollback()
        await auth.users.create_user("ann")
    assert await usernames(auth) == created == ["ann"]
    async with auth.transaction() as connection:
        await auth.users.create_user("lost")
        await connection.rollback()
    assert await usernames(auth) == created == ["ann"]


async def test_the_application_must_not_commit_a_transaction(auth: Auth, created: list[str]) -> None:
    async def commit(connection: AsyncConnection) -> None:
        await connection.commit()

    async def commit_and_go_on(connection: AsyncConnection) -> None:
        with contextlib.suppress(ImproperlyConfigured):
            await connection.commit()

    for work in (commit, commit_and_go_on):
        with pytest.raises((ImproperlyConfigured, sa.exc.InvalidRequestError)):
            async with auth.transaction() as connection:
                await auth.users.create_user("ann")
                await work(connection)
    assert await usernames(auth) == created == []


async def test_a_listener_after_the_commit_may_join_another_session(auth: Auth, database: AsyncEngine) -> None:
    """Its own saves run apart from both sessions."""
    cookies: list[str] = []

    async def join(event: UserCreated) -> None:
        async with AsyncSession(database) as other, auth.joined(other):
            await auth.users.create_group(event.user.username)
            await other.commit()
            cookies.append(await auth.sessions.save(await auth.sessions.load(""), max_age=60))

    auth.events.on(UserCreated, after_commit=True)(join)
    async with AsyncSession(database) as session, auth.joined(session):
        for name in ("ann", "bob"):
            await auth.users.create_user(name)
            await session.commit()
    assert await usernames(auth) == ["ann", "bob"]
    assert len(cookies) == 2
    assert not auth.gateway.is_in_transaction


async def test_nothing_is_left_of_tasks_and_sessions(database: AsyncEngine) -> None:
    async with installed(database) as auth:
        gateway: Any = auth.gateway

        async def request(number: int) -> None:
            async with AsyncSession(database) as session, auth.joined(session):
                with contextlib.suppress(IntegrityError):
                    await violate_a_constraint(auth)
                if number % 2:
                    await session.rollback()
                    await auth.users.create_user(f"user{number}")
                    await session.commit()

        for number in range(6):
            await asyncio.create_task(request(number))
        assert len(gateway._current) == len(gateway._callbacks) == len(gateway._suspended) == 0
