"""
Weights per frame for `lerobot-train`.

    lerobot-train … --sample_weighting.path=scores.parquet

LeRobot imports this package by itself when a command starts, since its name starts with `lerobot_policy_`; with
`import lerobot_policy_hf_ptr` it also serves a training script of your own.
"""

from lerobot_policy_hf_ptr.registration import register

register()
