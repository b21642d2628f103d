"""Changing the e-mail address of an account, and undoing the change after a theft."""

import re
from email.message import EmailMessage
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Mount

from starlette_auth import (
    AlreadyExists,
    EmailChanged,
    LoginRequiredMiddleware,
    Passwords,
    PBKDF2PasswordHasher,
    Registration,
    SessionsEnded,
    Tables,
    User,
    middleware,
    routes,
    user_columns,
)
from starlette_auth.features.email_change import EmailChange
from starlette_auth.mail.messages import plain_text

from ..conftest import PASSWORD, all_of, client_of, with_tables
from .test_registration import OTHER_PASSWORD, SITE, Site, html_of, links_in, site, to

pytestmark = with_tables

DAY = 24 * 60 * 60
# Turns off the rate limit of one mail per address in five minutes.
QUICK = {"rates": {"register_mail": "", "password_reset_mail": ""}}


async def make_ann(here: Site, email: str = "ann@example.org", username: str = "ann", **fields: Any) -> User:
    user: User = await here.auth.users.create_user(username, email, PASSWORD, **fields)
    return user


async def log_in(here: Site, client: httpx.AsyncClient, username: str = "ann", password: str = PASSWORD) -> None:
    response = await here.post("/accounts/login", client, username=username, password=password)
    assert response.status_code == 303
    await here.auth.mail_queue.drain()
    here.mailer.clear()


async def request_change(
    here: Site, email: str, password: str = PASSWORD, client: httpx.AsyncClient | None = None
) -> httpx.Response:
    return await here.post("/accounts/email_change", client, email=email, old_password=password)


async def change_email(
    here: Site, email: str, password: str = PASSWORD, client: httpx.AsyncClient | None = None
) -> str:
    """Requests and confirms a change of the address; returns the undo link."""
    assert (await request_change(here, email, password, client)).status_code == 303
    link = await here.link()
    response = await here.follow(link, client)
    assert (response.status_code, response.headers["location"]) == (303, "/accounts/email_change/complete")
    (undo_link,) = [link for mail in await here.mails() for link in links_in(mail) if "/email_undo/" in link]
    return undo_link


async def reload(here: Site, user: User) -> User:
    current_user: User | None = await here.auth.users.get(user.id)
    assert current_user is not None
    return current_user


async def username_in(client: httpx.AsyncClient) -> str:
    return str((await client.get("/whoami")).json()["username"])


def reset_link(mails: list[EmailMessage]) -> str:
    """Returns the password reset link, which exactly one of the mails contains."""
    (link,) = [link for mail in mails for link in links_in(mail) if "/accounts/reset/" in link]
    return link


async def reset(here: Site, link: str, password: str) -> None:
    async with here.browser() as browser:
        page = await browser.get(link, follow_redirects=True)
        assert page.status_code == 200
        data = {"new_password1": password, "new_password2": password}
        assert (await here.post(page.url.path, browser, **data)).status_code == 303


# Requesting the change


async def test_changing_the_address_requires_a_login(database: Database) -> None:
    async with site(database) as here:
        response = await here.client.get("/accounts/email_change")
        assert response.status_code == 303
        login = "/accounts/login?next=%2Faccounts%2Femail_change"
        assert response.headers["location"] == login
        response = await request_change(here, "new@example.org")
        assert (response.status_code, response.headers["location"]) == (303, login)
        assert await here.mails() == []


async def test_changing_the_address_requires_the_password(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        await log_in(here, here.client)
        data = {"email": "new@example.org", "old_password": "wrong"}
        for _ in range(5):
            response = await here.send("/accounts/email_change", data)
            assert response.status_code == 422
            assert response.json()["errors"]["old_password"][0]["code"] == "password_incorrect"
            assert set(response.json()["errors"]) == {"old_password"}
        response = await here.send("/accounts/email_change", data)
        assert response.status_code == 429
        assert int(response.headers["retry-after"]) >= 1
        assert await here.mails() == []
        assert await here.tokens() == 0


async def test_invalid_addresses_are_refused_with_an_error(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        await log_in(here, here.client)
        for email, code in (("", "required"), ("ann", "invalid"), ("a@intranet", "invalid"), ("a" * 255, "max_length")):
            response = await here.send("/accounts/email_change", {"email": email, "old_password": PASSWORD})
            assert response.json()["errors"] == {
                "email": [{"code": code, "message": response.json()["errors"]["email"][0]["message"]}]
            }
        response = await request_change(here, '"><script>@example.org')
        assert response.status_code == 422
        assert "<script>@" not in response.text
        response = await here.client.post(
            "/accounts/email_change",
            data={"email": "new@example.org", "old_password": PASSWORD},
            headers={"origin": "https://evil.example"},
        )
        assert response.status_code == 403
        assert await here.mails() == []


async def test_requests_are_rate_limited_by_ip_address(database: Database) -> None:
    async with site(database, rates={"email_change": "2/m/ip"}) as here:
        await make_ann(here)
        await log_in(here, here.client)
        statuses = [(await request_change(here, f"new{number}@example.org")).status_code for number in range(3)]
        assert statuses == [303, 303, 429]


async def test_an_address_gets_one_mail_in_five_minutes(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        await log_in(here, here.client)
        answers = [
            await request_change(here, email) for email in ("new@example.org", "NEW@example.org", "new@EXAMPLE.org")
        ]
        assert {answer.headers["location"] for answer in answers} == {"/accounts/email_change/done"}
        assert len(await here.mails()) == 1


# Confirming the change


async def test_the_address_changes_when_the_new_address_is_confirmed(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        events: list[EmailChanged] = []
        here.auth.events.on(EmailChanged)(events.append)
        await log_in(here, here.client)
        page = await here.client.get("/accounts/email_change")
        assert "<bdi>ann@example.org</bdi>" in page.text
        response = await request_change(here, "New&Ann@EXAMPLE.net")
        assert (response.status_code, response.headers["location"]) == (303, "/accounts/email_change/done")
        assert "on its way to the new address" in (await here.client.get("/accounts/email_change/done")).text
        mail = await here.mail()
        assert (to(mail), mail["Subject"]) == (
            "New&Ann@example.net",
            "Confirm your new e-mail address for site.example",
        )
        assert "use the address New&Ann@example.net for an account" in plain_text(mail)
        assert "New&amp;Ann@example.net" in html_of(mail)
        assert "within 1 day" in plain_text(mail)
        link, home = links_in(mail)
        assert (link.rpartition("/")[0], home) == (f"{SITE}/accounts/email_change/confirm", SITE)
        # Mail scanners open links too, without a login.
        async with here.browser() as scanner:
            for _ in range(3):
                assert (await scanner.head(link, follow_redirects=True)).status_code == 200
                page = await scanner.get(link, follow_redirects=True)
        assert page.url.path == "/accounts/email_change/confirm/open"
        assert "<bdi>New&amp;Ann@example.net</bdi>" in page.text
        assert link.rpartition("/")[2] not in page.text
        assert (await reload(here, ann)).email == "ann@example.org"
        assert events == []
        response = await here.follow(link)
        assert (response.status_code, response.headers["location"]) == (303, "/accounts/email_change/complete")
        assert "has been changed" in (await here.client.get("/accounts/email_change/complete")).text
        assert (await reload(here, ann)).email == "New&Ann@example.net"
        assert [(event.user.id, event.old_email, event.undone) for event in events] == [
            (ann.id, "ann@example.org", False)
        ]
        assert await username_in(here.client) == "ann"
        for response in (await here.follow(link), await here.post(link)):
            assert response.status_code == 404
            assert "This link no longer works" in response.text


async def test_both_addresses_are_notified_and_the_old_one_gets_an_undo_link(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        await here.follow(await here.link())
        mails = {to(mail): mail for mail in await here.mails()}
        assert set(mails) == {"ann@example.org", "new@example.net"}
        for mail in mails.values():
            assert mail["Subject"] == "Your e-mail address at site.example was changed"
            assert "from ann@example.org to new@example.net" in plain_text(mail)
            assert "IP address: 192.0.2.1" in plain_text(mail)
        old, new = mails["ann@example.org"], mails["new@example.net"]
        assert links_in(new) == [f"{SITE}/accounts/password_reset", SITE]
        assert links_in(old)[0].startswith(f"{SITE}/accounts/email_undo/confirm/")
        assert "The link works once, within 7 days." in plain_text(old)
        assert "The link works once, within 7 days." in html_of(old)
        assert links_in(old)[0] in html_of(old)
        assert "email_undo" not in plain_text(new) + html_of(new)


async def test_the_old_address_is_notified_even_without_notices(database: Database) -> None:
    async with site(database, notices=False) as here:
        await make_ann(here)
        await log_in(here, here.client)
        assert "/email_undo/" in await change_email(here, "new@example.net")


async def test_json_clients_can_change_the_address(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        response = await here.send("/accounts/email_change", {"email": "new@example.net", "old_password": PASSWORD})
        assert response.json() == {"next": "/accounts/email_change/done"}
        link = await here.link()
        async with here.browser() as program:
            refused = await here.send(link, {}, program)
            assert refused.status_code == 422
            assert refused.json()["errors"]["password"][0]["code"] == "required"
            data = {"password": PASSWORD}
            assert (await here.send(link, data, program)).json() == {"next": "/accounts/email_change/complete"}
            assert (await here.send(link, data, program)).status_code == 404
        assert (await reload(here, ann)).email == "new@example.net"


async def test_a_changed_password_or_address_invalidates_the_link(database: Database) -> None:
    async with site(database, **QUICK) as here:
        ann = await make_ann(here)
        for changed_field in ("password", "email", "raw password"):
            await log_in(here, here.client)
            await request_change(here, "new@example.net")
            link = await here.link()
            assert (await here.client.get(link, follow_redirects=True)).status_code == 200
            if changed_field == "password":
                await here.auth.users.set_password(ann, OTHER_PASSWORD)
                await here.auth.mail_queue.drain()
            elif changed_field == "raw password":
                await here.auth.users.update(ann, password=await here.auth.passwords.hash(OTHER_PASSWORD))
            else:
                await here.auth.users.update(ann, email="another@example.org")
            for response in (await here.client.get("/accounts/email_change/confirm/open"), await here.follow(link)):
                assert response.status_code == 404
            assert (await here.post(link)).status_code == 404
            assert (await reload(here, ann)).email != "new@example.net"
            ann = await reload(here, ann)
            await here.auth.users.set_password(ann, PASSWORD)
            await here.auth.mail_queue.drain()
            here.mailer.clear()


def without_session(here: Site) -> httpx.AsyncClient:
    """A browser with the cookies of the one that asked for the change, but without its session."""
    client = here.browser()
    for cookie in here.client.cookies.jar:
        if "session" not in cookie.name:
            client.cookies.jar.set_cookie(cookie)
    return client


@pytest.mark.parametrize("visitor", ["a stranger", "logged in as another user", "logged out in the same browser"])
@pytest.mark.parametrize("way", ["page", "link", "JSON"])
async def test_without_the_login_a_confirmation_link_needs_the_password(
    database: Database, visitor: str, way: str
) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await make_ann(here, "eve@example.org", "eve")
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        async with without_session(here) if "same browser" in visitor else here.browser() as client:
            if "another user" in visitor:
                await log_in(here, client, "eve")
            page = await client.get(link, follow_redirects=True)
            assert page.status_code == 200
            assert 'type="password"' in page.text
            assert "/accounts/login?next=/accounts/email_change/confirm/open" in page.text
            path = page.url.path if way == "page" else link
            for password, code in ((None, "required"), ("", "required"), (OTHER_PASSWORD, "password_incorrect")):
                data = {"button": ""} if password is None else {"password": password}
                if way == "JSON":
                    response = await here.send(path, data, client)
                    assert response.json()["errors"]["password"][0]["code"] == code
                else:
                    response = await here.post(path, client, **data)
                    assert 'aria-invalid="true"' in response.text
                    assert link.rpartition("/")[2] not in response.text
                assert response.status_code == 422
            assert (await reload(here, ann)).email == "ann@example.org"
            assert await here.mails() == []
            response = await here.post(path, client, password=PASSWORD)
            assert (response.status_code, response.headers["location"]) == (303, "/accounts/email_change/complete")
            assert (await reload(here, ann)).email == "new@example.net"
            assert await username_in(client) == ("eve" if "another user" in visitor else "")


async def test_a_login_in_another_browser_takes_the_place_of_the_password(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        async with here.browser() as phone:
            page = await phone.get(link, follow_redirects=True)
            (login_link,) = re.findall(r'href="(/accounts/login[?]next=[^"]+)"', page.text)
            response = await here.post(login_link, phone, username="ann", password=PASSWORD)
            page = await phone.get(response.headers["location"])
            assert (page.url.path, page.status_code) == ("/accounts/email_change/confirm/open", 200)
            assert 'type="password"' not in page.text
            assert (await here.post(page.url.path, phone)).status_code == 303
        assert (await reload(here, ann)).email == "new@example.net"


async def test_guesses_with_a_confirmation_link_count_as_those_of_a_login(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        async with here.browser() as stranger:
            guesses = [await here.post(link, stranger, password="guess") for _ in range(6)]
            assert [response.status_code for response in guesses] == [422] * 5 + [429]
            assert (await here.post("/accounts/login", stranger, username="ann", password="guess")).status_code == 429
        assert (await reload(here, ann)).email == "ann@example.org"
        assert (await here.post(link)).status_code == 303


async def test_the_password_for_a_confirmation_link_may_have_an_outdated_hash(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        outdated = await Passwords([PBKDF2PasswordHasher(iterations=1000)]).hash(PASSWORD)
        await here.auth.users.update(ann, password=outdated)
        data = {"user": str(ann.id), "joined": str(ann.date_joined), "email": "new@example.net"}
        binding = f"{outdated}\nann@example.org"
        token = await here.auth.tokens.create("email_change", f"user {ann.id}", max_age=60, binding=binding, data=data)
        response = await here.post(f"/accounts/email_change/confirm/{token}", password=PASSWORD)
        assert response.status_code == 303
        assert (await reload(here, ann)).email == "new@example.net"


async def test_a_confirmation_link_works_for_a_day(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        here.set_clock(DAY + 1)
        assert (await here.follow(link)).status_code == 404
        here.set_clock(DAY - 5)
        assert (await here.follow(link)).status_code == 303


async def test_one_of_fifty_concurrent_confirmations_succeeds(database: Database) -> None:
    async with site(database) as here:
        events: list[EmailChanged] = []
        here.auth.events.on(EmailChanged)(events.append)
        await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        answers = await all_of(*(here.post(link) for _ in range(50)))
        assert sorted(answer.status_code for answer in answers) == [303] + [404] * 49
        assert len(await here.mails()) == 2
        assert len(events) == 1


async def test_one_of_two_concurrent_changes_succeeds(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        links = []
        for email in ("b@example.net", "c@example.net"):
            await request_change(here, email)
            links.append(await here.link())
        assert await here.press_at_once(links * 5) == [303] + [404] * (len(links) * 5 - 1)
        mails = await here.mails()
        assert sorted(map(to, mails)) == sorted(["ann@example.org", (await reload(here, ann)).email])


async def test_only_the_owner_of_a_taken_address_is_notified(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await make_ann(here, "bob@example.org", "bob")
        await log_in(here, here.client)
        free, taken = await request_change(here, "free@example.org"), await request_change(here, "BOB@example.org")
        assert (free.status_code, free.content, free.headers) == (taken.status_code, taken.content, taken.headers)
        mails = {to(mail): mail for mail in await here.mails()}
        mail = mails["BOB@example.org"]
        assert mail["Subject"] == "A request to use your address at site.example"
        assert links_in(mail) == [f"{SITE}/accounts/login", SITE]
        assert "ann" not in plain_text(mail).lower()
        assert await here.tokens() == 1
        assert (await here.follow(links_in(mails["free@example.org"])[0])).status_code == 303
        assert (await reload(here, ann)).email == "free@example.org"


async def test_an_address_that_was_taken_before_the_confirmation_is_refused(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        await make_ann(here, "NEW@example.net", "bob")
        assert (await here.follow(link)).status_code == 404
        assert (await reload(here, ann)).email == "ann@example.org"


async def test_a_user_can_change_the_case_of_their_address(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await change_email(here, "Ann@example.org")
        assert (await reload(here, ann)).email == "Ann@example.org"


async def test_a_deleted_or_deactivated_account_cannot_change_its_address(database: Database) -> None:
    async with site(database, **QUICK) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        undo = await change_email(here, "b@example.net")
        await request_change(here, "c@example.net")
        link = await here.link()
        await here.auth.users.update(ann, is_active=False)
        for path in (link, undo):
            assert (await here.follow(path)).status_code == 404
            assert (await here.post(path)).status_code == 404
        await here.auth.users.delete(ann)
        for path in (link, undo):
            assert (await here.follow(path)).status_code == 404
            assert (await here.post(path)).status_code == 404
        assert await here.mails() == []


async def test_a_first_address_can_be_set_and_has_no_undo_link(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here, "")
        await log_in(here, here.client)
        assert "no address yet" in (await here.client.get("/accounts/email_change")).text
        await request_change(here, "ann@example.org")
        assert (await here.follow(await here.link())).status_code == 303
        assert (await reload(here, ann)).email == "ann@example.org"
        mail = await here.mail()
        assert to(mail) == "ann@example.org"
        assert "email_undo" not in plain_text(mail)
        assert "password_reset" in plain_text(mail)


async def test_a_failing_listener_rolls_back_the_change_and_sends_no_mail(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()

        def fail(event: EmailChanged) -> None:
            raise RuntimeError("the ledger is full")

        here.auth.events.on(EmailChanged)(fail)
        with pytest.raises(RuntimeError, match="ledger"):
            await here.post(link)
        assert (await reload(here, ann)).email == "ann@example.org"
        assert await here.mails() == []
        assert (await here.client.get(link)).status_code == 303


# Undoing the change


async def test_the_undo_link_restores_the_old_address_and_ends_all_sessions(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        events: list[object] = []
        here.auth.events.on(EmailChanged)(events.append)
        here.auth.events.on(SessionsEnded)(events.append)
        await log_in(here, here.client)
        async with here.browser() as other_browser, here.browser() as owner:
            await log_in(here, other_browser)
            undo = await change_email(here, "attacker@example.net")
            events.clear()
            page = await owner.get(undo)
            assert (page.status_code, page.headers["location"]) == (303, "/accounts/email_undo/confirm/open")
            assert (await owner.head(undo)).status_code == 303
            page = await owner.get(undo, follow_redirects=True)
            assert "<bdi>ann@example.org</bdi>" in page.text
            assert undo.rpartition("/")[2] not in page.text
            assert (await reload(here, ann)).email == "attacker@example.net"
            assert (await username_in(here.client), await username_in(other_browser)) == ("ann", "ann")
            response = await here.follow(undo, owner)
            assert (response.status_code, response.headers["location"]) == (303, "/accounts/email_undo/complete")
            assert "old address is back" in (await owner.get("/accounts/email_undo/complete")).text
            assert (await username_in(here.client), await username_in(other_browser), await username_in(owner)) == (
                "",
                "",
                "",
            )
            assert (await reload(here, ann)).email == "ann@example.org"
            assert [type(event).__name__ for event in events] == ["EmailChanged", "SessionsEnded"]
            changed = events[0]
            assert isinstance(changed, EmailChanged)
            assert (changed.old_email, changed.undone) == ("attacker@example.net", True)
            response = await here.post("/accounts/login", owner, username="ann", password=PASSWORD)
            assert response.status_code == 422
            mails = await here.mails()
            assert {to(mail) for mail in mails} == {"ann@example.org"}
            assert sorted(str(mail["Subject"]) for mail in mails) == [
                "Choose a new password for site.example",
                "You were logged out at site.example",
            ]
            await reset(here, reset_link(mails), OTHER_PASSWORD)
            await log_in(here, owner, password=OTHER_PASSWORD)
            assert (await here.follow(undo, owner)).status_code == 404
            assert (await here.post(undo, owner)).status_code == 404


async def test_one_of_fifty_concurrent_undo_requests_succeeds(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        undo = await change_email(here, "attacker@example.net")
        async with here.browser() as browser:
            answers = await all_of(*(here.post(undo, browser) for _ in range(50)))
        assert sorted(answer.status_code for answer in answers) == [303] + [404] * 49
        assert len(await here.mails()) == 2
        assert (await reload(here, ann)).email == "ann@example.org"


async def test_an_undo_link_works_for_a_week(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        await log_in(here, here.client)
        undo = await change_email(here, "new@example.net")
        here.set_clock(7 * DAY + 1)
        assert (await here.follow(undo)).status_code == 404
        here.set_clock(7 * DAY - 5)
        assert (await here.follow(undo)).status_code == 303


async def test_the_lifetimes_of_both_links_can_be_configured(database: Database) -> None:
    async with site(database, features=[EmailChange(max_age=60 * 60, undo_age=3 * DAY)]) as here:
        await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        mail = await here.mail()
        assert "within 1 hour" in plain_text(mail)
        await here.follow(links_in(mail)[0])
        undo_mail = next(mail for mail in await here.mails() if to(mail) == "ann@example.org")
        assert "within 3 days" in plain_text(undo_mail)
        here.set_clock(3 * DAY + 5)
        assert (await here.follow(links_in(undo_mail)[0])).status_code == 404


@pytest.mark.parametrize(
    "action",
    ["undo", "reset the password", "change the password", "change the address again", "request a change", "nothing"],
)
async def test_the_first_owner_can_always_undo_the_changes_of_an_attacker(database: Database, action: str) -> None:
    """An attacker who knows the password changes the address twice, and then tries to keep the account."""
    async with site(database, **QUICK) as here:
        ann = await make_ann(here)
        attacker = here.client
        await log_in(here, attacker)
        undo_a = await change_email(here, "b@example.net")
        undo_b = await change_email(here, "c@example.net")
        password, pending = PASSWORD, ""
        if action == "undo":
            assert (await here.follow(undo_b, attacker)).status_code == 303
            assert (await reload(here, ann)).email == "b@example.net"
            password = OTHER_PASSWORD
            await reset(here, reset_link(await here.mails()), password)
        elif action == "reset the password":
            await here.post("/accounts/password_reset", attacker, email="c@example.net")
            password = OTHER_PASSWORD
            await reset(here, reset_link(await here.mails()), password)
        elif action == "change the password":
            password = OTHER_PASSWORD
            data = {"old_password": PASSWORD, "new_password1": password, "new_password2": password}
            assert (await here.post("/accounts/password_change", attacker, **data)).status_code == 303
        elif action == "change the address again":
            for name in "defg":
                await change_email(here, f"{name}@example.net")
        elif action == "request a change":
            await request_change(here, "z@example.net")
            pending = await here.link()
        await here.post("/accounts/password_reset", attacker, email=(await reload(here, ann)).email)
        unused_reset_link = reset_link([mail for mail in await here.mails() if "Choose a new" in str(mail["Subject"])])
        async with here.browser() as owner:
            assert (await here.follow(undo_a, owner)).status_code == 303
            assert (await reload(here, ann)).email == "ann@example.org"
            # The sessions, links and passwords of the attacker do not work any more.
            assert await username_in(attacker) == ""
            for link in filter(None, (undo_b, undo_a, pending, unused_reset_link)):
                assert (await here.client.get(link)).status_code == 404
                assert (await here.post(link)).status_code == 404
            for known_password in {PASSWORD, password}:
                response = await here.post("/accounts/login", attacker, username="ann", password=known_password)
                assert response.status_code == 422
            await reset(here, reset_link(await here.mails()), "seven green lamps on a hill")
            await log_in(here, owner, password="seven green lamps on a hill")
            assert await username_in(owner) == "ann"


async def test_two_changes_can_be_undone_one_after_the_other(database: Database) -> None:
    async with site(database, **QUICK) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        undo_a = await change_email(here, "b@example.net")
        undo_b = await change_email(here, "c@example.net")
        assert (await here.follow(undo_b)).status_code == 303
        assert (await reload(here, ann)).email == "b@example.net"
        assert (await here.follow(undo_a)).status_code == 303
        assert (await reload(here, ann)).email == "ann@example.org"


async def test_a_link_works_only_for_its_own_purpose(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        for path in (link.replace("email_change", "email_undo"), link.replace("email_change", "register")):
            assert (await here.post(path)).status_code == 404
        await here.follow(link)
        links = [link for mail in await here.mails() for link in links_in(mail)]
        (undo_link,) = [link for link in links if "email_undo" in link]
        assert (await here.post(undo_link.replace("email_undo", "email_change"))).status_code == 404


async def test_confirmations_from_other_sites_are_refused(database: Database) -> None:
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        await here.client.get(link)
        foreign_origin = {"origin": "https://evil.example"}
        for path in ("/accounts/email_change/confirm/open", link):
            assert (await here.client.post(path, data={"x": "y"}, headers=foreign_origin)).status_code == 403
        await here.follow(link)
        (undo,) = [link for mail in await here.mails() for link in links_in(mail) if "undo" in link]
        assert (await here.client.post(undo, data={"x": "y"}, headers=foreign_origin)).status_code == 403
        assert (await reload(here, ann)).email == "new@example.net"


async def test_links_work_behind_login_required_middleware(database: Database) -> None:
    async with site(database) as here:
        await make_ann(here)
        await log_in(here, here.client)
        await request_change(here, "new@example.net")
        link = await here.link()
        stack = [*middleware(here.auth), Middleware(LoginRequiredMiddleware)]
        app = Starlette(routes=[Mount("/accounts", routes=routes(here.auth))], middleware=stack)
        async with client_of(app, base_url=SITE) as visitor:
            assert (await here.follow(link, visitor)).status_code == 303
            (undo,) = [link for mail in await here.mails() for link in links_in(mail) if "undo" in link]
            assert (await here.follow(undo, visitor)).status_code == 303
            for path in ("email_change/done", "email_change/complete", "email_undo/complete"):
                page = await visitor.get(f"/accounts/{path}")
                assert page.status_code == 200
                assert not re.search(r"@example\.(org|net)", page.text)


async def test_a_new_account_with_a_reused_id_does_not_inherit_links(database: Database) -> None:
    """SQLite reuses the id of a deleted last row for the next row, unless the table uses AUTOINCREMENT."""
    member = sa.Table("member", sa.MetaData(), *user_columns())
    async with site(database, tables=Tables(user=member)) as here:
        mallory = await make_ann(here, "mallory@example.net", "mallory")
        await log_in(here, here.client, "mallory")
        undo = await change_email(here, "another@example.net")
        await here.auth.users.delete(mallory)
        ann = await make_ann(here)
        assert (await here.follow(undo)).status_code == 404
        assert (await here.post(undo)).status_code == 404
        assert (await reload(here, ann)).email == "ann@example.org"


async def test_a_username_that_is_the_address_changes_with_it(database: Database) -> None:
    """The next owner of the old address can then register with it."""
    features = [Registration(fields=["email"]), EmailChange()]
    async with site(database, features=features, login_fields=("email",)) as here:
        ann = await make_ann(here, "ann@example.org", "ann@example.org")
        await log_in(here, here.client, "ann@example.org")
        undo = await change_email(here, "new@example.org")
        changed = await reload(here, ann)
        assert (changed.username, changed.email) == ("new@example.org", "new@example.org")
        await here.follow(undo)
        assert (await reload(here, ann)).username == "ann@example.org"


async def test_an_address_that_is_too_long_for_a_username_can_be_chosen(database: Database) -> None:
    address = f"ann@{'a' * 60}.{'b' * 60}.{'c' * 60}.example"
    async with site(database, features=[EmailChange()], login_fields=("email",)) as here:
        ann = await make_ann(here, "ann@example.org", "ann@example.org")
        await log_in(here, here.client, "ann@example.org")
        undo = await change_email(here, address)
        changed = await reload(here, ann)
        assert (changed.username, changed.email) == ("ann@example.org", address)
        await here.follow(undo)
        assert (await reload(here, ann)).email == "ann@example.org"


# Logins with the address


BY_EMAIL: dict[str, Any] = {"login_fields": ("email",)}


async def login_status(here: Site, email: str, password: str = PASSWORD) -> int:
    async with here.browser() as browser:
        return (await here.post("/accounts/login", browser, username=email, password=password)).status_code


async def test_an_undo_to_an_address_that_somebody_has_taken_changes_nothing(database: Database) -> None:
    async with site(database, **BY_EMAIL, **QUICK) as here:
        ann = await make_ann(here)
        await log_in(here, here.client, "ann@example.org")
        undo = await change_email(here, "new@example.org")
        other = await here.auth.users.create_user("other", "ANN@example.org", OTHER_PASSWORD)
        async with here.browser() as browser:
            page = await here.follow(undo, browser)
            assert page.status_code == 422
            assert "Another account has this address now, so nothing was changed." in page.text
            answer = await here.send("/accounts/email_undo/confirm/open", {}, browser)
            assert answer.status_code == 422
            assert answer.json()["errors"]["__all__"][0]["code"] == "unique"
            assert await here.mails() == []
            assert (await reload(here, ann)).email == "new@example.org"
            assert await username_in(here.client) == "ann"
            assert await login_status(here, "new@example.org") == 303
            assert await login_status(here, "ann@example.org", OTHER_PASSWORD) == 303
            await here.mails()
            # What the page recommends
            await here.auth.users.update(other, email="other@example.org")
            assert (await here.follow(undo, browser)).status_code == 303
            assert (await reload(here, ann)).email == "ann@example.org"
            await reset(here, reset_link(await here.mails()), OTHER_PASSWORD + "s")
        assert await login_status(here, "ann@example.org", OTHER_PASSWORD + "s") == 303
        assert await login_status(here, "other@example.org", OTHER_PASSWORD) == 303


async def test_of_an_undo_and_concurrent_new_accounts_one_gets_the_address(database: Database) -> None:
    async with site(database, **BY_EMAIL, **QUICK) as here:
        await make_ann(here)
        await log_in(here, here.client, "ann@example.org")
        undo = await change_email(here, "new@example.org")

        async def create(number: int) -> int:
            try:
                await here.auth.users.create_user(f"other{number}", "Ann@example.org")
            except AlreadyExists:
                return 409
            return 201

        async with here.browser() as browser:
            answer, *created = await all_of(here.post(undo, browser), *(create(number) for number in range(5)))
        assert sorted([answer.status_code, *created]) in ([303] + [409] * 5, [201] + [409] * 4 + [422])
        assert len(await here.auth.users.list_by_email("ann@example.org")) == 1


async def test_of_a_confirmed_change_and_concurrent_new_accounts_one_gets_the_address(database: Database) -> None:
    async with site(database, **BY_EMAIL, **QUICK) as here:
        ann = await make_ann(here)
        await log_in(here, here.client, "ann@example.org")
        await request_change(here, "new@example.org")
        link = await here.link()

        async def create(number: int) -> int:
            try:
                await here.auth.users.create_user(f"other{number}", "NEW@example.org")
            except AlreadyExists:
                return 409
            return 201

        answer, *created = await all_of(here.post(link), *(create(number) for number in range(5)))
        assert sorted([answer.status_code, *created]) in ([303] + [409] * 5, [201, 404] + [409] * 4)
        assert len(await here.auth.users.list_by_email("new@example.org")) == 1
        email = "new@example.org" if answer.status_code == 303 else "ann@example.org"
        assert (await reload(here, ann)).email == email
        assert await login_status(here, email) == 303


async def test_with_logins_by_username_an_undo_does_not_depend_on_other_accounts(database: Database) -> None:
    """An attacker who creates an account with the old address must not prevent the undo."""
    async with site(database) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        undo = await change_email(here, "attacker@example.net")
        await here.auth.users.create_user("attacker", "ann@example.org")
        assert (await here.follow(undo)).status_code == 303
        assert (await reload(here, ann)).email == "ann@example.org"
