"""Which snapshot holds a tool (a package manager, a runtime) of a version, for a platform."""

from __future__ import annotations

from shared.db.database import Database


class ToolRepository:
    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, key: str) -> str | None:
        """The digest of its snapshot."""
        return self._database.fetch_value(str, "SELECT digest FROM tools WHERE key = %(key)s", {"key": key})

    _RECORD = """
        INSERT INTO tools (key, name, version, digest, size_bytes)
        VALUES (%(key)s, %(name)s, %(version)s, %(digest)s, %(size_bytes)s)
        ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, size_bytes = excluded.size_bytes
    """

    def record(self, key: str, *, name: str, version: str, digest: str, size_bytes: int) -> None:
        """In place of an earlier one. May be repeated."""
        parameters = {"key": key, "name": name, "version": version, "digest": digest, "size_bytes": size_bytes}
        with self._database.transaction() as connection:
            connection.execute(self._RECORD, parameters)
