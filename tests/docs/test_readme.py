"""The README's Python example runs as it stands, on other data and for fewer steps."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModel

README = Path(__file__).resolve().parents[2] / "README.md"


def test_the_example_trains_a_policy(metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example, acting = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert len(list(filter(None, example.splitlines()))) == 10
    here = example.replace("data/g1_bottle", str(metaworld_dataset)).replace("range(16)", "range(8)")
    here = here.replace("max_steps=500", "max_steps=3")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(here, "README.md", "exec"), names)
    exec(compile(acting, "README.md", "exec"), names)
    assert names["action"].shape == (1, 4)
    assert AutoModel.from_pretrained(tmp_path / "runs" / "mine").config.belief_tokens == 4
