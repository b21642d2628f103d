"""Guards on objects: `permission_required(…, obj=load)` and FastAPI's `requires(…, obj=load)`."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
import sqlalchemy as sa
from databases import Database
from fastapi import APIRouter, Depends, FastAPI, UploadFile
from fastapi import Request as FastAPIRequest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    User,
    get_auth,
    lifespan,
    middleware,
    permission_required,
    routes,
)
from starlette_auth.fastapi import requires
from starlette_auth.middlewares.open_connection import OpenConnection
from starlette_auth.testing import log_in

from .conftest import any_database, client_of, installed
from .sessions.test_sessions import Socket

pytestmark = any_database

VIEW, CHANGE = "shop.view_order", "shop.change_order"
JSON = {"accept": "application/json"}
orders = sa.Table(
    "guarded_order",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("owner_id", sa.Integer),
    sa.Column("is_open", sa.Boolean),
)
calls: list[str] = []


async def load_order(request: HTTPConnection) -> Any:
    calls.append(request.path_params["order_id"])
    key = int(request.path_params["order_id"])
    return await get_auth(request).gateway.fetch_one(sa.select(orders).where(orders.c.id == sa.literal(key)))


def load_sync(request: HTTPConnection) -> Any:
    with pytest.raises(RuntimeError):
        asyncio.get_running_loop()  # it may wait for a database
    calls.append(request.path_params["order_id"])
    key = int(request.path_params["order_id"])
    return {"id": key} if key < 3 else None


async def load_or_404(request: HTTPConnection) -> Any:
    order = await load_order(request)
    if order is None:
        raise HTTPException(404, "This order has been sold.")
    return order


LOADERS: dict[str, Any] = {"async": load_order, "sync": load_sync, "raises": load_or_404}


@pytest.fixture
async def shop(database: Database) -> AsyncIterator[Auth]:
    async with installed(database) as auth:
        await auth.database.execute(
            "CREATE TABLE guarded_order (id INTEGER PRIMARY KEY, owner_id INTEGER, is_open BOOLEAN)"
        )
        auth.rule(VIEW, orders)(lambda user: orders.c.owner_id == user.id)
        auth.rule(CHANGE, orders)(
            lambda user: sa.and_(orders.c.owner_id == user.id, orders.c.is_open == sa.true()),
        )
        for name in ("ann", "ben"):
            await auth.users.create_user(name)
        for key, owner in ((1, 1), (2, 2)):
            await auth.gateway.execute(orders.insert().values(id=key, owner_id=owner, is_open=False))
        calls.clear()
        yield auth


async def ann(auth: Auth) -> User:
    user = await auth.users.get_by_username("ann")
    assert user is not None
    return user


def endpoints(load: Any) -> dict[str, Any]:
    @permission_required(VIEW, obj=load)
    async def decorated(request: Request) -> Response:
        return PlainTextResponse("in")

    @permission_required([VIEW], obj=load)
    def sync(request: Request) -> Response:
        return PlainTextResponse("in")

    @requires(VIEW, obj=load)
    async def by_requires(request: Request) -> Response:
        return PlainTextResponse("in")

    @permission_required(VIEW, obj=load)
    class Endpoint(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("in")

    class Method(HTTPEndpoint):
        @permission_required(VIEW, obj=load)
        def get(self, request: Request) -> Response:
            return PlainTextResponse("in")

    return {"decorated": decorated, "sync": sync, "requires": by_requires, "class": Endpoint, "method": Method}


def starlette_app(auth: Auth, load: Any) -> Starlette:
    pages = [Route(f"/{name}/{{order_id}}", endpoint) for name, endpoint in endpoints(load).items()]
    return Starlette(routes=[*pages, Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))


def fastapi_app(auth: Auth, load: Any) -> FastAPI:
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth))
    guard, router = requires(VIEW, obj=load), APIRouter()

    @app.get("/dependency/{order_id}", dependencies=[Depends(guard)])
    async def dependency(order_id: int) -> int:
        return order_id

    @app.get("/sync-dependency/{order_id}", dependencies=[Depends(guard)])
    def sync_dependency(order_id: int) -> int:
        return order_id

    @router.get("/router/{order_id}")
    async def by_router(order_id: int, user: Annotated[User, Depends(guard)]) -> str:
        return user.username

    @app.get("/decorated/{order_id}")
    @permission_required(VIEW, obj=load)
    async def decorated(order_id: int, request: FastAPIRequest) -> int:
        return order_id

    @app.get("/converted/{order_id:int}", dependencies=[Depends(guard)])
    async def converted(order_id: int) -> int:
        return order_id

    @app.post("/upload/{order_id}", dependencies=[Depends(guard)])
    async def upload(order_id: int, file: UploadFile) -> int:
        return len(await file.read())

    @app.post("/sync-upload/{order_id}")
    @permission_required(VIEW, obj=load)
    def sync_upload(order_id: int, file: UploadFile, request: FastAPIRequest) -> int:
        return len(file.file.read())

    app.include_router(router)
    app.mount("/accounts", Router(routes=routes(auth)))
    return app


APPS: list[tuple[Any, str]] = [
    *((starlette_app, name) for name in endpoints(load_order)),
    *((fastapi_app, name) for name in ("dependency", "sync-dependency", "router", "decorated", "converted")),
]


@pytest.mark.parametrize("load", LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize(("make", "name"), APPS, ids=[f"{make.__name__}-{name}" for make, name in APPS])
async def test_only_users_with_the_permission_on_the_object_are_let_in(
    shop: Auth, make: Any, name: str, load: Any
) -> None:
    async with client_of(make(shop, load)) as client:
        for headers, status in (({}, 303), (JSON, 401)):
            for key in (1, 99):
                assert (await client.get(f"/{name}/{key}", headers=headers)).status_code == status
        assert calls == [], "a visitor does not learn which objects exist"
        await log_in(client, await ann(shop), shop)
        assert [(await client.get(f"/{name}/{key}")).status_code for key in (1, 2, 99)] == [200, 403, 404]
        assert list(map(str, calls)) == ["1", "2", "99"], "each request loads its object once"
        if load is load_or_404:
            assert "This order has been sold." in (await client.get(f"/{name}/99")).text


async def test_a_superuser_is_let_in_and_gets_404_for_no_object(shop: Auth) -> None:
    root = await shop.users.create_superuser("root")
    async with client_of(starlette_app(shop, load_order)) as client:
        await log_in(client, root, shop)
        assert [(await client.get(f"/decorated/{key}")).status_code for key in (1, 2, 99)] == [200, 200, 404]


@pytest.mark.parametrize("page", ["upload", "sync-upload"])
async def test_a_body_is_read_only_for_users_with_the_permission(shop: Auth, page: str) -> None:
    app = fastapi_app(shop, load_order)
    async with client_of(app) as client:
        await log_in(client, await ann(shop), shop)
        cookies = "; ".join(f"{cookie.name}={cookie.value}" for cookie in client.cookies.jar)

        async def post(key: int, *, known: bool = True) -> tuple[int, int]:
            reads, statuses = 0, list[int]()

            async def receive() -> Message:
                nonlocal reads
                reads += 1
                return {"type": "http.request", "body": b"x" * 1000, "more_body": reads < 50}

            async def send(message: Message) -> None:
                statuses.append(message.get("status", 0))

            headers = [
                (b"host", b"testserver"),
                (b"sec-fetch-site", b"same-origin"),
                (b"accept", b"application/json"),
                (b"content-type", b"multipart/form-data; boundary=x"),
                *([(b"cookie", cookies.encode())] if known else []),
            ]
            path = {
                "path": f"/{page}/{key}",
                "raw_path": f"/{page}/{key}".encode(),
                "query_string": b"",
                "root_path": "",
            }
            scope = {"type": "http", "method": "POST", "scheme": "http", "http_version": "1.1", **path}
            await app({**scope, "headers": headers, "client": ("192.0.2.1", 5000)}, receive, send)
            return statuses[0], reads

        assert await post(2, known=False) == (401, 0)
        assert calls == []
        assert await post(2) == (403, 0)
        assert await post(99) == (404, 0)
        status, reads = await post(1)
        assert status in (400, 422), "the body is no form"
        assert reads > 0
        assert calls == ["2", "99", "1"], "the object is loaded once, though the guard is asked twice"
        response = await client.post(f"/{page}/1", files={"file": b"12345"})
        assert (response.status_code, response.json()) == (200, 5)


async def test_all_permissions_or_one_of_several_are_asked_about_the_object(shop: Auth) -> None:
    @permission_required([VIEW, CHANGE], obj=load_order)
    async def both(request: Request) -> Response:
        return PlainTextResponse("in")

    @requires(any_of=[CHANGE, VIEW], obj=load_order)
    async def one(request: Request) -> Response:
        return PlainTextResponse("in")

    @requires(VIEW, any_of=["shop.none", CHANGE], obj=load_order)
    async def mixed(request: Request) -> Response:
        return PlainTextResponse("in")

    pages = [Route(f"/{guarded.__name__}/{{order_id}}", guarded) for guarded in (both, one, mixed)]
    async with client_of(Starlette(routes=pages, middleware=middleware(shop))) as client:
        await log_in(client, await ann(shop), shop)

        async def statuses() -> list[int]:
            return [(await client.get(f"/{name}/1")).status_code for name in ("both", "one", "mixed")]

        assert await statuses() == [403, 200, 403]
        await shop.gateway.execute(orders.update().values(is_open=True))
        assert await statuses() == [200, 200, 200]
        assert (await client.get("/one/2")).status_code == 403


async def test_a_refusal_names_the_permission_for_programs_with_a_token(shop: Auth) -> None:
    async with client_of(starlette_app(shop, load_order), headers=JSON) as client:
        await log_in(client, await ann(shop), shop)
        assert (await client.get("/decorated/2")).json()["code"] == "permission_denied"
        refused = await client.get("/decorated/2", headers={"authorization": "Bearer abc"})
        assert f'error="insufficient_scope", scope="{VIEW}"' in refused.headers["www-authenticate"]


async def test_the_schema_shows_the_guard_on_an_object(shop: Auth) -> None:
    app = fastapi_app(shop, load_order)
    async with lifespan(shop)(app):
        operation = app.openapi()["paths"]["/dependency/{order_id}"]["get"]
    assert set(operation["responses"]) >= {"200", "401", "403", "404"}
    assert operation["security"] == [{"session": [VIEW]}]
    assert [parameter["name"] for parameter in operation["parameters"]] == ["order_id"]


async def test_a_guard_on_an_object_works_behind_a_middleware_that_requires_a_login(shop: Auth) -> None:
    app = starlette_app(shop, load_order)
    app.add_middleware(LoginRequiredMiddleware)
    app.user_middleware = [*app.user_middleware[1:], app.user_middleware[0]]
    async with client_of(app) as client:
        assert (await client.get("/decorated/1")).status_code == 303
        await log_in(client, await ann(shop), shop)
        assert (await client.get("/decorated/1")).status_code == 200


@pytest.mark.parametrize("obj", [5, "order", User, object()])
def test_an_argument_obj_that_is_no_function_is_refused(obj: Any) -> None:
    for guard in (permission_required, requires):
        with pytest.raises(ImproperlyConfigured, match=r"Pass a function that takes the request.*obj=load_order"):
            guard(VIEW, obj=obj)


# WebSockets


@permission_required(VIEW, obj=load_order)
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.receive()


@permission_required(VIEW, obj=load_or_404)
class SocketEndpoint(WebSocketEndpoint):
    pass


sockets = FastAPI()


@sockets.websocket("/{order_id}", dependencies=[Depends(requires(VIEW, obj=load_order))])
async def by_dependency(websocket: WebSocket, order_id: int) -> None:
    await websocket.accept()
    await websocket.receive()


def socket_app(auth: Auth) -> Starlette:
    pages = [
        WebSocketRoute("/function/{order_id}", socket),
        WebSocketRoute("/class/{order_id}", SocketEndpoint),
        Mount("/fastapi", sockets),
    ]
    return Starlette(routes=pages, middleware=middleware(auth))


SOCKETS = ["function", "class", "fastapi"]


@pytest.mark.parametrize("name", SOCKETS)
async def test_a_websocket_is_refused_without_the_permission_on_its_object(shop: Auth, name: str) -> None:
    app = socket_app(shop)
    async with client_of(app) as client:
        async with Socket(app, f"/{name}/1", client) as visitor:
            assert (visitor.answer["type"], visitor.answer["code"]) == ("websocket.close", 1008)
        assert calls == []
        await log_in(client, await ann(shop), shop)
        async with Socket(app, f"/{name}/1", client) as own:
            assert own.answer["type"] == "websocket.accept"
        for key in (2, 99):
            async with Socket(app, f"/{name}/{key}", client) as refused:
                assert (refused.answer["type"], refused.answer["code"]) == ("websocket.close", 1008)


@pytest.mark.parametrize("name", SOCKETS)
async def test_a_websocket_gets_the_status_where_the_server_can_send_it(shop: Auth, name: str) -> None:
    user = await ann(shop)

    def ask() -> None:
        with TestClient(socket_app(shop)) as client:
            log_in(client, user, shop)
            for key, status in ((2, 403), (99, 404)):
                with (
                    pytest.raises((WebSocketDenialResponse, WebSocketDisconnect)) as caught,
                    client.websocket_connect(f"/{name}/{key}", headers={"origin": "http://testserver"}),
                ):
                    pass
                assert getattr(caught.value, "status_code", None) == status

    await asyncio.to_thread(ask)


@pytest.mark.parametrize("name", SOCKETS)
@pytest.mark.parametrize("change", ["given to another user", "deleted"])
async def test_an_open_websocket_is_closed_when_its_object_is_lost(
    shop: Auth, monkeypatch: pytest.MonkeyPatch, name: str, change: str
) -> None:
    monkeypatch.setattr(OpenConnection, "check_interval", 0.02)
    async with client_of(app := socket_app(shop)) as client:
        await log_in(client, await ann(shop), shop)
        async with Socket(app, f"/{name}/1", client) as own:
            assert own.answer["type"] == "websocket.accept"
            await asyncio.sleep(0.1)
            assert own.received.empty()
            assert len(calls) > 1, "it is loaded anew"
            query = orders.delete() if change == "deleted" else orders.update().values(owner_id=2)
            await shop.gateway.execute(query)
            async with asyncio.timeout(5):
                message = await own.received.get()
            assert (message["type"], message["code"]) == ("websocket.close", 1008)
