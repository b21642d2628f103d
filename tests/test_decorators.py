"""Tests of the decorators and of LoginRequiredMiddleware: access, redirect to the login, 403."""

import functools
import mimetypes
from typing import Any

import pytest
from databases import Database
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route, Router, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket

from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    MemoryStore,
    User,
    login_not_required,
    login_required,
    middleware,
    permission_required,
    routes,
    user_passes_test,
)

from .conftest import any_database, client_of, post_login, with_tables
from .support.apps import app_routes, make_app, members, public, staff, vote

pytestmark = [with_tables, any_database]

SAME_ORIGIN = {"origin": "http://testserver"}
PROTECTED_PATHS = ["/members", "/members-sync", "/vote", "/recount", "/staff", "/club"]


@pytest.mark.parametrize("path", PROTECTED_PATHS)
async def test_an_anonymous_visitor_is_redirected_to_the_login_page(auth: Auth, path: str) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.get(f"{path}?page=2&q=%C3%A9")
        assert response.status_code == 303
        assert response.headers["location"] == f"/accounts/login?next=%2F{path[1:]}%3Fpage%3D2%26q%3D%25C3%25A9"


async def test_a_client_that_wants_json_gets_401(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.get("/members", headers={"accept": "application/json"})
        assert (response.status_code, response.json()) == (
            401,
            {
                "type": "about:blank",
                "title": "Unauthorized",
                "status": 401,
                "detail": "Log in first, then send this request again.",
                "code": "not_authenticated",
                "login": "/accounts/login",
            },
        )
        browser = await client.get("/members", headers={"accept": "text/html,application/json"})
        assert browser.status_code == 303


async def test_the_login_after_a_post_redirects_back_to_a_page(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        assert (await client.post("/members")).headers["location"] == "/accounts/login?next=%2Fmembers"


async def test_a_user_without_permission_gets_403_and_no_redirect(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        for path in ("/vote", "/recount", "/staff"):
            response = await client.get(path)
            assert response.status_code == 403
            assert "you may not do this" in response.text
        for path in ("/members", "/members-sync", "/club"):
            assert (await client.get(path)).status_code == 200


async def test_a_list_of_permissions_requires_all_of_them(auth: Auth, ann: User) -> None:
    for name in ("polls.add_vote", "polls.delete_vote"):
        await auth.users.create_permission(name)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await auth.users.grant(ann, "polls.add_vote")
        assert (await client.get("/recount")).status_code == 403
        await auth.users.grant(ann, "polls.delete_vote")
        assert (await client.get("/recount")).text == "recounted"


async def test_single_methods_of_an_endpoint_can_be_protected(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        assert (await client.get("/desk")).text == "open"
        assert (await client.post("/desk", headers=SAME_ORIGIN)).status_code == 303
        assert (await client.delete("/desk", headers=SAME_ORIGIN)).status_code == 401  # no browser opens a page so
        await post_login(client)
        assert (await client.post("/desk", headers=SAME_ORIGIN)).status_code == 403
        assert (await client.delete("/desk", headers=SAME_ORIGIN)).text == "deleted"


async def test_user_passes_test_accepts_a_coroutine(auth: Auth, ann: User) -> None:
    async def is_ann(user: Any) -> bool:
        return bool(user.username == "ann")

    @user_passes_test(is_ann)
    async def greet_ann(request: Request) -> Response:
        return PlainTextResponse("hello ann")

    @user_passes_test(is_ann)
    def sync_endpoint(request: Request) -> Response:
        return PlainTextResponse("hello ann")

    async with client_of(make_app(auth, Route("/anns", greet_ann), Route("/sync", sync_endpoint))) as client:
        for path in ("/anns", "/sync"):
            assert (await client.get(path)).status_code == 303
        await post_login(client)
        for path in ("/anns", "/sync"):
            assert (await client.get(path)).text == "hello ann"


async def test_the_login_page_can_be_set_per_endpoint(auth: Auth) -> None:
    @login_required(login_url="/door?from=here")
    async def room(request: Request) -> Response:
        return PlainTextResponse("room")

    async with client_of(make_app(auth, Route("/room", room))) as client:
        assert (await client.get("/room")).headers["location"] == "/door?from=here&next=%2Froom"


async def test_partial_functions_and_callable_objects_can_be_decorated(auth: Auth, ann: User) -> None:
    async def greet(request: Request, greeting: str) -> Response:
        return PlainTextResponse(greeting)

    class Greeter:
        async def __call__(self, request: Request) -> Response:
            return PlainTextResponse("called")

    partial = login_required(functools.partial(greet, greeting="hi"))
    app = make_app(auth, Route("/partial", partial), Route("/object", login_required(Greeter())))
    async with client_of(app) as client:
        assert (await client.get("/partial")).status_code == 303
        await post_login(client)
        assert (await client.get("/partial")).text == "hi"
        assert (await client.get("/object")).text == "called"


async def test_incorrect_use_is_reported_with_the_fix(auth: Auth) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"app\.codename"):
        permission_required("add_vote")

    with pytest.raises(ImproperlyConfigured, match="empty list"):
        permission_required([])
    with pytest.raises(ImproperlyConfigured, match="Name the permission"):
        permission_required(members)  # type: ignore[arg-type]

    @login_required
    async def without_request() -> None:
        """An endpoint that takes no request."""

    with pytest.raises(ImproperlyConfigured, match="request: Request"):
        await without_request()
    async with client_of(Starlette(routes=[Route("/", members)])) as client:
        with pytest.raises(ImproperlyConfigured, match=r"middleware=middleware\(auth\)"):
            await client.get("/")
    unmounted = Starlette(routes=[Route("/", members)], middleware=middleware(auth))
    async with client_of(unmounted) as client:
        with pytest.raises(ImproperlyConfigured, match="Mount"):
            await client.get("/")


# Below Mount, under a root_path, in FastAPI


async def test_a_mounted_application_redirects_to_the_outer_login_page(auth: Auth, ann: User) -> None:
    inner = Starlette(routes=[Route("/members", members), Route("/vote", vote)])
    app = Starlette(
        routes=[Mount("/shop", app=inner), Mount("/accounts", routes=routes(auth))], middleware=middleware(auth)
    )
    async with client_of(app) as client:
        assert (await client.get("/shop/members")).headers["location"] == "/accounts/login?next=%2Fshop%2Fmembers"
        await post_login(client)
        assert (await client.get("/shop/members")).text == "members"
        assert (await client.get("/shop/vote")).status_code == 403


async def test_an_application_with_its_login_page_can_be_mounted(auth: Auth, ann: User) -> None:
    app = Starlette(routes=[Mount("/site", app=make_app(auth))])
    async with client_of(app) as client:
        response = await client.get("/site/members")
        assert response.headers["location"] == "/site/accounts/login?next=%2Fsite%2Fmembers"
        page = await client.get(response.headers["location"])
        assert 'action="/site/accounts/login"' in page.text
        response = await client.post(response.headers["location"], data={"username": "ann"}, headers=SAME_ORIGIN)
        assert response.status_code == 422


async def test_every_url_starts_with_the_root_path(auth: Auth, ann: User) -> None:
    inner = make_app(auth)

    async def app_with_root_path(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/api", "path": "/api" + scope["path"]}, receive, send)

    async with client_of(app_with_root_path) as client:
        assert (await client.get("/members")).headers["location"] == "/api/accounts/login?next=%2Fapi%2Fmembers"
        assert (await post_login(client)).headers["location"] == "/api/"
        response = await client.post("/accounts/logout", headers=SAME_ORIGIN)
        assert response.headers["location"] == "/api/accounts/logged_out"


async def test_decorated_endpoints_keep_their_fastapi_parameters(auth: Auth, ann: User) -> None:
    app = FastAPI(middleware=middleware(auth))
    app.mount("/accounts", Router(routes=routes(auth)))

    def page_size(size: int = 10) -> int:
        return size

    @app.get("/items")
    @permission_required("shop.view_item")
    async def items(request: Request, q: str, size: int = Depends(page_size)) -> dict[str, Any]:
        return {"q": q, "size": size, "user": request.user.username}

    @app.get("/sync")
    @login_required
    def sync(request: Request) -> str:
        return str(request.user.username)

    await auth.users.create_permission("shop.view_item")
    async with client_of(app) as client:
        assert (await client.get("/items?q=x")).status_code == 303
        await post_login(client)
        assert (await client.get("/items?q=x")).status_code == 403
        await auth.users.grant(ann, "shop.view_item")
        assert (await client.get("/items?q=x&size=5")).json() == {"q": "x", "size": 5, "user": "ann"}
        assert (await client.get("/items")).status_code == 422
        assert (await client.get("/sync")).json() == "ann"


# LoginRequiredMiddleware


@login_not_required
async def open_page(request: Request) -> Response:
    return PlainTextResponse("open")


@pytest.fixture
def login_required_app(auth: Auth, tmp_path: Any) -> Starlette:
    mimetypes.init()  # reads a system file on first use
    (tmp_path / "a.css").write_text("a{}")
    login_middleware = Middleware(LoginRequiredMiddleware, exclude=("/static", "/healthz"))
    more_routes = [
        Route("/open", open_page, methods=["GET"]),
        Route("/open", public, methods=["POST"]),
        Mount("/inner", routes=[Route("/open", open_page), Route("/closed", public)]),
        Mount("/static", app=StaticFiles(directory=tmp_path)),
        Mount("/files", app=StaticFiles(directory=tmp_path)),
    ]
    return Starlette(routes=[*more_routes, *app_routes(auth)], middleware=[*middleware(auth), login_middleware])


@pytest.mark.parametrize("path", ["/open", "/inner/open", "/accounts/login", "/accounts/auth.css", "/static/a.css"])
async def test_marked_endpoints_and_excluded_paths_need_no_login(login_required_app: Starlette, path: str) -> None:
    async with client_of(login_required_app) as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/inner/closed", "/inner/none", "/none", "/files/a.css", "/whoami", "/open/"])
async def test_all_other_paths_need_a_login(login_required_app: Starlette, ann: User, path: str) -> None:
    async with client_of(login_required_app) as client:
        response = await client.get(path)
        assert response.status_code == 303
        assert response.headers["location"].startswith("/accounts/login?next=")
        await post_login(client)
        assert (await client.get(path)).status_code in (200, 307, 404)


async def test_login_not_required_applies_to_the_marked_method_only(login_required_app: Starlette) -> None:
    async with client_of(login_required_app) as client:
        assert (await client.post("/open")).status_code == 303
        assert (await client.delete("/open")).status_code in (303, 405)


async def test_the_middleware_of_a_mount_protects_only_that_mount(auth: Auth) -> None:
    club = Mount(
        "/club",
        routes=[Route("/", public), Route("/accounts/login", public), Route("/open", open_page)],
        middleware=[Middleware(LoginRequiredMiddleware)],
    )
    app = Starlette(routes=[club, Route("/", open_page), *app_routes(auth)], middleware=middleware(auth))
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/club/open")).status_code == 200
        for path in ("/club/", "/club/accounts/login", "/club/none"):
            assert (await client.get(path)).status_code == 303


async def test_a_subclass_does_not_inherit_login_not_required(auth: Auth) -> None:
    @login_not_required
    class Open(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("seen")

    class Closed(Open):
        """A subclass without the decorator."""

    login_middleware = Middleware(LoginRequiredMiddleware)
    app = Starlette(
        routes=[Route("/is-open", Open), Route("/is-closed", Closed), *app_routes(auth)],
        middleware=[*middleware(auth), login_middleware],
    )
    async with client_of(app) as client:
        assert (await client.get("/is-open")).status_code == 200
        assert (await client.get("/is-closed")).status_code == 303


async def test_a_protected_endpoint_on_an_excluded_path_is_reported(auth: Auth) -> None:
    app = Starlette(routes=[Route("/static/x", members)], middleware=middleware(auth, exclude=("/static",)))
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="exclude"):
            await client.get("/static/x")


async def test_login_required_middleware_needs_authentication_middleware() -> None:
    async with client_of(Starlette(middleware=[Middleware(LoginRequiredMiddleware)])) as client:
        with pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
            await client.get("/")


def test_login_required_middleware_protects_websockets_too(tmp_path: Any) -> None:
    @login_not_required
    async def open_socket(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.close()

    auth = Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/x"), secret_key="k" * 40, sessions=MemoryStore())
    app = Starlette(
        routes=[WebSocketRoute("/open", open_socket), *app_routes(auth)],
        middleware=[*middleware(auth), Middleware(LoginRequiredMiddleware)],
    )
    with TestClient(app) as client:
        with pytest.raises(WebSocketDenialResponse) as denial, client.websocket_connect("/echo"):
            pass
        assert denial.value.status_code == 401
        with client.websocket_connect("/open"):
            pass


def test_decorated_functions_keep_their_names() -> None:
    assert staff.__name__ == "staff"
