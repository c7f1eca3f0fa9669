"""Request bodies: errors name every invalid field, blame the client, and come before any object is made needlessly."""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.bodies import decode_body
from api.edge.body_budget import UNCOUNTED_BYTES, BodyBudget, HeldBody
from api.errors import RequestRefused
from shared.errors import CloudifyError, ErrorCode, Unavailable, ValidationFailed


class Body(msgspec.Struct, kw_only=True, rename="camel", forbid_unknown_fields=True):
    name: str
    repository_url: str | None = None
    numbers: Annotated[list[int], msgspec.Meta(max_length=3)] = []
    is_set: bool | msgspec.UnsetType = msgspec.UNSET


SMALL, LARGE = b"", b" " * 70_000


def fields_of(body: bytes) -> set[str]:
    with pytest.raises(ValidationFailed) as caught:
        decode_body(Body, body)
    return {field["field"] for field in (caught.value.details or {})["fields"]}


@pytest.mark.parametrize("padding", [SMALL, LARGE])
def test_a_body_becomes_the_struct(padding: bytes) -> None:
    body = b'{"name":"\xc3\xa9\\ud83d\\ude00\\\\u0000","repositoryUrl":null,"numbers":[1,2]}' + padding
    assert decode_body(Body, body) == Body(name="é😀\\u0000", numbers=[1, 2])
    assert decode_body(Body, b'{"name":"a","isSet":true}' + padding).is_set is True


@pytest.mark.parametrize("padding", [SMALL, LARGE])
def test_every_wrong_field_is_named(padding: bytes) -> None:
    assert fields_of(b'{"repositoryUrl":1,"numbers":[1,"2"]}' + padding) == {"name", "repositoryUrl", "numbers[1]"}
    assert fields_of(b'{"name":"a","numbers":[1,2,3,4]}' + padding) == {"numbers"}
    assert fields_of(b'{"name":1,"colour":{"a":[]}}' + padding) == {"name", "colour"}
    for text in (b"[]", b"null", b'"text"', b"1"):
        assert fields_of(text + padding) == {"body"}


@pytest.mark.parametrize("padding", [SMALL, LARGE])
@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff", b'{"name":"\xed\xa0\x80"}', b'{"name":"\\ud800 abc"}', b'{"name":"\\udc00"}',
        b'{"name":"a\x00"}', b'{"name":NaN}', b'{"name":"a"} x', b'{"other":[1,}', b'{"name":' + b"[" * 100_000,
        b'{"other":' + b'{"a":' * 100_000,
    ],
)  # fmt: skip
def test_malformed_json_is_refused(body: bytes, padding: bytes) -> None:
    with pytest.raises(RequestRefused) as caught:
        decode_body(Body, body + padding)
    assert caught.value.code == ErrorCode.MALFORMED_JSON


@pytest.mark.parametrize("padding", [SMALL, LARGE])
@pytest.mark.parametrize("text", ["\\u0000", "\\\\\\u0000", "\\n\\\\\\\\\\u0000", '\\"\\u0000'])
def test_nul_is_seen_through_its_escapes(text: str, padding: bytes) -> None:
    for body in (f'{{"name":"{text}"}}', f'{{"name":"a","{text}":1}}'):
        with pytest.raises(ValidationFailed):
            decode_body(Body, body.encode() + padding)


values: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)


# At most one unknown field: of several in a large body only the first is named.
fields = st.dictionaries(st.sampled_from(["name", "repositoryUrl", "numbers", "isSet", "x"]), values)


def is_no_object(value: object) -> bool:
    return not isinstance(value, dict)


@given(fields | values.filter(is_no_object))
def test_small_and_large_bodies_are_judged_alike(value: Any) -> None:
    body = json.dumps(value).encode()
    answers: list[object] = []
    for padding in (SMALL, LARGE):
        try:
            answers.append(decode_body(Body, body + padding))
        except CloudifyError as error:
            answers.append((error.code, error.message))
    assert answers[0] == answers[1] or "not valid JSON" in str(answers)
    if isinstance(answers[0], Body):
        assert "\x00" not in answers[0].name


@given(st.binary(max_size=200) | st.text().map(lambda text: json.dumps({"name": text}).encode()))
def test_every_body_gets_an_answer(body: bytes) -> None:
    for padding in (SMALL, LARGE):
        try:
            decoded = decode_body(Body, body + padding)
        except CloudifyError:
            continue
        assert "\x00" not in decoded.name
        decoded.name.encode()


@pytest.mark.parametrize(
    ("held", "caller", "size", "is_taken"),
    [
        ({}, "a", 80, True),
        ({}, "a", 81, False),
        ({"a": 80}, "b", 80, True),
        ({"a": 80}, "a", 1, False),
        # All are held: of 160, a third caller has its third.
        ({"a": 80, "b": 80}, "c", 53, True),
        ({"a": 80, "b": 80}, "c", 54, False),
        ({"a": 80, "b": 80, "c": 53}, "c", 1, False),
        ({"a": 80, "b": 40, "c": 40}, "b", 10, True),
    ],
)
def test_a_caller_has_its_share_of_the_bodies_in_memory(
    held: dict[str, int], caller: str, size: int, is_taken: bool
) -> None:
    budget = BodyBudget(of_a_caller=80, in_all=160)
    for other, bytes_held in held.items():
        budget.take(other, bytes_held)
    body = HeldBody(budget)
    # The beginning counts for nobody, in however many pieces it comes.
    body.grow(caller, UNCOUNTED_BYTES - 1)
    if is_taken:
        body.grow(caller, size + 1)
    else:
        with pytest.raises(Unavailable):
            body.grow(caller, size + 1)
    body.release()
    assert budget._held == held
    assert budget._total == sum(held.values())
