"""Deploys a row, looks at its site, and deploys a second commit."""

from __future__ import annotations

import functools
import re
import time
from pathlib import Path
from typing import Any

import msgspec

from tests.corpus.crawl import crawl
from tests.corpus.repositories import Copy
from tests.corpus.table import Row
from tests.support.running_platform import FINISHED, Platform, wait_for

MAXIMUM_LINKS = 60
# Longer than all stages of the largest plan together.
_SECONDS = 4 * 3600.0
_DETECTION = re.compile(r"^install  system (?:Framework (.+?):|(Plain static files|No known framework))", re.MULTILINE)


class Result(msgspec.Struct, kw_only=True):
    """`seconds`: of each stage, by its name, and `total`. `error`: `CODE: message`. `revision`: the platform's."""

    name: str
    commit: str
    revision: str
    detection: str
    status: str
    error: str = ""
    warnings: list[str] = []
    absent: list[str] = []
    seconds: dict[str, float] = {}
    second_status: str = ""
    second_error: str = ""
    second_seconds: dict[str, float] = {}
    page_status: int = 0
    has_text: bool = False
    links: int = 0
    broken_assets: list[str] = []
    broken_pages: list[str] = []
    retry: str = ""

    def verdict(self, row: Row) -> str:
        """`live`, `told` (not counted, or a failure whose message led to a second try that works), or what is wrong."""
        if self.status != "ready":
            is_told = bool(row.message) and all(part in self.error for part in row.message)
            if row.uncounted:
                return "told" if is_told else "untold"
            return "told" if self.retry == "live" else "failed"
        return self.looks()

    def looks(self) -> str:
        if self.page_status != 200:
            return f"first page {self.page_status}"
        if not self.has_text:
            return "other text"
        if self.broken_assets:
            return "broken assets"
        return "broken links" if self.broken_pages else "live"


def deploy_row(platform: Platform, row: Row, copy: Copy, revision: str, logs: Path) -> Result:
    """Writes the logs of all deployments to files in `logs`."""
    name = _project_name(row)
    deployment, log = _deploy(platform, platform.create_project(name, copy.url)["id"])
    (logs / f"{row.name}.log").write_text(log)
    found = _DETECTION.search(log)
    result = Result(
        name=row.name,
        commit=row.commit,
        revision=revision,
        detection=(found[1] or found[2]) if found else "",
        status=deployment["status"],
        error=_error(deployment),
        warnings=[str(warning) for warning in deployment.get("warnings") or []],
        absent=copy.absent,
        seconds=_seconds(deployment),
    )
    if deployment["status"] == "ready":
        _look(platform, name, row, result)
        copy.commit_again()
        again, log = _deploy(platform, deployment["projectId"])
        (logs / f"{row.name}.second.log").write_text(log)
        result.second_status, result.second_error = again["status"], _error(again)
        result.second_seconds = _seconds(again)
    elif row.retry:
        result.retry = _try_again(platform, name, row, copy, logs)
    return result


def _try_again(platform: Platform, name: str, row: Row, copy: Copy, logs: Path) -> str:
    """The error or the looks of the second try."""
    name = f"{name}-2"
    deployment, log = _deploy(platform, platform.create_project(name, copy.url, **row.retry)["id"])
    (logs / f"{row.name}.retry.log").write_text(log)
    if deployment["status"] != "ready":
        return _error(deployment)
    result = msgspec.convert({"name": name, "commit": "", "revision": "", "detection": "", "status": "ready"}, Result)
    _look(platform, name, row, result)
    return result.looks()


def _look(platform: Platform, name: str, row: Row, result: Result) -> None:
    host = f"{name}.localhost:{platform.sites_port}"
    get = functools.partial(platform.get_site, name)
    found = crawl(get, host, MAXIMUM_LINKS, known=row.broken, also=row.also)
    result.page_status, result.links = found.status, found.checked
    result.has_text = " ".join(row.text.split()) in " ".join(found.text.split())
    result.broken_assets, result.broken_pages = found.broken_assets, found.broken_pages


def _deploy(platform: Platform, project_id: str) -> tuple[dict[str, Any], str]:
    deployment_id = platform.create_deployment(project_id)["id"]

    def ended() -> dict[str, Any] | None:
        deployment = platform.deployment(deployment_id)
        return deployment if deployment["status"] in FINISHED else None

    deployment = wait_for(ended, seconds=_SECONDS, what=f"{deployment_id} has ended", every=1)
    # The last lines arrive a moment after the end.
    time.sleep(1)
    lines = (f"{line['stage']:8} {line['stream'][:6]:6} {line['text']}" for line in platform.log(deployment_id))
    return deployment, "\n".join(lines) + "\n"


def _seconds(deployment: dict[str, Any]) -> dict[str, float]:
    stages = {run["stage"]: round(run["durationSeconds"] or 0, 1) for run in deployment["stages"]}
    return {**stages, "total": round(sum(stages.values()), 1)}


def _error(deployment: dict[str, Any]) -> str:
    error = deployment["error"]
    return f"{error['code']}: {error['message']}" if error else ""


def _project_name(row: Row) -> str:
    return re.sub(r"[^a-z0-9]+", "-", row.name.lower()).strip("-")[:40].strip("-")
