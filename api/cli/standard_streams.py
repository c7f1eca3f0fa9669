"""Standard input, output and error in places where one of them is closed, full, or of another encoding."""

from __future__ import annotations

import codecs
import os
import sys
from typing import BinaryIO, TextIO

from api.client.errors import ClientError, ExitCode

# Of what is read from standard input: a token, a password, a key, the value of a variable.
_MAXIMUM_BYTES = 1024 * 1024
_BYTE_ORDER_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


def reserve() -> None:
    """Opens what was closed, so that no file or connection of the command takes its place. Called before all else.

    Input is empty then, messages are dropped, and a result that is written to a closed output fails.
    """
    for descriptor, flags in ((0, os.O_RDONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, flags)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - as above
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115 - as above


def give_up(stream: TextIO) -> None:
    """Drops what the stream still holds, which Python would try to write at its end, with a traceback."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    except (OSError, ValueError):
        return


def read_input(what: str, *, is_line: bool = False) -> str:
    """Standard input as text, or its first line, without the line end at its end. On a terminal always one line.

    Raises ClientError for what isn't text.
    """
    source: BinaryIO = sys.stdin.buffer
    try:
        read = source.readline if is_line or sys.stdin.isatty() else source.read
        data = read(_MAXIMUM_BYTES + 1)
        if is_line and data.startswith(_BYTE_ORDER_MARKS):
            # Its lines don't end with one byte.
            data += source.read(_MAXIMUM_BYTES)
    except OSError as error:
        raise ClientError(f"{what} can't be read from stdin: {error.strerror}.", exit_code=ExitCode.USAGE) from error
    if len(data) > _MAXIMUM_BYTES:
        raise ClientError(f"{what} is larger than 1 MiB.", "Check what is sent to stdin.", exit_code=ExitCode.USAGE)
    text = decode(what, data)
    if is_line:
        text = text.partition("\n")[0]
    return text.removesuffix("\n").removesuffix("\r")


def decode(what: str, data: bytes) -> str:
    """UTF-8, or UTF-16 with a byte order mark, as PowerShell writes it. Raises ClientError."""
    encoding = "utf-16" if data.startswith(_BYTE_ORDER_MARKS) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ClientError(
            f"{what} is not text in UTF-8.",
            "Convert it first, for example with `iconv -f LATIN1 -t UTF-8`.",
            exit_code=ExitCode.USAGE,
        ) from error
    if "\0" in text:
        raise ClientError(
            f"{what} has NUL characters; it may be UTF-16 without a byte order mark.",
            "Convert it first, for example with `iconv -f UTF-16LE -t UTF-8`.",
            exit_code=ExitCode.USAGE,
        )
    return text


def check_arguments(arguments: list[str]) -> None:
    """Raises ClientError for an argument that isn't UTF-8: no name, address or value of the platform is."""
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            shown = argument.encode("utf-8", "backslashreplace").decode()
            raise ClientError(
                f"The argument {shown} is not text in UTF-8.",
                "Write it in UTF-8; a directory with such a name is deployed from inside, as `cloudify deploy`.",
                exit_code=ExitCode.USAGE,
            ) from error
