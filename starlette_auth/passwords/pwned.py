"""A password validator that asks Have I Been Pwned."""

import asyncio
import hashlib
import importlib
import inspect
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from ..core.exceptions import ImproperlyConfigured, ValidationError
from ..core.translation import gettext

logger = logging.getLogger("starlette_auth")


class PwnedPasswordsValidator:
    """Asks Have I Been Pwned, which learns no more than five of the forty digits of the password's SHA-1.

    If there is no good answer within `timeout` seconds, the password passes, and `on_failure` is told why.
    """

    def __init__(
        self,
        url: str = "https://api.pwnedpasswords.com/range/",
        timeout: float = 1.0,
        min_count: int = 1,
        on_failure: Callable[[Exception], Awaitable[None] | None] | None = None,
    ) -> None:
        try:
            self.httpx = importlib.import_module("httpx")
        except ImportError as error:
            raise ImproperlyConfigured(
                "PwnedPasswordsValidator needs httpx. Run `pip install starlette-contrib-auth[pwned]`."
            ) from error
        self.url = url
        self.timeout = timeout
        self.min_count = max(1, min_count)
        self.on_failure = on_failure
        self._certificates: Any = None

    async def validate(self, password: str, user: Any = None) -> None:
        digest = hashlib.sha1(password.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest().upper()
        try:
            async with asyncio.timeout(self.timeout):
                count = _count(await self._range(digest[:5]), digest[5:])
        except Exception as error:
            # By its name alone: its text has the URL, and with it a part of the digest.
            logger.warning("A password was not looked up among the breached ones: %s", type(error).__name__)
            waiting = self.on_failure(error) if self.on_failure else None
            if inspect.isawaitable(waiting):
                await waiting
            return
        if count >= self.min_count:
            raise ValidationError(
                gettext("This password is known from data breaches elsewhere. Choose one that you never used."),
                "password_breached",
            )

    async def _range(self, prefix: str) -> str:
        if self._certificates is None:  # files: not on the event loop
            self._certificates = await run_in_threadpool(self.httpx.create_ssl_context)
        # A redirect could lead anywhere; it is an answer that we did not want.
        async with self.httpx.AsyncClient(verify=self._certificates, follow_redirects=False) as client:
            answer = await client.get(self.url + prefix, headers={"Add-Padding": "true"}, timeout=self.timeout)
        answer.raise_for_status()
        return str(answer.text)

    def get_help_text(self) -> str:
        return gettext("Your password can’t be one that is known from data breaches.")


def _count(lines: str, suffix: str) -> int:
    """How often the password was seen. Padding is seen 0 times."""
    found = 0
    for line in lines.split():
        if not re.fullmatch(r"[0-9A-Fa-f]{35}:\d{1,18}", line):
            raise ValueError("This is no range of digests.")
        if line[:35].upper() == suffix:
            found = int(line[36:])
    return found
