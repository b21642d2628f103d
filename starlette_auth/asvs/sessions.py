"""Checks of V7: session keys, timeouts, ends of sessions, and reauthentication."""

import secrets

from ..backends.session import REMEMBERED
from ..sessions.base import AUTH_TIME, SessionBase
from ..sessions.expiry import SessionLimit
from . import survey
from .application import Person, Target
from .clients import Browser, is_done
from .passwords import MOUNT, NO_PASSWORDS
from .results import Result, absent, failed, manual, passed, some

DAY = 24 * 60 * 60
LONGEST = 30 * DAY  # NIST SP 800-63B-4 §2.1.3 (AAL1)
STORE = "Use DatabaseStore (the default), RedisStore or CachedStore."
LIMITS = 'Pass Auth(session_limits="aal1"), "aal2" or "aal3".'
OWN_STORE = "Use a session store of this package."
FACTOR_PAGES = ("totp", "totp_remove", "recovery_codes", "passkey_add", "passkey_remove")
STEP_UPS = {"fresh_login_required", "factor_required"}


async def verified_at_the_server(target: Target) -> Result:
    browser = await target.logged_in()
    key = target.session_key(browser)
    for forged in (secrets.token_urlsafe(32), key[:-1], key[:-4] + "AAAA", key.swapcase()):
        target.set_session_key(browser, forged)
        if await target.who(browser) is not None:
            return failed("a forged session cookie logs in", OWN_STORE)
    return passed("made-up, shortened and changed cookies count as none")


async def dynamic_tokens(target: Target) -> Result:
    person = await target.person()
    keys = {target.session_key(await target.logged_in(person)) for _ in range(3)}
    if len(keys) < 3:
        return failed("two logins have the same session cookie", OWN_STORE)
    return passed("each login gets another session key")


async def strong_keys(target: Target) -> Result:
    if not target.auth.sessions.is_server_side:
        return absent("the cookie holds a signed session, and no reference")
    keys = [target.session_key(await target.logged_in(await target.person())) for _ in range(3)]
    if min(map(len, keys)) < 22 or len({key[:8] for key in keys}) < 3:
        return failed("session keys have less than 128 bits", OWN_STORE)
    return passed(f"{len(keys[0])} random characters, of which the store holds a hash")


async def new_key_at_login(target: Target) -> Result:
    if not target.has_passwords:
        return absent(NO_PASSWORDS)
    person, browser = await target.person(), target.browser()
    if target.login_is_one_step:
        await target.enter(browser, person.name, person.password)
        keys = [target.session_key(browser)]
        await target.enter(browser, person.name, person.password)
        keys.append(target.session_key(browser))
    else:
        browser = await target.logged_in(person)
        keys = [target.session_key(browser)]
    reauthenticate = target.path("reauthenticate")
    if reauthenticate is not None:
        await browser.submit(reauthenticate, password=person.password)
        keys.append(target.session_key(browser))
    if len(set(keys)) < len(keys) or not keys[0]:
        return failed("a login keeps the session key", "Log in with login() or complete_login() of this package.")
    for old in keys[:-1]:
        target.set_session_key(browser, old)
        if target.auth.sessions.is_server_side and await target.who(browser) is not None:
            return failed("the old session key still works after a login", STORE)
    return passed("new at each login and reauthentication; the old key is dead")


async def _outlives(target: Target, person: Person, seconds: int, *, remembered: bool, used: bool) -> bool:
    """Returns whether the application accepts a session of this age. `used` tells that it was just in use."""
    browser = await target.logged_in(person)
    session: SessionBase = await target.auth.sessions.load(target.session_key(browser))
    now = target.auth.clock() + seconds
    session._clock = lambda: now
    if remembered:
        session[REMEMBERED] = True
    user = await target.auth.session_backend.get_user(session)
    if user is not None and used and session.record is not None and session.limit is not None:
        return now < session.record.created + session.limit.absolute
    return user is not None


def _limits(target: Target) -> list[tuple[str, SessionLimit]]:
    limits = target.auth.session_limits
    if limits is None:
        return []
    return [("remembered logins", limits.remembered), ("other logins", limits.default), ("staff", limits.staff)]


async def idle_timeout(target: Target) -> Result:
    limits = _limits(target)
    if not limits:
        return failed("no idle timeout", LIMITS)
    person = await target.person()
    for name, limit in limits:
        if limit.idle >= limit.absolute and limit.idle > DAY:
            return failed(f"{name} have no idle timeout: {_span(limit.idle)}", LIMITS)
        if limit.idle > LONGEST:
            return failed(f"{name} end after {_span(limit.idle)} without use", LIMITS)
    if await _outlives(target, person, limits[1][1].idle + 1, remembered=False, used=False):
        return failed("a session outlives its idle timeout", OWN_STORE)
    return passed("; ".join(f"{name} {_span(limit.idle)}" for name, limit in limits))


async def absolute_timeout(target: Target) -> Result:
    limits = _limits(target)
    if not limits:
        return failed("no absolute timeout", LIMITS)
    for name, limit in limits:
        if limit.absolute > LONGEST:
            return failed(f"{name} last {_span(limit.absolute)}; NIST allows 30 days", LIMITS)
    if await _outlives(target, await target.person(), limits[1][1].absolute + 1, remembered=False, used=True):
        return failed("a session outlives its absolute timeout", OWN_STORE)
    return passed("; ".join(f"{name} {_span(limit.absolute)}" for name, limit in limits))


def _span(seconds: int) -> str:
    for unit, size in (("d", DAY), ("h", 3600), ("min", 60)):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


async def timeouts_documented(target: Target) -> Result:
    spans = [f"{name} {_span(limit.absolute)}, idle {_span(limit.idle)}" for name, limit in _limits(target)]
    return manual(f"do you document and justify: {'; '.join(spans) or 'sessions without limits'}?")


async def concurrency_documented(target: Target) -> Result:
    number = target.auth.user_sessions.max_sessions
    limit = f"at most {number}" if number else "any number"
    return manual(f"do you document that a user may have {limit} of sessions at once?".replace("most 1 of", "most 1"))


async def logout(target: Target) -> Result:
    path = target.path("logout")
    if path is None:
        return failed("there is no logout page", MOUNT)
    browser = await target.logged_in()
    cookies = dict(browser.cookies)
    await browser.submit(path)
    if await target.who(browser) is not None:
        return failed("the logout page does not log out", "Use the logout page of this package.")
    browser.cookies.clear()
    browser.cookies.update(cookies)
    if await target.who(browser) is not None:
        return failed("the cookie from before the logout still works", STORE)
    return passed("the old cookie is dead at once")


async def disabled_and_deleted(target: Target) -> Result:
    users = target.auth.users
    person = await target.person()
    browser = await target.logged_in(person)
    await target.who(browser)
    await users.update(person.user, is_active=False)
    if await target.who(browser) is not None:
        return failed("a deactivated user stays logged in", OWN_STORE)
    await users.update(person.user, is_active=True)
    if target.auth.sessions.is_server_side and await target.who(browser) is not None:
        return failed("the session of a deactivated user comes back", STORE)
    other = await target.person()
    browser = await target.logged_in(other)
    await target.who(browser)
    await users.delete(other.user)
    if await target.who(browser) is not None:
        return failed("a deleted user stays logged in", OWN_STORE)
    return passed("both end all sessions with the next request")


async def others_end(target: Target) -> Result:
    path = target.path("password_change")
    if path is None or not target.has_passwords:
        return absent("no account page changes a factor")
    person = await target.person()
    here, there = await target.logged_in(person), await target.logged_in(person)
    await target.who(there)
    new = f"{secrets.token_urlsafe(18)} Ff6!"
    target.secrets.append(new)
    await here.submit(path, old_password=person.password, new_password1=new, new_password2=new)
    if await target.who(there) is not None:
        return failed("another session survives a changed password", "Use the page password_change of this package.")
    return passed("a changed password ends the other sessions")


async def logout_in_sight(target: Target) -> Result:
    path = target.path("logout")
    if path is None:
        return failed("there is no logout page", MOUNT)
    # Pages that a visitor gets too need no login.
    public = {exchange.scope["path"] for exchange in await survey.to_visitor(target) if exchange.status == 200}
    browser, bad, good = await target.logged_in(), [], 0
    for exchange in await survey.to_user(target):
        page = exchange.scope["path"]
        if exchange.status != 200 or not exchange.is_page or page in public or page == path:
            continue
        text = (await browser.get(page, wait=survey.PATIENCE)).text
        if f'"{path}"' in text or f"{path}?" in text:
            good += 1
        else:
            bad.append(page)
    if bad:
        return failed(
            f"no link or button for the logout on: {some(bad)}",
            'Put one into the layout of your pages, and into your template "auth_base.html" for the account pages.',
        )
    return passed(f"on {good} pages that need a login") if good else absent("no page needs a login")


async def ended_by_administrators(target: Target) -> Result:
    if not target.auth.sessions.supports_user_lookup:
        return failed(f"{type(target.auth.sessions).__name__} cannot end a user's sessions", STORE)
    person = await target.person()
    browser = await target.logged_in(person)
    await target.auth.user_sessions.revoke_all(person.user)
    if await target.who(browser) is not None:
        return failed("revoke_all() does not end a session", OWN_STORE)
    return passed(
        "of one user and of all: `starlette-auth sessions revoke`, user_sessions.revoke_all() and revoke_everybody()"
    )


async def sensitive_changes(target: Target) -> Result:
    path, factors = target.path("email_change"), await _factors_changed_by_an_old_login(target)
    if factors:
        return failed(f"an old login changes factors on {some(factors)}", "Use the pages of this package.")
    if path is None and target.path("totp") is not None:
        return passed("factors are changed only after a login or proof of the last 5 minutes")
    if path is None:
        return absent("no account page changes an address; ask for the password on pages of yours that do")
    person = await target.person()
    browser = await target.logged_in(person)
    address = f"asvs-{secrets.token_hex(8)}@example.org"
    target.addresses.append(address)
    for password in ("", "a wrong password"):
        if is_done(await browser.submit(path, email=address, old_password=password)):
            return failed("an address changes without the password", "Use the feature EmailChange().")
    changed = "a new address needs the password" + ("; factors a recent proof" if target.path("totp") else "")
    return passed(changed)


async def _factors_changed_by_an_old_login(target: Target) -> list[str]:
    """Returns the pages that change factors an hour after the login."""
    person = await target.person()
    browser = await target.logged_in(person)
    await _age_login(target, browser)
    open_pages = []
    for name in FACTOR_PAGES:
        path = target.path(name)
        if path is not None and (await browser.post_json(path, {"code": "000000"})).status_code not in (401, 403):
            open_pages.append(path)
    return open_pages


async def own_sessions(target: Target) -> Result:
    path, end = target.path("sessions"), target.path("sessions_end")
    if path is None or end is None:
        return failed("users cannot see and end their sessions", "Pass Auth(features=[ActiveSessions()]).")
    person = await target.person()
    browser, other = await target.logged_in(person), await target.logged_in(person)
    response = await browser.get(path, {"Accept": "application/json"})
    if response.status_code != 200 or len(response.json().get("sessions", ())) < 2:
        return failed(f"{path} does not list both sessions", "Use the page of ActiveSessions().")
    await _age_login(target, browser)
    await browser.submit(end, others="on")
    if await target.who(other) is None:
        return failed("an old login ends other sessions without the password", "Use the page of ActiveSessions().")
    fresh = await target.logged_in(person)
    await fresh.post(end, {"others": "on"})
    if await target.who(other) is not None:
        return failed("a session that was ended goes on", STORE)
    return passed("listed; ending them asks for the password after 5 minutes")


async def _age_login(target: Target, browser: Browser) -> None:
    """Lets the password of this session have been entered an hour ago."""
    session = await target.auth.sessions.load(target.session_key(browser))
    session[AUTH_TIME] = int(target.auth.clock()) - 3600
    value = await target.auth.sessions.save(session, session.get_expiry_age())
    target.set_session_key(browser, value)


async def no_login_without_action(target: Target) -> Result:
    login = target.path("login")
    if login is None or not target.has_passwords:
        return manual("does each login need an action of the user?")
    person, browser = await target.person(), target.browser()
    await browser.get(f"{login}?username={person.name}&password={person.password.replace(' ', '+')}")
    if browser.user is not None or await target.who(browser) is not None:
        return failed("a link logs in", "Use the login page of this package.")
    return passed("a GET logs no user in")


async def step_up(target: Target) -> Result:
    guarded = [str(e) for e in survey.endpoints(target) if STEP_UPS & set(e.guards)]
    return manual(
        "is every highly sensitive action guarded by fresh_login_required or factor_required(max_age=…)? "
        f"Guarded: {some(guarded) or 'none'}."
    )
