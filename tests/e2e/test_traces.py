"""One trace a deployment: from the request through every stage and command to the release."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.repositories import make_repository
from tests.support.running_platform import Platform, wait_for
from tests.support.sites import BUILD, node_site
from tests.support.span_receiver import ReceivedSpan, SpanReceiver, span_receiver

pytestmark = pytest.mark.e2e

_STAGES = ("clone", "install", "build", "upload", "deploy")


def test_a_deployment_is_one_trace_and_so_is_its_rollback(
    start_platform: Callable[..., Platform], repositories: Path
) -> None:
    with span_receiver() as receiver:
        platform = start_platform("traced", OTLP_ENDPOINT=receiver.url)
        try:
            _deploy_and_roll_back(platform, receiver, repositories)
        finally:
            platform.close()


def _deploy_and_roll_back(platform: Platform, receiver: SpanReceiver, repositories: Path) -> None:
    secret = "s3cr3t-in-a-variable"
    url = make_repository(repositories / "site", node_site("traced", before=f"console.log('{secret}');"))
    project = platform.create_project("traced", url, **BUILD)
    deployment = platform.finish(platform.create_deployment(project["id"])["id"])
    assert deployment["status"] == "ready"
    expected = {"POST /api/deployments", *(f"job {stage}" for stage in _STAGES), "release confirm", "router verify"}
    wait_for(lambda: expected <= _names(receiver.trace_of(deployment["id"])), what="all spans have arrived")

    spans = receiver.trace_of(deployment["id"])
    [request] = [span for span in spans if span.name == "POST /api/deployments"]
    by_id = {span.span_id: span for span in spans}
    assert len({span.trace_id for span in spans}) == 1
    for stage in _STAGES:
        [job] = [span for span in spans if span.name == f"job {stage}"]
        assert job.parent_id == request.span_id
        assert job.service == f"cloudify-worker-{stage}"
        assert (job.attributes["cloudify.outcome"], job.is_error) == ("succeeded", False)
    parents = {span.name: by_id[span.parent_id].name for span in spans if span.parent_id in by_id}
    assert parents["command git fetch"] == "job clone"
    assert parents["command build"] == "job build"
    assert parents["release prepare"] == parents["release activate"] == parents["release confirm"] == "job deploy"
    assert parents["router prepare"] == "release prepare"
    assert parents["router fetch"] == "router prepare"
    assert parents["router activate"] == parents["router verify"] == "release activate"
    for span in spans:
        if span.name.startswith("router "):
            assert (span.service, span.is_error) == ("cloudify-router", False), span
    # Neither a tenant's commands nor what they print.
    assert secret not in repr(spans)
    assert url not in repr(spans)
    for role in ("api", *(f"worker-{stage}" for stage in _STAGES), "router"):
        assert request.trace_id in _traces_in_log(platform, role), role

    platform.call("POST", f"/api/deployments/{deployment['id']}/rollback", status=202)
    asked = "POST /api/deployments/{deployment_id}/rollback"
    # Each process sends its own.
    wait_for(
        lambda: {"job rollback", asked} <= _names(receiver.spans()) and len(_named("router verify", receiver)) == 2,
        what="the rollback's spans have arrived",
    )
    [job] = [span for span in receiver.spans() if span.name == "job rollback"]
    [request] = [span for span in receiver.spans() if span.name == asked]
    assert (job.trace_id, job.parent_id) == (request.trace_id, request.span_id)
    assert [span.trace_id for span in _named("router activate", receiver)] == [spans[0].trace_id, request.trace_id]
    assert not [span for span in receiver.spans() if "health" in span.name]


def _named(name: str, receiver: SpanReceiver) -> list[ReceivedSpan]:
    return [span for span in receiver.spans() if span.name == name]


def _names(spans: list[ReceivedSpan]) -> set[str]:
    return {span.name for span in spans}


def _traces_in_log(platform: Platform, role: str) -> set[str]:
    lines = (platform.home / "logs" / f"{role}.log").read_text().splitlines()
    return {json.loads(line).get("trace_id", "") for line in lines if line.startswith("{")}
