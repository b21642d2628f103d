"""How long a login lasts: in all, idle, remembered or not, of staff, and of how many at a time."""

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


async def is_in(client: httpx.AsyncClient) -> bool:
    return await whoami(client) == "ann"


def max_age_of(answer: httpx.Response) -> int | None:
    cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("session="))
    found = re.search(r"Max-Age=(\d+)", cookie)
    # To the minute: a second may pass between two looks at the clock.
    return -(-int(found[1]) // 60) * 60 if found else None


# What NIST says: SP 800-63B-4 §2.1.3, §2.2.3, §2.3.3


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
async def test_a_login_lasts_as_long_as_its_level_says(
    tmp_path: Path, kind: str, level: Any, is_remembered: bool, absolute: int, idle: int
) -> None:
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock, session_limits=level) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        fields = {"remember": "on"} if is_remembered else {}
        async with client_of(make_app(auth)) as client:
            await post_login(client, **fields)
            clock.tick(idle - 1)
            assert await is_in(client), "to the last second"
            clock.tick(idle)
            assert not await is_in(client)
            await post_login(client, **fields)
            end = clock.now + absolute
            while clock.now + idle // 2 < end:
                clock.tick(idle // 2)
                assert await is_in(client), "as long as somebody comes"
            clock.now = end - 1
            assert await is_in(client)
            clock.now = end
            assert not await is_in(client)


@pytest.mark.parametrize("kind", ALL_STORES, ids=name_of)
async def test_every_store_keeps_both_limits(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    limit = SessionLimit(absolute=1000, idle=300)
    limits = SessionLimits(remembered=limit, default=limit, staff=limit)
    async with with_store(kind, tmp_path, clock, session_limits=limits) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth)) as client:
            await post_login(client)
            begun = clock.now
            for passed in (200, 400, 600, 800, 999):
                clock.now = begun + passed
                assert await is_in(client), passed
            copy = {"cookie": f"session={client.cookies['session']}"}
            clock.now = begun + 1000
            assert (await client.get("/members", headers=copy)).status_code == 303
            await post_login(client)
            clock.tick(299)
            assert await is_in(client)
            clock.tick(300)
            assert not await is_in(client)


@pytest.mark.parametrize("kind", ALL_STORES, ids=name_of)
async def test_changes_and_new_keys_do_not_move_the_end(kind: str, tmp_path: Path) -> None:
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
                assert await is_in(client)
            clock.tick(HOUR)
            assert not await is_in(client)


async def test_an_application_can_only_shorten_a_login(database: Database) -> None:
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
        assert await is_in(client)
        clock.tick(100)
        assert not await is_in(client)


async def test_a_login_that_the_browser_forgets_stays_so_however_long_an_application_wants_it(
    database: Database,
) -> None:
    async def prolong(request: Request) -> Response:
        request.session.set_expiry(10**9)  # type: ignore[attr-defined]
        return PlainTextResponse("")

    async with installed(database) as auth, client_of(make_app(auth, Route("/prolong", prolong))) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        assert max_age_of(await client.get("/prolong")) is None


async def test_a_login_may_be_idle_for_longer_than_an_anonymous_visitor(database: Database) -> None:
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
            assert await is_in(client)
        clock.tick(90 * DAY)
        assert not await is_in(client)


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_a_proxys_user_is_logged_in_no_longer_than_anybody(kind: str, tmp_path: Path) -> None:
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
            assert client.cookies["session"] != first, "a login of its own after twelve hours"
            assert len(await auth.user_sessions.list(ann)) == 1


# Staying logged in


@pytest.mark.parametrize(
    ("sent", "expected"),
    [({}, None), ({"remember": "on"}, 30 * DAY), ({"remember": "false"}, None), ({"remember": ""}, None)],
    ids=str,
)
async def test_the_login_page_asks_whether_to_stay_logged_in(
    auth: Auth, ann: User, sent: dict[str, str], expected: int | None
) -> None:
    async with client_of(make_app(auth)) as client:
        assert 'name="remember" type="checkbox"' in (await client.get("/accounts/login")).text
        answer = await post_login(client, **sent)
        # The browser forgets the one when it closes, and keeps the other to the very end.
        assert max_age_of(answer) == expected


@pytest.mark.parametrize(("value", "expected"), [(True, 30 * DAY), (False, None), ("on", 30 * DAY)])
async def test_programs_say_it_in_json(auth: Auth, ann: User, value: Any, expected: int | None) -> None:
    async with client_of(make_app(auth)) as client:
        sent = {"username": "ann", "password": PASSWORD, "remember": value}
        answer = await client.post("/accounts/login", json=sent)
        assert answer.json() == {"next": "/"}
        assert max_age_of(answer) == expected
        client.cookies.clear()
        assert (await client.post("/accounts/login", json={**sent, "remember": 1})).status_code == 400


async def test_a_wrong_password_keeps_the_wish(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        page = (await post_login(client, password="wrong", remember="on")).text
        assert re.search(r'name="remember" type="checkbox" value="on" checked', page)


async def test_where_it_makes_no_difference_nobody_is_asked(database: Database) -> None:
    async with installed(database, session_limits="aal2") as auth, client_of(make_app(auth)) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        assert "remember" not in (await client.get("/accounts/login")).text
        assert max_age_of(await post_login(client, remember="on")) is None


async def test_the_wish_is_not_left_behind_for_the_next_login(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        assert max_age_of(await post_login(client, remember="on")) == 30 * DAY
        assert max_age_of(await post_login(client)) is None


async def test_code_can_remember_too(auth: Auth, ann: User) -> None:
    async def enter(request: Request) -> Response:
        await login(request, ann, remember="remember" in request.query_params)
        return PlainTextResponse("")

    async with client_of(make_app(auth, Route("/enter", enter))) as client:
        assert max_age_of(await client.get("/enter?remember")) == 30 * DAY
        assert max_age_of(await client.get("/enter")) is None


@pytest.mark.parametrize("role", ["is_staff", "is_superuser"])
async def test_staff_is_not_remembered_for_longer_than_a_day(database: Database, role: str) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth, client_of(make_app(auth)) as client:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client, remember="on")
        clock.tick(2 * HOUR)
        assert await is_in(client)
        clock.tick(2 * HOUR)
        await auth.users.update(ann, **{role: True})
        assert not await is_in(client), "whoever becomes staff is held to the limits of staff at once"
        assert max_age_of(await post_login(client, remember="on")) is None
        clock.tick(HOUR - 1)
        assert await is_in(client)
        clock.tick(HOUR)
        assert not await is_in(client)


# What it costs


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_use_is_noted_after_the_answer_and_once_a_minute(kind: str, tmp_path: Path) -> None:
    clock = FrozenClock()
    async with with_store(kind, tmp_path, clock) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        app = make_app(auth)
        async with client_of(app) as client:
            await post_login(client)
            cookie = f"session={client.cookies['session']}".encode()
        begun, while_answering = clock.now, []

        async def last_seen() -> int:
            return int((await auth.user_sessions.list(ann))[0].last_seen - begun)

        async def receive() -> Any:
            return {"type": "http.request", "body": b""}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.body" and not message.get("more_body"):
                while_answering.append(await last_seen())

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
        noted = []
        for passed in (0, 30, 60, 61, 119, 120, 121, 500):
            clock.now = begun + passed
            await app(dict(scope), receive, send)
            noted.append(await last_seen())
        assert noted == [0, 0, 60, 60, 60, 120, 120, 500]
        assert while_answering == [0, *noted[:-1]], "nobody waits for it"
        record = (await auth.user_sessions.list(ann))[0].record
        assert record is not None
        assert record.address == "192.0.2.9"


async def test_within_a_minute_nothing_is_written(auth: Auth, ann: User, monkeypatch: pytest.MonkeyPatch) -> None:
    async with client_of(make_app(auth)) as client:
        await post_login(client)
        said = count_statements(auth, monkeypatch)
        for _ in range(5):
            await client.get("/members")
        assert [statement.split()[0] for statement in said] == ["SELECT"] * 5


async def test_an_anonymous_session_costs_no_write_however_old_it_is(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = FrozenClock()
    async with installed(database, clock=clock) as auth, client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        clock.tick(DAY)
        said = count_statements(auth, monkeypatch)
        assert (await client.get("/whoami")).json()["session"] == {"a": "1"}
        assert [statement.split()[0] for statement in said] == ["SELECT"]


async def test_of_an_anonymous_visitor_no_address_is_kept(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        await client.get("/remember?a=1")
        rows = await auth.database.fetch_all(auth.tables.session.select())
        assert [(row["address"], row["user_agent"]) for row in rows] == [("", "")]
        await post_login(client)
        rows = await auth.database.fetch_all(auth.tables.session.select())
        assert [row["address"] for row in rows] == ["192.0.2.1"]


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_of_who_is_anonymous_again_no_address_stays(kind: str, tmp_path: Path) -> None:
    """Many applications log out so."""

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


# How many at a time


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_one_login_more_ends_the_oldest(kind: str, tmp_path: Path) -> None:
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
            # The same browser once more: its own login before makes room.
            await post_login(third)
            assert [await whoami(client) for client in (second, third)] == ["ann", "ann"]


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_one_login_more_can_be_refused(kind: str, tmp_path: Path) -> None:
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
            sent = {"username": "ann", "password": PASSWORD}
            problem = await third.post("/accounts/login", json=sent)
            assert (problem.status_code, problem.headers["content-type"]) == (403, "application/problem+json")
            after = await auth.users.get(ann.id)
            assert before is not None
            assert after is not None
            assert after.last_login == before.last_login, "it was no login"
            # The same browser may log in again: the login before makes room.
            assert (await post_login(second)).status_code == 303
            assert (await post_login(third, password="wrong")).status_code == 422, "it is told to those who may know"
            await first.post("/accounts/logout", headers={"origin": "http://testserver"})
            assert (await post_login(third)).status_code == 303
            # What ends by itself makes room, too.
            clock.tick(2 * HOUR)
            assert (await post_login(first)).status_code == 303


@pytest.mark.parametrize("when_full", ["drop_oldest", "reject"])
@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_of_logins_at_once_no_more_stay_than_may(kind: str, tmp_path: Path, when_full: Any) -> None:
    async with with_store(kind, tmp_path, FrozenClock(), max_sessions=3, when_full=when_full) as auth:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        together = asyncio.Barrier(12)

        async def enter(request: Request) -> Response:
            await auth.user_sessions.check_limit(ann)
            await together.wait()
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
            assert statuses == {200: 3, 403: 9}, "as many stay as may"
            assert all("session=" not in answer.headers.get("set-cookie", "") for answer in refused)


async def test_sessions_of_an_old_password_take_no_room(database: Database) -> None:
    async with installed(database, max_sessions=1, when_full="reject") as auth, client_of(make_app(auth)) as client:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        await auth.users.set_password(ann, "another good long password")
        client.cookies.clear()
        assert (await post_login(client, password="another good long password")).status_code == 303
        assert len(await auth.user_sessions.list(ann)) == 1


async def test_a_proxys_users_are_never_refused(database: Database) -> None:
    async with installed(database, max_sessions=2, when_full="reject") as auth:
        auth.backends.insert(0, RemoteUserBackend(auth.users, trusted_proxies=["192.0.2.1"]))
        for _ in range(5):
            async with client_of(make_app(auth), headers={"remote-user": "ann"}) as client:
                assert await is_in(client)
        ann = await auth.users.get_by_username("ann")
        assert ann is not None
        assert len(await auth.user_sessions.list(ann)) == 2


async def test_what_cannot_be_is_refused(database: Database) -> None:
    for absolute, idle in ((0, 0), (100, 101), (100, 0), (-1, -2)):
        with pytest.raises(ImproperlyConfigured, match="SessionLimit"):
            SessionLimit(absolute=absolute, idle=idle)
    wrong: list[dict[str, Any]] = [
        {"session_limits": "aal4"},
        {"when_full": "explode"},
        {"max_sessions": 0},
        {"max_sessions": 3, "sessions": CookieStore(SECRET_KEY)},
    ]
    for options in wrong:
        with pytest.raises(ImproperlyConfigured):
            Auth(database, secret_key=SECRET_KEY, **options)
    own = SessionLimits(**{name: SessionLimit(absolute=9, idle=9) for name in ("remembered", "default", "staff")})
    assert Auth(database, secret_key=SECRET_KEY, session_limits=own).session_limits is own
    assert TooManySessions(3).number == 3
    assert PRESETS["aal1"].offers_remember_me


# A week of a busy site


@pytest.mark.parametrize("kind", ON_SERVER, ids=name_of)
async def test_in_a_week_of_a_busy_site_the_number_of_sessions_stays_bounded(kind: str, tmp_path: Path) -> None:
    """120 logins and 120 anonymous visitors a day, one clean-up a day; most never come back, some come all the time."""
    clock, random = FrozenClock(), Random(7)
    async with with_store(kind, tmp_path, clock, cookie=Cookie(max_age=2 * DAY), max_sessions=3) as auth:
        users = [await auth.users.create_user(f"user{n}", password=PASSWORD) for n in range(20)]
        app, counts = make_app(auth), []
        regulars = [client_of(app) for _ in range(3)]
        for _ in range(7):
            for _ in range(30):
                clock.tick(DAY / 30)
                await visit(app, auth, users, random)
                for client, user in zip(regulars, users, strict=False):
                    if await whoami(client) != user.username:
                        await log_in(client, user, auth)
            await auth.clear_expired()
            counts.append(await number_of(auth))
        for client in regulars:
            await client.aclose()
        # Of users no more than each may have, of strangers those of the last two days.
        assert max(counts) <= 20 * 3 + 2 * 120
        assert counts[-1] <= counts[2] * 1.2, counts
        clock.tick(3 * DAY)
        await auth.clear_expired()
        assert await number_of(auth) == 0


async def visit(app: Any, auth: Auth, users: list[User], random: Random) -> None:
    for _ in range(4):
        async with client_of(app) as client:
            await client.get("/remember?cart=1")
        async with client_of(app) as client:
            await log_in(client, random.choice(users), auth)
            await client.get("/whoami")


async def number_of(auth: Auth) -> int:
    """How many sessions are kept, the old ones that nobody cleared included."""
    store: Any = auth.sessions
    if hasattr(store, "_kept"):
        return len(store._kept)
    if hasattr(store, "_session"):
        names = [name async for name in store.redis.client.scan_iter(f"{store._session}*", count=1000)]
        expires = [int(await store.redis.client.hget(name, "expires")) for name in names]
        return sum(moment > auth.clock() for moment in expires)  # Redis has a clock of its own, which is not frozen
    return int(await auth.database.fetch_val("SELECT count(*) FROM auth_session"))
