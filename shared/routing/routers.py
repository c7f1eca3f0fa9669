"""Database access to the site routers: who is there, how far each one is, and what became of preparations there."""

from __future__ import annotations

import enum
from typing import LiteralString

import msgspec

from shared.db.database import Connection, Database
from shared.db.rows import columns_of

# A router reports each second. One that hasn't for so long isn't waited for.
LIVE_SECONDS = 10
_FORGOTTEN_AFTER = "1 day"


class PreparationOutcome(enum.StrEnum):
    READY = "ready"  # the router serves the files
    NOTED = "noted"  # it fetches them at the first request
    FAILED = "failed"  # it couldn't, for a reason of its own
    ARTIFACT_MISSING = "artifact_missing"  # the object store has lost a part


class RouterReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a router says of itself.

    `snapshot_number`: the change that its last snapshot ended with; it carries out no preparation up to that one.
    `problem`: why it can't serve, None while it can. `sites`: deployments on its disk.
    """

    id: str
    machine: str
    version: str
    url: str
    epoch: str
    applied_number: int
    snapshot_number: int
    problem: str | None
    sites: int


class RouterRow(msgspec.Struct, frozen=True, kw_only=True):
    """`silent_seconds`: since the last report, by the database's clock. `is_live`: that isn't long."""

    id: str
    machine: str
    version: str
    url: str
    epoch: str
    applied_number: int
    snapshot_number: int
    problem: str | None
    sites: int
    silent_seconds: float
    is_live: bool


class PreparationRow(msgspec.Struct, frozen=True):
    router_id: str
    number: int
    outcome: PreparationOutcome
    message: str | None


# The report is repeated each second and may be lost, so it doesn't wait for the disk.
_REPORT = """
INSERT INTO routers (id, machine, version, url, epoch, applied_number, snapshot_number, problem, sites)
VALUES (%(id)s, %(machine)s, %(version)s, %(url)s, %(epoch)s, %(applied_number)s, %(snapshot_number)s, %(problem)s,
        %(sites)s)
ON CONFLICT (id) DO UPDATE SET
  machine = EXCLUDED.machine, version = EXCLUDED.version, url = EXCLUDED.url, epoch = EXCLUDED.epoch,
  applied_number = EXCLUDED.applied_number, snapshot_number = EXCLUDED.snapshot_number,
  problem = EXCLUDED.problem, sites = EXCLUDED.sites, seen_at = now()
"""

_COLUMNS = columns_of(
    RouterRow,
    silent_seconds="extract(epoch FROM now() - seen_at)::float8",
    is_live="seen_at > now() - make_interval(secs => %(live)s)",
)
_SELECT: LiteralString = f"SELECT {_COLUMNS} FROM routers ORDER BY id"  # noqa: S608 - constants only

_PREPARED = """
INSERT INTO router_preparations (router_id, deployment_id, number, outcome, message)
SELECT %(router_id)s, %(deployment_id)s, %(number)s, %(outcome)s, %(message)s
WHERE EXISTS (SELECT 1 FROM routers WHERE id = %(router_id)s)
ON CONFLICT (deployment_id, router_id) DO UPDATE SET
  number = EXCLUDED.number, outcome = EXCLUDED.outcome, message = EXCLUDED.message
WHERE router_preparations.number <= EXCLUDED.number
"""

_PREPARATIONS: LiteralString = f"""
SELECT {columns_of(PreparationRow)} FROM router_preparations
WHERE deployment_id = %(deployment_id)s AND number >= %(number)s
"""  # noqa: S608 - constants only


class RouterRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, report: RouterReport) -> None:
        with self._database.transaction() as connection:
            connection.execute("SET LOCAL synchronous_commit = off")
            connection.execute(_REPORT, msgspec.structs.asdict(report))

    def all(self) -> list[RouterRow]:
        return self._database.fetch_all(RouterRow, _SELECT, {"live": LIVE_SECONDS})

    def remove(self, router_id: str) -> None:
        """A router that stops takes its leave, so that nobody waits for it."""
        with self._database.transaction() as connection:
            connection.execute("DELETE FROM routers WHERE id = %(id)s", {"id": router_id})

    def forget_all(self, connection: Connection) -> None:
        """Deletes all rows; routers that run report again. For a database that was restored."""
        connection.execute("DELETE FROM routers")

    def forget_silent(self) -> int:
        """Deletes routers that haven't reported for a day."""
        with self._database.transaction() as connection:
            return connection.execute(
                "DELETE FROM routers WHERE seen_at < now() - %(age)s::interval", {"age": _FORGOTTEN_AFTER}
            ).rowcount

    def record_preparation(
        self, router_id: str, deployment_id: str, number: int, outcome: PreparationOutcome, message: str | None = None
    ) -> None:
        """Records what became of the preparation with this number. An older one doesn't replace a newer one."""
        parameters = {
            "router_id": router_id,
            "deployment_id": deployment_id,
            "number": number,
            "outcome": outcome,
            "message": message,
        }
        with self._database.transaction() as connection:
            connection.execute(_PREPARED, parameters)

    def preparations(self, deployment_id: str, number: int) -> list[PreparationRow]:
        """What became of the preparation with this number, or of a later one, at each router that has reported."""
        return self._database.fetch_all(
            PreparationRow, _PREPARATIONS, {"deployment_id": deployment_id, "number": number}
        )
