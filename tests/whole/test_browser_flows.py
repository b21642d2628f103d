"""All that people do with an account, in a real browser: without JavaScript, and with it.

Each browser is asked afterwards what it sent, to whom, and what it was told; each page is looked at by axe, bright and
dark, narrow and wide. SCREENSHOTS=folder keeps pictures.
"""

import contextlib
import json
import re
import secrets
import sqlite3
import stat
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from ..support.browser import Visitor
from ..support.command_line import CommandLine, code_of, end_of
from ..support.matrix import needs_chromium
from ..support.second_factor import log_in_admin_in_browser
from ..support.server import Mail, Server
from ..support.template_cases import pages, render
from . import test_browser

pytestmark = needs_chromium
Visit = Callable[..., Visitor]
AGAIN, NEW, NEW_AGAIN = "Password, once more", "New password", "New password, once more"
DEAD = "This link no longer works"
REQUIRED = "This field is required."
WRONG = "Please enter a correct username and password."
# Of pages that the example application does not come to.
ELSEWHERE = {
    *("Welcome", "Something went wrong", "Too many visitors at once", "Error: Bring back your old address"),
    *("Send your form", "You may not open this page", "Logged in on too many devices", "Not available at the moment"),
    *("Your session has ended", "Too many attempts"),
    *("Set a password", "Error: Set a password", "Error: Add a passkey", "Error: Add a security key"),
}


def a_password() -> str:
    """Of other letters than the names, which it would be too similar to now and then."""
    return "".join(secrets.choice("ghijklmopqrstuvwxyz") for _ in range(20))


class Person:
    def __init__(self) -> None:
        self.name = f"ann{secrets.token_hex(6)}"
        self.email = f"{self.name}@example.org"
        self.password = a_password()

    def form(self) -> dict[str, str]:
        return {
            "Username": self.name,
            "E-mail address": self.email,
            "Password": self.password,
            AGAIN: self.password,
        }


def register(visitor: Visitor) -> Person:
    """Somebody with an account, who is logged in."""
    person = Person()
    visitor.go("/accounts/register")
    visitor.send("Create the account", person.form())
    visitor.see("Check your inbox")
    visitor.follow(visitor.server.mail(person.email, "Confirm"))
    visitor.send("Confirm the address")
    visitor.click("Log in")
    log_in(visitor, person)
    return person


def log_in(visitor: Visitor, person: Person) -> None:
    visitor.see("Log in")
    visitor.send("Log in", {"Username": person.name, "Password": person.password})
    visitor.see(f"Hello, {person.name}")


def five_minutes_later(server: Server) -> None:
    """Nobody gets more than one mail in five minutes that strangers may have asked for."""
    with contextlib.closing(sqlite3.connect(server.folder / "example.sqlite3")) as database, database:
        database.execute("DELETE FROM auth_throttle")


def a_day_later(server: Server) -> None:
    with contextlib.closing(sqlite3.connect(server.folder / "example.sqlite3")) as database, database:
        database.execute("UPDATE auth_token SET expires = 1")


def an_hour_later(server: Server) -> None:
    """Nobody has proved for an hour who they are."""
    with contextlib.closing(sqlite3.connect(server.folder / "example.sqlite3")) as database, database:
        for key, data in database.execute("SELECT key_hash, data FROM auth_session").fetchall():
            aged = re.sub(r'"_auth_time":(\d+)', lambda found: f'"_auth_time":{int(found[1]) - 3600}', data)
            change = "UPDATE auth_session SET data = ?, version = version + 1 WHERE key_hash = ?"
            database.execute(change, (aged, key))


def spoilt(mail: Mail) -> Mail:
    return mail._replace(text=mail.text.replace(mail.token, mail.token[:-4]))


def test_a_stranger_registers_logs_in_and_logs_out(visit: Visit) -> None:
    ann, person = visit(), Person()
    ann.go("/")
    ann.see("Notes for everyone")
    ann.click("Create an account")
    ann.see("Create an account")
    ann.send("Create the account")
    ann.see("Create an account", *[f"{label}: {REQUIRED}" for label in person.form()])
    ann.send("Create the account", {**person.form(), "Username": "ann?", AGAIN: a_password()})
    ann.see("Create an account", "Username: Enter a valid username.", f"{AGAIN}: The two password fields")
    ann.holds({"Username": "ann?", "E-mail address": person.email, "Password": "", AGAIN: ""})
    ann.send("Create the account", {**person.form(), "Password": "ottr7", AGAIN: "ottr7"})
    ann.see("Create an account", "Password: This password is too short.")
    ann.send("Create the account", person.form())
    ann.see("Check your inbox")
    mail = ann.server.mail(person.email, "Confirm")
    ann.follow(spoilt(mail))
    ann.see(DEAD)
    ann.follow(mail)
    ann.see("Confirm your e-mail address")
    assert ann.page.url.endswith("/register/confirm/open")
    ann.send("Confirm the address")
    ann.see("Your address has been confirmed")
    ann.follow(mail)
    ann.see(DEAD)
    ann.go("/me")
    ann.see("Log in")
    assert ann.page.url.endswith("/accounts/login?next=%2Fme")
    ann.send("Log in")
    ann.see("Log in", f"Username: {REQUIRED}", f"Password: {REQUIRED}")
    ann.send("Log in", {"Username": person.name, "Password": a_password()})
    ann.see("Log in", WRONG)
    ann.holds({"Username": person.name, "Password": ""})
    ann.fill({"Password": person.password})
    ann.page.get_by_label("Password", exact=True).press("Enter")
    ann.see("My session")
    cookies = {cookie["name"]: cookie for cookie in ann.context.cookies()}
    assert (cookies["session"]["httpOnly"], cookies["session"]["sameSite"]) == (True, "Lax")
    ann.go("/accounts/logged_out")
    ann.see("You are still logged in")
    ann.go("/accounts/login?next=/me")
    ann.see("My session")
    ann.send("Log out")
    ann.see("You are logged out")
    assert "session" not in {cookie["name"] for cookie in ann.context.cookies()}
    ann.go("/me")
    ann.see("Log in")


def test_what_is_taken_is_told_by_mail_alone(visit: Visit) -> None:
    ann, eve = visit(), visit()
    person, other = register(ann), Person()
    five_minutes_later(ann.server)
    eve.go("/accounts/register")
    eve.send("Create the account", {**other.form(), "E-mail address": person.email})
    eve.see("Check your inbox")
    eve.server.mail(person.email, "You have an account")
    eve.go("/accounts/register")
    eve.send("Create the account", {**other.form(), "Username": person.name})
    eve.see("Check your inbox")
    eve.follow(eve.server.mail(other.email, "Choose another username"))
    eve.see("Create an account")
    # A name that two want at once is the one's who is the first to confirm.
    late, soon = Person(), Person()
    for wanted in (late, soon):
        eve.go("/accounts/register")
        eve.send("Create the account", {**wanted.form(), "Username": soon.name})
    eve.follow(eve.server.mail(soon.email, "Confirm"))
    eve.send("Confirm the address")
    eve.see("Your address has been confirmed")
    eve.follow(eve.server.mail(late.email, "Confirm"))
    eve.send("Confirm the address")
    eve.see("Confirm your e-mail address", "Another user has taken this username meanwhile.")
    eve.click("Register again")
    eve.see("Create an account")


def test_a_mail_is_opened_in_another_browser(visit: Visit) -> None:
    desk, phone, person = visit(), visit(), Person()
    desk.go("/accounts/register")
    desk.send("Create the account", person.form())
    desk.see("Check your inbox")
    phone.follow(phone.server.mail(person.email, "Confirm"))
    phone.see("Confirm your e-mail address")
    phone.send("Confirm the address", {"Password": a_password()})
    phone.see("Confirm your e-mail address", "Password: ")
    phone.holds({"Password": ""})
    phone.send("Confirm the address", {"Password": person.password})
    phone.see("Your address has been confirmed")


def test_a_mail_that_got_lost_is_sent_again(visit: Visit) -> None:
    ann = visit()
    ann.go("/accounts/register/resend")
    ann.see("Send the e-mail again")
    ann.send("Send the e-mail", {"E-mail address": "ann at home"})
    ann.see("Send the e-mail again", "E-mail address: Enter a valid email address.")
    ann.holds({"E-mail address": "ann at home"})
    ann.send("Send the e-mail", {"E-mail address": "nobody@example.org"})
    ann.see("Check your inbox")


def test_a_new_password_logs_out_the_other_browser(visit: Visit) -> None:
    here, there = visit(), visit()
    person, old = register(here), "Old password"
    there.go("/accounts/login")
    log_in(there, person)
    here.go("/me")
    here.see("My session")
    here.click("Change password")
    here.see("Change your password")
    here.send("Change the password")
    here.see("Change your password", *[f"{label}: {REQUIRED}" for label in (old, NEW, NEW_AGAIN)])
    new, like = a_password(), f"{person.name}1"
    here.send("Change the password", {old: a_password(), NEW: like, NEW_AGAIN: like})
    here.see("Change your password", f"{old}: Your old password", f"{NEW}: The password is too similar to the username")
    here.holds({old: "", NEW: "", NEW_AGAIN: ""})
    here.send("Change the password", {old: person.password, NEW: new, NEW_AGAIN: new})
    here.see("Your password has been changed")
    here.click("Continue")
    here.see(f"Hello, {person.name}")
    there.go("/accounts/password_change")
    there.see("Log in")
    there.send("Log in", {"Username": person.name, "Password": person.password})
    there.see("Log in", WRONG)
    there.server.mail(person.email, "password")


def test_an_address_that_a_thief_changed_comes_back(visit: Visit) -> None:
    thief, owner, new = visit(), visit(), f"new{secrets.token_hex(4)}@example.org"
    person, email = register(thief), "New e-mail address"
    thief.go("/accounts/email_change")
    thief.see("Change your e-mail address")
    thief.send("Change the address", {email: "new", "Password": a_password()})
    thief.see(
        "Change your e-mail address", f"{email}: Enter a valid", "Password: Your password was entered incorrectly"
    )
    thief.holds({email: "new", "Password": ""})
    thief.send("Change the address", {email: new, "Password": person.password})
    thief.see("Check your inbox")
    confirm = thief.server.mail(new, "Confirm")
    stranger = visit()
    stranger.follow(confirm)
    stranger.see("Confirm your new e-mail address")
    stranger.send("Confirm the address", {"Password": a_password()})
    stranger.see("Confirm your new e-mail address", "Password: Your password was entered incorrectly")
    thief.follow(confirm)
    thief.see("Confirm your new e-mail address")
    thief.send("Confirm the address")
    thief.see("Your e-mail address has been changed")
    thief.follow(confirm)
    thief.see(DEAD)
    undo = owner.server.mail(person.email, "Your e-mail address")
    owner.follow(spoilt(undo))
    owner.see(DEAD)
    owner.follow(undo)
    owner.see("Bring back your old address")
    owner.send("It was not me: bring back my address")
    owner.see("Your old address is back")
    thief.go("/accounts/email_change")
    thief.see("Log in")
    thief.send("Log in", {"Username": person.name, "Password": person.password})
    thief.see("Log in", WRONG)
    owner.follow(owner.server.mail(person.email, "new password"))
    owner.see("Choose a new password")
    person.password = a_password()
    owner.send("Save the password", {NEW: person.password, NEW_AGAIN: person.password})
    owner.see("Your new password has been saved")
    owner.click("Log in")
    log_in(owner, person)
    owner.send("Log out")
    owner.see("You are logged out")


def test_a_forgotten_password(visit: Visit) -> None:
    ann = visit()
    person = register(ann)
    ann.send("Log out")
    ann.click("Log in again")
    ann.click("Forgot your password?")
    ann.see("Forgot your password?")
    ann.send("Send the link", {"E-mail address": "ann@"})
    ann.see("Forgot your password?", "E-mail address: Enter a valid email address.")
    ann.holds({"E-mail address": "ann@"})
    ann.send("Send the link", {"E-mail address": person.email})
    ann.see("Check your inbox")
    late = ann.server.mail(person.email, "new password")
    a_day_later(ann.server)
    five_minutes_later(ann.server)
    ann.follow(late)
    ann.see(DEAD)
    ann.click("Send me a new link")
    ann.send("Send the link", {"E-mail address": person.email})
    mail = ann.server.mail(person.email, "new password", after=late)
    ann.follow(spoilt(mail))
    ann.see(DEAD)
    ann.follow(mail)
    ann.see("Choose a new password")
    assert ann.page.url.endswith("/set-password")
    ann.send("Save the password", {NEW: a_password(), NEW_AGAIN: a_password()})
    ann.see("Choose a new password", f"{NEW_AGAIN}: The two password fields")
    ann.holds({NEW: "", NEW_AGAIN: ""})
    old, person.password = person.password, a_password()
    ann.send("Save the password", {NEW: person.password, NEW_AGAIN: person.password})
    ann.see("Your new password has been saved")
    ann.follow(mail)
    ann.see(DEAD)
    ann.go("/accounts/login")
    ann.send("Log in", {"Username": person.name, "Password": old})
    ann.see("Log in", WRONG)
    ann.go("/accounts/login")
    log_in(ann, person)


def test_somebody_sees_where_she_is_logged_in_and_ends_what_is_not_hers(visit: Visit) -> None:
    desk, phone, thief = visit(), visit(), visit()
    person = register(desk)
    for visitor in (phone, thief):
        visitor.go("/accounts/login")
        log_in(visitor, person)
    desk.go("/me")
    desk.click("Where you are logged in")
    desk.see("Where you are logged in")
    expect(desk.page.get_by_role("heading", level=2)).to_have_count(3)
    expect(desk.page.get_by_role("heading", name="Chrome on Linux This device")).to_be_visible()
    desk.page.get_by_role("button", name=re.compile("^Log out ?: Chrome on Linux, 127.0.0.1")).first.click()
    expect(desk.page.get_by_role("status")).to_have_text("Done. Only the devices listed here are still logged in.")
    desk.see("Where you are logged in")
    expect(desk.page.get_by_role("heading", level=2)).to_have_count(2)
    desk.send("Log out everywhere else")
    desk.see("Where you are logged in")
    expect(desk.page.get_by_text("You are not logged in on any other device.")).to_be_visible()
    for visitor in (phone, thief):
        visitor.go("/me")
        visitor.see("Log in")
    desk.go("/me")
    desk.see("My session")


def test_somebody_stays_logged_in_where_she_wants_to(visit: Visit) -> None:
    ann = visit()
    person = register(ann)
    for stays in (True, False):
        ann.go("/accounts/logout")
        ann.see("Log out")
        ann.send("Log out")
        ann.see("You are logged out")
        ann.go("/accounts/login")
        ann.page.get_by_label("Stay logged in").set_checked(stays)
        log_in(ann, person)
        (cookie,) = [cookie for cookie in ann.context.cookies() if cookie["name"] == "session"]
        assert (cookie["expires"] > 0) is stays, "-1 is: until the browser closes"


def test_before_something_grave_the_password_is_asked_for_once_more(visit: Visit, javascript: bool) -> None:
    admin, person = visit(), Person()
    admin.go("/accounts/login")
    log_in_admin_in_browser(admin)
    new_user = {"Username": person.name, "E-mail address (optional)": person.email, "Password": person.password}
    admin.go("/staff")
    an_hour_later(admin.server)
    # The password of a new user is not kept: after all it is asked for again.
    admin.send("Add user", new_user)
    admin.see("Confirm that it is you")
    admin.send("Confirm", {"Password": a_password()})
    admin.see("Confirm that it is you", "Password: Your password was entered incorrectly.")
    admin.send("Confirm", {"Password": admin.server.password})
    if not javascript:
        admin.see("Thank you")
        admin.send("Continue")
    expect(admin.page.get_by_role("alert")).to_contain_text("The user was not added.")
    admin.holds({"Username": person.name, "E-mail address (optional)": person.email, "Password": ""})
    admin.note()
    admin.send("Add user", {"Password": person.password})
    admin.see("Staff")
    # Where there is none, nothing is asked twice.
    an_hour_later(admin.server)
    admin.page.get_by_role("button", name=re.compile(f"Make writer.*{person.name}")).click()
    admin.see("Confirm that it is you")
    admin.send("Confirm", {"Password": admin.server.password})
    if not javascript:
        admin.send("Continue")
    expect(admin.page.get_by_role("button", name=re.compile(f"Remove from writers.*{person.name}"))).to_be_visible()
    admin.see("Staff")


def test_a_program_uses_a_token_until_its_owner_revokes_it(visit: Visit, javascript: bool) -> None:
    ann = visit()
    register(ann)
    ann.go("/me")
    ann.click("API tokens for your programs")
    ann.see("API tokens")
    ann.click("Create a token")
    ann.see("Create a token")
    ann.send("Create the token", {"Name": ""})
    ann.see("Create a token", f"Name: {REQUIRED}")
    ann.send("Create the token", {"Name": "My back-up script"})
    ann.see("Your new token")
    token = ann.page.get_by_label("My back-up script").input_value()
    if javascript:
        ann.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=ann.server.url)
        ann.page.get_by_role("button", name="Copy", exact=True).click()
        expect(ann.page.get_by_text("Copied.", exact=True)).to_be_attached()
        assert ann.page.evaluate("navigator.clipboard.readText()") == token
    with httpx.Client(base_url=ann.server.url, headers={"Authorization": f"Bearer {token}"}) as program:
        assert program.get("/me").status_code == 200
        assert program.post("/accounts/tokens/create", json={"name": "another"}).status_code == 403
        assert "session" not in program.cookies
        ann.click("Back to your tokens")
        ann.see("API tokens")
        expect(ann.page.get_by_text(f"Begins with: {token[:8]}")).to_be_visible()
        ann.page.get_by_role("button", name="Revoke : My back-up script").click()
        ann.see("API tokens")
        expect(ann.page.get_by_text("You have no tokens.")).to_be_visible()
        assert program.get("/me").status_code == 401
    assert token not in ann.server.log_without_mails
    assert [seen.title for seen in ann.pages if token in seen.html] == ["Your new token"]


def test_a_command_line_logs_in_through_the_browser_and_gets_401_once_its_token_is_revoked(
    visit: Visit, server: Server, tmp_path: Path
) -> None:
    ann, shell = visit(), CommandLine(server.url, tmp_path)
    person = register(ann)
    assert shell.run("me").errors == "Not logged in. Run the command login.\n"
    with shell.start("login") as login:
        url, code = code_of(login)
        ann.go("/me")
        ann.click("Log in on a device")
        assert ann.page.url == url
        ann.see("Log in on a device")
        ann.send("Continue")
        ann.see("Log in on a device", f"Code: {REQUIRED}")
        ann.send("Continue", {"Code": "bcdf-ghjk"})
        ann.see("Log in on a device", "Code: This code is wrong, was used before, or is too old.")
        ann.send("Continue", {"Code": code.lower().replace("-", " ")})
        ann.see("Is this your device?")
        expect(ann.page.get_by_text(code, exact=True)).to_be_visible()
        expect(ann.page.get_by_role("heading", level=2)).to_have_text("Notes for the command line")
        expect(ann.page.get_by_text("IP address: 127.0.0.1")).to_be_visible()
        ann.send("The codes are equal: approve")
        ann.see("Your device is logged in")
        assert end_of(login) == (0, "Logged in.\n", "")
    (token,) = json.loads(shell.tokens.read_text()).values()
    assert stat.S_IMODE(shell.tokens.stat().st_mode) == 0o600
    assert json.loads(shell.run("me").output)["username"] == person.name
    assert "Notes for the command line" in server.mail(person.email, "A new API token").text
    ann.click("Your tokens")
    ann.see("API tokens")
    ann.page.get_by_role("button", name="Revoke : Notes for the command line").click()
    ann.see("API tokens")
    revoked = shell.run("me")
    assert (revoked.status, revoked.output) == (1, "")
    assert revoked.errors.startswith("401: ")
    assert shell.run("logout").status == 0
    assert shell.run("me").errors == "Not logged in. Run the command login.\n"
    assert token not in server.log_without_mails
    assert [seen.title for seen in ann.pages if token in seen.html] == []


def test_a_command_line_that_its_user_refuses_gets_no_token(visit: Visit, server: Server, tmp_path: Path) -> None:
    ann, shell = visit(), CommandLine(server.url, tmp_path)
    register(ann)
    scopes = "notes.add_note", "warehouse.change_internationalshipment"
    with shell.start("login", *(f"--scope={scope}" for scope in scopes)) as login:
        url, code = code_of(login)
        # The link of a QR code fills in the code, and no more.
        ann.page.goto(f"{url}?user_code={code}")
        ann.see("Log in on a device")
        ann.holds({"Code": code})
        ann.send("Continue")
        ann.see("Is this your device?")
        expect(ann.page.get_by_text(f"Permissions: {', '.join(scopes)}")).to_be_visible()
        ann.send("Refuse")
        ann.see("The device was refused")
        result = end_of(login)
    assert (result.status, result.output) == (1, "")
    assert "access_denied" in result.errors
    assert not shell.tokens.exists()
    ann.page.goto(f"{url}?user_code={code}")
    ann.send("Continue")
    ann.see("Log in on a device", "Code: This code is wrong, was used before, or is too old.")
    ann.go("/accounts/tokens")
    expect(ann.page.get_by_text("You have no tokens.")).to_be_visible()


def test_no_page_was_left_out(request: pytest.FixtureRequest, looked_at: set[tuple[str, ...]]) -> None:
    mine = {value for name, value in {**vars(test_browser), **globals()}.items() if name.startswith("test_")}
    items = request.session.items
    has_factors = any("test_browser_factors" in item.nodeid for item in items)
    if not has_factors or {value for value in mine if callable(value)} - {
        getattr(item, "function", None) for item in items
    }:
        pytest.skip("some tests that come to other pages were not run")
    # The templates have an event loop of their own, and the browser's driver has one here.
    with ThreadPoolExecutor(1) as thread:
        rendered = thread.submit(lambda: [render(case.template, case.context) for case in pages()]).result()
    titles = {re.findall(r"<title>(.*?)(?: · |</title>)", page)[0] for page in rendered}
    assert titles - {title for title, *_ in looked_at} == ELSEWHERE
