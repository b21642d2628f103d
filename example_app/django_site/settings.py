"""Django's settings, from the environment of the example application."""

import importlib.util
import os
from pathlib import Path
from typing import Any

from databases import DatabaseURL

from example_app import settings as example

ENGINES = {"sqlite": "sqlite3", "postgres": "postgresql", "postgresql": "postgresql", "mysql": "mysql"}


def database() -> dict[str, Any]:
    """Returns the database of DATABASE_URL in the format of Django's DATABASES."""
    url = DatabaseURL(os.environ.get("DATABASE_URL") or example.DEFAULT_DATABASE)
    engine = ENGINES[url.dialect]
    if engine == "sqlite3":
        # With IMMEDIATE, a transaction that reads first and writes later does not fail with "database is locked".
        options = {"timeout": 20, "transaction_mode": "IMMEDIATE"}
        return {"ENGINE": "django.db.backends.sqlite3", "NAME": url.database, "OPTIONS": options}
    return {
        "ENGINE": f"django.db.backends.{engine}",
        "NAME": url.database,
        "HOST": url.hostname or "",
        "PORT": url.port or "",
        "USER": url.username or "",
        "PASSWORD": url.password or "",
    }


if importlib.util.find_spec("MySQLdb") is None and importlib.util.find_spec("pymysql") is not None:
    importlib.import_module("pymysql").install_as_MySQLdb()

SECRET_KEY, *SECRET_KEY_FALLBACKS = example.secret_keys()
DATABASES = {"default": database()}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
CSRF_TRUSTED_ORIGINS: list[str] = []
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "example_app.django_site.urls"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [Path(__file__).parent / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
USE_TZ = True
TIME_ZONE = "UTC"
LOGIN_REDIRECT_URL = LOGOUT_REDIRECT_URL = "/"
if os.environ.get("SESSION_STORE") == "cookie":
    SESSION_ENGINE = "django.contrib.sessions.backends.signed_cookies"
