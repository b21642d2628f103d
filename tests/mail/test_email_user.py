"""Mails to users from application code, mails without HTML, and what the log says of a mail that fails."""

import asyncio
import logging
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from starlette.applications import Starlette
from starlette.routing import Mount

from starlette_auth import Auth, EmailChange, ImproperlyConfigured, User, UserCreated, Users, middleware, routes
from starlette_auth.mail.messages import plain_text
from starlette_auth.mail.queue import MailQueue
from starlette_auth.testing import CollectingMailer, log_in

from ..conftest import PASSWORD, any_database, client_of, installed, with_tables

pytestmark = [with_tables, any_database]
HERE = {"sec-fetch-site": "same-origin"}


class RefusingMailer:
    """Quotes the recipient, as servers do."""

    async def send(self, message: EmailMessage) -> None:
        raise OSError(f"550 no mailbox <{message['To']}> ({message['To']}), see https://example.org/reset/secret")


def settings(mailer: Any, **options: Any) -> dict[str, Any]:
    return {"mailer": mailer, "base_url": "http://testserver", "from_email": "Shop <shop@example.org>", **options}


# email_user


async def test_a_mail_to_a_user_is_sent_with_the_sender_of_the_site_or_another(database: Database) -> None:
    mailer = CollectingMailer()
    async with installed(database, **settings(mailer)) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        await auth.users.email_user(ann, "Your order", "It is on its way.\n<3 ünïcode")
        await auth.users.email_user(ann, "Your bill", "…", "Bills <bills@example.org>")
        await auth.mail_queue.drain()
        first, second = sorted(mailer.messages, key=lambda mail: str(mail["From"]), reverse=True)
        assert (first["From"], first["To"]) == ("Shop <shop@example.org>", "ann@example.org")
        assert (first["Subject"], plain_text(first).rstrip()) == ("Your order", "It is on its way.\n<3 ünïcode")
        assert first.get_content_type() == "text/plain"
        assert second["From"] == "Bills <bills@example.org>"


async def test_a_mail_of_a_transaction_that_is_rolled_back_is_not_sent(database: Database) -> None:
    mailer = CollectingMailer()
    async with installed(database, **settings(mailer)) as auth:

        @auth.events.on(UserCreated)
        async def welcome(event: UserCreated) -> None:
            await auth.users.email_user(event.user, "Welcome", "Hello")
            if event.user.username == "bob":
                raise RuntimeError

        await auth.users.create_user("ann", "ann@example.org")
        with pytest.raises(RuntimeError):
            await auth.users.create_user("bob", "bob@example.org")
        await auth.mail_queue.drain()
        assert [mail["To"] for mail in mailer.messages] == ["ann@example.org"]


@pytest.mark.parametrize(
    "arguments",
    [("Hi\nBcc: x@example.org", "…"), ("Hi", "…", "shop@example.org\r\nBcc: x@example.org"), ("Hi", "…", "no")],
)
async def test_a_mail_that_cannot_be_built_is_an_error_of_the_caller(database: Database, arguments: Any) -> None:
    mailer = CollectingMailer()
    async with installed(database, **settings(mailer)) as auth:
        ann = await auth.users.create_user("ann", "ann@example.org")
        with pytest.raises(ValueError, match=r"\.$"):
            await auth.users.email_user(ann, *arguments)
        await auth.mail_queue.drain()
        assert mailer.messages == []


async def test_a_user_without_an_address_gets_no_mail_and_the_log_says_so(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    mailer = CollectingMailer()
    async with installed(database, **settings(mailer)) as auth:
        ann = await auth.users.create_user("ann")
        await auth.users.email_user(ann, "Hi", "…")
        assert caplog.messages == [f"The user with the key {ann.id} has no address, and got no mail."]


async def test_without_a_mailer_the_message_says_what_to_pass(auth: Auth, ann: User) -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Pass Auth\(mailer="):
        await auth.users.email_user(ann, "Hi", "…")
    users: Users[User] = Users(
        auth.gateway, tables=auth.tables, passwords=auth.passwords, events=auth.events, user_class=User
    )
    with pytest.raises(ImproperlyConfigured, match=r"auth\.users\.email_user"):
        await users.email_user(ann, "Hi", "…")


# A mail that fails


async def test_a_failed_mail_is_logged_with_the_key_and_without_address_and_link(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    async with installed(database, features=[EmailChange()], **settings(RefusingMailer())) as auth:
        app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with client_of(app, headers=HERE) as client:
            await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
            await log_in(client, ann, auth)
            fields = {"email": "new@example.org", "old_password": PASSWORD}
            assert (await client.post("/accounts/email_change", data=fields)).status_code == 303
        await auth.users.email_user(ann, "Hi", "…")
        await auth.users.set_password(ann, PASSWORD + "!")
        await auth.mail_queue.drain()
    texts = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert len(texts) == 4
    for text in texts:
        assert text.startswith("A mail could not be sent: OSError: 550 no mailbox")
        assert text.endswith(f" (To the user with the key {ann.id})")
        assert "@" not in text
        assert "secret" not in text


async def test_a_mail_that_cannot_be_composed_is_logged_with_the_key(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "registration").mkdir()
    (tmp_path / "registration" / "password_reset_email.txt").write_text("{{ user.email.oops.oops }}")
    async with installed(database, templates=[tmp_path], **settings(CollectingMailer())) as auth:
        app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
        ann = await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with client_of(app, headers=HERE) as client:
            await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
        await auth.mail_queue.drain()
    [text] = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert text.startswith("A mail could not be composed: ")
    assert f" (To the user with the key {ann.id})\n" in text


async def test_a_mail_that_is_dropped_or_cancelled_is_logged_with_the_key(caplog: pytest.LogCaptureFixture) -> None:
    class Slow:
        async def send(self, message: EmailMessage) -> None:
            await asyncio.sleep(60)

    async def make() -> EmailMessage:
        return EmailMessage()

    queue = MailQueue(Slow(), max_pending=1)
    queue.enqueue(make, user=User(id=7, username="ann"))
    queue.enqueue(make, user=User(id=8, username="bob"))
    await queue.drain(timeout=0.01)
    assert caplog.messages == [
        "A mail was dropped: 1 are waiting to be sent. (To the user with the key 8)",
        "A mail was cancelled before it was sent. (To the user with the key 7)",
    ]


# HTML


@pytest.mark.parametrize("html", ["", " \n\t", "{# nothing #}\n", "{% if false %}x{% endif %}"])
async def test_an_empty_html_template_leaves_only_the_text(database: Database, tmp_path: Path, html: str) -> None:
    (tmp_path / "registration").mkdir()
    (tmp_path / "registration" / "password_reset_email.html").write_text(html)
    mailer = CollectingMailer()
    async with installed(database, templates=[tmp_path], **settings(mailer)) as auth:
        app = Starlette(routes=[Mount("/accounts", routes=routes(auth))], middleware=middleware(auth))
        await auth.users.create_user("ann", "ann@example.org", PASSWORD)
        async with client_of(app, headers=HERE) as client:
            await client.post("/accounts/password_reset", data={"email": "ann@example.org"})
        await auth.mail_queue.drain()
    [mail] = mailer.messages
    assert mail.get_content_type() == "text/plain"
    assert "/reset/" in plain_text(mail)
