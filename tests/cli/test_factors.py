"""Tests of the commands `factors` and `reseal`, and of what other commands say about second factors."""

import asyncio
import importlib
import io
import logging
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from starlette_auth import Auth, FactorRemoved, TwoFactor, User, get_auth
from starlette_auth.cli.main import main
from starlette_auth.features.two_factor.totp import code_at, step_at
from starlette_auth.mail.messages import plain_text

from ..conftest import PASSWORD, SECRET_KEY, client_of
from ..features.test_factor_store import SECRET

T = TypeVar("T")
NEW_KEY, OLD_KEY = f"new {SECRET_KEY}", f"old {SECRET_KEY}"
SITE = "https://site.example"
APPLICATION = """
from databases import Database
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette_auth import Auth, CookieStore, TwoFactor, middleware, routes
from starlette_auth.testing import CollectingMailer, FrozenClock

mailer = CollectingMailer()
options = dict(mailer=mailer, base_url="https://site.example", clock=FrozenClock())
auth = Auth(
    Database({url!r}),
    secret_key={keys!r},
    features=[TwoFactor(required_for=lambda user: user.is_staff)],
    **{{**options, **{options}}},
)
app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
"""


class Project:
    """A module with an application, as `--app` names it, on a database that stays."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch, self.number = folder, monkeypatch, 0
        self.url = f"sqlite+aiosqlite:///{folder}/site.sqlite3"
        self.deploy()

    def deploy(self, *keys: str, options: str = "{}") -> None:
        """Writes the module anew, with these secret keys, as a deployment does."""
        self.number += 1
        self.name = f"factor_site_{self.folder.name}_{self.number}".replace("-", "_")
        text = APPLICATION.format(url=self.url, keys=[*keys] or SECRET_KEY, options=options)
        (self.folder / f"{self.name}.py").write_text(text)

    def run(self, *arguments: str) -> int:
        self.monkeypatch.delitem(sys.modules, self.name, raising=False)
        importlib.invalidate_caches()
        return main(["--app", f"{self.name}:auth", *arguments])

    @property
    def module(self) -> Any:
        return sys.modules[self.name]

    def do(self, work: Callable[[Auth, httpx.AsyncClient], Awaitable[T]]) -> T:
        """Returns what `work` returns, given the Auth and a browser."""

        async def run() -> T:
            module = importlib.import_module(self.name)
            auth: Auth = module.auth
            await auth.gateway.connect()
            try:
                async with client_of(module.app, base_url=SITE, headers={"origin": SITE}) as client:
                    return await work(auth, client)
            finally:
                await auth.close()
                await auth.gateway.disconnect()

        self.monkeypatch.delitem(sys.modules, self.name, raising=False)
        importlib.invalidate_caches()
        return asyncio.run(run())


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    for name in ("STARLETTE_AUTH_APP", "DATABASE_URL", "STARLETTE_AUTH_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    project = Project(tmp_path, monkeypatch)
    assert project.run("migrate") == 0
    yield project
    for name in [name for name in sys.modules if name.startswith("factor_site_")]:
        del sys.modules[name]


def feature_of(auth: Auth) -> TwoFactor:
    feature = auth.features[0]
    assert isinstance(feature, TwoFactor)
    return feature


async def enrol(auth: Auth, name: str = "ann", **fields: Any) -> list[str]:
    """Creates a user with an app, and returns the recovery codes."""
    user = await auth.users.create_user(name, f"{name}@example.org", PASSWORD, **fields)
    store = feature_of(auth).store
    assert await store.add_totp(user, SECRET, step_at(auth.clock()) - 2)
    return await store.make_recovery_codes(user, 3)


async def enrol_ann(auth: Auth, client: httpx.AsyncClient) -> list[str]:
    return await enrol(auth)


async def user_of(auth: Auth, name: str = "ann") -> User:
    user: User | None = await auth.users.get_by_username(name)
    assert user is not None
    return user


async def log_in(client: httpx.AsyncClient) -> httpx.Response:
    return await client.post("/accounts/login", json={"username": "ann", "password": PASSWORD})


async def answer(client: httpx.AsyncClient, **fields: str) -> httpx.Response:
    """Logs in with the password, and passes the second step with these fields."""
    step = (await log_in(client)).json()["step"]
    return await client.post("/accounts/second_factor", json={"login": step["login"], **fields})


# factors list


def test_factors_are_listed_with_their_times_and_the_policy(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    async def prepare(auth: Auth, client: httpx.AsyncClient) -> None:
        await enrol(auth)
        await enrol(auth, "ben", is_staff=True)
        await auth.users.create_user("cid", password=PASSWORD)
        assert await feature_of(auth).store.use_totp(await user_of(auth, "ben"), code_at(SECRET, step_at(auth.clock())))

    project.do(prepare)
    capsys.readouterr()
    for name in ("ann", "ben", "cid"):
        assert project.run("factors", "list", name) == 0
    assert capsys.readouterr().out.splitlines() == [
        "totp  added just now, not used",
        "recovery_code  added just now, not used",
        "The policy does not require a second factor of ann.",
        "totp  added just now, last used just now",
        "recovery_code  added just now, not used",
        "The policy requires a second factor of ben.",
        "cid has no factors.",
        "The policy does not require a second factor of cid.",
    ]
    assert project.run("factors", "list", "unknown") == 1
    assert "There is no user named 'unknown'" in capsys.readouterr().err


@pytest.mark.parametrize("command", [["factors", "list", "ann"], ["factors", "reset", "ann", "--yes"], ["reseal"]])
def test_without_the_feature_the_command_says_what_to_pass(
    project: Project, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    project.do(enrol_ann)
    capsys.readouterr()
    assert main(["--database", project.url, *command]) == 1
    assert "Pass --app MODULE:ATTRIBUTE" in capsys.readouterr().err
    project.do(lambda auth, client: require_app(auth))


async def require_app(auth: Auth) -> None:
    assert await auth.has_factor(await user_of(auth))


# factors reset


def test_a_reset_removes_the_factors_ends_the_sessions_and_tells_the_user(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    async def begin(auth: Auth, client: httpx.AsyncClient) -> None:
        await enrol(auth)
        assert (await answer(client, code=code_at(SECRET, step_at(auth.clock())))).status_code == 200

    project.do(begin)
    capsys.readouterr()
    assert project.run("factors", "reset", "ann", "--yes") == 0
    output = capsys.readouterr().out
    assert output == "Removed 1 factors of ann (totp), and ended 1 sessions.\n"
    mails = {str(mail["Subject"]): plain_text(mail) for mail in project.module.mailer.messages}
    assert "If it was not you" in mails["Removed from your account at site.example: Authenticator app"]

    async def look(auth: Auth, client: httpx.AsyncClient) -> None:
        ann = await user_of(auth)
        assert await auth.user_sessions.list(ann) == []
        assert await auth.list_factors(ann) == []
        assert await feature_of(auth).store.recovery_codes_left(ann) == 0
        assert (await log_in(client)).status_code == 200  # without a second step

    project.do(look)


def test_a_browser_of_the_user_is_unknown_after_a_reset(project: Project) -> None:
    async def begin(auth: Auth, client: httpx.AsyncClient) -> dict[str, str]:
        await enrol(auth)
        await answer(client, code=code_at(SECRET, step_at(auth.clock())))
        await client.post("/accounts/logout")
        return dict(client.cookies)

    cookies = project.do(begin)

    async def is_known(auth: Auth, client: httpx.AsyncClient) -> bool:
        client.cookies.update(cookies)
        known: list[bool] = []

        async def note(request: Request) -> Response:
            known.append(bool(await get_auth(request).devices.known(request, await user_of(auth))))
            return PlainTextResponse("")

        project.module.app.add_route("/known", note)
        await client.get("/known")
        return known[0]

    assert project.do(is_known)
    assert project.run("factors", "reset", "ann", "--yes") == 0
    assert not project.do(is_known)


@pytest.mark.parametrize(("reply", "is_removed"), [("y", True), ("Yes", True), ("", False), ("n", False)])
def test_a_reset_asks_for_confirmation(
    project: Project,
    reply: str,
    is_removed: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    project.do(enrol_ann)
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{reply}\n"))
    assert project.run("factors", "reset", "ann") == (0 if is_removed else 1)
    output = capsys.readouterr()
    assert "Remove all second factors and passkeys of ann, and end all sessions of the user? [y/N]" in output.out
    assert ("Nothing was removed." in output.err) is not is_removed

    async def has_factor(auth: Auth, client: httpx.AsyncClient) -> bool:
        return await auth.has_factor(await user_of(auth))

    assert project.do(has_factor) is not is_removed


def test_without_a_terminal_a_reset_needs_yes(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project.do(enrol_ann)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert project.run("factors", "reset", "ann") == 1
    assert "Pass --yes." in capsys.readouterr().err
    project.do(lambda auth, client: require_app(auth))


def test_a_reset_can_be_limited_to_one_method(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.do(enrol_ann)
    assert project.run("factors", "reset", "ann", "--only", "passkey", "--yes") == 1
    assert "ann has no factor 'passkey'. Run `factors list ann`" in capsys.readouterr().err
    project.do(lambda auth, client: require_app(auth))
    assert project.run("factors", "reset", "ann", "--only", "totp", "--yes") == 0
    assert project.run("factors", "reset", "ann", "--yes") == 1
    assert "ann has no factors." in capsys.readouterr().err
    assert project.run("factors", "reset", "unknown", "--yes") == 1
    assert "There is no user named 'unknown'" in capsys.readouterr().err


def test_a_reset_is_one_transaction(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.do(enrol_ann)
    refuse = """
@auth.events.on(FactorRemoved)
def refuse(event):
    raise ValueError(f"not {event.factor}")
"""
    path = project.folder / f"{project.name}.py"
    path.write_text(path.read_text() + "from starlette_auth import FactorRemoved\n" + refuse)
    assert project.run("factors", "reset", "ann", "--yes") == 1
    assert "not totp" in capsys.readouterr().err
    assert project.module.FactorRemoved is FactorRemoved
    assert project.module.mailer.messages == []
    project.do(lambda auth, client: require_app(auth))


def test_a_user_who_must_have_a_factor_is_told_to_add_one_after_a_reset(
    project: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    project.do(lambda auth, client: enrol(auth, is_staff=True))
    capsys.readouterr()
    assert project.run("factors", "reset", "ann", "--yes") == 0
    assert capsys.readouterr().out.splitlines()[1].endswith(f"add it: {SITE}/accounts/totp")


def test_sessions_in_cookies_end_with_a_new_password(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.deploy(options=f"dict(sessions=CookieStore({SECRET_KEY!r}))")
    project.do(enrol_ann)
    capsys.readouterr()
    assert project.run("factors", "reset", "ann", "--yes") == 0
    assert "The sessions of this site are in cookies." in capsys.readouterr().out


# createsuperuser


def test_createsuperuser_says_that_a_second_factor_is_required_and_prints_the_link(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", PASSWORD)
    capsys.readouterr()
    for name, address in (("root", ""), ("ann", "ann@example.org")):
        assert project.run("createsuperuser", "--noinput", "--username", name, "--email", address) == 0
    created, notice, _, mailed = capsys.readouterr().out.splitlines()
    assert created == "Created the superuser root."
    assert notice == (
        "root must have a second factor, and adds it at the next login. Until then the password is all that protects the "
        f"account. Log in now and add it: {SITE}/accounts/totp"
    )
    assert "A code mailed to ann@example.org comes first. Until then password and mailbox are all" in mailed

    async def follow(auth: Auth, client: httpx.AsyncClient) -> None:
        page = await client.get("/accounts/totp")
        assert page.headers["location"] == "/accounts/login?next=%2Faccounts%2Ftotp"
        form = {"username": "root", "password": PASSWORD}
        page = await client.post(page.headers["location"], data=form, follow_redirects=True)
        assert (page.url.path, "<svg" in page.text) == ("/accounts/totp", True)

    project.do(follow)


def test_createsuperuser_says_nothing_where_no_factor_is_required(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", PASSWORD)
    capsys.readouterr()
    assert main(["--database", project.url, "createsuperuser", "--noinput", "--username", "root"]) == 0
    assert capsys.readouterr().out == "Created the superuser root.\n"


# reseal


def test_after_reseal_the_old_key_can_be_dropped(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    project.deploy(OLD_KEY)
    project.do(enrol_ann)
    project.deploy(NEW_KEY, OLD_KEY)
    capsys.readouterr()
    assert project.run("reseal") == 0
    assert project.run("reseal") == 0
    assert capsys.readouterr().out == (
        "Sealed 1 secrets anew, with the newest secret key.\nSealed 0 secrets anew, with the newest secret key.\n"
    )
    project.deploy(NEW_KEY)

    async def use(auth: Auth, client: httpx.AsyncClient) -> None:
        assert (await answer(client, code=code_at(SECRET, step_at(auth.clock())))).status_code == 200
        assert (await client.get("/accounts/session")).json()["level"] == 2

    project.do(use)


def test_without_reseal_the_login_asks_for_a_recovery_code_and_does_not_fail_open(
    project: Project, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    project.deploy(OLD_KEY)
    codes = project.do(enrol_ann)
    project.deploy(NEW_KEY)
    caplog.clear()

    async def use(auth: Auth, client: httpx.AsyncClient) -> None:
        for code in (code_at(SECRET, step_at(auth.clock())), "000000", code_at(b"", 0)):
            response = await answer(client, code=code)
            (error,) = response.json()["errors"]["code"]
            assert (response.status_code, error["code"]) == (422, "lost_key")
            assert "Use a recovery code" in error["message"]
            session = (await client.get("/accounts/session")).json()
            assert (session["user"], session["pending"]["name"]) == (None, "second_factor")
        assert (await answer(client, recovery_code=codes[0])).status_code == 200

    project.do(use)
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(errors) == 3
    assert "which sealed the totp of user" in errors[0].getMessage()
    assert "Add the old secret key" in errors[0].getMessage()
    capsys.readouterr()
    assert project.run("reseal") == 1
    output = capsys.readouterr()
    assert output.out == "Sealed 0 secrets anew, with the newest secret key.\n"
    assert "The key of 1 secrets is lost" in output.err
    project.deploy(NEW_KEY, OLD_KEY)  # as the message says
    assert project.run("reseal") == 0


def test_a_guess_at_an_app_with_a_lost_key_is_counted(project: Project) -> None:
    project.deploy(OLD_KEY)
    project.do(enrol_ann)
    project.deploy(NEW_KEY)

    async def guess(auth: Auth, client: httpx.AsyncClient) -> None:
        statuses = [(await answer(client, code="000000")).status_code for _ in range(6)]
        assert statuses == [422] * 5 + [429]

    project.do(guess)
