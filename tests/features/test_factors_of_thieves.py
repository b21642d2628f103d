"""What an attacker has added to a stolen account goes when the owner takes it back (attack 22)."""

from collections.abc import Mapping
from typing import Any

import pytest
from databases import Database

from starlette_auth import Auth, EmailChanged, FactorRemoved, TwoFactor, User
from starlette_auth.features.email_change import EmailChange
from starlette_auth.features.two_factor.store import FactorStore
from starlette_auth.features.two_factor.totp import step_at
from starlette_auth.testing import FrozenClock

from ..conftest import installed, with_tables
from .test_email_change import BY_EMAIL, change_email, log_in, make_ann, reload, reset, reset_link
from .test_factor_store import add, clock_of, code_of, feature_of
from .test_registration import OTHER_PASSWORD, Site, site
from .test_second_factor import events_of

pytestmark = with_tables

SECRET = b"12345678901234567890"
THIEFS = b"a secret of the thief"
NEW = "thief@example.net"


def options() -> Mapping[str, Any]:
    quick = {"register_mail": "", "password_reset_mail": ""}
    return {"features": [EmailChange(), TwoFactor()], "clock": FrozenClock(), "rates": quick}


def store_of(here: Site) -> FactorStore:
    [feature] = [feature for feature in here.auth.features if isinstance(feature, TwoFactor)]
    return feature.store


def tick(here: Site, seconds: int) -> None:
    assert isinstance(here.auth.clock, FrozenClock)
    here.auth.clock.tick(seconds)


async def add_app(here: Site, user: User, secret: bytes) -> None:
    assert await store_of(here).add_totp(user, secret, step_at(here.auth.clock()) - 2)
    await store_of(here).make_recovery_codes(user, 3)


async def undo_change(here: Site, link: str) -> None:
    async with here.browser() as owner:
        response = await here.follow(link, owner)
        assert response.headers["location"] == "/accounts/email_undo/complete"


async def test_an_undo_removes_the_app_of_a_thief(database: Database) -> None:
    async with site(database, **options()) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        changed_at = int(here.auth.clock())
        undo = await change_email(here, NEW)
        tick(here, 60)
        await add_app(here, ann, THIEFS)
        events = events_of(here.auth, FactorRemoved, EmailChanged)
        await undo_change(here, undo)
        assert await here.auth.list_factors(ann) == []
        removed, changed = events
        assert (removed.factor, removed.user.id) == ("totp", ann.id)
        assert (changed.undone, changed.since) == (True, changed_at)
        # The owner gets in with the password alone, after the mailed link.
        await reset(here, reset_link(await here.mails()), OTHER_PASSWORD)
        async with here.browser() as owner:
            response = await here.post("/accounts/login", owner, username="ann", password=OTHER_PASSWORD)
            assert response.headers["location"] == "/"


async def test_an_undo_keeps_the_app_that_the_owner_had_before(database: Database) -> None:
    async with site(database, **options()) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await add_app(here, ann, SECRET)
        tick(here, 1)
        undo = await change_email(here, NEW)
        events = events_of(here.auth, FactorRemoved)
        before = await here.auth.list_factors(ann)
        await undo_change(here, undo)
        assert await here.auth.list_factors(ann) == before
        assert [factor.method for factor in before] == ["totp", "recovery_code"]
        assert events == []


async def test_an_undo_voids_recovery_codes_that_a_thief_made_for_the_app_of_the_owner(database: Database) -> None:
    async with site(database, **options()) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        await add_app(here, ann, SECRET)
        tick(here, 1)
        undo = await change_email(here, NEW)
        [code] = await store_of(here).make_recovery_codes(ann, 1)
        events = events_of(here.auth, FactorRemoved)
        await undo_change(here, undo)
        assert [factor.method for factor in await here.auth.list_factors(ann)] == ["totp"]
        assert [event.factor for event in events] == ["recovery_code"]
        assert not await store_of(here).use_recovery_code(ann, code)


async def test_the_first_of_two_changes_counts(database: Database) -> None:
    """An attacker adds an app between two changes of the address. The undo of the first one removes it."""
    async with site(database, **options()) as here:
        ann = await make_ann(here)
        await log_in(here, here.client)
        undo = await change_email(here, NEW)
        tick(here, 60)
        await add_app(here, ann, THIEFS)
        tick(here, 60)
        await change_email(here, "another@example.net")
        await undo_change(here, undo)
        assert await here.auth.list_factors(ann) == []


async def test_a_failed_undo_removes_nothing(database: Database) -> None:
    """Another user has the old address, with which users log in."""
    async with site(database, **options(), **BY_EMAIL) as here:
        ann = await make_ann(here)
        await log_in(here, here.client, "ann@example.org")
        undo = await change_email(here, NEW)
        await add_app(here, ann, THIEFS)
        await make_ann(here, username="ben", email="ann@example.org")
        async with here.browser() as owner:
            assert (await here.follow(undo, owner)).status_code == 422
        assert (await reload(here, ann)).email == NEW
        assert len(await here.auth.list_factors(ann)) == 2


async def test_an_undo_link_of_an_older_version_counts_its_whole_life(database: Database) -> None:
    """Its token has no time of the change, which is `undo_age` before its end."""
    async with site(database, **options()) as here:
        ann = await make_ann(here)
        old = {"user": str(ann.id), "joined": str(ann.date_joined), "email": "ann@example.org"}
        token = await here.auth.tokens.create("email_undo", f"user {ann.id}", max_age=7 * 24 * 60 * 60, data=old)
        tick(here, 60)
        await add_app(here, ann, THIEFS)
        await undo_change(here, f"https://site.example/accounts/email_undo/confirm/{token}")
        assert await here.auth.list_factors(ann) == []


# What TwoFactor lists and removes, on each database


async def test_factors_are_removed_by_their_time_and_method(database: Any) -> None:
    async with installed(database, features=[TwoFactor()], clock=FrozenClock()) as auth:
        ann, ben = [await auth.users.create_user(name) for name in ("ann", "ben")]
        store, start = feature_of(auth).store, int(auth.clock())
        for user in (ann, ben):
            await add(store, user)
            await store.make_recovery_codes(user, 2)
        assert await auth.list_factors(await auth.users.create_user("eve")) == []
        assert await removed(auth, ann, since=start + 1) == []
        assert await removed(auth, ann, method="passkey") == []
        clock_of(auth).tick(5)
        [code, _] = await store.make_recovery_codes(ann, 2)
        assert await store.use_recovery_code(ann, code)
        assert await removed(auth, ann, since=start + 1, method="totp") == []
        assert await store.recovery_codes_left(ann) == 1
        assert await removed(auth, ann, since=start + 5) == ["recovery_code"]
        assert await store.recovery_codes_left(ann) == 0
        assert await removed(auth, ann, since=start, method="totp") == ["totp"]
        assert await removed(auth, ann) == []
        await store.make_recovery_codes(ben, 2)
        assert await removed(auth, ben) == ["totp"]  # the recovery codes go with it
        assert await auth.list_factors(ben) == []


async def test_the_list_has_the_times_of_the_last_use(database: Any) -> None:
    async with installed(database, features=[TwoFactor()], clock=FrozenClock()) as auth:
        ann = await auth.users.create_user("ann")
        store, start = feature_of(auth).store, int(auth.clock())
        await add(store, ann)
        codes = await store.make_recovery_codes(ann, 2)
        clock_of(auth).tick(60)
        assert await store.use_totp(ann, code_of(auth))
        assert await store.use_recovery_code(ann, codes[0])
        listed = await auth.list_factors(ann)
        times = [(factor.method, factor.label, factor.created, factor.last_used) for factor in listed]
        assert times == [("totp", "", start, start + 60), ("recovery_code", "", start, start + 60)]
        assert await store.use_recovery_code(ann, codes[1])
        assert [factor.method for factor in await auth.list_factors(ann)] == ["totp"]


async def removed(auth: Auth, user: User, **options: Any) -> list[str]:
    """Removes factors in a transaction; returns their methods."""
    async with auth.gateway.atomic():
        return [factor.method for factor in await auth.remove_factors(user, **options)]


async def test_factors_that_are_removed_in_a_failed_transaction_stay(database: Any) -> None:
    async with installed(database, features=[TwoFactor()]) as auth:
        ann = await auth.users.create_user("ann")
        await add(feature_of(auth).store, ann)

        async def remove_and_fail() -> None:
            async with auth.gateway.atomic():
                assert await auth.remove_factors(ann)
                raise RuntimeError("later")

        with pytest.raises(RuntimeError, match="later"):
            await remove_and_fail()
        assert len(await auth.list_factors(ann)) == 1
