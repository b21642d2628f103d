"""What a request costs with an engine of SQLAlchemy, beside one with a `Database`: on real databases, without sockets.

In a process of its own: `python -m tests.benchmarks.engines SERVERS ROUNDS`, with a JSON object of URLs by name.
"""

import asyncio
import contextlib
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from starlette.applications import Starlette
from starlette.routing import Route

from starlette_auth import Auth, ImproperlyConfigured, Unavailable, middleware, migrate
from starlette_auth.database.urls import connect, open_database
from starlette_auth.testing import log_in

from .contestants.ours import make_auth, vote
from .inprocess import Stack
from .settings import PASSWORD, PERMISSION, Settings

BATCH = 40  # requests
KINDS = ("Database", "engine")
MAINTENANCE = {"postgresql": "postgres", "mysql": "mysql"}  # a database that each server has


@contextlib.asynccontextmanager
async def new_database(server: str, suffix: str = "engines") -> AsyncIterator[str]:
    """Yields the URL of a database that is dropped afterwards; `server` is "sqlite" or a URL."""
    if server == "sqlite":
        with tempfile.TemporaryDirectory() as folder:
            yield f"sqlite+aiosqlite:///{Path(folder) / suffix}"
        return
    name = f"starlette_auth_bench_{os.getpid()}_{suffix}"
    maintenance = f"{server}/{MAINTENANCE[server.partition(':')[0].partition('+')[0]]}"
    database = open_database(f"{maintenance}?min_size=1&max_size=1")
    await connect(database)
    try:
        await database.execute(f"CREATE DATABASE {name}")
        try:
            yield f"{server}/{name}"
        finally:
            await database.execute(f"DROP DATABASE {name}")
    finally:
        await database.disconnect()


async def new_cookie(auth: Auth) -> str:
    """Creates the tables and a user who may vote, and returns the cookie of the user's session."""
    await migrate(auth.gateway, auth.tables)
    user = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    await auth.users.create_permission(PERMISSION, "May vote")
    await auth.users.grant(user, PERMISSION)
    async with httpx.AsyncClient() as client:
        await log_in(client, user, auth)
        return str(client.cookies["session"])


@contextlib.asynccontextmanager
async def opened(auth: Auth) -> AsyncIterator[None]:
    await auth.gateway.connect()
    try:
        yield
    finally:
        await auth.close()
        await auth.gateway.disconnect()


async def measured(server: str, rounds: int) -> dict[str, list[float]]:
    """Returns µs of the processor's time per request, for each round: of all threads, and not of the server."""
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    async with new_database(server) as url, contextlib.AsyncExitStack() as stack:
        stacks = {}
        for kind in KINDS:
            auth = make_auth(Settings(database=url, engine=kind == "engine"))
            await stack.enter_async_context(opened(auth))
            if kind == KINDS[0]:
                cookie = await new_cookie(auth)
            app = Starlette(routes=[Route("/vote", vote)], middleware=middleware(auth))
            stacks[kind] = Stack(app, "/vote", cookie)
        for number in range(rounds + 1):
            for kind in random.sample(KINDS, len(KINDS)):
                begun = time.process_time()
                for _ in range(BATCH):
                    await stacks[kind].request()
                if number:  # the first round warms up
                    taken[kind].append((time.process_time() - begun) / BATCH * 1e6)
        assert all(one.statuses == {200} for one in stacks.values())
    return taken


async def main(servers: dict[str, str], rounds: int) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for name, server in servers.items():
        try:
            taken = await measured(server, rounds)
        except (ImproperlyConfigured, Unavailable):  # no driver, or no server
            continue
        pairs = zip(taken["engine"], taken["Database"], strict=True)
        # A median of ratios: the load of the machine changes between two rounds, and hardly within one.
        found[name] = {**taken, "ratio": [statistics.median(engine / plain for engine, plain in pairs)]}
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(json.loads(sys.argv[1]), int(sys.argv[2])))))
