"""What the ends of episodes count for: `loss_unit` and `missing_target_weight`."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from model_helpers import Batch, losses_of, tiny_batch, tiny_model, trainer_of
from trainer_helpers import SFT, make

from hf_ptr.training.identification import with_mean
from hf_ptr.training.ptr_config import PTRConfig


def padded() -> Batch:
    """Six chunks with 4, 4, 4, 3, 2 and 1 valid steps."""
    batch = tiny_batch()
    for row, valid in ((3, 3), (4, 2), (5, 1)):
        batch["action_mask"][row, valid:] = False
    batch["actions"] *= batch["action_mask"][..., None]
    return batch


@pytest.mark.parametrize("with_scorer", [False, True])
def test_the_loss_is_a_mean_over_chunks_or_over_valid_steps(with_scorer: bool) -> None:
    model, batch = tiny_model(with_scorer=with_scorer), padded()
    valid = torch.tensor([4.0, 4.0, 4.0, 3.0, 2.0, 1.0])
    for unit, count in (("chunk", torch.ones(6)), ("step", valid)):
        trainer = trainer_of(model, loss_unit=unit)
        losses = losses_of(model, batch, trainer)
        credit = losses.weight * count
        expected = (credit * losses.output.action_loss).sum() / credit.sum()
        torch.testing.assert_close(losses.action, expected)
    assert not with_scorer or losses.weight.std() > 0.1


@pytest.mark.parametrize(("unit", "ratio"), [("chunk", sum(1 / n for n in range(1, 17))), ("step", 1.0)])
def test_by_steps_the_last_action_counts_as_much_as_any(
    unit: str, ratio: float, metaworld_dataset: Path, tmp_path: Path
) -> None:
    trainer = make(metaworld_dataset, tmp_path, episodes=[0], loss_unit=unit, **SFT)
    chunks = trainer.train_dataset
    batch = trainer.data_collator([chunks[row] for row in range(len(chunks))])
    step = trainer.begin_step([batch])
    # What each step of each chunk is multiplied by: its share in the chunk's mean, and the chunk's in the loss.
    share = step.credit(0) / step.totals.credit / batch["action_mask"].sum(dim=1)
    counted = torch.zeros(len(chunks) + 16)
    for frame, row in enumerate(share.tolist()):
        counted[frame : frame + int(batch["action_mask"][frame].sum())] += row
    assert float(counted.sum()) == pytest.approx(1.0, abs=1e-5)
    assert float(counted[len(chunks) - 1] / counted[len(chunks) // 2]) == pytest.approx(ratio, rel=1e-4)


def test_chunks_without_a_target_have_weight_1_or_the_mean_of_the_others() -> None:
    model, batch = tiny_model(), tiny_batch()
    batch["has_target"][1] = False
    batch["target_index"][1] = -1
    one, mean = (
        losses_of(model, batch, trainer_of(model, missing_target_weight=kind, beta=0.5)).weight
        for kind in ("one", "mean")
    )
    has = batch["has_target"]
    assert one[~has].tolist() == [1.0, 1.0] and one[has].std() > 0.1 and abs(float(one[has].mean()) - 1.0) > 0.01
    torch.testing.assert_close(mean[has], one[has])
    torch.testing.assert_close(mean[~has], one[has].mean().expand(2))


def test_the_mean_is_refused_where_it_has_no_effect(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing_target_weight is mean, but scoring calibrated .*; remove missing"):
        PTRConfig(output_dir=str(tmp_path), use_cpu=True, scoring="calibrated", missing_target_weight="mean")


def test_the_mean_is_that_of_the_whole_step_on_all_processes() -> None:
    yes = torch.ones(2, dtype=torch.bool)
    weights, has = [torch.tensor([4.0, 1.0]), torch.tensor([1.0, 2.0])], [torch.tensor([True, False]), yes]

    def gather(sums: torch.Tensor) -> torch.Tensor:
        # Another process with the weights 0 and 1.
        return torch.cat((sums, torch.tensor([[1.0, 2.0]])))

    assert [each.tolist() for each in with_mean(weights, has)] == [[4.0, pytest.approx(7 / 3)], [1.0, 2.0]]
    assert with_mean(weights, has, gather)[0][1] == pytest.approx(8 / 5)
    # Nobody has a target.
    assert with_mean([torch.tensor([0.5, 3.0])], [~yes])[0].tolist() == [1.0, 1.0]
