"""A browser that obeys the attributes of cookies: SameSite, Path, Secure and Max-Age."""

from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx
from starlette.types import ASGIApp


class StrictBrowser:
    """Sends a cookie only where browsers do. After a link from another site, Strict cookies are left out."""

    def __init__(self, app: ASGIApp, site: str) -> None:
        transport = httpx.ASGITransport(app, client=("192.0.2.1", 5000))
        self.client = httpx.AsyncClient(transport=transport)
        self.site = site
        self.url = ""
        self.jar: dict[tuple[str, str], Any] = {}  # by name and path

    async def __aenter__(self) -> "StrictBrowser":
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.client.aclose()

    @property
    def names(self) -> set[str]:
        return {name for name, _ in self.jar}

    async def follow(self, link: str) -> httpx.Response:
        """Clicks on a link in a page of another site, such as a mail program."""
        return await self._open("GET", link, "cross-site")

    async def go(self, path: str) -> httpx.Response:
        """Clicks on a link in a page of this site."""
        return await self._open("GET", path, "same-origin")

    async def send(self, data: dict[str, str], path: str = "") -> httpx.Response:
        """Sends the form of the current page."""
        return await self._open("POST", path or self.url, "same-origin", data={"button": "", **data})

    async def _open(self, method: str, url: str, site: str, **options: Any) -> httpx.Response:
        for _ in range(20):
            url = urljoin(self.url or self.site, url)
            headers = {"sec-fetch-site": site, "sec-fetch-dest": "document", "cookie": self._cookies(url, site)}
            if method == "POST":
                headers["origin"] = self.site
            answer = await self.client.request(method, url, headers=headers, **options)
            self.client.cookies.clear()
            self.url = url
            for text in answer.headers.get_list("set-cookie"):
                self._store(text)
            if not answer.is_redirect:
                return answer
            method, url, options = "GET", answer.headers["location"], {}
        raise AssertionError(f"{url} redirects without end")

    def _cookies(self, url: str, site: str) -> str:
        """Returns the cookies for a URL. A browser also leaves out Strict cookies at redirects after a foreign link."""
        path, sent = urlsplit(url).path, []
        for (name, cookie_path), morsel in self.jar.items():
            is_below = path == cookie_path or path.startswith(cookie_path.rstrip("/") + "/")
            is_strict = morsel["samesite"].lower() == "strict" and site == "cross-site"
            if is_below and not is_strict and not (morsel["secure"] and not url.startswith("https:")):
                sent.append(f"{name}={morsel.value}")
        return "; ".join(sent)

    def _store(self, text: str) -> None:
        for name, morsel in SimpleCookie(text.replace("; Partitioned", "")).items():
            if name.startswith("__Host-"):
                assert morsel["secure"]
                assert morsel["path"] == "/"
                assert not morsel["domain"]
            self.jar.pop((name, morsel["path"]), None)
            if morsel["max-age"] != "0":
                self.jar[name, morsel["path"]] = morsel
