"""The first import: what it loads, and that the components are known to the Auto classes all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from data_helpers import coded_table
from model_helpers import text_processor, tiny_policy
from report_helpers import run_folder, scores_of, written

import hf_ptr
from hf_ptr.data.lerobot.writer import write_table

HEAVY = ("torch", "transformers", "pandas", "scipy", "matplotlib", "mujoco", "datasets")


def python(script: str) -> str:
    """What a new interpreter prints."""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_neither_import_nor_help_loads_what_is_heavy() -> None:
    script = f"""
import sys
import hf_ptr, hf_ptr.cli
try:
    hf_ptr.cli.main(["train", "--help"])
except SystemExit as stop:
    assert stop.code == 0
print([name for name in {HEAVY} if name in sys.modules])
"""
    assert python(script).strip().endswith("[]")


def test_a_report_of_a_score_file_and_of_a_run_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    table = coded_table([30, 20, 25])
    data, scores, run = write_table(table, tmp_path / "data"), scores_of(table, {1: 0.1}), run_folder(tmp_path / "run")
    written(scores, tmp_path)
    written(scores, run)
    (run / "recipe.yaml").write_text(f"dataset: {data}\nscoring: calibrated\n")
    script = f"""
import sys
from hf_ptr.cli import main
for place in ({str(tmp_path / "scores.parquet")!r}, {str(run)!r}):
    try:
        main(["report", place, "--dataset", {str(data)!r}])
    except SystemExit as stop:
        assert stop.code == 0
print([name for name in ("torch", "transformers", "scipy", "datasets") if name in sys.modules])
"""
    assert python(script).strip().endswith("[]")
    assert "State and action along the episode" in (run / "report.html").read_text()


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(hasattr(hf_ptr, name) for name in hf_ptr.__all__)
    assert set(hf_ptr.__all__) <= set(dir(hf_ptr))
    with pytest.raises(AttributeError, match="no attribute 'PTRTrainr'"):
        hf_ptr.PTRTrainr  # noqa: B018


@pytest.mark.parametrize("first", ["import hf_ptr", "from transformers import AutoConfig; import hf_ptr"])
def test_saved_components_are_found_by_the_auto_classes(first: str, tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    text_processor().save_pretrained(tmp_path)
    script = f"""
{first}
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.auto import configuration_auto as auto
print(type(AutoProcessor.from_pretrained({str(tmp_path)!r})).__name__)
print(type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__)
assert AutoConfig.for_model("ptr").model_type == "ptr"
# While some are not loaded, transformers looks for a tokenizer by the names of all configurations.
assert auto.config_class_to_model_type("BertConfig") == "bert"
for model_type in ("ptr_vla", "ptr_belief_tokenizer", "ptr_transition_scorer"):
    config = AutoConfig.for_model(model_type)
    assert config.model_type == model_type
    print(type(config).__name__, type(AutoModel.from_config(config)).__name__)
"""
    assert python(script).split() == [
        *("VLAProcessor", "VLAPolicy", "VLAPolicyConfig", "VLAPolicy"),
        *("BeliefTokenizerConfig", "BeliefTokenizer", "TransitionScorerConfig", "TransitionScorer"),
    ]
