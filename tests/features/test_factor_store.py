"""Tests of stored second factors: at rest, used once, replaced, sealed again, and deleted with the user."""

import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest
import sqlalchemy as sa

from starlette_auth import Auth, ImproperlyConfigured, TwoFactor, User
from starlette_auth.features.two_factor.recovery_codes import hash_code, new_code, normalize
from starlette_auth.features.two_factor.store import Factors, FactorStore
from starlette_auth.features.two_factor.totp import code_at, step_at
from starlette_auth.testing import FrozenClock

from ..conftest import SECRET_KEY, all_of, any_database, installed

OLD_KEY = f"old {SECRET_KEY}"
SECRET = b"12345678901234567890"


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    async with installed(database, features=[TwoFactor()], clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
def store(auth: Auth) -> FactorStore:
    return feature_of(auth).store


def feature_of(auth: Auth) -> TwoFactor:
    feature = auth.features[0]
    assert isinstance(feature, TwoFactor)
    return feature


def clock_of(auth: Auth) -> FrozenClock:
    assert isinstance(auth.clock, FrozenClock)
    return auth.clock


def code_of(auth: Auth, steps: int = 0) -> str:
    return code_at(SECRET, step_at(auth.clock()) + steps)


async def add(store: FactorStore, user: User) -> None:
    """Adds an app that was proved with a code of two steps ago."""
    assert await store.add_totp(user, SECRET, step_at(store.clock()) - 2)


async def rows_of(auth: Auth) -> list[dict[str, Any]]:
    return [row for table in feature_of(auth)._tables for row in await auth.gateway.fetch_all(sa.select(table))]


async def test_a_code_is_accepted_once(auth: Auth, store: FactorStore, ann: User) -> None:
    await add(store, ann)
    assert await store.use_totp(ann, code_of(auth))
    assert not await store.use_totp(ann, code_of(auth))
    assert not await store.use_totp(ann, code_of(auth, -1))  # older than the last one
    clock_of(auth).tick(30)
    assert not await store.use_totp(ann, code_of(auth, -1))
    assert await store.use_totp(ann, code_of(auth))


async def test_the_code_that_proved_the_app_is_not_accepted_again(auth: Auth, store: FactorStore, ann: User) -> None:
    assert await store.add_totp(ann, SECRET, step_at(auth.clock()))
    assert not await store.use_totp(ann, code_of(auth))


async def test_a_wrong_code_changes_nothing(auth: Auth, store: FactorStore, ann: User) -> None:
    await add(store, ann)
    before = await rows_of(auth)
    assert not await store.use_totp(ann, code_of(auth, 1))
    assert not await store.use_recovery_code(ann, new_code())
    assert await rows_of(auth) == before


async def test_the_codes_of_another_user_are_wrong(auth: Auth, store: FactorStore, ann: User) -> None:
    ben = await auth.users.create_user("ben")
    await add(store, ann)
    [code] = await store.make_recovery_codes(ann, 1)
    assert not await store.use_totp(ben, code_of(auth))
    assert not await store.use_recovery_code(ben, code)
    assert await store.use_totp(ann, code_of(auth))
    assert await store.use_recovery_code(ann, code)


async def test_there_is_one_app_for_each_user(auth: Auth, store: FactorStore, ann: User) -> None:
    added = await all_of(*(store.add_totp(ann, SECRET, number) for number in range(10)))
    assert sorted(added) == [False] * 9 + [True]
    assert len(await rows_of(auth)) == 1


async def test_the_factors_of_a_user(auth: Auth, store: FactorStore, ann: User) -> None:
    assert await store.factors(ann) == Factors()
    await add(store, ann)
    codes = await store.make_recovery_codes(ann, 10)
    added = store.now()
    assert await store.factors(ann) == Factors(totp_since=added, recovery_codes=10)
    clock_of(auth).tick(60)
    assert await store.use_recovery_code(ann, codes[3])
    assert await store.use_totp(ann, code_of(auth))
    assert await store.factors(ann) == Factors(totp_since=added, totp_last_used=added + 60, recovery_codes=9)
    assert await store.remove_all(ann)
    assert not await store.remove_all(ann)
    assert await store.factors(ann) == Factors()
    assert await rows_of(auth) == []


async def test_each_recovery_code_is_used_once(auth: Auth, store: FactorStore, ann: User) -> None:
    codes = await store.make_recovery_codes(ann, 10)
    assert len(set(codes)) == 10
    for number, code in enumerate(codes):
        typed = (code, code.upper(), code.replace("-", " "), code.replace("0", "O").replace("1", "l"))[number % 4]
        assert await store.use_recovery_code(ann, typed)
        assert not await store.use_recovery_code(ann, code)
        assert await store.recovery_codes_left(ann) == 9 - number


async def test_new_recovery_codes_replace_the_earlier_ones(auth: Auth, store: FactorStore, ann: User) -> None:
    old = await store.make_recovery_codes(ann, 3)
    new = await store.make_recovery_codes(ann, 2)
    assert [await store.use_recovery_code(ann, code) for code in old] == [False] * 3
    assert [await store.use_recovery_code(ann, code) for code in new] == [True] * 2


async def test_of_codes_made_at_the_same_moment_those_of_one_request_are_valid(
    auth: Auth, store: FactorStore, ann: User
) -> None:
    made = await all_of(*(store.make_recovery_codes(ann, 3) for _ in range(5)))
    assert await store.recovery_codes_left(ann) == 3
    valid = [[await store.use_recovery_code(ann, code) for code in codes] for codes in made]
    assert sorted(valid) == [[False] * 3] * 4 + [[True] * 3]


async def test_the_database_contains_no_code_and_no_secret(auth: Auth, store: FactorStore, ann: User) -> None:
    await add(store, ann)
    codes = await store.make_recovery_codes(ann, 10)
    rows = await rows_of(auth)
    values = [value for row in rows for value in row.values() if isinstance(value, str)]
    assert len(values) == 11
    for value in values:
        assert not await store.use_recovery_code(ann, value)
        assert not await store.use_totp(ann, value)
        assert SECRET.decode() not in value
        assert not any(code in value or (normalize(code) or "") in value for code in codes)


async def test_a_row_copied_to_another_user_opens_nothing(
    auth: Auth, store: FactorStore, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    ben = await auth.users.create_user("ben")
    await add(store, ann)
    [code] = await store.make_recovery_codes(ann, 1)
    for table in feature_of(auth)._tables:
        await auth.gateway.execute(sa.update(table).values(user_id=ben.id))
    assert not await store.use_totp(ben, code_of(auth))
    assert not await store.use_recovery_code(ben, code)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert f"user {ben.id}" in caplog.text


@any_database
async def test_a_right_code_seals_the_secret_with_the_new_key(database: Any) -> None:
    async with installed(database, features=[TwoFactor(keys=OLD_KEY)], clock=FrozenClock()) as auth:
        ann = await auth.users.create_user("ann")
        await add(feature_of(auth).store, ann)
        for keys, is_right in (([SECRET_KEY, OLD_KEY], True), ([SECRET_KEY], True), ([OLD_KEY], False)):
            clock_of(auth).tick(30)
            async with installed(database, features=[TwoFactor(keys=keys)], clock=clock_of(auth)) as later:
                assert await feature_of(later).store.use_totp(ann, code_of(auth)) is is_right


@any_database
async def test_reseal_seals_all_secrets_and_counts_the_lost_ones(
    database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with installed(database, features=[TwoFactor(keys=OLD_KEY)], clock=FrozenClock()) as auth:
        ann, ben, eve = [await auth.users.create_user(name) for name in ("ann", "ben", "eve")]
        for user in (ann, ben):
            await add(feature_of(auth).store, user)
        async with installed(database, features=[TwoFactor(keys=f"x {SECRET_KEY}")], clock=auth.clock) as other:
            await add(feature_of(other).store, eve)
        keys = [SECRET_KEY, OLD_KEY]
        async with installed(database, features=[TwoFactor(keys=keys)], clock=auth.clock) as rotated:
            store = feature_of(rotated).store
            assert await store.reseal() == (2, 1)
            assert await store.reseal() == (0, 1)
        async with installed(database, features=[TwoFactor(keys=SECRET_KEY)], clock=auth.clock) as new:
            assert [await feature_of(new).store.use_totp(user, code_of(auth)) for user in (ann, ben, eve)] == [
                *(True, True, False)
            ]


@any_database
async def test_with_a_lost_key_the_app_is_refused_and_recovery_codes_still_work(
    database: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with installed(database, features=[TwoFactor(keys=OLD_KEY)], clock=FrozenClock()) as auth:
        ann = await auth.users.create_user("ann")
        await add(feature_of(auth).store, ann)
        [code] = await feature_of(auth).store.make_recovery_codes(ann, 1)
        async with installed(database, features=[TwoFactor(keys=SECRET_KEY)], clock=auth.clock) as later:
            store = feature_of(later).store
            assert not await store.use_totp(ann, code_of(auth))
            assert "none of the secret keys" in caplog.text
            assert (await store.factors(ann)).has_totp  # it does not fail open
            assert await store.use_recovery_code(ann, code)


@pytest.mark.parametrize("by_django", [False, True])
async def test_the_factors_end_with_the_user(auth: Auth, store: FactorStore, ann: User, by_django: bool) -> None:
    ben = await auth.users.create_user("ben")
    for user in (ann, ben):
        await add(store, user)
        await store.make_recovery_codes(user, 2)
    if by_django:  # which knows nothing of our tables
        await auth.gateway.execute(sa.delete(auth.tables.user).where(auth.tables.user_key == ann.id))
    else:
        await auth.users.delete(ann)
    assert {row["user_id"] for row in await rows_of(auth)} == {ben.id}
    assert len(await rows_of(auth)) == 3


@pytest.mark.parametrize(
    "text",
    ["", "x", "0" * 23, "0" * 25, "u" * 24, "é" * 24, "0" * 23 + "\x00", "\ud800" * 24, "0" * 23 + "İ"],
)
def test_other_texts_are_no_recovery_codes(text: str) -> None:
    assert normalize(text) is None


def test_recovery_codes_can_be_read_and_typed() -> None:
    code = new_code()
    assert len(code) == 29
    assert [len(group) for group in code.split("-")] == [4] * 6
    assert normalize(code) == code.replace("-", "")
    assert normalize("oOiI lL01" + "a" * 16) == "001111" + "01" + "a" * 16
    assert hash_code("user 1", "a") != hash_code("user 2", "a")


@pytest.mark.parametrize(
    "options",
    [{"recovery_codes": 0}, {"recovery_codes": 51}, {"drift": -1}, {"drift": 11}, {"issuer": 1}, {"keys": []}],
)
def test_wrong_arguments_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ImproperlyConfigured):
        TwoFactor(**options)


@any_database
async def test_a_weak_key_is_refused_for_a_public_site(database: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="too weak"):
        Auth(database, secret_key=SECRET_KEY, base_url="https://shop.example", features=[TwoFactor(keys="weak")])
