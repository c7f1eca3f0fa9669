"""Reads the parts of the settings from the environment and collects every problem."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from shared.settings.declaration import PREFIX, Invalid, Setting, settings_of

T = TypeVar("T")


class SettingsError(Exception):
    """`problems` holds one sentence for each invalid setting."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("The settings can't be used:\n" + "\n".join(f"  - {problem}" for problem in problems))
        self.problems = problems


@runtime_checkable
class Checked(Protocol):
    """A part whose values must fit together."""

    def problems(self) -> Iterable[str]:
        """One sentence for each problem."""
        ...


class Reader:
    """Reads `CLOUDIFY_<NAME>`, or the file that `CLOUDIFY_<NAME>_FILE` names. An empty variable counts as not set."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.problems: list[str] = []

    def part(self, part: type[T]) -> T | None:
        """The part, with defaults in place of invalid values. None if a value without a default is missing."""
        values: dict[str, Any] = {}
        is_complete = True
        for field, setting in settings_of(part):
            found = len(self.problems)
            text = self._text(setting)
            is_required = field.default is dataclasses.MISSING
            if text is None and is_required:
                text = setting.default or None
            if text is not None:
                values |= self._parsed(field.name, setting, text)
            elif is_required and len(self.problems) == found:
                self.problems.append(f"{PREFIX}{setting.name} is not set; it has no default.")
            is_complete = is_complete and (field.name in values or not is_required)
        if not is_complete:
            return None
        made = part(**values)
        if isinstance(made, Checked):
            self.problems += made.problems()
        return made

    def removed(self, name: str, harmless: str, advice: str) -> None:
        """A setting that does not exist any more. `harmless`: the value that asks for today's behaviour."""
        if self._environment.get(f"{PREFIX}{name}", "") not in ("", "0", harmless):
            self.problems.append(f"{PREFIX}{name} is not supported any more. {advice}")

    def _parsed(self, field: str, setting: Setting, text: str) -> dict[str, Any]:
        try:
            return {field: setting.kind.parse(text)}
        except Invalid as error:
            self.problems += [f"{PREFIX}{setting.name} {problem}" for problem in error.problems]
            return {}

    def _text(self, setting: Setting) -> str | None:
        """None if the setting is not set, or its file can't be read, which is a problem then."""
        name = f"{PREFIX}{setting.name}"
        text = self._environment.get(name)
        path = self._environment.get(f"{name}_FILE") if setting.kind.may_be_file else None
        if text is not None and path is not None:
            self.problems.append(f"{name} and {name}_FILE are both set; set one.")
        if text is None and path is not None:
            try:
                text = Path(path).read_text().strip()
            except (OSError, UnicodeDecodeError) as error:
                self.problems.append(f"{name}_FILE can't be read: {error}.")
        return text or None
