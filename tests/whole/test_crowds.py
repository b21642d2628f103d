"""Many requests of one client at once: other people can log in meanwhile."""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from ..support.crowded import ATTACKERS, PASSWORD
from ..support.server import ROOT, free_port

pytestmark = pytest.mark.long

LOGINS = 9
OWN_PAGE = {"sec-fetch-site": "same-origin"}


@pytest.fixture
def crowded(tmp_path: Path) -> Iterator[str]:
    """A site in a process of its own, with the default hasher."""
    port = free_port()
    variables = {"CROWDED_DATABASE": f"sqlite+aiosqlite:///{tmp_path}/crowded.sqlite", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "uvicorn", "tests.support.crowded:app", "--port", str(port), "--no-access-log"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **variables}, stdout=log, stderr=log)
    try:
        for _ in range(300):
            assert process.poll() is None, (tmp_path / "log").read_text()
            try:
                httpx.get(f"http://127.0.0.1:{port}/accounts/login")
                break
            except httpx.TransportError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()  # it would finish the attacker's requests first
        process.wait(20)


def browser(url: str, address: str) -> httpx.AsyncClient:
    headers = {**OWN_PAGE, "x-forwarded-for": address}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=60)


async def log_in(client: httpx.AsyncClient, name: str) -> int:
    return (await client.post("/accounts/login", data={"username": name, "password": PASSWORD})).status_code


async def median_login(url: str, network: str) -> tuple[float, set[int]]:
    """Returns the median duration of a stranger's login, each from another address, and the statuses."""
    durations, statuses = [], set()
    for number in range(LOGINS):
        async with browser(url, f"{network}.{number + 1}") as stranger:
            await stranger.get("/accounts/login")
            started_at = time.perf_counter()
            statuses.add(await log_in(stranger, "ann"))
            durations.append(time.perf_counter() - started_at)
    return statistics.median(durations), statuses


async def attack(url: str, device: str, name: str, action: str, answers: list[int]) -> None:
    """Enters the right password of an own account again and again, in a browser that is known."""
    forms = {
        "login": {"username": name, "password": PASSWORD},
        "reauthenticate": {"password": PASSWORD},
        "password_change": {"old_password": PASSWORD, "new_password1": "x", "new_password2": "y"},
    }
    async with browser(url, "203.0.113.9") as client:
        client.cookies["device"] = device
        if action != "login":
            answers.append(await log_in(client, name))
        while True:
            answers.append((await client.post(f"/accounts/{action}", data=forms[action])).status_code)


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
async def test_75_requests_of_one_address_do_not_stop_the_logins_of_others(crowded: str) -> None:
    devices = {}
    for name in ATTACKERS:
        async with browser(crowded, "203.0.113.9") as client:
            assert await log_in(client, name) == 303
            devices[name] = client.cookies["device"]
    quiet, statuses = await median_login(crowded, "198.51.100")
    assert statuses == {303}
    answers: list[int] = []
    tasks = [
        asyncio.create_task(attack(crowded, devices[name], name, action, answers))
        for name in ATTACKERS
        for action in ("login", "reauthenticate", "password_change") * 5
    ]
    assert len(tasks) == 75
    await asyncio.sleep(1)
    busy, statuses = await median_login(crowded, "192.0.2")
    assert not any(task.done() for task in tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    # The attack went on, and its requests were delayed, not refused.
    assert statuses == {303}
    assert len(answers) > 1
    assert set(answers) <= {303, 422}
    assert busy <= 3 * quiet, f"{busy:.3f} s during the attack, {quiet:.3f} s before"
