"""The FastAPI example as mypy and pyright see it. `test_types.py` runs both; nothing here is executed."""

from typing import assert_type

from sqlalchemy.ext.asyncio import AsyncSession

from example_app.api.auth import auth
from example_app.api.dependencies import CurrentMember, DatabaseSession
from example_app.api.models import Member
from starlette_auth import Auth

assert_type(auth, Auth[Member])


async def endpoint(member: CurrentMember, session: DatabaseSession) -> None:
    assert_type(member, Member)
    assert_type(member.city, str)
    assert_type(session, AsyncSession)
    assert_type(await auth.users.create_user("ann"), Member)
