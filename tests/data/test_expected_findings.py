"""The file of accepted findings: what it says, and one line for each way to get it wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from data_helpers import coded_table

from hf_ptr.data import read_dataset
from hf_ptr.data.expected_findings import ExpectedFinding, dump_expected, expected_of_dataset, read_expected
from hf_ptr.data.lerobot.writer import write_table
from hf_ptr.errors import InputError

GOOD = """
# comment
- check: progress/retry
  episodes: 3,7:10
  frames: 40:90
  reason: the second grasp is
    part of the task
- check: action/lag
  episodes: all
  reason: slow controller
- {check: time/pause, episodes: [1, "4:6"], reason: seen}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "expected.yaml"
    path.write_text(text)
    return path


def test_entries_have_episodes_frames_and_a_reason(tmp_path: Path) -> None:
    path = written(tmp_path, GOOD)
    first, second, third = read_expected(path)
    reason = "the second grasp is part of the task"
    assert first == ExpectedFinding(
        "progress/retry", reason, (range(3, 4), range(7, 10)), (40, 90), f"{path}, entry 1"
    )  # fmt: skip
    assert (second.episodes, second.frames) == (None, None)
    assert [number for number in range(8) if third.has_episode(number)] == [1, 4, 5]
    assert read_expected(written(tmp_path, "# nothing yet\n")) == ()


def test_written_entries_are_read_back_with_texts_that_yaml_would_misread(tmp_path: Path) -> None:
    reasons = ["yes: 'no' # 1e3", "1e3", "no", "12:30", "~", "0x1F", "2026-05-03"]
    entries = [{"check": "action/lag", "episodes": "0:16", "frames": "1:59", "reason": reason} for reason in reasons]
    found = read_expected(written(tmp_path, dump_expected(entries)))
    assert [one.reason for one in found] == reasons
    assert {(one.episodes, one.frames) for one in found} == {((range(16),), (1, 59))}


def test_a_range_of_very_many_episodes_is_not_a_list_of_them(tmp_path: Path) -> None:
    (found,) = read_expected(written(tmp_path, "- {check: a, episodes: '3:99999999999999', reason: b}"))
    assert found.has_episode(10**12) and not found.has_episode(2)


def test_a_link_out_of_the_dataset_is_not_read(tmp_path: Path) -> None:
    root = write_table(coded_table([30]), tmp_path / "data")
    (root / "meta" / "hf_ptr_expected.yaml").symlink_to(written(tmp_path, GOOD))
    with pytest.raises(InputError, match="is a link out of the dataset's folder"):
        expected_of_dataset(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("check: a", "is not a list; start each entry with `- check: NAME`"),
        ("- [", "cannot be read as YAML"),
        ("- a", "entry 1 is not a mapping"),
        ("- {check: a, episodes: 1}", "entry 1 has no reason; write `reason: TEXT`"),
        ("- {check: a, episodes: 1, reason: ' '}", "entry 1 has no reason"),
        ("- {check: a, reason: b}", "entry 1 has no episodes; write ids and ranges"),
        ("- {check: a, episodes: 1, reason: b}\n- {episodes: 1, reason: b}", "entry 2 has no check"),
        ("- {check: a, episodes: 3-5, reason: b}", "entry 1: episodes '3-5' cannot be read at '3-5'; write 3:6"),
        ("- {check: a, episode: 1, reason: b}", "unknown key 'episode'. Did you mean 'episodes'?"),
        ("- {check: a, episodes: 1, frames: 9:3, reason: b}", "frames '9:3' is not a range; write FIRST:END"),
    ],
)
def test_a_malformed_file_is_named_with_its_entry(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(InputError, match=re.escape(str(path))) as refused:
        read_expected(path)
    assert said in str(refused.value) and "\n" not in str(refused.value)


def test_a_missing_file_is_named_with_the_command_that_writes_one(tmp_path: Path) -> None:
    path = tmp_path / "none.yaml"
    with pytest.raises(InputError, match=rf"^{re.escape(str(path))} does not exist; .* hf-ptr export SCORES --to exp"):
        read_expected(path)


def test_a_dataset_carries_its_entries_through_selections(tmp_path: Path) -> None:
    root = write_table(coded_table([30, 40]), tmp_path / "data")
    assert read_dataset(root).expected == expected_of_dataset(root) == ()
    (root / "meta" / "hf_ptr_expected.yaml").write_text("- {check: action/lag, episodes: 1, reason: known}\n")
    assert [one.reason for one in read_dataset(root).select([1]).expected] == ["known"]
    (root / "meta" / "hf_ptr_expected.yaml").write_text("- {check: action/lag}\n")
    with pytest.raises(InputError, match="entry 1 has no reason"):
        read_dataset(root)
