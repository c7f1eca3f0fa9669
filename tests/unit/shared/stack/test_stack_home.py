"""The folder of a platform: versions, space, secrets, locks, and what a former run left behind."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from shared.settings import SettingsError
from shared.stack.errors import BusyPort, StackError
from shared.stack.home import Home
from shared.stack.platform import assemble, check_ports, claim_ports, preliminary_settings, public_ports
from shared.stack.process_records import ProcessRecord, ProcessRecords, start_of
from tests.support.ports import free_ports


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path / "a home")
    home.lock()
    return home


def _sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)


def _gone(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    assert process.stdin is not None
    process.stdin.close()


def test_a_folder_of_this_version_is_taken_again(home: Home) -> None:
    home.check_version()
    home.check_version()


@pytest.mark.parametrize("found", [{"layout": 99, "postgres": 18}, {"layout": 1, "postgres": 17}, "nonsense"])
def test_a_folder_of_another_version_is_refused(home: Home, found: object) -> None:
    (home.directory / "version.json").write_text(json.dumps(found))
    with pytest.raises(StackError, match="another version of Cloudify"):
        home.check_version()


def test_a_damaged_version_is_refused(home: Home) -> None:
    (home.directory / "version.json").write_text("{")
    with pytest.raises(StackError, match="can't be read"):
        home.check_version()


def test_a_full_disk_is_refused(home: Home) -> None:
    home.check_space()
    with pytest.raises(StackError, match="is full"):
        home.check_space(least_free_bytes=1 << 62)


def test_a_nearly_full_disk_is_seen(home: Home) -> None:
    assert not home.is_nearly_full(least_free_bytes=0)
    assert home.is_nearly_full(least_free_bytes=1 << 62)


def test_secrets_are_generated_once_and_private(home: Home) -> None:
    first = home.secrets()
    assert Home(home.directory).secrets() == first
    assert stat.S_IMODE((home.directory / "secrets.json").stat().st_mode) == 0o600
    assert len(set(first.values())) == len(first)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"secretKey": "only one of them"}'])
def test_damaged_secrets_are_refused(home: Home, content: str) -> None:
    (home.directory / "secrets.json").write_text(content)
    with pytest.raises(StackError, match=r"secrets\.json .*; restore it"):
        home.secrets()


def test_secrets_are_not_generated_again_where_there_is_data(home: Home) -> None:
    (home.directory / "postgres" / "data").mkdir(parents=True)
    with pytest.raises(StackError, match=r"secrets\.json is missing.*; restore it"):
        home.secrets()
    assert not (home.directory / "secrets.json").exists()


@pytest.mark.parametrize("content", ["", "[]", '{"postgres": "x", "valkey": 0, "s3": 70000}'])
def test_damaged_internal_ports_are_replaced(home: Home, content: str) -> None:
    whole = home.internal_ports()
    (home.run_directory / "ports.json").write_text(content)
    replaced = home.internal_ports()
    assert replaced.keys() == whole.keys()
    assert all(1023 < port < 65536 for port in replaced.values())


def test_two_platforms_that_start_at_once_do_not_share_a_port(home: Home) -> None:
    names = ("CLOUDIFY_API_PORT", "CLOUDIFY_SITES_PORT", "CLOUDIFY_METRICS_PORT")
    ports = [str(port) for port in free_ports(4)]
    first = preliminary_settings(home.directory, dict(zip(names, ports[:3], strict=True)))
    second = preliminary_settings(home.directory, dict(zip(names, (ports[3], ports[1], ports[0]), strict=True)))
    with contextlib.ExitStack() as stack:
        claims: list[socket.socket] = []
        others: list[socket.socket] = []
        stack.callback(lambda: [claim.close() for claim in claims + others])
        claim_ports(public_ports(first), claims)
        with pytest.raises(BusyPort, match=f"Port {ports[1]} is used.*CLOUDIFY_SITES_PORT"):
            claim_ports(public_ports(second), others)
        while claims:
            claims.pop().close()
        while others:
            others.pop().close()
        claim_ports(public_ports(second), others)


def test_one_port_for_two_things_is_refused(home: Home) -> None:
    environment = {"CLOUDIFY_API_PORT": "8765", "CLOUDIFY_SITES_PORT": "8765"}
    with pytest.raises(BusyPort, match="CLOUDIFY_API_PORT and CLOUDIFY_SITES_PORT are both 8765"):
        check_ports(public_ports(preliminary_settings(home.directory, environment)))


def test_internal_ports_are_kept_until_one_is_taken(home: Home) -> None:
    first = home.internal_ports()
    assert home.internal_ports() == first
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first["postgres"]))
        taken.listen()
        second = home.internal_ports()
    assert second["postgres"] != first["postgres"]
    assert {name: port for name, port in second.items() if name != "postgres"} == {
        name: port for name, port in first.items() if name != "postgres"
    }


def test_one_platform_a_folder(home: Home) -> None:
    with pytest.raises(StackError, match=r"Another `cloudify up` is using"):
        Home(home.directory).lock()
    home.unlock()
    other = Home(home.directory)
    other.lock()
    other.unlock()


@pytest.mark.parametrize("name", ["CLOUDIFY_API_PORT", "CLOUDIFY_SITES_PORT", "CLOUDIFY_METRICS_PORT"])
def test_a_busy_port_is_named(home: Home, name: str) -> None:
    ports = free_ports(3)
    names = ("CLOUDIFY_API_PORT", "CLOUDIFY_SITES_PORT", "CLOUDIFY_METRICS_PORT")
    environment = {each: str(port) for each, port in zip(names, ports, strict=True)}
    check_ports(public_ports(preliminary_settings(home.directory, environment)))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(environment[name])))
        taken.listen()
        with pytest.raises(BusyPort, match=rf"Port {environment[name]} is used.*{name}"):
            check_ports(public_ports(preliminary_settings(home.directory, environment)))


def test_wrong_settings_are_all_named(home: Home) -> None:
    with pytest.raises(SettingsError) as caught:
        preliminary_settings(home.directory, {"CLOUDIFY_API_PORT": "x", "CLOUDIFY_LOG_LEVEL": "loud"})
    assert len(caught.value.problems) == 2


def test_external_servers_replace_embedded_ones(home: Home) -> None:
    own = {
        "CLOUDIFY_DATABASE_URL": "postgresql://db.example/x",
        "CLOUDIFY_REDIS_URL": "redis://redis.example/0",
        "CLOUDIFY_S3_ENDPOINT": "https://s3.example",
        "CLOUDIFY_S3_ACCESS_KEY": "a",
        "CLOUDIFY_S3_SECRET_KEY": "b",
    }
    platform = assemble(home, own)
    assert [server.name for server in platform.servers] == ["caddy"]
    assert {name: platform.environment[name] for name in own} == own
    embedded = assemble(home, {})
    assert [server.name for server in embedded.servers] == ["postgres", "valkey", "object-store", "caddy"]
    assert not embedded.settings.api.registration_enabled


def test_orphans_of_a_killed_run_are_ended_and_nothing_else(home: Home) -> None:
    path = home.run_directory / "processes.json"
    orphan, stranger = _sleeper(), _sleeper()
    try:
        former = ProcessRecords(path)
        former.add("api", orphan.pid)
        records = json.loads(path.read_text())
        # The pid of a process that ended long ago belongs to somebody else now.
        records.append({"role": "caddy", "pid": stranger.pid, "started": "another boot:1"})
        path.write_text(json.dumps(records))
        assert ProcessRecords(path).end_orphans() == ["api"]
        assert orphan.wait(120) != 0
        assert stranger.poll() is None
        assert ProcessRecords(path).end_orphans() == []
    finally:
        _gone(orphan)
        _gone(stranger)


def test_records_that_cannot_be_read_end_nothing(home: Home) -> None:
    path = home.run_directory / "processes.json"
    path.write_text('[{"pid": 1}]')
    assert ProcessRecords(path).end_orphans() == []


def test_a_process_is_named_by_its_start() -> None:
    assert start_of(os.getpid()) == start_of(os.getpid()) is not None
    assert start_of(2**22 + 5) is None
    assert ProcessRecord("api", os.getpid(), "x") != ProcessRecord("api", os.getpid(), "y")
