"""The application, and what happens at its first start."""

import contextlib
import secrets
from collections.abc import AsyncGenerator

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from starlette_auth import Refused, SecurityHeaders, answer, lifespan, middleware
from starlette_auth.fastapi import accounts

from . import members, orders, pages, settings
from .auth import auth
from .database import Base, engine
from .errors import INVALID_DATA, http_error, invalid_data


@contextlib.asynccontextmanager
async def first_start(app: FastAPI) -> AsyncGenerator[None, None]:
    """Creates what is missing: tables, permissions, and the first user.

    `create_all` never changes a table that exists. A real project uses Alembic: see example_app/guides/alembic.md.
    """
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    await auth.users.create_model_permissions("shop", "order")
    if await auth.users.count() == 0:
        password = secrets.token_urlsafe(15)
        await auth.users.create_superuser("admin", password=password)
        print(f"\nLog in at {settings.BASE_URL}\n  username: admin\n  password: {password}\n", flush=True)  # noqa: T201
    yield
    await auth.close()  # gives its connections back to the engine
    await engine.dispose()


app = FastAPI(
    title="Shop",
    middleware=middleware(auth, headers=SecurityHeaders()),
    lifespan=lifespan(auth, first_start),
    exception_handlers={Refused: answer, HTTPException: http_error, RequestValidationError: invalid_data},
    responses={422: INVALID_DATA},
)
app.include_router(pages.router)
app.include_router(orders.router)
app.include_router(members.router)
app.include_router(accounts(auth), prefix="/accounts")
