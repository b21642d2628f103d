"""What each middleware adds, without sockets and without a database: figures that do not depend on who else is busy.

The database answers at once what it answered before. In a process of its own: `python -m tests.benchmarks.inprocess`.
"""

import asyncio
import functools
import json
import random
import sys
import time
from collections.abc import Callable, Coroutine
from types import FrameType
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Scope

from starlette_auth import Auth, AuthenticationMiddleware, CSRFMiddleware, SessionMiddleware, middleware

from .contestants.ours import make_auth, public, vote
from .data import key_of
from .settings import Settings

LEVELS = ("Starlette alone", "SessionMiddleware", "AuthenticationMiddleware", "CSRFMiddleware")
VISITS = {
    "anonymous": ("/public", ""),
    "authenticated": ("/public", key_of(1)),
    "with a permission": ("/vote", key_of(1)),
}
BATCH = 100  # requests


class Remembering:
    """A driver that asks the database once, and then gives the same answer without waiting."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.answers: dict[tuple[str, str], Any] = {}

    def __getattr__(self, name: str) -> Any:
        asked = getattr(self.driver, name)
        if not name.startswith("fetch"):
            return asked

        async def answer(raw: Any, sql: str, arguments: Any) -> Any:
            if (name, sql) not in self.answers:
                self.answers[name, sql] = await asked(raw, sql, arguments)
            return self.answers[name, sql]

        return answer


class Stack:
    """An application behind some of the middlewares, and a visitor of it."""

    def __init__(self, app: ASGIApp, path: str, cookie: str) -> None:
        self.app, self.statuses = app, set[int]()
        headers = [(b"host", b"127.0.0.1"), (b"user-agent", b"Firefox/150.0"), (b"accept", b"*/*")]
        headers += [(b"cookie", f"session={cookie}".encode())] if cookie else []
        asked = {"type": "http", "method": "GET", "scheme": "http", "path": path, "root_path": "", "query_string": b""}
        self.scope: Scope = {**asked, "http_version": "1.1", "client": ("192.0.2.1", 5000), "headers": headers}

    def request(self) -> Coroutine[Any, Any, None]:
        return self.app({**self.scope, "headers": [*self.scope["headers"]]}, receive, self.send)  # type: ignore[return-value]

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.statuses.add(message["status"])

    def run(self, number: int) -> None:
        """In a function written in C, by whose name callgrind knows when to count."""
        functools.reduce(self.step, range(number), None)

    def step(self, _: None, number: int) -> None:
        coroutine = self.request()
        try:
            coroutine.send(None)
        except StopIteration:
            return
        raise RuntimeError("A request waited, which costs more than all that is measured here.")


async def remember(auth: Auth) -> None:
    """Makes the database answer at once. Its session is touched before, which a request would have to wait for."""
    app = Starlette(routes=[Route("/public", public)], middleware=middleware(auth))
    await Stack(app, "/public", key_of(1)).request()
    auth.gateway.driver = Remembering(auth.gateway.driver)


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


async def measured(settings: Settings, measure: Callable[[dict[str, Stack]], Any]) -> Any:
    """What `measure` finds of all stacks, by their names."""
    auth = make_auth(settings)
    async with auth.database:
        await remember(auth)
        middlewares = [
            Middleware(SessionMiddleware, store=auth.sessions, cookie=auth.cookie, clock=auth.clock),
            Middleware(AuthenticationMiddleware, auth=auth),
            Middleware(CSRFMiddleware, auth=auth),
        ]
        stacks = {}
        for visit, (path, cookie) in VISITS.items():
            for number, level in enumerate(LEVELS):
                if path == "/vote" and number < len(middlewares):
                    continue
                app = Starlette(
                    routes=[Route("/public", public), Route("/vote", vote)], middleware=middlewares[:number]
                )
                stack = stacks[f"{visit}, {level}"] = Stack(app, path, cookie)
                for _ in range(3):
                    await stack.request()
                assert stack.statuses == {200}, stack.statuses
        try:
            return measure(stacks)
        finally:
            await auth.close()


def times(stacks: dict[str, Stack], rounds: int) -> dict[str, list[float]]:
    """µs of the processor's per request, for each round."""
    taken: dict[str, list[float]] = {name: [] for name in stacks}
    order = list(stacks)
    for _ in range(rounds):
        random.shuffle(order)
        for name in order:
            begun = time.thread_time()
            stacks[name].run(BATCH)
            taken[name].append((time.thread_time() - begun) / BATCH * 1e6)
    return taken


def calls(stacks: dict[str, Stack]) -> dict[str, float]:
    """Of Python functions, per request."""
    number = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal number
        number += event == "call"

    counted = {}
    for name, stack in stacks.items():
        before, number = sys.getprofile(), 0
        sys.setprofile(count)
        stack.run(10)
        sys.setprofile(before)
        counted[name] = number / 10
    return counted


def everything(stacks: dict[str, Stack], rounds: int) -> dict[str, Any]:
    return {"calls": calls(stacks), "times": times(stacks, rounds)}


def under_callgrind(stacks: dict[str, Stack]) -> list[str]:
    """Each stack's requests in one call of `functools.reduce`; gives their names in that order."""
    for stack in stacks.values():
        stack.run(BATCH)
    return list(stacks)


def main(rounds: int) -> None:
    measure = functools.partial(everything, rounds=rounds) if rounds else under_callgrind
    print(json.dumps(asyncio.run(measured(Settings.from_environment(), measure))))


if __name__ == "__main__":
    main(int(sys.argv[1]))
