"""The feature `DeviceLogin`, and the pages on which users admit a device."""

from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login
from ...auth import Auth, Feature
from ...core.arguments import require_instance, require_text
from ...core.events import PasswordChanged, UserDeactivated
from ...core.exceptions import ImproperlyConfigured, ValidationError
from ...core.feature_events import DeviceApproved, DeviceRefused
from ...core.translation import format_time_since, gettext
from ...http.content import sent_json
from ...http.proxies import client_network
from ...http.urls import next_path, with_query
from ...http.user_agents import describe_user_agent
from ...pages.base import account_page, keep_form, render
from ...pages.factors.reauthentication import require_fresh_factor
from ...pages.forms import Field, Form
from ...users.models import User
from .endpoints import CreatesTokens, DeviceEndpoints
from .requests import CODES, DeviceRequest, DeviceRequests, parse_user_code

FIX = 'Pass the programs that may ask, as in clients={"cli": "Shop CLI"}.'
KEPT_FIELDS = ("user_code", "request", "decision")


class DeviceLogin(Feature):
    """Lets programs without a browser log their user in: `Auth(features=[APITokens("shop"), DeviceLogin({"cli": "Shop CLI"})])`.

    The program shows a short code. Its user enters the code on the page `/device` in any browser, compares it, sees which
    program asks, from where and since when, and approves. The program then gets an API token with the name of the
    program (RFC 8628). `clients` are the names that users see, by the `client_id` that the programs send; they have no
    secrets. A code is valid for 15 minutes and once. A deactivation, a changed password or a changed address of the user
    ends what was approved and not fetched.

    Raises ImproperlyConfigured, with Auth, without APITokens.
    """

    def __init__(self, clients: Mapping[str, str]) -> None:
        require_instance(clients, Mapping, "clients", FIX)
        if not clients:
            raise ImproperlyConfigured(f"DeviceLogin(clients={clients!r}) admits no program. {FIX}")
        for client, name in clients.items():
            require_text(client, "A client_id", FIX)
            require_text(name, "The name of a client", FIX)
            if not client or not name.strip() or len(name) > 100 or not name.isprintable():
                raise ImproperlyConfigured(f"The client {client!r}: {name!r} has no name of 1 to 100 characters. {FIX}")
        self.clients = dict(clients)

    def attach(self, auth: Auth) -> None:
        tokens = next((feature for feature in auth.features if isinstance(feature, CreatesTokens)), None)
        if tokens is None:
            raise ImproperlyConfigured(
                'DeviceLogin() gives its programs API tokens. Pass features=[APITokens("shop"), DeviceLogin(…)].'
            )
        self.requests = DeviceRequests(auth)
        self.endpoints = DeviceEndpoints(auth, self.clients, self.requests, tokens)
        auth.events.on(UserDeactivated)(self._account_changed)
        auth.events.on(PasswordChanged)(self._account_changed)

    def routes(self) -> Sequence[BaseRoute]:
        return [*DevicePages(self.clients, self.requests).routes(), *self.endpoints.routes()]

    async def _account_changed(self, event: UserDeactivated[Any] | PasswordChanged[Any]) -> None:
        """Ends what an attacker may have approved in the user's account."""
        await self.requests.revoke_all(event.user)


class DevicePages:
    """The pages `device` (enter the code, then decide) and `device_done`."""

    def __init__(self, clients: Mapping[str, str], requests: DeviceRequests) -> None:
        self.clients, self.requests = clients, requests

    def routes(self) -> Sequence[BaseRoute]:
        return [
            Route("/device", account_page(self.device), name="device", methods=["GET", "POST"]),
            Route("/device/done", account_page(self.done), name="device_done", methods=["GET"]),
        ]

    async def device(self, auth: Auth, request: Request) -> Response:
        """Shows the form for the code; then what asks; then records the decision."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._device(auth, request, user)

    async def _device(self, auth: Auth, request: Request, user: User) -> Response:
        await require_fresh_factor(auth, request, user, keep=KEPT_FIELDS)
        form = _form()
        if request.method != "POST":
            # An attacker mails a link with the attacker's code. Therefore a link fills in the field and does no more: the
            # user goes on to the page that shows what asks (RFC 8628 §3.3.1, §5.4).
            form.data["user_code"] = parse_user_code(request.query_params.get("user_code", ""))
            return await _code_page(auth, request, form)
        await form.fill_in(request)
        if form.data["request"]:  # of the second page, which sends no code
            return await self._decide(auth, request, user, form)
        asked = await self._find(auth, request, user, form) if form.is_valid else None
        if asked is None:
            return await _code_page(auth, request, form, 422)
        return await self._confirm_page(auth, request, user, form, asked)

    async def _find(self, auth: Auth, request: Request, user: User, form: Form) -> DeviceRequest | None:
        """Returns the request with the entered code. Counts each try, right or wrong: 34 bits could be guessed."""

        async def page(status: int) -> Response:
            return await _code_page(auth, request, form, status)

        with keep_form(auth, request, form, page):
            address = auth.proxies.client_address(request)
            await auth.throttle.hit("device", ip=address, account=f"user {user.id}")
        asked = await self.requests.find_pending(form.data["user_code"])
        if asked is None or asked.client not in self.clients:
            text = gettext("This code is wrong, was used before, or is too old. Start again on your device.")
            form.add_error("user_code", ValidationError(text, "unknown_code"))
            return None
        return asked

    async def _confirm_page(
        self, auth: Auth, request: Request, user: User, form: Form, asked: DeviceRequest
    ) -> Response:
        handle = _handle(auth, user, asked)
        address = auth.proxies.client_address(request)
        details: dict[str, Any] = {
            "client": self.clients[asked.client],
            "user_code": parse_user_code(form.data["user_code"]),
            "address": asked.address,
            "browser": describe_user_agent(asked.browser),
            "created": asked.created,
            "scopes": None if asked.scopes is None else list(asked.scopes),
        }
        if sent_json(request):
            return JSONResponse({**details, "request": handle})
        details["time"] = format_time_since(int(auth.clock()) - asked.created)
        is_elsewhere = client_network(asked.address) != client_network(address)
        page = "registration/device_confirm.html"
        return await render(auth, request, page, handle=handle, is_elsewhere=is_elsewhere, **details)

    async def _decide(self, auth: Auth, request: Request, user: User, form: Form) -> Response:
        """Records the decision of the user, and shows the form for a code again if there is nothing to decide."""
        token_hash = _read_handle(auth, user, form.data["request"])
        decision = form.data["decision"]
        error = None
        if token_hash is None or decision not in ("approve", "refuse"):
            error = _too_late()
        else:

            async def record() -> ValidationError | None:
                return await self._record(auth, request, user, token_hash, is_approved=decision == "approve")

            error = await auth.gateway.run_in_transaction(record)
        if error is not None:
            form = _form()
            form.add_error("", error)
            return await _code_page(auth, request, form, 422)
        page = next_path(request.scope, "device_done")
        url = with_query(page, "decision", decision) if page else ""
        return RedirectResponse(url, status_code=303)

    async def _record(
        self, auth: Auth, request: Request, user: User, token_hash: str, *, is_approved: bool
    ) -> ValidationError | None:
        await self.requests.lock_approvals(user)
        asked = await self.requests.find_again(token_hash)
        if asked is None or not self.requests.is_pending(asked) or asked.client not in self.clients:
            return _too_late()
        if not await self.requests.is_unchanged(user):
            return _too_late()
        details: dict[str, Any] = {"user": user, "client": asked.client, "address": asked.address, "request": request}
        if not is_approved:
            await self.requests.refuse(asked)
            await auth.events.emit(DeviceRefused(**details))
            return None
        for perm in asked.scopes or ():
            if not await auth.has_perm(user, perm):
                text = gettext("You do not have the permission %(perm)s.") % {"perm": perm}
                return ValidationError(text, "unknown_scope")
        await self.requests.approve(asked, user)
        await auth.events.emit(DeviceApproved(**details))
        return None

    async def done(self, auth: Auth, request: Request) -> Response:
        """Tells the user what happens next."""
        is_approved = request.query_params.get("decision") == "approve"
        return await render(auth, request, "registration/device_done.html", is_approved=is_approved)


def _form() -> Form:
    help_text = gettext("Your device or command line shows it.")
    return Form(
        user_code=Field(label=gettext("Code"), max_length=20, help_text=help_text),
        request=Field(type="hidden", required=False),
        decision=Field(type="hidden", required=False),
    )


async def _code_page(auth: Auth, request: Request, form: Form, status: int = 200) -> Response:
    return await render(auth, request, "registration/device_form.html", status, form=form)


def _handle(auth: Auth, user: User, asked: DeviceRequest) -> str:
    """Returns the text by which the form of the decision names the request, for this user only.

    An attacker could otherwise let a victim's browser send the attacker's request, without the page that shows it.
    """
    token_hash = asked.row.token_hash
    return f"{token_hash}.{auth.keys.sign(CODES, f'decision {user.identity} {token_hash}')}"


def _read_handle(auth: Auth, user: User, handle: str) -> str | None:
    token_hash, _, signature = handle.partition(".")
    is_valid = auth.keys.verify(CODES, f"decision {user.identity} {token_hash}", signature) is not None
    return token_hash if is_valid else None


def _too_late() -> ValidationError:
    return ValidationError(
        gettext("This request was decided before, or is too old. Start again on your device."), "late"
    )
