"""Tests of the throttle: waits after wrong passwords, and rate limits of other actions."""

import asyncio
import logging
import re
from typing import Any

import pytest
import sqlalchemy as sa

from starlette_auth import Auth, ImproperlyConfigured, Tables, gateway_of
from starlette_auth.core.exceptions import HashingBusy, Throttled
from starlette_auth.security.throttle import Attempt, Throttle
from starlette_auth.security.throttling.rates import Rate, parse_rates
from starlette_auth.security.throttling.statements import failure_statement

from ..conftest import connected, with_tables

pytestmark = with_tables

ADDRESS = "203.0.113.9"
HOUR = 60 * 60
DAY = 24 * HOUR


class Clock:
    """A clock that only moves when a test sets it."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throttle(auth: Auth, clock: Clock) -> Throttle:
    return make_throttle(auth, clock)


def make_throttle(auth: Auth, clock: Clock, **options: Any) -> Throttle:
    return Throttle(auth.gateway, table=auth.tables.throttle, **{"clock": clock, **options})


async def guess(
    throttle: Throttle, account: str = "ann", *, right: bool = False, action: str = "login", **options: Any
) -> int:
    """Makes one attempt. Returns the seconds to wait if it was throttled; 0 if the password was checked."""
    try:
        async with throttle.attempt(action, account=account, **{"address": ADDRESS, **options}) as attempt:
            assert isinstance(attempt, Attempt)
            attempt.succeeded = right
    except Throttled as error:
        return error.retry_after
    return 0


async def hits(throttle: Throttle, action: str, number: int, **scopes: str) -> int:
    """Counts an action `number` times. Returns how many of them the rate limit allowed."""
    return sum([await throttle.try_hit(action, **scopes) for _ in range(number)])


async def count_rows(auth: Auth) -> int:
    return len(await auth.gateway.fetch_all(sa.select(auth.tables.throttle.c.key_hash)))


# Passwords


async def test_five_failures_are_free_and_then_the_wait_doubles(throttle: Throttle, clock: Clock) -> None:
    assert [await guess(throttle) for _ in range(5)] == [0, 0, 0, 0, 0]
    for wait in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900):
        # A refused attempt is not counted: an attacker cannot prolong a wait by further attempts.
        assert [await guess(throttle) for _ in range(3)] == [wait, wait, wait]
        clock.now += wait - 0.001
        assert await guess(throttle) == 1
        clock.now += 0.001
        assert await guess(throttle) == 0


async def test_a_clock_that_is_behind_uses_up_no_free_attempt(auth: Auth, clock: Clock) -> None:
    ahead, behind = Clock(), Clock()
    ahead.now, behind.now = clock.now, clock.now - 0.002
    first, second = make_throttle(auth, ahead), make_throttle(auth, behind)
    assert [await guess(throttle) for throttle in (first, second, first, second, first)] == [0, 0, 0, 0, 0]
    assert await guess(second) in (1, 2)
    assert await guess(first) == 1


def test_postgresql_gets_times_as_bigint() -> None:
    """PostgreSQL would otherwise reject the statement, as times in milliseconds exceed INTEGER."""
    statement = failure_statement("postgresql", Tables().throttle, [0, 1000])
    assert re.search(r"\$\d+::BIGINT \+", statement.prepared("postgresql").sql)


async def test_throttled_is_a_429_response_with_retry_after(throttle: Throttle) -> None:
    await throttle.hit("register_mail", account="ann")
    with pytest.raises(Throttled) as throttled:
        await throttle.hit("register_mail", account="ann")
    assert throttled.value.status_code == 429
    assert throttled.value.headers == {"Retry-After": "300"}


async def test_retry_after_is_rounded_up_to_whole_seconds(throttle: Throttle, clock: Clock) -> None:
    for _ in range(5):
        await guess(throttle)
    clock.now += 1
    assert await guess(throttle) == 0
    clock.now += 0.4
    assert await guess(throttle) == 2
    clock.now += 0.6
    assert await guess(throttle) == 1


async def test_free_failures_and_longest_wait_can_be_configured(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, free_failures=1, longest_wait=3)
    for wait in (1, 2, 3, 3):
        assert await guess(throttle) == 0
        assert await guess(throttle) == wait
        clock.now += wait


async def test_failures_are_forgotten_a_day_after_the_wait(throttle: Throttle, clock: Clock) -> None:
    for _ in range(5):
        await guess(throttle)
    clock.now += 1
    assert await guess(throttle) == 0
    clock.now += 2 + DAY - 0.001
    assert await guess(throttle) == 0
    assert await guess(throttle) == 4
    clock.now += 4 + DAY
    assert [await guess(throttle) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_a_right_password_resets_the_failures(throttle: Throttle, clock: Clock) -> None:
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


async def test_successful_logins_are_not_throttled(throttle: Throttle) -> None:
    assert [await guess(throttle, right=True) for _ in range(100)] == [0] * 100


async def test_each_account_has_one_counter_for_all_spellings(throttle: Throttle) -> None:
    for spelling in ("ann", "ANN", "ａｎｎ", "Ann", "aNN"):
        assert await guess(throttle, spelling) == 0
    assert await guess(throttle, "ann") == 1
    assert await guess(throttle, "ben") == 0
    for number in range(5):
        assert await guess(throttle, "x" * 254 + str(number)) == 0
    assert await guess(throttle, "x" * 1_000_000) == 1


async def test_an_account_may_be_any_text(throttle: Throttle) -> None:
    for account in ("", "\x00", "\ud800", "' OR 1=1", "\U0001f600" * 300, "ﷺ" * 300):
        assert [await guess(throttle, account) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_unknown_accounts_wait_as_long_as_existing_ones(auth: Auth, ann: Any, clock: Clock) -> None:
    throttle = make_throttle(auth, clock)
    for _ in range(8):
        assert await guess(throttle, ann.username) == await guess(throttle, "unknown")
        clock.now += 1


async def test_of_200_concurrent_wrong_passwords_five_are_checked(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, rates={"login": "1000/m/ip"})
    checked = 0

    async def wrong() -> int:
        nonlocal checked
        try:
            async with throttle.attempt("login", account="ann", address=ADDRESS):
                checked += 1
                await asyncio.sleep(0.01)  # further attempts arrive while this password is hashed
        except Throttled as error:
            return error.retry_after
        return 0

    waits = await asyncio.gather(*(wrong() for _ in range(200)))
    assert checked == 5
    assert sorted(waits) == [0] * 5 + [1] * 195


async def test_50_concurrent_right_passwords_are_all_checked_five_at_a_time(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock)
    running = max_running = 0

    async def right() -> None:
        nonlocal running, max_running
        async with throttle.attempt("login", account="ann", address=ADDRESS) as attempt:
            running += 1
            max_running = max(max_running, running)
            await asyncio.sleep(0.001)
            running -= 1
            attempt.succeeded = True

    await asyncio.gather(*(right() for _ in range(50)))
    assert max_running <= 5


@pytest.mark.parametrize("right", [True, False])
async def test_concurrent_attempts_on_many_accounts_raise_no_error(auth: Auth, clock: Clock, right: bool) -> None:
    throttle = make_throttle(auth, clock, rates={"login": "40/m/ip"})
    waits = await asyncio.gather(
        *(guess(throttle, f"user {n % 20}", right=right, address=f"192.0.2.{n % 7}") for n in range(200))
    )
    assert waits.count(0) >= 20 * 5
    assert await throttle.clear_expired() >= 0


async def test_processes_share_their_counters(auth: Auth, clock: Clock, database_url: str) -> None:
    async with connected(database_url) as other_database:
        gateway = gateway_of(other_database)
        first = make_throttle(auth, clock, rates={"login": "1000/m/ip"})
        second = Throttle(gateway, table=auth.tables.throttle, rates={"login": "1000/m/ip"}, clock=clock)
        waits = await asyncio.gather(*(guess(throttle) for _ in range(20) for throttle in (first, second)))
        assert waits.count(0) == 5
        allowed = await asyncio.gather(
            *(throttle.try_hit("password_reset_mail", account="ann") for _ in range(10) for throttle in (first, second))
        )
        assert allowed.count(True) == 1
        await gateway.close()


async def test_a_known_browser_of_the_owner_is_not_locked_out(throttle: Throttle, clock: Clock) -> None:
    while not await guess(throttle):
        pass
    clock.now += 1
    # The attacker uses the same IP address, as in one office or behind one carrier's NAT.
    for number in range(100):
        await guess(throttle, f"user {number}")
    assert await guess(throttle, "another user") > 0
    assert await guess(throttle, device="her laptop", right=True) == 0
    # A stolen device cookie gives an attacker no unlimited attempts.
    assert [await guess(throttle, device="her laptop") for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    assert await guess(throttle, device="her phone") == 0
    assert await guess(throttle, "ben", device="her laptop") == 0


async def test_a_login_from_a_known_browser_does_not_reset_the_counter_of_other_browsers(
    throttle: Throttle, clock: Clock
) -> None:
    while not await guess(throttle):
        pass
    assert await guess(throttle, device="her laptop", right=True) == 0
    assert await guess(throttle) == 1


async def test_one_address_cannot_try_a_password_on_all_accounts(throttle: Throttle, clock: Clock) -> None:
    assert [await guess(throttle, f"user {number}") for number in range(40)] == [0] * 40
    assert await guess(throttle, "user 40") == 15
    assert await guess(throttle, "user 40", address="203.0.113.10") == 0
    clock.now += 15
    assert await guess(throttle, "user 40") == 0
    assert await guess(throttle, "user 40") == 15


async def test_all_actions_that_try_a_password_share_the_rate_of_failures(throttle: Throttle) -> None:
    actions = ("login", "password_change", "reauthenticate")
    waits = [await guess(throttle, f"user {number}", action=actions[number % 3]) for number in range(41)]
    assert waits == [0] * 40 + [15]


async def test_right_passwords_count_only_at_the_rate_of_all_logins(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, rates={"login": "100/m/ip", "login_failed": "2/h/ip"})
    assert [await guess(throttle, f"user {number}", right=True) for number in range(101)] == [0] * 100 + [1]
    clock.now += 60
    assert [await guess(throttle, f"user {number}") for number in range(3)] == [0, 0, 1800]


async def test_an_attempt_refused_for_its_account_is_not_counted_for_its_address(throttle: Throttle) -> None:
    assert [await guess(throttle) for _ in range(100)] == [0] * 5 + [1] * 95
    assert [await guess(throttle, f"user {number}") for number in range(36)] == [0] * 35 + [15]


async def test_an_attempt_refused_for_its_address_is_not_counted_for_its_account(throttle: Throttle) -> None:
    for number in range(40):
        await guess(throttle, f"user {number}")
    assert [await guess(throttle) for _ in range(10)] == [15] * 10
    assert [await guess(throttle, address="203.0.113.10") for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def fail_busy(throttle: Throttle, **options: Any) -> None:
    with pytest.raises(HashingBusy):
        async with throttle.attempt("login", account="ann", **{"address": ADDRESS, **options}):
            raise HashingBusy


async def test_a_password_that_was_not_checked_is_not_counted(throttle: Throttle, clock: Clock) -> None:
    for _ in range(20):
        await fail_busy(throttle)
    for _ in range(5):
        await fail_busy(throttle)
        assert await guess(throttle) == 0
    for wait in (1, 2, 4):
        assert await guess(throttle) == wait
        clock.now += wait
        # It causes no further wait, either.
        await fail_busy(throttle)
        assert await guess(throttle) == 0


async def test_an_exception_in_an_older_attempt_does_not_shorten_the_wait(throttle: Throttle, clock: Clock) -> None:
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


async def test_a_failure_counter_does_not_fall_below_zero(throttle: Throttle) -> None:
    async with asyncio.timeout(30):
        attempts = [throttle.attempt("login", account="ann", address=ADDRESS) for _ in range(3)]
        for attempt in attempts:
            await attempt.__aenter__()
        assert await guess(throttle, right=True) == 0
        for attempt in attempts:
            error = HashingBusy()
            assert not await attempt.__aexit__(HashingBusy, error, None)
    assert [await guess(throttle) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_a_cancelled_attempt_is_counted_as_a_failure(throttle: Throttle) -> None:
    async def attempt_for_a_minute(started: asyncio.Event) -> None:
        async with throttle.attempt("login", account="ann", address=ADDRESS):
            started.set()
            await asyncio.sleep(60)

    for _ in range(5):
        started = asyncio.Event()
        task = asyncio.create_task(attempt_for_a_minute(started))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await guess(throttle) == 1


async def test_a_login_takes_four_statements_and_two_from_a_known_browser(
    throttle: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    statements: list[object] = []
    execute, fetch = throttle.gateway.driver.execute, throttle.gateway.driver.fetch

    async def counting_execute(raw: Any, sql: str, arguments: Any) -> int:
        statements.append(sql)
        return await execute(raw, sql, arguments)

    async def counting_fetch(raw: Any, sql: str, arguments: Any) -> list[Any]:
        statements.append(sql)
        return await fetch(raw, sql, arguments)

    monkeypatch.setattr(throttle.gateway.driver, "execute", counting_execute)
    monkeypatch.setattr(throttle.gateway.driver, "fetch", counting_fetch)
    for _ in range(3):
        assert await guess(throttle, right=True) == 0
    assert len(statements) == 12
    for _ in range(3):
        assert await guess(throttle, right=True, device="her laptop") == 0
    assert len(statements) == 18


# Blocks


async def guess_until_blocked(throttle: Throttle, clock: Clock, account: str = "ann", **options: Any) -> int:
    """Guesses as often as the waits allow for 3 days. Returns how many passwords were checked."""
    checked, end = 0, clock.now + 3 * DAY
    while clock.now < end:
        wait = await guess(throttle, account, address="", **options)
        checked += not wait
        clock.now += wait
    return checked


def refusing(reports: list[str]) -> dict[str, Any]:
    async def on_block() -> None:
        reports.append("blocked")

    return {"policy": lambda: "refuse", "on_block": on_block}


async def test_100_consecutive_wrong_passwords_block_unknown_browsers(throttle: Throttle, clock: Clock) -> None:
    reports: list[str] = []
    assert await guess_until_blocked(throttle, clock, **refusing(reports)) == 100
    assert reports == ["blocked"]
    for _ in range(3):
        clock.now += 100 * DAY
        assert await guess(throttle, right=True, **refusing(reports)) == 900
    assert reports == ["blocked"]
    assert await guess(throttle, device="her laptop", right=True, **refusing(reports)) == 0
    assert await guess(throttle, right=True, **refusing(reports)) == 900


@pytest.mark.parametrize("pause", [DAY, 7 * DAY, 30 * DAY])
async def test_slow_guesses_are_counted_too(throttle: Throttle, clock: Clock, pause: int) -> None:
    checked, reports = 0, list[str]()
    for _ in range(110):
        checked += not await guess(throttle, **refusing(reports))
        clock.now += pause
        await throttle.clear_expired()
    assert (checked, reports) == (100, ["blocked"])


async def test_a_right_password_from_an_unknown_browser_ends_the_count(throttle: Throttle, clock: Clock) -> None:
    for right in (False, False, True, False, False):
        for _ in range(49):
            assert await guess(throttle, address="", right=right, policy=lambda: "refuse") == 0
            clock.now += 900
    # A known browser does not: an owner who logs in daily would otherwise give an attacker any number of guesses.
    assert await guess(throttle, device="her laptop", right=True) == 0
    assert await guess_until_blocked(throttle, clock, policy=lambda: "refuse") == 2


async def test_where_nothing_can_end_a_block_each_attempt_waits_900_seconds(throttle: Throttle, clock: Clock) -> None:
    while clock.now < 1_800_000_000 + 2 * DAY:
        clock.now += await guess(throttle, address="")
    for _ in range(5):
        while wait := await guess(throttle, address=""):
            clock.now += wait
        assert await guess(throttle, address="") == 900
        clock.now += 899
        assert await guess(throttle, address="") == 1
        clock.now += 1
        await fail_busy(throttle)  # a password that was not checked costs no wait
    assert await guess(throttle, right=True) == 0
    assert [await guess(throttle) for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_of_200_concurrent_attempts_on_a_blocked_account_one_is_checked(throttle: Throttle, clock: Clock) -> None:
    await guess_until_blocked(throttle, clock, policy=lambda: "refuse")
    clock.now += 900
    waits = await asyncio.gather(*(guess(throttle, address="") for _ in range(100)))
    assert sorted(waits) == [0] + [900] * 99


async def test_no_more_than_100_are_checked_under_concurrency(auth: Auth, clock: Clock) -> None:
    throttle, reports = make_throttle(auth, clock), list[str]()
    waits = 0
    for _ in range(120):
        batch = await asyncio.gather(*(guess(throttle, address="", **refusing(reports)) for _ in range(6)))
        waits += batch.count(0)
        clock.now += 900
    assert (waits, reports) == (100, ["blocked"])


async def test_all_actions_share_one_counter(throttle: Throttle) -> None:
    actions = ("login", "password_change", "reauthenticate")
    assert [await guess(throttle, action=actions[n % 3]) for n in range(6)] == [0, 0, 0, 0, 0, 1]
    assert [await guess(throttle, action=action) for action in actions] == [1, 1, 1]


async def test_unlock_lets_unknown_browsers_try_again_at_once(throttle: Throttle, clock: Clock) -> None:
    await guess_until_blocked(throttle, clock, policy=lambda: "refuse")
    await throttle.unlock("ANN")
    assert [await guess(throttle, policy=lambda: "refuse") for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    await throttle.unlock("nobody")


async def test_a_new_password_ends_a_block_and_leaves_other_waits(throttle: Throttle, clock: Clock) -> None:
    for _ in range(6):
        await guess(throttle)
    await throttle.forgive(["ann"])
    assert await guess(throttle) == 1
    await guess_until_blocked(throttle, clock, policy=lambda: "refuse")
    await throttle.forgive(["ann"])
    assert await guess(throttle, right=True, policy=lambda: "refuse") == 0


async def test_a_known_browser_with_100_wrong_passwords_counts_as_unknown(throttle: Throttle, clock: Clock) -> None:
    laptop: dict[str, Any] = {"device": "a stolen laptop", "policy": lambda: "refuse"}
    # Its own hundred, and then those of unknown browsers.
    assert await guess_until_blocked(throttle, clock, **laptop) == 200
    assert await guess(throttle, policy=lambda: "refuse") == 900
    assert await guess(throttle, device="her phone", policy=lambda: "refuse") == 0


async def test_a_block_ends_a_year_after_the_last_attempt(auth: Auth, throttle: Throttle, clock: Clock) -> None:
    await guess_until_blocked(throttle, clock, policy=lambda: "refuse")
    clock.now += 364 * DAY
    assert await throttle.clear_expired() == 0
    assert await guess(throttle, policy=lambda: "refuse") == 900  # prolongs it
    clock.now += 365 * DAY - 1
    assert await throttle.clear_expired() == 2  # the counters of the address
    assert await count_rows(auth) == 1
    clock.now += 1
    assert await guess(throttle, policy=lambda: "refuse") == 0
    assert [await guess(throttle) for _ in range(5)] == [0, 0, 0, 0, 1]


async def test_a_block_is_reported_though_the_last_attempt_was_cancelled(throttle: Throttle, clock: Clock) -> None:
    reports: list[str] = []
    for _ in range(99):
        assert await guess(throttle, address="") == 0
        clock.now += 900
    with pytest.raises(asyncio.CancelledError):
        async with throttle.attempt("login", account="ann", address="", **refusing(reports)):
            raise asyncio.CancelledError
    assert (await guess(throttle, **refusing(reports)), reports) == (900, [])  # it may still be running elsewhere
    clock.now += 60
    assert (await guess(throttle, **refusing(reports)), reports) == (840, ["blocked"])


# Rates


async def test_a_rate_limit_is_exact_to_the_millisecond(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, rates={"register": "3/m/ip"})
    assert await hits(throttle, "register", 5, ip=ADDRESS) == 3
    for wait in (20, 20):
        with pytest.raises(Throttled) as throttled:
            await throttle.hit("register", ip=ADDRESS)
        assert throttled.value.retry_after == wait
        clock.now += wait - 0.001
        assert await hits(throttle, "register", 1, ip=ADDRESS) == 0
        clock.now += 0.001
        assert await hits(throttle, "register", 2, ip=ADDRESS) == 1
    clock.now += 60
    assert await hits(throttle, "register", 5, ip=ADDRESS) == 3


async def test_one_account_gets_one_mail_in_five_minutes(throttle: Throttle, clock: Clock) -> None:
    assert await throttle.try_hit("password_reset_mail", account="ann@example.org")
    assert not await throttle.try_hit("password_reset_mail", account="Ann@Example.org")
    assert await throttle.try_hit("password_reset_mail", account="ben@example.org")
    assert await throttle.try_hit("register_mail", account="ann@example.org")
    clock.now += 5 * 60 - 0.001
    assert not await throttle.try_hit("password_reset_mail", account="ann@example.org")
    with pytest.raises(Throttled) as throttled:
        await throttle.hit("password_reset_mail", account="ann@example.org")
    assert throttled.value.retry_after == 1
    clock.now += 0.001
    assert await throttle.try_hit("password_reset_mail", account="ann@example.org")


async def test_addresses_of_one_client_network_share_a_counter(throttle: Throttle) -> None:
    for addresses in (
        ["192.0.2.1", "::ffff:192.0.2.1", "64:ff9b::192.0.2.1", "2002:c000:201::7"],
        [f"2001:db8:0:1::{number}" for number in range(4)],
    ):
        assert sum([await hits(throttle, "register", 10, ip=address) for address in addresses]) == 20
    assert await hits(throttle, "register", 1, ip="2001:db8:0:2::1") == 1


async def test_200_concurrent_actions_are_counted_exactly(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, rates={"register": "7/m/ip"})
    allowed = await asyncio.gather(*(throttle.try_hit("register", ip=ADDRESS) for _ in range(200)))
    assert allowed.count(True) == 7


async def test_several_rates_of_an_action_apply_together(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, rates={"register": "3/m/ip, 4/h/ip, 2/h/email"})
    assert await hits(throttle, "register", 5, ip=ADDRESS, email="a@example.org") == 2
    # An action that the last rate refused is not counted at the other rates.
    assert await hits(throttle, "register", 5, ip=ADDRESS, email="b@example.org") == 1
    clock.now += 60
    assert await hits(throttle, "register", 5, ip=ADDRESS, email="c@example.org") == 1


async def test_logins_may_have_a_rate_per_account(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, rates={"login": "50/m/ip, 3/h/account"})
    assert [await guess(throttle, right=True) for _ in range(10)] == [0] * 10
    assert [await guess(throttle) for _ in range(4)] == [0, 0, 0, 20 * 60]
    # An attacker cannot use this rate to lock the owner out of a known browser.
    assert await guess(throttle, device="her laptop") == 0


async def test_a_rate_can_be_switched_off(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, rates={"register": "", "login": " ", "login_failed": ""})
    assert await hits(throttle, "register", 100, ip=ADDRESS) == 100
    assert [await guess(throttle, f"user {number}") for number in range(100)] == [0] * 100
    assert [await guess(throttle, "ann") for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_the_throttle_can_be_switched_off(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, enabled=False)
    assert [await guess(throttle) for _ in range(20)] == [0] * 20
    assert await hits(throttle, "password_reset_mail", 5, account="ann") == 5
    assert await count_rows(auth) == 0


async def test_requests_without_an_address_do_not_share_a_counter(throttle: Throttle) -> None:
    assert await hits(throttle, "register", 100, ip="") == 100
    assert [await guess(throttle, address="") for _ in range(6)] == [0, 0, 0, 0, 0, 1]


async def test_a_counter_that_is_updated_during_clear_expired_stays(auth: Auth, clock: Clock) -> None:
    """PostgreSQL waits for a row that another transaction has locked, and then rechecks only the outer WHERE condition."""
    throttle = make_throttle(auth, clock)
    for _ in range(6):
        await guess(throttle)
    clock.now += 2 * DAY
    tasks: list[asyncio.Task[int]] = []
    async with auth.gateway.atomic():
        update = sa.update(auth.tables.throttle).values(until=int((clock.now + DAY) * 1000))
        await auth.gateway.execute(update)
        tasks.append(asyncio.create_task(throttle.clear_expired()))
        await asyncio.sleep(0.1)
    assert await tasks[0] == 0
    assert await count_rows(auth) == 3


async def test_clear_expired_deletes_counters_without_effect(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock)
    for _ in range(6):
        await guess(throttle)
    await guess(throttle, "ben", right=True)
    await throttle.hit("register", ip=ADDRESS)
    assert await count_rows(auth) == 5
    assert await throttle.clear_expired() == 1  # the counter of ben
    clock.now += 10 * 60
    assert await throttle.clear_expired() == 3  # the three counters of the address
    # Consecutive failures are forgotten a year after the wait.
    clock.now += 365 * DAY - 10 * 60 - 0.5
    assert await throttle.clear_expired() == 0
    assert await guess(throttle) == 0
    clock.now += 365 * DAY - 0.001
    assert await throttle.clear_expired() == 2
    assert await count_rows(auth) == 1
    clock.now += 0.001
    assert await throttle.clear_expired() == 1


async def test_usernames_and_addresses_are_stored_as_hashes(auth: Auth, clock: Clock) -> None:
    await guess(make_throttle(auth, clock))
    (*counters,) = await auth.gateway.fetch_all(sa.select(auth.tables.throttle))
    assert len(counters) == 3
    assert all(len(row["key_hash"]) == 64 for row in counters)


# Deadlocks


class DriverError(Exception):
    sqlstate: str | None = None


def deadlock(*args: object, sqlstate: str | None = None) -> DriverError:
    error = DriverError(*args)
    error.sqlstate = sqlstate
    return error


@pytest.mark.parametrize("error", [deadlock(1213, "Deadlock found"), deadlock("deadlock detected", sqlstate="40P01")])
async def test_a_deadlock_is_retried_and_other_errors_are_raised(
    throttle: Throttle, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    errors = [error, error]
    execute = throttle.gateway.driver.execute

    async def execute_with_errors(raw: Any, sql: str, arguments: Any) -> int:
        if errors:
            raise errors.pop()
        return await execute(raw, sql, arguments)

    monkeypatch.setattr(throttle.gateway.driver, "execute", execute_with_errors)
    assert [await guess(throttle) for _ in range(6)] == [0, 0, 0, 0, 0, 1]
    errors.append(RuntimeError("the disk is full"))
    with pytest.raises(RuntimeError):
        await guess(throttle)


@pytest.mark.parametrize("backwards", [False, True])
async def test_a_real_deadlock_does_not_reach_the_caller(
    auth: Auth, clock: Clock, database_url: str, backwards: bool
) -> None:
    table = auth.tables.throttle
    throttle = make_throttle(auth, clock)
    async with connected(database_url) as other_database:
        gateway = gateway_of(other_database)
        for number in range(20):
            await gateway.insert(table, key_hash=f"x{number}", failures=0, until=0)
        async with throttle.attempt("login", account="ann", address=ADDRESS) as attempt:
            rows = await auth.gateway.fetch_all(sa.select(table).where(table.c.until > 0).order_by(table.c.key_hash))
            keys = [row["key_hash"] for row in (reversed(rows) if backwards else rows)]
            locked = asyncio.Event()

            async def lock_rows_in_order() -> None:
                async with gateway.atomic():
                    # MySQL aborts the transaction that has changed fewer rows.
                    await gateway.execute(sa.update(table).where(table.c.key_hash.like("x%")).values(until=1))
                    for key in keys:
                        await gateway.execute(sa.update(table).where(table.c.key_hash == key).values(failures=0))
                        locked.set()
                        await asyncio.sleep(0.3)

            task = asyncio.create_task(lock_rows_in_order())
            await locked.wait()
            attempt.succeeded = True
        await task
        await gateway.close()
    assert await guess(throttle, right=True) == 0


async def test_a_counter_that_is_deleted_meanwhile_causes_no_error(
    throttle: Throttle, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fetch_nothing(query: object, **values: object) -> None:
        return None

    for _ in range(5):
        await guess(throttle)
    monkeypatch.setattr(throttle.gateway, "fetch_one", fetch_nothing)
    assert await guess(throttle) == 1


# The warning


async def test_a_proxy_missing_from_trusted_proxies_is_logged_once(
    auth: Auth, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    throttle = make_throttle(auth, clock, rates={"login": "", "email_change": ""})
    for _ in range(100):
        await throttle.hit("email_change", ip="10.0.0.7")
        await guess(throttle, address="10.0.0.7", right=True)
    await throttle.hit("email_change", ip="10.0.0.7")
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "All requests seem to come from 10.0.0.7, which is probably a reverse proxy." in warnings[0].getMessage()
    assert "Pass Auth(trusted_proxies=['10.0.0.7'])" in warnings[0].getMessage()


# Configuration


def test_rates_are_parsed_from_text() -> None:
    assert parse_rates("10/m/ip, 5/5m/account") == (Rate(10, 60, "ip"), Rate(5, 300, "account"))
    assert parse_rates("1/s/ip,2/12h/email,3/7d/ip") == (
        Rate(1, 1, "ip"),
        Rate(2, 12 * HOUR, "email"),
        Rate(3, 7 * DAY, "ip"),
    )
    assert parse_rates("") == parse_rates("  ") == ()
    assert str(Rate(5, 300, "account")) == "5/300s/account"


def test_the_interval_of_a_rate_is_rounded_up() -> None:
    assert (Rate(7, 1, "ip").interval, Rate(7, 1, "ip").burst) == (143, 858)
    assert (Rate(1, 300, "ip").interval, Rate(1, 300, "ip").burst) == (300_000, 0)
    assert Rate(5000, 1, "ip").interval == 1


INVALID_RATES = """
    10;10/m;m/ip;0/m/ip;10/0m/ip;-1/m/ip;10/m/ip,;10/w/ip;10/m/IP;10/m/ip 5/m/ip;٣/m/ip;1e3/m/ip;10/m/;10//ip;,
    10/m/ip/account;9999999/m/ip;10/m/ip,,10/m/ip
"""


@pytest.mark.parametrize("text", INVALID_RATES.strip().replace("\n", ";").split(";"))
def test_an_invalid_rate_is_rejected(text: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=r'is not a rate\. Write "10/m/ip"'):
        parse_rates(text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rates": {"logins": "5/m/ip"}}, "There is no rate 'logins'. Use one of login, password_change, "),
        ({"rates": {"login": "often"}}, "'often' is not a rate"),
        ({"free_failures": 0}, "pass enabled=False"),
        ({"longest_wait": 0}, "pass enabled=False"),
        ({"max_failures": 5}, "max_failures must be greater than free_failures. Pass max_failures=100"),
    ],
)
async def test_invalid_options_are_rejected(auth: Auth, clock: Clock, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        make_throttle(auth, clock, **options)


async def test_a_rate_with_an_unknown_scope_is_rejected(auth: Auth, clock: Clock) -> None:
    throttle = make_throttle(auth, clock, rates={"register": "5/m/ip, 5/m/planet"})
    with pytest.raises(ImproperlyConfigured, match=r"has the scope 'planet'\. Use ip or account there"):
        await throttle.hit("register", ip=ADDRESS, account="ann")
