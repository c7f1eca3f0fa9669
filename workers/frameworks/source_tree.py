"""Reading a checked-out repository that nobody trusts: never outside it, never more than a bound."""

from __future__ import annotations

import json
import os
import posixpath
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, cast

from shared.errors import FailureCode, StageFailure
from shared.text.storable import storable
from workers.snapshots.tar_format import MAXIMUM_DEPTH

MAXIMUM_FILE_BYTES = 32 * 1024 * 1024
MAXIMUM_CONFIGURATION_BYTES = 1024 * 1024
# Directories that hold no sources of the project.
_SKIPPED = frozenset({".git", "node_modules", ".venv", "__pycache__"})
_MAXIMUM_DIRECTORIES = 100_000
_MAXIMUM_FOUND = 20_000
# No kernel opens a longer one; `realpath` would take quadratic time to find out.
_MAXIMUM_PATH = 4096
_MAXIMUM_NESTING = 200
_TOO_DEEP = f"values are nested more than {_MAXIMUM_NESTING} levels deep"
# A string that isn't closed extends to the end; otherwise the search from each place would take quadratic time.
_STRING = r'("(?:\\.|[^"\\])*"?)'
_STRING_OR_COMMENT = re.compile(rf"{_STRING}|//[^\n]*|/\*(?:.*?\*/|.*)", re.DOTALL)
_STRING_OR_LAST_COMMA = re.compile(rf"{_STRING}|,(?=\s*[}}\]])", re.DOTALL)


class SourceTree:
    """Paths are relative to the tree's root, with `/` between their parts and `.` for the root itself.

    A symbolic link is followed only while it stays inside the tree; one that leaves it reads as absent.
    """

    def __init__(self, root: Path, on_read: Callable[[str], None] = lambda _path: None) -> None:
        """`on_read` gets the path of each file before it is read."""
        self._root = Path(os.path.realpath(root))
        self._on_read = on_read

    def _locate(self, path: str) -> Path | None:
        if len(path) > _MAXIMUM_PATH or "\0" in path:
            return None
        located = Path(os.path.realpath(self._root / path))
        return located if located == self._root or self._root in located.parents else None

    def is_file(self, path: str) -> bool:
        return stat.S_ISREG(self._mode(path))

    def is_directory(self, path: str) -> bool:
        return stat.S_ISDIR(self._mode(path))

    def _mode(self, path: str) -> int:
        located = self._locate(path)
        try:
            return 0 if located is None else located.lstat().st_mode
        except OSError:
            # Absent, or a name that no file can have.
            return 0

    def read(self, path: str, maximum_bytes: int = MAXIMUM_FILE_BYTES) -> bytes | None:
        """The file's content, or None when there is no such regular file. Raises StageFailure when it is larger."""
        content = self._read_at_most(path, maximum_bytes + 1)
        if content is not None and len(content) > maximum_bytes:
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID,
                f"{path} is larger than {maximum_bytes // 1024} KiB; that is no usable configuration file.",
            )
        return content

    def _read_at_most(self, path: str, size: int) -> bytes | None:
        located = self._locate(path)
        if located is None:
            return None
        try:
            # Non-blocking: a named pipe of the repository must not hold the worker.
            descriptor = os.open(located, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, ValueError):
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        self._on_read(path)
        with os.fdopen(descriptor, "rb") as file:
            return file.read(size)

    def read_start(self, path: str) -> str | None:
        """The beginning of a text of any size, such as a page, made `storable`; None when there is no such file."""
        content = self._read_at_most(path, MAXIMUM_CONFIGURATION_BYTES)
        return None if content is None else storable(content.decode("utf-8-sig", errors="replace"))

    def read_text(self, path: str) -> str | None:
        """A configuration file's text, made `storable`; None when there is no such file."""
        content = self.read(path, MAXIMUM_CONFIGURATION_BYTES)
        return None if content is None else storable(content.decode("utf-8-sig", errors="replace"))

    def read_lockfile(self, path: str) -> str | None:
        """As `read_text`, for what programs write, which gets far larger than a configuration."""
        content = self.read(path)
        return None if content is None else storable(content.decode("utf-8-sig", errors="replace"))

    def read_object(self, path: str, *, has_comments: bool = False) -> dict[str, Any] | None:
        """A JSON object; None when there is no such file. Raises StageFailure when it is anything else.

        `has_comments`: it may have comments, and commas before a closing bracket, as those allow who read it. What no
        database, argv or encoder takes in its strings (NUL, lone surrogates) is replaced.
        """
        content = self.read(path, MAXIMUM_CONFIGURATION_BYTES)
        if content is None:
            return None
        try:
            text = content.decode("utf-8-sig")
            value = storable_value(json.loads(_without_comments(text) if has_comments else text))
        except (ValueError, RecursionError) as error:
            reason = _TOO_DEEP if isinstance(error, RecursionError) else _reason_of(error)
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID,
                f"{path} is not valid JSON: {reason}. Correct the file and push again.",
            ) from error
        if not isinstance(value, dict):
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID, f"{path} must hold a JSON object. Correct the file and push again."
            )
        return cast("dict[str, Any]", value)

    @staticmethod
    def decode_json_with_comments(text: str) -> Any:
        """Raises ValueError, RecursionError."""
        return json.loads(_without_comments(text))

    def find_all(self, directory: str, name: str) -> list[str]:
        """Every file of this name below a directory, sorted; dependencies and version control are left out."""
        start = self._locate(directory)
        if start is None:
            return []
        found = [(place / name).relative_to(self._root) for place, names in self._walk(start) if name in names]
        if len(found) > _MAXIMUM_FOUND:
            raise StageFailure(
                FailureCode.CONFIGURATION_INVALID,
                f"The repository has more than {_MAXIMUM_FOUND} files named {name}; set a smaller root directory.",
            )
        return sorted(path.as_posix() for path in found)

    def find_below(self, directory: str) -> list[str]:
        """Every file below a directory, sorted."""
        start = self._locate(directory)
        if start is None:
            return []
        return sorted(
            (found / name).relative_to(self._root).as_posix() for found, names in self._walk(start) for name in names
        )

    def files_in(self, directory: str) -> list[str]:
        """Every file (or link) directly in a directory, sorted."""
        start = self._locate(directory)
        if start is None or not start.is_dir():
            return []
        return sorted(path.relative_to(self._root).as_posix() for path in start.iterdir() if not path.is_dir())

    def find_targets_of_links(self, directory: str) -> list[str]:
        """Where the symbolic links below a directory lead, as far as they stay in the tree."""
        start = self._locate(directory)
        found: dict[str, None] = {}
        for place, names, files in () if start is None else os.walk(start, followlinks=False):
            names[:] = [name for name in names if name not in _SKIPPED]
            for name in (*names, *files):
                link = Path(place, name)
                if link.is_symlink():
                    target = Path(os.path.realpath(link))
                    if target == self._root or self._root in target.parents:
                        found[target.relative_to(self._root).as_posix()] = None
            if place.count("/") - str(start).count("/") > MAXIMUM_DEPTH:
                names.clear()
        return list(found)

    def read_below(self, directory: str, suffixes: frozenset[str]) -> Iterator[tuple[str, bytes]]:
        """Path and first mebibyte of every file below a directory whose name ends in one of the suffixes."""
        start = self._locate(directory)
        if start is None or not start.is_dir():
            return
        for place, names, files, descriptor in os.fwalk(start, follow_symlinks=False):
            inside = Path(place).relative_to(self._root).as_posix()
            names[:] = [name for name in names if name not in _SKIPPED]
            if inside.count("/") > MAXIMUM_DEPTH:
                names.clear()
            for name in files:
                if name[name.rfind(".") + 1 :].lower() in suffixes:
                    path = posixpath.join(inside, name) if inside != "." else name
                    self._on_read(path)
                    content = _read_at(descriptor, name)
                    if content is not None:
                        yield path, content

    def _walk(self, start: Path) -> Iterator[tuple[Path, set[str]]]:
        for count, (directory, names, files) in enumerate(os.walk(start, followlinks=False)):
            if count > _MAXIMUM_DIRECTORIES:
                raise StageFailure(
                    FailureCode.CONFIGURATION_INVALID,
                    f"The repository has over {_MAXIMUM_DIRECTORIES} directories; set a smaller root directory.",
                )
            names[:] = [name for name in names if name not in _SKIPPED]
            if directory.count("/") - str(start).count("/") > MAXIMUM_DEPTH:
                names.clear()
            yield Path(directory), set(files)


def _without_comments(text: str) -> str:
    """Blanks take their place, so that an error's line and column are those of the file."""
    for pattern in (_STRING_OR_COMMENT, _STRING_OR_LAST_COMMA):
        text = pattern.sub(lambda match: match[1] or re.sub(r"[^\n]", " ", match[0]), text)
    return text


def _reason_of(error: ValueError) -> str:
    return str(error) if isinstance(error, json.JSONDecodeError) or str(error) == _TOO_DEEP else "it can't be decoded"


def _read_at(directory: int, name: str) -> bytes | None:
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=directory)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        # A mebibyte for each small file would take longer than to read it.
        size = min(status.st_size, MAXIMUM_CONFIGURATION_BYTES)
        return os.read(descriptor, size) if stat.S_ISREG(status.st_mode) else None
    finally:
        os.close(descriptor)


def storable_value(value: Any, depth: int = 0) -> Any:
    """What JSON or TOML decoded to, with `storable` strings in it. Raises ValueError when it is nested too deeply."""
    if depth > _MAXIMUM_NESTING:
        raise ValueError(_TOO_DEEP)
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [storable_value(item, depth + 1) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        return {storable(name): storable_value(member, depth + 1) for name, member in members.items()}
    return value


def join(directory: str, name: str) -> str:
    """`name` inside `directory`, both relative to the root."""
    return PurePosixPath(directory, name).as_posix()


def ancestors(directory: str) -> list[str]:
    """The directory itself and those above it, up to and with the root `.`."""
    path = PurePosixPath(directory)
    return [path.as_posix(), *(parent.as_posix() for parent in path.parents)]
