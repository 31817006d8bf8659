"""Values of a recipe as the types of its keys: numbers as text, lists of one and mappings are read as meant."""

from __future__ import annotations

import dataclasses
import json
import math
import types
from collections.abc import Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from hf_ptr.errors import InputError

WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
# Kinds in the order in which a value of a key of several types is tried.
ORDER = (dict, bool, int, float, Enum, list, str)


def section_values(section: type, given: Mapping[str, Any]) -> dict[str, Any]:
    """
    The keys of one section of a recipe, converted.

    Args:
        section: a dataclass.
        given: keys and values of the recipe; those of other sections are left out.

    Returns:
        Arguments of `section`. A null stands for None where None is a value of the key, else for the default.

    Raises:
        InputError: a value has the wrong type; the message names key, type and value.
    """
    hints = get_type_hints(section)
    values = {}
    for item in dataclasses.fields(section):
        if not item.init or item.name not in given:
            continue
        value, kinds = given[item.name], _members(hints[item.name])
        if value is not None:
            values[item.name] = _converted(item.name, value, kinds)
        elif type(None) in kinds and isinstance(item.default, int):
            # Such as `save_total_limit: null`, which keeps all checkpoints.
            values[item.name] = None
    return values


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _converted(key: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    if key == "optim_args" and isinstance(value, Mapping):
        return _pairs(key, value)
    if key == "report_to" and isinstance(value, list) and len(value) > 1 and {"none", "all"} & set(map(str, value)):
        raise InputError(f"{key}: none and all stand alone, and {len(value)} values are given: {value}")
    lists = [kind for kind in kinds if _base(kind) is list]
    if isinstance(value, list) and not lists:
        if len(value) != 1:
            raise InputError(f"{key}: takes one value, and {len(value)} are given: {value}")
        value = value[0]
    if not isinstance(value, list) and lists and str not in kinds:
        value = [value]
    known = sorted((kind for kind in kinds if _base(kind) in ORDER), key=lambda kind: ORDER.index(_base(kind)))
    if any(_base(kind) is Enum for kind in known) or (dict in map(_base, known) and str(value).lstrip()[:1] == "{"):
        # Text that is not a choice, or is a broken mapping, is wrong even where the key may be any text.
        known = [kind for kind in known if kind is not str]
    errors = []
    for kind in known or [Any]:
        try:
            return _as_kind(kind, value)
        except (TypeError, ValueError) as error:
            errors.append(str(error))
    # The last kind is often text, which any scalar fits: the first says what was expected.
    raise InputError(f"{key}: {errors[0]}")


def _base(kind: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Enum):
        return Enum
    return get_origin(kind) or kind


def _as_kind(kind: Any, value: Any) -> Any:
    """The value as one type; raises ValueError or TypeError with the reason."""
    base = _base(kind)
    if base is list:
        if not isinstance(value, list):
            raise ValueError(f"invalid list: {str(value)!r}")
        (item,) = get_args(kind) or (Any,)
        return [_as_kind(item, each) for each in value]
    if base is dict:
        return _mapping(value)
    if base is Enum:
        choices = [member.value for member in kind]
        text = "no" if value is False and "no" in choices else str(value)
        if text not in choices:
            raise ValueError(f"invalid choice: {text!r} (choose from {', '.join(map(str, choices))})")
        return text
    if base in (Any, Literal) or not isinstance(base, type):
        return value
    if isinstance(value, list | dict):
        raise ValueError(f"invalid {base.__name__} value: {str(value)!r}")
    if base is bool:
        return _bool(value)
    if base is int:
        return _int(value)
    return _float(value) if base is float else str(value)


def _bool(value: Any) -> bool:
    found = WORDS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"invalid bool value: {str(value)!r} (choose true or false)")
    return found


def _int(value: Any) -> int:
    """A whole number, also as `1_000`, `1e3` or `2.0`."""
    number = _float(value, "int")
    if number != int(number):
        raise ValueError(f"invalid int value: {str(value)!r}")
    try:
        return int(value)
    except ValueError:
        return int(number)


def _float(value: Any, name: str = "float") -> float:
    if isinstance(value, bool):
        raise ValueError(f"invalid {name} value: {str(value)!r}")
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"invalid {name} value: {str(value)!r}") from None
    if not math.isfinite(number):
        raise ValueError(f"invalid {name} value: {str(value)!r} (it must be finite)")
    return number


def _mapping(value: Any) -> dict[str, Any]:
    """A mapping, also as JSON text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise ValueError(f"invalid mapping: {value!r} ({error})") from error
    if not isinstance(value, dict):
        raise ValueError(f"invalid mapping: {str(value)!r}")
    return value


def _pairs(key: str, value: Mapping[str, Any]) -> str:
    """A mapping of scalars as `name=value,name=value`."""
    for name, each in value.items():
        if isinstance(each, list | dict):
            own = "; betas are adam_beta1 and adam_beta2" if name == "betas" else ""
            raise InputError(f"{key}: {name} is {each}, and a value there is one number or text{own}")
    return ",".join(f"{name}={each}" for name, each in value.items())
