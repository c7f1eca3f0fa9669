"""Fixtures that the tests of the clone stage share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from shared.db.database import Database
from shared.settings import ObjectStoreSettings
from tests.support.cloner import Cloner, MakeCloner
from tests.support.git_server import GitServer, serving
from tests.support.stage_context import add_tenant


@pytest.fixture
def make_cloner(tmp_path: Path, database: Database, object_store_settings: ObjectStoreSettings) -> Iterator[MakeCloner]:
    add_tenant(database)
    made: list[Cloner] = []

    def make(*, allow_local: bool = True, **network: Any) -> Cloner:
        directory = tmp_path / f"host-{len(made)}"
        made.append(Cloner(directory, database, object_store_settings, allow_local=allow_local, **network))
        return made[-1]

    yield make
    for cloner in made:
        cloner.snapshots.close()


@pytest.fixture
def cloner(make_cloner: MakeCloner) -> Cloner:
    return make_cloner()


@pytest.fixture
def http(tmp_path: Path) -> Iterator[GitServer]:
    root = tmp_path / "served"
    root.mkdir()
    with serving(root) as server:
        yield server
