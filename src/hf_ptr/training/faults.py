"""The first chunk whose loss or weight is no number, found without waiting for the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from hf_ptr.data.mixture import SOURCE_STRIDE
from hf_ptr.errors import InputError

FIELDS = ("found", "step", "index", "episode", "weight", "bad", "rows")


class FirstFault:
    """
    Looks at the losses and weights of every step on the device, and keeps where the first one was that is no number.
    Only [`~FirstFault.require_none`], asked for when a run logs or saves, reads it.
    """

    def __init__(self) -> None:
        self._first: torch.Tensor | None = None

    @torch.no_grad()
    def look(
        self, loss: torch.Tensor, weight: torch.Tensor, total: torch.Tensor, batch: dict[str, torch.Tensor], step: int
    ) -> None:
        """
        Args:
            loss, weight: `(N,)`, of the micro-batch.
            total: scalar, its whole loss.
            batch: it, with `index` and `episode_index`, which are named.
            step: the optimiser step under way, from 1.
        """
        sound = loss.isfinite() & weight.isfinite()
        # `index_select`: a tensor that holds one number is read by the host when it stands as an index.
        row = (~sound).int().argmax()
        index = batch["index"]
        named = {"index": index, "episode": batch.get("episode_index", index), "weight": ~weight.isfinite()}
        at_fault = {name: values.index_select(0, row[None])[0] for name, values in named.items()}
        seen = {
            "found": ~(sound.all() & total.isfinite()),
            "step": torch.full_like(row, step),
            **at_fault,
            "bad": (~sound).sum(),
            "rows": torch.full_like(row, len(index)),
        }
        record = torch.stack([seen[name].long() for name in FIELDS])
        self._first = record if self._first is None else torch.where(self._first[:1] > 0, self._first, record)

    def require_none(
        self, gather: Callable[[torch.Tensor], torch.Tensor], sources: Sequence[str], checkpoint: str | None
    ) -> None:
        """
        Waits for the device, and for the other ranks.

        Args:
            gather: concatenates the rows of all ranks.
            sources: the dataset's name, or those of a mixture's sources.
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
        first = min(found, key=lambda record: record["step"])
        what = "weight" if first["weight"] else "loss"
        (source, frame), (_, episode) = (divmod(first[name], SOURCE_STRIDE) for name in ("index", "episode"))
        where = f"frame {frame} of {sources[source]!r} (episode {episode})"
        mend = f"look at that episode, or leave it out; {_going_on(checkpoint)}"
        if first["bad"] == 0:
            what, where, mend = "total loss", "the batch", f"lower learning_rate; {_going_on(checkpoint)}"
        elif first["bad"] == first["rows"]:
            where = f"every chunk of the batch, {where} among them,"
            mend = f"the policy itself has diverged: lower learning_rate; {_going_on(checkpoint)}"
        raise InputError(f"the {what} of {where} is no finite number at step {first['step']}; {mend}")


def _going_on(checkpoint: str | None) -> str:
    return "nothing was saved yet" if checkpoint is None else f"{checkpoint} is the last good checkpoint"
