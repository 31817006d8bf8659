"""Action errors on recorded episodes: baselines without a policy, and errors by dimension in the dataset's units."""

from __future__ import annotations

import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from command_line import hf_ptr, the_line
from data_helpers import vector, write_v21
from dataset_kinds import reaching, with_cameras
from rich.console import Console

from hf_ptr.cli.evaluate import Belief
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.evaluation.episodes import BELIEF
from hf_ptr.evaluation.error_text import comparison_table, differences, episodes_table, legend, summary_table, verdict
from hf_ptr.evaluation.offline import HOLD, MEAN, ZERO, Errors, ErrorTable, evaluate_dataset
from hf_ptr.policies import policy_from_dataset
from hf_ptr.runs.run import trained_episodes

CHUNK, STEPS = 5, 2


def saved_policy(table: EpisodeTable, folder: Path) -> Path:
    policy, processor = policy_from_dataset(table, chunk_size=CHUNK, n_action_steps=STEPS, hidden_size=16)
    policy.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def by_hand(table: EpisodeTable, predicted: np.ndarray) -> np.ndarray:
    """`(E, da)`: the mean absolute error if `predicted[t]` is repeated over the chunk that starts at t."""
    errors = []
    for start, length in zip(table.starts, table.lengths, strict=True):
        action = table.feature("action")[start : start + length].astype(np.float64)
        chunks = [predicted[start + t] - action[t : t + CHUNK] for t in range(0, length, STEPS)]
        errors.append(np.abs(np.concatenate(chunks)).mean(axis=0))
    return np.array(errors)


def test_baselines_are_those_of_the_data(tmp_path: Path) -> None:
    table = reaching(6, 30)
    held_out, training = table.select([1, 4]), table.select([0, 2, 3, 5])
    found = evaluate_dataset(saved_policy(table, tmp_path / "policy"), held_out, reference=training)
    mean = training.feature("action").mean(axis=0, dtype=np.float64)
    shape = held_out.feature("action").shape
    for name, predicted in (
        (HOLD, held_out.feature("observation.state").astype(np.float64)),
        (MEAN, np.broadcast_to(mean, shape)),
        (ZERO, np.zeros(shape)),
    ):
        np.testing.assert_allclose(found.baselines[name].absolute, by_hand(held_out, predicted), rtol=1e-6)
    assert found.best == HOLD and found.undefined == {}
    result = found.to_dict()
    assert result["baselines"]["zero"]["mae"]["mean"] == pytest.approx(found.baselines[ZERO].mae.mean())
    assert [one["name"] for one in result["dimensions"]] == ["x0", "x1", "x2"]
    assert np.mean([one["mae"] for one in result["dimensions"]]) == pytest.approx(result["action_mae"]["mean"])
    assert np.mean([one["mse"] for one in result["dimensions"]]) == pytest.approx(result["action_mse"]["mean"])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (reaching(4, 30, velocities=True), "the action is not a position of the state"),
        (reaching(4, 30, action=5), "the state has 3 dimensions and the action 5"),
    ],
    ids=["velocities", "widths"],
)
def test_actions_that_are_not_positions_have_two_baselines(table: EpisodeTable, reason: str, tmp_path: Path) -> None:
    found = evaluate_dataset(saved_policy(table, tmp_path / "policy"), table)
    assert set(found.baselines) == {MEAN, ZERO} and found.hold_position is None
    assert found.undefined[HOLD].startswith(reason) and reason in legend({"run": found})
    result = found.to_dict()
    assert "hold_state_mae" not in result and result["baselines"]["hold_position"]["undefined"].startswith(reason)


def test_a_baseline_without_an_error_has_no_ratio(tmp_path: Path) -> None:
    """As in an episode where the robot stands still: no infinite mean, no NaN, and a sentence that says so."""
    table = reaching(4, 30)
    still = slice(int(table.starts[1]), int(table.starts[2]))
    for name in ("observation.state", "action"):
        table.columns[name][still] = 0.5
    policy = saved_policy(table, tmp_path / "policy")
    found = evaluate_dataset(policy, table)
    assert found.best == HOLD and found.hold_position is not None and found.hold_position[1] == 0
    result = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    expected = found.policy.mean() / found.hold_position.mean()
    assert result["ratio_to_hold_state"]["mean"] == pytest.approx(expected)
    assert f"{expected:.2f} times the error" in verdict("run", found)
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(summary_table("run", found), episodes_table("run", found), comparison_table({"run": found}))
    assert not {"inf", "nan"} & set(console.export_text().split())
    none = Errors(np.zeros((4, 3)), np.zeros((4, 3)))
    exact = dataclasses.replace(found, baselines={HOLD: none})
    assert "ratio_to_hold_state" not in json.loads(json.dumps(exact.to_dict(), allow_nan=False))
    assert "There is no ratio of the errors, because that of hold position is 0." in verdict("run", exact)


def errors_of(values: list[float], zero: list[float], *, steps: int = 9, action: str = "action") -> ErrorTable:
    """Errors of one dimension, by episode."""
    made = Errors(np.array(values)[:, None], np.square(values)[:, None])
    baseline = Errors(np.array(zero)[:, None], np.square(zero)[:, None])
    count = len(values)
    return ErrorTable(tuple(range(count)), ("x",), made, made, {ZERO: baseline}, {}, action, (steps,) * count)


def printed(*parts: object) -> str:
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(*parts)
    return console.export_text()


def test_the_verdict_says_whether_a_policy_is_better_than_none() -> None:
    zero = [1.0, 1.1, 0.9, 1.2]
    for factors, words in (
        ([0.5, 0.52, 0.49, 0.5], "The policy is better: 0.50 times the error [0.48, 0.52]."),
        ([0.8, 1.3, 0.9, 1.1], "The policy is not significantly different: 1.04 times the error"),
        ([1.5, 1.52, 1.49, 1.5], "The policy is worse: 1.50 times the error [1.48, 1.52]. Train it longer"),
    ):
        assert words in verdict("run", errors_of([a * b for a, b in zip(factors, zero, strict=True)], zero))


def test_the_verdict_follows_from_the_errors_that_it_prints() -> None:
    """One hard episode, in which the policy fails, outweighs many easy ones."""
    found = errors_of([0.5] * 20 + [20.0], [1.0] * 20 + [8.0])
    words = verdict("run", found)
    assert "are 1.429 away" in words and "is 1.333 away" in words
    assert "The policy is not significantly different: 1.07 times the error [" in words
    (row,) = (line for line in printed(summary_table("run", found)).splitlines() if line.startswith("run  "))
    assert " 1.07 [" in row
    assert "-" not in row, "an absolute error is not below zero"
    assert found.to_dict()["action_mae"]["interval"][0] == 0.0
    compared = differences({"zero": dataclasses.replace(found, estimate=found.baselines[ZERO]), "run": found})
    assert compared["run"]["ratio"] == pytest.approx(30 / 28)
    assert f"{compared['run']['interval'][0]:.2f}, {compared['run']['interval'][1]:.2f}]" in words


def test_several_policies_are_compared_episode_by_episode() -> None:
    zero = [1.0, 4.0, 2.0, 8.0]
    first = errors_of([0.5, 2.0, 1.0, 4.0], zero)
    better = errors_of([0.4, 1.6, 0.81, 3.2], zero)
    other_steps = errors_of([0.4, 1.6, 0.81, 3.2], zero, steps=10)
    other_action = errors_of([0.4, 1.6, 0.81, 3.2], zero, action="command")
    tables = {"a": first, "b": better, "c": other_steps, "d": first, "e": other_action}
    found = differences(tables)
    assert [name for name, one in found.items() if one["comparable"]] == ["b", "d"]
    assert found["b"]["difference"] == pytest.approx(-0.3725) and found["b"]["ratio"] == pytest.approx(6.01 / 7.5)
    # The episodes differ by more than the policies, which pairing removes.
    low, high = found["b"]["interval"]
    assert 0.79 < low < high < 0.81
    rows = {line.split()[0]: line for line in printed(comparison_table(tables)).splitlines()[2:]}
    assert "better" in rows["b"] and "not significantly different" in rows["d"]
    assert "not comparable: the policies predict other numbers of steps" in rows["c"]
    assert "not comparable: the policies predict command and action" in rows["e"]


def test_the_legend_explains_the_baselines_of_every_policy() -> None:
    one = errors_of([1.0, 2.0], [1.0, 2.0])
    other = dataclasses.replace(one, baselines={HOLD: one.estimate}, undefined={})
    without = dataclasses.replace(one, undefined={HOLD: "the action is not a position"})
    words = legend({"a": without, "b": other})
    assert "hold position repeats the state; zero is 0." in words
    assert "For a there is no hold position: the action is not a position." in words
    assert " There is no hold position: " in legend({"a": without})


def test_policies_with_other_chunks_predict_other_steps(tmp_path: Path) -> None:
    table = reaching(3, 11)
    found = evaluate_dataset(saved_policy(table, tmp_path / "policy"), table)
    assert found.steps == (sum(len(range(t, min(t + CHUNK, 11))) for t in range(0, 11, STEPS)),) * 3
    assert found.action_feature == "action"


def test_the_command_prints_dimensions_and_the_verdict(tmp_path: Path) -> None:
    table = reaching(6, 30)
    named = dataclasses.replace(
        table, features={**table.features, "action": {**vector(3), "names": ["pan", "lift", "grip"]}}
    )
    data = write_v21(named, tmp_path / "data")
    run = saved_policy(table, tmp_path / "run")
    (run / "recipe.yaml").write_text(yaml.safe_dump({"dataset": str(data), "eval_episodes": "1,4"}))
    shown = hf_ptr("evaluate", run, "--dataset", data, "--episodes", "1,4", "--json", tmp_path / "r.json")
    assert shown.returncode == 0, shown.stderr
    words = " ".join(shown.stdout.split())
    assert "lift" in words and "run: predicted actions are" in words and "was trained on" not in words
    assert words.startswith("run: predicted actions are"), "the verdict comes first"
    assert f"Next: hf-ptr evaluate {run} OTHER_RUN --dataset {data} --episodes 1,4 # compare with another run" in words
    found = json.loads((tmp_path / "r.json").read_text())["arms"]["run"]
    training = table.select([0, 2, 3, 5])
    mean = np.broadcast_to(training.feature("action").mean(axis=0), table.feature("action").shape)
    expected = by_hand(table, mean)[[1, 4]].mean()
    assert found["baselines"]["mean_action"]["mae"]["mean"] == pytest.approx(expected, rel=1e-5)
    seen = hf_ptr("evaluate", run, "--dataset", data, "--episodes", "0:3", "--skip-episodes", "1")
    assert "run was trained on 2 of these episodes (0,2), so its error is too small" in seen.stdout
    twin = saved_policy(table, tmp_path / "twin")
    both = hf_ptr("evaluate", run, twin, "--dataset", data, "--episodes", "1,4", "--json", tmp_path / "r.json")
    assert "Compared with run, episode by episode" in both.stdout
    compared = json.loads((tmp_path / "r.json").read_text())
    assert compared["differences"]["to"] == "run"
    means = [compared["arms"][name]["action_mae"]["mean"] for name in ("run", "twin")]
    assert compared["differences"]["twin"]["difference"] == pytest.approx(means[1] - means[0])
    assert "none" in the_line(hf_ptr("evaluate", tmp_path / "none", "--dataset", data))
    assert "leave it out with --env" in the_line(hf_ptr("evaluate", run, "--env", "metaworld", "--skip-episodes", "1"))


@pytest.mark.parametrize("damages", [{1: 0}, {0: 0, 2: 300, 5: 0}], ids=["one", "several"])
def test_every_episode_with_an_unusable_video_is_named(damages: dict[int, int], tmp_path: Path) -> None:
    camera = "observation.images.front"
    data = write_v21(with_cameras(reaching(6, 12), camera), tmp_path / "data")
    policy, processor = policy_from_dataset(
        read_dataset(data), observation_features=[camera], size="tiny", chunk_size=4, n_action_steps=4
    )
    for part in (policy, processor):
        part.save_pretrained(tmp_path / "policy")
    for episode, kept in damages.items():
        video = data / f"videos/chunk-000/{camera}/episode_{episode:06d}.mp4"
        video.write_bytes(video.read_bytes()[:kept])
    (data / f"videos/chunk-000/{camera}/episode_{min(damages):06d}.mp4").unlink()
    command = ["evaluate", tmp_path / "policy", "--dataset", data, "--skip-episodes"]
    line = the_line(hf_ptr(*command, "3"))
    advice = ",".join(map(str, sorted({*damages, 3})))
    assert line.endswith(f"(--skip-episodes {advice})") and "leave the episode out" in line
    assert hf_ptr(*command, advice).returncode == 0


def test_an_unknown_choice_of_belief_is_a_line_with_the_option(tmp_path: Path) -> None:
    line = the_line(hf_ptr("evaluate", tmp_path, "--dataset", tmp_path, "--belief", "none"))
    assert "--belief" in line and "'trained', 'carried', 'reset'" in line
    assert [str(choice) for choice in Belief] == list(BELIEF)


def test_an_interrupted_run_is_called_one(tmp_path: Path) -> None:
    data, run = write_v21(reaching(3, 12), tmp_path / "data"), tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("dataset: data\n")
    for options in (["--dataset", data], ["--env", "metaworld"]):
        line = the_line(hf_ptr("evaluate", run, *options))
        assert line == f"hf-ptr: the run {run} was interrupted; rerun hf-ptr train to finish it"
    for step in (20, 100):
        (run / f"checkpoint-{step}").mkdir()
        (run / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (run / "checkpoint-120").mkdir()
    line = the_line(hf_ptr("evaluate", run, "--dataset", data))
    assert line.endswith(f"was interrupted; rerun hf-ptr train to finish it, or pass {run / 'checkpoint-100'}")


def test_training_episodes_of_a_recipe(tmp_path: Path) -> None:
    def of(**recipe: object) -> set[int]:
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        return trained_episodes(tmp_path, "data", range(6))

    assert of(dataset="a/data", eval_episodes="1", skip_episodes=[2]) == {0, 3, 4, 5}
    assert of(dataset="a/data", episodes="0:3", skip_episodes="0") == {1, 2}
    assert of(dataset="a/other", episodes="0:3") == set()
    assert of(sources=[{"dataset": "b/data@v1", "episodes": "4:6"}, {"dataset": "c"}]) == {4, 5}
