"""A Bloom filter file of common passwords."""

import functools
import hashlib
import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..core.exceptions import ImproperlyConfigured

DEFAULT_FILTER = Path(__file__).parent / "data" / "common_passwords.bloom"
FORMAT = "starlette-auth password filter 1"


class BloomFilter:
    """A Bloom filter of SHA-1 digests: it never misses a password that it was given, and seldom takes another for one.

    The file is mapped into memory, so processes share it, and only what is asked for is read.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.header = self._header()
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ImproperlyConfigured(
                f"{path} is no password filter, or a damaged one ({error}). "
                "Build it again with `starlette-auth buildfilter`."
            ) from error

    def _header(self) -> dict[str, Any]:
        line = self._file.readline()
        header = json.loads(line)
        if header["format"] != FORMAT:
            raise ValueError(f"its format is {header['format']!r}")
        self.bits, self.hashes = int(header["bits"]), int(header["hashes"])
        self._start = len(line)
        if self.bits < 8 or self.hashes < 1 or len(self._file) != self._start + self.bits // 8:
            raise ValueError(f"it has {len(self._file)} bytes")
        return dict(header)

    def __contains__(self, password: str) -> bool:
        """Exactly this text: reducing it to what people write in lists is the caller's business."""
        for position in positions(sha1_digest(password), self.bits, self.hashes):
            if not self._file[self._start + (position >> 3)] & (1 << (position & 7)):
                return False
        return True


@functools.cache
def open_filter(path: Path) -> BloomFilter:
    """Once for each path in a process. Reads a file: call it in a thread."""
    return BloomFilter(path)


def positions(digest: bytes, bits: int, hashes: int) -> Iterator[int]:
    """Enhanced double hashing (Dillinger and Manolios, 2004): the digest is random enough for all of them."""
    position, step = int.from_bytes(digest[:8]) % bits, int.from_bytes(digest[8:16]) % bits
    for turn in range(1, hashes + 1):
        yield position
        position = (position + step) % bits
        step = (step + turn) % bits


def sha1_digest(password: str) -> bytes:
    # No secret is kept by it: SHA-1 is what public collections of breached passwords are made of.
    return hashlib.sha1(password.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
