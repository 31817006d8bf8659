"""What a terminal shows of a training run, and where Trainer's own output stays."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console
from test_trainer import make
from transformers import ProgressCallback

from hf_ptr.training.progress import RichProgress, use_rich_progress


def callbacks(trainer) -> set[type]:
    return {type(callback) for callback in trainer.callback_handler.callbacks}


def test_a_terminal_shows_loss_score_and_sample_size(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path / "out", max_steps=4, logging_steps=2, disable_tqdm=False)
    assert ProgressCallback in callbacks(trainer) and RichProgress not in callbacks(trainer)
    shown = io.StringIO()
    use_rich_progress(trainer, Console(file=shown, force_terminal=True, width=160))
    assert ProgressCallback not in callbacks(trainer)
    trainer.train()
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", shown.getvalue())
    assert "4/4" in text
    assert re.search(r"loss [\d.e+-]+  score [\d.e+-]+  weight [\d.]+  ess [\d.]+", text)


@pytest.mark.parametrize(("terminal", "disable_tqdm"), [(False, False), (True, True)])
def test_elsewhere_the_logs_stay_lines(
    metaworld_dataset: Path, tmp_path: Path, terminal: bool, disable_tqdm: bool
) -> None:
    trainer = make(metaworld_dataset, tmp_path / "out", max_steps=2, disable_tqdm=disable_tqdm)
    use_rich_progress(trainer, Console(file=io.StringIO(), force_terminal=terminal))
    assert RichProgress not in callbacks(trainer)
