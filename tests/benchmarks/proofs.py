"""Before anything is measured, each contestant shows that it does the work."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from http.cookies import SimpleCookie
from urllib.parse import urlencode

from .contestants import Contestant
from .errors import CannotMeasure
from .settings import GREETING, PASSWORD, email_of, name_of, vote_of

VOTER, OUTSIDER, VICTIM = 1, 10, 20
SESSION_COOKIES = {"session", "sessionid"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
#: What a browser says when one of our own pages asks.
OWN_PAGE = {"sec-fetch-site": "same-origin", "user-agent": "Mozilla/5.0 (X11; Linux x86_64) Firefox/150.0"}


@dataclass
class Visitor:
    """A browser with a cookie jar that knows one site."""

    port: int
    cookies: dict[str, str] = field(default_factory=dict)

    def ask(
        self, method: str, path: str, form: Mapping[str, str] | None = None, *, site: str = "same-origin"
    ) -> tuple[int, object]:
        """The status, and what the JSON of the answer says."""
        headers = {**OWN_PAGE, "sec-fetch-site": site, **(FORM if form else {})}
        if self.cookies:
            headers["cookie"] = self.cookie
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, urlencode(form) if form else None, headers)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        for line in response.headers.get_all("set-cookie") or ():
            self.cookies |= {name: morsel.coded_value for name, morsel in SimpleCookie(line).items()}
        is_json = response.headers.get("content-type", "").startswith("application/json")
        return response.status, json.loads(content) if is_json else None

    @property
    def cookie(self) -> str:
        return "; ".join(f"{name}={value}" for name, value in self.cookies.items())

    def log_in(self, contestant: Contestant, number: int, password: str = PASSWORD) -> int:
        status, _ = self.ask("POST", "/login", login_form(contestant, number, password))
        return status


def login_form(contestant: Contestant, number: int, password: str = PASSWORD) -> dict[str, str]:
    name = email_of(number) if contestant.logs_in_by_email else name_of(number)
    return {"username": name, "password": password}


def prove(contestant: Contestant, port: int) -> None:
    """CannotMeasure, which says what it did not do."""
    expect = partial(_expect, contestant)
    nobody = Visitor(port)
    expect("a visitor is greeted", is_so=nobody.ask("GET", "/public") == (200, GREETING))
    if "requests" not in contestant.works:
        return
    expect("nobody may vote without a cookie", is_so=nobody.ask("GET", "/vote")[0] in (303, 401, 403))
    nobody.log_in(contestant, VOTER, "a wrong password")
    expect("a wrong password lets nobody in", is_so=nobody.ask("GET", "/vote")[0] in (303, 401, 403))

    voter = Visitor(port)
    expect("a login is taken", is_so=voter.log_in(contestant, VOTER) in (200, 201, 204, 302, 303))
    answer = (200, vote_of(name_of(VOTER), email_of(VOTER)))
    expect("who is in the group may vote", is_so=voter.ask("GET", "/vote") == answer)
    for name in SESSION_COOKIES & voter.cookies.keys():
        forger = Visitor(port, {**voter.cookies, name: tampered(voter.cookies[name])})
        expect("a tampered cookie is refused", is_so=forger.ask("GET", "/vote")[0] in (303, 401, 403))
    others = {name: value for name, value in voter.cookies.items() if name not in SESSION_COOKIES}
    expect("no other cookie lets in", is_so=Visitor(port, others).ask("GET", "/vote")[0] in (303, 401, 403))
    if "writes" in contestant.works:
        counted = [voter.ask("POST", "/count") for _ in range(3)]
        expect("a session is written", is_so=counted == [(200, {"n": n}) for n in (1, 2, 3)])

    outsider = Visitor(port)
    outsider.log_in(contestant, OUTSIDER)
    expect("who is not in the group may not vote", is_so=outsider.ask("GET", "/vote")[0] == 403)
    if contestant.module == "ours":
        prove_checks(contestant, voter)


def prove_checks(contestant: Contestant, voter: Visitor) -> None:
    """Of this package: what the others do not have is on."""
    _expect(
        contestant, "what another site sends is refused", is_so=voter.ask("POST", "/count", site="cross-site")[0] == 403
    )
    guesser = Visitor(voter.port)
    # After five guesses the waits are 1, 2, 4 … s. On a slow machine the first of them may be over at the next guess.
    is_throttled = any(guesser.log_in(contestant, VICTIM, "a wrong password") == 429 for _ in range(20))
    _expect(contestant, "who guesses has to wait", is_so=is_throttled)


def _expect(contestant: Contestant, what: str, *, is_so: bool) -> None:
    if not is_so:
        raise CannotMeasure(f"{contestant.name} ({contestant.group}) fails a proof: {what}.")


def tampered(cookie: str) -> str:
    """With another letter in the middle."""
    middle = len(cookie) // 2
    return cookie[:middle] + ("A" if cookie[middle] != "A" else "B") + cookie[middle + 1 :]
