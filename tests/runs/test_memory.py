"""The memory estimate of a dry run against measurements; growth of the memory of a score fit with the dataset."""

from __future__ import annotations

import dataclasses
import tracemalloc
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import LENGTH, drifting_table
from model_helpers import Batch, tiny_batch, tiny_policy
from pi0_helpers import batch_of, fitted
from torch.autograd.graph import saved_tensors_hooks
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from trainer_helpers import make
from vision_helpers import images_batch, seeing

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.runs.memory import BYTES_TRAINED, activation_bytes, state_bytes
from hf_ptr.runs.operations import step_operations, time_in_words
from hf_ptr.scoring import action_noise, cross_fitting, novelty, transitions
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores
from hf_ptr.training.micro_batches import model_inputs
from hf_ptr.training.ptr_model import build_ptr_model


def measured_activation_bytes(model: torch.nn.Module, batch: Batch) -> int:
    """Bytes that a real forward pass saves for the backward pass, without the weights."""
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        model(**model_inputs(batch)).action_loss.mean()
    return sum(storage.nbytes() for storage in kept.values())


def counted_operations(model: torch.nn.Module, batch: Batch) -> int:
    """Operations of a real forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        output = model(**model_inputs(batch))
        parts = (output.action_loss, output.query, output.permuted_query, output.belief_loss)
        sum(part.sum() for part in parts).backward()
    return counter.get_total_flops()


@pytest.mark.parametrize(
    ("policy", "batch"), [(tiny_policy, tiny_batch), (seeing, images_batch)], ids=["vectors", "siglip"]
)
def test_the_operations_of_a_step_are_those_of_a_real_one(policy: Any, batch: Any) -> None:
    model = build_ptr_model(policy(), with_scorer=True, belief_tokens=2).train()
    rows = batch()
    found = step_operations(model, rows, len(rows["actions"]))
    # On the CPU, torch does not count its own attention kernel.
    assert found == pytest.approx(counted_operations(model, rows), rel=0.1) and found > 1000
    # The time of actions without noise is embedded once for all chunks.
    assert step_operations(model, rows, 4 * len(rows["actions"])) == pytest.approx(4 * found, rel=1e-3)


def test_the_time_of_a_step_is_given_for_one_and_for_eight_devices() -> None:
    words = time_in_words(10**14, 16, 2, 2**31)
    assert words["operations"].startswith("200 TFLOP a step on each device")
    assert words["on one GPU"].startswith("about 0.5 s a step of 32 chunks at 400 TFLOP/s")
    assert words["on 8 GPUs"].startswith("about 0.5 s a step of 256 chunks, and the exchange of 2 GiB")


@pytest.mark.parametrize(
    ("policy", "batch"),
    [
        (tiny_policy, tiny_batch),
        (seeing, images_batch),
        (partial(seeing, "internvl"), images_batch),
        (fitted, batch_of),
    ],
    ids=["vectors", "siglip", "internvl", "pi0"],
)
def test_the_estimate_from_shapes_matches_a_forward_pass(policy: Any, batch: Any) -> None:
    model = build_ptr_model(policy(), with_scorer=True, belief_tokens=2).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    estimate = activation_bytes(model, batch(), len(batch()["actions"]))
    assert estimate == pytest.approx(measured_activation_bytes(model, batch()), rel=0.05)
    twice = activation_bytes(model, batch(), 2 * len(batch()["actions"]))
    assert estimate is not None and twice is not None and 1.7 * estimate < twice <= 2.0 * estimate
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def peak_of(profiler: profile) -> int:
    """Peak of the bytes allocated by tensors, above the level at the start."""
    allocated = peak = 0
    events = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def test_the_estimate_of_a_step_is_within_a_third_of_its_peak(metaworld_dataset: Path, tmp_path: Path) -> None:
    size = {"hidden_size": 64, "expert_size": 256, "num_expert_layers": 2}
    rows = 256
    settings: dict[str, Any] = {"per_device_train_batch_size": rows, "policy_settings": size}
    trainer = make(metaworld_dataset, tmp_path, **settings)
    batch = trainer.data_collator(trainer.train_dataset.__getitems__(list(range(rows))))
    trainer.create_optimizer_and_scheduler(3)

    def step() -> None:
        trainer.compute_loss(trainer.model, dict(batch)).backward()
        trainer.optimizer.step()
        trainer.optimizer.zero_grad()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    peak = peak_of(profiler)
    # Allocated before the step: weights and the moments of AdamW, but not the gradients.
    peak += state_bytes(trainer.model) * 12 // BYTES_TRAINED
    estimate = state_bytes(trainer.model) + (activation_bytes(trainer.model, batch, rows) or 0)
    assert estimate == pytest.approx(peak, rel=1 / 3)


def test_a_fit_of_scores_needs_few_bytes_per_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    # One pass covers one fold of the smaller dataset.
    for module in (cross_fitting, action_noise, novelty, transitions):
        monkeypatch.setattr(module, "ROWS_PER_PASS", 128)
    config = ScoreConfig(steps=1, rounds=1, novelty_contexts=256)
    sizes, tensors, arrays = (20, 60), [], []
    # The first fit is not measured: it makes the allocations that do not depend on the size.
    for episodes in (sizes[0], *sizes):
        table = drifting_table([LENGTH] * episodes)
        # Wide vectors, so that a copy of all of them is visible in the result.
        wide = {name: np.tile(column, (1, 32)) for name, column in table.columns.items()}
        chunks = ChunkDataset(dataclasses.replace(table, columns=wide), chunk_size=8, target_offset=8)
        tracemalloc.start()
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
            fit_scores(chunks, config, progress=False)
            arrays.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        tensors.append(peak_of(profiler))
    frames = (sizes[1] - sizes[0]) * LENGTH
    assert (tensors[2] - tensors[1]) / frames < 64
    # A copy of the states or of the actions would need at least 512 bytes per frame.
    assert (arrays[2] - arrays[1]) / frames < 448
