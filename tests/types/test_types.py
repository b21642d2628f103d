"""Tests that mypy and pyright know the class of the user, and accept the FastAPI example."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from ..support.matrix import IN_CI

pytestmark = pytest.mark.long

ROOT = Path(__file__).parent.parent.parent
APPLICATION = Path(__file__).parent / "application.py"
CHECKERS = {
    "mypy": ["mypy", "--config-file", str(ROOT / "pyproject.toml"), "--no-incremental"],
    "pyright": ["pyright", "--pythonpath", sys.executable],
}


def check(checker: str, *arguments: Path | str) -> subprocess.CompletedProcess[str]:
    if find_spec(checker) is None and not IN_CI:
        pytest.skip(f"{checker} is not installed")
    command = [sys.executable, "-m", *CHECKERS[checker], *map(str, arguments)]
    environment = {**os.environ, "MYPYPATH": str(ROOT)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_class_of_the_user_is_known_everywhere(checker: str) -> None:
    result = check(checker, APPLICATION)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("checker", CHECKERS)
def test_wrong_types_are_reported(checker: str, tmp_path: Path) -> None:
    wrong = [
        "assert_type(plain.users, Users[Member])",
        "Auth(database, secret_key='k' * 40, user_class=int)",
        "plain.events.on(UserLoggedIn)(3)",
        "def phone(request: Request) -> str: return plain.user(request).phone",
        "def maybe(request: Request) -> Member: return members.maybe_user(request)",
    ]
    source = APPLICATION.read_text()
    file = tmp_path / "wrong.py"
    file.write_text("\n".join([source, *wrong]))
    output = check(checker, file).stdout
    first = len(source.splitlines()) + 2
    for number, line in enumerate(wrong, first):
        assert f"wrong.py:{number}" in output, f"{line} is not reported:\n{output}"


@pytest.mark.parametrize("checker", CHECKERS)
def test_the_fastapi_example_has_no_error_in_strict_mode(checker: str, tmp_path: Path) -> None:
    folders = [ROOT / "example_app" / "api", Path(__file__).parent / "api.py"]
    if checker == "mypy":
        result = check(checker, *folders)  # its settings say strict
    else:
        settings = tmp_path / "pyrightconfig.json"
        include = [os.path.relpath(folder, tmp_path) for folder in folders]
        paths = [os.path.relpath(ROOT, tmp_path)]
        settings.write_text(json.dumps({"typeCheckingMode": "strict", "include": include, "extraPaths": paths}))
        result = check(checker, "--project", settings)
    assert result.returncode == 0, result.stdout + result.stderr
