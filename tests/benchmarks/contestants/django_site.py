"""Django itself: async views under uvicorn, sync views under gunicorn.

With database sessions, and no more middleware than they need: it checks no CSRF token here, and is faster for that.
"""

from typing import Any

import django
from databases import DatabaseURL
from django.conf import settings as django_settings
from django.contrib.auth import aauthenticate, alogin, authenticate, login
from django.contrib.auth.hashers import Argon2PasswordHasher
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import path

from ..settings import CHEAP, GREETING, PERMISSION, SECRET_KEY, Settings, vote_of


class CheapHasher(Argon2PasswordHasher):
    time_cost, memory_cost, parallelism = CHEAP["time_cost"], CHEAP["memory_cost"], CHEAP["parallelism"]


def database_of(settings: Settings, *, is_async: bool) -> dict[str, Any]:
    url = DatabaseURL(settings.database)
    if settings.is_sqlite:
        options: dict[str, Any] = {"transaction_mode": "IMMEDIATE"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": url.database, "OPTIONS": options}
    where = {"NAME": url.database, "HOST": url.hostname, "PORT": url.port, "USER": url.username}
    # Under ASGI each request has a thread of its own, which no connection outlives: there it is the pool that helps.
    options = {"pool": {"min_size": 1, "max_size": settings.pool}} if is_async else {}
    return {
        "ENGINE": "django.db.backends.postgresql",
        "CONN_MAX_AGE": 0 if is_async else None,
        "OPTIONS": options,
    } | where


def configure(settings: Settings, *urls: Any, is_async: bool = True) -> None:
    django_settings.configure(
        SECRET_KEY=SECRET_KEY,
        DATABASES={"default": database_of(settings, is_async=is_async)},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        ALLOWED_HOSTS=["127.0.0.1"],
        INSTALLED_APPS=["django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions"],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        PASSWORD_HASHERS=[f"{__name__}.CheapHasher"],
        ROOT_URLCONF=urls,
        USE_TZ=True,
    )
    django.setup()


async def public(request: HttpRequest) -> HttpResponse:
    return JsonResponse(GREETING)


async def vote(request: HttpRequest) -> HttpResponse:
    user = await request.auser()
    return answer(user, user.is_authenticated and await user.ahas_perm(PERMISSION))


async def count(request: HttpRequest) -> HttpResponse:
    if not (await request.auser()).is_authenticated:
        return JsonResponse({"detail": "Log in first."}, status=401)
    n = await request.session.aget("n", 0) + 1
    await request.session.aset("n", n)
    return JsonResponse({"n": n})


async def log_in(request: HttpRequest) -> HttpResponse:
    user = await aauthenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return JsonResponse({"detail": "Wrong name or password."}, status=422)
    await alogin(request, user)
    return HttpResponseRedirect("/")


def public_sync(request: HttpRequest) -> HttpResponse:
    return JsonResponse(GREETING)


def vote_sync(request: HttpRequest) -> HttpResponse:
    return answer(request.user, request.user.is_authenticated and request.user.has_perm(PERMISSION))


def count_sync(request: HttpRequest) -> HttpResponse:
    if not request.user.is_authenticated:
        return JsonResponse({"detail": "Log in first."}, status=401)
    request.session["n"] = request.session.get("n", 0) + 1
    return JsonResponse({"n": request.session["n"]})


def log_in_sync(request: HttpRequest) -> HttpResponse:
    user = authenticate(request, username=request.POST["username"], password=request.POST["password"])
    if user is None:
        return JsonResponse({"detail": "Wrong name or password."}, status=422)
    login(request, user)
    return HttpResponseRedirect("/")


def answer(user: Any, may_vote: bool) -> HttpResponse:
    if not user.is_authenticated:
        return JsonResponse({"detail": "Log in first."}, status=401)
    if not may_vote:
        return JsonResponse({"detail": "You may not."}, status=403)
    return JsonResponse(vote_of(user.username, user.email))


def make(settings: Settings) -> Any:
    urls = (path("public", public), path("vote", vote), path("count", count), path("login", log_in))
    configure(settings, *urls)
    return get_asgi_application()


def make_wsgi() -> Any:
    """For gunicorn."""
    urls = (path("public", public_sync), path("vote", vote_sync), path("count", count_sync), path("login", log_in_sync))
    configure(Settings.from_environment(), *urls, is_async=False)
    return get_wsgi_application()


def prepare(settings: Settings) -> None:
    configure(settings, is_async=False)
    call_command("migrate", verbosity=0)
