"""How many wrong passwords were entered? Counters in the database that make guessing slow, and end it."""

import json
from dataclasses import dataclass

import sqlalchemy as sa

from ...core.exceptions import ImproperlyConfigured, Throttled
from ...core.signing import sha256_hex
from ...database.gateway import Gateway, runs_apart, runs_apart_if_possible
from ...database.statements import Statement
from . import statements as sql

MINUTE = 60 * 1000  # milliseconds, as all times in the table


@dataclass(frozen=True)
class Failure:
    """Represents a failure that was counted, or that a blocked counter did not count.

    `blocked_until` is 0 unless the counter is blocked; then it is the value of `until` before this attempt, and `wait`
    tells how many milliseconds the attempt comes too early.
    """

    key: str
    now: int
    blocked_until: int = 0
    wait: int = 0

    @property
    def is_old_block(self) -> bool:
        """Returns whether the last attempt at a blocked counter was more than a minute ago, so that none is running."""
        return self.blocked_until - sql.YEAR + MINUTE <= self.now


class FailureCounters:
    """Counts failures by key. Each counter is a row of the table `auth_throttle`.

    After `free_failures` each further failure doubles the wait, up to `longest_wait`. After `max_failures` consecutive
    ones the counter is blocked: `until` lies a year after the last attempt.
    """

    def __init__(
        self, gateway: Gateway, table: sa.Table, *, free_failures: int, longest_wait: int, max_failures: int
    ) -> None:
        if free_failures < 1 or longest_wait < 1:
            raise ImproperlyConfigured(
                "free_failures and longest_wait must be at least 1. To switch throttling off, pass enabled=False."
            )
        if max_failures <= free_failures:
            raise ImproperlyConfigured("max_failures must be greater than free_failures. Pass max_failures=100.")
        self.gateway = gateway
        self.free_failures = free_failures
        self.longest_wait = longest_wait * 1000
        self.max_failures = max_failures
        # waits[n] is the wait in milliseconds after n recent failures. For more failures the last one applies.
        waits = [0] * free_failures
        while waits[-1] < self.longest_wait:
            waits.append(min(waits[-1] * 2 or 1000, self.longest_wait))
        self._first_wait = waits[1]
        by_key = table.c.key_hash == sa.bindparam("key")
        self._count = sql.failure_statement(gateway.dialect, table, waits, max_failures)
        self._uncount = sql.uncount_statement(table, waits, max_failures)
        self._move_block = sql.move_block_statement(table, max_failures)
        self._report = sql.report_statement(table, max_failures)
        self._forgive = sql.forgive_statement(table, max_failures)
        self._delete = Statement(sa.delete(table).where(by_key))
        self._row = Statement(sa.select(table.c.failures, table.c.until).where(by_key))

    @runs_apart
    async def count(self, key: str, now: int) -> Failure:
        """Counts a failure. Raises Throttled if the wait after the previous one is not over; then it is not counted."""
        first = {"first": now + self._first_wait}
        while not await self.gateway.execute(self._count, key=key, now=now, **first):
            row = await self.gateway.fetch_one(self._row, key=key)
            if row is not None and self._is_blocked(row["failures"]):
                return await self._count_blocked(key, now, row["until"])
            if row is None or row["failures"] & sql.RECENT >= self.free_failures:
                raise throttled(row["until"] - now if row is not None else 0)
            # A free failure has no wait. `until` is in the future because another server's clock is ahead.
            now = max(now, row["until"])
        return Failure(key, now)

    @runs_apart
    async def take_back(self, failure: Failure) -> None:
        """Takes a failure back, because no password was checked."""
        if failure.blocked_until:
            await self.gateway.execute(
                self._move_block, key=failure.key, old=failure.now + sql.YEAR, new=failure.blocked_until
            )
        else:
            await self.gateway.execute(self._uncount, key=failure.key, now=failure.now)

    @runs_apart
    async def report(self, key: str) -> bool:
        """Returns whether the counter is blocked and this is the first call that says so."""
        row = await self.gateway.fetch_one(self._row, key=key)
        if row is None or not self._is_blocked(row["failures"]):
            return False
        return await self.gateway.execute(self._report, key=key) == 1

    @runs_apart
    async def in_a_row(self, key: str) -> int:
        """Returns the number of consecutive failures, which stops at `max_failures`."""
        row = await self.gateway.fetch_one(self._row, key=key)
        return min(row["failures"] // sql.CONSECUTIVE, self.max_failures) if row is not None else 0

    @runs_apart_if_possible
    async def forgive(self, key: str) -> None:
        """Ends a block. Otherwise consecutive failures count from 0 again, and recent failures have their waits."""
        await self.gateway.execute(self._forgive, key=key)

    @runs_apart_if_possible
    async def delete(self, key: str) -> None:
        await self.gateway.execute(self._delete, key=key)

    async def _count_blocked(self, key: str, now: int, until: int) -> Failure:
        wait = until - sql.YEAR + self.longest_wait - now
        if wait <= 0 and not await self.gateway.execute(self._move_block, key=key, old=until, new=now + sql.YEAR):
            wait = self.longest_wait  # another attempt took this turn
        return Failure(key, now, blocked_until=until, wait=max(0, wait))

    def _is_blocked(self, failures: int) -> bool:
        return failures >= self.max_failures * sql.CONSECUTIVE


def throttled(wait: int, action: str = "") -> Throttled:
    """Returns the exception for a wait in milliseconds, which it rounds up to whole seconds."""
    return Throttled(seconds(wait), action=action)


def seconds(milliseconds: int) -> int:
    return max(1, -(-milliseconds // 1000))


def failures_key(kind: str, account: str, device: str = "") -> str:
    """Returns the key of the counter of failures of an account, or of one browser of it."""
    return counter_key(kind, "failures", account, device)


def counter_key(*parts: str) -> str:
    # JSON keeps the parts apart and escapes lone surrogates, which UTF-8 cannot encode.
    return sha256_hex(json.dumps(parts))
