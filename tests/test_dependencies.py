"""Tests of the decorators as dependencies of FastAPI: who gets in, by which response, and what is refused."""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from importlib.util import find_spec
from typing import Annotated, Any

import anyio.to_thread
import pytest
from databases import Database
from fastapi import APIRouter, Depends, FastAPI, Form, Security, WebSocket
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route, Router
from starlette.testclient import TestClient, WebSocketDenialResponse

from starlette_auth import (
    Auth,
    AuthenticationMiddleware,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    MemoryStore,
    SessionMiddleware,
    User,
    csrf_exempt,
    fresh_login_required,
    lifespan,
    login_not_required,
    login_required,
    middleware,
    permission_required,
    routes,
    staff_required,
    user_passes_test,
)
from starlette_auth.testing import log_in

from .conftest import any_database, client_of, installed, post_login, with_tables

pytestmark = [with_tables, any_database]

JSON = {"accept": "application/json"}
SAME_ORIGIN = {"origin": "http://testserver"}


async def is_ann(user: Any) -> bool:
    return bool(user.username == "ann")


GUARDS: dict[str, Any] = {
    "login_required": login_required,
    "login_required()": login_required(),
    "login_required(login_url)": login_required(login_url="/accounts/login"),
    "permission_required": permission_required("polls.add_vote"),
    "permission_required(list)": permission_required(["polls.add_vote", "polls.view_vote"]),
    "user_passes_test": user_passes_test(lambda user: user.is_staff),
    "staff_required": staff_required,
    "staff_required()": staff_required(),
    "user_passes_test(async)": user_passes_test(is_ann),
    "fresh_login_required": fresh_login_required,
    "fresh_login_required()": fresh_login_required(),
    "fresh_login_required(max_age)": fresh_login_required(max_age=60),
}
calls: list[str] = []


async def endpoint(page: int = 1) -> str:
    calls.append("endpoint")
    return "secret"


def sync_endpoint(page: int = 1) -> str:
    calls.append("endpoint")
    return "secret"


def add_accounts(app: FastAPI, auth: Auth) -> FastAPI:
    app.mount("/accounts", Router(routes=routes(auth)))
    return app


def by_route(auth: Auth, guard: Any, endpoint: Callable[..., Any]) -> FastAPI:
    app = FastAPI(middleware=middleware(auth))
    app.add_api_route("/secret", endpoint, dependencies=[Depends(guard)], methods=["GET", "POST"])
    return app


def by_router(auth: Auth, guard: Any, endpoint: Callable[..., Any]) -> FastAPI:
    app, router = FastAPI(middleware=middleware(auth)), APIRouter(dependencies=[Depends(guard)])
    router.add_api_route("/secret", endpoint, methods=["GET", "POST"])
    app.include_router(router)
    return app


def by_include(auth: Auth, guard: Any, endpoint: Callable[..., Any]) -> FastAPI:
    app, outer, router = FastAPI(middleware=middleware(auth)), APIRouter(), APIRouter()
    router.add_api_route("/secret", endpoint, methods=["GET", "POST"])
    outer.include_router(router, dependencies=[Depends(guard)])
    app.include_router(outer)
    return app


def by_app(auth: Auth, guard: Any, endpoint: Callable[..., Any]) -> FastAPI:
    app = FastAPI(middleware=middleware(auth), dependencies=[Depends(guard)])
    app.add_api_route("/secret", endpoint, methods=["GET", "POST"])
    return app


def by_parameter(auth: Auth, guard: Any, endpoint: Callable[..., Any]) -> FastAPI:
    app = FastAPI(middleware=middleware(auth))

    async def with_user(user: Annotated[Any, Depends(guard)], page: int = 1) -> Any:
        assert isinstance(user, User)
        result = endpoint(page)
        return await result if isinstance(result, Awaitable) else result

    app.add_api_route("/secret", with_user, methods=["GET", "POST"])
    return app


def by_subdependency(auth: Auth, guard: Any, endpoint: Callable[..., Any]) -> FastAPI:
    app = FastAPI(middleware=middleware(auth))

    def name(user: Annotated[Any, Depends(guard)]) -> str:
        return str(user.username)

    app.add_api_route("/secret", endpoint, dependencies=[Depends(name)], methods=["GET", "POST"])
    return app


def by_mounted_app(auth: Auth, guard: Any, endpoint: Callable[..., Any]) -> FastAPI:
    app, inner = FastAPI(middleware=middleware(auth)), FastAPI(dependencies=[Depends(guard)])
    inner.add_api_route("/", endpoint, methods=["GET", "POST"])
    app.mount("/secret", inner)
    return app


PLACES = [by_route, by_router, by_include, by_app, by_parameter, by_subdependency, by_mounted_app]
Make = Callable[[Auth, Any, Callable[..., Any]], FastAPI]


@pytest.mark.parametrize("endpoint", [endpoint, sync_endpoint])
@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
async def test_an_anonymous_visitor_is_refused_before_the_endpoint_is_called(
    auth: Auth, guard: Any, make: Make, endpoint: Callable[..., Any]
) -> None:
    calls.clear()
    path = "/secret/" if make is by_mounted_app else "/secret"
    async with client_of(add_accounts(make(auth, guard, endpoint), auth)) as client:
        response = await client.get(path + "?page=2")
        assert response.status_code == 303
        assert response.headers["location"] == f"/accounts/login?next={path.replace('/', '%2F')}%3Fpage%3D2"
        assert (await client.get(path, headers=JSON)).status_code == 401
        assert (await client.post(path, headers=SAME_ORIGIN)).status_code == 303
        assert (await client.get(path + "?endpoint=1&perm=polls.add_vote&test=x&login_url=/")).status_code == 303
        assert (await client.post(path, json={"endpoint": "x"}, headers=SAME_ORIGIN)).status_code in (303, 401)
        assert calls == []


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
async def test_a_user_who_may_gets_in_and_others_get_403(auth: Auth, ann: User, guard: Any, make: Make) -> None:
    path = "/secret/" if make is by_mounted_app else "/secret"
    for name in ("polls.add_vote", "polls.view_vote"):
        await auth.users.create_permission(name)
        await auth.users.grant(ann, name)
    await auth.users.update(ann, is_staff=True)
    bob = await auth.users.create_user("bob")
    app = add_accounts(make(auth, guard, endpoint), auth)
    async with client_of(app) as client:
        await post_login(client)
        assert (await client.get(path)).json() == "secret"
    async with client_of(app) as client:
        await log_in(client, bob, auth)
        is_open_to_all_users = guard in [value for name, value in GUARDS.items() if "login_required" in name]
        assert (await client.get(path)).status_code == (200 if is_open_to_all_users else 403)


@pytest.mark.parametrize("required", [False, True], ids=["without the middleware", "with the middleware"])
@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize(
    "guard",
    [
        login_required(login_url="/enter", redirect_field_name="back", keep=("title",)),
        permission_required("polls.add_vote", login_url="/enter", redirect_field_name="back", keep=("title",)),
        user_passes_test(lambda user: user.is_staff, login_url="/enter", redirect_field_name="back", keep=("title",)),
        fresh_login_required(keep=("title",)),
        functools.partial(login_required(login_url="/enter", redirect_field_name="back", keep=("title",))),
    ],
    ids=["login_required", "permission_required", "user_passes_test", "fresh_login_required", "partial"],
)
async def test_the_required_login_uses_the_options_of_a_dependency(
    auth: Auth, ann: User, guard: Any, make: Make, required: bool
) -> None:
    async def own_login_page(request: Request) -> Response:
        return PlainTextResponse("own page")

    path = "/secret/" if make is by_mounted_app else "/secret"
    app = add_accounts(make(auth, guard, endpoint), auth)
    app.router.routes.append(Route("/enter", login_not_required(own_login_page)))
    if required:
        app.user_middleware.append(Middleware(LoginRequiredMiddleware))
    async with client_of(app, headers=SAME_ORIGIN) as client:
        location = (await client.get(path)).headers["location"]
        if getattr(guard, "name", "") == "fresh_login_required":
            assert location.startswith("/accounts/login?next=")
            page = await client.post(path, data={"title": "my title"})
            assert (page.status_code, "my title" in page.text) == (403, True)
        else:
            assert location == f"/enter?back={path.replace('/', '%2F')}"
            answer = await client.post(path, data={"title": "my title"})
            assert answer.headers["location"] == f"/enter?back={path.replace('/', '%2F')}"
            assert (await client.get("/enter")).text == "own page"


@pytest.mark.parametrize("required", [False, True], ids=["without the middleware", "with the middleware"])
async def test_of_several_guards_the_first_that_fastapi_calls_sets_the_options(auth: Auth, required: bool) -> None:
    def inner(user: Annotated[User, Depends(login_required(login_url="/inner"))]) -> User:
        return user

    app, first, plain = FastAPI(middleware=middleware(auth)), APIRouter(), APIRouter()
    outer = [Depends(login_required(login_url="/outer"))]
    first.add_api_route(
        "/a", login_required(login_url="/decorator")(by_decorator), dependencies=[Depends(inner), *outer]
    )
    plain.add_api_route("/b", login_required(login_url="/decorator")(by_decorator))
    app.include_router(first, dependencies=[Depends(login_required(login_url="/router"))])
    app.include_router(first, prefix="/again")
    app.include_router(plain, dependencies=[Depends(login_required)], prefix="/plain")
    app.include_router(plain)
    app = add_accounts(app, auth)
    if required:
        app.user_middleware.append(Middleware(LoginRequiredMiddleware))
    expected = {"/a": "/router", "/again/a": "/inner", "/plain/b": "/accounts/login", "/b": "/decorator"}
    async with client_of(app) as client:
        for path, login_url in expected.items():
            assert (await client.get(path)).headers["location"].partition("?")[0] == login_url


async def by_decorator(request: Request) -> str:
    return "secret"


async def test_a_dependency_is_the_user_and_can_be_overridden(auth: Auth, ann: User) -> None:
    app = add_accounts(FastAPI(middleware=middleware(auth)), auth)

    @app.get("/me")
    async def me(user: Annotated[User, Depends(login_required)]) -> str:
        return user.username

    async with client_of(app) as client:
        await post_login(client)
        assert (await client.get("/me")).json() == "ann"
    app.dependency_overrides[login_required] = lambda: User(id=1, username="test")
    async with client_of(app) as client:
        assert (await client.get("/me")).json() == "test"
    assert app.openapi()["paths"]["/me"]["get"].get("parameters", []) == []


@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
async def test_a_dependency_runs_in_no_thread(
    auth: Auth, ann: User, guard: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = add_accounts(by_route(auth, guard, endpoint), auth)
    async with client_of(app) as client:
        await post_login(client)
        monkeypatch.setattr(anyio.to_thread, "run_sync", None)  # Starlette and FastAPI start threads with it
        await client.get("/secret", headers=JSON)


async def test_a_stale_login_is_asked_for_the_password_and_the_form_is_kept(database: Any) -> None:
    now = [1_800_000_000.0]
    async with installed(database, clock=lambda: now[0]) as auth:
        ann = await auth.users.create_user("ann", password="correct horse battery staple")
        app = add_accounts(FastAPI(middleware=middleware(auth)), auth)

        @app.api_route(
            "/post", methods=["GET", "POST"], dependencies=[Depends(fresh_login_required(max_age=60, keep=("title",)))]
        )
        async def post(title: Annotated[str, Form()] = "", secret: Annotated[str, Form()] = "") -> str:
            return title

        async with client_of(app) as client:
            await log_in(client, ann, auth)
            assert (await client.post("/post", data={"title": "x"}, headers=SAME_ORIGIN)).json() == "x"
            now[0] += 61
            assert (await client.get("/post")).headers["location"] == "/accounts/reauthenticate?next=%2Fpost"
            assert (await client.get("/post", headers=JSON)).status_code in (303, 403)
            page = await client.post("/post", data={"title": "my title", "secret": "s3cr3t"}, headers=SAME_ORIGIN)
            assert page.status_code == 403
            assert "my title" in page.text
            assert "s3cr3t" not in page.text


# What is no guard, and what cannot be a dependency


def add_to_route(dependency: Any) -> None:
    FastAPI().get("/x", dependencies=[dependency])(endpoint)


def add_to_router(dependency: Any) -> None:
    APIRouter(dependencies=[dependency]).get("/x")(endpoint)


def add_to_app(dependency: Any) -> None:
    FastAPI(dependencies=[dependency]).post("/x")(endpoint)


def add_to_parameter(dependency: Any) -> None:
    async def with_user(user: Annotated[Any, dependency]) -> None: ...

    FastAPI().get("/x")(with_user)


def add_to_subdependency(dependency: Any) -> None:
    def name(user: Annotated[Any, dependency]) -> None: ...

    FastAPI().get("/x", dependencies=[Depends(name)])(endpoint)


def add_to_websocket(dependency: Any) -> None:
    async def socket(websocket: WebSocket) -> None: ...

    FastAPI().websocket("/x", dependencies=[dependency])(socket)


@pytest.mark.parametrize(
    "add", [add_to_route, add_to_router, add_to_app, add_to_parameter, add_to_subdependency, add_to_websocket]
)
@pytest.mark.parametrize(
    ("function", "right"),
    [
        (permission_required, r"Depends\(permission_required\("),
        (user_passes_test, r"Depends\(user_passes_test\("),
        (login_not_required, "@login_not_required above"),
        (csrf_exempt, "@csrf_exempt above"),
        (functools.partial(permission_required, "polls.add_vote"), r"Depends\(permission_required\("),
        (functools.partial(permission_required, "polls.add_vote", login_url="/in"), r"Depends\(permission_required\("),
        (functools.partial(user_passes_test, lambda user: True), r"Depends\(user_passes_test\("),
    ],
)
def test_a_decorator_that_needs_an_argument_is_refused_when_the_route_is_added(
    add: Callable[[Any], None], function: Any, right: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=right):
        add(Depends(function))


@pytest.mark.parametrize("function", [permission_required, user_passes_test])
async def test_a_decorator_that_needs_an_argument_is_refused_for_an_included_router_at_the_start(
    auth: Auth, function: Any
) -> None:
    async def start() -> None:
        app, router = FastAPI(middleware=middleware(auth)), APIRouter()
        router.get("/x")(endpoint)
        app.include_router(router, dependencies=[Depends(function)])
        async with lifespan(auth)(app):
            """Is never reached."""

    with pytest.raises(ImproperlyConfigured, match=r"Depends\("):
        await start()


async def test_a_partial_guard_is_a_guard(auth: Auth) -> None:
    app = add_accounts(by_route(auth, functools.partial(login_required), endpoint), auth)
    async with lifespan(auth)(app), client_of(app) as client:
        assert (await client.get("/secret", headers=JSON)).status_code == 401


@pytest.mark.parametrize("guard", ["login_required", "login_required()", "fresh_login_required(max_age)"])
@pytest.mark.parametrize("make", PLACES)
async def test_scopes_that_a_guard_does_not_read_stop_the_start(auth: Auth, make: Make, guard: str) -> None:
    """A logged-in user without the permission would get in otherwise."""

    def name(user: Annotated[Any, Security(GUARDS[guard], scopes=["shop.view_order"])]) -> str:
        return str(user.username)

    app = make(auth, name, endpoint)
    with pytest.raises(ImproperlyConfigured, match=r"permission_required\(\['shop.view_order'\]\)"):
        async with lifespan(auth)(app):
            """Is never reached."""
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="reads none"):
            await client.get("/secret")


@pytest.mark.parametrize("value", ["/login", 5, ["polls.add_vote"]])
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_a_guard_decorates_nothing_but_endpoints(guard: Any, value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="not an endpoint"):
        guard(value)


@pytest.mark.parametrize("test", [None, "user.is_staff", login_required, login_required()])
def test_a_test_is_a_function(test: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="lambda user"):
        user_passes_test(test)


async def test_a_decorator_that_was_not_called_lets_no_visitor_in(auth: Auth) -> None:
    app = add_accounts(FastAPI(middleware=middleware(auth)), auth)
    called: list[Any] = []

    async def members(request: Any) -> bool:
        called.append(request)
        return True

    app.get("/wrong")(user_passes_test(members))
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="user_passes_test"):
            await client.get("/wrong")
    assert called == []


# Decorated functions as dependencies


@login_required
async def decorated(request: Request) -> Any:
    return request.user


@login_required
def decorated_sync(request: Request) -> Any:
    return request.user


@login_required
async def decorated_generator(request: Request) -> AsyncIterator[Any]:
    yield request.user


@login_required
def decorated_sync_generator(request: Request) -> Iterator[Any]:
    yield request.user


@permission_required("polls.add_vote")
@login_required
async def decorated_twice(request: Request) -> Any:
    return request.user


DECORATED = [decorated, decorated_sync, decorated_generator, decorated_sync_generator, decorated_twice]


@pytest.mark.parametrize("make", PLACES)
@pytest.mark.parametrize("dependency", DECORATED)
async def test_a_decorated_dependency_refuses_an_anonymous_visitor(
    auth: Auth, ann: User, dependency: Any, make: Make
) -> None:
    calls.clear()
    path = "/secret/" if make is by_mounted_app else "/secret"
    await auth.users.create_permission("polls.add_vote")
    await auth.users.grant(ann, "polls.add_vote")
    async with client_of(add_accounts(make(auth, dependency, endpoint), auth)) as client:
        response = await client.get(path)
        assert response.status_code == 303
        assert response.headers["location"].startswith("/accounts/login?next=")
        assert (await client.get(path, headers=JSON)).status_code == 401
        assert calls == []
        await post_login(client)
        assert (await client.get(path)).json() == "secret"


@pytest.mark.skipif(not find_spec("fastapi.sse"), reason="this FastAPI knows no endpoints that yield")
async def test_a_decorated_endpoint_that_yields_refuses_an_anonymous_visitor(auth: Auth, ann: User) -> None:
    app = add_accounts(FastAPI(middleware=middleware(auth)), auth)

    @app.get("/stream")
    @login_required
    async def stream(request: Request) -> AsyncIterator[str]:
        yield "secret"

    @app.get("/sync-stream", response_class=StreamingResponse)
    @login_required
    def sync_stream(request: Request) -> Iterator[str]:
        yield "secret"

    async with client_of(app) as client:
        for path in ("/stream", "/sync-stream"):
            response = await client.get(path)
            assert response.status_code == 303
        await post_login(client)
        for path in ("/stream", "/sync-stream"):
            assert "secret" in (await client.get(path)).text


async def test_a_decorated_function_below_another_decorator_redirects(auth: Auth, ann: User) -> None:
    app = add_accounts(FastAPI(middleware=middleware(auth)), auth)

    def plain(function: Any) -> Any:
        async def wrapper(request: Request) -> Response:
            response = await function(request)
            assert isinstance(response, Response)
            return response

        return wrapper

    @app.get("/plain")
    @plain
    @login_required
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    async with client_of(app) as client:
        assert (await client.get("/plain")).headers["location"] == "/accounts/login?next=%2Fplain"
        await post_login(client)
        assert (await client.get("/plain")).text == "page"


async def test_a_function_below_another_decorator_redirects_without_an_application(auth: Auth, ann: User) -> None:
    def plain(function: Any) -> Any:
        async def wrapper(request: Request) -> Any:
            return await function(request)

        return wrapper

    @plain
    @login_required(login_url="/login")
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    router = Router([Route("/plain", page)])
    app = SessionMiddleware(AuthenticationMiddleware(router, auth=auth), store=auth.sessions, cookie=auth.cookie)
    async with client_of(app) as client:
        assert (await client.get("/plain")).headers["location"] == "/login?next=%2Fplain"
        await log_in(client, ann, auth)
        assert (await client.get("/plain")).text == "page"


async def test_a_refusal_passes_a_database_session_of_the_application(auth: Auth) -> None:
    """A dependency with `yield` sees the refusal as an exception, and can roll back."""
    log: list[str] = []

    async def transaction() -> AsyncIterator[None]:
        try:
            yield
            log.append("commit")
        except Exception:
            log.append("rollback")
            raise

    app = add_accounts(FastAPI(middleware=middleware(auth)), auth)
    app.add_api_route("/secret", endpoint, dependencies=[Depends(transaction), Depends(login_required)])
    async with client_of(app) as client:
        assert (await client.get("/secret")).status_code == 303
    assert log == ["rollback"]


async def test_a_dependency_without_the_middleware_is_reported(auth: Auth) -> None:
    app = FastAPI(dependencies=[Depends(login_required)])
    app.get("/")(endpoint)
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match=r"middleware=middleware\(auth\)"):
            await client.get("/")


# WebSockets


@pytest.mark.parametrize("place", ["route", "router", "app", "parameter", "decorated", "decorated sync", "decorator"])
@pytest.mark.parametrize("guard", GUARDS.values(), ids=GUARDS)
def test_a_dependency_of_a_websocket_refuses_before_the_endpoint_is_called(
    tmp_path: Any, guard: Any, place: str
) -> None:
    calls.clear()
    auth = Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/x"), secret_key="k" * 40, sessions=MemoryStore())

    async def dependency(websocket: WebSocket) -> Any:
        return websocket.user

    def sync_dependency(websocket: WebSocket) -> Any:
        return websocket.user

    async def socket(websocket: WebSocket) -> None:
        calls.append("endpoint")
        await websocket.accept()
        await websocket.close()

    async def with_user(websocket: WebSocket, user: Annotated[Any, Depends(guard)]) -> None:
        await socket(websocket)

    used = {"decorated": guard(dependency), "decorated sync": guard(sync_dependency)}.get(place, guard)
    if place == "decorated sync" and guard is GUARDS["user_passes_test(async)"]:
        pytest.skip("an async test needs an async dependency")
    app = FastAPI(
        middleware=middleware(auth),
        dependencies=[Depends(guard)] if place == "app" else [],
        lifespan=lifespan(auth, create_tables=True),
    )
    router = APIRouter(dependencies=[Depends(guard)] if place == "router" else [])
    endpoint = guard(socket) if place == "decorator" else with_user if place == "parameter" else socket
    dependencies = [Depends(used)] if place == "route" or place.startswith("decorated") else []
    router.websocket("/direct", dependencies=dependencies)(endpoint)
    app.include_router(router, prefix="/included")
    if place != "router":
        app.websocket("/direct", dependencies=dependencies)(endpoint)
    paths = ["/included/direct"] if place == "router" else ["/direct", "/included/direct"]
    with TestClient(app) as client:
        for path in paths:
            with pytest.raises(WebSocketDenialResponse) as denial, client.websocket_connect(path):
                """Is refused."""
            assert denial.value.status_code == 401
        assert calls == []


def test_a_dependency_of_a_websocket_lets_users_in(tmp_path: Any) -> None:
    auth = Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/x"), secret_key="k" * 40)
    app = add_accounts(FastAPI(middleware=middleware(auth), lifespan=lifespan(auth, create_tables=True)), auth)

    @app.post("/make")
    @login_not_required
    async def make() -> None:
        await auth.users.create_user("ann", password="correct horse battery staple")

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, user: Annotated[User, Depends(login_required)]) -> None:
        await websocket.accept()
        await websocket.send_text(user.username)
        await websocket.close()

    with TestClient(app) as client:
        client.post("/make", headers=SAME_ORIGIN)
        data = {"username": "ann", "password": "correct horse battery staple"}
        client.post("/accounts/login", data=data, headers=SAME_ORIGIN)
        with client.websocket_connect("/socket") as websocket:
            assert websocket.receive_text() == "ann"
