from __future__ import annotations

import re
import sys
import unicodedata
from pathlib import Path
from urllib.parse import quote

import pytest

from shared.errors import ValidationFailed
from shared.projects.commands import find_command_problem
from shared.projects.project_input import directory_problem, name_problem
from shared.projects.repository_url import parse_repository_url
from shared.text.written import escaped, find_name_problem, is_written_text, written_text
from workers.pipeline.cache_key import explain_miss
from workers.snapshots.tar_format import shown

ROOT = Path(__file__).resolve().parents[3]
# Persian, Hindi and Sinhala joiners, joined emoji, a flag of tags, no-break and ideographic spaces, a soft hyphen, the
# marks of right-to-left text, a private character, one that is not assigned yet.
WRITTEN = [
    "می\u200cخواهم", "क्\u200dष", "ශ්\u200dරී", "👩\u200d💻", "🏳️\u200d🌈", "🏴\U000e0067\U000e0062\U000e007f", "a\u00a0b",
    "12\u202f000", "日本\u3000語", "Rind\u00adfleisch", "עברית\u200f!", "\u061cعربي", "\uf8ff", "\u0378", "e\u0301",
]  # fmt: skip
REFUSED = [
    "a\nb", "a\rb", "a\tb", "a\0b", "a\x1b[31mb", "a\x7fb", "a\x85b", "a\x9bb", "a\u2028b", "a\u2029b", "a\ud800b",
    "a\ufdd0b", "a\uffffb", "a\U0001fffeb", "a\u202eb", "a\u202ab", "a\u2066b", "a\u2069b",
]  # fmt: skip


def test_what_a_person_may_write_goes_by_the_category():
    directing = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
    for code in range(sys.maxunicode + 1):
        is_noncharacter = 0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE
        is_refused = unicodedata.category(chr(code)) in ("Cc", "Cs", "Zl", "Zp") or is_noncharacter or code in directing
        assert is_written_text(chr(code)) is not is_refused, hex(code)


@pytest.mark.parametrize("text", WRITTEN)
def test_text_is_taken_as_it_is_written(text: str):
    assert find_name_problem(text, maximum=200) is None
    assert name_problem(text) is None
    assert directory_problem(f"docs/{text}") is None
    assert find_command_problem(f"echo '{text}'") is None
    assert written_text(text) == text
    assert shown(text.encode()) == text
    assert explain_miss({"c": text}, {"c": "b"}) == f"c b → {text}"
    path = f"/{quote(text)}.git"
    assert parse_repository_url(f"https://git.example.com{path}").path == path


@pytest.mark.parametrize("text", REFUSED)
def test_what_controls_a_program_is_refused(text: str):
    assert find_name_problem(text, maximum=200) is not None
    assert name_problem(text) is not None
    assert directory_problem(text) is not None
    assert find_command_problem(f"echo '{text}'") is not None
    assert explain_miss({"c": text}, {"c": "b"}) == "c changed"
    assert is_written_text(escaped(text))
    assert is_written_text(written_text(text).replace("\n", "").replace("\t", ""))


def test_an_encoded_control_character_of_an_address_is_refused():
    with pytest.raises(ValidationFailed):
        parse_repository_url("https://git.example.com/a%0Ab.git")
    with pytest.raises(ValidationFailed):
        parse_repository_url("https://git.example.com/a%E2%80%AEb.git")


def test_lines_of_a_commit_message_stay_lines():
    text = "first\r\nsecond\rthird\u2028fourth\u2029fifth\tand\x1b[31m\u202emore\0\ufffe"
    assert written_text(text) == "first\nsecond\nthird\nfourth\nfifth\tand[31mmore"


def test_a_path_is_shown_with_what_it_hides():
    assert shown(b"a\xff\xe2\x80\xaeb\nc") == r"a\xff\u202eb\nc"


@pytest.mark.parametrize("name", ["\u200b", "\u200d\u200d", "\u00ad", "\u3164", "\ufe0f", " \u2060 ", "\u2800"])
def test_a_name_can_be_seen(name: str):
    assert find_name_problem(name, maximum=100) == "must have a visible character"


def test_the_length_of_a_name():
    assert find_name_problem("x" * 100, maximum=100) is None
    assert find_name_problem("x" * 101, maximum=100) == "must have from 1 to 100 characters"
    assert find_name_problem(" ", maximum=100) == "must have from 1 to 100 characters"
    assert find_name_problem("", maximum=200, may_be_empty=True) is None
    assert find_name_problem("x" * 201, maximum=200, may_be_empty=True) == "must have at most 200 characters"


def test_isprintable_judges_nothing():
    """It depends on Python's version and refuses what people write."""
    packages = ("api", "shared", "workers", "schemas")
    found = [
        str(path)
        for package in packages
        for path in (ROOT / package).rglob("*.py")
        if re.search(r"\.isprintable\(", path.read_text().partition("import annotations")[2])
    ]
    assert found == []
