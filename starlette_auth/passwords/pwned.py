"""A password validator that queries Have I Been Pwned."""

import asyncio
import hashlib
import importlib
import inspect
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.concurrency import run_in_threadpool

from ..core.arguments import require_function, require_integer, require_number, require_text
from ..core.exceptions import ImproperlyConfigured, ValidationError
from ..core.translation import gettext

logger = logging.getLogger("starlette_auth")
OnFailure = Callable[[Exception], Awaitable[None] | None]


class PwnedPasswordsValidator:
    """Rejects passwords that Have I Been Pwned has seen at least `min_count` times.

    The service receives only the first 5 of the 40 hexadecimal digits of the password's SHA-1 (k-anonymity).
    If it gives no valid answer within `timeout` seconds, the password is accepted and `on_failure` is called with the
    exception. Needs the extra `pwned`.
    """

    def __init__(
        self,
        url: str = "https://api.pwnedpasswords.com/range/",
        timeout: float = 1.0,
        min_count: int = 1,
        on_failure: OnFailure | None = None,
    ) -> None:
        try:
            self.httpx = importlib.import_module("httpx")
        except ImportError as error:
            raise ImproperlyConfigured(
                "PwnedPasswordsValidator needs httpx. Run `pip install starlette-contrib-auth[pwned]`."
            ) from error
        require_text(url, "url", "Leave it out for Have I Been Pwned.", may_be_empty=False)
        require_number(timeout, "timeout")
        require_integer(min_count, "min_count", minimum=0)
        if on_failure is not None:
            require_function(on_failure, "on_failure", "Pass a function that takes the exception.")
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
            # Only the exception's name is logged: its text contains the URL, and with it a part of the digest.
            logger.warning("A password was not looked up at Have I Been Pwned: %s", type(error).__name__)
            result = self.on_failure(error) if self.on_failure else None
            if inspect.isawaitable(result):
                await result
            return
        if count >= self.min_count:
            raise ValidationError(self.get_error_message(), "password_breached")

    def get_error_message(self) -> str:
        return gettext("This password is known from data breaches elsewhere. Choose one that you never used.")

    async def _range(self, prefix: str) -> str:
        if self._certificates is None:  # reads files, so it runs in a thread
            self._certificates = await run_in_threadpool(self.httpx.create_ssl_context)
        # A redirect could lead to another host. It counts as an invalid response.
        async with self.httpx.AsyncClient(verify=self._certificates, follow_redirects=False) as client:
            response = await client.get(self.url + prefix, headers={"Add-Padding": "true"}, timeout=self.timeout)
        response.raise_for_status()
        return str(response.text)

    def get_help_text(self) -> str:
        return gettext("Your password can’t be one that is known from data breaches.")


def _count(lines: str, suffix: str) -> int:
    """Returns how often the password was seen in breaches. Padding lines have the count 0.

    Raises ValueError if the response is not in the format of the range API.
    """
    count = 0
    for line in lines.split():
        if not re.fullmatch(r"[0-9A-Fa-f]{35}:\d{1,18}", line):
            raise ValueError("The response is not a range of digests.")
        if line[:35].upper() == suffix:
            count = int(line[36:])
    return count
