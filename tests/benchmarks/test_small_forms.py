"""Every benchmark command runs, with sizes that take seconds."""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import re
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from data_helpers import coded_image, coded_table, drifting_table

from benchmarks import fits, measurement, training_costs
from benchmarks.negative_controls import Recorded
from benchmarks.robustness import report, running, suites
from benchmarks.robustness.running import Cell
from hf_ptr.data.lerobot.writer import DatasetWriter, write_table
from hf_ptr.envs.recording import record_metaworld
from hf_ptr.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
TASKS = ("reach-v3", "drawer-close-v3")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four demonstrations with camera images."""
    folder = tmp_path_factory.mktemp("recorded") / "data"
    return record_metaworld(TASKS, 2, folder, seed=0, workers=1, pixels=64)


@pytest.fixture
def command(tmp_path: Path, recorded: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs a command with arguments, on a copy of `recorded`, with its results in `tmp_path`."""

    def copied(tasks: Any, count: int, folder: Path, **_: Any) -> Path:
        return Path(shutil.copytree(recorded, folder))

    def run(name: str, *arguments: str, **settings: Any) -> ModuleType:
        module = importlib.import_module(f"benchmarks.{name}")
        for key, value in settings.items():
            monkeypatch.setattr(module, key, value)
        if hasattr(module, "record_metaworld"):
            monkeypatch.setattr(module, "record_metaworld", copied)
        if hasattr(module, "RESULTS"):
            monkeypatch.setattr(module, "RESULTS", tmp_path / f"{name}.json")
        monkeypatch.setattr(sys, "argv", [f"benchmarks.{name}", *arguments])
        module.main()
        return module

    monkeypatch.setattr(measurement, "SMALL", tmp_path)
    return run


def results(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_overhead(command: Any, tmp_path: Path) -> None:
    command("overhead", "--small")
    found = results(tmp_path, "overhead")
    recorded_form = results(measurement.RESULTS, "overhead")
    assert (
        found["seconds"].keys()
        == recorded_form["seconds"].keys()
        == {"stock", "sft", "sft_belief", "ptr", "calibrated"}
    )
    assert found["ratios"].keys() == recorded_form["ratios"].keys()
    assert all(each["n"] == 1 and each["median"] > 0 for each in found["ratios"].values())
    step = {arm: each["median"] for arm, each in found["seconds"].items()}
    assert found["added_ms"]["ptr - sft"]["median"] == pytest.approx(1e3 * (step["ptr"] - step["sft"]))


@pytest.mark.slow
def test_scaling(command: Any, tmp_path: Path) -> None:
    command("scaling", "--small")
    found = results(tmp_path, "scaling")
    assert math.isfinite(found["knobs"]["per_device_train_batch_size"]["grows"])
    assert found["processes"]["ratios"]["2/1"]["n"] == 1
    assert all(each["median"] > 0 for each in found["pool"]["ratios"].values())


def test_policy_sizes(command: Any, tmp_path: Path) -> None:
    command("policy_sizes", "--small")
    found = results(tmp_path, "policy_sizes")["policies"]
    assert len(found) == 3
    # SmolVLA: 450 million parameters, of which its action expert has 100.
    smolvla = found["SmolVLA, its action expert, fp32"]
    assert (smolvla["parameters"] / 1e6, smolvla["trained"] / 1e6) == pytest.approx((447, 100), abs=1)


def test_the_page_of_costs_contains_the_recorded_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = training_costs.PAGE.read_text(encoding="utf-8")
    monkeypatch.setattr(training_costs, "PAGE", tmp_path / "page.md")
    training_costs.PAGE.write_text(original, encoding="utf-8")
    training_costs.fill_costs()
    assert training_costs.PAGE.read_text(encoding="utf-8") == original


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "name"), [(1, "soak"), (2, "soak_2_processes")])
def test_soak(command: Any, tmp_path: Path, processes: int, name: str) -> None:
    command("soak", "--small", "--processes", str(processes))
    found = results(tmp_path, name)
    assert found["identical"] and found["kills"]["n"] == 2 and found["files"]["n"] > 5


@pytest.mark.slow
def test_pixels_overhead(command: Any, tmp_path: Path) -> None:
    command("pixels_overhead", "--small")
    found = results(tmp_path, "pixels_overhead")
    assert found["ratios"].keys() == results(measurement.RESULTS, "pixels_overhead")["ratios"].keys()
    assert found["ratios"]["ptr/sft, operations"] > 1.0


def test_overfit(command: Any, recorded: Path, tmp_path: Path) -> None:
    module = command("overfit", str(recorded), "--small")
    found = results(tmp_path, "overfit")["policies"]
    assert found.keys() == module.POLICIES.keys()
    assert all(math.isfinite(figures["action_error"]) for figures in found.values())


def test_cosine_scorer(command: Any, tmp_path: Path) -> None:
    command("cosine_scorer", "--small")
    found = results(tmp_path, "cosine_scorer")["settings"]
    assert found.keys() == results(measurement.RESULTS, "cosine_scorer")["settings"].keys()
    for figures in found.values():
        # Sixty steps already tell wrong outcomes from right ones, and nothing is better than the optimum by much.
        assert 0.6 < figures["AUROC of wrong outcomes"][0] < figures["AUROC of wrong outcomes, optimal"][0] + 0.02
        assert figures["rmse"][0] > 0.2 and figures["rank correlation"][0] > 0.3


def test_gpu_in_its_small_form_needs_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.gpu import __main__ as gpu

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", "--small", "--out", str(tmp_path)])
    gpu.main()
    found = results(tmp_path, "gpu")["steps"]
    assert list(found) == ["sft, 2 chunks", "ptr, 2 chunks"]
    for figures in found.values():
        assert figures["seconds"]["n"] == 2 and figures["seconds"]["median"] >= figures["host_seconds"]["median"] > 0
        assert 0 < figures["trained"] < figures["parameters"]
    assert found["ptr, 2 chunks"]["trained"] > found["sft, 2 chunks"]["trained"]
    monkeypatch.setattr(sys, "argv", ["benchmarks.gpu"])
    with pytest.raises(InputError, match="no NVIDIA GPU found; --small runs on the CPU"):
        gpu.main()


def test_host_waits_needs_a_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    from benchmarks import host_waits

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["benchmarks.host_waits", "recipe.yaml"])
    with pytest.raises(SystemExit) as left:
        measurement.run("benchmarks.host_waits", host_waits.main)
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith("benchmarks.host_waits: no NVIDIA GPU found;")


def test_a_cell_of_the_robustness_benchmark(recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (suites, running):
        monkeypatch.setattr(module, "WORK", tmp_path)
    small = dataclasses.replace(suites.SUITES["smoke"], tasks=TASKS[:1], rollouts=1)
    monkeypatch.setitem(suites.SUITES, "smoke", small)
    cell = Cell("smoke", "hard", "length", 0)
    shutil.copytree(recorded, small.demonstrations_of(0))
    line = running.run_cell(cell, running.dependencies_of(cell), "commit")
    assert line["episodes"] == 1 and len(line["outcomes"]["reach-v3"]) == 1
    assert line["behaviour"].keys() == {"sft", "length"} and 0.0 < line["ess"] <= 1.0
    assert running.is_up_to_date(cell, line, running.dependencies_of(cell))
    running.data_hash.cache_clear()


def test_the_pages_contain_the_figures_of_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = [tmp_path / page.relative_to(ROOT) for page in report.PAGES]
    for page, original in zip(pages, report.PAGES, strict=True):
        page.parent.mkdir(exist_ok=True)
        shutil.copyfile(original, page)
    for name, value in {
        "ROOT": tmp_path,
        "PAGES": pages,
        "FIGURE": tmp_path / "a.png",
        "SWEEPS": tmp_path / "b.png",
    }.items():
        monkeypatch.setattr(report, name, value)
    originals = [page.read_text(encoding="utf-8") for page in pages]
    report.main()
    assert [page.read_text(encoding="utf-8") for page in pages] == originals
    assert (tmp_path / "a.png").stat().st_size > 10_000 and (tmp_path / "b.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["detection", "score_ablations"])
def test_fits_of_the_calibrated_score(
    name: str, command: Any, recorded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suites, "WORK", tmp_path)
    suite = dataclasses.replace(fits.SUITE, tasks=TASKS, demonstrations=2)
    shutil.copytree(recorded, suite.demonstrations_of(0))
    monkeypatch.setattr(fits, "SUITE", suite)
    module = importlib.import_module(f"benchmarks.{name}")
    few = {"VARIANTS": dict(list(module.VARIANTS.items())[:1])} if name == "score_ablations" else {}
    command(name, "--seeds", "1", CORRUPTIONS=("hard",), **few)
    (line,) = results(tmp_path, name)
    assert line["corruption"] == "hard" and line["behaviour"].keys() == {"calibrated"} and line["auroc_episode"]
    running.data_hash.cache_clear()


def test_negative_controls(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = drifting_table([60] * 12)
    features = {name: {**feature, "names": ["a", "b"]} for name, feature in table.features.items()}
    columns = {**table.columns, "observation.environment_state": table.columns["observation.state"]}
    features["observation.environment_state"] = features["observation.state"]
    simulated = dataclasses.replace(table, columns=columns, features=features)
    write_table(simulated, tmp_path / "negative_controls" / "2-tasks-6-10")
    write_table(dataclasses.replace(table, features=features), tmp_path / "real")
    fits: list[int] = []
    module = importlib.import_module("benchmarks.negative_controls")
    measure = module.weights_of

    def counted(*arguments: Any) -> Any:
        fits.append(1)
        return measure(*arguments)

    monkeypatch.setattr(module, "WORK", tmp_path)
    monkeypatch.setattr(module, "weights_of", counted)
    command("negative_controls", "--small", "--real", str(tmp_path / "real"))
    lines = results(tmp_path, "negative_controls")["harmless"]
    assert len(lines) == len(fits) and {line["data"] for line in lines} == {"simulated", "real"}
    assert all(0.25 <= line["mean weight"] <= 4.0 and 0.0 <= line["share below 2"] <= 1.0 for line in lines)
    assert {line["episodes"] for line in lines if line["control"] == "unchanged"} == {12}


def test_recorded_negative_controls_are_not_measured_again(tmp_path: Path) -> None:
    recorded, made = Recorded(tmp_path / "results.json"), []

    def figures() -> dict[str, Any]:
        made.append(1)
        return {"mean weight": 4.0}

    for _ in range(2):
        again = Recorded(tmp_path / "results.json")
        again.run(again.harmless, {"data": "real", "control": "unchanged"}, figures)
    again.run(again.harmless, {"data": "real", "control": "another"}, figures)
    assert len(made) == 2 and not recorded.harmless
    assert [line["control"] for line in Recorded(tmp_path / "results.json").harmless] == ["unchanged", "another"]


@pytest.mark.slow
def test_five_faults(command: Any, tmp_path: Path) -> None:
    write_table(coded_table([20] * 20), tmp_path / "data")
    command("five_faults", str(tmp_path / "data"))
    found = results(tmp_path, "five_faults")
    assert len(found["faults"]) == 5 and 0.0 <= found["auroc"] <= 1.0


def test_image_encoder(command: Any, tmp_path: Path) -> None:
    camera = "observation.images.top"
    size = {"dtype": "float32", "shape": [1], "names": None}
    video = {"dtype": "video", "shape": [32, 48, 3], "names": ["height", "width", "channels"]}
    features = {"observation.state": size, "action": size, camera: video}
    with DatasetWriter(tmp_path / "data", fps=10, features=features, robot_type="none", tasks=["count"]) as writer:
        for episode in range(10):
            column = np.arange(14, dtype=np.float32)[:, None]
            images = np.stack([coded_image(episode, frame, (32, 48)) for frame in range(14)])
            writer.add_episode({"observation.state": column, "action": column}, "count", {camera: images})
    command("image_encoder", "--small", "--seeds", "1", f"made={tmp_path / 'data'}")
    found = results(tmp_path, "image_encoder")["datasets"]["made"]["encoders"]
    assert list(found) == ["pixels", "random, 32"]
    for one in found.values():
        assert (
            one["decode_rate"]["n"] == 2 and one["auroc"]["blurred"]["interval"][0] <= one["auroc"]["blurred"]["mean"]
        )


def test_detection_speed(command: Any, tmp_path: Path) -> None:
    command("detection_speed", "--small")
    assert results(tmp_path, "detection_speed")["detect"]["cpu_seconds"]["n"] == 1


def test_calibration_of_the_findings(command: Any, tmp_path: Path) -> None:
    command("atlas.calibration", "--small", "--faults", "late 6")
    found = results(tmp_path, "calibration")
    assert found["all"]["0.5"]["findings"] >= 2
    assert found["all"]["0.5"]["true"] == 1.0


@pytest.mark.slow
def test_score_memory(command: Any, tmp_path: Path) -> None:
    command("score_memory", "--episodes", "4")
    assert results(tmp_path, "score_memory")


@pytest.mark.slow
def test_score_scaling(command: Any, tmp_path: Path) -> None:
    command("score_scaling", "--small")
    found = results(tmp_path, "score_scaling")
    assert [line["episodes"] for line in found["runs"]] == [8, 16] and found["runs"][1]["blocks"] > 0
    assert found["grows"][0]["peak_mb"] < 0.1


@pytest.mark.slow
def test_command_scaling(command: Any, tmp_path: Path) -> None:
    command("command_scaling", "--small")
    found = results(tmp_path, "command_scaling")
    for name in ("validate", "report"):
        assert [line["episodes"] for line in found[name]["runs"]] == [60, 120]
        # Of so few episodes, starting costs nearly all.
        assert abs(found[name]["grows"][0]["peak_mb"]) < 0.2


@pytest.mark.slow
def test_score_soak(command: Any, tmp_path: Path) -> None:
    # Exits with 1 if scores or findings differ from those of one process.
    command("score_soak", "--small")
    assert results(tmp_path, "score_soak")["kills"] == 1


def test_the_makefile_names_existing_benchmark_commands() -> None:
    named = re.findall(r"python -m (benchmarks[\w.]*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert len(named) >= 8
    for name in named:
        module = importlib.import_module(name)
        if hasattr(module, "__path__"):
            module = importlib.import_module(f"{name}.__main__")
        assert callable(module.main)
