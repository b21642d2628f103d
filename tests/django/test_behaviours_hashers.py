"""Behaviours of Django's own tests of hashers, validators and tokens, which no other test of this package proves.

They are in `auth_tests` of version 5.2: test_hashers.py, test_validators.py and test_tokens.py.
"""

from typing import Any

import pytest
from databases import Database

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    BCryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    CommonPasswordValidator,
    ImproperlyConfigured,
    MD5PasswordHasher,
    MinimumLengthValidator,
    PasswordHasher,
    PasswordResetTokens,
    Passwords,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
    User,
)
from starlette_auth.passwords.passwords import default_hashers
from starlette_auth.security.reset_tokens import decode_uid, encode_uid
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, SECRET_KEY, any_database, client_of, installed, with_tables
from ..support.apps import make_app
from ..support.hashers import CHEAP_HASHERS

pytestmark = [with_tables, any_database]

#: Hashes of Django's tests: hasher, password, hash. Those of Argon2 have an old version or variant, or a short salt.
WRITTEN: list[tuple[Any, str, str]] = [
    (
        PBKDF2PasswordHasher(),
        "lètmein",
        "pbkdf2_sha256$1000000$seasalt$r1uLUxoxpP2Ued/qxvmje7UH9PUJBkRrvf9gGPL7Cps=",
    ),
    (
        PBKDF2PasswordHasher(),
        "lètmein",
        "pbkdf2_sha256$1000000$seasalt2$egbhFghgsJVDo5Tpg/k9ZnfbySKQ1UQnBYXhR97a7sk=",
    ),
    (PBKDF2SHA1PasswordHasher(), "lètmein", "pbkdf2_sha1$1000000$seasalt2$3R9hvSAiAy5ARspAFy5GJ/2rjXo="),
    (MD5PasswordHasher(), "lètmein", "md5$seasalt$3f86d0d3d465b7b458c231bf3555c0e3"),
    (
        ScryptPasswordHasher(),
        "lètmein",
        "scrypt$16384$seasalt$8$5$ECMIUp+LMxMSK8xB/IVyba+KYGTI7FTnet025q/1f/vBAVnnP3hdYqJuRi+mJn6ji6ze3Fbb7JEFPKGpuEf5vw==",
    ),
    (
        Argon2PasswordHasher(),
        "secret",
        "argon2$argon2i$m=8,t=1,p=1$c29tZXNhbHQ$gwQOXSNhxiOxPOA0+PY10P9QFO4NAYysnqRt1GSQLE55m+2GYDt9FEjPMHhP2Cuf0nOEXXMocVrsJAtNSsKyfg",
    ),
    (
        Argon2PasswordHasher(),
        "secret",
        "argon2$argon2i$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$YC9+jJCrQhs5R6db7LlN8Q",
    ),
    (
        Argon2PasswordHasher(),
        "secret",
        "argon2$argon2id$v=19$m=102400,t=2,p=8$Y041dExhNkljRUUy$TMa6A8fPJhCAUXRhJXCXdw",
    ),
]


@pytest.mark.parametrize(
    ("hasher", "password", "encoded"), WRITTEN, ids=lambda value: getattr(value, "algorithm", None)
)
async def test_hashes_of_djangos_tests_match_and_must_be_updated(hasher: Any, password: str, encoded: str) -> None:
    assert hasher.verify(password, encoded)
    assert not hasher.verify(f"{password}z", encoded)
    assert hasher.must_update(encoded)
    assert hasher.decode(encoded)["algorithm"] == hasher.algorithm
    passwords = Passwords([hasher])
    assert await passwords.check(encoded, password) == (True, True)
    passwords.close()


PAST_72_BYTES = "VSK0UYV6FFQVZ0KG88DYN9WADAADZO1CTSIVDJUNZSUML6IBX7LN7ZS3R5JGB3RGZ7VI7G7DJQ9NI8BQFSRPTG6UWTTVESA5ZPUN"


@pytest.mark.parametrize("hasher", [BCryptPasswordHasher(rounds=4), BCryptSHA256PasswordHasher(rounds=4)])
def test_new_bcrypt_hashes_are_current_and_only_with_sha256_count_each_byte(hasher: Any) -> None:
    encoded = hasher.encode(PAST_72_BYTES)
    assert not hasher.must_update(encoded)
    assert hasher.verify(PAST_72_BYTES, encoded)
    assert hasher.verify(PAST_72_BYTES[:72], encoded) is (hasher.algorithm == "bcrypt")


WEAKER: list[tuple[Any, Any]] = [
    (PBKDF2PasswordHasher(iterations=1), PBKDF2PasswordHasher(iterations=2)),
    (BCryptPasswordHasher(rounds=4), BCryptPasswordHasher(rounds=5)),
    (ScryptPasswordHasher(work_factor=2**4), ScryptPasswordHasher(work_factor=2**5)),
    (
        Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
        Argon2PasswordHasher(time_cost=2, memory_cost=8, parallelism=1),
    ),
    (
        Argon2PasswordHasher(time_cost=1, memory_cost=8, parallelism=1),
        Argon2PasswordHasher(time_cost=1, memory_cost=16, parallelism=1),
    ),
    (MD5PasswordHasher(), PBKDF2PasswordHasher(iterations=1)),
    (PBKDF2SHA1PasswordHasher(iterations=9), PBKDF2PasswordHasher(iterations=1)),
]


@pytest.mark.parametrize(("weak", "strong"), WEAKER, ids=lambda hasher: str(hasher.algorithm))
async def test_a_login_replaces_a_weaker_hash_and_only_then(auth: Auth, weak: Any, strong: Any) -> None:
    auth.users.passwords = Passwords([weak])
    ann = await auth.users.create_user("ann", encoded_password=weak.encode("letmein"))
    before = ann.password
    for hashers, password, is_replaced in (
        ([weak, strong], "letmein", False),
        ([strong, weak], "WRONG", False),
        ([strong, weak], "letmein", True),
    ):
        auth.users.passwords = Passwords(hashers)
        assert await auth.users.check_password(ann, password) is (password == "letmein")
        assert (ann.password != before) is is_replaced
        auth.users.passwords.close()
    assert strong.verify("letmein", ann.password)


@pytest.mark.parametrize("hasher", [*default_hashers(), MD5PasswordHasher()], ids=lambda hasher: hasher.algorithm)
@pytest.mark.parametrize("password", [None, 1, b"bytes"])
def test_only_text_is_hashed(hasher: PasswordHasher, password: Any) -> None:
    with pytest.raises(TypeError):
        hasher.encode(password)


@pytest.mark.parametrize("encoded", ["lètmein_badencoded", ""])
def test_a_stored_text_that_is_no_hash_counts_as_a_usable_password(encoded: str) -> None:
    assert User(id=1, username="ann", password=encoded).has_usable_password()


async def test_a_hash_of_an_unknown_algorithm_is_refused_where_it_is_stored(auth: Auth) -> None:
    with pytest.raises(ValueError, match="hash"):
        await auth.users.create_user("ann", encoded_password="lolcat$salt$hash")


@pytest.mark.parametrize("hasher", CHEAP_HASHERS, ids=lambda hasher: str(hasher.algorithm))
async def test_a_password_matches_its_hash_and_a_blank_one_only_its_own(hasher: PasswordHasher) -> None:
    passwords = Passwords([hasher])
    encoded, blank = await passwords.hash("lètmein"), await passwords.hash("")
    assert encoded.startswith(f"{hasher.algorithm}$")
    assert passwords.is_encoded(encoded)
    assert (await passwords.check(encoded, "lètmein")) == (True, False)
    assert (await passwords.check(blank, "")) == (True, False)
    for stored, wrong in ((encoded, "lètmeinz"), (encoded, ""), (blank, " "), (encoded, encoded), (encoded, None)):
        assert not (await passwords.check(stored, wrong)).matches
    passwords.close()


async def test_an_unusable_hash_is_random_and_matches_nothing() -> None:
    passwords = Passwords([MD5PasswordHasher()])
    encoded = await passwords.hash(None)
    assert encoded[0] == "!"
    assert len(encoded) == 41  # as in Django
    assert encoded != await passwords.hash(None)
    for wrong in (None, encoded, "!", "", "lètmein"):
        assert not (await passwords.check(encoded, wrong)).matches
    passwords.close()


async def test_only_a_right_password_renews_a_hash(auth: Auth) -> None:
    old = MD5PasswordHasher().encode(PASSWORD)
    auth.users.passwords = Passwords([PBKDF2PasswordHasher(iterations=2), MD5PasswordHasher()])
    ann = await auth.users.create_user("ann", encoded_password=old)
    assert not await auth.users.check_password(ann, "WRONG")
    assert ann.password == old
    assert await auth.users.check_password(ann, PASSWORD)
    assert ann.password.startswith("pbkdf2_sha256$2$")


# The base class


def test_a_hasher_has_to_have_its_methods() -> None:
    class Half:
        algorithm = "half"

        def encode(self, password: str) -> str:
            return f"half${password}"

    for hasher in (Half(), object(), PasswordHasher):
        with pytest.raises(ImproperlyConfigured, match=r"Passwords"):
            Passwords([hasher])  # type: ignore[list-item]


# Validators


class Ampersand(MinimumLengthValidator):
    def get_help_text(self) -> str:
        return "Must contain &"


@pytest.mark.parametrize(
    ("validators", "texts", "shown"),
    [
        ([], [], []),
        (
            [CommonPasswordValidator(), MinimumLengthValidator(12)],
            [
                "Your password can’t be a commonly used password.",
                "Your password must contain at least 12 characters.",
            ],
            ["At least 12 characters, hard to guess."],
        ),
        ([Ampersand()], ["Must contain &"], ["Must contain &amp;"]),
    ],
    ids=len,
)
async def test_the_page_of_a_new_password_shows_the_help_of_each_validator(
    database: Database, validators: list[Any], texts: list[str], shown: list[str]
) -> None:
    """The page has one line for the built-in rules; `password_help` has one for each."""
    async with installed(database, password_validators=validators) as auth:
        ann = await auth.users.create_user("ann", password="any password")
        assert auth.password_help() == texts
        async with client_of(make_app(auth)) as client:
            await log_in(client, ann, auth)
            page = (await client.get("/accounts/password_change")).text
    for text in shown:
        assert text in page
    assert ('id="id_new_password1_help"' in page) is bool(texts)


# Tokens


@pytest.mark.parametrize("email", [None, "test4@example.com"])
async def test_a_new_address_makes_a_token_invalid(auth: Auth, email: str | None) -> None:
    tokens = PasswordResetTokens("a secret key that is only for this test, and long")
    ann = await auth.users.create_user("ann", email)
    token = await tokens.make(ann)
    assert await tokens.check(ann, token)
    await auth.users.update(ann, email="test4new@example.com")
    assert not await tokens.check(ann, token)


def test_tokens_need_a_secret_key() -> None:
    with pytest.raises(ImproperlyConfigured, match="secret"):
        PasswordResetTokens("")


async def test_a_stateless_token_is_of_its_user_its_second_and_its_key(auth: Auth, ann: User) -> None:
    clock = FrozenClock()
    tokens = PasswordResetTokens(SECRET_KEY, max_age=3600, clock=clock)
    token = await tokens.make(ann)
    assert await tokens.make(await auth.users.get(ann.id) or User(id=None, username="")) == token
    clock.tick(3600)
    assert await tokens.check(ann, token)
    clock.tick(1)
    assert not await tokens.check(ann, token)
    others = PasswordResetTokens("another secret key, which is long enough for the tests", clock=clock)
    assert not await others.check(ann, await tokens.make(ann))
    await auth.users.update(ann, email="new@example.org")
    assert not await tokens.check(ann, token)


@pytest.mark.parametrize("text", ["", "€", "=", "a", "====", "////", "\x00"])
async def test_a_malformed_uid_belongs_to_no_user(auth: Auth, ann: User, text: str) -> None:
    assert await auth.users.get(decode_uid(text)) is None
    assert decode_uid(encode_uid(ann)) == str(ann.id)
