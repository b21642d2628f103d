"""Notes: everyone can read them; writing and deleting needs a permission."""

import time
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from starlette_auth import (
    Feature,
    Field,
    Form,
    Tables,
    ValidationError,
    get_auth,
    login_not_required,
    permission_required,
)

from .pages import render

MAX_LENGTH = 500
SHOWN = 50

table = sa.Table(
    "notes",
    sa.MetaData(),
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("author_id", sa.Integer, nullable=False),
    sa.Column("text", sa.String(MAX_LENGTH), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Index("notes_created", "created"),
    mysql_charset="utf8mb4",
)


class Notes(Feature):
    """Adds the table of notes to those that `migrate` creates."""

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        return [table]


@login_not_required
async def home(request: Request) -> Response:
    return await _page(request, _form())


@permission_required("notes.add_note")
async def add(request: Request) -> Response:
    form = _form()
    await form.fill_in(request)
    # Browsers count a line break as one character for maxlength, but send it as two (CR LF).
    text = form.data["text"] = form.data["text"].replace("\r\n", "\n")
    if len(text) > MAX_LENGTH:
        form.add_error("text", ValidationError(f"The note has {len(text)} characters. Shorten it to {MAX_LENGTH}."))
    if not form.is_valid:
        return await _page(request, form, 422)
    values = {"author_id": request.user.id, "text": text, "created": int(time.time())}
    await get_auth(request).database.execute(table.insert().values(**values))
    return _back(request)


@permission_required("notes.delete_note")
async def delete(request: Request) -> Response:
    """Deletes a note. Succeeds if the note is deleted already."""
    note = request.path_params["note"]
    if not (note.isascii() and note.isdecimal() and len(note) < 10):
        raise HTTPException(404)
    await get_auth(request).database.execute(table.delete().where(table.c.id == int(note)))
    return _back(request)


def _form() -> Form:
    return Form(text=Field(label="New note"))


async def _page(request: Request, form: Form, status_code: int = 200) -> Response:
    context = {"form": form, "notes": await _newest(request), "max_length": MAX_LENGTH}
    return render(request, "home.html", context, status_code)


async def _newest(request: Request) -> Sequence[Any]:
    auth = get_auth(request)
    user = auth.tables.user
    query = (
        sa.select(table.c.id, table.c.text, table.c.created, user.c.username)
        .select_from(table.outerjoin(user, auth.tables.user_key == table.c.author_id))
        .order_by(table.c.created.desc(), table.c.id.desc())
        .limit(SHOWN)
    )
    return await auth.database.fetch_all(query)


def _back(request: Request) -> Response:
    return RedirectResponse(get_auth(request).url_for(request, "home"), status_code=303)
