"""The login of a command line: `starlette_auth.device.log_in` against a site with `DeviceLogin`."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from starlette_auth import APITokens, Auth, DeviceLogin
from starlette_auth.device import DeviceCode, DeviceLoginFailed, log_in, show_code
from starlette_auth.testing import FrozenClock
from starlette_auth.testing import log_in as log_in_with_browser

from .conftest import PASSWORD, client_of, installed
from .features.test_api_tokens import bearer, mine
from .features.test_device_login import CLIENTS, decide
from .support.apps import make_app

SITE = "http://localhost/accounts"


class Bridge(httpx.BaseTransport):
    """Sends the requests of a command line, which waits in a thread, to the application in the event loop."""

    def __init__(self, app: Any, *, lost: int = 0) -> None:
        self.loop, self.inner = asyncio.get_running_loop(), httpx.ASGITransport(app)
        self.lost = lost

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if self.lost and request.url.path.endswith("/token"):
            self.lost -= 1
            raise httpx.ConnectError("The network is gone.")
        return asyncio.run_coroutine_threadsafe(self._send(request), self.loop).result()

    async def _send(self, request: httpx.Request) -> httpx.Response:
        async with httpx.AsyncClient(transport=self.inner) as client:
            url, headers = str(request.url), request.headers
            response = await client.request(request.method, url, headers=headers, content=request.read())
        return httpx.Response(response.status_code, headers=response.headers, content=response.content)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
async def auth(database: Any, clock: FrozenClock) -> AsyncIterator[Auth]:
    async with installed(database, features=[APITokens("shop"), DeviceLogin(CLIENTS)], clock=clock) as auth:
        await auth.users.create_user("ann", "ann@shop.example", PASSWORD)
        yield auth


async def run(
    auth: Auth,
    clock: FrozenClock,
    show: Callable[[DeviceCode], object] = lambda code: None,
    *,
    lost: int = 0,
    client_id: str = "cli",
    base_url: str = SITE,
    **options: Any,
) -> tuple[str, list[float]]:
    """Returns the token, and how long the command line waited each time."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        clock.tick(seconds)

    with httpx.Client(transport=Bridge(make_app(auth), lost=lost)) as client:
        call = functools.partial(log_in, base_url, client_id, show=show, client=client, sleep=sleep, **options)
        return await asyncio.to_thread(call), waits


def decide_at_once(auth: Auth, decision: str) -> Callable[[DeviceCode], object]:
    loop = asyncio.get_running_loop()

    async def with_browser(user_code: str) -> None:
        user = await auth.users.get_by_username("ann")
        async with client_of(make_app(auth)) as browser:
            await log_in_with_browser(browser, user, auth)
            await decide(browser, user_code, decision)

    return lambda code: asyncio.run_coroutine_threadsafe(with_browser(code.user_code), loop).result()


async def test_a_command_line_gets_a_token(auth: Auth, clock: FrozenClock) -> None:
    token, waits = await run(auth, clock, decide_at_once(auth, "approve"))
    assert waits == [5]
    app = make_app(auth, Route("/mine", mine))
    app.state.auth = auth
    async with client_of(app, headers=bearer(token)) as client:
        assert (await client.get("/mine")).json()["username"] == "ann"


async def test_a_lost_network_doubles_the_interval(auth: Auth, clock: FrozenClock) -> None:
    token, waits = await run(auth, clock, decide_at_once(auth, "approve"), lost=2)
    assert token.startswith("shop_")
    assert waits == [5, 10, 20]


async def test_a_refusal_ends_the_login(auth: Auth, clock: FrozenClock) -> None:
    with pytest.raises(DeviceLoginFailed) as caught:
        await run(auth, clock, decide_at_once(auth, "refuse"))
    assert caught.value.code == "access_denied"


async def test_a_code_on_which_no_user_decides_expires(auth: Auth, clock: FrozenClock) -> None:
    shown: list[DeviceCode] = []
    with pytest.raises(DeviceLoginFailed) as caught:
        await run(auth, clock, shown.append)
    assert caught.value.code == "expired_token"
    assert (shown[0].url, shown[0].expires_in) == ("http://localhost/accounts/device", 900)


async def test_an_early_question_makes_it_slower(auth: Auth) -> None:
    # The clock of the site stands still, so each question after the first is too early.
    waits: list[float] = []
    with httpx.Client(transport=Bridge(make_app(auth))) as client:
        call = functools.partial(log_in, SITE, "cli", show=lambda code: None, client=client, sleep=waits.append)
        with pytest.raises(DeviceLoginFailed, match="expired_token"):
            await asyncio.to_thread(call)
    assert waits[:4] == [5, 5, 10, 15]


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ({"client_id": "other"}, "invalid_client"),
        ({"base_url": "http://localhost/elsewhere"}, "invalid_response"),
        ({"scopes": ['a"b']}, "invalid_scope"),
    ],
)
async def test_the_site_refuses(auth: Auth, clock: FrozenClock, options: dict[str, Any], code: str) -> None:
    with pytest.raises(DeviceLoginFailed) as caught:
        await run(auth, clock, **options)
    assert caught.value.code == code


@pytest.mark.parametrize("url", ["http://shop.example/accounts", "shop.example", "ftp://localhost"])
def test_a_token_needs_https(url: str) -> None:
    with pytest.raises(ValueError, match="Pass an address with https"):
        log_in(url, "cli")


def test_scopes_are_a_list() -> None:
    with pytest.raises(TypeError, match="is a list"):
        log_in(SITE, "cli", scopes="shop.view_order")


def test_the_code_is_shown_on_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    show_code(DeviceCode(user_code="BCDF-GHJK", url="https://shop.example/device", complete_url="", expires_in=900))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "https://shop.example/device" in captured.err
    assert "BCDF-GHJK" in captured.err
