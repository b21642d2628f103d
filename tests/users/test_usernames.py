"""Which usernames are taken, which are found, and which could never log in."""

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from starlette.applications import Starlette
from starlette.routing import Mount

from starlette_auth import (
    AlreadyExists,
    ASCIIUsernameValidator,
    Auth,
    ImproperlyConfigured,
    Registration,
    Tables,
    UnicodeUsernameValidator,
    User,
    ValidationError,
    middleware,
    migrate,
    routes,
)
from starlette_auth.cli.main import main
from starlette_auth.testing import CollectingMailer

from ..conftest import PASSWORD, SECRET_KEY, all_of, any_database, client_of, installed, post_login, with_tables

NAMES = ["ann ", " ann", "\tann\n", "\u3000ann", "ａｎｎ", "ann\u00a0"]


def site(auth: Auth) -> Starlette:
    return Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))


# Names with which no user could log in


@any_database
@with_tables
@pytest.mark.parametrize("name", NAMES)
async def test_a_name_is_stored_as_the_login_form_reads_it(auth: Auth, name: str) -> None:
    user = await auth.users.create_user(name, password=PASSWORD)
    assert user.username == "ann"
    async with client_of(site(auth)) as client:
        assert (await post_login(client, username=name)).status_code == 303


@any_database
@with_tables
@pytest.mark.parametrize("name", ["\u00a8ann", "\ufdfa", "a\u2007b", "ann smith", "ﬁnn", "a\u0301nn"])
async def test_whatever_name_is_stored_logs_in_as_it_was_given_and_as_it_is_shown(auth: Auth, name: str) -> None:
    user = await auth.users.create_user(name, password=PASSWORD)
    async with client_of(site(auth)) as client:
        assert (await post_login(client, username=name)).status_code == 303
        assert (await post_login(client, username=user.username)).status_code == 303


@any_database
@with_tables
@pytest.mark.parametrize(
    "name",
    ["", "  ", "\u3000", "\u200b", "an\u200dn", "a\nnn", "ann\u2063", "\u3164", "a\u2028b", "x" * 151, "x" * 600],
)
async def test_a_name_that_no_login_could_enter_is_refused(auth: Auth, ann: User, name: str) -> None:
    with pytest.raises(ValueError, match=r"\.$"):
        await auth.users.create_user(name, password=PASSWORD)
    with pytest.raises(ValueError, match=r"\.$"):
        await auth.users.update(ann, username=name)
    assert await auth.users.count() == 1


@any_database
@with_tables
async def test_a_name_that_another_system_chose_stays_as_it_is(auth: Auth) -> None:
    assert (await auth.users.create_user("ªnn\u200b", normalize=False)).username == "ªnn\u200b"


@any_database
@with_tables
async def test_a_password_that_no_form_accepts_is_refused(auth: Auth, ann: User) -> None:
    with pytest.raises(ValueError, match="Choose another one"):
        await auth.users.set_password(ann, PASSWORD + "\x00")


@any_database
@with_tables
@pytest.mark.parametrize("address", ["ann", "ann@intranet", "a b@example.org", "ann@example.org, b@example.org"])
async def test_where_users_log_in_with_their_address_it_is_one_that_the_form_accepts(
    database: Database, address: str
) -> None:
    async with installed(database, login_fields=("email",)) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        with pytest.raises(ValueError, match=r"Use ann@example\.org\.$"):
            await auth.users.create_user("bob", address)
        with pytest.raises(ValueError, match=r"Use ann@example\.org\.$"):
            await auth.users.update(ann, email=address)
        async with client_of(site(auth)) as client:
            assert (await post_login(client, username=ann.email)).status_code == 303
    async with installed(database, login_fields=("username", "email")) as auth:
        assert (await auth.users.create_user("bob", address)).email == address


BY_ADDRESS = {"login_fields": ("email",)}
LONG = f"ann@{'a' * 60}.{'b' * 60}.{'c' * 60}.example"  # longer than the column of usernames


@any_database
@with_tables
@pytest.mark.parametrize("username", ["ann@example.org", "Ann@Example.Org"])
async def test_a_username_that_is_the_address_changes_with_it(database: Database, username: str) -> None:
    async with installed(database, **BY_ADDRESS) as auth:
        ann = await auth.users.create_user(username, "Ann@Example.org", PASSWORD)
        await auth.users.update(ann, email="New@EXAMPLE.org")
        for user in (ann, await auth.users.get(ann.id)):
            assert user is not None
            assert (user.username.lower(), user.email) == ("new@example.org", "New@example.org")
        assert not await auth.users.has_username("ann@example.org")


@any_database
@with_tables
@pytest.mark.parametrize(
    ("username", "fields"),
    [
        ("ann", {"email": "new@example.org"}),  # a name that the user or the site chose
        ("ann@example.org", {"email": "new@example.org", "username": "annabel"}),
        ("ann@example.org", {"email": "taken@example.org"}),  # as a username only
        ("ann@example.org", {"email": LONG}),
        ("ann@example.org", {"email": ""}),
        ("ann@example.org", {"first_name": "Ann"}),
    ],
)
async def test_another_username_stays_when_the_address_changes(
    database: Database, username: str, fields: dict[str, str]
) -> None:
    async with installed(database, **BY_ADDRESS) as auth:
        await auth.users.create_user("taken@example.org", "other@example.org")
        ann = await auth.users.create_user(username, "ann@example.org", PASSWORD)
        await auth.users.update(ann, **fields)
        stored = await auth.users.get(ann.id)
        assert stored is not None
        assert (stored.username, stored.email) == (ann.username, ann.email)
        assert stored.username == fields.get("username", username)
        assert stored.email == fields.get("email", "ann@example.org")


@any_database
@with_tables
async def test_a_username_that_users_type_stays_when_the_address_changes(database: Database) -> None:
    for fields in (("username",), ("username", "email")):
        async with installed(database, login_fields=fields) as auth:
            name = f"{'-'.join(fields)}@example.org"
            ann = await auth.users.create_user(name, name)
            await auth.users.update(ann, email=f"new-{name}")
            assert ann.username == name


# In whatever case


@pytest.fixture
async def caseless(database: Database) -> Any:
    async with installed(database, tables=Tables(username_case_sensitive=False)) as auth:
        yield auth


@with_tables
async def test_with_the_option_a_username_is_found_and_taken_in_whatever_case(caseless: Auth) -> None:
    ann = await caseless.users.create_user("Ann", password=PASSWORD)
    assert [await caseless.users.get_by_username(name) for name in ("Ann", "ANN", "ann", "bob")] == [ann] * 3 + [None]
    assert await caseless.authenticate(username="aNN", password=PASSWORD) == ann
    for name in ("ann", "ANN", "Ann"):
        with pytest.raises(AlreadyExists):
            await caseless.users.create_user(name)
    bob = await caseless.users.create_user("bob")
    with pytest.raises(AlreadyExists):
        await caseless.users.update(bob, username="aNn")
    await caseless.users.update(ann, username="ANN")
    assert (await caseless.users.get_by_username("ann") or bob).username == "ANN"
    async with client_of(site(caseless)) as client:
        assert (await post_login(client, username=" ann ")).status_code == 303


@with_tables
async def test_of_concurrent_creations_in_different_case_one_succeeds(caseless: Auth) -> None:
    async def create(name: str) -> bool:
        try:
            await caseless.users.create_user(name)
        except AlreadyExists:
            return False
        return True

    names = ["ann", "ANN", "Ann", "aNN", "anN", "AnN"]
    assert sum(await all_of(*map(create, names))) == 1


@with_tables
async def test_only_the_case_of_the_letters_a_to_z_is_ignored(caseless: Auth) -> None:
    kate = await caseless.users.create_user("Kate")
    assert await caseless.users.get_by_username("\u212aate") is None  # the Kelvin sign is no k
    assert await caseless.users.get_by_username("KATE") == kate


async def test_the_option_can_be_added_to_an_existing_database(database: Database) -> None:
    async with installed(database) as auth:
        try:
            await auth.users.create_user("ann")
            await auth.users.create_user("ANN")
            names_differ = True
        except AlreadyExists:  # MariaDB's collation takes the two for one
            names_differ = False
        tables = Tables(username_case_sensitive=False)
        if names_differ:
            with pytest.raises(ImproperlyConfigured, match=r"same username.*Rename all but one"):
                await migrate(auth.gateway, tables)
            await auth.database.execute(
                sa.update(tables.user).where(tables.user.c.username == "ANN").values(username="b")
            )
        assert (await migrate(auth.gateway, tables))[-1] == "auth_user_username_unique"
        assert await migrate(auth.gateway, tables) == []


@any_database
async def test_before_the_index_exists_two_users_are_found_by_their_spelling(database: Database) -> None:
    async with installed(database) as auth:
        ann, other = await auth.users.create_user("ann"), await auth.users.create_user("ANN")
        users = Auth(
            database,
            secret_key=SECRET_KEY,
            tables=Tables(username_case_sensitive=False),
        ).users
        assert await users.get_by_username("ann") == ann
        assert await users.get_by_username("ANN") == other
        assert await users.get_by_username("Ann") is None


# Validators


@pytest.mark.parametrize(
    ("name", "by_unicode", "by_ascii"),
    [
        ("joe", True, True),
        ("René", True, False),
        ("ᴮᴵᴳᴮᴵᴿᴰ", True, False),
        ("أحمد", True, False),
        ("o'connell", False, False),
        ("Éric\n", False, False),
        ("zerowidth\u200bspace", False, False),
        ("trailingnewline\u000a", False, False),
    ],
)
def test_the_username_validators_are_those_of_django(name: str, by_unicode: bool, by_ascii: bool) -> None:
    for validator, accepts in ((UnicodeUsernameValidator(), by_unicode), (ASCIIUsernameValidator(), by_ascii)):
        if accepts:
            validator(name)
        else:
            with pytest.raises(ValidationError, match=r"Enter a valid username|Use only the letters A to Z"):
                validator(name)


async def no_admins(username: str) -> None:
    """Refuses a name, after a look-up that takes a moment."""
    await asyncio.sleep(0)
    if "admin" in username:
        raise ValidationError("%(name)s is reserved.", "reserved", {"name": username})


@any_database
@with_tables
async def test_a_username_validator_of_the_site_decides_at_the_registration(database: Database) -> None:
    @dataclass(kw_only=True, eq=False)
    class Member(User):
        username_validator = no_admins

    options: dict[str, Any] = {"user_class": Member, "features": [Registration(fields=["username"])]}
    async with installed(database, **options) as auth, client_of(site(auth)) as client:
        form = {"username": "ann admin", "password1": PASSWORD, "password2": PASSWORD}
        headers = {"sec-fetch-site": "same-origin"}
        refused = await client.post("/accounts/register", json=form, headers=headers)
        assert refused.status_code == 422
        assert "ann admin is reserved." in refused.text
        for name in ("an\u200bn", "ann\u2028b", "\u3164"):  # the validator accepts these, and no user can have them
            refused = await client.post("/accounts/register", json={**form, "username": name}, headers=headers)
            assert refused.status_code == 422
            assert "cannot be saved" in refused.text
        accepted = await client.post("/accounts/register", json={**form, "username": "ann o'neill"}, headers=headers)
        assert accepted.status_code == 200
        assert await auth.users.get_by_username("ann o'neill") is not None


@dataclass(kw_only=True, eq=False)
class PlainMember(User):
    username_validator = ASCIIUsernameValidator()


@any_database
@with_tables
async def test_the_form_shows_what_the_validator_says(database: Database) -> None:
    options: dict[str, Any] = {"mailer": CollectingMailer(), "base_url": "http://testserver"}
    features = [Registration()]
    async with (
        installed(database, user_class=PlainMember, features=features, **options) as auth,
        client_of(site(auth)) as client,
    ):
        assert "The letters A to Z, digits" in (await client.get("/accounts/register")).text


def test_createsuperuser_heeds_the_validator_of_the_site(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ascii_site.py").write_text(
        "from databases import Database\n"
        "from starlette_auth import Auth\n"
        "from tests.users.test_usernames import PlainMember\n"
        f"auth = Auth(Database('sqlite+aiosqlite:///{tmp_path}/a.sqlite3'), secret_key='{'k' * 10}0123456789abcdefghijklmnop', "
        "user_class=PlainMember)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", PASSWORD)
    assert main(["--app", "ascii_site:auth", "createsuperuser", "--username", "René", "--noinput"]) == 1
    assert "upper or lower case" in capsys.readouterr().err


@any_database
@pytest.mark.parametrize("validator", [ASCIIUsernameValidator, "ascii", 5])
async def test_a_class_in_the_place_of_a_username_validator_is_refused(database: Database, validator: Any) -> None:
    @dataclass(kw_only=True, eq=False)
    class Member(User):
        username_validator = validator

    with pytest.raises(ImproperlyConfigured, match=r"username_validator = ASCIIUsernameValidator\(\)\.$"):
        Auth(database, secret_key=SECRET_KEY, user_class=Member)
