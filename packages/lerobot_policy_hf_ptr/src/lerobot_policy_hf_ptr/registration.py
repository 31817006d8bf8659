"""The one place that changes LeRobot: the setting `sample_weighting.path`, and the weighter that it makes."""

from __future__ import annotations

import importlib.metadata
import logging
import sys
from collections.abc import Callable
from typing import Any

from packaging.specifiers import SpecifierSet

from lerobot_policy_hf_ptr.sample_losses import NoSampleLossError, give_sample_losses
from lerobot_policy_hf_ptr.weight_file import WeightFileError

SUPPORTED = SpecifierSet(">=0.6.1,<0.7", prereleases=True)
FIELD = "sample_weighting"


def register() -> None:
    """
    Extends LeRobot's configuration and its factory of sample weighters; a second call changes nothing.

    Raises:
        SystemExit: this LeRobot is not supported and the command line asks for weights. Other commands get a warning.
    """
    version = importlib.metadata.version("lerobot")
    if version not in SUPPORTED:
        line = (
            f"lerobot_policy_hf_ptr works with LeRobot {SUPPORTED}, not {version}: "
            f"pip install 'lerobot[training]{SUPPORTED}', or a newer lerobot_policy_hf_ptr"
        )
        if any(argument.startswith((f"--{FIELD}.path", f"--{FIELD}.type=hf_ptr")) for argument in sys.argv):
            raise SystemExit(line)
        logging.warning(line)
        return

    from lerobot.configs.train import TrainPipelineConfig
    from lerobot.utils import sample_weighting

    from lerobot_policy_hf_ptr.weighter import WeightingConfig

    if sample_weighting.make_sample_weighter.__module__ == __name__:
        return
    # LeRobot's parser reads the type of a setting from the field or from the annotation.
    TrainPipelineConfig.__dataclass_fields__[FIELD].type = WeightingConfig | None
    TrainPipelineConfig.__annotations__[FIELD] = WeightingConfig | None
    sample_weighting.make_sample_weighter = extended_factory(sample_weighting.make_sample_weighter)


def extended_factory(released: Callable[..., Any]) -> Callable[..., Any]:
    """
    LeRobot's `make_sample_weighter`, also for the type `hf_ptr` and for policies without a loss per sample.

    Args:
        released: LeRobot's own; it makes the weighters of the other types.

    Raises:
        SystemExit: the file is unfit for the dataset, or the policy has no loss per sample: one line, before training.
    """
    from lerobot_policy_hf_ptr.weighter import make_frame_weighter

    def make_sample_weighter(
        config: Any, policy: Any, device: Any, dataset_root: str | None = None, dataset_repo_id: str | None = None
    ) -> Any:
        if config is None:
            return None
        try:
            give_sample_losses(policy)
            if config.type == "hf_ptr":
                return make_frame_weighter(config, device, dataset_root, dataset_repo_id)
        except (WeightFileError, NoSampleLossError) as error:
            raise SystemExit(f"--{FIELD}: {error}") from None
        return released(config, policy, device, dataset_root, dataset_repo_id)

    return make_sample_weighter
