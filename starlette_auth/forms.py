"""What a visitor filled in, and what was wrong with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

MAX_BODY = 64 * 1024
KINDS = ("application/x-www-form-urlencoded", "multipart/form-data")


@dataclass
class Form:
    """The values of a form's fields, and the errors to show beside them; those of the whole form under ""."""

    data: dict[str, str] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)

    def add_error(self, name: str, message: str) -> None:
        self.errors.setdefault(name, []).append(message)

    def require(self, name: str, message: str) -> None:
        if not self.data.get(name):
            self.add_error(name, message)

    @property
    def is_valid(self) -> bool:
        return not self.errors


async def read_form(request: Request, names: Sequence[str]) -> Form:
    """The fields of these names, white space around them gone (but not in passwords).

    Refuses with 413 what is longer than 64 KiB, with 415 what is no form, with 400 a field that comes twice.
    """
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in KINDS:
        raise HTTPException(415, f"Send this as a form ({KINDS[0]}).")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or len(length) > 10 or int(length) > MAX_BODY:
        raise HTTPException(413, "This form is too long. Shorten what you filled in.")
    received = 0
    receive = request.receive

    async def counting() -> object:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > MAX_BODY:
            raise HTTPException(413, "This form is too long. Shorten what you filled in.")
        return message

    try:
        async with Request(request.scope, counting).form(max_files=0, max_fields=50) as sent:  # type: ignore[arg-type]
            values = {name: sent.getlist(name) for name in names}
    except HTTPException:
        raise
    except (MultiPartException, ValueError, KeyError) as error:
        raise HTTPException(400, "This form cannot be read. Load the page again, and send it once more.") from error
    form = Form()
    for name, value in values.items():
        if len(value) > 1 or not all(isinstance(one, str) for one in value):
            raise HTTPException(
                400, f"The field {name} came more than once. Load the page again, and send it once more."
            )
        text = str(value[0]) if value else ""
        form.data[name] = text if "password" in name else text.strip()
    return form
