"""The command where a standard stream is closed, full, or of another encoding. As a process, as users run it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from api.cli.env_file import spelling
from api.cli.standard_streams import decode
from api.client.errors import ClientError

COMMAND = Path(sys.executable).with_name("cloudify")


def run(tmp_path: Path, shell: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """`shell` is a command line in which $C is the command."""
    # Nothing listens there: whatever asks the API fails, with a message.
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "C": str(COMMAND),
        "CLOUDIFY_API_URL": "http://127.0.0.1:1",
        "CLOUDIFY_TOKEN": "cfy_secret",
        "LC_ALL": "C.UTF-8",
    }
    finished = subprocess.run(["sh", "-c", shell], input=stdin, env=environment, cwd=tmp_path, capture_output=True)
    assert b"Traceback" not in finished.stderr, finished.stderr.decode()
    assert b"Exception ignored" not in finished.stderr, finished.stderr.decode()
    return finished


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["--help", "deploy --help", "whoami", "env set A --project b", "nonsense"])
def test_closed_streams_end_with_a_code_and_no_traceback(tmp_path: Path, closed: str, arguments: str) -> None:
    finished = run(tmp_path, f'"$C" {arguments} {closed}')
    assert finished.returncode in (0, 1, 2, 6)
    if arguments.endswith("--help"):
        # A result that nobody gets is a failure.
        assert finished.returncode == (1 if ">&-" in closed.replace("2>&-", "") else 0)


@pytest.mark.parametrize("arguments", ["--help", "--version", "deploy --help"])
def test_a_full_disk_is_reported(tmp_path: Path, arguments: str) -> None:
    finished = run(tmp_path, f'"$C" {arguments} >/dev/full')
    assert finished.returncode == 1
    assert b"No space left on device" in finished.stderr


def test_messages_that_cannot_be_written_change_nothing(tmp_path: Path) -> None:
    assert run(tmp_path, '"$C" --help 2>/dev/full').returncode == 0
    assert run(tmp_path, '"$C" whoami --json 2>/dev/full').returncode == 6


def test_an_argument_that_is_no_text_is_refused(tmp_path: Path) -> None:
    finished = run(tmp_path, '"$C" ls "$(printf \'caf\\351\')"')
    assert finished.returncode == 2
    assert b"UTF-8" in finished.stderr


@pytest.mark.parametrize("stdin", ["é".encode("latin-1"), "key".encode("utf-16-le"), b"\0", b"\xff\xfe\xff"])
@pytest.mark.parametrize(
    "arguments", ["env set A --project b", "login --email a@b.c --password-stdin", "whoami --token -"]
)
def test_input_in_another_encoding_is_refused_with_what_to_do(tmp_path: Path, stdin: bytes, arguments: str) -> None:
    finished = run(tmp_path, f'"$C" {arguments}', stdin)
    assert finished.returncode == 2
    assert b"Convert it first" in finished.stderr


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_read_in_the_encodings_that_can_be_told(encoding: str) -> None:
    assert decode("It", "pässword\r\n".encode(encoding)) == "pässword\r\n"
    with pytest.raises(ClientError):
        decode("It", "pässword".encode("latin-1"))


def test_json_goes_to_stdout_whole_or_the_command_fails(tmp_path: Path) -> None:
    finished = run(tmp_path, '"$C" whoami --json')
    assert json.loads(finished.stdout)["ok"] is False
    assert run(tmp_path, '"$C" whoami --json >/dev/full').returncode == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("plain", "'plain'"),
        ("it's", "`it's`"),
        ("it's `t`", '"it\'s `t`"'),
        ("two\nlines", "'two\nlines'"),
        ("100$", "'100$'"),
        ("a\\", "a\\"),
        ("pa$word", None),
        ("a\r\nb", None),
        ("\\$", None),
        ("'\"`\\", None),
        ("# '`\"", None),
    ],
)
def test_values_are_spelled_as_all_readers_take_them(value: str, expected: str | None) -> None:
    assert spelling(value) == expected
