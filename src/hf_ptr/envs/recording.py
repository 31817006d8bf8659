"""Record Meta-World's scripted experts as a LeRobotDataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hf_ptr.data.lerobot.writer import DatasetWriter
from hf_ptr.envs.metaworld.controls import control_mode
from hf_ptr.envs.metaworld.environment import (
    ACTION,
    FPS,
    IMAGE,
    MAX_STEPS,
    MetaWorldEnv,
    dataset_features,
    metaworld_version,
)
from hf_ptr.envs.metaworld.operators import Interval, Operator, require_operators
from hf_ptr.envs.metaworld.tasks import INSTRUCTIONS, recording_seed, task_names
from hf_ptr.envs.rendering import select_backend
from hf_ptr.errors import InputError
from hf_ptr.utils.process_pool import available_cores, map_in_order
from hf_ptr.utils.progress import progress_bar

# Frames recorded after the first success. More than the usual offset to the next observation (16), so that every chunk
# before the success has a target. A chunk without a target keeps weight 1 (PTR Sec. 2), which is small next to 4.
FRAMES_AFTER_SUCCESS = 20
# The experts fail from some initial states (among the default tasks: 10 % of peg-insert-side, 3 % of door-open).
MAX_TRIES = 20
PIXEL_RANGE = (16, 1024)


def record_metaworld(
    tasks: Sequence[str],
    episodes: int,
    out: str | Path,
    *,
    seed: int = 0,
    pixels: int | None = None,
    workers: int | None = None,
    operators: Sequence[str] = ("expert",),
    control: str = "hand",
) -> Path:
    """Record `episodes` successful demonstrations per task by scripted experts as a LeRobotDataset v3.0.

    A demonstration ends 20 frames after the task is solved. If the expert fails, another initial state is drawn.
    `meta/recording.json` stores each episode's environment seed and the number of failed attempts before it. The files
    are the same for any number of `workers`. An error or interrupt leaves no files behind.

    Args:
        tasks: names, with or without `-v3`.
        episodes: number per task, at least 1.
        out: dataset folder; must be missing or empty.
        seed: random seed of the initial states. The first `n` episodes per task do not depend on `episodes`.
        pixels: width and height of the video `observation.images.corner2`; None records no video.
        workers: number of processes; default one per core.
        operators: simulated operators, assigned to episodes in turn (`hf_ptr.envs.metaworld.operators`).
            `meta/recording.json` stores each episode's operator and the frames of its pauses and slips.
        control: control mode, `"hand"` or `"joints"` (`hf_ptr.envs.metaworld.controls`).

    Returns:
        The dataset folder.

    Raises:
        InputError: an argument is out of range, a task is unknown, its expert fails too often, `out` is not empty or
            not writable, or rendering does not work.
    """
    names = task_names(tasks)
    if episodes < 1:
        raise InputError(f"episodes is {episodes}; record at least 1 per task")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; at least 1 process is needed")
    require_operators(operators)
    if pixels is not None:
        if pixels % 2 or not PIXEL_RANGE[0] <= pixels <= PIXEL_RANGE[1]:
            raise InputError(f"pixels is {pixels}; it must be an even number in {PIXEL_RANGE[0]}..{PIXEL_RANGE[1]}")
        select_backend()
    jobs = [
        _Job(task, episode, seed, pixels, control, operators[episode % len(operators)])
        for task in names
        for episode in range(episodes)
    ]
    version = metaworld_version()
    robot_type = control_mode(control).robot_type
    columns = [name for name in dataset_features() if name != ACTION]
    provenance = []
    with ExitStack() as stack:
        stack.callback(_close_environment)
        writer = stack.enter_context(
            DatasetWriter(
                out,
                fps=FPS,
                features=dataset_features(pixels, control),
                robot_type=robot_type,
                tasks=[INSTRUCTIONS[task] for task in names],
            )
        )
        results = stack.enter_context(
            closing(map_in_order(_record, jobs, min(workers or available_cores(), len(jobs))))
        )
        progress = stack.enter_context(progress_bar())
        bar = progress.add_task("recording", total=len(jobs))
        for job, result in zip(jobs, results, strict=True):
            writer.add_episode(
                {**{name: result.observations[name] for name in columns}, ACTION: result.actions},
                INSTRUCTIONS[job.task],
                {IMAGE: result.images} if result.images is not None else None,
            )
            provenance.append(
                {
                    "task": job.task,
                    "seed": result.seed,
                    "redrawn": result.redrawn,
                    "operator": job.operator,
                    "incidents": result.incidents,
                }
            )
            progress.update(bar, advance=1, description=f"recording {job.task}")
        writer.add_meta("recording.json", {"metaworld": version, "seed": seed, "episodes": provenance})
    return writer.out


@dataclass(frozen=True)
class _Job:
    task: str
    episode: int
    base_seed: int
    pixels: int | None
    control: str
    operator: str


@dataclass(frozen=True)
class _Demonstration:
    """`n` frames: observations `(n, d)` by feature, actions `(n, da)`, images `(n, pixels, pixels, 3)`."""

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    images: np.ndarray | None
    seed: int
    redrawn: int
    incidents: list[Interval]


def _record(job: _Job) -> _Demonstration:
    """Record one successful demonstration. Its seeds do not depend on failed attempts of other episodes."""
    env = _environment(job.task, job.pixels, job.control)
    for attempt in range(MAX_TRIES):
        seed = recording_seed(job.base_seed, job.task, job.episode * MAX_TRIES + attempt)
        operator = Operator(job.operator, np.random.default_rng(seed))
        frames = list(_demonstrate(env, operator, seed))
        if env.success:
            observations, actions, images = zip(*frames, strict=True)
            return _Demonstration(
                observations={name: np.stack([frame[name] for frame in observations]) for name in observations[0]},
                actions=np.stack(actions),
                images=None if job.pixels is None else np.stack(images),
                seed=seed,
                redrawn=attempt,
                incidents=[(first, min(last, len(frames))) for first, last in operator.incidents],
            )
    or_operator = "" if job.operator == "expert" else " or the operator"
    raise InputError(
        f"the {job.operator} of {job.task!r} solved none of the {MAX_TRIES} initial states of episode {job.episode}; "
        f"choose another seed than {job.base_seed}, or leave out the task{or_operator}"
    )


def _demonstrate(
    env: MetaWorldEnv, operator: Operator, seed: int
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, Any]]:
    """Yield observation, action and image of each frame until shortly after success or until the step limit."""
    observation = env.reset(seed)
    remaining = MAX_STEPS
    while remaining:
        action = env.action_of(operator.act(env.expert_action(), env.steps))
        yield observation, action, env.image() if env.has_camera else None
        solved_before = env.success
        observation = env.step(action)
        remaining = FRAMES_AFTER_SUCCESS if env.success and not solved_before else remaining - 1


_current: dict[tuple[str, int | None, str], MetaWorldEnv] = {}


def _environment(task: str, pixels: int | None, control: str) -> MetaWorldEnv:
    """This process's environment for task, pixels and control. Jobs are ordered by task, so one is kept open."""
    key = (task, pixels, control)
    if key not in _current:
        _close_environment()
        _current[key] = MetaWorldEnv(task, pixels, control)
    return _current[key]


def _close_environment() -> None:
    for env in _current.values():
        env.close()
    _current.clear()
