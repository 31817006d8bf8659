"""The first chunk whose loss or weight is no number, found without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_ptr.data.mixture.dataset import SOURCE_STRIDE, MixtureDataset
from hf_ptr.errors import InputError
from hf_ptr.training.ptr_model import PTROutput

FIELDS = ("found", "step", "index", "episode", "what", "bad", "rows")
# What of a chunk is no number, each to be blamed before those after it, which it may have spoiled.
LOSS, TARGET, WEIGHT, TOTAL = range(4)
NAMES = {LOSS: "loss", TARGET: "target", WEIGHT: "weight"}
FOUND, STEP, WHAT = (FIELDS.index(name) for name in ("found", "step", "what"))


class FirstFault:
    """
    Looks at the losses and weights of every step on the device, and keeps where the first one was that is no number.
    Only [`~FirstFault.require_none`], asked for when a run logs or saves, reads it.
    """

    def __init__(self) -> None:
        self._first: torch.Tensor | None = None

    @torch.no_grad()
    def look(
        self,
        output: PTROutput,
        weight: torch.Tensor,
        total: torch.Tensor,
        batch: dict[str, torch.Tensor],
        step: int,
    ) -> None:
        """
        Args:
            output: of the model. A target that is no number spoils the weights of all that are scored against it.
            weight: `(N,)`, of the micro-batch.
            total: scalar, its whole loss.
            batch: it, with `index` and `episode_index`, which are named.
            step: the optimiser step under way, from 1.
        """
        loss, target = output.action_loss, output.target
        assert loss is not None
        none = torch.zeros_like(loss, dtype=torch.bool)
        spoilt = none if target is None else ~target.isfinite().all(dim=1) & batch["has_target"]
        bad = torch.stack((~loss.isfinite(), spoilt, ~weight.isfinite(), none | ~total.isfinite()))
        # The first of what is bad anywhere, and there the first chunk.
        what = bad.any(dim=1).int().argmax()
        # `index_select`: a tensor that holds one number is read by the host when it stands as an index.
        chunks = bad.index_select(0, what[None])[0]
        row, index = chunks.int().argmax(), batch["index"]
        seen = {
            "found": bad.any(),
            "step": torch.full_like(row, step),
            "index": index.index_select(0, row[None])[0],
            "episode": batch.get("episode_index", index).index_select(0, row[None])[0],
            "what": what,
            "bad": chunks.sum(),
            "rows": torch.full_like(row, len(index)),
        }
        record = torch.stack([seen[name].long() for name in FIELDS])
        if self._first is None:
            self._first = record
            return
        # A later micro-batch of the same step may hold what has spoiled an earlier one.
        nearer = (record[STEP] == self._first[STEP]) & (record[WHAT] < self._first[WHAT])
        takes = (record[FOUND] > 0) & ((self._first[FOUND] == 0) | nearer)
        self._first = torch.where(takes, record, self._first)

    def require_none(
        self, gather: Callable[[torch.Tensor], torch.Tensor], dataset: Any, checkpoint: str | None
    ) -> None:
        """
        Waits for the device, and for the other ranks.

        Args:
            gather: concatenates the rows of all ranks.
            dataset: of the chunks; it, or the sources of a mixture, are called by their names.
            checkpoint: the last good one.

        Raises:
            InputError: naming chunk, source and step.
        """
        if self._first is None:
            return
        records = [dict(zip(FIELDS, row, strict=True)) for row in gather(self._first[None]).tolist()]
        found = [record for record in records if record["found"]]
        if not found:
            return
        # Of one step, what has spoiled the others.
        first = min(found, key=lambda record: (record["step"], record["what"]))
        what = NAMES.get(first["what"], "total loss")
        (source, frame), (_, episode) = (divmod(first[name], SOURCE_STRIDE) for name in ("index", "episode"))
        where = f"frame {frame} of {_sources(dataset)[source]!r} (episode {episode})"
        mend = f"look at that episode, or leave it out; {_going_on(checkpoint)}"
        if first["what"] == TOTAL:
            where, mend = "the batch", f"lower learning_rate; {_going_on(checkpoint)}"
        elif first["bad"] == first["rows"]:
            where = f"every chunk of the batch, {where} among them,"
            mend = f"the policy itself has diverged: lower learning_rate; {_going_on(checkpoint)}"
        raise InputError(f"the {what} of {where} is no finite number at step {first['step']}; {mend}")


def _sources(dataset: Any) -> Sequence[str]:
    if isinstance(dataset, MixtureDataset):
        return dataset.source_names
    return [getattr(getattr(dataset, "table", None), "source", type(dataset).__name__)]


def _going_on(checkpoint: str | None) -> str:
    return "nothing was saved yet" if checkpoint is None else f"{checkpoint} is the last good checkpoint"
