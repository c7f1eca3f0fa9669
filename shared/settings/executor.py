"""What runs a project's commands."""

from __future__ import annotations

from collections.abc import Iterator

from shared.backends import EXECUTORS
from shared.settings.declaration import part, setting
from shared.settings.kinds import IMAGE, choice, url


@part
class ExecutorSettings:
    """What runs installs and builds: a sandbox of this machine, or containers."""

    name: str = setting(
        "EXECUTOR",
        choice(*EXECUTORS),
        "Sandbox of installs and builds; see [executors](../workers/executors/README.md).",
        default=EXECUTORS[0],
    )
    docker_host: str = setting(
        "DOCKER_HOST",
        url("unix", "tcp"),
        "Docker daemon, for the executor `docker`.",
        default="unix:///var/run/docker.sock",
    )
    builder_image: str = setting(
        "BUILDER_IMAGE",
        IMAGE,
        "Image that commands run in, for the executor `docker`; the Dockerfile builds it.",
        default="",
    )

    def problems(self) -> Iterator[str]:
        if self.name == "docker" and not self.builder_image:
            yield (
                "CLOUDIFY_EXECUTOR is docker and CLOUDIFY_BUILDER_IMAGE is not set; build Cloudify's Dockerfile"
                " (docker build --target builder) and name the image by its digest."
            )
