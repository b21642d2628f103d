"""The processor's instructions for a whole request, server and drivers included, as callgrind counts them.

What the kernel does is not among them. They are the same whoever else is busy, and so tell small differences.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .contestants import Contestant
from .data import Databases
from .errors import CannotMeasure
from .load import Load, Task
from .measure import Say, tasks_for
from .processes import Server
from .report import number

PATIENCE = 180.0  # seconds: everything takes fifty times as long
WARMING_UP, SECONDS = 3.0, 4.0
Counted = dict[str, dict[str, dict[str, float]]]


def measure_instructions(
    contestants: Iterable[Contestant], databases: Databases, load: Load, say: Say, *, works: Sequence[str]
) -> dict[str, Any]:
    """Of this package and of the floors."""
    found: Counted = {}
    for one in contestants:
        if one.module not in ("ours", "floors"):
            continue
        say(f"{one.group}: counting instructions of {one.name}")
        settings = databases.settings(one.tables, one.on, **one.options)
        with tempfile.TemporaryDirectory() as folder:
            command = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
            server = Server(one, settings, under=command)
            try:
                server.wait(PATIENCE)
                for work, task in tasks_for(one, server.port, works).items():
                    counted = count(server, load, task, Path(folder))
                    found.setdefault(work, {}).setdefault(one.group, {})[one.name] = counted
            finally:
                server.popen.terminate()
                server.stop()
    return {**found, "shown": shown(found)}


def count(server: Server, load: Load, task: Task, folder: Path) -> float:
    # One after the other: how many the server takes up at once would depend on who else is busy.
    task = replace(task, connections=1)
    load.run(replace(task, seconds=WARMING_UP))
    tell(server, "--zero")
    requests = load.run(replace(task, seconds=SECONDS)).requests
    tell(server, "--dump")
    newest = max(folder.glob("out.*"), key=lambda file: int(file.suffix[1:]), default=None)
    total = re.search(r"(?m)^(?:summary|totals): (\d+)", newest.read_text()) if newest else None
    if total is None:
        raise CannotMeasure("callgrind wrote nothing down. Leave --callgrind out.")
    return int(total[1]) / requests


def tell(server: Server, what: str) -> None:
    command = ["callgrind_control", what, str(server.popen.pid)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CannotMeasure(f"callgrind does not obey: {done.stderr.strip()}. Leave --callgrind out.")


def shown(found: Counted) -> dict[str, Any]:
    rows = []
    for work, groups in found.items():
        for group, counted in groups.items():
            for name, instructions in counted.items():
                floor = counted.get(name.replace("ours", "floor").removesuffix(", kept").replace("cached", "Redis"))
                part = number(floor / instructions) if floor else ""
                rows.append([work, group, name, f"{instructions:,.0f}", part])
    return {
        "title": "Instructions",
        "text": "Of the processor, per request, outside of the kernel; and the floor's as a part of them.",
        "head": ["", "", "", "instructions", "of the floor"],
        "rows": rows,
    }
