"""Django's signed values: `django.core.signing`, the same in Django 3.1 to 6.1."""

import hashlib
import json
import string
import time
import zlib
from collections.abc import Sequence
from typing import Any

from itsdangerous import BadData, BadSignature, SignatureExpired, Signer
from itsdangerous.encoding import base64_decode, base64_encode

from ..core.clock import Clock
from ..core.exceptions import SessionTooLarge

DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
LIMIT = 4 * 1024 * 1024  # bytes of JSON: a few kilobytes, unpacked, must not fill the memory


class DjangoSigner:
    """`signing.dumps` and `signing.loads` under one salt. The first key signs, all are accepted."""

    def __init__(self, keys: Sequence[str], salt: str, *, clock: Clock = time.time) -> None:
        self._signers = [
            Signer(key, salt=salt, sep=":", key_derivation="django-concat", digest_method=hashlib.sha256)
            for key in keys
        ]
        self._clock = clock

    def dumps(self, data: dict[str, Any]) -> str:
        # Django writes ASCII only, and reads what is none as Latin-1.
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=True).encode()
        if len(text) > LIMIT:
            raise SessionTooLarge(f"The session takes {len(text)} bytes, more than {LIMIT}. Store less in it.")
        packed = zlib.compress(text)
        is_shorter = len(packed) < len(text) - 1
        value = ("." if is_shorter else "") + base64_encode(packed if is_shorter else text).decode()
        return self._signers[0].sign(f"{value}:{_base62(int(self._clock()))}").decode()

    def loads(self, signed: str, max_age: int | None = None) -> dict[str, Any]:
        """The data. BadData when it was not signed with one of the keys, is older (in seconds), or is no JSON object."""
        value, _, stamp = self._unsign(signed).rpartition(":")
        if max_age is not None and self._clock() - _from_base62(stamp) > max_age:
            raise SignatureExpired("It is too old.")
        try:
            data = json.loads(_unpacked(value).decode("latin-1"))
        except (ValueError, RecursionError, zlib.error) as error:
            raise BadData("It is no JSON.") from error
        if not isinstance(data, dict):
            raise BadData("It is no JSON object.")
        return data

    def _unsign(self, signed: str) -> str:
        for signer in self._signers:
            try:
                return signer.unsign(signed).decode()
            except BadSignature:
                continue
        raise BadSignature("None of the keys signed this.")


def _unpacked(value: str) -> bytes:
    raw = base64_decode(value.removeprefix("."))
    if not value.startswith("."):
        return raw
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(raw, LIMIT)
    if unpacker.unconsumed_tail:
        raise BadData("It is too large.")
    return text


def _base62(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = DIGITS[digit] + digits
    return digits or "0"


def _from_base62(text: str) -> int:
    number = 0
    for mark in text:
        if mark not in DIGITS:
            raise BadData("It has no time.")
        number = 62 * number + DIGITS.index(mark)
    return number
