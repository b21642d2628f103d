"""One login for two frameworks: a real Django and we, on one database, both serving."""

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
from .djangos import Django, browser, django_on, sharing

LONG = "another good long password"
SERIAL = {"number": 0}


@pytest.fixture(scope="module", params=BACKENDS, ids=name_of)
def django(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Django]:
    """One for all tests of this file on one database; their users bear names of their own."""
    with django_on(str(request.param), tmp_path_factory.mktemp("django")) as project:
        yield project


@pytest.fixture
async def auth(django: Django) -> AsyncIterator[Auth]:
    async with sharing(django) as auth:
        yield auth


@pytest.fixture
def name() -> str:
    SERIAL["number"] += 1
    return f"user{SERIAL['number']}"


@pytest.fixture
async def ann(auth: Auth, name: str) -> User:
    """Made by us."""
    user: User = await auth.users.create_user(name, f"{name}@example.org", PASSWORD)
    return user


async def everything(request: Request) -> Response:
    return JSONResponse(dict(request.session))


async def store(request: Request) -> Response:
    request.session.update(await request.json())
    return PlainTextResponse("")


async def change_password(request: Request) -> Response:
    auth = get_auth(request)
    await auth.users.set_password(request.user, (await request.body()).decode())
    auth.session_backend.refresh_auth_hash(request.session, request.user)  # type: ignore[arg-type]
    return PlainTextResponse("")


def make(auth: Auth) -> Any:
    return make_app(
        auth,
        Route("/everything", everything),
        Route("/store", store, methods=["POST"]),
        Route("/password", change_password, methods=["POST"]),
    )


async def here(client: httpx.AsyncClient) -> str:
    return str((await client.get("/whoami")).json()["username"])


async def there(client: httpx.AsyncClient, project: Django) -> str:
    return str((await client.get(f"{project.url}/whoami")).json()["username"])


async def log_in_there(client: httpx.AsyncClient, project: Django, name: str, password: str = PASSWORD) -> int:
    answer = await client.post(f"{project.url}/login", json={"username": name, "password": password})
    return answer.status_code


# Logging in and out


async def test_a_login_here_is_known_there_and_a_logout_there_counts_here(
    django: Django, auth: Auth, ann: User
) -> None:
    async with browser(django, make(auth)) as client:
        assert (await post_login(client, ann.username)).status_code == 303
        assert await here(client) == await there(client, django) == ann.username
        session = (await client.get("/everything")).json()
        assert session["_auth_user_backend"] == "django.contrib.auth.backends.ModelBackend"
        before = dict(client.cookies)
        await client.post(f"{django.url}/logout")
        assert await here(client) == await there(client, django) == ""
        client.cookies.update(before)
        assert await here(client) == await there(client, django) == ""


async def test_a_login_there_is_known_here_and_a_logout_here_counts_there(
    django: Django, auth: Auth, ann: User
) -> None:
    async with browser(django, make(auth)) as client:
        assert await log_in_there(client, django, ann.username) == 200
        assert await here(client) == await there(client, django) == ann.username
        before = dict(client.cookies)
        await client.post("/accounts/logout")
        assert await here(client) == await there(client, django) == ""
        client.cookies.update(before)
        assert await here(client) == await there(client, django) == ""


async def test_a_visitor_keeps_what_is_stored_when_logging_in_at_the_other(
    django: Django, auth: Auth, ann: User
) -> None:
    async with browser(django, make(auth)) as client:
        await client.post(f"{django.url}/session", json={"cart": [1]})
        before = client.cookies["sessionid"]
        await post_login(client, ann.username)
        assert client.cookies["sessionid"] != before
        assert (await client.get("/everything")).json()["cart"] == [1]
        await client.post("/accounts/logout")
        await client.post("/store", json={"cart": [2]})
        await log_in_there(client, django, ann.username)
        assert (await client.get("/everything")).json()["cart"] == [2]


@pytest.mark.parametrize("where", ["here", "there"])
async def test_a_new_password_ends_the_other_sessions_in_both(
    django: Django, auth: Auth, ann: User, where: str
) -> None:
    app = make(auth)
    async with browser(django, app) as first, browser(django, app) as second, browser(django, app) as third:
        await post_login(first, ann.username)
        await post_login(second, ann.username)
        await log_in_there(third, django, ann.username)
        await first.post("/password" if where == "here" else f"{django.url}/password", content=LONG)
        assert await here(first) == await there(first, django) == ann.username
        assert await there(second, django) == await here(second) == ""
        assert await here(third) == await there(third, django) == ""
        assert (await post_login(second, ann.username, LONG)).status_code == 303
        assert await log_in_there(third, django, ann.username, LONG) == 200


async def test_who_is_switched_off_at_one_is_out_at_both(django: Django, auth: Auth, ann: User) -> None:
    async with browser(django, make(auth)) as client:
        await post_login(client, ann.username)
        await auth.users.update(ann, is_active=False)
        assert await there(client, django) == await here(client) == ""


async def test_a_request_under_way_does_not_undo_a_logout_at_the_other(django: Django, auth: Auth, ann: User) -> None:
    async def slow(request: Request) -> Response:
        request.session["late"] = True
        async with httpx.AsyncClient(cookies=request.cookies) as other:
            await other.post(f"{django.url}/logout")
        return PlainTextResponse("")

    async with browser(django, make_app(auth, Route("/slow", slow))) as client:
        await post_login(client, ann.username)
        assert (await client.get("/slow")).status_code == 400
        assert await here(client) == ""


# What a session holds


async def test_what_one_stored_survives_the_other_untouched(django: Django, auth: Auth, ann: User) -> None:
    data = {
        "text": "é ☃ 𝄞 \u0000 <b>",
        "deep": {"list": [1, 2.5, None, True, {"": "ü"}]},
        "_language": "de",
        "testcookie": "worked",
        "_csrftoken": "a" * 32,
        "long": "x" * 5000,
    }
    async with browser(django, make(auth)) as client:
        await log_in_there(client, django, ann.username)
        await client.post(f"{django.url}/session", json=data)
        await client.post(f"{django.url}/message", content="Grüße ☃".encode())
        before = (await client.get("/everything")).json()
        await client.post("/store", json={"ours": "ñ"})
        assert (await client.get("/everything")).json() == {**before, "ours": "ñ"}
        seen = (await client.get(f"{django.url}/whoami")).json()
        assert seen["messages"] == ["Grüße ☃"]
        assert {name: seen["session"][name] for name in data} == data
        assert seen["session"]["ours"] == "ñ"


async def test_what_is_no_json_to_us_survives_too(django: Django, auth: Auth) -> None:
    async with browser(django, make(auth)) as client:
        await client.post(f"{django.url}/session", content=b'{"number": NaN}', headers={"content-type": "text/json"})
        assert (await client.post("/store", json={"a": 1})).status_code == 200
        assert "NaN" in (await client.get(f"{django.url}/whoami")).text


async def test_nothing_is_lost_that_the_other_stored_while_our_request_was_under_way(
    django: Django, auth: Auth
) -> None:
    async def slow(request: Request) -> Response:
        request.session["ours"] = 1
        async with httpx.AsyncClient(cookies=request.cookies) as other:
            await other.post(f"{django.url}/session", json={"theirs": 1})
        return PlainTextResponse("")

    async with browser(django, make_app(auth, Route("/slow", slow), Route("/everything", everything))) as client:
        await client.post(f"{django.url}/session", json={"first": 1})
        await client.get("/slow")
        assert (await client.get("/everything")).json() == {"first": 1, "ours": 1, "theirs": 1}


async def test_of_many_requests_here_no_change_is_lost(django: Django, auth: Auth) -> None:
    async with browser(django, make(auth)) as client:
        await client.post(f"{django.url}/session", json={"first": 1})
        cookies = dict(client.cookies)

        async def put(number: int) -> None:
            async with browser(django, make(auth)) as one:
                one.cookies.update(cookies)
                assert (await one.post("/store", json={f"n{number}": number})).status_code == 200

        await asyncio.gather(*map(put, range(50)))
        assert (await client.get(f"{django.url}/whoami")).json()["session"] == {
            "first": 1,
            **{f"n{number}": number for number in range(50)},
        }


@pytest.mark.parametrize("expiry", [0, 100])
async def test_both_agree_on_how_long_a_session_lasts(django: Django, auth: Auth, expiry: int) -> None:
    async with browser(django, make(auth)) as client:
        await client.post(f"{django.url}/expire", json=expiry)
        answer = await client.post("/store", json={"a": 1})
        cookie = next(value for value in answer.headers.get_list("set-cookie") if value.startswith("sessionid="))
        assert ("Max-Age" in cookie) == bool(expiry)
        row = await auth.database.fetch_one(
            auth.tables.session.select().where(auth.tables.session.c.session_key == client.cookies["sessionid"])
        )
        assert row is not None
        left = row["expire_date"].replace(tzinfo=UTC) - datetime.now(UTC)
        assert abs(left - timedelta(seconds=expiry or 14 * 24 * 3600)) < timedelta(seconds=30)


# Forms


async def test_a_form_of_one_can_be_sent_to_the_other(django: Django, auth: Auth, ann: User) -> None:
    """By its token alone, as a browser sends it that says nothing of where it comes from."""
    async with browser(django, make(auth)) as client:
        del client.headers["origin"]
        await log_in_there(client, django, ann.username)
        token = token_in((await client.get(f"{django.url}/form")).text.replace('type="hidden" ', 'type="hidden" '))
        answer = await client.post("/accounts/logout", data={"csrfmiddlewaretoken": token[:-1] + "_"})
        assert answer.status_code == 403
        assert await here(client) == ann.username
        fields = {"old_password": "wrong", "new_password1": LONG, "new_password2": LONG, "csrfmiddlewaretoken": token}
        assert (await client.post("/accounts/password_change", data=fields)).status_code == 422
        token = token_in((await client.get("/accounts/password_change")).text)
        answer = await client.post(f"{django.url}/form", data={"csrfmiddlewaretoken": token})
        assert (answer.status_code, answer.text) == (200, "posted")
        # A login at either changes the secret.
        await post_login(client, ann.username)
        assert (await client.post(f"{django.url}/form", data={"csrfmiddlewaretoken": token})).status_code == 403
        token = token_in((await client.get("/accounts/password_change")).text)
        assert (await client.post(f"{django.url}/form", data={"csrfmiddlewaretoken": token})).status_code == 200


# Users, groups and permissions


async def test_users_groups_and_permissions_of_one_count_at_the_other(django: Django, auth: Auth, name: str) -> None:
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
    seen = django.code(
        f"""
user = User.objects.get(username="{name}")
result = [sorted(user.get_all_permissions()), user.email, sorted(g.name for g in user.groups.all())]
"""
    )
    assert seen == [
        sorted([f"{name}.fly", "sessions.add_session"]),
        "new@example.org",
        [f"{name} editors", f"{name} pilots"],
    ]


async def test_djangos_admin_manages_users_of_ours(django: Django, auth: Auth, name: str, ann: User) -> None:
    boss = await auth.users.create_superuser(f"boss{name}", password=PASSWORD)
    async with browser(django, make(auth)) as client:
        await post_login(client, boss.username)
        client.headers["origin"] = django.url
        page = await client.get(f"{django.url}/admin/auth/user/{ann.id}/change/")
        assert page.status_code == 200
        assert page.text.count("<title>") == 1
        group = await auth.users.create_group(f"{name} admins")
        joined = ann.date_joined
        assert joined is not None
        sent = {
            "csrfmiddlewaretoken": token_in(page.text),
            "username": ann.username,
            "first_name": "Änn",
            "email": ann.email,
            "is_active": "on",
            "groups": str(group.id),
            "date_joined_0": joined.strftime("%Y-%m-%d"),
            "date_joined_1": joined.strftime("%H:%M:%S"),
        }
        answer = await client.post(f"{django.url}/admin/auth/user/{ann.id}/change/", data=sent)
        assert answer.status_code == 302, answer.text
        fresh = await auth.users.get(ann.id)
        assert fresh is not None
        assert fresh.first_name == "Änn"
        assert [group.name for group in await auth.users.get_groups(fresh)] == [f"{name} admins"]
        # The admin's log refers to who did that, and goes with them.
        await auth.users.delete(boss)
        await auth.users.delete(fresh)
        assert await there(client, django) == ""
    assert django.code(f'result = User.objects.filter(username__contains="{name}").count()') == 0


async def test_a_user_to_whom_the_projects_tables_refer_stays(django: Django, auth: Auth, ann: User) -> None:
    django.code(
        f"from tests.django.django_project.people.models import Order\nOrder.objects.create(customer_id={ann.id})"
    )
    with pytest.raises(Exception, match=r"Rows of people_order refer to .*is_active=False"):
        await auth.users.delete(ann)
    assert await auth.users.get(ann.id) is not None


async def test_a_time_of_one_is_the_same_at_the_other(django: Django, auth: Auth, ann: User) -> None:
    async with browser(django, make(auth)) as client:
        await log_in_there(client, django, ann.username)
    fresh = await auth.users.get(ann.id)
    assert fresh is not None
    assert fresh.last_login is not None
    assert abs(datetime.now(UTC) - fresh.last_login) < timedelta(seconds=30)
    stamp = django.code(f"result = User.objects.get(id={ann.id}).date_joined.timestamp()")
    assert ann.date_joined is not None
    assert stamp == ann.date_joined.timestamp()


async def test_a_link_to_a_new_password_works_at_the_other(django: Django, auth: Auth, ann: User) -> None:
    made_there = django.code(
        f"""
from django.contrib.auth.tokens import default_token_generator
result = default_token_generator.make_token(User.objects.get(id={ann.id}))
"""
    )
    assert await auth.reset_tokens.check(ann, made_there)
    made_here = await auth.reset_tokens.make(ann)
    check = f"""
from django.contrib.auth.tokens import default_token_generator
result = default_token_generator.check_token(User.objects.get(id={ann.id}), "{made_here}")
"""
    assert django.code(check) is True
    await auth.users.set_password(ann, LONG)
    assert django.code(check) is False
    assert not await auth.reset_tokens.check(ann, made_there)
