from __future__ import annotations

import msgspec
import pytest

from shared.db.rows import columns_of


class Site(msgspec.Struct, frozen=True):
    id: str
    host: str
    plan: str


def test_the_columns_are_the_fields_in_their_order() -> None:
    assert columns_of(Site) == "id, host, plan"


def test_a_field_is_a_column_of_the_table_or_its_expression() -> None:
    assert columns_of(Site, "s", plan="t.plan") == "s.id, s.host, t.plan AS plan"


def test_an_expression_without_a_field_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Site has no fields \['hots'\]"):
        columns_of(Site, hots="d.host")
