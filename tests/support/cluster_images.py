"""The platform's images in a cluster: made from the Dockerfile, and brought there by KUBERNETES_LOAD."""

from __future__ import annotations

import os
import shlex
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.docker_engine import IMAGE, DockerEngine, NoDaemon, find_obstacle


class ClusterImages:
    """Close it with `close`."""

    def __init__(self) -> None:
        self._engine: DockerEngine | None = None

    def load(self, *targets: str) -> list[str]:
        """The digests of these targets' images, which are in the cluster then, also as docker_engine.IMAGE.

        Skips the test where no image can be made, and says why.
        """
        try:
            engine = self._start()
            digests = [engine.make_image(target) for target in targets]
        except NoDaemon as error:
            pytest.skip(f"the images can't be made: {error}")
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            archive = Path(directory) / "images.tar"
            names = [IMAGE.format(target) for target in targets]
            # One archive: the images share their lower layers.
            subprocess.run(["docker", "--host", engine.host, "save", "--output", str(archive), *names], check=True)
            subprocess.run([*shlex.split(os.environ["KUBERNETES_LOAD"]), str(archive)], check=True)
        return digests

    def _start(self) -> DockerEngine:
        if self._engine is None:
            obstacle = find_obstacle()
            if obstacle is not None:
                raise NoDaemon(obstacle)
            self._engine = DockerEngine()
        return self._engine

    def close(self) -> None:
        if self._engine is not None:
            self._engine.close()


@pytest.fixture(scope="session")
def cluster_images() -> Iterator[ClusterImages]:
    images = ClusterImages()
    yield images
    images.close()
