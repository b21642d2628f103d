"""Links from mails work with every session cookie, opened from a page of another site."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.requests import Request

from starlette_auth import Auth, Cookie, CookieStore, EmailChange, Registration, User, middleware
from starlette_auth.core.signing import sha256_hex
from starlette_auth.testing import CollectingMailer

from ..conftest import PASSWORD, SECRET_KEY, any_database, client_of, installed, token_in, with_tables
from ..support.apps import app_routes
from ..support.strict_browser import StrictBrowser

pytestmark = [with_tables, any_database]

SITE = "https://site.example"
NEW = "eleven purple hats in a row"
COOKIES: dict[str, dict[str, Any]] = {
    "default": {},
    "strict": {"samesite": "strict"},
    "none": {"samesite": "none"},
    "path": {"path": "/app"},  # the account pages are elsewhere
    "strict below a path": {"samesite": "strict", "path": "/app", "expire_at_browser_close": True},
    "partitioned": {"partitioned": True, "samesite": "none"},
    "plain": {"name": "sid", "prefix": False, "httponly": False, "domain": "site.example"},
}
with_each_cookie = pytest.mark.parametrize("cookie", COOKIES.values(), ids=COOKIES)
STRICT = COOKIES["strict"]


@contextlib.asynccontextmanager
async def site_with(database: Database, cookie: dict[str, Any], **options: Any) -> AsyncIterator[tuple[Auth, Any]]:
    settings = {"mailer": CollectingMailer(), "base_url": SITE, "features": [Registration(), EmailChange()], **options}
    async with installed(database, cookie=Cookie(**cookie), **settings) as auth:
        yield auth, Starlette(routes=app_routes(auth), middleware=middleware(auth))


async def make_ann(auth: Auth) -> User:
    user: User = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    return user


async def link_in_mail(auth: Auth, part: str) -> str:
    await auth.mail_queue.drain()
    mailer = auth.mail_queue.mailer
    assert isinstance(mailer, CollectingMailer)
    return next(link for link in mailer.links() if part in link)


async def log_in(browser: StrictBrowser) -> None:
    await browser.go("/accounts/login")
    answer = await browser.send({"username": "ann", "password": PASSWORD})
    assert answer.status_code == 200


@with_each_cookie
async def test_a_reset_link_works(database: Database, cookie: dict[str, Any]) -> None:
    async with site_with(database, cookie) as (auth, app), StrictBrowser(app, SITE) as browser:
        ann = await make_ann(auth)
        await browser.go("/accounts/password_reset")
        await browser.send({"email": "ann@example.org"})
        link = await link_in_mail(auth, "/reset/")
        page = await browser.follow(link)
        assert page.status_code == 200
        assert "Choose a new password" in page.text
        assert link.rpartition("/")[2] not in browser.url
        done = await browser.send({"new_password1": NEW, "new_password2": NEW})
        assert (done.status_code, "Your new password has been saved" in done.text) == (200, True)
        current = await auth.users.get(ann.id)
        assert current is not None
        assert await auth.users.check_password(current, NEW)
        assert not [name for name in browser.names if "reset" in name]


@with_each_cookie
async def test_a_registration_is_confirmed(database: Database, cookie: dict[str, Any]) -> None:
    async with site_with(database, cookie) as (auth, app), StrictBrowser(app, SITE) as browser:
        await browser.go("/accounts/register")
        fields = {"username": "eve", "email": "eve@example.org", "password1": NEW, "password2": NEW}
        assert "after that you can log in" in (await browser.send(fields)).text
        page = await browser.follow(await link_in_mail(auth, "/register/confirm/"))
        assert page.status_code == 200
        is_asked = "the password that you chose" in page.text  # unless the cookie has the prefix __Host-
        assert (await browser.send({"password": NEW} if is_asked else {})).status_code == 200
        assert await auth.users.get_by_username("eve") is not None


@with_each_cookie
async def test_a_changed_address_is_confirmed_and_undone(database: Database, cookie: dict[str, Any]) -> None:
    async with site_with(database, cookie) as (auth, app), StrictBrowser(app, SITE) as browser:
        await make_ann(auth)
        await log_in(browser)
        if cookie.get("path"):  # the account pages see no session there
            user = await auth.users.get_by_username("ann")
            assert user is not None
            feature = next(feature for feature in auth.features if isinstance(feature, EmailChange))
            await feature._request_confirmation(await _request(app, auth), user, "new@example.org")
        else:
            await browser.go("/accounts/email_change")
            await browser.send({"email": "new@example.org", "old_password": PASSWORD})
        page = await browser.follow(await link_in_mail(auth, "/email_change/confirm/"))
        assert (page.status_code, "new@example.org" in page.text) == (200, True)
        done = await browser.send({"password": PASSWORD})
        assert (done.status_code, "has been changed" in done.text) == (200, True)
        page = await browser.follow(await link_in_mail(auth, "/email_undo/confirm/"))
        assert page.status_code == 200
        assert "Your old address is back" in (await browser.send({})).text


async def _request(app: Any, auth: Auth) -> Any:
    return Request({"type": "http", "app": app, "path": "/", "headers": [], "root_path": "", "method": "GET"})


async def test_a_link_neither_ends_a_strict_session_nor_asks_its_user_for_the_password(database: Database) -> None:
    async with site_with(database, STRICT) as (auth, app), StrictBrowser(app, SITE) as browser:
        await make_ann(auth)
        await log_in(browser)
        await browser.go("/accounts/email_change")
        await browser.send({"email": "new@example.org", "old_password": PASSWORD})
        before = browser.jar["__Host-session", "/"].value
        page = await browser.follow(await link_in_mail(auth, "/email_change/confirm/"))
        assert "not logged in to this account" in page.text
        reload = page.text.split('http-equiv="refresh" content="0;url=')[1].split('"')[0]
        page = await browser.go(reload)
        assert "not logged in to this account" not in page.text
        assert "http-equiv" not in page.text
        assert "has been changed" in (await browser.send({})).text
        assert browser.jar["__Host-session", "/"].value == before
        assert (await browser.go("/whoami")).json()["username"] == "ann"


@pytest.mark.parametrize("samesite", ["lax", "strict"])
async def test_in_strict_mode_the_form_of_a_link_has_a_valid_token(database: Database, samesite: str) -> None:
    async with (
        site_with(database, {"samesite": samesite}, csrf="strict") as (auth, app),
        StrictBrowser(app, SITE) as browser,
    ):
        await make_ann(auth)
        page = await browser.go("/accounts/password_reset")
        await browser.send({"email": "ann@example.org", "csrfmiddlewaretoken": token_in(page.text)})
        page = await browser.go("/accounts/login")
        fields = {"username": "ann", "password": PASSWORD, "csrfmiddlewaretoken": token_in(page.text)}
        await browser.send(fields)
        page = await browser.follow(await link_in_mail(auth, "/reset/"))
        fields = {"new_password1": NEW, "new_password2": NEW, "csrfmiddlewaretoken": token_in(page.text)}
        done = await browser.send(fields)
        assert (done.status_code, "Your new password has been saved" in done.text) == (200, True)


async def test_a_link_works_with_sessions_in_cookies(database: Database) -> None:
    options = {"sessions": CookieStore(SECRET_KEY)}
    async with site_with(database, STRICT, **options) as (auth, app), StrictBrowser(app, SITE) as browser:
        await make_ann(auth)
        await browser.go("/accounts/password_reset")
        await browser.send({"email": "ann@example.org"})
        await browser.follow(await link_in_mail(auth, "/reset/"))
        done = await browser.send({"new_password1": NEW, "new_password2": NEW})
        assert "Your new password has been saved" in done.text


async def test_a_hash_from_the_database_opens_no_link(database: Database) -> None:
    """An attacker has read the table of tokens, and writes a hash into the cookie of an opened link."""
    async with site_with(database, {}) as (auth, app), StrictBrowser(app, SITE) as browser:
        ann = await make_ann(auth)
        await browser.go("/accounts/password_reset")
        await browser.send({"email": "ann@example.org"})
        link = await link_in_mail(auth, "/reset/")
        page = await browser.follow(link)
        name = next(name for name in browser.names if name.endswith("session_password_reset"))
        morsel = browser.jar[name, "/"]
        token_hash = sha256_hex(link.rpartition("/")[2])
        assert token_hash in morsel.value
        for forged in (
            token_hash,
            f".{token_hash}",
            f"{'0' * 64}.{token_hash}",
            link.rpartition("/")[2],
            "%ff.%ff",
        ):
            morsel.set(name, forged, forged)
            assert (await browser.go(browser.url)).status_code == 404
        assert page.status_code == 200
        assert ann.id is not None


@pytest.mark.parametrize("order", ["other first", "other last"])
async def test_the_cookie_of_another_link_does_not_hide_the_right_one(database: Database, order: str) -> None:
    """A browser may hold an older cookie of the name, for another path or from another host of the domain."""
    async with site_with(database, {}) as (auth, app):
        await make_ann(auth)
        await auth.users.create_user("bob", "bob@example.org", PASSWORD)
        mailer: Any = auth.mail_queue.mailer
        cookies, page = [], ""
        for address in ("bob@example.org", "ann@example.org"):
            async with StrictBrowser(app, SITE) as browser:
                await browser.go("/accounts/password_reset")
                await browser.send({"email": address})
                await browser.follow(await link_in_mail(auth, "/reset/"))
                mailer.messages.clear()
                page = browser.url
                cookies.append(browser._cookies(page, "same-origin"))
        both = "; ".join(cookies if order == "other first" else reversed(cookies))
        async with client_of(app, base_url=SITE) as client:
            answer = await client.get(page, headers={"cookie": both})
        assert answer.status_code == 200
        assert "Choose a new password" in answer.text
