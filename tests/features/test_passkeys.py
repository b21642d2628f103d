"""Tests of passkeys: adding, logging in, step-up, confirming, renaming and removing."""

import json
import re
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount, Route

from starlette_auth import (
    Auth,
    FactorAdded,
    FactorRemoved,
    Passkeys,
    TwoFactor,
    User,
    UserLoggedIn,
    factor_required,
    middleware,
    routes,
)
from starlette_auth.testing import FrozenClock, SoftPasskey, log_in

from ..conftest import PASSWORD, any_database, client_of, installed, post_login
from .test_factor_store import clock_of
from .test_second_factor import events_of, vault, whoami

pytestmark = any_database

ORIGIN = "http://localhost:8000"
LOGIN, LIST, ADD = "/accounts/login/passkey", "/accounts/passkeys", "/accounts/passkeys/add"
RENAME, REMOVE = "/accounts/passkeys/rename", "/accounts/passkeys/remove"
STEP, CONFIRM = "/accounts/second_factor", "/accounts/reauthenticate"
JSON = {"accept": "application/json"}


async def keys(request: Any) -> Any:
    return await whoami(request)


async def gold(request: Any) -> Any:
    return await whoami(request)


def make_app(auth: Auth) -> Starlette:
    own = [
        Route("/", whoami),
        Route("/vault", vault),
        Route("/gold", factor_required(gold)),
        Route("/keys", factor_required(phishing_resistant=True)(keys)),
    ]
    return Starlette(routes=[*own, Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))


def browser_of(auth: Auth) -> httpx.AsyncClient:
    return client_of(make_app(auth), base_url=ORIGIN, headers={"origin": ORIGIN})


@pytest.fixture(params=[False, True], ids=["alone", "with TwoFactor"])
def features(request: pytest.FixtureRequest) -> list[Any]:
    return [*([TwoFactor()] if request.param else []), Passkeys()]


@pytest.fixture
async def auth(database: Any, features: list[Any]) -> AsyncIterator[Auth]:
    async with installed(database, features=features, base_url=ORIGIN, clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
async def client(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in which ann has just logged in."""
    async with browser_of(auth) as client:
        await post_login(client)
        yield client


def feature_of(auth: Auth) -> Passkeys:
    return next(feature for feature in auth.features if isinstance(feature, Passkeys))


def options_in(page: str) -> dict[str, Any]:
    match = re.search(r"data-(?:get|create)='([^']+)'", page)
    assert match, page
    options: dict[str, Any] = json.loads(unescape(match[1]))
    return options


async def add(client: httpx.AsyncClient, passkey: SoftPasskey, name: str = "Laptop", **fields: str) -> httpx.Response:
    page = await client.get(ADD, params=fields)
    assert page.status_code == 200, page.headers
    credential = passkey.create(options_in(page.text))
    return await client.post(ADD, data={"credential": credential, "name": name, **fields})


async def log_in_with(client: httpx.AsyncClient, passkey: SoftPasskey, **fields: str) -> httpx.Response:
    page = await client.get("/accounts/login")
    return await client.post(LOGIN, data={"credential": passkey.sign(options_in(page.text)), **fields})


async def test_a_user_adds_a_passkey_and_logs_in(auth: Auth, client: httpx.AsyncClient) -> None:
    seen = events_of(auth, FactorAdded, UserLoggedIn)
    passkey = SoftPasskey(origin=ORIGIN)
    added = await add(client, passkey)
    assert (added.status_code, added.headers["location"]) == (303, f"{LIST}?done")
    page = (await client.get(f"{LIST}?done")).text
    assert "Laptop" in page
    assert "Passkey, on one device" in page
    async with browser_of(auth) as other:
        done = await log_in_with(other, passkey, next="/vault")
        assert (done.status_code, done.headers["location"]) == (303, "/vault")
        assert (await other.get("/")).json() == {"username": "ann", "methods": ["passkey"], "level": 2}
        assert (await other.get("/vault")).text == "gold"
    assert [type(event) for event in seen] == [FactorAdded, UserLoggedIn]


async def test_a_page_that_resists_phishing_leads_to_add_a_passkey(client: httpx.AsyncClient) -> None:
    location = (await client.get("/keys")).headers["location"]
    assert "need=phishing_resistant" in location
    adding = (await client.get(location)).headers["location"]
    assert adding == f"{LIST}?next=%2Fkeys"
    assert 'href="/accounts/passkeys/add?next=%2Fkeys"' in (await client.get(adding)).text
    added = await add(client, SoftPasskey(origin=ORIGIN), next="/keys")
    assert added.headers["location"] == "/keys"
    assert (await client.get("/keys")).json()["level"] == 2


async def test_a_program_learns_where_to_add_a_passkey(client: httpx.AsyncClient) -> None:
    refused = (await client.get("/keys", headers=JSON)).json()
    assert refused["need"]["phishing_resistant"]
    missing = await client.get(refused["need"]["url"], headers=JSON)
    assert (missing.status_code, missing.json()["code"], missing.json()["passkeys"]) == (403, "factor_missing", LIST)


async def test_a_step_up_with_a_passkey(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    for path in ("/gold", "/keys"):
        client.cookies.clear()
        await log_in(client, ann, auth)
        location = (await client.get(path)).headers["location"]
        page = await client.get(location)
        assert 'name="password"' not in page.text
        target = location.partition("?")[0]
        told = (await client.get(location, headers=JSON)).json()["step"]
        assert told["methods"] == ["passkey"]
        assert told["publicKey"]["allowCredentials"]
        data = {"credential": passkey.sign(options_in(page.text)), "next": path, "need": "factor"}
        done = await client.post(target, data=data)
        assert (done.status_code, done.headers["location"]) == (303, path)
        assert (await client.get(path)).status_code == 200


async def test_a_passkey_confirms_in_place_of_the_password(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN, synced=True)
    await add(client, passkey)
    clock_of(auth).tick(301)
    location = (await client.get(ADD)).headers["location"]
    assert location == f"{CONFIRM}?next=%2Faccounts%2Fpasskeys%2Fadd"
    page = (await client.get(location)).text
    assert 'name="password"' in page
    told = (await client.get(location, headers=JSON)).json()["step"]
    assert (told["name"], told["methods"]) == ("reauthenticate", ["password", "passkey"])
    wrong = await client.post(CONFIRM, data={"credential": "{}", "next": ADD})
    assert wrong.status_code == 422
    assert "This passkey was not accepted" in wrong.text
    done = await client.post(CONFIRM, data={"credential": passkey.sign(options_in(page)), "next": ADD})
    assert (done.status_code, done.headers["location"]) == (303, ADD)
    assert (await client.get(ADD)).status_code == 200


async def test_a_user_without_a_password_confirms_with_a_passkey(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    await auth.users.set_password(ann, None)
    await log_in_with(client, passkey)
    clock_of(auth).tick(301)
    location = (await client.get(ADD)).headers["location"]
    page = (await client.get(location)).text
    assert 'name="password"' not in page
    assert "Please use your passkey" in page
    await client.post(CONFIRM, data={"credential": passkey.sign(options_in(page)), "next": ADD})
    assert (await client.get(ADD)).status_code == 200


async def test_renaming_and_removing(auth: Auth, client: httpx.AsyncClient) -> None:
    seen = events_of(auth, FactorRemoved)
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    [row] = (await client.get(LIST, headers=JSON)).json()["passkeys"]
    assert row == {
        "id": row["id"],
        "name": "Laptop",
        "kind": "passkey",
        "created": 1_800_000_000,
        "last_used": None,
        "synced": False,
    }
    for name in ("Phone", "Phone"):
        assert (await client.post(RENAME, data={"passkey": row["id"], "name": name})).status_code == 303
    assert (await client.post(RENAME, data={"passkey": row["id"], "name": ""})).status_code == 422
    assert (await client.post(RENAME, data={"passkey": row["id"], "name": "x" * 101})).status_code == 422
    assert "Phone" in (await client.get(LIST)).text
    removed = await client.post(REMOVE, data={"passkey": row["id"]})
    assert (removed.status_code, removed.headers["location"]) == (303, f"{LIST}?done")
    assert [event.factor for event in seen] == ["passkey"]
    page = (await client.get(LIST)).text
    assert "signalAllAcceptedCredentials" in page
    assert '"allAcceptedCredentialIds": []' in page
    assert "signalAll" not in (await client.get(LIST)).text
    assert (await log_in_with(client, passkey)).status_code == 422


@pytest.mark.parametrize("number", ["", "x", "-1", "²", "9" * 19])
async def test_a_wrong_number_is_refused(client: httpx.AsyncClient, number: str) -> None:
    for path in (RENAME, REMOVE):
        assert (await client.post(path, data={"passkey": number, "name": "x"})).status_code == 400
    assert (await client.post(REMOVE, data={"passkey": "123456"})).status_code == 404


async def test_the_passkeys_of_others_are_not_found(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    [row] = (await client.get(LIST, headers=JSON)).json()["passkeys"]
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    async with browser_of(auth) as other:
        await log_in(other, ben, auth)
        for path in (RENAME, REMOVE):
            refused = await other.post(path, data={"passkey": row["id"], "name": "Mine"})
            assert refused.status_code == 404
        assert (await other.get(LIST, headers=JSON)).json()["passkeys"] == []
    assert "Laptop" in (await client.get(LIST)).text


async def test_the_last_way_in_stays(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    await auth.users.set_password(ann, None)
    await log_in_with(client, passkey)
    [row] = (await client.get(LIST, headers=JSON)).json()["passkeys"]
    refused = await client.post(REMOVE, json={"passkey": str(row["id"])})
    assert (refused.status_code, refused.json()["code"]) == (409, "last_way_in")
    assert (await log_in_with(client, passkey)).status_code == 303


async def test_a_change_needs_a_fresh_proof_with_the_passkey(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    """Attack 21: an attacker with a stolen session, and one who has the password too."""
    await add(client, SoftPasskey(origin=ORIGIN))
    [row] = (await client.get(LIST, headers=JSON)).json()["passkeys"]
    async with browser_of(auth) as other:
        await log_in(other, ann, auth)  # with the password alone
        for path, data in ((ADD, {"credential": "{}"}), (RENAME, {"name": "x"}), (REMOVE, {})):
            fields = {"passkey": str(row["id"]), **data}
            refused = await other.post(path, json=fields)
            assert (refused.status_code, refused.json()["code"]) == (403, "factor_required")
            assert (await other.post(path, data=fields)).status_code == 303
    clock_of(auth).tick(300)
    for path in (ADD, RENAME, REMOVE):
        refused = await client.post(path, json={"passkey": str(row["id"])})
        assert (refused.status_code, refused.json()["code"]) == (403, "login_too_old")


async def test_the_first_factor_and_the_last_one_end_other_sessions(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    async with browser_of(auth) as other:
        await log_in(other, ann, auth)
        passkey = SoftPasskey(origin=ORIGIN)
        await add(client, passkey)
        assert (await other.get(LIST)).status_code == 303
        await log_in(other, ann, auth)
        await add(client, SoftPasskey(origin=ORIGIN), "Second")
        assert (await other.get(LIST)).status_code == 200
        for row in (await client.get(LIST, headers=JSON)).json()["passkeys"]:
            assert (await other.get(LIST)).status_code == 200
            await client.post(REMOVE, data={"passkey": row["id"]})
        assert (await other.get(LIST)).status_code == 303
    assert (await client.get(LIST)).status_code == 200


async def test_visitors_are_asked_to_log_in(auth: Auth, ann: User) -> None:
    async with browser_of(auth) as client:
        for path in (LIST, ADD):
            assert (await client.get(path)).headers["location"].startswith("/accounts/login")
        for path in (ADD, RENAME, REMOVE):
            assert (await client.post(path, json={})).status_code == 401


async def test_all_passkeys_of_a_user_have_one_handle(auth: Auth, client: httpx.AsyncClient) -> None:
    first, second = SoftPasskey(origin=ORIGIN), SoftPasskey(origin=ORIGIN)
    one = options_in((await client.get(ADD)).text)["user"]["id"]
    assert options_in((await client.get(ADD)).text)["user"]["id"] == one
    await add(client, first)
    await add(client, second)
    assert first.user_handle == second.user_handle
    assert len(first.user_handle) == 32


async def test_a_passkey_is_excluded_and_registered_once(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    with pytest.raises(ValueError, match="exclude"):
        await add(client, passkey)


async def test_there_is_a_greatest_number(auth: Auth, client: httpx.AsyncClient) -> None:
    feature_of(auth).pages.max_per_user = 1
    options = options_in((await client.get(ADD)).text)
    await add(client, SoftPasskey(origin=ORIGIN))
    assert "as many as possible" in (await client.get(LIST)).text
    assert (await client.get(ADD)).status_code == 409
    refused = await client.post(ADD, json={"credential": SoftPasskey(origin=ORIGIN).create(options)})
    assert (refused.status_code, refused.json()["code"]) == (409, "too_many_passkeys")


async def test_a_program_sends_objects(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    options = (await client.get(ADD, headers=JSON)).json()
    added = await client.post(ADD, json={"credential": json.loads(passkey.create(options)), "name": "Script"})
    assert (added.status_code, added.json()) == (200, {"next": f"{LIST}?done"})
    async with browser_of(auth) as other:
        options = (await other.get(LOGIN, headers=JSON)).json()
        assert options["publicKey"]["allowCredentials"] == []
        done = await other.post(LOGIN, json={"credential": json.loads(passkey.sign(options)), "next": "/vault"})
        assert (done.status_code, done.json()) == (200, {"next": "/vault"})
        assert (await other.get("/session", headers=JSON)).status_code == 404
        assert (await other.get("/accounts/session")).json()["methods"] == [{"name": "passkey", "age": 0}]


@pytest.mark.parametrize(
    "body",
    [
        '{"credential": 5}',
        '{"credential": [1]}',
        '{"credential": {"id": "a", "id": "b"}}',
        '{"credential": null}',
        '{"credential": "{}", "credential": "{}"}',
    ],
)
async def test_a_credential_that_is_no_object_is_refused(client: httpx.AsyncClient, body: str) -> None:
    headers = {"content-type": "application/json"}
    assert (await client.post(LOGIN, content=body, headers=headers)).status_code == 400


async def test_a_browser_that_opens_the_address_gets_the_login_page(auth: Auth, ann: User) -> None:
    async with browser_of(auth) as client:
        done = await client.get(f"{LOGIN}?next=/vault")
        assert (done.status_code, done.headers["location"]) == (303, "/accounts/login?next=%2Fvault")


async def test_logins_are_limited(auth: Auth, ann: User) -> None:
    async with browser_of(auth) as client:
        for _ in range(60):
            await client.post(LOGIN, data={"credential": "{}"})
        limited = await client.post(LOGIN, data={"credential": "{}"})
        assert limited.status_code == 429
        assert "Log in with a passkey" in limited.text


async def test_a_damaged_row_is_left_out(
    auth: Auth, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    passkey, other = SoftPasskey(origin=ORIGIN), SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    await add(client, other, "Good")
    [row, _] = (await client.get(LIST, headers=JSON)).json()["passkeys"]
    await auth.database.execute(f"UPDATE auth_passkey SET public_key = '%%' WHERE id = {row['id']}")
    page = await client.get(LIST)
    assert page.status_code == 200
    assert "Laptop" not in page.text
    assert "Good" in page.text
    assert "is damaged" in caplog.text
    assert (await log_in_with(client, passkey)).status_code == 422
    assert (await log_in_with(client, other)).status_code == 303


async def test_another_site_cannot_send_the_forms(auth: Auth, client: httpx.AsyncClient) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    options = options_in((await client.get("/accounts/login")).text)
    foreign = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
    data = {"credential": passkey.sign(options), "passkey": "1", "name": "x"}
    for path in (LOGIN, ADD, RENAME, REMOVE):
        assert (await client.post(path, data=data, headers=foreign)).status_code == 403
