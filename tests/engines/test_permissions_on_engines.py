"""Rules and roles with an AsyncEngine: also about what a joined session has written."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from starlette_auth import Auth, Roles, User

from ..backends.test_backend_permissions import fresh
from ..conftest import count_statements
from ..support.databases import with_store
from ..support.matrix import ENGINES

VIEW = "shop.view_item"


class Base(DeclarativeBase):
    pass


class Item(Base):
    __tablename__ = "engine_item"
    id: Mapped[int] = mapped_column(primary_key=True)
    owner_id: Mapped[int]


@pytest.fixture(params=ENGINES)
async def auth(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Auth]:
    async with with_store(request.param, tmp_path, backends=[Roles({"staff": ["shop.*"]})]) as auth:
        async with auth.gateway.database.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        auth.rule(VIEW, Item)(lambda user: Item.owner_id.in_([user.id, -1]))
        await auth.users.create_permission(VIEW)
        try:
            yield auth
        finally:
            async with auth.gateway.database.begin() as connection:
                await connection.run_sync(Base.metadata.drop_all)


async def visible(auth: Auth, session: AsyncSession, user: User) -> list[int]:
    return list(await session.scalars(sa.select(Item.id).where(auth.visible_to(user, VIEW, Item)).order_by(Item.id)))


async def test_a_rule_agrees_with_the_query_of_a_session(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    ann, ben = await auth.users.create_user("ann"), await auth.users.create_user("ben")
    await auth.users.add_to_group(ben, "staff")
    ben = await fresh(auth, ben)
    assert await auth.has_perm(ben, VIEW)
    async with AsyncSession(auth.gateway.database, expire_on_commit=False) as session:
        items = [Item(id=1, owner_id=ann.id), Item(id=2, owner_id=ben.id), Item(id=3, owner_id=-1)]
        session.add_all(items)
        assert not await auth.has_perm(ann, VIEW, items[0])
        await session.commit()
        assert await visible(auth, session, ann) == [1, 3]
        assert await visible(auth, session, ben) == [1, 2, 3]
        statements = count_statements(auth, monkeypatch)
        assert [await auth.has_perm(ann, VIEW, item) for item in items] == [True, False, True]
        assert len(statements) == 3
        assert [await auth.has_perm(ben, VIEW, item) for item in items] == [True, True, True]
        assert len(statements) == 3


async def test_in_a_joined_session_the_rules_see_what_it_has_written(auth: Auth) -> None:
    ann = await auth.users.create_user("ann")
    item = Item(id=1, owner_id=ann.id)
    async with AsyncSession(auth.gateway.database, expire_on_commit=False) as session, auth.joined(session):
        await auth.users.update(ann, first_name="Ann")
        session.add(item)
        await session.flush()
        assert await auth.has_perm(ann, VIEW, item)
        await session.rollback()
    assert not await auth.has_perm(ann, VIEW, item)
