"""What runs a project's commands."""

from __future__ import annotations

from collections.abc import Iterator

from shared.backends import EXECUTORS
from shared.settings.declaration import part, setting
from shared.settings.kinds import BOOLEAN, IMAGE, NAMES, TEXT, choice, integer, is_digest, url


@part
class ExecutorSettings:
    """What runs installs and builds: a sandbox of this machine, containers, or pods of a cluster."""

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
        "Image that commands run in; the Dockerfile builds it. The executor `docker` needs a digest; `kubernetes` takes"
        " a tag, too, and uses the image that it finds under it at its start.",
        default="",
    )

    kubernetes_namespace: str = setting(
        "KUBERNETES_NAMESPACE",
        TEXT,
        "Namespace of build pods, for the executor `kubernetes`; it holds nothing else.",
        default="cloudify-builds",
    )
    kubernetes_config: str = setting(
        "KUBERNETES_CONFIG",
        TEXT,
        "Kubeconfig file, for the executor `kubernetes` and for sites with pods of their own.",
        default="",
        default_text="the service account of the worker's pod",
    )
    kubernetes_runtime_class: str = setting(
        "KUBERNETES_RUNTIME_CLASS",
        TEXT,
        "RuntimeClass of build pods, such as one of gVisor.",
        default="",
        default_text="the cluster's own runtime",
    )
    kubernetes_user_namespaces: bool = setting(
        "KUBERNETES_USER_NAMESPACES",
        BOOLEAN,
        "Whether build pods get a user namespace (`hostUsers: false`). Needs Kubernetes 1.33 or newer, and nodes with"
        " Linux 6.3, containerd 2.0 or CRI-O 1.25.",
        default=False,
    )

    kubernetes_priority_class: str = setting(
        "KUBERNETES_PRIORITY_CLASS",
        TEXT,
        "PriorityClass of build pods.",
        default="",
        default_text="the cluster's own",
    )
    kubernetes_pull_secrets: tuple[str, ...] = setting(
        "KUBERNETES_PULL_SECRETS",
        NAMES,
        "Secrets of the builds' namespace by which its nodes pull the builder image from a private registry.",
        default=(),
    )
    kubernetes_cpu_request_percent: int = setting(
        "KUBERNETES_CPU_REQUEST_PERCENT",
        integer(1, 100),
        "Percentage of its processors that a build pod reserves on its node. It may use all of them if they are free.",
        default=25,
    )

    def problems(self) -> Iterator[str]:
        if self.name == "docker" and self.builder_image and not is_digest(self.builder_image):
            yield (
                f"CLOUDIFY_BUILDER_IMAGE is {self.builder_image!r}; the executor docker needs a digest: name@sha256:…"
                " of a registry's, or the sha256:… that `docker image inspect --format '{{.Id}}'` prints."
            )
        if self.name in ("docker", "kubernetes") and not self.builder_image:
            yield (
                f"CLOUDIFY_EXECUTOR is {self.name} and CLOUDIFY_BUILDER_IMAGE is not set; build Cloudify's Dockerfile"
                " (docker build --target builder) and name the image by its digest."
            )
