"""Logging in and out, and what becomes of the session meanwhile."""

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


async def test_from_a_cookie_to_a_permission(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        assert (await client.get("/vote")).headers["location"] == "/accounts/login?next=%2Fvote"
        response = await post_login(client, next="/vote")
        assert (response.status_code, response.headers["location"]) == (303, "/vote")
        assert (await client.get("/vote")).status_code == 403
        # As an administrator would, by SQL: it counts from the next request on.
        group = await auth.users.create_group("voters")
        permission = await auth.users.create_permission("polls.add_vote")
        await auth.database.execute(sa.insert(auth.tables.user_groups).values(user_id=ann.id, group_id=group.id))
        link = {"group_id": group.id, "permission_id": permission.id}
        await auth.database.execute(sa.insert(auth.tables.group_permissions).values(link))
        assert (await client.get("/vote")).text == "voted"
        assert (await client.get("/vote-by-scope")).text == "voted"
        assert (await client.get("/recount")).status_code == 403
        assert (await client.get("/whoami")).json()["scopes"] == ["authenticated", "polls.add_vote"]


async def test_the_key_changes_at_each_login_and_the_old_one_is_dead(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?cart=1")
        keys = [client.cookies["session"]]
        for _ in range(2):
            await post_login(client)
            keys.append(client.cookies["session"])
            assert (await client.get("/whoami")).json()["session"] == {"cart": "1"}
        assert len(set(keys)) == 3
        for old in keys[:-1]:
            stranger = (await client.get("/whoami", headers=with_cookie(old))).json()
            assert (stranger["username"], stranger["session"]) == ("", {})


async def test_another_users_session_is_not_inherited(auth: Auth, ann: User) -> None:
    await auth.users.create_user("bob", password=PASSWORD)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await client.get("/remember?secret=1")
        await post_login(client, "bob")
        assert (await client.get("/whoami")).json() == {"username": "bob", "session": {}, "scopes": ["authenticated"]}


async def test_after_logout_the_old_cookie_is_nobodys(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        old = client.cookies["session"]
        response = await client.post("/accounts/logout", headers={"origin": "http://testserver"})
        assert (response.status_code, response.headers["location"]) == (303, "/accounts/logged_out")
        assert "You are logged out" in (await client.get("/accounts/logged_out")).text
        assert (await client.get("/whoami", headers=with_cookie(old))).json()["username"] == ""


async def test_a_user_switched_off_is_out_and_stays_out(auth: Auth, ann: User) -> None:
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
        async with client_of(app) as here, client_of(app) as elsewhere:
            await post_login(here)
            await post_login(elsewhere)
            before = here.cookies["session"]
            await here.get("/change")
            assert here.cookies["session"] != before
            assert (await here.get("/whoami")).json()["username"] == "ann"
            assert (await elsewhere.get("/whoami")).json()["username"] == ""


async def test_a_deleted_user_is_nobody(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        await auth.users.delete(ann)
        assert (await client.get("/whoami")).json()["username"] == ""


async def test_a_forged_session_is_nobodys(auth: Auth, ann: User) -> None:
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


async def test_the_session_hash_is_djangos(auth: Auth, ann: User) -> None:
    session = await auth.sessions.load("")
    auth.session_backend.bind(session, ann, "path")
    assert session["_auth_user_hash"] == salted_hmac(AUTH_HASH_SALT, ann.password, SECRET_KEY)
    assert session["_auth_user_id"] == str(ann.id)
    assert session["_auth_user_backend"] == "path"


async def test_a_change_of_keys_logs_nobody_out(auth: Auth, ann: User) -> None:
    new_key = "a new secret key, with the old one behind it"
    later = Auth(auth.database, secret_key=[new_key, SECRET_KEY], passwords=auth.passwords)
    much_later = Auth(auth.database, secret_key=new_key, passwords=auth.passwords)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        old = client.cookies["session"]
    async with client_of(make_app(much_later), cookies={"session": old}) as client:
        assert (await client.get("/whoami")).json()["username"] == ""
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        kept = client.cookies["session"]
    async with client_of(make_app(later), cookies={"session": kept}) as client:
        # All that is under way at the moment of the change: none finds its session gone.
        answers = await asyncio.gather(*(client.get("/whoami") for _ in range(5)))
        assert {answer.json()["username"] for answer in answers} == {"ann"}
    async with client_of(make_app(much_later), cookies={"session": kept}) as client:
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_a_dump_of_the_database_holds_nothing_that_works_as_a_cookie(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        first = client.cookies["session"]
        await post_login(client, password="a wrong password, typed in anger")
        await post_login(client)
        await client.get("/whoami")
        secrets = [first, client.cookies["session"], client.cookies["session_csrf"], PASSWORD, "typed in anger"]
    rows = [dict(row) for table in auth.tables for row in await auth.database.fetch_all(sa.select(table))]
    assert str(rows).count("ann@example.org") == 1
    for secret in secrets:
        assert secret not in str(rows)


async def test_logs_at_debug_hold_no_secret(auth: Auth, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with client_of(make_app(auth)) as client:
        await post_login(client, password="a wrong password, typed in anger")
        await post_login(client)
        await client.get("/remember?a=1")
        secrets = [client.cookies["session"], client.cookies["session_csrf"], PASSWORD, "typed in anger"]
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
    # httpx and its friends log what a browser keeps to itself.
    ours = [record.getMessage() for record in caplog.records if not record.name.startswith(("http", "httpcore"))]
    for secret in secrets:
        assert not [line for line in ours if secret in line]


# One statement


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
        said = count_statements(auth, monkeypatch)
        compiled: list[Statement] = []
        monkeypatch.setattr(Statement, "__init__", lambda self, expression: compiled.append(self))
        assert (await client.get("/vote")).text == "voted"
        assert len(said) == 1
        assert said[0].startswith("SELECT")
        assert not compiled


async def test_an_anonymous_request_costs_none(auth: Auth, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(make_app(auth)) as client:
        said = count_statements(auth, monkeypatch)
        await client.get("/")
        await client.get("/whoami")
        await client.get("/accounts/login")
        await client.get("/whoami", headers=with_cookie("not a key"))
        assert said == []


# Events


async def test_logins_and_logouts_are_told(auth: Auth, ann: User) -> None:
    heard: list[Event] = []

    @auth.events.on(Event)
    def listen(event: Event) -> None:
        heard.append(event)

    async with client_of(make_app(auth)) as client:
        await post_login(client, password="wrong")
        await post_login(client)
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
    failed, logged_in, logged_out = heard
    assert isinstance(failed, LoginFailed)
    assert failed.credentials == {"username": "ann", "password": "*" * 20}
    assert isinstance(logged_in, UserLoggedIn)
    assert (logged_in.user, logged_in.backend) == (ann, "starlette_auth.ModelBackend")
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


async def test_where_nobody_can_undo_a_login_there_is_no_transaction_around_it(
    auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    auth.events.on(Event, after_commit=True)(heard.append)
    monkeypatch.setattr(type(auth.gateway.driver), "transaction", None)
    async with client_of(make_app(auth)) as client:
        await post_login(client, password="wrong")
        await post_login(client)
        await client.post("/accounts/logout", headers={"origin": "http://testserver"})
    assert [type(event) for event in heard] == [LoginFailed, UserLoggedIn, UserLoggedOut]


async def test_who_is_told_after_the_commit_is_not_told_of_what_was_undone(auth: Auth) -> None:
    heard: list[str] = []
    auth.events.on(UserCreated, after_commit=True)(lambda event: heard.append(event.user.username))
    with contextlib.suppress(RuntimeError):
        async with auth.gateway.atomic():
            await auth.users.create_user("ben")
            raise RuntimeError
    assert heard == []
    async with auth.gateway.atomic():
        await auth.users.create_user("cat")
        assert heard == []
    assert heard == ["cat"]


async def test_a_login_is_noted(auth: Auth, ann: User) -> None:
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
async def test_whatever_is_wrong_the_answer_is_the_same(auth: Auth, ann: User, username: str, password: str) -> None:
    await auth.users.create_user("asleep", password=PASSWORD, is_active=False)
    await auth.users.create_user("keyless")
    async with client_of(make_app(auth)) as client:
        response = await post_login(client, username, password)
    assert response.status_code == 422
    assert "Please enter a correct username and password." in response.text
    assert "set-cookie" not in response.headers or "session=" not in response.headers["set-cookie"]
    assert len(password) < 5 or password not in response.text


async def test_an_empty_form_says_what_is_missing(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        response = await post_login(client, "", "")
    assert response.status_code == 422
    assert response.text.count("This field is required.") == 4


async def test_a_name_is_brought_to_its_usual_form(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        assert (await post_login(client, " ａｎｎ ")).status_code == 303


@pytest.mark.parametrize(
    ("fields", "accepted", "refused"),
    [
        (("email",), ["ann@example.org", "ANN@Example.ORG"], ["ann"]),
        (("username", "email"), ["ann", "ann@example.org"], ["nobody"]),
    ],
)
async def test_a_login_by_e_mail(
    database: Database, fields: tuple[str, ...], accepted: list[str], refused: list[str]
) -> None:
    async with installed(database, login_fields=fields) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        for name in accepted:
            async with client_of(make_app(auth)) as client:
                assert (await post_login(client, name)).status_code == 303
        for name in refused:
            async with client_of(make_app(auth)) as client:
                assert (await post_login(client, name)).status_code == 422


async def test_a_name_that_is_somebodys_address_does_not_lock_its_owner_out(database: Database) -> None:
    async with installed(database, login_fields=("username", "email")) as auth:
        await auth.users.create_user("kate", "kate@example.org", PASSWORD)
        await auth.users.create_user("kate@example.org", "x@example.org", "another good password")
        await auth.users.create_user("kelvin", "\u212aate@example.org", "another good password")
        await auth.users.create_user("@home", "y@example.org", PASSWORD)
        for login, username in (("kate@example.org", "kate"), ("KATE@example.org", "kate"), ("@home", "@home")):
            async with client_of(make_app(auth)) as client:
                await post_login(client, login)
                assert (await client.get("/whoami")).json()["username"] == username


async def test_a_login_step_stands_in_every_door(auth: Auth, ann: User) -> None:
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


async def test_an_old_hash_is_renewed_at_login(auth: Auth) -> None:
    user = await auth.users.create_user("ann", password=PASSWORD)
    hasher = auth.passwords.hashers["pbkdf2_sha256"]
    old = hasher._encode(PASSWORD, "seasalt", 1000)  # type: ignore[attr-defined]
    await auth.users.update(user, password=old)
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        fresh = await auth.users.get(user.id)
        assert fresh is not None
        assert fresh.password.startswith("argon2$argon2id$")
        assert (await client.get("/whoami")).json()["username"] == "ann"


# Backends of one's own


class TokenBackend(AuthenticationBackend):
    """Ten lines, as the README has them."""

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

    async def has_perm(self, user: User, perm: str, obj: object = None) -> bool:
        if perm == "polls.poison":
            raise PermissionDenied("not even by others")
        return obj == f"{user.username}'s"


async def test_a_bearer_token_beside_sessions(database: Database) -> None:
    async with installed(database, backends=[TokenBackend({"t0ken": "ann"})]) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            bearer = {"authorization": "Bearer t0ken"}
            assert (await client.post("/members", headers=bearer)).text == "members"
            assert "set-cookie" not in (await client.get("/whoami", headers=bearer)).headers
            wrong = await client.get(
                "/members", headers={"authorization": "Bearer wrong", "accept": "application/json"}
            )
            assert wrong.status_code == 401
            assert (await post_login(client)).status_code == 303


async def test_credentials_go_to_the_backends_that_take_them(database: Database) -> None:
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


async def test_permissions_are_asked_of_every_backend(database: Database) -> None:
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


async def test_a_backend_that_overrides_nothing_knows_nobody(auth: Auth, ann: User) -> None:
    backend, conn = AuthenticationBackend(), HTTPConnection({"type": "http", "headers": []})
    assert await backend.identify(conn) is None
    assert await backend.authenticate(conn) is None
    assert not await backend.has_perm(ann, "polls.add_vote")
    assert await auth.session_backend.identify(conn) is None


# A proxy that knows


def behind_proxy(auth: Auth, **options: Any) -> Auth:
    backend = RemoteUserBackend(auth.users, **{"trusted_proxies": ["192.0.2.0/24"], **options})
    auth.backends.insert(0, backend)
    return auth


async def test_a_trusted_header_logs_in_and_its_absence_logs_out(auth: Auth, ann: User) -> None:
    async with client_of(make_app(behind_proxy(auth))) as client:
        header = {"remote-user": "ann"}
        assert (await client.get("/members", headers=header)).text == "members"
        key = client.cookies["session"]
        await client.get("/remember?a=1", headers=header)
        assert client.cookies["session"] == key
        answer = (await client.get("/whoami")).json()
        assert (answer["username"], answer["session"]) == ("", {})
        assert "session" not in client.cookies


async def test_a_persistent_login_outlives_the_header(auth: Auth, ann: User) -> None:
    async with client_of(make_app(behind_proxy(auth, persistent=True))) as client:
        await client.get("/members", headers={"remote-user": "ann"})
        assert (await client.get("/whoami")).json()["username"] == "ann"


async def test_newcomers_are_created_or_not(auth: Auth) -> None:
    async with client_of(make_app(behind_proxy(auth, create_unknown_user=False))) as client:
        assert (await client.get("/whoami", headers={"remote-user": "new"})).json()["username"] == ""
    auth.backends.pop(0)
    async with client_of(make_app(behind_proxy(auth))) as client:
        names = await asyncio.gather(*(client.get("/whoami", headers={"remote-user": "new"}) for _ in range(5)))
        assert {answer.json()["username"] for answer in names} == {"new"}
        long = await client.get("/whoami", headers={"remote-user": "x" * 500})
        assert long.json()["username"] == ""


@pytest.mark.parametrize("proxies", [["198.51.100.7"], ["unix"], ["2001:db8::/32"]])
async def test_a_header_from_elsewhere_is_not_believed(auth: Auth, ann: User, proxies: list[str]) -> None:
    async with client_of(make_app(behind_proxy(auth, trusted_proxies=proxies))) as client:
        assert (await client.get("/whoami", headers={"remote-user": "ann"})).json()["username"] == ""


@pytest.mark.parametrize(("client", "trusted"), [(None, True), (("/run/app.sock", 0), False)])
async def test_a_header_from_a_socket_is_believed_when_named(
    auth: Auth, ann: User, client: tuple[str, int] | None, trusted: bool
) -> None:
    backend = RemoteUserBackend(auth.users, trusted_proxies=["unix"])
    conn = HTTPConnection({"type": "http", "client": client, "headers": [(b"remote-user", b"ann")]})
    assert (await backend.identify(conn) == ann) is trusted


async def test_a_switched_off_user_is_not_let_in_by_the_proxy(auth: Auth, ann: User) -> None:
    await auth.users.update(ann, is_active=False)
    async with client_of(make_app(behind_proxy(auth))) as client:
        assert (await client.get("/whoami", headers={"remote-user": "ann"})).json()["username"] == ""


async def test_what_a_proxy_vouches_for_needs_protection_from_other_sites(auth: Auth, ann: User) -> None:
    async with client_of(make_app(behind_proxy(auth))) as client:
        foreign = {"remote-user": "ann", "sec-fetch-site": "cross-site"}
        assert (await client.post("/members", headers=foreign)).status_code == 403


# Putting it together wrongly


async def test_login_refuses_an_inactive_user(auth: Auth, ann: User) -> None:
    async def force(request: Request) -> Response:
        with pytest.raises(PermissionDenied, match="is_active"):
            await login(request, ann)
        return PlainTextResponse(request.user.username)

    await auth.users.update(ann, is_active=False)
    async with client_of(make_app(auth, Route("/force", force))) as client:
        assert (await client.get("/force")).text == ""


async def test_logging_out_a_stranger_is_fine(auth: Auth) -> None:
    async with client_of(make_app(auth)) as client:
        response = await client.post("/accounts/logout")
        assert response.status_code == 303


async def test_what_is_missing_is_named(auth: Auth, ann: User) -> None:
    bare = HTTPConnection({"type": "http", "headers": []})
    with pytest.raises(ImproperlyConfigured, match=r"middleware=middleware\(auth\)"):
        get_auth(bare)
    bare.scope["starlette_auth"] = auth
    with pytest.raises(ImproperlyConfigured, match="SessionMiddleware"):
        await logout(bare)


def test_an_auth_put_together_wrongly_says_so(tmp_path: Any) -> None:
    database = Database(f"sqlite:///{tmp_path}/x")
    with pytest.raises(ImproperlyConfigured, match="token_urlsafe"):
        Auth(database, secret_key="")
    with pytest.raises(ImproperlyConfigured, match="secret_key is empty"):
        Auth(database, secret_key=[])
    with pytest.raises(ImproperlyConfigured, match="login_fields"):
        Auth(database, secret_key=SECRET_KEY, login_fields=["phone"])
    with pytest.raises(ImproperlyConfigured, match="strict"):
        Auth(database, secret_key=SECRET_KEY, csrf="lax")  # type: ignore[arg-type]


def test_a_short_key_is_warned_of_and_never_shown(tmp_path: Any, caplog: pytest.LogCaptureFixture) -> None:
    auth = Auth(Database(f"sqlite:///{tmp_path}/x"), secret_key="short")
    assert "fewer than 32" in caplog.text
    assert "short" not in repr(auth.keys)


async def test_a_feature_brings_tables_pages_and_listeners(database: Database) -> None:
    class Visits(Feature):
        """Counts logins."""

        def tables(self, tables: Any) -> list[sa.Table]:
            return [sa.Table("visits", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))]

        def attach(self, auth: Auth) -> None:
            self.count = 0
            auth.events.on(UserLoggedIn)(self.note)

        async def note(self, event: UserLoggedIn) -> None:
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
        assert await database.fetch_all(sa.text("SELECT id FROM visits")) == []


def test_a_model_backend_can_be_had_by_itself(auth: Auth) -> None:
    assert ModelBackend(auth.users).path == "starlette_auth.ModelBackend"


@pytest.mark.parametrize(
    ("wrong", "advice"),
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
def test_settings_that_would_mean_something_else_are_refused(tmp_path: Any, wrong: dict[str, Any], advice: str) -> None:
    settings: dict[str, Any] = {"database": Database(f"sqlite:///{tmp_path}/x"), "secret_key": SECRET_KEY, **wrong}
    with pytest.raises(ImproperlyConfigured, match=advice):
        Auth(settings.pop("database"), **settings)


def test_other_mistakes_end_with_the_fix(auth: Auth) -> None:
    with pytest.raises(ImproperlyConfigured, match="UserLoggedIn"):
        auth.events.on("login")  # type: ignore[arg-type]
    with pytest.raises(ImproperlyConfigured, match="list"):
        RemoteUserBackend(auth.users, trusted_proxies="10.0.0.0/8")
    with pytest.raises(ImproperlyConfigured, match=r"\*user_columns\(\)"):
        Tables(user=sa.Table("people", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True)))


async def test_login_without_a_user_says_what_was_forgotten(auth: Auth) -> None:
    async def forgetful(request: Request) -> Response:
        with pytest.raises(TypeError, match="awaited"):
            await login(request, await authenticate(request, username="x", password="x"))  # type: ignore[arg-type]
        return PlainTextResponse("")

    async with client_of(make_app(auth, Route("/forgetful", forgetful))) as client:
        assert (await client.get("/forgetful")).status_code == 200


async def test_a_header_that_comes_twice_is_not_believed(auth: Auth, ann: User) -> None:
    async with client_of(make_app(behind_proxy(auth))) as client:
        headers = [("remote-user", "ann"), ("remote-user", "root")]
        assert (await client.get("/whoami", headers=headers)).json()["username"] == ""


async def test_a_very_long_name_is_not_even_normalised() -> None:
    long = "a" + "\u0300" * 300 + "\u0316" * 300
    assert normalize_username(long) == long
    assert normalize_username("e\u0301") == "é"


async def test_a_refusal_hides_how_long_the_look_up_took(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        for username in ("ann", "nobody"):
            for _ in range(5):
                await post_login(client, username, "wrong")
            begun = time.perf_counter()
            assert (await post_login(client, username, "wrong")).status_code == 429
            assert time.perf_counter() - begun >= 0.05
