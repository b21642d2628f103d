"""What validators and hashers offer beside their rules: hooks, messages, parameters and summaries."""

import unicodedata
from typing import Any

import pytest
from databases import Database
from django.conf import settings
from django.contrib.auth import hashers as django
from starlette.applications import Starlette
from starlette.routing import Mount

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    CommonPasswordValidator,
    ContextWordsValidator,
    MaximumLengthValidator,
    MD5PasswordHasher,
    MinimumLengthValidator,
    NumericPasswordValidator,
    Passwords,
    PBKDF2PasswordHasher,
    PwnedPasswordsValidator,
    Registration,
    User,
    UserAttributeSimilarityValidator,
    ValidationError,
    middleware,
    routes,
)
from starlette_auth.cli.main import main
from starlette_auth.passwords.validators import validate_password
from starlette_auth.testing import CollectingMailer, log_in

from ..conftest import PASSWORD, any_database, client_of, installed, with_tables
from ..support.hashers import CHEAP_HASHERS

NEW = "a new correct horse battery"
HERE = {"sec-fetch-site": "same-origin"}


class History:
    """Refuses passwords that were used before. It is told of each new one."""

    def __init__(self) -> None:
        self.auth: Auth | None = None
        self.told: list[tuple[str, str, object]] = []
        self.fails = False

    async def validate(self, password: str, user: Any = None) -> None:
        if any(password == earlier for earlier, *_ in self.told):
            raise ValidationError("You had %(what)s before.", "password_used", {"what": "this"})

    def get_help_text(self) -> str:
        return ""

    async def password_changed(self, password: str, user: Any) -> None:
        if self.fails:
            raise RuntimeError("the history is full")
        assert self.auth is not None
        stored = await self.auth.users.get(user.id)  # the change can be seen
        assert stored is not None
        assert stored.password == user.password
        self.told.append((password, user.username, user.id))


class Told:
    """Is told without a coroutine."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def validate(self, password: str, user: Any = None) -> None: ...

    def get_help_text(self) -> str:
        return ""

    def password_changed(self, password: str, user: Any) -> None:
        self.told.append(password)


class Site:
    def __init__(self, auth: Auth, history: History, mailer: CollectingMailer) -> None:
        self.auth, self.history, self.mailer = auth, history, mailer
        history.auth = auth
        app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
        self.client = client_of(app, headers=HERE, follow_redirects=True)

    def told(self) -> list[tuple[str, str]]:
        return [(password, name) for password, name, _ in self.history.told]

    async def register(self, **fields: str) -> None:
        await self.client.get("/accounts/register")  # so that the link is opened in the same browser
        form = {"username": "ann", "password1": PASSWORD, "password2": PASSWORD, **fields}
        page = await self.client.post("/accounts/register", data=form)
        assert page.status_code == 200, page.text


@pytest.fixture
def history() -> History:
    return History()


def site_on(auth: Auth, history: History) -> Site:
    mailer = auth.mail_queue.mailer
    assert isinstance(mailer, CollectingMailer)
    return Site(auth, history, mailer)


def options(history: History, *features: Any) -> dict[str, Any]:
    return {
        "password_validators": [MinimumLengthValidator(), history],
        "mailer": CollectingMailer(),
        "base_url": "http://testserver",
        "features": features,
    }


@any_database
@with_tables
async def test_validators_are_told_of_each_new_password(database: Database, history: History) -> None:
    async with installed(database, **options(history)) as auth:
        site = site_on(auth, history)
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        assert site.told() == [(PASSWORD, "ann")]
        await auth.users.set_password(ann, "e\u0301" * 20)
        assert site.told()[1:] == [(unicodedata.normalize("NFC", "e\u0301" * 20), "ann")]
        await auth.users.set_password(ann, None)
        assert len(site.told()) == 2  # no password is none
        await auth.users.set_password(ann, NEW)
        assert await auth.users.check_password(ann, NEW)
        assert len(site.told()) == 3
        # The page that changes the password
        await log_in(site.client, ann, auth)
        fields = {"old_password": NEW, "new_password1": PASSWORD, "new_password2": PASSWORD}
        page = await site.client.post("/accounts/password_change", data=fields)
        assert "You had this before." in page.text
        fields |= {"new_password1": NEW + "!", "new_password2": NEW + "!"}
        assert (await site.client.post("/accounts/password_change", data=fields)).status_code == 200
        assert site.told()[3:] == [(NEW + "!", "ann")]


@any_database
@with_tables
async def test_validators_are_told_of_a_password_that_was_reset(database: Database, history: History) -> None:
    async with installed(database, **options(history)) as auth:
        site = site_on(auth, history)
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await site.client.post("/accounts/password_reset", data={"email": "ann@example.org"})
        await auth.mail_queue.drain()
        page = await site.client.get(site.mailer.links()[0])
        fields = {"new_password1": NEW, "new_password2": NEW}
        assert (await site.client.post(page.url, data=fields)).status_code == 200
        assert site.told()[1:] == [(NEW, "ann")]


@any_database
@with_tables
@pytest.mark.parametrize("verify", ["before", "after", ""])
async def test_validators_are_told_of_the_password_of_a_new_account(
    database: Database, history: History, verify: Any
) -> None:
    feature = Registration(verify=verify) if verify else Registration(fields=["username"])
    async with installed(database, **options(history, feature)) as auth:
        site = site_on(auth, history)
        await site.register(**({"email": "ann@example.org"} if verify else {}))
        if verify == "before":
            assert site.told() == []  # there is no account yet
            await auth.mail_queue.drain()
            page = await site.client.get(site.mailer.links()[0])
            assert 'type="password"' in page.text  # otherwise the password would not be known any more
            await site.client.post(page.url, data={"password": PASSWORD})
        ann = await auth.users.get_by_username("ann")
        assert ann is not None
        assert history.told == [(PASSWORD, "ann", ann.id)]


@any_database
@with_tables
async def test_a_registration_asks_for_no_password_again_if_no_validator_needs_it(database: Database) -> None:
    settings = {**options(History(), Registration()), "password_validators": [MinimumLengthValidator()]}
    async with installed(database, **settings) as auth:
        site = site_on(auth, History())
        await site.register(email="ann@example.org")
        await auth.mail_queue.drain()
        page = await site.client.get(site.mailer.links()[0])
        assert 'type="password"' not in page.text


@any_database
@with_tables
async def test_a_validator_that_fails_undoes_the_change(database: Database, history: History) -> None:
    async with installed(database, **options(history)) as auth:
        site_on(auth, history)
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        history.fails = True
        with pytest.raises(RuntimeError):
            await auth.users.set_password(ann, NEW)
        with pytest.raises(RuntimeError):
            await auth.users.create_user("bob", password=NEW)
        history.fails = False
        assert await auth.users.check_password(ann, PASSWORD)
        assert await auth.users.count() == 1


@any_database
@with_tables
async def test_a_stronger_hash_of_the_same_password_is_no_new_password(database: Database) -> None:
    told = Told()
    weak = Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    passwords = Passwords([weak, PBKDF2PasswordHasher(iterations=1)])
    async with installed(database, password_validators=[told], passwords=passwords) as auth:
        encoded = PBKDF2PasswordHasher(iterations=1).encode(PASSWORD)
        ann = await auth.users.create_user("ann", encoded_password=encoded)
        assert await auth.users.check_password(ann, PASSWORD)
        assert ann.password.startswith("argon2")
        assert told.told == []


def test_the_command_line_tells_the_validators(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "told_site.py").write_text(
        "from databases import Database\n"
        "from starlette_auth import Auth\n"
        "from tests.passwords.test_password_hooks import Told\n"
        "told = Told()\n"
        f"auth = Auth(Database('sqlite+aiosqlite:///{tmp_path}/a.sqlite3'), secret_key='{'k' * 20}0123456789abcdef',"
        " password_validators=[told])\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("STARLETTE_AUTH_APP", "told_site:auth")
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", PASSWORD)
    assert main(["migrate"]) == 0
    assert main(["createsuperuser", "--username", "root", "--noinput"]) == 0
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", NEW)
    assert main(["changepassword", "root"]) == 0
    told: Any = __import__("told_site").told
    assert told.told == [PASSWORD, NEW]


# Messages and parameters


class Friendly(MinimumLengthValidator):
    def get_error_message(self) -> str:
        return f"Please, {self.min_length} at least."


async def _error(validator: Any, password: str, user: Any = None) -> ValidationError:
    [error] = await validate_password(password, [validator], user)
    return error


async def test_each_validator_has_its_message_and_parameters() -> None:
    ann = User(id=1, username="annabelle")
    for validator, password, params in (
        (MinimumLengthValidator(8), "short", {"min_length": 8}),
        (MaximumLengthValidator(3), "long", {"max_length": 3}),
        (UserAttributeSimilarityValidator(), "annabelle1", {"verbose_name": "username"}),
        (CommonPasswordValidator(), "password", None),
        (NumericPasswordValidator(), "1234", None),
        (ContextWordsValidator(["acme"]), "acme1", None),
    ):
        error = await _error(validator, password, ann)
        assert error.params == params
        assert error.message == validator.get_error_message() % (params or {})
        assert "%" not in error.message
    assert "data breaches" in PwnedPasswordsValidator().get_error_message()


async def test_a_subclass_changes_the_message_only() -> None:
    assert str(await _error(Friendly(20), "short")) == "Please, 20 at least."
    strong: Any = User(id=1, username="ann")
    strong.has_second_factor = True
    assert str(await _error(Friendly(20), "short", strong)) == "Please, 8 at least."


def test_the_parameters_of_an_error_replace_their_names_in_the_message() -> None:
    error = ValidationError("At most %(count)d of %(what)s.", "many", {"count": 3, "what": "them"})
    assert (str(error), error.code, error.params) == ("At most 3 of them.", "many", {"count": 3, "what": "them"})
    assert str(ValidationError("100 % sure", params={"a": 1})) == "100 % sure"
    assert str(ValidationError("%(b)s", params={"a": 1})) == "%(b)s"
    assert ValidationError("plain").params is None


# Hashers

SALT = "0123456789abcdefghijkl"
HASHERS: list[Any] = [
    Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
    *CHEAP_HASHERS,
]


@pytest.mark.parametrize("hasher", HASHERS, ids=lambda hasher: str(hasher.algorithm))
def test_a_hash_is_decoded_and_summarized_as_in_django(hasher: Any) -> None:
    if not settings.configured:
        settings.configure()
    theirs = {
        kind.algorithm: kind
        for kind in (
            *(django.Argon2PasswordHasher, django.PBKDF2PasswordHasher, django.PBKDF2SHA1PasswordHasher),
            *(django.ScryptPasswordHasher, django.BCryptSHA256PasswordHasher, django.BCryptPasswordHasher),
            django.MD5PasswordHasher,
        )
    }[hasher.algorithm]()
    encoded = hasher.encode(PASSWORD)
    assert hasher.decode(encoded) == theirs.decode(encoded)
    assert hasher.safe_summary(encoded) == theirs.safe_summary(encoded)
    assert hasher.decode(encoded)["salt"] not in str(hasher.safe_summary(encoded))
    assert not hasher.must_update(encoded)
    with pytest.raises(ValueError, match="Pass a hash"):
        hasher.decode("another$1$2$3$4")


def test_passwords_summarize_any_hash() -> None:
    passwords = Passwords(HASHERS)
    for hasher in HASHERS:
        assert passwords.safe_summary(hasher.encode(PASSWORD))["algorithm"] == hasher.algorithm
    assert passwords.safe_summary("!unusable") == passwords.safe_summary("") == passwords.safe_summary("what$1") == {}
    for damaged in (
        "argon2$x",
        "argon2$argon2id$v=19$m=8,t=1,p=1$a",
        "pbkdf2_sha256$x$y$z",
        "md5",
        "bcrypt$$2b$",
        "scrypt$",
    ):
        assert passwords.safe_summary(damaged) == {}


@any_database
@with_tables
@pytest.mark.parametrize("encode", [PBKDF2PasswordHasher(iterations=1), MD5PasswordHasher()], ids=["pbkdf2", "md5"])
async def test_a_poor_salt_is_renewed_at_the_login(database: Database, encode: Any) -> None:
    async with installed(database, passwords=Passwords([encode])) as auth:
        poor = encode._encode(PASSWORD, "salt", *([1] if encode.algorithm != "md5" else []))
        ann = await auth.users.create_user("ann", encoded_password=poor)
        assert await auth.users.check_password(ann, PASSWORD)
        assert ann.password != poor
        renewed = ann.password
        assert await auth.users.check_password(ann, PASSWORD)
        assert ann.password == renewed
