"""Somebody in front of a browser, of whom everything is written down."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, Response, Route, expect, sync_playwright

from starlette_auth.http.headers import HEADERS, POLICY

from .matrix import CHROMIUM
from .server import Mail, Server

FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
SCREENSHOTS = os.environ.get("SCREENSHOTS")  # a folder: each page that is looked at is kept there as a picture
AXE = (
    "axe.run({resultTypes: ['violations'], rules: {'target-size': {enabled: true}}}).then((found) => found.violations)"
)
# A 404 or a 422 is meant. And where a mail is opened in another browser, a password is asked for without a name beside it,
# which may be one that a stranger chose.
MEANT = re.compile("the server responded with a status of|Password forms should have .* username fields")
HARD_TO_HIT = """() => [...document.querySelectorAll(".auth-links a, .auth-button, .auth-field input, button")]
    .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < (e.type === "checkbox" ? 24 : 36))
    .map((e) => e.outerHTML)"""


def launched() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


class Seen(NamedTuple):
    url: str
    title: str
    html: str

    @property
    def shape(self) -> tuple[str, ...]:
        """The same for pages that differ only in what people have chosen."""
        return (self.title, *re.findall(r"<[a-z0-9]+", self.html))


class Visitor:
    """Fills in forms by what they say, and keeps all that the browser was told, and all that it asked for."""

    def __init__(self, browser: Browser, server: Server, *, javascript: bool, locale: str) -> None:
        self.server = server
        self.context = browser.new_context(
            java_script_enabled=javascript, locale=locale, viewport={"width": 320, "height": 800}
        )
        self.requests: list[Request] = []
        self.responses: list[Response] = []
        self.complaints: list[str] = []
        self.pages: list[Seen] = []
        self.passwords: set[str] = set()
        self.followed: list[Mail] = []
        self.allowed = [f"{server.url}/"]
        self.context.on("request", lambda request: self.requests.append(request))
        self.context.on("response", lambda response: self.responses.append(response))
        self.context.on("console", self._complain)
        self.page = self.context.new_page()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def go(self, path: str) -> None:
        self.page.goto(self.server.url + path)

    def follow(self, mail: Mail) -> None:
        self.followed.append(mail)
        self.page.goto(mail.link)

    def fill(self, fields: Mapping[str, str]) -> None:
        """By their labels."""
        for label, value in fields.items():
            field = self.page.get_by_label(label, exact=True)
            if value and field.get_attribute("type") == "password":
                self.passwords.add(value)
            field.fill(value)

    def send(self, button: str, fields: Mapping[str, str] | None = None) -> None:
        self.fill(fields or {})
        self.page.get_by_role("button", name=button, exact=True).click()

    def click(self, link: str) -> None:
        self.page.get_by_role("link", name=link, exact=True).click()

    def see(self, heading: str, *errors: str) -> None:
        """The page of this heading, on which these errors, and no others, are told first, and have the focus."""
        expect(self.page.get_by_role("heading", level=1)).to_have_text(heading)
        alert = self.page.get_by_role("alert")
        if errors:
            expect(alert.get_by_role("listitem")).to_have_text([re.compile(re.escape(error)) for error in errors])
            expect(alert).to_be_focused()
        else:
            expect(alert).to_have_count(0)
        assert urlsplit(self.page.url).netloc == urlsplit(self.server.url).netloc
        self.note()
        assert self.pages[-1].title.startswith(("Error: ", "Fehler: ")) is bool(errors)

    def note(self) -> None:
        title = self.page.title().rpartition(" · ")[0]
        self.pages.append(Seen(self.page.url, title, self.page.content()))

    def holds(self, fields: Mapping[str, str]) -> None:
        for label, value in fields.items():
            expect(self.page.get_by_label(label, exact=True)).to_have_value(value)

    def leaks(self) -> list[str]:
        """Each place at which something stands that should stay between this browser and the server."""
        tokens = {mail.token for mail in self.followed if mail.token}
        secrets = {*self.passwords, *tokens, *self._cookies()}
        links = Counter(mail.link for mail in self.followed if mail.token)
        asked = Counter(request.url for request in self.requests)
        found = [f"{url} is opened again" for url in links if asked[url] > links[url]]
        for place, text in (
            *(("the log", line) for line in self.server.log_without_mails.splitlines()),
            *(("a URL", url) for url in asked if url not in links),
            *(("a Referer", request.all_headers().get("referer", "")) for request in self.requests),
            *((f"the page {seen.title!r}", seen.html) for seen in self.pages),
        ):
            found += [f"{secret} in {place}: {text[:300]}" for secret in secrets if secret in text]
        return found

    def strangers(self) -> list[str]:
        """What was asked of somebody else."""
        return [request.url for request in self.requests if not request.url.startswith(tuple(self.allowed))]

    def unguarded(self) -> list[str]:
        """The account pages that came without a header of those that all have."""
        wanted = {**HEADERS, "Content-Security-Policy": POLICY.format("'self'")}
        found = []
        for response in self.responses:
            if "/accounts/" in response.url and not re.search(r"/auth(_passkeys)?\.", response.url):
                headers = response.headers
                found += [f"{response.url}: {name}" for name in wanted if headers.get(name.lower()) != wanted[name]]
        return found

    def _cookies(self) -> set[str]:
        lines = [line for answer in self.responses for line in answer.all_headers().get("set-cookie", "").split("\n")]
        return {line.split(";")[0].partition("=")[2] for line in lines} - {""}

    def _complain(self, message: ConsoleMessage) -> None:
        if not MEANT.search(message.text):
            self.complaints.append(message.text)


def look_at(browser: Browser, pages: Iterable[Seen]) -> list[str]:
    """What is wrong with how pages look, bright and dark, narrow and wide. They are opened once more, as they were."""
    found: list[str] = []
    pages = list(pages)
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme="dark" if scheme == "dark" else "light")
        page = context.new_page()
        page.on("console", lambda message: None if MEANT.search(message.text) else found.append(message.text))
        for seen in pages:
            context.unroute_all()
            context.route("**/*", _showing(seen))
            page.goto(seen.url)
            found.extend(f"{seen.title} in {scheme}: {fault}" for fault in _faults(page, scheme, seen))
        context.close()
    return found


def _showing(seen: Seen) -> Any:
    def answer(route: Route) -> None:
        if route.request.resource_type != "document":
            route.continue_()
            return
        if route.request.method == "POST":  # one page sends its form by itself
            route.fulfill(status=204)
            return
        policy = POLICY.format("'self'") if 'class="auth"' in seen.html else "script-src 'none'"
        headers = {"content-type": "text/html; charset=utf-8", "content-security-policy": policy}
        route.fulfill(body=seen.html, headers=headers)

    return answer


def _faults(page: Page, scheme: str, seen: Seen) -> Iterator[str]:
    page.evaluate(Axe().axe_script)
    for width in (320, 1280):
        page.set_viewport_size({"width": width, "height": 800})
        for violation in page.evaluate(AXE):
            yield f"at {width}: {violation['id']} {[node['html'] for node in violation['nodes']]}"
        if page.evaluate("document.documentElement.scrollWidth") > width:
            yield f"wider than {width}"
        if SCREENSHOTS:
            name = re.sub(r"\W+", "-", seen.title).lower()
            number = len(seen.shape)
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}-{number}-{scheme}-{width}.png", full_page=True)
    yield from (f"hard to hit: {element}" for element in page.evaluate(HARD_TO_HIT))
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3])
    if (brightness < 3 * 128) is not (scheme == "dark"):
        yield f"is {background}"
