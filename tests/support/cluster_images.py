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

# Set it to what the images are called in the cluster already: platform, builder and evaluation, with commas.
IMAGES = "CLOUDIFY_TEST_IMAGES"


class ClusterImages(NamedTuple):
    """What the images are called in the cluster. `builder`: its digest, as runs of another image aren't continued."""

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
    names = {target: IMAGE.format(target) for target in ClusterImages._fields}
    with contextlib.closing(DockerEngine()) as engine, tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        digests = {target: engine.make_image(target) for target in names}
        archive = Path(directory) / "images.tar"
        # One archive: the images share their lower layers.
        subprocess.run(["docker", "--host", engine.host, "save", "--output", str(archive), *names.values()], check=True)
        subprocess.run([*shlex.split(os.environ["KUBERNETES_LOAD"]), str(archive)], check=True)
    return ClusterImages(**names | {"builder": digests["builder"]})


@pytest.fixture(scope="session")
def cluster_images() -> ClusterImages:
    """Skips where no image can be made, and says why."""
    try:
        return bring_images()
    except NoDaemon as error:
        pytest.skip(f"the images can't be made: {error}")
