"""After a reset by mail, the next login shows the user all ways to log in: a note of that in the database."""

from ..core.clock import DAY
from ..users.models import User
from .reset_tokens import user_subject
from .tokens import Tokens

PURPOSE = "review"
MAX_AGE = 30 * DAY
AFTER_RESET = "reset"  # in the query of the URL of the page `security`


async def request_review(tokens: Tokens, user: User) -> None:
    """Notes that the user has to look at the ways to log in. It holds for 30 days."""
    await tokens.create(PURPOSE, _subject(user), max_age=MAX_AGE)


async def take_review(tokens: Tokens, user: User) -> bool:
    """Returns whether `request_review` noted it, and deletes the note: it is shown once."""
    notes = await tokens.recent(PURPOSE, _subject(user))
    return any([await tokens.consume(note) for note in notes])


def _subject(user: User) -> str:
    """Returns a subject apart from that of the user's links, which a reset and a new address revoke."""
    return f"{PURPOSE} of {user_subject(user)}"
