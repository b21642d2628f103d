"""Tests of what users may change who must have a second factor, and of logins that are too weak for them."""

from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import (
    APITokens,
    Auth,
    DeviceLogin,
    Feature,
    ImproperlyConfigured,
    Registration,
    TwoFactor,
    User,
    factor_required,
    login,
    middleware,
    routes,
)
from starlette_auth.backends.factors import Factor, StoredFactor
from starlette_auth.testing import CollectingMailer, FrozenClock, log_in, totp_code

from ..conftest import PASSWORD, any_database, client_of, installed, post_login
from .test_assurance import is_staff
from .test_factor_store import SECRET, add, clock_of, code_of, feature_of, rows_of
from .test_second_factor import log_in_otherwise, whoami
from .test_two_factor_pages import app_in, codes_in

pytestmark = any_database

STEP, TOTP, REMOVE, CODES = (
    "/accounts/second_factor",
    "/accounts/totp",
    "/accounts/totp/remove",
    "/accounts/recovery_codes",
)
JSON = {"accept": "application/json"}


class StickFactor(Factor):
    """A security key that answers "touched"."""

    methods, fields, is_asked = ("key",), ("credential",), True

    def __init__(self) -> None:
        self.owners: dict[str, int] = {}  # with the time of the last use

    async def is_set_up(self, user: User) -> bool:
        return user.identity in self.owners

    async def offer(self, request: HTTPConnection, user: User) -> Mapping[str, Any]:
        return {"key": None} if user.identity in self.owners else {}


class Sticks(Feature):
    """A feature with another factor, as `Passkeys()` is one."""

    def __init__(self) -> None:
        self.factor = StickFactor()

    def factors(self) -> list[Factor]:
        return [self.factor]

    async def list_factors(self, user: User) -> list[StoredFactor]:
        used = self.factor.owners.get(user.identity)
        return [] if used is None else [StoredFactor(method="key", label="", created=1, last_used=used)]


@factor_required
async def vault(request: Request) -> Response:
    return PlainTextResponse("gold")


@requires("level2")
async def level2(request: Request) -> Response:
    return PlainTextResponse("gold")


async def log_in_with(request: Request) -> Response:
    user = await request.app.state.auth.users.get_by_username("ann")
    methods = request.query_params.getlist("method")
    await login(request, user, methods=methods)
    return PlainTextResponse("in")


async def log_in_wrongly(request: Request) -> Response:
    user = await request.app.state.auth.users.get_by_username("ann")
    await login(request, user, methods=request.app.state.wrong)
    return PlainTextResponse("in")


def make_app(auth: Auth) -> Starlette:
    own = [
        Route("/", whoami),
        Route("/vault", vault),
        Route("/level2", level2),
        Route("/by/{method}", log_in_otherwise, methods=["POST"]),
        Route("/with", log_in_with, methods=["POST"]),
        Route("/wrong", log_in_wrongly, methods=["POST"]),
    ]
    app = Starlette(routes=[*own, Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
    app.state.auth = auth
    return app


def browser_of(auth: Auth) -> httpx.AsyncClient:
    return client_of(make_app(auth), headers={"origin": "http://testserver"})


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    features: list[Any] = [TwoFactor(required_for=is_staff), Sticks()]
    async with installed(database, features=features, clock=FrozenClock()) as auth:
        yield auth


@pytest.fixture
async def ann(auth: Auth) -> User:
    """A member of the staff with an app."""
    user: User = await auth.users.create_user("ann", "ann@example.org", PASSWORD, is_staff=True)
    await add(feature_of(auth).store, user)
    return user


@pytest.fixture
async def client(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in which ann has just logged in with the app."""
    async with browser_of(auth) as client:
        await log_in(client, ann, auth, methods=("password", "totp"))
        yield client


def give_stick(auth: Auth, user: User, used: int = 0) -> None:
    feature = next(feature for feature in auth.features if isinstance(feature, Sticks))
    feature.factor.owners[user.identity] = used


# Removal


async def test_the_last_factor_stays_where_the_policy_demands_one(auth: Auth, client: httpx.AsyncClient) -> None:
    for answer in (await client.get(REMOVE), await client.post(REMOVE)):
        assert answer.status_code == 409
        assert "Your account must have a second factor, and the app is the only one." in answer.text
    refused = await client.post(REMOVE, json={})
    assert (refused.status_code, refused.json()["code"]) == (409, "last_factor")
    assert len(await rows_of(auth)) == 1
    app = await app_in(client, f"{TOTP}?replace")  # a new phone is possible all the same
    page = await client.post(f"{TOTP}?replace", data={"code": app.at(auth.clock())})
    assert len(codes_in(page.text)) == 10


async def test_recovery_codes_are_no_other_factor(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await feature_of(auth).store.make_recovery_codes(ann, 2)
    assert (await client.post(REMOVE)).status_code == 409


async def test_the_app_may_go_while_a_key_remains_and_the_recovery_codes_stay(
    auth: Auth, client: httpx.AsyncClient, ann: User
) -> None:
    store = feature_of(auth).store
    codes = await store.make_recovery_codes(ann, 2)
    give_stick(auth, ann)
    assert (await client.get(REMOVE)).status_code == 200
    assert (await client.post(REMOVE)).status_code == 303
    assert not await store.has_app(ann)
    assert await store.use_recovery_code(ann, codes[0])


async def test_users_without_the_policy_remove_the_app(auth: Auth, client: httpx.AsyncClient, ann: User) -> None:
    await auth.users.update(ann, is_staff=False)
    assert (await client.post(REMOVE)).status_code == 303
    assert await rows_of(auth) == []


# Users whose only factor is a security key


async def test_a_user_with_a_key_proves_it_before_adding_an_app(auth: Auth) -> None:
    ben = await auth.users.create_user("ben", "", PASSWORD)
    give_stick(auth, ben)
    async with browser_of(auth) as client:
        await log_in(client, ben, auth)
        for answer in (await client.get(TOTP), await client.post(TOTP, data={"code": "1"})):
            assert answer.headers["location"].startswith(STEP)
        refused = await client.post(TOTP, json={"code": "1"})
        assert (refused.status_code, refused.json()["need"]["level"]) == (403, 2)
    async with browser_of(auth) as client:
        await log_in(client, ben, auth, methods=("password", "key"))
        assert "<svg" in (await client.get(TOTP)).text
        clock_of(auth).tick(301)
        assert (await client.post(TOTP, json={"code": "1"})).status_code == 403


async def test_a_user_with_a_key_makes_recovery_codes(auth: Auth) -> None:
    ben = await auth.users.create_user("ben", "", PASSWORD)
    give_stick(auth, ben)
    async with browser_of(auth) as client:
        await log_in(client, ben, auth, methods=("password", "key"))
        assert "Unused recovery codes: 0" in (await client.get(CODES)).text
        codes = codes_in((await client.post(CODES)).text)
        assert len(codes) == 10
        assert len((await client.post(CODES, json={})).json()["recovery_codes"]) == 10
    assert not await feature_of(auth).store.use_recovery_code(ben, codes[0])


# Logins that are too weak


@pytest.fixture
async def by_mail(auth: Auth, ann: User) -> AsyncIterator[httpx.AsyncClient]:
    """A browser in which ann has logged in with a mail, and with her app."""
    async with browser_of(auth) as client:
        assert (await client.post("/by/email")).headers["location"] == STEP
        step = (await client.get(STEP, headers=JSON)).json()["step"]
        done = await client.post(STEP, data={"login": step["login"], "code": code_of(auth)})
        assert (done.status_code, done.headers["location"]) == (303, "/")
        yield client


async def test_a_login_by_mail_says_that_it_is_too_weak_and_what_to_do(auth: Auth, by_mail: httpx.AsyncClient) -> None:
    answer = await by_mail.get("/vault")
    assert answer.headers["location"].startswith("/accounts/login")
    page = await by_mail.get(answer.headers["location"])
    assert page.status_code == 200
    assert "This account needs more than that: log in with your password and your second factor." in page.text
    refused = await by_mail.get("/vault", headers=JSON)
    assert (refused.status_code, refused.json()["code"]) == (401, "login_too_weak")
    clock_of(auth).tick(30)
    await by_mail.post("/accounts/login", data={"username": "ann", "password": PASSWORD, "next": "/vault"})
    step = (await by_mail.get(STEP, headers=JSON)).json()["step"]
    done = await by_mail.post(STEP, data={"login": step["login"], "code": code_of(auth)})
    assert done.headers["location"] == "/vault"
    assert (await by_mail.get("/vault")).text == "gold"
    assert "more than that" not in (await by_mail.get("/accounts/login")).text


async def test_other_visitors_of_the_login_page_see_no_such_reason(auth: Auth, ann: User) -> None:
    async with browser_of(auth) as client:
        assert "more than that" not in (await client.get("/accounts/login")).text
        await post_login(client)
        assert (await client.get("/vault", headers=JSON)).json()["code"] == "not_authenticated"


async def test_a_login_by_mail_needs_the_password_for_the_second_level(auth: Auth, ann: User) -> None:
    await auth.users.update(ann, is_staff=False)
    async with browser_of(auth) as client:
        await log_in(client, ann, auth, methods=("email", "totp"))
        answer = await client.get("/vault")
        assert answer.headers["location"] == "/accounts/reauthenticate?need=factor&next=%2Fvault"
        await client.post("/accounts/reauthenticate", data={"password": PASSWORD, "next": "/vault"})
        assert (await client.get("/vault")).text == "gold"
    async with browser_of(auth) as client:
        await log_in(client, await auth.users.create_user("carl"), auth, methods=("email",))
        assert (await client.get("/vault")).headers["location"].startswith("/accounts/login")


# A bare login(), and the helpers for tests


@pytest.mark.parametrize(
    ("query", "level"),
    [("method=password&method=totp", 2), ("method=passkey", 2), ("method=password", 0), ("", 0), ("method=email", 0)],
)
async def test_a_bare_login_counts_by_the_level_of_its_methods(auth: Auth, ann: User, query: str, level: int) -> None:
    async with browser_of(auth) as client:
        await client.post(f"/with?{query}")
        answer = (await client.get("/")).json()
        assert answer["level"] == level
        assert answer["username"] == ("ann" if level else "")
        assert (await client.get("/level2")).status_code == (200 if level else 403)


async def test_a_bare_login_with_a_method_finishes_a_login_where_nothing_is_required(auth: Auth, ann: User) -> None:
    await auth.users.update(ann, is_staff=False)
    async with browser_of(auth) as client:
        await client.post("/with?method=password&method=device&method=password")
        assert (await client.get("/")).json() == {"username": "ann", "methods": ["password", "device"], "level": 1}


@pytest.mark.parametrize("methods", ["totp", [""], [None], 5, [b"totp"]])
async def test_the_methods_of_a_login_are_names(auth: Auth, ann: User, methods: Any) -> None:
    app = make_app(auth)
    app.state.wrong = methods
    async with client_of(app, headers={"origin": "http://testserver"}) as client:
        with pytest.raises(ImproperlyConfigured, match="Pass names of login methods"):
            await client.post("/wrong")


async def test_log_in_of_the_testing_helpers_satisfies_the_policy(auth: Auth, client: httpx.AsyncClient) -> None:
    assert (await client.get("/vault")).text == "gold"


async def test_the_code_of_the_testing_helpers_is_accepted(auth: Auth, ann: User) -> None:
    async with browser_of(auth) as client:
        await post_login(client)
        step = (await client.get(STEP, headers=JSON)).json()["step"]
        code = totp_code(SECRET, auth.clock())
        await client.post(STEP, json={"login": step["login"], "code": f" {code[:3]} {code[3:]} "})
        assert (await client.get("/vault")).text == "gold"


# The order in the second step


async def test_the_second_step_offers_what_was_used_last_first(auth: Auth, ann: User) -> None:
    await feature_of(auth).store.make_recovery_codes(ann, 1)
    give_stick(auth, ann, int(auth.clock()) - 60)
    async with browser_of(auth) as client:
        await post_login(client)
        step = (await client.get(STEP, headers=JSON)).json()["step"]
        assert step["methods"] == ["key", "totp", "recovery_code"]
        await client.post(STEP, data={"login": step["login"], "code": code_of(auth)})
        await client.post("/accounts/logout")
        await post_login(client)
        step = (await client.get(STEP, headers=JSON)).json()["step"]
        assert step["methods"] == ["totp", "key", "recovery_code"]
        page = (await client.get(STEP)).text
        assert page.index('name="code"') < page.index("<details") < page.index('name="recovery_code"')
        assert 'autocomplete="one-time-code" inputmode="numeric"' in page
        assert page.count(" autofocus") == 1
        give_stick(auth, ann, int(auth.clock()) + 1)


# Tokens, which act for their user without a second factor


@pytest.mark.parametrize("path", ["/accounts/tokens/create", "/accounts/tokens", "/accounts/device"])
async def test_attack_21_a_thief_with_a_session_and_the_password_makes_no_token(database: Any, path: str) -> None:
    features: list[Any] = [TwoFactor(), APITokens("shop"), DeviceLogin({"cli": "Shop CLI"})]
    async with installed(database, features=features, clock=FrozenClock()) as auth:
        ann = await auth.users.create_user("ann", "", PASSWORD)
        await add(feature_of(auth).store, ann)
        async with browser_of(auth) as device:
            asked = (await device.post("/accounts/device/code", data={"client_id": "cli"})).json()
        fields = {"name": "mine", "user_code": asked["user_code"]}
        async with browser_of(auth) as client:
            await log_in(client, ann, auth)
            refused = await client.post(path, json=fields)
            assert (refused.status_code, refused.json()["code"]) == (403, "factor_required")
            assert refused.json()["need"] == {"level": 2, "max_age": 300, "url": STEP}
            answer = await client.post(path, data=fields)
            assert answer.headers["location"].startswith(STEP)
            back = await client.post(STEP, data={"code": code_of(auth), "next": path})
            page = await client.get(back.headers["location"])  # the form was kept
            assert "mine" in page.text or asked["user_code"] in page.text
            assert (await client.post(path, json=fields)).status_code == 200
            clock_of(auth).tick(301)
            assert (await client.post(path, json=fields)).json()["code"] == "login_too_old"
            await client.post("/accounts/reauthenticate", data={"password": PASSWORD})
            assert (await client.post(path, json=fields)).json()["code"] == "factor_too_old"


async def test_a_user_without_a_factor_makes_a_token_with_the_password(database: Any) -> None:
    async with installed(database, features=[TwoFactor(), APITokens("shop")], clock=FrozenClock()) as auth:
        ann = await auth.users.create_user("ann", "", PASSWORD)
        async with browser_of(auth) as client:
            await log_in(client, ann, auth)
            assert (await client.post("/accounts/tokens", json={"name": "mine"})).status_code == 200


# Accounts whose address is not confirmed


@pytest.fixture
async def registering(database: Any) -> AsyncIterator[Auth]:
    features: list[Any] = [TwoFactor(required_for=lambda user: user.username == "eva"), Registration(verify="after")]
    site: dict[str, Any] = {"mailer": CollectingMailer(), "base_url": "http://testserver"}
    async with installed(database, features=features, clock=FrozenClock(), **site) as auth:
        yield auth


async def register(client: httpx.AsyncClient, name: str) -> None:
    fields = {"username": name, "email": f"{name}@example.org", "password1": PASSWORD, "password2": PASSWORD}
    assert (await client.post("/accounts/register", data=fields)).status_code == 303


async def test_no_factor_is_added_before_the_address_is_confirmed(registering: Auth) -> None:
    auth = registering
    async with browser_of(auth) as client:
        await register(client, "dora")
        await post_login(client, "dora")
        for answer in (await client.get(TOTP), await client.post(TOTP, data={"code": "1"})):
            assert answer.status_code == 403
            assert "Confirm your e-mail address first" in answer.text
        refused = await client.post(TOTP, json={"code": "1"})
        assert refused.json()["code"] == "address_unconfirmed"
        assert refused.json()["register_resend"] == "/accounts/register/resend"
        dora = await auth.users.get_by_username("dora")
        assert dora is not None
        await auth.users.update(dora, email="dora@example.org")  # as the link does
        assert "<svg" in (await client.get(TOTP)).text


async def test_the_step_of_a_login_waits_for_the_address_too(registering: Auth) -> None:
    auth = registering
    async with browser_of(auth) as client:
        await register(client, "eva")
        assert (await post_login(client, "eva")).headers["location"] == "/accounts/enrol"
        assert (await client.get(TOTP)).headers["location"] == "/accounts/enrol"
        answer = await client.get("/accounts/enrol")
        assert (answer.status_code, "Confirm your e-mail address first" in answer.text) == (403, True)
        await auth.mail_queue.drain()
        mailer = auth.mail_queue.mailer
        assert isinstance(mailer, CollectingMailer)
        link = mailer.links("eva@example.org")[0]
        page = await client.get(link)
        page = await client.get(page.headers["location"]) if page.status_code == 303 else page
        await client.post(str(page.url), data={"password": PASSWORD})
        assert "Send the code" in (await client.get("/accounts/enrol")).text


async def test_staff_made_by_the_operator_needs_no_address(registering: Auth) -> None:
    auth = registering
    frank = await auth.users.create_user("frank", "", PASSWORD, is_staff=True)
    async with browser_of(auth) as client:
        await log_in(client, frank, auth)
        assert "<svg" in (await client.get(TOTP)).text
