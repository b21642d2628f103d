"""Mailers: SMTP, and the console during development."""

import importlib
import ipaddress
import ssl
import sys
from contextlib import suppress
from email.message import EmailMessage
from typing import Any, Literal, Protocol, TextIO

from ..core.exceptions import ImproperlyConfigured
from .messages import CONTROL, plain_text

PORTS = {"starttls": 587, "implicit": 465, "none": 25}


class Mailer(Protocol):
    """Carries a mail to whoever stands in its To header; raises what it likes if it cannot."""

    async def send(self, message: EmailMessage) -> None: ...


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
        lines = [
            "-" * 78,
            *headers,
            "",
            *plain_text(message).replace("\r\n", "\n").rstrip("\n").split("\n"),
            "-" * 78,
            "",
        ]
        # A name that somebody chose must not move the cursor, or retitle the window, of who reads this.
        block = "\n".join(CONTROL.sub("\N{REPLACEMENT CHARACTER}", line.expandtabs()) for line in lines)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(block.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
