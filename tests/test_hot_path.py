"""What an authenticated request costs, in what can be counted. What it takes in time is for a benchmark."""

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import sqlalchemy as sa
from databases.interfaces import ConnectionBackend
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope

from starlette_auth import Auth, permission_required
from starlette_auth.gateway import Gateway
from starlette_auth.testing import log_in

from .apps import make_app
from .conftest import BACKENDS, DJANGO, client_of, count_statements, name_of, with_store

MOST_CALLS = {"sqlite": 240, "postgresql": 440}  # of Python functions, the server's and Starlette's included


@permission_required("polls.add_vote")
async def vote(request: Request) -> Response:
    return PlainTextResponse("counted")


@pytest.fixture(params=[*BACKENDS, *DJANGO], ids=name_of)
async def auth(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Auth]:
    async with with_store(request.param, tmp_path) as auth:
        yield auth


class Asking:
    """A voter, whose permission comes through a group, and who asks without a client of HTTP around it."""

    def __init__(self, app: ASGIApp, cookies: str) -> None:
        self.app = app
        self.headers = [(b"host", b"testserver"), *([(b"cookie", cookies.encode())] if cookies else [])]
        self.status = 0

    async def __call__(self) -> int:
        scope: Scope = {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": "/vote",
            "query_string": b"",
            "headers": list(self.headers),
            "client": ("192.0.2.1", 5000),
            "server": ("testserver", 80),
        }
        await self.app(scope, self.receive, self.send)
        return self.status

    async def receive(self) -> Message:
        return {"type": "http.request"}

    async def send(self, message: Message) -> None:
        self.status = message.get("status", self.status)


async def voter_of(auth: Auth) -> Asking:
    ann, voters = await auth.users.create_user("ann"), await auth.users.create_group("voters")
    await auth.users.create_permission("polls.add_vote")
    await auth.users.grant(voters, "polls.add_vote")
    await auth.users.add_to_group(ann, voters)
    app = make_app(auth, Route("/vote", vote))
    async with client_of(app) as client:
        await log_in(client, ann, auth)
        ask = Asking(app, "; ".join(f"{name}={value}" for name, value in client.cookies.items()))
    for _ in range(3):  # by then every statement is rendered, and every connection open
        assert await ask() == 200
    return ask


async def test_it_costs_one_question_on_one_connection(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = await voter_of(auth)
    said, acquired = count_statements(auth, monkeypatch), []
    backend = type(auth.database._backend.connection())
    acquire = backend.acquire

    async def counting(self: ConnectionBackend) -> None:
        acquired.append(self)
        await acquire(self)

    monkeypatch.setattr(backend, "acquire", counting)
    monkeypatch.setattr(sa.ClauseElement, "compile", None)  # nothing is compiled any more
    assert await ask() == 200
    # Django's table of sessions does not know whose they are: a second question has to follow the first.
    assert len(said) == (2 if auth.tables.of_django else 1)
    assert all(statement.startswith("SELECT") for statement in said)
    assert len(acquired) == (0 if auth.gateway.dialect == "sqlite" else 1)
    said.clear()
    stranger = Asking(ask.app, "")
    assert await stranger() == 303
    assert said == []


async def test_it_costs_few_calls_of_functions(auth: Auth) -> None:
    most = MOST_CALLS.get(auth.gateway.dialect)
    if most is None or auth.tables.of_django:
        pytest.skip("there is no bar for this one")
    ask, calls = await voter_of(auth), 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event == "call"

    before = sys.getprofile()
    sys.setprofile(count)
    for _ in range(10):
        await ask()
    sys.setprofile(before)
    assert calls / 10 <= most


async def test_several_questions_share_a_connection_also_inside_a_transaction(auth: Auth) -> None:
    gateway: Gateway = auth.gateway
    question = sa.select(auth.tables.user.c.id)
    async with gateway.together():
        assert await gateway.fetch_all(question) == []
        await auth.users.create_user("ann")
        assert len(await gateway.fetch_all(question)) == 1
    async with gateway.atomic(), gateway.together():
        await auth.users.create_user("ben")
        assert len(await gateway.fetch_all(question)) == 2
