"""Saves named fields of a refused form, signed, to send them again after a login."""

import json
from collections.abc import Collection

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request

from ..core.arguments import as_list
from ..core.exceptions import ImproperlyConfigured
from ..core.signing import SecretKeys
from ..core.translation import gettext
from ..http.content import read_fields

Pairs = list[tuple[str, str]]
MAX_SAVED = 16 * 1024  # bytes of a form, as JSON
PURPOSE = "starlette_auth.saved"


def parse_keep(keep: Collection[str]) -> frozenset[str]:
    """Validates the argument `keep` of a decorator."""
    names = as_list(keep, "keep", fix := 'Pass keep=("title", "text").')
    if not all(isinstance(name, str) for name in names):
        raise ImproperlyConfigured(f"keep is a list of field names. {fix}")
    return frozenset(names)


async def read_form(conn: HTTPConnection, keep: Collection[str]) -> Pairs:
    """Returns the form fields named in `keep`.

    The list is empty for a body that is no form, has files, or is too long.
    """
    if not keep or not isinstance(conn, Request):
        return []
    try:
        submitted = await read_fields(conn)
    except HTTPException:
        return []
    except RuntimeError:  # FastAPI has already read the body for the arguments of the endpoint
        form = await conn.form()
        submitted = {name: form.getlist(name) for name in form}
    is_text = all(isinstance(value, str) for values in submitted.values() for value in values)
    pairs = [(name, value) for name, values in submitted.items() for value in values if name in keep]
    return pairs if is_text and len(_encode(pairs).encode("utf-8", "replace")) <= MAX_SAVED else []


def sign_form(keys: SecretKeys, owner: str, action: str, pairs: Pairs) -> str:
    """Returns the fields as JSON with a signature over owner, action and fields.

    Another user logs in on the device and submits the saved form, which would act for that user; therefore the
    signature includes the user, or the browser of a visitor, as `owner`.
    """
    text = _encode(pairs)
    return f"{keys.sign(PURPOSE, _content(owner, action, text))}:{text}"


def read_signed_form(keys: SecretKeys, owner: str, action: str, saved: str) -> Pairs:
    """Returns the fields given to `sign_form`. Raises HTTPException 400 if they were changed."""
    signature, _, text = saved.partition(":")
    if keys.verify(PURPOSE, _content(owner, action, text), signature) is None:
        raise HTTPException(400, gettext("This request cannot be read. Please reload the page and send it again."))
    return [(name, value) for name, value in json.loads(text)]


def _encode(pairs: Pairs) -> str:
    return json.dumps(pairs, ensure_ascii=False)


def _content(owner: str, action: str, text: str) -> str:
    return json.dumps([owner, action, text])
