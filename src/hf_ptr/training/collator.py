"""The collator: chunks to a batch, with their instructions encoded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch.utils.data import default_collate

from hf_ptr.data.chunks import ChunkBatch


class ChunkCollator:
    """
    Joins chunks (see [`ChunkDataset`]) and adds the instruction of every chunk as ids.

    Each distinct instruction is encoded once, when the collator is made; a batch only looks up rows.

    Args:
        processor: of the policy, with `encode_instructions`.
        tasks: the dataset's instructions, which `task_index` counts.

    Raises:
        InputError: when the policy does not know one of the instructions.
    """

    def __init__(self, processor: Any, tasks: Sequence[str]):
        self.encoded = processor.encode_instructions(list(tasks)) if tasks else {}

    def __call__(self, chunks: Any) -> dict[str, Any]:
        batch = dict(chunks.columns) if isinstance(chunks, ChunkBatch) else default_collate(chunks)
        for name, table in self.encoded.items():
            batch[name] = table[batch["task_index"]]
        return batch
