"""What was measured, as Markdown."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .bars import BARS, Results, found
from .contestants import CONTESTANTS

TITLES = {
    "requests": "Authenticated, with a permission that comes through a group",
    "anonymous": "Anonymous",
    "login": "Login, with Argon2 at its least",
    "writes": "A change to the session",
}


def report(results: Results) -> str:
    parts = [
        "# How fast it is",
        made(results["made"]),
        bars(results),
        wins(results),
        *(work(results, name) for name in TITLES if name in results.get("works", {})),
        *(
            section(results[name])
            for name in (
                "instructions",
                "hashing",
                "growth",
                "capacity",
                "inprocess",
                "engines",
                "dependencies",
                "imports",
            )
            if name in results
        ),
        who(results),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def made(about: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items())
    return (
        f"{about['date']}, {about['machine']}, of which {about['load']:.1f} were busy before it began; "
        f"Python {about['python']}. {about['rounds']} rounds of {about['seconds']:g} s, {about['connections']} "
        f"connections; medians, with the least and the most of the rounds. {versions}."
    )


def bars(results: Results) -> str:
    rows = []
    for bar in BARS:
        value = bar.find(results)
        if value is None:
            rows.append((bar.what, demand(bar.demanded, bar.unit, at_most=bar.at_most), "", "", "not measured"))
            continue
        verdict = "reached" if bar.is_reached(value.value) else "**not reached**"
        between = f"{number(value.least)} – {number(value.most)}"
        demanded = demand(bar.demanded, bar.unit, at_most=bar.at_most)
        rows.append((bar.what, demanded, f"{number(value.value)} {bar.unit}", between, verdict))
    head = ("bar", "demanded", "found", "rounds", "")
    return (
        f"## Bars\n\nRatios are of the processor's time per request, unless they say otherwise.\n\n{table(head, rows)}"
    )


def demand(value: float, unit: str, *, at_most: bool) -> str:
    return f"{'≤' if at_most else '≥'} {number(value)} {unit}"


def wins(results: Results) -> str:
    """Where others take less of the processor's time than we do."""
    lines = []
    for name, groups in results.get("works", {}).items():
        for group, rows in groups.items():
            cpu = {who: statistics.median(samples["cpu"]) for who, samples in rows.items()}
            for ours in (who for who in cpu if who.startswith("ours")):
                faster = [who for who in cpu if not who.startswith(("ours", "floor", "bare")) and cpu[who] < cpu[ours]]
                lines += [
                    f"* {TITLES[name]} ({group}): {who} takes {cpu[who]:.0f} µs, {ours} {cpu[ours]:.0f} µs."
                    for who in faster
                ]
    return "## Where others are faster\n\n" + ("\n".join(lines) or "Nowhere in what was measured.")


def work(results: Results, name: str) -> str:
    parts = [f"## {TITLES[name]}"]
    for group, rows in results["works"][name].items():
        floors = [who for who in rows if who.startswith("floor")]
        floor = "bare Starlette" if "bare Starlette" in rows else floors[0] if len(floors) == 1 else ""
        least = statistics.median(rows[floor]["cpu"]) if floor else 0.0
        head = (group, "requests/s", "CPU µs per request", f"of {floor or 'the floor'}", "p50 ms", "p99 ms", "RSS MiB")
        parts.append(table(head, [row(who, samples, least) for who, samples in rows.items()]))
    return "\n\n".join(parts)


def row(who: str, samples: Mapping[str, Sequence[float]], least: float) -> Sequence[str]:
    cpu = found(samples["cpu"])
    return (
        who,
        f"{statistics.median(samples['throughput']):,.0f}",
        f"{cpu.value:.0f} ({cpu.least:.0f} – {cpu.most:.0f})",
        number(least / cpu.value) if least else "",
        f"{statistics.median(samples['p50']):.2f}",
        f"{statistics.median(samples['p99']):.2f}",
        f"{samples['memory'][-1]:.0f}",
    )


def section(part: Mapping[str, Any]) -> str:
    """A part that brought its own title, sentence and table along."""
    shown = part["shown"]
    return f"## {shown['title']}\n\n{shown['text']}\n\n{table(shown['head'], shown['rows'])}"


def who(results: Results) -> str:
    """Those that took part, and how they were set up."""
    works = results.get("works", {}).values()
    present = {(group, name) for groups in works for group, rows in groups.items() for name in rows}
    rows = [(one.group, one.name, one.says) for one in CONTESTANTS if (one.group, one.name) in present]
    if not rows:
        return ""
    text = "All answer the same JSON, and proved before that they let in whom they should and nobody else."
    return f"## Who took part\n\n{text}\n\n{table(('group', 'name', 'how'), rows)}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def number(value: float) -> str:
    """With three figures."""
    return f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.3g}"
