"""
Whole episodes kept or dropped, as users of a checker of datasets do, in place of weights between bounds.

A checker with flags drops what it flags; one with a ranking keeps the best 50, 70 or 90 %. The other checkers run in
their own environment (`make atlas-peers`) at the versions of `benchmarks/atlas/peers.txt`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.atlas import peers
from benchmarks.atlas.metrics import Judgement
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import InputError
from hf_ptr.training.detected_scores import detected

SHARES = (50, 70, 90)
PINNED = Path(peers.__file__).with_name("peers.txt")

# From the table, `(E,)` bool: which episodes are kept.
Selection = Callable[[EpisodeTable], np.ndarray]


def flagged_dropped(table: EpisodeTable, *, seed: int, observation_features: Sequence[str], size: int) -> np.ndarray:
    """`(E,)` bool, the episodes without a fault of `hf_ptr.detection`."""
    chunks = chunks_of(table, observation_features, size)
    return ~np.isin(table.episode_index, detected(chunks, seed=seed).flagged)


def shortest(table: EpisodeTable, *, share: int) -> np.ndarray:
    """`(E,)` bool, the shortest `share` % of the episodes of each task."""
    kept = np.zeros(table.num_episodes, dtype=bool)
    task = table.task_index[table.starts]
    for one in np.unique(task):
        mine = np.flatnonzero(task == one)
        kept[mine[_lowest(table.lengths[mine].astype(np.float64), share)]] = True
    return kept


def rdq_unflagged(table: EpisodeTable) -> np.ndarray:
    """`(E,)` bool, the episodes that `rdq check` names in no warning."""
    flagged = _judged(table, peers.rdq_check)["rdq check"].flagged
    if flagged is None:
        raise InputError("rdq check gave no flags; see benchmarks/atlas/peers.py")
    return ~flagged


def rdq_best(table: EpisodeTable, *, name: str, share: int) -> np.ndarray:
    """`(E,)` bool, the best `share` % of the episodes by a ranking of `rdq rank`."""
    return _lowest(_judged(table, peers.rdq_rank)[name].score, share)


# Those that run rdq in the peers' environment.
EXTERNAL: dict[str, Selection] = {
    "drop-rdq": rdq_unflagged,
    **{f"keep-rdq-{share}": partial(rdq_best, name="rdq rank", share=share) for share in SHARES},
    **{f"keep-deminf-{share}": partial(rdq_best, name="DemInf (rdq rank)", share=share) for share in SHARES},
}
FLAGGED_DROPPED = "drop-findings"
OF_TABLE: dict[str, Selection] = {"keep-shortest-70": partial(shortest, share=70), **EXTERNAL}
SELECTIONS = (FLAGGED_DROPPED, *OF_TABLE)


def kept_weight(
    name: str, table: EpisodeTable, seed: int, observation_features: Sequence[str], size: int
) -> np.ndarray:
    """
    Weights of a selection: 1 in the episodes that it keeps, 0 in the others.

    Args:
        name: one of `SELECTIONS`.
        table: F frames.
        seed: random seed.
        observation_features: the observation features of the policy.
        size: actions of a chunk.

    Returns:
        `(F,)` float64.

    Raises:
        InputError: nothing is kept.
    """
    found = partial(flagged_dropped, seed=seed, observation_features=observation_features, size=size)
    kept = (found if name == FLAGGED_DROPPED else OF_TABLE[name])(table)
    if not kept.any():
        raise InputError(f"{name} keeps no episode of {table.source!r}; there is nothing to train on")
    return np.repeat(kept, table.lengths).astype(np.float64)


def chunks_of(table: EpisodeTable, observation_features: Sequence[str], size: int) -> ChunkDataset:
    """The chunks of `size` actions that the detector judges."""
    return ChunkDataset(table, chunk_size=size, target_offset=size, observation_features=list(observation_features))


def pinned_version() -> str:
    """The version of rdq in `peers.txt`, on which the results of `EXTERNAL` depend."""
    pins = dict(line.split("==") for line in PINNED.read_text(encoding="utf-8").split() if "==" in line)
    return pins["rdq"]


def _judged(table: EpisodeTable, adapter: Callable[[peers.Place], dict[str, Judgement]]) -> dict[str, Judgement]:
    """The judgements of a peer on the table, written as a dataset."""
    peers.installed_version("rdq")
    with tempfile.TemporaryDirectory() as scratch:
        dataset, work = Path(scratch) / "dataset", Path(scratch) / "work"
        work.mkdir()
        write_table(table, dataset)
        return adapter(peers.Place(dataset, work, table.num_episodes))


def _lowest(suspicion: np.ndarray, share: int) -> np.ndarray:
    """`(E,)` bool, the `share` % with the lowest values, of equal ones the first; a missing value is the lowest."""
    order = np.argsort(np.nan_to_num(suspicion, nan=-np.inf, posinf=np.inf, neginf=-np.inf), kind="stable")
    kept = np.zeros(len(suspicion), dtype=bool)
    kept[order[: round(share / 100 * len(suspicion))]] = True
    return kept
