"""Tests against login CSRF: another site logs a visitor's browser in as the attacker's user."""

import functools
import inspect
from typing import Any

import httpx
import pytest
from blockbuster import BlockBuster
from databases import Database
from fastapi import FastAPI
from fastapi import Request as FastAPIRequest
from starlette.applications import Starlette
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_auth import (
    Auth,
    AuthenticationMiddleware,
    MemoryStore,
    PermissionDenied,
    SessionMiddleware,
    User,
    authenticate,
    complete_login,
    csrf_exempt,
    lifespan,
    login,
    login_required,
    middleware,
)

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

CREDENTIALS = {"username": "ann", "password": PASSWORD}
CROSS_SITE: list[dict[str, str]] = [
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "origin": "https://evil.example"},
    {"origin": "https://evil.example"},
    {"origin": "https://testserver"},
    {"origin": "null"},
    {"referer": "https://evil.example/"},
]
OWN_SITE: list[dict[str, str]] = [
    {},
    {"sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "none"},
    {"origin": "http://testserver"},
    {"sec-fetch-site": "cross-site", "origin": "https://shop.example"},
    {"origin": "https://shop.example"},
]


async def api_login(request: Request) -> Response:
    user = await authenticate(request, **await request.json())
    if user is None:
        return JSONResponse({}, 422)
    await login(request, user)
    return JSONResponse({"username": user.username})


async def api_complete(request: Request) -> Response:
    user = await authenticate(request, **await request.json())
    return JSONResponse({}, 422) if user is None else await complete_login(request, user)


async def hook(request: Request) -> Response:
    return JSONResponse({"taken": True})


class Hook(HTTPEndpoint):
    async def post(self, request: Request) -> Response:
        return JSONResponse({"taken": True})


class PartlyExempt(HTTPEndpoint):
    @csrf_exempt
    async def post(self, request: Request) -> Response:
        return JSONResponse({"taken": True})

    async def put(self, request: Request) -> Response:
        return JSONResponse({"taken": True})


def copy_of(endpoint: Any) -> Any:
    """Returns a copy that can be marked without a change to the original."""
    if inspect.isclass(endpoint):
        return type(endpoint.__name__, (endpoint,), {})

    @functools.wraps(endpoint)
    async def copy(request: Request) -> Response:
        response: Response = await endpoint(request)
        return response

    return copy


def app_of(auth: Auth, **options: Any) -> Starlette:
    pages = [
        Route("/login", api_login, methods=["GET", "POST", "PUT", "PATCH", "DELETE"]),
        Route("/complete", api_complete, methods=["POST"]),
        Route("/exempt/login", csrf_exempt(copy_of(api_login)), methods=["GET", "POST"]),
        Route("/exempt/complete", csrf_exempt(copy_of(api_complete)), methods=["POST"]),
        Route("/hook", csrf_exempt(copy_of(hook)), methods=["POST"]),
        Mount("/nested", routes=[Route("/{name}", csrf_exempt(copy_of(hook)), methods=["POST"])]),
        Route("/hook-class", csrf_exempt(copy_of(Hook))),
        Route("/hook-subclass", copy_of(csrf_exempt(copy_of(Hook)))),
        Route("/hook-method", PartlyExempt),
        Route("/checked", hook, methods=["POST"]),
        Route("/members-hook", login_required(csrf_exempt(copy_of(hook))), methods=["POST"]),
        Route("/members-class", login_required(csrf_exempt(copy_of(Hook)))),
    ]
    return make_app(auth, *pages, **options)


@pytest.fixture(params=["headers", "strict"])
async def client(request: pytest.FixtureRequest, database: Database) -> Any:
    options = {"csrf": request.param, "trusted_origins": ["https://shop.example"]}
    async with installed(database, **options) as auth, client_of(app_of(auth)) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        yield client


@pytest.mark.parametrize("path", ["/login", "/complete", "/exempt/login", "/exempt/complete"])
async def test_another_site_cannot_log_a_visitor_in(client: httpx.AsyncClient, path: str) -> None:
    for headers in CROSS_SITE:
        response = await client.post(path, json=CREDENTIALS, headers={**headers, "content-type": "text/plain"})
        assert response.status_code == 403, headers
        assert "another site" in response.text, headers
        assert not client.cookies, headers
        assert "set-cookie" not in response.headers, headers


@pytest.mark.parametrize("path", ["/login", "/complete", "/exempt/login", "/exempt/complete"])
async def test_the_site_itself_and_trusted_origins_can_log_a_visitor_in(client: httpx.AsyncClient, path: str) -> None:
    for headers in OWN_SITE:
        client.cookies.clear()
        response = await client.post(path, json=CREDENTIALS, headers=headers)
        assert response.status_code in (200, 303), headers
        assert "session" in client.cookies, headers


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
async def test_every_unsafe_method_is_checked(client: httpx.AsyncClient, method: str) -> None:
    cross_site = {"sec-fetch-site": "cross-site"}
    assert (await client.request(method, "/login", json=CREDENTIALS, headers=cross_site)).status_code == 403


async def test_a_link_on_another_site_may_log_in(client: httpx.AsyncClient) -> None:
    """The return from an OpenID provider and a link in a mail are such requests."""
    cross_site = {"sec-fetch-site": "cross-site"}
    assert (await client.request("GET", "/login", json=CREDENTIALS, headers=cross_site)).status_code == 200


@pytest.mark.parametrize("headers", CROSS_SITE, ids=str)
async def test_an_anonymous_request_from_another_site_is_rejected(
    client: httpx.AsyncClient, headers: dict[str, str]
) -> None:
    assert (await client.post("/checked", headers=headers)).status_code == 403
    assert (await client.post("/no-such-page", headers=headers)).status_code == 403


@pytest.mark.parametrize("has_session", [False, True])
@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/hook", 200),
        ("/nested/a", 200),
        ("/hook-class", 200),
        ("/hook-subclass", 403),
        ("/hook-method", 200),
        ("/members-hook", 303),
        ("/members-class", 303),
    ],
)
async def test_an_exempt_endpoint_takes_requests_from_other_sites(
    client: httpx.AsyncClient, path: str, status: int, has_session: bool
) -> None:
    if has_session:
        await client.get("/remember?a=1")
    for headers in CROSS_SITE:
        assert (await client.post(path, headers=headers)).status_code == status, headers
        assert (await client.put("/hook-method", headers=headers)).status_code == 403, headers


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer abc.def-_~+/=", 200),
        ("bearer abc", 200),
        ("Bearer", 403),
        ("Bearer ", 403),
        ("Bearerabc", 403),
        ("Basic YW5uOng=", 403),
        ("Basic Bearer abc", 403),
        ("Digest username=ann", 403),
        ("Negotiate abc", 403),
        ("", 403),
    ],
)
async def test_only_a_bearer_token_shows_that_a_page_may_send_this(
    client: httpx.AsyncClient, authorization: str, status: int
) -> None:
    for foreign in CROSS_SITE:
        headers = {**foreign, "authorization": authorization}
        assert (await client.post("/checked", headers=headers)).status_code == status, headers
        assert (await client.post("/login", json=CREDENTIALS, headers=headers)).status_code == 403, headers


async def test_two_authorization_headers_are_no_bearer_token(client: httpx.AsyncClient) -> None:
    headers = [("authorization", "Bearer a"), ("authorization", "Basic b"), ("sec-fetch-site", "cross-site")]
    assert (await client.post("/checked", headers=headers)).status_code == 403


@pytest.mark.parametrize(("language", "text"), [("en", "another site"), ("de", "einer anderen Website")])
async def test_login_is_refused_without_the_csrf_middleware_too(
    database: Database, blockbuster: BlockBuster, language: str, text: str
) -> None:
    """`login` and `complete_login` raise PermissionDenied, which an application can catch."""
    for function in blockbuster.functions.values():
        function.can_block_in("starlette_auth/core/translation.py", {"_read"})
    raised: list[PermissionDenied] = []

    async def watched(request: Request) -> Response:
        ann = await auth.users.get_by_username("ann")
        assert ann is not None
        with pytest.raises(PermissionDenied) as caught:
            await login(request, ann)
        raised.append(caught.value)
        return await complete_login(request, ann)

    async with installed(database, languages=["en", "de"]) as auth:
        await auth.users.create_user("ann")
        stack = [
            Middleware(SessionMiddleware, store=auth.sessions, cookie=auth.cookie),
            Middleware(AuthenticationMiddleware, auth=auth),
        ]
        app = Starlette(routes=[Route("/", watched, methods=["POST"])], middleware=stack)
        async with client_of(app) as client:
            headers = {"sec-fetch-site": "cross-site", "accept-language": language}
            response = await client.post("/", headers=headers)
            assert (response.status_code, len(raised)) == (403, 1)
            assert text in response.text
            assert not client.cookies


async def test_a_login_step_is_not_reached_from_another_site(auth: Auth, ann: User) -> None:
    async def step(request: Request, user: User) -> Response:
        return JSONResponse({"step": True})

    auth.login_steps.append(step)
    async with client_of(app_of(auth)) as client:
        headers = {"sec-fetch-site": "cross-site"}
        assert (await client.post("/exempt/complete", json=CREDENTIALS, headers=headers)).status_code == 403
        assert (await client.post("/exempt/complete", json=CREDENTIALS)).json() == {"step": True}


async def test_a_logged_in_user_stays_who_they_are(auth: Auth, ann: User) -> None:
    await auth.users.create_user("mal", password=PASSWORD)
    async with client_of(app_of(auth)) as client:
        await post_login(client)
        for path in ("/login", "/exempt/login"):
            data = {**CREDENTIALS, "username": "mal"}
            response = await client.post(path, json=data, headers={"sec-fetch-site": "cross-site"})
            assert response.status_code == 403
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_fastapi_answers_with_403_and_finds_the_mark(auth: Auth, ann: User) -> None:
    app = FastAPI(middleware=middleware(auth))

    @app.post("/callback")
    @csrf_exempt
    async def callback(request: FastAPIRequest) -> dict[str, bool]:
        await login(request, ann)
        return {"logged_in": True}

    @app.post("/hook")
    @csrf_exempt
    def hook() -> dict[str, bool]:
        return {"taken": True}

    async with client_of(app) as client:
        cross_site = {"sec-fetch-site": "cross-site"}
        assert (await client.post("/hook", headers=cross_site)).status_code == 200
        response = await client.post("/callback", headers={**cross_site, "accept": "*/*"})
        assert (response.status_code, response.json()["code"]) == (403, "cross_site")
        assert (await client.post("/callback")).status_code == 200


@csrf_exempt
async def exempt_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close()


@csrf_exempt
async def login_socket(websocket: WebSocket) -> None:
    user = await websocket.state.users.get_by_username("ann")
    await login(websocket, user)
    await websocket.accept()


@pytest.mark.parametrize("headers", CROSS_SITE[:6], ids=str)
@pytest.mark.parametrize(("path", "is_open"), [("/echo", False), ("/exempt", True), ("/login", False)])
def test_a_websocket_from_another_site_is_rejected_without_cookies_too(
    tmp_path: Any, headers: dict[str, str], path: str, is_open: bool
) -> None:

    auth = Auth(
        Database(f"sqlite+aiosqlite:///{tmp_path}/sockets.sqlite3"), secret_key="k" * 40, sessions=MemoryStore()
    )

    async def log_in(websocket: WebSocket) -> None:
        websocket.state.users = auth.users
        await login_socket(websocket)

    pages = [WebSocketRoute("/exempt", exempt_socket), WebSocketRoute("/login", csrf_exempt(log_in))]
    app = make_app(auth, *pages, lifespan=lifespan(auth, create_tables=True))
    with TestClient(app) as client:
        assert client.portal is not None
        client.portal.call(functools.partial(auth.users.create_user, "ann"))
        if is_open:
            with client.websocket_connect(path, headers=headers):
                pass
            return
        with pytest.raises(WebSocketDisconnect) as refusal, client.websocket_connect(path, headers=headers):
            pass
        if isinstance(refusal.value, WebSocketDenialResponse):  # of CSRFMiddleware
            assert refusal.value.status_code == 403
        else:  # of login()
            assert refusal.value.code == 1008
        assert not client.cookies
