"""Git LFS: replaces the pointers in a checked-out commit with their content.

Pointer files: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md. git runs no filter here: `LfsClient` fetches
and verifies the files, which are then moved into place one by one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import tempfile
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import IO
from urllib.parse import unquote

from shared.errors import FailureCode, PlatformError, StageFailure
from shared.projects.repository_url import RepositoryUrl
from shared.text.wording import counted
from workers.filesystem.descent import opened_parent
from workers.reading.lfs_pointers import VERSION
from workers.stages.clone.access import authorization
from workers.stages.clone.addresses import Route, parse_for_clone
from workers.stages.clone.fetch import RemoteRepository
from workers.stages.clone.git.failures import LFS_SETTINGS
from workers.stages.clone.git.runner import GitFailed
from workers.stages.clone.lfs.client import Endpoint, LfsClient
from workers.stages.clone.lfs.objects import LfsObject, verified_copy
from workers.stages.clone.session import CloneSession

# Bytes of the answer to git-lfs-authenticate.
_MAXIMUM_ANSWER = 65536
# Each file is a request of its own, and each path is held in memory.
_MAXIMUM_FILES = 50_000
_MAXIMUM_NAMES = 8 << 20
# git grep's exit status, even if it complains about the repository's attributes.
_NONE_FOUND = 1


@dataclass(frozen=True, slots=True)
class _Pointer:
    path: str
    object: LfsObject


class _Names:
    """Writes git's list of files, each name ended by NUL, to `file` in chunks, up to the limits."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._bytes = 0
        self._count = 0

    def add(self, data: bytes) -> None:
        """Raises StageFailure as soon as a limit is exceeded."""
        self._bytes += len(data)
        self._count += data.count(b"\0")
        if self._count > _MAXIMUM_FILES or self._bytes > _MAXIMUM_NAMES:
            raise StageFailure(
                FailureCode.REPOSITORY_TOO_LARGE,
                f"The repository has more than {_MAXIMUM_FILES} files in Git LFS, or their paths take more than "
                f"{_MAXIMUM_NAMES >> 20} MiB. Deploy a repository that holds the site alone.",
            )
        self._file.write(data)


class LfsFetcher:
    """Belongs to one clone; not shared between threads."""

    def __init__(self, session: CloneSession) -> None:
        self._session = session
        self._git = session.git
        self._directory = session.directory / "lfs"

    def fetch(self, remote: RemoteRepository, tree: Path) -> None:
        """Replaces the pointers in `tree`, a commit of `remote`. Raises StageFailure, PlatformError or Cancelled."""
        repository = remote.url
        pointers = self._pointers(tree)
        if not pointers:
            return
        first_paths: dict[LfsObject, str] = {}
        for pointer in pointers:
            first_paths.setdefault(pointer.object, pointer.path)
        total = sum(pointer.object.size for pointer in pointers)
        self._git.check_size(total)
        self._directory.mkdir(exist_ok=True)
        configured = self._configured_url(tree)
        source = repository if configured is None else self._authorise_configured(configured, repository)
        files = counted(len(pointers), "file")
        self._session.log.system(f"Fetching {files} ({_mebibytes(total)}) from Git LFS at {source.public}.")
        if source.scheme == "file":
            self._copy_local(source, first_paths)
        else:
            endpoint = self._endpoint(source, remote.route, configured)
            with LfsClient(self._session) as client:
                client.fetch(endpoint, first_paths, self._directory)
        self._put_in_place(pointers, tree)
        self._git.check_size()

    def _pointers(self, tree: Path) -> list[_Pointer]:
        """Files that git would pass to the LFS filter and whose content is a pointer."""
        arguments = ["grep", "--cached", "-l", "-z", "-F", "-e", VERSION, "--", ":(top,attr:filter=lfs)"]
        with tempfile.TemporaryFile() as file:
            names = _Names(file)
            try:
                self._git.run(arguments, tree, is_silent=True, consume=names.add)
            except GitFailed as error:
                if error.status == _NONE_FOUND:
                    return []
                # Otherwise pointers would be published as files.
                raise PlatformError(f"git can't list the files in LFS: {error.stderr.strip()[-300:]}") from error
            found = self._session.reader.read_lfs_pointers(tree, file, self._session.cancelled)
        return [_Pointer(name, LfsObject(oid, size)) for name, oid, size in found]

    def _configured_url(self, tree: Path) -> str | None:
        """`lfs.url` of .lfsconfig as committed; the rest of that file is ignored."""
        try:
            arguments = ["config", "--blob", "HEAD:.lfsconfig", "--no-includes", "--get", "lfs.url"]
            return self._git.run(arguments, tree, is_silent=True).decode("utf-8", "replace").strip() or None
        except GitFailed:
            return None

    def _authorise_configured(self, configured: str, repository: RepositoryUrl) -> RepositoryUrl:
        try:
            url = parse_for_clone(configured, self._session.network.policy, name="lfs.url", needs_path=False)
            if not url.is_http:
                raise StageFailure(FailureCode.URL_FORBIDDEN, f"{url.scheme}:// is refused there; use https://.")
        except StageFailure as failure:
            raise StageFailure(failure.code, f".lfsconfig: {failure.message}") from failure
        if url.origin == repository.origin and not url.secrets:
            return replace(url, user=repository.user, password=repository.password)
        return self._session.access.authorise(url, LFS_SETTINGS)

    def _endpoint(self, source: RepositoryUrl, route: Route, configured: str | None) -> Endpoint:
        if source.scheme == "ssh":
            return self._ask_over_ssh(source, route)
        url = source.public
        if configured is None:
            # https://github.com/git-lfs/git-lfs/blob/main/docs/api/server-discovery.md
            url = url.rstrip("/")
            url += "/info/lfs" if url.endswith(".git") else ".git/info/lfs"
        header = authorization(source)
        return Endpoint(url, {} if header is None else {"Authorization": header})

    def _ask_over_ssh(self, source: RepositoryUrl, route: Route) -> Endpoint:
        """Asks the host over SSH for the server's HTTP address and its headers (`git-lfs-authenticate`)."""
        asked = f"git-lfs-authenticate {shlex.quote(unquote(source.path))} download"
        user = [] if source.user is None else ["-l", source.user]
        ssh = [
            *self._session.access.ssh.command(source, route),
            "-p",
            str(source.port),
            *user,
            "--",
            source.host,
            asked,
        ]
        try:
            remote = self._session.access.ssh.environment(route)
            data = self._git.run_program(ssh, self._directory, remote, is_silent=True)
            answer = json.loads(data) if len(data) <= _MAXIMUM_ANSWER else {}
            href, header = answer["href"], answer.get("header") or {}
            if isinstance(href, str) and isinstance(header, dict):
                return Endpoint(href, {str(name): str(value) for name, value in header.items()})
        except GitFailed as error:
            # The message of a shell or host that doesn't have the command names it.
            if "git-lfs-authenticate" not in error.stderr:
                raise self._session.failure_of(error, source) from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            pass
        raise StageFailure(
            FailureCode.REPOSITORY_LFS_MISSING,
            f"{source.public} has files in Git LFS, but its host doesn't support git-lfs-authenticate over SSH. "
            "Use its https:// address with a token, or name the server in .lfsconfig.",
        )

    def _copy_local(self, source: RepositoryUrl, wanted: dict[LfsObject, str]) -> None:
        base = Path(unquote(source.path))
        for item, path in wanted.items():
            names = ("lfs/objects", ".git/lfs/objects")
            candidates = [base / name / item.oid[:2] / item.oid[2:4] / item.oid for name in names]
            found = next((candidate for candidate in candidates if candidate.is_file()), None)
            if found is None:
                raise StageFailure(
                    FailureCode.REPOSITORY_LFS_MISSING,
                    f"{path}: its content is not in the repository's Git LFS storage. Run `git lfs fetch --all` there.",
                )
            with found.open("rb") as file:
                chunks = iter(partial(file.read, 1 << 20), b"")
                verified_copy(chunks, item, path, self._directory, self._session.deadline)

    def _put_in_place(self, pointers: list[_Pointer], tree: Path) -> None:
        uses: dict[LfsObject, int] = {}
        for pointer in pointers:
            uses[pointer.object] = uses.get(pointer.object, 0) + 1
        for pointer in pointers:
            self._session.deadline.check()
            content = self._directory / pointer.object.oid
            uses[pointer.object] -= 1
            if uses[pointer.object]:
                copy = content.with_suffix(".copy")
                shutil.copyfile(content, copy)
                content = copy
            with opened_parent(tree, pointer.path) as (parent, name):
                mode = os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode
                content.chmod(stat.S_IMODE(mode))
                os.replace(content, name, dst_dir_fd=parent)


def _mebibytes(size: int) -> str:
    return f"{size / (1 << 20):.1f} MiB"
