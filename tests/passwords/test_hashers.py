"""Tests of each hasher against Django's hashers."""

import functools
import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
from django.conf import settings
from django.contrib.auth import hashers as django

from starlette_auth import (
    Argon2PasswordHasher,
    BCryptPasswordHasher,
    BCryptSHA256PasswordHasher,
    ImproperlyConfigured,
    MD5PasswordHasher,
    PasswordHasher,
    PBKDF2PasswordHasher,
    PBKDF2SHA1PasswordHasher,
    ScryptPasswordHasher,
)
from starlette_auth.passwords.passwords import default_hashers

from ..django.vectors import ALL

# Composed and decomposed letters, multi-byte characters, NUL, and more bytes than the block of any hash.
PASSWORDS = ["", "correct horse", "Ünïcode ☃ 𝄞", "e\u0301", "a\x00b", "long " * 12]


@pytest.fixture(scope="module", autouse=True)
def _django() -> None:
    if not settings.configured:
        settings.configure()
    settings.PASSWORD_HASHERS = [
        f"django.contrib.auth.hashers.{name}"
        for name in (
            "PBKDF2PasswordHasher",
            "PBKDF2SHA1PasswordHasher",
            "Argon2PasswordHasher",
            "BCryptSHA256PasswordHasher",
            "BCryptPasswordHasher",
            "ScryptPasswordHasher",
            "MD5PasswordHasher",
        )
    ]
    django.get_hashers.cache_clear()
    django.get_hashers_by_algorithm.cache_clear()


@functools.cache
def hash_by_django(algorithm: str, password: str) -> str:
    hasher: Any = type(django.get_hasher(algorithm))()  # a new instance: Django caches its own
    hasher.iterations, hasher.rounds, hasher.work_factor = 1000, 4, 16
    hasher.time_cost, hasher.memory_cost, hasher.parallelism = 1, 8, 1
    encoded: str = hasher.encode(password, hasher.salt())
    return encoded


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("algorithm", ALL)
def test_django_accepts_our_hashes(algorithm: str, password: str) -> None:
    encoded = ALL[algorithm].encode(password)
    assert len(encoded) <= 128, "Django's column has 128 characters"
    assert django.check_password(password, encoded)
    assert not django.check_password(password + "x", encoded)


@pytest.mark.parametrize("password", PASSWORDS)
@pytest.mark.parametrize("algorithm", ALL)
def test_our_hashers_accept_the_hashes_of_django(algorithm: str, password: str) -> None:
    encoded = hash_by_django(algorithm, password)
    assert ALL[algorithm].verify(password, encoded)
    assert not ALL[algorithm].verify(password + "x", encoded)


@pytest.mark.parametrize("algorithm", ALL)
def test_two_hashes_of_one_password_differ(algorithm: str) -> None:
    assert ALL[algorithm].encode("pw") != ALL[algorithm].encode("pw")


@pytest.mark.parametrize("hasher", default_hashers(), ids=lambda hasher: hasher.algorithm)
def test_the_default_parameters_fit_the_column_and_satisfy_django(hasher: PasswordHasher) -> None:
    encoded = hasher.encode("correct horse")
    assert len(encoded) <= 128
    assert hasher.verify("correct horse", encoded)
    assert not hasher.must_update(encoded)
    assert django.check_password("correct horse", encoded)
    # Django requires its own exact parameters for Argon2, and more PBKDF2 iterations with each version.
    django_hasher = django.get_hasher(hasher.algorithm)
    if hasher.algorithm != "argon2" and getattr(django_hasher, "iterations", 0) <= 1_000_000:
        assert not django.get_hasher(hasher.algorithm).must_update(encoded)


def test_argon2_uses_64_mib_three_passes_and_four_lanes() -> None:
    assert Argon2PasswordHasher().encode("pw").startswith("argon2$argon2id$v=19$m=65536,t=3,p=4$")


def test_argon2_is_the_first_default_hasher_and_md5_is_not_a_default() -> None:
    assert [hasher.algorithm for hasher in default_hashers()] == [
        "argon2",
        "pbkdf2_sha256",
        "pbkdf2_sha1",
        "scrypt",
        "bcrypt_sha256",
        "bcrypt",
    ]


@pytest.mark.parametrize(
    ("hasher", "stored", "expected"),
    [
        (PBKDF2PasswordHasher(iterations=1000), "pbkdf2_sha256$999$abcdefghijklmnopqrstuv$AA==", True),
        (PBKDF2PasswordHasher(iterations=1000), "pbkdf2_sha256$1000$abcdefghijklmnopqrstuv$AA==", False),
        # A stronger hash is kept: Django would otherwise replace it again, and two applications would take turns.
        (PBKDF2PasswordHasher(iterations=1000), "pbkdf2_sha256$1500000$abcdefghijklmnopqrstuv$AA==", False),
        (PBKDF2SHA1PasswordHasher(iterations=1000), "pbkdf2_sha1$999$abcdefghijklmnopqrstuv$AA==", True),
        (ScryptPasswordHasher(), "scrypt$16384$abcdefghijklmnopqrstuv$8$5$AA==", False),
        (ScryptPasswordHasher(), "scrypt$16384$abcdefghijklmnopqrstuv$8$1$AA==", True),
        (ScryptPasswordHasher(), "scrypt$8192$abcdefghijklmnopqrstuv$8$5$AA==", True),
        (ScryptPasswordHasher(), "scrypt$32768$abcdefghijklmnopqrstuv$8$5$AA==", False),
        (BCryptSHA256PasswordHasher(), "bcrypt_sha256$$2b$11$abcdefghijklmnopqrstuu", True),
        (BCryptSHA256PasswordHasher(), "bcrypt_sha256$$2b$12$abcdefghijklmnopqrstuu", False),
        (BCryptPasswordHasher(), "bcrypt$$2b$11$abcdefghijklmnopqrstuu", True),
        (BCryptPasswordHasher(), "bcrypt$$2b$13$abcdefghijklmnopqrstuu", False),
        (MD5PasswordHasher(), "md5$abcdefghijklmnopqrstuv$00", False),
        # A salt of fewer than 128 bits is poor.
        (MD5PasswordHasher(), "md5$salt$00", True),
        (PBKDF2PasswordHasher(iterations=1000), "pbkdf2_sha256$1000$abcdefghijklmnopqrstu$AA==", True),
        (PBKDF2SHA1PasswordHasher(iterations=1000), "pbkdf2_sha1$1000$salt$AA==", True),
        (ScryptPasswordHasher(), "scrypt$16384$salt$8$5$AA==", True),
        (Argon2PasswordHasher(), "argon2$argon2id$v=19$m=65536,t=3,p=4$c2FsdHNhbHQ$AAAAAAAA", True),
        # 16 random bytes, as other programs make them
        (Argon2PasswordHasher(), "argon2$argon2id$v=19$m=65536,t=3,p=4$/////////////////////w$AAAAAAAA", False),
        (Argon2PasswordHasher(), "argon2$argon2id$v=19$m=65536,t=3,p=4$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dg$AAAAAAAA", False),
        (
            Argon2PasswordHasher(),
            "argon2$argon2id$v=19$m=102400,t=2,p=8$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dg$AAAAAAAA",
            False,
        ),
        (Argon2PasswordHasher(), "argon2$argon2id$v=19$m=65536,t=2,p=4$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dg$AAAAAAAA", True),
        (Argon2PasswordHasher(), "argon2$argon2id$v=19$m=8192,t=100,p=4$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dg$AAAAAAAA", True),
        (Argon2PasswordHasher(), "argon2$argon2i$v=19$m=102400,t=3,p=4$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dg$AAAAAAAA", True),
        (Argon2PasswordHasher(), "argon2$argon2d$v=19$m=102400,t=3,p=4$YWJjZGVmZ2hpamtsbW5vcHFyc3R1dg$AAAAAAAA", True),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_only_a_weaker_hash_must_be_updated(hasher: PasswordHasher, stored: str, expected: bool) -> None:
    assert hasher.must_update(stored) is expected


def test_an_argon2i_hash_verifies() -> None:
    # Written by Django 1.11, which used Argon2i.
    old = "argon2$argon2i$v=19$m=512,t=2,p=2$VlB2bUVzcWtZTVBa$2iQVZ6gGDWbD5QWiZzqPVg"
    django_hasher = django.get_hasher("argon2")
    assert ALL["argon2"].verify("pw", old) is django_hasher.verify("pw", old)


def test_plain_bcrypt_hashes_72_bytes_and_accepts_longer_passwords() -> None:
    hasher = BCryptPasswordHasher(rounds=4)
    encoded = hasher.encode("x" * 72)
    assert hasher.verify("x" * 100, encoded)
    assert not hasher.verify("x" * 71, encoded)
    assert hasher.verify("é" * 50, hasher.encode("é" * 36 + "other"))


def test_bcrypt_over_sha256_hashes_the_whole_password() -> None:
    hasher = BCryptSHA256PasswordHasher(rounds=4)
    assert not hasher.verify("x" * 100, hasher.encode("x" * 99))


@pytest.mark.parametrize("version", ["2a", "2y"])
def test_older_bcrypt_prefixes_verify(version: str) -> None:
    hasher = BCryptPasswordHasher(rounds=4)
    assert hasher.verify("pw", hasher.encode("pw").replace("$2b$", f"${version}$"))


def test_md5_without_a_salt_verifies() -> None:
    assert MD5PasswordHasher().verify("pw", "md5$$8fe4c11451281c094a6578e6ddbf5eed")


@pytest.mark.parametrize("hasher", [BCryptPasswordHasher, BCryptSHA256PasswordHasher])
def test_without_bcrypt_its_hashers_name_the_package_to_install(
    hasher: type[PasswordHasher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    with pytest.raises(ImproperlyConfigured, match=r"pip install starlette-contrib-auth\[django\]"):
        hasher()


def test_without_bcrypt_the_other_hashers_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bcrypt", None)
    hashers = import_copy("starlette_auth.passwords.passwords_without_bcrypt")
    assert not hasattr(hashers, "bcrypt")
    assert [hasher.algorithm for hasher in hashers.default_hashers()][-1] == "scrypt"


def import_copy(name: str) -> Any:
    """Imports a second copy of the module, as a process with other packages installed would."""
    spec = importlib.util.find_spec("starlette_auth.passwords.passwords")
    assert spec is not None
    copy = importlib.util.spec_from_file_location(name, spec.origin)
    assert copy is not None
    assert copy.loader is not None
    module: ModuleType = importlib.util.module_from_spec(copy)
    copy.loader.exec_module(module)
    return module
