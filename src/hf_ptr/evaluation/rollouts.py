"""Rollouts of a checkpoint in Meta-World."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from hf_ptr.data.robots import robot_of
from hf_ptr.envs.controls import CONTROLS
from hf_ptr.envs.metaworld import (
    ACTION,
    FPS,
    IMAGE,
    LONGEST_EPISODE,
    MAX_STEPS,
    MetaWorldEnv,
    dataset_features,
    metaworld_version,
)
from hf_ptr.envs.tasks import INSTRUCTIONS, evaluation_seed, task_names
from hf_ptr.envs.workers import map_in_order
from hf_ptr.errors import InputError, nearest
from hf_ptr.evaluation.success import SuccessTable
from hf_ptr.files import write_text
from hf_ptr.progress import progress_bar

# Episodes of a task that are stepped together, each with its own simulation of some 25 MB.
EPISODES_TOGETHER = 25


class RolloutConfig(Protocol):
    """What a rollout needs to know of a policy."""

    observation_features: Sequence[str]
    state_feature: str
    n_action_steps: int
    cameras: tuple[str, ...]
    picture_size: tuple[int, int]


class RolloutPolicy(Protocol):
    """A policy that predicts action chunks for a batch of episodes that began together."""

    config: RolloutConfig

    def reset(self) -> None:
        """Begin new episodes."""
        ...

    def predict_action_chunk(self, *, generator: torch.Generator | None, **inputs: torch.Tensor) -> torch.Tensor:
        """The next chunk `(B, L, da)` in raw action units, from what the processor returned."""
        ...


class RolloutProcessor(Protocol):
    """Turns instructions and raw observations into a policy's inputs."""

    def __call__(
        self, instructions: Sequence[str], observation: np.ndarray, state: np.ndarray
    ) -> dict[str, torch.Tensor]:
        """`instructions` of length B, `observation (B, do)`, `state (B, ds)`."""
        ...


def evaluate_metaworld(
    checkpoint: str | Path,
    tasks: Sequence[str],
    episodes: int,
    *,
    seed: int = 0,
    max_steps: int = MAX_STEPS,
    workers: int = 2,
    cache: str | Path | None = None,
    source: str | None = None,
) -> SuccessTable:
    """Success rates of a checkpoint, `episodes` episodes of every task, none of whose initial states is ever recorded.

    The robot is told hand displacements or joint displacements, whichever the policy's dimensions are those of. The
    result depends on the checkpoint, `tasks`, `episodes`, `seed` and `max_steps` alone, not on `workers`.

    Args:
        checkpoint: a saved policy's folder.
        tasks: names, with or without `-v3`.
        episodes: per task, at least 1.
        seed: initial states and the policy's noise are drawn from it.
        max_steps: an episode is a success if the task is solved at any step up to this, in `[1, 500]`.
        workers: processes, each of one thread.
        cache: a folder for the results of finished batches of episodes; a later call with the same checkpoint and
            settings goes on from there.
        source: of a mixture's policy, its source of Meta-World; needed where there are several.

    Raises:
        InputError: an argument is out of range, a task is unknown, or the checkpoint is none, or not for Meta-World.
    """
    names = task_names(tasks)
    if episodes < 1:
        raise InputError(f"episodes is {episodes}; evaluate at least 1 per task")
    if not 1 <= max_steps <= LONGEST_EPISODE:
        raise InputError(f"max_steps is {max_steps}; it must lie in 1..{LONGEST_EPISODE}")
    if workers < 1:
        raise InputError(f"workers is {workers}; at least 1 process is needed")
    folder = Path(checkpoint)
    digest = _checkpoint_digest(folder)
    control = _fitting_control(folder, names, source)
    version = metaworld_version()
    batches = [
        _Batch(
            str(folder),
            digest,
            version,
            task,
            control,
            seed,
            first,
            min(EPISODES_TOGETHER, episodes - first),
            max_steps,
            None if cache is None else str(cache),
            source,
        )
        for task in names
        for first in range(0, episodes, EPISODES_TOGETHER)
    ]
    done = {batch: solved for batch in batches if (solved := batch.read()) is not None}
    missing = [batch for batch in batches if batch not in done]
    with closing(map_in_order(_run, missing, min(workers, len(missing) or 1))) as results, progress_bar() as progress:
        bar = progress.add_task("evaluating", total=len(batches), completed=len(done))
        for batch, solved in zip(missing, results, strict=True):
            done[batch] = solved
            progress.update(bar, advance=1, description=f"evaluating {batch.task}")
    return SuccessTable.from_episodes(
        {task: [solved for batch in batches if batch.task == task for solved in done[batch]] for task in names}
    )


def rollout_task(
    policy: RolloutPolicy,
    processor: RolloutProcessor,
    task: str,
    seeds: Sequence[int],
    max_steps: int,
    generator: torch.Generator | None = None,
    control: str = "hand",
) -> list[bool]:
    """Run one episode per environment seed, all together, and say which solved the task.

    Every `n_action_steps` steps the policy predicts a chunk for all episodes at once. Episodes that have ended keep
    their row, because the belief state of the policy is per row, but are not simulated further.

    Args:
        policy, processor: see [`RolloutPolicy`], [`RolloutProcessor`].
        task: full name.
        seeds: of the environments, one an episode.
        max_steps: after which an episode has failed.
        generator: of the policy's noise.
        control: what the robot is told, see [`MetaWorldEnv`].

    Raises:
        InputError: the policy wants a feature that Meta-World lacks, or its actions are NaN or infinite.
    """
    config = policy.config
    pixels = max(config.picture_size) if config.cameras else None
    environments = [MetaWorldEnv(task, pixels, control) for _ in seeds]
    with ExitStack() as cameras:
        for env in environments:
            cameras.callback(env.close)
        return _roll_out(policy, processor, environments, seeds, max_steps, generator)


def _roll_out(
    policy: RolloutPolicy,
    processor: RolloutProcessor,
    environments: Sequence[MetaWorldEnv],
    seeds: Sequence[int],
    max_steps: int,
    generator: torch.Generator | None,
) -> list[bool]:
    config, task = policy.config, environments[0].task
    observations = [env.reset(seed) for env, seed in zip(environments, seeds, strict=True)]
    pictures = [_picture(env) for env in environments]
    instructions = [INSTRUCTIONS[task]] * len(seeds)
    policy.reset()
    steps = 0
    while steps < max_steps and not all(env.success for env in environments):
        inputs = processor(
            instructions=instructions,
            observation=np.stack(pictures)
            if pictures[0] is not None
            else _rows(observations, config.observation_features),
            state=_rows(observations, [config.state_feature]),
        )
        chunk = policy.predict_action_chunk(**inputs, generator=generator)
        actions = chunk[:, : min(config.n_action_steps, max_steps - steps)].cpu().numpy()
        for row, env in enumerate(environments):
            if not (env.success or np.isfinite(actions[row]).all()):
                raise InputError(f"the policy's actions for {task!r} are NaN or infinite; its training has diverged")
            for action in actions[row]:
                if env.success:
                    break
                observations[row] = env.step(action)
            if not env.success:
                pictures[row] = _picture(env)
        steps += actions.shape[1]
    return [env.success for env in environments]


@dataclass(frozen=True)
class _Batch:
    """Episodes `first`, …, `first + count - 1` of a task; `checkpoint` and `cache` are paths."""

    checkpoint: str
    digest: str
    metaworld: str
    task: str
    control: str
    seed: int
    first: int
    count: int
    max_steps: int
    cache: str | None
    source: str | None = None

    def _settings(self) -> dict[str, Any]:
        """All that the result depends on."""
        places = ("checkpoint", "cache", *(("source",) if self.source is None else ()))
        return {name: value for name, value in asdict(self).items() if name not in places}

    def _path(self) -> Path | None:
        if self.cache is None:
            return None
        key = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode()).hexdigest()[:16]
        return Path(self.cache) / f"{self.task}-{self.first}-{key}.json"

    def read(self) -> list[bool] | None:
        """The kept result, if there is one."""
        path = self._path()
        if path is None or not path.is_file():
            return None
        kept = json.loads(path.read_text(encoding="utf-8"))
        return [bool(solved) for solved in kept["solved"]]

    def keep(self, solved: list[bool]) -> None:
        """Write the result, all or nothing."""
        path = self._path()
        if path is None:
            return
        write_text(json.dumps({**self._settings(), "solved": solved}) + "\n", path)


def _run(batch: _Batch) -> list[bool]:
    """In a worker: roll out one batch and keep the result."""
    policy, processor = _load(batch.checkpoint, batch.digest, batch.source)
    numbers = range(batch.first, batch.first + batch.count)
    seeds = [evaluation_seed(batch.seed, batch.task, number) for number in numbers]
    generator = torch.Generator().manual_seed(seeds[0])
    # One thread, not for speed alone: sums over several come out differently.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        solved = rollout_task(policy, processor, batch.task, seeds, batch.max_steps, generator, batch.control)
    finally:
        torch.set_num_threads(threads)
    batch.keep(solved)
    return solved


@lru_cache(maxsize=1)
def _load(checkpoint: str, digest: str, source: str | None) -> tuple[Any, Any]:
    """The policy and its processor, once a process and for these very weights."""
    from transformers import AutoModel

    from hf_ptr.policies import RobotPolicy, VLAProcessor

    policy, robot = AutoModel.from_pretrained(checkpoint), robot_of(Path(checkpoint), source)
    return policy if robot is None else RobotPolicy(policy, robot), VLAProcessor.from_pretrained(checkpoint)


def _checkpoint_digest(checkpoint: Path) -> str:
    """A hash of what a policy is loaded from: the weights, configurations and tokenizer in its folder."""
    from hf_ptr.policies.loading import checkpoint_places

    if not any((checkpoint / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise InputError(f"{checkpoint} is no checkpoint: it has no config.json; name the folder of a saved policy")
    digest = hashlib.sha256()
    for folder in map(Path, checkpoint_places(str(checkpoint))):
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise InputError(f"{folder} has no weights (*.safetensors); name the folder of a saved policy")
        for path in [*weights, *sorted(folder.glob("*config.json")), *sorted(folder.glob("tokenizer.*"))]:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _fitting_control(checkpoint: Path, tasks: Sequence[str], source: str | None) -> str:
    """
    The control whose dimensions a checkpoint has. Refuses one of another robot, or one that does not know an
    instruction, before anything is simulated.
    """
    from transformers import AutoConfig

    from hf_ptr.policies import VLAProcessor
    from hf_ptr.policies.embodied import RobotConfig
    from hf_ptr.policies.loading import checkpoint_places

    config: Any = AutoConfig.from_pretrained(checkpoint_places(str(checkpoint))[-1])
    needed = (*RolloutConfig.__annotations__, "observation_dim", "state_dim", "action_dim")
    if not all(hasattr(config, name) for name in needed):
        raise InputError(
            f"{checkpoint} is a {config.model_type!r} model; the native policy alone is rolled out in Meta-World, "
            "evaluate others with --dataset"
        )
    robot = robot_of(checkpoint, source)
    if robot is not None:
        if robot.fps != FPS:
            raise InputError(
                f"source {robot.name} acts {robot.fps:g} times a second, and Meta-World is stepped {FPS} times; train "
                "with its own frame rate (no fps in the source), or evaluate with --dataset"
            )
        config = RobotConfig.of(config, robot)
    sees = bool(config.cameras)
    if sees and config.cameras != (IMAGE,):
        raise InputError(
            f"the policy sees through {', '.join(config.observation_features)}, Meta-World has {IMAGE} alone"
        )
    observed = () if sees else config.observation_features
    wrong = {}
    for control in CONTROLS:
        widths = {
            "observation_dim": sum(_width(name, control) for name in observed),
            "state_dim": _width(config.state_feature, control),
            "action_dim": dataset_features(control=control)[ACTION]["shape"][0],
        }
        wrong[control] = [(name, width) for name, width in widths.items() if getattr(config, name) != width]
    fitting = [control for control in CONTROLS if not wrong[control]]
    if not fitting:
        name, width = wrong["hand"][0]
        raise InputError(
            f"{checkpoint} has {name} {getattr(config, name)} but Meta-World needs {width}; it is of another robot"
        )
    processor = VLAProcessor.from_pretrained(checkpoint)
    processor.encode_instructions([INSTRUCTIONS[task] for task in tasks])
    return fitting[0]


def _width(feature: str, control: str) -> int:
    """The length of one of Meta-World's observations."""
    features = dataset_features(control=control)
    observed = [name for name in features if name != ACTION]
    if feature not in observed:
        raise InputError(
            f"the policy observes {feature!r}, which Meta-World lacks (it has {', '.join(observed)})."
            f"{nearest(feature, observed)}"
        )
    return int(features[feature]["shape"][0])


def _picture(env: MetaWorldEnv) -> Any:
    """What its only camera sees, `(1, height, width, 3)`; None without one."""
    return env.picture()[None] if env.has_camera else None


def _rows(observations: Sequence[Mapping[str, np.ndarray]], features: Sequence[str]) -> np.ndarray:
    """`(B, d)`: each episode's features, concatenated."""
    return np.stack([np.concatenate([observation[name] for name in features]) for observation in observations])
