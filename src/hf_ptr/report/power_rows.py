"""The power card for the terminal and the page: what would be found, what may be missed, what cannot be found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group
from rich.markup import escape

from hf_ptr.detection.power import PowerCard
from hf_ptr.detection.power_text import FOUND, power_table, unseen_table
from hf_ptr.report.verdict import plain_table
from hf_ptr.utils.listing import listed

# Names of dimensions in a cell.
MOST_NAMES = 12


def power_summary(card: Mapping[str, Any]) -> str:
    """
    How many kinds of fault would be found, and the groups within which episodes were compared; "" for a card without
    probabilities.

    Args:
        card: the content of `power.json`.
    """
    told = [power for power in card.get("powers", ()) if power["probability"] is not None]
    whole, part = ([power for power in told if power["part"] is kind] for kind in (False, True))
    if not whole:
        return ""
    sure, also = (sum(power["probability"] >= FOUND for power in powers) for powers in (whole, part))
    in_part = f", and {also} of {len(part)} where only a fifth of an episode has the fault" if part else ""
    groups = card.get("groups", ())
    parts = (
        f" Episodes were compared within {len(groups)} groups of {min(groups)} to {max(groups)}, each over the whole "
        "recording; the self-test is that of the first group."
        if groups
        else ""
    )
    return (
        f"Self-test: hf-ptr put {len(whole)} kinds of fault into copies of your episodes, one at a time. It would "
        f"find {sure} in at least {FOUND * 10:.0f} of 10 copies{in_part}. It cannot find a fault that most episodes "
        f"share.{parts}"
    )


def power_card_text(card: PowerCard) -> Group:
    """The card for the terminal: planted faults with their probabilities, and below it what cannot be found."""
    powers = plain_table(
        "Self-test: share of the copies in which a fault is found, if a further fifth of the episodes has it"
    )
    powers.add_column("", no_wrap=True)
    powers.add_column("planted fault")
    for name in ("whole episode", "a fifth of it"):
        powers.add_column(name, justify="right", no_wrap=True)
    answer = ""
    for row in power_table(card):
        new, answer = row.answer != answer, row.answer
        powers.add_row(answer if new else "", escape(row.faults), row.whole, row.part)
    hidden = plain_table("What cannot be found in this dataset")
    for name in ("fault", "because"):
        hidden.add_column(name)
    for fault, reason in unseen_table(card):
        hidden.add_row(escape(fault), escape(reason))
    return Group(powers, "", hidden) if powers.row_count else Group(hidden)


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
        "unseen": [(one["fault"], one["reason"], listed(one["dimensions"], MOST_NAMES)) for one in card["unseen"]],
    }


def _cell(power: Mapping[str, Any] | None) -> str:
    if power is None:
        return "–"
    if power["probability"] is None:
        return "cannot tell"
    return f"{power['probability']:.2f} [{power['low']:.2f}, {power['high']:.2f}]"
