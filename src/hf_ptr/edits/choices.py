"""The edit of each check, and the user's choices."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, get_args

from hf_ptr.data.episode_ids import parse_episodes
from hf_ptr.detection.findings import Finding
from hf_ptr.detection.registry import require_checks
from hf_ptr.errors import InputError

# cut: the frames of the finding are left out; the episode is dropped, trimmed or split, depending on where they are.
# split: the episode is split between the two frames of the finding; a longer finding is cut.
# shift: the actions are shifted by the lag, where it is one of the whole episode; otherwise as cut.
# relabel: the instruction is corrected, where the finding or the user gives one; otherwise, a fault is cut.
# drop: the episode is dropped. keep: nothing.
Edit = Literal["cut", "split", "shift", "relabel", "drop", "keep"]

# The edits of checks that do not have that of their severity.
EDITS: Mapping[str, Edit] = MappingProxyType(
    {
        "action/lag": "shift",
        "block/lag": "shift",
        "state/jump": "split",
        "language/missing": "relabel",
        "language/wrong": "relabel",
        # The failed attempt, up to the next one; the attempt that succeeds is kept.
        "progress/retry": "cut",
    }
)
EDIT_OF_SEVERITY: Mapping[str, Edit] = MappingProxyType({"fault": "cut", "note": "keep", "accepted": "keep"})
# The edit to choose for notes that are kept by default and have something to edit.
EDIT_OF_KEPT: Mapping[str, Edit] = MappingProxyType(
    {
        "progress/regression": "cut",
        "progress/return": "cut",
        "progress/short": "drop",
        "progress/unusual_end": "drop",
        "state/stale_start": "cut",
        "time/gap": "split",
        "time/idle_start": "cut",
        "time/pause": "cut",
    }
)
# Checks that measure by how many frames the actions are late or early.
LAGS = frozenset(name for name, edit in EDITS.items() if edit == "shift")
# Shorter remains of an edited episode, in seconds, are not a demonstration.
LEAST_SECONDS = 1.0


@dataclass(frozen=True)
class Choices:
    """
    The user's choices.

    Attributes:
        edits: edit by name of a check, before that of the table; for accepted findings too.
        only: the checks whose findings are used; None for all.
        skip: the checks whose findings are not used.
        instructions: the correct instruction by episode id.
        least_seconds: shorter remains of an episode that is trimmed, cut, split or shifted are left out.
    """

    edits: Mapping[str, Edit] = field(default_factory=dict)
    only: Collection[str] | None = None
    skip: Collection[str] = ()
    instructions: Mapping[int, str] = field(default_factory=dict)
    least_seconds: float = LEAST_SECONDS

    def concerns(self, check: str) -> bool:
        """Whether the findings of a check are used."""
        return check not in self.skip and (self.only is None or check in self.only)

    def edit_of(self, finding: Finding) -> Edit:
        """The edit that a finding asks for."""
        if not self.concerns(finding.check):
            return "keep"
        default = EDIT_OF_SEVERITY[finding.severity]
        if finding.severity != "accepted":
            default = EDITS.get(finding.check, default)
        return self.edits.get(finding.check, default)


def parse_choices(
    *,
    edits: Sequence[str] = (),
    only: Sequence[str] = (),
    skip: Sequence[str] = (),
    relabel: Sequence[str] = (),
    least_seconds: float = LEAST_SECONDS,
    found: Collection[str] = (),
) -> Choices:
    """
    The choices from the texts of options.

    Args:
        edits: texts `CHECK=EDIT`.
        only, skip: names of checks.
        relabel: texts `EPISODES=INSTRUCTION`.
        least_seconds: as in `Choices`.
        found: names of checks that are known because there are findings of them.

    Raises:
        InputError: a text has another form, or names an unknown check or edit.
    """
    require_checks(only, "--only", found)
    require_checks(skip, "--skip", found)
    chosen: dict[str, Edit] = {}
    for text in edits:
        name, equals, edit = text.partition("=")
        possible: tuple[Edit, ...] = get_args(Edit)
        kind = next((each for each in possible if each == edit), None)
        if not equals or kind is None:
            raise InputError(
                f"--edit {text!r} is not CHECK=EDIT with an edit of {', '.join(possible)}; write for example "
                "--edit time/idle_start=cut"
            )
        require_checks([name], "--edit", found)
        if kind == "shift" and name not in LAGS:
            raise InputError(
                f"--edit {text}: {name} measures no lag of the actions; shift is for {', '.join(sorted(LAGS))}"
            )
        chosen[name] = kind
    if not 0 <= least_seconds < float("inf"):
        raise InputError(f"--least-seconds is {least_seconds}; write 0 or a positive number")
    return Choices(chosen, only or None, skip, _instructions(relabel), least_seconds)


def _instructions(texts: Sequence[str]) -> dict[int, str]:
    found: dict[int, str] = {}
    for text in texts:
        ids, equals, instruction = text.partition("=")
        if not equals or not instruction.strip():
            raise InputError(f'--relabel {text!r} is not EPISODES="INSTRUCTION"; write for example 4="open the door"')
        for episode in parse_episodes(ids, "--relabel") or ():
            if found.setdefault(episode, instruction) != instruction:
                raise InputError(f"--relabel gives episode {episode} two instructions; give one")
    return found
