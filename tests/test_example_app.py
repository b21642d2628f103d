"""The example application, started as a stranger starts it."""

import os
import re
import socket
import stat
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from .conftest import token_in
from .server import Server, Start, environment, free_port

FRIEND = {"username": "ben", "password": "seven quiet otters"}


def browser(server: Server) -> httpx.Client:
    return httpx.Client(base_url=server.url, timeout=30)


def send(client: httpx.Client, page: str, action: str, **fields: str) -> httpx.Response:
    """Fills in a form of a page, as a visitor does."""
    token = token_in(client.get(page).text)
    return client.post(action, data={**fields, "csrfmiddlewaretoken": token})


def log_in(client: httpx.Client, username: str, password: str) -> None:
    answer = send(client, "/accounts/login", "/accounts/login", username=username, password=password)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_from_the_first_start_to_the_second(start: Start, tmp_path: Path) -> None:
    server = start()
    with browser(server) as admin, browser(server) as friend:
        assert "No notes yet." in admin.get("/").text
        assert admin.get("/me").headers["location"] == "/accounts/login?next=%2Fme"
        log_in(admin, "admin", server.password)
        seen = admin.get("/api/me").json()
        assert (seen["is_authenticated"], seen["username"], seen["session"]) == (True, "admin", {})
        assert {"notes.add_note", "notes.delete_note"} <= set(seen["permissions"])
        assert "_auth_user_hash" in admin.get("/me").text

        assert send(admin, "/staff", "/staff/users", **FRIEND).status_code == 303
        log_in(friend, **FRIEND)
        assert friend.get("/staff").status_code == 403
        assert send(friend, "/me", "/notes", text="Not yet").status_code == 403

        found = re.search(r'name="user" value="(\d+)">\s*<input type="hidden" name="wish" value="add">', _of_ben(admin))
        assert found
        assert send(admin, "/staff", "/staff/writers", user=found[1], wish="add").status_code == 303
        assert send(friend, "/", "/notes", text="Otters hold hands").status_code == 303
        assert "Otters hold hands" in httpx.get(server.url).text
        assert send(friend, "/", "/notes/1/delete").status_code == 403
        assert send(admin, "/staff", "/staff/writers", user=found[1], wish="remove").status_code == 303
        assert send(friend, "/me", "/notes", text="Not any more").status_code == 403

        assert send(admin, "/", "/notes/1/delete").status_code == 303
        assert "Otters" not in admin.get("/").text
        before = dict(admin.cookies)
        assert send(admin, "/", "/accounts/logout").status_code == 303
        assert admin.get("/api/me").json()["is_authenticated"] is False
        assert httpx.get(f"{server.url}/api/me", cookies=before).json()["is_authenticated"] is False
        old = dict(friend.cookies)
    server.stop()

    again = start()
    assert "password:" not in again.output
    assert httpx.get(f"{again.url}/api/me", cookies=old).json()["username"] == "ben"
    assert stat.S_IMODE((tmp_path / ".example_secret_key").stat().st_mode) == 0o600


def _of_ben(admin: httpx.Client) -> str:
    return admin.get("/staff").text.partition("<strong>ben</strong>")[2]


def test_what_cannot_be_kept_is_refused_with_a_reason(start: Start) -> None:
    server = start(SESSION_STORE="memory", SECRET_KEY="a new key that is quite long enough,an old one")
    with browser(server) as admin:
        log_in(admin, "admin", server.password)
        for text in ("", "   ", "x" * 501, "a\x00b"):
            answer = send(admin, "/", "/notes", text=text)
            assert (answer.status_code, 'role="alert"' in answer.text) == (422, True)
        assert send(admin, "/", "/notes", text="\r\n".join("é" * 250)).status_code == 303
        assert send(admin, "/", "/notes", text="\r\n".join("é" * 251)).status_code == 422
        assert send(admin, "/", "/notes", text="x" * 100_000).status_code == 413
        for fields in (FRIEND | {"username": "admin"}, FRIEND | {"password": "short"}, FRIEND | {"username": "a\x00b"}):
            assert send(admin, "/staff", "/staff/users", **fields).status_code == 422
        answer = send(admin, "/staff", "/staff/users", **FRIEND | {"password": "short"})
        assert answer.text.lower().count("at least 15 characters") == 1
        assert send(admin, "/staff", "/staff/writers", user="999", wish="add").status_code == 404
        assert send(admin, "/staff", "/staff/writers", user="1", wish="?").status_code == 400
        for note in ("0", "9" * 12, "9" * 5000, "x", "%00", "²"):
            assert send(admin, "/", f"/notes/{note}/delete").status_code in (303, 404)
        assert admin.post("/notes", data={"text": "no token"}).status_code == 403


@pytest.mark.parametrize("store", ["database", "cookie", "memory"])
def test_a_session_takes_json_objects_and_nothing_else(start: Start, store: str) -> None:
    url = start(SESSION_STORE=store).url
    kept = httpx.post(f"{url}/api/session", json={"cart": [1, {"é": None}], "": 1.5})
    assert kept.json() == {"session": {"cart": [1, {"é": None}], "": 1.5}}
    assert httpx.get(f"{url}/api/me", cookies=dict(kept.cookies)).json() == {
        "is_authenticated": False,
        "username": "",
        "permissions": [],
        "session": {"cart": [1, {"é": None}], "": 1.5},
    }
    refused = [
        b"",
        b"{",
        b"[]",
        b"1",
        b"null",
        b"\xff\xfe{\x00}\x00",
        b'{"_auth_user_id": "1"}',
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": -Infinity}',
        b'{"a": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"a": ' + b"9" * 5000 + b"}",
        b'{"a": ' + b"[" * 30 + b"]" * 30 + b"}",
        b"[" * 60_000,
        b'{"a":' * 10_000,
    ]
    for body in refused:
        answer = httpx.post(f"{url}/api/session", content=body)
        assert (answer.status_code, list(answer.json())) == (400, ["detail"]), body[:40]
    assert httpx.post(f"{url}/api/session", content=b" " * 70_000).status_code == 413
    assert httpx.post(f"{url}/api/session", content=iter([b" " * 40_000] * 2)).status_code == 413
    assert httpx.post(f"{url}/api/session", json={"a": "x" * 65_530}).status_code == 413
    longest = httpx.post(f"{url}/api/session", json={"a": os.urandom(980).hex()})
    assert longest.status_code == 200


def test_errors_are_pages_for_people_and_json_for_programs(start: Start) -> None:
    url = start().url
    page = httpx.get(f"{url}/nothing")
    assert (page.status_code, "There is nothing here" in page.text) == (404, True)
    assert httpx.get(f"{url}/api/nothing").json() == {"detail": "Not Found"}
    assert httpx.get(f"{url}/static/nothing").status_code == 404
    assert httpx.get(f"{url}/static/%00").status_code == 404
    page = httpx.get(f"{url}/notes")
    assert (page.status_code, "This page only accepts forms" in page.text) == (405, True)
    assert httpx.get(f"{url}/me/", headers={"host": "[::"}).status_code < 500
    assert "vary" not in httpx.get(f"{url}/static/style.css").headers


def test_several_that_start_at_once_make_one_admin(tmp_path: Path) -> None:
    servers = [Server(tmp_path, port, environment(PORT=str(port))) for port in (free_port(), free_port(), free_port())]
    try:
        told = [server.wait().output.count("password:") for server in servers]
    finally:
        for server in servers:
            server.stop()
    assert sum(told) == 1


def test_a_port_that_is_taken_is_found_out_before_anything_is_made(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run(tmp_path, PORT=str(port))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert str(port) in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "variables",
    [
        {"SESSION_STORE": "redis"},
        {"SESSION_STORE": "cached"},
        {"SESSION_STORE": "disk"},
        {"DJANGO": "1"},
        {"PORT": "eighty"},
        {"PORT": "70000"},
        {"PORT": "-1"},
        {"DATABASE_URL": "oracle://nobody:secret@host/name"},
        {"DATABASE_URL": "?"},
        {"DATABASE_URL": "sqlite+aiosqlite:///:memory:"},
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_refused_in_one_line(tmp_path: Path, variables: dict[str, str]) -> None:
    done = run(tmp_path, **{"PORT": "0", **variables})
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1), done.stderr
    assert "secret" not in done.stderr
    assert done.stderr.endswith(".\n")


def run(folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "example_app"],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
