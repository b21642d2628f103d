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

# The header is padded to whole pages, so that the bits start at a page boundary.
PAGE = 4096
# The format of Have I Been Pwned's download: a SHA-1 digest, and how often the password was seen.
DIGEST = re.compile(rb"([0-9A-Fa-f]{40})(?::(\d+))?")
OTHER_DIGEST = re.compile(rb"[0-9A-Fa-f]{32,39}:\d+")


def add_filter_command(commands: Any) -> None:
    command = commands.add_parser("buildfilter", help="build a filter of passwords to reject")
    command.add_argument("output", metavar="OUTPUT", type=Path, help="the file to write, for CommonPasswordValidator")
    command.add_argument(
        "lists",
        metavar="LIST",
        type=Path,
        nargs="+",
        help="a file of passwords or SHA1:COUNT, one per line; may be gzipped",
    )
    command.add_argument(
        "--false-positives",
        metavar="RATE",
        type=_rate,
        default=1e-6,
        help="share of good passwords to reject (default: 1e-6)",
    )
    command.add_argument(
        "--min-count", metavar="N", type=int, default=1, help="skip a SHA1 that was seen less than N times"
    )
    command.add_argument(
        "--min-length", metavar="N", type=int, default=1, help="skip passwords shorter than N characters"
    )
    command.set_defaults(handler=_buildfilter)


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
    """A list to build a filter from.

    The filter's header states `name` and `licence` as the source.
    """

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
    """Writes a Bloom filter of the passwords in `lists`. Returns the number of passwords.

    The lists are read twice. A list has one password per line, or one SHA-1 digest as in the download of Have I Been
    Pwned. It may be compressed with gzip. Digests seen less than `min_count` times and passwords shorter than
    `min_length` characters are skipped.
    Raises ValueError if the lists contain no password, or if `output` exists and is not a password filter.
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
        raise ValueError("The lists contain no password. Pass other lists, or lower --min-count and --min-length.")
    hashes = math.ceil(-math.log2(false_positive_rate))
    # 1 % more bits than the formula requires, because the actual rate deviates from its expected value.
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
    temporary = output.with_name(f"{output.name}.{os.getpid()}.unfinished")
    try:
        _write(temporary, header, itertools.chain.from_iterable(map(digests, lists)))
        temporary.replace(output)
    finally:
        temporary.unlink(missing_ok=True)
    return int(header["entries"])


def _write(path: Path, header: dict[str, Any], digests: Iterator[bytes]) -> None:
    padded = _padded(header)
    with path.open("xb+") as file:
        file.write(padded)
        # The zeros are written out: in a sparse file, a full disk would crash the process at a write to mapped memory.
        for left in range(header["bits"] // 8, 0, -(1 << 20)):
            file.write(bytes(min(left, 1 << 20)))
        file.flush()
        with mmap.mmap(file.fileno(), 0) as memory:
            header["entries"] = sum(
                _add(memory, len(padded), positions(entry, header["bits"], header["hashes"])) for entry in digests
            )
            # Without duplicates the number is not larger than before, so the header is not longer.
            memory[: len(padded)] = _padded(header).ljust(len(padded))
            memory.flush()


def _padded(header: dict[str, Any]) -> bytes:
    line = json.dumps(header).encode()
    return line.ljust(-(-(len(line) + 1) // PAGE) * PAGE - 1) + b"\n"


def _add(memory: mmap.mmap, start: int, positions: Iterator[int]) -> bool:
    """Sets the bits of one entry. Returns whether a bit was not set before."""
    is_new = False
    for position in positions:
        index, bit = start + (position >> 3), 1 << (position & 7)
        if not memory[index] & bit:
            memory[index] |= bit
            is_new = True
    return is_new


def _digest_of_line(line: bytes, min_count: int, min_length: int) -> bytes | None:
    if match := DIGEST.fullmatch(line):
        return bytes.fromhex(match[1].decode()) if int(match[2] or min_count) >= min_count else None
    if OTHER_DIGEST.fullmatch(line):
        raise ValueError(
            "The list contains digests that are not SHA-1 with 40 digits. Download the SHA-1 list as a single file."
        )
    try:
        text = line.decode()
    except UnicodeDecodeError:
        text = line.decode("latin-1")
    text = unicodedata.normalize("NFC", text).lower().strip()
    return sha1_digest(text) if len(text) >= max(1, min_length) else None


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():  # a pipe cannot be read twice
        raise ValueError(f"{path} is not a file. Pass a list of passwords.")
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    return gzip.open(path) if compressed else path.open("rb")  # type: ignore[return-value]


def _refuse_to_overwrite(output: Path) -> None:
    """Raises ValueError if `output` exists and is not a password filter.

    It is probably a list, because the arguments were swapped. An existing filter may be replaced.
    """
    if output.exists():
        try:
            BloomFilter(output)
        except ImproperlyConfigured:
            raise ValueError(f"{output} exists already and is not a password filter. Choose another name.") from None
