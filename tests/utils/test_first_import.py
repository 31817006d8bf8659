"""The first import: registered components, and a command line that starts without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from data_helpers import coded_table
from model_helpers import text_processor, tiny_policy
from report_helpers import run_folder, scores_of, written

from hf_ptr.data.lerobot.writer import write_table

HEAVY = ("torch", "transformers", "pandas", "scipy", "matplotlib", "mujoco", "datasets")
COMPONENTS = {
    "ptr_belief_tokenizer": "BeliefTokenizerConfig",
    "ptr_transition_scorer": "TransitionScorerConfig",
    "ptr_vla": "VLAPolicyConfig",
    "ptr_efficientnet_lite": "EfficientNetLiteConfig",
    "ptr": "PTRModelConfig",
}


def python(*arguments: str) -> str:
    """Standard output of a new interpreter."""
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=240)
    assert result.returncode == 0, result.stderr
    return result.stdout


def loaded_by_command(tmp_path: Path, *commands: list[str]) -> list[str]:
    """The heavy modules that the `hf-ptr` script has loaded after running these commands."""
    script = tmp_path / "hf-ptr"
    script.write_text(f"""
import sys
from hf_ptr.cli import main
for arguments in {commands!r}:
    try:
        main(arguments)
    except SystemExit as stop:
        assert stop.code == 0
print("LOADED", *(name for name in {HEAVY} if name in sys.modules))
""")
    return python(str(script)).splitlines()[-1].split()[1:]


def test_help_loads_no_heavy_module(tmp_path: Path) -> None:
    assert loaded_by_command(tmp_path, ["--help"], ["train", "--help"], ["score", "--help"]) == []


@pytest.mark.parametrize("options", [["-m", "hf_ptr"], ["-mhf_ptr"]])
def test_the_module_starts_as_fast_as_the_script(options: list[str]) -> None:
    arguments = [sys.executable, "-X", "importtime", *options, "--version"]
    imports = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=True).stderr
    loaded = {line.rpartition("|")[2].strip() for line in imports.splitlines()}
    assert "hf_ptr" in loaded
    assert not loaded & set(HEAVY)


def test_a_report_of_a_score_file_and_of_a_run_loads_neither_torch_nor_transformers(tmp_path: Path) -> None:
    table = coded_table([30, 20, 25])
    data, scores, run = write_table(table, tmp_path / "data"), scores_of(table, {1: 0.1}), run_folder(tmp_path / "run")
    written(scores, tmp_path)
    written(scores, run)
    (run / "recipe.yaml").write_text(f"dataset: {data}\nscoring: calibrated\n")
    commands = [["report", str(source), "--dataset", str(data)] for source in (tmp_path / "scores.parquet", run)]
    assert not {"torch", "transformers", "datasets"} & set(loaded_by_command(tmp_path, *commands))
    assert "State and action along the episode" in (run / "report.html").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "registered"),
    [
        *(("hf-ptr", False), ("hf-ptr.exe", False), ("hf-ptr-script.py", False)),
        *(("hf-ptr.py", True), ("hf-ptr-script", True), ("hf-ptr-demo", True)),
    ],
)
def test_only_the_command_skips_the_eager_registration(script: str, registered: bool, tmp_path: Path) -> None:
    (tmp_path / script).write_text("import sys, hf_ptr\nprint('transformers' in sys.modules)")
    assert python(str(tmp_path / script)).strip() == str(registered)


@pytest.mark.slow
def test_the_command_loads_policies_without_the_eager_registration(tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path / "policy")
    text_processor().save_pretrained(tmp_path / "policy")
    script = tmp_path / "hf-ptr"
    script.write_text(f"""
import hf_ptr
from transformers import AutoConfig
policy, processor = hf_ptr.load_policy({str(tmp_path / "policy")!r})
print(type(policy).__name__, type(processor).__name__, AutoConfig.for_model("ptr_efficientnet_lite").model_type)
""")
    assert python(str(script)).split() == ["VLAPolicy", "VLAProcessor", "ptr_efficientnet_lite"]


@pytest.mark.slow
@pytest.mark.parametrize("first", ["import hf_ptr", "from transformers import AutoConfig; import hf_ptr"])
def test_auto_classes_load_saved_components_without_an_import_hook(first: str, tmp_path: Path) -> None:
    tiny_policy().save_pretrained(tmp_path)
    text_processor().save_pretrained(tmp_path)
    script = f"""
import sys
{first}
finders = [finder.__module__ for finder in sys.meta_path]
assert not {{"peft", "datasets", "pandas", "matplotlib"}} & sys.modules.keys()
assert "_frozen_importlib_external" in finders and not any(name.startswith("hf_ptr") for name in finders)
from transformers import AutoConfig, AutoModel, AutoProcessor
from transformers.models.auto import configuration_auto as auto
print(type(AutoProcessor.from_pretrained({str(tmp_path)!r})).__name__)
print(type(AutoModel.from_pretrained({str(tmp_path)!r})).__name__)
assert auto.config_class_to_model_type("BertConfig") == "bert"
for model_type, name in {COMPONENTS!r}.items():
    config = AutoConfig.for_model(model_type)
    assert config.model_type == model_type and type(config).__name__ == name
for model_type in ("ptr_vla", "ptr_belief_tokenizer", "ptr_transition_scorer"):
    print(type(AutoModel.from_config(AutoConfig.for_model(model_type))).__name__)
"""
    assert python("-c", script).split() == [
        *("VLAProcessor", "VLAPolicy"),
        *("VLAPolicy", "BeliefTokenizer", "TransitionScorer"),
    ]
