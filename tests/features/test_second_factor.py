"""Tests of the second step of a login: the code of an app, or a recovery code."""

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    LoginPending,
    RecoveryCodeUsed,
    RemoteUserBackend,
    SecondFactorFailed,
    TooManyAttempts,
    TwoFactor,
    User,
    UserLoggedIn,
    complete_login,
    login,
    middleware,
    routes,
)
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, any_database, client_of, installed, post_login
from .test_factor_store import add, clock_of, code_of, feature_of

pytestmark = any_database

JSON = {"username": "ann", "password": PASSWORD, "next": "/vault"}
PAGE = "/accounts/second_factor"


async def whoami(request: Request) -> Response:
    methods = [method.name for method in request.auth.methods]
    return JSONResponse({"username": request.user.username, "methods": methods, "level": request.auth.level})


@requires("level2")
async def vault(request: Request) -> Response:
    return PlainTextResponse("gold")


async def log_in_otherwise(request: Request) -> Response:
    user = await request.app.state.auth.users.get_by_username("ann")
    assert user is not None
    return await complete_login(request, user, "/", method=request.path_params["method"])


async def log_in_barely(request: Request) -> Response:
    user = await request.app.state.auth.users.get_by_username("ann")
    assert user is not None
    await login(request, user, backend=request.query_params["backend"])
    return PlainTextResponse("in")


def make_app(auth: Auth, *, mounts: bool = True) -> Starlette:
    mounted = [Mount("/accounts", routes=routes(auth))] if mounts else []
    own = [Route("/", whoami), Route("/vault", vault), Route("/by/{method}", log_in_otherwise, methods=["POST"])]
    own.append(Route("/bare", log_in_barely, methods=["POST"]))
    app = Starlette(routes=[*own, *mounted], middleware=middleware(auth))
    app.state.auth = auth
    return app


def browser_of(auth: Auth, **options: Any) -> httpx.AsyncClient:
    return client_of(make_app(auth, **options), headers={"origin": "http://testserver"})


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    async with installed(database, features=[TwoFactor()], clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
async def codes(auth: Auth, ann: User) -> list[str]:
    """The recovery codes of ann, who has an app as well."""
    await add(feature_of(auth).store, ann)
    return await feature_of(auth).store.make_recovery_codes(ann, 3)


@pytest.fixture
async def client(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_of(auth) as client:
        yield client


def events_of(auth: Auth, *kinds: type[Any]) -> list[Any]:
    seen: list[Any] = []

    async def note(event: Any) -> None:
        seen.append(event)

    for kind in kinds:
        auth.events.on(kind)(note)
    return seen


async def begin(client: httpx.AsyncClient) -> str:
    """Logs in with the password; returns the id of the pending login."""
    response = await post_login(client, next="/vault")
    assert (response.status_code, response.headers["location"]) == (303, PAGE)
    page = await client.get(PAGE)
    match = re.search(r'name="login" value="([^"]+)"', page.text)
    assert match
    assert page.status_code == 200
    return match[1]


async def send(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    return await client.post(PAGE, data=fields)


async def is_logged_in(client: httpx.AsyncClient) -> bool:
    return bool((await client.get("/")).json()["username"])


async def test_a_user_without_an_app_is_asked_for_nothing(client: httpx.AsyncClient, ann: User) -> None:
    assert (await post_login(client, next="/")).headers["location"] == "/"
    assert (await client.get("/")).json() == {"username": "ann", "methods": ["password"], "level": 1}


async def test_the_code_of_the_app_ends_the_login(auth: Auth, client: httpx.AsyncClient, codes: list[str]) -> None:
    seen = events_of(auth, LoginPending, UserLoggedIn)
    login = await begin(client)
    assert not await is_logged_in(client)
    assert (await client.get("/vault")).status_code == 403
    response = await send(client, login=login, code=code_of(auth))
    assert (response.status_code, response.headers["location"]) == (303, "/vault")
    assert (await client.get("/")).json() == {"username": "ann", "methods": ["password", "totp"], "level": 2}
    assert (await client.get("/vault")).text == "gold"
    assert [type(event) for event in seen] == [LoginPending, UserLoggedIn]


async def test_a_recovery_code_ends_the_login_once(auth: Auth, client: httpx.AsyncClient, codes: list[str]) -> None:
    seen = events_of(auth, RecoveryCodeUsed, SecondFactorFailed)
    login = await begin(client)
    assert (await send(client, login=login, recovery_code=codes[0].upper())).status_code == 303
    assert (await client.get("/")).json()["methods"] == ["password", "recovery_code"]
    assert [event.left for event in seen] == [2]
    async with browser_of(auth) as other:
        login = await begin(other)
        response = await send(other, login=login, recovery_code=codes[0])
        assert response.status_code == 422
        assert "This recovery code is wrong, or was used before." in response.text
        assert codes[0] not in response.text
        assert not await is_logged_in(other)
    assert [type(event) for event in seen] == [RecoveryCodeUsed, SecondFactorFailed]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"code": "000000"}, "This code is wrong or was used before."),
        ({"code": " "}, "This field is required."),
        ({"code": "x" * 65}, "Ensure this value has at most 64 characters"),
        ({"recovery_code": "x"}, "This recovery code is wrong"),
        ({}, "This field is required."),
    ],
)
async def test_a_wrong_code_shows_the_form_again(
    auth: Auth, client: httpx.AsyncClient, codes: list[str], fields: dict[str, str], message: str
) -> None:
    login = await begin(client)
    response = await send(client, login=login, **fields)
    assert response.status_code == 422
    assert message in response.text
    assert not await is_logged_in(client)
    assert (await send(client, login=login, code=code_of(auth))).status_code == 303


async def test_a_wrong_recovery_code_counts_though_the_right_code_of_the_app_is_beside_it(
    auth: Auth, client: httpx.AsyncClient, codes: list[str]
) -> None:
    login = await begin(client)
    assert (await send(client, login=login, recovery_code="x", code=code_of(auth))).status_code == 422


async def test_the_page_needs_a_pending_login(auth: Auth, client: httpx.AsyncClient, codes: list[str]) -> None:
    for response in (await client.get(PAGE), await send(client, login="", code=code_of(auth))):
        assert (response.status_code, response.headers["location"]) == (303, "/accounts/login")


@pytest.mark.parametrize("login", ["", "x"])
async def test_the_form_of_another_login_is_refused(
    auth: Auth, client: httpx.AsyncClient, codes: list[str], login: str
) -> None:
    await begin(client)
    assert (await send(client, login=login, code=code_of(auth))).status_code == 409
    assert not await is_logged_in(client)


async def test_a_login_does_not_take_the_code_of_another_user(
    auth: Auth, client: httpx.AsyncClient, codes: list[str]
) -> None:
    ben = await auth.users.create_user("ben", "", PASSWORD)
    assert await feature_of(auth).store.add_totp(ben, b"another secret, 20 b", 0)
    await post_login(client, "ben")
    login = re.search(r'name="login" value="([^"]+)"', (await client.get(PAGE)).text)
    assert login
    for fields in ({"code": code_of(auth)}, {"recovery_code": codes[0]}):
        assert (await send(client, login=login[1], **fields)).status_code == 422
    assert not await is_logged_in(client)


@pytest.mark.parametrize("method", ["password", "email", "provider:google", "proxy"])
async def test_every_way_of_logging_in_asks(client: httpx.AsyncClient, codes: list[str], method: str) -> None:
    response = await client.post(f"/by/{method}")
    assert (response.status_code, response.headers["location"]) == (303, PAGE)
    assert not await is_logged_in(client)


LOGINS = {
    "password": ("password", "totp", 2),
    "email": ("email", "totp", 1),
    "provider:google": ("provider:google", "totp", 2),
    "proxy": ("proxy", "totp", 2),
    "passkey": ("passkey", 2),
}


@pytest.mark.parametrize("method", LOGINS)
async def test_the_event_of_the_login_has_all_proofs_and_their_level(
    auth: Auth, client: httpx.AsyncClient, codes: list[str], method: str
) -> None:
    seen = events_of(auth, UserLoggedIn)
    await client.post(f"/by/{method}")
    *methods, level = LOGINS[method]
    if "totp" in methods:
        login = re.search(r'name="login" value="([^"]+)"', (await client.get(PAGE)).text)
        assert login
        await send(client, login=login[1], code=code_of(auth))
    assert [(list(event.methods), event.level) for event in seen] == [(methods, level)]


async def test_the_event_of_a_bare_login_has_the_password_or_the_proxy(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.1"]))
    seen = events_of(auth, UserLoggedIn)
    for backend in ("", auth.backends[0].path):
        assert (await client.post(f"/bare?backend={backend}")).text == "in"
    assert (await client.get("/", headers={"x-forwarded-user": "ann"})).status_code == 200
    assert [(event.methods, event.level) for event in seen] == [(("password",), 1), (("proxy",), 1)]


async def test_a_passkey_needs_no_second_factor(client: httpx.AsyncClient, codes: list[str]) -> None:
    assert (await client.post("/by/passkey")).headers["location"] == "/"
    assert (await client.get("/")).json()["level"] == 2


async def test_without_the_page_the_login_does_not_end(auth: Auth, codes: list[str]) -> None:
    async with browser_of(auth, mounts=False) as client:
        with pytest.raises(ImproperlyConfigured):
            await client.post("/by/password")
        assert not await is_logged_in(client)


async def test_a_program_gets_401_with_the_step(auth: Auth, client: httpx.AsyncClient, codes: list[str]) -> None:
    response = await client.post("/accounts/login", json=JSON)
    assert response.status_code == 401
    step = response.json()["step"]
    assert (step["name"], step["url"]) == ("second_factor", PAGE)
    page = (await client.get(PAGE, headers={"accept": "application/json"})).json()
    expected = {"name": "second_factor", "login": step["login"], "methods": ["totp", "recovery_code"]}
    assert page == {"step": expected}
    wrong = await client.post(PAGE, json={"login": step["login"], "code": "000000"})
    assert (wrong.status_code, wrong.headers["content-type"]) == (422, "application/problem+json")
    assert wrong.json()["errors"]["code"][0]["code"] == "wrong_code"
    right = await client.post(PAGE, json={"login": step["login"], "code": code_of(auth)})
    assert (right.status_code, right.json()) == (200, {"next": "/vault"})
    assert await is_logged_in(client)


async def test_without_unused_recovery_codes_the_page_offers_none(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    await add(feature_of(auth).store, ann)
    await begin(client)
    page = await client.get(PAGE, headers={"accept": "application/json"})
    assert page.json()["step"]["methods"] == ["totp"]
    assert "recovery_code" not in (await client.get(PAGE)).text


async def test_a_step_that_is_not_needed_any_more_ends_the_login(
    auth: Auth, client: httpx.AsyncClient, ann: User, codes: list[str]
) -> None:
    await begin(client)
    await feature_of(auth).store.remove_all(ann)
    assert (await client.get(PAGE)).headers["location"] == "/vault"
    assert (await client.get("/")).json()["level"] == 1


async def test_attack_13_wrong_codes_of_all_factors_share_one_counter(
    auth: Auth, client: httpx.AsyncClient, codes: list[str]
) -> None:
    seen = events_of(auth, TooManyAttempts)
    login = await begin(client)
    for number in range(5):
        fields = {"code": "000000"} if number % 2 else {"recovery_code": "x"}
        assert (await send(client, login=login, **fields)).status_code == 422
    for fields in ({"code": code_of(auth)}, {"recovery_code": codes[0]}):
        response = await send(client, login=login, **fields)
        assert response.status_code == 429
        assert "Please wait a moment" in response.text
        assert fields.get("recovery_code", "-----") not in response.text
    assert {event.action for event in seen} == {"second_factor"}
    async with browser_of(auth) as other:  # from another browser it is the same
        login = await begin(other)
        assert (await send(other, login=login, code=code_of(auth))).status_code == 429
    clock_of(auth).tick(15 * 60)
    login = await begin(client)
    assert (await send(client, login=login, code=code_of(auth))).status_code == 303


async def test_attack_14_a_browser_of_the_owner_is_not_locked_out(
    auth: Auth, client: httpx.AsyncClient, codes: list[str]
) -> None:
    login = await begin(client)
    assert (await send(client, login=login, recovery_code=codes[0])).status_code == 303
    await client.post("/accounts/logout")
    async with browser_of(auth) as attacker:
        login = await begin(attacker)
        while (await send(attacker, login=login, code="000000")).status_code == 422:
            pass
    login = await begin(client)
    assert (await send(client, login=login, code=code_of(auth))).status_code == 303


async def test_one_code_sent_at_the_same_moment_logs_in_one_browser(auth: Auth, codes: list[str]) -> None:
    clients = [browser_of(auth) for _ in range(5)]
    logins = [await begin(client) for client in clients]
    code = code_of(auth)
    sent = [send(client, login=login, code=code) for client, login in zip(clients, logins, strict=True)]
    responses = await asyncio.gather(*sent)
    assert sorted(response.status_code for response in responses).count(303) == 1
    assert sum([await is_logged_in(client) for client in clients]) == 1
    for client in clients:
        await client.aclose()


async def test_the_security_log_names_the_account(
    auth: Auth, client: httpx.AsyncClient, ann: User, codes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "starlette_auth.security")
    login = await begin(client)
    await send(client, login=login, code="000000")
    await send(client, login=login, recovery_code=codes[0])
    lines = [record.getMessage() for record in caplog.records if record.name == "starlette_auth.security"]
    assert any("second_factor_failed" in line and "totp, 1 in a row" in line for line in lines)
    assert any("recovery_code_used" in line and 'reason="2 left"' in line for line in lines)
    assert 'reason="by password and recovery_code, level 2, starlette_auth.ModelBackend"' in lines[-1]
    assert not any(codes[0] in line or "000000" in line for line in lines)


def from_address(auth: Auth, number: int, cookies: httpx.Cookies) -> httpx.AsyncClient:
    """Returns a client with the cookies of another one, and an IP address of its own."""
    transport = httpx.ASGITransport(make_app(auth), client=(f"198.51.{number // 250}.{number % 250}", 5000))
    headers = {"origin": "http://testserver"}
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers, cookies=cookies)


async def test_attack_12_guesses_from_many_addresses_are_not_looked_at(
    auth: Auth, client: httpx.AsyncClient, codes: list[str]
) -> None:
    login = await begin(client)
    statuses = []
    for number in range(60):
        async with from_address(auth, number, client.cookies) as attacker:
            statuses.append((await send(attacker, login=login, code="000000")).status_code)
    assert statuses == [422] * 5 + [429] * 55
    for wait in (1, 2, 4, 8, 16):  # one more is looked at after each wait
        clock_of(auth).tick(wait)
        async with from_address(auth, wait, client.cookies) as attacker:
            assert [(await send(attacker, login=login, code="000000")).status_code for _ in range(2)] == [422, 429]


@pytest.mark.parametrize("first", ["code", "recovery_code"])
async def test_attack_13_guesses_spread_over_the_factors_share_one_counter(
    auth: Auth, client: httpx.AsyncClient, codes: list[str], first: str
) -> None:
    second = "recovery_code" if first == "code" else "code"
    login = await begin(client)
    statuses = [(await send(client, login=login, **{first: "000000"})).status_code for _ in range(5)]
    statuses += [(await send(client, login=login, **{second: "000000"})).status_code for _ in range(5)]
    assert statuses == [422] * 5 + [429] * 5


async def test_attack_14_a_stranger_with_the_password_does_not_lock_the_owner_out(
    auth: Auth, client: httpx.AsyncClient, codes: list[str]
) -> None:
    login = await begin(client)
    assert (await send(client, login=login, recovery_code=codes[0])).status_code == 303
    await client.post("/accounts/logout")
    async with browser_of(auth) as stranger:
        login = await begin(stranger)
        while (await send(stranger, login=login, code="000000")).status_code == 422:
            pass
        assert (await send(stranger, login=login, code=code_of(auth))).status_code == 429
    login = await begin(client)
    assert (await send(client, login=login, code=code_of(auth))).status_code == 303


async def test_attack_16_a_recovery_code_logs_in_once(auth: Auth, codes: list[str]) -> None:
    clients = [browser_of(auth) for _ in range(5)]
    logins = [await begin(client) for client in clients]
    sent = [send(client, login=login, recovery_code=codes[0]) for client, login in zip(clients, logins, strict=True)]
    responses = await asyncio.gather(*sent)
    assert [response.status_code for response in responses].count(303) == 1
    assert sum([await is_logged_in(client) for client in clients]) == 1
    for client in clients:
        await client.aclose()


async def test_the_event_tells_how_many_codes_in_a_row_were_wrong(
    auth: Auth, client: httpx.AsyncClient, codes: list[str]
) -> None:
    seen = events_of(auth, SecondFactorFailed)
    login = await begin(client)
    for number in range(5):
        await send(client, login=login, **{("code", "recovery_code")[number % 2]: "000000"})
    assert [event.failures for event in seen] == [1, 2, 3, 4, 5]
    clock_of(auth).tick(60)
    await send(client, login=login, code=code_of(auth))
    await client.post("/accounts/logout")
    login = await begin(client)
    await send(client, login=login, code="000000")
    assert seen[-1].failures == 1


async def test_without_throttling_the_event_has_no_number(database: Any) -> None:
    async with installed(database, features=[TwoFactor()], clock=FrozenClock(), throttling=False) as auth:
        await add(feature_of(auth).store, await auth.users.create_user("ann", "", PASSWORD))
        seen = events_of(auth, SecondFactorFailed)
        async with browser_of(auth) as client:
            login = await begin(client)
            statuses = [(await send(client, login=login, code="000000")).status_code for _ in range(7)]
            assert statuses == [422] * 7
        assert [event.failures for event in seen] == [0] * 7


async def test_after_100_wrong_codes_only_known_browsers_may_try_until_a_new_password(
    auth: Auth, client: httpx.AsyncClient, ann: User, codes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    seen = events_of(auth, SecondFactorFailed)
    login = await begin(client)
    assert (await send(client, login=login, recovery_code=codes[0])).status_code == 303
    await client.post("/accounts/logout")

    async def guess(code: str, **options: Any) -> httpx.Response:
        async with browser_of(auth) as thief:
            await log_in(thief, ann, auth)
            return await thief.post(PAGE, **(options or {"data": {"code": code}}))

    for _ in range(100):
        assert (await guess("000000")).status_code == 422
        clock_of(auth).tick(15 * 60)
    assert (seen[-1].failures, caplog.text.count("Too many wrong second factors in a row")) == (100, 1)
    refused = await guess(code_of(auth))
    assert refused.status_code == 429
    assert "Too many wrong codes were entered. Log in with a browser that you have used here before" in refused.text
    for wait in (15 * 60, 7 * 24 * 60 * 60):
        clock_of(auth).tick(wait)
        answer = await guess("", json={"code": code_of(auth)})
        assert (answer.status_code, answer.json()["code"]) == (429, "too_many_failures")
    login = await begin(client)
    assert (await send(client, login=login, code=code_of(auth))).status_code == 303
    async with browser_of(auth) as other:
        login = await begin(other)
        assert (await send(other, login=login, recovery_code=codes[1])).status_code == 429
        await auth.users.set_password(ann, PASSWORD)
        login = await begin(other)
        assert (await send(other, login=login, recovery_code=codes[1])).status_code == 303
