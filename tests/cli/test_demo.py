"""The demo at a size that takes seconds: every stage runs, and a second call skips finished stages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from hf_ptr.cli import demo_pipeline
from hf_ptr.cli.demo_pipeline import ARMS, run_demo
from hf_ptr.data.score_file import read_scores
from hf_ptr.errors import InputError

TASKS = ("reach-v3", "drawer-close-v3")


@pytest.mark.slow
def test_the_demo_runs_every_stage_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo_pipeline, "DEFAULT_TASKS", TASKS)
    out, sizes = tmp_path / "demo", {"episodes": 6, "rollouts": 1, "max_steps": 3, "workers": 1}
    summary = json.loads(run_demo(out, **sizes).read_text())
    assert tuple(summary["arms"]) == ARMS == ("sft", "ptr", "calibrated")
    assert all(arm["episodes"] == len(TASKS) for arm in summary["arms"].values())
    scores = read_scores(out / "ptr_weights.parquet")
    assert scores.episode_index.nunique() == 6 * len(TASKS) and set(scores.fault.unique()) > {""}
    page = (out / "report.html").read_text()
    assert "calibrated" in page and "foreign_actions" in page
    shown = re.sub(r"[│┃\s]+", " ", capsys.readouterr().out)
    assert set(summary["mean_weight"]) == {"ptr", "calibrated"}
    for arm, weight in summary["mean_weight"].items():
        assert 0.02 <= min(weight.values()) <= max(weight.values()) <= 4.0
        assert f" {arm} {weight['fault-free']:.2f} {weight['faulty']:.2f} " in shown

    def times() -> dict[Path, int]:
        kept = [*out.rglob("*.safetensors"), *(out / "data").rglob("*.*"), *(out / "rollouts").rglob("*.*")]
        return {path: path.stat().st_mtime_ns for path in kept}

    made = times()
    assert sum(path.suffix == ".safetensors" for path in made) >= len(ARMS) and any((out / "rollouts").rglob("*.*"))
    again = json.loads(run_demo(out, **sizes).read_text())
    assert again["arms"] == summary["arms"] and times() == made
    with pytest.raises(InputError, match="contains a demo with other settings"):
        run_demo(out, **{**sizes, "rollouts": 2})
