"""Makes text that a build, a commit or a repository wrote safe to show on a terminal.

Escape sequences could move the cursor, rewrite what stands above, set the title, the clipboard or answer back as if
typed. Of all of them only colours and weights (SGR) are let through; ECMA-48, section 8.3.117.
"""

from __future__ import annotations

import re

RESET = "\x1b[0m"

_SGR = r"\x1b\[[0-9;:]{0,40}m"
# Well-formed sequences disappear whole; what is left of malformed ones becomes visible below.
_SEQUENCES = re.compile(
    rf"(?P<sgr>{_SGR})"
    r"|\x1b\[[0-?]{0,64}[ -/]{0,8}[@-~]"  # CSI
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"  # OSC, DCS, SOS, PM, APC
    r"|\x1b[ -/]{1,3}[0-~]"  # character sets
)
# More than names and commit messages refuse (shared/text/written.py): a terminal lays out a whole line of columns
# that others wrote, and the marks for right-to-left text (U+061C, U+200E, U+200F) change the order across them.
_CONTROLS = re.compile(
    r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
# No blinking (5, 6), no invisible text (8), no other fonts.
_PLAIN_SGR = frozenset([0, 1, 2, 3, 4, 7, 9, *range(21, 25), 27, 29, *range(30, 38), 39, *range(40, 48), 49])
_BRIGHT_SGR = frozenset([*range(90, 98), *range(100, 108)])


def neutralise(text: str, *, keep_colours: bool) -> str:
    """One line that shows what is in it and does nothing. Tabs stay; other control characters become symbols.

    With `keep_colours` the line ends in a reset if it changed a colour.
    """
    text = text.rstrip("\r\n")
    if _CONTROLS.search(text) is None:
        return text
    kept: list[str] = []
    position = 0
    is_coloured = False
    for match in _SEQUENCES.finditer(text):
        kept.append(_CONTROLS.sub(_symbol, text[position : match.start()]))
        position = match.end()
        if match["sgr"] and keep_colours and _is_harmless(match["sgr"]):
            kept.append(match["sgr"])
            is_coloured = True
    kept.append(_CONTROLS.sub(_symbol, text[position:]))
    if is_coloured:
        kept.append(RESET)
    return "".join(kept)


def _symbol(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"<U+{code:04X}>"


def _is_harmless(sequence: str) -> bool:
    parameters = re.split("[;:]", sequence[2:-1])
    position = 0
    while position < len(parameters):
        value = int(parameters[position] or 0)
        if value in (38, 48):
            # 38;5;n and 38;2;r;g;b: the numbers after it are a colour.
            position += {"5": 2, "2": 4}.get("".join(parameters[position + 1 : position + 2]), 0)
        elif value not in _PLAIN_SGR and value not in _BRIGHT_SGR:
            return False
        position += 1
    return True
