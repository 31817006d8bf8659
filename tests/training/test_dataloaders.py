"""ChunkCollator: stacked batches are used without a copy, lists of chunks are stacked."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from data_helpers import coded_table

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.training.dataloaders import ChunkCollator


class Numbered:
    """A processor whose instruction number `i` has the ids `[i, i]`."""

    def encode_instructions(self, tasks: Sequence[str]) -> dict[str, torch.Tensor]:
        return {"instruction_ids": torch.arange(len(tasks))[:, None].expand(-1, 2)}


def test_a_stacked_batch_is_not_copied_and_a_list_of_chunks_is_stacked() -> None:
    dataset = ChunkDataset(coded_table([20, 14], tasks=2), chunk_size=5)
    collate = ChunkCollator(Numbered(), dataset.tasks)
    stacked = dataset.__getitems__([3, 25, 33])
    batch = collate(stacked)
    assert all(batch[key] is values for key, values in stacked.columns.items())
    assert "instruction_ids" not in stacked.columns
    assert batch["instruction_ids"][:, 0].tolist() == batch["task_index"].tolist()
    listed = collate([dataset[row] for row in (3, 25, 33)])
    assert listed.keys() == batch.keys()
    assert all(torch.equal(listed[key], batch[key]) for key in batch)
