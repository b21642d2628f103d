"""What an authenticated request costs, in what can be counted. What it takes in time is for a benchmark."""

import sys
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

from starlette_auth import Auth, permission_required
from starlette_auth.database.gateway import Gateway
from starlette_auth.testing import log_in

from ..conftest import BACKENDS, DJANGO, client_of, count_statements, name_of, with_store
from ..support.apps import make_app

MOST_CALLS = {"sqlite": 240, "postgresql": 440}  # of Python functions, the server's and Starlette's included


@permission_required("polls.add_vote")
async def vote(request: Request) -> Response:
    return PlainTextResponse("counted")


@pytest.fixture(params=[*BACKENDS, *DJANGO], ids=name_of)
async def auth(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Auth]:
    async with with_store(request.param, tmp_path) as auth:
        yield auth


async def ask(app: ASGIApp, cookies: str) -> int:
    """The status of the answer to somebody who wants to vote, without a client of HTTP around it."""
    status = 0

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(message: Message) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"host", b"testserver"), *([(b"cookie", cookies.encode())] if cookies else [])]
    scope: Scope = {"type": "http", "method": "GET", "scheme": "http", "path": "/vote", "query_string": b""}
    await app({**scope, "headers": headers, "client": ("192.0.2.1", 5000)}, receive, send)
    return status


async def voter_of(auth: Auth) -> tuple[ASGIApp, str]:
    """An application, and the cookies of somebody whose permission comes through a group."""
    ann, voters = await auth.users.create_user("ann"), await auth.users.create_group("voters")
    await auth.users.create_permission("polls.add_vote")
    await auth.users.grant(voters, "polls.add_vote")
    await auth.users.add_to_group(ann, voters)
    app = make_app(auth, Route("/vote", vote))
    async with client_of(app) as client:
        await log_in(client, ann, auth)
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items())
    for _ in range(3):  # by then every statement is rendered, and every connection open
        assert await ask(app, cookies) == 200
    return app, cookies


async def test_it_costs_one_question_on_one_connection(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    app, cookies = await voter_of(auth)
    said, acquired = count_statements(auth, monkeypatch), []
    backend = type(auth.database._backend.connection())
    acquire = backend.acquire

    async def counting(self: ConnectionBackend) -> None:
        acquired.append(self)
        await acquire(self)

    monkeypatch.setattr(backend, "acquire", counting)
    monkeypatch.setattr(sa.ClauseElement, "compile", None)  # nothing is compiled any more
    assert await ask(app, cookies) == 200
    # Django's table of sessions does not know whose they are: a second question has to follow the first.
    assert len(said) == (2 if auth.tables.django_tables else 1)
    assert all(statement.startswith("SELECT") for statement in said)
    assert len(acquired) == (0 if auth.gateway.dialect == "sqlite" else 1)
    said.clear()
    assert await ask(app, "") == 303
    assert said == []


async def test_on_sqlite_it_costs_one_way_to_another_thread(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    if auth.gateway.dialect != "sqlite":
        pytest.skip("the other drivers have no threads")
    app, cookies = await voter_of(auth)
    hops: list[Any] = []
    execute: Any = aiosqlite.Connection._execute

    async def counting(self: aiosqlite.Connection, *args: Any, **options: Any) -> Any:
        hops.append(args)
        return await execute(self, *args, **options)

    monkeypatch.setattr(aiosqlite.Connection, "_execute", counting)
    assert await ask(app, cookies) == 200
    assert len(hops) == (2 if auth.tables.django_tables else 1)


async def test_it_costs_few_calls_of_functions(auth: Auth) -> None:
    most = MOST_CALLS.get(auth.gateway.dialect)
    if most is None or auth.tables.django_tables:
        pytest.skip("there is no bar for this one")
    app, cookies = await voter_of(auth)
    calls = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    for _ in range(10):
        await ask(app, cookies)
    sys.setprofile(before)
    assert calls / 10 <= most


async def test_several_questions_share_a_connection_also_inside_a_transaction(auth: Auth) -> None:
    gateway: Gateway = auth.gateway
    question = sa.select(auth.tables.user.c.id)
    async with gateway.single_connection():
        assert await gateway.fetch_all(question) == []
        await auth.users.create_user("ann")
        assert len(await gateway.fetch_all(question)) == 1
    async with gateway.atomic(), gateway.single_connection():
        await auth.users.create_user("ben")
        assert len(await gateway.fetch_all(question)) == 2
