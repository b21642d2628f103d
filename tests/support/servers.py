"""Database servers of a test's own, which it can stop, kill and start again."""

import contextlib
import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from .server import free_port

REDIS_SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
MARIADB = shutil.which("mariadbd") or shutil.which("mysqld") or ""
POSTGRES = next((Path(path) for path in sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)), None)


def wait_until_it_listens(port: int, patience: float = 10) -> None:
    for _ in range(int(patience / 0.05)):
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise AssertionError(f"Nothing listens on {port}.")


class RedisServer:
    """`durable`: what it said yes to, it still knows after a crash."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        assert REDIS_SERVER, "redis-server is missing"
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}"
        persistence = ["--appendonly", "yes", "--appendfsync", "always"] if durable else ["--appendonly", "no"]
        where = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self.command = [REDIS_SERVER, *where, "--save", "", *persistence]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        wait_until_it_listens(self.port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def freeze(self) -> None:
        """It takes connections, and answers nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def redis_server(folder: Path, *, durable: bool = True) -> Iterator[RedisServer]:
    server = RedisServer(folder, durable=durable)
    try:
        yield server
    finally:
        server.kill()


class PostgresServer:
    def __init__(self, folder: Path) -> None:
        assert POSTGRES, "PostgreSQL is missing"
        self.bin, self.data = POSTGRES, folder / "data"
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        # It refuses to run as root.
        self.user = "postgres" if os.geteuid() == 0 else None
        if self.user:
            shutil.chown(folder, self.user)
        self.run("initdb", "-D", str(self.data), "-U", "postgres", "-A", "trust", "--no-sync")
        self.start()

    def run(self, program: str, *arguments: str) -> None:
        subprocess.run(
            [self.bin / program, *arguments],
            user=self.user,
            cwd="/",
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )

    def start(self, *settings: str) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories="
        options += "".join(f" -c {setting}" for setting in settings)
        self.run("pg_ctl", "-D", str(self.data), "-w", "-l", str(self.data / "log"), "-o", options, "start")

    def crash(self) -> None:
        """As in a power failure: nobody is told, nothing is written down."""
        self.run("pg_ctl", "-D", str(self.data), "-m", "immediate", "stop")

    def freeze(self) -> None:
        """It takes connections, and answers nothing."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        parent = int((self.data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        for pid in [parent, *map(int, children.split())]:
            os.kill(pid, number)


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    # Not below pytest's own folder, into which nobody else may look.
    with tempfile.TemporaryDirectory(prefix="starlette_auth_") as folder:
        server = PostgresServer(Path(folder))
        try:
            yield server
        finally:
            with contextlib.suppress(subprocess.CalledProcessError):
                server.crash()


class MariaDBServer:
    """A server whose root user has no password. It may be given further options at each start."""

    def __init__(self, folder: Path) -> None:
        assert MARIADB, "MariaDB is missing"
        self.folder, self.port = folder, free_port()
        self.server = f"mysql+asyncmy://root@127.0.0.1:{self.port}"
        self.url = f"{self.server}/mysql"
        # It refuses to run as root, unless it is told to.
        self.common = ["--no-defaults", f"--datadir={folder}/data", *(["--user=root"] if os.geteuid() == 0 else [])]
        install = ["--auth-root-authentication-method=normal", "--skip-test-db"]
        self.run("mariadb-install-db", *self.common, *install)
        self.start()

    def run(self, *command: str) -> None:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=60)

    def start(self, *options: str) -> None:
        where = [f"--port={self.port}", "--bind-address=127.0.0.1", f"--socket={self.folder}/socket"]
        small = ["--innodb-buffer-pool-size=16M", "--skip-name-resolve"]
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen([MARIADB, *self.common, *where, *small, *options], stdout=log, stderr=log)
        wait_until_it_listens(self.port, 30)

    def crash(self) -> None:
        self.process.kill()
        self.process.wait(20)


@contextlib.contextmanager
def mariadb_server() -> Iterator[MariaDBServer]:
    # A short path: that of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="starlette_auth_") as folder:
        server = MariaDBServer(Path(folder))
        try:
            yield server
        finally:
            server.crash()
