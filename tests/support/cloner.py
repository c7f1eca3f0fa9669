"""The clone stage of one host, its snapshots and its log."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.db.database import Database
from shared.deployments.branch_repository import BranchRepository
from shared.deployments.former_repository import FormerDeploymentRepository
from shared.errors import StageFailure
from shared.projects.credential_repository import RepositoryCredentialRepository
from shared.settings import NetworkSettings, ObjectStoreSettings
from shared.storage.object_store import S3ArtifactStore
from tests.support.repositories import git
from tests.support.stage_context import TENANT, RecordedLog, make_context, make_settings
from workers.executors.cgroups import ControlGroups
from workers.pipeline.stage import StageContext, StageResult
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.clone.ignored import IgnoredBuilds
from workers.stages.clone.session import CloneSessions
from workers.stages.clone.stage import CloneStage


class Cloner:
    def __init__(
        self,
        directory: Path,
        database: Database,
        store: ObjectStoreSettings,
        *,
        allow_local: bool,
        control_groups: ControlGroups | None = None,
        **network: Any,
    ) -> None:
        self.store = S3ArtifactStore(store)
        self.snapshots = SnapshotStore(self.store, directory / "cache", maximum_bytes=1 << 30)
        if allow_local:
            network = {"egress_allowed_networks": ("127.0.0.0/8",)} | network
        settings = make_settings(directory, store, network=NetworkSettings(**network))
        ignored = IgnoredBuilds(FormerDeploymentRepository(database))
        self.host_keys = RepositoryCredentialRepository(database)
        self.sessions = CloneSessions(settings, self.host_keys, control_groups)
        index = SnapshotIndex(database)
        branches = BranchRepository(database)
        self.stage = CloneStage(self.snapshots, index, settings, ignored, self.host_keys, branches, control_groups)
        self.directory = directory
        self.allow_local = allow_local
        self.numbers = itertools.count(1)
        self.log = RecordedLog()

    def context(self, url: str, **values: Any) -> StageContext:
        values = {"allows_files": self.allow_local} | values
        context = make_context(self.directory / f"run-{next(self.numbers)}", url, **values)
        assert isinstance(context.log, RecordedLog)
        self.log = context.log
        return context

    def clone(self, url: str, **values: Any) -> StageResult:
        return self.stage.run(self.context(url, **values))

    def failure(self, url: str, **values: Any) -> StageFailure:
        with pytest.raises(StageFailure) as caught:
            self.clone(url, **values)
        return caught.value

    def files(self, result: StageResult) -> dict[str, bytes]:
        with self.snapshots.attach(TENANT, result.output.source) as tree:
            return {str(path.relative_to(tree)): path.read_bytes() for path in tree.rglob("*") if path.is_file()}


MakeCloner = Callable[..., Cloner]


def add_submodule(directory: Path, url: str, sha: str, path: str = "theme") -> None:
    (directory / ".gitmodules").write_text(f'[submodule "t"]\n\tpath = {path}\n\turl = {url}\n')
    git(directory, "update-index", "--add", "--cacheinfo", f"160000,{sha},{path}")
    git(directory, "add", ".gitmodules")
    git(directory, "commit", "--quiet", "-m", "Add a submodule")
