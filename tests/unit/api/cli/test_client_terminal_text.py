from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.cli.terminal_text import RESET, neutralise


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain ünïcode 日本", "plain ünïcode 日本"),
        ("a\tb", "a\tb"),
        ("ends\r\n", "ends"),
        ("50%\r100%", "50%␍100%"),
        ("\x1b[2J\x1b[1;1Hcleared", "cleared"),
        ("\x1b]0;title\x07x", "x"),
        ("\x1b]8;;https://evil\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;ZXZpbA==\x07x", "x"),
        ("\x1bP$q\x1b\\x", "x"),
        ("\x1b]0;unfinished", "␛]0;unfinished"),
        ("\x1bc", "␛c"),
        ("\x9b2J", "<U+009B>2J"),
        ("bell\x07 null\x00 del\x7f", "bell␇ null␀ del␡"),
        ("abc\u202edcb", "abc<U+202E>dcb"),
        ("\x1b[8mhidden", "hidden"),
        ("\x1b[5mblinking", "blinking"),
        ("\x1b[31;8mhidden", "hidden"),
        ("\x1b[38;5;1;8mhidden", "hidden"),
        ("\x1b[6n", ""),
    ],
)
def test_nothing_but_text_is_left(text: str, expected: str) -> None:
    assert neutralise(text, keep_colours=True) == expected


@pytest.mark.parametrize("sequence", ["\x1b[31m", "\x1b[m", "\x1b[1;4;92m", "\x1b[38;5;8m", "\x1b[48;2;8;8;8m"])
def test_colours_stay_and_end_with_the_line(sequence: str) -> None:
    assert neutralise(f"a{sequence}b", keep_colours=True) == f"a{sequence}b{RESET}"
    assert neutralise(f"a{sequence}b", keep_colours=False) == "ab"


@given(st.text(st.sampled_from("\x1b[]();m0123489?PX^_\\\x07\x9b\x9c\r\n\tabHJ\u202e\x00")))
def test_whatever_a_build_prints_only_colours_pass(text: str) -> None:
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u202e]", neutralise(text, keep_colours=False))
    left = re.sub(r"\x1b\[[0-9;:]*m", "", neutralise(text, keep_colours=True))
    assert not re.search(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u202e]", left)
