from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.logs.capture.splitter import LineSplitter, SplitLine


def lines_of(*pieces: bytes, maximum: int = 64 * 1024) -> list[SplitLine]:
    splitter = LineSplitter(maximum_line_bytes=maximum)
    return [line for piece in pieces for line in splitter.feed(piece)] + splitter.flush()


def texts_of(*pieces: bytes) -> list[str]:
    return [line.text for line in lines_of(*pieces)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"one\ntwo\n", ["one", "two"]),
        (b"one\n\ntwo", ["one", "", "two"]),
        (b"one\r\ntwo\r\n", ["one", "two"]),
        (b"one\r\r\ntwo", ["one", "two"]),
        (b"\r\n", [""]),
        (b"\r10%\r20%\r100%\ndone", ["10%", "20%", "100%", "done"]),
        (b"10%\r", ["10%"]),
        (b"\r\r\r", []),
        (b"a\0b\n", ["a\ufffdb"]),
        (b"\xff\xfe ok\n", ["\ufffd\ufffd ok"]),
        (b"\xe2\x82", ["\ufffd"]),
        ("über € \u2028 🚀\n".encode(), ["über € \u2028 🚀"]),
        (b"\x1b[31mred\x1b[0m\n", ["\x1b[31mred\x1b[0m"]),
        (b"", []),
    ],
)
def test_lines(data: bytes, expected: list[str]) -> None:
    assert texts_of(data) == expected
    assert texts_of(*[data[index : index + 1] for index in range(len(data))]) == expected


def test_a_line_of_exactly_the_limit_is_one_line() -> None:
    assert lines_of(b"x" * 10 + b"\r\n", maximum=10) == [SplitLine("x" * 10)]


def test_a_longer_line_is_cut_and_marked() -> None:
    assert lines_of(b"x" * 25 + b"\n", maximum=10) == [
        SplitLine("x" * 10, continued=True),
        SplitLine("x" * 10, continued=True),
        SplitLine("x" * 5),
    ]


def test_no_character_is_cut() -> None:
    pieces = lines_of("€€€€".encode(), maximum=10)
    assert pieces == [SplitLine("€€€", continued=True), SplitLine("€")]


def test_a_megabyte_without_newline() -> None:
    pieces = lines_of(b"y" * 1_000_000)
    assert [len(piece.text) for piece in pieces] == [65536] * 15 + [1_000_000 - 15 * 65536]
    assert [piece.continued for piece in pieces] == [True] * 15 + [False]


def test_ending_a_partial_line() -> None:
    splitter = LineSplitter()
    assert splitter.feed(b"done") == []
    assert splitter.end_partial_line() == [SplitLine("done")]
    assert splitter.end_partial_line() == []
    assert splitter.feed(b"next\n") == [SplitLine("next")]


_bytes = st.lists(
    st.sampled_from(
        [b"\r", b"\n", b"\0", b"a", b"bc", b"\xff", b"\xe2", b"\x82", b"\xac", "€".encode(), "🚀".encode()]
    ),
    max_size=60,
).map(b"".join)


@settings(deadline=None)
@given(data=_bytes | st.binary(max_size=80), cuts=st.lists(st.integers(0, 200)), maximum=st.integers(4, 12))
def test_any_cut_gives_the_same_lines(data: bytes, cuts: list[int], maximum: int) -> None:
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    pieces = [data[start:end] for start, end in itertools.pairwise(bounds)]
    expected = lines_of(data, maximum=maximum)
    assert lines_of(*pieces, maximum=maximum) == expected
    assert all(len(line.text.encode()) <= maximum for line in expected)
    assert not any(character in line.text for line in expected for character in "\r\n\0")
