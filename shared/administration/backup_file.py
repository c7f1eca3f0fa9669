"""The file of a backup: a zip archive with a manifest and the dump of the database.

The secrets in the dump are encrypted, as they are in the database; the file holds no key.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zipfile
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import IO

import msgspec

FORMAT = 1
_MANIFEST = "manifest.json"
_DUMP = "database.dump"
_MAXIMUM_MANIFEST_BYTES = 1 << 30
_CHUNK = 1 << 20


class BackupInvalid(Exception):
    """The file is no backup, or is damaged. The message says which."""


class AppliedMigration(msgspec.Struct, frozen=True):
    name: str
    checksum: str


class NeededArtifact(msgspec.Struct, frozen=True):
    """What the object store must hold so that these host labels are served: a manifest, and the blobs that it names."""

    tenant_id: str
    manifest_digest: str
    hosts: list[str]


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """`version` is Cloudify's, `postgres` the server's major version. `migrations` are in the order of their names.

    `encryption_keys`: the id of each key that stored secrets are encrypted with, and its fingerprint; None for one that
    the settings didn't list when the backup was made.
    """

    version: str
    created_at: datetime
    postgres: int
    migrations: list[AppliedMigration]
    encryption_keys: dict[str, str | None]
    artifacts: list[NeededArtifact]
    dump_digest: str
    dump_bytes: int
    format: int = FORMAT


def write_backup(path: Path, write: Callable[[IO[bytes]], BackupManifest]) -> BackupManifest:
    """Writes the file, only readable by its owner, completely or not at all. `write` writes the dump.

    Raises OSError.
    """
    partial = path.with_name(f".{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            # The dump is compressed already.
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                with archive.open(_DUMP, "w", force_zip64=True) as target:
                    manifest = write(target)
                encoded = msgspec.json.format(msgspec.json.encode(manifest), indent=2)
                archive.writestr(_MANIFEST, encoded, zipfile.ZIP_DEFLATED)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_directory(path.parent)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


class BackupFile:
    """An open backup."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self._archive = archive
        self.manifest = self._read_manifest()

    def check(self) -> None:
        """Reads the whole dump. Raises BackupInvalid."""
        digest = hashlib.sha256()
        with self.dump() as file:
            while data := file.read(_CHUNK):
                digest.update(data)
        if digest.hexdigest() != self.manifest.dump_digest:
            raise BackupInvalid("The backup is damaged: its dump is not the one that was written.")

    @contextmanager
    def dump(self) -> Generator[IO[bytes]]:
        """The dump, for one reader. Raises BackupInvalid."""
        with _invalid_if_damaged(), self._archive.open(_DUMP) as file:
            yield file

    def _read_manifest(self) -> BackupManifest:
        with _invalid_if_damaged():
            if self._archive.getinfo(_MANIFEST).file_size > _MAXIMUM_MANIFEST_BYTES:
                raise BackupInvalid("The file is no backup of Cloudify: its manifest is too large.")
            encoded = self._archive.read(_MANIFEST)
        try:
            found = msgspec.json.decode(encoded, type=_Format).format
            if found > FORMAT:
                raise BackupInvalid(
                    f"The backup has format {found}, and this version knows formats up to {FORMAT}; restore it with a "
                    "newer version of Cloudify."
                )
            return msgspec.json.decode(encoded, type=BackupManifest)
        except msgspec.MsgspecError as error:
            raise BackupInvalid(f"The file is no backup of Cloudify: {error}.") from error


class _Format(msgspec.Struct, frozen=True):
    format: int


@contextmanager
def open_backup(path: Path) -> Generator[BackupFile]:
    """Raises BackupInvalid, OSError."""
    with contextlib.ExitStack() as closers:
        with _invalid_if_damaged():
            archive = closers.enter_context(zipfile.ZipFile(path))
        yield BackupFile(archive)


@contextmanager
def _invalid_if_damaged() -> Generator[None]:
    try:
        yield
    except (zipfile.BadZipFile, EOFError) as error:
        raise BackupInvalid(f"The file is no backup of Cloudify, or is damaged: {error}.") from error
    except KeyError as error:
        raise BackupInvalid("The file is no backup of Cloudify: a part is missing.") from error


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
