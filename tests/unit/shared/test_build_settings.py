"""The settings of the Docker executor, and whom a build's files belong to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from shared.settings import ExecutorSettings, SettingsError, load_settings
from tests.support.environment import ENVIRONMENT
from workers.executors.docker.backend import container_owner
from workers.executors.docker.image import TOOLCHAIN_FILE, toolchain_of, write_toolchain
from workers.executors.mounts import Bind
from workers.executors.table import executor_backend
from workers.executors.toolchain import Toolchain
from workers.filesystem.ownership import Owner

DIGEST = f"sha256:{'a1' * 32}"
TOOLCHAIN = Toolchain((), {}, "/opt/bin", {}, "/usr/bin/python3", "24.1.0", "11.0.0", "3.11.2", "0.9.0")


@pytest.mark.parametrize("image", [DIGEST, f"cloudify-builder@{DIGEST}", f"registry.example:5000/a/b@{DIGEST}"])
def test_an_image_is_named_by_its_digest(image: str) -> None:
    executor = load_settings({**ENVIRONMENT, "CLOUDIFY_BUILDER_IMAGE": image}).executor
    assert (executor.name, executor.builder_image) == ("docker", image)
    assert executor.docker_host == "unix:///var/run/docker.sock"


@pytest.mark.parametrize("image", ["cloudify-builder", "cloudify-builder:latest", DIGEST[:-1], f"-v@{DIGEST}"])
def test_an_image_without_a_digest_is_refused_with_how_to_find_it(image: str) -> None:
    with pytest.raises(SettingsError, match="docker image inspect"):
        load_settings({**ENVIRONMENT, "CLOUDIFY_BUILDER_IMAGE": image})


def test_pods_take_a_tag_and_pin_it_themselves() -> None:
    environment = {**ENVIRONMENT, "CLOUDIFY_EXECUTOR": "kubernetes"}
    image = "registry.example:5000/cloudify-builder:1.0"
    assert load_settings({**environment, "CLOUDIFY_BUILDER_IMAGE": image}).executor.builder_image == image
    with pytest.raises(SettingsError, match="CLOUDIFY_BUILDER_IMAGE"):
        load_settings({**environment, "CLOUDIFY_BUILDER_IMAGE": "-v:1"})


def test_docker_without_an_image_is_refused_with_how_to_make_one() -> None:
    with pytest.raises(SettingsError, match="docker build --target builder"):
        load_settings(ENVIRONMENT)
    assert load_settings({**ENVIRONMENT, "CLOUDIFY_EXECUTOR": "bubblewrap"}).executor.builder_image == ""


def test_only_roots_trees_for_containers_have_an_owner_of_their_own() -> None:
    assert executor_backend(ExecutorSettings().name).owner_of_trees() is None
    docker = executor_backend("docker")
    if os.geteuid() == 0:
        assert docker.owner_of_trees() == container_owner() == Owner(10001, 10001)
    else:
        assert docker.owner_of_trees() is None
        assert container_owner() == Owner(os.geteuid(), os.getegid())


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_a_tree_is_given_away_without_following_its_links(tmp_path: Path) -> None:
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (outside / "file").touch()
    (tree / "a" / "b").mkdir(parents=True)
    (tree / "a" / "b" / "file").touch()
    (tree / "a" / "away").symlink_to(outside)
    (tree / "a" / "dangling").symlink_to("nowhere")
    Owner(10001, 10001).give_tree(tree)
    assert {path.lstat().st_uid for path in (tree, *tree.rglob("*"))} == {10001}
    assert {path.stat().st_uid for path in (outside, outside / "file")} == {0}


def test_an_image_says_what_toolchain_it_holds(tmp_path: Path) -> None:
    source, root = tmp_path / "node", tmp_path / "root"
    (source / "bin").mkdir(parents=True)
    (source / "bin" / "node").write_text("program")
    (source / "bin" / "link").symlink_to("node")
    toolchain = replace(TOOLCHAIN, binds=(Bind(source, "/opt/node"),), shims={"npm": "#!/bin/sh\n"})
    root.mkdir()
    write_toolchain(toolchain, root)
    assert (root / "opt/node/bin/node").read_text() == "program"
    assert (root / "opt/node/bin/link").is_symlink()
    assert os.access(root / "opt/bin/npm", os.X_OK)
    assert toolchain_of((root / TOOLCHAIN_FILE.lstrip("/")).read_text()) == TOOLCHAIN


def test_the_names_of_the_api_are_host_names() -> None:
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "CLOUDIFY_EXECUTOR"}
    names = "Api.example.com., internal"
    assert load_settings({**environment, "CLOUDIFY_API_HOSTS": names}).api.hosts == ("api.example.com", "internal")
    for names in ("https://api.example.com", "api.example.com:8000", "*.example.com"):
        with pytest.raises(SettingsError, match="CLOUDIFY_API_HOSTS"):
            load_settings({**environment, "CLOUDIFY_API_HOSTS": names})
