"""Rendering of pages and error pages."""

import http
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.templating import Jinja2Templates

from starlette_auth import auth_context

templates = Jinja2Templates(Path(__file__).parent / "templates", context_processors=[auth_context])
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'self'; img-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
}
TITLES = {
    400: "This request could not be read",
    403: "You do not have permission",
    404: "Page not found",
    405: "This page only accepts forms",
    413: "This is too long",
    415: "This is not a form",
    500: "Something went wrong",
    503: "Temporarily unavailable",
}
ADVICE = {
    400: "Go back to the page with the form and send it again.",
    404: "Check the address. The page may have been deleted.",
    405: "Open the page with the form and send it from there.",
    413: "Go back and send something shorter.",
    415: "Go back and use the form on the page.",
    500: "This is an error of the site, and it has been logged. Please try again in a minute.",
}


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


templates.env.filters["moment"] = moment
templates.env.trim_blocks = templates.env.lstrip_blocks = True


def render(
    request: Request,
    template: str,
    context: dict[str, Any],
    status_code: int = 200,
    headers: Mapping[str, str] | None = None,
) -> HTMLResponse:
    return templates.TemplateResponse(request, template, context, status_code, headers={**HEADERS, **(headers or {})})


async def on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101  registered for HTTPException only
    status, headers = error.status_code, error.headers
    if status in (204, 304):
        return Response(status_code=status, headers=headers)
    if _is_api(request):
        return JSONResponse({"detail": error.detail}, status, headers)
    # Under /static and /healthz the middleware does not run, so a page would have no user.
    if "user" not in request.scope:
        return PlainTextResponse(f"{error.detail}\n", status, headers)
    has_detail = error.detail != http.HTTPStatus(status).phrase
    context = {
        "status": status,
        "title": TITLES.get(status, error.detail),
        "detail": error.detail if has_detail else "",
        "advice": ADVICE.get(status, "" if has_detail else "Go back to the notes."),
    }
    return render(request, "error.html", context, status, headers)


async def on_crash(request: Request, error: Exception) -> Response:
    """Renders the error page without session and user, because reading these may be what failed."""
    if _is_api(request):
        return JSONResponse({"detail": f"{TITLES[500]}. {ADVICE[500]}"}, 500)
    page = templates.get_template("crash.html").render(title=TITLES[500], advice=ADVICE[500], root=_root(request))
    return HTMLResponse(page, 500, HEADERS)


error_handlers = {HTTPException: on_http_error, Exception: on_crash}


def _root(request: Request) -> str:
    return str(request.scope.get("app_root_path", request.scope.get("root_path", "")))


def _is_api(request: Request) -> bool:
    return str(request.scope["path"]).removeprefix(_root(request)).startswith("/api/")
