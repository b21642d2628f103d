"""The parts of an installation, unless told otherwise."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from databases import Database

from .backends.base import AuthenticationBackend
from .core.clock import Clock
from .core.signing import SecretKeys
from .database.tables import Tables
from .http.cookies import Cookie
from .passwords.passwords import Passwords
from .security.csrf_tokens import CSRFTokens
from .security.reset_tokens import DatabaseResetTokens, ResetTokens
from .security.tokens import Tokens
from .sessions.database import DatabaseStore
from .sessions.limits import Preset, SessionLimits, session_limits
from .sessions.store import SessionStore
from .users.users import Users


class Defaults:
    """Of an installation of its own. A Django project has others."""

    #: Whether a session gets a new key when the one that signed it is not the newest.
    cycle_key = False

    def tables(self) -> Tables:
        return Tables()

    def passwords(self) -> Passwords:
        return Passwords()

    def cookie(self) -> Cookie:
        return Cookie()

    def csrf_cookie(self, cookie: Cookie) -> Cookie:
        """Beside the session cookie: a secret of the browser's own, so that a visitor without a session can have a form."""
        return replace(cookie, name=f"{cookie.name}_csrf", expire_at_browser_close=True)

    def csrf_tokens(self, keys: SecretKeys, cookie: Cookie) -> CSRFTokens:
        return CSRFTokens(keys, cookie)

    def sessions(self, database: Database, users: Users[Any], keys: SecretKeys, clock: Clock) -> SessionStore:
        return DatabaseStore(database, users=users, clock=clock)

    def session_limits(self, limits: SessionLimits | Preset | None) -> SessionLimits | None:
        """Returns how long logins last; None where the store knows neither their begin nor their last use."""
        return session_limits("aal1" if limits is None else limits)

    def reset_tokens(self, tokens: Tokens, keys: SecretKeys, clock: Clock) -> ResetTokens:
        return DatabaseResetTokens(tokens)

    def assign_backend_paths(self, backends: Sequence[AuthenticationBackend]) -> None:
        """Says what a session notes of who let its user in."""
