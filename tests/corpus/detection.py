"""Compares our detection of the rows with that of other programs; every difference has its reason.

Reasons of many rows are the functions below, those of one row are in the table.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from shared.errors import StageFailure
from tests.corpus.repositories import Copy
from tests.corpus.table import Row
from tests.support.npm_programs import install_program
from workers.frameworks.detection import Overrides, detect

_FACTS = ("framework", "command", "output")
# Their names of our frameworks.
_NAMES = {
    "next": "nextjs", "svelte-kit": "sveltekit", "sveltekit-1": "sveltekit", "vue": "vue-cli", "nuxtjs": "nuxt",
    "docusaurus-2": "docusaurus", "remix": "react-router", "solid-start": "solidstart", "solidstart-1": "solidstart",
}  # fmt: skip
_SERVERS = frozenset({"python", "flask", "fastapi", "django", "node", "express", "rust"})
_UNKNOWN_THERE = frozenset({"mkdocs", "sphinx", "jupyter-book", "pelican", "docsify", "storybook", "slidev"})


class Finding(NamedTuple):
    """`files`: the configuration files that decide the command or the output of ours. Facts are None where there is
    nothing; `refusal`: the code of ours."""

    facts: dict[str, str | None]
    refusal: str = ""
    files: frozenset[str] = frozenset()


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
                if ours.facts[fact] != theirs[fact]:
                    reason = row.differences.get(f"{oracle} {fact}") or row.differences.get(oracle)
                    reason = reason or _reason(oracle, fact, ours, theirs)
                    unexplained += not reason
                    facts = f"{ours.refusal or ours.facts[fact]} | {theirs[fact]}"
                    print(f"{row.name:44} {oracle:8} {fact:10} {facts}  ({reason or 'WITHOUT A REASON'})")
    print(f"{unexplained} differences without a reason")
    return unexplained


def _reason(oracle: str, fact: str, ours: Finding, theirs: dict[str, str | None]) -> str:
    """Why the two differ, where many rows differ for the same reason; empty elsewhere."""
    reasons: tuple[tuple[Callable[[], bool], str], ...] = (
        (lambda: bool(ours.refusal), "refused here, with a message"),
        (
            lambda: fact in ours.files,
            "from a file of the repository that the other program doesn't read",
        ),
        (lambda: theirs["framework"] in _SERVERS, "it takes the code for a server, not the documentation for a site"),
        (lambda: ours.facts["framework"] in _UNKNOWN_THERE, "it doesn't know this generator"),
        (lambda: ours.facts["framework"] == "static", "it has no name for plain files"),
        (lambda: ours.facts["framework"] == "node" and not theirs["framework"], "it runs no build script of its own"),
        (lambda: ours.facts["framework"] == "hugo" and not theirs["framework"], "it doesn't know this name of Hugo's"),
        (lambda: theirs["output"] in (".next", "Next.js default"), "sites are static here: Next exports to out"),
        (
            lambda: oracle == "vercel" and fact == "command" and bool(re.search(r" run ", ours.facts["command"] or "")),
            "it names the framework's command, and prefers the script while building as we do",
        ),
    )
    return next((reason for holds, reason in reasons if holds()), "")


def _ours(root: Path) -> Finding:
    try:
        found = detect(root, Path(), Overrides())
    except StageFailure as failure:
        return Finding(dict.fromkeys(_FACTS), refusal=str(failure.code))
    facts = {"framework": found.framework, "command": found.build_command, "output": found.output_directory}
    said = "\n".join(found.reasons)
    files = {
        fact
        for fact, what in (("command", "Build command"), ("output", "Output directory"))
        if re.search(rf"^{what} {re.escape(facts[fact] or '(none)')}: \S+\.(toml|json|jsonc|ya?ml)", said, re.MULTILINE)
    }
    return Finding(facts, files=frozenset(files))
