"""Copies of the repositories of the table that the platform deploys: the row's commit, and a second one after it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.corpus.table import Row

_SECOND = "Second commit of the corpus."
# Appended to a file, by its suffix; anything else gets an empty line.
_COMMENTS = {
    **dict.fromkeys((".md", ".mdx", ".markdown", ".html", ".vue", ".svelte"), "\n<!-- {} -->\n"),
    **dict.fromkeys((".js", ".jsx", ".ts", ".tsx", ".mjs", ".scss"), "\n// {}\n"),
    **dict.fromkeys((".css",), "\n/* {} */\n"),
    **dict.fromkeys((".rst",), "\n\n.. {}\n"),
    **dict.fromkeys((".py", ".yml", ".yaml", ".toml"), "\n# {}\n"),
}
_ENVIRONMENT = {
    "GIT_AUTHOR_NAME": "Cloudify Corpus",
    "GIT_AUTHOR_EMAIL": "corpus@example.invalid",
    "GIT_COMMITTER_NAME": "Cloudify Corpus",
    "GIT_COMMITTER_EMAIL": "corpus@example.invalid",
    "GIT_TERMINAL_PROMPT": "0",
}


class Copy:
    """A bare repository that borrows the objects of a mirror, which is only read.

    Its default branch has the mirror's name. `absent` are the paths of files whose content the mirror lacks (some leave
    out large ones): a commit without them follows the row's.
    """

    def __init__(self, row: Row, mirror: Path, directory: Path) -> None:
        self._row = row
        self._directory = directory
        self._index = directory / "corpus-index"
        branch = _git(mirror, "symbolic-ref", "HEAD").strip()
        _git(None, "init", "--quiet", "--bare", str(directory))
        (directory / "objects/info/alternates").write_text(f"{_objects(mirror)}\n")
        self._git("config", "uploadpack.allowAnySHA1InWant", "true")
        self._git("config", "uploadpack.allowFilter", "true")
        self._git("symbolic-ref", "HEAD", branch)
        self._git("update-ref", branch, row.commit)
        self._git("read-tree", row.commit)
        self.absent = self._absent()
        if self.absent:
            removed = "".join(f"0 {'0' * 40}\t{path}\0" for path in self.absent)
            self._git("update-index", "-z", "--index-info", given=removed.encode(errors="surrogateescape"))
            self._commit("Leave out what the mirror lacks")

    @property
    def url(self) -> str:
        return self._directory.absolute().as_uri()

    def commit_again(self) -> None:
        """Changes the row's source file by a comment."""
        path = self._row.source
        added = _COMMENTS.get(Path(path).suffix.lower(), "\n").format(_SECOND)
        content = self._git_bytes("cat-file", "blob", f"HEAD:{path}") + added.encode()
        blob = self._git("hash-object", "-w", "--stdin", given=content).strip()
        mode = self._git("ls-files", "--stage", "--", path).split()[0]
        self._git("update-index", "--cacheinfo", f"{mode},{blob},{path}")
        self._commit(_SECOND)

    def extract(self, directory: Path) -> None:
        """Writes the files of the newest commit."""
        directory.mkdir(parents=True)
        self._git("--work-tree", str(directory), "checkout-index", "--all", "--force")

    def _absent(self) -> list[str]:
        entries = [entry.partition("\t") for entry in self._git("ls-files", "--stage", "-z").split("\0") if entry]
        paths: dict[str, list[str]] = {}
        for facts, _, path in entries:
            mode, blob, _ = facts.split()
            if mode != "160000":
                paths.setdefault(blob, []).append(path)
        found = self._git("cat-file", "--batch-check", given="\n".join(paths).encode() + b"\n").splitlines()
        return [path for line in found if line.endswith(" missing") for path in paths[line.split()[0]]]

    def _commit(self, message: str) -> None:
        # The objects of the index that are absent can't be checked.
        tree = self._git("write-tree", "--missing-ok").strip()
        commit = self._git("commit-tree", "-p", "HEAD", "-m", message, tree).strip()
        self._git("update-ref", "HEAD", commit)

    def _git(self, *arguments: str, given: bytes | None = None) -> str:
        return self._git_bytes(*arguments, given=given).decode(errors="surrogateescape")

    def _git_bytes(self, *arguments: str, given: bytes | None = None) -> bytes:
        return _run(self._directory, arguments, given, {"GIT_INDEX_FILE": str(self._index.absolute())})


def find_mirror(row: Row, mirrors: Path | None, own: Path) -> Path:
    """The row's bare mirror: `OWNER+NAME`, `OWNER+NAME.git` or `OWNER+NAME/repo` below `mirrors`, else a clone that is
    kept below `own`. Raises RuntimeError if it can't be cloned."""
    for directory in (mirrors, own):
        for name in (row.name, f"{row.name}.git", f"{row.name}/repo") if directory else ():
            if (directory / name / "HEAD").is_file():
                return directory / name
    own.mkdir(parents=True, exist_ok=True)
    part = own / f"{row.name}.part"
    if not part.exists():
        _git(None, "init", "--quiet", "--bare", str(part))
    head = _git(part, "ls-remote", "--symref", row.repository, "HEAD").split()[1]
    # One commit is all that is deployed: a repository's history can be gigabytes.
    _git(part, "fetch", "--quiet", "--depth", "1", row.repository, row.commit)
    _git(part, "symbolic-ref", "HEAD", head)
    part.rename(own / row.name)
    return own / row.name


def _objects(repository: Path) -> str:
    return str(Path(_git(repository, "rev-parse", "--absolute-git-dir").strip()) / "objects")


def _git(directory: Path | None, *arguments: str) -> str:
    return _run(directory, arguments, None, {}).decode(errors="surrogateescape")


def _run(directory: Path | None, arguments: tuple[str, ...], given: bytes | None, more: dict[str, str]) -> bytes:
    place = [f"--git-dir={directory}"] if directory else []
    environment = {**os.environ, **_ENVIRONMENT, **more}
    done = subprocess.run(["git", *place, *arguments], input=given, capture_output=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"git {' '.join(arguments)[:200]}: {done.stderr.decode(errors='replace')[:1000]}")
    return done.stdout
