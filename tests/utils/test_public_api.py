"""The public names: exactly those that are documented, each importable from `hf_ptr`."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest
from data_helpers import drifting_table

import hf_ptr
from hf_ptr.data.lerobot.writer import write_table

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
PUBLIC = {
    *("load_dataset", "ChunkDataset", "EpisodeTable"),
    *("detect", "Detection", "Finding", "read_findings"),
    *("fit_scores", "ScoreConfig", "read_scores", "write_scores", "write_report"),
    *("read_weights", "weight_lookup", "WeightedChunkSampler"),
    *("policy_from_dataset", "load_policy", "PTRConfig", "PTRTrainer"),
    *("PTRModel", "PTRModelConfig", "VLAPolicy", "VLAPolicyConfig", "VLAProcessor"),
    *("BeliefTokenizer", "BeliefTokenizerConfig", "TransitionScorer", "TransitionScorerConfig"),
    *("CandidatePool", "TargetEncoder", "AdaptiveScaleController", "UnifiedActionSpace"),
    *("InputError", "__version__"),
}


def test_dir_lists_exactly_the_public_names() -> None:
    assert set(hf_ptr.__all__) == PUBLIC and len(hf_ptr.__all__) == len(PUBLIC)
    listed = set(dir(hf_ptr))
    assert listed >= PUBLIC
    assert {name for name in listed if not name.startswith("__")} == PUBLIC - {"__version__"}
    assert all(hasattr(hf_ptr, name) for name in hf_ptr.__all__)
    with pytest.raises(AttributeError, match="no attribute 'PTRTrainr'"):
        hf_ptr.PTRTrainr  # noqa: B018 - the attribute access is what is tested


def test_the_page_describes_exactly_the_public_names() -> None:
    cells = re.findall(r"^\| (`.*`) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(name for cell in cells for name in re.findall(r"`(\w+)`", cell)) == sorted(PUBLIC)


def test_every_reference_of_the_page_exists() -> None:
    references = re.findall(r"^::: (\S+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(references) > 20
    for reference in references:
        module, _, name = reference.rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert (found.__doc__ or "").strip(), f"{reference} has no docstring"


def test_the_example_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    data = write_table(drifting_table([40, 30, 33, 41, 28, 35]), tmp_path / "data")
    for text, shorter in {
        '"data/g1_bottle"': repr(str(data)),
        "fit_scores(chunks)": "fit_scores(chunks, hf_ptr.ScoreConfig(steps=2))",
        "max_steps=1000": "max_steps=2, use_cpu=True, report_to='none'",
    }.items():
        assert text in example
        example = example.replace(text, shorter)
    exec(compile(example, "api.md", "exec"), {"hf_ptr": hf_ptr})
    assert (tmp_path / "scores.parquet").is_file()
    assert (tmp_path / "runs" / "weighted" / "config.json").is_file()
