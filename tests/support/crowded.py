"""A site with the default hasher, for a test of many logins at once. Run it with uvicorn."""

import contextlib
import os
from collections.abc import AsyncIterator

from databases import Database
from starlette.applications import Starlette
from starlette.routing import Mount

from starlette_auth import Auth, middleware, migrate, routes

from .databases import SECRET_KEY

PASSWORD = "correct horse battery staple"
ATTACKERS = [f"attacker{number}" for number in range(5)]
auth = Auth(Database(os.environ.get("CROWDED_DATABASE", "sqlite+aiosqlite:///crowded.sqlite")), secret_key=SECRET_KEY)


@contextlib.asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with auth.database:
        await migrate(auth.gateway, auth.tables)
        encoded = await auth.passwords.hash(PASSWORD)
        for name in (*ATTACKERS, "ann"):
            await auth.users.create_user(name, encoded_password=encoded)
        yield
        await auth.close()


app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth), lifespan=lifespan)
