"""The power card in a few rows of text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hf_ptr.detection.power import Power, PowerCard
from hf_ptr.detection.unseen import Unseen
from hf_ptr.utils.listing import listed

# Probabilities above which a fault would be found, and may be found.
FOUND, PERHAPS = 0.8, 0.3
# The answers, the best first.
ANSWERS = ("found", "found if whole", "may be missed", "mostly missed", "cannot tell")
# Names of a list that are printed.
MOST_NAMES = 6


@dataclass(frozen=True)
class PowerRow:
    """
    The faults of one check with the same answer.

    Attributes:
        answer: one of `ANSWERS`.
        faults: the faults with their amounts.
        whole: probability in a whole episode, a range where the faults differ; "" where it cannot be estimated.
        part: probability in a fifth of an episode; "" where none is planted in a part, or it cannot be estimated.
    """

    answer: str
    faults: str
    whole: str
    part: str


def power_table(card: PowerCard) -> list[PowerRow]:
    """The rows of a card, the surest first; faults of one check with the same answer share a row."""
    part = {(power.check, power.fault): power for power in card.powers if power.part}
    grouped: dict[tuple[str, str], list[tuple[Power, Power | None]]] = {}
    for power in card.powers:
        if not power.part:
            pair = power, part.get((power.check, power.fault))
            grouped.setdefault((_answer(*pair), power.check), []).append(pair)
    rows = [
        PowerRow(
            answer,
            "; ".join(whole.fault for whole, _ in pairs),
            _range([whole for whole, _ in pairs]),
            _range([other for _, other in pairs if other is not None]),
        )
        for (answer, _), pairs in grouped.items()
    ]
    return sorted(rows, key=lambda row: ANSWERS.index(row.answer))


def unseen_table(card: PowerCard) -> list[tuple[str, str]]:
    """What cannot be found, `(fault, reason)`, with the names concerned in the reason."""
    return [(one.fault, _reason(one)) for one in card.unseen]


def _answer(whole: Power, part: Power | None) -> str:
    if whole.probability is None:
        return "cannot tell"
    if whole.probability < FOUND:
        return "may be missed" if whole.probability >= PERHAPS else "mostly missed"
    missed = part is not None and part.probability is not None and part.probability < FOUND
    return "found if whole" if missed else "found"


def _range(powers: Sequence[Power]) -> str:
    known = [power.probability for power in powers if power.probability is not None]
    if not known:
        return ""
    low, high = f"{min(known):.2f}", f"{max(known):.2f}"
    return low if low == high else f"{low}-{high}"


def _reason(one: Unseen) -> str:
    names = listed(one.dimensions, MOST_NAMES)
    return f"{one.reason} ({names})" if names else one.reason
