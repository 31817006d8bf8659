"""Mixtures of several robots: slots, shares, units, frame rates and ids."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from data_helpers import coded_table, vector, with_camera, write_v21
from torch.utils.data import DataLoader

from hf_ptr.data.chunks import ChunkDataset
from hf_ptr.data.corruption import corrupt
from hf_ptr.data.episodes import EpisodeTable
from hf_ptr.data.lerobot.reader import read_dataset
from hf_ptr.data.mixture.dataset import MixtureDataset
from hf_ptr.data.mixture.resampling import resampled
from hf_ptr.data.mixture.robots import robot_of
from hf_ptr.data.mixture.sources import SourceSpec, make_source
from hf_ptr.data.samplers import SegmentBatches
from hf_ptr.data.score_file import write_scores
from hf_ptr.embodiment import SLOTS, WIDTH, UnifiedActionSpace
from hf_ptr.errors import InputError
from hf_ptr.functional import source_shift
from hf_ptr.ptr import CandidatePool, Candidates
from hf_ptr.utils.atomic_files import write_json

FR3, SAWYER = "fr3", "metaworld_sawyer"
CAMERA = "observation.images.top"
SAWYER_SLOTS = [*SLOTS["right_eef_position"], *SLOTS["right_gripper"]]


def table_of(lengths: list[int], width: int, source: str, tasks: int = 2, fps: float = 20.0) -> EpisodeTable:
    """Random state and action of a given width; the first dimension encodes episode and frame."""
    base = coded_table(lengths, tasks=tasks, source=source)
    random = np.random.default_rng(width)
    columns = {
        name: random.normal(size=(base.num_frames, width)).astype(np.float32)
        for name in ("observation.state", "action")
    }
    for column in columns.values():
        column[:, 0] = 100 * base.episode_of_row + base.frame_index
    features = {name: vector(width) for name in columns}
    return dataclasses.replace(base, columns=columns, features=features, fps=fps)


def source_of(table: EpisodeTable, embodiment: str, **settings: Any) -> Any:
    spec = SourceSpec.parse({"dataset": "x", "embodiment": embodiment, "statistics": "joint", **settings}, 0)
    return make_source(spec, table, table.source, state_feature="observation.state", action_feature="action")


def mixture(weights: tuple[float, float] = (1.0, 1.0), **settings: Any) -> MixtureDataset:
    first = source_of(table_of([9, 14, 6], 13, "fr3", tasks=3), FR3, weight=weights[0])
    second = source_of(table_of([20, 5], 4, "sawyer"), SAWYER, weight=weights[1], target_offset=2)
    sizes = {"chunk_size": 4, "chunk_stride": 4, "segment_chunks": 2, "target_offset": 3, **settings}
    return MixtureDataset([first, second], **sizes)


def test_every_chunk_is_the_sources_own_in_its_slots() -> None:
    mixed = mixture()
    assert len(mixed) == 29 + 25 and mixed.source_names == ("fr3", "sawyer")
    batch = mixed.batch(torch.randperm(len(mixed)).tolist())
    assert batch["actions"].shape == (54, 4, WIDTH) and batch["state"].shape == (54, WIDTH)
    slots = {
        0: [*SLOTS["right_arm"], *SLOTS["right_hand"]],
        1: [*SLOTS["right_eef_position"], *SLOTS["right_gripper"]],
    }
    for number, part in enumerate(mixed.parts):
        mine = batch["source_index"] == number
        assert int(mine.sum()) == len(part)
        rows = (batch["index"][mine] - number * 2**42).tolist()
        own = part.batch(rows)
        for mask in ("action_dim_mask", "state_dim_mask"):
            assert torch.equal(batch[mask][mine][0].nonzero().squeeze(1), torch.tensor(sorted(slots[number])))
            assert (batch[mask][mine] == batch[mask][mine][0]).all()
        assert torch.equal(batch["actions"][mine][..., slots[number]], own["actions"])
        assert torch.equal(batch["state"][mine][:, slots[number]], own["state"])
        assert torch.equal(batch["next_observation"][mine][:, slots[number]], own["next_observation"])
        assert not batch["actions"][mine][..., ~batch["action_dim_mask"][mine][0]].any()
        for key in ("action_mask", "has_target", "target_offset"):
            assert torch.equal(batch[key][mine], own[key])
        names = [mixed.tasks[i] for i in batch["task_index"][mine]]
        assert names == [part.tasks[i] for i in own["task_index"]]
    assert mixed.tasks == ("do task 0", "do task 1", "do task 2")


def test_the_target_offset_is_the_sources_own_and_has_no_target_after_the_end() -> None:
    mixed = mixture()
    batch = mixed.batch(range(len(mixed)))
    assert batch["target_offset"].tolist() == [3] * 29 + [2] * 25
    lengths = [9, 14, 6, 20, 5]
    expected = [f + d < n for n, d in zip(lengths, (3, 3, 3, 2, 2), strict=True) for f in range(n)]
    assert batch["has_target"].tolist() == expected
    assert (batch["target_index"] >= 0).tolist() == expected


def test_ids_of_two_sources_are_distinct() -> None:
    batch = mixture().batch(range(54))
    for key in ("index", "episode_index"):
        ids = [set(batch[key][batch["source_index"] == number].tolist()) for number in (0, 1)]
        assert not ids[0] & ids[1]
    assert set(batch["previous_index"].tolist()) <= {-1, *batch["index"].tolist()}
    assert set(batch["target_index"].tolist()) <= {-1, *batch["index"].tolist()}


@pytest.mark.parametrize("workers", [0, 2])
def test_the_default_collate_function_gives_the_same_batches(workers: int) -> None:
    mixed = mixture()
    found = list(DataLoader(mixed, batch_size=20, num_workers=workers))
    for first, batch in zip((0, 20, 40), found, strict=True):
        wanted = mixed.batch(range(first, min(first + 20, 54)))
        assert batch.keys() == wanted.keys()
        for key, values in wanted.items():
            assert torch.equal(batch[key], values) and batch[key].dtype == values.dtype, key


@pytest.mark.parametrize(("weights", "counts"), [((1, 1), [27, 27]), ((3, 1), [41, 13]), ((1, 99), [1, 53])])
def test_an_epoch_holds_the_sources_by_their_weights(weights: tuple[float, float], counts: list[int]) -> None:
    mixed = mixture(weights)
    assert mixed.epoch_chunks == counts and mixed.shares.sum() == pytest.approx(1.0)
    batches = SegmentBatches(mixed, 6, seed=3)
    rows = [row for batch in batches for row in batch]
    assert len(rows) == len(mixed) and len(list(batches)) == len(batches)
    drawn = [sum(row < 29 for row in rows), sum(row >= 29 for row in rows)]
    assert drawn == counts
    # No chunk occurs three times before all others occur once.
    for part, low in ((0, 0), (1, 29)):
        times = np.bincount([row - low for row in rows if (row >= 29) == part], minlength=len(mixed.parts[part]))
        if counts[part] >= len(mixed.parts[part]):
            assert times.min() >= counts[part] // len(mixed.parts[part])
        assert times.max() <= -(-counts[part] // len(mixed.parts[part]))


def test_the_order_depends_on_seed_and_epoch_and_can_be_resumed_anywhere() -> None:
    mixed = mixture((2, 1))

    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = SegmentBatches(mixed, 5, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(1, 4) == order(1, 4)
    assert order(1, 4) != order(1, 5) and order(1, 4) != order(2, 4)
    ranks = [SegmentBatches(mixed, 5, seed=1, rank=rank, ranks=2) for rank in (0, 1)]
    walked = [list(rank) for rank in ranks]
    assert len(walked[0]) == len(walked[1]) == len(ranks[0])
    rows = [row for rank in walked for batch in rank for row in batch]
    # One epoch divided among ranks without overlap.
    everything = [row for batch in SegmentBatches(mixed, 10, seed=1) for row in batch]
    assert sorted(rows) == sorted(everything[: len(rows)])


def test_a_segment_continues_from_batch_to_batch() -> None:
    mixed = mixture()
    followed = 0
    before: dict[int, int] = {}
    for batch in SegmentBatches(mixed, 6, seed=0):
        chunks = mixed.batch(batch)
        for line, (index, previous) in enumerate(
            zip(chunks["index"].tolist(), chunks["previous_index"].tolist(), strict=True)
        ):
            if previous >= 0 and before.get(line) == previous:
                followed += 1
            before[line] = index
    second = int((mixed.batch(range(54))["previous_index"] >= 0).sum())
    # Segments cut by the fold or by the weights start anew.
    assert followed >= second * 0.7


def test_samples_carry_their_source_for_the_shift_of_weights() -> None:
    mixed = mixture()
    batch = mixed.batch(range(54))
    names = [mixed.source_names[i] for i in batch["source_index"]]
    weight = torch.where(batch["source_index"] == 1, 2.0, 1.0)
    shift = source_shift(weight, names)
    assert shift["sawyer"] / shift["fr3"] == pytest.approx(2.0)


def test_sources_have_their_own_units_and_get_them_back() -> None:
    table = table_of([30, 20], 4, "sawyer")
    table.columns["action"][:] = table.columns["action"] * 5 + 3
    own = source_of(table, SAWYER, statistics="own")
    mixed = MixtureDataset([own], chunk_size=4)
    values = mixed.parts[0].action
    np.testing.assert_allclose(values.mean(dim=0), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(dim=0, correction=0), 1, atol=1e-5)
    raw = torch.from_numpy(table.columns["action"])
    unified = own.robot.unified(raw, "action")
    assert torch.equal(unified[:, SAWYER_SLOTS], values)
    torch.testing.assert_close(own.robot.separate(unified), raw, rtol=1e-5, atol=1e-4)
    stats = mixed.normalization("action")
    np.testing.assert_allclose(stats["mean"], 0, atol=1e-5)
    np.testing.assert_allclose(stats["std"][SAWYER_SLOTS], 1, atol=1e-5)
    described = mixed.to_dict()[0]
    np.testing.assert_allclose(described["action"]["mean"], table.columns["action"].mean(axis=0), rtol=1e-5)


def test_joint_statistics_are_those_of_the_weighted_sources_that_have_a_slot() -> None:
    mixed = mixture((3, 1))
    stats = mixed.normalization("state")
    arm = mixed.parts[0].state[:, :7].double().numpy()
    np.testing.assert_allclose(stats["mean"][50:57], arm.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(stats["std"][50:57], arm.std(axis=0), rtol=1e-4)
    assert (stats["mean"][100:] == 0).all() and (stats["std"][100:] == 1).all()
    twice = MixtureDataset(
        [source_of(table_of([10], 4, name, fps=20.0), SAWYER, weight=w) for name, w in (("a", 1), ("b", 3))],
        chunk_size=4,
    )
    tables = [part.state.double().numpy() for part in twice.parts]
    mean = (tables[0].mean(axis=0) + 3 * tables[1].mean(axis=0)) / 4
    np.testing.assert_allclose(twice.normalization("state")["mean"][:3], mean[:3], rtol=1e-5)


def with_scene(table: Any, width: int) -> Any:
    scene = np.random.default_rng(table.num_frames).normal(2.0, 3.0, (table.num_frames, width)).astype(np.float32)
    features = {**table.features, "observation.scene": vector(width)}
    return dataclasses.replace(table, columns={**table.columns, "observation.scene": scene}, features=features)


def test_vectors_that_all_robots_observe_are_given_as_they_are() -> None:
    tables = [with_scene(table_of([9, 6], 13, "fr3"), 5), with_scene(table_of([20], 4, "sawyer"), 5)]
    sources = [
        source_of(table, robot, weight=weight, statistics="own")
        for table, robot, weight in zip(tables, (FR3, SAWYER), (3, 1), strict=True)
    ]
    mixed = MixtureDataset(sources, chunk_size=4, target_offset=2, observation_features=["observation.scene"])
    batch = mixed.batch([1, 14, 15, 34])
    scenes = [table.columns["observation.scene"] for table in tables]
    np.testing.assert_array_equal(
        batch["observation"].numpy(), [scenes[0][1], scenes[0][14], scenes[1][0], scenes[1][19]]
    )
    np.testing.assert_array_equal(batch["next_observation"][[0, 2]].numpy(), [scenes[0][3], scenes[1][2]])
    assert batch["state"].shape == (4, 200)
    means = [scene.astype(np.float64).mean(axis=0) for scene in scenes]
    found = mixed.normalization("observation")
    np.testing.assert_allclose(found["mean"], 0.75 * means[0] + 0.25 * means[1], rtol=1e-5)
    assert found["std"].shape == (5,)
    other = source_of(with_scene(table_of([20], 4, "narrow"), 4), SAWYER)
    with pytest.raises(InputError, match=r"5 dimensions in source fr3 and 4 in narrow"):
        MixtureDataset([sources[0], other], chunk_size=4, observation_features=["observation.scene"])


# --- names and frame rates ---


def test_features_have_the_names_of_the_mixture_and_images_come_from_their_own_files(tmp_path: Path) -> None:
    lengths = [9, 12]
    sources = []
    for camera, state in (
        ("observation.images.top", "observation.state"),
        ("observation.images.eye", "observation.pose"),
    ):
        table = table_of(lengths, 4, camera)
        columns = {state: table.columns["observation.state"], "action": table.columns["action"]}
        table = dataclasses.replace(table, columns=columns, features={name: vector(4) for name in columns})
        folder = write_v21(with_camera(table, camera), tmp_path / camera)
        names = {"observation.images.front": camera, "observation.state": state}
        sources.append(source_of(read_dataset(folder), SAWYER, features=names))
    mixed = MixtureDataset(
        sources, chunk_size=3, target_offset=2, observation_features=["observation.images.front"], image_size=(16, 24)
    )
    rows = [0, 8, 9, 21, 29, 41]
    batch = mixed.batch(rows)
    assert batch["observation"].shape == (6, 1, 16, 24, 3) and batch["observation"].dtype == torch.uint8
    shade = batch["observation"][:, 0, :, :, 1].float().mean(dim=(1, 2))
    frames = [0, 8, 0, 0, 8, 11]
    assert shade.tolist() == pytest.approx([20 + 15 * frame for frame in frames], abs=4)
    assert batch["source_index"].tolist() == [0, 0, 0, 1, 1, 1]
    with pytest.raises(InputError, match=r"has no feature 'observation.images.tpo'.*Did you mean"):
        source_of(read_dataset(tmp_path / "observation.images.top"), SAWYER, features={"a": "observation.images.tpo"})


def test_a_slower_rate_takes_the_nearest_frames() -> None:
    table = table_of([21, 10], 4, "sawyer", fps=20.0)
    slow = resampled(table, 10.0)
    assert slow.fps == 10 and slow.video_fps == 20 and slow.lengths.tolist() == [10, 5]
    assert slow.columns["action"][:, 0].tolist() == [*range(0, 20, 2), *range(100, 110, 2)]
    assert slow.video_frame.tolist() == [*range(0, 20, 2), *range(0, 10, 2)]
    assert slow.frame_id.tolist() == [*range(0, 20, 2), *range(21, 31, 2)]
    assert resampled(table, 20.0) is table


def test_a_faster_rate_repeats_frames_under_new_ids() -> None:
    fast = resampled(table_of([4, 3], 4, "sawyer", fps=20.0), 50.0)
    assert fast.lengths.tolist() == [10, 8]
    assert len(np.unique(fast.frame_id)) == 18 and sorted(fast.frame_id)[:7] == list(range(7))
    frames = np.minimum(np.round(np.arange(10) * 0.4), 3)
    assert fast.columns["observation.state"][:10, 0].tolist() == frames.tolist()


@pytest.mark.parametrize("fps", [5.0, 10.0, 30.0, 80.0])
def test_displacements_are_preserved_at_any_rate(fps: float) -> None:
    table = table_of([40, 20], 4, "sawyer", fps=20.0)
    table.columns["action"][:] = 0.5
    other = resampled(table, fps, actions="displacements")
    np.testing.assert_allclose(other.columns["action"], 0.5 * 20 / fps, rtol=1e-5)
    table = table_of([40, 20], 4, "sawyer", fps=20.0)
    other = resampled(table, fps, actions="displacements")
    for before, after in (
        (slice(0, 40), slice(0, int(other.lengths[0]))),
        (slice(40, 60), slice(int(other.lengths[0]), None)),
    ):
        np.testing.assert_allclose(
            other.columns["action"][after].sum(axis=0),
            table.columns["action"][before].sum(axis=0),
            rtol=1e-4,
            atol=1e-4,
        )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("data", "source 2 is 'data'; it must be a mapping"),
        ({"dataset": "x"}, "source 2 has no embodiment; add 'embodiment"),
        ({"dataset": "x", "embodiment": "fr3", "wieght": 2}, r"unknown key 'wieght'\. Did you mean 'weight'\?"),
        ({"dataset": "x", "embodiment": "fr3", "weight": 0}, "weight is 0; it must be positive"),
        ({"dataset": "x", "embodiment": "fr3", "weight": "much"}, "weight is 'much', not a number"),
        ({"dataset": "x", "embodiment": "fr3", "statistics": "mine"}, "must be one of own, joint"),
        ({"dataset": "x", "embodiment": "fr3", "actions": "speeds"}, "must be one of positions, displacements"),
        ({"dataset": "x", "embodiment": "fr3", "features": ["a"]}, "it must map names"),
    ],
)
def test_a_wrong_source_is_one_line(content: Any, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        SourceSpec.parse(content, 2)
    assert "\n" not in str(caught.value)


def test_wrong_mixtures_are_one_line() -> None:
    with pytest.raises(InputError, match="has 4 dimensions, but the state of fr3 has 13; choose another embodiment"):
        source_of(table_of([9], 4, "sawyer"), FR3)
    with pytest.raises(InputError, match="no embodiment 'fr4'"):
        source_of(table_of([9], 4, "sawyer"), "fr4")
    one = source_of(table_of([9], 4, "sawyer"), SAWYER)
    with pytest.raises(InputError, match="two sources are named 'sawyer'"):
        MixtureDataset([one, one], chunk_size=4)
    with pytest.raises(InputError, match="needs at least one source"):
        MixtureDataset([])
    with pytest.raises(InputError, match="fps is 0"):
        resampled(one.table, 0)


# --- repeated frames ---


def test_a_repeated_frame_is_not_a_negative_of_itself() -> None:
    fast = resampled(table_of([6, 4], 4, "sawyer", fps=20.0), 50.0)
    chunks = ChunkDataset(fast, chunk_size=2, chunk_stride=2, target_offset=1)
    batch = chunks.batch(range(len(chunks)))
    valid = batch["has_target"]
    # The first dimension encodes the recorded frame.
    shown = batch["next_observation"][:, 0]
    assert torch.equal(
        (batch["target_index"][:, None] == batch["target_index"])[valid][:, valid],
        (shown[:, None] == shown)[valid][:, valid],
    )
    assert len(batch["index"].unique()) == len(chunks) > len(batch["target_index"].unique())
    pool = CandidatePool(queue_size=64, queue_negatives=64)
    candidates = Candidates(
        target=torch.nn.functional.normalize(batch["next_observation"], dim=1),
        target_id=batch["target_index"],
        task=batch["task_index"],
        state=batch["state"],
        valid=valid,
    )
    pool.push(candidates)
    negatives, usable = pool.negatives(candidates, candidates)
    same = (negatives[None] - candidates.target[:, None]).abs().amax(dim=2) < 1e-6
    assert usable[valid].any() and not (usable & same)[valid].any()


def test_a_pause_is_frames_of_its_own_at_any_rate() -> None:
    paused, truth = corrupt(table_of([30, 20, 25], 4, "sawyer", fps=20.0), "hesitation", 0, severity=0.25)
    assert truth.any.any()
    fast = resampled(paused, 50.0)
    assert len(np.unique(fast.frame_id)) == fast.num_frames
    assert set(fast.observed_id) <= set(paused.frame_id) and len(np.unique(paused.observed_id)) == paused.num_frames


@pytest.mark.parametrize("fps", [7.0, 10.0, 20.0, 50.0])
def test_images_are_those_of_the_resampled_frames(tmp_path: Path, fps: float) -> None:
    folder = write_v21(with_camera(table_of([9, 14], 4, "sawyer"), CAMERA), tmp_path / "v21")
    table = resampled(read_dataset(folder), fps)
    chunks = ChunkDataset(table, chunk_size=1, target_offset=1, observation_features=[CAMERA], image_size=16)
    batch = chunks.batch(range(len(chunks)))
    recorded = batch["state"][:, 0] % 100
    shades = batch["observation"][:, 0, :, :, 1].float().mean(dim=(1, 2))
    assert shades.tolist() == pytest.approx((20 + 15 * recorded).tolist(), abs=4)
    ends = np.cumsum(table.lengths) - 1
    assert not batch["has_target"][ends].any() and int(batch["has_target"].sum()) == table.num_frames - 2
    following = batch["next_observation"][:, 0, :, :, 1].float().mean(dim=(1, 2))[batch["has_target"]]
    later = [frame for frame, last in zip(recorded[1:].tolist(), batch["has_target"].tolist(), strict=False) if last]
    assert following.tolist() == pytest.approx([20 + 15 * frame for frame in later], abs=4)


@pytest.mark.parametrize("settings", [{"fps": 0}, {"fps": -5.0}, {"target_offset": 0}, {"min_std": -1.0}])
def test_an_invalid_number_of_a_source_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"fps is|target_offset is 0|min_std is -1"):
        MixtureDataset([source_of(table_of([9], 4, "s"), SAWYER, **{"statistics": "own", **settings})], chunk_size=2)


# --- faults, held-out episodes and score files of a source ---


def test_faults_are_planted_in_the_source_that_sets_them() -> None:
    table = table_of([20] * 10, 4, "sawyer")
    clean, faulty = (
        source_of(table, SAWYER, corruption=name, corruption_seed=3, statistics="own") for name in ("clean", "foreign")
    )
    assert not clean.truth.faults and faulty.truth.any.sum() == 3
    changed = np.repeat(faulty.truth.any, 20)
    raw = [source.robot.separate(_packed(source, "action")).numpy() for source in (clean, faulty)]
    differs = np.abs(raw[0] - raw[1]).max(axis=1) > 1e-3
    assert not differs[~changed].any() and differs[changed].mean() > 0.9
    with pytest.raises(InputError, match=r"unknown corruption recipe 'foreing'.*Did you mean 'foreign'"):
        source_of(table, SAWYER, corruption="foreing")


def _packed(source: Any, kind: str) -> torch.Tensor:
    feature = {"action": "action", "state": "observation.state"}[kind]
    return UnifiedActionSpace().unify(torch.from_numpy(source.table.feature(feature)), source.robot.embodiment, kind)


def test_held_out_episodes_are_as_recorded_and_in_the_units_of_the_others() -> None:
    table = table_of([20, 15, 18, 12], 4, "sawyer", fps=20.0)
    spec = SourceSpec.parse({"dataset": "x", "embodiment": SAWYER, "corruption": "ani-severe", "fps": 10.0}, 0)
    source = make_source(spec, table.select([0, 1, 2]), "s", held_out=table.select([3]))
    held_out = source.held_out
    assert held_out is not None and held_out.fps == 10 and held_out.lengths.tolist() == [6]
    scale = source.robot.scale["action"]
    np.testing.assert_allclose(
        held_out.feature("action") * scale["std"] + scale["mean"], table.select([3]).feature("action")[::2], atol=1e-4
    )


def test_a_weight_stays_with_its_frame_at_any_rate(tmp_path: Path) -> None:
    table = table_of([6, 5], 4, "sawyer", fps=20.0)
    weight = np.linspace(0.5, 3.0, 11)
    # The order of a score file may differ from that of the frames.
    shuffled = np.random.default_rng(0).permutation(11)
    write_scores(pd.DataFrame({"index": shuffled, "weight": weight[shuffled]}), tmp_path / "scores.parquet")
    spec = {"dataset": "x", "embodiment": SAWYER, "statistics": "joint"}
    sources = [
        make_source(SourceSpec.parse({**spec, "fps": fps}, 0), table, name, weight_file=tmp_path / "scores.parquet")
        for fps, name in ((50.0, "fast"), (7.0, "slow"), (20.0, "same"))
    ]
    for source in sources:
        recorded = source.table.feature("action")[:, 0]
        rows = np.where(recorded < 100, recorded, recorded - 100 + 6).astype(int)
        assert source.weights is not None
        np.testing.assert_allclose(source.weights, weight[rows])
    other = source_of(table_of([9], 13, "fr3"), FR3)
    mixed = MixtureDataset([other, *sources], chunk_size=2, target_offset=1)
    batch = mixed.batch(range(len(mixed)))
    assert mixed.weights is not None and torch.equal(batch["weight"], mixed.weights)
    assert (batch["weight"][:9] == 1).all() and batch["weight"].dtype == torch.float32
    assert torch.equal(mixed.batch([0, 1])["weight"], torch.ones(2))
    assert "weight" not in mixture().batch([0])


def test_a_robot_is_restored_from_the_folder_of_a_run(tmp_path: Path) -> None:
    sources = [source_of(table_of([9, 7], 4, "s"), SAWYER, statistics="own", fps=10.0, actions="displacements"),
               source_of(table_of([9], 13, "fr3"), FR3)]  # fmt: skip
    write_json([source.to_dict() for source in sources], tmp_path / "mixture.json")
    (tmp_path / "checkpoint-5").mkdir()
    robot = robot_of(tmp_path / "checkpoint-5", "s")
    assert robot is not None and robot.to_dict() == sources[0].robot.to_dict()
    raw = torch.randn(5, 3, 4)
    assert torch.allclose(robot.separate(robot.unified(raw, "action")), raw, atol=1e-5)
    assert robot_of(tmp_path, None, ("nothing", "fr3")).name == "fr3"  # type: ignore[union-attr]
    assert robot_of(tmp_path / "checkpoint-5" / "x", None) is None
    for name, message in (
        (None, "choose one with --source: s, fr3"),
        ("fr4", "has no source 'fr4'. Did you mean 'fr3'"),
    ):
        with pytest.raises(InputError, match=message):
            robot_of(tmp_path, name)
    with pytest.raises(InputError, match="was not trained on a mixture and has no source 's'; remove --source"):
        robot_of(tmp_path / "checkpoint-5" / "x", "s")
    good = json.loads((tmp_path / "mixture.json").read_text())
    spoilt = (
        {"state": {"mean": [0], "std": [1]}}, {"action": {"mean": [0] * 4, "std": [0] * 4}}, {"parts": {"state": 3}},
    )  # fmt: skip
    for broken in ("{", "[]x", [1], [{}], *([{**good[0], **change}] for change in spoilt)):
        (tmp_path / "mixture.json").write_text(broken if isinstance(broken, str) else json.dumps(broken))
        with pytest.raises(InputError, match=r"mixture\.json is damaged"):
            robot_of(tmp_path, "s")


def test_units_known_to_a_policy_are_kept_for_the_same_robot_only(tmp_path: Path) -> None:
    known = source_of(table_of([9], 13, "arm"), FR3, statistics="own").robot
    table = table_of([14], 13, "arm")
    table.columns["action"] += 5.0
    spec = SourceSpec.parse({"dataset": "x", "embodiment": FR3}, 0)
    kept = make_source(spec, table, "arm", known=known)
    assert kept.robot.scale is known.scale
    raw = kept.robot.separate(_packed(kept, "action"))
    np.testing.assert_allclose(raw, table.columns["action"], rtol=1e-4, atol=1e-4)
    (tmp_path / "other.yaml").write_text("state: [right_hand, right_arm]\naction: [right_hand, right_arm]\n")
    with pytest.raises(InputError, match="source arm: the policy knows it as a fr3; choose another name"):
        make_source(dataclasses.replace(spec, embodiment=str(tmp_path / "other.yaml")), table, "arm", known=known)
