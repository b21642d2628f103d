"""The example application in four processes, each of which says which one it is: `python -m tests.support.workers`."""

import os

import uvicorn
from starlette.types import Message, Receive, Scope, Send

from example_app import main

WORKERS = 4


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    async def sign(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], (b"x-worker", str(os.getpid()).encode())]
        await send(message)

    await main.app(scope, receive, sign)


if __name__ == "__main__":
    uvicorn.run("tests.support.workers:app", port=int(os.environ["PORT"]), workers=WORKERS)
