"""Runs both servers on one database: `python -m example_app.django_site`."""

import asyncio
import contextlib
import importlib
import importlib.metadata
import importlib.util
import os
import signal
import subprocess
import sys

import uvicorn

from example_app import settings
from example_app.__main__ import listen
from starlette_auth import ImproperlyConfigured, StarletteAuthError
from starlette_auth.cli.terminal import print_error
from starlette_auth.django.project import ITERATIONS


def main() -> None:
    try:
        host, port = settings.address()
        if importlib.util.find_spec("django") is None:
            raise ImproperlyConfigured('Django is not installed. Run `pip install --editable ".[example-django]"`.')
        if not 0 < port < 2**16 - 1:
            raise ImproperlyConfigured("Django listens on PORT + 1. Set PORT to a number from 1 to 65534.")
        listener = listen(host, port + 1)
        # Another file than that of the example application, whose tables differ from Django's.
        os.environ.setdefault("DATABASE_URL", "sqlite+aiosqlite:///example_django.sqlite3")
        os.environ["STARLETTE_URL"] = settings.url_of(host, port)
        # Django replaces hashes of another cost than its own at the next login.
        installed = ".".join(importlib.metadata.version("django").split(".")[:2])
        os.environ.setdefault("DJANGO", installed if installed in ITERATIONS else "1")
        settings.secret_keys()  # creates the key file before two processes need it
        asyncio.run(settings.check_database())
        settings.django_project()
    except Exception as error:
        print_error(str(error) if isinstance(error, StarletteAuthError) else f"{type(error).__name__}: {error}")
        sys.exit(1)
    os.environ["DJANGO_SETTINGS_MODULE"] = "example_app.django_site.settings"
    django = importlib.import_module("django")
    django.setup()
    importlib.import_module("django.core.management").call_command("migrate", verbosity=0)
    asgi = importlib.import_module("django.core.asgi").get_asgi_application()
    app = importlib.import_module("django.contrib.staticfiles.handlers").ASGIStaticFilesHandler(asgi)
    print(f"Django {django.__version__}: {settings.url_of(host, port + 1)} (Ctrl+C to stop both)", flush=True)
    server = uvicorn.Server(uvicorn.Config(app, lifespan="off", log_level="warning"))
    # SIGTERM must run the `finally` below, which stops the other server.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with listener, subprocess.Popen([sys.executable, "-m", "example_app"]) as starlette:
        try:
            with contextlib.suppress(KeyboardInterrupt):
                server.run(sockets=[listener])
        finally:
            starlette.terminate()


if __name__ == "__main__":
    main()
