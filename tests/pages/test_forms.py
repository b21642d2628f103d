"""Forms: accepted values, errors, and how much of a request body is read."""

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


class ChunkedRequest:
    """A request whose body comes in chunks. It counts the chunks that were read."""

    def __init__(self, media_type: str, *chunks: bytes, length: str | None = None) -> None:
        headers = [(b"content-type", media_type.encode("latin-1"))] if media_type else []
        if length is not None:
            headers.append((b"content-length", length.encode()))
        self.chunks = list(chunks)
        self.read_count = 0
        self.request = Request({"type": "http", "method": "POST", "headers": headers}, self.receive)

    async def receive(self) -> Message:
        self.read_count += 1
        body = self.chunks.pop(0) if self.chunks else b""
        return {"type": "http.request", "body": body, "more_body": bool(self.chunks)}


async def fill_in(media_type: str, *chunks: bytes, length: str | None = None) -> Form:
    filled = form()
    await filled.fill_in(ChunkedRequest(media_type, *chunks, length=length).request)
    return filled


async def rejection_status(media_type: str, *chunks: bytes, length: str | None = None) -> int:
    """Returns the status of the error response."""
    with pytest.raises(HTTPException) as error:
        await fill_in(media_type, *chunks, length=length)
    return error.value.status_code


def multipart(*parts: tuple[str, str]) -> bytes:
    lines = [f'--x\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in parts]
    return "".join([*lines, "--x--\r\n"]).encode()


def json_body(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def codes(filled: Form) -> dict[str, list[str]]:
    return {name: [error.code for error in errors] for name, errors in filled.errors.items()}


# Accepted forms


@pytest.mark.parametrize(
    ("media_type", "body"),
    [
        (URLENCODED, b"name=%C3%A9%E2%98%83&email=ann@example.org&password=+pw+&agree=on&other=1"),
        (f"{URLENCODED}; charset=UTF-8", b"name=%C3%A9%E2%98%83&email=ann@example.org&password=+pw+&agree=on"),
        (URLENCODED.upper(), b"name=%C3%A9%E2%98%83&email=ann@example.org&password=+pw+&agree=on"),
        (JSON, json_body(name="é☃", email="ann@example.org", password=" pw ", agree="on", other=[1, {"a": None}])),
        (f" {JSON} ; charset=utf-8", json_body(name="é☃", email="ann@example.org", password=" pw ", agree="on")),
        (MULTIPART, multipart(("name", "é☃"), ("email", "ann@example.org"), ("password", " pw "), ("agree", "on"))),
        (
            f"{MULTIPART}; charset=UTF-8",
            multipart(("name", "é☃"), ("email", "ann@example.org"), ("password", " pw "), ("agree", "on")),
        ),
    ],
)
async def test_a_form_is_read_from_all_three_media_types(media_type: str, body: bytes) -> None:
    filled = await fill_in(media_type, body[:7], body[7:])
    assert filled.is_valid
    assert filled.data == {
        "name": "é☃",
        "email": "ann@example.org",
        "password": " pw ",
        "next": "",
        "agree": "on",
    }


@pytest.mark.parametrize(("media_type", "body"), [(URLENCODED, b""), (JSON, b"{}"), (MULTIPART, b"--x--\r\n")])
async def test_a_missing_field_is_empty(media_type: str, body: bytes) -> None:
    filled = await fill_in(media_type, body)
    assert filled.data == dict.fromkeys(filled.fields, "")
    assert codes(filled) == {"name": ["required"]}
    assert str(filled.errors["name"][0]) == "This field is required."


@pytest.mark.parametrize("space", [" ", "\t", "\r\n", "\u00a0", "\u2003", "\u3000", "\x1c", "\x85", "\u2028"])
async def test_white_space_counts_as_empty_and_is_stripped_except_in_passwords(space: str) -> None:
    assert codes(await fill_in(JSON, json_body(name=space))) == {"name": ["required"]}
    filled = await fill_in(JSON, json_body(name=f"{space}ann{space}", password=f"{space}pw{space}"))
    assert (filled.data["name"], filled.data["password"]) == ("ann", f"{space}pw{space}")


async def test_a_password_may_consist_of_spaces() -> None:
    assert Field(type="password").clean("   ") == "   "
    with pytest.raises(ValidationError):
        Field(type="password").clean("")


async def test_a_checkbox_is_on_or_empty() -> None:
    assert (await fill_in(URLENCODED, b"name=a")).data["agree"] == ""
    assert (await fill_in(URLENCODED, b"name=a&agree=on")).data["agree"] == "on"
    with pytest.raises(ValidationError) as missing:
        Field(type="checkbox").clean("")
    assert missing.value.code == "required"


async def test_a_hidden_field_is_not_checked_by_the_form() -> None:
    for value in ("\x00", "\ud800", " x ", "x" * 10_000):
        filled = await fill_in(JSON, json_body(name="a", next=value))
        assert (filled.is_valid, filled.data["next"]) == (True, value)


# Errors of one field


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
async def test_an_invalid_value_has_the_error_code_of_django(name: str, value: str, code: str) -> None:
    filled = await fill_in(JSON, json_body(**{"name": "ann", name: value}))
    assert codes(filled) == {name: [code]}
    assert filled.data[name] == value


async def test_a_text_of_the_maximum_length_is_valid() -> None:
    filled = await fill_in(JSON, json_body(name=" 𝄞𝄞𝄞𝄞𝄞 "))
    assert filled.is_valid
    filled = await fill_in(JSON, json_body(name="123456"))
    assert str(filled.errors["name"][0]) == "Ensure this value has at most 5 characters (it has 6)."
    with pytest.raises(ValidationError, match=r"Ensure this value has at most 1 character \(it has 2\)\."):
        Field(max_length=1).clean("ab")


async def test_errors_are_collected() -> None:
    filled = form()
    assert filled.is_valid
    filled.add_error("", ValidationError("wrong"))
    filled.add_error("", ValidationError("and wrong", "other"))
    assert not filled.is_valid
    assert codes(filled) == {"": ["invalid", "other"]}


# Bodies that are rejected as a whole


@pytest.mark.parametrize(
    ("media_type", "body"),
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
async def test_a_field_that_is_sent_twice_is_rejected(media_type: str, body: bytes) -> None:
    assert await rejection_status(media_type, body) == 400


async def test_an_unknown_field_may_be_sent_twice() -> None:
    assert (await fill_in(URLENCODED, b"name=a&x=1&x=2")).is_valid
    assert (await fill_in(JSON, b'{"name": "a", "x": 1, "x": 2}')).is_valid


@pytest.mark.parametrize("value", [None, True, False, 0, 1, 1.5, [], ["a"], {}, {"a": "b"}, [[]]])
async def test_a_json_value_that_is_not_text_is_rejected(value: Any) -> None:
    assert await rejection_status(JSON, json_body(name=value)) == 400
    assert (await fill_in(JSON, json_body(name="a", unknown=value))).is_valid


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
async def test_a_body_that_is_not_a_json_object_is_rejected(body: bytes) -> None:
    assert await rejection_status(JSON, body) == 400


@pytest.mark.parametrize(
    ("media_type", "body"),
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
async def test_a_malformed_form_is_rejected(media_type: str, body: bytes) -> None:
    assert await rejection_status(media_type, body) == 400


async def test_fifty_fields_are_read() -> None:
    more = [(f"a{number}", "") for number in range(MAX_FIELDS - 1)]
    assert (await fill_in(MULTIPART, multipart(("name", "a"), *more))).is_valid
    assert (await fill_in(URLENCODED, b"&".join([b"name=a", *(f"{name}=".encode() for name, _ in more)]))).is_valid


@pytest.mark.parametrize(
    "charset", ["punycode", "unicode_escape", "utf-7", "utf-16", "idna", "latin-1", "rot13", "hex", "nonsense", "8"]
)
async def test_a_form_must_be_in_utf_8(charset: str) -> None:
    """With Python's other codecs an attacker could send lone surrogates, or a body that takes seconds to decode."""
    assert await rejection_status(f"{MULTIPART}; charset={charset}", multipart(("name", r"\ud800"))) == 400
    assert await rejection_status(f'{MULTIPART}; CHARSET="{charset.upper()}"', multipart(("name", "a"))) == 400


@pytest.mark.flaky(reruns=3)  # a busy machine distorts the time
async def test_malformed_bodies_are_rejected_within_two_seconds() -> None:
    slow = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n-' + b"b" * 60_000 + b"\r\n--x--\r\n"
    started_at = time.perf_counter()
    assert await rejection_status(f"{MULTIPART}; charset=punycode", slow) == 400
    for body in (b"[" * 60_000, b'{"a":' * 12_000, b'{"name": ' + b"9" * 60_000 + b"}"):
        assert await rejection_status(JSON, body) == 400
    for body in (b"&" * 60_000, b"=" * 60_000, b"%" * 60_000, b"a=%F" * 10_000):
        with contextlib.suppress(HTTPException):
            await fill_in(URLENCODED, body)
    assert time.perf_counter() - started_at < 2


@pytest.mark.parametrize(
    "media_type",
    [
        *("", "text/plain", "text/html", "application/jsonx", "application/x-json", "application/problem+json"),
        *("multipart/mixed; boundary=x", "multipart/form-data, application/json", "form", ";", "é", "application/xml"),
    ],
)
async def test_a_body_of_another_media_type_is_not_read(media_type: str) -> None:
    chunked = ChunkedRequest(media_type, b"name=a")
    with pytest.raises(HTTPException) as error:
        await form().fill_in(chunked.request)
    assert error.value.status_code == 415
    assert chunked.read_count == 0


# Limits of the body length


@pytest.mark.parametrize(
    "length", [str(MAX_BODY + 1), "1048576", "9" * 11, "9" * 5000, "-1", "+1", "1e3", "0x1", "1.0", "x", ""]
)
async def test_a_body_with_a_large_or_invalid_content_length_is_not_read(length: str) -> None:
    for media_type in (URLENCODED, JSON, MULTIPART):
        chunked = ChunkedRequest(media_type, *[b"a" * 1024] * 1024, length=length)
        with pytest.raises(HTTPException) as error:
            await form().fill_in(chunked.request)
        assert error.value.status_code == 413
        assert chunked.read_count == 0


@pytest.mark.parametrize("length", [None, "10", "0"])
async def test_a_body_longer_than_its_content_length_is_cut_off_at_the_limit(length: str | None) -> None:
    chunked = ChunkedRequest(JSON, *[b"a" * 1024] * 1024, length=length)
    with pytest.raises(HTTPException) as error:
        await form().fill_in(chunked.request)
    assert error.value.status_code == 413
    assert chunked.read_count == MAX_BODY // 1024 + 1


async def test_a_body_may_be_as_long_as_the_limit() -> None:
    body = json_body(name="a", other="").replace(b'""', b'"' + b"x" * (MAX_BODY - 26) + b'"')
    assert len(body) == MAX_BODY
    assert (await fill_in(JSON, body, length=str(MAX_BODY))).is_valid
    assert await rejection_status(JSON, body + b" ") == 413


async def test_a_body_may_come_in_many_chunks() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for byte in json_body(name="a"):
            yield bytes([byte])

    assert (await fill_in(JSON, *[chunk async for chunk in chunks()])).is_valid
