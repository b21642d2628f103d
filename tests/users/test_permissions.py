"""Groups and permissions on each database."""

import asyncio
import re
from typing import Any

import pytest
import sqlalchemy as sa
from blockbuster import BlockBuster

from starlette_auth import AlreadyExists, Auth, DoesNotExist, Group, IntegrityError, UnstorableValue, User

from ..conftest import with_tables

pytestmark = with_tables


@pytest.fixture(autouse=True)
def _pools_may_grow(blockbuster: BlockBuster) -> None:
    """asyncpg reads a few files when it opens a connection."""
    for function in blockbuster.functions.values():
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")


async def stored(auth: Auth, user: User) -> Any:
    """The user as the database holds it now."""
    return await auth.users.get(user.id)


async def permissions_of(auth: Auth, user: User) -> set[str]:
    fresh = await stored(auth, user)
    return set(fresh.get_all_permissions())


# Making


async def test_a_permission_is_about_a_model(auth: Auth) -> None:
    permission = await auth.users.create_permission("polls.add_vote")
    assert str(permission) == "polls.add_vote"
    assert permission.name == "Add vote"
    assert (permission.content_type.app_label, permission.content_type.model) == ("polls", "vote")
    assert await auth.users.get_permission("polls.add_vote") == permission


@pytest.mark.parametrize(
    ("perm", "given", "model"),
    [
        ("polls.close", "", "polls"),
        ("polls.close_early", "", "polls"),
        ("polls.close", "vote", "vote"),
        ("polls.add_", "", "polls"),
        ("polls.view_open_vote", "", "open_vote"),
    ],
)
async def test_what_a_permission_is_about_can_be_said(auth: Auth, perm: str, given: str, model: str) -> None:
    made = await auth.users.create_permission(perm, "A name", model=given)
    assert (made.content_type.model, made.name) == (model, "A name")
    assert await auth.users.get_permission(perm) == made


async def test_making_a_permission_again_gives_the_one_that_is_there(auth: Auth) -> None:
    first = await auth.users.create_permission("polls.add_vote", "Vote")
    assert await auth.users.create_permission("polls.add_vote", "Another name") == first


async def test_django_makes_four_for_each_model(auth: Auth) -> None:
    made = await auth.users.create_model_permissions("polls", "vote")
    assert [(str(one), one.name) for one in made] == [
        ("polls.add_vote", "Can add vote"),
        ("polls.change_vote", "Can change vote"),
        ("polls.delete_vote", "Can delete vote"),
        ("polls.view_vote", "Can view vote"),
    ]
    assert len({one.content_type for one in made}) == 1
    assert await auth.users.create_model_permissions("polls", "vote") == made


@pytest.mark.parametrize("perm", ["", "polls", "polls.", ".add_vote", ".", "polls.a.b"])
async def test_a_permission_has_an_application_and_a_codename(auth: Auth, perm: str) -> None:
    with pytest.raises(ValueError, match=r"Write it as app\.codename"):
        await auth.users.create_permission(perm)


@pytest.mark.parametrize("perm", ["polls." + "x" * 101, "x" * 101 + ".add_vote", "polls.add_\x00", "polls.add_\ud800"])
async def test_a_permission_that_no_column_holds_leaves_nothing_behind(auth: Auth, perm: str) -> None:
    with pytest.raises(UnstorableValue):
        await auth.users.create_permission(perm)
    assert await auth.gateway.fetch_all(sa.select(auth.tables.content_type)) == []


async def test_20_who_make_one_permission_at_once_get_the_same(auth: Auth) -> None:
    made = await asyncio.gather(*(auth.users.create_permission("polls.add_vote") for _ in range(20)))
    assert len(set(made)) == 1
    assert len(await auth.gateway.fetch_all(sa.select(auth.tables.permission))) == 1


async def test_different_permissions_of_a_new_model_can_be_made_at_once(auth: Auth) -> None:
    names = [f"polls.{verb}_vote" for verb in ("add", "change", "delete", "view")] * 5
    made = await asyncio.gather(*(auth.users.create_permission(name) for name in names))
    assert [str(one) for one in made] == names
    assert len(await auth.gateway.fetch_all(sa.select(auth.tables.content_type))) == 1


async def test_what_the_database_takes_for_the_same_is_refused(auth: Auth) -> None:
    await auth.users.create_permission("polls.add_vote")
    if auth.gateway.dialect == "mysql":
        with pytest.raises(AlreadyExists, match="'add_vote'"):
            await auth.users.create_permission("polls.Add_vote", model="vote")
        with pytest.raises(AlreadyExists, match="'polls'"):
            await auth.users.create_permission("Polls.add_vote")
    else:
        await auth.users.create_permission("polls.Add_vote", model="vote")
        await auth.users.create_permission("Polls.add_vote")
    assert (await auth.users.get_permission("polls.add_vote")).codename == "add_vote"


async def test_groups_are_made_and_found_by_name(auth: Auth) -> None:
    group = await auth.users.create_group("Editörs")
    assert await auth.users.get_group("Editörs") == group
    with pytest.raises(AlreadyExists, match=r"called 'Editörs' already\. Use get_group\(\)\."):
        await auth.users.create_group("Editörs")
    with pytest.raises(ValueError, match="not empty"):
        await auth.users.create_group("")
    for name in ("x" * 151, "\x00", "\ud800"):
        with pytest.raises(UnstorableValue):
            await auth.users.create_group(name)


async def test_an_unknown_group_names_those_that_come_near(auth: Auth, ann: User) -> None:
    await auth.users.create_group("editors")
    message = re.escape("There is no group 'editor'. Did you mean 'editors'? If not, create_group('editor').")
    with pytest.raises(DoesNotExist, match=message):
        await auth.users.get_group("editor")
    with pytest.raises(DoesNotExist, match=message):
        await auth.users.add_to_group(ann, "editor")
    with pytest.raises(DoesNotExist, match=message):
        await auth.users.remove_from_group(ann, "editor")
    with pytest.raises(DoesNotExist, match=r"no group 'EDITORS'"):
        await auth.users.get_group("EDITORS")


async def test_an_unknown_permission_names_those_that_come_near(auth: Auth, ann: User) -> None:
    await auth.users.create_model_permissions("polls", "vote")
    with pytest.raises(DoesNotExist) as unknown:
        await auth.users.grant(ann, "polls.add_votes")
    message = str(unknown.value)
    assert message.startswith("There is no permission 'polls.add_votes'. Did you mean 'polls.add_vote' or ")
    assert message.endswith("If not, create_permission('polls.add_votes').")
    for ask in (
        auth.users.get_permission("polls.add_votes"),
        auth.users.revoke(ann, "polls.add_votes"),
        auth.users.with_perm("polls.add_votes"),
        auth.users.get_permission("polls.ADD_VOTE"),
        auth.users.get_permission("\x00"),
    ):
        with pytest.raises(DoesNotExist):
            await ask
    assert await permissions_of(auth, ann) == set()


# Giving and taking


async def test_granting_and_revoking_count_from_the_next_request_on(auth: Auth, ann: User) -> None:
    await auth.users.create_model_permissions("polls", "vote")
    await auth.users.grant(ann, "polls.add_vote")
    assert not ann.has_perm("polls.add_vote")
    assert await permissions_of(auth, ann) == {"polls.add_vote"}
    await auth.users.revoke(ann, "polls.add_vote")
    assert await permissions_of(auth, ann) == set()


async def test_a_group_gives_its_members_what_it_has(auth: Auth, ann: User) -> None:
    bob = await auth.users.create_user("bob")
    await auth.users.create_model_permissions("polls", "vote")
    editors = await auth.users.create_group("editors")
    await auth.users.grant(editors, "polls.add_vote")
    await auth.users.add_to_group(ann, editors)
    fresh = await stored(auth, ann)
    assert fresh.get_group_permissions() == {"polls.add_vote"}
    assert fresh.get_user_permissions() == set()
    assert await permissions_of(auth, bob) == set()
    # What somebody has in another way stays.
    await auth.users.grant(ann, "polls.add_vote")
    await auth.users.remove_from_group(ann, "editors")
    assert await permissions_of(auth, ann) == {"polls.add_vote"}
    await auth.users.add_to_group(ann, "editors")
    await auth.users.revoke(editors, "polls.add_vote")
    await auth.users.revoke(ann, "polls.add_vote")
    assert await permissions_of(auth, ann) == set()


async def test_groups_of_a_user_come_by_name(auth: Auth, ann: User) -> None:
    for name in ("writers", "editors", "admins"):
        await auth.users.create_group(name)
    for name in ("writers", "editors"):
        await auth.users.add_to_group(ann, name)
    assert [group.name for group in await auth.users.get_groups(ann)] == ["editors", "writers"]


async def test_twice_is_as_good_as_once(auth: Auth, ann: User) -> None:
    await auth.users.create_permission("polls.add_vote")
    editors = await auth.users.create_group("editors")
    for _ in range(2):
        await auth.users.grant(ann, "polls.add_vote")
        await auth.users.grant(editors, "polls.add_vote")
        await auth.users.add_to_group(ann, "editors")
    assert await permissions_of(auth, ann) == {"polls.add_vote"}
    for _ in range(2):
        await auth.users.revoke(ann, "polls.add_vote")
        await auth.users.remove_from_group(ann, "editors")
    assert await permissions_of(auth, ann) == set()


async def test_20_grants_of_one_permission_at_once_are_one(auth: Auth, ann: User) -> None:
    await auth.users.create_permission("polls.add_vote")
    await auth.users.create_group("editors")
    await asyncio.gather(*(auth.users.grant(ann, "polls.add_vote") for _ in range(20)))
    await asyncio.gather(*(auth.users.add_to_group(ann, "editors") for _ in range(20)))
    for links in (auth.tables.user_permissions, auth.tables.user_groups):
        assert len(await auth.gateway.fetch_all(sa.select(links))) == 1


async def test_a_grant_sees_what_others_granted_since_its_transaction_began(auth: Auth, ann: User) -> None:
    await auth.users.create_permission("polls.add_vote")
    if auth.gateway.dialect == "sqlite":
        return  # there is one writer at a time
    async with auth.gateway.atomic():
        await stored(auth, ann)  # from here on MySQL shows how things stand now
        await asyncio.create_task(_elsewhere(auth, ann))
        await auth.users.grant(ann, "polls.add_vote")
    assert await permissions_of(auth, ann) == {"polls.add_vote"}


async def _elsewhere(auth: Auth, user: User) -> None:
    # A child task does not share the transaction.
    await auth.users.grant(user, "polls.add_vote")


async def test_nothing_is_given_to_somebody_who_is_gone(auth: Auth, ann: User) -> None:
    await auth.users.create_permission("polls.add_vote")
    await auth.users.create_group("editors")
    await auth.users.delete(ann)
    with pytest.raises(IntegrityError):
        await auth.users.grant(ann, "polls.add_vote")
    with pytest.raises(IntegrityError):
        await auth.users.add_to_group(ann, "editors")
    with pytest.raises(IntegrityError):
        await auth.users.grant(Group(id=99, name="gone"), "polls.add_vote")


async def test_one_name_for_two_models_is_revoked_altogether(auth: Auth, ann: User) -> None:
    # Django allows it: a codename is unique for its model only.
    t = auth.tables
    first = await auth.users.create_permission("polls.close", model="vote")
    other = await auth.gateway.insert(t.content_type, app_label="polls", model="poll")
    second = await auth.gateway.insert(t.permission, content_type_id=other, codename="close", name="Close")
    await auth.gateway.insert(t.user_permissions, user_id=ann.id, permission_id=second)
    assert await auth.users.get_permission("polls.close") == first
    assert await auth.users.with_perm("polls.close") == [ann]
    await auth.users.grant(ann, "polls.close")
    assert await permissions_of(auth, ann) == {"polls.close"}
    await auth.users.revoke(ann, "polls.close")
    assert await permissions_of(auth, ann) == set()


# Asking


async def test_a_superuser_is_told_every_permission_there_is(auth: Auth) -> None:
    await auth.users.create_model_permissions("polls", "vote")
    root = await auth.users.create_superuser("root")
    every = {f"polls.{verb}_vote" for verb in ("add", "change", "delete", "view")}
    fresh = await stored(auth, root)
    assert fresh.get_all_permissions() == fresh.get_user_permissions() == fresh.get_group_permissions() == every


async def test_users_with_a_permission_are_found_as_in_django(auth: Auth) -> None:
    users = auth.users
    await users.create_model_permissions("polls", "vote")
    editors = await users.create_group("editors")
    await users.grant(editors, "polls.add_vote")
    made = {}
    for name in ("person", "member", "both", "none", "other"):
        for active in (True, False):
            made[name, active] = await users.create_user(f"{name}{active}", is_active=active)
    for active in (True, False):
        await users.create_superuser(f"root{active}", is_active=active)
        await users.grant(made["person", active], "polls.add_vote")
        await users.grant(made["both", active], "polls.add_vote")
        await users.add_to_group(made["both", active], editors)
        await users.add_to_group(made["member", active], editors)
        await users.grant(made["other", active], "polls.view_vote")

    async def names(**options: Any) -> list[str]:
        return [user.username for user in await users.with_perm("polls.add_vote", **options)]

    here, gone = ["personTrue", "memberTrue", "bothTrue"], ["personFalse", "memberFalse", "bothFalse"]
    all_of_them = [name for pair in zip(here, gone, strict=True) for name in pair]
    assert await names() == [*here, "rootTrue"]
    assert await names(include_superusers=False) == here
    assert await names(is_active=False) == [*gone, "rootFalse"]
    assert await names(is_active=None) == [*all_of_them, "rootTrue", "rootFalse"]
    assert await names(is_active=None, include_superusers=False) == all_of_them
    [person, *_] = await users.with_perm("polls.add_vote")
    assert person.has_perm("polls.add_vote"), "they come with their permissions"


async def test_1600_permissions_of_one_user_come_back_complete(auth: Auth, ann: User) -> None:
    names = {f"polls.{number:04}_{'x' * 90}" for number in range(1600)}
    t = auth.tables
    about = await auth.gateway.insert(t.content_type, app_label="polls", model="vote")
    async with auth.gateway.atomic():
        for key, name in enumerate(sorted(names), start=1):
            codename = name.partition(".")[2]
            await auth.gateway.insert(t.permission, id=key, content_type_id=about, codename=codename, name="x")
            await auth.gateway.insert(t.user_permissions, user_id=ann.id, permission_id=key)
    assert await permissions_of(auth, ann) == names


async def test_any_character_may_stand_in_a_codename(auth: Auth, ann: User) -> None:
    names = {'polls.a"b', "polls.a\\b", "polls.☃𝄞", "polls.a'b", "polls.a,b", "polls.%s", "polls.:x"}
    for name in names:
        await auth.users.create_permission(name)
        await auth.users.grant(ann, name)
    assert await permissions_of(auth, ann) == names
