"""Tests of guessing a password for a long time: who is refused after 100 wrong passwords, and who is told."""

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from databases import Database

from starlette_auth import Auth, Event, LoginsBlocked, User
from starlette_auth.core.translation import Languages
from starlette_auth.mail.messages import plain_text
from starlette_auth.security.reset_tokens import encode_uid
from starlette_auth.testing import CollectingMailer, FrozenClock

from ..conftest import PASSWORD, client_of, installed, with_store, with_tables
from ..support.apps import make_app

pytestmark = with_tables

SITE = "https://site.example"
NEW_PASSWORD = "eleven purple hats in a row"
REFUSED = "Too many wrong passwords were entered. Log in with a browser that you have used here before, or reset your password."
WITH_MAIL: dict[str, Any] = {"base_url": SITE}
Languages(["de"])  # reads the catalog here, because a test must not block the event loop


def browser(auth: Auth) -> httpx.AsyncClient:
    return client_of(make_app(auth), base_url=SITE, headers={"origin": SITE})


async def log_in(client: httpx.AsyncClient, name: str = "ann", password: str = PASSWORD) -> httpx.Response:
    return await client.post("/accounts/login", data={"username": name, "password": password})


async def log_in_once(auth: Auth, name: str = "ann", password: str = PASSWORD) -> int:
    """Logs in from an unknown browser; returns the status."""
    async with browser(auth) as client:
        return (await log_in(client, name, password)).status_code


async def fail(auth: Auth, clock: FrozenClock, number: int, *accounts: str) -> None:
    """Counts wrong passwords of unknown browsers, one for each account each 15 minutes."""
    for _ in range(number):
        for account in accounts:
            async with auth.throttle.attempt("login", account=account, address=""):
                pass
        clock.tick(900)


async def make_ann(auth: Auth, email: str = "ann@example.org") -> User:
    user: User = await auth.users.create_user("ann", email, PASSWORD)
    return user


def mailer_of(auth: Auth) -> CollectingMailer:
    mailer = auth.mail_queue.mailer
    assert isinstance(mailer, CollectingMailer)
    return mailer


@contextlib.asynccontextmanager
async def on_sqlite(folder: Path, clock: FrozenClock, **options: Any) -> AsyncIterator[Auth]:
    async with with_store("memory", folder, clock, **options) as auth:
        yield auth


async def test_after_100_wrong_passwords_only_known_browsers_and_a_reset_let_in(database: Database) -> None:
    clock = FrozenClock()
    events: list[Event] = []
    async with installed(database, clock=clock, mailer=CollectingMailer(), **WITH_MAIL) as auth, browser(auth) as owner:
        auth.events.on(LoginsBlocked)(events.append)
        await make_ann(auth)
        assert (await log_in(owner)).status_code == 303
        answers: dict[str, list[tuple[int, str | None, bool]]] = {"ann": [], "unknown": []}
        await fail(auth, clock, 97, *answers)
        for pause in (900, 900, 900, 0, 900, 10 * 86400):
            for name in answers:
                async with browser(auth) as client:
                    response = await log_in(client, name, "wrong")
                is_refused = REFUSED in response.text
                answers[name].append((response.status_code, response.headers.get("retry-after"), is_refused))
            clock.tick(pause)
        # The owner's own login does not open the account to guesses.
        assert answers["ann"] == answers["unknown"]
        assert [status for status, *_ in answers["ann"]] == [422] * 3 + [429] * 3
        assert all(is_refused for _, _, is_refused in answers["ann"][3:])
        clock.tick(30 * 86400)
        assert (await log_in(owner)).status_code == 303
        assert await log_in_once(auth) == 429
        # One mail tells the owner, with a link to the page that sends reset links.
        assert [event.user.username for event in events if isinstance(event, LoginsBlocked)] == ["ann"]
        await auth.mail_queue.drain()
        (mail,) = mailer_of(auth).messages
        assert mail["Subject"] == "Too many wrong passwords for your account at site.example"
        assert "Wrong passwords for your account at site.example were entered too often" in plain_text(mail)
        assert mailer_of(auth).links("ann@example.org")[0] == f"{SITE}/accounts/password_reset"
        assert "there is nothing to do" not in plain_text(mail)
        await reset(auth)
        assert await log_in_once(auth, password=NEW_PASSWORD) == 303


async def reset(auth: Auth) -> None:
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    async with browser(auth) as client:
        link = f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"
        page = await client.get(link, follow_redirects=True)
        data = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
        assert (await client.post(page.url, data=data)).status_code == 303


async def test_the_mail_and_the_page_are_translated(database: Database) -> None:
    clock, german = FrozenClock(), {"accept-language": "de"}
    options: dict[str, Any] = {"mailer": CollectingMailer(), "languages": ("en", "de"), **WITH_MAIL}
    async with installed(database, clock=clock, **options) as auth, browser(auth) as client:
        await make_ann(auth)
        await fail(auth, clock, 99, "ann")
        client.headers.update(german)
        assert (await log_in(client, password="wrong")).status_code == 422
        assert "Melden Sie sich mit einem Browser an, den Sie hier schon benutzt haben" in (await log_in(client)).text
        await auth.mail_queue.drain()
        assert mailer_of(auth).messages[0]["Subject"].startswith("Zu viele falsche Passwörter")


async def test_a_json_client_is_told_the_reason(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with on_sqlite(tmp_path, clock, mailer=CollectingMailer(), **WITH_MAIL) as auth, browser(auth) as client:
        await fail(auth, clock, 100, "ann")
        response = await client.post("/accounts/login", json={"username": "ann", "password": PASSWORD})
        assert (response.status_code, response.json()["detail"]) == (429, REFUSED)


@pytest.mark.parametrize("options", [{}, {"mailer": CollectingMailer()}, {"base_url": SITE}])
async def test_without_reset_mails_each_attempt_waits_and_the_log_says_so(
    tmp_path: Path, options: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    clock = FrozenClock()
    async with on_sqlite(tmp_path, clock, **options) as auth:
        await make_ann(auth)
        await fail(auth, clock, 99, "ann", "unknown")
        for name in ("ann", "unknown"):
            assert await log_in_once(auth, name, "wrong") == 422
        (record,) = [record for record in caplog.records if record.name == "starlette_auth"]
        assert "No reset mail can be sent" in record.getMessage()
        assert "waits 900 s. To end this, run: starlette-auth unlock ann" in record.getMessage()
        for name in ("ann", "unknown"):
            assert await log_in_once(auth, name) == 429
        clock.tick(900)
        for name in ("ann", "unknown"):
            assert await log_in_once(auth, name, "wrong") == 422
            assert await log_in_once(auth, name, "wrong") == 429
        await auth.throttle.unlock("ann")
        assert await log_in_once(auth) == 303


async def test_a_user_without_an_address_waits_and_looks_like_an_unknown_one(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with on_sqlite(tmp_path, clock, mailer=CollectingMailer(), **WITH_MAIL) as auth:
        await make_ann(auth, email="")
        await fail(auth, clock, 100, "ann", "unknown")
        for name in ("ann", "unknown"):
            async with browser(auth) as client:
                for _ in range(2):
                    response = await log_in(client, name, "wrong")
                    assert (response.status_code, REFUSED in response.text) == (429, True)
                    assert response.headers["retry-after"] == "900"
        clock.tick(900)
        assert await log_in_once(auth) == 303
        assert mailer_of(auth).messages == []


async def test_the_names_of_a_user_have_100_attempts_together(tmp_path: Path) -> None:
    clock, names = FrozenClock(), ("ann", "ann@example.org")
    options: dict[str, Any] = {"login_fields": ("username", "email"), "mailer": CollectingMailer(), **WITH_MAIL}
    async with on_sqlite(tmp_path, clock, **options) as auth:
        await make_ann(auth)
        for name in names:
            await fail(auth, clock, 50, name)
        assert [await log_in_once(auth, name) for name in names] == [429, 429]
        await auth.throttle.unlock("ANN@example.org")
        assert [await log_in_once(auth, name) for name in names] == [303, 303]


@pytest.mark.parametrize("fields", [("username",), ("email",)])
async def test_a_stolen_session_shares_the_counter_of_the_login(tmp_path: Path, fields: tuple[str, ...]) -> None:
    clock = FrozenClock()
    async with on_sqlite(tmp_path, clock, login_fields=fields) as auth, browser(auth) as client:
        await make_ann(auth)
        name = "ann" if fields == ("username",) else "ann@example.org"
        assert (await log_in(client, name)).status_code == 303
        client.cookies.delete("__Host-device")
        codes = []
        for page in ("reauthenticate", "password_change") * 2:
            data = {"password": "x", "old_password": "x", "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
            codes.append((await client.post(f"/accounts/{page}", data=data)).status_code)
        codes += [await log_in_once(auth, name, "wrong") for _ in range(2)]
        assert codes == [422] * 5 + [429]
        assert (await client.post("/accounts/reauthenticate", data={"password": PASSWORD})).status_code == 429


async def test_a_new_account_begins_with_an_empty_counter(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with on_sqlite(tmp_path, clock, mailer=CollectingMailer(), **WITH_MAIL) as auth:
        await fail(auth, clock, 100, "ann")
        await make_ann(auth)
        assert await log_in_once(auth) == 303


async def test_a_password_that_an_administrator_sets_ends_the_block(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with on_sqlite(tmp_path, clock, mailer=CollectingMailer(), **WITH_MAIL) as auth:
        ann = await make_ann(auth)
        await fail(auth, clock, 100, "ann")
        await auth.users.set_password(ann, NEW_PASSWORD)
        assert await log_in_once(auth, password=NEW_PASSWORD) == 303
