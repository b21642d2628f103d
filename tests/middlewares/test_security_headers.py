"""Tests of the security headers of a whole site, and of middleware(auth, login_required=True)."""

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket

from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    SecurityHeaders,
    SecurityHeadersMiddleware,
    User,
    login_not_required,
    login_required,
    middleware,
    routes,
)
from starlette_auth.testing import log_in

from ..conftest import any_database, client_of, installed, with_tables

pytestmark = [with_tables, any_database]

POLICY = "base-uri 'none'; object-src 'none'; frame-ancestors 'none'"
FIXED = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
YEAR = 365 * 24 * 60 * 60
HTTPS = "https://shop.example"


async def page(request: Request) -> Response:
    return PlainTextResponse("page")


async def own_headers(request: Request) -> Response:
    headers = {
        "Content-Security-Policy": "default-src 'self'",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "unsafe-none",
        "Strict-Transport-Security": "max-age=5",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, max-age=60",
    }
    return PlainTextResponse("page", headers=headers)


async def stream(request: Request) -> Response:
    async def parts() -> Any:
        yield "a"

    return StreamingResponse(parts())


async def missing(request: Request) -> Response:
    raise HTTPException(404)


async def echo(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("hello")
    await websocket.close()


@login_required
async def members(request: Request) -> Response:
    return JSONResponse({"user": request.user.username})


@login_not_required
async def public(request: Request) -> Response:
    return PlainTextResponse("public")


def make_app(auth: Auth, **options: Any) -> Starlette:
    return Starlette(
        routes=[
            Route("/page", page, methods=["GET", "POST"]),
            Route("/own", own_headers),
            Route("/stream", stream),
            Route("/missing", missing),
            Route("/redirect", RedirectResponse("/page")),
            Route("/members", members),
            Route("/public", public),
            Route("/static/style.css", page),
            WebSocketRoute("/echo", echo),
            Mount("/accounts", routes=routes(auth)),
        ],
        middleware=middleware(auth, exclude=["/static"], **options),
    )


#: Requests and the statuses of their responses.
RESPONSES: dict[tuple[str, str], int] = {
    ("GET", "/page"): 200,
    ("HEAD", "/page"): 200,
    ("POST", "/page"): 403,  # from another site
    ("PUT", "/page"): 405,
    ("GET", "/stream"): 200,
    ("GET", "/missing"): 404,
    ("GET", "/no/such/path"): 404,
    ("GET", "/redirect"): 307,
    ("GET", "/members"): 303,
    ("GET", "/static/style.css"): 200,
    ("GET", "/accounts/login"): 200,
    ("GET", "/accounts/auth.css"): 200,
    ("GET", "/accounts/password_change"): 303,
}


@pytest.mark.parametrize(("method", "path"), RESPONSES)
async def test_every_response_has_the_headers_once(auth: Auth, method: str, path: str) -> None:
    app = make_app(auth, headers=SecurityHeaders())
    for base_url in (HTTPS, "http://shop.example"):
        async with client_of(app, base_url=base_url) as client:
            site = {"sec-fetch-site": "cross-site"} if method == "POST" else {}
            answer = await client.request(method, path, headers=site)
            assert answer.status_code == RESPONSES[method, path]
            for name, value in FIXED.items():
                assert answer.headers.get_list(name) == [value]
            (policy,) = answer.headers.get_list("content-security-policy")
            assert "frame-ancestors 'none'" in policy
            hsts = [f"max-age={YEAR}"] if base_url == HTTPS else []
            assert answer.headers.get_list("strict-transport-security") == hsts


async def test_a_response_keeps_headers_of_its_own(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth, headers=SecurityHeaders()), base_url=HTTPS) as client:
        await log_in(client, ann, auth)
        answer = await client.get("/own")
        login = await client.get("/accounts/login")
    expected = (await own_headers(None)).headers  # type: ignore[arg-type]
    assert {name: answer.headers.get_list(name) for name in expected} == {name: [v] for name, v in expected.items()}
    assert login.headers["content-security-policy"].startswith("default-src 'none'")


async def test_responses_for_users_are_not_stored(auth: Auth, ann: User) -> None:
    app = make_app(auth, headers=SecurityHeaders())
    async with client_of(app, base_url=HTTPS) as client:
        for path in ("/page", "/static/style.css"):
            assert "cache-control" not in (await client.get(path)).headers
        await log_in(client, ann, auth)
        for path in ("/page", "/stream", "/missing", "/members", "/redirect"):
            assert (await client.get(path)).headers["cache-control"] == "no-store", path
        assert "cache-control" not in (await client.get("/static/style.css")).headers
        assert "immutable" in (await client.get("/accounts/auth.css")).headers["cache-control"]
    async with client_of(make_app(auth, headers=SecurityHeaders(no_store=False)), base_url=HTTPS) as client:
        await log_in(client, ann, auth)
        assert "cache-control" not in (await client.get("/page")).headers


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"hsts": 0}, "max-age=0"),
        ({"hsts": None}, None),
        ({"hsts_subdomains": True}, f"max-age={YEAR}; includeSubDomains"),
        ({"hsts_subdomains": True, "hsts_preload": True}, f"max-age={YEAR}; includeSubDomains; preload"),
    ],
)
async def test_strict_transport_security_can_be_set(auth: Auth, options: dict[str, Any], expected: str | None) -> None:
    async with client_of(make_app(auth, headers=SecurityHeaders(**options)), base_url=HTTPS) as client:
        assert (await client.get("/page")).headers.get("strict-transport-security") == expected


async def test_headers_can_be_set_and_left_out(auth: Auth) -> None:
    headers = SecurityHeaders(
        content_security_policy="default-src 'self'", referrer_policy="no-referrer", cross_origin_opener_policy=None
    )
    async with client_of(make_app(auth, headers=headers), base_url=HTTPS) as client:
        answer = (await client.get("/page")).headers
    assert (answer["content-security-policy"], answer["referrer-policy"]) == ("default-src 'self'", "no-referrer")
    assert "cross-origin-opener-policy" not in answer


async def test_without_the_option_nothing_is_added(auth: Auth) -> None:
    async with client_of(make_app(auth), base_url=HTTPS) as client:
        answer = (await client.get("/page")).headers
    assert not {*FIXED, "content-security-policy", "strict-transport-security"} & set(answer)


@pytest.mark.parametrize(
    ("base_url", "client_url", "is_sent"),
    [
        ("https://shop.example", "http://shop.example", True),  # behind a proxy that does not pass the scheme on
        ("https://shop.example", "http://localhost:8000", False),  # on the developer's machine
        ("http://shop.example", "http://shop.example", False),
        (None, "https://shop.example", True),
    ],
)
async def test_https_is_what_browsers_see(database: Any, base_url: str | None, client_url: str, is_sent: bool) -> None:
    """As for the `Secure` of cookies."""
    async with installed(database, base_url=base_url) as auth:
        app = make_app(auth, headers=SecurityHeaders())
        async with client_of(app, base_url=client_url) as client:
            assert ("strict-transport-security" in (await client.get("/page")).headers) == is_sent


async def test_the_middleware_works_alone() -> None:
    app = SecurityHeadersMiddleware(Starlette(routes=[Route("/", page)]))
    for base_url in (HTTPS, "http://shop.example"):
        async with client_of(app, base_url=base_url) as client:
            answer = (await client.get("/")).headers
            assert answer["content-security-policy"] == POLICY
            assert ("strict-transport-security" in answer) == (base_url == HTTPS)
            assert "cache-control" not in answer


def test_websockets_and_the_lifespan_pass_through(auth: Auth) -> None:
    with TestClient(make_app(auth, headers=SecurityHeaders())) as client, client.websocket_connect("/echo") as socket:
        assert socket.receive_text() == "hello"


@pytest.mark.parametrize(
    "options",
    [
        {"content_security_policy": 5},
        {"content_security_policy": "default-src 'self'\r\nSet-Cookie: a=b"},
        {"content_security_policy": "default-src ünsafe"},
        {"content_security_policy": ["default-src 'self'"]},
        {"referrer_policy": b"same-origin"},
        {"referrer_policy": "same-origin\n"},
        {"cross_origin_opener_policy": True},
        {"hsts": -1},
        {"hsts": True},
        {"hsts": "31536000"},
        {"hsts": 1.5},
        {"hsts_subdomains": 1},
        {"hsts_preload": True},
        {"hsts_preload": True, "hsts_subdomains": True, "hsts": 60},
        {"hsts_preload": True, "hsts_subdomains": True, "hsts": None},
        {"no_store": None},
    ],
)
def test_wrong_settings_are_refused_with_the_fix(options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"(Pass|Set|Use) .*\.$"):
        SecurityHeaders(**options)


@pytest.mark.parametrize("options", [{"headers": True}, {"headers": {}}, {"headers": SecurityHeaders}])
def test_wrong_headers_are_refused(auth: Auth, options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Pass headers=SecurityHeaders\(…\)\.$"):
        middleware(auth, **options)
    with pytest.raises(ImproperlyConfigured, match=r"Pass headers=SecurityHeaders\(…\)\.$"):
        SecurityHeadersMiddleware(Starlette(), **options)
    with pytest.raises(ImproperlyConfigured, match="Pass a function"):
        SecurityHeadersMiddleware(Starlette(), is_https=True)  # type: ignore[arg-type]


async def test_a_login_can_be_required_for_every_endpoint(auth: Auth, ann: User) -> None:
    app = make_app(auth, login_required=True)
    async with client_of(app) as client:
        for path in ("/page", "/stream", "/no/such/path", "/members"):
            assert (await client.get(path)).status_code == 303, path
        for path in ("/public", "/static/style.css", "/accounts/login"):
            assert (await client.get(path)).status_code == 200, path
        await log_in(client, ann, auth)
        assert (await client.get("/page")).text == "page"
    with pytest.raises(ImproperlyConfigured, match="login_required"):
        middleware(auth, login_required="/login")  # type: ignore[arg-type]
