"""robomimic's HDF5 files as a LeRobotDataset v3.0."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from hf_ptr.data.lerobot.validation import Watch, unwatched
from hf_ptr.data.lerobot.writer import DatasetWriter
from hf_ptr.errors import InputError, first_line, nearest

# What robosuite calls the pose of the hand and the fingers; other robots' files need the parts named.
PROPRIOCEPTION = ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos")
DEMONSTRATION = re.compile(r"\w+?_?(\d+)")
# Pictures decoded from the file at a time.
BLOCK = 64


def convert_robomimic(
    file: str | Path,
    out: str | Path,
    *,
    state: Sequence[str] = (),
    fps: float | None = None,
    task: str | None = None,
    watch: Watch = unwatched,
) -> Path:
    """
    Writes the demonstrations of a robomimic HDF5 file as a LeRobotDataset v3.0.

    `data/demo_N` becomes an episode, in the order of N: `actions` is `action`, each vector `obs/NAME` is
    `observation.NAME`, each picture `obs/NAME_image` is the video `observation.images.NAME`, and
    `observation.state` are the parts named, side by side. Simulator states, rewards, depth and `next_obs` (the same
    observations again) are left out.

    Args:
        file: with `data/demo_N/actions` and `data/demo_N/obs/…`.
        out: the new folder; must not exist, or be empty. It appears whole or not at all.
        state: the vectors that make up the state; by default robosuite's pose of the hand and fingers.
        fps: frames per second; by default the control frequency that the file's `env_args` give.
        task: the instruction; by default the one that the file or each demonstration gives.
        watch: is given a description and a list, and gives back what to go through instead.

    Returns:
        `out`.

    Raises:
        InputError: the file is no such one or damaged, refers to other files, says neither fps nor task, or holds
            what cannot be written.
    """
    h5py = _h5py()
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a robomimic HDF5 file")
    try:
        with h5py.File(path, "r") as source:
            return _convert(h5py, source, path, out, state, fps, task, watch)
    except InputError:
        raise
    # What h5py makes of damage depends on where it lies.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(f"{path} is damaged, or no HDF5 file: {first_line(error)}") from error


def _h5py() -> ModuleType:
    try:
        import h5py
    except ImportError as error:
        raise InputError("HDF5 files need h5py: pip install 'hf-ptr[robomimic]'") from error
    return h5py


def _convert(
    h5py: ModuleType,
    source: Any,
    path: Path,
    out: str | Path,
    state: Sequence[str],
    fps: float | None,
    task: str | None,
    watch: Watch,
) -> Path:
    data = _inside(h5py, source, "data", path)
    demonstrations = sorted((int(match[1]), name) for name in data if (match := DEMONSTRATION.fullmatch(name)))
    if not demonstrations:
        raise InputError(f"{path} has no data/demo_0; it is no robomimic file with demonstrations")
    environment = _json(data.attrs.get("env_args"))
    rate = fps or _nested(environment, "env_kwargs", "control_freq")
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise InputError(f"{path} does not say its control frequency; give it with --fps")
    first = _arrays(h5py, data, demonstrations[0][1], path)
    vectors = [name for name, values in first.items() if name != "actions" and values.ndim == 2]
    pictures = {
        name: f"observation.images.{name.removesuffix('_image')}"
        for name, values in first.items()
        if values.ndim == 4 and values.shape[3] == 3 and values.dtype == np.uint8
    }
    parts = list(state or PROPRIOCEPTION)
    for name in parts:
        if name not in vectors:
            raise InputError(
                f"{path} has no vector obs/{name} for the state; name some of {', '.join(vectors) or 'none'} with "
                f"--state.{nearest(name, vectors)}"
            )
    features = _features(first, vectors, pictures, parts)
    robots = _nested(environment, "env_kwargs", "robots")
    robot = robots[0] if isinstance(robots, list) and robots else robots
    with DatasetWriter(
        out, fps=rate, features=features, robot_type=robot if isinstance(robot, str) else None
    ) as writer:
        for _, name in watch("converting", demonstrations):
            arrays = first if name == demonstrations[0][1] else _arrays(h5py, data, name, path)
            lacking = sorted({"actions", *vectors, *pictures} - set(arrays))
            if lacking:
                raise InputError(f"{path}: data/{name} has no {lacking[0]}, which the first demonstration has")
            columns = {f"observation.{key}": arrays[key][()] for key in vectors if key != "state"}
            columns["observation.state"] = np.concatenate([arrays[key][()] for key in parts], axis=1)
            columns["action"] = arrays["actions"][()]
            instruction = task or _instruction(data, data[name])
            if instruction is None:
                raise InputError(f"{path}: neither the file nor data/{name} names its task; give it with --task")
            writer.add_episode(
                columns, instruction, {target: _frames(arrays[key]) for key, target in pictures.items()}
            )
    return writer.out


def _features(
    first: Mapping[str, Any], vectors: Sequence[str], pictures: Mapping[str, str], parts: Sequence[str]
) -> dict[str, Any]:
    def vector(*names: str) -> dict[str, Any]:
        listed = [f"{name}_{i}" for name in names for i in range(first[name].shape[1])]
        return {"dtype": "float32", "shape": [len(listed)], "names": listed}

    axes = ["height", "width", "channels"]
    return {
        "observation.state": vector(*parts),
        **{f"observation.{name}": vector(name) for name in vectors if name != "state"},
        "action": vector("actions"),
        **{
            target: {"dtype": "video", "shape": list(first[key].shape[1:]), "names": axes}
            for key, target in pictures.items()
        },
    }


def _arrays(h5py: ModuleType, data: Any, name: str, path: Path) -> dict[str, Any]:
    """The datasets of a demonstration: `actions`, and its observations by their names."""
    group = _inside(h5py, data, name, path)
    observations = _inside(h5py, group, "obs", path)
    arrays = {"actions": _inside(h5py, group, "actions", path)}
    arrays |= {key: _inside(h5py, observations, key, path) for key in observations}
    for key, values in arrays.items():
        if not isinstance(values, h5py.Dataset):
            raise InputError(f"{path}: {group.name}/{key} is a group, not an array")
        # A virtual or external array has its values in another file, wherever that file says.
        if values.is_virtual or values.external:
            raise InputError(f"{path}: {values.name} lies in another file; copy it into this one")
        if values.dtype.kind not in "fiub":
            raise InputError(f"{path}: {values.name} holds {values.dtype}, not numbers")
        if values.ndim < 1 or len(values) != len(arrays["actions"]):
            raise InputError(
                f"{path}: {values.name} has the shape {values.shape}, and there are {len(arrays['actions'])} actions"
            )
    if arrays["actions"].ndim != 2:
        raise InputError(f"{path}: {group.name}/actions has the shape {arrays['actions'].shape}, not (frames, d)")
    return {key: values for key, values in arrays.items() if values.ndim > 1}


def _inside(h5py: ModuleType, group: Any, name: str, path: Path) -> Any:
    """A member of a group, which must be in this very file."""
    if not isinstance(group, h5py.Group) or name not in group:
        raise InputError(
            f"{path} has no {getattr(group, 'name', '').rstrip('/')}/{name}; it is no robomimic file with observations"
        )
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{path}: {group.name}/{name} is a link; copy what it points to into the file")
    return group[name]


def _frames(values: Any) -> Iterator[np.ndarray]:
    for start in range(0, len(values), BLOCK):
        yield from values[start : start + BLOCK]


def _instruction(data: Any, demonstration: Any) -> str | None:
    """Where robomimic, robosuite and LIBERO write what is to be done; else the name of the environment."""
    found = [
        _nested(_json(demonstration.attrs.get("ep_meta")), "lang"),
        _nested(_json(data.attrs.get("problem_info")), "language_instruction"),
        _nested(_json(data.attrs.get("env_args")), "env_lang"),
        _nested(_json(data.attrs.get("env_args")), "env_name"),
    ]
    return next((text for text in found if isinstance(text, str) and text), None)


def _json(text: Any) -> Any:
    try:
        return json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return None


def _nested(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
