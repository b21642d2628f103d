"""Composing e-mail messages."""

import re
import secrets
from datetime import UTC, datetime
from email import policy
from email.headerregistry import Address
from email.message import EmailMessage

from ..core.text import parse_address

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
NAMED = re.compile(r'(?:"([^"<>\\]+)"|([^<>\\]*?)) *<([^<>]*)>')


def build_message(
    *,
    sender: str,
    to: str,
    subject: str,
    text: str,
    html: str | None = None,
    language: str = "",
    date: datetime | None = None,
) -> EmailMessage:
    """Returns a message to one recipient, with a text part and an optional HTML part.

    `sender` is `mail@example.org` or `The site <mail@example.org>`. `to` is one plain address without a name. `date`
    is now by default. Raises ValueError for a line break or control character in a header, and for an invalid address.
    """
    from_address, recipient, subject = _sender(sender), parse_address(to), _one_line(subject.strip(), "subject")
    needs_utf8 = not (from_address.username + recipient.addr_spec).isascii()
    message = EmailMessage(policy.default.clone(cte_type="7bit", utf8=needs_utf8))
    message["From"] = from_address
    message["To"] = recipient
    message["Subject"] = subject
    # EmailMessage decodes encoded words when a header is set. An attacker sends "=?utf-8?q?=0ABcc:_mallory=40…?=", which
    # decodes to a line break and a Bcc header. Therefore a header that changed by decoding is refused.
    if "=?" in sender or (*message["To"].addresses, message["Subject"]) != (recipient, subject):
        raise ValueError("A mail header contains an encoded word (=?…?=). Remove it.")
    message["Date"] = date or datetime.now(UTC)
    # Python's make_msgid() would reveal the host name and the process ID of this server.
    message["Message-ID"] = f"<{secrets.token_hex(16)}@{from_address.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no automatic replies, such as vacation notices.
    message.set_content(text, cte=_encoding(text))
    if html is not None:
        message.add_alternative(html, subtype="html", cte=_encoding(html))
    if language:
        message["Content-Language"] = _one_line(language, "language")
    return message


def plain_text(message: EmailMessage) -> str:
    """Returns the decoded plain-text part of a message; an empty string if it has none."""
    body = message.get_body(("plain",))
    return "" if body is None else str(body.get_content())


def _one_line(text: str, name: str) -> str:
    # An attacker puts a line break into a name, which would start another header: "Hello\r\nBcc: ann@example.org".
    # Therefore control characters are refused.
    if CONTROL.search(text):
        raise ValueError(f"The {name} of a mail contains a line break or a control character. Remove it.")
    return text


def _sender(sender: str) -> Address:
    match = NAMED.fullmatch(_one_line(sender, "sender"))
    if match is None:
        return parse_address(sender, "sender")
    address = parse_address(match[3], "sender")
    return Address(match[1] or match[2], address.username, address.domain)


def _encoding(text: str) -> str | None:
    """Returns "7bit" for ASCII text, and None for Python's default otherwise.

    "7bit" keeps links in one piece. RFC 5322 §2.1.1 limits a line to 998 characters.
    """
    return "7bit" if text.isascii() and all(len(line) <= 998 for line in text.splitlines()) else None
