"""The interface of a check: a mechanism of faults, its amount in an episode, its planted fault, its description."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
from scipy.ndimage import maximum_filter1d

from hf_ptr.detection.camera_model import CameraModel
from hf_ptr.detection.motion import Moving
from hf_ptr.detection.response import Implied, Limits, Prediction, ResponseModel
from hf_ptr.detection.signals import Episode, Signals
from hf_ptr.detection.windows import EVENT, MIDDLE, SHORT, WHOLE, Windows, running_sums, windows_of
from hf_ptr.errors import InputError

Severity = Literal["fault", "note"]
# The signals of an episode that a check may read.
SIGNALS = ("state", "action", "cameras")
# Episodes in which a camera needs images to be compared.
LEAST_EPISODES = 5
# Units from the limit of a command within which it is at its limit; seconds that its state needs to follow it there.
AT_LIMIT = 0.02
FOLLOWING = 0.1
# Differences from the expected command above this many units count as this, where several dimensions are looked at.
CAP = 2.0
# A fault must be larger to count in a window than in a whole episode: a window has less evidence.
WINDOW_MATERIAL = {SHORT: 1.3, MIDDLE: 1.2, WHOLE: 1.0, EVENT: 1.0}


@dataclass(frozen=True)
class Context:
    """
    What the checks know of the dataset.

    Attributes:
        signals: all episodes.
        model: the response model.
    """

    signals: Signals
    model: ResponseModel

    @property
    def fps(self) -> float:
        """Frames per second."""
        return self.signals.fps

    @cached_property
    def camera_counts(self) -> Counter[str]:
        """By camera that was read, the number of episodes with its images."""
        counts = Counter(dict.fromkeys(self.signals.cameras, 0))
        counts.update(name for episode in self.signals.episodes for name in episode.cameras)
        return counts

    @cached_property
    def cameras(self) -> dict[str, CameraModel]:
        """The cameras with images in at least `LEAST_EPISODES` episodes, by name."""
        counts = self.camera_counts
        return {name: CameraModel(self.signals, name) for name in counts if counts[name] >= LEAST_EPISODES}

    @cached_property
    def moving(self) -> Moving:
        """Which frames of an episode move."""
        return Moving(self.signals)

    @cached_property
    def views(self) -> list[View]:
        """The episodes as the checks see them."""
        return [self.view(episode) for episode in self.signals.episodes]

    def view(self, episode: Episode) -> View:
        """An episode, or a copy with a planted fault, as the checks see it."""
        return View(self, episode, windows_of(len(episode), self.fps))

    def changed_view(self, episode: Episode, limits: Limits | None = None) -> View:
        """A copy of an episode with a planted fault as the checks see it, with other limits of the commands."""
        original = self.views[episode.position]
        same = episode.state is original.episode.state and episode.seconds is original.episode.seconds
        same &= episode.task == original.episode.task
        return View(self, episode, windows_of(len(episode), self.fps), original if same else None, limits)


@dataclass(frozen=True)
class View:
    """
    An episode as the checks see it.

    Attributes:
        context: what is known of the dataset.
        episode: its signals.
        windows: its windows, one entry a scale.
        original: a view of an episode with the same states at the same times, which imply the same commands.
        limits: the usual limits of the commands, if they are others than in the dataset.
    """

    context: Context
    episode: Episode
    windows: list[Windows]
    original: View | None = None
    limits: Limits | None = None

    @cached_property
    def prediction(self) -> Prediction:
        """The commands, and those that the state implies."""
        implied = None if self.original is None else self.original.implied
        return self.context.model.predict(self.episode, implied, self.limits)

    @cached_property
    def implied(self) -> Implied:
        """What the state implies, for copies with other commands."""
        return self.context.model.implied(self.episode)

    @cached_property
    def moving(self) -> np.ndarray:
        """Whether each frame moves, `(T,)` bool."""
        return self.context.moving.frames(self.episode)

    @cached_property
    def differences(self) -> list[np.ndarray]:
        """Of each scale: the difference of each known command from the expected one, times the usual, `(W, k)`."""
        model = self.context.model
        residual = (self.prediction.action - self.prediction.expected)[:, model.known]
        squares = running_sums(np.minimum(residual**2, CAP**2))
        trust = np.median(model.trust(self.episode)[model.known]) if model.known.any() else 1.0
        return [np.sqrt(windows.mean_of(squares)) / model.sigma[model.known] * trust for windows in self.windows]

    @cached_property
    def free(self) -> np.ndarray:
        """Frames that move with a command that is free to move, `(T, d)` bool."""
        action, limits = self.prediction.action, self.prediction.limits
        # A command at its limit does not move, and need not; the state follows later, and expects it around then.
        limited = (action <= limits.lowest + AT_LIMIT) | (action >= limits.highest - AT_LIMIT)
        reach = self.context.signals.frames(FOLLOWING)
        near = maximum_filter1d(limited, 2 * reach + 1, axis=0, mode="constant") if limited.size else limited
        return ~near & self.moving[:, None]


@dataclass(frozen=True)
class Candidates:
    """
    Stretches of an episode with the amount of a mechanism in each.

    Attributes:
        first, stop: `(N,)` int64, first frame of each stretch and the frame after its last.
        amount: `(N, d)` float64, at least 0: the amount in each of d columns. A column is a dimension or what a check
            measures otherwise, for example all dimensions together; its place among the columns is the check's choice.
        detail: `(N, d)` float64, what `Check.cause` needs besides, for example the amount with its sign.

    Raises:
        InputError: an amount is not finite; the message gets the name of the check.
    """

    first: np.ndarray
    stop: np.ndarray
    amount: np.ndarray
    detail: np.ndarray

    def __post_init__(self) -> None:
        wrong = self.amount[~np.isfinite(self.amount)]
        if wrong.size:
            raise InputError(f"amounts must be finite, not {wrong[0]}; repair or uninstall the check")

    @classmethod
    def of(cls, windows: Windows, amount: np.ndarray, detail: np.ndarray | None = None) -> Candidates:
        """Those of the windows of one scale, from amounts `(W,)` or `(W, d)`."""
        return cls.events(windows.first, windows.stop, amount, detail)

    @classmethod
    def events(
        cls,
        first: np.ndarray | Sequence[int],
        stop: np.ndarray | Sequence[int],
        amount: np.ndarray | Sequence[float],
        detail: np.ndarray | Sequence[float] | None = None,
    ) -> Candidates:
        """Stretches with an extent of their own; there may be none."""
        first, stop = np.asarray(first, dtype=np.int64), np.asarray(stop, dtype=np.int64)
        values = np.asarray(amount, dtype=np.float64).reshape(len(first), -1 if len(first) else 1)
        other = values if detail is None else np.asarray(detail, dtype=np.float64).reshape(values.shape)
        return cls(first, stop, values, other)


# Candidates by scale: `SHORT`, `MIDDLE`, `WHOLE` of `hf_ptr.detection.windows`, or `EVENT`.
Measurement = dict[str, Candidates]


@dataclass(frozen=True)
class Found:
    """
    An amount that is a finding.

    Attributes:
        first, stop: first frame and the frame after the last.
        amount: in units of the check.
        dimension: the dimension of the candidates.
        detail: that of the candidates.
    """

    first: int
    stop: int
    amount: float
    dimension: int
    detail: float


@dataclass(frozen=True)
class Plant:
    """
    A fault that a check plants in copies of episodes, to learn whether it would be found.

    Attributes:
        label: the fault with its amount, for example `late by 6 frames`.
        make: from an episode, the context and a generator to the faulty copy; None where the episode cannot have it.
        partial: whether it can also be planted in a part of an episode: the copy has the same frames.
    """

    label: str
    make: Callable[[Episode, Context, np.random.Generator], Episode | None]
    partial: bool = True


class Check(ABC):
    """
    A mechanism of faults.

    The docstring of a subclass is its page in the documentation. Its first line says what it finds; the sections
    `Why it harms`, `Example`, `What to do` and `Limits` follow.

    Attributes:
        name: name in findings, `SIGNAL/MECHANISM`.
        unit: unit of the amount.
        severity: `fault`, or `note` for information that is not a fault.
        reads: the signals of an episode that the amounts depend on, of `SIGNALS`; after a planted fault in
            others they are not measured again.
        rule: True where every material amount is a finding; otherwise it must also be improbable among the dataset's
            own episodes.
        action: what a user should do about a finding.
        material: the least amount of a whole episode that counts.
        least_tail: least scale of the amounts of sound episodes, in logarithms: 0.15 where they may vary by 15 %.
        seen_everywhere: whether a small amount in a window means that the fault is not there, and not only that it
            could not be seen there, as where a dimension rests.
    """

    name: ClassVar[str]
    unit: ClassVar[str]
    severity: ClassVar[Severity] = "fault"
    reads: ClassVar[tuple[str, ...]] = SIGNALS
    rule: ClassVar[bool] = False
    action: ClassVar[str]
    material: float
    least_tail: ClassVar[float] = 0.15
    seen_everywhere: ClassVar[bool] = False

    def __init__(self, context: Context) -> None:
        self.context = context

    @classmethod
    def unavailable(cls, context: Context) -> str | None:
        """Why this dataset cannot be checked, in one line; None if it can."""
        del context
        return None

    def material_at(self, scale: str) -> float:
        """The least amount that counts at a scale. A window has less evidence than a whole episode."""
        return self.material * WINDOW_MATERIAL[scale]

    @abstractmethod
    def measure(self, view: View) -> Measurement:
        """The amounts in an episode, by scale."""

    @abstractmethod
    def cause(self, found: Found) -> str:
        """The likely cause of a finding with its amount, in words."""

    def plants(self) -> Sequence[Plant]:
        """The faults that show whether this check works on this dataset; none by default."""
        return ()


def measurement_of(check: Check, view: View) -> Measurement:
    """The measurement of a check, with its name in the message of an InputError."""
    try:
        return check.measure(view)
    except InputError as error:
        raise InputError(f"check {check.name!r}: {error}") from error
