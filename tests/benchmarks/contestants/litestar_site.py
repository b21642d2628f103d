"""Litestar with its server-side sessions in Redis, and users by hand. It compares no session hash."""

import contextlib
from collections.abc import AsyncIterator
from typing import Annotated, Any

from litestar import Litestar, Request, Response, get, post
from litestar.enums import RequestEncodingType
from litestar.middleware.session.server_side import ServerSideSessionConfig
from litestar.params import Body
from litestar.stores.redis import RedisStore
from starlette.types import ASGIApp

from ..settings import GREETING, Settings, vote_of
from .floors import LASTS, verify
from .questions import USER_BY_ID, USER_BY_NAME, asking

Fields = Annotated[dict[str, str], Body(media_type=RequestEncodingType.URL_ENCODED)]


@get("/public")
async def public() -> dict[str, str]:
    return GREETING


@get("/vote")
async def vote(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    user_id = request.session.get("user_id")
    user = await request.app.state.questions.row(USER_BY_ID, user_id) if user_id is not None else None
    if user is None or not user["is_active"]:
        return Response({"detail": "Log in first."}, status_code=401)
    if not user["may_vote"]:
        return Response({"detail": "You may not."}, status_code=403)
    return Response(vote_of(user["username"], user["email"]))


@post("/login")
async def login(request: Request[Any, Any, Any], data: Fields) -> Response[dict[str, Any]]:
    user = await request.app.state.questions.row(USER_BY_NAME, data["username"])
    if user is None or not verify(user, data["password"]):
        return Response({"detail": "Wrong name or password."}, status_code=422)
    request.set_session({"user_id": user["id"]})
    return Response({}, status_code=200)


def make(settings: Settings) -> ASGIApp:
    @contextlib.asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        async with asking(settings) as app.state.questions:
            yield

    app: ASGIApp = Litestar(
        [public, vote, login],
        middleware=[ServerSideSessionConfig(max_age=LASTS).middleware],
        stores={"sessions": RedisStore.with_client(url=settings.redis)},
        lifespan=[lifespan],
        openapi_config=None,
    )
    return app
