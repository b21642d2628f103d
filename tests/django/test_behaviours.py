"""The record of Django's behaviours in `behaviours/`: each holds here, differs on purpose, or cannot be carried over.

A file has the name of a module of Django's suites `auth_tests` or `sessions_tests` (version 5.2), and a line for each
test method in it. Two or more spaces separate the fields:

    Class.test_name  holds  tests/users/test_users.py::test_that_proves_it
    Class.test_name  differs  beginning of a row of the table "Differences from Django, on purpose"
    Class.test_name  not carried over  reason, in at most ten words
    Class.test_name  missing  what this package lacks
"""

import ast
import functools
import re
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from ..support.server import ROOT

RECORDS = sorted(Path(__file__).parent.joinpath("behaviours").glob("*.txt"))
LINE = re.compile(r"(\w+\.a?test_\w+) {2,}(holds|differs|not carried over|missing) {2,}(\S.*)")
SHARE = 430 / 446  # of the behaviours that can be carried over; at least so many must hold or differ on purpose


class Behaviour(NamedTuple):
    place: str
    name: str
    verdict: str
    reason: str


def behaviours_of(record: Path) -> list[Behaviour]:
    """Returns the behaviours in a record. Raises AssertionError for a malformed line."""
    behaviours: list[Behaviour] = []
    for number, line in enumerate(record.read_text("utf-8").splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            match = LINE.fullmatch(line.rstrip())
            assert match, f"{record.name}:{number} has not three fields with two spaces between them: {line}"
            behaviours.append(Behaviour(f"{record.name}:{number}", *match.groups()))
    return behaviours


@functools.cache
def functions_in(file: str) -> frozenset[str]:
    path = ROOT / file
    if not path.is_file():
        return frozenset()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, functions))


@functools.cache
def differences() -> tuple[str, ...]:
    """Returns the first cell of each row of the table of differences in the guide django.md."""
    _, _, section = (
        (ROOT / "example_app" / "guides" / "django.md")
        .read_text("utf-8")
        .partition("\n## Differences from Django, on purpose\n")
    )
    rows = re.findall(r"^\| (.+?) \| .+ \| .+ \|$", section.partition("\n## ")[0], re.MULTILINE)
    return tuple(cell for cell in rows if cell != "Django")


def is_proven(behaviour: Behaviour) -> bool:
    if behaviour.verdict == "holds":
        file, _, name = behaviour.reason.partition("::")
        return name.startswith("test_") and name in functions_in(file)
    if behaviour.verdict == "differs":
        return any(cell.startswith(behaviour.reason) for cell in differences())
    return behaviour.verdict == "missing" or len(behaviour.reason.split()) <= 10


def test_there_are_records_and_differences() -> None:
    assert RECORDS
    assert len(differences()) > 20


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: str(record.stem))
def test_each_line_names_an_existing_test_or_row_or_a_short_reason(record: Path) -> None:
    behaviours = behaviours_of(record)
    assert [behaviour for behaviour in behaviours if not is_proven(behaviour)] == []
    names = Counter(behaviour.name for behaviour in behaviours)
    assert [name for name, times in names.items() if times > 1] == []


def test_nearly_all_behaviours_hold_or_differ_on_purpose() -> None:
    counts = Counter(behaviour.verdict for record in RECORDS for behaviour in behaviours_of(record))
    proven = counts["holds"] + counts["differs"]
    assert proven >= SHARE * (proven + counts["missing"]), counts
