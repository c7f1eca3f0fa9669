"""The install and build stages one after another, with the real sandbox, object store and database."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Generator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from shared.db.database import Database
from shared.deployments.state import SiteRuntime, Stage
from shared.plans import Plan, limits_of
from shared.settings import NetworkSettings, ObjectStoreSettings, PythonSettings, Settings
from shared.storage.base import ArtifactStore
from shared.storage.keys import snapshot_key
from shared.storage.object_store import S3ArtifactStore
from tests.support.repositories import write_site
from tests.support.stage_context import make_settings
from workers.commands.tool_repository import ToolRepository
from workers.commands.tools import ToolProvider
from workers.executors.base import (
    ExecutionResult,
    ExecutionSpec,
    Executor,
    LocalTree,
    OnOutput,
    Output,
    RunOutcome,
    StoredTree,
    Trees,
)
from workers.executors.bubblewrap.executor import BubblewrapExecutor
from workers.executors.toolchain import Toolchain
from workers.filesystem.trees import remove_tree
from workers.pipeline.stage import DeploymentView, StageContext, StageInputs, StageResult
from workers.reading.reader import ContentReader
from workers.snapshots.index import SnapshotIndex
from workers.snapshots.store import SnapshotStore
from workers.stages.build.stage import BuildStage
from workers.stages.install.stage import InstallStage

TENANT = "tenant_test"


@dataclass
class RecordedLog:
    lines: list[str] = field(default_factory=list)
    output: bytes = b""

    def write(self, stream: Literal["stdout", "stderr"], data: bytes) -> None:
        assert stream in ("stdout", "stderr")
        self.output += data

    def system(self, text: str) -> None:
        self.lines.append(text)

    @property
    def text(self) -> str:
        return "\n".join(self.lines) + "\n" + self.output.decode(errors="replace")


DEPLOYMENT = DeploymentView(
    allows_files=True,
    # It names the sandboxes: two runs of the tests on one machine must not end each other's.
    id=f"depl_{secrets.token_hex(4)}",
    tenant_id=TENANT,
    project_id="proj_1",
    project_slug="sample",
    repository_url="https://example.invalid/sample.git",
    branch="main",
    commit_sha="1" * 40,
    root_directory=".",
    framework=None,
    install_command=None,
    build_command=None,
    output_directory=None,
    node_version=None,
    build_network=None,
    is_preview=False,
    clean=False,
    runtime=SiteRuntime.FILES,
    replicas=1,
    if_changed=False,
    host="sample",
    release_sequence=1,
)


class StoringExecutor:
    """Runs on this host and answers as an executor elsewhere does: with digests of what it has stored."""

    def __init__(self, executor: Executor, snapshots: SnapshotStore) -> None:
        self._executor = executor
        self._snapshots = snapshots

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        result = self._executor.run(spec, trees, on_output, cancel)
        if result.outcome not in (RunOutcome.SUCCESS, RunOutcome.USER_ERROR):
            return result
        return replace(result, outputs={output.name: self._store(output, result) for output in spec.outputs})

    def _store(self, output: Output, result: ExecutionResult) -> StoredTree:
        tree = result.outputs[output.name]
        assert isinstance(tree, LocalTree)
        snapshot = self._snapshots.save(output.owner, tree.path)
        return StoredTree(output.owner, snapshot.digest, snapshot.size_bytes)


class Pipeline:
    """Install and build of sites, one after another, as one host would do them."""

    def __init__(
        self, directory: Path, executor: Executor, snapshots: SnapshotStore, index: SnapshotIndex,
        toolchain: Toolchain, settings: Settings, tools: ToolProvider, store: ArtifactStore, database: Database,
    ) -> None:  # fmt: skip
        self._directory = directory
        self._store = store
        self._database = database
        self._count = 0
        self.snapshots = snapshots
        self.log = RecordedLog()
        self.install_log = RecordedLog()
        self.cancelled = threading.Event()
        self.limits = replace(limits_of(Plan.FREE), stage_timeout_seconds=900)
        build = BuildStage(
            executor,
            snapshots,
            index,
            toolchain,
            sites=settings.sites,
            limits=settings.limits,
            secrets=settings.secrets,
            network=settings.network,
        )
        self.build_cache = build.build_cache
        install = InstallStage(
            executor,
            snapshots,
            index,
            toolchain,
            tools,
            ContentReader(),
            limits=settings.limits,
            secrets=settings.secrets,
        )
        self.downloads = install.installer.downloads
        self._stages = {
            Stage.INSTALL: install,
            Stage.BUILD: build,
        }

    def digests(self, kind: str, scope: str = "proj_1/production") -> list[str]:
        """Of the snapshots that are recorded, the one made or used last first."""
        query = "SELECT digest FROM snapshots WHERE kind = %(kind)s AND scope = %(scope)s ORDER BY last_used_at DESC"
        return self._database.fetch_values(str, query, {"kind": kind, "scope": scope})

    def forget_tool(self, digest: str) -> None:
        """The object store loses a tool's snapshot."""
        self._store.delete(snapshot_key("tools", digest))

    def fresh_directory(self) -> Path:
        self._count += 1
        directory = self._directory / f"run-{self._count}"
        directory.mkdir(parents=True)
        return directory

    def run_stage(
        self, stage: Stage, inputs: Mapping[Stage, Any], deployment: DeploymentView, variables: Mapping[str, str]
    ) -> StageResult:
        self.log = RecordedLog()
        context = StageContext(
            deployment, self.limits, self.fresh_directory(), StageInputs(inputs), self.log, self.cancelled, 1, variables
        )
        return self._stages[stage].run(context)

    def install(
        self, site: Mapping[str, str | bytes] | str, *, links: Mapping[str, str] | None = None, **settings: Any
    ) -> StageResult:
        """`links`: path of a symbolic link in the source, and what it leads to. `variables` among the settings are
        those that the stage gets."""
        variables = settings.pop("variables", {})
        source = self.fresh_directory() / "source"
        source.mkdir()
        write_site(source, site)
        for path, target in (links or {}).items():
            (source / path).symlink_to(target)
        digest = self.snapshots.save(TENANT, source).digest
        inputs = {Stage.CLONE: {"source": digest}}
        try:
            return self.run_stage(Stage.INSTALL, inputs, replace(DEPLOYMENT, **settings), variables)
        finally:
            self.install_log = self.log

    def build(self, installed: StageResult, variables: Mapping[str, str] | None = None, **settings: Any) -> StageResult:
        # The output of a stage goes through the database as JSON.
        inputs = {Stage.INSTALL: json.loads(msgspec.json.encode(installed.output))}
        return self.run_stage(Stage.BUILD, inputs, replace(DEPLOYMENT, **settings), variables or {})

    def run(
        self,
        site: Mapping[str, str | bytes] | str,
        variables: Mapping[str, str] | None = None,
        *,
        links: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> dict[str, str]:
        """The site's files by path, without symbolic links. `links`: as of `install`."""
        built = self.build(self.install(site, links=links, **settings), variables, **settings)
        with self.snapshots.attach(TENANT, built.output.output) as tree:
            return {
                path.relative_to(tree).as_posix(): path.read_text(errors="replace")
                for path in sorted(tree.rglob("*"))
                if path.is_file() and not path.is_symlink()
            }


@contextmanager
def open_pipeline(
    directory: Path,
    toolchain: Toolchain,
    database: Database,
    store: ObjectStoreSettings,
    network: NetworkSettings = NetworkSettings(),  # noqa: B008 - it can't be changed
    *,
    stores_outputs: bool = False,
    python: PythonSettings = PythonSettings(),  # noqa: B008 - it can't be changed
) -> Generator[Pipeline]:
    """Everything it makes is below `directory`, and deleted at the end. `stores_outputs`: see StoringExecutor."""
    settings = make_settings(directory, store, network=network, secret_key=b"k" * 32)
    with database.transaction() as connection:
        connection.execute("INSERT INTO tenants (id, name) VALUES (%s, 'Tests')", [TENANT])
    artifacts = S3ArtifactStore(store)
    snapshots = SnapshotStore(artifacts, directory / "cache", maximum_bytes=2**32)
    executor: Executor = BubblewrapExecutor.for_host(network, directory / "runtime", toolchain)
    if stores_outputs:
        executor = StoringExecutor(executor, snapshots)  # type: ignore[assignment]
    tools = ToolProvider(executor, snapshots, ToolRepository(database), toolchain, python)
    with closing(snapshots):
        pipeline = Pipeline(
            directory / "work",
            executor,
            snapshots,
            SnapshotIndex(database),
            toolchain,
            settings,
            tools,
            artifacts,
            database,
        )
        yield pipeline
        pipeline.build_cache.settle()
        pipeline.downloads.settle()
    remove_tree(directory / "work")
    remove_tree(directory / "cache")
