"""Checks of V3.2 to V3.4: cookies and the security headers of responses."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from http.cookies import SimpleCookie

from ..middlewares.security_headers import DEFAULT_POLICY, YEAR, SecurityHeaders
from . import survey
from .application import Target
from .clients import ATTACKER, Exchange
from .results import Result, failed, passed, some

OURS = "Keep the defaults of Cookie(…)"
HEADERS = "Pass the SecurityHeaders that are written below the table."
MAX_COOKIE = 4096  # bytes
BROAD = {"*", "https:", "http:", "data:", "'unsafe-inline'", "'unsafe-eval'"}


async def _cookies(target: Target) -> list[tuple[str, str]]:
    """Returns the name and the header of each cookie that the application sets over https."""
    if "cookies" not in target.cache:
        browser, person = target.browser(), await target.person()
        if target.has_passwords:
            await target.enter(browser, person.name, person.password)
        exchanges = [*browser.exchanges, *await survey.responses(target)]
        headers = [header for exchange in exchanges for header in exchange.all("set-cookie")]
        found = {header.partition("=")[0].strip(): header for header in headers if "Max-Age=0" not in header}
        if not target.session_key(browser):  # without a login page: as the middleware would write it
            cookie = target.auth.cookie
            scope = {"type": "http", "scheme": "https", "headers": [(b"host", target.base_url[8:].encode())]}
            text = cookie.header(scope, "x" * 43, None)[1].decode()
            found[text.partition("=")[0]] = text
        target.cache["cookies"] = list(found.items())
    pairs: list[tuple[str, str]] = target.cache["cookies"]
    return pairs


def _has(header: str, attribute: str) -> bool:
    return attribute in [part.strip().lower() for part in header.split(";")[1:]]


async def _judge(target: Target, wrong: Callable[[str, str], bool], what: str, fix: str) -> Result:
    cookies = await _cookies(target)
    bad = [name for name, header in cookies if wrong(name, header)]
    if bad:
        return failed(f"not so: {some(bad)}", fix)
    return passed(f"{what}: {some([name for name, _ in cookies])}")


async def secure(target: Target) -> Result:
    def wrong(name: str, header: str) -> bool:
        return not _has(header, "secure") or not name.startswith(("__Host-", "__Secure-"))

    fix = f'{OURS}: secure="auto", prefix=True. Give cookies of your own the attribute Secure and a prefix.'
    return await _judge(target, wrong, "over https", fix)


async def same_site(target: Target) -> Result:
    def wrong(name: str, header: str) -> bool:
        return not (_has(header, "samesite=lax") or _has(header, "samesite=strict"))

    return await _judge(target, wrong, "Lax or Strict", f'{OURS}: samesite="lax". Write it into cookies of your own.')


async def host_prefix(target: Target) -> Result:
    def wrong(name: str, header: str) -> bool:
        return not name.startswith("__Host-") and "domain=" not in header.lower()

    return await _judge(
        target, wrong, "for this host, or shared on purpose by a domain", f'{OURS}: prefix=True, path="/".'
    )


async def http_only(target: Target) -> Result:
    result = await _judge(
        target,
        lambda _, header: not _has(header, "httponly"),
        "not for scripts",
        f"{OURS}: httponly=True. Give it to cookies of your own that no script reads.",
    )
    browser = await target.logged_in()
    key = target.session_key(browser)
    for endpoint in survey.endpoints(target)[: survey.MOST]:
        if result.status == "pass" and endpoint.can_be_asked and not endpoint.is_websocket:
            page = await browser.get(endpoint.path or "/", wait=survey.PATIENCE)
            if key in page.text:
                return failed(f"{endpoint.path} contains the session key", "Do not write cookies and keys into pages.")
    return result


async def size(target: Target) -> Result:
    def wrong(name: str, header: str) -> bool:
        morsels = SimpleCookie(header)
        return any(len(key) + len(morsel.coded_value) > MAX_COOKIE for key, morsel in morsels.items())

    return await _judge(target, wrong, f"at most {MAX_COOKIE} bytes", "Store less in the cookie, or use DatabaseStore.")


def _result(exchanges: Sequence[Exchange], lacks: Callable[[Exchange], bool], fix: str) -> Result:
    bad = [exchange.name for exchange in exchanges if lacks(exchange)]
    if bad:
        return failed(f"{len(bad)} of {len(exchanges)} responses lack it: {some(bad)}", fix)
    return passed(f"on all {len(exchanges)} responses that were asked for")


def _headers(exchanges: Sequence[Exchange], lacks: Callable[[Exchange], bool], wanted: Mapping[str, object]) -> Result:
    """Returns the result of a row about a header of SecurityHeaders, with the arguments that mend it."""
    return replace(_result(exchanges, lacks, HEADERS), headers=wanted)


async def hsts(target: Target) -> Result:
    wants_subdomains = target.level >= 2

    def lacks(exchange: Exchange) -> bool:
        value = exchange.header("strict-transport-security").lower()
        age = value.partition("max-age=")[2].partition(";")[0].strip()
        is_long = age.isdecimal() and int(age) >= YEAR
        return not is_long or (wants_subdomains and "includesubdomains" not in value)

    wanted = {"hsts": YEAR, "hsts_subdomains": True} if wants_subdomains else {"hsts": YEAR}
    return _headers(await survey.responses(target), lacks, wanted)


async def cors(target: Target) -> Result:
    browser = await target.logged_in()
    paths = ["/", *[endpoint.path for endpoint in survey.endpoints(target) if endpoint.can_be_asked][:20]]
    for path in dict.fromkeys(paths):
        await browser.get(path, {"Origin": ATTACKER}, wait=survey.PATIENCE)
        if browser.exchanges[-1].header("access-control-allow-origin") in (ATTACKER, "*", "null"):
            return failed(
                f"{path} lets every site read a user's response", "Name the origins: CORSMiddleware(allow_origins=[…])."
            )
    return passed("no response lets an unknown origin read it")


async def wrong_context(target: Target) -> Result:
    """Data must not be rendered as a page: each response names its type, and data is protected against sniffing."""

    def lacks(exchange: Exchange) -> bool:
        kind = exchange.header("content-type")
        has_body = exchange.header("content-length") not in ("", "0")
        if exchange.is_page or not has_body:
            return False
        is_protected = exchange.header("x-content-type-options") == "nosniff"
        return not kind or not (is_protected or "attachment" in exchange.header("content-disposition"))

    return _headers(await survey.responses(target), lacks, {})


def _directives(exchange: Exchange) -> dict[str, list[str]]:
    parts = [part.split() for part in exchange.header("content-security-policy").lower().split(";") if part.split()]
    return {name: values for name, *values in parts}


async def content_security_policy(target: Target) -> Result:
    def lacks(exchange: Exchange) -> bool:
        policy = _directives(exchange)
        fallback = policy.get("default-src")
        scripts = policy.get("script-src", fallback)
        if policy.get("object-src", fallback) != ["'none'"] and policy.get("object-src") != ["'none'"]:
            return True
        if policy.get("base-uri") != ["'none'"] or scripts is None:
            return True
        has_secret = any(value.startswith(("'nonce-", "'sha")) for value in scripts)
        return bool(BROAD.intersection(scripts) - ({"'unsafe-inline'"} if has_secret else set()))

    wanted = {"default-src": "'self'", "base-uri": "'none'", "object-src": "'none'"}
    return _headers(await survey.responses(target), lacks, {"content_security_policy": wanted})


async def nosniff(target: Target) -> Result:
    def lacks(exchange: Exchange) -> bool:
        return exchange.header("x-content-type-options").lower() != "nosniff"

    return _headers(await survey.responses(target), lacks, {})


async def referrer_policy(target: Target) -> Result:
    leaky = ("", "unsafe-url", "no-referrer-when-downgrade", "origin-when-cross-origin", "origin")

    def lacks(exchange: Exchange) -> bool:
        return exchange.is_page and exchange.header("referrer-policy").lower() in leaky

    return _headers(await survey.responses(target), lacks, {"referrer_policy": "same-origin"})


async def frame_ancestors(target: Target) -> Result:
    def lacks(exchange: Exchange) -> bool:
        return _directives(exchange).get("frame-ancestors") not in (["'none'"], ["'self'"])

    wanted = {"content_security_policy": {"frame-ancestors": "'none'"}}
    return _headers(await survey.responses(target), lacks, wanted)


async def violation_reports(target: Target) -> Result:
    def lacks(exchange: Exchange) -> bool:
        return not {"report-uri", "report-to"}.intersection(_directives(exchange))

    pages = [exchange for exchange in await survey.responses(target) if exchange.is_page]
    return _result(pages, lacks, "Add to your policy the URL of your collector: report-uri /your/collector.")


async def opener_policy(target: Target) -> Result:
    def lacks(exchange: Exchange) -> bool:
        return exchange.header("cross-origin-opener-policy") not in ("same-origin", "same-origin-allow-popups")

    pages = [exchange for exchange in await survey.responses(target) if exchange.is_page]
    return _headers(pages, lacks, {"cross_origin_opener_policy": "same-origin"})


async def resource_policy(target: Target) -> Result:
    def lacks(exchange: Exchange) -> bool:
        return exchange.header("cross-origin-resource-policy") not in ("same-origin", "same-site")

    own = [exchange for exchange in await survey.to_user(target) if exchange.status == 200]
    return _result(own, lacks, "Add the header Cross-Origin-Resource-Policy: same-origin in a middleware of your own.")


async def not_stored(target: Target) -> Result:
    """Responses for a user must not be stored by a browser or a proxy."""

    def lacks(exchange: Exchange) -> bool:
        value = exchange.header("cache-control").lower()
        return "no-store" not in value and "immutable" not in value

    own = [exchange for exchange in await survey.to_user(target) if exchange.status == 200 and "user" in exchange.scope]
    return _headers(own, lacks, {"no_store": True})


async def cleared_after_logout(target: Target) -> Result:
    path = target.path("logout")
    browser = await target.logged_in()
    if path is not None:
        await browser.submit(path)
        if "cookies" in browser.exchanges[-1].header("clear-site-data"):
            return passed("the logout sends Clear-Site-Data")
    stored = await not_stored(target)
    if stored.status == "pass":
        return passed("no response for a user is stored; what your scripts store, they have to delete")
    return failed(stored.why, f"{HEADERS} Or pass Auth(clear_site_data=True).", stored.headers)


def complete_line(target: Target, results: Iterable[Result]) -> str:
    """Returns the call of `middleware()` that mends all these results; "" if none is about security headers.

    It keeps the arguments that the application passes to SecurityHeaders already.
    """
    failures = [result for result in results if result.status == "fail" and result.headers is not None]
    if not failures:
        return ""
    current = survey.security_headers(target) or SecurityHeaders()
    defaults = asdict(SecurityHeaders())
    arguments = asdict(current)
    policy = _parsed(current.content_security_policy or DEFAULT_POLICY)
    for result in failures:
        wanted = dict(result.headers or {})
        directives = wanted.pop("content_security_policy", {})
        if BROAD.intersection(policy.get("script-src", "").split()) and "default-src" in directives:
            del policy["script-src"]
        policy |= {name: value for name, value in directives.items() if name != "default-src" or _is_open(policy)}
        arguments |= wanted
    arguments["content_security_policy"] = "; ".join(f"{name} {value}".strip() for name, value in policy.items())
    changed = [f"{name}={_quoted(value)}" for name, value in arguments.items() if value != defaults[name]]
    return f"middleware(auth, headers=SecurityHeaders({', '.join(changed)}))"


def _parsed(policy: str) -> dict[str, str]:
    pairs = [part.strip().partition(" ")[::2] for part in policy.split(";") if part.strip()]
    return {name.lower(): value.strip() for name, value in pairs}


def _is_open(policy: Mapping[str, str]) -> bool:
    """Returns whether a policy names no source of scripts, or allows nearly all."""
    sources = policy.get("script-src", policy.get("default-src", "*")).split()
    return bool(BROAD.intersection(sources))


def _quoted(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else repr(value)
