"""`auth.joined(session)` and `auth.transaction()`: one transaction for users and the rows of the application."""

# ruff: noqa: PT012 - the end of a block often raises the expected exception

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from databases import Database
from fastapi import Depends, FastAPI
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from starlette.requests import Request

from starlette_auth import (
    AlreadyExists,
    Auth,
    FactorAdded,
    ImproperlyConfigured,
    IntegrityError,
    LoginFailed,
    PasswordChanged,
    SecondFactorFailed,
    Unavailable,
    UserCreated,
    login,
    middleware,
)
from starlette_auth.core.feature_events import PasskeyCloned
from starlette_auth.testing import log_in

from ..conftest import PASSWORD, SECRET_KEY, client_of, with_tables
from ..database.test_gateway import kill_connections
from ..support.databases import installed, url_of, with_engine

pytestmark = with_tables
OWN = {"Sec-Fetch-Site": "same-origin"}


class Base(DeclarativeBase):
    pass


class Shop(Base):
    __tablename__ = "shop"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(sa.String(30), unique=True)
    owner_id: Mapped[int]


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine; its database has a table of the application, too."""
    async with with_engine(database_url) as engine:
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        try:
            yield engine
        finally:
            async with engine.begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)


@pytest.fixture
def session_maker(database: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    return async_sessionmaker(database, expire_on_commit=False)


async def names(auth: Auth) -> tuple[list[str], list[str]]:
    """Returns the names of all users and of all shops, as another connection sees them."""
    users = await auth.database.fetch_all("SELECT username FROM auth_user ORDER BY username")
    shops = await auth.database.fetch_all("SELECT name FROM shop ORDER BY name")
    return [row[0] for row in users], [row[0] for row in shops]


async def sign_up(auth: Auth, session: AsyncSession, name: str) -> None:
    user = await auth.users.create_user(name, password=PASSWORD)
    session.add(Shop(name=f"{name}'s", owner_id=user.id))
    await session.flush()


async def test_a_commit_of_the_session_commits_users_and_rows_together(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    async with session_maker() as session, auth.joined(session):
        await sign_up(auth, session, "ann")
        assert await names(auth) == ([], [])
        assert await auth.users.get_by_username("ann") is not None
        await session.commit()
        assert await names(auth) == (["ann"], ["ann's"])
        await sign_up(auth, session, "bob")
        await session.commit()
    assert await names(auth) == (["ann", "bob"], ["ann's", "bob's"])


async def test_a_rollback_of_the_session_undoes_users_and_rows_together(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    async with session_maker() as session, auth.joined(session):
        await sign_up(auth, session, "ann")
        await session.rollback()
        await sign_up(auth, session, "bob")
    with pytest.raises(LookupError):
        async with session_maker() as session, auth.joined(session), session.begin():
            await sign_up(auth, session, "eve")
            raise LookupError
    assert await names(auth) == ([], [])
    await auth.users.create_user("zoe")
    assert await names(auth) == (["zoe"], [])


async def violate_a_constraint(auth: Auth) -> None:
    """Runs a statement outside of a savepoint that fails."""
    for _ in range(2):
        await auth.gateway.insert(auth.tables.group, name="editors")


async def test_the_session_cannot_commit_after_a_swallowed_error(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    """PostgreSQL would roll back and report success, and the other databases would commit the rest."""
    async with session_maker() as session, auth.joined(session):
        await sign_up(auth, session, "ann")
        with contextlib.suppress(IntegrityError):
            await violate_a_constraint(auth)
        with pytest.raises(ImproperlyConfigured, match="Put the statement that may fail into its own"):
            await auth.users.get_by_username("ann")
        with pytest.raises(ImproperlyConfigured, match="Put the statement that may fail into its own"):
            await session.commit()
        await session.rollback()
        await sign_up(auth, session, "bob")
        await session.commit()
    assert await names(auth) == (["bob"], ["bob's"])


@pytest.mark.parametrize("by", ["atomic", "begin_nested"])
async def test_after_an_error_in_a_savepoint_the_session_commits(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession], by: str
) -> None:
    async with session_maker() as session, auth.joined(session):
        await sign_up(auth, session, "ann")
        with pytest.raises(IntegrityError):
            async with auth.gateway.atomic() if by == "atomic" else session.begin_nested():
                await violate_a_constraint(auth)
        await sign_up(auth, session, "bob")
        await session.commit()
    assert await names(auth) == (["ann", "bob"], ["ann's", "bob's"])
    assert await auth.database.fetch_all("SELECT name FROM auth_group") == []


@pytest.mark.parametrize("by", ["atomic", "begin_nested"])
async def test_after_an_error_in_a_savepoint_a_transaction_commits(auth: Auth, by: str) -> None:
    async with auth.transaction() as connection:
        await auth.users.create_user("ann")
        with pytest.raises(IntegrityError):
            async with auth.gateway.atomic() if by == "atomic" else connection.begin_nested():
                await violate_a_constraint(auth)
        await auth.users.create_user("bob")
    assert await names(auth) == (["ann", "bob"], [])
    assert await auth.database.fetch_all("SELECT name FROM auth_group") == []


async def test_an_error_before_a_savepoint_still_counts_after_it(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    async with session_maker() as session, auth.joined(session):
        with contextlib.suppress(IntegrityError):
            await violate_a_constraint(auth)
        with contextlib.suppress(Exception):  # PostgreSQL refuses the savepoint
            async with session.begin_nested():
                raise LookupError
        with pytest.raises(ImproperlyConfigured, match="Put the statement that may fail into its own"):
            await auth.users.get_by_username("ann")


@pytest.mark.parametrize("first", ["application", "package"])
async def test_the_order_of_the_statements_does_not_matter(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession], first: str
) -> None:
    async with session_maker() as session, auth.joined(session):
        if first == "application":
            session.add(Shop(name="empty", owner_id=0))
            await session.flush()
        assert await auth.users.get_by_username("ann") is None
        await sign_up(auth, session, "ann")
        await session.commit()
    assert (await names(auth))[0] == ["ann"]


async def test_a_taken_name_undoes_only_a_savepoint(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    await auth.users.create_user("ann")
    async with session_maker() as session, auth.joined(session):
        await sign_up(auth, session, "bob")
        with pytest.raises(AlreadyExists):
            await auth.users.create_user("ann")
        await sign_up(auth, session, "eve")
        await session.commit()
    assert await names(auth) == (["ann", "bob", "eve"], ["bob's", "eve's"])


async def test_listeners_run_after_the_commit_and_are_forgotten_at_a_rollback(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[str] = []

    @auth.events.on(UserCreated, after_commit=True)
    async def note(event: UserCreated) -> None:
        await asyncio.sleep(0)
        await auth.users.create_group(f"group of {event.user.username}")
        told.append(event.user.username)
        if event.user.username == "bad":
            raise LookupError

    async with session_maker() as session, auth.joined(session):
        await auth.users.create_user("ann")
        await session.rollback()
        await auth.users.create_user("bob")
        with contextlib.suppress(LookupError):
            async with session.begin_nested():
                await auth.users.create_user("lost")
                raise LookupError
        async with session.begin_nested():
            await auth.users.create_user("eve")
        assert told == []
        await session.commit()
        assert told == ["bob", "eve"]
        await auth.users.create_user("bad")
        await session.commit()  # the listener fails, but nothing can be undone
        assert "A listener failed after the commit" in caplog.text
        await auth.users.create_user("unsaved")
    async with session_maker() as session:
        async with auth.joined(session):
            await auth.users.create_user("zoe")
        assert told == ["bob", "eve", "bad"]
        await session.commit()
    assert told == ["bob", "eve", "bad", "zoe"]
    assert (await names(auth))[0] == ["bad", "bob", "eve", "zoe"]


async def test_saved_sessions_and_failed_logins_outlive_a_rollback(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    ann = await auth.users.create_user("ann", password=PASSWORD)
    failed: list[str] = []

    @auth.events.on(LoginFailed, after_commit=True)
    def note(event: LoginFailed) -> None:
        failed.append(event.credentials["username"])

    request = Request({"type": "http", "headers": [], "client": ("192.0.2.1", 5000), "path": "/", "method": "POST"})
    request.scope["session"] = await auth.sessions.load("")
    async with session_maker() as session, auth.joined(session):
        assert await auth.authenticate(request, username="ann", password="wrong") is None
        web = await auth.sessions.load("")
        web["a"] = 1
        cookie = await auth.sessions.save(web, max_age=60)
        if auth.gateway.dialect != "sqlite":  # whose only writer is the session from here on
            await auth.users.update(ann, first_name="Ann")
            web["a"] = 2
            cookie = await auth.sessions.save(web, max_age=60)
            assert await auth.authenticate(request, username="ann", password="wrong") is None
        await session.rollback()
    assert set(failed) == {"ann"}
    assert await auth.sessions.load(cookie) == {"a": 2 if auth.gateway.dialect != "sqlite" else 1}
    counts = await auth.database.fetch_all("SELECT failures FROM auth_throttle WHERE failures > 0")
    assert [row[0] & 1023 for row in counts] == [2 if auth.gateway.dialect != "sqlite" else 1]


async def test_refused_factors_are_told_in_spite_of_a_rollback_and_changed_ones_are_not(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "starlette_auth.security")
    ann = await auth.users.create_user("ann", password=PASSWORD)
    async with session_maker() as session, auth.joined(session):
        await auth.events.emit(SecondFactorFailed(user=ann, method="totp"))
        await auth.events.emit(FactorAdded(user=ann, factor="totp"))
        await auth.events.emit(PasskeyCloned(user=ann, name="Phone"))
        await session.rollback()
    logged = [record.__dict__["event"] for record in caplog.records if record.name == "starlette_auth.security"]
    assert logged == ["user_created", "second_factor_failed", "passkey_cloned"]


async def test_a_new_password_ends_sessions_with_the_commit_or_before(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    ann = await auth.users.create_user("ann", password=PASSWORD)
    changed: list[Any] = []
    auth.events.on(PasswordChanged, after_commit=True)(changed.append)
    async with client_of(make_site(auth, session_maker, "function"), headers=OWN) as client:
        await log_in(client, ann, auth)
        assert (await client.get("/me")).json()["name"] == "ann"
        async with session_maker() as session, auth.joined(session):
            await asyncio.wait_for(auth.users.set_password(ann, "another long password"), 10)
            await auth.sessions.revoke_all(ann.identity)
            await session.commit()
        assert (await client.get("/me")).json()["name"] == ""
    assert len(changed) == 1
    assert await auth.user_sessions.list(ann) == []


async def test_sessions_end_although_the_application_commits_nothing(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    web = await auth.sessions.load("")
    web["a"] = 1
    cookie = await auth.sessions.save(web, max_age=60)
    async with session_maker() as session, auth.joined(session):
        await session.execute(sa.select(Shop))
        await auth.sessions.revoke_everybody()
    assert await auth.sessions.load(cookie) == {}


async def test_a_child_task_is_not_joined(auth: Auth, session_maker: async_sessionmaker[AsyncSession]) -> None:
    async with session_maker() as session, auth.joined(session):
        assert await asyncio.create_task(auth.users.create_user("ann")) is not None
        await session.rollback()
    assert (await names(auth))[0] == ["ann"]


async def test_a_deadlock_or_another_error_does_not_reach_the_next_transaction(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    async with session_maker() as session, auth.joined(session):
        await auth.users.create_user("ann")
        with pytest.raises(sa.exc.IntegrityError):
            session.add_all([Shop(name="x", owner_id=1), Shop(name="x", owner_id=2)])
            await session.flush()
        await session.rollback()
        await sign_up(auth, session, "bob")
        await session.commit()
    assert await names(auth) == (["bob"], ["bob's"])


async def test_transaction_yields_a_connection_for_the_application(auth: Auth) -> None:
    told: list[str] = []
    auth.events.on(UserCreated, after_commit=True)(lambda event: told.append(event.user.username))
    async with auth.transaction() as connection:
        user = await auth.users.create_user("ann")
        async with AsyncSession(bind=connection) as session:
            session.add(Shop(name="ann's", owner_id=user.id))
            await session.commit()
        await connection.execute(sa.insert(Shop).values(name="second", owner_id=user.id))
        assert await names(auth) == ([], [])
        assert told == []
    assert await names(auth) == (["ann"], ["ann's", "second"])
    with pytest.raises(LookupError):
        async with auth.transaction() as connection:
            await connection.execute(sa.insert(Shop).values(name="third", owner_id=user.id))
            await auth.users.create_user("bob")
            raise LookupError
    assert await names(auth) == (["ann"], ["ann's", "second"])
    assert told == ["ann"]


async def test_a_transaction_cannot_be_joined_to_another(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    async with session_maker() as session:
        for outer in (auth.transaction(), auth.joined(session), auth.gateway.atomic()):
            async with outer:
                with pytest.raises(ImproperlyConfigured, match="in a transaction already"):
                    async with auth.transaction():
                        raise AssertionError("not reached")
                with pytest.raises(ImproperlyConfigured, match="in a transaction already"):
                    async with auth.joined(session):
                        raise AssertionError("not reached")


async def test_a_session_of_another_engine_is_refused(auth: Auth, database: AsyncEngine) -> None:
    other = create_async_engine(database.url)
    async with async_sessionmaker(other)() as session, auth.joined(session):
        with pytest.raises(ImproperlyConfigured, match="Pass the same engine to both"):
            await auth.users.create_user("ann")
    await other.dispose()


async def test_anything_else_than_an_asyncsession_is_refused(auth: Auth) -> None:
    other: Any = Session()
    with pytest.raises(ImproperlyConfigured, match=r"session is a Session\. Pass an AsyncSession"):
        async with auth.joined(other):
            raise AssertionError("not reached")


async def test_a_session_in_autocommit_mode_is_refused(auth: Auth, database: AsyncEngine) -> None:
    if auth.gateway.dialect != "postgresql":
        pytest.skip("this package begins the transaction on other databases")
    engine = database.execution_options(isolation_level="AUTOCOMMIT")
    async with async_sessionmaker(engine)() as session, auth.joined(session):
        with pytest.raises(ImproperlyConfigured, match="autocommit"):
            await auth.users.create_user("ann")


async def test_tables_may_have_their_own_engines(auth: Auth, database: AsyncEngine) -> None:
    async with async_sessionmaker(binds={Shop: database})() as session, auth.joined(session):
        await sign_up(auth, session, "ann")
        await session.commit()
    assert await names(auth) == (["ann"], ["ann's"])


# SQLAlchemy drops a SQLite connection that is being opened at the cancellation, and Python 3.13 warns of it.
@pytest.mark.filterwarnings("ignore:Exception ignored in. <sqlite3.Connection:pytest.PytestUnraisableExceptionWarning")
async def test_a_cancelled_statement_leaves_the_session_usable(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession], database: AsyncEngine
) -> None:
    async def work(number: int) -> None:
        async with session_maker() as session, auth.joined(session):
            try:
                async with asyncio.timeout(0.0004 * number):
                    for _ in range(20):
                        await auth.users.get_by_username("nobody")
            except TimeoutError:
                with contextlib.suppress(Exception):
                    await session.rollback()
            await sign_up(auth, session, f"user{number}")
            await session.commit()

    for number in range(40):
        await work(number)
    await auth.gateway.close()
    assert database.sync_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert len((await names(auth))[0]) == 40


async def test_a_lost_connection_ends_the_transaction_and_the_next_one_works(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession], database: AsyncEngine
) -> None:
    if auth.gateway.dialect == "sqlite":
        pytest.skip("has no server")
    async with session_maker() as session, auth.joined(session):
        await sign_up(auth, session, "ann")
        await kill_connections(database)
        with pytest.raises(Unavailable):
            await auth.users.create_user("bob")
        with pytest.raises((Unavailable, sa.exc.SQLAlchemyError)):  # even if the application passes over the error
            await auth.users.create_user("eve")
        await session.rollback()
        for _ in range(4):  # the pool may have another lost connection
            with contextlib.suppress(Unavailable, sa.exc.SQLAlchemyError):
                await sign_up(auth, session, "zoe")
                await session.commit()
                break
            await session.rollback()
    assert await names(auth) == (["zoe"], ["zoe's"])


async def test_a_deadlock_in_a_joined_session_is_raised_and_not_repeated(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    if auth.gateway.dialect == "sqlite":
        pytest.skip("has one writer")
    users = [await auth.users.create_user(name) for name in ("ann", "bob")]
    both_hold_a_lock = asyncio.Barrier(2)

    async def rename(first: int, second: int) -> None:
        async with session_maker() as session, auth.joined(session):
            await auth.users.update(users[first], first_name="x")
            await both_hold_a_lock.wait()
            try:
                await auth.users.update(users[second], first_name="x")
            except Unavailable:
                if auth.gateway.dialect == "mysql":  # PostgreSQL has undone a savepoint only
                    with pytest.raises(Unavailable):
                        await auth.users.create_user("never")
                await session.rollback()
                await auth.users.create_group("after the rollback")
            await session.commit()

    async with asyncio.timeout(30):
        await asyncio.gather(rename(0, 1), rename(1, 0))
    assert (await names(auth))[0] == ["ann", "bob"]
    assert [row[0] for row in await auth.database.fetch_all("SELECT name FROM auth_group")] == ["after the rollback"]


# In an application


def make_site(auth: Auth, maker: async_sessionmaker[AsyncSession], scope: Any) -> FastAPI:
    async def get_session() -> AsyncIterator[AsyncSession]:
        async with maker() as session, auth.joined(session):
            yield session

    Joined = Annotated[AsyncSession, Depends(get_session, scope=scope)]  # noqa: N806
    app = FastAPI(middleware=middleware(auth))

    @app.post("/signup/{name}")
    async def signup(name: str, request: Request, session: Joined, fail: bool = False) -> dict[str, Any]:
        user = await auth.users.create_user(name, password=PASSWORD)
        session.add(Shop(name=f"{name}'s", owner_id=user.id))
        if fail:
            raise LookupError
        await session.commit()
        await login(request, user)
        await session.commit()
        return {"id": user.id}

    @app.get("/me")
    async def me(request: Request, session: Joined) -> dict[str, Any]:
        shop = await session.scalar(sa.select(Shop.name))
        return {"name": request.user.username, "shop": shop}

    @app.post("/count")
    async def count(request: Request, session: Joined) -> None:
        request.session["n"] = request.session.get("n", 0) + 1
        await auth.users.update(request.user, first_name="x")
        await session.commit()

    @app.post("/late")
    async def late(request: Request, session: Joined) -> None:
        request.session["n"] = 1
        session.add(Shop(name="late", owner_id=1))
        await session.flush()

    return app


@pytest.mark.parametrize("scope", ["function", "request"])
async def test_a_fastapi_dependency_joins_each_request(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession], scope: str
) -> None:
    app = make_site(auth, session_maker, scope)
    async with client_of(app, headers=OWN) as client:
        response = await client.post("/signup/ann")
        assert response.status_code == 200
        assert (await client.get("/me")).json() == {"name": "ann", "shop": "ann's"}
        with pytest.raises(LookupError):
            await client.post("/signup/bob?fail=true")
        assert await names(auth) == (["ann"], ["ann's"])
        assert (await client.post("/count")).status_code == 200


@pytest.mark.parametrize("scope", ["function", "request"])
async def test_on_sqlite_a_request_does_not_wait_for_its_own_session(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession], scope: str
) -> None:
    app = make_site(auth, session_maker, scope)
    async with client_of(app, headers=OWN) as client:
        if auth.gateway.dialect == "sqlite" and scope == "request":
            with pytest.raises(ImproperlyConfigured, match=r'scope="function"'):
                await client.post("/late")
        else:
            assert (await client.post("/late")).status_code == 200


async def test_sixty_joined_requests_beside_thirty_writes_all_succeed(
    auth: Auth, session_maker: async_sessionmaker[AsyncSession]
) -> None:
    app = make_site(auth, session_maker, "function")

    async def request(number: int) -> int:
        async with client_of(app, headers=OWN, timeout=30) as client:
            return (await client.post(f"/signup/user{number}")).status_code

    async def write(number: int) -> None:
        await auth.users.create_group(f"group{number}")

    results = await asyncio.gather(*(request(n) for n in range(60)), *(write(n) for n in range(30)))
    assert results[:60] == [200] * 60
    assert len((await names(auth))[1]) == 60


async def test_a_database_has_neither_joined_nor_transaction(database: AsyncEngine) -> None:
    async with Database(url_of(database)) as other, installed(other) as plain_auth:
        for call in (lambda: plain_auth.joined(AsyncSession(database)), plain_auth.transaction):
            with pytest.raises(ImproperlyConfigured, match="create_async_engine"):
                call()
    auth = Auth(database, secret_key=SECRET_KEY)
    with pytest.raises(ImproperlyConfigured, match="AsyncSession"):
        _ = auth.database
