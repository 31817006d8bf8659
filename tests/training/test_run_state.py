"""State that belongs to one run: nothing of it reaches another `train`, an evaluation, or a message."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import exact_cases as cases
import pytest
import torch
from torch.utils.data import DataLoader, Dataset
from trainer_helpers import SFT, make

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.errors import InputError
from hf_ptr.runs.build import refused_settings
from hf_ptr.training.callbacks import StopSignals
from hf_ptr.training.micro_batches import MODEL_INPUTS


def test_a_second_run_begins_without_the_state_of_the_first(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(metaworld_dataset, tmp_path, max_steps=3, nce_warmup_steps=0)
    trainer.identification.controller.temperature = 0.05
    trainer.train()
    first = trainer.metrics.weights
    assert first is not None and trainer.identification.controller.temperature < 0.06
    begun: list[Any] = []
    step = trainer.begin_step

    def spied(batches: Any) -> Any:
        pool, carry = trainer.identification.pool.state_dict(), trainer.carry.state_dict()
        begun.append((sum(len(part) for part in pool.values() if part.dim()), sum(map(torch.numel, carry.values()))))
        return step(batches)

    monkeypatch.setattr(trainer, "begin_step", spied)
    trainer.train()
    assert begun[0] == (0, 0) and begun[1] != (0, 0)
    assert trainer.identification.controller.temperature > 0.1
    # The record has the weights of one run.
    assert trainer.metrics.weights is not first and trainer.metrics.weights is not None
    assert sum(trainer.metrics.weights.to_dict()["counts"]) == sum(first.to_dict()["counts"])


class Padded(Dataset):
    """Ten chunks, and two of them again, as accelerate fills up the last batch of a process."""

    def __init__(self, chunks: ChunkDataset):
        self.chunks, self.tasks = chunks, chunks.tasks

    def __len__(self) -> int:
        return 12

    def __getitem__(self, row: int) -> dict[str, Any]:
        return self.chunks[row * 20 % 200]


def test_padded_rows_of_an_evaluation_count_once(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = make(metaworld_dataset, tmp_path, per_device_eval_batch_size=4, **SFT)
    padded = Padded(trainer.train_dataset)
    with cases.alike():
        rows = next(iter(DataLoader(padded, batch_size=12, collate_fn=trainer.data_collator)))
        inputs = {name: value for name, value in rows.items() if name in MODEL_INPUTS}
        losses = trainer.model(**inputs).action_loss.detach()
        monkeypatch.setattr(trainer.group, "size", 2)
        monkeypatch.setattr(trainer.accelerator, "gather", lambda tensor: tensor)
        found = trainer.evaluate(padded)["eval_loss"]
    assert found == pytest.approx(float(losses[:10].mean()), abs=1e-5)
    assert abs(float(losses.mean()) - found) > 1e-3


class Broken(Dataset):
    def __len__(self) -> int:
        return 1

    def __getitem__(self, row: int) -> int:
        raise InputError("videos/a.mp4 ends before frame 5; convert it again")


def test_the_error_of_a_worker_is_its_message() -> None:
    with pytest.raises(InputError) as caught:
        list(DataLoader(Broken(), num_workers=1))
    assert str(caught.value) == "videos/a.mp4 ends before frame 5; convert it again"


def test_handlers_that_python_did_not_install_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        with StopSignals() as signals:
            signals._before[signal.SIGTERM] = None
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("cuDNN error")])
def test_a_failure_is_not_called_a_setting(error: Exception) -> None:
    with pytest.raises(type(error)), refused_settings():
        raise error
    for refused in (RuntimeError("trackio requires trackio to be installed"), ImportError("no bitsandbytes")):
        with pytest.raises(InputError, match="these settings cannot be used here"), refused_settings():
            raise refused


def test_values_of_a_model_card_that_the_run_records_are_named(
    metaworld_dataset: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make(metaworld_dataset, tmp_path / "run", **SFT)
    trainer.save_model()
    with caplog.at_level("WARNING"):
        trainer.create_model_card(license="mit", model_name="mine", dataset_tags="robots")
    assert "model_name, dataset_tags: the model card has them as the run recorded them" in caplog.text
    assert "license: mit" in (tmp_path / "run" / "README.md").read_text()
