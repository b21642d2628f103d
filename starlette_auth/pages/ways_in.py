"""Changes of the ways to log in: one at a time for each user, and the last one stays."""

import copy
from collections.abc import Awaitable, Callable

import sqlalchemy as sa

from ..auth import Auth
from ..core.exceptions import Refused
from ..core.translation import gettext
from ..users.models import User


async def remove_way_in(auth: Auth, user: User, remove: Callable[[], Awaitable[bool]]) -> bool:
    """Runs `remove`, and returns its result: whether it removed something. The last way to log in stays.

    It is one transaction, which may run `remove` again after a deadlock. Raises Refused (409, `last_way_in`) if
    `auth.ways_in(user)` is empty afterwards; nothing is removed then. A user who removes two ways in two tabs at the same
    moment would otherwise keep none; therefore such transactions of one user wait for each other, and each reads what
    was committed last. `Feature.ways_in` must do so too: on MySQL a plain SELECT may read an older snapshot.
    """

    async def remove_one() -> bool:
        await auth.tokens.lock(f"ways {user.id}")
        if not await remove():
            return False
        current = await _latest(auth, user)
        if current is not None and not await auth.ways_in(current):
            text = gettext("This is the only way to log in to your account. Add another one first, such as a password.")
            raise Refused(409, text, code="last_way_in")
        return True

    return await auth.gateway.run_in_transaction(remove_one)


async def lock_factors(auth: Auth, user: User) -> None:
    """Lets one transaction at a time change the factors of a user. A transaction that adds one begins with it.

    An attacker adds a factor at the moment in which the owner takes the account back, by a reset or the undo of a changed
    address, which would keep the owner out. Therefore it raises Refused (409, `account_changed`) if the user has another
    password now.
    """
    await auth.tokens.lock(f"ways {user.id}")
    current = await _latest(auth, user)
    if current is None or current.password != user.password:
        raise Refused(409, gettext("Your account has changed meanwhile. Log in again."), code="account_changed")


async def _latest(auth: Auth, user: User) -> User | None:
    """Returns the user with the password as committed last; None if the user was deleted."""
    column = auth.tables.user.c.password.label("password")
    query = sa.select(column).where(auth.tables.user_key == user.id).with_for_update(read=True)
    row = await auth.gateway.fetch_one(query)
    if row is None:
        return None
    current = copy.copy(user)
    current.password = row["password"]
    return current
