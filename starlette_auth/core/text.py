"""Checks and normalises text: usernames, e-mail addresses, surrogates, log lines."""

import re
import unicodedata
from contextlib import suppress
from email.headerregistry import Address

_find_lone_surrogate = re.compile("[\ud800-\udfff]").search
#: Characters without a glyph that Unicode does not count as spaces, controls or formats: fillers, blank symbols,
#: variation selectors, and code points that Unicode reserves as invisible.
_is_filler = re.compile(
    r"[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8"
    r"\U0001d159\U000e0000-\U000e0fff]"
).match
MAX_NAME_LENGTH = 512
UNUSABLE = "!"  # the start of the hash of a user without a password, as in Django
INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf")
USERNAME = re.compile(r"[\w.@+-]+")  # Django's UnicodeUsernameValidator
ATOM = r'[^\s\x00-\x20\x7f"(),.:;<>@\[\\\]]+'
LABEL = r"[A-Za-z0-9_\-\u0080-\U0010ffff]+"
ADDRESS = re.compile(rf"({ATOM}(?:\.{ATOM})*)@({LABEL}(?:\.{LABEL})*)")


def require_text(value: object, name: str) -> None:
    """Raises TypeError unless a value is text.

    JSON contains other types. The text of a value, such as "None", must not be used in its place: an attacker could log
    in to an account with that password.
    """
    if not isinstance(value, str):
        raise TypeError(f"The {name} must be text, and this is of type {type(value).__name__}. Pass a str.")


def has_lone_surrogate(text: str) -> bool:
    """Tells whether a text contains half of a surrogate pair.

    JSON can contain lone surrogates (`"\\ud800"`). They have no UTF-8 encoding, so databases cannot store them.
    """
    return not text.isascii() and _find_lone_surrogate(text) is not None


def is_usable(encoded: str) -> bool:
    """Returns whether a password can match this hash, unlike that of a user without a password."""
    return not encoded.startswith(UNUSABLE)


def visible_characters(text: str) -> str:
    """Returns a text without white space and invisible characters (Unicode categories Z, Cc, Cf; fillers)."""
    return "".join(
        character
        for character in text
        if unicodedata.category(character) not in INVISIBLE and not _is_filler(character)
    )


def normalize_username(username: str) -> str:
    """Returns a username in Unicode form NFKC and without white space around it, as Django's forms do.

    ａｎｎ, ann and "ann " are one name.
    """
    username = username.strip()
    # Normalisation takes quadratic time. A name that is too long for the column is therefore returned unchanged.
    return unicodedata.normalize("NFKC", username).strip() if len(username) <= MAX_NAME_LENGTH else username


def is_username(username: str) -> bool:
    """Returns whether a normalised username has visible letters, digits, and @ . + - _ only, as in Django.

    An attacker could register a name that looks like another user's: with an invisible character or a line break.
    """
    return USERNAME.fullmatch(username) is not None and visible_characters(username) == username


def normalize_email(email: str) -> str:
    """Returns an e-mail address with its domain in lower case, as Django does.

    The local part is unchanged, because its meaning depends on the mail server.
    """
    name, at, domain = email.strip().rpartition("@")
    return f"{name}@{domain.lower()}" if at else domain


def ascii_lower(text: str) -> str:
    """Returns a text with the letters A-Z in lower case.

    `str.lower()` also maps the Kelvin sign (U+212A) to k. An attacker could use that to register an address that
    counts as another user's.
    """
    return "".join(character.lower() if character.isascii() else character for character in text)


def one_line(error: BaseException) -> str:
    """Returns the message of an exception on one line, for logs; its class name if the message is empty."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def parse_address(address: str, name: str = "recipient") -> Address:
    """Returns an e-mail address with its domain in ASCII.

    Raises ValueError unless the text is exactly one plain address of at most 254 characters.
    """
    match = ADDRESS.fullmatch(address[:255])
    # The pattern excludes lists, groups, comments and quoted names. Invisible characters (Unicode categories C and Z)
    # and encoded words ("=?", RFC 2047) are excluded here.
    is_ambiguous = "=?" in address or any(unicodedata.category(character)[0] in "CZ" for character in address[:255])
    if match is None or is_ambiguous or len(address) > 254:  # RFC 5321 §4.5.3.1.3
        raise ValueError(
            f"The {name} of a mail must be one address without spaces or line breaks. Use the form ann@example.org."
        )
    domain = domain_to_ascii(match[2])
    if name == "sender" and not domain.isascii():
        raise ValueError("The sender's domain has no unambiguous ASCII form. Use its xn-- form.")
    return Address("", match[1], domain)


def is_email_address(text: str) -> bool:
    """Returns whether this is one address, at a domain with a dot or at localhost."""
    try:
        domain = parse_address(text).domain
    except ValueError:
        return False
    return "." in domain or domain == "localhost"


def domain_to_ascii(domain: str) -> str:
    """Returns a domain in ASCII; unchanged if IDNA 2003 would map it to another domain (straße to strasse)."""
    with suppress(UnicodeError):
        encoded = domain.encode("idna")
        if encoded.decode("idna") == unicodedata.normalize("NFC", domain).lower():
            return encoded.decode("ascii")
    return domain


def fold_name(name: str) -> str:
    """Returns one spelling for all spellings of a name that find the same account.

    The text is cut to 254 characters first, the length of an email address: normalizing long input is slow.
    """
    return unicodedata.normalize("NFKC", name[:254]).casefold()


def close_reason(text: str) -> str:
    """Returns as much of a text as fits into the close frame of a WebSocket: 123 bytes (RFC 6455 §5.5)."""
    return text.encode()[:123].decode(errors="ignore")
