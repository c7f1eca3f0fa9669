"""The ordered log of route changes in PostgreSQL, from which every site router derives what it serves.

A change gets its number under the lock of the log's row, which its transaction keeps until it commits. So the order of
numbers is the order of commits, and a reader that has seen a number has seen all smaller ones. Append last in a
transaction: until it ends, nobody else can append.
"""

from __future__ import annotations

from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.db.rows import columns_of
from shared.routing.changes import ChangeKind, NumberedChange, Position, Route, RouteChange, SiteArtifact, Snapshot
from shared.tracing import current_traceparent

# Kept for routers that were away for a short time; others start from the snapshot.
_KEPT_CHANGES = 1000

_TAKE_NUMBERS = "UPDATE route_log SET last_number = last_number + %(count)s RETURNING last_number"

_INSERT = """
INSERT INTO route_changes (number, kind, host, deployment_id, fetcher, traceparent)
VALUES (%(number)s, %(kind)s, %(host)s, %(deployment_id)s, %(fetcher)s, %(traceparent)s)
"""

_SET_ROUTE = """
INSERT INTO routes (host, deployment_id, number) VALUES (%(host)s, %(deployment_id)s, %(number)s)
ON CONFLICT (host) DO UPDATE SET deployment_id = EXCLUDED.deployment_id, number = EXCLUDED.number
"""

_SET_ARTIFACT = """
INSERT INTO route_artifacts (deployment_id, tenant_id, manifest_digest, is_preview, pods_address)
VALUES (%(deployment_id)s, %(tenant_id)s, %(manifest_digest)s, %(is_preview)s, %(pods_address)s)
ON CONFLICT (deployment_id) DO UPDATE SET
  manifest_digest = EXCLUDED.manifest_digest, pods_address = EXCLUDED.pods_address
"""

# Before the route changes: which deployment the host serves no longer, and since when.
_LEAVE = """
UPDATE route_artifacts SET left_at = now()
WHERE deployment_id = (SELECT deployment_id FROM routes WHERE host = %(host)s)
  AND deployment_id IS DISTINCT FROM %(deployment_id)s
"""

_SINCE: LiteralString = f"""
SELECT {columns_of(NumberedChange)} FROM route_changes WHERE number > %(number)s ORDER BY number LIMIT %(limit)s
"""  # noqa: S608 - constants only

# Behind the slowest router that was seen in the last ten minutes, and never the newest changes.
_COMPACT = """
UPDATE route_log SET compacted_number = GREATEST(compacted_number, LEAST(
  last_number - %(kept)s,
  COALESCE((
    SELECT min(applied_number) FROM routers
    WHERE seen_at > now() - interval '10 minutes' AND routers.epoch = route_log.epoch
  ), last_number)
))
RETURNING compacted_number
"""


class _Head(msgspec.Struct, frozen=True):
    epoch: str
    last_number: int
    compacted_number: int


class RouteLog:
    def __init__(self, database: Database) -> None:
        self._database = database

    # Writing

    def lock(self, connection: Connection) -> None:
        """Keeps others from appending until the transaction ends."""
        connection.execute("SELECT 1 FROM route_log FOR UPDATE")

    def append(self, connection: Connection, *changes: RouteChange) -> int:
        """Appends the changes and applies them to the snapshot. Returns the last number.

        A preparation goes through `prepare`, which also records the artifact.
        """
        last = connection.fetch_value(int, _TAKE_NUMBERS, {"count": len(changes)}) or 0
        for number, change in enumerate(changes, start=last - len(changes) + 1):
            parameters = msgspec.structs.asdict(change) | {"number": number, "traceparent": current_traceparent()}
            connection.execute(_INSERT, parameters)
            match change.kind:
                case ChangeKind.PREPARE:
                    pass
                case ChangeKind.ACTIVATE:
                    connection.execute(_LEAVE, parameters)
                    connection.execute(_SET_ROUTE, parameters)
                case ChangeKind.REMOVE:
                    connection.execute(_LEAVE, parameters)
                    connection.execute("DELETE FROM routes WHERE host = %(host)s", parameters)
                case ChangeKind.DISCARD:
                    connection.execute(
                        "DELETE FROM route_artifacts WHERE deployment_id = %(deployment_id)s", parameters
                    )
                    connection.execute(
                        "DELETE FROM router_preparations WHERE deployment_id = %(deployment_id)s", parameters
                    )
        return last

    def prepare(self, connection: Connection, host: str, artifact: SiteArtifact, *, fetcher: str | None) -> int:
        """Appends a preparation: routers fetch the artifact if they serve `host`, and `fetcher` in any case."""
        connection.execute(_SET_ARTIFACT, msgspec.structs.asdict(artifact))
        change = RouteChange(ChangeKind.PREPARE, host, artifact.deployment_id, fetcher)
        return self.append(connection, change)

    def compact(self) -> int:
        """Deletes changes that every live router has applied. Returns how many."""
        with self._database.transaction() as connection:
            number = connection.fetch_value(int, _COMPACT, {"kept": _KEPT_CHANGES}) or 0
            return connection.execute(
                "DELETE FROM route_changes WHERE number <= %(number)s", {"number": number}
            ).rowcount

    def renew_epoch(self, connection: Connection, epoch: str) -> None:
        """Makes every router start from the snapshot. For a database that was restored."""
        connection.execute("UPDATE route_log SET epoch = %(epoch)s", {"epoch": epoch})

    # Reading

    def position(self) -> Position:
        head = self._head_of(self._database)
        return Position(head.epoch, head.last_number)

    def since(self, position: Position, *, limit: int = 1000) -> list[NumberedChange] | None:
        """The changes after `position`, oldest first; None if they are not all kept: start from the snapshot."""
        with self._database.transaction() as connection:
            # Before the head, so that a compaction in between is noticed.
            changes = connection.fetch_all(NumberedChange, _SINCE, {"number": position.number, "limit": limit})
            head = self._head_of(connection)
        is_known = head.epoch == position.epoch and head.compacted_number <= position.number <= head.last_number
        return changes if is_known else None

    def snapshot(self) -> Snapshot:
        with self._database.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            head = self._head_of(connection)
            routes = connection.fetch_all(Route, "SELECT host, deployment_id FROM routes")
            artifacts = connection.fetch_all(SiteArtifact, f"SELECT {columns_of(SiteArtifact)} FROM route_artifacts")  # noqa: S608 - constants only
        return Snapshot(
            Position(head.epoch, head.last_number),
            {route.host: route.deployment_id for route in routes},
            {artifact.deployment_id: artifact for artifact in artifacts},
        )

    def find_artifact(self, deployment_id: str) -> SiteArtifact | None:
        """None if the deployment was discarded."""
        query: LiteralString = f"SELECT {columns_of(SiteArtifact)} FROM route_artifacts WHERE deployment_id = %(id)s"  # noqa: S608 - constants only
        return self._database.fetch_one(SiteArtifact, query, {"id": deployment_id})

    @staticmethod
    def _head_of(source: Database | Connection) -> _Head:
        head = source.fetch_one(_Head, "SELECT epoch, last_number, compacted_number FROM route_log")
        assert head is not None, "the migration inserts the row"
        return head
