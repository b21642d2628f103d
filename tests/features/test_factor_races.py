"""Second factors at the same moment, on every database: each code is accepted once."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from starlette_auth import Auth, TwoFactor, User
from starlette_auth.features.two_factor.store import FactorStore
from starlette_auth.features.two_factor.totp import code_at, step_at
from starlette_auth.security.webauthn.challenges import Challenges
from starlette_auth.testing import FrozenClock

from ..conftest import all_of, installed
from ..support.server import ROOT
from .test_factor_store import feature_of

SECRET = b"12345678901234567890"
NEW_SECRET = b"09876543210987654321"
NUMBER = 100


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    async with installed(database, features=[TwoFactor()], clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
def store(auth: Auth) -> FactorStore:
    return feature_of(auth).store


async def test_attack_15_one_code_of_an_app_is_accepted_once(auth: Auth, store: FactorStore, ann: User) -> None:
    step = step_at(auth.clock())
    await store.add_totp(ann, SECRET, step - 2)
    code = code_at(SECRET, step)
    assert sum(await all_of(*(store.use_totp(ann, code) for _ in range(NUMBER)))) == 1


async def test_two_codes_of_an_app_are_each_accepted_at_most_once(auth: Auth, store: FactorStore, ann: User) -> None:
    step = step_at(auth.clock())
    await store.add_totp(ann, SECRET, step - 2)
    codes = [code_at(SECRET, step - number % 2) for number in range(NUMBER)]
    accepted = await all_of(*(store.use_totp(ann, code) for code in codes))
    assert [sum(accepted[start::2]) for start in (0, 1)] in ([1, 0], [1, 1])


async def test_attack_16_one_recovery_code_is_accepted_once(store: FactorStore, ann: User) -> None:
    codes = await store.make_recovery_codes(ann, 2)
    assert sum(await all_of(*(store.use_recovery_code(ann, codes[0]) for _ in range(NUMBER)))) == 1
    assert await store.recovery_codes_left(ann) == 1


async def test_a_code_used_while_new_ones_are_made_does_not_stay(store: FactorStore, ann: User) -> None:
    for _ in range(5):
        [old] = await store.make_recovery_codes(ann, 1)
        uses = [store.use_recovery_code(ann, old) for _ in range(10)]
        *used, [new] = await all_of(*uses, store.make_recovery_codes(ann, 1))
        assert sum(used) <= 1
        assert not await store.use_recovery_code(ann, old)
        assert await store.use_recovery_code(ann, new)


# From two processes


async def race_of_two(auth: Auth, url: str, race: str, argument: str) -> int:
    """Returns how many of 100 uses in two processes succeed."""
    job = {"url": url, "now": auth.clock(), "race": race, "argument": argument, "number": NUMBER // 2}
    command = [sys.executable, "-m", "tests.support.factor_racers", json.dumps(job)]
    pipe = asyncio.subprocess.PIPE
    racers = [await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdin=pipe, stdout=pipe) for _ in range(2)]
    for racer in racers:
        assert racer.stdout is not None
        assert await racer.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(racer.communicate(b"go\n") for racer in racers))
    return sum(int(output) for output, _ in outputs)


async def test_attack_15_two_processes_accept_one_code_of_an_app_once(
    auth: Auth, store: FactorStore, ann: User, database_url: str
) -> None:
    step = step_at(auth.clock())
    await store.add_totp(ann, SECRET, step - 2)
    assert await race_of_two(auth, database_url, "use_totp", code_at(SECRET, step)) == 1
    assert not await store.use_totp(ann, code_at(SECRET, step))


async def test_attack_16_two_processes_accept_one_recovery_code_once(
    auth: Auth, store: FactorStore, ann: User, database_url: str
) -> None:
    codes = await store.make_recovery_codes(ann, 2)
    assert await race_of_two(auth, database_url, "use_recovery_code", codes[0]) == 1
    assert await store.recovery_codes_left(ann) == 1


async def test_attack_24_two_processes_use_one_challenge_up_once(auth: Auth, ann: User, database_url: str) -> None:
    challenge = Challenges(auth.tokens).make("login", browser="a browser")
    assert await race_of_two(auth, database_url, "use_challenge", challenge.hex()) == 1
    assert not await Challenges(auth.tokens).use(challenge, "login", browsers=["a browser"])


class ExchangedMeanwhile(FactorStore):
    """Exchanges the app after it was read, and before its code is used."""

    async def _find_app(self, user: User) -> Any:
        app = await super()._find_app(user)
        await self.remove_all(user)
        assert await self.add_totp(user, NEW_SECRET, 0)
        return app


async def test_a_code_of_the_old_app_is_refused_while_the_app_is_exchanged(
    auth: Auth, store: FactorStore, ann: User
) -> None:
    await store.add_totp(ann, SECRET, 0)
    step = step_at(auth.clock())
    store.__class__ = ExchangedMeanwhile
    assert not await store.use_totp(ann, code_at(SECRET, step))
    store.__class__ = FactorStore
    assert await store.use_totp(ann, code_at(NEW_SECRET, step))
