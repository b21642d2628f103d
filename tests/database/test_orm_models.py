"""A model of SQLAlchemy's ORM as the user table."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from starlette_auth import AlreadyExists, Auth, Tables, migrate, user_columns

from ..conftest import SECRET_KEY
from ..support.databases import sync_url


class Base(DeclarativeBase):
    pass


class Member(Base):
    __table__ = sa.Table("member", Base.metadata, *user_columns(), sa.Column("phone", sa.String(30), nullable=True))
    orders: Mapped[list["Order"]] = relationship(back_populates="member")


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    member_id: Mapped[int] = mapped_column(sa.ForeignKey("member.id"))
    member: Mapped[Member] = relationship(back_populates="orders")


def save(url: str) -> list[tuple[str, int]]:
    """Creates all tables, and a member with an order. Returns the members with the number of their orders."""
    values = {"password": "!", "first_name": "", "last_name": "", "is_superuser": False, "is_staff": False}
    engine = sa.create_engine(url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        ann = Member(username="ann", email="Ann@Example.org", is_active=True, date_joined=datetime.now(UTC), **values)
        session.add(Order(member=ann))
        session.commit()
        rows = session.execute(sa.select(Member, Member.__table__.c.username))
        members = [(username, len(member.orders)) for member, username in rows]
    engine.dispose()
    return members


async def test_a_model_is_the_user_table(database: Database, database_url: str) -> None:
    table: Any = Member.__table__
    tables = Tables(user=table, metadata=Base.metadata)
    auth = Auth(database, secret_key=SECRET_KEY, tables=tables)
    assert await asyncio.to_thread(save, sync_url(database_url)) == [("ann", 1)]
    ann = await auth.users.get_by_email("ann@example.ORG")
    assert ann is not None
    assert ann.username == "ann"
    ben = await auth.users.create_user("ben")
    assert ben.id != ann.id
    with pytest.raises(AlreadyExists):
        await auth.users.create_user("ann")
    assert await migrate(auth.gateway, tables) == []
    await auth.close()
