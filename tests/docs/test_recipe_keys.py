"""The reference of the keys of recipes is what the code says today, and explains every key."""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import transformers

from hf_ptr.runs.recipe import SECTIONS

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    monkeypatch.delitem(sys.modules, "make_recipe_keys", raising=False)
    import make_recipe_keys

    return make_recipe_keys


def test_the_page_is_current(made: ModuleType) -> None:
    written, current = made.PAGE.read_text(encoding="utf-8"), made.page()
    if f"{made.TRANSFORMERS} {transformers.__version__}\n" not in written:
        # Another version of transformers than the page's has other keys; ours are the same.
        written, current = (text.partition(made.TRANSFORMERS)[0] for text in (written, current))
    assert written == current, "run make docs-keys"


def test_every_key_is_explained_once(made: ModuleType) -> None:
    known = {field.name for section in SECTIONS for field in dataclasses.fields(section) if field.init}
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| `(.*)` \| (.+) \|$", made.page(), re.MULTILINE)
    refused = re.findall(r"^\| `(\w+)` \| ([^|]+) \|$", made.page(), re.MULTILINE)
    assert sorted(name for name, *_ in [*rows, *refused]) == sorted(known - {"hub_token"})
    assert [name for name, *cells in rows if not all(cell.strip() for cell in cells)] == []
    assert all(len(meaning) > 10 for *_, meaning in rows)
