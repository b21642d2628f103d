"""What becomes of one request when there are a thousand times as many users and sessions."""

import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .contestants import CONTESTANTS, Contestant
from .data import Databases, key_of
from .load import Load, Task
from .measure import Say, request
from .processes import serving
from .settings import may_vote

GROUPS = ("PostgreSQL", "SQLite")
VISITORS = 1000  # at random, of all that there are
WARMING_UP = 1.0  # seconds: each of them comes by, so that it is noted of all, once a minute, that they are here


def measure_growth(
    databases: Databases, load: Load, say: Say, *, sizes: Sequence[int], rounds: int, seconds: float
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for group in GROUPS:
        say(f"{group}: tables with {' and '.join(f'{size:,}' for size in sizes)} users and sessions")
        entries: dict[Contestant, Any] = {}
        sizes_of: dict[Contestant, int] = {}
        for size in sizes:
            for one in (one for one in CONTESTANTS if one.group == group and one.name in ("ours", "floor")):
                grown = replace(one)
                sizes_of[grown] = size
                entries[grown] = databases.settings(one.tables, one.on, users=size)
        with serving(entries) as servers:
            tasks = {one: Task(port=server.port, requests=asked(sizes_of[one])) for one, server in servers.items()}
            for task in tasks.values():
                load.run(replace(task, seconds=WARMING_UP))
            say(f"{group}: {rounds} rounds of {seconds:g} s for {len(tasks)} servers")
            latencies = in_turn(
                {one: replace(task, connections=1) for one, task in tasks.items()}, load, rounds, seconds
            )
        found[group] = {
            name: growth_of({sizes_of[one]: latencies[one] for one in latencies if one.name == name})
            for name in ("ours", "floor")
        }
    return {**found, "shown": shown(found, sizes)}


def asked(size: int) -> list[str]:
    voters = [number for number in random.sample(range(1, size + 1), min(size, VISITORS)) if may_vote(number)]
    return [request("GET", "/vote", cookie=f"session={key_of(number)}") for number in voters]


def in_turn(tasks: dict[Contestant, Task], load: Load, rounds: int, seconds: float) -> dict[Contestant, list[float]]:
    """The median latency of each round, in µs, on one connection."""
    latencies: dict[Contestant, list[float]] = {one: [] for one in tasks}
    order = list(tasks)
    for _ in range(rounds):
        random.shuffle(order)
        for one in order:
            latencies[one].append(load.run(replace(tasks[one], seconds=seconds)).p50 * 1000)
    return latencies


def growth_of(latencies: dict[int, list[float]]) -> dict[str, Any]:
    """The ratio of the most to the fewest, in each round."""
    few, many = latencies[min(latencies)], latencies[max(latencies)]
    ratios = [much / little for little, much in zip(few, many, strict=True)]
    return {"latency": {f"{size:,}": of for size, of in latencies.items()}, "ratio": ratios}


def shown(found: dict[str, Any], sizes: Sequence[int]) -> dict[str, Any]:
    rows = []
    for group, contestants in found.items():
        for name, growth in contestants.items():
            medians = [f"{statistics.median(of):.0f}" for of in growth["latency"].values()]
            ratios = growth["ratio"]
            between = f"{statistics.median(ratios):.3f} ({min(ratios):.3f} – {max(ratios):.3f})"
            rows.append([group, name, *medians, between])
    return {
        "title": "Many users and sessions",
        "text": f"The median latency in µs on one connection, of {VISITORS:,} sessions at random at most; and how many times "
        "it is with the most what it is with the fewest.",
        "head": ["", "", *(f"{size:,}" for size in sizes), "growth"],
        "rows": rows,
    }
