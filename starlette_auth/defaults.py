"""What an installation is made of where nothing else was asked for."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from databases import Database

from .backends import AuthenticationBackend
from .clock import Clock
from .cookies import Cookie
from .limits import SessionLimits, session_limits
from .passwords import Passwords
from .sessions.database import DatabaseStore
from .sessions.store import SessionStore
from .signing import SecretKeys
from .tables import Tables
from .tokens import DatabaseResetTokens, ResetTokens, Tokens
from .users import Users


class Defaults:
    """Of an installation of its own. A Django project has others."""

    #: Whether a session gets a new key when the one that signed it is not the newest.
    cycle_key = False
    #: Whether tokens against other sites are those that Django makes and reads.
    has_django_csrf = False
    csrf_use_sessions = False

    def tables(self) -> Tables:
        return Tables()

    def passwords(self) -> Passwords:
        return Passwords()

    def cookie(self) -> Cookie:
        return Cookie()

    def csrf_cookie(self, cookie: Cookie) -> Cookie:
        """Beside the session cookie: a secret of the browser's own, so that a visitor without a session can have a form."""
        return replace(cookie, name=f"{cookie.name}_csrf", ends_with_browser=True)

    def sessions(self, database: Database, users: Users[Any], keys: SecretKeys, clock: Clock) -> SessionStore:
        return DatabaseStore(database, users=users, clock=clock)

    def session_limits(self) -> SessionLimits | None:
        return session_limits("aal1")

    def reset_tokens(self, tokens: Tokens, keys: SecretKeys, clock: Clock) -> ResetTokens:
        return DatabaseResetTokens(tokens)

    def name_backends(self, backends: Sequence[AuthenticationBackend]) -> None:
        """Says what a session notes of who let its user in."""
