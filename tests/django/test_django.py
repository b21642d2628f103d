"""Tests of one database shared with a real, running Django."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from starlette_auth import Auth, User
from starlette_auth.auth import get_auth

from ..conftest import BACKENDS, PASSWORD, name_of, post_login, token_in
from ..support.apps import make_app
from .djangos import Django, browser, django_on, shared_auth

NEW_PASSWORD = "another good long password"
LAST_USER = {"number": 0}


@pytest.fixture(scope="module", params=BACKENDS, ids=name_of)
def django(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Django]:
    """One project per database for all tests of this file. Each test uses its own usernames."""
    with django_on(str(request.param), tmp_path_factory.mktemp("django")) as project:
        yield project


@pytest.fixture
async def auth(django: Django) -> AsyncIterator[Auth]:
    async with shared_auth(django) as auth:
        yield auth


@pytest.fixture
def name() -> str:
    LAST_USER["number"] += 1
    return f"user{LAST_USER['number']}"


@pytest.fixture
async def ann(auth: Auth, name: str) -> User:
    """A user created by this package."""
    user: User = await auth.users.create_user(name, f"{name}@example.org", PASSWORD)
    return user


async def session_view(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def update_session_view(request: Request) -> Response:
    request.session.update(await request.json())
    return PlainTextResponse("")


async def change_password_view(request: Request) -> Response:
    auth = get_auth(request)
    await auth.users.set_password(request.user, (await request.body()).decode())
    auth.session_backend.refresh_auth_hash(request.session, request.user)  # type: ignore[arg-type]
    return PlainTextResponse("")


def make_shared_app(auth: Auth) -> Any:
    return make_app(
        auth,
        Route("/session_data", session_view),
        Route("/update_session", update_session_view, methods=["POST"]),
        Route("/password", change_password_view, methods=["POST"]),
    )


async def username_here(client: httpx.AsyncClient) -> str:
    return str((await client.get("/whoami")).json()["username"])


async def username_in_django(client: httpx.AsyncClient, project: Django) -> str:
    return str((await client.get(f"{project.url}/whoami")).json()["username"])


async def log_in_to_django(client: httpx.AsyncClient, project: Django, name: str, password: str = PASSWORD) -> int:
    response = await client.post(f"{project.url}/login", json={"username": name, "password": password})
    return response.status_code


# Logging in and out


async def test_a_login_here_is_valid_in_django_and_its_logout_is_valid_here(
    django: Django, auth: Auth, ann: User
) -> None:
    async with browser(django, make_shared_app(auth)) as client:
        assert (await post_login(client, ann.username)).status_code == 303
        assert await username_here(client) == await username_in_django(client, django) == ann.username
        session = (await client.get("/session_data")).json()
        assert session["_auth_user_backend"] == "django.contrib.auth.backends.ModelBackend"
        before = dict(client.cookies)
        await client.post(f"{django.url}/logout")
        assert await username_here(client) == await username_in_django(client, django) == ""
        client.cookies.update(before)
        assert await username_here(client) == await username_in_django(client, django) == ""


async def test_a_login_in_django_is_valid_here_and_our_logout_is_valid_there(
    django: Django, auth: Auth, ann: User
) -> None:
    async with browser(django, make_shared_app(auth)) as client:
        assert await log_in_to_django(client, django, ann.username) == 200
        assert await username_here(client) == await username_in_django(client, django) == ann.username
        before = dict(client.cookies)
        await client.post("/accounts/logout")
        assert await username_here(client) == await username_in_django(client, django) == ""
        client.cookies.update(before)
        assert await username_here(client) == await username_in_django(client, django) == ""


async def test_session_data_is_kept_when_logging_in_to_the_other_application(
    django: Django, auth: Auth, ann: User
) -> None:
    async with browser(django, make_shared_app(auth)) as client:
        await client.post(f"{django.url}/session", json={"cart": [1]})
        before = client.cookies["sessionid"]
        await post_login(client, ann.username)
        assert client.cookies["sessionid"] != before
        assert (await client.get("/session_data")).json()["cart"] == [1]
        await client.post("/accounts/logout")
        await client.post("/update_session", json={"cart": [2]})
        await log_in_to_django(client, django, ann.username)
        assert (await client.get("/session_data")).json()["cart"] == [2]


@pytest.mark.parametrize("application", ["starlette", "django"])
async def test_a_new_password_ends_the_users_other_sessions_in_both(
    django: Django, auth: Auth, ann: User, application: str
) -> None:
    app = make_shared_app(auth)
    async with browser(django, app) as first, browser(django, app) as second, browser(django, app) as third:
        await post_login(first, ann.username)
        await post_login(second, ann.username)
        await log_in_to_django(third, django, ann.username)
        await first.post("/password" if application == "starlette" else f"{django.url}/password", content=NEW_PASSWORD)
        assert await username_here(first) == await username_in_django(first, django) == ann.username
        assert await username_in_django(second, django) == await username_here(second) == ""
        assert await username_here(third) == await username_in_django(third, django) == ""
        assert (await post_login(second, ann.username, NEW_PASSWORD)).status_code == 303
        assert await log_in_to_django(third, django, ann.username, NEW_PASSWORD) == 200


async def test_a_deactivated_user_is_logged_out_of_both(django: Django, auth: Auth, ann: User) -> None:
    async with browser(django, make_shared_app(auth)) as client:
        await post_login(client, ann.username)
        await auth.users.update(ann, is_active=False)
        assert await username_in_django(client, django) == await username_here(client) == ""


async def test_a_concurrent_request_does_not_undo_a_logout_in_django(django: Django, auth: Auth, ann: User) -> None:
    async def slow(request: Request) -> Response:
        request.session["late"] = True
        async with httpx.AsyncClient(cookies=request.cookies) as client:
            await client.post(f"{django.url}/logout")
        return PlainTextResponse("")

    async with browser(django, make_app(auth, Route("/slow", slow))) as client:
        await post_login(client, ann.username)
        assert (await client.get("/slow")).status_code == 400
        assert await username_here(client) == ""


# Session data


async def test_session_data_of_django_is_preserved(django: Django, auth: Auth, ann: User) -> None:
    data = {
        "text": "é ☃ 𝄞 \u0000 <b>",
        "deep": {"list": [1, 2.5, None, True, {"": "ü"}]},
        "_language": "de",
        "testcookie": "worked",
        "_csrftoken": "a" * 32,
        "long": "x" * 5000,
    }
    async with browser(django, make_shared_app(auth)) as client:
        await log_in_to_django(client, django, ann.username)
        await client.post(f"{django.url}/session", json=data)
        await client.post(f"{django.url}/message", content="Grüße ☃".encode())
        before = (await client.get("/session_data")).json()
        await client.post("/update_session", json={"starlette": "ñ"})
        assert (await client.get("/session_data")).json() == {**before, "starlette": "ñ"}
        state = (await client.get(f"{django.url}/whoami")).json()
        assert state["messages"] == ["Grüße ☃"]
        assert {name: state["session"][name] for name in data} == data
        assert state["session"]["starlette"] == "ñ"


async def test_nan_in_session_data_of_django_is_preserved(django: Django, auth: Auth) -> None:
    async with browser(django, make_shared_app(auth)) as client:
        await client.post(f"{django.url}/session", content=b'{"number": NaN}', headers={"content-type": "text/json"})
        assert (await client.post("/update_session", json={"a": 1})).status_code == 200
        assert "NaN" in (await client.get(f"{django.url}/whoami")).text


async def test_changes_of_django_during_our_request_are_merged(django: Django, auth: Auth) -> None:
    async def slow(request: Request) -> Response:
        request.session["starlette"] = 1
        async with httpx.AsyncClient(cookies=request.cookies) as client:
            await client.post(f"{django.url}/session", json={"django": 1})
        return PlainTextResponse("")

    async with browser(django, make_app(auth, Route("/slow", slow), Route("/session_data", session_view))) as client:
        await client.post(f"{django.url}/session", json={"first": 1})
        await client.get("/slow")
        assert (await client.get("/session_data")).json() == {"first": 1, "starlette": 1, "django": 1}


async def test_changes_of_many_concurrent_requests_are_merged(django: Django, auth: Auth) -> None:
    async with browser(django, make_shared_app(auth)) as client:
        await client.post(f"{django.url}/session", json={"first": 1})
        cookies = dict(client.cookies)

        async def put(number: int) -> None:
            async with browser(django, make_shared_app(auth)) as another:
                another.cookies.update(cookies)
                assert (await another.post("/update_session", json={f"n{number}": number})).status_code == 200

        await asyncio.gather(*map(put, range(50)))
        assert (await client.get(f"{django.url}/whoami")).json()["session"] == {
            "first": 1,
            **{f"n{number}": number for number in range(50)},
        }


@pytest.mark.parametrize("expiry", [0, 100])
async def test_an_expiry_set_by_django_is_respected(django: Django, auth: Auth, expiry: int) -> None:
    async with browser(django, make_shared_app(auth)) as client:
        await client.post(f"{django.url}/expire", json=expiry)
        response = await client.post("/update_session", json={"a": 1})
        cookie = next(value for value in response.headers.get_list("set-cookie") if value.startswith("sessionid="))
        assert ("Max-Age" in cookie) == bool(expiry)
        row = await auth.database.fetch_one(
            auth.tables.session.select().where(auth.tables.session.c.session_key == client.cookies["sessionid"])
        )
        assert row is not None
        left = row["expire_date"].replace(tzinfo=UTC) - datetime.now(UTC)
        assert abs(left - timedelta(seconds=expiry or 14 * 24 * 3600)) < timedelta(seconds=30)


# Forms


async def test_csrf_tokens_are_valid_in_both(django: Django, auth: Auth, ann: User) -> None:
    """Without an Origin header, so that only the token counts."""
    async with browser(django, make_shared_app(auth)) as client:
        del client.headers["origin"]
        await log_in_to_django(client, django, ann.username)
        token = token_in((await client.get(f"{django.url}/form")).text.replace('type="hidden" ', 'type="hidden" '))
        response = await client.post("/accounts/logout", data={"csrfmiddlewaretoken": token[:-1] + "_"})
        assert response.status_code == 403
        assert await username_here(client) == ann.username
        passwords = {"old_password": "wrong", "new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}
        fields = {**passwords, "csrfmiddlewaretoken": token}
        assert (await client.post("/accounts/password_change", data=fields)).status_code == 422
        token = token_in((await client.get("/accounts/password_change")).text)
        response = await client.post(f"{django.url}/form", data={"csrfmiddlewaretoken": token})
        assert (response.status_code, response.text) == (200, "posted")
        # A login in either application replaces the secret.
        await post_login(client, ann.username)
        assert (await client.post(f"{django.url}/form", data={"csrfmiddlewaretoken": token})).status_code == 403
        token = token_in((await client.get("/accounts/password_change")).text)
        assert (await client.post(f"{django.url}/form", data={"csrfmiddlewaretoken": token})).status_code == 200


# Users, groups and permissions


async def test_users_groups_and_permissions_are_shared(django: Django, auth: Auth, name: str) -> None:
    django.code(
        f"""
from django.contrib.auth.models import Group, Permission
user = User.objects.create_user("{name}", "{name}@Example.ORG", "{PASSWORD}", first_name="Zoë")
group = Group.objects.create(name="{name} editors")
group.permissions.add(Permission.objects.get(codename="add_session"))
user.groups.add(group)
user.user_permissions.add(Permission.objects.get(codename="view_session"))
"""
    )
    user = await auth.users.get_by_username(name)
    assert user is not None
    assert (user.email, user.first_name) == (f"{name}@example.org", "Zoë")
    assert user.get_all_permissions() == {"sessions.add_session", "sessions.view_session"}
    assert await auth.users.check_password(user, PASSWORD)
    await auth.users.create_permission(f"{name}.fly")
    group = await auth.users.create_group(f"{name} pilots")
    await auth.users.grant(group, f"{name}.fly")
    await auth.users.add_to_group(user, group)
    await auth.users.revoke(user, "sessions.view_session")
    await auth.users.update(user, email="new@example.org")
    result = django.code(
        f"""
user = User.objects.get(username="{name}")
result = [sorted(user.get_all_permissions()), user.email, sorted(g.name for g in user.groups.all())]
"""
    )
    assert result == [
        sorted([f"{name}.fly", "sessions.add_session"]),
        "new@example.org",
        [f"{name} editors", f"{name} pilots"],
    ]


async def test_djangos_admin_manages_users_created_here(django: Django, auth: Auth, name: str, ann: User) -> None:
    boss = await auth.users.create_superuser(f"boss{name}", password=PASSWORD)
    async with browser(django, make_shared_app(auth)) as client:
        await post_login(client, boss.username)
        client.headers["origin"] = django.url
        page = await client.get(f"{django.url}/admin/auth/user/{ann.id}/change/")
        assert page.status_code == 200
        assert page.text.count("<title>") == 1
        group = await auth.users.create_group(f"{name} admins")
        joined = ann.date_joined
        assert joined is not None
        data = {
            "csrfmiddlewaretoken": token_in(page.text),
            "username": ann.username,
            "first_name": "Änn",
            "email": ann.email,
            "is_active": "on",
            "groups": str(group.id),
            "date_joined_0": joined.strftime("%Y-%m-%d"),
            "date_joined_1": joined.strftime("%H:%M:%S"),
        }
        response = await client.post(f"{django.url}/admin/auth/user/{ann.id}/change/", data=data)
        assert response.status_code == 302, response.text
        fresh = await auth.users.get(ann.id)
        assert fresh is not None
        assert fresh.first_name == "Änn"
        assert [group.name for group in await auth.users.get_groups(fresh)] == [f"{name} admins"]
        # The admin's log refers to the user who made the change, and is deleted with that user.
        await auth.users.delete(boss)
        await auth.users.delete(fresh)
        assert await username_in_django(client, django) == ""
    assert django.code(f'result = User.objects.filter(username__contains="{name}").count()') == 0


async def test_a_user_referenced_by_the_projects_tables_is_not_deleted(django: Django, auth: Auth, ann: User) -> None:
    django.code(
        f"from tests.django.django_project.people.models import Order\nOrder.objects.create(customer_id={ann.id})"
    )
    with pytest.raises(Exception, match=r"Rows of people_order refer to .*is_active=False"):
        await auth.users.delete(ann)
    assert await auth.users.get(ann.id) is not None


async def test_times_are_the_same_in_both(django: Django, auth: Auth, ann: User) -> None:
    async with browser(django, make_shared_app(auth)) as client:
        await log_in_to_django(client, django, ann.username)
    fresh = await auth.users.get(ann.id)
    assert fresh is not None
    assert fresh.last_login is not None
    assert abs(datetime.now(UTC) - fresh.last_login) < timedelta(seconds=30)
    timestamp = django.code(f"result = User.objects.get(id={ann.id}).date_joined.timestamp()")
    assert ann.date_joined is not None
    assert timestamp == ann.date_joined.timestamp()


async def test_reset_tokens_are_valid_in_both(django: Django, auth: Auth, ann: User) -> None:
    django_token = django.code(
        f"""
from django.contrib.auth.tokens import default_token_generator
result = default_token_generator.make_token(User.objects.get(id={ann.id}))
"""
    )
    assert await auth.reset_tokens.check(ann, django_token)
    our_token = await auth.reset_tokens.make(ann)
    check = f"""
from django.contrib.auth.tokens import default_token_generator
result = default_token_generator.check_token(User.objects.get(id={ann.id}), "{our_token}")
"""
    assert django.code(check) is True
    await auth.users.set_password(ann, NEW_PASSWORD)
    assert django.code(check) is False
    assert not await auth.reset_tokens.check(ann, django_token)
