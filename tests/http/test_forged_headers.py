"""Headers that an attacker chooses: refusals lead nowhere else, and no cache keeps them."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from fastapi import Depends, FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import Auth, login_required, middleware, routes
from starlette_auth.core.text import close_reason
from starlette_auth.fastapi import current_user

from ..conftest import any_database, with_tables
from ..support.uvicorn_server import served

pytestmark = [with_tables, any_database]

NAVIGATION = ["Sec-Fetch-Mode: navigate", "Sec-Fetch-Dest: document", "Accept: text/html"]


@login_required
async def members(request: Request) -> Response:
    return PlainTextResponse("members")


def make_app(auth: Auth) -> FastAPI:
    app = FastAPI(middleware=middleware(auth))
    app.api_route("/members", methods=["GET", "POST"], dependencies=[Depends(current_user)])(lambda: "members")
    app.mount("/accounts", Starlette(routes=routes(auth)))
    app.router.routes.append(Mount("/{tenant:path}/in", routes=[Route("/members", members, methods=["GET", "POST"])]))
    return app


@pytest.fixture(params=["", "/root"])
def root_path(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def port(auth: Auth, root_path: str) -> AsyncIterator[int]:
    async with served(make_app(auth), root_path=root_path) as port:
        yield port


async def request(port: int, line: str, *headers: str, host: str | None = "") -> tuple[int, dict[str, str]]:
    """Sends a request as it stands here. Returns the status and the headers of the response."""
    own = [] if host is None else [f"Host: {host or f'127.0.0.1:{port}'}"]
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write("\r\n".join([line, *own, *headers, "Connection: close", "", ""]).encode("latin-1"))
    response = (await asyncio.wait_for(reader.read(), 20)).decode()
    writer.close()
    first, *lines = response.partition("\r\n\r\n")[0].split("\r\n")
    names = [name.lower() for name, _, _ in (line.partition(":") for line in lines)]
    assert len(names) == len(set(names)), response
    return int(first.split()[1]), {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


async def test_htmx_is_sent_to_no_other_page(port: int, root_path: str) -> None:
    own, login = f"http://127.0.0.1:{port}", f"{root_path}/accounts/login"
    for url, target in (
        (f"{own}/shop?a=1", f"{login}?next=%2Fshop%3Fa%3D1"),
        (f"{own}/a%0d%0aSet-Cookie:x=1", f"{login}?next=%2Fa%250d%250aSet-Cookie%3Ax%3D1"),
        ("https://evil.example/x", login),
        (f"{own}//evil.example", login),
        (f"{own}/\\evil.example", login),
        (f"http://127.0.0.1:{port}@evil.example/", login),
        (f"http://evil.example#@127.0.0.1:{port}/", login),
        (f"http://127.0.0.1:{port + 1}/", login),
        (f"http://127.0.0.1:{port}.evil.example/", login),
        ("//evil.example", login),
        ("javascript:alert(1)", login),
        ("data:text/html,x", login),
        (f"{own}/\tx", login),
        (f"{own}/{'a' * 3000}", login),
        ("", login),
    ):
        status, headers = await request(port, "GET /members HTTP/1.1", "HX-Request: true", f"HX-Current-URL: {url}")
        assert (status, headers["hx-redirect"], headers["cache-control"]) == (401, target, "no-store"), url
        assert "location" not in headers
        assert headers["vary"] == "Cookie"


async def test_a_browser_is_sent_to_the_login_page_of_this_site_only(port: int, root_path: str) -> None:
    login = f"{root_path}/accounts/login?next=%2F"
    for line, headers in (
        ("GET /members HTTP/1.1", []),
        ("GET /members?next=//evil.example&next=https://evil.example HTTP/1.1", []),
        ("GET /members?a=%0d%0aSet-Cookie:x=1 HTTP/1.1", []),
        ("GET //evil.example/in/members HTTP/1.1", []),
        ("GET /%2Fevil.example/in/members HTTP/1.1", []),
        ("GET /%5Cevil.example/in/members HTTP/1.1", []),
        ("GET /javascript:alert(1)/in/members HTTP/1.1", []),
        ("GET /members HTTP/1.1", ["X-Forwarded-Host: evil.example", "X-Forwarded-Prefix: //evil.example"]),
        ("GET /members HTTP/1.1", ["X-Original-URL: //evil.example", "Forwarded: host=evil.example"]),
        ("GET /members HTTP/1.1", ["Authorization: Basic eDp5"]),
        ("POST /members HTTP/1.1", ["Referer: https://evil.example/x", "Sec-Fetch-Site: same-origin"]),
        ("POST /members HTTP/1.1", [f"Referer: http://127.0.0.1:{port}//evil.example/x", "Sec-Fetch-Site: none"]),
        ("POST //evil.example/in/members HTTP/1.1", ["Sec-Fetch-Site: same-origin", "Content-Length: 0"]),
        ("GET /members HTTP/1.0", []),
    ):
        status, answer = await request(port, line, *NAVIGATION, *headers)
        assert status == 303, line
        assert answer["location"].startswith(login), line
        assert not answer["location"].startswith((f"{login}%2F", f"{login}%5C")), line
        assert (answer["cache-control"], answer["vary"]) == ("no-store", "Cookie")
        assert "set-cookie" not in answer
    for host in ("evil.example", None):
        version = "1.1" if host else "1.0"
        status, answer = await request(port, f"GET /members HTTP/{version}", *NAVIGATION, host=host)
        assert (status, answer["location"].startswith(login)) == (303, True)


async def test_no_header_lets_a_visitor_in_or_makes_an_error(port: int) -> None:
    for header in (
        *("Authorization: Bearer", "Authorization: bearer  ", "Authorization: Bearer a, Basic b", "Authorization: x"),
        *("HX-Request: TRUE", "HX-Request: false", "HX-Boosted: true", "HX-Request: true\r\nAuthorization: Bearer x"),
        *("Sec-Fetch-Dest: DOCUMENT", "Sec-Fetch-Mode: cors\r\nSec-Fetch-Mode: navigate", "Sec-Fetch-Dest: \xff"),
        *(
            "Accept: \xff",
            "Accept: " + "a" * 9000,
            "Accept: text/html;q=0",
            "Accept:",
            "Accept: */*;q=0",
            "X-Requested-With:",
        ),
        *("Cookie: session=", "Cookie: session=x; session=y", "Cookie: \xff=\xff", "Content-Type: application/json; x"),
        *("X-Forwarded-User: ann", "Remote-User: ann", "Accept-Language: \xff;q=x", "Range: bytes=0-1"),
        *("If-None-Match: *", "If-Modified-Since: Thu, 01 Jan 2099 00:00:00 GMT", "Upgrade: websocket"),
    ):
        status, answer = await request(port, "GET /members HTTP/1.1", *header.split("\r\n"))
        assert status in (401, 303), header
        assert answer["cache-control"] == "no-store"
        assert ("www-authenticate" in answer) == (status == 401)
        assert "Basic" not in answer.get("www-authenticate", "")  # at which a browser asks for a password


@pytest.mark.parametrize("text", ["", "short", "ä" * 120, "a" + "ä" * 120, "語" * 100, "😀" * 50])
def test_a_reason_fits_into_the_frame_that_closes_a_websocket(text: str) -> None:
    reason = close_reason(text)
    assert len(reason.encode()) <= 123
    assert text.startswith(reason)
    assert len(reason.encode()) > 119 or reason == text
