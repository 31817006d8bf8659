"""Two processes are equivalent to one: same steps, same negatives, same end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import exact_cases as cases
import numpy as np
import pandas as pd
import pytest
import torch
import two_processes
from model_helpers import saved_text_encoder
from safetensors.torch import load_file
from trainer_helpers import make
from transformers import AutoModel

from hf_ptr import VLAPolicy
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.errors import InputError
from hf_ptr.runs.score_dataset import score_dataset
from hf_ptr.training.weight_histograms import read_histograms

Ranks = list[dict[str, Any]]


@pytest.fixture(scope="module")
def launched(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder written by one launch of `two_processes.py`."""
    folder = tmp_path_factory.mktemp("two")
    saved_text_encoder(folder / "text")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [*command, two_processes.__file__, str(metaworld_dataset), str(folder)],
        capture_output=True,
        text=True,
        timeout=two_processes.WATCHDOG_SECONDS + 60,
        # For `benchmarks`, which is not installed.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def scores_are_shared_out(launched: Path, dataset: Path) -> None:
    """Every frame has one score, equal in both ranks and close to that of one process with batches twice as large."""
    for name in ("uneven", "scores"):
        first, second = (pd.read_parquet(launched / f"{name}{rank}.parquet") for rank in range(2))
        pd.testing.assert_frame_equal(first, second)
    with cases.alike():
        alone = score_dataset(launched / "scored", read_dataset(dataset))
    for name in ("index", "episode_index", "valid", "scorer"):
        assert first[name].tolist() == alone[name].tolist()
    assert (first.score[first.valid] != 0).all() and (first.weight[~first.valid] == 1.0).all()
    # But for the last batch, which two processes fill up with chunks that it does not hold of one.
    off = np.abs(first.score - alone.score)[first.valid]
    assert (off < 1e-4).mean() > 0.5, off.quantile([0.1, 0.3, 0.5, 0.7])
    assert np.corrcoef(first.score[first.valid], alone.score[first.valid])[0, 1] > 0.9


@pytest.mark.slow
@pytest.mark.timeout(two_processes.WATCHDOG_SECONDS + 120)
def test_two_processes_equal_one_process(launched: Path, metaworld_dataset: Path, tmp_path: Path) -> None:
    """A single test, so that parallel test workers do not each launch two processes."""
    ranks = [json.loads((launched / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert [rank["world_size"] for rank in ranks] == [2, 2]
    negatives_are_shared(ranks, launched)
    calibrated_weights_are_fitted_once(ranks)
    steps_are_those_of_one_process(ranks, launched, metaworld_dataset, tmp_path)
    ranks_may_have_fewer_chunks_and_no_target(ranks, launched, metaworld_dataset, tmp_path)
    both_stop_and_go_on(ranks)
    weights_are_those_of_both(launched)
    another_number_of_processes_is_named(launched, metaworld_dataset)
    parameters_may_be_shared_out(ranks, launched)
    scores_are_shared_out(launched, metaworld_dataset)
    # In half precision, with and without recomputed activations, whole and sharded.
    assert all(max(rank["off_target"]) < 1e-6 and len(rank["off_target"]) == 4 for rank in ranks)
    for rank, prefix in zip(ranks, ("MemoryError: ", "RuntimeError: the main process failed: "), strict=True):
        assert rank["unfit"] == ["InputError: no episode is long enough", f"{prefix}no memory"]
    # Both ranks report the chunk that only one rank has seen.
    assert ranks[0]["nan"] == ranks[1]["nan"]
    assert "is not finite at step" in ranks[0]["nan"] and "(episode 0)" in ranks[0]["nan"]


def negatives_are_shared(ranks: Ranks, folder: Path) -> None:
    assert ranks[0]["seen"] != ranks[1]["seen"]
    # Both queues contain the targets of both ranks, and the weights of the policy are the same.
    queues = [load_file(folder / f"queue{rank}.safetensors") for rank in range(2)]
    assert all(torch.equal(queues[0][name], queues[1][name]) for name in queues[0])
    held = set(queues[0]["target_id"][queues[0]["valid"]].tolist())
    assert held & set(ranks[0]["seen"]) and held & set(ranks[1]["seen"])
    assert ranks[0]["checksum"] == ranks[1]["checksum"]
    assert all(torch.isfinite(torch.tensor(rank["losses"])).all() for rank in ranks)
    for mine, other in zip(ranks[0]["drawn"], ranks[1]["drawn"], strict=True):
        # Minibatch and draw from the queue are the same set whichever rank asks.
        assert mine["ids"] == other["ids"] and mine["negatives"] == other["negatives"]
        assert mine["own_used"] == other["own_used"] == 0
    assert max(step["queue_held"] for step in ranks[0]["drawn"]) > 100
    used = [count for rank in ranks for step in rank["drawn"] for count in step["queue_used"]]
    assert 0 < max(used) <= 16


def calibrated_weights_are_fitted_once(ranks: Ranks) -> None:
    assert len(set(ranks[0]["weights"])) > 2 and ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["calibrated_checksum"] == ranks[1]["calibrated_checksum"]
    assert all(torch.isfinite(torch.tensor(rank["calibrated_losses"])).all() for rank in ranks)


def steps_are_those_of_one_process(ranks: Ranks, folder: Path, dataset: Path, scratch: Path) -> None:
    for case in cases.CASES:
        trainer, gradients = cases.trained(case, dataset, scratch / case, batch=16, parts=1)
        for rank in range(2):
            cases.assert_same_gradients(load_file(folder / f"{case}{rank}.safetensors"), gradients)
            cases.assert_same_log(ranks[rank]["exact"][case], cases.losses_of(trainer))
            if case in two_processes.SHARDED:
                cases.assert_same_gradients(load_file(folder / f"fsdp2_{case}{rank}.safetensors"), gradients)
                cases.assert_same_log(ranks[rank]["fsdp2"]["logs"][case], cases.losses_of(trainer))


def ranks_may_have_fewer_chunks_and_no_target(ranks: Ranks, folder: Path, dataset: Path, scratch: Path) -> None:
    trainer, _ = cases.trained("ptr", dataset, scratch / "uneven", batch=7, parts=1, steps=1)
    trainer.model.load_state_dict(load_file(folder / "uneven_model0.safetensors"))
    for kind in two_processes.UNEVEN:
        loss, gradients = two_processes.uneven_step(kind, trainer, trainer.model, (0, 1))
        assert [rank["uneven"][kind] for rank in ranks] == pytest.approx([loss, loss], abs=1e-6)
        for rank in range(2):
            found = load_file(folder / f"{kind}{rank}.safetensors")
            for name, gradient in gradients.items():
                torch.testing.assert_close(found[name], gradient, rtol=0, atol=2e-6)


def both_stop_and_go_on(ranks: Ranks) -> None:
    for rank in ranks:
        assert rank["stopped"] == {
            "stopped_by": signal.SIGTERM,
            "checkpoint": "checkpoint-4",
            "same_weights": True,
            "same_log": True,
            "steps": 6,
            "eval_loss": True,
        }


def weights_are_those_of_both(folder: Path) -> None:
    """Counts in card and report: each step has 2 x 2 x 8 chunks."""
    logged = read_histograms(folder / "straight")
    assert sum(sum(line["counts"]) for line in logged) == 6 * 32
    warm_up = json.loads((folder / "straight" / "training_args.json").read_text())["nce_warmup_steps"]
    record = json.loads((folder / "straight" / "weights.json").read_text())
    assert sum(record["counts"]) == (6 - warm_up) * 32 > 0


def parameters_may_be_shared_out(ranks: Ranks, folder: Path) -> None:
    for report in ranks:
        assert report["fsdp2"]["is_fsdp2"] and report["fsdp2"]["sharded"] > 20
        assert report["fsdp2"]["same_weights"] == {"sharded": True, "sharded_lora": True}
    # The folders contain full weights instead of shards, and no pickle.
    for name in ("sharded", "sharded_lora"):
        assert isinstance(AutoModel.from_pretrained(folder / name / "checkpoint-6"), VLAPolicy)
        kinds = {path.suffix for path in (folder / name).rglob("*") if path.is_file()}
        assert kinds <= {".json", ".jsonl", ".safetensors", ".md"}


def another_number_of_processes_is_named(folder: Path, dataset: Path) -> None:
    trainer = make(dataset, folder / "broken", per_device_train_batch_size=8, gradient_accumulation_steps=4)
    with pytest.raises(InputError, match="processes 2, now 1; gradient_accumulation_steps 2, now 4: the data would"):
        trainer.train(resume_from_checkpoint=str(folder / "broken" / "checkpoint-4"))
