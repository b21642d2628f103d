"""What a form takes, what it refuses, and how little it reads to find out."""

import contextlib
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from starlette_auth import Field, Form, ValidationError
from starlette_auth.http.content import MAX_BODY, MAX_FIELDS

URLENCODED = "application/x-www-form-urlencoded"
JSON = "application/json"
MULTIPART = "multipart/form-data; boundary=x"


def form() -> Form:
    return Form(
        name=Field(label="Name", max_length=5),
        email=Field(type="email", required=False, max_length=30),
        password=Field(type="password", required=False),
        next=Field(type="hidden", required=False),
        agree=Field(type="checkbox", required=False),
    )


class Sent:
    """A request with a body in pieces. It notes how many were asked for."""

    def __init__(self, kind: str, *pieces: bytes, length: str | None = None) -> None:
        headers = [(b"content-type", kind.encode("latin-1"))] if kind else []
        if length is not None:
            headers.append((b"content-length", length.encode()))
        self.pieces = list(pieces)
        self.asked = 0
        self.request = Request({"type": "http", "method": "POST", "headers": headers}, self.receive)

    async def receive(self) -> Message:
        self.asked += 1
        body = self.pieces.pop(0) if self.pieces else b""
        return {"type": "http.request", "body": body, "more_body": bool(self.pieces)}


async def filled_in(kind: str, *pieces: bytes, length: str | None = None) -> Form:
    filled = form()
    await filled.fill_in(Sent(kind, *pieces, length=length).request)
    return filled


async def refusal(kind: str, *pieces: bytes, length: str | None = None) -> int:
    """The status with which the whole body is refused."""
    with pytest.raises(HTTPException) as refused:
        await filled_in(kind, *pieces, length=length)
    return refused.value.status_code


def multipart(*parts: tuple[str, str]) -> bytes:
    lines = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts]
    return "".join([*lines, "--x--\r\n"]).encode()


def in_json(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def codes(filled: Form) -> dict[str, list[str]]:
    return {name: [error.code for error in errors] for name, errors in filled.errors.items()}


# What is taken


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (URLENCODED, b"name=%C3%A9%E2%98%83&email=ann@example.org&password=+pw+&agree=on&other=1"),
        (f"{URLENCODED}; charset=UTF-8", b"name=%C3%A9%E2%98%83&email=ann@example.org&password=+pw+&agree=on"),
        (URLENCODED.upper(), b"name=%C3%A9%E2%98%83&email=ann@example.org&password=+pw+&agree=on"),
        (JSON, in_json(name="é☃", email="ann@example.org", password=" pw ", agree="on", other=[1, {"a": None}])),
        (f" {JSON} ; charset=utf-8", in_json(name="é☃", email="ann@example.org", password=" pw ", agree="on")),
        (MULTIPART, multipart(("name", "é☃"), ("email", "ann@example.org"), ("password", " pw "), ("agree", "on"))),
        (
            f"{MULTIPART}; charset=UTF-8",
            multipart(("name", "é☃"), ("email", "ann@example.org"), ("password", " pw "), ("agree", "on")),
        ),
    ],
)
async def test_a_form_comes_in_three_shapes(kind: str, body: bytes) -> None:
    filled = await filled_in(kind, body[:7], body[7:])
    assert filled.is_valid
    assert filled.data == {
        "name": "é☃",
        "email": "ann@example.org",
        "password": " pw ",
        "next": "",
        "agree": "on",
    }


@pytest.mark.parametrize(("kind", "body"), [(URLENCODED, b""), (JSON, b"{}"), (MULTIPART, b"--x--\r\n")])
async def test_what_is_missing_is_empty(kind: str, body: bytes) -> None:
    filled = await filled_in(kind, body)
    assert filled.data == dict.fromkeys(filled.fields, "")
    assert codes(filled) == {"name": ["required"]}
    assert str(filled.errors["name"][0]) == "This field is required."


@pytest.mark.parametrize("space", [" ", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\x1c", "\x85", "\u2028"])
async def test_white_space_is_nothing(space: str) -> None:
    assert codes(await filled_in(JSON, in_json(name=space))) == {"name": ["required"]}
    filled = await filled_in(JSON, in_json(name=f"{space}ann{space}", password=f"{space}pw{space}"))
    assert (filled.data["name"], filled.data["password"]) == ("ann", f"{space}pw{space}")


async def test_a_password_of_spaces_is_one() -> None:
    assert Field(type="password").clean("   ") == "   "
    with pytest.raises(ValidationError):
        Field(type="password").clean("")


async def test_a_checkbox_is_on_or_not() -> None:
    assert (await filled_in(URLENCODED, b"name=a")).data["agree"] == ""
    assert (await filled_in(URLENCODED, b"name=a&agree=on")).data["agree"] == "on"
    with pytest.raises(ValidationError) as missing:
        Field(type="checkbox").clean("")
    assert missing.value.code == "required"


async def test_a_hidden_field_is_judged_where_it_is_used() -> None:
    for value in ("\x00", "\ud800", " x ", "x" * 10_000):
        filled = await filled_in(JSON, in_json(name="a", next=value))
        assert (filled.is_valid, filled.data["next"]) == (True, value)


# What a field refuses


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("name", "a\x00b", "null_characters_not_allowed"),
        ("name", "\x00", "null_characters_not_allowed"),
        ("password", "\x00", "null_characters_not_allowed"),
        ("name", "\ud800", "invalid"),
        ("name", "a\udfff", "invalid"),
        ("password", "\udc80", "invalid"),
        ("email", "\ud83d", "invalid"),
        ("name", "x" * 6, "max_length"),
        ("name", "𝄞" * 6, "max_length"),
        ("email", f"ann@{'x' * 40}.org", "max_length"),
        ("email", "ann", "invalid"),
        ("email", "ann@", "invalid"),
        ("email", "@example.org", "invalid"),
        ("email", "ann@example", "invalid"),
        ("email", "ann@exa mple.org", "invalid"),
        ("email", "a@b.org,c@d.org", "invalid"),
        ("email", "A <a@example.org>", "invalid"),
        ("email", "a@example.org\nBcc: b@c.d", "invalid"),
    ],
)
async def test_what_cannot_be_taken_has_djangos_code(name: str, value: str, code: str) -> None:
    filled = await filled_in(JSON, in_json(**{"name": "ann", name: value}))
    assert codes(filled) == {name: [code]}
    assert filled.data[name] == value


async def test_as_many_characters_as_fit_are_taken() -> None:
    filled = await filled_in(JSON, in_json(name=" 𝄞𝄞𝄞𝄞𝄞 "))
    assert filled.is_valid
    filled = await filled_in(JSON, in_json(name="123456"))
    assert str(filled.errors["name"][0]) == "Ensure this value has at most 5 characters (it has 6)."
    with pytest.raises(ValidationError, match=r"Ensure this value has at most 1 character \(it has 2\)\."):
        Field(max_length=1).clean("ab")


async def test_errors_add_up() -> None:
    filled = form()
    assert filled.is_valid
    filled.add_error("", ValidationError("wrong"))
    filled.add_error("", ValidationError("and wrong", "other"))
    assert not filled.is_valid
    assert codes(filled) == {"": ["invalid", "other"]}


async def test_half_a_letter_from_a_form_becomes_something_that_can_be_shown() -> None:
    for kind, body in ((URLENCODED, b"name=%ed%a0%80"), (MULTIPART, multipart(("name", "?")).replace(b"?", b"\xed"))):
        filled = await filled_in(kind, body)
        filled.data["name"].encode()


# What is refused as a whole


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (URLENCODED, b"name=a&name=b"),
        (URLENCODED, b"name=a&name="),
        (URLENCODED, b"name=a&%6eame=b"),
        (URLENCODED, b"name=a&next=1&next=2"),
        (URLENCODED, b"name=a&agree=on&agree=on"),
        (JSON, b'{"name": "a", "name": "b"}'),
        (JSON, b'{"name": "a", "n\\u0061me": "b"}'),
        (MULTIPART, multipart(("name", "a"), ("name", "b"))),
    ],
)
async def test_a_field_that_comes_twice_is_refused(kind: str, body: bytes) -> None:
    assert await refusal(kind, body) == 400


async def test_a_field_that_is_not_asked_for_may_come_twice() -> None:
    assert (await filled_in(URLENCODED, b"name=a&x=1&x=2")).is_valid
    assert (await filled_in(JSON, b'{"name": "a", "x": 1, "x": 2}')).is_valid


@pytest.mark.parametrize("value", [None, True, False, 0, 1, 1.5, [], ["a"], {}, {"a": "b"}, [[]]])
async def test_a_value_that_is_no_text_is_refused(value: Any) -> None:
    assert await refusal(JSON, in_json(name=value)) == 400
    assert (await filled_in(JSON, in_json(name="a", unknown=value))).is_valid


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b" ", b"[]", b"[1]", b'[["name", "a"]]', b"null", b"true", b"1", b'"name"', b"{", b"}", b"{]"),
        *(b"{'name': 'a'}", b'{"name": "a"', b'{"name": "a"}x', b'{"name": "a",}', b"{name: 1}", b'{"name": NaN1}'),
        *(b"\xff\xfe{\x00}\x00", b"\xef\xbb\xbf{}", b'{"name": "\xff"}', b'{"name": "a\x00"}', b'{"name": "\n"}'),
        *(b"[" * 60_000, b'{"name":' * 8_000, b'{"name": ' + b"[" * 60_000, b'{"name": ' + b"1" * 60_000 + b"}"),
        *(b'{"name": ' * 5_000 + b"1" + b"}" * 5_000,),
    ],
    ids=lambda body: ascii(body[:20]),
)
async def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    assert await refusal(JSON, body) == 400


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("multipart/form-data", multipart(("name", "a"))),
        ("multipart/form-data; boundary=", multipart(("name", "a"))),
        ("multipart/form-data; boundary=y", multipart(("name", "a"))),
        (MULTIPART, b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n--x--\r\n"),
        (MULTIPART, b'--x\r\nContent-Disposition: form-data; name="name"; filename="a"\r\n\r\na\r\n--x--\r\n'),
        (MULTIPART, multipart(*[(f"a{number}", "") for number in range(MAX_FIELDS + 1)])),
        (URLENCODED, b"&".join(b"a%d=1" % number for number in range(MAX_FIELDS + 1))),
    ],
)
async def test_a_form_that_cannot_be_read_is_refused(kind: str, body: bytes) -> None:
    assert await refusal(kind, body) == 400


async def test_fifty_fields_are_read() -> None:
    more = [(f"a{number}", "") for number in range(MAX_FIELDS - 1)]
    assert (await filled_in(MULTIPART, multipart(("name", "a"), *more))).is_valid
    assert (await filled_in(URLENCODED, b"&".join([b"name=a", *(f"{name}=".encode() for name, _ in more)]))).is_valid


@pytest.mark.parametrize(
    "charset", ["punycode", "unicode_escape", "utf-7", "utf-16", "idna", "latin-1", "rot13", "hex", "nonsense", "8"]
)
async def test_a_form_is_in_utf_8(charset: str) -> None:
    """By Python's other codecs one could make half a letter, or a body that takes seconds to read."""
    assert await refusal(f"{MULTIPART}; charset={charset}", multipart(("name", r"\ud800"))) == 400
    assert await refusal(f'{MULTIPART}; CHARSET="{charset.upper()}"', multipart(("name", "a"))) == 400


async def test_no_body_takes_long_to_refuse() -> None:
    slow = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n-' + b"b" * 60_000 + b"\r\n--x--\r\n"
    begun = time.perf_counter()
    assert await refusal(f"{MULTIPART}; charset=punycode", slow) == 400
    for body in (b"[" * 60_000, b'{"a":' * 12_000, b'{"name": ' + b"9" * 60_000 + b"}"):
        assert await refusal(JSON, body) == 400
    for body in (b"&" * 60_000, b"=" * 60_000, b"%" * 60_000, b"a=%F" * 10_000):
        with contextlib.suppress(HTTPException):
            await filled_in(URLENCODED, body)
    assert time.perf_counter() - begun < 2


@pytest.mark.parametrize(
    "kind",
    [
        *("", "text/plain", "text/html", "application/jsonx", "application/x-json", "application/problem+json"),
        *("multipart/mixed; boundary=x", "multipart/form-data, application/json", "form", ";", "é", "application/xml"),
    ],
)
async def test_another_kind_of_body_is_not_read(kind: str) -> None:
    sent = Sent(kind, b"name=a")
    with pytest.raises(HTTPException) as refused:
        await form().fill_in(sent.request)
    assert refused.value.status_code == 415
    assert sent.asked == 0


# How much is read


@pytest.mark.parametrize(
    "length", [str(MAX_BODY + 1), "1048576", "9" * 11, "9" * 5000, "-1", "+1", "1e3", "0x1", "1.0", "x", ""]
)
async def test_a_body_that_says_it_is_long_is_not_read(length: str) -> None:
    for kind in (URLENCODED, JSON, MULTIPART):
        sent = Sent(kind, *[b"a" * 1024] * 1024, length=length)
        with pytest.raises(HTTPException) as refused:
            await form().fill_in(sent.request)
        assert refused.value.status_code == 413
        assert sent.asked == 0


@pytest.mark.parametrize("length", [None, "10", "0"])
async def test_a_body_that_is_longer_than_it_says_is_cut_off(length: str | None) -> None:
    sent = Sent(JSON, *[b"a" * 1024] * 1024, length=length)
    with pytest.raises(HTTPException) as refused:
        await form().fill_in(sent.request)
    assert refused.value.status_code == 413
    assert sent.asked == MAX_BODY // 1024 + 1


async def test_a_body_may_be_as_long_as_the_limit() -> None:
    body = in_json(name="a", other="").replace(b'""', b'"' + b"x" * (MAX_BODY - 26) + b'"')
    assert len(body) == MAX_BODY
    assert (await filled_in(JSON, body, length=str(MAX_BODY))).is_valid
    assert await refusal(JSON, body + b" ") == 413


async def test_a_body_may_come_in_as_many_pieces_as_it_likes() -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for mark in in_json(name="a"):
            yield bytes([mark])

    assert (await filled_in(JSON, *[piece async for piece in pieces()])).is_valid
