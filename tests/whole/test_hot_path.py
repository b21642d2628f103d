"""Counts the statements, connections, thread switches and function calls of an authenticated request."""

import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import aiosqlite
import pytest
import sqlalchemy as sa
from databases.interfaces import ConnectionBackend
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope

from starlette_auth import APITokens, Auth, permission_required
from starlette_auth.database.gateway import Gateway
from starlette_auth.testing import log_in

from ..conftest import BACKENDS, DJANGO, client_of, count_statements, name_of, with_store
from ..support.apps import make_app

#: The limits on calls of Python functions per request, including the test's server and Starlette.
MAX_CALLS = {"sqlite": 240, "postgresql": 440}


@permission_required("polls.add_vote")
async def vote(request: Request) -> Response:
    return PlainTextResponse("counted")


@pytest.fixture(params=[*BACKENDS, *DJANGO], ids=name_of)
async def auth(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Auth]:
    async with with_store(request.param, tmp_path, features=[APITokens("shop")]) as auth:
        yield auth


async def request_vote(app: ASGIApp, cookies: str = "", *, token: str = "") -> int:
    """Requests /vote without an HTTP client, and returns the status of the response."""
    status = 0

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"host", b"testserver"), *([(b"cookie", cookies.encode())] if cookies else [])]
    headers += [(b"authorization", f"Bearer {token}".encode())] if token else []
    scope: Scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/vote", "query_string": b""}
    await app({**scope, "headers": headers, "client": ("192.0.2.1", 5000)}, receive, send)
    return status


async def create_voter(auth: Auth) -> tuple[ASGIApp, str]:
    """Returns an application, and the cookies of a user who has the permission through a group."""
    ann, voters = await auth.users.create_user("ann"), await auth.users.create_group("voters")
    await auth.users.create_permission("polls.add_vote")
    await auth.users.grant(voters, "polls.add_vote")
    await auth.users.add_to_group(ann, voters)
    app = make_app(auth, Route("/vote", vote))
    async with client_of(app) as client:
        await log_in(client, ann, auth)
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    for _ in range(3):  # compiles all statements and opens all connections
        assert await request_vote(app, cookies) == 200
    return app, cookies


async def test_an_authenticated_request_runs_one_query_on_one_connection(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    app, cookies = await create_voter(auth)
    statements, acquired = count_statements(auth, monkeypatch), []
    backend = type(auth.database._backend.connection())
    acquire = backend.acquire

    async def counting_acquire(self: ConnectionBackend) -> None:
        acquired.append(self)
        await acquire(self)

    monkeypatch.setattr(backend, "acquire", counting_acquire)
    monkeypatch.setattr(sa.ClauseElement, "compile", None)  # compiling would fail from here on
    assert await request_vote(app, cookies) == 200
    # The session table of Django has no user column, so a second query loads the user.
    assert len(statements) == (2 if auth.tables.django_tables else 1)
    assert all(statement.startswith("SELECT") for statement in statements)
    assert len(acquired) == (0 if auth.gateway.dialect == "sqlite" else 1)
    statements.clear()
    assert await request_vote(app, "") == 401
    assert statements == []


async def create_token(auth: Auth, app: ASGIApp) -> str:
    """Returns a token of the voter, which has been used in this minute."""
    ann, [tokens] = await auth.users.get_by_username("ann"), auth.features
    assert ann is not None
    assert isinstance(tokens, APITokens)
    token = str((await tokens.create(ann, "script", scopes=["polls.add_vote"])).token)
    for _ in range(3):
        assert await request_vote(app, token=token) == 200
    return token


async def test_a_request_with_a_token_runs_one_query(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    app, cookies = await create_voter(auth)
    token = await create_token(auth, app)
    statements = count_statements(auth, monkeypatch)
    monkeypatch.setattr(sa.ClauseElement, "compile", None)  # compiling would fail from here on
    for sent in ("", cookies):
        assert await request_vote(app, sent, token=token) == 200
        assert len(statements) == 1
        assert statements.pop().startswith("SELECT")
    # The checksum of these is wrong.
    for malformed in (token[:-1], token + "0", token[:-1] + ("0" if token[-1] != "0" else "1"), "x" * 5000):
        assert await request_vote(app, cookies, token=malformed) == 401
    assert statements == []


async def test_a_token_takes_at_most_1_05_times_the_cpu_of_a_cookie(auth: Auth) -> None:
    app, cookies = await create_voter(auth)
    token = await create_token(auth, app)

    async def cpu(**credentials: str) -> float:
        begin = time.process_time()
        for _ in range(100):
            await request_vote(app, **credentials)
        return time.process_time() - begin

    ratios: list[float] = []
    for _ in range(3):  # another process can disturb a round
        rounds = [(await cpu(token=token)) / (await cpu(cookies=cookies)) for _ in range(9)]
        ratios.append(statistics.median(rounds))
        if ratios[-1] <= 1.05:
            return
    raise AssertionError(f"A request with a token takes {min(ratios):.2f} times the CPU of one with a cookie.")


async def test_on_sqlite_an_authenticated_request_makes_one_call_in_another_thread(
    auth: Auth, monkeypatch: pytest.MonkeyPatch
) -> None:
    if auth.gateway.dialect != "sqlite":
        pytest.skip("the other drivers use no threads")
    app, cookies = await create_voter(auth)
    thread_calls: list[Any] = []
    execute: Any = aiosqlite.Connection._execute

    async def counting_execute(self: aiosqlite.Connection, *args: Any, **options: Any) -> Any:
        thread_calls.append(args)
        return await execute(self, *args, **options)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counting_execute)
    assert await request_vote(app, cookies) == 200
    assert len(thread_calls) == (2 if auth.tables.django_tables else 1)


async def test_an_authenticated_request_makes_few_function_calls(auth: Auth) -> None:
    max_calls = MAX_CALLS.get(auth.gateway.dialect)
    if max_calls is None or auth.tables.django_tables:
        pytest.skip("no limit is set for this database")
    app, cookies = await create_voter(auth)
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    previous_profiler = sys.getprofile()
    sys.setprofile(count)
    for _ in range(10):
        await request_vote(app, cookies)
    sys.setprofile(previous_profiler)
    assert calls / 10 <= max_calls


async def test_single_connection_sees_rows_written_inside_it_and_inside_atomic(auth: Auth) -> None:
    gateway: Gateway = auth.gateway
    query = sa.select(auth.tables.user.c.id)
    async with gateway.single_connection():
        assert await gateway.fetch_all(query) == []
        await auth.users.create_user("ann")
        assert len(await gateway.fetch_all(query)) == 1
    async with gateway.atomic(), gateway.single_connection():
        await auth.users.create_user("ben")
        assert len(await gateway.fetch_all(query)) == 2
