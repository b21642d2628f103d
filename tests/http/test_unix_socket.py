"""A server on a Unix socket (uvicorn --uds), where a request has no client address."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from databases import Database

from starlette_auth import Auth

from ..conftest import PASSWORD, any_database, installed, with_tables
from ..support.apps import make_app
from ..support.server import ROOT

pytestmark = [with_tables, any_database]

APP = """
from databases import Database
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette_auth import Auth, MemoryStore, middleware, routes

auth = Auth(Database("sqlite+aiosqlite:///x.sqlite3"), secret_key="k9w3" * 13, sessions=MemoryStore())
app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
"""


def browser(auth: Auth, headers: dict[str, str]) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(make_app(auth), client=None)  # type: ignore[arg-type]
    return httpx.AsyncClient(transport=transport, base_url="http://testserver", headers=headers)


async def test_a_request_without_an_address_is_logged_once_with_the_fix(
    auth: Auth, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "starlette_auth")
    async with browser(auth, {}) as client:
        for _ in range(3):
            await client.get("/whoami")
            await client.post("/accounts/login", data={"username": "ann", "password": "wrong"})
    lines = [record.getMessage() for record in caplog.records if "client address" in record.getMessage()]
    assert len(lines) == 1
    assert 'trusted_proxies=["unix"]' in lines[0]


async def test_with_a_trusted_socket_the_proxy_tells_the_address(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "starlette_auth")
    async with installed(database, trusted_proxies=["unix"], rates={"login": "2/m/ip"}) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        for address, statuses in (("192.0.2.1", [422, 422, 429]), ("192.0.2.2", [422])):
            async with browser(auth, {"x-forwarded-for": address, "origin": "http://testserver"}) as client:
                data = {"username": "ben", "password": "wrong"}
                assert [(await client.post("/accounts/login", data=data)).status_code for _ in statuses] == statuses
    assert not [record for record in caplog.records if "client address" in record.getMessage()]


def test_uvicorn_on_a_socket_says_that_limits_by_address_are_off(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(APP)
    command = [sys.executable, "-m", "uvicorn", "app:app", "--uds", "s"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    log = tmp_path / "log"
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=output, stderr=output)
    try:
        for _ in range(300):
            if "running on unix socket" in log.read_text():
                break
            assert process.poll() is None, log.read_text()
            time.sleep(0.1)
        transport = httpx.HTTPTransport(uds=str(tmp_path / "s"))
        with httpx.Client(transport=transport, base_url="http://site") as client:
            assert client.get("/accounts/login").status_code == 200
    finally:
        process.terminate()
        process.wait(20)
    assert "Limits by IP address are off" in log.read_text()
