"""A hash of episodes as they are used, whatever files they lie in."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.memmap import row_blocks


def data_digest(table: EpisodeTable) -> str:
    """
    A hash of the episodes as they are trained on, faults included: ids, lengths, instructions and every vector. It
    does not depend on how the dataset's files are cut. Videos count with nothing but their names.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps([table.tasks, table.fps, sorted(table.videos)]).encode())
    for array in (table.episode_index, table.lengths, table.task_index, table.frame_id):
        for block in row_blocks(array):
            digest.update(np.ascontiguousarray(block).data)
    for name in sorted(table.columns):
        digest.update(name.encode())
        for block in row_blocks(table.columns[name]):
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()
