"""Tests of login, logout, sessions, backends and events, through a real application."""

import asyncio
import contextlib
import logging
import time
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    CookieStore,
    DatabaseStore,
    Event,
    Feature,
    ImproperlyConfigured,
    LoginFailed,
    MemoryStore,
    ModelBackend,
    PermissionDenied,
    RemoteUserBackend,
    Tables,
    User,
    UserCreated,
    UserLoggedIn,
    UserLoggedOut,
    authenticate,
    get_auth,
    login,
    logout,
    update_session_auth_hash,
)
from starlette_auth.backends.session import AUTH_HASH_SALT
from starlette_auth.core.signing import salted_hmac
from starlette_auth.core.text import normalize_username
from starlette_auth.database.statements import Statement

from .conftest import PASSWORD, SECRET_KEY, client_of, count_statements, installed, post_login, with_tables
from .support.apps import make_app

pytestmark = with_tables


def with_cookie(value: str) -> dict[str, str]:
    return {"cookie": f"session={value}"}


async def test_a_user_logs_in_and_gets_permissions_through_a_group(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        assert (await client.get("/vote")).headers["location"] == "/accounts/login?next=%2Fvote"
        response = await post_login(client, next="/vote")
        assert (response.status_code, response.headers["location"]) == (303, "/vote")
        assert (await client.get("/vote")).status_code == 403
        # An administrator grants the permission by SQL. It counts from the next request.
        group = await auth.users.create_group("voters")
        permission = await auth.users.create_permission("polls.add_vote")
        await auth.database.execute(sa.insert(auth.tables.user_groups).values(user_id=ann.id, group_id=group.id))
        link = {"group_id": group.id, "permission_id": permission.id}
        await auth.database.execute(sa.insert(auth.tables.group_permissions).values(link))
        assert (await client.get("/vote")).text == "voted"
        assert (await client.get("/vote-by-scope")).text == "voted"
        assert (await client.get("/recount")).status_code == 403
        assert (await client.get("/whoami")).json()["scopes"] == ["authenticated", "polls.add_vote"]


async def test_each_login_changes_the_session_key_and_invalidates_the_old_one(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?cart=1")
        keys = [client.cookies["session"]]
        for _ in range(2):
            await post_login(client)
            keys.append(client.cookies["session"])
            assert (await client.get("/whoami")).json()["session"] == {"cart": "1"}
        assert len(set(keys)) == 3
        for old_key in keys[:-1]:
            answer = (await client.get("/whoami", headers=with_cookie(old_key))).json()
            assert (answer["username"], answer["session"]) == ("", {})


async def test_a_login_as_another_user_does_not_inherit_session_data(auth: Auth, ann: User) -> None:
    await auth.users.create_user("bob", password=PASSWORD)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await client.get("/remember?secret=1")
        await post_login(client, "bob")
        assert (await client.get("/whoami")).json() == {"username": "bob", "session": {}, "scopes": ["authenticated"]}


async def test_a_logout_invalidates_the_session_cookie(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        old_key = client.cookies["session"]
        response = await client.post("/accounts/logout", headers={"origin": "http://testserver"})
        assert (response.status_code, response.headers["location"]) == (303, "/accounts/logged_out")
        assert "You are logged out" in (await client.get("/accounts/logged_out")).text
        assert (await client.get("/whoami", headers=with_cookie(old_key))).json()["username"] == ""


async def test_deactivating_a_user_ends_the_sessions_and_reactivating_does_not_restore_them(
    auth: Auth, ann: User
) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await auth.users.update(ann, is_active=False)
        assert (await client.get("/whoami")).json()["username"] == ""
        await auth.users.update(ann, is_active=True)
        assert (await client.get("/whoami")).json()["username"] == ""


@pytest.mark.parametrize("store", [MemoryStore, DatabaseStore, CookieStore])
async def test_a_new_password_ends_other_sessions_and_keeps_this_one(database: Database, store: Any) -> None:
    sessions = None if store is DatabaseStore else store() if store is MemoryStore else store(SECRET_KEY)

    async def change(request: Request) -> Response:
        await get_auth(request).users.set_password(request.user, "another good long password")
        update_session_auth_hash(request, request.user)
        return PlainTextResponse("changed")

    async with installed(database, sessions=sessions) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth, Route("/change", change))
        async with client_of(app) as browser, client_of(app) as other_browser:
            await post_login(browser)
            await post_login(other_browser)
            old_key = browser.cookies["session"]
            await browser.get("/change")
            assert browser.cookies["session"] != old_key
            assert (await browser.get("/whoami")).json()["username"] == "ann"
            assert (await other_browser.get("/whoami")).json()["username"] == ""


async def test_the_session_of_a_deleted_user_is_anonymous(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await auth.users.delete(ann)
        assert (await client.get("/whoami")).json()["username"] == ""


async def test_a_session_without_a_valid_auth_hash_is_anonymous(auth: Auth, ann: User) -> None:
    claims: list[dict[str, Any]] = [
        {"_auth_user_id": str(ann.id)},
        {"_auth_user_id": str(ann.id), "_auth_user_hash": "é"},
        {"_auth_user_id": []},
    ]
    for claim in claims:
        session = await auth.sessions.load("")
        session.update(claim)
        cookie = await auth.sessions.save(session, 60)
        async with client_of(make_app(auth)) as client:
            answer = (await client.get("/whoami", headers=with_cookie(cookie))).json()
            assert answer["username"] == ""


async def test_the_session_auth_hash_equals_djangos(auth: Auth, ann: User) -> None:
    session = await auth.sessions.load("")
    auth.session_backend.bind(session, ann, "path")
    assert session["_auth_user_hash"] == salted_hmac(AUTH_HASH_SALT, ann.password, SECRET_KEY)
    assert session["_auth_user_id"] == str(ann.id)
    assert session["_auth_user_backend"] == "path"


async def test_rotating_the_secret_key_keeps_users_logged_in(auth: Auth, ann: User) -> None:
    new_key = "a new secret key, with the old one behind it"
    rotated = Auth(auth.database, secret_key=[new_key, SECRET_KEY], passwords=auth.passwords)
    without_old_key = Auth(auth.database, secret_key=new_key, passwords=auth.passwords)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        cookie_of_old_key = client.cookies["session"]
    async with client_of(make_app(without_old_key), cookies={"session": cookie_of_old_key}) as client:
        assert (await client.get("/whoami")).json()["username"] == ""
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        cookie = client.cookies["session"]
    async with client_of(make_app(rotated), cookies={"session": cookie}) as client:
        # Concurrent requests all renew the signature. Every one of them still has its session.
        answers = await asyncio.gather(*(client.get("/whoami") for _ in range(5)))
        assert {answer.json()["username"] for answer in answers} == {"ann"}
    async with client_of(make_app(without_old_key), cookies={"session": cookie}) as client:
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_the_database_contains_no_cookie_value_and_no_password(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        first_cookie = client.cookies["session"]
        await post_login(client, password="a wrong password, typed in anger")
        await post_login(client)
        await client.get("/whoami")
        secrets = [first_cookie, client.cookies["session"], client.cookies["session_csrf"], PASSWORD, "typed in anger"]
    rows = [dict(row) for table in auth.tables for row in await auth.database.fetch_all(sa.select(table))]
    assert str(rows).count("ann@example.org") == 1
    for secret in secrets:
        assert secret not in str(rows)


async def test_debug_logs_contain_no_secret(auth: Auth, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with client_of(make_app(auth)) as client:
        await post_login(client, password="a wrong password, typed in anger")
        await post_login(client)
        await client.get("/remember?a=1")
        secrets = [client.cookies["session"], client.cookies["session_csrf"], PASSWORD, "typed in anger"]
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
    # The loggers of the HTTP client are left out: they log the cookies, which a browser would not.
    messages = [record.getMessage() for record in caplog.records if not record.name.startswith(("http", "httpcore"))]
    for secret in secrets:
        assert not [message for message in messages if secret in message]


# Number of statements


async def test_an_authenticated_request_costs_one_statement(
    auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    await auth.users.create_permission("polls.add_vote")
    group = await auth.users.create_group("voters")
    await auth.users.grant(group, "polls.add_vote")
    await auth.users.add_to_group(ann, group)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await client.get("/vote")
        statements = count_statements(auth, monkeypatch)
        compiled: list[Statement] = []
        monkeypatch.setattr(Statement, "__init__", lambda self, expression: compiled.append(self))
        assert (await client.get("/vote")).text == "voted"
        assert len(statements) == 1
        assert statements[0].startswith("SELECT")
        assert not compiled


async def test_an_anonymous_request_costs_no_statement(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(make_app(auth)) as client:
        statements = count_statements(auth, monkeypatch)
        await client.get("/")
        await client.get("/whoami")
        await client.get("/accounts/login")
        await client.get("/whoami", headers=with_cookie("not a key"))
        assert statements == []


# Events


async def test_events_report_failed_logins_logins_and_logouts(auth: Auth, ann: User) -> None:
    events: list[Event] = []

    @auth.events.on(Event)
    def listen(event: Event) -> None:
        events.append(event)

    async with client_of(make_app(auth)) as client:
        await post_login(client, password="wrong")
        await post_login(client)
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
    failed, logged_in, logged_out = events
    assert isinstance(failed, LoginFailed)
    assert failed.credentials == {"username": "ann", "password": "*" * 20}
    assert isinstance(logged_in, UserLoggedIn)
    assert (logged_in.user, logged_in.backend) == (ann, "starlette_auth.ModelBackend")
    assert (logged_in.methods, logged_in.level) == (("password",), 1)
    assert isinstance(logged_out, UserLoggedOut)
    assert logged_out.user == ann


async def test_a_listener_that_raises_prevents_the_login(auth: Auth, ann: User) -> None:
    @auth.events.on(UserLoggedIn)
    async def refuse(event: UserLoggedIn) -> None:
        raise RuntimeError("the audit log is full")

    async with client_of(make_app(auth)) as client:
        with pytest.raises(RuntimeError):
            await post_login(client)
        assert (await client.get("/whoami")).json()["username"] == ""
    fresh = await auth.users.get(ann.id)
    assert fresh is not None
    assert fresh.last_login is None


async def test_a_login_without_listeners_inside_the_transaction_opens_no_transaction(
    auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    auth.events.on(Event, after_commit=True)(events.append)
    monkeypatch.setattr(type(auth.gateway.driver), "transaction", None)
    async with client_of(make_app(auth)) as client:
        await post_login(client, password="wrong")
        await post_login(client)
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
    assert [type(event) for event in events] == [LoginFailed, UserLoggedIn, UserLoggedOut]


async def test_after_commit_listeners_get_no_event_of_a_rolled_back_change(auth: Auth) -> None:
    usernames: list[str] = []
    auth.events.on(UserCreated, after_commit=True)(lambda event: usernames.append(event.user.username))
    with contextlib.suppress(RuntimeError):
        async with auth.gateway.atomic():
            await auth.users.create_user("ben")
            raise RuntimeError
    assert usernames == []
    async with auth.gateway.atomic():
        await auth.users.create_user("cat")
        assert usernames == []
    assert usernames == ["cat"]


async def test_a_login_updates_last_login(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
    fresh = await auth.users.get(ann.id)
    assert fresh is not None
    assert fresh.last_login is not None
    assert fresh.date_joined is not None
    assert fresh.last_login > fresh.date_joined


# The login form


@pytest.mark.parametrize(
    ("username", "password"),
    [
        ("ann", "wrong"),
        ("nobody", PASSWORD),
        ("asleep", PASSWORD),
        ("keyless", PASSWORD),
        ("keyless", "!"),
        ("ann", "x" * 2000),
        ("x" * 5000, PASSWORD),
        ("ANN", PASSWORD),
    ],
)
async def test_every_failed_login_gets_the_same_message(auth: Auth, ann: User, username: str, password: str) -> None:
    await auth.users.create_user("asleep", password=PASSWORD, is_active=False)
    await auth.users.create_user("keyless")
    async with client_of(make_app(auth)) as client:
        response = await post_login(client, username, password)
    assert response.status_code == 422
    assert "Please enter a correct username and password." in response.text
    assert "set-cookie" not in response.headers or "session=" not in response.headers["set-cookie"]
    assert len(password) < 5 or password not in response.text


async def test_an_empty_login_form_reports_the_required_fields(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        response = await post_login(client, "", "")
    assert response.status_code == 422
    assert response.text.count("This field is required.") == 4


async def test_the_username_is_normalised_at_login(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        assert (await post_login(client, " ａｎｎ ")).status_code == 303


@pytest.mark.parametrize(
    ("fields", "accepted", "rejected"),
    [
        (("email",), ["ann@example.org", "ANN@Example.ORG"], ["ann"]),
        (("username", "email"), ["ann", "ann@example.org"], ["nobody"]),
    ],
)
async def test_login_fields_select_login_by_email_or_username(
    database: Database, fields: tuple[str, ...], accepted: list[str], rejected: list[str]
) -> None:
    async with installed(database, login_fields=fields) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        for name in accepted:
            async with client_of(make_app(auth)) as client:
                assert (await post_login(client, name)).status_code == 303
        for name in rejected:
            async with client_of(make_app(auth)) as client:
                assert (await post_login(client, name)).status_code == 422


async def test_a_username_that_equals_anothers_email_does_not_lock_out_its_owner(database: Database) -> None:
    async with installed(database, login_fields=("username", "email")) as auth:
        await auth.users.create_user("kate", "kate@example.org", PASSWORD)
        await auth.users.create_user("kate@example.org", "x@example.org", "another good password")
        await auth.users.create_user("kelvin", "\u212aate@example.org", "another good password")
        await auth.users.create_user("@home", "y@example.org", PASSWORD)
        for login, username in (("kate@example.org", "kate"), ("KATE@example.org", "kate"), ("@home", "@home")):
            async with client_of(make_app(auth)) as client:
                await post_login(client, login)
                assert (await client.get("/whoami")).json()["username"] == username


async def test_a_login_step_can_interrupt_every_login(auth: Auth, ann: User) -> None:
    async def second_factor(request: Request, user: User) -> Response | None:
        return PlainTextResponse(f"a code, {user.username}?") if "code" not in request.query_params else None

    auth.login_steps.append(second_factor)
    async with client_of(make_app(auth)) as client:
        response = await post_login(client)
        assert response.text == "a code, ann?"
        assert (await client.get("/whoami")).json()["username"] == ""
        data = {"username": "ann", "password": PASSWORD}
        response = await client.post("/accounts/login?code=1", data=data, headers={"origin": "http://testserver"})
        assert response.status_code == 303


async def test_a_login_upgrades_an_outdated_password_hash(auth: Auth) -> None:
    user = await auth.users.create_user("ann", password=PASSWORD)
    hasher = auth.passwords.hashers["pbkdf2_sha256"]
    old_hash = hasher._encode(PASSWORD, "seasalt", 1000)  # type: ignore[attr-defined]
    await auth.users.update(user, password=old_hash)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        fresh = await auth.users.get(user.id)
        assert fresh is not None
        assert fresh.password.startswith("argon2$argon2id$")
        assert (await client.get("/whoami")).json()["username"] == "ann"


# Custom backends


class TokenBackend(AuthenticationBackend):
    """Authenticates bearer tokens, as in the example of the README."""

    def __init__(self, tokens: dict[str, str]) -> None:
        self.tokens = tokens

    async def identify(self, conn: HTTPConnection) -> User | None:
        kind, _, token = conn.headers.get("authorization", "").partition(" ")
        username = self.tokens.get(token) if kind == "Bearer" else None
        return await get_auth(conn).users.get_by_username(username) if username else None

    async def authenticate(self, conn: HTTPConnection, token: str = "", **credentials: Any) -> User | None:
        if token == "poison":
            raise PermissionDenied("no more questions")
        return await get_auth(conn).users.get_by_username(self.tokens.get(token, ""))

    async def has_perm(self, user: User | AnonymousUser, perm: str, obj: object = None) -> bool:
        if perm == "polls.poison":
            raise PermissionDenied("not even by others")
        return obj == f"{user.username}'s"


async def test_bearer_tokens_work_next_to_sessions(database: Database) -> None:
    async with installed(database, backends=[TokenBackend({"t0ken": "ann"})]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            bearer = {"authorization": "Bearer t0ken"}
            assert (await client.post("/members", headers=bearer)).text == "members"
            assert "set-cookie" not in (await client.get("/whoami", headers=bearer)).headers
            response = await client.get(
                "/members", headers={"authorization": "Bearer wrong", "accept": "application/json"}
            )
            assert response.status_code == 401
            assert (await post_login(client)).status_code == 303


async def test_credentials_are_passed_to_the_backends_that_accept_them(database: Database) -> None:
    async with installed(database, backends=[TokenBackend({"t0ken": "ann"})]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        answers: list[Any] = []

        async def probe(request: Request) -> Response:
            attempts: list[dict[str, Any]] = [
                {"token": "t0ken"},
                {"token": "poison"},
                {"username": "ann", "password": PASSWORD},
                {"x": 1},
                {"username": 1, "password": ["as", "JSON", None]},
            ]
            for credentials in attempts:
                user = await authenticate(request, **credentials)
                answers.append(user and user.backend.rpartition(".")[2])
            return PlainTextResponse("")

        async with client_of(make_app(auth, Route("/probe", probe))) as client:
            await client.get("/probe")
        assert answers == ["TokenBackend", None, "ModelBackend", None, None]


async def test_permissions_are_checked_in_every_backend(database: Database) -> None:
    async with installed(database, backends=[TokenBackend({})]) as auth:
        ann = await auth.users.create_user("ann")
        root = await auth.users.create_superuser("root")
        await auth.users.create_permission("polls.add_vote")
        await auth.users.create_permission("polls.poison")
        await auth.users.grant(ann, "polls.add_vote")
        await auth.users.grant(ann, "polls.poison")
        ann = await auth.users.get(ann.id)
        assert ann is not None
        assert await auth.has_perm(ann, "polls.add_vote")
        assert await auth.has_perm(ann, "polls.change_vote", "ann's")
        assert not await auth.has_perm(ann, "polls.add_vote", "bob's")
        assert not await auth.has_perm(ann, "polls.poison")
        assert await auth.has_perm(root, "polls.poison")
        await auth.users.update(root, is_active=False)
        assert not await auth.has_perm(root, "polls.add_vote")


async def test_the_base_backend_authenticates_and_permits_nothing(auth: Auth, ann: User) -> None:
    backend, conn = AuthenticationBackend(), HTTPConnection({"type": "http", "headers": []})
    assert await backend.identify(conn) is None
    assert await backend.authenticate(conn) is None
    assert not await backend.has_perm(ann, "polls.add_vote")
    assert await auth.session_backend.identify(conn) is None


# RemoteUserBackend


def behind_proxy(auth: Auth, **options: Any) -> Auth:
    backend = RemoteUserBackend(auth.users, **{"trusted_proxies": ["192.0.2.0/24"], **options})
    auth.backends.insert(0, backend)
    return auth


async def test_the_header_of_a_trusted_proxy_logs_in_and_its_absence_logs_out(auth: Auth, ann: User) -> None:
    async with client_of(make_app(behind_proxy(auth))) as client:
        header = {"remote-user": "ann"}
        assert (await client.get("/members", headers=header)).text == "members"
        key = client.cookies["session"]
        await client.get("/remember?a=1", headers=header)
        assert client.cookies["session"] == key
        answer = (await client.get("/whoami")).json()
        assert (answer["username"], answer["session"]) == ("", {})
        assert "session" not in client.cookies


async def test_a_persistent_login_continues_without_the_header(auth: Auth, ann: User) -> None:
    async with client_of(make_app(behind_proxy(auth, persistent=True))) as client:
        await client.get("/members", headers={"remote-user": "ann"})
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_create_unknown_user_decides_whether_users_are_created(auth: Auth) -> None:
    async with client_of(make_app(behind_proxy(auth, create_unknown_user=False))) as client:
        assert (await client.get("/whoami", headers={"remote-user": "new"})).json()["username"] == ""
    auth.backends.pop(0)
    async with client_of(make_app(behind_proxy(auth))) as client:
        names = await asyncio.gather(*(client.get("/whoami", headers={"remote-user": "new"}) for _ in range(5)))
        assert {answer.json()["username"] for answer in names} == {"new"}
        response = await client.get("/whoami", headers={"remote-user": "x" * 500})
        assert response.json()["username"] == ""


@pytest.mark.parametrize("proxies", [["198.51.100.7"], ["unix"], ["2001:db8::/32"]])
async def test_the_header_of_an_untrusted_client_is_ignored(auth: Auth, ann: User, proxies: list[str]) -> None:
    async with client_of(make_app(behind_proxy(auth, trusted_proxies=proxies))) as client:
        assert (await client.get("/whoami", headers={"remote-user": "ann"})).json()["username"] == ""


@pytest.mark.parametrize(("client", "trusted"), [(None, True), (("/run/app.sock", 0), False)])
async def test_the_header_from_a_unix_socket_is_trusted_when_configured(
    auth: Auth, ann: User, client: tuple[str, int] | None, trusted: bool
) -> None:
    backend = RemoteUserBackend(auth.users, trusted_proxies=["unix"])
    conn = HTTPConnection({"type": "http", "client": client, "headers": [(b"remote-user", b"ann")]})
    assert (await backend.identify(conn) == ann) is trusted


async def test_a_proxy_cannot_log_in_an_inactive_user(auth: Auth, ann: User) -> None:
    await auth.users.update(ann, is_active=False)
    async with client_of(make_app(behind_proxy(auth))) as client:
        assert (await client.get("/whoami", headers={"remote-user": "ann"})).json()["username"] == ""


async def test_requests_authenticated_by_a_proxy_are_protected_against_csrf(auth: Auth, ann: User) -> None:
    async with client_of(make_app(behind_proxy(auth))) as client:
        headers = {"remote-user": "ann", "sec-fetch-site": "cross-site"}
        assert (await client.post("/members", headers=headers)).status_code == 403


# Incorrect configuration and use


async def test_login_rejects_an_inactive_user(auth: Auth, ann: User) -> None:
    async def log_in_ann(request: Request) -> Response:
        with pytest.raises(PermissionDenied, match="is_active"):
            await login(request, ann)
        return PlainTextResponse(request.user.username)

    await auth.users.update(ann, is_active=False)
    async with client_of(make_app(auth, Route("/force", log_in_ann))) as client:
        assert (await client.get("/force")).text == ""


async def test_an_anonymous_visitor_can_log_out(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.post("/accounts/logout")
        assert response.status_code == 303


async def test_a_missing_middleware_is_named(auth: Auth, ann: User) -> None:
    conn = HTTPConnection({"type": "http", "headers": []})
    with pytest.raises(ImproperlyConfigured, match=r"middleware=middleware\(auth\)"):
        get_auth(conn)
    conn.scope["starlette_auth"] = auth
    with pytest.raises(ImproperlyConfigured, match="SessionMiddleware"):
        await logout(conn)


def test_invalid_auth_settings_are_reported(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/x")
    with pytest.raises(ImproperlyConfigured, match="token_urlsafe"):
        Auth(database, secret_key="")
    with pytest.raises(ImproperlyConfigured, match="secret_key is empty"):
        Auth(database, secret_key=[])
    with pytest.raises(ImproperlyConfigured, match="login_fields"):
        Auth(database, secret_key=SECRET_KEY, login_fields=["phone"])
    with pytest.raises(ImproperlyConfigured, match="strict"):
        Auth(database, secret_key=SECRET_KEY, csrf="lax")  # type: ignore[arg-type]


def test_a_short_secret_key_causes_a_warning_and_is_never_shown(
    tmp_path: Any, caplog: pytest.LogCaptureFixture
) -> None:
    auth = Auth(Database(f"sqlite:///{tmp_path}/x"), secret_key="short")
    assert "fewer than 32" in caplog.text
    assert "short" not in repr(auth.keys)


async def test_a_feature_adds_tables_pages_and_listeners(database: Database) -> None:
    class Visits(Feature):
        """Counts logins."""

        def tables(self, tables: Any) -> list[sa.Table]:
            return [sa.Table("visits", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))]

        def attach(self, auth: Auth) -> None:
            self.count = 0
            auth.events.on(UserLoggedIn)(self.count_login)

        async def count_login(self, event: UserLoggedIn) -> None:
            self.count += 1

        async def page(self, request: Request) -> Response:
            return PlainTextResponse(str(self.count))

        def routes(self) -> list[Route]:
            return [Route("/visits", self.page)]

    async with installed(database, features=[Visits(), Feature()]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            await post_login(client)
            assert (await client.get("/accounts/visits")).text == "1"
        assert await auth.database.fetch_all(sa.text("SELECT id FROM visits")) == []


def test_a_model_backend_can_be_created_without_an_auth(auth: Auth) -> None:
    assert ModelBackend(auth.users).path == "starlette_auth.ModelBackend"


@pytest.mark.parametrize(
    ("invalid", "advice"),
    [
        ({"secret_key": None}, "token_urlsafe"),
        ({"secret_key": b"bytes are no text, however many of them"}, "token_urlsafe"),
        ({"trusted_origins": [""]}, "shop.example"),
        ({"trusted_origins": "https://shop.example"}, "shop.example"),
        ({"next_hosts": [""]}, "shop.example"),
        ({"next_hosts": "shop.example"}, "shop.example"),
        ({"user_class": type("Member", (User,), {})}, "@dataclass"),
        ({"database": "sqlite+aiosqlite:///x"}, "Database"),
    ],
)
def test_invalid_settings_are_rejected_with_the_fix(tmp_path: Any, invalid: dict[str, Any], advice: str) -> None:
    settings: dict[str, Any] = {"database": Database(f"sqlite:///{tmp_path}/x"), "secret_key": SECRET_KEY, **invalid}
    with pytest.raises(ImproperlyConfigured, match=advice):
        Auth(settings.pop("database"), **settings)


def test_messages_for_programmers_end_with_the_fix(auth: Auth) -> None:
    with pytest.raises(ImproperlyConfigured, match="UserLoggedIn"):
        auth.events.on("login")  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match="list"):
        RemoteUserBackend(auth.users, trusted_proxies="10.0.0.0/8")
    with pytest.raises(ImproperlyConfigured, match=r"\*user_columns\(\)"):
        Tables(user=sa.Table("people", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True)))


async def test_login_without_a_user_reports_the_missing_await(auth: Auth) -> None:
    async def log_in_nothing(request: Request) -> Response:
        with pytest.raises(TypeError, match="awaited"):
            await login(request, await authenticate(request, username="x", password="x"))  # type: ignore[arg-type]
        return PlainTextResponse("")

    async with client_of(make_app(auth, Route("/forgetful", log_in_nothing))) as client:
        assert (await client.get("/forgetful")).status_code == 200


async def test_a_repeated_remote_user_header_is_ignored(auth: Auth, ann: User) -> None:
    async with client_of(make_app(behind_proxy(auth))) as client:
        headers = [("remote-user", "ann"), ("remote-user", "root")]
        assert (await client.get("/whoami", headers=headers)).json()["username"] == ""


async def test_a_very_long_username_is_not_normalised() -> None:
    username = "a" + "\u0300" * 300 + "\u0316" * 300
    assert normalize_username(username) == username
    assert normalize_username("e\u0301") == "é"


async def test_a_throttled_login_takes_at_least_50_milliseconds(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        for username in ("ann", "nobody"):
            for _ in range(5):
                await post_login(client, username, "wrong")
            started_at = time.perf_counter()
            assert (await post_login(client, username, "wrong")).status_code == 429
            assert time.perf_counter() - started_at >= 0.05
