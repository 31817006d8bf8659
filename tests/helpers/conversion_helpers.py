"""Datasets of other formats for the conversion tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from data_helpers import (
    coded_image,
)

SIZE = 32


def demonstration(length: int, seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    obs = {"robot0_eef_pos": 3, "robot0_eef_quat": 4, "robot0_gripper_qpos": 2, "object": 10}
    values: dict[str, np.ndarray] = {f"obs/{name}": random.normal(size=(length, width)) for name, width in obs.items()}
    values["obs/agentview_image"] = np.stack([coded_image(seed, frame, (SIZE, SIZE)) for frame in range(length)])
    values["obs/agentview_depth"] = random.random((length, SIZE, SIZE, 1)).astype(np.float32)
    values |= {f"next_{name}": np.roll(value, -1, axis=0) for name, value in list(values.items())}
    return {
        **values,
        "actions": random.uniform(-1, 1, (length, 7)),
        "states": random.normal(size=(length, 30)),
        "rewards": np.zeros(length),
        "dones": (np.arange(length) == length - 1).astype(np.int64),
    }


def write_robomimic(path: Path, lengths: dict[str, int], **attributes: Any) -> Path:
    """A file as written by robomimic's dataset_states_to_obs: attributes in JSON, filter keys under `mask`."""
    environment = {"env_name": "PickPlaceCan", "type": 1, "env_kwargs": {"control_freq": 20, "robots": ["Panda"]}}
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs.update({"total": sum(lengths.values()), "env_args": json.dumps(environment), **attributes})
        for number, (name, length) in enumerate(lengths.items()):
            for key, values in demonstration(length, number).items():
                data.create_dataset(f"{name}/{key}", data=values)
            data[name].attrs.update({"num_samples": length, "model_file": "<mujoco/>"})
        file.create_dataset("mask/train", data=np.array([b"demo_0"]))
    return path
