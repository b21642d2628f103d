"""Checks of V6.2: what passwords may be, and how they are entered and changed."""

import secrets
from datetime import UTC, datetime
from html.parser import HTMLParser
from typing import Any

from ..passwords.pwned import PwnedPasswordsValidator
from ..passwords.validators import CommonPasswordValidator, ContextWordsValidator
from ..users.models import User
from .application import Person, Target
from .clients import Browser, is_done
from .results import Check, Result, absent, failed, manual, passed, some

NO_PASSWORDS = "no user logs in with a password: ModelBackend is not in auth.backends"
VALIDATORS = "Keep the default password_validators, or build on default_validators()."
MOUNT = 'Mount the account pages: Mount("/accounts", routes=routes(auth)).'
# Well known in every list of common passwords. Those that are long enough for the application are tried.
COMMON = """
    password 12345678 123456789 1234567890 qwerty123 iloveyou password1 sunshine princess football baseball superman
    trustno1 1q2w3e4r5t qwertyuiop 1qaz2wsx3edc passw0rd123 administrator changeme123 password1234 welcome12345
    letmein123456 123456789012 1234567890123 12345678901234 123456789012345 1234567890123456 12345678901234567890
    qwertyuiopasdfg qwertyuiopasdfghjkl qwertyuiopasdfghjklzxcvbnm 1qaz2wsx3edc4rfv 1qaz2wsx3edc4rfv5tgb
    passwordpassword password123456789 passwordpassword123 111111111111111 000000000000000 aaaaaaaaaaaaaaaa
    1q2w3e4r5t6y7u8i9o0p abcdefghijklmnop abcdefghijklmnopqrstuvwxyz iloveyouiloveyou administrator123
    qwertyqwertyqwerty 987654321987654321 asdfghjklasdfghjkl
""".split()  # noqa: SIM905
BREACHED = """
    abcd1234efgh monkey123456 dragon123456 liverpool123 charlie12345 michael12345 superman12345
    ilovemyfamily mypasswordispassword passwordpasswordpassword ilovemyfamily123 iloveyousomuch123
    qazwsxedcrfvtgbyhn
""".split()  # noqa: SIM905


def only_with_passwords(check: Check) -> Check:
    """Wraps a check: an application whose users have no passwords gets "n/a"."""

    async def guarded(target: Target) -> Result:
        return await check(target) if target.has_passwords else absent(NO_PASSWORDS)

    return guarded


async def _is_accepted(target: Target, password: str) -> bool:
    name = f"asvs-{secrets.token_hex(8)}"
    user = User(id=None, username=name, email=f"{name}@example.org")
    return not await target.auth.validate_password(password, user)


async def _shortest(target: Target) -> int:
    """Returns how many random characters are accepted; 65 if even 64 are not."""
    for length in range(1, 65):
        if await _is_accepted(target, secrets.token_urlsafe(64)[:length]):
            return length
    return 65


async def _change(target: Target, browser: Browser, old: str, new: str) -> Any:
    path = target.path("password_change") or target.nowhere()
    return await browser.submit(path, old_password=old, new_password1=new, new_password2=new)


async def _has_password(target: Target, person: Person, password: str) -> bool:
    user = await target.auth.users.get(person.user.id)
    return user is not None and (await target.auth.passwords.check(user.password, password)).matches


async def minimum_length(target: Target) -> Result:
    for length in range(1, 8):
        if await _is_accepted(target, secrets.token_urlsafe(16)[:length]):
            return failed(f"{length} characters are accepted", VALIDATORS)
    person = await target.person()
    short = secrets.token_urlsafe(16)[:7]
    response = await _change(target, await target.logged_in(person), person.password, short)
    if is_done(response):
        return failed("the page password_change accepts 7 characters", VALIDATORS)
    shortest = await _shortest(target)
    return passed(f"at least {shortest} characters{'' if shortest >= 15 else '; 15 are recommended'}")


async def change_possible(target: Target) -> Result:
    if target.path("password_change") is None:
        return failed("there is no page password_change", MOUNT)
    person, new = await target.person(), f"{secrets.token_urlsafe(18)} Bb2!"
    target.secrets.append(new)
    await _change(target, await target.logged_in(person), person.password, new)
    if not await _has_password(target, person, new):
        return failed("the page password_change did not change a random password of 29 characters", VALIDATORS)
    return passed(f"on {target.path('password_change')}")


async def change_needs_old(target: Target) -> Result:
    if target.path("password_change") is None:
        return failed("there is no page password_change", MOUNT)
    person, new = await target.person(), f"{secrets.token_urlsafe(18)} Cc3!"
    browser = await target.logged_in(person)
    for old in ("", "a wrong password"):
        await _change(target, browser, old, new)
    if await _has_password(target, person, person.password):
        return passed("a missing and a wrong one are refused")
    return failed("the password changes without the old one", "Use the page password_change of this package.")


async def common(target: Target) -> Result:
    shortest = await _shortest(target)
    tried = [password for password in COMMON if len(password) >= shortest]
    accepted = [password for password in tried if await _is_accepted(target, password)]
    if accepted:
        return failed(f"accepted: {some(accepted)}", f"Add CommonPasswordValidator(). {VALIDATORS}")
    return passed(f"a sample of {len(tried)} common ones that are long enough is refused")


async def composition(target: Target) -> Result:
    digits = "".join(str(secrets.randbelow(10)) for _ in range(32))
    letters = "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(32))
    kinds = {
        "digits only": digits,
        "lower case only": letters,
        "blanks": " ".join(letters[n : n + 5] for n in range(0, 30, 5)),
        "emoji": "🦦🌵🎻🧭🪁🍄🛶🧶🐢🪶🏮🥁🧊🌋🪴🎲🦉🍉",
        "other scripts": "рыжиеёжикивысокоштормят",
    }
    refused = [kind for kind, password in kinds.items() if not await _is_accepted(target, password)]
    if refused:
        return failed(f"refused: {some(refused)}", "Remove validators that demand or forbid kinds of characters.")
    return passed(f"accepted: {', '.join(kinds)}")


class Inputs(HTMLParser):
    """Collects the attributes of the fields of a page whose names contain "password"."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.fields: list[dict[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        fields = {name: value or "" for name, value in attrs}
        if tag == "input" and "password" in fields.get("name", ""):
            self.fields.append(fields)


async def _fields(target: Target) -> list[tuple[str, dict[str, str]]]:
    browsers = {"login": target.browser(), "register": target.browser()}
    found = []
    for name in ("login", "register", "password_change", "reauthenticate", "email_change"):
        path = target.path(name)
        if path is not None:
            browser = browsers.get(name) or await target.logged_in()
            found += [(name, field) for field in Inputs((await browser.get(path)).text).fields]
    return found


async def masked(target: Target) -> Result:
    fields = await _fields(target)
    if not fields:
        return absent("no account page has a field for a password: your own pages show it")
    bad = [name for name, field in fields if field.get("type") != "password"]
    if bad:
        return failed(f"shown as text on: {some(bad)}", 'Write <input type="password"> in your template.')
    return passed(f"on {some([name for name, _ in fields])}")


async def managers(target: Target) -> Result:
    fields = await _fields(target)
    if not fields:
        return absent("no account page has a field for a password: your own pages show it")
    bad = [
        name
        for name, field in fields
        if field.get("autocomplete") == "off" or "onpaste" in field or "maxlength" in field or "readonly" in field
    ]
    if bad:
        return failed(f"hindered on: {some(bad)}", "Remove onpaste, readonly, maxlength and autocomplete=off.")
    return passed("no field forbids pasting, and each has its autocomplete token")


async def as_received(target: Target) -> Result:
    """Tries a password of 90 characters with another last character, as hashers that truncate would accept it."""
    person = await target.person()
    password = "Ab" + secrets.token_hex(44)
    target.secrets.append(password)
    await target.auth.users.set_password(person.user, password)
    for kind, wrong in {
        "another last character": f"{password[:-1]}{'0' if password[-1] != '0' else '1'}",
        "in lower case": password.lower(),
        "with a blank after it": f"{password} ",
    }.items():
        if await _has_password(target, person, wrong):
            return failed(f"also accepted: {kind}", "Use Argon2PasswordHasher() as the first hasher of Passwords([…]).")
    browser = target.browser()
    await target.enter(browser, person.name, f" {password}")
    if browser.user is not None:
        return failed("the login strips blanks", "Pass the password to authenticate() as it came.")
    return passed("with another last character, in lower case or with a blank: refused")


async def long_ones(target: Target) -> Result:
    password = secrets.token_urlsafe(48)
    if len(password) != 64 or not await _is_accepted(target, password):
        return failed("64 characters are refused", "Raise max_length of MaximumLengthValidator.")
    return passed("64 random characters are accepted")


async def no_rotation(target: Target) -> Result:
    person = await target.person(date_joined=datetime(2001, 1, 1, tzinfo=UTC))
    browser = target.browser()
    if not target.login_is_one_step:
        return manual("does a login page or step of yours make users change a password that is merely old?")
    if await target.enter(browser, person.name, person.password) is None:
        return failed("a user from 2001 cannot log in", "Remove what makes old passwords expire.")
    return passed("a password from 2001 still works")


async def context_words(target: Target) -> Result:
    validators = [v for v in target.auth.password_validators if isinstance(v, ContextWordsValidator)]
    words = [word for validator in validators for word in validator.words]
    if not words:
        return failed("no words of the site are forbidden", "Pass Auth(context_words=[…], site_name=…).")
    accepted = []
    for word in words:
        capital = word.capitalize()
        tried = (f"{capital}{capital}{capital}2026", f"{capital}-2026-{word}!!!")
        accepted += [password for password in tried if len(password) < 64 and await _is_accepted(target, password)]
    if accepted:
        return failed(f"accepted: {some(accepted)}", VALIDATORS)
    return passed(f"forbidden: {some(words)}")


async def breached(target: Target) -> Result:
    kinds = (CommonPasswordValidator, PwnedPasswordsValidator)
    used = [type(v).__name__ for v in target.auth.password_validators if isinstance(v, kinds)]
    if not used:
        return failed("no validator knows breached passwords", "Add CommonPasswordValidator().")
    shortest = await _shortest(target)
    tried = [password for password in BREACHED if len(password) >= shortest]
    accepted = [password for password in tried if await _is_accepted(target, password)]
    if accepted:
        return failed(f"accepted: {some(accepted)}", "Add PwnedPasswordsValidator(), or build a larger filter.")
    return passed(f"by {some(used)}; a sample of {len(tried)} is refused")
