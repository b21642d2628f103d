"""What nobody can do without, written by hand for this one application: no package could do less."""

import asyncio
import contextlib
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError
from itsdangerous import BadSignature, URLSafeTimedSerializer
from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from ..settings import CHEAP, GREETING, SECRET_KEY, Settings, vote_of
from .questions import (
    BEGIN_SESSION,
    CHANGE_SESSION,
    NOTE_LOGIN,
    USER_BY_ID,
    USER_BY_NAME,
    VISIT,
    VISIT_WITHOUT_PERMISSION,
    Questions,
    Row,
    asking,
)

HOURS = 12
LASTS = HOURS * 60 * 60
#: Names and salt are this package's, so that the same sessions can be shown to both.
USER_ID, SESSION_HASH = "_auth_user_id", "_auth_user_hash"
SALT = "django.contrib.auth.models.AbstractBaseUser.get_session_auth_hash"
HASH_KEY = hashlib.sha256(f"{SALT}{SECRET_KEY}".encode()).digest()
hasher = PasswordHasher(**CHEAP)
threads = ThreadPoolExecutor(2)


def session_hash(password: str) -> str:
    """Stands in each session: a new password ends it."""
    return hmac.digest(HASH_KEY, password.encode(), "sha256").hex()


def session_of(user: Row) -> dict[str, Any]:
    return {USER_ID: str(user["id"]), SESSION_HASH: session_hash(user["password"])}


def key_hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def is_good(session: dict[str, Any], user: Row) -> bool:
    return bool(user["is_active"]) and hmac.compare_digest(session[SESSION_HASH], session_hash(user["password"]))


class Sessions(Protocol):
    async def visitor(self, cookie: str) -> Row | None:
        """The user of a session that is good, and whether they may vote."""
        ...

    async def begin(self, user: Row) -> str:
        """Notes a login; gives the cookie."""
        ...


class InDatabase:
    def __init__(self, questions: Questions) -> None:
        self.questions = questions

    async def visitor(self, cookie: str) -> Row | None:
        row = await self.questions.row(VISIT, key_hash(cookie), int(time.time()))
        return row if row is not None and is_good(json.loads(row["data"]), row) else None

    async def begin(self, user: Row) -> str:
        key, now = secrets.token_urlsafe(32), int(time.time())
        data = json.dumps(session_of(user))
        values = (key_hash(key), secrets.token_hex(16), user["id"], data, now, now + LASTS)
        await self.questions.write((BEGIN_SESSION, values), (NOTE_LOGIN, (user["id"],)))
        return key

    async def count(self, cookie: str) -> int | None:
        key, now = key_hash(cookie), int(time.time())
        row = await self.questions.row(VISIT_WITHOUT_PERMISSION, key, now)
        if row is None or not is_good(session := json.loads(row["data"]), row):
            return None
        session["n"] = n = session.get("n", 0) + 1
        await self.questions.write((CHANGE_SESSION, (json.dumps(session), now, key)))
        return int(n)


class InRedis:
    def __init__(self, questions: Questions, redis: Redis) -> None:
        self.questions = questions
        self.redis = redis

    async def visitor(self, cookie: str) -> Row | None:
        found = await self.redis.get(f"floor:{key_hash(cookie)}")
        if found is None:
            return None
        session = json.loads(found)
        user = await self.questions.row(USER_BY_ID, int(session[USER_ID]))
        return user if user is not None and is_good(session, user) else None

    async def begin(self, user: Row) -> str:
        key = secrets.token_urlsafe(32)
        data = json.dumps(session_of(user))
        await self.redis.set(f"floor:{key_hash(key)}", data, ex=LASTS)
        await self.questions.write((NOTE_LOGIN, (user["id"],)))
        return key


class InCookie:
    def __init__(self, questions: Questions) -> None:
        self.questions = questions
        self.signer = URLSafeTimedSerializer(SECRET_KEY, signer_kwargs={"digest_method": hashlib.sha256})

    async def visitor(self, cookie: str) -> Row | None:
        try:
            session = self.signer.loads(cookie, max_age=LASTS)
        except BadSignature:
            return None
        user = await self.questions.row(USER_BY_ID, int(session[USER_ID]))
        return user if user is not None and is_good(session, user) else None

    async def begin(self, user: Row) -> str:
        await self.questions.write((NOTE_LOGIN, (user["id"],)))
        return str(self.signer.dumps(session_of(user)))


async def public(request: Request) -> Response:
    return JSONResponse(GREETING)


async def vote(request: Request) -> Response:
    cookie = request.cookies.get("session")
    user = await request.app.state.sessions.visitor(cookie) if cookie else None
    if user is None:
        return JSONResponse({"detail": "Log in first."}, 401)
    if not user["may_vote"]:
        return JSONResponse({"detail": "You may not."}, 403)
    return JSONResponse(vote_of(user["username"], user["email"]))


async def count(request: Request) -> Response:
    n = await request.app.state.sessions.count(request.cookies.get("session", ""))
    return JSONResponse({"n": n}) if n is not None else JSONResponse({"detail": "Log in first."}, 401)


async def login(request: Request) -> Response:
    form = await request.form()
    user = await request.app.state.questions.row(USER_BY_NAME, str(form["username"]))
    loop, password = asyncio.get_running_loop(), str(form["password"])
    if user is None or not user["is_active"] or not await loop.run_in_executor(threads, verify, user, password):
        return JSONResponse({"detail": "Wrong name or password."}, 422)
    response = RedirectResponse("/", 303)
    key = await request.app.state.sessions.begin(user)
    response.set_cookie("session", key, max_age=LASTS, httponly=True, samesite="lax")
    return response


def verify(user: Row, password: str) -> bool:
    try:
        return hasher.verify("$" + user["password"].split("$", 1)[1], password)
    except VerificationError:
        return False


def make(settings: Settings) -> ASGIApp:
    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with asking(settings) as questions:
            app.state.questions = questions
            if settings.store == "redis":
                async with Redis.from_url(settings.redis, decode_responses=True) as redis:
                    app.state.sessions = InRedis(questions, redis)
                    yield
                return
            app.state.sessions = InCookie(questions) if settings.store == "cookie" else InDatabase(questions)
            yield

    own = [Route("/public", public), Route("/vote", vote), Route("/count", count, methods=["POST"])]
    return Starlette(routes=[*own, Route("/login", login, methods=["POST"])], lifespan=lifespan)
