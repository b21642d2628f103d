"""Who has to wait: guesses at passwords, and everything else that has a rate."""

import asyncio
import logging
import re
from typing import Any

import pytest
import sqlalchemy as sa

from starlette_auth import Auth, Gateway, ImproperlyConfigured, Tables
from starlette_auth.core.exceptions import HashingBusy, Throttled
from starlette_auth.security.rates import Rate, parse_rates
from starlette_auth.security.throttle import Attempt, Throttle
from starlette_auth.security.throttle_statements import failure_statement

from ..conftest import connected, with_tables

pytestmark = with_tables

ADDRESS = "203.0.113.9"
HOUR = 60 * 60
DAY = 24 * HOUR


class Clock:
    """It stands still until it is set forward."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(auth: Auth, clock: Clock) -> Throttle:
    return throttle_of(auth, clock)


def throttle_of(auth: Auth, clock: Clock, **options: Any) -> Throttle:
    return Throttle(auth.gateway, table=auth.tables.throttle, **{"clock": clock, **options})


async def guess(throttle: Throttle, account: str = "ann", *, right: bool = False, **options: str) -> int:
    """How long to wait before the next try; 0 when this one was looked at."""
    try:
        async with throttle.attempt("login", account=account, **{"address": ADDRESS, **options}) as attempt:
            assert isinstance(attempt, Attempt)
            attempt.succeeded = right
    except Throttled as refusal:
        return refusal.retry_after
    return 0


async def hits(throttle: Throttle, action: str, number: int, **scopes: str) -> int:
    """How many of so many are let through."""
    return sum([await throttle.try_hit(action, **scopes) for _ in range(number)])


async def rows(auth: Auth) -> int:
    return len(await auth.gateway.fetch_all(sa.select(auth.tables.throttle.c.key_hash)))


# Passwords


async def test_five_failures_are_free_and_then_the_wait_doubles(throttle: Throttle, clock: Clock) -> None:
    assert [await guess(throttle) for _ in range(5)] == [0, 0, 0, 0, 0]
    for wait in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900):
        # What is refused changes nothing: nobody can raise a wait by knocking all the time.
        assert [await guess(throttle) for _ in range(3)] == [wait, wait, wait]
        clock.now += wait - 0.001
        assert await guess(throttle) == 1
        clock.now += 0.001
        assert await guess(throttle) == 0


async def test_a_clock_that_is_behind_costs_nobody_a_free_try(auth: Auth, clock: Clock) -> None:
    ahead, behind = Clock(), Clock()
    ahead.now, behind.now = clock.now, clock.now - 0.002
    here, there = throttle_of(auth, ahead), throttle_of(auth, behind)
    assert [await guess(one) for one in (here, there, here, there, here)] == [0, 0, 0, 0, 0]
    assert await guess(there) in (1, 2)
    assert await guess(here) == 1


def test_postgresql_is_told_that_a_moment_is_no_small_number() -> None:
    """Each login would be an error of the server otherwise."""
    reserve = failure_statement("postgresql", Tables().throttle, [0, 1000])
    assert re.search(r"\$\d+::BIGINT \+", reserve.prepared("postgresql").sql)


async def test_a_refusal_is_an_answer_that_says_when_to_come_back(throttle: Throttle) -> None:
    await throttle.hit("register_mail", account="ann")
    with pytest.raises(Throttled) as refused:
        await throttle.hit("register_mail", account="ann")
    assert refused.value.status_code == 429
    assert refused.value.headers == {"Retry-After": "300"}


async def test_the_time_to_wait_is_told_in_whole_seconds(throttle: Throttle, clock: Clock) -> None:
    for _ in range(5):
        await guess(throttle)
    clock.now += 1
    assert await guess(throttle) == 0
    clock.now += 0.4
    assert await guess(throttle) == 2
    clock.now += 0.6
    assert await guess(throttle) == 1


async def test_free_failures_and_the_longest_wait_can_be_chosen(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, free_failures=1, longest_wait=3)
    for wait in (1, 2, 3, 3):
        assert await guess(throttle) == 0
        assert await guess(throttle) == wait
        clock.now += wait


async def test_failures_are_forgotten_after_a_day_of_rest(throttle: Throttle, clock: Clock) -> None:
    for _ in range(5):
        await guess(throttle)
    clock.now += 1
    assert await guess(throttle) == 0
    clock.now += 2 + DAY - 0.001
    assert await guess(throttle) == 0
    assert await guess(throttle) == 4
    clock.now += 4 + DAY
    assert [await guess(throttle) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_the_right_password_forgets_the_wrong_ones(throttle: Throttle, clock: Clock) -> None:
    for _ in range(3):
        assert [await guess(throttle) for _ in range(4)] == [0, 0, 0, 0]
        assert await guess(throttle, right=True) == 0
    for _ in range(9):
        while await guess(throttle):
            clock.now += 1
    assert await guess(throttle) > 0
    clock.now += 900
    assert await guess(throttle, right=True) == 0
    assert [await guess(throttle) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_logins_without_end_are_no_attack(throttle: Throttle) -> None:
    assert [await guess(throttle, right=True) for _ in range(100)] == [0] * 100


async def test_each_account_counts_alone_and_in_every_spelling(throttle: Throttle) -> None:
    for spelling in ("ann", "ANN", "ａｎｎ", "Ann", "aNN"):
        assert await guess(throttle, spelling) == 0
    assert await guess(throttle, "ann") == 1
    assert await guess(throttle, "ben") == 0
    for number in range(5):
        assert await guess(throttle, "x" * 254 + str(number)) == 0
    assert await guess(throttle, "x" * 1_000_000) == 1


async def test_any_text_can_be_an_account(throttle: Throttle) -> None:
    for account in ("", "\x00", "\ud800", "' OR 1=1", "\U0001f600" * 300, "ﷺ" * 300):
        assert [await guess(throttle, account) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_accounts_that_do_not_exist_are_made_to_wait_alike(auth: Auth, ann: Any, clock: Clock) -> None:
    throttle = throttle_of(auth, clock)
    for _ in range(8):
        assert await guess(throttle, ann.username) == await guess(throttle, "nobody")
        clock.now += 1


async def test_of_200_wrong_passwords_at_once_five_are_looked_at(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, rates={"login": "1000/m/ip"})
    looked_at = 0

    async def wrong() -> int:
        nonlocal looked_at
        try:
            async with throttle.attempt("login", account="ann", address=ADDRESS):
                looked_at += 1
                await asyncio.sleep(0.01)  # the others come while this one is being hashed
        except Throttled as refusal:
            return refusal.retry_after
        return 0

    waits = await asyncio.gather(*(wrong() for _ in range(200)))
    assert looked_at == 5
    assert sorted(waits) == [0] * 5 + [1] * 195


async def test_50_right_passwords_at_once_are_all_looked_at(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock)
    under_way = most = 0

    async def right() -> None:
        nonlocal under_way, most
        async with throttle.attempt("login", account="ann", address=ADDRESS) as attempt:
            under_way += 1
            most = max(most, under_way)
            await asyncio.sleep(0.001)
            under_way -= 1
            attempt.succeeded = True

    await asyncio.gather(*(right() for _ in range(50)))
    assert most <= 5


@pytest.mark.parametrize("right", [True, False])
async def test_many_accounts_at_once_end_in_no_error(auth: Auth, clock: Clock, right: bool) -> None:
    throttle = throttle_of(auth, clock, rates={"login": "40/m/ip"})
    waits = await asyncio.gather(
        *(guess(throttle, f"user {n % 20}", right=right, address=f"192.0.2.{n % 7}") for n in range(200))
    )
    assert waits.count(0) >= 20 * 5
    assert await throttle.clear_expired() >= 0


async def test_processes_count_together(auth: Auth, clock: Clock, database_url: str) -> None:
    async with connected(database_url) as other:
        gateway = Gateway.of(other)
        first = throttle_of(auth, clock, rates={"login": "1000/m/ip"})
        second = Throttle(gateway, table=auth.tables.throttle, rates={"login": "1000/m/ip"}, clock=clock)
        waits = await asyncio.gather(*(guess(throttle) for _ in range(20) for throttle in (first, second)))
        assert waits.count(0) == 5
        reset = await asyncio.gather(
            *(one.try_hit("password_reset_mail", account="ann") for _ in range(10) for one in (first, second))
        )
        assert reset.count(True) == 1
        await gateway.close()


async def test_the_owners_browser_is_not_locked_out(throttle: Throttle, clock: Clock) -> None:
    while not await guess(throttle):
        pass
    clock.now += 1
    # The same address, too: the attacker may sit in the same office, or the same small country.
    for number in range(100):
        await guess(throttle, f"user {number}")
    assert await guess(throttle, "somebody else") > 0
    assert await guess(throttle, device="her laptop", right=True) == 0
    # A stolen laptop is no way around it.
    assert [await guess(throttle, device="her laptop") for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    assert await guess(throttle, device="her phone") == 0
    assert await guess(throttle, "ben", device="her laptop") == 0


async def test_a_login_from_a_known_browser_does_not_help_the_strangers(throttle: Throttle, clock: Clock) -> None:
    while not await guess(throttle):
        pass
    assert await guess(throttle, device="her laptop", right=True) == 0
    assert await guess(throttle) == 1


async def test_one_address_cannot_try_one_password_on_all_accounts(throttle: Throttle, clock: Clock) -> None:
    assert [await guess(throttle, f"user {number}") for number in range(60)] == [0] * 60
    assert await guess(throttle, "one more") == 1
    assert await guess(throttle, "one more", address="203.0.113.10") == 0
    clock.now += 1
    assert await guess(throttle, "one more") == 0
    assert await guess(throttle, "one more") == 1


async def test_what_an_account_refuses_costs_the_address_nothing(throttle: Throttle) -> None:
    assert [await guess(throttle) for _ in range(100)] == [0] * 5 + [1] * 95
    assert [await guess(throttle, f"user {number}") for number in range(56)] == [0] * 55 + [1]


async def test_what_an_address_refuses_costs_the_account_nothing(throttle: Throttle) -> None:
    for number in range(60):
        await guess(throttle, f"user {number}")
    assert [await guess(throttle) for _ in range(10)] == [1] * 10
    assert [await guess(throttle, address="203.0.113.10") for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def busy(throttle: Throttle, **options: str) -> None:
    with pytest.raises(HashingBusy):
        async with throttle.attempt("login", account="ann", **{"address": ADDRESS, **options}):
            raise HashingBusy


async def test_a_password_that_nobody_looked_at_is_not_counted(throttle: Throttle, clock: Clock) -> None:
    for _ in range(20):
        await busy(throttle)
    for _ in range(5):
        await busy(throttle)
        assert await guess(throttle) == 0
    for wait in (1, 2, 4):
        assert await guess(throttle) == wait
        clock.now += wait
        # Nor does it make anybody wait again.
        await busy(throttle)
        assert await guess(throttle) == 0


async def test_an_older_attempt_that_fails_does_not_shorten_the_wait(throttle: Throttle, clock: Clock) -> None:
    for _ in range(4):
        await guess(throttle)
    with pytest.raises(HashingBusy):  # noqa: PT012
        async with throttle.attempt("login", account="ann", address=ADDRESS):
            clock.now += 1
            assert await guess(throttle) == 0
            raise HashingBusy
    assert await guess(throttle) == 2
    clock.now += 2
    assert await guess(throttle) == 0
    assert await guess(throttle) == 2


async def test_a_counter_never_falls_below_nothing(throttle: Throttle) -> None:
    async with asyncio.timeout(30):
        entered = [throttle.attempt("login", account="ann", address=ADDRESS) for _ in range(3)]
        for attempt in entered:
            await attempt.__aenter__()
        assert await guess(throttle, right=True) == 0
        for attempt in entered:
            error = HashingBusy()
            assert not await attempt.__aexit__(HashingBusy, error, None)
    assert [await guess(throttle) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_a_request_that_is_cancelled_was_counted(throttle: Throttle) -> None:
    async def hang_up(started: asyncio.Event) -> None:
        async with throttle.attempt("login", account="ann", address=ADDRESS):
            started.set()
            await asyncio.sleep(60)

    for _ in range(5):
        started = asyncio.Event()
        task = asyncio.create_task(hang_up(started))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await guess(throttle) == 1


async def test_a_login_takes_three_statements_and_one_from_a_known_browser_two(
    throttle: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[object] = []
    execute, fetch = throttle.gateway.driver.execute, throttle.gateway.driver.fetch

    async def counting_execute(raw: Any, sql: str, arguments: Any) -> int:
        asked.append(sql)
        return await execute(raw, sql, arguments)

    async def counting_fetch(raw: Any, sql: str, arguments: Any) -> list[Any]:
        asked.append(sql)
        return await fetch(raw, sql, arguments)

    monkeypatch.setattr(throttle.gateway.driver, "execute", counting_execute)
    monkeypatch.setattr(throttle.gateway.driver, "fetch", counting_fetch)
    for _ in range(3):
        assert await guess(throttle, right=True) == 0
    assert len(asked) == 9
    for _ in range(3):
        assert await guess(throttle, right=True, device="her laptop") == 0
    assert len(asked) == 15


# Rates


async def test_a_rate_is_kept_to_the_millisecond(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, rates={"register": "3/m/ip"})
    assert await hits(throttle, "register", 5, ip=ADDRESS) == 3
    for wait in (20, 20):
        with pytest.raises(Throttled) as refused:
            await throttle.hit("register", ip=ADDRESS)
        assert refused.value.retry_after == wait
        clock.now += wait - 0.001
        assert await hits(throttle, "register", 1, ip=ADDRESS) == 0
        clock.now += 0.001
        assert await hits(throttle, "register", 2, ip=ADDRESS) == 1
    clock.now += 60
    assert await hits(throttle, "register", 5, ip=ADDRESS) == 3


async def test_a_mail_goes_to_one_account_once_in_five_minutes(throttle: Throttle, clock: Clock) -> None:
    assert await throttle.try_hit("password_reset_mail", account="ann@example.org")
    assert not await throttle.try_hit("password_reset_mail", account="Ann@Example.org")
    assert await throttle.try_hit("password_reset_mail", account="ben@example.org")
    assert await throttle.try_hit("register_mail", account="ann@example.org")
    clock.now += 5 * 60 - 0.001
    assert not await throttle.try_hit("password_reset_mail", account="ann@example.org")
    with pytest.raises(Throttled) as refused:
        await throttle.hit("password_reset_mail", account="ann@example.org")
    assert refused.value.retry_after == 1
    clock.now += 0.001
    assert await throttle.try_hit("password_reset_mail", account="ann@example.org")


async def test_addresses_of_one_household_count_together(throttle: Throttle) -> None:
    for addresses in (
        ["192.0.2.1", "::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "2002:c000:201::7"],
        [f"2001:db8:0:1::{number}" for number in range(4)],
    ):
        assert sum([await hits(throttle, "register", 10, ip=address) for address in addresses]) == 20
    assert await hits(throttle, "register", 1, ip="2001:db8:0:2::1") == 1


async def test_two_hundred_at_once_are_counted_exactly(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, rates={"register": "7/m/ip"})
    let_through = await asyncio.gather(*(throttle.try_hit("register", ip=ADDRESS) for _ in range(200)))
    assert let_through.count(True) == 7


async def test_several_rates_hold_together(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, rates={"register": "3/m/ip, 4/h/ip, 2/h/email"})
    assert await hits(throttle, "register", 5, ip=ADDRESS, email="a@example.org") == 2
    # What the last of them refused was not counted by those before it.
    assert await hits(throttle, "register", 5, ip=ADDRESS, email="b@example.org") == 1
    clock.now += 60
    assert await hits(throttle, "register", 5, ip=ADDRESS, email="c@example.org") == 1


async def test_a_password_may_have_a_rate_for_each_account_too(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, rates={"login": "50/m/ip, 3/h/account"})
    assert [await guess(throttle, right=True) for _ in range(10)] == [0] * 10
    assert [await guess(throttle) for _ in range(4)] == [0, 0, 0, 20 * 60]
    # Not an open door for locking people out, either.
    assert await guess(throttle, device="her laptop") == 0


async def test_a_rate_can_be_switched_off(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, rates={"register": "", "login": " "})
    assert await hits(throttle, "register", 100, ip=ADDRESS) == 100
    assert [await guess(throttle, f"user {number}") for number in range(100)] == [0] * 100
    assert [await guess(throttle, "ann") for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_everything_can_be_switched_off(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, enabled=False)
    assert [await guess(throttle) for _ in range(20)] == [0] * 20
    assert await hits(throttle, "password_reset_mail", 5, account="ann") == 5
    assert await rows(auth) == 0


async def test_visitors_without_an_address_are_not_taken_for_one(throttle: Throttle) -> None:
    assert await hits(throttle, "register", 100, ip="") == 100
    assert [await guess(throttle, address="") for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_what_is_counted_up_while_it_is_to_be_deleted_stays(auth: Auth, clock: Clock) -> None:
    """PostgreSQL waits for a row that another transaction has changed, and looks again only at the outer condition."""
    throttle = throttle_of(auth, clock)
    for _ in range(6):
        await guess(throttle)
    clock.now += 2 * DAY
    cleared: list[asyncio.Task[int]] = []
    async with auth.gateway.atomic():
        young = sa.update(auth.tables.throttle).values(until=int((clock.now + DAY) * 1000))
        await auth.gateway.execute(young)
        cleared.append(asyncio.create_task(throttle.clear_expired()))
        await asyncio.sleep(0.1)
    assert await cleared[0] == 0
    assert await rows(auth) == 2


async def test_what_says_nothing_any_more_is_deleted(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock)
    for _ in range(6):
        await guess(throttle)
    await guess(throttle, "ben", right=True)
    await throttle.hit("register", ip=ADDRESS)
    assert await rows(auth) == 4
    assert await throttle.clear_expired() == 1  # Ben's
    clock.now += 10
    assert await throttle.clear_expired() == 2  # the address's
    clock.now += DAY - 9.5
    assert await throttle.clear_expired() == 0
    assert await guess(throttle) == 0
    assert await guess(throttle) == 2
    clock.now += 2 + DAY
    assert await throttle.clear_expired() == 2
    assert await rows(auth) == 0


async def test_no_name_and_no_address_is_stored(auth: Auth, clock: Clock) -> None:
    await guess(throttle_of(auth, clock))
    (*stored,) = await auth.gateway.fetch_all(sa.select(auth.tables.throttle))
    assert len(stored) == 2
    assert all(len(row["key_hash"]) == 64 for row in stored)


# Deadlocks


class DriverError(Exception):
    sqlstate: str | None = None


def deadlock(*args: object, sqlstate: str | None = None) -> DriverError:
    error = DriverError(*args)
    error.sqlstate = sqlstate
    return error


@pytest.mark.parametrize("error", [deadlock(1213, "Deadlock found"), deadlock("deadlock detected", sqlstate="40P01")])
async def test_a_deadlock_is_the_databases_business(
    throttle: Throttle, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    errors = [error, error]
    execute = throttle.gateway.driver.execute

    async def unlucky(raw: Any, sql: str, arguments: Any) -> int:
        if errors:
            raise errors.pop()
        return await execute(raw, sql, arguments)

    monkeypatch.setattr(throttle.gateway.driver, "execute", unlucky)
    assert [await guess(throttle) for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    errors.append(RuntimeError("the disk is full"))
    with pytest.raises(RuntimeError):
        await guess(throttle)


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_real_deadlock_reaches_no_visitor(auth: Auth, clock: Clock, database_url: str, backwards: bool) -> None:
    table = auth.tables.throttle
    throttle = throttle_of(auth, clock)
    async with connected(database_url) as other:
        gateway = Gateway.of(other)
        for number in range(20):
            await gateway.insert(table, key_hash=f"x{number}", failures=0, until=0)
        async with throttle.attempt("login", account="ann", address=ADDRESS) as attempt:
            both = await auth.gateway.fetch_all(sa.select(table).where(table.c.until > 0).order_by(table.c.key_hash))
            keys = [row["key_hash"] for row in (reversed(both) if backwards else both)]
            held = asyncio.Event()

            async def go_the_other_way() -> None:
                async with gateway.atomic():
                    # MySQL lets the one win that changed more.
                    await gateway.execute(sa.update(table).where(table.c.key_hash.like("x%")).values(until=1))
                    for key in keys:
                        await gateway.execute(sa.update(table).where(table.c.key_hash == key).values(failures=0))
                        held.set()
                        await asyncio.sleep(0.3)

            task = asyncio.create_task(go_the_other_way())
            await held.wait()
            attempt.succeeded = True
        await task
        await gateway.close()
    assert await guess(throttle, right=True) == 0


async def test_a_counter_that_vanishes_meanwhile_is_no_error(
    throttle: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def nothing(query: object, **values: object) -> None:
        return None

    for _ in range(5):
        await guess(throttle)
    monkeypatch.setattr(throttle.gateway, "fetch_one", nothing)
    assert await guess(throttle) == 1


# The warning


async def test_a_forgotten_proxy_is_noticed(auth: Auth, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    throttle = throttle_of(auth, clock, rates={"login": "", "email_change": ""})
    for _ in range(100):
        await throttle.hit("email_change", ip="10.0.0.7")
        await guess(throttle, address="10.0.0.7", right=True)
    await throttle.hit("email_change", ip="10.0.0.7")
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "Every request seems to come from 10.0.0.7, a proxy's." in warnings[0].getMessage()
    assert "Pass Auth(trusted_proxies=['10.0.0.7'])" in warnings[0].getMessage()


# Putting it together wrongly


def test_rates_are_written_as_they_are_spoken() -> None:
    assert parse_rates("10/m/ip, 5/5m/account") == (Rate(10, 60, "ip"), Rate(5, 300, "account"))
    assert parse_rates("1/s/ip,2/12h/email,3/7d/ip") == (
        Rate(1, 1, "ip"),
        Rate(2, 12 * HOUR, "email"),
        Rate(3, 7 * DAY, "ip"),
    )
    assert parse_rates("") == parse_rates("  ") == ()
    assert str(Rate(5, 300, "account")) == "5/300s/account"


def test_the_steps_of_a_rate_never_let_through_more_than_it_says() -> None:
    assert (Rate(7, 1, "ip").interval, Rate(7, 1, "ip").burst) == (143, 858)
    assert (Rate(1, 300, "ip").interval, Rate(1, 300, "ip").burst) == (300_000, 0)
    assert Rate(5000, 1, "ip").interval == 1


NO_RATES = """
    10;10/m;m/ip;0/m/ip;10/0m/ip;-1/m/ip;10/m/ip,;10/w/ip;10/m/IP;10/m/ip 5/m/ip;٣/m/ip;1e3/m/ip;10/m/;10//ip;,
    10/m/ip/account;9999999/m/ip;10/m/ip,,10/m/ip
"""


@pytest.mark.parametrize("text", NO_RATES.strip().replace("\n", ";").split(";"))
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r'is no rate\. Write "10/m/ip"'):
        parse_rates(text)


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"rates": {"logins": "5/m/ip"}}, "There is no rate 'logins'. Name one of login, password_change, "),
        ({"rates": {"login": "often"}}, "'often' is no rate"),
        ({"free_failures": 0}, "pass enabled=False"),
        ({"longest_wait": 0}, "pass enabled=False"),
    ],
)
async def test_settings_that_would_mean_something_else_are_refused(
    auth: Auth, clock: Clock, options: dict[str, Any], advice: str
) -> None:
    with pytest.raises(ImproperlyConfigured, match=advice):
        throttle_of(auth, clock, **options)


async def test_a_rate_that_nothing_could_count_is_not_passed_over(auth: Auth, clock: Clock) -> None:
    throttle = throttle_of(auth, clock, rates={"register": "5/m/ip, 5/m/planet"})
    with pytest.raises(ImproperlyConfigured, match=r"counts by 'planet'\. Count by ip or account there"):
        await throttle.hit("register", ip=ADDRESS, account="ann")
