"""Hostile repositories are read in a child process whose limits are its own, and whose death is told apart."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import tracemalloc
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.errors import Cancelled, FailureCode, PlatformError, StageFailure
from shared.text.storable import storable
from tests.support.executors import wait_for
from tests.support.repositories import write_site
from workers.artifacts.output_tree import OutputLimits
from workers.filesystem.trees import remove_tree
from workers.frameworks.detection import Overrides
from workers.reading.project import ProjectQuestion, ProjectReading
from workers.reading.reader import ContentReader, ReadingLimits

ROOT = Path(__file__).resolve().parents[4]
PACKAGE = '{"scripts": {"build": "true"}}'
# Each file of this many has to be parsed; that takes minutes.
ENDLESS = 4000
LIMITS = ReadingLimits()
SITE = OutputLimits(20_000, 1 << 30, 1 << 20)


def read(
    tree: Path,
    limits: ReadingLimits = LIMITS,
    cancelled: threading.Event | None = None,
    reader: ContentReader | None = None,
    directory: str = ".",
) -> ProjectReading:
    question = ProjectQuestion(directory, Overrides(), "24.1.0", "11.6.0")
    return (reader or ContentReader(limits)).read_project(tree, question, cancelled or threading.Event(), tree.name)


def refused(tree: Path, limits: ReadingLimits = LIMITS, directory: str = ".") -> StageFailure:
    with pytest.raises(StageFailure) as caught:
        read(tree, limits, directory=directory)
    return caught.value


def read_pointers(tree: Path, names: str, limits: ReadingLimits = LIMITS) -> list[tuple[str, str, int]]:
    with tempfile.TemporaryFile() as file:
        file.write(os.fsencode(names))
        return ContentReader(limits).read_lfs_pointers(tree, file, threading.Event())


def endless(tree: Path) -> None:
    """A workspace that takes minutes to read, whatever the algorithms."""
    write_site(tree, {"package.json": '{"workspaces": ["*"], "scripts": {"build": "true"}}'})
    content = "[" + "[1]," * 250_000 + "1]"
    (tree / "large").write_text('{"scripts": ' + content + "}")
    for number in range(ENDLESS):
        (tree / str(number)).mkdir()
        os.link(tree / "large", tree / str(number) / "package.json")


def children() -> list[psutil.Process]:
    """The processes of this one that read trees."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if _reads(process)]


def _reads(process: psutil.Process) -> bool:
    try:
        return any("workers.reading.child" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False


@contextmanager
def reading(tree: Path, cancelled: threading.Event) -> Generator[Callable[[], ProjectReading]]:
    """The child runs; calling what is yielded waits for the answer."""
    with ThreadPoolExecutor(1) as thread:
        try:
            future = thread.submit(read, tree, cancelled=cancelled)
            wait_for(lambda: bool(children()))
            yield lambda: future.result(60)
        finally:
            cancelled.set()


def test_a_project_is_read(tmp_path: Path) -> None:
    write_site(tmp_path, {"package.json": PACKAGE, "package-lock.json": "{}", ".nvmrc": "22"})
    answer = read(tmp_path)
    assert (answer.detection.framework, answer.detection.lockfile) == ("node", "package-lock.json")
    assert [tool.name for tool in answer.tools] == ["node"]
    assert answer.watched == (".",)
    assert not children()


def test_an_answer_about_the_same_content_needs_no_child(tmp_path: Path) -> None:
    write_site(tmp_path / "tree", {"package.json": PACKAGE})
    reader = ContentReader()
    answer = read(tmp_path / "tree", reader=reader)
    (tmp_path / "tree").rename(tmp_path / "moved")
    question = ProjectQuestion(".", Overrides(), "24.1.0", "11.6.0")
    assert reader.read_project(tmp_path / "tree", question, threading.Event(), "tree") == answer
    with pytest.raises(StageFailure):
        reader.read_project(tmp_path / "tree", question, threading.Event(), "another")


def test_a_failure_of_the_repository_keeps_its_code_and_message(tmp_path: Path) -> None:
    failure = refused(tmp_path)
    assert failure.code is FailureCode.PROJECT_NOT_RECOGNISED
    assert "Add an index.html" in failure.message
    assert refused(tmp_path, directory="absent").code is FailureCode.ROOT_DIRECTORY_NOT_FOUND


def test_a_pattern_of_many_stars_is_matched_at_once(tmp_path: Path) -> None:
    directory = "a" * 100
    pattern = "*a" * 25 + "b"
    write_site(tmp_path, {"package.json": f'{{"workspaces": ["{pattern}"]}}', f"{directory}/package.json": PACKAGE})
    answer = read(tmp_path, ReadingLimits(cpu_seconds=10), directory=directory)
    assert answer.detection.install_directory == directory


def test_cpu_time_is_limited(tmp_path: Path) -> None:
    endless(tmp_path)
    failure = refused(tmp_path, ReadingLimits(cpu_seconds=2))
    assert failure.code is FailureCode.CONFIGURATION_INVALID
    assert "2 seconds of processor time" in failure.message
    assert "The last file that was read is " in failure.message


def test_the_time_is_limited(tmp_path: Path) -> None:
    endless(tmp_path)
    failure = refused(tmp_path, ReadingLimits(wall_seconds=1))
    assert failure.code is FailureCode.CONFIGURATION_INVALID
    assert "longer than 1 seconds" in failure.message
    assert not children()


def test_memory_is_limited(tmp_path: Path) -> None:
    write_site(tmp_path, {"mkdocs.yml": "", "requirements.txt": "ab\n" * (10 << 20)})
    failure = refused(tmp_path, ReadingLimits(memory_bytes=256 << 20))
    assert failure.code is FailureCode.CONFIGURATION_INVALID
    assert "256 MiB of memory" in failure.message
    assert "requirements.txt" in failure.message


def test_an_answer_is_limited(tmp_path: Path) -> None:
    package = {"scripts": {f"{'x' * 90_000}-build": "vite build"}, "devDependencies": {"vite": "7"}}
    write_site(tmp_path, {"package.json": json.dumps(package)})
    failure = refused(tmp_path, ReadingLimits(answer_bytes=50_000))
    assert "more than can be recorded" in failure.message


def test_a_cancel_kills_the_child(tmp_path: Path) -> None:
    endless(tmp_path)
    cancelled = threading.Event()
    with reading(tmp_path, cancelled) as answer:
        cancelled.set()
        with pytest.raises(Cancelled):
            answer()
    assert not children()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV, signal.SIGABRT])
def test_a_child_that_is_killed_from_outside_is_the_platforms_failure(tmp_path: Path, number: signal.Signals) -> None:
    endless(tmp_path)
    with reading(tmp_path, threading.Event()) as answer:
        children()[0].send_signal(number)
        with pytest.raises(PlatformError, match=f"status -{number.value}"):
            answer()


def test_a_child_dies_with_its_worker(tmp_path: Path) -> None:
    endless(tmp_path)
    code = (
        "import sys, threading\n"
        "from pathlib import Path\n"
        "from tests.integration.workers.reading.test_content_reader import read\n"
        f"read(Path({str(tmp_path)!r}))\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)
    try:
        wait_for(lambda: any(_reads(process) for process in psutil.Process(worker.pid).children()))
        (child,) = psutil.Process(worker.pid).children()
    finally:
        worker.kill()
        worker.wait()
    wait_for(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_others_are_read_meanwhile(tmp_path: Path) -> None:
    endless(tmp_path / "hostile")
    write_site(tmp_path / "harmless", {"index.html": ""})
    cancelled = threading.Event()
    with reading(tmp_path / "hostile", cancelled):
        assert read(tmp_path / "harmless").detection.framework == "static"
        assert children()


def test_pointers_are_read_whatever_their_names(tmp_path: Path) -> None:
    oid = "a" * 64
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 5\n"
    name = os.fsdecode(b"caf\xe9.png")
    write_site(tmp_path, {name: pointer, "text": "no pointer", "large": pointer + " " * 1024})
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(name)
    names = ["absent", name, "text", "large", "pipe", "link"]
    assert read_pointers(tmp_path, "".join(f"{each}\0" for each in names)) == [(name, oid, 5)]


@settings(max_examples=12, deadline=None)
@example(b"caf\xe9")
@example(b"\xed\xb3\xa9")
@example(b"a\nb")
@given(st.binary(min_size=1, max_size=80).filter(lambda name: not {*b"/\0"} & {*name} and name.strip(b".")))
def test_no_name_of_a_directory_makes_an_answer_unusable(given_name: bytes) -> None:
    name = os.fsdecode(given_name)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 5\n"
    site = {
        "package.json": '{"workspaces": ["*"]}',
        "app/package.json": '{"dependencies": {"member": "*"}, "scripts": {"build": "true"}}',
        f"{name}/package.json": '{"name": "member", "scripts": {"postinstall": "node x"}}',
        f"{name}/pointer": pointer,
    }
    with tempfile.TemporaryDirectory() as directory:
        tree = Path(directory)
        write_site(tree, site)
        answer = read(tree, directory="app")
        assert answer.dependencies is not None
        assert answer.dependencies.reader == f"a script that {storable(name)}/package.json has for installs"
        assert name in answer.watched or answer.watched == (".",)
        assert read_pointers(tree, f"{name}/pointer\0") == [(f"{name}/pointer", "a" * 64, 5)]
        # A site can't have every name, and says so.
        with contextlib.suppress(StageFailure):
            assert f"{name}/pointer" in ContentReader().scan_output(tree, SITE, threading.Event()).files


def test_reading_pointers_is_limited(tmp_path: Path) -> None:
    with pytest.raises(StageFailure, match="1 seconds of processor time"):
        read_pointers(tmp_path, "a/b\0" * 500_000, ReadingLimits(cpu_seconds=1))
    with pytest.raises(StageFailure, match="128 MiB of memory"):
        read_pointers(tmp_path, "a" * (128 << 20), ReadingLimits(memory_bytes=128 << 20))


def test_names_of_files_cost_the_worker_no_more_than_their_bytes(tmp_path: Path) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'a' * 64}\nsize 5\n"
    write_site(tmp_path, {"pointer": pointer})
    names = os.fsdecode(b"\xe9" * 159 + b"\0") * 50_000 + "pointer\0"
    tracemalloc.start()
    try:
        assert read_pointers(tmp_path, names) == [("pointer", "a" * 64, 5)]
        assert tracemalloc.get_traced_memory()[1] < 40 << 20
    finally:
        tracemalloc.stop()


def test_links_to_directories_are_not_each_compared_with_every_file(tmp_path: Path) -> None:
    write_site(tmp_path, {"pages/index.html": "", **{f"files/{number}.html": "" for number in range(9_900)}})
    for number in range(9_900):
        (tmp_path / f"link{number}").symlink_to("pages")
    found = ContentReader(ReadingLimits(cpu_seconds=4)).scan_output(tmp_path, SITE, threading.Event()).files
    assert len(found) == 19_801
    assert found["link7/index.html"] == ("pages/index.html", 0)


def test_listing_an_output_is_limited(tmp_path: Path) -> None:
    target = "x/../" * 800 + "a0"
    write_site(tmp_path, {"page.html": "", "x/y": ""})
    for number in range(9_000):
        (tmp_path / f"a{number}").symlink_to(f"{'x/../' * 800}a{number + 1}")
    (tmp_path / "a9000").symlink_to(target)
    with pytest.raises(StageFailure) as caught:
        ContentReader(ReadingLimits(wall_seconds=0.2)).scan_output(tmp_path, SITE, threading.Event())
    assert caught.value.code is FailureCode.OUTPUT_INVALID
    assert "fewer and simpler symbolic links" in caught.value.message


def _pipe(tree: Path) -> None:
    os.mkfifo(tree / "package.json")


def _circle(tree: Path) -> None:
    (tree / "package.json").symlink_to("package-lock.json")
    (tree / "package-lock.json").symlink_to("package.json")


def _device(tree: Path) -> None:
    (tree / "package.json").symlink_to("/dev/zero")
    (tree / "package-lock.json").symlink_to("/proc/kmsg")


def _pipe_as_version(tree: Path) -> None:
    os.mkfifo(tree / ".nvmrc")


def _deep_directories(tree: Path) -> None:
    place = os.open(tree, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=place)
        below = os.open("d", os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)


def _nothing(_tree: Path) -> None:
    pass


SCRIPTS = {"scripts": {"build": "pnpm x"}}
NODE = {"index.html": "", "package.json": PACKAGE}
MEBIBYTE = 1 << 20
# Files, what is done to the tree besides, and the word of the failure; None: it is read. Each within a few seconds of
# CPU time, as the algorithms are linear and the rest is refused.
HOSTILE: dict[str, tuple[Mapping[str, str | bytes], Callable[[Path], None], str | None]] = {
    "deep JSON": ({"package.json": '{"a":' * 100_000}, _nothing, "nested more than 200 levels"),
    "deep JSON that is closed": ({"package.json": '{"a":' * 300 + "1" + "}" * 300}, _nothing, "nested more than 200"),
    "deep TOML": ({"mkdocs.yml": "", "pyproject.toml": "a = " + "[" * 100_000}, _nothing, "pyproject.toml"),
    "deep TOML tables": (
        {"mkdocs.yml": "", "pyproject.toml": f"[{'.'.join('a' * 400)}]\nb = 1"},
        _nothing,
        "nested more than 200 levels",
    ),
    "YAML aliases": (
        {**NODE, "pnpm-workspace.yaml": "a: &a [x, x]\n" + "".join(f"b{n}: &b{n} [*a, *a]\n" for n in range(9999))},
        _nothing,
        None,
    ),
    "a workspace of nothing but line ends": ({**NODE, "pnpm-workspace.yaml": "\n" * (MEBIBYTE - 1)}, _nothing, None),
    "a workspace of open brackets": (
        {**NODE, "pnpm-workspace.yaml": "packages: [\n" * 80_000},
        _nothing,
        "lists more than 5000 packages",
    ),
    "100 000 workspaces": (
        {"package.json": '{"workspaces": [' + ",".join(['"a*"'] * 100_000) + "]}", "sub/package.json": PACKAGE},
        _nothing,
        "more than 5000 packages",
    ),
    "a pattern of 600 characters": (
        {"package.json": '{"workspaces": ["' + "a*" * 300 + '"]}', "sub/package.json": PACKAGE},
        _nothing,
        "500 characters",
    ),
    "a large lockfile": ({**NODE, "pnpm-lock.yaml": "a" * (33 * MEBIBYTE)}, _nothing, "pnpm-lock.yaml is larger"),
    "one line of 30 MiB": ({**NODE, "yarn.lock": "__metadata:" * (2 * MEBIBYTE)}, _nothing, None),
    "a large package.json": ({"package.json": " " * (2 * MEBIBYTE)}, _nothing, "package.json is larger"),
    "a million digits": ({"package.json": '{"a": ' + "9" * 1_000_000 + "}"}, _nothing, "can't be decoded"),
    "a manager's version of many digits": (
        {"package.json": '{"packageManager": "pnpm@%s", "scripts": {"build": "pnpm x"}}' % ("9" * 10_000)},
        _nothing,
        None,
    ),
    "a range of a hundred thousand parts": (
        {"package.json": json.dumps({"engines": dict.fromkeys(("node", "pnpm"), ">1 || " * 80_000), **SCRIPTS})},
        _nothing,
        None,
    ),
    "a version of spaces": ({**NODE, ".nvmrc": " " * MEBIBYTE}, _nothing, None),
    "a version of line ends": ({"mkdocs.yml": "", ".python-version": "\n" * (MEBIBYTE - 1)}, _nothing, None),
    "a configuration of line ends": ({"index.html": "", "config.toml": "\n" * (MEBIBYTE - 1)}, _nothing, None),
    "UTF-16": ({"package.json": PACKAGE.encode("utf-16")}, _nothing, "can't be decoded"),
    "binary": ({"package.json": bytes(range(256)) * 100}, _nothing, "can't be decoded"),
    "requirements that include themselves": (
        {"mkdocs.yml": "", "requirements.txt": "-r requirements.txt\n" * 50_000},
        _nothing,
        None,
    ),
    "a path of a mebibyte": (
        {"package.json": "{}", "web/package.json": PACKAGE, "web/a.json": "../" + "a/" * 500_000 + "b.js"},
        _nothing,
        None,
    ),
    "hundred thousand paths": (
        {"package.json": "{}", "web/package.json": PACKAGE}
        | {f"web/{n}.js": "".join(f"../{n}{m}.js " for m in range(90_000)) for n in range(9)},
        _nothing,
        None,
    ),
    "a name that no file can have": (
        {"package.json": "{}", "web/package.json": PACKAGE, "web/a.json": f"../{'a' * 300}.js"},
        _nothing,
        None,
    ),
    "a pipe": ({"index.html": ""}, _pipe, None),
    "a pipe as a version": (NODE, _pipe_as_version, None),
    "links in a circle": ({"index.html": ""}, _circle, None),
    "links to devices": ({"index.html": ""}, _device, None),
    "1500 directories in each other": (NODE, _deep_directories, None),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_repository_holds_is_read_or_refused_soon(
    request: pytest.FixtureRequest, tmp_path: Path, name: str
) -> None:
    files, arrange, word = HOSTILE[name]
    tree = tmp_path / "tree"
    write_site(tree, files)
    arrange(tree)
    # pytest's own clean-up is recursive.
    request.addfinalizer(lambda: remove_tree(tree))
    directory = next((place for place in ("web", "sub") if (tree / place).is_dir()), ".")
    limits = ReadingLimits(cpu_seconds=10)
    if word is None:
        assert read(tree, limits, directory=directory).detection.root_directory == directory
    else:
        failure = refused(tree, limits, directory)
        assert failure.code is FailureCode.CONFIGURATION_INVALID
        assert word in failure.message
        assert len(failure.message) < 1000
