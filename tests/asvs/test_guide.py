"""The guide: its commands print what stands there, and it has every row."""

import re
from pathlib import Path

import pytest

from starlette_auth.asvs.rows import ROWS

from ..support.server import ROOT
from ..whole.test_guides import Folder, blocks_of, examples_of

pytestmark = pytest.mark.long

GUIDE = "assessment.md"
KEY = "a-key-of-fifty-characters-0123456789-abcdefghijklm"
EXPECTED = {"6.3.3", "3.4.7", "3.5.8", "6.3.6"}  # of the example: second factors, reports and a header are missing


def test_the_commands_of_the_guide(tmp_path: Path) -> None:
    folder = Folder(tmp_path, GUIDE)
    whole, part, green = examples_of(GUIDE)
    output = folder.run(whole[0], SECRET_KEY=KEY)
    for text in filter(None, map(str.strip, whole[1].split("…"))):
        assert text in output, output
    assert set(re.findall(r"(?m)^(\d+\.\d+\.\d+) +\d fail ", output)) == EXPECTED
    assert "was stopped by" not in output
    output = folder.run(part[0], SECRET_KEY=KEY)
    assert "13 passed" in output, output
    output = folder.run(f"{green[0]} && echo green", SECRET_KEY=KEY)
    assert output.endswith("green\n"), output
    for text in filter(None, map(str.strip, green[1].split("…"))):
        assert text in output, output


def test_a_conftest_sets_the_database(tmp_path: Path) -> None:
    folder = Folder(tmp_path, GUIDE)
    (conftest,) = [block for block in blocks_of(GUIDE, "text") if "os.environ" in block]
    (tmp_path / "conftest.py").write_text(conftest.replace("assessment.sqlite3", "other.sqlite3"))
    assert "1 passed" in folder.run("pytest --asvs example_app.main:app -k V6.4.2")
    assert (tmp_path / "other.sqlite3").exists()
    assert not (tmp_path / "example.sqlite3").exists()


def test_the_guide_has_every_row() -> None:
    text = (ROOT / "example_app" / "guides" / GUIDE).read_text()
    rows = re.findall(r"(?m)^\| (\d+\.\d+\.\d+) \| (\d) \| ([^|]+) \|", text)
    assert sorted(rows) == sorted((row.id, str(row.level), row.requirement) for row in ROWS)
    assert f"this looks at the {len(ROWS)} in which" in text


def test_levels_and_numbers_are_those_of_the_standard() -> None:
    """A few rows whose levels were others in drafts of 5.0."""
    levels = {row.id: row.level for row in ROWS}
    assert [levels[id] for id in ("6.2.8", "6.2.12", "6.3.2", "6.3.3", "7.5.3", "16.3.1")] == [1, 2, 1, 2, 3, 2]
