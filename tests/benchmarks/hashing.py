"""What a trivial request waits while passwords are hashed at their full cost, and how many logins there are meanwhile."""

import asyncio
import json
import statistics
import subprocess
import sys
import time
from typing import Any

from starlette_auth import Passwords

from .contestants import CONTESTANTS
from .data import Databases
from .load import Load, Result, Task
from .measure import Say, request
from .processes import ROOT, serving
from .proofs import login_form, prove
from .settings import PASSWORD

LOGINS = 8  # at once
VISITORS = range(1, 9)
PAUSE = 0.02  # seconds between two trivial requests
KINDS = ("alone", "control", "with logins")


def measure_hashing(
    databases: Databases, loads: tuple[Load, Load], say: Say, *, rounds: int, seconds: float
) -> dict[str, Any]:
    """`loads`: one for the logins, one for the trivial requests."""
    ours = next(one for one in CONTESTANTS if (one.group, one.name) == ("PostgreSQL", "ours"))
    settings = databases.settings(ours.tables, ours.on, costly=True)
    found: dict[str, list[float]] = {}
    with serving({ours: settings}) as servers:
        port = servers[ours].port
        prove(ours, port)
        forms = [request("POST", "/login", form=login_form(ours, number)) for number in VISITORS]
        logins = Task(port=port, requests=forms, expected=303, connections=LOGINS, seconds=seconds)
        get = Task(port=port, requests=[request("GET", "/public")], connections=1, seconds=seconds, pause=PAUSE)
        say(f"Hashing: {rounds} rounds of 3 × {seconds:g} s")
        for _ in range(rounds):
            alone, control = hashes_alone(seconds), loads[1].run(get)
            loads[0].begin(logins)
            busy = loads[1].run(get)
            for name, value in quantities(alone, control, busy, loads[0].end()).items():
                found.setdefault(name, []).append(value)
    return {**found, "shown": shown(found)}


def quantities(alone: float, control: Result, busy: Result, logins: Result) -> dict[str, float]:
    in_a_second = logins.requests / logins.seconds
    return {
        "hashes alone": alone,
        "logins": in_a_second,
        "share": in_a_second / alone,
        "control, p99": control.p99,
        "control, worst": control.worst,
        "with logins, p99": busy.p99,
        "with logins, worst": busy.worst,
        "beyond": busy.worst - control.worst,
    }


def hashes_alone(seconds: float) -> float:
    """Per second, by the same threads, in a process that does nothing else."""
    command = [sys.executable, "-m", "tests.benchmarks.hashing", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


async def hash_alone(seconds: float) -> float:
    passwords, number = Passwords(), 0
    encoded = await passwords.hash(PASSWORD)
    begun = time.perf_counter()

    async def check() -> None:
        nonlocal number
        while time.perf_counter() < begun + seconds:
            assert (await passwords.check(encoded, PASSWORD)).matches
            number += 1

    await asyncio.gather(*(check() for _ in range(LOGINS)))
    return number / (time.perf_counter() - begun)


def shown(found: dict[str, list[float]]) -> dict[str, Any]:
    units = {"hashes alone": "per second", "logins": "per second", "share": "of what the hash alone allows"}
    rows = [
        [name, f"{statistics.median(of):.2f} ({min(of):.2f} – {max(of):.2f})", units.get(name, "ms")]
        for name, of in found.items()
    ]
    return {
        "title": "While passwords are hashed",
        "text": f"{LOGINS} logins at once with Argon2id as it comes, and a trivial GET every few milliseconds beside them; "
        "the control is the same GET without logins.",
        "head": ["", "median (rounds)", ""],
        "rows": rows,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(hash_alone(float(sys.argv[1])))))
