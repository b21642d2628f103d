"""Checks of V2.3, V6.4 and V14.2: mailed links, the reset of a password, and lost factors."""

import re
import secrets
from urllib.parse import urlsplit

from .application import Person, Target
from .clients import Browser
from .factors.apps import FIX as FACTORS
from .factors.apps import NO_FACTOR, enrol, has_apps, log_in
from .passwords import MOUNT, NO_PASSWORDS
from .results import Result, absent, failed, manual, passed, some

DAY = 24 * 60 * 60
NO_RESET = "there are no links: the application sends no mail, or has no page password_reset"
HINTS = re.compile("hint|question|answer|frage|antwort", re.IGNORECASE)
PAGE = "Send Referrer-Policy: no-referrer and Cache-Control: no-store with it (guide FastAPI)."
MAIL = 'Pass Auth(mailer=…, base_url="https://…") and mount the account pages.'


def _has_reset(target: Target) -> bool:
    return target.has_passwords and target.sends_mail and target.path("password_reset") is not None


async def _mailed_link(target: Target, person: Person) -> str:
    """Asks for a reset mail on the page, and returns the path of its link; "" if there is none."""
    await target.mails()
    await target.browser().submit(target.path("password_reset") or "", email=person.user.email)
    await target.auth.mail_queue.drain()
    links = [urlsplit(link).path for link in target.mailer.links(person.user.email)]
    target.mailer.clear()
    link = max(links, key=len, default="")
    target.secrets.append(link.rpartition("/")[2] or link)
    return link


async def _reset(target: Target, link: str, browser: Browser | None = None) -> str:
    """Chooses a new password with a link, and returns it."""
    new = f"{secrets.token_urlsafe(18)} Ee5!"
    target.secrets.append(new)
    browser = browser or target.browser()
    opened = await browser.get(link)  # moves the secret into a cookie
    form = target.form_of(opened.headers.get("location", link))
    await browser.submit(form, new_password1=new, new_password2=new)
    return new


async def _logs_in(target: Target, person: Person, password: str) -> bool:
    user = await target.auth.users.get(person.user.id)
    return user is not None and (await target.auth.passwords.check(user.password, password)).matches


async def initial_secrets(target: Target) -> Result:
    if not _has_reset(target):
        return manual("how do new users get their first password, and does it end soon?")
    if target.auth.reset_tokens.max_age > DAY:
        return failed("a mailed link works for more than a day", "Pass reset_tokens with a max_age of at most a day.")
    person = await target.person()
    link = await _mailed_link(target, person)
    new = await _reset(target, link)
    if not await _logs_in(target, person, new):
        return failed("a mailed link sets no password", "Use the page password_reset_confirm of this package.")
    if await _logs_in(target, person, await _reset(target, link)):
        return failed("a mailed link works twice", "Use the default reset_tokens.")
    return passed(f"links are random, work once, and for {target.auth.reset_tokens.max_age // 60} minutes")


async def no_hints(target: Target) -> Result:
    columns = [column.name for column in target.auth.tables.user.columns if HINTS.search(column.name)]
    if columns:
        return failed(f"columns of users: {some(columns)}", "Remove questions and hints, and send a reset mail.")
    return passed("the table of users has no such column")


async def secure_reset(target: Target) -> Result:
    if not target.has_passwords:
        return absent(NO_PASSWORDS)
    if not _has_reset(target):
        return failed("a forgotten password cannot be reset", f"{MAIL} {MOUNT}")
    enrolled = await enrol(target) if has_apps(target) else None
    person, browser = enrolled.person if enrolled is not None else await target.person(), target.browser()
    link = await _mailed_link(target, person)
    if not link:
        return failed("the reset mail has no link", MAIL)
    person.password = await _reset(target, link, browser)
    is_logged_in = await target.who(browser) is not None
    if is_logged_in and target.auth.login_steps:
        return failed("a reset logs in without the login steps", "Pass Auth(login_after_reset=False).")
    if enrolled is not None:
        if await log_in(target, person):
            return failed("after a reset the new password alone logs in", "Use the pages of TwoFactor().")
        return passed("by a link that works once; the second factor is asked for as before")
    return passed("by a link that works once" + ("" if is_logged_in else ", and does not log in"))


async def lost_factor(target: Target) -> Result:
    """Loses the app: a mailed link gives no access, and a recovery code does."""
    if not has_apps(target):
        return absent(NO_FACTOR)
    enrolled = await enrol(target)
    if enrolled is None:
        return failed("an app cannot be added", FACTORS)
    if _has_reset(target):
        link = await _mailed_link(target, enrolled.person)
        enrolled.person.password = await _reset(target, link)
        if await log_in(target, enrolled.person):
            return failed("a mailed link replaces a lost factor", FACTORS)
    if not await log_in(target, enrolled.person, recovery_code=enrolled.codes[0]):
        return failed("a recovery code does not replace the app", FACTORS)
    return passed(
        "a recovery code replaces the app, and a mailed link does not; document whom your staff helps, and how"
    )


async def steps_in_order(target: Target) -> Result:
    """Posts to the last step of a reset without the link, and with a link for another user."""
    if not _has_reset(target):
        return absent(NO_RESET)
    victim, attacker = await target.person(), await target.person()
    own, other = await _mailed_link(target, attacker), await _mailed_link(target, victim)
    if not own or not other:
        return failed("the reset mail has no link", MAIL)
    mixed = f"{other.rpartition('/')[0]}/{own.rpartition('/')[2]}"
    skipped = f"{other.rpartition('/')[0]}/set-password"
    browser = target.browser()
    await browser.get(own)
    for link in (mixed, skipped):
        if await _logs_in(target, victim, await _reset(target, link, browser)):
            return failed("a password was set with another user's link", "Use the default reset_tokens.")
    return passed("no password is set without the user's own link")


async def no_secrets_in_urls(target: Target) -> Result:
    if not _has_reset(target):
        return passed("no account page takes a secret in its URL")
    browser = target.browser()
    link = await _mailed_link(target, await target.person())
    response = await browser.get(link)
    location = response.headers.get("location", "")
    if target.takes_json_only:
        leaks = response.headers.get("referrer-policy") != "no-referrer"
        if leaks or "no-store" not in response.headers.get("cache-control", ""):
            return failed("your page for a mailed link lets the secret in its URL spread", PAGE)
        return manual("does no script and no log of your page for mailed links send or keep its URL?")
    if not location or link.rpartition("/")[2] in location:
        return failed("the secret of a mailed link stays in the URL", "Use the pages of this package.")
    return passed("the secret of a mailed link moves into a cookie at once")


async def random_secrets(target: Target) -> Result:
    if not _has_reset(target):
        return passed("session keys and CSRF secrets have 256 bits")
    people = [await target.person(), await target.person()]
    token, second = [await target.auth.reset_tokens.make(person.user) for person in people]
    if min(len(token), len(second)) < 22 or token == second:
        return failed("a mailed link has less than 128 bits", "Use the default reset_tokens.")
    return passed(f"session keys have 256 bits, and mailed links {len(token)} random characters")
