"""Checks of V3.5, V3.7 and V4: requests from other sites, redirects, and headers that a client forges."""

import json
import secrets
from typing import Any
from urllib.parse import urljoin, urlsplit

from starlette.requests import HTTPConnection

from . import survey
from .application import Target
from .clients import ATTACKER, FROM_ATTACKER
from .results import Result, absent, failed, passed, some

CSRF = "Add CSRFMiddleware: pass middleware=middleware(auth), which has it."
HOSTS = "Name only hosts of your own in Auth(next_hosts=[…])."
FORGED = ("https://attacker.example/", "//attacker.example/", "/\\attacker.example", "https:attacker.example")
OLD_BROWSER = {"Origin": "", "Sec-Fetch-Site": "", "Sec-Fetch-Mode": "", "Sec-Fetch-Dest": ""}


async def cross_site(target: Target) -> Result:
    """Posts to a path without a route: CSRFMiddleware refuses before the routes are asked, so nothing is changed."""
    browser, visitor = await target.logged_in(), target.browser()
    ways: list[tuple[str, Any, dict[str, str]]] = [
        ("with Sec-Fetch-Site", browser, FROM_ATTACKER),
        ("with Origin only", browser, {**OLD_BROWSER, "Origin": ATTACKER}),
        ("without headers and token", browser, OLD_BROWSER),
        ("without cookies", visitor, FROM_ATTACKER),
    ]
    for way, client, headers in ways:
        response = await client.post(target.nowhere(), {"a": "b"}, headers)
        if response.status_code != 403:
            return failed(f"a forged POST {way} gets status {response.status_code} and not 403", CSRF)
    login = target.path("login")
    if login is not None and (await visitor.post(login, {"username": "a"}, FROM_ATTACKER)).status_code != 403:
        return failed("another site can post to the login page", CSRF)
    exempt = [str(endpoint) for endpoint in survey.endpoints(target) if _is_exempt(endpoint)]
    return passed(f"refused with 403{f'; you have exempted {some(exempt)}' if exempt else ''}")


def _is_exempt(endpoint: survey.Endpoint) -> bool:
    methods = [getattr(endpoint.function, method.lower(), None) for method in endpoint.methods]
    return any(getattr(part, "__dict__", {}).get("csrf_exempt") for part in (endpoint.function, *methods))


async def without_preflight(target: Target) -> Result:
    """Sends JSON as text/plain, which a page of another site may send without a preflight."""
    login = target.path("login")
    if login is None or not target.has_passwords:
        return absent("there is no login page, and the other endpoints are yours")
    person, browser = await target.person(), target.browser()
    body = json.dumps({"username": person.name, "password": person.password}).encode()
    headers = {"Content-Type": "text/plain", "Origin": browser.base_url, "Sec-Fetch-Site": "same-origin"}
    response = await browser.send("POST", login, body, headers)
    if await target.who(browser) is not None:
        return failed("the login takes JSON as text/plain", "Use the login page of this package.")
    return passed(f"JSON as text/plain gets status {response.status_code}")


async def safe_methods(target: Target) -> Result:
    browser = await target.logged_in()
    path = target.path("logout")
    if path is None:
        return failed("there is no logout page", 'Mount the account pages: Mount("/accounts", routes=routes(auth)).')
    await browser.get(path)
    if await target.who(browser) is None:
        return failed(f"GET {path} logs out", "Use the logout page of this package, which takes POST.")
    return passed("a GET of the logout page does not log out")


async def redirects(target: Target) -> Result:
    login = target.path("login")
    if login is None or not target.has_passwords:
        return absent("there is no login page")
    field = target.auth.redirects.field
    person = await target.person()
    for url in FORGED:
        browser = target.browser()
        if url in FORGED[:2]:
            await browser.submit(login, username=person.name, password=person.password, **{field: url})
        if browser.exchanges and _leaves(browser.exchanges[-1].header("location")):
            return failed(f"{field}={url} leads there after the login", HOSTS)
        browser = await target.logged_in(person)
        await browser.get(f"{login}?{field}={url}")
        if _leaves(browser.exchanges[-1].header("location")):
            return failed(f"{login}?{field}={url} leads there", HOSTS)
    hosts = target.auth.redirects.allowed_hosts
    return passed(f"next leads to this site only{f', and to {some(list(hosts))}' if hosts else ''}")


def _leaves(location: str) -> bool:
    """Returns whether a browser would go to the attacker's host."""
    host = urlsplit(urljoin("https://own.example/", location.replace("\\", "/"))).netloc
    return host.endswith("attacker.example")


async def web_sockets(target: Target) -> Result:
    """Opens a WebSocket to a path without a route, with the cookies of a user, from another site."""
    if not any(endpoint.is_websocket for endpoint in survey.endpoints(target)):
        return absent("the application has no WebSocket")
    browser = await target.logged_in()
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    headers = {"host": target.base_url.partition("//")[2], "origin": ATTACKER, "cookie": cookies}
    scope = {
        "type": "websocket",
        "asgi": {"version": "3.0"},
        "scheme": "wss",
        "path": target.nowhere(),
        "root_path": "",
        "query_string": b"",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
        "client": (browser.address, 50000),
        "server": ("localhost", 443),
        "subprotocols": [],
        "state": dict(target.state),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        return {"type": "websocket.connect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await target.app(scope, receive, send)
    if sent and (sent[0].get("code") == 1008 or sent[0].get("status") == 403):
        return passed("a handshake from another site is refused")
    return failed("a handshake from another site with a user's cookies is not refused", CSRF)


async def forged_address(target: Target) -> Result:
    """A client must not choose the address that limits and logs use."""
    scope = {
        "type": "http",
        "client": (f"2001:db8:{secrets.token_hex(2)}::1", 50000),
        "headers": [(b"x-forwarded-for", b"198.51.100.77")],
    }
    if target.auth.proxies.client_address(HTTPConnection(scope)) == "198.51.100.77":
        return failed(
            "X-Forwarded-For of any client is believed", "Name your proxies only, as in trusted_proxies=['10.0.0.0/8']."
        )
    proxies = [str(network) for network in target.auth.proxies.networks]
    if not proxies and not target.auth.proxies.trusts_socket:
        return passed("X-Forwarded-For is ignored; behind a reverse proxy, name it in trusted_proxies")
    return passed(f"X-Forwarded-For counts from {some(proxies) or 'the Unix socket'} only")


async def media_types(target: Target) -> Result:
    exchanges = [e for e in await survey.responses(target) if e.header("content-length") not in ("", "0")]
    texts = ("text/", "application/xml", "+xml")
    bad = [
        exchange.name
        for exchange in exchanges
        if not (kind := exchange.header("content-type").lower())
        or (any(text in kind for text in texts) and "charset=" not in kind and "svg" not in kind)
    ]
    if bad:
        return failed(
            f"without type or charset: {some(bad)}", "Return HTMLResponse, PlainTextResponse or JSONResponse."
        )
    return passed(f"on all {len(exchanges)} responses with a body")


async def trace(target: Target) -> Result:
    browser = target.browser(headers={"X-Secret": "echo"})
    response = await browser.send("TRACE", "/")
    if response.status_code < 400 and "echo" in response.text:
        return failed("TRACE echoes the request", "Remove the route that takes TRACE.")
    return passed(f"TRACE gets status {response.status_code}")
