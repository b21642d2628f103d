"""Tests of ending the sessions of all users and visitors at once."""

import asyncio
from pathlib import Path

import pytest

from starlette_auth import EverybodyLoggedOut, ImproperlyConfigured

from ..conftest import DJANGO, ON_SERVER, PASSWORD, client_of, name_of, post_login, with_store, with_tables
from ..features.test_active_sessions import closed
from ..support.apps import make_app
from .test_sessions import Socket

pytestmark = with_tables

SITE = {"origin": "http://testserver"}


@pytest.mark.parametrize("kind", [*ON_SERVER, *DJANGO], ids=name_of)
async def test_everybody_is_logged_out_and_can_log_in_again(kind: str, tmp_path: Path) -> None:
    seen: list[int] = []
    async with with_store(kind, tmp_path) as auth:
        auth.events.on(EverybodyLoggedOut)(lambda event: seen.append(event.number))
        for name in ("ann", "ben"):
            await auth.users.create_user(name, f"{name}@example.org", PASSWORD)
        app = make_app(auth)
        async with (
            client_of(app, headers=SITE) as first,
            client_of(app, headers=SITE) as second,
            client_of(app, headers=SITE) as visitor,
        ):
            await post_login(first, "ann")
            await post_login(second, "ben")
            await visitor.get("/remember?cart=1")
            assert await auth.user_sessions.revoke_everybody() == 3
            shown = [(await client.get("/whoami")).json() for client in (first, second)]
            assert [(user["username"], user["session"]) for user in shown] == [("", {})] * 2
            if kind != "cached":  # Redis may keep the sessions of visitors for a minute
                assert (await visitor.get("/whoami")).json()["session"] == {}
            await post_login(first, "ann")
            assert (await first.get("/members")).status_code == 200
            assert await auth.user_sessions.revoke_everybody() == 1
        assert await auth.user_sessions.revoke_everybody() == 0
    assert seen == [3, 1, 0]


async def cancel(tasks: list[asyncio.Task[None]]) -> None:
    """Cancels tasks, and checks that one cancellation ends each of them."""
    for task in tasks:
        task.cancel()
    done, pending = await asyncio.wait(tasks, timeout=30)
    for task in pending:  # they would go on while the test cleans up
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
    assert not pending
    assert all(task.cancelled() for task in done)


@pytest.mark.parametrize("kind", [*ON_SERVER, *DJANGO], ids=name_of)
async def test_a_cancelled_task_stays_cancelled(kind: str, tmp_path: Path) -> None:
    """Python 3.11 may lose a cancellation that comes at the same time as a result."""
    async with with_store(kind, tmp_path) as auth:

        async def save_sessions() -> None:
            while True:
                session = auth.sessions.new_session()
                session["a"] = 1
                key = await auth.sessions.save(session, 60)
                assert await auth.sessions.load(key) == {"a": 1}
                await auth.sessions.delete(key)
                await asyncio.sleep(0)  # memory does not wait

        for turn in range(200):
            task = asyncio.create_task(save_sessions())
            for _ in range(turn % 40):
                await asyncio.sleep(0)
            await cancel([task])


@pytest.mark.parametrize("kind", [*ON_SERVER, *DJANGO], ids=name_of)
async def test_it_ends_although_visitors_start_sessions_all_the_time(kind: str, tmp_path: Path) -> None:
    async with with_store(kind, tmp_path) as auth:

        async def start_sessions() -> None:
            while True:
                session = auth.sessions.new_session()
                session["a"] = 1
                await auth.sessions.save(session, 60)
                await asyncio.sleep(0)

        visitors = [asyncio.create_task(start_sessions()) for _ in range(2)]
        await asyncio.sleep(0.1)
        try:
            async with asyncio.timeout(30):
                assert await auth.user_sessions.revoke_everybody() > 0
        finally:
            await cancel(visitors)


@pytest.mark.parametrize("kind", ["redis", "cached"])
async def test_only_sessions_below_the_prefix_are_ended(kind: str, tmp_path: Path) -> None:
    if kind not in ON_SERVER:
        pytest.skip("needs Redis")
    async with with_store(kind, tmp_path) as auth, with_store("redis", tmp_path) as other:
        keys = []
        for each in (auth, other):
            session = each.sessions.new_session()
            session["a"] = 1
            keys.append(await each.sessions.save(session, 60))
        assert await auth.user_sessions.revoke_everybody() == 1
        assert await other.sessions.load(keys[1]) == {"a": 1}


@pytest.mark.parametrize("kind", ["cookie", "django cookie"])
async def test_sessions_in_cookies_need_another_secret_key(kind: str, tmp_path: Path) -> None:
    async with with_store(kind, tmp_path) as auth:
        with pytest.raises(ImproperlyConfigured, match="start the application with a new secret key"):
            await auth.user_sessions.revoke_everybody()


async def test_more_than_one_batch_is_ended(tmp_path: Path) -> None:
    async with with_store("sqlite", tmp_path) as auth:
        for _ in range(501):
            session = auth.sessions.new_session()
            session["a"] = 1
            await auth.sessions.save(session, 60)
        assert await auth.user_sessions.revoke_everybody() == 501


async def test_open_websockets_are_closed(tmp_path: Path) -> None:
    async with with_store("sqlite", tmp_path) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        app = make_app(auth)
        async with client_of(app, headers=SITE) as client, client_of(app) as visitor:
            await post_login(client)
            await visitor.get("/remember?cart=1")
            async with Socket(app, "/echo", client) as first, Socket(app, "/echo", visitor) as second:
                await auth.user_sessions.revoke_everybody()
                assert [await closed(first), await closed(second)] == [1008, 1008]
