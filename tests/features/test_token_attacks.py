"""What attackers send to API tokens, sessions of apps and devices: each refused request is a test that can fail."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import (
    APITokens,
    Auth,
    BearerSessions,
    DeviceLogin,
    Tables,
    User,
    ValidationError,
    fresh_login_required,
    login_required,
    middleware,
    migrate,
    permission_required,
    routes,
)
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, SECRET_KEY, client_of, installed, weak_passwords
from ..sessions.test_sessions import Socket
from ..support.apps import make_app
from .test_device_login import CLIENTS, GRANT, ask, decide, enter, error_of, handle_in, poll, tokens_in

FORM = "application/x-www-form-urlencoded"
REALM = 'Bearer realm="account"'
CODE, TOKEN, PAGE = "/accounts/device/code", "/accounts/device/token", "/accounts/device"


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def auth(database: Any, clock: FrozenClock) -> AsyncIterator[Auth]:
    features = [APITokens("shop"), BearerSessions(), DeviceLogin(CLIENTS)]
    async with installed(database, features=features, clock=clock) as auth:
        yield auth


@pytest.fixture
def tokens(auth: Auth) -> APITokens:
    return tokens_in(auth)


@pytest.fixture
async def browser(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth)) as client:
        await log_in(client, ann, auth)
        yield client


@pytest.fixture
async def device(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth, *PAGES), headers={"accept": "*/*"}) as client:
        yield client


@permission_required("shop.close_order")
async def close(request: Request) -> Response:
    return PlainTextResponse("closed")


@fresh_login_required
async def danger(request: Request) -> Response:
    return PlainTextResponse("done")


PAGES = [Route("/close", close), Route("/danger", danger, methods=["GET", "POST"])]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "accept": "*/*"}


async def app_key(client: httpx.AsyncClient, **more: Any) -> str:
    login = {"username": "ann", "password": PASSWORD, "client": "app", **more}
    return str((await client.post("/accounts/login", json=login)).json()["token"])


# RFC 6750 §3.1: each row, for a token and for the key of an app


@pytest.mark.parametrize("kind", ["token", "app"])
async def test_the_error_table_of_bearer_tokens(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, ann: User, kind: str
) -> None:
    async def make() -> str:
        return str((await tokens.create(ann, "t")).token) if kind == "token" else await app_key(device)

    async def answer(path: str, *values: str) -> tuple[int, str | None]:
        headers = [("accept", "*/*"), *(("authorization", value) for value in values)]
        response = await device.get(path, headers=httpx.Headers(headers, encoding="latin-1"))
        if response.status_code >= 400:
            assert response.headers["content-type"] == "application/problem+json"
            assert response.headers["cache-control"] == "no-store"
        return response.status_code, response.headers.get("www-authenticate")

    good, revoked, unknown = await make(), await make(), await make()
    if kind == "token":
        await tokens.revoke(ann, (await tokens.list(ann))[1].id)
        unknown = tokens.format.make()
    else:
        await device.post("/accounts/logout", headers=bearer(revoked))
        unknown = "app." + "x" * 43
    assert await answer("/members", f"Bearer {good}") == (200, None)
    assert await answer("/members") == (401, REALM)
    for wrong in (revoked, unknown, good[:-1], good + "x", good.swapcase(), "x"):
        assert await answer("/members", f"Bearer {wrong}") == (401, f'{REALM}, error="invalid_token"'), wrong
    malformed = [[""], [f" {good} {good}"], [f" {good},"], [f" {good}", f" {good}"], [f" {good}ä"], [" \t"]]
    for values in malformed:
        sent = [f"Bearer{value}" for value in values]
        assert await answer("/members", *sent) == (400, f'{REALM}, error="invalid_request"'), sent
    assert await answer(f"/members?access_token={good}") == (400, f'{REALM}, error="invalid_request"')
    assert await answer(f"/members?access_token={good}", f"Bearer {good}") == (
        400,
        f'{REALM}, error="invalid_request"',
    )
    insufficient = f'{REALM}, error="insufficient_scope", scope="shop.close_order"'
    assert await answer("/close", f"Bearer {good}") == (403, insufficient)
    await auth.users.update(ann, is_active=False)
    assert await answer("/members", f"Bearer {good}") == (401, f'{REALM}, error="invalid_token"')


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "FROBNICATE"])
async def test_no_method_gets_past_a_wrong_token(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, method: str
) -> None:
    """A request with a wrong token and a valid cookie is from a visitor."""
    for wrong in ("shop_wrong", "app." + "x" * 43):
        response = await browser.request(method, "/whoami", headers=bearer(wrong))
        assert "ann" not in response.text
        assert "set-cookie" not in response.headers
        for path in (PAGE, "/accounts/tokens", "/accounts/password_change"):
            response = await browser.request(method, path, headers=bearer(wrong))
            assert response.status_code in (401, 403, 405), (path, response.status_code)


async def test_scopes_with_wildcards_are_refused_by_name(auth: Auth, tokens: APITokens) -> None:
    """A superuser has every permission, also one called shop.*, which would allow nothing."""
    boss = await auth.users.create_superuser("boss", "", PASSWORD)
    for scope in ("shop.*", "shop.view_*", "*", "*.*", "shop", "shop.", ".view_order", "shop.view order", ""):
        with pytest.raises(ValidationError, match="is not the name of one permission") as caught:
            await tokens.create(boss, "wide", scopes=[scope])
        assert scope in str(caught.value)
    assert await tokens.list(boss) == []


async def test_a_device_cannot_ask_for_a_wildcard(device: httpx.AsyncClient) -> None:
    for scope in ("shop.*", "*", "shop.view_order shop.*"):
        response = await device.post(CODE, data={"client_id": "cli", "scope": scope})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_scope")


async def test_a_device_cannot_widen_the_scopes_that_the_user_saw(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User
) -> None:
    for perm in ("shop.view_order", "shop.close_order"):
        await auth.users.grant(ann, await auth.users.create_permission(perm))
    codes = await ask(device, scope="shop.view_order")
    handle = handle_in(await enter(browser, codes["user_code"]))
    more = {"scope": "shop.close_order", "scopes": "shop.close_order", "client": "tv", "user_code": codes["user_code"]}
    answer = await browser.post(PAGE, data={"request": handle, "decision": "approve", **more})
    assert answer.status_code == 303
    response = await poll(device, codes["device_code"], scope="shop.view_order shop.close_order")
    assert response.json()["scope"] == "shop.view_order"
    [stored] = await tokens.list(ann)
    assert stored.scopes == ("shop.view_order",)
    assert (await device.get("/close", headers=bearer(response.json()["access_token"]))).status_code == 403


async def test_a_permission_that_is_withdrawn_before_the_poll_gives_no_token(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User
) -> None:
    await auth.users.grant(ann, await auth.users.create_permission("shop.view_order"))
    codes = await ask(device, scope="shop.view_order")
    await decide(browser, codes["user_code"])
    await auth.users.revoke(ann, "shop.view_order")
    for _ in range(2):
        assert await error_of(device, codes["device_code"]) == (400, "access_denied")
    assert await tokens.list(ann) == []


# From one credential to another


async def test_no_credential_is_accepted_in_the_place_of_another(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User
) -> None:
    codes = await ask(device)
    token, key = str((await tokens.create(ann, "t")).token), await app_key(device)
    cookie = browser.cookies["session"]
    for text in (codes["device_code"], codes["user_code"], f"app.{codes['device_code']}", cookie, f"app.{cookie}"):
        assert (await device.get("/members", headers=bearer(text))).status_code == 401, text
    for text in (token, key, key[4:], codes["device_code"], codes["user_code"]):
        response = await device.get("/whoami", headers={"cookie": f"session={text}"})
        assert response.json()["username"] == "", text
    for text in (codes["user_code"], token, key, key[4:], cookie):
        assert await error_of(device, text) == (400, "invalid_grant"), text
    for text in (token, key, cookie):
        assert (await enter(browser, text)).status_code == 422, text
    assert (await enter(browser, codes["device_code"])).status_code == 422
    assert await error_of(device, codes["device_code"]) == (400, "authorization_pending")


async def test_a_stolen_token_makes_neither_a_session_nor_a_token_nor_an_approval(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, ann: User
) -> None:
    token = str((await tokens.create(ann, "t")).token)
    codes = await ask(device)
    login = {"username": "ann", "password": PASSWORD}
    attempts: list[tuple[str, dict[str, Any]]] = [
        ("/accounts/login", {"json": login | {"client": "app"}}),
        ("/accounts/login", {"json": login}),
        ("/accounts/login", {"data": login}),
        ("/accounts/tokens", {"json": {"name": "more"}}),
        ("/accounts/reauthenticate", {"json": {"password": PASSWORD}}),
        (PAGE, {"json": {"user_code": codes["user_code"]}}),
        (PAGE, {"data": {"user_code": codes["user_code"]}}),
        ("/danger", {}),
    ]
    for path, body in attempts:
        response = await device.post(path, headers=bearer(token), **body)
        assert response.status_code in (401, 403), path
        assert not {"set-cookie", "x-session-token"} & set(response.headers), path
    assert len(await tokens.list(ann)) == 1
    assert await auth.user_sessions.list(ann) == []


async def test_a_client_cannot_choose_the_key_of_its_session(auth: Auth, ann: User) -> None:
    chosen = "app." + "c" * 43
    async with client_of(make_app(auth), headers={"accept": "*/*"}) as client:
        for headers in ({"x-session-token": chosen}, {"x-session-token": chosen, **bearer(chosen)}):
            login = {"username": "ann", "password": PASSWORD, "client": "app", "token": chosen, "session": chosen}
            response = await client.post("/accounts/login", json=login, headers=headers)
            assert response.json()["token"] not in (chosen, chosen[4:])
            assert response.headers["x-session-token"] == response.json()["token"]
        assert (await client.get("/whoami", headers={"x-session-token": chosen})).json()["username"] == ""
        assert (await client.get("/whoami", headers=bearer(chosen))).json()["username"] == ""


async def test_a_websocket_takes_a_credential_only_in_the_header(
    auth: Auth, tokens: APITokens, device: httpx.AsyncClient, ann: User
) -> None:
    app = make_app(auth)
    for text in (str((await tokens.create(ann, "t")).token), await app_key(device)):
        for path, headers, accepts in (
            ("/members-socket", [(b"authorization", f"Bearer {text}".encode())], True),
            (f"/members-socket?access_token={text}", [], False),
            ("/members-socket", [(b"sec-websocket-protocol", f"bearer, {text}".encode())], False),
            ("/members-socket", [(b"cookie", f"session={text}".encode())], False),
            ("/members-socket", [(b"authorization", f"Bearer {text}".encode())] * 2, False),
        ):
            socket = Socket(app, path, httpx.AsyncClient())
            socket.scope["headers"] = [(b"host", b"testserver"), *headers]
            async with socket:
                assert (socket.answer["type"] == "websocket.accept") is accepts, (path, headers)


async def test_a_shared_cache_answers_no_client_with_the_page_of_another(auth: Auth) -> None:
    """The page of a visitor has no header Authorization, but a request with one must not get it."""
    async with client_of(make_app(auth), headers={"accept": "*/*"}) as client:
        for path in ("/whoami", "/", "/members", "/accounts/login"):
            fields = {name.strip().lower() for name in (await client.get(path)).headers["vary"].split(",")}
            assert {"cookie", "authorization"} <= fields, path


async def test_without_a_backend_that_reads_it_no_response_varies_by_authorization(database: Any) -> None:
    async with installed(database) as auth, client_of(make_app(auth)) as client:
        assert "Authorization" not in (await client.get("/whoami")).headers["vary"]


# Two Auths in one application


@pytest.mark.any_database
async def test_the_credentials_of_one_auth_open_nothing_in_another(database: Any, clock: FrozenClock) -> None:
    outer_tokens, inner_tokens = APITokens("shop"), APITokens("shop")
    both = [BearerSessions(), DeviceLogin(CLIENTS)]
    staff: dict[str, Any] = {"tables": Tables(prefix="staff_"), "passwords": weak_passwords(), "clock": clock}
    inner_features = [inner_tokens, BearerSessions(), DeviceLogin(CLIENTS)]
    async with installed(database, features=[outer_tokens, *both], clock=clock) as outer:
        inner = Auth(database, secret_key=SECRET_KEY[::-1], features=inner_features, **staff)
        await migrate(inner.gateway, inner.tables)
        customer = await outer.users.create_user("ann", "", PASSWORD)
        employee = await inner.users.create_user("boss", "", PASSWORD)
        assert customer.id == employee.id

        @login_required
        async def who(request: Request) -> Response:
            return JSONResponse({"username": request.user.username})

        inside = Starlette(
            routes=[Route("/who", who), Mount("/accounts", routes=routes(inner))], middleware=middleware(inner)
        )
        app = make_app(outer, Mount("/staff", inside))
        outer_token = str((await outer_tokens.create(customer, "t")).token)
        inner_token = str((await inner_tokens.create(employee, "t")).token)
        async with client_of(app, headers={"accept": "*/*"}) as client:
            login = {"username": "boss", "password": PASSWORD, "client": "app"}
            inner_key = (await client.post("/staff/accounts/login", json=login)).json()["token"]
            outer_key = await app_key(client)
            for own in (inner_token, inner_key):
                assert (await client.get("/staff/who", headers=bearer(own))).json() == {"username": "boss"}
                assert (await client.get("/whoami", headers=bearer(own))).json()["username"] == ""
            for foreign in (outer_token, outer_key):
                assert (await client.get("/staff/who", headers=bearer(foreign))).status_code == 401
                assert (await client.get("/whoami", headers=bearer(foreign))).json()["username"] == "ann"
            codes = (await client.post("/staff/accounts/device/code", data={"client_id": "cli"})).json()
            assert "/staff/accounts/device" in codes["verification_uri"]
            assert await error_of(client, codes["device_code"]) == (400, "invalid_grant")
            async with client_of(app) as browser:
                await log_in(browser, customer, outer)
                assert (await enter(browser, codes["user_code"])).status_code == 422
        await inner.close()


# The endpoints for devices


@pytest.mark.parametrize("path", [CODE, TOKEN])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE"])
async def test_other_methods_ask_for_nothing(device: httpx.AsyncClient, path: str, method: str) -> None:
    response = await device.request(method, path, params={"client_id": "cli"})
    assert (response.status_code, response.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "path", [f"{CODE}/", f"{CODE}.", f"{CODE}%20", "/accounts/device/code/..", "/accounts/device//code"]
)
async def test_other_paths_ask_for_nothing(device: httpx.AsyncClient, path: str) -> None:
    response = await device.post(path, data={"client_id": "cli"})
    assert "device_code" not in response.text
    assert response.status_code in (401, 404, 405, 307)


@pytest.mark.parametrize("path", [CODE, TOKEN])
@pytest.mark.parametrize(
    "options",
    [
        {"content": b"client_id=cli&" + b"x" * 70_000, "headers": {"content-type": FORM}},
        {"content": b"&".join(b"f%d=1" % n for n in range(60)), "headers": {"content-type": FORM}},
        {"content": b"client_id=cli&client_id=tv", "headers": {"content-type": FORM}},
        {"content": b"client_id=cli&grant_type=a&grant_type=a", "headers": {"content-type": FORM}},
        {"content": b"client_id=cli", "headers": {"content-type": "text/plain"}},
        {"content": b"client_id=cli"},
        {"content": b'{"client_id": "cli"}', "headers": {"content-type": "application/json"}},
        {"files": {"client_id": (None, "cli")}},
        {"content": b"client_id=cli", "headers": {"content-type": f"{FORM}; charset=punycode"}},
        {"content": b"", "headers": {"content-type": FORM}},
    ],
    ids=["huge", "many", "twice", "another twice", "text", "no type", "JSON", "multipart", "charset", "empty"],
)
async def test_malformed_bodies_are_invalid_requests(
    device: httpx.AsyncClient, path: str, options: dict[str, Any]
) -> None:
    response = await device.post(path, **options)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "client",
    [
        "CLI",
        "cli ",
        " cli",
        "cli\x00",
        "cl\u0131",
        "\uff43\uff4c\uff49",
        "cli\r\nSet-Cookie: a=b",
        "é" * 3000,
        "__class__",
        "cli.",
        "*",
    ],
)
async def test_only_the_exact_name_is_a_client(device: httpx.AsyncClient, client: str) -> None:
    for path in (CODE, TOKEN):
        response = await device.post(path, data={"client_id": client, "grant_type": GRANT, "device_code": "x"})
        assert (response.status_code, response.json()["error"]) == (400, "invalid_client")
        assert "set-cookie" not in response.headers
        assert client.strip() == "cli" or client not in response.json()["error_description"]


@pytest.mark.parametrize(
    "code",
    [
        "BCDF-GHJ\u212a",
        "\uff22CDFGHJK",
        "BCDF\x00GHJK",
        "BCDF-GHJK' OR 1=1",
        "B" * 10_000,
        "bcdf_ghjk",
        "ｂｃｄｆｇｈｊｋ",
        "%",
        "\u202eBCDF",
    ],
)
async def test_unusual_user_codes_are_wrong_codes(browser: httpx.AsyncClient, code: str) -> None:
    response = await enter(browser, code)
    assert response.status_code == 422
    assert 'value="approve"' not in response.text
    response = await browser.get(PAGE, params={"user_code": code})
    assert (response.status_code, 'value="approve"' in response.text) == (200, False)
    assert "OR 1=1" not in response.text


async def test_what_a_device_says_about_itself_cannot_break_the_page(auth: Auth, browser: httpx.AsyncClient) -> None:
    agent = '<script>alert(1)</script> Firefox/1 "quoted"'
    async with client_of(make_app(auth), headers={"accept": "*/*", "user-agent": agent}) as evil:
        codes = await ask(evil, scope="<b>.x")
    page = await enter(browser, codes["user_code"])
    assert page.status_code == 200
    assert "&lt;b&gt;.x" in page.text
    assert not [text for text in ("<script>alert", "<b>") if text in page.text]


@pytest.mark.parametrize("host", ["evil.example", "testserver:99999", "a b", "testserver/..", "x" * 300])
async def test_the_host_of_a_request_does_not_lead_users_elsewhere(database: Any, host: str) -> None:
    """A device that sends another Host gets the address of the site, if `base_url` says it."""
    features = [APITokens("shop"), DeviceLogin(CLIENTS)]
    async with (
        installed(database, features=features, base_url="https://shop.example") as auth,
        client_of(make_app(auth), headers={"accept": "*/*"}) as client,
    ):
        response = await client.post(CODE, data={"client_id": "cli"}, headers={"host": host})
        assert response.json()["verification_uri"] == "https://shop.example/accounts/device"


async def test_a_forged_handle_decides_nothing(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    codes, other = await ask(device), await ask(device)
    handle = handle_in(await enter(browser, codes["user_code"]))
    token_hash, _, signature = handle.partition(".")
    foreign = handle_in(await enter(browser, other["user_code"])).partition(".")
    forged = [
        "",
        ".",
        token_hash,
        f"{token_hash}.",
        f".{signature}",
        f"{foreign[0]}.{signature}",
        handle + "x",
        "é" * 99,
    ]
    for text in forged:
        response = await browser.post(PAGE, data={"request": text, "decision": "approve"})
        assert response.status_code == 422, text
    for decision in ("", "APPROVE", "approved", "yes", "approve "):
        response = await browser.post(PAGE, data={"request": handle, "decision": decision})
        assert response.status_code == 422 or decision.strip() == "approve", decision
    assert (await poll(device, other["device_code"])).json()["error"] == "authorization_pending"


async def test_a_code_that_expires_between_the_page_and_the_decision_approves_nothing(
    device: httpx.AsyncClient, browser: httpx.AsyncClient, clock: FrozenClock, auth: Auth, ann: User
) -> None:
    codes = await ask(device)
    clock.tick(14 * 60 + 59)
    await log_in(browser, ann, auth)
    handle = handle_in(await enter(browser, codes["user_code"]))
    clock.tick(1)
    response = await browser.post(PAGE, data={"request": handle, "decision": "approve"})
    assert response.status_code == 422
    assert await error_of(device, codes["device_code"]) == (400, "expired_token")
    clock.tick(15 * 60)
    assert await error_of(device, codes["device_code"]) == (400, "invalid_grant")
    assert await auth.gateway.fetch_all(auth.tables.token.select()) != []
    await auth.clear_expired()
    rows = await auth.gateway.fetch_all(auth.tables.token.select())
    assert not [row for row in rows if row["purpose"] == "device"]


async def test_a_clock_that_runs_backwards_gives_no_token(
    device: httpx.AsyncClient, browser: httpx.AsyncClient, clock: FrozenClock
) -> None:
    codes = await ask(device)
    assert await error_of(device, codes["device_code"]) == (400, "authorization_pending")
    clock.tick(-3600)
    assert await error_of(device, codes["device_code"]) == (400, "slow_down")


async def test_all_addresses_together_have_a_limit_for_each_program(database: Any, clock: FrozenClock) -> None:
    features, rates = [APITokens("shop"), DeviceLogin(CLIENTS)], {"device_authorization": "20/m/ip, 3/m/client"}
    async with installed(database, features=features, clock=clock, rates=rates) as auth:
        app = make_app(auth)
        statuses = []
        for number in range(5):
            transport = httpx.ASGITransport(app, client=(f"192.0.2.{number}", 5000))
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
                response = await client.post(CODE, data={"client_id": "cli"})
                statuses.append(response.status_code)
                other = await client.post(CODE, data={"client_id": "tv"}) if number == 4 else None
        assert statuses == [200, 200, 200, 429, 429]
        assert response.json()["error"] == "slow_down"
        assert other is not None
        assert other.status_code == 200


async def test_a_program_gets_the_lists_as_json_and_a_script_that_asks_for_html_gets_it(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers={"accept": "*/*"}) as client:
        await log_in(client, ann, auth)
        empty, page = {"sec-fetch-dest": "empty"}, {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
        for headers, is_json in (
            ({}, True),
            (empty, True),
            ({"accept": "application/json"}, True),
            ({"accept": "text/html, */*"}, False),
            (empty | {"accept": "text/html, application/xhtml+xml"}, False),
            (page, False),
            ({"hx-request": "true"}, False),
        ):
            response = await client.get("/accounts/tokens", headers=headers)
            assert (response.status_code, response.headers["content-type"].startswith("application/json")) == (
                200,
                is_json,
            ), headers
