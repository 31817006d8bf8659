"""Configuration of the label-free score. Imports nothing heavy, so the command line and the report can read it."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hf_ptr.errors import InputError, nearest
from hf_ptr.utils.yaml_values import ValueLoader

# The checks that a head answers, and the planted fault that calibrates each (`hf_ptr.scoring.transitions`).
ACTION_SHIFT = "action/shift"
PLANTED_FAULTS = {
    "next_observation/pool": "next_observation",
    "action/pool": "swapped",
    ACTION_SHIFT: "shifted",
    "instruction/pool": "instruction",
}
# The check that needs no head (`hf_ptr.scoring.action_noise`).
ACTION_NOISE = "action/noise"
CHECKS = (*PLANTED_FAULTS, ACTION_NOISE)


# Frame rates of the tuning data, frames per second: real demonstrations, and a simulator whose arm moves faster.
TUNED_RATES = (30.0, 80.0)


def frames_at(fps: float, frames: int) -> int:
    """
    A number of frames at the tuned rates, converted to a frame rate: between the `TUNED_RATES` the same, outside as
    long in seconds as at the nearest of them; at least 1, with its sign.

    Args:
        fps: frames per second.
        frames: frames at the tuned rates, negative for earlier.
    """
    slowest, fastest = TUNED_RATES
    converted = round(abs(frames) * fps / min(max(fps, slowest), fastest))
    return max(1, converted) * (1 if frames > 0 else -1)


@dataclass(frozen=True)
class ScoreConfig:
    """
    Every constant of the label-free score, with its meaning, its unit and its origin.

    Origins: *paper* is PTR (arXiv 2603.16542). *Tuned*: changed by hand on the tuning data, Meta-World demonstrations
    of the seeds 10 to 13 (`hard`, `misaligned`, `misaligned-severe`, `ani`, `clean`) and the 20 real G1 demonstrations
    as clean data; the published results use other seeds. *Initial*: from the first version, which was developed on the
    same data, and unchanged since. Frames are those of the tuned rates, see [`frames_at`]. `docs/calibrated.md` has
    the equations, and the ablations of the fields marked *ablation*.

    Raises:
        InputError: a value is out of range, or a check is unknown.
    """

    # --- Result ---

    # Random seed of every draw. The same seed gives the same scores on the same device.
    seed: int = 0
    # Bounds of the weight. `w_max`: paper, Table 6. `w_min`: tuned; with the paper's 0.25 a policy still learns the
    # faults of two fifths of the episodes (the plan `atlas-bounds`).
    w_min: float = 0.02
    w_max: float = 4.0
    # Least effective sample size of the weighted chunks, as a share of their number: so much of the data must keep
    # counting. Tuned with `w_min`; with a half, faults of two thirds of the episodes keep their weight.
    min_sample_size: float = 0.3
    # Episodes longer than `target_offset` without which nothing is fitted; at least 4, two folds of two. Initial.
    min_episodes: int = 4
    # Checks that count as evidence. Ablation: leave one out.
    checks: tuple[str, ...] = CHECKS

    # --- Heads and cross-fitting ---

    # Number of fits, each with episodes drawn by the weights of the one before. Initial; ablation.
    rounds: int = 2
    # Folds of episodes; every fold has at least two episodes. Tuned: heads should train on most of a small dataset.
    folds: int = 5
    # Train the heads on the other folds only. Ablation: False also trains them on the episodes that they score.
    cross_fit: bool = True
    # Training steps per fold and round: one pass over the training chunks, at least `steps` and at most `max_steps`.
    # `steps` is tuned: with more, heads learn the faults that training episodes share, and memorise the episodes of
    # small datasets.
    steps: int = 120
    max_steps: int = 480
    # Different episodes in a batch, and chunks of each; with fewer episodes each gives more chunks. Initial.
    batch_episodes: int = 64
    chunks_per_episode: int = 4
    # AdamW with linear decay to `final_learning_rate` times the first rate. Initial.
    learning_rate: float = 1e-3
    final_learning_rate: float = 0.02
    weight_decay: float = 0.05
    # Units of the two hidden layers of each encoder (tuned), and of its output (initial).
    hidden_size: int = 128
    embedding_size: int = 64
    # First value and lower bound of the learned temperatures. Initial; the paper's lower bound is 0.03.
    initial_temperature: float = 0.1
    min_temperature: float = 0.02
    # Frames below which two times of one episode are not negatives of each other. Initial: such frames are almost the
    # same transition.
    guard: int = 4
    # Candidates drawn from the held-out fold for the `pool` checks. Initial.
    pool_size: int = 512
    # Frames by which `action/shift` moves a chunk. Initial: none is nearer than `guard`, the farthest is one chunk.
    shifts: tuple[int, ...] = (-16, -12, -10, -8, -6, -4, 4, 6, 8, 10, 12, 16)
    # Training episodes without which an instruction is neither scored nor a candidate. Initial: from one episode, a
    # head cannot separate the instruction from the episode.
    min_instruction_episodes: int = 2
    # Ablation: replace half of the shifted chunks of a batch by the nearest in state of that many chunks of each other
    # episode of the batch. 0 is off; measured without effect.
    near_state_candidates: int = 0

    # --- Planted faults ---

    # Every how many chunks one is scored again with its planted fault. Initial: an episode's mean needs no more.
    planted_stride: int = 4
    # Frames, least and most, by which an episode's actions are planted early or late. Initial.
    planted_shift: tuple[int, int] = (4, 8)
    # Planted action noise, RMS, in standard deviations of an action dimension around its mean in the episode. At half
    # of it `action/noise` fails: a hand that trembles by a tenth or a fifth of a standard deviation is not a fault.
    # Chosen on the simulated tuning data with tremor.
    planted_noise: float = 0.5

    # --- Calibration: from scores in nats to 0 (planted fault) and 1 (good episode) ---

    # Episodes, real and planted, without which there is no scale, for one task or for all. Initial.
    min_group_episodes: int = 8
    # Quantile of the episodes' means that stands for a good episode. Initial: it moves only where more than 80 % of
    # the episodes are faulty.
    good_quantile: float = 0.8
    # Share of the planted fault's score, nats, at which an episode lies in the middle between fault and good: 0 nats
    # is chance. Chosen on recordings at half speed, with pauses, and of twelve episodes.
    middle_share: float = 1 / 3
    # Distance of good episodes from the middle between fault and good, in standard deviations of good episodes, at
    # which a check is half reliable; and pseudo-count of the episodes that its reliability rests on. Chosen on small
    # sets with faults, and on tasks whose instructions mean the same.
    doubtful_distance: float = 1.0
    count_shrinkage: float = 3.0
    # Reliability below which no score of a check is below that of the planted fault.
    full_reliability: float = 0.75
    # Pseudo-counts: chunks at the median of all for an episode's mean, and episodes of all tasks for a task's scale.
    # Initial.
    episode_shrinkage: float = 2.0
    group_shrinkage: float = 8.0
    # Share of a chunk's own deviation from its episode where chunks are not noisy. Initial.
    own_share: float = 0.2
    # Score the episode as a whole. Ablation: False scores each chunk by itself.
    episode_evidence: bool = True
    # Calibrated scores are cut at plus and minus this value. Initial.
    score_limit: float = 2.0
    # Calibrated score below which a check fails, and where the weight is in the middle of its bounds. Initial.
    threshold: float = 0.5
    # Width of the sigmoid from score to weight. Initial.
    width: float = 0.08
    # Nats at which the margin of one chunk over a shift is cut, and chunks without which a shift has no evidence.
    # Initial.
    margin_limit: float = 4.0
    min_margins: int = 3
    # Slope of `action/shift` above the threshold, up to a score of 1. Tuned: how well an episode is aligned beyond the
    # threshold differs between tasks, and is not evidence of a fault.
    aligned_gain: float = 1.5
    # Ablation: centre the scale on the median of the data instead of using planted faults.
    centre_on_median: bool = False

    # --- Novelty ---

    # Correct a low score for the novelty of its episode. Ablation.
    correct_novelty: bool = True
    # Nearest contexts of other folds that measure novelty, and contexts searched (drawn at random from more). Initial.
    novelty_neighbours: int = 5
    novelty_contexts: int = 4096
    # Grid of the quantile regression: number of slopes, and the steepest in ratios of the standard deviations.
    # Initial.
    novelty_slopes: int = 201
    novelty_steepest: float = 3.0

    # --- Features ---

    # Smallest standard deviation by which state and observation are divided, in their units; see `min_std` of recipes.
    min_std: float = 0.0
    # A dimension whose standard deviation within the episodes is a smaller share of that of the dimensions that move
    # rests and does not enter the score; with a larger share of noise in its variance, up to twice this share. Chosen
    # on the joints of the arm that rests in the G1 demonstrations (0.03 to 0.11; the others have 0.4 or more).
    resting_share: float = 0.1
    resting_noise: float = 0.5
    # Standard deviations at which a feature is cut, so that one wild value does not decide. Initial.
    feature_limit: float = 10.0
    # Encoder of camera images: folder or Hub id of a pretrained vision model, or `efficientnet-lite0`. None for the
    # pixels themselves, which is faster by far (`benchmarks.image_encoder`).
    vision_model: str | None = None
    # Side of the images in pixels; None for 16, or with `vision_model` for that of its pretraining. Initial: a gripper
    # that is 10 of 96 pixels wide still covers a pixel of 16.
    image_side: int | None = None
    # Principal components per camera, of the pixels or of the encoder's vectors. Initial.
    image_components: int = 64

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            name, value, kind = field.name, getattr(self, field.name), hints[field.name]
            if type(None) in typing.get_args(kind):
                if value is None:
                    continue
                kind = typing.get_args(kind)[0]
            if kind in (int, float):
                if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
                    raise InputError(f"{name} is {value!r}; it must be a {'whole ' if kind is int else ''}number")
                least = _LEAST.get(name, 1 if kind is int else None)
                if not (value > 0 if least is None else value >= least):
                    raise InputError(
                        f"{name} is {value}; it must be {'above 0' if least is None else f'at least {least}'}"
                    )
                if value == math.inf:
                    raise InputError(f"{name} is {value}; it must be finite")
                if name in _SHARES and value > 1:
                    raise InputError(f"{name} is {value}; it must be at most 1")
            elif kind is str:
                if not isinstance(value, str) or not value:
                    raise InputError(f"{name} is {value!r}; it must be a name")
            elif kind is bool:
                if not isinstance(value, bool):
                    raise InputError(f"{name} is {value!r}; it must be true or false")
            else:
                if isinstance(value, str) or not isinstance(value, Sequence) or not value:
                    raise InputError(f"{name} is {value!r}; it must be a list with at least one value")
                of = typing.get_args(kind)[0]
                for item in value:
                    if isinstance(item, bool) or not isinstance(item, of):
                        expected = "whole numbers" if of is int else "names"
                        raise InputError(f"{name} contains {item!r}; it must be a list of {expected}")
                object.__setattr__(self, name, tuple(value))
        for name in ("checks", "shifts"):
            values = getattr(self, name)
            if len(set(values)) < len(values):
                twice = next(item for item in values if values.count(item) > 1)
                raise InputError(f"{name} contains {twice!r} twice; keep one")
        if self.seed >= 2**32:
            raise InputError(f"seed is {self.seed}; it must be below 2**32")
        if self.w_min > self.w_max:
            raise InputError(f"w_min {self.w_min} is above w_max {self.w_max}; swap them")
        for name in self.checks:
            if name not in CHECKS:
                raise InputError(f"checks: {name!r} is not a check; choose from {', '.join(CHECKS)}")
        if len(self.planted_shift) != 2 or not 0 < self.planted_shift[0] <= self.planted_shift[1]:
            raise InputError(f"planted_shift is {list(self.planted_shift)}; write the least and the most frames")
        if 0 in self.shifts:
            raise InputError(f"shifts is {list(self.shifts)}; leave out 0, which moves nothing")

    def at_rate(self, fps: float) -> ScoreConfig:
        """The settings with `guard`, `shifts` and `planted_shift` in frames of a frame rate, see [`frames_at`]."""
        return dataclasses.replace(
            self,
            guard=frames_at(fps, self.guard) if self.guard else 0,
            shifts=tuple(dict.fromkeys(frames_at(fps, shift) for shift in self.shifts)),
            planted_shift=(frames_at(fps, self.planted_shift[0]), frames_at(fps, self.planted_shift[1])),
        )

    def training_steps(self, chunks: int) -> int:
        """Training steps of a fold with that many training chunks."""
        batch = self.batch_episodes * self.chunks_per_episode
        return max(self.steps, min(math.ceil(chunks / batch), self.max_steps))


# Lower bounds; without an entry, a whole number is at least 1 and any other number above 0.
_LEAST = {
    "count_shrinkage": 0,
    "episode_shrinkage": 0,
    "final_learning_rate": 0,
    "group_shrinkage": 0,
    "guard": 0,
    "min_std": 0,
    "near_state_candidates": 0,
    "novelty_steepest": 0,
    "own_share": 0,
    "planted_noise": 0,
    "resting_noise": 0,
    "resting_share": 0,
    "seed": 0,
    "w_min": 0,
    "weight_decay": 0,
    # Heads train on the other folds, and each fold has at least two episodes.
    "folds": 2,
    "min_episodes": 4,
}
_SHARES = {
    "final_learning_rate",
    "full_reliability",
    "good_quantile",
    "middle_share",
    "min_sample_size",
    "own_share",
    "resting_noise",
    "resting_share",
    "threshold",
}


def parse_settings(texts: Sequence[str], elsewhere: Mapping[str, str]) -> dict[str, Any]:
    """
    The fields of [`ScoreConfig`] in `key=value` texts, each value in YAML 1.2, for example `rounds=1`.

    Args:
        texts: `key=value`.
        elsewhere: fields that the caller reads from another key or option, with its name for the message; two values
            of one field could contradict each other.

    Raises:
        InputError: a text is not `key=value`, or the key is unknown or set elsewhere.
    """
    known = [field.name for field in dataclasses.fields(ScoreConfig)]
    settings = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} is not a setting; write key=value, for example rounds=1")
        if key not in known:
            raise InputError(f"unknown setting {key!r} of the score.{nearest(key, known)}")
        if key in elsewhere:
            raise InputError(f"{text!r} is not a setting here; use {elsewhere[key]}")
        try:
            settings[key] = yaml.load(value, Loader=ValueLoader)
        except yaml.YAMLError as error:
            raise InputError(f"the value of {text!r} is not valid YAML; quote it") from error
    return settings
