"""What the environment says."""

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from databases import Database

from starlette_auth import CookieStore, ImproperlyConfigured, MemoryStore, SessionStore

KEY_FILE = Path(".example_secret_key")
SESSION_STORES = ("database", "redis", "cached", "cookie", "memory")


def address() -> tuple[str, int]:
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000"
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 2**16):
        raise ImproperlyConfigured(f"PORT={port!r} is not a port. Set PORT to a number from 0 to 65535.")
    return host, int(port)


def database() -> Database:
    """The message does not repeat the URL, which may hold a password."""
    try:
        return Database(os.environ.get("DATABASE_URL") or "sqlite+aiosqlite:///example.sqlite3")
    except ImportError as error:
        raise ImproperlyConfigured(
            f"DATABASE_URL needs {error.name}, which is not installed. "
            "Install starlette-contrib-auth[postgres] or starlette-contrib-auth[mysql]."
        ) from error
    except Exception as error:
        raise ImproperlyConfigured(
            "DATABASE_URL cannot be read. Set it to sqlite+aiosqlite:///example.sqlite3, "
            "postgresql://user@host/name or mysql+asyncmy://user@host/name."
        ) from error


def secret_keys() -> list[str]:
    """Newest first. Without SECRET_KEY one is kept in a file, so that a restart logs nobody out."""
    named = [key.strip() for key in os.environ.get("SECRET_KEY", "").split(",")]
    return [key for key in named if key] or [_key_from_file()]


def session_store(keys: list[str]) -> SessionStore | None:
    """None for the default of `Auth`, the table auth_session."""
    name = os.environ.get("SESSION_STORE") or "database"
    if name not in SESSION_STORES:
        raise ImproperlyConfigured(f"SESSION_STORE={name!r} is not known. Use {', '.join(SESSION_STORES)}.")
    if name in ("redis", "cached"):
        raise ImproperlyConfigured(f"SESSION_STORE={name} is not built yet. Use database, cookie or memory.")
    if name == "cookie":
        return CookieStore(keys)
    return MemoryStore() if name == "memory" else None


def refuse_django() -> None:
    if os.environ.get("DJANGO", "") not in ("", "0"):
        raise ImproperlyConfigured("DJANGO=1 (a Django database) is not built yet. Unset DJANGO.")


def _key_from_file() -> str:
    try:
        if not KEY_FILE.exists():
            _write_key_file()
        return KEY_FILE.read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        raise ImproperlyConfigured(
            f"The secret key cannot be kept in {KEY_FILE} here ({type(error).__name__}). Set SECRET_KEY."
        ) from error


def _write_key_file() -> None:
    """Several workers may start at once: the first link wins, and nobody reads a file that is half written."""
    descriptor, draft = tempfile.mkstemp(prefix=KEY_FILE.name, dir=".")
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(50) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, KEY_FILE)
    finally:
        os.unlink(draft)
