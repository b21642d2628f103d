"""Reads a Bloom filter file of common passwords."""

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
    """Tells whether a password is in a Bloom filter of SHA-1 digests.

    The filter finds every password that it was built from. Other passwords are false positives at the rate in `header`.
    The file is mapped into memory: processes share it, and only the pages that a lookup needs are read.

    Raises ImproperlyConfigured if the file is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as file:
                self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self.header = self._header()
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ImproperlyConfigured(
                f"{path} is not a password filter, or is damaged ({error}). "
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
        """Returns whether the filter contains exactly this text. The caller normalizes it first."""
        for position in positions(sha1_digest(password), self.bits, self.hashes):
            if not self._file[self._start + (position >> 3)] & (1 << (position & 7)):
                return False
        return True


@functools.cache
def open_filter(path: Path) -> BloomFilter:
    """Returns the filter at `path`, opened once per process. Call it in a thread: it reads a file."""
    return BloomFilter(path)


def positions(digest: bytes, bits: int, hashes: int) -> Iterator[int]:
    """Yields the bit positions of a digest, by enhanced double hashing (Dillinger and Manolios, 2004).

    Double hashing derives all `hashes` positions from two 64-bit numbers of the digest.
    """
    position, step = int.from_bytes(digest[:8]) % bits, int.from_bytes(digest[8:16]) % bits
    for index in range(1, hashes + 1):
        yield position
        position = (position + step) % bits
        step = (step + index) % bits


def sha1_digest(password: str) -> bytes:
    # SHA-1, because public lists of breached passwords contain SHA-1 digests. It protects no secret here.
    return hashlib.sha1(password.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()
