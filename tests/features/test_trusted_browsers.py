"""Tests of browsers that are not asked for the second factor for some time."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from starlette_auth import ActiveSessions, Auth, FactorAdded, FactorRemoved, ImproperlyConfigured, TwoFactor, User
from starlette_auth.core.signing import sha256_hex
from starlette_auth.features.two_factor.trusted_browsers import end_all
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, any_database, client_of, count_statements, installed, post_login
from .test_assurance import begin_as_django, is_staff
from .test_assurance import make_app as make_site
from .test_factor_store import add, clock_of, code_of, feature_of
from .test_second_factor import PAGE, begin, browser_of, codes, make_app  # noqa: F401  a fixture

pytestmark = any_database

DAY = 24 * 60 * 60
TOTP, END, JSON = "/accounts/totp", "/accounts/trusted_devices/end", {"accept": "application/json"}
SECURITY = "/accounts/security"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    features: list[Any] = [TwoFactor(required_for=is_staff, trust_device=30 * DAY), ActiveSessions()]
    async with installed(database, features=features, clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
async def client(auth: Auth, codes: list[str]) -> AsyncIterator[httpx.AsyncClient]:  # noqa: F811
    async with browser_of(auth) as client:
        client.headers["user-agent"] = FIREFOX
        yield client


async def trust(auth: Auth, client: httpx.AsyncClient) -> str:
    """Logs in, ticks the box, and logs out. Returns the cookie."""
    login = await begin(client)
    clock_of(auth).tick(30)
    response = await client.post(PAGE, data={"login": login, "code": code_of(auth), "trust": "on"})
    assert (response.status_code, response.headers["location"]) == (303, "/vault")
    await client.post("/accounts/logout")
    return str(client.cookies["trusted"])


async def is_asked(client: httpx.AsyncClient, name: str = "ann") -> bool:
    """Logs in with the password, and returns whether that leads to the second step. Logs out again."""
    response = await post_login(client, name, next="/")
    assert response.status_code == 303
    await client.post("/accounts/logout")
    return response.headers["location"] == PAGE


async def test_the_box_is_unticked_and_without_it_each_login_asks(auth: Auth, client: httpx.AsyncClient) -> None:
    login = await begin(client)
    page = (await client.get(PAGE)).text
    assert "Do not ask again in this browser for 30 days" in page
    box = re.search(r"<input[^>]*name=\"trust\"[^>]*>", page)
    assert box
    assert "checked" not in box[0]
    await client.post(PAGE, data={"login": login, "code": code_of(auth)})
    await client.post("/accounts/logout")
    assert "trusted" not in client.cookies
    assert await is_asked(client)


async def test_a_trusted_browser_is_not_asked_for_thirty_days(auth: Auth, client: httpx.AsyncClient) -> None:
    await trust(auth, client)
    assert (await post_login(client, next="/")).headers["location"] == "/"
    assert (await client.get("/")).json() == {"username": "ann", "methods": ["password", "device"], "level": 1}
    assert (await client.get("/vault")).status_code == 403
    await client.post("/accounts/logout")
    clock_of(auth).tick(30 * DAY - 1)
    assert not await is_asked(client)
    clock_of(auth).tick(1)
    assert await is_asked(client)
    async with browser_of(auth) as other:
        assert await is_asked(other)


async def test_the_cookie_is_random_and_only_its_hash_is_stored(auth: Auth, client: httpx.AsyncClient) -> None:
    login = await begin(client)
    response = await client.post(PAGE, data={"login": login, "code": code_of(auth), "trust": "on"})
    cookie = next(value for value in response.headers.get_list("set-cookie") if value.startswith("trusted="))
    assert re.fullmatch(rf"trusted=[\w-]{{43}}; Path=/; Max-Age={30 * DAY}; HttpOnly; SameSite=Lax", cookie)
    rows = [str(row) for row in await auth.gateway.fetch_all(sa.select(auth.tables.token))]
    value = client.cookies["trusted"]
    assert not any(value in row for row in rows)
    assert sum(sha256_hex(value) in row for row in rows) == 1
    clock_of(auth).tick(31 * DAY)
    await auth.clear_expired()
    assert not any(sha256_hex(value) in str(row) for row in await auth.gateway.fetch_all(sa.select(auth.tables.token)))


async def test_over_https_the_cookie_is_of_this_host_only(auth: Auth, ann: User, codes: list[str]) -> None:  # noqa: F811
    headers = {"origin": "https://testserver"}
    async with client_of(make_app(auth), base_url="https://testserver", headers=headers) as client:
        login = await begin(client)
        response = await client.post(PAGE, data={"login": login, "code": code_of(auth), "trust": "on"})
        cookies = response.headers.get_list("set-cookie")
        assert any(cookie.startswith("__Host-trusted=") and "Secure" in cookie for cookie in cookies)
        planted = {"cookie": f"trusted={client.cookies['__Host-trusted']}"}
    async with client_of(make_app(auth), base_url="https://testserver", headers={**headers, **planted}) as other:
        assert (await post_login(other)).headers["location"] == PAGE


async def test_a_program_trusts_with_json(auth: Auth, client: httpx.AsyncClient) -> None:
    begun = await client.post("/accounts/login", json={"username": "ann", "password": PASSWORD})
    login = begun.json()["step"]["login"]
    done = await client.post(PAGE, json={"login": login, "code": code_of(auth), "trust": True})
    assert done.json() == {"next": "/"}
    assert not await is_asked(client)


async def test_several_users_trust_one_browser(auth: Auth, client: httpx.AsyncClient) -> None:
    ben = await auth.users.create_user("ben", "", PASSWORD)
    assert await feature_of(auth).store.add_totp(ben, b"12345678901234567890", 0)
    await trust(auth, client)
    assert await is_asked(client, "ben")
    clock_of(auth).tick(30)
    await post_login(client, "ben")
    login = re.search(r'name="login" value="([^"]+)"', (await client.get(PAGE)).text)
    assert login
    await client.post(PAGE, data={"login": login[1], "code": code_of(auth), "trust": "on"})
    await client.post("/accounts/logout")
    assert not await is_asked(client)
    assert not await is_asked(client, "ben")
    assert not await is_asked(client, "ann")
    value = client.cookies["trusted"]
    assert len(value.split(".")) == 2
    await end_all(auth.tokens, ben)
    assert (await is_asked(client), await is_asked(client, "ben")) == (False, True)


async def test_the_cookie_of_another_user_counts_for_nothing(auth: Auth, client: httpx.AsyncClient) -> None:
    ben = await auth.users.create_user("ben", "", PASSWORD)
    assert await feature_of(auth).store.add_totp(ben, b"12345678901234567890", 0)
    await trust(auth, client)
    token = auth.tables.token
    async with auth.gateway.atomic():  # an attacker who may write to the database copies the row of another user
        row = next(r for r in await auth.gateway.fetch_all(sa.select(token)) if r["purpose"] == "trusted_browser")
        subject = sha256_hex(f"trusted browsers of user {ben.id}")
        values = {**row, "subject": subject, "token_hash": sha256_hex("x" * 43)}
        await auth.gateway.insert(token, **values)
    async with browser_of(auth) as other:
        other.cookies.set("trusted", "x" * 43)
        assert await is_asked(other, "ben")
    assert await is_asked(client, "ben")


async def _new_password(auth: Auth, ann: User) -> None:
    await auth.users.set_password(ann, PASSWORD)


async def _password_of_django(auth: Auth, ann: User) -> None:
    """Stores another hash of the password, and emits no event."""
    users = auth.tables.user
    encoded = await auth.passwords.hash(PASSWORD)
    await auth.gateway.execute(sa.update(users).where(users.c.id == ann.id).values(password=encoded))


async def _reactivation(auth: Auth, ann: User) -> None:
    await auth.users.update(ann, is_active=False)
    await auth.users.update(ann, is_active=True)


async def _logout_everywhere(auth: Auth, ann: User) -> None:
    await auth.user_sessions.revoke_all(ann)


async def _factor_added(auth: Auth, ann: User) -> None:
    await auth.events.emit(FactorAdded(user=ann, factor="passkey"))


async def _factor_removed(auth: Auth, ann: User) -> None:
    await auth.events.emit(FactorRemoved(user=ann, factor="passkey"))


ENDS = [_new_password, _password_of_django, _reactivation, _logout_everywhere, _factor_added, _factor_removed]


@pytest.mark.parametrize("has_session", [False, True])
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
async def test_trust_ends_with_the_password_the_account_the_sessions_and_the_factors(
    auth: Auth,
    client: httpx.AsyncClient,
    ann: User,
    end: Callable[[Auth, User], Awaitable[None]],
    has_session: bool,
) -> None:
    await trust(auth, client)
    async with browser_of(auth) as other:
        if has_session:
            await log_in(other, ann, auth)
        await end(auth, ann)
        assert await is_asked(client)
        user = await auth.users.get(ann.id)
        assert user is not None
        await log_in(other, user, auth)
        assert (await other.get(TOTP, headers=JSON)).json()["trusted"] == []


async def test_the_page_that_ends_other_sessions_ends_trust(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await trust(auth, client)
    assert not await is_asked(client)
    async with browser_of(auth) as other, browser_of(auth) as third:
        await log_in(other, ann, auth)
        await log_in(third, ann, auth)
        assert (await other.post("/accounts/sessions/end", data={"others": "on"})).status_code == 303
    assert await is_asked(client)


async def test_users_see_and_end_their_trusted_browsers(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await trust(auth, client)
    async with browser_of(auth) as phone:
        await trust(auth, phone)
        await post_login(client)
        page = (await client.get(TOTP)).text
        assert "Firefox on Linux" in page
        assert page.count("This device") == 1
        listed = (await client.get(TOTP, headers=JSON)).json()["trusted"]
        assert [(browser["device"], browser["is_this"]) for browser in listed] == [
            ("", False),
            ("Firefox on Linux", True),
        ]
        assert (await client.post(END, data={"device": ""})).status_code == 400
        assert (await client.post(END, data={"device": "x"})).headers["location"] == SECURITY
        assert not await is_asked(phone)
        assert (await client.post(END, data={"device": listed[0]["id"]})).headers["location"] == SECURITY
        assert await is_asked(phone)
        await trust(auth, phone)
        assert (await client.post(END, json={"all": True})).json() == {"next": SECURITY}
        assert await is_asked(phone)
    assert "Ask again in all browsers" not in (await client.get(TOTP)).text
    await client.post("/accounts/logout")
    assert await is_asked(client)


async def test_a_user_ends_only_browsers_of_their_own(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    value = await trust(auth, client)
    ben = await auth.users.create_user("ben", "", PASSWORD)
    async with browser_of(auth) as other:
        await log_in(other, ben, auth)
        await other.post(END, data={"device": sha256_hex(value)})
        await other.post(END, data={"all": "on"})
    assert not await is_asked(client)


async def test_the_end_needs_a_login_and_a_recent_one(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    assert (await client.post(END, data={"all": "on"})).headers["location"].startswith("/accounts/login")
    await log_in(client, ann, auth)
    clock_of(auth).tick(301)
    assert (await client.post(END, json={"all": True})).json()["code"] == "login_too_old"


async def test_it_never_satisfies_the_policy(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await trust(auth, client)
    await post_login(client)
    assert (await client.get("/")).json()["username"] == "ann"
    await auth.users.update(ann, is_staff=True)
    assert (await client.get("/")).json()["username"] == ""  # during the session
    assert (await client.get("/accounts/login")).headers["location"] == PAGE
    await client.post("/accounts/logout")
    assert await is_asked(client)
    login = await begin(client)
    assert "Do not ask again" not in (await client.get(PAGE)).text
    clock_of(auth).tick(30)
    response = await client.post(PAGE, data={"login": login, "code": code_of(auth), "trust": "on"})
    assert not any(cookie.startswith("trusted=") for cookie in response.headers.get_list("set-cookie"))


async def test_a_session_that_began_elsewhere_is_asked_in_a_trusted_browser_too(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    await trust(auth, client)
    async with client_of(make_site(auth), headers={"origin": "http://testserver"}) as browser:
        browser.cookies.set("trusted", client.cookies["trusted"])
        await begin_as_django(auth, browser, ann)
        assert (await browser.get("/")).json()["username"] == ""
        assert (await browser.get("/accounts/login?next=/members")).headers["location"] == PAGE


async def test_the_step_up_offers_no_box_and_takes_none(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await log_in(client, ann, auth)
    assert "Do not ask again" not in (await client.get(PAGE)).text
    await client.post(PAGE, data={"code": code_of(auth), "trust": "on"})
    assert "trusted" not in client.cookies


async def test_without_the_option_there_is_no_box_and_no_page(database: Any) -> None:
    async with installed(database, features=[TwoFactor()], clock=FrozenClock()) as auth:
        ann = await auth.users.create_user("ann", "", PASSWORD)
        await add(feature_of(auth).store, ann)
        async with browser_of(auth) as client:
            login = await begin(client)
            assert "Do not ask again" not in (await client.get(PAGE)).text
            await client.post(PAGE, data={"login": login, "code": code_of(auth), "trust": "on"})
            assert "trusted" not in client.cookies
            assert (await client.post(END, data={"all": "on"})).status_code == 404
            assert "trusted" not in (await client.get(TOTP, headers=JSON)).json()


async def test_a_request_costs_no_statement_more(
    auth: Auth, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    await trust(auth, client)
    await post_login(client)
    await client.get("/")
    statements = count_statements(auth, monkeypatch)
    await client.get("/")
    number = len(statements)
    client.cookies.delete("trusted")
    await client.get("/")
    assert len(statements) == 2 * number


@pytest.mark.parametrize("value", [-1, 366 * DAY, True, 1.5, "30"])
def test_trust_device_is_a_number_of_seconds_up_to_a_year(value: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="trust_device"):
        TwoFactor(trust_device=value)
