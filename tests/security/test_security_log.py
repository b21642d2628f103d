"""Tests of the logger `starlette_auth.security`: what it says, and what it must not say."""

import logging
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from databases import Database
from starlette.authentication import SimpleUser
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocket, WebSocketDisconnect

from starlette_auth import (
    ActiveSessions,
    Auth,
    Cookie,
    EmailChange,
    Event,
    FactorAdded,
    FactorRemoved,
    LoginPending,
    PasswordRefused,
    RecoveryCodesMade,
    RecoveryCodeUsed,
    Registration,
    SecondFactorFailed,
    Tables,
    TooManyAttempts,
    User,
    authenticate,
    fresh_login_required,
    migrate,
    permission_required,
    user_columns,
)
from starlette_auth.core.feature_events import PasskeyCloned
from starlette_auth.core.translation import Languages
from starlette_auth.testing import CollectingMailer

from ..conftest import PASSWORD, SECRET_KEY, any_database, client_of, post_login, with_store, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

Languages(["de"])  # reads the catalog here, because a test must not block the event loop
NEW_PASSWORD = "eleven purple hats in a row"
FOREIGN = {"origin": "https://evil.example"}
SITE = {"origin": "http://testserver"}
FORGED = 'x"\r\nWARNING login account=1 \x1b[31m\u202e\u2028é' + "y" * 500


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "starlette_auth.security")


def records(caplog: pytest.LogCaptureFixture) -> list[Any]:
    return [record for record in caplog.records if record.name == "starlette_auth.security"]


def events(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.event for record in records(caplog)]


async def test_a_login_and_a_logout_are_logged_with_account_address_and_browser(
    auth: Auth, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(make_app(auth), headers={"user-agent": "Firefox 140", **SITE}) as client:
        await post_login(client)
        await client.post("/accounts/logout")
    about = 'address=192.0.2.1 browser="Firefox 140" method=POST'
    proofs = 'reason="by password, level 1, starlette_auth.ModelBackend"'
    assert [record.getMessage() for record in records(caplog)] == [
        f"login account={ann.id} {about} path=/accounts/login {proofs}",
        f"logout account={ann.id} {about} path=/accounts/logout",
    ]
    login = records(caplog)[0]
    assert (login.levelno, login.account, login.address) == (logging.INFO, str(ann.id), "192.0.2.1")
    assert (login.browser, login.path, login.claimed) == ("Firefox 140", "/accounts/login", "")


async def test_a_failed_login_names_the_account_or_hides_the_name(
    auth: Auth, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(make_app(auth), headers=SITE) as client:
        await post_login(client, password="typed in anger")
        for name in (PASSWORD, PASSWORD.upper(), "bob"):  # a visitor types the password into the wrong field
            await post_login(client, name, "typed in anger")
    failures = [record for record in records(caplog) if record.event == "login_failed"]
    assert {record.levelno for record in failures} == {logging.WARNING}
    assert [record.account for record in failures] == [str(ann.id), "", "", ""]
    first, second, third = [record.claimed for record in failures[1:]]
    assert first == second != third
    for secret in (PASSWORD, "anger", "bob", "ann"):
        assert secret.lower() not in caplog.text.lower().replace("/accounts/", "")


ACTIONS = {
    "password_change": "password_change",
    "reauthenticate": "reauthenticate",
    "email_change": "email_change_password",
}


@pytest.mark.parametrize("page", ACTIONS)
async def test_each_refusal_of_a_password_is_an_event_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, page: str
) -> None:
    seen: list[Event] = []
    mail: dict[str, Any] = {"mailer": CollectingMailer(), "base_url": "http://testserver"}
    async with with_store("sqlite", tmp_path, features=[EmailChange()], **mail) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        auth.events.on(PasswordRefused)(seen.append)
        async with client_of(make_app(auth), headers=SITE) as client:
            await post_login(client)
            data = {"old_password": "wrong", "password": "wrong", "email": "new@example.org"}
            data |= {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
            assert (await client.post(f"/accounts/{page}", data=data)).status_code == 422
            data |= {"password": PASSWORD, "old_password": PASSWORD}
            assert (await client.post(f"/accounts/{page}", data=data)).is_redirect
    (refused,) = [record for record in records(caplog) if record.event == "password_refused"]
    (event,) = seen
    assert isinstance(event, PasswordRefused)
    assert (refused.account, refused.path, refused.levelno) == (str(ann.id), f"/accounts/{page}", logging.WARNING)
    assert (event.user, event.action, refused.reason) == (ann, ACTIONS[page], ACTIONS[page])


@pytest.mark.parametrize("at", ["page", "rate", "endpoint"])
async def test_too_many_attempts_are_an_event_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    seen: list[Event] = []

    async def endpoint(request: Request) -> Response:
        return JSONResponse(await authenticate(request, username="ann", password="wrong") is not None)

    rates = {"password_reset": "1/m/ip", "login": "" if at != "rate" else "1/m/ip"}
    mail: dict[str, Any] = {"mailer": CollectingMailer(), "base_url": "http://testserver"}
    async with with_store("sqlite", tmp_path, rates=rates, **mail) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        auth.events.on(TooManyAttempts)(seen.append)
        app = make_app(auth, Route("/own", endpoint, methods=["POST"]))
        async with client_of(app, headers=SITE) as client:
            path = {"page": "/accounts/password_reset", "rate": "/accounts/login", "endpoint": "/own"}[at]
            data = {"email": "ann@example.org", "username": "ann", "password": "wrong"}
            for _ in range(7):
                response = await client.post(path, data=data)
                if response.status_code == 429:
                    break
    (event,) = seen
    assert isinstance(event, TooManyAttempts)
    action, user = ("password_reset", None) if at == "page" else ("login", ann)
    assert (event.action, event.user, str(event.retry_after)) == (action, user, response.headers["retry-after"])
    (record,) = [record for record in records(caplog) if record.event in ("too_many_attempts", "refused")]
    assert (record.event, record.path, record.account) == ("too_many_attempts", path, str(ann.id) if user else "")


async def test_a_403_is_logged_wherever_it_comes_from(auth: Auth, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    async def own(request: Request) -> Response:
        if "raise" in request.query_params:
            raise HTTPException(403)
        return JSONResponse({}, 403)

    async with client_of(make_app(auth, Route("/own", own)), headers=SITE) as client:
        assert (await client.get("/vote")).is_redirect  # an anonymous visitor is asked to log in
        await post_login(client)
        caplog.clear()
        paths = ["/vote", "/vote-by-scope", "/recount", "/staff", "/own", "/own?raise"]
        for path in paths:
            assert (await client.get(path)).status_code == 403
    assert events(caplog) == ["refused"] * len(paths)
    assert [record.path for record in records(caplog)] == [path.partition("?")[0] for path in paths]
    assert {record.account for record in records(caplog)} == {str(ann.id)}


@pytest.mark.parametrize("language", ["en", "de"])
async def test_a_csrf_refusal_is_logged_with_its_reason_in_english(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, language: str
) -> None:
    async with with_store("sqlite", tmp_path, csrf="strict", languages=["en", "de"]) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with client_of(make_app(auth), headers={"accept-language": language}) as client:
            await post_login(client)
            caplog.clear()
            pages = [
                await client.post("/vote", headers=FOREIGN),
                await client.post("/vote", data={"a": "b"}),
                await client.post("/vote", data={"csrfmiddlewaretoken": "wrong"}),
            ]
            await client.post("/accounts/logout", headers=FOREIGN)
    assert [page.status_code for page in pages] == [403] * 3
    assert ("another site" in pages[0].text) is (language == "en")
    reasons = [record.reason for record in records(caplog)]
    assert [reason.startswith("CSRF: This ") for reason in reasons] == [True] * 4
    assert len(set(reasons)) == 3
    assert {(record.event, record.account) for record in records(caplog)} == {("refused", str(ann.id))}


def test_a_refused_websocket_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @permission_required("polls.add_vote")
    async def socket(websocket: WebSocket) -> None:
        raise AssertionError

    with TestClient(make_app(_sync_auth(tmp_path), WebSocketRoute("/socket", socket))) as client:
        for headers in ({}, FOREIGN):
            with pytest.raises(WebSocketDisconnect), client.websocket_connect("/socket", headers=headers):
                pass
    first, second = records(caplog)
    assert (first.event, first.method, first.path) == ("refused", "WEBSOCKET", "/socket")
    assert "CSRF" in second.reason


def _sync_auth(tmp_path: Path) -> Auth:
    return Auth(Database(f"sqlite+aiosqlite:///{tmp_path}/a.sqlite3"), secret_key="k" * 10 + "abcdefgh" * 5)


async def test_changes_of_an_account_and_ends_of_sessions_are_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_store("sqlite", tmp_path, features=[ActiveSessions()]) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        app = make_app(auth)
        async with client_of(app, headers=SITE) as first, client_of(app, headers=SITE) as second:
            for client in (first, second, second):
                await post_login(client)
            caplog.clear()
            data = {"old_password": PASSWORD, "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
            await first.post("/accounts/password_change", data=data)
            sessions = await auth.user_sessions.list(ann)
            await auth.user_sessions.revoke(ann, sessions[0].public_id)
            await post_login(first, password=NEW_PASSWORD)
            await first.post("/accounts/sessions/end", data={"others": "1"})
            await auth.users.set_password(ann, PASSWORD)
            await first.get("/whoami")
            await post_login(second)
            await auth.users.update(ann, is_active=False)
            await auth.users.delete(ann)
            await auth.user_sessions.revoke_everybody()
    assert [(record.event, record.account) for record in records(caplog)] == [
        ("password_changed", str(ann.id)),
        ("session_ended", str(ann.id)),
        ("login", str(ann.id)),
        ("password_changed", str(ann.id)),
        ("session_expired", str(ann.id)),
        ("login", str(ann.id)),
        ("user_deactivated", str(ann.id)),
        ("user_deleted", str(ann.id)),
        ("everybody_logged_out", ""),
    ]
    assert [record.reason for record in records(caplog)][4] == "password changed"


async def test_what_is_rolled_back_is_not_logged(auth: Auth, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    caplog.clear()

    async def deactivate_and_fail() -> None:
        async with auth.gateway.atomic():
            await auth.users.update(ann, is_active=False)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await deactivate_and_fail()
    assert records(caplog) == []


async def test_a_client_cannot_forge_lines(auth: Auth, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    headers = {"user-agent": FORGED.encode("utf-8", "replace"), "host": "testserver"}
    path = "/vote%0d%0aWARNING%20login%1b%5b31m%e2%80%a8"
    app = make_app(auth, exception_handlers={404: _refuse})
    async with client_of(app, headers=headers) as client:
        await client.get(path)
        await post_login(client, FORGED[:100], "wrong")
    assert events(caplog) == ["refused", "login_failed"]
    for record in records(caplog):
        for text in (record.getMessage(), record.browser, record.path):
            assert text.isascii()
            assert text.isprintable()
            assert len(text) < 2000
        assert record.getMessage().count(" browser=") == 1
        assert 'browser="x\\"\\r\\n' in record.getMessage()


async def _refuse(request: Request, error: Exception) -> Response:
    return JSONResponse({}, 403)


async def test_the_secret_of_a_mailed_link_is_not_logged(auth: Auth, caplog: pytest.LogCaptureFixture) -> None:
    secret = "s3cr3t" * 8
    async with client_of(make_app(auth)) as client:
        await client.post(f"/accounts/reset/MQ/{secret}", headers=FOREIGN, data={"a": "b"})
    (record,) = records(caplog)
    assert (record.event, record.path) == ("refused", "/accounts/reset/MQ/...")
    assert secret not in caplog.text


async def test_an_ordinary_request_logs_nothing(auth: Auth, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    @fresh_login_required
    async def fresh(request: Request) -> Response:
        return JSONResponse({})

    async with client_of(make_app(auth, Route("/fresh", fresh)), headers=SITE) as client:
        await post_login(client)
        caplog.clear()
        for path in ("/members", "/whoami", "/remember?a=1", "/nowhere", "/fresh", "/accounts/password_change"):
            await client.get(path)
    assert records(caplog) == []


def test_the_logger_is_left_to_the_application() -> None:
    logger = logging.getLogger("starlette_auth.security")
    assert logger.propagate
    assert logger.handlers == []


async def test_users_of_a_custom_table_are_told_apart(auth: Auth, ann: User, caplog: pytest.LogCaptureFixture) -> None:
    member = sa.Table("member", sa.MetaData(), *user_columns())
    other = Auth(auth.database, secret_key=SECRET_KEY, tables=Tables(user=member), cookie=Cookie(name="member"))
    await migrate(other.gateway, other.tables)
    await other.users.create_user("ann", "ann@example.org")
    await auth.users.update(ann, is_active=False)
    assert [record.getMessage() for record in records(caplog)] == [
        "user_created account=1 users=member",
        "user_deactivated account=1",
    ]


async def test_a_user_object_of_the_application_is_no_problem(auth: Auth, caplog: pytest.LogCaptureFixture) -> None:
    async def own(request: Request) -> Response:
        request.scope["user"] = SimpleUser("someone")
        return JSONResponse({}, 403)

    async with client_of(make_app(auth, Route("/own", own))) as client:
        assert (await client.get("/own")).status_code == 403
    (record,) = records(caplog)
    assert (record.event, record.account) == ("refused", "")


@pytest.mark.parametrize("page", ["register", "email_change"])
async def test_a_wrong_password_at_a_mailed_link_is_an_event(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, page: str
) -> None:
    seen: list[Any] = []
    mailer, site = CollectingMailer(), "http://testserver"
    features = [Registration(), EmailChange()]
    async with with_store("sqlite", tmp_path, features=features, mailer=mailer, base_url=site) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        auth.events.on(PasswordRefused)(seen.append)
        app = make_app(auth)
        async with client_of(app, headers=SITE) as client, client_of(app, headers=SITE) as other:
            if page == "email_change":
                await post_login(client)
            names = ("password1", "password2")
            data = {"username": "ben", "email": "ben@example.org", **dict.fromkeys(names, NEW_PASSWORD)}
            assert (await client.post(f"/accounts/{page}", data={**data, "old_password": PASSWORD})).is_redirect
            await auth.mail_queue.drain()
            form = await other.get(mailer.links()[0], follow_redirects=True)
            assert (await other.post(str(form.url), data={"password": "wrong"})).status_code == 422
    (event,) = seen
    assert (event.user, event.action) == (None, "confirm") if page == "register" else (ann, "login")
    (record,) = [record for record in records(caplog) if record.event == "password_refused"]
    assert (record.account, record.path) == ("" if event.user is None else "1", f"/accounts/{page}/confirm/...")


FACTOR_EVENTS: dict[str, tuple[type[Event], dict[str, Any], int, str]] = {
    "login_pending": (LoginPending, {"step": "second_factor", "methods": ("password",)}, logging.INFO, "second_factor"),
    "second_factor_failed": (
        SecondFactorFailed,
        {"method": "totp", "failures": 7},
        logging.WARNING,
        "totp, 7 in a row",
    ),
    "factor_added": (FactorAdded, {"factor": "passkey"}, logging.INFO, "passkey"),
    "factor_removed": (FactorRemoved, {"factor": "key"}, logging.INFO, "key"),
    "recovery_code_used": (RecoveryCodeUsed, {"left": 2}, logging.INFO, "2 left"),
    "recovery_codes_made": (RecoveryCodesMade, {"number": 10}, logging.INFO, "10 codes"),
    "passkey_cloned": (PasskeyCloned, {"name": 'x"\n'}, logging.WARNING, 'x"\\n'),
}


@pytest.mark.parametrize("name", FACTOR_EVENTS)
async def test_what_happens_to_factors_is_logged_with_account_address_and_browser(
    auth: Auth, ann: User, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    kind, fields, level, reason = FACTOR_EVENTS[name]

    async def tell(request: Request) -> Response:
        async with auth.gateway.atomic():
            await auth.events.emit(kind(user=ann, request=request, **fields))  # type: ignore[call-arg]
        return JSONResponse({})

    async with client_of(make_app(auth, Route("/tell", tell)), headers={"user-agent": "Firefox 140"}) as client:
        await client.get("/tell")
    (record,) = records(caplog)
    assert (record.event, record.levelno, record.account, record.reason) == (name, level, str(ann.id), reason)
    assert (record.address, record.browser, record.path) == ("192.0.2.1", "Firefox 140", "/tell")
    assert "\n" not in record.getMessage()
