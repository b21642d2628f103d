"""The pages `security`, with all ways to log in to an account in one place, and `password_set`, which adds one."""

import dataclasses
import functools
from collections.abc import AsyncIterator, Awaitable, Callable

from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from ..answers import redirect_to_login, respond
from ..auth import Auth
from ..authentication import update_session_auth_hash
from ..backends.session import SessionBackend, session_of
from ..context_processors import template_context
from ..core.exceptions import Refused
from ..core.text import is_usable
from ..core.translation import format_time_since, gettext
from ..http.clients import wants_json
from ..security.account_review import AFTER_RESET
from ..users.models import User
from .base import check_new_password, keep_form, new_password_fields, password_rules, redirect_to_page, render
from .forms import Form

WAS_SET = "password_set"  # in the query of the URL of the page `security`


async def security_page(auth: Auth, request: Request) -> Response:
    """Shows the password and a section of each feature; as JSON the ways to log in and the factors.

    After a reset by mail, the first login leads here, and from here to `next`.
    """
    user = request.user
    if not isinstance(user, User):
        return redirect_to_login(request)
    if wants_json(request):
        factors = [dataclasses.asdict(factor) for factor in await auth.list_factors(user)]
        return JSONResponse({"ways_in": await auth.ways_in(user), "factors": factors})
    is_after_reset = AFTER_RESET in request.query_params
    return await render(
        auth,
        request,
        "registration/security.html",
        has_password=is_usable(user.password),
        may_set_password=await may_set_password(auth, request, user),
        sections=[section async for section in _sections(auth, request, user)],
        was_set=WAS_SET in request.query_params,
        is_after_reset=is_after_reset,
        next=auth.redirects.choose(request.scope, auth.redirects.read(request)) if is_after_reset else "",
    )


async def password_set(
    auth: Auth, request: Request, *, require_proof: Callable[[Auth, Request, User], Awaitable[None]]
) -> Response:
    """Shows the form for the first password of an account with other ways to log in. Its other sessions end.

    An attacker with a stolen session would otherwise add a password and keep the account. Therefore `require_proof`
    raises Refused unless the user has just proved as much as the factors of the account allow.
    """
    user = request.user
    if not isinstance(user, User):
        return redirect_to_login(request)
    if is_usable(user.password):
        detail = gettext("This account has a password already. Change it instead.")
        return redirect_to_page(auth, request, Refused(409, detail, code="has_password"), "password_change")
    if not await may_set_password(auth, request, user):
        detail = gettext("Your account is managed elsewhere, and has no password here.")
        return respond(auth, request, Refused(403, detail, code="managed_elsewhere"))
    await require_proof(auth, request, user)
    form = Form(**new_password_fields(auth, "new_password1", "new_password2"))
    template = "registration/password_set_form.html"
    page = functools.partial(render, auth, request, template, form=form, password_help=password_rules(auth))
    if request.method != "POST":
        return await page()
    await form.fill_in(request)
    await check_new_password(auth, form, "new_password1", "new_password2", user)
    if not form.is_valid:
        return await page(422)
    raw = form.data["new_password1"]
    with keep_form(auth, request, form, page):
        encoded = await auth.passwords.hash(raw)
    if not await auth.users.replace_password(user, encoded, raw=raw, request=request):
        return redirect_to_login(request)  # another request has set one
    update_session_auth_hash(request, user)
    return RedirectResponse(f"{auth.url_for(request, 'security')}?{WAS_SET}", status_code=303)


async def may_set_password(auth: Auth, request: Request, user: User) -> bool:
    """Returns whether a user without a password may set one here.

    A user whom a reverse proxy or a directory logs in could otherwise log in after the account was closed there.
    """
    session = session_of(request)
    is_own_login = session is not None and SessionBackend.backend_of(session) == auth.model_backend.path
    return is_own_login or bool(await auth.ways_in(user))


async def _sections(auth: Auth, request: Request, user: User) -> AsyncIterator[Markup]:
    """Yields the sections of the features, rendered, in the order of the features."""
    now = int(auth.clock())
    common = {**template_context(auth, request), "format_time_since": lambda time: format_time_since(now - time)}
    for feature in auth.features:
        section = await feature.security_section(request, user)
        if section is not None:
            template, variables = section
            yield Markup(await auth.templates.render(template, {**common, **variables}))  # noqa: S704  a page's part
