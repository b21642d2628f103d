"""Every page and every mail in each of its states, told what the views tell them."""

from collections.abc import Callable
from typing import Any, NamedTuple

from markupsafe import Markup

from starlette_auth.core.exceptions import ValidationError
from starlette_auth.core.templating import BUILT_IN, Templates
from starlette_auth.core.translation import current_language
from starlette_auth.features.active_sessions import ActiveSession
from starlette_auth.features.api_tokens.tokens import APIToken
from starlette_auth.features.two_factor.store import Factors
from starlette_auth.features.two_factor.trusted_browsers import TrustedBrowser
from starlette_auth.pages.forms import Field, Form
from starlette_auth.users.models import AnonymousUser, User

SECTIONS = {f"registration/security_{name}.html" for name in ("email", "sessions", "tokens", "two_factor", "passkeys")}
PARTS = {
    *(
        "auth_base.html",
        "auth_forms.html",
        "auth_mail.html",
        "auth_passkeys.html",
        "registration/trusted_browsers.html",
    ),
    "registration/app_status.html",
    *SECTIONS,
}
TEMPLATES = {
    path.relative_to(BUILT_IN).as_posix() for path in BUILT_IN.rglob("*.*") if path.suffix in (".html", ".txt")
}
SITE, HOST = "Bücher & Mehr", "https://shop.example"
NAME, EMAIL, NEW_EMAIL, OLD_EMAIL = "ann<i>&", "ann@shop.example", "new@shop.example", "old@shop.example"
LINK = f"{HOST}/accounts/reset/MQ/q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA"
UNDO = f"{HOST}/accounts/undo/q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA"
WHEN, BROWSER, ADDRESS = "2026-07-31 12:30 UTC", "Firefox 150 (Linux)", "2001:db8::7"
# What is the visitor's own, or the site's: the same in each language.
PHONE, PHONE_ADDRESS = "Safari on iPhone", "192.0.2.1"
TOKEN, PERMISSION = "shop_0aB90aB90aB90aB90aB90aB90aB90aB90aB9", "shop.add_order"
USER_CODE = "BCDF-GHJK"
RECOVERY_CODE, KEY = "7k3d-9xq0-7k3d-9xq0-7k3d-9xq0", "GEZD GNBV GY3T QOJQ GEZD GNBV GY3T QOJQ"
DATA = (
    *(SITE, HOST, NAME, EMAIL, NEW_EMAIL, OLD_EMAIL, LINK, UNDO, WHEN, BROWSER, ADDRESS, PHONE, PHONE_ADDRESS),
    *(PERMISSION, USER_CODE, RECOVERY_CODE, KEY, f"Authorization: Bearer {TOKEN}"),
)

Say = Callable[[str], str]


class Case(NamedTuple):
    """A template in one state. `says` is on the page, in English."""

    template: str
    context: dict[str, Any]
    says: str

    @property
    def id(self) -> str:
        name = self.template.removeprefix("registration/").rpartition(".")[0]
        return f"{name}: {self.says}".replace("/", " ")


def ann() -> User:
    return User(id=1, username=NAME, email=EMAIL, is_active=True)


def render(template: str, context: dict[str, Any], templates: Templates | None = None) -> str:
    """As the package renders it, in the language that is spoken at the moment."""
    language = current_language()
    common = {
        "language": language.tag,
        "direction": language.direction,
        "site_name": SITE,
        "site_url": HOST,
        "user": AnonymousUser(),
        "csrf_input": "",
        "auth_url": lambda name: f"/accounts/{name}",
        "auth_link": lambda name: f"/accounts/{name}",
        "auth_style": "/auth.css",
        "auth_script": "/auth.js",
        "home": "/",
    }
    common["account_name"] = getattr(context.get("user"), "username", "")
    templates = templates or Templates()
    page: str = templates.environment.get_template(template).render({**common, **context})
    return page


def pages(say: Say = str) -> list[Case]:
    """The pages. `say` stands for the translation of what comes from Python: labels, help and errors."""
    user = {"user": ann()}
    reset = "registration/password_reset_confirm.html"
    confirm = "registration/register_confirm.html"
    undo = "registration/email_undo_confirm.html"
    dead = "This link no longer works"
    alone = {"auth_link": lambda name: None, "site_name": "", "auth_script": None, "auth_style": None}
    return [
        Case("registration/login.html", {"form": _login(say)}, "Forgot your password?"),
        Case("registration/login.html", {"form": _login(say), **alone}, "Log in"),
        Case("registration/login.html", {"form": _login(say), **user}, "Log in with another account"),
        Case("registration/login.html", {"form": _login(say), "is_weak": True}, "This account needs more than that"),
        Case("registration/login.html", {"form": _wrong(_login(say), say)}, "Please correct the errors below"),
        Case("registration/login.html", {"form": _all_wrong(_login(say), say)}, "Error: Log in"),
        Case("registration/login.html", {"form": _login(say), **_passkey()}, "Log in with a passkey"),
        Case(
            "registration/login.html",
            {"form": _wrong(_login(say), say), "unknown_passkey": {"credentialId": "AA"}, **_passkey()},
            "Error: Log in",
        ),
        Case("registration/logged_out.html", {}, "You are logged out"),
        Case("registration/logged_out.html", user, "You are still logged in"),
        Case("registration/logout.html", {"form": Form(), **user}, "Log out to end your session"),
        Case(
            "registration/saved_form.html",
            {"action": "/notes?a=1", "saved": [("name", NAME), ("text", f"{NAME}\n{NAME}"), ("empty", "")], **user},
            "has not been sent yet",
        ),
        *_with_errors("registration/reauthenticate.html", _again, say, "enter your password again", **user),
        Case("registration/reauthenticate.html", {"form": _again(say), "is_lost": True, **user}, "could not be saved"),
        Case("registration/reauthenticate.html", {"form": _again(say), **_passkey(), **user}, "Use a passkey"),
        Case("registration/reauthenticate.html", {"form": Form(), **_passkey(), **user}, "use your passkey"),
        *_with_errors("registration/passkey_add.html", _named, say, "Add a passkey", **_passkey(), **user),
        *_with_errors(
            "registration/passkey_add.html", _named, say, "Have your security key", is_key=True, **_passkey(), **user
        ),
        Case("registration/passkeys.html", {"passkeys": [], **_list(say), **user}, "You have no passkeys"),
        Case(
            "registration/passkeys.html",
            {"passkeys": _passkeys(), "is_done": True, "signal": {"rpId": HOST}, **_list(say), **user},
            "on several of your devices",
        ),
        Case(
            "registration/passkeys.html",
            {"passkeys": _passkeys(), "is_full": True, "offers_keys": True, **_list(say), **user},
            "as many as possible",
        ),
        Case(
            "registration/passkeys.html",
            {"passkeys": _passkeys(), "offers_keys": True, "next": "/orders?page=2", **_list(say), **user},
            "Add a security key",
        ),
        Case(
            "registration/reauthenticated.html",
            {"action": "/staff?a=1", "saved": [("name", NAME), ("text", "a\nb")], **user},
            "is being submitted",
        ),
        Case(
            "registration/sessions.html",
            {"active_sessions": _active_sessions(), "others": 2, "more": 3, **_list(say), **user},
            "3 more",
        ),
        Case(
            "registration/sessions.html",
            {"active_sessions": _active_sessions()[:1], "others": 0, "more": 0, "is_done": True, **_list(say), **user},
            "not logged in on any other device",
        ),
        Case("registration/tokens.html", {"tokens": _tokens(), **_token_list(say), **user}, "Expired"),
        Case(
            "registration/tokens.html",
            {"tokens": [], "is_done": True, **_token_list(say), **user},
            "You have no tokens",
        ),
        *_with_errors(
            "registration/token_form.html", _token, say, "Create the token", permissions=[PERMISSION], **user
        ),
        Case("registration/token_created.html", {"token": _tokens()[0], **user}, "shown only once"),
        *_with_errors("registration/device_form.html", _code, say, "Continue", **user),
        Case("registration/device_confirm.html", {**_device(say), **user}, "Compare this code"),
        Case(
            "registration/device_confirm.html",
            {**_device(say), "scopes": None, "is_elsewhere": True, **user},
            "in another network",
        ),
        Case("registration/device_done.html", {"is_approved": True, **user}, "Your device is logged in"),
        Case("registration/device_done.html", {"is_approved": False, **user}, "no access to your account"),
        *_with_errors("registration/second_factor.html", _second_factor, say, "authenticator app", **_both_factors()),
        Case(
            "registration/second_factor.html",
            {"form": _second_factor(say), "login_name": NAME, "methods": ["totp"]},
            "Begin again",
        ),
        Case(
            "registration/second_factor.html",
            {"form": _second_factor(say), "is_step_up": True, **_both_factors(), **user},
            "Back to the start page",
        ),
        Case(
            "registration/second_factor.html",
            {"form": _second_factor(say), "login_name": NAME, "methods": ["key", "recovery_code"], **_passkey()},
            "I do not have it with me",
        ),
        Case(
            "registration/second_factor.html",
            {"form": _second_factor(say), **_both_factors(), **_passkey()},
            "Use passkey or security key",
        ),
        *_with_errors("registration/totp.html", _app_code, say, "Scan this picture", **_app(), **user),
        Case(
            "registration/second_factor.html",
            {"form": _trusting(say), "login_name": NAME, "methods": ["recovery_code", "totp"]},
            "Do not ask again",
        ),
        Case(
            "registration/totp.html",
            {"form": _app_code(say), "replaces": True, **_app(), **user},
            "replaces the one that you have",
        ),
        *_with_errors("registration/totp.html", _app_code, say, "needs a second factor", login_name=NAME, **_app()),
        *_with_errors("registration/enrol.html", _mailed_code, say, "Send a new code", login_name=NAME, is_sent=True),
        Case(
            "registration/enrol.html",
            {"form": _mailed_code(say), "login_name": NAME, "is_sent": False},
            "Send the code",
        ),
        Case("registration/totp_status.html", {"factors": _factors(2), **_list(say), **user}, "few recovery codes"),
        Case("registration/totp_status.html", {"factors": _factors(10), **_list(say), **user}, "Not used yet"),
        Case("registration/totp_status.html", {**_trusted(), **_list(say), **user}, "Ask again in all browsers"),
        Case("registration/totp_remove.html", user, "not ask for a code any more"),
        Case("registration/recovery_codes.html", {"left": 3, **user}, "replace all earlier ones"),
        Case("registration/recovery_codes_made.html", {"codes": [RECOVERY_CODE] * 10, **user}, "shown only once"),
        Case("registration/recovery_codes_made.html", {"codes": [RECOVERY_CODE], "login": TOKEN}, "I have kept them"),
        Case("registration/security.html", {**_security(say), **user}, "You can log in with your password"),
        Case(
            "registration/security.html",
            {**_security(say, app=0, number=1), "has_password": False, "was_set": True, **user},
            "has no password",
        ),
        Case(
            "registration/security.html",
            {**_security(say, app=2), "is_after_reset": True, "next": "/orders?page=2", **user},
            "Remove what you did not add",
        ),
        *_with_errors("registration/password_set_form.html", _new, say, "Set the password", **user),
        *_with_errors("registration/password_change_form.html", _change, say, "Change the password", **user),
        Case("registration/password_change_done.html", user, "Your password has been changed"),
        *_with_errors("registration/password_reset_form.html", _email, say, "Send the link"),
        Case("registration/password_reset_done.html", {}, "at most one such e-mail in five minutes"),
        *_with_errors(reset, _new, say, "Choose a new password", validlink=True, account_name=NAME),
        Case(reset, {"form": Form(), "validlink": False}, dead),
        Case("registration/password_reset_complete.html", {}, "Your new password has been saved"),
        *_with_errors("registration/register_form.html", _register, say, "Create the account"),
        Case("registration/register_done.html", {"verify": "before"}, "after that you can log in"),
        Case("registration/register_done.html", {"verify": "after"}, "We have also sent you an e-mail"),
        Case("registration/register_done.html", {"verify": ""}, "Your account is ready"),
        *_with_errors("registration/register_resend.html", _email, say, "Send the e-mail again"),
        Case(confirm, {"form": Form(), "validlink": True}, "Confirm the address"),
        Case(confirm, {"form": _taken(say), "validlink": True}, "Register again"),
        Case(confirm, {"form": Form(), "validlink": False}, dead),
        Case("registration/register_complete.html", {}, "Log in"),
        Case("registration/register_complete.html", user, "Continue"),
        *_with_errors("registration/email_change_form.html", _email_change, say, "It stays in use until", **user),
        Case(
            "registration/email_change_form.html",
            {"form": _email_change(say), "user": User(id=2, username=NAME)},
            "no address yet",
        ),
        Case("registration/email_change_done.html", user, "on its way to the new address"),
        Case(
            "registration/email_change_confirm.html",
            {"form": Form(), "validlink": True, "email": NEW_EMAIL, **user},
            "Once you confirm it, e-mails",
        ),
        *_with_errors(
            "registration/email_change_confirm.html",
            _again,
            say,
            "Log in instead",
            validlink=True,
            email=NEW_EMAIL,
            here="/confirm/open",
        ),
        Case("registration/email_change_confirm.html", {"form": Form(), "validlink": False}, dead),
        Case("registration/email_change_complete.html", user, "Your e-mail address has been changed"),
        Case(undo, {"form": Form(), "validlink": True, "email": OLD_EMAIL}, "It was not me"),
        Case(undo, {"form": _taken(say), "validlink": True, "email": OLD_EMAIL}, "Log in"),
        Case(undo, {"validlink": False}, dead),
        Case("registration/email_undo_complete.html", {}, "Your old address is back"),
        Case("403_csrf.html", {"reason": say("It came from another site.")}, "Your request was not accepted"),
        Case("auth_error.html", {"code": "invalid_request", "detail": say("Send it again.")}, "Something went wrong"),
        Case("auth_error.html", {"code": "too_large", "detail": say("Shorten it.")}, "That was too long"),
        *(
            Case("auth_error.html", {"code": code, "detail": say("Wait a minute.")}, heading)
            for code, heading in {
                "throttled": "Too many attempts",
                "too_many_sessions": "Logged in on too many devices",
                "busy": "Too many visitors at once",
                "unavailable": "Not available at the moment",
                "session_ended": "Your session has ended",
            }.items()
        ),
        Case(
            "auth_error.html",
            {
                "code": "permission_denied",
                "detail": say("Ask."),
                "login_again": "/login",
                "redirect_field_name": "next",
            },
            "You may not open this page",
        ),
    ]


def mails(say: Say = str) -> list[Case]:
    """The mails, each as subject, text and HTML."""
    link = {"link": LINK, "email": EMAIL, "valid_for": say("30 minutes")}
    ours = {**link, "user": ann()}
    happened = {"user": ann(), "link": LINK, "when": WHEN, "browser": BROWSER, "address": ADDRESS}
    moved = {**happened, "old_email": OLD_EMAIL, "new_email": NEW_EMAIL}
    changed = {**happened, "factor": say("Authenticator app")}
    stolen = {**moved, "undo_link": UNDO, "valid_for": say("3 days")}
    bare = {"kind": "sessions_ended", "user": None, "link": None, "when": WHEN, "browser": "", "address": ""}
    found: list[tuple[str, dict[str, Any], str, str]] = [
        ("password_reset", ours, "Choose a new password for", "your password stays as it is"),
        ("register", ours, "Confirm your e-mail address for", "used to register at"),
        ("register", {**link, "user": None}, "Confirm your e-mail address for", "will not be confirmed"),
        ("address_taken", {**ours, "attempt": "register"}, "You have an account", "nothing was created"),
        (
            "address_taken",
            {**ours, "attempt": "email_change"},
            "A request to use your address",
            "nothing was changed",
        ),
        ("enrol", {**ours, "link": None, "code": USER_CODE}, "Your code for", USER_CODE),
        ("username_taken", {**link, "user": None}, "Choose another username", "no account was created"),
        ("email_change", {**ours, "email": NEW_EMAIL}, "Confirm your new e-mail address", "request to use the address"),
        ("notice", {**happened, "kind": "password_changed"}, "was changed", "All other devices"),
        ("notice", {**happened, "kind": "password_reset"}, "was reset", "All devices"),
        ("notice", {**happened, "kind": "password_reset", "factors": [NAME]}, "was reset", "did not add"),
        ("notice", {**moved, "kind": "email_changed"}, "Your e-mail address", "choose a new password at once"),
        ("notice", {**stolen, "kind": "email_changed"}, "Your e-mail address", "bring back your address"),
        ("notice", {**happened, "kind": "new_device"}, "from a new device", "have not seen before"),
        ("notice", {**happened, "kind": "token_created", "token_name": NAME}, "A new API token", "was created"),
        ("notice", {**changed, "kind": "factor_added"}, "Added to your account", "remove what you did not add"),
        ("notice", {**changed, "kind": "factor_removed"}, "Removed from your account", "was removed from your account"),
        ("notice", {**happened, "kind": "recovery_code_used", "number": 9}, "A recovery code", "Unused recovery codes"),
        ("notice", {**happened, "kind": "recovery_codes_made"}, "New recovery codes", "replace all earlier ones"),
        ("notice", {**happened, "kind": "passkey_suspicious", "name": NAME}, "A passkey", "a copy of this passkey"),
        ("notice", {**happened, "kind": "second_factor_failed", "number": 5}, "Wrong codes", "wrong codes, one after"),
        ("notice", {**happened, "kind": "sessions_ended"}, "You were logged out", "Devices were logged out"),
        ("notice", bare, "You were logged out", "the people who run this site"),
        ("notice", {**happened, "kind": "one of a feature"}, "About your account", "Something about your account"),
    ]
    return [
        Case(f"registration/{name}_{part}", context, subject if part == "subject.txt" else says)
        for name, context, subject, says in found
        for part in ("subject.txt", "email.txt", "email.html")
    ]


def _with_errors(template: str, make: Callable[[Say], Form], say: Say, says: str, **context: Any) -> list[Case]:
    """As it opens, and with an error in each field."""
    context["password_help"] = [say("It has at least 15 characters."), say("It is none that many people use.")]
    empty, refused = {**context, "form": make(say)}, {**context, "form": _all_wrong(make(say), say)}
    return [Case(template, empty, says), Case(template, refused, "Error:")]


def _all_wrong(form: Form, say: Say) -> Form:
    for name, field in form.fields.items():
        form.data[name] = NAME if field.type in ("text", "checkbox") else f"{NAME}@@"
        form.add_error(name, ValidationError(say("This is wrong.")))
    form.add_error("", ValidationError(say("All in all, this is wrong.")))
    return form


def _wrong(form: Form, say: Say) -> Form:
    form.data["username"] = NAME
    form.add_error("", ValidationError(say("This is no name and password that belong together.")))
    return form


def _taken(say: Say) -> Form:
    form = Form()
    form.add_error("", ValidationError(say("Somebody was faster.")))
    return form


def _password(label: str, autocomplete: str) -> Field:
    rules = "minlength: 15; maxlength: 1024; allowed: unicode;" if autocomplete == "new-password" else ""
    return Field(label=label, type="password", autocomplete=autocomplete, max_length=1024, passwordrules=rules)


def _login(say: Say) -> Form:
    form = Form(
        username=Field(label=say("Username"), autocomplete="username", max_length=254),
        password=_password(say("Password"), "current-password"),
        remember=Field(
            label=say("Stay logged in"), type="checkbox", required=False, help_text=say("Not on others’ devices.")
        ),
        next=Field(type="hidden", required=False),
    )
    form.data["next"] = "/orders?page=2"
    return form


def _change(say: Say) -> Form:
    return Form(old_password=_password(say("Old password"), "current-password"), **_new(say).fields)


def _new(say: Say) -> Form:
    return Form(
        new_password1=_password(say("New password"), "new-password"),
        new_password2=_password(say("New password, once more"), "new-password"),
    )


def _again(say: Say) -> Form:
    form = Form(
        password=_password(say("Password"), "current-password"),
        next=Field(type="hidden", required=False),
        saved=Field(type="hidden", required=False),
    )
    form.data["next"], form.data["saved"] = "/staff?a=1", f'[["name", "{NAME}"]]'
    return form


def _passkey() -> dict[str, Any]:
    return {"passkey": {"challenge": "AA"}, "passkey_autofill": True, "passkey_reload": 3540}


def _passkeys() -> list[dict[str, Any]]:
    times = {"created": 1_700_000_000, "last_used": None}
    return [
        {"id": 1, "name": NAME, "is_key": False, "synced": True, "created": 1_700_000_000, "last_used": 1_800_000_000},
        {"id": 2, "name": PHONE, "is_key": False, "synced": False, **times},
        {"id": 3, "name": BROWSER, "is_key": True, "synced": False, **times},
    ]


def _named(say: Say) -> Form:
    return Form(name=Field(label=say("Name"), required=False, max_length=100, help_text=say("Such as the device.")))


def _active_sessions() -> list[ActiveSession]:
    long_ago = {"created": 1_700_000_000, "last_seen": 1_800_000_000}
    return [
        ActiveSession(id="a", device=BROWSER, address=ADDRESS, is_this=True, **long_ago),
        ActiveSession(id="b", device=PHONE, address=PHONE_ADDRESS, is_this=False, **long_ago),
        ActiveSession(id="c", device="", address="", is_this=False, **long_ago),
    ]


def _tokens() -> list[APIToken]:
    times: dict[str, Any] = {"created": 1_700_000_000, "last_used": 1_700_000_000, "last_address": ADDRESS}
    every = (PERMISSION, "shop.view_order")
    return [
        APIToken(id=1, name=NAME, hint="shop_0aB9", scopes=every, expires=1_900_000_000, token=TOKEN, **times),
        APIToken(id=2, name=NAME, hint="shop_1aB9", scopes=None, expires=1_700_000_001, created=1_700_000_000),
    ]


def _token_list(say: Say) -> dict[str, Any]:
    return {**_list(say), "now": 1_800_000_000, "days_left": lambda token: 30}


def _code(say: Say) -> Form:
    help_text = say("Your device or command line shows it.")
    return Form(user_code=Field(label=say("Code"), max_length=20, help_text=help_text))


def _app_code(say: Say) -> Form:
    return Form(code=Field(label=say("Code from your app"), autocomplete="one-time-code"))


def _mailed_code(say: Say) -> Form:
    hidden = Field(type="hidden", required=False)
    code = Field(label=say("Code from the e-mail"), required=False, autocomplete="one-time-code")
    form = Form(code=code, login=hidden, send=hidden)
    form.data.update(login=TOKEN, send="1")
    return form


def _either_code(say: Say) -> Form:
    return Form(
        code=Field(label=say("Code from your app"), required=False, autocomplete="one-time-code"),
        recovery_code=Field(label=say("Recovery code"), required=False, help_text=say("It works once.")),
    )


def _app() -> dict[str, str]:
    return {
        "qr": '<svg viewBox="0 0 45 45" class="auth-qr"><path d="M4 4h7"/></svg>',
        "uri": "otpauth://totp/x",
        "key": KEY,
    }


def _factors(number: int) -> Factors:
    used = 1_700_000_000 if number < 4 else None
    return Factors(totp_since=1_600_000_000, totp_last_used=used, recovery_codes=number)


def _trusted() -> dict[str, Any]:
    browsers = [
        TrustedBrowser(id=id, device=device, created=1_600_000_000, expires=1_900_000_000, is_this=is_this)
        for id, device, is_this in ((TOKEN, PHONE, True), ("x", "", False))
    ]
    return {"factors": _factors(10), "trusted_browsers": browsers}


def _trusting(say: Say) -> Form:
    form, label = _second_factor(say), say("Do not ask again in this browser for %(time)s")
    form.fields["trust"], form.data["trust"] = Field(label=label, type="checkbox", required=False), ""
    return form


def _security(say: Say, *, app: int = 10, number: int = 2) -> dict[str, Any]:
    """The page with a section of each feature."""
    contexts: dict[str, dict[str, Any]] = {
        "email": {"email": EMAIL if app else ""},
        "two_factor": {"factors": _factors(app) if app else Factors(), **_list(say)},
        "passkeys": {"passkeys": number, "keys": 0},
        "sessions": {"number": number},
        "tokens": {"number": number if app else 0},
    }
    sections = [Markup(render(f"registration/security_{name}.html", values)) for name, values in contexts.items()]
    return {"sections": sections, "has_password": True, "may_set_password": True}


def _second_factor(say: Say) -> Form:
    hidden = Field(type="hidden", required=False)
    form = Form(**_either_code(say).fields, login=hidden, next=hidden)
    form.data["login"] = TOKEN
    return form


def _both_factors() -> dict[str, Any]:
    return {"login_name": NAME, "methods": ["totp", "recovery_code"]}


def _device(say: Say) -> dict[str, Any]:
    shown = {"client": NAME, "user_code": USER_CODE, "address": ADDRESS, "browser": BROWSER, "scopes": [PERMISSION]}
    return {**shown, "time": say("just now"), "is_elsewhere": False, "handle": TOKEN}


def _token(say: Say) -> Form:
    return Form(
        name=Field(label=say("Name"), max_length=100),
        expires=Field(label=say("Days until it expires"), required=False, max_length=5),
        scopes=Field(label=say("Permissions"), required=False, help_text=say("Names of permissions.")),
    )


def _list(say: Say) -> dict[str, Any]:
    return {"format_time_since": lambda time: say("3 days ago")}


def _email(say: Say) -> Form:
    return Form(email=Field(label=say("E-mail address"), type="email", autocomplete="email", max_length=254))


def _email_change(say: Say) -> Form:
    return Form(**_email(say).fields, old_password=_password(say("Password"), "current-password"))


def _register(say: Say) -> Form:
    return Form(
        username=Field(label=say("Username"), autocomplete="username", max_length=150, help_text=say("Others see it.")),
        **_email(say).fields,
        nickname=Field(label=say("What others call you"), required=False),
        password1=_password(say("Password"), "new-password"),
        password2=_password(say("Password, once more"), "new-password"),
    )
