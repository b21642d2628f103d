"""Tests of the page with all ways to log in, and of the first password of an account."""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import Mount, Route

from starlette_auth import (
    ActiveSessions,
    APITokens,
    AuthenticationBackend,
    Feature,
    TwoFactor,
    User,
    complete_login,
    get_auth,
    routes,
)
from starlette_auth.features.email_change import EmailChange
from starlette_auth.features.two_factor.store import FactorStore
from starlette_auth.features.two_factor.totp import code_at, step_at
from starlette_auth.mail.messages import plain_text
from starlette_auth.testing import FrozenClock

from ..conftest import PASSWORD, all_of, with_tables
from ..features.test_email_change import make_ann, reset, reset_link
from ..features.test_registration import OTHER_PASSWORD, Site, html_of, site

pytestmark = with_tables

SECURITY, SET, CHANGE = "/accounts/security", "/accounts/password_set", "/accounts/password_change"
JSON = {"accept": "application/json"}
SECRET = b"12345678901234567890"
NEW: dict[str, Any] = {"new_password1": OTHER_PASSWORD, "new_password2": OTHER_PASSWORD}


async def log_in_elsewhere(request: Request) -> Response:
    """A login page of the application, such as one for the link in a mail: `?name=ben&method=email`."""
    user = await get_auth(request).users.get_by_username(request.query_params["name"])
    assert user is not None
    user.backend = request.query_params.get("backend", "")
    return await complete_login(request, user, method=request.query_params.get("method", "email"))


@contextlib.asynccontextmanager
async def secured(database: Database, features: Sequence[Feature] = (), **options: Any) -> AsyncIterator[Site]:
    """A site with the features, on which the application has a login page too."""
    clock = options.pop("clock", FrozenClock())
    async with site(database, features=[EmailChange(), *features], clock=clock, **options) as here:
        here.app.router.routes.insert(0, Route("/elsewhere", log_in_elsewhere))
        yield here


async def log_in(
    here: Site, client: httpx.AsyncClient | None = None, password: str = PASSWORD, next: str = ""
) -> httpx.Response:
    """Logs ann in, with a code of her app if she has one. Returns the last response."""
    client = client or here.client
    response = await here.post("/accounts/login", client, username="ann", password=password, next=next)
    assert response.status_code == 303
    if response.headers["location"] != "/accounts/second_factor":
        return response
    clock_of(here).tick(60)
    code = code_at(SECRET, step_at(here.auth.clock()))
    page = await client.get("/accounts/second_factor", headers=JSON)
    return await here.post("/accounts/second_factor", client, code=code, login=page.json()["step"]["login"])


def clock_of(here: Site) -> FrozenClock:
    assert isinstance(here.auth.clock, FrozenClock)
    return here.auth.clock


def store_of(here: Site) -> FactorStore:
    return next(feature for feature in here.auth.features if isinstance(feature, TwoFactor)).store


async def add_app(here: Site, user: User) -> None:
    """Adds an app, and three recovery codes."""
    assert await store_of(here).add_totp(user, SECRET, step_at(here.auth.clock()) - 2)
    await store_of(here).make_recovery_codes(user, 3)


async def make_ben(here: Site) -> User:
    """Makes a user without a password, and logs ben in by the page of the application."""
    ben: User = await here.auth.users.create_user("ben", "ben@example.org")
    assert (await here.client.get("/elsewhere?name=ben")).status_code == 303
    await here.mails()
    return ben


# The page


async def test_a_visitor_is_led_to_the_login(database: Database) -> None:
    async with secured(database) as here:
        for path in (SECURITY, SET):
            response = await here.client.get(path)
            assert response.status_code == 303
            assert response.headers["location"].startswith("/accounts/login?next=")
            assert (await here.client.get(path, headers=JSON)).status_code == 401


async def test_the_page_has_a_section_of_each_feature(database: Database) -> None:
    async with secured(database, [TwoFactor(), ActiveSessions(), APITokens("shop")]) as here:
        ann = await make_ann(here)
        await log_in(here)
        page = (await here.client.get(SECURITY)).text
        for text in ("You can log in with your password.", "ann@example.org", "logged in on 1 device.", "No program"):
            assert text in page
        for name in ("password_change", "email_change", "totp", "sessions", "tokens"):
            assert f'href="/accounts/{name}"' in page
        assert SET not in page
        await add_app(here, ann)
        async with here.browser() as browser:
            await log_in(here, browser)
            page = (await browser.get(SECURITY)).text
        assert "Unused recovery codes: 3" in page
        assert "few recovery codes left" in page
        assert 'href="/accounts/totp/remove"' in page


async def test_the_page_needs_no_feature(database: Database) -> None:
    async with secured(database) as here:
        await make_ann(here)
        here.auth.features.clear()
        await log_in(here)
        page = await here.client.get(SECURITY)
        assert page.status_code == 200
        assert page.text.count("<h2>") == 1


async def test_programs_read_the_ways_and_the_factors(database: Database) -> None:
    async with secured(database, [TwoFactor()]) as here:
        ann = await make_ann(here)
        await log_in(here)
        response = await here.client.get(SECURITY, headers=JSON)
        assert response.json() == {"ways_in": ["password"], "factors": []}
        now = int(here.auth.clock())
        await add_app(here, ann)
        async with here.browser() as browser:
            await log_in(here, browser)
            answer = (await browser.get(SECURITY, headers=JSON)).json()
        app = {"method": "totp", "label": "", "created": now, "last_used": now + 60}
        codes = {"method": "recovery_code", "label": "", "created": now, "last_used": None}
        assert answer == {"ways_in": ["password"], "factors": [app, codes]}


class Directory(AuthenticationBackend):
    """A directory, such as LDAP, which knows the passwords of its users."""

    path = "tests.Directory"


class Badge(Feature):
    """A feature of an application with a section of its own."""

    async def security_section(self, request: HTTPConnection, user: User) -> tuple[str, Mapping[str, Any]] | None:
        return ("badge.html", {"number": "<7>"}) if user.username == "ann" else None


async def test_a_section_of_the_application_has_the_variables_of_pages(database: Database, tmp_path: Path) -> None:
    template = (
        "<h2>Badge {{ number }}</h2><p>{{ user.username }} {{ auth_url('logout') }} {{ format_time_since(0) }}</p>"
    )
    (tmp_path / "badge.html").write_text(template)
    async with secured(database, [Badge()], templates=[tmp_path]) as here:
        await make_ann(here)
        await log_in(here)
        assert "<h2>Badge &lt;7&gt;</h2><p>ann /accounts/logout" in (await here.client.get(SECURITY)).text
        await make_ben(here)
        assert "Badge" not in (await here.client.get(SECURITY)).text


# After a reset


async def reset_password(here: Site) -> None:
    await here.post("/accounts/password_reset", email="ann@example.org")
    await reset(here, reset_link(await here.mails()), OTHER_PASSWORD)


async def test_the_first_login_after_a_reset_shows_all_ways_once(database: Database) -> None:
    async with secured(database, [TwoFactor()]) as here:
        await add_app(here, await make_ann(here))
        await reset_password(here)
        async with here.browser() as phone:
            response = await log_in(here, phone, OTHER_PASSWORD, next="/members?a=1")
            assert response.headers["location"] == f"{SECURITY}?reset=1&next=%2Fmembers%3Fa%3D1"
            page = (await phone.get(response.headers["location"])).text
            assert "Remove what you did not add." in page
            assert 'href="/members?a=1"' in page
        response = await log_in(here, here.client, OTHER_PASSWORD, next="/members")
        assert response.headers["location"] == "/members"


async def test_the_page_after_a_reset_leads_to_no_other_site(database: Database) -> None:
    async with secured(database) as here:
        await make_ann(here)
        await log_in(here)
        page = await here.client.get(f"{SECURITY}?reset=1&next=https://evil.example/")
        assert "evil.example" not in page.text


async def test_a_login_without_the_new_password_does_not_use_up_the_page(database: Database) -> None:
    """An attacker who has added a passkey would otherwise log in first, and the owner would not see the passkey."""
    async with secured(database, [TwoFactor()]) as here:
        await add_app(here, await make_ann(here))
        await reset_password(here)
        async with here.browser() as thief:
            response = await thief.get("/elsewhere?name=ann&method=passkey")
            assert response.headers["location"] == "/"
        assert (await log_in(here, here.client, OTHER_PASSWORD)).headers["location"].startswith(f"{SECURITY}?reset")


async def test_a_login_by_the_link_of_the_reset_shows_the_page(database: Database) -> None:
    async with secured(database, [TwoFactor()], login_after_reset=True) as here:
        await add_app(here, await make_ann(here))
        await here.post("/accounts/password_reset", email="ann@example.org")
        page = await here.client.get(reset_link(await here.mails()), follow_redirects=True)
        response = await here.post(page.url.path, **NEW)
        assert response.headers["location"] == "/accounts/second_factor"
        clock_of(here).tick(60)
        step = (await here.client.get("/accounts/second_factor", headers=JSON)).json()["step"]["login"]
        code = code_at(SECRET, step_at(here.auth.clock()))
        response = await here.post("/accounts/second_factor", code=code, login=step)
        assert response.headers["location"] == f"{SECURITY}?reset=1&next=%2F"


async def test_a_user_with_nothing_but_a_password_is_not_led_to_the_page(database: Database) -> None:
    async with secured(database, [TwoFactor()]) as here:
        await make_ann(here)
        await reset_password(here)
        assert (await log_in(here, None, OTHER_PASSWORD)).headers["location"] == "/"


async def test_a_site_for_programs_leads_nobody_to_the_page(database: Database) -> None:
    async with secured(database, [TwoFactor()]) as here:
        await add_app(here, await make_ann(here))
        await reset_password(here)
        here.app.router.routes[:] = [
            Mount("/accounts", routes=routes(here.auth, pages=False)),
            Route("/second", log_in_elsewhere, name="second_factor"),
        ]
        sent = await here.send("/accounts/login", {"username": "ann", "password": OTHER_PASSWORD})
        clock_of(here).tick(60)
        code = code_at(SECRET, step_at(here.auth.clock()))
        body = {"code": code, "login": sent.json()["step"]["login"]}
        assert "security" not in (await here.send("/accounts/second_factor", body)).json()["next"]
        assert (await here.client.get(SECURITY)).json()["ways_in"] == ["password"]


async def test_the_notice_of_a_reset_lists_the_factors(database: Database) -> None:
    async with secured(database, [TwoFactor()]) as here:
        ann = await make_ann(here)
        await reset_password(here)
        [mail] = await here.mails()
        assert "did not add" not in plain_text(mail)
    async with secured(database, [TwoFactor()], rates={"password_reset_mail": ""}) as here:
        await add_app(here, ann)
        await reset_password(here)
        [mail] = await here.mails()
        for text in (plain_text(mail), html_of(mail)):
            assert "Remove those that you did not add" in text
            assert "Authenticator app, added 2027-01-15" in text
            assert "Recovery codes, added 2027-01-15" in text


# The first password


async def test_an_account_without_a_password_gets_one(database: Database) -> None:
    async with secured(database) as here, here.browser() as other:
        ben = await make_ben(here)
        await other.get("/elsewhere?name=ben")
        await here.mails()
        page = (await here.client.get(SECURITY)).text
        assert f'href="{SET}"' in page
        assert CHANGE not in page
        assert (await here.client.get(CHANGE)).headers["location"] == SET
        form = (await here.client.get(SET)).text
        assert form.count('autocomplete="new-password"') == 2
        response = await here.post(SET, **NEW)
        assert (response.status_code, response.headers["location"]) == (303, f"{SECURITY}?password_set")
        page = (await here.client.get(response.headers["location"])).text
        assert "has a password now" in page
        assert f'href="{CHANGE}"' in page
        assert (await other.get(SECURITY)).status_code == 303  # it was logged out
        current = await here.auth.users.get(ben.id)
        assert await here.auth.users.check_password(current, OTHER_PASSWORD)
        assert (await here.mail())["Subject"] == "Your password at site.example was changed"


@pytest.mark.parametrize("passwords", [("", ""), (OTHER_PASSWORD, "another"), ("password", "password")])
async def test_a_first_password_obeys_the_rules(database: Database, passwords: tuple[str, str]) -> None:
    async with secured(database) as here:
        ben = await make_ben(here)
        data = dict(zip(NEW, passwords, strict=True))
        assert (await here.send(SET, data)).status_code == 422
        assert not (await here.auth.users.get(ben.id)).has_usable_password()  # type: ignore[union-attr]


async def test_a_first_password_needs_a_recent_login(database: Database) -> None:
    """Attack 21: an attacker with a stolen session would otherwise add a password."""
    async with secured(database) as here:
        ben = await make_ben(here)
        clock_of(here).tick(300)
        response = await here.send(SET, NEW)
        assert (response.status_code, response.json()["code"]) == (403, "login_too_old")
        assert (await here.post(SET, **NEW)).headers["location"].startswith("/accounts/login")
        assert not (await here.auth.users.get(ben.id)).has_usable_password()  # type: ignore[union-attr]


async def test_a_first_password_needs_the_second_factor_of_the_account(database: Database) -> None:
    async with secured(database, [TwoFactor()]) as here:
        ben = await make_ben(here)
        await add_app(here, ben)
        async with here.browser() as browser:
            await browser.get("/elsewhere?name=ben")
            step = (await browser.get("/accounts/second_factor", headers=JSON)).json()["step"]["login"]
            clock_of(here).tick(60)
            code = code_at(SECRET, step_at(here.auth.clock()))
            assert (await here.post("/accounts/second_factor", browser, code=code, login=step)).status_code == 303
            # A mailed link with a code is level 1, which is what require_fresh_factor refuses.
            response = await here.send(SET, NEW, browser)
            assert (response.status_code, response.json()["code"]) == (403, "factor_required")


async def test_a_user_with_a_password_changes_it_instead(database: Database) -> None:
    async with secured(database) as here:
        await make_ann(here)
        await log_in(here)
        assert (await here.client.get(SET)).headers["location"] == CHANGE
        response = await here.send(SET, NEW)
        assert (response.status_code, response.json()["code"]) == (409, "has_password")
        assert response.json()["password_change"] == CHANGE


async def test_a_user_who_logs_in_by_another_system_sets_no_password(database: Database) -> None:
    """The user could otherwise log in after the other system has closed the account."""
    async with secured(database, backends=[Directory()]) as here:
        ben = await make_ben(here)
        await here.client.get("/elsewhere?name=ben&backend=tests.Directory&method=password")
        page = (await here.client.get(SECURITY)).text
        assert "Your account has no password." in page
        assert SET not in page
        response = await here.send(SET, NEW)
        assert (response.status_code, response.json()["code"]) == (403, "managed_elsewhere")
        assert not (await here.auth.users.get(ben.id)).has_usable_password()  # type: ignore[union-attr]


async def test_of_several_first_passwords_one_is_set(database: Database) -> None:
    async with secured(database) as here:
        ben = await make_ben(here)
        passwords = [f"{number} purple hats in a long row" for number in range(5)]
        bodies = [{"new_password1": password, "new_password2": password} for password in passwords]
        responses = await all_of(*(here.send(SET, body) for body in bodies))
        assert [response.status_code for response in responses].count(200) == 1
        current = await here.auth.users.get(ben.id)
        [password] = [text for text, response in zip(passwords, responses, strict=True) if response.is_success]
        assert await here.auth.users.check_password(current, password)
