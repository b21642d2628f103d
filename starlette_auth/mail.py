"""What a mail is, and who carries it."""

import importlib
import ipaddress
import re
import secrets
import ssl
import sys
import unicodedata
from contextlib import suppress
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage
from typing import Any, Literal, Protocol, TextIO

from .exceptions import ImproperlyConfigured

PORTS = {"starttls": 587, "implicit": 465, "none": 25}
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
ATOM = r'[^\s\x00-\x20\x7f"(),.:;<>@\[\\\]]+'
LABEL = r"[A-Za-z0-9_\-\u0080-\U0010ffff]+"
NAMED = re.compile(r'(?:"([^"<>\\]+)"|([^<>\\]*?)) *<([^<>]*)>')
ADDRESS = re.compile(rf"({ATOM}(?:\.{ATOM})*)@({LABEL}(?:\.{LABEL})*)")


class Mailer(Protocol):
    """Carries a mail to whoever stands in its To header; raises what it likes if it cannot."""

    async def send(self, message: EmailMessage) -> None: ...


def compose(
    *,
    sender: str,
    to: str,
    subject: str,
    text: str,
    html: str | None = None,
    language: str = "",
    date: datetime | None = None,
) -> EmailMessage:
    """A mail to one person. ValueError for line breaks in a header, and for all but one plain address in `to`.

    `sender` is `mail@example.org` or `The site <mail@example.org>`. `date` is now, if no other is given.
    """
    author, reader, subject = _sender(sender), one_address(to), _one_line(subject.strip(), "subject")
    beyond_ascii = not (author.username + reader.addr_spec).isascii()
    message = EmailMessage(policy.default.clone(cte_type="7bit", utf8=beyond_ascii))
    message["From"] = author
    message["To"] = reader
    message["Subject"] = subject
    # A header is decoded when it is set: "=?utf-8?q?=0ABcc:_mallory=40example.com?=" holds a line break.
    if "=?" in sender or (*message["To"].addresses, message["Subject"]) != (reader, subject):
        raise ValueError("A header of a mail holds what is read as something else. Remove the =?…?= from it.")
    message["Date"] = date or datetime.now(UTC)
    # Neither the name of this machine nor the number of the process is anybody's business.
    message["Message-ID"] = f"<{secrets.token_hex(16)}@{author.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no "I am on holiday" comes back.
    message.set_content(text, cte=_encoding(text))
    if html is not None:
        message.add_alternative(html, subtype="html", cte=_encoding(html))
    if language:
        message["Content-Language"] = _one_line(language, "language")
    return message


def one_address(address: str, name: str = "recipient") -> Address:
    """The address, its domain in ASCII. ValueError for anything else than one plain address."""
    found = ADDRESS.fullmatch(address[:255])
    # Lists, groups, comments and quoted names are other things; so is what cannot be seen, or would be decoded.
    unclear = "=?" in address or any(unicodedata.category(character)[0] in "CZ" for character in address[:255])
    if found is None or unclear or len(address) > 254:  # RFC 5321 §4.5.3.1.3
        raise ValueError(f"The {name} of a mail is one address, without spaces or line breaks, as ann@example.org.")
    domain = _ascii(found[2])
    if name == "sender" and not domain.isascii():
        raise ValueError("The sender's domain is not surely the same in ASCII. Write it in its xn-- form.")
    return Address("", found[1], domain)


def text_of(message: EmailMessage) -> str:
    """The decoded text part; empty if there is none."""
    body = message.get_body(("plain",))
    return "" if body is None else str(body.get_content())


class SMTPMailer:
    """Hands mails to a server, over TLS whose certificate and host name are verified, or not at all.

    `tls="starttls"` asks for TLS after connecting, and gives up if the server has none; `"implicit"` begins with it;
    `"none"` is for a relay on the same machine or a network of your own. `timeout` is for each of the server's answers.
    Create it before the event loop runs: it reads the certificates of the system, unless a `tls_context` is given.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        tls: Literal["starttls", "implicit", "none"] = "starttls",
        tls_context: ssl.SSLContext | None = None,
        timeout: float = 10.0,
    ) -> None:
        if tls not in PORTS:
            raise ImproperlyConfigured(f'tls={tls!r} is unknown. Pass tls="starttls", "implicit" or "none".')
        if (username is None) != (password is None):
            raise ImproperlyConfigured("SMTPMailer needs username and password, or neither. Pass both.")
        if tls == "none" and username is not None and not _is_loopback(host):
            raise ImproperlyConfigured("The password would be sent in the clear. Remove tls='none'.")
        if tls == "none" and tls_context is not None:
            raise ImproperlyConfigured("tls='none' makes no use of a tls_context. Remove one of the two.")
        if tls_context is not None and tls_context.verify_mode != ssl.CERT_REQUIRED:
            raise ImproperlyConfigured(
                "This tls_context takes any certificate. Make it by ssl.create_default_context(cafile=…)."
            )
        try:
            self._library: Any = importlib.import_module("aiosmtplib")
        except ModuleNotFoundError as error:
            raise ImproperlyConfigured(
                "SMTPMailer needs aiosmtplib. Run `pip install starlette-contrib-auth[smtp]`."
            ) from error
        self.host = host
        self.port = PORTS[tls] if port is None else port
        self.username = username
        self._password = password
        self.tls = tls
        self.tls_context = ssl.create_default_context() if tls_context is None and tls != "none" else tls_context
        self.timeout = timeout

    async def send(self, message: EmailMessage) -> None:
        domain = message["From"].addresses[0].domain
        connection = self._library.SMTP(
            hostname=self.host,
            port=self.port,
            username=self.username,
            password=self._password,
            # The name of this machine takes a look-up to find out, and is often not one that servers accept.
            local_hostname=domain if domain.isascii() else "[127.0.0.1]",
            timeout=self.timeout,
            use_tls=self.tls == "implicit",
            start_tls=self.tls == "starttls",  # None would take TLS where it is offered: an attacker removes the offer.
            tls_context=self.tls_context,
        )
        try:
            await connection.connect()
            await connection.send_message(message)
            with suppress(self._library.SMTPException):  # It is sent, however the server says goodbye.
                await connection.quit()
        finally:
            connection.close()

    def __repr__(self) -> str:
        return f"SMTPMailer({self.host!r}, port={self.port}, username={self.username!r}, tls={self.tls!r})"


class ConsoleMailer:
    """Prints mails in place of sending them: for development."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream

    async def send(self, message: EmailMessage) -> None:
        stream = self.stream or sys.stdout
        headers = [f"{name}: {message[name]}" for name in ("From", "To", "Subject")]
        lines = ["-" * 78, *headers, "", *text_of(message).replace("\r\n", "\n").rstrip("\n").split("\n"), "-" * 78, ""]
        # A name that somebody chose must not move the cursor, or retitle the window, of who reads this.
        block = "\n".join(CONTROL.sub("\N{REPLACEMENT CHARACTER}", line.expandtabs()) for line in lines)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(block.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def _one_line(text: str, name: str) -> str:
    # What ends a header begins another one: "Hello\r\nBcc: everybody@example.org".
    if CONTROL.search(text):
        raise ValueError(f"The {name} of a mail holds a line break or a control character. Remove it.")
    return text


def _sender(sender: str) -> Address:
    found = NAMED.fullmatch(_one_line(sender, "sender"))
    if found is None:
        return one_address(sender, "sender")
    address = one_address(found[3], "sender")
    return Address(found[1] or found[2], address.username, address.domain)


def _ascii(domain: str) -> str:
    """The domain in ASCII; as it was, if that would be another domain (IDNA 2003: straße is strasse)."""
    with suppress(UnicodeError):
        encoded = domain.encode("idna")
        if encoded.decode("idna") == unicodedata.normalize("NFC", domain).lower():
            return encoded.decode("ascii")
    return domain


def _encoding(text: str) -> str | None:
    """ASCII goes as it is, so that links stay whole (RFC 5322 §2.1.1: 998 characters a line); else Python chooses."""
    return "7bit" if text.isascii() and all(len(line) <= 998 for line in text.splitlines()) else None


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
