"""Who is let in, who is asked to log in, and who is told no."""

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
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

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

from .conftest import client_of, post_login, with_tables
from .support.apps import app_routes, make_app, members, public, staff, vote

pytestmark = with_tables

SAME = {"origin": "http://testserver"}
GUARDED = ["/members", "/members-sync", "/vote", "/recount", "/staff", "/club"]


@pytest.mark.parametrize("path", GUARDED)
async def test_a_stranger_is_asked_to_log_in(auth: Auth, path: str) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.get(f"{path}?page=2&q=%C3%A9")
        assert response.status_code == 303
        assert response.headers["location"] == f"/accounts/login?next=%2F{path[1:]}%3Fpage%3D2%26q%3D%25C3%25A9"


async def test_a_client_that_wants_json_gets_401(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.get("/members", headers={"accept": "application/json"})
        assert (response.status_code, response.json()) == (
            401,
            {"detail": "Log in first, then send this request again."},
        )
        browser = await client.get("/members", headers={"accept": "text/html,application/json"})
        assert browser.status_code == 303


async def test_after_a_post_the_login_does_not_lead_back_to_it(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        assert (await client.post("/members")).headers["location"] == "/accounts/login"


async def test_who_lacks_a_permission_is_told_and_not_sent_in_circles(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        for path in ("/vote", "/recount", "/staff"):
            response = await client.get(path)
            assert response.status_code == 403
            assert "you may not do this" in response.text
        for path in ("/members", "/members-sync", "/club"):
            assert (await client.get(path)).status_code == 200


async def test_a_list_of_permissions_means_all(auth: Auth, ann: User) -> None:
    for name in ("polls.add_vote", "polls.delete_vote"):
        await auth.users.create_permission(name)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await auth.users.grant(ann, "polls.add_vote")
        assert (await client.get("/recount")).status_code == 403
        await auth.users.grant(ann, "polls.delete_vote")
        assert (await client.get("/recount")).text == "recounted"


async def test_single_methods_of_an_endpoint_can_be_guarded(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        assert (await client.get("/desk")).text == "open"
        assert (await client.post("/desk", headers=SAME)).status_code == 303
        assert (await client.delete("/desk", headers=SAME)).status_code == 303
        await post_login(client)
        assert (await client.post("/desk", headers=SAME)).status_code == 403
        assert (await client.delete("/desk", headers=SAME)).text == "deleted"


async def test_a_test_of_ones_own_may_wait(auth: Auth, ann: User) -> None:
    async def is_ann(user: Any) -> bool:
        return bool(user.username == "ann")

    @user_passes_test(is_ann)
    async def anns(request: Request) -> Response:
        return PlainTextResponse("hello ann")

    @user_passes_test(is_ann)
    def wrong(request: Request) -> Response:
        return PlainTextResponse("never")

    async with client_of(make_app(auth, Route("/anns", anns), Route("/wrong", wrong))) as client:
        assert (await client.get("/anns")).status_code == 303
        with pytest.raises(ImproperlyConfigured, match="async def"):
            await client.get("/wrong")
        await post_login(client)
        assert (await client.get("/anns")).text == "hello ann"


async def test_another_login_page_can_be_named(auth: Auth) -> None:
    @login_required(login_url="/door?from=here")
    async def room(request: Request) -> Response:
        return PlainTextResponse("room")

    async with client_of(make_app(auth, Route("/room", room))) as client:
        assert (await client.get("/room")).headers["location"] == "/door?from=here&next=%2Froom"


async def test_partial_functions_and_callable_objects_are_endpoints_too(auth: Auth, ann: User) -> None:
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


async def test_mistakes_are_explained(auth: Auth) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"app\.codename"):
        permission_required("add_vote")

    with pytest.raises(ImproperlyConfigured, match="empty list"):
        permission_required([])
    with pytest.raises(ImproperlyConfigured, match="Name the permission"):
        permission_required(members)  # type: ignore[arg-type]

    @login_required
    async def blind() -> None:
        """Has no request."""

    with pytest.raises(ImproperlyConfigured, match="request: Request"):
        await blind()
    async with client_of(Starlette(routes=[Route("/", members)])) as client:
        with pytest.raises(ImproperlyConfigured, match=r"middleware=middleware\(auth\)"):
            await client.get("/")
    unmounted = Starlette(routes=[Route("/", members)], middleware=middleware(auth))
    async with client_of(unmounted) as client:
        with pytest.raises(ImproperlyConfigured, match="Mount"):
            await client.get("/")


# Everywhere: below Mount, under a root_path, in FastAPI


async def test_an_application_inside_another_finds_the_login_page(auth: Auth, ann: User) -> None:
    inner = Starlette(routes=[Route("/members", members), Route("/vote", vote)])
    app = Starlette(
        routes=[Mount("/shop", app=inner), Mount("/accounts", routes=routes(auth))], middleware=middleware(auth)
    )
    async with client_of(app) as client:
        assert (await client.get("/shop/members")).headers["location"] == "/accounts/login?next=%2Fshop%2Fmembers"
        await post_login(client)
        assert (await client.get("/shop/members")).text == "members"
        assert (await client.get("/shop/vote")).status_code == 403


async def test_a_whole_application_can_be_mounted(auth: Auth, ann: User) -> None:
    app = Starlette(routes=[Mount("/site", app=make_app(auth))])
    async with client_of(app) as client:
        response = await client.get("/site/members")
        assert response.headers["location"] == "/site/accounts/login?next=%2Fsite%2Fmembers"
        page = await client.get(response.headers["location"])
        assert 'action="/site/accounts/login"' in page.text
        response = await client.post(response.headers["location"], data={"username": "ann"}, headers=SAME)
        assert response.status_code == 422


async def test_a_root_path_stands_in_front_of_every_link(auth: Auth, ann: User) -> None:
    inner = make_app(auth)

    async def served(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, "root_path": "/api", "path": "/api" + scope["path"]}, receive, send)

    async with client_of(served) as client:
        assert (await client.get("/members")).headers["location"] == "/api/accounts/login?next=%2Fapi%2Fmembers"
        assert (await post_login(client)).headers["location"] == "/api/"
        response = await client.post("/accounts/logout", headers=SAME)
        assert response.headers["location"] == "/api/accounts/logged_out"


async def test_fastapi_takes_the_same_arguments(auth: Auth, ann: User) -> None:
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


# Everything behind a login


@login_not_required
async def open_door(request: Request) -> Response:
    return PlainTextResponse("open")


@pytest.fixture
def walled(auth: Auth, tmp_path: Any) -> Starlette:
    mimetypes.init()  # reads a file of the system's the first time
    (tmp_path / "a.css").write_text("a{}")
    wall = Middleware(LoginRequiredMiddleware, exclude=("/static", "/healthz"))
    more = [
        Route("/open", open_door, methods=["GET"]),
        Route("/open", public, methods=["POST"]),
        Mount("/inner", routes=[Route("/open", open_door), Route("/closed", public)]),
        Mount("/static", app=StaticFiles(directory=tmp_path)),
        Mount("/files", app=StaticFiles(directory=tmp_path)),
    ]
    return Starlette(routes=[*more, *app_routes(auth)], middleware=[*middleware(auth), wall])


@pytest.mark.parametrize("path", ["/open", "/inner/open", "/accounts/login", "/accounts/auth.css", "/static/a.css"])
async def test_what_is_marked_or_excluded_stays_open(walled: Starlette, path: str) -> None:
    async with client_of(walled) as client:
        assert (await client.get(path)).status_code == 200


@pytest.mark.parametrize("path", ["/", "/inner/closed", "/inner/none", "/none", "/files/a.css", "/whoami", "/open/"])
async def test_everything_else_needs_a_login(walled: Starlette, ann: User, path: str) -> None:
    async with client_of(walled) as client:
        response = await client.get(path)
        assert response.status_code == 303
        assert response.headers["location"].startswith("/accounts/login?next=")
        await post_login(client)
        assert (await client.get(path)).status_code in (200, 307, 404)


async def test_one_method_that_is_open_does_not_open_another(walled: Starlette) -> None:
    async with client_of(walled) as client:
        assert (await client.post("/open")).status_code == 303
        assert (await client.delete("/open")).status_code in (303, 405)


async def test_a_wall_around_a_mounted_part_looks_at_that_part_only(auth: Auth) -> None:
    part = Mount(
        "/club",
        routes=[Route("/", public), Route("/accounts/login", public), Route("/open", open_door)],
        middleware=[Middleware(LoginRequiredMiddleware)],
    )
    app = Starlette(routes=[part, Route("/", open_door), *app_routes(auth)], middleware=middleware(auth))
    async with client_of(app) as client:
        assert (await client.get("/")).status_code == 200
        assert (await client.get("/club/open")).status_code == 200
        for path in ("/club/", "/club/accounts/login", "/club/none"):
            assert (await client.get(path)).status_code == 303


async def test_a_class_does_not_inherit_the_mark_of_being_open(auth: Auth) -> None:
    @login_not_required
    class Open(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("seen")

    class Closed(Open):
        """More than its parent shows."""

    wall = Middleware(LoginRequiredMiddleware)
    app = Starlette(
        routes=[Route("/is-open", Open), Route("/is-closed", Closed), *app_routes(auth)],
        middleware=[*middleware(auth), wall],
    )
    async with client_of(app) as client:
        assert (await client.get("/is-open")).status_code == 200
        assert (await client.get("/is-closed")).status_code == 303


async def test_an_excluded_path_has_no_user_to_ask_for(auth: Auth) -> None:
    app = Starlette(routes=[Route("/static/x", members)], middleware=middleware(auth, exclude=("/static",)))
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="exclude"):
            await client.get("/static/x")


async def test_the_wall_needs_to_know_who_is_there() -> None:
    async with client_of(Starlette(middleware=[Middleware(LoginRequiredMiddleware)])) as client:
        with pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
            await client.get("/")


def test_the_wall_stands_before_sockets_too(tmp_path: Any) -> None:
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
        with pytest.raises(WebSocketDisconnect) as refused, client.websocket_connect("/echo"):
            pass
        assert refused.value.code == 1008
        with client.websocket_connect("/open"):
            pass


def test_decorated_functions_keep_their_names() -> None:
    assert staff.__name__ == "staff"
