"""Settings from environment variables. Each function documents its variable."""

import contextlib
import ipaddress
import os
import re
import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import SplitResult, unquote, urlsplit

import sqlalchemy as sa
from databases import Database

from starlette_auth import (
    CachedStore,
    ConsoleMailer,
    CookieStore,
    DatabaseStore,
    DjangoProject,
    ImproperlyConfigured,
    Mailer,
    MemoryStore,
    PasswordValidator,
    PwnedPasswordsValidator,
    RedisStore,
    SessionStore,
    SMTPMailer,
    Users,
    default_validators,
    gateway_of,
)
from starlette_auth.core.translation import Languages
from starlette_auth.database.urls import connect, open_database
from starlette_auth.http.proxies import TrustedProxies
from starlette_auth.mail.messages import build_message
from starlette_auth.sessions.limits import PRESETS, Preset

from .localhost import ADDRESSES, NAME

KEY_FILE = Path(".example_secret_key")
DEFAULT_DATABASE = "sqlite+aiosqlite:///example.sqlite3"
SESSION_STORES = ("database", "redis", "cached", "cookie", "memory")
MAIL_SCHEMES: dict[str, Literal["starttls", "implicit", "none"]] = {
    "smtp": "starttls",
    "smtps": "implicit",
    "smtp+plain": "none",
}
SWITCH = {"on": True, "1": True, "off": False, "0": False}


def address() -> tuple[str, int]:
    host, port = os.environ.get("HOST") or "127.0.0.1", os.environ.get("PORT") or "8000"
    if not (port.isascii() and port.isdecimal() and len(port) < 6 and int(port) < 2**16):
        raise ImproperlyConfigured(f"PORT={port!r} is not a port. Set PORT to a number from 0 to 65535.")
    return host, int(port)


def url_of(host: str, port: int) -> str:
    """Returns the URL to open on this machine, with localhost for 127.0.0.1, ::1, 0.0.0.0 and ::.

    Passkeys belong to a name, and an address can have none.
    """
    with contextlib.suppress(ValueError):
        ip = ipaddress.ip_address(host)
        is_local = ip.is_unspecified or str(ip) in ADDRESSES
        host = NAME if is_local else f"[{ip}]" if ip.version == 6 else host
    return f"http://{host}:{port}"


def base_url() -> str:
    """BASE_URL: scheme and host of the links in mails."""
    url = os.environ.get("BASE_URL") or url_of(*address())
    parts = _split(url)
    if not parts or parts.scheme not in ("http", "https") or "@" in parts.netloc:
        raise ImproperlyConfigured(
            "BASE_URL is not a scheme and host. Set it to https://notes.example, without a path."
        )
    return url.removesuffix("/")


def mailer() -> Mailer:
    """MAIL: `console` prints mails. A URL names a mail server.

    `smtp://` uses STARTTLS, `smtps://` implicit TLS, and `smtp+plain://` no TLS. Error messages do not contain the URL,
    because it may contain a password.
    """
    url = os.environ.get("MAIL") or "console"
    if url == "console":
        return ConsoleMailer()
    parts = _split(url)
    if not parts or parts.scheme not in MAIL_SCHEMES:
        raise ImproperlyConfigured(
            "MAIL is not valid. Write %40 for an @ in the password. Set it to console, smtp://host:587, "
            "smtps://host:465 or smtp+plain://127.0.0.1:25, with the user and the password in front of the host."
        )
    if (parts.username or parts.password) and parts.scheme == "smtp+plain":
        raise ImproperlyConfigured("MAIL would send the password without TLS. Use smtp:// or smtps://.")
    try:
        return SMTPMailer(
            parts.hostname or "",
            port=parts.port,
            username=unquote(parts.username) if parts.username else None,
            password=unquote(parts.password) if parts.password else None,
            tls=MAIL_SCHEMES[parts.scheme],
        )
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"MAIL={parts.scheme}://… cannot be used. {error}") from error


def mail_from(site_name: str) -> str:
    """MAIL_FROM: the sender of mails, as an address with or without a name."""
    host = urlsplit(base_url()).hostname or ""
    # The form of an IPv6 address in a URL is not valid in a mail address.
    sender = os.environ.get("MAIL_FROM") or f"{site_name} <noreply@{'localhost' if ':' in host else host}>"
    try:
        build_message(sender=sender, to="ann@example.org", subject="", text="")
    except ValueError as error:
        raise ImproperlyConfigured(
            "MAIL_FROM is not a valid sender. Set it to notes@example.org, or to Notes <notes@example.org>."
        ) from error
    return sender


def trusted_proxies() -> list[str]:
    """TRUSTED_PROXIES: reverse proxies whose X-Forwarded-For header is trusted. Empty by default."""
    proxies = _list("TRUSTED_PROXIES")
    try:
        TrustedProxies(proxies)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(
            "TRUSTED_PROXIES is not valid. Set it to addresses or networks, as in 127.0.0.1,10.0.0.0/8."
        ) from error
    return proxies


def languages() -> list[str]:
    """LANGUAGES: languages of the account pages and mails. The first is the default."""
    tags = _list("LANGUAGES") or ["en", "de"]
    try:
        Languages(tags)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(
            f"LANGUAGES={','.join(tags)!r} is not available. Set it to en, de or en,de."
        ) from error
    return tags


def throttling() -> bool:
    """THROTTLING=off: switches rate limits off, for load tests from one machine.

    Attackers guess passwords, which they could then do without delays. Therefore never switch it off on a public server.
    """
    return _switch("THROTTLING", default=True)


def password_validators(context_words: list[str]) -> list[PasswordValidator]:
    """HIBP=1: also checks new passwords with Have I Been Pwned.

    The first characters of the password's hash are sent to that service.
    """
    validators = default_validators(context_words)
    return [*validators, PwnedPasswordsValidator()] if _switch("HIBP", default=False) else validators


def database() -> Database:
    """DATABASE_URL: the database. Error messages do not contain the URL, because it may contain a password."""
    try:
        return open_database(os.environ.get("DATABASE_URL") or DEFAULT_DATABASE)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"DATABASE_URL cannot be used. {error}") from None


async def check_database() -> None:
    """Raises StarletteAuthError if the database cannot be opened. The server would show a traceback otherwise."""
    checked = database()
    gateway = gateway_of(checked)
    await connect(checked)
    try:
        await gateway.fetch_one(sa.select(sa.literal(1)))
    finally:
        await gateway.close()
        await checked.disconnect()


def secret_keys() -> list[str]:
    """SECRET_KEY: the secret keys, newest first.

    By default a key is generated and kept in a file, so that users stay logged in after a restart.
    """
    return _list("SECRET_KEY") or [_key_from_file()]


def session_store(keys: list[str], database: Database) -> SessionStore | Callable[[Users[Any]], SessionStore] | None:
    """SESSION_STORE and REDIS_URL: where sessions are stored. None means the default of `Auth`."""
    if django_project() is not None:
        return None
    name = os.environ.get("SESSION_STORE") or "database"
    if name not in SESSION_STORES:
        raise ImproperlyConfigured(f"SESSION_STORE={name!r} is not known. Use {', '.join(SESSION_STORES)}.")
    if name == "memory" and workers() > 1:
        raise ImproperlyConfigured(
            "SESSION_STORE=memory works with one process only. Unset WORKERS, or use another store."
        )
    url = os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379"
    try:
        if name == "redis":
            return RedisStore(url, prefix="notes:")
        if name == "cached":
            cached: Callable[[Users[Any]], SessionStore] = lambda users: CachedStore(  # noqa: E731
                DatabaseStore(database, users=users), url, prefix="notes:cached:"
            )
            return cached
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"REDIS_URL cannot be used. {error}") from error
    if name == "cookie":
        return CookieStore(keys)
    return MemoryStore() if name == "memory" else None


def has_sessions_on_the_server() -> bool:
    """Returns whether native apps can have sessions: with SESSION_STORE=cookie, a session is in the cookie of a browser."""
    return os.environ.get("SESSION_STORE") != "cookie"


def session_limits() -> Preset | None:
    """SESSION_LIMITS: how long logins last, as a NIST assurance level. Not available with DJANGO=1."""
    name = os.environ.get("SESSION_LIMITS") or ("" if django_project() else "aal1")
    if not name:
        return None
    for level in PRESETS:
        if level == name:
            return level
    raise ImproperlyConfigured(f"SESSION_LIMITS={name!r} is not known. Use {', '.join(PRESETS)}.")


def max_sessions() -> int | None:
    """MAX_SESSIONS: the number of sessions per user. A further login ends the oldest session."""
    return _number("MAX_SESSIONS") if os.environ.get("MAX_SESSIONS") else None


def workers() -> int:
    """WORKERS: the number of server processes."""
    return _number("WORKERS") if os.environ.get("WORKERS") else 1


def _number(name: str) -> int:
    value = os.environ.get(name, "")
    if not (value.isascii() and value.isdecimal() and 0 < int(value[:9]) < 1000):
        raise ImproperlyConfigured(f"{name}={value!r} is not valid. Set {name} to a number from 1 to 999, or unset it.")
    return int(value)


def django_project() -> DjangoProject | None:
    """DJANGO=1: the database belongs to a Django project, such as `example_app.django_site`.

    DJANGO=6.1 names its version, which decides the cost of new password hashes.
    """
    version = os.environ.get("DJANGO", "")
    is_version = "." in version
    if not is_version and not _switch("DJANGO", default=False):
        return None
    engines = {"": "db", "database": "db", "cookie": "signed_cookies"}
    engine = engines.get(os.environ.get("SESSION_STORE", ""))
    if engine is None or os.environ.get("SESSION_LIMITS"):
        raise ImproperlyConfigured(
            "With DJANGO=1, Django's session settings apply. Unset SESSION_LIMITS, and set SESSION_STORE to database or cookie."
        )
    try:
        return DjangoProject(session_engine=engine, version=version if is_version else DjangoProject.version)
    except ImproperlyConfigured as error:
        raise ImproperlyConfigured(f"DJANGO={version!r} is not known. {error} Or set DJANGO=1.") from None


def _list(name: str) -> list[str]:
    return [part.strip() for part in os.environ.get(name, "").split(",") if part.strip()]


def _switch(name: str, *, default: bool) -> bool:
    value = os.environ.get(name, "").lower()
    if value and value not in SWITCH:
        raise ImproperlyConfigured(f"{name}={value!r} is not known. Set {name} to on or off.")
    return SWITCH.get(value, default)


def _split(url: str) -> SplitResult | None:
    """Returns the parts of a URL with scheme and host only; None for any other text."""
    try:
        parts = urlsplit(url)
        has_host = re.fullmatch(r"[\w.:-]+", parts.hostname or "") and parts.port != 0
    except ValueError:
        return None
    # urlsplit accepts or drops characters that are not allowed in a URL.
    is_plain = re.fullmatch(r"[A-Za-z+]+://[!-~]+", url) and not parts.path.strip("/")
    return parts if has_host and is_plain and not parts.query and not parts.fragment else None


def _key_from_file() -> str:
    try:
        if not KEY_FILE.exists():
            _write_key_file()
        return KEY_FILE.read_text("ascii").strip()
    except (OSError, UnicodeError) as error:
        raise ImproperlyConfigured(
            f"The secret key cannot be stored in {KEY_FILE} ({type(error).__name__}). Set SECRET_KEY."
        ) from error


def _write_key_file() -> None:
    """Creates the key file atomically.

    If several workers start at once, all of them read the key of the first.
    """
    descriptor, draft = tempfile.mkstemp(prefix=KEY_FILE.name, dir=".")
    try:
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(50) + "\n")
        with contextlib.suppress(FileExistsError):
            os.link(draft, KEY_FILE)
    finally:
        os.unlink(draft)
