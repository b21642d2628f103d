"""Codes of authenticator apps: time-based one-time passwords (TOTP, RFC 6238)."""

import base64
import hmac
import secrets
from urllib.parse import quote, urlencode

PERIOD = 30  # seconds for which the app shows one code
DIGITS = 6
SECRET_LENGTH = 20  # bytes: the length of the HMAC's output, as RFC 4226 §4 recommends


def new_secret() -> bytes:
    return secrets.token_bytes(SECRET_LENGTH)


def step_at(time: float) -> int:
    """Returns the number of the time step that contains a time in seconds since 1970, UTC."""
    return int(time // PERIOD)


def code_at(secret: bytes, step: int) -> str:
    """Returns the code of one time step, 6 digits. The HMAC is SHA-1, the only one that all apps support."""
    digest = hmac.digest(secret, step.to_bytes(8, "big"), "sha1")
    offset = digest[-1] & 15
    number = int.from_bytes(digest[offset : offset + 4], "big") & 0x7FFFFFFF
    return f"{number % 10**DIGITS:0{DIGITS}}"


def find_step(secret: bytes, code: str, time: float, drift: int = 1) -> int | None:
    """Returns the time step of a code: the current one, or one of the `drift` steps before it. Otherwise None.

    A code that the app shows shortly before its end arrives after it (RFC 6238 §5.2). Codes of the future are refused: an
    attacker who has the app for a moment and moves its clock would otherwise take codes along.
    """
    digits = "".join(code.split())  # apps show "123 456"
    current, found = step_at(time), None
    for step in range(max(0, current - drift), current + 1):
        if hmac.compare_digest(code_at(secret, step).encode(), digits.encode("utf-8", "replace")):
            found = step
    return found


def grouped_key(secret: bytes) -> str:
    """Returns the secret in base32, in groups of four letters, for users who type it into the app."""
    text = base64.b32encode(secret).decode().rstrip("=")
    return " ".join(text[start : start + 4] for start in range(0, len(text), 4))


def otpauth_uri(secret: bytes, *, issuer: str, account: str) -> str:
    """Returns the URI that the QR code contains (Google's Key URI Format).

    Apps separate issuer and account at the first colon; therefore neither keeps one.
    """
    issuer, account = issuer.replace(":", " "), account.replace(":", " ")
    query = {"secret": base64.b32encode(secret).decode().rstrip("="), "issuer": issuer}
    return f"otpauth://totp/{quote(issuer, safe='')}:{quote(account, safe='@')}?{urlencode(query, quote_via=quote)}"
