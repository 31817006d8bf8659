"""The first import: what it loads, and that the components are known to the Auto classes all the same."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from model_helpers import text_processor, tiny_policy

import hf_ptr

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
