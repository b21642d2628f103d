"""Contestants take turns: one round after the other, each in another order."""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from urllib.parse import urlencode

from .contestants import WORKS, Contestant, Work, groups_of
from .data import Databases
from .load import FRESH, Load, Result, Task
from .processes import Server, serving
from .proofs import OWN_PAGE, Visitor, login_form, prove
from .settings import may_vote
from .usage import Usage

Say = Callable[[str], None]
#: What was measured, by work, group and contestant: a list for each quantity, with one number for each round.
Samples = dict[str, list[float]]
Table = dict[str, dict[str, dict[str, Samples]]]

VISITORS = [number for number in range(1, 41) if may_vote(number)]
WARMING_UP = 0.3  # seconds


def measure(
    contestants: Iterable[Contestant],
    databases: Databases,
    load: Load,
    say: Say,
    *,
    works: Sequence[str] = WORKS,
    rounds: int,
    seconds: float,
) -> Table:
    table: Table = {}
    for group, members in groups_of(contestants).items():
        members = [one for one in members if one.works.intersection(works)]
        if not members:
            continue
        say(f"{group}: making tables and starting {len(members)} servers")
        entries = {one: databases.settings(one.tables, one.on, **one.options) for one in members}
        with serving(entries) as servers:
            tasks = {one: tasks_for(one, server.port, works) for one, server in servers.items()}
            for work in works:
                turns = [one for one in members if work in tasks[one]]
                if turns:
                    say(f"{group}: {work}, {rounds} rounds of {seconds:g} s for {len(turns)} contestants")
                    samples = in_turn({one: (servers[one], tasks[one][work]) for one in turns}, load, rounds, seconds)
                    table.setdefault(work, {})[group] = {one.name: samples[one] for one in turns}
    return table


def tasks_for(contestant: Contestant, port: int, works: Sequence[str]) -> dict[str, Task]:
    """Proves that it works, logs visitors in, and gives what is to be asked of it."""
    prove(contestant, port)
    cookies: list[str] = []
    status = 0
    for number in VISITORS if contestant.tables else ():
        visitor = Visitor(port)
        status = visitor.log_in(contestant, number)
        cookies.append(visitor.cookie)
    requests: dict[Work, list[str]] = {
        "requests": [request("GET", "/vote", cookie=cookie) for cookie in cookies],
        "anonymous": [request("GET", "/public")],
        "login": [request("POST", "/login", form=login_form(contestant, number)) for number in VISITORS],
        "writes": [request("POST", "/count", cookie=cookie) for cookie in cookies],
    }
    return {
        work: Task(port=port, requests=asked, expected=status if work == "login" else 200)
        for work, asked in requests.items()
        if work in works and work in contestant.works
    }


def request(method: str, path: str, *, cookie: str = "", form: dict[str, str] | None = None) -> str:
    """As a browser says it, through a proxy that names a new address each time where a form is sent."""
    body = urlencode(form) if form else ""
    headers = {"host": "127.0.0.1", "accept": "*/*", "accept-encoding": "gzip", **OWN_PAGE}
    if cookie:
        headers["cookie"] = cookie
    if method == "POST":
        headers["content-length"] = str(len(body))
    if form:
        headers |= {"content-type": "application/x-www-form-urlencoded", "x-forwarded-for": FRESH}
    head = "\r\n".join(f"{name}: {value}" for name, value in headers.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n\r\n{body}"


def in_turn(
    turns: dict[Contestant, tuple[Server, Task]], load: Load, rounds: int, seconds: float
) -> dict[Contestant, Samples]:
    samples: dict[Contestant, Samples] = {one: {} for one in turns}
    for _, task in turns.values():
        load.run(replace(task, seconds=WARMING_UP))
    usages = {one: Usage(server.popen.pid) for one, (server, _) in turns.items()}
    order = list(turns)
    for _ in range(rounds):
        random.shuffle(order)
        for one in order:
            usage, before = usages[one], usages[one].cpu()
            result = load.run(replace(turns[one][1], seconds=seconds))
            for name, value in quantities(result, usage.cpu() - before, usage.memory()).items():
                samples[one].setdefault(name, []).append(value)
    return samples


def quantities(result: Result, cpu: float, memory: float) -> dict[str, float]:
    return {
        "throughput": result.requests / result.seconds,
        "cpu": cpu / result.requests * 1e6,
        "p50": result.p50,
        "p99": result.p99,
        "memory": memory,
    }
