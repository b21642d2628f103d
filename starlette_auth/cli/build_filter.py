"""The command `buildfilter`: builds a Bloom filter from lists of passwords."""

import argparse
import gzip
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

from ..core.exceptions import ImproperlyConfigured
from ..passwords.bloom_filter import FORMAT, BloomFilter, positions, sha1_digest
from .terminal import print_line, show_progress

# The header is padded to whole pages, so that the bits begin on one.
PAGE = 4096
# As in Have-I-Been-Pwned's download: a digest, and how often the password was seen.
DIGEST = re.compile(rb"([0-9A-Fa-f]{40})(?::(\d+))?")
OTHER_DIGEST = re.compile(rb"[0-9A-Fa-f]{32,39}:\d+")


def add_filter_command(commands: Any) -> None:
    command = commands.add_parser("buildfilter", help="make a filter of passwords that are not to be used")
    command.add_argument("output", metavar="OUTPUT", type=Path, help="the file for CommonPasswordValidator")
    command.add_argument(
        "lists", metavar="LIST", type=Path, nargs="+", help="passwords, one on a line, or SHA1:COUNT; may be gzipped"
    )
    command.add_argument(
        "--false-positives", metavar="RATE", type=_rate, default=1e-6, help="how many good ones it may refuse (1e-6)"
    )
    command.add_argument("--min-count", metavar="N", type=int, default=1, help="skip a SHA1 that was seen less often")
    command.add_argument("--min-length", metavar="N", type=int, default=1, help="skip shorter passwords")
    command.set_defaults(work=_buildfilter)


def _buildfilter(options: argparse.Namespace) -> None:
    entries = build_filter(
        [PasswordList(path) for path in options.lists],
        options.output,
        false_positive_rate=options.false_positives,
        min_count=options.min_count,
        min_length=options.min_length,
        progress=show_progress,
    )
    show_progress("")
    print_line(f"Wrote {entries:,} passwords to {options.output}, {options.output.stat().st_size:,} bytes.")


def _rate(text: str) -> float:
    rate = float(text)
    if not 1e-12 <= rate <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not between 1e-12 and 0.5")
    return rate


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
                _add(memory, len(first), positions(entry, header["bits"], header["hashes"])) for entry in digests
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
    return sha1_digest(text) if len(text) >= max(1, min_length) else None


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
            BloomFilter(output)
        except ImproperlyConfigured:
            raise ValueError(f"{output} is there already, and no password filter. Choose another name.") from None
