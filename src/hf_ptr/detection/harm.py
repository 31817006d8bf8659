"""The harm of a finding to a policy: how far it lowers the weights of the chunks that it covers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from hf_ptr.detection.findings import Finding, flagged_episodes
from hf_ptr.detection.registry import all_checks
from hf_ptr.errors import InputError, nearest

# The harm of a check, in [0, 1]; those that are not listed have that of their severity. 1: the policy would learn to
# go elsewhere. 0: it would learn the right action, or nothing that it uses.
HARM: Mapping[str, float] = MappingProxyType(
    {
        # The failed attempt, up to the next one; the attempt that succeeds keeps its weight.
        "progress/retry": 1.0,
    }
)
HARM_OF_SEVERITY: Mapping[str, float] = MappingProxyType({"fault": 1.0, "note": 0.0})


def harm_of(finding: Finding, own: Mapping[str, float] = MappingProxyType({})) -> float:
    """
    The harm of a finding, in [0, 1]; 0 of an accepted one.

    Args:
        finding: the finding.
        own: the user's choice by name of the check, before that of `HARM`.
    """
    if finding.severity == "accepted":
        return 0.0
    default = HARM.get(finding.check, HARM_OF_SEVERITY[finding.severity])
    return own.get(finding.check, default)


def lowering_notes(findings: Iterable[Finding], own: Mapping[str, float] = MappingProxyType({})) -> list[Finding]:
    """
    The notes that lower weights, of the episodes without a fault.

    Args:
        findings: the findings.
        own: as for [`harm_of`].
    """
    findings = list(findings)
    flagged = set(flagged_episodes(findings))
    return [
        found
        for found in findings
        if found.severity == "note" and found.episode_index not in flagged and harm_of(found, own) > 0
    ]


def lowered_episodes(findings: Iterable[Finding], own: Mapping[str, float] = MappingProxyType({})) -> list[int]:
    """Ids of the episodes with notes that lower weights and without a fault, in rising order."""
    return sorted({found.episode_index for found in lowering_notes(findings, own)})


def require_harm(harm: Mapping[Any, Any], where: str) -> dict[str, float]:
    """
    A user's choice of harm, checked.

    Args:
        harm: by name of the check, a number in [0, 1].
        where: the key or option that it comes from, for the message.

    Raises:
        InputError: a check is unknown, or a value is not a number in [0, 1].
    """
    known = [check.name for check in all_checks()] if harm else []
    found = {}
    for name, value in harm.items():
        if name not in known:
            raise InputError(f"{where}: unknown check {name!r}.{nearest(str(name), known)} docs/checks.md lists them")
        number = value if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
        if not 0.0 <= number <= 1.0:
            raise InputError(f"{where}: the harm of {name} is {value!r}; it must be a number between 0 and 1")
        found[name] = float(number)
    return found


def parse_harm(texts: Sequence[str], where: str) -> dict[str, float]:
    """
    A user's choice of harm from texts such as `action/noise=0.5`.

    Raises:
        InputError: a text is not `CHECK=HARM`, or as [`require_harm`].
    """
    harm: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{where} {text!r} is not a harm; write CHECK=HARM, for example action/noise=0.5")
        try:
            harm[name] = float(value)
        except ValueError:
            harm[name] = value
    return require_harm(harm, where)
