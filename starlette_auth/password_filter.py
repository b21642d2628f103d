"""A file that knows which passwords are common, without holding one: how it is read and built."""

import functools
import gzip
import hashlib
import itertools
import json
import math
import mmap
import os
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .exceptions import ImproperlyConfigured

SHIPPED = Path(__file__).parent / "data" / "common_passwords.bloom"
FORMAT = "starlette-auth password filter 1"
# The header is padded to whole pages, so that the bits begin on one.
PAGE = 4096
# As in Have-I-Been-Pwned's download: a digest, and how often the password was seen.
DIGEST = re.compile(rb"([0-9A-Fa-f]{40})(?::(\d+))?")
OTHER_DIGEST = re.compile(rb"[0-9A-Fa-f]{32,39}:\d+")


class PasswordFilter:
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
        for position in _positions(_digest(password), self.bits, self.hashes):
            if not self._file[self._start + (position >> 3)] & (1 << (position & 7)):
                return False
        return True


@functools.cache
def open_filter(path: Path) -> PasswordFilter:
    """Once for each path in a process. Reads a file: call it in a thread."""
    return PasswordFilter(path)


@dataclass
class PasswordList:
    """A list to build a filter from. `name` and `licence` tell those who get the filter where it comes from."""

    path: Path
    name: str = ""
    licence: str = ""


def build_filter(
    lists: Sequence[PasswordList],
    output: Path,
    *,
    false_positive_rate: float = 1e-6,
    min_count: int = 1,
    min_length: int = 1,
    progress: Callable[[str], None] = lambda text: None,
) -> int:
    """Writes a filter of all the passwords in `lists`, and tells how many there were. Reads the lists twice.

    A list has one password on a line, or a digest as in a download of Have-I-Been-Pwned; it may be compressed (gzip).
    Of the digests those count that were seen `min_count` times, of the passwords those of `min_length` characters.
    """
    _refuse_to_overwrite(output)

    def digests(source: PasswordList) -> Iterator[bytes]:
        with _opened(source.path) as lines:
            for number, line in enumerate(lines, 1):
                if number % 100_000 == 0:
                    progress(f"{source.path}: {number:,} lines")
                if digest := _digest_of_line(line.rstrip(b"\r\n"), min_count, min_length):
                    yield digest

    counts = [sum(1 for _ in digests(source)) for source in lists]
    if not any(counts):
        raise ValueError("There is no password in these lists. Name others, or lower --min-count and --min-length.")
    hashes = math.ceil(-math.log2(false_positive_rate))
    # A hundredth more than the formula says: the rate is a promise, and chance deviates a little.
    bits = 8 * math.ceil(1.01 * sum(counts) * hashes / -math.log(1 - false_positive_rate ** (1 / hashes)) / 8)
    header: dict[str, Any] = {
        "format": FORMAT,
        "bits": bits,
        "hashes": hashes,
        "entries": sum(counts),
        "false_positive_rate": false_positive_rate,
        "sources": [
            {"name": source.name or source.path.name, "licence": source.licence, "count": count}
            for source, count in zip(lists, counts, strict=True)
        ],
    }
    unfinished = output.with_name(f"{output.name}.{os.getpid()}.unfinished")
    try:
        _write(unfinished, header, itertools.chain.from_iterable(map(digests, lists)))
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return int(header["entries"])


def _write(path: Path, header: dict[str, Any], digests: Iterator[bytes]) -> None:
    first = _padded(header)
    with path.open("xb+") as file:
        file.write(first)
        # Written out, so that a full disk is an error here and not a crash at the mapped memory.
        for left in range(header["bits"] // 8, 0, -(1 << 20)):
            file.write(bytes(min(left, 1 << 20)))
        file.flush()
        with mmap.mmap(file.fileno(), 0) as memory:
            header["entries"] = sum(
                _add(memory, len(first), _positions(digest, header["bits"], header["hashes"])) for digest in digests
            )
            # The digits became fewer, if anything: duplicates are counted once.
            memory[: len(first)] = _padded(header).ljust(len(first))
            memory.flush()


def _padded(header: dict[str, Any]) -> bytes:
    line = json.dumps(header).encode()
    return line.ljust(-(-(len(line) + 1) // PAGE) * PAGE - 1) + b"\n"


def _add(memory: mmap.mmap, start: int, positions: Iterator[int]) -> bool:
    """Whether it is new."""
    new = False
    for position in positions:
        place, bit = start + (position >> 3), 1 << (position & 7)
        if not memory[place] & bit:
            memory[place] |= bit
            new = True
    return new


def _positions(digest: bytes, bits: int, hashes: int) -> Iterator[int]:
    """Enhanced double hashing (Dillinger and Manolios, 2004): the digest is random enough for all of them."""
    position, step = int.from_bytes(digest[:8]) % bits, int.from_bytes(digest[8:16]) % bits
    for turn in range(1, hashes + 1):
        yield position
        position = (position + step) % bits
        step = (step + turn) % bits


def _digest(password: str) -> bytes:
    # No secret is kept by it: SHA-1 is what public collections of breached passwords are made of.
    return hashlib.sha1(password.encode("utf-8", "surrogatepass"), usedforsecurity=False).digest()


def _digest_of_line(line: bytes, min_count: int, min_length: int) -> bytes | None:
    if found := DIGEST.fullmatch(line):
        return bytes.fromhex(found[1].decode()) if int(found[2] or min_count) >= min_count else None
    if OTHER_DIGEST.fullmatch(line):
        raise ValueError("These are digests, but no SHA-1 of 40 digits. Download the SHA-1 list as a single file.")
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    text = unicodedata.normalize("NFC", text).lower().strip()
    return _digest(text) if len(text) >= max(1, min_length) else None


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():  # a pipe could not be read twice
        raise ValueError(f"{path} is no file. Name a list of passwords.")
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")  # type: ignore[return-value]


def _refuse_to_overwrite(output: Path) -> None:
    """A filter may be built anew; whatever else stands there is more likely a list, and the words were exchanged."""
    if output.exists():
        try:
            PasswordFilter(output)
        except ImproperlyConfigured:
            raise ValueError(f"{output} is there already, and no password filter. Choose another name.") from None
