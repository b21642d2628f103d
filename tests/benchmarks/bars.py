"""What the package is to reach, and what it reached."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Results = Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """A median, with the least and the most of what single rounds say."""

    value: float
    least: float
    most: float


def found(numbers: Sequence[float]) -> Found:
    return Found(statistics.median(numbers), min(numbers), max(numbers))


@dataclass(frozen=True, kw_only=True)
class Bar:
    """`find` gives None for what was not measured."""

    what: str
    demanded: float
    find: Callable[[Results], Found | None]
    unit: str = "×"
    at_most: bool = False

    def is_reached(self, value: float) -> bool:
        return value <= self.demanded if self.at_most else value >= self.demanded


def ratio(work: str, group: str, ours: str, other: str, quantity: str = "cpu") -> Callable[[Results], Found | None]:
    """How many times as good ours is: of the processor's time less is better, of the throughput more."""

    def find(results: Results) -> Found | None:
        table = results.get("works", {}).get(work, {}).get(group, {})
        if ours not in table or other not in table:
            return None
        mine, theirs = table[ours][quantity], table[other][quantity]
        better, worse = (theirs, mine) if quantity == "cpu" else (mine, theirs)
        rounds = [one / another for one, another in zip(better, worse, strict=True)]
        return Found(statistics.median(better) / statistics.median(worse), min(rounds), max(rounds))

    return find


def multiple(work: str, group: str, ours: str, other: str, quantity: str) -> Callable[[Results], Found | None]:
    """Returns how many times as much of `quantity` ours takes: less is better."""

    def find(results: Results) -> Found | None:
        table = results.get("works", {}).get(work, {}).get(group, {})
        if ours not in table or other not in table:
            return None
        pairs = zip(table[ours][quantity], table[other][quantity], strict=True)
        rounds = [mine / theirs for mine, theirs in pairs]
        medians = [statistics.median(table[name][quantity]) for name in (ours, other)]
        return Found(medians[0] / medians[1], min(rounds), max(rounds))

    return find


def measured(*path: str) -> Callable[[Results], Found | None]:
    """A list of numbers that stands there in the results."""

    def find(results: Results) -> Found | None:
        here: Any = results
        for name in path:
            here = here.get(name) if isinstance(here, Mapping) else None
        return found(here) if here else None

    return find


PG, LITE, OTHER = "PostgreSQL", "SQLite", "Redis and cookies"

BARS = (
    Bar(what="PostgreSQL: of the floor", demanded=0.55, find=ratio("requests", PG, "ours", "floor")),
    Bar(what="PostgreSQL, kept: of the floor", demanded=0.75, find=ratio("requests", PG, "ours, kept", "floor")),
    Bar(
        what="PostgreSQL, engine: in that of a Database",
        demanded=0.9,
        find=multiple("requests", PG, "ours, engine", "ours", "cpu"),
        at_most=True,
    ),
    Bar(
        what="SQLite, engine: in that of a Database",
        demanded=1.1,
        find=multiple("requests", LITE, "ours, engine", "ours", "cpu"),
        at_most=True,
    ),
    Bar(
        what="PostgreSQL, engine: in that of a Database, in process",
        demanded=0.75,
        find=measured("engines", PG, "ratio"),
        at_most=True,
    ),
    Bar(
        what="SQLite, engine: in that of a Database, in process",
        demanded=1.1,
        find=measured("engines", LITE, "ratio"),
        at_most=True,
    ),
    Bar(
        what="MySQL, engine: in that of a Database, in process",
        demanded=1.1,
        find=measured("engines", "MySQL", "ratio"),
        at_most=True,
    ),
    Bar(
        what="FastAPI: a dependency, in that of no guard",
        demanded=1.3,
        find=measured("dependencies", "ratio"),
        at_most=True,
    ),
    Bar(what="PostgreSQL: of Django, async", demanded=12, find=ratio("requests", PG, "ours", "Django, async")),
    Bar(what="PostgreSQL: of Django, gunicorn", demanded=7, find=ratio("requests", PG, "ours", "Django, gunicorn")),
    Bar(what="PostgreSQL: of fastapi-users", demanded=4, find=ratio("requests", PG, "ours", "fastapi-users")),
    Bar(what="SQLite: of the floor", demanded=0.65, find=ratio("requests", LITE, "ours", "floor")),
    Bar(what="SQLite: of Django, async", demanded=22, find=ratio("requests", LITE, "ours", "Django, async")),
    Bar(what="SQLite: of fastapi-users", demanded=6, find=ratio("requests", LITE, "ours", "fastapi-users")),
    Bar(what="Redis: of the floor", demanded=0.65, find=ratio("requests", OTHER, "ours, Redis", "floor, Redis")),
    Bar(what="Cookie: of the floor", demanded=0.55, find=ratio("requests", OTHER, "ours, cookie", "floor, cookie")),
    Bar(what="Redis: of starsessions", demanded=1, find=ratio("requests", OTHER, "ours, Redis", "starsessions")),
    Bar(what="Redis: of Litestar", demanded=1, find=ratio("requests", OTHER, "ours, Redis", "Litestar")),
    Bar(
        what="Django's tables: of Django, async",
        demanded=8,
        find=ratio("requests", PG, "ours, Django's tables", "Django, async"),
    ),
    Bar(
        what="Django's tables: of Django, gunicorn",
        demanded=8,
        find=ratio("requests", PG, "ours, Django's tables", "Django, gunicorn"),
    ),
    Bar(
        what="Anonymous: beyond Starlette",
        demanded=10,
        find=measured("inprocess", "anonymous"),
        unit="µs",
        at_most=True,
    ),
    Bar(
        what="Anonymous: of Starlette's throughput",
        demanded=0.85,
        find=ratio("anonymous", PG, "ours", "bare Starlette", "throughput"),
    ),
    Bar(
        what="Anonymous: p99, in bare Starlette's",
        demanded=1.5,
        find=multiple("anonymous", PG, "ours", "bare Starlette", "p99"),
        at_most=True,
    ),
    Bar(what="Login, PostgreSQL: of the floor", demanded=0.6, find=ratio("login", PG, "ours", "floor")),
    Bar(what="Login, SQLite: of the floor", demanded=0.6, find=ratio("login", LITE, "ours", "floor")),
    Bar(what="Write, PostgreSQL: of the floor", demanded=0.5, find=ratio("writes", PG, "ours", "floor")),
    Bar(what="Write, SQLite: of the floor", demanded=0.5, find=ratio("writes", LITE, "ours", "floor")),
    Bar(
        what="While logins hash: the worst GET, beyond one without",
        demanded=25,
        find=measured("hashing", "beyond"),
        unit="ms",
        at_most=True,
    ),
    Bar(what="While logins hash: of what the hash allows", demanded=0.9, find=measured("hashing", "share")),
    Bar(what="Growth, PostgreSQL", demanded=1.15, find=measured("growth", PG, "ours", "ratio"), at_most=True),
    Bar(what="Growth, SQLite", demanded=1.15, find=measured("growth", LITE, "ours", "ratio"), at_most=True),
    Bar(
        what="Import: processor's time beyond what it needs",
        demanded=60,
        find=measured("imports", "ms"),
        unit="ms",
        at_most=True,
    ),
    Bar(
        what="Import: memory beyond what it needs",
        demanded=8,
        find=measured("imports", "MiB"),
        unit="MiB",
        at_most=True,
    ),
    Bar(what="Import: extras", demanded=0, find=measured("imports", "extras"), unit="modules", at_most=True),
)
