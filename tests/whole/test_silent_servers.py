"""Servers that accept a connection and never answer: 503 with `Retry-After` after the time limit."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import Auth, RedisStore, SessionStore, Unavailable, middleware
from starlette_auth.database.urls import connect

from ..conftest import SECRET_KEY, client_of, connected, installed


@contextlib.asynccontextmanager
async def silent_server() -> AsyncIterator[int]:
    """Yields the port of a server that reads and never writes."""
    writers: list[asyncio.StreamWriter] = []

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await reader.read()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for writer in writers:
            writer.close()


async def home(request: Request) -> Response:
    return PlainTextResponse("home")


async def check(auth: Auth, seconds: float) -> None:
    """Checks that a visitor with a session cookie gets 503 within `seconds`, and one without a cookie gets the page."""
    app = Starlette(routes=[Route("/", home)], middleware=middleware(auth))
    async with client_of(app, cookies={"session": "a" * 43}) as client, client_of(app) as visitor:
        started_at = time.monotonic()
        response, page = await asyncio.gather(client.get("/"), visitor.get("/"))
        assert time.monotonic() - started_at < seconds
        assert (response.status_code, response.headers.get("retry-after")) == (503, "3")
        assert page.text == "home"


async def test_a_silent_redis_is_noticed_without_a_setting(tmp_path: Path) -> None:
    async with silent_server() as port, connected(f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3") as database:
        store: SessionStore = RedisStore(f"redis://127.0.0.1:{port}")
        async with installed(database, sessions=store) as auth:
            await check(auth, 8)


async def test_a_shorter_limit_for_redis_is_a_part_of_the_url(tmp_path: Path) -> None:
    async with silent_server() as port, connected(f"sqlite+aiosqlite:///{tmp_path}/users.sqlite3") as database:
        store = RedisStore(f"redis://127.0.0.1:{port}?socket_timeout=0.3&socket_connect_timeout=0.3")
        async with installed(database, sessions=store) as auth:
            await check(auth, 3)


@pytest.mark.parametrize(
    "url",
    ["postgresql://postgres@127.0.0.1:{}/site", "mysql+asyncmy://root@127.0.0.1:{}/site"],
)
async def test_a_silent_database_is_noticed_at_the_start(url: str) -> None:
    options: dict[str, Any] = (
        {"timeout": 1, "command_timeout": 1} if "postgresql" in url else {"connect_timeout": 1, "read_timeout": 1}
    )
    async with silent_server() as port:
        database = Database(url.format(port), **options)
        Auth(database, secret_key=SECRET_KEY)
        started_at = time.monotonic()
        with pytest.raises(Unavailable, match="Check that it is running"):
            await connect(database)
        assert time.monotonic() - started_at < 8
