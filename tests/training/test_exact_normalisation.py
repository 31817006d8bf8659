"""Gradient and log of a step do not depend on how its chunks are divided (PTR Eq. 27)."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import exact_cases as cases
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from trainer_helpers import BELIEF, SFT, history, make

from hf_ptr.errors import InputError
from hf_ptr.training import calibrated_weights as calibrating
from hf_ptr.training.micro_batches import model_inputs, step_totals


@pytest.fixture(scope="module")
def whole(metaworld_dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Each case in one process and one micro-batch a step."""
    folder = tmp_path_factory.mktemp("whole")
    return {case: cases.trained(case, metaworld_dataset, folder / case, batch=16, parts=1) for case in cases.CASES}


@pytest.mark.slow
@pytest.mark.parametrize("case", cases.CASES)
def test_four_micro_batches_equal_one_batch(
    case: str, whole: dict[str, Any], metaworld_dataset: Path, tmp_path: Path
) -> None:
    expected, gradients = whole[case]
    trainer, found = cases.trained(case, metaworld_dataset, tmp_path, batch=4, parts=4)
    cases.assert_same_gradients(found, gradients)
    cases.assert_same_log(cases.losses_of(trainer), cases.losses_of(expected))


@pytest.mark.parametrize("case", ["sft", cases.WEIGHTS, "ptr", "calibrated"])
def test_without_clipping_the_gradients_have_the_same_scale(
    case: str, metaworld_dataset: Path, tmp_path: Path
) -> None:
    """A factor on the whole gradient would be hidden by clipping, and by Adam: whoever divides it again shows here."""
    one, four = (
        cases.trained(case, metaworld_dataset, tmp_path / name, batch=batch, parts=parts, steps=1, max_grad_norm=1e9)
        for name, batch, parts in (("one", 16, 1), ("four", 4, 4))
    )
    for name, gradient in one[1].items():
        torch.testing.assert_close(four[1][name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: n + text)
    norms = [torch.cat([part.flatten() for part in found.values()]).norm() for _, found in (one, four)]
    assert float(norms[1] / norms[0]) == pytest.approx(1.0, abs=1e-4)
    losses = [cases.losses_of(trainer)[0] for trainer, _ in (one, four)]
    assert losses[1]["loss"] / losses[0]["loss"] == pytest.approx(1.0, abs=1e-4)
    assert losses[1]["grad_norm"] > 2.0


@pytest.mark.parametrize("case", ["sft", "belief", "ptr"])
def test_the_smaller_last_step_of_an_epoch_is_exact(case: str, metaworld_dataset: Path, tmp_path: Path) -> None:
    one, four = (
        cases.trained(case, metaworld_dataset, tmp_path / name, batch=batch, parts=parts, episodes=[5], steps=7)
        for name, batch, parts in (("one", 12, 1), ("four", 4, 3))
    )
    # The epoch's last step has fewer chunks, and its last micro-batch fewer than the others.
    chunks = len(one[0].train_dataset)
    assert chunks % 12 > 4 and chunks % 4 and chunks // 12 == 6
    cases.assert_same_gradients(four[1], one[1])
    cases.assert_same_log(cases.losses_of(four[0]), cases.losses_of(one[0]))


def test_weights_equal_those_of_the_pass_with_gradient(
    metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dropout and noise of both passes are equal: the second pass must not be normalised by the Σ w of other draws."""
    trainer = make(
        metaworld_dataset,
        tmp_path,
        policy_settings={"pooled_actions": "noised", "dropout": 0.3},
        per_device_train_batch_size=8,
        gradient_accumulation_steps=3,
        max_steps=3,
    )
    seen: dict[bool, list[torch.Tensor]] = {False: [], True: []}
    equation = trainer.identification.logits

    def spied(*args: Any, **kwargs: Any) -> Any:
        found = equation(*args, **kwargs)
        seen[found[0].requires_grad].append(found[0].detach())
        return found

    monkeypatch.setattr(trainer.identification, "logits", spied)
    trainer.train()
    assert len(seen[False]) == len(seen[True]) == 9
    for surveyed, trained in zip(seen[False], seen[True], strict=True):
        torch.testing.assert_close(surveyed, trained, rtol=0, atol=1e-5)
    assert not torch.equal(seen[True][0][:, 0], seen[True][1][:, 0])


def test_one_micro_batch_needs_one_pass(metaworld_dataset: Path, tmp_path: Path) -> None:
    passes = {}
    for parts in (1, 2):
        trainer = make(metaworld_dataset, tmp_path, max_steps=3, gradient_accumulation_steps=parts)
        calls: list[bool] = []
        trainer.model.register_forward_pre_hook(lambda *_, calls=calls: calls.append(torch.is_grad_enabled()))
        trainer.train()
        passes[parts] = (calls.count(True), calls.count(False))
    assert passes == {1: (3, 0), 2: (6, 6)}


def test_the_pre_pass_costs_less_than_half_a_forward_pass(metaworld_dataset: Path, tmp_path: Path) -> None:
    """With the widths of the demo's policy. Counted by torch: the figures do not depend on the machine."""
    size = {"hidden_size": 64, "action_size": 32, "expert_size": 512, "num_expert_layers": 5}
    trainer = make(metaworld_dataset, tmp_path, policy_settings=size, gradient_accumulation_steps=2)
    batches = list(itertools.islice(trainer.get_train_dataloader(), 2))
    step = trainer.begin_step(batches)
    with torch.no_grad(), FlopCounterMode(display=False) as forward:
        for batch in batches:
            trainer.model(**model_inputs(batch))
    encoded: list[int] = []
    trainer.model.target_encoder.register_forward_pre_hook(lambda _, given: encoded.append(len(given[0])))
    with FlopCounterMode(display=False) as pre_pass:
        trainer._pre_pass(trainer.model, step)
    assert 0 < pre_pass.get_total_flops() < 0.5 * forward.get_total_flops()
    for batch in batches:
        trainer.compute_loss(trainer.model, batch, num_items_in_batch=step)
    # The passes with gradient do not encode the targets again.
    assert encoded == [32, 32]


def test_a_single_sample_has_no_ranking_term(metaworld_dataset: Path, tmp_path: Path) -> None:
    """Permuted within its micro-batch, its action features would be its own: log 2, and no gradient."""
    losses = {}
    for batch in (1, 2):
        settings = {"per_device_train_batch_size": batch, "gradient_accumulation_steps": 4 // batch}
        trainer = make(metaworld_dataset, tmp_path, belief_tokens=0, max_steps=2, nce_warmup_steps=0, **settings)
        trainer.train()
        losses[batch] = history(trainer, "loss_rank")
    assert losses[1] == [0.0, 0.0] and all(loss > 0.1 for loss in losses[2])
    # The divisor counts the samples that have a term.
    yes = torch.ones(3, dtype=torch.bool)
    totals = step_totals([torch.ones(3), torch.ones(1)], [yes, yes[:1]])
    assert (float(totals.targets), float(totals.ranked)) == (4.0, 3.0)


class Weighted(torch.utils.data.Dataset):
    """Not a ChunkDataset, with weights of its own."""

    def __init__(self, chunks: Any):
        self.chunks, self.tasks = chunks, chunks.tasks

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {**self.chunks[row], "weight": torch.tensor(2.0)}


def test_weights_of_any_dataset_and_a_scorer_are_refused(metaworld_dataset: Path, tmp_path: Path) -> None:
    trainer = make(metaworld_dataset, tmp_path, belief_tokens=0, max_steps=1)
    trainer.train_dataset = Weighted(trainer.train_dataset)
    with pytest.raises(InputError, match="the dataset has weights, and this run would compute its own"):
        trainer.train()


class NoWaiting(TorchDispatchMode):
    """Refuses operations that make the host wait for the device: reads of values, and shapes that depend on values."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = str(func).split(".")[1]
        assert name not in ("_local_scalar_dense", "item", "nonzero", "masked_select", "equal", "is_nonzero"), name
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("parts", [1, 2])
@pytest.mark.parametrize(
    "settings",
    [SFT, BELIEF, {}, {"hard_negatives": "state"}, cases.CASES["lora"], {"scoring": "calibrated", "belief_tokens": 0}],
    ids=["sft", "belief", "ptr", "state", "lora", "calibrated"],
)
def test_a_step_never_waits_for_the_device(
    settings: dict[str, Any], parts: int, metaworld_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Metrics, weights, the pool and the check for non-finite values are read only when a step is logged."""
    monkeypatch.setattr(calibrating, "detected_scores", cases.fitted)
    trainer = make(
        metaworld_dataset, tmp_path, logging_steps=100, gradient_accumulation_steps=parts, max_steps=4, **settings
    )
    trainer.identification.controller.hard_negative_ratio = 0.5
    compute, steps = trainer.compute_loss, []

    def watched(*args: Any, **kwargs: Any) -> Any:
        with NoWaiting():
            steps.append(compute(*args, **kwargs))
        return steps[-1]

    follow, followed = trainer.model.update_target, []

    def followed_watched() -> None:
        with NoWaiting():
            followed.append(follow())

    monkeypatch.setattr(trainer, "compute_loss", watched)
    monkeypatch.setattr(trainer.model, "update_target", followed_watched)
    trainer.train()
    assert len(steps) == 4 * parts and len(followed) == 4
