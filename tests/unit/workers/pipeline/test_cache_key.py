from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.pipeline.cache_key import cache_key, explain_miss

COMPONENTS = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=4)


@given(COMPONENTS, COMPONENTS)
def test_keys_are_equal_exactly_when_the_components_are(one: dict[str, str], two: dict[str, str]) -> None:
    assert (cache_key(one) == cache_key(two)) == (one == two)
    assert cache_key(one) == cache_key(dict(reversed(one.items())))


def test_names_do_not_run_into_values() -> None:
    assert cache_key({"a": "b,c"}) != cache_key({"a,b": "c"})


def test_reasons() -> None:
    before = {"lockfile": "a" * 64, "node": "20", "package_manager": "npm", "npmrc": "b" * 64}
    now = {"lockfile": "c" * 64, "node": "22", "package_manager": "npm", "patches": "d" * 64}
    assert explain_miss(now, before) == "lockfile changed, node 20 → 22, patches added, npmrc removed"
    assert explain_miss(now, None) == "nothing cached yet"
    assert explain_miss(now, now) == "the cached output was removed"
    assert explain_miss({"command": "x" * 50}, {"command": "y"}) == "command changed"
