"""Nothing but text is a credential: JSON's null, numbers, booleans, lists and objects log nobody in."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    EmailChange,
    LoginFailed,
    MD5PasswordHasher,
    PasswordHasher,
    Passwords,
    PBKDF2PasswordHasher,
    Registration,
    User,
    authenticate,
    login,
)
from starlette_auth.authentication import confirm_password
from starlette_auth.passwords.passwords import default_hashers
from starlette_auth.testing import CollectingMailer, log_in

from ..conftest import PASSWORD, any_database, client_of, installed, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

NOT_TEXT: list[Any] = [None, True, False, 0, 1, 1.5, [], ["None"], {}, {"a": 1}]
HASHERS: list[PasswordHasher] = [
    *default_hashers()[2:],
    Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
    PBKDF2PasswordHasher(iterations=1),
    MD5PasswordHasher(),
]
HERE = {"origin": "http://testserver"}


class CountingHasher(PBKDF2PasswordHasher):
    """Counts its hashes."""

    def __init__(self) -> None:
        super().__init__(iterations=1)
        self.hashes = 0

    def encode(self, password: str) -> str:
        self.hashes += 1
        return super().encode(password)

    def verify(self, password: str, encoded: str) -> bool:
        self.hashes += 1
        return super().verify(password, encoded)


@pytest.fixture
def hasher() -> CountingHasher:
    return CountingHasher()


@pytest.fixture
async def auth(database: Database, hasher: CountingHasher) -> AsyncIterator[Auth]:
    mailer = CollectingMailer()
    features = [Registration(), EmailChange()]
    options: dict[str, Any] = {"mailer": mailer, "base_url": "http://testserver", "features": features}
    async with installed(database, passwords=Passwords([hasher]), **options) as auth:
        yield auth


async def api_login(request: Request) -> Response:
    """The login endpoint of the README."""
    body = await request.json()
    user = await authenticate(request, username=body["username"], password=body["password"])
    if user is None:
        return JSONResponse({"detail": "Wrong username or password."}, 401)
    await login(request, user)
    return JSONResponse({"username": user.username})


@pytest.mark.parametrize("value", NOT_TEXT, ids=repr)
async def test_no_value_but_text_authenticates(auth: Auth, hasher: CountingHasher, value: Any) -> None:
    failures: list[LoginFailed] = []
    auth.events.on(LoginFailed)(failures.append)
    await auth.users.create_user("ann", password=str(value))  # "None", "True", "[]" and so on
    await auth.users.create_user(str(value), password=PASSWORD)
    async with client_of(make_app(auth, Route("/api", api_login, methods=["POST"]))) as client:
        for username, password in (("ann", value), (value, PASSWORD), (value, value), ("unknown", value)):
            before = hasher.hashes
            response = await client.post("/api", json={"username": username, "password": password}, headers=HERE)
            assert response.status_code == 401
            assert hasher.hashes == before + 1
        assert len(failures) == 4
        assert "session" not in client.cookies
        text = {"username": str(value), "password": PASSWORD}
        assert (await client.post("/api", json=text, headers=HERE)).status_code == 200


async def test_credentials_that_are_not_text_are_throttled(auth: Auth) -> None:
    async with client_of(make_app(auth, Route("/api", api_login, methods=["POST"]))) as client:
        statuses = [
            (await client.post("/api", json={"username": 1, "password": None}, headers=HERE)).status_code
            for _ in range(6)
        ]
        assert statuses == [401] * 5 + [429]


async def test_bytes_are_no_text(auth: Auth) -> None:
    async def probe(request: Request) -> Response:
        for username, password in (("ann", PASSWORD.encode()), (b"ann", PASSWORD), (bytearray(b"ann"), PASSWORD)):
            assert await authenticate(request, username=username, password=password) is None
        assert await authenticate(request, username="ann", password=PASSWORD) is not None
        return PlainTextResponse("")

    await auth.users.create_user("ann", password=PASSWORD)
    async with client_of(make_app(auth, Route("/probe", probe))) as client:
        assert (await client.get("/probe")).status_code == 200


@pytest.mark.parametrize("value", NOT_TEXT, ids=repr)
async def test_no_value_but_text_confirms_the_password(auth: Auth, hasher: CountingHasher, value: Any) -> None:
    ann = await auth.users.create_user("ann", password=str(value))
    before = hasher.hashes
    assert not await auth.users.check_password(ann, value)
    assert not (await auth.passwords.check(ann.password, value)).matches
    assert not (await auth.passwords.check(None, value)).matches
    assert hasher.hashes == before + 3

    async def confirm(request: Request) -> Response:
        confirmed = await confirm_password(auth, request, ann, value, action="reauthenticate")
        return PlainTextResponse(str(confirmed))

    async with client_of(make_app(auth, Route("/confirm", confirm))) as client:
        assert (await client.get("/confirm")).text == "False"


PAGES: dict[str, list[str]] = {
    "login": ["username", "password"],
    "reauthenticate": ["password"],
    "password_change": ["old_password", "new_password1", "new_password2"],
    "password_reset": ["email"],
    "register": ["email"],
    "email_change": ["email", "old_password"],
}


@pytest.mark.parametrize("value", NOT_TEXT, ids=repr)
@pytest.mark.parametrize("page", PAGES)
async def test_the_pages_refuse_values_that_are_not_text(auth: Auth, page: str, value: Any) -> None:
    ann = await auth.users.create_user("ann", "ann@example.org", password=str(value))
    async with client_of(make_app(auth), headers=HERE) as client:
        if page not in ("login", "password_reset", "register"):
            await log_in(client, ann, auth)
        form = dict.fromkeys(PAGES[page], "text@example.org")
        for name in form:
            response = await client.post(f"/accounts/{page}", json={**form, name: value})
            assert response.status_code == 400, response.text
            assert "not text" in response.json()["detail"]


@pytest.mark.parametrize("value", [*NOT_TEXT[1:], b"bytes"], ids=repr)
async def test_new_names_and_passwords_must_be_text(auth: Auth, value: Any) -> None:
    ann = await auth.users.create_user("ann", password=PASSWORD)
    kind = type(value).__name__
    for attempt in (
        lambda: auth.users.set_password(ann, value),
        lambda: auth.users.create_user("ben", password=value),
        lambda: auth.users.create_superuser("ben", password=value),
        lambda: auth.users.create_user(value),
        lambda: auth.users.create_user("ben", value),
        lambda: auth.users.update(ann, username=value),
        lambda: auth.users.update(ann, email=value),
        lambda: auth.passwords.hash(value),
        lambda: auth.validate_password(value),
    ):
        with pytest.raises(TypeError, match=f"must be text, and this is of type {kind}. Pass a str"):
            await attempt()
    fresh = await auth.users.get(ann.id)
    assert fresh is not None
    assert (fresh.username, fresh.email, fresh.password) == ("ann", "", ann.password)
    assert await auth.users.count() == 1


@pytest.mark.parametrize("value", [*NOT_TEXT, b"!"], ids=repr)
async def test_a_password_hash_must_be_text(auth: Auth, value: Any) -> None:
    ann = await auth.users.create_user("ann", password=PASSWORD)
    with pytest.raises(ValueError, match=r"Use set_password\(user, raw\)"):
        await auth.users.update(ann, password=value)
    if value:
        with pytest.raises(ValueError, match=r"Use set_password\(user, raw\)"):
            await auth.users.create_user("ben", encoded_password=value)
    assert await auth.users.check_password(ann, PASSWORD)


async def test_a_username_of_none_is_refused(auth: Auth) -> None:
    ann = await auth.users.create_user("ann", password=PASSWORD)
    for attempt in (
        lambda: auth.users.create_user(None),  # type: ignore[arg-type]
        lambda: auth.users.update(ann, username=None),
        lambda: auth.validate_password(None),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match="must be text, and this is of type NoneType"):
            await attempt()
    user: User = await auth.users.create_user("without a password", password=None)
    assert not await auth.users.check_password(user, "None")


@pytest.mark.parametrize("value", [*NOT_TEXT, b"bytes"], ids=repr)
@pytest.mark.parametrize("hasher", HASHERS, ids=lambda hasher: hasher.algorithm)
def test_hashers_refuse_values_that_are_not_text(hasher: PasswordHasher, value: Any) -> None:
    with pytest.raises(TypeError, match="The password must be text, and this is of type"):
        hasher.encode(value)
    encoded = hasher.encode("bytes") if value == b"bytes" else ENCODED[hasher.algorithm]
    with pytest.raises(TypeError, match="The password must be text, and this is of type"):
        hasher.verify(value, encoded)
    assert hasher.verify("bytes" if value == b"bytes" else "None", encoded)


ENCODED = {hasher.algorithm: hasher.encode("None") for hasher in HASHERS}
