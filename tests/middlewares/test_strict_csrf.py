"""`csrf="strict"`: large files, several tabs, and forms of a session that has ended."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from starlette_auth import Auth, EmailChange, Registration, authenticate, complete_login, csrf_input
from starlette_auth.testing import CollectingMailer, FrozenClock

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, token_in, with_store, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

SITE = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
TOKEN = "csrfmiddlewaretoken"
FILE = ("a.bin", b"\xff\x00" * (3 * 1024 * 1024 // 2))


async def form(request: Request) -> Response:
    return HTMLResponse(f"<form method=post>{csrf_input(request)}</form>")


async def upload(request: Request) -> Response:
    async with request.form() as form:
        sizes = {name: len(await value.read()) for name, value in form.items() if not isinstance(value, str)}
        return JSONResponse({**sizes, **{name: value for name, value in form.items() if isinstance(value, str)}})


def app_of(auth: Auth, *more: Route) -> Any:
    return make_app(auth, Route("/form", form), Route("/upload", upload, methods=["POST"]), *more)


@pytest.fixture
async def auth(database: Database) -> AsyncIterator[Auth]:
    """Replaces the common fixture by a strict site with all pages."""
    options = {
        "mailer": CollectingMailer(),
        "base_url": "http://testserver",
        "features": [Registration(), EmailChange()],
    }
    async with installed(database, csrf="strict", **options) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        yield auth


@pytest.fixture
async def client(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    """A browser that has opened a form."""
    async with client_of(app_of(auth), headers=SITE) as client:
        yield client


async def test_a_large_file_behind_the_token_is_passed_on(client: httpx.AsyncClient) -> None:
    token = token_in((await client.get("/form")).text)
    answer = await client.post("/upload", data={TOKEN: token, "title": "é"}, files={"file": FILE})
    assert answer.json() == {TOKEN: token, "title": "é", "file": len(FILE[1])}
    answer = await client.post("/upload", data={TOKEN: token, "one": "x" * 600_000, "two": "y" * 600_000})
    assert len(answer.json()["two"]) == 600_000


async def test_a_token_behind_a_large_file_is_rejected_with_the_way_out(client: httpx.AsyncClient) -> None:
    token = token_in((await client.get("/form")).text)
    files = [("file", FILE), (TOKEN, (None, token.encode()))]
    answer = await client.post("/upload", files=files)
    assert answer.status_code == 403
    assert "in front of all other fields" in answer.text
    assert "X-CSRFToken" in answer.text
    answer = await client.post("/upload", files=files, headers={"x-csrftoken": token})
    assert answer.json()["file"] == len(FILE[1])
    files = [("file", ("a.txt", b"small")), (TOKEN, (None, token.encode()))]
    assert (await client.post("/upload", files=files)).json()["file"] == 5


@pytest.mark.parametrize("size", [1, 7, 64 * 1024])
async def test_a_body_is_read_no_further_than_the_token(auth: Auth, size: int) -> None:
    """A file of 300 MB would fill the memory, or wait for the application's own limit."""
    read = 0
    read_before_app: list[int] = []

    async def count(request: Request) -> Response:
        read_before_app.append(read)
        total = 0
        async for chunk in request.stream():
            total += len(chunk)
        return JSONResponse(total)

    async with client_of(app_of(auth, Route("/count", count, methods=["POST"])), headers=SITE) as client:
        token = token_in((await client.get("/form")).text)
        head = f'--x\r\nContent-Disposition: form-data; name="{TOKEN}"\r\n\r\n{token}\r\n'
        head += '--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        body = head.encode() + b"\r\n--" * 20_000 + b"\r\n--x--\r\n"

        async def chunks() -> AsyncIterator[bytes]:
            nonlocal read
            for start in range(0, len(body), size) if size > 1 else (*range(600), slice(600, None)):
                part = body[start] if isinstance(start, slice) else body[start : start + size]
                read += len(part)
                yield part

        answer = await client.post(
            "/count", content=chunks(), headers={"content-type": "multipart/form-data; boundary=x"}
        )
        assert answer.json() == len(body)
        assert read_before_app == [min(len(body), read_before_app[0])]
        assert read_before_app[0] < len(head) + size


@pytest.mark.parametrize(
    "body",
    [
        b'--x\r\nContent-Disposition: form-data; name="other"\r\n\r\nTOKEN\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"; filename="a"\r\n\r\nTOKEN\r\n--x--\r\n',
        b'--x\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\nTOKEN',
        b'--y\r\nContent-Disposition: form-data; name="csrfmiddlewaretoken"\r\n\r\nTOKEN\r\n--y--\r\n',
        b"",
    ],
    ids=["another field", "a file", "no end", "another boundary", "empty"],
)
async def test_a_value_outside_the_token_field_is_no_token(client: httpx.AsyncClient, body: bytes) -> None:
    token = token_in((await client.get("/form")).text)
    headers = {"content-type": "multipart/form-data; boundary=x"}
    answer = await client.post("/upload", content=body.replace(b"TOKEN", token.encode()), headers=headers)
    assert answer.status_code == 403
    assert "sent without its token" in answer.text


@pytest.mark.parametrize("boundary", ["", "; boundary=", f"; boundary={'x' * 300}", "; boundary=é"])
async def test_a_form_without_a_usable_boundary_has_no_token(client: httpx.AsyncClient, boundary: str) -> None:
    await client.get("/form")
    headers = {**SITE, "content-type": f"multipart/form-data{boundary}".encode("latin-1")}
    answer = await client.post("/upload", content=b"--x\r\n", headers=headers)  # type: ignore[arg-type]
    assert answer.status_code == 403


async def test_the_second_login_tab_works_after_the_login_of_the_first(client: httpx.AsyncClient) -> None:
    tokens = [token_in((await client.get("/accounts/login")).text) for _ in range(2)]
    for token in tokens:
        data = {TOKEN: token, "username": "ann", "password": PASSWORD, "next": "/members"}
        answer = await client.post("/accounts/login", data=data)
        assert (answer.status_code, answer.headers["location"]) == (303, "/members")


async def test_of_two_tabs_that_opened_at_once_both_can_log_in(client: httpx.AsyncClient) -> None:
    """Neither request had a cookie, so each page has a different secret, and the browser keeps the last one."""
    token = token_in((await client.get("/accounts/login")).text)
    client.cookies.clear()
    await client.get("/accounts/login")
    data = {TOKEN: token, "username": "ann", "password": PASSWORD, "next": "/members"}
    answer = await client.post("/accounts/login", data=data)
    assert answer.status_code == 422
    assert "This form was too old. Please send it again." in answer.text
    assert 'value="ann"' in answer.text
    assert 'name="next" value="/members"' in answer.text
    answer = await client.post("/accounts/login", data={**data, TOKEN: token_in(answer.text)})
    assert (answer.status_code, answer.headers["location"]) == (303, "/members")


@pytest.mark.parametrize(
    ("path", "data"),
    [
        ("password_reset", {"email": "ann@example.org"}),
        (
            "register",
            {
                "username": "eve",
                "email": "eve@example.org",
                "password1": "eleven purple hats",
                "password2": "eleven purple hats",
            },
        ),
        ("register/resend", {"email": "eve@example.org"}),
    ],
)
async def test_other_forms_of_visitors_stay_valid_too(
    client: httpx.AsyncClient, path: str, data: dict[str, str]
) -> None:
    token = token_in((await client.get(f"/accounts/{path}")).text)
    await post_login(client)
    answer = await client.post(f"/accounts/{path}", data={TOKEN: token, **data})
    assert answer.status_code == 303


async def test_forms_of_a_user_become_void_with_a_login(client: httpx.AsyncClient) -> None:
    token = token_in((await client.get("/form")).text)
    await post_login(client)
    for path in ("/upload", "/accounts/logout", "/accounts/password_change"):
        assert (await client.post(path, data={TOKEN: token})).status_code == 403
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    assert (await client.post("/accounts/login", data={TOKEN: token}, headers=foreign)).status_code == 403


async def test_a_form_that_is_too_old_is_matched_with_the_routes_once(auth: Auth) -> None:
    matched: list[str] = []

    class CountingRoute(Route):
        def matches(self, scope: Any) -> Any:
            matched.append(scope["path"])
            return super().matches(scope)

    async with client_of(make_app(auth, CountingRoute("/plain", upload, methods=["POST"])), headers=SITE) as client:
        await client.get("/accounts/login")
        matched.clear()
        assert (await client.post("/plain", data={TOKEN: "x" * 86})).status_code == 403
        assert matched == ["/plain"]


async def test_the_form_of_a_session_that_has_ended_asks_for_a_login(auth: Auth, client: httpx.AsyncClient) -> None:
    await post_login(client)
    token = token_in((await client.get("/accounts/password_change")).text)
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    await auth.user_sessions.revoke_all(ann)
    answer = await client.post("/members", data={TOKEN: token})
    assert (answer.status_code, answer.headers["location"]) == (303, "/accounts/login?next=%2Fmembers")


async def enter(request: Request) -> Response:
    """The application's own login page."""
    if request.method == "POST":
        data = await request.form()
        user = await authenticate(request, username=data["username"], password=data["password"])
        if user is not None:
            return await complete_login(request, user)
    page = f"<form method=post>{csrf_input(request)}</form>"
    return HTMLResponse(page, 422 if request.method == "POST" else 200)


async def end_by_time(auth: Auth, clock: FrozenClock, client: httpx.AsyncClient) -> None:
    clock.tick(13 * 60 * 60)


async def end_by_new_password(auth: Auth, clock: FrozenClock, client: httpx.AsyncClient) -> None:
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    await auth.users.set_password(ann, PASSWORD)


async def go_on(auth: Auth, clock: FrozenClock, client: httpx.AsyncClient) -> None:
    await client.get("/remember?b=2")


@pytest.mark.parametrize("kind", ["memory", "sqlite", "cookie", "django sqlite", "django cookie"])
@pytest.mark.parametrize(
    ("before", "meanwhile"),
    [
        ("nothing", go_on),
        ("visit", go_on),
        ("login", end_by_time),
        ("login", end_by_new_password),
    ],
)
async def test_a_login_page_of_the_application_works_with_every_store(
    kind: str, before: str, meanwhile: Any, tmp_path: Path
) -> None:
    """The login page may have been opened in a session that has ended since."""
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock, csrf="strict", login_url="/enter") as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = app_of(auth, Route("/enter", enter, methods=["GET", "POST"]))
        async with client_of(app, headers=SITE) as client:
            if before == "login":
                await post_login(client)
            if before == "visit":
                await client.get("/remember?a=1")
            token = token_in((await client.get("/enter")).text)
            await meanwhile(auth, clock, client)
            data = {TOKEN: token, "username": "ann", "password": PASSWORD}
            wrong = await client.post("/enter", data={**data, "password": "wrong"})
            assert wrong.status_code == 422
            data[TOKEN] = token_in(wrong.text)
            assert (await client.post("/enter", data=data)).status_code == 303
            assert (await client.get("/whoami")).json()["username"] == "ann"
            assert (await client.post("/enter", data=data)).status_code == 403, "a token from before the login"
            assert (await client.post("/enter", data={**data, TOKEN: "x" * 86})).status_code == 403
