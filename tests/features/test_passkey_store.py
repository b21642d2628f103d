"""Tests of the table of passkeys: what it stores, whose each passkey is, and what happens at the same moment."""

import dataclasses
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from starlette_auth import Auth, Feature, Tables, User
from starlette_auth.core.exceptions import IntegrityError
from starlette_auth.core.signing import SecretKeys
from starlette_auth.features.passkeys.store import PasskeyStore, passkey_table
from starlette_auth.security.webauthn.credentials import Credential, CredentialRefused, find_signing_key, read_response
from starlette_auth.security.webauthn.relying_party import Assertion, RelyingParty
from starlette_auth.testing import FrozenClock, SoftPasskey

from ..conftest import SECRET_KEY, all_of, installed

OLD_KEY = "an older key, which was replaced a year ago: 0123456789"
CREDENTIAL = Credential(
    credential_id=b"\xff\x00 an ID",
    public_key=b"\xa5\x01 a key",
    sign_count=0,
    user_handle=b"h" * 32,
    aaguid="00000000-0000-0000-0000-000000000000",
    transports=("hybrid", "internal"),
    verified=True,
    backup_eligible=False,
    backed_up=False,
)


class HasTable(Feature):
    """Only the table of the feature."""

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        self.table = passkey_table(tables)
        return (self.table,)


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    async with installed(database, features=[HasTable()], clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
def store(auth: Auth) -> PasskeyStore:
    return store_of(auth)


def store_of(auth: Auth) -> PasskeyStore:
    feature = auth.features[0]
    assert isinstance(feature, HasTable)
    return PasskeyStore(auth, feature.table)


def use(count: int, *, backed_up: bool = False, has_old_mac: bool = False) -> Assertion:
    return Assertion(sign_count=count, backed_up=backed_up, verified=True, count_fell=False, has_old_mac=has_old_mac)


def numbered(number: int, **fields: Any) -> Credential:
    return dataclasses.replace(CREDENTIAL, credential_id=b"passkey %d" % number, **fields)


async def test_a_passkey_is_found_with_its_user(store: PasskeyStore, ann: User) -> None:
    inserted = await store.insert(ann, CREDENTIAL, "Laptop")
    found = await store.find(CREDENTIAL.credential_id)
    assert found is not None
    passkey, user = found
    assert passkey == inserted
    assert (passkey.credential, passkey.name, passkey.last_used) == (CREDENTIAL, "Laptop", None)
    assert (passkey.created, user.id) == (1_800_000_000, ann.id)
    assert find_signing_key(store.keys, passkey.stored) == 0
    assert await store.find(b"another") is None


async def test_ids_that_differ_in_case_only_are_two(store: PasskeyStore, ann: User) -> None:
    for credential_id in (b"\x00\x00\x00", b"\x68\xa6\x9a"):  # AAAA and aaaa
        await store.insert(ann, dataclasses.replace(CREDENTIAL, credential_id=credential_id), "")
    found = await store.find(b"\x00\x00\x00")
    assert found is not None
    assert found[0].credential.credential_id == b"\x00\x00\x00"


async def test_a_credential_belongs_to_one_user(auth: Auth, store: PasskeyStore, ann: User) -> None:
    """Attack 26: an attacker registers the passkey of another user."""
    ben = await auth.users.create_user("ben")
    await store.insert(ann, CREDENTIAL, "Ann's")
    with pytest.raises(IntegrityError):
        await store.insert(ben, dataclasses.replace(CREDENTIAL, public_key=b"another key"), "Ben's")
    found = await store.find(CREDENTIAL.credential_id)
    assert found is not None
    assert (found[0].name, found[1].id) == ("Ann's", ann.id)
    assert await store.list(ben) == []


async def test_a_user_lists_renames_and_deletes_only_own_passkeys(auth: Auth, store: PasskeyStore, ann: User) -> None:
    ben = await auth.users.create_user("ben")
    first, second = [await store.insert(ann, numbered(number), f"Key {number}") for number in (1, 2)]
    assert await store.list(ann) == await store.list_latest(ann) == [first, second]
    assert not await store.rename(ben, first.id, "Mine")
    assert not await store.delete(ben, first.id)
    assert await store.rename(ann, first.id, "Phone")
    assert await store.rename(ann, first.id, "Phone")
    assert await store.delete(ann, second.id)
    assert not await store.delete(ann, second.id)
    assert [passkey.name for passkey in await store.list(ann)] == ["Phone"]


@pytest.mark.parametrize(
    ("backup_eligible", "last_count", "count", "is_recorded"),
    [
        (False, 0, 0, True),
        (False, 0, 1, True),
        (False, 5, 6, True),
        (False, 5, 5, False),
        (False, 5, 4, False),
        (False, 5, 0, False),
        (True, 0, 0, True),
        (True, 5, 5, True),
        (True, 5, 0, True),
    ],
)
async def test_a_use_is_recorded_if_the_counter_rises(
    auth: Auth, store: PasskeyStore, ann: User, backup_eligible: bool, last_count: int, count: int, is_recorded: bool
) -> None:
    credential = numbered(1, backup_eligible=backup_eligible, sign_count=last_count)
    passkey = await store.insert(ann, credential, "")
    other = await store.insert(ann, numbered(2), "")
    assert isinstance(auth.clock, FrozenClock)
    auth.clock.tick(60)
    assert await store.record_use(passkey, use(count, backed_up=backup_eligible)) is is_recorded
    if is_recorded and count <= last_count:
        assert await store.record_use(passkey, use(count, backed_up=backup_eligible))  # in the same second
    after, unchanged = await store.list(ann)
    assert after.credential.sign_count == (count if is_recorded else last_count)
    assert after.last_used == (1_800_000_060 if is_recorded else None)
    assert after.credential.backed_up is (backup_eligible and is_recorded)
    assert unchanged == other
    assert find_signing_key(store.keys, after.stored) == 0


async def test_one_of_100_concurrent_logins_with_one_counter_is_recorded(store: PasskeyStore, ann: User) -> None:
    passkey = await store.insert(ann, CREDENTIAL, "")
    results = await all_of(*(store.record_use(passkey, use(1)) for _ in range(100)))
    assert sorted(results) == [False] * 99 + [True]


async def test_a_use_signs_a_row_of_an_older_key_anew(store: PasskeyStore, ann: User) -> None:
    store.keys = SecretKeys(OLD_KEY)
    passkey = await store.insert(ann, CREDENTIAL, "")
    store.keys = SecretKeys([SECRET_KEY, OLD_KEY])
    assert find_signing_key(store.keys, passkey.stored) == 1
    await store.record_use(passkey, use(1))
    await store.record_use(passkey, use(2, has_old_mac=True))
    (after,) = await store.list(ann)
    assert find_signing_key(store.keys, after.stored) == 0


async def test_passkeys_end_with_their_user(auth: Auth, store: PasskeyStore, ann: User) -> None:
    await store.insert(ann, CREDENTIAL, "")
    await auth.users.delete(ann)
    assert await auth.gateway.fetch_all(sa.select(store.table.c.id)) == []


async def test_a_program_that_does_not_know_the_table_deletes_users(
    auth: Auth, store: PasskeyStore, ann: User, database_url: str
) -> None:
    """Django's admin does so."""
    await store.insert(ann, CREDENTIAL, "")
    async with auth.gateway.single_connection():
        if auth.gateway.dialect == "sqlite":
            await auth.gateway.execute(sa.text("PRAGMA foreign_keys = ON"))  # as in Django
        await auth.gateway.execute(
            sa.delete(auth.tables.user).where(auth.tables.user_key == sa.bindparam("key")), key=ann.id
        )
        assert await auth.gateway.fetch_all(sa.select(store.table.c.id)) == []


async def test_a_stolen_table_logs_nobody_in(auth: Auth, store: PasskeyStore, ann: User) -> None:
    """Attack 17: an attacker who reads the row cannot sign, and one who writes it has no secret key."""
    passkey = SoftPasskey(origin="http://localhost")
    party = RelyingParty("localhost", origins=["http://localhost"], name="", keys=auth.keys)
    options = party.creation_options(b"c", user_handle=b"h" * 32, username="mallory")
    created = read_response(passkey.create(options))
    credential = party.verify_creation(created, is_our_challenge=lambda _: True, user_handle=b"h" * 32)
    mallory = await auth.users.create_user("mallory")
    own = await store.insert(mallory, credential, "")
    move = sa.update(store.table).values(user_id=sa.bindparam("to")).where(store.table.c.id == sa.bindparam("number"))
    await auth.gateway.execute(move, to=ann.id, number=own.id)
    found = await store.find(passkey.credential_id)
    assert found is not None
    assert found[1].id == ann.id
    signed = read_response(passkey.sign(party.request_options(b"c")))
    with pytest.raises(CredentialRefused, match="was changed"):
        party.verify_assertion(signed, found[0].stored, is_our_challenge=lambda _: True, user=None)
