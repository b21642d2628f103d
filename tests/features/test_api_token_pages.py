"""The pages, the JSON, the mail, the commands and the OpenAPI schema of API tokens."""

import html
import io
import re
from collections.abc import AsyncIterator, Sequence
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import jsonschema  # type: ignore[import-untyped]
import pytest
import sqlalchemy as sa
from databases import Database
from fastapi import Depends, FastAPI
from openapi_spec_validator import validate
from starlette.routing import Mount

from starlette_auth import (
    APITokens,
    Auth,
    DjangoProject,
    Tables,
    TokenRevoked,
    User,
    fresh_login_required,
    lifespan,
    login_required,
    middleware,
    migrate,
    permission_required,
    routes,
    user_columns,
)
from starlette_auth.cli.main import main
from starlette_auth.fastapi import accounts
from starlette_auth.testing import FrozenClock, log_in

from ..conftest import PASSWORD, SECRET_KEY, client_of, installed, weak_passwords
from ..support.apps import make_app
from .test_api_tokens import HERE, bearer, tokens_of

TOKEN = re.compile(r"shop_[0-9A-Za-z]{36}")


class Outbox:
    def __init__(self) -> None:
        self.mails: list[EmailMessage] = []

    async def send(self, message: EmailMessage) -> None:
        self.mails.append(message)


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def outbox() -> Outbox:
    return Outbox()


@pytest.fixture
async def auth(database: Any, clock: FrozenClock, outbox: Outbox) -> AsyncIterator[Auth]:
    options: dict[str, Any] = {"mailer": outbox, "base_url": "http://testserver", "site_name": "Shop"}
    async with installed(database, features=[APITokens("shop")], clock=clock, **options) as auth:
        yield auth


def browser(auth: Auth) -> httpx.AsyncClient:
    return client_of(make_app(auth), headers=HERE)


# Pages


async def test_a_user_creates_a_token_which_is_shown_once_and_revokes_it(
    auth: Auth, ann: User, clock: FrozenClock, outbox: Outbox
) -> None:
    await auth.users.grant(ann, (await auth.users.create_permission("polls.add_vote")).user_perm_str)
    async with browser(auth) as client:
        assert (await client.get("/accounts/tokens")).headers["location"].startswith("/accounts/login?next=")
        await log_in(client, ann, auth)
        assert "You have no tokens." in (await client.get("/accounts/tokens")).text
        form = (await client.get("/accounts/tokens/create")).text
        assert "<code>polls.add_vote</code>" in form
        data = {"name": "Büro <1>", "expires": "30", "scopes": "polls.add_vote"}
        response = await client.post("/accounts/tokens/create", data=data)
        [token] = set(TOKEN.findall(response.text))
        assert (response.status_code, response.headers["cache-control"]) == (200, "no-store")
        page = (await client.get("/accounts/tokens")).text
        assert not TOKEN.search(page)
        shown = " ".join(html.unescape(re.sub("<[^>]*>", " ", page)).split())
        for text in ("Büro <1>", f"Begins with: {token[:9]}", "Permissions: polls.add_vote", "Expires within 30 days"):
            assert text in shown
        assert "Not used yet" in shown
        async with client_of(make_app(auth), headers=bearer(token)) as program:
            assert (await program.get("/vote")).text == "voted"
            assert "Last used: just now" in (await client.get("/accounts/tokens")).text
            [number] = re.findall(r'name="token" value="(\d+)"', page)
            response = await client.post("/accounts/tokens/revoke", data={"token": number})
            assert response.headers["location"] == "/accounts/tokens?done"
            assert (await program.get("/vote")).status_code == 401
        assert "You have no tokens." in (await client.get("/accounts/tokens?done")).text
    await auth.mail_queue.drain()
    [mail] = outbox.mails
    assert (mail["to"], mail["subject"]) == ("ann@example.org", "A new API token for your account at Shop")
    text = mail.get_body(("plain",)).get_content()  # type: ignore[union-attr]
    assert "An API token was created for your account at Shop: Büro <1>" in text
    assert token not in mail.as_string()


async def test_a_new_token_needs_a_fresh_login_and_so_does_the_end_of_one(
    auth: Auth, ann: User, clock: FrozenClock
) -> None:
    details = await tokens_of(auth).create(ann, "old")
    async with browser(auth) as client:
        await log_in(client, ann, auth)
        clock.tick(301)
        for path, data in (
            ("/accounts/tokens/create", {"name": "new"}),
            ("/accounts/tokens", {"name": "new"}),
            ("/accounts/tokens/revoke", {"token": str(details.id)}),
        ):
            response = await client.post(path, data=data)
            assert (response.status_code, 'name="password"' in response.text) == (403, True)
        response = await client.delete(f"/accounts/tokens/{details.id}", headers={"accept": "*/*"})
        assert (response.status_code, response.json()["code"]) == (403, "login_too_old")
        assert [token.name for token in await tokens_of(auth).list(ann)] == ["old"]
        await client.post("/accounts/reauthenticate", data={"password": PASSWORD})
        assert (await client.post("/accounts/tokens/create", data={"name": "new"})).status_code == 200
    assert len(await tokens_of(auth).list(ann)) == 2


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"name": ""}, "This field is required."),
        ({"name": "x", "expires": "soon"}, "Enter a number of days."),
        ({"name": "x", "expires": "366"}, "Enter a number of days from 1 to 365."),
        ({"name": "x", "expires": "0"}, "Enter a number of days from 1 to 365."),
        ({"name": "x", "scopes": "shop.all"}, "You do not have the permission shop.all."),
    ],
)
async def test_wrong_entries_are_explained(auth: Auth, ann: User, data: dict[str, str], message: str) -> None:
    async with browser(auth) as client:
        await log_in(client, ann, auth)
        response = await client.post("/accounts/tokens/create", data=data)
        assert response.status_code == 422
        assert message in html.unescape(response.text)
        assert (await client.post("/accounts/tokens/revoke", data={"token": "x"})).status_code == 400
    assert await tokens_of(auth).list(ann) == []


async def test_another_site_cannot_create_or_revoke(auth: Auth, ann: User) -> None:
    details = await tokens_of(auth).create(ann, "mine")
    async with client_of(make_app(auth)) as client:
        await log_in(client, ann, auth)
        client.headers.update({"sec-fetch-site": "cross-site", "origin": "http://evil.example"})
        assert (await client.post("/accounts/tokens", data={"name": "theirs"})).status_code == 403
        assert (await client.post("/accounts/tokens/revoke", data={"token": str(details.id)})).status_code == 403
        assert (await client.delete(f"/accounts/tokens/{details.id}")).status_code == 403
    assert [token.name for token in await tokens_of(auth).list(ann)] == ["mine"]


# A new password

NEW = "a second good long password"
CHANGE = {"old_password": PASSWORD, "new_password1": NEW, "new_password2": NEW}


async def test_a_change_of_the_password_asks_whether_the_tokens_end(auth: Auth, ann: User) -> None:
    ben, store = await auth.users.create_user("ben"), tokens_of(auth)
    await store.create(ben, "of another user")
    async with browser(auth) as client:
        await log_in(client, ann, auth)
        assert "revoke_tokens" not in (await client.get("/accounts/password_change")).text  # there are none
        for name in ("first", "second"):
            await store.create(ann, name)
        page = (await client.get("/accounts/password_change")).text
        assert "Also revoke my API tokens" in page
        assert re.search(
            r'<input id="id_revoke_tokens" name="revoke_tokens" type="checkbox" value="on"(?! checked)', page
        )
        wrong = {**CHANGE, "old_password": "wrong", "revoke_tokens": "on"}
        response = await client.post("/accounts/password_change", data=wrong)
        assert (response.status_code, len(await store.list(ann))) == (422, 2)
        assert 'value="on" checked' in response.text
        response = await client.post("/accounts/password_change", data={**CHANGE, "revoke_tokens": "on"})
        assert response.headers["location"] == "/accounts/password_change/done"
        assert (await store.list(ann), len(await store.list(ben))) == ([], 1)
        assert (await client.get("/whoami")).json()["username"] == "ann"


@pytest.mark.parametrize(("sent", "left"), [({}, 1), ({"revoke_tokens": False}, 1), ({"revoke_tokens": True}, 0)])
async def test_a_program_that_changes_the_password_may_revoke_the_tokens(
    auth: Auth, ann: User, sent: dict[str, bool], left: int
) -> None:
    await tokens_of(auth).create(ann, "mine")
    async with client_of(make_app(auth), headers={**HERE, "accept": "application/json"}) as client:
        await log_in(client, ann, auth)
        assert (await client.post("/accounts/password_change", json={**CHANGE, **sent})).status_code == 200
    assert len(await tokens_of(auth).list(ann)) == left


async def test_the_password_stays_if_the_tokens_cannot_be_revoked(auth: Auth, ann: User) -> None:
    @auth.events.on(TokenRevoked)
    def fail(event: TokenRevoked[Any]) -> None:
        raise RuntimeError("no longer possible")

    await tokens_of(auth).create(ann, "mine")
    async with browser(auth) as client:
        await log_in(client, ann, auth)
        with pytest.raises(RuntimeError, match="no longer possible"):
            await client.post("/accounts/password_change", data={**CHANGE, "revoke_tokens": "on"})
    assert len(await tokens_of(auth).list(ann)) == 1
    stored = await auth.users.get(ann.id)
    assert await auth.users.check_password(stored, PASSWORD)


# JSON


@pytest.mark.parametrize("pages", [True, False], ids=["with pages", "JSON only"])
async def test_a_program_lists_creates_and_revokes_in_json(auth: Auth, ann: User, pages: bool) -> None:
    app = make_app(auth)
    app.routes[-1] = Mount("/accounts", routes=routes(auth, pages=pages))
    async with client_of(app, headers={**HERE, "accept": "application/json"}) as client:
        assert (await client.get("/accounts/tokens")).status_code == 401
        await log_in(client, ann, auth)
        created = (await client.post("/accounts/tokens", json={"name": "app", "expires": "7"})).json()
        assert TOKEN.fullmatch(created.pop("token"))
        assert (created["name"], created["expires"] - created["created"]) == ("app", 7 * 24 * 3600)
        assert (await client.get("/accounts/tokens")).json() == {"tokens": [created]}
        response = await client.post("/accounts/tokens", json={"name": "app", "scopes": "polls.add_vote"})
        assert (response.status_code, response.json()["errors"]["scopes"][0]["code"]) == (422, "unknown_scope")
        assert (await client.delete(f"/accounts/tokens/{created['id']}")).status_code == 204
        assert (await client.delete(f"/accounts/tokens/{created['id']}")).status_code == 404
        assert (await client.get("/accounts/tokens")).json() == {"tokens": []}


async def test_openapi_has_the_bearer_scheme_beside_the_cookie(auth: Auth) -> None:
    app = FastAPI(lifespan=lifespan(auth))

    @app.get("/orders", dependencies=[Depends(permission_required("shop.view_order"))])
    async def orders() -> None: ...

    @app.get("/me", dependencies=[Depends(login_required)])
    async def me() -> None: ...

    @app.get("/danger", dependencies=[Depends(fresh_login_required)])
    async def danger() -> None: ...

    app.include_router(FastAPI().router)
    app.mount("/accounts", Mount("", routes=routes(auth)))
    async with app.router.lifespan_context(app):
        schema = app.openapi()
    assert schema["components"]["securitySchemes"]["token"]["scheme"] == "bearer"
    paths = schema["paths"]
    assert paths["/orders"]["get"]["security"] == [{"session": ["shop.view_order"]}, {"token": ["shop.view_order"]}]
    assert paths["/me"]["get"]["security"] == [{"session": []}, {"token": []}]
    assert paths["/danger"]["get"]["security"] == [{"session": []}]


@pytest.mark.parametrize("pages", [True, False], ids=["with pages", "JSON only"])
async def test_openapi_documents_the_json_of_tokens(auth: Auth, ann: User, pages: bool) -> None:
    app = FastAPI(lifespan=lifespan(auth), middleware=middleware(auth))
    app.include_router(accounts(auth, pages=pages), prefix="/accounts")
    app.get("/reset/{uidb64}/{token}", name="password_reset_confirm", include_in_schema=False)(lambda: "a page")
    async with app.router.lifespan_context(app):
        schema = app.openapi()
    validate(schema)
    change = schema["paths"]["/accounts/password_change"]["post"]["requestBody"]["content"]["application/json"][
        "schema"
    ]
    assert change["properties"]["revoke_tokens"] == {"type": "boolean"}
    assert "revoke_tokens" not in change["required"]
    listed, one = schema["paths"]["/accounts/tokens"], schema["paths"]["/accounts/tokens/{id}"]
    assert (set(listed), set(one)) == ({"get", "post"}, {"delete"})
    assert one["delete"]["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}
    ]
    assert {"204", "401", "403", "404"} <= set(one["delete"]["responses"])
    assert "requestBody" not in one["delete"]

    def promised(operation: dict[str, Any], response: httpx.Response) -> Any:
        """Returns the JSON of a response, which has exactly the fields that the schema names."""
        [content] = operation["responses"][str(response.status_code)]["content"].values()
        jsonschema.validate(response.json(), content["schema"])
        return response.json()

    async with client_of(app, headers={**HERE, "accept": "application/json"}) as client:
        await log_in(client, ann, auth)
        await auth.users.grant(ann, (await auth.users.create_permission("polls.add_vote")).user_perm_str)
        for fields in ({"name": "whole"}, {"name": "limited", "scopes": "polls.add_vote", "expires": "7"}):
            created = promised(listed["post"], await client.post("/accounts/tokens", json=fields))
        shown = promised(listed["get"], await client.get("/accounts/tokens"))
        assert set(created) == {*shown["tokens"][0], "token"}
        assert (await client.delete(f"/accounts/tokens/{created['id']}")).status_code == 204


# The command line


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    status = main([*arguments])
    output = capsys.readouterr()
    return status, output.out, output.err


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    database = f"sqlite+aiosqlite:///{tmp_path}/site.sqlite3"
    (tmp_path / "token_site.py").write_text(
        "from databases import Database\n"
        "from starlette_auth import APITokens, Auth\n"
        f"auth = Auth(Database({database!r}), secret_key={SECRET_KEY!r}, features=[APITokens('shop')])\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    app = ("--app", "token_site:auth")
    assert run(capsys, "migrate", *app)[0] == 0
    monkeypatch.setenv("STARLETTE_AUTH_PASSWORD", PASSWORD)
    run(capsys, "createsuperuser", "--noinput", "--username", "deploy", *app)
    assert run(capsys, "tokens", "list", "deploy", *app) == (0, "deploy has no tokens.\n", "")
    create = ("tokens", "create", "deploy", "--name", "ci")
    status, output, message = run(capsys, *create, "--scope", "shop.add_order", "--days", "7", *app)
    token = output.strip()
    assert (status, bool(TOKEN.fullmatch(token))) == (0, True)
    assert "printed only once" in message
    for days in ("366", "0", "-1", "99999", "1000000000", "1" + 30 * "0"):
        status, output, message = run(capsys, *create, "--days", days, *app)
        assert (status, output, message) == (1, "", "Enter a number of days from 1 to 365.\n"), days
    listed = run(capsys, "tokens", "list", "deploy", *app)[1]
    assert listed == f"1  {token[:9]}…  ci, shop.add_order, expires within 7 days, not used\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    assert run(capsys, "tokens", "check", *app) == (0, f"A valid token of deploy:\n{listed}", "")
    monkeypatch.setattr("sys.stdin", io.StringIO(token[:-1] + "\n"))
    assert "does not have the format of this site" in run(capsys, "tokens", "check", *app)[2]
    assert run(capsys, "tokens", "revoke", "deploy", "7", *app)[0] == 1
    assert run(capsys, "tokens", "revoke", "deploy", "1", *app) == (0, "Revoked 1 tokens of deploy.\n", "")
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    assert "is unknown or has expired" in run(capsys, "tokens", "check", *app)[2]
    run(capsys, *create, *app)
    assert run(capsys, "tokens", "revoke", "deploy", "--all", *app)[1] == "Revoked 1 tokens of deploy.\n"
    assert "has no APITokens(…)" in run(capsys, "tokens", "list", "deploy", "--database", database)[2]


# Tables


def custom_users() -> Tables:
    users = sa.Table("shop_customer", sa.MetaData(), *user_columns(sa.Column("id", sa.Uuid(), primary_key=True)))
    return Tables(user=users, prefix="crm_")


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (dict, "auth_api_token"),
        (lambda: {"tables": Tables(prefix="crm_")}, "crm_auth_api_token"),
        (lambda: {"tables": custom_users()}, "shop_customer_auth_api_token"),
        (lambda: {"django": DjangoProject()}, "auth_api_token"),
    ],
    ids=["default", "prefix", "UUID keys", "Django"],
)
async def test_the_table_belongs_to_the_user_table(database: Any, options: Any, name: str) -> None:
    feature = APITokens("shop")
    auth = Auth(database, secret_key=SECRET_KEY, passwords=weak_passwords(), features=[feature], **options())
    created: Sequence[str] = await migrate(auth.gateway, auth.tables)
    assert {table for table in created if "api_token" in table} - {f"{name}_user_id"} == {name}
    assert await migrate(auth.gateway, auth.tables) == []
    deploy = await auth.users.create_user("deploy")
    assert not deploy.has_usable_password()
    token = await feature.create(deploy, "service account")
    async with client_of(make_app(auth), headers=bearer(str(token.token))) as client:
        assert (await client.get("/whoami")).json()["username"] == "deploy"
    assert await feature.revoke(deploy, token.id)
    await auth.users.delete(deploy)
    await auth.gateway.close()


async def test_two_auths_over_one_user_table_may_have_different_prefixes(database: Database) -> None:
    async with installed(database, features=[APITokens("shop")]) as first:
        second = Auth(database, secret_key=SECRET_KEY, tables=first.tables, features=[APITokens("crm")])
        ann = await first.users.create_user("ann")
        token = str((await tokens_of(first).create(ann, "x")).token)
        assert await tokens_of(first).check(token) is not None
        assert await tokens_of(second).check(token) is None
