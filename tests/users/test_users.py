"""Tests of reading, creating, changing and deleting users on each database."""

import asyncio
import threading
import traceback
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import argon2
import bcrypt
import pytest
import sqlalchemy as sa
from blockbuster import BlockBuster
from databases import Database

from starlette_auth import (
    AlreadyExists,
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    DoesNotExist,
    IntegrityError,
    MD5PasswordHasher,
    PasswordChanged,
    Passwords,
    PBKDF2PasswordHasher,
    SessionBase,
    Tables,
    UnstorableValue,
    User,
    UserCreated,
    UserDeleted,
    Users,
    migrate,
    user_columns,
)
from starlette_auth.core.text import normalize_username

from ..conftest import PASSWORD, installed, with_tables

pytestmark = with_tables


@pytest.fixture(autouse=True)
def _pools_may_grow(blockbuster: BlockBuster) -> None:
    """Allows the blocking file access of asyncpg when it opens a connection."""
    for function in blockbuster.functions.values():
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")


class RecordingDriver:
    """Wraps a driver and records its statements."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver
        self.statements: list[str] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.driver, name)
        if name not in ("fetch", "execute", "insert"):
            return method

        async def record(raw: Any, sql: str, arguments: Any) -> Any:
            self.statements.append(sql)
            return await method(raw, sql, arguments)

        return record


@pytest.fixture
def statements(auth: Auth) -> Iterator[list[str]]:
    recording = RecordingDriver(auth.gateway.driver)
    auth.gateway.driver = recording
    yield recording.statements
    auth.gateway.driver = recording.driver


async def stored(auth: Auth, user: User) -> Any:
    """Reads the user from the database again."""
    return await auth.users.get(user.id)


def has_lax_collation(auth: Auth) -> bool:
    """Returns whether the database treats some different names as equal, as the collations of MariaDB do."""
    return auth.gateway.dialect == "mysql"


# Creating


async def test_a_new_user_has_the_same_values_as_in_django(auth: Auth) -> None:
    before = datetime.now(UTC)
    created = await auth.users.create_user("ann", "Ann@EXAMPLE.org", PASSWORD, first_name="Ann")
    user = await stored(auth, created)
    assert (user.username, user.email, user.first_name, user.last_name) == ("ann", "Ann@example.org", "Ann", "")
    assert (user.is_active, user.is_staff, user.is_superuser, user.last_login) == (True, False, False, None)
    assert timedelta(0) <= user.date_joined - before.replace(microsecond=0) < timedelta(minutes=1)
    assert user.date_joined.tzinfo is UTC
    assert user.date_joined == created.date_joined
    assert await auth.users.check_password(user, PASSWORD)
    assert await auth.users.count() == 1


async def test_create_superuser_sets_is_superuser_and_is_staff(auth: Auth) -> None:
    user = await auth.users.create_superuser("root", "", PASSWORD)
    assert user.is_staff
    assert user.is_superuser
    with pytest.raises(ValueError, match="Superuser must have is_staff=True"):
        await auth.users.create_superuser("half", is_staff=False)


async def test_a_user_without_a_password_cannot_log_in_with_a_password(auth: Auth) -> None:
    user = await auth.users.create_user("ann")
    assert user.password.startswith("!")
    assert not await auth.users.check_password(user, "")
    assert not await auth.users.check_password(user, user.password)


async def test_usernames_are_normalised_as_django_does(auth: Auth) -> None:
    user = await auth.users.create_user("ａｎｎ")
    assert user.username == "ann" == normalize_username("ａｎｎ")
    await auth.users.update(user, username="ﬁne")
    assert user.username == "fine"
    assert (await stored(auth, user)).username == "fine"


@pytest.mark.parametrize(
    ("given", "stored_email"),
    [
        (" ann@EXAMPLE.org ", "ann@example.org"),
        ("A@b@C.ORG", "A@b@c.org"),
        ("NoDomain", "NoDomain"),
        ("Ann@", "Ann@"),
        ("", ""),
    ],
)
async def test_only_the_domain_of_an_address_is_lowered(auth: Auth, given: str, stored_email: str) -> None:
    user = await auth.users.create_user("ann", given)
    assert user.email == stored_email
    await auth.users.update(user, email=given)
    assert (await stored(auth, user)).email == user.email == stored_email


async def test_a_taken_username_raises_already_exists(auth: Auth, ann: User) -> None:
    with pytest.raises(AlreadyExists, match=r"There is a user called 'ann' already\. Choose another name\."):
        await auth.users.create_user("ann")
    with pytest.raises(AlreadyExists):
        await auth.users.create_user("ａｎｎ")
    bob = await auth.users.create_user("bob")
    with pytest.raises(AlreadyExists, match=r"called 'ann' already"):
        await auth.users.update(bob, username="ann", first_name="Bob")
    assert (bob.username, bob.first_name) == ("bob", "")
    assert (await stored(auth, bob)).username == "bob"
    assert await auth.users.count() == 2


async def test_a_taken_username_does_not_abort_the_surrounding_transaction(auth: Auth, ann: User) -> None:
    async with auth.gateway.atomic():
        with pytest.raises(AlreadyExists):
            await auth.users.create_user("ann")
        await auth.users.create_user("bob")
    assert await auth.users.get_by_username("bob") is not None


async def test_one_of_ten_concurrent_creations_of_a_username_succeeds(auth: Auth) -> None:
    results = await asyncio.gather(*(auth.users.create_user("ann") for _ in range(10)), return_exceptions=True)
    assert sum(isinstance(result, User) for result in results) == 1, results
    assert sum(isinstance(result, AlreadyExists) for result in results) == 9, results


@pytest.mark.parametrize("name", ["nul\x00", "half \ud83d", "x" * 151, "ﷺ" * 9], ids=ascii)
async def test_a_username_that_fits_no_column_is_rejected_on_all_databases(auth: Auth, ann: User, name: str) -> None:
    with pytest.raises(UnstorableValue):
        await auth.users.create_user(name)
    with pytest.raises(UnstorableValue):
        await auth.users.update(ann, username=name)
    assert await auth.users.get_by_username(name) is None
    assert await auth.users.get_by_email(f"{name}@example.org" * 10) is None
    assert ann.username == "ann"
    assert await auth.users.count() == 1


async def test_a_too_long_password_or_address_is_rejected(auth: Auth) -> None:
    with pytest.raises(ValueError, match="1024"):
        await auth.users.create_user("ann", password="x" * 1025)
    with pytest.raises(UnstorableValue, match="254"):
        await auth.users.create_user("ann", "x" * 255)
    assert await auth.users.count() == 0


async def test_an_empty_username_is_rejected(auth: Auth, ann: User) -> None:
    with pytest.raises(ValueError, match="needs a username"):
        await auth.users.create_user("")
    with pytest.raises(ValueError, match="needs a username"):
        await auth.users.update(ann, username="")


async def test_an_unknown_field_suggests_similar_names(auth: Auth, ann: User) -> None:
    with pytest.raises(TypeError, match=r"no field 'firstname'\. Did you mean 'first_name'"):
        await auth.users.create_user("bob", firstname="Bob")
    with pytest.raises(TypeError, match=r"no field 'zzzz'\.$"):
        await auth.users.update(ann, zzzz=1)


async def test_an_exception_of_a_listener_rolls_the_creation_back(auth: Auth) -> None:
    seen: list[Any] = []

    @auth.events.on(UserCreated)
    async def refuse(event: UserCreated) -> None:
        seen.append(await auth.users.get(event.user.id))  # inside the transaction
        raise PermissionError("closed")

    with pytest.raises(PermissionError):
        await auth.users.create_user("ann")
    assert [user.username for user in seen] == ["ann"]
    assert await auth.users.count() == 0


async def test_an_integrity_error_of_a_listener_is_not_reported_as_a_taken_username(auth: Auth) -> None:
    @auth.events.on(UserCreated)
    async def violate(event: UserCreated) -> None:
        raise IntegrityError("another constraint")

    with pytest.raises(IntegrityError, match="another constraint"):
        await auth.users.create_user("ann")


# Reading


async def test_get_accepts_an_id_as_text(auth: Auth, ann: User) -> None:
    assert await stored(auth, ann) == await auth.users.get(str(ann.id)) == ann


@pytest.mark.parametrize(
    "id",
    [
        *(None, "", "x", "1.5", 1.5, b"1", "-1", 0, 2**31, 2**63, 2**64, "9" * 20, "9" * 63, "9" * 5000),
        *("\ud800", "1\x00", uuid.UUID(int=1), str(uuid.UUID(int=1))),
    ],
    ids=lambda value: ascii(value)[:20],
)
async def test_an_invalid_id_finds_no_user(auth: Auth, ann: User, id: Any) -> None:
    assert await auth.users.get(id) is None


async def test_reading_a_user_and_all_permissions_takes_one_statement(
    auth: Auth, ann: User, statements: list[str]
) -> None:
    await auth.users.create_permission("polls.add_vote")
    await auth.users.grant(ann, "polls.add_vote")
    await auth.users.get_by_email("ann@example.org")  # asks MariaDB for the collation, once per Auth
    statements.clear()
    user = await stored(auth, ann)
    assert user.has_perm("polls.add_vote")
    assert len(statements) == 1
    await auth.users.get_by_username("ann")
    await auth.users.get_by_email("ann@example.org")
    assert len(statements) == 3


@pytest.mark.parametrize("name", ["ANN", "ann ", " ann", "ánn", "Ann", "ａnn", "ann\u200b", ""])
async def test_a_username_is_compared_exactly(auth: Auth, ann: User, name: str) -> None:
    assert await auth.users.get_by_username(name) is None
    assert await auth.users.get_by_username("ann") == ann


@pytest.mark.parametrize("name", ["ANN", "ánn"])
async def test_a_username_that_the_database_treats_as_equal_is_taken(auth: Auth, ann: User, name: str) -> None:
    if has_lax_collation(auth):
        with pytest.raises(AlreadyExists, match=f"called {name!r} already"):
            await auth.users.create_user(name)
    else:
        namesake = await auth.users.create_user(name)
        assert await auth.users.get_by_username(name) == namesake != ann
    assert await auth.users.get_by_username("ann") == ann


async def test_the_case_of_a_username_can_be_changed(auth: Auth, ann: User) -> None:
    await auth.users.update(ann, username="ANN")
    assert await auth.users.get_by_username("ANN") == ann


async def test_an_address_is_found_ignoring_case(auth: Auth, ann: User) -> None:
    for email in ("ann@example.org", "ANN@EXAMPLE.ORG", "Ann@Example.Org"):
        assert await auth.users.get_by_email(email) == ann
    for email in ("", "ann@example.or", "ann@example.org ", "ánn@example.org", "%"):
        assert await auth.users.get_by_email(email) is None


async def test_an_address_with_non_ascii_letters_is_found(auth: Auth) -> None:
    user = await auth.users.create_user("jürgen", "JÜRGEN@example.org")
    assert await auth.users.get_by_email("JÜRGEN@example.org") == user


async def test_an_address_of_several_users_finds_none_of_them(auth: Auth, ann: User) -> None:
    await auth.users.create_user("other", "ANN@example.org")
    assert await auth.users.get_by_email("ann@example.org") is None


async def test_an_empty_address_causes_no_query(auth: Auth, statements: list[str]) -> None:
    await auth.users.create_user("without")
    statements.clear()
    assert await auth.users.get_by_email("") is None
    assert statements == []


# Changing


async def test_an_update_changes_the_row_and_the_object(auth: Auth, ann: User) -> None:
    last_login = datetime(2024, 5, 6, 7, 8, 9, 123456, tzinfo=UTC)
    await auth.users.update(ann, first_name="Ann", is_staff=True, last_login=last_login)
    for user in (ann, await stored(auth, ann)):
        assert (user.first_name, user.is_staff, user.last_login) == ("Ann", True, last_login)
    await auth.users.update(ann, first_name="Ann")  # MySQL affects no row here
    await auth.users.update(ann)


async def test_record_login_writes_the_current_time(auth: Auth, ann: User) -> None:
    await auth.users.record_login(ann)
    assert ann.last_login is not None
    assert (await stored(auth, ann)).last_login == ann.last_login
    with pytest.raises(DoesNotExist, match=r"Fetch it again\."):
        await auth.users.record_login(User(id=99, username="gone"))


async def test_a_deleted_user_cannot_be_updated(auth: Auth, ann: User) -> None:
    await auth.users.delete(ann)
    with pytest.raises(DoesNotExist, match=r"'ann' is not in the database any more\. Fetch it again\."):
        await auth.users.update(ann, first_name="Ann")
    assert ann.first_name == ""


async def test_a_null_value_is_not_reported_as_a_taken_username(auth: Auth, ann: User) -> None:
    with pytest.raises(IntegrityError):
        await auth.users.update(ann, email=None)
    with pytest.raises(IntegrityError):
        await auth.users.update(ann, username="ann", email=None)
    assert ann.email == "ann@example.org"


async def test_a_plain_password_cannot_be_stored(auth: Auth, ann: User) -> None:
    for raw in (PASSWORD, "", None):
        with pytest.raises(ValueError, match=r"Use set_password\(user, raw\)"):
            await auth.users.update(ann, password=raw)
    # A hash, such as an imported one, can be written.
    await auth.users.update(ann, password=PBKDF2PasswordHasher(iterations=10).encode("imported"))
    assert await auth.users.check_password(ann, "imported")


# Passwords


async def test_a_new_password_replaces_the_old_one(auth: Auth, ann: User) -> None:
    changed_users: list[Any] = []
    auth.events.on(PasswordChanged)(lambda event: changed_users.append(event.user))
    await auth.users.set_password(ann, "another password")
    assert changed_users == [ann]
    for user in (ann, await stored(auth, ann)):
        assert await auth.users.check_password(user, "another password")
        assert not await auth.users.check_password(user, PASSWORD)
    await auth.users.set_password(ann, None)
    assert not await auth.users.check_password(await stored(auth, ann), "another password")


async def test_an_exception_of_a_listener_rolls_the_new_password_back(auth: Auth, ann: User) -> None:
    @auth.events.on(PasswordChanged)
    def refuse(event: PasswordChanged) -> None:
        raise PermissionError("not today")

    with pytest.raises(PermissionError):
        await auth.users.set_password(ann, "another password")
    for user in (ann, await stored(auth, ann)):
        assert await auth.users.check_password(user, PASSWORD)


async def store_old_hash(auth: Auth, user: User, raw: str = PASSWORD) -> None:
    await auth.users.update(user, password=PBKDF2PasswordHasher(iterations=10).encode(raw))


async def test_a_right_password_replaces_a_weak_hash(auth: Auth, ann: User) -> None:
    await store_old_hash(auth, ann)
    assert not await auth.users.check_password(ann, "wrong")
    assert ann.password.startswith("pbkdf2_sha256$10$")
    assert await auth.users.check_password(ann, PASSWORD)
    assert ann.password.startswith("argon2$")
    assert (await stored(auth, ann)).password == ann.password
    assert await auth.users.check_password(ann, PASSWORD)


@pytest.mark.parametrize("library", ["argon2-cffi", "bcrypt", "bcrypt 2y"])
async def test_a_hash_that_another_library_wrote_lets_its_user_in(auth: Auth, ann: User, library: str) -> None:
    """pwdlib and passlib, and so fastapi-users, store what these libraries write."""
    if library == "argon2-cffi":
        encoded = argon2.PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1).hash(PASSWORD)
    else:
        encoded = bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()
    encoded = encoded.replace("$2b$", "$2y$") if library == "bcrypt 2y" else encoded
    await auth.users.update(ann, password=encoded)
    assert auth.passwords.safe_summary(encoded)["algorithm"] == ("argon2" if encoded[1] == "a" else "bcrypt")
    assert not await auth.users.check_password(ann, "wrong")
    assert (await stored(auth, ann)).password == encoded
    assert await auth.users.check_password(ann, PASSWORD)
    upgraded = (await stored(auth, ann)).password
    assert upgraded.startswith(f"{auth.passwords.preferred.algorithm}$")
    assert await auth.users.check_password(ann, PASSWORD)
    assert (await stored(auth, ann)).password == upgraded


async def test_a_damaged_hash_of_another_library_matches_no_password(auth: Auth, ann: User) -> None:
    for encoded in ("$2b$", "$argon2id$", "$2b$99$x", "$argon2id$v=19$m=1", "$1$abc$def", "$2z$04$x", "$"):
        query = sa.update(auth.tables.user).values(password=encoded)
        await auth.gateway.execute(query)
        assert not await auth.users.check_password(await auth.users.get(ann.id), PASSWORD)
        assert not await auth.users.check_password(await auth.users.get(ann.id), "")


async def test_an_upgrade_never_overwrites_a_new_password(auth: Auth, ann: User) -> None:
    await store_old_hash(auth, ann)
    stale = await stored(auth, ann)
    await auth.users.set_password(ann, "another password")
    assert not await auth.users.check_password(stale, PASSWORD), "the password was changed, so the old one is wrong"
    fresh = await stored(auth, ann)
    assert fresh.password == ann.password
    assert await auth.users.check_password(fresh, "another password")


async def test_a_concurrent_change_and_upgrade_end_with_the_new_password(auth: Auth, ann: User) -> None:
    for attempt in range(5):
        await store_old_hash(auth, ann)
        logins = [await stored(auth, ann) for _ in range(4)]
        await asyncio.gather(
            *(auth.users.check_password(login, PASSWORD) for login in logins[:2]),
            auth.users.set_password(ann, f"password {attempt}"),
            *(auth.users.check_password(login, PASSWORD) for login in logins[2:]),
        )
        assert await auth.users.check_password(await stored(auth, ann), f"password {attempt}")


async def test_concurrent_logins_end_with_the_same_new_hash(auth: Auth, ann: User) -> None:
    # Each session is bound to the hash that its login saw. With a hash that was not stored it would end at once.
    await store_old_hash(auth, ann)
    logins = [await stored(auth, ann) for _ in range(5)]
    assert all(await asyncio.gather(*(auth.users.check_password(login, PASSWORD) for login in logins)))
    new_hash = (await stored(auth, ann)).password
    assert {login.password for login in logins} == {new_hash}


async def test_the_password_of_a_user_deleted_meanwhile_is_wrong(auth: Auth, ann: User) -> None:
    await store_old_hash(auth, ann)
    stale = await stored(auth, ann)
    await auth.users.delete(ann)
    assert not await auth.users.check_password(stale, PASSWORD)


async def test_a_login_succeeds_if_the_queue_is_full_for_its_upgrade(auth: Auth, ann: User) -> None:
    class BusyHasher(MD5PasswordHasher):
        """Takes the only free slot while it verifies."""

        algorithm = "md5"

        def verify(self, password: str, encoded: str) -> bool:
            passwords._queue.slots.acquire()
            return super().verify(password, encoded)

    passwords = Passwords([PBKDF2PasswordHasher(iterations=10), BusyHasher()], threads=1, max_waiting=1)
    auth.users.passwords = passwords
    await auth.users.update(ann, password=MD5PasswordHasher().encode(PASSWORD))
    released = threading.Event()
    blocker = asyncio.ensure_future(passwords._run_in_pool(lambda: released.wait(0.05)))
    assert await auth.users.check_password(ann, PASSWORD)
    released.set()
    await blocker
    passwords.close()


# Deleting


async def count_rows(auth: Auth, table: sa.Table) -> int:
    return len(await auth.gateway.fetch_all(sa.select(table)))


async def test_deleting_a_user_deletes_the_rows_that_refer_to_it(auth: Auth, ann: User) -> None:
    bob = await auth.users.create_user("bob")
    await auth.users.create_permission("polls.add_vote")
    await auth.users.create_group("editors")
    for user in (ann, bob):
        await auth.users.grant(user, "polls.add_vote")
        await auth.users.add_to_group(user, "editors")
        session = SessionBase()
        auth.session_backend.bind(session, user, auth.model_backend.path)
        await auth.sessions.save(session, 60)
    t = auth.tables
    calls = []

    @auth.events.on(UserDeleted)
    async def listen(event: UserDeleted) -> None:
        calls.append((event.user, await count_rows(auth, t.session)))

    await auth.users.delete(ann)
    assert calls == [(ann, 2)], "listeners are called before the deletion"
    assert await stored(auth, ann) is None
    assert [await count_rows(auth, table) for table in (t.user, t.user_permissions, t.user_groups, t.session)] == [
        1
    ] * 4
    assert (await stored(auth, bob)).has_perm("polls.add_vote")


async def test_an_exception_of_a_listener_rolls_the_deletion_back(auth: Auth, ann: User) -> None:
    await auth.users.create_group("editors")
    await auth.users.add_to_group(ann, "editors")

    @auth.events.on(UserDeleted)
    def refuse(event: UserDeleted) -> None:
        raise PermissionError("keep")

    with pytest.raises(PermissionError):
        await auth.users.delete(ann)
    assert await stored(auth, ann) == ann
    assert len(await auth.users.get_groups(ann)) == 1


def feature_tables(auth: Auth) -> tuple[sa.Table, sa.Table, sa.Table]:
    """Returns tables for devices of users, codes of devices, and a log that is kept when its user is deleted."""
    metadata, key = sa.MetaData(), auth.tables.user_key
    device = sa.Table(
        "device",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.ForeignKey(key), nullable=False),
    )
    code = sa.Table(
        "device_code",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("device_id", sa.ForeignKey(device.c.id), nullable=False),
        sa.Column("owner_id", sa.ForeignKey(key), nullable=False),
    )
    log = sa.Table(
        "log",
        metadata,
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("user_id", sa.ForeignKey(key, ondelete="SET NULL"), nullable=True),
    )
    return device, code, log


async def test_deleting_a_user_clears_feature_tables_and_sets_set_null_columns(auth: Auth, ann: User) -> None:
    device, code, log = feature_tables(auth)
    auth.tables.features += [device, code, log]
    await migrate(auth.gateway, auth.tables)
    bob = await auth.users.create_user("bob")
    for key, user in enumerate((ann, bob), start=1):
        await auth.gateway.insert(device, id=key, user_id=user.id)
        await auth.gateway.insert(code, id=key, device_id=key, owner_id=user.id)
        await auth.gateway.insert(log, id=key, user_id=user.id)
    await auth.users.delete(ann)
    assert [row["user_id"] for row in await auth.gateway.fetch_all(sa.select(device))] == [bob.id]
    assert [row["owner_id"] for row in await auth.gateway.fetch_all(sa.select(code))] == [bob.id]
    query = sa.select(log).order_by(log.c.id)
    assert [row["user_id"] for row in await auth.gateway.fetch_all(query)] == [None, bob.id]


async def test_a_row_of_an_unknown_table_prevents_the_deletion(auth: Auth, ann: User) -> None:
    device, _, _ = feature_tables(auth)
    await auth.gateway.execute(sa.schema.CreateTable(device))
    await auth.gateway.insert(device, id=1, user_id=ann.id)
    with pytest.raises(IntegrityError):
        await auth.users.delete(ann)
    assert await stored(auth, ann) == ann


# Custom tables and user classes


@dataclass(kw_only=True)
class Customer(User):
    plan: str = ""
    loyalty: int = 0
    joined_from: str | None = None
    changes: int = 0
    manager_id: Any = None


def customers(key: sa.Column[Any]) -> sa.Table:
    counter = iter(range(1, 100))
    return sa.Table(
        "customer",
        sa.MetaData(),
        *user_columns(key),
        sa.Column("plan", sa.String(20), nullable=False, default="free"),
        sa.Column("loyalty", sa.Integer, nullable=False, default=lambda: 7),
        sa.Column("joined_from", sa.String(20), nullable=False, server_default="web"),
        sa.Column("changes", sa.Integer, nullable=False, default=0, onupdate=lambda: next(counter)),
        sa.Column("manager_id", sa.ForeignKey("customer.id"), nullable=True),
        sa.Column("secret_note", sa.String(20), nullable=True),
    )


KEYS: dict[str, Callable[[], sa.Column[Any]]] = {
    "integer": lambda: sa.Column("id", sa.Integer, primary_key=True),
    "uuid": lambda: sa.Column("id", sa.Uuid(), primary_key=True),
    "uuid-by-default": lambda: sa.Column("id", sa.Uuid(), primary_key=True, default=uuid.uuid4),
}


@pytest.fixture(params=KEYS)
async def shop(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[Auth[Customer]]:
    """Yields an Auth with the user class `Customer` and its own table."""
    tables = Tables(user=customers(KEYS[request.param]()))
    async with installed(database, tables=tables, user_class=Customer) as auth:
        yield auth


async def test_custom_columns_are_written_and_read_with_the_user(shop: Auth[Customer]) -> None:
    users: Users[Customer] = shop.users
    ann = await users.create_user("ann", "ann@example.org", PASSWORD, plan="pro")
    assert isinstance(ann, Customer)
    assert (ann.plan, ann.loyalty, ann.joined_from, ann.changes) == ("pro", 7, "web", 0)
    assert (await users.create_user("bob")).plan == "free"
    await users.update(ann, loyalty=8, secret_note="not in the class")
    for user in (ann, await users.get(ann.id), await users.get(str(ann.id)), await users.get_by_username("ann")):
        assert isinstance(user, Customer)
        assert (user.loyalty, user.changes, user.id) == (8, 1, ann.id)
    assert isinstance(ann.id, shop.tables.user_key.type.python_type)


async def test_onupdate_of_a_column_applies_to_logins_and_hash_upgrades(shop: Auth) -> None:
    user = await shop.users.create_user("ann", password=PASSWORD)
    await shop.users.record_login(user)
    await store_old_hash(shop, user)
    assert await shop.users.check_password(user, PASSWORD)
    assert (await stored(shop, user)).changes == 3


async def test_permissions_work_with_every_kind_of_primary_key(shop: Auth) -> None:
    users = shop.users
    ann, bob = await users.create_user("ann"), await users.create_user("bob")
    await users.create_model_permissions("polls", "vote")
    await users.create_group("editors")
    await users.grant(ann, "polls.add_vote")
    await users.grant(await users.get_group("editors"), "polls.view_vote")
    await users.add_to_group(ann, "editors")
    assert (await stored(shop, ann)).get_all_permissions() == {"polls.add_vote", "polls.view_vote"}
    assert await users.with_perm("polls.view_vote") == [ann]
    assert [group.name for group in await users.get_groups(ann)] == ["editors"]
    assert await users.get_groups(bob) == []
    await users.delete(ann)
    assert await users.get(ann.id) is None


async def test_all_users_are_read_in_batches_with_every_kind_of_primary_key(shop: Auth) -> None:
    class EveryoneMay(AuthenticationBackend):
        def permissions(self, user: User | AnonymousUser) -> list[str]:
            return ["polls.add_vote"]

    ids = sorted([(await shop.users.create_user(f"user{number}")).id for number in range(4)])
    for batch in (1, 2, 3):
        assert [user.id async for user in shop.users.all_users(batch=batch)] == ids
    shop.backends.append(EveryoneMay())
    assert [user.id for user in await shop.users.with_perm("polls.add_vote")] == ids


async def test_a_user_that_other_users_refer_to_cannot_be_deleted(shop: Auth) -> None:
    boss = await shop.users.create_user("boss")
    clerk = await shop.users.create_user("clerk", manager_id=boss.id)
    with pytest.raises(IntegrityError):
        await shop.users.delete(boss)
    assert await shop.users.count() == 2
    await shop.users.delete(clerk)
    await shop.users.delete(boss)
    assert await shop.users.count() == 0


@pytest.mark.parametrize("shop", ["uuid"], indirect=True)
@pytest.mark.parametrize(
    "id", ["", "1", 1, "x" * 32, "\ud800", str(uuid.UUID(int=1)), uuid.UUID(int=1), None], ids=ascii
)
async def test_an_invalid_uuid_finds_no_user(shop: Auth, id: Any) -> None:
    await shop.users.create_user("ann")
    assert await shop.users.get(id) is None


@pytest.mark.parametrize("shop", ["uuid"], indirect=True)
async def test_a_primary_key_can_be_passed(shop: Auth) -> None:
    key = uuid.uuid4()
    assert (await shop.users.create_user("ann", id=key)).id == key
    assert await shop.users.get_by_username("ann") == await shop.users.get(key.hex)


async def test_custom_columns_may_hold_decimals_and_json(database: Database) -> None:
    member = sa.Table(
        "member",
        sa.MetaData(),
        *user_columns(),
        sa.Column("credit", sa.Numeric(8, 2)),
        sa.Column("size", sa.Float),
        sa.Column("prefs", sa.JSON, default=dict),
    )

    @dataclass(kw_only=True, eq=False)
    class Member(User):
        credit: Decimal | None = None
        size: float | None = None
        prefs: Any = None

    async with installed(database, tables=Tables(user=member), user_class=Member) as auth:
        ann = await auth.users.create_user("ann", credit=Decimal("12.50"), size=1.5)
        ben = await auth.users.create_user("ben", prefs={"a": ["é", None]})
        assert (ann.credit, ann.size, ann.prefs) == (Decimal("12.50"), 1.5, {})
        assert (ben.credit, ben.prefs) == (None, {"a": ["é", None]})
        await auth.users.update(ben, prefs=None)
        fresh = await auth.users.get(ben.id)
        assert fresh is not None
        assert fresh.prefs is None


async def test_an_integrity_error_does_not_show_the_values_of_the_row(auth: Auth) -> None:
    ann = await auth.users.create_user("ann", password=PASSWORD)
    with pytest.raises(IntegrityError) as caught:
        await auth.gateway.execute(sa.update(auth.tables.user).values(is_staff=sa.null()))
    assert ann.password[:20] not in "".join(traceback.format_exception(caught.value))
