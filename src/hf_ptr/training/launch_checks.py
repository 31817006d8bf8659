"""Checks of how a run is distributed: unsupported settings are refused before any process group starts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_ptr.errors import InputError


@dataclass(frozen=True)
class Launch:
    """
    The distribution of a run, as requested by its settings and by the variables that `accelerate launch` sets.

    Args:
        settings: settings of the run by name.
        environment: environment variables of the process.
    """

    settings: Mapping[str, Any]
    environment: Mapping[str, str]

    def on(self, *names: str) -> bool:
        """Whether one of these environment variables is true."""
        return any(self.environment.get(name, "").lower() in ("1", "true", "yes", "y", "on") for name in names)

    @property
    def fsdp(self) -> dict[str, Any]:
        """The FSDP settings, including `version`; empty without FSDP."""
        requested, own = self.settings.get("fsdp"), _mapping(self.settings.get("fsdp_config"))
        if not (requested or own or self.on("ACCELERATE_USE_FSDP")):
            return {}
        found = {
            name.removeprefix("FSDP_").lower(): value
            for name, value in self.environment.items()
            if name.startswith("FSDP_")
        }
        found |= {name.removeprefix("fsdp_"): value for name, value in own.items()}
        return {"version": 1, **found}

    @property
    def zero(self) -> dict[str, Any]:
        """The ZeRO settings of DeepSpeed, including `stage`; empty without DeepSpeed."""
        file = self.environment.get("ACCELERATE_DEEPSPEED_CONFIG_FILE", "none")
        config = _mapping(self.settings.get("deepspeed") or (None if file == "none" else file))
        if config:
            return {"stage": 0, **config.get("zero_optimization", {})}
        if not self.on("ACCELERATE_USE_DEEPSPEED"):
            return {}
        return {
            "stage": self.environment.get("ACCELERATE_DEEPSPEED_ZERO_STAGE", 2),
            "offload_optimizer": self.environment.get("ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"),
        }

    def sharded_with(self, name: str, *values: str) -> bool:
        """Whether FSDP2 is requested with a setting at one of `values`; without `values`, at true."""
        given = str(self.fsdp.get(name, "")).lower()
        return self._version() == 2 and (given in values if values else given in ("1", "true", "yes"))

    def _version(self) -> int:
        return int(self.fsdp.get("version", 0))

    def unsupported(self) -> list[str]:
        """The unsupported settings, each with its fix."""
        settings = self.settings
        batches = _mapping(settings.get("accelerator_config"))
        offload = self.zero.get("offload_optimizer") or self.zero.get("offload_param")
        precision = str(settings.get("mixed_precision") or self.environment.get("ACCELERATE_MIXED_PRECISION", "no"))
        table = {
            "FSDP 1 (the EMA target is not a separate parameter there; set fsdp_version to 2)": self._version() == 1,
            "FSDP2 with a sharded state dict (set fsdp_state_dict_type to FULL_STATE_DICT)": self._version() == 2
            and "FULL" not in str(self.fsdp.get("state_dict_type", "")).upper(),
            "FSDP2 with reshard_after_forward (set it to false)": self._version() == 2
            and str(self.fsdp.get("reshard_after_forward", "true")).lower() != "false",
            "FSDP2 with cpu_ram_efficient_loading (set it to false)": self.sharded_with("cpu_ram_efficient_loading"),
            "FSDP2 with parameters offloaded to the host (set fsdp_offload_params to false)": self.sharded_with(
                "offload_params"
            ),
            "FSDP2 with its own activation_checkpointing (use gradient_checkpointing)": self.sharded_with(
                "activation_checkpointing"
            ),
            "torch_compile with FSDP2 or DeepSpeed (remove it)": bool(settings.get("torch_compile"))
            and (self._version() == 2 or bool(self.zero)),
            "FSDP2 with load_best_model_at_end (remove it, and choose the checkpoint yourself)": self._version() == 2
            and bool(settings.get("load_best_model_at_end")),
            "DeepSpeed ZeRO 3 (the EMA target would be a shard of other parameters; use ZeRO 2 or FSDP2)": int(
                self.zero.get("stage", 0)
            )
            == 3,
            "DeepSpeed with offloading (remove it)": bool(self.zero) and str(offload or "none").lower() != "none",
            "DeepSpeed with a hub_strategy that pushes its checkpoints, which are pickles (use every_save)": bool(
                self.zero and settings.get("push_to_hub") and "checkpoint" in str(settings.get("hub_strategy")).lower()
            ),
            "Megatron-LM (use FSDP2)": self.on("ACCELERATE_USE_MEGATRON_LM"),
            "tensor, context or sequence parallelism (use FSDP2)": bool(settings.get("parallelism_config"))
            or self.on("ACCELERATE_USE_PARALLELISM_CONFIG"),
            "fp16, where loss scaling skips steps (use bf16)": bool(settings.get("fp16")) or precision == "fp16",
            "fp8 (use bf16)": precision == "fp8",
            "auto_find_batch_size (set per_device_train_batch_size)": bool(settings.get("auto_find_batch_size")),
            "accelerator_config with even_batches false: a rank would wait for a batch of another (remove it)": (
                batches.get("even_batches") is False
            ),
            "accelerator_config with split_batches or dispatch_batches (remove them)": bool(
                batches.get("split_batches") or batches.get("dispatch_batches")
            ),
        }
        return [name for name, found in table.items() if found]


def check_launch(settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """
    Checks how a run is to be distributed.

    Raises:
        InputError: a setting is not supported; the message has the fix of each.
    """
    unsupported = Launch(settings, environment).unsupported()
    if unsupported:
        raise InputError(f"not supported: {'; '.join(unsupported)}")


def require_one_run(processes: int, environment: Mapping[str, str]) -> None:
    """
    Checks that the processes of a launcher have joined to one run.

    Args:
        processes: number of processes in the run.
        environment: environment variables of the process.

    Raises:
        InputError: the launcher started more. Each would be a separate run, all in one folder.
    """
    launched = environment.get("WORLD_SIZE", "1")
    if launched.isdigit() and int(launched) > max(processes, 1):
        raise InputError(
            f"{launched} processes were launched (WORLD_SIZE), but each would train alone, and all into one "
            "output_dir, because there is no accelerator for them; add use_cpu=true, or start one process"
        )


def _mapping(given: Any) -> dict[str, Any]:
    """A configuration in any form that transformers accepts: None, a mapping, JSON, or a configuration object."""
    if isinstance(given, str):
        return _read(given)
    return dict(given if isinstance(given, Mapping) else vars(given)) if given else {}


def _read(text: str) -> dict[str, Any]:
    """A configuration from JSON text, or from the path of a JSON file."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the configuration {text!r} cannot be read as JSON ({error})") from error
    return dict(found)
