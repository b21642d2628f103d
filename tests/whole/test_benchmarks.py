"""The benchmark: that everybody does the work that is measured, and that what is said of it is right."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from ..benchmarks.arguments import PARTS, arguments
from ..benchmarks.bars import BARS
from ..benchmarks.compare import compare
from ..benchmarks.contestants import CONTESTANTS, WORKS, Contestant, available
from ..benchmarks.data import Databases, databases
from ..benchmarks.dependencies import measured as measured_dependencies
from ..benchmarks.engines import main as measured_engines
from ..benchmarks.errors import CannotMeasure
from ..benchmarks.growth import growth_of
from ..benchmarks.inprocess import BATCH, LEVELS, everything, measured
from ..benchmarks.load import FRESH, Task, is_whole, perform
from ..benchmarks.measure import request
from ..benchmarks.processes import Server, serving
from ..benchmarks.proofs import prove, tampered
from ..benchmarks.report import report
from ..conftest import BACKENDS, REDIS_URL
from ..support.server import ROOT

POSTGRESQL = next((server for server in BACKENDS if server.startswith("postgresql")), "")
USERS = 20
BARE = next(one for one in CONTESTANTS if one.module == "bare")


def can_take_part(contestant: Contestant) -> bool:
    has_server = contestant.on == "sqlite" or POSTGRESQL or not contestant.tables
    return bool(has_server) and not contestant.missing() and bool(REDIS_URL or not contestant.needs_redis)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Databases]:
    folder = tmp_path_factory.mktemp("benchmarks")
    with databases(POSTGRESQL, empty_redis() if REDIS_URL else "", folder, with_redis=bool(REDIS_URL)) as made:
        yield made


def empty_redis() -> str:
    """Of the databases that Redis has, one that nobody uses: it is emptied afterwards."""
    for number in range(15, 0, -1):
        with redis.Redis.from_url(f"{REDIS_URL}/{number}") as client:
            if not client.dbsize():
                return f"{REDIS_URL}/{number}"
    raise AssertionError("None of Redis's databases is empty.")


@pytest.fixture(scope="module")
def servers(made: Databases) -> Iterator[dict[Contestant, Server]]:
    members = [one for one in available() if can_take_part(one)]
    with serving({one: made.settings(one.tables, one.on, users=USERS, **one.options) for one in members}) as servers:
        yield servers


@pytest.mark.parametrize("contestant", CONTESTANTS, ids=lambda one: f"{one.group}: {one.name}")
def test_everybody_does_the_work(contestant: Contestant, servers: dict[Contestant, Server]) -> None:
    if contestant not in servers:
        pytest.skip(f"needs {', '.join(contestant.missing()) or 'a server, or a newer version of this package'}")
    prove(contestant, servers[contestant].port)


def test_who_does_less_fails_a_proof(servers: dict[Contestant, Server]) -> None:
    ours = next(one for one in servers if one.name == "ours")
    with pytest.raises(CannotMeasure, match=r"ours .* fails a proof: nobody may vote without a cookie"):
        prove(ours, servers[BARE].port)


def test_a_tampered_cookie_is_another_of_the_same_length() -> None:
    assert tampered("abcd") == "abAd"
    assert tampered("abAd") == "abBd"


def test_who_asks_counts_the_answers(servers: dict[Contestant, Server]) -> None:
    task = Task(port=servers[BARE].port, requests=[request("GET", "/public")], connections=2, seconds=0.1)
    result = asyncio.run(perform(task))
    assert result.requests > 10
    assert 0 < result.p50 <= result.p99 <= result.worst


def test_who_asks_takes_no_wrong_answer(servers: dict[Contestant, Server]) -> None:
    task = Task(port=servers[BARE].port, requests=[request("GET", "/vote")], seconds=0.1)
    with pytest.raises(CannotMeasure, match="answered with 404, and not 200"):
        asyncio.run(perform(task))


def test_a_form_comes_from_a_new_address_each_time() -> None:
    said = request("POST", "/login", form={"username": "ann"})
    assert f"x-forwarded-for: {FRESH}\r\n" in said
    assert "content-length: 12\r\n" in said
    assert said.endswith("\r\n\r\nusername=ann")


@pytest.mark.parametrize(
    ("answer", "whole"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-le", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", True),
        (b"HTTP/1.1 204 No Content\r\n\r\n", True),
    ],
)
def test_an_answer_is_whole_when_it_has_come_to_its_end(answer: bytes, whole: bool) -> None:
    assert is_whole(answer) is whole


def test_each_middleware_is_measured_in_process(made: Databases) -> None:
    found = asyncio.run(measured(made.settings("ours", "sqlite", users=USERS), lambda stacks: everything(stacks, 1)))
    calls = [found["calls"][f"authenticated, {level}"] for level in LEVELS]
    assert calls == sorted(calls)
    assert calls[0] > 10
    assert calls[0] == found["calls"][f"anonymous, {LEVELS[0]}"]
    assert all(len(taken) == 1 and 1 < taken[0] < 1e6 / BATCH * 100 for taken in found["times"].values())


def test_engines_are_measured_beside_a_database() -> None:
    servers = {"SQLite": "sqlite", "away": "postgresql://postgres@127.0.0.1:1"}
    found = asyncio.run(measured_engines(servers, 2))
    assert set(found) == {"SQLite"}
    assert all(len(found["SQLite"][kind]) == 2 for kind in ("Database", "engine"))
    assert found["SQLite"]["ratio"][0] > 0


def test_a_dependency_is_measured_beside_no_guard(made: Databases) -> None:
    found = asyncio.run(measured_dependencies(made.settings("ours", "sqlite", users=USERS), 2))
    assert [len(found[name]) for name in ("no guard", "decorator", "dependency", "ratio")] == [2, 2, 2, 1]
    assert found["ratio"][0] > 0


def test_growth_is_that_of_the_most_against_the_fewest() -> None:
    growth = growth_of({1000: [100.0, 200.0], 10: [50.0, 50.0], 100: [1.0, 1.0]})
    assert growth["ratio"] == [2.0, 4.0]


def results(ours: float, floor: float) -> dict[str, Any]:
    rows = {"ours": ours, "floor": floor, "fastapi-users": 100.0}
    samples = {
        name: {"throughput": [1000.0, 1000.0], "cpu": [cpu, cpu * 1.5], "p50": [1.0], "p99": [2.0], "memory": [64.0]}
        for name, cpu in rows.items()
    }
    about = {"date": "today", "machine": "a machine", "python": "3.11", "rounds": 2, "seconds": 1, "connections": 6}
    return {
        "made": {**about, "load": 0.5, "versions": {"starlette": "1.3"}},
        "works": {"requests": {"PostgreSQL": samples}},
        "imports": {"ms": [50.0, 70.0], "extras": [0]},
    }


def test_a_bar_is_reached_or_not() -> None:
    shown = report({**results(200, 150), "imports": {**SHOWN, "ms": [50.0, 90.0, 70.0], "extras": [0]}})
    assert "| PostgreSQL: of the floor | ≥ 0.55 × | 0.75 × | 0.75 – 0.75 | reached |" in shown
    assert "| PostgreSQL: of fastapi-users | ≥ 4 × | 0.5 × | 0.5 – 0.5 | **not reached** |" in shown
    assert "| SQLite: of the floor | ≥ 0.65 × |  |  | not measured |" in shown
    assert "| Import: processor's time beyond what it needs | ≤ 60 ms | 70 ms | 50 – 90 | **not reached** |" in shown
    assert "| Import: extras | ≤ 0 modules | 0 modules | 0 – 0 | reached |" in shown


def test_a_slow_hundredth_is_compared_with_that_of_bare_starlette() -> None:
    numbers = {"throughput": [1000.0], "cpu": [100.0], "p50": [1.0], "memory": [64.0]}
    rows = {"ours": {**numbers, "p99": [2.0, 9.0, 3.0]}, "bare Starlette": {**numbers, "p99": [2.0, 3.0, 2.0]}}
    shown = report({**results(200, 150), "works": {"anonymous": {"PostgreSQL": rows}}, "imports": SHOWN})
    assert "| Anonymous: p99, in bare Starlette's | ≤ 1.5 × | 1.5 × | 1 – 3 | reached |" in shown


SHOWN = {"shown": {"title": "Import", "text": "So it is.", "head": ["a", "b"], "rows": [["1", "2"]]}}


def test_a_report_says_where_others_are_faster() -> None:
    shown = report(results(200, 150) | {"imports": SHOWN})
    assert "(PostgreSQL): fastapi-users takes 125 µs, ours 250 µs." in shown
    assert "| ours | 1,000 | 250 (200 – 300) | 0.75 | 1.00 | 2.00 | 64 |" in shown
    assert "## Import\n\nSo it is.\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n" in shown
    assert "Nowhere" in report(results(50, 25) | {"imports": SHOWN})


def test_results_are_compared_with_those_of_before() -> None:
    shown = compare(results(200, 150), results(100, 150))
    assert "| works, requests, PostgreSQL, ours, cpu | 250 | 125 | 0.50 |" in shown
    assert "| works, requests, PostgreSQL, floor, cpu | 188 | 188 | 1.00 |" in shown


def test_each_bar_names_contestants_that_there_are() -> None:
    known = {name for one in CONTESTANTS for name in (one.name, one.group)}
    for bar in BARS:
        named = [cell.cell_contents for cell in getattr(bar.find, "__closure__", None) or ()]
        texts = [text for text in named if isinstance(text, str) and text not in PARTS]
        assert {*texts} - {"cpu", "throughput", "p99"} <= known, bar.what


@pytest.mark.parametrize(
    "wrong",
    [["--parts", "nothing"], ["--rounds", "0"], ["--compare", __file__], ["--compare", "no/such/file"], ["more"]],
)
def test_a_wrong_command_is_refused(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as refused:
        arguments(wrong)
    assert refused.value.code == 2
    assert "usage: python -m tests.benchmarks" in capsys.readouterr().err


def test_a_command_is_understood(tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    file.write_text('{"made": {}}')
    chosen = arguments(["--quick", "--parts", "login", "growth", "--only", "ours", "--compare", str(file)])
    assert (chosen.quick, chosen.parts, chosen.only) == (True, ["login", "growth"], ["ours"])
    assert chosen.compare == {"made": {}}
    assert arguments([]).parts == PARTS
    assert arguments(["--only", "SQLite"]).parts == WORKS


@pytest.mark.parametrize(
    "command",
    [
        ["--parts", "growth", "--postgresql", "postgresql://postgres@127.0.0.1:1"],
        ["--parts", "requests", "--only", "nobody"],
        ["--parts", "imports", "--json", "/no/such/folder/file"],
    ],
)
def test_what_is_missing_is_said_in_a_line(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert any(advice in done.stderr for advice in ("start it", "Name some of", "Name another", "pip install"))
