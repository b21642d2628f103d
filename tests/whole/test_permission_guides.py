"""The guides: their code runs, and does what they promise."""

import asyncio
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import httpx
import pytest
from starlette.testclient import TestClient

from starlette_auth import Auth, ImproperlyConfigured, Roles, User
from starlette_auth.testing import browser_headers, log_in

from ..conftest import PASSWORD, SECRET_KEY
from ..support.documents import code_of

pytestmark = pytest.mark.long

GUIDES = Path(__file__).parent.parent.parent / "example_app" / "guides"


def load(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, scheme: str = "sqlite+aiosqlite"
) -> ModuleType:
    """Returns the module that the Python blocks of a guide are, one after the other."""
    blocks = code_of(GUIDES / guide, "python")
    name = re.match(r"# (\w+)\.py\n", blocks[0])
    assert name is not None
    file = tmp_path / f"{name[1]}.py"
    file.write_text("\n\n".join(blocks))
    monkeypatch.setenv("DATABASE_URL", f"{scheme}:///{tmp_path}/guide.sqlite3")
    monkeypatch.setenv("SECRET_KEY", SECRET_KEY)
    spec = importlib.util.spec_from_file_location(f"guide_{name[1]}", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Permissions


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("permissions.md", tmp_path, monkeypatch)


@pytest.fixture
def client(shop: ModuleType) -> Iterator[TestClient]:
    with TestClient(shop.app, headers={"accept": "application/json"}) as client:
        yield client


def run(client: TestClient, function: Any, *args: Any, **options: Any) -> Any:
    """Runs a coroutine function in the event loop of the client."""
    assert client.portal is not None

    async def call() -> Any:
        return await function(*args, **options)

    return client.portal.call(call)


def make_user(client: TestClient, auth: Auth, name: str, *groups: str, **fields: Any) -> User:
    user: User = run(client, auth.users.create_user, name, **fields)
    for group in groups:
        run(client, auth.users.add_to_group, user, group)
    return user


def log_in_as(client: TestClient, user: User, auth: Auth) -> None:
    client.cookies.clear()
    log_in(client, user, auth)


def test_roles_directory_and_denials_of_the_guide_decide_together(shop: ModuleType, client: TestClient) -> None:
    auth = shop.auth
    assert client.get("/me").status_code == client.post("/refunds").status_code == 401
    log_in_as(client, make_user(client, auth, "ann", "manager"), auth)
    orders = {f"shop.{verb}_order" for verb in ("add", "change", "view", "refund")}
    assert client.get("/me").json() == {"permissions": sorted(orders), "may_refund": True}
    assert client.post("/refunds").status_code == client.get("/report").status_code == 200
    shop.HOLIDAYS.add("today")
    assert client.post("/refunds").status_code == client.get("/report").status_code == 403
    assert client.get("/me").json()["may_refund"] is False
    log_in_as(client, make_user(client, auth, "cleo", "chief"), auth)
    assert client.get("/report").status_code == 200
    log_in_as(client, make_user(client, auth, "arno", "auditor"), auth)
    assert client.get("/me").json()["permissions"] == ["shop.view_order"]
    log_in_as(client, make_user(client, auth, "eve", "editor"), auth)
    assert client.get("/me").json()["permissions"] == [f"catalog.{verb}_product" for verb in ("add", "change", "view")]
    log_in_as(client, make_user(client, auth, "dora"), auth)
    for _ in range(2):
        assert client.get("/me").json()["permissions"] == ["shop.change_order", "shop.view_order"]
        shop.DIRECTORY.clear()  # the session keeps what was loaded


def test_the_rules_of_the_guide_decide_about_lists_and_single_orders(shop: ModuleType, client: TestClient) -> None:
    auth = shop.auth
    ann, pia = make_user(client, auth, "ann"), make_user(client, auth, "pia")

    async def add_rows() -> None:
        async with shop.Session() as session:
            session.add_all(
                [
                    shop.Order(id=1, owner_id=ann.id, warehouse="north"),
                    shop.Order(id=2, owner_id=None, warehouse="south"),
                    shop.Order(id=3, owner_id=pia.id, warehouse="south"),
                    shop.Packer(user_id=pia.id, warehouse="north"),
                ]
            )
            await session.commit()

    run(client, add_rows)
    assert [client.get(path).status_code for path in ("/orders", "/orders/1", "/orders/99")] == [401] * 3
    run(client, shop.create_clerks)
    carl = run(client, auth.users.get_by_username, "carl")
    for user, visible in ((ann, [1]), (pia, [1, 3]), (carl, [1, 2, 3])):
        log_in_as(client, user, auth)
        assert client.get("/orders").json() == visible
        statuses = {key: client.get(f"/orders/{key}").status_code for key in (1, 2, 3, 99)}
        assert statuses == {key: 404 if key == 99 else 200 if key in visible else 403 for key in statuses}
        receipts = {key: client.get(f"/receipts/{key}").status_code for key in statuses}
        assert receipts == {key: 200 if key in visible else 404 for key in statuses}, "what is hidden looks missing"
    assert client.get("/orders/1").json() == {"id": 1, "warehouse": "north"}
    assert client.get("/orders/one").status_code == 404


def test_the_policy_engine_of_the_guide_decides_about_objects(shop: ModuleType) -> None:
    questions: list[Any] = []

    def answer(request: httpx.Request) -> httpx.Response:
        questions.append(request.read())
        return httpx.Response(200, json={"result": len(questions) == 1})

    async def ask() -> list[bool]:
        client = httpx.AsyncClient(base_url="http://opa", transport=httpx.MockTransport(answer))
        policies, ann = shop.Policies(client), User(id=1, username="ann")
        order = shop.Order(id=5)
        return [await policies.has_perm(ann, "shop.view_order", obj) for obj in (None, order, order)]

    assert asyncio.run(ask()) == [False, True, False]
    assert b'"object":5' in questions[0].replace(b" ", b"")


def test_the_mistakes_of_the_guide_look_as_it_says(shop: ModuleType, client: TestClient) -> None:
    guide = (GUIDES / "permissions.md").read_text()
    auth = shop.auth
    ann = make_user(client, auth, "ann")

    def returns_text(user: Any) -> Any:
        return "owner_id = 1"

    async def use(roles: Any) -> None:
        backend = Roles(roles)
        backend.attach(Auth(shop.engine, secret_key=SECRET_KEY).users)
        await backend.prepare()

    def add_rule() -> None:
        auth.rule("shop.add_order", shop.Order)(returns_text)
        auth.visible_to(ann, "shop.add_order", shop.Order)

    mistakes: list[tuple[Any, str]] = [
        (
            lambda: run(client, use, {"manager": ["shpo.*"]}),
            "Roles[\"manager\"] contains 'shpo.*', which matches no permission.",
        ),
        (
            lambda: run(client, use, {"manager": ["shop.*", "-shop.delete_ordr"]}),
            "Roles[\"manager\"] contains '-shop.delete_ordr', which takes nothing away",
        ),
        (lambda: run(client, auth.users.grant, ann, "shop.*"), "'shop.*' has a wildcard"),
        (lambda: auth.visible_to(ann, "shop.veiw_order", shop.Order), "There is no rule for (shop.veiw_order, Order)."),
        (add_rule, "returned a str."),
    ]
    for mistake, message in mistakes:
        assert message in guide
        with pytest.raises((ImproperlyConfigured, ValueError), match=re.escape(message)):
            mistake()
    auth.backends.append(Roles({}))
    with pytest.raises(ImproperlyConfigured, match="Roles were added after the Auth was made"):
        run(client, auth.has_perm, ann, "shop.view_order")
    assert "`Roles were added after the Auth was made`" in guide


# Several kinds of users


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("several-auths.md", tmp_path, monkeypatch)


def test_customers_and_employees_of_the_guide_are_different_people(site: ModuleType) -> None:
    with TestClient(site.app, headers=browser_headers) as client:
        ann = make_user(client, site.customers, "ann", password=PASSWORD)
        sue = make_user(client, site.employees, "sue", password=PASSWORD)
        assert ann.id == sue.id
        run(client, site.employees.users.grant, sue, "office.open_safe")
        assert client.get("/", follow_redirects=False).headers["location"].startswith("/accounts/login")
        assert client.get("/staff/safe", follow_redirects=False).headers["location"].startswith("/staff/accounts/login")

        log_in(client, ann, site.customers)
        assert client.get("/").json() == {"customer": "ann"}
        assert client.get("/staff/safe", follow_redirects=False).status_code == 303
        log_in(client, sue, site.employees)
        assert client.get("/staff/safe").json() == {"employee": "sue"}
        assert client.get("/").json() == {"customer": "ann"}

        run(client, site.customers.user_sessions.revoke_all, ann)
        assert client.get("/", follow_redirects=False).status_code == 303
        assert client.get("/staff/safe").json() == {"employee": "sue"}
        with pytest.raises(LookupError, match=r"office\.open_safe"):
            run(client, site.customers.users.grant, ann, "office.open_safe")


def test_a_customer_cannot_log_in_at_the_office_of_the_guide(site: ModuleType) -> None:
    with TestClient(site.app, headers=browser_headers) as client:
        make_user(client, site.customers, "ann", password=PASSWORD)
        data = {"username": "ann", "password": PASSWORD}
        own = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
        for path, status in (("/accounts/login", 303), ("/staff/accounts/login", 422)):
            response = client.post(path, data=data, headers=own, follow_redirects=False)
            assert response.status_code == status
        assert "shop" in client.cookies
        assert "staff" not in client.cookies


def test_partners_of_the_guide_share_the_groups_of_the_shop(site: ModuleType) -> None:
    tables, customers = site.partners.tables, site.customers.tables
    assert (tables.user.name, tables.group.name) == ("partner", customers.group.name)
    assert tables.user_groups.name == "partner_groups"
    assert tables.session.name == "partner_auth_session"
    assert site.employees.tables.group.name == "staff_auth_group"
    assert site.employees.tables.user.name == "staff_auth_user"


def test_the_messages_of_the_guide_are_those_of_the_package(site: ModuleType) -> None:
    guide = (GUIDES / "several-auths.md").read_text()
    roles = Roles({"voters": ["polls.add_vote"]})
    auth = Auth(site.database, secret_key=SECRET_KEY, backends=[roles])
    with pytest.raises(ImproperlyConfigured, match=(message := "These Roles belong to another Auth.")):
        Auth(site.database, secret_key=SECRET_KEY, backends=[roles])
    assert message in guide
    with pytest.raises(
        ImproperlyConfigured, match=(message := "keeps the sessions of another database or user table.")
    ):
        Auth(site.database, secret_key=SECRET_KEY, tables=site.partners.tables, sessions=auth.sessions)
    assert message in guide


def test_the_guides_name_each_other_and_the_readme_names_them() -> None:
    readme = (GUIDES.parent.parent / "README.md").read_text()
    for guide in (GUIDES / "permissions.md", GUIDES / "several-auths.md"):
        assert f"example_app/guides/{guide.name}" in readme
        for target in re.findall(r"\]\(([\w-]+\.md)", guide.read_text()):
            assert (GUIDES / target).exists()
