"""Finds and records a stage's output by what went into it, and says in the log why it was found or not."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

from workers.pipeline.cache_key import cache_key, explain_miss
from workers.pipeline.stage import StageContext
from workers.snapshots.index import SnapshotIndex, SnapshotRecord
from workers.snapshots.store import Snapshot, SnapshotStore


class StageCache:
    """`kind` names the output ("dependencies"). Previews read production's records and write only their own."""

    def __init__(self, snapshots: SnapshotStore, index: SnapshotIndex, kind: str) -> None:
        self._snapshots = snapshots
        self._index = index
        self.kind = kind

    def find(self, context: StageContext, candidates: Sequence[Mapping[str, str]]) -> SnapshotRecord | None:
        """The output of the first set of components that has one. The last set explains a miss."""
        deployment = context.deployment
        if deployment.clean:
            context.log.system(f"The cache of {self.kind} is not used: a clean deployment was asked for.")
            return None
        scopes = _scopes(context)
        for components in candidates:
            record = self._index.find(deployment.tenant_id, scopes, self.kind, cache_key(components))
            if record is None:
                continue
            if self._snapshots.exists(deployment.tenant_id, record.digest):
                self._index.touch(deployment.tenant_id, record)
                context.log.system(f"Cached {self.kind} used ({record.digest[:12]}): {_summary(components)}.")
                return record
            self._index.forget(deployment.tenant_id, record)
        latest = self._index.latest(deployment.tenant_id, scopes, self.kind, _group(context))
        reason = explain_miss(candidates[-1], _comparable(candidates[-1], latest))
        context.log.system(f"No cached {self.kind}: {reason}.")
        return None

    def own(self, context: StageContext, components: Mapping[str, str]) -> SnapshotRecord | None:
        """The record that `record` would replace."""
        scope = _scopes(context)[0]
        return self._index.find(context.deployment.tenant_id, [scope], self.kind, cache_key(components))

    def beyond(self, context: StageContext, count: int) -> list[SnapshotRecord]:
        """The records of this project and target except the `count` that were made or used last."""
        return self._index.beyond(context.deployment.tenant_id, _scopes(context)[0], self.kind, count)

    def record(
        self, context: StageContext, components: Mapping[str, str], snapshot: Snapshot, output: Mapping[str, object]
    ) -> None:
        deployment = context.deployment
        self._index.record(
            tenant_id=deployment.tenant_id,
            scope=_scopes(context)[0],
            kind=self.kind,
            key=cache_key(components),
            group=_group(context),
            digest=snapshot.digest,
            size_bytes=snapshot.size_bytes,
            components=components,
            output=output,
        )


def variable_components(variables: Mapping[str, str], key: bytes) -> dict[str, str]:
    """Values are compared, never shown: a plain digest of a short secret could be guessed from the record."""
    return {
        f"variable {name}": hmac.new(key, f"{name}={value}".encode(), hashlib.sha256).hexdigest()
        for name, value in sorted(variables.items())
    }


def _comparable(components: Mapping[str, str], latest: SnapshotRecord | None) -> Mapping[str, str] | None:
    """A record that doesn't depend on the source is no worse for that: the difference explains nothing."""
    if latest is None:
        return None
    if "source" in components and "source" not in latest.components:
        return {**latest.components, "source": components["source"]}
    return latest.components


def _scopes(context: StageContext) -> list[str]:
    """Its own first."""
    production = f"{context.deployment.project_id}/production"
    return [f"{context.deployment.project_id}/preview", production] if context.deployment.is_preview else [production]


def _group(context: StageContext) -> str:
    return f"{context.deployment.project_id}/{context.deployment.root_directory}"


def _summary(components: Mapping[str, str]) -> str:
    names = [name.replace("_", " ") for name in components if not name.startswith("variable ")]
    return f"{', '.join([*names, 'variables'] if len(names) < len(components) else names)} unchanged"
