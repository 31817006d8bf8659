"""`lerobot-train` as released, with the plug-in: weighted steps, resume and refusals (`make test-lerobot`)."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from camera_helpers import CAMERAS, camera_batch
from command_line import hf_ptr
from data_helpers import REAL_V21, coded_table, with_camera, write_v21
from hub_server import HubServer
from plugin_helpers import weight_rows

from hf_ptr.data.lerobot.convert import convert_lerobot
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.score_file import score_frame, write_scores

HERE = importlib.util.find_spec("lerobot_policy_hf_ptr") is not None
pytestmark = [
    pytest.mark.skipif(not HERE, reason="LeRobot needs an environment of its own: make test-lerobot"),
    # A command imports LeRobot for half a minute on busy cores.
    pytest.mark.timeout(3600),
]
HELPERS = Path(__file__).parents[1] / "helpers"
EXAMPLE = Path(__file__).parents[2] / "examples" / "lerobot_train.sh"

if HERE:
    from lerobot.rewards.sarm.rabc import RABCWeights
    from lerobot_helpers import SIZE, config_of, serve_paligemma, tiny_lerobot, tiny_smolvlm
    from lerobot_policy_hf_ptr.sample_losses import give_sample_losses
    from lerobot_policy_hf_ptr.weighter import FrameWeights

    from hf_ptr.policies.lerobot.processor import LeRobotProcessor

CHUNK = ("--policy.chunk_size=8", "--policy.n_action_steps=8")
WIDTHS = ("--policy.max_state_dim=32", "--policy.max_action_dim=32")
TINY = {
    "act": (
        *CHUNK,
        "--policy.pretrained_backbone_weights=null",
        "--policy.dim_model=16",
        "--policy.n_heads=2",
        "--policy.dim_feedforward=32",
        "--policy.n_encoder_layers=1",
        "--policy.n_vae_encoder_layers=1",
    ),
    "diffusion": (
        "--policy.horizon=8",
        "--policy.n_action_steps=4",
        "--policy.drop_n_last_frames=3",
        "--policy.pretrained_backbone_weights=null",
        "--policy.resize_shape=[48,64]",
        "--policy.down_dims=[16,32]",
        "--policy.n_groups=4",
        "--policy.diffusion_step_embed_dim=16",
    ),
    "smolvla": (*CHUNK, *WIDTHS, "--policy.resize_imgs_with_padding=[32,32]", "--policy.num_vlm_layers=2"),
    "pi0": (*CHUNK, *WIDTHS, "--policy.image_resolution=[32,32]"),
}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty episodes of a humanoid, converted to v3.0."""
    if not (REAL_V21 / "meta/info.json").is_file():
        pytest.skip("the real robot's episodes do not lie beside this checkout")
    return convert_lerobot(REAL_V21, tmp_path_factory.mktemp("real") / "v30")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three episodes of 12, 9 and 15 frames of a small camera."""
    folder = tmp_path_factory.mktemp("small")
    table = with_camera(coded_table([12, 9, 15]), CAMERAS[0])
    return convert_lerobot(write_v21(table, folder / "v21"), folder / "v30")


def run_command(*command: object, spy: Path | None = None, succeeds: bool = True) -> tuple[str, list[dict[str, Any]]]:
    """A command with LeRobot's tools on the path: its errors and log, and what the spy recorded of each step."""
    spied = ["--policy.discover_packages_path=lerobot_spy"] if spy else []
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        [*map(str, command), *spied], capture_output=True, text=True, timeout=3500,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(HELPERS), "LEROBOT_SPY": str(spy), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert (done.returncode == 0) == succeeds, done.stderr[-3000:]
    steps = [json.loads(line) for line in spy.read_text().splitlines()] if spy and spy.exists() else []
    return done.stderr, steps


def lerobot_train(
    kind: str, data: Path, scores: object, out: Path, *options: str, steps: int = 20, **keywords: Any
) -> tuple[str, list[dict[str, Any]]]:
    """The example's command with a tiny policy, on the CPU."""
    return run_command("bash", EXAMPLE, kind, data, scores, *tiny(kind, out, steps), *options, **keywords)


def tiny(kind: str, out: Path, steps: int) -> list[str]:
    small = ["--policy.device=cpu", "--batch_size=2", "--num_workers=0", "--log_freq=1"]
    return [*TINY[kind], *small, f"--steps={steps}", f"--output_dir={out}"]


def towers(kind: str, hub: HubServer, folder: Path) -> list[str]:
    """The text and vision parts of random weights that π0 and SmolVLA are built of."""
    if kind == "pi0":
        serve_paligemma(hub, folder / "paligemma")
    return [f"--policy.vlm_model_name={tiny_smolvlm(folder / 'smolvlm')}"] if kind == "smolvla" else []


def assert_weighted(steps: list[dict[str, Any]], weight_of: np.ndarray) -> None:
    """Each step's loss is the mean of the losses of its samples, weighted by the frames that they start from."""
    for step in steps:
        losses, weights = np.array(step["losses"]), weight_of[step["index"]]
        assert losses.shape == weights.shape
        # LeRobot adds 1e-6 to the sum of the weights.
        np.testing.assert_allclose(step["loss"], (losses * weights).sum() / weights.sum(), rtol=1e-5)
    # Equal weights would give another loss.
    plain = [np.mean(step["losses"]) for step in steps]
    assert not np.allclose([step["loss"] for step in steps], plain, rtol=1e-3)


@pytest.mark.parametrize("kind", list(TINY))
def test_the_loss_of_each_sample_is_multiplied_by_its_weight(
    kind: str, real: Path, hub: HubServer, tmp_path: Path
) -> None:
    frames = json.loads((real / "meta/info.json").read_text())["total_frames"]
    rows = weight_rows(frames)
    rows.to_parquet(tmp_path / "w.parquet")
    out = tmp_path / "run"
    printed, steps = lerobot_train(
        kind, real, tmp_path / "w.parquet", out, *towers(kind, hub, tmp_path), spy=tmp_path / "steps.jsonl"
    )
    assert "Creating sample weighter: hf_ptr" in printed and f"weighs {frames} of {frames} frames" in printed
    assert len(steps) == 20
    assert_weighted(steps, rows.set_index("index")["weight"].sort_index().to_numpy())
    assert (out / "checkpoints/last/pretrained_model/model.safetensors").is_file()


def test_an_exported_progress_file_weighs_as_it_says(small: Path, tmp_path: Path) -> None:
    """LeRobot's own RA-BC, for ACT: its weights differ from ours by the error that the export prints."""
    table, file = read_dataset(small), tmp_path / "progress.parquet"
    ours = np.random.default_rng(0).uniform(0.25, 4, 36)
    scores = score_frame(table, score=0.0, weight=ours, valid=True, scorer="")
    write_scores(scores, tmp_path / "scores.parquet")
    said = hf_ptr("export", tmp_path / "scores.parquet", "--to", "lerobot-rabc", "--chunk-size", 8, "--out", file)
    error = [float(one) for one in re.findall(r"error ([\d.]+), largest ([\d.]+)", said.stdout)[0]]
    rabc, _ = RABCWeights(file, chunk_size=8, device=torch.device("cpu")).compute_batch_weights(
        {"index": torch.arange(36)}
    )
    differences = np.abs(rabc.numpy() - ours / ours.mean())
    assert [differences.mean(), differences.max()] == pytest.approx(error, abs=0.006)
    _, steps = run_command(
        "lerobot-train",
        "--policy.type=act",
        "--policy.push_to_hub=false",
        "--dataset.repo_id=local/small",
        f"--dataset.root={small}",
        "--sample_weighting.type=rabc",
        f"--sample_weighting.progress_path={file}",
        *tiny("act", tmp_path / "run", 10),
        spy=tmp_path / "steps.jsonl",
    )
    assert len(steps) == 10
    assert_weighted(steps, rabc.numpy())


def test_a_resumed_run_keeps_its_weights(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = weight_rows(36)
    rows[rows["index"] < 21].to_parquet(tmp_path / "w.parquet")
    weight_of = np.full(36, 0.25)
    weight_of[:21] = rows.set_index("index")["weight"].sort_index()[:21]
    run = tmp_path / "run"
    monkeypatch.chdir(tmp_path)
    lerobot_train("act", small, "w.parquet", run, "--sample_weighting.fallback_weight=0.25", steps=2)
    monkeypatch.chdir(small)
    _, steps = run_command(
        "lerobot-train",
        f"--config_path={run}/checkpoints/last/pretrained_model/train_config.json",
        "--resume=true",
        "--steps=6",
        spy=tmp_path / "steps.jsonl",
    )
    assert len(steps) == 4
    assert_weighted(steps, weight_of)


@pytest.mark.parametrize(
    ("rows", "more", "message"),
    [
        (weight_rows(36).drop(columns="weight"), (), "w.parquet has no column 'weight'"),
        (weight_rows(40), (), "w.parquet does not belong to"),
        (weight_rows(36), ("--sample_weighting.type=rabc",), "--sample_weighting.type=hf_ptr go together"),
    ],
)
def test_a_wrong_file_is_one_line_before_training(
    rows: pd.DataFrame, more: tuple[str, ...], message: str, small: Path, tmp_path: Path
) -> None:
    rows.to_parquet(tmp_path / "w.parquet")
    printed, _ = lerobot_train("act", small, tmp_path / "w.parquet", tmp_path / "run", *more, succeeds=False)
    last = printed.strip().splitlines()[-1]
    # Without the name of an exception: no traceback precedes it.
    assert last.startswith("--sample_weighting") and message in last
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("act", {}),
        ("act", {"use_vae": False}),
        ("diffusion", {}),
        ("diffusion", {"prediction_type": "sample", "do_mask_loss_for_padding": True}),
    ],
)
def test_losses_per_sample_have_lerobots_loss_as_their_mean(kind: str, changes: dict[str, Any]) -> None:
    policy = tiny_lerobot(kind, **changes).train()
    batch = camera_batch(LeRobotProcessor.from_config(config_of(kind)), 0, SIZE)
    seen = batch["observation"].float().div(255).permute(1, 0, 4, 2, 3)
    given = {
        **dict(zip(CAMERAS, seen, strict=True)),
        "observation.state": batch["state"][:, None] if kind == "diffusion" else batch["state"],
        "action": batch["actions"],
        # A sample with all four actions, others with three to one.
        "action_is_pad": torch.arange(4) >= torch.tensor([4, 3, 2, 1, 4, 2])[:, None],
    }
    torch.manual_seed(3)
    released, _ = type(policy).forward(policy, given)
    give_sample_losses(policy)
    torch.manual_seed(3)
    losses, _ = policy(given, reduction="none")
    assert losses.shape == (6,) and losses.requires_grad
    torch.testing.assert_close(losses.mean(), released, rtol=1e-6, atol=1e-6)
    torch.manual_seed(3)
    torch.testing.assert_close(policy(given)[0], released, rtol=0, atol=0)


def test_batch_weights_sum_to_the_batch() -> None:
    weights, known = np.array([0.0, 1.0, 3.0, 2.0]), np.array([True, True, True, False])
    weighter = FrameWeights(weights, known, torch.device("cpu"))
    found, logged = weighter.compute_batch_weights({"index": torch.tensor([2, 0, 1, 3])})
    torch.testing.assert_close(found, torch.tensor([3.0, 0.0, 1.0, 2.0]) * 4 / 6)
    assert logged == {"mean_weight": 1.5, "num_zero_weight": 1, "num_fallback_weight": 1}
    nothing, _ = weighter.compute_batch_weights({"index": torch.tensor([0, 0])})
    assert nothing.tolist() == [0.0, 0.0]


def test_another_lerobot_is_one_line(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    from lerobot_policy_hf_ptr.registration import register

    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.7.0")
    monkeypatch.setattr(sys, "argv", ["lerobot-train", "--sample_weighting.path=w.parquet"])
    with pytest.raises(SystemExit, match=r"works with LeRobot .*, not 0\.7\.0: pip install 'lerobot\[training\]"):
        register()
    monkeypatch.setattr(sys, "argv", ["lerobot-record"])
    register()
    assert "not 0.7.0" in caplog.text
