"""Tests of the FastAPI example, which runs in a separate process: `python -m example_app.api`."""

import asyncio
import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from openapi_spec_validator import validate
from sqlalchemy.ext.asyncio import create_async_engine

from ..conftest import any_database, token_in
from ..support.command_line import CommandLine, code_of, end_of
from ..support.server import Server, environment, free_port

Start = Callable[[], Server]
Rows = Callable[[str], list[tuple[Any, ...]]]
PASSWORD = "seven quiet otters"
PAGE = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
TEA = {"item": "Tea", "quantity": 2}
INVISIBLE = ("", " ", "\n", "\u200b", "\u2060\ufeff", "\U000e0041")
UNSTORABLE = ("\x00", "a\x00b", "\ud800", "a\udfff", "x" * 101, "x" * 1_000_000)
NO_TEXT: tuple[Any, ...] = (None, 1, True, [], {}, ["ann"], float("nan"), float("inf"))
STORABLE = ("👩\u200d🍳", "می\u200cخواهم", "e\u0301", "Ａ", "\u202ea", "a\uffff", "'; --", "<b>", "x" * 100)
NO_NAMES = ("a b", "a\u200bb", "a\nb", "a\u202eb", "a'b", "<b>", "👩", "\ufdfa", "x" * 151, "\u3164", "ﬃ" * 60)
NO_ADDRESSES = (
    *("not an address", "ann", "@", "ann@", "@example.org", "ann@example", "a@b@example.org", "ann@example..org"),
    *("Ann <ann@example.org>", "ann@example.org, b@example.org", "a\nb@example.org", "a\u200bb@example.org"),
    *("=?utf-8?q?a?=@example.org", '"a b"@example.org', f"{'x' * 243}@example.org", "ann@exa\u202emple.org"),
)
NO_BODIES = (b"", b"{", b"\xff", b"null", b"[]", b'"\\ud800"', b"[" * 100_000, b'{"item":' + b"9" * 5000 + b"}")
NO_KEYS = ("0", "-1", "x", "%00", "%ED%A0%80", "1.5", str(2**31), str(2**63), "9" * 5000)


@pytest.fixture
def start_api(database_url: str, tmp_path: Path) -> Iterator[Start]:
    servers: list[Server] = []

    def start() -> Server:
        port = free_port()
        url = database_url.replace("postgresql://", "postgresql+asyncpg://")
        variables = environment(PORT=str(port), DATABASE_URL=url)
        servers.append(Server(tmp_path, port, variables, module="example_app.api", ready="/openapi.json"))
        return servers[-1].wait()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def api(start_api: Start) -> Server:
    return start_api()


@pytest.fixture
def rows(database_url: str) -> Rows:
    """Returns a function that executes a query in the database of the shop."""

    async def fetch(query: str) -> list[tuple[Any, ...]]:
        url = database_url.replace("postgresql://", "postgresql+asyncpg://")
        engine = create_async_engine(url)
        async with engine.connect() as connection:
            result = [tuple(row) for row in await connection.execute(sa.text(query))]
        await engine.dispose()
        return result

    return lambda query: asyncio.run(fetch(query))


def program(api: Server) -> httpx.Client:
    """Returns a client like a script of the site, which sends the header Origin."""
    return httpx.Client(base_url=api.url, timeout=30, headers={"origin": api.url})


def browser(api: Server) -> httpx.Client:
    return httpx.Client(base_url=api.url, timeout=30, headers=PAGE)


def log_in(client: httpx.Client, username: str, password: str) -> None:
    response = client.post("/accounts/login", json={"username": username, "password": password})
    assert response.json() == {"next": "/"}, response.text


def send(client: httpx.Client, page: str, action: str, **fields: str) -> httpx.Response:
    """Submits a form with the CSRF token of a page."""
    token = token_in(client.get(page).text)
    return client.post(action, data={**fields, "csrfmiddlewaretoken": token})


def confirm(api: Server, address: str) -> None:
    """Opens the link of the mail in a new browser, and confirms the address with the password."""
    with browser(api) as client:
        page = client.get(api.mail(address, "Confirm").link, follow_redirects=True)
        data = {"password": PASSWORD, "csrfmiddlewaretoken": token_in(page.text)}
        done = client.post(page.url, data=data, follow_redirects=True)
        assert (done.status_code, done.url.path) == (200, "/accounts/register/complete")


@contextlib.contextmanager
def member(api: Server, name: str) -> Iterator[httpx.Client]:
    """Yields the client of a new member, who registered and logged in."""
    address = f"{name}@example.org"
    data = {"username": name, "email": address, "password1": PASSWORD, "password2": PASSWORD}
    with program(api) as client:
        assert client.post("/accounts/register", json=data).json() == {"next": "/accounts/register/done"}
        confirm(api, address)
        log_in(client, name, PASSWORD)
        yield client


@contextlib.contextmanager
def admin(api: Server) -> Iterator[httpx.Client]:
    with program(api) as client:
        log_in(client, "admin", api.password)
        yield client


def is_problem(response: httpx.Response, status: int, code: str) -> bool:
    content = response.json()
    assert response.headers["content-type"] == "application/problem+json"
    assert (response.status_code, content["status"], content["code"]) == (status, status, code), response.text
    return True


def is_refused(response: httpx.Response, *codes: str) -> bool:
    """Checks that a request is refused with a problem, whose text can be shown."""
    assert response.headers["content-type"] == "application/problem+json", response.text[:300]
    content = response.json()
    assert 400 <= response.status_code == content["status"] < 500
    assert content["code"] in codes, content
    assert content["detail"].isprintable(), content
    return True


def test_members_see_only_their_own_orders(api: Server) -> None:
    with member(api, "ann") as ann, member(api, "ben") as ben:
        order = ann.post("/api/orders", json=TEA)
        assert (order.status_code, order.json()) == (201, {"id": 1, **TEA, "voucher": None})
        assert ann.get("/api/orders").json() == [order.json()]
        assert ben.get("/api/orders").json() == []
        assert is_problem(ben.delete("/api/orders/1"), 404, "not_found")
        assert "Tea" not in ben.get("/", headers=PAGE).text
        assert ann.patch("/api/me", json={"city": " Rome "}).json()["city"] == "Rome"
        assert ann.get("/api/me").json() == {"username": "ann", "email": "ann@example.org", "city": "Rome"}
        assert ben.get("/api/me").json()["city"] == ""
        assert ann.delete("/api/orders/1").status_code == 204
        assert ann.get("/api/orders").json() == []


def test_a_customer_and_the_first_order_are_stored_together_or_not_at_all(api: Server) -> None:
    with admin(api) as staff:
        customer = {"username": "eve", "email": "eve@example.org", "order": {**TEA, "voucher": "SPRING"}}
        assert staff.post("/api/orders", json={**TEA, "voucher": "SPRING"}).status_code == 201
        assert is_problem(staff.post("/api/customers", json=customer), 409, "conflict")
        customer["order"] = TEA
        assert staff.post("/api/customers", json=customer).status_code == 201, "the customer was not rolled back"
        assert is_problem(staff.post("/api/customers", json=customer), 409, "conflict")
        assert len(staff.get("/api/orders").json()) == 1


def test_a_customer_needs_a_name_and_an_address_that_could_also_register(api: Server, rows: Rows) -> None:
    valid = {"username": "eve", "email": "eve@example.org", "order": TEA}
    with admin(api) as staff:
        assert staff.post("/api/customers", json=valid).status_code == 201
        before = rows("SELECT username, email FROM member ORDER BY id")
        invalid = {"username": (*INVISIBLE, *UNSTORABLE, *NO_NAMES, *NO_TEXT)}
        invalid["email"] = (*INVISIBLE, *UNSTORABLE, *NO_ADDRESSES, *NO_TEXT)
        for field, values in invalid.items():
            for value in values:
                data = {"username": "new", "email": "new@example.org", "order": TEA, field: value}
                assert is_refused(
                    staff.post("/api/customers", content=json.dumps(data)), "unprocessable_content", "invalid_data"
                )
        for field, values in {
            "username": ("eve", "EVE", " eve ", "ｅｖｅ"),
            "email": ("eve@example.org", "Eve@EXAMPLE.org"),
        }.items():
            for value in values:
                data = {"username": "new", "email": "new@example.org", "order": TEA, field: value}
                response = staff.post("/api/customers", json=data)
                assert is_problem(response, 409, "conflict")
                assert response.json()["detail"] == f"This {field} is taken."
        assert rows("SELECT username, email FROM member ORDER BY id") == before
        assert rows("SELECT item FROM orders") == [("Tea",)]
        longest = {"username": "é" * 150, "email": f"{'x' * 242}@example.org", "order": TEA}
        assert staff.post("/api/customers", json=longest).status_code == 201
        assert rows("SELECT username, email FROM member ORDER BY id")[-1] == (longest["username"], longest["email"])


def test_texts_that_cannot_be_stored_or_seen_are_refused_and_others_come_back_unchanged(
    api: Server, rows: Rows
) -> None:
    with admin(api) as staff:
        for value in (*UNSTORABLE, *NO_TEXT):
            assert is_refused(staff.patch("/api/me", content=json.dumps({"city": value})), "invalid_data")
        for value in (*INVISIBLE, *UNSTORABLE, *NO_TEXT):
            assert is_refused(staff.post("/api/orders", content=json.dumps({"item": value})), "invalid_data")
        for value in ("a", "A" * 21, "A\n", "Ａ", *UNSTORABLE[:4], 1, ["A"]):
            content = json.dumps({"item": "Tea", "voucher": value})
            assert is_refused(staff.post("/api/orders", content=content), "invalid_data")
        for value in (0, -1, 100, 2**63, 10**400, 1.5, "x", "\ud800", None, float("nan")):
            content = json.dumps({"item": "Tea", "quantity": value})
            assert is_refused(staff.post("/api/orders", content=content), "invalid_data", "bad_request")
        for body in NO_BODIES:
            for send_to in ("/api/orders", "/api/customers"):
                response = staff.post(send_to, content=body, headers={"content-type": "application/json"})
                assert is_refused(response, "invalid_data", "bad_request")
        assert rows("SELECT city FROM member") == [("",)]
        assert rows("SELECT item FROM orders") == []
        for value in STORABLE:
            assert staff.patch("/api/me", json={"city": value}).json()["city"] == value
            assert staff.post("/api/orders", json={"item": value}).json()["item"] == value


def test_an_order_that_cannot_exist_is_refused_like_one_that_does_not(api: Server) -> None:
    with admin(api) as staff:
        for key in NO_KEYS:
            assert is_refused(staff.delete(f"/api/orders/{key}"), "invalid_data", "not_found"), key
            assert is_refused(staff.post(f"/orders/{key}/cancel"), "invalid_data", "not_found"), key
        assert is_problem(staff.delete(f"/api/orders/{2**31 - 1}"), 404, "not_found")


@any_database
def test_form_data_that_cannot_be_stored_is_refused(api: Server, rows: Rows) -> None:
    with admin(api) as staff:
        headers = {"content-type": "application/x-www-form-urlencoded"}
        for content in (
            b"item=a%00b",
            b"item=%E2%80%8B",
            b"item=" + b"x" * 101,
            b"item=Tea&quantity=1e9",
            b"item",
            b"=",
        ):
            assert is_refused(staff.post("/orders", content=content, headers=headers), "invalid_data")
        assert is_refused(staff.post("/orders", files={"item": b"Tea"}), "invalid_data", "bad_request")
        seven_bit = {"content-type": "multipart/form-data; boundary=b; charset=utf-7"}
        content = b'--b\r\nContent-Disposition: form-data; name="item"\r\n\r\n+2AA-\r\n--b--\r\n'
        assert is_refused(staff.post("/orders", content=content, headers=seven_bit), "invalid_data", "bad_request")
        assert rows("SELECT item FROM orders") == []


def test_an_account_is_deleted_with_its_orders(api: Server) -> None:
    with member(api, "ann") as ann:
        assert ann.post("/api/orders", json={**TEA, "voucher": "ONCE"}).status_code == 201
        assert ann.delete("/api/me").status_code == 204
        assert is_problem(ann.get("/api/me"), 401, "not_authenticated")
        assert ann.post("/accounts/login", json={"username": "ann", "password": PASSWORD}).status_code == 422
    with admin(api) as staff:
        assert staff.post("/api/orders", json={**TEA, "voucher": "ONCE"}).status_code == 201, "the order is still there"


@any_database
def test_a_visitor_registers_logs_in_and_out_with_forms(api: Server) -> None:
    with browser(api) as ann:
        assert ann.get("/").headers["location"] == "/accounts/login?next=%2F"
        fields = {"username": "ann", "email": "ann@example.org", "password1": PASSWORD, "password2": PASSWORD}
        assert send(ann, "/accounts/register", "/accounts/register", **fields).status_code == 303
        confirm(api, "ann@example.org")
        entered = {"username": "ann", "password": PASSWORD, "next": "/"}
        assert send(ann, "/accounts/login", "/accounts/login", **entered).headers["location"] == "/"
        assert "No orders yet." in ann.get("/").text
        assert send(ann, "/", "/orders", item="Tea", quantity="2", voucher="").headers["location"] == "/"
        assert "Tea" in ann.get("/").text
        response = send(ann, "/", "/orders", item="Tea", quantity="100", voucher="")
        assert response.status_code == 422
        assert "quantity: Input should be less than or equal to 99" in response.text
        assert send(ann, "/", "/orders/1/cancel").status_code == 303
        assert "No orders yet." in ann.get("/").text
        before = dict(ann.cookies)
        assert send(ann, "/", "/accounts/logout").status_code == 303
        assert ann.get("/").status_code == 303
        assert httpx.get(f"{api.url}/api/me", cookies=before).status_code == 401


@any_database
def test_htmx_gets_the_list_and_sentences(api: Server) -> None:
    with admin(api) as client:
        client.headers.update({"hx-request": "true", "hx-current-url": f"{api.url}/"})
        changed = client.post("/orders", data={"item": "Tea", "quantity": "2", "voucher": ""})
        assert changed.status_code == 200
        assert changed.text.lstrip().startswith("<section")
        assert "<bdi>Tea</bdi>" in changed.text
        invalid = client.post("/orders", data={"item": "", "quantity": "2"})
        assert (invalid.status_code, invalid.text[:9]) == (422, "<p>item: ")
        client.post("/accounts/logout", json={})
        ended = client.post("/orders", data={"item": "Tea"})
        assert (ended.status_code, ended.headers["hx-redirect"]) == (401, "/accounts/login?next=%2F")


@any_database
def test_a_refused_program_gets_a_problem(api: Server) -> None:
    with program(api) as anonymous, member(api, "ann") as ann:
        assert anonymous.get("/accounts/session").json() == {"user": None, "methods": [], "level": 0, "pending": None}
        refused = anonymous.get("/api/orders")
        assert is_problem(refused, 401, "not_authenticated")
        assert refused.json()["login"] == "/accounts/login"
        assert refused.headers["www-authenticate"] == 'Bearer realm="Shop"'
        assert is_problem(anonymous.post("/api/orders", content=b"{"), 401, "not_authenticated")
        assert is_problem(ann.post("/api/customers", json={}), 403, "permission_denied")
        invalid = ann.post("/api/orders", json={**TEA, "quantity": 0, "voucher": "x"})
        assert is_problem(invalid, 422, "invalid_data")
        assert invalid.json()["detail"].startswith("quantity: Input should be greater than or equal to 1; voucher: ")
        for item in ("", " ", "a\x00b", "x" * 101, "\ud800"):
            content = json.dumps({"item": item})
            assert is_problem(ann.post("/api/orders", content=content), 422, "invalid_data"), repr(item)
        assert is_problem(ann.get("/nowhere"), 404, "not_found")
        assert is_problem(ann.put("/api/me"), 405, "method_not_allowed")
        assert is_problem(
            ann.post("/api/orders", json=TEA, headers={"origin": "http://evil.example"}), 403, "csrf_failed"
        )
        assert ann.post("/accounts/logout", json={}).json() == {"next": "/accounts/logged_out"}
        assert is_problem(ann.get("/api/me"), 401, "not_authenticated")


@any_database
def test_a_script_orders_with_a_token_until_its_owner_revokes_it(api: Server) -> None:
    with member(api, "ann") as ann, program(api) as script:
        assert 'href="/accounts/tokens"' in ann.get("/", headers=PAGE).text
        created = ann.post("/accounts/tokens", json={"name": "script", "expires": "7"}).json()
        script.headers.update({"authorization": f"Bearer {created['token']}"})
        del script.headers["origin"]
        assert script.post("/api/orders", json=TEA).status_code == 201
        assert script.get("/api/orders").json() == ann.get("/api/orders").json() != []
        assert is_problem(script.post("/api/customers", json={}), 403, "permission_denied")
        assert is_problem(script.delete("/api/me"), 401, "login_too_old")
        assert is_problem(script.post("/accounts/tokens", json={"name": "more"}), 403, "token_refused")
        listed = ann.get("/accounts/tokens", headers={"accept": "application/json"}).json()["tokens"]
        assert [token["last_address"] for token in listed] == ["127.0.0.1"]
        assert ann.delete(f"/accounts/tokens/{created['id']}").status_code == 204
        assert is_problem(script.get("/api/orders"), 401, "not_authenticated")
    assert created["token"] not in api.output


@any_database
def test_a_command_line_is_admitted_with_a_code_and_revoked(api: Server, tmp_path: Path) -> None:
    shell = CommandLine(api.url, tmp_path / "home")
    with member(api, "ann") as ann:
        assert 'href="/accounts/device"' in ann.get("/", headers=PAGE).text
        with shell.start("login") as login:
            page, code = code_of(login)
            asked = ann.post(page, json={"user_code": code}).json()
            assert (asked["client"], asked["address"]) == ("Shop for the command line", "127.0.0.1")
            assert ann.post(page, json={"request": asked["request"], "decision": "approve"}).status_code == 200
            assert end_of(login) == (0, "Logged in.\n", "")
        assert json.loads(shell.run("me").output)["username"] == "ann"
        (token,) = ann.get("/accounts/tokens", headers={"accept": "application/json"}).json()["tokens"]
        assert ann.delete(f"/accounts/tokens/{token['id']}").status_code == 204
        assert shell.run("me").errors.startswith("401: ")


@any_database
def test_a_native_app_orders_without_cookies(api: Server) -> None:
    with httpx.Client(base_url=api.url, timeout=30) as app:
        entered = {"username": "admin", "password": api.password, "client": "app"}
        app.headers["authorization"] = f"Bearer {app.post('/accounts/login', json=entered).json()['token']}"
        assert app.post("/api/orders", json=TEA).status_code == 201
        assert app.post("/accounts/logout", json={}).status_code == 200
        assert is_problem(app.get("/api/orders"), 401, "not_authenticated")
        assert not app.cookies


@any_database
def test_an_anonymous_client_is_refused_before_it_sends_a_body(api: Server) -> None:
    with socket.create_connection(("127.0.0.1", httpx.URL(api.url).port or 0), timeout=20) as connection:
        head = (
            "POST /api/orders HTTP/1.1",
            "Host: 127.0.0.1",
            "Content-Type: application/json",
            "Content-Length: 9000000",
        )
        connection.sendall("\r\n".join([*head, "", ""]).encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 401 ")


@any_database
def test_the_schema_is_valid_and_complete(api: Server) -> None:
    assert httpx.get(f"{api.url}/docs").status_code == 200
    schema: Any = httpx.get(f"{api.url}/openapi.json").json()
    validate(schema)
    paths = schema["paths"]
    assert {path for path in paths if not path.startswith(("/accounts", "/api"))} == set()
    assert {"/api/orders", "/api/me", "/api/customers", "/accounts/login", "/accounts/register"} <= set(paths)
    assert paths["/api/customers"]["post"]["security"] == [
        {"session": ["shop.add_order"]},
        {"token": ["shop.add_order"]},
        {"app_session": ["shop.add_order"]},
    ]
    assert paths["/api/me"]["delete"]["security"] == [{"session": []}, {"app_session": []}]
    assert {"/accounts/device", "/accounts/device/code", "/accounts/device/token"} <= set(paths)
    assert {"get", "post"} == set(paths["/accounts/tokens"])
    for item in (item for path, item in paths.items() if path.startswith("/api")):
        for operation in item.values():
            assert {"401", "403"} <= set(operation["responses"])
            invalid = operation["responses"]["422"]["content"]
            assert invalid == {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}


@any_database
def test_a_restart_keeps_everything(start_api: Start) -> None:
    first = start_api()
    with admin(first) as client:
        client.post("/api/orders", json=TEA)
        cookies = dict(client.cookies)
    assert re.search(r"Log in at http://localhost:\d+\n  username: admin\n", first.output)
    first.stop()
    second = start_api()
    assert "password:" not in second.output
    assert len(httpx.get(f"{second.url}/api/orders", cookies=cookies).json()) == 1
