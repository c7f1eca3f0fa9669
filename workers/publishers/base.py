"""The seam between a release and the servers of its files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from shared.db.database import Connection
from shared.routing.changes import RouteChange, SiteArtifact


class Publisher(Protocol):
    """Every method is idempotent and may be repeated after a crash at any point of an earlier call.

    Routes change in the transaction that changes what is live, so the database never says one thing and the
    servers another; `confirm` waits until the servers have followed.
    """

    def prepare(self, host: str, artifact: SiteArtifact, *, is_stopped: Callable[[], bool]) -> None:
        """Makes the artifact servable and looks at it where it will be served, unseen by any host yet. `host` will
        serve it.

        Raises ArtifactMissing if a part of it is lost, Cancelled when `is_stopped`, PlatformError.
        """
        ...

    def change_routes(self, connection: Connection, *changes: RouteChange) -> int:
        """Appends the changes in the caller's transaction, as its last statement. Returns the number to confirm."""
        ...

    def confirm(self, number: int) -> None:
        """Returns when every live server has applied the changes up to this number. Call it after the commit.

        A server that doesn't report is waited for only for a few seconds: it isn't ready before it has caught up.
        Raises PlatformError if no server has applied them.
        """
        ...
