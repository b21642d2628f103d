"""A Redis Cluster, and a Redis behind Sentinels, which the tests start from `redis-server` on loopback."""

import atexit
import contextlib
import functools
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import RedisError

from .server import free_port
from .servers import REDIS_SERVER, wait_until_it_listens

SERVICE = "sessions"  # the name of the primary in the Sentinels
SLOTS = 16384
S = TypeVar("S", "Cluster", "Sentinels")


class Node:
    """A Redis server, or a Sentinel if `sentinel` contains its configuration."""

    def __init__(self, folder: Path, *options: str, sentinel: str = "") -> None:
        assert REDIS_SERVER, "redis-server is missing"
        self.port, self.bus_port = free_port(), free_port()
        self.folder = folder / str(self.port)
        self.folder.mkdir()
        self.command = [REDIS_SERVER, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        if sentinel:
            (self.folder / "sentinel.conf").write_text(f"port {self.port}\nbind 127.0.0.1\n{sentinel}")
            self.command = [REDIS_SERVER, str(self.folder / "sentinel.conf"), "--sentinel"]
        else:
            self.command += ["--save", "", "--repl-diskless-sync-delay", "0", *options]
            if "--cluster-enabled" in options:
                self.command += ["--cluster-port", str(self.bus_port)]
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL)
        wait_until_it_listens(self.port)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(20)

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def run(self, *command: Any) -> Any:
        with Redis(port=self.port, decode_responses=True, socket_timeout=5, single_connection_client=True) as client:
            return client.execute_command(*command)

    def info(self, name: str) -> Any:
        with contextlib.suppress(RedisError):
            return self.run("INFO").get(name)


def wait_until(condition: Callable[[], object], patience: float = 30) -> float:
    """Waits for a condition. Returns the seconds that it took."""
    started_at = time.monotonic()
    while time.monotonic() - started_at < patience:
        with contextlib.suppress(RedisError, OSError):
            if condition():
                return time.monotonic() - started_at
        time.sleep(0.02)
    raise AssertionError(f"The condition did not become true within {patience} seconds.")


class Cluster:
    """Three primaries, and `replicas` of the first."""

    def __init__(self, folder: Path, *, replicas: int = 0) -> None:
        options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--appendonly", "no")
        self.nodes = [Node(folder, *options) for _ in range(3 + replicas)]
        self.url = f"redis+cluster://{','.join(f'127.0.0.1:{node.port}' for node in self.nodes)}"
        first = self.nodes[0]
        for number, node in enumerate(self.nodes[:3]):
            node.run("CLUSTER ADDSLOTSRANGE", SLOTS * number // 3, SLOTS * (number + 1) // 3 - 1)
        for node in self.nodes[1:]:
            first.run("CLUSTER MEET", "127.0.0.1", node.port, node.bus_port)
        first_id = first.run("CLUSTER MYID")
        for node in self.nodes[3:]:
            wait_until(lambda node=node: node.run("CLUSTER REPLICATE", first_id))  # type: ignore[misc]
            wait_until(lambda node=node: node.info("master_link_status") == "up")  # type: ignore[misc]
        for node in self.nodes:
            wait_until(lambda node=node: self.sees_all(node))  # type: ignore[misc]

    def sees_all(self, node: Node) -> bool:
        """Returns whether a node knows all others and the cluster is available."""
        answer = node.run("CLUSTER INFO")
        return bool(
            answer["cluster_state"] == "ok"
            and int(answer["cluster_known_nodes"]) == len(self.nodes)
            and int(answer["cluster_size"]) == 3
        )

    def stop(self) -> None:
        for node in self.nodes:
            node.kill()


class Sentinels:
    """A primary, its replica, and Sentinels that watch them."""

    def __init__(self, folder: Path, *, number: int = 1, options: tuple[str, ...] = ()) -> None:
        self.primary = Node(folder, *options)
        self.replica = Node(folder, "--replicaof", f"127.0.0.1 {self.primary.port}", *options)
        wait_until(lambda: self.replica.info("master_link_status") == "up")
        configuration = (
            f"sentinel monitor {SERVICE} 127.0.0.1 {self.primary.port} {number // 2 + 1}\n"
            f"sentinel down-after-milliseconds {SERVICE} 500\n"
            f"sentinel failover-timeout {SERVICE} 3000\n"
        )
        self.sentinels = [Node(folder, sentinel=configuration) for _ in range(number)]
        self.url = f"redis+sentinel://{','.join(f'127.0.0.1:{node.port}' for node in self.sentinels)}/{SERVICE}"
        for node in self.sentinels:
            wait_until(lambda node=node: self.sees_all(node))  # type: ignore[misc]

    def sees_all(self, node: Node) -> bool:
        (primary,) = [dict(primary) for primary in node.run("SENTINEL MASTERS").values()]
        return (primary["num-slaves"], primary["num-other-sentinels"]) == (1, len(self.sentinels) - 1)

    def stop(self) -> None:
        for node in (self.primary, self.replica, *self.sentinels):
            node.kill()


@functools.cache
def shared_cluster() -> Cluster:
    """Returns a cluster for all tests of this process."""
    return _until_exit(Cluster(_shared_folder()))


@functools.cache
def shared_sentinels() -> Sentinels:
    """Returns a Redis behind a Sentinel for all tests of this process, which do not stop it."""
    return _until_exit(Sentinels(_shared_folder()))


@functools.cache
def _shared_folder() -> Path:
    folder = tempfile.TemporaryDirectory(prefix="starlette_auth_redis_")
    atexit.register(folder.cleanup)
    return Path(folder.name)


def _until_exit(servers: S) -> S:
    atexit.register(servers.stop)
    return servers


@contextlib.contextmanager
def stopping(servers: S) -> Iterator[S]:
    try:
        yield servers
    finally:
        servers.stop()
