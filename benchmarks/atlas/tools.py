"""The tools that the atlas compares, and the version that a recorded cell belongs to."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from benchmarks.atlas import baselines, ours, peers
from benchmarks.atlas.cells import Cell
from benchmarks.atlas.metrics import Judgement
from benchmarks.atlas.ours import OWN
from benchmarks.atlas.planted import Planted
from hf_ptr import detection
from hf_ptr.data.lerobot.writer import write_table

PEER_OF = {name: peer for peer in peers.PEERS for name in peer.names}
TOOLS = (*OWN, *baselines.BASELINES, *PEER_OF)
GROUPS = {"hf-ptr": OWN, "baselines": tuple(baselines.BASELINES), "peers": tuple(PEER_OF)}


@cache
def version_of(tool: str) -> str:
    """
    The code that a tool's figures depend on: a hash of it, or a peer's version.

    Raises:
        InputError: a peer is not installed.
    """
    here = Path(__file__).parent
    if tool in PEER_OF:
        return f"{peers.installed_version(PEER_OF[tool].package)} {_hash([here / 'peers.py', here / 'metrics.py'])}"
    if tool in OWN:
        package = Path(detection.__file__).parent
        return _hash([here / "ours.py", here / "metrics.py", *sorted(package.rglob("*.py"))])
    return _hash([here / "baselines.py", here / "metrics.py"])


def tools_for(cell: Cell, tools: Sequence[str]) -> list[str]:
    """The tools that judge a cell. A peer takes seconds, so peers do not judge rare faults."""
    return [tool for tool in tools if not (tool in PEER_OF and cell.rare)]


def judged(
    planted: Planted, tools: Sequence[str], power: bool = True
) -> dict[str, tuple[Judgement | None, str | None, float]]:
    """The judgement of each tool, or why there is none, and its seconds; tools of one run share theirs."""
    wanted = [peer for peer in peers.PEERS if any(name in tools for name in peer.names)]
    if power and any(tool in OWN for tool in tools) and planted.fault in ours.PROMISES:
        # Kept for the other faults of the dataset: not a part of the time of this one.
        ours.promises(planted.original)
    with tempfile.TemporaryDirectory() as folder:
        runs: list[tuple[Sequence[str], Callable[[], dict[str, Judgement]]]] = [
            (OWN, partial(ours.judge, planted, power))
        ]
        runs += [((name,), partial(baselines.judge, name, planted)) for name in baselines.BASELINES]
        if wanted:
            dataset = write_table(planted.table, Path(folder) / "dataset")
            place = peers.Place(dataset, Path(folder), planted.table.num_episodes)
            runs += [(peer.names, partial(peers.judge, peer, place)) for peer in wanted]
        found: dict[str, tuple[Judgement | None, str | None, float]] = {}
        for names, run in runs:
            asked = [name for name in names if name in tools]
            if not asked:
                continue
            start = time.perf_counter()
            judgements: dict[str, Judgement] = {}
            reason = None
            try:
                judgements = run()
            except peers.PeerFailure as failure:
                reason = str(failure)
            seconds = round(time.perf_counter() - start, 3)
            found |= {name: (judgements.get(name), reason, seconds) for name in asked}
    return found


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.blake2b(digest_size=4)
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()
