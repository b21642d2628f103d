"""Mail about accounts, rendered from templates."""

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from ..core.arguments import require_text
from ..core.clock import Clock, utc_now
from ..core.exceptions import ImproperlyConfigured
from ..core.templating import Templates
from ..core.translation import current_language, format_duration
from ..http.urls import parse_base_url
from .messages import build_message
from .queue import MailQueue, note_recipient

logger = logging.getLogger("starlette_auth")


@dataclass(frozen=True, kw_only=True)
class TemplateMail:
    """Describes one mail: the recipient, the name of its templates and their context."""

    to: str
    name: str
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)


class AccountMailer:
    """Renders account mails (password reset, confirmation, notices) and puts them into the mail queue.

    `base_url` is the site's scheme and host, as in https://shop.example. An attacker can send a request with a forged
    Host header, which would otherwise put the attacker's host into a mailed link. Therefore links use `base_url` only.
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
        require_text(site_name, "site_name", 'Pass site_name="Shop".')
        if not site_name.isprintable():  # it becomes a part of subjects
            raise ImproperlyConfigured(
                "site_name contains a line break or an invisible character. Pass one line of text."
            )
        require_text(from_email, "from_email", 'Pass from_email="Shop <accounts@shop.example>".')
        self.base_url = parse_base_url(base_url) if base_url is not None else None
        host = urlsplit(self.base_url or "").hostname or "localhost"
        self.site_name = site_name or host
        self.from_email = from_email or f"noreply@{'localhost' if ':' in host else host}"
        try:
            build_message(sender=self.from_email, to="ann@example.org", subject="", text="")
        except ValueError as error:
            raise ImproperlyConfigured(
                'from_email is not a valid address. Pass from_email="Shop <accounts@shop.example>".'
            ) from error
        self._path_for = path_for
        self._clock = clock

    @property
    def is_configured(self) -> bool:
        return self.queue.mailer is not None and self.base_url is not None

    def require_configured(self) -> None:
        if not self.is_configured:
            raise ImproperlyConfigured(
                "This page sends mail, which needs a mailer and the site's base URL. Pass "
                'Auth(mailer=SMTPMailer("smtp.example"), base_url="https://shop.example"), or mailer=ConsoleMailer() '
                "during development."
            )

    def link(self, conn: HTTPConnection, name: str, **params: Any) -> str:
        """Returns the absolute URL of an account page, built from `base_url`."""
        return f"{self.base_url}{self._path_for(conn, name, **params)}"

    def enqueue_from(self, find: Callable[[], Awaitable[TemplateMail | None]], *, user: Any = None) -> None:
        """Queues the mail that `find` returns; None sends no mail. `find` runs in a background task.

        `user` is the recipient, if known before. Failures are logged with the user's key.

        An attacker measures response times, which would show whether an account exists. Therefore the response waits
        neither for the database query in `find` nor for the mail server.
        """

        async def make() -> EmailMessage | None:
            mail = await find()
            if mail is not None and mail.context.get("user") is not None:
                note_recipient(mail.context["user"])
            return None if mail is None else await self._render(mail)

        self.queue.enqueue(make, user=user)

    def enqueue(self, mail: TemplateMail) -> None:
        """Queues `mail`. It is rendered and sent after the response."""

        async def find() -> TemplateMail:
            return mail

        self.enqueue_from(find, user=mail.context.get("user"))

    def prepare(self, user: Any, subject: str, message: str, from_email: str | None) -> Callable[[], None]:
        """Returns a function that queues a plain-text mail to a user. Raises errors in the mail at once."""
        if self.queue.mailer is None:
            raise ImproperlyConfigured('email_user() needs a mailer. Pass Auth(mailer=SMTPMailer("smtp.example")).')
        if not user.email:
            return lambda: logger.warning("The user with the key %s has no address, and got no mail.", user.id)
        sender, date = from_email or self.from_email, utc_now(self._clock)
        built = build_message(sender=sender, to=user.email, subject=subject, text=message, date=date)

        async def make() -> EmailMessage:
            return built

        return lambda: self.queue.enqueue(make, user=user)

    def reset_mail(self, conn: HTTPConnection, user: Any, link: Mapping[str, str], max_age: int) -> TemplateMail:
        """Returns the mail with a reset link. `link` is from `make_reset_link`."""
        url = self.link(conn, "password_reset_confirm", **link)
        context = {"user": user, "link": url, "valid_for": format_duration(max_age)}
        return TemplateMail(to=user.email, name="password_reset", context=context)

    async def send(self, mail: TemplateMail) -> None:
        """Sends a mail at once, for an administrator. Raises Unavailable if the mail server rejects it."""
        await self.queue.send(await self._render(mail))

    async def _render(self, mail: TemplateMail) -> EmailMessage:
        language = current_language()
        context = {
            "site_name": self.site_name,
            "site_url": self.base_url,
            "language": language.tag,
            "direction": language.direction,
            "user": None,
            "link": None,
            "email": mail.to,
            **mail.context,
        }
        parts = [
            await self.templates.render(f"registration/{mail.name}_{part}", context)
            for part in ("subject.txt", "email.txt", "email.html")
        ]
        return build_message(
            sender=self.from_email,
            to=mail.to,
            subject=parts[0],
            text=parts[1],
            html=parts[2] if parts[2].strip() else None,
            language=language.tag,
            date=utc_now(self._clock),
        )
