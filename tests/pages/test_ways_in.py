"""The last way to log in to an account stays, however many are removed at the same moment (attack 39)."""

import asyncio
import dataclasses
import sys
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from starlette_auth import Auth, User
from starlette_auth.core.exceptions import Refused
from starlette_auth.pages.ways_in import lock_factors, remove_way_in

from ..conftest import installed
from ..features.test_passkey_store import CREDENTIAL
from ..support.removing import StoredPasskeys
from ..support.server import ROOT

NUMBER = 20


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    async with installed(database, features=[StoredPasskeys()]) as auth:
        yield auth


@pytest.fixture
def feature(auth: Auth) -> StoredPasskeys:
    feature = auth.features[0]
    assert isinstance(feature, StoredPasskeys)
    return feature


@pytest.fixture
async def ben(auth: Auth) -> User:
    """A user without a password."""
    user: User = await auth.users.create_user("ben", "ben@example.org")
    return user


async def add(feature: StoredPasskeys, user: User, number: int) -> list[int]:
    """Stores passkeys of a user, and returns their primary keys."""
    credentials = [dataclasses.replace(CREDENTIAL, credential_id=b"passkey %d" % index) for index in range(number)]
    return [(await feature.store.insert(user, credential, "")).id for credential in credentials]


async def test_of_many_removals_at_the_same_moment_one_way_is_left(
    auth: Auth, feature: StoredPasskeys, ben: User
) -> None:
    ids = await add(feature, ben, NUMBER)
    assert await feature.remove_all(ben, ids) == NUMBER - 1
    assert await auth.ways_in(ben) == ["passkey"]


async def test_of_removals_in_two_processes_one_way_is_left(
    auth: Auth, feature: StoredPasskeys, ben: User, database_url: str
) -> None:
    ids = await add(feature, ben, 2 * 5)
    processes = [await removing(database_url, ben, part) for part in (ids[::2], ids[1::2])]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    results = [await process.communicate(b"go\n") for process in processes]
    assert sum(int(output) for output, _ in results) == 9, results
    assert len(await auth.ways_in(ben)) == 1


async def removing(url: str, user: User, ids: Sequence[int]) -> asyncio.subprocess.Process:
    arguments = ["-m", "tests.support.removing", url, str(user.id), *map(str, ids)]
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdin=pipe, stdout=pipe, stderr=None
    )


async def test_a_password_and_a_passkey_removed_at_the_same_moment_leave_one(
    auth: Auth, feature: StoredPasskeys, ann: User
) -> None:
    [passkey] = await add(feature, ann, 1)
    read_before = await auth.users.get(ann.id)
    assert read_before is not None

    async def remove_password() -> bool:
        user = await auth.users.get(ann.id)
        assert user is not None
        await auth.users.set_password(user, None)
        return True

    async def try_to_remove_password() -> bool:
        try:
            return await remove_way_in(auth, ann, remove_password)
        except Refused:
            return False

    removed = await asyncio.gather(try_to_remove_password(), feature.remove(read_before, passkey))
    assert sorted(removed) == [False, True]
    current = await auth.users.get(ann.id)
    assert current is not None
    assert await auth.ways_in(current) == (["passkey"] if removed[0] else ["password"])


async def test_a_password_that_was_removed_meanwhile_counts_no_more(
    auth: Auth, feature: StoredPasskeys, ann: User
) -> None:
    """The user object of a request may be older than the last change of the password."""
    [passkey] = await add(feature, ann, 1)
    old = await auth.users.get(ann.id)
    assert old is not None
    await auth.users.set_password(ann, None)
    assert old.has_usable_password()
    assert not await feature.remove(old, passkey)


async def test_the_refusal_names_what_to_do(auth: Auth, feature: StoredPasskeys, ben: User) -> None:
    [passkey] = await add(feature, ben, 1)
    with pytest.raises(Refused, match="Add another one first") as refused:
        await remove_way_in(auth, ben, lambda: feature.store.delete(ben, passkey))
    assert (refused.value.status_code, refused.value.code) == (409, "last_way_in")
    assert [row.id for row in await feature.store.list(ben)] == [passkey]


async def test_what_removed_nothing_is_no_removal_of_the_last_way(
    auth: Auth, feature: StoredPasskeys, ben: User
) -> None:
    assert not await remove_way_in(auth, ben, lambda: feature.store.delete(ben, 1))


async def test_a_deleted_user_has_no_last_way(auth: Auth, feature: StoredPasskeys, ben: User) -> None:
    await auth.users.delete(ben)

    async def remove() -> bool:
        return True

    assert await remove_way_in(auth, ben, remove)


async def test_the_passkeys_of_another_user_are_no_way_in(
    auth: Auth, feature: StoredPasskeys, ann: User, ben: User
) -> None:
    [first] = await add(feature, ben, 1)
    assert not await feature.remove(ann, first)
    assert not await feature.remove(ben, first)


@pytest.mark.parametrize("is_deleted", [False, True], ids=["another password", "deleted"])
async def test_no_factor_is_added_to_an_account_that_its_owner_has_taken_back(
    auth: Auth, ben: User, is_deleted: bool
) -> None:
    """An attacker adds a factor at the moment of a reset."""
    before = await auth.users.get(ben.id)
    assert before is not None
    async with auth.gateway.atomic():
        await lock_factors(auth, before)
    if is_deleted:
        await auth.users.delete(ben)
    else:
        await auth.users.set_password(ben, "another long password of the owner")
    with pytest.raises(Refused) as refused:
        async with auth.gateway.atomic():
            await lock_factors(auth, before)
    assert (refused.value.status_code, refused.value.code) == (409, "account_changed")
