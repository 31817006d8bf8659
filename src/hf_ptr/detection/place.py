"""Where in an episode the faults of one check are."""

from __future__ import annotations

from collections.abc import Sequence

from hf_ptr.detection.check import Candidates
from hf_ptr.detection.detector import Hit
from hf_ptr.detection.windows import EVENT, MIDDLE, SHORT, WHOLE

# A fault is of the whole episode if its amount there is at least this share of the largest in a window, or if the
# shortest windows with a hit cover this share of the frames. A strong fault in a fifth is found in the whole, too.
WHOLE_AMOUNT, WHOLE_COVER = 0.7, 0.6
# Share of the largest amount in a stretch below which a window only touches the fault.
TOUCHING = 0.75
# An amount of the whole episode is of one stretch of at most this share of it, if all windows beyond have less than
# this share of the largest amount.
STRETCH, BEYOND = 0.5, 0.25


def places(hits: Sequence[Hit], length: int, windows: Candidates | None = None) -> list[tuple[Hit, int, int]]:
    """
    The stretches in which a check finds a fault, each with its most improbable hit.

    Hits that overlap are one stretch. The shortest windows place a fault; longer ones count where no shorter one has a
    hit.

    Args:
        hits: the hits of one check in one episode.
        length: frames of the episode.
        windows: the amounts of the check in the shortest windows; None without any, or where a small amount does not
            mean that the fault is not there.

    Returns:
        `(hit, first frame, frame after the last)` in the order of time.
    """
    by_scale = {scale: [hit for hit in hits if hit.scale == scale] for scale in (SHORT, MIDDLE, WHOLE, EVENT)}
    if by_scale[WHOLE]:
        largest = max((hit.found.amount for hit in by_scale[SHORT] + by_scale[MIDDLE]), default=0.0)
        strongest = _strongest(by_scale[WHOLE])
        covered = sum(stop - first for _, first, stop in _stretches(by_scale[SHORT]))
        if strongest.found.amount >= WHOLE_AMOUNT * largest or covered >= WHOLE_COVER * length:
            # The largest window leaves out frames at both ends, which are often stale.
            first, stop = (0, length) if windows is None else _within(strongest, windows, length)
            return [(strongest, first, stop)]
    found: list[tuple[Hit, int, int]] = []
    for scale in (SHORT, MIDDLE, EVENT):
        free = [hit for hit in by_scale[scale] if not any(_touch(hit, first, stop) for _, first, stop in found)]
        found += _stretches(free)
    return sorted(found, key=lambda place: place[1:])


def _within(whole: Hit, windows: Candidates, length: int) -> tuple[int, int]:
    """The stretch of an episode that alone has an amount which was found in the whole, else the whole."""
    amount = windows.amount[:, whole.found.dimension]
    much = amount >= max(TOUCHING * amount.max(initial=0.0), whole.found.amount)
    if much.any():
        first, stop = int(windows.first[much].min()), int(windows.stop[much].max())
        beyond = (windows.stop <= first) | (windows.first >= stop)
        if stop - first <= STRETCH * length and (amount[beyond] < BEYOND * amount.max()).all():
            return first, stop
    return 0, length


def _stretches(hits: Sequence[Hit]) -> list[tuple[Hit, int, int]]:
    groups: list[tuple[list[Hit], int, int]] = []
    for hit in sorted(hits, key=lambda hit: hit.found.first):
        if groups and _touch(hit, *groups[-1][1:]):
            members, first, stop = groups.pop()
            groups.append(([*members, hit], first, max(stop, hit.found.stop)))
        else:
            groups.append(([hit], hit.found.first, hit.found.stop))
    return [_trimmed(members) for members, _, _ in groups]


def _trimmed(members: Sequence[Hit]) -> tuple[Hit, int, int]:
    """The stretch of the members with much of the largest amount: those with less only touch the fault."""
    largest = max(hit.found.amount for hit in members)
    much = [hit for hit in members if hit.found.amount >= TOUCHING * largest]
    return _strongest(much), min(hit.found.first for hit in much), max(hit.found.stop for hit in much)


def _touch(hit: Hit, first: int, stop: int) -> bool:
    return hit.found.first < stop and first < hit.found.stop


def _strongest(hits: Sequence[Hit]) -> Hit:
    return min(hits, key=lambda hit: (hit.p, -hit.found.amount))
