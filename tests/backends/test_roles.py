"""Roles in code: the members of a group have the permissions of the role with its name."""

import asyncio
from collections.abc import AsyncIterator, Collection
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from starlette.applications import Starlette

from starlette_auth import (
    AlreadyExists,
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    DatabaseStore,
    DoesNotExist,
    ImproperlyConfigured,
    PermissionDenied,
    Roles,
    Tables,
    User,
    Users,
    lifespan,
    permission_required,
)
from starlette_auth.core.events import Events
from starlette_auth.database.gateways import gateway_of
from starlette_auth.fastapi import requires
from starlette_auth.middlewares.open_connection import OpenConnection
from starlette_auth.testing import log_in

from ..conftest import BACKENDS, DJANGO, REDIS_URL, client_of, count_statements, installed, weak_passwords, with_tables
from ..sessions.test_sessions import Socket
from ..support.databases import with_store
from ..support.matrix import ENGINES
from .test_backend_permissions import PERM, Denies, Judges, Raises, answers_of, app_of, fresh

pytestmark = with_tables

EDITORS: dict[str, list[str]] = {
    "editor": ["blog.*", "-blog.delete_post"],
    "chief": ["@editor", "blog.delete_post"],
    "reader": ["blog.view_*", "shop.enter"],
}
STORED = ["blog.add_post", "blog.delete_post", "blog.view_post", "blog.view_page", "blog.viewer", "blogs.add_post"]


async def create_permissions(auth: Auth, *perms: str) -> None:
    for perm in perms or STORED:
        await auth.users.create_permission(perm)


async def member_of(auth: Auth, *groups: str, name: str = "ann", **fields: Any) -> User:
    user = await auth.users.create_user(name, **fields)
    for group in groups:
        await auth.users.add_to_group(user, group)
    return await fresh(auth, user)


async def permissions_of(auth: Auth, user: User) -> set[str]:
    """Returns the permissions of a user, which every way of asking must agree on."""
    user = await fresh(auth, user)
    asked = {perm for perm in [*STORED, "shop.enter"] if await auth.has_perm(user, perm)}
    assert user.get_all_permissions() == asked
    assert {perm for perm in asked if user.has_perm(perm)} == asked
    for app_label in ("blog", "blogs", "shop"):
        assert user.has_module_perms(app_label) is any(perm.startswith(f"{app_label}.") for perm in asked)
    listed = {perm for perm in [*STORED, "shop.enter"] if user in await auth.users.with_perm(perm)}
    assert listed == asked
    return asked


# What a role gives


async def test_members_have_the_permissions_of_the_role_wherever_an_application_asks(database: Database) -> None:
    async with installed(database, backends=[Roles({"voters": ["polls.*"]})]) as auth:
        await create_permissions(auth, PERM)
        ann, ben = await member_of(auth, "voters"), await member_of(auth, name="ben")
        assert await answers_of(auth, ann) == {True}
        assert await answers_of(auth, ben) == {False}
        assert await answers_of(auth) == {False}
        assert not AnonymousUser().has_perm(PERM)


@pytest.mark.parametrize(
    ("groups", "perms"),
    [
        (["editor"], {"blog.add_post", "blog.view_post", "blog.view_page", "blog.viewer"}),
        (["chief"], {"blog.add_post", "blog.view_post", "blog.view_page", "blog.viewer", "blog.delete_post"}),
        (["reader"], {"blog.view_post", "blog.view_page", "shop.enter"}),
        (["editor", "reader"], {"blog.add_post", "blog.view_post", "blog.view_page", "blog.viewer", "shop.enter"}),
        (["others"], set()),
        ([], set()),
    ],
)
async def test_patterns_add_and_take_away_in_order(database: Database, groups: list[str], perms: set[str]) -> None:
    async with installed(database, backends=[Roles(EDITORS)]) as auth:
        await create_permissions(auth)
        await auth.users.create_group("others")
        assert await permissions_of(auth, await member_of(auth, *groups)) == perms


async def test_a_group_of_the_same_name_keeps_what_the_database_grants(database: Database) -> None:
    async with installed(database, backends=[Roles(EDITORS)]) as auth:
        await create_permissions(auth)
        group = await auth.users.create_group("reader")
        await auth.users.grant(group, "blogs.add_post")
        ann = await member_of(auth, "reader")
        assert await permissions_of(auth, ann) == {"blog.view_post", "blog.view_page", "shop.enter", "blogs.add_post"}
        assert ann.get_group_permissions() == {"blogs.add_post"}


async def test_only_a_group_of_exactly_this_name_has_the_role(database: Database) -> None:
    """MariaDB treats "editor", "Editor" and "editor " as equal."""
    async with installed(database, backends=[Roles({"editor": ["blog.add_post"]})]) as auth:
        await create_permissions(auth)
        other = await auth.users.create_group("Editor")
        ann = await auth.users.create_user("ann")
        await auth.users.add_to_group(ann, other)
        assert await permissions_of(auth, ann) == set()
        if auth.gateway.dialect == "mysql":
            with pytest.raises(AlreadyExists, match="'Editor' exists"):
                await auth.users.add_to_group(ann, "editor")
        else:
            await auth.users.add_to_group(ann, "editor")
            assert await permissions_of(auth, ann) == {"blog.add_post"}


async def test_the_group_of_a_role_is_created_with_its_first_member(database: Database) -> None:
    async with installed(database, backends=[Roles(EDITORS)]) as auth:
        await create_permissions(auth)
        users = [await auth.users.create_user(f"user{number}") for number in range(6)]
        await asyncio.gather(*(auth.users.add_to_group(user, "editor") for user in users))
        assert [group.name for group in await auth.users.get_groups(users[-1])] == ["editor"]
        with pytest.raises(DoesNotExist, match="no group 'editors'"):
            await auth.users.add_to_group(users[0], "editors")
        await auth.users.delete(users[0])
        with pytest.raises(DoesNotExist, match="'user0' is not in the database"):
            await auth.users.add_to_group(users[0], "chief")
        with pytest.raises(DoesNotExist, match="no group 'chief'"):
            await auth.users.get_group("chief")
        await auth.users.remove_from_group(users[1], "editor")
        assert await permissions_of(auth, users[1]) == set()
    async with installed(database) as auth:
        with pytest.raises(DoesNotExist, match="no group 'chief'"):
            await auth.users.add_to_group(users[1], "chief")


async def test_the_members_of_a_deleted_group_do_not_come_back_with_it(database: Database) -> None:
    async with installed(database, backends=[Roles(EDITORS)]) as auth:
        await create_permissions(auth)
        ann, t = await member_of(auth, "editor"), auth.tables
        for table in (t.user_groups, t.group):
            await auth.gateway.execute(table.delete())
        assert await permissions_of(auth, ann) == set()
        await auth.users.create_group("editor")
        assert await permissions_of(auth, ann) == set()
        await auth.users.add_to_group(ann, "editor")
        assert "blog.add_post" in await permissions_of(auth, ann)


# Vetoes, superusers, inactive users


@pytest.mark.parametrize("denying", [Denies, Raises])
async def test_a_denial_counts_more_than_a_role(database: Database, denying: Any) -> None:
    async with installed(database, backends=[Roles({"voters": [PERM]}), denying("ann", "root")]) as auth:
        await create_permissions(auth, PERM)
        ann, ben = await member_of(auth, "voters"), await member_of(auth, "voters", name="ben")
        root = await member_of(auth, "voters", name="root", is_superuser=True)
        assert await answers_of(auth, ann) == {False}
        assert await answers_of(auth, ben) == {True}
        assert await answers_of(auth, root) == {True}
        assert [user.username for user in await auth.users.with_perm(PERM)] == ["ben", "root"]


async def test_an_inactive_member_has_no_role(database: Database) -> None:
    async with installed(database, backends=[Roles(EDITORS)]) as auth:
        await create_permissions(auth)
        ann = await member_of(auth, "editor")
        assert await auth.has_perm(ann, "blog.add_post")
        await auth.users.update(ann, is_active=False)
        assert not ann.has_perm("blog.add_post")
        assert not await auth.has_perm(await fresh(auth, ann), "blog.add_post")
        assert await auth.users.with_perm("blog.add_post") == []
        assert await auth.users.with_perm("blog.add_post", is_active=None) == []


async def test_a_user_who_is_not_in_the_database_has_no_role(database: Database) -> None:
    class Identifies(AuthenticationBackend):
        async def identify(self, conn: Any) -> User | None:
            return User(id=1, username="editor")

    async with installed(database, backends=[Identifies(), Roles({"voters": [PERM]})]) as auth:
        await member_of(auth, "voters")  # its id is 1 on a new database
        assert await answers_of(auth) == {False}


async def test_a_role_grants_nothing_on_an_object(database: Database) -> None:
    async with installed(database, backends=[Roles({"voters": [PERM]})]) as auth:
        await create_permissions(auth, PERM)
        ann = await member_of(auth, "voters")
        assert not await auth.has_perm(ann, PERM, "a poll")
        assert await auth.users.with_perm(PERM, obj="a poll") == []


# Statements


@pytest.mark.parametrize(
    "kind", [*BACKENDS, *ENGINES, *DJANGO, "memory", "cookie", *(["redis", "cached"] if REDIS_URL else [])]
)
async def test_the_names_of_the_groups_come_with_the_user(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with with_store(kind, tmp_path, backends=[Roles({"voters": ["polls.*"]})]) as auth:
        await create_permissions(auth, PERM)
        ann = await member_of(auth, "voters")
        async with client_of(app_of(auth)) as client:
            await log_in(client, ann, auth)
            assert (await client.get("/decorated")).status_code == 200
            statements = count_statements(auth, monkeypatch)
            assert (await client.get("/decorated")).status_code == 200
            # The session table of Django has no user column, so a second query loads the user.
            assert len(statements) == (2 if kind in DJANGO else 1)
            assert "group_names" in statements[-1]


async def test_without_roles_the_groups_are_not_read(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with installed(database, backends=[Judges()]) as auth:
        ann = await auth.users.create_user("ann")
        async with client_of(app_of(auth)) as client:
            await log_in(client, ann, auth)
            statements = count_statements(auth, monkeypatch)
            assert (await client.get("/decorated")).status_code == 403
            assert len(statements) == 1
            assert "group_names" not in statements[0]


async def test_with_perm_reads_only_the_members(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    async with installed(database, backends=[Roles({"voters": ["polls.*"], "watchers": ["polls.view_*"]})]) as auth:
        await create_permissions(auth, PERM, "polls.view_vote", "polls.delete_vote")
        ann, ivy = await member_of(auth, "voters"), await member_of(auth, "voters", name="ivy", is_active=False)
        await member_of(auth, "watchers", name="wes")
        await auth.users.create_superuser("root")
        carl = await auth.users.create_user("carl")
        await auth.users.grant(carl, PERM)

        async def fail(**options: Any) -> AsyncIterator[User]:
            raise AssertionError("all users are read")
            yield

        async def names(perm: str = PERM, **options: Any) -> list[str]:
            return [user.username for user in await auth.users.with_perm(perm, **options)]

        monkeypatch.setattr(auth.users, "all_users", fail)
        await names()
        statements = count_statements(auth, monkeypatch)
        assert await names() == ["ann", "root", "carl"]
        assert len(statements) == 3  # the ids of the permission, whom the database grants it to, the members
        assert await names("polls.view_vote") == ["ann", "wes", "root"]
        assert await names(include_superusers=False) == ["ann", "carl"]
        assert await names(is_active=None) == ["ann", "root", "carl"]
        assert await names(is_active=False) == []
        assert await names(backend=Roles.path) == ["ann"]
        assert await names(backend=auth.model_backend.path) == ["root", "carl"]
        assert await names(obj="a poll") == []
        assert await names("polls.unknown") == ["root"]
        assert (ann.username, ivy.is_active) == ("ann", False)


async def test_a_store_with_users_that_do_not_read_groups_is_corrected(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = Tables()
    users = Users(gateway_of(database), tables=tables, passwords=weak_passwords(), events=Events(), user_class=User)
    options = {
        "sessions": DatabaseStore(database, users=users),
        "tables": tables,
        "backends": [Roles({"voters": [PERM]})],
    }
    async with installed(database, **options) as auth:
        assert await answers_of(auth, await member_of(auth, "voters")) == {True}


# When the known permissions are read


async def test_a_permission_that_is_created_later_counts_for_the_patterns(database: Database) -> None:
    async with installed(database, backends=[Roles(EDITORS)]) as auth:
        await create_permissions(auth)
        ann = await member_of(auth, "editor")
        assert not await auth.has_perm(ann, "blog.add_page")
        await auth.users.create_permission("blog.add_page")
        ann = await fresh(auth, ann)
        assert ann.has_perm("blog.add_page")

        async def create_and_fail() -> None:
            async with auth.gateway.atomic():
                await auth.users.create_permission("blog.add_draft")
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await create_and_fail()
        assert not (await fresh(auth, ann)).has_perm("blog.add_draft")
        async with auth.gateway.atomic():
            await auth.users.create_permission("blog.add_draft")
        assert (await fresh(auth, ann)).has_perm("blog.add_draft")


async def test_another_process_learns_of_a_permission_when_it_starts_again(database: Database) -> None:
    async with (
        installed(database, backends=[Roles(EDITORS)]) as auth,
        installed(database, backends=[Roles(EDITORS)]) as other,
    ):
        await create_permissions(auth)
        ann = await member_of(auth, "editor")
        for each in (auth, other):
            assert await each.has_perm(await fresh(each, ann), "blog.add_post")
        await auth.users.create_permission("blog.add_page")
        assert not await other.has_perm(await fresh(other, ann), "blog.add_page")
        async with installed(database, backends=[Roles(EDITORS)]) as restarted:
            assert await restarted.has_perm(await fresh(restarted, ann), "blog.add_page")


async def test_outside_a_request_patterns_have_to_be_awaited_first(database: Database) -> None:
    roles = Roles(EDITORS)
    async with installed(database, backends=[roles]) as auth:
        await create_permissions(auth)
        ann = await member_of(auth, "editor")
        for _ in range(2):
            with pytest.raises(ImproperlyConfigured, match=r"await auth\.has_perm"):
                ann.has_perm("blog.add_post")
        with pytest.raises(ImproperlyConfigured, match=r"lifespan\(auth\)"):
            roles.permissions(ann)
        assert await asyncio.gather(*(auth.has_perm(ann, "blog.add_post") for _ in range(3))) == [True] * 3
        assert ann.has_perm("blog.add_post")
        assert (await fresh(auth, ann)).has_perm("blog.add_post")


async def test_roles_without_patterns_need_no_database(database: Database) -> None:
    async with installed(
        database, backends=[Roles({"voters": [PERM], "chief": ["@voters", "-polls.add_vote"]})]
    ) as auth:
        ann = await member_of(auth, "voters")
        assert ann.has_perm(PERM), "the permission is in no table"
        assert ann.get_all_permissions() == {PERM}
        assert not (await member_of(auth, "chief", name="ben")).has_perm(PERM)


async def test_lifespan_reads_the_permissions_that_the_application_creates(database: Database) -> None:
    roles = Roles(EDITORS)
    async with installed(database, backends=[roles]) as auth:

        class Start:
            async def __aenter__(self) -> dict[str, int]:
                await create_permissions(auth)
                return {"state": 1}

            async def __aexit__(self, *error: object) -> None:
                pass

        async with lifespan(auth, lambda app: Start())(Starlette()) as state:
            assert state == {"state": 1}
            assert roles.is_prepared
            ann = await member_of(auth, "chief")
            assert ann.has_perm("blog.delete_post")


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (
            {"editor": ["blgo.*"]},
            r'Roles\["editor"\] contains \'blgo\.\*\', which matches no permission\. Did you mean',
        ),
        (
            {"editor": ["blog.*", "-blog.delete_posts"]},
            r"'-blog\.delete_posts', which takes nothing away.*'blog\.delete_post'",
        ),
        ({"editor": ["-blog.delete_post", "blog.*"]}, r"write it after what it takes away from"),
        ({"editor": ["blog.*", "-shop.*"]}, r"'-shop\.\*', which takes nothing away"),
    ],
)
async def test_a_pattern_without_effect_stops_the_start(
    database: Database, roles: dict[str, list[str]], message: str
) -> None:
    async with installed(database, backends=[Roles(roles)]) as auth:
        await create_permissions(auth)
        with pytest.raises(ImproperlyConfigured, match=message) as caught:
            async with lifespan(auth)(Starlette()):
                pass
        assert str(caught.value).endswith((".", ")"))
        # Without lifespan, each request fails until it is mended.
        async with client_of(app_of(auth)) as client:
            for _ in range(2):
                with pytest.raises(ImproperlyConfigured, match=message):
                    await client.get("/whoami")


# Mistakes


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["editor"], "roles is a list. Pass a dict"),
        ({"editor": "blog.*"}, r'Roles\["editor"\] is a list, and this is a str'),
        ({"editor": None}, r'Roles\["editor"\] is a list, and this is None'),
        ({"editor": [5]}, r'Roles\["editor"\] contains an int'),
        ({5: ["blog.*"]}, "5 is not the name of a role"),
        ({"": ["blog.*"]}, "'' is not the name of a role"),
        ({"@editor": ["blog.*"]}, "'@editor' is not the name of a role"),
        ({"x" * 151: ["blog.*"]}, "is not the name of a role"),
        ({" editor": ["blog.*"]}, "is not the name of a role"),
        *(
            (
                {"editor": [text]},
                r'Roles\["editor"\] contains .*, which is not a permission or a role\. Write "blog\.add_post"',
            )
            for text in (
                *(
                    "*",
                    "blog",
                    "*.*",
                    "*.add_post",
                    "blog.*_post",
                    "blog.**",
                    "blog.",
                    ".add_post",
                    "@",
                    "-",
                    "-@reader",
                ),
                *("--blog.add_post", "blog.add.post", "blog .add", " blog.*", "blog.* ", "-*", "blog.%.x", "bl*og.x"),
            )
        ),
        ({"editor": ["@chief"]}, r'Roles\["editor"\] includes \'@chief\', and there is no such role.*Add \'chief\''),
        ({"a": ["@b"], "b": ["@c"], "c": ["@b"]}, "circle: b → c → b"),
        ({"a": ["@a"]}, "circle: a → a"),
        ({"a": ["blog.add_post", "-blog.add_pots"]}, "takes nothing away: .*Did you mean 'blog.add_post'"),
    ],
)
def test_a_mistake_is_refused_at_once(roles: Any, message: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=message) as caught:
        Roles(roles)
    assert str(caught.value).endswith((".", ")"))


async def test_roles_belong_to_the_auth_that_was_made_with_them(database: Database) -> None:
    roles = Roles({"voters": [PERM]})
    async with installed(database) as auth:
        ann = await auth.users.create_user("ann")
        auth.backends.insert(0, roles)
        with pytest.raises(ImproperlyConfigured, match=r"Auth\(backends=\[Roles"):
            await auth.has_perm(ann, PERM)
        with pytest.raises(ImproperlyConfigured, match="belong to no Auth"):
            await roles.with_perm(PERM)
    async with installed(database, backends=[roles]):
        with pytest.raises(ImproperlyConfigured, match="Make Roles"):
            async with installed(database, backends=[roles]):
                pass


# Wildcards elsewhere


async def test_a_wildcard_is_no_permission_of_the_database(database: Database) -> None:
    async with installed(database) as auth:
        await create_permissions(auth)
        ann, group = await auth.users.create_user("ann"), await auth.users.create_group("editors")
        for perm in ("blog.*", "blog.view_*", "*.*", "*"):
            for holder in (ann, group):
                with pytest.raises(ValueError, match=r"has a wildcard.*Grant each permission by its name, or.*Roles"):
                    await auth.users.grant(holder, perm)
            with pytest.raises(ValueError, match="has a wildcard"):
                await auth.users.create_permission(perm)
            with pytest.raises(ValueError, match="has a wildcard"):
                await auth.users.with_perm(perm)
            for guard in (permission_required, requires):
                with pytest.raises(ImproperlyConfigured, match=r"wildcard|is not a permission"):
                    guard(perm)
            assert not ann.has_perm(perm)
        assert (await fresh(auth, ann)).get_all_permissions() == set()


# Open WebSockets


async def test_a_websocket_is_closed_when_its_user_leaves_the_group(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenConnection, "check_interval", 0.02)
    async with installed(database, backends=[Roles({"voters": ["polls.*"]})]) as auth:
        await create_permissions(auth, PERM)
        ann = await member_of(auth, "voters")
        async with client_of(app := app_of(auth)) as client:
            await log_in(client, ann, auth)
            async with Socket(app, "/socket", client) as socket:
                assert socket.answer["type"] == "websocket.accept"
                await asyncio.sleep(0.1)
                assert socket.received.empty()
                await auth.users.remove_from_group(ann, "voters")
                async with asyncio.timeout(5):
                    assert (await socket.received.get())["type"] == "websocket.close"


async def test_a_backend_may_ask_about_roles_in_its_own_methods(database: Database) -> None:
    class NoDeleting(AuthenticationBackend):
        def denies(self, user: Any) -> Collection[str]:
            return ["blog.delete_post"] if user.has_perm("blog.add_post") else []

    class Never(AuthenticationBackend):
        async def has_perm(self, user: Any, perm: str, obj: object = None) -> bool:
            if perm == "blog.viewer":
                raise PermissionDenied("never")
            return False

    async with installed(database, backends=[NoDeleting(), Never(), Roles(EDITORS)]) as auth:
        await create_permissions(auth)
        ann = await member_of(auth, "chief")
        assert await permissions_of(auth, ann) == {"blog.add_post", "blog.view_post", "blog.view_page"}
