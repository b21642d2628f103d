"""Mail that tells users of changes to their account."""

import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from starlette.requests import HTTPConnection

from ..core.clock import Clock, utc_now
from ..core.events import Events, LoginsBlocked, PasswordChanged, SessionsEnded, TokenCreated, UserLoggedIn
from ..core.exceptions import ImproperlyConfigured
from ..core.feature_events import (
    FactorAdded,
    FactorRemoved,
    PasskeyCloned,
    RecoveryCodesMade,
    RecoveryCodeUsed,
    SecondFactorFailed,
)
from ..core.translation import gettext
from ..database.gateway import Gateway
from ..http.proxies import TrustedProxies
from ..http.user_agents import describe_user_agent
from ..security.throttle import Throttle
from .account_mailer import AccountMailer, TemplateMail

ListFactors = Callable[[Any], Awaitable[Sequence[Any]]]  # returns each StoredFactor of a user

#: The notices that an attacker can cause many times, with their rate limits.
LIMITED: Mapping[str, str] = {
    "new_device": "notice_mail",
    "passkey_suspicious": "notice_mail",
    "second_factor_failed": "second_factor_mail",
}
FAILURES = 5  # wrong factors in a row after which a user is told


class SecurityNotices:
    """Mails users when their account is changed in a way that an attacker would change it.

    The events are: a changed or reset password, a login from a new device, ended sessions, too many wrong
    passwords, a new API token, factors that were added or removed, new recovery codes and the use of one, a passkey that
    was probably copied, and wrong factors after a right password. A mail states the event, the time, the browser and the
    IP address. It contains no secret.
    """

    def __init__(
        self,
        mailer: AccountMailer,
        *,
        gateway: Gateway,
        proxies: TrustedProxies,
        throttle: Throttle,
        clock: Clock = time.time,
    ) -> None:
        self.mailer = mailer
        self._clock = clock
        self.throttle = throttle
        self.gateway = gateway
        self.proxies = proxies

    def subscribe(self, events: Events, list_factors: ListFactors) -> None:
        self._list_factors = list_factors
        events.on(PasswordChanged)(self._password_changed)
        events.on(UserLoggedIn, after_commit=True)(self._logged_in)
        events.on(LoginsBlocked, after_commit=True)(self._logins_blocked)
        events.on(SessionsEnded)(self._sessions_ended)
        events.on(TokenCreated)(self._token_created)
        events.on(FactorAdded)(self._factor_added)
        events.on(FactorRemoved)(self._factor_removed)
        events.on(RecoveryCodeUsed)(self._recovery_code_used)
        events.on(RecoveryCodesMade)(self._recovery_codes_made)
        events.on(PasskeyCloned, after_commit=True)(self._passkey_cloned)
        events.on(SecondFactorFailed, after_commit=True)(self._second_factor_failed)

    def notify(self, kind: str, user: Any, request: HTTPConnection | None, *, to: str = "", **context: Any) -> None:
        """Queues a notice after the current transaction commits. `to` is the user's e-mail address by default.

        Without an address or without a configured mailer, no notice is sent.
        """
        address = to or user.email
        if not address or not self.mailer.is_configured:
            return
        details = {"kind": kind, "user": user, "when": f"{utc_now(self._clock):%Y-%m-%d %H:%M} UTC", **context}
        if request is not None:
            details["browser"] = describe_user_agent(request.headers.get("user-agent", ""))
            details["address"] = self.proxies.client_address(request)
            # Without a mounted password_reset page the notice has no link; the login must not fail.
            with contextlib.suppress(ImproperlyConfigured):
                details["link"] = self.mailer.link(request, "password_reset")
        mail = TemplateMail(to=address, name="notice", context=details)

        async def find() -> TemplateMail | None:
            # An attacker who knows the password logs in from many new browsers, or enters wrong codes, which would flood
            # the mailbox and the mail queue. Therefore these notices have a rate limit.
            action = LIMITED.get(kind)
            if action is not None and not await self.throttle.try_hit(action, account=f"user {user.id}"):
                return None
            return mail

        self.gateway.on_commit(lambda: self.mailer.enqueue_from(find, user=user))

    async def _password_changed(self, event: PasswordChanged) -> None:
        if event.by_reset:
            # An attacker who had the account may have added a passkey, which works beside the new password.
            factors = [_describe(factor) for factor in await self._list_factors(event.user)]
            self.notify("password_reset", event.user, event.request, factors=factors)
        else:
            self.notify("password_changed", event.user, event.request)

    async def _logged_in(self, event: UserLoggedIn) -> None:
        if event.new_device:
            self.notify("new_device", event.user, event.request)

    async def _logins_blocked(self, event: LoginsBlocked) -> None:
        if event.can_reset:
            self.notify("logins_blocked", event.user, event.request)

    async def _sessions_ended(self, event: SessionsEnded) -> None:
        self.notify("sessions_ended", event.user, event.request)

    async def _token_created(self, event: TokenCreated) -> None:
        self.notify("token_created", event.user, event.request, token_name=event.name)

    async def _factor_added(self, event: FactorAdded) -> None:
        self.notify("factor_added", event.user, event.request, factor=factor_name(event.factor))

    async def _factor_removed(self, event: FactorRemoved) -> None:
        self.notify("factor_removed", event.user, event.request, factor=factor_name(event.factor))

    async def _recovery_code_used(self, event: RecoveryCodeUsed) -> None:
        self.notify("recovery_code_used", event.user, event.request, number=event.left)

    async def _recovery_codes_made(self, event: RecoveryCodesMade) -> None:
        self.notify("recovery_codes_made", event.user, event.request)

    async def _passkey_cloned(self, event: PasskeyCloned) -> None:
        self.notify("passkey_suspicious", event.user, event.request, name=event.name)

    async def _second_factor_failed(self, event: SecondFactorFailed) -> None:
        # Codes that are sent at the same moment are counted before the first of them is refused, so that several events
        # have this number. The rate limit lets one mail pass.
        if event.failures == FAILURES:
            self.notify("second_factor_failed", event.user, event.request, number=event.failures)


def factor_name(method: str) -> str:
    """Returns what a factor is called in a mail, in the visitor's language. Features of others may have further ones."""
    names = {
        "totp": gettext("Authenticator app"),
        "recovery_code": gettext("Recovery codes"),
        "passkey": gettext("Passkey"),
        "key": gettext("Security key"),
    }
    return names.get(method, method.partition(":")[2] or method)


def _describe(factor: Any) -> str:
    """Returns a factor in one line, such as "Passkey “Phone”, added 2026-07-31"."""
    name = factor_name(factor.method)
    if factor.label:
        name = gettext("%(kind)s “%(name)s”") % {"kind": name, "name": " ".join(factor.label.split())}
    date = f"{datetime.fromtimestamp(factor.created, UTC):%Y-%m-%d}"
    return gettext("%(factor)s, added %(date)s") % {"factor": name, "date": date}
