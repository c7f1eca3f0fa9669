"""The images: their bases, their users, and what goes into them."""

from __future__ import annotations

import fnmatch
import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_DOCKERFILE = (ROOT / "Dockerfile").read_text()
_STAGES = {
    match["name"]: match["text"]
    for match in re.finditer(
        r"^FROM (?P<base>\S+) AS (?P<name>\S+)\n(?P<text>.*?)(?=^FROM |\Z)", _DOCKERFILE, re.MULTILINE | re.DOTALL
    )
}
_IMAGES = ("builder", "evaluation", "platform")


def test_bases_are_pinned_by_digest_in_build_arguments() -> None:
    [base] = re.findall(r"^ARG BASE_IMAGE=(\S+)$", _DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"[^@]+:[^@]+@sha256:[0-9a-f]{64}", base)
    bases = re.findall(r"^FROM (\S+) AS", _DOCKERFILE, re.MULTILINE)
    assert set(bases) - set(_STAGES) == {"${BASE_IMAGE}"}


def test_the_platform_s_image_is_the_last_and_so_the_default() -> None:
    assert list(_STAGES)[-1] == "platform"


def test_every_image_has_labels_and_a_numeric_user() -> None:
    for name in _IMAGES:
        text = _STAGES[name] if name == "builder" else _STAGES["process"] + _STAGES[name]
        assert re.search(r"^USER \d+:\d+$", text, re.MULTILINE), name
        for label in ("title", "description", "licenses", "version", "revision"):
            assert f"org.opencontainers.image.{label}=" in text, (name, label)


def test_the_platform_s_image_collects_children_and_tells_its_health() -> None:
    assert 'ENTRYPOINT ["/usr/bin/tini", "--"]' in _STAGES["process"]
    assert "HEALTHCHECK" in _STAGES["platform"]
    [module] = re.findall(r'"-m", "([\w.]+)"\]', _STAGES["platform"])
    assert (ROOT / (module.replace(".", "/") + ".py")).is_file()


def test_no_stage_that_is_kept_takes_credentials() -> None:
    for name in (*_IMAGES, "process"):
        assert "PIP_INDEX_URL" not in _STAGES[name], name


def test_the_version_of_the_images_is_the_package_s() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert set(re.findall(r"^ARG VERSION=(\S+)$", _DOCKERFILE, re.MULTILINE)) == {version}


def test_the_context_holds_what_is_copied_and_no_more() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "*"
    allowed = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        word.split("/")[0]
        for line in re.findall(r"^COPY (?!--from)(.*?[^\\])$", _DOCKERFILE, re.MULTILINE | re.DOTALL)
        for word in line.replace("\\\n", " ").split()[:-1]
    }
    assert allowed == copied
    ignored = [line.removeprefix("**/") for line in lines[1:] if not line.startswith("!")]
    tracked = subprocess.run(
        ["git", "ls-files", *sorted(allowed)], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    lost = [path for path in tracked for part in path.split("/") for rule in ignored if fnmatch.fnmatch(part, rule)]
    assert lost == []
