"""Packing and unpacking: the same content, the same digest; nothing outside of the tree is ever touched."""

from __future__ import annotations

import errno
import io
import os
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.ordinary_user import as_ordinary_user
from workers.filesystem.trees import remove_tree
from workers.snapshots.packing import pack
from workers.snapshots.tar_format import OPAQUE, ContentRejected, Entry, check_link, check_path, headers_of, unreadable
from workers.snapshots.tree_writer import walk
from workers.snapshots.unpacking import unpack

LIMIT = 1 << 30


def _fill(directory: Path) -> None:
    long = "n" * 60
    (directory / long / long).mkdir(parents=True)
    (directory / long / long / "deep.txt").write_bytes(os.urandom(3000))
    (directory / "empty").mkdir()
    (directory / "empty.txt").touch()
    (directory / "program").write_text("#!/bin/sh\n")
    (directory / "program").chmod(0o4755)
    (directory / "large.bin").write_bytes(bytes(range(256)) * 10_000)
    (directory / "link").symlink_to("empty/../program")
    (directory / "python").symlink_to("/opt/python/bin/python3")
    (directory / "long-link").symlink_to("empty/" + "../empty/" * 30)
    Path(os.fsdecode(os.fsencode(directory) + b"/raw-\xff\xfe-" + b"x" * 120)).write_text("raw")
    os.mknod(directory / "gone", stat.S_IFCHR, 0)
    os.setxattr(directory / "empty", OPAQUE, b"y")


def _listing(directory: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for path in directory.rglob("*"):
        status = path.lstat()
        content = path.read_bytes() if stat.S_ISREG(status.st_mode) else b""
        target = str(path.readlink()) if path.is_symlink() else ""
        mtime = int(status.st_mtime) if content else 0
        found[str(path.relative_to(directory))] = (stat.S_IFMT(status.st_mode), content, target, mtime, status.st_rdev)
    return found


def test_what_goes_in_comes_out(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    _fill(source)
    packed = pack(source, tmp_path / "a", maximum_bytes=LIMIT)
    assert unpack(tmp_path / "a", target, maximum_bytes=LIMIT) == packed
    assert _listing(target) == _listing(source)
    assert os.getxattr(target / "empty", OPAQUE) == b"y"
    # Permission bits stay, set-user-id goes.
    assert stat.S_IMODE((target / "program").stat().st_mode) == 0o755


def test_the_digest_is_of_the_content_alone(tmp_path: Path) -> None:
    digests: list[str] = []
    for name, mtime in (("one", 1), ("two", 2_000_000_000)):
        directory = tmp_path / name
        directory.mkdir()
        for file in sorted(["b", "a", "c"], reverse=name == "two"):
            (directory / file).write_text(file)
            os.utime(directory / file, (mtime, mtime))
        digests.append(pack(directory, tmp_path / f"{name}.tar", maximum_bytes=LIMIT).digest)
    assert digests[0] == digests[1]
    (tmp_path / "two" / "a").chmod(0o755)
    assert pack(tmp_path / "two", tmp_path / "three.tar", maximum_bytes=LIMIT).digest != digests[0]


def test_other_programs_can_read_it(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    _fill(source)
    pack(source, tmp_path / "a.tar.zst", maximum_bytes=LIMIT)
    with (tmp_path / "a.tar.zst").open("rb") as file:
        plain = zstandard.ZstdDecompressor().stream_reader(file).read()
    listed = subprocess.run(["tar", "-t"], input=plain, capture_output=True, check=True)
    assert len(listed.stdout.splitlines()) == len(_listing(source))
    assert not listed.stderr


@pytest.mark.parametrize("target", ["../../etc/passwd", "../x", "empty/../../x"])
def test_a_link_that_leaves_the_tree_is_not_packed(tmp_path: Path, target: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "bad").symlink_to(target)
    with pytest.raises(ContentRejected, match=r"bad → .* leaves the tree"):
        pack(tmp_path / "source", tmp_path / "a", maximum_bytes=LIMIT)


def test_pipes_and_too_much_are_not_packed(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "large").write_bytes(b"x" * 100_000)
    with pytest.raises(ContentRejected, match="more than"):
        pack(tmp_path / "source", tmp_path / "a", maximum_bytes=50_000)
    os.mkfifo(tmp_path / "source" / "pipe")
    with pytest.raises(ContentRejected, match="pipe is a device, socket or pipe"):
        pack(tmp_path / "source", tmp_path / "b", maximum_bytes=LIMIT)


def _tarball(path: Path, entries: list[tuple[Entry, bytes]]) -> Path:
    """A tarball of any entries, well-formed or not."""
    stream = io.BytesIO()
    for entry, content in entries:
        stream.write(b"".join(headers_of(entry)) + content + b"\0" * (-len(content) % 512))
    path.write_bytes(zstandard.compress(stream.getvalue() + b"\0" * 1024))
    return path


HOSTILE = [
    [(Entry(b"0", b"/etc/cron.d/x", 0o644, 1), b"x")],
    [(Entry(b"0", b"../x", 0o644, 1), b"x")],
    [(Entry(b"5", b"..", 0o755), b"")],
    [(Entry(b"5", b".", 0o755), b"")],
    [(Entry(b"0", b"", 0o644, 1), b"x")],
    [(Entry(b"0", b"a//b", 0o644, 1), b"x")],
    [(Entry(b"0", b"undeclared/x", 0o644, 1), b"x")],
    [(Entry(b"2", b"up", 0o777, target=b"../outside"), b"")],
    [(Entry(b"2", b"none", 0o777), b"")],
    [(Entry(b"2", b"long", 0o777, target=b"a/" * 3000), b"")],
    [(Entry(b"1", b"hard", 0o644, target=b"/etc/passwd"), b"")],
    [(Entry(b"4", b"disk", 0o644), b"")],
    [(Entry(b"6", b"pipe", 0o644), b"")],
    # Through a link: the name is a link, not a directory that was declared.
    [(Entry(b"2", b"l", 0o777, target=b"/tmp"), b""), (Entry(b"0", b"l/x", 0o644, 1), b"x")],
    [(Entry(b"2", b"l", 0o777, target=b"/tmp"), b""), (Entry(b"5", b"l", 0o755), b"")],
    [(Entry(b"2", b"l", 0o777, target=b"/etc/passwd"), b""), (Entry(b"0", b"l", 0o644, 1), b"x")],
    [(Entry(b"0", b"a", 0o644, 1), b"x"), (Entry(b"0", b"a", 0o644, 1), b"y")],
    [(Entry(b"0", b"n" * 300, 0o644, 1), b"x")],
    [(Entry(b"5", b"d", 0o755, 512), b"x" * 512)],
]


@pytest.mark.parametrize("entries", HOSTILE)
def test_a_hostile_tarball_is_refused(tmp_path: Path, entries: list[tuple[Entry, bytes]]) -> None:
    (tmp_path / "tree").mkdir()
    with pytest.raises(ContentRejected):
        unpack(_tarball(tmp_path / "a", entries), tmp_path / "tree", maximum_bytes=LIMIT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "tree"]


@pytest.mark.parametrize("records", [b"11 size=1x\n", b"5010 size=" + b"9" * 5000 + b"\n", b"9" * 5000 + b" size=1\n"])
def test_a_hostile_number_is_refused(tmp_path: Path, records: bytes) -> None:
    plain = headers_of(Entry(b"0", b"file", 0o644, 1))[0]
    header = bytearray(plain[:124] + b"%011o\0" % len(records) + plain[136:])
    header[156:157] = b"x"
    header[148:156] = b"%06o\0 " % (sum(header[:148]) + sum(header[156:]) + 8 * 32)
    stream = bytes(header) + records + b"\0" * (-len(records) % 512) + plain + b"x" + b"\0" * 511 + b"\0" * 1024
    (tmp_path / "a").write_bytes(zstandard.compress(stream))
    (tmp_path / "tree").mkdir()
    with pytest.raises(ContentRejected, match="malformed"):
        unpack(tmp_path / "a", tmp_path / "tree", maximum_bytes=LIMIT)


def test_a_device_that_is_no_whiteout_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as writer:
        member = tarfile.TarInfo("mem")
        member.type, member.devmajor, member.devminor = tarfile.CHRTYPE, 1, 1
        writer.addfile(member)
    (tmp_path / "a").write_bytes(zstandard.compress(stream.getvalue()))
    (tmp_path / "tree").mkdir()
    with pytest.raises(ContentRejected, match="device"):
        unpack(tmp_path / "a", tmp_path / "tree", maximum_bytes=LIMIT)


def test_a_tarball_larger_than_allowed_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "tree").mkdir()
    (tmp_path / "source" / "zeros").write_bytes(bytes(10_000_000))
    pack(tmp_path / "source", tmp_path / "a", maximum_bytes=LIMIT)
    assert (tmp_path / "a").stat().st_size < 10_000
    with pytest.raises(ContentRejected, match="more than"):
        unpack(tmp_path / "a", tmp_path / "tree", maximum_bytes=1_000_000)


NAMES = st.sampled_from([b"a", b"b", b"..", b".", b"", b"/", b"c" * 120, b"\xff"])
PATHS = st.lists(NAMES, min_size=1, max_size=4).map(b"/".join)
ENTRIES = st.builds(
    lambda kind, path, target: Entry(kind, path, 0o644, 1 if kind == b"0" else 0, target=target),
    st.sampled_from([b"0", b"2", b"5", b"3"]),
    PATHS,
    PATHS,
)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(entries=st.lists(ENTRIES, min_size=1, max_size=6))
def test_no_tarball_writes_outside_of_its_tree(tmp_path_factory: pytest.TempPathFactory, entries: list[Entry]) -> None:
    base = tmp_path_factory.mktemp("hostile")
    tree = base / "around" / "tree"
    tree.mkdir(parents=True)
    tarball = _tarball(base / "a", [(entry, b"x" if entry.size else b"") for entry in entries])
    try:
        unpack(tarball, tree, maximum_bytes=LIMIT)
    except ContentRejected:
        pass
    else:
        for path in (entry.path for entry in entries):
            assert os.path.lexists(os.fsencode(tree) + b"/" + path)
    assert [path.name for path in (base / "around").iterdir()] == ["tree"]
    assert sorted(path.name for path in base.iterdir()) == ["a", "around"]


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), cut=st.booleans())
def test_a_damaged_tarball_never_passes_for_the_original(
    tmp_path_factory: pytest.TempPathFactory, position: int, value: int, cut: bool
) -> None:
    base = tmp_path_factory.mktemp("damaged")
    (base / "source").mkdir()
    (base / "tree").mkdir()
    (base / "source" / "a").write_text("content")
    (base / "source" / "b").symlink_to("a")
    packed = pack(base / "source", base / "a", maximum_bytes=LIMIT)
    original = (base / "a").read_bytes()
    position %= len(original)
    damaged = original[:position] + (b"" if cut else bytes([value]) + original[position + 1 :])
    if damaged == original:
        return
    (base / "a").write_bytes(damaged)
    try:
        result = unpack(base / "a", base / "tree", maximum_bytes=LIMIT)
    except ContentRejected:
        return
    if result.digest == packed.digest:
        assert (base / "tree" / "a").read_text() == "content"


@given(st.lists(st.sampled_from([b"..", b".", b"a", b""]), min_size=1, max_size=8).map(b"/".join))
def test_a_relative_link_is_judged_as_the_path_it_spells(target: bytes) -> None:
    path = b"one/two/link"
    spelled = os.path.normpath(b"one/two/" + target) if target else b".."
    leaves = spelled.startswith(b"..") or not target
    depth, lowest = 2, 2
    for part in target.split(b"/"):
        depth += -1 if part == b".." else part not in (b"", b".")
        lowest = min(lowest, depth)
    try:
        check_link(path, target)
    except ContentRejected:
        assert leaves or lowest < 0
    else:
        assert target.startswith(b"/") or (lowest >= 0 and not leaves)


@given(st.binary(max_size=40))
def test_an_accepted_path_stays_below(path: bytes) -> None:
    try:
        parts = check_path(path)
    except ContentRejected:
        return
    assert os.path.normpath(b"/root/" + path) == b"/root/" + b"/".join(parts)


@as_ordinary_user
def test_a_tree_of_shut_files_and_directories_is_packed_and_opened_up(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for mode in (0, 0o111, 0o200, 0o444, 0o555):
        (source / f"{mode:o}").mkdir()
        (source / f"{mode:o}" / "file").write_text("x")
        (source / f"{mode:o}" / "file").chmod(mode)
        (source / f"{mode:o}").chmod(mode)
    source.chmod(0o555)
    assert pack(source, tmp_path / "a", maximum_bytes=LIMIT).entries == 10
    assert {path.read_text() for path in source.glob("*/file")} == {"x"}
    (tmp_path / "elsewhere").mkdir()
    source.rename(tmp_path / "elsewhere" / "moved")


@pytest.mark.parametrize("kind", ["directory", "link"])
def test_what_vanishes_while_it_is_walked_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a").touch()
    gone = tmp_path / "gone"
    if kind == "directory":
        gone.mkdir()
    else:
        gone.symlink_to("a")
    root = os.open(tmp_path, os.O_RDONLY)
    try:
        steps = walk(root)
        assert next(steps)[0].path == b"a"
        if kind == "directory":
            gone.rmdir()
        else:
            gone.unlink()
        with pytest.raises(ContentRejected, match="gone can't be read: No such file"):
            next(steps)
    finally:
        os.close(root)


@pytest.mark.parametrize(
    "code", [errno.EACCES, errno.EPERM, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR]
)
def test_an_error_about_a_path_is_the_tenants(code: int) -> None:
    error = unreadable(b"a/b", OSError(code, "?"))
    assert isinstance(error, ContentRejected)
    assert "a/b" in str(error)


@pytest.mark.parametrize(
    "code",
    [errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE, errno.EMFILE, errno.ENFILE, errno.ENOMEM],
)
def test_an_error_of_the_disk_is_the_platforms(code: int) -> None:
    error = OSError(code, "?")
    assert unreadable(b"a/b", error) is error


def test_five_thousand_nested_directories_are_refused_and_can_be_deleted(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    descriptor = os.open(source, os.O_RDONLY)
    try:
        for _ in range(5000):
            os.mkdir("d", dir_fd=descriptor)
            descriptor, former = os.open("d", os.O_RDONLY, dir_fd=descriptor), descriptor
            os.close(former)
    finally:
        os.close(descriptor)
    try:
        with pytest.raises(ContentRejected, match="nested deeper"):
            pack(source, tmp_path / "a", maximum_bytes=LIMIT)
    finally:
        remove_tree(source)
    assert not source.exists()


def test_names_of_255_bytes_dangling_links_and_loops_are_carried(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    (source / ("n" * 255)).write_text("x")
    (source / "loop").symlink_to("loop")
    (source / "dangling").symlink_to("missing")
    packed = pack(source, tmp_path / "a", maximum_bytes=LIMIT)
    assert unpack(tmp_path / "a", target, maximum_bytes=LIMIT) == packed
