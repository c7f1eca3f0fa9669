"""`python -m tests.support.documentation`: writes the pages below docs/ that are made from the code."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_type_hints

from api.errors import STATUS_OF
from shared.error_codes import FailureCode
from shared.plans import LIMITS
from shared.settings import Settings
from shared.settings.declaration import PREFIX, Setting, settings_of

DOCS = Path(__file__).resolve().parents[2] / "docs"

_SETTINGS = f"""\
# Settings

Every process reads its settings from the environment once, at its start, and reports all invalid ones together. An
empty variable counts as not set. A value may come from a file instead: `{PREFIX}SECRET_KEY_FILE=/run/secrets/key`
stands for `{PREFIX}SECRET_KEY`; numbers and booleans are read from the variable alone. `cloudify up` generates the
values that have no default.
"""

_PLANS = """\
## Plans

Plans set how much an account may use. `make run` gives its owner the plan ENTERPRISE, within the bounds of the machine
(`CLOUDIFY_BUILDS_AT_ONCE`, `CLOUDIFY_LARGEST_BUILD_MEMORY_MB`); the owner of an older home gets it once, at the
upgrade. `cloudify admin set-plan EMAIL PLAN` changes a plan.
"""

_CODES = """\
# Failure codes

A failed deployment names a failure code, the stage and a message; a failed request answers with an error code.
"""

_FAILURES = """\
## Deployments

All but `PLATFORM_ERROR` and `WORKER_LOST` are for the project's owner to fix.
"""

_ERRORS = """\
## Requests

The envelope of a failed request is `{"ok": false, "error": {"code", "message", "requestId", "details"}}`.
"""


def parts() -> dict[str, type[Any]]:
    """The parts of the settings by the names of their fields."""
    return get_type_hints(Settings)


def settings_page() -> str:
    return "\n".join([_SETTINGS, *(_part(name, part) for name, part in parts().items()), _PLANS, _plans()])


def codes_page() -> str:
    failures = _table(
        ("code", "meaning", "what to do"), ((f"`{code.value}`", code.meaning, code.advice) for code in FailureCode)
    )
    errors = _table(
        ("status", "code", "meaning", "what to do"),
        (
            (str(status), f"`{code.value}`", code.meaning, code.advice)
            for code, status in sorted(STATUS_OF.items(), key=lambda item: item[1])
        ),
    )
    return f"{_CODES}\n{_FAILURES}\n{failures}\n{_ERRORS}\n{errors}"


PAGES: dict[str, Callable[[], str]] = {"settings.md": settings_page, "failure-codes.md": codes_page}


def _part(name: str, part: type[Any]) -> str:
    heading = name.replace("_", " ").capitalize().replace("Api", "API")
    rows = _table(("setting", "value", "default", "meaning"), (_row(setting) for _, setting in settings_of(part)))
    return f"## {heading}\n\n{inspect.getdoc(part)}\n\n{rows}"


def _row(setting: Setting) -> tuple[str, ...]:
    # A default that is a sentence, like "the plan's", is no value to set.
    is_value = bool(setting.default) and _is_valid(setting)
    default = f"`{setting.default}`" if is_value else setting.default
    value = setting.kind.description.replace("<", "&lt;")
    return f"`{PREFIX}{setting.name}`", value, default, setting.about


def _is_valid(setting: Setting) -> bool:
    try:
        setting.kind.parse(setting.default)
    except ValueError:
        return False
    return " " not in setting.default


def _plans() -> str:
    return _table(
        ("plan", "builds at once", "queued", "projects", "memory of a build", "disk of a build", "files", "time"),
        (
            (
                plan.value,
                str(limits.concurrent_builds),
                str(limits.maximum_queued),
                str(limits.maximum_projects),
                f"{limits.memory_bytes >> 30} GiB",
                f"{limits.disk_bytes >> 30} GiB",
                f"{limits.disk_entries:,}".replace(",", " "),
                f"{limits.stage_timeout_seconds // 60} min a stage",
            )
            for plan, limits in LIMITS.items()
        ),
    )


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = (" | ".join(cell.replace("|", "\\|") for cell in row) for row in (head, *rows))
    first, *others = (f"| {line} |" for line in lines)
    return "\n".join([first, "|" + "---|" * len(head), *others]) + "\n"


def main() -> int:
    DOCS.mkdir(exist_ok=True)
    for name, make in PAGES.items():
        (DOCS / name).write_text(make())
    return 0


if __name__ == "__main__":
    sys.exit(main())
