"""Run by test_two_processes.py under torchrun: everything that needs two CPU processes, in one launch."""

from __future__ import annotations

import contextlib
import faulthandler
import itertools
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import exact_cases as cases
import torch
from safetensors.torch import save_file
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from trainer_helpers import CHECKPOINTING, SFT, history, make
from transformers import TrainerCallback

from benchmarks.sharded import fsdp2
from hf_ptr import PTRTrainer
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.errors import InputError
from hf_ptr.ptr import CandidatePool, Candidates
from hf_ptr.runs import score_dataset as scores_module
from hf_ptr.runs.score_dataset import score_dataset
from hf_ptr.training import calibrated_weights as calibrating
from hf_ptr.training.checkpointing import last_complete_checkpoint
from hf_ptr.training.micro_batches import Negatives

# A deadlock ends with a stack trace of each process.
WATCHDOG_SECONDS = 300
# Cases that are also trained with sharded parameters.
SHARDED = ("sft", "belief", "ptr", "lora")
VARIANTS = {"bf16": {"bf16": True}, "recomputed": {"bf16": True, CHECKPOINTING: True}}
# Chunks of each rank's batch in an uneven step: rank 1 has fewer, and none with a target, or the same as rank 0.
UNEVEN = {"without_target": ((3, 40, 77, 110), (5, 200, 160)), "duplicates": ((3, 40, 77, 110), (40, 200, 3))}


def checksum(trainer: PTRTrainer) -> float:
    """A checksum that distinguishes models."""
    return sum(float(parameter.double().sum()) for parameter in trainer.model.parameters())


def uneven_step(
    kind: str, trainer: PTRTrainer, model: Any, ranks: tuple[int, ...]
) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step in which the ranks have the chunks of `UNEVEN`, from an empty queue."""
    trainer.identification.pool.load_state_dict({})
    trainer.carry.clear()
    model.zero_grad()
    parts = [trainer.data_collator(trainer.train_dataset.__getitems__(UNEVEN[kind][rank])) for rank in ranks]
    for rank, part in zip(ranks, parts, strict=True):
        if rank == 1 and kind == "without_target":
            part["has_target"] = torch.zeros_like(part["has_target"])
            part["target_index"] = torch.full_like(part["target_index"], -1)
    batch = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    with cases.alike():
        loss = trainer.compute_loss(model, batch)
    loss.backward()
    gradients = {name: each.grad for name, each in trainer.model.named_parameters() if each.grad is not None}
    return float(trainer.accelerator.gather(loss.detach()[None]).mean()), gradients


def shared(dataset: Path, folder: Path) -> dict[str, Any]:
    """A plain run: chunks, negatives and final state of each rank."""
    trainer = make(dataset, folder / "run", use_cpu=True, queue_size=256, queue_negatives=16)
    seen: list[int] = []
    drawn: list[dict[str, Any]] = []
    compute, draw = trainer.compute_loss, trainer.identification.draw_negatives
    pool = trainer.identification.pool
    push, pushed = pool.push, []

    def spy(model, inputs, **kwargs):
        seen.extend(inputs["target_index"][inputs["has_target"]].tolist())
        return compute(model, inputs, **kwargs)

    def spied_push(gathered: Any) -> None:
        pushed.append(gathered.target_id)
        push(gathered)

    def spied(candidates: Any, step: int, rows: int | None = None) -> list[Negatives]:
        # Before the push of this step: the draw chooses from what the queue holds.
        memory = pool.state_dict()
        (negatives,) = draw(candidates, step, rows)
        ids = pushed[-1]
        own = candidates[0].target_id[:, None]
        minibatch, queue = negatives.mask.split((len(ids), negatives.mask.shape[1] - len(ids)), dim=1)
        drawn.append(
            {
                "negatives": negatives.target.double().sum(dim=1).tolist(),
                "ids": ids.tolist(),
                "own_used": int((minibatch & (ids == own)).sum()),
                "queue_used": queue.sum(dim=1).tolist(),
                "queue_held": int(memory["valid"].sum()) if memory else 0,
            }
        )
        return [negatives]

    trainer.compute_loss, trainer.identification.draw_negatives, pool.push = spy, spied, spied_push
    trainer.train()
    save_file(pool.state_dict(), folder / f"queue{trainer.args.process_index}.safetensors")
    return {
        "world_size": trainer.args.world_size,
        "seen": seen,
        "drawn": drawn,
        "losses": history(trainer, "loss"),
        "checksum": checksum(trainer),
    }


class StopOneRank(TrainerCallback):
    """SIGTERM reaches one process only."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 3 and args.process_index == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def stopped_and_resumed(dataset: Path, folder: Path) -> dict[str, Any]:
    settings = {"use_cpu": True, "per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
    straight = make(dataset, folder / "straight", eval_dataset=True, **settings)
    straight.train()
    # The two batches together have more rows than there are chunks: these must not be left out.
    straight.args.per_device_eval_batch_size = len(straight.eval_dataset)
    straight.save_model()
    evaluated = straight.evaluation_loop(straight.get_eval_dataloader(), "evaluation", prediction_loss_only=True)
    broken = make(dataset, folder / "broken", **settings)
    broken.add_callback(StopOneRank())
    broken.train()
    found = last_complete_checkpoint(folder / "broken")
    resumed = make(dataset, folder / "broken", **settings)
    resumed.train(resume_from_checkpoint=True)
    states = (straight.model.state_dict(), resumed.model.state_dict())
    return {
        "stopped_by": broken.stopped_by,
        "checkpoint": Path(str(found)).name,
        "same_weights": all(torch.equal(states[0][name], states[1][name]) for name in states[0]),
        "same_log": straight.state.log_history[:-1] == resumed.state.log_history[:-1],
        "steps": resumed.state.global_step,
        "eval_loss": evaluated.metrics.get("eval_loss", 0) > 0,
    }


def not_a_number(dataset: Path, folder: Path) -> str:
    """The error message of this rank about a non-finite chunk of one rank."""
    trainer = make(dataset, folder / "nan", use_cpu=True, per_device_train_batch_size=8, max_steps=40, **SFT)
    trainer.train_dataset.action[60] = torch.nan
    try:
        trainer.train()
    except InputError as error:
        return str(error)
    return "none"


def sharded_over_both(dataset: Path, folder: Path) -> dict[str, Any]:
    """FSDP2: the same steps, and the same run when it is resumed."""
    logs = {}
    with fsdp2():
        for case in SHARDED:
            trainer, found = cases.trained(case, dataset, folder / f"fsdp2_{case}", batch=4, parts=2)
            save_file(found, folder / f"fsdp2_{case}{trainer.args.process_index}.safetensors")
            logs[case] = cases.losses_of(trainer)
        settings = {"use_cpu": True, "per_device_train_batch_size": 8, "save_strategy": "steps", "save_steps": 4}
        same = {}
        for name, more in (("sharded", {}), ("sharded_lora", cases.CASES["lora"])):
            straight = make(dataset, folder / name, **settings, **more)
            straight.train()
            resumed = make(dataset, folder / name, **settings, **more)
            resumed.train(resume_from_checkpoint=str(folder / name / "checkpoint-4"))
            left, right = (each.model.state_dict() for each in (straight, resumed))
            same[name] = all(torch.equal(cases.whole(left[key]), cases.whole(right[key])) for key in left)
    return {
        "is_fsdp2": trainer.accelerator.is_fsdp2 and isinstance(trainer.model, FSDPModule),
        "sharded": sum(isinstance(each, DTensor) for each in trainer.model.parameters()),
        "logs": logs,
        "same_weights": same,
    }


def off_target(dataset: Path, folder: Path, **settings: Any) -> float:
    """Largest difference between the EMA target of a run and the moving average of its tower, in single precision."""
    encoder = {"text_model": str(folder.parent / "text"), "num_context_layers": 1}
    trainer = make(dataset, folder, use_cpu=True, target_decay=0.5, policy_settings=encoder, **settings)
    expected: dict[str, torch.Tensor] = {}

    def tower() -> dict[str, torch.Tensor]:
        state = trainer.accelerator.unwrap_model(trainer.model).adapter.observation_tower().state_dict()
        return {name: cases.whole(tensor).clone() for name, tensor in state.items()}

    class Follow(TrainerCallback):
        def on_train_begin(self, args, state, control, **kwargs):
            expected.update(tower())

        def on_optimizer_step(self, args, state, control, **kwargs):
            for name, tensor in tower().items():
                expected[name] = 0.5 * expected[name] + 0.5 * tensor

    trainer.add_callback(Follow())
    trainer.train()
    found = {name.removeprefix("target.tower."): tensor for name, tensor in cases.target_of(trainer).items()}
    assert found.keys() == expected.keys() and all(tensor.dtype == torch.float32 for tensor in found.values())
    assert all(torch.isfinite(torch.tensor(history(trainer, "loss"))))
    return max(float((found[name] - tensor).abs().max()) for name, tensor in expected.items())


def fitted_by_one(dataset: Path, folder: Path) -> list[str]:
    """The error in this process for each error of the main process during the fit."""
    errors = []
    for error in (InputError("no episode is long enough"), MemoryError("no memory")):
        with mock.patch.object(calibrating, "detected_scores", side_effect=error):
            try:
                make(dataset, folder / "unfit", use_cpu=True, scoring="calibrated", belief_tokens=0)
            except Exception as caught:
                errors.append(f"{type(caught).__name__}: {caught}")
    return errors


@contextlib.contextmanager
def interrupted(batch: int) -> Iterator[None]:
    """Ctrl-C in both processes before the targets of a batch are pushed to the queue."""
    batches, push = itertools.count(1), CandidatePool.push

    def pushed(pool: CandidatePool, seen: Candidates) -> None:
        if next(batches) == batch:
            raise KeyboardInterrupt
        push(pool, seen)

    with mock.patch.object(CandidatePool, "push", pushed), contextlib.suppress(KeyboardInterrupt):
        yield


def scored_by_both(dataset: Path, folder: Path, rank: int) -> None:
    """The scores by the scorer of a run: each process computes its share and returns all."""
    # The whole queue is drawn, because two ranks draw other targets than one process.
    trainer = make(dataset, folder / "scored", use_cpu=True, queue_size=64, queue_negatives=64)
    trainer.train()
    trainer.save_model()
    torch.distributed.barrier()
    half = mock.patch.object(scores_module, "CHUNKS_PER_BATCH", scores_module.CHUNKS_PER_BATCH // 2)
    # Set by `accelerate launch --cpu`; without it, each process would act as a single process.
    with cases.alike(), half, mock.patch.dict(os.environ, {"ACCELERATE_USE_CPU": "true"}):
        scores = score_dataset(folder / "scored", read_dataset(dataset))
        scores.to_parquet(folder / f"scores{rank}.parquet")
        # Resuming from complete or partly lost progress gives the same scores. If the ranks fill the queue at
        # different batches, they wait for the later one.
        kept, again = folder / "kept", []
        with mock.patch.object(scores_module, "SAVE_EVERY", 0.0):
            with interrupted(3):
                score_dataset(folder / "scored", read_dataset(dataset), keep=kept)
            for lost in (None, None, kept / "rank-1.safetensors"):
                torch.distributed.barrier()
                if lost is not None and rank == 1:
                    lost.unlink()
                again.append(score_dataset(folder / "scored", read_dataset(dataset), keep=kept))
        assert all(one.equals(scores) for one in again)
        with mock.patch.object(scores_module, "_batches_to_fill", return_value=1 + rank):
            score_dataset(folder / "scored", read_dataset(dataset)).to_parquet(folder / f"uneven{rank}.parquet")


def main() -> None:
    faulthandler.dump_traceback_later(WATCHDOG_SECONDS, exit=True)
    dataset, folder = Path(sys.argv[1]), Path(sys.argv[2])
    result = shared(dataset, folder)
    rank = int(os.environ["RANK"])
    exact = {}
    for case in cases.CASES:
        trainer, gradients = cases.trained(case, dataset, folder / case, batch=4, parts=2)
        save_file(gradients, folder / f"{case}{rank}.safetensors")
        exact[case] = cases.losses_of(trainer)
    trainer, _ = cases.trained("ptr", dataset, folder / "uneven", batch=4, parts=1, steps=1)
    save_file(trainer.model.state_dict(), folder / f"uneven_model{rank}.safetensors")
    result |= {"exact": exact, "uneven": {}}
    for kind in UNEVEN:
        result["uneven"][kind], uneven = uneven_step(kind, trainer, trainer.model_wrapped, (rank,))
        save_file(uneven, folder / f"{kind}{rank}.safetensors")
    fast = {"scoring": "calibrated", "score_settings": ["steps=30"], "belief_tokens": 0}
    calibrated = make(dataset, folder / "fitted", use_cpu=True, **fast)
    calibrated.train()
    result |= {
        "weights": calibrated.train_dataset.weights.tolist(),
        "calibrated_losses": history(calibrated, "loss"),
        "calibrated_checksum": checksum(calibrated),
        "stopped": stopped_and_resumed(dataset, folder),
        "nan": not_a_number(dataset, folder),
        "unfit": fitted_by_one(dataset, folder),
        "off_target": [off_target(dataset, folder / name, **settings) for name, settings in VARIANTS.items()],
    }
    scored_by_both(dataset, folder, rank)
    result["fsdp2"] = sharded_over_both(dataset, folder)
    with fsdp2():
        result["off_target"] += [
            off_target(dataset, folder / f"fsdp2_{name}", **settings) for name, settings in VARIANTS.items()
        ]
    (folder / f"rank{rank}.json").write_text(json.dumps(result))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
