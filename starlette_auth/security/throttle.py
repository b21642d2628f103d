"""Where is a login throttled? Counting attempts in the database."""

import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import sqlalchemy as sa

from ..core.arguments import require_instance
from ..core.clock import Clock
from ..core.exceptions import ImproperlyConfigured, Throttled, TooManyFailures
from ..core.text import fold_name
from ..database.deletion import delete_batch, delete_in_batches
from ..database.gateway import Gateway, runs_apart
from ..database.statements import Statement
from ..http.proxies import ProxyDetector, client_network
from .throttling.account_slots import AccountSlots
from .throttling.failures import Failure, FailureCounters, counter_key, failures_key, seconds, throttled
from .throttling.rates import DEFAULT_RATES, Rate, parse_rates
from .throttling.statements import MAX_FAILURES, count_statement, is_without_effect, refund_statement

logger = logging.getLogger("starlette_auth")
PASSWORD = "password"  # noqa: S105  the counter of all actions that try a password
Policy = Literal["refuse", "wait", "wait_hidden"]
PASSWORD_ACTIONS = ("login", "password_change", "email_change_password", "reauthenticate")


@dataclass
class Attempt:
    """Holds the result of one attempt. The caller sets `succeeded` if the password was right.

    `is_blocked` tells that this attempt was admitted after `longest_wait`, though the counter is blocked.
    """

    succeeded: bool = False
    is_blocked: bool = False


@dataclass(frozen=True)
class _Guess:
    """What an attempt is counted for. `kind` is the same for all actions that try a user's password."""

    action: str
    kind: str
    account: str
    address: str
    device: str
    policy: Callable[[], Policy]
    on_block: Callable[[], Awaitable[None]] | None

    @property
    def key(self) -> str:
        return failures_key(self.kind, self.account, self.device)

    @property
    def slot_key(self) -> str:
        # All known browsers of an account share their slots: many browsers could otherwise keep the hasher busy.
        return counter_key(self.kind, "slot", self.account, "known" if self.device else "")

    @property
    def scopes(self) -> dict[str, str]:
        # An attacker may share the IP address with the owner, in an office or behind a carrier's NAT, and use up its
        # rate. Therefore the rate by IP address does not apply to known browsers.
        if self.device:
            return {"ip": "", "account": f"{self.device} {self.account}"}
        return {"ip": self.address, "account": self.account}


@dataclass(frozen=True)
class _Hit:
    """Represents an action that was counted at a rate: in the row with this key, whose `until` moved by an interval."""

    action: str
    rate: Rate
    key: str

    @property
    def outlives_success(self) -> bool:
        """Returns whether it still counts if the password was right: a rate of all logins of an address."""
        return self.action in PASSWORD_ACTIONS and self.rate.scope == "ip"


@dataclass(frozen=True)
class _Count:
    """What one attempt has added to the counters."""

    guess: _Guess
    failure: Failure
    hits: Sequence[_Hit]


class Throttle:
    """Limits the rate of logins and other actions. The counters are in the database, so all processes share them.

    Passwords: after `free_failures` wrong passwords for an account, each further attempt waits 1, 2, 4 … seconds, at
    most `longest_wait`; after a day without attempts this begins anew. A known browser has its own counter, so an
    attacker's failures do not keep the owner out.

    After `max_failures` consecutive wrong passwords, however slowly they came, a counter is blocked (NIST SP 800-63B-4
    §3.2.2 allows 100). A right password that it counts, `forgive`, `unlock` and a year without attempts end that. A
    known browser whose own counter is blocked counts as an unknown one. Each of `names_per_user` names has a counter and
    an equal share of `max_failures`: one counter for all would tell which names belong to one user.

    Other actions: `rates` maps an action to a text such as "10/m/ip" ("" switches it off) and extends DEFAULT_RATES.

    Do not call it inside `Gateway.atomic()`: a rollback would undo the count. Raises ImproperlyConfigured for invalid
    arguments.
    """

    def __init__(
        self,
        gateway: Gateway,
        *,
        table: sa.Table,
        rates: Mapping[str, str] | None = None,
        free_failures: int = 5,
        longest_wait: int = 15 * 60,
        max_failures: int = MAX_FAILURES,
        names_per_user: int = 1,
        enabled: bool = True,
        namespace: str = "",
        clock: Clock = time.time,
    ) -> None:
        max_failures //= max(1, names_per_user)
        if rates is not None:
            require_instance(rates, Mapping, "rates", 'Pass rates={"login": "10/m/ip"}.')
        unknown = set(rates or {}) - set(DEFAULT_RATES)
        if unknown:
            raise ImproperlyConfigured(
                f"There is no rate {min(map(str, unknown))!r}. Use one of {', '.join(DEFAULT_RATES)}."
            )
        self.failures = FailureCounters(
            gateway, table, free_failures=free_failures, longest_wait=longest_wait, max_failures=max_failures
        )
        self.gateway = gateway
        self.rates = {action: parse_rates(text) for action, text in {**DEFAULT_RATES, **(rates or {})}.items()}
        self.enabled = enabled
        self._namespace = namespace
        self.longest_wait = longest_wait
        #: Returns all names with which the owner of a name can log in, for `unlock`.
        self.find_names: Callable[[str], Awaitable[Sequence[str]]] | None = None
        self._now: Callable[[], int] = lambda: int(clock() * 1000)
        self._proxy_detector = ProxyDetector()
        self._slots = AccountSlots(free_failures)
        self._count_statement = count_statement(gateway.dialect, table)
        self._until = Statement(sa.select(table.c.until).where(table.c.key_hash == sa.bindparam("key")))
        self._refund_statement = functools.cache(functools.partial(refund_statement, table))
        is_void = is_without_effect(table, max_failures)
        self._clear = delete_batch(table, is_void, table.c.until, dialect=gateway.dialect)

    async def hit(self, action: str, **scopes: str) -> None:
        """Counts an action at each of its rates, as in `hit("register", ip=address)`.

        Raises Throttled if a rate limit is exceeded; then the action is counted at none of them.
        """
        if self.enabled:
            self._warn_about_proxy(scopes.get("ip", ""))
            await self._count_all([action], scopes, self._now())

    async def try_hit(self, action: str, **scopes: str) -> bool:
        """Counts an action as `hit` does. Returns False if `hit` would raise Throttled; then nothing is counted."""
        try:
            await self.hit(action, **scopes)
        except Throttled:
            return False
        return True

    @contextlib.asynccontextmanager
    async def attempt(
        self,
        action: str,
        *,
        account: str,
        address: str,
        device: str = "",
        policy: Callable[[], Policy] = lambda: "wait",
        on_block: Callable[[], Awaitable[None]] | None = None,
    ) -> AsyncIterator[Attempt]:
        """Counts one password attempt. Check the password inside the block, and set `succeeded` if it is right.

        An attacker sends many guesses at once, which would all be checked before the first failure is counted.
        Therefore an attempt counts as a failure first, and `succeeded` takes that back. An exception inside the block
        means that no password was checked, and takes it back, too: do not raise one for a wrong password.

        `account` is the username as the visitor typed it: unknown accounts are counted like existing ones. `device` is
        the identifier of a known browser. Pass only a verified one: an attacker who invents identifiers would have a
        new counter for each. Raises Throttled if the attempt has to wait; a refused attempt is not counted.

        If the counter is blocked, `policy()` decides: "refuse" raises TooManyFailures, and "wait" admits an attempt when
        `longest_wait` has passed since the previous one. So does "wait_hidden", with the exception of "refuse".
        `on_block` is called once when a counter of unknown browsers is blocked.
        """
        attempt = Attempt()
        if not self.enabled:
            yield attempt
            return
        self._warn_about_proxy(address)
        kind = PASSWORD if action in PASSWORD_ACTIONS else action
        guess = _Guess(action, kind, self._account(account), address, device, policy, on_block)
        async with self._slots.slot(guess.slot_key):
            async with self.gateway.single_connection():
                count = await self._count_attempt(guess)
            attempt.is_blocked = count.failure.blocked_until > 0
            try:
                yield attempt
            except Exception:
                await self._refund(count.hits)
                await self.failures.take_back(count.failure)
                raise
            if attempt.succeeded:
                hits = [hit for hit in count.hits if not hit.outlives_success]
                await self._refund(hits, reset=count.failure.key)
            else:
                await self._report_block(count.guess)

    async def unlock(self, name: str) -> None:
        """Empties the counters of unknown browsers for a user, named as at the login.

        Names of the same user count separately; all are unlocked.
        """
        names = await self.find_names(name) if self.find_names is not None else ()
        for account in {self._account(text) for text in (name, *names)}:
            await self.failures.delete(failures_key(PASSWORD, account))

    async def forgive(self, names: Sequence[str], action: str = PASSWORD) -> None:
        """Counts the consecutive failures of a user from 0 again, because the password is another one.

        Unlike `unlock` it leaves the waits after recent failures, so that an attacker gets no further free attempts.
        """
        for account in {self._account(name) for name in names}:
            await self.failures.forgive(failures_key(action, account))

    async def failures_in_a_row(self, action: str, account: str, device: str = "") -> int:
        """Returns how many failures of an action were counted since the last success; 0 if nothing is counted."""
        return await self.failures.in_a_row(failures_key(action, self._account(account), device)) if self.enabled else 0

    @runs_apart
    async def clear_expired(self) -> int:
        """Deletes counters that have no effect any more. Returns their number."""
        return await delete_in_batches(self.gateway, self._clear, now=self._now())

    async def _count_attempt(self, guess: _Guess) -> _Count:
        """Counts an attempt at the rates and as a failure."""
        now, actions = self._now(), [guess.action]
        if guess.kind == PASSWORD:
            actions.append("login_failed")
        hits = await self._count_all(actions, guess.scopes, now)
        try:
            failure = await self.failures.count(guess.key, now)
            if failure.blocked_until and not guess.device:
                await self._check_block(guess, failure)
        except Throttled:
            await self._refund(hits)
            raise
        if failure.blocked_until and guess.device:
            # The browser has guessed too often to count as a browser of the owner.
            await self._refund(hits)
            return await self._count_attempt(replace(guess, device=""))
        return _Count(guess, failure, hits)

    async def _check_block(self, guess: _Guess, failure: Failure) -> None:
        """Raises Throttled unless the attempt may be made though the counter is blocked."""
        if failure.is_old_block:
            await self._report_block(guess)  # the last attempt was cancelled before it reported the block
        policy = guess.policy()
        if policy == "refuse" or (policy == "wait_hidden" and failure.wait):
            # The refusal of an attempt that would have been admitted takes as long as a check. An attacker would
            # otherwise see whose passwords are still checked.
            raise TooManyFailures(seconds(failure.wait or self.failures.longest_wait), looks_checked=not failure.wait)
        if failure.wait:
            raise throttled(failure.wait)

    async def _report_block(self, guess: _Guess) -> None:
        if not guess.device and await self.failures.report(guess.key) and guess.on_block is not None:
            await guess.on_block()

    @runs_apart
    async def _count_all(self, actions: Sequence[str], scopes: Mapping[str, str], now: int) -> list[_Hit]:
        hits: list[_Hit] = []
        for action, rate in [(name, rate) for name in actions for rate in self.rates[name]]:
            if rate.scope not in scopes:
                known = " or ".join(scopes)
                raise ImproperlyConfigured(f"A rate of {action!r} has the scope {rate.scope!r}. Use {known} there.")
            value = scopes[rate.scope]
            if rate.scope == "ip" and not value:
                continue  # requests through a Unix socket have no address; they would all share one counter
            value = client_network(value) if rate.scope == "ip" else self._account(value)
            key = counter_key(action, str(rate), value)
            step, latest = rate.interval, now + rate.burst
            if not await self.gateway.execute(
                self._count_statement, key=key, now=now, first=now + step, latest=latest, step=step
            ):
                await self._refund(hits)
                row = await self.gateway.fetch_one(self._until, key=key)
                raise throttled(row["until"] - latest if row is not None else 0, action)
            hits.append(_Hit(action, rate, key))
        return hits

    @runs_apart
    async def _refund(self, hits: Sequence[_Hit], *, reset: str = "") -> None:
        """Subtracts from each counter what was added, and empties the counter of failures `reset`, in one statement."""
        values: dict[str, str | int] = {"reset": reset} if reset else {}
        for i, hit in enumerate(hits):
            values |= {f"key{i}": hit.key, f"step{i}": hit.rate.interval}
        if values:
            await self.gateway.execute(self._refund_statement(len(hits), resets=bool(reset)), **values)

    def _account(self, account: str) -> str:
        """Returns what stands for an account in the keys of counters.

        Accounts of two user tables may have one name. " IN " occurs in no normalized name, which has no upper case.
        """
        name = fold_name(account)
        return f"{name} IN {self._namespace}" if self._namespace else name

    def _warn_about_proxy(self, address: str) -> None:
        if self._proxy_detector.looks_like_proxy(address):
            logger.warning(
                "All requests seem to come from %s, which is probably a reverse proxy. "
                "Pass Auth(trusted_proxies=[%r]).",
                *(address, address),
            )
