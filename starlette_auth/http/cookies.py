"""How is a cookie named, read and written?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from starlette.types import Scope

from ..core.clock import TWO_WEEKS
from ..core.exceptions import ImproperlyConfigured

MAX_VALUES = 3  # of one name in a request. An attacker could otherwise have a store look up any number of sessions.


@dataclass(frozen=True, kw_only=True)
class Cookie:
    """Configures the name and the attributes of a cookie.

    Over https the name gets the prefix `__Host-` (RFC 6265bis §4.1.3.2), or `__Secure-` if a domain or another path is
    set. An attacker on a sibling subdomain could otherwise set the cookie. `max_age` is how long the session of an
    anonymous visitor lasts after each change, in seconds. `secure="auto"` means True for an `Auth` with an https
    `base_url`, except for http on a loopback host, and else follows the scheme of the request. `secure` may be a
    function that decides by the ASGI scope. With `expire_at_browser_close=True` the
    browser also deletes the cookie of an anonymous visitor when it closes.
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

    def __post_init__(self) -> None:
        if any(character in f"{self.name}{self.path}{self.domain or ''}" for character in ';,= \t\r\n"\\'):
            raise ImproperlyConfigured(
                "A cookie's name, path and domain must not contain ; , = \\, quotes or white space. Remove them."
            )
        if self.samesite == "none" and self.secure is False:
            raise ImproperlyConfigured(
                'Browsers refuse SameSite=None without Secure. Pass secure=True or samesite="lax".'
            )

    def is_secure(self, scope: Scope) -> bool:
        if self.secure == "auto":
            return scope.get("scheme") in ("https", "wss")
        return self.secure(scope) if callable(self.secure) else self.secure

    @cached_property
    def names(self) -> tuple[str, str]:
        """The name of the cookie over http, and over https."""
        prefix = "__Host-" if self.path == "/" and self.domain is None else "__Secure-"
        return self.name, f"{prefix}{self.name}" if self.prefix else self.name

    def values(self, scope: Scope) -> list[str]:
        """Returns the different values in the request, in their order: three at most, and a fourth if there are more.

        Applications on a parent domain and on a subdomain may have cookies of one name; a browser sends both. Over
        https, a cookie without the prefix is ignored.
        """
        cookie_name, values = self.names[self.is_secure(scope)].encode(), list[str]()
        for name, header in scope["headers"]:
            if name != b"cookie":
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
        return b"set-cookie", "; ".join(parts).encode("latin-1")

    def deletion(self, scope: Scope) -> tuple[bytes, bytes]:
        return self.header(scope, "", 0)
