"""Where is a saved form while the steps of a login follow the password?"""

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

from ..core.clock import HOUR
from ..core.signing import sha256_hex
from .saved_forms import Pairs
from .tokens import TokenHash, Tokens

Session = MutableMapping[str, Any]
ENTRY = "_saved_form"  # of the session: {"token": the hash of a token, "is_waiting": whether the login goes on}
PURPOSE = "saved_form"  # of the token, whose row holds the form


@dataclass(frozen=True, kw_only=True)
class StoredForm:
    """Represents a stored form: the hash of its token, the URL to which it is sent, and its fields."""

    token_hash: str
    action: str
    pairs: Pairs


async def store_form(tokens: Tokens, session: Session, user_id: str, action: str, pairs: Pairs) -> None:
    """Stores a form in the database for one hour, and its token in the session.

    The pages of login steps belong to the application and pass no fields on. A session in a cookie is too small for a
    form. The visitor has entered the user's password, so that an attacker cannot fill the database.
    """
    await discard_form(tokens, session)
    data = {"user": user_id, "action": action, "fields": pairs}
    token = await tokens.create(PURPOSE, f"saved form of user {user_id}", max_age=HOUR, data=data)
    session[ENTRY] = {"token": sha256_hex(token), "is_waiting": True}


async def find_form(tokens: Tokens, session: Session, user_id: str, *, is_waiting: bool) -> StoredForm | None:
    """Returns the form that waits for the end of the login, or that was shown after it; None if there is none.

    Another user logs in on the device, who would read the form; therefore only the user who entered the password
    before the steps gets it.
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
    """Notes that the login is complete, so that a later login of the session does not lead to the form again."""
    session[ENTRY] = {"token": form.token_hash, "is_waiting": False}


async def discard_form(tokens: Tokens, session: Session) -> None:
    """Deletes the stored form of the session, if there is one."""
    entry = session.pop(ENTRY, None)
    if isinstance(entry, dict):
        await tokens.discard(PURPOSE, TokenHash(entry.get("token", "")))
