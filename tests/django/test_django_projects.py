"""Tests of projects with custom users, local time, other session engines, old databases and new keys."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    Auth,
    AuthenticationBackend,
    DjangoCache,
    DjangoProject,
    ImproperlyConfigured,
    Passwords,
    PBKDF2PasswordHasher,
    SessionTooLarge,
    Tables,
    User,
    get_auth,
    migrate,
    user_columns,
)
from starlette_auth.database.deletion import BATCH
from starlette_auth.sessions.base import SessionBase
from starlette_auth.testing import FrozenClock

from ..conftest import (
    BACKENDS,
    PASSWORD,
    REDIS_URL,
    connected,
    empty_database,
    name_of,
    needs_redis,
    post_login,
    token_in,
)
from ..support.apps import make_app
from .djangos import KEY, Django, browser, django_on, make_auth, shared_auth
from .test_django import log_in_to_django, make_shared_app, session_view, username_here, username_in_django

pytestmark = pytest.mark.long

# Read from disk before the event loop runs.
NEW_YORK, AUCKLAND = (
    ZoneInfo("America/New_York"),
    ZoneInfo("Pacific/Auckland"),
)
servers = pytest.mark.parametrize("server", BACKENDS, ids=name_of)
single_server = pytest.mark.parametrize(
    "server", BACKENDS[-1:], ids=name_of
)  # for tests that do not depend on the database


async def get_user(auth: Auth, name: str) -> User:
    user: User | None = await auth.users.get_by_username(name)
    assert user is not None
    return user


@contextlib.asynccontextmanager
async def shared_project(
    server: str,
    folder: Path,
    project_settings: DjangoProject | None = None,
    options: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Django, Auth[Any]]]:
    """Starts a Django project with `settings`. Yields it and an Auth on its database."""
    with contextlib.ExitStack() as stack:
        # In a thread, because starting the project blocks and runs an event loop.
        project = await asyncio.to_thread(stack.enter_context, django_on(server, folder, **settings))
        try:
            async with shared_auth(project, project_settings, **(options or {})) as auth:
                yield project, auth
        finally:
            await asyncio.to_thread(stack.close)


# Custom users

PERSON = sa.Table(
    "people_person",
    sa.MetaData(),
    sa.Column("id", sa.Uuid, primary_key=True),
    sa.Column("password", sa.String(128), nullable=False),
    sa.Column("last_login", sa.DateTime),
    sa.Column("is_superuser", sa.Boolean, nullable=False),
    sa.Column("first_name", sa.String(150), nullable=False),
    sa.Column("last_name", sa.String(150), nullable=False),
    sa.Column("is_staff", sa.Boolean, nullable=False),
    sa.Column("is_active", sa.Boolean, nullable=False),
    sa.Column("date_joined", sa.DateTime, nullable=False),
    sa.Column("email", sa.String(254), nullable=False, unique=True),
    sa.Column("phone", sa.String(30), nullable=False, default=""),
)


@dataclass(kw_only=True, eq=False)
class Person(User):
    phone: str = ""


async def check_groups_and_permissions(django: Django, auth: Auth, ann: User) -> None:
    await auth.users.create_permission("polls.add_vote")
    await auth.users.grant(ann, "polls.add_vote")
    await auth.users.add_to_group(ann, await auth.users.create_group("voters"))
    result = django.code(
        "user = User.objects.get()\n"
        "result = [sorted(user.get_all_permissions()), [group.name for group in user.groups.all()]]"
    )
    assert result == [["polls.add_vote"], ["voters"]]
    assert [user.id for user in await auth.users.with_perm("polls.add_vote")] == [ann.id]


@servers
async def test_a_user_model_with_uuid_key_and_email_username_in_local_time(server: str, tmp_path: Path) -> None:
    project_settings = DjangoProject(user=PERSON, username_field="email", use_tz=False, time_zone="America/New_York")
    django_settings: dict[str, Any] = {
        "AUTH_USER_MODEL": "people.Person",
        "USE_TZ": False,
        "TIME_ZONE": "America/New_York",
    }
    options = {"user_class": Person}
    async with (
        shared_project(server, tmp_path, project_settings, options, **django_settings) as (django, auth),
        browser(django, make_shared_app(auth)) as client,
    ):
        ann = await auth.users.create_user("Ann@EXAMPLE.org", password=PASSWORD, phone="12")
        assert isinstance(ann.id, uuid.UUID)
        assert (ann.username, ann.email, ann.phone) == ("Ann@example.org", "Ann@example.org", "12")
        result = django.code(
            "user = User.objects.get()\nresult = [str(user.id), user.email, user.phone, user.date_joined.isoformat()]"
        )
        assert ann.date_joined is not None
        local = ann.date_joined.astimezone(NEW_YORK).replace(tzinfo=None)
        assert result == [str(ann.id), "Ann@example.org", "12", local.isoformat()]
        # A login in each application is valid in the other.
        assert (await post_login(client, "Ann@example.org")).status_code == 303
        assert await username_in_django(client, django) == await username_here(client) == "Ann@example.org"
        await client.post(f"{django.url}/logout")
        assert await username_here(client) == ""
        assert await log_in_to_django(client, django, "Ann@example.org") == 200
        assert await username_here(client) == "Ann@example.org"
        fresh = await get_user(auth, ann.username)
        assert await auth.users.get(str(ann.id)) == fresh
        assert fresh.last_login is not None
        assert abs(datetime.now(UTC) - fresh.last_login) < timedelta(seconds=30)
        # The expiry of a session is stored in local time.
        await client.post(f"{django.url}/expire", json=100)
        await client.post(f"{django.url}/session", json={"a": 1})
        assert (await client.get("/whoami")).json()["session"]["a"] == 1
        [session] = await auth.sessions.list_sessions(str(ann.id))
        assert session.record is not None
        assert 60 < session.record.expires - datetime.now(UTC).timestamp() <= 100
        # Reset tokens count seconds in local time.
        django_token = django.code(
            "from django.contrib.auth.tokens import default_token_generator as tokens\n"
            "result = tokens.make_token(User.objects.get())"
        )
        assert await auth.reset_tokens.check(fresh, django_token)
        await check_groups_and_permissions(django, auth, ann)
        # Changing the e-mail address changes the username.
        await auth.users.update(ann, email="new@example.org")
        assert (ann.username, ann.email) == ("new@example.org", "new@example.org")
        await auth.users.update(ann, username="newer@example.org")
        assert (await auth.users.get_by_email("newer@example.org")) == ann
        with pytest.raises(ValueError, match="one of the two"):
            await auth.users.update(ann, username="a@example.org", email="b@example.org")
        with pytest.raises(ValueError, match="already"):
            await auth.users.create_user("newer@example.org")
        await auth.users.delete(ann)
        assert django.code("result = User.objects.count()") == 0


@servers
async def test_a_session_expiry_in_local_time_is_shared(server: str, tmp_path: Path) -> None:
    """With USE_TZ=False, the time in `_session_expiry` has no offset."""
    project_settings = DjangoProject(use_tz=False, time_zone="Pacific/Auckland")
    async with shared_project(server, tmp_path, project_settings, USE_TZ=False, TIME_ZONE="Pacific/Auckland") as (
        django,
        auth,
    ):
        key = django.code(
            "from django.contrib.sessions.backends.db import SessionStore\n"
            "from datetime import datetime, timedelta\n"
            "session = SessionStore()\n"
            "session['a'] = 1\n"
            "session.set_expiry(datetime.now() + timedelta(seconds=500))\n"
            "session.save()\n"
            "result = session.session_key"
        )
        session = await auth.sessions.load(key)
        assert session["a"] == 1
        assert 400 < session.get_expiry_age() <= 500
        assert session.record is not None
        assert 400 < session.record.expires - datetime.now(UTC).timestamp() <= 500
        session["b"] = 2
        session.set_expiry(timedelta(seconds=450))  # Django reads this value, too
        await auth.sessions.save(session, session.get_expiry_age())
        assert (
            django.code(
                f"from django.contrib.sessions.backends.db import SessionStore\nresult = SessionStore({key!r}).get_expiry_age()"
            )
            > 400
        )
        left = django.code(
            "from django.contrib.sessions.models import Session\n"
            "from django.utils import timezone\n"
            "result = (Session.objects.get().expire_date - timezone.now()).total_seconds()"
        )
        assert 400 < left <= 500


@pytest.mark.parametrize("has_last_login", [True, False])
async def test_a_user_model_without_optional_columns_works(tmp_path: Path, has_last_login: bool) -> None:
    """A model of AbstractBaseUser and PermissionsMixin without further fields. It may have `last_login = None`."""
    member = sa.Table(
        "club_member",
        sa.MetaData(),
        sa.Column("nr", sa.Integer, primary_key=True),
        sa.Column("password", sa.String(128), nullable=False),
        *([sa.Column("last_login", sa.DateTime)] if has_last_login else []),
        sa.Column("is_superuser", sa.Boolean, nullable=False),
        sa.Column("nick", sa.String(30), nullable=False, unique=True),
    )
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/club.sqlite3") as database:
        auth = make_auth(database, DjangoProject(user=member, username_field="nick", user_model="clubmember"))
        await database.execute(
            f"CREATE TABLE club_member (nr integer PRIMARY KEY, password text, {'last_login datetime, ' * has_last_login}"
            "is_superuser bool NOT NULL, nick text UNIQUE)"
        )
        for table in auth.tables.django_tables:
            if table is not member:
                await auth.gateway.execute(sa.schema.CreateTable(table))
        assert "clubmember_id" in [column.name for column in auth.tables.user_groups.columns]
        await migrate(auth.gateway, auth.tables)
        ann = await auth.users.create_user("ann", password=PASSWORD)
        assert (ann.id, ann.email, ann.is_active, ann.is_staff) == (1, "", True, False)
        assert await auth.users.get_by_email("ann@example.org") is None
        await auth.users.create_permission("polls.add_vote")
        await auth.users.grant(ann, "polls.add_vote")
        assert await auth.users.with_perm("polls.add_vote") == [ann]
        with pytest.raises(TypeError, match="no field 'email'"):
            await auth.users.update(ann, email="ann@example.org")
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(make_shared_app(auth)), base_url="http://testserver"
        ) as client:
            token = await auth.reset_tokens.make(ann)
            assert (await post_login(client)).status_code == 303
            assert await username_here(client) == "ann"
            fresh = await get_user(auth, "ann")
            assert (fresh.last_login is not None) is has_last_login
            # The login makes a token of Django invalid by `last_login` only.
            assert await auth.reset_tokens.check(fresh, token) is not has_last_login
        await auth.close()


def test_a_user_table_without_username_column_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="has no column username"):
        Tables.django(PERSON)


@servers
async def test_an_unused_username_column_is_filled_with_the_email_address(server: str, tmp_path: Path) -> None:
    """AbstractUser with USERNAME_FIELD = "email" keeps its username column."""
    user = sa.Table("auth_user", sa.MetaData(), *user_columns())
    async with shared_project(server, tmp_path, DjangoProject(user=user, username_field="email")) as (django, auth):
        ann = await auth.users.create_user("ann@example.org", password=PASSWORD)
        assert django.code(f"result = User.objects.get(id={ann.id}).username") == "ann@example.org"
        await auth.users.update(ann, email="new@example.org")
        assert django.code(f"user = User.objects.get(id={ann.id})\nresult = [user.username, user.email]") == [
            "ann@example.org",
            "new@example.org",
        ]


async def test_migrate_does_not_create_a_custom_user_table(tmp_path: Path) -> None:
    user = sa.Table("auth_user", sa.MetaData(), *user_columns(), sa.Column("shoe", sa.Integer))
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        auth = make_auth(database, DjangoProject(user=user))
        with pytest.raises(ImproperlyConfigured, match=r"manage\.py migrate"):
            await migrate(auth.gateway, auth.tables)
        await auth.close()


# Secret keys


@servers
async def test_users_stay_logged_in_after_a_new_secret_key(server: str, tmp_path: Path) -> None:
    """The next request gives a session a new session key and a new signature."""
    new_key = "a newer secret key that Django and we share: for tests only"
    async with shared_project(server, tmp_path) as (django, auth):
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with browser(django, make_shared_app(auth)) as first, browser(django, make_shared_app(auth)) as second:
            await post_login(first)
            await log_in_to_django(second, django, "ann")
            for client in (first, second):
                await client.post(f"{django.url}/session", json={"cart": [1]})
            renewed = Django(django.database_url, tmp_path, keys=f"{new_key},{KEY}")
            renewed.start()
            try:
                new = make_auth(auth.database, secret_key=[new_key, KEY])
                async with browser(renewed, make_shared_app(new)) as client:
                    for cookies, get_username in (
                        (first.cookies, username_here),
                        (second.cookies, lambda c: username_in_django(c, renewed)),
                    ):
                        client.cookies = cookies
                        before = client.cookies["sessionid"]
                        assert await get_username(client) == "ann"
                        assert client.cookies["sessionid"] != before
                        assert await username_here(client) == await username_in_django(client, renewed) == "ann"
                        assert (await client.get("/whoami")).json()["session"]["cart"] == [1]
                        # The old key is not needed any more.
                        only_new = make_auth(auth.database, secret_key=[new_key])
                        async with browser(renewed, make_shared_app(only_new)) as later:
                            later.cookies = client.cookies
                            assert await username_here(later) == "ann"
                assert [user.id for user in [ann]] == [ann.id]
            finally:
                renewed.stop()


async def test_concurrent_requests_with_an_old_signature_are_all_answered(tmp_path: Path) -> None:
    """The first request changes the session key. The other requests still use the old one."""
    barrier = asyncio.Barrier(5)

    async def meet(request: Request) -> Response:
        await barrier.wait()
        return PlainTextResponse(request.user.username)

    async with empty_database("sqlite", tmp_path) as url, connected(url) as database:
        old = make_auth(database)
        await migrate(old.gateway, old.tables)
        await old.users.create_user("ann", password=PASSWORD)
        transport = httpx.ASGITransport(make_shared_app(old))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await post_login(client)
            cookies = {"sessionid": client.cookies["sessionid"]}
        new = make_auth(database, secret_key=["a newer secret key: for tests only", KEY])
        transport = httpx.ASGITransport(make_app(new, Route("/meet", meet)))

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver", cookies=cookies) as client:
                return await client.get("/meet")

        responses = await asyncio.gather(*(ask() for _ in range(5)))
        assert [(response.status_code, response.text) for response in responses] == [(200, "ann")] * 5
        renewed = [response for response in responses if "sessionid" in response.headers.get("set-cookie", "")]
        assert len(renewed) == 1
        await new.close()


@pytest.mark.parametrize("engine", ["db", "signed_cookies"])
async def test_a_failing_response_keeps_a_session_with_an_old_signature(tmp_path: Path, engine: str) -> None:
    async def fail(request: Request) -> Response:
        return PlainTextResponse("", 503)

    async def crash(request: Request) -> Response:
        raise RuntimeError

    async with empty_database("sqlite", tmp_path) as url, connected(url) as database:
        project = DjangoProject(session_engine=engine)
        old = make_auth(database, project)
        await migrate(old.gateway, old.tables)
        await old.users.create_user("ann", password=PASSWORD)
        transport = httpx.ASGITransport(make_shared_app(old))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await post_login(client)
            cookies = client.cookies
        new = make_auth(database, project, secret_key=["a newer secret key: for tests only", KEY])
        app = make_app(new, Route("/fail", fail), Route("/crash", crash))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver", cookies=cookies) as client:
            assert "set-cookie" not in (await client.get("/fail")).headers
            assert (await client.get("/crash")).status_code == 500
            assert await username_here(client) == "ann"
            # A flush is executed, even with an old signature.
            assert (await client.get("/flush")).status_code == 200
            assert await username_here(client) == ""
        await new.close()


# Session engines


@single_server
async def test_signed_cookies_are_read_by_both(server: str, tmp_path: Path) -> None:
    project_settings = DjangoProject(session_engine="django.contrib.sessions.backends.signed_cookies")
    engine = "django.contrib.sessions.backends.signed_cookies"
    async with shared_project(server, tmp_path, project_settings, SESSION_ENGINE=engine) as (django, auth):
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with browser(django, make_shared_app(auth)) as client:
            await post_login(client)
            assert await username_in_django(client, django) == "ann"
            await client.post(f"{django.url}/session", json={"django": "é ☃"})
            await client.post("/update_session", json={"starlette": "ñ"})
            session = (await client.get(f"{django.url}/whoami")).json()["session"]
            assert (session["django"], session["starlette"]) == ("é ☃", "ñ")
            stolen = dict(client.cookies)
            await client.post(f"{django.url}/logout")
            assert await username_here(client) == ""
            client.cookies.update(stolen)
            assert await username_here(client) == "ann", "a signed cookie cannot be revoked"
            await auth.users.set_password(ann, "another good long password")
            assert await username_here(client) == await username_in_django(client, django) == "", (
                "a new password invalidates it"
            )


@needs_redis
@single_server
async def test_ended_sessions_are_deleted_from_djangos_cache(server: str, tmp_path: Path) -> None:
    prefix = f"t{uuid.uuid4().hex}"
    project_settings = DjangoProject(
        session_engine="cached_db", invalidate_session=DjangoCache(REDIS_URL, key_prefix=prefix)
    )
    django_settings: dict[str, Any] = {
        "SESSION_ENGINE": "django.contrib.sessions.backends.cached_db",
        "CACHES": {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": REDIS_URL,
                "KEY_PREFIX": prefix,
            }
        },
    }
    async with shared_project(server, tmp_path, project_settings, **django_settings) as (django, auth):
        await auth.users.create_user("ann", password=PASSWORD)
        async with browser(django, make_shared_app(auth)) as client:
            await post_login(client)
            assert await username_in_django(client, django) == await username_here(client) == "ann"
            await client.post("/update_session", json={"starlette": 1})
            assert (await client.get(f"{django.url}/whoami")).json()["session"]["starlette"] == 1
            before = dict(client.cookies)
            await client.post("/accounts/logout")
            client.cookies.update(before)
            assert await username_in_django(client, django) == await username_here(client) == ""
        async with browser(django, make_shared_app(auth)) as client:
            # The session is revoked from another device while requests to Django use it.
            await post_login(client)
            assert await username_in_django(client, django) == "ann"
            ann = await get_user(auth, "ann")
            stopped = asyncio.Event()

            async def send_requests() -> None:
                while not stopped.is_set():
                    await username_in_django(client, django)

            requests = asyncio.create_task(send_requests())
            assert await auth.user_sessions.revoke_all(ann) == 1
            stopped.set()
            await requests
            assert await username_in_django(client, django) == ""


async def test_a_cached_session_is_invalidated_after_the_commit(tmp_path: Path) -> None:
    """Before the commit, Django would put the old session back into its cache."""
    stored_keys: list[list[str]] = []

    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:

        async def invalidate(key: str) -> None:
            async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as second_connection:
                rows = await second_connection.fetch_all("SELECT session_key FROM django_session")
            stored_keys.append([row["session_key"] for row in rows])

        auth = make_auth(database, DjangoProject(session_engine="cached_db", invalidate_session=invalidate))
        await migrate(auth.gateway, auth.tables)
        ann = await auth.users.create_user("ann", password=PASSWORD)
        session = await auth.sessions.load("")
        auth.session_backend.bind(session, ann, auth.model_backend.path)
        await auth.sessions.save(session, 60)
        assert stored_keys == []
        assert await auth.user_sessions.revoke_all(ann) == 1
        assert stored_keys == [[]]
        await auth.close()


def test_cached_db_without_invalidate_session_logs_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        DjangoProject(session_engine="cached_db")
    assert "a user who logs out here stays logged in to Django" in caplog.text


@single_server
async def test_cookie_and_csrf_settings_of_a_project_are_shared(server: str, tmp_path: Path) -> None:
    """Names and ages of cookies, CSRF secrets in the session, and sessions saved at each request."""
    project_settings = DjangoProject(
        session_cookie_name="sid",
        session_cookie_age=1000,
        session_expire_at_browser_close=True,
        session_save_every_request=True,
        csrf_use_sessions=True,
    )
    django_settings: dict[str, Any] = {
        "SESSION_COOKIE_NAME": "sid",
        "SESSION_COOKIE_AGE": 1000,
        "SESSION_EXPIRE_AT_BROWSER_CLOSE": True,
        "SESSION_SAVE_EVERY_REQUEST": True,
        "CSRF_USE_SESSIONS": True,
    }
    async with (
        shared_project(server, tmp_path, project_settings, **django_settings) as (django, auth),
        browser(django, make_shared_app(auth)) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        response = await post_login(client)
        cookie = next(value for value in response.headers.get_list("set-cookie") if value.startswith("sid="))
        assert "Max-Age" not in cookie
        assert "csrftoken" not in client.cookies
        assert "set-cookie" in (await client.get("/whoami")).headers
        del client.headers["origin"]
        token = token_in((await client.get("/accounts/password_change")).text)
        assert (await client.post(f"{django.url}/form", data={"csrfmiddlewaretoken": token})).status_code == 200
        token = token_in((await client.get(f"{django.url}/form")).text)
        assert (
            await client.post("/accounts/logout", data={"csrfmiddlewaretoken": token[:-1] + "-"})
        ).status_code == 403
        assert (await client.post("/accounts/logout", data={"csrfmiddlewaretoken": token})).status_code == 303


async def test_a_session_stores_djangos_name_of_the_backend(tmp_path: Path) -> None:
    class Ldap(AuthenticationBackend):
        async def authenticate(
            self, conn: HTTPConnection, *, username: str = "", password: str = "", **credentials: Any
        ) -> User | None:
            return await get_user(get_auth(conn), username) if password == "ldap" else None

    class Other(AuthenticationBackend):
        pass

    names = {f"{Ldap.__module__}.{Ldap.__qualname__}": "django_auth_ldap.backend.LDAPBackend"}
    async with empty_database("sqlite", tmp_path) as url, connected(url) as database:
        auth = make_auth(database, DjangoProject(auth_backends=names), backends=[Ldap(), Other()])
        await migrate(auth.gateway, auth.tables)
        assert auth.backends[1].path == f"{Other.__module__}.{Other.__qualname__}"
        await auth.users.create_user("ann", password=PASSWORD)
        transport = httpx.ASGITransport(make_app(auth, Route("/session_data", session_view)))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await post_login(client, password="ldap")
            session = (await client.get("/session_data")).json()
            assert session["_auth_user_backend"] == "django_auth_ldap.backend.LDAPBackend"
        await auth.close()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "3.2"}, r"Use 4\.2"),
        ({"session_engine": "django.contrib.sessions.backends.cache"}, "cached_db"),
        ({"session_engine": "file"}, "cached_db"),
        ({"password_algorithm": "md5"}, "pbkdf2_sha256"),
        ({"time_zone": "Mars/Base"}, "tzdata"),
        ({"time_zone": "../etc"}, "tzdata"),
        ({"session_cookie_samesite": "lax"}, "Lax"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_shared_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message):
        DjangoProject(**settings).cookie()


def test_session_limits_are_refused_for_a_django_project() -> None:
    with pytest.raises(ImproperlyConfigured, match="session_cookie_age"):
        Auth(Database("sqlite+aiosqlite:///a"), secret_key=KEY, django=DjangoProject(), session_limits="aal2")


async def test_a_session_too_large_for_a_signed_cookie_raises_an_error(tmp_path: Path) -> None:
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        auth = make_auth(database, DjangoProject(session_engine="signed_cookies"))
        session = SessionBase({"a": uuid.uuid4().hex * 500})
        session["b"] = [uuid.uuid4().hex for _ in range(200)]
        with pytest.raises(SessionTooLarge, match="SESSION_ENGINE"):
            await auth.sessions.save(session, 60)


async def test_an_expiry_in_a_signed_cookie_is_in_local_time(tmp_path: Path) -> None:
    """With USE_TZ=False, both applications store times without an offset."""
    clock = FrozenClock()
    project = DjangoProject(session_engine="signed_cookies", use_tz=False, time_zone="America/New_York")
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        store = make_auth(database, project, clock=clock).sessions
        session = await store.load("")
        session["a"] = 1
        session.set_expiry(timedelta(seconds=100))
        assert "+" not in session["_session_expiry"]
        loaded = await store.load(await store.save(session, session.get_expiry_age()))
        assert loaded.get_expiry_age() in (99, 100)


async def test_a_signed_cookie_is_renewed_with_save_every_request(tmp_path: Path) -> None:
    project = DjangoProject(session_engine="signed_cookies", session_save_every_request=True)
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        store = make_auth(database, project).sessions
        session = await store.load("")
        session["a"] = 1
        assert (await store.load(await store.save(session, 60))).modified


@servers
async def test_the_sessions_of_a_user_are_found_among_many_and_revoked(server: str, tmp_path: Path) -> None:
    """The table has no user column."""
    async with empty_database(server, tmp_path) as url, connected(url) as database:
        clock = FrozenClock()
        auth = make_auth(database, clock=clock)
        await migrate(auth.gateway, auth.tables)
        keys = []
        for number in range(BATCH + 20):
            session = await auth.sessions.load("")
            session["_auth_user_id"] = "7" if number % 100 == 0 else "8"
            keys.append(await auth.sessions.save(session, 1000))
            clock.tick(0.01)
        await database.execute(
            "UPDATE django_session SET session_data = 'x' WHERE session_key = :key", {"key": keys[1]}
        )
        assert (await auth.sessions.load(keys[1])).is_empty()
        sessions = await auth.sessions.list_sessions("7")
        assert [session.session_key for session in sessions] == [None] * 6
        times = [session.last_seen for session in sessions]
        assert times == sorted(times, reverse=True)
        first = sessions[0].record
        assert first is not None
        assert await auth.sessions.revoke("8", first.public_id) is False
        assert await auth.sessions.revoke("7", first.public_id) is True
        assert await auth.sessions.revoke("7", first.public_id) is False
        assert await auth.sessions.revoke_all("7") == 5
        assert await auth.sessions.list_sessions("7") == []
        assert len(await auth.sessions.list_sessions("8")) == BATCH + 20 - 7
        clock.tick(2000)
        assert await auth.sessions.clear_expired() == BATCH + 20 - 6
        await auth.close()


async def test_a_custom_session_table_is_in_local_time(tmp_path: Path) -> None:
    table = sa.Table(
        "own_session",
        sa.MetaData(),
        sa.Column("session_key", sa.String(40), primary_key=True),
        sa.Column("session_data", sa.Text, nullable=False),
        sa.Column("expire_date", sa.DateTime, nullable=False),
    )
    clock = FrozenClock()
    project = DjangoProject(session_table=table, use_tz=False, time_zone="America/New_York")
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        auth = make_auth(database, project, clock=clock)
        await auth.gateway.execute(sa.schema.CreateTable(table))
        session = await auth.sessions.load("")
        session["a"] = 1
        key = await auth.sessions.save(session, 1800)
        stored = await database.fetch_val("SELECT expire_date FROM own_session")
        end = datetime.fromtimestamp(clock() + 1800, NEW_YORK).replace(tzinfo=None)
        assert datetime.fromisoformat(str(stored)) == end
        assert (await auth.sessions.load(key))["a"] == 1
        await auth.close()


async def test_a_signed_cookie_expires_as_set_by_the_application(tmp_path: Path) -> None:
    clock = FrozenClock()
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        store = make_auth(database, DjangoProject(session_engine="signed_cookies"), clock=clock).sessions
        for seconds, end in ((100, 100), (0, 14 * 24 * 3600), (None, 14 * 24 * 3600)):
            session = await store.load("")
            session["a"] = 1
            session.set_expiry(seconds)
            cookie = await store.save(session, session.get_expiry_age())
            clock.tick(end)
            assert (await store.load(cookie))["a"] == 1
            clock.tick(1)
            assert (await store.load(cookie)).is_empty()
        for text, is_empty in (("2001-01-01T00:00:00+00:00", True), ("2999-01-01T00:00:00", False), ("soon", True)):
            session = await store.load("")
            session.update(a=1, _session_expiry=text)
            assert (await store.load(await store.save(session, 60))).is_empty() is is_empty


# Password hashes


async def test_password_hashes_are_verified_by_both_and_not_upgraded(tmp_path: Path) -> None:
    """With each algorithm of Django, in both directions, at a real login."""
    listed = {
        "pbkdf2_sha256": "PBKDF2PasswordHasher",
        "pbkdf2_sha1": "PBKDF2SHA1PasswordHasher",
        "argon2": "Argon2PasswordHasher",
        "scrypt": "ScryptPasswordHasher",
        "bcrypt_sha256": "BCryptSHA256PasswordHasher",
    }
    async with shared_project("sqlite", tmp_path) as (django, auth):
        version = django.code("import django\nresult = django.__version__")[:3]
        for algorithm, hasher in listed.items():
            project_settings = DjangoProject(version=version, password_algorithm=algorithm)
            auth = make_auth(auth.database, project_settings, passwords=project_settings.passwords())
            first, second = f"ann-{algorithm}", f"ben-{algorithm}"
            await auth.users.create_user(first, password=PASSWORD)
            django.code(
                "from django.conf import settings\n"
                "from django.contrib.auth import hashers\n"
                f"listed = {[*dict.fromkeys([hasher, *listed.values()])]}\n"
                "settings.PASSWORD_HASHERS = [f'django.contrib.auth.hashers.{name}' for name in listed]\n"
                "hashers.get_hashers.cache_clear()\n"
                "hashers.get_hashers_by_algorithm.cache_clear()\n"
                f"User.objects.create_user({second!r}, password={PASSWORD!r})"
            )
            hashes = {name: (await get_user(auth, name)).password for name in (first, second)}
            assert all(encoded.startswith(f"{algorithm}$") for encoded in hashes.values())
            for name in hashes:
                async with browser(django, make_shared_app(auth)) as client:
                    assert (await post_login(client, name)).status_code == 303
                async with browser(django, make_shared_app(auth)) as client:
                    assert await log_in_to_django(client, django, name) == 200
            assert {name: (await get_user(auth, name)).password for name in hashes} == hashes
            auth.passwords.close()
        # A hash with other iterations is not upgraded here. (Django would upgrade it at its next login.)
        other_iterations = Passwords([PBKDF2PasswordHasher(iterations=7)])
        ben = await get_user(auth, second)
        await auth.users.replace_password(ben, await other_iterations.hash(PASSWORD))
        async with browser(django, make_shared_app(auth)) as client:
            assert (await post_login(client, second)).status_code == 303
        assert (await get_user(auth, second)).password.startswith("pbkdf2_sha256$7$")
        auth.passwords.close()
        other_iterations.close()


# Databases


async def test_recorded_migrations_are_not_recorded_twice(tmp_path: Path) -> None:
    """The tables were dropped, but the migration history was kept."""
    async with empty_database("sqlite", tmp_path) as url, connected(url) as database:
        auth = make_auth(database)
        await migrate(auth.gateway, auth.tables)
        query = "SELECT app, name FROM django_migrations ORDER BY app, name"
        before = [tuple(row) for row in await database.fetch_all(query)]
        for table in reversed(list(auth.tables)):
            await database.execute(f"DROP TABLE {table.name}")
        await database.execute("DELETE FROM django_migrations WHERE app = 'auth'")
        assert "auth_user" in await migrate(auth.gateway, auth.tables)
        assert [tuple(row) for row in await database.fetch_all(query)] == before
        await auth.close()


@servers
async def test_django_has_no_migrations_to_run_on_tables_created_here(server: str, tmp_path: Path) -> None:
    async with empty_database(server, tmp_path) as url, connected(url) as database:
        auth = make_auth(database)
        created = await migrate(auth.gateway, auth.tables)
        assert {"auth_user", "django_session", "django_migrations", "auth_token"} <= set(created)
        assert await migrate(auth.gateway, auth.tables) == []
        await auth.users.create_superuser("boss", password=PASSWORD)
        project = Django(url, tmp_path)
        await asyncio.to_thread(project.start)
        assert "[ ]" not in await asyncio.to_thread(project.manage, "showmigrations")
        assert await asyncio.to_thread(project.manage, "makemigrations", "--check", "--dry-run", "auth", "sessions")
        try:
            async with browser(project, make_shared_app(auth)) as client:
                await post_login(client, "boss")
                page = await client.get(f"{project.url}/admin/auth/user/")
                assert "1 user" in page.text
                page = await client.get(f"{project.url}/admin/auth/user/add/")
                client.headers["origin"] = project.url
                fields = {"username": "ann", "password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
                token = {"csrfmiddlewaretoken": token_in(page.text)}
                response = await client.post(f"{project.url}/admin/auth/user/add/", data={**fields, **token})
                assert response.status_code == 302, response.text
                assert await auth.users.get_by_username("ann") is not None
        finally:
            await asyncio.to_thread(project.stop)
            await auth.close()


@servers
async def test_djangos_tables_are_never_altered(server: str, tmp_path: Path) -> None:
    async with shared_project(server, tmp_path) as (django, auth):
        for name in ("auth_token", "auth_throttle"):
            await auth.database.execute(f"DROP TABLE {name}")
        assert set(await migrate(auth.gateway, auth.tables)) == {
            "auth_token",
            "auth_token_expires",
            "auth_token_subject",
            "auth_throttle",
            "auth_throttle_until",
        }
        assert await migrate(auth.gateway, auth.tables) == []
        assert "No changes" in django.manage("makemigrations", "--check", "--dry-run")


async def test_migrate_refuses_an_incomplete_django_database(tmp_path: Path) -> None:
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/half.sqlite3") as database:
        auth = make_auth(database)
        await auth.gateway.execute(sa.schema.CreateTable(auth.tables.group))
        with pytest.raises(ImproperlyConfigured, match=r"manage\.py migrate"):
            await migrate(auth.gateway, auth.tables)
        custom = make_auth(database, DjangoProject(user="people_person", username_field="email"))
        with pytest.raises(ImproperlyConfigured, match=r"manage\.py migrate"):
            await migrate(custom.gateway, custom.tables)
        await auth.close()


@pytest.mark.skipif(not any("postgres" in server for server in BACKENDS), reason="needs PostgreSQL")
async def test_a_database_of_django_before_4_1_works(tmp_path: Path) -> None:
    """Django before 4.1 created sequences instead of identity columns, and integer keys."""
    server = next(server for server in BACKENDS if "postgres" in server)
    async with shared_project(server, tmp_path, DEFAULT_AUTO_FIELD="django.db.models.AutoField") as (_, auth):
        for table in auth.tables.django_tables[:-1]:
            for statement in (
                f"ALTER TABLE {table.name} ALTER id DROP IDENTITY",
                f"ALTER TABLE {table.name} ALTER id TYPE integer",
                f"CREATE SEQUENCE {table.name}_old_seq OWNED BY {table.name}.id START 5000",
                f"ALTER TABLE {table.name} ALTER id SET DEFAULT nextval('{table.name}_old_seq')",
            ):
                await auth.database.execute(statement)
        ann = await auth.users.create_user("ann", password=PASSWORD)
        assert ann.id == 5000
        await auth.users.create_permission("polls.add_vote")
        group = await auth.users.create_group("voters")
        await auth.users.grant(group, "polls.add_vote")
        await auth.users.add_to_group(ann, group)
        assert (await get_user(auth, "ann")).has_perm("polls.add_vote")
