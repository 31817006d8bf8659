"""
Other checkers of datasets from PyPI, at their defaults, in an environment of their own (`make atlas-peers`).

Each adapter runs the peer's command on the planted folder and reads its machine-readable output. What a peer calls
information counts as this package's notes do: an episode is flagged from a warning on.
"""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.atlas.metrics import Judgement
from benchmarks.measurement import ROOT
from hf_ptr.errors import InputError, first_line

ENVIRONMENT = ROOT / "build" / "atlas-peers"
# Seconds after which a command counts as failed.
LIMIT = 300


class PeerFailure(Exception):
    """A peer's command failed, took too long, or wrote something else than documented."""


@dataclass(frozen=True)
class Place:
    """A planted folder of `episodes` episodes, and a folder for what a peer writes."""

    dataset: Path
    scratch: Path
    episodes: int

    def run(self, *command: str, codes: tuple[int, ...] = (0,)) -> str:
        """
        The standard output of a command of the peers' environment.

        Raises:
            PeerFailure: another exit code, or too slow.
        """
        program, *arguments = command
        environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "NO_COLOR": "1", "COLUMNS": "250"}
        try:
            ended = subprocess.run(
                [str(ENVIRONMENT / "bin" / program), *arguments],
                cwd=self.scratch,
                env=environment,
                capture_output=True,
                text=True,
                timeout=LIMIT,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerFailure(f"took more than {LIMIT} s") from error
        if ended.returncode not in codes:
            last = (ended.stderr or ended.stdout).strip().splitlines()[-1:]
            raise PeerFailure(f"exit code {ended.returncode}: {' '.join(last)}")
        return ended.stdout

    def flags(self, episodes: Iterable[int]) -> np.ndarray:
        """`(E,)` bool, True at the given episodes."""
        flagged = np.zeros(self.episodes, dtype=bool)
        flagged[list(episodes)] = True
        return flagged

    def scores(self, values: Iterable[tuple[int, float | None]]) -> np.ndarray:
        """`(E,)` the given values, NaN where there is none."""
        score = np.full(self.episodes, np.nan)
        for episode, value in values:
            score[episode] = np.nan if value is None else value
        return score


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def rdq_check(place: Place) -> dict[str, Judgement]:
    """Findings from `warning` on; the episode score is 100 less what the findings cost."""
    file = place.scratch / "rdq.json"
    place.run("rdq", "check", str(place.dataset), "--json", str(file), "--no-color")
    report = _json(file)
    named = {episode for found in report["findings"] if found["severity"] != "info" for episode in found["episodes"]}
    ranked = report["score"]["episode_scores"].items()
    return {"rdq check": Judgement(place.flags(named), place.scores((int(number), -cost) for number, cost in ranked))}


def rdq_rank(place: Place) -> dict[str, Judgement]:
    """Rankings only: the default one, and DemInf; a low value is worse."""
    file = place.scratch / "rank.json"
    place.run("rdq", "rank", str(place.dataset), "--json", str(file))
    episodes = _json(file)["episodes"].items()

    def ranking(name: str) -> Judgement:
        values = ((int(number), each[name]) for number, each in episodes)
        return Judgement(None, place.scores((number, None if value is None else -value) for number, value in values))

    return {"rdq rank": ranking("composite"), "DemInf (rdq rank)": ranking("deminf")}


def robovet(place: Place) -> dict[str, Judgement]:
    """Episodes with a warning or failure of `doctor`, or a flag of `score`."""
    file, table = place.scratch / "robovet.json", place.scratch / "robovet.csv"
    # Exit code 1 stands for a failed check.
    place.run("robovet", "doctor", str(place.dataset), "--json", str(file), codes=(0, 1))
    place.run("robovet", "score", str(place.dataset), "--csv", str(table))
    found = [each for each in _json(file)["results"] if each["severity"] in ("WARN", "FAIL")]
    with table.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    named = {episode for each in found for episode in each["episodes"]}
    named |= {int(row["episode_index"]) for row in rows if row["flags"]}
    ranked = ((int(row["episode_index"]), -float(row["score"])) for row in rows)
    return {"robovet": Judgement(place.flags(named), place.scores(ranked))}


def report_card(place: Place) -> dict[str, Judgement]:
    """Episodes of the quality `FLAG` or `HARD`; the largest robust deviation ranks, and hard ones come first."""
    episodes = json.loads(place.run("rrc", "score", str(place.dataset), "--json"))["episodes"]
    named = (each["episode_index"] for each in episodes if each["quality"] != "ok")
    ranked = ((each["episode_index"], np.inf if each["quality"] == "HARD" else each["combined"]) for each in episodes)
    return {"robot-report-card": Judgement(place.flags(named), place.scores(ranked))}


def doctor(place: Place) -> dict[str, Judgement]:
    """Episodes that a warning or failure names, or that `score` recommends to drop; its score ranks."""
    checks = json.loads(place.run("lerobot-doctor", "check", str(place.dataset), "--json", codes=(0, 1, 2)))["checks"]
    scores = json.loads(place.run("lerobot-doctor", "score", str(place.dataset), "--json"))
    messages = [each for check in checks for each in check["messages"] if each["severity"] in ("WARN", "FAIL")]
    named = {int(number) for each in messages for number in re.findall(r"\b[Ee]pisode (\d+)\b", each["message"])}
    named |= {int(number) for number in scores["recommended_drops"]}
    ranked = ((int(each["ep"]), -float(each["score"])) for each in scores["scores"])
    return {"lerobot-doctor": Judgement(place.flags(named), place.scores(ranked))}


def calibra(place: Place) -> dict[str, Judgement]:
    """Outliers that the default command names (its JSON leaves them out); `review` ranks by its anomaly score."""
    text = place.run("calibra", str(place.dataset), codes=(0, 1))
    review = ["review", str(place.dataset), "--mode", "fast", "--json", "--top", str(place.episodes)]
    assessed = json.loads(place.run("calibra", *review))["assessments"]
    named: set[int] = set()
    for first, last in re.findall(r"^\s*ep_(\d+)(?:–(\d+))?\s", text, flags=re.MULTILINE):
        named |= set(range(int(first), int(last or first) + 1))
    ranked = ((int(each["episode_id"]), each["anomaly_score"]) for each in assessed)
    return {"calibra-robotics": Judgement(place.flags(named), place.scores(ranked))}


def adduct(place: Place) -> dict[str, Judgement]:
    """Episodes that a finding from `MEDIUM` on names; it has no ranking."""
    file = place.scratch / "adduct.json"
    place.run("adduct", "scan", str(place.dataset), "--json", str(file))
    found = [each for cluster in _json(file)["clusters"] for each in cluster["findings"]]
    serious = [each for each in found if each["severity"] in ("MEDIUM", "HIGH")]
    named = {int(name.removeprefix("episode_")) for each in serious for name in each["locus"]["episodes"]}
    return {"adduct": Judgement(place.flags(named))}


@dataclass(frozen=True)
class Peer:
    """A peer: its package on PyPI, the names of its judgements, and its adapter."""

    package: str
    names: tuple[str, ...]
    adapter: Callable[[Place], dict[str, Judgement]]


PEERS = (
    Peer("rdq", ("rdq check",), rdq_check),
    Peer("rdq", ("rdq rank", "DemInf (rdq rank)"), rdq_rank),
    Peer("robovet", ("robovet",), robovet),
    Peer("robot-report-card", ("robot-report-card",), report_card),
    Peer("lerobot-doctor", ("lerobot-doctor",), doctor),
    Peer("calibra-robotics", ("calibra-robotics",), calibra),
    Peer("adduct", ("adduct",), adduct),
)


def judge(peer: Peer, place: Place) -> dict[str, Judgement]:
    """
    A peer's judgements.

    Raises:
        PeerFailure: its command failed, or its output cannot be read.
    """
    try:
        return peer.adapter(place)
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise PeerFailure(f"its output cannot be read: {type(error).__name__}: {first_line(error)}") from error


def installed_version(package: str) -> str:
    """
    The version of a package in the peers' environment.

    Raises:
        InputError: it is not installed.
    """
    name = package.replace("-", "_")
    found = list(ENVIRONMENT.glob(f"lib/python3*/site-packages/{name}-*.dist-info"))
    if not found:
        raise InputError(
            f"{package} is not installed in {ENVIRONMENT}; run `make atlas-peers`, or choose other --tools"
        )
    return found[0].name.removeprefix(f"{name}-").removesuffix(".dist-info")
