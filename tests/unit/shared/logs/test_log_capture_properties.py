"""Splitter and redactor against a plain reference: whatever the output, the secrets, and the cuts between reads."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shlex
import tracemalloc
import unicodedata
from collections.abc import Collection
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.logs.capture.splitter import LineSplitter, SplitLine
from shared.logs.masking.literal_search import Interval, LiteralSet
from shared.logs.masking.redaction import MASK, Redactor
from shared.logs.masking.secret_forms import forms_of, is_harmless, words_of

MEBIBYTE = 1024 * 1024


def captured(data: bytes, cuts: list[int], secrets: list[str], maximum: int) -> list[SplitLine]:
    """What the log holds of output that came in pieces."""
    splitter = LineSplitter(Redactor(secrets).stream(), maximum_line_bytes=maximum)
    bounds = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    lines = [line for start, end in itertools.pairwise(bounds) for line in splitter.feed(data[start:end])]
    return lines + splitter.flush()


# -- the reference: the whole text at once, character by character ----------------------------------------------------


def seen(text: str) -> tuple[str, dict[int, str]]:
    """What a terminal shows of the text, and before which character of that the rest stands."""
    shown, hidden = "", dict[int, str]()
    while text:
        sequence = re.match(r"\x1b\[\??\d{0,3}([;:]\d{0,3}){0,15}[A-Za-z]|\x1b\(B", text, re.ASCII)
        size = len(sequence[0]) if sequence else 1
        if sequence or (unicodedata.category(text[0]) == "Cc" and text[0] not in "\n\t"):
            hidden[len(shown)] = hidden.get(len(shown), "") + text[:size]
        else:
            shown += text[0]
        text = text[size:]
    return shown, hidden


def plainly_masked(raw: str, secrets: list[str]) -> str:
    text, hidden = seen(raw)
    spans: list[tuple[int, int]] = []
    for secret in (secret.replace("\0", "\ufffd") for secret in secrets):
        length = len(seen(secret)[0].strip())
        if is_harmless(secret):
            continue
        shapes = forms_of if length >= 4 else words_of
        for raw_form in shapes(secret) | shapes(seen(secret)[0]) if length >= 2 else ():
            form, _ = seen(raw_form)
            if len(form) < min(length, 4):
                continue
            for start in range(len(text)):
                end = start + len(form)
                before = "" if start in hidden else text[max(0, start - 1) : start]
                after = "" if end in hidden else text[end : end + 1]
                is_word = not (before + after).translate(_NOT_WORD)
                if text.startswith(form, start) and (length >= 4 or is_word):
                    spans.append((start, end))
    for match in re.finditer(r":\\?/\\?/([^\s/?#\"'<>`]*)@", text):
        if match[1] != "git":
            spans.append(match.span(1))
    begun, covered = set[int](), set[int]()
    stop = 0
    for start, end in sorted(spans):
        if start >= stop and start < end:
            begun.add(start)
        covered.update(range(start, end))
        stop = max(stop, end)
    output = ""
    for index in range(len(text) + 1):
        output += hidden.get(index, "") + (MASK if index in begun else "")
        output += "" if index in covered else text[index : index + 1]
    return output


class _DropsOthers(dict[int, None]):
    """Deletes everything that is no letter, digit or underscore."""

    def __missing__(self, code: int) -> int | None:
        return code if chr(code).isalnum() or chr(code) == "_" else None


_NOT_WORD = _DropsOthers()


def plainly_split(text: str, maximum: int) -> list[SplitLine]:
    lines: list[SplitLine] = []
    line = ""
    for index, character in enumerate(text):
        if character == "\n":
            lines.append(SplitLine(line))
            line = ""
        elif character == "\r":
            # One of a run, or before a LF: the run's last one, or the LF, ends the line.
            if line and not re.match(r"\r+\n", text[index:]):
                lines.append(SplitLine(line))
                line = ""
        else:
            if len((line + character).encode()) > maximum:
                lines.append(SplitLine(line, continued=True))
                line = ""
            line += character
    return lines + ([SplitLine(line)] if line else [])


# -- secrets and output -----------------------------------------------------------------------------------------------

# Few letters, so that secrets are beginnings, ends and parts of each other; and what is special to someone.
_letters = "aab/:@+.*?([\\'\"$&% =\n\r\té€"
_secrets = st.lists(
    st.text(_letters, min_size=1, max_size=9)
    | st.text(max_size=12)
    | st.sampled_from(["abc", "a.c", "$$$", "(a+)+", "aaaa", "aaaab", "baaaa", "abababab", "abab", "tok-€-1", "x\ny\n"])
    | st.tuples(st.text("abc", min_size=4, max_size=6), st.text("ab}", max_size=5)).map("\n".join),
    max_size=4,
)
_junk = st.sampled_from(
    [
        *(b"\r", b"\n", b"\r\n", b"\0", b" ", b"a", b"ab", b"://", b"@", b"://u:p@h", b"\xff", b"\xe2\x82", b"\xc3"),
        *("€".encode(), "\u2028".encode(), "\ufeff".encode(), b"\x1b[31m", b"\x1b[0m", b"\x1b[2K\r", b"data: x\n\n"),
    ]
) | st.binary(max_size=6).map(lambda data: data.replace(b"\x1b", b"\x1c"))


def shown_forms(secret: str, before: str, after: str) -> list[str]:
    """How programs print a secret, made independently of the code under test."""
    inside = f"{before}{secret}{after}".encode(errors="replace")
    return [
        secret,
        base64.b64encode(inside).decode(),
        base64.urlsafe_b64encode(inside).decode(),
        quote(secret, safe="", errors="replace"),
        quote_plus(secret, errors="replace"),
        json.dumps({"value": secret}),
        json.dumps(secret, ensure_ascii=False),
        shlex.quote(secret),
        repr(secret),
        secret.replace("\n", "\r\n"),
    ]


@st.composite
def outputs(draw: st.DrawFn) -> tuple[list[str], bytes]:
    secrets = draw(_secrets)
    parts: list[bytes] = []
    for _ in range(draw(st.integers(0, 6))):
        parts.append(draw(_junk))
        if secrets:
            secret = draw(st.sampled_from(secrets))
            edge = st.sampled_from(["", "a", "bb", "ccc"])
            shown = draw(st.sampled_from(shown_forms(secret, draw(edge), draw(edge)))).encode(errors="replace")
            # Sometimes only the beginning: without the rest it isn't a secret and must be stored.
            parts.append(shown[: draw(st.integers(0, len(shown)))] if draw(st.booleans()) else shown)
    return secrets, b"".join([*parts, draw(_junk)])


@settings(deadline=None, max_examples=400)
@given(case=outputs(), cuts=st.lists(st.integers(0, 300), max_size=40), maximum=st.integers(4, 40))
def test_any_reads_give_what_masking_the_whole_text_gives(
    case: tuple[list[str], bytes], cuts: list[int], maximum: int
) -> None:
    secrets, data = case
    text = data.decode(errors="replace").replace("\0", "\ufffd")
    assert captured(data, cuts, secrets, maximum) == plainly_split(plainly_masked(text, secrets), maximum)


@settings(deadline=None, max_examples=400)
@given(
    secret=st.text(st.characters(exclude_characters="*\0", exclude_categories=("Cs",)), min_size=4, max_size=40),
    parts=st.lists(st.tuples(st.integers(0, 9), _junk), min_size=1, max_size=6),
    edges=st.tuples(st.text("abc", max_size=3), st.text("abc", max_size=3)),
    cuts=st.lists(st.integers(0, 400), max_size=40),
    maximum=st.integers(4, 80),
)
def test_no_form_of_a_secret_is_ever_shown(
    secret: str, parts: list[tuple[int, bytes]], edges: tuple[str, str], cuts: list[int], maximum: int
) -> None:
    # Of a secret with control characters, what is left without them is masked.
    if len(secret.strip()) < 4 or is_harmless(secret) or seen(secret)[0] != secret:
        return
    forms = shown_forms(secret, *edges)
    data = b"".join(junk + forms[index].encode(errors="replace") for index, junk in parts)
    log = "".join(line.text + ("" if line.continued else "\n") for line in captured(data, cuts, [secret], maximum))
    lines = [line.strip() for line in secret.splitlines() if len(line.strip()) >= 4]
    for line in lines:
        assert line not in log
    if not lines:
        assert secret not in log
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = secret.encode(errors="replace")
        for offset, first in ((0, 0), (1, 2), (2, 3)):
            # The characters that depend on nothing but the secret, whatever stands around it.
            core = encode(b"-" * offset + encoded).decode()[first : (offset + len(encoded)) * 8 // 6]
            assert core not in log
    for form in (quote(secret, safe="", errors="replace"), json.dumps(secret)[1:-1]):
        assert form not in log


@given(
    text=st.text("ab€", max_size=80),
    texts=st.lists(st.text("ab€", min_size=4, max_size=30), max_size=30),
)
@settings(deadline=None, max_examples=300)
def test_the_sieve_misses_nothing(text: str, texts: list[str]) -> None:
    def covered(intervals: list[Interval]) -> set[int]:
        return {index for start, end in intervals for index in range(start, end)}

    # More texts bring the sieves in.
    more = [f"{number:020d}" for number in range(8)] + [f"n{number:07d}" for number in range(8)]
    expected = {
        index
        for form in texts
        for start in range(len(text))
        if text.startswith(form, start)
        for index in range(start, start + len(form))
    }
    assert covered(list(LiteralSet(texts).find(text))) == expected
    assert covered(list(LiteralSet(texts + more).find(text))) == expected
    unfinished = [
        start for start in range(len(text)) for form in texts if form.startswith(text[start:]) and form != text[start:]
    ]
    assert LiteralSet(texts).unfinished_start(text) == min(unfinished, default=len(text))


@pytest.mark.parametrize("shift", [0, 1, 7, 12, 15, 16])
def test_a_secret_across_the_64_kib_border_of_a_line(shift: int) -> None:
    secret = "s3cr3t-of-16-chr"
    data = b"x" * (64 * 1024 - shift) + secret.encode() + b"y" * 100 + b"\n"
    for cuts in ([], [64 * 1024], [64 * 1024 - shift + 5]):
        lines = captured(data, cuts, [secret], 64 * 1024)
        assert "".join(line.text for line in lines) == "x" * (64 * 1024 - shift) + MASK + "y" * 100
        assert [line.continued for line in lines] == [True, False]


def test_a_secret_is_a_secret_between_invalid_bytes_and_colours() -> None:
    data = b"\xff\xe2\x82hunter2\xff\x1b[31mhunter2\x1b[0m\0hunter2\0\xc3\n"
    [line] = captured(data, list(range(len(data))), ["hunter2"], 64 * 1024)
    assert line.text == f"\ufffd\ufffd{MASK}\ufffd\x1b[31m{MASK}\x1b[0m\ufffd{MASK}\ufffd\ufffd"


# -- work and memory --------------------------------------------------------------------------------------------------


class CountingRedactor(Redactor):
    """Counts the characters that are looked at."""

    scanned = 0

    def intervals(self, buffer: str, start: int = 0, breaks: Collection[int] = ()) -> list[Interval]:
        self.scanned += len(buffer)
        return super().intervals(buffer, start, breaks)

    def settled(self, buffer: str) -> int:
        self.scanned += len(buffer)
        return super().settled(buffer)


@pytest.mark.parametrize("unit", ["a", "aaab", "hunter2", "://a@", "\r", "\\", "x\ny\n", "€"])
def test_the_work_grows_with_the_output_and_not_faster(unit: str) -> None:
    """In characters looked at, so that it holds on any machine."""

    def scanned(length: int) -> int:
        redactor = CountingRedactor(["a" * 500 + "b", "aaaa", "hunter2x", "x\ny", "abc", "€" * 20])
        text = (unit * length)[:length]
        stream = redactor.stream()
        for start in range(0, length, 50):
            stream.feed(text[start : start + 50])
        stream.flush()
        return redactor.scanned

    # What is kept back between two pieces is at most what the longest secret or URL needs.
    assert scanned(20_000) <= 2.2 * scanned(10_000)
    assert scanned(10_000) <= 10_000 / 50 * 2 * (50 + 2100)


@pytest.mark.parametrize("text", ["a" * 4000, "ab" * 2000, "aaab" * 1000])
def test_a_run_of_a_secret_is_one_interval(text: str) -> None:
    for secret in ("aaaa", "a" * 100, "abab", "ababababa", "aaabaaab"):
        intervals = list(LiteralSet([secret]).find(text))
        assert len(intervals) <= len(text) / 4
        if secret in ("aaaa", "a" * 100) and "b" not in text:
            assert intervals == [(0, len(text))]


def test_the_end_of_a_buffer_that_nearly_begins_a_long_secret() -> None:
    """Thousands of places to try: the fallback finds the same."""
    secret = "ab" * 2000 + "c" + "ab" * 1990 + "d"
    for end in ("ab" * 1500, "ab" * 2000 + "c" + "ab" * 700, "ab" * 3000 + "a", "ab" * 3000 + "c" + "ab" * 5):
        expected = min(start for start in range(len(end) + 1) if secret.startswith(end[start:]))
        assert LiteralSet([secret]).unfinished_start("x" + end) == 1 + expected


@pytest.mark.parametrize(
    ("piece", "size", "secrets", "lines"),
    [
        (b"x", 24 * MEBIBYTE, 2, 384),  # too few for the sieve, in which tracing takes long
        (b"x", 8 * MEBIBYTE, 20, 128),
        (b"\r", 8 * MEBIBYTE, 20, 0),
        (b"ab\xff", 6 * MEBIBYTE, 20, 160),
    ],
    ids=["24 MiB without a newline", "many secrets", "returns", "invalid bytes"],
)
def test_endless_lines_need_little_memory(piece: bytes, size: int, secrets: int, lines: int) -> None:
    splitter = LineSplitter(Redactor([f"secret-number-{number}" for number in range(secrets)]).stream())
    data = piece * (64 * 1024 // len(piece))
    count = 0
    tracemalloc.start()
    try:
        for _ in range(size // len(data)):
            count += len(splitter.feed(data))
        count += len(splitter.flush())
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == pytest.approx(lines, abs=1)
    assert peak < 4 * MEBIBYTE
