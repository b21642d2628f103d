"""Tests of the name in RemoteUserBackend's header, and of the two hooks that change what becomes of it."""

from typing import Any

import pytest
from starlette.requests import HTTPConnection

from starlette_auth import Auth, RemoteUserBackend, User
from starlette_auth.core.text import normalize_username

from ..conftest import client_of, with_tables
from ..support.apps import make_app

pytestmark = with_tables

PROXIES = ["192.0.2.0/24"]
# Names that NFKC, or the removal of spaces, would turn into "admin".
LOOKALIKES = ["ªdmin", "admin\xa0", "\xa0admin", "Admin", "ADMIN", "admin\xad"]


def app_of(auth: Auth, backend: RemoteUserBackend | None = None, **options: Any) -> Any:
    auth.backends.insert(0, backend or RemoteUserBackend(auth.users, trusted_proxies=PROXIES, **options))
    return make_app(auth)


async def name_for(app: Any, header: str) -> str:
    """Returns the name of the user whom a proxy gets with this header, in a new browser."""
    async with client_of(app) as client:
        answer = await client.get("/whoami", headers=[(b"remote-user", header.encode("latin-1"))])
        name: str = answer.json()["username"]
        return name


@pytest.mark.parametrize("admin_exists", [True, False])
@pytest.mark.parametrize("header", LOOKALIKES)
async def test_a_name_is_taken_as_it_is(auth: Auth, header: str, admin_exists: bool) -> None:
    """The proxy knows "ªdmin" and "admin" as two people."""
    if admin_exists:
        await auth.users.create_user("admin", is_superuser=True)
    app = app_of(auth)
    names = {await name_for(app, header), await name_for(app, header)}
    if names == {""} and admin_exists and auth.gateway.dialect == "mysql":
        return  # MariaDB's collation keeps two such names out of the unique index: the second is nobody's
    assert names == {header}
    assert await auth.users.count() == 1 + admin_exists
    assert (await auth.users.get_by_username("admin") is not None) is admin_exists


@pytest.mark.parametrize("header", LOOKALIKES)
async def test_a_lookalike_name_is_nobodys_without_new_users(auth: Auth, header: str) -> None:
    await auth.users.create_user("admin")
    assert await name_for(app_of(auth, create_unknown_user=False), header) == ""


async def test_clean_username_changes_the_name(auth: Auth) -> None:
    class Kerberos(RemoteUserBackend):
        def clean_username(self, username: str) -> str:
            return normalize_username(username.partition("@")[0].lower())

    app = app_of(auth, Kerberos(auth.users, trusted_proxies=PROXIES))
    for header in ("ANN@EXAMPLE.ORG", "ann", "ªNN@example.org"):
        assert await name_for(app, header) == "ann"
    assert await name_for(app, "@EXAMPLE.ORG") == ""
    assert await auth.users.count() == 1


class Configured(RemoteUserBackend):
    """Records what it is told, and gives each new user a name."""

    def __init__(self, users: Any) -> None:
        super().__init__(users, trusted_proxies=PROXIES)
        self.calls: list[tuple[str, bool]] = []

    async def configure_user(self, conn: HTTPConnection, user: User, *, created: bool) -> User:
        self.calls.append((user.username, created))
        if created:
            await self.users.update(user, first_name=conn.headers.get("x-name", ""))
        return user


async def test_configure_user_is_asked_at_each_login_and_not_at_each_request(auth: Auth) -> None:
    backend = Configured(auth.users)
    async with client_of(app_of(auth, backend)) as client:
        for _ in range(3):
            answer = await client.get("/members", headers={"remote-user": "ann", "x-name": "Ann"})
            assert answer.text == "members"
        assert backend.calls == [("ann", True)]
        client.cookies.clear()
        await client.get("/members", headers={"remote-user": "ann", "x-name": "Other"})
        assert backend.calls == [("ann", True), ("ann", False)]
        await client.get("/members", headers={"remote-user": "ben"})
        assert backend.calls[2:] == [("ben", True)]
    ann = await auth.users.get_by_username("ann")
    assert ann is not None
    assert ann.first_name == "Ann"


async def test_configure_user_may_switch_a_user_off(auth: Auth, ann: User) -> None:
    class Directory(RemoteUserBackend):
        async def configure_user(self, conn: HTTPConnection, user: User, *, created: bool) -> User:
            await self.users.update(user, is_active=user.username != "ann")
            return user

    app = app_of(auth, Directory(auth.users, trusted_proxies=PROXIES))
    assert await name_for(app, "ann") == ""
    assert await name_for(app, "ben") == "ben"


@pytest.mark.parametrize("error", [RuntimeError("no directory"), ValueError("no directory")])
async def test_a_new_user_who_cannot_be_configured_is_not_kept(auth: Auth, error: Exception) -> None:
    class Broken(RemoteUserBackend):
        async def configure_user(self, conn: HTTPConnection, user: User, *, created: bool) -> User:
            raise error

    app = app_of(auth, Broken(auth.users, trusted_proxies=PROXIES))
    with pytest.raises(type(error), match="no directory"):
        await name_for(app, "ann")
    assert await auth.users.count() == 0


async def test_a_forgotten_return_is_reported(auth: Auth, ann: User) -> None:
    class Forgetful(RemoteUserBackend):
        async def configure_user(self, conn: HTTPConnection, user: User, *, created: bool) -> User:
            return None  # type: ignore[return-value]

    app = app_of(auth, Forgetful(auth.users, trusted_proxies=PROXIES))
    with pytest.raises(TypeError, match="Return the user"):
        await name_for(app, "ann")


@pytest.mark.parametrize("header", ["x" * 500, "", "\x80" * 200])
async def test_a_name_that_fits_no_column_is_nobodys(auth: Auth, header: str) -> None:
    assert await name_for(app_of(auth), header) == ""
    assert await auth.users.count() == 0
