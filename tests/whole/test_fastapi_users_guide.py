"""Runs the guide for users of fastapi-users, on a database with the tables and hashes of fastapi-users.

The database adapter of fastapi-users needs SQLAlchemy 2.0, so the test extra has no fastapi-users. Where it is installed,
one more test fills the database with it.
"""

import contextlib
import re
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import bcrypt
import httpx
import pytest
from argon2 import PasswordHasher

from ..support.server import PRINTED
from .test_guides import Folder, blocks_of

pytestmark = pytest.mark.long

GUIDE = "fastapi-users.md"
NEW_PASSWORD = "seven quiet otters"
SCHEMA = """
CREATE TABLE user (
    city VARCHAR(100) NOT NULL, id CHAR(36) NOT NULL, email VARCHAR(320) NOT NULL,
    hashed_password VARCHAR(1024) NOT NULL, is_active BOOLEAN NOT NULL, is_superuser BOOLEAN NOT NULL,
    is_verified BOOLEAN NOT NULL, PRIMARY KEY (id)
);
CREATE UNIQUE INDEX ix_user_email ON user (email);
CREATE TABLE accesstoken (
    user_id CHAR(36) NOT NULL, token VARCHAR(43) NOT NULL, created_at TIMESTAMP NOT NULL, PRIMARY KEY (token),
    FOREIGN KEY(user_id) REFERENCES user (id) ON DELETE cascade
);
CREATE INDEX ix_accesstoken_created_at ON accesstoken (created_at);
CREATE TABLE orders (
    id INTEGER NOT NULL, user_id CHAR(36) NOT NULL, item VARCHAR(100) NOT NULL, PRIMARY KEY (id),
    FOREIGN KEY(user_id) REFERENCES user (id)
);
CREATE INDEX ix_orders_user_id ON orders (user_id);
"""
#: Name, is_active, is_superuser, is_verified, city.
USERS = (
    ("ann", 1, 0, 1, "Rome"),
    ("root", 1, 1, 1, ""),
    ("new", 1, 0, 0, ""),
    ("gone", 0, 0, 1, ""),
    ("bea", 1, 0, 1, ""),
)
ORDERS = (("ann", "Tea"), ("ann", "Bread"), ("bea", "Salt"))
REAL_APPLICATION = """
import asyncio
import uuid

import bcrypt
import sqlalchemy as sa
from fastapi_users import BaseUserManager, UUIDIDMixin, schemas
from fastapi_users.db import SQLAlchemyBaseUserTableUUID, SQLAlchemyUserDatabase
from fastapi_users_db_sqlalchemy.access_token import SQLAlchemyBaseAccessTokenTableUUID
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

class Base(DeclarativeBase):
    pass

class User(SQLAlchemyBaseUserTableUUID, Base):
    city: Mapped[str] = mapped_column(sa.String(100), default="")

class AccessToken(SQLAlchemyBaseAccessTokenTableUUID, Base):
    pass

class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[uuid.UUID] = mapped_column(sa.ForeignKey("user.id"), index=True)
    item: Mapped[str] = mapped_column(sa.String(100))

class UserCreate(schemas.BaseUserCreate):
    city: str = ""

class Manager(UUIDIDMixin, BaseUserManager[User, uuid.UUID]):
    pass

async def main():
    engine = create_async_engine("sqlite+aiosqlite:///shop.sqlite3")
    async with engine.begin() as connection:
        await connection.run_sync(Base.metadata.create_all)
    async with async_sessionmaker(engine, expire_on_commit=False)() as session:
        manager = Manager(SQLAlchemyUserDatabase(session, User))

        async def create(name, **fields):
            data = UserCreate(email=f"{name}@example.org", password=f"old {name}", **fields)
            return await manager.create(data, safe=False)

        ann = await create("ann", is_verified=True, city="Rome")
        session.add_all([Order(user_id=ann.id, item=item) for item in ("Tea", "Bread")])
        await create("root", is_verified=True, is_superuser=True)
        await create("new")
        await create("gone", is_verified=True, is_active=False)
        bea = await create("bea", is_verified=True)
        session.add(Order(user_id=bea.id, item="Salt"))
        bea.hashed_password = bcrypt.hashpw(b"old bea", bcrypt.gensalt(4)).decode()  # of an older fastapi-users
        session.add(AccessToken(token="x" * 43, user_id=ann.id))
        await session.commit()
    await engine.dispose()

asyncio.run(main())
"""
# What the guide tells the reader to write into env.py, and what Alembic's own template contains.
ENV = """
from alembic import context
from sqlalchemy import create_engine

from shop import Base, auth

with create_engine("sqlite:///shop.sqlite3").connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata)
    with context.begin_transaction():
        context.run_migrations()
"""


def fill(file: Path) -> None:
    """Creates the tables of fastapi-users, with the rows that it would write."""
    with contextlib.closing(sqlite3.connect(file)) as database:
        database.executescript(SCHEMA)
        keys = {name: str(uuid.uuid4()) for name, *_ in USERS}
        for name, active, superuser, verified, city in USERS:
            password = f"old {name}"
            encoded = PasswordHasher().hash(password)
            if name == "bea":  # registered with an older version
                encoded = bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()
            row = (city, keys[name], f"{name}@example.org", encoded, active, superuser, verified)
            database.execute("INSERT INTO user VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        database.execute("INSERT INTO accesstoken VALUES (?, ?, '2026-01-01 00:00:00')", (keys["ann"], "x" * 43))
        orders = [(keys[name], item) for name, item in ORDERS]
        database.executemany("INSERT INTO orders (user_id, item) VALUES (?, ?)", orders)
        database.commit()


class OldShop(Folder):
    """The folder of a shop that has used fastapi-users, with the files of the guide."""

    def __init__(self, path: Path, *, is_real: bool = False) -> None:
        super().__init__(path, GUIDE)
        self.file = path / "shop.sqlite3"
        self.environment["BASE_URL"] = f"http://127.0.0.1:{self.port}"
        if is_real:
            (path / "old.py").write_text(REAL_APPLICATION)
            assert self.run("python old.py") == ""
        else:
            fill(self.file)
        self.old_users = {row["email"]: row for row in self.rows("SELECT * FROM user")}

    def execute(self, query: str, *values: str) -> None:
        with contextlib.closing(sqlite3.connect(self.file)) as database:
            database.execute(query, values)
            database.commit()

    def dump(self) -> list[str]:
        with contextlib.closing(sqlite3.connect(self.file)) as database:
            return list(database.iterdump())

    def move(self) -> str:
        """Runs the commands of the guide that move the data. Returns the output of the last one."""
        commands = "".join(blocks_of(GUIDE, "sh")).splitlines()
        return [self.run(command) for command in commands if not command.startswith("pip ")][-1]

    def rows(self, query: str) -> list[dict[str, Any]]:
        with contextlib.closing(sqlite3.connect(self.file)) as database:
            database.row_factory = sqlite3.Row
            return [dict(row) for row in database.execute(query)]

    def password_of(self, email: str) -> str:
        row = next(row for row in self.rows("SELECT email, password FROM member") if row["email"] == email)
        return str(row["password"])

    def check_moved(self) -> None:
        """Checks that users have their keys and hashes, and orders the users that they had."""
        for row in (members := self.rows("SELECT * FROM member")):
            old = self.old_users[row["email"]]
            assert uuid.UUID(row["id"]) == uuid.UUID(old["id"])
            assert row["password"] == old["hashed_password"]
            for name in ("is_active", "is_superuser", "is_verified", "city"):
                assert row[name] == old[name]
        assert len(members) == 5
        orders = self.rows("SELECT email, item FROM orders JOIN member ON member.id = user_id ORDER BY orders.id")
        assert [tuple(row.values()) for row in orders] == [
            ("ann@example.org", "Tea"),
            ("ann@example.org", "Bread"),
            ("bea@example.org", "Salt"),
        ]
        assert [row["table"] for row in self.rows("PRAGMA foreign_key_list(orders)")] == ["member"]
        assert self.rows("PRAGMA foreign_key_check") == []
        index = self.rows("SELECT sql FROM sqlite_master WHERE name = 'ix_orders_user_id'")
        assert index == [{"sql": "CREATE INDEX ix_orders_user_id ON orders (user_id)"}]


@pytest.fixture
def shop(tmp_path: Path) -> OldShop:
    return OldShop(tmp_path)


@pytest.fixture
def moved(shop: OldShop) -> OldShop:
    assert shop.move() == "Copied users: 5\n"
    return shop


@pytest.fixture
def server(moved: OldShop) -> Iterator["subprocess.Popen[bytes]"]:
    server = moved.serve()
    try:
        yield server
    finally:
        server.terminate()
        server.wait(20)
        assert "Traceback" not in (moved.path / "log").read_text()


@contextlib.contextmanager
def visitor(shop: OldShop) -> Iterator[httpx.Client]:
    url = f"http://127.0.0.1:{shop.port}"
    with httpx.Client(base_url=url, headers={"origin": url}, timeout=30) as client:
        yield client


def log_in(client: httpx.Client, name: str, password: str) -> int:
    data = {"username": f"{name}@example.org", "password": password}
    return client.post("/accounts/login", json=data).status_code


def mailed_text(shop: OldShop, address: str) -> str:
    """Waits for the mail to an address, which ConsoleMailer prints, and returns its text."""
    log = shop.path / "log"
    for _ in range(100):
        for to, _, text in PRINTED.findall(log.read_text()):
            if to == address:
                return str(text)
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def mailed_link(shop: OldShop, address: str) -> str:
    match = re.search(r"http://\S+", text := mailed_text(shop, address))
    assert match is not None, text
    return match[0]


def test_the_data_is_moved_once_and_a_second_run_changes_nothing(moved: OldShop) -> None:
    moved.check_moved()
    before = moved.dump()
    assert moved.run("python move.py") == "Copied users: 0\n"
    assert moved.dump() == before


def test_users_who_registered_since_the_first_run_are_copied_by_the_second(moved: OldShop) -> None:
    key = uuid.uuid4()
    values = ("Oslo", str(key), "eve@example.org", "$2b$04$" + "a" * 53)
    moved.execute("INSERT INTO user VALUES (?, ?, ?, ?, 1, 0, 1)", *values)
    assert moved.run("python move.py") == "Copied users: 1\n"
    assert moved.rows("SELECT id, city FROM member WHERE city = 'Oslo'") == [{"id": key.hex, "city": "Oslo"}]


def test_before_the_tables_exist_the_move_names_the_command_to_run_first(shop: OldShop) -> None:
    assert shop.run("python move.py") == ("There is no table `member`. Run: starlette-auth --app shop:auth migrate\n")


def test_an_application_without_own_columns_deletes_the_marked_lines(tmp_path: Path) -> None:
    shop = OldShop(tmp_path)
    shop.execute("ALTER TABLE user DROP COLUMN city")
    for file in tmp_path.glob("*.py"):
        lines = file.read_text().splitlines(keepends=True)
        file.write_text("".join(line for line in lines if "# own column" not in line))
        assert "city" not in file.read_text()
    assert shop.move() == "Copied users: 5\n"
    server = shop.serve()
    try:
        with visitor(shop) as ann:
            assert log_in(ann, "ann", "old ann") == 200
            assert ann.get("/me").json()["email"] == "ann@example.org"
    finally:
        server.terminate()
        server.wait(20)


def test_two_addresses_that_differ_in_case_stop_the_copy(shop: OldShop) -> None:
    shop.execute("UPDATE user SET email = 'ANN@example.org' WHERE email = 'gone@example.org'")
    assert "IntegrityError" in shop.move()
    assert shop.rows("SELECT * FROM member") == []
    assert [row["table"] for row in shop.rows("PRAGMA foreign_key_list(orders)")] == ["user"]


def test_fastapi_users_itself_writes_such_a_database(tmp_path: Path) -> None:
    pytest.importorskip("fastapi_users_db_sqlalchemy")
    folders = [tmp_path / "real", tmp_path / "documented"]
    for folder in folders:
        folder.mkdir()
    real, documented = OldShop(folders[0], is_real=True), OldShop(folders[1])
    for table in ("user", "accesstoken", "orders"):
        for query in (f"PRAGMA table_info({table})", f"PRAGMA foreign_key_list({table})"):
            columns, expected = ([str(row).upper() for row in shop.rows(query)] for shop in (real, documented))
            assert columns == expected
    for email, row in real.old_users.items():
        expected_row = documented.old_users[email]
        assert row["hashed_password"].split("$")[1:4] == expected_row["hashed_password"].split("$")[1:4] or (
            "bea" in email and row["hashed_password"].startswith("$2b$04$")
        )
        assert {**row, "id": "", "hashed_password": ""} == {**expected_row, "id": "", "hashed_password": ""}
    assert real.move() == "Copied users: 5\n"
    real.check_moved()
    server = real.serve()
    try:
        for name, status in {"ann": 200, "root": 200, "new": 200, "bea": 200, "gone": 422}.items():
            with visitor(real) as client:
                assert log_in(client, name, f"old {name}") == status
    finally:
        server.terminate()
        server.wait(20)


def test_old_passwords_and_rights_count_in_the_new_application(
    moved: OldShop, server: "subprocess.Popen[bytes]"
) -> None:
    with visitor(moved) as ann:
        assert log_in(ann, "ann", "old bea") == 422
        assert log_in(ann, "ann", "old ann") == 200
        key = str(uuid.UUID(moved.old_users["ann@example.org"]["id"]))
        expected = {"id": key, "email": "ann@example.org", "city": "Rome", "is_verified": True}
        assert ann.get("/me").json() == expected
        assert ann.post("/orders?item=Milk").status_code == 201
        assert ann.post("/customers?email=x@example.org&item=Tea").status_code == 403
    with visitor(moved) as bea:
        assert log_in(bea, "bea", "old bea") == 200
        assert bea.post("/orders?item=Milk").status_code == 201
    for name in ("ann", "bea"):
        assert moved.password_of(f"{name}@example.org").startswith("argon2$argon2id$"), "the login replaced the hash"
    with visitor(moved) as root:
        assert log_in(root, "root", "old root") == 200
        assert root.post("/customers?email=x@example.org&item=Tea").status_code == 201
        for address in ("x@example.org", "ANN@example.org", "not an address", "", f"{'x' * 300}@example.org"):
            params = {"email": address, "item": "Tea"}
            assert root.post("/customers", params=params).status_code == 422
    with visitor(moved) as gone:
        assert log_in(gone, "gone", "old gone") == 422
        assert gone.get("/me").status_code == 401
    items = moved.rows("SELECT item FROM orders ORDER BY id")
    assert [row["item"] for row in items] == ["Tea", "Bread", "Salt", "Milk", "Milk", "Tea"]


def test_the_first_login_sends_no_mail_and_a_second_browser_sends_one(
    moved: OldShop, server: "subprocess.Popen[bytes]"
) -> None:
    log = moved.path / "log"
    for name in ("bea", "root", "ann", "ann"):
        with visitor(moved) as client:
            assert log_in(client, name, f"old {name}") == 200
    assert mailed_text(moved, "ann@example.org").count("from a device that we have not seen before") == 1
    assert [to for to, *_ in PRINTED.findall(log.read_text())] == ["ann@example.org"]


def test_inactive_users_are_told_nothing_until_they_register_again(
    moved: OldShop, server: "subprocess.Popen[bytes]"
) -> None:
    with visitor(moved) as gone:
        entered = {"username": "gone@example.org", "password": "old gone"}
        right = gone.post("/accounts/login", json=entered).json()
        assert right == gone.post("/accounts/login", json={**entered, "password": "wrong"}).json()
        assert gone.post("/accounts/password_reset", json={"email": "gone@example.org"}).status_code == 200
        data = {"email": "gone@example.org", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
        assert gone.post("/accounts/register", json=data).status_code == 200
    assert "You have an account already" in mailed_text(moved, "gone@example.org")
    assert len(PRINTED.findall((moved.path / "log").read_text())) == 1


def test_the_frontend_meets_what_the_guide_says(moved: OldShop, server: "subprocess.Popen[bytes]") -> None:
    with visitor(moved) as ann:
        entered = {"username": "ann@example.org", "password": "old ann"}
        assert ann.post("/accounts/login", data=entered).status_code == 415
        wrong = ann.post("/accounts/login", json={**entered, "password": "old"})
        assert wrong.status_code == 422
        ((error,),) = wrong.json()["errors"].values()
        assert {"code", "message"} <= set(error)
        for remember in (False, True):
            response = ann.post("/accounts/login", json={**entered, "remember": remember})
            (cookie,) = (
                item for item in response.headers.get_list("set-cookie") if "session" in item.partition("=")[0]
            )
            assert ("max-age" in cookie.lower()) is remember, cookie
        change = {"old_password": "old ann", "new_password1": "x1y2z3w4v5u6t7", "new_password2": "x1y2z3w4v5u6t7"}
        short = ann.post("/accounts/password_change", json=change)
        assert (short.status_code, list(short.json()["errors"])) == (422, ["new_password1"])
        del ann.headers["origin"]
        refused = ann.post("/orders?item=Tea")
        assert (refused.status_code, refused.json()["code"]) == (403, "csrf_failed")
        assert ann.get("/me", headers={"authorization": "Bearer x.y.z"}).status_code == 200
        ann.headers["origin"] = f"http://127.0.0.1:{moved.port}"
        cookies = dict(ann.cookies)
        assert ann.post("/accounts/logout", json={}).status_code == 200
        ann.cookies.update(cookies)
        assert ann.get("/me").status_code == 401


def test_a_user_who_was_not_verified_is_after_a_reset_by_mail(
    moved: OldShop, server: "subprocess.Popen[bytes]"
) -> None:
    with visitor(moved) as new:
        assert log_in(new, "new", "old new") == 200
        assert new.get("/me").json()["is_verified"] is False
        assert new.post("/orders?item=Milk").status_code == 403
        assert new.post("/accounts/password_reset", json={"email": "new@example.org"}).status_code == 200
    path = httpx.URL(mailed_link(moved, "new@example.org")).path
    with visitor(moved) as new:
        page = new.get(path)
        assert (page.status_code, page.headers["referrer-policy"]) == (200, "no-referrer")
        data = dict.fromkeys(("new_password1", "new_password2"), NEW_PASSWORD)
        response = new.post(path.replace("/app/", "/accounts/"), json=data)
        assert response.status_code == 200, response.text
        assert log_in(new, "new", NEW_PASSWORD) == 200
        assert new.get("/me").json()["is_verified"] is True
        assert new.post("/orders?item=Milk").status_code == 201


def test_a_new_user_registers_and_is_verified(moved: OldShop, server: "subprocess.Popen[bytes]") -> None:
    with visitor(moved) as eve:
        data = {"email": "eve@example.org", "password1": NEW_PASSWORD, "password2": NEW_PASSWORD}
        assert eve.post("/accounts/register", json=data).status_code == 200
        token = mailed_link(moved, "eve@example.org").rpartition("/")[2]
        response = eve.post(f"/accounts/register/confirm/{token}", json={"password": NEW_PASSWORD})
        assert response.status_code == 200, response.text
        assert log_in(eve, "eve", NEW_PASSWORD) == 200
        assert eve.get("/me").json()["is_verified"] is True


def test_the_test_of_the_guide_passes(moved: OldShop) -> None:
    output = moved.run(f"{sys.executable} -m pytest -q -p no:cacheprovider --rootdir . test_app.py")
    assert "1 passed" in output, output


def test_a_revision_of_alembic_moves_the_data(shop: OldShop) -> None:
    shop.run("alembic init alembic")
    (shop.path / "alembic" / "env.py").write_text(ENV)
    shop.run("alembic revision --autogenerate -m users")
    (revision,) = (shop.path / "alembic" / "versions").glob("*.py")
    before, upgrade, after = re.split(
        r"(?s)(?<=def upgrade\(\) -> None:\n)(.*?)(?=def downgrade)", revision.read_text(), maxsplit=1
    )
    # "From upgrade() delete all that concerns the tables that existed": what creates new tables remains.
    kept = re.findall(r"(?ms)^    op\.create_(?:table|index)\(.*?\)\n(?=    (?:op|#)|\n)", upgrade)
    block = next(block for block in blocks_of(GUIDE, "python") if block.startswith("# in the revision"))
    lines = ["    " + line for line in block.splitlines()]
    revision.write_text(before + "".join(kept) + "\n".join(lines) + "\n\n\n" + after)
    output = shop.run("alembic upgrade head && starlette-auth --app shop:auth migrate && alembic check")
    assert "No new upgrade operations detected." in output, output
    shop.check_moved()
    tables = {row["name"] for row in shop.rows("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert {"member", "orders"} <= tables
    assert not {"user", "accesstoken"} & tables
    assert "Traceback" not in shop.run("starlette-auth --app shop:auth check")
