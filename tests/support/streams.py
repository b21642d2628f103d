"""The client's side of a streamed response, in the same event loop."""

import asyncio
import contextlib
from typing import Any

import httpx
from starlette.types import ASGIApp, Message


class Stream:
    """A request whose response is read part by part. Leaving the context disconnects the client.

    Like a server, `receive` waits until the client disconnects or the response is complete.
    """

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        client: httpx.AsyncClient | None = None,
        *,
        headers: dict[str, str] | None = None,
        spec_version: str = "2.3",
    ) -> None:
        cookies = "; ".join(f"{name}={value}" for name, value in client.cookies.items()) if client is not None else ""
        fields = {"host": "testserver", **({"cookie": cookies} if cookies else {}), **(headers or {})}
        self.scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": spec_version},
            "method": "GET",
            "scheme": "http",
            "path": path,
            "root_path": "",
            "query_string": b"",
            "client": ("192.0.2.1", 5000),
            "headers": [(name.encode(), value.encode()) for name, value in fields.items()],
        }
        self.app = app
        self.sent: asyncio.Queue[Message] = asyncio.Queue()
        self.is_over = asyncio.Event()
        self.is_complete = False
        self.has_request = True

    async def __aenter__(self) -> "Stream":
        self.task: asyncio.Task[Any] = asyncio.create_task(self.app(self.scope, self.receive, self.send))  # type: ignore[arg-type]
        start = await asyncio.wait_for(self.sent.get(), 20)
        self.status, self.headers = start["status"], dict(start["headers"])
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.is_over.set()
        await asyncio.wait([self.task], timeout=20)
        assert self.task.done(), "the application goes on"
        with contextlib.suppress(ConnectionAbortedError, asyncio.CancelledError):
            self.task.result()

    async def receive(self) -> Message:
        if self.has_request:
            self.has_request = False
            return {"type": "http.request", "body": b"", "more_body": False}
        await self.is_over.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        assert not self.is_complete, "the response was complete"
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = True
            self.is_over.set()
        await asyncio.sleep(0)
        self.sent.put_nowait(message)

    async def next_part(self) -> bytes:
        async with asyncio.timeout(20):
            return bytes((await self.sent.get())["body"])

    async def goes_on(self) -> bool:
        """Returns whether the application is still running and sends a further part."""
        while not self.sent.empty():
            self.sent.get_nowait()
        with contextlib.suppress(TimeoutError):
            return bool(await self.next_part()) and not self.task.done()
        return False

    async def ended(self, within: float = 5) -> bool:
        """Waits until the application has ended; returns whether the body has its end."""
        await asyncio.wait([self.task], timeout=within)
        assert self.task.done(), "the stream goes on"
        return self.is_complete
