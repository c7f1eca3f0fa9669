from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
import time
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.logs.capture.splitter import LineSplitter
from shared.logs.masking.control_sequences import visible
from shared.logs.masking.literal_search import Literal, LiteralSet
from shared.logs.masking.redaction import MASK, Redactor
from shared.logs.masking.secret_forms import MOST_FORMS, MOST_LINES, forms_of_all, is_harmless

SECRET = "p@ss/w+rd 'ü\"42"


def in_pieces(redactor: Redactor, text: str, size: int) -> str:
    stream = redactor.stream()
    pieces = [stream.feed(text[start : start + size]) for start in range(0, len(text), size)]
    return "".join(pieces) + stream.flush()


@pytest.mark.parametrize(
    "shown",
    [
        SECRET,
        quote(SECRET),
        quote(SECRET, safe=""),
        quote_plus(SECRET),
        quote(SECRET, safe="").lower(),
        json.dumps(SECRET)[1:-1],
        json.dumps(SECRET, ensure_ascii=False)[1:-1],
        json.dumps(SECRET)[1:-1].replace("/", "\\/"),
        SECRET.replace("'", "'\\''"),
        SECRET.encode().hex(),
        SECRET.encode().hex().upper(),
        SECRET.encode().hex(" "),
        SECRET.encode().hex(":").upper(),
        "".join(f"%{byte:02x}" for byte in SECRET.encode()),
        "".join(f"%{byte:02X}" for byte in SECRET.encode()),
        "".join(f"\\x{byte:02x}" for byte in SECRET.encode()),
        SECRET.upper(),
        SECRET.lower(),
    ],
)
def test_every_form_is_masked(shown: str) -> None:
    redactor = Redactor([SECRET])
    assert redactor.mask(f"<{shown}>") == f"<{MASK}>"
    assert in_pieces(redactor, f"<{shown}>", 1) == f"<{MASK}>"


def test_hex_is_masked_inside_a_longer_dump_and_line_by_line() -> None:
    secret = "".join(chr(65 + index % 26) for index in range(70))
    digits = f"before {secret} after".encode().hex()
    assert Redactor([secret]).mask(digits) == b"before ".hex() + MASK + b" after".hex()
    wrapped = "\n".join(secret.encode().hex()[start : start + 60] for start in range(0, 140, 60))
    assert set(Redactor([secret]).mask(wrapped).split("\n")) == {MASK}


CONTROLS = [
    "\r",
    "\x1b[31m",
    "\x1b[0m",
    "\x1b[38;5;196m",
    "\x1b[?25l",
    "\x1b[2K",
    "\x1b[1G",
    "\b",
    "\x7f",
    "\x1b(B",
    "\x1b",
]


@pytest.mark.parametrize("control", CONTROLS)
@pytest.mark.parametrize("secret", [SECRET, "hunter2-hunter2", "a+b"])
def test_a_secret_that_control_characters_interrupt_is_masked_and_they_stay(control: str, secret: str) -> None:
    redactor = Redactor([secret])
    for place in range(1, len(secret)):
        shown = f"<{secret[:place]}{control}{secret[place:]}>"
        assert redactor.mask(shown) == f"<{MASK}{control}>"
        for size in (1, 2, 7):
            assert in_pieces(redactor, shown, size) == f"<{MASK}{control}>"
    everywhere = control.join(secret)
    assert redactor.mask(f"<{everywhere}>") == f"<{MASK}{control * (len(secret) - 1)}>"


def test_control_characters_around_secrets_stay_where_they_are() -> None:
    redactor = Redactor(["secret-one", "xyz"])
    text = "\x1b[1msecret-one\x1b[0m \x1b[32mxyz\x1b[0m done\r\n50%\rxyz\r100%\x1b[K"
    expected = "\x1b[1m***\x1b[0m \x1b[32m***\x1b[0m done\r\n50%\r***\r100%\x1b[K"
    assert redactor.mask(text) == expected
    for size in range(1, 12):
        assert in_pieces(redactor, text, size) == expected


def test_what_only_looks_like_an_escape_sequence_is_text() -> None:
    redactor = Redactor(["1234567890", "hunter2-hunter2"])
    for text in ("\x1b[1234567890m", "\x1b]8;;https://hunter2-hunter2\x07link\x1b]8;;\x07", "\x1b[1;1234567890"):
        assert MASK in redactor.mask(text)
        assert in_pieces(redactor, text, 1) == redactor.mask(text)


@pytest.mark.parametrize("before", ["", "a", "ab", "user:"])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_is_masked_wherever_the_secret_lies_in_it(before: str, encode: object) -> None:
    assert callable(encode)
    shown = encode((before + SECRET + " and more").encode()).decode()
    masked = Redactor([SECRET]).mask(shown)
    assert MASK in masked
    kept = masked.replace(MASK, "")
    # What is left are the characters that carry bits of the text around it, and at most one more on each side.
    assert len(kept) <= (len(before) + len(" and more")) * 8 // 6 + 4


def test_wrapped_base64_is_masked_line_by_line() -> None:
    secret = "".join(chr(65 + index % 26) for index in range(150))
    encoded = base64.b64encode(secret.encode()).decode()
    for width in (64, 76):
        wrapped = "\n".join(encoded[start : start + width] for start in range(0, len(encoded), width))
        assert set(Redactor([secret]).mask(wrapped).split("\n")) == {MASK}


def test_a_secret_of_several_lines_is_masked_line_by_line() -> None:
    secret = "-----BEGIN KEY-----\n  abcdefgh\nijkl\n}\n"
    redactor = Redactor([secret])
    assert redactor.mask("x abcdefgh y") == f"x {MASK} y"
    assert redactor.mask(secret.replace("\n", "\r\n")) == f"{MASK}\r\n  {MASK}\r\n{MASK}\r\n}}\r\n"
    assert redactor.mask(json.dumps(secret)) == f'"{MASK}"'


def test_short_secrets_are_masked_as_whole_words() -> None:
    redactor = Redactor(["abc", "42", "x", " "])
    assert redactor.mask("abc abcd key=abc, x 42 421 (42)") == "*** abcd key=***, x *** 421 (***)"
    assert in_pieces(redactor, "abc abcd key=abc, x 42 421 (42)", 1) == "*** abcd key=***, x *** 421 (***)"


def test_short_secrets_are_masked_in_their_forms_too() -> None:
    redactor = Redactor(["a+b", "xy"])
    assert redactor.mask("YSti YSti2 p=a%2Bb eHk= a+bc --a+b xyz") == "*** YSti2 p=*** *** a+bc --*** xyz"


@pytest.mark.parametrize(
    ("secrets", "text", "expected"),
    [
        (["ab"], "xab", "xab"),
        (["::"], "a:://://::", "a:://://***"),
        (["//"], "/////", "***"),
        (["a+a"], "a+a+a a+ab", "*** a+ab"),
        (["abaaba"], "abaababaaba", "***"),
        (["aaaa", "aaab"], "aaaaaaab", "***"),
        (["secret-one", "one-secret"], "secret-one-secret", "***"),
        (["secret", "secret-one"], "secret secret-one secret-on", "*** *** ***-on"),
    ],
)
def test_secrets_that_overlap_themselves_and_others(secrets: list[str], text: str, expected: str) -> None:
    redactor = Redactor(secrets)
    assert redactor.mask(text) == expected
    for size in range(1, len(text)):
        assert in_pieces(redactor, text, size) == expected


def test_words_of_configuration_are_not_masked() -> None:
    text = "NODE_ENV=production DEBUG=true: optimized production build"
    assert Redactor(["production", "true", "True", "localhost"]).mask(text) == text


@pytest.mark.parametrize(
    ("secret", "shown"),
    [
        ("a<b>&c", '{"a":"a\\u003cb\\u003e\\u0026c"}'),
        ("a<b>&c", "<p>a&lt;b&gt;&amp;c</p>"),
        ("it's me", "'it'\\''s me'"),
        ("it's me", "'it'\"'\"'s me'"),
        ('pa"$s`x', '"pa\\"\\$s\\`x"'),
        ("p ($x)&y", "echo p\\ \\(\\$x\\)\\&y"),
        ("tab\tü", "'tab\\tü'"),
        ("über-geheim", '"\\u00FCber-geheim"'),
    ],
)
def test_what_programs_make_of_special_characters(secret: str, shown: str) -> None:
    masked = Redactor([secret]).mask(shown)
    assert MASK in masked
    assert not set(re.findall(r"\w", masked)) - set("echoap")


def test_regular_expression_characters_are_literal() -> None:
    assert Redactor(["a.*+b(c["]).mask("a.*+b(c[ axxxxb") == "*** axxxxb"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://user:pass@host/x", "https://***@host/x"),
        ("https://token@host", "https://***@host"),
        ("postgresql://u:p%40@h:5432/db redis://:pw@h", "postgresql://***@h:5432/db redis://***@h"),
        ("https:\\/\\/user:pass@host\\/x", "https:\\/\\/***@host\\/x"),
        ("https://u:p@ss@host/", "https://***@host/"),
        ("ssh://git@host/x.git", "ssh://git@host/x.git"),
        ("https://host/path@2", "https://host/path@2"),
        ("see https://host a@b", "see https://host a@b"),
        ('{"a":"https://host","b":"me@host"}', '{"a":"https://host","b":"me@host"}'),
    ],
)
def test_credentials_in_urls_are_masked(text: str, expected: str) -> None:
    redactor = Redactor([])
    assert redactor.mask(text) == expected
    assert in_pieces(redactor, text, 1) == expected


def test_a_line_without_secrets_is_not_kept_back() -> None:
    stream = Redactor(["secret-one", "two\nlines"]).stream()
    assert stream.feed("12:00 building…\n") == "12:00 building…\n"


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "b" * 1_000_000,
        "hunter2" * 140_000,
        "://a@" * 200_000,
        "aaab" * 250_000,
        "ab" * 500_000,
        "\r" * 1_000_000,
        "\x1b[1m" * 250_000,
        "a\r" * 500_000,
        "\x1b[1;" * 250_000,
    ],
    ids=[
        "one letter",
        "another letter",
        "secrets",
        "urls",
        "near",
        "period",
        "returns",
        "colours",
        "both",
        "unfinished",
    ],
)
def test_a_megabyte_in_one_line_takes_no_time(text: str) -> None:
    redactor = Redactor(
        ["hunter2x", "a" * 4095 + "b", "aaaa", "abababab", *(f"value-{n}-of-a-secret" for n in range(20))]
    )
    started = time.process_time()
    redactor.mask(text)
    # Tens of milliseconds in practice; anything quadratic takes minutes.
    assert time.process_time() - started < 5


_letters = st.text(alphabet="ab/:@ \n€\r\x1b[1m", max_size=12)
_secrets = st.lists(st.text(alphabet="ab/:@\n€", min_size=2, max_size=9), max_size=3)


@settings(deadline=None)
@given(secrets=_secrets, parts=st.lists(_letters | st.just("://"), max_size=12), data=st.data())
def test_the_result_does_not_depend_on_the_pieces(secrets: list[str], parts: list[str], data: st.DataObject) -> None:
    text = "".join([*parts, data.draw(st.sampled_from([*secrets, ""])), data.draw(_letters)])
    redactor = Redactor(secrets)
    cuts = sorted({0, len(text), *data.draw(st.lists(st.integers(0, len(text))))})
    stream = redactor.stream()
    pieces = [stream.feed(text[start:end]) for start, end in itertools.pairwise(cuts)]
    assert "".join(pieces) + stream.flush() == redactor.mask(text)


@settings(deadline=None)
@given(
    secret=st.text(st.characters(exclude_characters="*", exclude_categories=("Cs",)), min_size=4, max_size=40),
    # What follows the beginning of an escape sequence may be taken for its end.
    before=st.text(st.characters(exclude_characters="\x1b"), max_size=20),
    after=st.text(st.characters(exclude_characters="\x1b"), max_size=20),
    size=st.integers(1, 30),
)
def test_no_line_ever_shows_the_secret(secret: str, before: str, after: str, size: int) -> None:
    data = f"{before}{secret}{after}{secret}".encode(errors="replace")
    splitter = LineSplitter(Redactor([secret]).stream(), maximum_line_bytes=32)
    lines = [line for start in range(0, len(data), size) for line in splitter.feed(data[start : start + size])]
    shown = "".join(line.text + ("" if line.continued else "\n") for line in lines + splitter.flush())
    needle = secret.replace("\0", "\ufffd")
    if len(visible(needle).strip()) >= 4 and not is_harmless(needle):
        assert needle not in shown


@settings(deadline=None)
@given(
    text=st.text(alphabet="abcde ", max_size=60), secrets=st.lists(st.text("abcde", min_size=4, max_size=6), max_size=4)
)
def test_masking_equals_the_plain_definition(text: str, secrets: list[str]) -> None:
    """Every character of every occurrence is masked, and nothing else; occurrences that overlap share a mask."""
    plain = Redactor(secrets)._literals.texts
    spans = sorted(
        (start, start + len(form)) for form in plain for start in range(len(text)) if text.startswith(form, start)
    )
    merged: list[tuple[int, int]] = []
    for start, end in spans:
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    expected, position = "", 0
    for start, end in merged:
        expected += text[position:start] + MASK
        position = end
    assert Redactor(secrets).mask(text) == expected + text[position:]


def test_a_run_of_control_characters_without_an_end_is_not_kept_without_an_end() -> None:
    stream = Redactor(["secret-value"]).stream()
    # The beginning of a secret is kept back, and what follows it as well.
    shown = stream.feed("secret-valu")
    shown += "".join(stream.feed("\x1b[31m\r") for _ in range(20_000))
    shown += stream.feed("e\n") + stream.flush()
    assert shown.startswith("***")
    assert shown.endswith("\n")
    assert "secret" not in shown
    assert len(shown) < 1000
    # Sequences stay whole, wherever the text is cut.
    run = "a" + "\r\x1b[31m" * 1000 + "b"
    whole, pieces = Redactor(["secret-value"]).mask(run), Redactor(["secret-value"]).stream()
    assert "".join(map(pieces.feed, run)) + pieces.flush() == whole
    assert whole.endswith(("\rb", "mb"))


def digest(seed: object, length: int) -> str:
    return hashlib.shake_128(str(seed).encode()).hexdigest(length)[:length]


def lines(seed: object, count: int, length: int) -> str:
    return "\n".join(digest((seed, number), length) for number in range(count))


# As many and as large as the platform lets a project's variables be: 64 KiB each, 1 MiB together, 200 of them.
HUGE = {
    "one line": [digest(number, 60 * 1024) for number in range(16)],
    "long lines": [lines(number, 960, 64) for number in range(16)],
    "short lines": [lines(number, 10_000, 5) for number in range(16)],
    "many": [lines(number, 80, 64) for number in range(199)],
}


@pytest.mark.parametrize("name", HUGE)
def test_huge_secrets_cost_little_and_take_nothing_from_ordinary_ones(name: str) -> None:
    huge = HUGE[name]
    forms = forms_of_all([*huge, SECRET])
    assert len(forms) <= MOST_FORMS + MOST_LINES + 2 * len(huge)
    assert sum(map(len, forms)) < 8 << 20
    redactor = Redactor([*huge, SECRET])
    for secret in huge:
        assert redactor.mask(f"<{secret}>").removeprefix("<").removesuffix(">").split("\n") in (
            [MASK],
            [MASK] * len(secret.split("\n")),
        )
    for shown in (SECRET, base64.b64encode(SECRET.encode()).decode(), SECRET.encode().hex(), quote(SECRET, safe="")):
        assert redactor.mask(f"<{shown}>") == f"<{MASK}>"


def test_all_lines_of_a_huge_key_are_masked_one_by_one() -> None:
    key = lines("key", 960, 64)
    redactor = Redactor([key, "secret-one"])
    shown = "".join(f"    {line}\r\n" for line in key.split("\n"))
    assert set(redactor.mask(shown).split()) == {MASK}


@pytest.mark.parametrize("length", [4, 5, 6, 7, 14, 15, 64])
def test_a_text_that_is_not_there_is_not_searched_for(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    searched: list[str] = []
    find = Literal.find
    monkeypatch.setattr(Literal, "find", lambda self, buffer: searched.append(self.text) or find(self, buffer))
    texts = lines("a", 2000, length).split("\n")
    literals = LiteralSet(texts)
    assert list(literals.find("Only words, no digits. " * 1000)) == []
    assert searched == []
    for before in range(4):
        assert list(literals.find("-" * before + texts[7])) == [(before, before + length)]
