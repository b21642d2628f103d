"""Serves the application: `python -m example_app`."""

import contextlib
import importlib
import os
import socket
import sys
from typing import Any

import uvicorn

from starlette_auth import ImproperlyConfigured

from . import settings


def main() -> None:
    try:
        host, port = settings.address()
        listener = listen(host, port)
        # With PORT=0 it is known only now; the links in mails name it.
        port = listener.getsockname()[1]
        os.environ["PORT"] = str(port)
        proxies, workers = settings.trusted_proxies(), settings.workers()
        importlib.import_module("example_app.main")  # says what is wrong with the other settings
    except ImproperlyConfigured as error:
        sys.exit(" ".join(str(error).split()))
    print(f"{settings.url_of(host, port)} (Ctrl+C to stop)", flush=True)
    # Left alone, uvicorn believes what anybody on this machine says of a visitor's address.
    options: dict[str, Any] = {"app": "example_app.main:app", "forwarded_allow_ips": proxies}
    if workers > 1:
        listener.close()  # uvicorn opens one for all of them
        uvicorn.run(**options, host=host, port=port, workers=workers)
        return
    server = uvicorn.Server(uvicorn.Config(**options))
    with listener, contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[listener])
    if not server.started:
        sys.exit(1)


def listen(host: str, port: int) -> socket.socket:
    """Done first: nobody should get a first password from a process that then finds its port taken."""
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        raise ImproperlyConfigured(f"Cannot listen on {host}, port {port}: {error}. Set HOST or PORT.") from error


if __name__ == "__main__":
    main()
