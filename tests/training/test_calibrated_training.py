"""`scoring: calibrated` in a run: weights are fitted once, and equal those of the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from exact_cases import fitted
from fold_helpers import stopped_at
from leading_table import leading_table
from recipe_helpers import recipe
from trainer_helpers import SFT, make

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.detection.detect import Detection
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.findings_file import read_findings
from hf_ptr.errors import InputError
from hf_ptr.functional import weight_bounds
from hf_ptr.runs.run import run_recipe
from hf_ptr.training import calibrated_weights as calibrating
from hf_ptr.training import detected_scores as detected
from hf_ptr.training.detected_scores import detected_scores
from hf_ptr.training.ptr_config import PTRConfig

# A short, inaccurate fit; the benchmarks measure the accuracy.
SHORT = {"score_settings": ["steps=30"]}
CALIBRATED = {"scoring": "calibrated", "alpha": 1.0, **SHORT}


def losses_of(folder: Path) -> list[float]:
    log = json.loads((folder / "trainer_state.json").read_text())["log_history"]
    return [entry["loss"] for entry in log if "loss" in entry]


@pytest.mark.slow
def test_a_run_fits_what_the_score_command_fits_and_trains_with_it(metaworld_dataset: Path, tmp_path: Path) -> None:
    made = run_recipe(recipe(tmp_path, metaworld_dataset, output_dir=tmp_path / "run", **CALIBRATED))
    found = pd.read_parquet(made / calibrating.SCORES_FILE)
    chunks = ChunkDataset(
        read_dataset(metaworld_dataset), chunk_size=16, observation_features=["observation.environment_state"]
    )
    config = PTRConfig(output_dir=str(tmp_path), scoring="calibrated", **SHORT).score_config()
    fitted, detection = detected_scores(chunks, config, progress=False)
    offline = fitted.frame()
    assert read_findings(made / "findings.parquet") == detection.findings
    pd.testing.assert_frame_equal(found, offline)
    assert found.weight.nunique() > 2
    given = run_recipe(
        recipe(tmp_path, metaworld_dataset, output_dir=tmp_path / "given", weights=made / calibrating.SCORES_FILE)
    )
    plain = run_recipe(recipe(tmp_path, metaworld_dataset, output_dir=tmp_path / "plain"))
    assert losses_of(made) == losses_of(given) != losses_of(plain)


@pytest.mark.slow
def test_alpha_and_the_bounds_are_those_of_the_settings(metaworld_dataset: Path, tmp_path: Path) -> None:
    settings = {"w_min": 0.5, "w_max": 2.0}
    weights = {}
    for alpha in (0.5, 1.0):
        folder = tmp_path / str(alpha)
        run_recipe(
            recipe(
                tmp_path, metaworld_dataset, output_dir=folder, scoring="calibrated", **SHORT, alpha=alpha, **settings
            )
        )
        weights[alpha] = pd.read_parquet(folder / calibrating.SCORES_FILE).weight.to_numpy()
        low, high = weight_bounds(alpha, **settings)
        assert low <= weights[alpha].min() < weights[alpha].max() <= high
    np.testing.assert_allclose(weights[0.5], 1.0 + 0.5 * (weights[1.0] - 1.0), rtol=1e-6)


@pytest.mark.slow
def test_a_resumed_run_does_not_fit_again(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "save_total_limit": 5, **CALIBRATED}
    whole = run_recipe(recipe(tmp_path, metaworld_dataset, output_dir=tmp_path / "run", **settings))
    expected = losses_of(whole)
    shutil.rmtree(whole / "checkpoint-4")
    (whole / "train_results.json").unlink()
    # The checkpoint has its own copy of the file in the run's folder.
    fitted = (whole / "scores.parquet").read_bytes()
    (whole / "scores.parquet").unlink()
    monkeypatch.setattr(calibrating, "detected_scores", lambda *args, **kwargs: pytest.fail("fitted again"))
    run_recipe(recipe(tmp_path, metaworld_dataset, output_dir=tmp_path / "run", **settings))
    assert losses_of(whole) == expected and (whole / "scores.parquet").read_bytes() == fitted


def test_weights_of_other_settings_are_refused(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"belief_tokens": 0, "save_strategy": "steps", "save_steps": 1, "max_steps": 2, **CALIBRATED}
    monkeypatch.setattr(calibrating, "detected_scores", fitted)
    make(metaworld_dataset, tmp_path, **settings).train()
    for changes, setting in (
        ({"alpha": 0.5}, "alpha 1.0, now 0.5"),
        ({"w_min": 0.5, "w_max": 2.0}, "w_min 0.02, now 0.5; w_max 4.0, now 2.0"),
        ({"seed": 3}, "seed 0, now 3"),
        ({"harm": {"action/noise": 0.5}}, r"harm \{\}, now \{'action/noise': 0.5\}"),
    ):
        trainer = make(metaworld_dataset, tmp_path, **{**settings, **changes})
        with pytest.raises(InputError, match=f"scores.parquet were made with {setting}: resume with the settings"):
            trainer.train(resume_from_checkpoint=True)
    trainer = make(metaworld_dataset, tmp_path, **settings)
    scores = tmp_path / "checkpoint-2" / "scores.parquet"
    for damage, complaint in (
        (lambda: scores.write_bytes(b"PAR1"), "is damaged"),
        (scores.unlink, "did not use scoring"),
    ):
        damage()
        with pytest.raises(InputError, match=complaint):
            trainer.train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_a_run_killed_during_the_fit_resumes_the_fit(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = recipe(tmp_path, metaworld_dataset, output_dir=tmp_path / "run", **CALIBRATED)
    folds = stopped_at(3, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run_recipe(path)
    made = run_recipe(path)
    # Of eight episodes there are four folds, fitted twice; the third was begun twice.
    assert len(folds) == 2 * 4 + 1
    assert (made / calibrating.SCORES_FILE).is_file() and not (made / ".scores.parts").exists()


@pytest.mark.slow
def test_the_callers_dataset_and_random_state_are_unchanged(metaworld_dataset: Path, tmp_path: Path) -> None:
    chunks = make(metaworld_dataset, tmp_path / "plain", **SFT).train_dataset
    assert isinstance(chunks, ChunkDataset)
    args = PTRConfig(output_dir=str(tmp_path / "fit"), scoring="calibrated", **SHORT, belief_tokens=0)
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    fitted = calibrating.calibrated_chunks(chunks, args)
    assert torch.equal(torch.rand(2), expected)
    assert chunks.weights is None and fitted.weights is not None
    trainer = make(metaworld_dataset, tmp_path, scoring="calibrated", **SHORT, belief_tokens=0, max_steps=1)
    given = trainer.train_dataset
    trainer.train()
    assert trainer.train_dataset is given
    weight = trainer.train_dataset.weights
    assert weight is not None and weight.std() > 0
    logged = [entry for entry in trainer.state.log_history if "weight_mean" in entry]
    assert logged and all(0.25 <= entry["weight_mean"] <= 4.0 and 0 < entry["ess"] <= 1.0001 for entry in logged)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"episodes": "0:3"}, "3 episodes longer than target_offset 16; fitting scores needs at least 4"),
        ({"use_scorer": True}, "use_scorer is true, but scoring calibrated"),
        ({"scoring": "calibrate"}, r"known: paper, calibrated"),
    ],
)
def test_data_that_cannot_be_calibrated_raise_one_line_and_write_nothing(
    metaworld_dataset: Path, tmp_path: Path, settings: dict[str, Any], complaint: str
) -> None:
    path = recipe(tmp_path, metaworld_dataset, output_dir=tmp_path / "run", **{**CALIBRATED, **settings})
    with pytest.raises(InputError, match=complaint) as caught:
        run_recipe(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_weights_require_a_dataset_of_chunks(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path, scoring="calibrated", **SHORT, belief_tokens=0)
    with pytest.raises(InputError, match="is a list, and calibrated weights are fitted on a ChunkDataset"):
        type(trainer)(
            trainer.model.policy,
            trainer.args,
            # The test passes a list instead of a dataset.
            train_dataset=[trainer.train_dataset[0]],  # type: ignore[arg-type]
            data_collator=trainer.data_collator,
        )


def test_the_harm_of_the_settings_decides_about_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    table = leading_table(8, frames=40)
    chunks = ChunkDataset(table, chunk_size=8, target_offset=8)
    noise = Finding("action/noise", 0, 10, 39, 0.9, "fault", 1.0, "std", "noise", "watch")
    none = np.zeros(0)
    monkeypatch.setattr(detected, "detect_together", lambda *args, **kwargs: Detection((noise,), None, {}, none, ()))
    config = PTRConfig(output_dir="unused", score_settings=["steps=2", "rounds=1"]).score_config()
    weight = [
        detected_scores(chunks, config, harm=harm, progress=False)[0].frame().weight[10]
        for harm in ({}, {"action/noise": 0.5}, {"action/noise": 0.0})
    ]
    assert weight[0] < 0.2 * weight[2] and weight[0] < weight[1] < 0.7 * weight[2]
