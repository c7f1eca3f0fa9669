"""TOML, YAML and JSON that nobody trusts, as plain mappings, lists and scalars."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from typing import Any, cast

from shared.text.storable import storable
from workers.frameworks.source_tree import SourceTree

MAXIMUM_FILE_BYTES = 128 * 1024
_MAXIMUM_NESTING = 50
# A YAML file of a few lines can stand for more values than there is memory.
_MAXIMUM_VALUES = 50_000


class BrokenFile(ValueError):
    """The message says what is wrong with the file, and where."""


def read_toml(tree: SourceTree, path: str) -> dict[str, Any] | None:
    """None if there is no such file. Raises BrokenFile."""
    return _read(tree, path, "TOML", tomllib.loads)


def read_yaml(tree: SourceTree, path: str) -> dict[str, Any] | None:
    """As `read_toml`. Scalars remain text, so that a version 3.10 is no number."""
    return _read(tree, path, "YAML", _load_yaml)


def read_json(tree: SourceTree, path: str) -> dict[str, Any] | None:
    """As `read_toml`. There may be comments, and commas before a closing bracket."""
    return _read(tree, path, "JSON", SourceTree.decode_json_with_comments)


def _read(tree: SourceTree, path: str, kind: str, load: Callable[[str], Any]) -> dict[str, Any] | None:
    text = tree.read_start(path)
    if text is None:
        return None
    if len(text) > MAXIMUM_FILE_BYTES:
        raise BrokenFile(f"{path} is larger than {MAXIMUM_FILE_BYTES // 1024} KiB")
    try:
        value = _plain(load(text), [_MAXIMUM_VALUES])
    except (ValueError, RecursionError) as error:
        reason = "its values are nested too deeply" if isinstance(error, RecursionError) else _shortened(str(error))
        raise BrokenFile(f"{path} is not valid {kind}: {reason}") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise BrokenFile(f"{path} must hold names with values at its top")
    return cast("dict[str, Any]", value)


def _load_yaml(text: str) -> Any:
    # Imported late: the child that reads starts for every deployment. In Python, as its parser in C has no bound for
    # the depth of what it reads.
    import yaml

    try:
        return yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - makes texts, lists and mappings only
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _plain(value: Any, left: list[int], depth: int = 0) -> Any:
    """The value with `storable` texts. Raises ValueError when it is too large or nested too deeply."""
    left[0] -= 1
    if left[0] < 0:
        raise ValueError(f"it has more than {_MAXIMUM_VALUES} values")
    if depth > _MAXIMUM_NESTING:
        raise ValueError(f"its values are nested more than {_MAXIMUM_NESTING} levels deep")
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, list):
        return [_plain(item, left, depth + 1) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        members = cast("dict[Any, Any]", value)
        return {storable(str(name)): _plain(member, left, depth + 1) for name, member in members.items()}
    # TOML has dates, too.
    return value if value is None or isinstance(value, bool | int | float) else str(value)


def _shortened(text: str) -> str:
    return re.sub(r"\s+", " ", storable(text)).strip()[:300]
