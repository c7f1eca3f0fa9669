"""Only the platform's account can read its files, and no file of a build runs as another user."""

from __future__ import annotations

import os
import resource
import stat
from pathlib import Path

import pytest

from shared.private_files import close_home, keep_files_private, let_others_pass
from shared.stack.home import Home
from workers.executors.set_id_bits import strip_set_id_bits

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as another account")


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def make_open_home(home: Path) -> None:
    """As versions before this one left it, in a directory that hands its group on."""
    for name in ("work", "logs", "cache", "elsewhere"):
        (home / name).mkdir(parents=True)
        (home / name).chmod(0o2755)
    (home / "secrets.json").touch()
    (home / "secrets.json").chmod(0o644)
    (home / "backup.sh").touch()
    (home / "backup.sh").chmod(0o4755)
    (home / "gone").symlink_to(home / "nowhere")
    home.chmod(0o2755)


def test_a_home_that_was_open_is_closed(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_open_home(home)
    Home(home).lock()
    modes = {path.name: mode_of(path) for path in home.iterdir() if not path.is_symlink()}
    assert modes.pop("secrets.json") == 0o600
    assert modes.pop("backup.sh") == 0o700
    assert mode_of(home) == 0o700
    assert modes.keys() >= {"work", "logs", "cache", "elsewhere", "run"}
    assert set(modes.values()) == {0o700}


def test_what_is_made_from_then_on_is_private(tmp_path: Path) -> None:
    Home(tmp_path / "home").lock()
    made = tmp_path / "home" / "new"
    made.mkdir()
    (made / "file").write_text("")
    assert (mode_of(made), mode_of(made / "file")) == (0o700, 0o600)


def test_a_worker_alone_closes_its_home(tmp_path: Path) -> None:
    home = tmp_path / "home"
    keep_files_private(home)  # there is none yet
    assert not home.exists()
    make_open_home(home)
    keep_files_private(home)
    assert mode_of(home) & 0o077 == (0o001 if os.geteuid() == 0 else 0)
    assert mode_of(home / "work") == 0o700


@needs_root
def test_a_database_of_another_account_stays_reachable(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "postgres").mkdir(parents=True)
    (home / "work").mkdir()
    os.chown(home / "postgres", 65534, 65534)
    (home / "postgres").chmod(0o700)
    close_home(home)
    let_others_pass(home)
    keep_files_private(home)
    assert (mode_of(home), mode_of(home / "work")) == (0o701, 0o700)
    assert (home / "postgres").stat().st_uid == 65534
    close_home(home)
    assert mode_of(home) == 0o700


def test_set_id_bits_go_at_any_depth(tmp_path: Path) -> None:
    """Deeper than a path can name, and behind directories that are shut."""
    outside = tmp_path / "outside"
    outside.touch()
    outside.chmod(0o4755)
    top = tmp_path / "top"
    top.mkdir()
    (top / "link").symlink_to(outside)
    (top / "shut").mkdir()
    (top / "shut" / "shell").touch()
    (top / "shut" / "shell").chmod(0o6755)
    (top / "shut").chmod(0)
    descriptor = os.open(top, os.O_RDONLY)
    for level in range(60):
        name = f"{level:03d}".ljust(200, "x")
        os.mkdir(name, dir_fd=descriptor)
        os.chmod(name, 0o2755, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("shell", os.O_CREAT | os.O_WRONLY, 0o4755, dir_fd=descriptor))
    open_before = len(os.listdir("/proc/self/fd"))
    strip_set_id_bits([top])
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert stat.S_IMODE(os.stat("shell", dir_fd=descriptor).st_mode) == 0o755
    assert stat.S_IMODE(os.fstat(descriptor).st_mode) == 0o755
    os.close(descriptor)
    (top / "shut").chmod(0o700)
    assert mode_of(top / "shut" / "shell") == 0o755
    assert mode_of(outside) == 0o4755


def test_many_directories_far_below_need_few_descriptors(tmp_path: Path) -> None:
    """A worker that ran out of them would take every build on it along."""
    top = tmp_path / "top"
    top.mkdir()
    descriptor = os.open(top, os.O_RDONLY)
    for level in range(20):
        for sibling in range(150):
            os.mkdir(f"{sibling:03d}".ljust(250, "y"), dir_fd=descriptor)
        name = f"{level:03d}".ljust(200, "x")
        os.mkdir(name, dir_fd=descriptor)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = below
    os.close(os.open("shell", os.O_CREAT | os.O_WRONLY, 0o4755, dir_fd=descriptor))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 100, hard))
    try:
        strip_set_id_bits([top])
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert stat.S_IMODE(os.stat("shell", dir_fd=descriptor).st_mode) == 0o755
    os.close(descriptor)
