"""Declares a setting where its field is: name, kind, default and one sentence of documentation, each once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, dataclass_transform, overload

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

PREFIX = "CLOUDIFY_"
_KEY = "setting"


class Invalid(ValueError):
    """A value that can't be used. Each of `problems` continues the sentence that starts with the setting's name."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Kind(Generic[T_co]):
    """A way to write a value.

    `parse` raises Invalid. `description` says on the page which values there are. `may_be_file`: whether the value may
    come from a file that `<NAME>_FILE` names. `show` writes a default as a person would set it.
    """

    parse: Callable[[str], T_co]
    description: str
    may_be_file: bool = True
    show: Callable[[Any], str] = str


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `default` is its default as a person would write it, "" for none.

    Where the field itself has no default, its value is parsed from that text.
    """

    name: str
    kind: Kind[Any]
    about: str
    default: str


@overload
def setting(name: str, kind: Kind[T], about: str, *, default_text: str | None = None, is_secret: bool = False) -> T: ...


@overload
def setting(
    name: str, kind: Kind[T], about: str, *, default: T, default_text: str | None = None, is_secret: bool = False
) -> T: ...


def setting(
    name: str,
    kind: Kind[Any],
    about: str,
    *,
    default: Any = dataclasses.MISSING,
    default_text: str | None = None,
    is_secret: bool = False,
) -> Any:
    """A field of a part that is read from `CLOUDIFY_<name>`; without a default the setting must be set.

    `default_text` alone is parsed at each start, for values that depend on the process, as folders do; with `default`
    it documents what None stands for. A secret is left out of the part's repr.
    """
    if default_text is None:
        default_text = "" if default is dataclasses.MISSING else kind.show(default)
    declared = Setting(name, kind, about, default_text)
    return dataclasses.field(default=default, repr=not is_secret, metadata={_KEY: declared})


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(setting,))
def part(cls: type[T]) -> type[T]:
    """Makes a class a part of the settings: a frozen dataclass, each field of which is a `setting`."""
    return dataclass(frozen=True, slots=True, kw_only=True)(cls)


def settings_of(part: type[Any]) -> Iterator[tuple[dataclasses.Field[Any], Setting]]:
    """The fields of a part with their settings, in the order of their declaration."""
    for field in dataclasses.fields(part):
        yield field, field.metadata[_KEY]
