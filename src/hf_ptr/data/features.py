"""The features of a dataset: what each one can be used as, and which ones are the state and the action."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

STATE, ACTION = "observation.state", "action"
INDEX_FEATURES = ("timestamp", "frame_index", "episode_index", "index", "task_index")
# Wider arrays, such as images stored as numbers, would not fit in memory next to the others.
MAX_WIDTH = 4096

_NUMERIC = re.compile(r"float(16|32|64)?|double|u?int(8|16|32|64)?|bool(ean)?")
_TEXT = ("string", "large_string", "str", "text", "language")
_SIXTEEN_BITS = re.compile(r"gray(9|1\d)(le|be)?")
# Names in use elsewhere: openpi writes `state` and `actions`; AgiBot and any4lerobot write one feature for each part.
_OTHER_NAMES = {STATE: ("state", "states", "observation/state"), ACTION: ("actions",)}
_PREFIXES = {
    STATE: ("observation.states.", "observation.state.", "states.", "state."),
    ACTION: ("actions.", "action."),
}


@dataclass(frozen=True)
class FeatureKind:
    """
    The use of a feature.

    Attributes:
        kind: `"vector"`, `"camera"`, `"depth"`, `"text"`, `"index"`, or `"left out"`.
        width: numbers per frame of a vector; arrays of several dimensions are flattened. 0 for other kinds.
        reason: why the feature is neither a vector nor a camera, else empty.
    """

    kind: str
    width: int = 0
    reason: str = ""

    def __str__(self) -> str:
        if self.kind == "vector":
            return f"vector of {self.width}"
        return f"left out, because {self.reason}" if self.reason else self.kind


def classify_features(info: Mapping[str, Any]) -> dict[str, FeatureKind]:
    """The kind of every feature in the content of `meta/info.json`."""
    return {name: _kind(name, feature) for name, feature in info["features"].items()}


def vector_widths(info: Mapping[str, Any]) -> dict[str, int]:
    """The names and widths of the vectors, in the order of `meta/info.json`."""
    return {name: kind.width for name, kind in classify_features(info).items() if kind.kind == "vector"}


def derived_roles(info: Mapping[str, Any]) -> dict[str, list[str]]:
    """
    The features that take the place of `observation.state` and `action` in a dataset that lacks them.

    Only names in use elsewhere are recognised, and only if a single reading is possible: `state` and `actions`
    (openpi), or all floating-point vectors that begin with `observation.states.` or `actions.` (AgiBot, any4lerobot).

    Args:
        info: content of `meta/info.json`.

    Returns:
        The features by role, in the order of `meta/info.json`; without the roles that exist or are ambiguous.
    """
    widths = vector_widths(info)
    floats = [name for name in widths if str(info["features"][name]["dtype"]).startswith(("float", "double"))]
    roles: dict[str, list[str]] = {}
    for role in (STATE, ACTION):
        if role in info["features"]:
            continue
        found = [[name] for name in _OTHER_NAMES[role] if name in widths]
        found += [[name for name in floats if name.startswith(prefix)] for prefix in _PREFIXES[role]]
        found = [names for names in found if names]
        if len(found) == 1:
            roles[role] = found[0]
    return roles


def component_names(feature: Any) -> list[str] | None:
    """
    The names of a vector's numbers, flattened; None if `meta/info.json` has none or another number of them.

    Args:
        feature: the feature's description. Its names are a list, a list of lists, lists by the name of a group, or
            positions by name.
    """
    names = feature.get("names") if isinstance(feature, Mapping) else None
    listed = _flat(names)
    shape = feature.get("shape") if isinstance(feature, Mapping) else None
    if not listed or not isinstance(shape, Sequence):
        return None
    return listed if len(listed) == math.prod(shape) else None


def feature_text(value: object) -> str:
    """
    A feature as one text, as configurations hold it: a name, or the names of several joined by commas.

    Args:
        value: a name, or a list of the names of features that are concatenated in this order.
    """
    return ",".join(str(part).strip() for part in value) if isinstance(value, list | tuple) else str(value)


def joined_feature(features: Sequence[Mapping[str, Any]], widths: Sequence[int]) -> dict[str, Any]:
    """The description of the concatenation of vectors: floats, with the names of all parts if each part has names."""
    names = [component_names(feature) for feature in features]
    flat = [name for part in names if part is not None for name in part]
    dtype = features[0]["dtype"] if len(features) == 1 else "float32"
    return {"dtype": dtype, "shape": [sum(widths)], "names": flat if all(names) else None}


def _kind(name: str, feature: Any) -> FeatureKind:
    if name in INDEX_FEATURES:
        return FeatureKind("index")
    dtype = feature.get("dtype") if isinstance(feature, Mapping) else None
    if not isinstance(dtype, str):
        return _left_out("meta/info.json gives no dtype")
    if dtype in _TEXT:
        return FeatureKind("text", reason="it is text")
    shape = feature.get("shape")
    if not isinstance(shape, list | tuple):
        return _left_out("meta/info.json gives no shape")
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 2**31 for size in shape):
        return _left_out(f"its shape {list(shape)} is not made of positive integers")
    if dtype in ("video", "image"):
        return _picture(dtype, feature, shape)
    if not _NUMERIC.fullmatch(dtype):
        return _left_out(f"its dtype {dtype!r} is not a type of numbers, images or text")
    width = math.prod(shape)
    if width > MAX_WIDTH:
        return _left_out(f"it has {width} numbers per frame, more than {MAX_WIDTH}")
    return FeatureKind("vector", width)


def _picture(dtype: str, feature: Mapping[str, Any], shape: Sequence[int]) -> FeatureKind:
    for stored in (feature, feature.get("info"), feature.get("video_info")):
        if isinstance(stored, Mapping):
            flags = (stored.get("is_depth_map"), stored.get("video.is_depth_map"))
            if True in flags or _SIXTEEN_BITS.fullmatch(str(stored.get("video.pix_fmt"))):
                return FeatureKind("depth", reason="it is a depth map")
    if len(shape) == 3 and 1 in (shape[0], shape[-1]):
        return _left_out("it has one channel, such as depth, and not three colours")
    if dtype == "image" and (len(shape) != 3 or 3 not in shape):
        return _left_out(f"its shape {list(shape)} is not height, width and three colours")
    return FeatureKind("camera")


def _left_out(reason: str) -> FeatureKind:
    return FeatureKind("left out", reason=reason)


def _flat(names: Any) -> list[str]:
    if isinstance(names, Mapping):
        numbered = all(isinstance(value, int) for value in names.values())
        names = sorted(names, key=lambda name: names[name]) if numbered else list(names.values())
    if not isinstance(names, list | tuple):
        return []
    return [each for name in names for each in ([str(name)] if isinstance(name, str | int) else _flat(name))]
