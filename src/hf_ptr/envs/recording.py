"""Recording of Meta-World's scripted experts as a LeRobotDataset."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_ptr.data.lerobot.writer import DatasetWriter
from hf_ptr.errors import InputError

if TYPE_CHECKING:
    from hf_ptr.envs.metaworld import MetaWorldEnv
    from hf_ptr.envs.operators import Interval, Operator

# Frames after the first success: more than the usual offset of the post-action observation (16), so that every chunk
# before the success has one. A chunk without keeps weight 1 (PTR Sec. 2), which is little beside weights of 4.
FRAMES_AFTER_SUCCESS = 20
# Some initial states are beyond the experts (of the default tasks: 10 % of peg-insert-side, 3 % of door-open).
MAX_TRIES = 20
PIXELS = (16, 1024)


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
    """Record scripted experts, `episodes` successful demonstrations of every task, as a LeRobotDataset v3.0.

    A demonstration ends 20 frames after the task is solved. Where the expert does not solve it, another initial state
    is drawn. `meta/recording.json` keeps the environment seed of every episode and how many were drawn before it.
    The files depend on the arguments alone, not on `workers`; an error or an interrupt leaves nothing behind.

    Args:
        tasks: names, with or without `-v3`.
        episodes: per task, at least 1.
        out: the dataset's folder; must not exist, or be empty.
        seed: initial states are drawn from it. Another seed gives other ones, and the first `n` episodes of a longer
            recording are those of a shorter.
        pixels: width and height of the video `observation.images.corner2`; none without.
        workers: processes; by default one a core.
        operators: who demonstrates, in turn (`hf_ptr.envs.operators`); `meta/recording.json` says who did which
            episode, and in which frames it paused or slipped.
        control: what the robot is told: `"hand"` or `"joints"` (`hf_ptr.envs.controls`).

    Returns:
        The dataset's folder.

    Raises:
        InputError: an argument is out of range, a task is unknown or beyond its expert, `out` is not empty or cannot
            be written, or pictures cannot be rendered here.
    """
    from hf_ptr.envs.controls import control_of
    from hf_ptr.envs.metaworld import ACTION, FPS, IMAGE, dataset_features, metaworld_version
    from hf_ptr.envs.operators import require_operators
    from hf_ptr.envs.rendering import select_backend
    from hf_ptr.envs.tasks import INSTRUCTIONS, task_names
    from hf_ptr.envs.workers import available_cores, map_in_order
    from hf_ptr.utils.progress import progress_bar

    names = task_names(tasks)
    if episodes < 1:
        raise InputError(f"episodes is {episodes}; record at least 1 per task")
    if workers is not None and workers < 1:
        raise InputError(f"workers is {workers}; at least 1 process is needed")
    require_operators(operators)
    if pixels is not None:
        if pixels % 2 or not PIXELS[0] <= pixels <= PIXELS[1]:
            raise InputError(f"pixels is {pixels}; it must be an even number in {PIXELS[0]}..{PIXELS[1]}")
        select_backend()
    jobs = [
        _Job(task, episode, seed, pixels, control, operators[episode % len(operators)])
        for task in names
        for episode in range(episodes)
    ]
    version = metaworld_version()
    robot_type = control_of(control).robot_type
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
                {IMAGE: result.pictures} if result.pictures is not None else None,
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
    """`n` frames: observations `(n, d)` by feature, actions `(n, da)`, pictures `(n, pixels, pixels, 3)`."""

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    pictures: np.ndarray | None
    seed: int
    redrawn: int
    incidents: list[Interval]


def _record(job: _Job) -> _Demonstration:
    """One successful demonstration; its seeds are its own, whatever other episodes had to be redrawn."""
    from hf_ptr.envs.operators import Operator
    from hf_ptr.envs.tasks import recording_seed

    env = _environment(job.task, job.pixels, job.control)
    for attempt in range(MAX_TRIES):
        seed = recording_seed(job.base_seed, job.task, job.episode * MAX_TRIES + attempt)
        operator = Operator(job.operator, np.random.default_rng(seed))
        frames = list(_demonstrate(env, operator, seed))
        if env.success:
            observations, actions, pictures = zip(*frames, strict=True)
            return _Demonstration(
                observations={name: np.stack([frame[name] for frame in observations]) for name in observations[0]},
                actions=np.stack(actions),
                pictures=None if job.pixels is None else np.stack(pictures),
                seed=seed,
                redrawn=attempt,
                incidents=[(first, min(last, len(frames))) for first, last in operator.incidents],
            )
    operator_too = "" if job.operator == "expert" else " or the operator"
    raise InputError(
        f"the {job.operator} of {job.task!r} solved none of the {MAX_TRIES} initial states of episode {job.episode}; "
        f"choose another seed than {job.base_seed}, or leave the task{operator_too} out"
    )


def _demonstrate(
    env: MetaWorldEnv, operator: Operator, seed: int
) -> Iterator[tuple[dict[str, np.ndarray], np.ndarray, Any]]:
    """What the operator sees and does, frame by frame, until some frames after the task is solved or time is up."""
    from hf_ptr.envs.metaworld import MAX_STEPS

    observation = env.reset(seed)
    remaining = MAX_STEPS
    while remaining:
        action = env.action_of(operator.act(env.expert_action(), env.steps))
        yield observation, action, env.picture() if env.has_camera else None
        solved_before = env.success
        observation = env.step(action)
        remaining = FRAMES_AFTER_SUCCESS if env.success and not solved_before else remaining - 1


_current: dict[tuple[str, int | None, str], MetaWorldEnv] = {}


def _environment(*wanted: Any) -> MetaWorldEnv:
    """This process's environment of task, pixels and control; the one before is closed, as jobs come task by task."""
    from hf_ptr.envs.metaworld import MetaWorldEnv

    if wanted not in _current:
        _close_environment()
        _current[wanted] = MetaWorldEnv(*wanted)
    return _current[wanted]


def _close_environment() -> None:
    for env in _current.values():
        env.close()
    _current.clear()
