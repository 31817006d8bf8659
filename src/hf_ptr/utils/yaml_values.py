"""Values in YAML 1.2, of recipes and of `key=value` texts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml


class ValueLoader(yaml.SafeLoader):
    """
    Reads scalars as YAML 1.2. PyYAML itself follows YAML 1.1, where `0:16` is the number 16 in base 60, `no` is false
    and `1e-3` is a string.
    """


ValueLoader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
):
    ValueLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


class _ValueDumper(yaml.SafeDumper):
    """Quotes each text that YAML 1.1 or 1.2 would read as something else, such as `1e3`, `0:16` and `no`."""


_ValueDumper.yaml_implicit_resolvers = {
    first: [
        *yaml.SafeDumper.yaml_implicit_resolvers.get(first, []),
        *ValueLoader.yaml_implicit_resolvers.get(first, []),
    ]
    for first in {*yaml.SafeDumper.yaml_implicit_resolvers, *ValueLoader.yaml_implicit_resolvers}
}


def dump_values(values: Mapping[str, Any] | list[Any], *, sort_keys: bool = True) -> str:
    """
    A mapping or list as YAML that gives the same values when it is read as YAML 1.1 or 1.2.

    Args:
        values: the mapping or list.
        sort_keys: whether keys are sorted, or in the given order.
    """
    content = values if isinstance(values, list) else dict(values)
    return yaml.dump(content, Dumper=_ValueDumper, sort_keys=sort_keys, allow_unicode=True)
