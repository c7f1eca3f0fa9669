"""compose.yaml runs every process, with settings that exist and no secret of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from api.cli.main import COMMANDS
from shared.deployments.state import Pool
from shared.settings.declaration import PREFIX, settings_of
from tests.support.documentation import parts

ROOT = Path(__file__).resolve().parents[2]
_TEXT = (ROOT / "compose.yaml").read_text()


def _services() -> dict[str, dict[str, Any]]:
    return yaml.safe_load(_TEXT)["services"]


def test_every_process_is_there() -> None:
    commands = [service["command"] for service in _services().values()]
    assert {command[0] for command in commands} == {"cloudify"}
    assert {command[2] for command in commands if command[1] == "worker"} == {pool.value for pool in Pool}
    names = {command[1] for command in commands}
    assert names >= {"migrate", "api", "worker", "reconciler", "exporter", "router"}
    assert names <= COMMANDS.keys()


def test_every_variable_is_a_setting() -> None:
    settings = {PREFIX + setting.name for part in parts().values() for _, setting in settings_of(part)}
    for name, service in _services().items():
        assert service["environment"].keys() <= settings, name


def test_secrets_and_addresses_have_no_default() -> None:
    for name in ("DATABASE_URL", "REDIS_URL", "S3_ACCESS_KEY", "S3_SECRET_KEY", "SECRET_KEY", "ENCRYPTION_KEYS"):
        for service in _services().values():
            assert re.fullmatch(rf"\$\{{CLOUDIFY_{name}:\?.+\}}", service["environment"][f"CLOUDIFY_{name}"])


def test_no_process_has_rights_that_it_doesn_t_need() -> None:
    for name, service in _services().items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert "no-new-privileges:true" in service["security_opt"], name
        sees_the_daemon = any("docker.sock" in volume for volume in service["volumes"])
        assert sees_the_daemon == (name in ("worker-install", "worker-build"))
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
