"""Which origins are the site's own, and did a browser send this request over https?"""

import logging
import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection
from starlette.types import Scope

from ..core.exceptions import ImproperlyConfigured
from .cookies import Cookie
from .urls import normalize_origin, parse_base_url, parse_origins

logger = logging.getLogger("starlette_auth")
SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")
LOCAL_HOST = re.compile(
    rb"(testserver|([a-z0-9-]+\.)*localhost|127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|\[::1\])(:[0-9]+)?", re.IGNORECASE
)
FORWARDING_HEADERS = (b"forwarded", b"via", b"x-real-ip", b"x-client-ip", b"x-scheme", b"x-url-scheme", b"cf-visitor")


class Site:
    """Knows the scheme of this site, its origins, and which other origins it trusts.

    `base_url` is the scheme and host of the site. `cookie` is the session cookie of this site. On an https site its
    attribute `secure="auto"` is replaced by `must_be_secure`.
    """

    def __init__(self, cookie: Cookie, *, base_url: str | None = None, trusted_origins: Sequence[str] = ()) -> None:
        if not isinstance(cookie, Cookie):
            raise ImproperlyConfigured(f"cookie={cookie!r} is no Cookie. Pass cookie=Cookie(…).")
        self.base_url = parse_base_url(base_url) if base_url is not None else None
        self.origin = normalize_origin(self.base_url or "")
        self.trusted_origins = parse_origins(trusted_origins)
        self.configured_cookie = cookie
        self.cookie = self.resolve(cookie)
        self._has_warned = False

    def resolve(self, cookie: Cookie) -> Cookie:
        """Returns the cookie. With `secure="auto"` on an https site, `must_be_secure` decides.

        Raises ImproperlyConfigured for a cookie of an http site that browsers accept over https only.
        """
        if cookie.secure == "auto" and cookie.samesite == "none" and self.origin.startswith("http:"):
            raise ImproperlyConfigured(
                f"Browsers refuse SameSite=None without Secure, and base_url is {self.base_url}. Use https, pass "
                'Cookie(secure=True) behind a reverse proxy that does, or pass samesite="lax".'
            )
        if self.origin.startswith("https:") and cookie.secure in ("auto", True):
            # A proxy terminates TLS where requests come over http; SessionMiddleware need not warn about secure=True.
            return replace(cookie, secure=self.must_be_secure if cookie.secure == "auto" else _always)
        return cookie

    def must_be_secure(self, scope: Scope) -> bool:
        """Returns whether cookies get the attribute `Secure`. Logs the first request whose scheme must be wrong."""
        is_https = self.is_https(scope)
        if is_https and not self._has_warned and scope.get("scheme") not in ("https", "wss"):
            self._has_warned = True
            logger.warning(
                "A request came over http, although base_url is %s. Its cookies are Secure. If a reverse proxy "
                "terminates TLS, let it set X-Forwarded-Proto, and let the server believe the proxy: "
                "uvicorn --proxy-headers --forwarded-allow-ips=ADDRESS_OF_THE_PROXY.",
                self.base_url,
            )
        return is_https

    def is_https(self, scope: Scope) -> bool:
        """Returns whether the browser used https, also where a reverse proxy does not forward the scheme.

        With an https `base_url`, only a developer's machine or a test uses http: a loopback host without a proxy.
        """
        if scope.get("scheme") in ("https", "wss") or self.configured_cookie.is_secure(scope):
            return True
        return self.origin.startswith("https:") and not is_local(scope)

    def is_own_request(self, conn: HTTPConnection) -> bool | None:
        """Returns whether a page of this site, or of a trusted origin, sent this; None if no header tells."""
        origin = conn.headers.get("origin", "").lower()
        if self._is_trusted(origin, conn.scope):
            return True
        site = conn.headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        if not origin:
            return False if self._has_foreign_referer(conn) else None
        return origin == self.requested_origin(conn)

    def is_own_url(self, scope: Scope, url: str) -> bool:
        """Returns whether an absolute URL has the host of `base_url` or the requested host.

        The scheme may be http or https: behind a proxy that terminates TLS, the application sees http.
        """
        try:
            parts = urlsplit(url)
        except ValueError:
            return False
        # Browsers and Python read backslashes and control characters differently.
        is_plain = "\\" not in url and "@" not in parts.netloc and not any(c <= " " or c == "\x7f" for c in url)
        if parts.scheme not in ("http", "https") or not parts.netloc or not is_plain:
            return False
        host = HTTPConnection(scope).headers.get("host", "")
        origin = normalize_origin(f"{parts.scheme}://{parts.netloc}")
        return origin in (self.origin, normalize_origin(f"{parts.scheme}://{host}"))

    def is_cross_site(self, conn: HTTPConnection) -> bool:
        """Returns whether another site sent a WebSocket, or a request with an unsafe method (RFC 9110 §9.2.1)."""
        return conn.scope.get("method") not in SAFE_METHODS and self.is_own_request(conn) is False

    def is_local(self, scope: Scope) -> bool:
        """Returns whether the site is on a loopback host.

        nginx sends the loopback address of the application as `Host`, without a forwarding header, unless it is told
        otherwise. Therefore `base_url` must not name another host.
        """
        host = urlsplit(self.base_url).netloc if self.base_url else None
        return is_local(scope) and (host is None or LOCAL_HOST.fullmatch(host.encode()) is not None)

    def _is_trusted(self, origin: str, scope: Scope) -> bool:
        if origin in self.trusted_origins:
            return True
        # An attacker in the network can serve a page as http://shop.example. It must not count as https://shop.example.
        return origin != "" and origin == self.origin and (origin.startswith("https:") or not self.is_https(scope))

    def requested_origin(self, conn: HTTPConnection) -> str:
        """Returns the scheme and host that the browser asked for."""
        scheme = "https" if self.is_https(conn.scope) else "http"
        return normalize_origin(f"{scheme}://{conn.headers.get('host', '')}")

    def _has_foreign_referer(self, conn: HTTPConnection) -> bool:
        """Returns whether the header `Referer` names another site, for browsers that send no origin.

        An attacker who controls a subdomain can set a cookie for this site, which would make a CSRF token valid. The
        attacker cannot forge the `Referer`; therefore it is checked too. Without `base_url` the scheme of the site may
        be unknown, so https is right for an http site as well.
        """
        origin = referring_origin(conn)
        own_origin = self.requested_origin(conn)
        own_origins = (own_origin, own_origin.replace("http:", "https:", 1))
        return origin not in ("", *own_origins) and not self._is_trusted(origin, conn.scope)


def referring_origin(conn: HTTPConnection) -> str:
    """Returns the origin of the page in the header `Referer`, or "" if it names none."""
    text = conn.headers.get("referer", "")
    try:
        referer = urlsplit(text)
    except ValueError:
        return text
    return normalize_origin(f"{referer.scheme}://{referer.netloc}") if referer.netloc else ""


def _always(scope: Scope) -> bool:
    return True


def is_local(scope: Scope) -> bool:
    """Returns whether the request names a loopback host, or Starlette's "testserver", and came through no proxy."""
    hosts = []
    for name, value in scope["headers"]:
        if name == b"host":
            hosts.append(value)
        elif name in FORWARDING_HEADERS or name.startswith(b"x-forwarded-"):
            return False
    return len(hosts) == 1 and LOCAL_HOST.fullmatch(hosts[0]) is not None
