"""The pages that are made from the code say what the code says."""

from __future__ import annotations

import pytest

from shared.error_codes import ErrorCode, FailureCode
from shared.settings.declaration import settings_of
from tests.support.documentation import DOCS, PAGES, parts


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_up_to_date(name: str) -> None:
    written = (DOCS / name).read_text() if (DOCS / name).is_file() else ""
    assert written == PAGES[name](), f"docs/{name} is out of date; run `make docs` and commit it."


def test_every_setting_and_every_code_has_its_sentence() -> None:
    settings = {setting.name: setting.about for part in parts().values() for _, setting in settings_of(part)}
    codes = {f"{type(code).__name__}.{code}": code.meaning for code in (*ErrorCode, *FailureCode)}
    advice = {f"{type(code).__name__}.{code}, advice": code.advice for code in (*ErrorCode, *FailureCode)}
    texts = settings | codes | advice
    assert [name for name, text in texts.items() if not text.endswith(".") or not text[0].isupper()] == []
