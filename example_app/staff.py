"""The staff page: lists and creates users, and changes the group of writers."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_auth import (
    AlreadyExists,
    AnonymousUser,
    Auth,
    Field,
    Form,
    User,
    ValidationError,
    fresh_login_required,
    get_auth,
    user_passes_test,
)

from .pages import render

WRITERS = "writers"
SHOWN = 200


def is_staff(user: User | AnonymousUser) -> bool:
    return user.is_active and user.is_staff


@user_passes_test(is_staff)
async def page(request: Request) -> Response:
    return await _page(request, _form())


@user_passes_test(is_staff)
@fresh_login_required(keep=("username", "email"))
async def create_user(request: Request) -> Response:
    auth, form = get_auth(request), _form()
    await form.fill_in(request)
    await _check(auth, form)
    if form.is_valid:
        try:
            await auth.users.create_user(form.data["username"], form.data["email"], form.data["password"])
            return _back(request)
        except AlreadyExists:
            form.add_error("username", _taken())
        except ValueError:
            form.add_error("username", ValidationError("This username cannot be saved. Choose a shorter one."))
    return await _page(request, form, 422)


@user_passes_test(is_staff)
@fresh_login_required(keep=("user", "wish"))
async def change_writers(request: Request) -> Response:
    users = get_auth(request).users
    form = Form(user=Field(type="hidden"), wish=Field(type="hidden"))
    if not await form.fill_in(request) or form.data["wish"] not in ("add", "remove"):
        raise HTTPException(400, "The form is incomplete. Go back to the staff page and send it again.")
    user = await users.get(form.data["user"])
    if user is None:
        raise HTTPException(404, "This user no longer exists.")
    await (users.add_to_group if form.data["wish"] == "add" else users.remove_from_group)(user, WRITERS)
    return _back(request)


def _form() -> Form:
    return Form(
        username=Field(label="Username", max_length=150, help_text="The user logs in with this name."),
        email=Field(
            label="E-mail address",
            type="email",
            required=False,
            max_length=254,
            help_text="Needed to reset a forgotten password.",
        ),
        password=Field(label="Password", type="password", autocomplete="new-password"),
    )


async def _check(auth: Auth, form: Form) -> None:
    """Adds the errors of a new user to the form.

    Unlike visitors, staff may see which users exist.
    """
    username, email = form.data["username"], form.data["email"]
    if "username" not in form.errors and not username.isprintable():
        form.add_error("username", ValidationError("Use only visible characters. Type it again."))
    elif await auth.users.has_username(username):
        form.add_error("username", _taken())
    if email and "email" not in form.errors and await auth.users.list_by_email(email):
        form.add_error("email", ValidationError("Another user has this address. Enter a different one, or none."))
    if "password" not in form.errors:
        user = User(id=None, username=username, email=email)
        for error in await auth.validate_password(form.data["password"], user):
            form.add_error("password", error)


def _taken() -> ValidationError:
    return ValidationError("This username is taken. Choose another.", "unique")


async def _page(request: Request, form: Form, status_code: int = 200) -> Response:
    context = {
        "form": form,
        "people": await _people(request),
        "writers": WRITERS,
        "password_help": get_auth(request).password_help(),
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
