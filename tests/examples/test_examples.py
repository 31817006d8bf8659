"""The examples run from a score file, and use its weights."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import hf_ptr
from data_helpers import drifting_table, write_v21

from hf_ptr.data.score_file import score_frame, write_scores

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
LENGTHS = [40, 30, 50]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_v21(drifting_table(LENGTHS), tmp_path / "data")


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    """Only the second episode counts."""
    table = drifting_table(LENGTHS)
    weight = np.repeat([0.0, 4.0, 0.0], LENGTHS)
    return write_scores(score_frame(table, score=0.0, weight=weight, valid=True, scorer=""), tmp_path / "s.parquet")


def run_example(name: str, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> dict[str, Any]:
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    return runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_plain_pytorch_draws_frames_by_weight(
    data: Path, scores: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = run_example("weighted_sampler.py", monkeypatch, data, scores)
    assert set(names["sampler"]) <= set(range(40, 70))
    assert "one epoch of 120 draws" in capsys.readouterr().out
    lines = (EXAMPLES / "weighted_sampler.py").read_text().splitlines()
    assert sum(bool(line.strip()) for line in lines) <= 20


def test_the_trainer_of_transformers_weighs_each_loss(
    data: Path, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    example = runpy.run_path(str(EXAMPLES / "transformers_trainer.py"))
    frames = example["WeightedFrames"](str(data), str(scores))
    rows = [0, 45, 50, 100]
    inputs = {
        name: torch.stack([torch.as_tensor(frames[row][name]) for row in rows])
        for name in ("state", "labels", "weight")
    }
    policy = example["Policy"](frames.state.shape[1], frames.action.shape[1])
    arguments = example["TrainingArguments"](str(tmp_path / "check"), report_to=[])
    trainer = example["WeightedTrainer"](policy, arguments, train_dataset=frames)
    losses = (policy(inputs["state"])["action"] - inputs["labels"]).abs().mean(-1)
    # The weight of the first and the last is 0.
    torch.testing.assert_close(trainer.compute_loss(policy, inputs), losses[1:3].mean())

    monkeypatch.setitem(example["main"].__globals__, "TrainingArguments", short(example["TrainingArguments"]))
    trained = example["main"](str(data), str(scores), str(tmp_path / "run"))
    assert trained.state.global_step == 2 and (tmp_path / "run/model.safetensors").is_file()


def short(arguments: Any) -> Any:
    return lambda output, **given: arguments(output, **{**given, "max_steps": 2, "use_cpu": True})


def test_the_ranges_of_openpi_select_the_frames_above_the_threshold(
    data: Path, scores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "ranges.json"
    assert hf_ptr("export", scores, "--to", "keep-ranges", "--out", file).returncode == 0
    names = run_example("openpi_ranges.py", monkeypatch, data, file)
    assert "30 of 120 frames are kept" in capsys.readouterr().out
    starts = {0: 0, 1: 40, 2: 70}
    assert names["kept_frames"]({"0": [], "1": [[2, 4], [9, 10]], "2": [[0, 1]]}, starts) == [42, 43, 49, 70]
