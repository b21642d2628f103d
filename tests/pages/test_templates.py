"""Every page and every mail in each of its states: text, escaping, layout and accessibility."""

import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from markupsafe import escape
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from starlette_auth.core.exceptions import ValidationError
from starlette_auth.core.templating import ASSETS, Templates
from starlette_auth.core.translation import ENGLISH, Language, override_language
from starlette_auth.pages.forms import Field, Form
from starlette_auth.users.models import AnonymousUser

from ..support.matrix import needs_chromium
from ..support.template_cases import HOST, LINK, NAME, PARTS, SITE, TEMPLATES, Case, mails, pages, render

pytestmark = pytest.mark.long

PAGES, MAILS = pages(), mails()
ORIGIN = "http://pages.test"
POLICY = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self'"
ARABIC = Language("ar", ENGLISH.catalog)
FILES = {"/auth.css": "auth.css", "/auth.js": "auth.js", "/accounts/passkeys_script": "auth_passkeys.js"}


def test_every_template_is_tested_here() -> None:
    assert {case.template for case in (*PAGES, *MAILS)} == TEMPLATES - PARTS


# Pages


@pytest.mark.parametrize("case", PAGES, ids=lambda case: case.id)
def test_a_page_has_its_text_and_one_heading_and_is_escaped(case: Case) -> None:
    page = render(case.template, case.context)
    assert case.says in html.unescape(re.sub(r"</?(bdi|span)[^>]*>", "", page))
    assert page.startswith('<!doctype html>\n<html lang="en" dir="ltr">')
    assert len(re.findall("<h1", page)) == 1
    title = page.split("<title>")[1].split("</title>")[0]
    assert title.strip() == title
    assert title.startswith("Error: ") is ('role="alert"' in page)
    assert title.endswith(" · Bücher &amp; Mehr") or not case.context.get("site_name", SITE)
    assert NAME not in page, "the name is not escaped"
    # The content security policy allows no inline scripts and styles, which an attacker could inject.
    assert not re.search(r"<style|\sstyle=|<script(?! src=)|\son\w+=|javascript:", page)
    urls = re.findall(r'(?:href|src|action)="([^"]*)"', page)
    assert all(not urlsplit(url).netloc or url.startswith("otpauth:") for url in urls)  # which opens an app


@pytest.mark.parametrize("case", [case for case in PAGES if case.context.get("form")], ids=lambda case: case.id)
def test_a_form_keeps_submitted_values_except_passwords(case: Case) -> None:
    page = render(case.template, case.context)
    form: Form = case.context["form"]
    for field in re.findall(r"<input[^>]*>", page, re.DOTALL):
        if 'type="password"' in field:
            assert "value=" not in field
            assert "maxlength=" not in field
    for name, field in form.fields.items():
        value = escape(form.data[name])
        assert field.type in ("password", "checkbox") or not value or f'value="{value}"' in page
    if form.fields:
        assert '<form method="post"' in page
        assert "novalidate" in page


def test_fields_have_attributes_for_browsers_and_password_managers() -> None:
    rules = "minlength: 15; allowed: unicode;"
    form = Form(
        username=Field(label="Name", autocomplete="username", max_length=150, help_text="Others see it."),
        email=Field(label="Mail", type="email", autocomplete="email", required=False),
        city=Field(label="City", autocomplete="address-level2"),
        password1=Field(label="Password", type="password", autocomplete="new-password", passwordrules=rules),
        news=Field(label="News", type="checkbox", required=False),
        next=Field(type="hidden", required=False),
    )
    form.add_error("username", ValidationError("Taken."))
    form.add_error("username", ValidationError("Odd."))
    form.add_error("next", ValidationError("Hidden."))
    page = render("registration/register_form.html", {"form": form, "password_help": ["Long."]})
    fields = {re.findall('name="(.*?)"', field)[0]: field for field in re.findall(r"<input[^>]*>", page, re.DOTALL)}
    assert list(fields) == ["username", "email", "city", "password1", "news"]  # an empty hidden field is left out
    assert 'maxlength="150" autocomplete="username" autocapitalize="none" spellcheck="false"' in fields["username"]
    assert 'aria-invalid="true" aria-describedby="id_username_help id_username_error"' in fields["username"]
    assert " required" in fields["username"]
    assert 'dir="ltr"' in fields["email"]
    assert "required" not in fields["email"]
    assert "autocapitalize" not in fields["city"]
    assert f'passwordrules="{rules}"' in fields["password1"]
    assert 'aria-describedby="id_password1_help"' in fields["password1"]
    assert "checked" not in fields["news"]
    assert "(optional)" in page
    summary = page.split('role="alert"')[1].split("</div>")[0]
    assert '<a href="#id_username">Name: Taken.</a>' in summary
    assert '<a href="#id_username">Name: Odd.</a>' in summary
    assert "<li>Hidden.</li>" in summary


def test_links_to_missing_pages_are_left_out() -> None:
    context = {"form": Form(), "auth_link": lambda name: None}
    assert "Forgot" not in render("registration/login.html", context)
    assert "Create an account" not in render("registration/login.html", context)
    assert "Change your e-mail" not in render("registration/password_change_form.html", context)
    assert "auth.js" not in render("registration/login.html", {**context, "auth_script": None})


def test_pages_and_mails_have_language_and_direction() -> None:
    with override_language(ARABIC):
        assert '<html lang="ar" dir="rtl">' in render("registration/logged_out.html", {})
        mail = render("registration/password_reset_email.html", {"link": LINK, "valid_for": "5"})
    assert '<html lang="ar" dir="rtl">' in mail
    assert 'role="main" lang="ar" dir="rtl"' in mail  # webmail drops the outer elements


def test_an_application_can_replace_the_layout_only(tmp_path: Path) -> None:
    (tmp_path / "auth_base.html").write_text("<html>Custom: {% block content %}{% endblock %}</html>")
    page = render("registration/login.html", {"form": Form()}, Templates([tmp_path]))
    assert page.startswith("<html>Custom: ")
    assert "Log in" in page


def test_errors_replace_the_rules_of_a_password_and_say_what_to_do_once() -> None:
    form = Form(password1=Field(label="Password", type="password"), email=Field(label="Mail", type="email"))
    page = render("registration/register_form.html", {"form": form, "password_help": ["Long.", "Odd."]})
    assert "<p>Long. Odd.</p>" in page
    form.add_error("password1", ValidationError("Common.", "password_too_common"))
    form.add_error("password1", ValidationError("Similar.", "password_too_similar"))
    form.add_error("email", ValidationError("Wrong."))
    page = render("registration/register_form.html", {"form": form, "password_help": ["Long.", "Odd."]})
    assert "Long." not in page
    assert 'aria-invalid="true" aria-describedby="id_password1_error"' in page
    assert "<p>Common. Choose several words" in page
    assert "<p>Similar.</p>" in page
    assert '<a href="#id_email">Mail: Wrong. It looks like name@example.org.</a>' in page
    form.errors = {"password1": [ValidationError("Fill it in.", "required")]}
    page = render("registration/register_form.html", {"form": form, "password_help": ["Long.", "Odd."]})
    assert "<p>Long. Odd.</p>" in page
    assert 'aria-describedby="id_password1_help id_password1_error"' in page


LOGOUT = (
    *("password_change_form", "password_change_done", "email_change_form", "sessions", "reauthenticate"),
    *("tokens", "token_form", "token_created", "device_form", "device_confirm", "device_done"),
    *("totp", "totp_status", "totp_remove", "recovery_codes", "recovery_codes_made", "passkeys", "passkey_add"),
    *("security", "password_set_form"),
)


@pytest.mark.parametrize("case", PAGES, ids=lambda case: case.id)
def test_pages_for_logged_in_users_have_one_form_to_log_out(case: Case) -> None:
    page = render(case.template, case.context)
    is_expected = "user" in case.context and case.template.endswith(tuple(f"/{name}.html" for name in LOGOUT))
    assert page.count('class="auth-account"') == is_expected
    page = render(case.template, {**case.context, "user": AnonymousUser()})
    assert 'class="auth-account"' not in page


# Mails


@pytest.mark.parametrize("case", MAILS, ids=lambda case: f"{case.id} {case.template[-4:]}")
def test_a_mail_has_its_text_and_link_and_is_escaped(case: Case) -> None:
    mail = render(case.template, case.context)
    link = case.context.get("undo_link") or case.context["link"]
    if case.template.endswith("_subject.txt"):
        assert case.says in mail
        assert SITE in mail
        assert len(mail.splitlines()) == 1
    elif case.template.endswith(".txt"):
        assert case.says in mail
        assert SITE in mail
        assert "\n\n\n" not in mail
        assert "<" not in mail.replace(NAME, "")
        assert link is None or f"\n\n{link}\n\n" in mail
    else:
        assert case.says in html.unescape(mail)
        assert NAME not in mail, "the name is not escaped"
        assert set(re.findall('href="(.*?)"', mail)) == {HOST, *([link] if link else [])}
        # A mail loads nothing when it is opened, which would reveal that it was opened.
        assert not re.search(r"src=|url\(|<link|<script|<img|@import|<iframe|<object", mail)
    if case.context.get("undo_link"):
        assert LINK not in mail


def test_a_mail_to_an_unconfirmed_address_contains_no_username() -> None:
    for case in MAILS:
        if "email_change_" in case.template or "username_taken_" in case.template:
            assert html.escape(NAME) not in html.escape(render(case.template, case.context))


# In a browser


class Visit(NamedTuple):
    """A browser window, and the errors in it."""

    page: Page
    context: BrowserContext
    errors: list[str]


@pytest.fixture(scope="module")
def site() -> dict[str, str]:
    """All pages and mails by path. They are rendered before the browser starts, whose driver has an event loop."""
    documents = {f"/{number}": render(case.template, case.context) for number, case in enumerate(PAGES)}
    html_mails = {case.template: case for case in MAILS if case.template.endswith(".html")}
    documents |= {f"/mail/{template}": render(template, case.context) for template, case in html_mails.items()}
    with override_language(ARABIC):
        documents |= {f"/ar/{number}": render(case.template, case.context) for number, case in enumerate(PAGES)}
    return documents


@pytest.fixture
def visit(site: dict[str, str], chromium: Browser) -> Iterator[Callable[..., Visit]]:
    contexts: list[BrowserContext] = []

    def open_window(
        scheme: str = "light", width: int = 320, *, javascript: bool = True, forced_colors: bool = False
    ) -> Visit:
        context = chromium.new_context(
            color_scheme="dark" if scheme == "dark" else "light",
            forced_colors="active" if forced_colors else "none",
            java_script_enabled=javascript,
            viewport={"width": width, "height": 800},
        )
        contexts.append(context)
        errors: list[str] = []

        def answer(route: Route) -> None:
            path = urlsplit(route.request.url).path
            if route.request.method == "POST":  # one page submits its form automatically
                route.fulfill(status=204)
            elif path in FILES:
                media_type = "text/css" if path == "/auth.css" else "text/javascript"
                route.fulfill(body=ASSETS[FILES[path]], content_type=media_type)
            elif path in site:
                headers = {} if path.startswith("/mail/") else {"content-security-policy": POLICY}
                route.fulfill(body=site[path], headers={"content-type": "text/html; charset=utf-8", **headers})
            elif path.startswith("/accounts/") or path == "/favicon.ico":
                route.fulfill(body="<!doctype html><title>Elsewhere</title>", content_type="text/html")
            else:
                errors.append(f"unexpected request: {route.request.url}")
                route.abort()

        context.route("**/*", answer)
        page = context.new_page()
        page.on("console", lambda message: errors.append(message.text))
        page.on("pageerror", lambda error: errors.append(str(error)))
        return Visit(page, context, errors)

    yield open_window
    for context in contexts:
        context.close()


def path_of(template: str, says: str) -> str:
    return next(f"/{n}" for n, case in enumerate(PAGES) if case.template == template and case.says == says)


LOGIN = path_of("registration/login.html", "Forgot your password?")
WITH_ERRORS = path_of("registration/login.html", "Error: Log in")
NO_STYLE = path_of("registration/login.html", "Log in")
CHANGE = path_of("registration/password_change_form.html", "Change the password")


@needs_chromium
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_and_fit_narrow_screens(
    visit: Callable[..., Visit], site: dict[str, str], scheme: str
) -> None:
    window, axe, problems = visit(scheme), Axe(), []
    options = {"resultTypes": ["violations"], "rules": {"target-size": {"enabled": True}}}
    for path in site:
        if path.startswith("/ar/"):  # the same pages from right to left
            continue
        for width in (320, 1280):
            window.page.set_viewport_size({"width": width, "height": 800})
            if width == 320:
                window.page.goto(ORIGIN + path)
            report = axe.run(window.page, options=options).generate_snapshot()
            problems += [f"{path} at {width}: {violation}" for violation in report.splitlines()]
            if window.page.evaluate("document.documentElement.scrollWidth") > width:
                problems.append(f"{path} is wider than {width}")
        background = window.page.evaluate("getComputedStyle(document.body).backgroundColor")
        brightness = sum(int(part) for part in re.findall(r"\d+", background)[:3])
        assert (brightness < 3 * 128) is (scheme == "dark") or path == NO_STYLE
    assert not problems
    assert not window.errors


@needs_chromium
def test_right_to_left_pages_are_mirrored_and_not_wider(visit: Callable[..., Visit]) -> None:
    window = visit(width=320)
    for number in range(len(PAGES)):
        window.page.goto(f"{ORIGIN}/ar/{number}")
        assert window.page.evaluate("document.documentElement.scrollWidth") <= 320
    window.page.goto(f"{ORIGIN}/ar{WITH_ERRORS}")
    borders = "e => [getComputedStyle(e).borderRightWidth, getComputedStyle(e).borderLeftWidth]"
    assert window.page.get_by_role("alert").evaluate(borders) == ["4px", "0px"]
    assert not window.errors


@needs_chromium
def test_click_targets_are_large_enough(visit: Callable[..., Visit]) -> None:
    window = visit()
    too_small = """() => [...document.querySelectorAll(".auth-links a, .auth-button, button, input")]
        .filter((e) => e.checkVisibility() && !e.matches("[type=hidden], .auth-unseen"))
        .filter((e) => e.getBoundingClientRect().height < (e.type === "checkbox" ? 24 : 44))
        .map((e) => e.outerHTML)"""
    for number in range(len(PAGES)):
        if f"/{number}" != NO_STYLE:
            window.page.goto(f"{ORIGIN}/{number}")
            assert window.page.evaluate(too_small) == []


@needs_chromium
def test_buttons_have_a_border_in_forced_colours(visit: Callable[..., Visit]) -> None:
    window = visit(forced_colors=True)
    window.page.goto(ORIGIN + LOGIN)
    for box in (window.page.get_by_role("button", name="Log in"), window.page.get_by_role("main")):
        border, background = box.evaluate(
            "e => [getComputedStyle(e).borderTopColor, getComputedStyle(e).backgroundColor]"
        )
        assert border != background


@needs_chromium
def test_a_form_with_errors_focuses_them_and_links_to_the_fields(visit: Callable[..., Visit]) -> None:
    window = visit(javascript=False)
    window.page.goto(ORIGIN + WITH_ERRORS)
    alert = window.page.get_by_role("alert", name="Please correct the errors below")
    expect(alert).to_be_focused()
    alert.get_by_role("link", name="Username").click()
    expect(window.page.get_by_label("Username")).to_be_focused()
    expect(window.page.get_by_label("Username")).to_have_accessible_description("This is wrong.")
    assert "#id_username" in window.page.url


@needs_chromium
def test_without_javascript_there_is_no_show_password_button(visit: Callable[..., Visit]) -> None:
    window = visit(javascript=False)
    window.page.goto(ORIGIN + CHANGE)
    expect(window.page.get_by_role("button")).to_have_text(["Change the password", "Log out"])
    expect(window.page.locator("input[type=password]")).to_have_count(3)


@needs_chromium
@pytest.mark.parametrize("width", [320, 1280])
def test_the_show_password_button_is_inside_the_field(visit: Callable[..., Visit], width: int) -> None:
    window = visit(width=width)
    window.page.goto(ORIGIN + CHANGE)
    field = window.page.get_by_label("Old password").bounding_box()
    button = window.page.get_by_role("button", name="Show password").first.bounding_box()
    assert field
    assert button
    assert field["x"] < button["x"]
    assert button["x"] + button["width"] < field["x"] + field["width"]
    assert field["y"] < button["y"]
    assert button["y"] + button["height"] < field["y"] + field["height"]
    padding = window.page.get_by_label("Old password").evaluate("e => parseFloat(getComputedStyle(e).paddingRight)")
    assert padding >= button["width"]


@needs_chromium
def test_a_password_can_be_shown_and_is_hidden_before_submit(visit: Callable[..., Visit]) -> None:
    window = visit()
    window.page.goto(ORIGIN + CHANGE)
    field = window.page.get_by_label("Old password")
    button = window.page.get_by_role("button", name="Show password").first
    field.fill("a secret")
    expect(button).to_have_attribute("aria-pressed", "false")
    expect(button).to_have_accessible_description("Old password")
    button.press("Enter")
    expect(field).to_have_attribute("type", "text")
    expect(button).to_have_attribute("aria-pressed", "true")
    expect(window.page.get_by_role("status").first).to_have_text("The password is visible now.")
    expect(window.page.get_by_label("New password", exact=True)).to_have_attribute("type", "password")
    button.click()
    expect(field).to_have_attribute("type", "password")
    expect(window.page.get_by_role("status").first).to_have_text("The password is hidden now.")
    button.click()
    field_type = window.page.evaluate(
        """() => {
            const form = document.querySelector("form");
            form.addEventListener("submit", (event) => event.preventDefault());
            form.requestSubmit();
            return document.querySelector("#id_old_password").type;
        }"""
    )
    assert field_type == "password"
    expect(field).to_have_value("a secret")
    assert not window.errors


@needs_chromium
def test_a_password_can_be_pasted(visit: Callable[..., Visit]) -> None:
    window = visit()
    window.page.goto(ORIGIN + LOGIN)
    is_allowed = window.page.get_by_label("Password").evaluate(
        "e => e.dispatchEvent(new ClipboardEvent('paste', {bubbles: true, cancelable: true}))"
    )
    assert is_allowed
