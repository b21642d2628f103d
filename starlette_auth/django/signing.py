"""Django's signed values, in the format of `django.core.signing` of Django 3.1 to 6.1."""

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
LIMIT = 4 * 1024 * 1024  # bytes of JSON, decompressed: a small value could otherwise decompress to fill the memory


class DjangoSigner:
    """Signs and reads data as Django's `signing.dumps` and `signing.loads`. Signs with the first key, accepts all."""

    def __init__(self, keys: Sequence[str], salt: str, *, clock: Clock = time.time) -> None:
        self._signers = [
            Signer(key, salt=salt, sep=":", key_derivation="django-concat", digest_method=hashlib.sha256)
            for key in keys
        ]
        self._clock = clock

    def dumps(self, data: dict[str, Any]) -> str:
        # Django decodes the JSON as Latin-1, so only ASCII is read correctly.
        text = json.dumps(data, separators=(",", ":"), ensure_ascii=True).encode()
        if len(text) > LIMIT:
            raise SessionTooLarge(f"The session has {len(text)} bytes, more than {LIMIT}. Store less in it.")
        compressed = zlib.compress(text)
        is_shorter = len(compressed) < len(text) - 1
        value = ("." if is_shorter else "") + base64_encode(compressed if is_shorter else text).decode()
        return self._signers[0].sign(f"{value}:{_base62(int(self._clock()))}").decode()

    def loads(self, signed: str, max_age: int | None = None) -> dict[str, Any]:
        """Returns the signed data. `max_age` is in seconds.

        Raises BadData if none of the keys signed the value, if it is older than `max_age`, or if it is no JSON object.
        """
        value, _, stamp = self._unsign(signed).rpartition(":")
        if max_age is not None and self._clock() - _from_base62(stamp) > max_age:
            raise SignatureExpired("The signed value is too old.")
        try:
            data = json.loads(_decompress(value).decode("latin-1"))
        except (ValueError, RecursionError, zlib.error) as error:
            raise BadData("The signed value is not JSON.") from error
        if not isinstance(data, dict):
            raise BadData("The signed value is not a JSON object.")
        return data

    def _unsign(self, signed: str) -> str:
        for signer in self._signers:
            try:
                return signer.unsign(signed).decode()
            except BadSignature:
                continue
        raise BadSignature("None of the keys signed this value.")


def _decompress(value: str) -> bytes:
    raw = base64_decode(value.removeprefix("."))
    if not value.startswith("."):
        return raw
    decompressor = zlib.decompressobj()
    text = decompressor.decompress(raw, LIMIT)
    if decompressor.unconsumed_tail:
        raise BadData("The signed value is too large.")
    return text


def _base62(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 62)
        digits = DIGITS[digit] + digits
    return digits or "0"


def _from_base62(text: str) -> int:
    number = 0
    for digit in text:
        if digit not in DIGITS:
            raise BadData("The signed value has no valid timestamp.")
        number = 62 * number + DIGITS.index(digit)
    return number
