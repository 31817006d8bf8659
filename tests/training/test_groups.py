"""The detection of a dataset in groups: found and placed as in the dataset, divided between processes, kept."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from leading_table import leading_table

from hf_ptr.data import episode_groups
from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.detection.detect import detect
from hf_ptr.training import detected_scores
from hf_ptr.training.detected_scores import detected, power_values
from hf_ptr.utils.shared_work import Share

EPISODES = 40
LATE = (9, 30)


@pytest.fixture(autouse=True)
def small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(episode_groups, "MOST_EPISODES", 20)
    monkeypatch.setattr(episode_groups, "TOGETHER", 4)


def chunks() -> ChunkDataset:
    def late(number: int, action: np.ndarray) -> np.ndarray:
        return np.concatenate([action[:1].repeat(6, axis=0), action[:-6]]) if number in LATE else action

    return ChunkDataset(leading_table(EPISODES, late), chunk_size=8, target_offset=8)


def test_a_fault_is_found_in_its_group() -> None:
    found = detected(chunks())
    assert found.groups == (20, 20) and found.power is None
    assert set(LATE) <= set(found.flagged) and len(found.flagged) <= 3
    assert set(np.argsort(-found.episode_evidence)[:2]) == set(LATE)
    assert [len(rows) for rows in found.frame_evidence] == [120] * EPISODES
    of = [one.episode_index for one in found.findings]
    assert of == sorted(of)
    assert power_values(found)["groups"] == [20, 20]
    same = detect(chunks().table, power=False)
    assert same.findings == found.findings and np.array_equal(same.episode_evidence, found.episode_evidence)


def test_processes_divide_the_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = detected(chunks())
    made: Counter[int] = Counter()
    judge = detected_scores.detect_together

    def counted(table: Any, **settings: Any) -> Any:
        made[int(table.episode_index[0])] += 1
        return judge(table, **settings)

    monkeypatch.setattr(detected_scores, "detect_together", counted)
    waits: list[int] = []
    share = Share(1, 2, lambda: waits.append(len(made)))
    # This process waits for the other one, which does not come.
    detected(chunks(), keep=tmp_path, share=share)
    assert waits == [1]
    assert detected(chunks(), keep=tmp_path).findings == alone.findings
    # Nothing was judged twice.
    assert sorted(made.values()) == [1, 1]
