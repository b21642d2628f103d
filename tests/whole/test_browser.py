"""What a browser does with the pages of the example application."""

import re
import secrets
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from ..support.browser import Visitor
from ..support.matrix import needs_chromium
from ..support.second_factor import log_in_admin_in_browser
from ..support.server import Server

pytestmark = needs_chromium
Visit = Callable[..., Visitor]


@pytest.fixture
def admin(visit: Visit, server: Server) -> Visitor:
    visitor: Visitor = visit()
    visitor.go("/accounts/login")
    log_in_admin_in_browser(visitor)
    visitor.see("Hello, admin")
    return visitor


def test_notes_and_staff(admin: Visitor) -> None:
    admin.send("Add note")
    expect(admin.page.get_by_role("alert")).to_have_text("This field is required.")
    expect(admin.page.get_by_label("New note")).to_be_focused()
    admin.note()
    admin.send("Add note", {"New note": "A word without an end: " + "donaudampfschiff" * 20})
    admin.send("Add note", {"New note": "Milk\nBread"})
    admin.see("Hello, admin")
    admin.click("Session")
    admin.see("My session")
    admin.click("Change password")
    admin.see("Change your password")
    admin.click("Change your e-mail address")
    admin.see("Change your e-mail address")
    admin.go("/accounts/security")
    admin.see("Login and security")
    admin.go("/staff")
    admin.see("Staff")
    admin.send("Add user", {"Username": "admin", "E-mail address (optional)": "me@home", "Password": "kurz-und-gut"})
    expect(admin.page.get_by_role("alert")).to_contain_text("The user was not added.")
    admin.holds({"Username": "admin", "E-mail address (optional)": "me@home", "Password": ""})
    admin.note()
    name = f"ben{secrets.token_hex(3)}"
    admin.send("Add user", {"Username": name, "E-mail address (optional)": "", "Password": secrets.token_hex(8)})
    admin.page.get_by_role("button", name=re.compile(f"Make writer.*{name}")).click()
    expect(admin.page.get_by_role("button", name=re.compile(f"Remove from writers.*{name}"))).to_be_visible()
    admin.see("Staff")


def test_pages_that_nobody_wants(visit: Visit) -> None:
    eve = visit()
    eve.go("/nowhere")
    eve.see("Page not found")
    heading = eve.page.get_by_role("alert").get_by_role("heading")
    for _ in range(15):  # the waits grow to minutes, which no browser is too slow for
        eve.go("/accounts/login")
        eve.send("Log in", {"Username": "mallory", "Password": secrets.token_hex(8)})
        if heading.inner_text() == "Please wait a moment":
            break
    eve.see("Log in", "Too many attempts. Please try again in ")
    eve.holds({"Username": "mallory", "Password": ""})
    eve.go("/accounts/login")
    eve.page.locator("form").first.evaluate(
        "(form) => form.querySelectorAll('input').forEach((e) => { e.type = 'text'; e.removeAttribute('maxlength'); })"
    )
    eve.send("Log in", {"Username": "x" * 3_000_000})
    eve.see("That was too long")


def test_a_form_of_another_site_is_not_taken(visit: Visit, server: Server) -> None:
    ann = visit()
    other = f"{server.url.replace('localhost', '127.0.0.1')}/"
    ann.allowed.append(other)
    form = f"<form method=post action='{server.url}/accounts/login'><button>Win a prize</button></form>"
    ann.context.route(other, lambda route: route.fulfill(body=form, content_type="text/html"))
    ann.page.goto(other)
    ann.send("Win a prize")
    ann.see("Your request was not accepted")


def test_in_german(visit: Visit, server: Server) -> None:
    anna, again = visit("de-DE"), "Passwort, noch einmal"
    name = f"anna{secrets.token_hex(6)}"
    password = "".join(secrets.choice("ghijklmopqrstuvwxyz") for _ in range(20))
    form = {"Benutzername": name, "E-Mail-Adresse": f"{name}@example.org", "Passwort": password, again: password}
    anna.go("/accounts/register")
    anna.see("Konto anlegen")
    anna.send("Konto anlegen", {**form, "E-Mail-Adresse": "anna", "Passwort": "kurz-und-gut", again: "kurz-und-gut"})
    anna.see("Konto anlegen", "E-Mail-Adresse: Geben Sie eine gültige E-Mail-Adresse ein.", "Passwort: Dieses Passwort")
    anna.send("Konto anlegen", form)
    anna.see("Sehen Sie in Ihr Postfach")
    mail = server.mail(f"{name}@example.org", "Bestätigen Sie")
    anna.follow(mail)
    anna.see("E-Mail-Adresse bestätigen")
    anna.send("Adresse bestätigen")
    anna.follow(mail)
    anna.see("Dieser Link funktioniert nicht mehr")
    anna.go("/accounts/login")
    anna.send("Anmelden", {"Benutzername": name, "Passwort": secrets.token_hex(8)})
    anna.see("Anmelden", "Benutzername und Passwort gehören nicht zusammen.")
    anna.send("Anmelden", {"Benutzername": name, "Passwort": password})
    for path, heading in (
        ("password_change", "Passwort ändern"),
        ("email_change", "E-Mail-Adresse ändern"),
        ("password_reset", "Passwort vergessen?"),
        ("device", "Auf einem Gerät anmelden"),
        ("logged_out", "Sie sind noch angemeldet"),
    ):
        anna.go(f"/accounts/{path}")
        anna.see(heading)
    assert anna.page.locator("html").get_attribute("lang") == "de"


def test_a_password_can_be_looked_at_with_the_keyboard_and_is_hidden_again(visit: Visit, javascript: bool) -> None:
    ann = visit()
    ann.go("/accounts/login")
    button = ann.page.get_by_role("button", name="Show password")
    expect(button).to_have_count(1 if javascript else 0)
    if not javascript:
        return
    field, status = ann.page.get_by_label("Password", exact=True), ann.page.get_by_role("status").first
    ann.fill({"Username": "ann", "Password": secrets.token_hex(8)})
    field.press("Tab")
    expect(button).to_be_focused()
    button.press("Space")
    expect(field).to_have_attribute("type", "text")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(status).to_have_text("The password is visible now.")
    button.press("Enter")
    expect(field).to_have_attribute("type", "password")
    expect(status).to_have_text("The password is hidden now.")
    button.press("Enter")
    ann.page.evaluate(
        "addEventListener('submit', () => { sessionStorage.type = document.getElementById('id_password').type })"
    )
    ann.send("Log in")
    ann.see("Log in", "Please enter a correct username and password.")
    assert ann.page.evaluate("sessionStorage.type") == "password"
    expect(button).to_have_attribute("aria-pressed", "false")


def test_a_password_can_be_pasted(visit: Visit) -> None:
    ann, password = visit(), secrets.token_hex(8)
    ann.go("/accounts/login")
    ann.fill({"Username": password})
    ann.page.get_by_label("Username").press("ControlOrMeta+a")
    ann.page.get_by_label("Username").press("ControlOrMeta+x")
    ann.page.get_by_label("Password", exact=True).press("ControlOrMeta+v")
    ann.holds({"Username": "", "Password": password})
