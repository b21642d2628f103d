"""What the guide on deploying says about new keys, large headers, and a Redis that is full or away."""

import contextlib
import os
import secrets
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from redis import AuthenticationError, Redis, ResponseError

from ..support.server import ROOT, free_port
from ..support.servers import REDIS_SERVER
from .test_deploying import PASSWORD, Site, file_of, make_certificate, nginx, program, running

pytestmark = pytest.mark.long

OLD, NEW = secrets.token_urlsafe(50), secrets.token_urlsafe(50)
LARGE = """
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from app import app

async def large(request):
    return PlainTextResponse("large", headers={"X-Large": "x" * int(request.query_params["size"])})

app.router.routes.append(Route("/large", large))
"""


class Shop:
    """The application of the guide in a folder, with a Redis of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port, self.redis_port = folder, free_port(), free_port()
        # SQLite takes neither a pool nor the limits of asyncpg.
        (folder / "app.py").write_text(file_of("app.py").replace(", timeout=10, command_timeout=10, max_size=10", ""))
        (folder / "users.acl").write_text(f"{file_of('users.acl')}user admin on nopass ~* &* +@all\n")
        (folder / "large.py").write_text(LARGE)
        self.settings = {
            "DATABASE_URL": f"sqlite+aiosqlite:///{folder}/shop.sqlite3",
            "REDIS_URL": f"redis://shop:change-me@127.0.0.1:{self.redis_port}",
            "SECRET_KEY": OLD,
            "STARLETTE_AUTH_PASSWORD": PASSWORD,
            "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
        }
        for command in (["migrate"], ["createsuperuser", "--noinput", "--username", "ann"]):
            subprocess.run(
                [sys.executable, "-m", "starlette_auth", *command],
                env={**os.environ, **self.settings},
                cwd=folder,
                check=True,
            )

    def redis(self) -> contextlib.AbstractContextManager[None]:
        conf = file_of("redis.conf") + f"port {self.redis_port}\ndir {self.folder}\naclfile {self.folder}/users.acl\n"
        (self.folder / "redis.conf").write_text(conf)
        return running(self.folder, [REDIS_SERVER or program("redis-server"), "redis.conf"], self.redis_port)

    def server(self, **settings: str) -> contextlib.AbstractContextManager[None]:
        command = [sys.executable, "-m", "uvicorn", "large:app", "--port", str(self.port)]
        return running(self.folder, command, self.port, **{**self.settings, **settings})

    def client(self) -> httpx.Client:
        """Returns a browser, as the proxy of the guide passes its requests on."""
        browser = {
            "Host": "shop.example",
            "Origin": "https://shop.example",
            "Sec-Fetch-Site": "same-origin",
            "X-Forwarded-Proto": "https",
        }
        return httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=browser)


class Visitor:
    """A client that keeps `Secure` cookies over http, as behind a proxy."""

    def __init__(self, shop: Shop) -> None:
        self.shop, self.cookies = shop, dict[str, str]()

    def send(self, method: str, path: str, **options: object) -> httpx.Response:
        cookie = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.cookies.items())}
        with self.shop.client() as client:
            response = client.request(method, path, headers=cookie if self.cookies else {}, **options)  # type: ignore[arg-type]
        for header in response.headers.get_list("set-cookie"):
            name, _, value = header.partition(";")[0].partition("=")
            self.cookies[name] = value
        return response

    def log_in(self) -> int:
        return self.send("POST", "/accounts/login", data={"username": "ann", "password": PASSWORD}).status_code

    def home(self) -> int:
        return self.send("GET", "/").status_code


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    if REDIS_SERVER is None:
        program("redis-server")
    return Shop(tmp_path)


def test_sessions_survive_a_new_key_in_front_of_the_old_one(shop: Shop) -> None:
    used, unused, other = Visitor(shop), Visitor(shop), Visitor(shop)
    with shop.redis():
        with shop.server():
            assert [used.log_in(), unused.log_in()] == [303, 303]
        with shop.server(SECRET_KEY=f"{OLD},{NEW}"):  # the first step with several machines
            assert used.home() == 200
        with shop.server(SECRET_KEY=f"{NEW},{OLD}"):
            assert [used.home(), other.log_in()] == [200, 303]
        with shop.server(SECRET_KEY=f"{OLD},{NEW}"):  # a machine that has not got the second step yet
            assert other.home() == 200
        with shop.server(SECRET_KEY=f"{NEW},{OLD}"):
            assert other.home() == 200
        with shop.server(SECRET_KEY=NEW):
            assert [used.home(), other.home()] == [200, 200]
            assert unused.home() != 200, "it was signed by the removed key only"


def test_sessions_survive_a_restart_of_redis(shop: Shop) -> None:
    """Redis replays its log of commands with the rights of the user `default`."""
    visitor = Visitor(shop)
    with shop.server():
        with shop.redis():
            assert visitor.log_in() == 303
        with shop.redis():
            assert visitor.home() == 200
    assert "NOPERM" not in (shop.folder / "log").read_text()


@pytest.mark.parametrize("password", [None, "", "any"])
def test_no_client_is_the_default_user_of_redis(shop: Shop, password: str | None) -> None:
    with shop.redis(), Redis(port=shop.redis_port, username="default", password=password) as client:
        with pytest.raises((AuthenticationError, ResponseError)):
            client.ping()
        with pytest.raises((AuthenticationError, ResponseError)):
            client.execute_command("AUTH", "default", password or "")


def test_a_full_redis_refuses_logins_and_keeps_sessions(shop: Shop) -> None:
    early, late = Visitor(shop), Visitor(shop)
    with shop.redis(), shop.server():
        assert early.log_in() == 303
        limit(shop, "noeviction", "1")
        assert late.log_in() == 503
        assert early.home() == 200
        limit(shop, "allkeys-lru", "1")
        early.home()
        limit(shop, "allkeys-lru", "0")
        assert early.home() != 200, "the session was evicted"


def limit(shop: Shop, policy: str, size: str) -> None:
    """Limits the memory of Redis, as an administrator."""
    with Redis(port=shop.redis_port, username="admin", password="any") as client:
        client.config_set("maxmemory-policy", policy)
        client.config_set("maxmemory", size)


def test_without_redis_the_answer_is_503_until_it_is_back(shop: Shop) -> None:
    visitor = Visitor(shop)
    with shop.server():
        with shop.redis():
            assert visitor.log_in() == 303
            assert visitor.home() == 200
        response = visitor.send("GET", "/")
        assert (response.status_code, "retry-after" in response.headers) == (503, True)
        with shop.redis():
            assert visitor.home() == 200


@pytest.mark.parametrize("has_buffers", [True, False])
def test_large_headers_need_the_larger_buffers(shop: Shop, has_buffers: bool) -> None:
    make_certificate(shop.folder)
    command, https = nginx(shop.folder, shop.port)
    if not has_buffers:
        conf = shop.folder / "nginx.conf"
        lines = conf.read_text().splitlines(keepends=True)
        conf.write_text("".join(line for line in lines if not line.strip().startswith(("proxy_bu", "large_client"))))
    with shop.redis(), shop.server(), running(shop.folder, command, https), Site(shop.folder, https).client() as client:
        statuses = [client.get(f"/large?size={size}").status_code for size in (1000, 10_000, 14_000)]
        status = client.get("/healthz", headers={"X-Large": "x" * 12_000}).status_code
    assert (statuses, status) == (([200, 200, 200], 200) if has_buffers else ([200, 502, 502], 400))
