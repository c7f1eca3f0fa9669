"""What `cloudify env pull` writes is read alike by dotenv, Vite, Next.js and Node."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from api.cli.env_file import spelling
from tests.support.npm_programs import install_program

pytestmark = pytest.mark.integration

_PROGRAM = Path(__file__).parent / "env_file_readers"
# What means something to one of them, and what is around it.
_ALPHABET = "ab $'\"`\\#\n={}()-\té€n0_:;,!%&"
_FILES = 600
_TOOLS = {"dotenv", "node", "vite", "next"}


def read(command: list[str], files: list[str]) -> list[dict[str, dict[str, str]]]:
    done = subprocess.run(command, input=json.dumps(files), capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_value_that_is_spelled_is_read_alike(tmp_path: Path) -> None:
    command = install_program(_PROGRAM, tmp_path / "program", "read.mjs")
    # The same values each time: the tools are locked, so a difference is a change of ours.
    chosen = random.Random(20)
    wanted: list[dict[str, str]] = []
    for _ in range(_FILES):
        values = {name: "".join(chosen.choices(_ALPHABET, k=chosen.randint(0, 8))) for name in "XYZ"}
        wanted.append({name: value for name, value in values.items() if spelling(value) is not None})
    files = ["".join(f"{name}={spelling(value)}\n" for name, value in values.items()) for values in wanted]
    for values, file, found in zip(wanted, files, read(command, files), strict=True):
        assert found == dict.fromkeys(_TOOLS, values), file
    # Those that are refused really differ: as plain a spelling as can be is read in two ways.
    refused = ["a$b", "$1", "${a}", "\\$"]
    assert [spelling(value) for value in refused] == [None] * len(refused)
    for value, found in zip(refused, read(command, [f"X='{value}'\n" for value in refused]), strict=True):
        assert {tool: values["X"] for tool, values in found.items()} != dict.fromkeys(_TOOLS, value)
