"""The lines in which a pod's log carries a command's output: `NUMBER KIND DATA`. Standard library only.

A pod's log is one stream of lines without a length. The numbers tell what was read already after a reconnection, and
whether something is missing. KIND is `o` (stdout), `e` (stderr), or `x` for the last line, whose data is JSON.
"""

from __future__ import annotations

from dataclasses import dataclass

STDOUT, STDERR, END = b"o", b"e", b"x"
# The container runtime cuts lines at 16 KiB; escaping at most doubles the data.
CHUNK_BYTES = 7 * 1024


@dataclass(frozen=True, slots=True)
class Frame:
    number: int
    kind: bytes
    data: bytes


def encode(frame: Frame) -> bytes:
    """One line, with its end."""
    data = frame.data.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return b"%d %b %b\n" % (frame.number, frame.kind, data)


def decode(line: bytes) -> Frame | None:
    """None for a line that is no frame: a line that the runtime cut, or one of another program."""
    number, _, rest = line.partition(b" ")
    kind, separator, data = rest[:1], rest[1:2], rest[2:]
    if not number.isdigit() or len(number) > 18 or kind not in (STDOUT, STDERR, END) or separator != b" ":
        return None
    return Frame(int(number), kind, _unescape(data))


def _unescape(data: bytes) -> bytes:
    parts = data.split(b"\\\\")
    return b"\\".join(part.replace(b"\\n", b"\n").replace(b"\\r", b"\r") for part in parts)
