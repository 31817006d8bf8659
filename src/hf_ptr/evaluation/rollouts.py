"""Success rates of a checkpoint in a simulator, with cached results of finished batches of episodes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from hf_ptr.data.mixture.robots import robot_of
from hf_ptr.envs.protocol import Simulator
from hf_ptr.errors import InputError
from hf_ptr.evaluation.compatibility import matching_control
from hf_ptr.evaluation.episodes import AS_TRAINED, CARRIED, require_belief, rollout_task
from hf_ptr.metrics.success import SuccessTable
from hf_ptr.utils.atomic_files import write_text
from hf_ptr.utils.process_pool import map_in_order
from hf_ptr.utils.progress import progress_bar


def evaluate_in(
    simulator: Simulator,
    checkpoint: str | Path,
    tasks: Sequence[str] | None,
    episodes: int,
    *,
    seed: int = 0,
    max_steps: int | None = None,
    workers: int = 2,
    cache: str | Path | None = None,
    source: str | None = None,
    belief: str = AS_TRAINED,
) -> SuccessTable:
    """Measure success rates of a checkpoint over `episodes` episodes per task.

    The control mode is the simulator's first one that matches the policy's dimensions. The result depends only on the
    checkpoint, the simulator, `tasks`, `episodes`, `seed` and `max_steps`, not on `workers`.

    Args:
        simulator: a simulator, for example from [`get_simulator`].
        checkpoint: folder of a saved policy.
        tasks: names; None selects the simulator's default tasks.
        episodes: number per task, at least 1.
        seed: random seed of the initial states and the policy's noise.
        max_steps: step limit; an episode succeeds if the task is solved at any step up to this limit. Default: the
            simulator's limit for each task.
        workers: number of processes, each with one thread.
        cache: folder for results of finished batches of episodes. A later call with the same checkpoint and settings
            resumes from it.
        source: source of a mixture whose robot the policy controls; required if the mixture has several.
        belief: one of `BELIEF`: as `"trained"`, `"carried"` from chunk to chunk, or `"reset"` to `z_init` at every
            chunk. No effect on a policy without belief tokens.

    Raises:
        InputError: an argument is out of range, a task is unknown, the simulator is not installed, or `checkpoint` is
            not a checkpoint for this robot.
    """
    names = simulator.tasks(tasks)
    if episodes < 1:
        raise InputError(f"episodes is {episodes}; evaluate at least 1 per task")
    if max_steps is not None and not 1 <= max_steps <= simulator.longest_episode:
        raise InputError(f"max_steps is {max_steps}; it must lie in 1..{simulator.longest_episode}")
    require_belief(belief)
    if workers < 1:
        raise InputError(f"workers is {workers}; at least 1 process is needed")
    for task in names:
        # The last episode has the highest number, so this check covers all episodes.
        simulator.episode_seed(seed, task, episodes - 1)
    folder = Path(checkpoint)
    digest = _checkpoint_digest(folder)
    control = matching_control(simulator, folder, names, source)
    identity = simulator.identity()
    together = simulator.episodes_together
    batches = [
        _Batch(
            simulator=simulator,
            checkpoint=str(folder),
            digest=digest,
            identity=tuple(identity.items()),
            task=task,
            control=control,
            seed=seed,
            first=first,
            count=min(together, episodes - first),
            max_steps=simulator.steps(task) if max_steps is None else max_steps,
            cache=None if cache is None else str(cache),
            source=source,
            belief=belief,
        )
        for task in names
        for first in range(0, episodes, together)
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


@dataclass(frozen=True)
class _Batch:
    """Episodes `first` to `first + count - 1` of a task; `checkpoint` and `cache` are paths."""

    simulator: Simulator
    checkpoint: str
    digest: str
    identity: tuple[tuple[str, str], ...]
    task: str
    control: str
    seed: int
    first: int
    count: int
    max_steps: int
    cache: str | None
    source: str | None
    belief: str

    def _settings(self) -> dict[str, Any]:
        """All settings that the result depends on."""
        return {
            "digest": self.digest,
            **dict(self.identity),
            "task": self.task,
            "control": self.control,
            "seed": self.seed,
            "first": self.first,
            "count": self.count,
            "max_steps": self.max_steps,
            **({} if self.source is None else {"source": self.source}),
            **({} if self.belief == AS_TRAINED else {"belief": self.belief}),
        }

    def _path(self) -> Path | None:
        if self.cache is None:
            return None
        key = hashlib.sha256(json.dumps(self._settings(), sort_keys=True).encode()).hexdigest()[:16]
        return Path(self.cache) / f"{self.task}-{self.first}-{key}.json"

    def read(self) -> list[bool] | None:
        """Cached result, or None."""
        path = self._path()
        if path is None or not path.is_file():
            return None
        cached = json.loads(path.read_text(encoding="utf-8"))
        return [bool(solved) for solved in cached["solved"]]

    def write(self, solved: list[bool]) -> None:
        """Write the result to the cache atomically."""
        path = self._path()
        if path is None:
            return
        write_text(json.dumps({**self._settings(), "solved": solved}) + "\n", path)


def _run(batch: _Batch) -> list[bool]:
    """Roll out one batch in a worker and cache the result."""
    policy, processor = _load(batch.checkpoint, batch.digest, batch.source, batch.belief)
    numbers = range(batch.first, batch.first + batch.count)
    seeds = [batch.simulator.episode_seed(batch.seed, batch.task, number) for number in numbers]
    generator = torch.Generator().manual_seed(seeds[0])
    # One thread, because the order of floating-point sums depends on the number of threads.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        solved = rollout_task(
            batch.simulator, policy, processor, batch.task, seeds, batch.max_steps, generator, batch.control
        )
    finally:
        torch.set_num_threads(threads)
    batch.write(solved)
    return solved


@lru_cache(maxsize=1)
def _load(checkpoint: str, digest: str, source: str | None, belief: str) -> tuple[Any, Any]:
    """Policy and processor, loaded once per process; `digest` invalidates the cache when weights change."""
    from transformers import AutoModel

    from hf_ptr.policies import RobotPolicy, VLAProcessor

    policy, robot = AutoModel.from_pretrained(checkpoint), robot_of(Path(checkpoint), source)
    if belief != AS_TRAINED:
        policy.carries_belief = belief == CARRIED
    return policy if robot is None else RobotPolicy(policy, robot), VLAProcessor.from_pretrained(checkpoint)


def _checkpoint_digest(checkpoint: Path) -> str:
    """Hash of the files that a policy is loaded from: weights, configurations and tokenizer."""
    from hf_ptr.policies.loading import checkpoint_folders

    if not any((checkpoint / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise InputError(f"{checkpoint} is not a checkpoint: it has no config.json; pass the folder of a saved policy")
    digest = hashlib.sha256()
    for folder in map(Path, checkpoint_folders(str(checkpoint))):
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise InputError(f"{folder} has no weights (*.safetensors); pass the folder of a saved policy")
        for path in [*weights, *sorted(folder.glob("*config.json")), *sorted(folder.glob("tokenizer.*"))]:
            digest.update(path.name.encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
