"""Limits of git and its helpers (memory, entries, output), and whose failure it is when something ends them."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from shared.errors import FailureCode, PlatformError, StageFailure
from shared.plans import LIMITS, Plan
from tests.support.cloner import Cloner, MakeCloner, add_submodule
from tests.support.git_server import GitServer
from tests.support.hostile_repositories import commit_tree, nested_trees, tree, write_object
from tests.support.repositories import git, make_repository
from workers.executors.cgroups import ControlGroups, discover_control_groups
from workers.pipeline.stage import NothingToBuild
from workers.stages.clone.deadline import Deadline
from workers.stages.clone.git.confinement import Confinement
from workers.stages.clone.git.failures import is_disk_full
from workers.stages.clone.git.runner import Git, GitFailed, GitLimits

pytestmark = pytest.mark.integration

_GROUPS = discover_control_groups()


@pytest.fixture(params=["control groups", "watching"])
def groups(request: pytest.FixtureRequest) -> ControlGroups | None:
    if request.param == "watching":
        return None
    if _GROUPS is None:
        pytest.skip("this host gives no control groups")
    return _GROUPS


@pytest.fixture
def confinement(groups: ControlGroups | None) -> Iterator[Confinement]:
    with Confinement.opened(groups, "depl_1", LIMITS[Plan.FREE]) as opened:
        yield opened


def make_git(directory: Path, confinement: Confinement, **limits: int) -> Git:
    deadline = Deadline(time.monotonic() + 300, threading.Event())
    bounds = GitLimits(**{"maximum_bytes": 1 << 30} | limits)
    return Git(directory, bounds, deadline, lambda _: None, confinement=confinement)


@pytest.mark.parametrize("leaf", [b"x", None], ids=["files", "directories alone"])
def test_trees_that_unfold_are_not_checked_out(make_cloner: MakeCloner, tmp_path: Path, leaf: bytes | None) -> None:
    cloner = make_cloner(control_groups=_GROUPS)
    url = make_repository(tmp_path / "r", {"index.html": "one"})
    sha = nested_trees(tmp_path / "r", width=10, depth=9, leaf=leaf)
    failure = cloner.failure(url)
    assert (failure.code, "500000 files and directories" in failure.message) == (FailureCode.REPOSITORY_TOO_LARGE, True)
    # The condition of a deployment compares trees that it fetches by itself.
    failure = cloner.failure(url, commit_sha=sha, if_changed=True)
    assert (failure.code, "500000" in failure.message) == (FailureCode.REPOSITORY_TOO_LARGE, True)
    assert [path.name for path in cloner.directory.glob("run-*/source/*")] == [".git"]


def test_a_tree_without_bottom(cloner: Cloner, tmp_path: Path) -> None:
    url = make_repository(tmp_path / "r", {"index.html": "one"})
    nested_trees(tmp_path / "r", width=1, depth=400)
    failure = cloner.failure(url)
    assert (failure.code, "nests directories" in failure.message) == (FailureCode.REPOSITORY_TOO_LARGE, True)


def test_files_are_measured_before_they_are_written(cloner: Cloner, tmp_path: Path) -> None:
    url = make_repository(tmp_path / "r", {"index.html": "one"})
    blob = write_object(tmp_path / "r", "blob", bytes(1 << 20))
    entries = [("100644", f"f{number:03}", blob) for number in range(300)]
    commit_tree(tmp_path / "r", write_object(tmp_path / "r", "tree", tree(entries)))
    failure = cloner.failure(url, disk_bytes=100 << 20)
    assert (failure.code, "100 MiB of disk" in failure.message) == (FailureCode.REPOSITORY_TOO_LARGE, True)
    assert [path.name for path in cloner.directory.glob("run-*/source/*")] == [".git"]
    assert len(cloner.files(cloner.clone(url))) == 300


def test_submodules_count_together(confinement: Confinement, tmp_path: Path) -> None:
    runner = make_git(tmp_path, confinement, maximum_entries=100)
    for name in ("one", "two", "three"):
        make_repository(tmp_path / name, {f"f{number}": "x" for number in range(40)})
    runner.check_tree("HEAD", tmp_path / "one")
    runner.check_tree("HEAD", tmp_path / "two")
    # Another commit in the place of the first, as after a force-push.
    runner.check_tree("HEAD", tmp_path / "two")
    with pytest.raises(StageFailure, match="more than 100 files"):
        runner.check_tree("HEAD", tmp_path / "three")


_HOG = "import time; kept = bytearray(1 << 30); time.sleep(600)"
_HOGS = (
    f"import os, subprocess, sys; [subprocess.Popen([sys.executable, '-c', {_HOG!r}]) for _ in range(3)]; "
    "os.wait(); sys.exit(1)"
)


@pytest.mark.parametrize(
    "command",
    [["sh", "-c", "git stripspace < huge"], ["python3", "-c", _HOGS]],
    ids=["one process", "three processes"],
)
def test_memory_beyond_the_plan_is_the_users(confinement: Confinement, tmp_path: Path, command: list[str]) -> None:
    runner = make_git(tmp_path, confinement, maximum_bytes=1 << 40)
    os.truncate(os.open(tmp_path / "huge", os.O_WRONLY | os.O_CREAT), 3 << 30)
    with pytest.raises((StageFailure, PlatformError)) as caught:
        runner.run_program(command, tmp_path)
    assert isinstance(caught.value, StageFailure), caught.value
    assert (caught.value.code, "2048 MiB" in caught.value.message) == (FailureCode.OUT_OF_MEMORY, True)


def test_one_huge_file_is_the_repositorys(confinement: Confinement, tmp_path: Path) -> None:
    runner = make_git(tmp_path, confinement)
    limit = (LIMITS[Plan.FREE].disk_bytes >> 20) + 128
    with pytest.raises(StageFailure, match="MiB of disk") as caught:
        # Without content, so that only the limit on files can notice.
        runner.run_program(["dd", "if=/dev/null", "of=huge", "bs=1M", f"seek={limit}", "count=0"], tmp_path)
    assert caught.value.code is FailureCode.REPOSITORY_TOO_LARGE


def test_a_death_by_a_signal_is_the_platforms_failure(confinement: Confinement, tmp_path: Path) -> None:
    runner = make_git(tmp_path, confinement)
    for name in ("KILL", "TERM", "SEGV", "ABRT"):
        with pytest.raises(PlatformError, match=f"SIG{name}"):
            runner.run_program(["sh", "-c", f"kill -{name} $$"], tmp_path)
    # What git's trace says of a program that it started.
    with pytest.raises(PlatformError, match="SIGKILL"):
        runner.run(["-c", "alias.x=!kill -9 $$", "x"], tmp_path)


@pytest.mark.parametrize(
    "said",
    ["error: index-pack died of signal 9", "fatal: Out of memory, malloc failed", "x: No space left on device"],
)
@pytest.mark.parametrize("status", [125, 128, 137])
def test_text_of_servers_and_files_is_not_taken_for_gits_own(
    confinement: Confinement, tmp_path: Path, said: str, status: int
) -> None:
    runner = make_git(tmp_path, confinement)
    for words in (said, f"remote: {said}", f"fatal: remote error: a\n{said}", f"a\ncloudify: the limits\n{said}"):
        (tmp_path / "words").write_text(words)
        with pytest.raises(GitFailed) as caught:
            runner.run_program(["sh", "-c", f"cat words >&2; exit {status}"], tmp_path)
        assert caught.value.messages == ()
    # git's own word for a name that a tenant chose.
    with pytest.raises(GitFailed) as caught:
        runner.run(["check-ref-format", "--branch", f"a\n{said}"], tmp_path)
    assert not is_disk_full(caught.value)


@pytest.mark.parametrize("victim", ["git", "git-remote-http"])
def test_a_git_that_is_killed_is_tried_again(cloner: Cloner, http: GitServer, victim: str) -> None:
    http.hold = threading.Event()
    outcome: list[Exception] = []

    def run() -> None:
        try:
            cloner.clone(http.url("r.git"), attempt=3)
        except Exception as error:  # noqa: BLE001 - told to the thread that waits
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    while not http.requests:
        assert thread.is_alive()
        threading.Event().wait(0.01)
    started = psutil.Process().children(recursive=True)
    # Its command line, too, is cut at 15 characters.
    found = [child for child in started if child.name().startswith(victim) and (victim != "git" or _is_main(child))]
    assert found, started
    for child in found:
        child.send_signal(signal.SIGKILL)
    thread.join(120)
    assert isinstance(outcome[0], PlatformError), outcome
    assert "SIGKILL" in str(outcome[0])


def _is_main(process: psutil.Process) -> bool:
    return process.cmdline()[:2] == ["git", "ls-remote"]


def test_what_a_dead_worker_left_is_ended() -> None:
    if _GROUPS is None:
        pytest.skip("this host gives no control groups")
    process = subprocess.Popen(["true"])
    process.wait()
    name = f"git-{process.pid}-1-1-abandoned"
    group = _GROUPS.group(name)
    group.create()
    left = subprocess.Popen(["sleep", "600"])
    group.add(left.pid)
    with Confinement.opened(_GROUPS, "depl_1", LIMITS[Plan.FREE]):
        assert left.wait(60) == -signal.SIGKILL
        assert name not in _GROUPS.names()
        own = [name for name in _GROUPS.names() if name.startswith(f"git-{os.getpid()}-") and "depl_1" in name]
        assert own
        # Another clone leaves the groups of live workers alone.
        with Confinement.opened(_GROUPS, "depl_2", LIMITS[Plan.FREE]):
            assert set(own) <= set(_GROUPS.names())
    assert not set(own) & set(_GROUPS.names())


def test_a_tree_that_unfolds_is_refused_in_a_submodule_too(cloner: Cloner, http: GitServer) -> None:
    make_repository(http.root / "theme.git", {"theme.css": "one"})
    sha = nested_trees(http.root / "theme.git", width=10, depth=9)
    make_repository(http.root / "site.git", {"index.html": "one"})
    add_submodule(http.root / "site.git", "../theme.git", sha)
    failure = cloner.failure(http.url("site.git"))
    assert (failure.code, failure.message.startswith("Submodule theme: ")) == (FailureCode.REPOSITORY_TOO_LARGE, True)


def test_a_repository_runs_in_the_group(make_cloner: MakeCloner, tmp_path: Path) -> None:
    cloner = make_cloner(control_groups=_GROUPS)
    url = make_repository(tmp_path / "r", {"index.html": "one"})
    assert cloner.clone(url).output.commit_sha == git(tmp_path / "r", "rev-parse", "HEAD")
    assert _GROUPS is None or not [name for name in _GROUPS.names() if name.startswith(f"git-{os.getpid()}-")]


@pytest.mark.parametrize(("before", "is_ignored"), [(60_000, True), (40 << 20, False)])
def test_the_beginning_of_a_message_without_end_is_read(
    cloner: Cloner, tmp_path: Path, before: int, is_ignored: bool
) -> None:
    url = make_repository(tmp_path / "r", {"index.html": "one"})
    head = git(tmp_path / "r", "cat-file", "commit", "HEAD")
    message = "A site\n" + "[" * before + "[skip ci]"
    sha = write_object(tmp_path / "r", "commit", f"{head.partition(chr(10) * 2)[0]}\n\n{message}".encode())
    git(tmp_path / "r", "update-ref", "refs/heads/main", sha)
    if is_ignored:
        with pytest.raises(NothingToBuild, match=r"\[skip ci\]"):
            cloner.clone(url, if_changed=True)
    else:
        facts = cloner.clone(url, if_changed=True).facts
        assert facts == {"commit_sha": sha, "commit_message": message[:1000]}


def test_no_more_of_a_message_is_kept(confinement: Confinement, tmp_path: Path) -> None:
    make_repository(tmp_path / "r", {"index.html": "one"})
    head = git(tmp_path / "r", "cat-file", "commit", "HEAD").partition("\n\n")[0]
    sha = write_object(tmp_path / "r", "commit", f"{head}\n\n{'x' * (40 << 20)}".encode())
    assert len(make_git(tmp_path, confinement).read_message(sha, tmp_path / "r")) == 65536
