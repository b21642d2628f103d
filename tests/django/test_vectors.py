"""Tests of Django's formats with vectors from real Django versions. They do not need Django."""

import subprocess
import sys
from typing import Any

import pytest
from itsdangerous import BadData

from starlette_auth import PasswordResetTokens
from starlette_auth.core.signing import salted_hmac
from starlette_auth.django.csrf import mask, secret_in
from starlette_auth.django.sessions import SALT
from starlette_auth.django.signed_cookies import COOKIE_SALT
from starlette_auth.django.signing import DjangoSigner
from starlette_auth.security.reset_tokens import decode_uid

from ..security.test_tokens import at, user_of
from ..support.server import ROOT, environment
from .vectors import ALL, VECTORS

vectors = pytest.mark.parametrize("vectors", VECTORS, ids=lambda vectors: str(vectors["django"]))
GOLDEN = [
    pytest.param(vectors["password"], entry, id=f"{vectors['django']}-{entry['algorithm']}")
    for vectors in VECTORS
    for entry in vectors["encoded"]
]
WITHOUT_DJANGO = """
import sys, pytest
sys.modules["django"] = None
sys.exit(pytest.main(["-n0", "-pno:cacheprovider", "tests/django/test_vectors.py", "-k", "not passes_without_django"]))
"""


def test_this_file_passes_without_django() -> None:
    command = [sys.executable, "-c", WITHOUT_DJANGO]
    completed = subprocess.run(command, cwd=ROOT, env=environment(CI=""), capture_output=True, text=True, check=False)
    assert completed.returncode == 0, completed.stdout


def test_the_vectors_are_of_two_versions_of_django_and_every_algorithm() -> None:
    assert [vectors["django"] for vectors in VECTORS] == ["5.2.19", "6.1.3"]
    for vectors in VECTORS:
        assert {entry["algorithm"] for entry in vectors["encoded"]} == set(ALL)


@pytest.mark.parametrize(("password", "entry"), GOLDEN)
def test_django_password_hashes_are_verified(password: str, entry: dict[str, Any]) -> None:
    hasher = ALL[entry["algorithm"]]
    assert hasher.verify(password, entry["encoded"])
    assert not hasher.verify(password + " ", entry["encoded"])


@vectors
async def test_reset_tokens_equal_those_of_django(vectors: dict[str, Any]) -> None:
    for name, changes in (
        ("reset_token", {}),
        ("reset_token_never_logged_in", {"id": 43, "email": "", "last_login": None}),
    ):
        vector, user = vectors[name], user_of(vectors, **changes)
        reset_tokens = PasswordResetTokens(vectors["secret_key"], clock=at(vector["ts"]))
        assert await reset_tokens.make(user) == vector["token"]
        assert await reset_tokens.check(user, vector["token"])
        assert await reset_tokens.consume(user, vector["token"])


def test_all_vectors_refer_to_the_same_user() -> None:
    for vectors in VECTORS:
        assert {decode_uid(uid) for uid in vectors["uidb64"].values()} >= {"42"}


@vectors
def test_django_sessions_are_read_and_written(vectors: dict[str, Any]) -> None:
    cases = [
        ("session_plain", SALT),
        ("session_zip", SALT),
        ("signed_cookie", COOKIE_SALT),
        ("signing_dumps", "django.core.signing"),
    ]
    for name, salt in cases:
        encoded, data = vectors[name]["encoded"], vectors[name]["data"]
        created = signed_at(encoded)
        signer = DjangoSigner(["a newer key", vectors["secret_key"]], salt, clock=lambda created=created: created)  # type: ignore[misc]
        assert signer.loads(encoded) == data
        assert signer.loads(encoded, 10) == data
        assert DjangoSigner([vectors["secret_key"]], salt, clock=lambda created=created: created).dumps(data) == encoded  # type: ignore[misc]
        with pytest.raises(BadData):
            DjangoSigner([vectors["secret_key"]], salt, clock=lambda created=created: created + 11).loads(encoded, 10)  # type: ignore[misc]
        for damaged in (encoded[:-1], encoded.replace(":", ";"), f"x{encoded}", encoded.replace("eyJ", "eyK"), ""):
            if damaged != encoded:
                with pytest.raises(BadData):
                    signer.loads(damaged)
        with pytest.raises(BadData):
            DjangoSigner([vectors["secret_key"]], "another salt").loads(encoded)


def signed_at(encoded: str) -> int:
    digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    number = 0
    for digit in encoded.split(":")[1]:
        number = number * 62 + digits.index(digit)
    return number


@vectors
def test_django_csrf_tokens_are_read_and_written(vectors: dict[str, Any]) -> None:
    secret = vectors["csrf"]["secret"]
    assert secret_in(vectors["csrf"]["masked"]) == secret_in(mask(secret)) == secret_in(secret) == secret
    for malformed in (None, "", "a" * 31, "a" * 63, "ä" * 64, "_" * 32):
        assert secret_in(malformed) is None


@vectors
def test_the_session_auth_hash_equals_that_of_django(vectors: dict[str, Any]) -> None:
    salt = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash"
    assert salted_hmac(salt, vectors["user"]["password"], vectors["secret_key"]) == vectors["session_auth_hash"]
