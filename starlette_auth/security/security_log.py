"""What happened to accounts and sessions? The logger `starlette_auth.security`, one line for each event."""

import logging
import re
from collections.abc import Callable
from typing import Any

from starlette.requests import HTTPConnection

from ..core.events import (
    EmailChanged,
    Events,
    EverybodyLoggedOut,
    LoginFailed,
    LoginsBlocked,
    PasswordChanged,
    PasswordRefused,
    SessionEnded,
    SessionExpired,
    SessionsEnded,
    TokenCreated,
    TokenExpired,
    TokenRevoked,
    TooManyAttempts,
    UserCreated,
    UserDeactivated,
    UserDeleted,
    UserLoggedIn,
    UserLoggedOut,
)
from ..core.feature_events import (
    DeviceApproved,
    DeviceRefused,
    FactorAdded,
    FactorRemoved,
    LoginPending,
    PasskeyCloned,
    RecoveryCodesMade,
    RecoveryCodeUsed,
    SecondFactorFailed,
)
from ..core.signing import SecretKeys
from ..core.text import fold_name
from ..http.mailed_secrets import mask_path
from ..http.proxies import TrustedProxies
from ..http.scope import IS_LOGGED
from ..users.models import User

logger = logging.getLogger("starlette_auth.security")
PURPOSE = "starlette_auth.security_log"
MAX_LENGTH = 255  # characters of a value that the client has sent
SIMPLE = re.compile(r"[A-Za-z0-9_.:/@+-]+")
#: The fields of each record beside `event`, in their order on the line. Log formatters find all of them.
FIELDS = ("account", "users", "address", "browser", "method", "path", "claimed", "reason")


class SecurityLog:
    """Logs logins, refusals, changes of accounts and ends of sessions.

    `account` is the primary key of a user, and `users` names a custom user table. An attacker reads the log, which
    would show passwords that visitors type into the field of the name; therefore a name that no account has is logged
    as a keyed hash, which only shows that two attempts were for one name. An attacker sends line breaks or terminal
    sequences, which would forge lines of the log; therefore values from the client are escaped.
    """

    def __init__(self, keys: SecretKeys, proxies: TrustedProxies, *, namespace: str = "") -> None:
        self.keys = keys
        self.namespace = namespace
        self.proxies = proxies

    def subscribe(self, events: Events) -> None:
        """Logs the events after the commit, so that changes that were rolled back are not logged."""
        listeners: dict[type[Any], Callable[[Any], None]] = {
            UserLoggedIn: self._logged_in,
            UserLoggedOut: self._logged_out,
            LoginFailed: self._login_failed,
            LoginsBlocked: lambda event: self.warn("logins_blocked", event.request, event.user.identity),
            PasswordRefused: self._password_refused,
            TooManyAttempts: self._too_many_attempts,
            UserCreated: lambda event: self.log("user_created", None, event.user.identity),
            UserDeleted: lambda event: self.log("user_deleted", None, event.user.identity),
            UserDeactivated: lambda event: self.log("user_deactivated", None, event.user.identity),
            PasswordChanged: self._password_changed,
            EmailChanged: self._email_changed,
            SessionEnded: self._session_ended,
            SessionsEnded: lambda event: self.log("sessions_ended", event.request, event.user.identity),
            SessionExpired: self._session_expired,
            EverybodyLoggedOut: self._everybody_logged_out,
            TokenCreated: lambda event: self._token("token_created", event),
            TokenRevoked: lambda event: self._token("token_revoked", event),
            TokenExpired: lambda event: self._token("token_expired", event),
            LoginPending: lambda event: self.log(
                "login_pending", event.request, event.user.identity, reason=event.step
            ),
            SecondFactorFailed: self._second_factor_failed,
            FactorAdded: lambda event: self.log(
                "factor_added", event.request, event.user.identity, reason=event.factor
            ),
            FactorRemoved: lambda event: self.log(
                "factor_removed", event.request, event.user.identity, reason=event.factor
            ),
            RecoveryCodesMade: lambda event: self.log(
                "recovery_codes_made", event.request, event.user.identity, reason=f"{event.number} codes"
            ),
            RecoveryCodeUsed: lambda event: self.log(
                "recovery_code_used", event.request, event.user.identity, reason=f"{event.left} left"
            ),
            PasskeyCloned: lambda event: self.warn(
                "passkey_cloned", event.request, event.user.identity, reason=event.name
            ),
            DeviceApproved: lambda event: self._device("device_approved", event, logging.INFO),
            DeviceRefused: lambda event: self._device("device_refused", event, logging.WARNING),
        }
        for kind, listener in listeners.items():
            events.on(kind, after_commit=True)(listener)

    def refused(self, conn: HTTPConnection, reason: str) -> None:
        """Logs that a request or a WebSocket was refused, once for each request."""
        if IS_LOGGED not in conn.scope:
            self.warn("refused", conn, _account(conn.scope.get("user")), reason=reason)

    def warn(self, event: str, conn: HTTPConnection | None, account: str = "", **details: str) -> None:
        """Logs a warning, and notes that the refusal of this request was logged."""
        if conn is not None:
            conn.scope[IS_LOGGED] = True
        self.log(event, conn, account, level=logging.WARNING, **details)

    def log(
        self, event: str, conn: HTTPConnection | None, account: str = "", *, level: int = logging.INFO, **details: str
    ) -> None:
        if not logger.isEnabledFor(level):
            return
        given = {
            "account": account,
            "users": self.namespace if account else "",
            **(self._about(conn) if conn is not None else {}),
            **details,
        }
        fields = {name: escape(given.get(name, "")) for name in FIELDS}
        pairs = [f"{name}={_quoted(value)}" for name, value in fields.items() if value]
        logger.log(level, "%s", " ".join([event, *pairs]), extra={"event": event, **fields})

    def _about(self, conn: HTTPConnection) -> dict[str, str]:
        return {
            "address": self.proxies.client_address(conn),
            "browser": conn.headers.get("user-agent", ""),
            "method": conn.scope.get("method", "WEBSOCKET"),
            "path": mask_path(conn.scope["path"]),
        }

    def _logged_in(self, event: UserLoggedIn) -> None:
        proofs = f"by {' and '.join(event.methods)}, level {event.level}" if event.methods else ""
        reason = ", ".join(filter(None, [proofs, "a new browser" if event.new_device else "", event.backend]))
        self.log("login", event.request, event.user.identity, reason=reason)

    def _second_factor_failed(self, event: SecondFactorFailed) -> None:
        in_a_row = f", {event.failures} in a row" if event.failures else ""
        self.warn("second_factor_failed", event.request, event.user.identity, reason=f"{event.method}{in_a_row}")

    def _logged_out(self, event: UserLoggedOut) -> None:
        if event.user.is_authenticated:
            self.log("logout", event.request, event.user.identity)

    def _login_failed(self, event: LoginFailed) -> None:
        names = [value for value in (event.credentials.get(key) for key in ("username", "email")) if value]
        details = {"claimed": self._hashed(names[0])} if event.user is None and names else {}
        self.warn("login_failed", event.request, _account(event.user), **details)

    def _password_refused(self, event: PasswordRefused) -> None:
        self.warn("password_refused", event.request, _account(event.user), reason=event.action)

    def _too_many_attempts(self, event: TooManyAttempts) -> None:
        reason = f"{event.action}, retry after {event.retry_after} s"
        self.warn("too_many_attempts", event.request, _account(event.user), reason=reason)

    def _password_changed(self, event: PasswordChanged) -> None:
        reason = "by a mailed link; " if event.by_reset else ""
        self.log("password_changed", event.request, event.user.identity, reason=f"{reason}other sessions ended")

    def _email_changed(self, event: EmailChanged) -> None:
        self.log("email_changed", event.request, event.user.identity, reason="undone" if event.undone else "")

    def _session_ended(self, event: SessionEnded) -> None:
        self.log("session_ended", event.request, event.user.identity, reason=f"session {event.public_id}")

    def _session_expired(self, event: SessionExpired) -> None:
        self.log("session_expired", event.request, event.user_id, reason=event.reason)

    def _token(self, name: str, event: TokenCreated | TokenRevoked | TokenExpired) -> None:
        self.log(name, event.request, event.user.identity, reason=f"token {event.token_id}")

    def _device(self, name: str, event: DeviceApproved | DeviceRefused, level: int) -> None:
        reason = f"{event.client}, asked from {event.address}"
        self.log(name, event.request, event.user.identity, level=level, reason=reason)

    def _everybody_logged_out(self, event: EverybodyLoggedOut) -> None:
        user = event.request.scope.get("user") if event.request is not None else None
        self.log("everybody_logged_out", event.request, _account(user), reason=f"{event.number} sessions")

    def _hashed(self, name: object) -> str:
        return self.keys.sign(PURPOSE, fold_name(str(name)).encode("utf-8", "replace").decode())[:12]


def _account(user: Any) -> str:
    """Returns the primary key of a user; "" for visitors and users of other classes."""
    return user.identity if isinstance(user, User) else ""


def escape(text: str) -> str:
    """Returns at most 255 characters of a text, with escapes such as `\\n` for all but printable ASCII."""
    return text[:MAX_LENGTH].encode("unicode_escape").decode("ascii")


def _quoted(text: str) -> str:
    return text if SIMPLE.fullmatch(text) else f'"{text.replace(chr(34), chr(92) + chr(34))}"'
