"""Files that go from one deployment of a project to the next, by a key that names what they fit.

Best effort: without them a deployment gives the same result, only later, so that no error here fails one.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog

from shared.errors import PlatformError, StageFailure
from workers.pipeline.stage import StageContext
from workers.pipeline.stage_cache import StageCache
from workers.snapshots.index import SnapshotIndex, SnapshotRecord
from workers.snapshots.store import Snapshot, SnapshotMissing, SnapshotStore

# A project's variable: with "off", every deployment starts without files of earlier ones.
SWITCH = "CLOUDIFY_BUILD_CACHE"

_log = structlog.get_logger(__name__)


def is_switched_off(context: StageContext) -> bool:
    return context.variables.get(SWITCH, "").lower() == "off"


@dataclass(frozen=True, slots=True)
class CarriedTree:
    """The files of an earlier deployment. `path`: on this host, pinned for the block."""

    record: SnapshotRecord
    path: Path


class CarriedFiles:
    """Safe between threads. Previews read production's files and write only their own, as `StageCache` has it."""

    def __init__(
        self, snapshots: SnapshotStore, index: SnapshotIndex, kind: str, *, maximum_bytes: int, maximum_count: int
    ) -> None:
        """More than `maximum_bytes` isn't kept: the next deployment starts without files. `maximum_count`: how many
        keys a project keeps files for; the least recently used go first.
        """
        self._snapshots = snapshots
        self._index = index
        self._maximum_bytes = maximum_bytes
        self._maximum_count = maximum_count
        self._records = StageCache(snapshots, index, kind)

    @contextmanager
    def attached(self, context: StageContext, components: Mapping[str, str]) -> Generator[CarriedTree | None]:
        """The files for this key; None where there are none, or where they aren't available at the moment."""
        tenant_id = context.deployment.tenant_id
        record = self._records.find(context, [components])
        with ExitStack() as stack:
            found = None
            if record is not None:
                try:
                    found = CarriedTree(record, stack.enter_context(self._snapshots.attach(tenant_id, record.digest)))
                except SnapshotMissing as missing:
                    context.log.system(f"They are not available: {missing}")
                    self._index.forget(tenant_id, record)
                except (OSError, PlatformError) as error:
                    context.log.system("They are not available at the moment; the command runs without them.")
                    _log.warning(
                        "carried_files.not_attached",
                        kind=self._records.kind,
                        deployment_id=context.deployment.id,
                        error=str(error),
                    )
            yield found

    def save(self, context: StageContext, components: Mapping[str, str], directory: Path) -> None:
        """Stores the directory, which is gone afterwards, in place of the former files. Raises PlatformError."""
        tenant_id = context.deployment.tenant_id
        try:
            snapshot = self._snapshots.save(tenant_id, directory, maximum_bytes=self._maximum_bytes)
        except StageFailure as failure:
            _log.info(
                "carried_files.not_kept",
                kind=self._records.kind,
                deployment_id=context.deployment.id,
                reason=failure.message,
            )
            former = self._records.own(context, components)
            if former is not None:
                self._index.forget(tenant_id, former)
                self._delete_unused(tenant_id, former)
        else:
            self.record(context, components, snapshot)

    def record(self, context: StageContext, components: Mapping[str, str], snapshot: Snapshot) -> None:
        """Puts a stored snapshot in place of the former files."""
        tenant_id = context.deployment.tenant_id
        former = self._records.own(context, components)
        self._records.record(context, components, snapshot, {})
        if former is not None and former.digest != snapshot.digest:
            self._delete_unused(tenant_id, former)
        for excess in self._records.beyond(context, self._maximum_count):
            self._index.forget(tenant_id, excess)
            self._delete_unused(tenant_id, excess)

    def _delete_unused(self, tenant_id: str, record: SnapshotRecord) -> None:
        if not self._index.is_referenced(tenant_id, record.digest):
            self._snapshots.delete(tenant_id, record.digest)
