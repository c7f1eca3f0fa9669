"""Values that would lose work or leak secrets are refused, all at once."""

from __future__ import annotations

from typing import Any

import helm_python
import pytest

from tests.support.helm_chart import FIVE_VALUES, evaluation_values, merged, render

_URL = "http://prometheus:9090"


def _refusal(values: dict[str, Any], namespace: str = "cloudify-system") -> str:
    with pytest.raises(helm_python.HelmError) as refused:
        render(values, namespace=namespace)
    return str(refused.value)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"workers": {"pools": {"build": {"drainSeconds": 900}}}}, "drainSeconds is 900, but a stage may take 3600 s"),
        ({"limits": {"stageTimeoutSeconds": 7200}}, "workers.pools.clone: drainSeconds is 3660"),
        (
            {
                "monitoring": {"prometheusUrl": _URL},
                "workers": {"pools": {"build": {"keda": {"enabled": True}, "hpa": {"enabled": True}}}},
            },
            "KEDA and the HPA would fight",
        ),
        ({"workers": {"pools": {"build": {"keda": {"enabled": True}}}}}, "set monitoring.prometheusUrl"),
        ({"workers": {"pools": {"rollback": None}}}, "workers.pools.rollback is missing"),
        ({"workers": {"pools": {"test": {}}}}, "workers.pools.test has no queue"),
        ({"workers": {"pools": {"build": {"replicas": 0}}}}, "its queue would have no pool"),
        ({"database": {"existingSecret": "", "url": "postgresql://a:b@c/d"}}, "database.url holds a secret"),
        ({"redis": {"url": "redis://:a@b"}}, "redis.url holds a secret"),
        ({"objectStore": {"secretKey": "x"}}, "objectStore.secretKey holds a secret"),
        ({"settings": {"CLOUDIFY_SECRET_KEY": "x" * 32}}, "settings.CLOUDIFY_SECRET_KEY is a secret"),
        ({"settings": {"CLOUDIFY_NPM_REGISTRY": "https://a:b@c"}}, "settings.CLOUDIFY_NPM_REGISTRY is a secret"),
        ({"evaluation": {"password": "p" * 24}}, "evaluation.password is a secret and evaluation is off"),
        ({"namespaces": {"builds": {"name": "cloudify-system"}}}, "must be three"),
        ({"namespaces": {"builds": {"name": "x"}, "sites": {"name": "x"}}}, "must be three"),
        ({"namespaces": {"builds": {"name": "default"}}}, "default is a namespace that others share"),
        ({"database": {"existingSecret": ""}}, "database.existingSecret is not set"),
        ({"httpRoute": {"enabled": True, "parentRefs": [{"name": "a"}]}}, "ingress and httpRoute are both enabled"),
        ({"tls": {"mode": "certManager"}}, "tls.issuerRef is not set"),
        ({"image": "cloudify@sha256:" + "a" * 64}, "name executor.builderImage as well"),
        (
            {"externalSecrets": {"enabled": True, "secretStoreRef": {"name": "vault"}}},
            "external Secrets are part of the release",
        ),
        ({"externalSecrets": {"enabled": True}, "migrations": {"mode": "job"}}, "externalSecrets.secretStoreRef"),
        ({"domain": "not a domain"}, "/domain"),
        ({"image": "cloudify"}, "/image"),
        ({"api": {"replicas": 0}}, "/api/replicas"),
        ({"worker": {}}, "worker"),
        ({"workers": {"pools": {"build": {"thread": 1}}}}, "thread"),
    ],
)
def test_refused(values: dict[str, Any], words: str) -> None:
    assert words in _refusal(merged(FIVE_VALUES, values))


def test_the_namespace_of_the_release_is_its_own() -> None:
    assert "default is a namespace that others share" in _refusal(dict(FIVE_VALUES), namespace="default")


def test_all_problems_are_named_at_once() -> None:
    refusal = _refusal({})
    for name in ("domain", "image", "database.existingSecret", "redis.existingSecret", "objectStore.existingSecret"):
        assert f"{name} is not set" in refusal


def test_an_evaluation_needs_a_password_and_a_job_for_its_migrations() -> None:
    assert "evaluation.password is not set" in _refusal(merged(evaluation_values(), {"evaluation": {"password": ""}}))
    assert "/evaluation/password" in _refusal(merged(evaluation_values(), {"evaluation": {"password": "short"}}))
    assert "migrations.mode is hook" in _refusal(merged(evaluation_values(), {"migrations": {"mode": "hook"}}))
