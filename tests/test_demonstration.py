"""The demo, at a size of seconds: every stage really runs, and none of them twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_ptr import demonstration
from hf_ptr.curation.evidence import read_scores
from hf_ptr.demonstration import ARMS, run_demo
from hf_ptr.errors import InputError

TASKS = ("reach-v3", "drawer-close-v3")


def test_the_demo_goes_all_the_way_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demonstration, "DEFAULT_TASKS", TASKS)
    out, sizes = tmp_path / "demo", {"episodes": 6, "rollouts": 1, "max_steps": 3, "workers": 1}
    summary = json.loads(run_demo(out, **sizes).read_text())
    assert tuple(summary["arms"]) == ARMS == ("sft", "ptr", "calibrated")
    assert all(arm["episodes"] == len(TASKS) for arm in summary["arms"].values())
    scores, _ = read_scores(out / "weights.parquet")
    assert scores.episode_index.nunique() == 6 * len(TASKS) and set(scores.fault.unique()) > {""}
    page = (out / "report.html").read_text()
    assert "calibrated" in page and "foreign_actions" in page
    shown = capsys.readouterr().out
    assert "fault-free" in shown and shown.count("calibrated") >= 2

    made = {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")}
    assert len(made) >= len(ARMS)
    again = json.loads(run_demo(out, **sizes).read_text())
    assert again["arms"] == summary["arms"]
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.safetensors")} == made
    with pytest.raises(InputError, match="holds a demo of other settings"):
        run_demo(out, **{**sizes, "rollouts": 2})
