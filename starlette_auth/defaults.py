"""Which parts does an Auth use by default?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from .backends.base import AuthenticationBackend
from .core.clock import Clock
from .core.signing import SecretKeys
from .database.gateways import AnyDatabase
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
    """Creates the default parts of an Auth. `DjangoProject` overrides them."""

    #: Whether a session gets a new session key when it was signed with an old secret key.
    cycle_key = False
    #: Whether another application writes logins to the same sessions, with backends of its own.
    shares_sessions = False

    def tables(self) -> Tables:
        return Tables()

    def passwords(self) -> Passwords:
        return Passwords()

    def cookie(self) -> Cookie:
        return Cookie()

    def csrf_cookie(self, cookie: Cookie) -> Cookie:
        """Returns the cookie that holds the CSRF secret of a browser.

        The secret is separate from the session, so that a visitor without a session can use forms. A browser that
        follows a link from another site leaves out cookies with SameSite=Strict. The page would then replace the
        secret, which would invalidate the forms in all other tabs. Therefore this cookie is Lax, and sent to all paths.
        """
        samesite = "lax" if cookie.samesite == "strict" else cookie.samesite
        return replace(cookie, name=f"{cookie.name}_csrf", path="/", samesite=samesite, expire_at_browser_close=True)

    def csrf_tokens(self, keys: SecretKeys, cookie: Cookie) -> CSRFTokens:
        return CSRFTokens(keys, cookie)

    def sessions(self, database: AnyDatabase, users: Users[Any], keys: SecretKeys, clock: Clock) -> SessionStore:
        return DatabaseStore(database, users=users, clock=clock)

    def session_limits(self, limits: SessionLimits | Preset | None) -> SessionLimits | None:
        """Returns how long logins last; None if the store records neither their start nor their last use."""
        return session_limits("aal1" if limits is None else limits)

    def reset_tokens(self, tokens: Tokens, keys: SecretKeys, clock: Clock) -> ResetTokens:
        return DatabaseResetTokens(tokens)

    def assign_backend_paths(self, backends: Sequence[AuthenticationBackend]) -> None:
        """Sets the path under which a session records the backend that authenticated its user."""
