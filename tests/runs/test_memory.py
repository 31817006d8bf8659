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
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode
from trainer_helpers import make
from vision_helpers import images_batch, seeing

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.runs.memory import KeptBytes, bytes_on_each, kept_bytes, step_bytes
from hf_ptr.runs.operations import step_operations, time_in_words
from hf_ptr.scoring import action_noise, cross_fitting, novelty, transitions
from hf_ptr.scoring.config import ScoreConfig
from hf_ptr.scoring.fit import fit_scores
from hf_ptr.training.micro_batches import model_inputs
from hf_ptr.training.ptr_model import build_ptr_model


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
    # Launches take longer than that.
    small = time_in_words(10**9, 16, 1, 2**20)
    assert small["on one GPU"].startswith("less than 0.001 s of operations a step of 16 chunks")


def peak_of(profiler: profile) -> int:
    """Peak of the bytes allocated by tensors, above the level at the start."""
    allocated = peak = 0
    events = (event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        allocated += event.nbytes()
        peak = max(peak, allocated)
    return peak


def peak_of_a_step(model: torch.nn.Module, batch: Batch, micro_batches: int) -> int:
    """Bytes above the weights at the peak of real forward and backward passes, the inputs included."""
    inputs = model_inputs(batch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        for _ in range(micro_batches):
            output = model(**inputs)
            parts = (output.action_loss, output.query, output.permuted_query, output.belief_loss)
            loss = torch.stack([part.sum() for part in parts if part is not None]).sum()
            del output, parts
            loss.backward()
    return peak_of(profiler) + sum(value.nbytes for value in inputs.values())


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
def test_the_estimate_from_shapes_is_the_peak_of_a_step(policy: Any, batch: Any) -> None:
    model = build_ptr_model(policy(), with_scorer=True, belief_tokens=2).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rows = {name: torch.cat([value] * 8) for name, value in batch().items()}
    chunks = len(rows["actions"])
    for micro_batches in (1, 2):
        estimate = step_bytes(model, batch(), chunks, micro_batches)
        model.zero_grad()
        assert estimate == pytest.approx(peak_of_a_step(model, rows, micro_batches), rel=0.2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_plan_of_a_run_is_its_peak(metaworld_dataset: Path, tmp_path: Path) -> None:
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
    kept = kept_bytes(trainer.model)
    assert kept.gradients == sum(p.nbytes for p in trainer.model.parameters() if p.requires_grad)
    estimate = step_bytes(trainer.model, batch, rows)
    assert estimate == pytest.approx(peak_of(profiler), rel=0.1)


def test_weights_of_16_bits_and_a_frozen_target_need_less() -> None:
    model = build_ptr_model(tiny_policy(), with_scorer=True, belief_tokens=2)
    whole, target = kept_bytes(model), sum(each.nbytes for each in model.target_encoder.state_dict().values())
    assert (whole.target, whole.moments) == (target, 2 * whole.gradients)
    assert whole.weights - target >= whole.gradients
    half = kept_bytes(model.to(torch.bfloat16))
    assert half.total == pytest.approx(whole.total / 2, rel=0.01)


def test_several_devices_divide_what_they_share() -> None:
    kept = KeptBytes(weights=100, target=20, gradients=80, moments=160)
    found = bytes_on_each(kept, 4)
    # The buckets of DDP are a second copy of the gradients.
    assert found["DDP"] == (420, 420)
    assert found["FSDP2"] == (85, 265)
    # A copy of the weights of its own part, its gradients, and their moments.
    assert found["ZeRO 2"] == (180, 260)


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
