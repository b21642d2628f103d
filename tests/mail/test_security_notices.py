"""Mails about what happened to an account: to whom, what they say, and what never stands in them."""

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


async def make_ann(here: Site, email: str = "ann@example.org") -> User:
    user: User = await here.auth.users.create_user("ann", email, PASSWORD)
    return user


async def log_in(here: Site, client: httpx.AsyncClient, password: str = PASSWORD) -> None:
    response = await here.post("/accounts/login", client, username="ann", password=password)
    assert response.status_code == 303


async def change_password(here: Site, client: httpx.AsyncClient, new: str = OTHER_PASSWORD) -> None:
    data = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert (await here.post("/accounts/password_change", client, **data)).status_code == 303


async def reset_password(here: Site, client: httpx.AsyncClient) -> str:
    """Gives the link that was used."""
    await here.post("/accounts/password_reset", client, email="ann@example.org")
    link = await here.link()
    page = await client.get(link, follow_redirects=True)
    data = {"new_password1": OTHER_PASSWORD, "new_password2": OTHER_PASSWORD}
    assert (await here.post(page.url.path, client, **data)).status_code == 303
    return link


async def end_sessions(here: Site, user: User, request: HTTPConnection | None = None) -> None:
    async with here.auth.gateway.atomic():
        await here.auth.events.emit(SessionsEnded(user=user, request=request))


async def emit_and_fail(here: Site, event: Event) -> None:
    async with here.auth.gateway.atomic():
        await here.auth.events.emit(event)
        raise RuntimeError("later")


def when(mail: EmailMessage) -> datetime:
    found = re.search(r"^Time: (\d{4}-\d\d-\d\d \d\d:\d\d) UTC$", plain_text(mail), re.MULTILINE)
    assert found
    return datetime.strptime(found[1], "%Y-%m-%d %H:%M").replace(tzinfo=UTC)


# What is told, and to whom


@pytest.mark.parametrize("kind", sorted(SUBJECTS))
async def test_who_has_the_account_is_told_what_happened_when_and_from_where(database: Database, kind: str) -> None:
    async with site(database) as here, here.browser(headers={"user-agent": CHROME}) as client:
        ann = await make_ann(here)
        secrets = [PASSWORD, OTHER_PASSWORD]
        if kind == "password_changed":
            await log_in(here, client)
            assert await here.mails() == []
            await change_password(here, client)
        elif kind == "password_reset":
            secrets.append((await reset_password(here, client)).rpartition("/")[2])
        elif kind == "new_device":
            await log_in(here, here.client)
            assert await here.mails() == []
            await log_in(here, client)
        else:
            await end_elsewhere(here, client)
        mail = await here.mail()
        text, html = plain_text(mail), html_of(mail)
        assert (to(mail), mail["Subject"]) == ("ann@example.org", SUBJECTS[kind])
        assert timedelta() <= datetime.now(UTC) - when(mail) < timedelta(minutes=2)
        for line in ("Your username: ann", "Browser: Chrome on Windows", "IP address: 192.0.2.1"):
            assert line in text.splitlines()
            assert line in html
        assert links_in(mail) == [f"{SITE}/accounts/password_reset", SITE]
        row = await here.auth.users.get(ann.id)
        assert row is not None
        cookies = [str(value) for value in client.cookies.values()]
        for secret in [*secrets, ann.password, row.password, *cookies]:
            assert secret not in text + html + str(mail)


async def end_elsewhere(here: Site, client: httpx.AsyncClient) -> None:
    """A page of the application's own that ends all sessions of a user."""

    async def end(request: Request) -> Response:
        user = await here.auth.users.get_by_username("ann")
        await end_sessions(here, user, request)  # type: ignore[arg-type]
        return PlainTextResponse("ended")

    here.app.router.routes.insert(0, Route("/end", end))
    assert (await client.get("/end")).text == "ended"


async def test_nobody_is_told_when_notices_are_off(database: Database) -> None:
    async with site(database, notices=False) as here, here.browser() as client:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await log_in(here, client)
        await change_password(here, client)
        await end_sessions(here, ann)
        assert await here.mails() == []


async def test_nobody_is_told_where_there_is_no_address(database: Database) -> None:
    async with site(database) as here, here.browser() as client:
        ann = await make_ann(here, "")
        await log_in(here, here.client)
        await log_in(here, client)
        await change_password(here, client)
        await end_sessions(here, ann)
        assert await here.mails() == []


@pytest.mark.parametrize("missing", ["mailer", "base_url"])
async def test_nobody_is_told_where_no_mail_can_be_written(database: Database, missing: str) -> None:
    async with site(database, features=[], **{missing: None}) as here, here.browser() as client:
        await make_ann(here)
        await log_in(here, here.client)
        await log_in(here, client)
        await change_password(here, client)
        assert await here.mails() == []


async def test_what_was_changed_without_a_browser_is_told_without_one(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await here.auth.users.set_password(ann, OTHER_PASSWORD)
        mail = await here.mail()
        assert mail["Subject"] == SUBJECTS["password_changed"]
        assert links_in(mail) == [SITE]
        assert "write to the people who run this site" in plain_text(mail)
        for line in ("Browser:", "IP address:"):
            assert line not in plain_text(mail)
            assert line not in html_of(mail)


async def test_what_was_not_committed_is_not_told(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)

        def fail(event: PasswordChanged) -> None:
            raise RuntimeError("no room in the ledger")

        here.auth.events.on(PasswordChanged)(fail)
        with pytest.raises(RuntimeError, match="ledger"):
            await here.auth.users.set_password(ann, OTHER_PASSWORD)
        assert await here.mails() == []
        with pytest.raises(RuntimeError, match="later"):
            await emit_and_fail(here, SessionsEnded(user=ann))
        assert await here.mails() == []


async def test_what_is_told_waits_for_the_outermost_transaction(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        async with here.auth.gateway.atomic():
            await here.auth.events.emit(SessionsEnded(user=ann))
            await asyncio.sleep(0)
            assert here.mailer.messages == []
            with pytest.raises(RuntimeError, match="later"):
                await emit_and_fail(here, PasswordChanged(user=ann))
            assert await here.mails() == []
        assert (await here.mail())["Subject"] == SUBJECTS["sessions_ended"]


# From where


@pytest.mark.parametrize(
    ("agent", "said"),
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
async def test_what_a_browser_says_of_itself_is_not_repeated(database: Database, agent: str, said: str) -> None:
    headers = [(b"user-agent", agent.encode())]
    async with site(database) as here, here.browser(headers=headers) as client:
        await make_ann(here)
        await log_in(here, client)
        await change_password(here, client)
        mail = await here.mail()
        lines = [line for line in plain_text(mail).splitlines() if line.startswith("Browser")]
        assert lines == ([f"Browser: {said}"] if said else [])
        for foreign in ("<script>", "<b>", "\x1b", "\u202e", "xxxx", "curl"):
            assert foreign not in plain_text(mail) + html_of(mail)


@pytest.mark.parametrize(
    ("proxies", "address"),
    [([], "192.0.2.1"), (["192.0.2.0/24"], "203.0.113.7"), (["192.0.2.1", "203.0.113.0/24"], "198.51.100.2")],
)
async def test_the_address_is_the_one_that_our_proxies_saw(
    database: Database, proxies: list[str], address: str
) -> None:
    headers = {"x-forwarded-for": "<b>6.6.6.6</b>, 198.51.100.2, 203.0.113.7"}
    async with site(database, trusted_proxies=proxies) as here, here.browser(headers=headers) as client:
        await make_ann(here)
        await log_in(here, client)
        await change_password(here, client)
        mail = await here.mail()
        assert f"IP address: {address}" in plain_text(mail).splitlines()
        assert "6.6.6.6" not in html_of(mail)


async def test_an_odd_name_does_no_harm(database: Database) -> None:
    async with site(database) as here:
        user = await here.auth.users.create_user('<img src="x">\r\nBcc: x@example.net', "ann@example.org", PASSWORD)
        await here.auth.users.set_password(user, OTHER_PASSWORD)
        mail = await here.mail()
        assert "<img" not in html_of(mail).replace("&lt;img", "")
        assert mail["Bcc"] is None
        assert to(mail) == "ann@example.org"


async def test_a_notice_speaks_the_language_of_the_browser(database: Database) -> None:
    async with site(database, languages=["en", "de"]) as here:
        await make_ann(here)
        here.client.headers["accept-language"] = "de"
        await log_in(here, here.client)
        await change_password(here, here.client)
        mail = await here.mail()
        assert mail["Content-Language"] == "de"
        assert "was changed" not in str(mail["Subject"]) + plain_text(mail)


# New devices


async def test_a_browser_is_new_once(database: Database) -> None:
    async with site(database) as here, here.browser() as another:
        events: list[UserLoggedIn] = []
        here.auth.events.on(UserLoggedIn)(events.append)
        await make_ann(here)
        # The first login of all comes from the person who just made the account.
        for client, is_new in ((here.client, False), (here.client, False), (another, True), (another, False)):
            await log_in(here, client)
            assert events[-1].new_device is is_new
            mails = await here.mails()
            assert [str(mail["Subject"]) for mail in mails] == [SUBJECTS["new_device"]] * is_new
            await here.post("/accounts/logout", client)
        assert len(events) == 4


async def test_a_browser_without_cookies_is_always_new(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        for number in range(3):
            async with here.browser() as client:
                await log_in(here, client)
                assert len(await here.mails()) == (number > 0)


async def test_a_wrong_password_tells_nobody_anything(database: Database) -> None:
    async with site(database) as here, here.browser() as another:
        await make_ann(here)
        await log_in(here, here.client)
        response = await here.post("/accounts/login", another, username="ann", password="wrong")
        assert response.status_code == 422
        assert await here.mails() == []


# Sites that are put together in their own way


async def own_login(request: Request) -> Response:
    auth: Auth = get_auth(request)
    user = await auth.users.get_by_username("ann")
    await login(request, user)  # type: ignore[arg-type]
    return PlainTextResponse("in")


async def own_change(request: Request) -> Response:
    await get_auth(request).users.set_password(request.user, OTHER_PASSWORD, request=request)
    update_session_auth_hash(request, request.user)
    return PlainTextResponse("changed")


async def test_a_site_with_pages_of_its_own_tells_without_a_link_to_ours(database: Database) -> None:
    async with site(database, features=[]) as here:
        await make_ann(here)
        app = Starlette(
            routes=[Route("/in", own_login), Route("/change", own_change)], middleware=middleware(here.auth)
        )
        async with client_of(app, base_url=SITE) as first, client_of(app, base_url=SITE) as second:
            assert (await first.get("/in")).text == "in"
            assert (await second.get("/in")).text == "in"
            mail = await here.mail()
            assert mail["Subject"] == SUBJECTS["new_device"]
            assert links_in(mail) == [SITE]
            assert "write to the people who run this site" in plain_text(mail)
            assert (await second.get("/change")).text == "changed"
            assert (await here.mail())["Subject"] == SUBJECTS["password_changed"]


async def test_logging_in_from_everywhere_fills_no_mailbox(database: Database) -> None:
    async with site(database) as here:
        await here.auth.users.create_user("ann", "ann@example.org", PASSWORD)
        for _ in range(14):
            async with here.browser() as browser:
                response = await here.post("/accounts/login", browser, username="ann", password=PASSWORD)
                assert response.status_code == 303
        assert len(await here.mails()) == 10
