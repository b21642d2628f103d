"""Links from mails in a real browser, which leaves Strict cookies out after a click in a page of another site."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Route, expect

from ..support.matrix import needs_chromium
from ..support.server import ROOT, free_port

pytestmark = needs_chromium

PASSWORD = "eleven purple hats in a row"
APP = """
from databases import Database
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette_auth import *
from starlette_auth.features.email_change import EMAIL_CHANGE
from starlette_auth.pages.mailed_links import user_reference
from starlette_auth.security.reset_tokens import encode_uid, user_binding, user_subject

auth = Auth(
    Database("sqlite+aiosqlite:///x.sqlite3"),
    secret_key="abcdefghij" * 5,
    cookie=Cookie(samesite="strict"),
    mailer=ConsoleMailer(),
    base_url="http://127.0.0.1:PORT",
    features=[EmailChange()],
)

async def home(request):
    return PlainTextResponse(f"Hello {request.user.username or 'stranger'}")

async def ann(request):
    if not await auth.users.get_by_username("ann"):
        await auth.users.create_user("ann", "ann@example.org", "PASSWORD")
    user = await auth.users.get_by_username("ann")
    data = {**user_reference(user), "email": "new@example.org"}
    token = await auth.tokens.create(
        EMAIL_CHANGE, user_subject(user), max_age=600, binding=user_binding(user), data=data
    )
    reset = f"/accounts/reset/{encode_uid(user)}/{await auth.reset_tokens.make(user)}"
    return PlainTextResponse(f"{reset} /accounts/email_change/confirm/{token}")

app = Starlette(
    routes=[Route("/", home), Route("/ann", ann), Mount("/accounts", routes=routes(auth))],
    middleware=middleware(auth),
    lifespan=lifespan(auth, create_tables=True),
)
"""


@pytest.fixture(scope="module")
def strict_site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a site whose session cookie is Strict."""
    folder, port = tmp_path_factory.mktemp("strict"), free_port()
    (folder / "app.py").write_text(APP.replace("PORT", str(port)).replace("PASSWORD", PASSWORD))
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        _wait(folder / "log", process)
        yield url
    finally:
        process.terminate()
        process.wait(20)


def _wait(log: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        if "Application startup complete" in log.read_text():
            return
        try:
            process.wait(0.1)
        except subprocess.TimeoutExpired:
            continue
        raise AssertionError(log.read_text())
    raise AssertionError("The site does not start.")


@pytest.mark.parametrize("javascript", [False, True], ids=["without JavaScript", "with JavaScript"])
def test_links_in_a_webmail_work_with_strict_cookies(chromium: Browser, strict_site: str, javascript: bool) -> None:
    reset, confirm = httpx.get(f"{strict_site}/ann").text.split()
    context = chromium.new_context(java_script_enabled=javascript)
    page = context.new_page()

    def webmail(route: Route) -> None:
        links = f'<a href="{strict_site}{confirm}">confirm</a> <a href="{strict_site}{reset}">reset</a>'
        route.fulfill(body=f"<!doctype html><title>Mail</title>{links}", content_type="text/html")

    context.route("http://webmail.example/**", webmail)
    page.goto(f"{strict_site}/accounts/login")
    page.get_by_label("Username").fill("ann")
    page.get_by_label("Password", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Log in").click()
    expect(page.locator("body")).to_contain_text("Hello ann")
    page.goto("http://webmail.example/")
    page.get_by_text("confirm").click()
    # The page loads itself again, knows the user by then, and asks for no password.
    page.wait_for_url("**/open?reloaded")
    expect(page.get_by_label("Password", exact=True)).to_have_count(0)
    page.goto("http://webmail.example/")
    page.get_by_text("reset").click()
    page.wait_for_url("**/set-password?reloaded")
    for label in ("New password", "New password, once more"):
        page.get_by_label(label, exact=True).fill(PASSWORD)
    page.get_by_role("button", name="Save the password").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Your new password has been saved")
    context.close()
