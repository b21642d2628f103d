"""Tests of the example application, which runs in a separate process."""

import json
import os
import re
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from email.message import EmailMessage, Message
from email.parser import BytesParser
from email.policy import default
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message as MessageHandler

from example_app import settings
from starlette_auth.mail.messages import plain_text

from ..conftest import REDIS_URL, needs_redis, token_in
from ..support.command_line import CommandLine, code_of, end_of
from ..support.second_factor import add_app, code_in, hidden_fields, log_in_admin, send_form
from ..support.server import ROOT, Server, Start, environment, free_port
from ..support.servers import wait_until_it_listens

T = TypeVar("T")

BEN = {"username": "ben", "password": "seven quiet otters"}


def browser(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30, headers={"accept": "text/html"})


def send(client: httpx.Client, page: str, action: str, **fields: str) -> httpx.Response:
    """Submits a form with the CSRF token of a page."""
    token = token_in(client.get(page).text)
    return client.post(action, data={**fields, "csrfmiddlewaretoken": token})


def log_in(client: httpx.Client, username: str, password: str) -> None:
    response = send(client, "/accounts/login", "/accounts/login", username=username, password=password)
    assert (response.status_code, response.headers["location"]) == (303, "/")


def follow(client: httpx.Client, link: str, **fields: str) -> httpx.Response:
    """Opens the link of a mail and submits the form of its page."""
    page = client.get(link, follow_redirects=True)
    assert page.status_code == 200, page.text
    return client.post(page.url, data={**fields, "csrfmiddlewaretoken": token_in(page.text)}, follow_redirects=True)


def wait_for(find: Callable[[], T | None]) -> T:
    for _ in range(600):
        result = find()
        if result is not None:
            return result
        time.sleep(0.1)
    raise AssertionError("The expected event did not happen within a minute.")


def mail_to(server: Server, address: str, subject: str) -> str:
    """Waits for a mail on the console and returns its text."""
    pattern = rf"\nTo: {re.escape(address)}\nSubject: ([^\n]*{re.escape(subject)}[^\n]*\n.*?)\n-{{78}}\n"
    return wait_for(lambda: re.search(pattern, server.output, re.DOTALL))[1]


def link_in(mail: str) -> str:
    """Returns the link to an account page, not that to the site in the last line."""
    match = re.search(r"https?://\S+/accounts/\S+", mail)
    assert match, mail
    return match[0]


def test_notes_and_users_work_and_survive_a_restart(start: Start, tmp_path: Path) -> None:
    server = start()
    with browser(server) as admin, browser(server) as friend:
        assert "No notes yet." in admin.get("/").text
        assert admin.get("/me").headers["location"] == "/accounts/login?next=%2Fme"
        log_in_admin(admin, server)
        state = admin.get("/api/me").json()
        assert (state["is_authenticated"], state["username"], state["session"]) == (True, "admin", {})
        assert {"notes.add_note", "notes.delete_note"} <= set(state["permissions"])
        assert "_auth_user_hash" in admin.get("/me").text

        assert send(admin, "/staff", "/staff/users", **BEN).status_code == 303
        log_in(friend, **BEN)
        assert friend.get("/staff").status_code == 403
        assert send(friend, "/me", "/notes", text="Not yet").status_code == 403

        match = re.search(
            r'name="user" value="(\d+)">\s*<input type="hidden" name="wish" value="add">', bens_entry(admin)
        )
        assert match
        assert send(admin, "/staff", "/staff/writers", user=match[1], wish="add").status_code == 303
        assert send(friend, "/", "/notes", text="Otters hold hands").status_code == 303
        assert "Otters hold hands" in httpx.get(server.url).text
        assert send(friend, "/", "/notes/1/delete").status_code == 403
        assert send(admin, "/staff", "/staff/writers", user=match[1], wish="remove").status_code == 303
        assert send(friend, "/me", "/notes", text="Not any more").status_code == 403

        assert send(admin, "/", "/notes/1/delete").status_code == 303
        assert "Otters" not in admin.get("/").text
        before = dict(admin.cookies)
        assert send(admin, "/", "/accounts/logout").status_code == 303
        assert admin.get("/api/me").json()["is_authenticated"] is False
        assert httpx.get(f"{server.url}/api/me", cookies=before).json()["is_authenticated"] is False
        old = dict(friend.cookies)
    server.stop()

    again = start()
    assert "password:" not in again.output
    assert httpx.get(f"{again.url}/api/me", cookies=old).json()["username"] == "ben"
    assert stat.S_IMODE((tmp_path / ".example_secret_key").stat().st_mode) == 0o600


def bens_entry(admin: httpx.Client) -> str:
    return admin.get("/staff").text.partition("<strong>ben</strong>")[2]


def test_invalid_input_is_refused_with_a_reason(start: Start) -> None:
    server = start(SESSION_STORE="memory", SECRET_KEY="a new key that is quite long enough,an old one")
    with browser(server) as admin:
        log_in_admin(admin, server)
        for text in ("", "   ", "x" * 501, "a\x00b"):
            response = send(admin, "/", "/notes", text=text)
            assert (response.status_code, 'role="alert"' in response.text) == (422, True)
        assert send(admin, "/", "/notes", text="\r\n".join("é" * 250)).status_code == 303
        assert send(admin, "/", "/notes", text="\r\n".join("é" * 251)).status_code == 422
        assert send(admin, "/", "/notes", text="x" * 100_000).status_code == 413
        for fields in (BEN | {"username": "admin"}, BEN | {"password": "short"}, BEN | {"username": "a\x00b"}):
            assert send(admin, "/staff", "/staff/users", **fields).status_code == 422
        response = send(admin, "/staff", "/staff/users", **BEN | {"password": "short"})
        assert "This password is too short. It must contain at least 15 characters." in response.text
        response = send(admin, "/staff", "/staff/users", **BEN | {"username": "ADMIN", "email": "ben@", "password": ""})
        for reason in ("This username is taken.", "Enter a valid email address.", "This field is required."):
            assert reason in response.text
        assert re.search(
            r'<input id="id_username"[^>]* required value="ADMIN"[^>]* aria-invalid="true" ', response.text
        )
        for password in ("ben ben ben ben ben", "notes notes notes 1"):
            assert send(admin, "/staff", "/staff/users", **BEN | {"password": password}).status_code == 422
        assert send(admin, "/staff", "/staff/writers", user="999", wish="add").status_code == 404
        assert send(admin, "/staff", "/staff/writers", user="1", wish="?").status_code == 400
        for note in ("0", "9" * 12, "9" * 5000, "x", "%00", "²"):
            assert send(admin, "/", f"/notes/{note}/delete").status_code in (303, 404)
        assert admin.post("/notes", data={"text": "no token"}).status_code == 403


@pytest.mark.parametrize(
    "store",
    ["database", "cookie", "memory", *(pytest.param(store, marks=needs_redis) for store in ("redis", "cached"))],
)
def test_a_session_accepts_json_objects_only(start: Start, store: str) -> None:
    url = start(SESSION_STORE=store, REDIS_URL=REDIS_URL).url
    saved = httpx.post(f"{url}/api/session", json={"cart": [1, {"é": None}], "": 1.5})
    assert saved.json() == {"session": {"cart": [1, {"é": None}], "": 1.5}}
    assert httpx.get(f"{url}/api/me", cookies=dict(saved.cookies)).json() == {
        "is_authenticated": False,
        "username": "",
        "permissions": [],
        "session": {"cart": [1, {"é": None}], "": 1.5},
    }
    refused = [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"\xff\xfe{\x00}\x00",
        b'{"_auth_user_id": "1"}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * 30 + b"]" * 30 + b"}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
    ]
    for body in refused:
        response = httpx.post(f"{url}/api/session", content=body)
        assert (response.status_code, list(response.json())) == (400, ["detail"]), body[:40]
    assert httpx.post(f"{url}/api/session", content=b" " * 70_000).status_code == 413
    assert httpx.post(f"{url}/api/session", content=iter([b" " * 40_000] * 2)).status_code == 413
    assert httpx.post(f"{url}/api/session", json={"a": "x" * 65_530}).status_code == 413
    longest = httpx.post(f"{url}/api/session", json={"a": os.urandom(980).hex()})
    assert longest.status_code == 200


def test_errors_are_html_pages_or_json_for_the_api(start: Start) -> None:
    url = start().url
    page = httpx.get(f"{url}/nothing")
    assert (page.status_code, "Page not found" in page.text) == (404, True)
    assert httpx.get(f"{url}/api/nothing").json() == {"detail": "Not Found"}
    assert httpx.get(f"{url}/static/nothing").status_code == 404
    assert httpx.get(f"{url}/static/%00").status_code == 404
    page = httpx.get(f"{url}/notes")
    assert (page.status_code, "This page only accepts forms" in page.text) == (405, True)
    assert httpx.get(f"{url}/me/", headers={"host": "[::"}).status_code < 500
    assert "vary" not in httpx.get(f"{url}/static/style.css").headers


def test_a_visitor_registers_with_the_link_from_a_mail(start: Start, database_url: str) -> None:
    server = start(DATABASE_URL=database_url)
    fields = {
        "username": "cem",
        "email": "cem@example.org",
        "password1": "nine loud herons",
        "password2": "nine loud herons",
    }
    with browser(server) as visitor, browser(server) as elsewhere, browser(server) as admin:
        assert 'href="/accounts/register"' in visitor.get("/").text
        response = send(visitor, "/accounts/register", "/accounts/register", **fields)
        assert (response.status_code, response.headers["location"]) == (303, "/accounts/register/done")
        assert send(visitor, "/accounts/login", "/accounts/login", username="cem", password="nine loud herons").is_error
        link = link_in(mail_to(server, "cem@example.org", "Confirm your e-mail address for Notes"))
        assert link.startswith(f"{server.url}/accounts/register/confirm/")
        # A browser other than the one that registered must enter the password.
        assert follow(elsewhere, link).status_code == 422
        assert "/register/complete" in str(follow(elsewhere, link, password="nine loud herons").url)
        assert elsewhere.get(link).status_code == 404
        log_in(visitor, "cem", "nine loud herons")
        assert visitor.get("/api/me").json()["permissions"] == []
        assert send(visitor, "/me", "/notes", text="Not yet").status_code == 403
        log_in_admin(admin, server)
        match = re.search(r'name="user" value="(\d+)"', admin.get("/staff").text.partition("<strong>cem</strong>")[2])
        assert match
        assert send(admin, "/staff", "/staff/writers", user=match[1], wish="add").status_code == 303
        assert send(visitor, "/", "/notes", text="Herons stand").status_code == 303


def test_a_user_resets_a_forgotten_password(start: Start, database_url: str) -> None:
    server = start(DATABASE_URL=database_url)
    with browser(server) as admin, browser(server) as friend:
        log_in_admin(admin, server)
        fields = BEN | {"email": "ben@example.org"}
        assert send(admin, "/staff", "/staff/users", **fields).status_code == 303
        assert "Another user has this address" in send(admin, "/staff", "/staff/users", **fields).text
        page = "/accounts/password_reset"
        assert send(friend, page, page, email="unknown@example.org").headers["location"] == f"{page}/done"
        assert send(friend, page, page, email="Ben@Example.org").headers["location"] == f"{page}/done"
        link = link_in(mail_to(server, "ben@example.org", "Choose a new password"))
        passwords = {"new_password1": "eight slow badgers", "new_password2": "eight slow badgers"}
        assert str(follow(friend, link, **passwords).url).endswith("/accounts/reset/done")
        assert friend.get(link).status_code == 404
        assert send(friend, "/accounts/login", "/accounts/login", **BEN).status_code == 422
        log_in(friend, "ben", "eight slow badgers")
    assert "unknown@example.org" not in server.output


def test_staff_must_have_a_second_factor_and_other_users_may_add_one(start: Start) -> None:
    server = start()
    with browser(server) as admin, browser(server) as friend:
        fields = {"username": "admin", "password": server.password}
        response = send(admin, "/accounts/login", "/accounts/login", **fields)
        assert (response.status_code, response.headers["location"]) == (303, "/accounts/enrol")
        assert admin.get("/staff").headers["location"].startswith("/accounts/login?next=")
        assert admin.get("/api/me").json()["is_authenticated"] is False
        done = add_app(admin, server)  # without a mail: the first user has no address
        assert (done.status_code, done.headers["location"]) == (303, "/")
        assert admin.get("/staff").status_code == 200
        assert 'href="/accounts/security"' in admin.get("/").text
        assert send(admin, "/staff", "/staff/users", **BEN).status_code == 303
        log_in(friend, **BEN)
        page = friend.get("/accounts/totp")
        assert "Add an authenticator app" in page.text
        made = friend.post("/accounts/totp", data={**hidden_fields(page.text), "code": code_in(page.text)})
        assert "Your recovery codes" in made.text
        assert friend.get("/api/me").json()["username"] == "ben"
        assert send(friend, "/", "/accounts/logout").status_code == 303
        response = send(friend, "/accounts/login", "/accounts/login", **BEN)
        assert response.headers["location"] == "/accounts/second_factor"


def test_the_address_of_the_machine_leads_to_localhost(start: Start) -> None:
    server = start()
    port = httpx.URL(server.url).port
    address = f"http://127.0.0.1:{port}"
    assert server.output.startswith(f"{server.url} ") or f"\n{server.url} " in server.output
    for method in ("GET", "HEAD"):
        for path in ("/", "/me?a=1&b=%26", "/accounts/login?next=%2Fme", "/caf%C3%A9%3F", "/static/style.css"):
            response = httpx.request(method, address + path)
            assert (response.status_code, response.headers["location"]) == (307, server.url + path)
    outside = httpx.get(f"{address}//evil.example/")
    assert outside.headers["location"] == f"{server.url}/%2Fevil.example/"
    for host in ("localhost", f"localhost:{port}", "[::", "notes.example", "127.0.0.1:x", ""):
        assert httpx.get(f"{address}/", headers={"host": host}).status_code == 200, host
    assert httpx.get(f"{address}/", headers={"host": "127.0.0.1:9000"}).headers["location"] == "http://localhost:9000/"
    assert httpx.get(f"{address}/", headers={"host": "[::1]"}).headers["location"] == "http://localhost/"
    assert httpx.get(f"{address}/healthz").text == "ok\n"
    assert httpx.post(f"{address}/api/session", json={"a": 1}).status_code == 200  # a program has no passkeys
    named = start(BASE_URL="https://notes.example")
    assert httpx.get(f"http://127.0.0.1:{httpx.URL(named.url).port}/").status_code == 200


def test_an_email_change_is_confirmed_and_undone(start: Start, database_url: str) -> None:
    server = start(DATABASE_URL=database_url)
    with browser(server) as admin, browser(server) as thief, browser(server) as owner:
        log_in_admin(admin, server)
        assert send(admin, "/staff", "/staff/users", **BEN, email="ben@example.org").status_code == 303
        log_in(thief, **BEN)
        assert 'href="/accounts/email_change"' in thief.get("/me").text
        page = "/accounts/email_change"
        response = send(thief, page, page, email="thief@example.org", old_password=BEN["password"])
        assert (response.status_code, response.headers["location"]) == (303, f"{page}/done")
        assert "<dd>ben@example.org</dd>" in thief.get("/me").text
        link = link_in(mail_to(server, "thief@example.org", "Confirm your new e-mail address"))
        assert str(follow(thief, link).url).endswith(f"{page}/complete")
        assert "<dd>thief@example.org</dd>" in thief.get("/me").text

        undo = link_in(mail_to(server, "ben@example.org", "Your e-mail address at Notes was changed"))
        assert "/accounts/email_undo/confirm/" in undo
        assert str(follow(owner, undo).url).endswith("/accounts/email_undo/complete")
        assert thief.get("/api/me").json()["is_authenticated"] is False
        assert send(thief, "/accounts/login", "/accounts/login", **BEN).status_code == 422
        link = link_in(mail_to(server, "ben@example.org", "Choose a new password"))
        follow(owner, link, new_password1="eight slow badgers", new_password2="eight slow badgers")
        log_in(owner, "ben", "eight slow badgers")
        assert "<dd>ben@example.org</dd>" in owner.get("/me").text


def test_account_pages_and_mails_are_in_the_language_of_the_browser(start: Start) -> None:
    server = start(HIBP="1")
    with browser(server) as visitor:
        visitor.headers["accept-language"] = "de-CH,en;q=0.5"
        page = visitor.get("/accounts/register").text
        assert '<html lang="de"' in page
        assert "Konto anlegen" in page
        assert "schwer zu erraten" in page
        assert '<html lang="en"' in visitor.get("/").text
        fields = {"username": "cem", "email": "cem@example.org", "password1": "x", "password2": "x"}
        assert '<html lang="de"' in send(visitor, "/accounts/register", "/accounts/register", **fields).text
        assert '<html lang="en"' in httpx.get(f"{server.url}/accounts/login", headers={"accept-language": "fr"}).text
    english = start(LANGUAGES="en")
    assert '<html lang="en"' in httpx.get(f"{english.url}/accounts/login", headers={"accept-language": "de"}).text


def test_password_managers_find_the_password_change_page(start: Start) -> None:
    response = httpx.get(f"{start().url}/.well-known/change-password")
    assert (response.status_code, response.headers["location"]) == (303, "/accounts/password_change")


class Inbox(MessageHandler):
    def __init__(self) -> None:
        super().__init__()
        self.mails: list[EmailMessage] = []

    def prepare_message(self, session: object, envelope: object) -> Message:
        content = getattr(envelope, "content", b"")
        mail = BytesParser(EmailMessage, policy=default).parsebytes(content)
        self.mails.append(mail)
        return mail

    def handle_message(self, message: Message) -> None:
        """Does nothing: `prepare_message` has stored the mail."""


def test_mails_are_sent_to_an_smtp_server(start: Start) -> None:
    inbox, port = Inbox(), free_port()
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        server = start(MAIL=f"smtp+plain://127.0.0.1:{port}", BASE_URL="https://notes.example/")
        fields = {"username": "cem", "email": "cem@example.org", "password1": "nine loud herons"}
        data = fields | {"password2": "nine loud herons"}
        headers = {"host": "evil.example", "accept-language": "de"}
        assert httpx.post(f"{server.url}/accounts/register", data=data, headers=headers).status_code == 303
        mail = wait_for(lambda: next(iter(inbox.mails), None))
    finally:
        controller.stop()
    assert (mail["From"], mail["To"]) == ("Notes <noreply@notes.example>", "cem@example.org")
    assert mail["Content-Language"] == "de"
    assert link_in(plain_text(mail)).startswith("https://notes.example/accounts/register/confirm/")
    assert "cem@example.org" not in server.output


def test_links_in_mails_contain_a_port_chosen_by_the_system(tmp_path: Path) -> None:
    server = Server(tmp_path, 0, environment(PORT="0", HOST="0.0.0.0", MAIL_FROM="The notes <notes@example.org>"))
    try:
        server.url = wait_for(lambda: re.search(r"http://localhost:[1-9]\d*", server.output))[0]
        server.wait()
        data = {"username": "cem", "email": "cem@example.org", "password1": "nine loud herons"}
        httpx.post(f"{server.url}/accounts/register", data=data | {"password2": "nine loud herons"})
        mail = mail_to(server, "cem@example.org", "Confirm")
        assert link_in(mail).startswith(f"{server.url}/accounts/")
        assert "From: The notes <notes@example.org>" in server.output
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("variables", "is_throttled"),
    [({}, True), ({"TRUSTED_PROXIES": "127.0.0.1"}, False), ({"THROTTLING": "off"}, False)],
    ids=str,
)
def test_x_forwarded_for_is_trusted_from_trusted_proxies_only(
    start: Start, variables: dict[str, str], is_throttled: bool
) -> None:
    page = f"{start(**variables).url}/accounts/password_reset"
    responses = [
        httpx.post(
            page, data={"email": f"{i}@example.org"}, headers={"x-forwarded-for": f"192.0.2.{i}", "accept": "text/html"}
        )
        for i in range(40)
    ]
    refused = [response for response in responses if response.status_code == 429]
    assert bool(refused) is is_throttled
    for response in refused[:1]:
        assert int(response.headers["retry-after"]) > 0
        assert 'href="/"' in response.text


@pytest.mark.parametrize("store", ["database", "memory", pytest.param("redis", marks=needs_redis)])
def test_users_see_their_active_sessions(start: Start, store: str) -> None:
    server = start(SESSION_STORE=store, REDIS_URL=REDIS_URL, MAX_SESSIONS="2")
    with browser(server) as desk, browser(server) as phone, browser(server) as third:
        for client in (desk, phone):
            log_in_admin(client, server)
        assert 'href="/accounts/sessions"' in desk.get("/me").text
        page = desk.get("/accounts/sessions").text
        assert page.count("IP address: 127.0.0.1") == 2
        log_in_admin(third, server)
        logged_in = [client.get("/api/me").json()["is_authenticated"] for client in (desk, phone, third)]
        assert (logged_in.count(True), logged_in[2]) == (2, True) or store == "memory"


def test_sessions_in_cookies_cannot_be_listed(start: Start) -> None:
    server = start(SESSION_STORE="cookie")
    with browser(server) as admin:
        log_in_admin(admin, server)
        assert "/accounts/sessions" not in admin.get("/me").text
        assert admin.get("/accounts/sessions").status_code == 404


@pytest.mark.parametrize("store", ["database", "cookie"])
def test_a_script_writes_notes_with_a_token_until_its_owner_revokes_it(start: Start, store: str) -> None:
    server = start(SESSION_STORE=store)
    with browser(server) as admin, httpx.Client(base_url=server.url, timeout=30) as script:
        log_in_admin(admin, server)
        assert 'href="/accounts/tokens"' in admin.get("/me").text
        fields = {"name": "weather", "expires": "7", "scopes": "notes.add_note"}
        page = send(admin, "/accounts/tokens/create", "/accounts/tokens/create", **fields)
        token = re.search(r"notes_[0-9A-Za-z]{36}", page.text)
        assert token, page.text
        script.headers["authorization"] = f"Bearer {token[0]}"
        answer = script.get("/api/me").json()
        assert (answer["username"], answer["permissions"], answer["session"]) == ("admin", ["notes.add_note"], {})
        assert script.post("/notes", data={"text": "Rain at noon"}).status_code == 303
        assert "Rain at noon" in admin.get("/").text
        refused = script.post("/notes/1/delete")
        assert (refused.status_code, refused.json()["code"]) == (403, "permission_denied")
        assert script.get("/staff").status_code == 403
        number = re.search(r'name="token" value="(\d+)"', admin.get("/accounts/tokens").text)
        assert number
        send(admin, "/accounts/tokens", "/accounts/tokens/revoke", token=number[1])
        assert script.post("/notes", data={"text": "Snow"}).status_code == 401
    assert token[0] not in server.output


KEYRING = """
import json
from pathlib import Path

FILE = Path(__file__).with_name("keyring.json")


class Backend:
    priority = 5


def get_keyring():
    return Backend()


def _read():
    return json.loads(FILE.read_text()) if FILE.exists() else {}


def get_password(service, name):
    return _read().get(f"{service} {name}")


def set_password(service, name, value):
    FILE.write_text(json.dumps({**_read(), f"{service} {name}": value}))


def delete_password(service, name):
    FILE.write_text("{}")
"""


def admit(admin: httpx.Client, page: str, code: str, decision: str = "approve") -> None:
    """Enters the code of a command line, and decides."""
    match = re.search(r'name="request" value="([^"]+)"', send(admin, page, page, user_code=code).text)
    assert match
    assert send(admin, page, page, request=match[1], decision=decision).status_code == 303


@pytest.mark.parametrize("with_keyring", [False, True], ids=["file", "keyring"])
def test_a_command_line_logs_in_and_keeps_its_token_where_others_cannot_read_it(
    start: Start, tmp_path: Path, with_keyring: bool
) -> None:
    server, home, library = start(), tmp_path / "home", tmp_path / "library"
    library.mkdir()
    if with_keyring:
        (library / "keyring.py").write_text(KEYRING)
    shell = CommandLine(server.url, home, PYTHONPATH=os.pathsep.join([str(ROOT), str(library)]))
    shell.tokens.write_text('{"https://other.example": "other"}')
    shell.tokens.chmod(0o644)
    with browser(server) as admin:
        log_in_admin(admin, server)
        assert 'href="/accounts/device"' in admin.get("/me").text
        with shell.start("login", "--scope", "notes.add_note") as login:
            admit(admin, *code_of(login))
            assert end_of(login) == (0, "Logged in.\n", "")
    assert json.loads(shell.run("me").output)["permissions"] == ["notes.add_note"]
    stored = json.loads((library / "keyring.json" if with_keyring else shell.tokens).read_text())
    token = stored[f"example_app.cli {server.url}" if with_keyring else server.url]
    assert token.startswith("notes_")
    assert token not in server.output
    assert shell.run("me", "--site", "https://other.example:1").errors == "Not logged in. Run the command login.\n"
    assert shell.run("logout").output.endswith(f"revoke it on {server.url}/accounts/tokens\n")
    assert shell.run("me").status == shell.run("logout").status + 1 == 1
    assert json.loads(shell.tokens.read_text()) == {"https://other.example": "other"}
    assert stat.S_IMODE(shell.tokens.stat().st_mode) == (0o644 if with_keyring else 0o600)


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        ("http://notes.example", "without encryption"),
        ("https://127.0.0.1:1", "ConnectError"),
        ("nowhere", "without encryption"),
    ],
)
def test_a_command_line_that_cannot_log_in_says_why_in_one_line(tmp_path: Path, site: str, reason: str) -> None:
    result = CommandLine(site, tmp_path).run("login")
    assert (result.status, result.output, result.errors.count("\n")) == (1, "", 1)
    assert reason in result.errors


@pytest.mark.parametrize("store", ["database", "memory", "cookie"])
def test_a_native_app_has_a_session_without_cookies_if_sessions_are_on_the_server(start: Start, store: str) -> None:
    server = start(SESSION_STORE=store)
    with browser(server) as admin, httpx.Client(base_url=server.url, timeout=30) as app:
        log_in_admin(admin, server)
        assert send(admin, "/staff", "/staff/users", **BEN).status_code == 303
        response = app.post("/accounts/login", json={**BEN, "client": "app"})
        if store == "cookie":
            assert response.json() == {"next": "/"}, "an ordinary login"
            return
        headers = {"authorization": f"Bearer {response.json()['token']}"}
        assert app.get("/api/me", headers=headers).json()["username"] == "ben"
        assert app.post("/accounts/logout", headers=headers).status_code == 200
        assert app.get("/api/me", headers=headers).status_code == 401
        assert not app.cookies


def test_a_django_project_shares_the_database_and_logins(tmp_path: Path, database_url: str) -> None:
    """One command starts both. Users and logins are shared, and Django's admin manages users created here."""
    port = free_port()
    # With SQLite, sessions are in cookies.
    store = "cookie" if "sqlite" in database_url else "database"
    variables = environment(PORT=str(port), DATABASE_URL=database_url, SESSION_STORE=store)
    server = Server(tmp_path, port, variables, module="example_app.django_site")
    django = f"http://localhost:{port + 1}"
    try:
        wait_for(lambda: "Application startup complete" in server.output or None)
        server.wait()
        wait_until_it_listens(port + 1)
        with browser(server) as admin:
            log_in_admin(admin, server)
            assert "Hello admin" in admin.get(django).text
            page = admin.get(f"{django}/admin/auth/user/")
            assert "1 user" in page.text
            token = token_in(admin.get(django).text)
            logout = admin.post(
                f"{django}/accounts/logout/", data={"csrfmiddlewaretoken": token}, headers={"origin": django}
            )
            assert logout.status_code == 302
            assert admin.get("/api/me").json()["is_authenticated"] is False
            token = token_in(admin.get(f"{django}/accounts/login/").text)
            fields = {"username": "admin", "password": server.password, "csrfmiddlewaretoken": token}
            assert admin.post(f"{django}/accounts/login/", data=fields, headers={"origin": django}).status_code == 302
            # Django has not asked for the second factor, which the site therefore asks for.
            assert admin.get("/api/me").json()["is_authenticated"] is False
            assert admin.get("/accounts/login").headers["location"] == "/accounts/second_factor"
            page = "/accounts/second_factor"
            done = send_form(admin, page, page, recovery_code=server.recovery_codes.pop())
            assert (done.status_code, done.headers["location"]) == (303, "/")
            assert admin.get("/api/me").json()["username"] == "admin"
            assert "Hello admin" in admin.get(django).text
    finally:
        server.stop()


def test_servers_that_start_at_once_create_one_admin(tmp_path: Path) -> None:
    servers = [Server(tmp_path, port, environment(PORT=str(port))) for port in (free_port(), free_port(), free_port())]
    try:
        printed = [server.wait().output.count("password:") for server in servers]
    finally:
        for server in servers:
            server.stop()
    assert sum(printed) == 1


def test_django_names_the_version_whose_hash_cost_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {}
    for version in ("1", "6.1", "4.2"):
        monkeypatch.setenv("DJANGO", version)
        project = settings.django_project()
        assert project is not None
        costs[version] = project.passwords().preferred.iterations  # type: ignore[attr-defined]
    assert costs == {"1": 1_000_000, "6.1": 1_500_000, "4.2": 600_000}


def test_a_taken_port_is_reported_before_anything_is_created(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        completed = run(tmp_path, PORT=str(port))
    assert (completed.returncode, completed.stdout, completed.stderr.count("\n")) == (1, "", 1), completed.stderr
    assert str(port) in completed.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variables",
    [
        {"SESSION_STORE": "redis", "REDIS_URL": "http://:secret@127.0.0.1"},
        {"SESSION_STORE": "cached", "REDIS_URL": "127.0.0.1"},
        {"SESSION_STORE": "disk"},
        {"SESSION_STORE": "memory", "WORKERS": "2"},
        {"SESSION_LIMITS": "aal4"},
        {"MAX_SESSIONS": "0"},
        {"WORKERS": "many"},
        {"DJANGO": "maybe"},
        {"DJANGO": "7.0"},
        {"DJANGO": "1", "SESSION_STORE": "redis"},
        {"DJANGO": "1", "SESSION_LIMITS": "aal2"},
        {"PORT": "eighty"},
        {"PORT": "70000"},
        {"PORT": "-1"},
        {"DATABASE_URL": "oracle://ben:secret@host/name"},
        {"DATABASE_URL": "postgresql://ben:secret/more@host/name"},
        {"DATABASE_URL": "?"},
        {"DATABASE_URL": "sqlite+aiosqlite:///:memory:"},
        {"BASE_URL": "notes.example"},
        {"BASE_URL": "ftp://notes.example"},
        {"BASE_URL": "https://notes.example/below"},
        {"BASE_URL": "https://notes.example:99999"},
        {"BASE_URL": "https://notes.example\nx"},
        {"BASE_URL": "https://ben:secret@notes.example"},
        {"MAIL": "pigeon"},
        {"MAIL": "smtp://"},
        {"MAIL": "smtp://[mail.example"},
        {"MAIL": "smtp://mail.example:0"},
        {"MAIL": "smtp://ben:secret@mail.example/path"},
        {"MAIL": "smtp://ben:secret@mail.example:port"},
        {"MAIL": "smtps://ben@mail.example"},
        {"MAIL": "smtp+plain://ben:secret@mail.example"},
        {"MAIL_FROM": "notes"},
        {"MAIL_FROM": "a@example.org, b@example.org"},
        {"TRUSTED_PROXIES": "10.0.0.1/8"},
        {"TRUSTED_PROXIES": "*"},
        {"LANGUAGES": "en,tlh"},
        {"THROTTLING": "maybe"},
        {"HIBP": "yes please"},
    ],
    ids=str,
)
def test_an_invalid_setting_is_refused_in_one_line(tmp_path: Path, variables: dict[str, str]) -> None:
    completed = run(tmp_path, **{"PORT": "0", **variables})
    assert (completed.returncode, completed.stdout, completed.stderr.count("\n")) == (1, "", 1), completed.stderr
    assert "secret" not in completed.stderr
    assert completed.stderr.endswith(".\n")


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "example_app"],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
