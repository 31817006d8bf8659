"""Output of a training run in a terminal, and elsewhere."""

from __future__ import annotations

import io
import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainer_helpers import make
from transformers import ProgressCallback, TrainerCallback
from transformers.integrations import TrackioCallback, WandbCallback

from hf_ptr.training.callbacks import RichProgress, StepLines, use_rich_progress
from hf_ptr.training.ptr_callbacks import HISTOGRAM_NAME, PROGRESS_METRICS, log_histogram
from hf_ptr.training.weight_histograms import read_histograms
from hf_ptr.utils import progress


def callbacks(trainer) -> set[type]:
    return {type(callback) for callback in trainer.callback_handler.callbacks}


def test_a_terminal_shows_loss_score_and_sample_size(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path / "out", max_steps=4, logging_steps=2, disable_tqdm=False)
    assert ProgressCallback in callbacks(trainer) and RichProgress not in callbacks(trainer)
    shown = io.StringIO()
    use_rich_progress(trainer, PROGRESS_METRICS, Console(file=shown, force_terminal=True, width=160))
    assert ProgressCallback not in callbacks(trainer)
    trainer.train()
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.getvalue())
    assert "4/4" in text
    assert re.search(r"loss [\d.e+-]+  score [\d.e+-]+  weight [\d.]+  ess [\d.]+", text)


@pytest.mark.parametrize(("terminal", "disable_tqdm"), [(False, False), (True, True)])
def test_without_a_terminal_logs_are_lines(
    metaworld_dataset: Path, tmp_path: Path, terminal: bool, disable_tqdm: bool
) -> None:
    trainer = make(metaworld_dataset, tmp_path / "out", max_steps=2, disable_tqdm=disable_tqdm)
    use_rich_progress(trainer, PROGRESS_METRICS, Console(file=io.StringIO(), force_terminal=terminal))
    assert RichProgress not in callbacks(trainer)


class SlowSteps(TrainerCallback):
    """Steps that take long enough for a line."""

    def on_step_end(self, *_: object, **__: object) -> None:
        time.sleep(0.2)


def test_without_bars_the_steps_are_lines(
    metaworld_dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "FIRST_AFTER", 0.01)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.01)
    trainer = make(metaworld_dataset, tmp_path / "out", max_steps=3)
    trainer.add_callback(SlowSteps())
    with progress.without_bars():
        trainer.train()
    assert "training, steps: 1 of 3 after 0:0" in capsys.readouterr().err
    assert StepLines not in callbacks(trainer)
    trainer.train()
    assert "training, steps" not in capsys.readouterr().err, "where there are bars, no lines"


def test_tensorboard_has_the_metrics_and_the_histograms_of_the_weights(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
    settings = {"max_steps": 6, "logging_steps": 2, "nce_warmup_steps": 2, "report_to": "tensorboard"}
    make(metaworld_dataset, tmp_path / "out", **settings).train()
    board = EventAccumulator(str(tmp_path / "board"), size_guidance={"histograms": 0, "scalars": 0})
    board.Reload()
    written = read_histograms(tmp_path / "out")
    assert (
        [event.step for event in board.Histograms(HISTOGRAM_NAME)] == [line["step"] for line in written] == [2, 4, 6]
    )
    for event, line in zip(board.Histograms(HISTOGRAM_NAME), written, strict=True):
        assert list(event.histogram_value.bucket) == line["counts"] and sum(line["counts"]) > 0
        assert list(event.histogram_value.bucket_limit) == pytest.approx(line["edges"][1:])
    # Every weight of the warm-up is 1.
    first = board.Histograms(HISTOGRAM_NAME)[0].histogram_value
    assert first.min <= 1.0 <= first.max and first.max - first.min < 0.1
    shown = set(board.Tags()["scalars"])
    assert {f"train/{name}" for name in ("loss_action", "ptr_score", "nce_acc", "ess", "weight_mean", "beta")} <= shown


@pytest.mark.parametrize(("module", "integration"), [("wandb", WandbCallback), ("trackio", TrackioCallback)])
def test_wandb_and_trackio_get_their_own_histogram_types(
    module: str, integration: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither package needs to be installed; the arguments of their classes are not tested."""
    logged: list[dict[str, Any]] = []
    stand_in = SimpleNamespace(log=logged.append, Histogram=lambda *, np_histogram: np_histogram)
    monkeypatch.setitem(sys.modules, module, stand_in)
    log_histogram([ProgressCallback(), object.__new__(integration)], 8, [0.0, 1.0, 2.0], [3, 1])
    assert logged == [{HISTOGRAM_NAME: ([3, 1], [0.0, 1.0, 2.0]), "train/global_step": 8}]
