"""The example application in a process of its own."""

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from starlette_auth.mail.messages import plain_text

ROOT = Path(__file__).parent.parent.parent
SETTINGS = (
    *("DATABASE_URL", "SECRET_KEY", "SESSION_STORE", "REDIS_URL", "SESSION_LIMITS", "MAX_SESSIONS", "WORKERS"),
    *("DJANGO", "HOST", "PORT", "BASE_URL"),
    *("MAIL", "MAIL_FROM", "TRUSTED_PROXIES", "LANGUAGES", "THROTTLING", "HIBP"),
)
# What ConsoleMailer writes.
PRINTED = re.compile(r"(?m)^-{78}\nFrom: .*\nTo: (.*)\nSubject: (.*)\n\n((?:.*\n)*?)-{78}$")


class Mail(NamedTuple):
    to: str
    subject: str
    text: str

    @property
    def link(self) -> str:
        found = re.search(r"http://\S+", self.text)
        assert found, self.text
        return found[0]

    @property
    def token(self) -> str:
        """The secret at the end of the link; empty in a link that everybody may open."""
        last = self.link.rpartition("/")[2]
        return last if len(last) > 40 else ""


class Inbox:
    """What aiosmtpd does with mails: it keeps them."""

    def __init__(self) -> None:
        self.mails: list[Mail] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802  its name for it
        message = message_from_bytes(envelope.content, EmailMessage, policy=default)
        self.mails.append(Mail(message["To"], message["Subject"], plain_text(message)))
        return "250 OK"


class Server:
    """`python -m example_app` in a process of its own. Its mails are in the log, unless an `inbox` gets them.

    Another `module` may have another path that answers once it is `ready`.
    """

    def __init__(
        self,
        folder: Path,
        port: int,
        environment: dict[str, str],
        *,
        module: str = "example_app",
        ready: str = "/healthz",
        inbox: Inbox | None = None,
    ) -> None:
        self.url = f"http://localhost:{port}"
        self.recovery_codes: list[str] = []  # of the first user
        self.folder = folder
        self.ready = ready
        self.inbox = inbox
        self.log = folder / f"log-{port}"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module], cwd=folder, env=environment, stdout=log, stderr=log
            )

    def wait(self) -> "Server":
        for _ in range(300):
            assert self.process.poll() is None, self.output
            try:
                httpx.get(self.url + self.ready).raise_for_status()
                return self
            except httpx.TransportError:
                time.sleep(0.1)
        raise AssertionError(f"It does not answer: {self.output}")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(20)

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def log_without_mails(self) -> str:
        """And without the first password, which is shown only once."""
        return PRINTED.sub("", self.output).replace(f"password: {self.password}", "", 1)

    @property
    def mails(self) -> list[Mail]:
        if self.inbox is not None:
            return list(self.inbox.mails)
        return [Mail(*found.groups()) for found in PRINTED.finditer(self.output)]

    def mail(self, to: str, about: str, *, after: Mail | None = None) -> Mail:
        """The newest to an address with these words in its subject. It may still be on its way."""
        for _ in range(100):
            found = [mail for mail in self.mails if mail.to == to and about in mail.subject and mail != after]
            if found:
                return found[-1]
            time.sleep(0.1)
        raise AssertionError(f"{to} got no mail about {about!r}: {self.mails}")

    @property
    def password(self) -> str:
        found = re.search(r"password: (\S+)", self.output)
        assert found, self.output
        return found[1]


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in SETTINGS}
    return {**kept, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


Start = Callable[..., Server]
