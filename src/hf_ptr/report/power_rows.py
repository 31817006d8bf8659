"""The power card for the terminal and the page: what would be found, what may be missed, what cannot be found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.padding import Padding

from hf_ptr.detection.power import PowerCard
from hf_ptr.detection.power_text import FOUND, power_lines

# Names of dimensions in a cell.
MOST_NAMES = 12


def power_summary(card: Mapping[str, Any]) -> str:
    """
    The number of planted faults that would be found, in a sentence; "" for a card without probabilities.

    Args:
        card: the content of `power.json`.
    """
    told = [power for power in card.get("powers", ()) if power["probability"] is not None]
    whole, part = ([power for power in told if power["part"] is kind] for kind in (False, True))
    if not whole:
        return ""
    sure, also = (sum(power["probability"] >= FOUND for power in powers) for powers in (whole, part))
    return (
        f"Of {len(whole)} faults planted in these episodes it would find {sure} (power {FOUND:g} or more), and "
        f"{also} of {len(part)} in a fifth of an episode. Faults that most episodes share cannot be found."
    )


def power_card_text(card: PowerCard) -> Group:
    """The card for the terminal: each kind of answer, and below it the faults."""
    parts: list[RenderableType] = []
    for line in power_lines(card):
        answer, _, faults = line.partition(": ")
        parts += [f"{answer}:", Padding(escape(faults), (0, 0, 0, 2))]
    return Group(*parts)


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
