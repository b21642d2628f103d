"""Behaviours of Django's own tests of forms, of titles, and of creating users and logging them in, as they are here.

Behaviours that other tests of this package prove are left out.
"""

import contextlib
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from starlette_auth import (
    Auth,
    CommonPasswordValidator,
    LoginFailed,
    MinimumLengthValidator,
    NumericPasswordValidator,
    User,
    UserAttributeSimilarityValidator,
)
from starlette_auth.core.text import MAX_NAME_LENGTH, normalize_email, normalize_username
from starlette_auth.core.translation import Languages
from starlette_auth.features.registration import Registration
from starlette_auth.security.reset_tokens import encode_uid
from starlette_auth.testing import CollectingMailer, log_in

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

OWN = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
NEW = "an entirely new passphrase"
TWELVE = [UserAttributeSimilarityValidator(), MinimumLengthValidator(12)]
Languages(["en", "de"])  # reads the catalogs now, because reading a file later would block the event loop


@contextlib.asynccontextmanager
async def site(database: Database, **options: Any) -> AsyncIterator[tuple[Auth, httpx.AsyncClient]]:
    """Yields the Auth and a browser of an application that sends mail, lets visitors register, and has the user ann."""
    defaults = {"mailer": CollectingMailer(), "base_url": "http://testserver", "throttling": False}
    defaults["features"] = [Registration(fields=("username",))]
    async with installed(database, **{**defaults, **options}) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with client_of(make_app(auth), headers=OWN) as client:
            yield auth, client
        await auth.mail_queue.drain()


async def codes(client: httpx.AsyncClient, path: str, **fields: str) -> dict[str, list[str]]:
    """Sends a form as JSON; returns the codes of its errors by field."""
    answer = await client.post(path, json=fields)
    if answer.status_code == 200:
        return {}
    assert answer.status_code == 422
    return {name: [error["code"] for error in errors] for name, errors in answer.json()["errors"].items()}


async def register(client: httpx.AsyncClient, username: str, first: str = NEW, second: str = NEW) -> Any:
    return await codes(client, "/accounts/register", username=username, password1=first, password2=second)


async def link_of(auth: Auth) -> str:
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    return f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"


async def recipients(auth: Auth, client: httpx.AsyncClient, email: str) -> list[str]:
    """Asks for a reset link for this address; returns the addresses that got one."""
    await client.post("/accounts/password_reset", data={"email": email})
    await auth.mail_queue.drain()
    assert isinstance(auth.mail_queue.mailer, CollectingMailer)
    messages = [str(mail["To"]) for mail in auth.mail_queue.mailer.messages]
    auth.mail_queue.mailer.clear()
    return messages


def inputs(page: str) -> dict[str, str]:
    """Returns the visible fields of a page in their order: their HTML by name."""
    elements = re.findall(r"<input[^>]*>", page, re.DOTALL)
    shown = [element for element in elements if 'type="hidden"' not in element and "auth-unseen" not in element]
    return {re.findall('name="(.*?)"', element)[0]: element for element in shown}


# Creating users


async def test_a_registration_has_djangos_fields_and_attributes(database: Database) -> None:
    async with site(database) as (_, client):
        fields = inputs((await client.get("/accounts/register")).text)
    assert list(fields) == ["username", "password1", "password2"]
    assert 'autocomplete="username" autocapitalize="none"' in fields["username"]
    for name in ("password1", "password2"):
        assert 'autocomplete="new-password"' in fields[name]


@pytest.mark.parametrize("username", ["ann", "ANN", "ａｎｎ", "iamthe\u2126"])
async def test_a_name_that_is_taken_in_any_spelling_is_refused(database: Database, username: str) -> None:
    async with site(database) as (auth, client):
        await auth.users.create_user("iamthe\u03a9")
        assert await register(client, username) == {"username": ["unique"]}
        page = await client.post("/accounts/register", data={"username": username, "password1": NEW, "password2": NEW})
        assert "A user with that username already exists." in page.text


async def test_a_registration_reports_what_is_wrong_with_each_field(database: Database) -> None:
    async with site(database) as (auth, client):
        assert await register(client, "jsmith!") == {"username": ["invalid"]}
        assert await register(client, "jsmith", NEW, "other") == {"password2": ["password_mismatch"]}
        assert await register(client, "jsmith", "", "") == {"password1": ["required"], "password2": ["required"]}
        assert await register(client, "jsmith", "", NEW) == {"password1": ["required"]}
        assert await auth.users.count() == 1


@pytest.mark.parametrize(
    ("username", "stored"),
    [("jsmith@example.com", "jsmith@example.com"), ("宝", "宝"), ("test\u2126", "test\u03a9")],
)
async def test_a_registration_creates_a_user_with_the_normalized_name(
    database: Database, username: str, stored: str
) -> None:
    async with site(database) as (auth, client):
        assert await register(client, username) == {}
        user = await auth.users.get_by_username(stored)
        assert user is not None
        assert str(user) == user.username == stored
        assert (await post_login(client, username, NEW)).status_code == 303


def test_a_name_that_is_too_long_is_not_normalized() -> None:
    assert normalize_username("½" * (MAX_NAME_LENGTH + 1)) == "½" * (MAX_NAME_LENGTH + 1)
    assert normalize_username("ﬀ" * 254) == "ff" * 254


async def test_each_validator_reports_a_new_password(database: Database) -> None:
    similar_and_short = ["password_too_similar", "password_too_short"]
    async with site(database, password_validators=TWELVE, features=[Registration()]) as (auth, client):
        data = {"username": "otherclient", "email": "x@example.org", "password1": "otherclient"}
        sent = await codes(client, "/accounts/register", **data, password2="otherclient")
        assert sent == {"password1": similar_and_short}
        both = {"new_password1": "ann@example", "new_password2": "ann@example", "usable_password": "false"}
        assert await codes(client, await link_of(auth), **both) == {"new_password1": similar_and_short}
        # All fields of the form count.
        data = {"username": "testuser", "email": "testpassword@example.org", "password1": "testpassword"}
        sent = await codes(client, "/accounts/register", **data, password2="testpassword")
        assert sent == {"password1": ["password_too_similar"]}


async def test_an_address_may_be_the_name_of_a_new_user(database: Database) -> None:
    features = [Registration(fields=("email",))]
    async with site(database, features=features, login_fields=["email"]) as (auth, client):
        fields = {"email": "Test@client222.com", "password1": NEW, "password2": NEW}
        assert await codes(client, "/accounts/register", **fields) == {}
        await auth.mail_queue.drain()
        assert isinstance(auth.mail_queue.mailer, CollectingMailer)
        link = auth.mail_queue.mailer.links()[0].removeprefix("http://testserver")
        page = await client.get(link, follow_redirects=True)
        await client.post(page.url, data={"password": NEW})
        [user] = await auth.users.list_by_email("test@client222.com")
        assert (user.username, user.email) == ("Test@client222.com", "Test@client222.com")


# Blanks in passwords


async def test_blanks_around_a_password_are_kept_everywhere(database: Database) -> None:
    password, other = f"   {NEW}   ", f" {PASSWORD} "
    async with site(database) as (auth, client):
        assert await register(client, "bob", password, password) == {}
        for wrong in (NEW, password.strip(), f" {NEW} "):
            assert (await post_login(client, "bob", wrong)).status_code == 422
        assert (await post_login(client, "bob", password)).status_code == 303
        changed = {"old_password": password, "new_password1": other, "new_password2": other}
        path = "/accounts/password_change"
        assert await codes(client, path, **{**changed, "old_password": NEW}) == {"old_password": ["password_incorrect"]}
        assert await codes(client, path, **changed) == {}
        assert (await post_login(client, "bob", PASSWORD)).status_code == 422
        assert (await post_login(client, "bob", other)).status_code == 303
        assert await codes(client, await link_of(auth), new_password1=password, new_password2=password) == {}
        assert (await post_login(client, "ann", NEW)).status_code == 422
        assert (await post_login(client, "ann", password)).status_code == 303


# The login form


async def test_a_failed_login_has_djangos_message_and_code_and_is_reported(database: Database) -> None:
    failures: list[LoginFailed] = []
    message = "Please enter a correct username and password. Note that both fields may be case-sensitive."
    async with site(database) as (auth, client):
        auth.events.on(LoginFailed)(failures.append)
        await auth.users.create_user("inactive", password=PASSWORD, is_active=False)
        for username, password in (
            ("jsmith", PASSWORD),
            ("ann", "incorrect"),
            ("inactive", "incorrect"),
            ("inactive", PASSWORD),
        ):
            answer = await client.post("/accounts/login", json={"username": username, "password": password})
            assert answer.json()["errors"] == {"__all__": [{"code": "invalid_login", "message": message}]}
        assert await codes(client, "/accounts/login", username="ann") == {"password": ["required"]}
    assert [failure.credentials["username"] for failure in failures] == ["jsmith", "ann", "inactive", "inactive"]
    assert {failure.request.url.path for failure in failures if failure.request is not None} == {"/accounts/login"}
    assert None not in [failure.request for failure in failures]


@pytest.mark.parametrize("username", ["Σαρα", "u" * 150])
async def test_a_name_in_any_script_and_of_any_valid_length_logs_in(database: Database, username: str) -> None:
    async with site(database) as (auth, client):
        await auth.users.create_user(username, password=PASSWORD)
        assert (await post_login(client, username)).status_code == 303
        page = (await client.get("/accounts/login")).text
        assert "maxlength" not in inputs(page)["username"]
        assert 'autocapitalize="none"' in inputs(page)["username"]
        assert re.search('<label [^>]*for="id_username">Username</label>', page)


async def test_a_login_step_refuses_users_with_its_own_message(database: Database) -> None:
    async def policy(request: Request, user: User) -> Response | None:
        return PlainTextResponse("This user is disallowed.", 403) if user.username == "ann" else None

    async with site(database) as (auth, client):
        auth.login_steps.append(policy)
        await auth.users.create_user("bob", password=PASSWORD)
        answer = await post_login(client)
        assert (answer.status_code, answer.text) == (403, "This user is disallowed.")
        assert (await client.get("/whoami")).json()["username"] == ""
        assert (await post_login(client, "bob")).status_code == 303


# The forms with a new password


async def test_the_form_of_a_link_reports_missing_passwords(database: Database) -> None:
    async with site(database) as (auth, client):
        link = await link_of(auth)
        assert await codes(client, link, new_password1=NEW) == {"new_password2": ["required"]}
        missing = {"new_password1": ["required"], "new_password2": ["required"]}
        assert await codes(client, link, x="y") == missing
        page = await client.get(link, follow_redirects=True)
        assert list(inputs(page.text)) == ["new_password1", "new_password2"]
        assert page.text.count('autocomplete="new-password"') == 2


async def test_the_form_of_a_change_asks_for_the_old_password_first(database: Database) -> None:
    async with site(database) as (_, client):
        await post_login(client)
        fields = inputs((await client.get("/accounts/password_change")).text)
    assert list(fields) == ["old_password", "new_password1", "new_password2"]
    tokens = [re.findall('autocomplete="(.*?)"', field)[0] for field in fields.values()]
    assert tokens == ["current-password", "new-password", "new-password"]


async def test_the_rules_for_a_password_are_shown_in_the_language_of_the_visitor(database: Database) -> None:
    options: dict[str, Any] = {
        "password_validators": [*TWELVE, CommonPasswordValidator(), NumericPasswordValidator()],
        "languages": ["en", "de"],
    }
    async with site(database, **options) as (auth, client):
        await post_login(client)
        pages = ["/accounts/register", "/accounts/password_change", await link_of(auth)]
        for path in pages:
            page = (await client.get(path, follow_redirects=True)).text
            assert "At least 12 characters, hard to guess." in page
            page = (await client.get(path, follow_redirects=True, headers={"accept-language": "de"})).text
            assert "Mindestens 12 Zeichen, schwer zu erraten." in page


# Asking for a reset link


async def test_addresses_that_look_alike_get_no_mail_of_each_other(database: Database) -> None:
    async with site(database) as (auth, client):
        await auth.users.create_user("mike123", "mike@example.org", PASSWORD)
        await auth.users.create_user("mike", "mike@ixample.org", PASSWORD)
        for address in ("m\u0131ke@example.org", "mike@\u0131xample.org"):
            assert await recipients(auth, client, address) == []
            await auth.users.create_user(f"owner{address.index(chr(0x131))}", address, PASSWORD)
            assert await recipients(auth, client, address) == [address.replace("\u0131xample", "xn--xample-o9a")]
        assert await recipients(auth, client, "mike@example.org") == ["mike@example.org"]
        assert await recipients(auth, client, "foo@bar.com") == []


async def test_a_reset_form_refuses_what_is_no_address(database: Database) -> None:
    async with site(database) as (_, client):
        assert await codes(client, "/accounts/password_reset", email="not valid") == {"email": ["invalid"]}
        page = (await client.post("/accounts/password_reset", data={"email": "not valid"})).text
        assert "Enter a valid email address." in page
        assert 'autocomplete="email"' in inputs(page)["email"]


async def test_the_part_of_an_address_before_the_at_sign_keeps_its_case(auth: Auth) -> None:
    assert normalize_email("tesT") == "tesT"
    assert (await auth.users.create_user("ann", "tesT@EXAMple.com")).email == "tesT@example.com"


# Titles


async def test_each_page_has_a_title_and_a_heading_that_say_what_it_is(database: Database) -> None:
    async with site(database, site_name="The Shop") as (auth, client):
        visitor = client_of(make_app(auth), headers=OWN)
        await post_login(client)
        link = await link_of(auth)
        for path, title in (
            ("password_reset", "Forgot your password?"),
            ("password_reset/done", "Check your inbox"),
            ("reset/Bad/Bad-Token", "This link no longer works"),
            (link.removeprefix("/accounts/"), "Choose a new password"),
            ("reset/done", "Password saved"),
            ("password_change", "Change your password"),
            ("password_change/done", "Password changed"),
        ):
            page = (await client.get(f"/accounts/{path}", follow_redirects=True)).text
            assert f"<title>{title} · The Shop</title>" in page
            assert page.count("<h1") == 1
        for path in ("password_reset", "password_change", link.removeprefix("/accounts/")):
            answer = await client.post(f"/accounts/{path}", data={"x": "y"})
            assert "<title>Error: " in answer.text
        await visitor.aclose()


# Users and logins in code


async def test_a_password_becomes_unusable_and_usable_again(auth: Auth) -> None:
    user = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    assert user.has_usable_password()
    for raw, is_usable in ((None, False), (NEW, True), (None, False)):
        await auth.users.set_password(user, raw)
        assert user.has_usable_password() is is_usable
        assert [await auth.users.check_password(user, text) for text in (NEW, PASSWORD)] == [is_usable, False]


async def test_a_superuser_needs_neither_an_address_nor_a_password(auth: Auth) -> None:
    cases: list[dict[str, Any]] = [{}, {"email": ""}, {"email": None}, {"password": None}]
    for number, options in enumerate(cases):
        user = await auth.users.create_superuser(f"super{number}", **options)
        assert (user.email, user.has_usable_password()) == ("", False)
        assert (user.is_superuser, user.is_staff, user.is_active) == (True, True, True)
        plain = await auth.users.create_user(f"user{number}", **{k: v for k, v in options.items() if k == "email"})
        assert plain.email == ""


async def test_a_session_knows_the_key_of_its_user(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers=OWN) as client:
        assert (await client.get("/whoami")).json()["username"] == ""
        await log_in(client, ann, auth)
        assert (await client.get("/whoami")).json()["username"] == "ann"
        session = await auth.sessions.load(client.cookies["session"])
        assert session["_auth_user_id"] == str(ann.id)
