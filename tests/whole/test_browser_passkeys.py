"""Tests of passkeys in a real browser, whose authenticator is a virtual one: a phone or computer, or a security key.

SCREENSHOTS=folder keeps pictures of the pages.
"""

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from playwright.sync_api import Browser, CDPSession, Page, expect
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import Auth, Passkeys, TwoFactor, factor_required, middleware, migrate, routes

from ..conftest import PASSWORD, SECRET_KEY, weak_passwords
from ..support.matrix import needs_chromium
from ..support.uvicorn_server import served_in_a_thread

pytestmark = needs_chromium
DEVICE = {
    "protocol": "ctap2",
    "ctap2Version": "ctap2_1",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}
STICK = {"protocol": "u2f", "transport": "usb", "automaticPresenceSimulation": True}
SCREENSHOTS = os.environ.get("SCREENSHOTS")


async def me(request: Request) -> Response:
    name, methods = request.user.display_name, [method.name for method in request.auth.methods]
    return HTMLResponse(f"<!doctype html><title>me</title><p>{name} by {methods} level {request.auth.level}</p>")


def make_app(folder: Path, port: int) -> Starlette:
    """An application whose user ann has a password. Its base URL is known when the port is."""
    auth = Auth(
        Database(f"sqlite+aiosqlite:///{folder}/passkeys.sqlite3"),
        secret_key=SECRET_KEY,
        passwords=weak_passwords(),
        features=[TwoFactor(), Passkeys()],
        base_url=f"http://localhost:{port}",
        site_name="Shop",
        login_redirect_url="/me",
        session_limits="aal1",
    )
    keys = factor_required(phishing_resistant=True)(me)
    own = [Route("/me", me), Route("/keys", keys), Mount("/accounts", routes=routes(auth))]
    app = Starlette(routes=own, middleware=middleware(auth))
    app.state.auth = auth
    return app


class Passenger:
    """A browser profile with a virtual authenticator, and what its console said."""

    def __init__(self, browser: Browser, url: str) -> None:
        self.url = url
        self.context = browser.new_context(viewport={"width": 320, "height": 800})
        self.page: Page = self.context.new_page()
        self.page.set_default_timeout(8000)
        # The virtual authenticator answers the offer in the username field at once, without a person.
        self.page.add_init_script(
            "if (!location.hash) PublicKeyCredential.isConditionalMediationAvailable = async () => false"
        )
        self.complaints: list[str] = []
        self.posted: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self._note(request))
        self.cdp: CDPSession = self.context.new_cdp_session(self.page)
        self.cdp.send("WebAuthn.enable", {"enableUI": False})
        self.device = self.plug_in(DEVICE)

    def _note(self, request: Any) -> None:
        if request.method == "POST":
            self.posted.append(request.post_data or "")

    def plug_in(self, options: dict[str, Any]) -> str:
        added = self.cdp.send("WebAuthn.addVirtualAuthenticator", {"options": options})
        return str(added["authenticatorId"])

    def unplug(self) -> None:
        self.cdp.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": self.device})

    def credentials(self, device: str = "") -> list[Any]:
        found = self.cdp.send("WebAuthn.getCredentials", {"authenticatorId": device or self.device})
        credentials: list[Any] = found["credentials"]
        return credentials

    def put_back(self, credential: dict[str, Any]) -> None:
        """Stores a credential in the authenticator, in place of that with its ID."""
        names = {"authenticatorId": self.device, "credentialId": credential["credentialId"]}
        if self.credentials():
            self.cdp.send("WebAuthn.removeCredential", names)
        self.cdp.send("WebAuthn.addCredential", {"authenticatorId": self.device, "credential": credential})

    def go(self, path: str) -> None:
        self.page.goto(self.url + path)

    def click(self, name: str, role: Any = "button") -> None:
        self.page.get_by_role(role, name=name, exact=True).click()

    def remove(self) -> None:
        self.page.get_by_role("button", name="Remove").click()

    def log_in(self, *, then: str = "/me") -> None:
        self.go("/accounts/login")
        self.page.get_by_label("Username").fill("ann")
        self.page.get_by_label("Password", exact=True).fill(PASSWORD)
        self.click("Log in")
        self.page.wait_for_url(f"**{then}")

    def log_out(self) -> None:
        self.context.clear_cookies()
        self.page.goto("about:blank")

    def says(self, text: str) -> None:
        expect(self.page.locator("body")).to_contain_text(text)

    def picture(self, name: str) -> None:
        """Saves the page, narrow and wide, bright and dark."""
        if SCREENSHOTS is None:
            return
        for width in (320, 1280):
            for scheme in ("light", "dark"):
                self.page.set_viewport_size({"width": width, "height": 800})
                self.page.emulate_media(color_scheme=scheme)
                self.page.screenshot(path=f"{SCREENSHOTS}/{name}-{width}-{scheme}.png", full_page=True)
        self.page.set_viewport_size({"width": 320, "height": 800})


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    ports: list[int] = []
    apps: list[Starlette] = []
    lock = asyncio.Lock()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Makes the application at the first request, when its port is known."""
        if scope["type"] != "http":
            raise NotImplementedError  # uvicorn goes on without a lifespan
        async with lock:
            if not apps:
                made = make_app(tmp_path, ports[0])
                auth = made.state.auth
                await auth.database.connect()
                await migrate(auth.gateway, auth.tables)
                await auth.users.create_user("ann", "ann@example.org", PASSWORD)
                apps.append(made)
        await apps[0](scope, receive, send)

    with served_in_a_thread(app) as port:
        ports.append(port)
        yield f"http://localhost:{port}"


@pytest.fixture
def ann(chromium: Browser, url: str) -> Iterator[Passenger]:
    visitor = Passenger(chromium, url)
    yield visitor
    visitor.context.close()
    assert [text for text in visitor.complaints if "Security Policy" in text or "Error" in text] == []


def add_passkey(ann: Passenger, name: str = "Laptop") -> None:
    ann.log_in()
    ann.go("/accounts/passkeys")
    ann.click("Add a passkey", "link")
    ann.page.get_by_label("Name").fill(name)
    ann.click("Add a passkey")
    ann.page.wait_for_url("**/accounts/passkeys?done")


def test_a_passkey_is_added_used_renamed_and_removed(ann: Passenger) -> None:
    ann.log_in()
    ann.go("/accounts/passkeys")
    ann.says("You have no passkeys")
    ann.picture("passkeys-none")
    ann.click("Add a passkey", "link")
    ann.picture("passkey-add")
    ann.page.get_by_label("Name").fill("Laptop")
    ann.click("Add a passkey")
    ann.page.wait_for_url("**/accounts/passkeys?done")
    ann.says("Laptop")
    ann.picture("passkeys")
    [credential] = ann.credentials()
    assert credential["isResidentCredential"]
    ann.go("/accounts/passkeys/add")
    ann.click("Add a passkey")
    ann.says("You have added this device or security key already.")
    ann.log_out()
    ann.go("/accounts/login")
    ann.picture("login")
    ann.page.get_by_label("Stay logged in").check()
    ann.click("Log in with a passkey")
    ann.page.wait_for_url("**/me")
    ann.says("ann by ['passkey'] level 2")
    ann.go("/accounts/passkeys")
    ann.page.get_by_text("Rename").click()
    ann.page.get_by_label("New name").fill("Old laptop")
    ann.picture("passkeys-rename")
    ann.click("Save")
    ann.says("Old laptop")
    ann.remove()
    ann.says("You have no passkeys")
    ann.page.wait_for_timeout(500)
    assert ann.credentials() == []  # the browser was told


def test_the_username_field_offers_passkeys(ann: Passenger) -> None:
    add_passkey(ann)
    ann.log_out()
    ann.go("/accounts/login?next=/keys#offer")
    ann.page.wait_for_url("**/keys")
    ann.says("ann by ['passkey'] level 2")


def test_a_closed_dialog_leaves_a_message_and_the_button(ann: Passenger) -> None:
    add_passkey(ann)
    ann.log_out()
    ann.go("/accounts/login")
    settings = {"authenticatorId": ann.device, "isUserVerified": False}
    ann.cdp.send("WebAuthn.setUserVerified", settings)
    ann.click("Log in with a passkey")
    ann.says("The dialog was closed, or took too long.")
    ann.picture("login-cancelled")
    ann.cdp.send("WebAuthn.setUserVerified", {**settings, "isUserVerified": True})
    ann.click("Log in with a passkey")
    ann.page.wait_for_url("**/me")


def test_attack_28_a_copy_of_a_key_is_refused(ann: Passenger) -> None:
    add_passkey(ann)
    [credential] = ann.credentials()
    ann.put_back({**credential, "signCount": 50})
    ann.log_out()
    ann.go("/accounts/login")
    ann.click("Log in with a passkey")
    ann.page.wait_for_url("**/me")
    ann.put_back({**credential, "signCount": 0})
    ann.log_out()
    ann.go("/accounts/login")
    ann.click("Log in with a passkey")
    ann.says("This passkey was not accepted.")
    ann.picture("login-refused")
    assert len(ann.credentials()) == 1  # known, so that the browser keeps it


def test_a_forgotten_passkey_is_removed_from_the_browser(ann: Passenger, url: str) -> None:
    add_passkey(ann)
    [credential] = ann.credentials()
    ann.go("/accounts/passkeys")
    ann.remove()
    ann.says("You have no passkeys")
    ann.page.wait_for_timeout(500)
    ann.put_back(credential)
    ann.log_out()
    ann.go("/accounts/login")
    ann.click("Log in with a passkey")
    ann.says("This passkey was not accepted.")
    ann.page.wait_for_timeout(500)
    assert ann.credentials() == []


def test_a_security_key_is_the_second_step(ann: Passenger) -> None:
    ann.log_in()
    ann.unplug()
    ann.device = ann.plug_in(STICK)
    ann.go("/accounts/passkeys")
    ann.click("Add a security key for the second step", "link")
    ann.picture("key-add")
    ann.click("Add a security key")
    ann.page.wait_for_url(re.compile("/accounts/(recovery_codes|totp)"))
    ann.go("/accounts/passkeys")
    ann.says("Security key, for the second step only")
    ann.log_out()
    ann.log_in(then="/accounts/second_factor")
    ann.picture("second-step-key")
    ann.click("Use passkey or security key")
    ann.page.wait_for_url("**/me")
    ann.says("ann by ['password', 'key'] level 2")


def test_a_step_up_asks_for_the_passkey_or_leads_to_add_one(ann: Passenger) -> None:
    ann.log_in()
    ann.go("/keys")
    ann.page.wait_for_url("**/accounts/passkeys?next=%2Fkeys")
    ann.click("Add a passkey", "link")
    ann.click("Add a passkey")
    ann.page.wait_for_url("**/keys")
    ann.log_out()
    ann.log_in()
    ann.go("/keys")
    ann.picture("step-up")
    ann.click("Use passkey or security key")
    ann.page.wait_for_url("**/keys")
    ann.says("level 2")


def test_the_keyboard_is_enough(ann: Passenger) -> None:
    def tab_to(name: str) -> None:
        for _ in range(20):
            ann.page.keyboard.press("Tab")
            text = ann.page.evaluate("document.activeElement.innerText || document.activeElement.id")
            if text == name:
                return
        raise AssertionError(f"Tab does not reach {name!r}.")

    ann.log_in()
    ann.go("/accounts/passkeys/add")
    tab_to("id_name")
    ann.page.keyboard.type("Phone")
    ann.page.keyboard.press("Enter")
    ann.page.wait_for_url("**/accounts/passkeys?done")
    ann.says("Phone")
    ann.log_out()
    ann.go("/accounts/login")
    tab_to("Log in with a passkey")
    ann.page.keyboard.press("Enter")
    ann.page.wait_for_url("**/me")


def test_without_javascript_the_pages_say_what_is_missing(chromium: Browser, url: str) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{url}/accounts/login")
    # Chromium shows it to people only, not where a driver has switched off scripts.
    assert (
        '<noscript><p class="auth-note">Passkeys need JavaScript, which is off in this browser.</p>' in page.content()
    )
    expect(page.get_by_text("This browser does not support passkeys.")).to_be_hidden()
    expect(page.get_by_role("button", name="Log in with a passkey")).to_be_hidden()
    context.close()
