"""All ways to guard an endpoint, right and wrong: each protects it, or the application does not start."""

import contextlib
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import fastapi.routing
import pytest
from fastapi import APIRouter, Depends, FastAPI, Security
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

import starlette_auth
from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    User,
    fresh_login_required,
    lifespan,
    login_not_required,
    login_required,
    middleware,
    permission_required,
    staff_required,
    user_passes_test,
)
from starlette_auth.fastapi import current_user, fresh_login, requires
from starlette_auth.testing import log_in

from ..conftest import any_database, client_of, with_tables
from ..support.secret_endpoints import new_endpoint, new_socket
from ..support.uvicorn_server import served

pytestmark = [with_tables, any_database]

PERM = "polls.add_vote"


async def is_staff(user: Any) -> bool:
    return bool(user.is_staff)


GUARDS: dict[str, Any] = {
    "login_required": login_required,
    "login_required()": login_required(),
    "permission_required": permission_required(PERM),
    "user_passes_test": user_passes_test(lambda user: user.is_staff),
    "staff_required": staff_required,
    "user_passes_test(async)": user_passes_test(is_staff),
    "fresh_login_required": fresh_login_required,
    "fresh_login": fresh_login(max_age=60),
    "current_user": current_user,
    "requires": requires(PERM),
}
FOR_ALL_USERS = ("login_required", "login_required()", "fresh_login_required", "fresh_login", "current_user")
PROGRAM = {"accept": "*/*", "sec-fetch-site": "same-origin"}
PATH = "/secret"


def new_sync_endpoint() -> Any:
    def secret(request: Request) -> Response:
        return PlainTextResponse("secret")

    return secret


class Club(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("secret")


def add_all(app: Any, endpoint: Any) -> Any:
    """Adds an endpoint to an application or router of FastAPI, for all methods."""
    app.add_api_route(PATH, endpoint, methods=["GET", "HEAD", "POST", "PUT", "OPTIONS"])
    return app


def inner_app(endpoint: Any, **options: Any) -> FastAPI:
    return add_all(FastAPI(**options), endpoint)  # type: ignore[no-any-return]


stacked = APIRouter()


@stacked.get("/guarded")
@login_required
@stacked.get(PATH)
async def on_two_routes(request: Request) -> str:
    return "secret"


async def also_open(request: Request) -> Response:
    return PlainTextResponse("secret")


# What protects: each returns the application, or the application that is to be mounted below /in


def decorated(app: FastAPI, guard: Any) -> None:
    add_all(app, guard(new_endpoint()))


def decorated_sync(app: FastAPI, guard: Any) -> None:
    add_all(app, guard(new_sync_endpoint()))


def below_another_decorator(app: FastAPI, guard: Any) -> None:
    def traced(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    add_all(app, traced(guard(traced(new_endpoint()))))


def class_based(app: FastAPI, guard: Any) -> None:
    app.router.routes.append(Route(PATH, guard(Club)))


def subclass_of_a_guarded_class(app: FastAPI, guard: Any) -> None:
    class Bar(guard(Club)):  # type: ignore[misc]
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    app.router.routes.append(Route(PATH, Bar))


def method(app: FastAPI, guard: Any) -> None:
    class Desk(HTTPEndpoint):
        @guard  # type: ignore[untyped-decorator]
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("secret")

        @guard  # type: ignore[untyped-decorator]
        def post(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    app.router.routes.append(Route(PATH, Desk))


def bound_method(app: FastAPI, guard: Any) -> None:
    class Pages:
        @guard  # type: ignore[untyped-decorator]
        async def secret(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    add_all(app, Pages().secret)


def class_method(app: FastAPI, guard: Any) -> None:
    class Pages:
        @classmethod
        @guard  # type: ignore[untyped-decorator]
        async def secret(cls, request: Request) -> Response:
            return PlainTextResponse("secret")

    add_all(app, Pages.secret)


def callable_object(app: FastAPI, guard: Any) -> None:
    class Secret:
        async def __call__(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    add_all(app, guard(Secret()))


def guarded_call_of_an_object(app: FastAPI, guard: Any) -> None:
    class Secret:
        @guard  # type: ignore[untyped-decorator]
        async def __call__(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    add_all(app, Secret())


def factory(app: FastAPI, guard: Any) -> None:
    def make(text: str) -> Any:
        @guard  # type: ignore[untyped-decorator]
        async def endpoint(request: Request) -> Response:
            return PlainTextResponse(text)

        return endpoint

    add_all(app, make("secret"))


def partial(app: FastAPI, guard: Any) -> None:
    async def endpoint(request: Request, text: str) -> Response:
        return PlainTextResponse(text)

    add_all(app, guard(functools.partial(endpoint, text="secret")))


def partial_of_a_guarded_function(app: FastAPI, guard: Any) -> None:
    @guard  # type: ignore[untyped-decorator]
    async def endpoint(request: Request, text: str) -> Response:
        return PlainTextResponse(text)

    add_all(app, functools.partial(endpoint, text="secret"))


def streamed(app: FastAPI, guard: Any) -> None:
    @guard  # type: ignore[untyped-decorator]
    async def stream(request: Request) -> Response:
        async def parts() -> AsyncIterator[str]:
            yield "secret"

        return StreamingResponse(parts())

    add_all(app, stream)


def depends(app: FastAPI, guard: Any) -> None:
    app.add_api_route(PATH, new_endpoint(), methods=["GET", "POST"], dependencies=[Depends(guard)])


def depends_on_a_call(app: FastAPI, guard: Any) -> None:
    app.add_api_route(PATH, new_endpoint(), methods=["GET", "POST"], dependencies=[Depends(guard())])


def depends_without_cache(app: FastAPI, guard: Any) -> None:
    app.add_api_route(
        PATH, new_sync_endpoint(), methods=["GET", "POST"], dependencies=[Depends(guard, use_cache=False)]
    )


def depends_in_a_parameter(app: FastAPI, guard: Any) -> None:
    @app.api_route(PATH, methods=["GET", "POST"])
    async def secret(user: Annotated[Any, Depends(guard)]) -> Response:
        return PlainTextResponse("secret" if user.is_authenticated else "open")


def depends_as_a_default(app: FastAPI, guard: Any) -> None:
    @app.api_route(PATH, methods=["GET", "POST"])
    def secret(user: Any = Depends(guard)) -> Response:  # noqa: B008
        return PlainTextResponse("secret")


def depends_in_a_class(app: FastAPI, guard: Any) -> None:
    class Shopper:
        def __init__(self, user: Annotated[Any, Depends(guard)]) -> None:
            self.user = user

    app.add_api_route(PATH, new_endpoint(), methods=["GET", "POST"], dependencies=[Depends(Shopper)])


def depends_in_a_generator(app: FastAPI, guard: Any) -> None:
    async def connection(user: Annotated[Any, Depends(guard)]) -> AsyncIterator[Any]:
        yield user

    app.add_api_route(PATH, new_endpoint(), methods=["GET", "POST"], dependencies=[Depends(connection)])


def decorated_generator_dependency(app: FastAPI, guard: Any) -> None:
    @guard  # type: ignore[untyped-decorator]
    async def connection(request: Request) -> AsyncIterator[Any]:
        yield request

    app.add_api_route(PATH, new_endpoint(), methods=["GET", "POST"], dependencies=[Depends(connection)])


def decorated_sync_generator_dependency(app: FastAPI, guard: Any) -> None:
    @guard  # type: ignore[untyped-decorator]
    def connection(request: Request) -> Iterator[Any]:
        yield request

    app.add_api_route(PATH, new_endpoint(), methods=["GET", "POST"], dependencies=[Depends(connection)])


def decorated_object_dependency(app: FastAPI, guard: Any) -> None:
    class Shopper:
        @guard  # type: ignore[untyped-decorator]
        async def __call__(self, request: Request) -> Any:
            return request.user

    app.add_api_route(PATH, new_endpoint(), methods=["GET", "POST"], dependencies=[Depends(Shopper())])


def router(app: FastAPI, guard: Any) -> None:
    app.include_router(add_all(APIRouter(dependencies=[Depends(guard)]), new_endpoint()))


def included_router(app: FastAPI, guard: Any) -> None:
    app.include_router(add_all(APIRouter(), new_endpoint()), dependencies=[Depends(guard)])


def nested_router(app: FastAPI, guard: Any) -> None:
    outer, middle = APIRouter(dependencies=[Depends(guard)]), APIRouter()
    middle.include_router(add_all(APIRouter(), new_endpoint()))
    outer.include_router(middle)
    app.include_router(outer)


def application(app: FastAPI, guard: Any) -> None:
    app.mount("/in", inner_app(new_endpoint(), dependencies=[Depends(guard)]))


def starlette_in_fastapi(app: FastAPI, guard: Any) -> None:
    app.mount("/in", Starlette(routes=[Route(PATH, guard(new_endpoint()), methods=["GET", "POST"])]))


def fastapi_in_fastapi(app: FastAPI, guard: Any) -> None:
    app.mount("/in", inner_app(guard(new_endpoint())))


def fastapi_in_starlette(app: FastAPI, guard: Any) -> None:
    app.mount("/in", Starlette(routes=[Mount("/", inner_app(new_endpoint(), dependencies=[Depends(guard)]))]))


def mount_with_parameters(app: FastAPI, guard: Any) -> None:
    app.mount("/{tenant}", inner_app(guard(new_endpoint())))


def mount_in_an_included_router(app: FastAPI, guard: Any) -> None:
    between = APIRouter()
    between.mount("/in", inner_app(new_endpoint(), dependencies=[Depends(guard)]))
    app.include_router(between)


def host(app: FastAPI, guard: Any) -> None:
    app.router.routes.insert(0, Host("testserver", Router([Route(PATH, guard(new_endpoint()))])))


def asked_in_the_endpoint(app: FastAPI, guard: Any) -> None:
    async def secret(request: Request) -> Response:
        await guard(request)
        return PlainTextResponse("secret")

    add_all(app, secret)


def guarded_and_open(app: FastAPI, guard: Any) -> None:
    """The same function has another route without a guard, which is meant."""
    endpoint = new_endpoint()
    add_all(app, guard(endpoint))
    app.add_api_route("/open", endpoint)


Place = Callable[[FastAPI, Any], None]
RIGHT: list[Place] = [
    *(decorated, decorated_sync, below_another_decorator, class_based, subclass_of_a_guarded_class, method),
    *(bound_method, class_method, callable_object, guarded_call_of_an_object, factory, partial),
    *(partial_of_a_guarded_function, streamed, depends, depends_on_a_call, depends_without_cache),
    *(depends_in_a_parameter, depends_as_a_default, depends_in_a_class, depends_in_a_generator),
    *(decorated_generator_dependency, decorated_sync_generator_dependency, decorated_object_dependency, router),
    *(included_router, nested_router, application, starlette_in_fastapi, fastapi_in_fastapi, fastapi_in_starlette),
    *(mount_with_parameters, mount_in_an_included_router, host, asked_in_the_endpoint, guarded_and_open),
]
IN_MOUNT = (
    *(application, starlette_in_fastapi, fastapi_in_fastapi, fastapi_in_starlette, mount_with_parameters),
    mount_in_an_included_router,
)
HAS_MOUNTS_IN_ROUTERS = hasattr(fastapi.routing, "iter_route_contexts")  # FastAPI before 0.137 leaves them out
if not HAS_MOUNTS_IN_ROUTERS:
    RIGHT.remove(mount_in_an_included_router)


def make_app(auth: Auth, place: Place, guard: Any) -> FastAPI:
    app = FastAPI(middleware=middleware(auth))
    place(app, guard)
    return app


async def statuses_of_visitor(app: Any, path: str) -> set[int]:
    """Returns the statuses of all tricks of a visitor who is not logged in, of which none may show the secret."""
    statuses = set()
    async with client_of(app, headers=PROGRAM) as visitor:
        tricks: list[dict[str, Any]] = [
            *({"method": name} for name in ("GET", "HEAD", "POST", "PUT", "OPTIONS", "TRACE", "SECRET", "get")),
            {"params": {"endpoint": "1", "request": "1", "user": "1", "perm": "x", "scopes": "y", "conn": "z"}},
            {"method": "POST", "json": {"user": {"id": 1, "username": "ann", "is_superuser": True}}},
            {"json": {"id": 1, "username": "ann"}},
            {"headers": {"authorization": "Bearer x", "x-forwarded-user": "ann", "remote-user": "ann"}},
            {"headers": {"x-http-method-override": "OPTIONS", "x-original-url": "/open", "x-rewrite-url": "/open"}},
        ]
        for request in tricks:
            response = await visitor.request(**{"method": "GET", "url": path, **request})
            assert "secret" not in response.text
            assert response.status_code in (401, 405), (request, response.status_code)
            statuses.add(response.status_code)
        for other in (f"{path}/", f"/{path}", path.replace("secret", "%73ecret"), f"{path}/../secret", f"{path}?a=1"):
            response = await visitor.get(other, follow_redirects=True)
            assert response.status_code in (401, 404), (other, response.status_code)
    return statuses


@pytest.mark.parametrize("place", RIGHT)
async def test_each_right_place_of_a_guard_protects_the_endpoint(auth: Auth, ann: User, place: Place) -> None:
    """A visitor is refused, a user who may gets in, a user who may not gets 403."""
    path = f"/in{PATH}" if place in IN_MOUNT else PATH
    bob = await auth.users.create_user("bob")
    await auth.users.create_permission(PERM)
    await auth.users.grant(ann, PERM)
    await auth.users.update(ann, is_staff=True)
    for number, (name, guard) in enumerate(GUARDS.items()):
        app = make_app(auth, place, guard)
        async with lifespan(auth)(app):
            async with client_of(app, headers=PROGRAM) as visitor:
                refused = await visitor.get(path)
                assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated"), name
            if number == RIGHT.index(place) % len(GUARDS):
                assert 401 in await statuses_of_visitor(app, path), name
            for user, status in ((ann, 200), (bob, 200 if name in FOR_ALL_USERS else 403)):
                async with client_of(app, headers=PROGRAM) as client:
                    await log_in(client, user, auth)
                    response = await client.get(path)
                assert (response.status_code, response.text == "secret") == (status, status == 200), name


async def test_scopes_protect_the_endpoint(auth: Auth, ann: User) -> None:
    app = FastAPI(middleware=middleware(auth))
    app.add_api_route(PATH, new_endpoint(), dependencies=[Security(current_user, scopes=[PERM])])
    await auth.users.create_permission(PERM)
    async with lifespan(auth)(app):
        assert await statuses_of_visitor(app, PATH) == {401, 405}
        async with client_of(app, headers=PROGRAM) as client:
            await log_in(client, ann, auth)
            assert (await client.get(PATH)).status_code == 403
            await auth.users.grant(ann, PERM)
            assert (await client.get(PATH)).text == "secret"


# WebSockets


def socket_decorated(app: FastAPI, guard: Any) -> None:
    app.websocket(PATH)(guard(new_socket()))


def socket_class(app: FastAPI, guard: Any) -> None:
    @guard
    class Secret(WebSocketEndpoint):
        async def on_connect(self, websocket: WebSocket) -> None:
            await new_socket()(websocket)

    app.router.routes.append(WebSocketRoute(PATH, Secret))


def socket_method(app: FastAPI, guard: Any) -> None:
    class Secret(WebSocketEndpoint):
        @guard  # type: ignore[untyped-decorator]
        async def on_connect(self, websocket: WebSocket) -> None:
            await new_socket()(websocket)

    app.router.routes.append(WebSocketRoute(PATH, Secret))


def socket_depends(app: FastAPI, guard: Any) -> None:
    app.websocket(PATH, dependencies=[Depends(guard)])(new_socket())


def socket_parameter(app: FastAPI, guard: Any) -> None:
    @app.websocket(PATH)
    async def secret(websocket: WebSocket, user: Annotated[Any, Depends(guard)]) -> None:
        await new_socket()(websocket)


def socket_router(app: FastAPI, guard: Any) -> None:
    inner = APIRouter(dependencies=[Depends(guard)])
    inner.websocket(PATH)(new_socket())
    app.include_router(inner)


def socket_application(app: FastAPI, guard: Any) -> None:
    inner = FastAPI(dependencies=[Depends(guard)])
    inner.websocket(PATH)(new_socket())
    app.mount("/in", inner)


def socket_message(app: FastAPI, guard: Any) -> None:
    """The guard is asked when the first message comes: the socket is open by then."""

    class Secret(WebSocketEndpoint):
        encoding = "text"

        @guard  # type: ignore[untyped-decorator]
        async def on_receive(self, websocket: WebSocket, data: str) -> None:
            await websocket.send_text("secret")
            await websocket.close()

    app.router.routes.append(WebSocketRoute(PATH, Secret))


SOCKETS: list[Place] = [
    *(socket_decorated, socket_class, socket_method, socket_depends, socket_parameter, socket_router),
    *(socket_application, socket_message),
]


async def first_message(url: str, headers: dict[str, str]) -> str | int:
    """Returns the first message of a WebSocket; the status or close code of one that is refused."""
    try:
        async with connect(url, additional_headers=headers) as websocket:
            with contextlib.suppress(ConnectionClosed):
                await websocket.send("hello")
            return str(await websocket.recv())
    except InvalidStatus as error:
        return error.response.status_code
    except ConnectionClosed as error:
        return error.rcvd.code if error.rcvd else 0


@pytest.mark.parametrize("place", SOCKETS)
async def test_each_right_place_of_a_guard_protects_a_websocket(auth: Auth, ann: User, place: Place) -> None:
    bob = await auth.users.create_user("bob")
    await auth.users.create_permission(PERM)
    await auth.users.grant(ann, PERM)
    await auth.users.update(ann, is_staff=True)
    start = SOCKETS.index(place)
    for name in [*GUARDS, *GUARDS][start : start + 6 : 2]:
        app = make_app(auth, place, GUARDS[name])
        path = f"/in{PATH}" if place is socket_application else PATH
        refused = {401: 1008, 403: 1008} if place is socket_message else {401: 401, 403: 403}
        async with lifespan(auth)(app), served(app) as port:
            url, answers = f"ws://127.0.0.1:{port}{path}", []
            for user in (None, ann, bob):
                async with client_of(app, base_url=f"http://127.0.0.1:{port}") as client:
                    await log_in(client, user, auth) if user is not None else None
                    cookies = "; ".join(f"{key}={value}" for key, value in client.cookies.items())
                answers.append(await first_message(url, {"cookie": cookies} if cookies else {}))
        assert answers == [refused[401], "secret", "secret" if name in FOR_ALL_USERS else refused[403]], name


# What does not start


def above(app: FastAPI, guard: Any) -> None:
    guard(add_all_and_return(app, new_endpoint()))


def add_all_and_return(app: Any, endpoint: Any) -> Any:
    add_all(app, endpoint)
    return endpoint


def above_in_a_router(app: FastAPI, guard: Any) -> None:
    inner = APIRouter()
    guard(add_all_and_return(inner, new_endpoint()))
    app.include_router(inner)


def above_in_a_mounted_application(app: FastAPI, guard: Any) -> None:
    inner = FastAPI()
    guard(add_all_and_return(inner, new_endpoint()))
    app.mount("/in", inner)


def above_behind_a_middleware_that_is_a_function(app: FastAPI, guard: Any) -> None:
    inner = FastAPI()
    guard(add_all_and_return(inner, new_endpoint()))

    async def timed(scope: Scope, receive: Receive, send: Send) -> None:
        await inner(scope, receive, send)

    app.mount("/in", timed)


def above_a_socket(app: FastAPI, guard: Any) -> None:
    guard(app.websocket(PATH)(new_socket()))


def above_an_application(app: FastAPI, guard: Any) -> None:
    app.mount("/in", guard(inner_app(new_endpoint())))


def above_an_asgi_function(app: FastAPI, guard: Any) -> None:
    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await PlainTextResponse("secret")(scope, receive, send)

    app.mount("/in", guard(inner))


def above_a_class_method(app: FastAPI, guard: Any) -> None:
    class Pages:
        @guard  # type: ignore[untyped-decorator]
        @classmethod
        async def secret(cls, request: Request) -> Response:
            return PlainTextResponse("secret")

    add_all(app, Pages.secret)


def above_a_static_method(app: FastAPI, guard: Any) -> None:
    class Pages:
        @guard  # type: ignore[untyped-decorator]
        @staticmethod
        async def secret(request: Request) -> Response:
            return PlainTextResponse("secret")

    add_all(app, Pages.secret)


def above_a_factory(app: FastAPI, guard: Any) -> None:
    @guard  # type: ignore[untyped-decorator]
    def make() -> Any:
        return new_endpoint()

    add_all(app, make())


def instead_of_an_endpoint(app: FastAPI, guard: Any) -> None:
    app.get(PATH)(guard)


def without_a_request(app: FastAPI, guard: Any) -> None:
    @app.get(PATH)
    @guard  # type: ignore[untyped-decorator]
    async def secret() -> str:
        return "secret"


def dependency_without_a_request(app: FastAPI, guard: Any) -> None:
    @guard  # type: ignore[untyped-decorator]
    async def page() -> int:
        return 1

    app.add_api_route(PATH, new_endpoint(), dependencies=[Depends(page)])


def user_without_depends(app: FastAPI, guard: Any) -> None:
    @app.post(PATH)
    async def secret(user: User) -> str:
        return "secret"


def optional_user_without_depends(app: FastAPI, guard: Any) -> None:
    @app.post(PATH)
    async def secret(user: User | None = None) -> str:
        return "secret"


def annotated_without_depends(app: FastAPI, guard: Any) -> None:
    @app.get(PATH)
    async def secret(user: Annotated[User, guard]) -> str:
        return "secret"


def default_without_depends(app: FastAPI, guard: Any) -> None:
    @app.get(PATH)
    async def secret(user: Any = guard) -> str:
        return "secret"


def default_of_a_dependency_without_depends(app: FastAPI, guard: Any) -> None:
    def shopper(user: Any = guard) -> Any:
        return user

    app.add_api_route(PATH, new_endpoint(), dependencies=[Depends(shopper)])


def dependency_that_returns_a_guard(app: FastAPI, guard: Any) -> None:
    app.add_api_route(PATH, new_endpoint(), dependencies=[Depends(lambda: guard)])


def factory_of_guards_that_is_not_called(app: FastAPI, guard: Any) -> None:
    """`Depends(may)` where `Depends(may("polls.add_vote"))` is meant."""

    def may(perm: str = "polls.view_vote") -> Any:
        return permission_required(perm)

    app.add_api_route(PATH, new_endpoint(), dependencies=[Depends(may)])


def factory_of_guards_in_a_module(app: FastAPI, guard: Any) -> None:
    def may(perm: str = "polls.view_vote") -> Any:
        return starlette_auth.permission_required(perm)

    app.add_api_route(PATH, new_endpoint(), dependencies=[Depends(may)])


def router_with_a_route_of_starlette(app: FastAPI, guard: Any) -> None:
    inner = APIRouter(dependencies=[Depends(guard)])
    inner.add_route(PATH, new_endpoint())
    app.include_router(inner)


def router_with_a_mount(app: FastAPI, guard: Any) -> None:
    inner = APIRouter()
    inner.mount("/in", inner_app(new_endpoint()))
    app.include_router(inner, dependencies=[Depends(guard)])


def application_with_a_mount(app: FastAPI, guard: Any) -> None:
    outer = FastAPI(dependencies=[Depends(guard)])
    outer.mount("/in", inner_app(new_endpoint()))
    app.mount("/", outer)


def application_with_a_mount_of_starlette(app: FastAPI, guard: Any) -> None:
    outer = FastAPI(dependencies=[Depends(guard)])
    outer.mount("/in", Starlette(routes=[WebSocketRoute(PATH, new_socket())]))
    app.mount("/", outer)


def application_with_a_mount_and_a_dependency_on_a_guard(app: FastAPI, guard: Any) -> None:
    def member(user: Annotated[Any, Depends(guard)]) -> Any:
        return user

    def paying_member(user: Any = Depends(member)) -> Any:  # noqa: B008
        return user

    outer = FastAPI(dependencies=[Depends(paying_member)])
    outer.mount("/in", inner_app(new_endpoint()))
    app.mount("/", outer)


def application_without_depends(app: FastAPI, guard: Any) -> None:
    outer = FastAPI(dependencies=[guard])
    outer.mount("/in", inner_app(new_endpoint()))
    app.mount("/", outer)


def dependency_that_comes_too_late(app: FastAPI, guard: Any) -> None:
    app.get(PATH)(new_endpoint())
    app.router.dependencies.append(Depends(guard))


WRONG: dict[Place, str] = {
    above: "GET /secret calls tests.support.secret_endpoints.new_endpoint",
    above_in_a_router: "GET /secret calls tests.support.secret_endpoints.new_endpoint",
    above_in_a_mounted_application: "GET /in/secret calls tests.support.secret_endpoints.new_endpoint",
    above_behind_a_middleware_that_is_a_function: "GET /in/secret calls tests.support.secret_endpoints.new_endpoint",
    above_a_socket: "WebSocket /secret calls tests.support.secret_endpoints.new_socket",
    above_an_application: "guards endpoints, and no FastAPI",
    above_an_asgi_function: "The application at /in is below @",
    above_a_class_method: "below @classmethod",
    above_a_static_method: "below @staticmethod",
    above_a_factory: "above_a_factory.<locals>.make (test_guards.py:",
    instead_of_an_endpoint: "instead of an endpoint",
    without_a_request: "GET /secret calls tests.whole.test_guards.without_a_request.<locals>.secret (test_guards.py:",
    dependency_without_a_request: "<locals>.page (test_guards.py:",
    user_without_depends: "POST /secret takes the parameter 'user' of tests.whole.test_guards.user_without_depends",
    optional_user_without_depends: "POST /secret takes the parameter 'user'",
    annotated_without_depends: "GET /secret takes the parameter 'user'",
    default_without_depends: "GET /secret takes the parameter 'user'",
    default_of_a_dependency_without_depends: "GET /secret takes the parameter 'user' of tests.whole.test_guards.default_of",
    dependency_that_returns_a_guard: "GET /secret depends on tests.whole.test_guards.dependency_that_returns_a_guard",
    factory_of_guards_that_is_not_called: "<locals>.may (test_guards.py:",
    factory_of_guards_in_a_module: "<locals>.may (test_guards.py:",
    router_with_a_route_of_starlette: "GET /secret calls tests.support.secret_endpoints.new_endpoint",
    router_with_a_mount: "GET /in/secret calls tests.support.secret_endpoints.new_endpoint",
    application_with_a_mount: "GET /in/secret calls tests.support.secret_endpoints.new_endpoint",
    application_with_a_mount_of_starlette: "WebSocket /in/secret calls tests.support.secret_endpoints.new_socket",
    application_with_a_mount_and_a_dependency_on_a_guard: "GET /in/secret calls tests.support.secret_endpoints.new_endpoint",
    application_without_depends: "Write Depends(",
    dependency_that_comes_too_late: "GET /secret calls tests.support.secret_endpoints.new_endpoint",
}
if not HAS_MOUNTS_IN_ROUTERS:  # an included router leaves no trace there
    for place in (router_with_a_route_of_starlette, router_with_a_mount):
        del WRONG[place]


@pytest.mark.parametrize("place", WRONG)
async def test_each_wrong_place_of_a_guard_stops_the_start(auth: Auth, place: Place) -> None:
    """The message names the route, the function and its line, and ends with the fix."""
    for name, guard in GUARDS.items():
        with pytest.raises(ImproperlyConfigured) as error:
            async with lifespan(auth)(make_app(auth, place, guard)):
                """Is never reached."""
        assert WRONG[place] in str(error.value), name
        assert any(verb in str(error.value) for verb in ("Write ", "Give ", "Guard ", "Call ")), name


async def test_a_guard_that_is_called_without_await_makes_no_response(auth: Auth) -> None:
    app = FastAPI(middleware=middleware(auth))

    @app.get(PATH)
    def secret(request: Request) -> str:
        login_required(request)  # type: ignore[unused-coroutine]
        return "secret"

    @app.get("/if")
    async def conditional(request: Request) -> str:
        return "secret" if current_user(request) else "open"

    async with lifespan(auth)(app), client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match=r"login_required\(\) was called without await"):
            await client.get(PATH)
        with pytest.raises(ImproperlyConfigured, match="without await"):
            await client.get("/if")


@pytest.mark.parametrize("mark", ["endpoint", "application", "other guard"])
async def test_a_mounted_application_stays_open_below_a_guard_if_it_is_marked(auth: Auth, mark: str) -> None:
    endpoint = new_endpoint()
    app = FastAPI(middleware=middleware(auth), dependencies=[Depends(login_required)])
    if mark == "endpoint":
        login_not_required(endpoint)
    inner = Starlette(routes=[Route(PATH, permission_required(PERM)(endpoint) if mark == "other guard" else endpoint)])
    app.mount("/in", login_not_required(inner) if mark == "application" else inner)
    add_all(app, new_endpoint())
    async with lifespan(auth)(app), client_of(app, headers=PROGRAM) as client:
        assert (await client.get(PATH)).status_code == 401
        assert (await client.get(f"/in{PATH}")).status_code == (401 if mark == "other guard" else 200)
        assert (await client.get("/docs")).status_code == 200


async def test_a_guard_between_two_routes_stops_the_start(auth: Auth) -> None:
    app = FastAPI(middleware=middleware(auth))
    app.include_router(stacked)
    with pytest.raises(
        ImproperlyConfigured, match=r"GET /secret calls tests.whole.test_guards.on_two_routes \(test_gua"
    ):
        async with lifespan(auth)(app):
            """Is never reached."""


async def test_a_function_may_be_open_at_one_route_and_guarded_at_another(auth: Auth) -> None:
    app = FastAPI(middleware=middleware(auth))
    app.add_api_route("/open", also_open)
    app.add_api_route(PATH, login_required(also_open))
    async with lifespan(auth)(app), client_of(app, headers=PROGRAM) as client:
        assert (await client.get("/open")).text == "secret"
        assert (await client.get(PATH)).status_code == 401


async def test_dependencies_that_read_other_things_start(auth: Auth) -> None:
    """An attribute may be named like a guard, and a function with a request may ask one."""

    class Settings:
        requires = login_required = "yes"

    async def settings() -> str:
        return Settings().requires + Settings.login_required

    async def may(request: Request) -> Any:
        return await requires(PERM)(request)

    async def shopper(user: Annotated[Any, Depends(may)]) -> Any:
        return await login_required(user) if isinstance(user, Request) else user

    app = FastAPI(middleware=middleware(auth))
    app.add_api_route("/open", new_endpoint(), dependencies=[Depends(settings)])
    app.add_api_route(PATH, new_endpoint(), dependencies=[Depends(shopper)])
    async with lifespan(auth)(app), client_of(app, headers=PROGRAM) as client:
        assert (await client.get("/open")).text == "secret"
        assert (await client.get(PATH)).status_code == 401


@pytest.mark.parametrize("place", [decorated, depends, application])
async def test_excluded_paths_and_applications_without_middleware_are_errors(
    auth: Auth, place: Place, tmp_path: Path
) -> None:
    for options in ({}, {"middleware": middleware(auth, exclude=("/secret", "/in"))}):
        app = FastAPI(**options)  # type: ignore[arg-type]
        place(app, login_required)
        async with lifespan(auth)(app), client_of(app) as client:
            with pytest.raises(ImproperlyConfigured, match="has no user"):
                await client.get(f"/in{PATH}" if place in IN_MOUNT else PATH)
