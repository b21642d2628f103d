"""One installation of this package: its parts, put together."""

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any, Literal

import sqlalchemy as sa
from databases import Database
from starlette.requests import HTTPConnection, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, NoMatchFound

from .backends import AuthenticationBackend, ModelBackend, SessionBackend
from .cookies import Cookie
from .events import Events
from .exceptions import ImproperlyConfigured, PermissionDenied
from .gateway import Gateway
from .models import AnonymousUser, User
from .passwords import Passwords
from .sessions.base import SessionStore
from .sessions.database import DatabaseStore
from .signing import SecretKeys
from .tables import Tables
from .templating import STYLE_VERSION, Templates
from .users import Users

LoginStep = Callable[[Request, User], Awaitable[Response | None]]
SCOPE_KEY = "starlette_auth"
SCOPE_APP = "starlette_auth.app"


class Feature:
    """Something optional: its tables, its pages and its listeners, in one file. `Auth(features=[…])` attaches it."""

    def tables(self, tables: Tables) -> Sequence[sa.Table]:
        """Further tables, for `migrate` to create."""
        return ()

    def attach(self, auth: "Auth") -> None:
        """Called once: listen to `auth.events`, add to `auth.login_steps` or `auth.backends`."""

    def routes(self) -> Sequence[BaseRoute]:
        """Further pages, below wherever `routes(auth)` is mounted."""
        return ()


class Auth:
    """Everything that the middlewares, the pages and the command line work with.

    `secret_key` is a text, or several, newest first. `sessions` is a store (default: the table `auth_session`),
    `backends` are asked before the session and the password. `login_url` and `login_redirect_url` are names of routes
    or paths. `next_hosts` are the other hosts to which a login may lead, `trusted_origins` those whose pages may post
    to us, as in "https://shop.example".
    """

    def __init__(
        self,
        database: Database,
        *,
        secret_key: str | Sequence[str],
        tables: Tables | None = None,
        user_class: type[User] = User,
        login_fields: Sequence[str] = ("username",),
        sessions: SessionStore | None = None,
        cookie: Cookie | None = None,
        backends: Sequence[AuthenticationBackend] = (),
        passwords: Passwords | None = None,
        templates: Sequence[str | PathLike[str]] = (),
        login_url: str = "login",
        login_redirect_url: str = "/",
        logout_redirect_url: str = "logged_out",
        next_hosts: Sequence[str] = (),
        trusted_origins: Sequence[str] = (),
        csrf: Literal["headers", "strict"] = "headers",
        features: Sequence[Feature] = (),
    ) -> None:
        if csrf not in ("headers", "strict"):
            raise ImproperlyConfigured(f'csrf={csrf!r} is not known. Use "headers" (the default) or "strict".')
        if not isinstance(database, Database):
            raise ImproperlyConfigured("Auth takes a Database. Pass Database(url), from the package `databases`.")
        if isinstance(next_hosts, str) or not all(next_hosts):
            raise ImproperlyConfigured('next_hosts is a list of hosts. Pass next_hosts=["shop.example"].')
        if isinstance(trusted_origins, str) or not all("://" in origin for origin in trusted_origins):
            raise ImproperlyConfigured('trusted_origins is a list. Pass trusted_origins=["https://shop.example"].')
        if "__dataclass_fields__" not in vars(user_class):
            raise ImproperlyConfigured(f"Put @dataclass(kw_only=True, eq=False) above class {user_class.__name__}.")
        unknown = set(login_fields) - {"username", "email"}
        if unknown or not login_fields:
            raise ImproperlyConfigured(
                'login_fields is ("username",), ("email",) or ("username", "email"). Choose one.'
            )
        self.database = database
        self.keys = SecretKeys(secret_key)
        self.gateway = Gateway.of(database)
        self.events = Events()
        self.passwords = passwords or Passwords()
        self.tables = tables or Tables()
        self.users: Users[Any] = Users(
            self.gateway,
            tables=self.tables,
            passwords=self.passwords,
            events=self.events,
            user_class=user_class,
        )
        self.sessions: SessionStore = DatabaseStore(database, users=self.users) if sessions is None else sessions
        self.cookie = cookie or Cookie()
        # Beside the session cookie: a secret of the browser's own, so that a visitor without a session can have a form.
        self.csrf_cookie = replace(self.cookie, name=f"{self.cookie.name}_csrf")
        self.session_backend = SessionBackend(self.users, self.keys)
        self.model_backend = ModelBackend(self.users, login_fields=login_fields)
        self.backends: list[AuthenticationBackend] = [*backends, self.session_backend, self.model_backend]
        self.login_steps: list[LoginStep] = []
        self.templates = Templates(templates)
        self.login_fields = tuple(login_fields)
        self.login_url = login_url
        self.login_redirect_url = login_redirect_url
        self.logout_redirect_url = logout_redirect_url
        self.next_hosts = tuple(next_hosts)
        self.trusted_origins = frozenset(origin.rstrip("/").lower() for origin in trusted_origins)
        self.csrf = csrf
        self.features = list(features)
        for feature in self.features:
            self.tables.features.extend(feature.tables(self.tables))
            feature.attach(self)

    async def has_perm(self, user: User | AnonymousUser, perm: str, obj: object = None) -> bool:
        """Asks each backend, also about one object. No for an inactive or anonymous user, yes for a superuser."""
        if not user.is_active or not isinstance(user, User):
            return False
        if user.is_superuser:
            return True
        try:
            for backend in self.backends:
                if await backend.has_perm(user, perm, obj):
                    return True
        except PermissionDenied:
            return False
        return False

    def url_for(self, conn: HTTPConnection, name: str, **params: Any) -> str:
        """The path of a page, given the name of its route, or a path of the application; its root_path comes in front.

        Looked up from the outermost application, so that an application mounted inside finds it too.
        """
        app, root_path = conn.scope.get(SCOPE_APP, (conn.scope.get("app"), conn.scope.get("root_path", "")))
        if name.startswith("/"):
            return f"{root_path}{name}"
        try:
            return f"{root_path}{app.url_path_for(name, **params)}"
        except (NoMatchFound, AttributeError) as error:
            raise ImproperlyConfigured(
                f'No route is called {name!r}. Add Mount("/accounts", routes=routes(auth)) to your app, '
                'or pass the path of your own page, as in Auth(login_url="/login").'
            ) from error

    def style_url(self, conn: HTTPConnection) -> str | None:
        """Where the stylesheet of our pages is; None where they are not mounted."""
        try:
            return f"{self.url_for(conn, 'auth_style')}?v={STYLE_VERSION}"
        except ImproperlyConfigured:
            return None

    def accepting(self, credentials: dict[str, Any]) -> list[AuthenticationBackend]:
        """The backends whose `authenticate` takes credentials of these names."""
        return [backend for backend in self.backends if _takes(backend.authenticate, credentials)]


def get_auth(conn: HTTPConnection) -> Auth:
    """The Auth that takes care of this request."""
    auth = conn.scope.get(SCOPE_KEY)
    if not isinstance(auth, Auth):
        raise ImproperlyConfigured(
            "This request did not pass AuthenticationMiddleware. Pass middleware=middleware(auth) to your app."
        )
    return auth


def _takes(function: Callable[..., Any], credentials: dict[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(None, **credentials)
    except TypeError:
        return False
    return True
