"""Django projects: their databases, their processes, and a browser that visits them and us."""

import asyncio
import contextlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
from databases import Database
from starlette.types import ASGIApp

from starlette_auth import Auth, DjangoProject, Passwords, PBKDF2PasswordHasher
from starlette_auth.passwords.hashers import default_hashers

from ..conftest import connected, empty_database
from ..support.server import ROOT, environment, free_port
from ..support.servers import wait_until_it_listens

KEY = "a secret key that Django and we share: for tests only"
OURS = "http://127.0.0.1:1"


class Django:
    """One project: a database, and settings. Its process runs until `stop`."""

    def __init__(self, url: str, folder: Path, *, keys: str = KEY, **settings: Any) -> None:
        self.database_url = url
        self.folder = folder
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        (folder / "people_migrations").mkdir(exist_ok=True)
        (folder / "people_migrations" / "__init__.py").touch()
        self.environment = environment(
            DATABASE_URL=url,
            SECRET_KEY=keys,
            DJANGO_TEST_SETTINGS=json.dumps(settings),
            PYTHONPATH=f"{ROOT}:{folder}",
        )
        self.process: subprocess.Popen[bytes] | None = None

    def manage(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "tests.django.django_project.manage", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def code(self, text: str) -> Any:
        """Runs code inside Django, where `User` is the user model; gives what it leaves in `result`."""
        answer = httpx.post(f"{self.url}/run", content=text.encode(), timeout=60)
        assert answer.status_code == 200, (self.folder / f"django-{self.port}.log").read_text()
        return answer.json()["result"]

    def start(self) -> None:
        with (self.folder / f"django-{self.port}.log").open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.django.django_project.asgi", str(self.port)],
                cwd=self.folder,
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        wait_until_it_listens(self.port, patience=30)

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


@contextlib.contextmanager
def django_on(server: str, folder: Path, **settings: Any) -> Iterator[Django]:
    """A project whose tables Django made, on one of BACKENDS, and which serves."""
    holder = contextlib.AsyncExitStack()
    with asyncio.Runner() as runner:
        url = runner.run(holder.enter_async_context(empty_database(server, folder)))
        project = Django(url, folder, **settings)
        try:
            project.start()
            yield project
        finally:
            project.stop()
            runner.run(holder.aclose())


@contextlib.asynccontextmanager
async def sharing(project: Django, settings: DjangoProject | None = None, **options: Any) -> AsyncIterator[Auth]:
    """Our half of it."""
    async with connected(project.database_url) as database:
        auth = make_auth(database, settings, **options)
        try:
            yield auth
        finally:
            await auth.close()


def weak() -> Passwords:
    """As `tests.django.django_project.hashers`, or Django would make each hash anew."""
    return Passwords(
        [PBKDF2PasswordHasher(iterations=1000), *default_hashers()[:1], *default_hashers()[2:]], upgrade=False
    )


def make_auth(database: Database, settings: DjangoProject | None = None, **options: Any) -> Auth:
    settings = settings or DjangoProject()
    options = {"secret_key": [KEY], "passwords": weak(), "throttling": False, **options}
    return Auth(database, django=settings, **options)


@contextlib.asynccontextmanager
async def browser(project: Django, app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """One cookie jar for both: cookies know hosts, and no ports. Paths lead to us, `project.url` leads to Django."""
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 5000))
    async with httpx.AsyncClient(base_url=OURS, mounts={OURS: transport}, timeout=30) as client:
        client.headers["origin"] = OURS
        yield client
