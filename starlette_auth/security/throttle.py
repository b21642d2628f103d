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
Key = tuple[str, int]  # the key of a row, and what was added to its `until`


@dataclass
class Attempt:
    """One password that is tried. Whoever finds it right says so."""

    succeeded: bool = False


@dataclass
class _AccountSlots:
    free: asyncio.Semaphore
    visitors: int = 0


class Throttle:
    """Counts in the database, so that all processes count together, and each count is one statement.

    Passwords: `free_failures` wrong ones cost nothing, the next may follow after 1 second, then 2, 4, 8 …
    `longest_wait`. An account is never locked, and a browser that is known has a counter of its own: strangers cannot
    keep the owner out. Everything else: `rates`, by name ("" switches one off); DEFAULT_RATES are there already.

    Never call it inside `Gateway.atomic()`: what is rolled back was not counted.
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
        clock: Clock = time.time,
    ) -> None:
        unknown = set(rates or {}) - set(DEFAULT_RATES)
        if unknown:
            raise ImproperlyConfigured(f"There is no rate {min(unknown)!r}. Name one of {', '.join(DEFAULT_RATES)}.")
        if free_failures < 1 or longest_wait < 1:
            raise ImproperlyConfigured("free_failures and longest_wait begin at 1. To switch off, pass enabled=False.")
        self.gateway = gateway
        self.rates = {action: parse_rates(text) for action, text in {**DEFAULT_RATES, **(rates or {})}.items()}
        self.enabled = enabled
        self._longest_wait = longest_wait * 1000
        self._now: Callable[[], int] = lambda: int(clock() * 1000)
        self._proxy_detector = ProxyDetector()
        self._free_failures = free_failures
        self._slots: dict[tuple[asyncio.AbstractEventLoop, str], _AccountSlots] = {}
        t = table
        # waits[n] after n failures; more of them than that wait the longest.
        waits = [0] * free_failures
        while waits[-1] < self._longest_wait:
            waits.append(min(waits[-1] * 2 or 1000, self._longest_wait))
        self._first_wait = waits[1]
        self._count_statement = count_statement(gateway.dialect, t)
        self._failure_statement = failure_statement(gateway.dialect, t, waits)
        by_key = t.c.key_hash == sa.bindparam("key")
        is_newest = t.c.until - wait_after(t.c.failures, waits) == milliseconds("now")
        before = sa.case((is_newest, milliseconds("now")), else_=t.c.until)
        # `until` first: after the other, MySQL would see the new number of failures.
        fewer = sa.update(t).ordered_values(("until", before), ("failures", t.c.failures - integer(1)))
        self._restore = Statement(fewer.where(by_key, t.c.failures > integer(0)), durable=False)
        self._counter = Statement(sa.select(t.c.failures, t.c.until).where(by_key))
        self._refund_statement = functools.cache(functools.partial(refund_statement, t))
        says_nothing = sa.or_(t.c.failures == 0, t.c.until <= milliseconds("forgotten"))
        self._clear = delete_batch(
            t, sa.and_(t.c.until <= milliseconds("now"), says_nothing), t.c.until, dialect=gateway.dialect
        )

    async def hit(self, action: str, **scopes: str) -> None:
        """Counts one for each of the action's rates, as in `hit("register", ip=address)`, or raises Throttled."""
        if self.enabled:
            self._warn_about_proxy(scopes.get("ip", ""))
            await self._count_all(action, scopes, self._now())

    async def try_hit(self, action: str, **scopes: str) -> bool:
        """The same, for what is left out in silence: whether there is one more now. If so, it was counted."""
        try:
            await self.hit(action, **scopes)
        except Throttled:
            return False
        return True

    @contextlib.asynccontextmanager
    async def attempt(self, action: str, *, account: str, address: str, device: str = "") -> AsyncIterator[Attempt]:
        """Around the check of one password: counted as wrong before it is looked at, and taken back when it was right.

        Otherwise any number of guesses could be under way together. What is refused counts nowhere. An exception
        inside means that nothing was checked, and is not counted either: say "wrong" by `succeeded`, never by raising.
        `account` is what the visitor typed, so that those that do not exist are counted alike. `device` is proven by a
        signature: whoever could make it up would have as many counters as they like.
        """
        attempt = Attempt()
        if not self.enabled:
            yield attempt
            return
        self._warn_about_proxy(address)
        # What others do at the same address, of an office or of a whole town, does not stop a browser that is known.
        scopes = {"ip": "" if device else address, "account": f"{device} {account}" if device else account}
        key = _key(action, "failures", _normalize_account(account), device)
        # One for all browsers that are known: whoever logs in from many could keep the hasher busy otherwise.
        turn = _key(action, "turn", _normalize_account(account), "known" if device else "")
        async with self._slot(turn), self._counted(attempt, action, scopes, key):
            yield attempt

    @contextlib.asynccontextmanager
    async def _counted(self, attempt: Attempt, action: str, scopes: Mapping[str, str], key: str) -> AsyncIterator[None]:
        async with self.gateway.single_connection():
            counted, now = await self._claim(action, scopes, key)
        try:
            yield
        except Exception:
            await self._refund(counted)
            await self.gateway.execute(self._restore, key=key, now=now)
            raise
        if attempt.succeeded:
            # Put back by a day, a counter is forgotten: one statement for everything.
            await self._refund([*counted, (key, DAY + self._longest_wait)])

    async def _claim(self, action: str, scopes: Mapping[str, str], key: str) -> tuple[list[Key], int]:
        """What was counted, and the moment at which one more failure was."""
        now = self._now()
        counted = await self._count_all(action, scopes, now)
        while not await self.gateway.execute(
            self._failure_statement, key=key, now=now, first=now + self._first_wait, forgotten=now - DAY
        ):
            row = await self.gateway.fetch_one(self._counter, key=key)
            if row is None or row["failures"] >= self._free_failures:
                await self._refund(counted)
                raise _throttled(row["until"] - now if row is not None else 0)
            # There is no time to wait: another was counted a moment ago, by a clock that is ahead of ours.
            now = max(now, row["until"])
        return counted, now

    @contextlib.asynccontextmanager
    async def _slot(self, key: str) -> AsyncIterator[None]:
        """Lets no more of one account's passwords be under way than may be wrong; the others wait for what comes of these.

        Otherwise a user who logs in ten times at once would be refused for guesses that nobody made.
        """
        mine = (asyncio.get_running_loop(), key)
        turn = self._slots.setdefault(mine, _AccountSlots(asyncio.Semaphore(self._free_failures)))
        turn.visitors += 1
        try:
            async with turn.free:
                yield
        finally:
            turn.visitors -= 1
            if not turn.visitors:
                del self._slots[mine]

    async def clear_expired(self) -> int:
        """Deletes what says nothing any more; gives the number."""
        now = self._now()
        return await delete_in_batches(self.gateway, self._clear, now=now, forgotten=now - DAY)

    async def _count_all(self, action: str, scopes: Mapping[str, str], now: int) -> list[Key]:
        counted: list[Key] = []
        for rate in self.rates[action]:
            if rate.scope not in scopes:
                known = " or ".join(scopes)
                raise ImproperlyConfigured(f"A rate of {action!r} counts by {rate.scope!r}. Count by {known} there.")
            value = scopes[rate.scope]
            if rate.scope == "ip" and not value:
                continue  # on a socket nobody has an address: all visitors would be one
            value = client_network(value) if rate.scope == "ip" else _normalize_account(value)
            key = _key(action, str(rate), value)
            step, latest = rate.interval, now + rate.burst
            if not await self.gateway.execute(
                self._count_statement, key=key, now=now, first=now + step, latest=latest, step=step
            ):
                await self._refund(counted)
                row = await self.gateway.fetch_one(self._counter, key=key)
                raise _throttled(row["until"] - latest if row is not None else 0)
            counted.append((key, step))
        return counted

    async def _refund(self, counted: Sequence[Key]) -> None:
        values: dict[str, str | int] = {}
        for i, (key, step) in enumerate(counted):
            values |= {f"key{i}": key, f"step{i}": step}
        if counted:
            await self.gateway.execute(self._refund_statement(len(counted)), **values)

    def _warn_about_proxy(self, address: str) -> None:
        if self._proxy_detector.looks_like_proxy(address):
            logger.warning(
                "Every request seems to come from %s, a proxy's. Pass Auth(trusted_proxies=[%r]).",
                *(address, address),
            )


def _throttled(wait: int) -> Throttled:
    """`wait` is in milliseconds, what is told in whole seconds."""
    return Throttled(max(1, -(-wait // 1000)))


def _key(*parts: str) -> str:
    # As JSON, so that no part can run into the next, and whatever a visitor sends can be encoded.
    return sha256_hex(json.dumps(parts))


def _normalize_account(account: str) -> str:
    """One spelling for all that find the same account; none is longer, and the length is limited first."""
    return unicodedata.normalize("NFKC", account[:254]).casefold()
