"""The feature `APITokens`, and the pages on which users see, create and revoke their tokens."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from ...answers import redirect_to_login
from ...auth import Auth, Feature
from ...core.arguments import require_instance, require_integer
from ...core.events import PasswordChanged, TokenRevoked, UserDeactivated
from ...core.exceptions import ImproperlyConfigured, ValidationError
from ...core.translation import format_time_since, gettext
from ...database.tables import Tables
from ...http.clients import wants_json
from ...http.content import sent_json
from ...http.urls import next_path
from ...pages.base import account_page, render
from ...pages.factors.reauthentication import fresh_login_required, require_fresh_factor
from ...pages.forms import Field, Form
from ...users.models import User
from .backend import TokenBackend
from .manager import DAY, MAX_NAME, ManagesTokens
from .store import TokenStore, token_table
from .tokens import APIToken, TokenFormat

MAX_SCOPES = 4000  # characters
LONGEST = 3650 * DAY  # the greatest value of `longest`
FIX = "Pass default_expiry=timedelta(days=90), longest=timedelta(days=365), for example."


class APITokens(ManagesTokens, Feature):
    """Adds tokens with which programs act for a user: `Auth(features=[APITokens(prefix="shop")])`.

    A request with `Authorization: Bearer shop_…` is from the owner of the token, with the permissions that both the owner
    and the scopes of the token have. It has no session, opens no account page, and is never fresh. The table stores
    hashes only. `prefix` is the beginning of each token, by which scanners find a published one. `max_per_user` limits
    the tokens of a user that have not expired, `default_expiry` and `longest` how long they last: 1 to 3,650 days.

    A token ends when it expires or is revoked, and with the account: when the account is deactivated or deleted, and when
    the password is reset by mail. The page that changes the password asks whether they end.
    """

    choice_name = "revoke_tokens"

    def __init__(
        self,
        prefix: str,
        *,
        max_per_user: int = 50,
        default_expiry: timedelta = timedelta(days=90),
        longest: timedelta = timedelta(days=365),
    ) -> None:
        self.format = TokenFormat(prefix)
        require_integer(max_per_user, "max_per_user")
        for name, value in (("default_expiry", default_expiry), ("longest", longest)):
            require_instance(value, timedelta, name, FIX)
        if not DAY <= longest <= LONGEST:  # the form asks for days
            raise ImproperlyConfigured(f"longest={longest} is not between 1 and {LONGEST // DAY} days. {FIX}")
        if not DAY <= default_expiry <= longest:
            raise ImproperlyConfigured(f"default_expiry={default_expiry} is not between 1 day and `longest`. {FIX}")
        self.max_per_user, self.default_expiry, self.longest = max_per_user, default_expiry, longest

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        self._table = token_table(tables)
        return [self._table]

    def attach(self, auth: Auth) -> None:
        self.auth, self.store = auth, TokenStore(auth, self._table)
        self.backend = TokenBackend(auth, self.format, self.store)
        auth.backends.insert(auth.backends.index(auth.session_backend), self.backend)
        auth.events.on(UserDeactivated)(self._user_deactivated)
        auth.events.on(PasswordChanged)(self._password_changed)
        auth.events.on(TokenRevoked)(self._close_connections)

    def routes(self) -> Sequence[BaseRoute]:
        return TokenPages(self).routes()

    async def choice_field(self, user: User) -> Field | None:
        """Returns a checkbox for the page on which users change their password; None without tokens."""
        if not await self.list(user):
            return None
        help_text = gettext("Select this if another person may have used your account.")
        return Field(label=gettext("Also revoke my API tokens"), type="checkbox", required=False, help_text=help_text)

    async def choose(self, user: User, request: Request) -> None:
        """Revokes the tokens of a user who asks for it while changing the password."""
        await self.revoke_all(user, request=request)

    async def _user_deactivated(self, event: UserDeactivated[Any]) -> None:
        """Revokes the tokens, which would otherwise be valid again when the account is reactivated."""
        await self.revoke_all(event.user)

    async def _password_changed(self, event: PasswordChanged[Any]) -> None:
        """Revokes the tokens after a reset: the owner takes an account back, in which an attacker may have made some."""
        if event.by_reset:
            await self.revoke_all(event.user, request=event.request)

    async def _close_connections(self, event: TokenRevoked[Any]) -> None:
        user_changed, identity = self.auth.sessions.open_websockets.user_changed, event.user.identity
        self.auth.gateway.on_commit(lambda: user_changed(identity))


class TokenPages:
    """The pages `tokens`, `tokens_create` and `tokens_revoke`, and the same in JSON at `/tokens`."""

    def __init__(self, tokens: ManagesTokens) -> None:
        self.tokens = tokens

    def routes(self) -> Sequence[BaseRoute]:
        create = account_page(self.create)
        return [
            Route("/tokens", account_page(self.list), name="tokens", methods=["GET"]),
            Route("/tokens", create, name="tokens_add", methods=["POST"]),
            Route("/tokens/create", create, name="tokens_create", methods=["GET", "POST"]),
            Route("/tokens/revoke", account_page(self.revoke), name="tokens_revoke", methods=["POST"]),
            Route("/tokens/{id:int}", account_page(self.delete), name="tokens_delete", methods=["DELETE"]),
        ]

    async def list(self, auth: Auth, request: Request) -> Response:
        """Shows the user's tokens, without their texts; as JSON for a client that wants JSON."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        tokens = await self.tokens.list(user)
        if wants_json(request):
            return JSONResponse({"tokens": [token.as_json() for token in tokens]})
        now = int(auth.clock())
        return await render(
            auth,
            request,
            "registration/tokens.html",
            tokens=tokens,
            now=now,
            format_time_since=lambda time: format_time_since(now - time),
            days_left=lambda token: max(1, -((now - token.expires) // (24 * 60 * 60))),
            is_done="done" in request.query_params,
        )

    async def create(self, auth: Auth, request: Request) -> Response:
        """Shows the form for a new token, and then the token, once."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._create(auth, request, user)

    async def _create(self, auth: Auth, request: Request, user: User) -> Response:
        # A token acts for its user for months, without a second factor.
        await require_fresh_factor(auth, request, user, keep=("name", "expires", "scopes"))
        form = self._form()
        token = None
        if request.method == "POST":
            await form.fill_in(request)
            token = await self._create_from(form, request, user)
        else:
            form.data["expires"] = str(self.tokens.default_expiry // DAY)
        if token is not None and sent_json(request):
            return JSONResponse(token.as_json())
        if token is not None:
            return await render(auth, request, "registration/token_created.html", token=token)
        status = 422 if form.errors else 200
        permissions = sorted(user.get_all_permissions())
        return await render(auth, request, "registration/token_form.html", status, form=form, permissions=permissions)

    async def _create_from(self, form: Form, request: Request, user: User) -> APIToken | None:
        """Returns the new token; None if the form has errors."""
        days, scopes = form.data["expires"] or str(self.tokens.default_expiry // DAY), form.data["scopes"].split()
        if not (days.isascii() and days.isdecimal() and len(days) < 6):
            form.add_error("expires", ValidationError(gettext("Enter a number of days."), "invalid"))
        if not form.is_valid:
            return None
        expires = timedelta(days=int(days))
        if not form.data["expires"]:
            expires = self.tokens.default_expiry
        try:
            return await self.tokens.create(
                user, form.data["name"], scopes=scopes or None, expires=expires, request=request
            )
        except ValidationError as error:
            form.add_error(str((error.params or {}).get("field", "")), error)
            return None

    async def revoke(self, auth: Auth, request: Request) -> Response:
        """Revokes the token with the number in the field `token`."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._revoke(auth, request, user)

    @fresh_login_required(keep=("token",))
    async def _revoke(self, auth: Auth, request: Request, user: User) -> Response:
        form = Form(token=Field(max_length=18))
        await form.fill_in(request)
        number = form.data["token"]
        if not (form.is_valid and number.isascii() and number.isdecimal()):
            raise HTTPException(400, gettext("No token was selected. Go back and select one."))
        await self.tokens.revoke(user, int(number), request=request)
        page = next_path(request.scope, "tokens")
        return RedirectResponse(f"{page}?done" if page else "", status_code=303)

    async def delete(self, auth: Auth, request: Request) -> Response:
        """Revokes the token with the number in the path, for programs."""
        user = request.user
        if not isinstance(user, User):
            return redirect_to_login(request)
        return await self._delete(request, user)

    @fresh_login_required
    async def _delete(self, request: Request, user: User) -> Response:
        if not await self.tokens.revoke(user, request.path_params["id"], request=request):
            raise HTTPException(404, gettext("There is no such token."))
        return Response(status_code=204)

    def _form(self) -> Form:
        limit = gettext("At most %(number)d.") % {"number": self.tokens.longest // DAY}
        scopes = gettext(
            "Names of permissions, separated by spaces. Without any, the token may do all that you may do."
        )
        return Form(
            name=Field(label=gettext("Name"), max_length=MAX_NAME, help_text=gettext("What is the token for?")),
            expires=Field(label=gettext("Days until it expires"), required=False, max_length=5, help_text=limit),
            scopes=Field(label=gettext("Permissions"), required=False, max_length=MAX_SCOPES, help_text=scopes),
        )
