"""Documents guards and account pages in the OpenAPI schema of a FastAPI application."""

import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from starlette.convertors import Convertor, IntegerConvertor
from starlette.routing import Route

from ..auth import Auth
from ..guards import Guard
from ..http.endpoints import OPERATION, flat_routes, routes_of
from ..http.urls import JSON_SUFFIX
from ..middlewares.early_guards import guards_of
from ..middlewares.route_check import walk
from .app_sessions import offers_app_sessions
from .base import ACCOUNT_PAGE, JSON_FIELDS
from .forms import PasswordChangeChoice
from .page_schemas import APP_LOGIN, BOOLEANS, DELETED, FOR_USERS, NEXT, PAGES, PROBLEM_SCHEMA, PROBLEMS, READ, RESULTS

IS_DOCUMENTED = "starlette_auth_is_documented"  # an attribute of the method `openapi` of an application
PROBLEM = "application/problem+json"
SCHEME, APP_SCHEME, TOKEN_SCHEME = "session", "app_session", "token"
ONLY_SESSIONS = ("factor_required", "fresh_login_required", "staff_required")  # guards that refuse every token
NOT_LOGGED_IN = "The user is not logged in."
REFERENCE = {"$ref": "#/components/schemas/Problem"}


def document(app: Any, auth: Auth) -> None:
    """Adds guards and account pages to what `app.openapi()` returns, for each application of FastAPI in `app`.

    A mounted application has a separate schema.
    """
    for inner in _applications(app, set()):
        make_schema = getattr(inner, "openapi", None)
        if callable(make_schema) and not hasattr(make_schema, IS_DOCUMENTED):
            inner.openapi = _documented(make_schema, inner, auth)


def _applications(app: Any, seen: set[int]) -> Iterator[Any]:
    """Yields an application, what its middlewares wrap, and the applications that are mounted in it."""
    while app is not None and id(app) not in seen:
        seen.add(id(app))
        yield app
        for route in flat_routes(getattr(app, "routes", None) or ()):
            if getattr(route, "endpoint", None) is None:
                yield from _applications(getattr(route, "app", None), seen)
        app = getattr(app, "app", None)


def _documented(make_schema: Callable[[], dict[str, Any]], app: Any, auth: Auth) -> Callable[[], dict[str, Any]]:
    @functools.wraps(make_schema)
    def openapi() -> dict[str, Any]:
        schema = make_schema()
        _complete(schema, app, auth)
        return schema

    setattr(openapi, IS_DOCUMENTED, True)
    return openapi


def _complete(schema: dict[str, Any], app: Any, auth: Auth) -> None:
    """Adds what is missing. FastAPI keeps the schema, so a second call finds everything in place."""
    has_guards, schemes = False, _schemes(auth)
    paths = schema.setdefault("paths", {})
    for route, path in walk(routes_of(app)):
        # Below a mount, the prefix keeps the route apart from one of this application with the same path.
        path = path.removesuffix(str(getattr(route, "path", ""))) + str(getattr(route, "path_format", ""))
        if isinstance(route, Route) and getattr(route.endpoint, ACCOUNT_PAGE, False):
            has_guards |= _add_page(paths, route, path, auth, schemes)
            continue
        own = getattr(getattr(route, "endpoint", None), OPERATION, None)
        if own is not None:
            paths.setdefault(path, {}).setdefault("post", own)
            continue
        guards = [guard for guard, _ in guards_of(route)]
        operations = paths.get(path, {})
        for method in getattr(route, "methods", None) or ():
            if guards and method.lower() in operations:
                _add_guards(operations[method.lower()], guards, schemes)
                has_guards = True
    if has_guards:
        components = schema.setdefault("components", {})
        components.setdefault("schemas", {}).setdefault("Problem", PROBLEM_SCHEMA)
        for name, scheme in schemes.items():
            components.setdefault("securitySchemes", {}).setdefault(name, scheme)


def _schemes(auth: Auth) -> dict[str, dict[str, str]]:
    """Returns the ways in which a client proves who its user is."""
    cookie = {"type": "apiKey", "in": "cookie", "name": auth.cookie.name, "description": "The session of a login."}
    schemes = {SCHEME: cookie}
    for backend in auth.backends:
        name, text = TOKEN_SCHEME, "A token of a user (RFC 6750)."
        if backend.reads_sessions:
            name, text = APP_SCHEME, "The key of an app's session, from the login with the client app."
        if backend.scheme:
            schemes.setdefault(name, {"type": "http", "scheme": backend.scheme.lower(), "description": text})
    return schemes


def _add_guards(operation: dict[str, Any], guards: Sequence[Guard], schemes: Collection[str]) -> None:
    if any(guard.name in ONLY_SESSIONS for guard in guards):
        schemes = _without_tokens(schemes)
    _require_login(operation, schemes, [perm for guard in guards for perm in guard.perms])
    if any(guard.loads_object for guard in guards):
        operation["responses"].setdefault("404", {"description": "There is no such object."})


def _without_tokens(schemes: Iterable[str]) -> list[str]:
    return [scheme for scheme in schemes if scheme != TOKEN_SCHEME]


def _require_login(operation: dict[str, Any], schemes: Iterable[str], perms: Sequence[str] = ()) -> None:
    for scheme in schemes:  # one of them is enough
        requirement = {scheme: list(perms)}
        if requirement not in operation.setdefault("security", []):
            operation["security"].append(requirement)
    _add_problem(operation, "401", NOT_LOGGED_IN)
    _add_problem(operation, "403", "The user may not do this, or logged in too long ago.")


def _add_problem(operation: dict[str, Any], status: str, description: str) -> None:
    response = {"description": description, "content": {PROBLEM: {"schema": REFERENCE}}}
    operation.setdefault("responses", {}).setdefault(status, response)


def _add_page(paths: dict[str, Any], route: Route, path: str, auth: Auth, schemes: Collection[str]) -> bool:
    """Adds the JSON of an account page, which takes no token. Returns whether it has any."""
    name = route.name.removesuffix(JSON_SUFFIX)
    if name in READ:
        method, operation = "get", _operation(name, READ[name], RESULTS.get(name, {"type": "object"}))
    elif name in DELETED:
        method, operation = "delete", _operation(name, DELETED[name])
        _add_problem(operation, "403", PROBLEMS["403"])
        _add_problem(operation, "404", "There is none with this number.")
    elif name in PAGES:
        method, operation = "post", _submission(route, name, auth)
    else:
        return False
    if method != "get":
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": _type_of(convertor)}}
            for name, convertor in route.param_convertors.items()
        ]
    if name in FOR_USERS:
        _require_login(operation, _without_tokens(schemes))
    elif TOKEN_SCHEME in schemes:
        _add_problem(operation, "401", "The request has a token that is not valid.")
        _add_problem(operation, "403", "The request has a token.")
    paths.setdefault(path, {}).setdefault(method, operation)
    return True


def _submission(route: Route, name: str, auth: Auth) -> dict[str, Any]:
    """Returns the POST of a page that takes a form."""
    summary, fields = PAGES[name]
    fields = getattr(route.endpoint, JSON_FIELDS, fields)
    if name == "password_change":
        choices = [feature for feature in auth.features if isinstance(feature, PasswordChangeChoice)]
        fields = " ".join([fields, *(f"{choice.choice_name}?" for choice in choices)])
    result = RESULTS.get(name, {"type": "object", "properties": {"next": NEXT}})
    logs_in = name == "login" or (name == "password_reset_confirm" and auth.login_after_reset)
    if logs_in and offers_app_sessions(auth):
        fields, result = f"{fields} client?", {"type": "object", "properties": {"next": NEXT, **APP_LOGIN}}
    names = {name.rstrip("?"): name.endswith("?") for name in fields.split()}
    body = {
        "type": "object",
        "properties": {name: _field(name) for name in names},
        "required": [name for name, is_optional in names.items() if not is_optional],
    }
    operation = _operation(name, summary, result)
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if "token" in route.param_convertors:
        _add_problem(operation, "404", "The link was used before, or is too old.")
    if name in ("password_change", "password_set"):
        _add_problem(operation, "409", "The account has no password, or has one already.")
    if name == "login":
        _add_problem(operation, "401", "The login has one more step, which the member step names.")
    for status, description in PROBLEMS.items():
        _add_problem(operation, status, description)
    return operation


def _type_of(convertor: Convertor[Any]) -> str:
    return "integer" if isinstance(convertor, IntegerConvertor) else "string"


def _operation(name: str, summary: str, result: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns an operation. Without `result`, its response has no body."""
    responses: dict[str, Any] = {"204": {"description": "Done."}}
    if result is not None:
        responses = {"200": {"description": "Done.", "content": {"application/json": {"schema": result}}}}
    return {"tags": ["accounts"], "operationId": f"accounts_{name}", "summary": summary, "responses": responses}


def _field(name: str) -> dict[str, Any]:
    if name == "client":
        return {"type": "string", "enum": ["app"]}
    if name == "credential":
        return {"type": "object", "description": "What PublicKeyCredential.toJSON() returns in the browser."}
    if name in BOOLEANS:
        return {"type": "boolean"}
    if "password" in name:
        return {"type": "string", "format": "password"}
    return {"type": "string", "format": "email"} if name == "email" else {"type": "string"}
