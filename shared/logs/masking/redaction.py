"""Masks secrets in text that arrives in pieces. Pure; takes linear time for any text and any secrets.

It masks every occurrence, also overlapping ones, of every form of every secret (see `secret_forms`; very long ones have
fewer), and the user part of every URL (`https://user:password@host`), even if it isn't a known secret. Secrets of two
or three characters are only masked as whole words; single characters and words like "true" not at all. A secret is also
found with a carriage return or a colour in the middle of it, which then follows its mask. The result doesn't depend on
how the text is divided into pieces: text that may be the start of a secret is held back until more has arrived.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from shared.logs.masking.control_sequences import Controls, separate, unfinished_start, visible
from shared.logs.masking.literal_search import Interval, LiteralSet
from shared.logs.masking.secret_forms import MINIMUM_LENGTH, MINIMUM_WORD_LENGTH, forms_of_all, is_harmless, words_of

MASK = "***"

# `://`, also with the escaped slashes of JSON.
_URL_START = re.compile(r":\\?/\\?/")
_URL_START_PREFIX = re.compile(r":(?:\\|\\?/\\?)?\Z")
_MAXIMUM_AUTHORITY = 2048
_AUTHORITY = re.compile(r"[^\s/?#\"'<>`]{0,2049}")
# The user in every SSH URL of a Git host; not a credential.
_HARMLESS_USERS = frozenset({"git"})
# Maximum control characters that are kept between two visible ones.
_MAXIMUM_RUN = 256
_WORD_CHARACTER = re.compile(r"\w")


class Redactor:
    """Immutable and safe from any thread. Each stream of text needs its own `stream()`."""

    def __init__(self, secrets: Iterable[str]) -> None:
        secrets_to_find: set[str] = set()
        words: set[str] = set()
        for value in secrets:
            secret = value.replace("\0", "\ufffd")
            shown = visible(secret)
            length = len(shown.strip())
            if is_harmless(secret):
                continue
            if length >= MINIMUM_LENGTH:
                secrets_to_find |= {secret, shown}
            elif length >= MINIMUM_WORD_LENGTH:
                words |= {
                    word
                    for word in map(visible, words_of(secret) | words_of(shown))
                    if len(word) >= MINIMUM_WORD_LENGTH
                }
        forms = {form for form in map(visible, forms_of_all(secrets_to_find)) if len(form) >= MINIMUM_LENGTH}
        self._literals = LiteralSet(forms)
        self._words = [_Word(word) for word in sorted(words)]

    def mask(self, text: str) -> str:
        stream = self.stream()
        return stream.feed(text) + stream.flush()

    def stream(self) -> RedactionStream:
        return RedactionStream(self)

    def intervals(self, buffer: str, start: int = 0, breaks: Collection[int] = ()) -> list[Interval]:
        """The intervals to mask in visible text, in any order; they may overlap.

        Text before `start` is only context. `breaks` are the positions of control characters, which end a word.
        """
        found = list(self._literals.find(buffer))
        for word in self._words:
            found += word.find(buffer, start, breaks)
        if ":/" in buffer or ":\\" in buffer:
            found += _url_users(buffer)
        return found

    def settled(self, buffer: str) -> int:
        """The position up to which text after the buffer can't change what is masked."""
        end = len(buffer)
        if not buffer:
            return end
        hold = self._literals.unfinished_start(buffer)
        for word in self._words:
            hold = min(hold, word.unfinished_start(buffer))
        if prefix := _URL_START_PREFIX.search(buffer, max(0, end - 4)):
            hold = min(hold, prefix.start())
        for match in _URL_START.finditer(buffer, max(0, end - _MAXIMUM_AUTHORITY - 8)):
            authority = _AUTHORITY.match(buffer, match.end())
            if authority and authority.end() == end and end - match.end() <= _MAXIMUM_AUTHORITY:
                hold = min(hold, match.start())
        return hold


class _Word:
    """A text that is masked only if no letter, digit or underscore is adjacent to it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def find(self, buffer: str, start: int, breaks: Collection[int]) -> Iterator[Interval]:
        begin = buffer.find(self._text, start)
        while begin >= 0:
            end = begin + len(self._text)
            is_begun = begin == 0 or begin in breaks or not _WORD_CHARACTER.match(buffer, begin - 1)
            if is_begun and (end in breaks or not _WORD_CHARACTER.match(buffer, end)):
                yield begin, end
            # Overlapping ones too ("--" in "---"); otherwise the result would depend on where the buffer starts.
            begin = buffer.find(self._text, begin + 1)

    def unfinished_start(self, buffer: str) -> int:
        """The start of the longest suffix of `buffer` that is a prefix of the text, or the whole text.

        The next character decides whether a whole text is a word.
        """
        end = len(buffer)
        for size in range(min(len(self._text), end), 0, -1):
            if buffer.endswith(self._text[:size]):
                return end - size
        return end


class RedactionStream:
    """Masks one stream of text. Not thread-safe."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        # The end of the input, if it may be the start of an escape sequence.
        self._unfinished = ""
        # The last visible character that was released (the start of a word depends on it), the visible text that is
        # held back, and the control characters in it by position.
        self._context = ""
        self._kept = ""
        self._controls: list[Controls] = []
        # How many of the held characters belong to a mask that has already been written.
        self._masked = 0
        # The number of control characters since the last visible one.
        self._run = 0

    def feed(self, text: str) -> str:
        """Returns masked text. The end may be held back until the next call."""
        if not text:
            return ""
        text = self._unfinished + text
        cut = unfinished_start(text)
        self._unfinished = text[cut:]
        added, controls = self._separate(text[:cut])
        if self._kept and not added:
            # Held text waits for visible text; searching it again for every control character would take quadratic
            # time.
            self._controls += [(len(self._kept) + place, control) for place, control in controls]
            return ""
        buffer, controls = self._with_kept(added, controls)
        return self._release(buffer, controls, max(len(self._context), self._redactor.settled(buffer)))

    def flush(self) -> str:
        """Returns the held text, masked. The stream can be used again afterwards, like a new one."""
        buffer, controls = self._with_kept(*self._separate(self._unfinished))
        released = self._release(buffer, controls, len(buffer))
        self._unfinished = self._context = ""
        self._masked = self._run = 0
        return released

    def _separate(self, text: str) -> tuple[str, list[Controls]]:
        """The visible text and its control characters.

        Of a long run only the first whole sequences are kept; an endless run would be held back endlessly.
        """
        added, found = separate(text)
        controls: list[Controls] = []
        last = 0
        for place, control in found:
            if place > last:
                self._run, last = 0, place
            fitting = control[: _MAXIMUM_RUN - self._run]
            if len(fitting) < len(control):
                fitting = fitting[: unfinished_start(fitting)]
                self._run = _MAXIMUM_RUN
            else:
                self._run += len(control)
            if fitting:
                controls.append((place, fitting))
        if len(added) > last:
            self._run = 0
        return added, controls

    def _with_kept(self, added: str, controls: list[Controls]) -> tuple[str, list[Controls]]:
        """The visible text to search, and the control characters in it by position."""
        before = self._context + self._kept
        kept = [(len(self._context) + place, control) for place, control in self._controls]
        return before + added, kept + [(len(before) + place, control) for place, control in controls]

    def _release(self, buffer: str, controls: list[Controls], end: int) -> str:
        base = len(self._context)
        covered = base + self._masked
        output = _Output(buffer, controls, base)
        breaks = {place for place, _ in controls}
        for start, stop in sorted(self._redactor.intervals(buffer, base, breaks)):
            if start >= end:
                break
            if start < covered:
                covered = max(covered, stop)
                continue
            output.skip_to(min(covered, end))
            output.show_to(start)
            output.mask()
            covered = stop
        output.skip_to(min(covered, end))
        output.show_to(end)
        self._masked = max(0, covered - end)
        self._context = buffer[max(0, end - 1) : end]
        if controls and output.last_control == end:
            # A word may start here, regardless of the last visible character.
            self._context = "\n"
        self._kept = buffer[end:]
        self._controls = [(place - end, control) for place, control in output.rest()]
        return output.text()


class _Output:
    """Builds the output for visible text from `position` on.

    Control characters keep their place between characters, and follow the mask of a secret that they interrupted.
    """

    def __init__(self, buffer: str, controls: list[Controls], position: int) -> None:
        self._buffer = buffer
        self._controls = controls
        self._next = 0
        self._position = position
        self._pieces: list[str] = []
        # The position of the last control characters that were released.
        self.last_control = -1

    def show_to(self, end: int) -> None:
        while self._next < len(self._controls):
            place, controls = self._controls[self._next]
            if place > end:
                break
            self._pieces += (self._buffer[self._position : place], controls)
            self._position = max(self._position, place)
            self.last_control = place
            self._next += 1
        if end > self._position:
            self._pieces.append(self._buffer[self._position : end])
            self._position = end

    def skip_to(self, end: int) -> None:
        """Releases the control characters before `end`, but no text."""
        while self._next < len(self._controls) and self._controls[self._next][0] < end:
            self.last_control, controls = self._controls[self._next]
            self._pieces.append(controls)
            self._next += 1
        self._position = max(self._position, end)

    def mask(self) -> None:
        self._pieces.append(MASK)

    def rest(self) -> list[Controls]:
        return self._controls[self._next :]

    def text(self) -> str:
        return "".join(self._pieces)


def _url_users(buffer: str) -> Iterator[Interval]:
    for match in _URL_START.finditer(buffer):
        authority = _AUTHORITY.match(buffer, match.end())
        user = authority.group().rpartition("@")[0] if authority else ""
        if user and user not in _HARMLESS_USERS:
            yield match.end(), match.end() + len(user)
