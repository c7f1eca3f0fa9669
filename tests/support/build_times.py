"""A table of how long builds took, shown at the end of the run."""

from __future__ import annotations

import pytest

# A property of a test whose last parameter names the project: seconds by stage.
BUILD_SECONDS = "build seconds"
_STAGES = ("clone", "install", "build", "upload", "deploy")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    times = {
        report.nodeid.partition("[")[2].removesuffix("]"): value
        for outcome in ("passed", "failed")
        for report in terminalreporter.getreports(outcome)
        if report.when == "call"
        for name, value in report.user_properties
        if name == BUILD_SECONDS
    }
    if not times:
        return
    terminalreporter.section("seconds from a cold cache of dependencies to a live site")
    terminalreporter.write_line("".join(f"{title:>10}" for title in ("total", *_STAGES)) + "  project")
    for project, seconds in sorted(times.items(), key=lambda item: sum(item[1].values())):
        row = (sum(seconds.values()), *(seconds.get(stage, 0.0) for stage in _STAGES))
        terminalreporter.write_line("".join(f"{value:>10.1f}" for value in row) + f"  {project}")
