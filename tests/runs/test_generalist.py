"""The generalist recipe end to end: a policy of a real and a simulated robot, trained from images."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from data_helpers import REAL_V21, assert_same_table, coded_table, vector, with_camera, write_lines, write_v21

from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.lerobot.validation import validate_dataset
from hf_ptr.data.video.decoding import FrameReader
from hf_ptr.envs.metaworld.environment import MetaWorld
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.evaluation.offline import evaluate_dataset
from hf_ptr.evaluation.rollouts import evaluate_in
from hf_ptr.runs.run import run_recipe

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "vla" / "generalist" / "ptr.yaml"
CAMERA = "observation.images.cam_high"
# A synthetic dataset of the same layout, and the real robot's dataset if it is next to the checkout.
V21_SOURCES = ["built", *(["g1_bottle"] if (REAL_V21 / "meta/info.json").is_file() else [])]


def three_episodes(source: str, out: Path) -> Path:
    """Episodes 0 to 2 of the Unitree G1 as v2.1, or three synthetic ones of the same layout."""
    if source == "built":
        base = coded_table([40, 35, 30], tasks=1)
        random = np.random.default_rng(0)
        columns = {name: np.cumsum(random.normal(size=(105, 26)), axis=0).astype(np.float32) for name in base.columns}
        features = dict.fromkeys(columns, vector(26))
        table: EpisodeTable = dataclasses.replace(base, columns=columns, features=features, fps=30.0)
        return write_v21(with_camera(table, CAMERA, (48, 64)), out)
    for name in ("meta", "data/chunk-000", f"videos/chunk-000/{CAMERA}"):
        (out / name).mkdir(parents=True)
    info = json.loads((REAL_V21 / "meta/info.json").read_text())
    episodes = [json.loads(line) for line in (REAL_V21 / "meta/episodes.jsonl").read_text().splitlines()[:3]]
    info |= {"total_episodes": 3, "total_frames": sum(episode["length"] for episode in episodes), "total_videos": 3}
    (out / "meta/info.json").write_text(json.dumps(info))
    write_lines(out / "meta/episodes.jsonl", episodes)
    shutil.copy(REAL_V21 / "meta/tasks.jsonl", out / "meta/tasks.jsonl")
    for number in range(3):
        for folder, kind in (("data/chunk-000", "parquet"), (f"videos/chunk-000/{CAMERA}", "mp4")):
            shutil.copy(REAL_V21 / folder / f"episode_{number:06d}.{kind}", out / folder)
    return out


@pytest.mark.parametrize("source", V21_SOURCES)
def test_a_policy_of_two_robots_is_trained_from_images(source: str, tmp_path: Path) -> None:
    v21 = three_episodes(source, tmp_path / "v21")
    assert [str(problem) for problem in validate_dataset(v21).problems if problem.severity == "error"] == []
    v30 = convert_lerobot(v21, tmp_path / "v30")
    g1, converted = read_dataset(v21), read_dataset(v30)
    assert_same_table(g1, converted)
    frames = [(episode, frame) for episode in range(3) for frame in (0, 1, int(g1.lengths[episode]) - 1)]
    readers = [FrameReader(CAMERA, table.videos[CAMERA], table.fps, (24, 32)) for table in (g1, converted)]
    np.testing.assert_array_equal(*(reader.read(*zip(*frames, strict=True)) for reader in readers))

    sawyer = record_metaworld(["reach"], 2, tmp_path / "sawyer", pixels=32, workers=1)
    out = tmp_path / "out"
    run_recipe(
        RECIPE,
        [f"sources.0.dataset={v30}", "sources.0.episodes=0:2", "sources.0.eval_episodes=2",
         f"sources.1.dataset={sawyer}", "image_size=32", "max_steps=4", "per_device_train_batch_size=6",
         "per_device_eval_batch_size=32", "warmup_steps=1", "nce_warmup_steps=2", "logging_steps=2", "use_cpu=true",
         "disable_tqdm=true", f"output_dir={out}"],
    )  # fmt: skip
    logged = json.loads((out / "trainer_state.json").read_text())["log_history"]
    assert all(np.isfinite(entry[name]) for entry in logged for name in ("loss", "ptr_score") if name in entry)
    assert json.loads((out / "eval_results.json").read_text())["eval_loss"] > 0
    # The policy acts for both robots: on a held-out episode of one, and in the simulator of the other.
    errors = evaluate_dataset(out, read_dataset(v30, [2]), source="g1")
    assert np.isfinite(errors.policy).all() and errors.episodes == (2,)
    assert evaluate_in(MetaWorld(), out, ["reach"], 1, max_steps=8, workers=1, source="sawyer").overall.episodes == 1
