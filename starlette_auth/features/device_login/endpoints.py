"""The endpoints for devices: they ask for codes (RFC 8628 §3.1), and then for the token (§3.4)."""

import functools
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol, runtime_checkable
from urllib.parse import urlencode

from starlette.exceptions import HTTPException
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from ...auth import Auth
from ...backends.model import report_throttled
from ...core.exceptions import ImproperlyConfigured, PermissionDenied, Throttled, ValidationError
from ...http.content import FORMS, content_type, read_fields
from ...http.endpoints import OPERATION, csrf_exempt, login_not_required
from ...http.urls import find_url_path
from ...users.models import User
from .openapi import AUTHORIZE, GRANT, TOKEN
from .requests import INTERVAL, LIFETIME, DeviceRequest, DeviceRequests

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}  # RFC 6749 §5.1
SCOPE = re.compile(r"[!#-)+-\[\]-~]{1,200}")  # RFC 6749 §3.3, without *
MAX_SCOPES = 50
Endpoint = Callable[[Request], Awaitable[Response]]


class CreatedToken(Protocol):
    @property
    def token(self) -> str | None: ...

    @property
    def created(self) -> int: ...

    @property
    def expires(self) -> int: ...


@runtime_checkable
class CreatesTokens(Protocol):
    """A feature that makes the tokens for devices, as APITokens does."""

    async def create(
        self,
        user: User,
        name: str,
        *,
        scopes: Iterable[str] | None = None,
        expires: timedelta | None = None,
        request: HTTPConnection | None = None,
    ) -> CreatedToken: ...


class OAuthError(Exception):
    """Represents an error response (RFC 6749 §5.2, RFC 8628 §3.5). `description` is for the programmer of the client."""

    def __init__(self, code: str, description: str, status: int = 400, **headers: str) -> None:
        super().__init__(code)
        self.code, self.description, self.status, self.headers = code, description, status, headers

    def response(self) -> Response:
        content = {"error": self.code, "error_description": self.description}
        headers = {name.replace("_", "-"): value for name, value in self.headers.items()}
        return JSONResponse(content, self.status, headers={**NO_STORE, **headers})


class DeviceEndpoints:
    """Answers devices. No request acts for the user of a session, so other sites and cookies change nothing."""

    def __init__(self, auth: Auth, clients: Mapping[str, str], requests: DeviceRequests, tokens: CreatesTokens) -> None:
        self.auth, self.clients, self.requests, self.tokens = auth, clients, requests, tokens

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/device/code", _endpoint(self.authorize, AUTHORIZE), name="device_authorization", methods=["POST"]),
            Route("/device/token", _endpoint(self.token, TOKEN), name="device_token", methods=["POST"]),
        ]

    async def authorize(self, request: Request) -> Response:
        """Returns a device code and a user code (RFC 8628 §3.2)."""
        parameters = await _parameters(request)
        client = self._client(request, parameters)
        scopes = _scopes(parameters.get("scope", ""))
        origin = self.auth.site.base_url or self.auth.site.requested_origin(request)
        page = origin + self._page(request)
        address = self.auth.proxies.client_address(request)
        try:
            await self.auth.throttle.hit("device_authorization", ip=address, client=client)
        except Throttled as error:
            await report_throttled(self.auth.events, request, error)
            wait = str(error.retry_after)
            raise OAuthError("slow_down", f"Too many codes. Wait {wait} seconds.", 429, Retry_After=wait) from error
        device_code, user_code = await self.requests.create(
            client, scopes, address=address, browser=request.headers.get("user-agent", "")[:255]
        )
        content = {
            "device_code": device_code,
            "user_code": user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?{urlencode({'user_code': user_code})}",
            "expires_in": LIFETIME,
            "interval": INTERVAL,
        }
        return JSONResponse(content, headers=NO_STORE)

    async def token(self, request: Request) -> Response:
        """Returns the token if the user has approved, once; otherwise an error that tells how to go on."""
        parameters = await _parameters(request)
        grant = _required(parameters, "grant_type")
        if grant != GRANT:
            raise OAuthError("unsupported_grant_type", f"Send grant_type={GRANT}.")
        client = self._client(request, parameters)
        asked = await self.requests.find(_required(parameters, "device_code"))
        if asked is None or asked.client != client:
            raise _unknown_code()
        result = await self.auth.gateway.run_in_transaction(
            functools.partial(self._collect, request, asked.row.token_hash)
        )
        if isinstance(result, OAuthError):
            raise result
        return JSONResponse(result, headers=NO_STORE)

    async def _collect(self, request: Request, token_hash: str) -> dict[str, Any] | OAuthError:
        """Returns the token and uses the device code up, or returns the error. Runs in a transaction.

        The lock lets one of several concurrent requests create a token. An error is returned, not raised, because the
        count of the polls has to be committed.
        """
        asked = await self.requests.find_again(token_hash)
        if asked is None:
            return _unknown_code()
        if self.requests.has_expired(asked):
            return OAuthError("expired_token", "The device code has expired. Ask for a new one.")
        if asked.state == "refused":
            return OAuthError("access_denied", "The user refused.")
        if asked.state == "approved":
            return await self._create(request, asked)
        if await self.requests.count_poll(asked):
            return OAuthError("authorization_pending", "The user has not decided yet. Ask again after the interval.")
        return OAuthError("slow_down", f"Add {INTERVAL} seconds to the interval.")

    async def _create(self, request: Request, asked: DeviceRequest) -> dict[str, Any] | OAuthError:
        owner = await self.requests.owner(asked)
        try:
            async with self.auth.gateway.atomic():
                # A deactivation at this moment has deleted the row, though this transaction may still read it.
                if not await self.auth.tokens.consume(asked.row) or owner is None:
                    return _unknown_code()
                name = self.clients[asked.client]
                token = await self.tokens.create(owner, name, scopes=asked.scopes, request=request)
        except (ValidationError, PermissionDenied):
            # The user has too many tokens, or has lost a permission since.
            await self.requests.refuse(asked)
            return OAuthError("access_denied", "The site creates no token for this user. See the page of the tokens.")
        result = {"access_token": token.token, "token_type": "Bearer", "expires_in": token.expires - token.created}
        return result if asked.scopes is None else {**result, "scope": " ".join(asked.scopes)}

    def _page(self, request: Request) -> str:
        """Returns the path where users enter codes; without pages of this package, that of the application's route."""
        path = find_url_path(request.scope, "device")
        if path is None:
            raise ImproperlyConfigured(
                "There is no page on which users enter the code of a device. Add a route with the name device, whose "
                "page sends the code and the decision as JSON."
            )
        return path

    def _client(self, request: Request, parameters: Mapping[str, str]) -> str:
        """Returns the identifier of the client. The clients are public (RFC 6749 §2.1): they keep no secret."""
        scheme = request.headers.get("authorization", "").partition(" ")[0]
        if scheme.lower() == "basic":
            realm = 'Basic realm="device"'
            raise OAuthError(
                "invalid_client", "The clients have no secrets. Send client_id only.", 401, WWW_Authenticate=realm
            )
        client = _required(parameters, "client_id")
        if client not in self.clients:
            raise OAuthError("invalid_client", "There is no such client.")
        return client


def _endpoint(view: Endpoint, operation: Mapping[str, Any]) -> Endpoint:
    @csrf_exempt
    @login_not_required
    async def endpoint(request: Request) -> Response:
        try:
            return await view(request)
        except OAuthError as error:
            return error.response()

    setattr(endpoint, OPERATION, dict(operation))
    return endpoint


async def _parameters(request: Request) -> dict[str, str]:
    """Returns the parameters of the body. One without a value counts as missing (RFC 6749 §3.2)."""
    if content_type(request) != FORMS[0]:
        raise OAuthError("invalid_request", f"Send the parameters in the body, as {FORMS[0]}.")
    try:
        fields = await read_fields(request)
    except HTTPException as error:
        raise OAuthError("invalid_request", "The body cannot be read.") from error
    if any(len(values) > 1 for values in fields.values()):
        raise OAuthError("invalid_request", "A parameter was sent twice.")
    return {name: values[0] for name, values in fields.items() if values[0]}


def _required(parameters: Mapping[str, str], name: str) -> str:
    if name not in parameters:
        raise OAuthError("invalid_request", f"The parameter {name} is missing.")
    return parameters[name]


def _scopes(text: str) -> tuple[str, ...] | None:
    """Returns the permissions to which the token is limited; None for all of its user."""
    names = tuple(dict.fromkeys(text.split(" "))) if text else ()
    if len(names) > MAX_SCOPES or not all(SCOPE.fullmatch(name) for name in names):
        raise OAuthError("invalid_scope", "Send names of permissions without wildcards, separated by single spaces.")
    return names or None


def _unknown_code() -> OAuthError:
    return OAuthError("invalid_grant", "The device code is unknown, was used, or belongs to another client.")
