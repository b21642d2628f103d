"""Did a page of this site send the request?"""

from collections.abc import Sequence
from urllib.parse import urlsplit

from starlette.requests import HTTPConnection

from .cookies import Cookie
from .urls import parse_origins

SAFE_METHODS = ("GET", "HEAD", "OPTIONS", "TRACE")


class Site:
    """Knows the origins of this site, and which other origins it trusts."""

    def __init__(self, *, cookie: Cookie, trusted_origins: Sequence[str] = ()) -> None:
        self.cookie = cookie
        self.trusted_origins = parse_origins(trusted_origins)

    def is_own_request(self, conn: HTTPConnection) -> bool | None:
        """Returns whether a page of this site, or of a trusted origin, sent this; None if no header tells."""
        origin = conn.headers.get("origin", "").lower()
        if origin in self.trusted_origins:
            return True
        site = conn.headers.get("sec-fetch-site")
        if site is not None:
            return site in ("same-origin", "none")
        if not origin:
            return False if self._has_foreign_referer(conn) else None
        scheme = "https" if self.cookie.is_secure(conn.scope) else "http"
        return origin == f"{scheme}://{conn.headers.get('host', '').lower()}"

    def is_cross_site(self, conn: HTTPConnection) -> bool:
        """Returns whether another site sent a WebSocket, or a request with an unsafe method (RFC 9110 §9.2.1)."""
        return conn.scope.get("method") not in SAFE_METHODS and self.is_own_request(conn) is False

    def _has_foreign_referer(self, conn: HTTPConnection) -> bool:
        """Returns whether the header `Referer` names another site, for browsers that send no origin.

        An attacker who controls a subdomain can set a cookie for this site, which would make a CSRF token valid. The
        attacker cannot forge the `Referer`; therefore it is checked too.
        """
        try:
            referer = urlsplit(conn.headers.get("referer", ""))
        except ValueError:
            return True
        host = referer.netloc.lower()
        is_known = host == conn.headers.get("host", "").lower() or f"{referer.scheme}://{host}" in self.trusted_origins
        return bool(host) and not is_known
