"""The status changes of a tenant's deployments as one sequence, written in the same transaction as the log entries.

Locks are always taken in the order deployment, head of its log, head of its tenant, and nothing is locked after that,
so writers can't deadlock. The tenant's head stays locked until the commit, so commit order equals sequence order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import msgspec

from schemas.logs import LogEnd, LogEntry, LogStatus
from shared.db.database import Connection, Database

KEPT_HOURS = 24
KEPT_EVENTS = 10_000

# Reads the project and the tenant, takes the numbers and inserts in one round trip, for any number of changes.
_RECORD = """
  WITH changed AS (
    SELECT tenant_id, project_id, is_preview FROM deployments WHERE id = %(id)s
  ), head AS (
    INSERT INTO account_event_heads AS h (tenant_id, next_seq)
    SELECT tenant_id, 1 + %(count)s FROM changed
    ON CONFLICT (tenant_id) DO UPDATE SET next_seq = h.next_seq + %(count)s
    RETURNING tenant_id, next_seq
  )
  INSERT INTO account_events (tenant_id, seq, deployment_id, project_id, is_preview, payload, created_at)
  SELECT head.tenant_id, head.next_seq - %(count)s - 1 + change.place, %(id)s, changed.project_id, changed.is_preview,
    change.payload, clock_timestamp()
  FROM head, changed, unnest(%(payloads)s::text[]) WITH ORDINALITY AS change (payload, place)"""
_HEADS = "SELECT tenant_id, next_seq - 1 AS last_seq FROM account_event_heads WHERE tenant_id = ANY(%(tenants)s)"
# One statement, so heads and events are from one snapshot: an event missing below a head is deleted, not late.
_READ = """
  SELECT h.tenant_id, h.next_seq - 1 AS last_seq, COALESCE(e.seq, 0) AS seq,
    COALESCE(e.deployment_id, '') AS deployment_id, COALESCE(e.project_id, '') AS project_id,
    COALESCE(e.is_preview, false) AS is_preview, COALESCE(e.payload, '') AS payload
  FROM unnest(%(tenants)s::text[], %(positions)s::bigint[]) AS asked (tenant_id, position)
  JOIN account_event_heads h ON h.tenant_id = asked.tenant_id AND h.next_seq - 1 > asked.position
  LEFT JOIN LATERAL (
    SELECT * FROM account_events
    WHERE tenant_id = asked.tenant_id AND seq > asked.position ORDER BY seq LIMIT %(limit)s
  ) e ON true
  ORDER BY h.tenant_id, e.seq"""
# The remaining events of a tenant have no gaps, even if clocks were set back.
_DELETE_EXPIRED = """
  WITH bound AS (
    SELECT h.tenant_id, GREATEST(
      h.next_seq - 1 - %(events)s,
      (SELECT max(e.seq) FROM account_events e
       WHERE e.tenant_id = h.tenant_id AND e.created_at <= now() - make_interval(hours => %(hours)s))) AS seq
    FROM account_event_heads h
  )
  DELETE FROM account_events e USING bound WHERE e.tenant_id = bound.tenant_id AND e.seq <= bound.seq"""


class StatusChange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A change as it is stored.

    `ts` is Unix time in milliseconds, `error` is {"code", "stage", "message"}, `ignored` why nothing was built.
    """

    status: str
    stage: str | None = None
    attempt: int | None = None
    ts: int
    url: str | None = None
    error: dict[str, str | None] | None = None
    ignored: str | None = None


class _TenantHead(msgspec.Struct, frozen=True):
    tenant_id: str
    last_seq: int


class _EventRow(msgspec.Struct, frozen=True):
    """A tenant's head and one of its events; `seq` is 0 where all of them have been deleted."""

    tenant_id: str
    last_seq: int
    seq: int
    deployment_id: str
    project_id: str
    is_preview: bool
    payload: str


@dataclass(frozen=True, slots=True)
class AccountEvent:
    """One change of one deployment. `seq` counts the changes of the tenant."""

    tenant_id: str
    seq: int
    deployment_id: str
    project_id: str
    is_preview: bool
    change: StatusChange


@dataclass(frozen=True, slots=True)
class AccountPage:
    """Events of one tenant in order. `last_seq` was its newest number in the same snapshot.

    Numbers missing up to `last_seq`, or up to the last event of a full page, have been deleted.
    """

    last_seq: int
    events: Sequence[AccountEvent]


def changes_of(entries: Sequence[LogEntry]) -> list[StatusChange]:
    """The changes in entries of a log. An end and the status directly before it are one change."""
    changes: list[StatusChange] = []
    is_status_before = False
    for entry in entries:
        match entry:
            case LogStatus():
                changes.append(
                    StatusChange(status=entry.status, stage=entry.stage, attempt=entry.attempt, ts=entry.timestamp)
                )
            case LogEnd():
                if is_status_before and changes[-1].status == entry.status:
                    changes.pop()
                changes.append(
                    StatusChange(
                        status=entry.status,
                        ts=entry.timestamp,
                        url=entry.url,
                        error=entry.error,
                        ignored=entry.ignored,
                    )
                )
            case _:
                pass
        is_status_before = isinstance(entry, LogStatus)
    return changes


def tells_of_change(entries: Sequence[LogEntry]) -> bool:
    return any(isinstance(entry, LogStatus | LogEnd) for entry in entries)


def record_changes(connection: Connection, deployment_id: str, entries: Sequence[LogEntry]) -> None:
    """Appends the entries' changes to the sequence of the deployment's tenant, in the caller's transaction.

    The caller holds the lock on the head of the deployment's log, and must lock nothing afterwards.
    """
    if not tells_of_change(entries):
        return
    payloads = [msgspec.json.encode(change).decode() for change in changes_of(entries)]
    connection.execute(_RECORD, {"id": deployment_id, "count": len(payloads), "payloads": payloads})


class AccountEventStore:
    """Reads the sequences. Safe from any thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._decoder = msgspec.json.Decoder(StatusChange)

    def heads(self, tenant_ids: Sequence[str]) -> dict[str, int]:
        """The newest number of each tenant, 0 where nothing has happened yet."""
        rows = self._database.fetch_all(_TenantHead, _HEADS, {"tenants": list(tenant_ids)})
        return dict.fromkeys(tenant_ids, 0) | {row.tenant_id: row.last_seq for row in rows}

    def read(self, positions: Mapping[str, int], *, limit: int) -> dict[str, AccountPage]:
        """For each tenant at most `limit` events above its position. Tenants without new events are left out."""
        parameters = {"tenants": list(positions), "positions": list(positions.values()), "limit": limit}
        rows = self._database.fetch_all(_EventRow, _READ, parameters)
        return {
            tenant_id: self._page(list(of_tenant))
            for tenant_id, of_tenant in groupby(rows, key=lambda row: row.tenant_id)
        }

    def delete_expired(self, *, kept_hours: int = KEPT_HOURS, kept_events: int = KEPT_EVENTS) -> int:
        """Removes what is older than `kept_hours` and more than the newest `kept_events` of a tenant; for a periodic
        job. Returns how many."""
        parameters = {"hours": kept_hours, "events": kept_events}
        with self._database.transaction() as connection:
            return connection.execute(_DELETE_EXPIRED, parameters).rowcount

    def _page(self, rows: list[_EventRow]) -> AccountPage:
        # Where everything has been deleted, the one row has the head and no event.
        return AccountPage(rows[0].last_seq, [self._event(row) for row in rows if row.seq > 0])

    def _event(self, row: _EventRow) -> AccountEvent:
        return AccountEvent(
            tenant_id=row.tenant_id,
            seq=row.seq,
            deployment_id=row.deployment_id,
            project_id=row.project_id,
            is_preview=row.is_preview,
            change=self._decoder.decode(row.payload),
        )
