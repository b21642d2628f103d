"""Makes the pictures of the pages in the guide `pages.md`: `python -m tests.support.screenshots`.

Each picture shows a page of a real application in light and in dark mode. Needs Chromium.
"""

import asyncio
import base64
import contextlib
import re
import sys
import tempfile
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
from databases import Database
from playwright.sync_api import Browser, Route, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount

from starlette_auth import (
    ActiveSessions,
    Auth,
    EmailChange,
    Mailer,
    Registration,
    TwoFactor,
    lifespan,
    middleware,
    migrate,
    routes,
)
from starlette_auth.core.templating import ASSETS

from .browser import FLAGS
from .matrix import CHROMIUM
from .second_factor import code_in
from .server import ROOT

FOLDER = ROOT / "example_app" / "guides" / "images"
SITE = "https://shop.example"
PASSWORD, WRONG = "seven quiet otters", "no otters at all"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:150.0) Gecko/20100101 Firefox/150.0"
IPHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/19.0 "
    "Mobile/15E148 Safari/604.1"
)
WIDTH = 420  # pixels of one page; a picture shows two


class Inbox(Mailer):
    """Keeps the mails."""

    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def send(self, message: EmailMessage) -> None:
        self.mails.append(message)

    def link(self) -> str:
        """Returns the link of the last mail."""
        body = self.mails[-1].get_body(("plain",))
        assert body is not None
        links: list[str] = re.findall(rf"{SITE}/\S+/\S+", body.get_content())
        return links[0]


class Shop:
    """An application with all account pages, and browsers that open them."""

    def __init__(self, auth: Auth[Any], app: Starlette, inbox: Inbox, language: str) -> None:
        self.auth, self.app, self.inbox, self.language = auth, app, inbox, language
        self.pages: dict[str, str] = {}

    def browser(self, agent: str = FIREFOX, address: str = "192.0.2.7") -> httpx.AsyncClient:
        headers = {"user-agent": agent, "sec-fetch-site": "same-origin", "accept-language": self.language}
        transport = httpx.ASGITransport(app=self.app, client=(address, 1))
        return httpx.AsyncClient(
            transport=transport, base_url=SITE, headers={**headers, "accept": "text/html"}, follow_redirects=True
        )

    async def keep(self, name: str, browser: httpx.AsyncClient, url: str, **fields: str) -> None:
        """Opens a page, or submits its form, and keeps the page that comes."""
        url = url if url.startswith(SITE) else f"/accounts/{url}"
        response = await (browser.post(url, data=fields) if fields else browser.get(url))
        await self.auth.mail_queue.drain()
        self.pages[name] = response.text


@contextlib.asynccontextmanager
async def open_shop(folder: str, language: str, options: dict[str, Any]) -> AsyncIterator[Shop]:
    inbox = Inbox()
    auth = Auth(
        Database(f"sqlite+aiosqlite:///{folder}/shop.sqlite3"),
        secret_key="a-key-of-forty-characters-0123456789-abc",
        site_name="Shop",
        mailer=inbox,
        base_url=SITE,
        from_email="accounts@shop.example",
        features=[Registration(), EmailChange(), ActiveSessions(), TwoFactor()],
        languages=[language],
        login_redirect_url="/",
        notices=False,
        **options,
    )
    app = Starlette(
        routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth), lifespan=lifespan(auth)
    )
    async with app.router.lifespan_context(app):
        await migrate(auth.gateway, auth.tables)
        for name in ("ann", "zoe"):
            await auth.users.create_user(name, f"{name}@example.org", PASSWORD)
        yield Shop(auth, app, inbox, language)


async def visit_pages(shop: Shop) -> None:
    """Opens the pages as users do: with a login, with errors, and with the links in mails."""
    new, twice = "new_password1", "new_password2"
    async with shop.browser() as ann, shop.browser(IPHONE, "198.51.100.20") as phone, shop.browser() as eve:
        await shop.keep("login", ann, "login")
        await shop.keep("login-errors", ann, "login", username="ann", password=WRONG)
        await shop.keep("register", eve, "register")
        filled = {"username": "eve?", "email": "eve at home", "password1": "password12", "password2": "other"}
        await shop.keep("register-errors", eve, "register", **filled)
        filled = {"username": "eve", "email": "eve@example.org", "password1": PASSWORD, "password2": PASSWORD}
        await shop.keep("register-done", eve, "register", **filled)
        await shop.keep("register-confirm", ann, shop.inbox.link())
        await shop.keep("register-confirm-here", eve, shop.inbox.link())
        await shop.keep("register-complete", eve, "register/complete")
        await shop.keep("register-resend", eve, "register/resend")
        await shop.keep("password-reset", ann, "password_reset")
        await shop.keep("password-reset-done", ann, "password_reset", email="ann@example.org")
        link = shop.inbox.link()
        await shop.keep("password-reset-confirm", ann, link)
        await shop.keep("password-reset-complete", ann, "reset/done")
        await shop.keep("link-used", ann, link[:-3])
        await shop.keep("logged-out", ann, "logged_out")
        for browser in (phone, ann):
            await browser.post("/accounts/login", data={"username": "ann", "password": PASSWORD})
        await shop.keep("sessions", ann, "sessions")
        await shop.keep("password-change", ann, "password_change")
        wrong = {"old_password": WRONG, new: "ann", twice: "anna"}
        await shop.keep("password-change-errors", ann, "password_change", **wrong)
        await shop.keep("password-change-done", ann, "password_change/done")
        await shop.keep("email-change", ann, "email_change")
        wrong = {"email": "ann at work", "old_password": WRONG}
        await shop.keep("email-change-errors", ann, "email_change", **wrong)
        filled = {"email": "ann@shop.example", "old_password": PASSWORD}
        await shop.keep("email-change-done", ann, "email_change", **filled)
        await shop.keep("email-change-confirm", ann, shop.inbox.link())
        await shop.keep("reauthenticate", ann, "reauthenticate")
        await shop.keep("login-again", ann, "login")
        await shop.keep("logout", ann, "logout")
        await shop.keep("still-logged-in", ann, "logged_out")
        await shop.keep("error", ann, "sessions/end", session="")
        for _ in range(6):
            filled = {"username": "eve", "password": WRONG, "remember": "on"}
            await shop.keep("too-many-attempts", eve, "login", **filled)


async def visit_second_factor(shop: Shop) -> None:
    """Opens the pages of a user who adds an authenticator app, and logs in with it."""
    login = {"username": "zoe", "password": PASSWORD}
    async with shop.browser() as zoe:
        await zoe.post("/accounts/login", data=login)
        await shop.keep("totp", zoe, "totp")
        await shop.keep("recovery-codes", zoe, "totp", code=code_in(shop.pages["totp"]))
        await shop.keep("totp-status", zoe, "totp")
        await zoe.post("/accounts/logout")
        await shop.keep("second-factor", zoe, "login", **login)


def collect(language: str = "en", **options: Any) -> dict[str, str]:
    """Returns the HTML of each page, by the name of its picture."""

    async def run() -> dict[str, str]:
        with tempfile.TemporaryDirectory() as folder:
            async with open_shop(folder, language, options) as shop:
                await visit_pages(shop)
                await visit_second_factor(shop)
                return shop.pages

    return asyncio.run(run())


def photograph(browser: Browser, html: str, scheme: Any, width: int = WIDTH) -> bytes:
    """Returns a PNG of the page. The browser gets the style sheet and the script from the package."""

    def serve(route: Route) -> None:
        name = Path(route.request.url.partition("?")[0]).name
        if name in ASSETS:
            route.fulfill(body=ASSETS[name], content_type="text/css" if name == "auth.css" else "text/javascript")
        else:
            route.fulfill(body=html, content_type="text/html; charset=utf-8")

    context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 300})
    try:
        page = context.new_page()
        page.route("**/*", serve)
        page.goto(f"{SITE}/accounts/login")
        return page.screenshot(full_page=True)
    finally:
        context.close()


def side_by_side(browser: Browser, pictures: list[bytes]) -> bytes:
    """Returns a WebP of pictures next to each other."""
    urls = ["data:image/png;base64," + base64.b64encode(picture).decode() for picture in pictures]
    page = browser.new_page(viewport={"width": WIDTH * len(urls), "height": 300})
    images = "".join(f'<img src="{url}" style="display: block">' for url in urls)
    page.set_content(
        f'<!doctype html><body style="margin: 0; display: flex; align-items: start; width: max-content">{images}</body>'
    )
    size = page.evaluate("[document.body.scrollWidth, document.body.scrollHeight]")
    session = page.context.new_cdp_session(page)
    clip = {"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1}
    options = {"format": "webp", "quality": 60, "clip": clip, "captureBeyondViewport": True}
    image = session.send("Page.captureScreenshot", options)
    page.close()
    return base64.b64decode(image["data"])


def main(folder: Path = FOLDER) -> None:
    folder.mkdir(exist_ok=True)
    pages = collect()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for name, html in pages.items():
            pictures = [photograph(browser, html, scheme) for scheme in ("light", "dark")]
            (folder / f"{name}.webp").write_bytes(side_by_side(browser, pictures))
        browser.close()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
