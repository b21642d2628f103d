"""Mailed secrets and the access log of a real server."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn
from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.httpsredirect import HTTPSRedirectMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Mount, Route
from starlette.types import Receive, Scope, Send

from starlette_auth import Auth, LoginRequiredMiddleware, MemoryStore, Registration, Unavailable, middleware, routes
from starlette_auth.features.email_change import EmailChange
from starlette_auth.sessions.base import SessionBase
from starlette_auth.testing import CollectingMailer

from ..conftest import any_database, installed, with_tables
from ..support.apps import public

pytestmark = [with_tables, any_database]

PAGE = {"accept": "text/html"}
SECRET = "s3cret-" + "x" * 36
LINKS = ["reset/MQ", "register/confirm", "email_change/confirm", "email_undo/confirm"]
FOREIGN = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}


class BrokenStore(MemoryStore):
    """A store whose server cannot be reached."""

    async def load(self, cookie: str) -> SessionBase:
        raise Unavailable("The server of the sessions is down. Start it.")


class BrokenMiddleware:
    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            raise RuntimeError("broken")
        await self.app(scope, receive, send)


@contextlib.asynccontextmanager
async def served(database: Database, *more: Middleware, mount: str = "/accounts", **options: Any) -> AsyncIterator[str]:
    """Yields the URL of the pages, which uvicorn serves in this event loop."""
    defaults = {"mailer": CollectingMailer(), "base_url": "https://site.example"}
    async with installed(database, features=[Registration(), EmailChange()], **defaults, **options) as auth:
        app = app_of(auth, mount, *more)
        config = uvicorn.Config(app, port=0, log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        task = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}{mount}"
        server.should_exit = True
        await task


def app_of(auth: Auth, mount: str, *more: Middleware) -> Starlette:
    inner = [Route("/", public), Mount("/accounts", routes=routes(auth))]
    if mount == "/sub/accounts":  # the middlewares stand in a mounted application
        return Starlette(routes=[Mount("/sub", Starlette(routes=inner, middleware=[*middleware(auth), *more]))])
    return Starlette(routes=inner, middleware=[*middleware(auth), *more])


@pytest.mark.parametrize(
    ("link", "mount"), [*zip(LINKS, itertools.cycle(["/accounts", "/sub/accounts"]), strict=False)]
)
@pytest.mark.parametrize(
    ("status", "case", "more"),
    [
        (404, "GET", ()),
        (404, "POST", ()),
        (403, "cross-site POST", ()),
        (503, "store", ()),
        (405, "PUT", ()),
        (307, "slash", ()),
        (404, "more", ()),
        (404, "upper case", ()),
        (303, "slash", (Middleware(LoginRequiredMiddleware),)),
        (307, "GET", (Middleware(HTTPSRedirectMiddleware),)),
        (400, "GET", (Middleware(TrustedHostMiddleware, allowed_hosts=["site.example"]),)),
        (500, "GET", (Middleware(BrokenMiddleware),)),
    ],
)
async def test_the_access_log_holds_no_mailed_secret(
    database: Database, caplog: pytest.LogCaptureFixture, mount: str, link: str, status: int, case: str, more: Any
) -> None:
    options: dict[str, Any] = {"sessions": BrokenStore()} if case == "store" else {}
    with caplog.at_level(logging.INFO, "uvicorn"):
        async with served(database, *more, mount=mount, **options) as url, httpx.AsyncClient(headers=PAGE) as client:
            path = f"{url}/{link}/{SECRET}"
            match case:
                case "POST" | "PUT" | "GET":
                    response = await client.request(case, path, data={"a": "b"} if case == "POST" else None)
                case "cross-site POST":
                    client.cookies.set("session", "x" * 43)
                    response = await client.post(path, data={"a": "b"}, headers=FOREIGN)
                case "store":
                    client.cookies.set("session", "x" * 43)
                    response = await client.get(path)
                case "slash":
                    response = await client.get(f"{path}/")
                case "more":
                    response = await client.get(f"{path}/more?a=b")
                case _:
                    response = await client.get(f"{url}/{link.upper()}/{SECRET}")
    assert response.status_code == status
    access = [record.getMessage() for record in caplog.records if record.name == "uvicorn.access"]
    assert len(access) == 1
    assert f"{mount}/{link}/..." in access[0].replace(link.upper(), link)
    assert SECRET not in "".join(access)
    if status == 303:
        assert response.headers["location"] == f"{mount}/login"


@pytest.mark.parametrize("path", ["/reset/a/b", "/orders/confirm/17", "/presets/a/" + SECRET, "/a/confirm/" + SECRET])
async def test_other_paths_are_logged_as_they_are(
    database: Database, caplog: pytest.LogCaptureFixture, path: str
) -> None:
    with caplog.at_level(logging.INFO, "uvicorn"):
        async with served(database) as url, httpx.AsyncClient() as client:
            await client.get(url.removesuffix("/accounts") + path)
    assert [path in record.getMessage() for record in caplog.records if record.name == "uvicorn.access"] == [True]
