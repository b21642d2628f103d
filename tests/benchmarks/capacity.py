"""How many bytes a user and a session take in each store, and how the look-ups of people grow with their number.

The part takes each database server in turn: it makes one database for each number of users, measures the look-ups in
all of them in turn, and drops them.
"""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import httpx

from starlette_auth import Auth, CookieStore, ImproperlyConfigured, RedisStore, Unavailable, migrate
from starlette_auth.testing import log_in

from .contestants.ours import make_auth
from .engines import new_database, opened
from .measure import Say
from .settings import PASSWORD, PERMISSION, SECRET_KEY, Settings, email_of, name_of

HOLDERS = 100  # users who have PERMISSION
MOST_ON_MYSQL = 100_000
LOOKUPS, LIMIT = 50, 2.0  # of one kind in one round; seconds
REDIS_PREFIX, REDIS_BATCH = "starlette_auth_bench:", 5_000
SERIES = {
    "sqlite": "(WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {number}) SELECT n FROM s) AS s",
    "postgresql": "generate_series(1, {number}) AS s(n)",
    "mysql": "(SELECT seq AS n FROM seq_1_to_{number}) AS s",
}
NAMES = dict.fromkeys(("sqlite", "postgresql"), "'user' || n") | {"mysql": "concat('user', n)"}
EMAILS = dict.fromkeys(("sqlite", "postgresql"), "'user' || n || '@example.org'")
EMAILS["mysql"] = "concat('user', n, '@example.org')"
HASHES = {
    "sqlite": ("lower(hex(randomblob(32)))", "lower(hex(randomblob(16)))"),
    "postgresql": ("md5(random()::text) || md5(random()::text)", "md5(random()::text)"),
    "mysql": ("sha2(concat(uuid(), n, rand()), 256)", "md5(concat(uuid(), n, rand()))"),
}
CREATE_USERS = """INSERT INTO auth_user (id, password, is_superuser, username, first_name, last_name, email, is_staff,
    is_active, date_joined, last_login) SELECT n + 1, '{password}', FALSE, {username}, '', '', {email}, FALSE, TRUE,
    CURRENT_TIMESTAMP, CURRENT_TIMESTAMP FROM {series}"""
ADD_TO_GROUP = "INSERT INTO auth_user_groups (user_id, group_id) SELECT n + 1, {group} FROM {series} WHERE {condition}"
CREATE_SESSIONS = """INSERT INTO auth_session (key_hash, public_id, user_id, data, created, last_seen, expires, address,
    user_agent, version) SELECT {key_hash}, {public_id}, n + 1, '{data}', {now}, {now}, {now} + 7200, '192.0.2.1',
    '{agent}', 0 FROM {series}"""
AGENT = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/150.0.0.0 Safari/537.36"
ANALYZE = {
    "sqlite": "ANALYZE",
    "postgresql": "VACUUM ANALYZE",
    "mysql": "ANALYZE TABLE auth_user, auth_user_groups, auth_session",
}
#: Bytes of each table without and with its indexes.
SIZES = {
    "sqlite": "SELECT m.tbl_name, sum(CASE m.type WHEN 'table' THEN pgsize ELSE 0 END), sum(pgsize) "
    "FROM dbstat AS d JOIN sqlite_master AS m ON m.name = d.name GROUP BY m.tbl_name",
    "postgresql": "SELECT relname::text, pg_table_size(oid), pg_total_relation_size(oid) FROM pg_class "
    "WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    "mysql": "SELECT table_name, data_length, data_length + index_length FROM information_schema.tables "
    "WHERE table_schema = DATABASE()",
}
TABLES = {"user": ("auth_user", "auth_user_groups"), "session": ("auth_session",)}


async def run_sql(auth: Auth, *statements: str) -> list[Any]:
    """Returns the rows of the last statement. The driver itself gets them, which reads no `%` or `:` in them."""
    driver, rows = auth.gateway.driver, list[Any]()
    async with auth.database.connection() as connection:
        for statement in statements:
            rows = await driver.fetch(connection.raw_connection, statement, None if driver.dialect == "mysql" else [])
    return rows


async def fill(auth: Auth, number: int) -> dict[str, list[float]]:
    """Creates users, a session for each, and a permission of some. Returns bytes per user and session."""
    await migrate(auth.gateway, auth.tables)
    first = await auth.users.create_user("first", "first@example.org", PASSWORD)
    permission = await auth.users.create_permission(PERMISSION, "May vote")
    await auth.users.create_group("members")
    await auth.users.grant(await auth.users.create_group("voters"), permission)
    async with httpx.AsyncClient() as client:
        await log_in(client, first, auth)
    password, data = (await run_sql(auth, "SELECT password, data FROM auth_user CROSS JOIN auth_session"))[0]
    dialect = auth.gateway.dialect
    values = {
        "series": SERIES[dialect].format(number=number),
        "password": password,
        **dict(zip(("key_hash", "public_id"), HASHES[dialect], strict=True)),
        "username": NAMES[dialect],
        "email": EMAILS[dialect],
        "data": data,
        "now": int(time.time()),
        "agent": AGENT,
    }
    statements = [
        CREATE_USERS.format(**values),
        ADD_TO_GROUP.format(group=1, condition="n % 10 <> 0", **values),  # nine of ten
        ADD_TO_GROUP.format(group=2, condition=f"n <= {HOLDERS}", **values),
        CREATE_SESSIONS.format(**values),
    ]
    await run_sql(auth, *statements, ANALYZE[dialect])
    sizes = {row[0]: (float(row[1]), float(row[2])) for row in await run_sql(auth, SIZES[dialect])}
    return {
        what: [sum(sizes[table][index] for table in tables) / number for index in (0, 1)]
        for what, tables in TABLES.items()
    }


def lookups(auth: Auth, number: int) -> dict[str, Callable[[], Awaitable[object]]]:
    async def sessions_of(n: int) -> object:
        user = await auth.users.get_by_username(name_of(n))
        assert user is not None
        return await auth.user_sessions.list(user)

    def any_user() -> int:
        return random.randint(1, number)

    return {
        "get_by_username": lambda: auth.users.get_by_username(name_of(any_user())),
        "get_by_email": lambda: auth.users.get_by_email(email_of(any_user())),
        "get_by_email, in capitals": lambda: auth.users.get_by_email(email_of(any_user()).upper()),
        f"with_perm, {HOLDERS} users": lambda: auth.users.with_perm(PERMISSION),
        "user_sessions.list, after get_by_username": lambda: sessions_of(any_user()),
    }


async def measured(server: str, sizes: Sequence[int], rounds: int) -> dict[str, Any]:
    """Returns bytes per user and session with the most of them, and µs of each look-up by size and round."""
    async with contextlib.AsyncExitStack() as stack:
        asked: dict[int, dict[str, Callable[[], Awaitable[object]]]] = {}
        for size in sizes:
            url = await stack.enter_async_context(new_database(server, f"capacity_{size}"))
            auth = make_auth(Settings(database=url))
            await stack.enter_async_context(opened(auth))
            taken = await fill(auth, size)
            asked[size] = lookups(auth, size)
        times: dict[str, dict[int, list[float]]] = {name: {size: [] for size in sizes} for name in asked[sizes[0]]}
        for number in range(rounds + 1):
            for name, by_size in times.items():
                for size in random.sample(sizes, len(sizes)):
                    one = await timed(asked[size][name])
                    if number:  # the first round warms up
                        by_size[size].append(one)
    return {"bytes": taken, "lookups": times}


async def timed(lookup: Callable[[], Awaitable[object]]) -> float:
    """Returns the median in µs."""
    times: list[float] = []
    end = time.monotonic() + LIMIT
    while len(times) < LOOKUPS and time.monotonic() < end:
        begun = time.perf_counter()
        found = await lookup()
        times.append(time.perf_counter() - begun)
        assert found
    return statistics.median(times) * 1e6


async def bytes_elsewhere(redis_url: str, number: int) -> dict[str, list[float]]:
    """Returns bytes per session in Redis, and of a cookie with its name and attributes."""
    found = {"cookie": [float(await bytes_of_cookie())]}
    store = RedisStore(redis_url, prefix=REDIS_PREFIX)
    client = store.redis.client
    try:
        async with new_auth(store) as auth:
            user = await auth.users.create_user("first", "first@example.org", PASSWORD)
            async with httpx.AsyncClient() as browser:
                browser.headers["User-Agent"] = AGENT
                await log_in(browser, user, auth)
            key = await anext(client.scan_iter(f"{REDIS_PREFIX}session:*"))
            fields = await client.hgetall(key) | {"user_agent": AGENT, "address": "192.0.2.1"}
            before = int((await client.info("memory"))["used_memory"])
            for start in range(0, number, REDIS_BATCH):
                pipeline = client.pipeline(transaction=False)
                for n in range(start, min(start + REDIS_BATCH, number)):
                    name = f"{REDIS_PREFIX}session:{random.getrandbits(256):064x}"
                    pipeline.hset(name, mapping=fields | {"user_id": str(n)}).expire(name, 7200)
                    pipeline.zadd(f"{REDIS_PREFIX}user:{n}", {name: 2e9}).expire(f"{REDIS_PREFIX}user:{n}", 7200)
                await pipeline.execute()
            found["redis"] = [(int((await client.info("memory"))["used_memory"]) - before) / number]
            await store.revoke_everybody()
    finally:
        await store.close()
    return found


@contextlib.asynccontextmanager
async def new_auth(store: Any) -> Any:
    async with new_database("sqlite") as url:
        auth = make_auth(Settings(database=url))
        auth = Auth(auth.database, secret_key=SECRET_KEY, sessions=store, passwords=auth.passwords)
        async with opened(auth):
            await migrate(auth.gateway, auth.tables)
            yield auth


async def bytes_of_cookie() -> int:
    async with new_auth(CookieStore(SECRET_KEY)) as auth:
        user = await auth.users.create_user("first", "first@example.org", PASSWORD)
        async with httpx.AsyncClient() as browser:
            await log_in(browser, user, auth)
            return sum(len(name) + 1 + len(value or "") for name, value in browser.cookies.items())


def measure_capacity(
    say: Say, *, servers: Mapping[str, str], redis_url: str, sizes: Sequence[int], rounds: int
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, server in servers.items():
        say(f"{name}: look-ups among {' and '.join(f'{size:,}' for size in sizes)} users with a session each")
        with contextlib.suppress(ImproperlyConfigured, Unavailable):  # no driver, or no server
            # InnoDB takes many minutes for a million rows at random places.
            sizes_here = [min(size, MOST_ON_MYSQL) for size in sizes] if name == "MySQL" else sizes
            found[name] = asyncio.run(measured(server, sizes_here, rounds))
    say("Bytes per session in Redis and in a cookie")
    elsewhere = asyncio.run(bytes_elsewhere(redis_url, min(max(sizes), 100_000)))
    return {"servers": found, "elsewhere": elsewhere, "shown": shown(found, elsewhere, sizes)}


def shown(found: Mapping[str, Any], elsewhere: Mapping[str, list[float]], sizes: Sequence[int]) -> dict[str, Any]:
    few, many = min(sizes), max(sizes)
    rows = []
    for server, of in found.items():
        for what, (plain, total) in of["bytes"].items():
            rows.append([server, f"bytes per {what}, of which indexes", f"{total:.0f}", f"{total - plain:.0f}", ""])
        for name, times in of["lookups"].items():
            least, most = times[min(times)], times[max(times)]
            ratios = [much / little for little, much in zip(least, most, strict=True)]
            between = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} – {max(ratios):.2f})"
            rows.append([server, name, *(f"{statistics.median(of):.0f}" for of in (least, most)), between])
    rows += [[name, "bytes per session", f"{of[0]:.0f}", "", ""] for name, of in elsewhere.items()]
    text = (
        "Look-ups are medians in µs, without a socket of HTTP. The last column is the ratio of both in the same round, with "
        f"the least and the most. Bytes are of the database with the most users, freshly filled. MySQL has at most "
        f"{MOST_ON_MYSQL:,} users."
    )
    return {"title": "Capacity", "text": text, "head": ["", "", f"{few:,}", f"{many:,}", "growth"], "rows": rows}
