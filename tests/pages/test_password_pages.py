"""The pages that change and reset a password: forms, mails, and what an attacker can learn from them."""

import contextlib
import json
import logging
import re
import statistics
import time
from collections.abc import AsyncIterator, Callable
from email.message import EmailMessage
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    ImproperlyConfigured,
    LoginFailed,
    PasswordChanged,
    PasswordResetTokens,
    Passwords,
    User,
    UserLoggedIn,
    well_known,
)
from starlette_auth.core.templating import ASSETS
from starlette_auth.core.translation import Languages, format_duration
from starlette_auth.mail.messages import plain_text
from starlette_auth.security.reset_tokens import encode_uid
from starlette_auth.testing import CollectingMailer, log_in

from ..conftest import PASSWORD, SECRET_KEY, all_of, client_of, installed, post_login, token_in, with_tables
from ..support.apps import make_app

pytestmark = with_tables

SITE = "https://site.example"
NEW = "an entirely new passphrase"
SAME_ORIGIN = {"sec-fetch-site": "same-origin"}
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
CHANGE = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
RESET = {"new_password1": NEW, "new_password2": NEW}
JSON = {"content-type": "application/json"}
Languages(["en", "de"])  # reads the catalogs before an event loop exists that file access would block


@pytest.fixture
async def auth(database: Database) -> AsyncIterator[Auth]:
    """Replaces the common fixture by a site that sends mails."""
    async with site(database) as auth:
        yield auth


@contextlib.asynccontextmanager
async def site(database: Database, **options: Any) -> AsyncIterator[Auth]:
    async with installed(database, **{"mailer": CollectingMailer(), "base_url": SITE, **options}) as auth:
        yield auth


@pytest.fixture
async def client(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    """A browser of an anonymous visitor."""
    async with browser(auth) as client:
        yield client


def browser(auth: Auth, **options: Any) -> httpx.AsyncClient:
    return client_of(
        make_app(auth), headers={**SAME_ORIGIN, "user-agent": FIREFOX, **options.pop("headers", {})}, **options
    )


async def mails(auth: Auth) -> list[EmailMessage]:
    """Returns all mails so far, after sending the queued ones."""
    await auth.mail_queue.drain()
    assert isinstance(auth.mail_queue.mailer, CollectingMailer)
    return auth.mail_queue.mailer.messages


async def link_of(auth: Auth, user: User) -> str:
    """Returns a link to reset the password, as in a mail."""
    return f"/accounts/reset/{encode_uid(user)}/{await auth.reset_tokens.make(user)}"


async def reload(auth: Auth, user: User) -> User:
    reloaded = await auth.users.get(user.id)
    assert isinstance(reloaded, User)
    return reloaded


async def has_password(auth: Auth, user: User, password: str) -> bool:
    return await auth.users.check_password(await reload(auth, user), password)


async def rows(auth: Auth, table: sa.Table) -> list[dict[str, Any]]:
    return await auth.gateway.fetch_all(sa.select(*table.columns))


def codes(response: httpx.Response) -> dict[str, list[str]]:
    """Returns the error codes of a problem (RFC 9457) by field name."""
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["type"] == "about:blank"
    assert problem["status"] == response.status_code
    assert problem["title"]
    assert problem["detail"]
    return {name: [error["code"] for error in errors] for name, errors in problem.get("errors", {}).items()}


# Changing the password


async def test_changing_a_password_needs_a_login(client: httpx.AsyncClient) -> None:
    page = await client.get("/accounts/password_change")
    assert page.status_code == 303
    assert page.headers["location"] == "/accounts/login?next=%2Faccounts%2Fpassword_change"
    sent = await client.post("/accounts/password_change", data=CHANGE)
    assert (sent.status_code, sent.headers["location"]) == (303, "/accounts/login?next=%2Faccounts%2Fpassword_change")
    done = await client.get("/accounts/password_change/done")
    assert done.headers["location"].startswith("/accounts/login")


async def test_a_json_client_without_login_gets_401(client: httpx.AsyncClient) -> None:
    sent = await client.post("/accounts/password_change", json=CHANGE)
    assert sent.status_code == 401
    assert codes(sent) == {}


async def test_the_form_changes_the_password(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    await post_login(client)
    page = await client.get("/accounts/password_change")
    assert page.status_code == 200
    assert 'value="ann" autocomplete="username"' in page.text
    data = {**CHANGE, "csrfmiddlewaretoken": token_in(page.text)}
    sent = await client.post("/accounts/password_change", data=data)
    assert (sent.status_code, sent.headers["location"]) == (303, "/accounts/password_change/done")
    assert "has been changed" in (await client.get("/accounts/password_change/done")).text
    assert await has_password(auth, ann, NEW)
    assert not await has_password(auth, ann, PASSWORD)


async def test_this_session_continues_under_a_new_key_and_all_others_end(auth: Auth, client: httpx.AsyncClient) -> None:
    async with browser(auth) as other_browser:
        await post_login(client)
        await post_login(other_browser)
        await client.get("/remember?cart=full")
        before = client.cookies["session"]
        await client.post("/accounts/password_change", data=CHANGE)
        assert client.cookies["session"] != before
        assert (await client.get("/whoami")).json()["session"] == {"cart": "full"}
        assert (await client.get("/members")).text == "members"
        assert (await other_browser.get("/whoami")).json()["username"] == ""
        other_browser.cookies.set("session", before)
        assert (await other_browser.get("/whoami")).json()["username"] == ""


async def test_the_user_gets_a_notice_of_a_password_change(auth: Auth, client: httpx.AsyncClient) -> None:
    await post_login(client)
    await client.post("/accounts/password_change", data=CHANGE)
    (mail,) = await mails(auth)
    assert str(mail["To"]) == "ann@example.org"
    assert mail["Subject"] == "Your password at site.example was changed"
    text = plain_text(mail)
    assert "Firefox on Linux" in text
    assert "192.0.2.1" in text
    assert f"{SITE}/accounts/password_reset\n" in text
    assert NEW not in str(mail)
    assert PASSWORD not in str(mail)


async def test_no_notice_is_sent_if_notices_are_off(database: Database) -> None:
    async with site(database, notices=False) as auth, browser(auth) as client:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await post_login(client)
        assert (await client.post("/accounts/password_change", data=CHANGE)).status_code == 303
        assert await mails(auth) == []


async def test_a_user_without_an_address_can_change_the_password(auth: Auth, client: httpx.AsyncClient) -> None:
    await auth.users.create_user("bob", password=PASSWORD)
    await post_login(client, "bob")
    assert (await client.post("/accounts/password_change", data=CHANGE)).status_code == 303
    assert await mails(auth) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"old_password": "wrong"}, {"old_password": ["password_incorrect"]}),
        ({"old_password": f" {PASSWORD}"}, {"old_password": ["password_incorrect"]}),
        ({"old_password": ""}, {"old_password": ["required"]}),
        ({"old_password": "a\x00b"}, {"old_password": ["null_characters_not_allowed"]}),
        ({"old_password": "\ud800"}, {"old_password": ["invalid"]}),
        ({"new_password1": ""}, {"new_password1": ["required"]}),
        ({"new_password2": ""}, {"new_password2": ["required"]}),
        ({"new_password2": NEW.upper()}, {"new_password2": ["password_mismatch"]}),
        (dict.fromkeys(RESET, "quaint Zebra"), {"new_password1": ["password_too_short"]}),
        (dict.fromkeys(RESET, "x" * 1025), {"new_password1": ["password_too_long"]}),
        (dict.fromkeys(RESET, "ann@example.org"), {"new_password1": ["password_too_similar"]}),
        (dict.fromkeys(RESET, "passwordpassword"), {"new_password1": ["password_too_common"]}),
        (dict.fromkeys(RESET, " " * 15), {"new_password1": ["password_too_common"]}),
        (dict.fromkeys(RESET, "\u3164\u200b\u2800" * 5), {"new_password1": ["password_too_common"]}),
        (dict.fromkeys(RESET, "mypasswordispassword"), {"new_password1": ["password_too_common"]}),
        (dict.fromkeys(RESET, "p4$$w0rdp4$$w0rd"), {"new_password1": ["password_too_common"]}),
        (dict.fromkeys(RESET, "\ud800" * 20), {"new_password1": ["invalid"], "new_password2": ["invalid"]}),
        (
            {"old_password": "wrong", "new_password2": "other"},
            {"old_password": ["password_incorrect"], "new_password2": ["password_mismatch"]},
        ),
        (dict.fromkeys(CHANGE, ""), {name: ["required"] for name in CHANGE}),
    ],
)
async def test_errors_have_the_codes_of_django(
    auth: Auth, ann: User, client: httpx.AsyncClient, changed: dict[str, str], expected: dict[str, list[str]]
) -> None:
    await log_in(client, ann, auth)
    sent = await client.post("/accounts/password_change", content=ascii_json({**CHANGE, **changed}), headers=JSON)
    assert sent.status_code == 422
    assert codes(sent) == expected
    assert await has_password(auth, ann, PASSWORD)
    assert await mails(auth) == []


def ascii_json(fields: dict[str, Any]) -> bytes:
    """Returns JSON that may contain lone surrogates, which httpx itself cannot send."""
    return json.dumps(fields).encode()


async def test_the_page_shows_errors_but_no_passwords(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    await log_in(client, ann, auth)
    page = await client.post("/accounts/password_change", data={**CHANGE, "old_password": "my old and wrong one"})
    assert page.status_code == 422
    assert "Your old password was entered incorrectly" in page.text
    assert "<title>Error: " in page.text
    assert "my old and wrong one" not in page.text
    assert NEW not in page.text


async def test_a_json_client_gets_the_next_url(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    await log_in(client, ann, auth)
    sent = await client.post("/accounts/password_change", json=CHANGE)
    assert (sent.status_code, sent.json()) == (200, {"next": "/accounts/password_change/done"})
    assert "location" not in sent.headers
    assert (await client.get("/members")).text == "members"


async def test_guesses_of_the_old_password_are_throttled(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    ann_browser = browser(auth)
    assert (await post_login(ann_browser)).status_code == 303
    assert "device" in ann_browser.cookies
    await log_in(client, ann, auth)  # an attacker with a stolen session, in a browser that ann never used
    wrong = {**CHANGE, "old_password": "wrong"}
    statuses = [(await client.post("/accounts/password_change", data=wrong)).status_code for _ in range(6)]
    assert statuses == [422] * 5 + [429]
    page = await client.post("/accounts/password_change", data=CHANGE)
    assert page.status_code == 429
    assert page.headers["retry-after"] == "1"
    assert page.headers["cache-control"] == "no-store"
    assert "Too many attempts. Please try again in 1 second." in page.text
    problem = await client.post("/accounts/password_change", json=CHANGE)
    assert (problem.status_code, codes(problem)) == (429, {})
    assert problem.headers["retry-after"] == "1"
    assert await has_password(auth, ann, PASSWORD)
    # In her own browser the owner can log in and change the password without waiting.
    assert (await ann_browser.post("/accounts/password_change", data=CHANGE)).status_code == 303
    await ann_browser.aclose()


async def test_loading_the_form_neither_counts_nor_changes_anything(
    auth: Auth, ann: User, client: httpx.AsyncClient
) -> None:
    await log_in(client, ann, auth)
    for _ in range(8):
        page, head = await all_of(client.get("/accounts/password_change"), client.head("/accounts/password_change"))
        assert (page.status_code, head.status_code) == (200, 200)
        assert head.text == ""
    assert await rows(auth, auth.tables.throttle) == []
    assert (await client.put("/accounts/password_change")).status_code == 405


async def test_an_unusable_password_is_not_accepted_as_the_old_one(auth: Auth, client: httpx.AsyncClient) -> None:
    keyless = await auth.users.create_user("keyless", "keyless@example.org")
    await log_in(client, keyless, auth)
    sent = await client.post("/accounts/password_change", json={**CHANGE, "old_password": keyless.password})
    assert (sent.status_code, sent.json()["code"]) == (409, "no_password")
    assert sent.json()["password_set"] == "/accounts/password_set"
    assert not await has_password(auth, keyless, CHANGE["new_password1"])


async def test_a_cross_site_request_changes_no_password(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    await log_in(client, ann, auth)
    for headers in ({"sec-fetch-site": "cross-site"}, {"sec-fetch-site": "same-site"}):
        assert (await client.post("/accounts/password_change", data=CHANGE, headers=headers)).status_code == 403
        assert (await client.post("/accounts/password_reset", data=CHANGE, headers=headers)).status_code == 403
    assert await has_password(auth, ann, PASSWORD)


async def test_pages_are_in_german_if_the_browser_prefers_it(database: Database) -> None:
    async with site(database, languages=["en", "de"]) as auth, browser(auth) as client:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await log_in(client, ann, auth)
        client.headers["accept-language"] = "de-CH, fr;q=0.8"
        page = await client.post("/accounts/password_change", data={**CHANGE, "old_password": "wrong"})
        assert '<html lang="de"' in page.text
        assert "Das alte Passwort ist falsch." in page.text
        assert page.headers["vary"] == "Accept-Language, Cookie"
        problem = await client.post("/accounts/password_change", json={**CHANGE, "new_password2": "x"})
        errors = problem.json()["errors"]
        assert errors["new_password2"][0]["message"] == "Die beiden Passwörter stimmen nicht überein."
        assert problem.json()["detail"] == "Diese Angaben können nicht angenommen werden."
        await client.post("/accounts/password_change", data=CHANGE)
        (notice,) = await mails(auth)
        assert notice["Content-Language"] == "de"
        page = await client.get("/accounts/password_change", headers={"accept-language": "fr"})
        assert '<html lang="en"' in page.text
        for _ in range(6):
            page = await client.post("/accounts/password_change", data={**CHANGE, "old_password": "wrong"})
        assert "Zu viele Versuche." in page.text


# Requesting a reset mail


ACCOUNTS = ["ann@example.org", "unknown@example.org", "inactive@example.org", "keyless@example.org", "x@localhost"]


@pytest.fixture
async def accounts(auth: Auth, ann: User) -> None:
    await auth.users.create_user("inactive", "inactive@example.org", PASSWORD, is_active=False)
    await auth.users.create_user("keyless", "keyless@example.org")
    await auth.users.create_user("reclusive", "", PASSWORD)


@pytest.mark.usefixtures("accounts")
async def test_the_response_is_the_same_for_every_address(auth: Auth) -> None:
    responses = set()
    for email in ACCOUNTS:
        for send in ({"data": {"email": email}}, {"json": {"email": email}}):
            async with browser(auth) as client:
                page = await client.get("/accounts/password_reset")
                answer = await client.post("/accounts/password_reset", **send)  # type: ignore[arg-type]
                done = await client.get("/accounts/password_reset/done")
                form = re.sub(r'value="[^"]{86}"', "", page.text)
                response = (answer.status_code, answer.content, tuple(answer.headers.items()), "json" in send)
                responses.add((*response, done.content, tuple(done.headers.items()), form, tuple(client.cookies)))
    assert len(responses) == 2  # one for forms, one for JSON
    assert [str(mail["To"]) for mail in await mails(auth)] == ["ann@example.org"]


@pytest.mark.usefixtures("accounts")
async def test_an_empty_or_too_long_address_is_an_error(auth: Auth, client: httpx.AsyncClient) -> None:
    sent = await client.post("/accounts/password_reset", json={"email": " "})
    assert (sent.status_code, codes(sent)) == (422, {"email": ["required"]})
    sent = await client.post("/accounts/password_reset", json={"email": "x" * 255})
    assert (sent.status_code, codes(sent)) == (422, {"email": ["max_length"]})
    assert await mails(auth) == []


async def test_a_reset_link_sets_a_new_password(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    await auth.users.update(ann, last_login=ann.date_joined)
    page = await client.get("/accounts/password_reset")
    data = {"email": "ANN@Example.ORG", "csrfmiddlewaretoken": token_in(page.text)}
    page = await client.post("/accounts/password_reset", data=data, follow_redirects=True)
    assert "on its way" in page.text
    (mail,) = await mails(auth)
    assert mail["Subject"] == "Choose a new password for site.example"
    assert "within 30 minutes" in plain_text(mail)
    (link,) = [link for link in auth.mail_queue.mailer.links() if "/reset/" in link]  # type: ignore[union-attr]
    assert link.startswith(f"{SITE}/accounts/reset/{encode_uid(ann)}/")
    moved = await client.get(link.removeprefix(SITE))
    assert (moved.status_code, moved.headers["location"]) == (303, f"/accounts/reset/{encode_uid(ann)}/set-password")
    page = await client.get(moved.headers["location"])
    assert page.status_code == 200
    assert 'value="ann" autocomplete="username"' in page.text
    data = {**RESET, "csrfmiddlewaretoken": token_in(page.text)}
    page = await client.post(moved.headers["location"], data=data, follow_redirects=True)
    assert page.url.path == "/accounts/reset/done"
    assert await has_password(auth, ann, NEW)
    assert (await client.get("/whoami")).json()["username"] == ""
    notice = (await mails(auth))[-1]
    assert notice["Subject"] == "Your password at site.example was reset"
    assert "Firefox on Linux" in plain_text(notice)
    assert NEW not in str(notice)
    # The secret was removed from the session, and with it the session, which was otherwise empty.
    assert "session" not in client.cookies
    assert (await client.get(moved.headers["location"])).status_code == 404


# Characters that look like others, or that Python, Unicode or a collation of MariaDB treats as equal to others.
@pytest.mark.parametrize(
    "address",
    [
        "\u212aate@example.org",
        "ｋate@example.org",
        "kat\u00e9@example.org",
        "kate@ex\u0430mple.org",
        "kate@example.org\u200b",
        "kate@exam\u00adple.org",
        "kate@\u212axample.org",
        "kate@example.org\x00",
        "kate@example.org,eve@evil.example",
        "kate@example.org\nBcc: eve@evil.example",
        "kate%40example.org",
        "<kate@example.org>",
        '"kate"@example.org',
        "KATE@EXAMPLE.OR\u0261",
    ],
)
async def test_a_look_alike_address_gets_no_mail(auth: Auth, client: httpx.AsyncClient, address: str) -> None:
    await auth.users.create_user("kate", "kate@example.org", PASSWORD)
    sent = await client.post("/accounts/password_reset", content=ascii_json({"email": address}), headers=JSON)
    assert sent.status_code in (200, 422)
    assert await mails(auth) == []
    # Requests with look-alike addresses do not use up her rate limit.
    await client.post("/accounts/password_reset", data={"email": "kate@example.org"})
    assert [str(mail["To"]) for mail in await mails(auth)] == ["kate@example.org"]


@pytest.mark.parametrize("address", ["KATE@EXAMPLE.ORG", "kate@example.org", " Kate@Example.org\t"])
async def test_the_mail_goes_to_the_stored_address(auth: Auth, client: httpx.AsyncClient, address: str) -> None:
    await auth.users.create_user("kate", "Kate@example.org", PASSWORD)
    await client.post("/accounts/password_reset", data={"email": address})
    assert [str(mail["To"]) for mail in await mails(auth)] == ["Kate@example.org"]


async def test_a_stored_look_alike_address_gets_no_mail(auth: Auth, client: httpx.AsyncClient) -> None:
    await auth.users.create_user("eve", "\u212aate@example.org", PASSWORD)
    await auth.users.create_user("kate", "kate@example.org", PASSWORD)
    await client.post("/accounts/password_reset", data={"email": "kate@example.org"})
    (mail,) = await mails(auth)
    assert str(mail["To"]) == "kate@example.org"
    assert "Your username: kate" in plain_text(mail)


async def test_each_account_of_an_address_gets_a_mail(auth: Auth, client: httpx.AsyncClient) -> None:
    for name, email in (("anna", "ANN@example.org"), ("anne", "ann@example.org"), ("other", "other@example.org")):
        await auth.users.create_user(name, email, PASSWORD)
    await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
    names = sorted(re.findall("Your username: (.*)", "\n".join(plain_text(mail) for mail in await mails(auth))))
    assert names == ["ann", "anna", "anne"]
    assert len({*auth.mail_queue.mailer.links()} - {SITE}) == 3  # type: ignore[union-attr]


async def test_an_account_gets_one_mail_in_five_minutes(auth: Auth, client: httpx.AsyncClient) -> None:
    await auth.users.create_user("bob", "bob@example.org", PASSWORD)
    for email in ("ann@example.org", "ANN@example.org", "ann@EXAMPLE.org", "bob@example.org", " ann@example.org "):
        assert (await client.post("/accounts/password_reset", data={"email": email})).status_code == 303
    assert sorted(str(mail["To"]) for mail in await mails(auth)) == ["ann@example.org", "bob@example.org"]
    assert len(await rows(auth, auth.tables.token)) == 2


async def test_requests_of_one_client_are_rate_limited(auth: Auth, client: httpx.AsyncClient) -> None:
    emails = [f"{number}@example.org" for number in range(21)]
    statuses = [(await client.post("/accounts/password_reset", data={"email": email})).status_code for email in emails]
    assert statuses == [303] * 20 + [429]


HOSTS = [
    b"evil.example",
    b"evil.example:443",
    b"site.example.evil.example",
    b"site.example@evil.example",
    b"evil.example#site.example",
    b"evil.example/site.example",
    b"evil.example?site.example",
    b"evil.example\\site.example",
    b"site.example, evil.example",
    b"site.example evil.example",
    b"site.example\tevil.example",
    b"EVIL.EXAMPLE",
    b"evil.example.",
    b"[::1]",
    b"[::1",
    b"127.0.0.1:80@evil.example",
    b"xn--evl-vma.example",
    b"\xe9vil.example",
    b'"><a href=//evil.example>',
    b"{{ evil.example }}",
    b"%65vil.example",
    b"",
]
HOST_HEADERS = [
    *("host", "x-forwarded-host", "x-host", "x-original-host", "x-forwarded-server", "x-http-host-override"),
    *("forwarded", "x-forwarded-prefix", "x-original-url", "x-rewrite-url", "x-forwarded-proto", "origin", "referer"),
]


async def test_links_use_base_url_whatever_the_request_headers_say(database: Database) -> None:
    async with site(database, throttling=False) as auth, browser(auth) as client:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        for header in HOST_HEADERS:
            for host in HOSTS if header in ("host", "x-forwarded-host") else [b"evil.example"]:
                value = b"host=" + host + b";proto=http" if header == "forwarded" else host
                headers: list[tuple[bytes, bytes]] = [(header.encode(), value)]
                await client.post("/accounts/password_reset", data={"email": ann.email}, headers=headers)
        messages = await mails(auth)
        assert len(messages) > 2 * len(HOSTS)
        for mail in messages:
            assert not re.search("(?i)evil|vil.example|127.0.0.1|::1", str(mail))
            links = re.findall(r"https?://[^\s<>\"]+", plain_text(mail))
            assert links[0].startswith(f"{SITE}/accounts/reset/")
            assert links[1:] == [SITE]


async def test_links_contain_the_root_path(auth: Auth, ann: User) -> None:
    transport = httpx.ASGITransport(make_app(auth), client=("192.0.2.1", 5000), root_path="/shop")
    async with httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=SAME_ORIGIN) as client:
        await client.post("/shop/accounts/password_reset", data={"email": ann.email})
        await mails(auth)
        link = auth.mail_queue.mailer.links()[0]  # type: ignore[union-attr]
        assert link.startswith(f"{SITE}/shop/accounts/reset/")
        moved = await client.get(link.removeprefix(SITE))
        assert moved.headers["location"].startswith("/shop/accounts/reset/")
        assert (await client.get(moved.headers["location"])).status_code == 200


async def test_a_site_without_mailer_or_base_url_raises_an_error(database: Database) -> None:
    for options in ({"mailer": None}, {"base_url": None}):
        async with site(database, **options) as auth, browser(auth) as client:
            with pytest.raises(ImproperlyConfigured, match=r"Pass Auth\(mailer=SMTPMailer"):
                await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
            assert "password_reset" not in (await client.get("/accounts/login")).text


@pytest.mark.parametrize(
    "base_url",
    [
        *("", "site.example", "//site.example", "ftp://site.example", "https://", "https://site.example/shop"),
        *("https://ann@site.example", "https://ann:pw@site.example", "javascript:alert(1)", "https://[::1"),
        *("https://site.example?x", "https://site.example#x", "https://site.example\\evil", "https://site example"),
    ],
)
async def test_base_url_must_be_a_scheme_and_a_host(base_url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r'Pass base_url="https://shop.example", without a path'):
        Auth(Database("sqlite+aiosqlite:///x.sqlite3"), secret_key=SECRET_KEY, base_url=base_url)


class FailingMailer:
    """A mailer whose server quotes the rejected mail."""

    async def send(self, message: EmailMessage) -> None:
        raise OSError(f"550 refused: {plain_text(message)}")


async def test_a_failed_mail_changes_no_response_and_its_log_has_no_link(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with site(database, mailer=FailingMailer()) as auth, browser(auth) as client:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        answers = [
            await client.post("/accounts/password_reset", data={"email": email})
            for email in ("ann@example.org", "unknown@example.org")
        ]
        await auth.mail_queue.drain()
        assert {(answer.status_code, answer.headers["location"]) for answer in answers} == {
            (303, "/accounts/password_reset/done")
        }
        errors = [record.getMessage() for record in caplog.records if record.name == "starlette_auth"]
        assert len(errors) == 1
        assert "A mail could not be sent: OSError: 550 refused" in errors[0]
        assert "/reset/" not in errors[0]


async def test_an_invalid_stored_address_does_not_stop_a_password_change(
    auth: Auth, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program stored the address. The form rejects it, but a notice would go there."""
    await auth.users.create_user("odd", "ann@example.org,eve@evil.example", PASSWORD)
    sent = await client.post("/accounts/password_reset", data={"email": "ann@example.org,eve@evil.example"})
    assert sent.status_code == 422
    await post_login(client, "odd")
    assert (await client.post("/accounts/password_change", data=CHANGE)).status_code == 303
    assert await mails(auth) == []
    assert "A mail could not be composed" in caplog.text
    assert "evil" not in caplog.text


# Opening the link


async def test_opening_a_link_does_not_use_it_up(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    link = await link_of(auth, ann)
    for _ in range(3):
        assert (await client.head(link)).status_code == 303
        async with browser(auth, headers={"user-agent": "a mail scanner"}) as scanner:
            assert (await scanner.get(link, follow_redirects=True)).status_code == 200
            assert (await scanner.head(link, follow_redirects=True)).status_code == 200
    page = await client.get(link, follow_redirects=True)
    assert (await client.post(page.url, data=RESET)).status_code == 303
    assert await has_password(auth, ann, NEW)


async def test_the_form_can_be_submitted_again_after_an_error(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    page = await client.get(await link_of(auth, ann), follow_redirects=True)
    for data, message in (
        ({"new_password1": "short", "new_password2": "short"}, "too short"),
        ({"new_password1": NEW, "new_password2": "other"}, "didn’t match"),
        ({"new_password1": "ann@example.org", "new_password2": "ann@example.org"}, "too similar"),
    ):
        failed = await client.post(page.url, data=data)
        assert failed.status_code == 422
        assert message in failed.text
    assert (await client.post(page.url, data=RESET)).status_code == 303


async def test_the_secret_is_in_no_page_no_header_and_no_log(
    auth: Auth, ann: User, client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
    await mails(auth)
    link = auth.mail_queue.mailer.links()[0].removeprefix(SITE)  # type: ignore[union-attr]
    secret = link.rpartition("/")[2]
    moved = await client.get(link)
    page = await client.get(moved.headers["location"])
    failed = await client.post(page.url, data={**RESET, "new_password2": "other"})
    done = await client.post(page.url, data=RESET)
    for answer in (moved, page, failed, done):
        assert secret not in answer.text
        assert secret not in str(answer.headers)
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["cache-control"] == "no-store"
    # The HTTP client of this test logs URLs too; its records do not count.
    logged = [record for record in caplog.records if record.name.split(".")[0] not in ("httpx", "httpcore")]
    assert {record.name for record in logged} <= {
        "starlette_auth",
        "starlette_auth.security",
        "databases",
        "aiosqlite",
        "asyncio",
        "python_multipart",
        "python_multipart.multipart",
    }
    for record in logged:
        assert secret not in record.getMessage()
        assert NEW not in record.getMessage()


async def test_the_database_does_not_contain_the_secret(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    link = await link_of(auth, ann)
    await client.get(link, follow_redirects=True)
    for table in auth.tables:
        assert link.rpartition("/")[2] not in str(await rows(auth, table))


@pytest.mark.parametrize("kind", ["kept", "signed"])
async def test_all_invalid_links_get_the_same_response(database: Database, kind: str) -> None:
    reset_tokens = PasswordResetTokens(SECRET_KEY) if kind == "signed" else None
    async with site(database, reset_tokens=reset_tokens) as auth:
        ann, bob = [await auth.users.create_user(name, f"{name}@example.org", PASSWORD) for name in ("ann", "bob")]
        gone = await auth.users.create_user("gone", "gone@example.org", PASSWORD, is_active=False)
        uid, token = encode_uid(ann), await auth.reset_tokens.make(ann)
        used = await link_of(auth, bob)
        async with browser(auth) as client:
            assert (await client.post(used, data=RESET)).status_code == 303
        invalid_links = [
            used,
            await link_of(auth, gone),
            f"/accounts/reset/{encode_uid(bob)}/{token}",
            f"/accounts/reset/{uid}/{token[:-1]}",
            f"/accounts/reset/{uid}/{token}x",
            f"/accounts/reset/{uid}/{token.swapcase()}",
            f"/accounts/reset/{uid}/set-password",
            f"/accounts/reset/{uid}/%00",
            f"/accounts/reset/{uid}/%F0%9F%94%91",
            f"/accounts/reset/%00/{token}",
            f"/accounts/reset/%FF/{token}",
            f"/accounts/reset/OTk5OTk5OTk5OTk5OTk5OTk5OTk5OTk5/{token}",
            f"/accounts/reset/x/{token}",
        ]
        responses = set()
        for link in invalid_links:
            async with browser(auth) as client:
                for answer in (await client.get(link), await client.post(link, data=RESET)):
                    assert answer.status_code == 404
                    responses.add((answer.text, tuple(answer.headers.items())))
                sent = await client.post(link, json=RESET)
                assert (sent.status_code, codes(sent)) == (404, {})
                assert "used before, or is too old" in sent.json()["detail"]
                assert not client.cookies
        assert len(responses) == 1
        # An attacker cannot fill the table with sessions by requesting invalid links.
        assert await rows(auth, auth.tables.session) == []
        assert await has_password(auth, ann, PASSWORD)
        assert await auth.reset_tokens.check(await reload(auth, ann), token)


async def test_a_secret_in_the_session_works_only_for_its_user(
    auth: Auth, ann: User, client: httpx.AsyncClient
) -> None:
    bob = await auth.users.create_user("bob", "bob@example.org", PASSWORD)
    await client.get(await link_of(auth, ann))
    url = f"/accounts/reset/{encode_uid(bob)}/set-password"
    assert (await client.get(url)).status_code == 404
    assert (await client.post(url, data=RESET)).status_code == 404
    assert await has_password(auth, bob, PASSWORD)


async def test_the_url_without_the_secret_does_not_work_in_another_browser(
    auth: Auth, ann: User, client: httpx.AsyncClient
) -> None:
    page = await client.get(await link_of(auth, ann), follow_redirects=True)
    async with browser(auth) as other_browser:
        assert (await other_browser.post(page.url, data=RESET)).status_code == 404
        other_browser.cookies.set("session", "x" * 43)
        assert (await other_browser.post(page.url, data=RESET)).status_code == 404


async def test_a_json_client_can_post_to_a_link(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    link = await link_of(auth, ann)
    sent = await client.post(link, json={**RESET, "new_password2": "other"})
    assert (sent.status_code, codes(sent)) == (422, {"new_password2": ["password_mismatch"]})
    sent = await client.post(link, json=RESET)
    assert (sent.status_code, sent.json()) == (200, {"next": "/accounts/reset/done"})
    assert [cookie.partition("=")[0] for cookie in sent.headers.get_list("set-cookie")] == ["device"]
    assert await has_password(auth, ann, NEW)
    assert (await client.post(link, json=RESET)).status_code == 404


async def test_a_reset_ends_all_sessions_and_all_other_links(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    bob = await auth.users.create_user("bob", "bob@example.org", PASSWORD)
    bob_link, ann_links = await link_of(auth, bob), [await link_of(auth, ann) for _ in range(3)]
    pending = await auth.tokens.create("email_change", f"user {ann.id}", max_age=60)
    async with browser(auth) as ann_browser:
        await post_login(ann_browser)
        link = await link_of(auth, await reload(auth, ann))
        assert (await client.post(link, data=RESET)).status_code == 303
        assert (await ann_browser.get("/whoami")).json()["username"] == ""
    for ann_link in ann_links:
        assert (await client.get(ann_link)).status_code == 404
    assert await auth.tokens.find("email_change", pending) is None
    assert (await client.get(bob_link)).status_code == 303
    assert sorted(row["purpose"] for row in await rows(auth, auth.tables.token)) == ["devices", "password_reset"]


async def test_a_reset_also_ends_the_session_of_the_user_who_resets(
    auth: Auth, ann: User, client: httpx.AsyncClient
) -> None:
    await post_login(client)
    page = await client.get(await link_of(auth, await reload(auth, ann)), follow_redirects=True)
    assert (await client.post(page.url, data=RESET)).status_code == 303
    assert (await client.get("/whoami")).json()["username"] == ""


async def test_a_link_of_another_user_does_not_end_the_session(
    auth: Auth, ann: User, client: httpx.AsyncClient
) -> None:
    bob = await auth.users.create_user("bob", "bob@example.org", PASSWORD)
    await post_login(client)
    page = await client.get(await link_of(auth, bob), follow_redirects=True)
    assert 'value="bob" autocomplete="username"' in page.text
    assert (await client.post(page.url, data=RESET)).status_code == 303
    assert (await client.get("/whoami")).json()["username"] == "ann"
    assert await has_password(auth, bob, NEW)
    assert await has_password(auth, ann, PASSWORD)


async def test_login_after_reset_logs_in_under_a_new_key(database: Database) -> None:
    events: list[Any] = []
    async with site(database, login_after_reset=True, login_redirect_url="/home") as auth, browser(auth) as client:
        auth.events.on(UserLoggedIn)(events.append)
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        page = await client.get(await link_of(auth, ann), follow_redirects=True)
        await client.get("/remember?colour=green")
        before = client.cookies["session"]
        done = await client.post(page.url, data=RESET)
        assert (done.status_code, done.headers["location"]) == (303, "/home")
        assert client.cookies["session"] != before
        identity = (await client.get("/whoami")).json()
        assert (identity["username"], identity["session"]) == ("ann", {"colour": "green"})
        assert [event.user for event in events] == [ann]
        assert len(await rows(auth, auth.tables.session)) == 1
        assert "session_password_reset" not in client.cookies


async def test_login_after_reset_runs_the_login_steps(database: Database) -> None:
    async def second_factor(request: Request, user: User) -> Response | None:
        return PlainTextResponse(f"Enter your code, {user.username}.")

    async with site(database, login_after_reset=True) as auth, browser(auth) as client:
        auth.login_steps.append(second_factor)
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        done = await client.post(await link_of(auth, ann), data=RESET)
        assert done.text == "Enter your code, ann."
        assert (await client.get("/whoami")).json()["username"] == ""
        assert await has_password(auth, ann, NEW)


@pytest.mark.parametrize("kind", ["kept", "signed"])
async def test_an_error_in_a_listener_undoes_the_change(database: Database, kind: str) -> None:
    reset_tokens = PasswordResetTokens(SECRET_KEY) if kind == "signed" else None
    is_failing = [True]

    async with site(database, reset_tokens=reset_tokens) as auth, browser(auth) as client:

        @auth.events.on(PasswordChanged)
        def fail(event: PasswordChanged) -> None:
            if is_failing[0]:
                raise RuntimeError("not now")

        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await log_in(client, ann, auth)
        link, pending = await link_of(auth, ann), await auth.tokens.create("a", f"user {ann.id}", max_age=60)
        for path, data in ((link, RESET), ("/accounts/password_change", CHANGE)):
            with pytest.raises(RuntimeError, match="not now"):
                await client.post(path, data=data)
        assert await has_password(auth, ann, PASSWORD)
        assert (await client.get("/whoami")).json()["username"] == "ann"
        assert await auth.tokens.find("a", pending) is not None
        assert await mails(auth) == []
        is_failing[0] = False
        assert (await client.post(link, data=RESET)).status_code == 303
        assert await has_password(auth, ann, NEW)
        assert len(await mails(auth)) == 1


async def test_replace_password_does_not_overwrite_a_concurrent_change(auth: Auth, ann: User) -> None:
    read_before = await reload(auth, ann)
    await auth.users.set_password(ann, NEW)
    assert not await auth.users.replace_password(read_before, await auth.passwords.hash("a third one"))
    assert await has_password(auth, ann, NEW)
    assert read_before.password != ann.password
    assert len(await mails(auth)) == 1


async def test_a_password_change_does_not_overwrite_a_concurrent_reset(
    auth: Auth, ann: User, client: httpx.AsyncClient
) -> None:
    """An attacker has the old password and a session, and changes the password while the owner resets it."""
    link = await link_of(auth, ann)
    resets: list[bool] = []

    class ResetDuringValidation:
        """A validator that runs the owner's request during the attacker's request."""

        async def validate(self, password: str, user: Any = None) -> None:
            if password == "a password of the attacker" and not resets:
                resets.append(True)
                async with browser(auth) as ann_browser:
                    assert (await ann_browser.post(link, data=RESET)).status_code == 303

        def get_help_text(self) -> str:
            return ""

    await log_in(client, ann, auth)
    auth.password_validators.append(ResetDuringValidation())
    new_passwords = dict.fromkeys(RESET, "a password of the attacker")
    answer = await client.post("/accounts/password_change", data={"old_password": PASSWORD, **new_passwords})
    assert resets
    assert answer.headers["location"] == "/accounts/login?next=%2Faccounts%2Fpassword_change"
    assert await has_password(auth, ann, NEW)


# Commit hooks


async def test_a_commit_hook_runs_after_the_commit_or_never(auth: Auth) -> None:
    calls: list[str] = []

    def record(call: str) -> Callable[[], None]:
        return lambda: calls.append(call)

    gateway = auth.gateway

    async def fail() -> None:
        async with gateway.atomic():
            gateway.on_commit(record("never"))
            async with gateway.atomic():
                gateway.on_commit(record("never"))
            raise RuntimeError

    gateway.on_commit(record("at once"))
    assert calls == ["at once"]
    async with gateway.atomic():
        gateway.on_commit(record("first"))
        async with gateway.atomic():
            gateway.on_commit(record("second"))
        with pytest.raises(RuntimeError):
            await fail()
        gateway.on_commit(record("third"))
        assert calls == ["at once"]
    assert calls == ["at once", "first", "second", "third"]
    with pytest.raises(RuntimeError):
        await fail()
    gateway.on_commit(record("at once again"))
    assert calls[4:] == ["at once again"]


async def test_commit_hooks_belong_to_the_transaction_of_their_task(auth: Auth) -> None:
    calls: list[str] = []

    async def run(name: str, *, fails: bool) -> None:
        with contextlib.suppress(RuntimeError):
            async with auth.gateway.atomic():
                auth.gateway.on_commit(lambda: calls.append(name))
                if fails:
                    raise RuntimeError

    async with auth.gateway.atomic():
        auth.gateway.on_commit(lambda: calls.append("outer"))
    await all_of(*(run(str(number), fails=number % 2 == 1) for number in range(10)))
    assert sorted(calls) == ["0", "2", "4", "6", "8", "outer"]


async def test_a_commit_hook_may_use_the_database(auth: Auth) -> None:
    """A commit hook runs outside of the transaction, so that it can use the connection."""
    calls: list[bool] = []
    async with auth.gateway.atomic():
        auth.gateway.on_commit(lambda: auth.gateway.on_commit(lambda: calls.append(True)))
    assert calls == [True]


# Response times


async def time_ratio(client: httpx.AsyncClient, path: str, known: dict[str, str], unknown: dict[str, str]) -> float:
    """Returns the median response time for a known user, divided by that for an unknown user."""
    times: list[list[float]] = [[], []]
    for number in range(200):
        for is_known in (0, 1) if number % 2 else (1, 0):
            data = (unknown, known)[is_known]
            started_at = time.perf_counter()
            await client.post(path, data=data)
            times[is_known].append(time.perf_counter() - started_at)
    unknown_time, known_time = (statistics.median(series[20:]) for series in times)
    print(f"{path}: known {known_time * 1000:.2f} ms, unknown {unknown_time * 1000:.2f} ms")  # noqa: T201
    return known_time / unknown_time


async def takes_as_long(client: httpx.AsyncClient, path: str, known: dict[str, str], unknown: dict[str, str]) -> bool:
    """Returns whether responses take equally long. A busy machine distorts a round, a difference in the code all three."""
    for _ in range(3):
        if 0.8 < await time_ratio(client, path, known, unknown) < 1.25:
            return True
    return False


async def test_an_unknown_user_takes_as_long_as_a_known_one(database: Database) -> None:
    async with site(database, throttling=False) as auth, browser(auth) as client:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        known, unknown = {"email": "ann@example.org"}, {"email": "nil@example.org"}
        assert await takes_as_long(client, "/accounts/password_reset", known, unknown)
        known, unknown = {"username": "ann", "password": "x"}, {"username": "nil", "password": "x"}
        assert await takes_as_long(client, "/accounts/login", known, unknown)
        assert len(await mails(auth)) % 200 == 0


# All pages


PAGES = [
    "/accounts/login",
    "/accounts/logged_out",
    "/accounts/password_change",
    "/accounts/password_change/done",
    "/accounts/password_reset",
    "/accounts/password_reset/done",
    "/accounts/reset/x/y",
    "/accounts/reset/done",
]
SECURITY_HEADERS = {
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "vary": "Cookie",
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; font-src 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; form-action 'self'"
    ),
}


async def test_every_page_has_the_security_headers(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    anonymous = [await client.get(path) for path in PAGES]
    client.cookies.clear()
    cross_site = [await client.post(path, headers={"sec-fetch-site": "cross-site"}) for path in PAGES[::4]]
    assert {answer.status_code for answer in cross_site} == {403}
    await log_in(client, ann, auth)
    answers = [
        *anonymous,
        *cross_site,
        *[await client.get(path) for path in PAGES],
        *[await client.head(path) for path in PAGES],
        *[await client.post(path, data=CHANGE) for path in PAGES[2:5:2]],
        *[await client.post(path, json=["no object"]) for path in PAGES[2:5:2]],
        await client.post("/accounts/login", content=b"x", headers={"content-type": "text/plain"}),
        await client.post("/accounts/logout"),
    ]
    for answer in answers:
        assert {name: answer.headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS, answer.url
        assert "clear-site-data" not in answer.headers


async def test_the_policy_allows_forms_to_redirect_to_next_hosts(database: Database) -> None:
    async with site(database, next_hosts=["shop.example", "*.shop.example"]) as auth, browser(auth) as client:
        policy = (await client.get("/accounts/login")).headers["content-security-policy"]
        assert policy.endswith("form-action 'self' shop.example *.shop.example")


async def test_pages_vary_by_language_if_there_are_several(database: Database) -> None:
    async with site(database, languages=["en", "de"]) as auth, browser(auth) as client:
        for path in PAGES:
            assert (await client.get(path)).headers["vary"] == "Accept-Language, Cookie"


async def test_a_logout_clears_site_data_if_configured(database: Database) -> None:
    async with site(database, clear_site_data=True) as auth, browser(auth) as client:
        for sent in ({}, {"data": {"next": "/"}}, {"json": {"next": "/"}}):
            answer = await client.post("/accounts/logout", **sent)  # type: ignore[arg-type]
            assert answer.headers["clear-site-data"] == '"cache", "storage"'
        assert answer.json() == {"next": "/"}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["content-length"] == str(len(answer.content))
        assert "location" not in answer.headers


@pytest.mark.parametrize(("name", "media_type"), [("auth.css", "text/css"), ("auth.js", "text/javascript")])
async def test_static_files_may_be_cached_for_a_year(client: httpx.AsyncClient, name: str, media_type: str) -> None:
    page = (await client.get("/accounts/login")).text
    (path,) = re.findall(rf'"(/accounts/{name}\?v=[0-9a-f]{{12}})"', page)
    answer = await client.get(path)
    assert answer.content == ASSETS[name]
    assert answer.headers["content-type"].startswith(media_type)
    assert answer.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "set-cookie" not in answer.headers


async def test_too_many_concurrent_logins_get_503(database: Database) -> None:
    slow = Passwords(
        [Argon2PasswordHasher(time_cost=4, memory_cost=64 * 1024, parallelism=1)], threads=1, max_waiting=0
    )
    async with site(database, passwords=slow, throttling=False) as auth, browser(auth) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        data = {"username": "ann", "password": "x"}
        pages = await all_of(*(client.post("/accounts/login", data=data) for _ in range(5)))
        problems = await all_of(*(client.post("/accounts/login", json=data) for _ in range(5)))
        page = next(page for page in pages if page.status_code == 503)
        assert page.headers["retry-after"] == "5"
        assert page.headers["cache-control"] == "no-store"
        assert "Too many visitors at once" in page.text
        problem = next(answer for answer in problems if answer.status_code == 503)
        assert problem.headers["retry-after"] == "5"
        assert codes(problem) == {}


async def test_a_long_wait_is_shown_in_minutes(database: Database) -> None:
    async with site(database, rates={"password_reset": "1/3m/ip"}) as auth, browser(auth) as client:
        await client.post("/accounts/password_reset", data={"email": "a@example.org"})
        page = await client.post("/accounts/password_reset", data={"email": "a@example.org"})
        assert page.status_code == 429
        assert "Please try again in 3 minutes." in page.text
        assert 170 <= int(page.headers["retry-after"]) <= 180
        assert '<h2 id="id_errors">Please wait a moment</h2>' in page.text
        assert 'value="a@example.org"' in page.text


PAGES_WITH_A_LIMIT = {
    "/accounts/login": {"username": "ann", "password": "wrong", "remember": "on", "next": "/members?a=1"},
    "/accounts/password_reset": {"email": "ann@home.example"},
    "/accounts/password_change": {"old_password": "wrong", "new_password1": "wrong 1", "new_password2": "wrong 2"},
    "/accounts/reauthenticate": {"password": "wrong", "next": "/members?a=1"},
}


@pytest.mark.parametrize("path", PAGES_WITH_A_LIMIT)
async def test_a_throttled_form_keeps_what_was_entered_except_passwords(path: str, database: Database) -> None:
    async with site(database, rates={"password_reset": "1/m/ip"}) as auth, browser(auth) as client:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        if path.endswith(("change", "reauthenticate")):
            await log_in(client, ann, auth)
        data = PAGES_WITH_A_LIMIT[path]
        for _ in range(8):
            page = await client.post(path, data=data)
            if page.status_code == 429:
                break
        assert page.status_code == 429
        assert int(page.headers["retry-after"]) > 0
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert re.search(r"Please try again in \d+ (second|minute)s?\.", page.text)
        assert '<form method="post"' in page.text
        for name, value in data.items():
            is_kept = f'name="{name}"' in page.text and f'value="{value}"' in page.text
            assert is_kept is ("password" not in name), name
        assert "wrong" not in page.text
        assert (" checked" in page.text) is ("remember" in data)


async def test_the_login_accepts_json(auth: Auth, client: httpx.AsyncClient) -> None:
    events: list[LoginFailed] = []
    auth.events.on(LoginFailed)(events.append)
    sent = await client.post("/accounts/login", json={"username": "ann", "password": "wrong"})
    assert (sent.status_code, codes(sent)) == (422, {"__all__": ["invalid_login"]})
    assert len(events) == 1
    sent = await client.post("/accounts/login", json={"username": "ann", "password": PASSWORD, "next": "/members"})
    assert (sent.status_code, sent.json()) == (200, {"next": "/members"})
    assert "device" in sent.headers["set-cookie"]
    assert (await client.get("/members")).text == "members"


async def test_the_login_names_all_login_fields(database: Database) -> None:
    async with site(database, login_fields=("username", "email")) as auth, browser(auth) as client:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        assert "Username or e-mail address" in (await client.get("/accounts/login")).text
        sent = await client.post("/accounts/login", json={"username": "ann", "password": "x"})
        assert "correct username or email address and password" in sent.json()["errors"]["__all__"][0]["message"]


# Password managers


async def test_the_well_known_url_redirects_to_the_password_change(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth, *well_known(auth))) as client:
        answer = await client.get("/.well-known/change-password")
        assert (answer.status_code, answer.headers["location"]) == (303, "/accounts/password_change")
        assert (await client.post("/.well-known/change-password")).status_code == 405


async def test_the_password_fields_have_rules_for_password_managers(
    auth: Auth, ann: User, client: httpx.AsyncClient
) -> None:
    page = (await client.get(await link_of(auth, ann), follow_redirects=True)).text
    assert page.count('passwordrules="minlength: 15; maxlength: 1024; allowed: unicode;"') == 2
    assert page.count('autocomplete="new-password"') == 2


async def test_without_a_minimum_length_there_are_no_password_rules(database: Database) -> None:
    async with site(database, password_validators=[]) as auth, browser(auth) as client:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        page = (await client.get(await link_of(auth, ann), follow_redirects=True)).text
        assert "passwordrules" not in page
        assert 'id="id_new_password1_help"' not in page


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        *((60, "1 minute"), (61, "2 minutes"), (1800, "30 minutes"), (3600, "1 hour"), (5400, "90 minutes")),
        *((7200, "2 hours"), (86_400, "1 day"), (90_000, "25 hours"), (604_800, "7 days")),
    ],
)
def test_durations_are_formatted_in_words(seconds: int, words: str) -> None:
    assert format_duration(seconds) == words


# Known devices


async def test_a_browser_is_a_known_device_of_each_user_who_logged_in(
    auth: Auth, ann: User, client: httpx.AsyncClient
) -> None:
    await auth.users.create_user("bob", "bob@example.org", PASSWORD)
    await post_login(client)
    first = client.cookies["device"]
    await post_login(client, "bob")
    second = client.cookies["device"]
    assert second.split(".")[0] == first.split(".")[0]
    assert len(second.split(".")) == 3
    await post_login(client)
    assert len(client.cookies["device"].split(".")) == 3
    assert len(first.split(".")[0]) == 43
    # ann has logged in with this browser before: no mail about a new device.
    assert await mails(auth) == []
    async with browser(auth) as other_browser:
        await post_login(other_browser)
    assert [mail["Subject"] for mail in await mails(auth)] == ["A login at site.example from a new device"]


async def test_a_browser_is_a_known_device_of_at_most_five_users(auth: Auth, client: httpx.AsyncClient) -> None:
    for name in ("a", "b", "c", "d", "e", "f"):
        await auth.users.create_user(name, f"{name}@example.org", PASSWORD)
        await post_login(client, name)
    assert len(client.cookies["device"].split(".")) == 6
    await post_login(client, "b")
    assert await mails(auth) == []
    await post_login(client, "a")
    assert [str(mail["To"]) for mail in await mails(auth)] == ["a@example.org"]


@pytest.mark.parametrize(
    "forged", ["", ".", "x", "x" * 43, "x" * 43 + ".y", "x" * 43 + "." + "0" * 64, "." * 3000, "é"]
)
async def test_a_forged_device_cookie_is_not_a_known_device(
    auth: Auth, ann: User, client: httpx.AsyncClient, forged: str
) -> None:
    await post_login(client)
    device = client.cookies["device"]
    async with browser(auth) as other_browser:
        cookie = f"device={forged}".encode("latin-1")
        await other_browser.post(
            "/accounts/login", data={"username": "ann", "password": PASSWORD}, headers=[(b"cookie", cookie)]
        )
        assert other_browser.cookies["device"].split(".")[1:] != device.split(".")[1:]
    assert len(await mails(auth)) == 1


async def test_a_logout_without_a_body_needs_no_content_type(auth: Auth, ann: User, client: httpx.AsyncClient) -> None:
    await log_in(client, ann, auth)
    answer = await client.post("/accounts/logout")
    assert answer.headers["location"] == "/accounts/logged_out"
    assert (await client.get("/whoami")).json()["username"] == ""
