"""Sends random requests: no response may have a status of 500 or above."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from starlette_auth import Auth, CookieStore, MemoryStore, lifespan, migrate

from ..conftest import PASSWORD, SECRET_KEY, weak_passwords
from ..support.apps import make_app
from ..support.matrix import FEW

pytestmark = pytest.mark.long

PATHS = [
    *(
        "/",
        "/whoami",
        "/members",
        "/members-sync",
        "/vote",
        "/recount",
        "/vote-by-scope",
        "/staff",
        "/club",
        "/desk",
        "/forget",
    ),
    *("/accounts/login", "/accounts/logout", "/accounts/logged_out", "/accounts/auth.css", "/nowhere", "/accounts/"),
]
FORM = "application/x-www-form-urlencoded"
raw = st.binary(max_size=80)
latin = st.text(st.characters(max_codepoint=255), max_size=120).map(lambda text: text.encode("latin-1"))
values = latin | st.sampled_from(
    [b"A" * 43, b"null", b"http://testserver", b"https://evil.example", b"same-origin", b"%"]
)
header_names = st.sampled_from(
    b"cookie origin sec-fetch-site x-csrftoken accept content-type content-length host user-agent authorization "
    b"referer x-forwarded-for remote-user range".split()
)
cookies = st.lists(
    st.tuples(st.sampled_from([b"session", b"session_csrf", b"__Host-session", b"x"]), values), max_size=4
).map(lambda pairs: (b"cookie", b"; ".join(name + b"=" + value for name, value in pairs)))
headers = st.lists(st.tuples(header_names, values) | cookies, max_size=6)
fields = st.sampled_from([b"username", b"password", b"next", b"csrfmiddlewaretoken", b"x"])
bodies = st.lists(st.tuples(fields, raw), max_size=6).map(lambda pairs: b"&".join(a + b"=" + b for a, b in pairs)) | raw
content_types = st.sampled_from(
    [FORM, "multipart/form-data; boundary=x", "multipart/form-data", "application/json", "", "\xff/;;"]
)


class Visitor:
    """Sends requests that an HTTP client would refuse to send."""

    def __init__(self, folder: Path, sessions: Any) -> None:
        self.loop = asyncio.Runner()
        database = Database(f"sqlite+aiosqlite:///{folder}/fuzz.sqlite3")
        auth = Auth(database, secret_key=SECRET_KEY, passwords=weak_passwords(), sessions=sessions)
        self.app = make_app(auth)
        self.lifespan = lifespan(auth)(self.app)

        async def start() -> None:
            await self.lifespan.__aenter__()
            await migrate(auth.gateway, auth.tables)
            await auth.users.create_user("ann", password=PASSWORD)

        self.loop.run(start())

    def stop(self) -> None:
        async def stop() -> None:
            await self.lifespan.__aexit__(None, None, None)

        self.loop.run(stop())
        self.loop.close()

    def send(self, scope: dict[str, Any], body: bytes) -> tuple[int, list[tuple[bytes, bytes]]]:
        status, response_headers, messages = 0, [], [{"type": "http.request", "body": body}]

        async def receive() -> Any:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            nonlocal status, response_headers
            if message["type"] == "http.response.start":
                status, response_headers = message["status"], list(message["headers"])

        async def run() -> None:
            await self.app(scope, receive, send)

        self.loop.run(run())
        return status, response_headers


@pytest.fixture(params=["database", "cookie", "memory"])
def visitor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visitor]:
    sessions = {"database": None, "cookie": CookieStore(SECRET_KEY), "memory": MemoryStore()}[request.param]
    visitor = Visitor(tmp_path_factory.mktemp("fuzz"), sessions)
    yield visitor
    visitor.stop()


@settings(
    max_examples=300 if FEW else 3_400,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
)
@given(
    path=st.sampled_from(PATHS) | st.text(max_size=20).map(lambda text: "/" + text),
    method=st.sampled_from(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "ODD"]),
    scheme=st.sampled_from(["http", "https"]),
    query=raw,
    headers=headers,
    content_type=content_types,
    body=bodies,
)
def test_no_request_causes_a_server_error(
    visitor: Visitor,
    path: str,
    method: str,
    scheme: str,
    query: bytes,
    headers: list[tuple[bytes, bytes]],
    content_type: str,
    body: bytes,
) -> None:
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode("utf-8", "replace"),
        "root_path": "",
        "scheme": scheme,
        "query_string": query,
        "headers": [*headers, (b"content-type", content_type.encode("latin-1"))],
        "client": ("192.0.2.1", 1),
        "server": ("testserver", 80),
    }
    status, response_headers = visitor.send(scope, body)
    assert 200 <= status < 500
    for name, value in response_headers:
        assert b"\r" not in name + value
        assert b"\n" not in name + value
