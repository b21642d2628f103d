"""Projects of other kinds: users of their own, local time, other engines of sessions, old databases, new keys."""

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
from .djangos import KEY, Django, browser, django_on, make_auth, sharing
from .test_django import everything, here, log_in_there, make, there

NEW_YORK, AUCKLAND = ZoneInfo("America/New_York"), ZoneInfo("Pacific/Auckland")  # read before there is an event loop
servers = pytest.mark.parametrize("server", BACKENDS, ids=name_of)
one_server = pytest.mark.parametrize("server", BACKENDS[-1:], ids=name_of)  # to what is tested, all are the same


async def user_called(auth: Auth, name: str) -> User:
    user: User | None = await auth.users.get_by_username(name)
    assert user is not None
    return user


@contextlib.asynccontextmanager
async def shared(
    server: str, folder: Path, ours: DjangoProject | None = None, options: dict[str, Any] | None = None, **theirs: Any
) -> AsyncIterator[tuple[Django, Auth]]:
    """A project of its own, and our half of it."""
    with contextlib.ExitStack() as stack:
        # In a thread: starting it waits, and runs an event loop.
        project = await asyncio.to_thread(stack.enter_context, django_on(server, folder, **theirs))
        try:
            async with sharing(project, ours, **(options or {})) as auth:
                yield project, auth
        finally:
            await asyncio.to_thread(stack.close)


# Users of its own

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


@servers
async def test_people_with_uuids_and_addresses_for_names_in_local_time(server: str, tmp_path: Path) -> None:
    ours = DjangoProject(user=PERSON, username_field="email", use_tz=False, time_zone="America/New_York")
    theirs: dict[str, Any] = {"AUTH_USER_MODEL": "people.Person", "USE_TZ": False, "TIME_ZONE": "America/New_York"}
    options = {"user_class": Person}
    async with (
        shared(server, tmp_path, ours, options, **theirs) as (django, auth),
        browser(django, make(auth)) as client,
    ):
        ann = await auth.users.create_user("Ann@EXAMPLE.org", password=PASSWORD, phone="12")
        assert isinstance(ann.id, uuid.UUID)
        assert (ann.username, ann.email, ann.phone) == ("Ann@example.org", "Ann@example.org", "12")
        seen = django.code(
            "user = User.objects.get()\nresult = [str(user.id), user.email, user.phone, user.date_joined.isoformat()]"
        )
        assert ann.date_joined is not None
        local = ann.date_joined.astimezone(NEW_YORK).replace(tzinfo=None)
        assert seen == [str(ann.id), "Ann@example.org", "12", local.isoformat()]
        # One login, both ways.
        assert (await post_login(client, "Ann@example.org")).status_code == 303
        assert await there(client, django) == await here(client) == "Ann@example.org"
        await client.post(f"{django.url}/logout")
        assert await here(client) == ""
        assert await log_in_there(client, django, "Ann@example.org") == 200
        assert await here(client) == "Ann@example.org"
        fresh = await user_called(auth, ann.username)
        assert await auth.users.get(str(ann.id)) == fresh
        assert fresh.last_login is not None
        assert abs(datetime.now(UTC) - fresh.last_login) < timedelta(seconds=30)
        # Sessions, which end in local time.
        await client.post(f"{django.url}/expire", json=100)
        await client.post(f"{django.url}/session", json={"a": 1})
        assert (await client.get("/whoami")).json()["session"]["a"] == 1
        [session] = await auth.sessions.list_sessions(str(ann.id))
        assert session.record is not None
        assert 60 < session.record.expires - datetime.now(UTC).timestamp() <= 100
        # A link to a new password, counted in local time.
        made_there = django.code(
            "from django.contrib.auth.tokens import default_token_generator as tokens\n"
            "result = tokens.make_token(User.objects.get())"
        )
        assert await auth.reset_tokens.check(fresh, made_there)
        # Groups and permissions.
        await auth.users.create_permission("polls.add_vote")
        await auth.users.grant(ann, "polls.add_vote")
        await auth.users.add_to_group(ann, await auth.users.create_group("voters"))
        seen = django.code(
            "user = User.objects.get()\n"
            "result = [sorted(user.get_all_permissions()), [group.name for group in user.groups.all()]]"
        )
        assert seen == [["polls.add_vote"], ["voters"]]
        assert [user.id for user in await auth.users.with_perm("polls.add_vote")] == [ann.id]
        # A new address is a new name.
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
async def test_a_project_in_local_time_and_a_session_that_it_lets_end(server: str, tmp_path: Path) -> None:
    """The moment in `_session_expiry` bears no zone there."""
    ours = DjangoProject(use_tz=False, time_zone="Pacific/Auckland")
    async with shared(server, tmp_path, ours, USE_TZ=False, TIME_ZONE="Pacific/Auckland") as (django, auth):
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
        session.set_expiry(timedelta(seconds=450))  # which Django has to understand, too
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


async def test_a_model_may_lack_what_it_does_not_need(tmp_path: Path) -> None:
    """Of AbstractBaseUser and PermissionsMixin, without more."""
    member = sa.Table(
        "club_member",
        sa.MetaData(),
        sa.Column("nr", sa.Integer, primary_key=True),
        sa.Column("password", sa.String(128), nullable=False),
        sa.Column("last_login", sa.DateTime),
        sa.Column("is_superuser", sa.Boolean, nullable=False),
        sa.Column("nick", sa.String(30), nullable=False, unique=True),
    )
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/club.sqlite3") as database:
        auth = make_auth(database, DjangoProject(user=member, username_field="nick", user_model="clubmember"))
        await database.execute(
            "CREATE TABLE club_member (nr integer PRIMARY KEY, password text, last_login datetime, "
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
        async with httpx.AsyncClient(transport=httpx.ASGITransport(make(auth)), base_url="http://testserver") as client:
            assert (await post_login(client)).status_code == 303
            assert await here(client) == "ann"
        await auth.close()


def test_a_table_that_is_no_users_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match="has no column username"):
        Tables.django(PERSON)


@servers
async def test_a_name_that_nobody_logs_in_with_is_filled_in(server: str, tmp_path: Path) -> None:
    """AbstractUser with USERNAME_FIELD = "email" keeps its column of names."""
    user = sa.Table("auth_user", sa.MetaData(), *user_columns())
    async with shared(server, tmp_path, DjangoProject(user=user, username_field="email")) as (django, auth):
        ann = await auth.users.create_user("ann@example.org", password=PASSWORD)
        assert django.code(f"result = User.objects.get(id={ann.id}).username") == "ann@example.org"
        await auth.users.update(ann, email="new@example.org")
        assert django.code(f"user = User.objects.get(id={ann.id})\nresult = [user.username, user.email]") == [
            "ann@example.org",
            "new@example.org",
        ]


async def test_tables_that_django_would_not_have_made_are_left_to_it(tmp_path: Path) -> None:
    user = sa.Table("auth_user", sa.MetaData(), *user_columns(), sa.Column("shoe", sa.Integer))
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        auth = make_auth(database, DjangoProject(user=user))
        with pytest.raises(ImproperlyConfigured, match=r"manage\.py migrate"):
            await migrate(auth.gateway, auth.tables)
        await auth.close()


# Keys


@servers
async def test_a_new_secret_key_logs_nobody_out(server: str, tmp_path: Path) -> None:
    """Old keys go on being accepted; who comes gets a new key of the session, and a new signature."""
    newest = "a newer secret key that Django and we share: for tests only"
    async with shared(server, tmp_path) as (django, auth):
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with browser(django, make(auth)) as first, browser(django, make(auth)) as second:
            await post_login(first)
            await log_in_there(second, django, "ann")
            for client in (first, second):
                await client.post(f"{django.url}/session", json={"cart": [1]})
            renewed = Django(django.database_url, tmp_path, keys=f"{newest},{KEY}")
            renewed.start()
            try:
                new = make_auth(auth.database, secret_key=[newest, KEY])
                async with browser(renewed, make(new)) as client:
                    for cookies, ask in ((first.cookies, here), (second.cookies, lambda c: there(c, renewed))):
                        client.cookies = cookies
                        before = client.cookies["sessionid"]
                        assert await ask(client) == "ann"
                        assert client.cookies["sessionid"] != before
                        assert await here(client) == await there(client, renewed) == "ann"
                        assert (await client.get("/whoami")).json()["session"]["cart"] == [1]
                        # From now on the old key is not needed.
                        only_new = make_auth(auth.database, secret_key=[newest])
                        async with browser(renewed, make(only_new)) as later:
                            later.cookies = client.cookies
                            assert await here(later) == "ann"
                assert [user.id for user in [ann]] == [ann.id]
            finally:
                renewed.stop()


async def test_of_several_requests_with_an_old_signature_each_is_answered(tmp_path: Path) -> None:
    """The first gives the session its new key; the others, under way at the same time, are no intruders."""
    together = asyncio.Barrier(5)

    async def meet(request: Request) -> Response:
        await together.wait()
        return PlainTextResponse(request.user.username)

    async with empty_database("sqlite", tmp_path) as url, connected(url) as database:
        old = make_auth(database)
        await migrate(old.gateway, old.tables)
        await old.users.create_user("ann", password=PASSWORD)
        transport = httpx.ASGITransport(make(old))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await post_login(client)
            cookies = {"sessionid": client.cookies["sessionid"]}
        new = make_auth(database, secret_key=["a newer secret key that nobody knows: for tests only", KEY])
        transport = httpx.ASGITransport(make_app(new, Route("/meet", meet)))

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver", cookies=cookies) as one:
                return await one.get("/meet")

        answers = await asyncio.gather(*(ask() for _ in range(5)))
        assert [(answer.status_code, answer.text) for answer in answers] == [(200, "ann")] * 5
        renewed = [answer for answer in answers if "sessionid" in answer.headers.get("set-cookie", "")]
        assert len(renewed) == 1
        await new.close()


@pytest.mark.parametrize("engine", ["db", "signed_cookies"])
async def test_an_answer_that_fails_does_not_log_out_whose_signature_is_old(tmp_path: Path, engine: str) -> None:
    async def fail(request: Request) -> Response:
        return PlainTextResponse("", 503)

    async def crash(request: Request) -> Response:
        raise RuntimeError

    async with empty_database("sqlite", tmp_path) as url, connected(url) as database:
        project = DjangoProject(session_engine=engine)
        old = make_auth(database, project)
        await migrate(old.gateway, old.tables)
        await old.users.create_user("ann", password=PASSWORD)
        transport = httpx.ASGITransport(make(old))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await post_login(client)
            cookies = client.cookies
        new = make_auth(database, project, secret_key=["a newer secret key that nobody knows: for tests only", KEY])
        app = make_app(new, Route("/fail", fail), Route("/crash", crash))
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver", cookies=cookies) as client:
            assert "set-cookie" not in (await client.get("/fail")).headers
            assert (await client.get("/crash")).status_code == 500
            assert await here(client) == "ann"
            # But what somebody wished for is done, old signature or not.
            assert (await client.get("/flush")).status_code == 200
            assert await here(client) == ""
        await new.close()


# Engines


@one_server
async def test_signed_cookies_of_one_are_read_by_the_other(server: str, tmp_path: Path) -> None:
    ours = DjangoProject(session_engine="django.contrib.sessions.backends.signed_cookies")
    engine = "django.contrib.sessions.backends.signed_cookies"
    async with shared(server, tmp_path, ours, SESSION_ENGINE=engine) as (django, auth):
        ann = await auth.users.create_user("ann", password=PASSWORD)
        async with browser(django, make(auth)) as client:
            await post_login(client)
            assert await there(client, django) == "ann"
            await client.post(f"{django.url}/session", json={"theirs": "é ☃"})
            await client.post("/store", json={"ours": "ñ"})
            session = (await client.get(f"{django.url}/whoami")).json()["session"]
            assert (session["theirs"], session["ours"]) == ("é ☃", "ñ")
            stolen = dict(client.cookies)
            await client.post(f"{django.url}/logout")
            assert await here(client) == ""
            client.cookies.update(stolen)
            assert await here(client) == "ann", "nobody can call a cookie back"
            await auth.users.set_password(ann, "another good long password")
            assert await here(client) == await there(client, django) == "", "but it ends with the password"


@needs_redis
@one_server
async def test_a_cache_of_djangos_is_told_who_has_left(server: str, tmp_path: Path) -> None:
    prefix = f"t{uuid.uuid4().hex}"
    ours = DjangoProject(session_engine="cached_db", invalidate_session=DjangoCache(REDIS_URL, key_prefix=prefix))
    theirs: dict[str, Any] = {
        "SESSION_ENGINE": "django.contrib.sessions.backends.cached_db",
        "CACHES": {
            "default": {
                "BACKEND": "django.core.cache.backends.redis.RedisCache",
                "LOCATION": REDIS_URL,
                "KEY_PREFIX": prefix,
            }
        },
    }
    async with shared(server, tmp_path, ours, **theirs) as (django, auth):
        await auth.users.create_user("ann", password=PASSWORD)
        async with browser(django, make(auth)) as client:
            await post_login(client)
            assert await there(client, django) == await here(client) == "ann"
            await client.post("/store", json={"ours": 1})
            assert (await client.get(f"{django.url}/whoami")).json()["session"]["ours"] == 1
            before = dict(client.cookies)
            await client.post("/accounts/logout")
            client.cookies.update(before)
            assert await there(client, django) == await here(client) == ""
        async with browser(django, make(auth)) as client:
            # Ended by its owner from elsewhere, while somebody asks Django again and again.
            await post_login(client)
            assert await there(client, django) == "ann"
            ann = await user_called(auth, "ann")
            done = asyncio.Event()

            async def keep_asking() -> None:
                while not done.is_set():
                    await there(client, django)

            asking = asyncio.create_task(keep_asking())
            assert await auth.user_sessions.revoke_all(ann) == 1
            done.set()
            await asking
            assert await there(client, django) == ""


async def test_a_cache_is_told_after_the_commit(tmp_path: Path) -> None:
    """Before it, Django would find the session in the table, and put it into its cache again."""
    seen: list[list[str]] = []

    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:

        async def forget(key: str) -> None:
            async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as other:
                rows = await other.fetch_all("SELECT session_key FROM django_session")
            seen.append([row["session_key"] for row in rows])

        auth = make_auth(database, DjangoProject(session_engine="cached_db", invalidate_session=forget))
        await migrate(auth.gateway, auth.tables)
        ann = await auth.users.create_user("ann", password=PASSWORD)
        session = await auth.sessions.load("")
        auth.session_backend.bind(session, ann, auth.model_backend.path)
        await auth.sessions.save(session, 60)
        assert seen == []
        assert await auth.user_sessions.revoke_all(ann) == 1
        assert seen == [[]]
        await auth.close()


def test_without_a_hook_for_the_cache_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        DjangoProject(session_engine="cached_db")
    assert "who logs out here stays logged in there" in caplog.text


@one_server
async def test_other_settings_of_a_project(server: str, tmp_path: Path) -> None:
    """An engine of its own, secrets of forms in the session, names and ages of cookies, sessions saved at each request."""
    ours = DjangoProject(
        session_cookie_name="sid",
        session_cookie_age=1000,
        session_expire_at_browser_close=True,
        session_save_every_request=True,
        csrf_use_sessions=True,
    )
    theirs: dict[str, Any] = {
        "SESSION_COOKIE_NAME": "sid",
        "SESSION_COOKIE_AGE": 1000,
        "SESSION_EXPIRE_AT_BROWSER_CLOSE": True,
        "SESSION_SAVE_EVERY_REQUEST": True,
        "CSRF_USE_SESSIONS": True,
    }
    async with shared(server, tmp_path, ours, **theirs) as (django, auth), browser(django, make(auth)) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        answer = await post_login(client)
        cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("sid="))
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


async def test_the_backend_that_let_somebody_in_bears_djangos_name(tmp_path: Path) -> None:
    class Ldap(AuthenticationBackend):
        async def authenticate(
            self, conn: HTTPConnection, *, username: str = "", password: str = "", **credentials: Any
        ) -> User | None:
            return await user_called(get_auth(conn), username) if password == "ldap" else None

    class Other(AuthenticationBackend):
        pass

    names = {f"{Ldap.__module__}.{Ldap.__qualname__}": "django_auth_ldap.backend.LDAPBackend"}
    async with empty_database("sqlite", tmp_path) as url, connected(url) as database:
        auth = make_auth(database, DjangoProject(auth_backends=names), backends=[Ldap(), Other()])
        await migrate(auth.gateway, auth.tables)
        assert auth.backends[1].path == f"{Other.__module__}.{Other.__qualname__}"
        await auth.users.create_user("ann", password=PASSWORD)
        transport = httpx.ASGITransport(make_app(auth, Route("/everything", everything)))
        async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
            await post_login(client, password="ldap")
            session = (await client.get("/everything")).json()
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


def test_limits_of_ours_do_not_go_with_sessions_of_djangos() -> None:
    with pytest.raises(ImproperlyConfigured, match="session_cookie_age"):
        Auth(Database("sqlite+aiosqlite:///a"), secret_key=KEY, django=DjangoProject(), session_limits="aal2")


async def test_a_session_too_large_for_djangos_cookie_is_an_error_for_the_programmer(tmp_path: Path) -> None:
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        auth = make_auth(database, DjangoProject(session_engine="signed_cookies"))
        session = SessionBase({"a": uuid.uuid4().hex * 500})
        session["b"] = [uuid.uuid4().hex for _ in range(200)]
        with pytest.raises(SessionTooLarge, match="SESSION_ENGINE"):
            await auth.sessions.save(session, 60)


async def test_a_signed_cookie_of_local_time_ends_when_django_said(tmp_path: Path) -> None:
    """What Django stored of a moment bears no zone there, and what we store bears none either."""
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


async def test_a_signed_cookie_is_renewed_at_each_request_where_the_project_says_so(tmp_path: Path) -> None:
    project = DjangoProject(session_engine="signed_cookies", session_save_every_request=True)
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3") as database:
        store = make_auth(database, project).sessions
        session = await store.load("")
        session["a"] = 1
        assert (await store.load(await store.save(session, 60))).modified


@servers
async def test_a_users_sessions_are_found_among_many_and_ended(server: str, tmp_path: Path) -> None:
    """The table does not know whose they are."""
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
        theirs = await auth.sessions.list_sessions("7")
        assert [session.session_key for session in theirs] == [None] * 6
        seen = [session.last_seen for session in theirs]
        assert seen == sorted(seen, reverse=True)
        first = theirs[0].record
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


async def test_a_table_of_sessions_of_ones_own_is_in_local_time_too(tmp_path: Path) -> None:
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


async def test_a_signed_cookie_ends_when_the_application_said(tmp_path: Path) -> None:
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


# Hashes


async def test_hashes_of_one_are_read_by_the_other_and_stay_as_they_are(tmp_path: Path) -> None:
    """With each algorithm of Django's list, in both directions, at a real login."""
    listed = {
        "pbkdf2_sha256": "PBKDF2PasswordHasher",
        "pbkdf2_sha1": "PBKDF2SHA1PasswordHasher",
        "argon2": "Argon2PasswordHasher",
        "scrypt": "ScryptPasswordHasher",
        "bcrypt_sha256": "BCryptSHA256PasswordHasher",
    }
    async with shared("sqlite", tmp_path) as (django, auth):
        version = django.code("import django\nresult = django.__version__")[:3]
        for algorithm, hasher in listed.items():
            ours = DjangoProject(version=version, password_algorithm=algorithm)
            auth = make_auth(auth.database, ours, passwords=ours.passwords())
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
            hashes = {name: (await user_called(auth, name)).password for name in (first, second)}
            assert all(encoded.startswith(f"{algorithm}$") for encoded in hashes.values())
            for name in hashes:
                async with browser(django, make(auth)) as client:
                    assert (await post_login(client, name)).status_code == 303
                async with browser(django, make(auth)) as client:
                    assert await log_in_there(client, django, name) == 200
            assert {name: (await user_called(auth, name)).password for name in hashes} == hashes
            auth.passwords.close()
        # One of another kind stays too, here. (Django would make it anew, as in any of its own logins.)
        other = Passwords([PBKDF2PasswordHasher(iterations=7)])
        ben = await user_called(auth, second)
        await auth.users.replace_password(ben, await other.hash(PASSWORD))
        async with browser(django, make(auth)) as client:
            assert (await post_login(client, second)).status_code == 303
        assert (await user_called(auth, second)).password.startswith("pbkdf2_sha256$7$")
        auth.passwords.close()
        other.close()


# Databases


async def test_what_a_project_has_noted_already_is_not_noted_twice(tmp_path: Path) -> None:
    """One whose tables were dropped, but for the history of its migrations."""
    async with empty_database("sqlite", tmp_path) as url, connected(url) as database:
        auth = make_auth(database)
        await migrate(auth.gateway, auth.tables)
        noted = "SELECT app, name FROM django_migrations ORDER BY app, name"
        before = [tuple(row) for row in await database.fetch_all(noted)]
        for table in reversed(list(auth.tables)):
            await database.execute(f"DROP TABLE {table.name}")
        await database.execute("DELETE FROM django_migrations WHERE app = 'auth'")
        assert "auth_user" in await migrate(auth.gateway, auth.tables)
        assert [tuple(row) for row in await database.fetch_all(noted)] == before
        await auth.close()


@servers
async def test_on_tables_that_we_made_django_has_nothing_left_to_do(server: str, tmp_path: Path) -> None:
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
            async with browser(project, make(auth)) as client:
                await post_login(client, "boss")
                page = await client.get(f"{project.url}/admin/auth/user/")
                assert "1 user" in page.text
                page = await client.get(f"{project.url}/admin/auth/user/add/")
                client.headers["origin"] = project.url
                sent = {"username": "ann", "password1": PASSWORD, "password2": PASSWORD, "usable_password": "true"}
                token = {"csrfmiddlewaretoken": token_in(page.text)}
                answer = await client.post(f"{project.url}/admin/auth/user/add/", data={**sent, **token})
                assert answer.status_code == 302, answer.text
                assert await auth.users.get_by_username("ann") is not None
        finally:
            await asyncio.to_thread(project.stop)
            await auth.close()


@servers
async def test_djangos_tables_are_never_altered(server: str, tmp_path: Path) -> None:
    async with shared(server, tmp_path) as (django, auth):
        assert set(await migrate(auth.gateway, auth.tables)) == {
            "auth_token",
            "auth_token_expires",
            "auth_token_subject",
            "auth_throttle",
            "auth_throttle_until",
        }
        assert await migrate(auth.gateway, auth.tables) == []
        assert "No changes" in django.manage("makemigrations", "--check", "--dry-run")


async def test_half_a_django_database_is_left_to_django(tmp_path: Path) -> None:
    async with connected(f"sqlite+aiosqlite:///{tmp_path}/half.sqlite3") as database:
        auth = make_auth(database)
        await auth.gateway.execute(sa.schema.CreateTable(auth.tables.group))
        with pytest.raises(ImproperlyConfigured, match=r"manage\.py migrate"):
            await migrate(auth.gateway, auth.tables)
        other = make_auth(database, DjangoProject(user="people_person", username_field="email"))
        with pytest.raises(ImproperlyConfigured, match=r"manage\.py migrate"):
            await migrate(other.gateway, other.tables)
        await auth.close()


@pytest.mark.skipif(not any("postgres" in server for server in BACKENDS), reason="needs PostgreSQL")
async def test_an_old_database_with_sequences_and_small_keys(tmp_path: Path) -> None:
    """As Django before 4.1 made it."""
    server = next(server for server in BACKENDS if "postgres" in server)
    async with shared(server, tmp_path, DEFAULT_AUTO_FIELD="django.db.models.AutoField") as (_, auth):
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
        assert (await user_called(auth, "ann")).has_perm("polls.add_vote")
