"""`python -m tests.corpus [run|report|detection]`: deploys the corpus, prints former results, compares detections.

What it writes is in build/corpus: `results.jsonl`, of which the last line about a row counts, `logs/` and the mirrors
that it cloned. Rows that have a result are left out, unless they are named.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from pathlib import Path

import msgspec

from tests.corpus import detection, report
from tests.corpus.deployments import Result, deploy_row
from tests.corpus.repositories import Copy, find_mirror
from tests.corpus.table import Row, choose, read_table
from tests.support.repositories import ROOT
from tests.support.running_platform import Platform

_DIRECTORY = ROOT / "build" / "corpus"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("command", nargs="?", choices=("run", "report", "detection"), default="run")
    parser.add_argument("--rows", default="", help="names with commas between them; all rows unless given")
    parser.add_argument("--mirrors", type=Path, help="a folder with bare mirrors by OWNER+NAME")
    parser.add_argument("--pythons", default="", help="a folder of Pythons by their versions, for builds")
    parser.add_argument("--directory", type=Path, default=_DIRECTORY, help="where results are written")
    options = parser.parse_args()
    rows = choose(read_table(), options.rows)
    options.directory.mkdir(parents=True, exist_ok=True)
    if options.command == "detection":
        with tempfile.TemporaryDirectory(prefix="cloudify-corpus-") as name:
            copies = ((row, _copy(row, options, Path(name))) for row in rows)
            raise SystemExit(detection.compare(copies, Path(name)))
    if options.command == "run":
        done = _read(options.directory)
        _run([row for row in rows if options.rows or row.name not in done], options)
    results = _read(options.directory)
    print(report.head())
    for row in rows:
        if row.name in results:
            print("\n".join([report.line(row, results[row.name]), *report.details(row, results[row.name])]))
    print(report.summary(rows, results))


def _run(rows: list[Row], options: argparse.Namespace) -> None:
    """Deploys row after row on one platform."""
    if not rows:
        return
    logs = options.directory / "logs"
    logs.mkdir(exist_ok=True)
    revision = subprocess.check_output(["git", "describe", "--always", "--dirty"], cwd=ROOT, text=True).strip()
    with tempfile.TemporaryDirectory(prefix="cloudify-corpus-") as name:
        platform = Platform(Path(name) / "home", PYTHON_DIRECTORY=options.pythons)
        platform.start()
        try:
            for row in rows:
                result = deploy_row(platform, row, _copy(row, options, Path(name)), revision, logs)
                with (options.directory / "results.jsonl").open("ab") as results:
                    results.write(msgspec.json.encode(result) + b"\n")
                print("\n".join([report.line(row, result), *report.details(row, result)]), flush=True)
        finally:
            platform.close()


def _copy(row: Row, options: argparse.Namespace, scratch: Path) -> Copy:
    mirror = find_mirror(row, options.mirrors, options.directory / "mirrors")
    return Copy(row, mirror.absolute(), scratch / "repositories" / row.name)


def _read(directory: Path) -> dict[str, Result]:
    results = directory / "results.jsonl"
    lines = results.read_bytes().splitlines() if results.exists() else []
    return {result.name: result for result in (msgspec.json.decode(line, type=Result) for line in lines)}


if __name__ == "__main__":
    main()
