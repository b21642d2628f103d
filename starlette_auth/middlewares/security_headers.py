"""The middleware that adds security headers to every response of a site."""

from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..core.arguments import require_application, require_bool, require_function, require_instance, require_integer
from ..core.exceptions import ImproperlyConfigured
from ..http.headers import response_headers

YEAR = 365 * 24 * 60 * 60
DEFAULT_POLICY = (
    "base-uri 'none'; object-src 'none'; frame-ancestors 'none'"  # ASVS 3.4.3 also asks for a source of scripts
)


@dataclass(frozen=True, kw_only=True)
class SecurityHeaders:
    """The security headers of a site. A response that has one of them already keeps its own.

    `content_security_policy`: the CSP of your pages; the default forbids plugins, `<base>` and frames on other sites.
    `referrer_policy` and `cross_origin_opener_policy`: as in Django, "same-origin". None leaves a header out.

    `hsts` is for how many seconds browsers use https only (RFC 6797), one year by default. It is sent over https only,
    for this host only unless `hsts_subdomains`, and 0 makes browsers forget it. `hsts_preload` asks to be included in
    the list of the browsers (hstspreload.org). `no_store`: whether responses for logged-in users that have no
    `Cache-Control` may not be stored by any cache.
    """

    content_security_policy: str | None = DEFAULT_POLICY
    referrer_policy: str | None = "same-origin"
    cross_origin_opener_policy: str | None = "same-origin"
    hsts: int | None = YEAR
    hsts_subdomains: bool = False
    hsts_preload: bool = False
    no_store: bool = True

    def __post_init__(self) -> None:
        for name in ("content_security_policy", "referrer_policy", "cross_origin_opener_policy"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.isprintable() or not value.isascii()):
                raise ImproperlyConfigured(f"{name}={value!r} is no header. Pass one line of ASCII text, or None.")
        for name in ("hsts_subdomains", "hsts_preload", "no_store"):
            require_bool(getattr(self, name), name)
        if self.hsts is not None:
            require_integer(self.hsts, "hsts", minimum=0)
        if self.hsts_preload and not (self.hsts_subdomains and (self.hsts or 0) >= YEAR):
            raise ImproperlyConfigured(
                "Browsers preload only sites with all subdomains, for at least a year. Pass hsts_subdomains=True and "
                "hsts=365 * 24 * 60 * 60, or leave hsts_preload out."
            )

    def fixed(self) -> list[tuple[bytes, bytes]]:
        """Returns the headers that do not depend on the request."""
        headers = {
            "x-content-type-options": "nosniff",
            "content-security-policy": self.content_security_policy,
            "referrer-policy": self.referrer_policy,
            "cross-origin-opener-policy": self.cross_origin_opener_policy,
        }
        return [(name.encode(), value.encode()) for name, value in headers.items() if value]

    def strict_transport_security(self) -> list[tuple[bytes, bytes]]:
        """Returns the header Strict-Transport-Security, in a list; an empty list without `hsts`."""
        if self.hsts is None:
            return []
        value = f"max-age={self.hsts}"
        value += "; includeSubDomains" if self.hsts_subdomains else ""
        value += "; preload" if self.hsts_preload else ""
        return [(b"strict-transport-security", value.encode())]


class SecurityHeadersMiddleware:
    """Adds security headers to every response: `middleware(auth, headers=SecurityHeaders(…))`.

    `is_https` decides from the ASGI scope whether browsers see this site over https; by default the scheme does. The
    page of an unhandled exception is made outside of all middlewares, and has none of these headers.
    """

    def __init__(
        self,
        app: ASGIApp,
        headers: SecurityHeaders | None = None,
        is_https: Callable[[Scope], bool] | None = None,
    ) -> None:
        require_application(app, "SecurityHeadersMiddleware")
        headers = SecurityHeaders() if headers is None else headers
        require_instance(headers, SecurityHeaders, "headers", "Pass headers=SecurityHeaders(…).")
        if is_https is not None:
            require_function(is_https, "is_https", "Pass a function that takes the ASGI scope, or leave it out.")
        self.app = app
        self.is_https = is_https or _has_https_scheme
        self.no_store = headers.no_store
        self.over_http = headers.fixed()
        self.over_https = [*self.over_http, *headers.strict_transport_security()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = response_headers(message)
                names = {name.lower() for name, _ in headers}
                added = self.over_https if self.is_https(scope) else self.over_http
                headers += [pair for pair in added if pair[0] not in names]
                if self.no_store and b"cache-control" not in names and _is_for_user(scope):
                    headers.append((b"cache-control", b"no-store"))
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _has_https_scheme(scope: Scope) -> bool:
    return scope.get("scheme") == "https"


def _is_for_user(scope: Scope) -> bool:
    user = scope.get("user")
    return user is not None and bool(user.is_authenticated)
