"""The checks: those of this package, and those of installed packages, by the entry points `hf_ptr.checks`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import get_args

from hf_ptr.detection.check import Check, Severity
from hf_ptr.detection.checks.blocks import BlockLag, BlockScale, BlockZero
from hf_ptr.detection.checks.camera_blank import CameraBlank
from hf_ptr.detection.checks.camera_blurred import CameraBlurred
from hf_ptr.detection.checks.camera_exchanged import CameraExchanged
from hf_ptr.detection.checks.camera_frozen import CameraFrozen
from hf_ptr.detection.checks.camera_late import CameraLate
from hf_ptr.detection.checks.camera_missing import CameraMissing
from hf_ptr.detection.checks.camera_moved import CameraMoved
from hf_ptr.detection.checks.camera_other import CameraOther
from hf_ptr.detection.checks.copies import Copies
from hf_ptr.detection.checks.dead import Dead
from hf_ptr.detection.checks.exchanged import Exchanged
from hf_ptr.detection.checks.frozen import FrozenCommands, FrozenState
from hf_ptr.detection.checks.gain import Gain
from hf_ptr.detection.checks.held_commands import HeldCommands
from hf_ptr.detection.checks.idle_end import IdleEnd
from hf_ptr.detection.checks.instructions import MissingInstruction, Spelling
from hf_ptr.detection.checks.jump import Jump
from hf_ptr.detection.checks.lag import Lag
from hf_ptr.detection.checks.mixed import Mixed
from hf_ptr.detection.checks.no_motion import NoMotion
from hf_ptr.detection.checks.noise import ActionNoise, StateNoise
from hf_ptr.detection.checks.offset import Offset
from hf_ptr.detection.checks.polarity import Polarity
from hf_ptr.detection.checks.recording_gaps import RecordingGap
from hf_ptr.detection.checks.regression import Regression
from hf_ptr.detection.checks.repeated_frames import RepeatedFrames
from hf_ptr.detection.checks.residual import OneDimension, OtherData
from hf_ptr.detection.checks.rests import IdleStart, Pause
from hf_ptr.detection.checks.retries import Retries
from hf_ptr.detection.checks.return_motion import ReturnMotion
from hf_ptr.detection.checks.short import Short
from hf_ptr.detection.checks.slow import Slow
from hf_ptr.detection.checks.spikes import ActionSpikes, StateSpikes
from hf_ptr.detection.checks.stale_start import StaleStart
from hf_ptr.detection.checks.state_offset import StateOffset
from hf_ptr.detection.checks.tremor import Tremor
from hf_ptr.detection.checks.unusual_end import UnusualEnd
from hf_ptr.detection.checks.wrap import Wrap
from hf_ptr.detection.checks.wrong_instruction import WrongInstruction
from hf_ptr.errors import InputError, first_line, nearest

GROUP = "hf_ptr.checks"

# Particular mechanisms before general ones: the first of those that explain a fault equally well is named first.
BUILT_IN: tuple[type[Check], ...] = (
    BlockScale,
    BlockZero,
    BlockLag,
    Exchanged,
    Lag,
    Dead,
    Gain,
    Mixed,
    Polarity,
    Offset,
    OtherData,
    OneDimension,
    ActionNoise,
    StateNoise,
    ActionSpikes,
    StateSpikes,
    RepeatedFrames,
    IdleEnd,
    Wrap,
    StateOffset,
    Copies,
    MissingInstruction,
    Spelling,
    WrongInstruction,
    FrozenState,
    FrozenCommands,
    Jump,
    NoMotion,
    StaleStart,
    RecordingGap,
    Retries,
    CameraBlank,
    CameraBlurred,
    CameraExchanged,
    CameraFrozen,
    CameraLate,
    CameraMissing,
    CameraMoved,
    CameraOther,
    Regression,
    Short,
    UnusualEnd,
    ReturnMotion,
    Slow,
    Pause,
    IdleStart,
    HeldCommands,
    Tremor,
)


def all_checks() -> list[type[Check]]:
    """
    The checks of this package, then those of installed packages by name.

    A package adds one in its `pyproject.toml`:

        [project.entry-points."hf_ptr.checks"]
        my_check = "my_package.checks:MyCheck"

    Raises:
        InputError: an entry point cannot be loaded, is not a check, lacks a part of one, or takes a name that is in
            use.
    """
    found = list(BUILT_IN)
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        try:
            check = point.load()
        except Exception as error:  # The code of another package may raise anything.
            raise InputError(
                f"check {point.name!r} ({point.value}) cannot be loaded: {first_line(error)}; repair or uninstall the "
                "package"
            ) from error
        if not (isinstance(check, type) and issubclass(check, Check)):
            raise InputError(f"check {point.name!r} ({point.value}) is not a subclass of hf_ptr.detection.Check")
        lacking = _lacking(check)
        if lacking:
            raise InputError(
                f"check {point.name!r} ({point.value}) lacks {lacking}; see hf_ptr.detection.Check, or uninstall the "
                "package"
            )
        if check.name in {other.name for other in found}:
            raise InputError(f"check {point.name!r} ({point.value}) has the name {check.name!r}, which is in use")
        found.append(check)
    return found


def require_checks(names: Iterable[str], option: str, found: Iterable[str] = ()) -> None:
    """
    Check that names are those of checks.

    Args:
        names: the names that the user gave.
        option: the option, for the message.
        found: further names that are known, because there are findings of them.

    Raises:
        InputError: a name is unknown.
    """
    names = list(names)
    known = {*found, *(check.name for check in all_checks())} if names else set()
    for name in names:
        if name not in known:
            raise InputError(f"{option}: unknown check {name!r}.{nearest(name, known)} docs/checks.md lists them")


def _lacking(check: type[Check]) -> str:
    """What a check must define and does not, or ""."""
    methods = sorted(check.__abstractmethods__)
    if methods:
        return f"the method {methods[0]}"
    for name in ("name", "unit", "action"):
        value = getattr(check, name, None)
        if not (isinstance(value, str) and value.strip()):
            return f"the text {name}"
    return "" if check.severity in get_args(Severity) else "a severity of fault or note"
