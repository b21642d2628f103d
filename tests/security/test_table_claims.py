"""A second Auth is refused if it would share a table with the Auth of another user table."""

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database

from starlette_auth import (
    Auth,
    CachedStore,
    CookieStore,
    DatabaseStore,
    DjangoProject,
    Feature,
    ImproperlyConfigured,
    MemoryStore,
    SessionStore,
    Tables,
    user_columns,
)
from starlette_auth.database.table_definitions import TableFactory, session_table

from ..conftest import SECRET_KEY


def tables(name: str, schema: str | None = None) -> Tables:
    return Tables(user=sa.Table(name, sa.MetaData(), *user_columns(), schema=schema))


def make(database: Database | str, user: str | Tables | None = None, **options: Any) -> Auth:
    database = Database(database) if isinstance(database, str) else database
    options = {"secret_key": SECRET_KEY, **options}
    return Auth(database, tables=tables(user) if isinstance(user, str) else user, **options)


def sessions(database: Database, name: str) -> SessionStore:
    return DatabaseStore(database, table=session_table(TableFactory(), sa.Integer(), name))


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3"


def test_different_user_tables_on_one_database_are_allowed(url: str) -> None:
    database = Database(url)
    auths = [make(database, name) for name in (None, "customer", "staff", "shop_customer", "member", "member_user")]
    auths += [make(url, name) for name in (None, "customer", "staff")]
    names = [
        table.name
        for auth in auths[:6]
        for table in auth.tables
        if table.name.count("_") and table.name != "auth_group"
    ]
    own = [name for name in names if not name.startswith(("auth_content", "auth_perm", "auth_group", "auth_throttle"))]
    assert len(set(own)) == len(own)


@pytest.mark.parametrize("share", ["one database object", "two of one URL", "another spelling"])
def test_one_session_table_for_two_user_tables_is_refused(url: str, share: str) -> None:
    first = Database(url)
    second = {
        "one database object": first,
        "two of one URL": Database(url),
        "another spelling": Database(url.replace("/a.sqlite3", "/x/../a.sqlite3?timeout=3").replace("+aiosqlite", "")),
    }[share]
    auth = make(first, "customer", sessions=sessions(first, "web_session"))
    with pytest.raises(
        ImproperlyConfigured, match=r"customer and staff, would share the table web_session.*rename a user"
    ):
        make(second, "staff", sessions=sessions(second, "web_session"))
    make(second, "staff", sessions=sessions(second, "staff_session"))
    make(second, "customer", sessions=sessions(second, "web_session"))  # the same users
    cached = CachedStore(DatabaseStore(second, table=auth.sessions.table), "redis://127.0.0.1")
    with pytest.raises(ImproperlyConfigured, match="web_session"):
        make(second, None, sessions=cached)


def test_other_databases_are_not_refused(url: str) -> None:
    auths: list[Auth] = []
    for other in (
        url,
        url.replace("a.sqlite3", "b.sqlite3"),
        "postgresql://db/a",
        "postgresql://db/b",
        "mysql+asyncmy://db/a",
    ):
        database = Database(other)
        auths.append(make(database, f"people{len(auths)}", sessions=sessions(database, "web_session")))
    for _ in range(2):
        memory = Database("sqlite+aiosqlite:///:memory:", force_rollback=True)
        auths.append(make(memory, f"people{len(auths)}", sessions=sessions(memory, "web_session")))


def test_an_auth_that_is_gone_claims_nothing(url: str) -> None:
    database = Database(url)
    auth = weakref.ref(make(database, "customer", sessions=sessions(database, "web_session")))
    make(database, "staff", sessions=sessions(database, "web_session"))
    gc.collect()
    assert auth() is None


def test_a_django_project_and_its_custom_user_model_are_not_refused(url: str) -> None:
    """A Django project has one user model. Which one that is may be tried out in one process."""
    default, custom = make(url, django=DjangoProject()), make(url, django=DjangoProject(user="shop_customer"))
    assert [auth.tables.token.name for auth in (default, custom)] == ["auth_token", "shop_customer_auth_token"]
    assert custom.tables.user_groups.c.user_id.name == "customer_id"


def test_user_tables_of_one_name_in_two_schemas_are_different(url: str) -> None:
    first = make(url, tables("auth_user", "crm"))
    with pytest.raises(ImproperlyConfigured, match="auth_user_groups"):
        make(url)
    assert make(url, tables("member", "crm")).tables.user_groups.name == "crm_member_groups"
    make(url, tables("member", "shop"))
    assert first.tables.user_groups.name == "auth_user_groups"


def test_a_table_of_a_feature_that_refers_to_users_is_not_shared(url: str) -> None:
    class Profiles(Feature):
        def tables(self, tables: Tables) -> list[sa.Table]:
            return [sa.Table("profile", sa.MetaData(), sa.Column("user_id", sa.ForeignKey(tables.user_key)))]

    class Log(Feature):
        def tables(self, tables: Tables) -> list[sa.Table]:
            return [sa.Table("log", sa.MetaData(), sa.Column("text", sa.Text))]

    auth = make(url, "customer", features=[Profiles(), Log()])
    with pytest.raises(ImproperlyConfigured, match="would share the table profile"):
        make(url, "staff", features=[Profiles()])
    make(url, "staff", features=[Log()])
    assert auth.features


@pytest.mark.parametrize("store", [MemoryStore(), CookieStore(SECRET_KEY)], ids=lambda store: type(store).__name__)
def test_one_store_object_is_not_for_two_user_tables(url: str, store: SessionStore) -> None:
    make(url, "customer", sessions=store)
    make(url, "customer", sessions=store)
    with pytest.raises(ImproperlyConfigured, match="for each Auth"):
        make(url, "staff", sessions=store)


def test_a_store_that_loads_the_users_of_another_table_is_refused(url: str) -> None:
    database = Database(url)
    users = make(database, "customer").users
    with pytest.raises(ImproperlyConfigured, match="sessions=lambda users: DatabaseStore"):
        make(database, "staff", sessions=DatabaseStore(database, users=users))


def test_a_database_store_without_a_table_uses_that_of_the_user_table(url: str) -> None:
    database, key = Database(url), sa.Column("id", sa.Uuid, primary_key=True)
    store = DatabaseStore(database)
    auth = make(database, Tables(user=sa.Table("staff", sa.MetaData(), *user_columns(key))), sessions=store)
    assert store.table.name == auth.tables.session.name == "staff_auth_session"
    assert isinstance(store.table.c.user_id.type, sa.Uuid)
    assert DatabaseStore(database).table.name == "auth_session"


def test_a_table_without_a_schema_is_the_one_in_the_default_schema(url: str) -> None:
    for database_url, schema in ((url, "main"), ("postgresql://h/shop", "public"), ("mysql+asyncmy://h/shop", "shop")):
        auth = make(database_url, "customer", sessions=sessions(Database(database_url), "web_session"))
        named = session_table(TableFactory(schema=schema), sa.Integer(), "web_session")
        second = Database(database_url)
        with pytest.raises(ImproperlyConfigured, match="customer and staff, would share the table web_session"):
            make(second, "staff", sessions=DatabaseStore(second, table=named))
        make(second, tables("customer", schema), sessions=DatabaseStore(second, table=named))  # the same users
        elsewhere = session_table(TableFactory(schema="elsewhere"), sa.Integer(), "web_session")
        make(second, "staff", sessions=DatabaseStore(second, table=elsewhere))
        del auth


def test_a_search_path_separates_the_tables_of_two_auths() -> None:
    first, second = (
        Database("postgresql://h/shop", server_settings={"search_path": path}) for path in ("one, public", '"two"')
    )
    auth = make(first, "customer", sessions=sessions(first, "web_session"))
    make(second, "staff", sessions=sessions(second, "web_session"))
    del auth
