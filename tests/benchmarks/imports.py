"""What `import starlette_auth` takes, beyond what it needs in any case."""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from .measure import Say
from .processes import ROOT

NEEDED = "import starlette, databases"
OURS = f"{NEEDED}; import starlette_auth"
#: An application imports these of Starlette in any case.
APPLICATION = "import starlette.applications, starlette.routing, starlette.responses, starlette.requests, databases"
EXTRAS = (
    *("asyncpg", "asyncmy", "aiomysql", "redis", "bcrypt", "django", "aiosmtplib", "httpx", "uvicorn", "fastapi"),
    *("psycopg", "pymysql"),
)
PROGRAM = """
import json, os, sys, time
begun, used = time.perf_counter(), time.process_time()
{statement}
took, used = time.perf_counter() - begun, time.process_time() - used
with open("/proc/self/statm") as statm:
    memory = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
print(json.dumps([took * 1000, used * 1000, memory / 2**20, [name for name in {extras!r} if name in sys.modules]]))
"""


def measure_imports(say: Say, *, rounds: int) -> dict[str, Any]:
    say(f"Imports: {rounds} rounds")
    with tempfile.TemporaryDirectory() as folder:
        # Compiled once, as an installed package is, whatever the environment says; and not beside the source.
        environment = {**os.environ, "PYTHONPYCACHEPREFIX": folder}
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        runs: dict[str, list[Any]] = {NEEDED: [], APPLICATION: [], OURS: []}
        for statement in runs:
            once(statement, environment)
        for _ in range(rounds):
            for statement, measured in runs.items():
                measured.append(once(statement, environment))
        taken = parts(environment)
    ours = runs[OURS]
    found = {
        "ms": beyond(ours, runs[NEEDED], 1),
        "ms by the clock": beyond(ours, runs[NEEDED], 0),
        "MiB": beyond(ours, runs[NEEDED], 2),
        "ms beyond an application": beyond(ours, runs[APPLICATION], 1),
        "MiB beyond an application": beyond(ours, runs[APPLICATION], 2),
    }
    extras = ours[-1][3]
    least = {name: of[:1] for name, of in found.items()}
    return {**least, "extras": [len(extras)], "shown": shown(found, extras, taken)}


def once(statement: str, environment: dict[str, str]) -> list[Any]:
    """Milliseconds, those of the processor, MiB, and the extras that came along, in a fresh process."""
    program = PROGRAM.format(statement=statement, extras=EXTRAS)
    measured: list[Any] = json.loads(python(["-c", program], environment).stdout)
    return measured


def python(arguments: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    )


def beyond(ours: Sequence[Any], needed: Sequence[Any], index: int) -> list[float]:
    """The difference of the least, as timeit would say it, and with it that of the medians: others may be busy, too."""
    with_us, without = [one[index] for one in ours], [one[index] for one in needed]
    return [min(with_us) - min(without), statistics.median(with_us) - statistics.median(without)]


def parts(environment: dict[str, str]) -> dict[str, float]:
    """Milliseconds by package, without what others took on its behalf, as `-X importtime` counts: the least of three."""
    runs = [once_by_package(environment) for _ in range(3)]
    least = {package: min(run.get(package, 0) for run in runs) for package in runs[0]}
    return dict(sorted(least.items(), key=lambda part: part[1], reverse=True)[:12])


def once_by_package(environment: dict[str, str]) -> dict[str, float]:
    program = f"{NEEDED}; print('----', file=__import__('sys').stderr); {OURS}"
    said = python(["-X", "importtime", "-c", program], environment).stderr.partition("----")[2]
    taken: dict[str, float] = {}
    for line in (line for line in said.splitlines() if line.startswith("import time:")):
        own, _, name = line.removeprefix("import time:").split("|")
        package = name.strip().partition(".")[0]
        taken[package] = taken.get(package, 0) + int(own) / 1000
    return taken


def shown(found: dict[str, list[float]], extras: list[str], parts: dict[str, float]) -> dict[str, Any]:
    rows = [[name, *(f"{one:.1f}" for one in of)] for name, of in found.items()]
    rows.append(["extras", ", ".join(extras) or "none", ""])
    rows += [[f"of it, {package}", f"{ms:.1f} ms", ""] for package, ms in parts.items()]
    text = (
        f"`import starlette_auth` beyond `{NEEDED}`, each in a fresh process, in the processor's time; "
        f"an application is `{APPLICATION}`."
    )
    return {"title": "Import", "text": text, "head": ["", "least", "medians"], "rows": rows}
