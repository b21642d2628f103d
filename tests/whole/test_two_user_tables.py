"""Two Auths with different user tables in one database: customers and staff do not get each other's rights."""

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.applications import Starlette
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import (
    Auth,
    CachedStore,
    Cookie,
    CookieStore,
    DatabaseStore,
    DjangoCookieStore,
    MemoryStore,
    PasswordResetTokens,
    RedisStore,
    Tables,
    User,
    middleware,
    migrate,
    permission_required,
    routes,
    user_columns,
)
from starlette_auth.cli.main import main
from starlette_auth.testing import CollectingMailer, log_in

from ..conftest import (
    PASSWORD,
    REDIS_URL,
    SECRET_KEY,
    client_of,
    connected,
    needs_redis,
    post_login,
    redis_prefix,
    weak_passwords,
)
from ..support.apps import is_throttled

KEYS: dict[str, Any] = {"integer": sa.Integer, "uuid": sa.Uuid}


def user_table(name: str, key: str = "integer") -> sa.Table:
    return sa.Table(name, sa.MetaData(), *user_columns(sa.Column("id", KEYS[key], primary_key=True)))


def make_auth(database: Database, table: sa.Table | None, cookie: str, **options: Any) -> Auth:
    options = {"secret_key": SECRET_KEY, "passwords": weak_passwords(), "cookie": Cookie(name=cookie), **options}
    return Auth(database, tables=None if table is None else Tables(user=table), **options)


class Pair(NamedTuple):
    """Two installations on one database, each with a user of the number 1 (or the same UUID)."""

    shop: Auth
    office: Auth
    carl: User
    sue: User


@contextlib.asynccontextmanager
async def pair(
    database: Database,
    keys: tuple[str, str] = ("integer", "integer"),
    *,
    names: tuple[str | None, str] = ("customer", "staff"),
    same_hash: bool = False,
    **options: Any,
) -> AsyncIterator[Pair]:
    tables = [None if name is None else user_table(name, key) for name, key in zip(names, keys, strict=True)]
    makers = options.pop("sessions", None)
    stores = [{}, {}] if makers is None else [{"sessions": makers}, {"sessions": makers}]
    auths = [
        make_auth(database, table, cookie, **store, **options)
        for table, cookie, store in zip(tables, ("shop", "office"), stores, strict=True)
    ]
    for auth in auths:
        await migrate(auth.gateway, auth.tables)
    shop, office = auths
    carl = await shop.users.create_user("carl", "carl@example.org", PASSWORD)
    hash: dict[str, Any] = {"encoded_password": carl.password} if same_hash else {"password": PASSWORD}
    same_key = {"id": carl.id} if keys == ("uuid", "uuid") else {}
    sue = await office.users.create_user("sue", "sue@example.org", date_joined=carl.date_joined, **hash, **same_key)
    assert str(carl.id) == str(sue.id) or keys[0] != keys[1]
    try:
        yield Pair(shop, office, carl, sue)
    finally:
        for auth in auths:
            await auth.close()


async def whoami(request: Request) -> Response:
    return JSONResponse(request.user.username)


@permission_required("office.open_safe")
async def safe(request: Request) -> Response:
    return JSONResponse("gold")


def site(auth: Auth, *further: Mount) -> Starlette:
    pages = [Route("/whoami", whoami), Route("/safe", safe), Mount("/accounts", routes=routes(auth)), *further]
    return Starlette(routes=pages, middleware=middleware(auth))


async def permissions(auth: Auth, user: User) -> frozenset[str]:
    fresh: User | None = await auth.users.get(user.id)
    assert fresh is not None
    return fresh.get_all_permissions()


async def asked(client: httpx.AsyncClient, path: str) -> Any:
    response = await client.get(path)
    return response.json() if response.status_code == 200 else response.status_code


@pytest.mark.parametrize("keys", [("integer", "integer"), ("uuid", "uuid"), ("integer", "uuid")], ids="-".join)
async def test_a_permission_granted_to_staff_does_not_let_the_customer_in(
    database: Database, keys: tuple[str, str]
) -> None:
    async with pair(database, keys) as (shop, office, carl, sue):
        await office.users.create_permission("office.open_safe")
        await office.users.create_permission("office.read_mail")
        await office.users.create_group("chiefs")
        await office.users.grant(await office.users.get_group("chiefs"), "office.read_mail")
        further = await office.users.create_user("sam")  # of a number that no customer has
        for user in (sue, further):
            for _ in range(2):  # the second time, the rows exist
                await office.users.grant(user, "office.open_safe")
                await office.users.add_to_group(user, "chiefs")
        assert [user.username for user in await office.users.with_perm("office.open_safe")] == ["sue", "sam"] or keys[
            1
        ] == "uuid"
        assert await shop.users.with_perm("office.open_safe") == []
        assert await shop.users.get_groups(carl) == []
        assert [group.name for group in await office.users.get_groups(sue)] == ["chiefs"]
        assert await permissions(shop, carl) == set()
        assert await permissions(office, sue) == {"office.open_safe", "office.read_mail"}
        app = Starlette(routes=[Mount("/shop", site(shop)), Mount("/office", site(office))])
        async with client_of(app) as client:
            for auth, user in ((shop, carl), (office, sue)):
                await log_in(client, user, auth)
            assert [await asked(client, path) for path in ("/shop/whoami", "/office/whoami")] == ["carl", "sue"]
            assert [await asked(client, path) for path in ("/shop/safe", "/office/safe")] == [403, "gold"]
        await shop.users.revoke(carl, "office.open_safe")
        await shop.users.remove_from_group(carl, "chiefs")
        await shop.users.delete(carl)
        assert await permissions(office, sue) == {"office.open_safe", "office.read_mail"}
        await office.users.delete(sue)
        assert await office.users.get(sue.id) is None


@pytest.mark.parametrize("names", [("customer", "staff"), (None, "shop_staff")], ids=["customer", "auth_user"])
async def test_ending_the_sessions_of_one_leaves_those_of_the_other(
    database: Database, names: tuple[str | None, str]
) -> None:
    async with pair(database, names=names) as (shop, office, carl, sue):
        shops, offices = client_of(site(shop)), client_of(site(office))
        async with shops, offices:
            await log_in(shops, carl, shop)
            await log_in(offices, sue, office)
            assert len(await shop.user_sessions.list(carl)) == len(await office.user_sessions.list(sue)) == 1
            assert len(await shop.sessions.list_sessions("1")) == 1
            assert await shop.user_sessions.revoke_all(carl) == 1
            assert [await asked(shops, "/whoami"), await asked(offices, "/whoami")] == ["", "sue"]
            await log_in(shops, carl, shop)
            assert await office.clear_expired() == 0
            await office.users.update(sue, is_active=False)
            assert [await asked(shops, "/whoami"), await asked(offices, "/whoami")] == ["carl", ""]


STORES: dict[str, Any] = {
    "memory": lambda database, prefix: lambda users: MemoryStore(),
    "cookie": lambda database, prefix: lambda users: CookieStore(SECRET_KEY),
    "django cookie": lambda database, prefix: lambda users: DjangoCookieStore(SECRET_KEY),
    "database": lambda database, prefix: lambda users: DatabaseStore(database),
    "redis": lambda database, prefix: lambda users: RedisStore(REDIS_URL, prefix=prefix),
    "cached": lambda database, prefix: lambda users: CachedStore(DatabaseStore(database), REDIS_URL, prefix=prefix),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[needs_redis] * (kind in ("redis", "cached"))) for kind in STORES]
)
async def test_a_session_of_one_is_nobodys_at_the_other(kind: str, tmp_path: Path) -> None:
    """Also with one prefix in Redis, one secret key, and one password hash."""
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        redis_prefix() if REDIS_URL else contextlib.nullcontext("") as prefix,
        pair(database, same_hash=True, sessions=STORES[kind](database, prefix)) as (shop, office, carl, sue),
        client_of(site(office)) as client,
    ):
        anonymous, known = shop.sessions.new_session(), shop.sessions.new_session()
        anonymous["coupon"] = known["coupon"] = "free"
        shop.session_backend.bind(known, carl, shop.model_backend.path)
        for session in (anonymous, known):
            cookie = await shop.sessions.save(session, 600)
            assert (await shop.sessions.load(cookie))["coupon"] == "free"
            if kind != "django cookie":  # its format is Django's
                assert (await office.sessions.load(cookie)).is_empty()
            client.cookies.set("office", cookie)
            assert await asked(client, "/whoami") == ""
        if office.sessions.supports_user_lookup:
            await log_in(client, sue, office)
            assert await office.sessions.revoke_all("1") == 1
            assert len(await shop.sessions.list_sessions("1")) == 1
            assert not await office.sessions.revoke("1", known.public_id)


MOUNTS: dict[str, Any] = {
    "application": lambda office: Mount("/office", site(office)),
    "wrapped": lambda office: Mount("/office", GZipMiddleware(site(office))),
    "middleware of the mount": lambda office: Mount(
        "/office", routes=site(office).routes, middleware=middleware(office)
    ),
    "deeper": lambda office: Mount("/office", routes=[Mount("/", site(office))]),
}


@pytest.mark.parametrize("mount", MOUNTS.values(), ids=MOUNTS)
@pytest.mark.parametrize("is_first", [True, False])
async def test_each_visitor_is_sent_to_the_login_page_for_the_own_kind_of_users(
    tmp_path: Path, mount: Any, is_first: bool
) -> None:
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        pair(database) as (shop, office, _, _),
    ):
        own = [Route("/safe", safe), Mount("/accounts", routes=routes(shop))]
        pages = [mount(office), *own] if is_first else [*own, mount(office)]
        async with client_of(Starlette(routes=pages, middleware=middleware(shop))) as client:
            for path, login_page in (("/safe", "/accounts/login"), ("/office/safe", "/office/accounts/login")):
                location = (await client.get(path)).headers["location"]
                assert location.partition("?")[0] == login_page
                page = await client.get(location)
                assert page.status_code == 200
                assert ('"/office/' in page.text) is ("office" in path)


async def test_a_page_of_an_application_with_another_auth_is_found_by_its_name(tmp_path: Path) -> None:
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        pair(database) as (shop, office, _, _),
    ):
        inner = Starlette(routes=[Route("/safe", safe, name="safe")], middleware=middleware(office))

        async def link(request: Request) -> Response:
            return JSONResponse(shop.url_for(request, "safe"))

        app = Starlette(routes=[Mount("/office", inner), Route("/link", link)], middleware=middleware(shop))
        async with client_of(app) as client:
            assert await asked(client, "/link") == "/office/safe"


async def test_an_application_inside_another_has_users_of_its_own(tmp_path: Path) -> None:
    """The outer middlewares run for both. Their user, cookies and session are not those of the inner application."""
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        pair(database, same_hash=True) as (shop, office, carl, _),
    ):
        excluded = Starlette(routes=[Route("/x/me", lambda request: JSONResponse("user" in request.scope))])
        excluded.user_middleware = middleware(office, exclude=["/x"])
        async with client_of(site(shop, Mount("/office", site(office)), Mount("/other", excluded))) as client:
            await log_in(client, carl, shop)
            assert [await asked(client, path) for path in ("/whoami", "/office/whoami")] == ["carl", ""]
            assert await asked(client, "/other/x/me") is False
            page = await client.get("/office/accounts/login")
            assert "office_csrf" in client.cookies
            assert "shop_csrf" not in client.cookies
            token = page.text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
            fields = {"username": "sue", "password": PASSWORD, "csrfmiddlewaretoken": token}
            response = await client.post("/office/accounts/login", data=fields)
            assert response.status_code == 303, response.text
            assert [name.partition("=")[0] for name in response.headers.get_list("set-cookie")].count("device") == 1
            assert [await asked(client, path) for path in ("/whoami", "/office/whoami")] == ["carl", "sue"]


async def test_a_session_of_another_auth_in_the_scope_is_nobodys(tmp_path: Path) -> None:
    """The application inside has AuthenticationMiddleware only, and so the session of the one around it."""
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        pair(database, same_hash=True) as (shop, office, carl, _),
    ):
        inner = Starlette(routes=[Route("/whoami", whoami)], middleware=middleware(office)[1:])
        async with client_of(site(shop, Mount("/office", inner))) as client:
            await log_in(client, carl, shop)
            assert await asked(client, "/office/whoami") == ""


@pytest.mark.parametrize("kind", ["database", "signed"])
async def test_a_reset_link_of_one_is_void_at_the_other(tmp_path: Path, kind: str) -> None:
    mailer = CollectingMailer()
    options: dict[str, Any] = {"mailer": mailer, "base_url": "http://testserver"}
    if kind == "signed":
        options["reset_tokens"] = PasswordResetTokens(SECRET_KEY)
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        pair(database, **options) as (shop, office, carl, sue),
        client_of(site(shop)) as client,
        client_of(site(office)) as offices,
    ):
        await client.post(
            "/accounts/password_reset", data={"email": carl.email}, headers={"sec-fetch-site": "same-origin"}
        )
        await shop.mail_queue.drain()
        link = next(link for link in mailer.links(carl.email) if "/reset/" in link)
        opened = await offices.get(link, follow_redirects=True)
        assert 'type="password"' not in opened.text
        assert await office.users.check_password(sue, PASSWORD)
        # What revokes the tokens of one leaves those of the other.
        await office.users.set_password(sue, f"{PASSWORD} 2")
        await office.tokens.revoke_all("user 1")
        opened = await client.get(link, follow_redirects=True)
        assert 'type="password"' in opened.text


async def test_wrong_passwords_of_one_do_not_count_for_the_account_of_the_other(tmp_path: Path) -> None:
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        pair(database, rates={"login": "60/m/ip", "register_mail": "1/h/account"}) as (shop, office, _, _),
    ):
        await office.users.create_user("carl", "carl2@example.org", PASSWORD)
        async with client_of(site(shop)) as shops, client_of(site(office)) as offices:
            for _ in range(6):
                response = await post_login(shops, "carl", "wrong")
            assert response.status_code == 429
            assert (await post_login(offices, "carl")).status_code == 303
        # Another rate by account, and one by address, which is the same for both.
        assert await shop.throttle.try_hit("register_mail", account="x")
        assert not await shop.throttle.try_hit("register_mail", account="x")
        assert await office.throttle.try_hit("register_mail", account="x")
        assert await shop.throttle.try_hit("confirm", ip="192.0.2.7")
        counters = "SELECT count(*) FROM auth_throttle"
        before = await database.fetch_val(counters)
        assert await office.throttle.try_hit("confirm", ip="192.0.2.7")
        assert await database.fetch_val(counters) == before


async def test_no_name_of_a_default_account_counts_for_an_account_of_another_table(tmp_path: Path) -> None:
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        pair(database, names=(None, "staff"), rates={"login": "99/m/ip"}) as (shop, office, _, sue),
    ):
        for name in ("sue", "sue IN staff", "sue \uff29\uff2e  staff", '["sue", "staff"]'):
            for _ in range(5):
                assert not await is_throttled(shop, name)
            assert await is_throttled(shop, name)
        assert not await is_throttled(office, sue.username)


async def test_the_device_cookie_of_a_customer_is_unknown_to_staff_and_kept(tmp_path: Path) -> None:
    async with (
        connected(f"sqlite+aiosqlite:///{tmp_path}/two.sqlite3") as database,
        pair(database, same_hash=True) as (shop, office, carl, sue),
    ):
        scope: dict[str, Any] = {"type": "http", "headers": [], "scheme": "http"}
        await shop.devices.remember(Request(scope), carl)
        assert await shop.devices.known(Request(scope), carl)
        assert not await office.devices.known(Request(scope), sue)
        await office.devices.remember(Request(scope), sue)
        assert await shop.devices.known(Request(scope), carl)
        assert await office.devices.known(Request(scope), sue)
        await shop.devices.revoke_all(carl)
        assert not await shop.devices.known(Request(scope), carl)
        assert await office.devices.known(Request(scope), sue)


def test_the_command_line_works_on_the_users_of_one_auth(tmp_path: Path) -> None:
    (tmp_path / "two.py").write_text(
        "import sqlalchemy as sa\nfrom databases import Database\n"
        "from starlette_auth import Auth, Cookie, Tables, user_columns\n"
        f"database, key = Database('sqlite+aiosqlite:///{tmp_path}/two.sqlite3'), {SECRET_KEY!r}\n"
        "shop, office = (\n"
        "    Auth(database, secret_key=key, tables=Tables(user=sa.Table(name, sa.MetaData(), *user_columns())), "
        "cookie=Cookie(name=name))\n"
        "    for name in ('customer', 'staff')\n)\n"
    )

    def run(app: str, *arguments: str) -> str:
        command = [sys.executable, "-m", "starlette_auth", "--app", f"two:{app}", *arguments]
        environment = {"STARLETTE_AUTH_PASSWORD": PASSWORD, "PATH": ""}
        result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return result.stdout

    for app, name in (("shop", "carl"), ("office", "sue")):
        assert f"created {'customer' if app == 'shop' else 'staff'}_groups" in run(app, "migrate")
        run(app, "createsuperuser", "--username", name, "--email", "", "--noinput")
    with contextlib.closing(sqlite3.connect(tmp_path / "two.sqlite3")) as database:
        for table in ("customer", "staff"):
            database.execute(
                f"INSERT INTO {table}_auth_session (key_hash, public_id, user_id, data, created, last_seen, expires, "
                "address, user_agent, version) VALUES ('k', 'p', 1, '{}', 1, 1, 9999999999, '', '', 0)"
            )
        database.commit()
    assert "has no sessions" not in run("office", "sessions", "list", "sue")
    assert "Ended 1 sessions" in run("shop", "sessions", "revoke", "carl", "--all")
    run("shop", "changepassword", "carl")
    assert run("office", "sessions", "list", "sue").startswith("p  ")


def test_the_command_line_leaves_grants_that_may_belong_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "old.sqlite3"
    (tmp_path / "old_site.py").write_text(
        "import sqlalchemy as sa\nfrom databases import Database\nfrom starlette_auth import Auth, Tables, user_columns\n"
        "tables = Tables(user=sa.Table('staff', sa.MetaData(), *user_columns()))\n"
        f"auth = Auth(Database('sqlite+aiosqlite:///{file}'), secret_key={SECRET_KEY!r}, tables=tables)\n"
    )
    with contextlib.closing(sqlite3.connect(file)) as database:
        columns = "id integer PRIMARY KEY, " + ", ".join(column.name for column in user_columns()[1:])
        for table in ("customer", "staff"):
            database.execute(f"CREATE TABLE {table} ({columns})")
            database.execute(f"INSERT INTO {table} (id) VALUES (1)")
        database.execute("CREATE TABLE auth_user_groups (id integer PRIMARY KEY, user_id integer, group_id integer)")
        database.execute("INSERT INTO auth_user_groups VALUES (1, 1, 1)")
        database.commit()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STARLETTE_AUTH_APP", raising=False)
    assert main(["--app", "old_site:auth", "migrate"]) == 1
    assert "for the users 1 may belong to staff or customer" in capsys.readouterr().err
    assert main(["--app", "old_site:auth", "migrate", "--leave-grants"]) == 0
    assert "created staff_groups" in capsys.readouterr().out
