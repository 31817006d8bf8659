"""Every command and every Python block of the README and the documentation runs, on small data and for two steps.

The text runs as it stands except for numbers that make a run long (`SHORT`, `SHORT_FIT` of page_helpers), names in
capitals that a reader replaces (`STAND_INS`), and rollouts, of which there is one of a few steps. `NOT_RUN` lists what
cannot run here, with the reason; everything else must run.
"""

from __future__ import annotations

import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from conversion_helpers import write_robomimic
from data_helpers import coded_table, with_camera, write_v21
from hub_server import HubServer
from huggingface_hub import HfApi
from page_helpers import (
    ARM,
    G1,
    GRIPPER,
    PAGES,
    ROOT,
    SAWYER,
    WIDER,
    Robot,
    blocks,
    commands,
    lines_of,
    record,
    run,
    short_python,
    short_recipes,
)
from rich.console import Console
from transformers import AutoModel

from hf_ptr.report.verdict import findings_table
from hf_ptr.scoring.config import ScoreConfig

# Beginnings of commands that do not run here, each with the reason and what runs instead.
NOT_RUN = {
    "pip install": "installs from a package index",
    "git clone": "downloads; the development set-up is what runs these tests",
    "python3.12 -m venv": "LeRobot's own environment of 6 GB: make test-lerobot",
    ".venv-lerobot/bin/": "LeRobot's own environment of 6 GB: make test-lerobot",
    "hf-ptr train recipes/vla/g1_pixels": "needs packages with weights: tests/policies/test_packaged.py makes one",
    "hf-ptr score data/g1_bottle --observation observation.images.cam_high": "needs a package with weights: "
    "tests/scoring/test_frame_encoder.py",
    "hf-ptr train recipes/pi0": "needs a pretrained PI0: tests/policies/test_pi0.py trains one of random weights",
    "python -m robocasa": "needs RoboCasa's assets; tests/envs/test_robocasa.py has a stand-in",
    "python -c 'from libero": "needs LIBERO, 3 GB: make test-libero",
    "hf-ptr diff before.parquet": "needs two scorings: tests/cli/test_diff.py makes them",
    "echo N": "needs LIBERO, 3 GB: make test-libero",
    "hf-ptr evaluate runs/ptr --env libero": "needs LIBERO, 3 GB: make test-libero",
    "hf-ptr evaluate runs/ptr --env robocasa": "needs RoboCasa: tests/envs/test_robocasa.py",
    "accelerate launch --config_file recipes/accelerate/multi_gpu.yaml": "needs several GPUs",
    "accelerate launch --config_file recipes/accelerate/cpu.yaml": "two processes: tests/training/test_launch.py",
    "sbatch": "needs Slurm",
    "python -m benchmarks.atlas": "hours, in a clone: tests/benchmarks/test_atlas.py and test_atlas_report.py",
    "hf-ptr train recipes/vla/g1/ptr.yaml dataset=user/g1 output_dir=runs/on": "needs a pushed checkpoint: "
    "tests/hub/test_run_and_push.py resumes from one",
}
# Names in capitals that a reader replaces, page by page: `""` is every page.
STAND_INS = {
    "": {"DIR": "data/mine", "DATASET": "data/mine", "RECIPE": "recipes/vla/g1/sft.yaml"},
    "data.md": {
        "sources.0.dataset=DIR": "sources.0.dataset=data/g1_bottle",
        "sources.1.dataset=DIR": "sources.1.dataset=data/mt10-pixels",
        "runs/generalist/ptr --dataset DIR": "runs/generalist/ptr --dataset data/g1_bottle",
        "convert lerobot DIR OUT": "convert lerobot data/v21 data/out",
        "convert robomimic FILE OUT": "convert robomimic data/can.hdf5 data/out-can",
    },
    "policies.md": {"DIR": "data/g1_bottle"},
    "calibrated.md": {"DATASET": "data/mt10", "RECIPE": "recipes/vla/metaworld_state/sft.yaml"},
}
# What a page takes for granted because another page or the reader has made it, and what the workshop has for it.
GIVEN = {
    "data.md": {"scores.parquet": "g1.parquet"},
    "report.md": {"scores.parquet": "mt10.parquet", "runs/ptr": "runs/ptr", "runs/sft": "runs/sft"},
    "simulators.md": {"runs/ptr": "runs/ptr", "runs/sft": "runs/sft"},
    "hub.md": {"runs/g1/ptr": "runs/g1/ptr", "results.json": "results.json"},
    "policies.md": {
        "runs/ptr": "runs/camera/sft",
        "runs/sft": "runs/camera/sft",
        "runs/lora": "runs/camera/lora",
        "runs/camera/sft": "runs/camera/sft",
    },
}
# Names that the Python of a page takes for granted.
SETUP = {
    "policies.md": """
import numpy as np

from examples.custom_policy import MyAdapter
from hf_ptr import PTRConfig, PTRTrainer
from hf_ptr.data import ChunkDataset, read_dataset

table = read_dataset("data/mine")
chunks = ChunkDataset(table, observation_features=["observation.images.front"])
args = PTRConfig("runs/adapted", max_steps=2, per_device_train_batch_size=8)
image, state = np.zeros((1, 1, 32, 48, 3), np.uint8), np.zeros(6, np.float32)
""",
    "data.md": """
import numpy as np

task, images, joints = "Pick up the bottle.", np.zeros((1, 1, 32, 48, 3), np.uint8), np.zeros(26, np.float32)
""",
}


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory, metaworld_dataset: Path) -> Path:
    """Short recipes, small data sets under the names of the pages, runs of two steps, and a score file."""
    folder = tmp_path_factory.mktemp("workshop")
    short_recipes(folder)
    data = folder / "data"
    record(data / "g1_bottle", G1)
    record(data / "mine", GRIPPER)
    record(data / "mt10-pixels", SAWYER, episodes=6)
    shutil.copytree(metaworld_dataset, data / "mt10")
    write_v21(with_camera(coded_table([30, 40]), "observation.images.front"), data / "v21")
    write_robomimic(data / "can.hdf5", {"demo_0": 12, "demo_1": 15})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for arm in ("sft", "ptr"):
            run(f"hf-ptr train recipes/vla/metaworld_state/{arm}.yaml dataset=data/mt10 output_dir=runs/{arm}")
        run("hf-ptr train recipes/vla/g1/ptr.yaml dataset=data/g1_bottle")
        camera = "dataset=data/mine observation_features=[observation.images.front]"
        run(f"hf-ptr train recipes/vla/g1_pixels/sft.yaml {camera} relative_actions=false output_dir=runs/camera/sft")
        lora = "recipes/vla/g1_pixels/ptr_lora.yaml dataset=data/mine policy=runs/camera/sft"
        run(f"hf-ptr train {lora} output_dir=runs/camera/lora")
        run("hf-ptr evaluate runs/g1/ptr --dataset data/g1_bottle --episodes 16:20 --json results.json")
        run("hf-ptr score data/mt10 --method paper --run runs/ptr --out mt10.parquet")
        run("hf-ptr score data/g1_bottle --method paper --run runs/g1/ptr --out g1.parquet")
    return folder


@pytest.fixture
def desk(workshop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the data and recipes of the workshop."""
    for name in ("data", "recipes"):
        (tmp_path / name).symlink_to(workshop / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def user_on_the_hub(workshop: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The repositories of docs/hub.md, on the local Hub of the tests."""
    monkeypatch.setitem(hub.tokens, "hf_user", "user")
    monkeypatch.setenv("HF_TOKEN", "hf_user")
    api = HfApi()
    for repo, kind, folder in (
        ("user/g1", "dataset", workshop / "data" / "g1_bottle"),
        ("user/name", "dataset", workshop / "data" / "g1_bottle"),
        ("user/g1-ptr", "model", workshop / "runs" / "g1" / "ptr"),
        ("user/g1-base", "model", workshop / "runs" / "g1" / "ptr"),
    ):
        api.create_repo(repo, repo_type=kind, private=repo == "user/g1-ptr")
        api.upload_folder(repo_id=repo, folder_path=folder, repo_type=kind)
    api.create_tag("user/g1-base", tag="v1")
    api.create_tag("user/name", tag="revision", repo_type="dataset")


def test_the_pages_contain_blocks_to_run() -> None:
    assert sum(len(commands(page)) for page in PAGES) >= 40
    assert sum(block.language == "python" for page in PAGES for block in blocks(page)) >= 10


def test_every_reason_not_to_run_has_its_command() -> None:
    every = [command for page in PAGES for command in commands(page)]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in every)] == []
    every_page = {page.name for page in PAGES}
    assert {*STAND_INS, *GIVEN, *SETUP} - {""} <= every_page


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if blocks(page)], ids=lambda page: str(page.relative_to(ROOT))
)
@pytest.mark.usefixtures("user_on_the_hub")
def test_the_blocks_of_a_page_run(page: Path, desk: Path, workshop: Path) -> None:
    run_page(page, desk, workshop)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "robot"),
    [(ROOT / "README.md", ARM), (ROOT / "README.md", WIDER), (ROOT / "docs" / "index.md", WIDER)],
    ids=["README, other widths", "README, action wider than state", "index, action wider than state"],
)
def test_the_first_commands_run_on_another_robot(page: Path, robot: Robot, desk: Path, workshop: Path) -> None:
    """Other widths, frame rate, instructions and number of episodes than those that the pages were written with."""
    (desk / "data").unlink()
    record(desk / "data" / "g1_bottle", robot, episodes=23, seed=1)
    names = run_page(page, desk, workshop)
    if page.name == "README.md":
        assert names["action"].shape == (1, robot.action)
        assert AutoModel.from_pretrained("runs/mine").config.belief_tokens == 0
        weights = json.loads((desk / "runs" / "mine" / "weights.json").read_text())
        assert sum(weights["counts"]) > 0 and weights["low"] < weights["high"]


def test_the_readme_is_short() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) <= 800
    training, _acting = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    assert len(list(filter(None, training.splitlines()))) == 8


@pytest.mark.slow
def test_the_readme_prints_what_the_command_prints(desk: Path) -> None:
    """The README shows real recordings: their columns and sentences must be those that the command prints today."""
    (shown,) = [block.text for block in blocks(ROOT / "README.md") if block.language == "text"]
    printed = run(next(command for command in commands(ROOT / "README.md") if command.startswith("hf-ptr score")))
    lines = shown.splitlines()
    head = next(line for line in lines if line.split()[:2] == ["episode", "frames"])
    # The columns are in the output only where something is found, which depends on the data of this test.
    table = io.StringIO()
    Console(width=110, file=table).print(findings_table((), {}))
    assert head.split() in [line.split() for line in table.getvalue().splitlines()]
    assert re.match(r"\d+ of \d+ episodes have faults: ep \d+ |hf-ptr found no fault", printed)
    numbers = re.compile(r"\d+(\.\d+)?")
    # Lines about notes come before it where there are notes.
    shown_test, printed_test = (
        next(line for line in text if line.startswith("Self-test")).partition(" It would find")[0]
        for text in (lines, printed.splitlines())
    )
    assert numbers.sub("N", shown_test) == numbers.sub("N", printed_test)


def run_page(page: Path, desk: Path, workshop: Path) -> dict[str, Any]:
    """Runs the blocks of a page in their order; returns the names that its Python blocks define and share."""
    for name, given in GIVEN.get(page.name, {}).items():
        source, target = workshop / given, desk / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    names: dict[str, Any] = {"ScoreConfig": ScoreConfig}
    exec(SETUP.get(page.name, ""), names)
    for block in blocks(page):
        if block.language == "bash":
            for command in lines_of(block):
                if not command.startswith(tuple(NOT_RUN)):
                    run(filled_in(command, page.name))
        elif block.language == "python":
            exec(compile(short_python(block.text), page.name, "exec"), names)
    return names


def filled_in(command: str, page: str) -> str:
    """The command with what stands in for its names in capitals."""
    known = {**STAND_INS[""], **STAND_INS.get(page, {})}
    for placeholder, stand_in in sorted(known.items(), key=lambda pair: -len(pair[0])):
        command = re.sub(rf"(?<![\w-]){re.escape(placeholder)}(?![\w-])", stand_in, command)
    return command
