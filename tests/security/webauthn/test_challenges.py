"""Tests of challenges: to what they are bound, how long they are valid, and that each is used once."""

import itertools
from typing import Any

import pytest
import sqlalchemy as sa

from starlette_auth import Auth
from starlette_auth.core.signing import SecretKeys
from starlette_auth.security.tokens import Tokens
from starlette_auth.security.webauthn.challenges import CLOCK_SKEW, Challenges
from starlette_auth.testing import FrozenClock

from ...conftest import SECRET_KEY, all_of, any_database, with_tables

pytestmark = with_tables
OLD_KEY = "an older key, which was replaced a year ago: 0123456789"
#: Each differs from the others in the purpose, the browser or the user. Joined, some of them are the same text.
CONTEXTS = [
    ("login", "browser a", ""),
    ("second_factor", "browser a", ""),
    ("login", "browser b", ""),
    ("login", "browser a", "1"),
    ("login", "browser", " a1"),
    ("login", "browser a1", ""),
]


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def challenges(auth: Auth, clock: FrozenClock) -> Challenges:
    return make_challenges(auth, clock, SECRET_KEY)


def make_challenges(auth: Auth, clock: FrozenClock, *secret_keys: str) -> Challenges:
    tokens = Tokens(auth.gateway, table=auth.tables.token, keys=SecretKeys(secret_keys), clock=clock)
    return Challenges(tokens)


async def number_of_rows(auth: Auth) -> int:
    return len(await auth.gateway.fetch_all(sa.select(auth.tables.token.c.token_hash)))


@any_database
@pytest.mark.parametrize(("made", "used"), list(itertools.product(range(len(CONTEXTS)), repeat=2)))
async def test_a_challenge_is_for_one_purpose_browser_and_user(challenges: Challenges, made: int, used: int) -> None:
    purpose, browser, user = CONTEXTS[made]
    challenge = challenges.make(purpose, browser=browser, user=user)
    purpose, browser, user = CONTEXTS[used]
    is_same = made == used
    assert challenges.is_valid(challenge, purpose, browsers=[browser], user=user) is is_same
    assert await challenges.use(challenge, purpose, browsers=[browser], user=user) is is_same


@any_database
async def test_a_browser_may_have_several_secrets(challenges: Challenges) -> None:
    challenge = challenges.make("login", browser="a")
    assert challenges.is_valid(challenge, "login", browsers=["b", "a"])
    assert not challenges.is_valid(challenge, "login", browsers=["b", "c"])
    assert not challenges.is_valid(challenge, "login", browsers=[])


@any_database
async def test_a_challenge_ends(challenges: Challenges, clock: FrozenClock) -> None:
    short, long = challenges.make("login", browser="a"), challenges.make("login", browser="a", max_age=3600)
    clock.tick(299)
    assert challenges.is_valid(short, "login", browsers=["a"])
    clock.tick(1)
    assert not challenges.is_valid(short, "login", browsers=["a"])
    assert not await challenges.use(short, "login", browsers=["a"])
    clock.tick(3299)
    assert challenges.is_valid(long, "login", browsers=["a"])
    clock.tick(1)
    assert not challenges.is_valid(long, "login", browsers=["a"])


@any_database
async def test_a_changed_challenge_is_refused(challenges: Challenges) -> None:
    challenge = challenges.make("login", browser="a")
    assert len(challenge) == 72
    for index in range(len(challenge)):
        changed = bytearray(challenge)
        changed[index] ^= 1
        assert not challenges.is_valid(bytes(changed), "login", browsers=["a"]), index
    for text in (b"", challenge[:-1], challenge + b"\0", challenge[:40], b"\xff" * 72):
        assert not challenges.is_valid(text, "login", browsers=["a"])
    assert challenge != challenges.make("login", browser="a")


@any_database
async def test_a_challenge_of_an_older_key_is_valid_while_that_key_is(auth: Auth, clock: FrozenClock) -> None:
    challenge = make_challenges(auth, clock, OLD_KEY).make("login", browser="a")
    assert make_challenges(auth, clock, SECRET_KEY, OLD_KEY).is_valid(challenge, "login", browsers=["a"])
    assert not make_challenges(auth, clock, SECRET_KEY).is_valid(challenge, "login", browsers=["a"])


async def test_only_used_challenges_are_stored(auth: Auth, challenges: Challenges) -> None:
    all_made = [challenges.make("login", browser="a") for _ in range(10)]
    assert not await challenges.use(all_made[0], "login", browsers=["b"])
    assert await number_of_rows(auth) == 0
    assert await challenges.use(all_made[0], "login", browsers=["a"])
    assert await number_of_rows(auth) == 1
    assert not await challenges.use(all_made[0], "login", browsers=["a"])
    assert await challenges.use(all_made[1], "login", browsers=["a"])


async def test_one_of_100_concurrent_requests_uses_a_challenge(challenges: Challenges) -> None:
    for _ in range(2):
        challenge = challenges.make("login", browser="a")
        results = await all_of(*(challenges.use(challenge, "login", browsers=["a"]) for _ in range(100)))
        assert sorted(results) == [False] * 99 + [True]


async def test_a_used_challenge_is_kept_until_it_has_ended_on_every_server(
    auth: Auth, challenges: Challenges, clock: FrozenClock
) -> None:
    challenge = challenges.make("login", browser="a")
    assert await challenges.use(challenge, "login", browsers=["a"])
    late = make_challenges(auth, FrozenClock(clock.now - CLOCK_SKEW + 1), SECRET_KEY)
    clock.tick(300 + CLOCK_SKEW - 1)
    await challenges.tokens.clear_expired()
    assert not await late.use(challenge, "login", browsers=["a"])
    clock.tick(1)
    await challenges.tokens.clear_expired()
    assert await number_of_rows(auth) == 0


async def test_a_transaction_that_finds_a_used_challenge_goes_on(auth: Auth, challenges: Challenges) -> None:
    challenge = challenges.make("login", browser="a")

    async def work() -> list[Any]:
        used = [await challenges.use(challenge, "login", browsers=["a"]) for _ in range(2)]
        return [*used, await number_of_rows(auth)]

    assert await auth.gateway.run_in_transaction(work) == [True, False, 1]


async def test_a_rollback_makes_a_challenge_usable_again(auth: Auth, challenges: Challenges) -> None:
    challenge = challenges.make("login", browser="a")

    async def fail() -> None:
        async with auth.gateway.atomic():
            assert await challenges.use(challenge, "login", browsers=["a"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail()
    assert await challenges.use(challenge, "login", browsers=["a"])
