"""Mailers: SMTP, and the console during development."""

import importlib
import ipaddress
import ssl
import sys
from contextlib import suppress
from email.message import EmailMessage
from typing import Any, Literal, Protocol, TextIO

from ..core.arguments import require_instance, require_integer, require_methods, require_number, require_text
from ..core.exceptions import ImproperlyConfigured
from .messages import CONTROL, plain_text

PORTS = {"starttls": 587, "implicit": 465, "none": 25}


class Mailer(Protocol):
    """Sends a message to the recipient in its To header. Raises any exception if that fails."""

    async def send(self, message: EmailMessage) -> None: ...


class SMTPMailer:
    """Sends mail through an SMTP server, over TLS with verified certificate and host name.

    `tls="starttls"` connects to port 587 and upgrades to TLS; sending fails if the server does not offer STARTTLS.
    `"implicit"` connects to port 465 with TLS. `"none"` connects to port 25 without TLS, for a relay on the same machine
    or in a private network. `timeout` is in seconds, for each answer of the server. Create the mailer before the event
    loop runs: it reads the system's CA certificates from disk, unless you pass a `tls_context`.
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
        require_text(host, "host", 'Pass SMTPMailer("smtp.example").', may_be_empty=False)
        if "://" in host or any(character.isspace() for character in host):
            raise ImproperlyConfigured('host is not the name of a host. Pass SMTPMailer("smtp.example", port=587).')
        if port is not None:
            require_integer(port, "port", maximum=65_535)
        require_number(timeout, "timeout")
        if not isinstance(tls, str) or tls not in PORTS:
            raise ImproperlyConfigured(f'tls={tls!r} is unknown. Pass tls="starttls", "implicit" or "none".')
        for name, text in (("username", username), ("password", password)):
            if text is not None:
                require_text(text, name, f"Pass {name} as text, or None.")
        if (username is None) != (password is None):
            raise ImproperlyConfigured("SMTPMailer needs username and password, or neither. Pass both.")
        if tls == "none" and username is not None and not _is_loopback(host):
            raise ImproperlyConfigured("The password would be sent in the clear, without TLS. Remove tls='none'.")
        if tls_context is not None:
            fix = "Pass tls_context=ssl.create_default_context(cafile=…)."
            require_instance(tls_context, ssl.SSLContext, "tls_context", fix)
        if tls == "none" and tls_context is not None:
            raise ImproperlyConfigured("tls='none' does not use a tls_context. Remove one of the two.")
        if tls_context is not None and tls_context.verify_mode != ssl.CERT_REQUIRED:
            raise ImproperlyConfigured(
                "This tls_context accepts any certificate. Create it with ssl.create_default_context(cafile=…)."
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
            # The default would be this machine's host name, which needs a DNS look-up and is rejected by many servers.
            local_hostname=domain if domain.isascii() else "[127.0.0.1]",
            timeout=self.timeout,
            use_tls=self.tls == "implicit",
            # With None, TLS is optional: an attacker on the network removes the server's STARTTLS offer, and the mail
            # would be sent in the clear. Therefore TLS is either required or off.
            start_tls=self.tls == "starttls",
            tls_context=self.tls_context,
        )
        try:
            await connection.connect()
            await connection.send_message(message)
            with suppress(self._library.SMTPException):  # The message is accepted; errors of QUIT do not matter.
                await connection.quit()
        finally:
            connection.close()

    def __repr__(self) -> str:
        return f"SMTPMailer({self.host!r}, port={self.port}, username={self.username!r}, tls={self.tls!r})"


class ConsoleMailer:
    """Prints mails instead of sending them, for development."""

    def __init__(self, stream: TextIO | None = None) -> None:
        if stream is not None:
            require_methods(stream, ("write", "flush"), "stream", "Pass an open text file, or leave it out for stdout.")
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
        # An attacker chooses a username with terminal escape sequences, which would move the cursor or change the window
        # title of the developer's terminal. Therefore control characters are replaced.
        block = "\n".join(CONTROL.sub("\N{REPLACEMENT CHARACTER}", line.expandtabs()) for line in lines)
        encoding = getattr(stream, "encoding", None) or "utf-8"
        stream.write(block.encode(encoding, "backslashreplace").decode(encoding))
        stream.flush()


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
