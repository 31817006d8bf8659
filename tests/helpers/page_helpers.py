"""The fenced blocks of a page, and small data, runs and recipes on which its commands run as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from command_line import hf_ptr

from hf_ptr.data.lerobot.writer import DatasetWriter

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs").glob("*.md"), ROOT / "README.md", ROOT / "recipes" / "README.md"])

# What makes a recipe long or large, and what the copies of the recipes have instead.
SHORT = {
    "max_steps": "2",
    "save_steps": "2",
    "logging_steps": "1",
    "warmup_steps": "1",
    "nce_warmup_steps": "1",
    "per_device_train_batch_size": "8",
    "hidden_size": "32",
    "expert_size": "16",
    "num_expert_layers": "1",
    "size": "tiny",
    "image_size": "32",
    "queue_size": "32",
    "queue_negatives": "8",
    "bf16": "false",
}
# The same for the fit of the calibrated score.
SHORT_FIT = ["steps=2", "rounds=1"]


class Block(NamedTuple):
    """A fenced block: `language` is what follows the fence."""

    language: str
    text: str


class Robot(NamedTuple):
    """The shape of a dataset: dimensions of state and action, frames a second, cameras, instructions."""

    state: int
    action: int
    fps: int
    cameras: tuple[str, ...]
    tasks: tuple[str, ...]


# The humanoid and the simulated arm of the pages; two robots in the humanoid's place, the second with an action wider
# than its state; and such a robot with a camera of another name.
G1 = Robot(26, 26, 30, ("observation.images.cam_high",), ("Pick up the bottle.",))
ARM = Robot(7, 7, 10, ("observation.images.cam_high",), ("Close the lid.", "Open the lid."))
WIDER = Robot(6, 7, 15, ("observation.images.cam_high",), ("Reach the goal.", "Pull it out.", "Turn it."))
SAWYER = Robot(4, 4, 80, ("observation.images.corner2",), ("Move the gripper to the goal.", "Press the button."))
GRIPPER = Robot(6, 7, 15, ("observation.images.front",), ("Reach the goal.", "Pull it out.", "Turn it."))


def blocks(page: Path) -> list[Block]:
    """Every fenced block, in the order of the page."""
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [Block(*block) for block in found]


def commands(page: Path) -> list[str]:
    """Every command of a page's bash blocks, one a line; comments are left out, `a && b` are two."""
    return [command for block in blocks(page) if block.language == "bash" for command in lines_of(block)]


def lines_of(block: Block) -> Iterator[str]:
    for line in block.text.replace("\\\n", " ").splitlines():
        for part in re.split(r"\s+&&\s+", line):
            if words := shlex.split(part, comments=True):
                yield shlex.join(words)


def short_recipes(folder: Path) -> None:
    """Copies the recipes under their own names, with fewer steps and a smaller policy."""
    for path in sorted((ROOT / "recipes").rglob("*")):
        copy = folder / "recipes" / path.relative_to(ROOT / "recipes")
        if path.is_dir():
            copy.mkdir(parents=True)
        elif path.suffix == ".yaml":
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = short_values(path.read_text(encoding="utf-8"), ": ")
            fit = f"scoring: calibrated\nscore_settings: [{', '.join(SHORT_FIT)}]"
            copy.write_text(text.replace("scoring: calibrated", fit), encoding="utf-8")


def short_values(text: str, between: str = "=") -> str:
    """`text` with the values of the keys of SHORT replaced: `key: value` in recipes, `key=value` elsewhere."""
    for key, value in SHORT.items():
        text = re.sub(rf"(?m)(^|(?<=[\s(])){key}{between}[\w.]+", rf"\g<1>{key}{between}{value}", text)
    return text


def short_python(text: str) -> str:
    """Python with few steps of training and of fits, and one epoch of a loop over the data."""
    text = text.replace('scoring="calibrated"', f'scoring="calibrated", score_settings={SHORT_FIT}')
    text = text.replace("fit_scores(chunks)", "fit_scores(chunks, ScoreConfig(steps=2, rounds=1))")
    return short_values(text).replace("range(10)", "range(1)")


def record(out: Path, robot: Robot, episodes: int = 20, seed: int = 0) -> Path:
    """Writes demonstrations of 30 to 44 frames: smooth states, which the actions lead by some frames."""
    random = np.random.default_rng(seed)
    features: dict[str, dict[str, object]] = {
        "observation.state": {"dtype": "float32", "shape": [robot.state], "names": None},
        "action": {"dtype": "float32", "shape": [robot.action], "names": None},
        **{camera: {"dtype": "video", "shape": [32, 48, 3], "names": None} for camera in robot.cameras},
    }
    with DatasetWriter(out, fps=robot.fps, features=features, robot_type="robot", tasks=robot.tasks) as writer:
        for episode in range(episodes):
            length, width = int(random.integers(30, 45)), max(robot.state, robot.action)
            task = episode % len(robot.tasks)
            time = np.arange(length + 3)[:, None] / 12
            path = np.sin(time * random.uniform(0.5, 1.5, width) + task + random.uniform(-0.3, 0.3, width))
            state, action = path[:length, : robot.state], path[3:, : robot.action]
            shade = np.clip(127 + 80 * state[:, :1, None, None], 0, 255).astype(np.uint8)
            frames = np.broadcast_to(shade, (length, 32, 48, 3)).copy()
            columns = {"observation.state": state.astype(np.float32), "action": action.astype(np.float32)}
            writer.add_episode(columns, robot.tasks[task], dict.fromkeys(robot.cameras, frames))
    return out


def run(command: str) -> str:
    """Runs one command, which must succeed; returns what it printed."""
    words, _, out = command.partition(" '>' ")
    arguments = shlex.split(short_values(words))
    if arguments[:2] == ["hf-ptr", "score"] and "--run" not in arguments:
        arguments += SHORT_FIT
    if "--env" in arguments:
        arguments = [*arguments, "--tasks", "reach-v3", "--max-steps", "4", "--workers", "1"]
        if "--episodes" in arguments:
            arguments[arguments.index("--episodes") + 1] = "1"
    if arguments[0] == "hf-ptr":
        result = hf_ptr(*arguments[1:])
    else:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
        result = subprocess.run(arguments, capture_output=True, text=True, timeout=240, check=False, env=environment)
    assert result.returncode == 0, f"{command}\n{result.stderr}"
    if out:
        Path(out).write_text(result.stdout)
    return result.stdout
