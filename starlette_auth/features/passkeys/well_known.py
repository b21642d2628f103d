"""The files that tell browsers where users manage passkeys, and which domains share them."""

from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...http.endpoints import login_not_required
from ...http.urls import url_path_for
from ...security.webauthn.relying_party import RelyingParty


def well_known_routes(relying_party: RelyingParty, base_url: str) -> list[Route]:
    """Returns the routes of `Passkeys.well_known_routes`."""

    def endpoints(request: Request) -> Mapping[str, Any]:
        pages = {"enroll": "passkey_add", "manage": "passkeys"}
        return {name: base_url + url_path_for(request.scope, page) for name, page in pages.items()}

    routes = [_route("passkey-endpoints", endpoints)]
    if any(not _is_within(origin, relying_party.rp_id) for origin in relying_party.origins):
        routes.append(_route("webauthn", lambda request: {"origins": list(relying_party.origins)}))
    return routes


def _route(name: str, content: Callable[[Request], Mapping[str, Any]]) -> Route:
    @login_not_required
    async def serve(request: Request) -> Response:
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
        return JSONResponse(content(request), headers=headers)

    return Route(f"/.well-known/{name}", serve, name=f"well_known_{name}", methods=["GET"])


def _is_within(origin: str, domain: str) -> bool:
    host = urlsplit(origin).hostname or ""
    return host == domain or host.endswith(f".{domain}")
