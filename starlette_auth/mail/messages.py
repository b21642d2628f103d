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
    """A mail to one person. ValueError for line breaks in a header, and for all but one plain address in `to`.

    `sender` is `mail@example.org` or `The site <mail@example.org>`. `date` is now, if no other is given.
    """
    author, reader, subject = _sender(sender), parse_address(to), _one_line(subject.strip(), "subject")
    beyond_ascii = not (author.username + reader.addr_spec).isascii()
    message = EmailMessage(policy.default.clone(cte_type="7bit", utf8=beyond_ascii))
    message["From"] = author
    message["To"] = reader
    message["Subject"] = subject
    # A header is decoded when it is set: "=?utf-8?q?=0ABcc:_mallory=40example.com?=" holds a line break.
    if "=?" in sender or (*message["To"].addresses, message["Subject"]) != (reader, subject):
        raise ValueError("A header of a mail holds what is read as something else. Remove the =?…?= from it.")
    message["Date"] = date or datetime.now(UTC)
    # Neither the name of this machine nor the number of the process is anybody's business.
    message["Message-ID"] = f"<{secrets.token_hex(16)}@{author.domain}>"
    message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no "I am on holiday" comes back.
    message.set_content(text, cte=_encoding(text))
    if html is not None:
        message.add_alternative(html, subtype="html", cte=_encoding(html))
    if language:
        message["Content-Language"] = _one_line(language, "language")
    return message


def plain_text(message: EmailMessage) -> str:
    """The decoded text part; empty if there is none."""
    body = message.get_body(("plain",))
    return "" if body is None else str(body.get_content())


def _one_line(text: str, name: str) -> str:
    # What ends a header begins another one: "Hello\r\nBcc: everybody@example.org".
    if CONTROL.search(text):
        raise ValueError(f"The {name} of a mail holds a line break or a control character. Remove it.")
    return text


def _sender(sender: str) -> Address:
    found = NAMED.fullmatch(_one_line(sender, "sender"))
    if found is None:
        return parse_address(sender, "sender")
    address = parse_address(found[3], "sender")
    return Address(found[1] or found[2], address.username, address.domain)


def _encoding(text: str) -> str | None:
    """ASCII goes as it is, so that links stay whole (RFC 5322 §2.1.1: 998 characters a line); else Python chooses."""
    return "7bit" if text.isascii() and all(len(line) <= 998 for line in text.splitlines()) else None
