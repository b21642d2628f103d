"""The figures of `inprocess`, `engines` and `dependencies`, and of callgrind where it is wanted."""

import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .errors import CannotMeasure
from .inprocess import BATCH, LEVELS
from .measure import Say
from .processes import ROOT
from .settings import Settings

PROGRAM = [sys.executable, "-m", "tests.benchmarks.inprocess"]
#: Counts only inside `functools.reduce`, in which the requests are made, and writes down each call of it.
CALLGRIND = [
    *("valgrind", "--tool=callgrind", "--collect-atstart=no"),
    *("--toggle-collect=functools_reduce", "--dump-after=functools_reduce"),
]


def measure_stacks(settings: Settings, say: Say, *, rounds: int, callgrind: bool) -> dict[str, Any]:
    say(f"In process: {rounds} rounds of {BATCH} requests for each stack")
    found: dict[str, Any] = json.loads(run([*PROGRAM, str(rounds)], settings))
    found["instructions"] = instructions(settings, say) if callgrind else {}
    times = found["times"]
    # As timeit says: what is above the least is not what it costs, but what others did at that time.
    found["anonymous"] = [min(times[f"anonymous, {LEVELS[-1]}"]) - min(times[f"anonymous, {LEVELS[0]}"])]
    return {**found, "shown": shown(found)}


def measure_engines(settings: Settings, say: Say, *, servers: dict[str, str], rounds: int) -> dict[str, Any]:
    say(f"Engines: {rounds} rounds on {', '.join(servers)}")
    program = [sys.executable, "-m", "tests.benchmarks.engines"]
    found: dict[str, Any] = json.loads(run([*program, json.dumps(servers), str(rounds)], settings))
    text = (
        "One request after the other without a socket, with a permission, on a real database. The ratio is the median of "
        "the ratios of each round."
    )
    head = ["database", "µs, with a Database", "with an engine", "ratio"]
    return {**found, "shown": {"title": "Engines of SQLAlchemy", "text": text, "head": head, "rows": rows_of(found)}}


def measure_dependencies(settings: Settings, say: Say, *, rounds: int) -> dict[str, Any]:
    say(f"Dependencies: {rounds} rounds of {BATCH} requests")
    found: dict[str, Any] = json.loads(
        run([sys.executable, "-m", "tests.benchmarks.dependencies", str(rounds)], settings)
    )
    text = "A request of a logged-in user to FastAPI, without a socket; the database's answer is there already."
    head = ["µs, without a guard", "with a decorator", "with a dependency", "ratio"]
    return {**found, "shown": {"title": "Guards in FastAPI", "text": text, "head": head, "rows": rows_of({"": found})}}


def rows_of(found: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    return [
        [*filter(None, [name]), *(f"{statistics.median(values):.3g}" for values in columns.values())]
        for name, columns in found.items()
    ]


def instructions(settings: Settings, say: Say) -> dict[str, float]:
    """Of the processor, per request. The same from one run to the next, within a hundredth."""
    require_callgrind()
    say("In process: counting instructions")
    with tempfile.TemporaryDirectory() as folder:
        names = json.loads(run([*CALLGRIND, f"--callgrind-out-file={folder}/out", *PROGRAM, "0"], settings))
        files = sorted(Path(folder).glob("out.*"), key=lambda file: int(file.suffix[1:]))
        totals = [int(found[1]) for file in files if (found := re.search(r"(?m)^totals: (\d+)", file.read_text()))]
    # Whoever is imported may have called it as well, before.
    counted = dict(zip(names, totals[-len(names) :], strict=False))
    if len(counted) < len(names) or not all(counted.values()):
        raise CannotMeasure("callgrind finds no functools_reduce in this Python, whose symbols were removed.")
    return {name: total / BATCH for name, total in counted.items()}


def require_callgrind() -> None:
    if shutil.which("valgrind") is None:
        raise CannotMeasure("valgrind is missing. Install it (apt-get install valgrind), or leave --callgrind out.")


def run(command: list[str], settings: Settings) -> str:
    environment = {**settings.environment(), "PYTHONHASHSEED": "0"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"The part in process fails. {done.stderr.strip().splitlines()[-1]}")
    return done.stdout


def shown(found: dict[str, Any]) -> dict[str, Any]:
    rows = []
    for name, taken in found["times"].items():
        counted = found["instructions"].get(name)
        rows.append(
            [
                name,
                f"{min(taken):.1f}",
                f"{statistics.median(taken):.1f}",
                f"{found['calls'][name]:.0f}",
                f"{counted:,.0f}" if counted else "not counted",
            ]
        )
    return {
        "title": "In process",
        "text": "One request after the other without a socket, the database's answer being there already; "
        "each stack has the middlewares before it as well.",
        "head": ["stack", "µs, least", "median", "calls of Python functions", "instructions"],
        "rows": rows,
    }
