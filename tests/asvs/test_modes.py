"""The assessment of applications whose account pages take JSON only, or that stand beside a Django project."""

import logging
import re
from pathlib import Path
from typing import Any

import pytest
from databases import Database
from fastapi import FastAPI
from fastapi.responses import HTMLResponse

from starlette_auth import (
    Auth,
    DjangoProject,
    SecurityHeaders,
    lifespan,
    login_not_required,
    middleware,
    migrate,
)
from starlette_auth.asvs.application import Target
from starlette_auth.asvs.headers import complete_line
from starlette_auth.asvs.plugin import judge
from starlette_auth.asvs.rows import ROWS
from starlette_auth.fastapi import accounts

from ..conftest import any_database
from .site import BEFORE, HEADERS, assess, failures, make_app, make_auth

pytestmark = any_database
LINKED = {
    "/app/login": "login",
    "/app/register": "register",
    "/app/confirm/{token}": "register_confirm",
    "/app/reset/{uidb64}/{token}": "password_reset_confirm",
    "/app/email/{token}": "email_change_confirm",
    "/app/undo/{token}": "email_undo_confirm",
}
#: What Django's cookies and sessions do not have. The tests' site has another hasher than Django.
DJANGO_FAILS = {"3.3.1", "3.3.3", "3.3.4", "6.4.1", "7.3.1", "7.3.2", "7.4.5"}


@pytest.fixture(autouse=True)
def security_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "starlette_auth.security")


def json_app(auth: Auth, *, headers: dict[str, str]) -> FastAPI:
    """Returns an application with pages of its own, which post to the account pages as JSON."""

    @login_not_required
    async def page() -> HTMLResponse:
        return HTMLResponse("<script src=/app.js></script>", headers=headers)

    app = FastAPI(
        middleware=middleware(auth, headers=HEADERS), lifespan=lifespan(auth, create_tables=True), openapi_url=None
    )
    app.include_router(accounts(auth, pages=False), prefix="/accounts")
    for path, name in LINKED.items():
        app.get(path, name=name)(page)
    return app


async def test_account_pages_that_take_json_only_pass_as_others_do(tmp_path: Path) -> None:
    auth = make_auth(tmp_path)
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    results = await assess(json_app(auth, headers=headers), auth)
    assert failures(results) == BEFORE
    assert (results["14.2.1"].status, results["6.2.6"].status) == ("manual", "n/a")


async def test_a_page_for_a_mailed_link_must_keep_its_url_to_itself(tmp_path: Path) -> None:
    auth = make_auth(tmp_path)
    results = await assess(json_app(auth, headers={"Cache-Control": "no-store"}), auth)
    assert failures(results) == BEFORE | {"14.2.1"}


async def test_beside_django_the_advice_is_about_django_and_no_session_is_left(tmp_path: Path) -> None:
    auth = make_auth(tmp_path, django=DjangoProject(version="5.2"))
    database = auth.gateway.database
    assert isinstance(database, Database)
    async with database:
        await migrate(auth.gateway, auth.tables)
    async with Target(make_app(auth), auth).running() as target:
        results = {row.id: await judge(row, target) for row in ROWS}
    assert failures(results) == BEFORE | DJANGO_FAILS
    for id in DJANGO_FAILS:
        assert re.search("Django", results[id].fix), id
        assert "session_limits" not in results[id].fix
    async with database:
        for table in ("auth_user", "django_session", "auth_token"):
            assert await database.fetch_val(f"SELECT COUNT(*) FROM {table}") == 0


@pytest.mark.parametrize(
    "given",
    [
        None,
        SecurityHeaders(),
        SecurityHeaders(
            content_security_policy="img-src data:; script-src 'self' 'unsafe-inline'", hsts_subdomains=True
        ),
        SecurityHeaders(content_security_policy=None, referrer_policy=None, cross_origin_opener_policy=None, hsts=None),
        SecurityHeaders(no_store=False, hsts=60, referrer_policy="no-referrer"),
    ],
)
async def test_the_line_below_the_table_mends_all_headers(given: SecurityHeaders | None, tmp_path: Path) -> None:
    auth = make_auth(tmp_path)

    async def lines(headers: SecurityHeaders | None) -> tuple[str, dict[str, Any]]:
        target = Target(make_app(auth, headers=headers), auth)
        async with target.running():
            results = {row.id: await row.check(target) for row in ROWS if row.id.startswith(("3.2", "3.4", "14."))}
        return complete_line(target, results.values()), results

    line, results = await lines(given)
    assert failures(results) > {"3.4.7"}
    headers: SecurityHeaders = eval(
        line.replace("middleware(auth, headers=", "("), {"SecurityHeaders": SecurityHeaders}
    )
    for name in ("img-src data:", "no-referrer"):
        assert (name in str(given)) == (name in line)
    line, results = await lines(headers)
    assert (line, failures(results)) == ("", {"3.4.7"})
