"""A site that passes what it can, from which the tests take one thing after another away."""

from pathlib import Path
from typing import Any

from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_auth import (
    ActiveSessions,
    Auth,
    EmailChange,
    Registration,
    SecurityHeaders,
    lifespan,
    login_not_required,
    login_required,
    middleware,
    routes,
)
from starlette_auth.asvs.application import Target
from starlette_auth.asvs.results import Result
from starlette_auth.asvs.rows import ROWS
from starlette_auth.testing import CollectingMailer

from ..support.databases import SECRET_KEY, weak_passwords

POLICY = "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'"
HEADERS = SecurityHeaders(content_security_policy=POLICY, hsts_subdomains=True)
LEVELS = {row.id: row.level for row in ROWS}
#: What fails on this site: there is no second factor yet, and the tests' hasher is a cheap one.
BEFORE = {"6.3.3", "11.4.2", "3.4.7", "3.5.8", "6.3.6"}


@login_not_required
async def home(request: Request) -> Response:
    return HTMLResponse("home")


@login_required
async def members(request: Request) -> Response:
    return HTMLResponse('<a href="/accounts/logout">Log out</a>')


@login_required
async def chat(socket: WebSocket) -> None:
    await socket.accept()


async def undecided(request: Request) -> Response:
    return HTMLResponse("for whom?")


PAGES: list[BaseRoute] = [Route("/", home), Route("/members", members), WebSocketRoute("/chat", chat)]


def make_auth(tmp_path: Path, **options: Any) -> Auth:
    given: dict[str, Any] = {
        "secret_key": SECRET_KEY,
        "passwords": weak_passwords(),
        "mailer": CollectingMailer(),
        "base_url": "https://shop.example",
        "context_words": ["bakery"],
        "features": [Registration(), EmailChange(), ActiveSessions()],
    }
    return Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/site.sqlite3"), **{**given, **options})


def make_app(
    auth: Auth,
    *,
    pages: list[BaseRoute] = PAGES,
    has_accounts: bool = True,
    without: str = "",
    around: list[Middleware] | None = None,
    debug: bool = False,
    **options: Any,
) -> Starlette:
    """`options` are those of `middleware()`; `without` leaves out a middleware, and `around` adds some."""
    chain = middleware(auth, **{"headers": HEADERS, **options})
    accounts = [Mount("/accounts", routes=routes(auth))] if has_accounts else []
    return Starlette(
        routes=[*pages, *accounts],
        middleware=[*(around or []), *(entry for entry in chain if entry.cls.__name__ != without)],  # type: ignore[attr-defined]
        lifespan=lifespan(auth, create_tables=True),
        debug=debug,
    )


async def assess(app: Any, auth: Auth, *, level: int = 2) -> dict[str, Result]:
    async with Target(app, auth, level=level).running() as target:
        results = {row.id: await row.check(target) for row in ROWS}
    assert target.leftovers == []
    return results


def failures(results: dict[str, Result]) -> set[str]:
    """Returns the rows that fail. It leaves out a comparison of durations, which a busy machine blurs."""
    failed = {id: result for id, result in results.items() if result.status == "fail"}
    return {id for id, result in failed.items() if "takes longer" not in result.why}
