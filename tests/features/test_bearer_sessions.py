"""Sessions of native apps: the key in the header Authorization, in place of a cookie."""

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from fastapi import Depends, FastAPI
from openapi_spec_validator import validate
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket

from starlette_auth import (
    ActiveSessions,
    APITokens,
    Auth,
    BearerSessions,
    CookieStore,
    ImproperlyConfigured,
    SessionLimit,
    SessionLimits,
    User,
    fresh_login_required,
    get_auth,
    lifespan,
    login,
    login_required,
    middleware,
)
from starlette_auth.fastapi import accounts
from starlette_auth.security.reset_tokens import make_reset_link
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import (
    ON_MANY_REDIS,
    ON_SERVER,
    PASSWORD,
    SECRET_KEY,
    client_of,
    count_statements,
    installed,
    name_of,
    with_store,
)
from ..sessions.test_sessions import Socket
from ..support.apps import make_app

HERE = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
CREDENTIALS = {"username": "ann", "password": PASSWORD, "client": "app"}
SESSION_TOKEN = "x-session-token"
LOGIN = "/accounts/login"


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def auth(database: Any, clock: FrozenClock) -> AsyncIterator[Auth]:
    async with installed(database, features=[BearerSessions(), ActiveSessions()], clock=clock) as auth:
        yield auth


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}", "accept": "*/*"}


def app_client(auth: Auth, *routes: Any) -> httpx.AsyncClient:
    """Returns a client without headers of a browser."""
    return client_of(make_app(auth, *routes), headers={"accept": "*/*"})


async def token_from_login(client: httpx.AsyncClient, **more: Any) -> str:
    response = await client.post(LOGIN, json=CREDENTIALS | more)
    assert response.status_code == 200, response.text
    assert "set-cookie" not in response.headers
    assert response.headers["cache-control"] == "no-store"
    token = response.json()["token"]
    assert isinstance(token, str)
    assert response.headers[SESSION_TOKEN] == token
    return token


async def username(client: httpx.AsyncClient, token: str = "", cookie: str = "", **headers: str) -> str:
    sent = {**(bearer(token) if token else {}), **({"cookie": f"session={cookie}"} if cookie else {}), **headers}
    response = await client.get("/whoami", headers=sent)
    return str(response.json()["username"])


def without_cookies(responses: list[httpx.Response]) -> bool:
    return not any("set-cookie" in response.headers for response in responses)


# One session, with every store


@pytest.mark.parametrize("kind", [*ON_SERVER, *ON_MANY_REDIS, "django sqlite"], ids=name_of)
async def test_with_every_store_an_app_logs_in_works_and_logs_out(kind: str, tmp_path: Path) -> None:
    async with with_store(kind, tmp_path, features=[BearerSessions()]) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with app_client(auth) as client:
            token = await token_from_login(client)
            headers, responses = bearer(token), list[httpx.Response]()
            for path in ("/whoami", "/remember?a=1", "/members"):
                responses.append(await client.get(path, headers=headers))
                assert (responses[-1].status_code, SESSION_TOKEN in responses[-1].headers) == (200, False)
            shown = (await client.get("/whoami", headers=headers)).json()
            assert (shown["username"], shown["session"]) == ("ann", {"a": "1"})
            assert len(await auth.user_sessions.list(ann)) == 1
            # A new key, because the user has entered a password.
            responses.append(
                await client.post("/accounts/reauthenticate", json={"password": PASSWORD}, headers=headers)
            )
            new = responses[-1].headers[SESSION_TOKEN]
            assert (responses[-1].status_code, new != token) == (200, True)
            assert responses[-1].headers["cache-control"] == "no-store"
            assert await username(client, token) == ""
            assert (await client.get("/whoami", headers=bearer(new))).json()["session"] == {"a": "1"}
            responses.append(await client.post("/accounts/logout", headers=bearer(new)))
            assert (responses[-1].status_code, responses[-1].json()) == (200, {"next": "/accounts/logged_out"})
            assert await username(client, new) == ""
            assert await auth.user_sessions.list(ann) == []
            assert without_cookies(responses)
        assert not list(client.cookies.jar)


@pytest.mark.parametrize("kind", [*ON_SERVER, *ON_MANY_REDIS, "django sqlite"], ids=name_of)
async def test_with_every_store_the_key_of_an_app_is_no_cookie_and_that_of_a_cookie_no_token(
    kind: str, tmp_path: Path
) -> None:
    async with with_store(kind, tmp_path, features=[BearerSessions()]) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with app_client(auth) as client, client_of(make_app(auth)) as browser:
            token = await token_from_login(client)
            await log_in(browser, ann, auth)
            [cookie] = [cookie.value or "" for cookie in browser.cookies.jar if cookie.name == auth.cookie.name]
            key = token.removeprefix("app.")
            assert await username(client, token) == "ann"
            assert (await browser.get("/whoami")).json()["username"] == "ann"
            name = auth.cookie.name
            for planted in (token, key):
                response = await client.get("/whoami", headers={"cookie": f"{name}={planted}"})
                assert response.json()["username"] == ""
            for stolen in (cookie, f"app.{cookie}"):
                assert await username(client, stolen) == ""
            # Both still work where they belong.
            assert await username(client, token) == "ann"
            assert (await browser.get("/whoami")).json()["username"] == "ann"


async def test_sessions_in_cookies_are_refused(database: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"CookieStore keeps .*DatabaseStore, RedisStore or CachedStore\.$"):
        Auth(database, secret_key=SECRET_KEY, sessions=CookieStore(SECRET_KEY), features=[BearerSessions()])


# The login


async def test_the_login_of_an_app_answers_with_the_key_and_its_end(auth: Auth, ann: User, clock: FrozenClock) -> None:
    async with app_client(auth) as client:
        response = await client.post(LOGIN, json=CREDENTIALS)
        assert set(response.json()) == {"token", "expires"}
        [session] = await auth.user_sessions.list(ann)
        assert session.record is not None
        assert response.json()["expires"] == session.record.expires
        # The database has a hash of the key.
        token = response.json()["token"]
        rows = await auth.gateway.fetch_all(sa.select(auth.sessions.table))  # type: ignore[arg-type]
        assert not [value for row in rows for value in row.values() if token.removeprefix("app.") in str(value)]


async def test_a_wrong_login_of_an_app_gets_neither_key_nor_cookie(auth: Auth, ann: User) -> None:
    wrong: list[tuple[dict[str, Any], int]] = [
        ({"password": "wrong"}, 422),
        ({"username": "ben"}, 422),
        ({"password": ""}, 422),
        ({"client": "web"}, 422),
        ({"client": "App"}, 422),
        ({"client": "x" * 21}, 422),
    ]
    async with app_client(auth) as client:
        for fields, status in wrong:
            response = await client.post(LOGIN, json=CREDENTIALS | fields)
            assert response.status_code == status, response.text
            assert response.headers["content-type"] == "application/problem+json"
            assert not {"set-cookie", SESSION_TOKEN} & set(response.headers)
    assert await auth.user_sessions.list(ann) == []


async def test_a_login_without_the_client_sets_a_cookie_and_shows_no_key(auth: Auth, ann: User) -> None:
    async with app_client(auth) as client:
        response = await client.post(LOGIN, json={"username": "ann", "password": PASSWORD})
        assert (response.json(), "set-cookie" in response.headers) == ({"next": "/"}, True)
        assert SESSION_TOKEN not in response.headers
        form = {"username": "ann", "password": PASSWORD, "client": "app"}
        async with app_client(auth) as other:
            response = await other.post(LOGIN, data=form)
            assert (response.status_code, SESSION_TOKEN in response.headers) == (303, False)


async def test_a_page_of_the_site_gets_no_key_that_a_script_could_read(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers=HERE) as browser:
        response = await browser.post(LOGIN, json=CREDENTIALS)
        assert (response.status_code, response.json()["code"]) == (403, "client_refused")
        await log_in(browser, ann, auth)
        for path, fields in (("reauthenticate", {"password": PASSWORD}), ("login", CREDENTIALS | {"client": ""})):
            response = await browser.post(
                f"/accounts/{path}", json=fields | ({"client": "app"} if path != "login" else {})
            )
            assert (response.status_code, SESSION_TOKEN in response.headers) == (200, False)
            assert "token" not in response.json()
    assert len(await auth.user_sessions.list(ann)) == 1


async def test_without_the_feature_a_key_opens_nothing(database: Any, clock: FrozenClock) -> None:
    async with installed(database, clock=clock) as plain:
        await plain.users.create_user("ann", "ann@example.org", PASSWORD)
        async with app_client(plain) as client:
            response = await client.post(LOGIN, json=CREDENTIALS)
            assert (response.json(), "set-cookie" in response.headers) == ({"next": "/"}, True)
            cookie = client.cookies["session"]
        async with app_client(plain) as client:
            for token in (cookie, f"app.{cookie}"):
                assert await username(client, token) == ""


async def test_a_cookie_sent_with_the_login_of_an_app_keeps_its_session(auth: Auth, ann: User) -> None:
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    async with app_client(auth) as browser, app_client(auth) as client:
        await log_in(browser, ben, auth)
        await browser.get("/remember?cart=3")
        # An app that shares its cookies with a web view. Origin stands for a CSRF token.
        client.cookies = browser.cookies
        response = await client.post(LOGIN, json=CREDENTIALS, headers={"origin": "http://testserver"})
        assert (response.status_code, "set-cookie" in response.headers) == (200, False)
        shown = (await client.get("/whoami", headers=bearer(response.json()["token"]))).json()
        assert (shown["username"], shown["session"]) == ("ann", {})
        shown = (await browser.get("/whoami")).json()
        assert (shown["username"], shown["session"]) == ("ben", {"cart": "3"})


async def test_a_login_of_an_app_takes_nothing_of_the_cookies_and_ends_none_of_their_sessions(
    auth: Auth, ann: User
) -> None:
    async with app_client(auth) as first, app_client(auth) as second, app_client(auth) as client:
        cookies = []
        for browser in (first, second):
            await browser.get("/remember?cart=3")  # an anonymous visitor
            cookies.append(f"session={browser.cookies['session']}")
        for sent in (cookies[:1], cookies):
            headers = {"cookie": "; ".join(sent), "origin": "http://testserver"}
            response = await client.post(LOGIN, json=CREDENTIALS, headers=headers)
            assert (response.status_code, "set-cookie" in response.headers) == (200, False)
            assert (await client.get("/whoami", headers=bearer(response.json()["token"]))).json()["session"] == {}
        for browser in (first, second):
            assert (await browser.get("/whoami")).json()["session"] == {"cart": "3"}


async def test_a_failed_login_of_an_app_stores_no_session(auth: Auth, ann: User) -> None:
    async with app_client(auth) as client:
        response = await client.post(LOGIN, json=CREDENTIALS | {"password": "wrong"})
        assert response.status_code == 422
    assert await auth.gateway.fetch_all(sa.select(auth.sessions.table)) == []  # type: ignore[arg-type]


async def test_the_page_of_a_mailed_link_sets_no_cookie_for_an_app(auth: Auth, ann: User) -> None:
    link = await make_reset_link(auth.reset_tokens, ann)
    path = f"/accounts/reset/{link['uidb64']}/{link['token']}"
    async with app_client(auth) as client:
        token = await token_from_login(client)
        response = await client.get(path, headers=bearer(token))
        assert "set-cookie" not in response.headers
        new = "another good long password"
        response = await client.post(path, json={"new_password1": new, "new_password2": new}, headers=bearer(token))
        assert (response.status_code, "set-cookie" in response.headers) == (200, False)
        assert await username(client, token) == ""


@pytest.mark.parametrize("client", ["app", "", "web"])
async def test_the_page_that_logs_in_after_a_reset_gives_an_app_its_key(database: Any, client: str) -> None:
    async with installed(database, features=[BearerSessions()], login_after_reset=True) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        link = await make_reset_link(auth.reset_tokens, ann)
        path, new = f"/accounts/reset/{link['uidb64']}/{link['token']}", "another good long password"
        fields = {"new_password1": new, "new_password2": new, **({"client": client} if client else {})}
        async with app_client(auth) as app:
            refused = await app.post(path, json=fields | {"client": "app"}, headers=HERE)
            assert (refused.status_code, refused.json()["code"]) == (403, "client_refused")
            response = await app.post(path, json=fields)
            if client == "web":
                assert (response.status_code, list(response.json()["errors"])) == (422, ["client"])
                assert not await auth.user_sessions.list(ann)
            elif client == "app":
                assert (response.status_code, "set-cookie" in response.headers) == (200, False)
                assert response.headers[SESSION_TOKEN] == response.json()["token"]
                assert await username(app, response.json()["token"]) == "ann"
            else:
                assert (response.json(), "set-cookie" in response.headers) == ({"next": "/"}, True)
                assert SESSION_TOKEN not in response.headers


async def test_a_login_endpoint_of_the_application_begins_a_session_of_an_app(auth: Auth, ann: User) -> None:
    bearer_sessions = auth.features[0]
    assert isinstance(bearer_sessions, BearerSessions)

    async def enter(request: Request) -> Response:
        user = await get_auth(request).authenticate(request, username="ann", password=PASSWORD)
        bearer_sessions.begin(request)
        await login(request, user)  # type: ignore[arg-type]
        return PlainTextResponse("welcome")

    async with app_client(auth, Route("/enter", enter, methods=["POST"])) as client:
        response = await client.post("/enter")
        assert (response.status_code, "set-cookie" in response.headers) == (200, False)
        assert response.headers["cache-control"] == "no-store"
        assert await username(client, response.headers[SESSION_TOKEN]) == "ann"
        response = await client.post("/enter", headers=HERE)
        assert (response.status_code, SESSION_TOKEN in response.headers) == (403, False)


# New keys


@pytest.mark.parametrize("fields", [{}, {"client": ""}])
async def test_a_login_ends_the_key_that_an_attacker_planted(auth: Auth, ann: User, fields: dict[str, str]) -> None:
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    async with app_client(auth) as client:
        planted = await token_from_login(client, username="ben")
        await client.get("/remember?secret=1", headers=bearer(planted))
        response = await client.post(LOGIN, json=CREDENTIALS | fields, headers=bearer(planted))
        token = response.json()["token"]
        assert (response.headers[SESSION_TOKEN], token != planted) == (token, True)
        assert [await username(client, key) for key in (planted, token)] == ["", "ann"]
        assert (await client.get("/whoami", headers=bearer(token))).json()["session"] == {}
    assert await auth.user_sessions.list(ben) == []


async def test_an_unknown_key_is_not_adopted(auth: Auth) -> None:
    planted = "app." + "x" * 43
    async with app_client(auth) as client:
        response = await client.get("/remember?cart=1", headers=bearer(planted))
        token = response.headers[SESSION_TOKEN]
        assert (token != planted, "set-cookie" in response.headers) == (True, False)
        shown = [(await client.get("/whoami", headers=bearer(key))).json()["session"] for key in (planted, token)]
        assert shown == [{}, {"cart": "1"}]
        response = await client.get("/members", headers=bearer(planted))
        assert (response.status_code, response.headers["www-authenticate"]) == (
            401,
            'Bearer realm="account", error="invalid_token"',
        )


async def test_a_new_password_gives_this_app_a_new_key_and_ends_the_others(auth: Auth, ann: User) -> None:
    new = "another good long password"
    fields = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    async with app_client(auth) as client, app_client(auth) as browser:
        first, second = await token_from_login(client), await token_from_login(client)
        await log_in(browser, ann, auth)
        response = await client.post("/accounts/password_change", json=fields, headers=bearer(first))
        assert (response.status_code, "set-cookie" in response.headers) == (200, False)
        token = response.headers[SESSION_TOKEN]
        assert [await username(client, key) for key in (first, second, token)] == ["", "", "ann"]
        assert (await browser.get("/whoami")).json()["username"] == ""


async def test_the_application_asks_for_a_new_key(auth: Auth, ann: User) -> None:
    async def cycle(request: Request) -> Response:
        request.session.cycle_key()  # type: ignore[attr-defined]
        await request.session.save()  # type: ignore[attr-defined]
        request.session["after"] = "1"
        return PlainTextResponse("done")

    async with app_client(auth, Route("/cycle", cycle)) as client:
        token = await token_from_login(client)
        response = await client.get("/cycle", headers=bearer(token))
        new = response.headers[SESSION_TOKEN]
        assert new != token
        assert [await username(client, key) for key in (token, new)] == ["", "ann"]
        assert (await client.get("/whoami", headers=bearer(new))).json()["session"] == {"after": "1"}


async def test_an_emptied_session_ends_and_its_successor_has_a_new_key(auth: Auth, ann: User) -> None:
    async def restart(request: Request) -> Response:
        request.session.flush()  # type: ignore[attr-defined]
        request.session["step"] = "1"
        return PlainTextResponse("restarted")

    async with app_client(auth, Route("/restart", restart)) as client:
        token = await token_from_login(client)
        response = await client.get("/restart", headers=bearer(token))
        new = response.headers[SESSION_TOKEN]
        assert (await client.get("/whoami", headers=bearer(new))).json()["session"] == {"step": "1"}
        assert (await client.get("/whoami", headers={"cookie": f"session={new[4:]}"})).json()["session"] == {}
        assert await username(client, token) == ""
        response = await client.get("/flush", headers=bearer(new))
        assert not {"set-cookie", SESSION_TOKEN} & set(response.headers)


# Limits, the list, the end


async def test_sessions_of_apps_have_the_limits_of_all(database: Any, clock: FrozenClock) -> None:
    short, long = SessionLimit(absolute=1000, idle=100), SessionLimit(absolute=5000, idle=3000)
    limits = SessionLimits(remembered=long, default=short, staff=long)
    options: dict[str, Any] = {"session_limits": limits, "max_sessions": 2, "clock": clock}
    async with installed(database, features=[BearerSessions(), ActiveSessions()], **options) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with app_client(auth) as client, app_client(auth) as browser:
            await log_in(browser, ann, auth)
            first, second = await token_from_login(client), await token_from_login(client)
            assert (await browser.get("/whoami")).json()["username"] == ""  # the oldest one
            sessions = (await client.get("/accounts/sessions", headers=bearer(second))).json()["sessions"]
            assert [session["is_this"] for session in sessions] == [True, False]
            response = await client.post("/accounts/sessions/end", json={"others": True}, headers=bearer(second))
            assert response.status_code == 200
            assert [await username(client, key) for key in (first, second)] == ["", "ann"]
            clock.tick(100)
            assert await username(client, second) == ""
            response = await client.post(LOGIN, json=CREDENTIALS | {"remember": True})
            assert response.json()["expires"] == int(clock()) + 3000
            for _ in range(4):
                clock.tick(1200)
                assert await username(client, response.json()["token"]) == "ann"
            clock.tick(200)
            assert await username(client, response.json()["token"]) == ""


async def test_a_full_account_refuses_the_login_of_an_app(database: Any, clock: FrozenClock) -> None:
    options: dict[str, Any] = {"max_sessions": 1, "when_full": "reject", "clock": clock}
    async with installed(database, features=[BearerSessions()], **options) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with app_client(auth) as client:
            await token_from_login(client)
            response = await client.post(LOGIN, json=CREDENTIALS)
            assert response.status_code == 403
            assert not {"set-cookie", SESSION_TOKEN} & set(response.headers)
        assert len(await auth.user_sessions.list(ann)) == 1


async def test_the_end_of_an_account_ends_the_sessions_of_apps(auth: Auth, ann: User) -> None:
    async with app_client(auth) as client:
        token = await token_from_login(client)
        await auth.users.update(ann, is_active=False)
        assert await username(client, token) == ""
        await auth.users.update(ann, is_active=True)
        assert await username(client, token) == ""
        token = await token_from_login(client)
        assert await auth.user_sessions.revoke_all(ann) == 1
        assert await username(client, token) == ""


async def test_the_login_of_an_app_grows_old(auth: Auth, ann: User, clock: FrozenClock) -> None:
    @fresh_login_required
    async def danger(request: Request) -> Response:
        return PlainTextResponse("done")

    async with app_client(auth, Route("/danger", danger, methods=["POST"])) as client:
        token = await token_from_login(client)
        assert (await client.post("/danger", headers=bearer(token))).text == "done"
        clock.tick(301)
        response = await client.post("/danger", headers=bearer(token))
        assert (response.status_code, response.json()["code"]) == (401, "login_too_old")
        assert 'error="insufficient_user_authentication"' in response.headers["www-authenticate"]
        assert response.json()["reauthenticate"] == "/accounts/reauthenticate"
        response = await client.post("/accounts/reauthenticate", json={"password": PASSWORD}, headers=bearer(token))
        assert (await client.post("/danger", headers=bearer(response.headers[SESSION_TOKEN]))).text == "done"


# Attacks


async def test_the_header_comes_before_the_cookie(auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    ben = await auth.users.create_user("ben", "ben@example.org", PASSWORD)
    async with app_client(auth) as client, app_client(auth) as browser:
        token = await token_from_login(client)
        await log_in(browser, ben, auth)
        await browser.get("/remember?a=1")
        statements = count_statements(auth, monkeypatch)
        shown = (await browser.get("/whoami", headers=bearer(token))).json()
        assert (shown["username"], shown["session"], len(statements)) == ("ann", {}, 1)
        for wrong in ("app." + "x" * 43, "nonsense", "app."):
            shown = (await browser.get("/whoami", headers=bearer(wrong))).json()
            assert (shown["username"], shown["session"]) == ("", {})
        for path in ("/remember?b=2", "/forget", "/flush"):
            response = await browser.get(path, headers=bearer(token))
            assert (response.status_code, "set-cookie" in response.headers) == (200, False)
        shown = (await browser.get("/whoami")).json()
        assert (shown["username"], shown["session"]) == ("ben", {"a": "1"})


async def test_malformed_keys_cost_no_statement(auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    async with app_client(auth) as client:
        token = await token_from_login(client)
        statements = count_statements(auth, monkeypatch)
        for wrong in (token[4:], "App." + token[4:], token + "0" * 30, token[:10], "app.", token + "!"):
            assert await username(client, wrong) == ""
        assert statements == []


@pytest.mark.parametrize("features", [[BearerSessions], [APITokens, BearerSessions], [BearerSessions, APITokens]])
async def test_a_key_counts_only_in_one_header(database: Any, features: list[Any]) -> None:
    made = [feature("shop") if feature is APITokens else feature() for feature in features]
    async with installed(database, features=made) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with app_client(auth) as client:
            token = await token_from_login(client)
            for query in (f"access_token={token}", f"access_token={token[4:]}"):
                assert await username_in_url(client, query) == ""
            response = await client.get(f"/whoami?access_token={token}")
            assert (response.status_code, response.json()["code"]) == (400, "invalid_request")
            response = await client.get(f"/whoami?access_token={token}", headers=bearer(token))
            assert response.status_code == 400
            for query in (f"token={token}", f"session={token}", f"authorization=Bearer {token}"):
                assert (await client.get(f"/whoami?{query}")).json()["username"] == ""
            for values in ([f"Bearer {token}"] * 2, [f"Bearer {token}", "Basic YTpi"], [f"Bearer {token}, {token}"]):
                response = await client.get("/whoami", headers=[("authorization", value) for value in values])
                assert (response.status_code, "set-cookie" in response.headers) == (400, False)
            assert await username(client, "", authorization=f"Basic {token}") == ""
            for scheme in ("bearer", "BEARER", "Bearer  "):
                assert await username(client, "", authorization=f"{scheme} {token}") == "ann"
            response = await client.post(LOGIN, json={"username": "ann", "password": PASSWORD, "token": token})
            assert "token" not in response.json()


async def username_in_url(client: httpx.AsyncClient, query: str) -> str:
    return str((await client.get(f"/whoami?{query}")).json().get("username", ""))


async def test_no_csrf_token_is_needed_and_a_page_of_another_site_gets_nowhere(database: Any) -> None:
    async with installed(database, features=[BearerSessions()], csrf="strict") as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with app_client(auth) as client, app_client(auth) as browser:
            token = await token_from_login(client)
            assert (await client.post("/members", headers=bearer(token))).status_code == 200
            await log_in(browser, ann, auth)
            assert (await browser.post("/members")).status_code == 403
            assert (await browser.post("/members", headers=bearer(token))).status_code == 200
            # A page of another site cannot send the header, unless CORS lets it.
            evil = {"origin": "https://evil.example", "sec-fetch-site": "cross-site"}
            assert (await browser.post("/members", headers=evil)).status_code == 403
            response = await client.post(LOGIN, json=CREDENTIALS, headers=evil)
            assert (response.status_code, SESSION_TOKEN in response.headers) == (403, False)
            # A web view of an app, whose pages have an origin of their own.
            response = await client.post(LOGIN, json=CREDENTIALS, headers=bearer(token) | evil)
            token = response.json()["token"]
            assert (await client.post("/accounts/logout", headers=bearer(token) | evil)).status_code == 200
            assert await username(client, token) == ""


async def test_neither_a_log_nor_the_json_of_the_session_shows_the_key(
    auth: Auth, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with app_client(auth) as client:
        token = await token_from_login(client)
        for path in ("/whoami", "/accounts/session", "/accounts/sessions", "/vote"):
            response = await client.get(path, headers=bearer(token))
            assert token[4:] not in response.text
        ours = [record.getMessage() for record in caplog.records if record.name.startswith("starlette_auth")]
        assert ours
        assert not [text for text in ours if token[4:] in text]


# Beside API tokens, WebSockets, caches


@pytest.mark.parametrize("tokens_first", [True, False])
async def test_an_app_and_a_script_use_the_same_scheme(database: Any, tokens_first: bool) -> None:
    tokens = APITokens("webapp")  # whose tokens are as long as a session key
    features = [tokens, BearerSessions()] if tokens_first else [BearerSessions(), tokens]
    async with installed(database, features=features) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        api_token = str((await tokens.create(ann, "script")).token)
        async with app_client(auth) as client:
            token = await token_from_login(client)
            assert [await username(client, key) for key in (token, api_token)] == ["ann", "ann"]
            assert (await client.get("/accounts/tokens", headers=bearer(api_token))).status_code == 403
            response = await client.get("/accounts/tokens", headers=bearer(token))
            assert [row["name"] for row in response.json()["tokens"]] == ["script"]
            # An API token cannot become a session.
            response = await client.post(LOGIN, json=CREDENTIALS, headers=bearer(api_token))
            assert (response.status_code, SESSION_TOKEN in response.headers) == (403, False)


async def test_a_websocket_of_an_app_ends_with_its_session(auth: Auth, ann: User) -> None:
    app = make_app(auth)
    async with app_client(auth) as client:
        token = await token_from_login(client)
        async with app_socket(app, "/club-socket", token) as socket:
            assert socket.answer["type"] == "websocket.accept"
            assert (await socket.received.get())["text"] == "ann"
            assert not {b"set-cookie", SESSION_TOKEN.encode()} & set(socket.headers)
            await client.post("/accounts/logout", headers=bearer(token))
            closed = await asyncio.wait_for(socket.received.get(), 5)
            assert (closed["type"], closed["code"]) == ("websocket.close", 1008)
        async with app_socket(app, "/members-socket", token) as socket:
            assert socket.answer["type"] == "websocket.close"
        token = await token_from_login(client)
        async with app_socket(app, "/echo?a=1", token) as socket:
            await socket.say("b=2")
        assert (await client.get("/whoami", headers=bearer(token))).json()["session"] == {"a": "1", "b": "2"}
        async with app_socket(app, "/echo?c=3", "app." + "x" * 43) as socket:
            new = socket.headers[SESSION_TOKEN.encode()].decode()
            assert b"set-cookie" not in socket.headers
        assert (await client.get("/whoami", headers=bearer(new))).json()["session"] == {"c": "3"}


async def test_what_a_websocket_stores_after_it_emptied_the_session_is_of_the_app(auth: Auth) -> None:
    async def empty(websocket: WebSocket) -> None:
        await websocket.accept()
        websocket.session.clear()
        websocket.session["left"] = "1"
        await websocket.close()

    app = make_app(auth, WebSocketRoute("/empty", empty))
    async with app_client(auth) as client:
        key = (await client.get("/remember?a=1", headers=bearer("app." + "x" * 43))).headers[SESSION_TOKEN]
        async with app_socket(app, "/empty", key):
            pass
        assert (await client.get("/whoami", headers=bearer(key))).json()["session"] == {"left": "1"}


def app_socket(app: Any, path: str, token: str) -> Socket:
    socket = Socket(app, path, httpx.AsyncClient())
    headers = [(b"host", b"testserver"), (b"authorization", f"Bearer {token}".encode())]
    socket.scope["headers"] = headers
    return socket


async def test_caches_keep_the_answers_apart(auth: Auth, ann: User) -> None:
    async with app_client(auth) as client:
        token = await token_from_login(client)
        response = await client.get("/whoami", headers=bearer(token))
        assert [part.strip() for part in response.headers["vary"].split(",")] == ["Cookie", "Authorization"]


async def test_middleware_from_before_the_feature_is_named(auth: Auth, ann: User) -> None:
    app = make_app(auth)
    async with app_client(auth) as client:
        token = await token_from_login(client)
    app.user_middleware[0].kwargs["key_in_header"] = None
    async with client_of(app) as client:
        with pytest.raises(ImproperlyConfigured, match=r"key_in_header"):
            await client.get("/whoami", headers=bearer(token))


# OpenAPI


async def test_openapi_has_the_scheme_and_the_login_of_apps(database: Any) -> None:
    async with installed(database, features=[APITokens("shop"), BearerSessions()]) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        app = FastAPI(lifespan=lifespan(auth), middleware=middleware(auth))
        app.include_router(accounts(auth), prefix="/accounts")

        @app.get("/me", dependencies=[Depends(login_required)])
        async def me() -> None: ...

        @app.get("/danger", dependencies=[Depends(fresh_login_required)])
        async def danger() -> None: ...

        async with app.router.lifespan_context(app):
            schema = app.openapi()
        validate(schema)
        schemes = schema["components"]["securitySchemes"]
        assert {name: schemes[name]["type"] for name in schemes} == {
            "session": "apiKey",
            "token": "http",
            "app_session": "http",
        }
        assert schema["paths"]["/me"]["get"]["security"] == [{"session": []}, {"token": []}, {"app_session": []}]
        assert schema["paths"]["/danger"]["get"]["security"] == [{"session": []}, {"app_session": []}]
        operation = schema["paths"]["/accounts/login"]["post"]
        body = operation["requestBody"]["content"]["application/json"]["schema"]
        assert (body["properties"]["client"], "client" in body["required"]) == (
            {"type": "string", "enum": ["app"]},
            False,
        )
        result = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert set(result["properties"]) == {"next", "token", "expires"}
