"""Tests of the responses to refused requests: the kinds of clients times the kinds of refusals."""

from typing import Any

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    Refused,
    SessionInterrupted,
    Throttled,
    Unavailable,
    User,
    answer,
    authenticate,
    fresh_login_required,
    login_required,
    middleware,
    permission_required,
    routes,
)
from starlette_auth.testing import FrozenClock, browser_headers, log_in

from .conftest import any_database, client_of, installed, with_tables

pytestmark = [with_tables, any_database]

PROBLEM = "application/problem+json"
BEARER = {"authorization": "Bearer abc"}
HTMX = {"hx-request": "true", "hx-current-url": "http://testserver/shop?page=2", "accept": "*/*"}
#: The headers of each client. Those of browsers are what Chromium sends.
CLIENTS: dict[str, dict[str, str]] = {
    "bearer": BEARER,
    "htmx": HTMX,
    "navigation": browser_headers,
    "form": {**browser_headers, "sec-fetch-site": "same-origin"},
    "iframe": {**browser_headers, "sec-fetch-dest": "iframe"},
    "image": {"accept": "image/webp,*/*", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"},
    "script": {"accept": "*/*", "sec-fetch-mode": "no-cors", "sec-fetch-dest": "script"},
    "fetch": {"accept": "*/*", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    "fetch of a page": {"accept": "text/html", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    "EventSource": {"accept": "text/event-stream", "sec-fetch-mode": "cors", "sec-fetch-dest": "empty"},
    "JSON body": {"accept": "*/*", "content-type": "application/json"},
    "jQuery": {"accept": "text/html", "x-requested-with": "XMLHttpRequest"},
    "JSON accepted": {"accept": "application/json"},
    "old browser": {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"},
    "curl": {"accept": "*/*"},
    "nothing": {"accept": ""},
}
PAGES = ("navigation", "form", "iframe", "old browser")
PARTS = ("image", "script")
PROGRAMS = tuple(name for name in CLIENTS if name not in (*PAGES, *PARTS, "bearer", "htmx"))


@login_required
async def members(request: Request) -> Response:
    return PlainTextResponse("members")


@permission_required(["shop.view_order", "shop.add_order"])
def orders(request: Request) -> Response:
    return PlainTextResponse("orders")


@fresh_login_required(max_age=300)
async def danger(request: Request) -> Response:
    return PlainTextResponse("danger")


async def check(request: Request) -> Response:
    user = await authenticate(request, username="ann", password=request.query_params["password"])
    return PlainTextResponse("right" if user else "wrong")


async def interrupted(request: Request) -> Response:
    raise SessionInterrupted


async def unavailable(request: Request) -> Response:
    raise Unavailable("The database is away.")


ENDPOINTS = [
    Route("/members", members, methods=["GET", "POST"]),
    Route("/orders", orders),
    Route("/danger", danger),
    Route("/check", check),
    Route("/interrupted", interrupted),
    Route("/unavailable", unavailable),
]


def make_app(auth: Auth) -> Starlette:
    return Starlette(routes=[*ENDPOINTS, Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_visitor_is_told_to_log_in_as_the_client_understands_it(auth: Auth, client: str) -> None:
    async with client_of(make_app(auth)) as http:
        response = await http.get("/members?a=1", headers=CLIENTS[client])
    if client in PAGES:
        assert response.status_code == 303
        assert response.headers["location"] == "/accounts/login?next=%2Fmembers%3Fa%3D1"
        return
    assert response.status_code == 401
    assert response.headers["cache-control"] == "no-store"
    challenge = response.headers["www-authenticate"]
    if client == "bearer":
        assert challenge == 'Bearer realm="account", error="invalid_token"'
    else:
        assert challenge == 'Cookie realm="account"'
    if client == "htmx":
        assert response.headers["hx-redirect"] == "/accounts/login?next=%2Fshop%3Fpage%3D2"
    if client in (*PARTS, "htmx"):
        assert response.text == ""
        return
    assert response.headers["content-type"] == PROBLEM
    problem = response.json()
    assert (problem["status"], problem["code"], problem["login"]) == (401, "not_authenticated", "/accounts/login")


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_user_without_the_permission_gets_403_as_the_client_understands_it(
    auth: Auth, ann: User, client: str
) -> None:
    async with client_of(make_app(auth)) as http:
        await log_in(http, ann, auth)
        response = await http.get("/orders", headers=CLIENTS[client])
    assert response.status_code == 403
    assert "location" not in response.headers
    if client == "bearer":
        scope = 'error="insufficient_scope", scope="shop.view_order shop.add_order"'
        assert response.headers["www-authenticate"] == f'Bearer realm="account", {scope}'
    else:
        assert "www-authenticate" not in response.headers
    if client in PAGES:
        assert "<h1>You may not open this page</h1>" in response.text
        assert 'action="/accounts/logout"' in response.text
        assert 'value="/accounts/login?next=%2Forders"' in response.text
    elif client == "htmx":
        assert response.text.startswith("<p>You are logged in, but you may not do this.")
        assert response.headers["content-type"].startswith("text/html")
    elif client in PARTS:
        assert response.text == ""
    else:
        assert (response.headers["content-type"], response.json()["code"]) == (PROBLEM, "permission_denied")


@pytest.mark.parametrize("client", CLIENTS)
async def test_a_user_whose_login_is_too_old_is_asked_for_the_password(database: Any, client: str) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth, client_of(make_app(auth)) as http:
        await log_in(http, await auth.users.create_user("ann", password="correct horse battery staple"), auth)
        clock.tick(301)
        response = await http.get("/danger", headers=CLIENTS[client])
    page = "/accounts/reauthenticate"
    if client in PAGES:
        assert (response.status_code, response.headers["location"]) == (303, f"{page}?next=%2Fdanger")
    elif client == "htmx":
        assert response.status_code == 401
        assert response.headers["hx-redirect"] == f"{page}?next=%2Fshop%3Fpage%3D2"
    elif client in PARTS:
        assert (response.status_code, response.text) == (403, "")
    else:
        assert response.status_code == (401 if client == "bearer" else 403)
        assert (response.json()["code"], response.json()["reauthenticate"]) == ("login_too_old", page)
        if client == "bearer":
            error = 'error="insufficient_user_authentication", max_age="300"'
            assert response.headers["www-authenticate"] == f'Bearer realm="account", {error}'


ERRORS = {
    "/check?password=wrong": (429, "throttled", "Too many attempts"),
    "/interrupted": (400, "session_ended", "Your session has ended"),
    "/unavailable": (503, "unavailable", "Not available at the moment"),
}


@pytest.mark.parametrize("path", ERRORS)
@pytest.mark.parametrize("client", CLIENTS)
async def test_other_refusals_have_the_form_that_the_client_understands(
    auth: Auth, ann: User, client: str, path: str
) -> None:
    status, code, heading = ERRORS[path]
    async with client_of(make_app(auth)) as http:
        for _ in range(5 if status == 429 else 0):
            await http.get(path)
        response = await http.get(path, headers=CLIENTS[client])
    assert response.status_code == status
    assert ("retry-after" in response.headers) == (status in (429, 503))
    if client in PAGES:
        assert f"<h1>{heading}</h1>" in response.text
    elif client == "htmx":
        assert response.text.startswith("<p>")
    elif client in PARTS:
        assert response.text == ""
    else:
        assert (response.headers["content-type"], response.json()["code"]) == (PROBLEM, code)


async def test_a_request_of_another_site_is_rejected_with_a_page_a_problem_or_a_sentence(auth: Auth) -> None:
    headers = {"origin": "https://evil.example", "cookie": "session=x"}
    async with client_of(make_app(auth)) as http:
        page = await http.post("/members", headers=headers)
        assert (page.status_code, "<h1>Your request was not accepted</h1>" in page.text) == (403, True)
        program = await http.post("/members", headers={**headers, "accept": "*/*"})
        assert (program.status_code, program.json()["code"]) == (403, "csrf_failed")
        assert (await http.post("/members", headers={**headers, **HTMX})).text.startswith("<p>This request came from")


async def test_an_application_without_login_page_can_refuse_programs_and_htmx(auth: Auth) -> None:
    """An API needs no pages: only a browser that opens a page has to be redirected."""
    async with client_of(Starlette(routes=ENDPOINTS, middleware=middleware(auth))) as http:
        refused = await http.get("/members", headers={"accept": "*/*"})
        assert (refused.status_code, "login" in refused.json()) == (401, False)
        assert (await http.get("/members", headers=HTMX)).text.startswith("<p>Log in first")
        with pytest.raises(ImproperlyConfigured, match="no route with the name 'login'"):
            await http.get("/members")


async def test_a_url_of_another_site_is_no_page_to_return_to(auth: Auth) -> None:
    for url in ("https://evil.example/x", "//evil.example", "javascript:alert(1)", "/shop", ""):
        async with client_of(make_app(auth)) as http:
            response = await http.get("/members", headers={**HTMX, "hx-current-url": url})
            assert response.headers["hx-redirect"] == "/accounts/login", url


# Own answers


async def teapot(conn: HTTPConnection, refused: Refused) -> Response | None:
    return PlainTextResponse(refused.code, 418) if conn.headers["accept"] == "*/*" else None


def sync_teapot(conn: HTTPConnection, refused: Refused) -> Response | None:
    return PlainTextResponse(refused.code, 418) if conn.headers["accept"] == "*/*" else None


@pytest.mark.parametrize("function", [teapot, sync_teapot])
async def test_a_function_of_the_application_may_make_the_response(database: Any, function: Any) -> None:
    async with installed(database, answer=function) as auth, client_of(make_app(auth)) as http:
        for path, code in (("/members", "not_authenticated"), ("/unavailable", "unavailable")):
            own = await http.get(path, headers={"accept": "*/*"})
            assert (own.status_code, own.text) == (418, code)
        assert (await http.get("/members")).status_code == 303


async def test_a_function_that_returns_no_response_is_reported(database: Any) -> None:
    async with installed(database, answer=lambda conn, refused: "no") as auth, client_of(make_app(auth)) as http:
        with pytest.raises(ImproperlyConfigured, match=r"Return a Response, or None for the usual one\."):
            await http.get("/members")


async def test_handlers_of_the_application_come_first(auth: Auth, ann: User) -> None:
    async def forbidden(request: Request, error: Exception) -> Response:
        return PlainTextResponse("my own page", 403)

    app = Starlette(
        routes=[*ENDPOINTS, Mount("/accounts", routes=routes(auth))],
        middleware=middleware(auth),
        exception_handlers={403: forbidden},
    )
    async with client_of(app) as http:
        await log_in(http, ann, auth)
        assert (await http.get("/orders")).text == "my own page"


@pytest.mark.parametrize("handlers", [{}, {Refused: answer}], ids=["none", "ours"])
@pytest.mark.parametrize("is_mounted", [False, True])
async def test_dependencies_of_fastapi_refuse_as_decorators_do(
    auth: Auth, ann: User, handlers: Any, is_mounted: bool
) -> None:
    api = FastAPI(exception_handlers=handlers, middleware=[] if is_mounted else middleware(auth), openapi_url=None)
    api.get("/members", dependencies=[Depends(login_required)])(lambda: "members")
    api.get("/orders", dependencies=[Depends(permission_required("shop.view_order"))])(lambda: "orders")
    pages = Mount("/accounts", routes=routes(auth))
    app: Any = api
    if is_mounted:
        app = Starlette(routes=[pages, Mount("/", api)], middleware=middleware(auth))
    else:
        api.mount("/accounts", Starlette(routes=routes(auth)))
    async with client_of(app) as http:
        assert (await http.get("/members")).headers["location"] == "/accounts/login?next=%2Fmembers"
        refused = await http.get("/members", headers={"accept": "*/*"})
        assert (refused.status_code, refused.json()["code"]) == (401, "not_authenticated")
        await log_in(http, ann, auth)
        assert "<h1>You may not open this page</h1>" in (await http.get("/orders")).text
        refused = await http.get("/orders", headers={"accept": "*/*"})
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")


async def test_throttled_has_the_code_of_its_kind() -> None:
    assert Throttled(5).code == "throttled"
