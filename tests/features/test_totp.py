"""Tests of the codes of authenticator apps, against RFC 6238 and another implementation."""

import base64
import random
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

from starlette_auth.features.two_factor.totp import code_at, find_step, grouped_key, new_secret, otpauth_uri, step_at

SECRET = b"12345678901234567890"
NOW = 1_800_000_015.5  # in the middle of a step


@pytest.mark.parametrize(
    ("time", "code"),
    [
        *((59, "287082"), (1111111109, "081804"), (1111111111, "050471"), (1234567890, "005924")),
        *((2000000000, "279037"), (20000000000, "353130")),
    ],
)
def test_the_codes_are_those_of_rfc_6238(time: int, code: str) -> None:
    assert code_at(SECRET, step_at(time)) == code  # the last 6 of the 8 digits in appendix B


def test_the_codes_are_those_of_pyotp() -> None:
    rng = random.Random(6238)  # the same numbers in each run
    for _ in range(1000):
        secret, time = rng.randbytes(20), rng.randrange(2**33)
        assert code_at(secret, step_at(time)) == pyotp.TOTP(base64.b32encode(secret).decode()).at(time)


def test_the_current_code_and_the_one_before_it_are_right() -> None:
    current = step_at(NOW)
    steps = {offset: find_step(SECRET, code_at(SECRET, current + offset), NOW) for offset in range(-3, 4)}
    assert steps == {-3: None, -2: None, -1: current - 1, 0: current, 1: None, 2: None, 3: None}
    assert find_step(SECRET, code_at(SECRET, current - 1), NOW, drift=0) is None
    assert find_step(SECRET, code_at(SECRET, current - 3), NOW, drift=3) == current - 3


def test_one_code_of_two_steps_counts_for_the_newer_one() -> None:
    """The older step would otherwise leave the code usable a second time."""
    rng = random.Random(1)
    secret, step = next(
        (secret, step)
        for secret in iter(lambda: rng.randbytes(20), b"")
        for step in range(1, 2000)
        if code_at(secret, step) == code_at(secret, step - 1)
    )
    assert find_step(secret, code_at(secret, step), step * 30) == step


def test_blanks_in_a_code_are_ignored() -> None:
    code = code_at(SECRET, step_at(NOW))
    assert find_step(SECRET, f" {code[:3]} {code[3:]}\u00a0", NOW) == step_at(NOW)


@pytest.mark.parametrize("text", ["", "12345", "1234567", "abcdef", "\ud800", "x" * 10_000, "-12345"])
def test_other_texts_are_wrong(text: str) -> None:
    assert find_step(SECRET, text, NOW) is None


def test_digits_of_other_scripts_are_wrong() -> None:
    code = code_at(SECRET, step_at(NOW)).translate({ord(str(digit)): chr(0x660 + digit) for digit in range(10)})
    assert find_step(SECRET, code, NOW) is None


def test_the_beginning_of_time_has_a_code() -> None:
    assert find_step(SECRET, code_at(SECRET, 0), 0.0) == 0


def test_secrets_are_random_and_can_be_typed() -> None:
    secrets = {new_secret() for _ in range(100)}
    assert len(secrets) == 100
    key = grouped_key(SECRET)
    assert key == "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ"
    assert base64.b32decode(key.replace(" ", "")) == SECRET


@pytest.mark.parametrize("issuer", ["Shop", "Bücher & Mehr", "a:b/c?d#e%f", ""])
@pytest.mark.parametrize("account", ["ann", "ann@example.org", "a:b/c?d#e%f ü"])
def test_the_uri_can_be_read_by_apps(issuer: str, account: str) -> None:
    uri = otpauth_uri(SECRET, issuer=issuer, account=account)
    parts = urlsplit(uri)
    assert (parts.scheme, parts.netloc, parts.fragment) == ("otpauth", "totp", "")
    assert uri.isascii()
    parsed = pyotp.parse_uri(uri)
    assert isinstance(parsed, pyotp.TOTP)
    assert parsed.secret == base64.b32encode(SECRET).decode()
    assert (parsed.issuer or "", parsed.name) == (issuer.replace(":", " "), account.replace(":", " "))
    assert parsed.at(NOW) == code_at(SECRET, step_at(NOW))
    assert set(parse_qs(parts.query)) <= {"secret", "issuer"}
