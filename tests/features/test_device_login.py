"""Device login (RFC 8628): the error table, the pages, and attacks."""

import asyncio
import html
import logging
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
from fastapi import FastAPI
from openapi_spec_validator import validate
from starlette.routing import Route

from starlette_auth import (
    APITokens,
    Auth,
    DeviceApproved,
    DeviceLogin,
    DeviceRefused,
    ImproperlyConfigured,
    User,
    lifespan,
    middleware,
)
from starlette_auth.database.statements import Statement
from starlette_auth.fastapi import accounts
from starlette_auth.features.device_login.requests import ALPHABET, make_user_code, parse_user_code
from starlette_auth.security.reset_tokens import encode_uid
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, client_of, installed
from ..support.apps import make_app
from .test_api_tokens import bearer, mine

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
CLIENTS = {"cli": "Shop CLI", "tv": "Shop TV"}


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def auth(database: Any, clock: FrozenClock) -> AsyncIterator[Auth]:
    async with installed(database, features=[APITokens("shop"), DeviceLogin(CLIENTS)], clock=clock) as auth:
        yield auth


@pytest.fixture
async def ann(auth: Auth) -> User:
    return await auth.users.create_user("ann", "ann@shop.example", PASSWORD)


@pytest.fixture
async def browser(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth)) as client:
        await log_in(client, ann, auth)
        yield client


@pytest.fixture
async def device(auth: Auth) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(make_app(auth, Route("/mine", mine)), headers={"accept": "*/*"}) as client:
        client._transport.app.state.auth = auth  # type: ignore[attr-defined]
        yield client


def tokens_in(auth: Auth) -> APITokens:
    return next(feature for feature in auth.features if isinstance(feature, APITokens))


async def ask(device: httpx.AsyncClient, **fields: str) -> dict[str, Any]:
    response = await device.post("/accounts/device/code", data={"client_id": "cli", **fields})
    assert response.status_code == 200, response.text
    return dict(response.json())


async def poll(device: httpx.AsyncClient, code: str, **fields: Any) -> httpx.Response:
    data = {"grant_type": GRANT, "client_id": "cli", "device_code": code, **fields}
    response = await device.post("/accounts/device/token", data={name: value for name, value in data.items() if value})
    assert response.headers["cache-control"] == "no-store"
    return response


async def error_of(device: httpx.AsyncClient, code: str, **fields: Any) -> tuple[int, str]:
    response = await poll(device, code, **fields)
    return response.status_code, response.json()["error"]


async def enter(browser: httpx.AsyncClient, user_code: str) -> httpx.Response:
    return await browser.post("/accounts/device", data={"user_code": user_code})


def handle_in(page: httpx.Response) -> str:
    match = re.search(r'name="request" value="([^"]+)"', page.text)
    assert match, page.text
    return html.unescape(match[1])


async def decide(browser: httpx.AsyncClient, user_code: str, decision: str = "approve") -> httpx.Response:
    handle = handle_in(await enter(browser, user_code))
    return await browser.post("/accounts/device", data={"request": handle, "decision": decision})


async def test_a_device_gets_a_token_after_the_approval(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, clock: FrozenClock, ann: User
) -> None:
    response = await device.post("/accounts/device/code", data={"client_id": "cli"})
    codes = response.json()
    assert response.headers["cache-control"] == "no-store"
    assert re.fullmatch(rf"[{ALPHABET}]{{4}}-[{ALPHABET}]{{4}}", codes["user_code"])
    assert codes["verification_uri"] == "http://testserver/accounts/device"
    assert codes["verification_uri_complete"] == f"http://testserver/accounts/device?user_code={codes['user_code']}"
    assert (codes["expires_in"], codes["interval"]) == (900, 5)
    assert await error_of(device, codes["device_code"]) == (400, "authorization_pending")

    clock.tick(70)
    page = await enter(browser, codes["user_code"].lower().replace("-", " "))
    for shown in (codes["user_code"], "Shop CLI", "192.0.2.1", "1 minute ago"):
        assert shown in page.text
    done = await browser.post("/accounts/device", data={"request": handle_in(page), "decision": "approve"})
    assert (done.status_code, done.headers["location"]) == (303, "/accounts/device/done?decision=approve")
    assert "Your device is logged in" in (await browser.get(done.headers["location"])).text

    token = (await poll(device, codes["device_code"])).json()
    assert token["token_type"] == "Bearer"
    assert token["expires_in"] == 90 * 24 * 60 * 60
    assert (await device.get("/mine", headers=bearer(token["access_token"]))).json()["username"] == "ann"
    [stored] = await tokens_in(auth).list(ann)
    assert (stored.name, stored.scopes) == ("Shop CLI", None)


async def test_a_token_is_limited_to_the_scopes_that_the_user_saw(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User
) -> None:
    for perm in ("shop.view_order", "shop.add_order"):
        await auth.users.create_permission(perm)
    await auth.users.grant(ann, "shop.view_order")
    codes = await ask(device, scope="shop.view_order")
    assert "shop.view_order" in (await enter(browser, codes["user_code"])).text
    await decide(browser, codes["user_code"])
    assert (await poll(device, codes["device_code"])).json()["scope"] == "shop.view_order"

    more = await ask(device, scope="shop.view_order shop.add_order")
    refused = await decide(browser, more["user_code"])
    assert refused.status_code == 422
    assert "You do not have the permission shop.add_order." in refused.text
    assert await error_of(device, more["device_code"]) == (400, "authorization_pending")


# The error tables: RFC 8628 §3.5, RFC 6749 §5.2.


async def test_authorization_pending(device: httpx.AsyncClient, clock: FrozenClock) -> None:
    code = (await ask(device))["device_code"]
    for _ in range(3):
        assert await error_of(device, code) == (400, "authorization_pending")
        clock.tick(5)


async def test_slow_down_lets_the_interval_grow(device: httpx.AsyncClient, clock: FrozenClock) -> None:
    code = (await ask(device))["device_code"]
    assert await error_of(device, code) == (400, "authorization_pending")
    clock.tick(3)
    assert await error_of(device, code) == (400, "slow_down")  # 10 seconds from now on
    clock.tick(6)
    assert await error_of(device, code) == (400, "slow_down")  # 15
    clock.tick(15)
    assert await error_of(device, code) == (400, "authorization_pending")
    clock.tick(14)
    assert await error_of(device, code) == (400, "slow_down")


async def test_access_denied(device: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    codes = await ask(device)
    done = await decide(browser, codes["user_code"], "refuse")
    assert "The device was refused" in (await browser.get(done.headers["location"])).text
    for _ in range(2):
        assert await error_of(device, codes["device_code"]) == (400, "access_denied")


@pytest.mark.parametrize("is_approved", [False, True])
async def test_expired_token(
    device: httpx.AsyncClient, browser: httpx.AsyncClient, clock: FrozenClock, is_approved: bool
) -> None:
    codes = await ask(device)
    if is_approved:
        await decide(browser, codes["user_code"])
    clock.tick(900)
    assert await error_of(device, codes["device_code"]) == (400, "expired_token")


async def test_invalid_grant_for_an_unknown_code(device: httpx.AsyncClient) -> None:
    assert await error_of(device, "x" * 43) == (400, "invalid_grant")
    assert await error_of(device, "ü" * 5000) == (400, "invalid_grant")


@pytest.mark.parametrize(("client", "error"), [("other", "invalid_client"), ("", "invalid_request")])
async def test_invalid_client(device: httpx.AsyncClient, client: str, error: str) -> None:
    code = (await ask(device))["device_code"]
    assert await error_of(device, code, client_id=client) == (400, error)
    response = await device.post("/accounts/device/code", data={"client_id": client})
    assert (response.status_code, response.json()["error"]) == (400, error)
    assert response.headers["cache-control"] == "no-store"


async def test_invalid_client_for_a_client_with_a_secret(device: httpx.AsyncClient) -> None:
    response = await device.post("/accounts/device/code", data={"client_id": "cli"}, auth=("cli", "secret"))
    assert (response.status_code, response.json()["error"]) == (401, "invalid_client")
    assert response.headers["www-authenticate"].startswith("Basic")


async def test_unsupported_grant_type(device: httpx.AsyncClient) -> None:
    assert await error_of(device, "x", grant_type="password") == (400, "unsupported_grant_type")


@pytest.mark.parametrize(
    "options",
    [
        {"data": {"client_id": "cli", "device_code": "x"}},
        {"data": {"client_id": "cli", "grant_type": GRANT}},
        {"data": {"client_id": ["cli", "cli"], "grant_type": GRANT, "device_code": "x"}},
        {"json": {"client_id": "cli", "grant_type": GRANT, "device_code": "x"}},
        {"params": {"client_id": "cli", "grant_type": GRANT, "device_code": "x"}},
        {"content": b"a=%ff", "headers": {"content-type": "application/x-www-form-urlencoded"}},
    ],
    ids=["no grant_type", "no device_code", "twice", "JSON", "in the URL", "not UTF-8"],
)
async def test_invalid_request(device: httpx.AsyncClient, options: dict[str, Any]) -> None:
    response = await device.post("/accounts/device/token", **options)
    assert (response.status_code, response.json()["error"]) == (400, "invalid_request")
    assert response.headers["cache-control"] == "no-store"
    # The set of characters of RFC 6749 §5.2.
    assert re.fullmatch(r"[ !#-\[\]-~]+", response.json()["error_description"])


@pytest.mark.parametrize("scope", ["a  b", 'a"b', "ü"])
async def test_invalid_scope(device: httpx.AsyncClient, scope: str) -> None:
    response = await device.post("/accounts/device/code", data={"client_id": "cli", "scope": scope})
    assert (response.status_code, response.json()["error"]) == (400, "invalid_scope")


# Attacks.


async def test_a_phished_link_approves_nothing_and_shows_what_asks(
    auth: Auth, browser: httpx.AsyncClient, ann: User
) -> None:
    elsewhere = httpx.ASGITransport(make_app(auth), client=("203.0.113.9", 5000))
    async with httpx.AsyncClient(transport=elsewhere, base_url="http://testserver") as attacker:
        codes = await ask(attacker)
        page = await browser.get(codes["verification_uri_complete"])
        assert f'value="{codes["user_code"]}"' in page.text
        assert 'value="approve"' not in page.text
        shown = await enter(browser, codes["user_code"])
        assert "203.0.113.9" in shown.text
        assert "in another network" in shown.text
        # A form of another site, with the attacker's own decision, is refused.
        handle = handle_in(shown)
        for site in ("cross-site", "same-site"):
            data = {"request": handle, "decision": "approve"}
            forged = await browser.post("/accounts/device", data=data, headers={"sec-fetch-site": site})
            assert forged.status_code == 403
        # So is the name of the request in the form that the attacker got in the attacker's own account.
        mallory = await auth.users.create_user("mallory", "m@shop.example", PASSWORD)
        async with client_of(make_app(auth)) as own:
            await log_in(own, mallory, auth)
            foreign = handle_in(await enter(own, codes["user_code"]))
        assert (
            await browser.post("/accounts/device", data={"request": foreign, "decision": "approve"})
        ).status_code == 422
        assert await error_of(attacker, codes["device_code"]) == (400, "authorization_pending")


async def test_the_pages_need_a_fresh_login(
    device: httpx.AsyncClient, browser: httpx.AsyncClient, clock: FrozenClock, auth: Auth
) -> None:
    codes = await ask(device)
    async with client_of(make_app(auth)) as visitor:
        answer = await visitor.get(codes["verification_uri_complete"])
        assert answer.headers["location"].startswith("/accounts/login?next=%2Faccounts%2Fdevice%3Fuser_code")
    handle = handle_in(await enter(browser, codes["user_code"]))
    clock.tick(301)
    assert "/reauthenticate" in (await browser.get("/accounts/device")).headers["location"]
    answer = await browser.post("/accounts/device", data={"request": handle, "decision": "approve"})
    assert answer.status_code == 403
    assert await error_of(device, codes["device_code"]) == (400, "authorization_pending")


async def test_guessed_user_codes_are_limited(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, clock: FrozenClock
) -> None:
    codes = await ask(device)
    for _ in range(5):
        assert (await enter(browser, make_user_code())).status_code == 422
    answer = await enter(browser, codes["user_code"])
    assert answer.status_code == 429
    assert int(answer.headers["retry-after"]) > 60
    assert 'value="approve"' not in answer.text
    clock.tick(120)
    assert (await enter(browser, codes["user_code"])).status_code in (200, 403)


async def test_new_codes_are_limited_by_address(device: httpx.AsyncClient) -> None:
    for _ in range(20):
        await ask(device)
    response = await device.post("/accounts/device/code", data={"client_id": "cli"})
    assert (response.status_code, response.json()["error"]) == (429, "slow_down")
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["retry-after"]


async def test_a_device_code_is_used_once(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User
) -> None:
    codes = await ask(device)
    await decide(browser, codes["user_code"])
    answers = await asyncio.gather(*(poll(device, codes["device_code"]) for _ in range(10)))
    assert sorted(answer.status_code for answer in answers) == [200] + [400] * 9
    assert await error_of(device, codes["device_code"]) == (400, "invalid_grant")
    assert len(await tokens_in(auth).list(ann)) == 1


async def test_a_user_code_is_decided_once(device: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    codes = await ask(device)
    handle = handle_in(await enter(browser, codes["user_code"]))
    data = {"request": handle, "decision": "refuse"}
    assert (await browser.post("/accounts/device", data=data)).status_code == 303
    assert (await browser.post("/accounts/device", data={**data, "decision": "approve"})).status_code == 422
    assert (await enter(browser, codes["user_code"])).status_code == 422
    assert await error_of(device, codes["device_code"]) == (400, "access_denied")


async def test_a_device_that_ignores_slow_down_gets_no_other_answer(
    device: httpx.AsyncClient, clock: FrozenClock
) -> None:
    code = (await ask(device))["device_code"]
    await poll(device, code)
    for _ in range(10):
        clock.tick(4)
        assert await error_of(device, code) == (400, "slow_down")
    clock.tick(54)
    assert await error_of(device, code) == (400, "slow_down")
    clock.tick(60)
    assert await error_of(device, code) == (400, "authorization_pending")


async def test_another_client_gets_nothing(device: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    codes = await ask(device)
    await decide(browser, codes["user_code"])
    assert await error_of(device, codes["device_code"], client_id="tv") == (400, "invalid_grant")
    assert (await poll(device, codes["device_code"])).status_code == 200


async def test_a_deactivation_ends_an_approved_request(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User
) -> None:
    codes = await ask(device)
    await decide(browser, codes["user_code"])
    await auth.users.update(ann, is_active=False)
    await auth.users.update(ann, is_active=True)
    assert await error_of(device, codes["device_code"]) == (400, "invalid_grant")


@pytest.mark.parametrize("change", [{"is_active": False}, {"password": "new"}, {"email": "new@shop.example"}], ids=str)
async def test_an_account_that_changed_gets_no_token_without_the_event(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, change: dict[str, Any]
) -> None:
    codes = await ask(device)
    await decide(browser, codes["user_code"])
    await auth.gateway.execute(Statement(sa.update(auth.tables.user).values(change)))
    assert await error_of(device, codes["device_code"]) == (400, "invalid_grant")


@pytest.mark.parametrize("by_reset", [True, False])
async def test_a_new_password_ends_an_approved_request(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, ann: User, by_reset: bool
) -> None:
    codes = await ask(device)
    await decide(browser, codes["user_code"])
    if by_reset:
        token = await auth.reset_tokens.make(ann)
        uid = encode_uid(ann)
        async with client_of(make_app(auth)) as owner:
            page = await owner.get(f"/accounts/reset/{uid}/{token}", follow_redirects=True)
            assert page.status_code == 200
            new = {"new_password1": "a quiet heron 42", "new_password2": "a quiet heron 42"}
            headers = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
            assert (await owner.post(str(page.url), data=new, headers=headers)).status_code == 303
    else:
        await auth.users.set_password(ann, "a quiet heron 42")
    assert await error_of(device, codes["device_code"]) == (400, "invalid_grant")


async def test_a_token_opens_no_page_of_a_device(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient
) -> None:
    codes = await ask(device)
    await decide(browser, codes["user_code"])
    token = (await poll(device, codes["device_code"])).json()["access_token"]
    more = await ask(device)
    answer = await device.post("/accounts/device", data={"user_code": more["user_code"]}, headers=bearer(token))
    assert answer.status_code == 403


async def test_a_dump_of_the_database_shows_no_code(auth: Auth, device: httpx.AsyncClient) -> None:
    codes = await ask(device)
    rows = await auth.gateway.fetch_all(Statement(sa.select(*auth.tables.token.columns)))
    dump = " ".join(str(value) for row in rows for value in row.values())
    assert '"client": "cli"' in dump
    assert codes["device_code"] not in dump
    assert codes["user_code"] not in dump
    assert codes["user_code"].replace("-", "") not in dump


# Around it.


async def test_a_decision_is_an_event_and_a_line_of_the_log(
    auth: Auth, device: httpx.AsyncClient, browser: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Any] = []
    auth.events.on(DeviceApproved)(seen.append)
    auth.events.on(DeviceRefused)(seen.append)
    caplog.set_level(logging.INFO, "starlette_auth.security")
    for decision in ("approve", "refuse"):
        await decide(browser, (await ask(device))["user_code"], decision)
    assert [type(event) for event in seen] == [DeviceApproved, DeviceRefused]
    assert {(event.user.username, event.client, event.address) for event in seen} == {("ann", "cli", "192.0.2.1")}
    lines = [line for line in caplog.messages if line.startswith("device_")]
    assert [line.split()[0] for line in lines] == ["device_approved", "device_refused"]


async def test_a_program_decides_with_json(device: httpx.AsyncClient, browser: httpx.AsyncClient) -> None:
    codes = await ask(device)
    details = (await browser.post("/accounts/device", json={"user_code": codes["user_code"]})).json()
    assert (details["client"], details["address"], details["scopes"]) == ("Shop CLI", "192.0.2.1", None)
    answer = await browser.post("/accounts/device", json={"request": details["request"], "decision": "approve"})
    assert answer.json() == {"next": "/accounts/device/done?decision=approve"}
    assert (await poll(device, codes["device_code"])).status_code == 200


async def test_a_user_with_too_many_tokens_is_denied(database: Any, clock: FrozenClock) -> None:
    features = [DeviceLogin(CLIENTS), APITokens("shop", max_per_user=1)]
    async with installed(database, features=features, clock=clock) as auth:
        user = await auth.users.create_user("ann", "ann@shop.example", PASSWORD)
        await features[1].create(user, "first")  # type: ignore[attr-defined]
        async with client_of(make_app(auth)) as client:
            await log_in(client, user, auth)
            codes = await ask(client)
            await decide(client, codes["user_code"])
            for _ in range(2):
                assert await error_of(client, codes["device_code"]) == (400, "access_denied")


async def test_user_codes_are_read_as_people_type_them() -> None:
    assert parse_user_code(" bcdf ghjk ") == parse_user_code("BCDFGHJK") == parse_user_code("bcdf–ghjk") == "BCDF-GHJK"
    for text in ("", "BCDF-GHJ", "BCDF-GHJA", "BCDF-GHJKL", "ß" * 8):
        assert parse_user_code(text) == ""


@pytest.mark.parametrize("clients", [{}, {"cli": ""}, {"": "CLI"}, {"cli": "a\nb"}, ["cli"], "cli", {"cli": 3}])
def test_wrong_clients_are_refused(clients: Any) -> None:
    with pytest.raises((ImproperlyConfigured, TypeError), match=r"Pass|pass"):
        DeviceLogin(clients)


async def test_the_feature_needs_api_tokens(database: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="APITokens"):
        async with installed(database, features=[DeviceLogin(CLIENTS)]):
            pass


@pytest.mark.parametrize("pages", [True, False], ids=["with pages", "JSON only"])
async def test_openapi_documents_what_the_endpoints_return(auth: Auth, ann: User, pages: bool) -> None:
    app = FastAPI(lifespan=lifespan(auth), middleware=middleware(auth))
    app.include_router(accounts(auth, pages=pages), prefix="/accounts")
    app.get("/reset/{uidb64}/{token}", name="password_reset_confirm", include_in_schema=False)(lambda: "a page")
    if not pages:
        app.get("/devices", name="device", include_in_schema=False)(lambda: "a page")
    async with app.router.lifespan_context(app):
        schema = app.openapi()
    validate(schema)
    paths = schema["paths"]
    assert {"user_code", "request", "decision"} == set(
        paths["/accounts/device"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
    )

    def check(path: str, response: httpx.Response) -> dict[str, Any]:
        content = paths[path]["post"]["responses"][str(response.status_code)]["content"]
        jsonschema.validate(response.json(), content["application/json"]["schema"])
        return dict(response.json())

    async with client_of(app) as client:
        codes = check("/accounts/device/code", await client.post("/accounts/device/code", data={"client_id": "cli"}))
        page = "/accounts/device" if pages else "/devices"
        assert codes["verification_uri"] == f"http://testserver{page}"
        await log_in(client, ann, auth)
        check("/accounts/device/token", await poll(client, codes["device_code"]))
        details = (await client.post("/accounts/device", json={"user_code": codes["user_code"]})).json()
        await client.post("/accounts/device", json={"request": details["request"], "decision": "approve"})
        check("/accounts/device/token", await poll(client, codes["device_code"]))


async def test_a_site_without_a_page_for_codes_is_told(auth: Auth) -> None:
    app = FastAPI(middleware=middleware(auth))
    app.include_router(accounts(auth, pages=False), prefix="/accounts")
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match="Add a route with the name device"):
            await client.post("/accounts/device/code", data={"client_id": "cli"})
