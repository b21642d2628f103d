"""Tests of the mails that report what happened to the second factors and passkeys of an account."""

import asyncio
import re
from collections.abc import AsyncIterator
from email.message import EmailMessage
from html import unescape

import httpx
import pyotp
import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    FactorAdded,
    FactorRemoved,
    RecoveryCodeUsed,
    SecondFactorFailed,
    TwoFactor,
    User,
)
from starlette_auth.core.events import Event
from starlette_auth.core.feature_events import PasskeyCloned
from starlette_auth.mail.messages import plain_text
from starlette_auth.testing import FrozenClock

from ..conftest import PASSWORD, with_tables
from ..features.test_registration import SITE, Site, html_of, links_in, site, to
from ..features.test_two_factor_pages import codes_in

pytestmark = with_tables

CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0 Safari/537.36"
WRONG = "000000"
#: The notices, each with its subject and with what the text says in particular.
NOTICES = {
    "factor_added": (
        "Added to your account at site.example: Authenticator app",
        "This was added to your account at site.example: Authenticator app.",
        "Then remove what you did not add.",
    ),
    "factor_removed": (
        "Removed from your account at site.example: Authenticator app",
        "This was removed from your account at site.example: Authenticator app.",
        "If it was not you, choose a new password at once.",
    ),
    "recovery_code_used": (
        "A recovery code for your account at site.example was used",
        "Unused recovery codes: 9.",
        "Then make new recovery codes.",
    ),
    "recovery_codes_made": (
        "New recovery codes for your account at site.example",
        "They replace all earlier ones.",
        "Then make new recovery codes.",
    ),
    "second_factor_failed": (
        "Wrong codes after the right password at site.example",
        "The right password for your account at site.example was entered, and then 5 wrong codes, one after the other.",
        "If it was not you, choose a new password at once.",
    ),
    "passkey_suspicious": (
        "A passkey for your account at site.example was refused",
        "There seems to be a copy of this passkey or security key.",
        "Remove it from your account, and add a new one.",
    ),
}


class Owner:
    """A user who has added an authenticator app in one browser."""

    def __init__(self, the_site: Site, user: User, app: pyotp.TOTP, codes: list[str]) -> None:
        self.site, self.user, self.app, self.codes = the_site, user, app, codes

    def code(self) -> str:
        """Returns the next code of the app."""
        clock = self.site.auth.clock
        assert isinstance(clock, FrozenClock)
        clock.tick(30)
        return self.app.at(int(clock()))

    async def begin(self, client: httpx.AsyncClient) -> str:
        """Logs in with the password; returns the id of the pending login."""
        await self.site.post("/accounts/login", client, username="ann", password=PASSWORD)
        match = re.search(r'name="login" value="([^"]+)"', (await client.get("/accounts/second_factor")).text)
        assert match
        return match[1]

    async def answer(self, client: httpx.AsyncClient, **fields: str) -> int:
        """Passes the second step of a login with these fields; returns the status."""
        login = await self.begin(client)
        return (await self.site.post("/accounts/second_factor", client, login=login, **fields)).status_code

    async def guess(self, client: httpx.AsyncClient, number: int) -> None:
        login = await self.begin(client)
        for _ in range(number):
            response = await self.site.post("/accounts/second_factor", client, login=login, code=WRONG)
            assert response.status_code == 422


async def add_app(the_site: Site) -> Owner:
    """Creates ann, and adds an app in the browser `the_site.client`. Its notice is not read yet."""
    user = await the_site.auth.users.create_user("ann", "ann@example.org", PASSWORD)
    await the_site.post("/accounts/login", username="ann", password=PASSWORD)
    uri = re.search(r'href="(otpauth:[^"]+)"', (await the_site.client.get("/accounts/totp")).text)
    assert uri
    app = pyotp.parse_uri(unescape(uri[1]))
    assert isinstance(app, pyotp.TOTP)
    page = await the_site.post("/accounts/totp", code=app.at(int(the_site.auth.clock())))
    assert page.status_code == 200
    return Owner(the_site, user, app, codes_in(page.text))


@pytest.fixture
async def the_site(database: Database) -> AsyncIterator[Site]:
    async with site(database, features=[TwoFactor()], clock=FrozenClock()) as the_site:
        the_site.client.headers["user-agent"] = CHROME
        yield the_site


@pytest.fixture
async def owner(the_site: Site) -> Owner:
    owner = await add_app(the_site)
    await the_site.mails()
    return owner


async def cause(kind: str, owner: Owner) -> None:
    """Does what the notice is about, in the browser `the_site.client`."""
    the_site, client = owner.site, owner.site.client
    if kind == "factor_removed":
        assert (await the_site.post("/accounts/totp/remove", code=owner.code())).status_code == 303
    elif kind == "recovery_codes_made":
        assert (await the_site.post("/accounts/recovery_codes", code=owner.code())).status_code == 200
    elif kind == "recovery_code_used":
        await the_site.post("/accounts/logout")
        assert await owner.answer(client, recovery_code=owner.codes[0]) == 303
    elif kind == "second_factor_failed":
        await the_site.post("/accounts/logout")
        await owner.guess(client, 5)
    else:
        await emit_from_a_page(the_site, PasskeyCloned, user=owner.user, name="my <b>stick</b>")


async def emit_from_a_page(the_site: Site, kind: type[Event], **fields: object) -> None:
    async def page(request: Request) -> Response:
        await the_site.auth.events.emit(kind(request=request, **fields))  # type: ignore[call-arg]
        return PlainTextResponse("told")

    the_site.app.router.routes.insert(0, Route("/tell", page))
    assert (await the_site.client.get("/tell")).text == "told"


def subjects(mails: list[EmailMessage]) -> list[str]:
    return [str(mail["Subject"]) for mail in mails]


@pytest.mark.parametrize("kind", NOTICES)
async def test_a_notice_says_what_happened_and_what_to_do_and_contains_no_secret(the_site: Site, kind: str) -> None:
    owner = await add_app(the_site)
    if kind != "factor_added":
        await the_site.mails()
        await cause(kind, owner)
    mail = await the_site.mail()
    subject, *sentences = NOTICES[kind]
    text, html = plain_text(mail), html_of(mail)
    assert (to(mail), mail["Subject"]) == ("ann@example.org", subject)
    for sentence in sentences:
        assert sentence in " ".join(text.split())
        assert sentence in " ".join(html.split())
    for line in ("Your username: ann", "Browser: Chrome on Windows", "IP address: 192.0.2.1"):
        assert line in text.splitlines()
        assert line in html
    assert re.search(r"^Time: \d{4}-\d\d-\d\d \d\d:\d\d UTC$", text, re.MULTILINE)
    assert links_in(mail) == [f"{SITE}/accounts/password_reset", SITE]
    assert "<b>stick" not in html
    cookies = [str(value) for value in the_site.client.cookies.values()]
    for secret in [PASSWORD, owner.app.secret, *owner.codes, owner.app.at(int(the_site.auth.clock())), *cookies]:
        assert secret not in text + html + str(mail)


@pytest.mark.parametrize(("factor", "words"), [("passkey", "Passkey"), ("key", "Security key"), ("badge", "badge")])
async def test_a_notice_names_the_factor_in_words(the_site: Site, owner: Owner, factor: str, words: str) -> None:
    async with the_site.auth.gateway.atomic():
        await the_site.auth.events.emit(FactorRemoved(user=owner.user, factor=factor))
    mail = await the_site.mail()
    assert mail["Subject"] == f"Removed from your account at site.example: {words}"
    assert f"at site.example: {words}." in plain_text(mail)
    assert links_in(mail) == [SITE]  # without a request there is no link
    assert "write to the people who run this site" in plain_text(mail)


@pytest.mark.parametrize("kind", [FactorAdded, RecoveryCodeUsed])
async def test_a_change_that_is_rolled_back_sends_no_notice(the_site: Site, kind: type[Event]) -> None:
    def fail(event: Event) -> None:
        raise RuntimeError("listener failed")

    if kind is FactorAdded:
        the_site.auth.events.on(kind)(fail)
        with pytest.raises(RuntimeError, match="listener failed"):
            await add_app(the_site)
        assert await the_site.auth.factors()[0].is_set_up(await ann_of(the_site)) is False
    else:
        owner = await add_app(the_site)
        await the_site.mails()
        the_site.auth.events.on(kind)(fail)
        async with the_site.browser() as browser:
            with pytest.raises(RuntimeError, match="listener failed"):
                await owner.answer(browser, recovery_code=owner.codes[0])
        assert await the_site.auth.features[0].store.recovery_codes_left(owner.user) == 10  # type: ignore[attr-defined]
    assert await the_site.mails() == []


async def ann_of(the_site: Site) -> User:
    user: User | None = await the_site.auth.users.get_by_username("ann")
    assert user is not None
    return user


async def test_wrong_codes_are_told_once(the_site: Site, owner: Owner) -> None:
    async with the_site.browser() as browser:
        await owner.guess(browser, 4)
        assert await the_site.mails() == []
        await owner.guess(browser, 1)
        assert subjects(await the_site.mails()) == [NOTICES["second_factor_failed"][0]]
        for _ in range(4):
            assert isinstance(the_site.auth.clock, FrozenClock)
            the_site.auth.clock.tick(15 * 60)
            await owner.guess(browser, 1)
        assert await the_site.mails() == []


async def test_a_right_code_between_wrong_ones_ends_the_row(the_site: Site, owner: Owner) -> None:
    seen: list[SecondFactorFailed] = []
    the_site.auth.events.on(SecondFactorFailed)(seen.append)
    for _ in range(2):
        async with the_site.browser() as browser:
            await owner.guess(browser, 4)
            assert await owner.answer(browser, code=owner.code()) == 303
    assert [event.failures for event in seen] == [1, 2, 3, 4, 1, 2, 3, 4]
    assert NOTICES["second_factor_failed"][0] not in subjects(await the_site.mails())


async def test_wrong_codes_at_the_same_moment_are_told_once(the_site: Site, owner: Owner) -> None:
    async with the_site.browser() as browser:
        login = await owner.begin(browser)
        path, fields = "/accounts/second_factor", {"login": login, "code": WRONG}
        responses = await asyncio.gather(*(the_site.post(path, browser, **fields) for _ in range(12)))
    assert {response.status_code for response in responses} == {422, 429}
    assert subjects(await the_site.mails()) == [NOTICES["second_factor_failed"][0]]


async def test_without_notices_no_mail_is_sent(database: Database) -> None:
    async with site(database, features=[TwoFactor()], clock=FrozenClock(), notices=False) as the_site:
        owner = await add_app(the_site)
        async with the_site.browser() as browser:
            await owner.guess(browser, 5)
        assert await the_site.mails() == []
