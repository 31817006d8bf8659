"""The power card in a few lines of text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from hf_ptr.detection.power import Power, PowerCard
from hf_ptr.detection.unseen import Unseen

# Probabilities above which a fault would be found, and may be found.
FOUND, PERHAPS = 0.8, 0.3
# Names of a list that are printed.
MOST_NAMES = 6


def power_lines(card: PowerCard) -> list[str]:
    """
    What would be found, may be missed, cannot be estimated and cannot be seen; a line each, if there is any.

    Probabilities are of a fault in a whole episode, and of one in a fifth of an episode.
    """
    whole = {(power.check, power.fault): power for power in card.powers if not power.part}
    part = {(power.check, power.fault): power for power in card.powers if power.part}
    kinds = [(whole[key], part.get(key)) for key in whole]
    groups = {
        "would be found, in a whole episode/in a fifth of one": [pair for pair in kinds if _level(pair[0]) >= FOUND],
        "may be missed": [pair for pair in kinds if PERHAPS <= _level(pair[0]) < FOUND],
        "would mostly be missed": [pair for pair in kinds if 0 <= _level(pair[0]) < PERHAPS],
        "cannot tell": [pair for pair in kinds if pair[0].probability is None],
    }
    lines = [f"{name}: {_join(_kind(*pair) for pair in pairs)}" for name, pairs in groups.items() if pairs]
    if card.unseen:
        lines.append(f"cannot be seen: {_join(_unseen(one) for one in card.unseen)}")
    return lines


def _level(power: Power) -> float:
    return -1.0 if power.probability is None else power.probability


def _kind(whole: Power, part: Power | None) -> str:
    if whole.probability is None:
        return whole.fault
    also = "" if part is None or part.probability is None else f"/{part.probability:.2f}"
    return f"{whole.fault} {whole.probability:.2f}{also}"


def _unseen(one: Unseen) -> str:
    return f"{one.fault} ({f'{_names(one.dimensions)}: ' if one.dimensions else ''}{one.reason})"


def _names(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _join(parts: Iterable[str]) -> str:
    return "; ".join(parts)
