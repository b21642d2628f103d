"""The staff corner: who is there, and who may write."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_auth import AlreadyExists, AnonymousUser, User, get_auth, user_passes_test
from starlette_auth.forms import Form, read_form

from .notes import problems
from .pages import render

WRITERS = "writers"
SHORTEST_PASSWORD = 15
SHOWN = 200


def is_staff(user: User | AnonymousUser) -> bool:
    return user.is_active and user.is_staff


@user_passes_test(is_staff)
async def page(request: Request) -> Response:
    return await _page(request, Form())


@user_passes_test(is_staff)
async def create_user(request: Request) -> Response:
    form = await read_form(request, ["username", "password"])
    check_new_user(form)
    if form.is_valid:
        try:
            await get_auth(request).users.create_user(form.data["username"], password=form.data["password"])
            return _back(request)
        except AlreadyExists:
            form.add_error("username", "This username is taken. Choose another.")
        except ValueError:
            form.add_error("username", "This username cannot be saved. Choose a shorter one.")
    return await _page(request, form, 422)


@user_passes_test(is_staff)
async def change_writers(request: Request) -> Response:
    users = get_auth(request).users
    form = await read_form(request, ["user", "wish"])
    user, wish = await users.get(form.data["user"]), form.data["wish"]
    if wish not in ("add", "remove"):
        raise HTTPException(400, "The form did not say whether to add or to remove.")
    if user is None:
        raise HTTPException(404, "This user no longer exists.")
    await (users.add_to_group if wish == "add" else users.remove_from_group)(user, WRITERS)
    return _back(request)


def check_new_user(form: Form) -> None:
    username, password = form.data["username"], form.data["password"]
    for problem in problems(username, "username", 150):
        form.add_error("username", problem)
    if not username.isprintable():
        form.add_error("username", "Use only visible characters. Type it again.")
    if len(password) < SHORTEST_PASSWORD:
        form.add_error("password", f"Use at least {SHORTEST_PASSWORD} characters. Add a word or two.")
    for problem in problems(password, "password", 1024) if password else []:
        form.add_error("password", problem)


async def _page(request: Request, form: Form, status_code: int = 200) -> Response:
    context = {
        "form": form,
        "people": await _people(request),
        "writers": WRITERS,
        "shortest_password": SHORTEST_PASSWORD,
        "shown": SHOWN,
    }
    return render(request, "staff.html", context, status_code)


async def _people(request: Request) -> list[dict[str, Any]]:
    database, t = get_auth(request).database, get_auth(request).tables
    columns = [t.user.c[name] for name in ("username", "is_active", "is_staff", "is_superuser")]
    users = await database.fetch_all(
        sa.select(t.user_key.label("id"), *columns).order_by(t.user.c.username).limit(SHOWN)
    )
    members = await database.fetch_all(
        sa.select(t.user_groups.c.user_id, t.group.c.name)
        .select_from(t.user_groups.join(t.group, t.group.c.id == t.user_groups.c.group_id))
        .order_by(t.group.c.name)
    )
    return [{**_plain(user), "groups": _groups_of(user["id"], members)} for user in users]


def _plain(row: Any) -> dict[str, Any]:
    return dict(row._mapping)


def _groups_of(user_id: Any, members: Sequence[Any]) -> list[str]:
    return [row["name"] for row in members if row["user_id"] == user_id]


def _back(request: Request) -> Response:
    return RedirectResponse(get_auth(request).url_for(request, "staff"), status_code=303)
