"""Who asks: a process of its own, with plain sockets that stay open. `Load` is its handle; run as a module it obeys."""

import asyncio
import contextlib
import functools
import importlib
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .errors import CannotMeasure
from .processes import ROOT

FRESH = "{fresh address}"  # in a request: one that nobody had before
_fresh = (f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}".encode() for n in itertools.count(1))


@dataclass(frozen=True, kw_only=True)
class Task:
    """For some seconds, each connection sends one of its requests after the other, and waits `pause` in between."""

    port: int
    requests: Sequence[str]
    expected: int = 200
    connections: int = 6
    seconds: float = 1.0
    pause: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Result:
    """Latencies are in milliseconds."""

    requests: int
    seconds: float
    p50: float
    p99: float
    worst: float


class Client(asyncio.Protocol):
    """One connection. It has one request under way at a time."""

    def __init__(self, task: Task, requests: Sequence[bytes], end: float) -> None:
        self.task, self.end = task, end
        self.requests = itertools.cycle(requests)
        self.latencies: list[float] = []
        self.buffer = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        self.ask()

    def ask(self) -> None:
        request = next(self.requests)
        if FRESH.encode() in request:
            request = request.replace(FRESH.encode(), next(_fresh))
        self.begun = time.perf_counter()
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        if not is_whole(self.buffer):
            return
        now = time.perf_counter()
        status, self.buffer = int(self.buffer[9:12]), b""
        if status != self.task.expected:
            self.finish(CannotMeasure(f"A request was answered with {status}, and not {self.task.expected}."))
            return
        self.latencies.append(now - self.begun)
        if now >= self.end:
            self.finish()
        elif self.task.pause:
            asyncio.get_running_loop().call_later(self.task.pause, self.ask)
        else:
            self.ask()

    def connection_lost(self, error: Exception | None) -> None:
        self.finish(CannotMeasure("A server closed a connection before it answered."))

    def finish(self, error: Exception | None = None) -> None:
        if self.done.done():
            return
        if error is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(error)


def is_whole(answer: bytes) -> bool:
    """Whether a response is there to its end."""
    head, separator, body = answer.partition(b"\r\n\r\n")
    if not separator:
        return False
    _, length, rest = head.lower().partition(b"\r\ncontent-length:")
    if length:
        return len(body) >= int(rest.partition(b"\r\n")[0])
    if b"\r\ntransfer-encoding: chunked" in head.lower():
        return body.endswith(b"0\r\n\r\n")
    return head[9:12] == b"204"


async def perform(task: Task) -> Result:
    loop, begun = asyncio.get_running_loop(), time.perf_counter()
    requests = [request.encode("latin-1") for request in task.requests]
    clients = []
    for n in range(task.connections):
        own = requests[n :: task.connections] or requests
        make = functools.partial(Client, task, own, begun + task.seconds)
        _, client = await loop.create_connection(make, "127.0.0.1", task.port)
        clients.append(client)
    done, _ = await asyncio.wait([client.done for client in clients], return_when=asyncio.FIRST_EXCEPTION)
    for client in clients:
        client.done.cancel()
        client.transport.abort()
    for future in done:
        future.result()
    latencies = sorted(latency * 1000 for client in clients for latency in client.latencies)
    return Result(
        requests=len(latencies),
        seconds=time.perf_counter() - begun,
        p50=latencies[len(latencies) // 2],
        p99=latencies[int(len(latencies) * 0.99)],
        worst=latencies[-1],
    )


class Load:
    """The process, which does one task at a time."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.load"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def begin(self, task: Task) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(asdict(task)) + "\n")
        self.process.stdin.flush()

    def end(self) -> Result:
        assert self.process.stdout
        answer = json.loads(self.process.stdout.readline() or '{"error": "The process that asks has ended."}')
        if "error" in answer:
            raise CannotMeasure(answer["error"])
        return Result(**answer)

    def run(self, task: Task) -> Result:
        self.begin(task)
        return self.end()

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=10)


@contextlib.contextmanager
def loading() -> Iterator[Load]:
    load = Load()
    try:
        yield load
    finally:
        load.stop()


def main() -> None:
    with asyncio.Runner(loop_factory=importlib.import_module("uvloop").new_event_loop) as runner:
        for line in sys.stdin:
            try:
                answer = asdict(runner.run(perform(Task(**json.loads(line)))))
            except (CannotMeasure, OSError) as error:
                answer = {"error": str(error)}
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
