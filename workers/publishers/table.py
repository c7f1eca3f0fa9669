"""Opens publishers by their names, which are those of modules in this folder (`shared.backends.PUBLISHERS`)."""

from __future__ import annotations

from importlib import import_module
from typing import Protocol, cast

from shared.db.database import Database
from shared.settings import Settings
from workers.publishers.base import Publisher


class PublisherBackend(Protocol):
    def open_publisher(self, settings: Settings, database: Database) -> Publisher:
        """A publisher for this process. Loads client libraries no sooner than they are needed."""
        ...


def publisher_backend(name: str) -> PublisherBackend:
    """`name` is one of PUBLISHERS."""
    return cast(PublisherBackend, import_module(f"workers.publishers.{name}"))
