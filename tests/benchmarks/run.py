"""All parts of one run, one after the other, and what has to be there for them."""

import argparse
import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .capacity import measure_capacity
from .contestants import WORKS, Contestant, available
from .data import databases
from .errors import CannotMeasure
from .growth import measure_growth
from .hashing import measure_hashing
from .imports import measure_imports
from .instructions import measure_instructions
from .load import Task, loading
from .measure import Say, measure
from .stacks import measure_dependencies, measure_engines, measure_stacks, require_callgrind

TOOLS = ("uvicorn", "uvloop", "httptools", "psutil", "asyncpg")
VERSIONS = (
    *("starlette-contrib-auth", "starlette", "databases", "sqlalchemy", "uvicorn", "uvloop", "httptools"),
    *("asyncpg", "aiosqlite", "redis", "django", "psycopg", "gunicorn", "fastapi-users", "starsessions", "litestar"),
)


@dataclass(frozen=True, kw_only=True)
class Extent:
    """How much is measured. Many short rounds: a machine that is busy elsewhere now and then is so for everybody."""

    rounds: int
    seconds: float
    hashing: tuple[int, float]
    sizes: tuple[int, ...]
    in_process: int
    engines: int
    imports: int


QUICK = Extent(rounds=6, seconds=0.2, hashing=(2, 3.0), sizes=(1_000, 10_000), in_process=60, engines=30, imports=7)
FULL = Extent(
    rounds=20, seconds=0.5, hashing=(5, 5.0), sizes=(1_000, 100_000, 1_000_000), in_process=300, engines=100, imports=20
)


def run(chosen: argparse.Namespace, say: Say) -> dict[str, Any]:
    extent = QUICK if chosen.quick else FULL
    extent = replace(extent, rounds=chosen.rounds or extent.rounds)
    works = [part for part in chosen.parts if part in WORKS]
    members = [one for one in chosen_of(chosen.only) if one.works.intersection(works)]
    require_packages([*TOOLS, *(name for one in members for name in one.needs)])
    if chosen.callgrind:
        require_callgrind()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="starlette_auth_bench_")))
        with_redis = any(one.needs_redis for one in members) or "capacity" in chosen.parts
        made = stack.enter_context(databases(chosen.postgresql, chosen.redis, folder, with_redis=with_redis))
        if any(one.on == "postgresql" and one.tables for one in members) or {"hashing", "growth"} & {*chosen.parts}:
            made.require_postgresql()
        loads = stack.enter_context(loading()), stack.enter_context(loading())
        rounds, seconds = extent.rounds, extent.seconds
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "works": lambda: measure(members, made, loads[0], say, works=works, rounds=rounds, seconds=seconds),
            "instructions": lambda: measure_instructions(members, made, loads[0], say, works=works),
            "hashing": lambda: measure_hashing(made, loads, say, rounds=extent.hashing[0], seconds=extent.hashing[1]),
            "growth": lambda: measure_growth(made, loads[0], say, sizes=extent.sizes, rounds=rounds, seconds=seconds),
            "capacity": lambda: measure_capacity(
                say,
                servers={"PostgreSQL": chosen.postgresql, "SQLite": "sqlite", "MySQL": chosen.mysql},
                redis_url=chosen.redis,
                sizes=(extent.sizes[0], extent.sizes[-1]),
                rounds=rounds,
            ),
            "inprocess": lambda: measure_stacks(
                made.settings("ours", "sqlite"), say, rounds=extent.in_process, callgrind=chosen.callgrind
            ),
            "engines": lambda: measure_engines(
                made.settings("", "sqlite"),
                say,
                servers={"PostgreSQL": chosen.postgresql, "SQLite": "sqlite", "MySQL": chosen.mysql},
                rounds=extent.engines,
            ),
            "dependencies": lambda: measure_dependencies(
                made.settings("ours", "sqlite"), say, rounds=extent.in_process
            ),
            "imports": lambda: measure_imports(say, rounds=extent.imports),
        }
        wanted = {*chosen.parts, *(["works", "instructions"][: 1 + chosen.callgrind] if members else [])}
        return {"made": about(extent), **{name: part() for name, part in parts.items() if name in wanted}}


def chosen_of(names: Sequence[str] | None) -> list[Contestant]:
    everybody = available()
    for name in names or ():
        if not any(name in (one.name, one.group) for one in everybody):
            known = dict.fromkeys(name for one in everybody for name in (one.group, one.name))
            raise CannotMeasure(f"There is no contestant called {name!r}. Name some of: {'; '.join(known)}.")
    return [one for one in everybody if names is None or one.name in names or one.group in names]


def require_packages(names: Sequence[str]) -> None:
    missing = sorted({name for name in names if importlib.util.find_spec(name) is None})
    if missing:
        raise CannotMeasure(f'{", ".join(missing)} missing. Run `pip install -e ".[bench]"`, or choose with --only.')


def about(extent: Extent) -> dict[str, Any]:
    versions = {}
    for name in VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "python": platform.python_version(),
        "machine": f"{platform.system()} with {os.cpu_count()} processors",
        "load": os.getloadavg()[0],
        "rounds": extent.rounds,
        "seconds": extent.seconds,
        "connections": Task.connections,
        "versions": versions,
    }
