"""A damaged row, record or cookie is an empty session, and a warning without its content."""

import json
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from redis.asyncio import Redis

from starlette_auth import Auth, CachedStore, CookieStore, DjangoCookieStore, DjangoStore, RedisStore

from ..conftest import DJANGO, ON_SERVER, PASSWORD, client_of, name_of, post_login, with_store, with_tables
from ..support.apps import make_app
from ..support.matrix import REDIS_URL

pytestmark = with_tables
SECRET = "content that must not be logged"
DAMAGES = [f'["{SECRET}', f'["{SECRET}"]', "[" * 20_000]
STORES = [kind for kind in [*ON_SERVER, *DJANGO, "cookie", "django cookie"] if kind != "memory"]


async def damage(auth: Auth, cookie: str, text: str) -> str:
    """Damages the stored session; returns the cookie with which a browser asks for it."""
    store: Any = auth.sessions
    if isinstance(store, CookieStore):
        return str(store._newest_signer.dumps([SECRET, [1, 2], text]))
    if isinstance(store, DjangoCookieStore):
        return str(store._signer.dumps([SECRET, text]))  # type: ignore[arg-type]
    if isinstance(store, RedisStore):
        async with Redis.from_url(REDIS_URL) as client:
            await client.hset(store._name(cookie), '."a"', text.removesuffix("]"))
        return cookie
    if isinstance(store, DjangoStore):
        text = text if text.startswith("[[") else store._signer.dumps(text)  # type: ignore[arg-type]
        await auth.database.execute(sa.update(store.table).values(session_data=text))
        return cookie
    if isinstance(store, CachedStore):
        async with Redis.from_url(REDIS_URL) as client:
            await client.hset(store._name(cookie), "record", text)
    await auth.database.execute(sa.update(store.table).values(data=text))
    return cookie


@pytest.mark.parametrize("kind", STORES, ids=name_of)
async def test_a_damaged_session_is_empty_and_logged_as_a_warning(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_store(kind, tmp_path) as auth, client_of(make_app(auth)) as client:
        ann = await auth.users.create_user("ann", password=PASSWORD)
        for text in DAMAGES:
            client.cookies.clear()
            await post_login(client)
            name = auth.cookie.name
            cookie = await damage(auth, client.cookies[name], text)
            client.cookies.delete(name)
            client.cookies.set(name, cookie)
            caplog.clear()
            response = await client.get("/whoami")
            assert (response.status_code, response.json()["username"]) == (200, "")
            assert {record.levelname for record in caplog.records} == {"WARNING"}
            assert SECRET not in caplog.text
            assert "[[[" not in caplog.text
            if auth.sessions.is_server_side:
                assert await auth.user_sessions.list(ann) == []
            client.cookies.delete(name)
            assert (await post_login(client)).status_code == 303
            if auth.sessions.supports_user_lookup:
                assert await auth.user_sessions.revoke_all(ann) >= 1


@pytest.mark.parametrize("kind", ["cached"] if "cached" in ON_SERVER else [])
async def test_a_damaged_record_in_the_cache_is_read_from_the_database(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with with_store(kind, tmp_path) as auth, client_of(make_app(auth)) as client:
        await auth.users.create_user("ann", password=PASSWORD)
        await post_login(client)
        store: Any = auth.sessions
        async with Redis.from_url(REDIS_URL, decode_responses=True) as redis:
            name = store._name(client.cookies["session"])
            record = json.loads(str(await redis.hget(name, "record")))
            for damaged in ("{", json.dumps({**record, "data": "[1"}), json.dumps({**record, "expires": "soon"})):
                await redis.hset(name, "record", damaged)
                caplog.clear()
                assert (await client.get("/whoami")).json()["username"] == "ann"
                assert "Redis" in caplog.text


async def test_a_foreign_cookie_is_no_damage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for kind in ("cookie", "django cookie", "sqlite", "django sqlite"):
        folder = tmp_path / kind
        folder.mkdir()
        async with with_store(kind, folder) as auth, client_of(make_app(auth)) as client:
            client.cookies.set(auth.cookie.name, "eyJhIjogMX0.aGkK.sent-by-another-application")
            assert (await client.get("/whoami")).json()["username"] == ""
    assert caplog.records == []
