"""Runs the guides: the files that they show, and their commands, whose output must be as it stands there."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..conftest import SECRET_KEY
from ..support.documents import code_of
from ..support.matrix import IN_CI
from ..support.server import ROOT, free_port

pytestmark = pytest.mark.long

GUIDES = ROOT / "example_app" / "guides"
PASSWORD = "seven quiet otters"
LOGIN = {"STARLETTE_AUTH_PASSWORD": PASSWORD}  # of createsuperuser
READ_LINKED_PAGES = """
from fastapi.testclient import TestClient
from frontend import site
with TestClient(site) as client:
    for path in ("/join/token", "/new-password/MQ/token"):
        response = client.get(path)
        print(response.status_code, response.headers["cache-control"], response.headers["referrer-policy"])
"""


def blocks_of(guide: str, language: str) -> list[str]:
    return code_of(GUIDES / guide, language)


def files_of(guide: str) -> Iterator[tuple[str, str]]:
    """Yields the name and the content of each block that begins with the name of its file."""
    for language, head in (("python", r"# (\w+\.py)\n"), ("html", r"<!-- ([\w/.]+) -->\n")):
        for block in blocks_of(guide, language):
            match = re.match(head, block)
            if match:
                yield match[1], block


def examples_of(guide: str) -> Iterator[tuple[str, str]]:
    """Yields each command after a `$`, and its output."""
    for block in blocks_of(guide, "console"):
        for example in re.split(r"(?m)^\$ ", block)[1:]:
            command, _, output = example.partition("\n")
            yield command, output


class Folder:
    """A folder in which a reader of a guide works."""

    def __init__(self, path: Path, guide: str) -> None:
        self.path = path
        self.guide = guide
        self.port = free_port()
        programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("STARLETTE_AUTH", "PYTEST"))}
        self.environment = {**kept, "PATH": programs, "SECRET_KEY": SECRET_KEY, "PYTHONPATH": str(ROOT)}
        for name, content in files_of(guide):
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(content.replace(":8000", f":{self.port}"))

    def run(self, command: str, **variables: str) -> str:
        process = subprocess.run(
            ["bash", "-c", command.replace(":8000", f":{self.port}")],
            cwd=self.path,
            env={**self.environment, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return process.stdout.replace(f":{self.port}", ":8000")

    def serve(self) -> "subprocess.Popen[bytes]":
        """Starts `uvicorn app:app`, and waits until it answers."""
        command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(self.port)]
        with (self.path / "log").open("w") as log:
            server = subprocess.Popen(command, cwd=self.path, env=self.environment, stdout=log, stderr=log)
        retry = "--retry 60 --retry-delay 1 --retry-connrefused"
        output = self.run(f"curl -s -o /dev/null -w '%{{http_code}}' {retry} 127.0.0.1:8000/accounts/login")
        assert output in ("200", "405"), (self.path / "log").read_text()
        return server

    def check_commands(self) -> None:
        """Runs the commands of the guide. A line with … in an output stands for any lines."""
        for command, expected in examples_of(self.guide):
            output = self.run(command)
            if "…" not in expected:
                assert output.strip() == expected.strip(), command
            for part in filter(None, map(str.strip, expected.split("…"))):
                assert part in output, f"{command}:\n{output}"


@pytest.fixture
def curl() -> None:
    if shutil.which("curl") is None and not IN_CI:
        pytest.skip("curl is not installed")


@pytest.mark.parametrize("guide", ["fastapi.md", "starlette.md"])
def test_the_files_and_commands_of_the_first_guides_work(guide: str, tmp_path: Path, curl: None) -> None:
    folder = Folder(tmp_path, guide)
    server = folder.serve()
    try:
        commands = "".join(blocks_of(guide, "sh")).splitlines()
        create = next(command for command in commands if "createsuperuser" in command)
        options = "--email ann@example.org --noinput"
        assert "Created" in folder.run(f"{create} {options}", **LOGIN)
        folder.check_commands()
    finally:
        server.terminate()
        server.wait(20)
    output = folder.run(f"{sys.executable} -m pytest -q -p no:cacheprovider --rootdir . test_app.py")
    assert "2 passed" in output, output
    if guide == "fastapi.md":
        assert folder.run(f"python -c '{READ_LINKED_PAGES}'") == "200 no-store no-referrer\n" * 2


def test_the_files_and_commands_of_the_sqlalchemy_guide_work(tmp_path: Path, curl: None) -> None:
    folder = Folder(tmp_path, "sqlalchemy.md")
    folder.check_commands()
    folder.run(
        "starlette-auth --app shop:auth createsuperuser --noinput --username zoe --email zoe@example.org", **LOGIN
    )
    server = folder.serve()
    try:
        json = f'{{"username": "zoe", "password": "{PASSWORD}"}}'
        assert folder.run(f"curl -s -c jar --json '{json}' 127.0.0.1:8000/accounts/login") == '{"next":"/"}'
        order = "-X POST '127.0.0.1:8000/orders?item=Bread'"
        assert folder.run(f"curl -s -b jar -H 'Origin: http://127.0.0.1:8000' {order}").isdecimal()
        assert '"code":"not_authenticated"' in folder.run(f"curl -s {order}")
    finally:
        server.terminate()
        server.wait(20)
    assert "Traceback" not in (tmp_path / "log").read_text()
