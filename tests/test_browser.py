"""The example application in a real browser, without JavaScript."""

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from .conftest import IN_CI
from .server import Start

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
]
pytestmark = pytest.mark.skipif(not CHROMIUM and not IN_CI, reason="needs Chromium; name it in CHROMIUM")


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Page]:
    context = chromium.new_context(java_script_enabled=False, viewport={"width": 320, "height": 640})
    yield context.new_page()
    context.close()


def test_logging_in_and_out_as_a_stranger_does(visitor: Page, start: Start) -> None:
    server = start()
    asked: list[str] = []
    visitor.on("request", lambda request: asked.append(request.url))
    visitor.goto(f"{server.url}/me")
    expect(visitor).to_have_url(f"{server.url}/accounts/login?next=%2Fme")
    visitor.get_by_label("Username").fill("admin")
    visitor.get_by_label("Password").fill("not the password")
    visitor.get_by_role("button", name="Log in").click()
    expect(visitor.get_by_role("alert")).to_contain_text("Please enter a correct username and password.")
    expect(visitor.get_by_label("Password")).to_have_value("")
    expect(visitor.get_by_label("Username")).to_have_value("admin")
    visitor.get_by_label("Password").fill(server.password)
    visitor.get_by_label("Password").press("Enter")
    expect(visitor).to_have_url(f"{server.url}/me")
    cookies = {cookie["name"]: cookie for cookie in visitor.context.cookies()}
    assert cookies["session"]["httpOnly"]
    assert cookies["session"]["sameSite"] == "Lax"
    visitor.get_by_role("button", name="Log out").first.click()
    expect(visitor.get_by_role("heading", name="You are logged out")).to_be_visible()
    assert "session" not in {cookie["name"] for cookie in visitor.context.cookies()}
    visitor.goto(f"{server.url}/me")
    expect(visitor).to_have_url(re.compile("/accounts/login"))
    assert all(url.startswith(server.url) for url in asked)
    assert all(server.password not in url for url in asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 1280])
def test_no_page_is_wider_than_the_window(
    chromium: Browser, start: Start, tmp_path: Path, scheme: str, width: int
) -> None:
    server = start()
    context = chromium.new_context(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": 800}
    )
    page = context.new_page()
    for path in ("/", "/accounts/login", "/accounts/logged_out", "/nowhere"):
        page.goto(server.url + path)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3])
        assert (brightness < 3 * 128) is (scheme == "dark")
    context.close()
