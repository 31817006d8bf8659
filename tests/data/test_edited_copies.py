"""The list of edits of a copy only explains it, so a damaged one counts as none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_ptr.data.edited_copies import cut_ends_of_dataset
from hf_ptr.data.lerobot.metadata_files import EDITS_FILE

WHOLE = {"episode_index": 0, "source_episode": 0, "source_first_frame": 2, "source_last_frame": 8, "source_frames": 9}
HUGE = json.dumps({"episodes": [WHOLE]}).replace('"source_first_frame": 2', '"source_first_frame": 1e999')
# Each level is read by a call of its own, but few enough levels for the JSON parser.
DEEP = '{"episodes": [], "earlier": ' * 900 + '{"episodes": []}' + "}" * 900


def cut_ends(root: Path, text: str) -> object:
    (root / "meta").mkdir()
    (root / "meta" / EDITS_FILE).write_text(text)
    return cut_ends_of_dataset(root)


def test_a_copy_without_its_first_frames(tmp_path: Path) -> None:
    assert cut_ends(tmp_path, json.dumps({"episodes": [WHOLE]})) == {0: (True, False)}


@pytest.mark.parametrize("text", [HUGE, DEEP, '{"episodes": 3}', "{"], ids=["1e999", "deep", "number", "no JSON"])
def test_a_damaged_list_counts_as_none(tmp_path: Path, text: str) -> None:
    assert cut_ends(tmp_path, text) == {}
