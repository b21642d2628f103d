"""Tests of messages, mailers and the mail queue."""

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
# Characters that servers, Python or programs in between treat as a line break, and other control characters.
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


def make_message(**changes: Any) -> EmailMessage:
    defaults: dict[str, Any] = {"sender": SENDER, "to": "ann@example.org", "subject": "Hello", "text": f"Hi\n{LINK}\n"}
    return build_message(**defaults | changes)


def parse_message(raw: bytes) -> EmailMessage:
    """Parses a message as a mail program does."""
    message = email.message_from_string(raw.decode().replace("\r\n", "\n"), policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def html_of(message: EmailMessage) -> str:
    body = message.get_body(("html",))
    assert body is not None
    return str(body.get_content())


# Messages


def test_a_message_has_all_required_headers() -> None:
    message = parse_message(bytes(make_message(subject=" Reset your password\n", language="de", html="<p>Hi")))
    assert str(message["From"]) == "The site <mail@example.org>"
    assert str(message["To"]) == "ann@example.org"
    assert message["Subject"] == "Reset your password"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["Content-Language"] == "de"
    assert abs(message["Date"].datetime - datetime.datetime.now(datetime.UTC)) < datetime.timedelta(minutes=1)
    assert message["Message-ID"].endswith("@example.org>")
    assert message["Message-ID"] != make_message()["Message-ID"]
    assert socket.gethostname() not in bytes(message).decode()
    assert message.get_content_type() == "multipart/alternative"
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
    assert all(part.get_content_charset() == "utf-8" for part in message.iter_parts())


def test_a_message_without_html_is_plain_text() -> None:
    message = parse_message(bytes(make_message()))
    assert message.get_content_type() == "text/plain"
    assert message["Content-Language"] is None


@pytest.mark.parametrize(
    "before", ["Hello", "Grüße an José", "Здравствуйте, уважаемый пользователь", "こんにちは", "x" * 2000]
)
def test_links_are_not_broken_across_lines(before: str) -> None:
    message = parse_message(
        bytes(make_message(text=f"{before}\n.\nFrom here:\n{LINK}\n", html=f'<p>{before}<a href="{LINK}">'))
    )
    assert plain_text(message) == f"{before}\n.\nFrom here:\n{LINK}\n"
    assert LINK in html_of(message)


def test_links_are_readable_in_the_source_of_an_ascii_message() -> None:
    assert LINK in bytes(make_message()).decode().splitlines()


def test_no_line_is_longer_than_998_bytes() -> None:
    message = make_message(text="x" * 5000, html="ü" * 5000, subject="word " * 500)
    assert max(map(len, bytes(message).splitlines())) <= 998
    assert bytes(message).isascii()


@pytest.mark.parametrize(
    "subject", ["Grüße", "x" * 300, "a  b", "Пароль " * 30, "=", "a =?= b", "Re: [site] 100 % <b>", "\u200fسلام"]
)
def test_subjects_are_received_as_written(subject: str) -> None:
    assert parse_message(bytes(make_message(subject=subject)))["Subject"] == subject.strip()


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
def test_a_sender_can_have_a_display_name(sender: str, name: str, address: str) -> None:
    addresses = parse_message(bytes(make_message(sender=sender)))["From"].addresses
    assert [(sender.display_name, sender.addr_spec) for sender in addresses] == [(name, address)]


@pytest.mark.parametrize(
    ("to", "address"),
    [
        ("ann@localhost", "ann@localhost"),
        ("o'neil+tag=1/2?#!%&*{}|~^`_-$@sub-1.example.org", "o'neil+tag=1/2?#!%&*{}|~^`_-$@sub-1.example.org"),
        ("ann@Bücher.example", "ann@xn--bcher-kva.example"),
        ("ann@bu\u0308cher.example", "ann@xn--bcher-kva.example"),
        ("jörg@example.org", "jörg@example.org"),
        ("ann@straße.example", "ann@straße.example"),  # IDNA 2003 would change it to strasse.example
        ("ann@" + "ü" * 70 + ".example", "ann@" + "ü" * 70 + ".example"),
        ("a" * 64 + "@" + "b" * 63 + ".example", "a" * 64 + "@" + "b" * 63 + ".example"),
    ],
)
def test_a_valid_recipient_is_received_as_one_address(to: str, address: str) -> None:
    message = make_message(to=to)
    assert [recipient.addr_spec for recipient in message["To"].addresses] == [address]
    assert [recipient.addr_spec for recipient in parse_message(bytes(message))["To"].addresses] == [address]


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
        make_message(**{name: value.format(line_break) for name, value in changes.items()})
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
def test_a_recipient_must_be_exactly_one_plain_address(to: str) -> None:
    with pytest.raises(ValueError, match="one address"):
        make_message(to=to)
    for sender in (to, f"The site <{to}>"):
        if sender not in ("<ann@example.org>", "Ann <ann@example.org>", "ann@example.org <mallory@example.net>"):
            with pytest.raises(ValueError, match=r"one address|control character|=\?"):
                make_message(sender=sender)


@pytest.mark.parametrize(
    "encoded", ["=?utf-8?q?a=0d=0aBcc:_mallory=40example.net?=", "=?utf-8?b?CkJjYzogeA==?=", "=?utf-8?q?x?="]
)
def test_encoded_words_in_headers_are_refused(encoded: str) -> None:
    for changes in ({"subject": encoded}, {"sender": f"{encoded} <mail@example.org>"}):
        with pytest.raises(ValueError, match="encoded word"):
            make_message(**changes)


@pytest.mark.parametrize("domain", ["straße.example", "ü" * 70])
def test_an_ambiguous_sender_domain_is_refused(domain: str) -> None:
    with pytest.raises(ValueError, match="xn--"):
        make_message(sender=f"mail@{domain}")


def test_an_address_of_a_megabyte_is_refused_quickly() -> None:
    assert make_message(to="a" * 242 + "@example.org")["To"]
    with pytest.raises(ValueError, match="one address"):
        make_message(to="a" * 243 + "@example.org")
    started_at = time.monotonic()
    for to in (
        "a." * 500_000 + "@",
        "a@" + "b." * 500_000,
        "@" * 1_000_000,
        "a" * 1_000_000 + "@b",
        "a@" + "ü" * 1_000_000,
    ):
        with pytest.raises(ValueError, match="one address"):
            make_message(to=to)
    assert time.monotonic() - started_at < 5


# SMTP, with a real server


class Inbox:
    """A handler that records what the server receives."""

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
        self.messages.append(parse_message(envelope.content))
        self.over_tls.append(session.ssl is not None)
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"open sesame", handled=False)


class SMTPServer(Controller):
    """A server that closes all sockets, including that of aiosmtpd's probe at the start."""

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
        asyncio.run_coroutine_threadsafe(self._close_connections(), self.loop).result()
        self.stop()

    async def _close_connections(self) -> None:
        for connection in self.connections:
            if isinstance(connection.transport, asyncio.Transport):
                connection.transport.abort()
        await asyncio.sleep(0.02)


Serve = Callable[..., int]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Starts SMTP servers on the loopback interface and returns their ports."""
    started: list[SMTPServer] = []

    def serve(inbox: Inbox, *, implicit: ssl.SSLContext | None = None, **options: Any) -> int:
        port = free_port()
        arguments = {"server_hostname": "mx.example.org", "loop": None, **options}
        started.append(SMTPServer(inbox, hostname="127.0.0.1", port=port, ssl_context=implicit, **arguments))
        started[-1].start()
        return port

    yield serve
    for server in started:
        await asyncio.to_thread(server.end)
    await asyncio.sleep(0.02)  # The clients' sides of the closed connections are closed in this event loop.


class Authority:
    """A certificate authority that only these tests trust."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "An authority for tests")])
        usage = x509.KeyUsage(True, False, False, False, False, True, True, False, False)
        builder = self._builder(self.name, self.key.public_key())
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.certificate = builder.add_extension(usage, critical=True).sign(self.key, hashes.SHA256())
        self.file = folder / "authority.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def trusted(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.file))

    def server(self, *names: str) -> ssl.SSLContext:
        """Returns a TLS context with a certificate for these names."""
        key = ec.generate_private_key(ec.SECP256R1())
        all_names: list[x509.GeneralName] = []
        for name in names:
            is_address = name.replace(".", "").isdigit()
            all_names.append(x509.IPAddress(ipaddress.ip_address(name)) if is_address else x509.DNSName(name))
        builder = self._builder(x509.Name([]), key.public_key())
        builder = builder.add_extension(x509.SubjectAlternativeName(all_names), critical=True)
        certificate = builder.sign(self.key, hashes.SHA256())
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

    def _builder(self, name: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(
            now + datetime.timedelta(hours=1)
        )
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return builder.add_extension(issuer, critical=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


async def test_a_message_is_delivered_to_a_server(serve: Serve) -> None:
    inbox = Inbox()
    mailer: Mailer = SMTPMailer("127.0.0.1", port=serve(inbox), tls="none")
    await mailer.send(make_message(text=f"Hi\n.\n..\n{LINK}", html=f"<p>Grüße {LINK}", subject="Grüße"))
    assert inbox.commands == ["MAIL mail@example.org", "RCPT ann@example.org"]
    assert inbox.messages[0]["Subject"] == "Grüße"
    assert plain_text(inbox.messages[0]) == f"Hi\n.\n..\n{LINK}\n"
    assert LINK in html_of(inbox.messages[0])
    assert LINK.encode() in inbox.raw[0].splitlines()
    assert inbox.hello == ["example.org"]
    assert socket.gethostname().encode() not in inbox.raw[0]


async def test_many_messages_can_be_sent_at_once(serve: Serve) -> None:
    inbox = Inbox()
    mailer = SMTPMailer("127.0.0.1", port=serve(inbox), tls="none")
    await asyncio.gather(*(mailer.send(make_message(to=f"n{number}@example.org")) for number in range(30)))
    assert {str(message["To"]) for message in inbox.messages} == {f"n{number}@example.org" for number in range(30)}


async def test_starttls_sends_over_tls(serve: Serve, authority: Authority) -> None:
    inbox = Inbox()
    port = serve(inbox, tls_context=authority.server("localhost", "127.0.0.1"), require_starttls=True)
    for host in ("localhost", "127.0.0.1"):
        await SMTPMailer(host, port=port, tls_context=authority.trusted()).send(make_message())
    assert inbox.over_tls == [True, True]


async def test_implicit_tls_sends_over_tls(serve: Serve, authority: Authority) -> None:
    inbox = Inbox()
    port = serve(inbox, implicit=authority.server("localhost"))
    await SMTPMailer("localhost", port=port, tls="implicit", tls_context=authority.trusted()).send(make_message())
    assert len(inbox.messages) == 1


@pytest.mark.parametrize("tls", ["starttls", "implicit"])
@pytest.mark.parametrize("flaw", ["an unknown authority", "the name of another server"])
async def test_an_invalid_certificate_is_refused(serve: Serve, authority: Authority, tls: Any, flaw: str) -> None:
    inbox = Inbox()
    unknown = flaw == "an unknown authority"
    context = authority.server("localhost" if unknown else "mail.example.org")
    port = serve(inbox, **{"implicit" if tls == "implicit" else "tls_context": context})
    mailer = SMTPMailer("localhost", port=port, tls=tls, tls_context=None if unknown else authority.trusted())
    with pytest.raises((ssl.SSLCertVerificationError, aiosmtplib.SMTPException), match="certificate verify failed"):
        await mailer.send(make_message())
    assert not inbox.commands


async def test_nothing_is_sent_to_a_server_without_starttls(serve: Serve) -> None:
    inbox = Inbox()
    mailer = SMTPMailer("localhost", port=serve(inbox), username="app", password="open sesame")
    with pytest.raises(aiosmtplib.SMTPException, match="STARTTLS"):
        await mailer.send(make_message())
    assert not inbox.commands
    assert not inbox.logins


async def test_nothing_is_sent_to_a_server_without_implicit_tls(serve: Serve) -> None:
    inbox = Inbox()
    mailer = SMTPMailer("localhost", port=serve(inbox), tls="implicit", timeout=2)
    with pytest.raises((ssl.SSLError, aiosmtplib.SMTPException, OSError)):
        await mailer.send(make_message())
    assert not inbox.commands


@contextlib.asynccontextmanager
async def scripted_server(
    talk: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[int]:
    """Starts a server that runs `talk` for one connection. Yields its port."""

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
        await asyncio.wait_for(ended.wait(), 20)
        await asyncio.sleep(0.02)
    finally:
        server.close()


async def test_answers_injected_before_starttls_are_ignored(authority: Authority) -> None:
    context = authority.server("localhost")
    requests: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mx.example.org\r\n")
        await reader.readline()
        writer.write(b"250-mx.example.org\r\n250 STARTTLS\r\n")
        await reader.readline()
        # An attacker on the network injects, unencrypted, an answer to the next EHLO.
        writer.write(b"220 go on\r\n250-mx.example.org\r\n250 AUTH PLAIN LOGIN\r\n")
        await writer.start_tls(context)
        requests.append(await reader.readline())
        writer.write(b"250 mx.example.org\r\n")
        requests.append(await reader.readline())

    async with scripted_server(talk) as port:
        mailer = SMTPMailer(
            "localhost", port=port, username="app", password="secret", tls_context=authority.trusted(), timeout=5
        )
        with pytest.raises(aiosmtplib.SMTPException, match="AUTH"):
            await mailer.send(make_message())
    assert requests[0].startswith(b"EHLO")
    assert not requests[1].startswith(b"AUTH")


async def test_the_mailer_logs_in_with_username_and_password(serve: Serve, authority: Authority) -> None:
    inbox = Inbox()
    port = serve(inbox, tls_context=authority.server("localhost"), authenticator=inbox.authenticate, auth_required=True)
    for password in ("open sesame", "wrong"):
        mailer = SMTPMailer("localhost", port=port, username="app", password=password, tls_context=authority.trusted())
        assert password not in repr(mailer)
        if password == "wrong":
            with pytest.raises(aiosmtplib.SMTPAuthenticationError):
                await mailer.send(make_message())
        else:
            await mailer.send(make_message())
    assert len(inbox.messages) == 1
    assert inbox.logins[0] == (b"app", b"open sesame")


@pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
async def test_a_password_may_be_sent_without_tls_on_this_machine(serve: Serve) -> None:
    inbox = Inbox()
    port = serve(inbox, authenticator=inbox.authenticate, auth_required=True, auth_require_tls=False)
    await SMTPMailer("127.0.0.1", port=port, username="app", password="open sesame", tls="none").send(make_message())
    assert len(inbox.messages) == 1


async def test_non_ascii_addresses_need_a_server_with_smtputf8(serve: Serve) -> None:
    with_smtputf8, without_smtputf8 = Inbox(), Inbox()
    message = make_message(to="jörg@bücher.example", sender="Grüße <grüße@example.org>", subject="Grüße")
    await SMTPMailer("127.0.0.1", port=serve(with_smtputf8), tls="none").send(message)
    assert with_smtputf8.commands == ["MAIL grüße@example.org", "RCPT jörg@xn--bcher-kva.example"]
    assert str(with_smtputf8.messages[0]["To"]) == "jörg@xn--bcher-kva.example"
    with pytest.raises(aiosmtplib.SMTPNotSupported, match="SMTPUTF8"):
        await SMTPMailer("127.0.0.1", port=serve(without_smtputf8, enable_SMTPUTF8=False), tls="none").send(message)
    assert not without_smtputf8.commands


async def test_a_non_ascii_sender_domain_is_replaced_in_ehlo(serve: Serve) -> None:
    inbox = Inbox()
    message = make_message()
    message.replace_header("From", "mail@straße.example")
    await SMTPMailer("127.0.0.1", port=serve(inbox), tls="none").send(message)
    assert inbox.hello == ["[127.0.0.1]"]


async def test_a_rejected_recipient_raises_an_error(serve: Serve) -> None:
    inbox = Inbox("550 5.1.1 No such user")
    with pytest.raises(aiosmtplib.SMTPRecipientsRefused, match="No such user"):
        await SMTPMailer("127.0.0.1", port=serve(inbox), tls="none").send(make_message())
    assert not inbox.messages


async def test_an_unreachable_server_raises_an_error() -> None:
    with pytest.raises(aiosmtplib.SMTPConnectError):
        await SMTPMailer("127.0.0.1", port=free_port(), tls="none").send(make_message())


@pytest.mark.parametrize("greeting", [b"", b"220 mx.example.org\r\n"])
async def test_a_hanging_server_times_out(greeting: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        await reader.read()

    async with scripted_server(talk) as port:
        started_at = time.monotonic()
        with pytest.raises(TimeoutError):
            await SMTPMailer("127.0.0.1", port=port, tls="none", timeout=0.2).send(make_message())
        assert time.monotonic() - started_at < 20


@pytest.mark.parametrize("goodbye", [b"", b"500 I do not know that word\r\n"])
async def test_an_error_after_an_accepted_message_is_ignored(goodbye: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in (b"220 mx", b"250 mx", b"250 ok", b"250 ok", b"354 go on"):
            writer.write(answer + b"\r\n")
            await reader.readline()
        while await reader.readline() != b".\r\n":
            pass
        writer.write(b"250 taken\r\n")
        await reader.readline()
        writer.write(goodbye)

    async with scripted_server(talk) as port:
        await SMTPMailer("127.0.0.1", port=port, tls="none", timeout=2).send(make_message())


def test_the_default_ports_are_the_standard_ports() -> None:
    ports = [SMTPMailer("mx.example.org", tls=tls).port for tls in ("starttls", "implicit", "none")]
    assert ports == [587, 465, 25]
    assert SMTPMailer("mx.example.org", port=2525).port == 2525


def test_certificates_and_host_names_are_verified_with_tls() -> None:
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
def test_unsafe_options_are_refused_with_advice(options: dict[str, Any], advice: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=advice) as refused:
        SMTPMailer(**{"host": "mx.example.org", **options})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.0.0.2", "::1"])
def test_loopback_hosts_are_recognised(host: str) -> None:
    assert repr(SMTPMailer(host, username="app", password="secret", tls="none")) == (
        f"SMTPMailer({host!r}, port=25, username='app', tls='none')"
    )


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImproperlyConfigured, match=r"pip install starlette-contrib-auth\[smtp\]"):
        SMTPMailer("localhost")


# The console


async def test_the_console_prints_headers_and_text(capsys: pytest.CaptureFixture[str]) -> None:
    await ConsoleMailer().send(make_message(text=f"Grüße\n\n{LINK}\n", html="<p>not this", subject="Grüße"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == lines[-1] == "-" * 78
    assert lines[1:-1] == [f"From: {SENDER}", "To: ann@example.org", "Subject: Grüße", "", "Grüße", "", LINK]


async def test_the_console_prints_a_message_with_one_write() -> None:
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
    await ConsoleMailer(stream).send(make_message())
    assert stream.calls == ["write", "flush"]


async def test_the_console_replaces_control_characters() -> None:
    stream = io.StringIO()
    message = make_message(text="a\x1b[2Jb\x9bc\rd\x07e\tf\u2028g")
    message.replace_header("Subject", "x\x1b]0;owned\x07")
    await ConsoleMailer(stream).send(message)
    assert all(character == "\n" or character.isprintable() for character in stream.getvalue())
    assert "\ufffd[2Jb\ufffdc" in stream.getvalue()


async def test_the_console_prints_a_message_without_a_text_part() -> None:
    stream = io.StringIO()
    message = EmailMessage()
    message["Subject"] = "Hello"
    message.set_content("<p>Hi", subtype="html")
    await ConsoleMailer(stream).send(message)
    assert "Subject: Hello" in stream.getvalue()


async def test_an_ascii_console_shows_links() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    await ConsoleMailer(stream).send(make_message(text=f"Grüße\n{LINK}"))
    assert LINK in raw.getvalue().decode().splitlines()
    assert "Gr\\xfc\\xdfe" in raw.getvalue().decode()


# The queue


class Failing:
    def __init__(self, error: BaseException) -> None:
        self.error = error

    async def send(self, message: EmailMessage) -> None:
        raise self.error


class Slow(CollectingMailer):
    """A mailer that waits for `go` and counts the mails that it sends at once."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()
        self.active = self.max_active = 0

    async def send(self, message: EmailMessage) -> None:
        self.active += 1
        self.max_active = max(self.max_active, self.active)
        await self.go.wait()
        self.active -= 1
        await super().send(message)


def message_factory(**changes: Any) -> Callable[[], Awaitable[EmailMessage | None]]:
    async def make() -> EmailMessage | None:
        return make_message(**changes)

    return make


async def no_message() -> None:
    return None


async def test_mails_are_sent_in_the_background() -> None:
    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer, longest_delay=0)
    for number in range(5):
        mail_queue.enqueue(message_factory(subject=str(number)))
    mail_queue.enqueue(no_message)
    assert not mailer.messages
    await mail_queue.drain()
    assert sorted(str(message["Subject"]) for message in mailer.messages) == list("01234")


async def test_a_single_worker_keeps_the_order() -> None:
    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer, longest_delay=0, workers=1)
    for number in range(5):
        mail_queue.enqueue(message_factory(subject=str(number)))
    await mail_queue.drain()
    assert [str(message["Subject"]) for message in mailer.messages] == list("01234")


async def test_a_mail_starts_after_a_random_delay() -> None:
    times: list[float] = []

    async def make() -> None:
        times.append(time.monotonic())

    mail_queue = MailQueue(CollectingMailer(), longest_delay=0.2)
    enqueued_at = time.monotonic()
    for _ in range(50):
        mail_queue.enqueue(make)
    while len(times) < 50:
        await asyncio.sleep(0.01)
    delays = [started_at - enqueued_at for started_at in times]
    assert min(delays) < 0.1 < max(delays) < 20


async def test_drain_skips_the_random_delay() -> None:
    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer, longest_delay=1000)
    mail_queue.enqueue(message_factory())
    started_at = time.monotonic()
    await mail_queue.drain()
    assert time.monotonic() - started_at < 20
    assert len(mailer.messages) == 1
    mail_queue.enqueue(message_factory())
    await asyncio.sleep(0.05)
    assert len(mailer.messages) == 1  # `drain` affects only mails enqueued before it returns.
    await mail_queue.drain()
    assert len(mailer.messages) == 2


async def test_drain_waits_for_mails_enqueued_meanwhile() -> None:
    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer)

    async def make() -> EmailMessage:
        mail_queue.enqueue(message_factory(subject="second"))
        return make_message(subject="first")

    mail_queue.enqueue(make)
    await mail_queue.drain()
    assert sorted(str(message["Subject"]) for message in mailer.messages) == ["first", "second"]


async def test_a_mail_is_composed_in_the_language_of_the_caller() -> None:
    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer)

    async def make() -> EmailMessage:
        return make_message(language=current_language().tag)

    for tag in ("de", "fr"):
        with override_language(Language(tag, ENGLISH.catalog)):
            mail_queue.enqueue(make)
    await mail_queue.drain()
    assert sorted(str(message["Content-Language"]) for message in mailer.messages) == ["de", "fr"]


async def test_workers_limits_the_mails_sent_at_once() -> None:
    mailer = Slow()
    mail_queue = MailQueue(mailer, longest_delay=0, workers=3)
    for _ in range(10):
        mail_queue.enqueue(message_factory())
    await asyncio.sleep(0.05)
    assert mailer.active == 3
    mailer.go.set()
    await mail_queue.drain()
    assert len(mailer.messages) == 10
    assert mailer.max_active == 3


async def test_a_mail_above_max_pending_is_dropped_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer, max_pending=2)
    for _ in range(3):
        mail_queue.enqueue(message_factory())
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [
        (logging.ERROR, "A mail was dropped: 2 are waiting to be sent.")
    ]
    await mail_queue.drain()
    assert len(mailer.messages) == 2
    mail_queue.enqueue(message_factory())
    await mail_queue.drain()
    assert len(mailer.messages) == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (aiosmtplib.SMTPDataError(550, "no"), "SMTPDataError: (550, 'no')"),
        (OSError("down\r\nCRITICAL root: forged\x1b[2J"), "OSError: down  CRITICAL root: forged [2J"),
        (ValueError(f"554 The link <{LINK}> is on a list"), "ValueError: 554 The link <[link] is on a list"),
        (TimeoutError(), "TimeoutError: "),
    ],
)
async def test_an_error_of_the_mailer_is_logged(
    error: Exception, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    mail_queue = MailQueue(Failing(error))
    mail_queue.enqueue(message_factory())
    await mail_queue.drain()
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("starlette_auth", logging.ERROR)
    assert record.getMessage() == f"A mail could not be sent: {expected}"
    assert record.exc_info is None


async def test_a_hanging_mailer_does_not_block_the_queue(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "LONGEST_SENDING", 0.05)
    mail_queue = MailQueue(Slow(), workers=1)
    for _ in range(2):
        mail_queue.enqueue(message_factory())
    await mail_queue.drain(timeout=5)
    assert [record.getMessage() for record in caplog.records] == ["A mail could not be sent: TimeoutError: "] * 2


async def test_a_mail_that_cannot_be_composed_is_logged_with_a_traceback(caplog: pytest.LogCaptureFixture) -> None:
    async def make() -> EmailMessage:
        secret = LINK
        raise LookupError(f"no template\nfor {secret}")

    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer)
    mail_queue.enqueue(make)
    mail_queue.enqueue(message_factory())
    await mail_queue.drain()
    (record,) = caplog.records
    assert record.getMessage().startswith("A mail could not be composed: LookupError: no template for [link]\n")
    assert "test_mail.py" in record.getMessage()
    assert LINK not in caplog.text
    assert record.exc_info is None  # Log collectors would record the local variables.
    assert len(mailer.messages) == 1


async def test_drain_cancels_and_logs_late_mails(caplog: pytest.LogCaptureFixture) -> None:
    mailer = Slow()
    mail_queue = MailQueue(mailer)
    mail_queue.enqueue(message_factory())
    mail_queue.enqueue(message_factory())
    await mail_queue.drain(timeout=0.05)
    mail_queue.enqueue(message_factory())
    await mail_queue.drain(timeout=0)
    assert [record.getMessage() for record in caplog.records] == ["A mail was cancelled before it was sent."] * 3
    mailer.go.set()
    await mail_queue.drain()
    assert not mailer.messages


async def test_drain_does_not_wait_for_a_mailer_that_ignores_cancellation() -> None:
    release = asyncio.Event()

    class Stubborn:
        async def send(self, message: EmailMessage) -> None:
            while not release.is_set():
                with contextlib.suppress(asyncio.CancelledError):
                    await release.wait()

    mail_queue = MailQueue(Stubborn())
    mail_queue.enqueue(message_factory())
    started_at = time.monotonic()
    await mail_queue.drain(timeout=0.05)
    assert time.monotonic() - started_at < 20
    release.set()
    await mail_queue.drain()


def test_each_event_loop_has_its_own_queue(caplog: pytest.LogCaptureFixture) -> None:
    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer, longest_delay=1000)

    async def enqueue() -> None:
        mail_queue.enqueue(message_factory())
        await asyncio.sleep(0)

    async def enqueue_and_drain() -> None:
        mail_queue.enqueue(message_factory())
        await mail_queue.drain(timeout=2)

    asyncio.run(enqueue())  # This event loop ends and cancels its mail.
    asyncio.run(enqueue_and_drain())
    asyncio.run(mail_queue.drain(timeout=2))
    assert len(mailer.messages) == 1
    assert [record.getMessage() for record in caplog.records] == ["A mail was cancelled before it was sent."]
    asyncio.run(enqueue_and_drain())
    assert len(mail_queue._queues._values) == 1  # Closed event loops are forgotten.


async def test_draining_one_event_loop_keeps_the_mails_of_another() -> None:
    mailer = CollectingMailer()
    mail_queue = MailQueue(mailer, longest_delay=1000)
    mail_queue.enqueue(message_factory(subject="this loop"))

    async def enqueue_and_drain() -> None:
        mail_queue.enqueue(message_factory(subject="another loop"))
        await mail_queue.drain()

    await asyncio.to_thread(asyncio.run, enqueue_and_drain())
    assert [str(message["Subject"]) for message in mailer.messages] == ["another loop"]
    await mail_queue.drain()
    assert len(mailer.messages) == 2


def test_enqueue_without_an_event_loop_raises_an_error() -> None:
    with pytest.raises(ImproperlyConfigured, match="coroutine"):
        MailQueue(CollectingMailer()).enqueue(message_factory())


def test_without_a_mailer_no_mail_is_composed() -> None:
    MailQueue(None).enqueue(message_factory())


# CollectingMailer


def app_of(mail_queue: MailQueue) -> Starlette:
    def page(request: Request) -> PlainTextResponse:
        return PlainTextResponse("We have sent a mail if there is such an account.")

    async def reset(request: Request) -> PlainTextResponse:
        mail_queue.enqueue(
            message_factory(to=request.query_params["to"], text=f"See {LINK}#{request.query_params['to']}.")
        )
        return page(request)

    return Starlette(routes=[Route("/", reset)])


def test_the_collecting_mailer_waits_for_mails_and_finds_links() -> None:
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
        assert mailer.links("unknown@example.org") == []
        mailer.clear()
        assert mailer.messages == []


def test_wait_for_explains_a_timeout() -> None:
    with pytest.raises(TimeoutError, match=r"0 of 1 mails .* `with TestClient"):
        CollectingMailer().wait_for(1, timeout=0.01)


async def test_wait_for_is_refused_in_an_async_test() -> None:
    with pytest.raises(RuntimeError, match="drain"):
        CollectingMailer().wait_for()
