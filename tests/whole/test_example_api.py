"""Tests of the FastAPI example, which runs in a separate process: `python -m example_app.api`."""

import contextlib
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import validate

from ..conftest import any_database, token_in
from ..support.server import Server, environment, free_port

Start = Callable[[], Server]
PASSWORD = "seven quiet otters"
PAGE = {"accept": "text/html", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
TEA = {"item": "Tea", "quantity": 2}


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
        assert anonymous.get("/accounts/session").json() == {"user": None}
        refused = anonymous.get("/api/orders")
        assert is_problem(refused, 401, "not_authenticated")
        assert refused.json()["login"] == "/accounts/login"
        assert refused.headers["www-authenticate"].startswith("Cookie")
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
    assert paths["/api/customers"]["post"]["security"] == [{"session": ["shop.add_order"]}]
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
    assert re.search(r"Log in at http://127\.0\.0\.1:\d+\n  username: admin\n", first.output)
    first.stop()
    second = start_api()
    assert "password:" not in second.output
    assert len(httpx.get(f"{second.url}/api/orders", cookies=cookies).json()) == 1
