"""Tests of groups and permissions on each database."""

import asyncio
import re
from typing import Any

import pytest
import sqlalchemy as sa
from blockbuster import BlockBuster

from starlette_auth import AlreadyExists, Auth, DoesNotExist, Group, UnstorableValue, User

from ..conftest import with_tables

pytestmark = with_tables


@pytest.fixture(autouse=True)
def _pools_may_grow(blockbuster: BlockBuster) -> None:
    """Allows the blocking file access of asyncpg when it opens a connection."""
    for function in blockbuster.functions.values():
        function.can_block_in("asyncpg/connect_utils.py", "_parse_connect_arguments")


async def stored(auth: Auth, user: User) -> Any:
    """Reads the user from the database again."""
    return await auth.users.get(user.id)


async def permissions_of(auth: Auth, user: User) -> set[str]:
    fresh = await stored(auth, user)
    return set(fresh.get_all_permissions())


# Creating


async def test_the_model_of_a_permission_is_taken_from_its_codename(auth: Auth) -> None:
    permission = await auth.users.create_permission("polls.add_vote")
    assert permission.user_perm_str == "polls.add_vote"
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
async def test_the_model_of_a_permission_can_be_passed(auth: Auth, perm: str, given: str, model: str) -> None:
    permission = await auth.users.create_permission(perm, "A name", model=given)
    assert (permission.content_type.model, permission.name) == (model, "A name")
    assert await auth.users.get_permission(perm) == permission


async def test_creating_a_permission_again_returns_the_existing_one(auth: Auth) -> None:
    first = await auth.users.create_permission("polls.add_vote", "Vote")
    assert await auth.users.create_permission("polls.add_vote", "Another name") == first


async def test_create_model_permissions_creates_the_four_of_django(auth: Auth) -> None:
    permissions = await auth.users.create_model_permissions("polls", "vote")
    assert [(permission.user_perm_str, permission.name) for permission in permissions] == [
        ("polls.add_vote", "Can add vote"),
        ("polls.change_vote", "Can change vote"),
        ("polls.delete_vote", "Can delete vote"),
        ("polls.view_vote", "Can view vote"),
    ]
    assert len({permission.content_type for permission in permissions}) == 1
    assert await auth.users.create_model_permissions("polls", "vote") == permissions


@pytest.mark.parametrize("perm", ["", "polls", "polls.", ".add_vote", ".", "polls.a.b"])
async def test_a_permission_without_application_and_codename_is_rejected(auth: Auth, perm: str) -> None:
    with pytest.raises(ValueError, match=r"Write it as app\.codename"):
        await auth.users.create_permission(perm)


@pytest.mark.parametrize("perm", ["polls." + "x" * 101, "x" * 101 + ".add_vote", "polls.add_\x00", "polls.add_\ud800"])
async def test_a_permission_that_fits_no_column_leaves_no_content_type(auth: Auth, perm: str) -> None:
    with pytest.raises(UnstorableValue):
        await auth.users.create_permission(perm)
    assert await auth.gateway.fetch_all(sa.select(auth.tables.content_type)) == []


async def test_20_concurrent_creations_of_a_permission_return_the_same(auth: Auth) -> None:
    permissions = await asyncio.gather(*(auth.users.create_permission("polls.add_vote") for _ in range(20)))
    assert len(set(permissions)) == 1
    assert len(await auth.gateway.fetch_all(sa.select(auth.tables.permission))) == 1


async def test_different_permissions_of_a_new_model_can_be_created_concurrently(auth: Auth) -> None:
    names = [f"polls.{verb}_vote" for verb in ("add", "change", "delete", "view")] * 5
    permissions = await asyncio.gather(*(auth.users.create_permission(name) for name in names))
    assert [permission.user_perm_str for permission in permissions] == names
    assert len(await auth.gateway.fetch_all(sa.select(auth.tables.content_type))) == 1


async def test_a_name_that_the_database_treats_as_equal_is_rejected(auth: Auth) -> None:
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


async def test_groups_are_created_and_found_by_name(auth: Auth) -> None:
    group = await auth.users.create_group("Editörs")
    assert await auth.users.get_group("Editörs") == group
    with pytest.raises(AlreadyExists, match=r"called 'Editörs' already\. Use get_group\(\)\."):
        await auth.users.create_group("Editörs")
    with pytest.raises(ValueError, match="not empty"):
        await auth.users.create_group("")
    for name in ("x" * 151, "\x00", "\ud800"):
        with pytest.raises(UnstorableValue):
            await auth.users.create_group(name)


async def test_an_unknown_group_suggests_similar_names(auth: Auth, ann: User) -> None:
    await auth.users.create_group("editors")
    message = re.escape("There is no group 'editor'. Did you mean 'editors'? Create it with create_group('editor').")
    with pytest.raises(DoesNotExist, match=message):
        await auth.users.get_group("editor")
    with pytest.raises(DoesNotExist, match=message):
        await auth.users.add_to_group(ann, "editor")
    with pytest.raises(DoesNotExist, match=message):
        await auth.users.remove_from_group(ann, "editor")
    with pytest.raises(DoesNotExist, match=r"no group 'EDITORS'"):
        await auth.users.get_group("EDITORS")


async def test_an_unknown_permission_suggests_similar_names(auth: Auth, ann: User) -> None:
    await auth.users.create_model_permissions("polls", "vote")
    with pytest.raises(DoesNotExist) as unknown:
        await auth.users.grant(ann, "polls.add_votes")
    message = str(unknown.value)
    assert message.startswith("There is no permission 'polls.add_votes'. Did you mean 'polls.add_vote' or ")
    assert message.endswith("Create it with create_permission('polls.add_votes').")
    for call in (
        auth.users.get_permission("polls.add_votes"),
        auth.users.revoke(ann, "polls.add_votes"),
        auth.users.with_perm("polls.add_votes"),
        auth.users.get_permission("polls.ADD_VOTE"),
        auth.users.get_permission("\x00"),
    ):
        with pytest.raises(DoesNotExist):
            await call
    assert await permissions_of(auth, ann) == set()


# Granting and revoking


async def test_granting_and_revoking_take_effect_when_the_user_is_read_again(auth: Auth, ann: User) -> None:
    await auth.users.create_model_permissions("polls", "vote")
    await auth.users.grant(ann, "polls.add_vote")
    assert not ann.has_perm("polls.add_vote")
    assert await permissions_of(auth, ann) == {"polls.add_vote"}
    await auth.users.revoke(ann, "polls.add_vote")
    assert await permissions_of(auth, ann) == set()


async def test_a_group_gives_its_permissions_to_its_members(auth: Auth, ann: User) -> None:
    bob = await auth.users.create_user("bob")
    await auth.users.create_model_permissions("polls", "vote")
    editors = await auth.users.create_group("editors")
    await auth.users.grant(editors, "polls.add_vote")
    await auth.users.add_to_group(ann, editors)
    fresh = await stored(auth, ann)
    assert fresh.get_group_permissions() == {"polls.add_vote"}
    assert fresh.get_user_permissions() == set()
    assert await permissions_of(auth, bob) == set()
    # A permission that was also granted directly stays.
    await auth.users.grant(ann, "polls.add_vote")
    await auth.users.remove_from_group(ann, "editors")
    assert await permissions_of(auth, ann) == {"polls.add_vote"}
    await auth.users.add_to_group(ann, "editors")
    await auth.users.revoke(editors, "polls.add_vote")
    await auth.users.revoke(ann, "polls.add_vote")
    assert await permissions_of(auth, ann) == set()


async def test_the_groups_of_a_user_are_ordered_by_name(auth: Auth, ann: User) -> None:
    for name in ("writers", "editors", "admins"):
        await auth.users.create_group(name)
    for name in ("writers", "editors"):
        await auth.users.add_to_group(ann, name)
    assert [group.name for group in await auth.users.get_groups(ann)] == ["editors", "writers"]


async def test_granting_and_revoking_twice_has_no_further_effect(auth: Auth, ann: User) -> None:
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


async def test_20_concurrent_grants_of_one_permission_store_one_row(auth: Auth, ann: User) -> None:
    await auth.users.create_permission("polls.add_vote")
    await auth.users.create_group("editors")
    await asyncio.gather(*(auth.users.grant(ann, "polls.add_vote") for _ in range(20)))
    await asyncio.gather(*(auth.users.add_to_group(ann, "editors") for _ in range(20)))
    for table in (auth.tables.user_permissions, auth.tables.user_groups):
        assert len(await auth.gateway.fetch_all(sa.select(table))) == 1


async def test_a_grant_sees_grants_committed_after_its_transaction_began(auth: Auth, ann: User) -> None:
    await auth.users.create_permission("polls.add_vote")
    if auth.gateway.dialect == "sqlite":
        return  # SQLite has one writer at a time
    async with auth.gateway.atomic():
        await stored(auth, ann)  # MySQL takes its snapshot here
        await asyncio.create_task(_grant_in_other_task(auth, ann))
        await auth.users.grant(ann, "polls.add_vote")
    assert await permissions_of(auth, ann) == {"polls.add_vote"}


async def _grant_in_other_task(auth: Auth, user: User) -> None:
    # A child task does not share the transaction.
    await auth.users.grant(user, "polls.add_vote")


async def test_granting_to_a_deleted_user_or_group_raises(auth: Auth, ann: User) -> None:
    await auth.users.create_permission("polls.add_vote")
    await auth.users.create_group("editors")
    await auth.users.delete(ann)
    with pytest.raises(DoesNotExist, match=r"The user 'ann' is not in the database any more\. Fetch it again\."):
        await auth.users.grant(ann, "polls.add_vote")
    with pytest.raises(DoesNotExist, match="The user 'ann'"):
        await auth.users.add_to_group(ann, "editors")
    with pytest.raises(DoesNotExist, match="The group 'gone'"):
        await auth.users.grant(Group(id=99, name="gone"), "polls.add_vote")


async def test_revoking_a_name_that_two_models_have_revokes_both(auth: Auth, ann: User) -> None:
    # In Django a codename is unique per model only.
    t = auth.tables
    first = await auth.users.create_permission("polls.close", model="vote")
    poll = await auth.gateway.insert(t.content_type, app_label="polls", model="poll")
    second = await auth.gateway.insert(t.permission, content_type_id=poll, codename="close", name="Close")
    await auth.gateway.insert(t.user_permissions, user_id=ann.id, permission_id=second)
    assert await auth.users.get_permission("polls.close") == first
    assert await auth.users.with_perm("polls.close") == [ann]
    await auth.users.grant(ann, "polls.close")
    assert await permissions_of(auth, ann) == {"polls.close"}
    await auth.users.revoke(ann, "polls.close")
    assert await permissions_of(auth, ann) == set()


# Reading


async def test_a_superuser_has_all_existing_permissions(auth: Auth) -> None:
    await auth.users.create_model_permissions("polls", "vote")
    root = await auth.users.create_superuser("root")
    all_permissions = {f"polls.{verb}_vote" for verb in ("add", "change", "delete", "view")}
    fresh = await stored(auth, root)
    assert (
        fresh.get_all_permissions() == fresh.get_user_permissions() == fresh.get_group_permissions() == all_permissions
    )


async def test_with_perm_finds_the_same_users_as_django(auth: Auth) -> None:
    users = auth.users
    await users.create_model_permissions("polls", "vote")
    editors = await users.create_group("editors")
    await users.grant(editors, "polls.add_vote")
    created = {}
    for name in ("person", "member", "both", "none", "other"):
        for is_active in (True, False):
            created[name, is_active] = await users.create_user(f"{name}{is_active}", is_active=is_active)
    for is_active in (True, False):
        await users.create_superuser(f"root{is_active}", is_active=is_active)
        await users.grant(created["person", is_active], "polls.add_vote")
        await users.grant(created["both", is_active], "polls.add_vote")
        await users.add_to_group(created["both", is_active], editors)
        await users.add_to_group(created["member", is_active], editors)
        await users.grant(created["other", is_active], "polls.view_vote")

    async def names(**options: Any) -> list[str]:
        return [user.username for user in await users.with_perm("polls.add_vote", **options)]

    active, inactive = ["personTrue", "memberTrue", "bothTrue"], ["personFalse", "memberFalse", "bothFalse"]
    everyone = [name for pair in zip(active, inactive, strict=True) for name in pair]
    assert await names() == [*active, "rootTrue"]
    assert await names(include_superusers=False) == active
    assert await names(is_active=False) == [*inactive, "rootFalse"]
    assert await names(is_active=None) == [*everyone, "rootTrue", "rootFalse"]
    assert await names(is_active=None, include_superusers=False) == everyone
    [person, *_] = await users.with_perm("polls.add_vote")
    assert person.has_perm("polls.add_vote"), "users are read with their permissions"


async def test_1600_permissions_of_one_user_are_read_completely(auth: Auth, ann: User) -> None:
    names = {f"polls.{number:04}_{'x' * 90}" for number in range(1600)}
    t = auth.tables
    content_type = await auth.gateway.insert(t.content_type, app_label="polls", model="vote")
    async with auth.gateway.atomic():
        for key, name in enumerate(sorted(names), start=1):
            codename = name.partition(".")[2]
            await auth.gateway.insert(t.permission, id=key, content_type_id=content_type, codename=codename, name="x")
            await auth.gateway.insert(t.user_permissions, user_id=ann.id, permission_id=key)
    assert await permissions_of(auth, ann) == names


async def test_a_codename_may_contain_any_character(auth: Auth, ann: User) -> None:
    names = {'polls.a"b', "polls.a\\b", "polls.☃𝄞", "polls.a'b", "polls.a,b", "polls.%s", "polls.:x"}
    for name in names:
        await auth.users.create_permission(name)
        await auth.users.grant(ann, name)
    assert await permissions_of(auth, ann) == names
