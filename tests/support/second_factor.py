"""The second factor of the example application's admin: added at the first login, asked for at each later one."""

import re
from typing import Any

import httpx
import pyotp

from ..conftest import token_in
from .server import Server

CODE = re.compile(r"\b(?:[0-9a-z]{4}-){5}[0-9a-z]{4}\b")  # a recovery code


def log_in_admin(client: httpx.Client, server: Server) -> None:
    """Logs in the first user, who is staff: with a new authenticator app at first, and then with a recovery code.

    A code of the app would be accepted only once in 30 seconds.
    """
    fields = {"username": "admin", "password": server.password}
    response = send_form(client, "/accounts/login", "/accounts/login", **fields)
    if response.headers.get("location") == "/accounts/enrol":
        response = add_app(client, server)
    else:
        assert (response.status_code, response.headers["location"]) == (303, "/accounts/second_factor")
        code = server.recovery_codes.pop()
        response = send_form(client, "/accounts/second_factor", "/accounts/second_factor", recovery_code=code)
    assert (response.status_code, response.headers["location"]) == (303, "/"), response.text


def add_app(client: httpx.Client, server: Server) -> httpx.Response:
    """Adds an app in a login that waits for it, and keeps the recovery codes. Returns the end of the login."""
    page = client.get("/accounts/enrol", follow_redirects=True)
    assert page.url.path == "/accounts/totp", page.text
    data = {**hidden_fields(page.text), "code": code_in(page.text)}
    made = client.post("/accounts/totp", data=data)
    server.recovery_codes = CODE.findall(made.text)
    assert len(server.recovery_codes) == 10, made.text
    return client.post("/accounts/enrol", data=hidden_fields(made.text))


def add_app_in_browser(visitor: Any) -> None:
    """Adds an app on the page to which a login has led the visitor, and keeps the recovery codes."""
    visitor.see("Add an authenticator app")
    visitor.send("Add the app", {"Code from your app": code_in(visitor.page.content())})
    visitor.see("Your recovery codes")
    visitor.server.recovery_codes = CODE.findall(visitor.page.content())
    visitor.send("I have kept them")


def log_in_admin_in_browser(visitor: Any) -> None:
    """Does what `log_in_admin` does, in a browser that shows the login page."""
    visitor.send("Log in", {"Username": "admin", "Password": visitor.server.password})
    if not visitor.server.recovery_codes:
        add_app_in_browser(visitor)
        return
    visitor.see("Second step")
    visitor.page.get_by_text("I do not have my app").click()
    visitor.send("Use the recovery code", {"Recovery code": visitor.server.recovery_codes.pop()})


def send_form(client: httpx.Client, page: str, action: str, **fields: str) -> httpx.Response:
    """Submits a form with the hidden fields of a page."""
    return client.post(action, data={**hidden_fields(client.get(page).text), **fields})


def hidden_fields(html: str) -> dict[str, str]:
    """Returns the CSRF token of a page, and the id of its login."""
    login = re.search(r'name="login"[^>]* value="([^"]+)"', html)
    return {"csrfmiddlewaretoken": token_in(html), **({"login": login[1]} if login else {})}


def code_in(html: str) -> str:
    """Returns the current code of the app for which a page shows a key."""
    match = re.search(r'<code dir="ltr">([A-Z2-7 ]+)</code>', html)
    assert match, html
    return pyotp.TOTP(match[1].replace(" ", "")).now()
