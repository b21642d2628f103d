"""Runs the application server: `python -m example_app`."""

import asyncio
import contextlib
import importlib
import os
import socket
import sys
from typing import Any

import uvicorn

from starlette_auth import ImproperlyConfigured, StarletteAuthError
from starlette_auth.cli.terminal import print_error

from . import settings


def main() -> None:
    try:
        host, port = settings.address()
        listener = listen(host, port)
        # With PORT=0 the system chooses the port. Links in mails contain it.
        port = listener.getsockname()[1]
        os.environ["PORT"] = str(port)
        proxies, workers = settings.trusted_proxies(), settings.workers()
        importlib.import_module("example_app.main")  # validates the other settings
        asyncio.run(settings.check_database())
    except Exception as error:
        print_error(str(error) if isinstance(error, StarletteAuthError) else f"{type(error).__name__}: {error}")
        sys.exit(1)
    print(f"{settings.url_of(host, port)} (Ctrl+C to stop)", flush=True)
    # By default, uvicorn trusts the X-Forwarded-For header of every process on this machine.
    options: dict[str, Any] = {"app": "example_app.main:app", "forwarded_allow_ips": proxies}
    if workers > 1:
        listener.close()  # uvicorn opens its own listener for all workers
        uvicorn.run(**options, host=host, port=port, workers=workers)
        return
    server = uvicorn.Server(uvicorn.Config(**options))
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


def listen(host: str, port: int) -> socket.socket:
    """Opens the port, before anything else is done.

    A taken port is then reported before the first user is created and the password printed.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        raise ImproperlyConfigured(f"Cannot listen on {host}, port {port}: {error}. Set HOST or PORT.") from error


if __name__ == "__main__":
    main()
