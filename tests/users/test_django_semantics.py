"""Names and semantics of Django's users, permissions and `authenticate`, where they matter to its users."""

from collections.abc import Iterable
from typing import Any

import pytest
from databases import Database
from starlette.requests import HTTPConnection

from starlette_auth import (
    AnonymousUser,
    Auth,
    AuthenticationBackend,
    DjangoProject,
    Event,
    ImproperlyConfigured,
    LoginFailed,
    ModelBackend,
    PasswordResetTokens,
    Tables,
    Throttled,
    User,
    authenticate,
    get_auth,
)
from starlette_auth.context_processors import Perms

from ..conftest import PASSWORD, SECRET_KEY, any_database, installed, with_tables

pytestmark = [with_tables, any_database]
PERM = "polls.add_vote"


# Creating


async def test_without_an_address_the_stored_one_is_empty(auth: Auth) -> None:
    assert (await auth.users.create_user("ann", None)).email == ""
    assert (await auth.users.create_superuser("root", email=None, password=PASSWORD)).email == ""


@pytest.mark.parametrize(
    "fields", [{"is_staff": False}, {"is_superuser": False}, {"is_superuser": None}, {"is_staff": 1}]
)
async def test_a_superuser_has_both_flags(auth: Auth, fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"Superuser must have is_\w+=True\. .*create_user"):
        await auth.users.create_superuser("root", **fields)
    assert await auth.users.count() == 0


# authenticate()


async def test_an_address_that_is_the_name_is_a_credential_of_its_own(
    database: Database, auth: Auth, ann: User
) -> None:
    async with installed(database, login_fields=("username", "email")) as both:
        assert await both.authenticate(email="ANN@example.org", password=PASSWORD) == ann
        assert await both.authenticate(username="ann@example.org", password=PASSWORD) == ann
        assert await both.authenticate(email="ann", password=PASSWORD) is None  # a username is no address
        assert await both.authenticate(email="ann@example.org", password="wrong") is None
        assert await both.authenticate(username="bob", email="ann@example.org", password=PASSWORD) is None
    assert await auth.authenticate(email="ann@example.org", password=PASSWORD) is None  # no name here


async def test_the_credential_may_be_called_as_djangos_username_field(database: Database) -> None:
    tables = Tables.django("shop_customer", username_field="identifier")
    auth = Auth(database, secret_key=SECRET_KEY, tables=tables, django=DjangoProject())
    assert [backend.accepts({"identifier": "ann", "password": "x"}) for backend in auth.backends] == [True, True]
    names: list[str] = []

    async def find(name: str) -> None:
        names.append(name)

    auth.users.get_by_username = find  # type: ignore[assignment]  # the table does not exist
    auth.model_backend.throttle = None
    assert await auth.authenticate(identifier="ann", password="x") is None
    assert names == ["ann"]


async def test_a_script_authenticates_without_a_request(auth: Auth, ann: User) -> None:
    failures: list[Event] = []
    auth.events.on(LoginFailed)(failures.append)
    user = await auth.authenticate(username="ann", password=PASSWORD)
    assert user == ann
    assert user.backend == "starlette_auth.ModelBackend"
    assert await auth.authenticate(username="ann", password="wrong") is None
    [failure] = failures
    assert isinstance(failure, LoginFailed)
    assert (dict(failure.request.headers), failure.request.client) == ({}, None)
    for _ in range(4):
        assert await auth.authenticate(username="ann", password="wrong") is None
    with pytest.raises(Throttled):  # the attempts of a script count
        await auth.authenticate(username="ann", password="wrong")


async def test_a_backend_finds_the_auth_of_a_script(database: Database) -> None:
    class Codes(AuthenticationBackend):
        async def authenticate(self, conn: HTTPConnection, **credentials: Any) -> User | None:
            assert conn.cookies == {}
            found: User | None = await get_auth(conn).users.get_by_username(credentials.get("code", ""))
            return found

    async with installed(database, backends=[Codes()]) as auth:
        ann = await auth.users.create_user("ann")
        assert await auth.authenticate(code="ann") == ann


@pytest.mark.parametrize("arguments", [(), (None,)])
async def test_without_a_request_the_message_says_what_to_call(arguments: tuple[None, ...]) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"await auth\.authenticate\(username=…, password=…\)\.$"):
        await authenticate(*arguments, username="ann", password=PASSWORD)


# None


async def test_none_is_no_password_no_user_and_no_token(auth: Auth, ann: User) -> None:
    users, stateless = auth.users, PasswordResetTokens(SECRET_KEY)
    assert not await users.check_password(ann, None)
    assert not await users.check_password(None, PASSWORD)
    assert not await users.check_password(None, None)
    assert not (await auth.passwords.check(ann.password, None)).matches
    assert await auth.authenticate(username="ann", password=None) is None
    assert await auth.authenticate(username=None, password=PASSWORD) is None
    assert await users.get_by_username(None) is None  # type: ignore[arg-type]
    for tokens in (auth.reset_tokens, stateless):
        token = await tokens.make(ann)
        assert not await tokens.check(None, token)  # type: ignore[arg-type]
        assert not await tokens.check(ann, None)  # type: ignore[arg-type]
        assert not await tokens.consume(None, None)  # type: ignore[arg-type]
        assert await tokens.check(ann, token)


async def test_a_user_says_whether_there_is_a_password(auth: Auth, ann: User) -> None:
    assert ann.has_usable_password()
    await auth.users.set_password(ann, None)
    assert not ann.has_usable_password()
    assert not (await auth.users.create_user("bob")).has_usable_password()


# Permissions


@pytest.mark.parametrize("perms", [PERM, "abc", b"abc", None, 5, object()])
async def test_has_perms_takes_several_permissions(auth: Auth, ann: User, perms: Any) -> None:
    for user in (ann, AnonymousUser(), await auth.users.create_superuser("root")):
        with pytest.raises(ValueError, match="Pass a list"):
            user.has_perms(perms)
        with pytest.raises(ValueError, match="Pass a list"):
            await auth.backend_permissions.has_perms(user, perms)
    assert ann.has_perms([])
    assert not ann.has_perms(perm for perm in [PERM])


async def names(auth: Auth, perm: Any, **options: Any) -> list[str]:
    return [user.username for user in await auth.users.with_perm(perm, **options)]


async def test_with_perm_takes_a_permission_and_tells_what_is_none(auth: Auth, ann: User) -> None:
    permission = await auth.users.create_permission(PERM)
    await auth.users.grant(ann, permission)
    await auth.users.create_superuser("root")
    for perm in (PERM, permission):
        assert await names(auth, perm) == ["ann", "root"]
        assert await names(auth, perm, include_superusers=False) == ["ann"]
        assert await names(auth, perm, is_active=False) == []
        assert await names(auth, perm, obj=ann) == []  # the database knows no objects
        assert await names(auth, perm, backend=ModelBackend.path) == ["ann", "root"]
        assert await names(auth, perm, backend=auth.session_backend.path) == []
    await auth.users.revoke(ann, permission)
    assert await names(auth, permission) == ["root"]
    for ill_formed in ("perm", "", ".", "polls.", ".add", "a.b.c"):
        with pytest.raises(ValueError, match=r"app\.codename"):
            await auth.users.with_perm(ill_formed)
    for other in (None, 5, object(), b"polls.add_vote"):
        with pytest.raises(TypeError, match=r"Pass 'polls\.add_vote'"):
            await auth.users.with_perm(other)  # type: ignore[arg-type]
        if other is not None:
            with pytest.raises(TypeError, match="Pass a str"):
                await auth.users.with_perm(PERM, backend=other)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"no backend 'a\.B'.*starlette_auth\.ModelBackend"):
        await auth.users.with_perm(PERM, backend="a.B")


class Staff(AuthenticationBackend):
    """Grants a permission to the staff; on an object to its owner."""

    path = "staff"

    async def has_perm(self, user: Any, perm: str, obj: object = None) -> bool:
        return perm == PERM and (user.is_staff if obj is None else user.username == obj)


class Guests(AuthenticationBackend):
    path = "guests"

    def permissions(self, user: Any) -> Iterable[str]:
        return [PERM] if user.is_active and user.username.startswith("guest") else []

    def denies(self, user: Any) -> frozenset[str]:
        return frozenset([PERM] if user.username == "banned" else [])


class Listing(Staff):
    """Lists the holders of a permission itself."""

    path = "staff"

    def __init__(self, auth: list[Auth]) -> None:
        self.auth = auth
        self.asked: list[tuple[str, object]] = []

    async def with_perm(self, perm: str, obj: object = None) -> Iterable[User]:
        self.asked.append((perm, obj))
        user = await self.auth[0].users.get_by_username("owner" if obj else "staff")
        return [user] if user is not None else []


async def test_with_perm_asks_one_backend_or_about_an_object(database: Database) -> None:
    async with installed(database, backends=[Staff(), Guests()]) as auth:
        await auth.users.create_permission(PERM)
        for name in ("ann", "banned", "guest", "owner", "staff"):
            user = await auth.users.create_user(name, is_staff=name in ("staff", "banned"))
            if name in ("ann", "banned"):
                await auth.users.grant(user, PERM)
        await auth.users.create_superuser("root")
        assert await names(auth, PERM) == ["ann", "guest", "staff", "root"]
        assert await names(auth, PERM, backend=ModelBackend.path) == ["ann", "root"]
        assert await names(auth, PERM, backend="guests") == ["guest"]
        assert await names(auth, PERM, backend="staff") == ["staff", "root"]  # root is on the staff; one is banned
        assert await names(auth, PERM, obj="owner") == ["owner"]
        assert await names(auth, PERM, obj="owner", backend="staff") == ["owner"]
        assert await names(auth, PERM, obj="owner", backend="guests") == []
        assert await names(auth, PERM, obj="banned") == []


async def test_with_perm_passes_the_object_to_a_backend_that_lists_its_holders(database: Database) -> None:
    auths: list[Auth] = []
    backend = Listing(auths)
    async with installed(database, backends=[backend]) as auth:
        auths.append(auth)
        for name in ("owner", "staff", "other"):
            await auth.users.create_user(name, is_staff=name != "owner")
        assert await names(auth, PERM, obj="owner") == ["owner"]
        assert await names(auth, PERM, backend="staff") == ["staff"]
        assert backend.asked == [(PERM, "owner"), (PERM, None)]


async def test_perms_can_be_read_by_people(auth: Auth, ann: User) -> None:
    await auth.users.create_permission(PERM)
    await auth.users.grant(ann, PERM)
    user = await auth.users.get(ann.id)
    assert user is not None
    assert repr(Perms(user)) == "Perms(<User: ann>)"
    assert repr(Perms(user).polls) == "['polls.add_vote']"
    assert repr(Perms(user).shop) == "[]"
    assert repr(Perms(AnonymousUser())) == "Perms(<AnonymousUser: AnonymousUser>)"


# Visitors


async def test_a_visitor_has_no_row_that_could_change(auth: Auth, ann: User) -> None:
    visitor: Any = AnonymousUser()
    events: list[Event] = []
    auth.events.on(Event)(events.append)
    await auth.users.create_permission(PERM)
    group = await auth.users.create_group("voters")
    users = auth.users
    for change in (
        lambda user: users.update(user, email="x@example.org"),
        lambda user: users.update(user),
        users.delete,
        lambda user: users.set_password(user, PASSWORD),
        lambda user: users.replace_password(user, ann.password),
        lambda user: users.grant(user, PERM),
        lambda user: users.revoke(user, PERM),
        lambda user: users.add_to_group(user, group),
        lambda user: users.remove_from_group(user, "voters"),
        users.record_login,
    ):
        with pytest.raises(NotImplementedError, match=r"is_authenticated first, or put @login_required"):
            await change(visitor)
        with pytest.raises(ValueError, match=r"create_user\(\)\.$"):
            await change(User(id=None, username="nobody"))
    for ask in (users.check_password(visitor, PASSWORD), users.email_user(visitor, "Hello", "…")):
        with pytest.raises(NotImplementedError, match="AnonymousUser is not in the database"):
            await ask
    assert await users.check_password(User(id=None, username="new", password=ann.password), PASSWORD)
    for end in (auth.user_sessions.revoke_all, lambda user: auth.user_sessions.revoke(user, "id")):
        with pytest.raises(NotImplementedError, match="AnonymousUser is not in the database"):
            await end(visitor)
    assert await auth.user_sessions.list(visitor) == []
    assert events == []
    assert await users.get_groups(visitor) == []
    assert await users.count() == 1
