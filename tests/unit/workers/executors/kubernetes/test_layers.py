"""How a pod merges layers and finds what a command changed: as overlayfs does."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from workers.executors.kubernetes.pod.fetch import fetch, read_index
from workers.executors.kubernetes.pod.layout import index_of, tree_directory
from workers.executors.kubernetes.pod.store import Store
from workers.filesystem.descent import open_directory
from workers.snapshots.packing import pack
from workers.snapshots.tree_writer import walk_changes

pytestmark = pytest.mark.skipif(shutil.which("zstd") is None, reason="the program zstd is missing")


def merge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *layers: Path) -> Path:
    """The merged tree, as `fetch` makes it; the store is replaced by files."""
    packed = [
        (pack(layer, tmp_path / f"{index}.tar", maximum_bytes=1 << 30).digest, index)
        for index, layer in enumerate(layers)
    ]

    def download(_self: Store, link: str, path: Path) -> None:
        shutil.copyfile(tmp_path / link, path)

    monkeypatch.setattr(Store, "download", download)
    monkeypatch.setattr("workers.executors.kubernetes.pod.fetch.prove", lambda *_, **__: None)
    trees, state = tmp_path / "trees", tmp_path / "state"
    trees.mkdir()
    state.mkdir()
    asked = [{"url": f"{index}.tar", "digest": digest} for digest, index in packed]
    tree = {"place": "overlay", "layers": asked, "inner": ["inner/mount"], "mode": 0o755, "is_tracked": True}
    fetch({"trees": [tree], "network": {"closed": [], "proxy": None, "bucket": ""}}, trees, state, None)
    assert list(state.iterdir()) == [index_of(state, "overlay")]
    return tree_directory(trees, "overlay")


def changes(tree: Path) -> dict[str, str]:
    """Path → kind of entry."""
    root = open_directory(tree)
    try:
        known = read_index(index_of(tree.parents[1] / "state", "overlay"))
        return {os.fsdecode(entry.path): entry.kind.decode() for entry, _, _ in walk_changes(root, known)}
    finally:
        os.close(root)


def filled(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        path = directory / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return directory


def test_upper_layers_hide_and_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = filled(tmp_path / "a", kept="1", changed="1", gone="1", dir__gone="1", dir__kept="1", was_dir__x="1")
    (lower / "was_file").write_text("1")
    upper = filled(tmp_path / "b", changed="2", new="2", was_file__x="2", dir__new="2")
    (upper / "was_dir").symlink_to("kept")
    for name in ("gone", "dir/gone"):
        os.mknod(upper / name, stat.S_IFCHR, 0)
    tree = merge(tmp_path, monkeypatch, lower, upper)
    found = {str(path.relative_to(tree)): path.read_text() for path in tree.rglob("*") if path.is_file()}
    assert found == {
        "kept": "1", "changed": "2", "new": "2", "was_file/x": "2", "dir/kept": "1", "dir/new": "2", "was_dir": "1",
    }  # fmt: skip
    assert (tree / "was_dir").is_symlink()
    assert (tree / "inner/mount").is_dir()


def test_changes_are_what_overlayfs_would_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lower = filled(
        tmp_path / "a", same="1", changed="1", touched="1", gone="1", dir__gone="1", dir__same="1", removed__x="1"
    )
    filled(lower, moved__x="1", turned="1")
    tree = merge(tmp_path, monkeypatch, lower)
    assert changes(tree) == {}
    (tree / "same").read_text()
    before = (tree / "changed").stat()
    (tree / "changed").write_text("2")
    # The same size and time: the time of the change tells.
    os.utime(tree / "changed", ns=(before.st_atime_ns, before.st_mtime_ns))
    (tree / "touched").chmod(0o755)
    (tree / "gone").unlink()
    (tree / "dir/gone").unlink()
    shutil.rmtree(tree / "removed")
    (tree / "moved").rename(tree / "here")
    (tree / "turned").unlink()
    (tree / "turned").mkdir()
    filled(tree, new__deep__file="2")
    assert changes(tree) == {
        "changed": "0", "touched": "0", "gone": "3", "dir": "5", "dir/gone": "3", "removed": "3", "moved": "3",
        "here": "5", "here/x": "0", "turned": "5", "new": "5", "new/deep": "5", "new/deep/file": "0",
    }  # fmt: skip


def test_a_directory_that_was_made_again_hides_the_former_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = merge(tmp_path, monkeypatch, filled(tmp_path / "a", dir__a="1", dir__b="1"))
    shutil.rmtree(tree / "dir")
    filled(tree, dir__b="1")
    assert changes(tree) == {"dir": "5", "dir/a": "3", "dir/b": "0"}
