"""Where is a saved form kept during the login steps that follow the password?"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from ..core.clock import HOUR
from ..core.signing import sha256_hex
from .saved_forms import Pairs
from .tokens import TokenHash, Tokens

Session = MutableMapping[str, Any]
ENTRY = "_saved_form"  # in the session: {"token": hash of the token, "is_waiting": True until the login is complete}
PURPOSE = "saved_form"  # of the token; its row contains the form


@dataclass(frozen=True, kw_only=True)
class StoredForm:
    """Holds a stored form: the hash of its token, the URL to which it is sent, and its fields."""

    token_hash: str
    action: str
    pairs: Pairs


async def store_form(tokens: Tokens, session: Session, user_id: str, action: str, pairs: Pairs) -> None:
    """Stores a form in the database, and the hash of its token in the session.

    The form is valid for one hour; `auth.clear_expired()` deletes its row after that.

    The pages of login steps belong to the application and do not pass the fields on, and a session in a cookie is too
    small for them. An attacker sends many forms, which would fill the database. Therefore the caller stores a form only
    after the right password was entered.
    """
    await discard_form(tokens, session)
    data = {"user": user_id, "action": action, "fields": pairs}
    token = await tokens.create(PURPOSE, f"saved form of user {user_id}", max_age=HOUR, data=data)
    session[ENTRY] = {"token": sha256_hex(token), "is_waiting": True}


async def find_form(tokens: Tokens, session: Session, user_id: str, *, is_waiting: bool) -> StoredForm | None:
    """Returns the stored form of the session, or None if this user has none.

    With `is_waiting` it is the form of a login that is in progress, otherwise that of a completed login. Another user
    logs in with the same browser, and would read the form. Therefore only the user who entered the password before the
    login steps gets it.
    """
    entry = session.get(ENTRY)
    if not isinstance(entry, dict) or entry.get("is_waiting") is not is_waiting:
        return None
    token = await tokens.find(PURPOSE, TokenHash(entry.get("token", "")))
    if token is None or token.data["user"] != user_id:
        return None
    pairs = [(name, value) for name, value in token.data["fields"]]
    return StoredForm(token_hash=token.token_hash, action=token.data["action"], pairs=pairs)


def mark_as_shown(session: Session, form: StoredForm) -> None:
    """Notes that the login is complete: later logins do not lead to the form again."""
    session[ENTRY] = {"token": form.token_hash, "is_waiting": False}


async def discard_form(tokens: Tokens, session: Session) -> None:
    """Deletes the stored form of the session, if there is one."""
    entry = session.pop(ENTRY, None)
    if isinstance(entry, dict):
        await tokens.discard(PURPOSE, TokenHash(entry.get("token", "")))
