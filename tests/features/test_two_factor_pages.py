"""Tests of the pages on which users add an authenticator app, remove it, and make recovery codes."""

import re
import sys
from collections.abc import AsyncIterator
from html import unescape
from typing import Any

import httpx
import pyotp
import pytest

from starlette_auth import (
    Auth,
    CookieStore,
    FactorAdded,
    FactorRemoved,
    ImproperlyConfigured,
    RecoveryCodesMade,
    TwoFactor,
    User,
)
from starlette_auth.testing import FrozenClock

from ..conftest import PASSWORD, SECRET_KEY, all_of, installed, post_login
from .test_factor_store import add, clock_of, code_of, feature_of, rows_of
from .test_second_factor import browser_of, events_of

STEP = "/accounts/second_factor"
TOTP, REMOVE, CODES = "/accounts/totp", "/accounts/totp/remove", "/accounts/recovery_codes"


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    async with installed(database, features=[TwoFactor(issuer="Shop")], clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
async def client(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in which ann has just logged in."""
    async with browser_of(auth) as client:
        await post_login(client)
        yield client


async def app_in(client: httpx.AsyncClient, url: str = TOTP) -> pyotp.TOTP:
    """Reads the page as an app that scans its picture does."""
    page = (await client.get(url)).text
    match = re.search(r'href="(otpauth:[^"]+)"', page)
    assert match
    app = pyotp.parse_uri(unescape(match[1]))
    assert isinstance(app, pyotp.TOTP)
    assert f'<code dir="ltr">{" ".join(re.findall("....", app.secret))}</code>' in page
    return app


def codes_in(page: str) -> list[str]:
    return re.findall(r"<code[^>]*>((?:[0-9a-z]{4}-){5}[0-9a-z]{4})</code>", page)


async def level_of(client: httpx.AsyncClient) -> int:
    level: int = (await client.get("/")).json()["level"]
    return level


async def test_a_user_adds_an_app(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    seen = events_of(auth, FactorAdded, FactorRemoved, RecoveryCodesMade)
    app = await app_in(client)
    assert (app.issuer, app.name) == ("Shop", "ann")
    assert (await app_in(client)).secret == app.secret  # also when the page is loaded again
    assert await rows_of(auth) == []
    cookies = dict(client.cookies)
    page = await client.post(TOTP, data={"code": app.at(auth.clock())})
    codes = codes_in(page.text)
    assert (page.status_code, len(codes)) == (200, 10)
    assert page.headers["cache-control"] == "no-store"
    assert await level_of(client) == 2
    assert dict(client.cookies) != cookies
    store = feature_of(auth).store
    assert not await store.use_totp(ann, app.at(auth.clock()))  # it has been used on the page
    assert await store.use_recovery_code(ann, codes[0])
    assert [type(event) for event in seen] == [FactorAdded]
    status = await client.get(TOTP)
    assert "Unused recovery codes: 9" in status.text
    assert app.secret not in status.text


async def test_the_picture_is_an_inline_svg_without_styles(client: httpx.AsyncClient) -> None:
    page = (await client.get(TOTP)).text
    picture = page[page.index("<svg") : page.index("</svg>")]
    assert 'class="auth-qr"' in picture
    assert "style" not in picture
    assert "viewBox" in picture


async def test_a_wrong_code_adds_nothing(auth: Auth, client: httpx.AsyncClient) -> None:
    app = await app_in(client)
    for code in ("000000", "", app.at(auth.clock() + 60), app.at(auth.clock() - 90)):
        response = await client.post(TOTP, data={"code": code})
        assert response.status_code == 422
        assert "<svg" in response.text
    assert await rows_of(auth) == []
    assert (await app_in(client)).secret == app.secret


async def test_an_app_that_is_not_proved_within_ten_minutes_is_forgotten(auth: Auth, client: httpx.AsyncClient) -> None:
    app = await app_in(client)
    clock_of(auth).tick(10 * 60)
    await client.post("/accounts/reauthenticate", data={"password": "correct horse battery staple"})
    assert (await client.post(TOTP, data={"code": app.at(auth.clock())})).status_code == 422
    assert (await app_in(client)).secret != app.secret


async def test_other_sessions_end_when_an_app_is_added_and_removed(auth: Auth, client: httpx.AsyncClient) -> None:
    async with browser_of(auth) as other:
        await post_login(other)
        app = await app_in(client)
        assert await level_of(other) == 1
        page = await client.post(TOTP, data={"code": app.at(auth.clock())})
        assert await level_of(other) == 0
        assert await level_of(client) == 2
        codes = codes_in(page.text)
        await post_login(other)
        login = re.search(r'name="login" value="([^"]+)"', (await other.get("/accounts/second_factor")).text)
        assert login
        await other.post("/accounts/second_factor", data={"login": login[1], "recovery_code": codes[0]})
        assert await level_of(other) == 2
        assert (await client.post(REMOVE)).headers["location"] == "/accounts/security"
        assert await level_of(other) == 0
    assert await rows_of(auth) == []


async def test_with_sessions_in_cookies_an_app_can_be_added(database: Any) -> None:
    sessions = CookieStore(SECRET_KEY)
    async with installed(database, features=[TwoFactor()], clock=FrozenClock(), sessions=sessions) as auth:
        await auth.users.create_user("ann", "", "correct horse battery staple")
        async with browser_of(auth) as client:
            await post_login(client)
            app = await app_in(client)
            assert len(codes_in((await client.post(TOTP, data={"code": app.at(auth.clock())})).text)) == 10
            assert app.secret not in str(dict(client.cookies))


async def test_of_two_apps_added_at_the_same_moment_one_stays(auth: Auth, client: httpx.AsyncClient) -> None:
    app = await app_in(client)
    code = app.at(auth.clock())
    responses = await all_of(*(client.post(TOTP, data={"code": code}) for _ in range(3)))
    assert sum(len(codes_in(response.text)) for response in responses) == 10
    assert len(await rows_of(auth)) == 11


@pytest.mark.parametrize("path", [REMOVE, CODES])
async def test_attack_21_a_change_needs_a_recent_proof_of_a_factor(
    auth: Auth, client: httpx.AsyncClient, ann: User, path: str
) -> None:
    seen = events_of(auth, FactorAdded, FactorRemoved, RecoveryCodesMade)
    assert (await client.get(path)).headers["location"] == TOTP  # without an app there is nothing to change
    store = feature_of(auth).store
    await add(store, ann)
    old = await store.make_recovery_codes(ann, 2)
    before = await rows_of(auth)
    for answer in (await client.get(path), await client.post(path, data={"code": code_of(auth)})):
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, STEP)
    refused = await client.post(path, json={})
    assert (refused.status_code, refused.json()["need"]) == (403, {"level": 2, "max_age": 300, "url": STEP})
    assert await rows_of(auth) == before
    await client.post(STEP, data={"code": code_of(auth)})
    assert (await client.get(path)).status_code == 200
    clock_of(auth).tick(299)
    await client.post("/accounts/reauthenticate", data={"password": PASSWORD})
    clock_of(auth).tick(1)  # the password is recent, and the code is not
    assert (await client.post(path)).headers["location"].startswith(STEP)
    await client.post(STEP, data={"code": code_of(auth)})
    response = await client.post(path)
    if path == REMOVE:
        assert (response.status_code, await rows_of(auth)) == (303, [])
        assert [type(event) for event in seen] == [FactorRemoved]
        return
    codes = codes_in(response.text)
    assert len(codes) == 10
    assert [type(event) for event in seen] == [RecoveryCodesMade]
    assert not await store.use_recovery_code(ann, old[0])
    assert await store.use_recovery_code(ann, codes[0])


async def test_the_app_is_replaced_by_that_of_a_new_phone(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    store = feature_of(auth).store
    await add(store, ann)
    old = await store.make_recovery_codes(ann, 2)
    for answer in (await client.get(f"{TOTP}?replace"), await client.post(f"{TOTP}?replace")):
        assert (answer.status_code, answer.headers["location"].partition("?")[0]) == (303, STEP)
    await client.post(STEP, data={"recovery_code": old[0]})  # the old phone is lost
    assert f'href="{TOTP}?replace"' in (await client.get(TOTP)).text
    app = await app_in(client, f"{TOTP}?replace")
    wrong = await client.post(f"{TOTP}?replace", data={"code": "000000"})
    assert (wrong.status_code, f'action="{TOTP}?replace"' in wrong.text) == (422, True)
    assert await store.has_app(ann)
    seen = events_of(auth, FactorAdded, FactorRemoved)
    page = await client.post(f"{TOTP}?replace", data={"code": app.at(auth.clock())})
    assert len(codes_in(page.text)) == 10
    assert [type(event) for event in seen] == [FactorRemoved, FactorAdded]
    clock_of(auth).tick(30)
    assert not await store.use_totp(ann, code_of(auth))
    assert await store.use_totp(ann, app.at(auth.clock()))
    assert not await store.use_recovery_code(ann, old[1])
    assert await store.use_recovery_code(ann, codes_in(page.text)[0])


@pytest.mark.parametrize("path", [TOTP, REMOVE, CODES])
async def test_the_pages_need_a_login_and_a_change_needs_a_fresh_one(
    auth: Auth, client: httpx.AsyncClient, path: str
) -> None:
    clock_of(auth).tick(301)
    response = await client.get(path)
    assert response.headers["location"].startswith("/accounts/reauthenticate")
    assert (await client.post(path, data={"code": "1"})).status_code == 403
    async with browser_of(auth) as visitor:
        for answer in (await visitor.get(path), await visitor.post(path)):
            assert answer.headers["location"].startswith("/accounts/login")


async def test_a_program_adds_and_removes_an_app(auth: Auth, client: httpx.AsyncClient) -> None:
    accept = {"accept": "application/json"}
    setup = (await client.get(TOTP, headers=accept)).json()
    app = pyotp.TOTP(setup["secret"])
    assert pyotp.parse_uri(setup["uri"]) == app or setup["secret"] in setup["uri"]
    wrong = await client.post(TOTP, json={"code": "000000"})
    assert (wrong.status_code, wrong.json()["errors"]["code"][0]["code"]) == (422, "wrong_code")
    made = await client.post(TOTP, json={"code": app.at(auth.clock())})
    assert len(made.json()["recovery_codes"]) == 10
    status = (await client.get(TOTP, headers=accept)).json()
    assert status == {"created": int(auth.clock()), "recovery_codes": 10}
    clock_of(auth).tick(30)
    again = await client.post(CODES, json={})
    assert len(again.json()["recovery_codes"]) == 10
    removed = await client.post(REMOVE, json={})
    assert removed.json() == {"next": "/accounts/security"}
    assert await rows_of(auth) == []


def test_without_segno_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    from starlette_auth.features.two_factor.app_setup import AppSetup

    monkeypatch.setitem(sys.modules, "segno", None)
    with pytest.raises(ImproperlyConfigured, match=r"starlette-contrib-auth\[two-factor\]"):
        AppSetup(None, issuer="", number=10, extra="two-factor")  # type: ignore[arg-type]
