"""Tests of messages for programmers: what was forgotten, and how to write it."""

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.templating import Jinja2Templates
from starlette.testclient import TestClient

from starlette_auth import (
    Auth,
    ImproperlyConfigured,
    User,
    auth_context,
    authenticate,
    get_auth,
    login,
    login_required,
    logout,
    user_passes_test,
)

from .conftest import PASSWORD, any_database, client_of, installed, post_login, with_tables
from .support.apps import make_app

pytestmark = [with_tables, any_database]

SITE = {"origin": "http://testserver"}


def shows(auth: Auth, name: str, **options: Any) -> Route:
    """Returns a route that shows a template with the package's environment."""
    templates = Jinja2Templates(env=auth.templates.environment, **options)

    def page(request: Request) -> Response:
        return templates.TemplateResponse(request, name)

    return Route("/page", page)


@pytest.mark.parametrize("text", ["none", '{% extends "none.html" %}', '{% include "none.html" %}'])
async def test_a_missing_template_is_named_with_the_folders(auth: Auth, tmp_path: Path, text: str) -> None:
    folder = tmp_path / "templates"
    folder.mkdir()
    if text != "none":
        (folder / "page.html").write_text(text)
    async with installed(auth.database, templates=[folder]) as other:
        route = await asyncio.to_thread(shows, other, "none.html" if text == "none" else "page.html")
        async with client_of(make_app(other, route)) as client:
            with pytest.raises(ImproperlyConfigured) as caught:
                await client.get("/page")
    message = str(caught.value)
    assert message.startswith("There is no template 'none.html' in ")
    assert str(folder) in message
    assert message.endswith("Auth(templates=[…]).")


async def test_a_template_may_be_missing_where_the_page_says_so(auth: Auth, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text('{% include "none.html" ignore missing %}{% include ["a.html", "b.html"] %}')
    (tmp_path / "b.html").write_text("second")
    async with installed(auth.database, templates=[tmp_path]) as other:
        route = await asyncio.to_thread(shows, other, "page.html")
        async with client_of(make_app(other, route)) as client:
            assert (await client.get("/page")).text == "second"


@pytest.mark.parametrize(
    "text",
    ["{{ csrf_input }}", "{{ auth_url('login') }}", "{% if user.is_authenticated %}{% endif %}", "{{ perms.a.b }}"],
)
async def test_a_page_without_auth_context_says_what_is_missing(auth: Auth, tmp_path: Path, text: str) -> None:
    (tmp_path / "page.html").write_text(text)
    async with installed(auth.database, templates=[tmp_path]) as other:
        wrong = await asyncio.to_thread(shows, other, "page.html")
        right = await asyncio.to_thread(shows, other, "page.html", context_processors=[auth_context])
        async with client_of(make_app(other, wrong)) as client:
            with pytest.raises(Exception, match=r"Pass context_processors=\[auth_context\] to Jinja2Templates"):
                await client.get("/page")
        async with client_of(make_app(other, right)) as client:
            assert (await client.get("/page")).status_code == 200


async def test_a_form_without_its_token_names_the_cause_in_the_log(
    auth: Auth, ann: User, caplog: pytest.LogCaptureFixture
) -> None:
    auth.csrf = "strict"
    async with client_of(make_app(auth), headers=SITE) as client:
        await post_login(client)
        assert (await client.post("/vote", data={"a": "b"})).status_code == 403
    assert "{{ csrf_input }}" in caplog.records[-1].getMessage()
    assert "auth_context" in caplog.records[-1].getMessage()


def forgets_await(request: Request) -> Response:
    logout(request)  # type: ignore[unused-coroutine]
    return JSONResponse({"logged_out": True})


async def forgets_await_too(request: Request) -> Response:
    login(request, request.user)  # type: ignore[unused-coroutine]
    return JSONResponse({"logged_in": True})


async def believes(request: Request) -> Response:
    if authenticate(request, username="ann", password="wrong"):
        return JSONResponse({"right": True})
    return JSONResponse({"right": False})


async def grants(request: Request) -> Response:
    if get_auth(request).has_perm(request.user, "polls.add_vote"):
        return JSONResponse({"allowed": True})
    return JSONResponse({"allowed": False})


async def checks(request: Request) -> Response:
    return JSONResponse({"right": bool(get_auth(request).users.check_password(request.user, "wrong"))})


@pytest.mark.parametrize("endpoint", [forgets_await, forgets_await_too, believes, grants, checks])
async def test_a_call_without_await_does_not_pass(
    auth: Auth, ann: User, endpoint: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(make_app(auth, Route("/own", endpoint, methods=["POST"])), headers=SITE) as client:
        await post_login(client)
        with pytest.raises(ImproperlyConfigured, match=r"was called without await, so it did nothing\. Write `await "):
            await client.post("/own")
        errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
        (name,) = [error.partition("(")[0] for error in errors]
        assert name in ("logout", "login", "authenticate", "has_perm", "check_password")
        assert (await client.get("/members")).status_code == 200


async def test_calls_that_are_awaited_in_other_ways_work(auth: Auth, ann: User) -> None:
    async def in_a_task(request: Request) -> Response:
        await asyncio.create_task(login(request, ann))
        allowed, user = await asyncio.gather(
            auth.has_perm(ann, "a.b"), authenticate(request, username="ann", password=PASSWORD)
        )
        return JSONResponse([allowed, user == ann])

    async def afterwards(request: Request) -> Response:
        return JSONResponse({}, background=BackgroundTask(login, request, ann))

    endpoints = {"/own": in_a_task, "/afterwards": afterwards}
    app = make_app(auth, *(Route(path, endpoint, methods=["POST"]) for path, endpoint in endpoints.items()))
    async with client_of(app, headers=SITE) as client:
        assert (await client.post("/own")).json() == [False, True]
        assert (await client.get("/members")).status_code == 200
        before = await auth.users.get(ann.id)
        await client.post("/afterwards")
        after = await auth.users.get(ann.id)
        assert before is not None
        assert after is not None
        assert str(after.last_login) > str(before.last_login)
    call = auth.has_perm(ann, "a.b")
    call.close()


def test_a_portal_awaits_calls(tmp_path: Path) -> None:
    auth = Auth(_database(tmp_path), secret_key="a secret key that is for tests only, and long enough")
    with TestClient(make_app(auth)) as client:
        assert client.portal is not None
        assert client.portal.call(auth.has_perm, User(id=1, username="ann"), "a.b") is False


def _database(folder: Path) -> Database:
    return Database(f"sqlite+aiosqlite:///{folder}/a.sqlite3")


async def test_messages_name_an_endpoint_by_its_name(auth: Auth) -> None:
    @login_required
    async def orders() -> Response:
        raise AssertionError

    async def is_staff(user: Any) -> bool:
        await asyncio.sleep(60)
        raise AssertionError

    @user_passes_test(is_staff)
    def customers(request: Request) -> Response:
        raise AssertionError

    with pytest.raises(ImproperlyConfigured) as caught:
        await orders()
    assert "orders (test_messages.py:" in str(caught.value)

    async def call_customers(request: Request) -> Response:
        return customers(request)  # in the event loop, where its test cannot wait

    async with client_of(make_app(auth, Route("/customers", call_customers))) as client:
        with pytest.raises(ImproperlyConfigured) as caught:
            await client.get("/customers")
    assert "customers (test_messages.py:" in str(caught.value)
    for message in (str(caught.value),):
        assert " at 0x" not in message
    for wrong in (5, "orders"):
        with pytest.raises(ImproperlyConfigured, match="is not an endpoint"):
            login_required(wrong)  # type: ignore[call-overload]
