"""Uploads by visitors who may not: through uvicorn, nothing of the body reaches the application."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Body, Depends, FastAPI, Form, Security, UploadFile
from pydantic import BaseModel
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from starlette_auth import (
    Auth,
    LoginRequiredMiddleware,
    Unavailable,
    User,
    login_required,
    logout,
    middleware,
    permission_required,
    routes,
    user_passes_test,
)
from starlette_auth.fastapi import CurrentUser, current_user, fresh_login, requires
from starlette_auth.testing import log_in

from ..conftest import any_database, client_of, with_tables
from ..support.uvicorn_server import served

pytestmark = [with_tables, any_database]

PERM = "shop.add_order"
SIZE = 50 * 1024 * 1024
PART = b"a" * 65536
MULTIPART = "multipart/form-data; boundary=B"
#: By the last segment of the path: the media type, and how the body begins. All of them are broken.
BODIES = {
    "upload": (MULTIPART, b'--B\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\n'),
    "json": ("application/json", b'{"number": '),
    "form": ("application/x-www-form-urlencoded", b"number=a&x="),
    "bytes": ("application/octet-stream", b""),
}
PROGRAM = {"accept": "*/*"}


class Order(BaseModel):
    number: int


def add_routes(router: FastAPI | APIRouter, name: str, guard: Any) -> None:
    methods, options = ["POST", "PUT", "PATCH", "DELETE", "GET"], {"dependencies": [guard]}

    @router.api_route(f"/{name}/upload", methods=methods, **options)  # type: ignore[arg-type]
    async def upload(file: UploadFile) -> int:
        return len(await file.read())

    @router.api_route(f"/{name}/json", methods=methods, **options)  # type: ignore[arg-type]
    async def json(order: Order) -> int:
        return order.number

    @router.api_route(f"/{name}/form", methods=methods, **options)  # type: ignore[arg-type]
    def form(number: Annotated[int, Form()]) -> int:
        return number

    @router.api_route(f"/{name}/bytes", methods=methods, **options)  # type: ignore[arg-type]
    async def raw(data: Annotated[bytes, Body(media_type="application/octet-stream")]) -> int:
        return len(data)


def new_endpoint() -> Any:
    async def endpoint(order: Order) -> int:
        return order.number

    return endpoint


def add_decorated(router: FastAPI | APIRouter) -> None:
    @router.post("/decorated/json")
    @login_required
    async def decorated(request: Request, order: Order) -> int:
        return order.number

    @router.post("/decorated/upload")
    @permission_required(PERM)
    def decorated_sync(request: Request, file: UploadFile) -> int:
        return file.size or 0

    class Counter:
        @login_required
        async def __call__(self, request: Request, order: Order) -> int:
            return order.number

    class Shopper:
        @permission_required(PERM)
        def __call__(self, request: Request) -> Any:
            return request.user

    router.post("/object/json")(Counter())
    router.post("/shopper/json", dependencies=[Depends(Shopper())])(new_endpoint())

    @router.post("/kept/form")
    @login_required(keep=("number",))
    async def kept(request: Request, number: Annotated[int, Form()]) -> int:
        return number


@login_required
async def starlette_endpoint(request: Request) -> Response:
    return PlainTextResponse(str(len(await request.body())))


GUARDS = {
    "login": Depends(login_required),
    "user": Depends(current_user),
    "permission": Depends(requires(PERM)),
    "scopes": Security(current_user, scopes=[PERM]),
    "fresh": Depends(fresh_login()),
}
OF_PERMISSIONS = [f"/{name}/{kind}" for name in ("permission", "scopes") for kind in BODIES]
PATHS = [f"/{name}/{kind}" for name in GUARDS for kind in BODIES]
NESTED = [
    *(
        f"{prefix}{path}"
        for prefix in ("/included", "/mounted", "/in/router")
        for path in ("/user/json", "/scopes/upload")
    ),
    *(
        f"{prefix}/decorated/{kind}"
        for prefix in ("", "/included", "/mounted", "/in/router")
        for kind in ("json", "upload")
    ),
    *("/kept/form", "/starlette/bytes", "/object/json", "/included/shopper/json"),
]


class CountingBytes:
    """Counts what the application reads of each request body. It stands outside of all middlewares."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.size = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def count() -> Any:
            message = await receive()
            self.size += len(message.get("body", b""))
            return message

        self.size = 0
        await self.app(scope, count, send)


def make_app(auth: Auth) -> CountingBytes:
    app, router, inner, between = FastAPI(middleware=middleware(auth)), APIRouter(), FastAPI(), APIRouter()
    for part in (app, router, inner):
        for name, guard in GUARDS.items():
            add_routes(part, name, guard)
        add_decorated(part)
    app.include_router(router, prefix="/included")
    app.mount("/mounted", inner)
    between.mount("/router", inner)
    app.include_router(between, prefix="/in")
    app.router.routes += [Mount("/accounts", routes=routes(auth)), Mount("/in/router", inner)]
    app.router.routes.append(
        Mount("/starlette", Starlette(routes=[Route("/bytes", starlette_endpoint, methods=["POST"])]))
    )

    @app.post("/stay")
    async def stay(request: Request, user: CurrentUser) -> int:
        await logout(request)
        return len(await request.body())

    return CountingBytes(app)


class Site:
    def __init__(self, app: CountingBytes, port: int) -> None:
        self.app = app
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def send(
        self, path: str, *, method: str = "POST", framing: str = "length", size: int = SIZE, **headers: str
    ) -> tuple[int, int, bytes]:
        """Sends a body until the response comes. Returns its status, how many bytes were read, and the response."""
        media_type, start = BODIES[path.rpartition("/")[2]]
        fields = {"host": f"127.0.0.1:{self.port}", "content-type": media_type, **PROGRAM, **headers}
        fields |= {"transfer-encoding": "chunked"} if framing == "chunked" else {"content-length": str(size)}
        fields |= {"expect": "100-continue"} if framing == "expect" else {}
        lines = [f"{method} {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in fields.items())]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write("\r\n".join([*lines, "", ""]).encode())
        response = asyncio.ensure_future(reader.readuntil(b"\r\n\r\n"))
        parts = iter(()) if framing == "expect" else body_parts(start, size)
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(b"%x\r\n%b\r\n" % (len(part), part) if framing == "chunked" else part)
                await writer.drain()
                if response.done():
                    break
        head = await asyncio.wait_for(response, 20)
        writer.close()
        return int(head.split()[1]), self.app.size, head


def body_parts(start: bytes, size: int) -> Iterator[bytes]:
    yield start
    size -= len(start)
    while size > 0:
        yield PART[:size]
        size -= len(PART)


@pytest.fixture
async def site(auth: Auth) -> AsyncIterator[Site]:
    app = make_app(auth)
    async with served(app) as port:
        yield Site(app, port)


async def cookies_of(auth: Auth, user: User) -> str:
    async with client_of(make_app(auth)) as client:
        await log_in(client, user, auth)
        return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


async def test_nothing_is_read_of_a_visitors_upload(site: Site) -> None:
    for path in (*PATHS, *NESTED):
        for framing in ("length", "chunked", "expect"):
            status, size, head = await site.send(path, framing=framing)
            assert (status, size) == (401, 0), (path, framing)
            assert b"cache-control: no-store" in head
    for method in ("PUT", "PATCH", "DELETE", "GET"):
        for path in PATHS[:8]:
            assert (await site.send(path, method=method))[:2] == (401, 0), (path, method)


async def test_nothing_is_read_of_the_upload_of_a_user_without_the_permission(
    site: Site, auth: Auth, ann: User
) -> None:
    cookie = await cookies_of(auth, ann)
    for path in (*OF_PERMISSIONS, *(path for path in NESTED if "scopes" in path or path.endswith("decorated/upload"))):
        variants: list[tuple[str, dict[str, Any]]] = [
            ("length", {"sec_fetch_site": "same-origin"}),
            ("chunked", {"origin": site.url}),
            ("expect", {}),  # a program
            ("chunked", {}),
        ]
        for framing, headers in variants:
            status, size, _ = await site.send(path, framing=framing, cookie=cookie, **headers)
            assert (status, size) == (403, 0), (path, framing, headers)
    assert (await site.send(OF_PERMISSIONS[0], method="GET", cookie=cookie))[:2] == (403, 0)
    assert (await site.send("/permission/upload", cookie=cookie, origin="https://evil.example"))[:2] == (403, 0)


async def test_nothing_is_read_of_the_upload_of_a_program_whose_session_has_ended(
    site: Site, auth: Auth, ann: User
) -> None:
    """CSRFMiddleware searches the form of a request with cookies for the token, but only if the guards let it pass."""
    cookie = await cookies_of(auth, ann)
    await auth.user_sessions.revoke_all(ann)
    for path in ("/permission/upload", "/login/form", "/included/user/json", "/in/router/scopes/upload"):
        assert (await site.send(path, cookie=cookie))[:2] == (401, 0), path


async def test_an_old_browser_sends_at_most_one_mebibyte_before_it_is_refused(
    site: Site, auth: Auth, ann: User
) -> None:
    """It names no origin, so that only the token in the form can tell where the form is from."""
    status, size, _ = await site.send("/permission/upload", cookie=await cookies_of(auth, ann), accept="text/html")
    assert status == 403
    assert size < 1.5 * 1024 * 1024


async def test_a_browser_sends_as_much_as_a_form_that_is_kept_may_have(site: Site) -> None:
    headers: dict[str, Any] = {
        "sec_fetch_mode": "navigate",
        "sec_fetch_dest": "document",
        "sec_fetch_site": "same-origin",
    }
    for framing in ("length", "chunked"):
        status, size, _ = await site.send("/kept/form", framing=framing, accept="text/html", **headers)
        assert status == 303
        assert size <= 2 * len(PART)
        status, size, _ = await site.send("/user/form", framing=framing, accept="text/html", **headers)
        assert (status, size) == (303, 0)


async def test_a_site_that_requires_a_login_everywhere_reads_no_upload_of_a_visitor(auth: Auth) -> None:
    app = make_app(auth)
    app.app.user_middleware.append(Middleware(LoginRequiredMiddleware))
    async with served(app) as port:
        for path in ("/user/upload", "/kept/form", "/starlette/bytes", "/in/router/user/json"):
            assert (await Site(app, port).send(path))[:2] == (401, 0), path


async def test_only_users_whom_the_guard_lets_in_learn_of_errors_in_the_data(site: Site, auth: Auth, ann: User) -> None:
    cookie = await cookies_of(auth, ann)
    for path, statuses in (
        *((f"/{name}/{kind}", (401, 403)) for name in ("permission", "scopes") for kind in ("json", "form")),
        *((f"/{name}/json", (401, 422)) for name in ("login", "user", "fresh")),
        *((f"{prefix}/decorated/json", (401, 422)) for prefix in ("", "/included", "/mounted", "/in/router")),
    ):
        async with httpx.AsyncClient(base_url=site.url, headers={**PROGRAM, "origin": site.url}) as client:
            media_type, start = BODIES[path.rpartition("/")[2]]
            found: list[int] = []
            for headers in ({}, {"cookie": cookie}):
                options: dict[str, Any] = {"content": start, "headers": {"content-type": media_type, **headers}}
                found.append((await client.post(path, **options)).status_code)
        assert tuple(found) == statuses, path
    await auth.users.create_permission(PERM)
    await auth.users.grant(ann, PERM)
    for path in ("/permission/json", "/scopes/json", "/permission/form"):
        assert (await site.send(path, size=1000, cookie=cookie, origin=site.url))[0] == 422
    status, size, _ = await site.send("/permission/bytes", size=1_000_000, cookie=cookie, origin=site.url)
    assert (status, size) == (200, 1_000_000)


async def test_the_connection_serves_further_requests(site: Site) -> None:
    """The server drops the rest of the body. A client that sends all of it before it reads gets the response, too."""
    reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
    head = f"host: 127.0.0.1\r\naccept: */*\r\ncontent-type: {MULTIPART}\r\ncontent-length: {SIZE}\r\n\r\n"
    for _ in range(2):
        writer.write(f"POST /user/upload HTTP/1.1\r\n{head}".encode())
        for part in body_parts(b"", SIZE):
            writer.write(part)
            await writer.drain()
        response = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20)
        assert response.startswith(b"HTTP/1.1 401 ")
        assert site.app.size == 0
        length = next(
            int(line.split(b":")[1]) for line in response.split(b"\r\n") if line.startswith(b"content-length")
        )
        assert b"not_authenticated" in await reader.readexactly(length)
    writer.write(b"POST /user/json HTTP/1.0\r\nhost: 127.0.0.1\r\ncontent-length: 1\r\n\r\n{")
    assert b" 401 " in await asyncio.wait_for(reader.read(), 20)
    writer.close()


async def test_httpx_and_curl_get_the_refusal_of_an_upload(site: Site, tmp_path: Path) -> None:
    async def parts() -> AsyncIterator[bytes]:
        for part in body_parts(BODIES["upload"][1], SIZE):
            yield part

    async with httpx.AsyncClient(base_url=site.url, headers={"content-type": MULTIPART}) as client:
        refused = await client.post("/user/upload", content=parts())
        assert (refused.status_code, refused.json()["code"], site.app.size) == (401, "not_authenticated", 0)
    assert shutil.which("curl"), "curl is missing"
    file = tmp_path / "file"
    with file.open("wb") as output:
        output.truncate(SIZE)
    for options in (["-F", f"file=@{file}"], ["--data-binary", f"@{file}", "-H", "content-type: application/json"]):
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", *options, "-w", " %{http_code} %{size_upload}", f"{site.url}/user/upload"),
            stdout=asyncio.subprocess.PIPE,
        )
        output_of_curl, _ = await asyncio.wait_for(process.communicate(), 60)
        assert process.returncode == 0
        assert output_of_curl.split()[-2] == b"401"
        assert b"not_authenticated" in output_of_curl
        assert site.app.size == 0


async def test_an_endpoint_may_log_out_and_read_the_body_afterwards(site: Site, auth: Auth, ann: User) -> None:
    """The guard has let the request pass already."""
    headers = {"origin": site.url, "cookie": await cookies_of(auth, ann)}
    async with httpx.AsyncClient(base_url=site.url, headers=headers) as client:
        assert (await client.post("/stay", content=b"abc")).json() == 3


async def test_a_test_of_the_application_may_override_a_guard(auth: Auth) -> None:
    app = make_app(auth)
    app.app.dependency_overrides = {current_user: lambda: None, login_required: lambda: None}
    async with client_of(app, headers=PROGRAM) as client:
        for path in ("/user/json", "/login/json", "/included/user/json", "/scopes/json"):
            assert (await client.post(path, json={"number": 5})).json() == 5
        for path in ("/permission/json", "/mounted/user/json"):
            assert (await client.post(path, json={"number": 5})).status_code == 401


async def test_errors_of_a_guard_are_no_errors_of_the_body(auth: Auth) -> None:
    def crash(user: Any) -> bool:
        raise RuntimeError("The test of the application is broken.")

    def teapot(user: Any) -> bool:
        raise HTTPException(418)

    def away(user: Any) -> bool:
        raise Unavailable("The database is away.")

    app = FastAPI(middleware=middleware(auth))
    for test in (crash, teapot, away):
        add_routes(app, test.__name__, Depends(user_passes_test(test)))
    async with client_of(app, headers=PROGRAM) as client:
        assert (await client.post("/teapot/json", content=b"{")).status_code == 418
        assert (await client.post("/away/json", json={"number": 5})).status_code == 503
        with pytest.raises(RuntimeError, match="is broken"):
            await client.post("/crash/json", json={"number": 5})


async def test_equal_routes_keep_their_own_guards(auth: Auth) -> None:
    """Starlette compares routes by path, function and methods. Their dependencies may differ."""

    async def endpoint(order: Order) -> int:
        return order.number

    app, is_open, guarded = FastAPI(middleware=middleware(auth)), FastAPI(), FastAPI()
    is_open.add_api_route("/json", endpoint, methods=["POST"])
    guarded.add_api_route("/json", endpoint, methods=["POST"], dependencies=[Depends(current_user)])
    app.mount("/open", is_open)
    app.mount("/guarded", guarded)
    async with client_of(app, headers=PROGRAM) as client:
        for _ in range(2):
            assert (await client.post("/open/json", content=b"{")).status_code == 422
            assert (await client.post("/guarded/json", content=b"{")).status_code == 401
