"""The first chunk with a non-finite loss, target or weight, found without waiting for the device in every step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from hf_ptr.data.mixture.dataset import SOURCE_STRIDE, MixtureDataset
from hf_ptr.errors import InputError
from hf_ptr.training.ptr_model import PTROutput

FIELDS = ("found", "step", "index", "episode", "quantity", "affected", "rows")
# Quantities in the order of cause: a non-finite one makes later ones non-finite.
LOSS, TARGET, WEIGHT, TOTAL = range(4)
NAMES = {LOSS: "loss", TARGET: "target", WEIGHT: "weight"}
FOUND, STEP, QUANTITY = (FIELDS.index(name) for name in ("found", "step", "quantity"))


class NonFiniteCheck:
    """
    Checks the losses, targets and weights of every step on the device, and records the first non-finite one there.
    Only [`~NonFiniteCheck.require_finite`] transfers the record to the host; a run calls it before it logs or saves.
    """

    def __init__(self) -> None:
        self._first: torch.Tensor | None = None

    @torch.no_grad()
    def update(
        self,
        output: PTROutput,
        weight: torch.Tensor,
        total: torch.Tensor,
        batch: dict[str, torch.Tensor],
        step: int,
    ) -> None:
        """
        Checks a micro-batch.

        Args:
            output: output of the model. A non-finite target affects the weights of all chunks scored against it.
            weight: `(N,)`, weights of the micro-batch.
            total: scalar, total loss of the micro-batch.
            batch: the micro-batch, with `index` and `episode_index` for the message.
            step: the current optimiser step, from 1.
        """
        loss, target = output.action_loss, output.target
        assert loss is not None
        # A sum of finite coordinates of unit vectors is finite.
        sums = torch.zeros_like(loss) if target is None else torch.where(batch["has_target"], target.sum(dim=1), 0.0)
        bad = ~torch.stack((loss.float(), sums.float(), weight.float(), total.float().expand(len(loss)))).isfinite()
        # The first quantity with a non-finite value, and its first chunk.
        first, index = bad.flatten().int().argmax()[None], batch["index"]
        quantity, row = first // len(index), first % len(index)
        # `index_select`: indexing with a scalar tensor would make the host wait for the device.
        values = {
            "found": bad.any()[None],
            "step": torch.full_like(row, step),
            "index": index.index_select(0, row),
            "episode": batch.get("episode_index", index).index_select(0, row),
            "quantity": quantity,
            "affected": bad.sum(dim=1).index_select(0, quantity),
            "rows": torch.full_like(row, len(index)),
        }
        record = torch.cat([values[name].long() for name in FIELDS])
        if self._first is None:
            self._first = record
            return
        # A later micro-batch of the same step may contain the cause.
        is_cause = (record[STEP] == self._first[STEP]) & (record[QUANTITY] < self._first[QUANTITY])
        replaces = (record[FOUND] > 0) & ((self._first[FOUND] == 0) | is_cause)
        self._first = torch.where(replaces, record, self._first)

    def require_finite(
        self, gather: Callable[[torch.Tensor], torch.Tensor], dataset: Any, last_checkpoint: Callable[[], str | None]
    ) -> None:
        """
        Reads the record of all ranks; waits for the device and for the other ranks.

        Args:
            gather: concatenates the rows of all ranks.
            dataset: dataset of the chunks, for the name of the source in the message.
            last_checkpoint: returns the last complete checkpoint, None without; called for the message alone.

        Raises:
            InputError: a value was not finite; the message has quantity, chunk, source and step.
        """
        if self._first is None:
            return
        records = [dict(zip(FIELDS, row, strict=True)) for row in gather(self._first[None]).tolist()]
        found = [record for record in records if record["found"]]
        if not found:
            return
        # Within a step, the cause.
        first = min(found, key=lambda record: (record["step"], record["quantity"]))
        quantity = NAMES.get(first["quantity"], "total loss")
        (source, frame), (_, episode) = (divmod(first[name], SOURCE_STRIDE) for name in ("index", "episode"))
        where = f"frame {frame} of {_sources(dataset)[source]!r} (episode {episode})"
        fix, skip = "check that episode, or leave it out", [episode]
        if first["quantity"] == TOTAL:
            where, fix, skip = "the batch", "lower learning_rate", []
        elif first["affected"] == first["rows"]:
            where = f"every chunk of the batch, such as {where},"
            fix, skip = "the policy has diverged: lower learning_rate", []
        checkpoint = last_checkpoint()
        saved = "no checkpoint was saved yet" if checkpoint is None else f"{checkpoint} is the last good checkpoint"
        raise InputError(f"the {quantity} of {where} is not finite at step {first['step']}; {fix}; {saved}", skip=skip)


def _sources(dataset: Any) -> Sequence[str]:
    if isinstance(dataset, MixtureDataset):
        return dataset.source_names
    return [getattr(getattr(dataset, "table", None), "source", type(dataset).__name__)]
