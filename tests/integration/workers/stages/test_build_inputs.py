"""The build stage's inputs between its runs, while other workers use the same cache."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from shared.db.database import Database
from shared.deployments.state import Stage
from shared.settings import LimitSettings, NetworkSettings, SecretSettings, SiteSettings
from tests.support.artifact_stores import MemoryArtifactStore
from tests.support.repositories import write_site
from tests.support.stage_context import TENANT, add_project, add_tenant, make_context
from workers.executors.attachments import attached
from workers.executors.base import ExecutionResult, ExecutionSpec, OnOutput, RunOutcome, StoredTree, Trees
from workers.executors.toolchain import Toolchain
from workers.frameworks.detection import Detection
from workers.pipeline.table import InstallOutput
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.build.stage import BuildStage

pytestmark = pytest.mark.integration

DETECTION = Detection(
    framework="static",
    package_manager=None,
    root_directory=".",
    install_directory=".",
    install_command=None,
    build_command="make",
    output_directories=("dist",),
    lockfile=None,
    runtime="node",
    node_version=None,
    python_version=None,
    is_custom_install=False,
    reasons=(),
)


class LocalExecutor:
    """Attaches the trees, writes a page to each output instead of running the command, and calls `after_run`."""

    def __init__(self, after_run: Callable[[], None]) -> None:
        self._after_run = after_run
        self.layers: list[list[str]] = []

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        with attached(spec, trees) as attachments:
            assert attachments.overlay is not None
            self.layers.append([path.name for path in attachments.overlay.layers])
            for output in attachments.outputs.values():
                (output.path / "index.html").write_text("<h1>Site</h1>")
        self._after_run()
        return ExecutionResult(RunOutcome.SUCCESS, 0, "", 0.0, None, outputs=attachments.outputs)


class RemoteExecutor:
    """Attaches nothing on this host, and answers with what it has stored."""

    def __init__(self, output: StoredTree) -> None:
        self._output = output

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        outputs = {output.name: self._output for output in spec.outputs}
        return ExecutionResult(RunOutcome.SUCCESS, 0, "", 0.0, None, outputs=outputs)


class Host:
    """A host's cache of snapshots, which two workers share, and a build with a source and dependencies."""

    def __init__(self, directory: Path, database: Database, snapshots: SnapshotStore, other: SnapshotStore) -> None:
        self._directory = directory
        self._database = database
        self.snapshots = snapshots
        self.other = other
        self.source = self.save("source", {"index.md": "# Site"})
        self.dependencies = self.save("dependencies", {"node_modules/a/index.js": "1"})

    def save(self, name: str, site: dict[str, str | bytes]) -> str:
        directory = self._directory / name
        directory.mkdir()
        write_site(directory, site)
        return self.snapshots.save(TENANT, directory).digest

    def is_cached(self, digest: str) -> bool:
        return (self._directory / "cache" / "trees" / TENANT / digest).is_dir()

    def build(self, executor: LocalExecutor | RemoteExecutor) -> str:
        stage = BuildStage(
            executor,  # type: ignore[arg-type]
            self.snapshots,
            SnapshotIndex(self._database),
            Toolchain.discover(),
            sites=SiteSettings(),
            limits=LimitSettings(),
            secrets=SecretSettings(secret_key=b"k" * 32, encryption_keys={}),
            network=NetworkSettings(),
        )
        installed = InstallOutput(source=self.source, dependencies=self.dependencies, detection=DETECTION)
        recorded = msgspec.to_builtins(installed)
        return stage.run(make_context(self._directory / "run", inputs={Stage.INSTALL: recorded})).output.output


@pytest.fixture
def host(tmp_path: Path, database: Database) -> Iterator[Host]:
    add_tenant(database)
    add_project(database)
    objects = MemoryArtifactStore()
    with (
        closing(SnapshotStore(objects, tmp_path / "cache", maximum_bytes=2**30)) as snapshots,
        closing(SnapshotStore(objects, tmp_path / "cache", maximum_bytes=2**30)) as other,
    ):
        yield Host(tmp_path, database, snapshots, other)


def test_a_finished_build_is_collected_though_another_worker_deletes_its_inputs(host: Host) -> None:
    """From the object store and, were they not in use, from the host's cache."""

    def delete_inputs() -> None:
        for digest in (host.source, host.dependencies):
            host.other.delete(TENANT, digest)

    executor = LocalExecutor(delete_inputs)
    output = host.build(executor)
    inputs = [host.source, host.dependencies]
    assert [layers[:2] for layers in executor.layers] == [inputs, inputs]
    with host.snapshots.attach(TENANT, output) as tree:
        assert (tree / "index.html").is_file()


def test_the_inputs_can_be_evicted_after_the_build(host: Host) -> None:
    host.build(LocalExecutor(lambda: None))
    for digest in (host.source, host.dependencies):
        host.other.delete(TENANT, digest)
        assert not host.is_cached(digest)


def test_dependencies_are_not_unpacked_here_for_an_executor_on_another_host(host: Host) -> None:
    output = host.save("output", {"index.html": "<h1>Site</h1>"})
    host.other.delete(TENANT, host.dependencies)
    assert host.build(RemoteExecutor(StoredTree(TENANT, output))) == output
    assert not host.is_cached(host.dependencies)
