"""Mail about accounts, rendered from templates."""

import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from ..core.clock import Clock, utc_now
from ..core.exceptions import ImproperlyConfigured
from ..core.templating import Templates
from ..core.translation import current_language
from .messages import build_message
from .queue import MailQueue

ORIGIN = re.compile(r"https?://[^\s/?#@\\]+/?")


@dataclass(frozen=True, kw_only=True)
class TemplateMail:
    """One mail: for whom, the name of its templates, and what they are told."""

    to: str
    name: str
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)


class AccountMailer:
    """Writes what the site has to tell people who are not looking at it.

    `base_url` is the site's scheme and host, as in https://shop.example. It is never taken from a request: whoever
    writes the Host header would otherwise choose where a link leads.
    """

    def __init__(
        self,
        templates: Templates,
        queue: MailQueue,
        *,
        base_url: str | None,
        site_name: str,
        from_email: str,
        path_for: Callable[..., str],
        clock: Clock = time.time,
    ) -> None:
        self.templates = templates
        self.queue = queue
        self.base_url = _origin(base_url) if base_url is not None else None
        host = urlsplit(self.base_url or "").hostname or "localhost"
        self.site_name = site_name or host
        self.from_email = from_email or f"noreply@{'localhost' if ':' in host else host}"
        try:
            build_message(sender=self.from_email, to="ann@example.org", subject="", text="")
        except ValueError as error:
            raise ImproperlyConfigured(
                'from_email is no address. Pass from_email="Shop <accounts@shop.example>".'
            ) from error
        self._path_for = path_for
        self._clock = clock

    @property
    def is_configured(self) -> bool:
        return self.queue.mailer is not None and self.base_url is not None

    def require_configured(self) -> None:
        if not self.is_configured:
            raise ImproperlyConfigured(
                "This page sends mails, and needs a mailer and the address of the site. Pass "
                'Auth(mailer=SMTPMailer("smtp.example"), base_url="https://shop.example"), or mailer=ConsoleMailer() '
                "while you develop."
            )

    def link(self, conn: HTTPConnection, name: str, **params: Any) -> str:
        """The absolute URL of a page."""
        return f"{self.base_url}{self._path_for(conn, name, **params)}"

    def enqueue_from(self, find: Callable[[], Awaitable[TemplateMail | None]]) -> None:
        """Sends what `find` gives, after the response: the visitor waits for neither, and learns nothing by the time."""

        async def make() -> EmailMessage | None:
            letter = await find()
            return None if letter is None else await self._write(letter)

        self.queue.enqueue(make)

    def enqueue(self, letter: TemplateMail) -> None:
        """The same, where it is known already what to send."""

        async def find() -> TemplateMail:
            return letter

        self.enqueue_from(find)

    async def _write(self, letter: TemplateMail) -> EmailMessage:
        language = current_language()
        context = {
            "site_name": self.site_name,
            "site_url": self.base_url,
            "language": language.tag,
            "direction": language.direction,
            "user": None,
            "link": None,
            "email": letter.to,
            **letter.context,
        }
        parts = [
            await self.templates.render(f"registration/{letter.name}_{part}", context)
            for part in ("subject.txt", "email.txt", "email.html")
        ]
        return build_message(
            sender=self.from_email,
            to=letter.to,
            subject=parts[0],
            text=parts[1],
            html=parts[2],
            language=language.tag,
            date=utc_now(self._clock),
        )


def _origin(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        host, port, rest = parts.hostname or "", parts.port, parts.path.strip("/") + parts.query + parts.fragment
    except ValueError:
        host, port, rest = "", None, ""
    address = f"[{host}]" if ":" in host else host
    if not host or rest or not ORIGIN.fullmatch(base_url) or parts.scheme not in ("http", "https"):
        raise ImproperlyConfigured(
            'base_url is no scheme and host. Pass base_url="https://shop.example", without a path, user or password.'
        )
    return f"{parts.scheme}://{address}" + (f":{port}" if port else "")
