"""What a guard costs in FastAPI, beside a route without one: without sockets and without a database.

In a process of its own: `python -m tests.benchmarks.dependencies ROUNDS`.
"""

import asyncio
import json
import statistics
import sys
from typing import Any

from fastapi import FastAPI
from starlette.requests import Request

from starlette_auth import login_required, middleware
from starlette_auth.fastapi import CurrentUser

from .contestants.ours import make_auth
from .data import key_of
from .inprocess import Stack, remember, times
from .settings import GREETING, Settings

PATHS = {"no guard": "/plain", "decorator": "/decorated", "dependency": "/dependent"}


def make_app(**options: Any) -> FastAPI:
    app = FastAPI(openapi_url=None, **options)

    @app.get("/plain")
    async def plain(request: Request) -> dict[str, str]:
        return GREETING

    @app.get("/decorated")
    @login_required
    async def decorated(request: Request) -> dict[str, str]:
        return GREETING

    @app.get("/dependent")
    async def dependent(user: CurrentUser) -> dict[str, str]:
        return GREETING

    return app


async def measured(settings: Settings, rounds: int) -> dict[str, Any]:
    auth = make_auth(settings)
    async with auth.database:
        await remember(auth)
        app = make_app(middleware=middleware(auth))
        stacks = {name: Stack(app, path, key_of(1)) for name, path in PATHS.items()}
        for stack in stacks.values():
            for _ in range(3):
                await stack.request()
            assert stack.statuses == {200}, stack.statuses
        taken = times(stacks, rounds)
        await auth.close()
    ratios = (one / other for one, other in zip(taken["dependency"], taken["no guard"], strict=True))
    return {**taken, "ratio": [statistics.median(ratios)]}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measured(Settings.from_environment(), int(sys.argv[1])))))
