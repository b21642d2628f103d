"""Runs the files of the guide on deploying: nginx and Caddy in front of two workers, Redis with its users, PgBouncer."""

import contextlib
import os
import re
import secrets
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from cryptography import x509
from websockets.sync.client import connect
from websockets.typing import Origin

from ..conftest import BACKENDS
from ..support.matrix import IN_CI, needs_postgresql
from ..support.server import ROOT, free_port
from ..support.servers import REDIS_SERVER, wait_until_it_listens

pytestmark = pytest.mark.long

GUIDE = (ROOT / "example_app" / "guides" / "deploying.md").read_text()
PASSWORD = "seven quiet otters"
SECRET = "abcdefghij" * 5
PROBE = """
import asyncio
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route, WebSocketRoute
from app import app, auth

async def seen(request):
    headers = {name: request.headers.getlist(name) for name in ("forwarded", "sec-fetch-site", "host")}
    return JSONResponse({"address": auth.proxies.client_address(request), "scheme": request.url.scheme, **headers})

async def echo(websocket):
    await websocket.accept()
    await websocket.send_text(f"{await websocket.receive_text()} by {websocket.url.scheme}")
    await websocket.close()

async def stream(request):
    async def events():
        yield "data: 1\\n\\n"
        await asyncio.sleep(2)
        yield "data: 2\\n\\n"
    return StreamingResponse(events(), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})

app.router.routes += [Route("/seen", seen), WebSocketRoute("/echo", echo), Route("/stream", stream)]
"""


def file_of(name: str) -> str:
    """Returns the block of the guide that begins with the name of its file."""
    match = re.search(rf"(?ms)^```\w*\n(?:#|;|--) {re.escape(name)}\n(.*?)^```$", GUIDE)
    assert match, name
    return match[1]


def program(name: str) -> str:
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin")
    if path is None and not IN_CI:
        pytest.skip(f"{name} is not installed")
    assert path, f"{name} is not installed"
    return path


@contextlib.contextmanager
def running(folder: Path, command: list[str], port: int = 0, **variables: str) -> Iterator[None]:
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, env={**os.environ, **variables})
    try:
        if port:
            wait_until_it_listens(port, 20)
        yield
    except AssertionError as error:
        error.add_note((folder / "log").read_text()[-3000:])
        raise
    finally:
        process.terminate()
        process.wait(20)


class Site:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.tls = ssl.create_default_context(cafile=folder / "fullchain.pem")

    def client(self) -> httpx.Client:
        """Returns a browser that reaches shop.example on the port of the proxy."""
        browser = {
            "Host": "shop.example",
            "Origin": "https://shop.example",
            "Sec-Fetch-Site": "same-origin",
            "Accept": "text/html",
        }
        client = httpx.Client(base_url=f"https://127.0.0.1:{self.port}", verify=self.tls, headers=browser)
        client.event_hooks["request"] = [lambda request: request.extensions.update(sni_hostname="shop.example")]
        return client


@pytest.fixture(scope="module", params=["tcp", "unix"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, int]]:
    """The application of the guide with two workers, on a port or a socket, and Redis with the guide's users."""
    if REDIS_SERVER is None:
        program("redis-server")
    folder = tmp_path_factory.mktemp(f"deploying_{request.param}")
    for name, content in (("app.py", file_of("app.py")), ("probe.py", PROBE), ("users.acl", file_of("users.acl"))):
        (folder / name).write_text(content)
    make_certificate(folder)
    redis_port, port = free_port(), free_port()
    (folder / "redis.conf").write_text(
        file_of("redis.conf") + f"port {redis_port}\ndir {folder}\naclfile {folder}/users.acl\n"
    )
    database = f"sqlite+aiosqlite:///{folder}/shop.sqlite3"
    settings = {
        "DATABASE_URL": database,
        "REDIS_URL": f"redis://shop:change-me@127.0.0.1:{redis_port}",
        "SECRET_KEY": secrets.token_urlsafe(50),
        "STARLETTE_AUTH_PASSWORD": PASSWORD,
        "PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]),
    }
    # SQLite takes neither a pool nor the limits of asyncpg.
    app = folder / "app.py"
    app.write_text(app.read_text().replace(", timeout=10, command_timeout=10, max_size=10", ""))
    for command in (["migrate"], ["createsuperuser", "--noinput", "--username", "ann"]):
        subprocess.run(
            [sys.executable, "-m", "starlette_auth", *command], env={**os.environ, **settings}, cwd=folder, check=True
        )
    where = ["--port", str(port)] if request.param == "tcp" else ["--uds", "shop.sock", "--forwarded-allow-ips", "*"]
    uvicorn = [sys.executable, "-m", "uvicorn", "probe:app", "--workers", "2", *where]
    port_of_server = port if request.param == "tcp" else 0
    redis = running(folder, [REDIS_SERVER or "", "redis.conf"], redis_port)
    with redis, running(folder, uvicorn, port_of_server, **settings):
        if request.param == "unix":
            wait_for_socket(folder / "shop.sock")
        yield folder, port


def wait_for_socket(path: Path) -> None:
    """uvicorn creates the socket before its workers listen on it."""
    for _ in range(400):
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            return
        time.sleep(0.05)
    raise AssertionError(f"Nothing listens on {path}.")


def make_certificate(folder: Path) -> None:
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=shop.example"
    files = ["-addext", "subjectAltName=DNS:shop.example", "-keyout", "privkey.pem", "-out", "fullchain.pem"]
    subprocess.run([*command.split(), *files], cwd=folder, check=True, capture_output=True)
    assert x509.load_pem_x509_certificate((folder / "fullchain.pem").read_bytes())


def nginx(folder: Path, port: int) -> tuple[list[str], int]:
    https, http = free_port(), free_port()
    text = re.sub(r"(listen (?:\[::\]:)?)443", rf"\g<1>{https}", file_of("shop.conf"))
    text = re.sub(r"(listen (?:\[::\]:)?)80\b", rf"\g<1>{http}", text)
    text = (
        text.replace("/etc/ssl/shop", str(folder)).replace("/var/log/nginx", str(folder)).replace(":8000", f":{port}")
    )
    if (folder / "shop.sock").exists():
        text = text.replace(f"server 127.0.0.1:{port};", "").replace("# server unix:/run/shop", f"server unix:{folder}")
    if not socket.has_dualstack_ipv6():
        text = re.sub(r"(?m)^ *listen \[::\].*\n", "", text)
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(
        f"daemon off; {user} pid {folder}/nginx.pid; error_log {folder}/error.log; events {{}} http {{ {temporary} {text} }}"
    )
    return [program("nginx"), "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"], https


def caddy(folder: Path, port: int) -> tuple[list[str], int]:
    https = free_port()
    text = file_of("Caddyfile").replace("/var/log/caddy", str(folder)).replace("127.0.0.1:8000", f"127.0.0.1:{port}")
    if (folder / "shop.sock").exists():
        text = text.replace(f"reverse_proxy 127.0.0.1:{port}", f"reverse_proxy unix/{folder}/shop.sock")
    ports = f"{{\nadmin off\nauto_https disable_redirects\nhttp_port {free_port()}\nhttps_port {https}\n"
    text = text.replace("{\n", ports, 1)
    text = text.replace("shop.example {\n", f"shop.example {{\ntls {folder}/fullchain.pem {folder}/privkey.pem\n")
    (folder / "Caddyfile").write_text(text)
    return [program("caddy"), "run", "--adapter", "caddyfile", "--config", "Caddyfile"], https


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_a_site_behind_a_proxy(backend: tuple[Path, int], proxy: object) -> None:
    folder, port = backend
    command, https = (nginx if proxy is nginx else caddy)(folder, port)
    site = Site(folder, https)
    with running(folder, command, https, HOME=str(folder)), site.client() as client:
        forged = {
            "X-Forwarded-For": "203.0.113.9",
            "Forwarded": "for=203.0.113.9;proto=http",
            "X-Forwarded-Proto": "http",
        }
        seen = client.get("/seen", headers=forged).json()
        assert (seen["address"], seen["scheme"], seen["forwarded"]) == ("127.0.0.1", "https", [])
        assert (seen["host"], seen["sec-fetch-site"]) == (["shop.example"], ["same-origin"])

        check_login(client)
        check_connections(site, client)
        assert client.get("/metrics").status_code == 404
        too_large = {413} if proxy is nginx else {413, 502}  # Caddy 2.6 may see it while it is passing the body on
        assert client.post("/accounts/login", data={"username": "x" * 1_200_000}).status_code in too_large
        for path in (f"reset/Mg/{SECRET}?q={SECRET}", f"register/confirm/{SECRET}", f"?q={SECRET}"):
            client.get(f"/accounts/{path}")
    logs = {path.name: path.read_text() for path in folder.iterdir() if "log" in path.name}
    assert "/accounts/reset/Mg/..." in logs["shop.log" if proxy is nginx else "caddy.log"]
    assert [name for name, text in logs.items() if SECRET in text.replace(f"?q={SECRET}", "")] == []


def check_login(client: httpx.Client) -> None:
    assert client.get("/").status_code == 303
    response = client.post("/accounts/login", data={"username": "ann", "password": PASSWORD, "next": "/"})
    assert response.status_code == 303, response.text
    assert "; Secure" in response.headers["set-cookie"]
    assert client.get("/").text == "ann\n"
    assert (
        client.get("/", headers={"Accept": "text/html"}).headers["strict-transport-security"].startswith("max-age=3600")
    )
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    assert client.post("/accounts/logout", headers=foreign).status_code == 403


def check_connections(site: Site, client: httpx.Client) -> None:
    """A WebSocket is passed on, and a stream is not collected."""
    raw = socket.create_connection(("127.0.0.1", site.port))
    with connect("wss://shop.example/echo", sock=raw, ssl=site.tls, origin=Origin("https://shop.example")) as websocket:
        websocket.send("hello")
        assert websocket.recv() == "hello by wss"
    begun = time.monotonic()
    with client.stream("GET", "/stream") as response:
        assert next(response.iter_text()) == "data: 1\n\n"
        assert time.monotonic() - begun < 1.5


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_no_log_of_a_proxy_has_secrets_when_the_application_is_down(tmp_path: Path, proxy: object) -> None:
    make_certificate(tmp_path)
    command, https = (nginx if proxy is nginx else caddy)(tmp_path, free_port())
    with running(tmp_path, command, https, HOME=str(tmp_path)), Site(tmp_path, https).client() as client:
        assert client.get(f"/accounts/reset/Mg/{SECRET}").status_code == 502
        assert client.get(f"/accounts/register/confirm/{SECRET}").status_code == 502
    logs = {path.name: path.read_text() for path in tmp_path.iterdir() if "log" in path.name}
    assert any(" 502 " in text or '"status":502' in text for text in logs.values())
    assert [name for name, text in logs.items() if SECRET in text] == []


@needs_postgresql
@pytest.mark.parametrize(
    ("cache", "output"), [("?statement_cache_size=0", "Created the superuser"), ("", "Pass statement_cache_size=0 to")]
)
def test_pgbouncer(cache: str, output: str) -> None:
    server = urlsplit(next(url for url in BACKENDS if url.startswith("postgresql")))
    name, port = f"starlette_auth_deploying_{os.getpid()}", free_port()
    maintenance = f"postgresql://{server.netloc}/postgres"
    folder = Path("/tmp") / name  # pytest's folders are closed to the user postgres
    folder.mkdir()
    as_postgres = ["-u", "postgres"] if os.geteuid() == 0 else []
    if as_postgres:
        shutil.chown(folder, "postgres")
    role = server.username or "postgres"
    text = file_of("pgbouncer.ini").replace("6432", str(port)).replace("/etc/pgbouncer", str(folder))
    text = text.replace("port=5432", f"port={server.port or 5432}").replace("dbname=shop", f"dbname={name}")
    (folder / "pgbouncer.ini").write_text(f"{text}unix_socket_dir =\nserver_round_robin = 1\n")
    (folder / "userlist.txt").write_text(f'"{role}" "{server.password or ""}"\n')
    with psycopg.connect(maintenance, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name}".encode())
        try:
            with running(folder, [program("pgbouncer"), *as_postgres, f"{folder}/pgbouncer.ini"], port):
                url = f"postgresql://{role}@127.0.0.1:{port}/shop{cache}"
                outputs = [run_command(url, "migrate")]
                outputs += [run_command(url, "createsuperuser", "--noinput", "--username", f"ann{n}") for n in range(3)]
        finally:
            admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            shutil.rmtree(folder)
    assert output in "".join(outputs)
    if cache:
        assert "".join(outputs).count(output) == 3


def run_command(url: str, *command: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "starlette_auth", "--database", url, *command],
        cwd=ROOT,
        env={**os.environ, "STARLETTE_AUTH_PASSWORD": PASSWORD},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout
