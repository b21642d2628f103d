"""Checks of V8: who may call which endpoint."""

from . import survey
from .application import Target
from .results import Result, absent, failed, manual, passed, some

OPEN = (
    "Guard each with a decorator such as login_required, or write @login_not_required above what all visitors may see; "
    "or pass middleware(auth, login_required=True)."
)


async def functions(target: Target) -> Result:
    """Each endpoint must say who may call it."""
    own = [e for e in survey.endpoints(target) if not e.is_ours and not e.is_documentation]
    silent = [str(endpoint) for endpoint in own if not endpoint.guards and not endpoint.is_public]
    guarded = sum(bool(endpoint.guards) for endpoint in own)
    if survey.requires_login_everywhere(target):
        return passed(f"LoginRequiredMiddleware, and {guarded} endpoints with further guards")
    if silent:
        return failed(f"open to all, and not marked so: {some(silent)}", OPEN)
    return passed(f"{guarded} endpoints of the application have guards, and {len(own) - guarded} are marked as public")


async def objects(target: Target) -> Result:
    paths = [str(e) for e in survey.endpoints(target) if "{" in e.path and not e.is_ours]
    if not paths:
        return absent("no path of the application names an object")
    rules = "With rules (guide Permissions) the package checks it."
    return manual(f"may a user reach the objects of others by changing the path? {rules} Paths: {some(paths)}.")


async def enforced_by_the_server(target: Target) -> Result:
    guarded = {e.path or "/" for e in survey.endpoints(target) if e.guards and e.can_be_asked and not e.is_ours}
    if survey.requires_login_everywhere(target):
        public = {e.path or "/" for e in survey.endpoints(target) if e.is_public}
        guarded |= {e.path or "/" for e in survey.endpoints(target) if e.can_be_asked} - public
    answers = [exchange for exchange in await survey.to_visitor(target) if exchange.scope["path"] in guarded]
    served = [exchange.name for exchange in answers if exchange.status < 300]
    if served:
        return failed(f"a visitor gets: {some(served)}", "Put the guard directly above the endpoint, below the route.")
    if not answers:
        return absent("no page that can be asked for is guarded")
    return passed(f"{len(answers)} guarded pages refuse a visitor, whatever a script would do")


async def changes_at_once(target: Target) -> Result:
    person = await target.person(is_staff=True)
    browser = await target.logged_in(person)
    before = await target.who(browser)
    await target.auth.users.update(person.user, is_staff=False)
    after = await target.who(browser)
    if before is None or not before.is_staff or after is None or after.is_staff:
        return failed("a changed right counts later", "Read request.user in each request.")
    return passed("a changed right counts with the next request")


async def extra_fields(target: Target) -> Result:
    """Sends fields that only staff may set along with a change of the password."""
    path = target.path("password_change")
    if path is None or not target.has_passwords:
        return absent("no account page writes to users")
    person = await target.person()
    browser = await target.logged_in(person)
    new = f"{target.password}2"
    target.secrets.append(new)
    extra = {"is_staff": "1", "is_superuser": "1", "user_id": "1", "email": "attacker@attacker.example"}
    await browser.submit(path, old_password=person.password, new_password1=new, new_password2=new, **extra)
    user = await target.auth.users.get(person.user.id)
    if user is None or user.is_staff or user.is_superuser or user.email != person.user.email:
        return failed("fields that the form does not have are written", "Name the fields that a page may write.")
    return passed("fields that a form does not have are ignored")


async def parameter_pollution(target: Target) -> Result:
    login = target.path("login")
    if login is None or not target.has_passwords:
        return absent("there is no login page")
    person, browser = await target.person(), target.browser()
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "Origin": browser.base_url,
        "Sec-Fetch-Site": "same-origin",
    }
    password = person.password.replace(" ", "+").replace("!", "%21")
    body = f"username={person.name}&password=wrong&password={password}"
    response = await browser.send("POST", login, body.encode(), headers)
    if await target.who(browser) is not None:
        return failed("of two passwords in a form, one is chosen", "Use the login page of this package.")
    return passed(f"a form with two passwords gets status {response.status_code}")


async def documentation_pages(target: Target) -> Result:
    pages = [str(e) for e in survey.endpoints(target) if e.is_documentation]
    if not pages:
        return absent("the application serves no documentation of its API")
    return manual(f"are these meant for the public? {some(pages)}. If not: FastAPI(openapi_url=None).")
