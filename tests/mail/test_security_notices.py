"""Tests of the mails that report changes of an account."""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import httpx
import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    Auth,
    PasswordChanged,
    SessionsEnded,
    User,
    UserLoggedIn,
    get_auth,
    login,
    middleware,
    update_session_auth_hash,
)
from starlette_auth.core.events import Event
from starlette_auth.mail.messages import plain_text

from ..conftest import PASSWORD, client_of, with_tables
from ..features.test_registration import OTHER_PASSWORD, SITE, Site, html_of, links_in, site, to

pytestmark = with_tables

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:141.0) Gecko/20100101 Firefox/141.0"
CHROME = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/139.0 Safari/537.36"
SUBJECTS = {
    "password_changed": "Your password at site.example was changed",
    "password_reset": "Your password at site.example was reset",
    "new_device": "A login at site.example from a new device",
    "sessions_ended": "You were logged out at site.example",
}


async def create_ann(the_site: Site, email: str = "ann@example.org") -> User:
    user: User = await the_site.auth.users.create_user("ann", email, PASSWORD)
    return user


async def log_in(the_site: Site, client: httpx.AsyncClient, password: str = PASSWORD) -> None:
    response = await the_site.post("/accounts/login", client, username="ann", password=password)
    assert response.status_code == 303


async def change_password(the_site: Site, client: httpx.AsyncClient, new: str = OTHER_PASSWORD) -> None:
    data = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert (await the_site.post("/accounts/password_change", client, **data)).status_code == 303


async def reset_password(the_site: Site, client: httpx.AsyncClient) -> str:
    """Resets the password. Returns the link that was used."""
    await the_site.post("/accounts/password_reset", client, email="ann@example.org")
    link = await the_site.link()
    page = await client.get(link, follow_redirects=True)
    data = {"new_password1": OTHER_PASSWORD, "new_password2": OTHER_PASSWORD}
    assert (await the_site.post(page.url.path, client, **data)).status_code == 303
    return link


async def end_sessions(the_site: Site, user: User, request: HTTPConnection | None = None) -> None:
    async with the_site.auth.gateway.atomic():
        await the_site.auth.events.emit(SessionsEnded(user=user, request=request))


async def emit_and_fail(the_site: Site, event: Event) -> None:
    async with the_site.auth.gateway.atomic():
        await the_site.auth.events.emit(event)
        raise RuntimeError("later")


def time_of(mail: EmailMessage) -> datetime:
    match = re.search(r"^Time: (\d{4}-\d\d-\d\d \d\d:\d\d) UTC$", plain_text(mail), re.MULTILINE)
    assert match
    return datetime.strptime(match[1], "%Y-%m-%d %H:%M").replace(tzinfo=UTC)


# Events and recipients


@pytest.mark.parametrize("kind", sorted(SUBJECTS))
async def test_a_notice_states_event_time_browser_and_address(database: Database, kind: str) -> None:
    async with site(database) as the_site, the_site.browser(headers={"user-agent": CHROME}) as client:
        ann = await create_ann(the_site)
        secrets = [PASSWORD, OTHER_PASSWORD]
        if kind == "password_changed":
            await log_in(the_site, client)
            assert await the_site.mails() == []
            await change_password(the_site, client)
        elif kind == "password_reset":
            secrets.append((await reset_password(the_site, client)).rpartition("/")[2])
        elif kind == "new_device":
            await log_in(the_site, the_site.client)
            assert await the_site.mails() == []
            await log_in(the_site, client)
        else:
            await end_sessions_from_a_page(the_site, client)
        mail = await the_site.mail()
        text, html = plain_text(mail), html_of(mail)
        assert (to(mail), mail["Subject"]) == ("ann@example.org", SUBJECTS[kind])
        assert timedelta() <= datetime.now(UTC) - time_of(mail) < timedelta(minutes=2)
        for line in ("Your username: ann", "Browser: Chrome on Windows", "IP address: 192.0.2.1"):
            assert line in text.splitlines()
            assert line in html
        assert links_in(mail) == [f"{SITE}/accounts/password_reset", SITE]
        row = await the_site.auth.users.get(ann.id)
        assert row is not None
        cookies = [str(value) for value in client.cookies.values()]
        for secret in [*secrets, ann.password, row.password, *cookies]:
            assert secret not in text + html + str(mail)


async def end_sessions_from_a_page(the_site: Site, client: httpx.AsyncClient) -> None:
    """Ends all sessions of a user from a page of the application."""

    async def end(request: Request) -> Response:
        user = await the_site.auth.users.get_by_username("ann")
        await end_sessions(the_site, user, request)  # type: ignore[arg-type]
        return PlainTextResponse("ended")

    the_site.app.router.routes.insert(0, Route("/end", end))
    assert (await client.get("/end")).text == "ended"


async def test_no_notice_is_sent_when_notices_are_off(database: Database) -> None:
    async with site(database, notices=False) as the_site, the_site.browser() as client:
        ann = await create_ann(the_site)
        await log_in(the_site, the_site.client)
        await log_in(the_site, client)
        await change_password(the_site, client)
        await end_sessions(the_site, ann)
        assert await the_site.mails() == []


async def test_no_notice_is_sent_to_a_user_without_an_address(database: Database) -> None:
    async with site(database) as the_site, the_site.browser() as client:
        ann = await create_ann(the_site, "")
        await log_in(the_site, the_site.client)
        await log_in(the_site, client)
        await change_password(the_site, client)
        await end_sessions(the_site, ann)
        assert await the_site.mails() == []


@pytest.mark.parametrize("missing", ["mailer", "base_url"])
async def test_no_notice_is_sent_without_mailer_or_base_url(database: Database, missing: str) -> None:
    async with site(database, features=[], **{missing: None}) as the_site, the_site.browser() as client:
        await create_ann(the_site)
        await log_in(the_site, the_site.client)
        await log_in(the_site, client)
        await change_password(the_site, client)
        assert await the_site.mails() == []


async def test_a_change_without_a_request_is_mailed_without_a_browser(database: Database) -> None:
    async with site(database) as the_site:
        ann = await create_ann(the_site)
        await the_site.auth.users.set_password(ann, OTHER_PASSWORD)
        mail = await the_site.mail()
        assert mail["Subject"] == SUBJECTS["password_changed"]
        assert links_in(mail) == [SITE]
        assert "write to the people who run this site" in plain_text(mail)
        for line in ("Browser:", "IP address:"):
            assert line not in plain_text(mail)
            assert line not in html_of(mail)


async def test_no_notice_is_sent_after_a_rollback(database: Database) -> None:
    async with site(database) as the_site:
        ann = await create_ann(the_site)

        def fail(event: PasswordChanged) -> None:
            raise RuntimeError("listener failed")

        the_site.auth.events.on(PasswordChanged)(fail)
        with pytest.raises(RuntimeError, match="listener failed"):
            await the_site.auth.users.set_password(ann, OTHER_PASSWORD)
        assert await the_site.mails() == []
        with pytest.raises(RuntimeError, match="later"):
            await emit_and_fail(the_site, SessionsEnded(user=ann))
        assert await the_site.mails() == []


async def test_a_notice_waits_for_the_outermost_transaction(database: Database) -> None:
    async with site(database) as the_site:
        ann = await create_ann(the_site)
        async with the_site.auth.gateway.atomic():
            await the_site.auth.events.emit(SessionsEnded(user=ann))
            await asyncio.sleep(0)
            assert the_site.mailer.messages == []
            with pytest.raises(RuntimeError, match="later"):
                await emit_and_fail(the_site, PasswordChanged(user=ann))
            assert await the_site.mails() == []
        assert (await the_site.mail())["Subject"] == SUBJECTS["sessions_ended"]


# Browser and address


@pytest.mark.parametrize(
    ("agent", "browser"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("<script>alert(1)</script>", ""),
        ("<b>Firefox/1</b> on Windows", "Firefox on Windows"),
        ("Firefox/1\x1b[2J\u202eWindows", "Firefox on Windows"),
        ("curl/8.0", ""),
        ("", ""),
        ("x" * 20_000 + "Firefox/1", ""),
    ],
    ids=["browser", "html", "html around", "escape", "program", "nothing", "huge"],
)
async def test_the_user_agent_header_is_not_repeated(database: Database, agent: str, browser: str) -> None:
    headers = [(b"user-agent", agent.encode())]
    async with site(database) as the_site, the_site.browser(headers=headers) as client:
        await create_ann(the_site)
        await log_in(the_site, client)
        await change_password(the_site, client)
        mail = await the_site.mail()
        lines = [line for line in plain_text(mail).splitlines() if line.startswith("Browser")]
        assert lines == ([f"Browser: {browser}"] if browser else [])
        for part in ("<script>", "<b>", "\x1b", "\u202e", "xxxx", "curl"):
            assert part not in plain_text(mail) + html_of(mail)


@pytest.mark.parametrize(
    ("proxies", "address"),
    [([], "192.0.2.1"), (["192.0.2.0/24"], "203.0.113.7"), (["192.0.2.1", "203.0.113.0/24"], "198.51.100.2")],
)
async def test_the_address_is_taken_from_trusted_proxies_only(
    database: Database, proxies: list[str], address: str
) -> None:
    headers = {"x-forwarded-for": "<b>6.6.6.6</b>, 198.51.100.2, 203.0.113.7"}
    async with site(database, trusted_proxies=proxies) as the_site, the_site.browser(headers=headers) as client:
        await create_ann(the_site)
        await log_in(the_site, client)
        await change_password(the_site, client)
        mail = await the_site.mail()
        assert f"IP address: {address}" in plain_text(mail).splitlines()
        assert "6.6.6.6" not in html_of(mail)


async def test_a_username_with_html_and_line_breaks_is_harmless(database: Database) -> None:
    async with site(database) as the_site:
        name = '<img src="x">\r\nBcc: x@example.net'
        user = await the_site.auth.users.create_user(name, "ann@example.org", PASSWORD, normalize=False)
        await the_site.auth.users.set_password(user, OTHER_PASSWORD)
        mail = await the_site.mail()
        assert "<img" not in html_of(mail).replace("&lt;img", "")
        assert mail["Bcc"] is None
        assert to(mail) == "ann@example.org"


async def test_a_notice_is_in_the_language_of_the_browser(database: Database) -> None:
    async with site(database, languages=["en", "de"]) as the_site:
        await create_ann(the_site)
        the_site.client.headers["accept-language"] = "de"
        await log_in(the_site, the_site.client)
        await change_password(the_site, the_site.client)
        mail = await the_site.mail()
        assert mail["Content-Language"] == "de"
        assert "was changed" not in str(mail["Subject"]) + plain_text(mail)


# New devices


async def test_a_browser_is_a_new_device_once(database: Database) -> None:
    async with site(database) as the_site, the_site.browser() as another:
        events: list[UserLoggedIn] = []
        the_site.auth.events.on(UserLoggedIn)(events.append)
        await create_ann(the_site)
        # The first login comes from the person who created the account, so it is not reported.
        for client, is_new in ((the_site.client, False), (the_site.client, False), (another, True), (another, False)):
            await log_in(the_site, client)
            assert events[-1].new_device is is_new
            mails = await the_site.mails()
            assert [str(mail["Subject"]) for mail in mails] == [SUBJECTS["new_device"]] * is_new
            await the_site.post("/accounts/logout", client)
        assert len(events) == 4


async def test_a_browser_without_cookies_is_always_a_new_device(database: Database) -> None:
    async with site(database) as the_site:
        await create_ann(the_site)
        for number in range(3):
            async with the_site.browser() as client:
                await log_in(the_site, client)
                assert len(await the_site.mails()) == (number > 0)


async def test_a_wrong_password_sends_no_notice(database: Database) -> None:
    async with site(database) as the_site, the_site.browser() as another:
        await create_ann(the_site)
        await log_in(the_site, the_site.client)
        response = await the_site.post("/accounts/login", another, username="ann", password="wrong")
        assert response.status_code == 422
        assert await the_site.mails() == []


# Sites with custom pages


async def custom_login(request: Request) -> Response:
    auth: Auth = get_auth(request)
    user = await auth.users.get_by_username("ann")
    await login(request, user)  # type: ignore[arg-type]
    return PlainTextResponse("in")


async def custom_password_change(request: Request) -> Response:
    await get_auth(request).users.set_password(request.user, OTHER_PASSWORD, request=request)
    update_session_auth_hash(request, request.user)
    return PlainTextResponse("changed")


async def test_a_site_without_the_account_pages_sends_notices_without_a_reset_link(database: Database) -> None:
    async with site(database, features=[]) as the_site:
        await create_ann(the_site)
        app = Starlette(
            routes=[Route("/in", custom_login), Route("/change", custom_password_change)],
            middleware=middleware(the_site.auth),
        )
        async with client_of(app, base_url=SITE) as first, client_of(app, base_url=SITE) as second:
            assert (await first.get("/in")).text == "in"
            assert (await second.get("/in")).text == "in"
            mail = await the_site.mail()
            assert mail["Subject"] == SUBJECTS["new_device"]
            assert links_in(mail) == [SITE]
            assert "write to the people who run this site" in plain_text(mail)
            assert (await second.get("/change")).text == "changed"
            assert (await the_site.mail())["Subject"] == SUBJECTS["password_changed"]


async def test_logins_from_many_devices_are_rate_limited(database: Database) -> None:
    async with site(database) as the_site:
        await the_site.auth.users.create_user("ann", "ann@example.org", PASSWORD)
        for _ in range(14):
            async with the_site.browser() as browser:
                response = await the_site.post("/accounts/login", browser, username="ann", password=PASSWORD)
                assert response.status_code == 303
        assert len(await the_site.mails()) == 10
