"""Settings from environment variables."""

import os
import secrets
from pathlib import Path

HOST = os.environ.get("HOST") or "127.0.0.1"
PORT = int(os.environ.get("PORT") or 8000)
# Of the links in mails. Passkeys need a name: an address can have none.
BASE_URL = os.environ.get("BASE_URL") or f"http://{'localhost' if HOST == '127.0.0.1' else HOST}:{PORT}"
DATABASE_URL = os.environ.get("DATABASE_URL") or "sqlite+aiosqlite:///shop.sqlite3"  # or postgresql+asyncpg://…
KEY_FILE = Path(".shop_secret_key")


def secret_key() -> str:
    """Returns SECRET_KEY, or a key that is kept in a file, so that users stay logged in after a restart."""
    if key := os.environ.get("SECRET_KEY"):
        return key
    if not KEY_FILE.exists():
        KEY_FILE.touch(mode=0o600)
        KEY_FILE.write_text(secrets.token_urlsafe(50))
    return KEY_FILE.read_text()
