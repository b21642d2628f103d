"""The JSON API of members: their own account, and the customers that the staff adds."""

import sqlalchemy as sa
from fastapi import APIRouter, Depends, HTTPException

from starlette_auth import AlreadyExists
from starlette_auth.fastapi import fresh_login, requires

from .auth import auth
from .dependencies import CurrentMember, DatabaseSession
from .models import Member, Order
from .orders import place_order
from .schemas import CustomerIn, MemberIn, MemberOut, OrderOut

router = APIRouter(prefix="/api", tags=["members"])


@router.get("/me", response_model=MemberOut)
async def show_me(member: CurrentMember) -> Member:
    return member


@router.patch("/me", response_model=MemberOut)
async def change_me(data: MemberIn, member: CurrentMember) -> Member:
    await auth.users.update(member, city=data.city)
    return member


@router.delete("/me", status_code=204, dependencies=[Depends(fresh_login(max_age=300))])
async def delete_me(member: CurrentMember, session: DatabaseSession) -> None:
    """Deletes the account with all orders. Asks for the password if it was entered more than 300 seconds ago."""
    await session.execute(sa.delete(Order).where(Order.member_id == member.id))
    await auth.users.delete(member)
    await session.commit()


@router.post("/customers", status_code=201, dependencies=[Depends(requires("shop.add_order"))])
async def add_customer(data: CustomerIn, session: DatabaseSession) -> OrderOut:
    """Takes an order by phone. The new customer and the order are stored together, or not at all."""
    if await auth.users.has_username(data.username):  # ann, if there is an Ann
        raise HTTPException(409, "This username is taken.")
    if await auth.users.list_by_email(data.email):
        raise HTTPException(409, "This email is taken.")
    try:
        customer = await auth.users.create_user(data.username, data.email)
    except AlreadyExists as error:  # since the check above
        raise HTTPException(409, "This username is taken.") from error
    except ValueError as error:  # a name that is too long once it is normalized
        raise HTTPException(422, str(error)) from error
    return OrderOut.model_validate(await place_order(session, customer, data.order))
