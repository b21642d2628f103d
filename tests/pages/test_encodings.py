"""Bytes that are not UTF-8 are refused wherever a form is read; no character is replaced."""

from collections.abc import AsyncIterator

import httpx
import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import Auth, EmailChange, Field, Form, Registration, User
from starlette_auth.testing import CollectingMailer

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

URLENCODED, JSON = "application/x-www-form-urlencoded", "application/json"
MULTIPART = "multipart/form-data; boundary=x"
LONG = "eleven purple hats in a row"


@pytest.fixture
async def auth(database: Database) -> AsyncIterator[Auth]:
    """Replaces the common fixture by a site with all pages."""
    options = {
        "mailer": CollectingMailer(),
        "base_url": "http://testserver",
        "features": [Registration(), EmailChange()],
    }
    async with installed(database, **options) as auth:
        yield auth


@pytest.fixture
async def client(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth), headers={"origin": "http://testserver"}) as client:
        yield client


def multipart(**fields: bytes) -> bytes:
    parts = [
        b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), value)
        for name, value in fields.items()
    ]
    return b"".join([*parts, b"--x--\r\n"])


def bodies(field: str, **others: str) -> list[tuple[str, bytes]]:
    """Returns a form whose field has a byte that is not UTF-8, in each way to send one."""
    rest = "&".join(f"{name}={value}" for name, value in others.items()).encode()
    json = b"".join(b'"%s": "%s", ' % (name.encode(), value.encode()) for name, value in others.items())
    encoded = {name: value.encode() for name, value in others.items()}
    name = field.encode()
    return [
        (URLENCODED, b"%s&%s=%s%%ff" % (rest, name, LONG.replace(" ", "+").encode())),
        (URLENCODED, b"%s&%s=%s\xff" % (rest, name, LONG.replace(" ", "+").encode())),
        (URLENCODED, b"%s&%s=%%ed%%a0%%80" % (rest, name)),  # a surrogate
        (URLENCODED, b"%s&%s=%%c3" % (rest, name)),  # half a character
        (f"{URLENCODED}; charset=iso-8859-1", b"%s&%s=%%e9" % (rest, name)),
        (MULTIPART, multipart(**encoded, **{field: LONG.encode() + b"\xff"})),
        (f"{MULTIPART}; charset=latin-1", multipart(**encoded, **{field: b"\xe9"})),
        (JSON, b'{%s"%s": "%s\xff"}' % (json, name, LONG.encode())),
        (f"{JSON}; charset=utf-16", f'{{"{field}": "x"}}'.encode("utf-16")),
    ]


PASSWORDS = {"old_password": PASSWORD.replace(" ", "+"), "new_password1": LONG}


@pytest.mark.parametrize(
    ("path", "field", "others"),
    [
        ("login", "password", {"username": "ann"}),
        ("password_change", "new_password2", PASSWORDS),
        ("register", "password2", {"username": "eve", "email": "eve@example.org", "password1": LONG}),
        ("password_reset", "email", {}),
        ("email_change", "email", {"old_password": PASSWORD}),
        ("reauthenticate", "password", {}),
        ("logout", "next", {}),
    ],
)
async def test_a_form_that_is_not_utf_8_is_refused(
    auth: Auth, client: httpx.AsyncClient, path: str, field: str, others: dict[str, str]
) -> None:
    await post_login(client)
    for media_type, body in bodies(field, **others):
        answer = await client.post(f"/accounts/{path}", content=body, headers={"content-type": media_type})
        assert answer.status_code == 400, (media_type, body)
        detail = answer.json()["detail"] if "json" in media_type else answer.text
        assert "not in UTF-8" in detail
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    assert await auth.users.check_password(ann, PASSWORD)
    assert (await client.get("/whoami")).json()["username"] == "ann"
    assert await auth.users.get_by_username("eve") is None


@pytest.mark.parametrize("path", ["/accounts/login", "/accounts/reauthenticate", "/accounts/logout"])
async def test_a_next_that_is_not_utf_8_is_refused(client: httpx.AsyncClient, path: str) -> None:
    await post_login(client)
    for query in ("next=/%ff", "next=/%ed%a0%80", "next=/x&next=/%c3"):
        answer = await client.get(f"{path}?{query}")
        assert (answer.status_code, "not in UTF-8" in answer.text) == (400, True)
    assert (await client.get(f"{path}?next=/%C3%A9&other=%ff")).status_code == 200
    assert (await client.get(f"{path}?next=/caf%25E9")).status_code == 200, (
        "the path of the page itself is quoted twice"
    )


async def test_the_login_page_refuses_a_next_that_is_not_utf_8_in_a_post(client: httpx.AsyncClient) -> None:
    data = {"username": "ann", "password": PASSWORD}
    assert (await client.post("/accounts/login?next=/%ff", data=data)).status_code == 400
    assert (await client.post("/accounts/logout?next=/%ff")).status_code == 400


async def test_utf_8_arrives_as_it_was_sent(auth: Auth) -> None:
    """The text "é☃" raw and percent-encoded, and U+FFFD, which is a character like any other."""

    async def echo(request: Request) -> Response:
        form = Form(text=Field())
        await form.fill_in(request)
        return PlainTextResponse(form.data["text"])

    async with client_of(make_app(auth, Route("/text", echo, methods=["POST"]))) as client:
        for media_type, body in (
            (URLENCODED, "text=é☃\ufffd".encode()),
            (URLENCODED, b"text=%C3%A9%E2%98%83%EF%BF%BD"),
            (f"{URLENCODED}; charset=UTF8", b"text=%C3%A9%E2%98%83%EF%BF%BD"),
            (MULTIPART, multipart(text="é☃\ufffd".encode())),
            (JSON, '{"text": "é☃\ufffd"}'.encode()),
        ):
            answer = await client.post("/text", content=body, headers={"content-type": media_type})
            assert answer.text == "é☃\ufffd"
