"""Raw output of a command → lines of text. Pure.

Bytes are decoded as UTF-8 (what isn't, and NUL, becomes U+FFFD), then masked, then split: masking comes before
splitting so that no secret hides across a line's 64 KiB cut. LF and CR LF end a line. A lone CR ends one too — a
progress bar shows each of its states, and text before it isn't lost — but empty lines of that kind are dropped. However
the input is cut into pieces, the lines are the same.
"""

from __future__ import annotations

import codecs
import re
from typing import Protocol

import msgspec

MAXIMUM_LINE_BYTES = 64 * 1024

_RETURNS = re.compile(r"\r\r+")
# Stands for the end of a line by a lone CR, of which empty ones are dropped. No NUL comes from outside.
_RETURN_END = "\0"


class SplitLine(msgspec.Struct, frozen=True):
    """`continued`: the line was longer than the limit and goes on in the next one."""

    text: str
    continued: bool = False


class TextFilter(Protocol):
    """Changes text on its way to the splitter; may keep some back until it has seen more."""

    def feed(self, text: str) -> str: ...

    def flush(self) -> str: ...


class LineSplitter:
    """One stream's splitter. Not thread-safe."""

    def __init__(self, text_filter: TextFilter | None = None, *, maximum_line_bytes: int = MAXIMUM_LINE_BYTES) -> None:
        if maximum_line_bytes < 4:
            raise ValueError("A line must have room for one character, which takes up to 4 bytes.")
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._filter = text_filter
        self._maximum = maximum_line_bytes
        self._pieces: list[str] = []
        self._size = 0
        # A CR came last: whether it ends a line of its own or belongs to a CR LF shows with the next character.
        self._returned = False

    def feed(self, data: bytes) -> list[SplitLine]:
        """The lines that `data` completes."""
        return self._split(self._filtered(data, final=False))

    def end_partial_line(self) -> list[SplitLine]:
        """Ends the line in progress, if there is one; what the filter keeps back stays there."""
        lines: list[SplitLine] = []
        self._end_line(lines, keep_empty=False)
        self._returned = False
        return lines

    def flush(self) -> list[SplitLine]:
        """The last line, when the input doesn't end in a line's end. The splitter can be used again afterwards."""
        text = self._filtered(b"", final=True)
        if self._filter is not None:
            text += self._filter.flush()
        lines = self._split(text)
        return lines + self.end_partial_line()

    def _filtered(self, data: bytes, *, final: bool) -> str:
        text = self._decoder.decode(data, final).replace("\0", "\ufffd")
        if final:
            self._decoder.reset()
        return text if self._filter is None else self._filter.feed(text)

    def _split(self, text: str) -> list[SplitLine]:
        lines: list[SplitLine] = []
        *ended, rest = self._with_plain_ends(text).split("\n")
        for segment in ended:
            if self._pieces or len(segment) > self._maximum // 4:
                self._extend(segment.removesuffix(_RETURN_END), lines)
                self._end_line(lines, keep_empty=not segment.endswith(_RETURN_END))
            elif segment != _RETURN_END:
                lines.append(SplitLine(segment.removesuffix(_RETURN_END)))
        self._extend(rest, lines)
        return lines

    def _with_plain_ends(self, text: str) -> str:
        """The text with LF for every line's end, after a NUL where the end was a lone CR. Keeps a CR at the end back:
        what it is shows with the next character."""
        if self._returned and text:
            text = "\r" + text
            self._returned = False
        if "\r" not in text:
            return text
        if "\r\r" in text:
            text = _RETURNS.sub("\r", text)
        if text.endswith("\r"):
            self._returned = True
            text = text[:-1]
        return text.replace("\r\n", "\n").replace("\r", _RETURN_END + "\n")

    def _extend(self, segment: str, lines: list[SplitLine]) -> None:
        if not segment:
            return
        self._pieces.append(segment)
        self._size += len(segment) if segment.isascii() else len(segment.encode())
        if self._size <= self._maximum:
            return
        data = "".join(self._pieces).encode()
        start = 0
        while len(data) - start > self._maximum:
            end = start + self._maximum
            while data[end] & 0xC0 == 0x80:  # never inside a character
                end -= 1
            lines.append(SplitLine(data[start:end].decode(), continued=True))
            start = end
        self._pieces = [data[start:].decode()]
        self._size = len(data) - start

    def _end_line(self, lines: list[SplitLine], *, keep_empty: bool) -> None:
        text = "".join(self._pieces)
        self._pieces.clear()
        self._size = 0
        if text or keep_empty:
            lines.append(SplitLine(text))
