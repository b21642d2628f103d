"""Serves the application: `python -m example_app`."""

import importlib
import sys

import uvicorn

from starlette_auth import ImproperlyConfigured

from . import settings


def main() -> None:
    try:
        app = importlib.import_module("example_app.main").app
        host, port = settings.address()
    except ImproperlyConfigured as error:
        sys.exit(" ".join(str(error).split()))
    uvicorn.run(app, host=host, port=port)


if __name__ == "__main__":
    main()
