"""Where is a login throttled? Counting attempts in the database."""

import asyncio
import contextlib
import functools
import json
import logging
import time
import unicodedata
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ..core.clock import Clock
from ..core.exceptions import ImproperlyConfigured, Throttled
from ..core.signing import sha256_hex
from ..database.deletion import delete_batch, delete_in_batches
from ..database.gateway import Gateway
from ..database.statements import Statement
from ..http.proxies import ProxyDetector, client_network
from .rates import DEFAULT_RATES, parse_rates
from .throttle_statements import count_statement, failure_statement, integer, milliseconds, refund_statement, wait_after

logger = logging.getLogger("starlette_auth")
DAY = 24 * 60 * 60 * 1000  # milliseconds, as all times in the table
Hit = tuple[str, int]  # the key of a counter's row, and the milliseconds that were added to its `until`


@dataclass
class Attempt:
    """Holds the result of one attempt. The caller sets `succeeded` if the password was right."""

    succeeded: bool = False


@dataclass
class _AccountSlots:
    semaphore: asyncio.Semaphore
    attempts: int = 0  # that hold a slot or wait for one


class Throttle:
    """Limits the rate of logins and other actions. The counters are in the database, so all processes share them.

    Passwords: after `free_failures` wrong passwords for an account, each further attempt waits 1, 2, 4 … seconds, at
    most `longest_wait`. Accounts are never locked. A known browser has its own counter, so an attacker's failures do
    not keep the owner out.

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
        enabled: bool = True,
        namespace: str = "",
        clock: Clock = time.time,
    ) -> None:
        unknown = set(rates or {}) - set(DEFAULT_RATES)
        if unknown:
            raise ImproperlyConfigured(f"There is no rate {min(unknown)!r}. Use one of {', '.join(DEFAULT_RATES)}.")
        if free_failures < 1 or longest_wait < 1:
            raise ImproperlyConfigured(
                "free_failures and longest_wait must be at least 1. To switch throttling off, pass enabled=False."
            )
        self.gateway = gateway
        self.rates = {action: parse_rates(text) for action, text in {**DEFAULT_RATES, **(rates or {})}.items()}
        self.enabled = enabled
        self._namespace = namespace
        self._longest_wait = longest_wait * 1000
        self._now: Callable[[], int] = lambda: int(clock() * 1000)
        self._proxy_detector = ProxyDetector()
        self._free_failures = free_failures
        self._slots: dict[tuple[asyncio.AbstractEventLoop, str], _AccountSlots] = {}
        t = table
        # waits[n] is the wait in milliseconds after n failures. For more failures the last one applies.
        waits = [0] * free_failures
        while waits[-1] < self._longest_wait:
            waits.append(min(waits[-1] * 2 or 1000, self._longest_wait))
        self._first_wait = waits[1]
        self._count_statement = count_statement(gateway.dialect, t)
        self._failure_statement = failure_statement(gateway.dialect, t, waits)
        by_key = t.c.key_hash == sa.bindparam("key")
        is_newest = t.c.until - wait_after(t.c.failures, waits) == milliseconds("now")
        before = sa.case((is_newest, milliseconds("now")), else_=t.c.until)
        # MySQL assigns in order, and `until` depends on the old value of `failures`. So `until` comes first.
        uncount_failure = sa.update(t).ordered_values(("until", before), ("failures", t.c.failures - integer(1)))
        self._uncount_failure = Statement(uncount_failure.where(by_key, t.c.failures > integer(0)), durable=False)
        self._counter = Statement(sa.select(t.c.failures, t.c.until).where(by_key))
        self._refund_statement = functools.cache(functools.partial(refund_statement, t))
        is_forgotten = sa.or_(t.c.failures == 0, t.c.until <= milliseconds("forgotten"))
        self._clear = delete_batch(
            t, sa.and_(t.c.until <= milliseconds("now"), is_forgotten), t.c.until, dialect=gateway.dialect
        )

    async def hit(self, action: str, **scopes: str) -> None:
        """Counts an action at each of its rates, as in `hit("register", ip=address)`.

        Raises Throttled if a rate limit is exceeded; then the action is counted at none of them.
        """
        if self.enabled:
            self._warn_about_proxy(scopes.get("ip", ""))
            await self._count_all(action, scopes, self._now())

    async def try_hit(self, action: str, **scopes: str) -> bool:
        """Counts an action as `hit` does. Returns False if `hit` would raise Throttled; then nothing is counted."""
        try:
            await self.hit(action, **scopes)
        except Throttled:
            return False
        return True

    @contextlib.asynccontextmanager
    async def attempt(self, action: str, *, account: str, address: str, device: str = "") -> AsyncIterator[Attempt]:
        """Counts one password attempt. Check the password inside the block, and set `succeeded` if it is right.

        An attacker sends many guesses at once, which would all be checked before the first failure is counted.
        Therefore an attempt counts as a failure first, and `succeeded` takes that back. An exception inside the block
        means that no password was checked, and takes it back, too: do not raise one for a wrong password.

        `account` is the username as the visitor typed it: unknown accounts are counted like existing ones. `device` is
        the identifier of a known browser. Pass only a verified one: an attacker who invents identifiers would have a
        new counter for each. Raises Throttled if the attempt has to wait; a refused attempt is not counted.
        """
        attempt = Attempt()
        if not self.enabled:
            yield attempt
            return
        self._warn_about_proxy(address)
        # An attacker may share the IP address with the owner, in an office or behind a carrier's NAT, and use up its
        # rate. Therefore the rate by IP address does not apply to known browsers.
        scopes = {"ip": "" if device else address, "account": f"{device} {account}" if device else account}
        key = _key(action, "failures", self._account(account), device)
        # All known browsers of an account share their slots: many browsers could otherwise keep the hasher busy.
        slot_key = _key(action, "slot", self._account(account), "known" if device else "")
        async with self._slot(slot_key), self._counted(attempt, action, scopes, key):
            yield attempt

    @contextlib.asynccontextmanager
    async def _counted(self, attempt: Attempt, action: str, scopes: Mapping[str, str], key: str) -> AsyncIterator[None]:
        async with self.gateway.single_connection():
            hits, now = await self._count_attempt(action, scopes, key)
        try:
            yield
        except Exception:
            await self._refund(hits)
            await self.gateway.execute(self._uncount_failure, key=key, now=now)
            raise
        if attempt.succeeded:
            # A counter is forgotten a day after its wait. So the refund resets the failures, too, in one statement.
            await self._refund([*hits, (key, DAY + self._longest_wait)])

    async def _count_attempt(self, action: str, scopes: Mapping[str, str], key: str) -> tuple[list[Hit], int]:
        """Counts an attempt at the rates and as a failure. Returns the hits, and the time of the failure."""
        now = self._now()
        hits = await self._count_all(action, scopes, now)
        while not await self.gateway.execute(
            self._failure_statement, key=key, now=now, first=now + self._first_wait, forgotten=now - DAY
        ):
            row = await self.gateway.fetch_one(self._counter, key=key)
            if row is None or row["failures"] >= self._free_failures:
                await self._refund(hits)
                raise _throttled(row["until"] - now if row is not None else 0)
            # A free failure has no wait. `until` is in the future because another server's clock is ahead.
            now = max(now, row["until"])
        return hits, now

    @contextlib.asynccontextmanager
    async def _slot(self, key: str) -> AsyncIterator[None]:
        """Limits how many password checks of one account run at once. Further checks wait for a free slot.

        A running check counts as a failure. Without the limit, a user who logs in ten times at once with the right
        password would be refused.
        """
        loop_and_key = (asyncio.get_running_loop(), key)
        slots = self._slots.setdefault(loop_and_key, _AccountSlots(asyncio.Semaphore(self._free_failures)))
        slots.attempts += 1
        try:
            async with slots.semaphore:
                yield
        finally:
            slots.attempts -= 1
            if not slots.attempts:
                del self._slots[loop_and_key]

    async def clear_expired(self) -> int:
        """Deletes counters that have no effect any more. Returns their number."""
        now = self._now()
        return await delete_in_batches(self.gateway, self._clear, now=now, forgotten=now - DAY)

    async def _count_all(self, action: str, scopes: Mapping[str, str], now: int) -> list[Hit]:
        hits: list[Hit] = []
        for rate in self.rates[action]:
            if rate.scope not in scopes:
                known = " or ".join(scopes)
                raise ImproperlyConfigured(f"A rate of {action!r} has the scope {rate.scope!r}. Use {known} there.")
            value = scopes[rate.scope]
            if rate.scope == "ip" and not value:
                continue  # requests through a Unix socket have no address; they would all share one counter
            value = client_network(value) if rate.scope == "ip" else self._account(value)
            key = _key(action, str(rate), value)
            step, latest = rate.interval, now + rate.burst
            if not await self.gateway.execute(
                self._count_statement, key=key, now=now, first=now + step, latest=latest, step=step
            ):
                await self._refund(hits)
                row = await self.gateway.fetch_one(self._counter, key=key)
                raise _throttled(row["until"] - latest if row is not None else 0)
            hits.append((key, step))
        return hits

    async def _refund(self, hits: Sequence[Hit]) -> None:
        """Subtracts from each counter what was added, in one statement."""
        values: dict[str, str | int] = {}
        for i, (key, step) in enumerate(hits):
            values |= {f"key{i}": key, f"step{i}": step}
        if hits:
            await self.gateway.execute(self._refund_statement(len(hits)), **values)

    def _account(self, account: str) -> str:
        """Returns what stands for an account in the keys of counters.

        Accounts of two user tables may have one name. " IN " occurs in no normalized name, which has no upper case.
        """
        name = _normalize_account(account)
        return f"{name} IN {self._namespace}" if self._namespace else name

    def _warn_about_proxy(self, address: str) -> None:
        if self._proxy_detector.looks_like_proxy(address):
            logger.warning(
                "All requests seem to come from %s, which is probably a reverse proxy. "
                "Pass Auth(trusted_proxies=[%r]).",
                *(address, address),
            )


def _throttled(wait: int) -> Throttled:
    """Returns the exception for a wait in milliseconds, which it rounds up to whole seconds."""
    return Throttled(max(1, -(-wait // 1000)))


def _key(*parts: str) -> str:
    # JSON keeps the parts apart and escapes lone surrogates, which UTF-8 cannot encode.
    return sha256_hex(json.dumps(parts))


def _normalize_account(account: str) -> str:
    """Returns one spelling for all spellings that find the same account.

    The text is cut to 254 characters first, the length of an email address: normalizing long input is slow.
    """
    return unicodedata.normalize("NFKC", account[:254]).casefold()
