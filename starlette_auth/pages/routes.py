"""The routes of the account pages."""

import functools
from collections.abc import Iterable, Iterator, Sequence

from starlette.routing import BaseRoute, Route

from ..auth import Auth
from ..core.arguments import require_bool, require_instance
from ..http.urls import JSON_SUFFIX
from .base import ACCOUNT_PAGE, account_page, asset, json_endpoint, template_page, visitor_page
from .factors.reauthentication import reauthenticate, require_fresh_factor
from .login import login_page, logout_page, saved_form_page
from .passwords import password_change, password_change_done, password_reset, password_reset_confirm
from .security import password_set, security_page
from .session import session_page

LOADED_BY_PAGES = ("auth_style", "auth_script", "passkeys_script")
RETURN_JSON = ("session", "security", "sessions", "tokens", "passkeys")  # the pages that programs read
#: The pages whose GET tells a program what to send, such as the options of a passkey.
GIVE_OPTIONS = ("passkey_login", "passkey_add", "second_factor")


def routes(auth: Auth, *, pages: bool = True) -> list[BaseRoute]:
    """Returns the routes of the account pages, to be mounted: `Mount("/accounts", routes=routes(auth))`.

    `pages=False` leaves out the pages: the routes take and return JSON only. Mails then link to pages of the
    application, which have the names of the pages of this package, such as `password_reset_confirm`.
    """
    require_instance(auth, Auth, "auth", "Pass the Auth, as in routes(auth).")
    require_bool(pages, "pages")
    all_routes = [*_routes(), *(route for feature in auth.features for route in feature.routes())]
    # Only a site with passkeys has options for a reauthentication.
    has_ways_in = any(factor.is_way_in for factor in auth.factors())
    giving = (*GIVE_OPTIONS, "reauthenticate") if has_ways_in else GIVE_OPTIONS
    return all_routes if pages else [*_for_programs(all_routes, giving)]


def _for_programs(pages: Iterable[BaseRoute], giving: Sequence[str]) -> Iterator[BaseRoute]:
    """Yields the routes of pages that take or return JSON, and other routes of features. Those in `giving` take a GET too.

    A route of a POST or a DELETE gets another name: the name of the page is for the application's page, to which mails link.
    """
    for page in pages:
        if not isinstance(page, Route) or not getattr(page.endpoint, ACCOUNT_PAGE, False):
            if getattr(page, "name", "") not in LOADED_BY_PAGES:
                yield page
        elif page.name in RETURN_JSON:
            yield Route(page.path, json_endpoint(page.endpoint), name=page.name, methods=["GET"])
        elif methods := sorted({"POST", "DELETE"} & set(page.methods or ())):
            methods += ["GET"] if page.name in giving else []
            yield Route(page.path, json_endpoint(page.endpoint), name=page.name + JSON_SUFFIX, methods=methods)


def _routes() -> list[BaseRoute]:
    both, get = ["GET", "POST"], ["GET"]
    set_password = functools.partial(password_set, require_proof=require_fresh_factor)
    return [
        Route(
            "/login",
            account_page(login_page, for_visitors=True, shows_saved_forms=True),
            name="login",
            methods=both,
        ),
        Route("/login/form", account_page(saved_form_page), name="saved_form", methods=get),
        Route("/logout", account_page(logout_page), name="logout", methods=both),
        Route("/session", account_page(session_page), name="session", methods=get),
        Route("/logged_out", template_page("logged_out"), name="logged_out", methods=get),
        Route("/reauthenticate", account_page(reauthenticate), name="reauthenticate", methods=both),
        Route("/password_change", account_page(password_change), name="password_change", methods=both),
        Route("/password_change/done", account_page(password_change_done), name="password_change_done", methods=get),
        Route("/password_set", account_page(set_password), name="password_set", methods=both),
        Route("/security", account_page(security_page), name="security", methods=get),
        Route("/password_reset", visitor_page(password_reset), name="password_reset", methods=both),
        Route("/password_reset/done", template_page("password_reset_done"), name="password_reset_done", methods=get),
        Route(
            "/reset/{uidb64}/{token}",
            visitor_page(password_reset_confirm),
            name="password_reset_confirm",
            methods=both,
        ),
        Route("/reset/done", template_page("password_reset_complete"), name="password_reset_complete", methods=get),
        Route("/auth.css", asset("auth.css", "text/css"), name="auth_style", methods=get),
        Route("/auth.js", asset("auth.js", "text/javascript"), name="auth_script", methods=get),
    ]
