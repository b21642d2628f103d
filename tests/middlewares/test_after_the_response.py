"""Tests that failures after the response are only logged."""

import asyncio
from typing import Any

import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from starlette_auth import MemoryStore, Unavailable
from starlette_auth.sessions.base import SessionBase
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import any_database, client_of, installed, with_tables
from ..sessions.test_sessions import Socket
from ..support.apps import make_app


class BrokenStore(MemoryStore):
    """Fails after the response, in the way that `failure` says."""

    failure: BaseException | None = None

    async def touch(self, session: SessionBase, max_age: int) -> None:
        if self.failure is not None:
            raise self.failure
        await super().touch(session, max_age)

    async def save(self, session: SessionBase, max_age: int) -> str:
        if self.failure is not None:
            raise self.failure
        return await super().save(session, max_age)

    async def delete(self, session_key: str) -> None:
        if self.failure is not None:
            raise self.failure
        await super().delete(session_key)


FAILURES = [Unavailable("the cache is away"), KeyError("a mistake"), asyncio.CancelledError("a mistake")]


@pytest.fixture(params=FAILURES, ids=lambda error: type(error).__name__)
def failure(request: pytest.FixtureRequest) -> BaseException:
    error: BaseException = request.param
    return error.with_traceback(None)


@any_database
@with_tables
async def test_a_last_use_that_cannot_be_recorded_is_logged(
    database: Database, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    store, clock = BrokenStore(), FrozenClock()
    store._clock = clock
    async with installed(database, sessions=store, clock=clock) as auth, client_of(make_app(auth)) as client:
        await log_in(client, await auth.users.create_user("ann"), auth)
        clock.tick(100)
        store.failure = failure
        for _ in range(2):
            assert (await client.get("/whoami")).json()["username"] == "ann"
        assert caplog.text.count(f"The last use of a session could not be recorded. {type(failure).__name__}") == 2
        assert str(dict(client.cookies)["session"]) not in caplog.text
        store.failure = None
        assert (await client.get("/whoami")).json()["username"] == "ann"


@any_database
@with_tables
async def test_a_logout_in_the_body_of_a_response_that_cannot_be_carried_out_is_logged(
    database: Database, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    store = BrokenStore()

    async def say_goodbye(request: Request) -> Response:
        async def body() -> Any:
            yield b"good"
            request.session.flush()  # type: ignore[attr-defined]
            store.failure = failure
            yield b"bye"

        return StreamingResponse(body())

    async with (
        installed(database, sessions=store) as auth,
        client_of(make_app(auth, Route("/goodbye", say_goodbye))) as client,
    ):
        await log_in(client, await auth.users.create_user("ann"), auth)
        assert (await client.get("/goodbye")).text == "goodbye"
        assert "A session that has ended could not be deleted, and is still valid." in caplog.text
        store.failure = None
        assert (await client.get("/whoami")).json()["username"] == "ann"


@any_database
@with_tables
async def test_changes_of_a_websocket_that_cannot_be_saved_at_its_end_are_logged(
    database: Database, caplog: pytest.LogCaptureFixture, failure: BaseException
) -> None:
    store = BrokenStore()
    async with installed(database, sessions=store) as auth, client_of(app := make_app(auth)) as client:
        await log_in(client, await auth.users.create_user("ann"), auth)
        async with Socket(app, "/echo", client) as socket:
            await socket.say("b=2")
            store.failure = failure
        assert "The last changes of a WebSocket to its session could not be saved." in caplog.text
        store.failure = None
        assert (await client.get("/whoami")).json()["session"] == {}


@with_tables
async def test_a_request_that_is_cancelled_after_its_response_harms_no_connection(database: Database) -> None:
    """A server cancels what still runs when it shuts down, and a middleware when its time is over."""
    clock, answered = FrozenClock(), asyncio.Event()
    async with installed(database, clock=clock) as auth:
        app = make_app(auth)

        async def app_that_is_watched(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_and_note(message: Message) -> None:
                await send(message)
                if message["type"] == "http.response.body":
                    answered.set()

            await app(scope, receive, send_and_note)

        async with client_of(app_that_is_watched) as client:
            await log_in(client, await auth.users.create_user("ann"), auth)
            for n in range(24):
                clock.tick(100)
                answered.clear()
                request = asyncio.create_task(client.get("/whoami"))
                await answered.wait()
                for _ in range(n % 8):
                    await asyncio.sleep(0)
                request.cancel()
                await asyncio.wait([request])
                assert (await client.get(f"/remember?n={n}")).status_code == 200
            responses = await asyncio.gather(*(client.get("/whoami") for _ in range(20)))
            assert {response.json()["username"] for response in responses} == {"ann"}
