"""Tests of `check-django` and `import-django` on databases of a real Django, and of malformed signed values."""

import asyncio
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from databases import Database
from itsdangerous import BadData
from itsdangerous.encoding import base64_encode

from starlette_auth import Auth, DjangoProject, PBKDF2PasswordHasher, SessionTooLarge, migrate
from starlette_auth.cli.main import main
from starlette_auth.database.gateways import gateway_of
from starlette_auth.database.tables import Tables
from starlette_auth.django.importing import UserImport
from starlette_auth.django.sessions import SALT, new_django_key
from starlette_auth.django.signing import LIMIT, DjangoSigner
from starlette_auth.django.survey import inspect

from ..conftest import BACKENDS, PASSWORD, connected, empty_database, name_of, post_login
from ..support.apps import make_app
from .djangos import KEY, django_on, weak_passwords

servers = pytest.mark.parametrize("server", BACKENDS, ids=name_of)
OLD_KEY = "a key that was used before the newest one"
PEOPLE = """
User.objects.bulk_create(
    User(username=f"user{n}", email=f"user{n}@example.org", password="pbkdf2_sha256$1000$salt$x") for n in range(%d)
)
"""


# check-django


@servers
def test_a_project_is_inspected_and_code_for_it_is_printed(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with django_on(server, tmp_path) as django:
        django.code(
            f'ann = User.objects.create_user("ann", password="{PASSWORD}")\n'
            'User.objects.create_user("ben")\n'
            "User.objects.create(username='cid', password='pbkdf2_sha256$1000000$salt$x')\n"
        )
        # One session under each key.
        django.code(
            "from django.conf import settings\n"
            "from django.contrib.sessions.backends.db import SessionStore\n"
            "newest = settings.SECRET_KEY\n"
            f"for settings.SECRET_KEY in (newest, {OLD_KEY!r}):\n"
            "    session = SessionStore()\n    session['a'] = 1\n    session.save()\n"
            "settings.SECRET_KEY = newest"
        )
        monkeypatch.setenv("SECRET_KEY", KEY)
        monkeypatch.setenv("SECRET_KEY_FALLBACKS", f"{OLD_KEY}\n\n")
        assert main(["check-django", "--database", django.database_url]) == 0
        output = capsys.readouterr().out
        assert "Django:    3.1 or later (its password hashes are those of 5.2)" in output
        assert "Users:     3 in auth_user, key id (" in output
        assert "1 pbkdf2_sha256, 1,000 iterations" in output
        assert "1 unusable" in output
        assert "1 by SECRET_KEY, 1 by a fallback, 0 by neither" in output
        assert "django=DjangoProject())" in output
        assert "WARNING:   Django's own login pages, the admin's too, ask for no second factor." in output
        monkeypatch.delenv("SECRET_KEY")
        monkeypatch.setenv("DATABASE_URL", django.database_url)
        assert main(["check-django"]) == 0
        assert "set SECRET_KEY to check" in capsys.readouterr().out


@servers
def test_the_code_for_a_custom_user_model_works(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with django_on(server, tmp_path, AUTH_USER_MODEL="people.Person") as django:
        django.code(f'User.objects.create_user("ann@example.org", "{PASSWORD}", phone="12")')
        assert main(["check-django", "--database", django.database_url]) == 0
        output = capsys.readouterr().out
        assert "name email" in output
        assert "additional columns: phone" in output
        code = output[output.index("user = sa.Table(") :]
        namespace: dict[str, Any] = {}
        names = {"sa": sa, "Auth": Auth, "DjangoProject": DjangoProject, "Database": Database}
        exec(code, {**names, "url": django.database_url, "SECRET_KEY": KEY, "SECRET_KEY_FALLBACKS": []}, namespace)
        auth = namespace["auth"]

        async def check_user() -> None:
            async with auth.database:
                ann = await auth.users.get_by_username("ann@example.org")
                assert await auth.users.check_password(ann, PASSWORD)
                assert await auth.users.get(str(ann.id)) == ann
                await auth.close()

        asyncio.run(check_user())


def command_output(*arguments: str, capsys: pytest.CaptureFixture[str], status: int = 1) -> str:
    assert main(list(arguments)) == status
    captured = capsys.readouterr()
    return captured.out + captured.err


def create_database(tmp_path: Path, *statements: str) -> str:
    url = f"sqlite+aiosqlite:///{tmp_path}/site.sqlite3"

    async def execute() -> None:
        async with Database(url) as database:
            for statement in statements:
                await database.execute(statement)

    asyncio.run(execute())
    return url


MIGRATED = (
    "CREATE TABLE django_migrations (id integer PRIMARY KEY, app text, name text, applied datetime)",
    "INSERT INTO django_migrations (app, name) VALUES ('auth', '0012_alter_user_first_name_max_length')",
)
USERS = "CREATE TABLE shop_client (nr integer PRIMARY KEY, password text, last_login datetime, is_superuser bool, login text)"
LINKS = (
    "CREATE TABLE shop_client_groups (id integer PRIMARY KEY, client_id integer, group_id integer)",
    "CREATE TABLE shop_client_user_permissions (id integer PRIMARY KEY, client_id integer, permission_id integer)",
)


@pytest.mark.parametrize(
    ("statements", "expected"),
    [
        ([], "Is this the database of a Django project?"),
        (MIGRATED, "There is no user table. Run `python manage.py migrate`."),
        ([*MIGRATED, USERS], "Let the model inherit from PermissionsMixin."),
        ([*MIGRATED, USERS, *LINKS], "Pass USERNAME_FIELD"),
        ([*MIGRATED, USERS.replace("last_login datetime, ", ""), *LINKS], "Pass USERNAME_FIELD"),
        (
            [
                MIGRATED[0],
                "INSERT INTO django_migrations (app, name) VALUES ('auth', '0009_alter_user_last_name_max_length')",
                USERS.replace("login text", "username text").replace("is_superuser bool", "born date"),
                *LINKS,
            ],
            "Upgrade Django",
        ),
        (
            [
                *MIGRATED,
                USERS.replace("login text", "username varchar(50)"),
                *LINKS,
                "INSERT INTO shop_client VALUES (1, 'md5$a$b', NULL, 0, 'a')",
                "INSERT INTO shop_client VALUES (2, '0123456789abcdef0123456789abcdef', NULL, 0, 'b')",
                "INSERT INTO shop_client VALUES (3, 'nonsense', NULL, 0, 'c'), (4, '', NULL, 0, 'd')",
                "INSERT INTO shop_client VALUES (5, 'pbkdf2_sha256$²$x$y', NULL, 0, 'e'), (6, 'hunter2$x', NULL, 0, 'f')",
            ],
            "1 hashes are md5, which is not supported",
        ),
    ],
)
def test_problems_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], statements: list[str], expected: str
) -> None:
    url = create_database(tmp_path, *statements)
    output = command_output("check-django", "--database", url, capsys=capsys)
    assert expected in output
    assert "Fix those listed above." in output
    assert "hunter2" not in output


def test_a_wrong_secret_key_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    text = DjangoSigner(["another"], SALT).dumps({"a": 1})
    url = create_database(
        tmp_path,
        *MIGRATED,
        USERS.replace("login text", "username text"),
        *LINKS,
        "CREATE TABLE django_session (session_key text, session_data text, expire_date datetime)",
        f"INSERT INTO django_session VALUES ('a', '{text}', '2100-01-01 00:00:00')",
    )
    monkeypatch.setenv("SECRET_KEY", KEY)
    output = command_output("check-django", "--database", url, capsys=capsys)
    assert "No session was signed with this SECRET_KEY" in output
    assert 'user_model="client"' not in output, "the table's name implies the model"
    assert "user=user" in output


def test_the_most_frequent_algorithm_is_suggested_for_new_hashes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with django_on("sqlite", tmp_path) as django:
        django.code("User.objects.create(username='a', password='argon2$argon2id$v=19$m=1,t=1,p=1$a$b')")
        assert 'password_algorithm="argon2"' in command_output(
            "check-django", "--database", django.database_url, capsys=capsys, status=0
        )


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("people (id)", "django=DjangoProject(user='people', user_model='person', version=\"4.2\"))"),
        ("shop_client (nr)", "in shop_client, key nr"),
    ],
)
def test_the_code_for_an_unusual_project(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], known: str, expected: str
) -> None:
    """Two user tables, a custom model name, and hashes of another Django version."""
    columns = (
        "id integer PRIMARY KEY, last_login datetime, is_superuser bool, username text, first_name text, last_name text, "
        "email text, is_staff bool, is_active bool, date_joined datetime, password text"
    )
    url = create_database(
        tmp_path,
        *MIGRATED,
        USERS.replace("login text", "username text"),
        *LINKS,
        f"CREATE TABLE people ({columns})",
        "CREATE TABLE people_groups (id integer PRIMARY KEY, person_id integer, group_id integer)",
        "CREATE TABLE people_user_permissions (id integer PRIMARY KEY, person_id integer, permission_id integer)",
        f"CREATE TABLE django_admin_log (id integer PRIMARY KEY, user_id integer REFERENCES {known})",
        *(f"INSERT INTO people (username, password) VALUES ('{n}', 'pbkdf2_sha256$600000$s$x')" for n in range(3)),
    )
    output = command_output("check-django", "--database", url, capsys=capsys, status=0)
    assert expected in output


@servers
def test_the_indexes_that_the_project_lacks_are_printed(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with django_on(server, tmp_path) as django:
        command = ("check-django", "--database", django.database_url)
        output = command_output(*command, capsys=capsys, status=0)
        statements = re.findall(r"CREATE INDEX .*(?=;)", output)
        assert len(statements) == (1 if server.startswith("mysql") else 2)
        assert all(" ON auth_user (" in statement for statement in statements)
        django.code(
            "from django.db import connection\n"
            f"for statement in {statements!r}:\n    connection.cursor().execute(statement)"
        )
        assert "CREATE INDEX" not in command_output(*command, capsys=capsys, status=0)


def test_a_missing_or_unsupported_database_is_an_error(capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    assert "Pass --database URL" in command_output("check-django", capsys=capsys)
    assert "is not a supported database URL" in command_output("check-django", "--database", "nonsense", capsys=capsys)


# import-django


def run_with_auth(url: str, tables: Tables | None = None) -> Callable[[Callable[[Auth], Any]], Any]:
    """Returns a function that runs a coroutine function with an Auth on this database."""

    def run(function: Callable[[Auth], Any]) -> Any:
        async def call() -> Any:
            async with connected(url) as database:
                auth = Auth(database, secret_key=KEY, tables=tables, passwords=weak_passwords(), throttling=False)
                try:
                    return await function(auth)
                finally:
                    await auth.close()

        return asyncio.run(call())

    return run


@servers
def test_users_are_copied_with_groups_permissions_and_passwords(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with django_on(server, tmp_path) as django:
        django.code(
            f"""
from django.contrib.auth.models import Group, Permission
ann = User.objects.create_user("ann", "ann@example.org", "{PASSWORD}", first_name="Änn", is_staff=True)
group = Group.objects.create(name="editors")
group.permissions.add(Permission.objects.get(codename="add_session"))
ann.groups.add(group)
ann.user_permissions.add(Permission.objects.get(codename="view_session"))
{PEOPLE % 1200}
"""
        )

        async def copy_twice() -> None:
            (tmp_path / "target").mkdir()
            async with empty_database(server, tmp_path / "target") as url:
                command = ("import-django", "--from", django.database_url, "--to", url)
                assert "Copied 1,201 users; 0 existed" in await asyncio.to_thread(
                    command_output, *command, capsys=capsys, status=0
                )
                await asyncio.to_thread(run_with_auth(url), check_copy)
                await asyncio.to_thread(run_with_auth(url), change)
                assert "Copied 0 users; 1,201 existed" in await asyncio.to_thread(
                    command_output, *command, capsys=capsys, status=0
                )
                await asyncio.to_thread(run_with_auth(url), check_changes)

        async def check_copy(auth: Auth) -> None:
            ann = await auth.users.get_by_username("ann")
            assert ann is not None
            assert (ann.first_name, ann.is_staff, ann.email) == ("Änn", True, "ann@example.org")
            assert ann.get_all_permissions() == {"sessions.add_session", "sessions.view_session"}
            assert [group.name for group in await auth.users.get_groups(ann)] == ["editors"]
            app = make_app(auth)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://testserver") as client:
                assert (await post_login(client)).status_code == 303
            # A new user gets an unused primary key.
            ben = await auth.users.create_user("ben")
            assert ben.id > 1201
            await auth.users.delete(ben)

        async def change(auth: Auth) -> None:
            ann = await auth.users.get_by_username("ann")
            assert ann is not None
            await auth.users.update(ann, first_name="Anna")
            await auth.users.remove_from_group(ann, "editors")

        async def check_changes(auth: Auth) -> None:
            """The second import has kept the changes in the target."""
            ann = await auth.users.get_by_username("ann")
            assert ann is not None
            assert ann.first_name == "Anna"
            assert await auth.users.get_groups(ann) == []

        asyncio.run(copy_twice())


UUID_APP = """
import sqlalchemy as sa
from databases import Database
from starlette_auth import Auth, Tables, user_columns

person = sa.Table(
    "person", sa.MetaData(), *user_columns(sa.Column("id", sa.Uuid, primary_key=True)), sa.Column("phone", sa.String(30))
)
auth = Auth(Database("{url}"), secret_key="{key}", tables=Tables(user=person))
"""


def test_losses_are_reported_and_nothing_is_copied(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = f"sqlite+aiosqlite:///{tmp_path}/target.sqlite3"
    with django_on("sqlite", tmp_path, AUTH_USER_MODEL="people.Person", USE_TZ=False, TIME_ZONE="Asia/Tokyo") as django:
        django.code(f'User.objects.create_user("ann@example.org", "{PASSWORD}", phone="12")')
        source = ("import-django", "--from", django.database_url, "--time-zone", "Asia/Tokyo")
        output = command_output(*source, "--to", target, capsys=capsys)
        assert "primary key has another type (char(32))" in output
        assert "Nothing was copied." in output
        app = UUID_APP.format(url=target, key=KEY)
        (tmp_path / "uuid_app.py").write_text(app.replace(', sa.Column("phone", sa.String(30))', ""))
        output = command_output(*source, "--app", "uuid_app", capsys=capsys)
        assert "1 users have a value in the column phone" in output
        (tmp_path / "uuid_app2.py").write_text(
            app.replace('"phone", sa.String(30)', '"size", sa.Integer, nullable=False').replace('"person"', '"client"')
        )
        output = command_output(*source, "--app", "uuid_app2", "--ignore", "phone", capsys=capsys)
        assert "The target's column size needs a value" in output
        (tmp_path / "uuid_app3.py").write_text(app.replace('"person"', '"member"'))
        joined = django.code("result = User.objects.get().date_joined.timestamp()")
        assert "Copied 1 users" in command_output(*source, "--app", "uuid_app3:auth", capsys=capsys, status=0)
        auth = __import__("uuid_app3").auth

        async def check_user() -> None:
            async with auth.database:
                ann = await auth.users.get_by_username("ann@example.org")
                assert (ann.email, await auth.users.check_password(ann, PASSWORD)) == ("ann@example.org", True)
                assert abs(ann.date_joined.timestamp() - joined) < 1
                row = await auth.database.fetch_one(auth.tables.user.select())
                assert row["phone"] == "12"
                await auth.close()

        asyncio.run(check_user())
        assert "no column 'nick'" in command_output(
            *source, "--app", "uuid_app3", "--username-field", "nick", capsys=capsys
        )


def test_column_defaults_are_computed_for_each_copied_user(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    source = create_database(
        tmp_path,
        *MIGRATED,
        USERS.replace("login text", "username text, born date, mark char(32), pages interval"),
        *LINKS,
        *(
            f"CREATE TABLE {name} (id integer PRIMARY KEY, {columns})"
            for name, columns in {
                "auth_group": "name text",
                "auth_permission": "content_type_id integer, codename text, name text",
                "auth_group_permissions": "group_id integer, permission_id integer",
                "django_content_type": "app_label text, model text",
            }.items()
        ),
        "INSERT INTO shop_client VALUES (1, '!', NULL, 0, 'a', '2000-01-02', '0123456789abcdef0123456789abcdef', NULL)",
        "INSERT INTO shop_client VALUES (2, 'md5$a$b', NULL, 0, 'b', NULL, NULL, NULL)",
    )
    target = f"sqlite+aiosqlite:///{tmp_path}/target.sqlite3"
    columns = (
        'sa.Column("born", sa.Date), sa.Column("mark", sa.Uuid), '
        'sa.Column("api_key", sa.String(8), default=lambda: __import__("secrets").token_hex(4), nullable=False)'
    )
    app = UUID_APP.format(url=target, key=KEY).replace('sa.Column("id", sa.Uuid, primary_key=True)', "")
    (tmp_path / "keys_app.py").write_text(app.replace('sa.Column("phone", sa.String(30))', columns))
    output = command_output("import-django", "--from", source, "--app", "keys_app", capsys=capsys, status=0)
    assert "Copied 2 users" in output
    assert "1 hashes are md5" in output
    auth = __import__("keys_app").auth

    async def check_rows() -> None:
        async with auth.database:
            rows = await auth.gateway.fetch_all(auth.tables.user.select())
            assert len({row["api_key"] for row in rows}) == 2
            assert str(rows[0]["born"]) == "2000-01-02"
            assert rows[0]["mark"].hex == "0123456789abcdef0123456789abcdef"
            await auth.close()

    asyncio.run(check_rows())
    output = command_output("check-django", "--database", source, capsys=capsys)
    assert "sa.Column('pages', sa.Text, default=" in output
    assert "sa.Column('born', sa.Date)" in output


def test_an_interrupted_import_continues_and_conflicts_are_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = f"sqlite+aiosqlite:///{tmp_path}/target.sqlite3"
    with django_on("sqlite", tmp_path) as django:
        django.code(PEOPLE % 1200)

        async def interrupt() -> None:
            def stop(done: int, number: int) -> None:
                assert (done, number) == (500, 1200)
                raise KeyboardInterrupt

            async with connected(django.database_url) as source_database, connected(target) as target_database:
                gateways = gateway_of(source_database), gateway_of(target_database)
                inspection = await inspect(gateways[0])
                assert inspection.user is not None
                await migrate(gateways[1], Tables())
                user_import = UserImport(*gateways, old=Tables.django(), new=Tables(), model=inspection.user)
                assert await user_import.find_losses() == []
                try:
                    await user_import.run(stop)
                finally:
                    for gateway in gateways:
                        await gateway.close()

        with pytest.raises(KeyboardInterrupt):
            asyncio.run(interrupt())
        command = ("import-django", "--from", django.database_url, "--to", target)
        assert "Copied 700 users; 500 existed already." in command_output(*command, capsys=capsys, status=0)
        # Other users in the source get a username or a key of the target.
        django.code(
            "User.objects.filter(username='user3').update(username='renamed')\n"
            "User.objects.filter(username='user7').delete()\n"
            "User.objects.create(username='user7')\n"
            "for n in range(100, 112): User.objects.filter(username=f'user{n}').update(username=f'else{n}')\n"
        )
        output = command_output(*command, capsys=capsys)
        assert "belongs to 'renamed' in the source, 'user3' in the target" in output
        assert "4 more such conflicts" in output
        django.code("User.objects.filter(username='user0').update(first_name='x' * 151)")
        assert "The first_name of 'user0' is longer than the 150 characters of the target." in command_output(
            *command, capsys=capsys
        )
        assert "Nothing was copied." in output


def test_shared_addresses_are_conflicts_where_users_log_in_with_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    target = f"sqlite+aiosqlite:///{tmp_path}/target.sqlite3"
    (tmp_path / "email_target.py").write_text(
        "from databases import Database\nfrom starlette_auth import Auth\n"
        f"auth = Auth(Database({target!r}), secret_key={KEY!r}, login_fields=['email'])\n"
    )
    with django_on("sqlite", tmp_path) as django:
        django.code(PEOPLE % 2 + "User.objects.create(username='ann', email='USER0@example.org')\n")
        command = ("import-django", "--from", django.database_url)
        output = command_output(*command, "--app", "email_target", capsys=capsys)
        assert "'ann' has the email address of the user with the key 1, and users of the target log in" in output
        assert "Nothing was copied." in output
        django.code("User.objects.filter(username='ann').update(email='')\nUser.objects.create(username='bob')\n")
        assert "Copied 4 users" in command_output(*command, "--app", "email_target", capsys=capsys, status=0)
        # The index in the target tells it, without the application. Users that the target has already are left alone.
        django.code(
            "User.objects.filter(username='bob').update(email='user0@example.org')\n"
            "User.objects.create(username='eve', email='User1@example.org')\n"
        )
        output = command_output(*command, "--to", target, capsys=capsys)
        assert "'eve' has the email address of the user with the key 2" in output
        assert "'bob'" not in output
        everywhere = f"sqlite+aiosqlite:///{tmp_path}/other.sqlite3"
        assert "Copied 5 users" in command_output(*command, "--to", everywhere, capsys=capsys, status=0)


def test_wrong_arguments_of_import_django_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = create_database(tmp_path, *MIGRATED)
    command = ("import-django", "--from", url)
    assert "The import needs one database to copy to" in command_output(*command, capsys=capsys)
    assert "The import needs one database" in command_output(*command, "--to", url, "--app", "a:b", capsys=capsys)
    assert "There is no user table" in command_output(*command, "--to", f"{url}2", capsys=capsys)
    create_database(tmp_path, USERS.replace("login text", "username text"), *LINKS)
    assert "are the same database" in command_output(*command, "--to", url, capsys=capsys)
    assert "cannot be loaded" in command_output(*command, "--app", "missing:auth", capsys=capsys)


def test_migrate_creates_djangos_tables(tmp_path: Path, capsys: Any) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/new.sqlite3"
    assert "created django_session" in command_output("migrate", "--django", "--database", url, capsys=capsys, status=0)
    assert (
        "all tables are up to date"
        in command_output("--django", "migrate", "--database", url, capsys=capsys, status=0).lower()
    )
    assert "No session" not in command_output("check-django", "--database", url, capsys=capsys, status=0)


# Signed values


@pytest.mark.parametrize("value", [[1], "text", None, 1], ids=str)
def test_a_signed_value_that_is_not_an_object_is_refused(value: Any) -> None:
    signer = DjangoSigner([KEY], SALT)
    with pytest.raises(BadData):
        signer.loads(signer.dumps(value))


def test_compressed_data_is_limited_in_size() -> None:
    signer = DjangoSigner([KEY], SALT)
    assert signer.loads(signer.dumps({"a": "x" * 1_000_000}))
    with pytest.raises(SessionTooLarge, match="Store less"):
        signer.dumps({"a": "x" * LIMIT})
    compressed = base64_encode(zlib.compress(b'{"a":"' + b"x" * LIMIT + b'"}')).decode()
    with pytest.raises(BadData, match="too large"):
        signer.loads(signer._signers[0].sign(f".{compressed}:1r31eq").decode())


def test_a_signed_value_that_is_not_json_is_refused() -> None:
    signer = DjangoSigner([KEY], SALT)
    for value in (b"no json", b"[" * 100_000, b"\xff"):
        with pytest.raises(BadData):
            signer.loads(signer._signers[0].sign(f"{base64_encode(value).decode()}:1r31eq").decode())


@pytest.mark.parametrize("stamp", ["-", "1r31e_", ""])
def test_a_malformed_timestamp_is_refused(stamp: str) -> None:
    signer = DjangoSigner([KEY], SALT)
    forged = signer._signers[0].sign(f"e30:{stamp}").decode()
    if not stamp:
        assert signer.loads(forged) == {}
    with pytest.raises(BadData):
        signer.loads(forged, 10)


def test_a_session_key_has_djangos_format() -> None:
    keys = {new_django_key() for _ in range(100)}
    assert len(keys) == 100
    assert all((len(key) == 32 and key.isalnum() and key.islower()) or key.isdigit() for key in keys)


def test_new_hashes_have_the_parameters_of_the_projects_version() -> None:
    def preferred(**settings: Any) -> Any:
        return DjangoProject(**settings).passwords().preferred

    assert preferred().iterations == 1_000_000
    assert preferred(version="4.2").iterations == 600_000
    assert preferred(version="6.1", password_algorithm="pbkdf2_sha1").iterations == 1_500_000
    assert preferred(version="5.0", password_algorithm="scrypt").parameters == (2**14, 8, 1)
    assert preferred(password_algorithm="scrypt").parameters == (2**14, 8, 5)
    assert preferred(password_algorithm="argon2").encode("a").startswith("argon2$argon2id$v=19$m=102400,t=2,p=8$")
    assert isinstance(preferred(), PBKDF2PasswordHasher)
