"""The settings of the example's Django project, changed by a test with JSON in DJANGO_TEST_SETTINGS."""

import json
import os

from example_app.django_site.settings import *  # noqa: F403

ROOT_URLCONF = "tests.django.django_project.urls"
INSTALLED_APPS = [*INSTALLED_APPS, "tests.django.django_project.people"]  # noqa: F405
globals().update(json.loads(os.environ.get("DJANGO_TEST_SETTINGS", "{}")))
# Created for each database, because they depend on the user model.
MIGRATION_MODULES = {"people": "people_migrations"}
PASSWORD_HASHERS = [
    "tests.django.django_project.hashers.WeakPasswordHasher",
    *(
        f"django.contrib.auth.hashers.{name}PasswordHasher"
        for name in ("PBKDF2SHA1", "Argon2", "BCryptSHA256", "Scrypt")
    ),
]
