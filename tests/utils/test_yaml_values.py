"""Values that are written are read again, as YAML 1.1 and as YAML 1.2."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from hf_ptr.utils.yaml_values import ValueLoader, dump_values

VALUES: list[Any] = [
    *(
        "1e3",
        "1e-3",
        "1_000",
        "0:16",
        "12:30:45",
        "no",
        "on",
        "yes",
        "null",
        "~",
        "012",
        "0x1f",
        ".5",
        "1.",
        "",
        "true",
    ),
    *("2026-11-29", "=", "<<", "a: b", "[0, 1]", "ä", "-", "5"),
    *(1e-5, 1e22, 0.1, 5, -3, True, False, None, [0, "1e3", {"a": "no"}]),
]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_both_versions_of_yaml_read_what_was_written(value: Any) -> None:
    text = dump_values({"key": value})
    for loader in (yaml.SafeLoader, ValueLoader):
        found = yaml.load(text, Loader=loader)["key"]
        assert (found, type(found)) == (value, type(value)), (loader, text)
