"""Reauthentication: the password is required before a sensitive action, which continues afterwards."""

import html
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlencode

import httpx
import pytest
from databases import Database
from fastapi import FastAPI, Form
from starlette.endpoints import HTTPEndpoint
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route, Router, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    AuthenticationBackend,
    CookieStore,
    Field,
    ImproperlyConfigured,
    User,
    fresh_login_required,
    login,
    middleware,
    routes,
)
from starlette_auth import Form as OurForm
from starlette_auth.core.translation import Languages
from starlette_auth.testing import FrozenClock

from ..conftest import PASSWORD, SECRET_KEY, any_database, client_of, installed, post_login, token_in, with_tables
from ..sessions.test_sessions import Socket
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

PAGE = "/accounts/reauthenticate"
SECRET_FIELDS = (
    "password passwd new_password1 password2 userPassword passphrase passcode pwd secret client_secret api_token otp "
    "totp csrf_token cvc card-cvv pin my_pin pin2 pass userPass user[pass] db.pass card_cvc2 loginPin "
    "kennwort Kennwort1 pw new_pw1 mot_de_passe contraseña senha passkey pinCode mfa_code api_key"
)
PUBLIC_FIELDS = (
    "postcode keyword spin opinion passenger compass author api display_name code hotpot footprint secretary pine"
)
Languages(["en", "de"])  # reads the catalogs before an event loop exists that file access would block


@fresh_login_required(max_age=300, keep=("text", "list", "", "comment", "a", "to", "amount"))
async def danger(request: Request) -> Response:
    """Returns the submitted form fields as JSON."""
    if request.method == "GET":
        return PlainTextResponse("danger")
    form = await request.form()
    return JSONResponse([(name, value) for name, value in form.multi_items() if name != "csrfmiddlewaretoken"])


@fresh_login_required
def danger_sync(request: Request) -> Response:
    return PlainTextResponse("danger")


@fresh_login_required(max_age=60)
class Danger(HTTPEndpoint):
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("danger")

    async def post(self, request: Request) -> Response:
        form = OurForm(text=Field())
        await form.fill_in(request)
        return PlainTextResponse(form.data["text"])


@fresh_login_required
async def danger_socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("danger")
    await websocket.close()


def make_site(auth: Auth) -> Any:
    return make_app(
        auth,
        Route("/danger", danger, methods=["GET", "POST", "DELETE"]),
        Route("/danger-sync", danger_sync, methods=["GET", "POST"]),
        Route("/danger-class", Danger),
        WebSocketRoute("/danger-socket", danger_socket),
    )


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def site(database: Database, clock: FrozenClock) -> AsyncIterator[Auth]:
    async with installed(database, clock=clock) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        yield auth


def value_of(page: str, name: str) -> str:
    match = re.search(rf'name="{re.escape(name)}" value="([^"]*)"', page)
    assert match, f"no {name} in the page"
    return html.unescape(match[1])


def saved_fields(page: str) -> Any:
    return json.loads(value_of(page, "saved").partition(":")[2])


async def confirm(client: httpx.AsyncClient, page: str, password: str = PASSWORD) -> httpx.Response:
    """Submits the form that asks for the password."""
    fields = {name: value_of(page, name) for name in ("csrfmiddlewaretoken", "next", "saved") if f'"{name}"' in page}
    return await client.post(PAGE, data={**fields, "password": password})


async def resend_form(client: httpx.AsyncClient, page: str) -> httpx.Response:
    """Submits the saved form of the page after the password, as auth.js does."""
    match = re.search(r'<form class="auth-resend" method="post" action="([^"]*)">(.*?)</form>', page, re.DOTALL)
    assert match, page
    pairs = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', match[2])
    data: dict[str, list[str]] = {}
    for name, value in pairs:
        data.setdefault(html.unescape(name), []).append(html.unescape(value))
    return await client.post(html.unescape(match[1]), data=data)


@pytest.mark.parametrize("path", ["/danger", "/danger-sync", "/danger-class"])
async def test_an_older_login_needs_the_password_and_returns_to_the_page(
    site: Auth, clock: FrozenClock, path: str
) -> None:
    async with client_of(make_site(site)) as client:
        assert (await client.get(path)).headers["location"] == f"/accounts/login?next=%2F{path[1:]}"
        await post_login(client)
        limit = 60 if path == "/danger-class" else 300
        clock.tick(limit - 1)
        assert (await client.get(path)).text == "danger"
        clock.tick(1)
        answer = await client.get(f"{path}?a=1&b=%2F")
        page_url = f"{PAGE}?next=%2F{path[1:]}%3Fa%3D1%26b%3D%252F"
        assert (answer.status_code, answer.headers["location"]) == (303, page_url)
        page = (await client.get(page_url)).text
        assert "You are logged in as <bdi>ann</bdi>" in page
        assert 'name="username" value="ann" autocomplete="username"' in page
        wrong = await confirm(client, page, "wrong")
        assert wrong.status_code == 422
        assert "Your password was entered incorrectly." in wrong.text
        assert (await client.get(path)).status_code == 303
        before = client.cookies["session"]
        answer = await confirm(client, wrong.text)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{path}?a=1&b=%2F")
        assert client.cookies["session"] != before, "the old session key must become invalid"
        assert (await client.get(path)).text == "danger"
        clock.tick(limit)
        assert (await client.get(path)).status_code == 303


async def test_a_submitted_form_is_saved_and_sent_again(site: Auth, clock: FrozenClock) -> None:
    fields = {"text": 'é "quoted" <b>\nsecond line', "list": ["1", "2"], "": "nameless", "comment": ""}
    async with client_of(make_site(site)) as client:
        await post_login(client)
        clock.tick(300)
        token = token_in((await client.get("/accounts/login")).text)
        answer = await client.post("/danger?x=1", data={**fields, "csrfmiddlewaretoken": token})
        assert answer.status_code == 403
        assert answer.headers["cache-control"] == "no-store"
        assert "form-action 'self'" in answer.headers["content-security-policy"]
        wrong = await confirm(client, answer.text, "wrong")
        assert wrong.status_code == 422
        confirmed = await confirm(client, wrong.text)
        assert confirmed.status_code == 200
        assert 'action="/danger?x=1"' in confirmed.text
        expected = [["text", fields["text"]], ["list", "1"], ["list", "2"], ["", "nameless"], ["comment", ""]]
        assert (await resend_form(client, confirmed.text)).json() == expected


@pytest.mark.parametrize("strict", [False, True])
async def test_the_form_that_is_sent_again_has_a_valid_csrf_token(
    database: Database, clock: FrozenClock, strict: bool
) -> None:
    """The response that contains the CSRF token changes the session key. The token must be valid for the new key."""
    async with installed(database, clock=clock, csrf="strict" if strict else "headers") as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_site(auth), headers={"origin": "http://testserver"} if strict else {}) as client:
            await post_login(client)
            clock.tick(300)
            token = token_in((await client.get("/accounts/login")).text)
            password_page = await client.post("/danger", data={"a": "1", "csrfmiddlewaretoken": token})
            confirmed = await confirm(client, password_page.text)
            assert (await resend_form(client, confirmed.text)).json() == [["a", "1"]]


@pytest.mark.parametrize("name", SECRET_FIELDS.split())
async def test_fields_that_keep_does_not_name_are_not_saved(site: Auth, clock: FrozenClock, name: str) -> None:
    async with client_of(make_site(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        page = (await client.post("/danger", data={name: "hunter2hunter2", "text": "a"})).text
        assert "hunter2" not in page
        confirmed = (await confirm(client, page)).text
        assert "hunter2" not in confirmed
        assert (await resend_form(client, confirmed)).json() == [["text", "a"]]


@pytest.mark.parametrize("name", PUBLIC_FIELDS.split())
async def test_only_the_fields_that_keep_names_are_saved(site: Auth, clock: FrozenClock, name: str) -> None:
    @fresh_login_required(keep=[name])
    async def endpoint(request: Request) -> Response:
        return JSONResponse(dict(await request.form()))

    app = make_app(site, Route("/named", endpoint, methods=["POST"]))
    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        page = (await client.post("/named", data={name: "a", f"{name}2": "b", "text": "c"})).text
        assert saved_fields(page) == [[name, "a"]]
        assert (await resend_form(client, (await confirm(client, page)).text)).json()[name] == "a"


async def test_without_keep_no_field_is_saved(site: Auth, clock: FrozenClock) -> None:
    @fresh_login_required
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("danger")

    app = make_app(site, Route("/unnamed", endpoint, methods=["POST"]))
    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        page = (await client.post("/unnamed", data={"text": "a draft"})).text
        assert "could not be saved" in page
        assert "a draft" not in page


async def test_the_page_says_if_a_form_could_not_be_saved(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make_site(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        client.headers["referer"] = "http://testserver/danger-sync?form"
        bodies: list[dict[str, Any]] = [
            {"files": {"upload": ("a.txt", b"a file")}, "data": {"text": "a"}},
            {"data": {"text": "x" * 17_000}},
            {"data": {"text": "x" * 70_000}},
            {"data": {f"field{n}": "x" for n in range(60)}},
            {"content": b"a=1", "headers": {"content-type": "text/plain"}},
            {"content": b"a=\x80%ff&=&&;%", "headers": {"content-type": "multipart/form-data"}},
            {},
        ]
        for body in bodies:
            answer = await client.post("/danger", **body)
            assert answer.status_code == 403, body
            assert "could not be saved" in answer.text
            done = await confirm(client, answer.text)
            assert (done.status_code, done.headers["location"]) == (303, "/danger-sync?form")
            clock.tick(300)
        # The redirect leads neither to another site nor to a path that a browser takes for one.
        for referer in ("https://evil.example/danger", "http://testserver//evil.example", "x", "http://["):
            client.headers["referer"] = referer
            answer = await client.post("/danger")
            location = (await confirm(client, answer.text)).headers["location"]
            assert location in ("/", "/danger"), (referer, location)
            clock.tick(300)


async def test_a_json_client_gets_403_with_the_url_for_the_password(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make_site(site), headers={"sec-fetch-site": "same-origin"}) as client:
        await post_login(client)
        clock.tick(300)
        requests: list[dict[str, Any]] = [
            {"method": "GET", "headers": {"accept": "application/json"}},
            {"method": "POST", "json": {"a": 1}},
            {"method": "DELETE"},
        ]
        for request in requests:
            answer = await client.request(url="/danger", **request)
            assert (answer.status_code, answer.headers["content-type"]) == (403, "application/problem+json")
            assert (answer.json()["code"], answer.json()["reauthenticate"]) == ("login_too_old", PAGE)
        assert (await client.post(PAGE, json={"password": "wrong"})).status_code == 422
        assert (await client.post(PAGE, json={"password": PASSWORD})).json() == {"next": "/"}
        assert (await client.get("/danger", headers={"accept": "application/json"})).text == "danger"


async def test_a_websocket_needs_a_fresh_login(site: Auth, clock: FrozenClock) -> None:
    app = make_site(site)
    async with client_of(app) as client:
        async with Socket(app, "/danger-socket", client) as socket:
            assert (socket.answer["type"], socket.answer["code"]) == ("websocket.close", 1008)
        await post_login(client)
        async with Socket(app, "/danger-socket", client) as socket:
            assert (await socket.received.get())["text"] == "danger"
        clock.tick(300)
        async with Socket(app, "/danger-socket", client) as socket:
            assert socket.answer["reason"].startswith("Confirm that it is you")


async def test_guesses_are_throttled_and_the_page_needs_a_login(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make_site(site)) as client:
        assert (await client.get(PAGE)).headers["location"].startswith("/accounts/login")
        anonymous = await client.post(PAGE, data={"password": PASSWORD})
        assert anonymous.headers["location"] == f"/accounts/login?{urlencode({'next': PAGE})}"
        await post_login(client)
        page = (await client.get(PAGE)).text
        statuses = [(await confirm(client, page, "wrong")).status_code for _ in range(7)]
        assert statuses == [422] * 5 + [429] * 2
        clock.tick(60)
        assert (await confirm(client, page)).status_code == 303


@pytest.mark.parametrize(
    "saved",
    [
        "é:é",
        '[["\\ud800", "x"]]',
        ":[]",
        "{",
        "[1]",
        '[["a"]]',
        '[["a", 1]]',
        '[["a", "b", "c"]]',
        '{"a": "b"}',
        "null",
        "[" * 5000,
    ],
)
async def test_a_forged_saved_form_is_rejected(site: Auth, clock: FrozenClock, saved: str) -> None:
    async with client_of(make_site(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        answer = await client.post(PAGE, data={"password": PASSWORD, "next": "/danger", "saved": saved})
        assert answer.status_code == 400
        assert "cannot be read" in answer.text


@pytest.mark.parametrize(
    "next_url", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil.example"]
)
async def test_an_unsafe_next_is_replaced_by_the_default(site: Auth, clock: FrozenClock, next_url: str) -> None:
    async with client_of(make_site(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        fields = {"password": PASSWORD, "next": next_url}
        assert (await client.post(PAGE, data=fields)).headers["location"] == "/"


async def test_a_saved_form_of_another_user_is_rejected(site: Auth, clock: FrozenClock) -> None:
    """On a shared computer, Ann leaves the password page open, and Ben enters his password there."""
    await site.users.create_user("ben", password=PASSWORD)
    async with client_of(make_site(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        password_page = await client.post("/danger", data={"to": "ann", "amount": "100"})
        await client.post("/accounts/logout")
        await post_login(client, "ben")
        assert (await confirm(client, password_page.text)).status_code == 400


async def test_a_saved_form_cannot_be_sent_to_another_url(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make_site(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        password_page = (await client.post("/danger", data={"a": "b"})).text
        fields = {"password": PASSWORD, "next": "/danger-class", "saved": value_of(password_page, "saved")}
        assert (await client.post(PAGE, data=fields)).status_code == 400


@pytest.mark.parametrize("page", ["reauthenticate", "password_change"])
async def test_an_upgraded_password_hash_does_not_end_the_session(site: Auth, clock: FrozenClock, page: str) -> None:
    """The site has raised the cost of hashing since the login."""
    async with client_of(make_site(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        ann = await site.users.get_by_username("ann")
        assert ann is not None
        stronger = Argon2PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
        site.passwords.preferred = site.passwords.hashers["argon2"] = stronger
        fields = {"password": PASSWORD, "next": "/members", "old_password": PASSWORD, "new_password1": "a"}
        await client.post(f"/accounts/{page}", data=fields)
        reloaded = await site.users.get(ann.id)
        assert reloaded is not None
        assert reloaded.password != ann.password
        assert (await client.get("/members")).text == "members"


async def test_a_user_without_a_password_has_to_log_in_again(site: Auth, clock: FrozenClock) -> None:
    async def enter(request: Request) -> Response:
        await login(request, await site.users.create_user("ben"))
        return PlainTextResponse("")

    app = make_app(site, Route("/enter", enter), Route("/danger", danger, methods=["GET", "POST"]))
    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        await client.get("/enter")
        assert (await client.get("/danger")).text == "danger"
        clock.tick(300)
        assert (await client.get("/danger")).headers["location"] == "/accounts/login?next=%2Fdanger"
        assert (await client.post("/danger", data={"a": "1"})).headers["location"] == "/accounts/login?next=%2Fdanger"


async def test_a_reauthentication_does_not_extend_the_session(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make_site(site)) as client:
        await post_login(client)
        for _ in range(11):
            clock.tick(60 * 60)
            assert (await confirm(client, (await client.get(PAGE)).text)).status_code == 303
        clock.tick(60 * 60)
        assert (await client.get("/whoami")).json()["username"] == ""


async def test_a_form_is_saved_with_cookie_sessions_too(database: Database, clock: FrozenClock) -> None:
    async with installed(database, clock=clock, sessions=CookieStore(SECRET_KEY, clock=clock)) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_site(auth), headers={"origin": "http://testserver"}) as client:
            await post_login(client)
            clock.tick(300)
            page = (await client.post("/danger", data={"text": "x" * 8000})).text
            confirmed = (await confirm(client, page)).text
            assert (await resend_form(client, confirmed)).json() == [["text", "x" * 8000]]


async def test_in_fastapi_the_decorator_is_below_the_route(site: Auth, clock: FrozenClock) -> None:
    app = FastAPI(middleware=middleware(site))
    app.mount("/accounts", Router(routes=routes(site)))

    @app.post("/transfer")
    @fresh_login_required(max_age=300, keep=("to", "amount"))
    async def transfer(request: Request, to: str = Form(), amount: int = Form()) -> Any:
        return {"to": to, "amount": amount}

    @app.get("/balance")
    @fresh_login_required
    def balance(request: Request) -> Any:
        return {"balance": 7}

    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        assert (await client.get("/balance")).json() == {"balance": 7}
        clock.tick(300)
        assert (await client.get("/balance")).status_code == 303
        page = await client.post("/transfer", data={"to": "ben", "amount": "5"})
        assert page.status_code == 403
        confirmed = await confirm(client, page.text)
        assert (await resend_form(client, confirmed.text)).json() == {"to": "ben", "amount": 5}


async def test_the_page_is_in_the_language_of_the_visitor(database: Database, clock: FrozenClock) -> None:
    async with installed(database, clock=clock, languages=["en", "de"]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(
            make_site(auth), headers={"origin": "http://testserver", "accept-language": "de"}
        ) as client:
            await post_login(client)
            clock.tick(300)
            assert "Bestätigen Sie, dass Sie es sind" in (await client.post("/danger", data={"a": "1"})).text


def test_invalid_arguments_raise_an_error() -> None:
    with pytest.raises(ImproperlyConfigured, match="Pass a whole number, 1 or greater"):
        fresh_login_required(max_age=0)
    with pytest.raises(ImproperlyConfigured, match="keep is a list"):
        fresh_login_required(keep="title")


async def test_an_empty_password_is_an_error_and_the_saved_form_stays(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make_site(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        page = await confirm(client, (await client.post("/danger", data={"a": "1"})).text, "")
        assert page.status_code == 422
        assert "This field is required." in page.text
        assert saved_fields(page.text) == [["a", "1"]]


async def test_an_endpoint_with_a_bare_connection_cannot_save_a_form(site: Auth, clock: FrozenClock) -> None:
    @fresh_login_required
    async def bare(conn: HTTPConnection) -> Response:
        return PlainTextResponse("danger")

    async def endpoint(request: Request) -> Response:
        answer: Response = await bare(HTTPConnection(request.scope))
        return answer

    app = make_app(site, Route("/bare", endpoint, methods=["POST"]))
    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        assert (await client.post("/bare", data={"a": "1"})).text == "danger"
        clock.tick(300)
        assert "could not be saved" in (await client.post("/bare", data={"a": "1"})).text


async def test_a_user_of_a_backend_without_a_session_has_to_log_in(site: Auth, clock: FrozenClock) -> None:
    """A backend identifies the user by a token at each request, so the session has no login."""
    ann = await site.users.get_by_username("ann")

    class TokenBackend(AuthenticationBackend):
        async def identify(self, conn: Any) -> User | None:
            return ann if "authorization" in conn.headers else None

    site.backends.insert(0, TokenBackend())
    async with client_of(make_site(site), headers={"authorization": "Bearer x"}) as client:
        refused = await client.get("/danger")
        assert (refused.status_code, refused.json()["login"]) == (401, "/accounts/login")
        assert 'error="insufficient_user_authentication"' in refused.headers["www-authenticate"]
        assert (await client.post(PAGE, data={"password": PASSWORD})).json()["login"] == "/accounts/login"
