"""The power card of a report: what would be found in the dataset, what may be missed, what cannot be found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Names of dimensions in a cell.
MOST_NAMES = 12


def power_rows(card: Mapping[str, Any]) -> dict[str, Any] | None:
    """
    The rows of the card.

    Args:
        card: the content of `power.json`.

    Returns:
        `share`, the share of faulty episodes that the probabilities are for; `kinds`, for each kind and amount
        `(fault, check, whole, part)` with the probabilities as text, the surest first; and `unseen`, `(fault, reason,
        names)`.
        None for a card without probabilities.
    """
    powers = card.get("powers")
    if not isinstance(powers, list) or not powers:
        return None
    kinds: dict[tuple[str, str], dict[bool, Mapping[str, Any]]] = {}
    for power in powers:
        kinds.setdefault((power["check"], power["fault"]), {})[power["part"]] = power
    order = sorted(kinds, key=lambda key: -(kinds[key].get(False, {}).get("probability") or 0.0))
    return {
        "share": card["faulty_share"],
        "kinds": [(key[1], key[0], _cell(kinds[key].get(False)), _cell(kinds[key].get(True))) for key in order],
        "unseen": [(one["fault"], one["reason"], _names(one["dimensions"])) for one in card["unseen"]],
    }


def _cell(power: Mapping[str, Any] | None) -> str:
    if power is None:
        return "–"
    if power["probability"] is None:
        return "cannot tell"
    return f"{power['probability']:.2f} [{power['low']:.2f}, {power['high']:.2f}]"


def _names(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
