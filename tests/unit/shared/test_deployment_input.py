from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.deployments.deployment_input import is_branch_name, preview_label
from shared.identifiers import DEPLOYMENT, is_identifier, new_identifier, random_part

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


@pytest.mark.parametrize("name", ["main", "feature/new-thing", "release-1.2", "ünïcode", "a"])
def test_branch_names_that_git_accepts(name: str):
    assert is_branch_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "-x", ".hidden", "a..b", "a b", "a~1", "a^", "a:b", "a?", "a*", "a[", "a\\b", "/a", "a/", "a//b", "a.lock",
     "a/.b", "a.", "@", "a@{1}", "a\nb", "a\0b", "x" * 256],
)  # fmt: skip
def test_branch_names_that_git_refuses(name: str):
    assert not is_branch_name(name)


@given(branch=st.text(max_size=300), slug=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?", fullmatch=True))
def test_a_preview_label_is_a_dns_label_of_its_own(branch: str, slug: str):
    deployment_id = new_identifier(DEPLOYMENT)
    label = preview_label(slug, branch, deployment_id)
    assert _LABEL.fullmatch(label)
    assert label.endswith(random_part(deployment_id, 8))
    assert label != slug


@pytest.mark.parametrize(
    ("branch", "label"),
    [("feature/straße", "feature-strasse"), ("исправление", "ispravlenie"), ("日本", "riben"), ("\u200d", "branch")],
)
def test_a_preview_label_shows_its_branch(branch: str, label: str):
    deployment_id = new_identifier(DEPLOYMENT)
    assert preview_label("site", branch, deployment_id) == f"site-{label}-{random_part(deployment_id, 8)}"


def test_identifiers_sort_by_creation():
    made = [new_identifier(DEPLOYMENT) for _ in range(50)]
    assert len(set(made)) == 50
    # Within one millisecond the order is random; the time part never goes backwards.
    assert [one[5:15] for one in made] == sorted(one[5:15] for one in made)
    assert all(is_identifier(one, DEPLOYMENT) for one in made)
    assert not is_identifier("depl_../../etc", DEPLOYMENT)
