"""The platform's images in a cluster: made from the Dockerfile, and brought there by KUBERNETES_LOAD."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.support.docker_engine import IMAGE, DockerEngine, NoDaemon, find_obstacle

# Set it to names that the images have in the cluster already: platform, builder and evaluation, with commas.
IMAGES = "CLOUDIFY_TEST_IMAGES"


class ClusterImages(NamedTuple):
    """The names that the images have in the cluster."""

    platform: str
    builder: str
    evaluation: str


def bring_images() -> ClusterImages:
    """The images that IMAGES names; without it they are made and brought into the cluster.

    Raises NoDaemon where no image can be made, and says why.
    """
    given = os.environ.get(IMAGES)
    if given:
        return ClusterImages(*given.split(","))
    obstacle = find_obstacle()
    if obstacle is not None:
        raise NoDaemon(obstacle)
    images = ClusterImages(*(IMAGE.format(target) for target in ClusterImages._fields))
    with contextlib.closing(DockerEngine()) as engine, tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        for target in ClusterImages._fields:
            engine.make_image(target)
        archive = Path(directory) / "images.tar"
        # One archive: the images share their lower layers.
        subprocess.run(["docker", "--host", engine.host, "save", "--output", str(archive), *images], check=True)
        subprocess.run([*shlex.split(os.environ["KUBERNETES_LOAD"]), str(archive)], check=True)
    return images


@pytest.fixture(scope="session")
def cluster_images() -> ClusterImages:
    """Skips where no image can be made, and says why."""
    try:
        return bring_images()
    except NoDaemon as error:
        pytest.skip(f"the images can't be made: {error}")
