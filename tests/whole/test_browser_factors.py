"""An authenticator app, recovery codes, and the pages around them in a real browser: without JavaScript, and with it."""

import contextlib
import io
import sqlite3
import time
from collections.abc import Callable
from typing import Literal

import pyotp
import zxingcpp
from PIL import Image
from playwright.sync_api import expect

from ..support.browser import Visitor
from ..support.matrix import needs_chromium
from ..support.second_factor import CODE
from ..support.server import Server
from .test_browser_flows import Person, register

pytestmark = needs_chromium
Visit = Callable[..., Visitor]
PERIOD = 30  # seconds
FIELD = "Code from your app"


def scan(visitor: Visitor) -> pyotp.TOTP:
    """Reads the QR code from pictures of the page, bright and dark, as a phone does."""
    uris = set()
    for scheme in ("light", "dark"):
        visitor.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")
        picture = Image.open(io.BytesIO(visitor.page.screenshot(full_page=True)))
        uris |= {barcode.text for barcode in zxingcpp.read_barcodes(picture)}
    (uri,) = uris
    assert visitor.page.get_by_role("link", name="Open the app").get_attribute("href") == uri
    app = pyotp.parse_uri(uri)
    assert isinstance(app, pyotp.TOTP)
    return app


def add_app(visitor: Visitor, *, role: Literal["button", "link"] = "link") -> tuple[pyotp.TOTP, list[str]]:
    """Adds an app with the code of the step before, so that the current one can be used at once."""
    visitor.see("Add an authenticator app")
    app = scan(visitor)
    visitor.send("Add the app", {FIELD: app.at(time.time() - PERIOD)})
    visitor.see("Your recovery codes")
    codes = CODE.findall(visitor.page.content())
    assert len(set(codes)) == 10
    visitor.page.get_by_role(role, name="I have kept them").click()
    return app, codes


def begin_login(visitor: Visitor, person: Person) -> None:
    visitor.page.get_by_role("button", name="Log out").click()
    visitor.go("/accounts/login?next=/me")
    visitor.send("Log in", {"Username": person.name, "Password": person.password})
    visitor.see("Second step")


def use_recovery_code(visitor: Visitor, code: str) -> None:
    visitor.page.get_by_text("I do not have my app").click()
    visitor.send("Use the recovery code", {"Recovery code": code})


def make_staff(server: Server, person: Person) -> None:
    with contextlib.closing(sqlite3.connect(server.folder / "example.sqlite3")) as database, database:
        database.execute("UPDATE auth_user SET is_staff = 1 WHERE username = ?", (person.name,))


def test_an_app_and_recovery_codes_are_the_second_step(visit: Visit) -> None:
    ann = visit()
    person = register(ann)
    ann.go("/accounts/security")
    ann.see("Login and security")
    ann.click("Add an app")
    ann.see("Add an authenticator app")
    ann.send("Add the app", {FIELD: "000000"})
    ann.see("Add an authenticator app", f"{FIELD}: This code is wrong.")
    ann.click("Back to the start page")
    ann.go("/accounts/totp")
    app, codes = add_app(ann)
    ann.see("Login and security")
    begin_login(ann, person)
    ann.send("Continue", {FIELD: "000000"})
    ann.see("Second step", f"{FIELD}: This code is wrong or was used before.")
    # The keyboard is enough: the field has the focus, and Enter sends it.
    ann.go("/accounts/second_factor")
    expect(ann.page.get_by_label(FIELD)).to_be_focused()
    ann.page.keyboard.type(app.now())
    ann.page.keyboard.press("Enter")
    ann.page.wait_for_url("**/me")
    begin_login(ann, person)
    use_recovery_code(ann, codes[0])
    ann.page.wait_for_url("**/me")
    begin_login(ann, person)
    use_recovery_code(ann, codes[0])
    ann.see("Second step", "Recovery code: This recovery code is wrong, or was used before.")
    use_recovery_code(ann, codes[1]) if ann.page.get_by_label("Recovery code").is_hidden() else ann.send(
        "Use the recovery code", {"Recovery code": codes[1]}
    )
    ann.page.wait_for_url("**/me")
    ann.go("/accounts/totp")
    ann.see("Authenticator app")
    expect(ann.page.get_by_text("Unused recovery codes: 8")).to_be_visible()
    ann.click("Make new recovery codes")
    ann.see("Make new recovery codes")
    ann.send("Make new codes")
    ann.see("Your recovery codes")
    ann.go("/accounts/totp/remove")
    ann.see("Remove the app")
    ann.send("Remove the app")
    ann.see("Login and security")
    expect(ann.page.get_by_role("link", name="Add an app")).to_be_visible()


def test_a_user_who_became_staff_adds_an_app_after_a_mailed_code(visit: Visit) -> None:
    ann = visit()
    person = register(ann)
    make_staff(ann.server, person)
    ann.go("/accounts/login?next=/me")
    ann.see("Confirm that it is your account")
    ann.send("Send the code")
    ann.see("Confirm that it is your account")
    mail = ann.server.mail(person.email, "code")
    ann.send("Continue", {"Code from the e-mail": "BBBB-BBBB"})
    ann.see("Confirm that it is your account", "Code from the e-mail: This code is wrong or too old.")
    code = next(word for word in mail.text.split() if len(word) == 9 and word[4] == "-" and word.isupper())
    ann.send("Continue", {"Code from the e-mail": code})
    add_app(ann, role="button")
    ann.page.wait_for_url("**/me")
    ann.go("/accounts/security")
    ann.see("Login and security")
    expect(ann.page.get_by_role("link", name="Remove the app")).to_have_count(0)


def test_the_pages_of_passkeys_are_for_everybody(visit: Visit, javascript: bool) -> None:
    """tests/whole/test_browser_passkeys.py uses them with an authenticator."""
    ann = visit()
    register(ann)
    ann.go("/accounts/passkeys")
    ann.see("Passkeys")
    ann.click("Add a passkey")
    ann.see("Add a passkey")
    expect(ann.page.get_by_role("button", name="Add a passkey")).to_have_count(int(javascript))
    ann.go("/accounts/passkeys/add?kind=key")
    ann.see("Add a security key")
