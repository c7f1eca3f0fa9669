"""The build command for a project's next commit: with what its framework kept from the former build, and without.

`python -m tests.bench builds files [fixture …]`. Seconds of the build stage, two runs each, the better one printed.
"""

from __future__ import annotations

import sys
import time
from datetime import datetime
from pathlib import Path

from tests.bench.platform import request_to_end
from tests.support.repositories import commit, make_repository
from tests.support.running_platform import Platform

# A file of each fixture that is built into a page; a comment at its end changes no page.
EDITED = {
    "docusaurus": ("docs/index.mdx", "\n{{/* {} */}}\n"),
    "next": ("app/page.jsx", "\n// {}\n"),
    "create-react-app": ("src/index.js", "\n// {}\n"),
    "vue-cli": ("src/main.js", "\n// {}\n"),
    "monorepo-npm": ("apps/web/build.cjs", "\n// {}\n"),
}
_SETTINGS = {"monorepo-npm": {"rootDirectory": "apps/web"}}
_ROUNDS = 2
# A framework that kept nothing is not waited for any longer.
_STORING_SECONDS = 15.0


def measure(platform: Platform, folder: Path) -> None:
    chosen = [name for name in EDITED if name in sys.argv[1:]] or list(EDITED)
    print(f"{'build stage, s':<20} {'first':>8} {'next, kept files':>18} {'next, without':>15} {'ratio':>7}")
    for name in chosen:
        first, kept, without = _measure(platform, folder / name, name)
        print(f"{name:<20} {first:>8.1f} {kept:>18.1f} {without:>15.1f} {kept / without:>7.2f}", flush=True)


def _measure(platform: Platform, directory: Path, name: str) -> tuple[float, float, float]:
    path, edit = EDITED[name]
    project = platform.create_project(name, make_repository(directory, name), **_SETTINGS.get(name, {}))["id"]
    text = (directory / path).read_text()
    switch = f"/api/projects/{project}/env/CLOUDIFY_BUILD_CACHE"
    first, kept, without = _build(platform, project, keeps=True), [], []
    for number in range(_ROUNDS):
        commit(directory, {path: text + edit.format(f"kept {number}")})
        kept.append(_build(platform, project, keeps=True))
        commit(directory, {path: text + edit.format(f"without {number}")})
        platform.call("PUT", switch, {"value": "off"}, status=(200, 201, 204))
        without.append(_build(platform, project, keeps=False))
        platform.call("DELETE", switch, status=(200, 204))
    return first, min(kept), min(without)


def _build(platform: Platform, project: str, *, keeps: bool) -> float:
    """Seconds of the build stage; returns when what is kept of it is stored."""
    before = _kept(platform, project)
    _, deployment = request_to_end(platform, project)
    if deployment["status"] != "ready":
        raise RuntimeError(f"{deployment['error']}\n{platform.log_text(deployment['id'])}")
    deadline = time.monotonic() + _STORING_SECONDS
    while keeps and time.monotonic() < deadline and _kept(platform, project) == before:
        time.sleep(0.1)
    [seconds] = [run["durationSeconds"] for run in deployment["stages"] if run["stage"] == "build"]
    return seconds


def _kept(platform: Platform, project: str) -> list[datetime]:
    with platform.database() as database:
        query = "SELECT last_used_at FROM snapshots WHERE kind = 'build files' AND scope = %(scope)s"
        return database.fetch_values(datetime, query, {"scope": f"{project}/production"})
