"""`python -m tests.support.documentation`: writes what is made from the code in the pages below docs/, and the
chart's README."""

from __future__ import annotations

import inspect
import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_type_hints

from api.errors import STATUS_OF
from shared.error_codes import FailureCode
from shared.plans import LIMITS
from shared.settings import Settings
from shared.settings.declaration import PREFIX, Setting, settings_of
from tests.support.chart_readme import COPIED, README, readme
from tests.support.helm_chart import CHART
from tests.support.metrics import families

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"

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

_METRICS = """\
# Metrics

Prometheus reads them from `/api/metrics/prometheus` on a listener of each process (`CLOUDIFY_METRICS_PORT`), and of a
router on its internal one (`CLOUDIFY_ROUTER_INTERNAL_PORT`). With `cloudify up`, one listener serves those of all
processes. Figures that say `exporter` are read from the stores by `cloudify exporter`, of which one is enough; of
several, take the maximum. Labels have few values: never an identifier, and nothing that a tenant chooses.
"""

_BEGIN = "<!-- Made by `make docs` from the contracts in pyproject.toml. -->\n"
_END = "<!-- The end of what is made. -->\n"


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


def architecture_page() -> str:
    """The page as it is, with the tables of imports between their two marks made from the contracts."""
    before, begin, rest = (DOCS / "architecture.md").read_text().partition(_BEGIN)
    _, end, after = rest.partition(_END)
    return f"{before}{begin}\n{_imports()}\n{end}{after}"


def metrics_page() -> str:
    rows = (
        (f"`{family.exposed_name}`", family.kind, ", ".join(family.labels), family.meaning) for family in families()
    )
    return f"{_METRICS}\n{_table(('metric', 'type', 'labels', 'meaning'), rows)}"


PAGES: dict[str, Callable[[], str]] = {
    "metrics.md": metrics_page,
    "settings.md": settings_page,
    "failure-codes.md": codes_page,
    "architecture.md": architecture_page,
}


def _imports() -> str:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [contract for contract in contracts if contract["type"] == "layers"]
    layered = _table(
        ("package", "layers, from the top; names that a comma separates don't import each other"),
        ((_names(contract.get("containers", [])) or "all", _arrows(contract["layers"])) for contract in layers),
    )
    only = [name.split(" only in ") for contract in contracts if " only in " in (name := contract["name"])]
    seams = _table(("library", "only in"), ((_names(library.split(", ")), _places(place)) for library, place in only))
    return f"{layered}\nStages don't import each other. Client libraries stay behind one seam each:\n\n{seams}"


def _arrows(layers: Iterable[str]) -> str:
    return " → ".join(_names(layer.split(" | ")) for layer in layers)


def _names(modules: Iterable[str]) -> str:
    return ", ".join(f"`{module}`" for module in modules)


def _places(places: str) -> str:
    return re.sub(r"\bapi\b|\b\w+(?:\.\w+)+", lambda found: f"`{_path(found[0])}`", places)


def _path(module: str) -> str:
    path = module.replace(".", "/")
    return path if (ROOT / path).is_dir() else f"{path}.py"


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
    README.write_text(readme())
    for name in COPIED:
        shutil.copyfile(ROOT / "monitoring" / name, CHART / "files" / name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
