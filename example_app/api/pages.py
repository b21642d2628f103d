"""The page of the shop. It works with htmx, and without any script."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.templating import Jinja2Templates
from sqlalchemy.ext.asyncio import AsyncSession

from starlette_auth import auth_context

from .auth import auth
from .dependencies import CurrentMember, DatabaseSession
from .models import Member
from .orders import cancel_order, orders_of, place_order
from .schemas import OrderId, OrderIn

HTMX = "https://cdn.jsdelivr.net/npm/htmx.org@2.0.11/dist/htmx.min.js"
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": f"default-src 'none'; style-src 'self'; script-src 'self' {HTMX}; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
}
router = APIRouter(include_in_schema=False)
templates = Jinja2Templates(env=auth.templates.environment, context_processors=[auth_context])


@router.get("/", name="home")
async def home(request: Request, member: CurrentMember, session: DatabaseSession) -> Response:
    return await _orders(request, "home.html", member, session)


@router.post("/orders", name="add_order")
async def add(
    request: Request, data: Annotated[OrderIn, Form()], member: CurrentMember, session: DatabaseSession
) -> Response:
    await place_order(session, member, data)
    return await _changed(request, member, session)


@router.post("/orders/{order_id}/cancel", name="cancel_order")
async def cancel(request: Request, order_id: OrderId, member: CurrentMember, session: DatabaseSession) -> Response:
    await cancel_order(session, member, order_id)
    return await _changed(request, member, session)


async def _changed(request: Request, member: Member, session: AsyncSession) -> Response:
    """Returns the new list for htmx, which puts it into the page; otherwise redirects to the page."""
    if "hx-request" in request.headers:
        return await _orders(request, "orders.html", member, session)
    return RedirectResponse(auth.url_for(request, "home"), status_code=303)


async def _orders(request: Request, template: str, member: Member, session: AsyncSession) -> Response:
    context = {"orders": await orders_of(session, member), "htmx": HTMX}
    return templates.TemplateResponse(request, template, context, headers=HEADERS)
