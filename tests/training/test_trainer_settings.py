"""Settings of `TrainingArguments` that no run reads, and runs that would make no step."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any

import pytest
from trainer_helpers import SFT, make
from transformers import TrainingArguments

from hf_ptr import PTRConfig, PTRTrainer
from hf_ptr.errors import DataWarning, InputError
from hf_ptr.training.launch_checks import require_one_run
from hf_ptr.training.trainer_settings import READ, REFUSED

# A value of each refused setting that is not its default.
VALUES: dict[str, Any] = {
    "label_smoothing_factor": 0.1,
    "average_tokens_across_devices": False,
    "liger_kernel_config": {"rope": True},
    "neftune_noise_alpha": 5.0,
    "include_num_input_tokens_seen": "all",
    "eval_do_concat_batches": False,
    "eval_accumulation_steps": 2,
    "include_for_metrics": ["inputs"],
    "label_names": ["actions"],
    "length_column_name": "frames",
}


def test_every_setting_of_transformers_is_classified() -> None:
    """Fails for the new settings of a new version: decide whether a run reads them."""
    known = {item.name for item in dataclasses.fields(TrainingArguments)}
    assert known - READ - set(REFUSED) == set()
    assert not READ & set(REFUSED)


@pytest.mark.parametrize("name", [name for name in REFUSED if name in TrainingArguments.__dataclass_fields__])
def test_a_setting_that_is_not_read_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"not read in this training: {name} ") as caught:
        PTRConfig(output_dir=str(tmp_path / "run"), **{name: VALUES.get(name, True)})
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train_sampling_strategy": "group_by_length"}, r"train_sampling_strategy group_by_length \(chunks have one"),
        ({"metric_for_best_model": "accuracy"}, "metric_for_best_model accuracy"),
        ({"metric_for_best_model": "train_loss"}, "metric_for_best_model train_loss"),
        ({"metric_for_best_model": "eval_xloss"}, "metric_for_best_model eval_xloss"),
        ({"label_smoothing_factor": 0.1, "use_cache": True}, "remove them"),
        ({"max_steps": 0}, "max_steps is 0"),
        ({"max_steps": -1, "num_train_epochs": 0}, "which make 0 steps"),
    ],
)
def test_values_that_are_not_read(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        PTRConfig(output_dir=str(tmp_path), **settings)


def test_defaults_and_values_equal_to_them_are_not_settings(tmp_path: Path) -> None:
    PTRConfig(output_dir=str(tmp_path), label_smoothing_factor=0.0, include_num_input_tokens_seen="no", do_train=True)


@pytest.mark.parametrize(
    ("metric", "names", "measured"),
    [
        ("eval_loss", None, None),
        ("loss", None, None),
        ("eval_near_loss", ["near", "far"], None),
        ("eval_near_loss", None, "eval_loss"),
        ("eval_loss", ["near", "far"], "eval_near_loss or eval_far_loss"),
    ],
)
def test_the_best_model_is_chosen_by_a_metric_that_is_measured(
    metric: str, names: list[str] | None, measured: str | None, metaworld_dataset: Path, tmp_path: Path
) -> None:
    best = {"metric_for_best_model": metric, "load_best_model_at_end": True, "save_strategy": "steps"}
    settings = {"eval_strategy": "steps", "save_steps": 1, "eval_steps": 1, "max_steps": 1, **best, **SFT}
    trainer = make(metaworld_dataset, tmp_path / "made", eval_dataset=True, episodes=[0], **SFT)
    chunks = trainer.eval_dataset
    arguments = {
        "args": PTRConfig(output_dir=str(tmp_path), disable_tqdm=True, **settings),
        "train_dataset": chunks,
        "eval_dataset": chunks if names is None else dict.fromkeys(names, chunks),
        "processing_class": trainer.processing_class,
    }
    if measured is None:
        finished = PTRTrainer(trainer.trained_policy, **arguments)
        finished.train()
        assert finished.state.best_metric is not None
    else:
        with pytest.raises(InputError, match=f"{metric}, which no evaluation measures; set it to {measured}$"):
            PTRTrainer(trainer.trained_policy, **arguments)


def test_a_run_of_no_step_is_refused_with_the_numbers(metaworld_dataset: Path, tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 10_000, "dataloader_drop_last": True, **SFT}
    with pytest.raises(InputError, match=r"\d+ chunks are fewer than 10000, so the run would make 0 steps"):
        make(metaworld_dataset, tmp_path, **settings)
    # Without it, and along segments, the incomplete batch is trained on.
    for changes in ({"dataloader_drop_last": False}, {"belief_tokens": 2}):
        trainer = make(metaworld_dataset, tmp_path, max_steps=1, episodes=[0], **{**settings, **changes})
        assert trainer.train().global_step == 1


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"warmup_steps": 50, **SFT}, "warmup_steps 50 lasts for the whole run of 6 steps"),
        ({"nce_warmup_steps": 3000}, "every weight is 1, as with alpha 0"),
        ({"per_device_train_batch_size": 1}, "L_rank permutes actions within a micro-batch, and is left out"),
        ({}, ""),
    ],
)
def test_settings_that_switch_a_part_off_give_a_warning(
    settings: dict[str, Any], expected: str, metaworld_dataset: Path, tmp_path: Path
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DataWarning)
        make(metaworld_dataset, tmp_path, **settings)
    texts = [str(each.message) for each in caught if each.category is DataWarning]
    assert len(texts) == bool(expected) and all(expected in text for text in texts)


def test_the_order_of_segments_is_not_a_setting(metaworld_dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="train_sampling_strategy sequential is not read with belief tokens"):
        make(metaworld_dataset, tmp_path, train_sampling_strategy="sequential")
    make(metaworld_dataset, tmp_path, train_sampling_strategy="sequential", **SFT)


def test_processes_that_did_not_join_are_refused() -> None:
    require_one_run(2, {"WORLD_SIZE": "2"})
    require_one_run(1, {})
    with pytest.raises(InputError, match="2 processes were launched"):
        require_one_run(1, {"WORLD_SIZE": "2"})
