"""Tests of the CSRF protection."""

from typing import Any

import httpx
import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient, WebSocketDenialResponse

from starlette_auth import (
    Auth,
    AuthenticationMiddleware,
    Cookie,
    CSRFMiddleware,
    ImproperlyConfigured,
    MemoryStore,
    SessionMiddleware,
    User,
    csrf_input,
    csrf_token,
    middleware,
)

from ..conftest import PASSWORD, client_of, installed, post_login, token_in, with_tables
from ..support.apps import app_routes, make_app

pytestmark = with_tables


async def form(request: Request) -> Response:
    """A page of the application with a form that contains a CSRF token."""
    return HTMLResponse(f"<form method=post>{csrf_input(request)}</form>")


async def posted(request: Request) -> Response:
    async with request.form() as form:
        files = {name: len(await value.read()) for name, value in form.items() if not isinstance(value, str)}
        fields = {name: value for name, value in form.items() if isinstance(value, str) and name[0] != "c"}
    return JSONResponse({**fields, **files})


def app_of(auth: Auth) -> Starlette:
    return make_app(auth, Route("/form", form), Route("/post", posted, methods=["POST", "PUT"]))


@pytest.fixture
async def member(auth: Auth, ann: User) -> Any:
    """Yields a browser that is logged in."""
    async with client_of(app_of(auth)) as client:
        await post_login(client)
        yield client


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "none"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "cross-site", "origin": "http://testserver"}, 403),
        ({"sec-fetch-site": "no such word"}, 403),
        ({"origin": "http://testserver"}, 200),
        ({"origin": "HTTP://TESTSERVER"}, 200),
        ({"origin": "https://testserver"}, 403),
        ({"origin": "http://testserver:8080"}, 403),
        ({"origin": "http://testserver.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({}, 403),
    ],
)
async def test_the_fetch_metadata_and_origin_headers_decide(
    member: httpx.AsyncClient, headers: dict[str, str], status: int
) -> None:
    response = await member.post("/post", data={"a": "1"}, headers=headers)
    assert response.status_code == status
    assert (await member.put("/post", data={"a": "1"}, headers=headers)).status_code == status
    assert (await member.get("/members", headers=headers)).status_code == 200


async def test_trusted_origins_may_post_from_another_site(database: Database) -> None:
    async with (
        installed(database, trusted_origins=["https://Shop.example/"]) as auth,
        client_of(app_of(auth)) as client,
    ):
        await client.get("/remember?a=1")
        trusted = {"sec-fetch-site": "cross-site", "origin": "https://shop.example"}
        assert (await client.post("/post", data={}, headers=trusted)).status_code == 200
        untrusted = {"sec-fetch-site": "cross-site", "origin": "https://evil.example"}
        assert (await client.post("/post", data={}, headers=untrusted)).status_code == 403


async def test_without_origin_headers_a_token_is_required_and_the_body_arrives_complete(
    member: httpx.AsyncClient,
) -> None:
    token = token_in((await member.get("/form")).text)
    fields = {"csrfmiddlewaretoken": token, "a": "1"}
    assert (await member.post("/post", data=fields)).json() == {"a": "1"}
    upload = {"file": ("a.txt", b"x" * 70_000)}
    assert (await member.post("/post", data=fields, files=upload)).json() == {"a": "1", "file": 70_000}
    assert (await member.post("/post", json={}, headers={"x-csrftoken": token})).status_code == 200
    assert (await member.post("/post", data={"a": "1"}, headers={"x-csrftoken": token})).json() == {"a": "1"}


@pytest.mark.parametrize("token", ["", "x", "é", "A" * 86, "A" * 85, "!" * 86])
async def test_a_forged_token_is_rejected(member: httpx.AsyncClient, token: str) -> None:
    response = await member.post("/post", data={"csrfmiddlewaretoken": token})
    assert response.status_code == 403
    assert "load the page again" in response.text


async def test_a_token_is_bound_to_the_browser_and_the_session(auth: Auth, ann: User) -> None:
    app = app_of(auth)
    async with client_of(app) as browser, client_of(app) as other_browser:
        for client in (browser, other_browser):
            await client.get("/form")
        token_before_login = token_in((await browser.get("/form")).text)
        other_token = token_in((await other_browser.get("/form")).text)
        await post_login(browser)
        for token in (token_before_login, other_token):
            assert (await browser.post("/post", data={"csrfmiddlewaretoken": token})).status_code == 403
        new_token = token_in((await browser.get("/form")).text)
        assert (await browser.post("/post", data={"csrfmiddlewaretoken": new_token})).status_code == 200
        browser.cookies.delete("session_csrf")
        assert (await browser.post("/post", data={"csrfmiddlewaretoken": new_token})).status_code == 403


async def test_an_anonymous_token_stays_valid_when_a_session_starts(auth: Auth) -> None:
    async with client_of(app_of(auth)) as client:
        token = token_in((await client.get("/form")).text)
        await client.get("/remember?cart=1")
        assert (await client.post("/post", data={"csrfmiddlewaretoken": token})).status_code == 200


async def test_each_page_has_a_new_token_and_only_forms_set_a_cookie(auth: Auth) -> None:
    async with client_of(app_of(auth)) as client:
        assert "set-cookie" not in (await client.get("/")).headers
        first = await client.get("/form")
        assert first.headers["set-cookie"].startswith("session_csrf=")
        assert first.headers["cache-control"] == "no-store"
        second = await client.get("/form")
        assert "set-cookie" not in second.headers
        assert token_in(first.text) != token_in(second.text)


async def test_two_tokens_on_one_page_are_both_valid(auth: Auth) -> None:
    async def two_tokens(request: Request) -> Response:
        return JSONResponse([csrf_token(request), csrf_token(request)])

    app = make_app(auth, Route("/two", two_tokens), Route("/post", posted, methods=["POST"]))
    async with client_of(app) as client:
        for token in (await client.get("/two")).json():
            assert (await client.post("/post", headers={"x-csrftoken": token})).status_code == 200


async def test_strict_mode_requires_both_a_token_and_the_same_origin(database: Database) -> None:
    async with installed(database, csrf="strict") as auth, client_of(app_of(auth)) as client:
        token = token_in((await client.get("/form")).text)
        same_origin, cross_site = {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "cross-site"}
        assert (await client.post("/post", headers=same_origin)).status_code == 403
        assert (await client.post("/post", headers={**same_origin, "x-csrftoken": token})).status_code == 200
        assert (await client.post("/post", headers={**cross_site, "x-csrftoken": token})).status_code == 403


@pytest.mark.parametrize("headers", [{}, {"sec-fetch-site": "same-origin"}, {"origin": "http://testserver"}])
async def test_requests_without_session_cookies_need_no_token(auth: Auth, headers: dict[str, str]) -> None:
    async with client_of(app_of(auth)) as client:
        response = await client.post("/post", data={"a": "1"}, headers=headers)
        assert response.json() == {"a": "1"}


async def test_a_login_from_another_site_is_rejected_even_without_cookies(auth: Auth, ann: User) -> None:
    async with client_of(app_of(auth)) as client:
        data = {"username": "ann", "password": PASSWORD}
        for headers in ({"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
            response = await client.post("/accounts/login", data=data, headers=headers)
            assert response.status_code == 403
            assert "session" not in client.cookies
        # A client that is no browser sends neither header nor cookie, and may log in.
        assert (await client.post("/accounts/login", data=data)).status_code == 303


async def test_a_rejection_is_html_or_json_as_the_client_prefers(member: httpx.AsyncClient) -> None:
    page = await member.post("/post", headers={"accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert page.headers["cache-control"] == "no-store"
    response = await member.post("/post", headers={"accept": "application/json"})
    assert "token" in response.json()["detail"]
    assert "token" in (await member.post("/post", json={})).json()["detail"]


async def test_a_program_is_told_which_header_to_send(member: httpx.AsyncClient) -> None:
    bodies: list[dict[str, Any]] = [{}, {"json": {}}, {"data": {"a": "1"}}, {"files": {"a": b"1"}}]
    for options in bodies:
        response = await member.post("/post", headers={"accept": "*/*"}, **options)
        assert response.status_code == 403
        assert response.json()["detail"] == "The CSRF token is missing. Send the header Origin or X-CSRFToken."
    page = await member.post("/post", headers={"accept": "text/html"}, data={"a": "1"})
    assert "sent without its token" in page.text


async def test_a_large_body_is_not_searched_for_a_token(member: httpx.AsyncClient) -> None:
    token = token_in((await member.get("/form")).text)
    data = {"a": "x" * 1_200_000, "csrfmiddlewaretoken": token}
    assert (await member.post("/post", data=data)).status_code == 403
    plain = {"x-csrftoken": token, "content-type": "text/plain"}
    assert (await member.post("/post", content=b"x" * 1_200_000, headers=plain)).status_code == 200


async def test_a_malformed_body_contains_no_token(member: httpx.AsyncClient) -> None:
    for kind in ("multipart/form-data; boundary=x", "multipart/form-data", "text/plain"):
        response = await member.post("/post", content=b"--y\r\nbroken", headers={"content-type": kind})
        assert response.status_code == 403


async def test_a_secure_cookie_means_https_behind_a_proxy_that_terminates_tls(database: Database) -> None:
    async with installed(database, cookie=Cookie(secure=True)) as auth, client_of(app_of(auth)) as client:
        cookies = {"cookie": "__Host-session=x"}
        https_response = await client.post("/post", headers={**cookies, "origin": "https://testserver"})
        assert https_response.status_code == 200
        http_response = await client.post("/post", headers={**cookies, "origin": "http://testserver"})
        assert http_response.status_code == 403


def test_a_websocket_from_another_site_is_rejected(tmp_path: Any) -> None:
    database = Database(f"sqlite+aiosqlite:///{tmp_path}/sockets.sqlite3")
    auth = Auth(database, secret_key="k" * 40, sessions=MemoryStore())
    with TestClient(make_app(auth)) as client:
        client.get("/remember?a=1")
        websocket = client.websocket_connect("/echo", headers={"origin": "https://evil.example"})
        with pytest.raises(WebSocketDenialResponse) as denial, websocket:
            pass
        assert denial.value.status_code == 403
        for headers in ({"origin": "http://testserver"}, {}):
            with client.websocket_connect("/echo", headers=headers):
                pass


async def test_a_session_cookie_with_another_name_is_protected(auth: Auth, ann: User) -> None:
    stack = [
        Middleware(SessionMiddleware, store=auth.sessions, cookie=Cookie(name="sid")),
        Middleware(AuthenticationMiddleware, auth=auth),
        Middleware(CSRFMiddleware, auth=auth),
    ]
    app = Starlette(routes=app_routes(auth), middleware=stack)
    async with client_of(app) as client:
        await post_login(client)
        assert (await client.post("/members", headers={"sec-fetch-site": "cross-site"})).status_code == 403


async def test_a_missing_or_misplaced_middleware_is_reported(auth: Auth) -> None:
    only_csrf = Starlette(middleware=[Middleware(CSRFMiddleware, auth=auth)])
    async with client_of(only_csrf) as client:
        with pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
            await client.post("/")
    reversed_stack = Starlette(middleware=list(reversed(middleware(auth))))
    async with client_of(reversed_stack) as client:
        with pytest.raises(ImproperlyConfigured, match="middleware"):
            await client.post("/")
    sessions = Middleware(SessionMiddleware, store=MemoryStore())
    without_users = Starlette(middleware=[sessions, Middleware(CSRFMiddleware, auth=auth)])
    async with client_of(without_users) as client:
        with pytest.raises(ImproperlyConfigured, match="AuthenticationMiddleware"):
            await client.get("/")
    without_sessions = Starlette(middleware=[Middleware(AuthenticationMiddleware, auth=auth)])
    async with client_of(without_sessions) as client:
        with pytest.raises(ImproperlyConfigured, match="SessionMiddleware"):
            await client.get("/")


@pytest.mark.parametrize(
    ("referer", "status"),
    [
        ("http://testserver/form", 303),
        ("http://evil.example/form", 403),
        ("http://[evil", 403),
        ("https://shop.example/form", 303),
        ("", 303),
    ],
)
async def test_the_referer_is_checked_when_it_is_the_only_header(database: Database, referer: str, status: int) -> None:
    """The token alone is not enough: an attacker on a sibling subdomain may have set the cookie that it matches."""
    async with (
        installed(database, trusted_origins=["https://shop.example"]) as auth,
        client_of(make_app(auth)) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        token = token_in((await client.get("/accounts/password_change")).text)
        headers = {"referer": referer} if referer else {}
        response = await client.post("/accounts/logout", data={"csrfmiddlewaretoken": token}, headers=headers)
        assert response.status_code == status
