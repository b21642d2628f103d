"""The clients of the assessment: they call the application in this process, as browsers and programs would."""

import asyncio
import json
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urlencode, urlsplit

import httpx
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..testing import browser_headers
from ..users.models import User

TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
LONGEST = 20.0  # seconds for one request
FORM = "application/x-www-form-urlencoded"
ATTACKER = "https://attacker.example"
FROM_ATTACKER = {"Origin": ATTACKER, "Sec-Fetch-Site": "cross-site"}


@dataclass
class Exchange:
    """One request, and the start of its response. `status` is 0 if the application sent none."""

    scope: Scope
    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)

    @property
    def name(self) -> str:
        return f"{self.scope['method']} {self.scope['path']}"

    def header(self, name: str) -> str:
        """Returns the values of a response header, separated by commas."""
        return ", ".join(self.all(name))

    def all(self, name: str) -> list[str]:
        return [value.decode("latin-1") for key, value in self.headers if key.lower() == name.lower().encode()]

    @property
    def is_page(self) -> bool:
        return "text/html" in self.header("content-type")


class Recorder:
    """Calls the application with the state of its lifespan, and notes each exchange."""

    def __init__(self, app: ASGIApp, state: Mapping[str, Any], exchanges: list[Exchange]) -> None:
        self.app = app
        self.state = state
        self.exchanges = exchanges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange({**scope, "state": dict(self.state)})
        self.exchanges.append(exchange)

        async def noted(message: Message) -> None:
            if message["type"] == "http.response.start":
                exchange.status, exchange.headers = message["status"], list(message.get("headers", ()))
            await send(message)

        await self.app(exchange.scope, receive, noted)


class Cookies(dict[str, str]):
    """The cookies of a browser, without their paths and domains."""

    def __init__(self) -> None:
        super().__init__()
        self.received: set[tuple[str, str]] = set()  # each name and value that the application has ever set

    def set(self, name: str, value: str) -> None:
        self.received.add((name, value))
        self[name] = value

    def delete(self, name: str) -> None:
        self.pop(name, None)

    def read(self, exchange: Exchange) -> None:
        for header in exchange.all("set-cookie"):
            for name, morsel in SimpleCookie(header).items():
                if morsel["max-age"] == "0":
                    self.delete(name)
                else:
                    self.set(name, morsel.value)


class Browser:
    """A visitor with a separate address, which is reserved for documentation (RFC 3849).

    The requests have the headers of a browser, unless `headers` replaces them.
    """

    def __init__(
        self,
        app: ASGIApp,
        state: Mapping[str, Any],
        base_url: str,
        *,
        headers: Mapping[str, str] | None = None,
        is_json: bool = False,
        address: str = "",
    ) -> None:
        self.exchanges: list[Exchange] = []
        self.address = address or f"2001:db8:{secrets.token_hex(2)}:{secrets.token_hex(2)}::1"
        self.recorder = Recorder(app, state, self.exchanges)
        self.transport = httpx.ASGITransport(self.recorder, client=(self.address, 50000), raise_app_exceptions=False)
        self.base_url = base_url
        self.headers = httpx.Headers(browser_headers if headers is None else headers)
        self.headers.setdefault("User-Agent", "Mozilla/5.0 (assessment)")
        self.cookies = Cookies()
        self.is_json = is_json  # whether the account pages take JSON only

    async def aclose(self) -> None:
        """Marks the browser as a client with coroutine methods, for `log_in`."""

    async def send(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, wait: float = LONGEST
    ) -> httpx.Response:
        sent = httpx.Headers(self.headers)
        sent.update({"Host": urlsplit(self.base_url).netloc})
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        for name, value in (headers or {}).items():
            sent.pop(name, None)
            if value:
                sent[name] = value
        request = httpx.Request(method, self.base_url + path, headers=sent, content=body)
        count = len(self.exchanges)
        try:
            async with asyncio.timeout(wait):
                response = await self.transport.handle_async_request(request)
                await response.aread()
        except TimeoutError:
            response = httpx.Response(504, text="The application has not completed its response.")
        finally:
            for exchange in self.exchanges[count:]:
                self.cookies.read(exchange)
        response.request = request
        return response

    async def get(self, path: str, headers: Mapping[str, str] | None = None, wait: float = LONGEST) -> httpx.Response:
        return await self.send("GET", path, headers=headers, wait=wait)

    async def post(
        self, path: str, fields: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Posts a form as a page of the same site does, or JSON where the account pages take JSON only."""
        if self.is_json:
            return await self.post_json(path, fields, headers)
        own = {"Content-Type": FORM, "Origin": self.base_url, "Sec-Fetch-Site": "same-origin"}
        return await self.send("POST", path, urlencode(fields or {}).encode(), {**own, **(headers or {})})

    async def post_json(
        self, path: str, fields: Mapping[str, Any] | None = None, headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        own = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "Origin": self.base_url,
            "Sec-Fetch-Site": "same-origin",
            "Sec-Fetch-Mode": "cors",
            "Sec-Fetch-Dest": "empty",
        }
        return await self.send("POST", path, json.dumps(fields or {}).encode(), {**own, **(headers or {})})

    async def submit(self, path: str, **fields: str) -> httpx.Response:
        """Opens the page and sends its form, with the CSRF token of the page."""
        if self.is_json:
            return await self.post_json(path, fields)
        # Without Sec-Fetch-Dest, the login page does not send a logged-in user on.
        page = await self.get(path, {"Sec-Fetch-Dest": "", "Sec-Fetch-Mode": ""})
        token = TOKEN.search(page.text)
        hidden = {"csrfmiddlewaretoken": token[1]} if token else {}
        return await self.post(path, {**hidden, **fields})

    @property
    def user(self) -> Any:
        """Returns the user of the last request, as the application saw it; None for a visitor."""
        user = self.exchanges[-1].scope.get("user") if self.exchanges else None
        return user if isinstance(user, User) and user.is_authenticated else None


def is_done(response: httpx.Response) -> bool:
    """Returns whether an account page did what was asked: it redirects, or names the next page as JSON."""
    is_json = response.headers.get("content-type", "").startswith("application/json")
    return response.status_code == 303 or (response.status_code == 200 and is_json)
