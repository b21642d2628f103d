"""Where may a login or a logout redirect to?"""

import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import parse_qsl, urlsplit, urlunsplit

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.types import Scope

from ..core.exceptions import ImproperlyConfigured
from ..core.translation import gettext
from .site import Site
from .urls import is_absolute, next_path, parse_hosts, requested_url, safe_url

VISITS = "visits-"  # the beginning of the cookie of a browser that was redirected from the login page
OTHER_FIELDS = ("username", "password", "remember", "saved", "credential", "csrfmiddlewaretoken")  # of the login page


class RedirectTargets:
    """Decides where a login or a logout may redirect to: this site, or one of `allowed_hosts`.

    An attacker could send a victim a link to our login page that leads to the attacker's site afterwards. Therefore
    every URL from a request passes here. `default` is the name of a route, a path, or the URL of a page on another
    host. `field` is the name of the query parameter, and of the form field, that holds the URL (Django's
    `redirect_field_name`).
    """

    def __init__(self, site: Site, allowed_hosts: Sequence[str], *, default: str, field: str) -> None:
        self.site = site
        self.allowed_hosts = parse_hosts(allowed_hosts)
        self.default = default
        self.field = parse_field_name(field)
        visits = replace(site.configured_cookie, name=f"{site.cookie.name}_visits", path="/", samesite="lax")
        self._visits = site.resolve(replace(visits, max_age=10, httponly=True))

    def choose(self, scope: Scope, url: str | None, default: str = "") -> str:
        """Returns `url` if it is allowed, or else the URL of `default` (route name, path or URL)."""
        fallback = next_path(scope, default or self.default)
        secure = self.site.cookie.is_secure(scope)
        url = self._without_own_origin(scope, url) if url else url
        return safe_url(url, default=fallback, allowed_hosts=self.allowed_hosts, require_https=secure)

    def read(self, conn: HTTPConnection) -> str | None:
        """Returns the URL in the query string. Raises HTTPException 400 for bytes that are not UTF-8."""
        # parse_qsl would replace bytes that are not UTF-8. Latin-1 keeps all bytes.
        pairs = parse_qsl(conn.scope.get("query_string", b"").decode("latin-1"), encoding="latin-1")
        urls = [value for name, value in pairs if name == self.field]
        try:
            return urls[-1].encode("latin-1").decode() if urls else None
        except UnicodeDecodeError as error:
            raise HTTPException(
                400, gettext("The address of this page is not in UTF-8. Open the page that you want again.")
            ) from error

    def for_login(self, scope: Scope, login_url: str, page: str | None = None) -> str:
        """Returns `page` or the requested URL; absolute if the login page is on another host."""
        url = page or requested_url(scope)
        if not is_absolute(login_url) or self.site.is_own_url(scope, login_url):
            return url
        return f"{self.site.base_url or self.site.requested_origin(HTTPConnection(scope))}{url}"

    def visits(self, scope: Scope) -> int:
        """Returns how often the login page redirected this browser in the last ten seconds."""
        number = next(iter(self._visits.values(scope)), "").removeprefix(VISITS)
        return int(number) if len(number) == 1 and number in "123456789" else 0

    def count_visit(self, scope: Scope, response: Response, number: int) -> None:
        """Stores in the browser the number that `visits` returns for the next ten seconds."""
        header = self._visits.header(scope, f"{VISITS}{number}", self._visits.max_age)
        response.raw_headers.append(header)

    def referring_page(self, conn: HTTPConnection) -> str | None:
        """Returns the path and query of this site's page in the header `Referer`, or None."""
        return self.own_page(conn.scope, conn.headers.get("referer", ""))

    def own_page(self, scope: Scope, url: str) -> str | None:
        """Returns the path and query of an absolute URL of this site, or None."""
        if not self.site.is_own_url(scope, url):
            return None
        return safe_url(self._without_own_origin(scope, url), default="") or None

    def form_targets(self, *settings: str) -> list[str]:
        """Returns the hosts to which a form may lead: `allowed_hosts`, and the hosts in settings."""
        hosts = (urlsplit(url).netloc for url in settings if is_absolute(url))
        return list(dict.fromkeys([*self.allowed_hosts, *hosts]))

    def _without_own_origin(self, scope: Scope, url: str) -> str:
        """Returns the path of an absolute URL of this site; other URLs unchanged.

        Starlette's `@requires` writes absolute URLs.
        """
        if not self.site.is_own_url(scope, url):
            return url
        parts = urlsplit(url)
        # "http://here//evil.example" becomes "//evil.example", which safe_url() refuses.
        return (parts.path or "/") + urlunsplit(("", "", "", parts.query, parts.fragment))


def parse_field_name(name: str) -> str:
    """Returns the setting `redirect_field_name`, checked."""
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z_][A-Za-z0-9_-]*", name) or name in OTHER_FIELDS:
        raise ImproperlyConfigured(
            f'redirect_field_name={name!r} is not a name of letters, or another field has it. Pass "next" or "goto".'
        )
    return name
