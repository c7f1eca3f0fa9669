"""Which of several versions of PostgreSQL's programs is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.db import postgres_programs
from shared.db.postgres_programs import ProgramMissing, find_program


@pytest.fixture
def versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Debian's folder with 13, 15 and 17, and a program that doesn't run on PATH."""
    for version in ("13", "15", "17"):
        program = tmp_path / version / "bin" / "pg_dump"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho 'pg_dump (PostgreSQL) {version}.2 (Debian)'\n")
        program.chmod(0o755)
    broken = tmp_path / "path" / "pg_dump"
    broken.parent.mkdir()
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{broken.parent}:/bin:/usr/bin")
    monkeypatch.setattr(postgres_programs, "_DEBIAN", tmp_path)
    monkeypatch.setattr(postgres_programs, "wheel_programs", lambda: None)
    return tmp_path


@pytest.mark.parametrize(("server", "taken"), [(9, 13), (13, 13), (14, 15), (15, 15), (16, 17)])
def test_the_lowest_version_that_knows_the_server_is_taken(versions: Path, server: int, taken: int) -> None:
    program = find_program("pg_dump", least_major=server)
    assert (program.major, program.path) == (taken, versions / str(taken) / "bin" / "pg_dump")


def test_what_to_install_is_named(versions: Path) -> None:
    with pytest.raises(ProgramMissing, match=r"found are of version 13, 15, 17\. Install .*postgresql-client-18"):
        find_program("pg_dump", least_major=18)
