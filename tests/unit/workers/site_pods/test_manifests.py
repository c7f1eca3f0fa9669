"""The objects of a site in the cluster."""

from __future__ import annotations

import re

import msgspec
import pytest

from shared.identifiers import DEPLOYMENT, new_identifier
from shared.routing.changes import SiteArtifact
from tests.support.pod_security import violations
from workers.site_pods.manifests import (
    SitePodSpec,
    budget_of,
    deployment_of,
    image_and_secret_of,
    name_of,
    secret_of,
    service_of,
)
from workers.site_pods.pod_request import PodRequest


def spec_with(replicas: int = 1) -> SitePodSpec:
    return SitePodSpec(SiteArtifact(new_identifier(DEPLOYMENT), "ten_tests", "a" * 64, False), "proj_tests", replicas)


@pytest.mark.parametrize("identifier", ["depl_01m8ek7h3je4xv6150prkjke70", "depl_" + "x" * 90, "depl_A-B", "depl_1"])
def test_names_are_dns_labels_of_their_own(identifier: str) -> None:
    names = {name_of(identifier, digest * 64) for digest in "ab"}
    assert len(names) == 2
    assert all(re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name) for name in names)


def test_every_object_has_the_same_name_and_labels() -> None:
    spec = spec_with(2)
    request = PodRequest(spec.artifact, "http://api", "token")
    budget = budget_of(spec)
    assert budget is not None
    secret = secret_of(spec, request)
    objects = [deployment_of(spec, "image", request, bytes_of_files=1, files=1), service_of(spec), budget]
    assert {item["metadata"]["name"] for item in objects} == {spec.name}
    assert image_and_secret_of(objects[0]) == ("image", secret["metadata"]["name"])
    # Another token, such as one of another key, has another Secret.
    other = msgspec.structs.replace(request, token="other")
    assert secret_of(spec, other)["metadata"]["name"] != secret["metadata"]["name"]
    objects.append(secret)
    [labels] = {tuple(sorted(item["metadata"]["labels"].items())) for item in objects}
    template = objects[0]["spec"]["template"]["metadata"]["labels"]
    assert dict(labels) == template
    for selector in (objects[0]["spec"]["selector"]["matchLabels"], objects[1]["spec"]["selector"]):
        assert selector.items() <= template.items()


def test_one_pod_has_no_disruption_budget() -> None:
    assert budget_of(spec_with(1)) is None


def test_the_image_is_pulled_with_the_secrets_of_the_registry() -> None:
    spec = spec_with()
    request = PodRequest(spec.artifact, "http://api", "token")
    for secrets, expected in (((), []), (("a", "b"), [{"name": "a"}, {"name": "b"}])):
        made = deployment_of(spec, "image", request, bytes_of_files=1, files=1, pull_secrets=secrets)
        assert made["spec"]["template"]["spec"]["imagePullSecrets"] == expected


def test_the_pods_are_restricted() -> None:
    spec = spec_with()
    request = PodRequest(spec.artifact, "http://api", "token")
    pod = deployment_of(spec, "image", request, bytes_of_files=1 << 20, files=3)["spec"]["template"]["spec"]
    assert list(violations(pod)) == []
    assert pod["automountServiceAccountToken"] is False
    for container in (*pod["initContainers"], *pod["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert set(container["resources"]["requests"]) == {"cpu", "memory", "ephemeral-storage"}
        assert set(container["resources"]["limits"]) == {"cpu", "memory", "ephemeral-storage"}
    # The server can't change what it serves, nor read the token.
    [serve] = pod["containers"]
    assert {mount["name"]: mount["readOnly"] for mount in serve["volumeMounts"]} == {"site": True, "tmp": False}
