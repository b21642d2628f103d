"""A million sessions in the table against a thousand, and what cleaning does to requests.

    python -m tests.support.million_sessions [URL …]

For each database (a SQLite file, if none is named; of a server, a URL without a database) it measures authenticated
requests with little and with much in the table, in turn, and then requests while `starlette-auth clearsessions`, in a
process of its own, deletes half a million. It says what it found, and asserts nothing.
"""

import asyncio
import contextlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from databases import Database
from starlette.types import ASGIApp

from starlette_auth import Auth
from starlette_auth.testing import FrozenClock

from ..conftest import connected, empty_database, installed
from .apps import make_app
from .server import ROOT

FEW, MANY = 1_000, 1_000_000
ROUNDS, REQUESTS, VISITORS = 15, 200, 200
COLUMNS = "key_hash, public_id, user_id, data, created, last_seen, expires, address, user_agent, version"
VALUES = """{n} % 100000, '{{"cart":[1,2,3],"_auth_user_id":"1"}}', 1, 1,
    CASE WHEN {n} % 2 = 0 THEN 1 ELSE 4000000000 END, '192.0.2.1', 'Mozilla/5.0 (X11; Linux x86_64) Firefox/150.0', 0"""
FILL = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {number}) "
    "INSERT INTO auth_session ({columns}) SELECT lower(hex(randomblob(32))), lower(hex(randomblob(16))), {values} FROM s",
    "postgresql": "INSERT INTO auth_session ({columns}) SELECT md5(random()::text) || md5(random()::text), "
    "md5(random()::text), {values} FROM generate_series(1, {number}) AS n",
    "mysql": "INSERT INTO auth_session ({columns}) SELECT sha2(concat(uuid(), seq, rand()), 256), "
    "md5(concat(uuid(), seq, rand())), {values} FROM seq_1_to_{number}",
}
ANALYZE = {"sqlite": "ANALYZE", "postgresql": "VACUUM ANALYZE auth_session", "mysql": "ANALYZE TABLE auth_session"}


async def fill(auth: Auth, number: int) -> None:
    dialect, driver = auth.gateway.dialect, auth.gateway.driver
    values = VALUES.format(n="seq" if dialect == "mysql" else "n")
    # Said to the driver itself: what stands between would read percent signs and colons as its own.
    async with auth.database.connection() as connection:
        for statement in (FILL[dialect].format(number=number, columns=COLUMNS, values=values), ANALYZE[dialect]):
            await driver.execute(connection.raw_connection, statement, None if dialect == "mysql" else [])


async def cookies_of(auth: Auth) -> list[str]:
    user = await auth.users.create_user("ann")
    await auth.users.create_permission("polls.add_vote")
    group = await auth.users.create_group("voters")
    await auth.users.grant(group, "polls.add_vote")
    await auth.users.add_to_group(user, group)
    cookies = []
    for _ in range(VISITORS):
        session = await auth.sessions.load("")
        auth.session_backend.bind(session, user, auth.model_backend.path)
        cookies.append(await auth.sessions.save(session, 10**6))
    return cookies


async def ask(app: ASGIApp, path: str, cookie: str) -> float:
    """One request without a socket; gives the time until its answer began."""
    path, _, query = path.partition("?")
    begun, answered = time.perf_counter(), 0.0

    async def receive() -> Any:
        return {"type": "http.request", "body": b""}

    async def send(message: Any) -> None:
        nonlocal answered
        if message["type"] == "http.response.start":
            answered = time.perf_counter()
            assert message["status"] == 200, message

    scope = {"type": "http", "method": "GET", "path": path, "root_path": "", "query_string": query.encode()}
    headers = [(b"cookie", f"session={cookie}".encode())]
    await app({**scope, "headers": headers, "scheme": "http", "client": ("192.0.2.1", 1)}, receive, send)
    return answered - begun


async def compare(few: Callable[[], Awaitable[float]], many: Callable[[], Awaitable[float]]) -> None:
    """In turn, so that both have the same luck with the machine."""
    times: dict[str, list[float]] = {"few": [], "many": []}
    for _ in range(ROUNDS):
        for name, one in (("few", few), ("many", many)):
            times[name].append(statistics.median([await one() for _ in range(REQUESTS)]))
    ratios = [much / little for little, much in zip(times["few"], times["many"], strict=True)]
    little, much = (statistics.median(times[name]) * 1e6 for name in ("few", "many"))
    print(
        f"  request: {little:.0f} µs with {FEW:,}, {much:.0f} µs with {MANY:,}; ratio {statistics.median(ratios):.3f} "
        f"({min(ratios):.3f} to {max(ratios):.3f} in {ROUNDS} rounds)"
    )


async def measure_clearing(auth: Auth, app: ASGIApp, cookies: list[str], url: str) -> None:
    async def requests_until(done: Callable[[], bool]) -> dict[str, list[float]]:
        times: dict[str, list[float]] = {"reads": [], "writes": []}
        while not done():
            cookie = random.choice(cookies)
            times["reads"].append(await ask(app, "/members", cookie))
            times["writes"].append(await ask(app, f"/remember?n={random.random()}", cookie))
            await asyncio.sleep(0.005)
        return times

    end = time.monotonic() + 5
    say("before", await requests_until(lambda: time.monotonic() > end))
    begun = time.monotonic()
    command = [sys.executable, "-m", "starlette_auth", "--database", url, "clearsessions"]
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=subprocess.PIPE)
    say("meanwhile", await requests_until(lambda: process.returncode is not None))
    said, _ = await process.communicate()
    print(f"  {said.decode().strip()} It took {time.monotonic() - begun:.0f} s.")


def say(when: str, times: dict[str, list[float]]) -> None:
    for kind, found in times.items():
        ordered = sorted(one * 1000 for one in found)
        p99 = ordered[int(len(ordered) * 0.99)]
        print(
            f"  {kind} {when}: median {statistics.median(ordered):.2f} ms, 99 % {p99:.1f}, worst {ordered[-1]:.1f} "
            f"of {len(ordered)}"
        )


async def run(server: str) -> None:
    print(server.split(":")[0])
    async with contextlib.AsyncExitStack() as stack:
        apps, clock = {}, FrozenClock(time.time())
        for number in (FEW, MANY):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            url = await stack.enter_async_context(empty_database(server, Path(folder)))
            database: Database = await stack.enter_async_context(connected(url))
            auth = await stack.enter_async_context(installed(database, clock=clock))
            cookies = await cookies_of(auth)
            begun = time.monotonic()
            await fill(auth, number)
            print(f"  {number:,} rows in {time.monotonic() - begun:.0f} s")
            apps[number] = (make_app(auth), cookies, auth, url)

        def one(number: int) -> Callable[[], Awaitable[float]]:
            app, cookies, _, _ = apps[number]
            return lambda: ask(app, "/vote", random.choice(cookies))

        await compare(one(FEW), one(MANY))
        app, cookies, auth, url = apps[MANY]
        await measure_clearing(auth, app, cookies, url)


if __name__ == "__main__":
    for server in sys.argv[1:] or ["sqlite"]:
        asyncio.run(run(server))
