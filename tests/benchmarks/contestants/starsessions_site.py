"""starsessions: sessions in Redis, and users by hand. It compares no session hash and looks after no limits."""

import contextlib
from collections.abc import AsyncIterator

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from starsessions import SessionAutoloadMiddleware, SessionMiddleware
from starsessions.stores.redis import RedisStore

from ..settings import GREETING, Settings, vote_of
from .floors import LASTS, verify
from .questions import USER_BY_ID, USER_BY_NAME, asking


async def public(request: Request) -> Response:
    return JSONResponse(GREETING)


async def vote(request: Request) -> Response:
    user_id = request.session.get("user_id")
    user = await request.app.state.questions.row(USER_BY_ID, user_id) if user_id is not None else None
    if user is None or not user["is_active"]:
        return JSONResponse({"detail": "Log in first."}, 401)
    if not user["may_vote"]:
        return JSONResponse({"detail": "You may not."}, 403)
    return JSONResponse(vote_of(user["username"], user["email"]))


async def login(request: Request) -> Response:
    form = await request.form()
    user = await request.app.state.questions.row(USER_BY_NAME, str(form["username"]))
    if user is None or not verify(user, str(form["password"])):
        return JSONResponse({"detail": "Wrong name or password."}, 422)
    request.session["user_id"] = user["id"]
    return RedirectResponse("/", 303)


def make(settings: Settings) -> ASGIApp:
    redis = Redis.from_url(settings.redis)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with asking(settings) as app.state.questions, redis:
            yield

    store = RedisStore(connection=redis)
    return Starlette(
        routes=[Route("/public", public), Route("/vote", vote), Route("/login", login, methods=["POST"])],
        middleware=[
            Middleware(SessionMiddleware, store=store, lifetime=LASTS, cookie_https_only=False),
            Middleware(SessionAutoloadMiddleware),
        ],
        lifespan=lifespan,
    )
