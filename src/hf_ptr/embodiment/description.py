"""Embodiments: the columns of each part in a robot's state and action vectors, from small YAML files."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from hf_ptr.embodiment.layout import STATE_ONLY, slots_of
from hf_ptr.errors import InputError, nearest

KINDS = ("state", "action")


@dataclass(frozen=True)
class Embodiment:
    """
    A robot's parts.

    Attributes:
        name: name of the robot and of its file.
        description: one line.
        state, action: the columns of each part in the robot's own vector; together they cover it.
    """

    name: str
    description: str
    state: dict[str, range]
    action: dict[str, range]

    @classmethod
    def of_parts(cls, name: str, state: Any, action: Any, description: str = "", where: str = "") -> Embodiment:
        """
        An embodiment from lists of parts, each in the order of the robot's vector.

        Args:
            name, description: name and description of the robot.
            state, action: lists of part names.
            where: the source in messages; the name by default.

        Raises:
            InputError: as [`load_embodiment`].
        """
        columns = (_columns(parts, kind, where or name) for kind, parts in zip(KINDS, (state, action), strict=True))
        return cls(name, description, *columns)

    def parts(self, kind: str) -> dict[str, range]:
        """The columns of each part of the `"state"` or the `"action"`."""
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
        return self.state if kind == "state" else self.action

    def width(self, kind: str) -> int:
        """Dimensions of the robot's own vector."""
        return sum(len(columns) for columns in self.parts(kind).values())


def embodiment_names() -> list[str]:
    """Names of the embodiments in this package."""
    files = resources.files(__package__).joinpath("descriptions").iterdir()
    return sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))


@cache
def load_embodiment(source: str) -> Embodiment:
    """
    An embodiment by name, or from the path of a YAML file.

    Raises:
        InputError: the name is unknown (the nearest one is suggested), the file is damaged, or a part is unknown,
            repeated, or not allowed in an action.
    """
    path = Path(source)
    if path.suffix in (".yaml", ".yml"):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"embodiment {source} cannot be read ({error})") from error
        return _parse(text, path.stem, str(path))
    known = embodiment_names()
    if source not in known:
        raise InputError(
            f"no embodiment {source!r}.{nearest(source, known)} There are: {', '.join(known)}; or pass a YAML file"
        )
    file = resources.files(__package__).joinpath("descriptions", f"{source}.yaml")
    return _parse(file.read_text(encoding="utf-8"), source, source)


def _parse(text: str, name: str, where: str) -> Embodiment:
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"embodiment {where} is not valid YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict) or not set(KINDS) <= set(content) <= {"description", *KINDS}:
        raise InputError(f"embodiment {where} must hold the keys state and action, and may hold a description")
    return Embodiment.of_parts(name, content["state"], content["action"], str(content.get("description", "")), where)


def _columns(parts: Any, kind: str, where: str) -> dict[str, range]:
    """The columns of parts that are listed in the order of the robot's vector."""
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise InputError(f"embodiment {where}: {kind} must be a list of parts, in the order of the robot's vector")
    columns: dict[str, range] = {}
    start = 0
    for part in parts:
        try:
            width = len(slots_of(part))
        except InputError as error:
            raise InputError(f"embodiment {where}: {kind}: {error}") from error
        if part in columns:
            raise InputError(f"embodiment {where}: {kind} names {part} twice")
        if kind == "action" and part in STATE_ONLY:
            raise InputError(f"embodiment {where}: {part} is part of a state only")
        columns[part] = range(start, start + width)
        start += width
    return columns
