"""Where a login and a logout lead: own URLs, other hosts, users who are logged in already, and other field names."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.authentication import requires
from starlette.endpoints import HTTPEndpoint
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route

from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    User,
    login_required,
    middleware,
    permission_required,
    redirect_to_login,
    routes,
    user_passes_test,
)

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, token_in, with_tables
from ..support.apps import make_app

pytestmark = [with_tables, any_database]

SITE = "http://testserver"
OWN = {"origin": SITE}
NAVIGATION = {"sec-fetch-dest": "document", "sec-fetch-site": "same-origin", "sec-fetch-mode": "navigate"}


@requires("polls.add_vote", redirect="login")
async def vote(request: Request) -> Response:
    return PlainTextResponse("voted")


def query_of(url: str) -> dict[str, list[str]]:
    return parse_qs(urlsplit(url).query)


# Own URLs


@pytest.mark.parametrize(
    ("base_url", "client_url"),
    [
        (None, SITE),
        (None, "http://127.0.0.1:8000"),
        ("https://shop.example", "http://10.0.0.7:8000"),  # a proxy that does not forward the host
    ],
)
async def test_starlettes_requires_redirects_back(database: Database, base_url: str | None, client_url: str) -> None:
    async with installed(database, base_url=base_url) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth, Route("/ballot", vote)), base_url=client_url) as client:
            login = (await client.get("/ballot?a=1&b=%2F#c")).headers["location"]
            assert query_of(login)["next"] == [f"{client_url}/ballot?a=1&b=%2F"]
            page = await client.get(login)
            assert 'name="next" value="/ballot?a=1&amp;b=%2F"' in page.text
            data = {"username": "ann", "password": PASSWORD, "next": query_of(login)["next"][0]}
            client.cookies.clear()
            answer = await client.post("/accounts/login", data=data)
            assert answer.headers["location"] == "/ballot?a=1&b=%2F"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://testserver/x", "/x"),
        ("HTTP://TestServer:80/x#y", "/x#y"),
        ("https://testserver/x", "/x"),
        ("https://shop.example/x", "/x"),
        ("http://testserver", "/"),
        ("http://testserver?a=b", "/?a=b"),
        ("http://testserver//evil.example", "/home"),
        ("http://testserver/\\evil.example", "/home"),
        ("http://testserver:8080/x", "/home"),
        ("http://testserver@evil.example/x", "/home"),
        ("http://ann@testserver/x", "/home"),
        ("http://testserver\\@evil.example/x", "/home"),
        ("http://test\tserver/x", "/home"),
        ("http://testserver.evil.example/x", "/home"),
        ("http:testserver/x", "/home"),
        ("ftp://testserver/x", "/home"),
        ("http://[testserver/x", "/home"),
    ],
)
async def test_an_absolute_url_of_this_site_is_a_path(database: Database, url: str, expected: str) -> None:
    async with (
        installed(database, base_url="https://shop.example") as auth,
        client_of(make_app(auth), headers=OWN) as client,
    ):
        answer = await client.post("/accounts/logout", data={"next": url})
        assert answer.headers["location"] == expected.replace("/home", "/accounts/logged_out")


# Logging out


async def test_a_logout_redirects_to_the_next_of_its_query(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers=OWN) as client:
        for url, expected in (
            ("/accounts/logout?next=/x%3Fa=1", "/x?a=1"),
            ("/accounts/logout?next=https://evil.example/", "/accounts/logged_out"),
            ("/accounts/logout", "/accounts/logged_out"),
        ):
            await post_login(client)
            assert (await client.post(url)).headers["location"] == expected
            assert (await client.get("/whoami")).json()["username"] == ""
        answer = await client.post("/accounts/logout?next=/x", json={"next": "/y"})
        assert answer.json() == {"next": "/y"}


async def test_a_link_to_the_logout_shows_a_page_with_the_button(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth)) as client:
        anonymous = await client.get("/accounts/logout")
        assert (anonymous.status_code, "You are logged out" in anonymous.text) == (200, True)
        await post_login(client)
        page = await client.get("/accounts/logout?next=/x")
        assert page.status_code == 200
        assert "You are logged in as <bdi>ann</bdi>" in page.text
        assert (await client.get("/whoami")).json()["username"] == "ann", "a link must not end the session"
        data = {"csrfmiddlewaretoken": token_in(page.text), "next": "/x"}
        assert 'name="next" value="/x"' in page.text
        assert (await client.post("/accounts/logout", data=data)).headers["location"] == "/x"
        assert (await client.head("/accounts/logout")).status_code == 200
        answer = await client.get("/accounts/logout", headers={"accept": "application/json"})
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


async def test_the_logout_may_redirect_to_itself_by_its_name(database: Database) -> None:
    async with installed(database, logout_redirect_url="logout") as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth), headers=OWN) as client:
            await post_login(client)
            answer = await client.post("/accounts/logout")
            assert answer.headers["location"] == "/accounts/logout"
            assert "Your session on this device has ended" in (await client.get("/accounts/logout")).text


async def test_a_logout_leads_to_the_login_of_another_user(auth: Auth, ann: User) -> None:
    async with client_of(make_app(auth), headers={**OWN, **NAVIGATION}) as client:
        await post_login(client)
        answer = await client.post("/accounts/logout?next=/accounts/login%3Fnext=/vote", follow_redirects=True)
        assert answer.request.url.path == "/accounts/login"
        assert 'name="next" value="/vote"' in answer.text


# Users who are logged in already


@pytest.mark.parametrize(
    ("headers", "is_sent_on"),
    [
        ({}, True),
        ({"sec-fetch-site": "none"}, True),
        ({"sec-fetch-site": "same-site"}, False),
        ({"sec-fetch-site": "cross-site"}, False),
        ({"sec-fetch-site": ""}, False),
        ({"sec-fetch-dest": "image"}, False),
        ({"sec-fetch-dest": "iframe"}, False),
        ({"sec-fetch-dest": ""}, False),
    ],
)
async def test_a_logged_in_user_is_sent_on_by_a_navigation_of_this_site(
    auth: Auth, ann: User, headers: dict[str, str], is_sent_on: bool
) -> None:
    async with client_of(make_app(auth), headers={**NAVIGATION, **headers}) as client:
        assert (await client.get("/accounts/login?next=/members")).status_code == 200, "nobody is logged in yet"
        await post_login(client)
        for url, expected in (("/accounts/login?next=/members", "/members"), ("/accounts/login", "/")):
            answer = await client.get(url)
            assert answer.status_code == (303 if is_sent_on else 200)
            assert answer.headers.get("location") == (expected if is_sent_on else None)
            assert answer.headers["cache-control"] == "no-store"


async def test_a_logged_in_user_stays_if_the_site_wants_it(database: Database) -> None:
    async with installed(database, redirect_authenticated_user=False) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth), headers=NAVIGATION) as client:
            await post_login(client)
            assert "Log in with another account" in (await client.get("/accounts/login")).text


async def test_no_user_is_sent_back_to_the_login_page(database: Database) -> None:
    async with installed(database, login_redirect_url="login") as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth), headers=NAVIGATION) as client:
            await post_login(client)
            for url in (
                "",
                "?next=/accounts/login",
                f"?next={SITE}/accounts/login%3Fnext=/x",
                "?next=/accounts/login%23x",
            ):
                assert (await client.get(f"/accounts/login{url}")).status_code == 200


class VoteClass(HTTPEndpoint):
    @requires("polls.add_vote", redirect="login")
    async def get(self, request: Request) -> Response:
        return PlainTextResponse("voted")


async def own_logic(request: Request) -> Response:
    if request.user.has_perm("polls.add_vote"):
        return PlainTextResponse("voted")
    return redirect_to_login(request)


async def own_redirect(request: Request) -> Response:
    return RedirectResponse(f"/accounts/login?next={request.url.path}")


@pytest.mark.parametrize("endpoint", [vote, VoteClass, own_logic, own_redirect])
async def test_a_user_without_the_permission_is_not_sent_in_a_circle(auth: Auth, ann: User, endpoint: Any) -> None:
    app = make_app(auth, Route("/ballot", endpoint))
    async with client_of(app, headers=NAVIGATION) as client:
        await post_login(client)
        answer = await client.get("/ballot", follow_redirects=True)
        assert answer.request.url.path == "/accounts/login"
        assert "You are logged in as <bdi>ann</bdi>" in answer.text
        assert len(answer.history) == (1 if endpoint is not own_redirect else 9)
        if endpoint is own_redirect:
            return
        await auth.users.create_permission("polls.add_vote")
        await auth.users.grant(ann, "polls.add_vote")
        assert (await client.get("/ballot", follow_redirects=True)).text == "voted"


async def test_pages_that_redirect_to_the_login_with_ever_other_targets_end_somewhere(auth: Auth, ann: User) -> None:
    async def page(request: Request) -> Response:
        number = int(request.query_params.get("n", 0))
        return RedirectResponse(f"/accounts/login?next=/page%3Fn={number + 1}")

    async with client_of(make_app(auth, Route("/page", page)), headers=NAVIGATION) as client:
        await post_login(client)
        answer = await client.get("/page", follow_redirects=True)
        assert answer.request.url.path == "/accounts/login"
        assert "You are logged in as <bdi>ann</bdi>" in answer.text


# Other hosts


async def test_the_login_page_may_be_on_another_host(database: Database) -> None:
    async with installed(database, login_url="https://accounts.example/enter?a=1") as auth:
        app = make_app(auth)
        async with client_of(app) as client:
            location = (await client.get("/members?b=2")).headers["location"]
            assert location.startswith("https://accounts.example/enter?a=1&next=")
            assert query_of(location)["next"] == ["http://testserver/members?b=2"]
    options = {"login_url": "https://accounts.example/", "base_url": "https://shop.example"}
    async with installed(database, **options) as auth, client_of(make_app(auth)) as client:
        location = (await client.get("/members")).headers["location"]
        assert query_of(location)["next"] == ["https://shop.example/members"]
    options = {"login_url": "http://testserver/accounts/login"}
    async with installed(database, **options) as auth, client_of(make_app(auth)) as client:
        location = (await client.get("/members")).headers["location"]
        assert location == "http://testserver/accounts/login?next=%2Fmembers"


async def test_a_login_and_a_logout_may_lead_to_another_host(database: Database) -> None:
    options = {"login_redirect_url": "https://app.example/start", "logout_redirect_url": "https://www.example/bye"}
    async with installed(database, **options) as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth), headers=OWN) as client:
            page = await client.get("/accounts/login?next=https://evil.example/")
            assert "evil" not in page.text
            policy = page.headers["content-security-policy"]
            assert "form-action 'self' app.example www.example" in policy, "browsers stop the redirect after a form"
            assert (await post_login(client)).headers["location"] == "https://app.example/start"
            assert 'href="https://app.example/start"' in (await client.get("/accounts/logout")).text
            assert (await client.post("/accounts/logout")).headers["location"] == "https://www.example/bye"


# Permission logic of one's own, and the options of an endpoint


async def test_redirect_to_login_takes_djangos_arguments(auth: Auth, ann: User) -> None:
    async def page(request: Request) -> Response:
        return redirect_to_login(request, **request.query_params)

    async with client_of(make_app(auth, Route("/page", page, methods=["GET", "POST"]))) as client:
        for query, expected in (
            ("", "/accounts/login?next=%2Fpage"),
            ("?next=/other", "/accounts/login?next=%2Fother"),
            ("?next=/other&login_url=/sudo?a=1", "/sudo?a=1&next=%2Fother"),
            ("?next=/x&redirect_field_name=goto", "/accounts/login?goto=%2Fx"),
            ("?next=/x&login_url=/sudo%3Fa=1%26next=/old%23part", "/sudo?a=1&next=%2Fx#part"),
        ):
            assert (await client.get(f"/page{query}")).headers["location"] == expected
        answer = await client.get("/page", headers={"accept": "application/json"})
        assert answer.status_code == 401


async def test_a_form_comes_back_to_its_page(auth: Auth) -> None:
    async with client_of(make_app(auth), headers=OWN) as client:
        for path, referer, expected in (
            ("/accounts/password_change", "", "/accounts/password_change"),
            ("/accounts/password_change", f"{SITE}/accounts/password_change?a=1", "/accounts/password_change?a=1"),
            ("/members", f"{SITE}/club", "/club"),
            ("/members", "https://evil.example/club", "/members"),
            ("/members", f"{SITE}//evil.example/club", "/members"),
            ("/members", "", "/members"),
        ):
            answer = await client.post(path, data={"a": "b"}, headers={"referer": referer} if referer else {})
            assert query_of(answer.headers["location"]) == {"next": [expected]}, (path, referer)


async def test_a_form_whose_page_is_unknown_leads_to_the_start_page(auth: Auth) -> None:
    @login_required
    async def save(request: Request) -> Response:
        return PlainTextResponse("saved")

    @login_required
    class Save(HTTPEndpoint):
        async def post(self, request: Request) -> Response:
            return PlainTextResponse("saved")

    app = make_app(auth, Route("/save", save, methods=["POST"]), Route("/save-class", Save))
    async with client_of(app, headers=OWN) as client:
        for path in ("/save", "/save-class"):
            assert (await client.post(path)).headers["location"] == "/accounts/login"


async def test_the_required_login_heeds_the_options_of_an_endpoint(auth: Auth, ann: User) -> None:
    async def page(request: Request) -> Response:
        return PlainTextResponse("page")

    class Methods(HTTPEndpoint):
        async def get(self, request: Request) -> Response:
            return PlainTextResponse("get")

        @login_required(login_url="/sudo")
        async def post(self, request: Request) -> Response:
            return PlainTextResponse("post")

    pages: dict[str, Any] = {
        "/plain": page,
        "/login-url": login_required(login_url="/sudo")(page),
        "/permission": permission_required("polls.add_vote", login_url="https://accounts.example/")(page),
        "/test": user_passes_test(lambda user: user.is_staff, login_url="login", redirect_field_name="goto")(page),
        "/class": login_required(login_url="/sudo")(Methods),
        "/methods": Methods,
    }
    own = [Route(path, endpoint, methods=None) for path, endpoint in pages.items()]
    stack = [*middleware(auth), Middleware(LoginRequiredMiddleware)]
    app = Starlette(routes=[*own, Mount("/accounts", routes=routes(auth))], middleware=stack)
    async with client_of(app, headers=OWN) as client:
        for path, expected in (
            ("/plain", "/accounts/login?next=%2Fplain"),
            ("/login-url", "/sudo?next=%2Flogin-url"),
            ("/permission", "https://accounts.example/?next=http%3A%2F%2Ftestserver%2Fpermission"),
            ("/test", "/accounts/login?goto=%2Ftest"),
            ("/class", "/sudo?next=%2Fclass"),
            ("/methods", "/accounts/login?next=%2Fmethods"),
        ):
            assert (await client.get(path)).headers["location"] == expected
        assert (await client.post("/methods")).headers["location"] == "/sudo?next=%2Fmethods"


async def test_the_field_may_have_another_name(database: Database) -> None:
    async with installed(database, redirect_field_name="goto") as auth:
        await auth.users.create_user("ann", password=PASSWORD)
        async with client_of(make_app(auth), headers=OWN) as client:
            login = (await client.get("/members")).headers["location"]
            assert login == "/accounts/login?goto=%2Fmembers"
            page = await client.get(login)
            assert 'name="goto" value="/members"' in page.text
            data = {"username": "ann", "password": PASSWORD, "goto": "/members", "next": "/other"}
            assert (await client.post("/accounts/login", data=data)).headers["location"] == "/members"
            assert (await client.post("/accounts/logout?goto=/x")).headers["location"] == "/x"


@pytest.mark.parametrize("name", ["", "username", "csrfmiddlewaretoken", "a b", 'a"b', None])
async def test_a_field_name_that_cannot_work_is_refused(database: Database, name: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="redirect_field_name"):
        async with installed(database, redirect_field_name=name):
            pass
