"""Tests against CSRF with a planted cookie: an attacker on a subdomain sets the cookie that a token must match."""

from typing import Any

import pytest
from databases import Database
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import Auth, Cookie, DjangoProject, MemoryStore, csrf_input

from ..conftest import client_of, token_in
from ..support.apps import make_app
from ..support.databases import SECRET_KEY

SITE = "https://shop.example"
PLANTED = "a" * 32
#: Settings with which a page of a subdomain, or of http, can set the cookie that holds the CSRF secret.
WITHOUT_HOST_PREFIX: list[dict[str, Any]] = [
    {"django": DjangoProject()},
    {"django": DjangoProject(csrf_cookie_secure=True, session_cookie_secure=True)},
    {"django": DjangoProject(csrf_use_sessions=True)},
    {"cookie": Cookie(domain="shop.example")},
    {"cookie": Cookie(prefix=False)},
]


async def form(request: Request) -> Response:
    request.session["a"] = 1
    return HTMLResponse(f"<form method=post>{csrf_input(request)}</form>")


async def posted(request: Request) -> Response:
    return PlainTextResponse("posted")


def app_of(database: Database, **options: Any) -> Any:
    auth = Auth(database, secret_key=SECRET_KEY, sessions=MemoryStore(), **options)
    return make_app(auth, Route("/form", form), Route("/post", posted, methods=["POST"]))


@pytest.mark.parametrize("csrf", ["headers", "strict"])
@pytest.mark.parametrize("url", [SITE, "http://shop.example"])
@pytest.mark.parametrize("headers", [{}, {"referer": ""}, {"referer": "about:blank"}], ids=str)
async def test_a_planted_csrftoken_does_not_open_a_django_project_over_https(
    database: Database, csrf: str, url: str, headers: dict[str, str]
) -> None:
    """The server may see http behind a proxy; `base_url` says that the site uses https."""
    app = app_of(database, django=DjangoProject(), base_url=SITE, csrf=csrf)
    async with client_of(app, base_url=url) as client:
        headers = {**headers, "cookie": f"csrftoken={PLANTED}"}
        for body in ({"csrfmiddlewaretoken": PLANTED}, {}):
            response = await client.post("/post", data=body, headers={**headers, "x-csrftoken": PLANTED})
            assert response.status_code == 403
            assert "Referer" in response.text
        response = await client.post("/accounts/login", data={"csrfmiddlewaretoken": PLANTED}, headers=headers)
        assert response.status_code == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"referer": f"{SITE}/form"}, 200),
        ({"referer": "https://trusted.example/form"}, 200),
        ({"referer": "http://shop.example/form"}, 403),
        ({"referer": "https://evil.example/form"}, 403),
        ({"referer": "https://shop.example.evil.example/form"}, 403),
        ({"referer": "https://[evil"}, 403),
        ({"origin": SITE}, 200),
        ({"origin": "http://shop.example"}, 403),
        ({"sec-fetch-site": "same-origin"}, 200),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
    ids=str,
)
@pytest.mark.parametrize("options", WITHOUT_HOST_PREFIX, ids=["django", "secure", "in session", "domain", "no prefix"])
async def test_over_https_a_header_must_name_the_page_where_the_cookie_can_be_planted(
    database: Database, options: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    app = app_of(database, trusted_origins=["https://trusted.example"], **options)
    async with client_of(app, base_url=SITE) as client:
        fields = {"csrfmiddlewaretoken": token_in((await client.get("/form")).text)}
        assert (await client.post("/post", data=fields, headers=headers)).status_code == status


@pytest.mark.parametrize("options", WITHOUT_HOST_PREFIX, ids=["django", "secure", "in session", "domain", "no prefix"])
async def test_over_http_a_token_is_enough(database: Database, options: dict[str, Any]) -> None:
    if any("ecure=True" in str(value) for value in options.values()):
        pytest.skip("This site is never served over http.")
    async with client_of(app_of(database, **options), base_url="http://shop.example") as client:
        fields = {"csrfmiddlewaretoken": token_in((await client.get("/form")).text)}
        assert (await client.post("/post", data=fields)).status_code == 200
        headers = {"referer": "http://evil.example/"}
        assert (await client.post("/post", data=fields, headers=headers)).status_code == 403


async def test_a_token_is_enough_where_the_prefix_host_protects_the_cookie(database: Database) -> None:
    async with client_of(app_of(database), base_url=SITE) as client:
        fields = {"csrfmiddlewaretoken": token_in((await client.get("/form")).text)}
        assert (await client.post("/post", data=fields)).status_code == 200
