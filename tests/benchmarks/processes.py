"""Processes of contestants: their start and their end."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from .contestants import Contestant
from .errors import CannotMeasure
from .settings import Settings

ROOT = Path(__file__).parent.parent.parent
THREADS = 4  # of gunicorn: more or fewer serve no more requests
PATIENCE = 30.0  # seconds


class Server:
    """One contestant that serves. It is in a session of its own: a Ctrl-C is for us, who stop it."""

    def __init__(self, contestant: Contestant, settings: Settings, *, under: Sequence[str] = ()) -> None:
        """`under`: a program that runs it, and looks at what it does."""
        self.contestant = contestant
        self.port = free_port()
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed in stop()
        command = [sys.executable, "-m", "tests.benchmarks.serve", contestant.module, str(self.port)]
        if contestant.server == "gunicorn":
            where = ["--bind", f"127.0.0.1:{self.port}", "--worker-class", "gthread", "--threads", str(THREADS)]
            app = f"tests.benchmarks.contestants.{contestant.module}:make_wsgi()"
            command = [sys.executable, "-m", "gunicorn", *where, "--workers", "1", "--log-level", "warning", app]
        self.popen = subprocess.Popen(
            [*under, *command],
            cwd=ROOT,
            env=settings.environment(),
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )

    def wait(self, patience: float = PATIENCE) -> None:
        end = time.monotonic() + patience
        while time.monotonic() < end and self.popen.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        raise CannotMeasure(f"{self.contestant.name} ({self.contestant.group}) does not start. {self.said()}")

    def said(self) -> str:
        """The last line of its log."""
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        return lines[-1] if lines else "It said nothing."

    def stop(self) -> None:
        """Waits until it has ended, as it was asked to."""
        try:
            self.popen.wait(10)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(10)
        self.log.close()


@contextlib.contextmanager
def serving(entries: dict[Contestant, Settings]) -> Iterator[dict[Contestant, Server]]:
    """All of them at once: while one is measured, the others wait."""
    servers: dict[Contestant, Server] = {}
    try:
        for contestant, settings in entries.items():
            servers[contestant] = Server(contestant, settings)
        for server in servers.values():
            server.wait()
        yield servers
    finally:
        for server in servers.values():
            server.popen.terminate()
        for server in servers.values():
            server.stop()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
