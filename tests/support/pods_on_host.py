"""Build pods behind the seam of executors on this host: trees that tests name by paths go through the object store."""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import secrets
import shutil
import socket
import tempfile
import threading
from collections.abc import Generator, Mapping
from pathlib import Path

from shared.errors import PlatformError
from shared.settings import NetworkSettings, ObjectStoreSettings
from shared.storage.base import ObjectNotFound
from shared.storage.object_store import S3ArtifactStore
from tests.support.kubernetes_cluster import CPU_REQUEST_PERCENT, BuildsNamespace
from workers.egress.gateway import EgressGateway
from workers.egress.policy import EgressPolicy
from workers.egress.upstream import UpstreamProxy
from workers.executors.base import (
    ExecutionResult,
    ExecutionSpec,
    LocalTree,
    OnOutput,
    Output,
    Overlay,
    StoredTree,
    Tree,
    TreeLink,
    Trees,
    UploadForm,
)
from workers.executors.environment import registry_environment
from workers.executors.kubernetes.egress import EgressGatewayAccess
from workers.executors.kubernetes.executor import KubernetesExecutor, StoreAddress
from workers.executors.kubernetes.manifests import PodSettings
from workers.executors.toolchain import Toolchain
from workers.snapshots.packing import pack
from workers.snapshots.unpacking import unpack

_LARGEST = 1 << 40


class StoredHostTrees:
    """Directories of this host, by their paths, as trees of the store. `filled`: those that had content before."""

    def __init__(self, store: S3ArtifactStore, filled: frozenset[str]) -> None:
        self._store = store
        self._filled = filled

    def attach(self, tree: StoredTree) -> contextlib.AbstractContextManager[Path]:
        raise AssertionError(f"{tree} is stored nowhere")

    def make_directory(self, name: str, mode: int) -> Path:
        raise AssertionError("a pod makes its own directories")

    def link(self, tree: Tree, seconds: int) -> TreeLink:
        assert isinstance(tree, LocalTree)
        with tempfile.TemporaryDirectory() as directory:
            tarball = Path(directory) / "tree"
            try:
                packed = pack(tree.path, tarball, maximum_bytes=_LARGEST)
            except OSError as error:
                raise PlatformError(f"{tree.path} can't be read: {error}.") from error
            key = f"host-trees/{packed.digest}"
            self._store.put_file(key, tarball)
        return TreeLink(self._store.link(key, seconds), packed.digest)

    def upload_form(self, key: str, maximum_bytes: int, seconds: int) -> UploadForm:
        url, fields = self._store.upload_form(f"staging/{key}", maximum_bytes, seconds)
        return UploadForm(url, fields, maximum_bytes)

    def take_in(self, output: Output, key: str) -> Tree:
        target = Path(output.name)
        with _taken(self._store, f"staging/{key}") as tree:
            if output.name not in self._filled:
                target.mkdir(exist_ok=True)
                for entry in tree.iterdir():
                    shutil.move(entry, target / entry.name)
            else:
                _merge(tree, target)
        return LocalTree(target)

    def discard_staged(self, key: str) -> None:
        self._store.delete(f"staging/{key}")


@contextlib.contextmanager
def _taken(store: S3ArtifactStore, key: str) -> Generator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        tarball, tree = Path(directory) / "tree.tar.zst", Path(directory) / "tree"
        tree.mkdir()
        try:
            store.get_file(key, tarball)
        except ObjectNotFound as error:
            raise PlatformError(f"{key} is missing.") from error
        unpack(tarball, tree, maximum_bytes=_LARGEST)
        yield tree


def _merge(changes: Path, target: Path) -> None:
    for change in changes.iterdir():
        below = target / change.name
        if change.is_dir() and not change.is_symlink():
            below.mkdir(exist_ok=True)
            below.chmod(change.stat().st_mode & 0o7777)
            _merge(change, below)
            continue
        if below.is_dir() and not below.is_symlink():
            shutil.rmtree(below)
        else:
            below.unlink(missing_ok=True)
        if not change.is_char_device():
            shutil.move(change, below)


class PodsOnHost:
    """Implements Executor. A directory of the spec that has content is an overlay's layer, which seams don't know."""

    def __init__(self, executor: KubernetesExecutor, store: ObjectStoreSettings) -> None:
        self._executor = executor
        # Whether a run's output has what the executor says while the cluster is busy.
        self.says_waits = True
        self._store = S3ArtifactStore(store)

    @property
    def toolchain(self) -> Toolchain:
        return self._executor.toolchain

    def probe(self) -> None:
        self._executor.probe()

    def run(self, spec: ExecutionSpec, trees: Trees, on_output: OnOutput, cancel: threading.Event) -> ExecutionResult:
        asked = {output.name for output in spec.outputs}
        filled = frozenset(
            directory.name
            for directory in spec.directories
            if Path(directory.name).is_dir() and any(Path(directory.name).iterdir())
        )
        changed = _with_layers(spec, filled)
        names = [*(directory.name for directory in changed.directories)]
        names += [changed.overlay.name] if changed.overlay is not None else []
        changed = dataclasses.replace(changed, outputs=tuple(Output(name, "tenant_1") for name in names))
        listener = on_output if self.says_waits else _without_waits(on_output)
        result = self._executor.run(changed, StoredHostTrees(self._store, filled), listener, cancel)
        outputs: Mapping[str, Tree] = {name: tree for name, tree in result.outputs.items() if name in asked}
        return dataclasses.replace(result, outputs=outputs)

    def take_over(self, name: str) -> None:
        self._executor.take_over(name)

    def reap(self, name: str) -> None:
        self._executor.reap(name)

    def sweep(self) -> list[str]:
        return self._executor.sweep()

    def close(self) -> None:
        self._executor.close()


def _without_waits(on_output: OnOutput) -> OnOutput:
    def take(stream: str, data: bytes) -> None:
        if not data.startswith(b"[Waiting for "):
            on_output(stream, data)

    return take


def _with_layers(spec: ExecutionSpec, filled: frozenset[str]) -> ExecutionSpec:
    if not filled:
        return spec
    assert spec.overlay is None, "pods take the content of one directory only, and no overlay along with it"
    [directory] = [each for each in spec.directories if each.name in filled]
    overlay = Overlay(directory.name, directory.target, (LocalTree(Path(directory.name)),))
    directories = tuple(each for each in spec.directories if each.name not in filled)
    return dataclasses.replace(spec, overlay=overlay, directories=directories)


_toolchains: dict[str, Toolchain] = {}


@contextlib.contextmanager
def open_pods(
    namespace: BuildsNamespace,
    settings: NetworkSettings,
    environment: Mapping[str, str],
    *,
    image: str = "",
    bucket_url: str = "",
    has_user_namespaces: bool = False,
) -> Generator[PodsOnHost]:
    """An executor for the namespace. The toolchain is read by the first one only."""
    image, store = image or namespace.image, namespace.store
    with _gateway(namespace, settings) as egress:
        executor = KubernetesExecutor(
            namespace.connect(),
            PodSettings(
                image,
                architecture={"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()],
                has_user_namespaces=has_user_namespaces,
                cpu_request_percent=CPU_REQUEST_PERCENT,
            ),
            StoreAddress(bucket_url or f"{store.link_endpoint}/{store.bucket}"),
            egress,
            key=namespace.key,
            registries=registry_environment(settings, environment),
            certificates=None,
            machine=platform.machine(),
            toolchain=_toolchains.get(image),
        )
        with contextlib.closing(PodsOnHost(executor, store)) as pods:
            _toolchains[image] = pods.toolchain
            yield pods


@contextlib.contextmanager
def _gateway(namespace: BuildsNamespace, settings: NetworkSettings) -> Generator[EgressGatewayAccess]:
    """A gateway of the executor's own, on one of the ports that the network policy leaves open."""
    token = secrets.token_hex(32).encode()
    policy = EgressPolicy(settings.egress_allowed_hosts, settings.egress_allowed_networks)
    for port in namespace.proxy_ports:
        with contextlib.suppress(OSError):
            listener = socket.create_server((namespace.host, port))
            break
    else:
        raise AssertionError("every port of the network policy is taken")
    gateway = EgressGateway(listener, ("127.0.0.1", 0), token, policy, UpstreamProxy.of(settings.egress_proxy))
    with contextlib.closing(gateway):
        control = f"http://127.0.0.1:{gateway.control_port}"
        yield EgressGatewayAccess(f"http://{namespace.host}:{port}", control, token)
