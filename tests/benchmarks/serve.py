"""One contestant in a process of its own, or its tables: `python -m tests.benchmarks.serve MODULE PORT` (0: tables)."""

import importlib
import sys

import uvicorn

from .settings import Settings


def main(module: str, port: int) -> None:
    contestant, settings = importlib.import_module(f"{__package__}.contestants.{module}"), Settings.from_environment()
    if not port:
        contestant.prepare(settings)
        return
    # uvloop and httptools, wherever they are installed; who measures makes sure that they are.
    uvicorn.run(
        contestant.make(settings),
        host="127.0.0.1",
        port=port,
        loop="auto",
        http="auto",
        lifespan="off" if module == "django_site" else "on",
        access_log=False,
        proxy_headers=False,
        log_level="warning",
    )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
