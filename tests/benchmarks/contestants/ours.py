"""This package, as its README says."""

from typing import Any

from databases import Database
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from starlette_auth import (
    Argon2PasswordHasher,
    Auth,
    CachedStore,
    CookieStore,
    DatabaseStore,
    DjangoProject,
    Passwords,
    RedisStore,
    SessionStore,
    Users,
    lifespan,
    login_required,
    middleware,
    permission_required,
    routes,
)

from ..settings import CHEAP, GREETING, PERMISSION, SECRET_KEY, Settings, vote_of


async def public(request: Request) -> Response:
    return JSONResponse(GREETING)


@permission_required(PERMISSION)
async def vote(request: Request) -> Response:
    return JSONResponse(vote_of(request.user.username, request.user.email))


@login_required
async def count(request: Request) -> Response:
    request.session["n"] = request.session.get("n", 0) + 1
    return JSONResponse({"n": request.session["n"]})


def make_database(settings: Settings) -> Any:
    if not settings.engine:
        return Database(settings.sized)
    # Imported here, because they would add to the memory of all others.
    from sqlalchemy.ext.asyncio import create_async_engine
    from sqlalchemy.pool import AsyncAdaptedQueuePool

    url = settings.database.replace("postgresql://", "postgresql+asyncpg://")  # the others name their driver
    return create_async_engine(url, poolclass=AsyncAdaptedQueuePool, pool_size=settings.pool, max_overflow=0)


def make_auth(settings: Settings) -> Auth:
    """All checks are on. The load comes through a proxy that is trusted, so that each login has its own address."""
    database = make_database(settings)

    def sessions(users: Users[Any]) -> SessionStore:
        in_database = DatabaseStore(database, users=users)
        match settings.store:
            case "redis":
                return RedisStore(settings.redis)
            case "cached":
                return CachedStore(in_database, settings.redis)
            case "cookie":
                return CookieStore(SECRET_KEY)
        return in_database

    options: dict[str, Any] = {"connections": settings.connections} if settings.connections else {}
    if settings.is_django:
        options["django"] = DjangoProject()
    else:
        options["sessions"] = sessions
    if not settings.costly:
        options["passwords"] = Passwords([Argon2PasswordHasher(**CHEAP)], upgrade=False)
    return Auth(database, secret_key=SECRET_KEY, trusted_proxies=["127.0.0.1"], **options)


def make(settings: Settings) -> ASGIApp:
    auth = make_auth(settings)
    own = [Route("/public", public), Route("/vote", vote), Route("/count", count, methods=["POST"])]
    return Starlette(routes=[*own, *routes(auth)], middleware=middleware(auth), lifespan=lifespan(auth))
