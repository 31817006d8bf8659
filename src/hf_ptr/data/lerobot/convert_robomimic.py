"""Conversion of robomimic's HDF5 files to a LeRobotDataset v3.0."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from hf_ptr.data.lerobot.validation import Progress, no_progress
from hf_ptr.data.lerobot.writer import DatasetWriter
from hf_ptr.errors import DataWarning, InputError, first_line, nearest

# The names of the pose of end effector and gripper in robosuite, LIBERO and Isaac Lab; others have to be given.
PROPRIOCEPTION = (
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ("ee_states", "gripper_states"),
    ("eef_pos", "eef_quat", "gripper_pos"),
)
DEMONSTRATION = re.compile(r"\w+?_?(\d+)")
# Images read from the file at a time.
BLOCK = 64


def convert_robomimic(
    file: str | Path,
    out: str | Path,
    *,
    state: Sequence[str] = (),
    fps: float | None = None,
    task: str | None = None,
    progress: Progress = no_progress,
) -> Path:
    """
    Convert the demonstrations of a robomimic HDF5 file to a LeRobotDataset v3.0.

    Each `data/demo_N` becomes an episode, in the order of N. `actions` becomes `action`, each vector `obs/NAME`
    becomes `observation.NAME`, each image `obs/NAME_image` becomes the video `observation.images.NAME`, and
    `observation.state` is the concatenation of the vectors in `state`. Simulator states, rewards, depth and `next_obs`
    (a shifted copy of the observations) are not converted. Observations that are neither vectors nor 8-bit colour
    images, such as the group `datagen_info` of Isaac Lab, are left out with a `DataWarning`.

    Args:
        file: the HDF5 file, with `data/demo_N/actions` and `data/demo_N/obs/…`.
        out: the new folder; must be missing or empty. It is written atomically.
        state: the vectors that make up the state; by default the pose of end effector and gripper, by the names of
            robosuite, LIBERO or Isaac Lab.
        fps: frames per second; by default the control frequency in the file's `env_args`.
        task: the instruction; by default the one stored in the file or in each demonstration.
        progress: called with a description and a list, returns an iterable over the list, e.g. with a progress bar.

    Returns:
        `out`.

    Raises:
        InputError: the file has another format or is damaged, refers to other files, contains neither fps nor task, or
            has data that cannot be converted.
    """
    h5py = _h5py()
    path = Path(file)
    if not path.is_file():
        raise InputError(f"{path} does not exist; pass a robomimic HDF5 file")
    try:
        with h5py.File(path, "r") as source:
            return _convert(h5py, source, path, out, state, fps, task, progress)
    except InputError:
        raise
    # The exception that h5py raises for damage depends on its position in the file.
    except (OSError, KeyError, ValueError, RuntimeError, TypeError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        raise InputError(f"{path} is damaged or not an HDF5 file: {first_line(error)}") from error


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
    progress: Progress,
) -> Path:
    data = _inside(h5py, source, "data", path)
    demonstrations = sorted((int(match[1]), name) for name in data if (match := DEMONSTRATION.fullmatch(name)))
    if not demonstrations:
        raise InputError(f"{path} has no data/demo_0; it is not a robomimic file with demonstrations")
    environment = _json(data.attrs.get("env_args"))
    rate = fps or _nested(environment, "env_kwargs", "control_freq")
    if isinstance(rate, bool) or not isinstance(rate, int | float):
        raise InputError(f"{path} contains no control frequency; pass --fps")
    first = _arrays(h5py, data, demonstrations[0][1], path)
    vectors = [name for name, values in first.items() if name != "actions" and values.ndim == 2]
    images = {
        name: f"observation.images.{name.removesuffix('_image')}"
        for name, values in first.items()
        if values.ndim == 4 and values.shape[3] == 3 and values.dtype == np.uint8
    }
    known = next((names for names in PROPRIOCEPTION if all(name in vectors for name in names)), PROPRIOCEPTION[0])
    parts = list(state or known)
    for name, values in first.items():
        if name not in ("actions", *vectors, *images):
            _left_out(path, name, f"{values.dtype} of shape {values.shape[1:]} is neither a vector nor an 8-bit image")
    for name in parts:
        if name not in vectors:
            raise InputError(
                f"{path} has no vector obs/{name} for the state; choose from {', '.join(vectors) or 'none'} with "
                f"--state.{nearest(name, vectors)}"
            )
    features = _features(first, vectors, images, parts)
    robots = _nested(environment, "env_kwargs", "robots")
    robot = robots[0] if isinstance(robots, list) and robots else robots
    with DatasetWriter(
        out, fps=rate, features=features, robot_type=robot if isinstance(robot, str) else None
    ) as writer:
        for _, name in progress("converting", demonstrations):
            arrays = first if name == demonstrations[0][1] else _arrays(h5py, data, name, path)
            lacking = sorted({"actions", *vectors, *images} - set(arrays))
            if lacking:
                raise InputError(f"{path}: data/{name} has no {lacking[0]}, which the first demonstration has")
            for added in sorted(set(arrays) - set(first)):
                _left_out(path, added, "the first demonstration lacks it")
            columns = {f"observation.{key}": arrays[key][()] for key in vectors if key != "state"}
            columns["observation.state"] = np.concatenate([arrays[key][()] for key in parts], axis=1)
            columns["action"] = arrays["actions"][()]
            instruction = task or _instruction(data, data[name])
            if instruction is None:
                raise InputError(f"{path}: neither the file nor data/{name} contains the task; pass --task")
            writer.add_episode(columns, instruction, {target: _frames(arrays[key]) for key, target in images.items()})
    return writer.out


def _features(
    first: Mapping[str, Any], vectors: Sequence[str], images: Mapping[str, str], parts: Sequence[str]
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
            for key, target in images.items()
        },
    }


def _arrays(h5py: ModuleType, data: Any, name: str, path: Path) -> dict[str, Any]:
    """The arrays of a demonstration: `actions`, and its observations by name."""
    group = _inside(h5py, data, name, path)
    observations = _inside(h5py, group, "obs", path)
    arrays = {"actions": _inside(h5py, group, "actions", path)}
    arrays |= {key: _inside(h5py, observations, key, path) for key in observations}
    if not isinstance(arrays["actions"], h5py.Dataset):
        raise InputError(f"{path}: {group.name}/actions is a group, not an array")
    for key in [key for key, values in arrays.items() if not isinstance(values, h5py.Dataset)]:
        del arrays[key]
        _left_out(path, key, "it is a group of arrays, not an array")
    for values in arrays.values():
        # A virtual or external array stores its values in another file, at an arbitrary path.
        if values.is_virtual or values.external:
            raise InputError(f"{path}: {values.name} is stored in another file; copy it into this one")
        if values.dtype.kind not in "fiub":
            raise InputError(f"{path}: {values.name} has type {values.dtype}, expected numbers")
        if values.ndim < 1 or len(values) != len(arrays["actions"]):
            raise InputError(
                f"{path}: {values.name} has shape {values.shape}, but there are {len(arrays['actions'])} actions"
            )
    if arrays["actions"].ndim != 2:
        raise InputError(f"{path}: {group.name}/actions has shape {arrays['actions'].shape}, expected (frames, d)")
    return {key: values for key, values in arrays.items() if values.ndim > 1}


def _left_out(path: Path, name: str, reason: str) -> None:
    warnings.warn(f"{path}: obs/{name} is left out: {reason}", DataWarning, stacklevel=2)


def _inside(h5py: ModuleType, group: Any, name: str, path: Path) -> Any:
    """A member of a group, required to be stored in the same file."""
    if not isinstance(group, h5py.Group) or name not in group:
        parent = getattr(group, "name", "").rstrip("/")
        raise InputError(f"{path} has no {parent}/{name}; it is not a robomimic file with observations")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise InputError(f"{path}: {group.name}/{name} is a link; copy its target into the file")
    return group[name]


def _frames(values: Any) -> Iterator[np.ndarray]:
    for start in range(0, len(values), BLOCK):
        yield from values[start : start + BLOCK]


def _instruction(data: Any, demonstration: Any) -> str | None:
    """The instruction stored by robomimic, robosuite or LIBERO; otherwise the name of the environment."""
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
