"""Session limits: absolute and idle timeouts, remembered logins, staff, and the number of sessions."""

import asyncio
import re
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import (
    Auth,
    Cookie,
    CookieStore,
    ImproperlyConfigured,
    RemoteUserBackend,
    SessionLimit,
    SessionLimits,
    TooManySessions,
    User,
    login,
)
from starlette_auth.sessions.limits import PRESETS
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import (
    ON_SERVER,
    PASSWORD,
    SECRET_KEY,
    client_of,
    count_statements,
    installed,
    name_of,
    post_login,
    with_store,
    with_tables,
)
from ..support.apps import make_app

pytestmark = with_tables

MINUTE, HOUR, DAY = 60, 60 * 60, 24 * 60 * 60
ALL_STORES = ["cookie", *ON_SERVER]


async def whoami(client: httpx.AsyncClient) -> str:
    return str((await client.get("/whoami")).json()["username"])


async def is_logged_in(client: httpx.AsyncClient) -> bool:
    return await whoami(client) == "ann"


def max_age_of(answer: httpx.Response) -> int | None:
    cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("session="))
    match = re.search(r"Max-Age=(\d+)", cookie)
    # Rounded up to a minute, because a second may pass between two readings of the clock.
    return -(-int(match[1]) // 60) * 60 if match else None


# The timeouts of NIST SP 800-63B-4 §2.1.3, §2.2.3, §2.3.3


@pytest.mark.parametrize(
    ("level", "is_remembered", "absolute", "idle"),
    [
        ("aal1", True, 30 * DAY, 14 * DAY),
        ("aal1", False, 12 * HOUR, 2 * HOUR),
        ("aal2", True, DAY, HOUR),
        ("aal2", False, DAY, HOUR),
        ("aal3", True, 12 * HOUR, 15 * MINUTE),
        ("aal3", False, 12 * HOUR, 15 * MINUTE),
    ],
)
@pytest.mark.parametrize("kind", ["sqlite", "cookie"])
async def test_a_login_lasts_as_long_as_its_nist_level_allows(
    tmp_path: Path, kind: str, level: Any, is_remembered: bool, absolute: int, idle: int
) -> None:
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock, session_limits=level) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        fields = {"remember": "on"} if is_remembered else {}
        async with client_of(make_app(auth)) as client:
            await post_login(client, **fields)
            clock.tick(idle - 1)
            assert await is_logged_in(client), "the idle timeout has not passed yet"
            clock.tick(idle)
            assert not await is_logged_in(client)
            await post_login(client, **fields)
            end = clock.now + absolute
            while clock.now + idle // 2 < end:
                clock.tick(idle // 2)
                assert await is_logged_in(client), "requests extend the session until the absolute timeout"
            clock.now = end - 1
            assert await is_logged_in(client)
            clock.now = end
            assert not await is_logged_in(client)


@pytest.mark.parametrize("kind", ALL_STORES, ids=name_of)
async def test_every_store_enforces_both_timeouts(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    limit = SessionLimit(absolute=1000, idle=300)
    limits = SessionLimits(remembered=limit, default=limit, staff=limit)
    async with with_store(kind, tmp_path, clock, session_limits=limits) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            await post_login(client)
            started_at = clock.now
            for passed in (200, 400, 600, 800, 999):
                clock.now = started_at + passed
                assert await is_logged_in(client), passed
            copy = {"cookie": f"session={client.cookies['session']}"}
            clock.now = started_at + 1000
            assert (await client.get("/members", headers=copy)).status_code == 303
            await post_login(client)
            clock.tick(299)
            assert await is_logged_in(client)
            clock.tick(300)
            assert not await is_logged_in(client)


@pytest.mark.parametrize("kind", ALL_STORES, ids=name_of)
async def test_changes_and_new_keys_do_not_extend_the_absolute_timeout(kind: str, tmp_path: Path) -> None:
    async def cycle(request: Request) -> Response:
        request.session.cycle_key()  # type: ignore[attr-defined]
        request.session.set_expiry(365 * DAY)  # type: ignore[attr-defined]
        return PlainTextResponse("")

    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth, Route("/cycle", cycle))) as client:
            await post_login(client)
            for n in range(11):
                clock.tick(HOUR)
                assert (await client.get("/cycle" if n % 2 else f"/remember?n={n}")).status_code == 200
                assert await is_logged_in(client)
            clock.tick(HOUR)
            assert not await is_logged_in(client)


async def test_set_expiry_can_only_shorten_a_login(database: Database) -> None:
    async def shorten(request: Request) -> Response:
        request.session.set_expiry(100)  # type: ignore[attr-defined]
        return PlainTextResponse("")

    clock = FrozenClock()
    async with (
        installed(database, clock=clock) as auth,
        client_of(make_app(auth, Route("/shorten", shorten))) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        assert max_age_of(await client.get("/shorten")) is None
        clock.tick(99)
        assert await is_logged_in(client)
        clock.tick(100)
        assert not await is_logged_in(client)


async def test_set_expiry_does_not_make_the_cookie_of_a_login_persistent(
    database: Database,
) -> None:
    async def prolong(request: Request) -> Response:
        request.session.set_expiry(10**9)  # type: ignore[attr-defined]
        return PlainTextResponse("")

    async with installed(database) as auth, client_of(make_app(auth, Route("/prolong", prolong))) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        assert max_age_of(await client.get("/prolong")) is None


async def test_a_login_may_have_a_longer_idle_timeout_than_an_anonymous_session(database: Database) -> None:
    clock, year = FrozenClock(), SessionLimit(absolute=365 * DAY, idle=90 * DAY, persistent=True)
    limits = SessionLimits(remembered=year, default=year, staff=year)
    async with (
        installed(database, clock=clock, session_limits=limits, cookie=Cookie(max_age=100)) as auth,
        client_of(make_app(auth)) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        for _ in range(3):
            clock.tick(89 * DAY)
            assert await is_logged_in(client)
        clock.tick(90 * DAY)
        assert not await is_logged_in(client)


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_the_limits_apply_to_users_of_a_reverse_proxy(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.1"]))
        ann = await auth.users.create_user("ann")
        async with client_of(make_app(auth), headers={"remote-user": "ann"}) as client:
            await client.get("/whoami")
            first = client.cookies["session"]
            assert max_age_of(await client.get("/remember?a=1")) is None
            for _ in range(13):
                clock.tick(HOUR)
                assert await whoami(client) == "ann"
            assert client.cookies["session"] != first, "a new login after twelve hours"
            assert len(await auth.user_sessions.list(ann)) == 1


# Staying logged in


@pytest.mark.parametrize(
    ("sent", "expected"),
    [({}, None), ({"remember": "on"}, 30 * DAY), ({"remember": "false"}, None), ({"remember": ""}, None)],
    ids=str,
)
async def test_the_login_page_offers_remember_me(
    auth: Auth, ann: User, sent: dict[str, str], expected: int | None
) -> None:
    async with client_of(make_app(auth)) as client:
        assert 'name="remember" type="checkbox"' in (await client.get("/accounts/login")).text
        answer = await post_login(client, **sent)
        # Without "remember me" it is a session cookie; with it, it lasts until the absolute timeout.
        assert max_age_of(answer) == expected


@pytest.mark.parametrize(("value", "expected"), [(True, 30 * DAY), (False, None), ("on", 30 * DAY)])
async def test_json_clients_can_send_remember(auth: Auth, ann: User, value: Any, expected: int | None) -> None:
    async with client_of(make_app(auth)) as client:
        fields = {"username": "ann", "password": PASSWORD, "remember": value}
        answer = await client.post("/accounts/login", json=fields)
        assert answer.json() == {"next": "/"}
        assert max_age_of(answer) == expected
        client.cookies.clear()
        assert (await client.post("/accounts/login", json={**fields, "remember": 1})).status_code == 400


async def test_remember_me_stays_checked_after_a_wrong_password(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        page = (await post_login(client, password="wrong", remember="on")).text
        assert re.search(r'name="remember" type="checkbox" value="on" checked', page)


async def test_the_login_page_has_no_remember_me_if_it_makes_no_difference(database: Database) -> None:
    async with installed(database, session_limits="aal2") as auth, client_of(make_app(auth)) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        assert "remember" not in (await client.get("/accounts/login")).text
        assert max_age_of(await post_login(client, remember="on")) is None


async def test_remember_me_does_not_apply_to_the_next_login(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        assert max_age_of(await post_login(client, remember="on")) == 30 * DAY
        assert max_age_of(await post_login(client)) is None


async def test_login_has_a_remember_parameter(auth: Auth, ann: User) -> None:
    async def enter(request: Request) -> Response:
        await login(request, ann, remember="remember" in request.query_params)
        return PlainTextResponse("")

    async with client_of(make_app(auth, Route("/enter", enter))) as client:
        assert max_age_of(await client.get("/enter?remember")) == 30 * DAY
        assert max_age_of(await client.get("/enter")) is None


@pytest.mark.parametrize("role", ["is_staff", "is_superuser"])
async def test_the_staff_limit_also_applies_to_remembered_logins(database: Database, role: str) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth, client_of(make_app(auth)) as client:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client, remember="on")
        clock.tick(2 * HOUR)
        assert await is_logged_in(client)
        clock.tick(2 * HOUR)
        await auth.users.update(ann, **{role: True})
        assert not await is_logged_in(client), "the staff limit applies to an existing session at once"
        assert max_age_of(await post_login(client, remember="on")) is None
        clock.tick(HOUR - 1)
        assert await is_logged_in(client)
        clock.tick(HOUR)
        assert not await is_logged_in(client)


# The cost of touching a session


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_last_seen_is_updated_after_the_response_and_once_a_minute(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            cookie = f"session={client.cookies['session']}".encode()
        started_at, seen_before_update = clock.now, []

        async def last_seen() -> int:
            return int((await auth.user_sessions.list(ann))[0].last_seen - started_at)

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                seen_before_update.append(await last_seen())

        scope = {
            "type": "http",
            "method": "GET",
            "path": "/whoami",
            "root_path": "",
            "query_string": b"",
            "headers": [(b"cookie", cookie), (b"user-agent", b"x")],
            "client": ("192.0.2.9", 1),
            "scheme": "http",
        }
        seen_after_update = []
        for passed in (0, 30, 60, 61, 119, 120, 121, 500):
            clock.now = started_at + passed
            await app(dict(scope), receive, send)
            seen_after_update.append(await last_seen())
        assert seen_after_update == [0, 0, 60, 60, 60, 120, 120, 500]
        assert seen_before_update == [0, *seen_after_update[:-1]], "the response does not wait for the update"
        record = (await auth.user_sessions.list(ann))[0].record
        assert record is not None
        assert record.address == "192.0.2.9"


async def test_requests_within_a_minute_write_nothing(auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        statements = count_statements(auth, monkeypatch)
        for _ in range(5):
            await client.get("/members")
        assert [statement.split()[0] for statement in statements] == ["SELECT"] * 5


async def test_reading_an_anonymous_session_never_writes(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth, client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        clock.tick(DAY)
        statements = count_statements(auth, monkeypatch)
        assert (await client.get("/whoami")).json()["session"] == {"a": "1"}
        assert [statement.split()[0] for statement in statements] == ["SELECT"]


async def test_an_anonymous_session_has_no_address(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        rows = await auth.database.fetch_all(auth.tables.session.select())
        assert [(row["address"], row["user_agent"]) for row in rows] == [("", "")]
        await post_login(client)
        rows = await auth.database.fetch_all(auth.tables.session.select())
        assert [row["address"] for row in rows] == ["192.0.2.1"]


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_clearing_a_login_from_the_session_removes_the_address(kind: str, tmp_path: Path) -> None:
    """Many applications log users out with `session.clear()`."""

    async def clear(request: Request) -> Response:
        key = request.session.session_key  # type: ignore[attr-defined]
        request.session.clear()
        request.session["flash"] = "Bye"
        return PlainTextResponse(key)

    async with (
        with_store(kind, tmp_path, FrozenClock()) as auth,
        client_of(make_app(auth, Route("/clear", clear))) as client,
    ):
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        record = (await auth.sessions.load((await client.get("/clear")).text)).record
        assert record is not None
        assert (record.user_id, record.address, record.user_agent) == (None, "", "")


# The number of sessions


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_a_login_above_max_sessions_ends_the_oldest_session(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock, max_sessions=2) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        await auth.users.create_user("ben", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as first, client_of(app) as second, client_of(app) as third, client_of(app) as ben:
            for client in (first, second, third):
                await post_login(client)
                await post_login(ben, "ben")
                clock.tick(1)
            assert [await whoami(client) for client in (first, second, third, ben)] == ["", "ann", "ann", "ben"]
            # A second login in the same browser replaces its session and ends no other.
            await post_login(third)
            assert [await whoami(client) for client in (second, third)] == ["ann", "ann"]


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_a_login_above_max_sessions_can_be_refused(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock, max_sessions=2, when_full="reject") as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as first, client_of(app) as second, client_of(app) as third:
            await post_login(first)
            await post_login(second)
            answer = await post_login(third)
            assert answer.status_code == 403
            assert "logged in on 2 other devices already" in answer.text
            assert "set-cookie" not in answer.headers
            before = await auth.users.get(ann.id)
            clock.tick(10)
            fields = {"username": "ann", "password": PASSWORD}
            problem = await third.post("/accounts/login", json=fields)
            assert (problem.status_code, problem.headers["content-type"]) == (403, "application/problem+json")
            after = await auth.users.get(ann.id)
            assert before is not None
            assert after is not None
            assert after.last_login == before.last_login, "a refused login does not count as a login"
            # The same browser may log in again, because that replaces its session.
            assert (await post_login(second)).status_code == 303
            assert (await post_login(third, password="wrong")).status_code == 422, (
                "a wrong password does not show that the limit is reached"
            )
            await first.post("/accounts/logout", headers={"origin": "http://testserver"})
            assert (await post_login(third)).status_code == 303
            # Expired sessions do not count.
            clock.tick(2 * HOUR)
            assert (await post_login(first)).status_code == 303


@pytest.mark.parametrize("when_full", ["drop_oldest", "reject"])
@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_concurrent_logins_do_not_exceed_max_sessions(kind: str, tmp_path: Path, when_full: Any) -> None:
    async with with_store(kind, tmp_path, FrozenClock(), max_sessions=3, when_full=when_full) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        barrier = asyncio.Barrier(12)

        async def enter(request: Request) -> Response:
            await auth.user_sessions.check_limit(ann)
            await barrier.wait()
            await login(request, ann)
            return PlainTextResponse("in")

        app = make_app(auth, Route("/enter", enter))
        async with client_of(app) as client:
            answers = await asyncio.gather(*(client.get("/enter") for _ in range(12)))
        statuses = Counter(answer.status_code for answer in answers)
        assert len(await auth.user_sessions.list(ann)) <= 3
        if when_full == "drop_oldest":
            assert statuses == {200: 12}
            assert len(await auth.user_sessions.list(ann)) == 3
        else:
            refused = [answer for answer in answers if answer.status_code == 403]
            assert statuses == {200: 3, 403: 9}, "exactly max_sessions logins succeed"
            assert all("session=" not in answer.headers.get("set-cookie", "") for answer in refused)


async def test_sessions_of_an_old_password_do_not_count(database: Database) -> None:
    async with installed(database, max_sessions=1, when_full="reject") as auth, client_of(make_app(auth)) as client:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        await auth.users.set_password(ann, "another good long password")
        client.cookies.clear()
        assert (await post_login(client, password="another good long password")).status_code == 303
        assert len(await auth.user_sessions.list(ann)) == 1


async def test_max_sessions_never_refuses_a_user_of_a_reverse_proxy(database: Database) -> None:
    async with installed(database, max_sessions=2, when_full="reject") as auth:
        auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.1"]))
        for _ in range(5):
            async with client_of(make_app(auth), headers={"remote-user": "ann"}) as client:
                assert await is_logged_in(client)
        ann = await auth.users.get_by_username("ann")
        assert ann is not None
        assert len(await auth.user_sessions.list(ann)) == 2


async def test_invalid_limits_are_refused(database: Database) -> None:
    for absolute, idle in ((0, 0), (100, 101), (100, 0), (-1, -2)):
        with pytest.raises(ImproperlyConfigured, match="SessionLimit"):
            SessionLimit(absolute=absolute, idle=idle)
    invalid_options: list[dict[str, Any]] = [
        {"session_limits": "aal4"},
        {"when_full": "explode"},
        {"max_sessions": 0},
        {"max_sessions": 3, "sessions": CookieStore(SECRET_KEY)},
    ]
    for options in invalid_options:
        with pytest.raises(ImproperlyConfigured):
            Auth(database, secret_key=SECRET_KEY, **options)
    limits = SessionLimits(**{name: SessionLimit(absolute=9, idle=9) for name in ("remembered", "default", "staff")})
    assert Auth(database, secret_key=SECRET_KEY, session_limits=limits).session_limits is limits
    assert TooManySessions(3).number == 3
    assert PRESETS["aal1"].offers_remember_me


# A simulated week of a busy site


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_the_number_of_sessions_stays_bounded_in_a_week_of_a_busy_site(kind: str, tmp_path: Path) -> None:
    """Each day has 120 logins, 120 anonymous visitors and one clean-up. Most clients never return, three return often."""
    clock, random = FrozenClock(), Random(7)
    async with with_store(kind, tmp_path, clock, cookie=Cookie(max_age=2 * DAY), max_sessions=3) as auth:
        users = [await auth.users.create_user(f"user{n}", password=PASSWORD) for n in range(20)]
        app, counts = make_app(auth), []
        regulars = [client_of(app) for _ in range(3)]
        for _ in range(7):
            for _ in range(30):
                clock.tick(DAY / 30)
                await visit_site(app, auth, users, random)
                for client, user in zip(regulars, users, strict=False):
                    if await whoami(client) != user.username:
                        await log_in(client, user, auth)
            await auth.clear_expired()
            counts.append(await number_of(auth))
        for client in regulars:
            await client.aclose()
        # At most 3 sessions for each of the 20 users, and the anonymous sessions of the last two days.
        assert max(counts) <= 20 * 3 + 2 * 120
        assert counts[-1] <= counts[2] * 1.2, counts
        clock.tick(3 * DAY)
        await auth.clear_expired()
        assert await number_of(auth) == 0


async def visit_site(app: Any, auth: Auth, users: list[User], random: Random) -> None:
    for _ in range(4):
        async with client_of(app) as client:
            await client.get("/remember?cart=1")
        async with client_of(app) as client:
            await log_in(client, random.choice(users), auth)
            await client.get("/whoami")


async def number_of(auth: Auth) -> int:
    """Returns the number of stored sessions, including expired ones that have not been cleared."""
    store: Any = auth.sessions
    if hasattr(store, "_records"):
        return len(store._records)
    if hasattr(store, "_session"):
        names = [name async for name in store.redis.client.scan_iter(f"{store._session}*", count=1000)]
        expires = [int(await store.redis.client.hget(name, "expires")) for name in names]
        return sum(expiry > auth.clock() for expiry in expires)  # Redis does not use the frozen clock
    return int(await auth.database.fetch_val("SELECT count(*) FROM auth_session"))
