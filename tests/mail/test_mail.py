"""Mail: what is written, how it travels, and that nobody waits for it."""

import asyncio
import contextlib
import datetime
import email
import email.policy
import importlib
import io
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from starlette_auth import ImproperlyConfigured
from starlette_auth.core.translation import ENGLISH, Language, current_language, override_language
from starlette_auth.mail import queue
from starlette_auth.mail.mailers import ConsoleMailer, Mailer, SMTPMailer
from starlette_auth.mail.messages import build_message, plain_text
from starlette_auth.mail.queue import MailQueue
from starlette_auth.testing import CollectingMailer

from ..support.server import free_port

SENDER = "The site <mail@example.org>"
LINK = "https://example.org/accounts/reset/" + "Zm9vYmFy" * 30 + "?next=/a&b=c"
# Whatever could end a header and begin another: for servers, for Python, or for a program in between.
LINE_BREAKS = [
    "\r\n",
    "\n",
    "\r",
    "\0",
    "\x0b",
    "\x0c",
    "\x1b",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
]


def a_mail(**changes: Any) -> EmailMessage:
    given: dict[str, Any] = {"sender": SENDER, "to": "ann@example.org", "subject": "Hello", "text": f"Hi\n{LINK}\n"}
    return build_message(**given | changes)


def received(raw: bytes) -> EmailMessage:
    """As a mail program reads it."""
    message = email.message_from_string(raw.decode().replace("\r\n", "\n"), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def html_of(message: EmailMessage) -> str:
    body = message.get_body(("html",))
    assert body is not None
    return str(body.get_content())


# What is written


def test_a_mail_has_the_headers_that_a_mail_needs() -> None:
    message = received(bytes(a_mail(subject=" Reset your password\n", language="de", html="<p>Hi")))
    assert str(message["From"]) == "The site <mail@example.org>"
    assert str(message["To"]) == "ann@example.org"
    assert message["Subject"] == "Reset your password"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Content-Language"] == "de"
    assert abs(message["Date"].datetime - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)
    assert message["Message-ID"].endswith("@example.org>")
    assert message["Message-ID"] != a_mail()["Message-ID"]
    assert socket.gethostname() not in bytes(message).decode()
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert all(part.get_content_charset() == "utf-8" for part in message.iter_parts())


def test_a_mail_may_be_text_alone() -> None:
    message = received(bytes(a_mail()))
    assert message.get_content_type() == "text/plain"
    assert message["Content-Language"] is None


@pytest.mark.parametrize(
    "before", ["Hello", "Grüße an José", "Здравствуйте, уважаемый пользователь", "こんにちは", "x" * 2000]
)
def test_links_stay_whole(before: str) -> None:
    message = received(bytes(a_mail(text=f"{before}\n.\nFrom here:\n{LINK}\n", html=f'<p>{before}<a href="{LINK}">')))
    assert plain_text(message) == f"{before}\n.\nFrom here:\n{LINK}\n"
    assert LINK in html_of(message)


def test_links_are_readable_in_the_source_of_a_mail_in_ascii() -> None:
    assert LINK in bytes(a_mail()).decode().splitlines()


def test_no_line_is_longer_than_servers_take() -> None:
    message = a_mail(text="x" * 5000, html="ü" * 5000, subject="word " * 500)
    assert max(map(len, bytes(message).splitlines())) <= 998
    assert bytes(message).isascii()


@pytest.mark.parametrize(
    "subject", ["Grüße", "x" * 300, "a  b", "Пароль " * 30, "=", "a =?= b", "Re: [site] 100 % <b>", "\u200fسلام"]
)
def test_subjects_arrive_as_they_were_written(subject: str) -> None:
    assert received(bytes(a_mail(subject=subject)))["Subject"] == subject.strip()


@pytest.mark.parametrize(
    ("sender", "name", "address"),
    [
        ("mail@example.org", "", "mail@example.org"),
        ("<mail@example.org>", "", "mail@example.org"),
        ("Acme<mail@example.org>", "Acme", "mail@example.org"),
        ('"Acme, Inc." <mail@example.org>', "Acme, Inc.", "mail@example.org"),
        ("Acme, Inc. <mail@example.org>", "Acme, Inc.", "mail@example.org"),
        (
            'Größe "GmbH" & Söhne, Köln <mail@münchen.example>',
            'Größe "GmbH" & Söhne, Köln',
            "mail@xn--mnchen-3ya.example",
        ),
        ("mallory@example.net <mail@example.org>", "mallory@example.net", "mail@example.org"),
    ],
)
def test_a_sender_may_have_a_name(sender: str, name: str, address: str) -> None:
    found = received(bytes(a_mail(sender=sender)))["From"].addresses
    assert [(one.display_name, one.addr_spec) for one in found] == [(name, address)]


@pytest.mark.parametrize(
    ("to", "address"),
    [
        ("ann@localhost", "ann@localhost"),
        ("o'neil+tag=1/2?#!%&*{}|~^`_-$@sub-1.example.org", "o'neil+tag=1/2?#!%&*{}|~^`_-$@sub-1.example.org"),
        ("ann@Bücher.example", "ann@xn--bcher-kva.example"),
        ("ann@bu\u0308cher.example", "ann@xn--bcher-kva.example"),
        ("jörg@example.org", "jörg@example.org"),
        ("ann@straße.example", "ann@straße.example"),  # IDNA 2003 would have it at strasse.example
        ("ann@" + "ü" * 70 + ".example", "ann@" + "ü" * 70 + ".example"),
        ("a" * 64 + "@" + "b" * 63 + ".example", "a" * 64 + "@" + "b" * 63 + ".example"),
    ],
)
def test_an_address_arrives_as_one(to: str, address: str) -> None:
    message = a_mail(to=to)
    assert [one.addr_spec for one in message["To"].addresses] == [address]
    assert [one.addr_spec for one in received(bytes(message))["To"].addresses] == [address]


@pytest.mark.parametrize("line_break", LINE_BREAKS, ids=ascii)
@pytest.mark.parametrize(
    "changes",
    [
        {"subject": "Hello{}Bcc: mallory@example.net"},
        {"subject": "Hello{} Bcc: mallory@example.net"},
        {"to": "ann@example.org{}Bcc: mallory@example.net"},
        {"to": "ann@example.org{}"},
        {"to": "{}ann@example.org"},
        {"to": "ann{}@example.org"},
        {"sender": "The{}Bcc: mallory@example.net <mail@example.org>"},
        {"sender": "The site <mail@example.org{}Bcc: mallory@example.net>"},
        {"sender": "mail@example.org{}"},
        {"language": "de{}Bcc: mallory@example.net"},
    ],
    ids=str,
)
def test_line_breaks_and_control_characters_in_headers_are_refused(changes: dict[str, str], line_break: str) -> None:
    with pytest.raises(ValueError, match="line break") as refused:
        a_mail(**{name: value.format(line_break) for name, value in changes.items()})
    assert "mallory" not in str(refused.value)


@pytest.mark.parametrize(
    "to",
    [
        "",
        "ann",
        "@example.org",
        "ann@",
        "ann@@example.org",
        "ann@bob@example.org",
        "ann@example.org,mallory@example.net",
        "ann@example.org, mallory@example.net",
        "ann@example.org;mallory@example.net",
        "ann@example.org mallory@example.net",
        " ann@example.org",
        "ann@example.org ",
        "ann@exam\u00a0ple.org",
        "an\u200bn@example.org",
        "ann@exam\u202eple.org",
        "ann@exam\ud800ple.org",
        "<ann@example.org>",
        "Ann <ann@example.org>",
        "ann@example.org <mallory@example.net>",
        "mallory@example.net> <ann@example.org",
        "ann@example.org>",
        "ann@example.org> NOTIFY=SUCCESS",
        "friends: ann@example.org;",
        "undisclosed-recipients:;",
        "ann(comment)@example.org",
        "ann@example.org(comment)",
        '"ann"@example.org',
        '"mallory@example.net> "@example.org',
        "@relay.example:ann@example.org",
        "ann%example.org@",
        ".ann@example.org",
        "ann.@example.org",
        "a..n@example.org",
        "ann@.example.org",
        "ann@example..org",
        "ann@example.org.",
        "ann@[127.0.0.1]",
        "ann\\@example.org",
        "ann@exa%mple.org",
        "=?utf-8?q?mallory=40example.net=3E=20?=@example.org",
        "=?x?=@example.org",
    ],
)
def test_anything_but_one_address_is_refused(to: str) -> None:
    with pytest.raises(ValueError, match="one address"):
        a_mail(to=to)
    for sender in (to, f"The site <{to}>"):
        if sender not in ("<ann@example.org>", "Ann <ann@example.org>", "ann@example.org <mallory@example.net>"):
            with pytest.raises(ValueError, match=r"one address|control character|=\?"):
                a_mail(sender=sender)


@pytest.mark.parametrize(
    "encoded", ["=?utf-8?q?a=0d=0aBcc:_mallory=40example.net?=", "=?utf-8?b?CkJjYzogeA==?=", "=?utf-8?q?x?="]
)
def test_encoded_words_cannot_bring_in_what_was_refused(encoded: str) -> None:
    for changes in ({"subject": encoded}, {"sender": f"{encoded} <mail@example.org>"}):
        with pytest.raises(ValueError, match="something else"):
            a_mail(**changes)


@pytest.mark.parametrize("domain", ["straße.example", "ü" * 70])
def test_the_domain_of_the_sender_must_be_sure(domain: str) -> None:
    with pytest.raises(ValueError, match="xn--"):
        a_mail(sender=f"mail@{domain}")


def test_an_address_of_a_megabyte_is_judged_at_once() -> None:
    assert a_mail(to="a" * 242 + "@example.org")["To"]
    with pytest.raises(ValueError, match="one address"):
        a_mail(to="a" * 243 + "@example.org")
    begin = time.monotonic()
    for to in (
        "a." * 500_000 + "@",
        "a@" + "b." * 500_000,
        "@" * 1_000_000,
        "a" * 1_000_000 + "@b",
        "a@" + "ü" * 1_000_000,
    ):
        with pytest.raises(ValueError, match="one address"):
            a_mail(to=to)
    assert time.monotonic() - begin < 5


# How it travels: a real server


class Inbox:
    """What a server was told."""

    def __init__(self, refusal: str = "") -> None:
        self.refusal = refusal
        self.commands: list[str] = []
        self.hello: list[str] = []
        self.messages: list[EmailMessage] = []
        self.raw: list[bytes] = []
        self.over_tls: list[bool] = []
        self.logins: list[tuple[bytes, bytes]] = []

    async def handle_EHLO(  # noqa: N802
        self, server: Any, session: Session, envelope: Any, name: str, answers: list[str]
    ) -> list[str]:
        session.host_name = name
        self.hello.append(name)
        return answers

    async def handle_MAIL(self, server: Any, session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        self.commands.append(f"MAIL {address}")
        envelope.mail_from = address
        return "250 OK"

    async def handle_RCPT(self, server: Any, session: Session, envelope: Envelope, address: str, options: Any) -> str:  # noqa: N802
        self.commands.append(f"RCPT {address}")
        envelope.rcpt_tos.append(address)
        return self.refusal or "250 OK"

    async def handle_DATA(self, server: Any, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        self.raw.append(envelope.content)
        self.messages.append(received(envelope.content))
        self.over_tls.append(session.ssl is not None)
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"open sesame", handled=False)


class RealServer(Controller):
    """One that leaves no socket open, neither by its own probe at the start nor at the end."""

    def factory(self) -> SMTP:
        self.connections: list[SMTP] = getattr(self, "connections", [])
        self.connections.append(SMTP(self.handler, **self.SMTP_kwargs))
        return self.connections[-1]

    def _trigger_server(self) -> None:
        with contextlib.ExitStack() as opened:
            probe = opened.enter_context(socket.create_connection((self.hostname, self.port), 5))
            if self.ssl_context:
                context = ssl.create_default_context()
                context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                probe = opened.enter_context(context.wrap_socket(probe))
            probe.recv(1024)

    def end(self) -> None:
        asyncio.run_coroutine_threadsafe(self._hang_up(), self.loop).result()
        self.stop()

    async def _hang_up(self) -> None:
        for connection in self.connections:
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()
        await asyncio.sleep(0.02)


Serve = Callable[..., int]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts real servers on the loopback device, and gives their ports."""
    started: list[RealServer] = []

    def serve(inbox: Inbox, *, implicit: ssl.SSLContext | None = None, **options: Any) -> int:
        port = free_port()
        given = {"server_hostname": "mx.example.org", "loop": None, **options}
        started.append(RealServer(inbox, hostname="127.0.0.1", port=port, ssl_context=implicit, **given))
        started[-1].start()
        return port

    yield serve
    for server in started:
        await asyncio.to_thread(server.end)
    await asyncio.sleep(0.02)  # The client's side of what was hung up is closed in this event loop.


class Authority:
    """Signs certificates that nobody but us trusts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An authority for tests")])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        made = self._begin(self.name, self.key.public_key())
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = made.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.file))

    def server(self, *names: str) -> ssl.SSLContext:
        """What a server of these names shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        all_names: list[x509.GeneralName] = []
        for name in names:
            is_address = name.replace(".", "").isdigit()
            all_names.append(x509.IPAddress(ipaddress.ip_address(name)) if is_address else x509.DNSName(name))
        made = self._begin(x509.Name([]), key.public_key())
        made = made.add_extension(x509.SubjectAlternativeName(all_names), critical=True)
        certificate = made.sign(self.key, hashes.SHA256())
        chain = self.folder / "server.pem"
        chain.write_bytes(
            certificate.public_bytes(serialization.Encoding.PEM)
            + key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(str(chain))
        return context

    def _begin(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        made = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key)
        made = made.serial_number(x509.random_serial_number())
        made = made.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
            now + datetime.timedelta(hours=1)
        )
        made = made.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        ours = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return made.add_extension(ours, critical=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_mail_reaches_a_server(serve: Serve) -> None:
    inbox = Inbox()
    mailer: Mailer = SMTPMailer("127.0.0.1", port=serve(inbox), tls="none")
    await mailer.send(a_mail(text=f"Hi\n.\n..\n{LINK}", html=f"<p>Grüße {LINK}", subject="Grüße"))
    assert inbox.commands == ["MAIL mail@example.org", "RCPT ann@example.org"]
    assert inbox.messages[0]["Subject"] == "Grüße"
    assert plain_text(inbox.messages[0]) == f"Hi\n.\n..\n{LINK}\n"
    assert LINK in html_of(inbox.messages[0])
    assert LINK.encode() in inbox.raw[0].splitlines()
    assert inbox.hello == ["example.org"]
    assert socket.gethostname().encode() not in inbox.raw[0]


async def test_many_mails_at_once_reach_a_server(serve: Serve) -> None:
    inbox = Inbox()
    mailer = SMTPMailer("127.0.0.1", port=serve(inbox), tls="none")
    await asyncio.gather(*(mailer.send(a_mail(to=f"n{number}@example.org")) for number in range(30)))
    assert {str(message["To"]) for message in inbox.messages} == {f"n{number}@example.org" for number in range(30)}


async def test_a_mail_travels_over_tls_that_was_asked_for(serve: Serve, authority: Authority) -> None:
    inbox = Inbox()
    port = serve(inbox, tls_context=authority.server("localhost", "127.0.0.1"), require_starttls=True)
    for host in ("localhost", "127.0.0.1"):
        await SMTPMailer(host, port=port, tls_context=authority.trusted()).send(a_mail())
    assert inbox.over_tls == [True, True]


async def test_a_mail_travels_over_tls_from_the_beginning(serve: Serve, authority: Authority) -> None:
    inbox = Inbox()
    port = serve(inbox, implicit=authority.server("localhost"))
    await SMTPMailer("localhost", port=port, tls="implicit", tls_context=authority.trusted()).send(a_mail())
    assert len(inbox.messages) == 1


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("flaw", ["an authority that nobody knows", "the name of another server"])
async def test_a_certificate_that_proves_nothing_is_refused(
    serve: Serve, authority: Authority, tls: Any, flaw: str
) -> None:
    inbox = Inbox()
    unknown = flaw == "an authority that nobody knows"
    context = authority.server("localhost" if unknown else "mail.example.org")
    port = serve(inbox, **{"implicit" if tls == "implicit" else "tls_context": context})
    mailer = SMTPMailer("localhost", port=port, tls=tls, tls_context=None if unknown else authority.trusted())
    with pytest.raises((ssl.SSLCertVerificationError, aiosmtplib.SMTPException), match="certificate verify failed"):
        await mailer.send(a_mail())
    assert not inbox.commands


async def test_without_tls_nothing_is_sent(serve: Serve) -> None:
    inbox = Inbox()
    mailer = SMTPMailer("localhost", port=serve(inbox), username="app", password="open sesame")
    with pytest.raises(aiosmtplib.SMTPException, match="STARTTLS"):
        await mailer.send(a_mail())
    assert not inbox.commands
    assert not inbox.logins


async def test_a_server_that_speaks_no_tls_gets_nothing(serve: Serve) -> None:
    inbox = Inbox()
    mailer = SMTPMailer("localhost", port=serve(inbox), tls="implicit", timeout=2)
    with pytest.raises((ssl.SSLError, aiosmtplib.SMTPException, OSError)):
        await mailer.send(a_mail())
    assert not inbox.commands


@contextlib.asynccontextmanager
async def talking(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """A server that says what no good one would."""

    ended = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()
        ended.set()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
        await asyncio.wait_for(ended.wait(), 5)
        await asyncio.sleep(0.02)
    finally:
        server.close()


async def test_what_is_said_before_tls_is_not_believed_after_it(authority: Authority) -> None:
    context = authority.server("localhost")
    heard: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.example.org\r\n")
        await reader.readline()
        writer.write(b"250-mx.example.org\r\n250 STARTTLS\r\n")
        await reader.readline()
        # Somebody in between adds, unencrypted, an answer to the EHLO that comes next.
        writer.write(b"220 go on\r\n250-mx.example.org\r\n250 AUTH PLAIN LOGIN\r\n")
        await writer.start_tls(context)
        heard.append(await reader.readline())
        writer.write(b"250 mx.example.org\r\n")
        heard.append(await reader.readline())

    async with talking(talk) as port:
        mailer = SMTPMailer(
            "localhost", port=port, username="app", password="secret", tls_context=authority.trusted(), timeout=5
        )
        with pytest.raises(aiosmtplib.SMTPException, match="AUTH"):
            await mailer.send(a_mail())
    assert heard[0].startswith(b"EHLO")
    assert not heard[1].startswith(b"AUTH")


async def test_the_user_logs_in(serve: Serve, authority: Authority) -> None:
    inbox = Inbox()
    port = serve(inbox, tls_context=authority.server("localhost"), authenticator=inbox.authenticate, auth_required=True)
    for password in ("open sesame", "wrong"):
        mailer = SMTPMailer("localhost", port=port, username="app", password=password, tls_context=authority.trusted())
        assert password not in repr(mailer)
        if password == "wrong":
            with pytest.raises(aiosmtplib.SMTPAuthenticationError):
                await mailer.send(a_mail())
        else:
            await mailer.send(a_mail())
    assert len(inbox.messages) == 1
    assert inbox.logins[0] == (b"app", b"open sesame")


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
async def test_on_this_machine_a_password_may_go_without_tls(serve: Serve) -> None:
    inbox = Inbox()
    port = serve(inbox, authenticator=inbox.authenticate, auth_required=True, auth_require_tls=False)
    await SMTPMailer("127.0.0.1", port=port, username="app", password="open sesame", tls="none").send(a_mail())
    assert len(inbox.messages) == 1


async def test_addresses_beyond_ascii_need_a_server_that_knows_them(serve: Serve) -> None:
    knows, does_not = Inbox(), Inbox()
    message = a_mail(to="jörg@bücher.example", sender="Grüße <grüße@example.org>", subject="Grüße")
    await SMTPMailer("127.0.0.1", port=serve(knows), tls="none").send(message)
    assert knows.commands == ["MAIL grüße@example.org", "RCPT jörg@xn--bcher-kva.example"]
    assert str(knows.messages[0]["To"]) == "jörg@xn--bcher-kva.example"
    with pytest.raises(aiosmtplib.SMTPNotSupported, match="SMTPUTF8"):
        await SMTPMailer("127.0.0.1", port=serve(does_not, enable_SMTPUTF8=False), tls="none").send(message)
    assert not does_not.commands


async def test_a_sender_whose_domain_is_not_ascii_can_say_hello(serve: Serve) -> None:
    inbox = Inbox()
    message = a_mail()
    message.replace_header("From", "mail@straße.example")
    await SMTPMailer("127.0.0.1", port=serve(inbox), tls="none").send(message)
    assert inbox.hello == ["[127.0.0.1]"]


async def test_a_refusal_is_told(serve: Serve) -> None:
    inbox = Inbox("550 5.1.1 No such user")
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused, match="No such user"):
        await SMTPMailer("127.0.0.1", port=serve(inbox), tls="none").send(a_mail())
    assert not inbox.messages


async def test_a_server_that_is_down_is_told() -> None:
    with pytest.raises(aiosmtplib.SMTPConnectError):
        await SMTPMailer("127.0.0.1", port=free_port(), tls="none").send(a_mail())


@pytest.mark.parametrize("greeting", [b"", b"220 mx.example.org\r\n"])
async def test_a_server_that_hangs_is_given_up(greeting: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read()

    async with talking(talk) as port:
        begin = time.monotonic()
        with pytest.raises(TimeoutError):
            await SMTPMailer("127.0.0.1", port=port, tls="none", timeout=0.2).send(a_mail())
        assert time.monotonic() - begin < 2


@pytest.mark.parametrize("goodbye", [b"", b"500 I do not know that word\r\n"])
async def test_a_mail_that_was_taken_is_sent_whatever_the_server_says_next(goodbye: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"220 mx", b"250 mx", b"250 ok", b"250 ok", b"354 go on"):
            writer.write(answer + b"\r\n")
            await reader.readline()
        while await reader.readline() != b".\r\n":
            pass
        writer.write(b"250 taken\r\n")
        await reader.readline()
        writer.write(goodbye)

    async with talking(talk) as port:
        await SMTPMailer("127.0.0.1", port=port, tls="none", timeout=2).send(a_mail())


def test_ports_are_those_of_the_standards() -> None:
    ports = [SMTPMailer("mx.example.org", tls=tls).port for tls in ("starttls", "implicit", "none")]
    assert ports == [587, 465, 25]
    assert SMTPMailer("mx.example.org", port=2525).port == 2525


def test_certificates_and_names_are_checked_unless_there_is_no_tls() -> None:
    context = SMTPMailer("mx.example.org").tls_context
    assert context is not None
    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert SMTPMailer("mx.example.org", tls="none").tls_context is None


@pytest.mark.parametrize(
    ("options", "advice"),
    [
        ({"tls": "none", "username": "app", "password": "secret"}, "in the clear"),
        ({"tls": "none", "username": "app", "password": "secret", "host": "192.0.2.1"}, "in the clear"),
        ({"username": "app"}, "Pass both"),
        ({"password": "secret"}, "Pass both"),
        ({"tls": "ssl"}, "is unknown"),
        ({"tls": "none", "tls_context": ssl.create_default_context()}, "Remove one"),
        ({"tls_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "any certificate"),
    ],
)
def test_what_would_be_unsafe_is_refused_with_advice(options: dict[str, Any], advice: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=advice) as refused:
        SMTPMailer(**{"host": "mx.example.org", **options})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_this_machine_is_known(host: str) -> None:
    assert repr(SMTPMailer(host, username="app", password="secret", tls="none")) == (
        f"SMTPMailer({host!r}, port=25, username='app', tls='none')"
    )


def test_the_library_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImproperlyConfigured, match=r"pip install starlette-contrib-auth\[smtp\]"):
        SMTPMailer("localhost")


# In the console


async def test_a_mail_is_printed_to_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    await ConsoleMailer().send(a_mail(text=f"Grüße\n\n{LINK}\n", html="<p>not this", subject="Grüße"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == "-" * 78
    assert lines[1:-1] == [f"From: {SENDER}", "To: ann@example.org", "Subject: Grüße", "", "Grüße", "", LINK]


async def test_a_mail_is_printed_in_one_piece() -> None:
    class Pieces(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.calls: list[str] = []

        def write(self, text: str) -> int:
            self.calls.append("write")
            return super().write(text)

        def flush(self) -> None:
            self.calls.append("flush")

    stream = Pieces()
    await ConsoleMailer(stream).send(a_mail())
    assert stream.calls == ["write", "flush"]


async def test_a_mail_does_not_command_the_terminal() -> None:
    stream = io.StringIO()
    message = a_mail(text="a\x1b[2Jb\x9bc\rd\x07e\tf\u2028g")
    message.replace_header("Subject", "x\x1b]0;owned\x07")
    await ConsoleMailer(stream).send(message)
    assert all(character == "\n" or character.isprintable() for character in stream.getvalue())
    assert "\ufffd[2Jb\ufffdc" in stream.getvalue()


async def test_a_mail_without_text_is_printed_too() -> None:
    stream = io.StringIO()
    message = EmailMessage()
    message["Subject"] = "Hello"
    message.set_content("<p>Hi", subtype="html")
    await ConsoleMailer(stream).send(message)
    assert "Subject: Hello" in stream.getvalue()


async def test_a_console_that_knows_only_ascii_shows_the_link() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    await ConsoleMailer(stream).send(a_mail(text=f"Grüße\n{LINK}"))
    assert LINK in raw.getvalue().decode().splitlines()
    assert "Gr\\xfc\\xdfe" in raw.getvalue().decode()


# After the response


class Failing:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def send(self, message: EmailMessage) -> None:
        raise self.error


class Slow(CollectingMailer):
    """One who takes as long as he is told, and counts how many he has in hand."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.now = self.most = 0

    async def send(self, message: EmailMessage) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        await self.go.wait()
        self.now -= 1
        await super().send(message)


def making(**changes: Any) -> Callable[[], Awaitable[EmailMessage | None]]:
    async def make() -> EmailMessage | None:
        return a_mail(**changes)

    return make


async def nothing() -> None:
    return None


async def test_mails_are_sent_in_the_background() -> None:
    mailer = CollectingMailer()
    box = MailQueue(mailer, longest_delay=0)
    for number in range(5):
        box.enqueue(making(subject=str(number)))
    box.enqueue(nothing)
    assert not mailer.messages
    await box.drain()
    assert sorted(str(message["Subject"]) for message in mailer.messages) == list("01234")


async def test_one_after_the_other_keeps_the_order() -> None:
    mailer = CollectingMailer()
    box = MailQueue(mailer, longest_delay=0, workers=1)
    for number in range(5):
        box.enqueue(making(subject=str(number)))
    await box.drain()
    assert [str(message["Subject"]) for message in mailer.messages] == list("01234")


async def test_a_mail_waits_a_moment_that_cannot_be_foretold() -> None:
    begun: list[float] = []

    async def make() -> None:
        begun.append(time.monotonic())

    box = MailQueue(CollectingMailer(), longest_delay=0.2)
    begin = time.monotonic()
    for _ in range(50):
        box.enqueue(make)
    while len(begun) < 50:
        await asyncio.sleep(0.01)
    waits = [moment - begin for moment in begun]
    assert min(waits) < 0.1 < max(waits) < 2


async def test_drain_does_not_wait_for_the_moment() -> None:
    mailer = CollectingMailer()
    box = MailQueue(mailer, longest_delay=1000)
    box.enqueue(making())
    begin = time.monotonic()
    await box.drain()
    assert time.monotonic() - begin < 2
    assert len(mailer.messages) == 1
    box.enqueue(making())
    await asyncio.sleep(0.05)
    assert len(mailer.messages) == 1  # Only those that were there are hurried.
    await box.drain()
    assert len(mailer.messages) == 2


async def test_drain_waits_for_what_is_posted_meanwhile() -> None:
    mailer = CollectingMailer()
    box = MailQueue(mailer)

    async def make() -> EmailMessage:
        box.enqueue(making(subject="second"))
        return a_mail(subject="first")

    box.enqueue(make)
    await box.drain()
    assert sorted(str(message["Subject"]) for message in mailer.messages) == ["first", "second"]


async def test_a_mail_is_in_the_language_of_who_asked() -> None:
    mailer = CollectingMailer()
    box = MailQueue(mailer)

    async def make() -> EmailMessage:
        return a_mail(language=current_language().tag)

    for tag in ("de", "fr"):
        with override_language(Language(tag, ENGLISH.catalog)):
            box.enqueue(make)
    await box.drain()
    assert sorted(str(message["Content-Language"]) for message in mailer.messages) == ["de", "fr"]


async def test_only_so_many_are_under_way() -> None:
    mailer = Slow()
    box = MailQueue(mailer, longest_delay=0, workers=3)
    for _ in range(10):
        box.enqueue(making())
    await asyncio.sleep(0.05)
    assert mailer.now == 3
    mailer.go.set()
    await box.drain()
    assert len(mailer.messages) == 10
    assert mailer.most == 3


async def test_what_finds_no_room_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    mailer = CollectingMailer()
    box = MailQueue(mailer, max_pending=2)
    for _ in range(3):
        box.enqueue(making())
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "A mail was dropped: 2 are waiting to be sent.")
    ]
    await box.drain()
    assert len(mailer.messages) == 2
    box.enqueue(making())
    await box.drain()
    assert len(mailer.messages) == 3


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (aiosmtplib.SMTPDataError(550, "no"), "SMTPDataError: (550, 'no')"),
        (OSError("down\r\nCRITICAL root: forged\x1b[2J"), "OSError: down  CRITICAL root: forged [2J"),
        (ValueError(f"554 The link <{LINK}> is on a list"), "ValueError: 554 The link <[link] is on a list"),
        (TimeoutError(), "TimeoutError: "),
    ],
)
async def test_a_mailer_that_fails_is_logged(error: Exception, said: str, caplog: pytest.LogCaptureFixture) -> None:
    box = MailQueue(Failing(error))
    box.enqueue(making())
    await box.drain()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("starlette_auth", logging.ERROR)
    assert record.getMessage() == f"A mail could not be sent: {said}"
    assert record.exc_info is None


async def test_a_mailer_that_never_ends_does_not_stop_the_others(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "LONGEST_SENDING", 0.05)
    box = MailQueue(Slow(), workers=1)
    for _ in range(2):
        box.enqueue(making())
    await box.drain(timeout=5)
    assert [record.getMessage() for record in caplog.records] == ["A mail could not be sent: TimeoutError: "] * 2


async def test_a_mail_that_cannot_be_made_is_logged_with_the_place(caplog: pytest.LogCaptureFixture) -> None:
    async def make() -> EmailMessage:
        secret = LINK
        raise LookupError(f"no template\nfor {secret}")

    mailer = CollectingMailer()
    box = MailQueue(mailer)
    box.enqueue(make)
    box.enqueue(making())
    await box.drain()
    (record,) = caplog.records
    assert record.getMessage().startswith("A mail could not be made: LookupError: no template for [link]\n")
    assert "test_mail.py" in record.getMessage()
    assert LINK not in caplog.text
    assert record.exc_info is None  # What collects logs would look for the variables there.
    assert len(mailer.messages) == 1


async def test_what_takes_too_long_is_given_up_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    mailer = Slow()
    box = MailQueue(mailer)
    box.enqueue(making())
    box.enqueue(making())
    await box.drain(timeout=0.05)
    box.enqueue(making())
    await box.drain(timeout=0)
    assert [record.getMessage() for record in caplog.records] == ["A mail was given up before it was sent."] * 3
    mailer.go.set()
    await box.drain()
    assert not mailer.messages


async def test_a_mailer_that_will_not_stop_does_not_hold_up_the_end() -> None:
    release = asyncio.Event()

    class Stubborn:
        async def send(self, message: EmailMessage) -> None:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

    box = MailQueue(Stubborn())
    box.enqueue(making())
    begin = time.monotonic()
    await box.drain(timeout=0.05)
    assert time.monotonic() - begin < 3
    release.set()
    await box.drain()


def test_each_event_loop_has_its_own(caplog: pytest.LogCaptureFixture) -> None:
    mailer = CollectingMailer()
    box = MailQueue(mailer, longest_delay=1000)

    async def post() -> None:
        box.enqueue(making())
        await asyncio.sleep(0)

    async def post_and_drain() -> None:
        box.enqueue(making())
        await box.drain(timeout=2)

    asyncio.run(post())  # This loop ends, and gives up what it has.
    asyncio.run(post_and_drain())
    asyncio.run(box.drain(timeout=2))
    assert len(mailer.messages) == 1
    assert [record.getMessage() for record in caplog.records] == ["A mail was given up before it was sent."]
    asyncio.run(post_and_drain())
    assert len(box._queues._values) == 1  # Loops that are closed are not remembered.


async def test_a_loop_that_is_alive_keeps_its_mails() -> None:
    mailer = CollectingMailer()
    box = MailQueue(mailer, longest_delay=1000)
    box.enqueue(making(subject="here"))

    async def elsewhere() -> None:
        box.enqueue(making(subject="elsewhere"))
        await box.drain()

    await asyncio.to_thread(asyncio.run, elsewhere())
    assert [str(message["Subject"]) for message in mailer.messages] == ["elsewhere"]
    await box.drain()
    assert len(mailer.messages) == 2


def test_without_an_event_loop_nothing_can_be_sent() -> None:
    with pytest.raises(ImproperlyConfigured, match="coroutine"):
        MailQueue(CollectingMailer()).enqueue(making())


def test_without_a_mailer_nothing_is_made() -> None:
    MailQueue(None).enqueue(making())


# In the tests of applications


def app_of(box: MailQueue) -> Starlette:
    def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("We have sent a mail if there is such an account.")

    async def reset(request: Request) -> PlainTextResponse:
        box.enqueue(making(to=request.query_params["to"], text=f"See {LINK}#{request.query_params['to']}."))
        return page(request)

    return Starlette(routes=[Route("/", reset)])


def test_mail_is_waited_for_and_its_links_are_found() -> None:
    mailer = CollectingMailer()
    with TestClient(app_of(MailQueue(mailer, longest_delay=0.05))) as client:
        client.get("/", params={"to": "ann@example.org"})
        assert len(mailer.wait_for(1)) == 1
        client.get("/", params={"to": "bob@bücher.example"})
        assert len(mailer.wait_for(2)) == 2
        ann, bob = f"{LINK}#ann@example.org", f"{LINK}#bob@bücher.example"
        assert mailer.links() == [bob, ann]
        assert mailer.links("ann@example.org") == [ann]
        assert mailer.links("bob@bücher.example") == [bob]
        assert mailer.links("nobody@example.org") == []
        mailer.clear()
        assert mailer.messages == []


def test_mail_that_does_not_come_is_explained() -> None:
    with pytest.raises(TimeoutError, match=r"0 of 1 mails .* `with TestClient"):
        CollectingMailer().wait_for(1, timeout=0.01)


async def test_an_async_test_is_told_what_to_await() -> None:
    with pytest.raises(RuntimeError, match="drain"):
        CollectingMailer().wait_for()
