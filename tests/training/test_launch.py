"""Launching of runs: the accelerate configurations, and settings refused before any process group starts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from recipe_helpers import recipe

from hf_ptr.errors import InputError
from hf_ptr.training.checkpointing import STAGING_FOLDER, last_complete_checkpoint
from hf_ptr.training.launch_checks import check_launch
from hf_ptr.training.ptr_config import PTRConfig

FOLDER = Path(__file__).resolve().parents[2] / "recipes" / "accelerate"
CONFIGURATIONS = {
    "cpu": ("MULTI_GPU", 2, 1),
    "single_gpu": ("NO", 1, 1),
    "multi_gpu": ("MULTI_GPU", 8, 1),
    "fsdp2": ("FSDP", 8, 1),
    "zero2": ("DEEPSPEED", 8, 1),
    "multi_node": ("MULTI_GPU", 16, 2),
}


def parsed(name: str, monkeypatch: pytest.MonkeyPatch, *options: str) -> Namespace:
    """The arguments that `accelerate launch` parses from a configuration file on a machine with eight GPUs."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    file = str(FOLDER / f"{name}.yaml")
    given = launch_command_parser().parse_args(["--config_file", file, *options, "-m", "hf_ptr.train", "recipe.yaml"])
    return _validate_launch_command(given)[0]


def test_every_configuration_is_tested_and_documented() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(CONFIGURATIONS)
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert all(f"`{path.name}`" in readme for path in FOLDER.iterdir() if path.suffix in (".yaml", ".sh"))


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_accelerate_reads_a_configuration_and_hf_ptr_supports_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, processes, machines = CONFIGURATIONS[name]
    config = load_config_from_file(str(FOLDER / f"{name}.yaml"))
    assert str(config.distributed_type).rpartition(".")[2] == kind
    assert (config.num_processes, config.num_machines) == (processes, machines)
    arguments = parsed(name, monkeypatch)
    assert arguments.module and arguments.training_script == "hf_ptr.train"
    check_launch({}, environment_of(kind, arguments))


def environment_of(kind: str, arguments: Namespace) -> dict[str, str]:
    """The environment that the launcher passes to each process."""
    arguments.main_process_port = 29500
    if kind == "DEEPSPEED":
        arguments.deepspeed_fields_from_accelerate_config = ""
        return prepare_deepspeed_cmd_env(arguments)[1]
    return prepare_multi_gpu_env(arguments)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("fsdp2", ("--fsdp_version", "1"), "FSDP 1"),
        ("fsdp2", ("--fsdp_reshard_after_forward", "true"), "FSDP2 with reshard_after_forward"),
        ("fsdp2", ("--fsdp_state_dict_type", "SHARDED_STATE_DICT"), "FSDP2 with a sharded state dict"),
        ("fsdp2", ("--fsdp_offload_params", "true"), "FSDP2 with parameters offloaded"),
        ("fsdp2", ("--fsdp_cpu_ram_efficient_loading", "true"), "FSDP2 with cpu_ram_efficient_loading"),
        ("zero2", ("--zero_stage", "3"), "DeepSpeed ZeRO 3"),
        ("zero2", ("--offload_optimizer_device", "cpu"), "DeepSpeed with offloading"),
        ("multi_gpu", ("--mixed_precision", "fp16"), "fp16"),
    ],
)
def test_unsupported_options_of_the_launcher_are_refused(
    name: str, options: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = environment_of(CONFIGURATIONS[name][0], parsed(name, monkeypatch, *options))
    with pytest.raises(InputError, match=f"not supported: {message}"):
        check_launch({}, environment)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fsdp": "full_shard"}, "FSDP 1"),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, "DeepSpeed ZeRO 3"),
        ({"deepspeed": {"zero_optimization": {"stage": 2, "offload_optimizer": {"device": "cpu"}}}}, "offloading"),
        ({"fp16": True}, "fp16"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size"),
        ({"accelerator_config": {"even_batches": False}}, "even_batches false"),
        ({"accelerator_config": {"split_batches": True}}, "split_batches"),
        ({"deepspeed": "nowhere.json"}, "cannot be read as JSON"),
    ],
)
def test_unsupported_settings_are_refused_before_a_process_group_starts(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PTRConfig, "_setup_devices", property(lambda _: pytest.fail("a process group was started")))
    with pytest.raises(InputError, match=message) as caught:
        PTRConfig(output_dir=str(tmp_path / "run"), **settings)
    assert "\n" not in str(caught.value) and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_on_two_processes_saves_a_checkpoint_on_sigterm(metaworld_dataset: Path, tmp_path: Path) -> None:
    """`accelerate launch` with the CPU configuration receives the signal of a scheduler that preempts a job."""
    run = tmp_path / "run"
    settings = {"max_steps": 100_000, "save_strategy": "steps", "save_steps": 5, "use_cpu": True}
    file = recipe(tmp_path, metaworld_dataset, output_dir=run, **settings)
    command = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch"]
    options = ["--config_file", str(FOLDER / "cpu.yaml"), "-m", "hf_ptr.train", str(file)]
    with (tmp_path / "log").open("w") as log:
        launcher = subprocess.Popen([*command, *options], stdout=log, stderr=log, env={**os.environ})
    try:
        deadline = time.monotonic() + 200
        while last_complete_checkpoint(run) is None:
            assert launcher.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-3000:]
            time.sleep(0.2)
        launcher.send_signal(signal.SIGTERM)
        code = launcher.wait(timeout=60)
    finally:
        launcher.kill()
    log_text = (tmp_path / "log").read_text()
    assert code != 0 and "stopping after this step, with a checkpoint" in log_text
    saved = last_complete_checkpoint(run)
    assert saved is not None and f"stopped at step {saved.rpartition('-')[2]}" in log_text
    # Both processes have written their state, and no staging folder is left.
    assert {path.name for path in Path(saved).glob("run_state*")} == {
        "run_state.safetensors",
        "run_state_1.safetensors",
    }
    assert not (run / STAGING_FOLDER).exists()
