"""Compares our detection of the rows with that of other programs; every difference has its reason in the table."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

from shared.errors import StageFailure
from tests.corpus.repositories import Copy
from tests.corpus.table import Row
from tests.support.npm_programs import install_program
from workers.frameworks.detection import Overrides, detect

_FACTS = ("framework", "command", "output")
# Their names of our frameworks.
_NAMES = {
    "next": "nextjs", "svelte-kit": "sveltekit", "sveltekit-1": "sveltekit", "vue": "vue-cli", "nuxtjs": "nuxt",
    "docusaurus-2": "docusaurus", "remix": "react-router",
}  # fmt: skip


def compare(copies: Iterator[tuple[Row, Copy]], scratch: Path) -> int:
    """Prints each difference with its reason; returns how many have none."""
    rows: list[tuple[Row, Path]] = []
    for row, copy in copies:
        rows.append((row, scratch / "trees" / row.name))
        copy.extract(rows[-1][1])
    program = install_program(Path(__file__).with_name("oracles"), scratch / "oracles", "detect.mjs")
    roots = json.dumps([str(root) for _, root in rows])
    done = subprocess.run(program, input=roots, capture_output=True, text=True, check=True)
    unexplained = 0
    for (row, root), found in zip(rows, json.loads(done.stdout), strict=True):
        ours = _ours(root)
        for oracle, theirs in found.items():
            theirs["framework"] = _NAMES.get(theirs["framework"], theirs["framework"])
            for fact in _FACTS:
                if ours[fact] != theirs[fact]:
                    reason = row.differences.get(f"{oracle} {fact}", row.differences.get(oracle, ""))
                    unexplained += not reason
                    print(
                        f"{row.name:44} {oracle:8} {fact:10} {ours[fact]} | {theirs[fact]}  {reason or 'UNEXPLAINED'}"
                    )
    print(f"{unexplained} differences without a reason")
    return unexplained


def _ours(root: Path) -> dict[str, str | None]:
    try:
        found = detect(root, Path(), Overrides())
    except StageFailure as failure:
        return {"framework": f"{failure.code}", "command": None, "output": None}
    return {
        "framework": found.framework,
        "command": found.build_command,
        "output": found.output_directory,
    }
