"""The characters that names, commands and commit messages may have. Pure.

`str.isprintable()` is too strict: it rejects no-break spaces and the joiners of Persian, Hindi and emoji sequences.
Rejected are, by Unicode category, control characters (Cc), lone surrogates (Cs) and the line and paragraph separators
(Zl, Zp), also the noncharacters, which Unicode reserves for programs' internal use, and the embeddings, overrides and
isolates of bidirectional text. Those affect more than their own text: one in a name reverses the text after it on a
page or terminal, so that another name looks like `exe.fdp`. The marks U+200E, U+200F and U+061C have no such effect,
and right-to-left languages need them.
"""

from __future__ import annotations

import re

_NONCHARACTERS = r"\ufdd0-\ufdef" + "".join(rf"\U{plane:04X}FFFE\U{plane:04X}FFFF" for plane in range(17))
# Unicode guarantees that Cc, Cs, Zl, Zp and the noncharacters never change.
_REFUSED = re.compile(rf"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff{_NONCHARACTERS}]")
_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# Invisible format characters and fillers; spaces are stripped before.
_INVISIBLE = re.compile(
    r"[\s\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\u2800\u3164\ufe00-\ufe0f\ufeff"
    r"\uffa0\U000e0000-\U000e0fff]*"
)


def is_written_text(text: str) -> bool:
    """Whether all characters are allowed, on one line and without tabs."""
    return _REFUSED.search(text) is None


def written_text(text: str) -> str:
    """Removes characters that are not allowed from a text of several lines. Line ends become `\\n`; tabs remain."""
    return _REFUSED.sub(lambda match: match[0] if match[0] in "\n\t" else "", _LINE_ENDS.sub("\n", text))


def escaped(text: str) -> str:
    """Escapes characters that are not allowed as in Python, like `\\n` and `\\u202e`."""
    return _REFUSED.sub(lambda match: repr(match[0])[1:-1], text)


def find_name_problem(name: str, *, maximum: int, may_be_empty: bool = False) -> str | None:
    """Returns what is wrong with the name, or None. `maximum` is its length without surrounding spaces."""
    name = name.strip()
    if len(name) > maximum or not (name or may_be_empty):
        return (
            f"must have at most {maximum} characters" if may_be_empty else f"must have from 1 to {maximum} characters"
        )
    if not is_written_text(name):
        return "can't hold control characters, line breaks or characters that change the direction of text"
    if name and _INVISIBLE.fullmatch(name):
        return "must have a visible character"
    return None
