"""Behaviours of Django's own tests of the account pages, as they are here: where pages lead, and what they show.

Behaviours that other tests of this package prove are left out.
"""

import contextlib
import re
import uuid
from collections.abc import AsyncIterator
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    LoginRequiredMiddleware,
    Tables,
    User,
    authenticate,
    complete_login,
    login_required,
    middleware,
    redirect_to_login,
    user_columns,
)
from starlette_auth.mail.messages import plain_text
from starlette_auth.security.reset_tokens import encode_uid
from starlette_auth.testing import CollectingMailer

from ..conftest import PASSWORD, any_database, client_of, installed, post_login, token_in, with_tables
from ..support.apps import app_routes, make_app, public

pytestmark = [with_tables, any_database]

SITE = "http://testserver"
OWN = {"origin": SITE, "sec-fetch-site": "same-origin"}
NAVIGATION = {**OWN, "sec-fetch-dest": "document", "sec-fetch-mode": "navigate"}
NEW = "an entirely new passphrase"
CHANGE = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}
RESET = {"new_password1": NEW, "new_password2": NEW}


@contextlib.asynccontextmanager
async def site(database: Database, *pages: Any, **options: Any) -> AsyncIterator[tuple[Auth, httpx.AsyncClient]]:
    """Yields the Auth and a browser of an application that sends mail and has the user ann."""
    async with installed(database, **{"mailer": CollectingMailer(), "base_url": SITE, **options}) as auth:
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with client_of(make_app(auth, *pages), headers=OWN) as client:
            yield auth, client
        await auth.mail_queue.drain()


async def mail_of_reset(auth: Auth, client: httpx.AsyncClient, email: str = "ann@example.org") -> EmailMessage:
    """Asks for a reset link; returns the mail with it."""
    assert (await client.post("/accounts/password_reset", data={"email": email})).status_code == 303
    await auth.mail_queue.drain()
    assert isinstance(auth.mail_queue.mailer, CollectingMailer)
    (mail,) = auth.mail_queue.mailer.messages
    return mail


async def link_of(auth: Auth, username: str = "ann") -> str:
    user = await auth.users.get_by_username(username)
    assert isinstance(user, User)
    return f"/accounts/reset/{encode_uid(user)}/{await auth.reset_tokens.make(user)}"


async def name_in(client: httpx.AsyncClient) -> str:
    return str((await client.get("/whoami")).json()["username"])


def with_required_login(auth: Auth, *pages: Any) -> Starlette:
    login_middleware = Middleware(LoginRequiredMiddleware)
    return Starlette(routes=[*pages, *app_routes(auth)], middleware=[*middleware(auth), login_middleware])


# Names of routes, and pages that replace those of the package


async def test_every_route_has_the_name_that_it_has_in_django(auth: Auth) -> None:
    app, link = make_app(auth), {"uidb64": "aaaaaaa", "token": "1111-aaaaa"}
    for name in ("login", "logout", "password_change", "password_change_done", "password_reset", "password_reset_done"):
        assert app.url_path_for(name) == f"/accounts/{name.replace('_done', '/done')}"
    assert app.url_path_for("password_reset_confirm", **link) == "/accounts/reset/aaaaaaa/1111-aaaaa"
    assert app.url_path_for("password_reset_complete") == "/accounts/reset/done"


async def test_each_step_leads_to_the_page_of_the_application_with_the_name(database: Database) -> None:
    names = ("password_reset_done", "password_reset_complete", "password_change_done")
    async with site(database, *(Route(f"/my/{name}", public, name=name) for name in names)) as (auth, client):
        answer = await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
        assert answer.headers["location"] == "/my/password_reset_done"
        answer = await client.post(await link_of(auth), data=RESET)
        assert answer.headers["location"] == "/my/password_reset_complete"
        await post_login(client, password=NEW)
        data = {"old_password": NEW, "new_password1": PASSWORD, "new_password2": PASSWORD}
        answer = await client.post("/accounts/password_change", data=data)
        assert answer.headers["location"] == "/my/password_change_done"


# Resetting a password


async def test_templates_of_the_application_make_the_mail(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "registration"
    folder.mkdir()
    (folder / "password_reset_subject.txt").write_text("Custom password reset on {{ site_url }}")
    (folder / "password_reset_email.txt").write_text("Hello {{ user.username }}!\n\n{{ link }}\n")
    (folder / "password_reset_email.html").write_text('<html><a href="{{ link }}">Link</a></html>')
    async with site(database, templates=[tmp_path], from_email="Shop <shop@example.org>") as (auth, client):
        mail = await mail_of_reset(auth, client)
    assert (mail["Subject"], mail["From"]) == (f"Custom password reset on {SITE}", "Shop <shop@example.org>")
    assert mail.is_multipart()
    text, html = mail.iter_parts()
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert "<html>" not in text.get_content()
    assert re.match(rf"Hello ann!\s+{SITE}/accounts/reset/[\w/-]+\s*$", text.get_content())
    assert re.match(rf'<html><a href="{SITE}/accounts/reset/[\w/-]+">Link</a></html>\s*$', html.get_content())


async def test_a_mail_without_an_html_template_is_plain_text(database: Database, tmp_path: Path) -> None:
    (tmp_path / "registration").mkdir()
    (tmp_path / "registration" / "password_reset_email.html").write_text("")
    async with site(database, templates=[tmp_path]) as (auth, client):
        mail = await mail_of_reset(auth, client)
    assert (mail.is_multipart(), mail.get_content_type()) == (False, "text/plain")
    assert f"{SITE}/accounts/reset/" in plain_text(mail)


async def test_a_reset_with_a_login_changes_who_is_logged_in(database: Database) -> None:
    async with site(database, login_after_reset=True) as (auth, client):
        await auth.users.create_user("bob", "bob@example.org", PASSWORD)
        for username in ("bob", "ann"):
            await post_login(client)
            assert (await client.post(await link_of(auth, username), data=RESET)).status_code == 303
            assert await name_in(client) == username


async def test_only_a_valid_link_shows_whose_password_is_reset(database: Database) -> None:
    async with site(database) as (auth, client):
        page = await client.get(await link_of(auth), follow_redirects=True)
        assert 'value="ann" autocomplete="username"' in page.text
        page = await client.get("/accounts/reset/zzzzzzzzzzzzz/1-1", follow_redirects=True)
        assert (page.status_code, 'autocomplete="username"' in page.text) == (404, False)


async def test_a_user_with_a_uuid_resets_the_password_and_other_keys_open_nothing(database: Database) -> None:
    key = sa.Column("id", sa.Uuid(), primary_key=True, default=uuid.uuid4)
    member = sa.Table("uuid_member", sa.MetaData(), *user_columns(key))
    async with site(database, tables=Tables(user=member)) as (auth, client):
        link = await link_of(auth)
        secret = link.rpartition("/")[2]
        for uid in ("SU5WQUxJRF9VVUlE", "MQ", "zzzzzzzzzzzzz"):
            assert (await client.get(f"/accounts/reset/{uid}/{secret}")).status_code == 404
        page = await client.get(link, follow_redirects=True)
        assert (await client.post(page.url, data=RESET)).headers["location"] == "/accounts/reset/done"
        assert (await post_login(client, password=NEW)).status_code == 303


async def test_pages_name_the_login_field_for_password_managers(database: Database) -> None:
    """The password manager stored the password under the address, and would not find it by the username."""
    async with site(database, login_fields=["email"]) as (auth, client):
        shown = 'value="ann@example.org" autocomplete="username"'
        assert shown in (await client.get(await link_of(auth), follow_redirects=True)).text
        await post_login(client, "ann@example.org")
        for page in ("password_change", "reauthenticate"):
            assert shown in (await client.get(f"/accounts/{page}")).text, page


# LoginRequiredMiddleware and the account pages


async def test_with_a_required_login_the_account_pages_work_for_visitors(database: Database) -> None:
    async with site(database) as (auth, _), client_of(with_required_login(auth), headers=OWN) as client:
        for path in ("login", "logout", "password_reset", "password_reset/done", "reset/done"):
            assert (await client.get(f"/accounts/{path}")).status_code == 200, path
        assert (await client.get("/accounts/reset/abc/def")).status_code == 404
        answer = await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
        assert answer.headers["location"] == "/accounts/password_reset/done"
        assert (await client.post("/accounts/logout")).headers["location"] == "/accounts/logged_out"
        answer = await client.post("/accounts/password_change", data=CHANGE)
        assert answer.headers["location"] == "/accounts/login?next=%2Faccounts%2Fpassword_change"
        await post_login(client)
        answer = await client.post("/accounts/password_change", data=CHANGE)
        assert answer.headers["location"] == "/accounts/password_change/done"
        assert (await client.post("/accounts/logout")).headers["location"] == "/accounts/logged_out"
        assert await name_in(client_of(make_app(auth), cookies=client.cookies)) == ""


# Where a login and a logout lead

BAD_URLS = [
    *("http://example.com", "http:///example.com", "https://example.com", "ftp://example.com", "///example.com"),
    *("//example.com", 'javascript:alert("XSS")', "view/?param=//example.com"),
]
GOOD_URLS = {
    "/view/?param=http://example.com": "/view/?param=http://example.com",
    "/view/?param=https://example.com": "/view/?param=https://example.com",
    "/view?param=ftp://example.com": "/view?param=ftp://example.com",
    "/url%20with%20spaces/": "/url%20with%20spaces/",
    # URLs of this site are followed as paths.
    "https://testserver/x": "/x",
    "HTTPS://testserver/x": "/x",
    "http://testserver/x": "/x",
}


@pytest.mark.parametrize("base_url", [SITE, "https://testserver"])
async def test_a_login_and_a_logout_follow_only_a_next_of_this_site(database: Database, base_url: str) -> None:
    cases = {**dict.fromkeys(BAD_URLS, "/home"), **GOOD_URLS, "//testserver/x": "/home"}
    options = {"login_redirect_url": "/home", "logout_redirect_url": "/home"}
    async with (
        installed(database, **options) as auth,
        client_of(make_app(auth), base_url=base_url, headers={"origin": base_url}) as client,
    ):
        ann = await auth.users.create_user("ann", password=PASSWORD)
        for url, expected in cases.items():
            data = {"username": "ann", "password": PASSWORD}
            answer = await client.post(f"/accounts/login?next={quote(url)}", data=data)
            assert (answer.headers["location"], await name_in(client)) == (expected, "ann"), url
            answer = await client.post(f"/accounts/logout?next={quote(url)}")
            assert (answer.headers["location"], await name_in(client)) == (expected, ""), url
        assert ann.last_login is None


async def test_hosts_of_next_hosts_are_allowed_at_login_and_logout(database: Database) -> None:
    async with site(database, next_hosts=["otherserver"], login_redirect_url="/home") as (_, client):
        for url, login_to, logout_to in (
            ("https://otherserver/home", "https://otherserver/home", "https://otherserver/home"),
            ("https://testserver/x", "/x", "/x"),
            ("https://evil/home", "/home", "/accounts/logged_out"),
        ):
            assert (await post_login(client, next=url)).headers["location"] == login_to
            assert (await client.post(f"/accounts/logout?next={url}")).headers["location"] == logout_to
            assert await name_in(client) == ""


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/", "/"),
        ("/custom/", "/custom/"),
        ("password_reset", "/accounts/password_reset"),
        ("http://remote.example.com/welcome/", "http://remote.example.com/welcome/"),
    ],
)
async def test_a_login_without_next_leads_to_the_set_page(database: Database, url: str, expected: str) -> None:
    async def own_login(request: Request) -> Response:
        user = await authenticate(request, username="ann", password=PASSWORD)
        assert isinstance(user, User)
        return await complete_login(request, user, request.query_params.get("next", "/somewhere/"))

    page = Route("/own-login", own_login, methods=["POST"])
    async with site(database, page, login_redirect_url=url) as (_, client):
        assert (await post_login(client)).headers["location"] == expected
        assert (await post_login(client, next="/test/")).headers["location"] == "/test/"
        # The application's login page passes another default to complete_login(), which overrides the setting.
        assert (await client.post("/own-login")).headers["location"] == "/somewhere/"
        assert (await client.post("/own-login?next=/test/")).headers["location"] == "/test/"
        answer = await client.get("/accounts/login", headers=NAVIGATION)
        assert answer.headers["location"] == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [("/custom/", "/custom/"), ("login", "/accounts/login"), ("password_reset", "/accounts/password_reset")],
)
async def test_a_logout_without_next_leads_to_the_set_page(database: Database, url: str, expected: str) -> None:
    async with site(database, logout_redirect_url=url) as (_, client):
        for query, target in (("", expected), ("?next=/login/", "/login/"), ("?next=https://evil/", expected)):
            await post_login(client)
            client.cookies.set("language", "pl")
            answer = await client.post(f"/accounts/logout{query}")
            assert answer.headers["location"] == target
            assert answer.headers["cache-control"] == "no-store"
            assert await name_in(client) == ""
            assert client.cookies["language"] == "pl", "cookies of the application stay"


async def test_a_logout_shows_the_name_of_the_site(database: Database) -> None:
    async with site(database, site_name="The Shop") as (_, client):
        await post_login(client)
        page = await client.post("/accounts/logout", follow_redirects=True)
        assert (page.status_code, page.url.path) == (200, "/accounts/logged_out")
        assert "You are logged out" in page.text
        for text in (page.text, (await client.get("/accounts/login")).text):
            assert "The Shop" in text


# The URL of the login page


@pytest.mark.parametrize(
    ("login_url", "expected"),
    [
        ("/login/", "/login/?next=%2Frequired%2F"),
        ("login", "/accounts/login?next=%2Frequired%2F"),
        (
            "http://remote.example.com/login",
            "http://remote.example.com/login?next=http%3A%2F%2Ftestserver%2Frequired%2F",
        ),
        ("/login/?pretty=1", "/login/?pretty=1&next=%2Frequired%2F"),
        (
            "http://remote.example.com/login/?next=/default/",
            "http://remote.example.com/login/?next=http%3A%2F%2Ftestserver%2Frequired%2F",
        ),
    ],
)
async def test_a_page_leads_to_the_set_login_page_and_back(database: Database, login_url: str, expected: str) -> None:
    @login_required
    async def required(request: Request) -> Response:
        return Response()

    async def else_where(request: Request) -> Response:
        return redirect_to_login(request, "/else/where/झ/")

    pages = Route("/required/", required), Route("/else", else_where)
    async with site(database, *pages, login_url=login_url) as (_, client):
        assert (await client.get("/required/")).headers["location"] == expected
        location = (await client.get("/else")).headers["location"]
        assert location.endswith("next=%2Felse%2Fwhere%2F%E0%A4%9D%2F")


@pytest.mark.parametrize("name", ["login_url", "login_redirect_url", "logout_redirect_url"])
@pytest.mark.parametrize(
    "url", ["https:///login/", "http://", "https://?a=1", "https://:80/x", "http://[::1/", "//a/b"]
)
async def test_a_url_without_a_host_is_refused(database: Database, name: str, url: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=name):
        async with installed(database, **{name: url}):
            pass


async def test_a_login_of_a_session_without_an_auth_hash_gets_another_key(auth: Auth, ann: User) -> None:
    session = await auth.sessions.load("")
    session["_auth_user_id"] = str(ann.id)
    key = await auth.sessions.save(session, 60)
    async with client_of(make_app(auth), headers=OWN) as client:
        data = {"username": "ann", "password": PASSWORD}
        answer = await client.post("/accounts/login", data=data, headers={"cookie": f"session={key}"})
        assert (answer.status_code, answer.cookies["session"] == key) == (303, False)
        assert await name_in(client) == "ann"


async def test_a_login_makes_older_csrf_tokens_invalid(database: Database) -> None:
    async with site(database, csrf="strict") as (_, client):
        token = token_in((await client.get("/accounts/login")).text)
        data = {"username": "ann", "password": PASSWORD, "csrfmiddlewaretoken": token}
        assert (await client.post("/accounts/login", data=data)).status_code == 303
        assert (await client.post("/members", data={"csrfmiddlewaretoken": token})).status_code == 403
        token = token_in((await client.get("/accounts/password_change")).text)
        assert (await client.post("/members", data={"csrfmiddlewaretoken": token})).text == "members"


async def test_a_mail_that_cannot_be_sent_is_logged_with_the_key_of_its_user(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    class Failing:
        async def send(self, message: EmailMessage) -> None:
            raise ValueError("This mailer always fails.")

    async with site(database, mailer=Failing()) as (auth, client):
        ann = await auth.users.get_by_username("ann")
        answer = await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
        assert answer.headers["location"] == "/accounts/password_reset/done"
        await auth.mail_queue.drain()
    assert isinstance(ann, User)
    [record] = [record for record in caplog.records if record.name == "starlette_auth"]
    assert record.levelname == "ERROR"
    assert f"the key {ann.id}" in record.getMessage()
    assert "This mailer always fails." in record.getMessage()
