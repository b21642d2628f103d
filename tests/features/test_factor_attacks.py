"""Attacks 8 to 21 of a login with a second factor: each way in, each page, guesses, and stolen or changed rows."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from starlette_auth import Auth, BearerSessions, RemoteUserBackend, SecondFactorFailed, TwoFactor, User
from starlette_auth.testing import CollectingMailer, FrozenClock, log_in

from ..conftest import PASSWORD, SECRET_KEY, any_database, installed, post_login
from ..support.matrix import FEW
from .test_assurance import browser_of, who
from .test_factor_store import add, clock_of, code_of, feature_of
from .test_second_factor import browser_of as browser_with_ways
from .test_second_factor import events_of

pytestmark = any_database

PAGE, LOGIN, JSON = "/accounts/second_factor", "/accounts/login", {"accept": "application/json"}
DAY = 24 * 60 * 60
NEW_PASSWORD = "another good long password"


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    features: list[Any] = [TwoFactor(), BearerSessions()]
    options: dict[str, Any] = {"mailer": CollectingMailer(), "base_url": "http://testserver"}
    async with installed(database, features=features, clock=FrozenClock(), login_after_reset=True, **options) as auth:
        yield auth


@pytest.fixture
async def codes(auth: Auth, ann: User) -> list[str]:
    """The recovery codes of ann, who has an app as well."""
    await add(feature_of(auth).store, ann)
    return await feature_of(auth).store.make_recovery_codes(ann, 10)


@pytest.fixture
async def client(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_with_ways(auth) as client:
        yield client


# Attack 8: a second factor that only the login page asks for


async def by_form(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    return await post_login(client)


async def by_json(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    return await client.post(LOGIN, json={"username": "ann", "password": PASSWORD})


async def by_app(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    response = await client.post(LOGIN, json={"username": "ann", "password": PASSWORD, "client": "app"})
    client.headers["authorization"] = f"Bearer {response.headers['x-session-token']}"
    return response


async def open_reset(auth: Auth, client: httpx.AsyncClient) -> str:
    """Opens the link of a reset mail; returns the path of the form."""
    mailer = auth.mail_queue.mailer
    assert isinstance(mailer, CollectingMailer)
    await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
    await auth.mail_queue.drain()
    link = next(link for link in mailer.links("ann@example.org") if "/reset/" in link)
    return (await client.get(link)).headers["location"]


async def by_reset(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    form = await open_reset(auth, client)
    return await client.post(form, data={"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD})


async def by_reset_as_json(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    form = await open_reset(auth, client)
    return await client.post(form, json={"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD})


async def by_app_after_reset(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    form = await open_reset(auth, client)
    fields = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD, "client": "app"}
    response = await client.post(form, json=fields)
    client.headers["authorization"] = f"Bearer {response.headers['x-session-token']}"
    return response


async def by_application(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/by/provider:corp")


async def by_proxy(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.0/24"], persistent=True))
    return await client.get("/", headers={"remote-user": "ann"})


async def by_proxy_at_each_request(auth: Auth, client: httpx.AsyncClient) -> httpx.Response:
    auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.0/24"]))
    client.headers["remote-user"] = "ann"
    return await client.get("/")


Way = Callable[[Auth, httpx.AsyncClient], Awaitable[httpx.Response]]
JSON_WAYS: list[Way] = [by_json, by_app, by_reset_as_json, by_app_after_reset]
WAYS: list[Way] = [by_form, *JSON_WAYS, by_reset, by_application, by_proxy, by_proxy_at_each_request]


def name_of_way(way: Way) -> str:
    return way.__name__


@pytest.mark.parametrize("way", WAYS, ids=name_of_way)
async def test_attack_8_every_way_in_stops_at_the_second_factor(auth: Auth, codes: list[str], way: Way) -> None:
    async with browser_with_ways(auth) as client:
        await way(auth, client)
        assert await who(client) == ""
        assert (await client.get("/vault")).status_code == 403
        asked = await client.get(f"{LOGIN}?next=%2Fvault")  # leads a session that began elsewhere to the step
        assert asked.status_code in (200, 303, 401)
        login_id = (await client.get(PAGE, headers=JSON)).json()["step"]["login"]
        done = await client.post(PAGE, json={"login": login_id, "code": code_of(auth)})
        assert done.status_code == 200
        if "token" in done.json():
            client.headers["authorization"] = f"Bearer {done.json()['token']}"
        assert await who(client) == "ann"


@pytest.mark.parametrize("way", WAYS, ids=name_of_way)
async def test_attack_8_without_a_second_factor_every_way_in_is_one_step(auth: Auth, ann: User, way: Way) -> None:
    async with browser_with_ways(auth) as client:
        await way(auth, client)
        assert await who(client) == "ann"


async def test_a_login_of_another_user_takes_no_proof_of_the_one_that_waits(
    auth: Auth, client: httpx.AsyncClient
) -> None:
    """Of another tab, for example: attack 5."""
    ben = await auth.users.create_user("ben", "", PASSWORD)
    await auth.users.create_user("ann", "", PASSWORD)
    await add(feature_of(auth).store, ben)
    assert (await post_login(client, "ben")).headers["location"] == PAGE
    assert (await client.post("/by/provider:corp")).headers["location"] == "/"
    assert (await client.get("/")).json() == {"username": "ann", "methods": ["provider:corp"], "level": 1}


async def test_the_form_of_a_login_that_waits_counts_for_it_and_not_for_the_user_who_is_logged_in(
    auth: Auth, client: httpx.AsyncClient, codes: list[str]
) -> None:
    await auth.users.create_user("ben", "", PASSWORD)
    await post_login(client, "ben")
    login_id = (await by_json(auth, client)).json()["step"]["login"]
    assert await who(client) == "ben"
    assert (await client.post(PAGE, json={"login": login_id, "code": code_of(auth)})).status_code == 200
    assert (await client.get("/")).json()["methods"] == ["password", "totp"]
    assert await who(client) == "ann"


# Attack 11: a program that takes a step for the end of the login


@pytest.mark.parametrize("way", JSON_WAYS, ids=name_of_way)
async def test_attack_11_each_json_route_that_logs_in_answers_401_with_the_step(
    auth: Auth, codes: list[str], way: Way
) -> None:
    async with browser_with_ways(auth) as client:
        response = await way(auth, client)
        assert (response.status_code, response.headers["content-type"]) == (401, "application/problem+json")
        assert response.json()["step"]["name"] == "second_factor"
        assert "next" not in response.json()
        assert "token" not in response.json()


# Attacks 12 to 14: guesses


async def test_attack_12_guesses_from_many_addresses_are_looked_at_some_hundred_times_a_day(
    auth: Auth, ann: User, codes: list[str]
) -> None:
    """Of evenly spread tries within a day, one in 15 minutes is looked at, after the first five."""
    looked_at, tries = events_of(auth, SecondFactorFailed), 200 if FEW else 800
    app = browser_with_ways(auth)._transport.app  # type: ignore[attr-defined]
    login_id, begun, cookies = "", 0.0, httpx.Cookies()
    for number in range(tries):
        transport = httpx.ASGITransport(app, client=(f"203.0.{number % 1000 // 250}.{number % 250}", 5000))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver", cookies=cookies) as client:
            client.headers["origin"] = "http://testserver"
            if auth.clock() - begun >= 800 or not number:
                begun = auth.clock()
                step = (await client.post(LOGIN, json={"username": "ann", "password": PASSWORD})).json()["step"]
                login_id = step["login"]
            answer = await client.post(PAGE, json={"login": login_id, "code": "000000"})
            assert answer.status_code in (422, 429), answer.text
            cookies = client.cookies
        clock_of(auth).tick(DAY / tries)
    assert 5 <= len(looked_at) <= 5 + 10 + DAY / 900


async def test_attack_13_guesses_at_the_login_and_in_a_session_share_one_counter(
    auth: Auth, ann: User, codes: list[str]
) -> None:
    """An attacker has a session of the user, and the password."""
    async with browser_of(auth) as thief, browser_of(auth) as other:
        await log_in(thief, ann, auth, methods=("password", "totp"))
        step = (await by_json(auth, other)).json()["step"]
        for number in range(5):
            fields = {"code": "000000"} if number % 2 else {"recovery_code": "x"}
            login = {"login": step["login"]} if number > 2 else {}
            client = other if number > 2 else thief
            assert (await client.post(PAGE, data={**fields, **login})).status_code == 422
        for fields in ({"code": code_of(auth)}, {"recovery_code": codes[0]}):
            assert (await thief.post(PAGE, data=fields)).status_code == 429
            assert (await other.post(PAGE, data={**fields, "login": step["login"]})).status_code == 429


# Attacks 17 to 19: rows that were read, moved, or sealed with another key


async def test_attack_18_the_row_of_another_user_is_no_factor_of_this_one(
    auth: Auth, ann: User, codes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    mallory = await auth.users.create_user("mallory", "", PASSWORD)
    for table in feature_of(auth)._tables:
        await auth.gateway.execute(sa.update(table).values(user_id=mallory.id))
    async with browser_of(auth) as client:
        answer = await client.post(LOGIN, json={"username": "mallory", "password": PASSWORD})
        login_id = answer.json()["step"]["login"]
        for fields in ({"code": code_of(auth)}, {"recovery_code": codes[0]}):
            assert (await client.post(PAGE, json={"login": login_id, **fields})).status_code == 422
        assert await who(client) == ""
    assert f"user {mallory.id}" in caplog.text


async def test_attack_19_a_lost_key_opens_no_account(
    database: Any, auth: Auth, ann: User, codes: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    features, clock = [TwoFactor(keys=f"another {SECRET_KEY}")], clock_of(auth)
    async with installed(database, features=features, clock=clock) as later, browser_of(later) as client:
        step = (await by_json(later, client)).json()["step"]
        assert step["name"] == "second_factor"
        assert (await client.post(PAGE, json={"login": step["login"], "code": code_of(auth)})).status_code == 422
        assert await who(client) == ""
        assert "none of the secret keys" in caplog.text
        await client.post(PAGE, json={"login": step["login"], "recovery_code": codes[0]})
        assert await who(client) == "ann"


async def test_attack_19_a_new_key_ends_neither_a_login_nor_an_app(
    database: Any, auth: Auth, ann: User, codes: list[str]
) -> None:
    keys = [f"another {SECRET_KEY}", SECRET_KEY]
    async with (
        browser_of(auth) as before,
        installed(database, features=[TwoFactor()], clock=auth.clock, secret_key=keys) as rotated,
    ):
        step = (await by_json(auth, before)).json()["step"]
        async with browser_of(rotated) as client:
            client.cookies.update(before.cookies)
            answer = await client.post(PAGE, json={"login": step["login"], "code": code_of(auth)})
            assert answer.status_code == 200
            assert await who(client) == "ann"


# Attack 21: a thief in a session changes the factors

#: Each page that changes factors, with a form that would do it.
CHANGES: dict[str, dict[str, str]] = {
    "totp": {"code": "000000"},
    "totp/remove": {"code": "right"},
    "recovery_codes": {"code": "right"},
}


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("as_json", [False, True], ids=["form", "json"])
async def test_attack_21_a_stale_session_changes_no_factor(auth: Auth, ann: User, path: str, as_json: bool) -> None:
    if path != "totp":
        await add(feature_of(auth).store, ann)
    async with browser_of(auth) as thief:
        await log_in(thief, ann, auth, methods=("password", "totp"))
        clock_of(auth).tick(301)
        before = await rows_of_factors(auth)
        fields = {name: code_of(auth) if value == "right" else value for name, value in CHANGES[path].items()}
        for method in ("GET", "HEAD", "POST"):
            data: dict[str, Any] = {"json" if as_json else "data": fields} if method == "POST" else {}
            headers = JSON if as_json else {}
            answer = await thief.request(method, f"/accounts/{path}", headers=headers, **data)
            assert answer.status_code in (303, 403), answer.text
            assert "secret" not in answer.text
            if answer.status_code == 303:
                assert re.match("/accounts/(reauthenticate|second_factor)", answer.headers["location"])
        assert await rows_of_factors(auth) == before


async def rows_of_factors(auth: Auth) -> list[Any]:
    return [dict(row) for table in feature_of(auth)._tables for row in await auth.gateway.fetch_all(sa.select(table))]
