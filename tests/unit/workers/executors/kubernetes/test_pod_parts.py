"""Parts of builds in pods that need no cluster."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.plans import Plan, limits_of
from workers.executors.base import (
    Directory,
    ExecutionSpec,
    Limits,
    LocalTree,
    Mount,
    Output,
    Overlay,
    RunOutcome,
    StoredTree,
    Tree,
    TreeLink,
    UploadForm,
)
from workers.executors.kubernetes.code import MODULES, build_archive
from workers.executors.kubernetes.manifests import PodSettings, RunNames, job_of, secret_of, user_of
from workers.executors.kubernetes.plan import (
    command_digest,
    command_request,
    fetch_request,
    pack_request,
    plan_trees,
    run_digest,
    stage_outputs,
)
from workers.executors.kubernetes.pod import frames
from workers.executors.kubernetes.pod.memory import Memory
from workers.executors.kubernetes.pod_state import PodState
from workers.snapshots.store import STAGED_SECONDS

ROOT = Path(__file__).resolve().parents[5]
LIMITS = Limits(
    memory_bytes=512 << 20, cpu_count=2, process_count=64, disk_bytes=64 << 20, output_bytes=1 << 20, wall_seconds=60
)
SPEC = ExecutionSpec(
    name="depl_1-build",
    command=("sh", "-c", "true"),
    working_directory="/workspace",
    mounts=(Mount(StoredTree("tools", "a" * 64), "/opt/tools/pnpm"),),
    overlay=Overlay("build", "/workspace", (StoredTree("tenant_1", "b" * 64), StoredTree("tenant_1", "c" * 64))),
    environment={"API_KEY": "of-the-user"},
    limits=LIMITS,
    network="none",
    directories=(Directory("cache", "/workspace/cache"),),
    outputs=(Output("build", "tenant_1"),),
    labels={"deployment": "depl_1"},
)
SETTINGS = PodSettings(
    "sha256:" + "0" * 64, "amd64", host_aliases={"store.example": "10.0.0.1", "10.0.0.2": "10.0.0.2"}
)
NAMES = RunNames("run-" + "1" * 40, "run-secret", "run", "staging")


class Links:
    """Implements the linking half of Trees."""

    def link(self, tree: Tree, seconds: int) -> TreeLink:
        assert isinstance(tree, StoredTree)
        return TreeLink(f"https://store/{tree.digest}?X-Amz-Signature=1", tree.digest)


@given(st.binary(max_size=frames.CHUNK_BYTES), st.integers(1, 10**9), st.sampled_from([b"o", b"e", b"x"]))
def test_a_frame_is_one_line_and_comes_back(data: bytes, number: int, kind: bytes) -> None:
    frame = frames.Frame(number, kind, data)
    line = frames.encode(frame)
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    assert len(line) < 16 * 1024
    assert frames.decode(line[:-1]) == frame


@pytest.mark.parametrize(
    "line", [b"", b"1", b"1 o", b"x o data", b"1 q data", b"-1 o data", b"1" * 19 + b" o data", b"npm ERR"]
)
def test_other_lines_are_no_frames(line: bytes) -> None:
    assert frames.decode(line) is None


def test_the_archive_holds_all_that_a_pod_imports_and_nothing_of_it_needs_a_package(tmp_path: Path) -> None:
    archive = tmp_path / "code.pyz"
    archive.write_bytes(build_archive())
    assert build_archive() == archive.read_bytes()
    code = (
        f"import sys; sys.path.insert(0, {str(archive)!r})\n"
        "import workers.executors.kubernetes.pod.main\n"
        "own = [module for name, module in sys.modules.items() if name.split('.')[0] in ('shared', 'workers')]\n"
        "print(*(module.__file__.partition('code.pyz/')[2] for module in own if module.__file__))"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        name for name in MODULES if (ROOT / name).stat().st_size or name.endswith("__init__.py")
    }
    assert len(build_archive()) < 100_000


def job() -> dict[str, Any]:
    return job_of(SPEC, plan_trees(SPEC), NAMES, SETTINGS, has_certificates=False)


def test_a_job_runs_once_and_starts_suspended() -> None:
    spec = job()["spec"]
    assert (spec["suspend"], spec["backoffLimit"], spec["ttlSecondsAfterFinished"]) == (True, 0, 600)
    assert spec["podFailurePolicy"]["rules"][0]["action"] == "Ignore"
    pod = spec["template"]["spec"]
    assert pod["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] > pod["activeDeadlineSeconds"] > LIMITS.wall_seconds
    assert pod["automountServiceAccountToken"] is False
    assert pod["hostAliases"] == [{"ip": "10.0.0.1", "hostnames": ["store.example"]}]


def test_a_pod_is_restricted() -> None:
    """As Pod Security's level `restricted` asks."""
    pod = job()["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == NAMES.user >= 1_000_000
    for container in (*pod["initContainers"], *pod["containers"]):
        security = container["securityContext"]
        assert security["capabilities"] == {"drop": ["ALL"]}
        assert security["allowPrivilegeEscalation"] is False
        assert security["readOnlyRootFilesystem"] is True
        assert {"cpu", "memory", "ephemeral-storage"} == set(container["resources"]["limits"])
    assert {kind for volume in pod["volumes"] for kind in volume if kind != "name"} == {"emptyDir", "secret"}


def test_options_of_the_installation_reach_the_pod() -> None:
    settings = PodSettings(
        "image",
        "arm64",
        runtime_class="gvisor",
        has_user_namespaces=True,
        pull_secrets=("registry",),
        cpu_request_percent=50,
    )
    pod = job_of(SPEC, (), NAMES, settings, has_certificates=True)["spec"]["template"]["spec"]
    assert (pod["runtimeClassName"], pod["hostUsers"]) == ("gvisor", False)
    assert pod["imagePullSecrets"] == [{"name": "registry"}]
    resources = pod["initContainers"][1]["resources"]
    assert resources["requests"]["cpu"] == f"{int(SPEC.limits.cpu_count * 500)}m"
    assert resources["limits"]["cpu"] == f"{int(SPEC.limits.cpu_count * 1000)}m"
    assert user_of(NAMES, settings) == pod["securityContext"]["runAsUser"] < 65536


def test_links_are_for_fetch_and_pack_and_variables_for_the_command() -> None:
    trees = plan_trees(SPEC)
    form = UploadForm("https://store/bucket", {"policy": "signed"}, 1000)
    staged = stage_outputs(SPEC, trees, "staging")
    requests = {
        "fetch": fetch_request(trees, Links(), 60, {"bucket": "https://store/bucket", "closed": [], "proxy": None}),  # type: ignore[arg-type]
        "command": command_request(SPEC, trees, SPEC.environment, b"filter"),
        "pack": pack_request(SPEC, trees, [(each, form) for each in staged]),
    }
    texts = {part: json.dumps(request) for part, request in requests.items()}
    assert "of-the-user" in texts["command"]
    assert "of-the-user" not in texts["fetch"] + texts["pack"] + json.dumps(job())
    assert "X-Amz" not in texts["command"] + json.dumps(job())
    secret = secret_of(NAMES, "uid", requests, b"code", None, NAMES.user)
    [owner] = secret["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"], owner["uid"]) == ("Job", NAMES.job, "uid")
    volumes = {volume["name"]: volume for volume in job()["spec"]["template"]["spec"]["volumes"]}
    for part in ("fetch", "command", "pack"):
        items = {item["key"] for item in volumes[f"{part}-files"]["secret"]["items"]}
        assert items == {"code", part}
    for container in job()["spec"]["template"]["spec"]["initContainers"]:
        files = [mount["name"] for mount in container["volumeMounts"] if mount["name"].endswith("-files")]
        assert files == [f"{container['name']}-files"]


def test_trees_are_laid_out_with_room_for_the_inner_ones() -> None:
    trees = plan_trees(SPEC)
    assert [(tree.place, tree.is_writable, tree.is_tracked) for tree in trees] == [
        ("mount-0", False, False),
        ("overlay", True, True),
        ("directory-0", True, False),
    ]
    asked = fetch_request(trees, Links(), 60, {})["trees"]  # type: ignore[arg-type]
    assert [tree["inner"] for tree in asked] == [[], ["cache"], []]


def test_the_name_of_a_job_tells_the_command_and_no_secret() -> None:
    digest = command_digest(SPEC, "image", b"key")
    same = ExecutionSpec(**{name: getattr(SPEC, name) for name in SPEC.__slots__} | {"labels": {"fence": "2"}})
    assert command_digest(same, "image", b"key") == digest
    other = ExecutionSpec(**{name: getattr(SPEC, name) for name in SPEC.__slots__} | {"environment": {"API_KEY": "x"}})
    assert command_digest(other, "image", b"key") != digest
    assert command_digest(SPEC, "image", b"other") != digest
    assert command_digest(SPEC, "other", b"key") != digest
    assert len(run_digest("x" * 120)) <= 63


def pod(**status: Any) -> PodState:
    return PodState({"metadata": {"name": "pod", "uid": "1"}, "status": status})


def condition(kind: str, status: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": "Reason", "message": message}


def test_a_pod_without_a_node_says_why() -> None:
    words = "0/3 nodes are available: 3 Insufficient memory."
    assert pod(phase="Pending", conditions=[condition("PodScheduled", "False", words)]).waits_for() == words
    assert pod(phase="Pending", conditions=[condition("PodScheduled", "True", "")]).waits_for() is None
    assert pod(phase="Running").waits_for() is None


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ({"reason": "Evicted", "message": "The node was low on resource: ephemeral-storage."}, RunOutcome.EVICTED),
        ({"reason": "Evicted", "message": 'Usage of EmptyDir "x" exceeds the limit "1Gi".'}, RunOutcome.DISK_FULL),
        ({"reason": "Evicted", "message": "Pod usage exceeds the total limit of containers."}, RunOutcome.DISK_FULL),
        ({"conditions": [condition("DisruptionTarget", "True", "preempted")]}, RunOutcome.EVICTED),
        ({"reason": "NodeLost"}, RunOutcome.EVICTED),
        ({"reason": "OutOfcpu"}, RunOutcome.EVICTED),
        ({"reason": "DeadlineExceeded"}, RunOutcome.PLATFORM_LOST),
    ],
)  # fmt: skip
def test_disruptions_are_told_apart(status: dict[str, Any], outcome: RunOutcome) -> None:
    found = pod(phase="Failed", **status).disruption()
    assert found is not None
    assert found[0] is outcome


def test_an_ordinary_end_is_no_disruption() -> None:
    assert pod(phase="Failed").disruption() is None
    assert pod(phase="Succeeded").disruption() is None


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("ErrImageNeverPull", RunOutcome.IMAGE_ERROR), ("ImagePullBackOff", RunOutcome.IMAGE_ERROR),
     ("CreateContainerConfigError", RunOutcome.PLATFORM_LOST)],
)  # fmt: skip
def test_a_container_that_can_t_start_is_refused(reason: str, outcome: RunOutcome) -> None:
    waiting = [{"name": "fetch", "state": {"waiting": {"reason": reason, "message": "why"}}}]
    found = pod(phase="Pending", initContainerStatuses=waiting).refusal()
    assert found is not None
    assert found[0] is outcome
    assert "why" in found[1]


def test_last_words_are_read_from_the_termination_message() -> None:
    message = json.dumps({"reason": "network_open", "message": "why", "digest": ""})
    ended = [{"name": "fetch", "state": {"terminated": {"exitCode": 3, "reason": "Error", "message": message}}}]
    state = pod(phase="Failed", initContainerStatuses=ended).ended("fetch")
    assert state is not None
    assert state.words()["reason"] == "network_open"
    broken = [{"name": "fetch", "state": {"terminated": {"exitCode": 3, "message": "[1]"}}}]
    state = pod(phase="Failed", initContainerStatuses=broken).ended("fetch")
    assert state is not None
    assert state.words() == {}


@pytest.mark.parametrize("version", [1, 2])
def test_memory_is_read_from_either_version_of_control_groups(tmp_path: Path, version: int) -> None:
    directory = tmp_path / "memory" if version == 1 else tmp_path
    directory.mkdir(exist_ok=True)
    names = ("memory.oom_control", "memory.max_usage_in_bytes", "memory.limit_in_bytes")
    events, peak, limit = names if version == 1 else ("memory.events", "memory.peak", "memory.max")
    (directory / events).write_text("oom_kill 0\n")
    (directory / peak).write_text("100000000\n")
    (directory / limit).write_text("100000000\n")
    memory = Memory(tmp_path)
    assert not memory.was_exceeded()
    (directory / events).write_text("oom_kill 2\n")
    assert memory.was_exceeded()
    assert memory.is_at_limit()
    (directory / peak).write_text("1000\n")
    assert not memory.is_at_limit()
    assert memory.peak_bytes() == 1000


def test_a_local_directory_is_named_by_its_path() -> None:
    local = ExecutionSpec(
        **{name: getattr(SPEC, name) for name in SPEC.__slots__}
        | {"overlay": Overlay("x", "/x", (LocalTree(Path("/a")),))}
    )
    assert command_digest(local, "image", b"key") != command_digest(SPEC, "image", b"key")


@pytest.mark.parametrize("plan", list(Plan))
def test_forgotten_outputs_are_deleted_long_after_nobody_can_read_them(plan: Plan) -> None:
    limits = dataclasses.replace(LIMITS, wall_seconds=limits_of(plan).stage_timeout_seconds)
    body = job_of(dataclasses.replace(SPEC, limits=limits), (), NAMES, SETTINGS, has_certificates=False)["spec"]
    assert 2 * (body["activeDeadlineSeconds"] + body["ttlSecondsAfterFinished"]) < STAGED_SECONDS
