"""A login between its first proof and its end, in the session of a visitor."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..core.clock import MINUTE
from ..core.signing import SecretKeys
from ..sessions.base import SessionBase
from ..users.models import User
from ..users.users import Users
from .login_methods import PENDING, LoginMethod, read_methods, with_method

SALT = "starlette_auth.pending_login"
LIFETIME = 15 * MINUTE  # from the first proof to the end


@dataclass(frozen=True, kw_only=True)
class PendingLogin:
    """A login whose user has proved something, such as the password, and has further steps to pass.

    `id` is in the forms of the steps, so that a form of one login is not taken for another one. `methods` are the proofs,
    `began` is the time of the first one, in seconds since 1970, UTC. `next` and `remember` are those of the login form,
    and `backend` is the path of the backend that identified the user.
    """

    id: str
    user: User
    methods: tuple[LoginMethod, ...]
    began: int
    next: str | None
    remember: bool
    backend: str

    def has(self, *names: str) -> bool:
        """Returns whether the user has given one of these proofs, such as "totp"."""
        return any(method.name in names for method in self.methods)


class PendingLogins:
    """Stores and finds the pending login of a session.

    The session stays anonymous, or with the user who is logged in. The login ends after 15 minutes, with a new password,
    and with the account.
    """

    def __init__(self, users: Users[Any], keys: SecretKeys) -> None:
        self.users, self.keys = users, keys

    def store(self, session: SessionBase, login: PendingLogin) -> None:
        """Writes the login to the session, which gets a new key: half a login is a gain of rights."""
        session.cycle_key()
        session[PENDING] = {
            "id": login.id,
            "user": login.user.identity,
            "hash": self.keys.sign(SALT, _bound_to(login.user)),
            "methods": [list(method) for method in login.methods],
            "began": login.began,
            "next": login.next,
            "remember": login.remember,
            "backend": login.backend,
        }

    async def find(self, session: Mapping[str, Any], now: float) -> PendingLogin | None:
        """Returns the pending login of a session; None if there is none, or if it has ended."""
        entry = session.get(PENDING)
        if not isinstance(entry, dict) or not 0 <= now - entry["began"] < LIFETIME:
            return None
        user = await self.users.get(entry["user"])
        if user is None or not user.is_active or self.keys.verify(SALT, _bound_to(user), entry["hash"]) is None:
            return None
        return PendingLogin(
            id=entry["id"],
            user=user,
            methods=read_methods(entry["methods"]),
            began=entry["began"],
            next=entry["next"],
            remember=entry["remember"],
            backend=entry["backend"],
        )

    @staticmethod
    def discard(session: SessionBase) -> None:
        session.pop(PENDING, None)


def add_proof(login: PendingLogin, method: str, at: int) -> PendingLogin:
    """Returns the login with one more proof."""
    return replace(login, methods=with_method(login.methods, method, at))


def _bound_to(user: User) -> str:
    return f"{user.identity} {user.password}"
