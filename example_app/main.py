"""The application: its Auth, routes, middleware and first start."""

import contextlib
import logging
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from starlette_auth import (
    ActiveSessions,
    AlreadyExists,
    APITokens,
    Auth,
    BearerSessions,
    CookieStore,
    DeviceLogin,
    DoesNotExist,
    EmailChange,
    IntegrityError,
    Registration,
    SecurityHeaders,
    TwoFactor,
    lifespan,
    login_not_required,
    middleware,
    routes,
    well_known,
)

from . import me, notes, settings, staff
from .localhost import LocalhostMiddleware
from .pages import error_handlers

HERE = Path(__file__).parent
SITE_NAME = "Notes"
ATTEMPTS = 5

keys = settings.secret_keys()
database = settings.database()
sessions = settings.session_store(keys, database)
django = settings.django_project()
auth = Auth(
    database,
    secret_key=keys,
    sessions=sessions,
    session_limits=settings.session_limits(),
    max_sessions=settings.max_sessions(),
    templates=[HERE / "templates"],
    mailer=settings.mailer(),
    base_url=settings.base_url(),
    site_name=SITE_NAME,
    from_email=settings.mail_from(SITE_NAME),
    languages=settings.languages(),
    password_validators=settings.password_validators(["notes", "starlette"]),
    throttling=settings.throttling(),
    trusted_proxies=settings.trusted_proxies(),
    features=[
        notes.Notes(),
        Registration(),
        EmailChange(),
        TwoFactor(required_for=lambda user: user.is_staff),
        APITokens("notes"),
        DeviceLogin(clients={"cli": "Notes for the command line"}),  # example_app/cli.py
        *([BearerSessions()] if settings.has_sessions_on_the_server() else []),
        # CookieStore cannot list sessions, and DjangoStore would read all of them.
        *([] if django or isinstance(sessions, CookieStore) else [ActiveSessions()]),
    ],
    django=django,
)


@login_not_required
async def healthz(request: Request) -> PlainTextResponse:
    return PlainTextResponse("ok\n")


@contextlib.asynccontextmanager
async def first_start(app: Any) -> AsyncIterator[None]:
    """Creates missing permissions, groups and the first user. Retries if another worker created them first."""
    logging.basicConfig(format="%(levelname)s:     %(name)s: %(message)s")
    logging.getLogger("starlette_auth.security").setLevel(logging.INFO)
    for attempt in range(1, ATTEMPTS + 1):
        try:
            await _create_what_is_missing()
            break
        except (AlreadyExists, IntegrityError):
            if attempt == ATTEMPTS:
                raise
    yield


async def _create_what_is_missing() -> None:
    await auth.users.create_model_permissions("notes", "note")
    try:
        await auth.users.get_group(staff.WRITERS)
    except DoesNotExist:
        await _create_writers()
    if await auth.users.count() == 0:
        await _create_admin()


async def _create_writers() -> None:
    async with auth.gateway.atomic():
        group = await auth.users.create_group(staff.WRITERS)
        await auth.users.grant(group, "notes.add_note")


async def _create_admin() -> None:
    password = secrets.token_urlsafe(15)
    await auth.users.create_superuser("admin", password=password)
    sys.stdout.write(
        f"\nThe first user (this password is shown only once):\n  username: admin\n  password: {password}\n\n"
    )
    sys.stdout.flush()


app = Starlette(
    routes=[
        Route("/", notes.home, name="home"),
        Route("/notes", notes.add, name="add_note", methods=["POST"]),
        Route("/notes/{note}/delete", notes.delete, name="delete_note", methods=["POST"]),
        Route("/me", me.me, name="me"),
        Route("/api/me", me.api_me),
        Route("/api/session", me.api_session, methods=["POST"]),
        Route("/staff", staff.page, name="staff"),
        Route("/staff/users", staff.create_user, name="create_user", methods=["POST"]),
        Route("/staff/writers", staff.change_writers, name="change_writers", methods=["POST"]),
        Route("/healthz", healthz),
        Mount("/accounts", routes=routes(auth)),
        *well_known(auth),
        Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
    ],
    middleware=[
        Middleware(LocalhostMiddleware, base_url=settings.base_url(), exclude=("/healthz",)),
        *middleware(
            auth,
            exclude=("/static", "/healthz"),
            headers=SecurityHeaders(
                content_security_policy="default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'",
                hsts_subdomains=True,
            ),
        ),
    ],
    exception_handlers=error_handlers,
    lifespan=lifespan(auth, first_start, create_tables=True),
)
