"""What can be said on the command line."""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .contestants import WORKS

PARTS = (*WORKS, "hashing", "growth", "capacity", "inprocess", "engines", "dependencies", "imports")
ABOUT = "Measures starlette_auth beside what others do, and beside what nobody can do without."


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=ABOUT)
    parser.add_argument("--quick", action="store_true", help="about two minutes, and less exact")
    parser.add_argument("--parts", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--only", nargs="+", metavar="NAME", help=f"contestants, or groups of them, in {', '.join(WORKS)}"
    )
    parser.add_argument("--rounds", type=positive, help="how often each is measured")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to keep what was measured")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="where to keep the report, which is printed too")
    parser.add_argument("--compare", type=saved, metavar="FILE", help="a JSON of before, to show what changed")
    parser.add_argument(
        "--callgrind", action="store_true", help="count instructions as well, with valgrind: a minute for each"
    )
    parser.add_argument(
        "--postgresql", default="postgresql://postgres@127.0.0.1:5432", metavar="URL", help="no database"
    )
    parser.add_argument(
        "--mysql", default="mysql+asyncmy://root@127.0.0.1:3306", metavar="URL", help="for engines; left out if away"
    )
    parser.add_argument("--redis", default="redis://127.0.0.1:6379/9", metavar="URL", help="an empty database of it")
    chosen = parser.parse_args(given)
    chosen.parts = chosen.parts or (WORKS if chosen.only else PARTS)
    return chosen


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("a number from 1 on")
    return number


def saved(text: str) -> Mapping[str, Any]:
    try:
        results = json.loads(Path(text).read_text())
    except (OSError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text} is no result of this program") from error
    if not isinstance(results, dict) or "made" not in results:
        raise argparse.ArgumentTypeError(f"{text} is no result of this program")
    return results
