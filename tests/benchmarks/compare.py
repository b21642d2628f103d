"""What changed since a result that was saved."""

import statistics
from collections.abc import Iterator, Mapping
from typing import Any

from .bars import Results
from .report import number, table


def compare(old: Results, new: Results) -> str:
    before, after = dict(medians(old)), dict(medians(new))
    rows = [
        (name, number(before[name]), number(after[name]), f"{after[name] / before[name]:.2f}")
        for name in after
        if before.get(name)
    ]
    text = f"Medians of {old['made']['date']} and of now. Below 1 is less than before: better, but for requests/s."
    return f"## Compared with before\n\n{text}\n\n{table(('what', 'before', 'now', 'now / before'), rows)}\n"


def medians(results: Results, *path: str) -> Iterator[tuple[str, float]]:
    """Each list of numbers in the results, by where it stands."""
    for name, value in results.items():
        if isinstance(value, Mapping):
            yield from medians(value, *path, name)
        elif is_numbers(value) and name not in ("memory", "p99"):
            yield ", ".join((*path, name)), statistics.median(value)


def is_numbers(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(one, (int, float)) for one in value)
