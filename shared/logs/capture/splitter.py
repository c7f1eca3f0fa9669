"""Splits the raw output of a command into lines of text. Pure.

Bytes are decoded as UTF-8 (invalid ones and NUL become U+FFFD), then masked, then split. Masking comes before splitting
so that no secret is hidden by the cut of a line at 64 KiB. LF and CR LF end a line. So does a lone CR, so that every
state of a progress bar is shown and text before a CR isn't lost, but empty lines of that kind are dropped. The lines
don't depend on how the input is divided.
"""

from __future__ import annotations

import codecs
import re
from typing import Protocol

import msgspec

MAXIMUM_LINE_BYTES = 64 * 1024

_RETURNS = re.compile(r"\r\r+")
# Marks a line that a lone CR has ended; empty ones are dropped. The input contains no NUL.
_RETURN_END = "\0"


class SplitLine(msgspec.Struct, frozen=True):
    """`continued`: the line was longer than the limit and continues in the next one."""

    text: str
    continued: bool = False


class TextFilter(Protocol):
    """Changes text before it is split. May hold back some until it has seen more."""

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
        # The input ended with a CR: the next character decides whether it is a lone CR or part of a CR LF.
        self._returned = False

    def feed(self, data: bytes) -> list[SplitLine]:
        """The lines that `data` completes."""
        return self._split(self._filtered(data, final=False))

    def end_partial_line(self) -> list[SplitLine]:
        """Ends the line in progress, if any. Text that the filter holds back stays there."""
        lines: list[SplitLine] = []
        self._end_line(lines, keep_empty=False)
        self._returned = False
        return lines

    def flush(self) -> list[SplitLine]:
        """The last line, if the input doesn't end with an end of line. The splitter can be used again afterwards."""
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
        """Replaces every end of line by LF, with a NUL before it if it was a lone CR.

        Holds back a CR at the end, because the next character decides what it is.
        """
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
