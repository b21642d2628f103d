"""How is a cookie named, read and written?"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from starlette.types import Scope

from ..core.clock import DAY, TWO_WEEKS
from ..core.exceptions import ImproperlyConfigured

MAX_AGE = 36_500 * DAY  # seconds
# Cookies of one name that are tried. An attacker sends thousands, each of which the store would look up.
MAX_VALUES = 3
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 6265 §4.1.1
PATH = re.compile(r'/(?:(?![;,="\\])[!-~])*')
LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?"
DOMAIN = re.compile(rf"\.?{LABEL}(?:\.{LABEL})*")  # browsers ignore a leading dot (RFC 6265 §5.2.3)


@dataclass(frozen=True, kw_only=True)
class Cookie:
    """Configures the name and the attributes of a cookie.

    Over https the name gets the prefix `__Host-` (RFC 6265bis §4.1.3.2), or `__Secure-` if a domain or another path is
    set. An attacker on a sibling subdomain could otherwise set the cookie. `max_age` is how long the session of an
    anonymous visitor lasts after each change, in seconds. `secure="auto"` means True for an `Auth` with an https
    `base_url`, except for http on a loopback host, and else follows the scheme of the request. `secure` may be a
    function that decides by the ASGI scope. With `expire_at_browser_close=True` the
    browser also deletes the cookie of an anonymous visitor when it closes. `partitioned=True` (CHIPS) gives a site that
    is embedded in pages of other sites a cookie for each of them, with `samesite="none"`; without https it is left out.

    Raises ImproperlyConfigured for settings that browsers refuse.
    """

    name: str = "session"
    max_age: int = TWO_WEEKS
    path: str = "/"
    domain: str | None = None
    secure: bool | Literal["auto"] | Callable[[Scope], bool] = "auto"
    samesite: Literal["lax", "strict", "none"] = "lax"
    prefix: bool = True
    httponly: bool = True
    expire_at_browser_close: bool = False
    partitioned: bool = False

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ImproperlyConfigured(problem)

    @property
    def is_for_host(self) -> bool:
        """Returns whether browsers accept the prefix `__Host-`: without a domain, and with the path "/"."""
        return self.path == "/" and self.domain is None

    def _problems(self) -> Iterator[str]:
        texts = [text for text in (self.name, self.path, self.domain) if isinstance(text, str)]
        if any(character in "".join(texts) for character in ';,= \t\r\n"\\'):
            yield "A cookie's name, path and domain must not contain ; , = \\, quotes or white space. Remove them."
        if not isinstance(self.name, str) or not TOKEN.fullmatch(self.name):
            yield f"Cookie(name={self.name!r}) is no name of a cookie. Use letters, digits, - and _ only."
        elif self.name.lower().startswith("__host-" if self.is_for_host else "__secure-") and self.prefix:
            yield f"Cookie(name={self.name!r}) has a prefix, which is added over https. Remove it from the name."
        elif self.name.lower().startswith("__host-") and not self.is_for_host:
            yield f'Browsers refuse {self.name!r} with a domain or another path. Remove "__Host-" from the name.'
        if not isinstance(self.max_age, int) or isinstance(self.max_age, bool) or not 0 < self.max_age <= MAX_AGE:
            yield f"Cookie(max_age={self.max_age!r}) is no usual number of seconds. Pass an int, such as 14 * 24 * 60 * 60."
        if not isinstance(self.path, str) or not PATH.fullmatch(self.path):
            yield f'Cookie(path={self.path!r}) is no path of ASCII that starts with a slash. Pass path="/" or "/app".'
        if self.domain is not None and not (isinstance(self.domain, str) and DOMAIN.fullmatch(self.domain)):
            yield (
                f"Cookie(domain={self.domain!r}) is no name of a host. Pass it without scheme, port and path, as in "
                'domain="example.org", or None for this host only.'
            )
        is_function = callable(self.secure) and not isinstance(self.secure, type)
        if not isinstance(self.secure, bool) and not is_function and not _is(self.secure, "auto"):
            yield f'Cookie(secure={self.secure!r}) is not known. Pass True, False or "auto".'
        yield from self._problems_of_flags()

    def _problems_of_flags(self) -> Iterator[str]:
        if not _is(self.samesite, "lax", "strict", "none"):
            yield f'Cookie(samesite={self.samesite!r}) is not known. Pass "lax", "strict" or "none", in lower case.'
        for name in ("prefix", "httponly", "expire_at_browser_close", "partitioned"):
            if not isinstance(getattr(self, name), bool):
                yield f"Cookie({name}={getattr(self, name)!r}) is not known. Pass True or False."
        if self.secure is False and self.samesite == "none":
            yield 'Browsers refuse SameSite=None without Secure. Pass secure=True or samesite="lax".'
        has_prefix = isinstance(self.name, str) and self.name.lower().startswith(("__host-", "__secure-"))
        if self.secure is False and has_prefix:
            yield f"Browsers refuse {self.name!r} without Secure. Pass secure=True, or another name."
        if self.secure is False and self.partitioned:
            yield "Browsers refuse Partitioned without Secure. Pass secure=True, or remove partitioned=True."

    def is_secure(self, scope: Scope) -> bool:
        if self.secure == "auto":
            return scope.get("scheme") in ("https", "wss")
        return self.secure(scope) if callable(self.secure) else self.secure

    def is_of_this_host(self, scope: Scope) -> bool:
        """Returns whether only this host can have set the cookie: over https, with the prefix `__Host-`."""
        return self.is_secure(scope) and self.names[1].startswith("__Host-")

    @cached_property
    def names(self) -> tuple[str, str]:
        """The name of the cookie over http, and over https."""
        prefix = "__Host-" if self.is_for_host else "__Secure-"
        return self.name, f"{prefix}{self.name}" if self.prefix else self.name

    @cached_property
    def _encoded_names(self) -> tuple[bytes, bytes]:
        return self.names[0].encode(), self.names[1].encode()

    @cached_property
    def for_use(self) -> "Cookie":
        """The cookie with the last use of a session, for stores that keep sessions in cookies."""
        return replace(self, name=f"{self.name}_used")

    @cached_property
    def for_ended(self) -> "Cookie":
        """The cookie with the names of ended sessions, for stores that keep sessions in cookies."""
        return replace(self, name=f"{self.name}_ended", max_age=30 * DAY)

    def values(self, scope: Scope) -> list[str]:
        """Returns the different values in the request, in order: at most three, or four for more.

        Applications on a parent domain and on a subdomain may have cookies of one name; a browser sends both. Over
        https, a cookie without the prefix is ignored.
        """
        values: list[str] = []
        cookie_name = b""
        for name, header in scope["headers"]:
            if name != b"cookie":
                continue
            cookie_name = cookie_name or self._encoded_names[self.is_secure(scope)]
            if cookie_name not in header:
                continue
            for pair in header.split(b";"):
                key, _, content = pair.partition(b"=")
                # Browsers strip only space and tab from a name; bytes.strip() strips more. An attacker could set a
                # cookie whose name is padded with another byte: the browser would not see the protected prefix, but
                # bytes.strip() would. Therefore only these two bytes are stripped.
                if key.strip(b" \t") == cookie_name:
                    value = content.strip(b" \t").decode("latin-1")
                    if value and value not in values and len(values) <= MAX_VALUES:
                        values.append(value)
        return values

    def header(self, scope: Scope, value: str, max_age: int | None) -> tuple[bytes, bytes]:
        """Returns a `Set-Cookie` header. With `max_age=None` the browser deletes the cookie when it closes."""
        parts = [f"{self.names[self.is_secure(scope)]}={value}", f"Path={self.path}"]
        if self.domain:
            parts.append(f"Domain={self.domain}")
        if max_age is not None:
            parts.append(f"Max-Age={max_age}")
        if max_age == 0:
            parts.append("Expires=Thu, 01 Jan 1970 00:00:00 GMT")
        if self.httponly:
            parts.append("HttpOnly")
        parts.append(f"SameSite={self.samesite.capitalize()}")
        if self.is_secure(scope):
            parts.append("Secure")
            if self.partitioned:
                parts.append("Partitioned")
        return b"set-cookie", "; ".join(parts).encode("latin-1")

    def deletion(self, scope: Scope) -> tuple[bytes, bytes]:
        return self.header(scope, "", 0)


def _is(value: object, *texts: str) -> bool:
    return isinstance(value, str) and value in texts
