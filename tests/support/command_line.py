"""The command line of the example applications: each command runs in a process of its own."""

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from .server import ROOT, environment


class Result(NamedTuple):
    status: int
    output: str
    errors: str


class CommandLine:
    """`python -m example_app.cli` of a user whose home is a folder."""

    def __init__(self, site: str, home: Path, **variables: str) -> None:
        home.mkdir(exist_ok=True)
        # An installed keyring would be that of the person who runs the tests.
        no_keyring = {"PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring"}
        self.variables = environment(**{**no_keyring, "SITE": site, "HOME": str(home), **variables})
        self.tokens = home / ".example_app_tokens.json"

    @contextlib.contextmanager
    def start(self, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
        command = [sys.executable, "-m", "example_app.cli", *arguments]
        with subprocess.Popen(
            command, cwd=ROOT, env=self.variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def run(self, *arguments: str) -> Result:
        with self.start(*arguments) as process:
            return end_of(process)


def code_of(login: "subprocess.Popen[str]") -> tuple[str, str]:
    """Returns the address and the code that the command `login` shows."""
    assert login.stderr is not None
    line = login.stderr.readline()
    match = re.search(r"Open (http\S+) in a browser, log in, and enter the code (\S+)", line)
    assert match, line + login.stderr.read()
    return match[1], match[2]


def end_of(process: "subprocess.Popen[str]") -> Result:
    output, errors = process.communicate(timeout=60)
    return Result(process.returncode, output, errors)
