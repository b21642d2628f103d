"""Django's PBKDF2 hasher with few iterations, for fast tests."""

from django.contrib.auth.hashers import PBKDF2PasswordHasher


class WeakPasswordHasher(PBKDF2PasswordHasher):
    iterations = 1000
