"""Django's own, fast enough for tests."""

from django.contrib.auth.hashers import PBKDF2PasswordHasher


class WeakPasswordHasher(PBKDF2PasswordHasher):
    iterations = 1000
