"""A mailed link is claimed before a password is hashed, however often it is posted at once."""

import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from starlette_auth import Auth, EmailChange, Passwords, PBKDF2PasswordHasher, Registration, User
from starlette_auth.core.exceptions import HashingBusy
from starlette_auth.security.reset_tokens import encode_uid
from starlette_auth.testing import CollectingMailer, FrozenClock

from ..conftest import PASSWORD, all_of, client_of, with_store, with_tables
from ..support.apps import make_app

pytestmark = with_tables

SITE = "https://site.example"
NEW_PASSWORD = "eleven purple hats in a row"
PASSWORDS = {"new_password1": NEW_PASSWORD, "new_password2": NEW_PASSWORD}


class CountingHasher(PBKDF2PasswordHasher):
    def __init__(self) -> None:
        super().__init__(iterations=1000)
        self.lock = threading.Lock()
        self.count = 0

    def encode(self, password: str) -> str:
        with self.lock:
            self.count += 1
        return super().encode(password)

    def verify(self, password: str, encoded: str) -> bool:
        with self.lock:
            self.count += 1
        return super().verify(password, encoded)


def site(kind: str, folder: Path, hasher: CountingHasher, **options: Any) -> Any:
    features = [EmailChange(), Registration(**options)]
    mail = {"mailer": CollectingMailer(), "base_url": SITE, "rates": {"register_mail": "", "login_failed": ""}}
    return with_store(kind, folder, FrozenClock(), passwords=Passwords([hasher]), features=features, **mail)


def browser(auth: Auth) -> httpx.AsyncClient:
    return client_of(make_app(auth), base_url=SITE, headers={"origin": SITE})


async def make_ann(auth: Auth) -> User:
    user: User = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
    return user


async def post_80_times(client: httpx.AsyncClient, link: str, data: dict[str, str]) -> list[int]:
    """Posts a form to an opened link, 80 times at once. Returns the sorted statuses."""
    page = await client.get(link, follow_redirects=True)
    assert page.status_code == 200
    cookies = dict(client.cookies)

    async def post() -> int:
        client_copy = httpx.AsyncClient(
            transport=client._transport, base_url=SITE, headers=client.headers, cookies=cookies
        )
        return (await client_copy.post(page.url, data={"button": "", **data})).status_code

    return sorted(await all_of(*(post() for _ in range(80))))


async def newest_link(auth: Auth, part: str) -> str:
    await auth.mail_queue.drain()
    mailer = auth.mail_queue.mailer
    assert isinstance(mailer, CollectingMailer)
    return next(link for link in mailer.links() if part in link)


@pytest.mark.parametrize("kind", ["memory", "django sqlite"])
async def test_one_reset_link_makes_one_hash(tmp_path: Path, kind: str) -> None:
    hasher = CountingHasher()
    async with site(kind, tmp_path, hasher) as auth, browser(auth) as client:
        ann = await make_ann(auth)
        link = f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"
        before = hasher.count
        assert await post_80_times(client, link, PASSWORDS) == [303] + [404] * 79
        assert hasher.count - before == 1
        current = await auth.users.get(ann.id)
        assert current is not None
        assert await auth.users.check_password(current, NEW_PASSWORD)


async def test_a_link_stays_usable_after_a_refused_password_or_a_busy_hasher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with site("memory", tmp_path, CountingHasher()) as auth, browser(auth) as client:
        ann = await make_ann(auth)
        link = f"/accounts/reset/{encode_uid(ann)}/{await auth.reset_tokens.make(ann)}"
        page = await client.get(link, follow_redirects=True)
        weak = {"new_password1": "x", "new_password2": "x"}
        assert (await client.post(page.url, data=weak)).status_code == 422

        async def busy(password: str) -> str:
            raise HashingBusy

        with monkeypatch.context() as patch:
            patch.setattr(auth.passwords, "hash", busy)
            assert (await client.post(page.url, data=PASSWORDS)).status_code == 503
        assert (await client.post(page.url, data=PASSWORDS)).status_code == 303


async def test_a_claim_of_a_process_that_was_killed_ends(tmp_path: Path) -> None:
    async with site("memory", tmp_path, CountingHasher()) as auth:
        killed = auth.tokens.claim("a link")
        assert await killed.__aenter__()
        async with auth.tokens.claim("a link") as second, auth.tokens.claim("another link") as other:
            assert (second, other) == (False, True)
        auth.clock.tick(120)
        async with auth.tokens.claim("a link") as third:
            assert third
            await killed.__aexit__(None, None, None)  # it ends only its own claim
            async with auth.tokens.claim("a link") as fourth:
                assert not fourth


async def test_one_link_of_an_email_change_or_its_undo_makes_one_hash(tmp_path: Path) -> None:
    hasher = CountingHasher()
    async with site("memory", tmp_path, hasher) as auth, browser(auth) as owner, browser(auth) as other:
        await make_ann(auth)
        assert (await owner.post("/accounts/login", data={"username": "ann", "password": PASSWORD})).status_code == 303
        data = {"email": "new@example.org", "old_password": PASSWORD}
        assert (await owner.post("/accounts/email_change", data=data)).status_code == 303
        link = await newest_link(auth, "/email_change/confirm/")
        before = hasher.count
        assert await post_80_times(other, link, {"password": PASSWORD}) == [303] + [404] * 79
        assert hasher.count - before == 1
        link = await newest_link(auth, "/email_undo/confirm/")
        before = hasher.count
        assert await post_80_times(other, link, {}) == [303] + [404] * 79
        assert hasher.count - before == 1


@pytest.mark.parametrize("verify", ["before", "after"])
async def test_one_registration_link_is_used_by_one_request_at_a_time(tmp_path: Path, verify: Any) -> None:
    hasher = CountingHasher()
    async with site("memory", tmp_path, hasher, verify=verify) as auth, browser(auth) as owner, browser(auth) as other:
        data = {"username": "eve", "email": "eve@example.org", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
        assert (await owner.post("/accounts/register", data=data)).status_code == 303
        link = await newest_link(auth, "/register/confirm/")
        before = hasher.count
        assert await post_80_times(other, link, {"password": NEW_PASSWORD}) == [303] + [404] * 79
        assert hasher.count - before == 1


async def test_guesses_at_a_registration_link_count_as_those_of_a_login(tmp_path: Path) -> None:
    hasher = CountingHasher()
    async with site("memory", tmp_path, hasher, verify="after") as auth, browser(auth) as owner, browser(auth) as other:
        data = {"username": "eve", "email": "eve@example.org", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
        assert (await owner.post("/accounts/register", data=data)).status_code == 303
        page = await other.get(await newest_link(auth, "/register/confirm/"), follow_redirects=True)
        codes = [(await other.post(page.url, data={"password": "wrong"})).status_code for _ in range(6)]
        assert codes == [422] * 5 + [429]
        login = {"username": "eve", "password": NEW_PASSWORD}
        assert (await owner.post("/accounts/login", data=login)).status_code == 429
