"""The user of a request in the class of `Auth(user_class=…)`."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_auth import Auth, ImproperlyConfigured, Tables, User, UserLoggedIn, user_columns

from ..conftest import PASSWORD, any_database, client_of, installed, post_login
from ..support.apps import make_app

pytestmark = any_database


@dataclass(kw_only=True, eq=False)
class Member(User):
    phone: str = ""


@pytest.fixture
async def members(database: Database) -> AsyncIterator[Auth[Member]]:
    table = sa.Table("member", sa.MetaData(), *user_columns(), sa.Column("phone", sa.String(30), default=""))
    async with installed(database, tables=Tables(user=table), user_class=Member) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD, phone="12")
        yield auth


def app_of(auth: Auth[Member], asked: Auth[Any]) -> Any:
    async def phone(request: Request) -> Response:
        return JSONResponse({"phone": asked.user(request).phone})

    async def maybe(request: Request) -> Response:
        user = asked.maybe_user(request)
        return JSONResponse({"phone": None if user is None else user.phone})

    async def socket(websocket: WebSocket) -> None:
        asked.user(websocket)
        await websocket.accept()
        await websocket.close()

    return make_app(auth, Route("/phone", phone), Route("/maybe", maybe), WebSocketRoute("/socket", socket))


async def test_the_user_of_a_request_has_the_class_of_the_auth(members: Auth[Member]) -> None:
    async with client_of(app_of(members, members)) as client:
        refused = await client.get("/phone")
        assert refused.status_code == 401
        assert "Log in first" in refused.text
        assert (await client.get("/maybe")).json() == {"phone": None}
        await post_login(client)
        assert (await client.get("/phone")).json() == (await client.get("/maybe")).json() == {"phone": "12"}


async def test_the_request_of_another_auth_is_refused(members: Auth[Member], database: Database) -> None:
    other = Auth(database, secret_key="k" * 40, tables=Tables(prefix="crm_"))
    async with client_of(app_of(members, other)) as client:
        for path in ("/phone", "/maybe"):
            with pytest.raises(ImproperlyConfigured, match=r"of this Auth\. Pass middleware=middleware\(auth\)"):
                await client.get(path)


def test_an_anonymous_websocket_is_closed(tmp_path: Any) -> None:
    auth: Auth[Any] = Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3"), secret_key="k" * 40)
    with (
        TestClient(app_of(auth, auth)) as client,
        pytest.raises(WebSocketDisconnect) as error,
        client.websocket_connect("/socket"),
    ):
        pass
    assert error.value.code == 1008


async def test_a_listener_may_name_the_class_of_the_user(members: Auth[Member]) -> None:
    phones: list[str] = []

    @members.events.on(UserLoggedIn[Member])
    def note(event: UserLoggedIn[Member]) -> None:
        phones.append(event.user.phone)

    async with client_of(make_app(members)) as client:
        await post_login(client)
    assert phones == ["12"]
    with pytest.raises(ImproperlyConfigured, match="needs an event class"):
        members.events.on(list[Member])  # type: ignore[type-var]
