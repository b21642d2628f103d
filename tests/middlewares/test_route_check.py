"""Tests of the check that routes call the decorated functions: at the start, or at the first request."""

import functools
import gc
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import fastapi.routing
import pytest
from databases import Database
from fastapi import APIRouter, Depends, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint, WebSocketEndpoint
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Host, Mount, Route, Router, WebSocketRoute
from starlette.testclient import TestClient

from starlette_auth import (
    Auth,
    AuthenticationMiddleware,
    ImproperlyConfigured,
    MemoryStore,
    SessionMiddleware,
    fresh_login_required,
    lifespan,
    login_required,
    middleware,
    permission_required,
    routes,
    staff_required,
    user_passes_test,
)
from starlette_auth.core import functions

from ..conftest import client_of, post_login
from ..support.secret_endpoints import new_endpoint, new_socket

GUARDS: dict[str, Any] = {
    "login_required": login_required,
    "login_required()": login_required(),
    "permission_required": permission_required("polls.add_vote"),
    "user_passes_test": user_passes_test(lambda user: user.is_staff),
    "staff_required": staff_required,
    "staff_required()": staff_required(),
    "fresh_login_required": fresh_login_required,
    "fresh_login_required(max_age)": fresh_login_required(max_age=60),
}
Wrong = Callable[[Auth, Any], Any]


@pytest.fixture
def auth(tmp_path: Path) -> Auth:
    return Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/x"), secret_key="k" * 40, sessions=MemoryStore())


def above_get(auth: Auth, guard: Any) -> Any:
    app = FastAPI(middleware=middleware(auth))
    guard(app.get("/secret")(new_endpoint()))
    return app


def above_get_and_kept(auth: Auth, guard: Any) -> Any:
    app = FastAPI(middleware=middleware(auth))
    app.state.kept = guard(app.get("/secret")(new_endpoint()))
    return app


def above_sync_endpoint(auth: Auth, guard: Any) -> Any:
    app = FastAPI(middleware=middleware(auth))

    @app.get("/secret")
    def secret(page: int = 1) -> str:
        return "secret"

    guard(secret)
    return app


def above_post(auth: Auth, guard: Any) -> Any:
    app = FastAPI(middleware=middleware(auth))
    guard(app.get("/secret")(app.post("/secret")(new_endpoint())))
    return app


def above_websocket(auth: Auth, guard: Any) -> Any:
    app = FastAPI(middleware=middleware(auth))
    guard(app.websocket("/secret")(new_socket()))
    return app


def above_included_router(auth: Auth, guard: Any) -> Any:
    app, outer, router = FastAPI(middleware=middleware(auth)), APIRouter(prefix="/a"), APIRouter(prefix="/b")
    guard(router.get("/secret")(new_endpoint()))
    outer.include_router(router)
    app.include_router(outer, prefix="/c")
    return app


def above_included_websocket(auth: Auth, guard: Any) -> Any:
    app, router = FastAPI(middleware=middleware(auth)), APIRouter()
    guard(router.websocket("/secret")(new_socket()))
    app.include_router(router)
    return app


def above_mounted_fastapi(auth: Auth, guard: Any) -> Any:
    app, inner = FastAPI(middleware=middleware(auth)), FastAPI()
    guard(inner.get("/secret")(new_endpoint()))
    app.mount("/inner", inner)
    return app


def above_mount_in_an_included_router(auth: Auth, guard: Any) -> Any:
    app, router, inner = FastAPI(middleware=middleware(auth)), APIRouter(), FastAPI()
    guard(inner.get("/secret")(new_endpoint()))
    router.mount("/inner", inner)
    app.include_router(router, prefix="/api")
    return app


def registered_before(auth: Auth, guard: Any) -> Any:
    endpoint = new_endpoint()
    app = Starlette(routes=[Route("/secret", endpoint)], middleware=middleware(auth))
    guard(endpoint)
    return app


def registered_before_in_a_mount(auth: Auth, guard: Any) -> Any:
    endpoint = new_endpoint()
    inner = Mount("/b", routes=[Route("/secret", endpoint)], middleware=[Middleware(GZipMiddleware)])
    app = Starlette(routes=[Mount("/a", app=GZipMiddleware(Router([inner])))], middleware=middleware(auth))
    guard(endpoint)
    return app


def registered_before_in_a_host(auth: Auth, guard: Any) -> Any:
    endpoint = new_endpoint()
    app = Starlette(routes=[Host("{host}", Router([Route("/secret", endpoint)]))], middleware=middleware(auth))
    guard(endpoint)
    return app


def registered_class_before(auth: Auth, guard: Any) -> Any:
    class Secret(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    app = Starlette(routes=[Route("/secret", Secret)], middleware=middleware(auth))
    guard(Secret)
    return app


def registered_socket_class_before(auth: Auth, guard: Any) -> Any:
    class Secret(WebSocketEndpoint):
        encoding = "text"

    app = Starlette(routes=[WebSocketRoute("/secret", Secret)], middleware=middleware(auth))
    guard(Secret)
    return app


def registered_method_before(auth: Auth, guard: Any) -> Any:
    class Pages:
        async def secret(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    pages = Pages()
    app = Starlette(routes=[Route("/secret", pages.secret)], middleware=middleware(auth))
    guard(pages.secret)
    return app


def registered_object_before(auth: Auth, guard: Any) -> Any:
    class Secret:
        __hash__ = None  # type: ignore[assignment]

        async def __call__(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    secret = Secret()
    app = FastAPI(middleware=middleware(auth))
    app.get("/secret")(secret)
    guard(secret)
    return app


def registered_object_without_references_before(auth: Auth, guard: Any) -> Any:
    class Secret:
        __slots__ = ()

        async def __call__(self, request: Request) -> Response:
            return PlainTextResponse("secret")

    secret = Secret()
    app = FastAPI(middleware=middleware(auth))
    app.get("/secret")(secret)
    guard(secret)
    return app


def registered_partial_before(auth: Auth, guard: Any) -> Any:
    async def secret(request: Request, text: str) -> Response:
        return PlainTextResponse(text)

    endpoint = functools.partial(secret, text="secret")
    app = Starlette(routes=[Route("/secret", endpoint)], middleware=middleware(auth))
    guard(endpoint)
    return app


def registered_through_a_partial_before(auth: Auth, guard: Any) -> Any:
    async def secret(request: Request, text: str) -> Response:
        return PlainTextResponse(text)

    app = Starlette(routes=[Route("/secret", functools.partial(secret, text="secret"))], middleware=middleware(auth))
    guard(secret)
    return app


def between_others(auth: Auth, guard: Any) -> Any:
    """The guard stands above another decorator, which stands above the route's."""
    app = FastAPI(middleware=middleware(auth))

    def traced(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    guard(traced(app.get("/secret")(traced(new_endpoint()))))
    return app


def one_guard_below_and_one_above(auth: Auth, guard: Any) -> Any:
    app = FastAPI(middleware=middleware(auth))
    guard(app.get("/secret")(login_required(new_endpoint())))
    return app


def two_guards_above(auth: Auth, guard: Any) -> Any:
    app = FastAPI(middleware=middleware(auth))
    guard(login_required(app.get("/secret")(new_endpoint())))
    return app


def dependency_before(auth: Auth, guard: Any) -> Any:
    async def paying_user(request: Request) -> str:
        return "ann"

    app = FastAPI(middleware=middleware(auth))

    @app.get("/secret")
    async def secret(user: Annotated[str, Depends(paying_user)]) -> str:
        return "secret"

    guard(paying_user)
    return app


WRONG = [
    above_get,
    above_get_and_kept,
    above_sync_endpoint,
    above_post,
    above_websocket,
    above_included_router,
    above_included_websocket,
    above_mounted_fastapi,
    above_mount_in_an_included_router,
    registered_before,
    registered_before_in_a_mount,
    registered_before_in_a_host,
    registered_class_before,
    registered_socket_class_before,
    registered_method_before,
    registered_object_before,
    registered_object_without_references_before,
    registered_partial_before,
    registered_through_a_partial_before,
    between_others,
    one_guard_below_and_one_above,
    two_guards_above,
    dependency_before,
]
PATHS: dict[Wrong, str] = {
    above_included_router: "/c/a/b/secret",
    above_mounted_fastapi: "/inner/secret",
    above_mount_in_an_included_router: "/api/inner/secret",
    registered_before_in_a_mount: "/a/b/secret",
}
if not hasattr(fastapi.routing, "iter_route_contexts"):  # FastAPI before 0.137 leaves mounts out of included routers
    WRONG.remove(above_mount_in_an_included_router)
SOCKETS = (above_websocket, above_included_websocket, registered_socket_class_before)


@pytest.mark.parametrize(
    ("wrong", "guard"), [*zip(WRONG, itertools.cycle(GUARDS), strict=False), *((WRONG[0], guard) for guard in GUARDS)]
)
async def test_a_function_that_is_called_past_its_decorator_stops_the_start(
    auth: Auth, wrong: Wrong, guard: str
) -> None:
    app = wrong(auth, GUARDS[guard])
    gc.collect()  # the application may have kept what the decorator returned, or not
    name = guard.partition("(")[0]
    with pytest.raises(ImproperlyConfigured) as error:
        async with lifespan(auth)(app):
            """Is never reached."""
    message = str(error.value)
    assert f"{PATHS.get(wrong, '/secret')} calls " in message
    assert f"@{name}" in message or wrong is two_guards_above
    assert "below the one of the route" in message
    assert not auth.database.is_connected
    async with lifespan(auth, check_routes=False)(app):
        """Starts."""


@pytest.mark.parametrize("wrong", WRONG)
async def test_without_our_lifespan_the_first_request_finds_it(auth: Auth, wrong: Wrong) -> None:
    app = wrong(auth, login_required)
    path = PATHS.get(wrong, "/secret")
    if wrong in SOCKETS:
        client = TestClient(app)
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured, match="past its"), client.websocket_connect(path):
                """Is never reached."""
        return
    async with client_of(app) as browser:
        for url in (path, path, "/none"):
            with pytest.raises(ImproperlyConfigured, match="past its"):
                await browser.get(url)


@pytest.mark.parametrize("wrong", [above_get, above_included_router, registered_before_in_a_mount])
async def test_check_routes_false_switches_off_the_check_of_the_first_request_too(auth: Auth, wrong: Wrong) -> None:
    app = wrong(auth, login_required)
    lifespan(auth, check_routes=False)
    async with client_of(app) as client:
        assert (await client.get(PATHS.get(wrong, "/secret"))).text == "secret"


async def test_the_message_names_the_route_the_function_its_place_and_the_fix(auth: Auth) -> None:
    app = FastAPI()

    @login_required
    @app.get("/orders")
    async def orders(request: Request) -> None: ...

    with pytest.raises(ImproperlyConfigured) as error:
        async with lifespan(auth)(app):
            """Is never reached."""
    assert str(error.value).startswith(
        "GET /orders calls tests.middlewares.test_route_check.test_the_message_names_the_route_the_function_its_place_"
        "and_the_fix.<locals>.orders (test_route_check.py:"
    )
    assert "past its @login_required" in str(error.value)
    assert str(error.value).endswith("pass check_routes=False to lifespan().")


def test_an_application_that_is_wrong_does_not_start(auth: Auth) -> None:
    app = FastAPI(middleware=middleware(auth), lifespan=lifespan(auth, create_tables=True))

    @login_required
    @app.get("/secret")
    async def secret(request: Request) -> str:
        return "secret"

    with pytest.raises(ImproperlyConfigured, match="GET /secret"), TestClient(app):
        """Is never reached."""


async def test_middlewares_around_an_application_find_it_at_the_first_request(auth: Auth) -> None:
    endpoint = new_endpoint()
    inner = GZipMiddleware(Router([Route("/secret", endpoint)]))
    login_required(endpoint)
    app = SessionMiddleware(AuthenticationMiddleware(inner, auth=auth), store=auth.sessions, cookie=auth.cookie)
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="GET /secret"):
            await client.get("/secret")


async def test_the_middlewares_of_a_mount_find_it_at_the_first_request(auth: Auth) -> None:
    endpoint = new_endpoint()
    app = Starlette(routes=[Mount("/a", routes=[Route("/secret", endpoint)], middleware=middleware(auth))])
    login_required(endpoint)
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="GET /a/secret"):
            await client.get("/a/secret")


@pytest.mark.parametrize("guard", [login_required, login_required(), user_passes_test(bool)])
async def test_a_guard_instead_of_an_endpoint_stops_the_start(auth: Auth, guard: Any) -> None:
    app = FastAPI(middleware=middleware(auth))
    app.get("/secret")(guard)
    with pytest.raises(ImproperlyConfigured, match="instead of an endpoint"):
        async with lifespan(auth)(app):
            """Is never reached."""


async def test_right_routes_pass(auth: Auth) -> None:
    """The function itself may be a route too, where a route calls the decorated one as well."""
    open_and_closed, endpoint, other = new_endpoint(), new_endpoint(), new_endpoint()

    async def page(request: Request, name: str) -> Response:
        return PlainTextResponse(name)

    @login_required
    class Club(HTTPEndpoint):
        @permission_required("polls.add_vote")
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("club")

    class Bar(Club):
        """Inherits the guard."""

    class Pages:
        @login_required
        async def page(self, request: Request) -> Response:
            return PlainTextResponse("page")

    def traced(function: Any) -> Any:
        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await function(*args, **kwargs)

        return wrapper

    app = FastAPI(middleware=middleware(auth))
    router = APIRouter(dependencies=[Depends(login_required)])
    router.get("/dependency")(new_endpoint())
    app.include_router(router)
    app.get("/below")(login_required(endpoint))
    app.get("/traced")(traced(login_required(traced(other))))
    app.get("/twice")(login_required(permission_required("polls.add_vote")(new_endpoint())))
    app.router.routes += [
        Route("/open", open_and_closed),
        Route("/closed", login_required(open_and_closed)),
        Route("/club", Club),
        Route("/bar", Bar),
        Route("/pages", Pages().page),
        Route("/about", functools.partial(page, name="about")),
        Route("/members", login_required(functools.partial(page, name="members"))),
        Mount("/accounts", routes=routes(auth)),
    ]
    login_required(functools.partial(page, name="unused"))
    async with lifespan(auth, create_tables=True)(app), client_of(app) as client:
        await auth.users.create_user("ann", password="correct horse battery staple")
        for path in ("/below", "/traced", "/twice", "/closed", "/club", "/bar", "/pages", "/members", "/dependency"):
            assert (await client.get(path)).status_code == 303, path
        for path in ("/open", "/about"):
            assert (await client.get(path)).status_code == 200
        await post_login(client)
        for path in ("/below", "/traced", "/closed", "/pages", "/members", "/dependency"):
            assert (await client.get(path)).status_code == 200, path


async def test_a_function_that_is_decorated_at_each_request_keeps_nothing() -> None:
    endpoint = new_endpoint()
    for _ in range(100):
        login_required(endpoint)
    gc.collect()
    decoration = functions.find_decoration(endpoint)
    assert decoration is not None
    assert len(decoration.results) == 0
    key = id(endpoint)
    del endpoint
    gc.collect()
    assert key not in functions._decorations


async def test_an_application_that_is_mounted_in_itself_is_checked_once(auth: Auth) -> None:
    app = Starlette(middleware=middleware(auth))
    app.router.routes.append(Mount("/again", app=app))
    async with lifespan(auth)(app):
        """Starts."""
    endpoint = new_endpoint()
    app.router.routes.append(Route("/secret", endpoint))
    login_required(endpoint)
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="GET /secret"):
            await client.get("/")
