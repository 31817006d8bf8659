"""How a run may be shared out among devices: what is not supported is refused before any process group starts."""

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
    What a run asks for, from its settings and from what `accelerate launch` puts into the environment.

    Args:
        settings: of the run, by name.
        environment: of the process.
    """

    settings: Mapping[str, Any]
    environment: Mapping[str, str]

    def on(self, *names: str) -> bool:
        """Whether one of these variables of the environment is true."""
        return any(self.environment.get(name, "").lower() in ("1", "true", "yes", "y", "on") for name in names)

    @property
    def fsdp(self) -> dict[str, Any]:
        """The FSDP settings, `version` among them; empty without FSDP."""
        asked, own = self.settings.get("fsdp"), _mapping(self.settings.get("fsdp_config"))
        if not (asked or own or self.on("ACCELERATE_USE_FSDP")):
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
        """DeepSpeed's ZeRO settings, `stage` among them; empty without DeepSpeed."""
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
        """Whether FSDP2 is asked for with one of these values of a setting, or with any that is true."""
        given = str(self.fsdp.get(name, "")).lower()
        return self._version() == 2 and (given in values if values else given in ("1", "true", "yes"))

    def _version(self) -> int:
        return int(self.fsdp.get("version", 0))

    def refused(self) -> list[str]:
        """What of it is not supported, each with the way out."""
        settings = self.settings
        batches = _mapping(settings.get("accelerator_config"))
        offload = self.zero.get("offload_optimizer") or self.zero.get("offload_param")
        precision = str(settings.get("mixed_precision") or self.environment.get("ACCELERATE_MIXED_PRECISION", "no"))
        table = {
            "FSDP 1 (the EMA target is no parameter of its own there; set fsdp_version to 2)": self._version() == 1,
            "FSDP2 with a sharded state dict (set fsdp_state_dict_type to FULL_STATE_DICT)": self._version() == 2
            and "FULL" not in str(self.fsdp.get("state_dict_type", "")).upper(),
            "FSDP2 with reshard_after_forward (set it to false)": self._version() == 2
            and str(self.fsdp.get("reshard_after_forward", "true")).lower() != "false",
            "FSDP2 with cpu_ram_efficient_loading (set it to false)": self.sharded_with("cpu_ram_efficient_loading"),
            "FSDP2 with parameters offloaded to the host (set fsdp_offload_params to false)": self.sharded_with(
                "offload_params"
            ),
            "FSDP2 with activation_checkpointing of its own (set that of the recipe)": self.sharded_with(
                "activation_checkpointing"
            ),
            "torch_compile with FSDP2 or DeepSpeed (leave it out)": bool(settings.get("torch_compile"))
            and (self._version() == 2 or bool(self.zero)),
            "FSDP2 with load_best_model_at_end (leave it out, and pick the checkpoint)": self._version() == 2
            and bool(settings.get("load_best_model_at_end")),
            "DeepSpeed ZeRO 3 (the EMA target would be a shard of other parameters; use ZeRO 2 or FSDP2)": int(
                self.zero.get("stage", 0)
            )
            == 3,
            "DeepSpeed with offloading (leave it out)": bool(self.zero) and str(offload or "none").lower() != "none",
            "DeepSpeed with a hub_strategy that pushes its checkpoints, which are pickles (use every_save)": bool(
                self.zero and settings.get("push_to_hub") and "checkpoint" in str(settings.get("hub_strategy")).lower()
            ),
            "Megatron-LM (use FSDP2)": self.on("ACCELERATE_USE_MEGATRON_LM"),
            "tensor, context or sequence parallelism (use FSDP2)": bool(settings.get("parallelism_config"))
            or self.on("ACCELERATE_USE_PARALLELISM_CONFIG"),
            "fp16, whose scaled losses skip steps (use bf16)": bool(settings.get("fp16")) or precision == "fp16",
            "fp8 (use bf16)": precision == "fp8",
            "auto_find_batch_size (set per_device_train_batch_size)": bool(settings.get("auto_find_batch_size")),
            "accelerator_config with even_batches false: a rank would wait for another's batch (leave it out)": (
                batches.get("even_batches") is False
            ),
            "accelerator_config with split_batches or dispatch_batches (leave them out)": bool(
                batches.get("split_batches") or batches.get("dispatch_batches")
            ),
        }
        return [name for name, found in table.items() if found]


def check_launch(settings: Mapping[str, Any], environment: Mapping[str, str]) -> None:
    """
    Checks how a run is to be shared out.

    Raises:
        InputError: naming what is not supported, and what to do instead.
    """
    named = Launch(settings, environment).refused()
    if named:
        raise InputError(f"not supported: {'; '.join(named)}")


def _mapping(given: Any) -> dict[str, Any]:
    """A configuration as transformers takes it: none, a mapping, JSON, or an object of its own."""
    if isinstance(given, str):
        return _read(given)
    return dict(given if isinstance(given, Mapping) else vars(given)) if given else {}


def _read(text: str) -> dict[str, Any]:
    """A configuration given as JSON, or as the path of a JSON file."""
    try:
        found = json.loads(text if text.lstrip().startswith("{") else Path(text).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"the configuration {text!r} cannot be read as JSON ({error})") from error
    return dict(found)
