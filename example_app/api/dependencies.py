"""What endpoints ask for in their arguments."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import Depends
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_auth.fastapi import current_user

from .auth import auth
from .database import Session
from .models import Member


async def get_session() -> AsyncGenerator[AsyncSession, None]:
    """Yields a session. Statements that the endpoint runs through `auth` belong to its transaction."""
    async with Session() as session, auth.joined(session):
        yield session


CurrentMember = Annotated[Member, Depends(current_user)]
# With scope="function", the session is closed before the response is sent.
DatabaseSession = Annotated[AsyncSession, Depends(get_session, scope="function")]
