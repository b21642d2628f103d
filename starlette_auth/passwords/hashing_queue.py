"""Which password is hashed next? A queue that is fair to all clients."""

import contextlib
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from ..core.exceptions import HashingBusy

T = TypeVar("T")
Job = tuple["Future[Any]", Callable[[], Any]]
_client: ContextVar[str] = ContextVar("starlette_auth.hashing_client", default="")


@contextlib.contextmanager
def hashing_for(client: str) -> Iterator[None]:
    """Counts the password hashes of the block as work for this client, such as an IP address; "" for no client."""
    token = _client.set(client)
    try:
        yield
    finally:
        _client.reset(token)


class HashingQueue:
    """Runs hashing jobs in threads. The waiting clients take turns.

    An attacker sends many logins at once, which would keep the threads busy while others wait. Therefore a client may
    use half of the threads at most, and the jobs that wait for a client delay only that client's own further jobs. A
    client whose job has ended also lets the running jobs of others go on alone, because one hash can use all cores.
    Jobs without a known client, as through a Unix socket, have no such share.

    A client has at most `size` jobs in the queue. A further job raises HashingBusy, and so does that of another client
    if so many wait.
    """

    def __init__(self, threads: int, size: int, *, initializer: Callable[[], None]) -> None:
        self.threads = threads
        self.share = max(1, threads // 2)  # threads that one client may use at once
        self.size = size
        self.slots = threading.BoundedSemaphore(size)  # for jobs without a client
        self._initializer = initializer
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()
        self._workers = 0
        self._waiting: dict[str, deque[Job]] = {}  # by client, in the order of their turns
        self._running: Counter[str] = Counter()
        self._last: str | None = None  # the client whose job ended last

    def submit(self, task: Callable[[], T]) -> "Future[T]":
        """Adds a job for the client of `hashing_for`. Raises HashingBusy if the queue is full."""
        client, future = _client.get(), Future[T]()
        with self._lock:
            self._take_room(client)
            self._waiting.setdefault(client, deque()).append((future, task))
            must_start = self._workers < self.threads
            self._workers += must_start
            if must_start and self._pool is None:
                self._pool = ThreadPoolExecutor(self.threads, "starlette_auth.passwords", initializer=self._initializer)
            pool = self._pool
        # The slot is released when the job ends, not when the request does: a cancelled request's job keeps its thread.
        future.add_done_callback(partial(self._release, client))
        if must_start and pool is not None:
            pool.submit(self._work)
        return future

    def close(self) -> None:
        """Shuts the threads down when they have done their work. The next job starts new ones."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    def _take_room(self, client: str) -> None:
        own_jobs = len(self._waiting.get(client, ())) + self._running[client]
        is_crowded = client not in self._waiting and len(self._waiting) >= self.size
        if is_crowded or (own_jobs >= self.size if client else not self.slots.acquire(blocking=False)):
            raise HashingBusy

    def _work(self) -> None:
        """Runs jobs until none is left that may run. The threads of its client do the rest."""
        client, job = self._next(None)
        while job is not None:
            future, task = job
            if future.set_running_or_notify_cancel():
                try:
                    result = task()
                except BaseException as error:
                    outcome: Callable[[], None] = partial(future.set_exception, error)
                else:
                    outcome = partial(future.set_result, result)
                # The place in the queue is free before the caller goes on.
                client, job = self._next(client)
                outcome()
                del future, task, outcome
            else:
                client, job = self._next(client)

    def _next(self, finished: str | None) -> tuple[str, Job | None]:
        """Returns the job whose turn it is, after the job of the client `finished` ended."""
        with self._lock:
            if finished is not None:
                self._last = finished
                self._running[finished] -= 1
                if not self._running[finished]:
                    del self._running[finished]
            client = self._whose_turn()
            if client is None:
                self._workers -= 1
                return "", None
            jobs = self._waiting.pop(client)
            job = jobs.popleft()
            if jobs:
                self._waiting[client] = jobs  # behind the other clients
            self._running[client] += 1
            if self._workers < self.threads and self._pool is not None and self._whose_turn() is not None:
                self._workers += 1
                self._pool.submit(self._work)
            return client, job

    def _whose_turn(self) -> str | None:
        """Returns the client whose job may run next, or None."""
        others_are_running = any(client != self._last for client in self._running)
        for client in self._waiting:
            has_had_its_turn = client == self._last and others_are_running
            if not client or (self._running[client] < self.share and not has_had_its_turn):
                return client
        return None

    def _release(self, client: str, future: "Future[Any]") -> None:
        """Frees the slot of a job that has ended. Removes a job whose request was cancelled while it waited."""
        if not client:
            self.slots.release()
        if not future.cancelled():
            return
        with self._lock:
            jobs = self._waiting.get(client, deque())
            for job in jobs:
                if job[0] is future:
                    jobs.remove(job)
                    break
            if not jobs:
                self._waiting.pop(client, None)
