"""API tokens: requests with one, what they may do, and how they end."""

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    APIToken,
    APITokens,
    Auth,
    AuthenticationBackend,
    ImproperlyConfigured,
    PermissionDenied,
    TokenCreated,
    TokenExpired,
    TokenRevoked,
    TooManyAttempts,
    User,
    ValidationError,
    fresh_login_required,
    permission_required,
)
from starlette_auth.features.api_tokens.tokens import TokenFormat, checksum
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import ON_SERVER, PASSWORD, client_of, count_statements, installed, name_of, with_store
from ..sessions.test_sessions import Socket
from ..support.apps import make_app
from ..support.documents import code_of

HERE = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
DAY = timedelta(days=1)
PERMS = [f"shop.{verb}_{noun}" for verb in ("view", "add", "close") for noun in ("order", "cart")]


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def auth(database: Any, clock: FrozenClock) -> AsyncIterator[Auth]:
    async with installed(database, features=[APITokens("shop")], clock=clock) as auth:
        yield auth


def tokens_of(auth: Auth) -> APITokens:
    [feature] = auth.features
    assert isinstance(feature, APITokens)
    return feature


async def make_token(auth: Auth, user: User, **options: Any) -> str:
    return str((await tokens_of(auth).create(user, "backup", **options)).token)


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "accept": "*/*"}


def api_client(auth: Auth, token: str = "", *routes: Any, **options: Any) -> httpx.AsyncClient:
    return client_of(make_app(auth, *routes, **options), headers=bearer(token) if token else {"accept": "*/*"})


async def mine(request: Request) -> Response:
    user = request.user
    shown = {"username": user.username, "staff": user.is_staff, "superuser": user.is_superuser}
    asked = [perm for perm in PERMS if user.has_perm(perm)]
    waited = [perm for perm in PERMS if await request.app.state.auth.has_perm(user, perm)]
    in_scopes = [perm for perm in PERMS if perm in request.auth.scopes]
    listed = sorted(user.get_all_permissions() & set(PERMS))
    return JSONResponse({**shown, "perms": asked, "waited": waited, "scopes": in_scopes, "listed": listed})


async def ask_mine(auth: Auth, token: str) -> dict[str, Any]:
    app = make_app(auth, Route("/mine", mine))
    app.state.auth = auth
    async with client_of(app, headers=bearer(token)) as client:
        shown: dict[str, Any] = (await client.get("/mine")).json()
    return shown


# Requests


async def test_a_token_identifies_its_owner_with_one_statement(
    auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch, clock: FrozenClock
) -> None:
    token = await make_token(auth, ann)
    async with api_client(auth, token) as client:
        statements = count_statements(auth, monkeypatch)
        assert (await client.get("/whoami")).json()["username"] == "ann"
        assert len(statements) == 2  # the second one, after the response, records the use
        clock.tick(59)
        assert (await client.get("/vote")).status_code == 403
        assert len(statements) == 3
        clock.tick(1)
        assert (await client.post("/members")).status_code == 200  # CSRF is not asked
        assert len(statements) == 5
    [details] = await tokens_of(auth).list(ann)
    assert (details.last_used, details.last_address) == (int(clock()), "192.0.2.1")


async def test_malformed_tokens_cost_no_statement(auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    token = await make_token(auth, ann)
    wrong = [
        token[:-1],
        token + "0",
        token.replace("shop_", "ship_"),
        token[:-1] + ("0" if token[-1] != "0" else "1"),
        "x",
    ]
    statements = count_statements(auth, monkeypatch)
    for text in wrong:
        async with api_client(auth, text) as client:
            response = await client.get("/members")
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == 'Bearer realm="account", error="invalid_token"'
    assert statements == []


async def test_the_token_comes_before_the_cookie(auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    token = await make_token(auth, ann)
    async with client_of(make_app(auth)) as client:
        await log_in(client, ben, auth)
        assert (await client.get("/remember?a=1")).status_code == 200
        stored = await auth.user_sessions.list(ben)
        statements = count_statements(auth, monkeypatch)
        shown = (await client.get("/whoami", headers=bearer(token))).json()
        assert (shown["username"], shown["session"], len(statements)) == ("ann", {}, 2)
        assert not [sql for sql in statements if "auth_session" in sql]
        # A wrong token does not fall back to the cookie.
        assert (await client.get("/whoami", headers=bearer("shop_wrong"))).json()["username"] == ""
        # The session of the cookie is neither changed nor ended.
        for path in ("/remember?b=2", "/forget", "/flush"):
            response = await client.get(path, headers=bearer(token))
            assert (response.status_code, "set-cookie" in response.headers) == (200, False)
        assert [session.session_key for session in await auth.user_sessions.list(ben)] == [
            s.session_key for s in stored
        ]
        assert (await client.get("/whoami")).json()["session"] == {"a": "1"}


@pytest.mark.parametrize("kind", [*ON_SERVER, "cookie", "django sqlite"], ids=name_of)
async def test_with_every_store_the_cookie_of_a_request_with_a_token_stays_as_it_is(kind: str, tmp_path: Path) -> None:
    async with with_store(kind, tmp_path, features=[APITokens("shop")]) as auth:
        ann, ben = await auth.users.create_user("ann"), await auth.users.create_user("ben")
        token = await make_token(auth, ann)
        async with client_of(make_app(auth)) as client:
            await log_in(client, ben, auth)
            await client.get("/remember?a=1")
            cookies = [(cookie.name, cookie.value) for cookie in client.cookies.jar]
            for path in ("/whoami", "/remember?b=2", "/flush", "/forget"):
                response = await client.get(path, headers=bearer(token))
                assert (response.status_code, "set-cookie" in response.headers) == (200, False), path
            shown = (await client.get("/whoami", headers=bearer(token))).json()
            assert (shown["username"], shown["session"]) == ("ann", {})
            assert [(cookie.name, cookie.value) for cookie in client.cookies.jar] == cookies
            shown = (await client.get("/whoami")).json()
            assert (shown["username"], shown["session"]) == ("ben", {"a": "1"})


async def test_a_websocket_with_a_token_ends_when_the_token_is_revoked(auth: Auth, ann: User) -> None:
    details = await tokens_of(auth).create(ann, "socket")
    async with client_of(make_app(auth)) as client:
        socket = Socket(make_app(auth), "/club-socket", client)
        headers: Any = socket.scope["headers"]
        headers.append((b"authorization", f"Bearer {details.token}".encode()))
        async with socket:
            assert socket.answer["type"] == "websocket.accept"
            assert (await socket.received.get())["text"] == "ann"
            assert (await tokens_of(auth).list(ann))[0].last_used is not None
            await tokens_of(auth).revoke(ann, details.id)
            closed = await asyncio.wait_for(socket.received.get(), 5)
            assert (closed["type"], closed["code"]) == ("websocket.close", 1008)


async def test_a_change_of_the_session_is_not_saved_and_warns(
    auth: Auth, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    async def save(request: Request) -> Response:
        await request.session.save()  # type: ignore[attr-defined]
        return PlainTextResponse("saved")

    token = await make_token(auth, ann)
    async with api_client(auth, token, Route("/save", save)) as client:
        response = await client.get("/remember?colour=secret-value")
        assert "set-cookie" not in response.headers
        assert "request.session changed in a request with a token, and the change is lost: 'colour'." in caplog.text
        assert "secret-value" not in caplog.text
        with pytest.raises(RuntimeError, match="no session that could be saved"):
            await client.get("/save")
    assert await auth.user_sessions.list(ann) == []


async def test_a_token_is_never_fresh_and_opens_no_account_page_and_no_staff_page(auth: Auth) -> None:
    @fresh_login_required
    async def fresh(request: Request) -> Response:
        return PlainTextResponse("fresh")

    boss = await auth.users.create_superuser("boss", "boss@example.org", PASSWORD)
    token = await make_token(auth, boss)
    async with api_client(auth, token, Route("/fresh", fresh)) as client:
        response = await client.get("/fresh")
        assert response.status_code == 401
        challenge = 'Bearer realm="account", error="insufficient_user_authentication", max_age="300"'
        assert response.headers["www-authenticate"] == challenge
        assert (await client.get("/staff")).status_code == 403
        pages = [route.path for route in auth_pages(auth)]
        assert len(pages) > 10
        for path in pages:
            for send in (client.get, client.post):
                response = await send(f"/accounts{path}")
                assert response.status_code in (403, 405), path
        assert (await client.post("/accounts/tokens", json={"name": "more"})).json()["code"] == "token_refused"
    async with api_client(auth, "shop_wrong") as client:
        response = await client.post("/accounts/login", json={"username": "boss", "password": PASSWORD})
        assert response.status_code == 401
    assert len(await tokens_of(auth).list(boss)) == 1


def auth_pages(auth: Auth) -> list[Any]:
    mounted: Any = make_app(auth).routes[-1]
    return [route for route in mounted.routes or () if "{" not in route.path and not route.path.startswith("/auth.")]


async def test_a_request_with_a_token_cannot_make_a_token(auth: Auth, ann: User) -> None:
    async def more(request: Request) -> Response:
        await tokens_of(auth).create(request.user, "more")
        return PlainTextResponse("made")

    token = await make_token(auth, ann)
    async with api_client(auth, token, Route("/more", more)) as client:
        with pytest.raises(PermissionDenied, match="cannot create a token"):
            await client.get("/more")


async def test_without_middleware_the_configuration_error_says_what_to_do(auth: Auth, ann: User) -> None:
    token = await make_token(auth, ann)
    app = make_app(auth)
    app.user_middleware[0].kwargs["has_token"] = None
    async with client_of(app, headers=bearer(token)) as client:
        with pytest.raises(ImproperlyConfigured, match=r"Pass middleware=middleware\(auth\)"):
            await client.get("/whoami")


# RFC 6750 §3.1


async def test_the_error_table(auth: Auth, ann: User) -> None:
    token = await make_token(auth, ann)
    realm = 'Bearer realm="account"'
    rows: list[tuple[str, list[tuple[str, str]], int, str | None]] = [
        ("/members", [], 401, realm),
        ("/members", [("authorization", "Bearer shop_0")], 401, f'{realm}, error="invalid_token"'),
        ("/members", [("authorization", f"Bearer {token}")], 200, None),
        ("/members", [("authorization", f"bearer  {token} ")], 200, None),
        ("/", [("authorization", "Bearer")], 400, f'{realm}, error="invalid_request"'),
        ("/", [("authorization", f"Bearer {token} {token}")], 400, f'{realm}, error="invalid_request"'),
        ("/", [("authorization", f"Bearer {token}")] * 2, 400, f'{realm}, error="invalid_request"'),
        (f"/?access_token={token}", [], 400, f'{realm}, error="invalid_request"'),
        (f"/?access_token={token}", [("authorization", f"Bearer {token}")], 400, f'{realm}, error="invalid_request"'),
        ("/?access_token=of-the-application", [], 200, None),
        (
            "/vote",
            [("authorization", f"Bearer {token}")],
            403,
            f'{realm}, error="insufficient_scope", scope="polls.add_vote"',
        ),
    ]
    async with client_of(make_app(auth)) as client:
        for path, headers, status, challenge in rows:
            response = await client.get(path, headers=[("accept", "*/*"), *headers])
            assert (response.status_code, response.headers.get("www-authenticate")) == (status, challenge), path
            if status >= 400:
                assert response.headers["content-type"] == "application/problem+json"
                assert response.headers["cache-control"] == "no-store"


async def test_a_token_in_a_url_does_not_reach_the_access_log(auth: Auth, ann: User) -> None:
    token = await make_token(auth, ann)
    seen: list[Any] = []
    app = make_app(auth)

    async def server(scope: Any, receive: Any, send: Any) -> None:
        async def log(message: Any) -> None:
            seen.append(scope["query_string"])  # as uvicorn logs when the response starts
            await send(message)

        await app(scope, receive, log)

    async with client_of(server) as client:
        assert (await client.get(f"/members?access_token={token}")).status_code == 400
    assert seen
    assert not any(token.encode() in query for query in seen)


async def test_the_last_use_is_recorded_after_the_answer_at_most_once_a_minute(
    auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch, clock: FrozenClock
) -> None:
    token, app = await make_token(auth, ann), make_app(auth)
    statements, before_answer = count_statements(auth, monkeypatch), list[int]()

    async def server(scope: Any, receive: Any, send: Any) -> None:
        async def note(message: Any) -> None:
            before_answer.append(len(statements))
            await send(message)

        await app(scope, receive, note)

    async with client_of(server, headers=bearer(token)) as client:
        for seconds, number in ((0, 2), (59, 1), (1, 2), (1, 1)):
            clock.tick(seconds)
            assert (await client.get("/members")).status_code == 200
            assert (before_answer, len(statements)) == ([1, 1], number)
            statements.clear()
            before_answer.clear()


# Guessing


async def test_unknown_tokens_of_an_address_are_limited_and_known_ones_go_on(
    auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[TooManyAttempts] = []
    auth.events.on(TooManyAttempts)(events.append)
    token, token_format = await make_token(auth, ann), tokens_of(auth).format
    async with client_of(make_app(auth)) as client:
        statuses = [(await client.get("/members", headers=bearer(token_format.make()))).status_code for _ in range(32)]
        assert statuses == [401] * 30 + [429] * 2
        response = await client.get("/", headers=bearer(token_format.make()))
        assert (response.status_code, response.json()["code"]) == (429, "throttled")
        assert int(response.headers["retry-after"]) > 0
        assert (await client.get("/members", headers=bearer(token))).status_code == 200
    assert {event.action for event in events} == {"token"}


# Permissions


@pytest.mark.any_database
async def test_a_token_may_what_both_its_owner_and_its_scopes_allow(auth: Auth) -> None:
    """200 random sets of permissions and scopes, before and after the owner loses some, or all rights of a superuser."""
    chance, store, app = random.Random(6750), tokens_of(auth), make_app(auth, Route("/mine", mine))
    app.state.auth = auth
    for perm in PERMS:
        await auth.users.create_permission(perm)
    async with client_of(app) as client:
        for number in range(200):
            async with auth.gateway.atomic():
                user, group = (
                    await auth.users.create_user(f"user{number}"),
                    await auth.users.create_group(f"group{number}"),
                )
                await auth.users.update(user, is_superuser=chance.random() < 0.2, is_staff=chance.random() < 0.5)
                held = [
                    (holder, perm) for holder in (user, group) for perm in chance.sample(PERMS, chance.randrange(4))
                ]
                for holder, perm in held:
                    await auth.users.grant(holder, perm)
                await auth.users.add_to_group(user, group)
            owned = set(PERMS) if user.is_superuser else {perm for _, perm in held}
            scopes = chance.sample(sorted(owned), chance.randrange(len(owned) + 1))
            full_user = await auth.users.get(user.id)
            assert full_user is not None
            token = str((await store.create(full_user, "t", scopes=scopes)).token)
            await check_rights(client, token, owned & set(scopes))
            await auth.users.update(user, is_superuser=False)
            lost = chance.sample(held, len(held) // 2)
            for holder, perm in lost:
                await auth.users.revoke(holder, perm)
            if leaves_group := chance.random() < 0.3:
                await auth.users.remove_from_group(user, group)
            left = {
                perm for holder, perm in held if (holder, perm) not in lost and not (leaves_group and holder is group)
            }
            await check_rights(client, token, left & set(scopes))


async def check_rights(client: httpx.AsyncClient, token: str, expected: set[str]) -> None:
    shown = (await client.get("/mine", headers=bearer(token))).json()
    answers = [set(shown[name]) for name in ("perms", "waited", "scopes", "listed")]
    assert answers == [expected] * 4
    assert not shown["superuser"]
    assert not shown["staff"]


async def test_scopes_limit_what_backends_and_rules_grant(database: Any) -> None:
    class Generous(AuthenticationBackend):
        def permissions(self, user: Any) -> list[str]:
            return ["shop.view_order", "shop.view_cart"] if user.is_authenticated else []

        async def has_perm(self, user: Any, perm: str, obj: object = None) -> bool:
            return user.is_authenticated and perm == "shop.add_cart"

        def has_module_perms(self, user: Any, app_label: str) -> bool:
            return True

    async with installed(database, features=[APITokens("shop")]) as auth:
        auth.backends.append(Generous())
        ann = await auth.users.create_user("ann")
        table = sa.Table("orders", sa.MetaData(), sa.Column("id", sa.Integer, primary_key=True))
        auth.rule("shop.view_order", table)(lambda user: True)
        auth.rule("shop.close_order", table)(lambda user: True)
        token = await make_token(auth, ann, scopes=["shop.view_order"])
        checked = await tokens_of(auth).check(token)
        assert checked is not None
        user = checked[0]
        assert [perm for perm in PERMS if await auth.has_perm(user, perm)] == ["shop.view_order"]
        assert [perm for perm in PERMS if await auth.has_perm(user, perm, {"id": 1})] == ["shop.view_order"]
        assert isinstance(auth.visible_to(user, "shop.close_order", table), sa.False_)
        assert not user.has_module_perms("polls")
        assert user.has_module_perms("shop")
        whole = await tokens_of(auth).check(await make_token(auth, ann))
        assert whole is not None
        assert await auth.has_perm(whole[0], "shop.add_cart")


async def test_a_scope_that_the_owner_does_not_have_is_refused_by_name(auth: Auth, ann: User) -> None:
    await auth.users.grant(ann, await auth.users.create_permission("shop.view_order"))
    user = await auth.users.get(ann.id)
    assert user is not None
    with pytest.raises(ValidationError, match=r"the permission shop\.add_order"):
        await tokens_of(auth).create(user, "wide", scopes=["shop.view_order", "shop.add_order"])
    assert await tokens_of(auth).list(ann) == []


async def test_a_superusers_token_with_scopes_is_no_superuser(auth: Auth) -> None:
    boss = await auth.users.create_superuser("boss")
    shown = await ask_mine(auth, await make_token(auth, boss, scopes=["shop.view_order"]))
    assert (shown["superuser"], shown["staff"], shown["perms"]) == (False, False, ["shop.view_order"])
    shown = await ask_mine(auth, await make_token(auth, boss, scopes=[]))
    assert (shown["superuser"], shown["perms"]) == (False, [])
    assert (await ask_mine(auth, await make_token(auth, boss)))["superuser"]
    await auth.users.update(boss, is_superuser=False)
    assert (await ask_mine(auth, await make_token(auth, boss)))["perms"] == []


async def test_a_guard_names_the_missing_scope(auth: Auth) -> None:
    @permission_required("shop.close_order")
    async def close(request: Request) -> Response:
        return PlainTextResponse("closed")

    boss = await auth.users.create_superuser("boss")
    token = await make_token(auth, boss, scopes=["shop.view_order"])
    async with api_client(auth, token, Route("/close", close)) as client:
        response = await client.get("/close")
        assert response.status_code == 403
        assert 'error="insufficient_scope", scope="shop.close_order"' in response.headers["www-authenticate"]
    async with api_client(
        auth, await make_token(auth, boss, scopes=["shop.close_order"]), Route("/close", close)
    ) as client:
        assert (await client.get("/close")).text == "closed"


# The end


async def test_a_token_expires(auth: Auth, ann: User, clock: FrozenClock) -> None:
    events: list[TokenExpired[Any]] = []
    auth.events.on(TokenExpired)(events.append)
    token = await make_token(auth, ann, expires=2 * DAY)
    async with api_client(auth, token) as client:
        clock.tick(2 * 24 * 3600 - 1)
        assert (await client.get("/members")).status_code == 200
        clock.tick(1)
        for _ in range(3):
            response = await client.get("/members")
            assert 'error="invalid_token"' in response.headers["www-authenticate"]
    assert [(event.user, event.name) for event in events] == [(ann, "backup")]
    clock.tick(31 * 24 * 3600)
    await make_token(auth, ann)
    assert len(await tokens_of(auth).list(ann)) == 1


async def test_an_account_that_is_deactivated_ends_its_tokens_for_good(auth: Auth, ann: User) -> None:
    token = await make_token(auth, ann)
    async with api_client(auth, token) as client:
        # As Django's administration does it, without an event.
        await auth.gateway.execute(sa.update(auth.tables.user).values(is_active=False))
        assert (await client.get("/members")).status_code == 401
        await auth.gateway.execute(sa.update(auth.tables.user).values(is_active=True))
        assert (await client.get("/members")).status_code == 200
        await auth.users.update(ann, is_active=False)
        assert (await client.get("/members")).status_code == 401
        await auth.users.update(ann, is_active=True)
        assert (await client.get("/members")).status_code == 401


async def test_a_reset_of_the_password_ends_the_tokens_and_a_change_does_not(auth: Auth, ann: User) -> None:
    token = await make_token(auth, ann)
    async with api_client(auth, token) as client:
        await auth.users.set_password(ann, "another good long password")
        assert (await client.get("/members")).status_code == 200
        encoded = await auth.passwords.hash("a third good long password")
        assert await auth.users.replace_password(ann, encoded, by_reset=True)
        assert (await client.get("/members")).status_code == 401
    assert await tokens_of(auth).list(ann) == []


async def test_tokens_are_revoked_one_by_one_or_all_and_only_by_their_owner(auth: Auth, ann: User) -> None:
    events: list[Any] = []
    for kind in (TokenCreated, TokenRevoked):
        auth.events.on(kind)(events.append)
    store, ben = tokens_of(auth), await auth.users.create_user("ben")
    first, second, third = [await store.create(ann, name) for name in ("one", "two", "three")]
    assert not await store.revoke(ben, first.id)
    assert await store.revoke(ann, first.id)
    assert not await store.revoke(ann, first.id)
    assert [token.name for token in await store.list(ann)] == ["three", "two"]
    assert await store.check(str(first.token)) is None
    assert await store.check(str(second.token)) is not None
    assert await store.revoke_all(ann) == 2
    assert await store.check(str(third.token)) is None
    names = [(type(event).__name__, event.name) for event in events]
    assert names[:3] == [("TokenCreated", name) for name in ("one", "two", "three")]
    assert sorted(names[3:]) == [("TokenRevoked", name) for name in ("one", "three", "two")]
    await store.create(ben, "of a deleted user")
    await auth.users.delete(ben)
    assert await auth.gateway.fetch_all(sa.select(store.store.table.c.id)) == []


# Creating


async def test_the_limits_of_a_new_token(auth: Auth, ann: User, clock: FrozenClock) -> None:
    store = tokens_of(auth)
    token = await store.create(ann, " nightly backup ")
    assert token.expires - token.created == 90 * 24 * 3600
    assert (token.name, token.scopes, token.hint) == ("nightly backup", None, str(token.token)[:9])
    assert (await store.create(ann, "year", expires=365 * DAY)).expires == int(clock()) + 365 * 24 * 3600
    wrong: list[dict[str, Any]] = [
        {"name": ""},
        {"name": "x" * 101},
        {"name": "line\nbreak"},
        {"name": "x", "expires": 366 * DAY},
        {"name": "x", "expires": -DAY},
        {"name": "x", "expires": timedelta(0)},
        {"name": "x", "expires": timedelta(milliseconds=999)},
        {"name": "x", "expires": timedelta.max},
        {"name": "x", "expires": timedelta.min},
    ]
    for arguments in wrong:
        with pytest.raises(ValidationError):
            await store.create(ann, **arguments)
    for _ in range(48):
        await store.create(ann, "many")
    with pytest.raises(ValidationError, match="too many tokens"):
        await store.create(ann, "one too many")
    clock.tick(90 * 24 * 3600)
    await store.create(ann, "after most have expired")


@pytest.mark.parametrize("prefix", ["", "s", "Shop", "shop-x", "1shop", "shop_", "x" * 21])
def test_a_prefix_that_scanners_could_not_find_is_refused(prefix: str) -> None:
    with pytest.raises(ImproperlyConfigured, match="prefix"):
        APITokens(prefix)
    with pytest.raises(ImproperlyConfigured, match="default_expiry"):
        APITokens("shop", default_expiry=366 * DAY)


@pytest.mark.parametrize("expires", [30, 30.0, "30", True, datetime(2030, 1, 1), float("nan")])
async def test_a_lifetime_of_another_type_is_refused(auth: Auth, ann: User, expires: Any) -> None:
    with pytest.raises(TypeError, match=r"Pass expires=timedelta\(days=30\)"):
        await tokens_of(auth).create(ann, "x", expires=expires)
    assert await tokens_of(auth).list(ann) == []


@pytest.mark.parametrize(
    ("default", "longest"),
    [
        (timedelta(0), DAY),
        (-DAY, DAY),
        (timedelta(milliseconds=1), DAY),  # would expire at once
        (timedelta(hours=1), timedelta(hours=12)),  # the form asks for days
        (2 * DAY, DAY),
        (DAY, timedelta.max),
        (DAY, 3651 * DAY),
    ],
)
def test_absurd_lifetimes_stop_the_start(default: timedelta, longest: timedelta) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"(default_expiry|longest).*Pass "):
        APITokens("shop", default_expiry=default, longest=longest)


def test_the_limits_of_a_lifetime_are_accepted() -> None:
    for default, longest in ((DAY, DAY), (DAY, 3650 * DAY), (3650 * DAY, 3650 * DAY)):
        APITokens("shop", default_expiry=default, longest=longest)


# Secrets


async def test_neither_the_database_nor_the_logs_hold_a_token(
    auth: Auth, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    details = await tokens_of(auth).create(ann, "backup")
    token = str(details.token)
    async with api_client(auth, token) as client:
        await client.get("/members")
        await client.get("/vote")
        await client.get("/accounts/sessions")
    dump = [
        str(value)
        for table in auth.tables
        for row in await auth.gateway.fetch_all(sa.select(table))
        for value in row.values()
    ]
    assert any("ann" in text for text in dump)
    secret = token[9:]  # behind the hint
    assert not [text for text in dump if secret in text]
    async with api_client(auth) as client:
        for text in dump:
            if text.isascii() and text.isprintable():
                assert (await client.get("/members", headers=bearer(text or "x"))).status_code in (400, 401)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("starlette_auth")]
    assert [text for text in ours if "token_created" in text]
    assert not [text for text in ours if secret in text]
    assert secret not in repr(details)
    assert "token" not in details.as_json() or details.as_json()["token"] == token
    assert "token" not in (await tokens_of(auth).list(ann))[0].as_json()


def test_scanners_find_a_token_and_nothing_else() -> None:
    token_format, chance = TokenFormat("shop"), random.Random(32)
    pattern = re.compile(r"shop_[0-9A-Za-z]{36}")
    token = token_format.make()
    assert pattern.findall(f'KEY = "{token}"\n') == [token]
    assert token_format.is_valid(token)
    assert checksum("0" * 30) != checksum("0" * 29 + "1")
    characters = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    assert not [
        text
        for text in ("shop_" + "".join(chance.choices(characters, k=36)) for _ in range(1000))
        if token_format.is_valid(text)
    ]
    swapped = token[:6] + token[7] + token[6] + token[8:]
    assert swapped == token or not token_format.is_valid(swapped)


def test_the_code_of_the_guide_finds_tokens_in_a_text_and_none_in_a_million_random_strings() -> None:
    guide = Path(__file__).parents[2] / "example_app" / "guides" / "tokens.md"
    [code] = [code for code in code_of(guide, "python") if "def find_tokens" in code]
    namespace: dict[str, Any] = {}
    exec(compile(code, str(guide), "exec"), namespace)
    find_tokens, token_format, chance = namespace["find_tokens"], TokenFormat("shop"), random.Random(2021)
    tokens = [token_format.make() for _ in range(4)]
    text = (
        f'curl -H "Authorization: Bearer {tokens[0]}"\nKEY={tokens[1]}\n<{tokens[2]}>, https://x.org/?k={tokens[3]}&a=b'
    )
    assert find_tokens(text) == tokens
    assert find_tokens(text.replace("shop_", "ship_")) == []
    # Six bits of each random byte choose a character; two of the 64 values stand for a character that occurs twice.
    characters = (namespace["DIGITS"] + "0A").encode() * 4
    for _ in range(10):
        noise = chance.randbytes(36 * 100_000).translate(characters).decode()
        strings = [f"shop_{noise[begin : begin + 36]}" for begin in range(0, len(noise), 36)]
        assert len(strings) == 100_000
        assert find_tokens("\n".join(strings)) == []
        assert not any(map(token_format.is_valid, strings[:1000]))


def test_details_are_values() -> None:
    details = APIToken(id=1, name="x", hint="shop_abcd", scopes=("a.b",), created=1, expires=2, token="shop_secret")
    assert details.as_json()["scopes"] == ["a.b"]
    assert "shop_secret" not in repr(details)
