"""Each default that is taken away fails exactly the rows that it decides."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from starlette_auth import (
    ActiveSessions,
    APITokens,
    AuthenticationBackend,
    BCryptPasswordHasher,
    BearerSessions,
    Cookie,
    CookieStore,
    EmailChange,
    MaximumLengthValidator,
    MD5PasswordHasher,
    MinimumLengthValidator,
    NumericPasswordValidator,
    Passkeys,
    Passwords,
    Registration,
    RemoteUserBackend,
    Roles,
    SecurityHeaders,
    SessionLimit,
    SessionLimits,
    Tables,
    TwoFactor,
    User,
    default_validators,
    login_not_required,
    login_required,
    user_columns,
)
from starlette_auth.asvs.rows import ROWS, _federation
from starlette_auth.features.two_factor.store import FactorStore
from starlette_auth.features.two_factor.totp import find_step
from starlette_auth.security.webauthn.challenges import Challenges
from starlette_auth.security.webauthn.credentials import sign_credential
from starlette_auth.security.webauthn.relying_party import Assertion, RelyingParty

from ..conftest import SECRET_KEY, any_database
from .careless import PAGES_FAIL, STALE_FAILS, STORE_FAILS
from .site import BEFORE, HEADERS, LEVELS, PAGES, assess, failures, make_app, make_auth, undecided

pytestmark = [pytest.mark.long, any_database]

YEAR = 365 * 24 * 60 * 60
FOREVER = SessionLimit(absolute=10 * YEAR, idle=10 * YEAR)
NO_HEADERS = {"3.2.1", "3.4.1", "3.4.3", "3.4.4", "3.4.5", "3.4.6", "3.4.8", "14.3.1", "14.3.2"}
NO_PAGES = {"3.5.3", "6.2.2", "6.2.3", "6.3.1", "6.4.3", "7.4.1", "7.4.4", "7.5.2"}


class Careless:
    """A validator that logs passwords."""

    def validate(self, password: str, user: Any = None) -> None:
        logging.getLogger("shop").warning("Checked %s", password)

    def get_help_text(self) -> str:
        return ""


class Everybody(AuthenticationBackend):
    """Takes each visitor for the same user."""

    async def identify(self, conn: Any) -> User:
        return User(id=1, username="everybody")


class Other(AuthenticationBackend):
    """Another way to log in."""

    async def authenticate(self, conn: Any, pin: str) -> None:  # type: ignore[override]
        return None


@login_required
async def bare(request: Request) -> Response:
    return HTMLResponse("a page without a logout")


@login_not_required
async def careless_cookie(request: Request) -> Response:
    response = HTMLResponse("cookie")
    response.set_cookie("theme", "x" * 4200, samesite=None)
    return response


@login_not_required
async def untyped(request: Request) -> Response:
    return Response(b"<b>bold</b>")


@login_not_required
async def echo(request: Request) -> Response:
    return HTMLResponse(str(dict(request.headers)))


@login_required
async def show_key(request: Request) -> Response:
    return HTMLResponse(f'<a href="/accounts/logout">{request.cookies}</a>')


def on(path: str, endpoint: Any, **options: Any) -> dict[str, Any]:
    return {"pages": [*PAGES, Route(path, endpoint, **options)]}


def cookie(**options: Any) -> dict[str, Any]:
    return {"cookie": Cookie(**options)}


WITHOUT_MAIL: dict[str, Any] = {"mailer": None, "features": [ActiveSessions()]}
#: What is taken away: arguments of Auth, arguments of make_app, and the rows that fail then.
AUTH: dict[str, tuple[dict[str, Any], set[str]]] = {
    "throttling": ({"throttling": False}, {"2.4.1", "6.3.1", "6.3.4"}),
    "rate of failures": ({"rates": {"login_failed": "100000/s/ip"}}, {"6.3.1"}),
    "rate of resets": ({"rates": {"password_reset": ""}}, {"2.4.1"}),
    "session limits": (
        {"session_limits": SessionLimits(remembered=FOREVER, default=FOREVER, staff=FOREVER)},
        {"7.3.1", "7.3.2"},
    ),
    "validators": ({"password_validators": []}, {"6.2.1", "6.2.4", "6.2.11", "6.2.12"}),
    "minimum length": ({"password_validators": [MinimumLengthValidator(6), *default_validators()[2:]]}, {"6.2.1"}),
    "common passwords": (
        {"password_validators": [MinimumLengthValidator()], "context_words": ["bakery"]},
        {"6.2.4", "6.2.12"},
    ),
    "digits": ({"password_validators": [*default_validators(), NumericPasswordValidator()]}, {"6.2.5"}),
    "long passwords": ({"password_validators": [*default_validators(), MaximumLengthValidator(40)]}, {"6.2.9"}),
    "context words": ({"context_words": []}, {"6.2.11"}),
    "samesite": (cookie(samesite="none"), {"3.3.2"}),
    "secure": (cookie(secure=False), {"3.3.1", "3.3.3", "3.4.1"}),
    "httponly": (cookie(httponly=False), {"3.3.4"}),
    "prefix": (cookie(prefix=False), {"3.3.1", "3.3.3"}),
    "path of the cookie": (cookie(path="/accounts"), {"3.3.3"}),
    "next hosts": ({"next_hosts": ["attacker.example"]}, {"3.7.2"}),
    "proxies": ({"trusted_proxies": ["0.0.0.0/0", "::/0"]}, {"4.1.3", "15.3.4"}),
    "notices": ({"notices": False}, {"6.3.5", "6.3.7"}),
    "mailer": (WITHOUT_MAIL, {"6.3.5", "6.3.7", "6.4.3"}),
    "weak key": ({"secret_key": "k" * 40, "base_url": "http://localhost"}, {"13.3.1"}),
    "MD5": ({"passwords": Passwords([*Passwords().hashers.values(), MD5PasswordHasher()])}, {"11.4.1"}),
    "72 bytes": ({"passwords": Passwords([BCryptPasswordHasher(rounds=4)])}, {"6.2.8"}),
    "active sessions": ({"features": [Registration(), EmailChange()]}, {"7.5.2"}),
    "revealing registration": (
        {"features": [Registration(verify="after"), EmailChange(), ActiveSessions()]},
        {"6.3.8"},
    ),
    "password in the log": ({"password_validators": [*default_validators(["bakery"]), Careless()]}, {"16.2.5"}),
    "sessions in cookies": (
        {"sessions": CookieStore(SECRET_KEY), "features": [Registration(), EmailChange()]},
        {"7.4.1", "7.4.5", "7.5.2"},  # without the cookie that names ended sessions, the old one works
    ),
    "clear site data does not matter": ({"clear_site_data": True}, set()),
    "login after reset does not matter": ({"login_after_reset": True}, set()),
}
APP: dict[str, tuple[dict[str, Any], set[str]]] = {
    "headers": ({"headers": None}, NO_HEADERS),
    "policy for scripts, and subdomains": ({"headers": SecurityHeaders()}, {"3.4.1", "3.4.3"}),
    "no-store": ({"headers": replace(HEADERS, no_store=False)}, {"14.3.1", "14.3.2"}),
    "referrer policy": ({"headers": replace(HEADERS, referrer_policy="unsafe-url")}, {"3.4.5"}),
    "CSRF": ({"without": "CSRFMiddleware"}, {"3.5.1", "4.4.2"}),
    "CORS": ({"around": [Middleware(CORSMiddleware, allow_origins=["*"])]}, {"3.4.2"}),
    "account pages": ({"has_accounts": False}, NO_PAGES),
    "debug": ({"debug": True}, {"13.4.2"}),
    "a mark": (on("/undecided", undecided), {"8.2.1"}),
    "a mark, with LoginRequiredMiddleware": ({**on("/undecided", undecided), "login_required": True}, {"7.4.4"}),
    "a link for the logout": (on("/bare", bare), {"7.4.4"}),
    "attributes of a cookie": (on("/cookie", careless_cookie), {"3.3.1", "3.3.2", "3.3.3", "3.3.4", "3.3.5"}),
    "a media type": ({**on("/untyped", untyped), "headers": HEADERS}, {"3.2.1", "4.1.1"}),
    "a ban of TRACE": (on("/", echo, methods=["TRACE"]), {"13.4.4"}),
    "the session key's secrecy": (on("/key", show_key), {"3.3.4"}),
}
BACKEND_FAILS = {"6.1.3", "7.2.1", "7.4.1", "7.6.2", "8.3.1"}
QUESTIONS = {"6.2.10", "7.1.1", "7.1.2", "7.5.3", "8.2.2", "13.4.5"}
MADE_BETTER = {"MD5": {"11.4.2"}, "mailer": {"6.3.6"}, "account pages": {"6.3.6", "6.3.3"}}


@pytest.fixture(autouse=True)
def security_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "starlette_auth.security")


async def test_the_site_passes_what_the_package_decides(tmp_path: Path) -> None:
    auth = make_auth(tmp_path)
    results = await assess(make_app(auth), auth)
    assert failures(results) == BEFORE
    passed = {id for id, result in results.items() if result.status == "pass" and LEVELS[id] == 3}
    assert passed | {"6.3.8"} == {*("3.3.5", "3.4.8", "6.3.5", "6.3.7", "6.3.8", "8.3.2")}


@pytest.mark.parametrize("missing", AUTH)
async def test_arguments_of_auth_decide_rows(missing: str, tmp_path: Path) -> None:
    options, expected = AUTH[missing]
    auth = make_auth(tmp_path, **options)
    results = await assess(make_app(auth), auth)
    assert failures(results) == (BEFORE | expected) - MADE_BETTER.get(missing, set())
    assert all(results[id].fix for id in expected)


@pytest.mark.parametrize("missing", APP)
async def test_the_middlewares_and_pages_of_an_application_decide_rows(missing: str, tmp_path: Path) -> None:
    options, expected = APP[missing]
    auth = make_auth(tmp_path)
    results = await assess(make_app(auth, **options), auth)
    assert failures(results) == (BEFORE | expected) - MADE_BETTER.get(missing, set())


async def test_level_1_asks_for_less(tmp_path: Path) -> None:
    auth = make_auth(tmp_path)
    app = make_app(auth, headers=replace(HEADERS, hsts_subdomains=False))
    assert failures(await assess(app, auth, level=1)) == BEFORE


def below_info(logger: logging.Logger) -> None:
    logger.setLevel(logging.WARNING)


def disabled(logger: logging.Logger) -> None:
    logger.disabled = True


SILENCED: dict[Callable[[logging.Logger], None], set[str]] = {
    below_info: {"16.3.1"},
    disabled: {"16.2.1", "16.3.1", "16.3.2", "16.3.3", "16.4.1"},
}


@pytest.mark.parametrize("silence", SILENCED, ids=lambda silence: silence.__name__)
async def test_a_silent_security_log_fails(silence: Callable[[logging.Logger], None], tmp_path: Path) -> None:
    logger, auth = logging.getLogger("starlette_auth.security"), make_auth(tmp_path)
    silence(logger)
    try:
        assert failures(await assess(make_app(auth), auth)) == BEFORE | SILENCED[silence]
    finally:
        logger.disabled = False


async def test_a_second_factor_passes(tmp_path: Path) -> None:
    auth = make_auth(tmp_path)

    async def ask_for_a_code(request: Request, user: User) -> Response:
        return HTMLResponse("code?")

    auth.login_steps.append(ask_for_a_code)
    assert failures(await assess(make_app(auth), auth)) == BEFORE - {"6.3.3"}


FACTOR_ROWS = {
    "6.3.3",
    "6.3.6",
    "6.4.3",
    "6.4.4",
    *(f"6.5.{number}" for number in range(1, 9)),
    "6.7.1",
    "6.7.2",
    "7.5.1",
}


def with_factors(*factors: Any) -> dict[str, Any]:
    return {"features": [Registration(), EmailChange(), ActiveSessions(), *factors]}


@pytest.mark.parametrize("login_after_reset", [False, True])
async def test_second_factors_and_passkeys_pass_their_rows(tmp_path: Path, login_after_reset: bool) -> None:
    """With `required_for` everybody, as row 6.3.3 wants it."""
    features = with_factors(TwoFactor(required_for=lambda user: True), Passkeys())
    auth = make_auth(tmp_path, **features, login_after_reset=login_after_reset)
    results = await assess(make_app(auth), auth)
    assert {id: results[id] for id in FACTOR_ROWS if results[id].status != "pass"} == {}
    assert failures(results) == BEFORE - {"6.3.3", "6.3.6"}
    assert "answers differently" not in results["6.3.8"].why
    assert "factor_required" in results["7.5.3"].why


async def test_a_second_factor_that_nobody_must_have_passes_all_but_one_row(tmp_path: Path) -> None:
    auth = make_auth(tmp_path, **with_factors(TwoFactor(), Passkeys()))
    results = await assess(make_app(auth), auth)
    assert failures(results) == BEFORE
    assert {results[id].status for id in FACTOR_ROWS - {"6.3.3", "6.3.6"}} == {"pass"}


async def test_without_factors_their_rows_do_not_apply(tmp_path: Path) -> None:
    auth = make_auth(tmp_path)
    results = await assess(make_app(auth), auth)
    rows = FACTOR_ROWS - {"6.3.3", "6.3.6", "6.4.3", "7.5.1"}
    assert {results[id].status for id in rows} == {"n/a"}


class ReusedCodes(FactorStore):
    """Accepts a code again."""

    async def use_totp(self, user: User, code: str) -> bool:
        app = await self._find_app(user)
        return app is not None and app.secret is not None and find_step(app.secret, code, self.clock()) is not None


class Unsigned(RelyingParty):
    """Believes each row and each challenge."""

    def verify_assertion(self, response: Any, stored: Any, **arguments: Any) -> Assertion:
        stored = replace(stored, mac=sign_credential(self.keys, stored.user, stored.credential))
        return super().verify_assertion(response, stored, **arguments)


class Replayed(Challenges):
    """Accepts a challenge again."""

    async def use(self, challenge: bytes, purpose: str, *, browsers: Any, user: str = "") -> bool:
        return self.is_valid(challenge, purpose, browsers=browsers, user=user)


def reuse_codes(app: TwoFactor, passkeys: Passkeys) -> None:
    app.store.__class__ = ReusedCodes


def accept_late_codes(app: TwoFactor, passkeys: Passkeys) -> None:
    app.store.drift = 2


def believe_rows(app: TwoFactor, passkeys: Passkeys) -> None:
    passkeys.relying_party.__class__ = Unsigned


def replay_challenges(app: TwoFactor, passkeys: Passkeys) -> None:
    passkeys.ceremonies.challenges.__class__ = Replayed


class Blind(RelyingParty):
    """Verifies no signature."""

    def verify_assertion(self, response: Any, stored: Any, **arguments: Any) -> Assertion:
        return Assertion(sign_count=0, backed_up=True, verified=True, count_fell=False, has_old_mac=False)


class Clinging(FactorStore):
    """Removes no app."""

    async def remove_app(self, user: User) -> bool:
        return True


def accept_any_signature(app: TwoFactor, passkeys: Passkeys) -> None:
    passkeys.relying_party.__class__ = Blind


def keep_removed_apps(app: TwoFactor, passkeys: Passkeys) -> None:
    app.store.__class__ = Clinging


def forget_the_step(app: TwoFactor, passkeys: Passkeys) -> None:
    app.auth.login_steps.clear()
    app.auth.session_backend.assurance = None


WEAK_FACTORS: dict[Callable[[TwoFactor, Passkeys], None], set[str]] = {
    reuse_codes: {"6.5.1"},
    accept_late_codes: {"6.5.5"},
    believe_rows: {"6.7.1"},
    replay_challenges: {"6.7.2"},
    accept_any_signature: {"6.5.7", "6.7.1"},
    keep_removed_apps: {"6.5.6"},
    forget_the_step: {"6.4.3", "6.4.4", "6.5.1"},
}


@pytest.mark.parametrize("weaken", WEAK_FACTORS, ids=lambda weaken: weaken.__name__)
async def test_a_weak_second_factor_fails_its_rows(
    weaken: Callable[[TwoFactor, Passkeys], None], tmp_path: Path
) -> None:
    app, passkeys = TwoFactor(), Passkeys()
    auth = make_auth(tmp_path, **with_factors(app, passkeys))
    weaken(app, passkeys)
    assert failures(await assess(make_app(auth), auth)) == BEFORE | WEAK_FACTORS[weaken]


WEAK_CODES: dict[str, tuple[dict[str, Any], set[str]]] = {
    "one secret for all": ({"app_setup.new_secret": lambda: b"s" * 20}, {"6.5.3"}),
    "short recovery codes": ({"recovery_codes.LENGTH": 3}, {"6.5.4"}),
    "codes of the future": (
        {
            f"{module}.find_step": lambda secret, code, time, drift=1: find_step(secret, code, time + 30, drift + 1)
            for module in ("app_setup", "store")
        },
        {"6.5.8"},
    ),
}


@pytest.mark.parametrize("name", WEAK_CODES)
async def test_weak_codes_fail_their_rows(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts, rows = WEAK_CODES[name]
    for target, value in parts.items():
        monkeypatch.setattr(f"starlette_auth.features.two_factor.{target}", value)
    auth = make_auth(tmp_path, **with_factors(TwoFactor()))
    assert failures(await assess(make_app(auth), auth)) >= BEFORE | rows


async def test_recovery_codes_in_plain_text_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("starlette_auth.features.two_factor.store.hash_code", lambda owner, code: code)
    auth = make_auth(tmp_path, **with_factors(TwoFactor()))
    assert failures(await assess(make_app(auth), auth)) == BEFORE | {"6.5.2"}


async def test_a_second_factor_that_all_users_must_have_passes(tmp_path: Path) -> None:
    auth = make_auth(tmp_path, features=[TwoFactor(required_for=lambda user: True)])
    assert {"6.3.3", "6.3.6"} & failures(await assess(make_app(auth), auth)) == set()


async def test_a_second_factor_of_staff_leaves_the_login_one_step(tmp_path: Path) -> None:
    auth = make_auth(tmp_path, features=[TwoFactor(required_for=lambda user: user.is_staff)])
    results = await assess(make_app(auth), auth)
    assert failures(results) & {"6.3.3", "8.3.2", "6.3.5"} == {"6.3.3"}


async def test_a_secret_question_fails(tmp_path: Path) -> None:
    table = sa.Table(
        "member", sa.MetaData(), *user_columns(), sa.Column("password_hint", sa.String(80), nullable=False, default="")
    )
    auth = make_auth(tmp_path, tables=Tables(user=table))
    assert failures(await assess(make_app(auth), auth)) == BEFORE | {"6.4.2"}


async def test_links_that_last_for_days_fail(tmp_path: Path) -> None:
    auth = make_auth(tmp_path)
    auth.reset_tokens.max_age = 3 * 24 * 60 * 60
    assert failures(await assess(make_app(auth), auth)) == BEFORE | {"6.4.1"}


@pytest.mark.parametrize("password", ["changeme", "something that only one person knows"])
async def test_default_accounts(password: str, tmp_path: Path) -> None:
    auth, results = make_auth(tmp_path), {}
    app = make_app(auth)
    async with app.router.lifespan_context(app):
        root = await auth.users.create_user("root", "", password)
        results = await assess(app, auth)
        assert [user.username async for user in auth.users.all_users(is_active=None)] == [root.username]
    assert results["6.3.2"].status == ("fail" if password == "changeme" else "manual")


async def test_a_backend_that_lets_everybody_in_fails(tmp_path: Path) -> None:
    auth = make_auth(tmp_path, backends=[Everybody()])
    assert failures(await assess(make_app(auth), auth)) >= BACKEND_FAILS


async def test_tokens_and_backends_that_only_give_permissions_are_no_other_ways_to_log_in(tmp_path: Path) -> None:
    features = [ActiveSessions(), APITokens("shop"), BearerSessions()]
    auth = make_auth(tmp_path, features=features, backends=[Roles({"editor": ["blog.add_post"]})])
    assert (await assess(make_app(auth), auth))["6.3.4"].status == "pass"
    auth = make_auth(tmp_path, features=features, backends=[Other()])
    results = await assess(make_app(auth), auth)
    for id, status in (("6.3.4", "manual"), ("6.1.3", "fail")):
        assert (results[id].status, "Other" in results[id].why, "Token" in results[id].why) == (status, True, False)


async def test_the_list_of_all_ways_names_second_factors_and_proxies(tmp_path: Path) -> None:
    users = make_auth(tmp_path).users
    proxy = RemoteUserBackend(users, trusted_proxies=["127.0.0.1"])
    auth = make_auth(tmp_path, features=[TwoFactor(), APITokens("shop"), BearerSessions()], backends=[proxy])
    result = (await assess(make_app(auth), auth))["6.1.3"]
    assert result.status == "pass"
    assert "proxy, token, password, totp, recovery_code" in result.why


def test_each_row_is_seen_failing() -> None:
    """Rows with the same result for every application cannot fail, and neither can questions."""
    decided = {row.id for row in ROWS if "always" not in row.check.__qualname__ and row.check is not _federation}
    seen = set().union(
        *(rows for _, rows in (*AUTH.values(), *APP.values())), *SILENCED.values(), PAGES_FAIL, STORE_FAILS
    )
    seen |= STALE_FAILS | BACKEND_FAILS | BEFORE | {"6.3.2", "6.4.2", "6.4.1", "6.5.2"}
    seen = seen.union(*WEAK_FACTORS.values(), *(rows for _, rows in WEAK_CODES.values()))
    assert decided - seen == QUESTIONS
