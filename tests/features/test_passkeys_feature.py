"""Tests of the feature Passkeys: its arguments, its hooks, and its routes for programs and browsers."""

import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.applications import Starlette
from starlette.routing import Mount

from starlette_auth import Auth, ImproperlyConfigured, Passkeys, TwoFactor, User, middleware, routes
from starlette_auth.testing import FrozenClock, SoftPasskey, log_in

from ..conftest import PASSWORD, SECRET_KEY, any_database, client_of, installed, post_login
from .test_factor_store import clock_of
from .test_passkeys import ADD, JSON, LIST, LOGIN, ORIGIN, REMOVE, add, browser_of, feature_of, log_in_with, options_in

pytestmark = any_database
OLD_KEY = "an older key, which was replaced a year ago: 0123456789"


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    features = [Passkeys(), TwoFactor(required_for=lambda user: user.is_staff)]
    async with installed(database, features=features, base_url=ORIGIN, clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
async def client(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    async with browser_of(auth) as client:
        await post_login(client)
        yield client


@pytest.mark.parametrize(
    ("base_url", "message"),
    [
        ("http://127.0.0.1:8000", "Open http://localhost"),
        ("http://[::1]:8000", "Open http://localhost"),
        (None, "Pass Auth"),
        ("http://example.org", "no origin"),
    ],
)
async def test_a_site_without_a_domain_is_refused(database: Any, base_url: str | None, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        Auth(database, secret_key=SECRET_KEY, base_url=base_url, features=[Passkeys()])


async def test_without_the_extra_an_error_names_it(database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "webauthn", None)
    with pytest.raises((ImproperlyConfigured, ValueError), match=r"starlette-contrib-auth\[passkeys\]|webauthn"):
        Auth(database, secret_key=SECRET_KEY, base_url=ORIGIN, features=[Passkeys()])


async def test_ways_in_and_factors(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    assert await auth.ways_in(ann) == ["password"]
    assert not await auth.has_any_factor(ann)
    await add(client, SoftPasskey(origin=ORIGIN), "Stick", kind="key")
    assert await auth.ways_in(ann) == ["password"]
    assert await auth.has_factor(ann)
    clock_of(auth).tick(10)
    await add(client, SoftPasskey(origin=ORIGIN), "Laptop")
    assert await auth.ways_in(ann) == ["password", "passkey"]
    described = [(factor.method, factor.label) for factor in await feature_of(auth).list_factors(ann)]
    assert described == [("key", "Stick"), ("passkey", "Laptop")]
    template, context = await feature_of(auth).security_section(client, ann)  # type: ignore[arg-type]
    assert context == {"passkeys": 1, "keys": 1}
    section = await auth.templates.render(template, {**context, "auth_url": lambda name: f"/{name}"})
    assert "You have 1 passkey." in section
    assert "You have 1 security key." in section
    [removed] = await feature_of(auth).remove_factors(ann, since=1_800_000_005)
    assert removed.label == "Laptop"
    assert await feature_of(auth).remove_factors(ann, method="passkey") == []
    [removed] = await feature_of(auth).remove_factors(ann, method="key")
    assert removed.label == "Stick"
    assert not await auth.has_any_factor(ann)


def test_the_ways_are_described_for_operators() -> None:
    for features, names in (([Passkeys()], ["passkey"]), ([Passkeys(), TwoFactor()], ["passkey", "key"])):
        auth = Auth(Database("sqlite+aiosqlite:///none"), secret_key=SECRET_KEY, base_url=ORIGIN, features=features)
        ways = feature_of(auth).describe()
        assert [way.name for way in ways] == names
        assert all(way.phishing_resistant and way.level == 2 and way.limits for way in ways)


async def test_rows_of_an_older_key_are_signed_anew(database: Any) -> None:
    options = {"base_url": ORIGIN, "clock": FrozenClock()}
    passkey = SoftPasskey(origin=ORIGIN, synced=True)
    async with installed(database, features=[Passkeys()], secret_key=OLD_KEY, **options) as old:
        await old.users.create_user("ann", "ann@example.org", PASSWORD)
        async with browser_of(old) as client:
            await post_login(client)
            await add(client, passkey)
    async with installed(database, features=[Passkeys()], **options) as without:
        assert await feature_of(without).reseal() == (0, 1)
        async with browser_of(without) as client:
            assert (await log_in_with(client, passkey)).status_code == 422
    async with installed(database, features=[Passkeys()], secret_key=[SECRET_KEY, OLD_KEY], **options) as both:
        assert await feature_of(both).reseal() == (1, 0)
        assert await feature_of(both).reseal() == (0, 0)
    async with installed(database, features=[Passkeys()], **options) as new, browser_of(new) as client:
        assert (await log_in_with(client, passkey)).status_code == 303


async def test_a_security_key_leads_to_recovery_codes(auth: Auth, client: httpx.AsyncClient) -> None:
    added = await add(client, SoftPasskey(origin=ORIGIN), kind="key")
    assert added.headers["location"] == "/accounts/recovery_codes"


async def test_who_must_have_a_second_factor_keeps_the_last_one(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    await add(client, SoftPasskey(origin=ORIGIN))
    await auth.users.update(ann, is_staff=True)
    [row] = (await client.get(LIST, headers=JSON)).json()["passkeys"]
    refused = await client.post(REMOVE, json={"passkey": str(row["id"])})
    assert (refused.status_code, refused.json()["code"]) == (409, "last_factor")
    assert len((await client.get(LIST, headers=JSON)).json()["passkeys"]) == 1


async def test_a_passkey_satisfies_the_policy(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    passkey = SoftPasskey(origin=ORIGIN)
    await add(client, passkey)
    await auth.users.update(ann, is_staff=True)
    async with browser_of(auth) as other:
        assert (await log_in_with(other, passkey, next="/vault")).headers["location"] == "/vault"
        assert (await other.get("/vault")).text == "gold"
    async with browser_of(auth) as other:
        login = await post_login(other)  # the password alone is not enough
        assert login.headers["location"] == "/accounts/second_factor"
        page = (await other.get("/accounts/second_factor")).text
        assert "Use passkey or security key" in page
        assert 'name="code"' not in page


async def test_a_name_is_made_up(auth: Auth, client: httpx.AsyncClient) -> None:
    agent = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
    client.headers["user-agent"] = agent
    await add(client, SoftPasskey(origin=ORIGIN), "")
    await add(client, SoftPasskey(origin=ORIGIN), "", kind="key")
    names = [row["name"] for row in (await client.get(LIST, headers=JSON)).json()["passkeys"]]
    assert names == ["Firefox on Linux", "Security key"]


async def test_the_well_known_files(database: Any) -> None:
    related = Passkeys(origins=["https://shop.example.net", "https://www.example.org"])
    for passkeys, number in ((related, 2), (Passkeys(origins=["https://www.example.org"]), 1)):
        auth = Auth(database, secret_key=SECRET_KEY, base_url="https://example.org", features=[passkeys])
        own = [Mount("/accounts", routes=routes(auth)), *passkeys.well_known_routes()]
        assert len(passkeys.well_known_routes()) == number
        app = Starlette(routes=own, middleware=middleware(auth))
        async with client_of(app, base_url="https://example.org") as client:
            pages = await client.get("/.well-known/passkey-endpoints")
            assert pages.json() == {
                "enroll": "https://example.org/accounts/passkeys/add",
                "manage": "https://example.org/accounts/passkeys",
            }
            origins = await client.get("/.well-known/webauthn")
            if number == 1:
                assert origins.status_code == 404
                continue
            assert origins.json() == {
                "origins": ["https://example.org", "https://shop.example.net", "https://www.example.org"]
            }
            assert origins.headers["cache-control"] == "no-store"


async def test_programs_need_no_pages(auth: Auth, ann: User) -> None:
    app = Starlette(routes=[Mount("/accounts", routes=routes(auth, pages=False))], middleware=middleware(auth))
    passkey = SoftPasskey(origin=ORIGIN)
    async with client_of(app, base_url=ORIGIN, headers={"origin": ORIGIN}) as client:
        await log_in(client, ann, auth)
        options = (await client.get(ADD)).json()
        assert (await client.post(ADD, json={"credential": passkey.create(options)})).status_code == 200
        assert len((await client.get(LIST)).json()["passkeys"]) == 1
        client.cookies.clear()
        options = (await client.get(LOGIN)).json()
        done = await client.post(LOGIN, json={"credential": passkey.sign(options)})
        assert (done.status_code, done.json()) == (200, {"next": "/"})
        refused = await client.post(LOGIN, json={"credential": {}})
        assert (refused.status_code, list(refused.json()["errors"])) == (422, ["__all__"])


async def test_the_script_is_on_the_pages_that_need_it(auth: Auth, client: httpx.AsyncClient) -> None:
    page = (await client.get("/accounts/login")).text
    script = page.partition('<script src="/accounts/auth_passkeys.')[2].partition('"')[0]
    served = await client.get(f"/accounts/auth_passkeys.{script}")
    assert served.headers["content-type"].startswith("text/javascript")
    assert len(served.content) <= 2048
    assert "auth_passkeys" not in (await client.get("/accounts/password_change")).text
    assert 'autocomplete="username webauthn"' in page
    assert " data-autofill" in page


async def test_the_offer_in_the_username_field_can_be_switched_off(database: Any) -> None:
    features = [Passkeys(conditional=False)]
    async with installed(database, features=features, base_url=ORIGIN) as auth, browser_of(auth) as client:
        page = (await client.get("/accounts/login")).text
    assert "data-autofill" not in page
    assert 'autocomplete="username"' in page
    assert options_in(page)["rpId"] == "localhost"


async def test_without_the_feature_the_login_page_has_no_passkeys(database: Any) -> None:
    async with installed(database, base_url=ORIGIN) as auth, browser_of(auth) as client:
        page = (await client.get("/accounts/login")).text
    assert "passkey" not in page
    assert "webauthn" not in page


async def test_users_are_deleted_with_their_passkeys(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await add(client, SoftPasskey(origin=ORIGIN))
    await auth.users.delete(ann)
    assert await auth.gateway.fetch_all(sa.select(feature_of(auth).store.table)) == []
