"""Runs every block of Python in the README and the guides, and reads every command."""

import contextlib
import re
import shlex
from pathlib import Path

import pytest
from blockbuster import BlockBuster

from starlette_auth.cli.main import make_parser

from ..support.documents import blocks_of, run
from ..support.server import ROOT

GUIDES = ROOT / "example_app" / "guides"
#: Guides whose blocks are files that a reader makes. Each has a test of its own, named here.
FILES = {
    "alembic.md": "tests/database/test_alembic.py",
    "assessment.md": "tests/asvs/test_guide.py",
    "fastapi.md": "tests/whole/test_guides.py",
    "permissions.md": "tests/whole/test_permission_guides.py",
    "several-auths.md": "tests/whole/test_permission_guides.py",
    "sqlalchemy.md": "tests/whole/test_guides.py",
    "starlette.md": "tests/whole/test_guides.py",
}
DOCUMENTS = sorted(path.name for path in GUIDES.glob("*.md") if path.name not in FILES)
LANGUAGES = {"js", "python", "console", "sh", "html", "text", "nginx", "toml", "ini", "sql"}


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_the_code_of_a_guide_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blockbuster: BlockBuster
) -> None:
    monkeypatch.chdir(tmp_path)
    blockbuster.deactivate()  # in an application, the lines of a module run before the event loop
    await run(GUIDES / name)


@pytest.mark.parametrize("name", FILES)
def test_a_guide_with_files_is_run_by_its_own_test(name: str) -> None:
    assert name in (ROOT / FILES[name]).read_text()


@pytest.mark.parametrize("path", [ROOT / "README.md", *GUIDES.glob("*.md")], ids=lambda path: path.name)
def test_blocks_name_their_language_and_commands_exist(path: Path) -> None:
    for block in blocks_of(path):
        assert block.language in LANGUAGES, f"{path.name}:{block.line}"
        lines = block.code.replace("\\\n", " ").splitlines()
        for line in lines if block.language in ("sh", "console") else ():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if "starlette-auth" in words:
                command = words[words.index("starlette-auth") + 1 :]
                with contextlib.suppress(SystemExit):
                    make_parser().parse_args(command)
                    continue
                pytest.fail(f"{path.name}:{block.line}: {line}")


@pytest.mark.parametrize("path", [ROOT / "README.md", *GUIDES.glob("*.md")], ids=lambda path: path.name)
def test_links_between_documents_lead_somewhere(path: Path) -> None:
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name) if name else path
        assert file.exists(), target
        if anchor:
            assert anchor in headings_of(file), target


def headings_of(path: Path) -> set[str]:
    """Returns the anchors that GitHub makes of the headings of a document."""
    text = re.sub(r"(?ms)^```.*?^```$", "", path.read_text())
    titles = re.findall(r"(?m)^#+ (.*)$", text)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
