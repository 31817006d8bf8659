"""Recipes of the demo's policy and of a tiny PI0 on demonstrations with a camera, for costs on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.measurement import ROOT

TASKS = ("reach-v3", "drawer-close-v3")
RECIPES = {
    "native": "vla/metaworld_state/{arm}.yaml",
    "pi0": "pi0/g1/{arm}.yaml",
    "pi0_lora": "pi0/g1/{arm}_lora.yaml",
}


def recipe_of(policy: str, arm: str) -> Path:
    """The recipe of a policy (`native`, `pi0`, `pi0_lora`) and an arm (`sft`, `ptr`; with LoRA only `ptr`)."""
    return ROOT / "recipes" / RECIPES[policy].format(arm=arm)


def overrides_of(policy: str, arm: str, scratch: Path, **settings: Any) -> list[str]:
    """
    Overrides for a short run on a CPU, past the warm-up of the weights.

    Args:
        policy, arm: as for [`recipe_of`].
        scratch: folder with the demonstrations in `data` and the PI0 in `pi0`, see [`saved_pi0`].
        settings: further ones.
    """
    given: dict[str, Any] = {
        "dataset": scratch / "data",
        "save_strategy": "no",
        "disable_tqdm": "true",
        "use_cpu": "true",
        "warmup_steps": 0,
    }
    if arm == "ptr":
        given["nce_warmup_steps"] = 0
    if policy != "native":
        # The recipe is made for other data and for a GPU.
        given |= {"policy": scratch / "pi0", "bf16": "false", "episodes": "", "eval_episodes": "", "target_offset": 4}
    return [f"{name}={value}" for name, value in {**given, **settings}.items()]
