"""Orders, and their JSON API."""

from collections.abc import Sequence

import sqlalchemy as sa
from fastapi import APIRouter, HTTPException
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from .dependencies import CurrentMember, DatabaseSession
from .models import Member, Order
from .schemas import OrderId, OrderIn, OrderOut

router = APIRouter(prefix="/api/orders", tags=["orders"])


async def orders_of(session: AsyncSession, member: Member) -> Sequence[Order]:
    return (await session.scalars(sa.select(Order).where(Order.member_id == member.id).order_by(Order.id))).all()


async def place_order(session: AsyncSession, member: Member, data: OrderIn) -> Order:
    """Stores an order, and commits what the session and `auth` have written before."""
    order = Order(member_id=member.id, **data.model_dump())
    session.add(order)
    try:
        await session.commit()
    except IntegrityError as error:
        raise HTTPException(409, "This voucher was used before.") from error
    return order


async def cancel_order(session: AsyncSession, member: Member, order_id: int) -> None:
    """Deletes an order of this member. Orders of other members get the answer of one that does not exist."""
    order = await session.get(Order, order_id)
    if order is None or order.member_id != member.id:
        raise HTTPException(404, "You have no such order.")
    await session.delete(order)
    await session.commit()


@router.get("", response_model=list[OrderOut])
async def list_orders(member: CurrentMember, session: DatabaseSession) -> Sequence[Order]:
    return await orders_of(session, member)


@router.post("", response_model=OrderOut, status_code=201)
async def add_order(data: OrderIn, member: CurrentMember, session: DatabaseSession) -> Order:
    return await place_order(session, member, data)


@router.delete("/{order_id}", status_code=204)
async def delete_order(order_id: OrderId, member: CurrentMember, session: DatabaseSession) -> None:
    await cancel_order(session, member, order_id)
