"""The kinds of clients times the kinds of refusals: curl, requests, httpx, and Chromium with htmx 1.9, 2 and 4."""

import contextlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import quote

import httpx
import pytest
from databases import Database
from playwright.sync_api import Browser, Page, expect
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket

from starlette_auth import (
    Auth,
    MemoryStore,
    RedisStore,
    authenticate,
    fresh_login_required,
    get_auth,
    lifespan,
    login_not_required,
    login_required,
    middleware,
    permission_required,
    routes,
)
from starlette_auth.testing import FrozenClock

from ..conftest import PASSWORD, weak_passwords
from ..support.htmx import htmx_source
from ..support.matrix import IN_CI, needs_chromium
from ..support.server import free_port
from ..support.uvicorn_server import served_in_a_thread

PROBLEM = "application/problem+json"
PART_OF_PAGE = ("image", "script", "style", "font", "audio", "video", "track", "object", "embed")
HTMX_VERSIONS = ("1.9", "2", "4")


# The site


@login_required
async def members(request: Request) -> Response:
    return PlainTextResponse("members")


@permission_required("shop.view_order")
async def orders(request: Request) -> Response:
    return PlainTextResponse("orders")


@fresh_login_required(max_age=300)
async def danger(request: Request) -> Response:
    return PlainTextResponse("danger")


async def throttled(request: Request) -> Response:
    user = await authenticate(request, username="eve", password="wrong password")
    return PlainTextResponse("right" if user else "wrong", 404)


async def interrupted(request: Request) -> Response:
    """Ends its own session behind its back, and changes it."""
    request.session["changed"] = True
    await get_auth(request).sessions.delete(str(request.session.session_key))  # type: ignore[attr-defined]
    return PlainTextResponse("interrupted")


@login_required
async def socket(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.send_text("members")
    await websocket.close()


async def shop(request: Request) -> Response:
    """A page with a part of each kind, which JavaScript of the test starts."""
    version = request.query_params.get("htmx", "")
    script = f"<script src='/htmx-{version}.js'></script>" if version else ""
    path = request.query_params.get("path", "/members")
    return HTMLResponse(
        f"""<!doctype html><title>Shop</title>{script}<h1>Shop</h1><div id=target>empty</div>
        <button id=get hx-get="{path}" hx-target="#target">Get</button>
        <button id=post hx-post="{path}" hx-target="#target">Post</button>
        <a id=boosted href="{path}" hx-boost="true">Boosted</a>
        <form id=form method=post action="{path}"><button id=send>Send</button></form>"""
    )


def make_app(auth: Auth, scripts: dict[str, str], *more: Middleware) -> Starlette:
    async def script(request: Request) -> Response:
        return PlainTextResponse(scripts[request.path_params["version"]], media_type="text/javascript")

    async def make_users(request: Request) -> Response:
        for name in ("ann", "eve"):
            await auth.users.create_user(name, password=PASSWORD)
        return PlainTextResponse("made")

    return Starlette(
        routes=[
            Route("/members", members, methods=["GET", "POST"]),
            Route("/orders", orders, methods=["GET", "POST"]),
            Route("/danger", danger, methods=["GET", "POST"]),
            Route("/throttled", throttled, methods=["GET", "POST"]),
            Route("/interrupted", interrupted, methods=["GET", "POST"]),
            Route("/shop", shop),
            Route("/htmx-{version}.js", script),
            Route("/make", login_not_required(make_users)),
            WebSocketRoute("/socket", socket),
            Mount("/accounts", routes=routes(auth)),
        ],
        middleware=[*more, *middleware(auth)],
        lifespan=lifespan(auth, create_tables=True),
    )


class RecordRequests:
    """Keeps the method and path of each request, with its headers."""

    def __init__(self, app: ASGIApp, log: list[tuple[str, dict[str, str]]]) -> None:
        self.app = app
        self.log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
            self.log.append((f"{scope['method']} {scope['path']}", headers))
        await self.app(scope, receive, send)


class Site(NamedTuple):
    url: str
    without_redis: str  # the same site, whose sessions are in a Redis that is not there
    clock: FrozenClock
    log: list[tuple[str, dict[str, str]]]
    scripts: dict[str, str]

    def url_of(self, path: str) -> str:
        return f"{self.without_redis if path == '/unavailable' else self.url}{path.replace('/unavailable', '/members')}"

    @contextlib.contextmanager
    def later(self, seconds: float) -> Iterator[None]:
        self.clock.tick(seconds)
        try:
            yield
        finally:
            self.clock.tick(-seconds)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder, clock = tmp_path_factory.mktemp("site"), FrozenClock()
    scripts: dict[str, str] = {}
    log: list[tuple[str, dict[str, str]]] = []
    options: dict[str, Any] = {"secret_key": "k9w3" * 13, "clock": clock, "passwords": weak_passwords()}

    def database() -> Database:
        return Database(f"sqlite+aiosqlite:///{folder}/x.sqlite3")

    auth = Auth(database(), sessions=MemoryStore(clock=clock), **options)
    gone = RedisStore(f"redis://127.0.0.1:{free_port()}", prefix="x:", clock=clock)
    app = make_app(auth, scripts, Middleware(RecordRequests, log=log))
    without_redis = make_app(Auth(database(), sessions=gone, **options), scripts)
    with served_in_a_thread(app) as port, served_in_a_thread(without_redis) as other_port:
        url = f"http://127.0.0.1:{port}"
        httpx.get(f"{url}/make").raise_for_status()
        for _ in range(5):
            assert httpx.get(f"{url}/throttled", headers={"accept": "*/*"}).status_code == 404
        yield Site(url, f"http://127.0.0.1:{other_port}", clock, log, scripts)


def log_in(site: Site) -> str:
    """Returns the Cookie header of ann."""
    with httpx.Client(base_url=site.url) as client:
        response = client.post("/accounts/login", json={"username": "ann", "password": PASSWORD})
        assert response.status_code == 200, response.text
        return "; ".join(f"{name}={value}" for name, value in client.cookies.items())


# Programs, and what browsers send


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str


def by_curl(method: str, url: str, headers: dict[str, str]) -> Answer:
    assert shutil.which("curl"), "curl is missing"
    options = [
        option for name, value in headers.items() for option in ("-H", f"{name}: {value}" if value else f"{name};")
    ]
    if headers.get("accept", "x") == "":
        options += ["-H", "accept:"]
    command = ["curl", "-sS", "-i", "--max-time", "20", "-X", method, *options, url]
    output = subprocess.run(command, check=True, capture_output=True).stdout.decode()
    head, _, body = output.partition("\r\n\r\n")
    first, *lines = head.split("\r\n")
    pairs = (line.partition(": ") for line in lines)
    return Answer(int(first.split()[1]), {name.lower(): value for name, _, value in pairs}, body)


def by_httpx(method: str, url: str, headers: dict[str, str]) -> Answer:
    response = httpx.request(method, url, headers=headers)
    return Answer(response.status_code, dict(response.headers), response.text)


def by_requests(method: str, url: str, headers: dict[str, str]) -> Answer:
    requests: Any = pytest.importorskip("requests") if not IN_CI else __import__("requests")
    response = requests.request(method, url, headers=headers, allow_redirects=False, timeout=20)
    pairs = {name.lower(): value for name, value in response.headers.items()}
    return Answer(response.status_code, pairs, response.text)


PROGRAMS = {"curl": by_curl, "httpx": by_httpx, "requests": by_requests}
#: What clients send by themselves, and what browsers send, by the rows of the table.
KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "nothing": ("program", {}),
    "bearer": ("bearer", {"authorization": "Bearer abc"}),
    "htmx": ("htmx", {"hx-request": "true", "hx-current-url": "{url}/shop?page=2", "sec-fetch-mode": "cors"}),
    "navigation": ("page", {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document", "accept": "text/html"}),
    "iframe": ("page", {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe", "accept": "text/html"}),
    "old browser": ("page", {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}),
    **{f"<{name}>": ("part", {"sec-fetch-mode": "no-cors", "sec-fetch-dest": name}) for name in PART_OF_PAGE},
    "fetch": ("program", {"sec-fetch-mode": "cors", "sec-fetch-dest": "empty", "accept": "text/html"}),
    "JSON": ("program", {"accept": "application/json"}),
    "jQuery": ("program", {"x-requested-with": "XMLHttpRequest", "accept": "text/html"}),
    "event stream": ("program", {"accept": "text/event-stream"}),
}
#: By the paths: the status for programs, the code, and whether the visitor is logged in.
REFUSALS: dict[str, tuple[int, str, bool]] = {
    "GET /members": (401, "not_authenticated", False),
    "GET /orders": (403, "permission_denied", True),
    "GET /danger": (403, "login_too_old", True),
    "POST /members": (403, "csrf_failed", True),
    "GET /interrupted": (400, "session_ended", True),
    "GET /throttled": (429, "throttled", False),
    "GET /unavailable": (503, "unavailable", True),
}


def check_answer(kind: str, refusal: str, answer: Answer) -> None:
    """Checks one field of the table."""
    status, code, _ = REFUSALS[refusal]
    headers, page = answer.headers, {"login_too_old": "reauthenticate", "not_authenticated": "login"}.get(code)
    assert "no-store" in headers["cache-control"]
    assert ("retry-after" in headers) == (status in (429, 503))
    if kind == "page" and page:
        assert (answer.status, answer.text) == (303, "")
        assert headers["location"] == f"/accounts/{page}?next={quote(refusal.split()[1], '')}"
    elif kind == "page":
        assert answer.status == status
        assert "<h1>" in answer.text
        assert headers["x-frame-options"] == "DENY"
    elif kind == "htmx" and page:
        assert (answer.status, answer.text) == (401, "")
        assert headers["hx-redirect"] == f"/accounts/{page}?next=%2Fshop%3Fpage%3D2"
    elif kind == "htmx":
        assert answer.status == status
        assert answer.text.startswith("<p>")
        assert answer.text.endswith("</p>")
        assert "hx-redirect" not in headers
    elif kind == "part":
        assert (answer.status, answer.text) == (status, "")
    else:
        assert answer.status == (401 if kind == "bearer" and code == "login_too_old" else status)
        assert headers["content-type"] == PROBLEM
        problem = json.loads(answer.text)
        assert (problem["type"], problem["status"], problem["code"]) == ("about:blank", answer.status, code)
        if page:
            assert problem[page] == f"/accounts/{page}"
    challenges = {
        ("bearer", "not_authenticated"): 'Bearer realm="account", error="invalid_token"',
        ("bearer", "permission_denied"): 'Bearer realm="account", error="insufficient_scope", scope="shop.view_order"',
        ("bearer", "login_too_old"): 'Bearer realm="account", error="insufficient_user_authentication", max_age="300"',
    }
    usual = 'Cookie realm="account"' if answer.status == 401 else None
    assert headers.get("www-authenticate") == challenges.get((kind, code), usual)
    assert kind == "page" or "location" not in headers


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_get_what_the_table_says(site: Site, program: str, refusal: str) -> None:
    method, path = refusal.split()
    _, code, is_logged_in = REFUSALS[refusal]
    kinds = KINDS if program == "httpx" else dict(list(KINDS.items())[:7])
    cookie = log_in(site) if is_logged_in else ""
    for name, (kind, sent) in kinds.items():
        if code == "csrf_failed" and kind == "bearer":
            continue  # no page of another site can send the header
        if code == "session_ended":
            cookie = log_in(site)
        headers = {key: value.format(url=site.url) for key, value in sent.items()} | (
            {"cookie": cookie} if cookie else {}
        )
        if code == "csrf_failed":
            headers["origin"] = "https://evil.example"
        with site.later(301 if code == "login_too_old" else 0):
            answer = PROGRAMS[program](method, site.url_of(path), headers)
        try:
            check_answer(kind, refusal, answer)
        except (AssertionError, KeyError) as error:
            raise AssertionError(f"{name}: {answer}") from error


# A browser


@pytest.fixture
def page(chromium: Browser, site: Site) -> Iterator[Page]:
    context = chromium.new_context(base_url=site.url)
    context.set_default_timeout(10_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def user_page(page: Page, site: Site) -> Page:
    """A page in a browser in which ann is logged in."""
    pairs = [pair.partition("=") for pair in log_in(site).split("; ")]
    page.context.add_cookies([{"name": name, "value": value, "url": site.url} for name, _, value in pairs])
    return page


def enter_login(page: Page) -> None:
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Log in", exact=True).click()


def requests_since(site: Site, number: int) -> list[str]:
    return [name for name, _ in site.log[number:] if not name.endswith((".css", ".js", "/favicon.ico"))]


@needs_chromium
def test_a_visitor_who_opens_a_page_logs_in_and_is_there(page: Page, site: Site) -> None:
    page.goto("/members?a=1")
    expect(page).to_have_url(f"{site.url}/accounts/login?next=%2Fmembers%3Fa%3D1")
    enter_login(page)
    expect(page).to_have_url(f"{site.url}/members?a=1")
    expect(page.locator("body")).to_have_text("members")


@needs_chromium
def test_a_visitor_who_sends_a_form_logs_in_and_is_back_at_the_form(page: Page, site: Site) -> None:
    page.goto("/shop?a=1")
    page.click("#send")
    expect(page).to_have_url(f"{site.url}/accounts/login?next=%2Fshop%3Fa%3D1")
    enter_login(page)
    expect(page).to_have_url(f"{site.url}/shop?a=1")


@needs_chromium
@pytest.mark.parametrize("refusal", ["orders", "danger", "throttled", "interrupted", "unavailable"])
def test_a_page_says_why_it_is_refused(user_page: Page, site: Site, refusal: str) -> None:
    headings = {
        "orders": "You may not open this page",
        "danger": "Confirm that it is you",
        "throttled": "Too many attempts",
        "interrupted": "Your session has ended",
        "unavailable": "Not available at the moment",
    }
    with site.later(301 if refusal == "danger" else 0):
        user_page.goto(site.url_of(f"/{refusal}"))
        heading = user_page.get_by_role("heading", level=1)
        expect(heading).to_have_text(headings[refusal])
        if refusal == "danger":
            user_page.get_by_label("Password", exact=True).fill(PASSWORD)
            user_page.get_by_role("button", name="Confirm").click()
            expect(user_page.locator("body")).to_have_text("danger")


@needs_chromium
def test_a_form_of_another_site_is_refused(user_page: Page, site: Site) -> None:
    other = f"{site.url.replace('127.0.0.1', 'localhost')}/shop?path={site.url}/members"
    user_page.goto(other)
    user_page.click("#send")
    # The browser sends no cookie with it. The form is refused nevertheless.
    expect(user_page.get_by_role("heading", level=1)).to_have_text("Your request was not accepted")


FETCH = """async ([path, method]) => {
    const response = await fetch(path, {method});
    return [response.status, response.redirected, response.headers.get("content-type"), await response.text()];
}"""
XHR = """([path, method]) => new Promise((resolve) => {
    const request = new XMLHttpRequest();
    request.onload = () => resolve([request.status, !request.responseURL.endsWith(path),
        request.getResponseHeader("content-type"), request.responseText]);
    request.open(method, path);
    request.send();
})"""


@needs_chromium
@pytest.mark.parametrize("script", [FETCH, XHR], ids=["fetch", "XHR"])
def test_a_script_gets_a_problem(user_page: Page, page: Page, site: Site, script: str) -> None:
    page.goto("/shop")
    for path, status, code, seconds in (
        ("/orders", 403, "permission_denied", 0),
        ("/danger", 403, "login_too_old", 301),
        ("/throttled", 429, "throttled", 0),
        ("/interrupted", 400, "session_ended", 0),
        ("/members", 401, "not_authenticated", 0),  # the session is gone now
    ):
        for method in ("GET", "POST") if path != "/interrupted" else ("GET",):
            with site.later(seconds):
                result = page.evaluate(script, [path, method])
            assert result[:3] == [status, False, PROBLEM], path
            assert json.loads(result[3])["code"] == code


@needs_chromium
def test_parts_of_a_page_get_an_empty_refusal_and_no_login_page(page: Page, site: Site) -> None:
    page.goto("/shop")
    start = len(site.log)
    for name, html in {
        "image": "<img src=/members>",
        "style": "<link rel=stylesheet href=/members>",
        "audio": "<audio src=/members></audio>",
        "video": "<video src=/members></video>",
    }.items():
        with page.expect_response(f"{site.url}/members") as waited:
            page.evaluate("(html) => document.body.insertAdjacentHTML('beforeend', html)", html)
        assert waited.value.status == 401
        assert (
            waited.value.request.headers["sec-fetch-dest"] == name
            if "sec-fetch-dest" in waited.value.request.headers
            else 1
        )
    for html in ("script", "module"):
        failed = page.evaluate(
            """(type) => new Promise((resolve) => {
            const script = document.createElement("script");
            if (type === "module") script.type = type;
            [script.src, script.onerror, script.onload] = ["/members", () => resolve(true), () => resolve(false)];
            document.body.append(script);
        })""",
            html,
        )
        assert failed is True
    assert set(requests_since(site, start)) == {"GET /members"}
    assert {headers["sec-fetch-dest"] for _, headers in site.log[start:]} == {
        "image",
        "style",
        "audio",
        "video",
        "script",
    }


@needs_chromium
def test_an_iframe_shows_no_login_page(page: Page, site: Site) -> None:
    """Its request is like that of a page, but the login page may not be framed: a click could be stolen."""
    page.goto("/shop")
    with page.expect_response(lambda response: "/accounts/login" in response.url):
        page.evaluate("document.body.insertAdjacentHTML('beforeend', '<iframe src=/members></iframe>')")
    page.wait_for_timeout(300)
    assert [frame.locator("form").count() for frame in page.frames[1:]] == [0]
    expect(page).to_have_url(f"{site.url}/shop")


@needs_chromium
def test_an_event_source_stops(page: Page, site: Site) -> None:
    page.goto("/shop")
    start = len(site.log)
    state = page.evaluate(
        """() => new Promise((resolve) => {
        const source = new EventSource("/members");
        source.onerror = () => resolve(source.readyState);
    })"""
    )
    assert state == 2  # closed: it does not connect again
    page.wait_for_timeout(200)
    assert requests_since(site, start) == ["GET /members"]


@needs_chromium
def test_a_websocket_is_not_opened(page: Page, user_page: Page, site: Site) -> None:
    script = """() => new Promise((resolve) => {
        const socket = new WebSocket(`ws://${location.host}/socket`);
        socket.onmessage = (event) => resolve(event.data);
        socket.onclose = (event) => resolve(event.code);
    })"""
    page.goto("/shop")
    assert page.evaluate(script) == "members"
    page.context.clear_cookies()
    assert page.evaluate(script) == 1006  # the handshake got a response with status 401


# htmx


@pytest.fixture(params=HTMX_VERSIONS)
def version(request: pytest.FixtureRequest, site: Site) -> str:
    site.scripts[request.param] = htmx_source(request.param)
    return str(request.param)


@needs_chromium
@pytest.mark.parametrize("trigger", ["#get", "#post", "#boosted"])
def test_htmx_opens_the_login_page_and_comes_back(page: Page, site: Site, version: str, trigger: str) -> None:
    page.goto(f"/shop?htmx={version}")
    start = len(site.log)
    page.click(trigger)
    expect(page).to_have_url(f"{site.url}/accounts/login?next=%2Fshop%3Fhtmx%3D{version}")
    expect(page.get_by_role("heading", level=1)).to_have_text("Log in")  # no part of the shop is around it
    expect(page.locator("#target")).to_have_count(0)
    methods = "POST" if trigger == "#post" else "GET"
    assert requests_since(site, start)[:2] == [f"{methods} /members", "GET /accounts/login"]
    enter_login(page)
    expect(page).to_have_url(f"{site.url}/shop?htmx={version}")
    if trigger != "#boosted":
        page.click(trigger)
        expect(page.locator("#target")).to_have_text("members")


@needs_chromium
def test_htmx_asks_for_the_password_and_comes_back(user_page: Page, site: Site, version: str) -> None:
    user_page.goto(f"/shop?htmx={version}&path=/danger")
    with site.later(301):
        user_page.click("#post")
        expect(user_page.get_by_role("heading", level=1)).to_have_text("Confirm that it is you")
        user_page.get_by_label("Password", exact=True).fill(PASSWORD)
        user_page.get_by_role("button", name="Confirm").click()
        expect(user_page).to_have_url(f"{site.url}/shop?htmx={version}&path=/danger")
        user_page.click("#post")
        expect(user_page.locator("#target")).to_have_text("danger")


@needs_chromium
@pytest.mark.parametrize("path", ["/orders", "/throttled", "/interrupted"])
def test_htmx_stays_in_the_page_for_other_refusals(user_page: Page, site: Site, version: str, path: str) -> None:
    """htmx 4 shows the sentence. Earlier versions show nothing unless told to."""
    user_page.goto(f"/shop?htmx={version}&path={path}")
    with user_page.expect_response(f"{site.url}{path}") as waited:
        user_page.click("#get")
    assert waited.value.status == {"/orders": 403, "/throttled": 429, "/interrupted": 400}[path]
    user_page.wait_for_timeout(100)
    target = user_page.locator("#target")
    if version.startswith("4"):
        expect(target.locator("p")).to_have_count(1)
    else:
        expect(target).to_have_text("empty")
    expect(user_page.get_by_role("heading", level=1)).to_have_text("Shop")


@needs_chromium
def test_a_page_stays_while_redis_is_away(page: Page, site: Site, version: str) -> None:
    """The page was opened before its visitor had a session."""
    page.goto(f"{site.without_redis}/shop?htmx={version}")
    page.context.add_cookies([{"name": "session", "value": "x" * 43, "url": site.without_redis}])
    with page.expect_response(f"{site.without_redis}/members") as waited:
        page.click("#get")
    assert (waited.value.status, waited.value.headers["retry-after"]) == (503, "3")
    expect(page.locator("#target")).to_have_text(re.compile("try again|empty"))
    assert page.evaluate(FETCH, ["/members", "GET"])[:3] == [503, False, PROBLEM]
    expect(page).to_have_url(f"{site.without_redis}/shop?htmx={version}")
