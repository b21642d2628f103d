"""The example application in a process of its own."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import httpx

ROOT = Path(__file__).parent.parent


class Server:
    """`python -m example_app` in a process of its own."""

    def __init__(self, folder: Path, port: int, environment: dict[str, str]) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"log-{port}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "example_app"], cwd=folder, env=environment, stdout=log, stderr=log
            )

    def wait(self) -> "Server":
        for _ in range(300):
            assert self.process.poll() is None, self.output
            try:
                httpx.get(f"{self.url}/healthz").raise_for_status()
                return self
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"It does not answer: {self.output}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def password(self) -> str:
        found = re.search(r"password: (\S+)", self.output)
        assert found, self.output
        return found[1]


def environment(**variables: str) -> dict[str, str]:
    ours = ("DATABASE_URL", "SECRET_KEY", "SESSION_STORE", "DJANGO", "HOST", "PORT")
    kept = {name: value for name, value in os.environ.items() if name not in ours}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Start = Callable[..., Server]
