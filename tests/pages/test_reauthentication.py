"""Asking for the password once more before something grave is done, and going on with it afterwards."""

import html
import json
import re
from collections.abc import AsyncIterator
from typing import Any

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

from ..conftest import PASSWORD, SECRET_KEY, client_of, installed, post_login, token_in, with_tables
from ..sessions.test_sessions import Socket
from ..support.apps import make_app

pytestmark = with_tables

PAGE = "/accounts/reauthenticate"
PASSWORDS = (
    "password passwd new_password1 password2 userPassword passphrase passcode pwd secret client_secret api_token otp "
    "totp csrf_token cvc card-cvv pin my_pin pin2 pass userPass user[pass] db.pass card_cvc2 loginPin "
    "kennwort Kennwort1 pw new_pw1 mot_de_passe contraseña senha passkey pinCode mfa_code api_key"
)
OTHERS = "postcode keyword spin opinion passenger compass author api display_name code hotpot footprint secretary pine"
Languages(["en", "de"])  # reads the catalogs, before there is an event loop that could wait for the disk


@fresh_login_required(max_age=300, keep=("text", "list", "", "comment", "a", "to", "amount"))
async def danger(request: Request) -> Response:
    """Answers with what it was sent."""
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


def make(auth: Auth) -> Any:
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
    found = re.search(rf'name="{re.escape(name)}" value="([^"]*)"', page)
    assert found, f"no {name} in the page"
    return html.unescape(found[1])


def saved_in(page: str) -> Any:
    return json.loads(value_of(page, "saved").partition(":")[2])


async def confirm(client: httpx.AsyncClient, page: str, password: str = PASSWORD) -> httpx.Response:
    """Fills in the page that asks for the password."""
    fields = {name: value_of(page, name) for name in ("csrfmiddlewaretoken", "next", "saved") if f'"{name}"' in page}
    return await client.post(PAGE, data={**fields, "password": password})


async def go_on(client: httpx.AsyncClient, page: str) -> httpx.Response:
    """Sends the form of the page that says thank you, as auth.js does."""
    found = re.search(r'<form class="auth-resend" method="post" action="([^"]*)">(.*?)</form>', page, re.DOTALL)
    assert found, page
    pairs = re.findall(r'<input type="hidden" name="([^"]*)" value="([^"]*)">', found[2])
    data: dict[str, list[str]] = {}
    for name, value in pairs:
        data.setdefault(html.unescape(name), []).append(html.unescape(value))
    return await client.post(html.unescape(found[1]), data=data)


@pytest.mark.parametrize("path", ["/danger", "/danger-sync", "/danger-class"])
async def test_a_fresh_login_is_let_in_an_older_one_is_asked_and_goes_on(
    site: Auth, clock: FrozenClock, path: str
) -> None:
    async with client_of(make(site)) as client:
        assert (await client.get(path)).headers["location"] == f"/accounts/login?next=%2F{path[1:]}"
        await post_login(client)
        limit = 60 if path == "/danger-class" else 300
        clock.tick(limit - 1)
        assert (await client.get(path)).text == "danger"
        clock.tick(1)
        answer = await client.get(f"{path}?a=1&b=%2F")
        where = f"{PAGE}?next=%2F{path[1:]}%3Fa%3D1%26b%3D%252F"
        assert (answer.status_code, answer.headers["location"]) == (303, where)
        page = (await client.get(where)).text
        assert "You are logged in as <bdi>ann</bdi>" in page
        assert 'name="username" value="ann" autocomplete="username"' in page
        wrong = await confirm(client, page, "wrong")
        assert wrong.status_code == 422
        assert "Your password was entered incorrectly." in wrong.text
        assert (await client.get(path)).status_code == 303
        before = client.cookies["session"]
        answer = await confirm(client, wrong.text)
        assert (answer.status_code, answer.headers["location"]) == (303, f"{path}?a=1&b=%2F")
        assert client.cookies["session"] != before, "whoever knew the old key does not profit"
        assert (await client.get(path)).text == "danger"
        clock.tick(limit)
        assert (await client.get(path)).status_code == 303


async def test_a_form_that_was_sent_is_kept_and_sent_again(site: Auth, clock: FrozenClock) -> None:
    sent = {"text": 'é "quoted" <b>\nsecond line', "list": ["1", "2"], "": "nameless", "comment": ""}
    async with client_of(make(site)) as client:
        await post_login(client)
        clock.tick(300)
        token = token_in((await client.get("/accounts/login")).text)
        answer = await client.post("/danger?x=1", data={**sent, "csrfmiddlewaretoken": token})
        assert answer.status_code == 403
        assert answer.headers["cache-control"] == "no-store"
        assert "form-action 'self'" in answer.headers["content-security-policy"]
        wrong = await confirm(client, answer.text, "wrong")
        assert wrong.status_code == 422
        thanks = await confirm(client, wrong.text)
        assert thanks.status_code == 200
        assert 'action="/danger?x=1"' in thanks.text
        expected = [["text", sent["text"]], ["list", "1"], ["list", "2"], ["", "nameless"], ["comment", ""]]
        assert (await go_on(client, thanks.text)).json() == expected


@pytest.mark.parametrize("strict", [False, True])
async def test_the_form_is_accepted_by_its_token_alone(database: Database, clock: FrozenClock, strict: bool) -> None:
    """The key changes with the answer that holds it: the token is made for the new one."""
    async with installed(database, clock=clock, csrf="strict" if strict else "headers") as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make(auth), headers={"origin": "http://testserver"} if strict else {}) as client:
            await post_login(client)
            clock.tick(300)
            token = token_in((await client.get("/accounts/login")).text)
            asked = await client.post("/danger", data={"a": "1", "csrfmiddlewaretoken": token})
            thanks = await confirm(client, asked.text)
            assert (await go_on(client, thanks.text)).json() == [["a", "1"]]


@pytest.mark.parametrize("name", PASSWORDS.split())
async def test_fields_that_are_not_named_are_not_kept(site: Auth, clock: FrozenClock, name: str) -> None:
    async with client_of(make(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        page = (await client.post("/danger", data={name: "hunter2hunter2", "text": "a"})).text
        assert "hunter2" not in page
        thanks = (await confirm(client, page)).text
        assert "hunter2" not in thanks
        assert (await go_on(client, thanks)).json() == [["text", "a"]]


@pytest.mark.parametrize("name", OTHERS.split())
async def test_only_the_fields_that_are_named_are_kept(site: Auth, clock: FrozenClock, name: str) -> None:
    @fresh_login_required(keep=[name])
    async def endpoint(request: Request) -> Response:
        return JSONResponse(dict(await request.form()))

    app = make_app(site, Route("/named", endpoint, methods=["POST"]))
    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        page = (await client.post("/named", data={name: "a", f"{name}2": "b", "text": "c"})).text
        assert saved_in(page) == [[name, "a"]]
        assert (await go_on(client, (await confirm(client, page)).text)).json()[name] == "a"


async def test_without_names_nothing_is_kept(site: Auth, clock: FrozenClock) -> None:
    @fresh_login_required
    async def endpoint(request: Request) -> Response:
        return PlainTextResponse("danger")

    app = make_app(site, Route("/unnamed", endpoint, methods=["POST"]))
    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        page = (await client.post("/unnamed", data={"text": "a draft"})).text
        assert "could not be kept" in page
        assert "a draft" not in page


async def test_what_cannot_be_kept_is_said(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make(site), headers={"origin": "http://testserver"}) as client:
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
            assert "could not be kept" in answer.text
            done = await confirm(client, answer.text)
            assert (done.status_code, done.headers["location"]) == (303, "/danger-sync")
            clock.tick(300)
        # Nobody is sent to another site, or to a path that looks like one.
        for referer in ("https://evil.example/danger", "http://testserver//evil.example", "x", "http://["):
            client.headers["referer"] = referer
            answer = await client.post("/danger")
            where = (await confirm(client, answer.text)).headers["location"]
            assert where in ("/", "/danger"), (referer, where)
            clock.tick(300)


async def test_programs_are_told_what_to_do(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make(site), headers={"sec-fetch-site": "same-origin"}) as client:
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
            assert PAGE in answer.json()["detail"]
        assert (await client.post(PAGE, json={"password": "wrong"})).status_code == 422
        assert (await client.post(PAGE, json={"password": PASSWORD})).json() == {"next": "/"}
        assert (await client.get("/danger", headers={"accept": "application/json"})).text == "danger"


async def test_a_socket_is_let_in_by_a_fresh_login_only(site: Auth, clock: FrozenClock) -> None:
    app = make(site)
    async with client_of(app) as client:
        async with Socket(app, "/danger-socket", client) as socket:
            assert (socket.answer["type"], socket.answer["code"]) == ("websocket.close", 1008)
        await post_login(client)
        async with Socket(app, "/danger-socket", client) as socket:
            assert (await socket.received.get())["text"] == "danger"
        clock.tick(300)
        async with Socket(app, "/danger-socket", client) as socket:
            assert socket.answer["reason"].startswith("Confirm that it is you")


async def test_guesses_are_counted_and_nobody_else_is_asked(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make(site)) as client:
        assert (await client.get(PAGE)).headers["location"].startswith("/accounts/login")
        assert (await client.post(PAGE, data={"password": PASSWORD})).headers["location"] == "/accounts/login"
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
async def test_what_somebody_else_made_of_the_form_is_refused(site: Auth, clock: FrozenClock, saved: str) -> None:
    async with client_of(make(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        answer = await client.post(PAGE, data={"password": PASSWORD, "next": "/danger", "saved": saved})
        assert answer.status_code == 400
        assert "cannot be read" in answer.text


@pytest.mark.parametrize(
    "wanted", ["https://evil.example/", "//evil.example", "javascript:alert(1)", "/\\evil.example"]
)
async def test_neither_the_visitor_nor_the_form_is_sent_to_another_site(
    site: Auth, clock: FrozenClock, wanted: str
) -> None:
    async with client_of(make(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        fields = {"password": PASSWORD, "next": wanted}
        assert (await client.post(PAGE, data=fields)).headers["location"] == "/"


async def test_nobody_sends_the_form_of_who_was_logged_in_before(site: Auth, clock: FrozenClock) -> None:
    """On a computer that several share: Ann leaves the question open, and Ben answers it."""
    await site.users.create_user("ben", password=PASSWORD)
    async with client_of(make(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        asked = await client.post("/danger", data={"to": "ann", "amount": "100"})
        await client.post("/accounts/logout")
        await post_login(client, "ben")
        assert (await confirm(client, asked.text)).status_code == 400


async def test_the_form_goes_where_it_was_sent_and_nowhere_else(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        asked = (await client.post("/danger", data={"a": "b"})).text
        moved = {"password": PASSWORD, "next": "/danger-class", "saved": value_of(asked, "saved")}
        assert (await client.post(PAGE, data=moved)).status_code == 400


@pytest.mark.parametrize("page", ["reauthenticate", "password_change"])
async def test_a_hash_that_is_made_anew_meanwhile_logs_nobody_out(site: Auth, clock: FrozenClock, page: str) -> None:
    """The site has raised the cost of hashing since the login."""
    async with client_of(make(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        ann = await site.users.get_by_username("ann")
        assert ann is not None
        stronger = Argon2PasswordHasher(time_cost=2, memory_cost=16, parallelism=1)
        site.passwords.preferred = site.passwords.hashers["argon2"] = stronger
        fields = {"password": PASSWORD, "next": "/members", "old_password": PASSWORD, "new_password1": "a"}
        await client.post(f"/accounts/{page}", data=fields)
        fresh = await site.users.get(ann.id)
        assert fresh is not None
        assert fresh.password != ann.password
        assert (await client.get("/members")).text == "members"


async def test_whoever_has_no_password_logs_in_again(site: Auth, clock: FrozenClock) -> None:
    async def enter(request: Request) -> Response:
        await login(request, await site.users.create_user("ben"))
        return PlainTextResponse("")

    app = make_app(site, Route("/enter", enter), Route("/danger", danger, methods=["GET", "POST"]))
    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        await client.get("/enter")
        assert (await client.get("/danger")).text == "danger"
        clock.tick(300)
        assert (await client.get("/danger")).headers["location"] == "/accounts/login?next=%2Fdanger"
        assert (await client.post("/danger", data={"a": "1"})).headers["location"] == "/accounts/login"


async def test_it_does_not_make_a_login_last_longer(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make(site)) as client:
        await post_login(client)
        for _ in range(11):
            clock.tick(60 * 60)
            assert (await confirm(client, (await client.get(PAGE)).text)).status_code == 303
        clock.tick(60 * 60)
        assert (await client.get("/whoami")).json()["username"] == ""


async def test_it_works_with_sessions_in_cookies(database: Database, clock: FrozenClock) -> None:
    async with installed(database, clock=clock, sessions=CookieStore(SECRET_KEY, clock=clock)) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make(auth), headers={"origin": "http://testserver"}) as client:
            await post_login(client)
            clock.tick(300)
            page = (await client.post("/danger", data={"text": "x" * 8000})).text
            thanks = (await confirm(client, page)).text
            assert (await go_on(client, thanks)).json() == [["text", "x" * 8000]]


async def test_in_fastapi_it_stands_below_the_route(site: Auth, clock: FrozenClock) -> None:
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
        thanks = await confirm(client, page.text)
        assert (await go_on(client, thanks.text)).json() == {"to": "ben", "amount": 5}


async def test_it_speaks_the_visitors_language(database: Database, clock: FrozenClock) -> None:
    async with installed(database, clock=clock, languages=["en", "de"]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make(auth), headers={"origin": "http://testserver", "accept-language": "de"}) as client:
            await post_login(client)
            clock.tick(300)
            assert "Bestätigen Sie, dass Sie es sind" in (await client.post("/danger", data={"a": "1"})).text


def test_what_would_let_nobody_in_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="max_age=300"):
        fresh_login_required(max_age=0)
    with pytest.raises(ImproperlyConfigured, match="keep is a list"):
        fresh_login_required(keep="title")


async def test_an_empty_password_is_told_and_what_is_kept_stays(site: Auth, clock: FrozenClock) -> None:
    async with client_of(make(site), headers={"origin": "http://testserver"}) as client:
        await post_login(client)
        clock.tick(300)
        page = await confirm(client, (await client.post("/danger", data={"a": "1"})).text, "")
        assert page.status_code == 422
        assert "This field is required." in page.text
        assert saved_in(page.text) == [["a", "1"]]


async def test_an_endpoint_that_takes_a_bare_connection_cannot_keep_a_form(site: Auth, clock: FrozenClock) -> None:
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
        assert "could not be kept" in (await client.post("/bare", data={"a": "1"})).text


async def test_a_user_of_another_door_than_the_session_is_asked_to_log_in(site: Auth, clock: FrozenClock) -> None:
    """A token says who somebody is at each request; nobody has proved anything in the session."""
    ann = await site.users.get_by_username("ann")

    class Token(AuthenticationBackend):
        async def identify(self, conn: Any) -> User | None:
            return ann if "authorization" in conn.headers else None

    site.backends.insert(0, Token())
    async with client_of(make(site), headers={"authorization": "Bearer x"}) as client:
        assert (await client.get("/danger")).status_code == 303
        assert (await client.get("/danger", headers={"accept": "application/json"})).status_code == 401
        assert (await client.post(PAGE, data={"password": PASSWORD})).headers["location"] == "/accounts/login"
