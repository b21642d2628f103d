"""Django projects in separate processes, and clients that visit Django and this package."""

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
from starlette_auth.database.migrations import migrate
from starlette_auth.passwords.passwords import default_hashers

from ..conftest import connected, empty_database
from ..support.server import ROOT, environment, free_port
from ..support.servers import wait_until_it_listens

KEY = "a secret key that Django and we share: for tests only"
BASE_URL = "http://127.0.0.1:1"


class Django:
    """A Django project with a database and settings. `start` runs its server process until `stop`."""

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
        completed = subprocess.run(
            [sys.executable, "-m", "tests.django.django_project.manage", *arguments],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert completed.returncode == 0, completed.stderr
        return completed.stdout.strip()

    def code(self, text: str) -> Any:
        """Runs code inside Django, where `User` is the user model. Returns the value of `result`."""
        response = httpx.post(f"{self.url}/run", content=text.encode(), timeout=60)
        assert response.status_code == 200, (self.folder / f"django-{self.port}.log").read_text()
        return response.json()["result"]

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
    """Starts a project on one of BACKENDS, with tables created by Django."""
    stack = contextlib.AsyncExitStack()
    with asyncio.Runner() as runner:
        url = runner.run(stack.enter_async_context(empty_database(server, folder)))
        project = Django(url, folder, **settings)
        try:
            project.start()
            yield project
        finally:
            project.stop()
            runner.run(stack.aclose())


@contextlib.asynccontextmanager
async def shared_auth(
    project: Django, settings: DjangoProject | None = None, **options: Any
) -> AsyncIterator[Auth[Any]]:
    """Yields an Auth on the database of a Django project."""
    async with connected(project.database_url) as database:
        auth = make_auth(database, settings, **options)
        await migrate(auth.gateway, auth.tables)
        try:
            yield auth
        finally:
            await auth.close()


def weak_passwords() -> Passwords:
    """Returns hashers with the iterations of the test project; Django would rehash others at login."""
    return Passwords(
        [PBKDF2PasswordHasher(iterations=1000), *default_hashers()[:1], *default_hashers()[2:]], upgrade=False
    )


def make_auth(database: Database, settings: DjangoProject | None = None, **options: Any) -> Auth[Any]:
    settings = settings or DjangoProject()
    options = {"secret_key": [KEY], "passwords": weak_passwords(), "throttling": False, **options}
    return Auth(database, django=settings, **options)


@contextlib.asynccontextmanager
async def browser(project: Django, app: ASGIApp) -> AsyncIterator[httpx.AsyncClient]:
    """Yields a client of both applications, which share cookies because cookies ignore ports.

    Relative paths go to `app`, and URLs that start with `project.url` go to Django.
    """
    transport = httpx.ASGITransport(app, client=("192.0.2.1", 5000))
    async with httpx.AsyncClient(base_url=BASE_URL, mounts={BASE_URL: transport}, timeout=30) as client:
        client.headers["origin"] = BASE_URL
        yield client
