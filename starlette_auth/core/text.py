"""Checks and normal forms of text: usernames, e-mail addresses, surrogates, single lines."""

import re
import unicodedata
from contextlib import suppress
from email.headerregistry import Address

_find_lone_surrogate = re.compile("[\ud800-\udfff]").search
MAX_NAME_LENGTH = 512
ATOM = r'[^\s\x00-\x20\x7f"(),.:;<>@\[\\\]]+'
LABEL = r"[A-Za-z0-9_\-\u0080-\U0010ffff]+"
ADDRESS = re.compile(rf"({ATOM}(?:\.{ATOM})*)@({LABEL}(?:\.{LABEL})*)")


def has_lone_surrogate(text: str) -> bool:
    """Whether half of a surrogate pair stands in it, as JSON may bring: that has no bytes, and cannot be stored."""
    return not text.isascii() and _find_lone_surrogate(text) is not None


def normalize_username(username: str) -> str:
    """Unicode's form NFKC, as Django does, so that ａｎｎ and ann are one name."""
    # It takes time that grows with the square of the length: what fits into no column is left as it is.
    return unicodedata.normalize("NFKC", username) if len(username) <= MAX_NAME_LENGTH else username


def normalize_email(email: str) -> str:
    """The domain in lower case, as Django does; the part before it is the mail server's business."""
    name, at, domain = email.strip().rpartition("@")
    return f"{name}@{domain.lower()}" if at else domain


def ascii_lower(text: str) -> str:
    """Not str.lower(): to that, the sign of Kelvin is a k, and another's address would be this one."""
    return "".join(mark.lower() if mark.isascii() else mark for mark in text)


def one_line(error: Exception) -> str:
    """What an error says, or what it is called, as part of a sentence: for logs, in which a line is an event."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def parse_address(address: str, name: str = "recipient") -> Address:
    """The address, its domain in ASCII. ValueError for anything else than one plain address."""
    found = ADDRESS.fullmatch(address[:255])
    # Lists, groups, comments and quoted names are other things; so is what cannot be seen, or would be decoded.
    unclear = "=?" in address or any(unicodedata.category(character)[0] in "CZ" for character in address[:255])
    if found is None or unclear or len(address) > 254:  # RFC 5321 §4.5.3.1.3
        raise ValueError(f"The {name} of a mail is one address, without spaces or line breaks, as ann@example.org.")
    domain = _ascii(found[2])
    if name == "sender" and not domain.isascii():
        raise ValueError("The sender's domain is not surely the same in ASCII. Write it in its xn-- form.")
    return Address("", found[1], domain)


def _ascii(domain: str) -> str:
    """The domain in ASCII; as it was, if that would be another domain (IDNA 2003: straße is strasse)."""
    with suppress(UnicodeError):
        encoded = domain.encode("idna")
        if encoded.decode("idna") == unicodedata.normalize("NFC", domain).lower():
            return encoded.decode("ascii")
    return domain
