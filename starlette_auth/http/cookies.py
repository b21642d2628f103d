"""Where is the cookie parsed? Names, flags, reading and writing of a cookie."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from starlette.types import Scope

from ..core.clock import TWO_WEEKS
from ..core.exceptions import ImproperlyConfigured


@dataclass(frozen=True, kw_only=True)
class Cookie:
    """How a cookie is named and guarded.

    Over https the name gets the prefix `__Host-` (RFC 6265bis §4.1.3.2), or `__Secure-` when a domain or a path is
    set, so that no neighbouring subdomain can plant one. `max_age` is how long an anonymous visitor's session lasts
    after each change, in seconds. `secure="auto"` follows the scheme of the
    request; say True behind a proxy that ends TLS without telling. `ends_with_browser`: an anonymous visitor's cookie, too.
    """

    name: str = "session"
    max_age: int = TWO_WEEKS
    path: str = "/"
    domain: str | None = None
    secure: bool | Literal["auto"] = "auto"
    samesite: Literal["lax", "strict", "none"] = "lax"
    prefix: bool = True
    httponly: bool = True
    expire_at_browser_close: bool = False

    def __post_init__(self) -> None:
        if any(mark in f"{self.name}{self.path}{self.domain or ''}" for mark in ';,= \t\r\n"\\'):
            raise ImproperlyConfigured(
                "A cookie's name, path and domain hold no ; , = quotes or white space. Remove them."
            )
        if self.samesite == "none" and self.secure is False:
            raise ImproperlyConfigured(
                'Browsers refuse SameSite=None without Secure. Pass secure=True or samesite="lax".'
            )

    def is_secure(self, scope: Scope) -> bool:
        if self.secure == "auto":
            return scope.get("scheme") in ("https", "wss")
        return self.secure

    @cached_property
    def names(self) -> tuple[str, str]:
        """What it is called over http, and over https."""
        prefix = "__Host-" if self.path == "/" and self.domain is None else "__Secure-"
        return self.name, f"{prefix}{self.name}" if self.prefix else self.name

    def read(self, scope: Scope) -> str | None:
        """The value that came with the request. Over https, a cookie without the prefix is not looked at."""
        wanted, found = b"", []
        for name, value in scope["headers"]:
            if name != b"cookie":
                continue
            wanted = wanted or self.names[self.is_secure(scope)].encode()
            for pair in value.split(b";"):
                key, _, content = pair.partition(b"=")
                # Only these two bytes are white space here: to Python more are, and a name padded with one of those is
                # another name to the browser, which guards the prefix.
                if key.strip(b" \t") == wanted:
                    found.append(content.strip(b" \t").decode("latin-1"))
        if len(found) > 1 and wanted.startswith(b"__"):
            return None
        return found[-1] or None if found else None

    def header(self, scope: Scope, value: str, max_age: int | None) -> tuple[bytes, bytes]:
        """A Set-Cookie header; without `max_age` the browser forgets the cookie when it closes."""
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
