"""Where users log in with their email address, no two users have the same one."""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import (
    AlreadyExists,
    Auth,
    DjangoProject,
    ImproperlyConfigured,
    ModelBackend,
    Tables,
    User,
    gateway_of,
    migrate,
    user_columns,
)
from starlette_auth.database.introspection import all_columns, index_names

from ..conftest import SECRET_KEY, connected, installed, weak_passwords

ADDRESS = "Owner@Example.org"
SAME = ["Owner@Example.org", "OWNER@EXAMPLE.ORG", "owner@example.org", " owner@Example.org\n"]
#: Addresses that a database might take for the same: by its collation, by its lower(), or without trailing spaces.
OTHERS = [
    "\u212aate@example.org",
    "öwner@example.org",
    "Öwner@example.org",
    "o\u030bwner@example.org",
    "owner@example.or",
]
KINDS = ["own", "django"]


@pytest.fixture(params=KINDS)
async def auth(database: Database, request: pytest.FixtureRequest) -> AsyncIterator[Auth]:
    """An Auth whose users log in with their address, on tables of its own or of a Django project."""
    django = DjangoProject() if request.param == "django" else None
    async with installed(database, login_fields=("email",), django=django, passwords=weak_passwords()) as auth:
        yield auth


def another(auth: Auth, *login_fields: str) -> Auth:
    """Returns another Auth on the same database, as in another process."""
    django = DjangoProject() if auth.tables.django_tables else None
    return Auth(auth.database, secret_key=SECRET_KEY, login_fields=login_fields or ("email",), django=django)


async def set_by_sql(auth: Auth, user: User, **values: Any) -> None:
    """Changes a row as Django or another program would, without this package."""
    user_table = auth.tables.user
    await auth.database.execute(sa.update(user_table).where(user_table.c.id == user.id).values(values))


def count_of(results: list[Any]) -> tuple[int, int]:
    """Returns how many calls succeeded, and how many raised AlreadyExists."""
    failures = [result for result in results if isinstance(result, BaseException)]
    unexpected = [failure for failure in failures if not isinstance(failure, AlreadyExists)]
    assert unexpected == []
    return len(results) - len(failures), len(failures)


# Each way of writing an address


async def test_a_taken_address_is_refused(auth: Auth) -> None:
    owner = await auth.users.create_user("owner", ADDRESS)
    mal = await auth.users.create_user("mal", "mal@example.org")

    async def assert_refused(write: Awaitable[object]) -> None:
        with pytest.raises(
            AlreadyExists, match=r"with the email address '.*' already\. Choose another address\."
        ) as error:
            await write
        assert error.value.field == "email"

    for taken in SAME:
        await assert_refused(auth.users.create_user("other", taken))
        await assert_refused(auth.users.create_superuser("other", taken))
        await assert_refused(auth.users.update(mal, email=taken, first_name="Mal"))
        await assert_refused(another(auth).users.update(mal, email=taken))
    assert (mal.email, mal.first_name) == ("mal@example.org", "")
    assert await auth.users.get_by_email(ADDRESS) == owner
    assert await auth.users.get_by_email("mal@example.org") == mal
    assert await auth.users.count() == 2


async def test_the_address_is_unique_beside_the_username(database: Database) -> None:
    async with installed(database, login_fields=("username", "email")) as auth:
        await auth.users.create_user("owner", ADDRESS)
        with pytest.raises(AlreadyExists) as error:
            await auth.users.create_user("other", ADDRESS.upper())
        assert error.value.field == "email"
        with pytest.raises(AlreadyExists, match="called 'owner'") as error:
            await auth.users.create_user("owner", "other@example.org")
        assert error.value.field == ""


async def test_a_backend_that_takes_the_address_makes_it_unique(database: Database) -> None:
    auth = Auth(database, secret_key=SECRET_KEY)
    auth.backends.insert(0, ModelBackend(auth.users, login_fields=("email",)))
    await migrate(auth.gateway, auth.tables)
    await auth.users.create_user("owner", ADDRESS)
    with pytest.raises(AlreadyExists):
        await auth.users.create_user("other", ADDRESS)
    await auth.close()


async def test_without_logins_by_address_several_users_may_have_one(database: Database) -> None:
    async with installed(database) as auth:
        for name in ("ann", "bob"):
            await auth.users.create_user(name, ADDRESS)
        assert len(await auth.users.list_by_email(ADDRESS)) == 2
        assert not [name for name in await index_names(auth.gateway) if name.endswith("_unique")]


async def test_empty_addresses_are_exempt(auth: Auth) -> None:
    for name in ("ann", "bob", "eve"):
        user = await auth.users.create_user(name, "" if name != "eve" else "  ")
        await auth.users.update(user, email="")
    assert await auth.users.count() == 3


async def test_addresses_that_differ_in_more_than_the_case_are_different(auth: Auth) -> None:
    await auth.users.create_user("owner", "owner@example.org")
    await auth.users.create_user("kate", "kate@example.org")
    for number, email in enumerate(OTHERS):
        user = await auth.users.create_user(f"user{number}", email)
        assert await auth.users.get_by_email(email) == user


async def test_users_can_keep_their_address_and_change_its_case(auth: Auth) -> None:
    owner = await auth.users.create_user("owner", ADDRESS)
    for email in (ADDRESS, ADDRESS.upper(), "", ADDRESS.lower()):
        await auth.users.update(owner, email=email, first_name=email[:9])
    assert await auth.users.get_by_email(ADDRESS) == owner


async def test_an_address_is_free_again_after_a_change_or_a_deletion(auth: Auth) -> None:
    first = await auth.users.create_user("first", ADDRESS)
    await auth.users.update(first, email="first@example.org")
    second = await auth.users.create_user("second", ADDRESS.upper())
    await auth.users.delete(second)
    await auth.users.update(first, email=ADDRESS)
    assert await auth.users.get_by_email(ADDRESS) == first


async def test_a_refused_address_does_not_abort_the_surrounding_transaction(auth: Auth) -> None:
    await auth.users.create_user("owner", ADDRESS)
    async with auth.gateway.atomic():
        with pytest.raises(AlreadyExists):
            await auth.users.create_user("other", ADDRESS)
        await auth.users.create_user("ann", "ann@example.org")
    assert await auth.users.get_by_username("ann") is not None


async def test_a_transaction_that_is_rolled_back_leaves_the_address_free(auth: Auth) -> None:
    async def fail_after_creation() -> None:
        async with auth.gateway.atomic():
            await auth.users.create_user("owner", ADDRESS)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail_after_creation()
    bob = await auth.users.create_user("bob", ADDRESS)
    assert await auth.users.get_by_email(ADDRESS) == bob


# Concurrency


async def test_one_of_ten_concurrent_creations_with_an_address_succeeds(auth: Auth) -> None:
    creations = [another(auth).users.create_user(f"user{number}", SAME[number % 4]) for number in range(10)]
    assert count_of(await asyncio.gather(*creations, return_exceptions=True)) == (1, 9)
    assert await auth.users.get_by_email(ADDRESS) is not None


async def test_one_of_ten_concurrent_changes_to_an_address_succeeds(auth: Auth) -> None:
    users = [await auth.users.create_user(f"user{number}", f"user{number}@example.org") for number in range(10)]
    changes = [auth.users.update(user, email=SAME[number % 4]) for number, user in enumerate(users)]
    creations = [auth.users.create_user(f"new{number}", ADDRESS) for number in range(3)]
    results = await asyncio.gather(*changes, *creations, return_exceptions=True)
    assert count_of(results) == (1, 12)
    assert await auth.users.get_by_email(ADDRESS) is not None


async def test_a_transaction_that_began_earlier_cannot_take_the_address(auth: Auth) -> None:
    """On MariaDB, such a transaction reads what was there at its first SELECT."""
    mal = await auth.users.create_user("mal", "mal@example.org")

    async def create_owner() -> None:
        await auth.users.create_user("owner", ADDRESS)

    async with auth.gateway.atomic():
        assert await auth.users.get_by_email(ADDRESS) is None
        # SQLite has one transaction at a time.
        if auth.gateway.dialect != "sqlite":
            await asyncio.create_task(create_owner())
            with pytest.raises(AlreadyExists):
                await auth.users.update(mal, email=ADDRESS)
            with pytest.raises(AlreadyExists):
                await auth.users.create_user("other", ADDRESS)
    assert len(await auth.users.list_by_email(ADDRESS)) == (auth.gateway.dialect != "sqlite")


async def test_addresses_can_be_passed_on_in_one_transaction(auth: Auth) -> None:
    ann, bob = await auth.users.create_user("ann", "ann@example.org"), await auth.users.create_user("bob", ADDRESS)
    async with auth.gateway.atomic():
        await auth.users.update(bob, email="bob@example.org")
        await auth.users.update(ann, email=ADDRESS)
        with pytest.raises(AlreadyExists):
            await auth.users.update(bob, email=ADDRESS)
    assert await auth.users.get_by_email(ADDRESS) == ann


# Tables of our own


async def test_the_index_refuses_what_does_not_go_through_this_auth(database: Database) -> None:
    async with installed(database, login_fields=("email",)) as auth:
        owner = await auth.users.create_user("owner", ADDRESS)
        mal = await auth.users.create_user("mal", "mal@example.org")
        with pytest.raises(Exception, match=r"(?i)unique|duplicate"):
            await set_by_sql(auth, mal, email=ADDRESS.lower())
        by_username = another(auth, "username")
        for write in (
            by_username.users.create_user("other", ADDRESS.lower()),
            by_username.users.update(mal, email=ADDRESS.lower()),
        ):
            with pytest.raises(AlreadyExists) as error:
                await write
            assert error.value.field == "email"
        assert await auth.users.get_by_email(ADDRESS) == owner


async def test_without_the_index_a_taken_address_is_refused_too(database: Database) -> None:
    async with installed(database) as auth:
        await auth.users.create_user("owner", ADDRESS)
        with pytest.raises(AlreadyExists):
            await another(auth).users.create_user("other", ADDRESS)


def custom_tables() -> Tables:
    columns = [column for column in user_columns() if column.name not in ("id", "email")]
    key = sa.Column("id", sa.Uuid, primary_key=True, default=uuid.uuid4)
    email = sa.Column("email", sa.Text, nullable=True)
    return Tables(user=sa.Table("Members of the-club", sa.MetaData(), key, *columns, email))


async def test_a_custom_user_table_gets_the_index(database: Database) -> None:
    async with installed(database, tables=custom_tables(), login_fields=("email",)) as auth:
        owner = await auth.users.create_user("owner", ADDRESS)
        mal = await auth.users.create_user("mal", "mal@example.org")
        results = await asyncio.gather(
            *(auth.users.create_user(f"user{number}", "long" * 60 + "@x.org") for number in range(5)),
            return_exceptions=True,
        )
        assert count_of(results) == (1, 4)
        with pytest.raises(AlreadyExists):
            await auth.users.update(mal, email=ADDRESS.upper())
        await auth.users.update(mal, email=None)
        await auth.users.update(owner, email=None)
        assert await migrate(auth.gateway, auth.tables) == []


async def test_logins_by_address_can_be_added_to_an_existing_database(database: Database) -> None:
    async with installed(database) as auth:
        for name in ("ann", "bob", "eve"):
            await auth.users.create_user(name, f"{name}@example.org" if name != "eve" else "")
        later = another(auth)
        assert (await migrate(later.gateway, later.tables))[-1] == "auth_user_email_unique"
        assert await migrate(later.gateway, later.tables) == []
        with pytest.raises(AlreadyExists):
            await later.users.create_user("other", "ANN@example.org")
        on_table = " ON auth_user" if auth.gateway.dialect == "mysql" else ""
        await auth.database.execute(f"DROP INDEX auth_user_email_unique{on_table}")
        assert (await migrate(later.gateway, later.tables))[-1] == "auth_user_email_unique"


async def test_migrate_refuses_addresses_that_several_users_have(database: Database) -> None:
    async with installed(database) as auth:
        users = [
            await auth.users.create_user(f"user{number}", email)
            for number, email in enumerate(["a@x.org", ADDRESS, "A@x.org", ADDRESS.lower(), "", "", ADDRESS, "b@x.org"])
        ]
        shape = await all_columns(auth.gateway), await index_names(auth.gateway)
        later = another(auth)
        keys = [user.id for user in users]
        groups = f"{keys[0]}, {keys[2]}; {keys[1]}, {keys[3]}, {keys[6]}\\. Leave each address to one user.*try again"
        with pytest.raises(ImproperlyConfigured, match=f"Users of auth_user have the same email address.*{groups}"):
            await migrate(later.gateway, later.tables)
        assert (await all_columns(auth.gateway), await index_names(auth.gateway)) == shape
        for number in (2, 3):
            await later.users.update(users[number], email="")
        with pytest.raises(ImproperlyConfigured, match=f"Primary keys: {keys[1]}, {keys[6]}\\."):
            await migrate(later.gateway, later.tables)
        await later.users.delete(users[6])
        assert (await migrate(later.gateway, later.tables))[-1] == "auth_user_email_unique"


async def test_migrate_lists_only_the_first_of_many_addresses(database: Database) -> None:
    async with installed(database) as auth:
        for number in range(24):
            await auth.users.create_user(f"user{number}", f"user{number % 12:02}@example.org")
        later = another(auth)
        with pytest.raises(ImproperlyConfigured, match=r"; and 2 more groups\. Leave") as error:
            await migrate(later.gateway, later.tables)
        assert str(error.value).count(";") == 10


async def test_tables_that_several_auths_share_have_one_index(database: Database) -> None:
    tables = Tables()
    for fields in (("username",), ("email",), ("username", "email"), ("username",)):
        Auth(database, secret_key=SECRET_KEY, tables=tables, login_fields=fields)
    names = [str(index.name) for index in tables.user.indexes]
    assert names.count("auth_user_email_unique") == 1
    assert tables.unique_email


def test_create_all_makes_only_the_index_of_its_database() -> None:
    for name in ("sqlite", "postgresql", "mysql"):
        statements: list[str] = []
        dialect = sa.create_mock_engine(f"{name}://", lambda *_: None).dialect
        engine = sa.create_mock_engine(
            f"{name}://",
            lambda sql, *_: statements.append(str(sql.compile(dialect=dialect))),  # noqa: B023
        )
        tables = custom_tables()
        tables.require_unique_email()
        tables.finish(name)
        tables.user.metadata.create_all(engine, checkfirst=False)
        unique = [statement for statement in statements if "UNIQUE INDEX" in statement]
        assert len(unique) == 1


# Tables of a Django project


@pytest.fixture
async def shared(database: Database) -> AsyncIterator[Auth]:
    async with installed(database, login_fields=("email",), django=DjangoProject()) as auth:
        yield auth


async def test_a_django_project_gets_neither_index_nor_column(database: Database) -> None:
    gateway = gateway_of(database)
    await migrate(gateway, Tables.django())
    shape = await all_columns(gateway), await index_names(gateway)
    auth = Auth(database, secret_key=SECRET_KEY, login_fields=("email",), django=DjangoProject())
    assert await migrate(auth.gateway, auth.tables) == []
    assert (await all_columns(gateway), await index_names(gateway)) == shape
    await gateway.close()


async def test_a_claim_is_void_after_django_changed_or_deleted_its_user(shared: Auth) -> None:
    first = await shared.users.create_user("first", ADDRESS)
    await set_by_sql(shared, first, email="first@example.org")
    second = await shared.users.create_user("second", ADDRESS)
    with pytest.raises(AlreadyExists):
        await shared.users.update(first, email=ADDRESS)
    await shared.database.execute(sa.delete(shared.tables.user).where(shared.tables.user.c.id == second.id))
    third = await shared.users.create_user("third", "third@example.org")
    await shared.users.update(third, email=ADDRESS)
    with pytest.raises(AlreadyExists):
        await shared.users.create_user("fourth", ADDRESS)
    assert await shared.users.get_by_email(ADDRESS) == third


async def test_an_address_that_django_wrote_is_taken(shared: Auth) -> None:
    owner = await shared.users.create_user("owner")
    await set_by_sql(shared, owner, email=ADDRESS)
    with pytest.raises(AlreadyExists):
        await shared.users.create_user("other", ADDRESS.upper())


async def test_claims_are_deleted_with_the_expired_tokens(database: Database) -> None:
    now = [1_000_000_000.0]
    django = DjangoProject()
    async with installed(database, login_fields=("email",), django=django, clock=lambda: now[0]) as auth:
        await auth.users.create_user("owner", ADDRESS)
        count = sa.select(sa.func.count()).select_from(auth.tables.token)
        await auth.clear_expired()
        assert await auth.database.fetch_val(count) == 1
        now[0] += 2 * 24 * 60 * 60
        await auth.clear_expired()
        assert await auth.database.fetch_val(count) == 0
        with pytest.raises(AlreadyExists):
            await auth.users.create_user("other", ADDRESS)


async def test_beside_django_shared_addresses_cause_a_warning(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with installed(database, django=DjangoProject()) as auth:
        keys = [(await auth.users.create_user(name, ADDRESS)).id for name in ("ann", "bob")]
        later = another(auth)
        with caplog.at_level(logging.WARNING, "starlette_auth"):
            assert await migrate(later.gateway, later.tables) == []
        assert f"Primary keys: {keys[0]}, {keys[1]}. These users cannot log in with it." in caplog.text


async def test_a_username_that_is_the_address_is_unique_in_any_case(tmp_path: Path) -> None:
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/django.sqlite3") as database:
        auth = Auth(database, secret_key=SECRET_KEY, django=DjangoProject(user="app_user", username_field="email"))
        for table in auth.tables.django_tables:
            await auth.gateway.execute(sa.schema.CreateTable(table))
        await migrate(auth.gateway, auth.tables)
        owner = await auth.users.create_user(ADDRESS)
        with pytest.raises(AlreadyExists):
            await auth.users.create_user(ADDRESS.upper())
        mal = await auth.users.create_user("mal@example.org")
        for name in ("username", "email"):
            with pytest.raises(AlreadyExists):
                await auth.users.update(mal, **{name: ADDRESS.lower()})
        assert await auth.users.get_by_username(ADDRESS.replace("Example", "example")) == owner
        await auth.close()
