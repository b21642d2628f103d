"""Logs the user of a command line in at a site with `DeviceLogin`. This module needs the extra `device`."""

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

__all__ = ["DeviceCode", "DeviceLoginFailed", "log_in"]

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
SLOWER = 5  # seconds that RFC 8628 §3.5 adds to the interval
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class DeviceLoginFailed(Exception):
    """The login did not succeed. `code` is the error of RFC 8628 §3.5 or RFC 6749 §5.2.

    "access_denied": the user refused. "expired_token": the user did not decide in time. "invalid_response": the site
    answered with something else.
    """

    def __init__(self, code: str, description: str = "") -> None:
        super().__init__(f"{code}: {description}" if description else code)
        self.code = code


@dataclass(frozen=True, kw_only=True)
class DeviceCode:
    """Holds what the user needs: the address of the page, and the code to enter there.

    `complete_url` is the address of the page with the code filled in, for a QR code or `webbrowser.open`.
    `expires_in` is in seconds.
    """

    user_code: str
    url: str
    complete_url: str
    expires_in: int


def show_code(code: DeviceCode) -> None:
    """Writes to the standard error stream where the user enters the code."""
    sys.stderr.write(f"Open {code.url} in a browser, log in, and enter the code {code.user_code}\n")
    sys.stderr.flush()


def log_in(
    base_url: str,
    client_id: str,
    *,
    scopes: Sequence[str] = (),
    show: Callable[[DeviceCode], object] = show_code,
    client: httpx.Client | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> str:
    """Returns an API token of the user, after the user has approved in a browser.

    `base_url` is where the account pages are, as in "https://shop.example/accounts", and `client_id` a name in
    `DeviceLogin(clients=…)`. `scopes` are the permissions that the program needs; without any, it gets all that the user
    has. `show` tells the user the code. `client` sends the requests, for proxies and certificates. Keep the token where
    other users of the machine cannot read it, such as a keyring.

    Raises DeviceLoginFailed without the approval, and httpx.HTTPError if the site cannot be reached at the beginning.
    Raises ValueError for an address without https, except on this machine.
    """
    parts = urlsplit(base_url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
        raise ValueError(f"{base_url!r} would send the token without encryption. Pass an address with https.")
    if isinstance(scopes, str):
        raise TypeError('`scopes` is a list of permissions. Pass scopes=["shop.view_order"].')
    if client is not None:
        return _log_in(client, base_url.rstrip("/"), client_id, " ".join(scopes), show, sleep)
    with httpx.Client(timeout=30) as own_client:
        return _log_in(own_client, base_url.rstrip("/"), client_id, " ".join(scopes), show, sleep)


def _log_in(
    client: httpx.Client,
    base_url: str,
    client_id: str,
    scope: str,
    show: Callable[[DeviceCode], object],
    sleep: Callable[[float], object],
) -> str:
    asked = _read(client.post(f"{base_url}/device/code", data={"client_id": client_id, "scope": scope}))
    if "error" in asked:
        raise DeviceLoginFailed(asked["error"], str(asked.get("error_description", "")))
    try:
        code, interval = asked["device_code"], float(asked.get("interval", SLOWER))
        shown = DeviceCode(
            user_code=asked["user_code"],
            url=asked["verification_uri"],
            complete_url=asked.get("verification_uri_complete", asked["verification_uri"]),
            expires_in=int(asked["expires_in"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise DeviceLoginFailed("invalid_response", "The site sent no codes.") from error
    show(shown)
    data, waited = {"grant_type": GRANT, "client_id": client_id, "device_code": code}, 0.0
    while waited <= shown.expires_in + interval:
        sleep(interval)
        waited += interval
        try:
            response = client.post(f"{base_url}/device/token", data=data)
        except httpx.TransportError:
            interval *= 2  # as RFC 8628 §3.5 asks for
            continue
        if response.status_code in (429, 502, 503, 504):
            interval *= 2
            continue
        answer = _read(response)
        if response.status_code == 200 and answer.get("access_token"):
            return str(answer["access_token"])
        if answer.get("error") == "slow_down":
            interval += SLOWER
        elif answer.get("error") != "authorization_pending":
            reason = str(answer.get("error", "invalid_response"))
            raise DeviceLoginFailed(reason, str(answer.get("error_description", "")))
    raise DeviceLoginFailed("expired_token", "The user did not decide in time. Start again.")


def _read(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        text = f"The site answered with {response.status_code} and no JSON. Check the address of its account pages."
        raise DeviceLoginFailed("invalid_response", text)
    return answer
