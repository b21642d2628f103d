"""A site whose database fails, and what it has to answer."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
from databases import Database

from starlette_auth import Auth
from starlette_auth.testing import log_in

from ..conftest import client_of, installed
from .apps import make_app

WRITE, READ, NEITHER = "/remember?a=1", "/whoami", "/"


class Site:
    """An application in which ann is logged in, and its database."""

    def __init__(self, auth: Auth, client: httpx.AsyncClient) -> None:
        self.auth = auth
        self.client = client
        self.number = 0

    async def statuses(self, *paths: str) -> list[int]:
        return [(await self.client.get(path)).status_code for path in paths]

    async def refuses(self, path: str = WRITE) -> None:
        """Checks that a request is refused as it should be. Another page, which needs no database, is still there."""
        response = await self.client.get(path)
        assert (response.status_code, response.headers.get("retry-after")) == (503, "3")
        assert "try again in a few seconds" in response.text
        assert "set-cookie" not in response.headers
        async with client_of(make_app(self.auth)) as visitor:
            assert (await visitor.get(NEITHER)).status_code == 200

    async def serves(self) -> None:
        """Checks that the site serves again within 5 seconds, without an error in between."""
        started_at = time.monotonic()
        self.number += 1
        while (await self.client.get(f"/remember?n={self.number}")).status_code != 200:
            assert time.monotonic() - started_at < 5
            await asyncio.sleep(0.05)
        response = await self.client.get(READ)
        assert response.json()["username"] == "ann"
        assert response.json()["session"]["n"] == str(self.number)
        assert set(await all_statuses(self.client, 30)) == {200}


async def all_statuses(client: httpx.AsyncClient, number: int, path: str = READ) -> list[int]:
    responses = await asyncio.gather(*(client.get(path) for _ in range(number)))
    return [response.status_code for response in responses]


@contextlib.asynccontextmanager
async def site_on(url: str, *, connections: int = 0, **options: Any) -> AsyncIterator[Site]:
    if not url.startswith("sqlite"):
        options = {"min_size": 1, "max_size": 5, **options}
    async with (
        Database(url, **options) as database,
        installed(database, connections=connections) as auth,
        client_of(make_app(auth)) as client,
    ):
        await log_in(client, await auth.users.create_user("ann"), auth)
        yield Site(auth, client)
