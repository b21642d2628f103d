"""Attack 2: requests in any order. Random walks through all pages of a login, checked against what was proved."""

import random
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pyotp
import pytest

from starlette_auth import Auth, TwoFactor
from starlette_auth.mail.messages import plain_text
from starlette_auth.testing import CollectingMailer, FrozenClock

from ..conftest import PASSWORD, any_database, installed
from ..support.matrix import FEW
from .test_assurance import browser_of, is_staff, who
from .test_enrolment import CODE
from .test_factor_store import SECRET, clock_of, code_of, feature_of

pytestmark = any_database

JSON = {"accept": "application/json"}
LOGIN, STEP, ENROL, TOTP = (f"/accounts/{name}" for name in ("login", "second_factor", "enrol", "totp"))
WALKS, STEPS = (3, 80) if FEW else (6, 120)
#: What a login of each user must have proved. ben is a member of the staff, and adds an app on the way.
NEEDED = {"ann": {"password", "factor"}, "ben": {"password", "mail", "factor"}, "eve": {"password"}}


class Walk:
    """One browser, whose requests are random, and what the test has proved in each of its logins."""

    def __init__(self, auth: Auth, client: httpx.AsyncClient, chance: random.Random, recovery: list[str]) -> None:
        self.auth, self.client, self.chance, self.recovery = auth, client, chance, recovery
        self.proved: dict[str, set[str]] = defaultdict(set)  # by the id of a login
        self.owner: dict[str, str] = {}
        self.logins = [""]
        self.trace: list[str] = []

    @property
    def login(self) -> str:
        """The id of the login whose form is sent: mostly that of the last one, sometimes that of another tab."""
        return self.logins[-1] if self.chance.random() < 0.8 else self.chance.choice(self.logins)

    async def open_login(self) -> None:
        name = self.chance.choice(list(NEEDED))
        answer = await self.client.post(LOGIN, json={"username": name, "password": PASSWORD})
        if answer.status_code == 401:
            login = answer.json()["step"]["login"]
            self.logins.append(login)
            self.owner[login] = name
            self.proved[login].add("password")
        else:
            self.logins.append(f"whole {len(self.logins)}")
            self.owner[self.logins[-1]] = name
            self.proved[self.logins[-1]].add("password")

    async def send_code(self) -> None:
        """Sends a right code of ann's app, which may be that of another step, or was used."""
        code = code_of(self.auth, -self.chance.randrange(2))
        login = self.login
        answer = await self.client.post(STEP, json={"login": login, "code": code})
        if answer.status_code == 200:
            self.proved[login].add("factor")

    async def send_recovery_code(self) -> None:
        login = self.login
        answer = await self.client.post(STEP, json={"login": login, "recovery_code": self.recovery.pop()})
        if answer.status_code == 200:
            self.proved[login].add("factor")

    async def send_wrong_code(self) -> None:
        await self.client.post(self.chance.choice([STEP, ENROL, TOTP]), json={"login": self.login, "code": "000000"})

    async def ask_for_mail(self) -> None:
        await self.client.post(ENROL, json={"login": self.login, "send": "1"})

    async def send_mailed_code(self) -> None:
        mailer = self.auth.mail_queue.mailer
        assert isinstance(mailer, CollectingMailer)
        await self.auth.mail_queue.drain()
        codes = [match[0] for mail in mailer.messages if (match := CODE.search(plain_text(mail)))]
        if codes:
            login = self.login
            answer = await self.client.post(ENROL, json={"login": login, "code": codes[-1]})
            if answer.status_code == 401 and answer.json().get("step", {}).get("login") == login:
                self.proved[login].add("mail")

    async def add_app(self) -> None:
        setup = await self.client.get(TOTP, headers=JSON)
        if setup.status_code != 200 or "secret" not in setup.json():
            return
        login, code = self.login, pyotp.TOTP(setup.json()["secret"]).at(self.auth.clock())
        made = await self.client.post(TOTP, json={"login": login, "code": code})
        if made.status_code == 200 and "step" in made.json():
            assert "mail" in self.proved[login], "an app was added without the mail"
            self.proved[login].add("factor")

    async def go_on(self) -> None:
        """Sends an empty form, or opens a page of a step, which goes on if the step is not needed."""
        page = self.chance.choice([STEP, ENROL])
        if self.chance.random() < 0.5:
            await self.client.get(page)
        else:
            await self.client.post(page, json={"login": self.login})

    async def open_login_page(self) -> None:
        await self.client.get(f"{LOGIN}?next=%2Fmembers", headers=self.chance.choice([JSON, {}]))

    async def log_out(self) -> None:
        await self.client.post("/accounts/logout")

    async def wait(self) -> None:
        clock_of(self.auth).tick(self.chance.choice([1, 30, 400]))

    async def step(self) -> None:
        actions = [self.open_login, self.send_code, self.send_recovery_code, self.send_wrong_code, self.ask_for_mail]
        actions += [self.send_mailed_code, self.add_app, self.go_on, self.open_login_page, self.log_out, self.wait]
        action = self.chance.choices(actions, [4, 3, 1, 1, 2, 3, 3, 3, 1, 1, 2])[0]
        self.trace.append(action.__name__)
        await action()

    def may_be(self, name: str) -> bool:
        """Returns whether one login of this user has proved all that the user must prove."""
        return any(self.owner.get(login) == name and NEEDED[name] <= proved for login, proved in self.proved.items())


@pytest.fixture
async def auth(database: Any) -> AsyncIterator[Auth]:
    options: dict[str, Any] = {"mailer": CollectingMailer(), "base_url": "http://testserver", "throttling": False}
    features = [TwoFactor(required_for=is_staff)]
    async with installed(database, features=features, clock=FrozenClock(), rates={}, **options) as auth:
        yield auth


async def test_attack_2_no_order_of_requests_skips_a_proof(auth: Auth) -> None:
    store = feature_of(auth).store
    users = {
        name: await auth.users.create_user(name, f"{name}@example.org", PASSWORD, is_staff=name == "ben")
        for name in NEEDED
    }
    reached: dict[str, int] = defaultdict(int)
    for seed in range(WALKS):
        await store.remove_all(users["ann"])
        await store.remove_all(users["ben"])
        assert await store.add_totp(users["ann"], SECRET, 0)
        recovery = await store.make_recovery_codes(users["ann"], STEPS)
        async with browser_of(auth) as client:
            walk = Walk(auth, client, random.Random(seed), recovery)
            for _ in range(STEPS):
                await walk.step()
                name = await who(client)
                assert not name or walk.may_be(name), f"{name} is in, seed {seed}: {walk.trace}"
                reached[name] += bool(name)
                if name and walk.trace[-1] != "log_out" and walk.chance.random() < 0.3:
                    await client.post("/accounts/logout")
                    walk.proved.clear()
    assert set(reached) >= set(NEEDED), f"no walk logged these users in: {set(NEEDED) - set(reached)}"
